"""Bytecode as a table: the core against the reference with random tables and programs, what is refused, and running it."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterable

import pytest

import cnp
from cnp import bytecode_reference, emit, native, runtime
from cnp.bytecode import (
    RULES,
    FUNCTION,
    TARGET,
    Bytecode,
    Call,
    Functions,
    Given,
    Instruction,
    Jump,
    Map,
    Number,
    Pool,
    Rule,
    SlotOf,
    Step,
    Translated,
)
from cnp.errors import BytecodeError, OperandError
from cnp.operands import Register, Slot

needs_core = pytest.mark.skipif(native.core_module is None, reason=f"no core in C: {native.reason}")
VM = runtime.load("ops")
OPERATIONS = ("i64_move", "i64_add", "br_i64_lt_s", "jump", "ret", "call")
POOL = {key: random.Random(key).randrange(-(1 << 63), 1 << 64) for key in range(-8, 8)}

# ---- the core against the reference


class Tables:
    """A random description."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.size = rng, rng.choice((1, 2, 4, 8))
        bits = 8 * self.size
        self.width = rng.randint(2, min(6, bits))
        self.fields: dict[str, tuple[object, ...]] = {"op": (rng.randint(0, bits - self.width), self.width)}
        for n in range(rng.randint(1, 6)):
            at = rng.randrange(bits)
            width = rng.randint(1, min(bits - at, 63))
            self.fields[f"f{n}"] = (at, width, *(["signed"] if rng.random() < 0.4 else []))
            self.fields[f"s{n}"] = (bits + at, width)
        self.functions = None
        if rng.random() < 0.6:
            join = rng.choice(("", "jump"))
            self.functions = Functions(64, tuple(("ret", Slot(8)) for _ in range(rng.randint(0, 2))), join)

    def field(self, words: int, narrow: bool = False) -> str:
        fitting = [
            name for name, (_, width, *_) in self.fields.items()
            if (words == 2 or name[0] != "s") and (not narrow or width <= 24)
        ]  # fmt: skip
        return self.rng.choice(fitting)

    def span(self, name: str) -> object:
        width = min(int(self.fields[name][1]), 8)  # type: ignore[call-overload]
        a, b = sorted(self.rng.randrange(-(1 << width - 1), 1 << width) for _ in range(2))
        return self.rng.choice((a, (a, b), {a, a + 1, b}))

    def operand(self, words: int, goes: Jump | None, last: bool) -> object:
        rng = self.rng
        kinds = [*("number" * last), "slot", "map", "constant", "small", *(["goal"] * 4 if goes else [])]
        kind = rng.choice(["number", "pool", "wide", *kinds] if last else kinds)
        if kind == "goal":
            return FUNCTION if isinstance(goes, Call) else TARGET
        if kind == "map":
            values = [rng.choice((None, Slot(8), Register("r", 3), 70000)) for _ in range(rng.randint(1, 6))]
            return Map(self.field(words), tuple(values))
        if kind == "pool":
            return Pool("pool", self.field(words))
        if kind == "number":
            return Number(
                self.field(words, narrow=True), rng.randint(-9, 9), rng.randint(-(1 << 40), 1 << 40)
            )
        if kind == "wide":
            name = self.field(words)
            small = int(self.fields[name][1]) <= 31 and len(self.fields[name]) == 2  # type: ignore[call-overload]
            return Number(name, high=self.field(words, narrow=True) if small else None)
        if kind == "slot":
            return SlotOf(self.field(words, narrow=True), rng.randint(-8, 8), rng.randint(-99, 99))
        return Slot(16) if kind == "constant" else rng.randint(-5, 5)

    def steps(self, words: int, goes: Jump | None) -> list[Step]:
        found = []
        for _ in range(self.rng.randint(0, 3)):
            name = self.rng.choice(OPERATIONS)
            count = len(VM.library[name].operands)
            found.append((name, *(self.operand(words, goes, n == count - 1) for n in range(count))))
        return found

    def rule(self, opcode: int, words: int) -> Rule:
        rng, goes = self.rng, None
        if rng.random() < 0.5:
            kind = Call if self.functions and rng.random() < 0.5 else Jump
            goes = kind(self.field(words, narrow=True), rng.choice((None, 1, self.size, -self.size)), rng.choice((None, 0)), rng.random() < 0.3)  # fmt: skip
        name, other = self.field(words), self.field(words)
        when = {name: self.span(name)} if rng.random() < 0.4 else {}
        must = {other: self.span(other)} if rng.random() < 0.3 else {}
        ends = rng.random() < 0.3
        if rng.random() < 0.2:
            return Rule(opcode, when=when, must=must, goes=goes, ends=ends, words=words, escape=escape)  # type: ignore[arg-type]
        return Rule(opcode, *self.steps(words, goes), when=when, must=must, goes=goes, ends=ends, words=words)  # type: ignore[arg-type]

    def described(self) -> Bytecode:
        rules = []
        for opcode in range(1 << self.width):
            words = 2 if self.rng.random() < 0.2 else 1
            rules += [self.rule(opcode, words) for _ in range(self.rng.choice((0, 1, 1, 1, 2, 3)))]
        return Bytecode(
            VM, self.size, self.fields, rules, big=self.rng.random() < 0.5, functions=self.functions
        )  # type: ignore[arg-type]


def escape(given: Given) -> Iterable[Step]:
    """Goes to this instruction, or the one before it, and adds up fields."""
    total = sum(given.fields.values())
    yield "i64_move", Slot(0), (total + (1 << 63)) % (1 << 64) - (1 << 63)
    if total % 3:
        yield "jump", Instruction(given.index - total % 2)


def outcome(run: Callable[[], object]) -> object:
    """What a translation gives, in a form that can be compared."""
    try:
        made = run()
    except BytecodeError as error:
        return str(error), error.evidence
    assert isinstance(made, Translated)
    return bytes(made.records), list(made.places), list(made.functions)


@needs_core
def test_random_tables_and_programs() -> None:
    """Programs that grow as long as both accept them, so that they get far; with the odd random one."""
    accepted, refused, described = 0, set(), 0
    for seed in range(150):
        rng = random.Random(seed)
        try:
            bytecode = Tables(rng).described()
        except OperandError:
            continue
        described += 1
        code = b""
        for _ in range(60):
            more = code + rng.randbytes(bytecode.size * rng.choice((1, 1, 2, 5)))
            position, label = rng.randrange(1000), rng.randrange(1000)
            found = outcome(lambda: bytecode.translate(more, {"pool": POOL}, position, label))  # noqa: B023
            wanted = outcome(
                lambda: bytecode_reference.translate(bytecode, more, {"pool": POOL}, position, label)
            )  # noqa: B023
            assert found == wanted, seed
            if isinstance(found[1], dict):  # type: ignore[index]
                refused.add(found[1]["rule"])  # type: ignore[index]
            accepted += len(found) == 3  # type: ignore[arg-type]
            code = more if len(found) == 3 or found[1]["rule"] in ("end", "cut") else code  # type: ignore[arg-type,index]
    assert described > 50
    assert accepted > 40
    assert refused == set(RULES)
