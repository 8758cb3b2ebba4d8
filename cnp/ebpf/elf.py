"""ELF objects of `clang -target bpf` -> bytecode, data sections and what refers to them.

    code       the section that is run, then those that it calls into, one behind the other
    data       .rodata…, .data…, .bss…: each a region of its own
    R_BPF_64_64   lddw of the address of something in a data section
    R_BPF_64_32   call of a function, in this section or another one

A call of a function that the object does not have is a call of the helper whose number its name ends in, as in
`helper_3`. Maps, and everything else that needs a kernel, are refused.
"""

from __future__ import annotations

import io
import re
from typing import Any

from cnp.ebpf.errors import ProgramError
from cnp.ebpf.isa import CODE, LDDW, SIZE, U32, signed32
from cnp.ebpf.program import Image, Section

MACHINE = "EM_BPF"
CALL = 0x85
R_64_64, R_64_32 = 1, 10
MOST_DATA = 1 << 28  #: bytes of a data section
NUMBERED = re.compile(r".*?(\d+)")
DATA = (".rodata", ".data", ".bss")


def read(data: bytes, section: str | None = None) -> Image:
    """The program in a section of an object: the named one, or the first that has code. ProgramError (what, section)."""
    from elftools.common.exceptions import ELFError
    from elftools.construct.core import ConstructError
    from elftools.elf.elffile import ELFFile

    try:
        return Object(ELFFile(io.BytesIO(data))).link(section)
    except ProgramError:
        raise
    except (ELFError, ConstructError, ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError,
            OSError, RecursionError, TypeError, ValueError) as error:  # fmt: skip
        raise refused(f"the object is damaged ({type(error).__name__}: {error})") from error


def refused(what: str, section: str = "") -> ProgramError:
    return ProgramError(f"{section}: {what}" if section else what, what=what, section=section)


