"""What a user calls: runs, frames, cells, helpers, resumes; how misuse is refused, and how long things live."""

from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cnp
from cnp import LabelError, OperandError, RangeError, StateError, Symbol, SymbolError, TrapError, native, slot
from cnp.foreign import Call, ForeignCode
from cnp.runtime import installed
from tests.conftest import VocabularyFile

EDGES = Path(__file__).parent / "vocabularies" / "edges.c"
DEPTH, FUEL, RAISED = 5, 6, 8
WAYS = ["run", "interpreter", "callable"]


class Boom(Exception):
    """What helpers raise here."""


def boom(k: int) -> int:
    raise Boom(k)


@pytest.fixture(scope="session")
def edges(vocabulary_file: VocabularyFile) -> cnp.Vocabulary:
    return cnp.load(vocabulary_file(EDGES, "host"))


Body = Callable[[cnp.Assembler], object]


def build(vocabulary: cnp.Vocabulary, body: Body, helper: object = None, frame: int = 64) -> cnp.Code:
    """A program with one function, `f`."""
    asm = vocabulary.assembler(helpers={"help": helper or (lambda k: k)})
    asm.function("f", frame)
    body(asm)
    return asm.build()


def value(code: cnp.Code, way: str) -> object:
    """What `f` returns."""
    if way == "callable":
        return code["f"].callable("uint64_t()")()
    result = code["f"].run() if way == "run" else code.interpreter.run("f")
    assert result.returned
    return result.value


def simple() -> cnp.Code:
    """f returns its first slot."""
    asm = cnp.load("ops").assembler()
    asm.function("f", 8)
    asm.ret(slot(0))
    return asm.build()


# ---- ways in


@pytest.mark.parametrize("place", [-1, 2, 10**6])
def test_places_that_are_no_operations(place: int) -> None:
    code = simple()
    for enter in (code.enter, code.interpreter.run, code.address):
        with pytest.raises(LabelError, match="no operation"):
            enter(place)


def test_labels_of_other_programs_and_unbound_ones_are_no_way_in() -> None:
    code, other = simple(), simple()
    unbound = cnp.load("ops").assembler().label("unbound")
    for place in (other.program.functions[0], unbound):
        for enter in (code.enter, code.interpreter.run, code.address):
            with pytest.raises(LabelError) as caught:
                enter(place)
            assert caught.value.label == place.name


@pytest.mark.parametrize(
    ("argument", "wrong", "operand"),
    [("depth", -1, "depth"), ("fuel", -1, "fuel"), ("fuel", 1 << 63, "fuel"), ("state", {"x": 1}, "x"),
     ("state", {"value": 1 << 64}, "value"), ("state", {"value": 1.5}, "value"), ("state", {"value": "1"}, "value")],
)  # fmt: skip
def test_arguments_out_of_range(argument: str, wrong: Any, operand: str) -> None:
    code = simple()
    for run in (code["f"].run, lambda **given: code.interpreter.run("f", **given)):
        with pytest.raises(OperandError) as caught:
            run(**{argument: wrong})
        assert caught.value.operand == operand


def test_any_depth_may_be_asked_for() -> None:
    """Native stack and memory bound it before a frame is made."""
    asm = cnp.load("ops").assembler()
    function = asm.function("f", 8)
    asm.call(function, slot(8), slot(0))
    asm.ret(slot(0))
    code = asm.build()
    for depth in (0, 1, 1 << 40):
        for result in (code["f"].run(depth=depth), code.interpreter.run("f", depth=depth)):
            assert (result.kind, result.code) == ("trap", DEPTH)
            assert len(result.activations) == depth + 1 if depth < 2 else len(result.activations) > 1000


@pytest.mark.parametrize("fuel", [0, 1, 255, 256, 257, 5000])
def test_fuel_is_counted_by_polls(fuel: int) -> None:
    asm = cnp.load("ops").assembler()
    asm.function("f", 8)
    loop = asm.here()
    asm.poll()
    asm.i64_add(slot(0), slot(0), 1)
    asm.jump(loop)
    code = asm.build()
    for run in (code["f"].run, lambda **given: code.interpreter.run("f", **given)):
        frame = cnp.load("ops").frame(8)
        result = run(fuel=fuel, frame=frame)
        assert (result.kind, result.code, result.op, frame[0]) == ("trap", FUEL, 0, fuel)


