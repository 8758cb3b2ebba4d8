"""The stack machine of examples/: that the contract holds for a vocabulary which is not the library's own."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

import cnp
from cnp.assembler import Assembler
from cnp.foreign import Call, ForeignCode
from cnp.library import Library
from tests.conftest import VocabularyFile
from tests.support import best_of, every_target, need, runnable

EXAMPLE = Path(__file__).parents[1] / "examples" / "stack_vm.py"
DEPTH, FUEL, INDIRECT, DIV_BY_ZERO, BAD_CONVERSION = 5, 6, 10, 2, 9

FIB = """
function fib n
    jump_if_local_less n 2 small
    call fib n-1
    call fib n-2
    add
    ret
small:
    ret_local n
"""

SUM = """
function sum n
    local i total
    push 0
    store i
    push 0
    store total
@loop:
    loop_head
    add_local i i 1
    load total
    load i
    add
    store total
    load i
    load n
    jump_if_less loop
    ret_local total
"""

DOWN = """
function down n
    jump_if_local_less n 1 bottom
    call down n-1
    push 1
    add
    ret
bottom:
    call work n
    ret
function work n
"""


def load_example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stack_vm", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["stack_vm"] = module
    spec.loader.exec_module(module)
    return module


example = load_example()


@pytest.fixture(autouse=True)
def cache(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests build into a cache of their own."""
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_folder))


@pytest.fixture
def machine() -> Any:
    return example.Machine()


def ending(result: cnp.Result) -> tuple[object, ...]:
    """How a run ended, and where each activation stands, with a field that calls do not keep."""
    chain = [(activation.op, activation.state["acc"]) for activation in result.activations]
    return result.kind, result.value, result.op, result.code, chain


def both(program: Any, name: str, *arguments: int) -> cnp.Result:
    """Run and interpret: they must end in the same way."""
    run: cnp.Result = program.run(name, *arguments)
    assert ending(run) == ending(program.interpret(name, *arguments))
    return run


# ---- loading


