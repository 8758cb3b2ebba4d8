"""The experiments about loads, stores and atomic operations, for the bench of operation_rig.py.

A load reads its row's word at IN, a store writes the result at OUT: base and index are made to fit every offset and
scale, so that any of them is aligned. An atomic operation works on the word at OUT after the first input was put there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

from cnp import slot
from cnp.assembler import Register, Slot, f, r
from tests.operation_rig import (
    IN,
    NEAR,
    OUT,
    SPARE,
    STARTS,
    UNTOUCHED,
    Experiment,
    Place,
    Row,
    Spot,
    Variant,
    fetch,
    item_word,
    keep,
)
from tests.reference import ATOMICS, LOADS, MASK64, STORES, Reference, edge_words, hole_values, width

INDICES = (3, -5, 1 << 20, 0)  #: of base + index * scale
CHECKED = (0, 7, 0xFFFF_FFFF, 1 << 31)  #: of base + index, which must not be negative
DIRT = 0xDEAD_BEEF << 32  #: above an index of 32 bits


#: Where the operands of a variant lie: slots from an offset on, or registers.
PLACES: tuple[int | None, ...] = (*STARTS, None)


def spot(start: int | None, number: int, ctype: str = "u64") -> Spot:
    """Where operand `number` of a variant lies."""
    if start is not None:
        return slot(start + 8 * number)
    return (f if ctype[0] == "f" else r)[1 + number]


class Way(NamedTuple):
    """How an operation finds its memory. name: behind that of the operation. prepare(asm, base, index, point, at): put into
    `base` and `index` what makes the address that of slot `point` plus `at`. operands: between d and a."""

    name: str
    what: str
    prepare: Callable[[Any, Spot, Spot, Slot, int], None]
    operands: Callable[[Spot, Spot], tuple[Any, ...]]


def ways(size: int) -> Iterator[Way]:
    """All ways with all offsets and scales. size: bytes of the access."""
    for offset in map(int, hole_values("i32")):
        yield plain(offset)
    for scale, (number, offset) in product((1, 2, 4, 8), enumerate(map(int, hole_values("i32")))):
        if number % 4 == scale.bit_length() - 1 or offset == 0:
            yield scaled(INDICES[number % len(INDICES)], scale, offset)
    for number, offset in enumerate(map(int, hole_values("u31"))):
        yield checked(CHECKED[number % len(CHECKED)], offset, size)


def plain(offset: int) -> Way:
    def prepare(asm: Any, base: Spot, _: Spot, point: Slot, at: int) -> None:
        difference(asm, base, point, offset - at)

    return Way("", f"+ {offset}", prepare, lambda base, _: (base, offset))


def scaled(index_is: int, scale: int, offset: int) -> Way:
    def prepare(asm: Any, base: Spot, index: Spot, point: Slot, at: int) -> None:
        difference(asm, base, point, offset + index_is * scale - at)
        asm.i64_move(index, index_is)

    return Way("_at", f"+ {index_is} * {scale} + {offset}", prepare, lambda base, i: (base, i, scale, offset))


def checked(index_is: int, offset: int, bytes_: int) -> Way:
    """The memory ends right behind the access."""

    def size_beside(base: Spot) -> Spot:
        return r[9] if isinstance(base, Register) else slot(SPARE.offset + 8)

    def prepare(asm: Any, base: Spot, index: Spot, point: Slot, at: int) -> None:
        difference(asm, base, point, offset + index_is - at)
        asm.i64_move(index, index_is | DIRT)
        asm.i64_move(size_beside(base), offset + index_is + bytes_)

    return Way(
        "_checked", f"+ {index_is} + {offset}", prepare, lambda base, i: (base, size_beside(base), i, offset)
    )


def difference(asm: Any, d: Spot, point: Slot, number: int) -> None:
    """d = point - number."""
    asm.i64_move(d, number)
    asm.i64_sub(d, point, d)


def memory_experiments() -> list[Experiment]:
    """Everything about memory."""
    found = [load(name, *types) for name, types in LOADS.items()]
    found += [store(name, *types) for name, types in STORES.items()]
    for bits in (64, 32):
        found += [atomic(f"i{bits}_atomic_{name}", bits, compute) for name, compute in ATOMICS.items()]
        found += [atomic_load(bits), atomic_store(bits), exchange_if_equal(bits)]
    return found


# ---- loads and stores

#: What a load does with the value that lies in memory.
MOVES = {
    types: Reference(f"move {types}", types[0].replace("f", "u"), (types[1],), lambda a: a, {})
    for types in LOADS.values()
}


def load(name: str, result: str, memory: str) -> Experiment:
    """From IN, in all ways; the destination may be the base or the index."""
    experiment = Experiment(name, [(word,) for word in edge_words("u64")], placed=True)
    for number, way in enumerate(ways(width(memory) // 8)):
        for start, d in product(PLACES, (0, 1, 2) if number % 4 == 0 else (0,)):
            experiment.variants.append(loading(name, result, memory, spot(start, d, result), start, way))
    return experiment


def loading(name: str, result: str, memory: str, d: Spot, start: int | None, way: Way) -> Variant:
    size, base, index = width(memory) // 8, spot(start, 0), spot(start, 1)

    def emit(asm: Any, at: int) -> None:
        way.prepare(asm, base, index, IN, 0)
        asm.op(name + way.name, d, *way.operands(base, index))
        keep(asm, result, d, at)

    def expect(row: Row, place: Place) -> int | None:
        low = int.from_bytes(row[0].to_bytes(8, place.order)[:size], place.order)
        return item_word(MOVES[result, memory], (low,))

    return Variant(f"{d} <- [{base} {way.what}]", emit, expect, result)


def store(name: str, ctype: str, memory: str) -> Experiment:
    """To OUT, in all ways; immediates too."""
    experiment = Experiment(name, [(word,) for word in edge_words(ctype)], placed=True)
    size = width(memory) // 8
    for way, start in product(ways(size), PLACES):
        experiment.variants.append(storing(name, ctype, size, start, way, spot(start, 2, ctype)))
    experiment.variants += [storing(name, ctype, size, start, plain(8), slot(start)) for start in STARTS]
    if ctype == "u64":
        for start, number in product(PLACES, map(int, hole_values("i32"))):
            experiment.variants.append(storing(name, ctype, size, start, plain(number % 64 * 8), number))
    return experiment


def storing(name: str, ctype: str, size: int, start: int | None, way: Way, a: Spot | int) -> Variant:
    """[address] <- a. Bytes beside the value stay as they were. In one slot with its base, a is the base."""
    base, index = spot(start, 0), spot(start, 1)

    def emit(asm: Any, at: int) -> None:
        if not isinstance(a, int):
            fetch(asm, [a], [ctype])
        way.prepare(asm, base, index, OUT, at)
        asm.op(name + way.name, *way.operands(base, index), a)

    def expect(row: Row, place: Place) -> int:
        word = a & MASK64 if isinstance(a, int) else place.address - 8 & MASK64 if a == base else row[0]
        return beside(word, size, place, UNTOUCHED)

    return Variant(f"[{base} {way.what}] <- {a}", emit, expect)


def beside(word: int, size: int, place: Place, rest: int) -> int:
    """The word of memory whose first `size` bytes are a value, the others all `rest`."""
    data = (word & (1 << 8 * size) - 1).to_bytes(size, place.order)
    return int.from_bytes(data + bytes([rest]) * (8 - size), place.order)


# ---- atomic operations


def atomic_rows(inputs: int) -> list[Row]:
    words = edge_words("u64")
    columns = [words[:: len(words) // (10 if inputs < 3 else 6)]] * inputs
    return list(product(*columns))


def use(
    name: str, bits: int, columns: int, old: bool, start: int | None, offset: int, new: Callable[..., int]
) -> Variant:
    """Put the first input to OUT, do the operation there. old: what it gives is kept, not what is then in memory.
    columns: its values, which are the other inputs; new(word, *values): what the memory is then."""
    d, base, *values = (spot(start, number) for number in range(2 + columns))

    def emit(asm: Any, at: int) -> None:
        asm.i64_load(d, IN, 0)
        asm.op(f"i64_store{'' if bits == 64 else bits}", OUT, at, d)
        for number, place in enumerate(values):
            asm.i64_load(place, IN, 8 * (1 + number))
        difference(asm, base, OUT, offset - at)
        asm.op(name, d, base, offset, *values)
        if old:
            asm.i64_store(OUT, at, d)

    def expect(row: Row, place: Place) -> int:
        mask = (1 << bits) - 1
        word, *others = (value & mask for value in row)
        return word if old else beside(new(word, *others), bits // 8, place, UNTOUCHED)

    what = "old value" if old else "memory"
    return Variant(f"{what} at {base} + {offset}", emit, expect)


def uses(name: str, bits: int, columns: int, new: Callable[..., int]) -> Experiment:
    experiment = Experiment(name, atomic_rows(1 + columns), placed=True)
    for number, offset in enumerate(map(int, hole_values("i32"))):
        for old, start in product((True, False), PLACES if number % 8 == 0 else (NEAR, None)):
            experiment.variants.append(use(name, bits, columns, old, start, offset, new))
    return experiment


def atomic(name: str, bits: int, compute: Callable[[int, int], int]) -> Experiment:
    return uses(name, bits, 1, compute)


def exchange_if_equal(bits: int) -> Experiment:
    experiment = uses(
        f"i{bits}_atomic_cas", bits, 2, lambda old, expected, new: new if old == expected else old
    )
    experiment.rows = [(a, b, c) for a, b, c in experiment.rows if a == b or (a ^ b) % 3 == 0]
    return experiment


def atomic_load(bits: int) -> Experiment:
    return uses(f"i{bits}_atomic_load", bits, 0, lambda old: old)


def atomic_store(bits: int) -> Experiment:
    """As a store: nothing is given back."""
    experiment = Experiment(f"i{bits}_atomic_store", [(word,) for word in edge_words("u64")], placed=True)
    for start, offset in product(PLACES, map(int, hole_values("i32"))):
        way = plain(offset)
        experiment.variants.append(storing(experiment.name, "u64", bits // 8, start, way, spot(start, 2)))
    return experiment
