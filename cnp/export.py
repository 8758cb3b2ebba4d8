"""The finished stencil table for others: a library as C, Go, Rust or JSON, from which a patcher can be written.

    Library --tables--> sections of plain rows --printer--> text

A section is a list of rows of one shape; rows name other rows by their number, or by (first, count) where they own
several in a sequence; equal sequences are there once. The four printers know nothing but sections, so that all
outputs say the same (docs/export.md explains every column).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cnp import __version__
from cnp import frame as layout
from cnp.errors import OperandError
from cnp.library import STUBS, Library
from cnp.operands import Register
from cnp.stencil import Accept, Block, Form, Leave, Operation, Stencil, What
from cnp.target import Formula

FORMAT = 3

WORD = 1 << 64

#: How a cell of a column is to be read. RANGE: (first, count) of rows of the section that the column is called after.
NUMBER, UNSIGNED, LIMIT, FLAG = "number", "unsigned", "limit", "flag"  # i64, u32, u64, bool
TEXT, BYTES, RANGE = "text", "bytes", "range"
Cell = int | bool | str | bytes | tuple[int, int]

#: Enumerations that columns refer to by number.
ENUMERATIONS = {"what": What, "formula": Formula, "leave": Leave}


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of one shape. name: of the section; row: of one of its rows. columns: (name, how to read it)."""

    name: str
    row: str
    columns: tuple[tuple[str, str], ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> int:
        """Append a row; its number."""
        self.rows.append(cells)
        return len(self.rows) - 1


@dataclass(frozen=True, slots=True)
class Exported:
    """A whole library. facts: what there is once, as a section of one row. name: fit for an identifier."""

    name: str
    facts: Section
    sections: tuple[Section, ...]


# ---- Library -> sections


def tables(library: Library) -> Exported:
    """All of a library as sections."""
    return Collector(library).collect()


class Collector:
    """Fills the sections. Blocks and stencils come in the order of their first use."""

    def __init__(self, library: Library) -> None:
        self.library, self.target = library, library.target
        n, u, t, r = NUMBER, UNSIGNED, TEXT, RANGE
        self.fields = Section("fields", "field", (
            ("name", t), ("size", u), ("formula", u), ("bits", r), ("low", n), ("span", LIMIT), ("align", LIMIT),
            ("carry", LIMIT), ("jump", FLAG)))  # fmt: skip
        self.bits = Section("bits", "part", (("from", u), ("width", u), ("to", u)))
        self.holes = Section("holes", "hole", (
            ("offset", u), ("field", u), ("what", u), ("index", u), ("addend", n), ("place", n)))  # fmt: skip
        self.blocks = Section("blocks", "block", (("code", BYTES), ("tail", u), ("align", u), ("holes", r)))
        self.stencils = Section("stencils", "stencil", (("blocks", r), ("stack", u), ("instructions", u)))
        self.accepts = Section("accepts", "accept", (
            ("kind", t), ("low", n), ("span", LIMIT), ("align", LIMIT), ("mask", u)))  # fmt: skip
        pair = (("first", u), ("second", u))
        self.same, self.differ = Section("same", "pair", pair), Section("differ", "pair", pair)
        self.forms = Section("forms", "form", (
            ("accepts", r), ("same", r), ("differ", r), ("feature", t), ("near", n), ("far", n)))  # fmt: skip
        self.operands = Section("operands", "operand", (("kind", t), ("ctype", t), ("name", t)))
        self.operations = Section("operations", "operation", (
            ("name", t), ("operands", r), ("forms", r), ("calls", FLAG), ("line", u)))  # fmt: skip
        self.routines = Section("routines", "routine", (("name", t), ("block", u)))
        self.constants = Section("constants", "constant", (("data", BYTES), ("align", u)))
        self.imports = Section("imports", "import", (("name", t), ("signature", t)))
        self.leaves = Section("leaves", "leave", (("name", t), ("stub", n)))
        members = (("name", t), ("offset", n), ("size", u))
        self.state = Section("state", "word", (*members, ("ctype", t)))
        self.registers = Section("registers", "register", (
            ("bank", t), ("index", u), ("number", n), ("home", n)))  # fmt: skip
        self.header = Section("header", "member", members)
        self.context = Section("context", "member", members)
        self.numbers = {name: number for number, name in enumerate(self.target.fields)}
        self.spans: dict[tuple[str, tuple[tuple[Cell, ...], ...]], tuple[int, int]] = {}
        self.made: dict[Stencil, int] = {}

    def collect(self) -> Exported:
        library = self.library
        self.machine()
        for name in library.operations:
            self.operation(library[name])
        for name in library.routine_names:
            self.routines.add(name, self.block(library.routine(name)))
        for leave in Leave:
            stub = library.routine_names.index(STUBS[leave]) if leave in STUBS else -1
            self.leaves.add(leave.name.lower(), stub)
        for constant in library.constants:
            self.constants.add(constant.data, constant.align)
        for item in library.imports:
            self.imports.add(item.name, item.signature)
        self.frames()
        sections = (
            self.operations, self.operands, self.forms, self.accepts, self.same, self.differ, self.stencils, self.blocks,
            self.holes, self.fields, self.bits, self.routines, self.leaves, self.constants, self.imports, self.state,
            self.registers, self.header, self.context,
        )  # fmt: skip
        vocabulary = Path(str(library.facts["source"])).stem
        return Exported(identifier(f"{vocabulary}_{self.target.name}"), self.once(vocabulary), sections)

    def machine(self) -> None:
        """The fields of instructions."""
        for name, fld in self.target.fields.items():
            first = len(self.bits.rows)
            for piece in fld.bits:
                self.bits.add(*piece)
            self.fields.add(
                name, fld.size, int(fld.formula), (first, len(fld.bits)), *interval(fld.low, fld.high),
                fld.align, fld.carry, fld.jump,
            )  # fmt: skip

    def frames(self) -> None:
        """Where the words of a frame's header, the registers among them, and of a context lie."""
        for item in self.library.state:
            self.state.add(item.name, item.offset - self.library.header_size, item.size, item.ctype)
        for bank, numbers in self.library.registers.items():
            for index, number in enumerate(numbers):
                self.registers.add(bank, index, number, self.library.home(Register(bank, index)))
        for name, offset, size in members(layout.HEADER_FIELDS, layout.HEADER):
            self.header.add(name, offset - layout.HEADER_SIZE, size)
        for name, offset, size in members(layout.CONTEXT_FIELDS, layout.CONTEXT):
            self.context.add(name, offset, size)

    def once(self, vocabulary: str) -> Section:
        """What there is once."""
        library, target = self.library, self.target
        facts: list[tuple[str, str, Cell]] = [
            ("format", UNSIGNED, FORMAT),
            ("vocabulary", TEXT, vocabulary),
            ("target", TEXT, target.name),
            ("abi", TEXT, str(library.facts["abi"])),
            ("inputs", TEXT, str(library.facts["inputs"])),
            ("big_endian", FLAG, target.byteorder == "big"),
            ("result", TEXT, library.result),
            ("header_size", UNSIGNED, library.header_size),
            ("code_align", UNSIGNED, target.code_align),
            ("nop", BYTES, target.nop),
            ("trap", BYTES, target.trap),
            ("veneer", UNSIGNED, self.block(target.veneer)),
            ("island", UNSIGNED, target.island),
        ]
        section = Section("facts", "table", tuple((name, kind) for name, kind, _ in facts))
        section.add(*(value for _, _, value in facts))
        return section

    def operation(self, operation: Operation) -> None:
        operands = [self.operands.add(item.kind, item.ctype, item.name) for item in operation.operands]
        forms = [self.form(form) for form in operation.forms]
        self.operations.add(operation.name, span(operands), span(forms), operation.calls, operation.line)

    def form(self, form: Form) -> int:
        accepts = self.shared(self.accepts, [accept_cells(accept) for accept in form.accepts])
        same, differ = self.shared(self.same, form.same), self.shared(self.differ, form.differ)
        near = self.stencil(form.near)
        return self.forms.add(
            accepts, same, differ, form.feature, near, self.stencil(form.far) if form.far else -1
        )

    def stencil(self, stencil: Stencil) -> int:
        """The row of a stencil, which forms share."""
        if stencil not in self.made:
            blocks = span([self.block(block) for block in stencil.blocks])
            self.made[stencil] = self.stencils.add(blocks, stencil.stack, stencil.instructions)
        return self.made[stencil]

    def block(self, block: Block) -> int:
        holes = [
            (h.offset, self.numbers[h.field], int(h.what), h.index, h.addend, h.place) for h in block.holes
        ]
        return self.blocks.add(block.code, block.tail, block.align, self.shared(self.holes, holes))

    def shared(self, section: Section, wanted: Sequence[tuple[Cell, ...]]) -> tuple[int, int]:
        """The rows of a sequence as (first, count). A sequence that is there already is not added again."""
        key = section.name, tuple(wanted)
        if key not in self.spans:
            self.spans[key] = span([section.add(*cells) for cells in wanted])
        return self.spans[key]


def accept_cells(accept: Accept) -> tuple[Cell, ...]:
    return (accept.kind, *interval(accept.low, accept.high), accept.align, accept.mask)


def interval(low: int, high: int) -> tuple[int, int]:
    """The values low … high as (low, span), modulo 2^64: an i64 and a u64, whatever the signs of both are.

    A 64-bit value, signed or not, lies within where (value - low) mod 2^64 <= span.
    """
    return (low + (WORD >> 1)) % WORD - (WORD >> 1), min(high - low, WORD - 1)


def span(numbers: Sequence[int]) -> tuple[int, int]:
    """Rows that were added one after the other as (first, count)."""
    return (numbers[0], len(numbers)) if numbers else (0, 0)


def members(names: Sequence[str], formats: str) -> list[tuple[str, int, int]]:
    """The members of a packed struct: name, offset, size."""
    sizes = [struct.calcsize("=" + letter) for letter in formats]
    return [(name, sum(sizes[:i]), size) for i, (name, size) in enumerate(zip(names, sizes, strict=True))]


def identifier(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)


def camel(name: str) -> str:
    """The name as Go and Rust spell types: big_endian -> BigEndian."""
    return "".join(part.capitalize() for part in name.split("_"))


# ---- sections -> text


def export(library: Library, language: str) -> str:
    """The table in a language: c, go, rust or json. OperandError for another one."""
    if language not in PRINTERS:
        known = ", ".join(PRINTERS)
        raise OperandError(
            f"no printer for {language!r}; there are {known}", op="export", operand="language", value=language, allowed=known
        )  # fmt: skip
    return PRINTERS[language](tables(library))


def header_line(exported: Exported) -> str:
    _, vocabulary, target, *_ = exported.facts.rows[0]
    return f"{vocabulary!s} for {target!s}, stencil table of cnp {__version__}: do not edit"


def enumerators() -> list[tuple[str, str, int]]:
    """(enumeration, name, value) of each."""
    return [(kind, item.name, int(item)) for kind, items in ENUMERATIONS.items() for item in items]


def escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def quoted(text: str) -> str:
    return json.dumps(text)  # names, types and signatures are ASCII


def rows(section: Section, write: Callable[[str, str, Cell], str]) -> list[list[str]]:
    """Each cell of a section written by `write(column, kind, cell)`."""
    return [
        [write(name, kind, cell) for (name, kind), cell in zip(section.columns, row, strict=True)]
        for row in section.rows
    ]


def to_json(exported: Exported) -> str:
    """One object; a row is an object of its columns, bytes are hex, (first, count) is a list."""

    def plain(cell: Cell) -> object:
        return cell.hex() if isinstance(cell, bytes) else list(cell) if isinstance(cell, tuple) else cell

    def text(section: Section, row: tuple[Cell, ...]) -> str:
        named = {name: plain(cell) for (name, _), cell in zip(section.columns, row, strict=True)}
        return json.dumps(named)

    enumerations = {
        kind: {item.name.lower(): int(item) for item in items} for kind, items in ENUMERATIONS.items()
    }
    parts = [
        f'"{exported.facts.name}": {text(exported.facts, exported.facts.rows[0])}',
        f'"enumerations": {json.dumps(enumerations)}',
    ]
    for section in exported.sections:
        listed = ",\n  ".join(text(section, row) for row in section.rows)
        parts.append(f'"{section.name}": [\n  {listed}\n ]' if section.rows else f'"{section.name}": []')
    return "{\n " + ",\n ".join(parts) + "\n}\n"


C_TYPES = {
    NUMBER: "int64_t ", UNSIGNED: "uint32_t ", LIMIT: "uint64_t ", FLAG: "uint8_t ", TEXT: "const char *",
    BYTES: "struct cnp_bytes ", RANGE: "struct cnp_range ",
}  # fmt: skip


def to_c(exported: Exported) -> str:
    """A header that needs <stdint.h> only: types once, then arrays and one struct that holds them all."""

    def cell(name: str, kind: str, value: Cell) -> str:
        if isinstance(value, tuple):
            return f"{{{value[0]}, {value[1]}}}"
        if isinstance(value, bytes):
            return f'{{(const unsigned char *)"{escaped(value)}", {len(value)}}}'
        if isinstance(value, str):
            return quoted(value)
        if value == -(1 << 63):
            return "INT64_MIN"
        return f"{int(value)}u" if kind == LIMIT else str(int(value))

    def struct_of(section: Section, more: Sequence[str] = ()) -> list[str]:
        fields = [f"    {C_TYPES[kind]}{name};" for name, kind in section.columns]
        return [f"struct cnp_{section.row} {{", *fields, *more, "};"]

    pointers = [
        f"    const struct cnp_{s.row} *{s.name};\n    uint32_t {s.name}_count;" for s in exported.sections
    ]
    shapes = {section.row: section for section in exported.sections}
    lines = [f"/* {header_line(exported)} */", "#ifndef CNP_TABLE_TYPES", "#define CNP_TABLE_TYPES"]
    lines += ["#include <stdint.h>", "struct cnp_bytes { const unsigned char *data; uint32_t size; };"]
    lines += ["struct cnp_range { uint32_t first, count; };"]
    lines += [line for section in shapes.values() for line in struct_of(section)]
    lines += struct_of(exported.facts, pointers)
    lines += [
        "enum {",
        *(f"    CNP_{k.upper()}_{name} = {value}," for k, name, value in enumerators()),
        "};",
        "#endif",
        "",
    ]
    whole = [*rows(exported.facts, cell)[0]]
    for section in exported.sections:
        array = f"{exported.name}_{section.name}"
        whole += [array if section.rows else "0", str(len(section.rows))]
        if section.rows:
            written = [f"    {{{', '.join(row)}}}," for row in rows(section, cell)]
            lines += [f"static const struct cnp_{section.row} {array}[] = {{", *written, "};"]
    lines += [
        f"static const struct cnp_table {exported.name} = {{",
        *(f"    {item}," for item in whole),
        "};",
    ]
    return "\n".join(lines) + "\n"


GO_TYPES = {
    NUMBER: "int64", UNSIGNED: "uint32", LIMIT: "uint64", FLAG: "bool", TEXT: "string", BYTES: "string", RANGE: "Range",
}  # fmt: skip


def to_go(exported: Exported) -> str:
    """A package of its own. Bytes are strings: constants that nothing has to copy at the start."""

    def cell(name: str, kind: str, value: Cell) -> str:
        if isinstance(value, tuple):
            return f"Range{{{value[0]}, {value[1]}}}"
        if isinstance(value, bytes):
            return f'"{escaped(value)}"'
        return quoted(value) if isinstance(value, str) else str(value).lower()

    def struct_of(section: Section) -> list[str]:
        fields = [f"\t{camel(name)} {GO_TYPES[kind]}" for name, kind in section.columns]
        return [f"type {camel(section.row)} struct {{", *fields, "}", ""]

    everything = (exported.facts, *exported.sections)
    lines = [
        f"// Code generated by cnp export. DO NOT EDIT: {header_line(exported)}",
        f"package {exported.name}",
        "",
    ]
    lines += ["type Range struct{ First, Count uint32 }", ""]
    lines += [line for section in {s.row: s for s in everything}.values() for line in struct_of(section)]
    lines += [
        "const (",
        *(f"\t{camel(k)}{camel(name)} = {value}" for k, name, value in enumerators()),
        ")",
        "",
    ]
    for section in everything:
        written = [f"\t{{{', '.join(row)}}}," for row in rows(section, cell)]
        lines += [f"var {camel(section.name)} = []{camel(section.row)}{{", *written, "}", ""]
    return "\n".join(lines)


RUST_TYPES = {
    NUMBER: "i64", UNSIGNED: "u32", LIMIT: "u64", FLAG: "bool", TEXT: "&'static str", BYTES: "&'static [u8]",
    RANGE: "(u32, u32)",
}  # fmt: skip


def to_rust(exported: Exported) -> str:
    """A module without dependencies, fit for no_std."""

    def cell(name: str, kind: str, value: Cell) -> str:
        if isinstance(value, bytes):
            return f'{name}: b"{escaped(value)}"'
        return f"{name}: {quoted(value) if isinstance(value, str) else str(value).lower()}"

    def struct_of(section: Section) -> list[str]:
        fields = [f"    pub {name}: {RUST_TYPES[kind]}," for name, kind in section.columns]
        return ["#[derive(Debug, Clone, Copy)]", f"pub struct {camel(section.row)} {{", *fields, "}"]

    everything = (exported.facts, *exported.sections)
    lines = [f"// {header_line(exported)}", ""]
    lines += [line for section in {s.row: s for s in everything}.values() for line in struct_of(section)]
    lines += [f"pub const {k.upper()}_{name}: u32 = {value};" for k, name, value in enumerators()]
    for section in everything:
        written = [f"    {camel(section.row)} {{ {', '.join(row)} }}," for row in rows(section, cell)]
        lines += [f"pub static {section.name.upper()}: &[{camel(section.row)}] = &[", *written, "];"]
    return "\n".join(lines) + "\n"


PRINTERS: dict[str, Callable[[Exported], str]] = {"c": to_c, "go": to_go, "rust": to_rust, "json": to_json}
