"""The command line's eBPF: run, take apart, and the plugin that github.com/Alan-Jowett/bpf_conformance starts."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import click

from cnp import ebpf
from cnp.ebpf.errors import ProgramError
from cnp.ebpf.program import Program, disassemble, read

ENDINGS = (".o", ".bin", ".bpf")
UNWIND = 5  #: number of the helper that may end the program
MASK = (1 << 64) - 1


def is_program(path: str) -> bool:
    """Whether a file is an eBPF program rather than a Brainfuck one: by its first bytes or its ending."""
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF" or path.endswith(ENDINGS)


def run(
    path: str, section: str | None, memory: str | None, target: str | None, interpret: bool, unchecked: bool
) -> int:
    """Run a program on a file as its memory; r0."""
    program = Program(Path(path), section, HELPERS, unwind=UNWIND)
    return result(program, Path(memory).read_bytes() if memory else b"", target, interpret, unchecked)


def result(program: Program, memory: bytes, target: str | None, interpret: bool, unchecked: bool) -> int:
    """r0 of a program with these helpers, on this machine or, in an emulator, on another one."""
    if target is not None:
        from cnp.ebpf import there

        return there.run(there.Task(program, memory, interpret, unchecked, helpers=THERE), target)
    function = program.interpret(unchecked) if interpret else program.compile(unchecked)
    return function(memory)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("--section", metavar="S", help="of an ELF object (default: the first one with code)")
def disasm(file: str, section: str | None) -> None:
    """List the instructions of an eBPF program, valid or not."""
    click.echo(disassemble(read(Path(file).read_bytes(), section)))


# ---- helpers 0 … 5 of the conformance suite


def gather_bytes(*registers: int) -> int:
    a, b, c, d, e = (register & 255 for register in registers)
    return a << 32 | b << 24 | c << 16 | d << 8 | e


def memfrob(r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    """Flip bits 1, 3 and 5 of r2 bytes at r1."""
    data = ebpf.memory().read(r1, r2)
    ebpf.memory().write(r1, bytes(byte ^ 42 for byte in data))
    return 0


def nothing(r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    return 0


def square_root(r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    return math.isqrt(r1)


def compare_strings(r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    """Below, equal to or above 0, as strcmp."""
    one, other = ebpf.memory().text(r1) + b"\0", ebpf.memory().text(r2) + b"\0"
    differ = next((a - b for a, b in zip(one, other, strict=False) if a != b), 0)
    return differ & MASK


def unwind(r1: int, r2: int, r3: int, r4: int, r5: int) -> int:
    return r1


HELPERS = dict(enumerate((gather_bytes, memfrob, nothing, square_root, compare_strings, unwind)))
#: The same in C, in the host program of another target.
THERE = {number: f"cnp_ebpf_{helper.__name__}" for number, helper in HELPERS.items()}


# ---- the plugin


@click.command("ebpf-plugin", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("memory", default="")
@click.option("--jit/--interpret", "compiled", default=True, help="machine code, or the interpreter")
@click.option("--unchecked", is_flag=True, help="trust the program's loads and stores")
@click.option("--target", metavar="T", help="run in an emulator (default: on this machine)")
def plugin(memory: str, compiled: bool, unchecked: bool, target: str | None) -> None:
    """Run eBPF as bpf_conformance_runner asks for it.

    The program comes on standard input; it and MEMORY are hex bytes. r0 is printed.
    """
    code = of_hex(sys.stdin.read(), "the program")
    program = Program(code, helpers=HELPERS, unwind=UNWIND)
    r0 = result(program, of_hex(memory, "the memory"), target, not compiled, unchecked)
    click.echo(f"{r0:x}")


def of_hex(text: str, what: str) -> bytes:
    """Bytes from hex digits, with or without blanks between them. ProgramError."""
    try:
        return bytes.fromhex("".join(text.split()))
    except ValueError as error:
        message = f"{what} is no string of hex bytes: {error}"
        raise ProgramError(message, what=message, section="") from error
