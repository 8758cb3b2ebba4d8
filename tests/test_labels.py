"""Labels by name, by number, at addresses, with offsets: what they stand for when the program runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import cnp
from cnp import LabelError, OperandError, StateError, Symbol, slot
from cnp.foreign import Call, ForeignCode
from cnp.runtime import installed
from tests.support import every_target, runnable


@pytest.fixture
def asm() -> cnp.Assembler:
    """A program with a function of four slots."""
    asm = cnp.load("ops").assembler()
    asm.function("f", frame=32)
    return asm


@every_target
def test_all_kinds_of_labels_run(target: str) -> None:
    """A sum of 1 … 10 by numbered labels that are bound twice, left through a global label, its code in the cold."""
    asm = cnp.load(installed("ops", runnable(target).name)).assembler()
    asm.function("f", frame=32)
    for end in (5, 10):
        asm.local(1)
        asm.br_i64_eq(slot(0), end, asm.forward(2))
        asm.i64_add(slot(0), slot(0), 1)
        asm.i64_add(slot(8), slot(8), slot(0))
        asm.jump(asm.backward(1))
        asm.local(2)
    asm.br_i64_eq(slot(0), 10, asm["done"])
    asm.trap(99)
    with asm.cold():
        asm.align(32)
        asm.bind("done")
        asm.i64_add(slot(8), slot(8), 1000)
    asm.align(16)
    asm.ret(slot(8))
    code = ForeignCode(asm.close())
    results = code.run([Call("f"), Call("f", interpret=True)]).results
    assert [result.value for result in results] == [1055, 1055]
    offsets = code.image.offsets
    assert code.image.symbols["done"] % 32 == 0
    assert (code.image.base + offsets[-1]) % 16 == 0
    assert offsets[-1] < offsets[-2], "the cold lies behind what is hot"


def test_global_labels(asm: cnp.Assembler) -> None:
    asm.jump(asm["end"])
    asm.trap(99)
    assert asm.bind("end") is asm["end"]
    asm.ret(slot(0))
    assert asm["f"] is asm.program.functions[0]
    with pytest.raises(LabelError, match="bound already"):
        asm.bind("end")
    for taken in ("end", "f"):
        with pytest.raises(LabelError, match="exists already"):
            asm.function(taken, 8)
        with pytest.raises(LabelError, match="exists already"):
            asm.export(taken, asm["end"])
    asm.export("exit", asm["end"] + 0)
    code = asm.build()
    assert code.symbols == {"f": code.address(0), "end": code.address(2), "exit": code.address(2)}
    assert list(code) == ["f"]


def test_local_labels_that_are_missing(asm: cnp.Assembler) -> None:
    with pytest.raises(LabelError, match="no local label 7") as caught:
        asm.backward(7)
    assert caught.value.label == "7"
    asm.jump(asm.forward(3))
    with pytest.raises(LabelError, match="never bound"):
        asm.check()
    asm.local(3)
    asm.ret(slot(0))
    asm.check()


def test_steps_have_local_labels_of_their_own(asm: cnp.Assembler) -> None:
    outer = asm.local(1)
    with asm.step():
        with pytest.raises(LabelError):
            asm.backward(1)
        inner = asm.local(1)
        assert asm.backward(1) is inner
    assert asm.backward(1) is outer
    with pytest.raises(LabelError, match="local label") as caught, asm.step():
        asm.jump_table(slot(0), 2, asm.table(asm.forward(2), asm.forward(4)))
    assert caught.value.label == "2, 4"


def test_labels_at_an_address(asm: cnp.Assembler) -> None:
    """One program goes on in the code of another."""
    asm.i64_add(slot(0), slot(0), 2)
    asm.ret(slot(0))
    there = asm.build()
    asm.reset()
    asm.function("g", frame=32)
    asm.i64_move(slot(0), 40)
    asm.jump(asm.bind("there", address=there.address(0)))
    asm.jump(asm.bind(asm.label(), address=there.address(0)))
    code = asm.build()
    assert code["g"].run().value == 42
    assert code.symbols["there"] == there.address(0)
    with pytest.raises(StateError, match="only generated code"):
        code.interpreter.run("g")
    with pytest.raises(OperandError):
        cnp.load("ops").assembler().bind("far", address=1 << 64)


def test_far_addresses_take_veneers(asm: cnp.Assembler) -> None:
    for place in range(3):
        asm.jump(asm.bind(f"there{place}", address=0x7000_0000_0000 + 64 * place))
    for base in (0, 0x7000_0000_0000 - (1 << 20)):
        assert len(asm.encode(base).code) <= asm.link().code


@pytest.mark.parametrize("value", [lambda asm: asm["f"] + 4, lambda asm: Symbol("x") - 8])
def test_offsets_are_addresses(asm: cnp.Assembler, value: Callable[[cnp.Assembler], cnp.Offset]) -> None:
    place = value(asm)
    asm.i64_move(slot(0), place + 1 - 1)
    asm.ret(slot(0))
    asm.helpers["x"] = 0x1234_5678_9ABC
    code = asm.build()
    expected = code.address(0) + 4 if place.place is asm["f"] else 0x1234_5678_9ABC - 8
    assert code["f"].run().value == code.interpreter.run("f").value == expected


def test_offsets_are_no_places_to_go_to(asm: cnp.Assembler) -> None:
    with pytest.raises(OperandError):
        asm.jump(asm["f"] + 4)
    with pytest.raises(LabelError, match="another program"):
        asm.i64_move(slot(0), cnp.load("ops").assembler()["theirs"] + 4)
    asm.i64_move(slot(0), asm["nowhere"] + 4)
    asm.ret(slot(0))
    with pytest.raises(LabelError, match="nowhere"):
        asm.check()


def test_tables_of_positions(asm: cnp.Assembler) -> None:
    """A position stands for its operation, also after edits."""
    asm.jump_table(slot(0), 2, asm.table(1, 3))
    asm.i64_move(slot(8), 10)
    asm.ret(slot(8))
    asm.i64_move(slot(8), 20)
    asm.ret(slot(8))
    asm.ops.insert(0, "i64_move", slot(16), 1)
    main = asm.build()["f"].callable("int64_t(int64_t)")
    assert [main(0), main(1)] == [10, 20]


@pytest.mark.parametrize("value", [None, "end", 1.5, slot(8), cnp.Symbol("x")], ids=repr)
def test_what_is_no_label(asm: cnp.Assembler, value: object) -> None:
    """It is refused where it is given, and nothing is changed."""
    calls: list[Callable[[], object]] = [
        lambda: asm.table(value),  # type: ignore[arg-type]
        lambda: asm.begin(value),  # type: ignore[arg-type]
        lambda: asm.begin(asm.label()),  # type: ignore[arg-type]
        lambda: asm.bind(asm.data.label()),  # type: ignore[arg-type]
        lambda: asm.data.bind(value),  # type: ignore[arg-type]
        lambda: asm.data.bind(asm.label()),  # type: ignore[arg-type]
    ]
    if not isinstance(value, str):
        calls.append(lambda: asm.bind(value))  # type: ignore[arg-type]
    for call in calls:
        with pytest.raises(OperandError):
            call()
    asm.ret(slot(0))
    assert list(asm.build()) == ["f"]
