"""Super-operations: parts in one stencil, as if they ran one by one, in generated code and in both interpreters."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path

import pytest

import cnp
from cnp import interpret, slot
from cnp.assembler import Assembler, Label
from cnp.foreign import Call, ForeignCode, Outcome
from cnp.library import Library
from cnp.result import Result
from tests.support import every_target, need, runnable

SOURCE = """#define CNP_STATE(X) X(u64 *, sp) X(u64, tos) X(f64, acc)
#define CNP_RESULT tos
#include <cnp.h>
extern i64 cnp_test_mix(i64, i32, u32, f64, f32, i64);
CNP_OP(push, imm(i64, k)) { *s->sp++ = s->tos; s->tos = k; return NEXT; }
CNP_OP(load, slot(u64, x)) { *s->sp++ = s->tos; s->tos = *x; return NEXT; }
CNP_OP(store, slot(u64, x)) { *x = s->tos; s->tos = *--s->sp; return NEXT; }
CNP_OP(bump, slot(u64, x), imm(i32, k)) { *x += k; return NEXT; }
CNP_OP(add) { s->tos += *--s->sp; return NEXT; }
CNP_OP(scale, imm(f64, k)) { s->acc = s->acc * k + 1; return NEXT; }
CNP_OP(jump_if, label(t)) { u64 c = s->tos; s->tos = *--s->sp; return c & 1 ? JUMP(t) : NEXT; }
CNP_OP(loop_if, slot(u64, x), label(t)) { *x -= 1; return *x ? JUMP(t) : NEXT; }
CNP_OP(pick, table(t)) { u64 i = s->tos & 1; s->tos = *--s->sp; return JUMP_TABLE(t, i); }
CNP_OP(count, cell(u64, c)) { *c += 1; return NEXT; }
CNP_OP(poll) { return s->tos == 99 ? EXIT : NEXT; }
CNP_OP(guard, slot(u64, x)) { if (*x == 0) return TRAP(77); *x -= 1; return NEXT; }
CNP_OP(value, in(u64, a, i32)) { s->tos += a; return NEXT; }
CNP_OP(mix) { s->tos = cnp_test_mix(s->tos, 1, 2, 0.5, 0.25f, 3); return NEXT; }
CNP_OP_SLOW(twice) { u64 r; if (unlikely(__builtin_mul_overflow(s->tos, 2, &r))) return SLOW; s->tos = r; return NEXT; }
CNP_SLOW(twice) { s->tos = 12345; return NEXT; }
CNP_OP_SLOW(checked) { u64 r; if (unlikely(__builtin_add_overflow(s->tos, 1, &r))) return SLOW; s->tos = r; return NEXT; }
CNP_SLOW(checked) { return EXIT; }
CNP_OP(ret) { return RETURN; }
CNP_OP(leave) { return EXIT; }
"""
SUPERS = {
    "load_add": "load, add", "load_load_add": "load, load, add", "add_store": "add, store",
    "push_scale_load": "push, scale, load", "bump_loop": "bump, loop_if", "load_jump": "load, jump_if",
    "jump_jump": "jump_if, jump_if", "jump_store": "jump_if, store", "load_pick": "load, pick", "count_count": "count, count",
    "poll_add": "poll, add", "guard_load": "guard, load", "value_twice": "value, twice", "twice_add": "twice, add",
    "twice_twice": "twice, twice", "checked_bump": "checked, bump", "mix_add": "mix, add", "add_ret": "add, ret",
}  # fmt: skip
WHOLE = SOURCE + "".join(f"CNP_SUPER({name}, {parts})\n" for name, parts in SUPERS.items())
LOCALS, DEEP = 6, 16  #: slots; words of the operand stack
WORDS = [0, 1, 2, 3, 99, 1 << 40, 1 << 63, (1 << 64) - 1]


@pytest.fixture(autouse=True)
def _cache(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_folder))


def library(target: str) -> Library:
    return cnp.compile(WHOLE, target).library


# ---- they do what their parts do


class Sites:
    """The same random operands for a super-operation, and for its parts in a row, each use followed by an exit."""

    def __init__(self, target: str, seed: int, uses: int) -> None:
        self.library = library(target)
        rng = random.Random(seed)
        together, apart = (Assembler(self.library) for _ in range(2))
        #: where a use begins and ends: in the fused program, in the other one
        self.sites: list[tuple[str, int, range]] = []
        for asm in (together, apart):
            asm.function("main", frame=8 * LOCALS)
        ways = [(together.label(), apart.label()) for _ in range(2)]
        for name, parts in SUPERS.items():
            for _ in range(uses):
                operands = [self.operand(rng, o.kind, o.ctype) for o in self.library[name].operands]
                given = [
                    [self.one(asm, [w[n] for w in ways], o) for o in operands]
                    for n, asm in enumerate((together, apart))
                ]
                position = together.op(name, *given[0])
                start, rest = len(apart.program.ops), given[1]
                for part in parts.split(", "):
                    count = len(self.library[part].operands)
                    apart.op(part, *rest[:count])
                    rest = rest[count:]
                self.sites.append((name, position, range(start, len(apart.program.ops))))
                together.leave()
                apart.leave()
        for way in ways:
            for asm, label in zip((together, apart), way, strict=True):
                asm.bind(label)
                asm.leave()
        self.codes = [ForeignCode(asm.close()) for asm in (together, apart)]

    @staticmethod
    def operand(rng: random.Random, kind: str, ctype: str) -> tuple[str, object]:
        choices: dict[str, object] = {
            "slot": slot(8 * rng.randrange(LOCALS)), "label": rng.randrange(2), "table": (0, 1), "cell": rng.randrange(9),
        }  # fmt: skip
        if kind in choices:
            return kind, choices[kind]
        if ctype == "f64":
            return kind, rng.choice([0.5, -3.25, 1e300])
        small = rng.choice([0, 1, -1, 100, -(1 << 31), (1 << 31) - 1])
        return kind, small if ctype == "i32" or kind == "in/imm" else rng.choice([small, 1 << 40])

    @staticmethod
    def one(asm: Assembler, ways: list[Label], operand: tuple[str, object]) -> object:
        kind, value = operand
        if kind == "label":
            return ways[value]  # type: ignore[call-overload]
        return asm.table(*ways) if kind == "table" else value


@every_target
def test_they_do_what_their_parts_do(target: str) -> None:
    """Every use on several states, by generated code and the interpreters: the same outcome, state and memory."""
    sites = Sites(runnable(target).name, 1, 4)
    rng = random.Random(2)
    ways = [(False, False), (True, False), (True, True)][: 3 if interpret.has_threads(sites.library) else 2]
    runs = [
        (site, way, rng.choice(WORDS), rng.choice([1.5, -2.0]), [rng.choice(WORDS) for _ in range(LOCALS + DEEP)])
        for site in sites.sites for way in ways for _ in range(5)
    ]  # fmt: skip
    stacks = b"".join(packed(words[LOCALS:], sites.library) for *_, words in runs)
    outcomes: list[Outcome] = []
    for which, code in enumerate(sites.codes):
        (area,) = code.area_addresses([len(stacks)])
        calls = []
        for number, (site, (interpreted, threaded), tos, acc, words) in enumerate(runs):
            start = (site[1], site[2].start)[which]
            state = {"tos": tos, "acc": acc, "sp": area + 8 * (number * DEEP + DEEP // 2)}
            slots = packed(words[:LOCALS], sites.library)
            calls.append(Call(start, state, slots, interpret=interpreted, threaded=threaded))
        outcomes.append(code.run(calls, memory=[stacks]))
    together, apart = outcomes
    assert together.memory == apart.memory
    kinds = set()
    areas = [code.area_addresses([len(stacks)])[0] for code in sites.codes]
    for ((name, position, parts), *_), fused, plain in zip(
        runs, together.results, apart.results, strict=True
    ):
        kinds.add(fused.kind)
        inside = plain.op in parts
        assert (fused.kind, fused.code, fused.value) == (plain.kind, plain.code, plain.value), name
        assert (fused.op == position) == inside, name  # who leaves inside leaves at the super-operation
        assert not inside or plain.op == parts.start, name  # and by its first part
        assert moved(fused, -areas[0]) == moved(plain, -areas[1]), name
        assert fused.frame.read(0, 8 * LOCALS) == plain.frame.read(0, 8 * LOCALS), name
    assert kinds == {"return", "exit", "trap"}


def moved(result: Result, by: int) -> dict[str, int | float]:
    return {**result.state, "sp": result.state["sp"] + by}


def packed(words: list[int], library: Library) -> bytes:
    return b"".join(word.to_bytes(8, library.target.byteorder) for word in words)  # type: ignore[arg-type]


# ---- what may be composed


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ("add", "it needs two parts or more: CNP_SUPER(bad, first, second)"),
        ("add, nothing", "part 'nothing' is no operation that was declared before it"),
        ("add, bad", "part 'bad' is no operation that was declared before it"),
        ("add, plus", "part 'plus' is no CNP_OP or CNP_OP_SLOW: only these can be parts"),
        ("load, load_add", "part 'load_add' is no CNP_OP or CNP_OP_SLOW: only these can be parts"),
        ("load, load, load, load, load, load, load", "its parts have 7 operands together; at most 6"),
        ("add, value", "a of part 'value' would be read before the first part; make it slot(u64, a)"),
        ("result, add", "d of part 'result' would be written after the last part; make it slot(u64, d)"),
        ("add, poll", "part 'poll' may say EXIT; only the first part may"),
        ("add, guard", "part 'guard' may say TRAP; only the first part may"),
        ("add, checked", "part 'checked' may say EXIT; only the first part may"),
        ("add, add, mix", "part 'mix' calls helpers, which may want to leave; only the first part may"),
        ("add, called", "part 'called' makes native calls; only the first part may"),
        ("add, later", "part 'later' may say SLOW without a CNP_SLOW; only the first part may"),
    ],
)
def test_what_cannot_be_as_if_one_by_one_is_refused(parts: str, says: str) -> None:
    more = """CNP_PURE(plus, u64, (u64 a, u64 b), a + b)
