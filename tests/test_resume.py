"""Leaving and going on: a run that is left at an operation and continued elsewhere ends as if it had never been left.

Random programs (resume_reference.py) are left at many of their operations, by generated code and by both interpreters,
continued by another or by the same, and left again. Where they stand in between and how they end is compared with a
Python reference; activations of callers are part of it.
"""

from __future__ import annotations

import ctypes
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

import cnp
from cnp import interpret, runtime, slot
from cnp.assembler import Assembler
from cnp.errors import LabelError
from cnp.foreign import Call, ForeignCode, Outcome
from cnp.library import Library
from cnp.result import Result
from tests import resume_reference as reference
from tests.conftest import VocabularyFile
from tests.resume_reference import FOREVER, FRAME, MEMORY, End, Reference, State, Writer
from tests.support import every_target, runnable

SOURCE = Path(__file__).parent / "vocabularies" / "resume.c"
PROGRAMS, SAMPLES, HOPS = 12, 25, 3  #: random programs; places where each is left; how often a run is left
NESTED = 8  #: more calls than the programs nest
LEAST = 20  #: polls of a program that is worth it
DEPTH, DEEP = 5, 300  #: trap code of the contract; nested calls
COMPILED, SWITCH, THREADED = range(3)  #: who runs


Case = tuple[str, State, list[int], End]  #: function, state and memory to begin with, and the end


def ways(library: Library) -> list[int]:
    return [COMPILED, SWITCH, THREADED] if interpret.has_threads(library) else [COMPILED, SWITCH]


