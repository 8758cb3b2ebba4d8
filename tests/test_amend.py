"""Patching finished code that nobody runs: what it does then, and each reason for which it is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

import cnp
from cnp import LabelError, OperandError, StateError, Symbol, r, slot

pytestmark = pytest.mark.parametrize("scheme", ["dual", "flip"])


@pytest.fixture(autouse=True)
def memory(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code memory of the scheme, for this test alone."""
    monkeypatch.setenv("CNP_MEMORY", scheme)
    monkeypatch.setattr("cnp.memory._default", None)


def counter(helper: Callable[[], int] | None = None) -> cnp.Code:
    """Returns slot 8 + 5, by way of a literal, a jump and a poll."""
    asm = cnp.load("ops").assembler()
    asm.function("f", frame=24)
    asm.i64_add(slot(8), slot(8), 5)
    asm.poll()
    asm.jump(asm["end"])
    asm.bind("other")
    asm.i64_move(slot(8), 0x123456789ABCDEF)
    asm.bind("end")
    asm.ret(slot(8))
    return asm.build()


def values(code: cnp.Code) -> list[object]:
    return [code["f"].run().value, code.interpreter.run("f").value]


def test_operands_of_any_kind(scheme: str) -> None:
    code = counter()
    assert values(code) == [5, 5]
    code.patch(0, "b", 7)
    assert values(code) == [7, 7]
    code.patch(2, "to", code.program.named["other"])
    code.patch(3, "a", 0x0FEDCBA987654321)
    assert values(code) == [0x0FEDCBA987654321] * 2
    code.patch(2, "to", 4)
    code.patch(0, "d", slot(16))
    code.patch(4, "a", slot(16))
    assert values(code) == [7, 7]
    assert next(line.operands for line in code.listing() if line.op == 0) == "slot(16), slot(8), 7"


def test_what_the_form_does_not_take(scheme: str) -> None:
    code = counter()
    wrong = [("b", 1 << 40), ("b", slot(16)), ("d", 5), ("nothing", 5), ("b", True), ("a", r[1])]
    for operand, value in wrong:
        with pytest.raises(OperandError) as caught:
            code.patch(0, operand, value)
        assert (caught.value.operand, caught.value.value) == (operand, value)
    with pytest.raises(OperandError):
        code.patch(0, "d", slot(24))
    with pytest.raises(OperandError, match="another program"):
        code.patch(2, "to", cnp.load("ops").assembler()["theirs"])
    for position in (-1, 5):
        with pytest.raises(LabelError):
            code.patch(position, "b", 5)
    with pytest.raises(LabelError):
        code.patch(2, "to", 99)
    assert values(code) == [5, 5]


def test_what_would_move_other_code(scheme: str) -> None:
    asm = cnp.load("ops").assembler(symbols={"x": 64, "y": 128})
    asm.function("f", frame=16)
    cell = asm.cell(5)
    asm.i64_move(slot(0), cell)
    asm.ret(slot(0))
    code = asm.build()
    with pytest.raises(StateError) as caught:
        code.patch(0, "a", cnp.Cell(7))
    assert caught.value.state == "layout"
    with pytest.raises(cnp.SymbolError):
        code.patch(0, "a", Symbol("y"))
    assert code["f"].run().value == code.address(cell)


def test_what_was_composed(scheme: str) -> None:
    asm = cnp.load("ops").assembler()
    asm.function("f", frame=16)
    asm.i64_rotl(r[1], r[2], 70000)
    asm.ret(r[1])
    code = asm.build()
    for operand in ("a", "b"):  # the last is none of the move that stands there
        with pytest.raises(StateError) as caught:
            code.patch(0, operand, slot(0))
        assert caught.value.state == "composed"


def test_code_that_may_be_running(scheme: str) -> None:
    called = counter()
    called["f"].callable("int64_t(int64_t)")
    taken = counter()
    cnp.load("ops").assembler(symbols=taken)
    asm = cnp.load("ops").assembler(symbols=taken)
    asm.function("g", frame=16)
    asm.i64_move(slot(0), Symbol("end"))
    asm.ret(slot(0))
    asm.build()
    for code, reason in ((called, "callable"), (taken, "other code")):
        with pytest.raises(StateError, match=reason) as caught:
            code.patch(0, "b", 7)
        assert caught.value.state == "busy"
        assert values(code) == [5, 5]


def test_while_it_runs(scheme: str) -> None:
    """A loop in another thread, which a poll ends once its fuel is gone."""
    asm = cnp.load("ops").assembler()
    asm.function("f", frame=16)
    asm.bind("loop")
    asm.poll()
    asm.i64_add(slot(0), slot(0), 1)
    asm.br_i64_ne(slot(8), 1, asm["loop"])
    asm.ret(slot(8))
    code = asm.build()
    frame = cnp.load("ops").frame(16)
    thread = threading.Thread(target=lambda: code["f"].run(frame=frame))
    thread.start()
    try:
        while frame[0] == 0:
            pass
        with pytest.raises(StateError, match="under way"):
            code.patch(2, "b", 2)
    finally:
        frame[8] = 1
        thread.join()
    code.patch(2, "b", 0)
    assert code["f"].run().value == 0


def test_after_a_fork(scheme: str) -> None:
    """Children share the pages of one scheme; what they may run stays as it is."""
    code = counter()
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    if scheme == "dual":
        with pytest.raises(StateError) as caught:
            code.patch(0, "b", 7)
        assert caught.value.state == "forked"
        assert values(code) == [5, 5]
    else:
        code.patch(0, "b", 7)
        assert values(code) == [7, 7]


def test_two_of_one_program(scheme: str) -> None:
    """The program is both's: one that was patched would no longer be what the other one runs."""
    asm = cnp.load("ops").assembler()
    asm.function("f", frame=8)
    asm.i64_move(r[0], 1000)
    asm.ret(r[0])
    one = asm.build()
    one.patch(0, "a", 2000)
    other = asm.build()
    for code in (one, other):
        with pytest.raises(StateError) as caught:
            code.patch(0, "a", 3000)
        assert caught.value.state == "shared"
        assert values(code) == [2000, 2000]
