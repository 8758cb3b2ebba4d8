"""Bytecode as a table: fields of fixed-width instructions, and which operations each of them becomes.

    words = Bytecode(vm, size=4, fields={"op": (0, 8), "a": (8, 8), "b": (16, 16, "signed")}, rules=[
        Rule(1, ("i64_move", SlotOf("a"), Number("b"))),                # a = b
        Rule(2, ("i64_add", SlotOf("a"), SlotOf("a"), SlotOf("b")), must={"b": (0, 7)}),
        Rule(3, ("br_i64_ne", SlotOf("a"), 0, TARGET), goes=Jump("b")),  # to the b-th instruction behind this one
        Rule(4, ("ret", SlotOf("a")), must={"b": 0}, ends=True),
    ])
    words.append(asm, code)

Each instruction is checked before anything is made of it: its opcode, its fields, where it goes, and that the program does not
run off its end. The core in C does that and writes records (`translate`); where it is missing, cnp/bytecode_reference.py does
the same in Python. What a table cannot say, a rule leaves to a callable of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from cnp import native
from cnp.emit import FUNCTION as FUNCTION_KIND
from cnp.emit import NONE, NUMBER, POSITION, RECORD, SLOT, WIDE, WIDE_KIND, F, R
from cnp.errors import BytecodeError, OperandError
from cnp.library import Library
from cnp.operands import Function, Label, Register, Slot

if TYPE_CHECKING:
    from cnp.assembler import Assembler
    from cnp.emit import Batch

#: One number, two as the first and last of a span, or a set of numbers.
Allowed: TypeAlias = "int | tuple[int, int] | Iterable[int]"
MOST_OPCODE = 16  #: bits of an opcode
SIZE = RECORD.size
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
    """The number that a pool of the translation has for the field's value, which must be in it."""

    name: str
    field: str


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


@dataclass(frozen=True, slots=True)
class Begin:
    """A function: its instruction's place in words, and the position of its first operation."""

    index: int
    position: int


@dataclass(frozen=True, slots=True)
class Translated:
    """A program as records. places: for each word the position of the first operation of the instruction that begins there; of
    second words that of their instruction. functions: in order."""

    records: memoryview
    places: Sequence[int]
    functions: Sequence[Begin] = field(default_factory=tuple)


