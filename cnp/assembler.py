"""The program under construction: operations, operands, labels. No addresses yet, no bytes.

    asm = Assembler(library)
    sum_ = asm.function("sum", frame=64)
    loop = asm.label("loop")
    asm.i64_move(r[1], 0)
    asm.bind(loop)
    asm.i64_add(r[1], r[1], slot(8), at=("prog.lang", 7))
    ...

Operands choose the form: the first form of the operation that takes them is the best one (`cnp/choose.py`).
Where none takes them together, the operation is composed (`cnp/compose.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cnp.choose import chooser, refusal
from cnp.compose import Composer, Cost, cost
from cnp.errors import LabelError, OperandError, StateError
from cnp.library import Library
from cnp.operands import (
    At,
    Cell,
    Function,
    Label,
    Register,
    Slot,
    Symbol,
    Table,
    Value,
    f,
    r,
    slot,
    word,
)
from cnp.program import Op, Program
from cnp.stencil import Operation

__all__ = [
    "Assembler",
    "At",
    "Cell",
    "Cost",
    "Function",
    "Label",
    "Op",
    "Program",
    "Register",
    "Slot",
    "Symbol",
    "Table",
    "Value",
    "f",
    "r",
    "slot",
]


class Assembler:
    """Builds a program one operation after the other. Each operation of the library is a method; it returns
    the operation's position in the program. `op(name, …)` reaches those whose names are taken by methods.

    A register that the target does not have stands for the slot at its home; strict: it is an OperandError.
    """

    def __init__(self, library: Library, strict: bool = False) -> None:
        self.library = library
        self.program = Program(library)
        self._closed = False
        self._chooser = chooser(library)
        self._composer = Composer(library, self._chooser)
        self._strict = strict
        self._absent = self._without_number()

    def _without_number(self) -> dict[object, Slot]:
        """The registers that the target does not have, with their homes."""
        registers = [Register(b, n) for b, numbers in self.library.registers.items() for n in range(len(numbers))]  # fmt: skip
        return {
            register: Slot(self.library.home(register))
            for register in registers
            if self.library.number(register) is None
        }

    # ---- operations

    def op(self, name: str, *operands: object, at: At | None = None) -> int:
        """Append an operation, as several where it must be composed; the position of the first. at: its
        source position as (file, line). OperandError says what it takes."""
        self._check_open()
        operation, ops = self.library[name], self.program.ops
        position = len(ops)
        found = self._select(operation, operands, at)
        self._check_frame(operation, operands)
        ops += found
        return position

    def cost(self, name: str, *operands: object) -> Cost:
        """What an operation with these operands takes in the short variant; nothing is appended. It may name
        slots that the frame of no function has."""
        return cost(self._select(self.library[name], operands, None))

    def _check_open(self) -> None:
        if self._closed:
            raise StateError("this program was built; make a new assembler", state="closed")

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name.startswith("_") or name not in self.library:
            raise AttributeError(f"no operation {name!r} in {self.library.path}")

        def append(*operands: object, at: At | None = None) -> int:
            return self.op(name, *operands, at=at)

        self.__dict__[name] = append
        return append

    def _select(self, operation: Operation, operands: tuple[object, ...], at: At | None) -> list[Op]:
        """The operation with the form that takes the operands, or its composition."""
        if len(operands) != len(operation.operands):
            wanted = ", ".join(f"{o.kind} {o.name}" for o in operation.operands)
            message = (
                f"{operation.name} takes {len(operation.operands)} operands ({wanted}), not {len(operands)}"
            )
            raise OperandError(message, op=operation.name, operand="", value=operands, allowed=wanted)
        if self._absent:
            operands = self._at_home(operation, operands)
        shortlist, choice = self._chooser.choose(operation, operands)
        if choice is not None:
            form, values = choice
            return [Op(operation, form, self._anchored(operation, values, shortlist.places), at)]
        anchored = self._anchored(operation, operands, shortlist.places)
        composed = self._composer.compose(operation, anchored)
        if composed is None:
            self._check_registers(operation, operands)
            raise refusal(operation, operands)
        return [op._replace(at=at) for op in composed]

    def _at_home(self, operation: Operation, operands: tuple[object, ...]) -> tuple[object, ...]:
        """The operands with slots for the registers that the target does not have."""
        absent = self._absent
        found = [absent.get(o, o) if o.__class__ is Register else o for o in operands]
        if self._strict:
            for declared, given, taken in zip(operation.operands, operands, found, strict=True):
                if given is not taken:
                    target = self.library.target.name
                    message = (
                        f"{operation.name}: {declared.name} is {given!r}, which lies in memory on {target}"
                    )
                    facts = {"op": operation.name, "operand": declared.name, "value": given}
                    raise OperandError(message, **facts, allowed="registers of the target")
        return tuple(found)

    def _check_registers(self, operation: Operation, operands: tuple[object, ...]) -> None:
        """OperandError for a register that the vocabulary does not have."""
        for declared, operand in zip(operation.operands, operands, strict=True):
            if isinstance(operand, Register):
                try:
                    self.library.home(operand)
                except OperandError as error:
                    facts = error.evidence | {"op": operation.name, "operand": declared.name}
                    message = f"{operation.name}: {declared.name}: {error.message}"
                    raise OperandError(message, **facts) from None

    def _anchored(
        self, operation: Operation, values: tuple[Any, ...], places: tuple[int, ...]
    ) -> tuple[Any, ...]:
        """The values with labels for positions. places: which are labels, tables or positions; LabelError if
        one is of another program."""
        if not places:
            return values
        found = list(values)
        for number in places:
            value = found[number]
            if isinstance(value, int):
                found[number] = Label(f"op {value}", self.program, value)
            for label in value.labels if isinstance(value, Table) else (value,):
                self._own(label)
        return tuple(found)

    def _own(self, label: object) -> None:
        """LabelError if this is a label of another program."""
        if isinstance(label, Label) and label.program is not self.program:
            raise LabelError(f"label {label.name!r} belongs to another program", label=label.name)

    def _check_frame(self, operation: Operation, operands: tuple[object, ...]) -> None:
        """A slot lies within the frame of its function; the frame of a callee may begin at its end."""
        functions = self.program.functions
        if not functions:
            message = f"{operation.name}: begin a function first: asm.function(name, frame=bytes)"
            raise StateError(message, state="no function")
        size = functions[-1].frame
        last = size if operation.calls else size - 8
        for number, operand in enumerate(operands):
            if isinstance(operand, Slot) and not 0 <= operand.offset <= last:
                name, offset = operation.operands[number].name, operand.offset
                message = f"{operation.name}: {name} is slot({offset}); the frame has {size} bytes"
                raise OperandError(message, op=operation.name, operand=name, value=offset, allowed=(0, last))

    # ---- labels, functions, data

    def function(self, name: str, frame: int) -> Function:
        """Begin a function here: a place that run() and native calls enter. frame: bytes of its slots."""
        self._check_open()
        if frame < 0 or frame % 8:
            raise OperandError(
                f"frame is {frame} bytes; give a multiple of 8",
                op=name,
                operand="frame",
                value=frame,
                allowed=8,
            )
        if any(function.name == name for function in self.program.functions):
            raise LabelError(f"function {name!r} exists already", label=name)
        if self.program.functions:
            self.program.functions[-1].end = len(self.program.ops)
        new = Function(name, self.program, len(self.program.ops), True, frame)
        self.program.functions.append(new)
        return new

    def declare(self, name: str, frame: int) -> Function:
        """A function whose code comes later: bind it with `begin`."""
        return Function(name, self.program, None, True, frame)

    def begin(self, function: Function) -> Function:
        """Begin the code of a declared function here."""
        self._own(function)
        begun = self.function(function.name, function.frame)
        self.program.functions[-1] = function
        self.bind(function)
        function.end = begun.end
        return function

    def label(self, name: str = "") -> Label:
        """A new label, not yet bound."""
        new = Label(name or f"label {len(self.program.labels)}", self.program)
        self.program.labels.append(new)
        return new

    def bind(self, label: Label, entry: bool = False) -> Label:
        """Bind a label to the next operation. entry: `code.enter` may enter here."""
        self._check_open()
        self._own(label)
        if label.position is not None:
            raise LabelError(
                f"label {label.name!r} is bound already, to op {label.position}", label=label.name
            )
        label.position = len(self.program.ops)
        label.entry = label.entry or entry
        return label

    def here(self, name: str = "", entry: bool = False) -> Label:
        """A label bound to the next operation."""
        return self.bind(self.label(name), entry)

    def cell(self, initial: int = 0) -> Cell:
        """A word of data that several operations share."""
        return Cell(word(initial))

    def table(self, *labels: Label) -> Table:
        """A jump table."""
        return Table(labels)

    def close(self) -> Program:
        """The finished program, checked."""
        self.program.check()
        self._closed = True
        if self.program.functions:
            self.program.functions[-1].end = len(self.program.ops)
        return self.program
