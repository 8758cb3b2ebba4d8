"""What the two backends of cnp/native.py, the compiled core and cnp/_pure.py, have in common."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from cnp.errors import MemoryFault, OperandError, RangeError
from cnp.signature import Signature, parse_signature

#: Fails a callable: (kind, trap code, address of the frame, index of the operation). It should raise; what it
#: returns instead becomes the result of the call.
Failed = Callable[[int, int, int, int], object]

CELL_WIDTHS = (1, 2, 4, 8)


class Helper(NamedTuple):
    """A Python callable as a C function: alive as long as `keepalive` is."""

    address: int
    keepalive: object


class Arguments(NamedTuple):
    """The arguments of a callable: their types, and where they go, in bytes from slot 0. packed: both as C has them."""

    signature: Signature
    places: tuple[int, ...]
    packed: tuple[bytes, bytes]


@lru_cache(maxsize=1024)
def arguments(signature: str, places: tuple[int, ...] | None) -> Arguments:
    """places: None: 0, 8, 16 … SignatureError."""
    parsed = parse_signature(signature)
    where = tuple(range(0, 8 * len(parsed.arguments), 8)) if places is None else places
    types = (parsed.result + parsed.arguments).encode()
    return Arguments(parsed, where, (types, struct.pack(f"={len(where)}q", *where)))


class Backend(Protocol):
    """What the compiled core and the pure fall-back have in common."""

    ffi: Any

    def run(self, enter: int, frame: int, code: int) -> None: ...
    def poll_address(self) -> int: ...
    def current_context(self) -> int: ...
    def keep_exception(self, exception: BaseException) -> None: ...
    def take_exception(self) -> BaseException | None: ...
    def make_callable(
        self, enter: int, code: int, given: Arguments, header_size: int, state: bytes, frame_bytes: int, depth: int,
        name: str, doc: str, failed: Failed, keepalive: object, /,
    ) -> Callable[..., Any]: ...  # fmt: skip
    def flush(self, address: int, size: int) -> None: ...
    def fork_count(self) -> int: ...
    def stack_left(self) -> int: ...
    # Cells: the address and the width are checked, values are unsigned; the result is the old value.
    def cell_load(self, address: int, width: int) -> int: ...
    def cell_store(self, address: int, width: int, value: int) -> int: ...
    def cell_add(self, address: int, width: int, value: int) -> int: ...
    def cell_compare_exchange(self, address: int, width: int, expected: int, desired: int) -> int: ...


def check_cell(address: int, width: int) -> None:
    """OperandError: the width is none of 1, 2, 4, 8. RangeError: the address is not a multiple of it."""
    if width not in CELL_WIDTHS:
        raise OperandError(f"a cell has 1, 2, 4 or 8 bytes, not {width}", value=width, allowed=CELL_WIDTHS)
    if address % width:
        message = f"cell at {address:#x}: not a multiple of {width}"
        raise RangeError(message, value=address, low=0, high=(1 << 64) - 1, align=width)


def closure(
    ffi: Any, signature: Signature, fn: Callable[..., object], error: int | None, raised: Callable[..., None]
) -> Any:
    """A C function of `signature` that calls `fn`; where that raises, `raised` is called, `error` returned.

    MemoryFault (field call): the system forbids memory that is writable and executable: libffi needs it.
    """
    try:
        return ffi.callback(signature.c, fn, error, raised)
    except MemoryError as fault:
        message = f"calls into Python need a libffi closure, which the system refuses: {fault}"
        raise MemoryFault(message, call="ffi.callback", errno=None, size=None) from fault
