"""The measurement of `cnp bench ebpf`: C compiled to BPF and run here, beside the same C compiled for this machine.

    native        clang -O2 without vectors, for the target's base line
    jit           our machine code, loads and stores trusted
    jit_checked   our machine code, each load and store checked. Without polls, which only fuel and signals need
    interpreter   the interpreter of the same operations, loads and stores trusted

A time is the median of the rounds, in nanoseconds of this thread's processor time; in each round all run once, each on the
same memory. Compiling: from bytes to a callable, verification included, loads and stores trusted.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import io
import random
import statistics
import struct
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cffi import FFI

from cnp import ebpf, targets
from cnp.bench import opponents
from cnp.bench.native import compiler
from cnp.bench.quality import Goal
from cnp.bench.report import lines_of
from cnp.build import toolchain
from cnp.ebpf import Program
from cnp.ebpf.isa import EXIT, LDDW, SIZE, Instruction, encode
from cnp.errors import CnpError, ToolError

ROUNDS = 9
LARGE = 20_000  #: instructions that the large program has at least
ROUND = 2000  #: instructions that a round compiles, unless the program has more
CALLS = 20_000  #: of one function from Python, timed together
BPF_FLAGS = ("-target", "bpfel", "-O2", "-mcpu=v3", "-c")
HAND_WRITTEN = 4606  #: lines of ubpf's back ends for two targets
SMALL, FILTER, WHOLE = "small", "filter", "large"

Way = Callable[[bytearray], int]


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one program; run times are None where it is only compiled. insns: instructions, lddw is one."""

    program: str
    insns: int
    native_ns: int | None
    jit_ns: int | None
    jit_checked_ns: int | None
    interpreter_ns: int | None
    compile_ns_per_insn: float
    code_bytes_per_insn: float

    @property
    def compile_us(self) -> float:
        return self.compile_ns_per_insn * self.insns / 1000


@dataclass(frozen=True, slots=True)
class Figure:
    """One number beside its goal."""

    title: str
    value: float
    bound: float

    @property
    def met(self) -> bool:
        return self.value <= self.bound


GOALS = (
    Goal("unchecked time / native time", "jit_ns", "native_ns", 1.4),
    Goal("checked time / native time", "jit_checked_ns", "native_ns", 2.0),
    Goal("interpreter time / unchecked time", "interpreter_ns", "jit_ns", 10.0, most=False),
)


# ---- programs


def folder() -> Path:
    """Where their C lies: in the examples of a checkout, inside the package when installed."""
    inside = Path(__file__).parent / "programs"
    return inside if inside.exists() else Path(__file__).parents[2] / "examples" / "ebpf"


def memories() -> dict[str, bytes]:
    """What each program that is run is called with."""
    rng = random.Random(6)
    return {
        "primes": struct.pack("<Q", 20_000),
        "fnv1a": rng.randbytes(1 << 20),
        "sieve": bytes(1 << 18),
        "collatz": struct.pack("<Q", 10_000),
        "matrix": rng.randbytes(2 * 8 * 80 * 80) + bytes(8 * 80 * 80),
        "xorshift": struct.pack("<QQ", 88172645463325252, 1 << 20),
    }


def frame(port: int) -> bytes:
    """An Ethernet frame of 54 bytes with a TCP packet to a port."""
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, 6, 0, bytes(4), bytes(4))
    return bytes(12) + b"\x08\x00" + ip + struct.pack(">HH", 40000, port) + bytes(16)


def to_bpf(name: str, scratch: Path) -> bytes:
    """An object made of a program's C. ToolError: there is no clang."""
    place = scratch / f"{name}.bpf.o"
    opponents.compilers().compile(*BPF_FLAGS, folder() / f"{name}.c", "-o", place)
    return place.read_bytes()


def to_native(name: str, scratch: Path) -> Path:
    """A shared object made of the same C for this machine."""
    tools, target = opponents.compilers(), targets.get("host")
    base_line = [flag for flag in target.cflags if flag.startswith(opponents.BASE_LINE)]
    built, library = scratch / f"{name}.o", scratch / f"{name}.so"
    source = folder() / f"{name}.c"
    flags = (f"--target={target.triple}", "-O2", *base_line, *opponents.NO_VECTORS, "-fPIC", "-c")
    tools.compile(*flags, source, "-o", built)
    tools.link("-shared", built, "-o", library)
    return library


