"""What the description of a bytecode consists of: fields, operands, rules; and how records hold operands."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from cnp.emit import FUNCTION as FUNCTION_KIND
from cnp.emit import NONE, NUMBER, POSITION, RECORD, SLOT, TABLED, WIDE, F, R
from cnp.errors import OperandError
from cnp.operands import Function, Label, Register, Slot

#: One number, two as the first and last of a span, or a set of numbers.
Allowed: TypeAlias = "int | tuple[int, int] | Iterable[int]"
#: Numbers by the values of a field, by the name of the pool.
Pools: TypeAlias = Mapping[str, Mapping[int, int]]
MOST_OPCODE = 16  #: bits of an opcode
SIZE = RECORD.size
ZERO = ((0, 0),)  #: spans of a field that must be 0
WIDE_HALVES = struct.Struct("=2i")
MOST_ESCAPE = 16  #: records of an escape unless its rule says otherwise


class Bits(NamedTuple):
    """A field: `width` bits from bit `at` on of word 0 or 1 of an instruction, the lowest bit being 0."""

    word: int
    at: int
    width: int
    signed: bool


# ---- operands of steps, beside registers, slots and numbers


@dataclass(frozen=True, slots=True)
class Number:
    """base + scale * field, or with `high` the number that has that field above the bits of this one."""

    field: str
    scale: int = 1
    base: int = 0
    high: str | None = None


@dataclass(frozen=True, slots=True)
class SlotOf:
    """The slot at base + scale * field bytes."""

    field: str
    scale: int = 8
    base: int = 0


@dataclass(frozen=True, slots=True)
class Map:
    """What stands in `values` at the field's value: registers, slots, numbers; None: the field must not have this value."""

    field: str
    values: tuple[Register | Slot | int | None, ...]


@dataclass(frozen=True, slots=True)
class Pool:
    """The number that a pool of the translation has for the field's value, which must be in it. tabled: for an operation with
    more operands than four, beside which a record has no place for 64 bits."""

    name: str
    field: str
    tabled: bool = False


@dataclass(frozen=True, slots=True)
class Goal:
    """The instruction that a rule goes to (TARGET), or the function that begins there (FUNCTION)."""

    function: bool = False


TARGET, FUNCTION = Goal(), Goal(function=True)


@dataclass(frozen=True, slots=True)
class Instruction:
    """Among the operands of an escape: the operation at which instruction `index` begins, of those in words."""

    index: int


@dataclass(frozen=True, slots=True)
class Tabled:
    """One of the numbers of a batch."""

    number: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """A function by the number of its label."""

    label: int


#: The name of an operation and its operands.
Step: TypeAlias = tuple[Any, ...]


# ---- rules


@dataclass(frozen=True, slots=True)
class Jump:
    """Where an instruction goes: to the byte base + scale * field from its own place, or from the program's start
    (absolute). scale: bytes, or as many as a word has; base: bytes, or as many as the instruction has."""

    field: str
    scale: int | None = None
    base: int | None = None
    absolute: bool = False


@dataclass(frozen=True, slots=True)
class Call(Jump):
    """As a jump, but a function begins there."""


@dataclass(frozen=True, slots=True)
class Given:
    """An instruction for an escape: its place in words, and its fields."""

    index: int
    fields: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rule:
    """What instructions of an opcode become: `steps`, or what `escape` gives for them, at most `most` operations.

    when: what fields must be for this rule to be the one; of the rules of an opcode the first one counts. must: what they must
    be then, otherwise the program is refused. goes: which instruction it goes to. ends: it never goes on with the next one.
    words: how many it takes; the same for all rules of an opcode.
    """

    opcode: int
    steps: tuple[Step, ...]
    when: Mapping[str, Allowed]
    must: Mapping[str, Allowed]
    goes: Jump | None
    ends: bool
    words: int
    escape: Callable[[Given], Iterable[Step]] | None
    most: int

    def __init__(
        self,
        opcode: int,
        *steps: Step,
        when: Mapping[str, Allowed] | None = None,
        must: Mapping[str, Allowed] | None = None,
        goes: Jump | None = None,
        ends: bool = False,
        words: int = 1,
        escape: Callable[[Given], Iterable[Step]] | None = None,
        most: int = MOST_ESCAPE,
    ) -> None:
        values = (opcode, steps, dict(when or {}), dict(must or {}), goes, ends, words, escape, most)
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, slots=True)
class Functions:
    """How functions of a bytecode begin, for those that it calls: their bytes of slots, the operations at their beginning, and
    the operation that jumps behind these from the instruction before."""

    frame: int
    begin: tuple[Step, ...] = ()
    join: str = ""


