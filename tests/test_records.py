"""Operations as records: `extend`, one by one through C, and in pure Python give the same bytes and refuse the same."""

from __future__ import annotations

import ctypes
import mmap
import random
import resource
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

import cnp
from cnp import LabelError, OperandError, StateError, SymbolError, emit, encode, native, patch, slot
from cnp.assembler import Assembler
from cnp.emit import FUNCTION, HOME, LABEL, NUMBER, POSITION, RECORD, SLOT, UNSIGNED, R
from cnp.library import Library
from cnp.operands import Function, Label, Register, Slot, Symbol, Table, Value
from cnp.program import Op, Program
from cnp.runtime import installed
from tests.core_programs import OUTSIDE, program
from tests.support import need

TARGETS = ("x86_64", "aarch64", "riscv64", "ppc64le", "mips64", "mips64el")
BASE, DATA_BASE = 0x10000000, 0x50000000
FRAME = 1 << 16
WAYS = pytest.mark.parametrize("pure", [False, True], ids=["core", "pure"])


def library(target: str) -> Library:
    return Library.load(installed("ops", target))


def assembler(lib: Library, pure: bool) -> Assembler:
    """One whose operations the core holds, or one that does without it."""
    asm = Assembler(lib)
    need(pure or asm.program.ops.records is not None, f"no core in C: {native.reason}")
    asm.program.ops.listed() if pure else None
    return asm


def record(asm: Assembler, name: str, *operands: object) -> bytes:
    """An operation as a record; an operand may be a kind with its word."""
    kinds, words = 0, [0] * 6
    for n, operand in enumerate(operands):
        kind: int
        kind, words[n] = operand if type(operand) is tuple else asm.operand(operand)
        kinds |= kind << 4 * n
    return RECORD.pack(asm.library[name].index, 0, kinds, *words)


# ---- the same bytes by every way


def some_forms(lib: Library, rng: random.Random) -> list[Any]:
    """Forms of some operations, many times."""
    names = rng.sample(lib.operations, 25)
    return rng.choices([(lib[name], form) for name in names for form in lib[name].forms], k=400)


class Copy:
    """A program appended to another assembler: by records, in pieces, with calls in between."""

    def __init__(self, source: Program, asm: Assembler, rng: random.Random) -> None:
        self.asm, self.rng, self.pending = asm, rng, bytearray()
        self.known: dict[object, Any] = {}
        for position, op in enumerate(source.ops):
            self.begin(source, position)
            self.append(op)
        self.begin(source, len(source.ops))
        self.flush()

    def begin(self, source: Program, position: int) -> None:
        """The functions and labels of a position."""
        bound = [label for label in (*source.functions, *source.labels) if label.position == position]
        if bound:
            self.flush()
        for label in bound:
            if isinstance(label, Function):
                self.asm.begin(self.thing(label))
            else:
                self.asm.bind(self.thing(label))

    def thing(self, value: Value) -> Any:
        """The operand of the other program that this one is here."""
        if isinstance(value, (Slot, Register, Symbol, int)):
            return value
        if value not in self.known:
            self.known[value] = (
                self.asm.declare(value.name, value.frame)
                if isinstance(value, Function)
                else self.asm.label(value.name)
                if isinstance(value, Label)
                else self.asm.table(*map(self.thing, value.labels))
                if isinstance(value, Table)
                else self.asm.cell(value.initial)  # type: ignore[union-attr]
            )
        return self.known[value]

    def append(self, op: Op) -> None:
        values = [self.thing(value) for value in op.values]
        floats = any(accept.kind in ("f32", "f64") for accept in op.form.accepts)
        parked = any(isinstance(value, Slot) and value.offset < 0 for value in values)
        if not (floats or parked) and self.rng.random() < 0.3:
            self.flush()
            self.asm.op(op.operation.name, *values)
        else:
            self.pending += record(self.asm, op.operation.name, *values)

    def flush(self) -> None:
        if self.pending:
            size = len(self.asm.ops)
            assert self.asm.extend(self.pending) == size
            assert len(self.asm.ops) == size + len(self.pending) // RECORD.size
            self.pending = bytearray()


def of_any_cells(image: patch.Image) -> patch.Image:
    """The same for programs that differ in who their cells are alone."""
    places: Any = dict(enumerate(image.cell_places.values()))
    return replace(image, cell_places=places)


