"""Random programs for the core in C: every form of every operation that a vocabulary has, with operands at the edges of
what it takes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from cnp.assembler import Assembler
from cnp.errors import OperandError
from cnp.library import Library
from cnp.operands import Label, Register, Slot, Symbol
from cnp.stencil import Accept, Form, Operation

FRAME = 1 << 16
OUTSIDE = "outside"  #: a symbol


def operand(accept: Accept, rng: random.Random, asm: Assembler, labels: list[Label]) -> Any:
    """Something that a form takes in this place."""
    match accept.kind:
        case "r" | "f":
            return Register(accept.kind, rng.choice([n for n in range(32) if accept.mask >> n & 1]))
        case "slot":
            high = min(accept.high, FRAME - 8)
            places = [max(accept.low, 0), high, rng.randint(0, high), rng.choice((0, 8, 120, 128, 2040))]
            return Slot(min(rng.choice(places), high) // 8 * 8)
        case "label":
            return rng.choice(labels)
        case "func":
            return asm.program.functions[0]
        case "cell":
            return asm.cell(rng.getrandbits(64))
        case "table":
            return asm.table(*rng.choices(labels, k=3))
        case "symbol":
            return rng.choice((rng.getrandbits(63), an_address(rng, asm, labels)))
        case "u64" if rng.random() < 0.3:
            return an_address(rng, asm, labels)
    if accept.kind in ("f32", "f64"):
        return rng.choice((0.0, 1.0, -2.5, 1e30))
    middle = rng.randint(accept.low, accept.high)
    value = rng.choice(
        (accept.low, accept.high, middle, min(max(accept.low, rng.randint(-200, 200)), accept.high))
    )
    return (
        value // accept.align * accept.align
        if value // accept.align * accept.align >= accept.low
        else accept.high
    )


def an_address(rng: random.Random, asm: Assembler, labels: list[Label]) -> Any:
    """A place where a number may stand."""
    return rng.choice((Symbol(OUTSIDE), rng.choice(labels), asm.cell(7)))


def forms(library: Library) -> Iterator[tuple[Operation, Form]]:
    for name in library.operations:
        for form in library[name].forms:
            yield library[name], form


def program(
    library: Library, seed: int, size: int, chosen: list[tuple[Operation, Form]], asm: Assembler | None = None
) -> Assembler:
    """A program of `size` operations with forms out of those given; its last operation goes on to nothing."""
    rng = random.Random(seed)
    asm = asm or Assembler(library)
    asm.function("main", frame=FRAME)
    labels = [asm.label() for _ in range(8)]
    waiting = labels[:]
    while len(asm.program.ops) < size:
        operation, form = chosen.pop() if chosen else rng.choice(list(forms(library)))
        operands = [operand(accept, rng, asm, labels) for accept in form.accepts]
        for a, b in form.same:
            operands[b] = operands[a]
        try:
            asm.op(operation.name, *operands)
        except OperandError:
            continue  # no registers that differ, or slots beyond the frame
        if waiting and rng.random() < 0.2:
            asm.bind(waiting.pop())
    for label in waiting:
        asm.bind(label)
    asm.op("ret", Slot(0))
    return asm


# ---- borders


def at_a_border(accepts: list[Accept], rng: random.Random) -> Any:
    """An operand on either side of where one of these begins or ends to take it."""
    accept = rng.choice(accepts)
    if accept.kind in ("r", "f"):
        return Register(accept.kind, rng.randrange(32))
    if accept.kind == "slot":
        edge = rng.choice((0, accept.low, accept.high, accept.high + 8, FRAME - 8))
        return Slot(min(max(edge // 8 * 8 + rng.choice((-8, 0, 0, 8, 4)), 0), FRAME - 8))
    edge = rng.choice((0, accept.low, accept.high, -1 << 31, (1 << 31) - 1, 1 << 32, -1 << 63, (1 << 63) - 1))
    return edge + rng.choice((-1, 0, 1))


def borders(library: Library, seed: int, size: int) -> Assembler:
    """A program of operations of slots, registers, whole numbers and labels, all operands at the borders of forms, some of
    them equal."""
    rng = random.Random(seed)
    asm = Assembler(library)
    asm.function("main", frame=FRAME)
    known = {"r", "f", "slot", "label", "i32", "i64", "u32", "u64"}
    usable = [op for op in map(library.__getitem__, library.operations) if op.operands and all(a.kind in known for f in op.forms for a in f.accepts)]  # fmt: skip
    labels = [asm.label() for _ in range(size)]
    for label in labels:
        operation = rng.choice(usable)
        accepts = [[form.accepts[n] for form in operation.forms] for n in range(len(operation.operands))]
        operands = [rng.choice(labels) if a[0].kind == "label" else at_a_border(a, rng) for a in accepts]
        alike = [n for n, a in enumerate(accepts) if a[0].kind != "label"]
        if len(alike) > 1 and rng.random() < 0.3:
            a, b = rng.sample(alike, 2)
            operands[a] = operands[b]
        asm.bind(label)
        try:
            position = asm.op(operation.name, *operands)
        except OperandError:
            continue  # beyond what any form takes
        if asm.program.composed.pop(position, 0):
            del asm.program.ops[position:]  # no form of its own
    asm.op("ret", Slot(0))
    return asm
