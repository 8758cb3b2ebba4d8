"""cnp.invoke: C functions called by their signatures, on all targets, against functions that clang compiled for them.

Each function folds all of its arguments into one number, so that a bit of any of them shows in the result.
"""

from __future__ import annotations

import importlib.util
import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

import cnp
from cnp import OperandError, StateError, Symbol, f, host, r, slot
from cnp.assembler import Assembler, Register, Slot
from cnp.build import toolchain
from cnp.errors import SignatureError
from cnp.foreign import Call, ForeignCode
from cnp.host import Segment
from cnp.signature import C_TYPES, parse_signature
from cnp.target import Target
from tests.reference import MASK64
from tests.support import every_target, need, operations

CALLEES = 0x1200_0000  #: where the functions lie
FACTOR = 0x9E3779B97F4A7C15
FUNCTION, RESULT, BASE = slot(0), slot(8), slot(80)
ARGUMENTS = 16  #: offset of the first one
FRAME = BASE.offset + 136
DIRT = 0xDEAD_BEEF_CAFE_F00D  #: above the bits that count
#: All types, all registers, and the numbers of each kind that are handed over on every target.
SIGNATURES = (
    "int64_t(void)",
    "uint64_t(int8_t, uint8_t, int16_t, uint16_t, int32_t, uint32_t)",
    "uint64_t(double, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, float)",
    "double(double, double, double, double, double, double, double, double)",
    "float(float, float, float, float, float, float, float, float)",
    "int32_t(int64_t, float, uint32_t, double, int8_t, float, bool, uint16_t)",
    "uint32_t(float, uint32_t, bool)",
    "int8_t(void *, double, int32_t)",
    "uint8_t(uint32_t, int16_t)",
    "int16_t(bool, bool, float)",
    "uint16_t(float, int8_t, double, uint8_t)",
    "bool(uint32_t, double)",
    "double(uint16_t, int64_t, float)",
    "void(uint64_t *, uint32_t, double)",
)
FORMATS = {letter: "<" + letter for letter in C_TYPES} | {"P": "<Q"}


def c_function(number: int, signature: str) -> str:
    """f0, f1, …: what `model` computes, in C."""
    result, types = parse_signature(signature)
    lines = [f"h = h * {FACTOR}u + bits_{C_TYPES[letter]}(a{n});" for n, letter in enumerate(types)]
    gives = {"d": "(double)(int64_t)(h >> 12)", "f": "(float)(int64_t)(h >> 41)", "?": "h & 1"}
    last = "*(uint64_t *)a0 = h;" if result == "v" else f"return {gives.get(result, 'h')};"
    parameters = ", ".join(f"{C_TYPES[letter]} a{n}" for n, letter in enumerate(types))
    head = f"{C_TYPES[result]} f{number}({parameters or 'void'})"
    return f"{head} {{ uint64_t h = {number}; {' '.join(lines)} {last} }}"


#: How a function sees an argument. A comparison with the largest number and a sum of floats show what else lies in
#: the registers.
SEEN = {letter: "(uint64_t)a" for letter in C_TYPES if letter not in "v"} | {
    "I": "(uint64_t)a + ((uint64_t)(a == 0xFFFFFFFFu) << 40)",
    "d": "((union { double d; uint64_t w; }){a + a}).w",
    "f": "((union { float f; uint32_t w; }){a + a}).w",
}


def source() -> str:
    """The functions in C."""
    seen = [f"static uint64_t bits_{C_TYPES[x]}({C_TYPES[x]} a) {{ return {SEEN[x]}; }}" for x in SEEN]
    functions = [c_function(number, signature) for number, signature in enumerate(SIGNATURES)]
    return "\n".join(["#include <stdint.h>", *seen, *functions]) + "\n"


def callees(target: Target, folder: Path) -> tuple[list[Segment], list[int]]:
    """The functions in memory, and their addresses."""
    need(importlib.util.find_spec("ziglang") is not None, "the functions are compiled by the ziglang wheel")
    tools, built, linked = toolchain.find(), folder / "callees.o", folder / "callees"
    flags = ["-O1", "-ffreestanding", "-fno-builtin", "-fno-pic", "-fno-stack-protector", "-x", "c", "-"]
    tools.compile(f"--target={target.triple}", *target.cflags, *flags, "-c", "-o", built, text=source())
    pages = ["-z", "separate-loadable-segments", "-z", "max-page-size=4096"]
    tools.link("-static", f"--image-base={CALLEES:#x}", *pages, "-e", "f0", built, "-o", linked)
    with linked.open("rb") as file:
        elf = ELFFile(file)
        parts = [part for part in elf.iter_segments("PT_LOAD") if part["p_memsz"]]
        kinds = {4: "r", 5: "rx", 6: "rw"}
        segments = [Segment(p["p_vaddr"], p.data(), kinds[p["p_flags"]], p["p_memsz"]) for p in parts]
        table: Any = elf.get_section_by_name(".symtab")
        places = [table.get_symbol_by_name(f"f{n}")[0]["st_value"] for n in range(len(SIGNATURES))]
        return segments, places


