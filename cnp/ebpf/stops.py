"""Why a run of an eBPF program stopped: traps of the operations as errors that name the instruction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from cnp.ebpf.errors import AccessError, RunError
from cnp.ebpf.isa import R10, Instruction, spec_of, text_of

if TYPE_CHECKING:
    from cnp.ebpf.program import Program


class Places(Protocol):
    """What knows the instruction of an operation. name: of the program's entry."""

    def instruction_at(self, op: int, name: str) -> int: ...


MAIN = "main"
ENDED, MISALIGNED, NO_HELPER = 64, 65, 66  #: trap codes of ebpf.c
OUTSIDE = 4
WHY = {
    OUTSIDE: "outside of its memory",
    5: "too many nested calls",
    6: "out of fuel",
    MISALIGNED: "an atomic access that is not aligned",
    NO_HELPER: "there is no such helper",
}


def stopped(
    program: Program,
    places: Places,
    op: int,
    code: int,
    state: Mapping[str, int | float],
    name: str = MAIN,
) -> int:
    """0 where the program ended itself; otherwise the error that a trap stands for is raised. name: of its entry."""
    if code == ENDED:
        return 0
    index = places.instruction_at(op, name)
    instruction = dict(program.instructions)[index]
    text = text_of(instruction)
    what = WHY.get(code, f"trap {code}")
    facts = {"index": index, "instruction": text, "what": what, "code": code}
    if code not in (OUTSIDE, MISALIGNED):
        raise RunError(f"instruction {index}: {text}: {what}", **facts)
    place, size = accessed(instruction, state)
    where = "" if place is None else f" at {place:#x}"
    raise AccessError(
        f"instruction {index}: {text}: {what}: {size} bytes{where}", **facts, address=place, size=size
    )


def accessed(instruction: Instruction, state: Mapping[str, int | float]) -> tuple[int | None, int]:
    """Address and size of an access. None for one by r10, which is not among the words of the state."""
    spec = spec_of(instruction)
    assert spec is not None  # the verifier saw to it
    base = instruction.src if spec.kind == "load" else instruction.dst
    if base == R10:
        return None, spec.bits // 8
    return (int(state[f"r{base}"]) + instruction.offset) & (1 << 64) - 1, spec.bits // 8