CNP_OP(result, out(u64, d)) { *d = 1; return NEXT; }
CNP_OP(called, func(f), slot(u64, base)) { s->tos = CNP_CALL(f, base); return NEXT; }
CNP_OP(later) { return s->tos ? SLOW : NEXT; }
"""
    text = f"{WHOLE}{more}CNP_SUPER(bad, {parts})\n"
    with pytest.raises(cnp.BuildError) as caught:
        cnp.compile(text)
    line = text.count("\n")
    assert caught.value.message.startswith(f"<source>:{line}: super-operation 'bad': {says}")
    assert (caught.value.op, caught.value.line) == ("bad", line)


def test_names_of_operands_are_told_apart() -> None:
    operands = library("host")["load_load_add"].operands
    assert [(o.kind, o.ctype, o.name) for o in operands] == [("slot", "u64", "x"), ("slot", "u64", "x2")]


def test_the_file_says_what_they_are_made_of() -> None:
    assert library("host").supers == {name: tuple(parts.split(", ")) for name, parts in SUPERS.items()}


@every_target
def test_a_super_operation_is_smaller_than_its_parts(target: str) -> None:
    """One stencil, optimised as one: the value that one part pushes and the next pops goes through no memory."""
    lib = library(target)

    def size(name: str) -> int:
        hot = lib[name].forms[0].near.blocks[0]
        return len(hot.code) - hot.tail

    for name in ("load_add", "load_load_add", "load_jump"):
        assert size(name) < sum(size(part) for part in lib.supers[name]), name


# ---- the assembler uses them


def names(asm: Assembler) -> list[str]:
    return [op.operation.name for op in asm.program.ops]


def test_the_assembler_finds_them() -> None:
    asm = Assembler(library("host"), supers=True)
    asm.function("main", frame=16)
    asm.load(slot(0))
    asm.load(slot(8))
    asm.add()
    asm.scale(2.5)
    asm.load(slot(0))
    asm.add()
    asm.ret()
    asm.close()
    assert names(asm) == [
        "load_load_add",
        "scale",
        "load_add",
        "ret",
    ]  # the longest first, then from left to right
    assert asm.program.ops[0].values == (slot(0), slot(8))
    assert asm.program.functions[0].end == 4


def test_nothing_is_fused_unless_it_is_asked_for() -> None:
    asm = Assembler(library("host"))
    asm.function("main", frame=8)
    asm.load(slot(0))
    asm.add()
    asm.ret()
    asm.close()
    assert names(asm) == ["load", "add", "ret"]
    with pytest.raises(cnp.StateError):
        asm.fuse()


def test_who_may_come_in_between_keeps_the_parts_apart() -> None:
    """A label, an operation's position, an entry of a table, a function; at the first part they do not matter."""
    asm = Assembler(library("host"))
    asm.function("main", frame=16)
    asm.here("first")
    asm.load(slot(0))
    inside = asm.here("inside")
    asm.add()
    asm.load(slot(0))
    asm.jump_if(asm.program.functions[0])
    third = asm.load(slot(8))
    position = asm.add()
    asm.load(slot(8))
    asm.jump_if(position)
    asm.load(slot(8))
    entry = asm.here()
    asm.pick(asm.table(inside, entry))
    end = asm.label("end")
    moved = asm.fuse()
    asm.bind(end)
    asm.leave()
    assert names(asm) == [
        "load", "add", "load_jump", "load", "add", "load_jump", "load", "pick", "leave",
    ]  # fmt: skip
    assert moved == [0, 1, 2, 2, 3, 4, 5, 5, 6, 7]
    assert (inside.position, entry.position, end.position, third) == (1, 7, 8, 4)
    jump = asm.program.ops[5].values[1]
    assert isinstance(jump, Label) and jump.position == 4
    asm.close()