class Firsts(NamedTuple):
    """What the records of a program begin with: position of the first operation, number of the label of its first function,
    whose others follow, and of the first of its `numbers` in the batch."""

    position: int = 0
    label: int = 0
    number: int = 0


@dataclass(frozen=True, slots=True)
class Begin:
    """A function: its instruction's place in words, and the position of its first operation."""

    index: int
    position: int


@dataclass(frozen=True, slots=True)
class Translated:
    """A program as records. places: for each word the position of the first operation of its instruction; functions: in
    order; end: position behind the last operation."""

    records: memoryview
    places: Sequence[int]
    functions: Sequence[Begin]
    end: int


class Appended(NamedTuple):
    """A program in an assembler. functions: in order; places: for each word the position of the first operation of its
    instruction."""

    functions: Sequence[Function]
    places: Sequence[int]


#: The rules of all bytecodes, in the order of the core's enum cnp_fault, with what is said: field, value, allowed.
RULES = {
    "opcode": "there is no such opcode",
    "cut": "its second word is missing",
    "variant": "no rule of this opcode takes its fields",
    "field": "field {0} is {1}; allowed is {2}",
    "pool": "there is no {1} in the pool {0}",
    "end": "the program runs off its end",
    "outside": "it goes to byte {1}, outside of the program",
    "inside": "it goes to byte {1}, where no instruction begins",
}


def value_of(bits: Bits, words: Sequence[int]) -> int:
    """A field of an instruction."""
    value = words[bits.word] >> bits.at & (1 << bits.width) - 1
    return value - (bits.signed and value >> bits.width - 1) * (1 << bits.width)


def signed64(value: int) -> int:
    """The lower 64 bits as a signed number."""
    return (value & (1 << 64) - 1 ^ 1 << 63) - (1 << 63)


def constant(value: object) -> tuple[int, int]:
    """Kind and word of an operand of a record."""
    if value is None:
        return NONE, 0
    if isinstance(value, Slot):
        return SLOT, value.offset
    if isinstance(value, Register):
        return (R if value.bank == "r" else F), value.index
    if isinstance(value, Instruction):
        return POSITION, value.index
    if isinstance(value, Labelled):
        return FUNCTION_KIND, value.label
    if isinstance(value, Tabled):
        return TABLED, value.number
    if isinstance(value, int):
        return NUMBER, value
    raise wrong("operand", value, "a register, a slot, a number or an instruction")


def operands(
    kinds: int,
    words: Sequence[int],
    labels: Mapping[int, Label],
    functions: Sequence[Function],
    numbers: Sequence[int],
) -> list[Any]:
    """The operands of a record as an assembler takes them."""
    found: list[Any] = []
    while kinds:
        kind, word = kinds & 15, words[len(found)]
        if kind == POSITION:
            found.append(labels[word])
        elif kind == FUNCTION_KIND:
            found.append(functions[word])
        elif kind == SLOT:
            found.append(Slot(word))
        elif kind in (R, F):
            found.append(Register("r" if kind == R else "f", word))
        elif kind == TABLED:
            found.append(numbers[word])
        else:
            found.append(word if kind == NUMBER else WIDE.unpack(WIDE_HALVES.pack(*words[4:6]))[0])
        kinds >>= 4
    return found


def spans(allowed: Allowed) -> tuple[tuple[int, int], ...]:
    """Numbers as spans in order."""
    if isinstance(allowed, int):
        return ((allowed, allowed),)
    if isinstance(allowed, tuple):
        low, high = allowed
        return ((low, high),)
    found: list[tuple[int, int]] = []
    for number in sorted(set(allowed)):
        if found and found[-1][1] == number - 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return tuple(found)


def wrong(what: str, value: object, allowed: object) -> OperandError:
    """A description that does not fit together."""
    return OperandError(
        f"{what}: {value!r}; give {allowed}", op="", operand=what, value=value, allowed=allowed
    )
