"""The stencil file: what is damaged is refused, whatever it is, even under a digest that was made to match."""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnp import f, interpret, patch, r
from cnp.assembler import Assembler, Program, Register, Slot, Symbol
from cnp.errors import BuildError, CnpError, LibraryError, OperandError
from cnp.library import HEAD, MAGIC, Library, pack
from cnp.runtime import installed
from cnp.stencil import Accept, Block, Form, Operand, Operation, Stencil
from cnp.tables import NONE, TABLES
from cnp.targets import TARGETS
from tests.hand_made import HOME, R, built, form
from tests.support import best_of

FILE = installed("brainfuck", "mips64")
DATA = FILE.read_bytes()
HAND_MADE = pack(built())


class File:
    """A stencil file in its parts. places: where each table begins in the body, in bytes."""

    def __init__(self, data: bytes) -> None:
        length = HEAD.unpack_from(data)[1]
        self.text, self.body = data[HEAD.size : HEAD.size + length], data[HEAD.size + length :]
        self.head: dict[str, Any] = json.loads(self.text)
        self.counts: dict[str, int] = self.head["counts"]
        self.places, end = {}, 0
        for name, row in TABLES.items():
            self.places[name] = end
            end += self.counts[name] * row.size

    def changed(self, change: Callable[[dict[str, Any]], object]) -> bytes:
        """With another head, under a digest that fits."""
        head = json.loads(self.text)
        change(head)
        return sealed(json.dumps(head).encode(), self.body)


WHOLE, REGISTERS = File(DATA), File(HAND_MADE)
TEXT, BODY, COUNTS, ROWS = WHOLE.text, WHOLE.body, WHOLE.counts, REGISTERS.counts


def sealed(text: bytes, body: bytes) -> bytes:
    """A file with a digest that fits."""
    return HEAD.pack(MAGIC, len(text), hashlib.sha256(text + body).digest()) + text + body


def with_head(change: Callable[[dict[str, Any]], object]) -> bytes:
    return WHOLE.changed(change)


def read_everything(library: Library) -> None:
    """Ask for all that is in a file; each answer is checked."""
    for name in library.operations:
        assert library[name].name == name
    for name in library.routine_names:
        library.routine(name)
    assert len(library.constants) == len(library.facts["constants"])


def use_everything(library: Library) -> None:
    """Make every form of every operation, link it, and link the interpreter."""
    addresses = {item.name: 0x10000 for item in library.imports} | {"symbol": 0x20000}
    for name in library.operations:
        for each in library[name].forms:
            asm = Assembler(library)
            here, function = asm.here(), asm.function("f", 256)
            values: dict[str, object] = {
                "label": here,
                "func": function,
                "cell": asm.cell(1),
                "table": asm.table(here),
            }
            values["symbol"] = Symbol("symbol")
            asm.op(name, *(values.get(accepted.kind, plain(accepted)) for accepted in each.accepts))
            last = "stop" if "stop" in library else "ret"
            asm.op(last, *(plain(accepted) for accepted in library[last].forms[0].accepts))
            patch.encode(asm.program, 0x100000, None, addresses)
            interpret.records(asm.program, 0, lambda cell: 0, addresses)
    patch.encode(Program(library, roots=("cnp_interpret",)), 0x100000, None, addresses)


def plain(accepted: Accept) -> object:
    """Zero, or the least that is allowed."""
    if accepted.kind in ("r", "f"):
        return Register(accepted.kind, max(0, (accepted.mask & -accepted.mask).bit_length() - 1))
    if accepted.kind == "slot":
        return Slot(max(0, accepted.low))
    return 0 if accepted.low <= 0 <= accepted.high else accepted.low


