"""Arguments of callables lie where the caller says: in registers, in slots, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

import cnp
from cnp import OperandError, f, r, slot
from cnp.operands import Register, Slot


@pytest.fixture(scope="module")
def code() -> cnp.Code:
    """`mix`: r3 - slot 8 + r5; `scale`: the bits of f2 * slot 0; `low`: r7 as it is; `none`: r9."""
    asm: Any = cnp.load("ops").assembler()
    asm.function("mix", frame=16)
    asm.i64_sub(r[4], r[3], slot(8))
    asm.i64_add(r[4], r[4], r[5])
    asm.ret(r[4])
    asm.function("scale", frame=8)
    asm.f64_mul(f[2], f[2], slot(0))
    asm.i64_bits_f64(r[1], f[2])
    asm.ret(r[1])
    asm.function("low", frame=0)
    asm.ret(r[7])
    asm.function("none", frame=0)
    asm.ret(r[9])
    built: cnp.Code = asm.build()
    return built


def test_registers_and_slots(code: cnp.Code) -> None:
    mix = code["mix"].callable("int64_t(int64_t, int64_t)", arguments=(r[3], slot(8)))
    assert [mix(50, 8), mix(-1, 1)] == [42, -2]
    turned = code["mix"].callable("int64_t(int64_t, int64_t)", arguments=(slot(8), r[3]))
    assert turned(8, 50) == 42


def test_the_rest_is_the_state(code: cnp.Code) -> None:
    """Each call begins with the same one; what an argument lies in is no part of it."""
    mix = code["mix"].callable(
        "int64_t(int64_t, int64_t)", state={"r5": 100, "r3": 9}, arguments=(r[3], slot(8))
    )
    assert [mix(1, 2), mix(3, 4)] == [99, 99]


def test_floats(code: cnp.Code) -> None:
    scale = code["scale"].callable("double(double, double)", arguments=(f[2], slot(0)))
    assert scale(1.5, -4.0) == -6.0


def test_small_integers_fill_the_word(code: cnp.Code) -> None:
    """As in slots: extended to 32 bits by their sign, then with zeros."""
    low = code["low"].callable("uint64_t(int8_t)", arguments=(r[7],))
    assert low(-1) == 0xFFFF_FFFF
    with pytest.raises(OverflowError):
        low(128)


def test_no_argument(code: cnp.Code) -> None:
    assert code["none"].callable("uint64_t()", state={"r9": 7}, arguments=())() == 7


@pytest.mark.parametrize(
    ("name", "signature", "arguments"),
    [
        ("mix", "int64_t(int64_t, int64_t)", (r[3],)),
        ("mix", "int64_t(int64_t, int64_t)", (r[3], slot(8), r[5])),
        ("mix", "int64_t(int64_t, int64_t)", (r[3], slot(16))),
        ("mix", "int64_t(int64_t, int64_t)", (r[3], slot(4))),
        ("mix", "int64_t(int64_t, int64_t)", (r[3], slot(-8))),
        ("mix", "int64_t(int64_t, int64_t)", (r[3], f[1])),
        ("scale", "double(double, double)", (r[2], slot(0))),
        ("scale", "double(float, double)", (f[2], slot(0))),
    ],
)
def test_places_that_there_are_not(
    code: cnp.Code, name: str, signature: str, arguments: tuple[Register | Slot, ...]
) -> None:
    with pytest.raises(OperandError):
        code[name].callable(signature, arguments=arguments)


def test_more_arguments_than_the_frame_has_room_for(code: cnp.Code) -> None:
    types = ", ".join(["int64_t"] * 100_000)
    with pytest.raises(OperandError) as caught:
        code["mix"].callable(f"int64_t({types})")
    assert (caught.value.op, caught.value.operand) == ("mix", "arguments")
