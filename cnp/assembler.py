"""The program under construction: operations, operands, labels. No addresses yet, no bytes.

    asm = Assembler(library)
    sum_ = asm.function("sum", frame=64)
    loop = asm.label("loop")
    asm.push(0)
    asm.bind(loop)
    asm.inc_local(slot(0), 1, at=("prog.lang", 7))
    ...

Operands choose the form: the first form of the operation that takes them is the best one.
"""

from __future__ import annotations

import operator
import struct
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, TypeVar

from cnp.errors import LabelError, OperandError, StateError
from cnp.library import Library
from cnp.stencil import Accept, Form, Operation, What

FLOAT_FORMATS = {
    "f32": (struct.Struct("<f"), struct.Struct("<I")),
    "f64": (struct.Struct("<d"), struct.Struct("<Q")),
}

WORDS = {"u32": 1 << 32, "u64": 1 << 64}


class Slot(NamedTuple):
    """A slot of the running function's frame; offset in bytes from the frame's first slot."""

    offset: int


def slot(offset: int) -> Slot:
    """The slot at `offset` bytes from the frame's first one."""
    return Slot(operator.index(offset))


@dataclass(eq=False, slots=True)
class Label:
    """A place in a program: the operation that it is bound to. entry: the interpreter may enter here."""

    name: str
    program: Program = field(repr=False)
    position: int | None = None
    entry: bool = False


@dataclass(eq=False, slots=True)
class Function(Label):
    """A label that can be called, with a frame of its own. frame: bytes of its slots. end: position behind it."""

    frame: int = 0
    end: int = 0


@dataclass(eq=False, slots=True)
class Cell:
    """A word of the code object's data: read by code, changed atomically from outside."""

    initial: int = 0