def small() -> bytes:
    """21 instructions: the sum of the bytes of memory, mixed."""
    rows = [
        (0xB7, 0, 0, 0, 0), (0x15, 2, 0, 17, 0), (0xBF, 3, 1, 0, 0), (0x0F, 3, 2, 0, 0), (0x71, 4, 1, 0, 0),
        (0x0F, 0, 4, 0, 0), (0x27, 0, 0, 0, 31), (0xBF, 5, 0, 0, 0), (0x77, 5, 0, 0, 7), (0xAF, 0, 5, 0, 0),
        (0x07, 1, 0, 0, 1), (0xAD, 1, 3, -8, 0), (0x7B, 10, 0, -8, 0), (0x61, 6, 10, -8, 0), (0x61, 7, 10, -4, 0),
        (0x0C, 6, 7, 0, 0), (0x67, 6, 0, 0, 32), (0x4F, 0, 6, 0, 0), (0x57, 0, 0, 0, 0x7FFFFFFF), (0x25, 0, 0, 0, 9),
        (EXIT, 0, 0, 0, 0),
    ]  # fmt: skip
    return b"".join(encode(Instruction(*row)) for row in rows)


def count(code: bytes) -> int:
    """Instructions of bytecode: those of two places are one. Exact for programs that the verifier takes."""
    places, found, at = len(code) // SIZE, 0, 0
    while at < places:
        at += 2 if code[SIZE * at] == LDDW else 1
        found += 1
    return found


