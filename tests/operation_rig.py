"""Runs every form of every operation over tables of edge values: one program, one run of it, many results.

Each operation has a loop over the rows of its table of inputs. One turn executes the operation once for each variant:
with its operands in other slots and registers, aliased in another way, or with another immediate.

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

from cnp import host, slot
from cnp.assembler import Register, Slot, f, r
from cnp.library import Library
from tests.reference import (
    ANY_NAN,
    Number,
    Reference,
    Trap,
    edge_words,
    hole_values,
    hole_word,
    is_nan,
    is_test,
    references,
)

IN, OUT, END, BASE, SPARE = (slot(8 * number) for number in range(5))
#: Where operands lie: in reach of the shortest offsets, of short ones (and equal to an immediate), and of none.
TINY, NEAR, FAR = 64, 128, 70000
STARTS = (TINY, NEAR, FAR)
FRAME = FAR + 64
UNTOUCHED = 0xA5  #: what output memory holds beforehand
FEWER = {2: 9, 3: 5, 4: 3}  #: … where registers are tried, by the number of inputs
FEW = {3: 8, 4: 3}  #: edge values of each input where there are three or four of them


Spot = Slot | Register  #: where an operand lies


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
    """All aliasings of `count` operands: operand -> place, places numbered in order of appearance. Of five operands all
    pairs, none and all."""
    if count == 0:
        return ((),)
    if count > 4:
        pairs = [
            tuple(a if n == b else n for n in range(count)) for a in range(count) for b in range(a + 1, count)
        ]
        return (tuple(range(count)), (0,) * count, *pairs)
    return tuple((*rest, new) for rest in partitions(count - 1) for new in range(max(rest, default=-1) + 2))


def layouts(count: int) -> Iterator[tuple[Slot, ...]]:
    """Slots for `count` operands: every aliasing at each start (of many operands the two extremes, but for NEAR), and
    near and far ones mixed."""
    ways = partitions(count)
    for start, places in product(STARTS, ways):
        if count <= 3 or start == NEAR or len(set(places)) in (1, count):
            yield tuple(slot(start + 8 * place) for place in places)
    yield tuple(slot((NEAR, FAR)[number % 2] + 8 * number) for number in range(count))
    yield tuple(slot((FAR, NEAR)[number % 2] + 8 * number) for number in range(count))


def bank_of(ctype: str) -> tuple[Register, ...]:
    """The registers that hold a type."""
    bank = f if ctype[0] == "f" else r
    return tuple(bank[index] for index in range(len(bank)))


def in_registers(ctypes: Sequence[str]) -> Iterator[tuple[Spot, ...]]:
    """Registers for operands: each one in each place; every aliasing; mixed with slots in all ways."""
    count = len(ctypes)
    banks = [bank_of(ctype) for ctype in ctypes]
    for turn in range(max(map(len, banks))):
        yield tuple(bank[(turn + 3 * number) % len(bank)] for number, bank in enumerate(banks))
    for places in partitions(count):
        shared = {
            place: {ctypes[n][0] == "f" for n in range(count) if places[n] == place} for place in places
        }
        if all(len(banks_of) == 1 for banks_of in shared.values()):
            yield tuple(bank[1 + place] for bank, place in zip(banks, places, strict=True))
    for start, kinds in product((TINY, NEAR), product((True, False), repeat=count)):
        if len(set(kinds)) == 2:
            yield tuple(
                bank[number + 1] if register else slot(start + 8 * number)
                for number, (bank, register) in enumerate(zip(banks, kinds, strict=True))
            )


def everywhere(ctypes: Sequence[str]) -> Iterator[tuple[Spot, ...]]:
    """Slots and registers."""
    yield from layouts(len(ctypes))
    yield from in_registers(ctypes)


def as_read(inputs: Sequence[Spot | None], row: Row) -> Row:
    """The inputs as the operation sees them: the last one that was put into a shared slot is what both read."""
    last = {place: word for place, word in zip(inputs, row, strict=True) if place is not None}
    return tuple(word if place is None else last[place] for place, word in zip(inputs, row, strict=True))


def fetch(asm: Any, inputs: Sequence[Spot | None], ctypes: Sequence[str]) -> None:
    """Put the inputs of the current row into their places."""
    for number, (place, ctype) in enumerate(zip(inputs, ctypes, strict=True)):
        if isinstance(place, Register) and ctype == "f32":
            asm.f32_load(place, IN, 8 * number + low_half(asm))
        elif isinstance(place, Register) and ctype == "f64":
            asm.f64_load(place, IN, 8 * number)
        elif place is not None:
            asm.i64_load(place, IN, 8 * number)


def low_half(asm: Any) -> int:
    """Where the low half of a word in memory begins."""
    return 4 if asm.library.target.byteorder == "big" else 0


def keep(asm: Any, ctype: str, place: Spot, at: int) -> None:
    """Store a result. Of an f32 the upper half is not written and not looked at."""
    if isinstance(place, Register) and ctype == "f64":
        asm.f64_store(OUT, at, place)
        return
    if ctype == "f32":
        if isinstance(place, Register):
            asm.i32_bits_f32(SPARE, place)
        else:
            asm.i32_move(SPARE, place)
        place = SPARE
    asm.i64_store(OUT, at, place)


# ---- experiments


def experiments() -> list[Experiment]:
    """Everything about operations on values: those of the table."""
    found: list[Experiment] = []
    for item in references().values():
        if item.always < 0:
            found += [on_slots(item), on_registers(item)]
        found += [
            on_immediates(item, position, ctype)
            for position, types in item.immediates.items()
            for ctype in types
        ]
    return found


def on_slots(item: Reference) -> Experiment:
    """All aliasings × edge values; a test as a branch too."""
    words = [few([*edge_words(ctype), *item.edges], len(item.inputs)) for ctype in item.inputs]
    rows = [row for row in product(*words) if not traps(item, row) and not traps(item, row[-1:] * len(row))]
    experiment = Experiment(item.name, rows)
    for d, *inputs in layouts(1 + len(words)):
        experiment.variants.append(value(item, d, inputs, {}))
    if is_test(item):
        for places in layouts(len(words)):
            experiment.variants.append(branch(item, places, {}))
    return experiment


def on_registers(item: Reference) -> Experiment:
    """All mixtures of registers and slots × fewer values."""
    words = [[*edge_words(ctype), *item.edges] for ctype in item.inputs]
    if len(words) > 1:
        words = [column[:: max(1, len(column) // FEWER[len(words)])] for column in words]
    rows = [row for row in product(*words) if not traps(item, row) and not traps(item, row[-1:] * len(row))]
    experiment = Experiment(f"{item.name} in registers", rows)
    for d, *inputs in in_registers((item.output, *item.inputs)):
        experiment.variants.append(value(item, d, inputs, {}))
    if is_test(item):
        for places in in_registers(item.inputs):
            experiment.variants.append(branch(item, places, {}))
    return experiment


def few(column: list[int], inputs: int) -> list[int]:
    """Some of the values of one input, the fewer the more inputs there are."""
    return column[:: max(1, len(column) // FEW.get(inputs, len(column)))]


def on_immediates(item: Reference, position: int, ctype: str) -> Experiment:
    """All values of one immediate × edge values of the other inputs; for some of the values all aliasings."""
    others = [
        [0] if number == position else few(edge_words(kind), len(item.inputs))
        for number, kind in enumerate(item.inputs)
    ]

    def row_with(row: Row, number: Number) -> Row:
        return (*row[:position], hole_word(ctype, number), *row[position + 1 :])

    table = list(product(*others))
    numbers = [n for n in hole_values(ctype) if not all(traps(item, row_with(row, n)) for row in table)]
    rows = [row for row in table if not any(traps(item, row_with(row, n)) for n in numbers)]
    experiment = Experiment(f"{item.name} {ctype}", rows)
    places = list(everywhere([item.output, *(x for n, x in enumerate(item.inputs) if n != position)]))
    starts = {*(slot(start) for start in STARTS), r[1], f[1]}
    distinct = [row for row in places if row[0] in starts and len(set(row)) == len(row)]
    every = 8 if len(item.inputs) < 3 else 16
    for index, number in enumerate(numbers):
        for d, *rest in places if index % every == 0 else distinct:
            inputs: list[Spot | None] = [*rest[:position], None, *rest[position:]]
            experiment.variants.append(value(item, d, inputs, {position: (number, hole_word(ctype, number))}))
        if is_test(item):
            for (a,) in (
                everywhere(item.inputs[:1])
                if index % every == 0
                else ((slot(NEAR),), bank_of(item.inputs[0])[:1])
            ):
                experiment.variants.append(
                    branch(item, [a, None], {position: (number, hole_word(ctype, number))})
                )
    return experiment


Holes = dict[
    int, tuple[Number, int]
]  #: position of an input -> the immediate as it is written, and as a word


def value(item: Reference, d: Spot, inputs: Sequence[Spot | None], holes: Holes) -> Variant:
    """d <- operation(inputs)."""
    operands = [holes[n][0] if place is None else place for n, place in enumerate(inputs)]

    def emit(asm: Any, at: int) -> None:
        fetch(asm, inputs, item.inputs)
        asm.op(item.name, d, *operands)
        keep(asm, item.output, d, at)

    return Variant(
        f"{d} <- {operands}", emit, lambda row, _: item_word(item, seen(inputs, holes, row)), item.output
    )


def branch(item: Reference, inputs: Sequence[Spot | None], holes: Holes) -> Variant:
    """1 where the branch is taken, else 0."""
    operands = [holes[n][0] if place is None else place for n, place in enumerate(inputs)]

    def emit(asm: Any, at: int) -> None:
        fetch(asm, inputs, item.inputs)
        taken = asm.label()
        asm.i64_move(SPARE, 1)
        asm.op(f"br_{item.name}", *operands, taken)
        asm.i64_move(SPARE, 0)
        asm.bind(taken)
        asm.i64_store(OUT, at, SPARE)

    return Variant(f"branch on {operands}", emit, lambda row, _: item_word(item, seen(inputs, holes, row)))


def seen(inputs: Sequence[Spot | None], holes: Holes, row: Row) -> Row:
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


# ---- the program and its results


@dataclass(slots=True)
class Bench:
    """All experiments as one program: the function `main`, whose slots begin with IN and OUT."""

    experiments: list[Experiment]
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
                found += differences(experiment, expected, got, library)
        return found[:most]


def differences(
    experiment: Experiment, expected: Sequence[int | None], got: Sequence[int], library: Library
) -> list[str]:
    """Where results are not as expected, a NaN being as good as another."""
    found = []
    uses = product(experiment.rows, experiment.variants)
    for (row, variant), wanted, word in zip(uses, expected, got, strict=True):
        if wanted == word or (wanted is ANY_NAN and is_nan(variant.nan, word)):
            continue
        if word == by_the_emulator(experiment.name, row, library):
            continue
        inputs = ", ".join(f"{number:#x}" for number in row)
        what = "a NaN" if wanted is ANY_NAN else f"{wanted:#x}"
        found.append(f"{experiment.name} ({inputs}), {variant.what}: {word:#x}, not {what}")
    return found


#: qemu 7.2 rounds these of POWER's instructions twice, to 53 bits first: xscvsxdsp, xscvuxdsp.
ROUNDED_TWICE = ("f32_from_i64_s", "f32_from_i64_u")


def by_the_emulator(name: str, row: Row, library: Library) -> int | None:
    """The wrong result that a fault of the emulator gives; None where none is known."""
    name = name.partition(" ")[0]  # whatever it says of where its operands are
    if library.target.name != "ppc64le" or name not in ROUNDED_TWICE or host.emulator(library.target) == []:
        return None
    once = item_word(references()[name.replace("f32", "f64")], row)
    assert once is not None
    return item_word(references()["f32_from_f64"], (once,))
