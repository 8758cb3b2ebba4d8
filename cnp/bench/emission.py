"""The measurement of `cnp bench emission`: the same program assembled by every tool by turns, N operations at a time.

    program --Tool.prepare--> Job: timed(times), execute()         checked against the interpreter, then timed

A time is the median of the rounds, in nanoseconds of this thread's processor time; what is short is done many times a
round, and once before, which does not count: so caches hold what the tool needs, not what the one before it left.
A tool stops at the N behind which a round would take too long; with `all_sizes` it goes on.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from cnp.bench.native import Native
from cnp.bench.tools import BATCH, COLD, HAND, WARM, Job, Tool
from cnp.errors import CnpError

SIZES = (10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000)
ROUNDS = 9
LONGEST = 2.0  #: seconds that a round of one tool may take
LEAST_NS = 2_000_000  #: a round is at least as long as this
WARMED_NS = 50_000_000  #: what takes longer finds in no cache what it needs, whatever was before it
BUDGET = 400.0  #: seconds for all
BESIDES = 3  #: rounds' worth of preparing and checking
COMPARED = (WARM, COLD, HAND, BATCH)


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one tool at one size. ratio_to_memcpy: its time by that of `memcpy warm`; of cold rows, which write
    into fresh executable memory, by that of `memcpy cold`. ratio_to_hand: by that of the hand-written assembler."""

    tool: str
    n: int
    ns_per_op: float
    mb_per_s: float
    bytes_per_op: float
    ratio_to_memcpy: float
    ratio_to_hand: float


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a column of one row: that of `tool` at n. by: divided by the same column of this tool's row."""

    title: str
    tool: str
    n: int
    column: str
    bound: float
    by: str = ""

    def figure(self, rows: Sequence[Row]) -> float | None:
        """None where a row is missing."""
        found = {row.tool: float(getattr(row, self.column)) for row in rows if row.n == self.n}
        if self.tool not in found or (self.by and self.by not in found):
            return None
        return found[self.tool] / (found[self.by] if self.by else 1.0)


GOALS = (
    Goal("cnp batch warm by the hand-written, N = 10,000", BATCH, 10_000, "ratio_to_hand", 0.5),
    Goal("cnp batch warm by the hand-written, N = 1,000,000", BATCH, 1_000_000, "ratio_to_hand", 0.77),
    Goal("hand-written by memcpy, N = 1,000,000", HAND, 1_000_000, "ratio_to_memcpy", 16),
    Goal("cnp batch warm by memcpy, N = 10,000", BATCH, 10_000, "ratio_to_memcpy", 30),
    Goal("cnp batch warm by memcpy, N = 1,000,000", BATCH, 1_000_000, "ratio_to_memcpy", 12),
    Goal("cnp batch cold by memcpy cold, N = 10,000", "cnp batch cold", 10_000, "ratio_to_memcpy", 2.2),
    Goal("cnp one by one, ns an operation, N = 10,000", "cnp one by one", 10_000, "ns_per_op", 150),
    Goal("bytes of cnp by the hand-written, N = 10,000", BATCH, 10_000, "bytes_per_op", 1.0, HAND),
)


class Contest:
    """Some tools on the program of n operations."""

    def __init__(self, native: Native, tools: Sequence[Tool], n: int) -> None:
        self.n, self.tools = n, tools
        self.program, self.verified = native.program(n), native.program(n, verify=True)

    def check(self, tool: Tool) -> None:
        """Execute the tool's code for the variant that ends; CnpError if it computes something else."""
        job = tool.prepare(self.verified)
        try:
            job.emit(1)
            found, wanted = job.execute(), self.verified.outcome()
        finally:
            job.close()
        if found != wanted:
            slot = next(i for i in range(0, len(wanted), 8) if found[i : i + 8] != wanted[i : i + 8]) // 8
            message = f"{tool.name}, n = {self.n}: its code leaves another number in slot {slot} than the interpreter"
            raise CnpError(message, tool=tool.name, n=self.n)

    def measure(self, rounds: int, notify: Callable[[], None]) -> Iterator[tuple[str, float, int]]:
        """Of each tool its name, nanoseconds for the program, bytes of code."""
        for tool in self.tools:
            if tool.executes:
                self.check(tool)
        jobs = {tool.name: tool.prepare(self.program) for tool in self.tools}
        once = {name: warm(job) for name, job in jobs.items()}
        taken: dict[str, list[float]] = {name: [] for name in jobs}
        for _ in range(rounds):
            for name, job in jobs.items():
                if once[name] < WARMED_NS:
                    job.warm_up()
                taken[name].append(job.timed(max(1, math.ceil(LEAST_NS / max(once[name], 1.0)))))
            notify()
        for name, job in jobs.items():
            yield name, statistics.median(taken[name]), job.length()
            job.close()


def warm(job: Job) -> float:
    """Nanoseconds that a job takes; if that is short, not for the first time."""
    once = job.timed(1)
    return job.timed(1) if once < WARMED_NS else once


@dataclass(slots=True)
class Pace:
    """Which tools go on to the next size: those that will take no more than LONGEST a round, as far as one can tell from
    how they grew, and leave time for the others. left: seconds; None: all go on."""

    rounds: int
    left: float | None
    last: dict[str, tuple[int, float]] = field(default_factory=dict)

    def goes_on(self, name: str, n: int, taken: float, following: int) -> bool:
        """taken: nanoseconds for n operations."""
        before, known = self.last.get(name, (n, taken))
        self.last[name] = n, taken
        growth = max(1.0, (taken / known) / (n / before))
        if self.left is None or name in COMPARED:
            return True
        expected = taken * growth * following / n / 1e9
        return expected <= LONGEST and expected * (self.rounds + BESIDES) <= self.left / 2


def run(
    native: Native,
    tools: Sequence[Tool],
    sizes: Sequence[int] = SIZES,
    rounds: int = ROUNDS,
    all_sizes: bool = False,
    notify: Callable[[int], None] = lambda n: None,
) -> Iterator[Row]:
    """The rows, size by size. notify: called with the size after each round."""
    begun, going = time.monotonic(), list(tools)
    pace = Pace(rounds, None if all_sizes else BUDGET)
    for n, following in zip(sizes, [*sizes[1:], 0], strict=True):
        found = list(Contest(native, going, n).measure(rounds, partial(notify, n)))
        by_name = {name: taken for name, taken, _ in found}
        yield from (row(name, n, taken, size, by_name) for name, taken, size in found)
        if not all_sizes:
            pace.left = BUDGET - (time.monotonic() - begun)
        stopped = {name for name, taken, _ in found if not pace.goes_on(name, n, taken, following)}
        going = [tool for tool in going if tool.name not in stopped]


def row(name: str, n: int, taken: float, size: int, by_name: dict[str, float]) -> Row:
    copied = by_name[COLD if name.endswith(" cold") else WARM]
    return Row(
        tool=name,
        n=n,
        ns_per_op=round(taken / n, 4),
        mb_per_s=round(size / taken * 1e3, 3),
        bytes_per_op=round(size / n, 4),
        ratio_to_memcpy=round(taken / copied, 3),
        ratio_to_hand=round(taken / by_name[HAND], 4),
    )