@pytest.mark.parametrize("vocabulary", ["ops", "brainfuck"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_file_that_came_with_the_library_is_whole(vocabulary: str, target: str) -> None:
    library = Library.load(installed(vocabulary, target))
    assert library.target.name == target
    assert all(library[name].name == name and name in library for name in library.operations)
    assert [library[name].index for name in library.operations] == list(range(len(library.operations)))


def test_a_missing_file() -> None:
    with pytest.raises(LibraryError, match="build_stencils") as caught:
        Library.load("/nowhere/x.cnp")
    assert caught.value.path == "/nowhere/x.cnp"


def test_an_unknown_operation_and_routine() -> None:
    library = Library(DATA)
    with pytest.raises(OperandError) as caught:
        library["no_such"]
    assert caught.value.op == "no_such"
    with pytest.raises(LibraryError, match="no_such"):
        library.routine("no_such")


@pytest.mark.parametrize("length", [0, 7, HEAD.size - 1, HEAD.size, HEAD.size + 5, len(DATA) - 1])
def test_a_short_file(length: int, tmp_path: Path) -> None:
    place = tmp_path / "short.cnp"
    place.write_bytes(DATA[:length])
    with pytest.raises(LibraryError) as caught:
        Library.load(place)
    assert caught.value.path == str(place)


def test_every_flipped_bit_is_seen() -> None:
    dice = random.Random(1)
    for _ in range(100):
        data = bytearray(DATA)
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        with pytest.raises(LibraryError):
            Library(bytes(data))


def deep_head() -> bytes:
    return sealed(b"[" * 100_000, BODY)


def set_state(head: dict[str, Any], index: int, value: object) -> None:
    head["state"][0][index] = value


@pytest.mark.parametrize(
    "data",
    [
        with_head(lambda head: head.update(format=1)),
        with_head(lambda head: head.pop("target")),
        with_head(lambda head: head.update(target="pdp11")),
        with_head(lambda head: head.update(target="aarch64")),
        with_head(lambda head: head.update(counts=[1, 2, 3])),
        with_head(lambda head: head["counts"].update(forms=float("inf"))),
        with_head(lambda head: head["counts"].update(forms=-1)),
        with_head(lambda head: head["counts"].update(stencils=COUNTS["stencils"] + 1)),
        with_head(lambda head: head["counts"].pop("code")),
        with_head(lambda head: head.update(header_size=16)),
        with_head(lambda head: head.update(header_size=head["header_size"] + 8)),
        with_head(lambda head: head.update(result="nothing")),
        with_head(lambda head: set_state(head, 2, head["state_size"])),
        with_head(lambda head: set_state(head, 2, -8)),
        with_head(lambda head: set_state(head, 3, 16)),
        with_head(lambda head: set_state(head, 0, 5)),
        with_head(lambda head: head["routines"].pop(0)),
        with_head(lambda head: head["routines"][0].__setitem__(1, -1)),
        with_head(lambda head: head["operations"].append(head["operations"][0])),
        with_head(lambda head: head.update(ties=[[[[0, "1"]], []]])),
        with_head(lambda head: head.update(kinds=[1])),
        with_head(lambda head: head.update(registers={"r": [1]})),
        with_head(lambda head: head.update(registers=[1])),
        REGISTERS.changed(lambda head: head["registers"]["r"].append(4)),
        REGISTERS.changed(lambda head: head["registers"]["r"].__setitem__(0, -2)),
        REGISTERS.changed(lambda head: head["registers"]["r"].__setitem__(0, True)),
        REGISTERS.changed(lambda head: head["state"][0].__setitem__(3, 4)),
        deep_head(),
        sealed(b"no json", BODY),
        sealed(b"\xff\xfe", BODY),
        sealed(TEXT, BODY[:-1]),
        sealed(TEXT, BODY + b"\0"),
    ],
)
def test_a_wrong_head_under_a_right_digest(data: bytes) -> None:
    """What all operations share is checked at once."""
    with pytest.raises(LibraryError):
        Library(data)


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head["routines"][0].__setitem__(1, COUNTS["blocks"]),
        lambda head: head["constants"].append([0, 8, 3]),
        lambda head: head["constants"].append([COUNTS["code"], 8, 8]),
        lambda head: head["constants"].append([8, -8, 8]),
        lambda head: head["operations"][0].pop(),
        lambda head: head["operations"][0].__setitem__(1, "x"),
        lambda head: head["operations"][0].__setitem__(4, -1),
        lambda head: head["operations"][0].__setitem__(4, COUNTS["forms"]),
        lambda head: head["operations"][0].__setitem__(5, -1),
        lambda head: head["operations"][0].__setitem__(5, COUNTS["forms"] + 1),
        lambda head: head["operations"][0].__setitem__(5, True),
        lambda head: head["operations"][0][3].extend([["imm", "i32", "more"]] * 7),
        lambda head: head["operations"][0][3].append(["imm", "i32"]),
        lambda head: head["operations"][0][3].append(["imm", "i32", 5]),
        lambda head: [operation[3].clear() for operation in head["operations"]],
        lambda head: head.update(kinds=[]),
        lambda head: head.update(features=[]),
        lambda head: head.update(ties=[]),
        lambda head: head.update(ties=[[[[0, 6]], []]]),
        lambda head: head.update(ties=[[[], [[-1, 0]]]]),
    ],
)
def test_a_wrong_part_is_refused_when_it_is_asked_for(change: Callable[[dict[str, Any]], object]) -> None:
    library = Library(with_head(change))
    with pytest.raises(LibraryError) as caught:
        read_everything(library)
    assert caught.value.path == library.path