def test_what_lies_elsewhere_stays_there() -> None:
    """Alignments and cold ranges keep their operations, at new positions."""
    asm = Assembler(library("host"))
    asm.function("main", frame=8)
    asm.load(slot(0))
    asm.add()
    asm.load(slot(0))
    asm.align(16)
    asm.add()
    with asm.cold():
        asm.load(slot(0))
        asm.add()
    asm.load(slot(0))
    asm.add()
    asm.leave()
    asm.fuse()
    assert names(asm) == ["load_add", "load", "add", "load_add", "load_add", "leave"]
    assert asm.program.aligned == {2: 16}
    assert [(span.start, span.end) for span in asm.program.cold] == [(3, 4)]
    asm.close()


def test_functions_are_not_fused_across() -> None:
    asm = Assembler(library("host"))
    first = asm.function("one", frame=8)
    asm.add()
    asm.ret()
    asm.load(slot(0))
    second = asm.function("two", frame=8)
    asm.add()
    asm.ret()
    asm.fuse()
    assert names(asm) == ["add_ret", "load", "add_ret"]
    assert (first.position, first.end, second.position) == (0, 2, 2)


def test_immediates_stay_what_they_are() -> None:
    asm = Assembler(library("host"), supers=True)
    asm.function("main", frame=8)
    asm.push(-5)
    asm.scale(0.1)
    asm.load(slot(0))
    asm.ret()
    asm.close()
    (first, _) = asm.program.ops
    assert first.operation.name == "push_scale_load"
    assert first.values == (-5, 0x3FB999999999999A, slot(0))


