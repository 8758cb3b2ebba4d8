"""Bytecode into records in plain Python: what cnp/core/bytecode.c does, to be read, and where the core is missing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnp.bytecode_rules import (
    Begin,
    Call,
    Firsts,
    Given,
    Goal,
    Instruction,
    Labelled,
    Map,
    Number,
    Pool,
    Pools,
    Rule,
    SlotOf,
    Tabled,
    Translated,
    signed64,
    spans,
)
from cnp.emit import POSITION, RECORD
from cnp.operands import Slot

if TYPE_CHECKING:
    from cnp.bytecode import Bytecode


def translate(bytecode: Bytecode, code: bytes, pools: Pools, firsts: Firsts) -> Translated:
    """As `Bytecode.translate`."""
    program = Program(bytecode, code, pools)
    program.check()
    return program.translate(firsts)


class Program:
    """A program under translation."""

    def __init__(self, bytecode: Bytecode, code: bytes, pools: Pools) -> None:
        self.bytecode, self.code, self.pools = bytecode, code, pools
        self.count = bytecode.words_of(code)
        self.starts = self._starts()
        self.rules: dict[int, tuple[Rule, Given]] = {}
        self.called = {0} if self.count and bytecode.functions else set[int]()

    def _starts(self) -> list[int]:
        """The places at which instructions begin."""
        found, index = [], 0
        while index < self.count:
            found.append(index)
            rules = self.bytecode.rules.get(self.opcode(index))
            index += rules[0].words if rules else 1
        return found

    def opcode(self, index: int) -> int:
        return self.bytecode.given(self.code, index, 1).fields[self.bytecode.opcode]

    # ---- check

    def check(self) -> None:
        """BytecodeError: the first instruction that breaks a rule."""
        starts = set(self.starts)
        for index in self.starts:
            self.rules[index] = rule, given = self._rule(index)
            self._check_fields(index, rule, given)
            if index + rule.words == self.count and not rule.ends:
                self._fail(index, "end", self.bytecode.opcode, rule.opcode)
            if rule.goes is None:
                continue
            byte = self._goal(index, rule, given)
            if not 0 <= byte < len(self.code):
                self._fail(index, "outside", rule.goes.field, byte)
            goal, rest = divmod(byte, self.bytecode.size)
            if rest or goal not in starts:
                self._fail(index, "inside", rule.goes.field, byte)
            if isinstance(rule.goes, Call):
                self.called.add(goal)

    def _fail(
        self, index: int, rule: str, name: str, value: int, allowed: tuple[int, int] | None = None
    ) -> None:
        raise self.bytecode.broken(index, self.opcode(index), rule, name, value, allowed)

    def _rule(self, index: int) -> tuple[Rule, Given]:
        """The first rule of the opcode whose conditions hold, and the fields."""
        opcode = self.opcode(index)
        rules = self.bytecode.rules.get(opcode, [])
        if not rules:
            self._fail(index, "opcode", self.bytecode.opcode, opcode)
        if index + rules[0].words > self.count:
            self._fail(index, "cut", self.bytecode.opcode, opcode)
        given = self.bytecode.given(self.code, index, rules[0].words)
        for rule in rules:
            if all(within(spans(allowed), given.fields[name]) for name, allowed in rule.when.items()):
                return rule, given
        self._fail(index, "variant", self.bytecode.opcode, opcode)
        raise AssertionError

    def _check_fields(self, index: int, rule: Rule, given: Given) -> None:
        for name, allowed in self.bytecode.limits(rule):
            if not within(allowed, given.fields[name]):
                self._fail(index, "field", name, given.fields[name], allowed[0])
        for step in rule.steps:
            for operand in step[1:]:
                if isinstance(operand, Pool) and given.fields[operand.field] not in self.pools[operand.name]:
                    self._fail(index, "pool", operand.name, given.fields[operand.field])

    def _goal(self, index: int, rule: Rule, given: Given) -> int:
        """The byte that an instruction goes to."""
        assert rule.goes is not None
        start = 0 if rule.goes.absolute else index * self.bytecode.size
        scale, base = self.bytecode.scale(rule.goes), self.bytecode.base(rule.goes, rule.words)
        return start + base + scale * given.fields[rule.goes.field]

    # ---- translate

    def translate(self, firsts: Firsts) -> Translated:
        """The records. Until all places are known, positions in them are places of instructions."""
        self.firsts, (position, label, _) = firsts, firsts
        functions = {index: number for number, index in enumerate(sorted(self.called))}
        records: list[bytes] = []
        places = [0] * self.count
        begins: list[Begin] = []
        goes_on = False
        for index in self.starts:
            rule, given = self.rules[index]
            if index in functions:
                records += self._begin(index, goes_on, begins, position + len(records))
            for word in range(index, index + rule.words):
                places[word] = position + len(records)
            records += self._records(index, rule, given, label, functions)
            goes_on = not rule.ends
        named = [self._named(record, places) for record in records]
        return Translated(memoryview(b"".join(named)), places, begins, position + len(records))

    def _begin(self, index: int, goes_on: bool, begins: list[Begin], at: int) -> list[bytes]:
        """A function begins: what runs into it from the instruction before jumps behind its first steps."""
        functions = self.bytecode.functions
        assert functions is not None
        joins = [(functions.join, Instruction(index))] if goes_on and functions.join else []
        begins.append(Begin(index, at + len(joins)))
        return [self.bytecode.packed(step) for step in (*joins, *functions.begin)]

    def _records(
        self, index: int, rule: Rule, given: Given, label: int, functions: Mapping[int, int]
    ) -> list[bytes]:
        if rule.escape:
            made = self.bytecode.escaped(rule, given)
            for record in made:
                self._check_places(index, record)
            return made
        goal = self._goal(index, rule, given) // self.bytecode.size if rule.goes else 0
        function = Labelled(label + functions.get(goal, 0))
        return [
            self.bytecode.packed((name, *(self._operand(o, given, goal, function) for o in operands)))
            for name, *operands in rule.steps
        ]

    def _operand(self, operand: Any, given: Given, goal: int, function: Labelled) -> Any:
        """What an operand of a step is for an instruction."""
        fields = given.fields
        if isinstance(operand, Number):
            value = fields[operand.field]
            if operand.high:
                value |= fields[operand.high] << self.bytecode.bits(operand.field).width
            return signed64(operand.base + operand.scale * value)
        if isinstance(operand, SlotOf):
            return Slot(operand.base + operand.scale * fields[operand.field])
        if isinstance(operand, Map):
            return operand.values[fields[operand.field]]
        if isinstance(operand, Pool):
            pool = self.pools[operand.name]
            key = fields[operand.field]
            if operand.tabled:
                first = self.bytecode.first_number(operand.name, self.pools, self.firsts.number)
                return Tabled(first + list(pool).index(key))
            return signed64(pool[key])
        if isinstance(operand, Goal):
            return function if operand.function else Instruction(goal)
        return operand

    def _check_places(self, index: int, record: bytes) -> None:
        """The places that a record from an escape names."""
        for _, place in named(record):
            if place not in self.rules:
                rule = "inside" if 0 <= place < self.count else "outside"
                self._fail(index, rule, self.bytecode.opcode, place * self.bytecode.size)

    def _named(self, record: bytes, places: list[int]) -> bytes:
        """The record with positions where it names places."""
        op, form, kinds, *words = RECORD.unpack(record)
        for n, place in named(record):
            words[n] = places[place]
        return RECORD.pack(op, form, kinds, *words)


def named(record: bytes) -> list[tuple[int, int]]:
    """The places that a record names: (operand, place)."""
    _, _, kinds, *words = RECORD.unpack(record)
    return [(n, word) for n, word in enumerate(words) if kinds >> 4 * n & 15 == POSITION]


def within(allowed: tuple[tuple[int, int], ...], value: int) -> bool:
    """Whether a value lies in one of the spans."""
    return any(low <= value <= high for low, high in allowed)
