"""What one operation does to registers, slots and memory: the oracle of form_rig.py, by tests/reference.py.

An operation is given the words of its operands by name and the memory around it; it answers with an `Effect`. Nothing
here knows where operands lie or which form is executed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from tests.reference import (
    ATOMICS,
    LOADS,
    MASK64,
    MAY_TRAP,
    STORES,
    UPDATES,
    WITH_LOAD,
    Trap,
    decode,
    encode,
    references,
    width,
)

OUT_OF_BOUNDS = 4  # trap code of the contract
MASK32 = (1 << 32) - 1
Words = Mapping[str, int]
Order = Literal["little", "big"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at an address."""

    address: int
    data: bytes
    order: Order

    def read(self, address: int, size: int) -> int:
        """A number of `size` bytes. IndexError: it lies elsewhere, or not aligned."""
        at = address - self.address
        if not 0 <= at <= len(self.data) - size or at % size:
            raise IndexError(f"{size} bytes at {address:#x}")
        return int.from_bytes(self.data[at : at + size], self.order)


class Effect(NamedTuple):
    """What an operation leaves behind.

    result: the word for its output or for the result of the function, None for any NaN, if `writes`. stored: (address,
    value, bytes) of what it wrote to memory. way: 0 it goes on, n it goes to its n-th label, -1 it exits. trap: its code.
    """

    writes: bool = False
    result: int | None = 0
    stored: tuple[int, int, int] | None = None
    way: int = 0
    trap: int | None = None
    returns: bool = False


Meaning = Callable[[Words, Memory], Effect]

#: Tested elsewhere: calls (test_operation_calls.py), and what needs a context of its own (test_operations.py).
ELSEWHERE = {
    "call", "call_kill", "call_table", "call_table_kill", "call_c", "call_c_f64", "call_c_f32", "poll",
}  # fmt: skip


@cache
def meaning(name: str, operands: tuple[str, ...]) -> Meaning:
    """What an operation with operands of these names does. KeyError: nobody has written it down."""
    if name in CONTROL:
        return CONTROL[name]
    if name.startswith("br_"):
        return branch(name[3:], operands[:-1])
    if name.startswith("try_"):
        return attempt(name[4:], operands[1:-1])
    if name in references():
        return value(name, operands[1:])
    if name.removesuffix("_load") in WITH_LOAD:
        return with_load(name.removesuffix("_load"))
    if name.removesuffix("_to") in UPDATES:
        return update(name.removesuffix("_to"))
    if "_atomic_" in name:
        return atomic(name)
    plain = name.removesuffix("_at").removesuffix("_checked")
    return load(name, *LOADS[plain]) if plain in LOADS else store(name, *STORES[plain])


@cache
def forks(name: str) -> bool:
    """Whether an operation may end in several ways."""
    fork = name.startswith("br_") or name.endswith("_checked") or name in ("jump_table", "i64_count_down")
    return fork or name.removeprefix("try_") in MAY_TRAP


@cache
def word_of(name: str, words: tuple[int, ...]) -> int | None:
    """`Reference.word`, each once for all targets."""
    return references()[name].word(*words)


def value(name: str, inputs: tuple[str, ...]) -> Meaning:
    def compute(words: Words, _: Memory) -> Effect:
        try:
            return Effect(True, word_of(name, tuple([words[item] for item in inputs])))
        except Trap as trap:
            return Effect(trap=trap.code)

    return compute


def attempt(name: str, inputs: tuple[str, ...]) -> Meaning:
    """As `value`, but to the label where that traps."""
    compute = value(name, inputs)

    def go(words: Words, around: Memory) -> Effect:
        effect = compute(words, around)
        return effect if effect.trap is None else Effect(way=1)

    return go


def branch(name: str, inputs: tuple[str, ...]) -> Meaning:
    def go(words: Words, _: Memory) -> Effect:
        taken = word_of(name, tuple([words[item] for item in inputs]))
        return Effect(way=1 if taken else 0)

    return go


# ---- memory


