"""The program under construction: which operands, labels and functions are taken, and how the rest is refused."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import cnp
from cnp import LabelError, OperandError, StateError, Symbol, SymbolError, f, r, slot
from cnp.assembler import Label, Slot
from cnp.runtime import installed
from tests.support import every_target

H = cnp.load("ops").library.header_size


@pytest.fixture
def asm() -> cnp.Assembler:
    """A program with a function of two slots."""
    asm = cnp.load("ops").assembler()
    asm.function("f", frame=16)
    return asm


# ---- operands


def test_a_program_goes_as_soon_as_nobody_has_it(asm: cnp.Assembler) -> None:
    """Labels and functions do not keep it; its memory is there for the next one."""
    function, again, data = asm["f"], asm.here("again"), asm.data.here()
    position = asm.i64_add(slot(0), slot(0), slot(8))
    asm.br_i64_lt_s(slot(0), slot(8), position)
    asm.jump(again)
    program = weakref.ref(asm.program)
    gc.disable()
    try:
        asm.close()
        asm.reset()
        assert program() is None
    finally:
        gc.enable()
    asm.function("f", frame=16)
    for place in (function, again, data):
        with pytest.raises(LabelError):
            asm.export("place", place)


def test_operations_are_methods_that_return_positions(asm: cnp.Assembler) -> None:
    assert asm.i64_move(slot(0), 1) == 0
    assert asm.op("ret", slot(0), at=("prog.lang", 7)) == 1
    assert asm.program.ops[1].at == ("prog.lang", 7)


@pytest.mark.parametrize(
    "at", ["prog", ("prog",), ("prog", 1, 2), (1, 2), ("prog", "7"), ("prog", 1.5), 5], ids=repr
)
def test_what_is_no_source_position(asm: cnp.Assembler, at: Any) -> None:
    """It is refused when it is given, not when a listing or a file is made of it."""
    asm.ret(slot(0), at=["prog.lang", 7])
    calls: list[Callable[[], object]] = [
        lambda: asm.ret(slot(8), at=at),
        lambda: asm.op("ret", slot(8), at=at),
        lambda: asm.ops.insert(0, "i64_neg", slot(0), slot(0), at=at),
    ]
    for call in calls:
        with pytest.raises(OperandError) as caught:
            call()
        assert (caught.value.operand, caught.value.value) == ("at", at)
    assert [op.at for op in asm.ops] == [("prog.lang", 7)]


def test_unknown_operations(asm: cnp.Assembler) -> None:
    with pytest.raises(AttributeError, match="i64_mov"):
        asm.i64_mov(slot(0), 1)
    with pytest.raises(OperandError, match="i64_mov") as caught:
        asm.op("i64_mov")
    assert caught.value.op == "i64_mov"


def test_too_few_and_too_many_operands(asm: cnp.Assembler) -> None:
    for operands in ((), (slot(0),), (slot(0), 1, 2)):
        with pytest.raises(OperandError, match="takes 2 operands") as caught:
            asm.i64_move(*operands)
        assert (caught.value.op, caught.value.value) == ("i64_move", operands)


@pytest.mark.parametrize(
    ("name", "operands", "wrong"),
    [
        ("i64_add", (slot(0), slot(8), 1.0), "b"),
        ("i64_add", (slot(0), slot(8), True), "b"),
        ("i64_add", (slot(0), slot(8), None), "b"),
        ("i64_add", (5, slot(8), 1), "d"),
        ("i64_move", (slot(0), 1 << 64), "a"),
        ("i64_move", (slot(0), -(1 << 63) - 1), "a"),
        ("i32_move", (slot(0), 1 << 32), "a"),
        ("f32_move", (slot(0), 1e39), "a"),
        ("f64_move", (slot(0), 10**400), "a"),
        ("jump", ("loop",), "to"),
        ("jump", (True,), "to"),
        ("jump_table", (slot(0), 1, 5), "to"),
        ("call", (5, slot(8), slot(0)), "f"),
    ],
)
def test_operands_that_no_form_takes(
    asm: cnp.Assembler, name: str, operands: tuple[object, ...], wrong: str
) -> None:
    with pytest.raises(OperandError) as caught:
        asm.op(name, *operands)
    error = caught.value
    assert (error.op, error.operand) == (name, wrong)
    assert error.value in operands and error.allowed
    assert not asm.program.ops


@pytest.mark.parametrize(
    "value", [0, 1, -1, 127, -128, 1 << 31, -(1 << 31), 1 << 63, -(1 << 63), (1 << 64) - 1]
)
def test_any_value_finds_a_form(asm: cnp.Assembler, value: int) -> None:
    asm.i64_move(slot(0), value)
    asm.ret(slot(0))
    code = asm.build()
    assert code["f"].run().value == code.interpreter.run("f").value == value & (1 << 64) - 1


@pytest.mark.parametrize("offset", [-8, 9, 15, 16, 24, 1 << 31, 1 << 64])
def test_slots_lie_within_the_frame(asm: cnp.Assembler, offset: int) -> None:
    with pytest.raises(OperandError) as caught:
        asm.i64_move(slot(offset), 1)
    assert caught.value.value in (offset, Slot(offset))


def test_a_callee_begins_within_the_frame_or_at_its_end(asm: cnp.Assembler) -> None:
    function = asm.program.functions[0]
    asm.call(function, slot(16), slot(0))
    for base, result in ((24, 0), (16, 1 << 20)):
        with pytest.raises(OperandError, match="the frame has 16 bytes") as caught:
            asm.call(function, slot(base), slot(result))
        assert caught.value.allowed == (0, 16)


def test_offsets_are_whole_numbers() -> None:
    with pytest.raises(TypeError):
        slot(8.0)


def test_a_frame_is_a_multiple_of_eight_bytes() -> None:
    asm = cnp.load("ops").assembler()
    wrong: list[Any] = [-8, 4, 12, 8.0, "8", None, 1 << 80]
    for size in wrong:
        with pytest.raises(OperandError) as caught:
            asm.function("f", size)
        assert (caught.value.operand, caught.value.value) == ("frame", size)
    asm.function("f", 1 << 40)  # more than records say
    asm.ret(slot((1 << 31) - 8))
    asm.check()


def test_operations_stand_in_functions() -> None:
    asm = cnp.load("ops").assembler()
    with pytest.raises(StateError, match="function first"):
        asm.leave()


# ---- labels and functions


def test_an_unbound_label(asm: cnp.Assembler) -> None:
    asm.jump(asm.label("nowhere"))
    with pytest.raises(LabelError, match="nowhere") as caught:
        asm.build()
    assert (caught.value.label, caught.value.index) == ("nowhere", 0)


def test_a_label_bound_at_the_end(asm: cnp.Assembler) -> None:
    end = asm.label("end")
    asm.jump(end)
    asm.bind(end)
    with pytest.raises(LabelError, match="bound to no operation"):
        asm.encode(0)
    asm.ret(slot(0))
    assert asm.encode(0).code


@pytest.mark.parametrize("position", [-1, 2, 1000])
def test_positions_that_are_none(asm: cnp.Assembler, position: int) -> None:
    asm.jump(position)
    asm.ret(slot(0))
    with pytest.raises(LabelError):
        asm.build()


def test_a_position_is_a_label(asm: cnp.Assembler) -> None:
    asm.jump(2)
    asm.trap(99)
    asm.i64_move(slot(0), 5)
    asm.ret(slot(0))
    assert asm.build()["f"].run().value == 5


def test_a_label_is_bound_once(asm: cnp.Assembler) -> None:
    label = asm.here("twice")
    with pytest.raises(LabelError, match="bound already") as caught:
        asm.bind(label)
    assert caught.value.label == "twice"


@pytest.mark.parametrize(
    "use",
    [
        lambda asm, label: asm.jump(label),
        lambda asm, label: asm.i64_move(slot(0), label),
        lambda asm, label: asm.jump_table(slot(0), 1, asm.table(label)),
        lambda asm, label: asm.bind(label),
    ],
)
def test_labels_of_other_programs(asm: cnp.Assembler, use: Callable[[cnp.Assembler, Label], Any]) -> None:
    other = cnp.load("ops").assembler()
    with pytest.raises(LabelError, match="another program") as caught:
        use(asm, other.label("theirs"))
    assert caught.value.label == "theirs"


def test_functions_of_other_programs(asm: cnp.Assembler) -> None:
    theirs = cnp.load("ops").assembler().declare("theirs", 8)
    with pytest.raises(LabelError, match="another program"):
        asm.begin(theirs)
    assert [function.name for function in asm.program.functions] == ["f"]


def test_two_functions_of_one_name(asm: cnp.Assembler) -> None:
    with pytest.raises(LabelError, match="exists already"):
        asm.function("f", 8)


def test_code_that_runs_off_its_end(asm: cnp.Assembler) -> None:
    asm.i64_move(slot(0), 1)
    with pytest.raises(LabelError, match="runs off its end") as caught:
        asm.build()
    assert caught.value.index == 0
    asm.function("g", 8)
    asm.ret(slot(0))
    with pytest.raises(LabelError, match="runs off its end after op 0"):
        asm.build()


def test_functions_without_operations(asm: cnp.Assembler) -> None:
    """They would be entered at the operations of the next one, with a frame that is too small for those."""
    asm.function("g", 1 << 20)
    asm.ret(slot(1 << 19))
    with pytest.raises(LabelError, match="'f' has no operations"):
        asm.build()
    last = cnp.load("ops").assembler()
    last.function("h", 8)
    with pytest.raises(LabelError, match="'h' has no operations"):
        last.build()


@pytest.mark.parametrize("through", ["jump", "table"])
def test_jumps_into_a_larger_frame(asm: cnp.Assembler, through: str) -> None:
    there = asm.label("there")
    if through == "jump":
        asm.jump(there)
    else:
        asm.jump_table(slot(0), 1, asm.table(there))
        asm.leave()
    asm.function("large", 1 << 20)
    asm.bind(there)
    asm.ret(slot(1 << 19))
    with pytest.raises(LabelError, match="frame is larger") as caught:
        asm.build()
    assert (caught.value.label, caught.value.index) == ("there", 0)


def test_a_tail_call_into_a_frame_that_is_no_larger(asm: cnp.Assembler) -> None:
    other = asm.declare("g", 16)
    asm.i64_move(slot(8), 6)
    asm.jump(other)
    asm.begin(other)
    asm.ret(slot(8))
    assert asm.build()["f"].run().value == 6


def test_functions_that_come_later() -> None:
    asm = cnp.load("ops").assembler()
    double = asm.declare("double", 8)
    asm.function("main", 16 + H)
    asm.i64_move(slot(8 + H), 21)
    asm.call(double, slot(8), slot(0))
    asm.ret(slot(0))
    asm.begin(double)
    asm.i64_add(slot(0), slot(0), slot(0))
    asm.ret(slot(0))
    code = asm.build()
    assert list(code) == ["main", "double"]
    assert code["main"].run().value == code.interpreter.run("main").value == 42


def test_nothing_is_added_after_the_build(asm: cnp.Assembler) -> None:
    label = asm.label()
    asm.ret(slot(0))
    asm.build()
    for late in (asm.leave, lambda: asm.function("g", 8), lambda: asm.bind(label)):
        with pytest.raises(StateError) as caught:
            late()
        assert caught.value.state == "closed"


# ---- bytes


def test_an_empty_program() -> None:
    asm = cnp.load("ops").assembler()
    assert asm.encode(0).offsets == []
    assert list(asm.build()) == []


@every_target
def test_any_target_at_any_base(target: str) -> None:
    vocabulary = cnp.load(installed("ops", target))
    asm = vocabulary.assembler(helpers={"cnp_poll": 0x1234560})
    size = vocabulary.library.header_size
    function = asm.function("f", size + 16)
    loop = asm.here()
    asm.poll()
    asm.br_i64_lt_s(slot(0), 100, loop)
    asm.jump_table(slot(0), 1, asm.table(loop))
    asm.call(function, slot(16), slot(0))
    asm.ret(slot(0))
    for base in (0, 16, 0xFFFFF00, 0x7FFF_0000_0000, (1 << 64) - (1 << 20)):
        image = asm.encode(base)
        assert image.symbols == {"f": base + image.offsets[0]}
        assert [image.op_at(base + offset) for offset in image.offsets] == list(range(5))
    for base in (8, -16, 1 << 64, (1 << 64) - 16):
        with pytest.raises(cnp.RangeError) as caught:
            asm.encode(base)
        assert (caught.value.symbol, caught.value.value, caught.value.align) == ("base", base, 16)


@every_target
def test_registers_that_a_target_lacks_are_slots_or_refused(target: str) -> None:
    """All ten and eight can be written everywhere."""
    vm = cnp.load(installed("ops", target))
    integers, floats = [[bank[n] for n in range(len(bank))] for bank in (r, f)]
    held = {register for register in integers + floats if vm.library.number(register) is not None}
    assert held == {*integers[: vm.target.ints], *floats}
    usual, strict = vm.assembler(), vm.assembler(strict=True)
    for asm in (usual, strict):
        asm.function("main", frame=8)
    for register in integers + floats:
        name = "f64_move" if register.bank == "f" else "i64_move"
        usual.op(name, register, slot(0))
        if register in held:
            strict.op(name, register, slot(0))
        else:
            with pytest.raises(OperandError, match="lies in memory") as caught:
                strict.op(name, register, slot(0))
            assert (caught.value.operand, caught.value.value) == ("d", register)


def test_missing_symbols_are_all_named(asm: cnp.Assembler) -> None:
    asm.i64_move(slot(0), Symbol("b"))
    asm.i64_move(slot(0), Symbol("a"))
    asm.ret(slot(0))
    with pytest.raises(SymbolError) as caught:
        asm.encode(0)
    assert caught.value.symbols == ["a", "b"]
