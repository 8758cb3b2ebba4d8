"""Rounding operations against exact arithmetic, on many values made so that a wrong rounding shows.

The reference of test_operations.py computes floats with floats where Python has the operation. Here every result comes
from whole numbers and fractions, and most inputs lie where it is decided: halfway between two results and right beside
that, among the subnormal numbers, at the limits of a type, where nearly everything cancels.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import pytest

from cnp import host, runtime, slot, targets
from cnp.assembler import Assembler
from cnp.foreign import Call, ForeignCode
from tests.operation_rig import NEAR, UNTOUCHED, Bench, Experiment, Row, Variant, fetch, keep
from tests.reference import BAD_CONVERSION, FORMATS, Reference, Trap, hole_word, nearest, references, width
from tests.support import every_processor, operations

MOST = 2000  #: values of each operation, on every target
RUNS = 300  #: … where each one is a run, because it may trap
FLOATS = ("f64", "f32")
INTEGERS = ("i64", "i32", "u64", "u32")


# ---- exact results


def signed_zero(negative: bool) -> float:
    return -0.0 if negative else 0.0


def exact(ctype: str, usual: Callable[..., float], compute: Callable[..., Fraction]) -> Callable[..., float]:
    """`compute`, rounded once; `usual` where an operand or the result is infinite or a NaN, and for zeros."""

    def evaluate(*values: float) -> float:
        if not all(map(math.isfinite, values)) or not (math.isfinite(usual(*values)) or all(values)):
            return usual(*values)
        result = compute(*map(Fraction, values))
        return nearest(ctype, result) if result else usual(*values)

    return evaluate


def exact_root(ctype: str) -> Callable[[float], float]:
    """The square root: one bit more than the exact digits stands for all that follow."""

    def root(a: float) -> float:
        if not math.isfinite(a) or a <= 0:
            return a if a == 0 or a > 0 else math.nan
        digits, exact_a = 64, Fraction(a)
        shift = 2 * (digits + exact_a.denominator.bit_length())
        square = (exact_a.numerator << shift) // exact_a.denominator
        whole = math.isqrt(square)
        return nearest(ctype, Fraction(2 * whole + (whole * whole != square), 2 << shift // 2))

    return root


def quotient(a: Fraction, b: Fraction) -> Fraction:
    return a / b


@cache
def judged() -> dict[str, Reference]:
    """The operations under test with exact references: those of the table, but for floats' own arithmetic."""
    table = references()
    found = [
        item
        for name, item in table.items()
        if name.startswith(("f64_from_", "f32_from_"))
        or name.split("_")[1] in ("trunc", "floor", "ceil", "nearest", "fma", "mulh")
        or (name[0] == "i" and name.split("_")[1] in ("div", "rem"))
    ]
    sums: dict[str, Callable[..., Fraction]] = {
        "add": lambda a, b: a + b,
        "sub": lambda a, b: a - b,
        "mul": lambda a, b: a * b,
        "div": quotient,
    }
    for f in FLOATS:
        for name, compute in sums.items():
            item = table[f"{f}_{name}"]
            found.append(replace(item, compute=exact(f, item.compute, compute)))
        found.append(replace(table[f"{f}_sqrt"], compute=exact_root(f)))
    return {item.name: item for item in found}


# ---- values


