"""Exported tables: the C one feeds the patcher of docs/export.md, Go and Rust compile, JSON holds the whole library."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cnp import frame as layout
from cnp import host, runtime, targets
from cnp.errors import OperandError
from cnp.export import LIMIT, NUMBER, UNSIGNED, export, interval, tables
from cnp.library import Library
from cnp.operands import Register
from cnp.stencil import Accept, Block, Constant, Form, Hole, Import, Leave, Operand, Operation, Stencil, What
from cnp.target import Field, Formula
from tests.support import every_target, need

EXAMPLE = Path(__file__).parents[1] / "docs" / "export.md"


def library(target: str) -> Library:
    return Library.load(runtime.installed("ops", target))


def c_compiler() -> str:
    found = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    need(found is not None, "a C compiler compiles the exported table")
    return str(found)


def grammatical(language: str, text: str) -> bool:
    """Whether a text has no syntax error, by tree-sitter's grammar: for machines without the language's compiler."""
    modules = [importlib.util.find_spec(name) for name in ("tree_sitter", f"tree_sitter_{language}")]
    need(None not in modules, f"without a compiler, tree-sitter-{language} judges the exported table")
    from tree_sitter import Language, Parser

    grammar = importlib.import_module(f"tree_sitter_{language}")
    return not Parser(Language(grammar.language())).parse(text.encode()).root_node.has_error


def compiles(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# ---- JSON: everything is there


class Reader:
    """Rebuilds a library's objects from its JSON."""

    def __init__(self, text: str) -> None:
        self.table: dict[str, Any] = json.loads(text)

    def rows(self, section: str, span: list[int]) -> list[dict[str, Any]]:
        first, count = span
        rows: list[dict[str, Any]] = self.table[section][first : first + count]
        assert len(rows) == count
        return rows

    def operation(self, index: int) -> Operation:
        row = self.table["operations"][index]
        operands = tuple(
            Operand(o["kind"], o["ctype"], o["name"]) for o in self.rows("operands", row["operands"])
        )
        forms = tuple(self.form(form) for form in self.rows("forms", row["forms"]))
        return Operation(row["name"], index, operands, forms, row["line"], row["calls"])

    def form(self, row: dict[str, Any]) -> Form:
        accepts = tuple(
            Accept(a["kind"], a["low"], a["low"] + a["span"], a["align"], a["mask"])
            for a in self.rows("accepts", row["accepts"])
        )
        same, differ = (
            tuple((pair["first"], pair["second"]) for pair in self.rows(name, row[name]))
            for name in ("same", "differ")
        )
        far = self.stencil(row["far"]) if row["far"] >= 0 else None
        return Form(accepts, self.stencil(row["near"]), far, same, differ, row["feature"])

    def stencil(self, number: int) -> Stencil:
        row = self.table["stencils"][number]
        blocks = tuple(self.block(block) for block in self.rows("blocks", row["blocks"]))
        return Stencil(blocks, row["stack"], row["instructions"])

    def block(self, row: dict[str, Any]) -> Block:
        holes = tuple(
            Hole(
                h["offset"],
                self.table["fields"][h["field"]]["name"],
                What(h["what"]),
                h["index"],
                h["addend"],
                h["place"],
            )
            for h in self.rows("holes", row["holes"])
        )
        return Block(bytes.fromhex(row["code"]), holes, row["tail"], row["align"])

    def field(self, row: dict[str, Any]) -> Field:
        bits = tuple((b["from"], b["width"], b["to"]) for b in self.rows("bits", row["bits"]))
        return Field(
            row["size"], Formula(row["formula"]), bits, row["low"], row["low"] + row["span"], row["align"], row["carry"],
            jump=row["jump"],
        )  # fmt: skip


@every_target
def test_json_holds_the_operations(target: str) -> None:
    original = library(target)
    reader = Reader(export(original, "json"))
    assert [row["name"] for row in reader.table["operations"]] == list(original.operations)
    for index, name in enumerate(original.operations):
        assert reader.operation(index) == original[name]