# ---- frames


def test_a_frame_is_checked() -> None:
    code, vocabulary = simple(), cnp.load("ops")
    with pytest.raises(OperandError, match="a frame of -8 bytes"):
        vocabulary.frame(-8)
    others: list[Any] = [bytearray(64), 64]
    for wrong in (vocabulary.frame(0), cnp.load("brainfuck").frame(64), *others):
        for run in (code["f"].run, lambda frame: code.interpreter.run("f", frame=frame)):
            with pytest.raises(OperandError) as caught:
                run(frame=wrong)
            assert caught.value.operand == "frame"


def test_words_of_a_frame() -> None:
    frame = cnp.load("ops").frame(16)
    frame[8] = -1
    assert (frame[0], frame[8]) == (0, (1 << 64) - 1)
    for offset, word in ((0, 1 << 64), (0, -(1 << 63) - 1), (9, 0), (-8, 0)):
        with pytest.raises(OperandError):
            frame[offset] = word
    assert frame.read(0, 16) == bytes(8) + b"\xff" * 8


# ---- helpers


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", ["ask", "ask_and_exit", "ask_and_return", "ask_slowly"])
def test_the_exception_of_a_helper_is_that_very_one(edges: cnp.Vocabulary, operation: str, way: str) -> None:
    """Whatever its operation wants to do next."""
    code = build(edges, lambda asm: (asm.set(7), asm.op(operation, 5), asm.ret()), boom)
    with pytest.raises(Boom, match="5"):
        value(code, way)


def test_the_state_is_put_back_when_a_helper_raises(edges: cnp.Vocabulary) -> None:
    code, frame = build(edges, lambda asm: (asm.set(7), asm.ask(5), asm.ret()), boom), edges.frame(64)
    with pytest.raises(Boom):
        code["f"].run(frame=frame)
    assert (frame.header().op, frame.header().code, frame.header().state["value"]) == (1, RAISED, 7)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("inside", ["run", "callable"])
def test_runs_within_helpers(edges: cnp.Vocabulary, inside: str, way: str) -> None:
    good = build(edges, lambda asm: (asm.set(40), asm.ret()))
    bad = build(edges, lambda asm: (asm.ask(1), asm.ret()), boom)

    def both(k: int) -> int:
        with pytest.raises(Boom):
            value(bad, inside)
        return int(value(good, inside))  # type: ignore[call-overload, no-any-return]

    assert value(build(edges, lambda asm: (asm.set(2), asm.ask(1), asm.ret()), both), way) == 42
    outer = build(edges, lambda asm: (asm.ask(1), asm.ret()), lambda k: value(bad, inside))
    with pytest.raises(Boom):
        value(outer, way)


@pytest.mark.skipif(not native.available, reason="without cnp._core the native stack is only estimated")
@pytest.mark.parametrize("way", WAYS)
def test_helpers_that_recurse_without_end(edges: cnp.Vocabulary, way: str) -> None:
    """In a thread with a small stack, which ends before Python's own limit does."""
    codes: list[cnp.Code] = []
    codes.append(build(edges, lambda asm: (asm.ask(1), asm.ret()), lambda k: value(codes[0], way)))
    caught: list[BaseException] = []

    def thread() -> None:
        try:
            value(codes[0], way)
        except RecursionError as error:
            caught.append(error)

    before = threading.stack_size(256 * 1024)
    try:
        started = threading.Thread(target=thread)
        started.start()
    finally:
        threading.stack_size(before)
    started.join()
    assert len(caught) == 1


