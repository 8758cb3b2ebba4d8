"""Run eBPF programs on another target, in an emulator: many of them in one start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from cnp import host, targets
from cnp.ebpf.program import DEPTH, Program, options
from cnp.ebpf.stops import stopped
from cnp.ebpf.translate import Job, Places, Region, translated
from cnp.errors import CnpError, SymbolError
from cnp.foreign import Call, ForeignCode, areas_from

ROW = 16  #: bytes of a row of the table of helpers: number, address
SPACE, SPACE_EACH = 1 << 16, 256  #: bytes that a program's records may need: in all, for an instruction
ROUNDS = 4  #: until addresses no longer change what code is made

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Task:
    """A program, the memory that it is called with, and how.

    helpers: for each number of the program's helpers a function of the host program (cnp/host/host.c), which takes its
    place there; packet: the same for legacy loads.
    """

    program: Program
    memory: bytes = b""
    interpret: bool = False
    unchecked: bool = False
    fuel: int | None = None
    polls: bool | None = None
    helpers: Mapping[int, str] = field(default_factory=dict)
    packet: str = ""

    def areas(self) -> list[bytes]:
        """What lies in memory for it: what it is called with, its sections, room for its table of helpers."""
        table = bytes(ROW * (len(self.program.helpers) + 1))
        return [self.memory, *(section.data for section in self.program.image.sections), table]


def run(task: Task, target: str) -> int:
    """One program; r0. The errors of a function."""
    (found,) = run_all([task], target, timeout=None)
    if isinstance(found, CnpError):
        raise found
    return found[0]


def run_all(
    tasks: Sequence[Task], target: str, timeout: float | None = 60.0
) -> list[tuple[int, bytes] | CnpError]:
    """For each task r0 and its memory afterwards, or how it was stopped. SymbolError: a helper is not there. HostError: a
    program that nobody checks, or a helper, killed the process."""
    known = host.symbols(targets.get(target))
    helpers = [helper_addresses(task, known) for task in tasks]
    areas = [task.areas() for task in tasks]
    sizes = [max(1, len(area)) for group in areas for area in group]
    # where memory begins is known before there is code, which has addresses in it; unless the records need more
    free = host.DATA_BASE + SPACE + SPACE_EACH * sum(len(task.program.instructions) for task in tasks)
    places = areas_from(free, sizes)
    for _ in range(ROUNDS):
        grouped = split(places, areas)
        made = translated(target, jobs(tasks, helpers, known, grouped))
        code = ForeignCode(made.program, free=free)
        found = code.area_addresses(sizes)
        if found == places:
            break
        places = found
    order = code.target.byteorder
    for group, addresses in zip(areas, helpers, strict=True):
        table = [word for pair in addresses.items() for word in pair]
        group[-1] = words([*table, 0, 0], order)
    calls = []
    for number, (task, (place, *_)) in enumerate(zip(tasks, grouped, strict=True)):
        slots = words([place if task.memory else 0, len(task.memory)], order)
        calls.append(Call(f"run{number}", slots=slots, depth=DEPTH, fuel=task.fuel, interpret=task.interpret))
    outcome = code.run(calls, memory=[area or b"\0" for group in areas for area in group], timeout=timeout)
    ends: list[tuple[int, bytes] | CnpError] = []
    left = split(outcome.memory, areas)
    for number, (task, memory, result) in enumerate(zip(tasks, left, outcome.results, strict=True)):
        after = memory[0][: len(task.memory)]
        if result.returned:
            ends.append((int(result.value or 0), after))
            continue
        try:
            r0 = stopped(task.program, made, result.op, result.code, result.state, f"run{number}")
            ends.append((r0, after))
        except CnpError as error:
            ends.append(error)
    return ends


def helper_addresses(task: Task, known: Mapping[str, int]) -> dict[int, int]:
    """Where the helpers of a task's program lie in the host program. SymbolError: one has no place there."""
    wanted = {number: task.helpers.get(number, "") for number in task.program.helpers}
    missing = [f"helper {number}" for number, name in wanted.items() if name not in known]
    if task.program.packet is not None and task.packet not in known:
        missing.append("packet")
    if missing:
        message = f"{', '.join(missing)}: functions of this process cannot be called there; name some of the host program"
        raise SymbolError(message, symbols=missing)
    return {number: known[name] for number, name in wanted.items()}


def jobs(
    tasks: Sequence[Task],
    helpers: Sequence[Mapping[int, int]],
    known: Mapping[str, int],
    places: Sequence[Sequence[int]],
) -> list[Job]:
    """The tasks, with their areas and helpers at these places."""
    found = []
    for number, (task, addresses, (_, *data, table)) in enumerate(zip(tasks, helpers, places, strict=True)):
        program, image = task.program, task.program.image
        regions = [
            Region(place, len(section.data), section.writable)
            for place, section in zip(data, image.sections, strict=True)
        ]
        shared = Places(regions, addresses, table, known.get(task.packet, 0), program.unwind)
        chosen = options(task.unchecked, task.polls, DEPTH)
        found.append(Job(f"run{number}", program.instructions, image.relocations, chosen, shared))
    return found


def split(flat: Sequence[Item], like: Sequence[Sequence[object]]) -> list[Sequence[Item]]:
    """A flat sequence in groups as long as these."""
    found, at = [], 0
    for group in like:
        found.append(flat[at : at + len(group)])
        at += len(group)
    return found


def words(values: Sequence[int], order: str) -> bytes:
    """64-bit words in a byte order."""
    return b"".join(value.to_bytes(8, order) for value in values)  # type: ignore[arg-type]
