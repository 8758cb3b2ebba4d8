"""Run eBPF programs on another target, in an emulator: many of them in one start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cnp.ebpf.program import DEPTH, Program, options
from cnp.ebpf.stops import stopped
from cnp.ebpf.translate import Job, Places, Region, translated
from cnp.errors import CnpError
from cnp.foreign import Call, ForeignCode

NO_HELPERS = 16  #: bytes of a table of helpers that has none
ROUNDS = 4  #: until addresses no longer change what code is made


@dataclass(frozen=True, slots=True)
class Task:
    """A program, the memory that it is called with, and how."""

    program: Program
    memory: bytes = b""
    interpret: bool = False
    unchecked: bool = False
    fuel: int | None = None
    polls: bool | None = None


def run(program: Program, target: str, memory: bytes, interpret: bool, unchecked: bool) -> int:
    """One program; r0. The errors of a function."""
    (found,) = run_all([Task(program, memory, interpret, unchecked)], target, timeout=None)
    if isinstance(found, CnpError):
        raise found
    return found[0]


def run_all(
    tasks: Sequence[Task], target: str, timeout: float | None = 60.0
) -> list[tuple[int, bytes] | CnpError]:
    """For each task r0 and its memory afterwards, or how it was stopped. Helpers are those of this process: none."""
    areas = [data for task in tasks for data in (task.memory, *(s.data for s in task.program.image.sections))]
    areas.append(bytes(NO_HELPERS))
    sizes = [max(1, len(area)) for area in areas]
    places = [0x30000000] * len(areas)
    for _ in range(ROUNDS):
        made = translated(target, jobs(tasks, places))
        code = ForeignCode(made.program)
        found = code.area_addresses(sizes)
        if found == places:
            break
        places = found
    firsts, first = [], 0
    for task in tasks:
        firsts.append(first)
        first += 1 + len(task.program.image.sections)
    order = code.target.byteorder
    calls = []
    for number, (task, first) in enumerate(zip(tasks, firsts, strict=True)):
        words = (places[first] if task.memory else 0, len(task.memory))
        slots = b"".join(word.to_bytes(8, order) for word in words)  # type: ignore[arg-type]
        calls.append(Call(f"run{number}", slots=slots, depth=DEPTH, fuel=task.fuel, interpret=task.interpret))
    outcome = code.run(calls, memory=[area or b"\0" for area in areas], timeout=timeout)
    ends: list[tuple[int, bytes] | CnpError] = []
    for number, (task, first, result) in enumerate(zip(tasks, firsts, outcome.results, strict=True)):
        after = outcome.memory[first][: len(task.memory)]
        if result.returned:
            ends.append((int(result.value or 0), after))
            continue
        try:
            r0 = stopped(task.program, made, result.op, result.code, result.state, f"run{number}")
            ends.append((r0, after))
        except CnpError as error:
            ends.append(error)
    return ends


def jobs(tasks: Sequence[Task], places: Sequence[int]) -> list[Job]:
    """The tasks with their data at these places."""
    found, place = [], iter(places)
    for number, task in enumerate(tasks):
        next(place)
        image = task.program.image
        data = [Region(next(place), len(section.data), section.writable) for section in image.sections]
        chosen = options(task.unchecked, task.polls, DEPTH)
        shared = Places(data, table=places[-1])
        found.append(Job(f"run{number}", task.program.instructions, image.relocations, chosen, shared))
    return found
