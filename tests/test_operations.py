"""Every portable operation, every form, every target: against a Python reference and the interpreter of the same bodies.

Results of `main` (operation_rig.py) are compared with tests/reference.py, once for generated code and once for the
interpreter, which is the bodies called as plain C. What leaves, jumps or calls has its programs here.
"""

from __future__ import annotations

import gc
import struct
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cnp import runtime, slot
from cnp.assembler import Assembler
from cnp.errors import OperandError
from cnp.foreign import Call, ForeignCode
from cnp.library import Library
from cnp.result import Result
from tests.memory_operations import memory_experiments
from tests.operation_rig import OUT, UNTOUCHED, Bench, experiments
from tests.reference import (
    ATOMICS,
    LOADS,
    MAY_TRAP,
    STORES,
    UPDATES,
    WITH_LOAD,
    Reference,
    Trap,
    hole_word,
    references,
)
from tests.support import every_processor, every_target, operations

WAYS = (False, True)  #: generated code, the interpreter
CONTROL = {
    "jump", "jump_table", "jump_address", "call", "call_kill", "call_table", "call_table_kill", "ret", "trap", "leave",
    "poll", "call_c", "call_c_f64", "call_c_f32", "i64_count_down",
}  # fmt: skip
MEMORY = {name + way for name in (*LOADS, *STORES) for way in ("", "_at", "_checked")}
MEMORY |= {f"i{bits}_atomic_{name}" for bits in (64, 32) for name in (*ATOMICS, "load", "store", "cas")}
MEMORY |= {f"{name}_load" for name in WITH_LOAD} | {f"{name}_to" for name in UPDATES}
DEPTH, FUEL, INDIRECT = 5, 6, 10  # trap codes of the contract
SENTINEL = 0x5EA1_5EA1_5EA1_5EA1


@cache
def library(name: str) -> Library:
    """The stencil file that comes with the library."""
    return operations(name)


def run(asm: Assembler, calls: list[Call]) -> list[Result]:
    """The results of calls on the program's own machine, of generated code and of the interpreter, in turns."""
    both = [
        Call(c.place, c.state, c.slots, c.depth, c.fuel, c.frame_bytes, way) for c in calls for way in WAYS
    ]
    return ForeignCode(asm.close()).run(both).results


def words(lib: Library, *values: int) -> bytes:
    """Slots with these words."""
    mark = "<" if lib.target.byteorder == "little" else ">"
    return struct.pack(f"{mark}{len(values)}Q", *(value & (1 << 64) - 1 for value in values))


# ---- the set


@every_target
def test_the_reference_knows_every_operation(target: str) -> None:
    """The file has the operations of the table, no other, with the operands that the table says."""
    lib = library(target)
    table = references()
    tests = {f"br_{name}" for name in table if f"br_{name}" in lib}
    attempts = {f"try_{name}" for name in MAY_TRAP}
    assert set(lib.operations) == {*table, *tests, *attempts, *MEMORY, *CONTROL}
    for name in MAY_TRAP:
        assert lib[f"try_{name}"].operands[:-1] == lib[name].operands
    for name, item in table.items():
        output, *inputs = lib[name].operands
        assert (output.kind, output.ctype) == ("out", item.output), name
        kinds = ["in/imm" if number in item.immediates else "in" for number in range(len(item.inputs))]
        kinds = ["imm" if number == item.always else kind for number, kind in enumerate(kinds)]
        assert [(x.kind, x.ctype) for x in inputs] == list(zip(kinds, item.inputs, strict=True)), name
        if f"br_{name}" in tests:
            assert lib[f"br_{name}"].operands[:-1] == tuple(inputs)


@every_target
def test_nothing_became_a_library_call(target: str) -> None:
    assert [item.name for item in library(target).imports] == ["cnp_poll"]


@every_target
def test_the_file_is_small_and_quickly_loaded(target: str) -> None:
    path = library(target).path
    assert Path(path).stat().st_size <= 2 << 20
    times = []
    gc.freeze()  # what other tests hold is none of the loader's work
    try:
        for _ in range(15):
            start = time.thread_time()  # of this thread alone: the machine may be busy
            Library.load(path)
            times.append(time.thread_time() - start)
    finally:
        gc.unfreeze()
    assert min(times) <= 0.010