class Object:
    """An object file while its parts are put together."""

    def __init__(self, elf: Any) -> None:
        if elf.header["e_machine"] != MACHINE or elf.header["e_type"] != "ET_REL" or not elf.little_endian:
            raise refused("this is no relocatable object for little-endian BPF (clang -target bpfel -c)")
        self.sections = list(elf.iter_sections())
        self.symbols = [s for table in self.sections if table.name == ".symtab" for s in table.iter_symbols()]
        self.code = bytearray()
        self.bases: dict[int, int] = {}  # section -> where its code begins, in bytes
        self.data: dict[int, int] = {}  # section -> number of its region
        self.regions: list[Section] = []
        self.relocations: dict[int, tuple[int, int]] = {}
        self.waiting: list[int] = []

    def link(self, wanted: str | None) -> Image:
        """Everything that the wanted section reaches."""
        self.place(self.find(wanted))
        while self.waiting:
            self.relocate(self.waiting.pop(0))
        return Image(bytes(self.code), tuple(self.regions), self.relocations, self.names())

    def find(self, wanted: str | None) -> int:
        runnable = [n for n, s in enumerate(self.sections) if is_code(s)]
        named = [n for n in runnable if wanted in (None, self.sections[n].name)]
        if not named:
            known = ", ".join(self.sections[n].name for n in runnable) or "none"
            raise refused(f"no such section with code; there are {known}", wanted or "")
        other = [n for n in named if self.sections[n].name != ".text"]
        return (other or named)[0]

    def place(self, number: int) -> int:
        """Where the code of a section begins; it is appended when that is first asked for."""
        if number not in self.bases:
            section = self.sections[number]
            if not is_code(section) or len(section.data()) % SIZE:
                raise refused("its code is not whole instructions", section.name)
            self.bases[number] = len(self.code)
            self.code += section.data()
            self.waiting.append(number)
        return self.bases[number]

    def region(self, number: int) -> int:
        """The region of a data section."""
        if number not in self.data:
            section = self.sections[number]
            if not section.name.startswith(DATA) or section["sh_size"] > MOST_DATA:
                raise refused("only .rodata, .data and .bss can be referred to", section.name)
            content = bytes(section["sh_size"]) if section["sh_type"] == "SHT_NOBITS" else section.data()
            self.data[number] = len(self.regions)
            self.regions.append(Section(section.name, content, not section.name.startswith(".rodata")))
        return self.data[number]

    # ---- relocations

    def relocate(self, number: int) -> None:
        """Apply what refers to a section's code."""
        section, base = self.sections[number], self.bases[number]
        resolved = set()
        for table in self.sections:
            if table["sh_type"] in ("SHT_REL", "SHT_RELA") and table["sh_info"] == number:
                if table["sh_type"] == "SHT_RELA":
                    raise refused("relocations with addends are not BPF's", table.name)
                for item in table.iter_relocations():
                    self.apply(base, section, item["r_offset"], item["r_info_type"], item["r_info_sym"])
                    resolved.add(item["r_offset"])

    def apply(self, base: int, section: Any, offset: int, kind: int, index: int) -> None:
        if offset % SIZE or not 0 <= offset <= len(section.data()) - SIZE:
            raise refused(f"a relocation at {offset}, which is no instruction", section.name)
        symbol = self.symbols[index]
        at = base + offset
        opcode, registers, field, imm = CODE.unpack_from(self.code, at)
        if kind == R_64_64 and opcode == LDDW and offset + 2 * SIZE <= len(section.data()):
            home = self.home(symbol, section.name)
            low, high = imm & U32, CODE.unpack_from(self.code, at + SIZE)[3] & U32
            place = symbol["st_value"] + (high << 32 | low)
            number = self.region(home)
            if not 0 <= place <= len(self.regions[number].data):
                raise refused(f"{symbol.name} lies outside of {self.sections[home].name}", section.name)
            CODE.pack_into(self.code, at, opcode, registers & 15, field, 0)
            CODE.pack_into(self.code, at + SIZE, 0, 0, 0, 0)
            self.relocations[at // SIZE] = (number, place)
        elif kind == R_64_32 and opcode == CALL:
            CODE.pack_into(self.code, at, *self.call(symbol, registers, field, imm, at, section.name))
        else:
            raise refused(f"relocation {kind} of {symbol.name} at {offset} is not understood", section.name)

    def home(self, symbol: Any, section: str) -> int:
        """The section that a symbol lies in."""
        number = symbol["st_shndx"]
        if not isinstance(number, int) or not 0 < number < len(self.sections):
            raise refused(f"{symbol.name} is not defined in this object", section)
        return number

    def call(
        self, symbol: Any, registers: int, field: int, imm: int, at: int, section: str
    ) -> tuple[int, int, int, int]:
        """A call of a function of the object, or of a helper."""
        if symbol["st_shndx"] == "SHN_UNDEF":
            numbered = NUMBERED.fullmatch(symbol.name)
            if numbered is None:
                raise refused(f"{symbol.name} is neither here nor a helper with a number at its end", section)
            return CALL, registers & 15, field, signed32(int(numbered[1]))
        home = self.home(symbol, section)
        # a section's symbol: the constant counts instructions from its start, less one; a function's own: -1
        inside = (imm + 1) * SIZE if symbol["st_info"]["type"] == "STT_SECTION" else 0
        to = self.place(home) + symbol["st_value"] + inside
        return CALL, registers & 15 | 1 << 4, field, signed32((to - at) // SIZE - 1)

    def names(self) -> dict[int, str]:
        """Functions by the place where they begin."""
        return {
            (self.bases[s["st_shndx"]] + s["st_value"]) // SIZE: s.name
            for s in self.symbols
            if s["st_info"]["type"] == "STT_FUNC" and s["st_shndx"] in self.bases
        }


def is_code(section: Any) -> bool:
    return section["sh_type"] == "SHT_PROGBITS" and bool(section["sh_flags"] & 4) and section["sh_size"] > 0
