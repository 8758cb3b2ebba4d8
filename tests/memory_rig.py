"""The rig of the tests of executable memory: real functions, blocks that hold them, what is mapped how."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cnp.memory import Block, CodeMemory, Probe
from tests.support import need

TRAP = b"\xcc"


def returns(number: int) -> bytes:
    """`int f(void) { return number; }` for 0 <= number < 2048, on the machine that runs the tests."""
    machine = platform.machine()
    match machine:
        case "x86_64":
            return b"\xb8" + number.to_bytes(4, "little") + b"\xc3"  # mov eax, number; ret
        case "aarch64":
            return little(0x52800000 | number << 5, 0xD65F03C0)  # mov w0, number; ret
        case "riscv64":
            return little(0x00000513 | number << 20, 0x00008067)  # addi a0, zero, number; ret
        case "ppc64le":
            return little(0x38600000 | number, 0x4E800020)  # li r3, number; blr
        case "mips64":
            return little(0x03E00008, 0x24020000 | number)  # jr ra; addiu v0, zero, number
    pytest.fail(f"no machine code of {machine} in this test")


def little(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def call(block: Block) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(block.code_address)())


def function(space: CodeMemory, number: int, data_size: int = 0) -> Block:
    code = returns(number)
    block = space.allocate(len(code), data_size)
    block.write(code)
    return block


def dual_works() -> bool:
    probe = Probe((returns(1), 1), (returns(2), 2))
    return CodeMemory(probe=probe).scheme.name == "dual" or "CNP_MEMORY" in os.environ


@pytest.fixture(params=["dual", "flip"])
def space(request: pytest.FixtureRequest) -> CodeMemory:
    need(request.param == "flip" or dual_works(), "two views of one memory do not work here")
    return CodeMemory(scheme=request.param, trap=TRAP)


@pytest.fixture
def dual() -> CodeMemory:
    need(dual_works(), "two views of one memory do not work here")
    return CodeMemory(scheme="dual", trap=TRAP)


def mappings() -> list[tuple[int, int, str, str]]:
    """Start, end, protection and name of all mappings of this process."""
    rows = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, protection, _, _, _, *name = line.split(maxsplit=5)
        start, end = (int(word, 16) for word in bounds.split("-"))
        rows.append((start, end, protection, name[0] if name else ""))
    return rows


def protection_at(address: int) -> str:
    return next((rwx for start, end, rwx, _ in mappings() if start <= address < end), "unmapped")


def in_child(check: Callable[[], object]) -> int:
    """Fork; exit status of the child: 0 when the check came back true, else 1 or 2; negative: a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_python(text: str, *prefix: str, **environment: str) -> str:
    """Standard output of a Python of its own that has this rig in scope."""
    head = "from tests.memory_rig import *\n"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    result = subprocess.run(
        [*prefix, sys.executable, "-c", head + text],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()