@pytest.mark.parametrize("target", ["mips64", "mips64el"])
def test_a_sign_is_flipped_without_arithmetic(target: str) -> None:
    """neg.fmt and abs.fmt need not flip the sign of a NaN on these machines; qemu does not show it."""
    lib = library(target)
    for name in ("f64_neg", "f32_neg", "f64_abs", "f32_abs"):
        for form in lib[name].forms:
            code = form.near.blocks[0].code
            for offset in range(0, len(code), 4):
                word = struct.unpack_from(">I" if lib.target.byteorder == "big" else "<I", code, offset)[0]
                # opcode COP1, fmt S or D, function abs (5) or neg (7): 0b111111_11110_00000_00000_00000_111101
                assert word & 0xFFC0_003D != 0x4600_0005, (name, offset)


# ---- values


@cache
def bench() -> Bench:
    """The experiments are the same for all targets, and so is most of what is expected of them."""
    return Bench([*experiments(), *memory_experiments()])


@every_processor
def test_every_form_computes_what_the_reference_says(target: str, featured: bool) -> None:
    lib, judge = operations(target, featured), bench()
    asm = Assembler(lib)
    judge.emit(asm)
    code = ForeignCode(asm.close())
    blank = bytes([UNTOUCHED]) * (8 * judge.results())
    memory = [judge.inputs(lib), blank, blank]
    tables, *outputs = code.area_addresses([len(area) for area in memory])
    calls = [
        Call("main", slots=judge.slots(lib, tables, output), interpret=way)
        for way, output in zip(WAYS, outputs, strict=True)
    ]
    outcome = code.run(calls, memory=memory)
    for result, output, after in zip(outcome.results, outputs, outcome.memory[1:], strict=True):
        assert result.returned
        assert result.frame[OUT.offset] == output + len(after)
        assert judge.failures(lib, after, output) == []


def test_in_this_process() -> None:
    """The same by the runtime's own memory, on the machine that the tests run on."""
    vocabulary = runtime.load("ops")
    lib, judge = vocabulary.library, bench()
    asm = vocabulary.assembler()
    judge.emit(asm)
    code = asm.build()
    tables = bytearray(judge.inputs(lib))
    ways: list[Callable[..., Result]] = [
        code["main"].run,
        lambda frame: code.interpreter.run("main", frame=frame),
    ]
    for way in ways:
        output = bytearray([UNTOUCHED]) * (8 * judge.results())
        frame = vocabulary.frame(code.program.functions[0].frame)
        frame.write(0, judge.slots(lib, runtime.address(tables), runtime.address(output)))
        assert way(frame=frame).returned
        assert judge.failures(lib, bytes(output), runtime.address(output)) == []


# ---- traps of values

TRAPPING: dict[str, tuple[tuple[int, int], ...]] = {
    "div_s": ((5, 0), (0, 0), (-1, 0), (-(1 << 63), 0), (-(1 << 63), -1), (-(1 << 31), -1)),
    "div_u": ((5, 0), (0, 0), (-1, 0)),
    "rem_s": ((5, 0), (0, 0), (-(1 << 63), 0)),
    "rem_u": ((5, 0), (0, 0), (-1, 0)),
}


def test_only_divisions_trap() -> None:
    """Which operations TRAPPING is about: those whose reference can trap (conversions: test_exact.py)."""
    found = set()
    for name, item in references().items():
        try:
            item.word(*[0] * len(item.inputs))
        except Trap:
            found.add(name)
    assert found == {f"{width}_{name}" for width in ("i64", "i32") for name in TRAPPING}


def trap_cases() -> list[tuple[Reference, int, int, bool, int]]:
    """(operation, a, b, b is an immediate, trap code)."""
    found = []
    for name, pairs in TRAPPING.items():
        for width in (64, 32):
            item = references()[f"i{width}_{name}"]
            for a, b in pairs:
                try:
                    item.word(hole_word("i64", a), hole_word("i64", b))
                except Trap as trap:
                    signed = item.immediates[1] == ("i32",)
                    found += [
                        (item, a, b, as_immediate, trap.code)
                        for as_immediate in WAYS
                        if signed or b >= 0 or not as_immediate
                    ]
    return found


