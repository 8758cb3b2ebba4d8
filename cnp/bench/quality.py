"""The measurement: every implementation of a kernel by turns in this process, checked against each other before.

    cnp          the portable operations, assembled
    clang_O1/O2  C for the same base line, without vectors
    hand         assembly by hand, where there is some for this machine
    interpreter  the bodies of the operations, threaded, state in registers: the same program
    switch       the bodies of the operations in a switch: the same program

A time is the median of the rounds, in nanoseconds of this thread's processor time (what other processes take is not in
it); each run begins with the same memory. Being called takes less than a thousandth. Bytes: of the function, its hot and
cold parts; neither routines nor constants that functions share.
"""

from __future__ import annotations

import ctypes
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnp import runtime
from cnp.bench import opponents
from cnp.bench.kernels import KERNELS, MEMORY, Kernel, N
from cnp.bench.opponents import Opponent
from cnp.errors import CnpError
from cnp.interpret import has_threads

ROUNDS = 9
WORD = (1 << 64) - 1
CACHE_LINE = 64

Way = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one kernel; None where there is none. *_ns: nanoseconds; *_bytes: of code."""

    kernel: str
    cnp_ns: int
    clang_O1_ns: int
    clang_O2_ns: int
    hand_ns: int | None
    interpreter_ns: int | None
    switch_ns: int | None
    cnp_bytes: int
    hand_bytes: int | None
    clang_O1_bytes: int


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for the geometric mean of one figure by another. most: it is an upper bound, else a lower one."""

    title: str
    figure: str
    by: str
    bound: float
    most: bool = True

    def mean(self, rows: Sequence[Any]) -> float | None:
        """The geometric mean over the rows that have both figures."""
        pairs = [(getattr(row, self.figure), getattr(row, self.by)) for row in rows]
        logarithms = [math.log(a / b) for a, b in pairs if a and b]
        return math.exp(statistics.fmean(logarithms)) if logarithms else None

    def met(self, mean: float) -> bool:
        return mean <= self.bound if self.most else mean >= self.bound


GOALS = (
    Goal("cnp time / hand time", "cnp_ns", "hand_ns", 1.05),
    Goal("cnp bytes / hand bytes", "cnp_bytes", "hand_bytes", 1.10),
    Goal("cnp time / clang -O1 time", "cnp_ns", "clang_O1_ns", 1.25),
    Goal("switch time / cnp time", "switch_ns", "cnp_ns", 8.0, most=False),
    Goal("interpreter time / cnp time", "interpreter_ns", "cnp_ns", 4.0, most=False),
)


class Memory:
    """Memory of a kernel that can be made what it was at first. address: a multiple of a cache line."""

    def __init__(self, image: bytes) -> None:
        self._image, self._room = image, (ctypes.c_char * (len(image) + CACHE_LINE))()
        self.address = (ctypes.addressof(self._room) + CACHE_LINE - 1) & -CACHE_LINE

    def reset(self) -> None:
        ctypes.memmove(self.address, self._image, len(self._image))

    def contents(self) -> bytes:
        return ctypes.string_at(self.address, len(self._image))


@dataclass(frozen=True, slots=True)
class Opponents:
    """What our code is compared with. hand: None where nobody wrote assembly for this machine."""

    clang_O1: Opponent
    clang_O2: Opponent
    hand: Opponent | None

    def named(self) -> dict[str, Opponent]:
        found = {"clang_O1": self.clang_O1, "clang_O2": self.clang_O2, "hand": self.hand}
        return {name: opponent for name, opponent in found.items() if opponent}


def find_opponents(folder: Path) -> Opponents:
    """Compile them in a folder, which may go afterwards."""
    return Opponents(
        opponents.compiled(folder, "-O1"), opponents.compiled(folder, "-O2"), opponents.by_hand(folder)
    )


