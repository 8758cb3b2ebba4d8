"""Cases: inputs for a use, chosen so that it ends in each of its ways, and the effect that the reference expects.

A case has a frame of its own, with some memory behind its first slots:

    context | header with registers | slots 0 … 120 | memory
                                    ^ frame         ^ frame + 128
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import NamedTuple

from cnp.library import Library
from cnp.operands import Register, Slot, Value
from tests.form_meaning import Effect, Memory, Order, forks, meaning, size_of
from tests.form_uses import NEAR, Use
from tests.reference import MASK64, edge_words

BUFFER = 64  #: bytes of memory
TABLE = 3  #: labels of a jump table
TRIES = 8  #: to find inputs that end in another way
INDICES = (3, MASK64 - 4, 1 << 20, 0)  #: of base + index * scale
CHECKED = (0, 7, 0xFFFF_FFFF, 1 << 31)  #: of base + index
ABOVE = 0xDEAD_BEEF << 32  #: above an index of 32 bits
MASK32 = 0xFFFF_FFFF
CONTENTS = Random("memory").randbytes(4096)
End = tuple[int, "int | None"]


@dataclass(slots=True)
class Case:
    """One run of a use. use: its number; frame: address of slot 0; words: what its inputs hold, by offset in the frame."""

    use: int
    frame: int
    words: dict[int, int]
    effect: Effect


class Read(NamedTuple):
    """An operand that is read. at: its offset in the frame, None for an immediate, whose word is `word`."""

    name: str
    ctype: str
    at: int | None
    word: int
    declared: str


def contents(frame: int) -> bytes:
    """What lies in the memory of a case beforehand."""
    at = (frame >> 4) % (len(CONTENTS) - BUFFER)
    return CONTENTS[at : at + BUFFER]


def place(library: Library, value: Value) -> int | None:
    """Where an operand lies in its frame; None if it does not."""
    if isinstance(value, Register):
        return library.home(value)
    return value.offset if isinstance(value, Slot) else None


@cache
def edges(ctype: str) -> list[int]:
    """Words for an input of a type."""
    return edge_words(ctype)


class Inputs:
    """Makes the cases of one use. goal: the code address that an operand `address` is to hold."""

    def __init__(self, library: Library, random: Random, number: int, use: Use, goal: int) -> None:
        self.random, self.number, self.use, self.goal = random, number, use, goal
        self.order: Order = library.target.byteorder  # type: ignore[assignment]
        operation = use.operation
        self.size = size_of(operation.name)
        self.compute = meaning(operation.name, tuple([item.name for item in operation.operands]))
        self.ends: set[End] = set()
        self.made = 0
        self.tries = TRIES if forks(operation.name) else 1
        self.reads = [
            Read(item.name, item.ctype, place(library, value), value & MASK64 if isinstance(value, int) else 0, item.kind)
            for item, value in zip(operation.operands, use.values, strict=True)
            if item.kind in ("in", "in/imm", "imm")
        ]  # fmt: skip
        self.places = {read.name: read.at for read in self.reads if read.at is not None}
        self.fixed = {read.name: read.word for read in self.reads if read.at is None}
        if self.size and self.fixed.get("offset", 0) >> 63:
            self.fixed["offset"] -= 1 << 64

    def case(self, frame: int) -> Case | None:
        """A case that ends in a new way, if that is easily found. None: there is none at all."""
        found = None
        self.made += 1
        around = Memory(frame + 8 * NEAR, contents(frame), self.order)
        for turn in range(TRIES):
            words = self.words(around)
            given = self.fixed | {name: words[at] for name, at in self.places.items()}
            try:
                effect = self.compute(given, around)
            except IndexError:
                continue
            found = Case(self.number, frame, words, effect)
            end = (effect.way, effect.trap)
            if end not in self.ends:
                self.ends.add(end)
                break
            if turn + 1 >= self.tries:
                break
        return found

    def words(self, around: Memory) -> dict[int, int]:
        """Words for the places that are read; the later operand wins where two share one. Every second case may have
        equal ones."""
        random, words = self.random, dict[int, int]()
        equal = 0.3 if self.made % 2 == 0 or self.tries > 1 else 0
        last: int | None = None
        for read in self.reads:
            if read.at is None:
                if last is not None and read.declared == "in/imm" and random.random() < equal:
                    words[last] = read.word  # a comparison with what is equal
                continue
            chance = random.random()
            if last is not None and chance < equal:
                words[read.at] = words[last]
            else:
                words[read.at] = random.getrandbits(64) if chance > 0.8 else random.choice(edges(read.ctype))
            last = read.at
        if "address" in self.places:
            words[self.places["address"]] = self.goal
        elif "count" in self.fixed:
            words[self.places["index"]] = self.index_of_table()
        elif self.size:
            self.aim(words, around)
        return words

    def index_of_table(self) -> int:
        """One of a label, or beyond the table."""
        count = self.fixed["count"] & MASK32
        inside = list(range(min(count, TABLE)))
        return self.random.choice([*inside, *inside, count, count + 1, count + (1 << 32), MASK64])

    def aim(self, words: dict[int, int], around: Memory) -> None:
        """Let the operands of an access make an address in the memory, or trap."""
        goal = around.address + self.size * self.random.randrange(BUFFER // self.size) - self.fixed["offset"]
        if "scale" in self.fixed:
            self.aim_scaled(words, goal)
        elif "size" in self.places:
            self.aim_checked(words, goal)
        else:
            base, expected = self.places["base"], self.places.get("expected")
            words[base] = goal & MASK64
            if expected not in (None, base) and self.random.random() < 0.5:
                words[expected] = around.read(goal + self.fixed["offset"], self.size)

    def aim_scaled(self, words: dict[int, int], goal: int) -> None:
        base, index, scale = self.places["base"], self.places["index"], self.fixed["scale"]
        if base == index:
            words[base] = solved(goal & MASK64, 1 + scale)
            return
        words[index] = self.random.choice(INDICES)
        words[base] = goal - words[index] * scale & MASK64

    def aim_checked(self, words: dict[int, int], goal: int) -> None:
        """The memory ends behind the access, later, or within it."""
        base, index = self.places["base"], self.places["index"]
        number = self.random.choice(CHECKED)
        end = number + self.fixed["offset"] + self.size
        words[self.places["size"]] = self.random.choice((end, end, end + 1, MASK64, end - 1)) & MASK64
        if base == index:
            low = (goal & MASK32) // 2
            words[base] = goal - low & MASK64
            return
        words[index] = number | self.random.choice((0, ABOVE))
        words[base] = goal - number & MASK64


def solved(product: int, factor: int) -> int:
    """A number that is `product` modulo 2**64 when it is multiplied by a factor; for an even factor, half of one."""
    if factor & 1:
        return product * pow(factor, -1, 1 << 64) & MASK64
    return product // factor
