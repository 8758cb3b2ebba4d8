"""Super-operations where their parts stand in a row: fewer operations, and no jump, store or load between them.

    0 push 5            0 push 5
    1 load_local 8  ->  1 load_add 8
    2 add               2 return
    3 return

Nobody may come in between: where a label or a function points at a later part, or an alignment, a cold range or a
composition begins there, the parts stay. The longest super-operation that fits is taken, from the first operation on.
"""

from __future__ import annotations

from cnp.operands import Register, Slot, Value
from cnp.program import Op, Program
from cnp.stencil import Accept, Form, Operation


def fuse(program: Program) -> list[int]:
    """Put super-operations in the place of their parts. For each old position the new one: parts have that of the
    super-operation they are in."""
    places = pinned(program)
    longest_first = sorted(program.library.supers.items(), key=lambda item: -len(item[1]))
    moved: list[int] = []
    ops: list[Op] = []
    start = 0
    while start < len(program.ops):
        for name, parts in longest_first:
            end = start + len(parts)
            if not places.isdisjoint(range(start + 1, end)):
                continue
            if (op := fused(program, name, parts, program.ops[start:end])) is not None:
                break
        else:
            op, end = program.ops[start], start + 1
        moved += [len(ops)] * (end - start)
        ops.append(op)
        start = end
    move(program, [*moved, len(ops)])
    program.ops[:] = ops
    return moved


def pinned(program: Program) -> set[int]:
    """Positions that must stay what they are: something points there, or begins or ends there."""
    found = {label.position for label in (*program.functions, *program.labels) if label.position is not None}
    found |= {place for span in program.cold for place in (span.start, span.end)} | program.aligned.keys()
    return found.union(*(range(start, start + count + 1) for start, count in program.composed.items()))


def move(program: Program, after: list[int]) -> None:
    """Everything that is a position becomes the new one. after: also of the end."""

    def new(position: int) -> int:
        return after[position] if position < len(after) else position

    for label in (*program.functions, *program.labels):
        if label.position is not None:
            label.position = new(label.position)
    for function in program.functions:
        function.end = new(function.end)
    for span in program.cold:
        span.start, span.end = new(span.start), new(span.end)
    program.aligned = {new(position): size for position, size in program.aligned.items()}
    program.composed = {new(position): count for position, count in program.composed.items()}
    program.labels.forget_positions()


def fused(program: Program, name: str, parts: tuple[str, ...], ops: list[Op]) -> Op | None:
    """The operations as the super-operation of that name; None: they are not its parts, or none of its forms takes their
    operands."""
    if tuple(op.operation.name for op in ops) != parts:
        return None
    operation, features = program.library[name], ("", *program.library.features)
    values = tuple(value for op in ops for value in op.values)
    for form in operation.forms:
        if form.feature in features and fits(operation, form, values):
            return Op(operation, form, values, ops[0].at)
    return None


def fits(operation: Operation, form: Form, values: tuple[Value, ...]) -> bool:
    """Whether a form takes values that a form of a part holds already."""
    if form.same or any(values[a] == values[b] for a, b in form.differ):
        return False
    return all(
        takes(accept, declared.kind, value)
        for accept, declared, value in zip(form.accepts, operation.operands, values, strict=True)
    )


def takes(accept: Accept, kind: str, value: Value) -> bool:
    """Whether one operand may be a value. kind: what it was declared as."""
    if isinstance(value, Register):
        return accept.kind == value.bank and accept.mask >> value.index & 1 == 1
    if isinstance(value, Slot):
        inside = accept.low <= value.offset <= accept.high
        return accept.kind == "slot" and inside and value.offset % accept.align == 0
    if kind not in ("imm", "in/imm"):
        return accept.kind == kind
    if not isinstance(value, int):  # an address
        return accept.kind == "u64"
    inside = accept.low <= value <= accept.high
    return accept.kind not in ("r", "f", "slot") and inside and value % accept.align == 0
