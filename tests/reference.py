"""What the portable operations compute, written down a second time in Python: the oracle of test_operations.py.

Nothing here looks at stencils/ops.c. An operation is a function of Python numbers; integers are exact and are cut to
their width afterwards, floats of 64 bits are Python's own, floats of 32 bits are computed in 64 and rounded once
more. That second rounding changes nothing for + - * / and sqrt: 53 bits are more than twice 24 bits and two more.
What Python does not have, and what would be rounded twice, is computed with fractions and rounded by `nearest`.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

Number = int | float
MASK64 = (1 << 64) - 1
DIV_BY_ZERO, OVERFLOW, BAD_CONVERSION = 2, 3, 9  # trap codes of the contract
ANY_NAN = None  #: an expected word that may be any NaN


class Trap(Exception):
    """The operation traps."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class Reference:
    """One operation. inputs, output: C types. bits: it works on the bits of floats, which it must keep.

    immediates: position of an input -> types of immediates that it may be, or the numbers. always: the input that can be
    nothing else, -1 for none. edges: words for its input beside the usual ones, where it has only one.
    """

    name: str
    output: str
    inputs: tuple[str, ...]
    compute: Callable[..., Number]
    immediates: dict[int, tuple[str, ...]]
    bits: bool = False
    edges: tuple[int, ...] = ()
    always: int = -1

    def word(self, *words: int) -> int | None:
        """The word that the operation writes for input words; ANY_NAN where a NaN is computed. Raises Trap."""
        plain = {"f64": "u64", "f32": "u32"} if self.bits else {}
        values = [
            decode(plain.get(ctype, ctype), word) for ctype, word in zip(self.inputs, words, strict=True)
        ]
        return encode(plain.get(self.output, self.output), self.compute(*values))


def width(ctype: str) -> int:
    """Bits of a C type."""
    return int(ctype[1:])


