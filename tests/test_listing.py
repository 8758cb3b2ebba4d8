"""Listings: every byte once, the instructions of capstone, the holes that were patched, on every target."""

from __future__ import annotations

import pytest

import cnp
from cnp import StateError, r, slot
from cnp.listing import listing
from cnp.runtime import installed
from tests.support import every_target

BASE = 0x10000


def program(target: str) -> cnp.Assembler:
    asm = cnp.load(installed("ops", target)).assembler(helpers={"cnp_poll": 0x1234560})
    asm.function("f", frame=16)
    asm.bind("loop")
    asm.i64_add(slot(0), slot(0), 5, at=("prog.lang", 7))
    asm.poll()
    asm.br_i64_lt_s(slot(0), 1000, asm["loop"], at=("prog.lang", 8))
    asm.i64_rotl(r[1], r[2], 70000)
    asm.i64_move(slot(8), 0x123456789ABCDEF0)
    asm.rodata.u64(1, 2, 3)
    asm.ret(slot(8))
    return asm


@every_target
def test_every_byte_once(target: str) -> None:
    pytest.importorskip("capstone")
    asm = program(target)
    image = asm.encode(BASE)
    lines = list(listing(asm.program, image))
    at = BASE
    for line in lines:
        assert line.address >= at
        assert line.code == image.code[line.address - BASE :][: len(line.code)]
        assert line.op == (-1 if image.op_at(line.address) is None else image.op_at(line.address))
        at = line.address + len(line.code)
    assert at == BASE + len(image.code)
    assert all(line.text for line in lines if line.name != "data")
    first = next(line for line in lines if line.op == 0)
    assert (first.address, first.name, first.operands) == (BASE, "i64_add", "slot(0), slot(0), 5")
    assert first.at == ("prog.lang", 7) and str(first).endswith("prog.lang:7")


@every_target
def test_holes_say_what_they_were_filled_with(target: str) -> None:
    asm = program(target)
    lines = list(listing(asm.program, asm.encode(BASE)))
    holes = [(line.op, hole.name, hole.value) for line in lines for hole in line.holes]
    assert any(op == 0 and name == "b" and value in (5, -5) for op, name, value in holes)
    assert any(op == 2 and name == "target" for op, name, value in holes)
    assert any("cnp_poll" in name for op, name, value in holes)
    assert {line.at for line in lines if line.op == 2} == {("prog.lang", 8)}


def test_without_capstone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnp.listing.instructions_of", lambda target: None)
    asm = program(cnp.load("ops").target.name)
    image = asm.encode(BASE)
    lines = list(listing(asm.program, image))
    assert {line.text for line in lines} == {""}
    assert len([line for line in lines if line.name == "i64_add"]) == 1


def test_a_program_that_was_edited_since() -> None:
    asm = program(cnp.load("ops").target.name)
    image = asm.encode(BASE)
    del asm.ops[0]
    with pytest.raises(StateError) as caught:
        list(listing(asm.program, image))
    assert caught.value.state == "edited"


def test_of_finished_code() -> None:
    code = program(cnp.load("ops").target.name)
    code.helpers.clear()
    built = code.build()
    lines = built.listing()
    assert lines[0].address == built.address(0)
    assert any(line.name == "cnp_enter" for line in lines)
