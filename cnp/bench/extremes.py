"""What `cnp bench emission` says of the smallest and of the largest programs: a function of ten operations from records to
a callable, the part of it that is the core's C, and how much memory the core takes for an operation.

The core is the one that this process has; a second library is opened in it, whose memory is counted.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cnp import emit, runtime
from cnp.bench.emission import GOALS, Row
from cnp.bench.native import Buffer, Native, Program
from cnp.bench.tools import BASE, BATCH, FRAME, Batch
from cnp.core_library import core_library
from cnp.errors import CnpError
from cnp.library import ENTER

SMALL = 10  #: operations
LARGE = 10_000  #: from here on time and memory are held to be linear
TIMES, ROUNDS = 500, 9
ROOM, ROOM_BESIDE = 32, 4096  #: bytes of code for an operation, and beside the operations, at most
CALLS = (
    "library_open", "library_close", "prepare", "program_open", "program_close", "reset", "label", "function", "append",
    "plan", "settle", "write",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Figure:
    """A number beside its goal; None: this run does not have it."""

    title: str
    value: float | None
    bound: float

    @property
    def verdict(self) -> str:
        if self.value is None:
            return ""
        return "met" if self.value <= self.bound else "MISSED"


class Memory(ctypes.Structure):
    """`struct bench_memory`."""

    _fields_ = (("held", ctypes.c_size_t), ("most", ctypes.c_size_t))


class Opened(ctypes.Structure):
    """`struct bench_opened`."""

    _fields_ = (
        ("library", ctypes.c_void_p),
        ("program", ctypes.c_void_p),
        ("resize", ctypes.c_void_p),
        ("context", ctypes.c_void_p),
        ("memory", Memory),
    )


class Core:
    """The core without Python between its calls."""

    def __init__(self, bench: Native) -> None:
        self.bench = bench.library
        self.tables = tables = core_library(runtime.load("ops").library)
        addresses = [tables.ffi.addressof(tables.lib, f"cnp_{name}") for name in CALLS]
        self.calls = (ctypes.c_void_p * len(CALLS))(*(self._number(address) for address in addresses))
        self.opened = Opened()

    def _number(self, pointer: object) -> int:
        return int(self.tables.ffi.cast("uintptr_t", pointer))

    @contextmanager
    def open(self) -> Iterator[None]:
        """A library and a program of its own."""
        place = ctypes.addressof(self.opened)
        status = self.bench.bench_core_open(self.calls, place, self._number(self.tables.tables))
        if status:
            raise CnpError(f"the core does not open its tables: status {status}", tool="cnp")
        try:
            yield
        finally:
            self.bench.bench_core_close(self.calls, place)

    def compile(self, records: Buffer, out: Buffer, times: int) -> int:
        """So many times; bytes of the code."""
        size = self.bench.bench_core(
            self.calls, ctypes.addressof(self.opened), records.address, records.size // emit.RECORD.size,
            FRAME, self.tables.routine(ENTER), BASE, out.address, out.size, times,
        )  # fmt: skip
        if size < 0:
            raise CnpError(f"the core refuses the workload: status {-size}", tool="cnp")
        return int(size)

    def memory(self, program: Program) -> float:
        """bytes that it takes at most for an operation, beside the code and what it keeps of the vocabulary."""
        records, out = Batch(program).records, Buffer(ROOM * program.count + ROOM_BESIDE)
        with self.open():
            self.compile(records, out, 1)
            place = ctypes.addressof(self.opened)
            if status := self.bench.bench_core_renew(self.calls, place):
                raise CnpError(f"the core opens no second program: status {status}", tool="cnp")
            before = self.opened.memory.held
            self.compile(records, out, 1)
            return float(self.opened.memory.most - before) / program.count


# ---- the figures


def small_callable(bench: Native) -> float:
    """ns from the records of SMALL operations to a callable."""
    job, taken = Batch(bench.program(SMALL, verify=True)), []
    for _ in range(ROUNDS):
        begun = time.thread_time_ns()
        made = [job.to_callable() for _ in range(TIMES)]
        taken.append((time.thread_time_ns() - begun) / TIMES)
        del made  # and with them their memory
    return statistics.median(taken)


def small_in_core(core: Core, bench: Native) -> float:
    """ns of the core's C in that: no system call is in it."""
    program, taken = bench.program(SMALL, verify=True), []
    records, out = Batch(program).records, Buffer(ROOM * SMALL + ROOM_BESIDE)
    with core.open():
        core.compile(records, out, TIMES)
        for _ in range(ROUNDS):
            begun = time.thread_time_ns()
            core.compile(records, out, TIMES)
            taken.append((time.thread_time_ns() - begun) / TIMES)
    return statistics.median(taken)


def figures(bench: Native, rows: Sequence[Row]) -> Iterator[Figure]:
    """All that have a goal: those of the rows, then of the smallest and of the largest programs."""
    yield from (Figure(goal.title, goal.figure(rows), goal.bound) for goal in GOALS)
    core = Core(bench)
    yield Figure(
        f"{SMALL} operations, records to callable, Python included, µs", small_callable(bench) / 1000, 15
    )
    yield Figure(f"{SMALL} operations, the core's C alone, µs", small_in_core(core, bench) / 1000, 1)
    times = {row.n: row.ns_per_op for row in rows if row.tool == BATCH and row.n >= LARGE}
    memory = {n: core.memory(bench.program(n)) for n in times}
    span = f"N = {LARGE:,} … {max(times):,}" if len(times) > 1 else f"N = {LARGE:,} and more"
    yield Figure(f"cnp batch warm, {span}: ns/op, most by least", spread(times.values()), 2)
    yield Figure(f"memory of the core, {span}: bytes/op, most by least", spread(memory.values()), 2)
    yield Figure(
        "memory of the core beyond the code, bytes/op at most", max(memory.values(), default=None), 64
    )


def spread(values: Collection[float]) -> float | None:
    return max(values) / min(values) if len(values) > 1 else None
