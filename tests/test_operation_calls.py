"""Calls, jumps by address and checked memory of the portable operations, on all targets and in the interpreter."""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Sequence
from typing import Any

import pytest

from cnp import host, runtime, slot
from cnp.assembler import Assembler
from cnp.foreign import Call
from cnp.library import Library
from tests.host_rig import mix_model
from tests.reference import LOADS, MASK64, STORES, width
from tests.support import every_target
from tests.test_operations import INDIRECT, SENTINEL, library, run, words

OUT_OF_BOUNDS = 4  # trap code of the contract


# ---- where to go on


@every_target
def test_a_label_can_be_jumped_to_by_its_address(target: str) -> None:
    lib = library(target)
    asm: Any = Assembler(lib)
    asm.function("main", frame=24)
    first, second, out = asm.label(), asm.label(), asm.label()
    asm.i64_move(slot(8), first)
    asm.i64_move(slot(16), second)
    asm.i64_select(slot(8), slot(0), slot(8), slot(16))
    asm.jump_address(slot(8))
    asm.bind(first)
    asm.i64_move(slot(8), 10)
    asm.jump(out)
    asm.bind(second)
    asm.i64_move(slot(8), 20)
    asm.bind(out)
    asm.ret(slot(8))
    results = run(asm, [Call("main", slots=words(lib, flag)) for flag in (0, 1)])
    assert [result.value for result in results] == [20, 20, 10, 10]


# ---- calls that leave nothing


def emit_killing_fibonacci(asm: Any) -> None:
    """fib(n) with everything in slots; slot 32 chooses between a call and a call through a table."""
    argument = slot(40 + asm.library.header_size)
    fib = asm.function("fib", frame=argument.offset + 8)
    more = asm.label()
    asm.br_i64_ge_s(slot(0), 2, more)
    asm.ret(slot(0))
    asm.bind(more)
    asm.i64_sub(argument, slot(0), 1)
    asm.call_kill(fib, slot(40), slot(8))
    asm.i64_move(slot(32), 0)
    asm.i64_sub(argument, slot(0), 2)
    asm.call_table_kill(slot(32), 1, asm.table(fib), slot(40), slot(16))
    asm.i64_add(slot(8), slot(8), slot(16))
    asm.ret(slot(8))


@every_target
def test_calls_that_kill_nest_and_return(target: str) -> None:
    lib = library(target)
    asm = Assembler(lib)
    emit_killing_fibonacci(asm)
    results = run(asm, [Call("fib", slots=words(lib, n), depth=20) for n in (0, 1, 2, 10, 15)])
    assert [result.value for result in results] == [0, 0, 1, 1, 1, 1, 55, 55, 610, 610]


@every_target
def test_a_killing_table_has_an_end(target: str) -> None:
    lib = library(target)
    asm: Any = Assembler(lib)
    other = asm.declare("other", frame=8)
    asm.function("main", frame=32 + lib.header_size)
    place = asm.call_table_kill(slot(0), 1, asm.table(other), slot(16), slot(8))
    asm.ret(slot(8))
    asm.begin(other)
    asm.ret(slot(0))
    for result in run(asm, [Call("main", slots=words(lib, index)) for index in (1, 1 << 32, -1)]):
        assert (result.kind, result.code, result.op) == ("trap", INDIRECT, place)


# ---- memory with an end


@every_target
def test_what_lies_outside_is_not_touched(target: str) -> None:
    """An access that ends one byte behind the memory traps; the greatest index and offset do not wrap."""
    lib = library(target)
    asm: Any = Assembler(lib)
    cases: list[tuple[str, tuple[int, int], int]] = []
    for name, types in (LOADS | STORES).items():
        size = width(types[1]) // 8
        for index, offset in ((0, 0), (1, 7), (0xFFFF_FFFF, 0), (0, 0x7FFF_FFFF), (0xFFFF_FFFF, 0x7FFF_FFFF)):
            for bytes_ in {0, index + offset + size - 1}:
                where = f"{name} {index} {offset} {bytes_}"
                asm.function(where, frame=40)
                inputs = (slot(8), slot(16), slot(24), offset)
                place = asm.op(
                    f"{name}_checked", *((slot(0), *inputs) if name in LOADS else (*inputs, slot(0)))
                )
                asm.ret(slot(0))
                cases.append((where, (index, bytes_), place))
    calls = [Call(where, slots=words(lib, SENTINEL, 0, size, index)) for where, (index, size), _ in cases]
    results = run(asm, calls)
    for number, (where, _, place) in enumerate(cases):
        for result in results[2 * number : 2 * number + 2]:
            assert (result.kind, result.code, result.op) == ("trap", OUT_OF_BOUNDS, place), where
            assert result.frame[0] == SENTINEL


# ---- C functions

#: cnp_test_mix(i64, i32, u32, f64, f32, i64): the words of its arguments where integers and floats count each for
#: themselves, where an integer's word is its position, and where that of both is.
BY_CLASS = (0, 1, 2, 8, 9, 3)
PLACES = {"ppc64le": (0, 1, 2, 8, 9, 5), "mips64": (0, 1, 2, 11, 12, 5), "mips64el": (0, 1, 2, 11, 12, 5)}
#: Whose registers hold integers of 32 bits sign-extended, whatever their sign.
SIGNED = ("riscv64", "mips64", "mips64el")