def large(pieces: Sequence[bytes]) -> bytes:
    """These programs one behind the other, as often as LARGE instructions need."""
    whole = b"".join(pieces)
    return whole * -(-LARGE // count(whole))


# ---- times


class Contest:
    """One program and its memory; `ways` run it."""

    def __init__(self, name: str, memory: bytes, scratch: Path) -> None:
        self.name, self.memory = name, memory
        self.program = Program(to_bpf(name, scratch))
        self.ways: dict[str, Way] = {
            "native": native(to_native(name, scratch)),
            "jit": self.program.compile(unchecked=True),
            "jit_checked": self.program.compile(polls=False),
            "interpreter": self.program.interpret(unchecked=True),
        }

    def check(self) -> None:
        """Every way gives the same r0 and leaves the same memory, or CnpError."""
        ends = {}
        for name, way in self.ways.items():
            memory = bytearray(self.memory)
            ends[name] = (way(memory), bytes(memory))
        for name, end in ends.items():
            if end != ends["native"]:
                message = (
                    f"{self.name}: {name} gives {end[0]:#x}, native {ends['native'][0]:#x}, or memory differs"
                )
                raise CnpError(message, program=self.name, way=name)

    def measure(self, rounds: int) -> dict[str, int]:
        """Median nanoseconds of each way."""
        taken: dict[str, list[int]] = {name: [] for name in self.ways}
        for _ in range(rounds):
            for name, way in self.ways.items():
                memory = bytearray(self.memory)
                begun = time.thread_time_ns()
                way(memory)
                taken[name].append(time.thread_time_ns() - begun)
        return {name: round(statistics.median(times)) for name, times in taken.items()}

    def row(self, rounds: int) -> Row:
        """Check, then measure."""
        self.check()
        times = self.measure(rounds)
        insns, nanoseconds, size = compiling(self.program.image.code, rounds)
        return Row(
            self.name, insns, times["native"], times["jit"], times["jit_checked"], times["interpreter"],
            nanoseconds, size,
        )  # fmt: skip


def native(library: Path) -> Way:
    """`run` of a shared object. ToolError: it does not load."""
    try:
        function = ctypes.CDLL(str(library)).run
    except OSError as error:
        raise ToolError(f"{library.name} does not load: {error}", tool="clang") from error
    function.restype, function.argtypes = ctypes.c_uint64, [ctypes.c_void_p, ctypes.c_uint64]

    def run(memory: bytearray) -> int:
        held = (ctypes.c_char * len(memory)).from_buffer(memory)
        return int(function(ctypes.addressof(held), len(memory)))

    return run


def compiling(code: bytes, rounds: int) -> tuple[int, float, float]:
    """Instructions; nanoseconds and bytes of machine code for each of them. Short programs are compiled many times a round.
    The garbage collector rests meanwhile: it looks at all that this process has."""
    insns = count(code)
    times = max(1, ROUND // insns)
    taken, function = [], Program(code).compile(unchecked=True)
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            begun = time.thread_time_ns()
            for _ in range(times):
                function = Program(code).compile(unchecked=True)
            taken.append((time.thread_time_ns() - begun) / times)
    finally:
        gc.enable()
    return insns, round(statistics.median(taken) / insns, 1), round(function.size / insns, 2)


def compiled_only(name: str, code: bytes, rounds: int) -> Row:
    """A row without run times."""
    return Row(name, count(code), None, None, None, None, *compiling(code, rounds)[1:])


def run(rounds: int = ROUNDS) -> Iterator[Row]:
    """The rows, one after the other. ToolError: there is no clang."""
    pieces = []
    with tempfile.TemporaryDirectory(prefix="cnp-") as scratch:
        for name, memory in memories().items():
            contest = Contest(name, memory, Path(scratch))
            pieces.append(contest.program.image.code)
            yield contest.row(rounds)
        pieces.append(Program(to_bpf(FILTER, Path(scratch))).image.code)
    yield compiled_only(FILTER, pieces[-1], rounds)
    yield compiled_only(SMALL, small(), rounds)
    yield compiled_only(WHOLE, large(pieces), rounds)


NAMES = (*memories(), FILTER, SMALL, WHOLE)


# ---- one call from Python


def call_ratio(rounds: int = ROUNDS) -> float:
    """One call of the packet filter with 54 bytes, checked, by calls of the same filter in a compiled module of cffi, which
    is given a pointer and a size. The loop around them is not counted. ToolError: there is no C compiler."""
    packet = bytearray(frame(443))
    with tempfile.TemporaryDirectory(prefix="cnp-") as scratch:
        ours = Program(to_bpf(FILTER, Path(scratch))).compile()
        module = compiled_module(Path(scratch))
    theirs, pointer, size = module.lib.run, module.ffi.from_buffer(packet), len(packet)
    if (ours(packet), ours(bytearray(frame(444))), theirs(pointer, size)) != (1, 0, 1):
        raise CnpError("the packet filter is wrong", program=FILTER)

    def by_us() -> None:
        for _ in range(CALLS):
            ours(packet)

    def by_them() -> None:
        for _ in range(CALLS):
            theirs(pointer, size)

    def by_nobody() -> None:
        for _ in range(CALLS):
            pass

    loops: tuple[Callable[[], None], ...] = (by_us, by_them, by_nobody)
    taken: list[list[int]] = [[] for _ in loops]
    for _ in range(rounds):
        for times, loop in zip(taken, loops, strict=True):
            begun = time.thread_time_ns()
            loop()
            times.append(time.thread_time_ns() - begun)
    us, them, nobody = (statistics.median(times) for times in taken)
    return (us - nobody) / (them - nobody)


def compiled_module(scratch: Path) -> Any:
    """The packet filter as a module of cffi in API mode."""
    name, source, library = "cnp_bench_filter", scratch / "filter_module.c", scratch / "filter_module.so"
    ffi = FFI()
    ffi.cdef("unsigned long long run(const unsigned char *packet, unsigned long long size);")
    ffi.set_source(name, (folder() / f"{FILTER}.c").read_text(encoding="utf-8"))
    with contextlib.redirect_stdout(io.StringIO()):  # it tells what it does
        ffi.emit_c_code(str(source))
    headers = f"-I{sysconfig.get_paths()['include']}"
    toolchain.run([*compiler(), "-O2", "-fPIC", "-shared", headers, str(source), "-o", str(library)])
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None  # a shared object of a module
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- what is shown below the table


def figures(rows: Sequence[Row], ratio: float) -> list[Figure]:
    """The figures that are no geometric means."""
    by_name = {row.program: row for row in rows}
    whole = by_name[WHOLE]
    return [
        Figure(f"ns an instruction, {whole.insns:,} of them compiled", whole.compile_ns_per_insn, 40),
        Figure(f"µs until {by_name[SMALL].insns} instructions are compiled", by_name[SMALL].compile_us, 20),
        Figure("bytes of code an instruction, the same", whole.code_bytes_per_insn, 10),
        Figure("a call from Python / a cffi call", ratio, 6),
    ]


def lines() -> tuple[int, int]:
    """Lines of the operations' C and of the Python that are neither empty nor comment alone."""
    home = Path(ebpf.__file__).parent
    return lines_of(home / "ebpf.c"), sum(lines_of(path) for path in home.glob("*.py"))
