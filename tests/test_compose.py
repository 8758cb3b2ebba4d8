"""Operations that no form takes: the moves around them, what the interpreter is told, and what they cost."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest

from cnp import Label, OperandError, f, library, r, slot
from cnp.assembler import Assembler, Register, Slot, Value
from cnp.foreign import Call, ForeignCode
from cnp.library import Library
from cnp.program import Op
from cnp.stencil import Hole, Operation, What
from tests.hand_made import HOME, JUMP, SLOT, R, built, form, operation, vocabulary
from tests.reference import hole_word, references
from tests.support import every_target, operations


@pytest.fixture
def asm() -> Assembler:
    asm = Assembler(vocabulary())
    asm.function("f", 64)
    return asm


def home(name: str) -> Slot:
    return Slot(HOME[name])


def text(ops: Sequence[Op]) -> list[tuple[str | Value, ...]]:
    """Operations with their operands."""
    return [(op.operation.name, *op.values) for op in ops]


def test_one_input_by_way_of_its_home(asm: Assembler) -> None:
    """The cheapest of the single replacements: no form takes (slot, slot, r)."""
    assert asm.op("i64_add", slot(0), slot(8), r[2], at=("a", 1)) == 0
    assert text(asm.program.ops) == [
        ("i64_move", home("r2"), r[2]),
        ("i64_add", slot(0), slot(8), home("r2")),
    ]
    assert [op.at for op in asm.program.ops] == [("a", 1)] * 2
    assert asm.op("ret", r[0]) == 2


def test_an_output_comes_back_from_its_home(asm: Assembler) -> None:
    asm.op("i64_add", r[1], slot(8), slot(16))
    assert text(asm.program.ops) == [
        ("i64_add", home("r1"), slot(8), slot(16)),
        ("i64_move", r[1], home("r1")),
    ]


def test_a_register_that_is_output_and_input(asm: Assembler) -> None:
    asm.op("i64_rotl", r[1], r[1], slot(8))
    assert text(asm.program.ops) == [
        ("i64_move", home("r1"), r[1]),
        ("i64_rotl", home("r1"), home("r1"), slot(8)),
        ("i64_move", r[1], home("r1")),
    ]


def test_a_register_that_is_input_twice_is_moved_once(asm: Assembler) -> None:
    asm.op("i64_sub", slot(0), r[1], r[1])
    assert text(asm.program.ops) == [
        ("i64_move", home("r1"), r[1]),
        ("i64_sub", slot(0), home("r1"), home("r1")),
    ]


def test_an_immediate_lies_in_the_home_of_a_stranger(asm: Assembler) -> None:
    """r1 is an operand, r3 lives in its home: r0 lends its own."""
    asm.op("i64_add", r[1], r[1], 1 << 40)
    assert text(asm.program.ops) == [
        ("i64_move", home("r0"), 1 << 40),
        ("i64_add", r[1], r[1], home("r0")),
    ]


def test_a_number_goes_by_way_of_the_result(asm: Assembler) -> None:
    """It is no input, and shorter than a home. The interpreter does it at once."""
    asm.op("i64_add", r[1], r[0], 1 << 40)
    move, add = asm.program.ops
    assert text([move, add]) == [("i64_move", r[1], 1 << 40), ("i64_add", r[1], r[0], r[1])]
    assert move.interpreted == (home("r1"), home("r1"))
    assert add.interpreted == (r[1], r[0], 1 << 40)


def rare(leaves: bool = False) -> Operation:
    """An operation whose form with a slot is long. leaves: it may trap."""
    forms = [form(12, R, R, R), form(90, R, R, SLOT)]
    if leaves:
        trap = Hole(8, JUMP, What.LEAVE, 1, -4, 8)
        blocks = [found.near.blocks[0] for found in forms]
        blocks = [block._replace(holes=(*block.holes, trap)) for block in blocks]
        forms = [
            found._replace(near=found.near._replace(blocks=(block,)))
            for found, block in zip(forms, blocks, strict=True)
        ]
    return operation(0, "i64_rare", "out u64 d, in u64 a, in/imm u64 b", *forms)


def test_a_register_is_lent_where_that_is_shorter() -> None:
    """Its value lies in its home meanwhile."""
    asm = Assembler(Library(library.pack(built(rare())), "hand_made"))
    asm.function("f", 64)
    asm.op("i64_rare", r[1], r[1], 1 << 40)
    assert text(asm.program.ops) == [
        ("i64_move", home("r0"), r[0]),
        ("i64_move", r[0], 1 << 40),
        ("i64_rare", r[1], r[1], r[0]),
        ("i64_move", r[0], home("r0")),
    ]
    assert [op.interpreted for op in asm.program.ops] == [
        (home("r0"), home("r0")),
        (home("r0"), home("r0")),
        (r[1], r[1], 1 << 40),
        (home("r0"), home("r0")),
    ]


@pytest.mark.parametrize("d", [r[1], r[2]])
def test_no_register_changes_where_the_run_may_end(d: Register) -> None:
    """A trap leaves the registers as they were: not with a number in one of them."""
    asm = Assembler(Library(library.pack(built(rare(leaves=True))), "hand_made"))
    asm.function("f", 64)
    asm.op("i64_rare", d, r[1], 1 << 40)
    assert text(asm.program.ops) == [
        ("i64_move", home("r0"), 1 << 40),
        ("i64_rare", d, r[1], home("r0")),
    ]


#: Operations with numbers that no form takes on some target.
NUMBERS: dict[str, tuple[int | float, ...]] = {
    **dict.fromkeys(("i64_add", "i64_sub", "i64_mul", "i64_and", "i64_or", "i64_xor"), (1 << 40, -(1 << 62) + 5)),
    **dict.fromkeys(("i64_eq", "i64_lt_u", "i64_ge_s"), (0x8000_0000, 1 << 63)),
    **dict.fromkeys(("i32_add", "i32_and", "i32_mul", "i32_eq", "i32_lt_u"), (0xF000_000F, -0x7000_0001)),
    **dict.fromkeys(("i32_lt_s", "i32_ge_s"), (-0x7000_0001,)),
    **dict.fromkeys(("f64_add", "f64_mul", "f64_lt"), (0.1,)),
}  # fmt: skip


@every_target
def test_registers_are_what_they_were_behind_a_composition(target: str) -> None:
    """The result, in a register of its own or in that of the input, and all others: of generated code and interpreted."""
    lib = operations(target)
    asm: Any = Assembler(lib)
    registers = [bank[n] for bank in (r, f) for n in range(len(bank))]
    moves = ["f64_move" if register.bank == "f" else "i64_move" for register in registers]
    expected: dict[str, list[int]] = {}
    for name, numbers in NUMBERS.items():
        item = references()[name]
        banks = [f if ctype[0] == "f" else r for ctype in (item.output, *item.inputs)]
        for number in numbers:
            word = hole_word(item.inputs[1], number)
            for d in (banks[0][1], banks[0][2]):
                values = [value_of(register) for register in registers]
                a = registers.index(banks[1][1])
                place = f"{name} {number} {d}"
                asm.function(place, frame=8 * len(registers))
                for n, move in enumerate(moves):
                    asm.op(move, registers[n], slot(8 * n))
                asm.op(name, d, banks[1][1], number)
                for n, move in enumerate(moves):
                    asm.op(move, slot(8 * n), registers[n])
                asm.ret(slot(0))
                result = item.word(values[a], word)
                assert result is not None
                values[registers.index(d)] = result
                expected[place] = values
    mark = "<" if lib.target.byteorder == "little" else ">"
    slots = struct.pack(f"{mark}{len(registers)}Q", *map(value_of, registers))
    calls = [Call(place, slots=slots, interpret=way) for place in expected for way in (False, True)]
    results = ForeignCode(asm.close()).run(calls).results
    for call, outcome in zip(calls, results, strict=True):
        assert outcome.returned
        got = [outcome.frame[8 * n] for n in range(len(registers))]
        assert got == expected[str(call.place)], call


def value_of(register: Register) -> int:
    """What a register holds beforehand."""
    if register.bank == "r":
        return 0x0123_4567_89AB_CDEF * (register.index + 1) & (1 << 64) - 1
    return hole_word("f64", 1.5 + register.index)


def test_nothing_is_lent_where_all_are_operands(asm: Assembler) -> None:
    """With the three registers of the machine and f0, f1 there are five homes; the float ones serve too."""
    asm.op("i64_rotl", slot(0), r[1], 70000)
    (_, _, main) = asm.program.ops
    assert set(main.values[1:]) == {home("r1"), home("r0")}


def test_floats_take_the_move_of_their_type(asm: Assembler) -> None:
    asm.op("f64_add", slot(0), f[1], 1.5)
    asm.op("f32_add", f[0], slot(8), 1.5)
    assert text(asm.program.ops) == [
        ("f64_move", home("f1"), f[1]),
        ("f64_move", home("r0"), 0x3FF8 << 48),
        ("f64_add", slot(0), home("f1"), home("r0")),
        ("f32_move", home("r0"), 0x3FC0 << 16),
        ("f32_add", home("f0"), slot(8), home("r0")),
        ("f32_move", f[0], home("f0")),
    ]


def test_moves_stand_before_a_branch(asm: Assembler) -> None:
    loop = asm.label("loop")
    asm.bind(loop)
    asm.op("br_i64_lt_s", r[1], slot(8), loop)
    asm.op("br_i64_lt_s", r[1], 5, 0)
    ops = asm.program.ops
    assert text(ops[:4]) == [
        ("i64_move", home("r1"), r[1]),
        ("br_i64_lt_s", home("r1"), slot(8), loop),
        ("i64_move", home("r1"), r[1]),
        ("i64_move", home("r0"), 5),
    ]
    name, *inputs, to = ops[4].operation.name, *ops[4].values
    assert (name, inputs) == ("br_i64_lt_s", [home("r1"), home("r0")])
    assert isinstance(to, Label) and to.position == 0 and ops[4].interpreted == (r[1], 5, to)


def test_an_output_that_nobody_would_copy(asm: Assembler) -> None:
    """i64_where may go to its label: the register would keep its old value there."""
    with pytest.raises(OperandError, match="i64_where"):
        asm.op("i64_where", r[1], slot(0), asm.label())
    assert not asm.program.ops
    asm.op("i64_where", slot(8), r[1], asm.label())
    assert len(asm.program.ops) == 2


def test_the_interpreter_takes_the_operands_as_they_were(asm: Assembler) -> None:
    """There a home is the register: moves do nothing, and nothing is lent."""
    asm.op("i64_rotl", r[1], r[2], 1 << 40)
    ops = asm.program.ops
    assert [op.operation.name for op in ops].count("i64_rotl") == 1
    for op in ops:
        if op.operation.name == "i64_rotl":
            assert op.interpreted == (r[1], r[2], 1 << 40)
        else:
            to, source = op.interpreted
            assert to == source and isinstance(to, Slot) and to in op.values
    asm.op("i64_add", r[1], r[2], 5)
    assert asm.program.ops[-1].meant is None and asm.program.ops[-1].interpreted == (r[1], r[2], 5)


def test_what_it_costs(asm: Assembler) -> None:
    direct = asm.cost("i64_add", r[1], r[2], r[0])
    assert (direct.bytes, direct.instructions, len(direct.forms)) == (17, 4, 1)
    composed = asm.cost("i64_add", slot(0), slot(8), r[2])
    assert (composed.bytes, composed.instructions) == (8 + 28, 2 + 7)
    assert composed.forms == (asm.library["i64_move"].forms[2], asm.library["i64_add"].forms[6])
    assert not asm.program.ops
    with pytest.raises(OperandError):
        asm.cost("i64_add", slot(0))


def test_the_cheapest_of_several_ways(asm: Assembler) -> None:
    """Either input could be replaced: the second one leaves the shorter form."""
    asm.op("i64_pick", r[0], r[1])
    assert text(asm.program.ops) == [("i64_move", home("r1"), r[1]), ("i64_pick", r[0], home("r1"))]
    assert asm.cost("i64_pick", r[0], r[1]).bytes == 8 + 12


def test_a_slot_out_of_reach(asm: Assembler) -> None:
    """The form with two registers takes near slots only; a home is near."""
    near, far = asm.cost("i64_add", r[1], r[2], slot(120)), asm.cost("i64_add", r[1], r[2], slot(128))
    assert (near.bytes, far.bytes, len(far.forms)) == (18, 16 + 18, 2)


def test_without_moves_there_is_no_composition() -> None:
    asm = Assembler(vocabulary(without=("i64_move",)))
    asm.function("f", 64)
    with pytest.raises(OperandError, match="together"):
        asm.op("i64_add", slot(0), slot(8), r[2])
    asm.op("f64_add", slot(0), slot(8), f[1])
    assert [op.operation.name for op in asm.program.ops] == ["f64_move", "f64_add"]


def test_the_wrong_bank_is_no_value(asm: Assembler) -> None:
    """A composition does not reinterpret bits."""
    for operands in ((slot(0), slot(8), f[1]), (slot(0), f[0], slot(8)), (f[0], slot(0), slot(8))):
        with pytest.raises(OperandError):
            asm.op("i64_add", *operands)
    assert not asm.program.ops


@pytest.mark.parametrize("value", [0, -1, -(1 << 31), (1 << 32) - 1])
def test_numbers_of_32_bits(asm: Assembler, value: int) -> None:
    asm.op("i32_add", slot(0), slot(8), value)
    assert asm.program.ops[0].values == (home("r0"), value)


@pytest.mark.parametrize("value", [1 << 32, -(1 << 31) - 1, 1.5, True, None])
def test_numbers_that_are_none_of_32_bits(asm: Assembler, value: object) -> None:
    with pytest.raises(OperandError, match="i32_add: operand b") as caught:
        asm.op("i32_add", slot(0), slot(8), value)
    assert caught.value.value is value
    assert not asm.program.ops


@pytest.mark.parametrize("value", [1 << 64, -(1 << 63) - 1, 1.5])
def test_numbers_that_are_none_of_64_bits(asm: Assembler, value: object) -> None:
    with pytest.raises(OperandError, match="i64_add: operand b"):
        asm.op("i64_add", r[1], r[2], value)