@every_target
@pytest.mark.parametrize("seed", range(4))
def test_fused_programs_do_what_the_others_do(target: str, seed: int) -> None:
    """Random straight programs with some jumps forward, fused and not: the same end, in every way to run them."""
    lib = cnp.compile(WHOLE, runnable(target).name).library
    rng = random.Random(f"programs {seed}")
    asms = [Assembler(lib, supers=fuse) for fuse in (True, False)]
    plan: list[tuple[str, list[object]]] = []
    parts = [part for value in SUPERS.values() for part in value.split(", ")]
    for _ in range(40):
        row = rng.choice(list(SUPERS.values())).split(", ") if rng.random() < 0.7 else [rng.choice(parts)]
        for part in row:
            if part in ("ret", "poll", "guard", "checked", "mix", "pick"):
                continue
            plan.append((part, [Sites.operand(rng, o.kind, o.ctype)[1] for o in lib[part].operands]))
    jumps = {n: n + rng.randrange(1, 6) for n, (name, _) in enumerate(plan) if name in ("jump_if", "loop_if")}
    for asm in asms:
        asm.function("main", frame=8 * LOCALS)
        labels = {there: asm.label() for there in jumps.values()}
        for number, (name, operands) in enumerate(plan):
            if number in labels:
                asm.bind(labels[number])
            asm.op(name, *(labels[jumps[number]] if o.kind == "label" else value
                           for o, value in zip(lib[name].operands, operands, strict=True)))  # fmt: skip
        for there, label in labels.items():
            if there >= len(plan):
                asm.bind(label)
        asm.leave()
    ends = []
    stack = packed([rng.choice(WORDS) for _ in range(600)], lib)
    slots = packed([rng.choice(WORDS) for _ in range(LOCALS)], lib)
    for asm in asms:
        code = ForeignCode(asm.close())
        (area,) = code.area_addresses([len(stack)])
        state = {"tos": 3, "acc": 1.5, "sp": area + 8 * 300}
        for way in range(2):
            outcome = code.run([Call("main", state, slots, interpret=way > 0)], memory=[stack])
            (result,) = outcome.results
            assert result.kind == "exit"
            ends.append((moved(result, -area), result.frame.read(0, 8 * LOCALS), outcome.memory))
    assert len(asms[0].program.ops) < len(asms[1].program.ops) - 10
    assert all(end == ends[0] for end in ends)


