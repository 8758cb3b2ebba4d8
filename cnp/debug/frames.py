"""How generated code uses the native stack, as `.eh_frame`: read off its instructions, exact at each of them.

At the boundary of two operations the stack is as at the entry of a function: jumps lead from one to the next. Only a
stencil that calls, or runs out of registers, moves the stack pointer, and has moved it back where it goes on. The
layout at build time followed it along all paths (`cnp/build/layout.py`); here its instructions are followed again, with
what they save.

    CIE    pointer + pushed = CFA, the caller's stack pointer; the return address is there, or still in its register
    FDE    one for each range of a function: rows (address, CFA - pointer, register -> place below CFA)
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any, NamedTuple

from cnp.debug.ranges import Range
from cnp.errors import StateError, ToolError
from cnp.patch import Image
from cnp.program import Program
from cnp.show import Disassembler
from cnp.target import Target
from cnp.targets.unwind import RULES, Rules

OFFSET = 0x80  #: DW_CFA_offset, with a register in its low six bits
ADVANCE_LOC4, RESTORE, DEF_CFA, CFA_OFFSET, SAVED = 0x04, 0x06, 0x0C, 0x0E, 0x11  #: further DW_CFA_*
ABSOLUTE = 0  #: DW_EH_PE_absptr
WORD = 8
MOST = 1 << 62  #: further below than any place
GOAL = re.compile(
    r"#?((?:-|\b)(?:0x[0-9a-f]+|\d+))$"
)  #: a number at the end of operands: where a branch goes


class Row(NamedTuple):
    """From this address on. depth: bytes that were taken from the stack. saved: register -> place, in bytes from CFA."""

    address: int
    depth: int
    saved: Mapping[int, int]


class Instruction(NamedTuple):
    """An instruction as capstone prints it. end: where the next one begins."""

    end: int
    mnemonic: str
    operands: str

    @property
    def text(self) -> str:
        return f"{self.mnemonic} {self.operands}"


def rows(program: Program, image: Image, found: Iterable[Range]) -> Iterator[list[Row]]:
    """The rows of each range. ToolError: there is no capstone to read instructions."""
    moving: dict[int, list[Row]] = {}
    reader = Reader(program.library.target)
    by_op = sorted(image.ranges, key=lambda item: item[2])
    for op, group in groupby(by_op, lambda item: item[2]):
        blocks = [(image.base + start, image.base + end) for start, end, _ in group]
        if op < 0:
            starts = set(image.routines.values()) & {start for start, _ in blocks}
            for start in starts:
                moving |= reader.follow(image, [block for block in blocks if block[0] == start], start)
        elif program.ops[op].form.near.stack:
            moving |= reader.follow(image, blocks, image.base + image.offsets[op])
    for part in found:
        yield list(merged(part, moving))


def merged(part: Range, moving: Mapping[int, list[Row]]) -> Iterator[Row]:
    """The rows of the blocks of one range, without those that say what the last one said."""
    last = Row(part.start, 0, {})
    yield last
    for start, _, _ in part.blocks:
        for row in moving.get(start, [Row(start, 0, {})]):
            if row[1:] != last[1:]:
                yield (last := row)


class Reader:
    """Follows the code of one operation or routine along all paths."""

    def __init__(self, target: Target) -> None:
        self.rules: Rules = RULES[target.name]
        try:
            self.machine: Any = Disassembler(target).machine
        except ModuleNotFoundError as error:
            message = (
                "capstone reads what code does to the stack, and is not installed: pip install 'cnp[cli]'"
            )
            raise ToolError(message, tool="capstone") from error

    def follow(self, image: Image, blocks: list[tuple[int, int]], start: int) -> dict[int, list[Row]]:
        """Begin of each block -> its rows."""
        code = dict(self.decode(image, blocks))
        at: dict[int, Row] = {}
        waiting = [Row(start, 0, {})]
        while waiting:
            row = waiting.pop()
            if row.address in code and row.address not in at:
                at[row.address] = row
                waiting += self.after(code, row, at)
        return {begin: [at[a] for a in sorted(at) if begin <= a < end] for begin, end in blocks}

    def decode(self, image: Image, blocks: list[tuple[int, int]]) -> Iterator[tuple[int, Instruction]]:
        for start, end in blocks:
            data = image.code[start - image.base : end - image.base]
            for address, size, mnemonic, operands in self.machine.disasm_lite(data, start):
                yield address, Instruction(address + size, mnemonic, operands)

    def after(self, code: Mapping[int, Instruction], row: Row, at: dict[int, Row]) -> Iterator[Row]:
        """The rows of what may follow an instruction; that of a delay slot is noted at once."""
        rules, here, place = self.rules, code[row.address], row.address
        branches, leaves = rules.branch.match(here.text), rules.leave.match(here.text)
        row, following = self.changed(row, here), here.end
        if rules.delay and (branches or leaves or rules.call.match(here.text)) and following in code:
            at[following] = row._replace(address=following)
            row, following = self.changed(at[following], code[following]), code[following].end
        if branches and (goal := GOAL.search(here.operands)):
            yield row._replace(address=int(goal[1], 0) + (place if rules.relative else 0))
        if not leaves:
            yield row._replace(address=following)

    def changed(self, row: Row, instruction: Instruction) -> Row:
        """The state behind an instruction. A place that was given back is no place of a register any more."""
        moves, saves = self.rules.effect(instruction.mnemonic, instruction.operands)
        depth = row.depth - moves
        if depth < 0:
            message = f"{instruction.text} at {row.address:#x} gives back more stack than was taken"
            raise StateError(message, state="stack")
        top = -depth - self.rules.pushed
        kept = top - self.rules.below if moves > 0 else -depth - MOST
        saved = {register: place for register, place in row.saved.items() if place >= kept}
        for register, offset in saves.items():
            saved.setdefault(register, top + offset)
        return Row(row.address, depth, saved)


# ---- the bytes


def eh_frame(target: Target, found: Iterable[tuple[Range, list[Row]]]) -> bytes:
    """The section for ranges and their rows, with the zero word at its end by which a runtime sees that it ends."""
    rules, order = RULES[target.name], target.byteorder
    first = bytes([DEF_CFA]) + uleb(rules.pointer) + uleb(rules.pushed)
    if rules.pushed:
        first += bytes([OFFSET | rules.link]) + uleb(rules.pushed // WORD)
    # version, augmentation "zR", alignment of code and data, return address, the augmentation: addresses as they are
    cie = b"\1zR\0" + uleb(1) + sleb(-WORD) + bytes([rules.link]) + uleb(1) + bytes([ABSOLUTE])
    section = entry(bytes(4) + cie + first, order)
    for part, table in found:
        back = (len(section) + 4).to_bytes(4, order)  # type: ignore[arg-type]
        spot = struct.pack(("<" if order == "little" else ">") + "QQ", part.start, part.end - part.start)
        section += entry(back + spot + uleb(0) + b"".join(instructions(table, rules.pushed, order)), order)
    return section + bytes(4)


def entry(content: bytes, order: str) -> bytes:
    """A CIE or FDE with its length, filled up with DW_CFA_nop."""
    content += bytes(-(len(content) + 4) % WORD)
    return len(content).to_bytes(4, order) + content  # type: ignore[arg-type]


def instructions(table: list[Row], pushed: int, order: str) -> Iterator[bytes]:
    """What DWARF's machine does from each row to the next."""
    last = Row(table[0].address, 0, {})
    for row in table:
        if step := row.address - last.address:
            yield bytes([ADVANCE_LOC4]) + step.to_bytes(4, order)  # type: ignore[arg-type]
        if row.depth != last.depth:
            yield bytes([CFA_OFFSET]) + uleb(row.depth + pushed)
        for register in sorted(last.saved.keys() | row.saved.keys()):
            place = row.saved.get(register)
            if place is None:
                yield bytes([RESTORE]) + uleb(register)
            elif place != last.saved.get(register):
                yield bytes([SAVED]) + uleb(register) + sleb(place // -WORD)
        last = row


def uleb(value: int) -> bytes:
    """DWARF's unsigned numbers: seven bits a byte, the lowest first, the eighth bit set in all but the last."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + uleb(rest) if rest else bytes([low])


def sleb(value: int) -> bytes:
    """The signed ones: the highest bit that is written is the sign."""
    low, rest = value & 0x7F, value >> 7
    if rest == (-1 if low & 0x40 else 0):
        return bytes([low])
    return bytes([low | 0x80]) + sleb(rest)
