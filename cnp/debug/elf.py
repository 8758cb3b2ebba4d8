"""An image as an ELF file of nothing but what debuggers read: symbols, frames and lines, for code that lies elsewhere.

    ELF header | sections one after the other | section headers

`.text` has an address and a size, and no bytes: they are in memory. Written for any target on any host.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cnp.debug import dwarf, frames
from cnp.debug.ranges import Line, Range, lines, name, ranges
from cnp.patch import Image
from cnp.program import Program
from cnp.target import Target
from cnp.targets.unwind import RULES

EXECUTABLE = 2  # ET_EXEC: values of symbols are addresses
PROGBITS, SYMTAB, STRTAB, NOBITS = 1, 2, 3, 8  # SHT_*
ALLOCATED, CODE = 2, 6  # SHF_ALLOC; with SHF_EXECINSTR
FUNCTION = 2  # STB_LOCAL, STT_FUNC
HEADER, SECTION, SYMBOL = "16sHHIQQQIHHHHHH", "IIQQQQIIQQ", "IBBHQQ"


class Section(NamedTuple):
    """A section. size: of one without bytes. entry: bytes of each of its entries, locals: how many are local symbols."""

    name: str
    kind: int
    data: bytes
    flags: int = 0
    address: int = 0
    size: int = 0
    link: int = 0
    locals: int = 0
    entry: int = 0


def symbol_file(program: Program, image: Image) -> bytes:
    """The file for a linked program. ToolError: there is no capstone, by which its frames are read."""
    target, found = program.library.target, list(ranges(program, image))
    names, symbols = tables(found, order(target))
    sections = [
        Section("", 0, b""),
        Section(".text", NOBITS, b"", CODE, image.base, len(image.code)),
        Section(".strtab", STRTAB, names),
        Section(
            ".symtab", SYMTAB, symbols, link=2, locals=len(found) + 1, entry=struct.calcsize("<" + SYMBOL)
        ),
        Section(".eh_frame", PROGBITS, eh_frame(program, image, found), ALLOCATED),
        *debug_sections(target, found, lines(program, image)),
    ]
    return file(target, sections)


def order(target: Target) -> str:
    """The byte order as struct spells it."""
    return "<" if target.byteorder == "little" else ">"


def eh_frame(program: Program, image: Image, found: list[Range]) -> bytes:
    """How the code of these ranges uses the native stack."""
    return frames.eh_frame(
        program.library.target, zip(found, frames.rows(program, image, found), strict=True)
    )


def tables(found: list[Range], order: str) -> tuple[bytes, bytes]:
    """Names and symbols."""
    names, symbols = bytearray(1), bytearray(struct.calcsize("<" + SYMBOL))
    for part in found:
        symbols += struct.pack(order + SYMBOL, len(names), FUNCTION, 0, 1, part.start, part.end - part.start)
        names += name(part.name) + b"\0"
    return bytes(names), bytes(symbols)


def debug_sections(target: Target, found: list[Range], table: list[Line]) -> list[Section]:
    """Lines of the source, where operations were given some."""
    if not table:
        return []
    contents = dwarf.sections(table, found[0].start, found[-1].end, target.byteorder)
    return [Section(name, PROGBITS, data) for name, data in contents.items()]


def file(target: Target, sections: list[Section]) -> bytes:
    """The bytes of a file with these sections and one more, of their names."""
    names = b"\0".join(section.name.encode() for section in sections) + b"\0.shstrtab\0"
    sections = [*sections, Section(".shstrtab", STRTAB, names)]
    body, headers, at = bytearray(), bytearray(), struct.calcsize("<" + HEADER)
    title = 0
    for section in sections:
        body += bytes(-(at + len(body)) % 8)
        headers += struct.pack(
            order(target) + SECTION, title, section.kind, section.flags, section.address, at + len(body) if section.kind else 0,
            section.size or len(section.data), section.link, section.locals, 8 if section.data else 1, section.entry,
        )  # fmt: skip
        body += section.data
        title += len(section.name) + 1
    body += bytes(-(at + len(body)) % 8)
    ident = b"\x7fELF" + bytes([2, 1 if target.byteorder == "little" else 2, 1])  # 64 bits
    return (
        struct.pack(
            order(target) + HEADER,
            ident,
            EXECUTABLE,
            target.machine,
            1,
            0,
            0,
            at + len(body),
            RULES[target.name].flags,
            at,
            0,
            0,
            struct.calcsize("<" + SECTION),
            len(sections),
            len(sections) - 1,
        )
        + body
        + headers
    )
