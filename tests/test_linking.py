"""Linking into buffers: the sizes that suffice, the same program at one base after the other, nops as assemblers make them."""

from __future__ import annotations

import importlib.util
import mmap
import re
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import cnp
from cnp import OperandError, StateError, slot, targets
from cnp.runtime import installed
from cnp.show import Disassembler
from cnp.target import Target
from tests.support import every_target, need

BASES = (0, 16, 0x1_0000, 0x7FFF_FFF0, 0x7000_0000_0000)


def program(target: str) -> cnp.Assembler:
    """Labels, tables, data, alignment and the cold: all that asks for room."""
    asm = cnp.load(installed("ops", target)).assembler(helpers={"cnp_poll": 0x1234560})
    asm.function("f", frame=32)
    asm.align(256)
    asm.bind("loop")
    asm.poll()
    asm.br_i64_lt_s(slot(0), 100, asm["loop"])
    with asm.cold():
        asm.align(64)
        asm.i64_move(slot(0), asm.cell(asm["loop"] + 4))
    asm.jump_table(slot(0), 1, asm.table(asm["loop"]))
    asm.jump(asm.bind("far", address=0x1000_0000))
    asm.rodata.align(128)
    asm.rodata.address(asm["loop"])
    asm.data.align(64)
    asm.data.string("text")
    return asm


def test_a_program_without_data_needs_no_buffer_for_it() -> None:
    asm = cnp.load("ops").assembler()
    asm.function("f", frame=8)
    asm.ret(slot(0))
    code = bytearray(asm.link().code)
    image = asm.encode_into(code, 0x10000)
    assert code.startswith(image.code) and not image.data
    assert asm.relocate(0x20000).base == 0x20000


@every_target
def test_any_base_fits_the_sizes(target: str) -> None:
    asm = program(target)
    sizes = asm.link()
    code, data = bytearray(sizes.code), bytearray(sizes.data)
    for number, base in enumerate(BASES):
        data_base = base + (1 << 20) + 8
        image = asm.relocate(base, data_base) if number else asm.encode_into(code, base, data, data_base)
        fresh = asm.encode(base, data_base)
        assert (image.code, image.data) == (fresh.code, fresh.data)
        assert code.startswith(image.code) and data.startswith(image.data)
        assert image.symbols["loop"] % 256 == 0


def test_buffers_of_any_kind() -> None:
    asm = program(targets.get("host").name)
    with mmap.mmap(-1, 1 << 16) as memory:
        image = asm.encode_into(memoryview(memory), 0x10000, memoryview(bytearray(asm.link().data)))
        assert memory[: len(image.code)] == image.code
        asm.reset()  # lets go of the buffers


def test_buffers_that_do_not_do() -> None:
    asm = program(targets.get("host").name)
    sizes = asm.link()
    with pytest.raises(StateError) as state:
        asm.relocate(0)
    assert state.value.state == "no buffer"
    for code, data in (
        (bytearray(16), bytearray(sizes.data)),
        (bytearray(sizes.code), b""),
        (bytes(sizes.code), bytearray(sizes.data)),
        (memoryview(bytearray(2 * sizes.code))[::2], bytearray(sizes.data)),
        (None, bytearray(sizes.data)),
    ):
        with pytest.raises(OperandError) as caught:
            asm.encode_into(code, 0, data)  # type: ignore[arg-type]
        assert caught.value.operand in ("buffer", "data")
    assert sizes.code > 16


@every_target
def test_nops_are_those_of_the_assembler(target: str, tmp_path: Path) -> None:
    """As many instructions as clang's assembler puts before what is aligned, and the same bytes where it has a choice."""
    need(importlib.util.find_spec("ziglang") is not None, "the ziglang wheel is not installed")
    machine = targets.get(target)
    clang = [sys.executable, "-m", "ziglang", "clang"]
    flags = [flag for flag in machine.cflags if flag.startswith(("-march", "-mno-relax"))]
    unit = machine.code_align
    sizes = range(unit, 33, unit)
    lines = [".text", *(f".p2align 6\n.space {64 - size}, 0xcc\n.p2align 6" for size in sizes)]
    (tmp_path / "nops.s").write_text("\n".join(lines) + "\n")
    done = subprocess.run(
        [*clang, f"--target={machine.triple}", *flags, "-c", "nops.s", "-o", "nops.o"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with (tmp_path / "nops.o").open("rb") as file:
        section = ELFFile(file).get_section_by_name(".text")
        assert section is not None
        text = section.data()
    for number, size in enumerate(sizes):
        theirs = text[64 * number + 64 - size : 64 * number + 64]
        ours = machine.padding(size)
        assert len(ours) == size
        assert count(machine, ours) <= count(machine, theirs), (size, theirs.hex(" "))


def count(machine: Target, code: bytes) -> int:
    """Instructions in some nops, all of which capstone must know as such."""
    found = [text for _, _, text in Disassembler(machine).instructions(code)]
    names = r"(cs |data16 )*(nop[wl]?|c\.nop|xchg|addi|sll)\b.*"
    assert all(re.fullmatch(names, text) for text in found), found
    return len(found)