class Values:
    """Random values of all types, from a seed: the same in every run."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)

    def sign(self) -> int:
        return self.random.choice((1, -1))

    def integer(self, ctype: str) -> int:
        """Of any length; often all ones or a power of two in the upper bits."""
        bits = width(ctype)
        length = self.random.randint(1, bits)
        value = self.random.getrandbits(length)
        if self.random.random() < 0.5:
            ones = (1 << bits) - (1 << self.random.randrange(bits))
            value ^= self.random.choice((ones, 1 << length - 1))
        return value & (1 << bits) - 1

    def mantissa(self, ctype: str) -> int:
        """As many bits as a float has; often with long runs of ones or zeros."""
        digits = FORMATS[ctype][0]
        top = 1 << digits - 1
        match self.random.randrange(4):
            case 0:
                return top
            case 1:
                return top | (1 << self.random.randrange(digits)) - 1
            case 2:
                return top | 1 << self.random.randrange(digits - 1) | self.random.randrange(2)
            case _:
                return top | self.random.getrandbits(digits - 1)

    def of_size(self, ctype: str, exponent: int | None = None) -> float:
        """Of a size near 2 ** exponent, or of any size, subnormal too."""
        digits, least, greatest = FORMATS[ctype]
        if exponent is None:
            exponent = self.random.randint(least, greatest)
        value = Fraction(self.mantissa(ctype)) * Fraction(2) ** (exponent - digits + 1)
        return self.sign() * nearest(ctype, value)

    def around(self, ctype: str, value: Fraction) -> float:
        """The float nearest to a number, or one of its neighbours."""
        word = hole_word(ctype, nearest(ctype, value)) + self.random.randint(-1, 1)
        return from_word(ctype, word & (1 << width(ctype)) - 1)

    def tie(self, ctype: str, exponent: int) -> Fraction:
        """Halfway between two floats of a size near 2 ** exponent."""
        digits, least, _ = FORMATS[ctype]
        unit = Fraction(2) ** max(exponent - digits + 1, least)
        length = max(1, min(digits, exponent - least + 1))
        whole = 1 << length - 1 | self.random.getrandbits(length - 1) if length > 1 else 1
        return self.sign() * (whole + Fraction(1, 2)) * unit


def from_word(ctype: str, word: int) -> float:
    data = word.to_bytes(width(ctype) // 8, "little")
    return float(struct.unpack("<d" if ctype == "f64" else "<f", data)[0])


def fma_row(values: Values, f: str) -> tuple[float, float, float]:
    """The exact sum is halfway, or right beside, or nearly nothing, or anything."""
    digits, least, greatest = FORMATS[f]
    pick = values.random
    e = pick.randint(least + digits, greatest // 2)
    a, b = values.of_size(f, e), values.of_size(f, pick.randint(least // 2, greatest // 2))
    product = Fraction(a) * Fraction(b)
    size = math.frexp(float(product))[1] if f == "f64" else math.frexp(a * b)[1]
    match pick.randrange(8):
        case 0:  # all of the product's first digits cancel
            return a, b, values.around(f, -product)
        case 1:  # the product is half of c's last digit, or nearly
            c = values.of_size(f, pick.randint(least + 2 * digits, greatest))
            half = Fraction(2) ** (math.frexp(c)[1] - 1 - digits)
            a = values.around(f, Fraction(2) ** pick.randint(-3, 3))
            return a, values.sign() * nearest(f, half / Fraction(a)), c
        case 2:  # c decides a tie of the product, from far below
            a, b = tie_factors(values, f)
            return a, b, values.sign() * nearest(f, Fraction(2) ** pick.randint(least, -40))
        case 3:  # a subnormal sum
            e = pick.randint(-60, 60)
            a, b = values.of_size(f, e), values.of_size(f, least - e + pick.randint(-4, digits + 4))
            return a, b, values.of_size(f, pick.randint(least, least + digits))
        case 4:  # at the greatest number
            c = from_word(f, hole_word(f, math.inf) - 1 - pick.randrange(2))
            e = pick.randint(-60, 60)
            return values.of_size(f, e), values.of_size(f, greatest - digits - e + pick.randint(-2, 1)), c
        case 5:  # near each other
            return (
                a,
                b,
                values.of_size(f, max(least, min(greatest, size + pick.randint(-digits - 4, 2 * digits)))),
            )
        case 6:  # the product lies 2 ** low above a tie, and c is that or a neighbour of that: far below its last bits
            low, scale = pick.randint(0, digits // 2), 2.0 ** pick.randint(-30, 30)
            top = 1 << digits - 1
            a, b = float(top + (1 << low)), float(top + (1 << digits - 2 - low) + 1)
            return values.sign() * a * scale, b, values.sign() * values.around(f, Fraction(2) ** low) * scale
        case _:
            return values.of_size(f), values.of_size(f), values.of_size(f)


def tie_factors(values: Values, f: str) -> tuple[float, float]:
    """Two floats whose product has one digit more than a float: 2 ** k + 1 times an odd number below 2 ** (p - k)."""
    digits = FORMATS[f][0]
    low = values.random.randint(2, digits - 2)
    a = (1 << low) + 1
    b = 1 << digits - low | values.random.getrandbits(digits - low) | 1
    return float(values.sign() * a), float(b)


def division_row(values: Values, f: str) -> tuple[float, float]:
    """The quotient lies beside halfway; exactly there it can only lie among the subnormal numbers."""
    digits, least, greatest = FORMATS[f]
    pick = values.random
    match pick.randrange(4):
        case 0:
            b = values.of_size(f, pick.randint(least // 2, greatest // 2))
            return values.around(f, values.tie(f, pick.randint(-40, 40)) * Fraction(b)), b
        case 1:
            power = pick.randint(digits + 2, greatest)
            tie = values.tie(f, pick.randint(least, least + digits - 2))
            return nearest(f, tie * 2**power), values.sign() * 2.0**power
        case 2:
            b = values.of_size(f, pick.randint(0, greatest))
            return values.around(f, values.tie(f, pick.randint(least, least + digits)) * Fraction(b)), b
        case _:
            return values.of_size(f), values.of_size(f)


def sum_row(values: Values, f: str) -> tuple[float, float]:
    digits, least, greatest = FORMATS[f]
    a = values.of_size(f, values.random.randint(least + digits, greatest))
    tie = values.tie(f, math.frexp(a)[1] - 1)
    return a, values.around(f, tie - Fraction(a)) if values.random.random() < 0.7 else values.of_size(f)


def difference_row(values: Values, f: str) -> tuple[float, float]:
    a, b = sum_row(values, f)
    return a, -b


def product_row(values: Values, f: str) -> tuple[float, float]:
    least, greatest = FORMATS[f][1:]
    pick = values.random
    match pick.randrange(4):
        case 0:
            return tie_factors(values, f)
        case 1:
            e = pick.randint(least // 2, 0)
            return values.of_size(f, e), values.of_size(f, least - e + pick.randint(-2, 30))
        case 2:
            e = pick.randint(0, greatest)
            return values.of_size(f, e), values.of_size(f, greatest - e + pick.randint(-1, 0))
        case _:
            return values.of_size(f), values.of_size(f)


def one_float(values: Values, f: str, to: str) -> float:
    """An argument of a rounding (to: its own type) or a conversion."""
    pick, digits = values.random, FORMATS[f][0]
    if to in INTEGERS and pick.random() < 0.5:
        limit = pick.choice((0, 1, 1 << 31, 1 << 32, 1 << 63, 1 << 64))
        return values.around(f, values.sign() * (Fraction(limit) + Fraction(pick.randint(-4, 4), 4)))
    if to == "f32" and f == "f64":
        least, greatest = FORMATS["f32"][1:]
        return values.around(f, values.tie("f32", pick.randint(least - 2, greatest)))
    if pick.random() < 0.6:
        size = pick.choice((pick.randint(0, 4), pick.randint(0, digits + 1)))
        return values.around(f, Fraction(2 * pick.getrandbits(size) + pick.randrange(2), 2) * values.sign())
    return values.of_size(f, pick.randint(-3, 66))


def one_integer(values: Values, ctype: str, f: str) -> int:
    """Halfway between two floats, or beside, or any number."""
    bits, digits = width(ctype), FORMATS[f][0]
    if bits <= digits or values.random.random() < 0.3:
        return values.integer(ctype)
    exponent = values.random.randint(digits, bits - 1)
    tie = int(abs(values.tie(f, exponent))) + values.random.randint(-1, 1)
    return tie * (values.sign() if ctype[0] == "i" else 1) & (1 << bits) - 1


def root_row(values: Values, f: str) -> float:
    """The root lies beside halfway, or anywhere."""
    digits, least, greatest = FORMATS[f]
    if values.random.random() < 0.5:
        return abs(values.of_size(f))
    tie = values.tie(f, values.random.randint(least // 2 + digits, greatest // 2 - 1))
    return abs(values.around(f, tie * tie))


ROWS: dict[str, Callable[[Values, str], tuple[float, ...]]] = {
    "fma": fma_row,
    "div": division_row,
    "add": sum_row,
    "sub": difference_row,
    "mul": product_row,
    "sqrt": lambda values, f: (root_row(values, f),),
}


def rows(item: Reference) -> Iterator[Row]:
    """Endless inputs of an operation, as words."""
    values = Values(item.name)
    make = ROWS.get(item.name.split("_")[1]) if item.output in FLOATS else None
    while True:
        if make is not None:
            yield tuple(hole_word(item.output, value) for value in make(values, item.output))
        elif item.inputs[0] in FLOATS:
            yield (hole_word(item.inputs[0], one_float(values, item.inputs[0], item.output)),)
        elif item.output in FLOATS:
            yield (one_integer(values, item.inputs[0], item.output),)
        else:
            yield tuple(values.integer(ctype) for ctype in item.inputs)


@cache
def table(name: str) -> tuple[tuple[Row, int | None], ...]:
    """(inputs, expected word) of an operation where it does not trap."""
    item = judged()[name]
    found: list[tuple[Row, int | None]] = []
    for row in rows(item):
        try:
            found.append((row, item.word(*row)))
        except Trap:
            continue
        if len(found) == MOST:
            break
    return tuple(found)


# ---- programs


def experiments() -> list[Experiment]:
    """One use of each operation, over its values."""
    return [experiment(item, table(item.name)) for item in judged().values()]


def experiment(item: Reference, uses: tuple[tuple[Row, int | None], ...]) -> Experiment:
    d, *inputs = (slot(NEAR + 8 * number) for number in range(1 + len(item.inputs)))
    known = dict(uses)

    def emit(asm: Any, at: int) -> None:
        fetch(asm, inputs, item.inputs)
        asm.op(item.name, d, *inputs)
        keep(asm, item.output, d, at)

    variant = Variant("exactly", emit, lambda row, _: known[row], item.output)
    return Experiment(item.name, [row for row, _ in uses], [variant])


def test_the_values_are_many_and_hit_the_ties() -> None:
    """What the numbers above promise; and that values made to be ties are some."""
    counts = [len(experiment.rows) for experiment in experiments()]
    assert min(counts) >= 2000
    assert sum(counts) >= 100_000
    for f in FLOATS:
        ties = sum(is_tie(f, row) for row, _ in table(f"{f}_fma"))
        subnormal = sum(
            word is not None and 0 < word & (1 << width(f) - 1) - 1 < 1 << FORMATS[f][0] - 1
            for _, word in table(f"{f}_fma")
        )
        assert ties >= 20
        assert subnormal >= 100


def is_tie(f: str, row: Row) -> bool:
    """Whether a * b + c lies exactly between two floats."""
    a, b, c = (from_word(f, word) for word in row)
    if not all(map(math.isfinite, (a, b, c))):
        return False
    total = Fraction(a) * Fraction(b) + Fraction(c)
    middle = nearest(f, total)
    if not math.isfinite(middle) or total == middle:
        return False
    other = 2 * total - Fraction(middle)
    return other == nearest(f, other)


@pytest.mark.parametrize("features", [(), None], ids=["base line", "features"])
def test_on_this_machine(features: tuple[str, ...] | None) -> None:
    vocabulary = runtime.load("ops", features=features)
    bench = Bench(experiments())
    asm = vocabulary.assembler()
    bench.emit(asm)
    code = asm.build()
    tables, output = (
        bytearray(bench.inputs(vocabulary.library)),
        bytearray([UNTOUCHED]) * (8 * bench.results()),
    )
    frame = vocabulary.frame(code.program.functions[0].frame)
    frame.write(0, bench.slots(vocabulary.library, runtime.address(tables), runtime.address(output)))
    assert code["main"].run(frame=frame).returned
    assert bench.failures(vocabulary.library, bytes(output), runtime.address(output)) == []


@every_processor
def test_on_every_target(target: str, featured: bool) -> None:
    lib = operations(target, featured)
    bench = Bench(experiments())
    asm = Assembler(lib)
    bench.emit(asm)
    code = ForeignCode(asm.close())
    blank = bytes([UNTOUCHED]) * (8 * bench.results())
    memory = [bench.inputs(lib), blank]
    inputs, output = code.area_addresses([len(area) for area in memory])
    outcome = code.run([Call("main", slots=bench.slots(lib, inputs, output))], memory=memory)
    assert outcome.results[0].returned
    assert bench.failures(lib, outcome.memory[1], output) == []


# ---- conversions that may trap


def conversions() -> list[Reference]:
    return [item for name, item in judged().items() if name[0] == "i" and "_trunc_f" in name]


def case(item: Reference, row: Row) -> tuple[str, int | None]:
    try:
        return "return", item.word(*row)
    except Trap as trap:
        return "trap", trap.code


def some(item: Reference, count: int) -> list[Row]:
    """Values of a conversion, with those at the limits of its type first."""
    words = [
        (word,)
        for word in (*item.edges, *(hole_word(item.inputs[0], x) for x in (math.nan, math.inf, -math.inf)))
    ]
    source = rows(item)
    return [*words, *(next(source) for _ in range(count))]


def emit_conversions(asm: Any) -> None:
    for item in conversions():
        asm.function(item.name, frame=16)
        asm.op(item.name, slot(0), slot(8))
        asm.ret(slot(0))


def test_conversions_trap_or_are_exact_here() -> None:
    vocabulary = runtime.load("ops")
    asm = vocabulary.assembler()
    emit_conversions(asm)
    code = asm.build()
    for item in conversions():
        function, frame = code[item.name], vocabulary.frame(16)
        for row in some(item, RUNS):
            frame.write(8, struct.pack("=Q", row[0]))
            result = function.run(frame=frame)
            kind, word = case(item, row)
            assert result.kind == kind, (item.name, row)
            assert (result.code if kind == "trap" else result.value) == word, (item.name, row)
            assert kind == "return" or word == BAD_CONVERSION


@pytest.mark.parametrize(
    "target", [name for name in targets.TARGETS if host.emulator(targets.get(name)) != []]
)
def test_conversions_trap_or_are_exact_elsewhere(target: str) -> None:
    lib = operations(target)
    asm = Assembler(lib)
    emit_conversions(asm)
    mark = "<" if lib.target.byteorder == "little" else ">"
    cases = [(item, row) for item in conversions() for row in some(item, RUNS)]
    calls = [Call(item.name, slots=struct.pack(f"{mark}QQ", 0, row[0])) for item, row in cases]
    results = ForeignCode(asm.close()).run(calls).results
    for (item, row), result in zip(cases, results, strict=True):
        kind, word = case(item, row)
        assert result.kind == kind, (item.name, row)
        assert (result.code if kind == "trap" else result.value) == word, (item.name, row)
