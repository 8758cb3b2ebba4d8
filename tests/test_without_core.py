"""Without cnp._core everything works, in Python: each script runs in a process that has the core hidden from it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cnp import native, targets
from tests.support import need

HIDDEN = "import sys; sys.modules['cnp._core'] = None\n"
PROGRAM = """
import cnp
from cnp import slot
asm = cnp.load("ops", target={target!r}).assembler()
asm.function("sum", frame=16)
loop = asm.here()
asm.i64_add(slot(8), slot(8), slot(0))
asm.i64_sub(slot(0), slot(0), 1)
asm.br_i64_ne(slot(0), 0, loop)
asm.ret(slot(8))
"""
RUN = """
code = asm.build()
print(code["sum"].callable("int64_t(int64_t, int64_t)")(10, 0))
frame = cnp.load("ops").frame(16)
frame[0], frame[8] = 10, 0
print(code["sum"].run(frame=frame).value)
frame[0], frame[8] = 10, 0
print(code.interpreter.run("sum", frame=frame).value)
"""
EBPF = """
import struct
from cnp import ebpf
word = struct.Struct("=BBhi")
# r0 = *(u8 *)(r1 + 1); r0 += 2; exit
program = ebpf.Program(word.pack(0x71, 0x10, 1, 0) + word.pack(0x07, 0, 0, 2) + word.pack(0x95, 0, 0, 0))
print(program.compile()(bytes([1, 40])), program.interpret()(bytes([1, 40])))
try:
    program.compile()(b"")
except ebpf.AccessError as error:
    print(type(error).__name__)
"""
BATCH = """
import cnp
from cnp.emit import Batch
from cnp.errors import StateError
try:
    Batch(cnp.load("ops").library)
except StateError as error:
    print(error.message)
"""


def said(script: str) -> str:
    """Standard output of a script in a process without the core."""
    command = [sys.executable, "-c", HIDDEN + script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_program_runs() -> None:
    assert said(PROGRAM.format(target="host") + RUN).split() == ["55", "55", "55"]


@pytest.mark.parametrize("target", list(targets.TARGETS))
def test_the_bytes_are_those_of_the_core(target: str) -> None:
    """Those of the same program here, where there is a core."""
    need(native.available, "cnp._core is compiled")
    here: dict[str, Any] = {}
    exec(PROGRAM.format(target=target), here)
    found = said(PROGRAM.format(target=target) + "print(asm.encode(0x10000).code.hex())")
    assert found.strip() == here["asm"].encode(0x10000).code.hex()


def test_brainfuck(tmp_path: Path) -> None:
    source = tmp_path / "program.b"
    source.write_text("++++++++[>++++++++<-]>+.+.+.")
    script = f"import sys; from cnp.__main__ import main; sys.argv = ['cnp', 'run', {str(source)!r}]; main()"
    assert said(script) == "ABC"


def test_ebpf() -> None:
    assert said(EBPF).split() == ["42", "42", "AccessError"]


def test_batches_say_why_there_are_none() -> None:
    assert said(BATCH).startswith("the core in C is missing: ")


def test_doctor_says_who_does_the_work() -> None:
    script = "from cnp import doctor; check = doctor.core(); print(check.state, check.finding, check.advice)"
    found = said(script)
    assert found.startswith("missing pure Python does its work: ")
    assert "install a C compiler" in found