def decode(ctype: str, word: int) -> Number:
    """The value in the low bits of a slot's word."""
    bits = width(ctype)
    low = word & (1 << bits) - 1
    if ctype[0] == "u":
        return low
    if ctype[0] == "i":
        return low - (low >> bits - 1 << bits)
    return float(struct.unpack("<d" if bits == 64 else "<f", low.to_bytes(bits // 8, "little"))[0])


def encode(ctype: str, value: Number) -> int | None:
    """A value as the word that is written: integers of less than 64 bits are cut to 32 and zero-extended."""
    if ctype[0] != "f":
        return int(value) & (MASK64 if width(ctype) == 64 else 0xFFFFFFFF)
    if math.isnan(value):
        return ANY_NAN
    return int.from_bytes(struct.pack("<d", value) if ctype == "f64" else pack32(value), "little")


def pack32(value: float) -> bytes:
    """The nearest float of 32 bits; an infinity where it overflows."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))


#: Bits of the mantissa with the leading one; the exponents of the least subnormal number and of the greatest power.
FORMATS = {"f64": (53, -1074, 1023), "f32": (24, -149, 127)}


def nearest(ctype: str, value: Fraction) -> float:
    """The float of a type that is nearest to an exact number, ties to even; +0 for 0. IEEE 754-2019, 4.3.1."""
    digits, least, greatest = FORMATS[ctype]
    size, divisor = abs(value.numerator), value.denominator
    exponent = max(size.bit_length() - divisor.bit_length() - digits, least)
    while True:  # at most twice: the quotient has `digits` bits or one more
        scale = divisor << max(exponent, 0)
        whole, rest = divmod(size << max(-exponent, 0), scale)
        if whole.bit_length() <= digits:
            break
        exponent += 1
    whole += 2 * rest > scale or (2 * rest == scale and whole & 1)
    over = whole.bit_length() + exponent - 1 > greatest
    rounded = math.inf if over else math.ldexp(whole, exponent)  # exact: it is a float of 64 bits
    return -rounded if value < 0 else rounded


def is_nan(ctype: str, word: int) -> bool:
    """Whether a word is a NaN of a type: any sign and payload, whichever bit a machine calls quiet."""
    if ctype == "f64":
        return word & (MASK64 >> 1) > 0x7FF0_0000_0000_0000
    return word >> 32 == 0 and word & 0x7FFF_FFFF > 0x7F80_0000


# ---- integers


def quotient(least: int) -> Callable[[int, int], int]:
    """Division towards zero; the quotient that does not fit is that of `least` (0 for unsigned types)."""

    def divide(a: int, b: int) -> int:
        if b == 0:
            raise Trap(DIV_BY_ZERO)
        if b == -1 and a == least:
            raise Trap(OVERFLOW)
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)

    return divide


def remainder(a: int, b: int) -> int:
    """The remainder has the sign of the dividend."""
    if b == 0:
        raise Trap(DIV_BY_ZERO)
    return abs(a) % abs(b) * (-1 if a < 0 else 1)


def rotate_left(bits: int) -> Callable[[int, int], int]:
    def rotate(a: int, b: int) -> int:
        text = format(a, f"0{bits}b")
        return int(text[b % bits :] + text[: b % bits], 2)

    return rotate


def rotate_right(bits: int) -> Callable[[int, int], int]:
    left = rotate_left(bits)
    return lambda a, b: left(a, bits - b % bits)


# ---- floats


def divide(a: float, b: float) -> float:
    if b != 0 or math.isnan(a):
        return a / b if b != 0 else a
    if a == 0:
        return math.nan
    return math.copysign(math.inf, a) * math.copysign(1, b)


def square_root(a: float) -> float:
    return math.sqrt(a) if a >= 0 else math.nan


def extreme(least: bool) -> Callable[[float, float], float]:
    """The lesser or the greater; a NaN wins, and -0 is less than 0."""

    def choose(a: float, b: float) -> float:
        if math.isnan(a) or math.isnan(b):
            return math.nan
        ordered = sorted((a, b), key=lambda x: (x, math.copysign(1, x)))
        return ordered[0] if least else ordered[1]

    return choose


def whole(rounding: Callable[[float], int]) -> Callable[[float], float]:
    """A rounding to a whole number that is a float; a zero has the sign of the argument."""
    return lambda a: math.copysign(float(rounding(a)), a) if math.isfinite(a) else a


def fused(ctype: str) -> Callable[[float, float, float], float]:
    """a * b + c, rounded once. A sum of 0 is -0 only where both terms are negative zeros."""

    def compute(a: float, b: float, c: float) -> float:
        if not (math.isfinite(a) and math.isfinite(b)):
            return a * b + c  # a * b is exact: an infinity or a NaN
        if not math.isfinite(c):
            return c
        total = Fraction(a) * Fraction(b) + Fraction(c)
        negative = math.copysign(1, a) * math.copysign(1, b)
        if total:
            return nearest(ctype, total)
        return -0.0 if negative < 0 and math.copysign(1, c) < 0 else 0.0

    return compute


# ---- conversions


def converted(least: int, most: int) -> Callable[[float], int]:
    """Towards zero; what is not in least … most traps."""

    def convert(a: float) -> int:
        if not math.isfinite(a) or not least <= math.trunc(a) <= most:
            raise Trap(BAD_CONVERSION)
        return math.trunc(a)

    return convert


def saturated(least: int, most: int) -> Callable[[float], int]:
    """Towards zero, then towards least … most; 0 for a NaN."""

    def convert(a: float) -> int:
        if math.isnan(a):
            return 0
        if math.isinf(a):
            return most if a > 0 else least
        return min(max(math.trunc(a), least), most)

    return convert


# ---- integers that count and move bits


def byte_swap(size: int) -> Callable[[int], int]:
    return lambda a: int.from_bytes(a.to_bytes(size, "little"), "big")


def leading_zeros(bits: int) -> Callable[[int], int]:
    return lambda a: bits - a.bit_length()


def trailing_zeros(bits: int) -> Callable[[int], int]:
    return lambda a: (a & -a).bit_length() - 1 if a else bits


# ---- the table


@cache
def references() -> dict[str, Reference]:
    """All operations whose operands are values: name -> reference. Branches are `br_` and the name of a test, selections
    `sel_` and that; these are in the table."""
    found: list[Reference] = []

    def add(
        name: str,
        types: str,
        compute: Callable[..., Number],
        immediates: str = "",
        bits: bool = False,
        edges: tuple[int, ...] = (),
        always: int = -1,
    ) -> None:
        """types: `output <- input, input`; immediates: `position:type …`."""
        output, _, inputs = types.partition(" <- ")
        kinds: dict[int, tuple[str, ...]] = {}
        for text in immediates.split():
            position, _, ctype = text.partition(":")
            kinds[int(position)] = (*kinds.get(int(position), ()), ctype)
        found.append(Reference(name, output, tuple(inputs.split(", ")), compute, kinds, bits, edges, always))

    for bits in (64, 32):
        add_integers(add, bits)
        add_floats(add, bits)
    add_conversions(add)
    found += [selection(item) for item in found if is_test(item)]
    return {item.name: item for item in found}


def is_test(item: Reference) -> bool:
    return item.name.split("_")[1] in COMPARISONS


def selection(test: Reference) -> Reference:
    """d = test ? x : y, two words more."""

    def choose(*values: Number) -> Number:
        return values[-2] if test.compute(*values[:-2]) else values[-1]

    return Reference(f"sel_{test.name}", "u64", (*test.inputs, "u64", "u64"), choose, test.immediates)


Add = Callable[..., None]
COMPARISONS = {"eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt,
               "ge": operator.ge}  # fmt: skip


def add_integers(add: Add, bits: int) -> None:
    """The operations of one width. An immediate of 64-bit operations is 32 bits, sign-extended."""
    i, u = f"i{bits}", f"u{bits}"
    signed, unsigned, count = ("i32", "i32", "u6") if bits == 64 else ("i32", "u32", "u5")
    one, two, two_signed = f"{u} <- {u}", f"{u} <- {u}, {u}", f"{i} <- {i}, {i}"
    add(f"{i}_move", one, lambda a: a, "0:i32 0:u64" if bits == 64 else "0:u32")
    add(f"{i}_add", two, lambda a, b: a + b, f"1:{unsigned}")
    add(f"{i}_sub", two, lambda a, b: a - b, f"0:{unsigned} 1:{unsigned}")
    add(f"{i}_mul", two, lambda a, b: a * b, f"1:{unsigned}")
    add(f"{i}_mulh_s", two_signed, lambda a, b: a * b >> bits)
    add(f"{i}_mulh_u", two, lambda a, b: a * b >> bits)
    add(f"{i}_madd", f"{u} <- {u}, {u}, {u}", lambda a, b, c: a * b + c)
    shifted = f"{u} <- {u}, {u}, u32"
    add(f"{i}_shadd", shifted, lambda a, b, shift: a + (b << shift), "2:1 2:2 2:3", always=2)
    add(f"{i}_select", f"{u} <- u32, {u}, {u}", lambda c, a, b: a if c else b)
    add(f"{i}_div_s", two_signed, quotient(-(1 << bits - 1)), f"1:{signed}")
    add(f"{i}_div_u", two, quotient(0), f"1:{unsigned}")
    add(f"{i}_rem_s", two_signed, remainder, f"1:{signed}")
    add(f"{i}_rem_u", two, remainder, f"1:{unsigned}")
    add(f"{i}_and", two, lambda a, b: a & b, f"1:{unsigned}")
    add(f"{i}_or", two, lambda a, b: a | b, f"1:{unsigned}")
    add(f"{i}_xor", two, lambda a, b: a ^ b, f"1:{unsigned}")
    add(f"{i}_neg", one, lambda a: -a)
    add(f"{i}_not", one, lambda a: ~a)
    add(f"{i}_shl", two, lambda a, b: a << b % bits, f"0:{unsigned} 1:{count}")
    add(f"{i}_shr_s", f"{i} <- {i}, {u}", lambda a, b: a >> b % bits, f"1:{count}")
    add(f"{i}_shr_u", two, lambda a, b: a >> b % bits, f"1:{count}")
    add(f"{i}_rotl", two, rotate_left(bits), f"1:{count}")
    add(f"{i}_rotr", two, rotate_right(bits), f"1:{count}")
    add(f"{i}_clz", one, leading_zeros(bits))
    add(f"{i}_ctz", one, trailing_zeros(bits))
    add(f"{i}_popcnt", one, lambda a: a.bit_count())
    add(f"{i}_bswap", one, byte_swap(bits // 8))
    for narrow in (8, 16, 32):
        if narrow < bits:
            add(f"{i}_extend{narrow}_s", f"{i} <- i{narrow}", lambda a: a)
            add(f"{i}_extend{narrow}_u", f"{u} <- u{narrow}", lambda a: a)
            if narrow > 8:
                add(f"{i}_bswap{narrow}", f"{u} <- u{narrow}", byte_swap(narrow // 8))
    for name, compare in COMPARISONS.items():
        if name in ("eq", "ne"):
            add(f"{i}_{name}", f"u32 <- {u}, {u}", compare, f"1:{unsigned}")
            continue
        add(f"{i}_{name}_s", f"u32 <- {i}, {i}", compare, f"1:{signed}")
        add(f"{i}_{name}_u", f"u32 <- {u}, {u}", compare, f"1:{unsigned}")


ROUNDINGS: dict[str, Callable[[float], int]] = {
    "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "nearest": round,
}  # fmt: skip


def add_floats(add: Add, bits: int) -> None:
    """The operations of one width. Python compares NaNs as IEEE 754 says: unequal to all, else false."""
    f, sign = f"f{bits}", 1 << bits - 1
    one, two = f"{f} <- {f}", f"{f} <- {f}, {f}"
    add(f"{f}_move", one, lambda a: a, f"0:{f}", bits=True)
    add(f"{f}_add", two, operator.add, f"1:{f}")
    add(f"{f}_sub", two, operator.sub, f"1:{f}")
    add(f"{f}_mul", two, operator.mul, f"1:{f}")
    add(f"{f}_div", two, divide, f"1:{f}")
    add(f"{f}_sqrt", one, square_root)
    add(f"{f}_fma", f"{f} <- {f}, {f}, {f}", fused(f))
    add(f"{f}_min", two, extreme(True))
    add(f"{f}_max", two, extreme(False))
    for name, rounding in ROUNDINGS.items():
        add(f"{f}_{name}", one, whole(rounding), edges=float_words(f, HALVES))
    add(f"{f}_select", f"{f} <- u32, {f}, {f}", lambda c, a, b: a if c else b, bits=True)
    add(f"{f}_neg", one, lambda a: a ^ sign, bits=True)
    add(f"{f}_abs", one, lambda a: a & sign - 1, bits=True)
    add(f"{f}_copysign", two, lambda a, b: a & sign - 1 | b & sign, bits=True)
    for name, compare in COMPARISONS.items():
        add(f"{f}_{name}", f"u32 <- {f}, {f}", compare, f"1:{f}")


def add_conversions(add: Add) -> None:
    """Between integers and floats, between floats, and between both as bits."""
    for bits in (32, 64):
        for kind, least, most in (("s", -(1 << bits - 1), (1 << bits - 1) - 1), ("u", 0, (1 << bits) - 1)):
            integer = f"{'i' if kind == 's' else 'u'}{bits}"
            for f in ("f32", "f64"):
                types, edges = f"{integer} <- {f}", float_words(f, LIMITS)
                add(f"i{bits}_trunc_{f}_{kind}", types, converted(least, most), edges=edges)
                add(f"i{bits}_trunc_sat_{f}_{kind}", types, saturated(least, most), edges=edges)
                compute = to_float(f)
                add(f"{f}_from_i{bits}_{kind}", f"{f} <- {integer}", compute, edges=TIES)
    add("i32_wrap_i64", "u32 <- u64", lambda a: a)
    add("f64_from_f32", "f64 <- f32", float)
    add("f32_from_f64", "f32 <- f64", float, edges=float_words("f64", NARROWED))
    for bits in (32, 64):
        add(f"i{bits}_bits_f{bits}", f"u{bits} <- f{bits}", lambda a: a, bits=True)
        add(f"f{bits}_bits_i{bits}", f"f{bits} <- u{bits}", lambda a: a, bits=True)


def to_float(ctype: str) -> Callable[[int], float]:
    return lambda a: nearest(ctype, Fraction(a))


#: Loads: type of the value that is written, type in memory. Stores: type of the value, type in memory.
LOADS = {
    "i64_load": ("u64", "u64"), "i64_load8_s": ("i64", "i8"), "i64_load8_u": ("u64", "u8"),
    "i64_load16_s": ("i64", "i16"), "i64_load16_u": ("u64", "u16"), "i64_load32_s": ("i64", "i32"),
    "i64_load32_u": ("u64", "u32"), "i32_load": ("u32", "u32"), "i32_load8_s": ("i32", "i8"),
    "i32_load16_s": ("i32", "i16"), "f64_load": ("f64", "u64"), "f32_load": ("f32", "u32"),
}  # fmt: skip
STORES = {
    "i64_store": ("u64", "u64"), "i64_store8": ("u64", "u8"), "i64_store16": ("u64", "u16"),
    "i64_store32": ("u64", "u32"), "f64_store": ("f64", "u64"), "f32_store": ("f32", "u32"),
}  # fmt: skip
#: What there is with its second input in memory: `_load`; with its first one there, and the result: `_to`.
WITH_LOAD = {
    *(f"i{bits}_{name}" for bits in (64, 32) for name in ("add", "sub", "mul", "and", "or", "xor")),
    *(f"f{bits}_{name}" for bits in (64, 32) for name in ("add", "sub", "mul", "div")),
}
UPDATES = {f"i{bits}_{name}" for bits in (64, 32) for name in ("add", "and", "or", "xor")}
MAY_TRAP = {
    *(f"i{bits}_{name}_{kind}" for bits in (64, 32) for name in ("div", "rem") for kind in "su"),
    *(f"i{bits}_trunc_f{of}_{kind}" for bits in (64, 32) for of in (64, 32) for kind in "su"),
}  #: these may trap; try_ and their names go to a label then
#: Atomic operations on a word of memory and a value: what the word is then.
ATOMICS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add, "and": operator.and_, "or": operator.or_, "xor": operator.xor, "exchange": lambda old, a: a,
}  # fmt: skip


# ---- edge values

#: The upper halves that operations of 32 bits must not look at.
DIRT = (0, 0xFFFF_FFFF_0000_0000, 0xDEAD_BEEF_0000_0000)


def integer_edges(bits: int) -> list[int]:
    """0, ±1, what lies around each power that some instruction cares about, shift counts, and two patterns."""
    powers = {1 << power for power in (7, 8, 15, 16, 31, 32, 63) if power < bits}
    near = {0, 1, 2, 3, 31, 33, 63, 64} | powers | {power - 1 for power in powers} | {0x0123_4567_89AB_CDEF}
    near |= {-1, -2, -128, -129, -32768, -(1 << 31), -(1 << 31) - 1, 0xAAAA_5555_CCCC_3333}
    return sorted({value & (1 << bits) - 1 for value in near})


FLOAT_EDGES = {
    "f64": (
        0.0, 1.0, -1.0, 0.1, 1.5, 3.0, -2.5, 2.0**53, 2.0**53 - 1, 1 + 2.0**-52, 2.0**-1022, -(2.0**-1022), 2.0**-1074, -0.0,
        2.0**-1022 - 2.0**-1074, 2.0**-600, 1.7976931348623157e308, -1.7976931348623157e308, 4294967296.0, math.inf, -math.inf,
    ),
    "f32": (
        0.0, 1.0, -1.0, 0.1, 1.5, 3.0, -2.5, 2.0**24, 2.0**24 - 1, 1 + 2.0**-23, 2.0**-126, -(2.0**-126), 2.0**-149, -0.0,
        2.0**-126 - 2.0**-149, 2.0**-100, 3.4028234663852886e38, -3.4028234663852886e38, 4294967296.0, math.inf, -math.inf,
    ),
}  # fmt: skip
#: What lies around halves and around the numbers from which on all floats are whole.
HALVES = tuple(
    sign * value
    for sign in (1, -1)
    for power in (1.0, 2.0, 3.0, 2.0**22, 2.0**23, 2.0**24, 2.0**51, 2.0**52, 2.0**53)
    for value in (
        power - 0.5,
        power,
        power + 0.5,
        power - 0.25,
        power + 0.75,
        0.49999999999999994,
        0.49999997,
    )
)
#: What lies around the limits of the integers.
LIMITS = (
    *(
        sign * (2.0**power + step * 2.0**power * 2.0**-digits)
        for sign in (1, -1)
        for power in (0, 7, 31, 32, 63, 64)
        for digits in (53, 52, 24, 23)
        for step in (-1, 0, 1)
    ),
    2147483647.5,
    -2147483648.5,
    4294967295.5,
    -0.5,
    -0.9999999999999999,
    1e30,
    -1e30,
)
#: Integers halfway between floats, and beside that.
TIES = tuple(
    (sign * ((1 << power) + (odd << power - digits - 1) + step)) & MASK64
    for sign in (1, -1)
    for power in (30, 54, 55, 62, 63)
    for digits in (23, 52)
    if power > digits
    for odd in (1, 3)
    for step in (-1, 0, 1)
)
#: Floats of 64 bits halfway between those of 32 bits, subnormal ones too, and beside that.
NARROWED = (
    *(
        sign * 2.0**power * (1 + odd * 2.0**-digits + step * 2.0**-52)
        for sign in (1, -1)
        for power, digits in ((0, 24), (127, 24), (-126, 24), (-130, 20), (-149, 1), (-150, 2))
        for odd in (1, 3, 2**24 - 1)
        if odd < 1 << digits
        for step in (-1, 0, 1)
    ),
    2.0**-150,
    -(2.0**-150),
    2.0**-151,
)
#: NaNs of both kinds, signs and with payloads.
NAN_EDGES = {
    "f64": (0x7FF8_0000_0000_0000, 0x7FF0_0000_0000_0001, 0xFFF8_0000_DEAD_BEEF, 0x7FF7_FFFF_FFFF_FFFF),
    "f32": (0x7FC0_0000, 0x7F80_0001, 0xFFC0_BEEF, 0x7FBF_FFFF),
}


def float_words(ctype: str, values: tuple[float, ...]) -> tuple[int, ...]:
    """Floats as words; the upper half of an f32 is 0."""
    return tuple({hole_word(ctype, value): None for value in values})


def edge_words(ctype: str) -> list[int]:
    """Slot words whose low bits are the edge values of a type; the bits above a narrower type are dirty."""
    if ctype[0] == "f":
        words = [word for value in FLOAT_EDGES[ctype] if (word := encode(ctype, value)) is not None]
        words += NAN_EDGES[ctype]
    else:
        words = integer_edges(width(ctype))
    if width(ctype) == 64:
        return words
    above = MASK64 >> width(ctype) << width(ctype)
    dirt = [(pattern | pattern >> 32) & above for pattern in DIRT]
    return [word | dirt[number % len(dirt)] for number, word in enumerate(words)]


def hole_values(ctype: str) -> list[Number]:
    """Values of an immediate: 0, ±1, what lies around the powers of targets.md, the limits of the range."""
    if ctype.isdigit():
        return [int(ctype)]
    if ctype[0] == "f":
        return [*FLOAT_EDGES[ctype], math.nan]
    bits = width(ctype)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if ctype[0] == "i" else (0, (1 << bits) - 1)
    powers = [1 << power for power in (4, 7, 11, 12, 15, 16, 20, 31, 32, 47, 63)]
    values = (
        {0, 1, 2, 3, low, high, high - 1}
        | {s * p + d for p in powers for s in (1, -1) for d in (-1, 0, 1)}
        | {-1}
    )
    return sorted(value for value in values if low <= value <= high)


def hole_word(ctype: str, value: Number) -> int:
    """The word that an input has where it is this immediate."""
    if ctype[0] == "f":
        return int.from_bytes(struct.pack("<d", value) if ctype == "f64" else pack32(value), "little")
    return int(value) & MASK64  # also of a number that is its own type
