"""Which form is taken: the first that fits kinds, ranges, registers, ties and features; and what is said where none does."""

from __future__ import annotations

import pytest

import cnp
from cnp import OperandError, f, patch, r, slot
from cnp.assembler import Assembler, Register, Slot
from cnp.choose import ranges
from cnp.stencil import Accept
from tests.hand_made import HEADER, HOME, REGISTERS, TARGET, vocabulary


def size_of(operands: tuple[object, ...], name: str = "i64_add", features: tuple[str, ...] = ()) -> int:
    """Bytes of the form that is taken, which tell it from the others."""
    return Assembler(vocabulary(*features)).cost(name, *operands).bytes


@pytest.mark.parametrize(
    ("operands", "size"),
    [
        pytest.param((r[1], r[1], 127), 12, id="short immediate, same register"),
        pytest.param((r[1], r[2], 127), 16, id="another register"),
        pytest.param((r[1], r[1], 128), 16, id="longer immediate"),
        pytest.param((r[1], r[1], r[0]), 13, id="same register, register"),
        pytest.param((r[1], r[2], r[0]), 17, id="three registers"),
        pytest.param((r[1], r[2], slot(120)), 18, id="near slot"),
        pytest.param((slot(0), slot(8), -(1 << 31)), 24, id="slots and the least immediate"),
        pytest.param((slot(0), slot(8), slot(16)), 28, id="slots"),
    ],
)
def test_the_first_form_that_fits(operands: tuple[object, ...], size: int) -> None:
    assert size_of(operands) == size


def test_ties_that_forbid() -> None:
    """d and b of i64_sub must be different registers; slots may be the same."""
    assert size_of((r[1], r[1], r[2]), "i64_sub") == 12
    assert size_of((r[1], r[2], r[1]), "i64_sub") > 28  # composed
    assert size_of((slot(8), slot(0), slot(8)), "i64_sub") == 28


def test_features_that_the_processor_has() -> None:
    assert size_of((r[1], r[2]), "i64_popcnt") == 64
    assert size_of((r[1], r[2]), "i64_popcnt", ("popcnt", "v3")) == 8


def test_what_is_in_the_holes() -> None:
    """A register is its machine number; one that the machine lacks is the offset of its home."""
    asm = Assembler(vocabulary())
    asm.function("f", 64)
    asm.op("i64_add", r[1], r[2], -5)
    asm.op("i64_move", r[3], r[1])
    asm.op("ret", r[0])
    image = patch.encode(asm.program, 0x1000)

    def numbers(op: int, count: int) -> list[int]:
        start = image.offsets[op]
        return [
            int.from_bytes(image.code[start + 4 * n : start + 4 * n + 4], "little", signed=True)
            for n in range(count)
        ]

    assert numbers(0, 3) == [REGISTERS["r"][1], REGISTERS["r"][2], -5]
    assert numbers(1, 2) == [HOME["r3"], REGISTERS["r"][1]]
    assert HOME["r3"] == 24 - HEADER


def test_a_register_that_the_machine_lacks() -> None:
    asm = Assembler(vocabulary())
    asm.function("f", 64)
    asm.op("i64_move", r[3], r[1])
    assert asm.program.ops[0].values == (Slot(HOME["r3"]), r[1])
    strict = Assembler(vocabulary(), strict=True)
    strict.function("f", 64)
    with pytest.raises(OperandError, match=f"d is r.3., which lies in memory on {TARGET.name}") as caught:
        strict.op("i64_move", r[3], r[1])
    assert (caught.value.op, caught.value.operand, caught.value.value) == ("i64_move", "d", r[3])
    strict.op("i64_move", r[2], r[1])


def test_a_register_without_a_number_is_not_patched() -> None:
    """The assembler never leaves one; a program that was made otherwise is refused."""
    asm = Assembler(vocabulary())
    asm.function("f", 64)
    asm.op("ret", r[0])
    asm.program.ops[0] = asm.program.ops[0]._replace(values=(r[3],))
    with pytest.raises(OperandError, match="no register"):
        patch.encode(asm.program, 0x1000)


