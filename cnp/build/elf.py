"""Objects as clang writes them: sections, symbols and relocations of an ELF64 file, each table unpacked in one go.

There are several of each for a stencil, and ten thousands of stencils in a build.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

MAGIC = b"\x7fELF\x02"  #: of 64 bits
MARKS = {b"\x01": "<", b"\x02": ">"}  #: the byte behind it: the byte order
SECTION, SYMBOL, RELOCATION = "2I4Q2I2Q", "I2BH2Q", "2Qq"
COMPOSED = "QI4Bq"  #: a relocation with a symbol, another one, and three types, the first one last
SYMBOLS, WITH_ADDENDS, EMPTY, PLAIN = 2, 4, 8, 9  #: kinds of sections; plain: relocations without addends
ALLOCATED = 0x2  #: flag of sections that a program has in memory
LOCAL = 0  #: binding of a symbol that no other object sees
SPECIAL = 0xFF00  #: section numbers from here on are none


class Section(NamedTuple):
    """A section. link: the section that belongs to it; info: the one that its relocations change; entry: bytes of one entry,
    if all are alike."""

    name: str
    kind: int
    allocated: bool
    data: bytes
    size: int
    link: int
    info: int
    align: int
    entry: int


class Symbol(NamedTuple):
    """section: its number, 0 for none. seen: by other objects."""

    name: str
    section: int
    value: int
    seen: bool


class Relocation(NamedTuple):
    """kind: the types of a composed one as bytes of one number, the first one lowest."""

    offset: int
    symbol: Symbol
    kind: int
    addend: int


class Object:
    """An object file. composed: its relocations have three types each. ValueError: it is no file of this kind."""

    def __init__(self, image: bytes, composed: bool) -> None:
        if image[:5] != MAGIC or image[5:6] not in MARKS:
            raise ValueError("it is no ELF file of 64 bits")
        self.mark, self.composed = MARKS[image[5:6]], composed
        (self.machine,) = struct.unpack_from(f"{self.mark}H", image, 18)
        (start,) = struct.unpack_from(f"{self.mark}Q", image, 40)
        size, count, names = struct.unpack_from(f"{self.mark}3H", image, 58)
        row = struct.Struct(self.mark + SECTION)
        first = row.unpack_from(image, start)
        count, names = count or first[5], first[6] if names >= SPECIAL else names  # there if they are many
        rows = list(row.iter_unpack(image[start : start + count * size]))
        strings = image[rows[names][4] :][: rows[names][5]]
        self.sections = [
            Section(text(strings, name), kind, bool(flags & ALLOCATED),
                    b"" if kind == EMPTY else image[place : place + length], length, link, info, align, entry)
            for name, kind, flags, _, place, length, link, info, align, entry in rows
        ]  # fmt: skip

    @cached_property
    def symbols(self) -> dict[int, list[Symbol]]:
        """The symbol tables by section number."""
        row = struct.Struct(self.mark + SYMBOL)
        found = {}
        for number, section in enumerate(self.sections):
            if section.kind == SYMBOLS:
                names = self.sections[section.link].data
                found[number] = [
                    Symbol(text(names, name), place if place < SPECIAL else 0, value, info >> 4 != LOCAL)
                    for name, info, _, place, value, _ in row.iter_unpack(section.data)
                ]
        return found

    def relocations(self) -> Iterator[tuple[Section, list[Relocation] | None]]:
        """The sections that have relocations, with these; None where they are without addends."""
        row = struct.Struct(self.mark + (COMPOSED if self.composed else RELOCATION))
        for section in self.sections:
            if section.kind == PLAIN:
                yield self.sections[section.info], None
            elif section.kind == WITH_ADDENDS:
                symbols, entries = self.symbols[section.link], row.iter_unpack(section.data)
                if self.composed:
                    found = [
                        Relocation(offset, symbols[number], first | second << 8 | third << 16, addend)
                        for offset, number, _, third, second, first, addend in entries
                    ]
                else:
                    found = [
                        Relocation(offset, symbols[info >> 32], info & 0xFFFFFFFF, addend)
                        for offset, info, addend in entries
                    ]
                yield self.sections[section.info], found


def text(strings: bytes, start: int) -> str:
    """A string of a string table."""
    return strings[start : strings.index(0, start)].decode()
