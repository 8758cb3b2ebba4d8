"""The edge between Python and cnp._core: everything that generated code and Python need from each other.

cnp._core is compiled C. Where it is missing (`available` is False, `reason` says why) the same functions
exist in pure Python, with these differences: a callable is slow (microseconds), releases the GIL and
estimates the native stack; forks made in C are not counted; instruction caches can be flushed only on
machines that need no flush. CNP_PURE=1 in the environment asks for pure Python.

Who holds the GIL: run() releases it while generated code runs; a callable keeps it, and polls let other
threads run. Python helpers take it for themselves, so they may be called from either.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from cnp._backend import Arguments, Backend, Failed, Helper, arguments, check_cell, closure
from cnp.errors import RangeError
from cnp.signature import parse_signature

POLL = "cnp_poll"  #: the import by which generated code asks whether to go on


class CoreBackend:
    """The compiled core."""

    def __init__(self, core: Any) -> None:
        self.ffi = core.ffi
        self._lib = lib = core.lib
        table: dict[str, Any] = {}
        main = threading.main_thread().ident or 0
        if lib.cnp_install(id(table), main):  # id() is the address: CPython only, see _import_core
            raise ImportError("cnp._core could not be set up")
        self.keep_exception: Callable[[BaseException], None] = table["keep_exception"]
        self.take_exception: Callable[[], BaseException | None] = table["take_exception"]
        self._make_callable: Callable[..., Callable[..., Any]] = table["make_callable"]
        self.make_recorded: Callable[[bytes, Callable[..., int], object], Callable[..., int]] = table[
            "make_recorded"
        ]
        self.run: Callable[[int, int, int], None] = lib.cnp_run
        self.current_context: Callable[[], int] = lib.cnp_context
        self.flush: Callable[[int, int], None] = lib.cnp_flush
        self.fork_count: Callable[[], int] = lib.cnp_fork_count
        self.stack_left: Callable[[], int] = lib.cnp_stack_left
        self.cell_load: Callable[[int, int], int] = lib.cnp_cell_load
        self.cell_store: Callable[[int, int, int], int] = lib.cnp_cell_store
        self.cell_add: Callable[[int, int, int], int] = lib.cnp_cell_add
        self.cell_compare_exchange: Callable[[int, int, int, int], int] = lib.cnp_cell_compare_exchange

    def poll_address(self) -> int:
        return int(self.ffi.cast("uintptr_t", self.ffi.addressof(self._lib, "cnp_poll")))

    def make_callable(
        self, enter: int, code: int, given: Arguments, header_size: int, state: bytes, *rest: object
    ) -> Callable[..., Any]:
        types, places = given.packed
        return self._make_callable(enter, code, types, header_size, state, places, *rest)


def _import_core() -> tuple[Any, str]:
    """The compiled module and "", or None and why it is not used."""
    if os.environ.get("CNP_PURE") == "1":
        return None, "CNP_PURE=1 asks for pure Python"
    if sys.implementation.name != "cpython":
        return None, f"cnp._core is for CPython, this is {sys.implementation.name}"
    try:
        return importlib.import_module("cnp._core"), ""
    except ImportError as error:
        return None, str(error)


core_module, why_not = _import_core()


def _choose() -> tuple[Backend, str]:
    if core_module is not None:
        return CoreBackend(core_module), ""
    from cnp._pure import PureBackend  # not needed beside the core

    return PureBackend(), why_not


_backend, reason = _choose()

#: Whether cnp._core is in use; if not, `reason` says why.
available: bool = not reason


def run(enter: int, frame: int, code: int) -> None:
    """Call an image's C ABI routine `enter(frame, code)`; how it ended is in the frame's context.

    frame: address of slot 0, its header filled in by the caller. Runs may be nested. Releases the GIL.
    """
    _backend.run(enter, frame, code)


def poll_address() -> int:
    """Address of `u64 cnp_poll(void *context)`, which generated code calls when its fuel has run out."""
    return _backend.poll_address()


def current_context() -> int:
    """Address of the context of this thread's innermost run, 0 outside of one."""
    return _backend.current_context()


