"""How a frame, its header and a run's context lie in memory: bytes for any target, read and written alike.

    frame - H            saved state: a C struct of the declared fields
          - 32  u64      inner: frame of the callee that an exit came through, 0 if it left here itself
          - 24  u32      op: position of the operation at which the run left this frame
          - 20  u32      code: trap code
          - 16  u32      depth: calls that may still be nested below this frame
          - 12  u32      outer: 1 in the frame that run() entered
          -  8  ptr      context
    frame +  0           slot 0, slot 8, …

The context is one for each run, twelve words: kind, frame, value, fuel, raised, budget, quantum, pending,
pending_value, clock, user, outermost (stencils/cnp.h says what each is for).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import astuple, dataclass

from cnp.errors import OperandError
from cnp.library import Library
from cnp.stencil import StateField

CONTEXT_FIELDS = (
    "kind", "frame", "value", "fuel", "raised", "budget", "quantum", "pending", "pending_value", "clock", "user", "outermost",
)  # fmt: skip
CONTEXT = "QQQqQqqQQQQQ"
CONTEXT_SIZE = 8 * len(CONTEXT_FIELDS)
HEADER_FIELDS = ("inner", "op", "code", "depth", "outer", "context")
HEADER = "QIIIIQ"
HEADER_SIZE = 32
HEADER_DEPTH = 16  #: where `depth` lies in it
KINDS = ("return", "exit", "trap")
TRAPS = {
    0: "none", 1: "unreachable", 2: "division by zero", 3: "overflow", 4: "out of bounds", 5: "call depth",
    6: "out of fuel", 7: "interrupted", 8: "helper raised", 9: "bad conversion", 10: "bad indirect target",
}  # fmt: skip
FORMATS = {"i8": "b", "u8": "B", "i16": "h", "u16": "H", "i32": "i", "u32": "I", "i64": "q", "u64": "Q",
           "f32": "f", "float": "f", "f64": "d", "double": "d"}  # fmt: skip
FUEL_START = 256


def order(library: Library) -> str:
    """The byte order of a target as struct spells it."""
    return "<" if library.target.byteorder == "little" else ">"


def format_of(field: StateField, byteorder: str) -> str:
    return byteorder + FORMATS.get(field.ctype, {1: "B", 2: "H", 4: "I", 8: "Q"}[field.size])


def pack_state(library: Library, values: Mapping[str, int | float]) -> bytes:
    """The saved state struct; fields that are not given are zero. OperandError for a name or value that has no place."""
    data = bytearray(library.state_size)
    fields = {field.name: field for field in library.state}
    for name, value in values.items():
        if name not in fields:
            known = ", ".join(fields)
            raise OperandError(
                f"the state has no {name!r}; it has {known}", op="", operand=name, value=value, allowed=known
            )
        field = fields[name]
        kind = format_of(field, order(library))
        wraps = kind[1] == "Q" and isinstance(value, int) and -(1 << 63) <= value < 0
        number = value + (1 << 64) if wraps else value
        try:
            struct.pack_into(kind, data, field.offset, number)
        except (struct.error, OverflowError) as error:
            message = f"state field {name} ({field.ctype}) cannot hold {value!r}"
            raise OperandError(message, op="", operand=name, value=value, allowed=field.ctype) from error
    return bytes(data)


def unpack_state(library: Library, data: bytes | memoryview) -> dict[str, int | float]:
    """The fields of a saved state struct."""
    return {
        f.name: struct.unpack_from(format_of(f, order(library)), data, f.offset)[0] for f in library.state
    }


def pack_header(library: Library, state: bytes, depth: int, context: int, outer: int = 1) -> bytes:
    """The bytes below slot 0 of a frame that is about to be entered: `library.header_size` of them."""
    gap = library.header_size - HEADER_SIZE - len(state)
    return state + bytes(gap) + struct.pack(order(library) + HEADER, 0, 0, 0, depth, outer, context)


def pack_context(library: Library, fuel: int | None = None, user: int = 0) -> bytes:
    """A fresh context. fuel: polls that the run may make in all, None for no limit."""
    first = FUEL_START if fuel is None else min(fuel, FUEL_START)
    budget = -1 if fuel is None else fuel - first
    return struct.pack(order(library) + CONTEXT, 0, 0, 0, first, 0, budget, FUEL_START, 0, 0, 0, user, 0)


def pack_pending(library: Library, context: Mapping[str, int]) -> bytes:
    """The context after a return, ready for the caller: its call operation takes the value instead of calling."""
    values = {**context, "pending": 1, "pending_value": context["value"]}
    return struct.pack(order(library) + CONTEXT, *(values[name] for name in CONTEXT_FIELDS))


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a frame after a run. inner: address of the frame that an exit came through, 0 for none."""

    state: dict[str, int | float]
    inner: int
    op: int
    code: int
    depth: int
    outer: int
    context: int


