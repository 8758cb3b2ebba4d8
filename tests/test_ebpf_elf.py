"""ELF objects of clang -target bpf: sections, relocations, functions; damaged ones are refused."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

from cnp.ebpf import AccessError, Program, ProgramError, RunError, VerifyError
from cnp.ebpf.there import Task, run_all
from tests.support import every_target, need, runnable

SOURCE = """
typedef unsigned long long u64; typedef unsigned char u8;
extern u64 helper_3(u64);
static const int table[4] = {5, 6, 7, 8};
int counter = 3;
static int zero[8];
static __attribute__((noinline)) u64 sum(const u8 *p, u64 n)
{
    u64 s = 0;
    for (u64 i = 0; i < n; i++) s += p[i];
    return s;
}
__attribute__((section("prog"))) u64 entry(const u8 *p, u64 n)
{
    volatile int i = n & 3;
    counter += 1, zero[i] += 2;
    return sum(p, n) * 1000 + table[i] * 100 + counter + zero[i];
}
__attribute__((section("asks"))) u64 ask(void) { return helper_3(81); }
__attribute__((section("spoils"))) u64 spoil(void) { *(volatile int *)table = 1; return 0; }
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    need(importlib.util.find_spec("ziglang") is not None, "objects are built by the ziglang wheel")
    folder = tmp_path_factory.mktemp("bpf")
    (folder / "a.c").write_text(SOURCE)
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "clang",
        "-target",
        "bpfel",
        "-O2",
        "-mcpu=v3",
        "-c",
        "a.c",
        "-o",
        "a.o",
    ]
    subprocess.run(command, cwd=folder, check=True)
    return (folder / "a.o").read_bytes()


def test_sections_functions_and_data(built: bytes, tmp_path: Path) -> None:
    """The data lives as long as the program: the counter goes on."""
    (tmp_path / "a.o").write_bytes(built)
    program = Program(tmp_path / "a.o")
    assert [section.name.split(".")[1] for section in program.image.sections] == ["bss", "data", "rodata"]
    assert "sum:" in program.disassemble()
    given = bytes([1, 2, 3, 4, 5])
    assert program.compile()(given) == 15 * 1000 + 600 + 4 + 2
    assert program.interpret()(given) == 15 * 1000 + 600 + 5 + 4
    assert program.compile(unchecked=True)(given) == 15 * 1000 + 600 + 6 + 6


def test_helpers_by_name(built: bytes) -> None:
    program = Program(built, "asks", helpers={3: lambda a, b, c, d, e: a + 1})
    assert (program.compile()(), program.interpret()()) == (82, 82)
    with pytest.raises(VerifyError, match="there is no helper 3"):
        Program(built, "asks")
    with pytest.raises(ProgramError, match="no such section with code; there are"):
        Program(built, "nowhere")


def test_constants_are_not_written(built: bytes) -> None:
    program = Program(built, "spoils")
    for function in (program.compile(), program.interpret()):
        with pytest.raises(AccessError, match="outside of its memory: 4 bytes"):
            function()


@every_target
def test_on_every_target(target: str, built: bytes) -> None:
    runnable(target)
    tasks = [Task(Program(built), bytes([1, 2, 3, 4, 5]), interpret) for interpret in (False, True)]
    assert [end[0] if isinstance(end, tuple) else end for end in run_all(tasks, target)] == [15606] * 2


def mutate(built: bytes, seeds: range) -> None:
    """A damaged object is refused, or is a program that ends with a documented error at worst."""
    for seed in seeds:
        rng = random.Random(seed)
        data = bytearray(built)
        for _ in range(rng.randrange(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if seed % 7 == 0:
            del data[rng.randrange(len(data)) :]
        try:
            program = Program(
                bytes(data), rng.choice((None, "prog", "asks")), helpers={3: lambda a, b, c, d, e: a}
            )
            program.compile()(bytes(5), fuel=100)
        except (ProgramError, VerifyError, RunError):
            pass


def test_damaged_objects(built: bytes) -> None:
    mutate(built, range(1000))


@pytest.mark.soak
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_objects(built: bytes, part: int) -> None:
    mutate(built, range(10_000 + 10_000 * part, 20_000 + 10_000 * part))
