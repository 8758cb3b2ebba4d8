"""A program as plain data: operations with their forms and operands, functions, labels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

from cnp.errors import LabelError, OperandError
from cnp.labels import Labels
from cnp.library import ENTER, Library
from cnp.operands import At, Cell, DataLabel, Function, Label, Lazy, Offset, Place, Slot, Table, Value
from cnp.oplist import OpList
from cnp.sections import DATA, RODATA, Section
from cnp.stencil import Form, Operation, What
from cnp.tables import MOST_OPERANDS

if TYPE_CHECKING:
    from cnp.records import Records

MOST_COMPOSED = 1 + MOST_OPERANDS  #: an operation and the moves of its operands
OPEN = 1 << 62  #: end of a range that has none yet


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
class Span:
    """A range of positions, without its end."""

    start: int
    end: int = OPEN


@dataclass(eq=False)
class Program:
    """What is to be linked: plain data, in the order of the code. roots: routines that are called from outside.

    named: labels and functions by their global names; exports: further names. lazy: cells for functions of others.
    sections: data by name. cold: operations that lie away from the others; aligned: position -> bytes that its operation
    is aligned to. composed: where an operation was composed of several, first position -> how many. prototypes: of symbols
    that were called by a signature. codes: how many code objects were made of it.
    """

    library: Library
    ops: OpList = field(default_factory=OpList)
    functions: list[Function] = field(default_factory=list)
    labels: Labels = field(default_factory=Labels)
    roots: tuple[str, ...] = (ENTER,)
    named: dict[str, Label] = field(default_factory=dict)
    exports: dict[str, Place] = field(default_factory=dict)
    lazy: dict[str, Lazy] = field(default_factory=dict)
    sections: dict[str, Section] = field(default_factory=lambda: {RODATA: Section(), DATA: Section()})
    cold: list[Span] = field(default_factory=list)
    aligned: dict[int, int] = field(default_factory=dict)
    composed: dict[int, int] = field(default_factory=dict)
    prototypes: dict[str, str] = field(default_factory=dict)
    codes: int = 0

    def composition_at(self, position: int) -> range | None:
        """The operations that one was composed of and that a position is among."""
        for start in range(position, max(-1, position - MOST_COMPOSED), -1):
            if start in self.composed:
                found = range(start, start + self.composed[start])
                return found if position in found else None
        return None

    def cold_positions(self) -> frozenset[int]:
        """The operations that lie away from the others."""
        spans = (range(span.start, min(span.end, len(self.ops))) for span in self.cold)
        return frozenset(position for span in spans for position in span)

    def places(self) -> Iterator[tuple[str, Place]]:
        """Places that something other than operations refers to, with what that is."""
        for name, section in self.sections.items():
            for fix in section.fixes:
                yield name, fix.place
                if fix.to:
                    yield name, fix.to
        for name, place in self.exports.items():
            yield f"export {name}", place
        for name, cell in self.lazy.items():
            yield f"lazy {name}", cell

    def symbols(self) -> Iterator[tuple[str, Place]]:
        """What is somewhere, by name: functions in their order, global labels, exports."""
        names = {function.name: function for function in self.functions} | self.named
        yield from ((name, label) for name, label in names.items() if self.is_bound(label))
        yield from self.exports.items()

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
        larger frame or go into the middle of a composition, for functions that have no operations or run off their
        end."""
        records = self.in_core()
        for index, op in enumerate(self.ops if records is None else ()):
            self.check_op(index, op)
        for who, place in self.places():
            self._check_place(who, place)
        if records is None:
            self.check_functions()
        else:
            records.plan(self)

    def in_core(self) -> Records | None:
        """The operations as the core has them, where it knows all of the program."""
        records = self.ops.records
        return records if records is not None and records.whole(self) else None

    def check_op(self, index: int, op: Op) -> None:
        """The same for what one operation refers to."""
        for declared, value in zip(op.operation.operands, op.values, strict=True):
            if isinstance(value, (Label, Table)):
                jumps = declared.kind in ("label", "table") and not op.operation.calls
                for label in value.labels if isinstance(value, Table) else (value,):
                    self._check_label(index, label, jumps)
            elif isinstance(value, Place):
                self._check_place(f"op {index} ({op.operation.name})", value)
            if isinstance(value, Lazy) and declared.kind == "table" and not op.operation.calls:
                facts = {"op": op.operation.name, "operand": declared.name, "value": value.name}
                message = f"op {index} ({op.operation.name}) jumps to {value.name}, which can only be called"
                raise OperandError(message, **facts, allowed="table")

    def is_bound(self, place: Place) -> bool:
        """Whether a place, or what its address is made of, is somewhere."""
        place = anchor(place)
        if isinstance(place, Label) and place.address is None:
            return place.position is not None and 0 <= place.position < len(self.ops)
        return not isinstance(place, DataLabel) or place.offset is not None

    def _check_place(self, who: str, place: Place) -> None:
        """LabelError for a place that is bound to nothing."""
        if not self.is_bound(place):
            name = anchor(place).name  # type: ignore[attr-defined]
            raise LabelError(f"{who} refers to label {name!r}, which is bound to nothing", label=name)

    def _check_label(self, index: int, label: Label, jumps: bool) -> None:
        """jumps: the operation goes there itself, and takes its frame along."""
        name = f"op {index} ({self.ops[index].operation.name}) goes to label {label.name!r}"
        if label.address is not None:
            return  # what lies there is the caller's
        if label.position is None or not 0 <= label.position < len(self.ops):
            raise LabelError(f"{name}, which is bound to no operation", label=label.name, index=index)
        whole = self.composition_at(label.position) if self.composed else None
        if whole and label.position != whole.start:
            message = (
                f"{name}, within the operations {whole.start} … {whole.stop - 1} that one was composed of"
            )
            raise LabelError(message, label=label.name, index=index)
        if jumps:
            here, there = self.function_at(index), self.function_at(label.position)
            if there.frame > here.frame:
                message = (
                    f"{name} in function {there.name!r}, whose frame is larger than that of {here.name!r}"
                )
                raise LabelError(message, label=label.name, index=index)

    def check_functions(self) -> None:
        """No function is empty or runs off its end."""
        ends = [function.position or 0 for function in self.functions[1:]] + [len(self.ops)]
        for function, end in zip(self.functions, ends, strict=False):
            if end == function.position:
                message = f"function {function.name!r} has no operations"
                raise LabelError(message, label=function.name, index=end)
        for end in ends if self.ops else ():
            last = self.ops[end - 1]
            if goes_on(last.form):
                message = f"the code runs off its end after op {end - 1} ({last.operation.name})"
                raise LabelError(message, label="", index=end - 1)


def anchor(place: Place) -> Place:
    """What a place lies beside, or what place a cell holds at first."""
    while isinstance(place, Offset) or (isinstance(place, Cell) and isinstance(place.initial, Place)):
        place = place.place if isinstance(place, Offset) else cast(Place, place.initial)
    return place


def goes_on(form: Form) -> bool:
    """Whether a stencil may go on with the operation that follows it."""
    return any(hole.what is What.NEXT for block in form.near.blocks for hole in block.holes)


def check_slots(operation: Operation, operands: tuple[object, ...], function: Function) -> None:
    """OperandError for a slot that does not lie within the frame of its function; the frame of a callee may begin at
    its end."""
    size = function.frame
    last = size if operation.calls else size - 8
    for number, operand in enumerate(operands):
        if isinstance(operand, Slot) and not 0 <= operand.offset <= last:
            name, offset = operation.operands[number].name, operand.offset
            message = f"{operation.name}: {name} is slot({offset}); the frame has {size} bytes"
            raise OperandError(message, op=operation.name, operand=name, value=offset, allowed=(0, last))