@pytest.mark.parametrize("target", TARGETS)
def test_every_way_gives_the_bytes_of_the_reference(target: str) -> None:
    lib = library(target)
    names = [*(item.name for item in lib.imports), OUTSIDE]
    known = {name: 0x70000000 + 0x1230 * number for number, name in enumerate(names)}
    for seed in range(2):
        chosen = some_forms(lib, random.Random(f"{target}{seed}"))
        by_calls = program(lib, seed, 120, chosen[:], assembler(lib, pure=False))
        reference = program(lib, seed, 120, chosen[:], assembler(lib, pure=True))
        image = patch.encode(reference.program, BASE, DATA_BASE, known)
        asms = [by_calls, *(assembler(lib, pure) for pure in (False, True))]
        for number, asm in enumerate(asms[1:]):
            Copy(reference.program, asm, random.Random(number))
        for asm, held in zip(asms, (True, True, False), strict=True):
            assert (asm.program.in_core() is not None) == held
            assert of_any_cells(encode.encode(asm.program, BASE, DATA_BASE, known)) == of_any_cells(image)
            assert [op.form for op in asm.ops] == [op.form for op in reference.ops]


def random_record(lib: Library, rng: random.Random) -> bytes:
    """A record that may say something, or nothing."""
    number = rng.randrange(len(lib.operations) + (rng.random() < 0.02))
    count = len(lib[lib.operations[number]].operands) if number < len(lib.operations) else 2
    count += rng.random() < 0.02
    kinds = [
        rng.choice((SLOT, SLOT, R, R, NUMBER, emit.WIDE_KIND, UNSIGNED, rng.randrange(16)))
        for _ in range(count)
    ]
    words = [
        rng.choice((0, 1, 2, 8, 16, 24, 32, 40, -1, -8, -128, 1 << 20, rng.getrandbits(31))) for _ in range(6)
    ]
    return RECORD.pack(
        number, rng.getrandbits(16), sum(kind << 4 * n for n, kind in enumerate(kinds)), *words
    )


@pytest.mark.parametrize("target", TARGETS)
def test_records_of_strangers_are_read_alike(target: str) -> None:
    """What the core takes, the reference takes with the same form and operands; what one refuses, both do."""
    lib, rng = library(target), random.Random(target)
    asms = [assembler(lib, pure) for pure in (False, True)]
    for asm in asms:
        asm.function("main", frame=48)
        things = (asm.label("a"), asm["main"], asm.cell(5), asm.table(asm["main"]), Symbol("s"), 1 << 40)
        assert [asm.operand(thing)[1] for thing in things] == [1, 0, 0, 0, 0, 0]
    taken = 0
    for _ in range(1500):
        data, outcomes = random_record(lib, rng), []
        for asm in asms:
            try:
                asm.extend(data)
                outcomes.append(asm.ops[-1])
            except OperandError as error:
                outcomes.append((type(error), error.op, error.index))  # type: ignore[arg-type]
        if isinstance(outcomes[0], Op):
            taken += 1
            assert isinstance(outcomes[1], Op)
            assert outcomes[0].form is outcomes[1].form
            same = [str(value) for value in outcomes[0].values] == [
                str(value) for value in outcomes[1].values
            ]
            assert same, (outcomes[0].operation.name, outcomes[0].values, outcomes[1].values)
        else:
            assert outcomes[0] == outcomes[1], (RECORD.unpack(data), outcomes)
    assert 20 < taken < 1480


# ---- any buffer