class Programs:
    """Random programs in one piece of code, each with a state to begin with and the end that it must come to."""

    def __init__(self, asm: Any, seed: int) -> None:
        self.asm, self.rng = asm, random.Random(f"resume {seed}")
        found: dict[str, list[Case]] = {"return": [], "trap": []}
        writer = Writer(asm, self.rng)
        names = [f"p{number}" for number in range(6 * PROGRAMS)]
        for name in names:
            writer.program(name)
        deep = asm.function("deep", frame=FRAME)
        asm.deeper(deep, slot(FRAME))
        asm.ret()
        program = asm.program
        program.check()
        starts = {function.name: function for function in program.functions}
        for name in names:
            state = reference.random_state(self.rng)
            memory = [self.rng.getrandbits(64) for _ in range(MEMORY - 1)]
            end = Reference(program, list(memory)).run(starts[name], state)
            if end is not None and len(end.steps) > LEAST:
                found[end.kind].append((name, state, memory, end))
        traps = found["trap"][: PROGRAMS // 3]
        self.cases = traps + found["return"][: PROGRAMS - len(traps)]

    def samples(self, end: End) -> list[int]:
        """Polls at which a run is left: all, or as many as there is time for."""
        steps = range(len(end.steps))
        return list(steps) if len(steps) <= SAMPLES else sorted(self.rng.sample(steps, SAMPLES))

    def next_stop(self, end: End, now: int, hop: int) -> int:
        """Where a run that stands at poll `now` is left again; the number of its polls means nowhere."""
        total = len(end.steps)
        return total if hop == HOPS else min(total, now + self.rng.choice((1, 2, 5, 20, total)))


def without_memory(state: State) -> State:
    return {name: value for name, value in state.items() if name != "mem"}


def chain_of(result: Result) -> reference.Chain:
    return tuple((activation.op, without_memory(activation.state)) for activation in result.activations)


def check_left(result: Result, end: End, at: int) -> None:
    assert result.kind == "exit", (result.kind, result.code)
    assert chain_of(result) == end.steps[at]


def check_end(result: Result, memory: list[int], end: End) -> None:
    assert (result.kind, result.value, result.code) == (end.kind, end.value, end.code)
    assert without_memory(result.state) == end.state
    assert chain_of(result) == end.chain
    assert [result.frame[offset] for offset in range(0, FRAME, 8)] == end.slots
    assert memory == end.memory


def test_the_programs_are_worth_running(vocabulary_file: VocabularyFile) -> None:
    """They nest, trap, return, and use every operation."""
    programs = Programs(Assembler(Library.load(vocabulary_file(SOURCE, "host"))), 0)
    assert len(programs.cases) == PROGRAMS
    ends = [end for *_, end in programs.cases]
    assert {end.kind for end in ends} == {"return", "trap"}
    assert max(len(chain) for end in ends for chain in end.steps) >= 4
    assert any(len(end.chain) > 1 for end in ends)
    names = {op.operation.name for op in programs.asm.program.ops}
    assert names == set(programs.asm.library.operations)


# ---- every target, in its host program


@lru_cache(maxsize=8)
def foreign(file: Path, seed: int) -> tuple[Programs, ForeignCode]:
    asm = Assembler(Library.load(file))
    programs = Programs(asm, seed)
    return programs, ForeignCode(asm.close())


@every_target
def test_left_anywhere_it_ends_the_same(target: str, vocabulary_file: VocabularyFile) -> None:
    leave_and_go_on(*foreign(vocabulary_file(SOURCE, runnable(target).name), 1))


@pytest.mark.soak
@every_target
@pytest.mark.parametrize("seed", range(100, 150))
def test_many_are_left_anywhere_and_end_the_same(
    seed: int, target: str, vocabulary_file: VocabularyFile
) -> None:
    leave_and_go_on(*foreign(vocabulary_file(SOURCE, runnable(target).name), seed))


def leave_and_go_on(programs: Programs, code: ForeignCode) -> None:
    """Run each program whole and in pieces."""
    lib = code.library
    who = ways(lib)
    plan = [(case, way, FOREVER) for case in programs.cases for way in who]
    plan += [
        (case, who[n % len(who)], at)
        for case in programs.cases
        for n, at in enumerate(programs.samples(case[3]))
    ]
    ends = [case[3] for case, _, _ in plan]
    areas = code.area_addresses([8 * MEMORY] * len(plan))
    calls = [
        Call(name, {**state, "mem": area}, depth=NESTED, interpret=way != COMPILED, threaded=way == THREADED)
        for ((name, state, _, _), way, _), area in zip(plan, areas, strict=True)
    ]
    outcome = code.run(
        calls, memory=[reference.pack_memory(lib, words, at) for (_, _, words, _), _, at in plan]
    )
    stops = [min(at, len(end.steps)) for (_, _, at), end in zip(plan, ends, strict=True)]
    for hop in range(1, HOPS + 1):
        check_stops(outcome, stops, ends)
        before = stops
        stops = [programs.next_stop(end, at, hop) for end, at in zip(ends, before, strict=True)]
        counted = [reference.unpack_memory(lib, data) for data in outcome.memory]
        memory = [
            reference.pack_memory(lib, words, to - at if to < len(end.steps) else FOREVER)
            for words, end, at, to in zip(counted, ends, before, stops, strict=True)
        ]
        threaded = len(who) == 3 and hop != 2
        outcome = code.resume(outcome, memory=memory, compiled=hop % 2 == 1, threaded=threaded)
    for result, data, end in zip(outcome.results, outcome.memory, ends, strict=True):
        check_end(result, reference.unpack_memory(lib, data), end)
    assert counted_by(code, outcome) == 3 * sum(end.counts for end in ends)


def check_stops(outcome: Outcome, stops: list[int], ends: list[End]) -> None:
    for result, at, end in zip(outcome.results, stops, ends, strict=True):
        if at < len(end.steps):
            check_left(result, end, at)
        else:
            assert result.kind == end.kind


def counted_by(code: ForeignCode, outcome: Outcome) -> int:
    """The sum of the cells: 5 in each to begin with."""
    return sum(cell["n"] - 5 for cell in outcome.cells.values())


@every_target
def test_the_call_depth_is_the_same_for_all(target: str, vocabulary_file: VocabularyFile) -> None:
    """One call too many traps in the frame that makes it; every frame around it is there."""
    _, code = foreign(vocabulary_file(SOURCE, runnable(target).name), 1)
    lib = code.library
    blank = reference.pack_memory(lib, [0] * (MEMORY - 1), FOREVER)
    who = ways(lib)
    depths = [depth for depth in (0, 1, 7, DEEP) for _ in who]
    areas = code.area_addresses([len(blank)] * len(depths))
    calls = [
        Call(
            "deep", {"acc": 77, "mem": area}, depth=depth, interpret=way != COMPILED, threaded=way == THREADED
        )
        for depth, area, way in zip(depths, areas, 4 * who, strict=True)
    ]
    outcome = code.run(calls, memory=[blank] * len(calls))
    (function,) = (f for f in code.program.functions if f.name == "deep")
    for depth, result, data in zip(depths, outcome.results, outcome.memory, strict=True):
        assert (result.kind, result.code, result.op) == ("trap", DEPTH, function.position)
        assert len(result.activations) == depth + 1
        assert {(a.op, a.state["acc"]) for a in result.activations} == {(function.position, 77)}
        assert reference.unpack_memory(lib, data)[0] == depth + 1


@every_target
def test_generated_code_goes_on_at_entries_only(target: str, vocabulary_file: VocabularyFile) -> None:
    lib = Library.load(vocabulary_file(SOURCE, runnable(target).name))
    asm = Assembler(lib)
    asm.function("main", frame=FRAME)
    asm.set(1)
    poll = asm.poll()
    asm.ret()
    code = ForeignCode(asm.close())
    (area,) = code.area_addresses([8 * MEMORY])
    outcome = code.run([Call("main", {"mem": area})], memory=[bytes(8 * MEMORY)])
    assert (outcome.results[0].kind, outcome.results[0].op) == ("exit", poll)
    with pytest.raises(LabelError, match="op 1 poll is no entry"):
        code.resume(outcome, compiled=True)
    again = code.resume(outcome)
    assert (again.results[0].kind, again.results[0].op) == ("exit", poll)
    done = code.resume(again, memory=[reference.pack_memory(lib, [0] * 8, 1)])
    assert (done.results[0].kind, done.results[0].value) == ("return", 1)


# ---- this machine, in this process


def test_left_anywhere_in_this_process(vocabulary_file: VocabularyFile) -> None:
    vocabulary = cnp.load(vocabulary_file(SOURCE, "host"))
    asm = vocabulary.assembler(helpers={"cnp_test_clobber": lambda x: reference.signed(x + 1, 64)})
    programs = Programs(asm, 2)
    code = asm.build()
    for name, state, words, end in programs.cases:
        for way in ways(vocabulary.library):
            memory = (ctypes.c_uint64 * MEMORY)(*words, FOREVER)
            check_end(begin(code, name, state, memory, way), list(memory)[:-1], end)
        for number, at in enumerate(programs.samples(end)):
            memory = (ctypes.c_uint64 * MEMORY)(*words, at)
            result = begin(code, name, state, memory, number % len(ways(vocabulary.library)))
            for hop in range(1, HOPS + 1):
                if result.returned or result.trapped:
                    break
                check_left(result, end, at)
                to = programs.next_stop(end, at, hop)
                memory[MEMORY - 1] = to - at if to < len(end.steps) else FOREVER
                result, at = go_on(code, result, hop), to
            check_end(result, list(memory)[:-1], end)


def begin(code: runtime.Code, name: str, state: State, memory: Any, way: int) -> Result:
    state = {**state, "mem": ctypes.addressof(memory)}
    if way == COMPILED:
        return code[name].run(state)
    return code.interpreter.run(name, state, threaded=way == THREADED)


def go_on(code: runtime.Code, result: Result, hop: int) -> Result:
    """In generated code where the run stands in the function that was entered, else and every second time interpreted."""
    if len(result.activations) == 1 and hop % 2 == 1:
        assert isinstance(result.frame, runtime.Frame)
        return code.enter(result.op, result.state, result.frame)
    return code.interpreter.resume(result, threaded=hop == HOPS and interpret.has_threads(code.library))