def unpack_header(library: Library, data: bytes | memoryview) -> Header:
    """Read the `header_size` bytes below slot 0."""
    state = unpack_state(library, data)
    return Header(
        state, *struct.unpack_from(order(library) + HEADER, data, library.header_size - HEADER_SIZE)
    )


def unpack_context(library: Library, data: bytes | memoryview) -> dict[str, int]:
    """Read a context."""
    return dict(zip(CONTEXT_FIELDS, struct.unpack_from(order(library) + CONTEXT, data), strict=True))


def result_of(library: Library, word: int) -> int | float:
    """The value of a return as its C type says; the bare word where the vocabulary names no result."""
    ctype = next((field.ctype for field in library.state if field.name == library.result), "u64")
    kind = FORMATS.get(ctype, "Q")
    size = struct.calcsize("<" + kind)
    return struct.unpack("<" + kind, struct.pack("<Q", word)[:size])[0]  # type: ignore[no-any-return]


class FrameImage:
    """The bytes of one run's memory: context, header, slots, as they lie at `address` (slot 0) of some machine.

    view: those bytes, from the context's first one on. `image[offset]` is the word at a slot's offset, unsigned.
    """

    def __init__(self, library: Library, slots: int, address: int, view: memoryview) -> None:
        self.library, self.size, self.address, self.view = library, slots, address, view
        self.start = library.header_size + CONTEXT_SIZE
        self.context = address - self.start

    def _at(self, offset: int, size: int) -> int:
        if not 0 <= offset <= self.size - size:
            message = f"the frame has {self.size} bytes; none of {size} at {offset}"
            raise OperandError(message, op="", operand="slot", value=offset, allowed=(0, self.size - size))
        return self.start + offset

    def __getitem__(self, offset: int) -> int:
        return int.from_bytes(self.read(offset, 8), self.library.target.byteorder)  # type: ignore[arg-type]

    def __setitem__(self, offset: int, value: int) -> None:
        if not -(1 << 63) <= value < 1 << 64:
            allowed = (-(1 << 63), (1 << 64) - 1)
            raise OperandError(
                f"{value} does not fit a slot", op="", operand="slot", value=value, allowed=allowed
            )
        self.write(offset, (value & (1 << 64) - 1).to_bytes(8, self.library.target.byteorder))  # type: ignore[arg-type]

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of slots."""
        at = self._at(offset, size)
        return bytes(self.view[at : at + size])

    def write(self, offset: int, data: bytes) -> None:
        """Set bytes of slots."""
        at = self._at(offset, len(data))
        self.view[at : at + len(data)] = data

    def header(self, distance: int = 0) -> Header:
        """The header of the frame that begins `distance` bytes behind this one."""
        at = self.start + distance
        return unpack_header(self.library, self.view[at - self.library.header_size : at])

    def limit_depth(self, distance: int, depth: int) -> None:
        """Let at most `depth` calls be nested below the frame that begins `distance` bytes behind this one."""
        at = self.start + distance - HEADER_SIZE + HEADER_DEPTH
        least = min(depth, self.header(distance).depth)
        self.view[at : at + 4] = least.to_bytes(4, self.library.target.byteorder)  # type: ignore[arg-type]

    def set_header(self, data: bytes) -> None:
        self.view[self.start - len(data) : self.start] = data

    def get_context(self) -> dict[str, int]:
        return unpack_context(self.library, self.view[:CONTEXT_SIZE])

    def set_context(self, data: bytes) -> None:
        self.view[:CONTEXT_SIZE] = data


@dataclass(frozen=True, slots=True)
class Needs:
    """What runs of a program take. step: bytes from a frame to the deepest callee's frame it can make (0: no calls).

    largest: bytes of the largest frame. native: bytes of native stack that one nested call takes at most.
    """

    step: int
    largest: int
    native: int

    def with_those_of(self, other: Needs) -> Needs:
        """What runs take that may call each other's functions."""
        return Needs(*map(max, zip(astuple(self), astuple(other), strict=True)))

    def covers(self, other: Needs) -> bool:
        """Whether nothing is lacking where functions of the other one are called."""
        return self.with_those_of(other) == self

    def frame_bytes(self, first: int, depth: int) -> int:
        """Slots needed for a frame of `first` bytes with `depth` nested calls."""
        return max(first, self.step * depth + self.largest) if self.step else first

    def depth_in(self, slots: int, stack: int, depth: int) -> int:
        """How deep calls may nest in so many bytes of slots and of native stack."""
        if not self.step:
            return depth
        return max(0, min(depth, (slots - self.largest) // self.step, stack // self.native))
