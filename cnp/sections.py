"""Data of a program: bytes in the target's byte order, and the addresses in them that are filled in by linking.

asm.rodata    beside the code, behind constants, literals and tables     never changes
asm.data      beside the cells                                            may be written while code runs

primes = asm.rodata.here("primes")
asm.rodata.u32(2, 3, 5, 7)
asm.rodata.address(loop, primes + 4)     8 bytes each
asm.rodata.relative(loop, done)          4 bytes each, from the first of them
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from cnp.errors import LabelError, OperandError
from cnp.operands import DataLabel, Place, name_of
from cnp.target import Field, Formula, checked

if TYPE_CHECKING:
    from cnp.program import Program

Buffer = bytes | bytearray | memoryview
RODATA, DATA = "rodata", "data"
MOST_ALIGN = 4096  #: bytes

#: What a fix-up may hold: by (its size, whether it is relative).
FIELDS = {
    (4, False): Field(4, Formula.ABSOLUTE, ((0, 32, 0),), -(1 << 31), (1 << 32) - 1),
    (8, False): Field(8, Formula.ABSOLUTE, ((0, 64, 0),)),
    (4, True): Field(4, Formula.RELATIVE, ((0, 32, 0),), -(1 << 31), (1 << 31) - 1),
    (8, True): Field(8, Formula.RELATIVE, ((0, 64, 0),)),
}


class Fix(NamedTuple):
    """An address in data. offset: from the start of the section; size: 4 or 8 bytes. to: it is relative to this place;
    None: it is absolute."""

    offset: int
    size: int
    place: Place
    to: Place | None


@dataclass(eq=False)
class Section:
    """The contents of a data section. align: of its start, in bytes."""

    data: bytearray = field(default_factory=bytearray)
    fixes: list[Fix] = field(default_factory=list)
    align: int = 8

    @property
    def room(self) -> int:
        """Bytes that it takes at most, wherever it begins."""
        return len(self.data) + self.align - 1 if self.data else 0


class Data:
    """Appends to a section of a program. own: refuses places of other programs and programs that are closed."""

    def __init__(self, program: Program, name: str, own: Callable[[object], None]) -> None:
        self.name = name
        self._labels, self._section, self._own = program.labels, program.sections[name], own
        self._order = program.library.target.byteorder
        self._mark = "<" if self._order == "little" else ">"

    def __len__(self) -> int:
        """Bytes so far."""
        return len(self._section.data)

    # ---- labels

    def label(self, name: str = "") -> DataLabel:
        """A new label, not yet bound."""
        return DataLabel(name or f"{self.name} label", self._labels)

    def bind(self, label: DataLabel) -> DataLabel:
        """Bind a label to the next byte. LabelError: it is bound already or of another program."""
        if not isinstance(label, DataLabel):
            message = f"{self.name}: {label!r} is no label of data"
            raise OperandError(message, op=self.name, operand="label", value=label, allowed="a label of data")
        self._own(label)
        if label.offset is not None:
            raise LabelError(f"label {label.name!r} is bound already, in {label.section}", label=label.name)
        label.section, label.offset = self.name, len(self)
        return label

    def here(self, name: str = "") -> DataLabel:
        """A label bound to the next byte."""
        return self.bind(self.label(name or f"{self.name}+{len(self)}"))

    # ---- contents

    def bytes(self, data: Buffer) -> None:
        """Bytes as they are."""
        self._own(None)
        try:
            self._section.data += data
        except TypeError as error:
            message = f"{self.name}: {error}"
            raise OperandError(message, op=self.name, operand="bytes", value=data, allowed="bytes") from None

    def string(self, text: str, end: Buffer = b"\0", encoding: str = "utf-8") -> None:
        """A text with what marks its end."""
        if not isinstance(text, str):
            message = f"{self.name}: {text!r} is no text"
            raise OperandError(message, op=self.name, operand="string", value=text, allowed="a text")
        self.bytes(text.encode(encoding))
        self.bytes(end)

    def space(self, size: int, fill: int = 0) -> None:
        """`size` bytes of `fill`."""
        if not isinstance(size, int) or size < 0 or fill not in range(256):
            allowed = "0 or more bytes of 0 … 255"
            message = f"{self.name}: a space of {size} bytes of {fill}; allowed {allowed}"
            raise OperandError(message, op=self.name, operand="space", value=(size, fill), allowed=allowed)
        self.bytes(bytes([fill]) * size)

    def align(self, alignment: int) -> None:
        """Zeros up to a multiple of `alignment` bytes, a power of two up to MOST_ALIGN."""
        check_alignment(self.name, alignment)
        self.space(-len(self) % alignment)
        self._section.align = max(self._section.align, alignment)

    def u8(self, *values: int) -> None:
        self._numbers("B", values)

    def i8(self, *values: int) -> None:
        self._numbers("b", values)

    def u16(self, *values: int) -> None:
        self._numbers("H", values)

    def i16(self, *values: int) -> None:
        self._numbers("h", values)

    def u32(self, *values: int) -> None:
        self._numbers("I", values)

    def i32(self, *values: int) -> None:
        self._numbers("i", values)

    def u64(self, *values: int) -> None:
        self._numbers("Q", values)

    def i64(self, *values: int) -> None:
        self._numbers("q", values)

    def f32(self, *values: float) -> None:
        self._numbers("f", values)

    def f64(self, *values: float) -> None:
        self._numbers("d", values)

    def _numbers(self, letter: str, values: tuple[float, ...]) -> None:
        """Numbers one behind the other, as they come: `align` first where that matters. OperandError: one does not
        fit; nothing is appended then."""
        packed = struct.Struct(self._mark + letter)
        data = bytearray()
        for value in values:
            try:
                data += packed.pack(value)
            except (struct.error, OverflowError) as error:
                message = f"{self.name}: {value!r} is no number of {packed.size} bytes: {error}"
                raise OperandError(
                    message, op=self.name, operand=letter, value=value, allowed=str(error)
                ) from None
        self.bytes(data)

    # ---- addresses

    def address(self, *places: Place, size: int = 8) -> None:
        """Addresses of labels, cells, symbols and places in data, `size` (4 or 8) bytes each. One that does not fit is a
        RangeError when the program is linked."""
        self._append(places, size, None)

    def relative(self, *places: Place, to: Place | None = None, size: int = 4) -> None:
        """Distances from `to` to some places; from the first of these words if that is not said."""
        self._append(places, size, to or self.here())

    def _append(self, places: tuple[Place, ...], size: int, to: Place | None) -> None:
        if size not in (4, 8):
            message = f"{self.name}: addresses of {size} bytes; allowed are 4 and 8"
            raise OperandError(message, op=self.name, operand="size", value=size, allowed=(4, 8))
        for place in (*places, *([to] if to else [])):
            if not isinstance(place, Place):
                message = f"{self.name}: {place!r} has no address"
                raise OperandError(message, op=self.name, operand="place", value=place, allowed="a place")
            self._own(place)
        for place in places:
            self._section.fixes.append(Fix(len(self), size, place, to))
            self.space(size)


def check_alignment(op: str, alignment: int) -> None:
    """OperandError for what is no power of two from 1 to MOST_ALIGN."""
    whole = isinstance(alignment, int)
    if not whole or not 0 < alignment <= MOST_ALIGN or alignment & alignment - 1:
        message = f"{op}: aligned to {alignment} bytes; allowed are powers of two up to {MOST_ALIGN}"
        raise OperandError(message, op=op, operand="align", value=alignment, allowed=(1, MOST_ALIGN))


def filled(section: Section, number: Callable[[Place], int], order: str) -> bytes:
    """The bytes of a section. number: address of a place. RangeError: an address does not fit."""
    data = bytearray(section.data)
    for offset, size, place, to in section.fixes:
        value = number(place) - (number(to) if to else 0)
        if size == 8 and to:
            value = (value + (1 << 63)) % (1 << 64) - (1 << 63)  # addresses are numbers modulo 2^64
        fld = FIELDS[size, to is not None]
        facts = {"op": "data", "index": -1, "hole": offset, "field": f"{8 * size} bits"}
        checked(fld, value, **facts, symbol=name_of(place), at=None)
        fld.write(data, offset, value, order)
    return bytes(data)
