"""Program + base address -> image: by the core where it has the whole program, else as cnp/patch.py does. The bytes are
the same."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

from cnp import patch
from cnp.emit import CELL
from cnp.errors import RangeError
from cnp.operands import Cell, Place
from cnp.patch import ADDRESSES, DATA_ALIGN, Image, Resolver, check_base, resolve
from cnp.plan import BASE_ALIGN, align
from cnp.program import Program
from cnp.records import Records
from cnp.sections import DATA, RODATA, filled

BLOCK = struct.Struct("@2Iq")  #: `struct cnp_block`

Item = TypeVar("Item")


def size_bound(program: Program) -> tuple[int, int]:
    """Bytes of code and data that an image of this program needs at most, wherever it lies."""
    records = program.in_core()
    if records is None:
        return patch.size_bound(program)
    program.check()
    return records.bounds


def encode(
    program: Program, base: int, data_base: int | None = None, imports: Resolver | None = None
) -> Image:
    """Link a program for a base address: arguments and errors as of `patch.encode`."""
    records = program.in_core()
    if records is None:
        return patch.encode(program, base, data_base, imports)
    program.check()
    bound, data_bound = records.bounds
    if data_base is None:
        data_base = (base + bound + DATA_ALIGN - 1) & -DATA_ALIGN
    check_base("base", base, bound, BASE_ALIGN)
    check_base("data_base", data_base, data_bound, 8)
    addresses = resolve(dict.fromkeys(records.batch.needed()), imports or {})
    try:
        with records.alone():
            return linked(program, records, base, data_base, addresses)
    except RangeError as error:
        error.evidence["at"] = records.sources.get(error.index)
        raise


def linked(program: Program, records: Records, base: int, data_base: int, addresses: dict[str, int]) -> Image:
    """The image of a planned program."""
    batch, late = records.batch, records.things.late()
    size = batch.settle(base, data_base, addresses)
    places = {cell: batch.cell_place(number) for number, cell in enumerate(records.things.cells)}
    used = {cell: data_base + place for cell, place in places.items() if place >= 0}
    offsets = batch.offset_array()
    image = layout(program, base, base + size, data_base, offsets, used, addresses)
    if late:
        known = {place: image.address(place) for place in late}
        if not all(0 <= address < ADDRESSES for address in known.values()):
            return patch.encode(program, base, data_base, addresses)  # whose numbers have no end
        size = batch.settle(base, data_base, addresses | known)  # which moves nothing: no jump goes there
    cells = bytearray(8 * len(used))
    code = batch.written(size, cells)
    image.code = code + rodata(program, image, size)
    image.data = data(program, image, cells)
    image.ranges = Ranges(offsets, batch.odd_blocks())
    image.symbols = {name: image.address(place) for name, place in program.symbols()}
    image.cells = dict(cells_of(records, used))
    image.routines = batch.routines()
    return image


def layout(
    program: Program,
    base: int,
    end: int,
    data_base: int,
    offsets: array[int],
    cells: dict[Cell, int],
    imports: dict[str, int],
) -> Image:
    """An image that knows where everything lies, and nothing else yet. end: of the code; offsets: of the operations, and of the
    end."""
    sections = program.sections
    first = align(end, sections[RODATA].align) if sections[RODATA].data else end
    second = align(data_base + 8 * len(cells), sections[DATA].align)
    starts = {RODATA: first, DATA: second}
    return Image(base, b"", data_base, b"", Offsets(offsets), (), {}, {}, {}, cells, imports, starts)


# ---- what the core leaves to do


def rodata(program: Program, image: Image, size: int) -> bytes:
    """What follows on so many bytes of code: traps up to the section, and that."""
    trap, gap = program.library.target.trap, image.sections[RODATA] - image.base - size
    phase = size % len(trap)
    traps = (trap * ((phase + gap) // len(trap) + 1))[phase : phase + gap]
    return traps + contents(program, image, RODATA)


def data(program: Program, image: Image, cells: bytearray) -> bytes:
    """The cells, with the addresses that some hold at first, then zeros up to the section, and that."""
    order: Any = program.library.target.byteorder
    for cell, address in image.cell_places.items():
        if isinstance(cell.initial, Place):
            start = address - image.data_base
            cells[start : start + 8] = (image.address(cell.initial) % ADDRESSES).to_bytes(8, order)
    section = contents(program, image, DATA)
    gap = image.sections[DATA] - image.data_base - len(cells) if section else 0
    return bytes(cells) + bytes(gap) + section


def contents(program: Program, image: Image, name: str) -> bytes:
    """The bytes of a section."""
    section = program.sections[name]
    return filled(section, image.address, program.library.target.byteorder) if section.data else b""


def cells_of(records: Records, addresses: dict[Cell, int]) -> Iterator[tuple[int, dict[str, int]]]:
    """The cells of each operation that has some, by the name of the operand."""
    for position, op in records.select(kinds=[CELL]) if addresses else ():
        named = zip(op.operation.operands, op.values, strict=True)
        yield position, {o.name: addresses[value] for o, value in named if isinstance(value, Cell)}


# ---- what would be long as lists


class Compact(Sequence[Item]):
    """A sequence that is made of few bytes; equal to any other with the same items."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(equal, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))


def equal(a: object, b: object) -> bool:
    return a == b


class Offsets(Compact[int]):
    """Where each operation begins. given: also where the last one ends."""

    def __init__(self, given: array[int]) -> None:
        self._given = given

    def __len__(self) -> int:
        return len(self._given) - 1

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> list[int]: ...
    def __getitem__(self, place: int | slice) -> int | list[int]:
        if isinstance(place, slice):
            return [self._given[number] for number in range(len(self))[place]]
        return self._given[range(len(self))[place]]


class Ranges(Compact[tuple[int, int, int]]):
    """Start, end and operation of each block, in the order of addresses: a list as soon as somebody looks.

    offsets: where each operation begins, and where the last one ends; a hot block is from there to the next. odd: the
    blocks of which that is not true.
    """

    def __init__(self, offsets: array[int], odd: bytes) -> None:
        self._offsets, self._odd = offsets, odd
        self._list: list[tuple[int, int, int]] | None = None

    def _made(self) -> list[tuple[int, int, int]]:
        if self._list is None:
            odd = list(BLOCK.iter_unpack(self._odd))
            starts = self._offsets
            hot = {start: (end, op) for start, end, op in odd if op >= 0 and starts[op] == start}
            found = [(start, *hot.get(start, (starts[op + 1], op))) for op, start in enumerate(starts[:-1])]
            found += [item for item in odd if item[2] < 0 or starts[item[2]] != item[0]]
            self._list = sorted(item for item in found if item[0] < item[1])
        return self._list

    def __len__(self) -> int:
        return len(self._made())

    @overload
    def __getitem__(self, place: int) -> tuple[int, int, int]: ...
    @overload
    def __getitem__(self, place: slice) -> list[tuple[int, int, int]]: ...
    def __getitem__(self, place: int | slice) -> tuple[int, int, int] | list[tuple[int, int, int]]:
        return self._made()[place]