def python_helper(signature: str, fn: Callable[..., object]) -> Helper:
    """A Python callable as a C function that generated code can call by its address, in any thread.

    Pointers are integers to `fn`. If it raises, or what it returns does not fit, then the caller gets 0, the
    exception is kept for this thread (take_exception()), and `raised` of the current context becomes 8, with
    which the calling operation traps. SignatureError. MemoryFault (field call): the system forbids memory
    that is writable and executable, of which libffi makes closures (PR_SET_MDWE, SELinux).
    """
    parsed = parse_signature(signature)
    callback = closure(_backend.ffi, parsed, fn, None if parsed.result == "v" else 0, _keep)
    return Helper(int(_backend.ffi.cast("uintptr_t", callback)), callback)


def _keep(kind: object, exception: BaseException, traceback: TracebackType | None) -> None:
    _backend.keep_exception(exception.with_traceback(traceback))


def take_exception() -> BaseException | None:
    """The exception that a helper or a signal handler left in this thread, once; None: there is none."""
    return _backend.take_exception()


def make_callable(
    *,
    enter: int,
    code: int,
    signature: str,
    header_size: int,
    state: bytes,
    frame_bytes: int,
    depth: int,
    name: str,
    doc: str,
    failed: Failed,
    keepalive: object,
    places: Sequence[int] | None = None,
) -> Callable[..., Any]:
    """A built-in function that runs generated code: f(2, 3) for "int64_t(int64_t, int64_t)".

    header_size, state   bytes H of a frame's header; the state that every call starts with
    frame_bytes          headers and slots of the outermost frame and of all that may be nested in it
    depth                calls that may be nested; less if this thread's native stack is too small for them

    places               where the arguments go, in bytes from slot 0: slots, or words of the state, which lie below;
                         None: 0, 8, 16 …

    What no argument is written to is the state, and undefined in slots; the result is the run's value. The call
    keeps the GIL. OverflowError, TypeError: as Python's own functions. RecursionError: no native stack is
    left. When the code leaves by an exit or a trap, `failed` is called and raises. ValueError,
    SignatureError: a wrong argument of this function. `keepalive` lives as long as the callable.
    """
    given = arguments(signature, None if places is None else tuple(places))
    return _backend.make_callable(
        enter, code, given, header_size, state, frame_bytes, depth, name, doc, failed, keepalive
    )


def make_recorded(which: bytes, slow: Callable[..., int], owner: object) -> Callable[..., int]:
    """An operation of an assembler as a built-in function (cnp/_record.c): only where the core is there.

    which: the bytes of a `struct recorded`. slow: called with the same operands where C does not know what to do.
    owner: lives as long as the function.
    """
    assert isinstance(_backend, CoreBackend)
    return _backend.make_recorded(which, slow, owner)


def flush(address: int, size: int) -> None:
    """Make code written to `size` bytes at `address` visible to instruction fetch.

    StateError: this machine needs it and cnp._core is missing.
    """
    _backend.flush(address, size)


def fork_count() -> int:
    """Forks of this process and those it comes from, in Python or C; negative while one is under way."""
    return _backend.fork_count()


def stack_left() -> int:
    """Bytes left on the native stack of this thread (in pure Python a careful estimate)."""
    return _backend.stack_left()


def _word(address: int, width: int, value: int) -> int:
    """`value` as an unsigned number of `width` bytes (two's complement); checks the cell too."""
    check_cell(address, width)
    low, high = -(1 << (8 * width - 1)), (1 << 8 * width) - 1
    if not low <= value <= high:
        raise RangeError(
            f"{value} does not fit a cell of {width} bytes", value=value, low=low, high=high, align=1
        )
    return value & high


def cell_load(address: int, width: int) -> int:
    """The unsigned number in an aligned cell of 1, 2, 4 or 8 bytes.

    This and the following accesses are atomic and sequentially consistent (in pure Python: loads and stores
    are single accesses of the machine, the others are whole only among themselves).
    OperandError: width. RangeError: misaligned, or a value that does not fit.
    """
    check_cell(address, width)
    return _backend.cell_load(address, width)


def cell_store(address: int, width: int, value: int) -> int:
    """Store a signed or unsigned number; returns what the cell held before."""
    return _backend.cell_store(address, width, _word(address, width, value))


def cell_add(address: int, width: int, value: int) -> int:
    """Add, modulo 2^(8 width); returns what the cell held before."""
    return _backend.cell_add(address, width, _word(address, width, value))


def cell_compare_exchange(address: int, width: int, expected: int, desired: int) -> int:
    """Store `desired` if the cell holds `expected`; returns what it held before, unsigned."""
    old, new = _word(address, width, expected), _word(address, width, desired)
    return _backend.cell_compare_exchange(address, width, old, new)
