"""Data of programs: the same values in each target's byte order, the addresses in it, and code that reads it."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable

import pytest

import cnp
from cnp import LabelError, OperandError, RangeError, Symbol, slot
from cnp.assembler import Label
from cnp.foreign import Call, ForeignCode
from cnp.operands import Place
from cnp.runtime import installed
from tests.support import every_target, runnable

BASE, DATA = 0x10_0000, 0x70_0000_0000


@pytest.fixture
def asm() -> cnp.Assembler:
    asm = cnp.load("ops").assembler()
    asm.function("f", frame=32)
    return asm


@every_target
def test_values_in_the_byte_order_of_the_target(target: str) -> None:
    asm = cnp.load(installed("ops", target)).assembler()
    for data in (asm.rodata, asm.data):
        data.u8(1, 255)
        data.i8(-1)
        data.align(2)
        data.u16(0x1234)
        data.i16(-2)
        data.u32(0x12345678)
        data.i32(-3)
        data.align(8)
        data.u64(1 << 63)
        data.i64(-4)
        data.f32(1.5)
        data.string("é")
        data.space(3, 0xEE)
        data.f64(-2.5)
    order = {"little": "<", "big": ">"}[asm.library.target.byteorder]
    expected = struct.pack(order + "BBbxHhIi", 1, 255, -1, 0x1234, -2, 0x12345678, -3)
    expected += struct.pack(order + "Qqf", 1 << 63, -4, 1.5) + "é\0".encode() + b"\xee" * 3
    expected += struct.pack(order + "d", -2.5)
    image = asm.encode(BASE, DATA)
    assert image.code.endswith(expected) and image.data.endswith(expected)


@every_target
def test_code_reads_and_writes_data(target: str) -> None:
    asm = cnp.load(installed("ops", runnable(target).name)).assembler()
    asm.function("f", frame=32)
    primes = asm.rodata.here("primes")
    asm.rodata.u64(2, 3, 5, 7)
    asm.data.align(16)
    count = asm.data.here("count")
    asm.data.u64(10)
    cell = asm.cell(primes + 8)
    asm.i64_move(slot(0), primes + 16)
    asm.i64_load(slot(0), slot(0), 0)
    asm.i64_move(slot(8), count)
    asm.i64_load(slot(16), slot(8), 0)
    asm.i64_add(slot(0), slot(0), slot(16))
    asm.i64_store(slot(8), 0, slot(0))
    asm.i64_move(slot(24), cell)
    asm.i64_load(slot(24), slot(24), 0)
    asm.i64_load(slot(24), slot(24), 0)
    asm.i64_add(slot(0), slot(0), slot(24))
    asm.ret(slot(0))
    code = ForeignCode(asm.close())
    outcome = code.run([Call("f"), Call("f", interpret=True)])
    assert [result.value for result in outcome.results] == [
        18,
        23,
    ]  # the second finds what the first one wrote
    assert code.image.address(count) % 16 == 0


@every_target
def test_labels_as_data(target: str) -> None:
    """Jump tables of 4 and 8 bytes, absolute and relative."""
    asm = cnp.load(installed("ops", target)).assembler()
    asm.function("f", frame=8)
    first = asm.here()
    asm.i64_move(slot(0), 1)
    second = asm.here()
    asm.ret(slot(0))
    places = (first, second + 4, asm.bind("far", address=0x7000_1234))
    tables = []
    for data in (asm.rodata, asm.data):
        start = data.here()
        data.address(*places)
        data.address(*places, size=4)
        data.relative(*places)
        data.relative(*places, to=first, size=8)
        tables.append(start)
    image = asm.encode(BASE, BASE + 0x10_0000)
    order = {"little": "<", "big": ">"}[asm.library.target.byteorder]
    at = [image.base + image.offsets[0], image.base + image.offsets[1] + 4, 0x7000_1234]
    for start, (memory, base) in zip(
        tables, ((image.code, image.base), (image.data, image.data_base)), strict=True
    ):
        here = image.address(start)
        expected = struct.pack(f"{order}3Q3I", *at, *at)
        expected += struct.pack(f"{order}3i", *(place - here - 36 for place in at))
        expected += struct.pack(f"{order}3q", *(place - at[0] for place in at))
        assert memory[here - base :][: len(expected)] == expected


@every_target
def test_a_jump_table_of_distances(target: str) -> None:
    """Four bytes an entry: loaded, added to where the table lies, jumped to."""
    asm = cnp.load(installed("ops", runnable(target).name)).assembler()
    asm.function("f", frame=32)
    table = asm.rodata.here("table")
    asm.rodata.relative(asm["zero"], asm["one"], asm["two"])
    asm.i64_move(slot(8), table)
    asm.i64_load32_s_at(slot(16), slot(8), slot(0), 4, 0)
    asm.i64_add(slot(8), slot(8), slot(16))
    asm.jump_address(slot(8))
    for name, value in (("zero", 10), ("one", 11), ("two", 12)):
        asm.bind(name)
        asm.i64_move(slot(0), value)
        asm.ret(slot(0))
    code = ForeignCode(asm.close())
    order = asm.library.target.byteorder
    calls = [Call("f", slots=index.to_bytes(8, order)) for index in range(3)]  # type: ignore[arg-type]
    assert [result.value for result in code.run(calls).results] == [10, 11, 12]


def test_addresses_that_do_not_fit(asm: cnp.Assembler) -> None:
    asm.ret(slot(0))
    asm.rodata.address(asm["f"], size=4)
    asm.encode(BASE)
    with pytest.raises(RangeError) as caught:
        asm.encode(0x7000_0000_0000)
    assert (caught.value.symbol, caught.value.hole, caught.value.high) == ("f", 0, (1 << 32) - 1)
    asm.reset()
    asm.data.relative(Symbol("x"), to=Symbol("y"))
    asm.helpers.update(x=0, y=1 << 31)
    asm.encode(BASE)
    asm.helpers["x"] = 1 << 32
    with pytest.raises(RangeError):
        asm.encode(BASE)


def test_what_data_refuses(asm: cnp.Assembler) -> None:
    asm.ret(slot(0))
    other = cnp.load("ops").assembler()
    data = asm.rodata
    refusals: list[Callable[[], object]] = [
        lambda: data.u8(1, 256),
        lambda: data.i32(1 << 31),
        lambda: data.u64(-1),
        lambda: data.f32(1e300),
        lambda: data.u16(1.5),  # type: ignore[arg-type]
        lambda: data.align(3),
        lambda: data.align(8192),
        lambda: data.space(-1),
        lambda: data.space(1, 256),
        lambda: data.space(1.5),  # type: ignore[arg-type]
        lambda: data.align("8"),  # type: ignore[arg-type]
        lambda: data.string(5),  # type: ignore[arg-type]
        lambda: data.address(asm["f"], size=2),
        lambda: data.address(5),  # type: ignore[arg-type]
        lambda: asm.align(0),
    ]
    for refused in refusals:
        with pytest.raises(OperandError):
            refused()
    theirs, bound = other.data.here(), data.here("twice")
    foreign: list[Callable[[], object]] = [
        lambda: data.address(other["theirs"]),
        lambda: data.relative(asm["f"], to=theirs),
        lambda: data.bind(theirs),
        lambda: data.bind(bound),
        lambda: asm.i64_move(slot(0), theirs),
        lambda: asm.cell(other["theirs"]),
        lambda: asm.function("", 32),
        lambda: asm.export(5, bound),  # type: ignore[arg-type]
    ]
    for refused in foreign:
        with pytest.raises(LabelError):
            refused()
    assert len(data) == 0


def test_labels_of_data_that_are_bound_to_nothing(asm: cnp.Assembler) -> None:
    asm.ret(slot(0))
    label = asm.data.label("later")
    asm.rodata.address(label)
    with pytest.raises(LabelError, match="later") as caught:
        asm.check()
    assert caught.value.label == "later"
    asm.data.bind(label)
    asm.check()
    assert asm.encode(BASE).code


@pytest.mark.parametrize("listed", [False, True])
def test_places_that_operations_and_cells_name_have_to_be_bound(listed: bool) -> None:
    makes: list[Callable[[cnp.Assembler, Place], Place]] = [
        lambda asm, place: place, lambda asm, place: place + 8,
        lambda asm, place: asm.cell(place), lambda asm, place: asm.cell(place - 8),
    ]  # fmt: skip
    for make, in_data in itertools.product(makes, (False, True)):
        asm = cnp.load("ops").assembler()
        asm.function("f", frame=32)
        label = asm.data.label("nowhere") if in_data else asm.label("nowhere")
        if listed:
            asm.program.ops.listed()
        asm.i64_move(slot(0), make(asm, label))
        asm.ret(slot(0))
        with pytest.raises(LabelError, match=r"op 0 .*nowhere") as caught:
            asm.check()
        assert caught.value.label == "nowhere"
        if isinstance(label, Label):
            asm.bind(label)
            asm.ret(slot(0))
        else:
            asm.data.bind(label)
        asm.check()


def test_symbols_of_data_are_missed_too(asm: cnp.Assembler) -> None:
    asm.ret(slot(0))
    asm.rodata.address(Symbol("b"))
    asm.i64_move(slot(0), asm.cell(Symbol("a") + 8))
    asm.leave()
    with pytest.raises(cnp.SymbolError) as caught:
        asm.build()
    assert caught.value.symbols == ["a", "b"]


def test_data_in_this_process(asm: cnp.Assembler) -> None:
    counter = asm.data.here("counter")
    asm.data.u64(40)
    asm.export("counter", counter)
    asm.i64_move(slot(0), counter)
    asm.i64_load(slot(8), slot(0), 0)
    asm.i64_add(slot(8), slot(8), 1)
    asm.i64_store(slot(0), 0, slot(8))
    asm.ret(slot(8))
    code = asm.build()
    assert [code["f"].run().value, code.interpreter.run("f").value] == [41, 42]
    assert code.symbols["counter"] == code.address(counter)