def test_a_built_file_beside_the_source_wins(
    tmp_path: Path, machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = machine.vocabulary.library
    source = tmp_path / "stack_vm.c"
    source.write_bytes(EXAMPLE.with_suffix(".c").read_bytes())
    monkeypatch.setenv("CNP_CLANG", str(tmp_path / "no-clang"))
    with pytest.raises(cnp.ToolError):
        cnp.load(source)
    beside = source.with_suffix(f".{library.target.name}.cnp")
    beside.write_bytes(Path(library.path).read_bytes())
    assert cnp.load(source).library.path == str(beside)


# ---- what it computes


def test_recursion(machine: Any) -> None:
    program = machine.assemble(FIB)
    assert both(program, "fib", 20).value == 6765
    assert program.callable("fib", "int64_t(int64_t)")(20) == 6765


def test_arguments_from_the_stack_and_what_lies_below_them(machine: Any) -> None:
    program = machine.assemble(
        """
        function main a b
            load a
            load b
            push 7
            call minus
            call minus
            ret
        function minus x y
            load x
            load y
            sub
            ret
        """
    )
    assert both(program, "main", 100, 30).value == 100 - (30 - 7)


def test_stack_words(machine: Any) -> None:
    program = machine.assemble(
        """
        function main a b
            load a
            load b
            swap
            dup
            drop
            div
            load a
            lt
            ret
        """
    )
    assert both(program, "main", 3, 8).value == 1  # 8 / 3 = 2 < 3
    assert both(program, "main", 0, 8).code == DIV_BY_ZERO


def test_jump_table(machine: Any) -> None:
    program = machine.assemble(
        """
        function main n
            load n
            jump_table a b a
        a:
            push 10
            ret
        b:
            push 20
            ret
        """
    )
    assert [both(program, "main", n).value for n in range(3)] == [10, 20, 10]
    assert both(program, "main", 3).code == INDIRECT


def test_floats(machine: Any) -> None:
    program = machine.assemble(
        """
        function main n
            load n
            to_float
            scale 2.5
            from_float
            ret
        """
    )
    assert both(program, "main", 5).value == 12
    assert both(program, "main", 1 << 62).code == BAD_CONVERSION


def test_trap_code_of_ones_own(machine: Any) -> None:
    result = both(machine.assemble("function main\n fail 77"), "main")
    assert (result.kind, result.code) == ("trap", 77)


def test_a_stack_that_does_not_add_up_is_refused(machine: Any) -> None:
    with pytest.raises(ValueError, match="add takes 2 values, the stack holds 1"):
        machine.assemble("function main\n push 1\n add\n ret")
    with pytest.raises(ValueError, match="the stack holds"):
        machine.assemble("function main\n@loop:\n loop_head\n push 1\n jump loop")


# ---- helpers


def test_helper_in_c() -> None:
    llabs = ctypes.CDLL(None).llabs
    program = example.Machine(vm_magnitude=llabs).assemble("function main n\n load n\n magnitude\n ret")
    assert both(program, "main", (1 << 64) - 41).value == 41


def test_helper_in_python(machine: Any) -> None:
    program = machine.assemble("function main n\n load n\n dup\n print\n ret")
    both(program, "main", 9)
    assert machine.printed == [9, 9]


def test_overflow_goes_to_the_slow_part() -> None:
    asked = []

    def saturate(_vm: int, operation: int, a: int, b: int) -> int:
        asked.append((operation, a, b))
        return 5

    program = example.Machine(vm_overflow=saturate).assemble(
        "function main n\n load n\n load n\n mul\n add_local n n 1\n load n\n add\n ret"
    )
    big = (1 << 63) - 1
    assert both(program, "main", big).value == 10
    assert asked == [(2, big, big), (0, big, 1)] * 2


def test_exception_of_a_helper_is_that_very_exception() -> None:
    errors = [LookupError("first"), LookupError("second"), LookupError("third")]
    waiting = errors.copy()

    def fails(value: int) -> int:
        if waiting:
            raise waiting.pop(0)
        return value

    program = example.Machine(vm_magnitude=fails).assemble(DOWN + "load n\n magnitude\n ret")
    native = program.callable("down", "int64_t(int64_t)")
    ways: list[Callable[[], object]] = [
        lambda: program.run("down", 5),
        lambda: program.interpret("down", 5),
        lambda: native(5),
    ]
    for way, error in zip(ways, errors, strict=True):
        with pytest.raises(LookupError) as raised:
            way()
        assert raised.value is error
    assert native(5) == 5  # the next run begins clean


def test_overflow_raises(machine: Any) -> None:
    program = machine.assemble("function main n\n load n\n load n\n mul\n ret")
    with pytest.raises(OverflowError, match=r"1099511627776 \* 1099511627776"):
        program.run("main", 1 << 40)


# ---- leaving and coming back


def test_exit_resume_and_enter_again(machine: Any) -> None:
    program = machine.assemble(SUM)
    machine.pending.value = 1
    out = both(program, "sum", 1000)
    assert out.exited
    assert program.code.program.ops[out.op].operation.name == "loop_head"
    out = program.run("sum", 1000)
    machine.pending.value = 0
    assert program.code.interpreter.resume(out).value == 500500
    out.frame[0] = 1000
    machine.pending.value = 1
    out = program.run("sum", 1000)
    machine.pending.value = 0
    again = program.code.enter(program.labels["sum.loop"], out.state, out.frame)
    assert again.value == 500500


def test_osr_from_the_interpreter_in_the_middle(machine: Any) -> None:
    program = machine.assemble(SUM)
    out = program.interpret("sum", 1000, fuel=400)
    assert (out.kind, out.code) == ("trap", FUEL)
    done = out.frame[8]
    assert 0 < done < 1000
    assert program.code.enter(program.labels["sum.loop"], out.state, out.frame).value == 500500


def test_exit_through_nested_calls_is_resumed(machine: Any) -> None:
    program = machine.assemble(DOWN + "loop_head\n load n\n push 100\n add\n ret")
    assert both(program, "down", 6).value == 106
    machine.pending.value = 1
    out = both(program, "down", 6)
    assert out.exited
    assert len(out.activations) == 8
    assert [a.state["acc"] for a in out.activations] == [0.0] * 8
    out = program.run("down", 6)
    machine.pending.value = 0
    assert program.code.interpreter.resume(out).value == 106


def test_only_marked_labels_are_entries(machine: Any) -> None:
    program = machine.assemble(FIB)
    with pytest.raises(cnp.LabelError):
        program.code.enter(program.labels["fib.small"])


# ---- limits


def test_depth_limit(machine: Any) -> None:
    program = machine.assemble(DOWN + "push 0\n ret")
    assert program.run("down", 10, depth=11).value == 10
    out = program.run("down", 10, depth=10)
    assert (out.kind, out.code, len(out.activations)) == ("trap", DEPTH, 11)
    with pytest.raises(cnp.TrapError) as raised:
        program.callable("down", "int64_t(int64_t)", depth=10)(10)
    assert (raised.value.code, raised.value.op) == (DEPTH, "call")


def test_fuel(machine: Any) -> None:
    program = machine.assemble(
        "function main\n local i\n push 0\n store i\n@loop:\n loop_head\n add_local i i 1\n jump loop"
    )
    for fuel in (0, 1, 255, 256, 257, 10_000):
        out = program.run("main", fuel=fuel)
        assert (out.kind, out.code, out.frame[0]) == ("trap", FUEL, fuel)
        assert program.interpret("main", fuel=fuel).frame[0] == fuel


ENDLESS = """
import sys, threading, time
sys.path.insert(0, sys.argv[1])
import stack_vm
program = stack_vm.Machine().assemble("function main\\n@loop:\\n loop_head\\n jump loop")
call = program.callable("main", "int64_t()") if sys.argv[2] == "callable" else lambda: program.run("main")
print("go", flush=True)
try:
    call()
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def seconds_to_stop(way: str) -> float:
    """From Ctrl-C to the KeyboardInterrupt of a process in an endless loop."""
    command = [sys.executable, "-c", ENDLESS, str(EXAMPLE.parent), way]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "go\n"
            time.sleep(0.1)
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            assert child.stdout.readline() == "stopped\n"
            took = time.monotonic() - sent
            assert child.wait(10) == 0
            return took
        finally:
            child.kill()


@pytest.mark.parametrize("way", ["run", "callable"])
def test_ctrl_c_in_an_endless_loop(way: str) -> None:
    assert best_of(lambda: seconds_to_stop(way), below=0.05) < 0.05


# ---- cells and threads


def test_inline_cache(machine: Any) -> None:
    program = machine.assemble("function main object\n load object\n attribute 7\n ret")
    call = program.callable("main", "int64_t(void *)")
    first = machine.objects.make(1, {3: 30, 7: 70})
    other = machine.objects.make(2, {7: 71})
    here, there = ctypes.addressof(first), ctypes.addressof(other)
    assert [call(here), call(here), machine.objects.misses] == [70, 70, 1]
    assert [call(there), call(there), machine.objects.misses] == [71, 71, 2]
    (op,) = program.code.image.cells
    assert program.code.cells[op].cache == 2 | 1 << 48
    program.code.cells[op].cache = 1 | 2 << 48
    assert [call(here), machine.objects.misses] == [70, 2]
    missing = machine.objects.make(3, {1: 1})
    with pytest.raises(AttributeError, match="shape 3 has no attribute 7"):
        call(ctypes.addressof(missing))


WAIT = """
function main
@loop:
    loop_head
    load_cell flag
    jump_if done
    jump loop
done:
    load_cell answer
    ret
"""


def cell_ops(program: Any) -> list[int]:
    return sorted(program.code.image.cells)


def test_cells_change_while_the_code_runs(machine: Any) -> None:
    program = machine.assemble(WAIT)
    flag, answer = cell_ops(program)

    def change() -> None:
        time.sleep(0.05)
        program.code.cells[answer].x = 42
        program.code.cells[flag].x = 1

    other = threading.Thread(target=change)
    other.start()
    result = program.run("main")
    other.join()
    assert result.value == 42


def test_two_threads_in_the_same_code(machine: Any) -> None:
    program = machine.assemble(FIB + WAIT)
    flag, answer = cell_ops(program)
    results: list[object] = []
    runs = [threading.Thread(target=lambda: results.append(program.run("main").value)) for _ in range(2)]
    for thread in runs:
        thread.start()
    assert [program.run("fib", n).value for n in (10, 15, 20)] == [55, 610, 6765]
    assert results == []
    program.code.cells[answer].x = 5
    program.code.cells[flag].x = 1
    for thread in runs:
        thread.join(10)
    assert results == [5, 5]


# ---- lifetime


def test_code_dies_with_its_last_user(machine: Any) -> None:
    program = machine.assemble(FIB)
    code = weakref.ref(program.code)
    call = program.callable("fib", "int64_t(int64_t)")
    del program
    gc.collect()
    assert code() is not None
    assert call(15) == 610
    del call
    gc.collect()
    assert code() is None


# ---- all targets


@every_target
def test_every_target(target: str, vocabulary_file: VocabularyFile) -> None:
    """Recursion, exits and the depth limit under qemu: generated code and interpreter say the same."""
    runnable(target)
    library = Library.load(vocabulary_file(EXAMPLE.with_suffix(".c"), target))
    unit = example.Unit(
        Assembler(library), FIB + SUM + DOWN + "loop_head\n load n\n push 100\n add\n ret"
    ).assemble()
    helpers = ("vm_overflow", "vm_attribute", "vm_print", "vm_magnitude")
    code = ForeignCode(unit.asm.close(), dict.fromkeys(helpers, 8))
    order: Literal["big", "little"] = "big" if library.target.byteorder == "big" else "little"
    runs, leaves = code.area_addresses([8, 8])

    def call(name: str, argument: int, vm: int, depth: int = 50) -> list[Call]:
        slots = argument.to_bytes(8, order)
        return [Call(name, {"vm": vm, "acc": 1.5}, slots, depth, interpret=way) for way in (False, True)]

    calls = [*call("fib", 15, runs), *call("sum", 99, runs), *call("down", 6, runs), *call("down", 6, leaves)]
    calls += call("down", 6, runs, depth=5)
    results = code.run(calls, memory=[bytes(8), (1).to_bytes(8, order)]).results
    for native, interpreted in zip(results[::2], results[1::2], strict=True):
        assert ending(native) == ending(interpreted)
    assert [result.value for result in results[::2]] == [610, 4950, 106, None, None]
    assert [result.kind for result in results[::2]] == ["return"] * 3 + ["exit", "trap"]
    assert [len(result.activations) for result in results[::2]] == [0, 0, 0, 8, 6]
    assert results[8].code == DEPTH
