"""Other operands for operations of finished code that nobody runs.

Code that may run never changes. What is amended here is written anew as a whole, by the way that code is published, once
these are sure: no run is under way, no function was made a callable, no other code object took a symbol of it, and no
fork gave it to another process. What changes while code runs is a cell.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cnp import patch
from cnp.choose import ranges, taker, tied
from cnp.errors import MemoryFault, OperandError, StateError
from cnp.operands import Register, Table, Value
from cnp.program import Op, Program, check_slots

if TYPE_CHECKING:
    from cnp.code import Code


class Users:
    """Who may run a code object. shared: why nobody can know any more that nobody does; "" as long as one can."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs = 0
        self._closed = ""
        self.shared = ""

    @contextmanager
    def running(self) -> Iterator[None]:
        """For the length of a run. StateError: the code is being amended, or that failed."""
        with self._lock:
            if self._closed:
                raise StateError(self._closed, state="patched")
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1

    @contextmanager
    def amending(self) -> Iterator[None]:
        """Nobody runs the code inside; StateError says why that cannot be."""
        with self._lock:
            runs = f"{self._runs} runs of this code are under way" if self._runs else ""
            if reason := self._closed or runs or self.shared:
                message = f"{reason}, so that it cannot be patched; what changes while code runs is a cell"
                raise StateError(message, state="busy")
            self._closed = "this code is being patched"
        try:
            yield
        except MemoryFault as fault:
            self._closed = f"this code is gone, since the system refused to write it again ({fault})"
            raise
        except BaseException:
            self._closed = ""
            raise
        self._closed = ""


def amend(code: Code, position: int, operand: str, value: object) -> None:
    """Give an operation another operand. Raises as `Code.patch` says; nothing is changed then."""
    program, image = code.program, code.image
    if program.codes > 1:
        message = "another code object was built from this program, so that it cannot be patched; reset() the assembler"
        raise StateError(message, state="shared")
    old = program.ops[code.position(position)]
    new = with_operand(program, old, operand, value)
    changed = tuple(None if a is b else a for a, b in zip(new.values, old.values, strict=True))
    check_slots(new.operation, changed, program.function_at(position))
    set_op(program, position, new)
    try:
        program.check()
        found = patch.encode(program, image.base, image.data_base, code.import_address)
        if shape(found) != shape(image):
            message = f"op {position} ({old.operation.name}): with {operand} = {value!r} other code would have to move"
            raise StateError(message, state="layout")
        code.rewrite(found)
    except BaseException:
        set_op(program, position, old)
        raise


def with_operand(program: Program, op: Op, operand: str, value: object) -> Op:
    """The operation with the same form and another operand. OperandError: there is no such operand, or the form does not
    take this one; StateError: the operation was composed."""
    operation, form = op.operation, op.form
    names = [declared.name for declared in operation.operands]
    facts = {"op": operation.name, "operand": operand, "value": value}
    if op.meant is not None:
        message = f"this {operation.name} belongs to an operation that was composed of several"
        raise StateError(message, state="composed")
    if operand not in names:
        message = f"{operation.name} has no operand {operand!r}; there are {', '.join(names) or 'none'}"
        raise OperandError(message, **facts, allowed=names)
    number = names.index(operand)
    accept = form.accepts[number]
    if isinstance(value, int) and not isinstance(value, bool) and accept.kind == "label":
        value = program.labels.at(value)
    for label in value.labels if isinstance(value, Table) else (value,):
        if getattr(label, "owner", program.labels) is not program.labels:
            raise OperandError(
                f"{operand}: {value!r} is of another program", **facts, allowed="its own labels"
            )
    take = taker(accept, value.bank if isinstance(value, Register) else type(value))
    taken: Value | None = take(value) if take else None
    values = tuple(taken if n == number else old for n, old in enumerate(op.values))
    if taken is None or not tied(values, form.same, form.differ):
        message = (
            f"{operation.name}: the form that was chosen takes {ranges([accept])} as {operand}, not {value!r}"
        )
        raise OperandError(message, **facts, allowed=ranges([accept]))
    return op._replace(values=values)  # type: ignore[arg-type]


def set_op(program: Program, position: int, op: Op) -> None:
    del program.ops[position]
    program.ops.insert(position, op)


def shape(image: patch.Image) -> tuple[object, ...]:
    """Where everything of an image lies."""
    sizes, places = (len(image.code), len(image.data)), (image.cell_places, image.sections, image.routines)
    return (*sizes, list(image.offsets), list(image.ranges), *places)