@every_target
def test_divisions_trap(target: str) -> None:
    """With the code of the reference, at their own operation, and the destination as it was."""
    lib, cases = library(target), trap_cases()
    asm: Any = Assembler(lib)
    places = []
    for number, (item, _, b, as_immediate, _) in enumerate(cases):
        asm.function(f"case {number}", frame=64)
        places.append(asm.op(item.name, slot(0), slot(8), b if as_immediate else slot(16)))
        asm.ret(slot(0))
    calls = [Call(f"case {n}", slots=words(lib, SENTINEL, a, b)) for n, (_, a, b, _, _) in enumerate(cases)]
    results = run(asm, calls)
    for number, (item, a, b, _, code) in enumerate(cases):
        for result in results[2 * number : 2 * number + 2]:
            assert (result.kind, result.code, result.op) == ("trap", code, places[number]), (item.name, a, b)
            assert result.frame[0] == SENTINEL


# ---- where to go on


@every_target
def test_jump_table(target: str) -> None:
    """An index takes its entry; one beyond the table, however large, goes on with what follows."""
    lib = library(target)
    asm: Any = Assembler(lib)
    asm.function("pick", frame=16)
    entries = [asm.label() for _ in range(3)]
    out = asm.label()
    asm.jump_table(slot(0), 3, asm.table(*entries))
    asm.i64_move(slot(8), 99)
    asm.jump(out)
    for number in (2, 0, 1):
        asm.bind(entries[number])
        asm.i64_move(slot(8), 10 + number)
        asm.jump(out)
    asm.bind(out)
    asm.ret(slot(8))
    indices = [0, 1, 2, 3, 4, 1 << 31, 1 << 32, 1 << 61, 1 << 63, (1 << 64) - 1]
    results = run(asm, [Call("pick", slots=words(lib, index)) for index in indices])
    assert [result.value for result in results[::2]] == [10, 11, 12] + [99] * 7
    assert [result.value for result in results[1::2]] == [10, 11, 12] + [99] * 7


def emit_fibonacci(asm: Any) -> None:
    """fib(n): n in slot 0, the callee's frame one header behind slot 24."""
    argument = slot(24 + asm.library.header_size)
    fib = asm.function("fib", frame=argument.offset + 8)
    more = asm.label()
    asm.br_i64_ge_s(slot(0), 2, more)
    asm.ret(slot(0))
    asm.bind(more)
    asm.i64_sub(argument, slot(0), 1)
    asm.call(fib, slot(24), slot(8))
    asm.i64_sub(argument, slot(0), 2)
    asm.call(fib, slot(24), slot(16))
    asm.i64_add(slot(8), slot(8), slot(16))
    asm.ret(slot(8))


@every_target
def test_calls_nest_and_return(target: str) -> None:
    lib = library(target)
    asm = Assembler(lib)
    emit_fibonacci(asm)
    results = run(asm, [Call("fib", slots=words(lib, n), depth=20) for n in (0, 1, 2, 10, 15)])
    assert [result.value for result in results] == [0, 0, 1, 1, 1, 1, 55, 55, 610, 610]


@every_target
def test_depth_is_limited(target: str) -> None:
    """The call that is one too deep traps; every activation stands at its call."""
    lib = library(target)
    asm = Assembler(lib)
    emit_fibonacci(asm)
    for result in run(asm, [Call("fib", slots=words(lib, 30), depth=7)]):
        assert (result.kind, result.code) == ("trap", DEPTH)
        assert [activation.op for activation in result.activations] == [result.op] * 8
        arguments = [result.frame.read(a.frame - result.frame.address, 8) for a in result.activations]
        assert arguments == [words(lib, n) for n in range(23, 31)]