def test_what_can_be_a_helper(edges: cnp.Vocabulary) -> None:
    pointer = ctypes.CFUNCTYPE(ctypes.c_longlong, ctypes.c_longlong)(lambda k: k + 1)
    number = ctypes.cast(pointer, ctypes.c_void_p).value
    for helper in (pointer, number, lambda k: k + 1):
        assert value(build(edges, lambda asm: (asm.ask(6), asm.ret()), helper), "run") == 7
    with pytest.raises(SymbolError) as caught:
        build(edges, lambda asm: (asm.ask(6), asm.ret()), "no function")
    assert caught.value.symbols == ["help"]


def test_traps(edges: cnp.Vocabulary) -> None:
    """A code that stands for an exception without one is an ordinary trap."""
    for code in (0, RAISED, 64, (1 << 32) - 1):
        operands = [code]
        program = build(edges, lambda asm: asm.trap(*operands))  # noqa: B023
        for result in (program["f"].run(), program.interpreter.run("f")):
            assert (result.kind, result.code, result.op, result.value) == ("trap", code, 0, None)
        with pytest.raises(TrapError) as caught:
            value(program, "callable")
        assert (caught.value.code, caught.value.op, caught.value.index) == (code, "trap", 0)


# ---- cells and tables


def test_cells_are_words_of_one_program(edges: cnp.Vocabulary) -> None:
    asm = edges.assembler(helpers={"help": len})
    asm.function("f", 8)
    shared, end, one = asm.cell(5), asm.label(), asm.label()
    first, second = asm.add_cells(shared, 3), asm.add_cells(shared, shared)
    asm.go(asm.table(one, end), 1)
    asm.bind(one)
    asm.set(1)
    asm.bind(end)
    asm.ret()
    code = asm.build()
    assert [value(code, way) for way in WAYS] == [18, 18, 18]
    code.cells[first].wide = 100
    assert (code.cells[first].low, code.cells[second].wide, code.cells[second].low) == (3, 100, 100)
    assert [value(code, way) for way in WAYS] == [303, 303, 303]
    code.cells[first].wide = -1
    assert code.cells[second].wide == (1 << 64) - 1


def test_cells_that_are_none(edges: cnp.Vocabulary) -> None:
    code = build(edges, lambda asm: (asm.add_cells(1, 2), asm.ret()))
    for op in (-1, 1, 1000):
        with pytest.raises(OperandError):
            code.cells[op]
    with pytest.raises(AttributeError, match="wide, low"):
        code.cells[0].narrow  # noqa: B018
    for word in (1 << 64, -(1 << 63) - 1):
        with pytest.raises(RangeError):
            code.cells[0].wide = word
    assert code.cells[0].wide == 1


# ---- leaving and going on


def test_resume_only_what_the_last_run_left(edges: cnp.Vocabulary) -> None:
    code = build(edges, lambda asm: (asm.leave(), asm.ret()))
    stale = code["f"].run()
    assert code.interpreter.resume(stale).exited
    with pytest.raises(StateError) as caught:
        code.interpreter.resume(stale)
    assert caught.value.state == "stale"
    other = build(edges, lambda asm: (asm.leave(), asm.ret()))
    with pytest.raises(StateError):
        other.interpreter.resume(code["f"].run())
    with pytest.raises(StateError, match="nothing to resume"):
        code.interpreter.resume(build(edges, lambda asm: asm.ret())["f"].run())


def test_a_result_of_another_machine_is_not_resumed_here() -> None:
    asm = cnp.load("ops").assembler()
    asm.function("f", 8)
    asm.leave()
    asm.ret(slot(0))
    code = asm.build()
    (there,) = ForeignCode(asm.program).run([Call("f")]).results
    assert there.exited
    with pytest.raises(StateError):
        code.interpreter.resume(there)


def test_a_deep_call_goes_on_in_the_interpreter_within_its_stack(edges: cnp.Vocabulary) -> None:
    """Its calls take more native stack than those of generated code, for which the depth was measured."""
    size = edges.library.header_size
    asm = edges.assembler()
    function = asm.function("f", size + 8)
    asm.leave()
    asm.call(function, slot(0))
    asm.ret()
    code = asm.build()
    left = code["f"].run(depth=1 << 20)
    assert isinstance(left.frame, cnp.Frame) and left.frame.header().depth > 10_000
    after = replace(left, activations=(replace(left.activations[0], op=1),))
    left.frame.left = (code, after.activations)
    assert code.interpreter.resume(after).exited
    assert left.frame.header().depth < 10_000


