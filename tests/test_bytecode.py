"""Bytecode as a table: the core against the reference with random tables and programs, what is refused, and running it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeAlias

import pytest

from cnp import bytecode_reference, emit, native, runtime
from cnp.bytecode import (
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
from cnp.bytecode_rules import RULES, Begin, Firsts
from cnp.errors import BytecodeError, OperandError, StateError
from cnp.library import Library
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
        self.fields: dict[str, tuple[Any, ...]] = {"op": (rng.randint(0, bits - self.width), self.width)}
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
        width = min(int(self.fields[name][1]), 8)
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
            return Pool(*rng.choice((("pool", self.field(words)), ("tabled", self.field(words), True))))
        if kind == "number":
            return Number(
                self.field(words, narrow=True), rng.randint(-9, 9), rng.randint(-(1 << 40), 1 << 40)
            )
        if kind == "wide":
            name = self.field(words)
            small = int(self.fields[name][1]) <= 31 and len(self.fields[name]) == 2
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
        )


def escape(given: Given) -> Iterable[Step]:
    """Goes to this instruction, or the one before it, and adds up fields."""
    total = sum(given.fields.values())
    yield "i64_move", Slot(0), (total + (1 << 63)) % (1 << 64) - (1 << 63)
    if total % 3:
        yield "jump", Instruction(given.index - total % 2)


#: Records, places and functions, or the evidence of an error.
Outcome: TypeAlias = "tuple[bytes, list[int], list[Begin]] | dict[str, Any]"


def outcome(run: Callable[[], Translated]) -> Outcome:
    """What a translation gives, in a form that can be compared."""
    try:
        made = run()
    except BytecodeError as error:
        return {**error.evidence, "message": str(error)}
    return bytes(made.records), list(made.places), list(made.functions)


@needs_core
def test_random_tables_and_programs() -> None:
    """Programs that grow as long as both accept them, so that they get far."""
    accepted, refused, described = 0, set(), 0
    for seed in range(200):
        rng = random.Random(seed)
        try:
            described_as = Tables(rng).described()
        except OperandError:
            continue
        described += 1
        code = b""
        for _ in range(60):
            more = code + rng.randbytes(described_as.size * rng.choice((1, 1, 2, 5)))
            firsts = Firsts(*(rng.randrange(1000) for _ in range(3)))
            found, wanted = both_ways(described_as, more, firsts)
            assert found == wanted, seed
            if isinstance(found, dict):
                refused.add(found["rule"])
            accepted += isinstance(found, tuple)
            code = more if isinstance(found, tuple) or found["rule"] in ("end", "cut") else code
    assert described > 50
    assert accepted > 40
    assert refused == set(RULES)


#: Fields of 8 bytes that begin and end with bytes, or do not, or lie in one another.
MIXED: dict[str, tuple[Any, ...]] = {
    "op": (0, 5), "s8": (8, 8, "signed"), "u4": (12, 4), "s16": (16, 16, "signed"), "u16": (16, 16), "u12": (20, 12),
    "s24": (24, 24, "signed"), "s12": (28, 12, "signed"), "u9": (23, 9), "s32": (32, 32, "signed"), "u32": (32, 32),
    "u5": (32, 5), "u31": (33, 31), "s31": (33, 31, "signed"), "s7": (57, 7, "signed"), "s10": (33, 10, "signed"),
}  # fmt: skip


def mixed_rules(rng: random.Random, opcode: int) -> list[Rule]:
    """What fills one word or two with fields, somewhere near the ends of what a word holds, and a jump."""
    narrow = [name for name, (_, width, *_) in MIXED.items() if width <= 24]
    base = rng.choice((0, 0, 0, 512, -8, (1 << 31) - 4, -(1 << 31) + 4))
    number = Number(list(MIXED)[opcode % len(MIXED)], rng.choice((1, 1, 1, 1, 8, -1)), base)
    slot = SlotOf(rng.choice(narrow), rng.choice((1, 1, 8)), rng.choice((0, 512)))
    ranged: dict[str, Any] = {
        rng.choice(("s16", "s16", *narrow)): (rng.randint(-300, -8), rng.randint(-8, 7))
    }
    return [
        Rule(opcode, ("i64_add", Slot(8), slot, number), when=rng.choice(({}, ranged, {**ranged, "u4": 0})), ends=True),
        *rng.choice((
            [], [Rule(opcode, ("i64_move", slot, number), ends=True)],
            [Rule(opcode, ("br_i64_lt_s", SlotOf("s8", 1), number, TARGET), goes=Jump("s16"), ends=True)],
        )),
    ]  # fmt: skip


@needs_core
def test_numbers_that_fit_words_and_those_that_do_not() -> None:
    """Of long programs, many of whose instructions are alike but for the numbers in them."""
    accepted = 0
    for seed in range(80):
        rng = random.Random(seed)
        rules = [rule for opcode in range(1 << 5) for rule in mixed_rules(rng, opcode)]
        described_as = Bytecode(VM, 8, MIXED, rules)
        code, heads = b"", [rng.getrandbits(16) for _ in range(12)]
        for _ in range(60):
            numbers = rng.choice(
                (0, -1, 1 << 47, rng.getrandbits(48), rng.getrandbits(48), rng.randint(-12, 12))
            )
            more = code + ((rng.choice(heads) | numbers << 16) % (1 << 64)).to_bytes(8, "little")
            found, wanted = both_ways(described_as, more, Firsts(0, 0, 0))
            assert found == wanted, seed
            accepted += isinstance(found, tuple)
            code = more if isinstance(found, tuple) or found["rule"] == "end" else code
    assert accepted > 1000


def both_ways(described: Bytecode, code: bytes, firsts: Firsts) -> tuple[Outcome, Outcome]:
    pools = described.pools_of({"pool": POOL, "tabled": dict(list(POOL.items())[:9])})
    return (
        outcome(lambda: described.translate(code, pools, firsts)),
        outcome(lambda: bytecode_reference.translate(described, code, pools, firsts)),
    )


# ---- a bytecode of one's own

FIELDS = {"op": (0, 8), "a": (8, 8), "b": (16, 16, "signed")}


def squares(given: Given) -> Iterable[Step]:
    """What no table says: a number that is squared when the program is translated."""
    yield "i64_move", Slot(8 * given.fields["a"]), given.fields["b"] ** 2


RULES_OF_OURS = [
    Rule(1, ("i64_move", SlotOf("a"), Number("b"))),
    Rule(2, ("i64_add", SlotOf("a"), SlotOf("a"), SlotOf("b")), must={"b": (0, 7)}),
    Rule(3, ("br_i64_ne", SlotOf("a"), 0, TARGET), goes=Jump("b")),
    Rule(4, ("ret", SlotOf("a")), must={"b": 0}, ends=True),
    Rule(5, escape=squares),
    Rule(6, ("i64_move", SlotOf("a"), Pool("numbers", "b"))),
    Rule(7, ("i64_move", SlotOf("a"), Number("low", high="high")), words=2, must={"b": 0}),
    Rule(8, ("jump", TARGET), when={"a": 0}, goes=Jump("b"), ends=True),
]
WIDER = {**FIELDS, "low": (32, 16), "high": (48, 16, "signed")}
NUMBERS = {"numbers": {1: 1 << 40, -3: -5}}


def ours(big: bool = False) -> Bytecode:
    return Bytecode(VM, 4, WIDER, RULES_OF_OURS, big=big)


def words(*instructions: tuple[int, int, int], big: bool = False) -> bytes:
    packed = [(op | a << 8 | (b & 0xFFFF) << 16) for op, a, b in instructions]
    return b"".join(word.to_bytes(4, "big" if big else "little") for word in packed)


def run(described: Bytecode, code: bytes) -> int:
    asm = VM.assembler()
    asm.function("main", frame=2048 + 8)
    described.append(asm, code, NUMBERS)
    return int(asm.build()["main"].callable("int64_t()")())


@pytest.mark.parametrize("big", [False, True])
def test_a_loop(big: bool) -> None:
    code = words((1, 0, 0), (1, 1, 10), (1, 2, -1), (2, 0, 1), (2, 1, 2), (3, 1, -3), (4, 0, 0), big=big)
    assert run(ours(big), code) == 55


def test_escapes_pools_and_second_words() -> None:
    assert run(ours(), words((5, 0, 12), (4, 0, 0))) == 144
    assert run(ours(), words((6, 0, 1), (4, 0, 0))) == 1 << 40
    assert run(ours(), words((6, 0, -3), (4, 0, 0))) == -5
    second = (-2 << 16 | 7).to_bytes(4, "little", signed=True)
    assert run(ours(), words((7, 0, 0)) + second + words((4, 0, 0))) == (-2 << 16) + 7


@needs_core
def test_a_batch_has_the_code_of_the_assembler() -> None:
    code = words(
        (1, 0, 0), (1, 1, 3), (1, 2, -1), (8, 0, 2), (6, 5, 1), (2, 0, 1), (2, 1, 2), (3, 1, -3), (4, 0, 0)
    )
    asm = VM.assembler()
    asm.function("main", frame=2048 + 8)
    ours().append(asm, code, NUMBERS)
    wanted = asm.encode(0x10000000, 0x20000000).code
    batch = emit.Batch(VM.library)
    batch.function(2048 + 8)
    ours().extend(batch, code, NUMBERS)
    batch.link()
    found = bytearray(batch.settle(0x10000000, 0x20000000, {}))
    batch.write(found, bytearray(8))
    assert bytes(found) == wanted


@needs_core
def test_what_one_bytecode_checked_another_with_other_steps_translates() -> None:
    """But not one with other rules, and no code that has become longer."""
    longer = Rule(1, ("i64_move", SlotOf("a"), 1), *[("i64_add", SlotOf("a"), SlotOf("a"), SlotOf("a"))] * 7)
    other = Bytecode(VM, 4, WIDER, [longer, *RULES_OF_OURS[1:]])
    code = words((1, 0, 5), (1, 1, 5), (4, 0, 0))
    checked = ours().tables.check(code, ours().pools_of(NUMBERS))
    batch = emit.Batch(VM.library)
    batch.function(64)
    made = other.extend(batch, code, NUMBERS, checked)
    assert list(made.places) == [0, 8, 16]
    wanted = emit.Batch(VM.library)
    wanted.function(64)
    wanted.extend(other.translate(code, NUMBERS).records)
    assert bytes(batch.records()) == bytes(wanted.records())
    stricter = Bytecode(VM, 4, WIDER, [Rule(1, *RULES_OF_OURS[0].steps, must={"a": 0}), *RULES_OF_OURS[1:]])
    for described, given in ((stricter, code), (other, code + words((4, 0, 0)))):
        with pytest.raises(StateError):
            described.extend(batch, given, NUMBERS, checked)


@needs_core
def test_a_whole_program_is_made_of_one_call() -> None:
    """As often as one likes; with numbers of its own, and a function behind it that calls it."""
    rules = [
        Rule(1, ("i64_move", SlotOf("a"), Pool("numbers", "b", tabled=True))),
        Rule(2, ("call", FUNCTION, Slot(128), SlotOf("a")), goes=Call("b")),
        Rule(4, ("ret", SlotOf("a")), ends=True),
    ]
    described = Bytecode(
        VM, 4, {"op": (0, 8), "a": (8, 8), "b": (16, 16, "signed")}, rules, functions=Functions(256)
    )
    code, pools = words((2, 0, 1), (4, 0, 0), (1, 0, 3), (4, 0, 0)), {"numbers": {3: 1 << 40, 5: 7}}
    entry = described.packed(("ret", Slot(8)))
    wanted, batch = emit.Batch(VM.library), emit.Batch(Library.load(runtime.installed("ops", VM.target.name)))
    made = described.extend(wanted, code, pools)
    wanted.function(16)
    wanted.extend(entry)
    checked = described.tables.check(code, described.pools_of(pools))
    for _ in range(2):
        run, *bounds = checked.compile(batch, described, code, described.pools_of(pools), 16, entry)
        assert tuple(bounds) == wanted.link()
        assert (list(run.positions), run.end) == (list(made.places), made.end)
        assert bytes(batch.records()) == bytes(wanted.records())
        batch.settle(0x10000, 0, {})
        wanted.settle(0x10000, 0, {})
        assert batch.offsets() == wanted.offsets()
    with pytest.raises(StateError):
        ours().tables.check(words((4, 0, 0)), {}).compile(batch, ours(), words((4, 0, 0)), {}, 16, entry)


@pytest.mark.parametrize(
    ("code", "index", "rule", "value"),
    [
        (words((9, 0, 0), (4, 0, 0)), 0, "opcode", 9),
        (words((1, 0, 0), (7, 0, 0)), 1, "cut", 7),
        (words((8, 1, 0), (4, 0, 0)), 0, "variant", 8),
        (words((2, 0, 8), (4, 0, 0)), 0, "field", 8),
        (words((6, 0, 2), (4, 0, 0)), 0, "pool", 2),
        (words((4, 0, 0), (1, 0, 0)), 1, "end", 1),
        (words((8, 0, -2), (4, 0, 0)), 0, "outside", -4),
        (words((8, 0, 2), (4, 0, 0), (4, 0, 0)), 0, "outside", 12),
        (words((8, 0, 1), (7, 0, 0), (0, 0, 0), (4, 0, 0)), 0, "inside", 8),
    ],
)
def test_what_is_refused(code: bytes, index: int, rule: str, value: int) -> None:
    with pytest.raises(BytecodeError) as caught:
        ours().translate(code, NUMBERS)
    error = caught.value
    assert (error.index, error.rule, error.value) == (index, rule, value)
    assert str(error).startswith(f"instruction {index}: opcode {error.opcode:#x}: ")


def test_code_of_half_a_word_is_refused() -> None:
    with pytest.raises(OperandError, match="multiple of 4"):
        ours().translate(b"123")


@pytest.mark.parametrize(
    ("size", "rule"),
    [
        (3, Rule(1)),
        (4, Rule(256)),
        (4, Rule(1, words=3)),
        (4, Rule(1, must={"c": 1})),
        (4, Rule(1, must={"low": 1})),
        (4, Rule(1, ("i64_add", Slot(0)))),
        (4, Rule(1, ("jump", TARGET))),
        (4, Rule(1, ("jump", FUNCTION), goes=Call("b"))),
        (4, Rule(1, ("i64_move", Slot(0), "b"))),
        (4, Rule(1, ("i64_move", SlotOf("a"), 1), escape=squares)),
        (4, Rule(1, ("i64_move", Map("a", (None,)), 1))),
    ],
)
def test_descriptions_that_do_not_fit_together(size: int, rule: Rule) -> None:
    with pytest.raises(OperandError):
        Bytecode(VM, size, WIDER, [rule])


def test_an_escape_that_gives_too_much() -> None:
    rule = Rule(1, escape=lambda given: [("jump", Instruction(0))] * 3, most=2, ends=True)
    with pytest.raises(OperandError, match="at most 2"):
        Bytecode(VM, 4, FIELDS, [rule]).translate(words((1, 0, 0)) + words((1, 0, 0)))


# ---- tables of strangers


@needs_core
def test_tables_of_strangers() -> None:
    """Rows with random numbers: they are refused, or nothing is read or written outside of what there is."""
    refused = accepted = 0
    for seed in range(400):
        rng = random.Random(seed)
        tables = ours().tables
        ffi, lib, table = tables.ffi, tables.lib, tables.table
        name = rng.choice(("fields", "limits", "sources", "steps", "rules"))
        row = getattr(table, name)[rng.randrange(getattr(table, f"{name}_count"))]
        field, kind = rng.choice([f for f in ffi.typeof(row).fields if f[1].type.kind == "primitive"])
        bits = 8 * ffi.sizeof(kind.type)
        low = -(1 << bits - 1) if kind.type.cname.startswith("int") else 0
        setattr(row, field, rng.choice((rng.randrange(8), rng.randrange(low, low + (1 << bits)))))
        if lib.cnp_bytecode_valid(table, ffi.new("struct cnp_evidence *")):
            refused += 1
            continue
        accepted += 1
        for _ in range(20):
            code = words(*((rng.randrange(10), rng.randrange(3), rng.randrange(-2, 3)) for _ in range(8)))
            with suppress(BytecodeError, OperandError, StateError):
                tables.translate(code, ours().pools_of(NUMBERS), Firsts())
    assert min(refused, accepted) > 50
