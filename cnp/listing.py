"""Finished code for people: each instruction with its address, its bytes, the operation it belongs to and what was patched.

for line in code.listing():
    print(line)

0x7f0a8c400010  48 81 c3 05 00 00 00      add rbx, 5             3 i64_add r[1], r[1], 5    b=5 (imm32)    prog.lang:7
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from cnp.errors import StateError
from cnp.operands import At, Slot, Table, Value, name_of
from cnp.patch import Image, Patcher
from cnp.plan import Piece, Plan
from cnp.program import Program
from cnp.show import Disassembler, symbol
from cnp.target import Target

WORD = 8  #: bytes of data in a line


class Patched(NamedTuple):
    """A hole that was filled. address: of the unit that holds it; name: what it is for; value: before it is shifted."""

    address: int
    field: str
    name: str
    value: int

    def __str__(self) -> str:
        return f"{self.name}={self.value:#x} ({self.field})"


class Line(NamedTuple):
    """An instruction, or some data. text: "" where there is no capstone; then a line is a whole block of code.

    op: position of the operation, -1 for what all share. name: of the operation, the routine, or what this is. operands:
    as text, on the first line of an operation. at: source position.
    """

    address: int
    code: bytes
    text: str
    op: int
    name: str
    operands: str
    holes: tuple[Patched, ...]
    at: At | None

    def __str__(self) -> str:
        number = f"{self.op} " if self.op >= 0 else ""
        source = f"{self.at[0]}:{self.at[1]}" if self.at else ""
        columns = (
            f"{self.address:#x}",
            f"{self.code.hex(' '):30}",
            f"{self.text:36}",
            f"{number}{self.name} {self.operands}".rstrip(),
            ", ".join(map(str, self.holes)),
            source,
        )
        return "  ".join(columns).rstrip()


def listing(program: Program, image: Image) -> Iterator[Line]:
    """The lines of an image in the order of addresses, its read-only data last. StateError: it is not of this program, or
    of what that was before it was edited."""
    plan = Plan(program)
    plan.settle(image.base, image.imports)
    if plan.end != len(image.code) or [p.address - image.base for p in plan.hot] != list(image.offsets):
        raise StateError("this image is not what the program is now", state="edited")
    patcher = Patcher(plan, image.data_base)
    disassembler = instructions_of(plan.target)
    end = image.base
    for piece in patcher.pieces():
        if piece.keep:
            yield from piece_lines(image, patcher, piece, disassembler)
            end = max(end, piece.address + piece.keep)
    for address in range(end, image.base + len(image.code), WORD):
        yield Line(address, between(image, address, address + WORD), "", -1, "data", "", (), None)


def instructions_of(target: Target) -> Disassembler | None:
    """capstone, if it is installed."""
    try:
        return Disassembler(target)
    except ModuleNotFoundError:
        return None


def between(image: Image, start: int, end: int) -> bytes:
    """The bytes of an image between two addresses."""
    return image.code[start - image.base : end - image.base]


def piece_lines(
    image: Image, patcher: Patcher, piece: Piece, disassembler: Disassembler | None
) -> Iterator[Line]:
    """The lines of one block. What stands for an operation is said on the first of them."""
    code = between(image, piece.address, piece.address + piece.keep)
    op = patcher.plan.ops[piece.op] if piece.op >= 0 else None
    name, operands = piece.name or (op.operation.name if op else ""), ""
    if op and not piece.name:
        operands = ", ".join(map(operand_text, op.values))
    holes = tuple(patched_holes(patcher, piece))
    for start, data, text in disassembler.instructions(code) if disassembler else ((0, code, ""),):
        address = piece.address + start
        inside = tuple(hole for hole in holes if address <= hole.address < address + len(data))
        yield Line(address, data, text, piece.op, name, operands, inside, op.at if op else None)
        operands = ""


def patched_holes(patcher: Patcher, piece: Piece) -> Iterator[Patched]:
    """The holes of a block with their values."""
    operation = patcher.plan.ops[piece.op].operation if piece.op >= 0 else None
    for number, hole in enumerate(piece.block.holes):
        if hole.offset < piece.keep:
            fld = patcher.target.fields[hole.field]
            value = fld.value(patcher.symbol(piece, number, hole), hole.addend, piece.address + hole.place)
            name = "goal" if piece.goal is not None else symbol(patcher.library, operation, hole)
            yield Patched(piece.address + hole.offset, hole.field, name, value)


def operand_text(value: Value) -> str:
    """An operand as it would be written."""
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Slot):
        return f"slot({value.offset})"
    if isinstance(value, Table):
        return f"table({', '.join(label.name for label in value.labels)})"
    return repr(value) if value.__class__.__name__ == "Register" else name_of(value)
