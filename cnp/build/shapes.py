"""Which forms an operation gets: one for each way its operands can be given.

A declaration says for each operand what it is; a `Pick` is one way to give it:

    slot       in the frame, at an offset that is a hole         r, f     in a register of that bank
    imm        an immediate: any value of its type, as an address that folds, or one fixed number
    number     an immediate within a short interval, held by the instruction itself

Registers and short numbers are no symbols to the compiler. Their shapes are compiled for several values, and
cnp/build/learn.py finds in the code where the instructions hold them.
"""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from cnp.build.discover import IMMEDIATE, NUMBER, SCALARS, Declaration, Source
from cnp.stencil import Accept, Operand
from cnp.target import Target

FLOATS = ("f32", "f64", "float", "double")
VALUES = ("in", "in/imm", "out")  #: kinds of operands that lie in slots or registers
FOLDING = ("i8", "u8", "i16", "u16", "i32", "u31", "u32")
REGISTER = re.compile(r"([rf])(\d+)")
TRY = "try_"  #: begins the name of an operation that goes to a label where it would trap
MOST_MIXED = 3  #: value operands of which registers and slots come in all mixtures


class Pick(NamedTuple):
    """One way to give an operand. kind: slot, r, f, imm, number, or the operand's own kind; ctype: of an immediate;
    low … high: what the type allows, a multiple of step. fixed: exactly this number. folded: as an address. taken:
    the kind of `Accept`, if it is not the type."""

    kind: str
    ctype: str = ""
    low: int = 0
    high: int = (1 << 64) - 1
    step: int = 1
    fixed: int | None = None
    folded: bool = False
    wide: bool = False
    taken: str = ""

    @property
    def learned(self) -> bool:
        return self.kind in ("r", "f", "number")

    @property
    def accept(self) -> Accept:
        """The operands that this pick stands for, before the fields of the code narrow them."""
        kind = {"imm": self.ctype, "number": self.ctype}.get(self.kind, self.kind)
        kind = self.taken or kind
        if self.kind in ("r", "f"):
            return Accept(kind, 0, 0)
        return Accept(kind, self.low, self.high, self.step)


@dataclass(frozen=True, slots=True)
class Shape:
    """A form to print. group: for each operand the number of the register or short number that is to be learned, -1 for
    the others; operands of one group are the same register. feature: what it is compiled for beyond the base line."""

    key: str
    operation: str
    declaration: Declaration
    operands: tuple[Operand, ...]
    picks: tuple[Pick, ...]
    group: tuple[int, ...]
    feature: str = ""

    @property
    def learned(self) -> bool:
        return max(self.group, default=-1) >= 0