@every_target
def test_json_holds_the_rest(target: str) -> None:
    original, machine = library(target), targets.get(target)
    reader = Reader(export(original, "json"))
    table, facts = reader.table, reader.table["facts"]
    for row, (name, known) in zip(table["fields"], machine.fields.items(), strict=True):
        read = reader.field(row)
        assert row["name"] == name
        for part in ("size", "formula", "bits", "low", "align", "carry", "jump"):
            assert getattr(read, part) == getattr(known, part), (name, part)
        assert read.high == min(known.high, known.low + (1 << 64) - 1)  # no 64-bit value lies beyond
    routines = {row["name"]: reader.block(table["blocks"][row["block"]]) for row in table["routines"]}
    assert routines == {name: original.routine(name) for name in original.routine_names}
    assert reader.block(table["blocks"][facts["veneer"]]) == machine.veneer
    assert (
        tuple(Constant(bytes.fromhex(row["data"]), row["align"]) for row in table["constants"])
        == original.constants
    )
    assert tuple(Import(row["name"], row["signature"]) for row in table["imports"]) == original.imports
    assert (
        facts["big_endian"] == (machine.byteorder == "big") and facts["header_size"] == original.header_size
    )
    assert table["enumerations"]["what"] == {item.name.lower(): item for item in What}
    assert table["enumerations"]["formula"] == {item.name.lower(): item for item in Formula}


@every_target
def test_json_holds_the_registers(target: str) -> None:
    original = library(target)
    table = json.loads(export(original, "json"))
    words = {row["name"]: row["offset"] for row in table["state"]}
    found = {}
    for row in table["registers"]:
        register = Register(row["bank"], row["index"])
        found[register] = row["number"] if row["number"] >= 0 else None
        assert row["home"] == original.home(register) == words[f"{row['bank']}{row['index']}"]
    assert found == {
        Register(bank, index): original.number(Register(bank, index))
        for bank, numbers in original.registers.items()
        for index in range(len(numbers))
    }


@every_target
def test_numbers_fit_the_types_of_their_columns(target: str) -> None:
    """C takes -1 for a uint64_t in silence, and a grammar sees no types at all."""
    limits = {NUMBER: (-(1 << 63), (1 << 63) - 1), UNSIGNED: (0, (1 << 32) - 1), LIMIT: (0, (1 << 64) - 1)}
    exported = tables(library(target))
    for section in (exported.facts, *exported.sections):
        for number, (name, kind) in enumerate(section.columns):
            if kind in limits:
                low, high = limits[kind]
                assert all(low <= row[number] <= high for row in section.rows), (section.name, name)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0, 0), (-1, -1), (-128, 127), (-32768, -2), (1 << 63, (1 << 64) - 1), (0, (1 << 64) - 1),
        (-(1 << 63), (1 << 63) - 1), (-(1 << 63), (1 << 64) - 1),
    ],
)  # fmt: skip
def test_an_interval_holds_what_lies_within(low: int, high: int) -> None:
    """Signed or unsigned: a value is in it if one of its two readings is."""
    start, span = interval(low, high)
    for edge in (0, -1, 1 << 63, low, high):
        for value in (edge - 1, edge, edge + 1):
            readings = (value % (1 << 64), value % (1 << 64) - (1 << 64))
            inside = any(low <= reading <= high for reading in readings if reading >= -(1 << 63))
            assert ((value - start) % (1 << 64) <= span) == inside, value


@every_target
def test_layouts_are_those_that_runs_use(target: str) -> None:
    """Values written at the exported places are what cnp reads there."""
    original = library(target)
    table = json.loads(export(original, "json"))
    order = targets.get(target).byteorder
    for section, size, start, read in (
        ("context", layout.CONTEXT_SIZE, 0, lambda data: layout.unpack_context(original, data)),
        (
            "header",
            original.header_size,
            original.header_size,
            lambda data: vars_of(layout.unpack_header(original, data)),
        ),
        (
            "state",
            original.header_size,
            original.header_size,
            lambda data: layout.unpack_header(original, data).state,
        ),
    ):
        data = bytearray(size)
        for number, row in enumerate(table[section], 1):
            at = start + row["offset"]
            ctype = row.get("ctype", f"u{8 * row['size']}")
            kind = ("<" if order == "little" else ">") + layout.FORMATS[ctype]
            struct.pack_into(kind, data, at, number)
        found = read(bytes(data))
        assert {row["name"]: found[row["name"]] for row in table[section]} == {
            row["name"]: number for number, row in enumerate(table[section], 1)
        }