def test_a_vocabulary_fuses_in_this_process(tmp_path: Path) -> None:
    vm = cnp.compile(WHOLE)
    asm = vm.assembler(supers=True)
    asm.function("main", frame=16)
    asm.load(slot(0))
    asm.load(slot(8))
    asm.add()
    asm.ret()
    code = asm.build()
    frame = vm.frame(16)
    frame[0], frame[8] = 40, 2
    stack = bytearray(64)
    assert code["main"].run({"sp": cnp.address(stack)}, frame).value == 42
    assert vm.interpret(code, "main", {"sp": cnp.address(stack)}, frame).value == 42


def test_who_left_at_a_super_operation_goes_on_there() -> None:
    """A trap of the first part: put right what it found, and the interpreter does the whole of it, no part twice."""
    vm = cnp.compile(WHOLE)
    asm = vm.assembler(supers=True)
    asm.function("main", frame=16)
    asm.bump(slot(8), 1)
    asm.guard(slot(0))
    asm.load(slot(8))
    asm.ret()
    code = asm.build()
    frame, stack = vm.frame(16), bytearray(64)
    result = code["main"].run({"sp": cnp.address(stack), "tos": 7}, frame)
    assert (result.kind, result.code, code.program.ops[result.op].operation.name) == (
        "trap",
        77,
        "guard_load",
    )
    assert result.state["sp"] == cnp.address(stack)
    frame[0] = 1
    result = code.interpreter.resume(result)
    assert (result.value, frame[0], frame[8]) == (1, 0, 1)
    assert stack[:8] == (7).to_bytes(8, "little" if vm.target.byteorder == "little" else "big")