def single(target: str, value: float) -> int:
    """An f32 as the word that its register is loaded from."""
    if target == "ppc64le":
        return int.from_bytes(struct.pack("<d", struct.unpack("<f", struct.pack("<f", value))[0]), "little")
    bits = int.from_bytes(struct.pack("<f", value), "little")
    return bits | (0xFFFF_FFFF << 32 if target == "riscv64" else 0)


def block(target: str, arguments: tuple[int, int, int, float, float, int]) -> list[int]:
    """The sixteen words of a call of cnp_test_mix."""
    a, b, c, d, e, f = arguments
    unsigned = c - (c >> 31 << 32) if target in SIGNED else c
    values = (a, b, unsigned, int.from_bytes(struct.pack("<d", d), "little"), single(target, e), f)
    found = [SENTINEL] * 16
    for place, value in zip(PLACES.get(target, BY_CLASS), values, strict=True):
        found[place] = value & MASK64
    return found


MIXED = (
    (1, -2, 3, 4.5, -5.25, 6),
    (-(1 << 63), -(1 << 31), 0xFFFF_FFFF, -0.0, math.inf, (1 << 63) - 1),
    (0x0123_4567_89AB_CDEF, 0x7FFF_FFFF, 0x8000_0000, 1e300, 1.5e-45, -1),
)


@every_target
def test_a_c_function_gets_its_arguments(target: str) -> None:
    """Integers and floats mixed, of both widths; the function leaves junk wherever it may."""
    lib = library(target)
    asm: Any = Assembler(lib)
    asm.function("main", frame=160)
    asm.call_c(slot(0), slot(16), slot(8))
    asm.ret(slot(8))
    address = host.symbols(lib.target)["cnp_test_mix"]
    calls = [Call("main", slots=words(lib, address, 0, *block(target, values))) for values in MIXED]
    results = run(asm, calls)
    expected = [mix_model(*values) for values in MIXED for _ in range(2)]
    assert [result.value for result in results] == expected


def call_here(name: str, address: int, arguments: Sequence[int]) -> Any:
    """The result of an operation call_c… in this process: of generated code and of the interpreter."""
    vocabulary = runtime.load("ops")
    asm: Any = vocabulary.assembler()
    asm.function("main", frame=160)
    asm.op(name, slot(0), slot(16), slot(8))
    asm.ret(slot(8))
    code = asm.build()
    frames = [vocabulary.frame(160) for _ in range(2)]
    for frame in frames:
        frame.write(0, words(vocabulary.library, address, 0, *arguments))
    return [code["main"].run(frame=frames[0]), code.interpreter.run("main", frame=frames[1])]


@pytest.mark.parametrize(
    ("name", "ctype", "mark"), [("call_c_f64", ctypes.c_double, "d"), ("call_c_f32", ctypes.c_float, "f")]
)
def test_c_functions_give_floats(name: str, ctype: Any, mark: str) -> None:
    """Eight floats, of which each counts by its place."""
    arguments = [1.5, -2.25, 4.0, 0.5, 3.0, -8.0, 16.0, 100.0]

    def weigh(*values: float) -> float:
        return sum(value * (1 << number) for number, value in enumerate(values))

    function = ctypes.CFUNCTYPE(ctype, *[ctype] * 8)(weigh)
    target = runtime.load("ops").library.target.name
    floats = [
        single(target, x) if mark == "f" else int.from_bytes(struct.pack("<d", x), "little")
        for x in arguments
    ]
    address = ctypes.cast(function, ctypes.c_void_p).value
    for result in call_here(name, address or 0, [0] * 8 + floats):
        bits = result.value & (1 << 32) - 1 if mark == "f" else result.value
        assert struct.unpack(f"<{mark}", struct.pack("<I" if mark == "f" else "<Q", bits))[0] == weigh(
            *arguments
        )


def test_a_c_function_may_raise() -> None:
    """What a called function leaves in `raised` is seen behind the call."""
    raised = 8 * 4  # the fifth word of the context

    def raises(context: int) -> int:
        ctypes.c_uint64.from_address(context + raised).value = 77
        return 5

    raising = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)(raises)
    vocabulary = runtime.load("ops")
    asm: Any = vocabulary.assembler()
    asm.function("main", frame=160)
    place = asm.call_c(slot(0), slot(16), slot(8))
    asm.ret(slot(8))
    code = asm.build()
    for way in (code["main"].run, lambda frame: code.interpreter.run("main", frame=frame)):
        frame = vocabulary.frame(160)
        address = ctypes.cast(raising, ctypes.c_void_p).value or 0
        frame.write(0, words(vocabulary.library, address, 0, frame.context))
        result = way(frame=frame)
        assert (result.kind, result.code, result.op) == ("trap", 77, place)


@every_target
def test_a_c_function_is_a_helper(target: str) -> None:
    """On every target `raised` is read behind the call: the trap's exit is one of the stencil's."""
    lib: Library = library(target)
    for name in ("call_c", "call_c_f64", "call_c_f32"):
        for form in lib[name].forms:
            leaves = [hole for block in form.near.blocks for hole in block.holes if hole.what.name == "LEAVE"]
            assert leaves, name