@dataclass(eq=False, slots=True)
class Table:
    """A jump table: code addresses of its labels, 8 bytes each, in the target's byte order."""

    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name that is resolved when the program is linked."""

    name: str


Value = int | Slot | Label | Cell | Table | Symbol
AnyValue = TypeVar("AnyValue", bound=Value)
At = tuple[str, int]

ADDRESSES = (Label, Symbol, Cell)  #: values that are addresses once the program is linked


class Op(NamedTuple):
    """One operation of a program with the form that was chosen. values: an immediate as the word it is."""

    operation: Operation
    form: Form
    values: tuple[Value, ...]
    at: At | None


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


class Assembler:
    """Builds a program one operation after the other. Each operation of the library is a method; it returns the
    operation's position in the program. `op(name, …)` reaches those whose names are taken by methods."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.program = Program(library)
        self._closed = False

    # ---- operations

    def op(self, name: str, *operands: object, at: At | None = None) -> int:
        """Append an operation. at: its source position as (file, line). OperandError says what it takes."""
        self._check_open()
        operation = self.library[name]
        if len(operands) != len(operation.operands):
            wanted = ", ".join(f"{o.kind} {o.name}" for o in operation.operands)
            message = f"{name} takes {len(operation.operands)} operands ({wanted}), not {len(operands)}"
            raise OperandError(message, op=name, operand="", value=operands, allowed=wanted)
        form, values = self._choose(operation, operands)
        self.program.ops.append(Op(operation, form, values, at))
        return len(self.program.ops) - 1

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

    def _choose(self, operation: Operation, operands: tuple[object, ...]) -> tuple[Form, tuple[Value, ...]]:
        for form in operation.forms:
            values = [
                self._take(accepted, operand)
                for accepted, operand in zip(form.accepts, operands, strict=True)
            ]
            if None not in values:
                self._check_frame(operation, operands)
                return form, tuple(values)  # type: ignore[arg-type]
        self._refuse(operation, operands)
        return None

    def _take(self, accepted: Accept, operand: object) -> Value | None:
        """The operand as this form holds it, None if it does not fit."""
        kind = accepted.kind
        if kind == "slot":
            if not isinstance(operand, Slot):
                return None
            value = operand.offset
            return operand if accepted.low <= value <= accepted.high and value % accepted.align == 0 else None
        if kind == "label" or kind == "func":
            return self._code(kind, operand)
        if kind == "cell":
            return (
                operand
                if isinstance(operand, Cell)
                else Cell(word(operand))
                if isinstance(operand, int)
                else None
            )
        if kind == "table":
            return self._own(operand, *operand.labels) if isinstance(operand, Table) else None
        if kind == "symbol":
            return (
                self._own(operand)
                if isinstance(operand, ADDRESSES)
                else word(operand)
                if isinstance(operand, int)
                else None
            )
        if isinstance(operand, ADDRESSES) and kind == "u64":
            return self._own(operand)
        return immediate(accepted, operand)

    def _own(self, operand: AnyValue, *labels: Label) -> AnyValue:
        """The operand; LabelError if it, or one of these labels, is a label of another program."""
        for label in labels or (operand,):
            if isinstance(label, Label) and label.program is not self.program:
                raise LabelError(f"label {label.name!r} belongs to another program", label=label.name)
        return operand

    def _code(self, kind: str, operand: object) -> Value | None:
        """A place to go to: a label of this program, the position of an operation, an imported function."""
        if isinstance(operand, Label):
            return self._own(operand) if kind == "label" or isinstance(operand, Function) else None
        if kind == "func":
            return operand if isinstance(operand, Symbol) else None
        if isinstance(operand, int) and not isinstance(operand, bool):
            return Label(f"op {operand}", self.program, operand)
        return None

    def _check_frame(self, operation: Operation, operands: tuple[object, ...]) -> None:
        """A slot lies within the frame of its function; the frame of a callee may begin at its end."""
        if not self.program.functions:
            raise StateError(
                f"{operation.name}: begin a function first: asm.function(name, frame=bytes)",
                state="no function",
            )
        size = self.program.functions[-1].frame
        for declared, operand in zip(operation.operands, operands, strict=True):
            last = size if operation.calls else size - 8
            if isinstance(operand, Slot) and not 0 <= operand.offset <= last:
                message = (
                    f"{operation.name}: {declared.name} is slot({operand.offset}); the frame has {size} bytes"
                )
                raise OperandError(
                    message, op=operation.name, operand=declared.name, value=operand.offset, allowed=(0, last)
                )

    def _refuse(self, operation: Operation, operands: tuple[object, ...]) -> NoReturn:
        """Say which operand no form takes."""
        for number, (declared, operand) in enumerate(zip(operation.operands, operands, strict=True)):
            accepts = [form.accepts[number] for form in operation.forms]
            if all(self._take(accepted, operand) is None for accepted in accepts):
                allowed = " or ".join(dict.fromkeys(f"{a.kind} {a.low} … {a.high}" for a in accepts))
                message = f"{operation.name}: operand {declared.name} takes {allowed}, not {operand!r}"
                raise OperandError(
                    message, op=operation.name, operand=declared.name, value=operand, allowed=allowed
                )
        shapes = " or ".join("(" + ", ".join(a.kind for a in form.accepts) + ")" for form in operation.forms)
        message = f"{operation.name} takes {shapes}, not {operands!r} together"
        raise OperandError(message, op=operation.name, operand="", value=operands, allowed=shapes)

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


def word(value: int) -> int:
    """A number as an unsigned 64-bit word; OperandError if it has more bits."""
    if not -(1 << 63) <= value < 1 << 64:
        raise OperandError(
            f"{value} does not fit 64 bits",
            op="",
            operand="",
            value=value,
            allowed=(-(1 << 63), (1 << 64) - 1),
        )
    return value & (1 << 64) - 1


def immediate(accepted: Accept, operand: object) -> int | None:
    """A number as the bits of an immediate of this kind; None if it is none or out of range. A negative number for an
    unsigned word is its two's complement."""
    if isinstance(operand, bool) or not isinstance(operand, (int, float)):
        return None
    if formats := FLOAT_FORMATS.get(accepted.kind):
        try:
            return int(formats[1].unpack(formats[0].pack(operand))[0])
        except (OverflowError, struct.error):
            return None
    if isinstance(operand, float):
        return None
    if accepted.kind in WORDS and -(WORDS[accepted.kind] >> 1) <= operand < 0:
        operand += WORDS[accepted.kind]
    return operand if accepted.low <= operand <= accepted.high and operand % accepted.align == 0 else None
