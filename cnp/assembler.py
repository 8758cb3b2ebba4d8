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

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from cnp import native
from cnp.bounds import Memory
from cnp.choose import chooser, refusal
from cnp.compose import Composer, Cost, cost
from cnp.editing import Ops
from cnp.emit import RECORD, Buffer, flat
from cnp.errors import LabelError, OperandError, StateError
from cnp.fuse import fuse
from cnp.invoke import Step, check_base, note_prototype, steps_of
from cnp.labels import Locals
from cnp.library import Library
from cnp.operands import (
    At,
    Cell,
    DataLabel,
    Function,
    Label,
    Lazy,
    Offset,
    Place,
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
from cnp.program import Op, Program, Span, check_slots
from cnp.records import Present, Records, Things, UnknownError, chosen, is_held, read
from cnp.sections import DATA, RODATA, Data, check_alignment
from cnp.stencil import Operation

__all__ = [
    "Assembler",
    "At",
    "Cell",
    "Cost",
    "DataLabel",
    "Function",
    "Label",
    "Lazy",
    "Offset",
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

    A register that the target does not have stands for the slot at its home; strict: it is an OperandError. supers: `build`
    puts super-operations where their parts stand in a row (`fuse`).
    """

    def __init__(self, library: Library, strict: bool = False, supers: bool = False) -> None:
        self.library = library
        self._chooser = chooser(library)
        self._composer = Composer(library, self._chooser)
        self._strict, self._supers = strict, supers
        self._absent = self._without_number()
        self.program = Program(library)
        self._made: dict[str, Callable[..., int]] = {}
        in_core = native.core_module is not None and not (strict and self._absent)
        self._present = Present(library) if in_core else None
        self.reset()

    def reset(self) -> None:
        """Begin a new program. Labels of the last one belong to that; code that was built from it stays as it is.

        ops: the operations as a sequence that can be edited; rodata, data: the sections of data.
        """
        self._stop()
        self.program = Program(self.library)
        self._closed = False
        self._things = Things(self.library, self.program.labels)
        if self._present is not None:
            self.program.ops.records = records = Records(self._things)
            self._present.become(records)
        self._locals = Locals(self.label)
        self.ops = Ops(self.program, self._select_at, self._check_open)
        self.rodata = Data(self.program, RODATA, self._own_open)
        self.data = Data(self.program, DATA, self._own_open)

    def _stop(self) -> None:
        """Nothing is appended to the program any more."""
        if (records := self.program.ops.records) is not None:
            records.stop()

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
        return self._callable(name)(*operands, at=at)

    def extend(self, records: Buffer) -> int:
        """Append operations from a buffer of records (`emit.RECORD`): bytes, an array, numpy, mmap. The position of the
        first.

        A record says what `operand` gives for its operands; positions are those of the program. It is copied once, and
        checked; while C works the GIL is released. OperandError, LabelError and StateError say in `index` which operation
        is wrong; those before it are appended then. Records are not composed: OperandError where no form takes one.
        """
        self._check_open()
        data = flat("records", records)
        if len(data) % RECORD.size:
            message = f"{len(data)} bytes are no whole number of records of {RECORD.size} bytes"
            raise OperandError(message, op="", operand="records", value=len(data), allowed=RECORD.size)
        position, ops = len(self.program.ops), self.program.ops
        if ops.records is not None:
            ops.records.extend(data)
        else:
            for record in RECORD.iter_unpack(data):
                ops.append(self._read(record))
        return position

    def _read(self, record: tuple[int, ...]) -> Op:
        """The operation of a record, as the core would read it."""
        index, functions = len(self.program.ops), self.program.functions
        if not functions:
            raise StateError("begin a function first", state="no function")
        operation, operands = read(self._things, index, record, functions[-1])
        return chosen(self.library, index, operation, record[2], self._at_home(operation, operands))

    def operand(self, value: object) -> tuple[int, int]:
        """An operand as records say it: its kind, 4 bits, and its word. A label, a cell, a table, a symbol and a number of
        more than 32 bits get a number here. OperandError: it has none, as what lies beside a place; LabelError."""
        for label in value.labels if isinstance(value, Table) else (value,):
            self._own_open(label)
        if isinstance(value, Register):
            self.library.home(value)  # OperandError: the vocabulary has no such register
        if isinstance(value, Cell) and not is_held(value):
            self.program.ops.listed()  # the core knows no such cells
        try:
            return self._things.operand(value)
        except UnknownError:
            message = f"records have no word for {value!r}; append its operation by its name"
            raise OperandError(message, op="", operand="", value=value, allowed="what records say") from None

    def _callable(self, name: str) -> Callable[..., int]:
        """The function that appends an operation to the present program."""
        found = self._made.get(name)
        if found is None:
            operation = self.library[name]
            found = partial(self._append, operation)
            if self._present is not None:
                found = self._present.callable(operation, found)
            self._made[name] = found
        return found

    def _append(self, operation: Operation, *operands: object, at: At | None = None) -> int:
        """Append an operation with all checks."""
        self._check_open()
        program, ops, position = self.program, self.program.ops, len(self.program.ops)
        found = self._select(operation, operands, at)
        self._check_frame(operation, operands, program.functions[-1] if program.functions else None)
        ops += found
        if len(found) > 1:
            program.composed[position] = len(found)
        return position

    def _select_at(self, name: str, operands: tuple[object, ...], at: At | None, position: int) -> list[Op]:
        """What `op` would append, for a place among the operations that there are."""
        operation, functions = self.library[name], self.program.functions
        found = self._select(operation, operands, at)
        begun = bool(functions) and (functions[0].position or 0) <= position
        self._check_frame(operation, operands, self.program.function_at(position) if begun else None)
        return found

    def invoke(
        self,
        signature: str,
        function: object,
        base: Slot,
        d: Slot | Register | None,
        *arguments: object,
        at: At | None = None,
    ) -> int:
        """Append a call of a C function, such as "double(double, int32_t)"; the position of its first operation.

        function: a symbol or another address, or where one is: a slot or a register. base: the first of 17 words of the
        frame that the call may use. d: where the result goes; None: nowhere. arguments: slots, registers, numbers or
        addresses. All travel in registers: six integers and eight floats, eight together, do on every target.
        SignatureError; OperandError (operand: function, base, d, arguments, or "argument 2"). Then nothing is appended.
        """
        self._check_open()
        program, position = self.program, len(self.program.ops)
        steps = steps_of(self.library, signature, function, base, d, arguments)
        if program.functions:  # if not, the first step says so
            check_base(base, program.functions[-1].frame)
        found = [self._select_step(step, at, position) for step in steps]
        note_prototype(program.prototypes, function, signature)
        for ops in found:
            if len(ops) > 1:
                program.composed[len(program.ops)] = len(ops)
            program.ops += ops
        return position

    def _select_step(self, step: Step, at: At | None, position: int) -> list[Op]:
        """An operation of a call. OperandError: it is about what the call was given."""
        try:
            return self._select_at(step.name, step.operands, at, position)
        except OperandError as error:
            facts = error.evidence | {"op": "invoke", "operand": step.part}
            raise OperandError(f"invoke: {step.part}: {error.message}", **facts) from None

    def memory(self, base: Slot | Register, size: Slot | Register) -> Memory:
        """A memory for loads and stores that are checked (`cnp/bounds.py`). base, size: where its address and the number
        of its bytes are. OperandError: they are something else."""
        return Memory(self, base, size)

    def cost(self, name: str, *operands: object) -> Cost:
        """What an operation with these operands takes in the short variant; nothing is appended. It may name
        slots that the frame of no function has."""
        return cost(self._select(self.library[name], operands, None))

    def _check_open(self) -> None:
        if self._closed:
            raise StateError("this program was built; reset() begins a new one", state="closed")

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name.startswith("_") or name not in self.library:
            raise AttributeError(f"no operation {name!r} in {self.library.path}")

        append = self.__dict__[name] = self._callable(name)
        return append

    def _select(self, operation: Operation, operands: tuple[object, ...], at: At | None) -> list[Op]:
        """The operation with the form that takes the operands, or its composition."""
        if len(operands) != len(operation.operands):
            wanted = ", ".join(f"{o.kind} {o.name}" for o in operation.operands)
            message = (
                f"{operation.name} takes {len(operation.operands)} operands ({wanted}), not {len(operands)}"
            )
            raise OperandError(message, op=operation.name, operand="", value=operands, allowed=wanted)
        if at is not None:
            at = source_position(operation.name, at)
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

    def _at_home(self, operation: Operation, operands: tuple[Any, ...]) -> tuple[Any, ...]:
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
                found[number] = self.program.labels.at(value)
            for label in value.labels if isinstance(value, Table) else (value,):
                self._own(label)
        return tuple(found)

    def _own(self, place: object) -> None:
        """LabelError if this is a label of another program, or a place beside one."""
        label = place.place if isinstance(place, Offset) else place
        if isinstance(label, (Label, DataLabel)) and label.owner is not self.program.labels:
            raise LabelError(f"label {label.name!r} belongs to another program", label=label.name)

    def _own_open(self, place: object) -> None:
        """The same; StateError if the program is closed."""
        self._check_open()
        self._own(place)

    def _check_frame(
        self, operation: Operation, operands: tuple[object, ...], function: Function | None
    ) -> None:
        """A slot lies within the frame of its function; the frame of a callee may begin at its end."""
        if function is None:
            message = f"{operation.name}: begin a function first: asm.function(name, frame=bytes)"
            raise StateError(message, state="no function")
        check_slots(operation, operands, function)

    # ---- functions

    def function(self, name: str, frame: int) -> Function:
        """Begin a function here: a place that run() and native calls enter. frame: bytes of its slots."""
        return self.begin(self.declare(name, frame))

    def declare(self, name: str, frame: int) -> Function:
        """A function whose code comes later: bind it with `begin`. LabelError: the name is taken."""
        self._check_open()
        if not is_frame(frame):
            message = f"frame is {frame!r} bytes; give a multiple of 8"
            raise OperandError(message, op=name, operand="frame", value=frame, allowed=8)
        self._check_name(name)
        new = self.program.named[name] = Function(name, self.program.labels, None, True, frame=frame)
        return new

    def begin(self, function: Function) -> Function:
        """Begin the code of a declared function here."""
        if not isinstance(function, Function):
            raise no_label("begin", function, "a function that was declared")
        self.bind(function)
        if self.program.functions:
            self.program.functions[-1].end = len(self.program.ops)
        self.program.functions.append(function)
        self._things.operand(function)  # it has a number now
        records = self.program.ops.records
        if records is not None and not records.begin(function):
            self.program.ops.listed()
        return function

    def _check_name(self, name: str) -> None:
        """LabelError if it is no name, or a function, a label or an export has it."""
        if not isinstance(name, str) or not name:
            raise LabelError(f"{name!r} is no name", label=str(name))
        known = self.program.named.get(name)
        if known or name in self.program.exports:
            kind = "function" if isinstance(known, Function) else "label"
            raise LabelError(f"{kind} {name!r} exists already", label=name)

    # ---- labels

    def label(self, name: str = "") -> Label:
        """A new label, not yet bound. name: for messages."""
        return self.program.labels.new(name)

    def bind(self, label: Label | str, entry: bool = False, address: int | None = None) -> Label:
        """Bind a label, or the global one of a name, to the next operation. entry: `code.enter` may enter here.
        address: bind it to what lies there instead, which is no operation of this program."""
        self._check_open()
        label = self[label] if isinstance(label, str) else label
        if not isinstance(label, Label):
            raise no_label("bind", label, "a label of code, or a name")
        self._own(label)
        if label.position is not None or label.address is not None:
            where = f"op {label.position}" if label.address is None else f"address {label.address:#x}"
            raise LabelError(f"label {label.name!r} is bound already, to {where}", label=label.name)
        if address is None:
            label.position = len(self.program.ops)
            label.entry = label.entry or entry
        else:
            label.address = word(address)
        return label

    def here(self, name: str = "", entry: bool = False) -> Label:
        """A label bound to the next operation."""
        return self.bind(self.label(name), entry)

    def __getitem__(self, name: str) -> Label:
        """The function or global label of that name; a new label when it is first asked for."""
        known = self.program.named.get(name)
        if known is None:
            self._check_open()
            self._check_name(name)
            known = self.program.named[name] = self.label(name)
        return known

    def local(self, number: int) -> Label:
        """Bind a local label to the next operation; it may be bound again and again (`cnp/labels.py`)."""
        self._check_open()
        return self.bind(self._locals.define(number))

    def forward(self, number: int) -> Label:
        """The local label of that number that is bound next."""
        return self._locals.forward(number)

    def backward(self, number: int) -> Label:
        """The local label of that number that was bound last; LabelError if there is none."""
        return self._locals.backward(number)

    @contextmanager
    def step(self) -> Iterator[None]:
        """What is assembled inside has local labels of its own. LabelError at its end: one was never bound."""
        outer, self._locals = self._locals, Locals(self.label)
        try:
            yield
            self._locals.check()
        finally:
            self._locals = outer

    def export(self, name: str, place: Place) -> None:
        """Give a place a name in `code.symbols`; functions and global labels have theirs. LabelError: it is taken."""
        self._own_open(place)
        if not isinstance(place, Place):
            message = f"{name}: {place!r} has no address"
            raise OperandError(message, op=name, operand="place", value=place, allowed="a place")
        self._check_name(name)
        self.program.exports[name] = place

    # ---- where code lies

    @contextmanager
    def cold(self) -> Iterator[None]:
        """What is assembled inside lies away from other code, which then goes there and back by jumps."""
        self._check_open()
        program, span = self.program, Span(len(self.program.ops))
        program.cold.append(span)
        try:
            yield
        finally:
            span.end = len(program.ops)

    def align(self, alignment: int) -> None:
        """Align the next operation, with nops before it: to a power of two up to 4096 bytes."""
        self._check_open()
        check_alignment("align", alignment)
        aligned, position = self.program.aligned, len(self.program.ops)
        aligned[position] = max(alignment, aligned.get(position, 1))

    # ---- data

    def cell(self, initial: int | Place = 0) -> Cell:
        """A word of data that several operations share. initial: a number or the address of a place."""
        self._own(initial)
        if not isinstance(initial, (Place, int)):
            message = f"cell: {initial!r} is no number and has no address"
            raise OperandError(
                message, op="cell", operand="initial", value=initial, allowed="a number or a place"
            )
        return Cell(initial if isinstance(initial, Place) else word(initial))

    def lazy(self, name: str, until: Function, frame: int) -> Lazy:
        """A cell for a function of another code object, which operations that call take as a table, with index 0.

        Until somebody knows it (`code.link`), `until` is called. frame: bytes of slots that it, and what it calls, may
        have at most.
        """
        self._own_open(until)
        if not isinstance(until, Function) or not is_frame(frame):
            message = f"lazy {name}: give a function of this program and a frame of a multiple of 8 bytes"
            raise OperandError(message, op=name, operand="until", value=(until, frame), allowed="a function")
        if name in self.program.lazy:
            raise LabelError(f"lazy {name!r} exists already", label=name)
        new = self.program.lazy[name] = Lazy(until, name, frame)
        return new

    def table(self, *labels: Label | int) -> Table:
        """A jump table of labels and positions, 8 bytes an entry. `asm.rodata` holds those of other shapes."""
        found = [self.program.labels.at(o) if type(o) is int else o for o in labels]
        for label in found:
            if not isinstance(label, Label):
                raise no_label("table", label, "labels and positions")
        return Table(tuple(found))  # type: ignore[arg-type]

    # ---- the end

    def check(self) -> None:
        """Everything that linking would refuse, at any time: labels that are bound to nothing, jumps into larger frames,
        functions that are empty or run off their end; local labels that were looked forward to."""
        self._locals.check()
        self.program.check()

    def fuse(self) -> list[int]:
        """Put super-operations in the place of their parts, wherever these stand in a row with no label inside. Positions
        change, labels do not: for each old position the new one."""
        self._check_open()
        return fuse(self.program)

    def close(self) -> Program:
        """The finished program, checked."""
        if self._supers and not self._closed:
            self.fuse()
        self.program.check()
        self._closed = True
        self._stop()
        if self.program.functions:
            self.program.functions[-1].end = len(self.program.ops)
        return self.program

    def _open(self) -> None:
        """Go on with a program that was closed."""
        self._closed = False
        if (records := self.program.ops.records) is not None:
            records.go_on()


def is_frame(size: object) -> bool:
    """Whether a frame can have so many bytes."""
    return isinstance(size, int) and 0 <= size < 1 << 63 and size % 8 == 0


def no_label(op: str, value: object, allowed: str) -> OperandError:
    """The error for what stands where a label should."""
    return OperandError(
        f"{op}: {value!r} is no label; give {allowed}", op=op, operand="label", value=value, allowed=allowed
    )


def source_position(op: str, at: At) -> At:
    """A source position as it is kept. OperandError: it is none."""
    try:
        file, line = at
        if isinstance(file, str):
            return file, operator.index(line)
    except (TypeError, ValueError):
        pass
    message = f"{op}: at is {at!r}; give (file, line)"
    raise OperandError(message, op=op, operand="at", value=at, allowed="(file, line)")