class WithCallees(ForeignCode):
    """A program for another target, with the functions in its memory."""

    def segments(self, data: bytes) -> list[Segment]:
        return [*super().segments(data), *self.others]

    others: list[Segment]


# ---- what is to come out


def bits(letter: str, value: float) -> int:
    """The bits that count as a whole number, those of a negative one as in 64 bits."""
    if letter in "df":
        return int.from_bytes(struct.pack(FORMATS[letter], value), "little")
    return int(value) & MASK64


def seen(letter: str, value: float) -> int:
    """The same as a function sees them."""
    if letter in "df":
        return bits(letter, value + value)
    return bits(letter, value) + (1 << 40 if letter == "I" and value == 0xFFFF_FFFF else 0)


def model(number: int, signature: str, arguments: Sequence[float]) -> int:
    """The word that a call of function `number` leaves: an i32 of narrow results."""
    result, types = parse_signature(signature)
    h = number
    for letter, value in zip(types, arguments, strict=True):
        h = h * FACTOR + seen(letter, value) & MASK64
    if result in "df":
        return bits(result, float(h >> (12 if result == "d" else 41)))
    if result == "?":
        return h & 1
    size = struct.calcsize(FORMATS[result]) if result != "v" else 8
    low = struct.unpack(FORMATS["Q" if result == "v" else result], h.to_bytes(8, "little")[:size])[0]
    return int(low) & (MASK64 if size == 8 else 0xFFFF_FFFF)


def some_value(rng: random.Random, letter: str) -> float:
    if letter in "df":
        exact = struct.pack("<f", rng.choice((0.0, -0.0, 1.5, -1e38, 1e-40, rng.random())))
        return float(struct.unpack("<f", exact)[0]) * (1 if letter == "f" else 1 + 2.0**-50)
    if letter == "?":
        return rng.random() < 0.5
    low, high = C_RANGES[letter]
    return rng.choice((low, high, rng.randint(low, high), high >> 1, min(high, 1)))


C_RANGES = {
    letter: (0, (1 << 8 * size) - 1) if letter.isupper() else (-(1 << 8 * size - 1), (1 << 8 * size - 1) - 1)
    for letter, size in {"b": 1, "B": 1, "h": 2, "H": 2, "i": 4, "I": 4, "q": 8, "Q": 8, "P": 8}.items()
}


# ---- programs


