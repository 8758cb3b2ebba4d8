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

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnp import native
from cnp.bytecode_rules import (
    FUNCTION,
    MOST_OPCODE,
    RULES,
    TARGET,
    WIDE_HALVES,
    ZERO,
    Appended,
    Bits,
    Call,
    Firsts,
    Functions,
    Given,
    Goal,
    Instruction,
    Jump,
    Map,
    Number,
    Pool,
    Pools,
    Rule,
    SlotOf,
    Step,
    Translated,
    constant,
    operands,
    signed64,
    spans,
    value_of,
    wrong,
)
from cnp.emit import NUMBER, POSITION, RECORD, WIDE, WIDE_KIND
from cnp.errors import BytecodeError
from cnp.library import Library
from cnp.operands import Register, Slot

if TYPE_CHECKING:
    from cnp.assembler import Assembler
    from cnp.bytecode_tables import Translation
    from cnp.emit import Batch

__all__ = [
    "FUNCTION",
    "TARGET",
    "Bytecode",
    "Call",
    "Functions",
    "Given",
    "Instruction",
    "Jump",
    "Map",
    "Number",
    "Pool",
    "Rule",
    "SlotOf",
    "Step",
    "Translated",
]


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
        self.escapes = any(rule.escape for rule in self.each())
        used = [o for rule in self.each() for step in rule.steps for o in step if isinstance(o, Pool)]
        self.pools = sorted({pool.name for pool in used})
        self.empty: dict[str, dict[int, int]] = {name: {} for name in self.pools}
        self.tabled = sorted({pool.name for pool in used if pool.tabled})
        for rule in self.each():
            if not all(allowed for _, allowed in self.limits(rule)):
                raise wrong(f"rule of opcode {rule.opcode:#x}", rule, "every field at least one value")
        if native.core_module is not None:
            from cnp.bytecode_tables import Tables

            self.tables = Tables(self)

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
        """What fields must be: (field, spans), also because a map has no other entries. They are in the order of the
        fields, but those that must be 0 come first."""
        found = [(name, spans(allowed)) for name, allowed in rule.must.items()]
        for step in rule.steps:
            for operand in step[1:]:
                if isinstance(operand, Map):
                    there = [n for n, value in enumerate(operand.values) if value is not None]
                    limit = (operand.field, spans(there))
                    if limit not in found:
                        found.append(limit)
        numbers = {name: number for number, name in enumerate(self.fields)}
        return sorted(found, key=lambda limit: (limit[1] != ZERO, numbers[limit[0]], limit[1]))

    # ---- programs

    def translate(self, code: Any, pools: Pools | None = None, firsts: Firsts | None = None) -> Translated:
        """Check a program and write it as records of the core (`emit.Batch`).

        code: any buffer. pools: their numbers of 64 bits. firsts: what its records begin with. BytecodeError: an instruction breaks
        a rule.
        """
        given, firsts = self.pools_of(pools), firsts or Firsts()
        if native.core_module is None:
            from cnp import bytecode_reference

            return bytecode_reference.translate(self, bytes(code), given, firsts)
        return self.tables.translate(bytes(code), given, firsts)

    def pools_of(self, pools: Pools | None) -> dict[str, dict[int, int]]:
        """The pools that it asks for, in order, their keys as well; `empty`, where all are."""
        if not pools or not any(pools.values()):
            return self.empty
        return {name: dict(sorted(pools.get(name, {}).items())) for name in self.pools}

    def numbers(self, pools: Pools | None) -> list[int]:
        """The numbers that a batch has to have for pools whose operands are tabled: in order, from `Firsts.number` on."""
        given = self.pools_of(pools) if self.tabled else {}
        return [signed64(value) for name in self.tabled for value in given[name].values()]

    def first_number(self, name: str, given: Pools, first: int) -> int:
        """Which of them the first one of a pool is."""
        before = self.tabled[: self.tabled.index(name)] if name in self.tabled else []
        return first + sum(len(given[other]) for other in before)

    def check(self, code: Any, pools: Pools | None = None) -> None:
        """BytecodeError: an instruction breaks a rule."""
        given = self.pools_of(pools)
        if native.core_module is None:
            from cnp import bytecode_reference

            bytecode_reference.Program(self, bytes(code), given).check()
        else:
            self.tables.check(bytes(code), given)

    def extend(
        self, batch: Batch, code: Any, pools: Pools | None = None, checked: Translation | None = None
    ) -> Translated:
        """Append a program to a batch at the core's speed: into its present function, or as functions of its own where
        the bytecode has some. The records of what is returned are those of the batch.

        checked: what `tables.check` of this bytecode gave, or of one with other steps. BytecodeError, and the errors of the
        batch.
        """
        given = self.pools_of(pools)
        checked = checked or self.tables.check(bytes(code), given)
        numbers = [batch.number(value) for value in self.numbers(given)]
        labels = [batch.label() for _ in range(checked.functions)]
        firsts = Firsts(len(batch), labels[0] if labels else 0, numbers[0] if numbers else 0)
        made = checked.into(batch, self, bytes(code), given, firsts)
        if not labels:
            batch.adopt(made.end - firsts.position)
        ends = [*(begin.position for begin in made.functions[1:]), made.end]
        for label, end in zip(labels, ends, strict=False):
            batch.function(self.frame, label)
            batch.adopt(end - len(batch))
        return made

    def append(self, asm: Assembler, code: Any, pools: Pools | None = None, name: str = "") -> Appended:
        """Append a program to an assembler: into its present function, or as functions `name.INDEX` where the bytecode has
        some. BytecodeError, and the errors of the assembler."""
        made, numbers = self.translate(code, pools), self.numbers(pools)
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
            asm.op(operations[op], *operands(kinds, words, labels, declared, numbers))
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
