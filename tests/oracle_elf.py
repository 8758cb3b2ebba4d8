"""An object file with other symbols: each section's own copy of every outside symbol, with a value.

The builder's object names a hole `cnp.0` in each of its stencils. For a judge that links all stencils at once each of
them needs values of its own, so the symbol table is written anew: what was undefined, or is a routine, becomes
absolute, once for each section that names it. Code, relocations and addends stay as they are.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Symbol, SymbolTableSection

ABSOLUTE = 0xFFF1
GLOBAL, WEAK = 1 << 4, 2 << 4
SYMBOL_SIZE = 24
MIPS = "EM_MIPS"

Values = Mapping[tuple[str, str], int]  #: (section, symbol) -> value


def outside(elf: ELFFile) -> set[tuple[str, str]]:
    """(section, symbol) of each relocation against what lies elsewhere: undefined symbols and routines."""
    found = set()
    for section in elf.iter_sections():
        if isinstance(section, RelocationSection):
            symbols, name = elf.get_section(section["sh_link"]), elf.get_section(section["sh_info"]).name
            for raw in section.iter_relocations():
                symbol = symbols.get_symbol(raw["r_info_sym"])
                if is_outside(elf, symbol, name):
                    found.add((name, symbol.name))
    return found


def is_outside(elf: ELFFile, symbol: Symbol, section: str) -> bool:
    """Undefined, or a routine: named, and in another section of plain code."""
    index = symbol["st_shndx"]
    if not isinstance(index, int):
        return index == "SHN_UNDEF" and bool(symbol.name)
    home = elf.get_section(index).name
    return bool(symbol.name) and symbol["st_info"]["type"] != "STT_SECTION" and home.startswith(".text.") and home != section


def bind(image: bytes, values: Values) -> bytes:
    """The object with its outside symbols bound. KeyError for one that has no value."""
    elf, out = ELFFile(io.BytesIO(image)), bytearray(image)
    order = "<" if elf.little_endian else ">"
    table = next(s for s in elf.iter_sections() if isinstance(s, SymbolTableSection))
    sections = {section for section, _ in values}
    extra = bytearray()
    numbers: dict[tuple[str, str], int] = {}
    for section in elf.iter_sections():
        if isinstance(section, RelocationSection):
            name = elf.get_section(section["sh_info"]).name
            if name not in sections:
                continue
            for number, raw in enumerate(section.iter_relocations()):
                symbol = table.get_symbol(raw["r_info_sym"])
                if not is_outside(elf, symbol, name):
                    continue
                key = (name, symbol.name)
                if key not in numbers:
                    numbers[key] = table.num_symbols() + len(numbers)
                    value = values[key] & (1 << 64) - 1
                    extra += struct.pack(order + "IBBHQQ", 0, GLOBAL, 0, ABSOLUTE, value, 0)
                # r_info is symbol << 32 | type; MIPS n64 stores the symbol first in both byte orders
                high_first = elf["e_machine"] == MIPS or not elf.little_endian
                place = section["sh_offset"] + number * section["sh_entsize"] + (8 if high_first else 12)
                struct.pack_into(order + "I", out, place, numbers[key])
    return bytes(name_symbols(out, elf, table, extra, order))


def name_symbols(out: bytearray, elf: ELFFile, table: SymbolTableSection, extra: bytes, order: str) -> bytearray:
    """Append the longer symbol table and its names; the old undefined symbols become weak ones that nothing names."""
    old = bytearray(out[table["sh_offset"] : table["sh_offset"] + table["sh_size"]])
    for number, symbol in enumerate(table.iter_symbols()):
        if number and symbol["st_shndx"] == "SHN_UNDEF":
            old[number * SYMBOL_SIZE + 4] = WEAK
    new = bytearray(old + extra)
    strings = bytearray(elf.get_section(table["sh_link"]).data())
    for number in range(table.num_symbols(), len(new) // SYMBOL_SIZE):
        struct.pack_into(order + "I", new, number * SYMBOL_SIZE, len(strings))
        strings += f"judge.{number}\0".encode()
    for index, data in ((table["sh_link"], strings), (section_number(elf, table), new)):
        out += bytes(-len(out) % 8)
        header = elf["e_shoff"] + index * elf["e_shentsize"]
        struct.pack_into(order + "QQ", out, header + 24, len(out), len(data))
        out += data
    return out


def section_number(elf: ELFFile, wanted: SymbolTableSection) -> int:
    return next(n for n, s in enumerate(elf.iter_sections()) if s["sh_offset"] == wanted["sh_offset"] and s.name == wanted.name)


def code_sections(image: bytes) -> dict[str, tuple[int, int]]:
    """Sections that take memory -> (size, alignment)."""
    elf = ELFFile(io.BytesIO(image))
    return {
        s.name: (s.data_size, s["sh_addralign"])
        for s in elf.iter_sections()
        if s["sh_flags"] & 2 and s.data_size and s.name.startswith(("cnp.", ".text.", ".rodata"))
    }


def section_bytes(image: bytes, names: set[str]) -> dict[str, tuple[int, bytes]]:
    """Address and content of sections of a linked file."""
    elf = ELFFile(io.BytesIO(image))
    return {s.name: (s["sh_addr"], s.data()) for s in elf.iter_sections() if s.name in names}
