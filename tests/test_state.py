"""The state: as much of it as the target says stays in registers, and all of it survives everything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cnp import slot, targets
from cnp.assembler import Assembler
from cnp.foreign import Call, ForeignCode
from cnp.library import Library
from tests.support import every_target, runnable

MORE = 3  #: words beyond what the target holds, which then have homes in the frame


def source(ints: int, floats: int) -> str:
    """A vocabulary with so many words of state."""
    words = [f"X(i64, i{number})" for number in range(ints)] + [
        f"X(f64, f{number})" for number in range(floats)
    ]
    return f"""#define CNP_STATE(X) {" ".join(words)}
#define CNP_RESULT i0
#include <cnp.h>
extern i64 cnp_test_clobber(i64);
CNP_OP(pass) {{ return NEXT; }}
CNP_OP(bump) {{ s->i0 += 1; s->f0 += 0.5; return NEXT; }}
CNP_OP(help) {{ s->i0 = cnp_test_clobber(s->i0); return NEXT; }}
CNP_OP(call, func(f), slot(char, base)) {{ s->i1 = (i64)CNP_CALL(f, base); return NEXT; }}
CNP_OP(leave) {{ return EXIT; }}
CNP_OP(ret) {{ return RETURN; }}
"""


@every_target
def test_full_state_costs_nothing(
    target: str, tmp_path: Path, vocabulary_file: Callable[[Path, str], Path]
) -> None:
    """An operation that does nothing is its jump to the next one and no more, though every register is in use."""
    machine = targets.get(target)
    file = tmp_path / "full.c"
    file.write_text(source(machine.ints, machine.floats))
    stencil = Library.load(vocabulary_file(file, target))["pass"].forms[0].near
    assert [len(block.code) - block.tail for block in stencil.blocks] == [0]
    assert stencil.stack == 0


@every_target
def test_state_survives(target: str, tmp_path: Path, vocabulary_file: Callable[[Path, str], Path]) -> None:
    """In, through operations, helpers and native calls, out: in registers and in homes, compiled and interpreted."""
    machine = runnable(target)
    file = tmp_path / "more.c"
    ints, floats = machine.ints + MORE, machine.floats + MORE
    file.write_text(source(ints, floats))
    asm = Assembler(Library.load(vocabulary_file(file, target)))
    callee = asm.declare("callee", frame=16)
    asm.function("main", frame=16)
    for name in ("pass", "bump", "help", "pass"):
        asm.op(name)
    asm.op("call", callee, slot(16))
    asm.op("bump")
    asm.op("leave")
    asm.begin(callee)
    asm.op("help")
    asm.op("ret")
    given: dict[str, int | float] = {f"i{n}": (n + 1) * 0x0101_0101_0101 * (-1) ** n for n in range(ints)}
    given |= {f"f{n}": 1.25 * (n + 1) * (-1) ** n for n in range(floats)}
    results = ForeignCode(asm.program).run([Call("main", given), Call("main", given, interpret=True)]).results
    expected = {**given, "i0": int(given["i0"]) + 3, "f0": given["f0"] + 1.0, "i1": int(given["i0"]) + 3}
    for result in results:
        assert (result.kind, result.op) == ("exit", 6)
        assert result.state == expected
