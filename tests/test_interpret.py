"""CNP_INTERPRET: which interpreters come with the stencils, and `vm.interpret`, which runs a program by one of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

import cnp
from cnp import interpret, slot
from cnp.assembler import Assembler
from cnp.foreign import Call, ForeignCode
from tests.support import every_target, need, runnable

SOURCE = """#define CNP_STATE(X) X(i64, total) X(u64, turns)
#define CNP_RESULT total
{says}
#include <cnp.h>
CNP_OP(add, slot(i64, x)) {{ s->total += *x; s->turns++; return NEXT; }}
CNP_OP(jump_if, slot(i64, x), label(target)) {{ *x -= 1; return *x ? JUMP(target) : NEXT; }}
CNP_OP(leave) {{ return EXIT; }}
CNP_OP(ret) {{ return RETURN; }}
"""
SAYS = {
    "": 2,
    "#define CNP_INTERPRET threaded": 2,
    "#define CNP_INTERPRET switch": 1,
    "#define CNP_INTERPRET none": 0,
}


@pytest.fixture(autouse=True)
def _cache(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_folder))


def vocabulary(says: str = "", target: str = "host") -> cnp.Vocabulary:
    return cnp.compile(SOURCE.format(says=says), target)


def triangle(asm: Assembler) -> None:
    """n + … + 1 by a loop, an exit behind it."""
    asm.function("main", frame=8)
    loop = asm.here("loop")
    asm.add(slot(0))
    asm.jump_if(slot(0), loop)
    asm.leave()
    asm.ret()


@every_target
@pytest.mark.parametrize("says", SAYS, ids=lambda says: says.rpartition(" ")[2] or "nothing")
def test_the_source_says_which_interpreters_there_are(target: str, says: str) -> None:
    vm = vocabulary(says, runnable(target).name)
    threads = interpret.has_threads(vocabulary("", target).library)
    found = [name in vm.library.routine_names for name in (interpret.SWITCH, interpret.THREADED)]
    assert found == [SAYS[says] > 0, SAYS[says] > 1 and threads]
    asm = vm.assembler()
    triangle(asm)
    code = ForeignCode(asm.close())
    order = vm.target.byteorder
    ways = [(False, False), (True, False), (True, True)][: 1 + sum(found)]
    calls = [Call("main", slots=(10).to_bytes(8, order), interpret=i, threaded=t) for i, t in ways]  # type: ignore[arg-type]
    for result in code.run(calls).results:
        assert (result.kind, result.op, result.state) == ("exit", 2, {"total": 55, "turns": 10})
    if not found[0]:
        with pytest.raises(cnp.StateError, match="CNP_INTERPRET none"):
            code.run([Call("main", interpret=True)])


def test_a_vocabulary_interprets(tmp_path: Path) -> None:
    vm = vocabulary()
    asm = vm.assembler()
    triangle(asm)
    code = asm.build()
    for program in (code, asm):
        for threaded in (None, False, *([True] if interpret.has_threads(vm.library) else [])):
            frame = vm.frame(8)
            frame[0] = 4
            result = vm.interpret(program, "main", {"total": 100}, frame, threaded=threaded)
            assert (result.kind, result.state["total"]) == ("exit", 110)
    frame[0] = 3
    result = vm.interpret(code, asm.program.labels[0], None, frame)
    assert result.state["total"] == 6
    assert vm.interpret(code, 3, {"total": 7}).value == 7


def test_the_threaded_one_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def routine(library: cnp.Library, routines: dict[str, int], threaded: bool) -> int:
        asked.append(threaded)
        return routines[interpret.SWITCH]

    monkeypatch.setattr(interpret, "routine", routine)
    for says in ("", "#define CNP_INTERPRET switch"):
        vm = vocabulary(says)
        asm = vm.assembler()
        triangle(asm)
        vm.interpret(asm, 3)
    assert asked == [interpret.has_threads(vocabulary().library), False]


def test_without_an_interpreter_there_is_generated_code_all_the_same() -> None:
    vm = vocabulary("#define CNP_INTERPRET none")
    asm = vm.assembler()
    triangle(asm)
    code = asm.build()
    frame = vm.frame(8)
    frame[0] = 10
    result = code["main"].run(frame=frame)
    assert result.state["total"] == 55
    calls: list[Callable[[], object]] = [
        lambda: vm.interpret(code, "main"),
        lambda: code.interpreter.run("main"),
        lambda: code.interpreter.resume(result),
    ]
    for call in calls:
        with pytest.raises(cnp.StateError, match="CNP_INTERPRET none") as caught:
            call()
        assert caught.value.state == "interpreter"


def test_a_threaded_one_that_the_source_does_not_want() -> None:
    vm = vocabulary("#define CNP_INTERPRET switch")
    asm = vm.assembler()
    triangle(asm)
    with pytest.raises(cnp.StateError, match="does not want one"):
        vm.interpret(asm, "main", threaded=True)


def test_another_word_is_refused() -> None:
    with pytest.raises(cnp.BuildError, match="CNP_INTERPRET is fast; it is one of threaded, switch, none"):
        vocabulary("#define CNP_INTERPRET fast")


def test_a_file_without_an_interpreter_is_smaller() -> None:
    sizes = [len(Path(vocabulary(says).library.path).read_bytes()) for says in SAYS]
    assert sizes[0] == sizes[1] > sizes[2] > sizes[3]
