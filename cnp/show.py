"""Stencil files for people: the operations as a table, the code of one with its holes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

from cnp.library import Library
from cnp.stencil import Accept, Block, Form, Hole, Leave, Operation, Stencil, What
from cnp.target import Target

COLUMNS = ("operation", "operands", "form", "bytes", "cold", "holes")
OPERATION_COLUMNS = ("operation", "operands", "forms", "bytes")
LONG_SLOT = 1 << 16  #: a slot may lie so far away that the limit does not matter
UNITS = {1: ".byte", 2: ".half", 4: ".word"}
BLOCKS = ("hot", "cold")


# ---- the table


def summary(library: Library) -> str:
    """One line on a whole file."""
    forms = sum(len(library[name].forms) for name in library.operations)
    facts = library.facts
    beyond = [name for name in facts["features"] if name]
    features = f" (some need {' or '.join(beyond)})" if beyond else ""
    counts = f"{len(library.operations)} operations, {forms} forms{features}"
    return f"{facts['source']} for {facts['target']}: {counts}, clang {facts['clang']}"


def operation_rows(library: Library) -> list[tuple[str, ...]]:
    """A row for each operation. bytes: of its hot blocks, of the shortest form and of the longest."""
    rows: list[tuple[str, ...]] = []
    for name in library.operations:
        operation = library[name]
        sizes = [int(figures(form.near)[0]) for form in operation.forms]
        span = f"{min(sizes)} … {max(sizes)}" if min(sizes) < max(sizes) else str(sizes[0])
        rows.append((name, operands_of(operation), str(len(sizes)), span))
    return rows


def operands_of(operation: Operation) -> str:
    return ", ".join(f"{item.kind} {item.name}" for item in operation.operands)


def list_rows(library: Library) -> list[tuple[str, ...]]:
    """A row for each form. bytes: of the hot block, without the jump to the next operation; cold: of the other one."""
    rows: list[tuple[str, ...]] = []
    for name in library.operations:
        operation = library[name]
        operands = operands_of(operation)
        rows += [(name, operands, accepts(form), *figures(form.near)) for form in operation.forms]
    return rows


def figures(stencil: Stencil) -> tuple[str, str, str]:
    hot, *cold = stencil.blocks
    holes = sum(len(block.holes) for block in stencil.blocks)
    return str(len(hot.code) - hot.tail), str(sum(len(block.code) for block in cold)), str(holes)


def accepts(form: Form) -> str:
    """What a form takes: the kind of each operand, with its limits where they are narrower than the kind's. Behind it the
    feature that its code needs."""
    taken = ", ".join(accept(item) for item in form.accepts)
    return f"{taken}; needs {form.feature}" if form.feature else taken


def accept(item: Accept) -> str:
    limits = f" {item.low} … {item.high}" if is_narrow(item) else ""
    return item.kind + limits + (f" by {item.align}" if item.align > 1 else "")


def is_narrow(item: Accept) -> bool:
    """Whether the limits say more than the kind does."""
    if item.kind == "slot":
        return item.high < LONG_SLOT
    if integer := re.fullmatch(r"([iu])(\d+)", item.kind):
        bits = int(integer[2])
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if integer[1] == "i" else (0, (1 << bits) - 1)
        return item.low > low or item.high < high
    return False


def aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Rows as lines of plain columns, words to the left and numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(
            cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(cells)
        ).rstrip()


# ---- the code of one operation


def dump(library: Library, name: str) -> Iterator[str]:
    """Lines on all forms of an operation. OperandError: there is no such operation."""
    operation = library[name]
    disassembler = Disassembler(library.target)
    operands = ", ".join(
        f"{item.kind} {item.ctype} {item.name}".replace("  ", " ") for item in operation.operands
    )
    yield f"{name}({operands})  {library.facts['source']}:{operation.line}, {library.target.name}"
    for number, form in enumerate(operation.forms, 1):
        yield ""
        yield f"form {number} of {len(operation.forms)}: {accepts(form) or 'no operands'}"
        for variant, stencil in (("near", form.near), ("far", form.far)):
            if stencil is not None:
                stack = f", {stencil.stack} bytes of stack" if stencil.stack else ""
                yield f"  {variant}{stack}"
                for kind, block in zip(BLOCKS, stencil.blocks, strict=False):
                    yield from block_lines(library, operation, kind, block, disassembler)


def block_lines(
    library: Library, operation: Operation, kind: str, block: Block, disassembler: Disassembler
) -> Iterator[str]:
    """A block instruction by instruction, each with the holes that lie in it."""
    tail = f", the last {block.tail} left out before the next operation" if block.tail else ""
    align = f", aligned to {block.align}" if block.align > 1 else ""
    yield f"    {kind}: {len(block.code)} bytes{tail}{align}"
    for start, data, text in disassembler.instructions(block.code):
        inside = [hole for hole in block.holes if start <= hole.offset < start + len(data)]
        note = "; ".join(describe(library, operation, hole, hole.offset - start) for hole in inside)
        line = f"      {start:4x}  {data.hex(' '):24}  {text:36}"
        yield f"{line}  {note}" if note else line.rstrip()


def describe(library: Library, operation: Operation, hole: Hole, at: int) -> str:
    """A hole in words: byte of the instruction, field, what goes in."""
    addend = f" {'+' if hole.addend > 0 else '-'} {abs(hole.addend)}" if hole.addend else ""
    return f"+{at} {hole.field} = {symbol(library, operation, hole)}{addend}"


def symbol(library: Library, operation: Operation | None, hole: Hole) -> str:
    """What a hole is filled with. operation: None for those of routines."""
    index, operands = hole.index, operation.operands if operation else ()
    match hole.what:
        case What.OPERAND | What.TARGET:
            return operands[index].name
        case What.LITERAL:
            return f"literal {operands[index].name}"
        case What.BLOCK:
            return BLOCKS[index]
        case What.LEAVE:
            return f"leave by {Leave(index).name.lower()}"
        case What.DATA:
            return f"constant {index}"
        case What.IMPORT:
            return library.imports[index].name
        case What.ROUTINE:
            return library.routine_names[index]
        case _:
            return hole.what.name.lower()


class Disassembler:
    """capstone for a target; ModuleNotFoundError if it is not installed."""

    def __init__(self, target: Target) -> None:
        import capstone

        architecture, modes = target.capstone
        mode = reduce(lambda whole, name: whole | getattr(capstone, f"CS_MODE_{name}"), modes, 0)
        self.machine: Any = capstone.Cs(getattr(capstone, f"CS_ARCH_{architecture}"), mode)
        self.unit, self.byteorder = target.code_align, target.byteorder

    def instructions(self, code: bytes) -> Iterator[tuple[int, bytes, str]]:
        """(offset, bytes, text); what capstone does not know as a number."""
        at = 0
        while at < len(code):
            for size, mnemonic, operands in self.known(code[at:]):
                yield at, code[at : at + size], f"{mnemonic} {operands}".rstrip()
                at += size
            if at < len(code):
                data = code[at : at + self.unit]
                value = int.from_bytes(data, self.byteorder)  # type: ignore[arg-type]
                yield at, data, f"{UNITS.get(len(data), '.byte')} {value:#0{2 * len(data) + 2}x}"
                at += len(data)

    def known(self, code: bytes) -> Iterator[tuple[int, str, str]]:
        """What capstone reads up to the first bytes that it does not know."""
        for _, size, mnemonic, operands in self.machine.disasm_lite(code, 0):
            yield size, mnemonic, operands
