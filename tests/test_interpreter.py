"""The two interpreters of one vocabulary, and registers in them: they and generated code do the same, whoever goes on.

vocabularies/registers.c has every kind of operand. What it computes is compared with Python, on every target.
"""

from __future__ import annotations

import itertools
import struct
from pathlib import Path
from typing import Any

import pytest

import cnp
from cnp import interpret, slot, targets
from cnp.assembler import Assembler
from cnp.errors import StateError
from cnp.foreign import Call, ForeignCode
from cnp.library import Library
from cnp.operands import Register, Slot, f, r
from cnp.result import Result
from tests.conftest import VocabularyFile
from tests.support import every_target, need, runnable

SOURCE = Path(__file__).parent / "vocabularies" / "registers.c"
M64, M32 = (1 << 64) - 1, (1 << 32) - 1
FRAME = 512
MARK = 0x1122334455667788  #: what slots hold before
COMPILED, SWITCH, THREADED = "compiled", "switch", "threaded"
#: floats of 32 bits whose conversion could go wrong: zeros, subnormals, the greatest, infinities, NaNs of both kinds
PATTERNS = (
    0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x3F800000, 0xC0490FDB, 0x7F7FFFFF, 0x7F800000, 0xFF800000,
    0x7FC00000, 0xFFC12345, 0x7F800001, 0xFFBFFFFF, 0x7FABCDEF,
)  # fmt: skip
GIVEN: dict[str, int | float] = {f"r{n}": 0x0123_4567_89AB_CDEF * (2 * n + 1) & M64 for n in range(10)}
GIVEN |= {f"f{n}": 1.25 * n - 3 for n in range(8)}
GIVEN |= {"a": 11, "b": 0, "c": -5, "d": 7, "e": 1 << 63, "half": 65535, "x": 8.5, "y": 0.25}

Place = Slot | Register


def ways(library: Library) -> list[str]:
    return [COMPILED, SWITCH, THREADED] if interpret.has_threads(library) else [COMPILED, SWITCH]


def call(way: str, name: str, state: dict[str, int | float], slots: bytes = b"") -> Call:
    return Call(name, state, slots, depth=5, interpret=way != COMPILED, threaded=way == THREADED)


def assembler(target: str, vocabulary_file: VocabularyFile) -> Any:
    return Assembler(Library.load(vocabulary_file(SOURCE, runnable(target).name)))


def run(asm: Any, state: dict[str, int | float], slots: bytes = b"") -> list[Result]:
    """The program's `main` in all ways."""
    code = ForeignCode(asm.close())
    return code.run([call(way, "main", state, slots) for way in ways(code.library)]).results


def words(library: Library, *values: int) -> bytes:
    return struct.pack(f"{'<' if library.target.byteorder == 'little' else '>'}{len(values)}Q", *values)


def value(state: dict[str, int | float], slots: dict[int, int], operand: object) -> int:
    """What an operand holds, as a word."""
    if isinstance(operand, Register):
        return int(state[f"r{operand.index}"])
    if isinstance(operand, Slot):
        return slots[operand.offset]
    assert isinstance(operand, int)
    return operand & M64


def standing(asm: Any, name: str) -> int:
    """Position of the last operation of a name: the moves of its composition, if it has one, are others."""
    return max(n for n, op in enumerate(asm.program.ops) if op.operation.name == name)


# ---- operands