class Contest:
    """One kernel of size n: its implementations as `ways`, all on the same memory."""

    def __init__(self, kernel: Kernel, n: int, others: Opponents) -> None:
        self.kernel, self.n, self.others = kernel, n, others
        self.memory = Memory(kernel.memory(n, sys.byteorder))
        self.code = assembled(kernel)
        self.ways: dict[str, Way] = {"cnp": self._compiled()}
        for name, opponent in others.named().items():
            if function := opponent.function(kernel.name):
                self.ways[name] = self._native(function)
        self.ways.update(self._interpreted())

    def _native(self, function: Callable[[int, int], int]) -> Way:
        address, n = self.memory.address, self.n
        return lambda: function(address, n)

    def _compiled(self) -> Way:
        return self._native(
            self.code[self.kernel.name].callable("int64_t(uint64_t, int64_t)", arguments=(MEMORY, N))
        )

    def _interpreted(self) -> dict[str, Way]:
        """The interpreters that this machine's vocabulary has."""
        threaded = {"interpreter": self._interpreter(threaded=True)}
        return {
            **(threaded if has_threads(self.code.library) else {}),
            "switch": self._interpreter(threaded=False),
        }

    def _interpreter(self, threaded: bool) -> Way:
        """One of them, with a frame that all its runs use."""
        code, name = self.code, self.kernel.name
        state = {f"{MEMORY.bank}{MEMORY.index}": self.memory.address, f"{N.bank}{N.index}": self.n}
        frame = runtime.Frame(code.library, self.kernel.frame)

        def run() -> int:
            result = code.interpreter.run(name, state, frame, threaded=threaded)
            if not isinstance(result.value, int):
                raise CnpError(f"{name}: the interpreter ended with {result}", kernel=name)
            return result.value

        return run

    def check(self) -> int:
        """Run every implementation; the result. CnpError if they do not give the same and leave the same memory."""
        found = {name: self._outcome(way) for name, way in self.ways.items()}
        expected = found["cnp"]
        for name, outcome in found.items():
            if outcome != expected:
                message = (
                    f"{self.kernel.name}, n = {self.n}: {name} gives {outcome[0]:#x}, cnp {expected[0]:#x}"
                )
                if outcome[0] == expected[0]:
                    message = f"{self.kernel.name}, n = {self.n}: {name} and cnp leave different memory"
                raise CnpError(message, kernel=self.kernel.name, way=name, n=self.n)
        return expected[0]

    def _outcome(self, way: Way) -> tuple[int, bytes]:
        self.memory.reset()
        return way() & WORD, self.memory.contents()

    def measure(self, rounds: int) -> dict[str, int]:
        """Median nanoseconds of each implementation; in each round all run once."""
        taken: dict[str, list[int]] = {name: [] for name in self.ways}
        for _ in range(rounds):
            for name, way in self.ways.items():
                self.memory.reset()
                begun = time.thread_time_ns()
                way()
                taken[name].append(time.thread_time_ns() - begun)
        return {name: round(statistics.median(times)) for name, times in taken.items()}

    def row(self, rounds: int) -> Row:
        """Check, then measure."""
        self.check()
        times, name = self.measure(rounds), self.kernel.name
        hand = self.others.hand
        return Row(
            kernel=name,
            cnp_ns=times["cnp"],
            clang_O1_ns=times["clang_O1"],
            clang_O2_ns=times["clang_O2"],
            hand_ns=times.get("hand"),
            interpreter_ns=times.get("interpreter"),
            switch_ns=times.get("switch"),
            cnp_bytes=size_of(self.code, name),
            hand_bytes=hand.sizes.get(name) if hand else None,
            clang_O1_bytes=self.others.clang_O1.sizes[name],
        )


def assembled(kernel: Kernel) -> runtime.Code:
    """A kernel as a function of its name, in a code object of its own. Its inner loop begins a cache line, or a few bytes
    behind, as in the assembly: by what lies in front of the function."""
    first = behind(kernel, 0)
    (inner,) = [label for label in first.program.labels if label.name == kernel.inner]
    second = behind(kernel, 1)
    jump = second.symbols[kernel.name] - second.image.base
    return behind(kernel, -(first.address(inner) % -CACHE_LINE // jump))


def behind(kernel: Kernel, jumps: int) -> runtime.Code:
    """A kernel behind so many jumps, which nobody executes and which begin a cache line; for the base line, as what it is
    measured against."""
    asm = runtime.load("ops", features=()).assembler()
    asm.align(CACHE_LINE)
    if jumps:
        asm.function("gap", frame=0)
        here = asm.here()
        for _ in range(jumps):
            asm.jump(here)
    asm.function(kernel.name, frame=kernel.frame)
    kernel.assemble(asm)
    return asm.build()


def size_of(code: runtime.Code, name: str) -> int:
    """Bytes of the blocks of the last function of a code object, hot and cold."""
    begin = code[name].function.position
    assert begin is not None  # it is built
    return sum(end - start for start, end, op in code.image.ranges if op >= begin)


def run(names: Sequence[str] = (), rounds: int = ROUNDS) -> Iterator[Row]:
    """The rows of these kernels (all of them), one after the other. ToolError: there is no clang."""
    with tempfile.TemporaryDirectory(prefix="cnp-") as scratch:
        others = find_opponents(Path(scratch))
    for kernel in [KERNELS[name] for name in names or KERNELS]:
        yield Contest(kernel, kernel.n, others).row(rounds)
