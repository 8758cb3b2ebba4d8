"""A program as plain data: operations with their forms and operands, functions, labels."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import NamedTuple

from cnp.errors import LabelError
from cnp.library import Library
from cnp.operands import At, Function, Label, Table, Value
from cnp.stencil import Form, Operation, What


class Op(NamedTuple):
    """One operation of a program with the form that was chosen. values: an immediate as the word it is.

    meant: of an operation that the assembler composed (`cnp/compose.py`), what the interpreter does instead; None: the same.
    """

    operation: Operation
    form: Form
    values: tuple[Value, ...]
    at: At | None
    meant: tuple[Value, ...] | None = None

    @property
    def interpreted(self) -> tuple[Value, ...]:
        """The operands for the interpreter, which takes any operand in any place."""
        return self.values if self.meant is None else self.meant


@dataclass(eq=False)
class Program:
    """What is to be linked: plain data, in the order of the code. roots: routines that are called from outside."""

    library: Library
    ops: list[Op] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    roots: tuple[str, ...] = ("cnp_enter",)

    def function_at(self, position: int) -> Function:
        """The function that an operation belongs to."""
        return self.functions[bisect_right(self.functions, position, key=lambda f: f.position or 0) - 1]

    def entries(self) -> frozenset[int]:
        """Positions at which a run may begin: functions, and labels that were bound as entries."""
        places = [*self.functions, *(label for label in self.labels if label.entry)]
        return frozenset(place.position for place in places if place.position is not None)

    def no_entry(self, position: int) -> LabelError:
        """The error for a run that would begin elsewhere."""
        name = self.ops[position].operation.name
        message = f"op {position} {name} is no entry: bind its label with entry=True"
        return LabelError(message, label=str(position))

    def check(self) -> None:
        """Raise LabelError for labels that are used and unbound, for jumps that leave their function for one with a
        larger frame, for functions that have no operations or run off their end."""
        for index, op in enumerate(self.ops):
            for declared, value in zip(op.operation.operands, op.values, strict=True):
                if isinstance(value, (Label, Table)):
                    jumps = declared.kind in ("label", "table") and not op.operation.calls
                    for label in value.labels if isinstance(value, Table) else (value,):
                        self._check_label(index, label, jumps)
        self._check_functions()

    def _check_label(self, index: int, label: Label, jumps: bool) -> None:
        """jumps: the operation goes there itself, and takes its frame along."""
        name = f"op {index} ({self.ops[index].operation.name}) goes to label {label.name!r}"
        if label.position is None or not 0 <= label.position < len(self.ops):
            raise LabelError(f"{name}, which is bound to no operation", label=label.name, index=index)
        if jumps:
            here, there = self.function_at(index), self.function_at(label.position)
            if there.frame > here.frame:
                message = (
                    f"{name} in function {there.name!r}, whose frame is larger than that of {here.name!r}"
                )
                raise LabelError(message, label=label.name, index=index)

    def _check_functions(self) -> None:
        """No function is empty or runs off its end."""
        ends = [function.position or 0 for function in self.functions[1:]] + [len(self.ops)]
        for function, end in zip(self.functions, ends, strict=False):
            if end == function.position:
                message = f"function {function.name!r} has no operations"
                raise LabelError(message, label=function.name, index=end)
        for end in ends if self.ops else ():
            if goes_on(self.ops[end - 1].form):
                message = f"the code runs off its end after op {end - 1} ({self.ops[end - 1].operation.name})"
                raise LabelError(message, label="", index=end - 1)


def goes_on(form: Form) -> bool:
    """Whether a stencil may go on with the operation that follows it."""
    return any(hole.what is What.NEXT for block in form.near.blocks for hole in block.holes)