class Bytecode:
    """A description of a bytecode in the operations of a vocabulary, checked.

    size: bytes of a word: 1, 2, 4 or 8. fields: name -> (first bit, width), or (first bit, width, "signed"); bits are counted
    from the lowest one of the first word on, those of the second follow. opcode: which field leads to the rules. big: words
    are big-endian. functions: for a bytecode with calls. OperandError: something does not fit together.
    """

    def __init__(
        self,
        vocabulary: Any,
        size: int,
        fields: Mapping[str, Sequence[Any]],
        rules: Iterable[Rule],
        opcode: str = "op",
        big: bool = False,
        functions: Functions | None = None,
    ) -> None:
        self.library: Library = getattr(vocabulary, "library", vocabulary)
        if size not in (1, 2, 4, 8):
            raise wrong("size", size, (1, 2, 4, 8))
        self.size, self.opcode, self.big, self.functions = size, opcode, big, functions
        self.fields = {name: self._bits(name, *given) for name, given in fields.items()}
        bits = self.bits(opcode)
        if bits.word or bits.width > MOST_OPCODE or bits.signed:
            raise wrong("opcode", opcode, f"unsigned, {MOST_OPCODE} bits at most, of the first word")
        self.rules: dict[int, list[Rule]] = {}
        for rule in rules:
            self._check(rule)
            self.rules.setdefault(rule.opcode, []).append(rule)
        self.pools = sorted(
            {o.name for rule in self.each() for s in rule.steps for o in s if isinstance(o, Pool)}
        )
        for rule in self.each():
            if not all(allowed for _, allowed in self.limits(rule)):
                raise wrong(f"rule of opcode {rule.opcode:#x}", rule, "every field at least one value")
        self._tables: Any = None
        if native.core_module is not None:
            _ = self.tables

    def each(self) -> list[Rule]:
        """All rules, those of an opcode one behind the other."""
        return [rule for opcode in sorted(self.rules) for rule in self.rules[opcode]]

    def bits(self, name: str) -> Bits:
        """A field by its name. OperandError."""
        if name not in self.fields:
            raise wrong("field", name, ", ".join(self.fields))
        return self.fields[name]

    def _bits(self, name: str, at: int, width: int, signed: str = "") -> Bits:
        word, at = divmod(at, 8 * self.size)
        if not (0 <= word < 2 and 0 < width <= 8 * self.size - at and signed in ("", "signed")):
            raise wrong(f"field {name}", (at, width, signed), "bits of one word, of the first two")
        if width == 64 and not signed:
            raise wrong(f"field {name}", width, "63 bits, or signed ones")
        return Bits(word, at, width, bool(signed))

    # ---- what fits together

    def _check(self, rule: Rule) -> None:
        where = f"rule of opcode {rule.opcode:#x}"
        if not 0 <= rule.opcode < 1 << self.bits(self.opcode).width or rule.words not in (1, 2):
            raise wrong(where, (rule.opcode, rule.words), "an opcode that fits its field, of 1 or 2 words")
        if any(other.words != rule.words for other in self.rules.get(rule.opcode, ())):
            raise wrong(where, rule.words, "as many words as the other rules of this opcode")
        if rule.escape is not None and rule.steps:
            raise wrong(where, rule.escape, "steps, or an escape")
        if isinstance(rule.goes, Call) and self.functions is None:
            raise wrong(where, rule.goes, "calls only where the bytecode has functions")
        for name in (*rule.when, *rule.must, *([rule.goes.field] if rule.goes else [])):
            self._check_word(self.bits(name), rule, where)
        for step in rule.steps:
            self._check_step(step, rule, where)

    def _check_word(self, bits: Bits, rule: Rule, where: str) -> None:
        if bits.word >= rule.words:
            raise wrong(where, bits, "fields of the words that it has")

    def _check_step(self, step: Step, rule: Rule, where: str) -> None:
        name, *operands = step
        expected = len(self.library[name].operands)
        if len(operands) != expected:
            raise wrong(f"{where}: {name}", len(operands), f"{expected} operands")
        for operand in operands:
            if isinstance(operand, (Number, SlotOf, Map, Pool)):
                self._check_word(self.bits(operand.field), rule, where)
            if isinstance(operand, Goal) and (
                rule.goes is None or operand.function != isinstance(rule.goes, Call)
            ):
                raise wrong(f"{where}: {name}", operand, "TARGET where it jumps, FUNCTION where it calls")
            if not isinstance(operand, (Number, SlotOf, Map, Pool, Goal, Register, Slot, int)):
                raise wrong(f"{where}: {name}", operand, "registers, slots, numbers and what fields say")

    def limits(self, rule: Rule) -> list[tuple[str, tuple[tuple[int, int], ...]]]:
        """What fields must be: (field, spans), also because a map has no other entries."""
        found = [(name, spans(allowed)) for name, allowed in rule.must.items()]
        for step in rule.steps:
            for operand in step[1:]:
                if isinstance(operand, Map):
                    there = [n for n, value in enumerate(operand.values) if value is not None]
                    limit = (operand.field, spans(there))
                    if limit not in found:
                        found.append(limit)
        return found

    # ---- programs

    def translate(
        self,
        code: Any,
        pools: Mapping[str, Mapping[int, int]] | None = None,
        first_position: int = 0,
        first_label: int = 0,
    ) -> Translated:
        """Check a program and write it as records of the core (`emit.Batch`).

        code: any buffer. pools: their numbers of 64 bits. first_position, first_label: position of the first operation, number of
        the label of the first function. BytecodeError: an instruction breaks a rule.
        """
        given = {name: dict((pools or {}).get(name, {})) for name in self.pools}
        if native.core_module is None:
            from cnp import bytecode_reference

            return bytecode_reference.translate(self, bytes(code), given, first_position, first_label)
        made: Translated = self.tables.translate(bytes(code), given, first_position, first_label)
        return made

    def check(self, code: Any, pools: Mapping[str, Mapping[int, int]] | None = None) -> None:
        """BytecodeError: an instruction breaks a rule."""
        given = {name: dict((pools or {}).get(name, {})) for name in self.pools}
        if native.core_module is None:
            from cnp import bytecode_reference

            bytecode_reference.Program(self, bytes(code), given).check()
        else:
            self.tables.check(bytes(code), given)

    @property
    def tables(self) -> Any:
        """The description as the core has it, made once."""
        if self._tables is None:
            from cnp.bytecode_tables import Tables

            self._tables = Tables(self)
        return self._tables

    def extend(
        self, batch: Batch, code: Any, pools: Mapping[str, Mapping[int, int]] | None = None
    ) -> Translated:
        """Append a program to a batch at the core's speed: into its present function, or as functions of its own where
        the bytecode has some. BytecodeError, and the errors of the batch."""
        label = batch.label() if self.functions else 0
        made = self.translate(code, pools, len(batch), label)
        if self.functions is None:
            batch.extend(made.records)
            return made
        labels = [label, *(batch.label() for _ in made.functions[1:])]
        ends = [begin.position for begin in made.functions[1:]] + [len(made.records) // SIZE + len(batch)]
        start = len(batch)
        for label, begin, end in zip(labels, made.functions, ends, strict=True):
            batch.function(self.functions.frame, label)
            batch.extend(made.records[(begin.position - start) * SIZE : (end - start) * SIZE])
        return made

    def append(
        self, asm: Assembler, code: Any, pools: Mapping[str, Mapping[int, int]] | None = None, name: str = ""
    ) -> Appended:
        """Append a program to an assembler: into its present function, or as functions `name.INDEX` where the bytecode has
        some. BytecodeError, and the errors of the assembler."""
        made = self.translate(code, pools)
        declared = [asm.declare(f"{name}.{begin.index}", self.frame) for begin in made.functions]
        operations, labels = self.library.operations, {}
        records = list(RECORD.iter_unpack(made.records))
        for _, _, kinds, *words in records:
            for n, word in enumerate(words):
                if kinds >> 4 * n & 15 == POSITION and word not in labels:
                    labels[word] = asm.label(f"{name}:{word}")
        begins = {begin.position: function for begin, function in zip(made.functions, declared, strict=True)}
        positions = []
        for position, (op, _, kinds, *words) in enumerate(records):
            if position in begins:
                asm.begin(begins[position])
            if position in labels:
                asm.bind(labels[position])
            positions.append(len(asm.program.ops))
            asm.op(operations[op], *operands(kinds, words, labels, declared))
        return Appended(declared, [positions[at] if at < len(positions) else -1 for at in made.places])

    @property
    def frame(self) -> int:
        """Bytes of slots of its functions."""
        return self.functions.frame if self.functions else 0

    # ---- what both ways share

    def scale(self, goes: Jump) -> int:
        """Bytes that a unit of its field stands for."""
        return self.size if goes.scale is None else goes.scale

    def base(self, goes: Jump, words: int) -> int:
        """Bytes from where the field counts to where it counts from."""
        if goes.base is None:
            return 0 if goes.absolute else self.size * words
        return goes.base

    def words_of(self, code: bytes) -> int:
        """How many words a program has. OperandError: it is no whole number."""
        if len(code) % self.size:
            raise wrong("bytecode", len(code), f"bytes that are a multiple of {self.size}")
        return len(code) // self.size

    def given(self, code: bytes, index: int, words: int) -> Given:
        """The fields of an instruction that has so many words."""
        order: Any = "big" if self.big else "little"
        size, at = self.size, index * self.size
        word = [int.from_bytes(code[at + size * n : at + size * (n + 1)], order) for n in range(words)]
        fields = {name: value_of(bits, word) for name, bits in self.fields.items() if bits.word < words}
        return Given(index, fields)

    def escaped(self, rule: Rule, given: Given) -> list[bytes]:
        """The records that a rule's callable gives for an instruction. OperandError: too many, or operands of no kind."""
        assert rule.escape is not None
        made = [self.packed(step) for step in rule.escape(given)]
        if len(made) > rule.most:
            what = f"escape of opcode {rule.opcode:#x} at {given.index}"
            raise wrong(what, len(made), f"at most {rule.most} operations, or a rule with a larger `most`")
        return made

    def packed(self, step: Step) -> bytes:
        """A record of an operation with operands that are known."""
        name, *operands = step
        kinds, words = 0, [0] * 6
        for n, operand in enumerate(operands):
            kind, value = constant(operand)
            if kind == NUMBER and not -(1 << 31) <= value < 1 << 31:
                kind = WIDE_KIND
                if len(operands) > 4 or any(kinds >> 4 * i & 15 == WIDE_KIND for i in range(n)):
                    raise wrong(name, operand, "one number of more than 32 bits, among four operands at most")
                words[4:6] = WIDE_HALVES.unpack(WIDE.pack(signed64(value)))
            else:
                words[n] = value
            kinds |= kind << 4 * n
        return RECORD.pack(self.library[name].index, 0, kinds, *words)

    def broken(
        self,
        index: int,
        opcode: int,
        rule: str,
        name: str,
        value: int,
        allowed: tuple[int, int] | None = None,
    ) -> BytecodeError:
        """The error of an instruction that breaks a rule."""
        message = f"instruction {index}: opcode {opcode:#x}: " + RULES[rule].format(
            name, value, allowed or ""
        )
        facts = {"opcode": opcode, "rule": rule, "field": name, "value": value, "allowed": allowed}
        return BytecodeError(message, index=index, **facts)


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


class Appended(NamedTuple):
    """A program in an assembler. functions: in order; places: for each word the position of the first operation of its
    instruction."""

    functions: Sequence[Function]
    places: Sequence[int]


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
    if isinstance(value, int):
        return NUMBER, value
    raise wrong("operand", value, "a register, a slot, a number or an instruction")


def operands(
    kinds: int, words: Sequence[int], labels: Mapping[int, Label], functions: Sequence[Function]
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
