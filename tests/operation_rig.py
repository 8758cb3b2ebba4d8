"""Runs every form of every operation over tables of edge values: one program, one run of it, many results.

Each operation has a loop over the rows of its table of inputs. One turn executes the operation once for each variant:
with its operands in other slots, aliased in another way, or with another immediate.

    slot IN ---> row: input 0, input 1, …            slot OUT ---> result of variant 0, of variant 1, …
                 row: input 0, input 1, …                          result of variant 0, …

The program makes its own loops with the operations under test; what these do wrong shows in the results.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import Any, Literal, NamedTuple

from cnp import slot
from cnp.assembler import Slot
from cnp.library import Library
from tests.reference import (
    ANY_NAN,
    LOADS,
    MASK64,
    STORES,
    Number,
    Reference,
    Trap,
    edge_words,
    hole_values,
    hole_word,
    is_nan,
    references,
    width,
)

IN, OUT, END, BASE, SPARE = (slot(8 * number) for number in range(5))
#: Where operands lie: in reach of every short form (and equal to an immediate), and in reach of none.
NEAR, FAR = 128, 70000
FRAME = FAR + 64
UNTOUCHED = 0xA5  #: what output memory holds beforehand
FEW = 10  #: edge values of each input where there are three of them


class Place(NamedTuple):
    """Where a result lies, and the byte order there."""

    address: int
    big: bool

    @property
    def order(self) -> Literal["big", "little"]:
        return "big" if self.big else "little"


Row = tuple[int, ...]
Emit = Callable[[Any, int], None]
Expect = Callable[[Row, Place], "int | None"]


@dataclass(frozen=True, slots=True)
class Variant:
    """One use of an operation. emit(asm, at) executes it and stores a word at OUT + at. expect(row, place) is the word
    that lies there afterwards; ANY_NAN for a NaN of type `nan`."""

    what: str
    emit: Emit
    expect: Expect
    nan: str = "f64"


@dataclass(slots=True)
class Experiment:
    """The variants of one operation that share a table of inputs. placed: what is expected depends on the place."""

    name: str
    rows: list[Row]
    variants: list[Variant] = field(default_factory=list)
    placed: bool = False
    known: list[int | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows) * len(self.variants)

    def expected(self, address: int, big: bool) -> list[int | None]:
        """What its results are to be, if they begin at `address`."""
        if self.placed:
            places = iter(range(address, address + 8 * len(self), 8))
            return [
                variant.expect(row, Place(next(places), big))
                for row in self.rows
                for variant in self.variants
            ]
        if not self.known:
            nowhere = Place(0, False)
            self.known = [variant.expect(row, nowhere) for row in self.rows for variant in self.variants]
        return self.known


# ---- where operands lie


@cache
def partitions(count: int) -> tuple[tuple[int, ...], ...]:
    """All aliasings of `count` operands: operand -> place, places numbered in order of appearance."""
    if count == 0:
        return ((),)
    return tuple((*rest, new) for rest in partitions(count - 1) for new in range(max(rest, default=-1) + 2))


def layouts(count: int) -> Iterator[tuple[Slot, ...]]:
    """Slots for `count` operands: every aliasing near and far, and one of each kind mixed."""
    for places in partitions(count):
        for base in (NEAR, FAR):
            yield tuple(slot(base + 8 * place) for place in places)
    yield tuple(slot((NEAR, FAR)[number % 2] + 8 * number) for number in range(count))
    yield tuple(slot((FAR, NEAR)[number % 2] + 8 * number) for number in range(count))


def as_read(inputs: Sequence[Slot | None], row: Row) -> Row:
    """The inputs as the operation sees them: the last one that was put into a shared slot is what both read."""
    last = {place: word for place, word in zip(inputs, row, strict=True) if place is not None}
    return tuple(word if place is None else last[place] for place, word in zip(inputs, row, strict=True))


def fetch(asm: Any, inputs: Sequence[Slot | None]) -> None:
    """Put the inputs of the current row into their slots."""
    for number, place in enumerate(inputs):
        if place is not None:
            asm.i64_load(place, IN, 8 * number)


def keep(asm: Any, ctype: str, place: Slot, at: int) -> None:
    """Store a result. Of an f32 the upper half is not written and not looked at."""
    if ctype == "f32":
        asm.i32_move(SPARE, place)
        place = SPARE
    asm.i64_store(OUT, at, place)


# ---- experiments


def experiments() -> list[Experiment]:
    """Everything about operations that do not leave, jump or call."""
    found: list[Experiment] = []
    for item in references().values():
        found.append(on_slots(item))
        found += [
            on_immediates(item, position, ctype)
            for position, types in item.immediates.items()
            for ctype in types
        ]
    found += [load(name, *types) for name, types in LOADS.items()]
    found += [store(name, *types) for name, types in STORES.items()]
    return found


def is_test(item: Reference) -> bool:
    return item.name.split("_")[1] in ("eq", "ne", "lt", "le", "gt", "ge")


def on_slots(item: Reference) -> Experiment:
    """All aliasings × edge values; a test as a branch too."""
    words = [edge_words(ctype) for ctype in item.inputs]
    if len(words) > 2:
        words = [column[:: len(column) // FEW] for column in words]
    rows = [row for row in product(*words) if not traps(item, row) and not traps(item, row[-1:] * len(row))]
    experiment = Experiment(item.name, rows)
    for d, *inputs in layouts(1 + len(words)):
        experiment.variants.append(value(item, d, inputs, {}))
    if is_test(item):
        for _, *inputs in layouts(1 + len(words)):
            experiment.variants.append(branch(item, inputs, {}))
    return experiment


def on_immediates(item: Reference, position: int, ctype: str) -> Experiment:
    """All values of one immediate × edge values of the other inputs."""
    others = [[0] if number == position else edge_words(kind) for number, kind in enumerate(item.inputs)]

    def row_with(row: Row, number: Number) -> Row:
        return (*row[:position], hole_word(ctype, number), *row[position + 1 :])

    table = list(product(*others))
    numbers = [n for n in hole_values(ctype) if not all(traps(item, row_with(row, n)) for row in table)]
    rows = [row for row in table if not any(traps(item, row_with(row, n)) for n in numbers)]
    experiment = Experiment(f"{item.name} {ctype}", rows)
    places = [(slot(base), slot(base + step)) for base in (NEAR, FAR) for step in (8, 0)]
    for index, number in enumerate(numbers):
        for d, a in places if index % 4 == 0 else places[:2]:
            inputs = [None if n == position else a for n in range(len(item.inputs))]
            experiment.variants.append(value(item, d, inputs, {position: (number, hole_word(ctype, number))}))
        if is_test(item):
            for base in (NEAR, FAR) if index % 4 == 0 else (NEAR,):
                experiment.variants.append(
                    branch(item, [slot(base), None], {position: (number, hole_word(ctype, number))})
                )
    return experiment


Holes = dict[
    int, tuple[Number, int]
]  #: position of an input -> the immediate as it is written, and as a word


def value(item: Reference, d: Slot, inputs: Sequence[Slot | None], holes: Holes) -> Variant:
    """d <- operation(inputs)."""
    operands = [holes[n][0] if place is None else place for n, place in enumerate(inputs)]

    def emit(asm: Any, at: int) -> None:
        fetch(asm, inputs)
        asm.op(item.name, d, *operands)
        keep(asm, item.output, d, at)

    return Variant(
        f"{d} <- {operands}", emit, lambda row, _: item_word(item, seen(inputs, holes, row)), item.output
    )


def branch(item: Reference, inputs: Sequence[Slot | None], holes: Holes) -> Variant:
    """1 where the branch is taken, else 0."""
    operands = [holes[n][0] if place is None else place for n, place in enumerate(inputs)]

    def emit(asm: Any, at: int) -> None:
        fetch(asm, inputs)
        taken = asm.label()
        asm.i64_move(SPARE, 1)
        asm.op(f"br_{item.name}", *operands, taken)
        asm.i64_move(SPARE, 0)
        asm.bind(taken)
        asm.i64_store(OUT, at, SPARE)

    return Variant(f"branch on {operands}", emit, lambda row, _: item_word(item, seen(inputs, holes, row)))


def seen(inputs: Sequence[Slot | None], holes: Holes, row: Row) -> Row:
    row = as_read(inputs, row)
    return (
        tuple(holes[number][1] if number in holes else word for number, word in enumerate(row))
        if holes
        else row
    )


_words: dict[tuple[str, Row], int | None] = {}


def item_word(item: Reference, row: Row) -> int | None:
    """`item.word`, each row computed once for all targets."""
    key = (item.name, row)
    if key not in _words:
        _words[key] = item.word(*row)
    return _words[key]


def traps(item: Reference, row: Row) -> bool:
    try:
        item_word(item, row)
    except Trap:
        return True
    return False


# ---- memory


def load(name: str, result: str, memory: str) -> Experiment:
    """From IN, by every offset."""
    experiment = Experiment(name, [(word,) for word in edge_words("u64")], placed=True)
    for offset in offsets():
        for d, base in ((NEAR, NEAR + 8), (NEAR, NEAR), (FAR, FAR + 8), (FAR, FAR), (NEAR, FAR)):
            experiment.variants.append(loading(name, result, memory, slot(d), slot(base), offset))
    return experiment


def store(name: str, ctype: str, memory: str) -> Experiment:
    """To OUT, by every offset."""
    experiment = Experiment(name, [(word,) for word in edge_words(ctype)], placed=True)
    for offset in offsets():
        for base, a in ((NEAR, NEAR + 8), (FAR, FAR + 8), (NEAR, FAR), (NEAR, NEAR), (FAR, FAR)):
            experiment.variants.append(storing(name, width(memory) // 8, slot(base), slot(a), offset))
    return experiment


def offsets() -> list[int]:
    return [int(value) for value in hole_values("i32")]


#: What a load does with the value that lies in memory.
MOVES = {
    types: Reference(f"move {types}", types[0].replace("f", "u"), (types[1],), lambda a: a, {})
    for types in LOADS.values()
}


def loading(name: str, result: str, memory: str, d: Slot, base: Slot, offset: int) -> Variant:
    """d <- [base + offset]; base is made to fit the offset, so that any offset is aligned."""
    size = width(memory) // 8

    def emit(asm: Any, at: int) -> None:
        asm.i64_move(base, offset)
        asm.i64_sub(base, IN, base)
        asm.op(name, d, base, offset)
        keep(asm, result, d, at)

    def expect(row: Row, place: Place) -> int | None:
        low = int.from_bytes(row[0].to_bytes(8, place.order)[:size], place.order)
        return item_word(MOVES[result, memory], (low,))

    return Variant(f"{d} <- [{base} + {offset}]", emit, expect, result)


def storing(name: str, size: int, base: Slot, a: Slot, offset: int) -> Variant:
    """[base + offset] <- a. Bytes beside the value stay as they were. In one slot with its address, a is the address."""

    def emit(asm: Any, at: int) -> None:
        asm.i64_load(a, IN, 0)
        asm.i64_move(base, at - offset)
        asm.i64_add(base, OUT, base)
        asm.op(name, base, offset, a)

    def expect(row: Row, place: Place) -> int:
        word = (place.address - offset) & MASK64 if base == a else row[0]
        data = (word & (1 << 8 * size) - 1).to_bytes(size, place.order)
        return int.from_bytes(data + bytes([UNTOUCHED]) * (8 - size), place.order)

    return Variant(f"[{base} + {offset}] <- {a}", emit, expect)


# ---- the program and its results


@dataclass(slots=True)
class Bench:
    """All experiments as one program: the function `main`, whose slots begin with IN and OUT."""

    experiments: list[Experiment] = field(default_factory=experiments)
    tables: dict[tuple[Row, ...], int] = field(default_factory=dict)
    words: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for experiment in self.experiments:
            key = tuple(experiment.rows)
            if key not in self.tables:
                self.tables[key] = 8 * len(self.words)
                self.words += [word for row in experiment.rows for word in row]

    def results(self) -> int:
        """How many words the program writes."""
        return sum(map(len, self.experiments))

    def emit(self, asm: Any) -> None:
        """Append the program to an assembler."""
        asm.function("main", frame=FRAME)
        asm.i64_move(BASE, IN)
        for experiment in self.experiments:
            columns = len(experiment.rows[0])
            asm.i64_add(IN, BASE, self.tables[tuple(experiment.rows)])
            asm.i64_add(END, IN, 8 * columns * len(experiment.rows))
            again = asm.here()
            for index, variant in enumerate(experiment.variants):
                variant.emit(asm, 8 * index)
            asm.i64_add(IN, IN, 8 * columns)
            asm.i64_add(OUT, OUT, 8 * len(experiment.variants))
            asm.br_i64_lt_u(IN, END, again)
        asm.ret(IN)

    def inputs(self, library: Library) -> bytes:
        """The tables as bytes of memory."""
        return struct.pack(
            f"{'<' if library.target.byteorder == 'little' else '>'}{len(self.words)}Q", *self.words
        )

    def slots(self, library: Library, inputs: int, outputs: int) -> bytes:
        """The first slots for the addresses of the tables and of the results."""
        return struct.pack("<QQ" if library.target.byteorder == "little" else ">QQ", inputs, outputs)

    def failures(self, library: Library, output: bytes, address: int, most: int = 20) -> list[str]:
        """What is not as expected, in words; `most` of them. address: where `output` lay."""
        big = library.target.byteorder == "big"
        actual = struct.unpack(f"{'>' if big else '<'}{len(output) // 8}Q", output)
        found: list[str] = []
        at = 0
        for experiment in self.experiments:
            expected = experiment.expected(address + 8 * at, big)
            got = actual[at : at + len(experiment)]
            at += len(experiment)
            if got != tuple(expected):
                found += differences(experiment, expected, got)
        return found[:most]


def differences(experiment: Experiment, expected: Sequence[int | None], got: Sequence[int]) -> list[str]:
    """Where results are not as expected, a NaN being as good as another."""
    found = []
    uses = product(experiment.rows, experiment.variants)
    for (row, variant), wanted, word in zip(uses, expected, got, strict=True):
        if wanted == word or (wanted is ANY_NAN and is_nan(variant.nan, word)):
            continue
        inputs = ", ".join(f"{number:#x}" for number in row)
        what = "a NaN" if wanted is ANY_NAN else f"{wanted:#x}"
        found.append(f"{experiment.name} ({inputs}), {variant.what}: {word:#x}, not {what}")
    return found