@pytest.mark.parametrize(
    ("table", "at", "size", "value"),
    [
        pytest.param("forms", 0, 4, ROWS["takes"], id="form: takes"),
        pytest.param("forms", 4, 4, ROWS["stencils"], id="form: near"),
        pytest.param("forms", 4, 4, NONE, id="form: no near"),
        pytest.param("forms", 8, 4, ROWS["stencils"], id="form: far"),
        pytest.param("forms", 12, 2, 9999, id="form: ties"),
        pytest.param("forms", 14, 2, 9999, id="form: feature"),
        pytest.param("takes", 0, 2, ROWS["accepts"], id="take: accept"),
        pytest.param("accepts", 0, 16, 1 | ((1 << 64) - 1) << 64, id="accept: range"),
        pytest.param("accepts", 20, 2, 64, id="accept: align 2^64"),
        pytest.param("accepts", 20, 2, 0xFFFF, id="accept: align 2^65535"),
        pytest.param("accepts", 22, 1, 255, id="accept: kind"),
        pytest.param("stencils", 0, 4, ROWS["blocks"], id="stencil: hot block"),
        pytest.param("stencils", 0, 4, NONE, id="stencil: no block"),
        pytest.param("stencils", 4, 4, ROWS["blocks"], id="stencil: cold block"),
        pytest.param("blocks", 0, 4, ROWS["code"] + 1, id="block: offset"),
        pytest.param("blocks", 4, 4, 1 << 31, id="block: length"),
        pytest.param("blocks", 4, 4, 0, id="block: holes behind its end"),
        pytest.param("blocks", 8, 4, ROWS["runs"] + 1, id="block: first hole"),
        pytest.param("blocks", 8, 4, NONE, id="block: first hole far away"),
        pytest.param("blocks", 12, 2, 0xFFFF, id="block: holes"),
        pytest.param("blocks", 14, 1, 255, id="block: tail"),
        pytest.param("blocks", 15, 1, 13, id="block: align 2^13"),
        pytest.param("blocks", 15, 1, 255, id="block: align 2^255"),
        pytest.param("runs", 0, 4, ROWS["holes"], id="run: hole"),
        pytest.param("holes", 0, 4, 1 << 31, id="hole: offset"),
        pytest.param("holes", 16, 1, 255, id="hole: field"),
        pytest.param("holes", 17, 1, 200, id="hole: what"),
        pytest.param("holes", 17, 3, 5 << 8, id="hole: operand that the operation has not"),
        pytest.param("holes", 17, 3, 6 << 8, id="hole: operand that no operation has"),
        pytest.param("holes", 17, 3, 3 | 3 << 8, id="hole: way out without a stub"),
        pytest.param("holes", 17, 3, 5 | 999 << 8, id="hole: constant"),
        pytest.param("holes", 17, 3, 4 | 1 << 8, id="hole: cold block that is not there"),
    ],
)
def test_a_wrong_row_under_a_right_digest(table: str, at: int, size: int, value: int) -> None:
    """The first row of each table belongs to the first form of the first operation, a move of registers."""
    body, place = bytearray(REGISTERS.body), REGISTERS.places[table] + at
    body[place : place + size] = value.to_bytes(size, "little")
    library = Library(sealed(REGISTERS.text, bytes(body)))
    with pytest.raises(LibraryError) as caught:
        read_everything(library)
    assert caught.value.path == library.path