def buffers(data: bytes) -> Iterator[Any]:
    yield data
    yield bytearray(data)
    yield memoryview(data)
    yield array("i", data)
    yield (ctypes.c_uint64 * (len(data) // 8)).from_buffer_copy(data)
    mapped = mmap.mmap(-1, len(data))
    mapped[:] = data
    yield mapped
    if find_spec("numpy"):
        import numpy

        fields = [("op", "u2"), ("form", "u2"), ("kinds", "u4"), ("words", "i4", 6)]
        yield numpy.frombuffer(data, dtype=fields)


def vocabulary(pure: bool) -> cnp.Assembler:
    """An assembler for this machine."""
    asm = cnp.load("ops").assembler()
    need(pure or asm.program.ops.records is not None, f"no core in C: {native.reason}")
    if pure:
        asm.program.ops.listed()
    return asm


@WAYS
def test_any_buffer_holds_records(pure: bool) -> None:
    asm, number = vocabulary(pure), 0
    asm.function("f", frame=32)
    data = record(asm, "i64_add", slot(0), slot(0), slot(8)) * 3
    for number, buffer in enumerate(buffers(data), 1):
        assert asm.extend(buffer) == 3 * (number - 1)
    asm.ret(slot(0))
    found = asm.build()["f"].run(frame=frame_of(asm, 0, 7))
    assert found.value == 7 * 3 * number >= 7 * 3 * 6


def frame_of(asm: Assembler, *words: int) -> cnp.Frame:
    frame = cnp.Frame(asm.library, 32)
    for number, word in enumerate(words):
        frame[8 * number] = word
    return frame


@WAYS
def test_records_run_beside_calls_labels_and_functions(pure: bool) -> None:
    """A loop of records and calls: large numbers, positions, labels, a function, a table, a cell."""
    asm = vocabulary(pure)
    twice = asm.declare("twice", frame=16)
    loop, end, other = asm.label("loop"), asm.label("end"), asm.label("other")
    base = asm.library.header_size + 32
    asm.function("main", frame=base + 16)
    asm.extend(record(asm, "i64_move", slot(8), 0) + record(asm, "i64_move", slot(16), 0))
    asm.bind(loop)
    asm.extend(record(asm, "br_i64_lt_s", slot(8), 10, (POSITION, 4)))
    asm.jump(end)
    asm.extend(
        record(asm, "i64_move", slot(base), slot(8))
        + record(asm, "call", twice, slot(32), slot(24))
        + record(asm, "i64_add", slot(16), slot(16), slot(24))
        + record(asm, "i64_add", slot(16), slot(16), 1)
        + record(asm, "i64_add", slot(8), slot(8), 1)
        + record(asm, "jump_table", slot(8), 1, asm.table(other))
    )
    asm.bind(other)
    asm.jump(loop)
    asm.bind(end)
    asm.i64_move(slot(8), (1 << 40) + 7)
    asm.i64_add(slot(16), slot(16), slot(8))
    asm.ret(slot(16))
    asm.begin(twice)
    asm.extend(record(asm, "i64_add", slot(0), slot(0), slot(0)) + record(asm, "ret", slot(0)))
    assert asm.build()["main"].run().value == 2 * sum(range(10)) + 10 + (1 << 40) + 7


# ---- what is refused


MISTAKES: list[tuple[str, Any]] = [
    ("no whole record", lambda asm: b"short"),
    ("no buffer", lambda asm: 5),
    ("no operation", lambda asm: RECORD.pack(65535, 0, 0, *[0] * 6)),
    ("an operand too many", lambda asm: record(asm, "ret", slot(0), slot(8))),
    ("an operand too few", lambda asm: record(asm, "i64_add", slot(0), slot(8))),
    ("no kind", lambda asm: record(asm, "ret", (15, 0))),
    ("outside of the frame", lambda asm: record(asm, "ret", slot(32))),
    ("no home", lambda asm: record(asm, "ret", (HOME, -4))),
    ("no register", lambda asm: record(asm, "ret", (R, 99))),
    ("no label", lambda asm: record(asm, "jump", (LABEL, 99))),
    (
        "no function",
        lambda asm: record(asm, "call", (FUNCTION, asm.operand(asm["here"])[1]), slot(16), slot(0)),
    ),
    ("no form", lambda asm: record(asm, "i64_rotl", cnp.r[1], cnp.r[2], 70000)),
]


@WAYS
@pytest.mark.parametrize("mistake", [make for _, make in MISTAKES], ids=[name for name, _ in MISTAKES])
def test_a_wrong_record_is_named_and_those_before_it_are_appended(mistake: Any, pure: bool) -> None:
    asm = vocabulary(pure)
    asm.function("f", frame=32)
    asm.bind("here")
    good, wrong = record(asm, "i64_add", slot(0), slot(0), slot(8)), mistake(asm)
    asm.extend(good)
    with pytest.raises(OperandError) as caught:
        asm.extend(good + wrong + good if isinstance(wrong, bytes) else wrong)
    if isinstance(wrong, bytes) and len(wrong) == RECORD.size:
        assert caught.value.index == 2
        assert len(asm.ops) == 2
    else:
        assert len(asm.ops) == 1
    asm.extend(record(asm, "ret", slot(0)))
    assert asm.build()["f"].run(frame=frame_of(asm, 0, 3)).value == 3 * (len(asm.ops) - 1)


@WAYS
def test_records_come_into_a_function_of_an_open_program(pure: bool) -> None:
    asm = vocabulary(pure)
    data = record(asm, "ret", slot(0))
    with pytest.raises(StateError):
        asm.extend(data)
    asm.function("f", frame=8)
    asm.extend(data)
    asm.build()
    with pytest.raises(StateError):
        asm.extend(data)
    with pytest.raises(StateError):
        asm.operand(asm["f"])


@WAYS
@pytest.mark.parametrize("frame", [0, 32])
@pytest.mark.parametrize("target", TARGETS)
def test_a_position_where_nothing_can_be_is_an_unbound_label(target: str, frame: int, pure: bool) -> None:
    """Whether the core takes the record at once or looks at it more closely."""
    asm = assembler(library(target), pure)
    asm.function("f", frame)
    asm.extend(record(asm, "jump", (POSITION, -5)) + record(asm, "ret", cnp.r[1]))
    assert [op.operation.name for op in asm.ops] == ["jump", "ret"]
    with pytest.raises(LabelError) as caught:
        asm.check()
    assert caught.value.index == 0
    del asm.ops[0]
    asm.check()


@WAYS
def test_buffers_in_pieces_are_refused_and_empty_ones_are_none(pure: bool) -> None:
    asm = vocabulary(pure)
    asm.function("f", frame=32)
    data = record(asm, "i64_add", slot(0), slot(0), slot(8)) * 2
    with pytest.raises(OperandError, match="contiguous") as caught:
        asm.extend(memoryview(data)[::2])
    assert caught.value.operand == "records"
    for empty in (b"", array("i"), (ctypes.c_int * 8 * 0)()):
        assert asm.extend(empty) == len(asm.ops) == 0


@WAYS
def test_operands_that_records_cannot_say(pure: bool) -> None:
    asm, other = vocabulary(pure), vocabulary(pure)
    asm.function("f", frame=8)
    places = (slot(1 << 31), Register("r", 99), Register("x", 1))
    for value in (1 << 64, 1.5, True, "x", asm.here() + 8, asm.data.label("d"), *places):
        with pytest.raises(OperandError):
            asm.operand(value)
    with pytest.raises(LabelError):
        asm.operand(other.label("its own"))
    with pytest.raises(LabelError):
        asm.operand(asm.table(other.label("its own")))


def test_what_the_core_does_not_know_is_linked_all_the_same() -> None:
    """Edits and cold code: the operations stay what they were."""
    asm = vocabulary(pure=False)
    asm.function("f", frame=32)
    add = record(asm, "i64_add", slot(0), slot(0), slot(8))
    asm.extend(add * 3)
    assert asm.program.in_core() is not None
    word = asm.data.here("word")
    asm.data.i64(40)
    asm.i64_move(cnp.r[1], word)
    assert asm.program.in_core() is not None and asm.ops[-1].values == (cnp.r[1], word)
    asm.extend(add)
    asm.ops.replace(0, "i64_add", slot(0), slot(0), 100)
    assert asm.program.in_core() is None
    asm.i64_load(cnp.r[1], cnp.r[1], 0)
    with asm.cold():
        asm.i64_add(slot(0), slot(0), cnp.r[1])
    asm.extend(record(asm, "ret", slot(0)))
    assert asm.build()["f"].run(frame=frame_of(asm, 0, 7)).value == 100 + 3 * 7 + 40


def test_who_comes_while_the_core_works_is_refused() -> None:
    """As from another thread, while this one is in the core without the GIL."""
    asm = vocabulary(pure=False)
    asm.function("f", frame=32)
    asm.ret(slot(0))
    records, refused = asm.program.ops.records, []
    assert records is not None

    def others() -> None:
        for call in (lambda: asm.ret(slot(0)), lambda: asm.ops[0], asm.check, lambda: asm.extend(b"")):
            try:
                call()
            except StateError as error:
                refused.append(error.state)

    thread = threading.Thread(target=others)
    with records.alone():
        thread.start()
        thread.join()
    assert refused == ["busy"] * 4
    asm.ret(slot(0))
    assert len(asm.ops) == 2


def test_what_python_appends_is_appended_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody comes in between, so that each operation keeps what was said with it."""
    asm = vocabulary(pure=False)
    asm.function("f", frame=32)
    records, refused = asm.program.ops.records, []
    assert records is not None
    say = records.things.record

    def other() -> None:
        try:
            asm.ret(slot(0))
        except StateError as error:
            refused.append(error.state)

    def slowly(op: Op) -> bytes:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return say(op)

    monkeypatch.setattr(records.things, "record", slowly)
    asm.f64_move(slot(0), 1.5, at=("f", 1))
    assert refused == ["busy"]
    assert [(op.operation.name, op.at) for op in asm.ops] == [("f64_move", ("f", 1))]


@WAYS
def test_a_build_that_failed_leaves_the_program_open(pure: bool) -> None:
    asm = vocabulary(pure)
    asm.function("f", frame=32)
    add = asm.i64_add
    add(slot(0), slot(0), 1)
    asm.i64_move(slot(8), Symbol("x"))
    asm.jump(asm["end"])
    asm.bind("end")
    asm.ret(slot(8))
    with pytest.raises(SymbolError):
        asm.build()
    asm.function("g", frame=32)
    add(slot(0), slot(0), 1)
    asm.extend(record(asm, "i64_add", slot(0), slot(0), slot(0)) + record(asm, "ret", slot(0)))
    asm.symbols = {"x": 40}
    code = asm.build()
    assert (code["f"].run().value, code["g"].run().value) == (40, 2)
    with pytest.raises(StateError):
        add(slot(0), slot(0), 1)


def test_operations_of_the_last_program_go_to_the_present_one() -> None:
    asm = vocabulary(pure=False)
    add = asm.i64_add
    codes = []
    for _ in range(2):
        asm.function("f", frame=32)
        for line in range(50):
            assert add(slot(0), slot(0), slot(8), at=("f", line)) == line
        asm.ret(slot(0))
        assert [op.at for op in asm.ops] == [*(("f", line) for line in range(50)), None]
        codes.append(asm.build())
        asm.reset()
    assert [code["f"].run(frame=frame_of(asm, 0, 2)).value for code in codes] == [100, 100]
    assert asm.i64_add is add


def test_a_program_that_becomes_a_list_leaves_those_of_others_alone() -> None:
    asm = vocabulary(pure=False)
    add, programs = asm.i64_add, []
    for count in range(1, 4):
        programs.append(asm.program)
        asm.function("f", frame=32)
        for before in programs[: count - 1]:
            before.ops.listed()
        add(slot(0), slot(0), slot(8))
        assert asm.program.ops.records is not None
        asm.program.ops.listed()
        add(slot(0), slot(8), slot(8))
        asm.reset()
    assert [len(each.ops) for each in programs] == [2, 2, 2]
    assert len(asm.ops) == 0


# ---- many


def test_many_operations_link_and_run() -> None:
    run_many(300_000)


@pytest.mark.soak
def test_ten_million_operations_link_and_run() -> None:
    """In a process of its own: its memory is what is measured, at most 64 bytes an operation beyond the code."""
    count = 10_000_000
    script = f"from tests.test_records import run_many; run_many({count}, measured=True)"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 0 < float(ran.stdout) <= 64


def run_many(count: int, measured: bool = False) -> None:
    """A program of so many additions in pieces; measured: print the memory that it took beyond its code."""
    asm = vocabulary(pure=False)
    asm.function("f", frame=32)
    piece = record(asm, "i64_add", slot(0), slot(0), slot(8)) * 10_000
    asm.extend(piece)
    before = peak()
    for _ in range(count // 10_000 - 1):
        asm.extend(piece)
    asm.ret(slot(0))
    code = asm.build()
    if measured:
        print((peak() - before - len(code.image.code)) / count)
    assert len(code.program.ops) == len(code.image.offsets) == count + 1
    assert code["f"].run(frame=frame_of(asm, 0, 3)).value == 3 * count
    last = code.address(count)
    assert code.op_at(last) == count if not measured else last > code.address(0)


def peak() -> int:
    """Bytes of memory that this process had at most."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