@every_target
def test_operands_lie_in_registers_slots_and_immediates(target: str, vocabulary_file: VocabularyFile) -> None:
    """Every mixture of one operation of each kind; the values are collected in slots."""
    asm = assembler(target, vocabulary_file)
    slots = {8: 1 << 40, 16: 77, 24: M64}
    expected: list[int] = []
    asm.function("main", frame=4096)

    def collect(place: Place, word: int) -> None:
        asm.i64_move(slot(64 + 8 * len(expected)), place)
        expected.append(word & M64)

    def given(operand: object) -> int:
        return value(GIVEN, slots, operand)

    x: Any
    y: Any
    for operands in itertools.product((r[2], slot(8)), (r[3], slot(16), -5), (r[4], slot(24), 1 << 63)):
        first, second, third = map(given, operands)
        for d in (r[1], slot(32)):
            asm.mix(d, *operands)
            collect(d, first + 3 * second - third)
    for scale, x, y in itertools.product((1, 2, 4, 8), (r[2], slot(8)), (r[9], slot(24))):
        asm.scaled(r[7], x, y, scale)
        collect(r[7], given(x) + scale * given(y))
    for x, y in itertools.product((r[2], slot(8), 5), (r[3], slot(16), 7)):
        if x != 5 or y != 7:
            asm.i32_sub(r[8], x, y)
            collect(r[8], given(x) - given(y) & M32)
    for x, y in itertools.product((r[2], slot(24)), (r[3], slot(16), -1)):
        less = [(w & M64) - (w >> 63 << 64) for w in (given(x), given(y))]
        asm.i64_lt_s(r[8], x, y)
        collect(r[8], less[0] < less[1])
        there = asm.label()
        asm.i64_move(r[8], 1)
        asm.br_i64_lt_s(x, y, there)
        asm.i64_move(r[8], 0)
        asm.bind(there)
        collect(r[8], less[0] < less[1])
        if x == r[2] and y != slot(16):
            asm.sel_i64_lt_s(r[8], x, y, r[5], r[6])
            collect(r[8], int(GIVEN["r5" if less[0] < less[1] else "r6"]))
    asm.sel_i64_lt_s(slot(32), slot(8), slot(16), slot(8), slot(24))
    collect(slot(32), slots[24])
    asm.i8_extend(r[8], r[4])
    collect(r[8], (int(GIVEN["r4"]) & 255 ^ 128) - 128)
    asm.i64_div_u(slot(32), r[4], r[2])
    collect(slot(32), int(GIVEN["r4"]) // int(GIVEN["r2"]))
    asm.divide(r[6], r[7], r[4], slot(16))
    collect(r[6], int(GIVEN["r4"]) // 77)
    collect(r[7], int(GIVEN["r4"]) % 77)
    asm.sum(r[6], slot(24), r[2])  # the slow part
    collect(r[6], M64)
    asm.ask(r[6], r[5])
    collect(r[6], int(GIVEN["r5"]) + 1)
    asm.ret(r[6])
    for result in run(asm, GIVEN, words(asm.library, 0, *slots.values(), MARK, 0, 0, 0)):
        assert result.value == int(GIVEN["r5"]) + 1
        assert [result.frame[64 + 8 * n] for n in range(len(expected))] == expected
        assert {name: result.state[name] for name in ("r2", "r3", "r4", "r5", "r9", "a")} == {
            **{name: GIVEN[name] for name in ("r2", "r3", "r4", "r5", "r9")}, "a": 14
        }  # fmt: skip


@every_target
def test_floats_of_32_bits_keep_their_bits_in_registers(target: str, vocabulary_file: VocabularyFile) -> None:
    """Also signalling NaNs, from a slot or an immediate into a register, into another, and back."""
    asm = assembler(target, vocabulary_file)
    library = asm.library
    low = 4 if library.target.byteorder == "big" else 0
    asm.function("main", frame=4096)
    for number, bits in enumerate(PATTERNS):
        place = 8 + 32 * number
        asm.f32_move(f[1], slot(place))
        asm.f32_move(f[6], f[1])
        asm.f32_move(slot(place + 8), f[6])
        asm.f32_move(
            f[7], struct.unpack("<f", struct.pack("<I", bits))[0] if bits == 0x3F800000 else slot(place)
        )
        asm.f32_bits(slot(place + 16), f[7])
    asm.f32_move(f[3], slot(8 + 32 * 12))
    asm.f32_add(f[4], f[2], 1.5)
    asm.f32_add(slot(0), f[4], f[4])
    asm.leave()
    slots = words(
        library, MARK, *itertools.chain(*((bits | MARK & ~M32, MARK, MARK, 0) for bits in PATTERNS))
    )
    two = {**GIVEN, "f2": held(target, 0x40000000)}
    for way, result in zip(ways(library), run(asm, two, slots), strict=True):
        for number, bits in enumerate(PATTERNS):
            assert result.frame[8 + 32 * number + 8] == bits | MARK & ~M32, (way, hex(bits))
            assert result.frame[8 + 32 * number + 16] == bits, (way, hex(bits))
        assert result.frame.read(low, 4) == words(library, 0x40E00000)[low : low + 4]
        if way != COMPILED:
            assert home(result, "f3") == boxed(target, 0x7F800001)
            assert home(result, "f4") == boxed(target, 0x40600000)


def is_wide(target: str) -> bool:
    return any("CNP_F32_IS_WIDE" in flag for flag in targets.get(target).cflags)


def boxed(target: str, bits: int) -> int:
    """An f32 as the word that is a register's home."""
    if not is_wide(target):
        return 0xFFFFFFFF_00000000 | bits
    if bits & 0x7F800000 == 0x7F800000:
        return bits >> 31 << 63 | 0x7FF << 52 | (bits & 0x7FFFFF) << 29
    return int(struct.unpack("<Q", struct.pack("<d", struct.unpack("<f", struct.pack("<I", bits))[0]))[0])


def held(target: str, bits: int) -> float:
    """The word as the f64 that Python gives to a register."""
    return float(struct.unpack("<d", struct.pack("<Q", boxed(target, bits)))[0])


def home(result: Result, name: str) -> int:
    """The bits of a state word, as the run left them."""
    library, frame = result.frame.library, result.frame
    (word,) = (word for word in library.state if word.name == name)
    at = frame.start - library.header_size + word.offset
    return int.from_bytes(frame.view[at : at + 8], library.target.byteorder)  # type: ignore[arg-type]


# ---- ways on


@every_target
def test_outputs_are_written_where_it_goes_on(target: str, vocabulary_file: VocabularyFile) -> None:
    """By a jump, by a jump through a table; not by a trap, nor by an exit."""
    asm = assembler(target, vocabulary_file)
    asm.function("main", frame=FRAME)
    there, one, two = asm.label(), asm.label(), asm.label()
    asm.i64_move(r[9], 3)
    asm.less(r[1], r[9], 5, there)
    asm.ret(r[1])
    asm.bind(there)
    asm.i64_move(r[8], 1)
    asm.choose(r[2], r[8], asm.table(one, two))
    asm.bind(one)
    asm.ret(r[2])
    asm.bind(two)
    asm.less(slot(0), r[9], r[8], one)
    asm.others()
    asm.i64_move(r[3], 0)
    asm.divide(r[4], r[5], r[9], r[3])
    asm.ret(r[4])
    for result in run(asm, GIVEN):
        assert (result.kind, result.code, result.op) == ("trap", 2, standing(asm, "divide"))
        changed: dict[str, int | float] = {"r1": -2 & M64, "r2": 101, "r3": 0, "r8": 1, "r9": 3}
        changed |= {"half": 0, "x": 4.25, "y": 1.25, "c": -8, "d": 35, "e": 1 << 63 ^ 11}
        assert result.state == GIVEN | changed
        assert result.frame[0] == 2


@every_target
def test_left_and_continued_by_each_other(target: str, vocabulary_file: VocabularyFile) -> None:
    """Registers of three activations, the middle one of which declares some dead."""
    asm = assembler(target, vocabulary_file)
    library = asm.library
    middle, inner = asm.declare("middle", FRAME), asm.declare("inner", FRAME)
    asm.function("main", frame=FRAME)
    asm.i64_move(r[1], 1)
    asm.call(middle, slot(FRAME), r[5])
    asm.i64_add(r[1], r[1], r[5])
    asm.leave()
    asm.begin(middle)
    asm.i64_move(r[1], 100)
    asm.f64_mul(f[2], f[2], 2.0)
    asm.call_kill(inner, slot(FRAME), r[6])
    asm.i64_add(r[6], r[6], r[3])
    asm.i64_add(r[6], r[6], r[1])
    asm.ret(r[6])
    asm.begin(inner)
    for register in range(10):
        asm.i64_move(r[register], 1000 + register)
    asm.f64_mul(f[7], f[7], 0.5)
    asm.others()
    asm.bind(asm.label(), entry=True)
    asm.leave_once(r[4], r[5])
    asm.i64_add(r[4], r[4], r[1])
    asm.ret(r[4])
    chain = [standing(asm, name) for name in ("leave_once", "call_kill", "call")]
    code = ForeignCode(asm.close())
    given = GIVEN | {"b": 1}
    dead = {"r3": 0, "f2": 0.0, "a": 0, "e": 0}
    in_middle = given | {"r1": 100}
    inside = (
        in_middle
        | {f"r{n}": 1000 + n for n in range(10)}
        | {"f7": float(given["f7"]) * 0.5, "f2": float(given["f2"]) * 2}
    )
    inside |= {"a": 12, "b": 0, "half": 0, "x": 4.25, "y": 1.25, "c": -8, "d": 35, "e": 1 << 63 ^ 12}
    for first, then in itertools.product(ways(library), repeat=2):
        outcome = code.run([call(first, "main", given)])
        (left,) = outcome.results
        assert (left.kind, left.op) == ("exit", chain[0]), (first, left)
        states = [activation.state for activation in left.activations]
        assert [activation.op for activation in left.activations] == chain
        assert states == [inside, in_middle | dead, given | {"r1": 1}], first
        (end,) = code.resume(outcome, compiled=then == COMPILED, threaded=then == THREADED).results
        value = 1005 + 1001 + 100
        assert end.kind == "exit" and end.state == given | {"r0": value, "r1": 1 + value, "r5": value}, (
            first,
            then,
        )


# ---- what they are like


@every_target
def test_cases_touch_no_more_than_they_need(target: str, vocabulary_file: VocabularyFile) -> None:
    """Eighteen registers and eight other words cost nothing where an operation does nothing with them."""
    library = Library.load(vocabulary_file(SOURCE, target))
    assert interpret.has_threads(library) == (target != "ppc64le")
    if target == "ppc64le":
        return  # it has no indirect tail call, and so no threaded interpreter
    mark = "<" if library.target.byteorder == "little" else ">"
    places, first = (
        struct.unpack(f"{mark}{len(code) // 4}I", code)
        for code in (library.routine(name).code for name in (interpret.PLACES, interpret.FIRST_CASES))
    )
    number = first[library["nothing"].index]
    assert places[number + 1] - places[number] <= 32


def test_some_targets_have_no_threads(vocabulary_file: VocabularyFile) -> None:
    """Asking for them is an error that says so."""
    asm = Assembler(Library.load(vocabulary_file(SOURCE, "ppc64le")))
    asm.function("main", frame=FRAME)
    asm.ret(r[1])
    code = ForeignCode(asm.close())
    with pytest.raises(StateError, match=r"ppc64le: .* the machine has no indirect tail calls") as caught:
        code.run([call(THREADED, "main", GIVEN)])
    assert caught.value.state == "threaded"


def test_threaded_in_this_process(vocabulary_file: VocabularyFile) -> None:
    vocabulary = cnp.load(vocabulary_file(SOURCE, "host"))
    need(interpret.has_threads(vocabulary.library), "this machine has no threaded interpreter")
    asm: Any = vocabulary.assembler(helpers={"cnp_test_clobber": lambda x: 1 // x})
    asm.function("main", frame=FRAME)
    asm.ask(r[1], r[2])
    asm.leave_once(r[3], r[1])
    asm.ret(r[3])
    stop, code = standing(asm, "leave_once"), asm.build()
    left = code.interpreter.run("main", {"r2": 1, "b": 1, "r3": 5}, threaded=True)
    assert (left.kind, left.op, left.state["r1"], left.state["r3"]) == ("exit", stop, 1, 5)
    assert code.interpreter.resume(left, threaded=True).value == 1
    with pytest.raises(ZeroDivisionError):
        code.interpreter.run("main", {"r2": 0}, threaded=True)