@every_target
def test_calls_through_a_table(target: str) -> None:
    lib = library(target)
    asm: Any = Assembler(lib)
    header = lib.header_size
    double = asm.declare("double", frame=8)
    negate = asm.declare("negate", frame=8)
    asm.function("main", frame=32 + header)
    asm.i64_move(slot(24 + header), slot(8))
    place = asm.call_table(slot(0), 2, asm.table(double, negate), slot(24), slot(16))
    asm.ret(slot(16))
    asm.begin(double)
    asm.i64_add(slot(0), slot(0), slot(0))
    asm.ret(slot(0))
    asm.begin(negate)
    asm.i64_neg(slot(0), slot(0))
    asm.ret(slot(0))
    indices = [0, 1, 2, 1 << 32, (1 << 64) - 1]
    results = run(asm, [Call("main", slots=words(lib, index, 21), depth=3) for index in indices])
    assert [result.value for result in results[:4]] == [42, 42, (1 << 64) - 21, (1 << 64) - 21]
    for result in results[4:]:
        assert (result.kind, result.code, result.op) == ("trap", INDIRECT, place)


# ---- leaving

CODES = (1, 64, 255, 256, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


@every_target
def test_trap_and_leave(target: str) -> None:
    """A trap carries its code; both leave at their own operation, with the slots and the state as they are."""
    lib = library(target)
    asm: Any = Assembler(lib)
    places = []
    for number, code in enumerate((*CODES, None)):
        asm.function(f"way {number}", frame=16)
        asm.i64_move(slot(8), number)
        places.append(asm.leave() if code is None else asm.trap(code))
    results = run(asm, [Call(f"way {number}", {"r0": 77}) for number in range(len(places))])
    for number, place in enumerate(places):
        kind, code = ("trap", CODES[number]) if number < len(CODES) else ("exit", 0)
        for result in results[2 * number : 2 * number + 2]:
            assert (result.kind, result.code, result.op) == (kind, code, place)
            assert (result.frame[8], result.state["r0"]) == (number, 77)


@every_target
def test_poll_counts_the_fuel(target: str) -> None:
    lib = library(target)
    asm: Any = Assembler(lib)
    asm.function("endless", frame=8)
    again = asm.here()
    asm.i64_add(slot(0), slot(0), 1)
    place = asm.poll()
    asm.jump(again)
    fuels = (0, 1, 10, 5000)
    results = run(asm, [Call("endless", fuel=fuel) for fuel in fuels])
    for number, fuel in enumerate(fuels):
        for result in results[2 * number : 2 * number + 2]:
            assert (result.kind, result.code, result.op) == ("trap", FUEL, place)
            assert result.frame[0] == fuel + 1


# ---- immediates


@every_target
def test_immediates_keep_to_their_range(target: str) -> None:
    """A negative number for an unsigned word is its two's complement; nothing else is bent to fit."""
    lib = library(target)
    asm: Any = Assembler(lib)
    asm.function("main", frame=64)
    asm.i64_move(slot(0), -(1 << 63))
    asm.i64_move(slot(8), -(1 << 40))
    asm.i32_move(slot(16), -1)
    asm.i32_add(slot(24), slot(16), -(1 << 31))
    refused = [
        ("i64_move", (slot(0), 1 << 64)), ("i64_move", (slot(0), -(1 << 63) - 1)), ("i32_move", (slot(0), 1 << 32)),
        ("i32_add", (slot(0), slot(0), -(1 << 31) - 1)), ("i64_add", (slot(0), slot(0), 1 << 64)),
        ("i64_add", (slot(0), slot(0), 1.0)),
        ("i64_add", (slot(0), slot(0), slot(64))), ("i64_add", (slot(0), slot(0), slot(-8))),
    ]  # fmt: skip
    for name, operands in refused:
        with pytest.raises(OperandError):
            asm.op(name, *operands)
    asm.ret(slot(0))
    for result in run(asm, [Call("main")]):
        assert [result.frame[offset] for offset in (0, 8, 16, 24)] == [
            1 << 63,
            (1 << 64) - (1 << 40),
            0xFFFF_FFFF,
            0x7FFF_FFFF,
        ]