def test_damage_is_seen_again() -> None:
    """An operation that was refused is refused each time; the others can be used."""
    library = Library(with_head(lambda head: head["operations"][0].__setitem__(4, -1)))
    for _ in range(2):
        with pytest.raises(LibraryError, match=library.operations[0]):
            library[library.operations[0]]
    assert library[library.operations[1]].forms


def test_what_a_routine_may_not_ask_for() -> None:
    """The first block with holes belongs to an operation."""
    library = Library(DATA)
    index = next(n for n in range(COUNTS["blocks"]) if library._tables.block(n)[1].of_operation)
    broken = Library(with_head(lambda head: head["routines"][0].__setitem__(1, index)))
    with pytest.raises(LibraryError, match="only an operation has"):
        broken.routine(broken.routine_names[0])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("whole", [WHOLE, REGISTERS], ids=["brainfuck", "hand made"])
def test_damage_under_a_right_digest_is_never_a_surprise(whole: File, seed: int) -> None:
    """Whatever is changed: the file is refused, or what it says can be used without leaving a table."""
    dice, refused = random.Random(seed), 0
    for _ in range(40):
        text, body = bytearray(whole.text), bytearray(whole.body)
        if dice.random() < 0.4:
            text[dice.randrange(len(text))] = dice.choice(b'0123456789-[]{},":eE.nul abz')
        else:
            table = dice.choice(list(TABLES)[:-1])
            place = whole.places[table] + dice.randrange(whole.counts[table] * TABLES[table].size)
            body[place] = dice.choice((0, 1, 2, 5, 127, 128, 255))
        try:
            use_everything(Library(sealed(bytes(text), bytes(body))))
        except CnpError:
            refused += 1
    assert 5 < refused < 40


def test_the_whole_file_can_be_used() -> None:
    use_everything(Library(DATA))


def test_what_was_packed_is_read() -> None:
    """Every fact of every form, and the same bytes each time."""
    made, library = built(), Library(HAND_MADE)
    assert tuple(library[name] for name in library.operations) == made.operations
    assert {name: library.routine(name) for name in library.routine_names} == made.routines
    assert (library.state, library.registers) == (made.state, made.registers)
    assert pack(made) == HAND_MADE


def test_ranges_of_all_signs_are_kept() -> None:
    word = 1 << 64
    accepts = [
        Accept("i64", -(1 << 63), (1 << 63) - 1), Accept("u64", 0, word - 1), Accept("u64", word - 1, word - 1),
        Accept("i64", -5, -5), Accept("slot", -80, 4096, 8), Accept("r", 0, 0, 1, 0xFFFF_FFFF),
    ]  # fmt: skip
    op = Operation("wide", 0, (Operand("in", "u64", "a"),), tuple(form(4, accept) for accept in accepts), 1)
    assert Library(pack(built(op)))["wide"].forms == op.forms


