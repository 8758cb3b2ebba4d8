"""What is wrong with a program before it is compiled: each rule is looked at for each instruction, reachable or not.

A program that passes cannot leave itself: every jump, call and way on ends at an instruction of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from cnp.ebpf.errors import VerifyError
from cnp.ebpf.isa import (
    ENDS,
    FIELDS,
    LDDW,
    R10,
    WRITES_DST,
    WRITES_SRC,
    Instruction,
    Spec,
    knows,
    spec_of,
    text_of,
    whole,
)

MOST = 1 << 20  #: instructions of a program


def verify(
    places: Sequence[Instruction], helpers: Collection[int], packet: bool
) -> list[tuple[int, Instruction]]:
    """The instructions of a program with their places. VerifyError names the first one that breaks a rule.

    helpers: numbers that may be called. packet: whether legacy loads are allowed.
    """
    if not places:
        raise VerifyError("the program is empty", index=0, instruction="", rule="the program is empty")
    if len(places) > MOST:
        rule = f"a program has at most {MOST} instructions, not {len(places)}"
        raise VerifyError(rule, index=MOST, instruction="", rule=rule)
    program = list(whole(places))
    starts = {index for index, _ in program}
    for index, instruction in program:
        for rule in broken(index, instruction, places, starts, helpers, packet):
            text = text_of(instruction)
            message = f"instruction {index}: {text}: {rule}"
            raise VerifyError(message, index=index, instruction=text, rule=rule)
    return program


def broken(
    index: int,
    instruction: Instruction,
    places: Sequence[Instruction],
    starts: Collection[int],
    helpers: Collection[int],
    packet: bool,
) -> Iterator[str]:
    """The rules that an instruction breaks, the most telling first."""
    spec = spec_of(instruction)
    if spec is None:
        yield unknown(instruction)
        return
    yield from bad_fields(instruction, spec)
    yield from bad_registers(instruction, spec)
    if instruction.opcode == LDDW:
        yield from bad_second_place(index, places)
    if spec.kind == "call_helper" and instruction.imm not in helpers:
        known = ", ".join(map(str, sorted(helpers))) or "none"
        yield f"there is no helper {instruction.imm}; there are {known}"
    if spec.kind == "packet" and not packet:
        yield "legacy packet loads are off: give the program a packet"
    following = index + (2 if instruction.opcode == LDDW else 1)
    if spec.kind not in ENDS and following >= len(places):
        yield "the program runs off its end"
    to = target(index, instruction, spec)
    if to is not None and to not in starts:
        inside = 0 <= to < len(places)
        yield (
            f"it goes to {to}, the second half of lddw"
            if inside
            else f"it goes to {to}, outside of the program"
        )


def target(index: int, instruction: Instruction, spec: Spec) -> int | None:
    """Where an instruction jumps to or what it calls; None: nowhere."""
    if spec.kind == "branch":
        return index + 1 + instruction.offset
    if spec.kind == "goto":
        return index + 1 + (instruction.imm if "imm" in spec.uses else instruction.offset)
    return index + 1 + instruction.imm if spec.kind == "call_local" else None


def unknown(instruction: Instruction) -> str:
    """Why there is no such instruction."""
    opcode = instruction.opcode
    if not knows(opcode):
        return f"opcode {opcode:#04x} is unknown"
    return f"opcode {opcode:#04x} has no variant with src {instruction.src}, offset {instruction.offset}, imm {instruction.imm}"


def bad_fields(instruction: Instruction, spec: Spec) -> Iterator[str]:
    """Reserved fields are zero."""
    for field in FIELDS:
        if field not in spec.uses and getattr(instruction, field):
            yield f"{field} is reserved and must be 0, not {getattr(instruction, field)}"


def bad_registers(instruction: Instruction, spec: Spec) -> Iterator[str]:
    """There are r0 … r10, and r10 is only read."""
    registers = {"dst": instruction.dst, "src": instruction.src}
    if spec.kind in ("call_local", "call_helper"):
        del registers["src"]
    for field, number in registers.items():
        if number > R10:
            yield f"{field} is r{number}; there are r0 … r10"
    if (spec.kind in WRITES_DST and instruction.dst == R10) or (
        spec.kind in WRITES_SRC and instruction.src == R10
    ):
        yield "r10 is the frame pointer, which is never written"


def bad_second_place(index: int, places: Sequence[Instruction]) -> Iterator[str]:
    """The second place of lddw has the upper half of the constant and nothing else."""
    if index + 1 >= len(places):
        yield "its second half is missing"
    elif places[index + 1]._replace(imm=0) != (0, 0, 0, 0, 0):
        yield "the second half of lddw has fields that must be 0"
