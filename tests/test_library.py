"""The stencil file: what is damaged is refused, whatever it is, even under a digest that was made to match."""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnp import interpret, patch
from cnp.assembler import Assembler, Program, Slot, Symbol
from cnp.errors import CnpError, LibraryError, OperandError
from cnp.library import BLOCK, HEAD, HOLE, MAGIC, STENCIL, Library
from cnp.runtime import installed
from cnp.stencil import Accept
from cnp.targets import TARGETS
from tests.support import best_of

FILE = installed("brainfuck", "mips64")
DATA = FILE.read_bytes()
LENGTH = HEAD.unpack_from(DATA)[1]
TEXT, BODY = DATA[HEAD.size : HEAD.size + LENGTH], DATA[HEAD.size + LENGTH :]
COUNTS: list[int] = json.loads(TEXT)["counts"]
BLOCKS_AT = COUNTS[0] * STENCIL.size
HOLES_AT = BLOCKS_AT + COUNTS[1] * BLOCK.size
TABLES = HOLES_AT + COUNTS[2] * HOLE.size


def sealed(text: bytes, body: bytes) -> bytes:
    """A file with a digest that fits."""
    return HEAD.pack(MAGIC, len(text), hashlib.sha256(text + body).digest()) + text + body


def with_head(change: Callable[[dict[str, Any]], object]) -> bytes:
    head = json.loads(TEXT)
    change(head)
    return sealed(json.dumps(head).encode(), BODY)


def use_everything(library: Library) -> None:
    """Make every form of every operation, link it, and link the interpreter."""
    addresses = {item.name: 0x10000 for item in library.imports} | {"symbol": 0x20000}
    for name in library.operations:
        for form in library[name].forms:
            asm = Assembler(library)
            here, function = asm.here(), asm.function("f", 256)
            values: dict[str, object] = {
                "label": here,
                "func": function,
                "cell": asm.cell(1),
                "table": asm.table(here),
            }
            values["symbol"] = Symbol("symbol")
            asm.op(name, *(values.get(accepted.kind, plain(accepted)) for accepted in form.accepts))
            asm.op("stop", *(plain(accepted) for accepted in library["stop"].forms[0].accepts))
            patch.encode(asm.program, 0x100000, None, addresses)
            interpret.records(asm.program, 0, lambda cell: 0, addresses)
    patch.encode(Program(library, roots=("cnp_interpret",)), 0x100000, None, addresses)


def plain(accepted: Accept) -> object:
    """Zero, or the least that is allowed."""
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
        with_head(lambda head: head.update(format=2)),
        with_head(lambda head: head.pop("target")),
        with_head(lambda head: head.update(target="pdp11")),
        with_head(lambda head: head.update(target="aarch64")),
        with_head(lambda head: head.update(counts=[float("inf")] * 4)),
        with_head(lambda head: head.update(counts=[-1, *COUNTS[1:]])),
        with_head(lambda head: head.update(counts=[COUNTS[0] + 1, *COUNTS[1:]])),
        with_head(lambda head: head.update(header_size=16)),
        with_head(lambda head: head.update(header_size=head["header_size"] + 8)),
        with_head(lambda head: head.update(result="nothing")),
        with_head(lambda head: set_state(head, 2, head["state_size"])),
        with_head(lambda head: set_state(head, 2, -8)),
        with_head(lambda head: set_state(head, 3, 16)),
        with_head(lambda head: set_state(head, 0, 5)),
        with_head(lambda head: head["routines"].pop(0)),
        with_head(lambda head: head["routines"][0].__setitem__(1, COUNTS[1])),
        with_head(lambda head: head["constants"].append([0, 8, 3])),
        with_head(lambda head: head["constants"].append([COUNTS[3], 8, 8])),
        with_head(lambda head: head["operations"][0].pop()),
        with_head(lambda head: head["operations"][0][4][0].__setitem__(1, COUNTS[0])),
        with_head(lambda head: head["operations"][0][4][0].__setitem__(1, -1)),
        with_head(lambda head: head["operations"][0][4][0].__setitem__(2, -2)),
        with_head(lambda head: head["operations"][0][3].append(["imm", "i32", "more"])),
        with_head(lambda head: [form[0].append(["u8", 0, 255, 0]) for form in head["operations"][0][4]]),
        deep_head(),
        sealed(b"no json", BODY),
        sealed(b"\xff\xfe", BODY),
        sealed(TEXT, BODY[:-1]),
        sealed(TEXT, BODY + b"\0"),
    ],
)
def test_a_wrong_head_under_a_right_digest(data: bytes) -> None:
    with pytest.raises(LibraryError):
        Library(data)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        pytest.param(0, COUNTS[1], id="stencil: first block"),
        pytest.param(4, 0, id="stencil: no block"),
        pytest.param(4, 3, id="stencil: three blocks"),
        pytest.param(BLOCKS_AT, COUNTS[3], id="block: offset"),
        pytest.param(BLOCKS_AT + 4, 1 << 31, id="block: length"),
        pytest.param(BLOCKS_AT + 8, COUNTS[2] + 1, id="block: first hole"),
        pytest.param(BLOCKS_AT + 12, COUNTS[2] + 1, id="block: holes"),
        pytest.param(BLOCKS_AT + 16, 1 << 20, id="block: tail"),
        pytest.param(BLOCKS_AT + 20, 0, id="block: align 0"),
        pytest.param(BLOCKS_AT + 20, 6, id="block: align 6"),
        pytest.param(BLOCKS_AT + 20, 1 << 30, id="block: align 2^30"),
        pytest.param(HOLES_AT, 1 << 31, id="hole: offset"),
        pytest.param(HOLES_AT + 16, 255, id="hole: field"),
        pytest.param(HOLES_AT + 16, 200 << 8, id="hole: what"),
        pytest.param(HOLES_AT + 16, 5 << 16, id="hole: operand that the operation has not"),
        pytest.param(HOLES_AT + 16, 3 << 8 | 3 << 16, id="hole: way out without a stub"),
        pytest.param(HOLES_AT + 16, 5 << 8 | 999 << 16, id="hole: constant"),
    ],
)
def test_a_wrong_table_under_a_right_digest(at: int, value: int) -> None:
    body = bytearray(BODY)
    body[at : at + 4] = value.to_bytes(4, "little")
    with pytest.raises(LibraryError):
        Library(sealed(TEXT, bytes(body)))


@pytest.mark.parametrize("seed", range(4))
def test_damage_under_a_right_digest_is_never_a_surprise(seed: int) -> None:
    """Whatever is changed: the file is refused, or what it says can be used without leaving a table."""
    dice, refused = random.Random(seed), 0
    for _ in range(40):
        text, body = bytearray(TEXT), bytearray(BODY)
        if dice.random() < 0.5:
            text[dice.randrange(len(text))] = dice.choice(b'0123456789-[]{},":eE.nul abz')
        else:
            body[dice.randrange(TABLES)] = dice.choice((0, 1, 2, 5, 127, 128, 255))
        try:
            use_everything(Library(sealed(bytes(text), bytes(body))))
        except CnpError:
            refused += 1
    assert 5 < refused < 40


def test_the_whole_file_can_be_used() -> None:
    use_everything(Library(DATA))


@pytest.mark.parametrize("target", TARGETS)
def test_files_are_small_and_load_at_once(target: str) -> None:
    """The figures of the portable operations: 512 KiB, 10 ms with every check."""
    path = installed("ops", target)
    assert path.stat().st_size <= 512 << 10

    def load() -> float:
        start = time.perf_counter()
        Library.load(path)
        return time.perf_counter() - start

    assert best_of(load, 0.01) <= 0.01