def emit_places(asm: Any, number: int, signature: str) -> None:
    """The arguments in slots and registers in turns; the function in a slot; the result in a register."""
    result, types = parse_signature(signature)
    asm.function(f"places {number}", frame=FRAME)
    operands: list[Slot | Register] = []
    for n, letter in enumerate(types):
        place: Slot | Register = slot(ARGUMENTS + 8 * n)
        if n % 2 == number % 2:
            place = (f if letter in "df" else r)[1 + n // 2]
            asm.op({"d": "f64_move", "f": "f32_move"}.get(letter, "i64_move"), place, slot(ARGUMENTS + 8 * n))
        operands.append(place)
    d = None if result == "v" else f[0] if result in "df" else r[0]
    asm.invoke(signature, FUNCTION, BASE, d, *operands)
    asm.i64_move(RESULT, 0)
    if d is not None:
        asm.op({"d": "f64_move", "f": "f32_move"}.get(result, "i64_move"), RESULT, d)
    asm.ret(RESULT)


def emit_numbers(asm: Any, number: int, signature: str, address: int, values: Sequence[float]) -> None:
    """Function and arguments are numbers, the result goes to a slot."""
    asm.function(f"numbers {number}", frame=FRAME)
    asm.i64_move(RESULT, 0)
    asm.invoke(signature, address, BASE, RESULT, *values)
    asm.ret(RESULT)


def argument_slots(order: str, address: int, types: str, values: Sequence[float]) -> bytes:
    """The slots of one call; above the bits that count lies dirt."""
    words = [address, 0]
    for letter, value in zip(types, values, strict=True):
        if letter == "?":  # any number but 0 is true
            words.append(DIRT << 32 & MASK64 | (0x100 if value else 0))
        else:
            size = struct.calcsize(FORMATS[letter])
            low = bits(letter, value) & (1 << 8 * size) - 1
            words.append(low | DIRT << 8 * size & MASK64)
    return struct.pack(f"{order}{len(words)}Q", *words)


@every_target
def test_functions_get_what_their_signatures_say(target: str, tmp_path: Path) -> None:
    """Every type in every kind of place, by generated code and by the interpreter."""
    lib, rng = operations(target), random.Random("invoke")
    segments, addresses = callees(lib.target, tmp_path)
    asm: Any = Assembler(lib)
    calls: list[Call] = []
    expected: list[int | None] = []
    order = "<" if lib.target.byteorder == "little" else ">"
    area = host.DATA_BASE + 0x10_0000
    for number, (signature, address) in enumerate(zip(SIGNATURES, addresses, strict=True)):
        result, types = parse_signature(signature)
        emit_places(asm, number, signature)
        for _ in range(8):
            values = [some_value(rng, letter) for letter in types]
            if result == "v":
                values[0] = area
            words = argument_slots(order, address, types, values)
            calls += [Call(f"places {number}", slots=words, interpret=way) for way in (False, True)]
            expected += [0 if result == "v" else model(number, signature, values)] * 2
        if result == "v":
            stored = model(number, signature, values)
            continue
        values = [some_value(rng, letter) for letter in types]
        emit_numbers(asm, number, signature, address, values)
        calls += [Call(f"numbers {number}", interpret=way) for way in (False, True)]
        expected += [model(number, signature, values)] * 2
    code = WithCallees(asm.close(), free=area)
    code.others = segments
    assert code.area_addresses([8]) == [area]
    outcome = code.run(calls, memory=[bytes(8)])
    got = [result.value if result.returned else None for result in outcome.results]
    wrong = [call.place for call, a, b in zip(calls, got, expected, strict=True) if a != b]
    assert wrong == []
    assert struct.unpack(f"{order}Q", outcome.memory[0])[0] == stored


# ---- in this process


@pytest.fixture
def asm() -> Any:
    """A program with a function that has room for a call."""
    asm = cnp.load("ops").assembler(symbols=cnp.process)
    asm.function("main", frame=FRAME)
    return asm


def result_of(asm: Any, *arguments: int) -> int:
    signature = ", ".join(["int64_t"] * len(arguments))
    return int(asm.build()["main"].callable(f"int64_t({signature})")(*arguments))


def test_a_symbol_is_called_and_registers_stay(asm: Any) -> None:
    for number in range(1, 10):
        asm.i64_move(r[number], number)
    asm.invoke("long(long)", Symbol("labs"), BASE, r[0], slot(0))
    for number in range(1, 10):
        asm.i64_mul(r[0], r[0], 10)
        asm.i64_add(r[0], r[0], r[number])
    asm.ret(r[0])
    assert result_of(asm, -7) == 7123456789


def test_a_result_may_be_dropped(asm: Any) -> None:
    asm.i64_move(r[0], 5)
    asm.invoke("long(long)", Symbol("labs"), BASE, None, slot(0))
    asm.ret(r[0])
    assert result_of(asm, -7) == 5


def test_a_python_function_is_called_by_the_signature() -> None:
    """Its arguments and its result are converted as the signature says; also after the program was saved and loaded."""
    seen: list[tuple[int, float, bool]] = []

    def note(a: int, b: float, c: bool) -> float:
        seen.append((a, b, c))
        return a * b

    vm = cnp.load("ops")
    asm: Any = vm.assembler(helpers={"note": note})
    asm.function("main", frame=FRAME)
    asm.f32_move(f[1], 2.5)
    asm.invoke("double(int32_t, float, bool)", Symbol("note"), BASE, f[0], slot(0), f[1], True)
    asm.i32_trunc_f64_s(r[0], f[0])
    asm.ret(r[0])
    code = asm.build()
    assert code["main"].callable("int32_t(int32_t)")(-6) == -15
    assert seen == [(-6, 2.5, True)]


def test_a_saved_program_knows_the_signature(tmp_path: Path, asm: Any) -> None:
    asm.invoke("long(long)", Symbol("labs"), BASE, r[0], slot(0))
    asm.ret(r[0])
    path = tmp_path / "code"
    asm.build().save(path)
    again = cnp.load_code(path, cnp.load("ops"), helpers={"labs": lambda number: number + 1})
    assert again["main"].callable("int64_t(int64_t)")(-7) == -6


def test_an_exception_leaves_at_the_call() -> None:
    def fail(number: int) -> int:
        raise ValueError(number)

    asm: Any = cnp.load("ops").assembler(helpers={"fail": fail})
    asm.function("main", frame=FRAME)
    asm.invoke("int64_t(int64_t)", Symbol("fail"), BASE, r[0], slot(0), at=("prog.lang", 7))
    asm.ret(r[0])
    assert {op.at for op in asm.ops[:-1]} == {("prog.lang", 7)}
    with pytest.raises(ValueError, match=r"^3$"):
        asm.build()["main"].callable("int64_t(int64_t)")(3)


# ---- what is refused


@pytest.mark.parametrize(
    ("signature", "function", "base", "d", "arguments", "operand"),
    [
        ("long(long)", None, BASE, r[0], (1,), "function"),
        ("long(long)", slot(BASE.offset + 8), BASE, r[0], (1,), "function"),
        ("long(long)", 64, r[1], r[0], (1,), "base"),
        ("long(long)", 64, slot(BASE.offset + 4), r[0], (1,), "base"),
        ("long(long)", 64, slot(BASE.offset + 8), r[0], (1,), "base"),
        ("long(long)", 64, BASE, r[0], (), "arguments"),
        ("long(long)", 64, BASE, r[0], (1, 2), "arguments"),
        ("void(long)", 64, BASE, r[0], (1,), "d"),
        ("long(long)", 64, BASE, f[0], (1,), "d"),
        ("float(long)", 64, BASE, r[0], (1,), "d"),
        ("long(long)", 64, BASE, 5, (1,), "d"),
        ("long(long)", 64, BASE, r[0], (f[1],), "argument 1"),
        ("long(long)", 64, BASE, r[0], (1 << 64,), "argument 1"),
        ("long(long)", 64, BASE, r[0], (True,), "argument 1"),
        ("long(double)", 64, BASE, r[0], (r[1],), "argument 1"),
        ("long(float)", 64, BASE, r[0], (1e39,), "argument 1"),
        ("long(long, int)", 64, BASE, r[0], (1, 1 << 32), "argument 2"),
        ("long(long, int)", 64, BASE, r[0], (1, Symbol("labs")), "argument 2"),
        ("long(bool)", 64, BASE, r[0], (1,), "argument 1"),
        ("long(long, long)", 64, BASE, r[0], (1, slot(BASE.offset + 128)), "argument 2"),
        ("long(long, long)", 64, BASE, r[0], (1, slot(FRAME)), "argument 2"),
    ],
)
def test_calls_that_are_refused(
    asm: Any, signature: str, function: object, base: object, d: object, arguments: Any, operand: str
) -> None:
    """With the part that is wrong, and nothing of the call is left behind."""
    with pytest.raises(OperandError) as caught:
        asm.invoke(signature, function, base, d, *arguments)
    assert (caught.value.op, caught.value.operand) == ("invoke", operand)
    assert caught.value.allowed
    assert not asm.program.ops
    assert not asm.program.prototypes


def test_signatures_that_are_refused(asm: Any) -> None:
    with pytest.raises(SignatureError):
        asm.invoke("long(banana)", 64, BASE, r[0], 1)
    asm.invoke("long(long)", Symbol("labs"), BASE, r[0], 1)
    asm.invoke("int64_t(int64_t)", Symbol("labs"), BASE, r[0], 1)
    with pytest.raises(OperandError, match="as before") as caught:
        asm.invoke("int(int)", Symbol("labs"), BASE, r[0], 1)
    assert caught.value.operand == "function"


@every_target
def test_what_lies_on_the_stack_is_refused(target: str) -> None:
    """Eight of each kind or together, as the machine counts, and never more than its registers."""
    most = {"x86_64": (6, 8, 14), "ppc64le": (8, 8, 8)}.get(target, (8, 8, 8 if "mips" in target else 16))
    asm: Any = Assembler(operations(target))
    asm.function("main", frame=FRAME)
    for kinds, count in (("long", most[0]), ("double", most[1])):
        for number in (count, count + 1):
            signature = f"void({', '.join([kinds] * number)})"
            values = [1] * number
            if number <= count:
                asm.invoke(signature, 64, BASE, None, *values)
                continue
            with pytest.raises(OperandError) as caught:
                asm.invoke(signature, 64, BASE, None, *values)
            assert caught.value.operand == f"argument {number}"
    mixed = f"void({', '.join(['double'] * 8 + ['long'] * (most[2] - 8))})"
    asm.invoke(mixed, 64, BASE, None, *[1] * most[2])
    with pytest.raises(OperandError) as caught:
        asm.invoke(mixed.replace(")", ", long)"), 64, BASE, None, *[1] * (most[2] + 1))
    assert caught.value.operand == f"argument {most[2] + 1}"


def test_a_call_needs_a_function_and_an_open_program(asm: Any) -> None:
    with pytest.raises(StateError):
        cnp.load("ops").assembler().invoke("long(long)", 64, BASE, r[0], 1)
    asm.ret(r[0])
    asm.build()
    with pytest.raises(StateError):
        asm.invoke("long(long)", 64, BASE, r[0], 1)
