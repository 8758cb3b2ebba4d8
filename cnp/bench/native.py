"""The C of `cnp bench emission`, compiled for this machine: the workload, the loops that are timed, and the assembler
that was written by hand."""

from __future__ import annotations

import ctypes
import shutil
import sys
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from cnp import targets
from cnp.bench.opponents import FOLDER
from cnp.bench.workload import RECORD, SLOTS, first_slots
from cnp.build import toolchain
from cnp.errors import CnpError, ToolError

FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-shared", "-Wl,-Bsymbolic")  #: calls of its own go straight
Slots = ctypes.c_uint64 * SLOTS


def by_hand() -> Path | None:
    """The assembler for this machine; None where nobody wrote one."""
    source = FOLDER / f"hand.{targets.get('host').name}.c"
    return source if source.exists() else None


def compiler() -> list[str]:
    """A C compiler with the headers of C's library."""
    for name in ("cc", "gcc", "clang"):
        if program := shutil.which(name):
            return [program]
    if find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]
    raise ToolError("cnp bench emission compiles its opponent: install a C compiler, or pip install 'cnp[build]'", tool="cc")  # fmt: skip


def compiler_version() -> str:
    """What that compiler calls itself."""
    return toolchain.run([*compiler(), "--version"]).splitlines()[0]


class Native:
    """emission.c and the assembler as functions. folder: where they are compiled, which may go afterwards.

    ToolError: there is no compiler, or nobody wrote an assembler for this machine.
    """

    def __init__(self, folder: Path) -> None:
        assembler = by_hand()
        if assembler is None:
            name = targets.get("host").name
            raise ToolError(f"nobody wrote an assembler by hand for {name}: cnp bench emission has no opponent", tool=name)  # fmt: skip
        toolchain.run([*compiler(), *FLAGS, "-o", str(folder / "emission.so"), str(FOLDER / "emission.c"), str(assembler)])  # fmt: skip
        self.library = ctypes.CDLL(str(folder / "emission.so"))
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self.library.workload_make.argtypes = [pointer, size, ctypes.c_int]
        self.library.workload_interpret.argtypes = [pointer, pointer]
        self.library.workload_interpret.restype = ctypes.c_uint64
        self.library.bench_records.argtypes = [pointer, size, pointer, pointer]
        self.library.bench_copy.argtypes = [pointer, pointer, size, size]
        self.library.bench_copy_cold.argtypes = [pointer, size, size]
        self.library.bench_interpret.argtypes = [pointer, pointer, size]
        self.library.bench_call.argtypes = [pointer, pointer, size]
        self.library.bench_enter.argtypes = [pointer, pointer, pointer, size]
        word = ctypes.c_uint32
        self.library.bench_core_open.argtypes = [pointer, pointer, pointer]
        self.library.bench_core_renew.argtypes = [pointer, pointer]
        self.library.bench_core_close.argtypes = [pointer, pointer]
        self.library.bench_core.argtypes = [
            pointer,
            pointer,
            pointer,
            size,
            word,
            word,
            ctypes.c_uint64,
            pointer,
            size,
            size,
        ]
        self.library.bench_core.restype = ctypes.c_int64
        self.library.bench_hand.argtypes = [pointer, size, pointer, size, size]
        self.library.bench_hand.restype = ctypes.c_int64

    def program(self, count: int, verify: bool = False) -> Program:
        """The workload of that many operations."""
        return Program(self, count, verify)

    def assemble(self, program: Program, out: Buffer, times: int) -> int:
        """By the hand-written assembler, warm; the bytes of the code. CnpError if it refuses the program."""
        size = self.library.bench_hand(program.records.address, program.count, out.address, out.size, times)
        if size < 0:
            raise CnpError(f"the hand-written assembler gives up with status {-size}", tool="hand-written")
        return int(size)

    def interpreter(self, program: Program) -> Callable[[int], None]:
        """The interpreter of the workload in C, so many times."""
        slots = Slots(*first_slots())
        run, records = self.library.bench_interpret, program.records.address
        return lambda times: run(records, ctypes.addressof(slots), times)

    def close(self) -> None:
        """Give the hand-written assembler's memory back."""
        self.library.bench_hand_close()


class Buffer:
    """Memory of a fixed size, in bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._memory = ctypes.create_string_buffer(size)
        self.address = ctypes.addressof(self._memory)

    def bytes(self, size: int) -> bytes:
        return ctypes.string_at(self.address, size)

    def view(self) -> memoryview:
        return memoryview(self._memory).cast("B")


class Program:
    """A workload as records."""

    def __init__(self, native: Native, count: int, verify: bool) -> None:
        self.count, self.native = count, native
        self.records = Buffer(RECORD.size * count)
        native.library.workload_make(self.records.address, count, int(verify))

    def outcome(self) -> bytes:
        """The slots after the interpreter."""
        slots = Slots(*first_slots())
        self.native.library.workload_interpret(self.records.address, ctypes.addressof(slots))
        return bytes(slots)

    @cached_property
    def hand(self) -> bytes:
        """The code of the hand-written assembler."""
        out = Buffer(32 * self.count)
        return out.bytes(self.native.assemble(self, out, 1))