@dataclass(frozen=True, slots=True)
class Registers:
    """The registers of a vocabulary: by bank, which of its words a machine register holds (index -> number, -1: none)."""

    r: tuple[int, ...] = ()
    f: tuple[int, ...] = ()

    def pinned(self, bank: str) -> list[int]:
        """Indices of the registers that the machine has."""
        return [index for index, number in enumerate(getattr(self, bank)) if number >= 0]

    def number(self, bank: str, index: int) -> int:
        """The machine's number of a register."""
        return int(getattr(self, bank)[index])


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the state lives: words in registers, the rest in the frame's save area. memory: those of the rest that are
    registers of the vocabulary, which only operands name, as slots."""

    ints: tuple[tuple[str, str], ...]
    floats: tuple[tuple[str, str], ...]
    homes: tuple[tuple[str, str], ...]
    memory: tuple[tuple[str, str], ...]


def layout(source: Source, target: Target) -> Layout:
    """Give the first words of each class to registers, as many as the target holds."""
    ints = [item for item in source.state if item[0] not in FLOATS]
    floats = [item for item in source.state if item[0] in FLOATS]
    rest = ints[target.ints :] + floats[target.floats :]
    memory = tuple(item for item in rest if REGISTER.fullmatch(item[1]))
    homes = tuple(item for item in rest if item not in memory)
    return Layout(tuple(ints[: target.ints]), tuple(floats[: target.floats]), homes, memory)


def registers(source: Source, target: Target) -> Registers:
    """The state words that are registers, in the order of their numbers."""
    plan = layout(source, target)
    machine = {
        name: number
        for words, numbers in ((plan.ints, target.registers[0]), (plan.floats, target.registers[1]))
        for (_, name), number in zip(words, numbers, strict=False)
    }
    banks: dict[str, list[int]] = {"r": [], "f": []}
    wanted = {"r": "u64", "f": "f64"}
    names = {name: ctype for ctype, name in source.state}
    for bank, found in banks.items():
        while names.get(f"{bank}{len(found)}") == wanted[bank]:
            found.append(machine.get(f"{bank}{len(found)}", -1))
    return Registers(tuple(banks["r"]), tuple(banks["f"]))


def shapes(source: Source, target: Target) -> list[Shape]:
    """All forms of all operations; of forms that take the same operands the better one first."""
    banks = registers(source, target)
    found: list[Shape] = []
    for item in source.declarations:
        for name, operands in variants(item):
            found += forms(name, item, operands, target, banks)
    return found


def with_feature(shape: Shape, feature: str) -> Shape:
    """The same form for processors that have a feature."""
    return replace(shape, key=f"{shape.key}.{feature}", feature=feature)


def variants(item: Declaration) -> list[tuple[str, tuple[Operand, ...]]]:
    """The operations that one declaration makes: a test is a value, a branch and a selection; what may trap may go
    elsewhere instead."""
    target = Operand("label", "", "target")
    if item.kind == "trap":
        return [(item.name, item.operands), (TRY + item.name, (*item.operands, target))]
    if item.kind != "test":
        return [(item.name, item.operands)]
    inputs = item.operands[1:]
    branch = (*inputs, target)
    selection = (Operand("out", "u64", "d"), *inputs, Operand("in", "u64", "x"), Operand("in", "u64", "y"))
    return [(item.name, item.operands), ("br_" + item.name, branch), ("sel_" + item.name, selection)]


def forms(
    name: str, item: Declaration, operands: tuple[Operand, ...], target: Target, banks: Registers
) -> Iterator[Shape]:
    """The shapes of one operation."""
    ways = [list(picks(item, operand, target, banks)) for operand in operands]
    number = 0
    for choice in itertools.product(*ways):
        if sensible(name, item, choice, operands, target):
            yield Shape(f"{name}.{number}", name, item, operands, choice, grouping(choice))
            number += 1


def grouping(choice: tuple[Pick, ...]) -> tuple[int, ...]:
    """A group of its own for each operand that is learned."""
    count = itertools.count()
    return tuple(next(count) if pick.learned else -1 for pick in choice)


def picks(item: Declaration, operand: Operand, target: Target, banks: Registers) -> Iterator[Pick]:
    """The ways to give one operand, the best first."""
    if operand.kind == "imm" or operand.kind == "in/imm":
        learns = bool(banks.r) and any(o.kind in VALUES for o in item.operands)
        types = item.immediates.get(operand.name) or (operand.ctype,)
        alone = operand.kind == "in/imm" and sum(o.kind.startswith("in") for o in item.operands) == 1
        for ctype in types:
            yield from immediates(ctype, operand.ctype, target, learns, alone)
    if operand.kind in VALUES:
        bank = "f" if operand.ctype in FLOATS else "r"
        if banks.pinned(bank):
            yield Pick(bank)
        low, high = target.short_slots
        yield Pick("slot", "", low, high)
        if target.wide:
            yield Pick("slot", "", -(1 << 31), (1 << 31) - 1, wide=True)
    elif operand.kind == "slot":
        yield Pick("slot", "", *target.short_slots)
        if target.wide:
            yield Pick("slot", "", -(1 << 31), (1 << 31) - 1, wide=True)
    elif operand.kind != "imm":
        yield Pick(operand.kind)


def immediates(ctype: str, used: str, target: Target, learns: bool, alone: bool) -> Iterator[Pick]:
    """The ways to give an immediate of a declared type to a parameter of type `used`. alone: it is all that comes in."""
    if NUMBER.fullmatch(ctype):
        value = int(ctype)
        if used in ("f32", "f64"):
            bits = float_bits(used, value)
            yield Pick("imm", used, bits, bits, fixed=value)
        else:
            yield Pick("imm", "i64", value, value, fixed=value)
        return
    low, high = limits(ctype)
    if learns and ctype == "disp" and target.shorten:
        yield Pick("imm", "i32", 0, 0, fixed=0)
    plain = {"disp": "i32"}.get(ctype, ctype)
    if learns and plain not in SCALARS and plain[0] == "u" and int(plain[1:]) <= 6:
        for bottom in range(0, high + 1, 32):
            yield Pick("number", plain, bottom, min(high, bottom + 31))
    elif learns and plain[0] in "iu" and int(plain[1:]) >= 16:
        short = [(*interval, 1) for interval in target.short]
        intervals = short[:1] if ctype == "disp" and target.wide else target.constants if alone else short
        for interval in intervals:
            yield from numbers(plain, used, *interval)
    if target.folds and plain in FOLDING:
        yield Pick("imm", plain, low, high, folded=True)
    # an unsigned word for a wider operand: a negative number is no two's complement of it
    half = plain == "u32" and used in ("i64", "u64", "disp")
    yield Pick("imm", plain, low, high, taken="i64" if half else "")


def numbers(ctype: str, used: str, bottom: int, top: int, step: int) -> Iterator[Pick]:
    """The multiples of `step` in an interval that are of an immediate type, for a parameter of type `used`."""
    low, high = limits(ctype)
    bits = int(ctype[1:])
    least = low if ctype[0] == "i" or bits not in (32, 64) else -(1 << bits - 1)  # two's complement of words
    first, last = -(-max(bottom, least) // step) * step, min(top, high) // step * step
    # steps up to the whole word: a negative number is two's complement of one
    taken = "u32" if step > 1 and last >> 31 == 1 and ctype == used == "u32" else ""
    if first < last:
        yield Pick("number", "i64" if bits > 32 else "i32", first, last, step, taken=taken)


def float_bits(ctype: str, value: int) -> int:
    """A number as the bits of a float."""
    mark, word = ("<f", "<I") if ctype == "f32" else ("<d", "<Q")
    return int(struct.unpack(word, struct.pack(mark, value))[0])


def limits(ctype: str) -> tuple[int, int]:
    """The values of an immediate type, floats as their bits, pointers as words."""
    ctype = {"disp": "i32", "f32": "u32", "f64": "u64"}.get(ctype, ctype)
    if not IMMEDIATE.fullmatch(ctype):
        return 0, (1 << 64) - 1
    bits = int(ctype[1:])
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if ctype[0] == "i" else (0, (1 << bits) - 1)


def sensible(
    operation: str,
    item: Declaration,
    choice: tuple[Pick, ...],
    operands: tuple[Operand, ...],
    target: Target,
) -> bool:
    """Whether a mixture is worth a form: the assembler composes the others."""
    pairs = [(pick, operand) for pick, operand in zip(choice, operands, strict=True)]
    inputs = [pick.kind for pick, operand in pairs if operand.kind.startswith("in")]
    if len(inputs) > 1 and all(kind in ("imm", "number") for kind in inputs):
        return False  # a compiler has computed such a value
    slots = [pick for pick, operand in pairs if pick.kind == "slot" and operand.kind in VALUES]
    folds = [pick for pick in choice if pick.kind == "imm" and pick.ctype in FOLDING and pick.fixed is None]
    if len({pick.wide for pick in choice if pick.kind == "slot"}) > 1:
        return False
    if len({pick.folded for pick in folds}) > 1:
        return False
    if any(pick.kind in ("r", "f") for pick in choice):
        wasted = any(pick.folded or covered(pick, operand, target) for pick, operand in pairs)
        reaches = bool(slots) and (not slots[0].wide or sum(o.kind in VALUES for o in operands) == 2)
        mixed = len(slots) == 1 and reaches and mixes(operation, item, operands)
        fixed = writes_and_jumps(operands) and not {"r", "f"} & set(inputs)
        return not wasted and (not slots or mixed or fixed)
    return not any(pick.kind == "number" for pick in choice)


def covered(pick: Pick, operand: Operand, target: Target) -> bool:
    """Whether short numbers are all that an immediate may be."""
    if (
        pick.kind != "imm"
        or pick.fixed is not None
        or pick.ctype in ("f32", "f64")
        or pick.ctype[0] not in "iu"
    ):
        return False
    bits = int(pick.ctype[1:])
    return bits <= 6 or any(low <= pick.low and pick.high <= high for low, high in target.short)


def writes_and_jumps(operands: tuple[Operand, ...]) -> bool:
    """Whether no output can be composed: what an operation writes cannot be moved elsewhere behind a jump. The inputs
    can: all of them may become slots."""
    kinds = {operand.kind for operand in operands}
    return "out" in kinds and bool(kinds & {"label", "table"})


def mixes(operation: str, item: Declaration, operands: tuple[Operand, ...]) -> bool:
    """Whether registers and slots come together in the forms of an operation: where a machine may do better than load,
    operate, store."""
    values = sum(operand.kind in VALUES for operand in operands)
    if item.kind == "test":
        return operation == "br_" + item.name
    return item.kind != "trap" and values <= (MOST_MIXED if item.kind == "pure" else 2)