def vars_of(header: layout.Header) -> dict[str, int]:
    return {name: getattr(header, name) for name in layout.HEADER_FIELDS}


def test_every_way_out_that_a_stencil_takes_has_a_stub() -> None:
    for name in targets.TARGETS:
        table = json.loads(export(library(name), "json"))
        used = {hole["index"] for hole in table["holes"] if hole["what"] == What.LEAVE}
        assert used and all(table["leaves"][index]["stub"] >= 0 for index in used)
        assert [row["name"] for row in table["leaves"]] == [leave.name.lower() for leave in Leave]


# ---- C, Go, Rust


@pytest.fixture(scope="module")
def patcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of docs/export.md, compiled."""
    need(host.emulator(targets.get("x86_64")) == [], "the example is for x86-64")
    need(EXAMPLE.exists(), "docs/export.md holds the example")
    folder = tmp_path_factory.mktemp("patcher")
    (folder / "ops.h").write_text(export(library("x86_64"), "c"))
    example = re.search(r"^```c\n(.*?)^```", EXAMPLE.read_text(), re.DOTALL | re.MULTILINE)
    assert example is not None
    (folder / "patcher.c").write_text(example[1])
    compiles([c_compiler(), "-std=gnu11", "-Wall", "-Werror", "-o", "patcher", "patcher.c"], folder)
    return folder / "patcher"


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (5, 3, "returned 2665"),
        (-7, 2, "returned -2501"),
        (1 << 40, -1, f"returned {-((1 << 40) - 1) * 1000 - 1}"),
        (9, 0, "trap 2 at operation 3"),
    ],
)
def test_the_patcher_of_the_documentation(patcher: Path, a: int, b: int, said: str) -> None:
    done = subprocess.run([str(patcher), str(a), str(b)], capture_output=True, text=True, check=True)
    assert done.stdout == said + "\n"


def test_tables_of_all_targets_in_one_c_program(tmp_path: Path) -> None:
    names = [tables(library(target)).name for target in targets.TARGETS]
    for target in targets.TARGETS:
        (tmp_path / f"{target}.h").write_text(export(library(target), "c"))
    includes = "".join(f'#include "{target}.h"\n' for target in targets.TARGETS)
    counts = " && ".join(f"{name}.operations_count == {len(library('x86_64').operations)}" for name in names)
    (tmp_path / "all.c").write_text(f"{includes}int main(void) {{ return !({counts}); }}\n")
    compiles([c_compiler(), "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", "all", "all.c"], tmp_path)
    subprocess.run([str(tmp_path / "all")], check=True)


@every_target
def test_rust_compiles(target: str, tmp_path: Path) -> None:
    """By rustc, or by its grammar where there is none."""
    text = export(library(target), "rust")
    (tmp_path / "table.rs").write_text(text)
    if compiler := shutil.which("rustc"):
        options = ["--edition=2021", "--crate-type=lib", "--emit=metadata", "-D", "warnings"]
        compiles([compiler, *options, "table.rs"], tmp_path)
    else:
        assert grammatical("rust", text)


@every_target
def test_go_compiles(target: str, tmp_path: Path) -> None:
    """By go, or by its grammar where there is none."""
    text = export(library(target), "go")
    (tmp_path / "table.go").write_text(text)
    (tmp_path / "go.mod").write_text("module table\n")
    if compiler := shutil.which("go"):
        compiles([compiler, "vet", "./..."], tmp_path)
    else:
        assert grammatical("go", text)


def test_the_grammars_see_errors() -> None:
    assert not grammatical("go", "package p\nvar x = [}")
    assert not grammatical("rust", "pub const X: = ;")


def test_all_languages_list_the_same_rows() -> None:
    """A row is a line in each of them; sections follow each other in the same order."""
    original = library("mips64")
    rows = sum(len(section.rows) for section in tables(original).sections)
    for language, row in (
        ("c", r"^    \{(?!\().*\},$"),
        ("go", r"^\t\{.*\},$"),
        ("rust", r"^    \w+ \{ .* \},$"),
    ):
        extra = 0 if language == "c" else 1  # the facts are members of the struct in C
        assert len(re.findall(row, export(original, language), re.MULTILINE)) == rows + extra


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(OperandError, match="'cobol'; there are c, go, rust, json") as caught:
        export(library("x86_64"), "cobol")
    assert caught.value.value == "cobol"
