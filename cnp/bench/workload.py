"""The program that `cnp bench emission` has assembled, and what it computes: in Python, to hold the C against
(emission.c), and to read what docs/bench-protocol.md says.

    | op i32 | d i32 | a i32 | b i32 | imm u64 |      a record of 24 bytes, little-endian

Operations work on 256 slots of signed 64 bits. The last one is RET.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

RECORD = struct.Struct("<4iQ")
SLOTS = 256
WORD = 1 << 64
SEED = 42


class Kind(IntEnum):
    """What an operation does."""

    LOADI = 0  #: slot d = imm, which no 32 bits hold
    ADD = 1  #: slot d = slot a + slot b
    SUB = 2
    MUL = 3
    CBR = 4  #: if slot a < slot b, signed: go to operation d
    JMP = 5  #: go to operation d
    RET = 6


class Record(NamedTuple):
    """An operation."""

    op: int
    d: int = 0
    a: int = 0
    b: int = 0
    imm: int = 0


#: Which kind a draw below 100 is: the first whose bound is above it.
SHARES = (
    (20, Kind.LOADI), (50, Kind.ADD), (65, Kind.SUB), (80, Kind.MUL), (95, Kind.CBR), (99, Kind.JMP), (100, Kind.RET),
)  # fmt: skip


class Draw:
    """Knuth's MMIX generator (https://www-cs-faculty.stanford.edu/~knuth/mmix.html)."""

    def __init__(self) -> None:
        self.state = SEED

    def step(self) -> int:
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % WORD
        return self.state

    def below(self, bound: int) -> int:
        return (self.step() >> 33) % bound


def records(count: int, verify: bool = False) -> Iterator[Record]:
    """The program of `count` operations. verify: the variant that always ends, to be executed."""
    draw = Draw()
    for i in range(count - 1):
        number = draw.below(100)
        if verify and number == 99:
            number = 0
        kind = next(kind for bound, kind in SHARES if number < bound)
        d = draw.below(SLOTS) if kind <= Kind.MUL else 0
        imm = (draw.step() | 1 << 62) & ~(1 << 63) if kind is Kind.LOADI else 0
        a, b = (draw.below(SLOTS), draw.below(SLOTS)) if Kind.ADD <= kind <= Kind.CBR else (0, 0)
        if kind in (Kind.CBR, Kind.JMP):
            near, far = draw.below(4) < 3, draw.step() >> 33
            d = min(i + 1 + far % 16 if near or verify else far % count, count - 1)
        yield Record(kind, d, a, b, imm)
    yield Record(Kind.RET)


def pack(program: Iterator[Record]) -> bytes:
    """A program as a file of records."""
    return b"".join(RECORD.pack(*record) for record in program)


def unpack(data: bytes | memoryview) -> list[Record]:
    """A file of records as a program."""
    return [Record(*fields) for fields in RECORD.iter_unpack(data)]


def first_slots() -> list[int]:
    """What the slots hold before a program is executed: numbers of both signs."""
    return [number * 0x9E3779B97F4A7C15 % WORD for number in range(SLOTS)]


def interpret(program: list[Record], slots: list[int]) -> None:
    """Execute a program on slots, unsigned words."""
    at = 0
    while program[at].op != Kind.RET:
        op, d, a, b, imm = program[at]
        at += 1
        if op == Kind.LOADI:
            slots[d] = imm
        elif op == Kind.ADD:
            slots[d] = (slots[a] + slots[b]) % WORD
        elif op == Kind.SUB:
            slots[d] = (slots[a] - slots[b]) % WORD
        elif op == Kind.MUL:
            slots[d] = slots[a] * slots[b] % WORD
        elif op == Kind.JMP or signed(slots[a]) < signed(slots[b]):
            at = d


def signed(word: int) -> int:
    return word - WORD if word >> 63 else word