def test_only_generated_code_enters_code_of_other_programs(edges: cnp.Vocabulary) -> None:
    callee = build(edges, lambda asm: (asm.set(9), asm.ret()))
    asm = edges.assembler(helpers={"theirs": callee["f"].address})
    asm.function("f", 64)
    asm.call(Symbol("theirs"), slot(0))
    asm.ret()
    code = asm.build()
    assert value(code, "run") == value(code, "callable") == 9
    with pytest.raises(StateError, match="theirs"):
        code.interpreter.run("f")


@pytest.mark.parametrize("way", WAYS)
def test_large_native_frames_do_not_overflow_the_stack(edges: cnp.Vocabulary, way: str) -> None:
    asm = edges.assembler()
    function = asm.function("f", 8)
    asm.call_deeply(function, slot(8))
    asm.ret()
    code = asm.build()
    assert code.needs.native > 3000
    if way == "callable":
        with pytest.raises(TrapError) as caught:
            code["f"].callable("uint64_t()", depth=1 << 20)()
        assert caught.value.code == DEPTH
    else:
        run = code["f"].run if way == "run" else lambda depth: code.interpreter.run("f", depth=depth)
        assert run(depth=1 << 20).code == DEPTH


# ---- lifetimes


def test_code_lives_while_it_can_be_resumed(edges: cnp.Vocabulary) -> None:
    code = build(edges, lambda asm: (asm.leave(), asm.ret()))
    gone, result = weakref.ref(code), code["f"].run()
    del code
    gc.collect()
    assert gone() is not None
    del result
    gc.collect()
    assert gone() is None


ENDLESS = """
import threading, time, cnp
from cnp import slot
asm = cnp.load("ops").assembler()
asm.function("f", 8)
loop = asm.here()
asm.i64_add(slot(0), slot(0), 1)
asm.jump(loop)
code, frame = asm.build(), cnp.load("ops").frame(8)
threading.Thread(target=lambda: code["f"].run(frame=frame), daemon=True).start()
while not frame[0]:
    time.sleep(0.001)
"""


def test_code_is_not_taken_away_from_threads_when_python_ends() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# ---- loading


def test_code_for_other_machines_is_not_run_here() -> None:
    host = cnp.load("ops").target.name
    other = "mips64" if host != "mips64" else "riscv64"
    asm = cnp.load(installed("ops", other)).assembler()
    asm.function("f", 8)
    asm.ret(slot(0))
    with pytest.raises(StateError) as caught:
        asm.build()
    assert caught.value.state == "foreign"


def test_a_frame_serves_one_run_at_a_time(edges: cnp.Vocabulary) -> None:
    frame = edges.frame(64)
    inner = build(edges, lambda asm: (asm.set(1), asm.ret()))
    outer = build(edges, lambda asm: (asm.ask(1), asm.ret()), lambda k: inner["f"].run(frame=frame).value)
    with pytest.raises(StateError) as caught:
        outer["f"].run(frame=frame)
    assert caught.value.state == "busy"
    assert inner["f"].run(frame=frame).value == 1


def test_errors_carry_the_source_position(edges: cnp.Vocabulary) -> None:
    code = build(edges, lambda asm: (asm.set(1), asm.trap(70, at=("prog.lang", 12)), asm.ret()))
    with pytest.raises(TrapError) as caught:
        code["f"].callable("uint64_t()")()
    assert (caught.value.code, caught.value.op, caught.value.at) == (70, "trap", ("prog.lang", 12))


@pytest.mark.parametrize("target", ["x86_64", "mips64"])
def test_vocabularies_of_other_machines_can_be_encoded(target: str) -> None:
    asm = cnp.load("ops", target).assembler()
    asm.function("f", frame=8)
    asm.ret(slot(0))
    assert asm.encode(0x1000_0000).symbols == {"f": 0x1000_0000}


def test_a_folder_does_not_hide_a_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ops").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "i64_add" in cnp.load("ops").operations
