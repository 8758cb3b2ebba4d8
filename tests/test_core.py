"""The core in C against cnp/patch.py, byte for byte, and what it refuses."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
import random
from dataclasses import replace
from pathlib import Path

import pytest

import cnp
from cnp import emit, encode, native, patch
from cnp.assembler import Assembler
from cnp.core_library import core_library
from cnp.ebpf import Program
from cnp.ebpf.command import HELPERS
from cnp.ebpf.table import Options
from cnp.ebpf.translate import Job, Places, translated
from cnp.errors import LabelError, OperandError, RangeError, StateError
from cnp.library import ENTER, Library
from cnp.link import code_memory
from cnp.operands import Slot, Symbol, r
from cnp.records import Things
from tests.core_programs import FRAME, OUTSIDE, borders, forms, operand, program
from tests.ebpf_model import random_program

TARGETS = ("x86_64", "aarch64", "riscv64", "ppc64le", "mips64", "mips64el")
BASE, DATA_BASE = 0x10000000, 0x50000000

pytestmark = pytest.mark.skipif(native.core_module is None, reason=f"no core in C: {native.reason}")


def library(target: str) -> Library:
    return Library.load(Path(cnp.__file__).parent / "lib" / f"ops.{target}.cnp")


def addresses(lib: Library) -> dict[str, int]:
    names = [*(item.name for item in lib.imports), OUTSIDE]
    return {name: 0x70000000 + 0x1230 * number for number, name in enumerate(names)}


def compare(asm: Assembler, base: int = BASE) -> int:
    """Both ways give the same bytes; how many."""
    known = addresses(asm.library)
    image = patch.encode(asm.program, base, DATA_BASE, known)
    assert asm.program.in_core() is not None
    emitted = encode.encode(asm.program, base, DATA_BASE, known)
    assert emitted == image
    return len(image.code)


@pytest.mark.parametrize("target", TARGETS)
def test_random_programs_have_the_bytes_of_the_reference(target: str) -> None:
    lib = library(target)
    chosen = list(forms(lib))
    random.Random(target).shuffle(chosen)
    assert compare(program(lib, 1, 150, chosen)) > 500


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS)
def test_every_form_has_the_bytes_of_the_reference(target: str) -> None:
    lib = library(target)
    chosen = list(forms(lib))
    random.Random(2).shuffle(chosen)
    seed = 0
    while chosen:
        compare(program(lib, seed, 500, chosen), BASE + (seed << 20))
        seed += 1


def with_data(lib: Library, seed: int, size: int) -> Assembler:
    """A program of operations that take addresses, some in data and beside places, and data with addresses in it."""
    rng = random.Random(seed)
    usable = [
        (o, form) for o, form in forms(lib) if any(a.kind in ("symbol", "u64") for a in form.accepts) and not form.same
    ]  # fmt: skip
    asm = Assembler(lib)
    asm.function("main", frame=FRAME)
    code, table, word = [asm.label() for _ in range(3)], asm.rodata.label("table"), asm.data.label("word")
    cells = [asm.cell(initial) for initial in (7, code[2], table, word + 4)]
    places = [table, table + 8, word, word - 4, code[0] + 4, code[1], Symbol(OUTSIDE), *cells]
    while len(asm.ops) < size:
        operation, form = rng.choice(usable)
        operands = [
            rng.choice(places) if a.kind in ("symbol", "u64") else operand(a, rng, asm, code) for a in form.accepts
        ]  # fmt: skip
        with contextlib.suppress(OperandError):  # registers that do not differ
            asm.op(operation.name, *operands)
        if len(asm.ops) % 3 == 0 and code[-1].position is None:
            asm.bind(next(label for label in code if label.position is None))
    asm.op("ret", Slot(0))
    for section, label in ((asm.rodata, table), (asm.data, word)):
        section.bytes(rng.randbytes(rng.randrange(20)))
        section.align(rng.choice((1, 4, 64)))
        section.bind(label)
        section.u32(1, 2)
        section.address(table, code[0], word + 8)
        section.relative(code[1], table + 1, code[2] - 1)
    asm.export("inside", table + 3)
    return asm


@pytest.mark.parametrize("target", TARGETS)
def test_programs_with_data_have_the_bytes_of_the_reference(target: str) -> None:
    lib = library(target)
    for seed in range(4):
        asm = with_data(lib, seed, 40)
        assert compare(asm) > 200
        code, data = encode.size_bound(asm.program)
        image = encode.encode(asm.program, BASE, DATA_BASE, addresses(lib))
        assert len({*image.sections.values()}) == 2
        assert len(image.code) <= code and len(image.data) <= data


def test_an_address_beyond_all_addresses_is_judged_by_the_reference() -> None:
    asm = Assembler(library("x86_64"))
    asm.function("main", frame=256)
    asm.op("i64_move", Slot(8), asm.rodata.here("table") - (1 << 62))
    asm.op("ret", Slot(0))
    asm.rodata.u8(1)
    compare(asm)


@pytest.mark.parametrize("target", ["aarch64", "ppc64le", "riscv64"])
def test_islands_of_veneers_are_those_of_the_reference(target: str) -> None:
    lib = library(target)
    lib.target = replace(lib.target, island=4096)
    rng = random.Random(3)
    asm = Assembler(lib)
    asm.function("main", frame=256)
    for _ in range(600):
        asm.op("br_i64_lt_s", Slot(8), Slot(16), rng.randrange(600))
    asm.op("ret", Slot(0))
    compare(asm)


def test_jumps_become_long_one_after_the_other() -> None:
    """Each jump just reaches until the next one grows: more rounds than are judged exactly."""
    for length in (12, 40):
        asm = Assembler(library("x86_64"))
        asm.function("main", frame=256)
        for position in range(length):
            asm.op("jump", min(position + 62, length))
        for _ in range(62):
            asm.op("jump", length + 62)
        asm.op("ret", Slot(0))
        compare(asm)


@pytest.mark.parametrize("checked", [False, True], ids=["unchecked", "checked"])
@pytest.mark.parametrize("target", TARGETS)
def test_programs_of_special_operations_have_the_bytes_of_the_reference(target: str, checked: bool) -> None:
    """eBPF programs: cold code and ways out beside plain operations, functions, jumps that become long one after the other."""
    seeds = range(5)
    places = Places(helpers=dict.fromkeys(HELPERS, 0x1234567890), table=0x20000000, packet=0x40000000)
    jobs = []
    for seed in seeds:
        found = Program(random_program(seed)[0], helpers=HELPERS, packet=0x40000000)
        jobs.append(Job(f"run{seed}", found.instructions, {}, Options(checked, checked), places))
    made = translated(target, jobs).program
    known = addresses(made.library)
    image = patch.encode(made, BASE, DATA_BASE, known)
    assert made.in_core() is not None
    assert encode.encode(made, BASE, DATA_BASE, known) == image


def by_position(record: bytes, places: dict[int, int]) -> bytes:
    """A record whose operands that are labels name the positions instead."""
    op, form, kinds, *words = emit.RECORD.unpack(record)
    for n in range(6):
        if kinds >> 4 * n & 15 == emit.LABEL:
            kinds += (emit.POSITION - emit.LABEL) << 4 * n
            words[n] = places[words[n]]
    return emit.RECORD.pack(op, form, kinds, *words)


@pytest.mark.parametrize("target", TARGETS)
def test_operands_at_the_borders_of_forms_have_the_bytes_of_the_reference(target: str) -> None:
    chosen_alike(borders(library(target), 5, 500))


@pytest.mark.parametrize("target", TARGETS)
def test_constants_have_the_bytes_of_the_reference(target: str) -> None:
    """Short ones that are shifted, what lies beside them, and their negatives: some forms take multiples only."""
    short = (1, 31, 32, 0x7FFF, 0x8000, 0x9ABD, 0xFFFF)
    numbers = {n << bits for n in short for bits in (0, 4, 12, 15, 16, 17, 31, 32, 33, 48)}
    numbers |= {n + beside for n in numbers for beside in (-1, 1)}
    asm = Assembler(library(target))
    asm.function("main", frame=64)
    for number in sorted(numbers | {-n for n in numbers}):
        if -(1 << 63) <= number < 1 << 64:
            asm.i64_move(r[1], number)
        if -(1 << 31) <= number < 1 << 32:
            asm.i32_move(r[2], number)
    asm.ret(r[1])
    chosen_alike(asm)


def chosen_alike(asm: Assembler) -> None:
    """The core chooses the same forms and gives the same bytes: as records whose jumps name positions, so that a batch
    decides by tables."""
    program, batch = asm.program, emit.Batch(asm.library)
    things = Things(program.library, program.labels)
    things.batch = batch
    (main,) = program.functions
    batch.function(main.frame, things.operand(main)[1])
    records = list(map(things.record, program.ops))
    places = {n: -1 if label.position is None else label.position for n, label in enumerate(things.labels)}
    batch.extend(b"".join(by_position(record, places) for record in records))
    taken = [emit.RECORD.unpack_from(batch.records(), n * emit.RECORD.size)[1] for n in range(len(batch))]
    assert [op.operation.forms[n] for op, n in zip(program.ops, taken, strict=True)] == [
        op.form for op in program.ops
    ]
    image = patch.encode(program, BASE, DATA_BASE, addresses(asm.library))
    batch.link()
    for _ in range(2):  # the second time from what the first one left
        code = bytearray(batch.settle(BASE, DATA_BASE, addresses(asm.library)))
        batch.write(code, bytearray(8))
        assert (batch.offsets()[:-1], bytes(code)) == (image.offsets, image.code)


# ---- batches


def batch_of(*records: tuple[str, list[int], list[int]], frame: int = 64) -> emit.Batch:
    """A batch of records: operation, kinds, words."""
    lib = library("x86_64")
    batch = emit.Batch(lib)
    batch.function(frame)
    numbers = core_library(lib).numbers
    data = bytearray()
    for name, kinds, words in records:
        code = sum(kind << 4 * n for n, kind in enumerate(kinds))
        data += emit.RECORD.pack(numbers[name], 0, code, *words, *[0] * (6 - len(words)))
    batch.extend(data)
    return batch


RETURN = ("ret", [emit.SLOT], [0])


def test_a_batch_is_linked_for_any_base_and_again_after_a_reset() -> None:
    batch = batch_of(("i64_add", [emit.SLOT] * 3, [0, 8, 16]), ("jump", [emit.POSITION], [2]), RETURN)
    asm = Assembler(library("x86_64"))
    asm.function("main", frame=64)
    asm.op("i64_add", Slot(0), Slot(8), Slot(16))
    asm.op("jump", 2)
    asm.op("ret", Slot(0))
    records = bytes(batch.records())
    for base in (BASE, 0x7FFF00000000):
        batch.link()
        code, data = bytearray(batch.settle(base, DATA_BASE, {})), bytearray(8)
        batch.write(code, data)
        assert bytes(code) == patch.encode(asm.program, base, DATA_BASE, {}).code
        batch.reset()
        batch.function(64)
        batch.extend(memoryview(records))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the library of this test is for x86-64")
def ret(lib: Library) -> bytes:
    return emit.RECORD.pack(lib["ret"].index, 0, emit.SLOT, *[0] * 6)


def returning(lib: Library, count: int) -> emit.Batch:
    """So many times `ret`."""
    batch = emit.Batch(lib)
    batch.function(8)
    batch.extend(count * ret(lib))
    return batch


def place(batch: emit.Batch) -> int:
    return int(batch._ffi.cast("uintptr_t", batch._handle))


def test_memory_of_a_program_is_there_for_the_next() -> None:
    """… unless that is much, or another one is kept already; and the library goes after its programs."""
    lib = library("x86_64")
    first, second = returning(lib, 3), returning(lib, 2)
    kept = place(first)
    del first
    del second  # one is enough
    again = emit.Batch(lib)
    assert (place(again), len(again)) == (kept, 0)
    with pytest.raises(StateError):
        again.extend(ret(lib))  # nothing is left of its functions
    del again
    large = returning(lib, (1 << 16) + 1)
    assert place(large) == kept
    del large
    assert not core_library(lib).programs._kept
    last = returning(lib, 1)
    del lib
    gc.collect()
    assert last.link()[0] > 0


def test_one_call_does_what_several_do() -> None:
    fresh = emit.Batch(
        Library.load(cnp.runtime.installed("ops", "x86_64"))
    )  # whose operations are not complete yet
    wanted = batch_of(("i64_add", [emit.SLOT] * 3, [0, 8, 16]), RETURN)
    records = bytes(wanted.records())
    assert fresh.assemble(64, records) == wanted.link()
    block = code_memory(fresh.library.target).allocate(*wanted.link())
    size, enter, last = fresh.place(block, {}, position=1)
    code = bytearray(wanted.settle(block.code_address, block.data_address, {}))
    wanted.write(code, bytearray())
    assert ctypes.string_at(block.code_address, size) == bytes(code)
    assert fresh.offsets() == wanted.offsets()
    assert (enter, last) == (wanted.routines()[ENTER], block.code_address + wanted.offset(1))
    block.free()
    with pytest.raises(OperandError) as short:
        fresh.assemble(64, records[1:])
    assert short.value.operand == "records"
    with pytest.raises(OperandError) as outside:
        fresh.assemble(8, records)
    assert (outside.value.index, outside.value.value) == (0, 8)


def test_the_core_refuses_with_evidence() -> None:
    with pytest.raises(OperandError) as outside:
        batch_of(("i64_add", [emit.SLOT] * 3, [0, 8, 64]))
    assert (outside.value.op, outside.value.operand, outside.value.value) == ("i64_add", "b", 64)
    with pytest.raises(OperandError) as unknown:
        batch_of(("i64_add", [emit.SLOT, emit.LABEL, emit.SLOT], [0, 8, 16]))
    assert unknown.value.index == 0
    with pytest.raises(LabelError) as unbound:
        batch_of(("jump", [emit.POSITION], [7]), RETURN).link()
    assert unbound.value.index == 0
    with pytest.raises(LabelError):
        batch_of(("i64_add", [emit.SLOT] * 3, [0, 8, 16])).link()
    with pytest.raises(OperandError):
        batch_of().extend(b"short")
    with pytest.raises(StateError):
        batch_of(RETURN).settle(BASE, DATA_BASE, {})
    batch = batch_of(RETURN)
    batch.link()
    with pytest.raises(RangeError):
        batch.settle(BASE + 1, DATA_BASE, {})


def test_a_vocabulary_that_says_what_cannot_be_is_refused() -> None:
    """Random bytes in the tables: an error or a table that holds, never a crash."""
    lib = library("x86_64")
    rng = random.Random(4)
    whole = {name: bytes(view) for name, view in lib.rows.items()}
    for _ in range(40):
        name = rng.choice(["forms", "takes", "accepts", "stencils", "blocks", "runs", "holes"])
        damaged = bytearray(whole[name])
        for _ in range(len(damaged) // 40):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        lib.rows = {**lib.rows, name: memoryview(damaged)}
        try:
            batch = emit.Batch(lib)
            batch.function(64)
            for number in range(len(lib.operations)):
                batch.extend(emit.RECORD.pack(number, 0, 0x111, 0, 8, 16, 0, 0, 0))
        except cnp.CnpError:
            pass
        lib.core = None
        lib.rows = {name: memoryview(data) for name, data in whole.items()}
    assert emit.Batch(lib) is not None
