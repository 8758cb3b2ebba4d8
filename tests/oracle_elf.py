"""An object file with other symbols: each section's own copy of every outside symbol, with a value.

The builder's object names a hole `cnp.0` in each of its stencils. For a judge that links all stencils at once each of
them needs values of its own, so the symbol table is written anew: what was undefined, or is a routine, becomes
absolute, once for each section that names it. Code, relocations and addends stay as they are.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

ABSOLUTE = 0xFFF1
GLOBAL, WEAK = 1 << 4, 2 << 4
SYMBOL_SIZE = 24
MIPS = "EM_MIPS"

Values = Mapping[tuple[str, str], int]  #: (section, symbol) -> value


@cache
def parsed(image: bytes) -> tuple[Any, tuple[Any, ...]]:
    """An object and its sections, read once."""
    elf = ELFFile(io.BytesIO(image))
    return elf, tuple(elf.iter_sections())


Reference = tuple[
    str, str, int
]  #: section; symbol, or a routine by its section; place of its number in the file


@cache
def references(image: bytes) -> tuple[Reference, ...]:
    """Each relocation of an object against what lies elsewhere: undefined symbols and other sections' routines."""
    elf, sections = parsed(image)
    # r_info is symbol << 32 | type; MIPS n64 stores the symbol first in both byte orders
    place = 8 if elf["e_machine"] == MIPS or not elf.little_endian else 12
    table = next(s for s in sections if isinstance(s, SymbolTableSection))
    symbols = list(table.iter_symbols())
    found = []
    for section in sections:
        if isinstance(section, RelocationSection):
            name = sections[section["sh_info"]].name
            for number, raw in enumerate(section.iter_relocations()):
                symbol = symbols[raw["r_info_sym"]]
                index = symbol["st_shndx"]
                home = sections[index].name if isinstance(index, int) else ""
                routine = (
                    home.startswith(".text.") and home != name and symbol["st_info"]["type"] != "STT_SECTION"
                )
                if symbol.name and (index == "SHN_UNDEF" or routine):
                    called = home.removeprefix(".text.") if routine else symbol.name
                    at = section["sh_offset"] + number * section["sh_entsize"] + place
                    found.append((name, called, at))
    return tuple(found)


def outside(image: bytes) -> set[tuple[str, str]]:
    """(section, symbol) of what each section names that lies elsewhere."""
    return {(section, symbol) for section, symbol, _ in references(image)}


def bind(image: bytes, values: Values) -> bytes:
    """The object with outside symbols bound, in the sections that `values` names."""
    elf, sections = parsed(image)
    out, order = bytearray(image), "<" if elf.little_endian else ">"
    table = next(s for s in sections if isinstance(s, SymbolTableSection))
    numbers = {key: table.num_symbols() + number for number, key in enumerate(values)}
    extra = b"".join(
        struct.pack(order + "IBBHQQ", 0, GLOBAL, 0, ABSOLUTE, value & (1 << 64) - 1, 0)
        for value in values.values()
    )
    for section, symbol, place in references(image):
        if (section, symbol) in numbers:
            struct.pack_into(order + "I", out, place, numbers[section, symbol])
    return bytes(name_symbols(out, image, table, extra, order))


def name_symbols(
    out: bytearray, image: bytes, table: SymbolTableSection, extra: bytes, order: str
) -> bytearray:
    """Append the longer symbol table and its names; the old undefined symbols become weak ones that nothing names."""
    elf, sections = parsed(image)
    old = bytearray(out[table["sh_offset"] : table["sh_offset"] + table["sh_size"]])
    for number, symbol in enumerate(table.iter_symbols()):
        if number and symbol["st_shndx"] == "SHN_UNDEF":
            old[number * SYMBOL_SIZE + 4] = WEAK
    new = bytearray(old + extra)
    strings = bytearray(sections[table["sh_link"]].data())
    for number in range(table.num_symbols(), len(new) // SYMBOL_SIZE):
        struct.pack_into(order + "I", new, number * SYMBOL_SIZE, len(strings))
        strings += f"judge.{number}\0".encode()
    for index, data in ((table["sh_link"], strings), (sections.index(table), new)):
        out += bytes(-len(out) % 8)
        header = elf["e_shoff"] + index * elf["e_shentsize"]
        struct.pack_into(order + "QQ", out, header + 24, len(out), len(data))
        out += data
    return out


def code_sections(image: bytes) -> dict[str, tuple[int, int]]:
    """Sections that take memory -> (size, alignment)."""
    return {
        s.name: (s.data_size, s["sh_addralign"])
        for s in parsed(image)[1]
        if s["sh_flags"] & 2 and s.data_size and s.name.startswith(("cnp.", ".text.", ".rodata"))
    }


def section_bytes(image: bytes, names: set[str]) -> dict[str, tuple[int, bytes]]:
    """Address and content of sections of a linked file."""
    elf = ELFFile(io.BytesIO(image))
    return {s.name: (s["sh_addr"], s.data()) for s in elf.iter_sections() if s.name in names}