@cache
def size_of(name: str) -> int:
    """Bytes of memory that an operation touches, 0 for none."""
    plain = name.removesuffix("_at").removesuffix("_checked")
    if "_atomic_" in name:
        return width(name.partition("_")[0]) // 8
    kind, _, last = plain.rpartition("_")
    if (last == "load" and kind in WITH_LOAD) or (last == "to" and kind in UPDATES):
        return width(name.partition("_")[0]) // 8
    types = LOADS.get(plain) or STORES.get(plain)
    return width(types[1]) // 8 if types else 0


def place(name: str, words: Words, size: int) -> int | None:
    """The address of an access; None where it is out of bounds."""
    at = words["base"] + words["offset"]
    if name.endswith("_at"):
        at += words["index"] * words["scale"]
    elif name.endswith("_checked"):
        index = words["index"] & MASK32
        if (index + words["offset"] + size & MASK64) > words["size"]:
            return None
        at += index
    return at & MASK64


def load(name: str, result: str, memory: str) -> Meaning:
    size, result = width(memory) // 8, result.replace("f", "u")

    def read(words: Words, around: Memory) -> Effect:
        at = place(name, words, size)
        if at is None:
            return Effect(trap=OUT_OF_BOUNDS)
        return Effect(True, encode(result, decode(memory, around.read(at, size))))

    return read


def store(name: str, _: str, memory: str) -> Meaning:
    size = width(memory) // 8

    def write(words: Words, around: Memory) -> Effect:
        at = place(name, words, size)
        if at is None:
            return Effect(trap=OUT_OF_BOUNDS)
        around.read(at, size)
        return Effect(stored=(at, words["a"] & (1 << 8 * size) - 1, size))

    return write


def with_load(name: str) -> Meaning:
    size = size_of(name + "_load")

    def compute(words: Words, around: Memory) -> Effect:
        loaded = around.read(words["base"] + words["offset"] & MASK64, size)
        return Effect(True, word_of(name, (words["a"], loaded)))

    return compute


def update(name: str) -> Meaning:
    size = size_of(name + "_to")

    def change(words: Words, around: Memory) -> Effect:
        at = words["base"] + words["offset"] & MASK64
        new = word_of(name, (around.read(at, size), words["a"]))
        assert new is not None
        return Effect(stored=(at, new, size))

    return change


def atomic(name: str) -> Meaning:
    prefix, _, kind = name.partition("_atomic_")
    size = width(prefix) // 8
    mask = (1 << 8 * size) - 1

    def do(words: Words, around: Memory) -> Effect:
        at = words["base"] + words["offset"] & MASK64
        old = around.read(at, size)
        if kind == "load":
            return Effect(True, old)
        if kind == "store":
            return Effect(stored=(at, words["a"] & mask, size))
        if kind == "cas":
            new = words["desired"] if old == words["expected"] & mask else old
        else:
            new = ATOMICS[kind](old, words["a"])
        return Effect(True, old, (at, new & mask, size))

    return do


# ---- control


def entry(index: int, count: int) -> int:
    """The label of a table, from 1 on; 0 beyond it."""
    return 1 + index if index < count else 0


def count_down(words: Words, _: Memory) -> Effect:
    left = words["a"] - 1 & MASK64
    return Effect(True, left, way=1 if left else 0)


CONTROL: dict[str, Meaning] = {
    "i64_count_down": count_down,
    "jump": lambda words, _: Effect(way=1),
    "jump_address": lambda words, _: Effect(way=1),
    "jump_table": lambda words, _: Effect(way=entry(words["index"], words["count"] & MASK32)),
    "ret": lambda words, _: Effect(True, words["a"], returns=True),
    "trap": lambda words, _: Effect(trap=words["code"] & MASK32),
    "leave": lambda words, _: Effect(way=-1),
}


# ---- an f32 where a register holds it as the f64 of the same value


def widened(word: int) -> int:
    """The bits of the f64 that has the value of an f32, a NaN's payload at the same end."""
    exponent, mantissa = word >> 23 & 0xFF, word & 0x7F_FFFF
    if exponent == 0xFF:
        return (word >> 31 & 1) << 63 | 0x7FF << 52 | mantissa << 29
    number = struct.unpack("<f", struct.pack("<I", word & MASK32))[0]
    return int.from_bytes(struct.pack("<d", number), "little")