@pytest.mark.parametrize("offset", [HOME["r3"], HOME["r0"], -8])
def test_users_do_not_name_homes(offset: int) -> None:
    asm = Assembler(vocabulary())
    asm.function("f", 64)
    with pytest.raises(OperandError, match="the frame has 64 bytes"):
        asm.op("i64_move", slot(offset), r[1])
    assert not asm.program.ops


@pytest.mark.parametrize("register", [r[4], f[2], Register("r", -1), Register("x", 0)])
def test_registers_that_the_vocabulary_has_not(register: Register) -> None:
    asm = Assembler(vocabulary())
    asm.function("f", 64)
    with pytest.raises(OperandError, match=r"r\[0 … 3\] and f\[0 … 1\]") as caught:
        asm.op("i64_move", register, r[1])
    assert (caught.value.op, caught.value.operand, caught.value.value) == ("i64_move", "d", register)


@pytest.mark.parametrize("index", [-1, 10, 1 << 40])
def test_registers_that_no_vocabulary_has(index: int) -> None:
    with pytest.raises(IndexError):
        r[index]


def test_registers_say_their_names() -> None:
    assert f"{r[3]} {f[0]!r}" == "r[3] f[0]"
    assert (len(r), len(f)) == (10, 8)


def test_vocabularies_without_registers() -> None:
    asm = cnp.load("brainfuck").assembler()
    asm.function("f", 64)
    name = next(n for n in asm.library.operations if asm.library[n].operands)
    wanted = asm.library[name].operands
    with pytest.raises(OperandError, match=name):
        asm.op(name, *[r[0]] * len(wanted))


@pytest.mark.parametrize(
    ("name", "operands", "wrong", "allowed"),
    [
        ("i64_add", (r[1], r[2], "5"), "b", "i64 -128 … 127 or r[0 … 2] or i32 -2147483648 … 2147483647 or slot -2147483648 … 2147483647"),
        ("i64_add", (5, r[2], 5), "d", "r[0 … 2] or slot -2147483648 … 2147483647"),
        ("i64_add", (f[1], r[2], 5), "d", "r[0 … 2] or slot -2147483648 … 2147483647"),
        ("i64_where", (r[1], r[2], "x"), "d", "slot -2147483648 … 2147483647"),
        ("raw", (r[1],), "a", "slot -2147483648 … 2147483647"),
    ],
)  # fmt: skip
def test_errors_collapse_the_forms(name: str, operands: tuple[object, ...], wrong: str, allowed: str) -> None:
    asm = Assembler(vocabulary())
    asm.function("f", 64)
    with pytest.raises(OperandError) as caught:
        asm.op(name, *operands)
    assert (caught.value.op, caught.value.operand, caught.value.allowed) == (name, wrong, allowed)


def test_operands_that_fit_alone() -> None:
    """Without moves nothing is composed: the error says what each operand takes."""
    asm = Assembler(vocabulary(without=("i64_move",)))
    asm.function("f", 64)
    with pytest.raises(OperandError, match=r"not r\[1\], slot|not r\[1\], Slot") as caught:
        asm.op("i64_sub", r[1], slot(8), r[2])
    assert caught.value.operand == "" and "b: r[0 … 2] or slot" in caught.value.allowed
    assert not asm.program.ops


@pytest.mark.parametrize("value", [1 << 31, -(1 << 31) - 1])
def test_numbers_out_of_every_range(value: int) -> None:
    asm = Assembler(vocabulary(without=("i64_move",)))
    asm.function("f", 64)
    asm.op("i64_add", r[1], r[2], value - (1 if value > 0 else -1))
    with pytest.raises(OperandError) as caught:
        asm.op("i64_add", r[1], r[2], value)
    assert (caught.value.operand, caught.value.value) == ("b", value)


def test_ranges_that_touch_are_one() -> None:
    accepts = [Accept("i64", -128, -1), Accept("i64", 0, 127), Accept("i64", 1000, 1000), Accept("r", 0, 0, 1, 0b1011),
               Accept("slot", 0, 4088, 8), Accept("slot", 4096, 8192, 8), Accept("label", 0, 1), Accept("label", 0, 1)]  # fmt: skip
    assert ranges(accepts) == (
        "i64 -128 … 127, 1000 or r[0 … 1, 3] or slot 0 … 4088, 4096 … 8192 (multiples of 8) or label"
    )
