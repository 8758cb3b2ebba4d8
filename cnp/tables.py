"""The tables of a stencil file: forms and everything they are made of, as rows of fixed size, each checked
when it is read.

    forms        16 bytes each: first of takes u32, near stencil u32, far stencil u32, ties u16, feature u16
    takes         2 bytes each: number of an accept; a run of them for each form
    accepts      24 bytes each: low u64, high - low u64, mask u32, log2 of align u16, kind u8, low is negative u8
    stencils     14 bytes each: hot block u32, cold block u32, native stack u32, instructions u16
    blocks       16 bytes each: code offset u32, code length u32, first of runs u32, holes u16, tail u8, log2 of align u8
    runs          4 bytes each: number of a hole; a run of them for each block
    holes        20 bytes each: offset u32, place i32, addend i64, field u8, what u8, index u16
    code          bytes of all blocks, then of all constants

0xFFFFFFFF is the number of no stencil or block. Equal accepts, stencils, blocks, holes, runs and code are
stored once. Names (kinds, features, fields) and ties are lists in the head of the file; rows have their
index.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cnp.stencil import Accept, Block, Form, Hole, Operation, Stencil, What
from cnp.target import Target

FORM = struct.Struct("<IIIHH")
TAKE = struct.Struct("<H")
ACCEPT = struct.Struct("<QQIHBB")
STENCIL = struct.Struct("<IIIH")
BLOCK = struct.Struct("<IIIHBB")
RUN = struct.Struct("<I")
HOLE = struct.Struct("<IiqBBH")
CODE = struct.Struct("<B")
#: In the order of the file.
TABLES = {
    "forms": FORM, "takes": TAKE, "accepts": ACCEPT, "stencils": STENCIL, "blocks": BLOCK, "runs": RUN, "holes": HOLE,
    "code": CODE,
}  # fmt: skip
NONE = 0xFFFF_FFFF
WORD = 1 << 64
MOST_OPERANDS = 6  #: of an operation
MOST_ALIGN = 12  #: log2 of what code and constants may be aligned to

Pairs = tuple[tuple[int, int], ...]
Ties = tuple[Pairs, Pairs]  #: `same` and `differ` of a form


class Asked(NamedTuple):
    """What holes ask for: so many operands, these of them as places in code (bits), so many blocks of their
    operation, so many bytes of code around them."""

    operands: int = 0
    code: int = 0
    blocks: int = 0
    end: int = 0

    @property
    def of_operation(self) -> bool:
        """Whether they ask for what only an operation has, not a routine."""
        return self.operands + self.blocks > 0


def together(asked: Sequence[Asked]) -> Asked:
    """All of several demands."""
    if len(asked) == 1:
        return asked[0]
    code = 0
    for item in asked:
        code |= item.code
    most = [max(column, default=0) for column in zip(*asked, strict=True)] or [0, 0, 0, 0]
    return Asked(most[0], code, most[2], most[3])


# ---- writing


class Rows:
    """A table of distinct rows, numbered by their first use."""

    def __init__(self, layout: struct.Struct) -> None:
        self._layout, self._numbers = layout, dict[bytes, int]()

    def add(self, *values: int) -> int:
        """Number of the row."""
        return self._numbers.setdefault(self._layout.pack(*values), len(self._numbers))

    def __bytes__(self) -> bytes:
        return b"".join(self._numbers)


class Runs:
    """A table of numbers in which each distinct sequence lies once."""

    def __init__(self, layout: struct.Struct) -> None:
        self._layout, self._first, self._data = layout, dict[tuple[int, ...], int](), bytearray()

    def add(self, numbers: Iterable[int]) -> int:
        """Where the sequence begins."""
        run = tuple(numbers)
        if run not in self._first:
            self._first[run] = len(self._data) // self._layout.size
            self._data += b"".join(map(self._layout.pack, run))
        return self._first[run]

    def __bytes__(self) -> bytes:
        return bytes(self._data)


class Writer:
    """Collects the tables while the head is put together."""

    def __init__(self, target: Target) -> None:
        self.fields = {name: number for number, name in enumerate(target.fields)}
        self.kinds: dict[str, int] = {}
        self.features: dict[str, int] = {"": 0}
        self.ties: dict[Ties, int] = {((), ()): 0}
        self.forms: list[bytes] = []
        self.takes, self.runs = Runs(TAKE), Runs(RUN)
        self.accepts, self.stencils, self.blocks, self.holes = map(Rows, (ACCEPT, STENCIL, BLOCK, HOLE))
        self.code = bytearray()
        self._places: dict[bytes, int] = {}

    def operation(self, op: Operation) -> list[object]:
        """An operation as the head has it; its forms go into their table."""
        first = len(self.forms)
        self.forms += [self.form(form) for form in op.forms]
        return [op.name, op.line, int(op.calls), [list(o) for o in op.operands], first, len(op.forms)]

    def form(self, form: Form) -> bytes:
        return FORM.pack(
            self.takes.add(map(self.accept, form.accepts)),
            self.stencil(form.near),
            self.stencil(form.far) if form.far else NONE,
            self.ties.setdefault((form.same, form.differ), len(self.ties)),
            self.features.setdefault(form.feature, len(self.features)),
        )

    def accept(self, accept: Accept) -> int:
        kind = self.kinds.setdefault(accept.kind, len(self.kinds))
        low, span, log2 = accept.low % WORD, accept.high - accept.low, accept.align.bit_length() - 1
        if not 0 <= log2 < 64 or accept.align != 1 << log2:
            raise ValueError(
                f"an operand is a multiple of {accept.align}, which is no power of two below 2^64"
            )
        return self.accepts.add(low, span, accept.mask, log2, kind, accept.low < 0)

    def stencil(self, stencil: Stencil) -> int:
        hot, *cold = map(self.block, stencil.blocks)
        return self.stencils.add(hot, *(cold or [NONE]), stencil.stack, stencil.instructions)

    def block(self, block: Block) -> int:
        start, run = self.place(block.code), self.runs.add(map(self.hole, block.holes))
        log2 = block.align.bit_length() - 1
        return self.blocks.add(start, len(block.code), run, len(block.holes), block.tail, log2)

    def hole(self, hole: Hole) -> int:
        number = self.fields[hole.field]
        return self.holes.add(hole.offset, hole.place, hole.addend, number, hole.what, hole.index)

    def place(self, data: bytes) -> int:
        """Offset of `data` in the code; equal data is stored once."""
        if data not in self._places:
            self._places[data] = len(self.code)
            self.code += data
        return self._places[data]

    def tables(self) -> list[bytes]:
        """All tables in the order of the file."""
        return [
            b"".join(self.forms), bytes(self.takes), bytes(self.accepts), bytes(self.stencils), bytes(self.blocks),
            bytes(self.runs), bytes(self.holes), bytes(self.code),
        ]  # fmt: skip


# ---- reading


@dataclass(frozen=True, slots=True)
class Names:
    """What rows refer to by number in the head. fields: (name, bytes of its unit); most: of each `What`, how
    many there are."""

    kinds: Sequence[str]
    features: Sequence[str]
    ties: Sequence[Ties]
    fields: Sequence[tuple[str, int]]
    most: Sequence[int]


class Tables:
    """Reads rows and makes them into what they mean, each once. ValueError, LookupError or struct.error: a
    row says what cannot be, or there is no such row; nothing is ever read from beside its table."""

    def __init__(self, tables: dict[str, memoryview], names: Names) -> None:
        self._names = names
        self._form_rows, self._take_rows, self._accept_rows, self._stencil_rows = [
            tables[n] for n in list(TABLES)[:4]
        ]
        self._block_rows, self._run_rows, self._hole_rows, self._code = [tables[n] for n in list(TABLES)[4:]]
        self._takes: dict[tuple[int, int], tuple[tuple[Accept, ...], int]] = {}
        self._accepts: dict[int, Accept] = {}
        self._stencils: dict[int, tuple[Stencil, Asked]] = {}
        self._blocks: dict[int, tuple[Block, Asked]] = {}
        self._runs: dict[tuple[int, int], tuple[tuple[Hole, ...], Asked]] = {}
        self._holes: dict[int, tuple[Hole, Asked]] = {}

    def forms(self, first: int, count: int, operands: int) -> tuple[Form, ...]:
        """`count` forms of an operation with so many operands."""
        start, end = first * FORM.size, (first + count) * FORM.size
        if not 0 <= start <= end <= len(self._form_rows) or operands > MOST_OPERANDS:
            raise ValueError(f"{count} forms from {first}, or {operands} operands")
        return tuple([self._form(operands, *row) for row in FORM.iter_unpack(self._form_rows[start:end])])

    def _form(self, operands: int, take: int, near: int, far: int, ties: int, feature: int) -> Form:
        """A form takes all operands of its operation, and its stencils ask for no more than there is."""
        accepts, code = self._taken(take, operands)
        short = long = self.stencil(near)
        if far != NONE:
            long = self.stencil(far)
        blocks = len(short[0].blocks)
        for stencil, asked in (short, long):
            if asked.operands > operands or asked.blocks > blocks or asked.code & ~code:
                raise ValueError("holes for operands or blocks that are not there")
            if len(stencil.blocks) != blocks:
                raise ValueError("a near and a far stencil with different blocks")
        same, differ = self._names.ties[ties]
        if any(not 0 <= number < operands for pair in (*same, *differ) for number in pair):
            raise ValueError("a tie of operands that are not there")
        distant = long[0] if far != NONE else None
        return Form(accepts, short[0], distant, same, differ, self._names.features[feature])

    def _taken(self, first: int, operands: int) -> tuple[tuple[Accept, ...], int]:
        """What the operands of a form take, and which of them are places in code (bits)."""
        known = self._takes.get((first, operands))
        if known is None:
            numbers = struct.unpack_from(f"<{operands}H", self._take_rows, first * TAKE.size)
            accepts = tuple(map(self._accept, numbers))
            code = sum(1 << n for n, accept in enumerate(accepts) if accept.kind in ("label", "func"))
            known = self._takes[first, operands] = accepts, code
        return known

    def _accept(self, number: int) -> Accept:
        known = self._accepts.get(number)
        if known is None:
            low, span, mask, log2, kind, negative = ACCEPT.unpack_from(
                self._accept_rows, number * ACCEPT.size
            )
            low -= WORD if negative else 0
            if log2 > 63 or low < -(WORD >> 1) or low + span >= WORD:
                raise ValueError(f"an operand from {low} to {low + span}, a multiple of 2^{log2}")
            known = self._accepts[number] = Accept(self._names.kinds[kind], low, low + span, 1 << log2, mask)
        return known

    def stencil(self, number: int) -> tuple[Stencil, Asked]:
        """A stencil, and what it asks of its operation."""
        known = self._stencils.get(number)
        if known is None:
            hot, cold, stack, instructions = STENCIL.unpack_from(self._stencil_rows, number * STENCIL.size)
            found = [self.block(hot)]
            if cold != NONE:
                found.append(self.block(cold))
            stencil = Stencil(tuple([block for block, _ in found]), stack, instructions)
            known = self._stencils[number] = stencil, together([asked for _, asked in found])
        return known

    def block(self, number: int) -> tuple[Block, Asked]:
        """A block, and what it asks of its operation."""
        known = self._blocks.get(number)
        if known is None:
            start, size, run, count, tail, log2 = BLOCK.unpack_from(self._block_rows, number * BLOCK.size)
            holes, asked = self._run(run, count)
            if asked.end > size or tail > size or log2 > MOST_ALIGN:
                raise ValueError(
                    f"a block of {size} bytes: holes to {asked.end}, tail {tail}, align 2^{log2}"
                )
            known = self._blocks[number] = Block(self.code(start, size), holes, tail, 1 << log2), asked
        return known

    def _run(self, first: int, count: int) -> tuple[tuple[Hole, ...], Asked]:
        """The holes of a block."""
        known = self._runs.get((first, count))
        if known is None:
            numbers = struct.unpack_from(f"<{count}I", self._run_rows, first * RUN.size) if count else ()
            found = [self._hole(number) for number in numbers]
            holes = tuple([hole for hole, _ in found])
            known = self._runs[first, count] = holes, together([asked for _, asked in found])
        return known

    def _hole(self, number: int) -> tuple[Hole, Asked]:
        known = self._holes.get(number)
        if known is None:
            offset, place, addend, fld, kind, index = HOLE.unpack_from(self._hole_rows, number * HOLE.size)
            (name, size), what = self._names.fields[fld], What(kind)
            if index >= self._names.most[what]:
                raise ValueError(f"a hole for {what.name} {index}")
            end, operand = offset + size, what in (What.OPERAND, What.TARGET, What.LITERAL)
            blocks = index + 1 if what == What.BLOCK else int(what in (What.NEXT, What.LEAVE))
            asked = Asked((index + 1) * operand, (what == What.TARGET) << index, blocks, end)
            known = self._holes[number] = Hole(offset, name, what, index, addend, place), asked
        return known

    def code(self, start: int, size: int) -> bytes:
        """Bytes of the code."""
        if not 0 <= start <= start + size <= len(self._code):
            raise ValueError(f"{size} bytes at {start} of the code")
        return bytes(self._code[start : start + size])