def test_equal_things_are_stored_once() -> None:
    """A copy of an operation costs its line in the head and its forms."""
    op = built().operations[0]
    copy = Operation("again", 0, op.operands, op.forms, op.line)
    counts = File(pack(built(copy))).counts
    more = {name: counts[name] - REGISTERS.counts[name] for name in TABLES}
    assert more == {name: len(op.forms) if name == "forms" else 0 for name in TABLES}


def test_what_does_not_fit_a_row() -> None:
    block = Block(bytes(300), (), 300)
    op = Operation("long_tail", 0, (), (Form((), Stencil((block,)), None),), 1)
    with pytest.raises(BuildError, match="format 3") as caught:
        pack(built(op))
    assert caught.value.target == "x86_64"


@pytest.mark.parametrize("align", [0, 3, 12, -4, 1 << 70])
def test_what_is_no_power_of_two(align: int) -> None:
    odd = form(0, Accept("i64", 0, 96, align))
    with pytest.raises(BuildError, match=f"a multiple of {align}") as caught:
        pack(built(Operation("odd", 0, (Operand("imm", "i64", "a"),), (odd,), 1)))
    assert caught.value.target == "x86_64"


def test_registers_and_their_homes() -> None:
    library = Library(HAND_MADE)
    assert [library.number(r[n]) for n in range(4)] == [7, 6, 2, None]
    assert [library.home(f[n]) for n in range(2)] == [HOME["f0"], HOME["f1"]]
    for ask in (library.home, library.number):
        with pytest.raises(OperandError) as caught:
            ask(r[4])
        assert caught.value.value == r[4]
    assert Library(DATA).registers == {}


def large(count: int = 100) -> bytes:
    """A file of 10,000 forms: 100 operations of 100 forms, each with a near and a far stencil of code of its own."""
    dice = random.Random(1)
    operations = []
    for index in range(count):
        forms = []
        for number in range(100):
            given = form(dice.randrange(12, 32), R, R, Accept("i64", -number - 1, number))
            near, far = (
                given.near._replace(blocks=(block._replace(code=dice.randbytes(len(block.code))),))
                for block in given.near.blocks * 2
            )
            forms.append(given._replace(near=near, far=far))
        operands = tuple(Operand("in", "u64", name) for name in "abc")
        operations.append(Operation(f"large_{index}", 0, operands, tuple(forms), 1))
    return pack(built(*operations))


def timed(work: Callable[[], object]) -> float:
    """Seconds of this process."""
    start = time.process_time()
    work()
    return time.process_time() - start


def test_ten_thousand_forms(tmp_path: Path) -> None:
    """2 MiB, 10 ms to load; the first use of an operation takes no longer than in a file of a tenth of the size."""
    path = tmp_path / "large.cnp"
    path.write_bytes(large())
    assert path.stat().st_size <= 2 << 20
    assert best_of(lambda: timed(lambda: Library.load(path)), 0.01) <= 0.01
    small = tmp_path / "small.cnp"
    small.write_bytes(large(10))

    def first_use(file: Path, count: int) -> tuple[float, float]:
        """Calls and bytes of memory that the first use of each of so many operations takes."""
        library, calls = Library.load(file), 0

        def note(*_: object) -> None:
            nonlocal calls
            calls += 1

        tracemalloc.start()
        sys.setprofile(note)
        try:
            for index in range(count):
                library[f"large_{index}"]
        finally:
            sys.setprofile(None)
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return calls / count, most / count

    for of_large, of_small in zip(first_use(path, 100), first_use(small, 10), strict=True):
        assert of_large <= 1.5 * of_small


@pytest.mark.parametrize("target", TARGETS)
def test_files_are_small_and_load_at_once(target: str) -> None:
    """The figures of the portable operations: 2 MiB, 10 ms."""
    path = installed("ops", target)
    assert path.stat().st_size <= 2 << 20
    assert best_of(lambda: timed(lambda: Library.load(path)), 0.01) <= 0.01
