"""Lines of a source as DWARF: which address belongs to which line that `at=` named."""

from __future__ import annotations

from cnp.debug.frames import sleb, uleb
from cnp.debug.ranges import Line, name

VERSION, WORD = 2, 8
COMPILE_UNIT, NAME, STMT_LIST, LOW_PC, HIGH_PC = 0x11, 0x03, 0x10, 0x11, 0x12  # DW_TAG_*, DW_AT_*
ADDRESS, DATA4, STRING = 0x01, 0x06, 0x08  # DW_FORM_*
COPY, ADVANCE_PC, ADVANCE_LINE, SET_FILE = 1, 2, 3, 4  # DW_LNS_*
END_SEQUENCE, SET_ADDRESS = 1, 2  # DW_LNE_*
OPERANDS = bytes([0, 1, 1, 1, 1, 0, 0, 0, 1])  # of the standard opcodes 1 … 9
LINE_BASE, LINE_RANGE = -1 & 0xFF, 4  # of the special opcodes, of which none is used


def sections(table: list[Line], start: int, end: int, order: str) -> dict[str, bytes]:
    """`.debug_info`, `.debug_abbrev` and `.debug_line` for code from start to end."""
    attributes = (NAME, STRING), (LOW_PC, ADDRESS), (HIGH_PC, ADDRESS), (STMT_LIST, DATA4), (0, 0)
    abbreviations = uleb(1) + uleb(COMPILE_UNIT) + bytes([0]) + bytes(sum(attributes, ())) + b"\0"
    unit = uleb(1) + text(table[0].file) + word(start, order) + word(end, order) + bytes(4)
    info = VERSION.to_bytes(2, order) + bytes(4) + bytes([WORD]) + unit  # type: ignore[arg-type]
    return {
        ".debug_info": measured(info, order),
        ".debug_abbrev": abbreviations,
        ".debug_line": measured(VERSION.to_bytes(2, order) + line_table(table, end, order), order),  # type: ignore[arg-type]
    }


def line_table(table: list[Line], end: int, order: str) -> bytes:
    """The header behind the version, and the program."""
    files = {name: number for number, name in enumerate(dict.fromkeys(line.file for line in table), 1)}
    # instructions of a byte, statements by default; no folders; each file without folder, time and size
    header = bytes([1, 1, LINE_BASE, LINE_RANGE, len(OPERANDS) + 1]) + OPERANDS + b"\0"
    header += b"".join(text(name) + bytes(3) for name in files) + b"\0"
    program, address, line = b"", -1, 1  # no sequence is open
    for row in [*table, Line(end, table[-1].file, 0)]:
        if row.line and address < 0:
            program += bytes([0]) + uleb(1 + WORD) + bytes([SET_ADDRESS]) + word(row.address, order)
        elif address >= 0:
            program += bytes([ADVANCE_PC]) + uleb(row.address - address)
        if row.line:
            program += bytes([SET_FILE]) + uleb(files[row.file])
            program += bytes([ADVANCE_LINE]) + sleb(row.line - line) + bytes([COPY])
            address, line = row.address, row.line
        elif address >= 0:
            program += bytes([0, 1, END_SEQUENCE])
            address, line = -1, 1
    return measured(header, order) + program


def measured(content: bytes, order: str) -> bytes:
    """Behind its length."""
    return len(content).to_bytes(4, order) + content  # type: ignore[arg-type]


def word(value: int, order: str) -> bytes:
    return value.to_bytes(WORD, order)  # type: ignore[arg-type]


def text(file: str) -> bytes:
    return name(file) + b"\0"
