"""Which form of an operation takes these operands: the first one that does, since forms are ordered by what
they cost.

    (Register r, Register r, int)  -- key: bank or class of each operand --> shortlist
    shortlist                      -- values: masks, ranges, ties        --> form

An operation may have a hundred forms, of which a handful fit the kinds of its operands. The shortlist of a
key is made when the key is first met and kept with the library, so that a choice looks at few forms and few
numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from cnp.errors import OperandError
from cnp.library import Library
from cnp.operands import (
    ADDRESSES,
    Cell,
    DataLabel,
    Function,
    Label,
    Lazy,
    Offset,
    Register,
    Slot,
    Symbol,
    Table,
    Value,
    word,
)
from cnp.stencil import Accept, Form, Operand, Operation

FLOAT_FORMATS = {
    "f32": (struct.Struct("<f"), struct.Struct("<I")),
    "f64": (struct.Struct("<d"), struct.Struct("<Q")),
}
WORDS = {"u32": 1 << 32, "u64": 1 << 64}
CODE, OBJECTS = ("label", "func"), ("cell", "table", "symbol")

Kind = str | type  #: of an operand: its bank if it is a register, else its class
Taker = Callable[[Any], Value | None]  #: an operand as a form holds it, None if it does not fit
Pairs = tuple[tuple[int, int], ...]
Choice = tuple[Form, tuple[Value, ...]]


class Candidate(NamedTuple):
    """A form whose kinds fit. same, differ: pairs that must and must not be equal."""

    form: Form
    takers: tuple[Taker, ...]
    same: Pairs
    differ: Pairs


class Shortlist(NamedTuple):
    """The forms for operands of some kinds. places: which operands are places of the program, tables or positions."""

    candidates: tuple[Candidate, ...]
    places: tuple[int, ...]


# ---- what one operand of a form takes


def taker(accept: Accept, kind: Kind) -> Taker | None:
    """How an operand of a form takes what is of this kind; None if it takes nothing of it."""
    if isinstance(kind, str):
        return register_taker(accept.mask) if accept.kind == kind else None
    if accept.kind in ("r", "f"):
        return None
    if accept.kind == "slot":
        return slot_taker(accept) if issubclass(kind, Slot) else None
    if accept.kind in CODE:
        return code_taker(accept.kind, kind)
    if accept.kind in OBJECTS:
        return object_taker(accept.kind, kind)
    if accept.kind == "u64" and issubclass(kind, ADDRESSES):
        return itself
    if issubclass(kind, bool) or not issubclass(kind, (int, float)):
        return None
    if accept.kind in FLOAT_FORMATS:
        return float_taker(accept)
    return number_taker(accept) if issubclass(kind, int) else None


def itself(operand: Value) -> Value:
    return operand


def register_taker(mask: int) -> Taker:
    fitting = {index for index in range(mask.bit_length()) if mask >> index & 1}
    return lambda register: register if register.index in fitting else None


def slot_taker(accept: Accept) -> Taker:
    low, high, align = accept.low, accept.high, accept.align
    return lambda slot: slot if low <= slot.offset <= high and slot.offset % align == 0 else None


def code_taker(accepted: str, kind: type) -> Taker | None:
    """A place to go to: a label, the position of an operation; a function or an imported one."""
    if accepted == "func":
        return itself if issubclass(kind, (Function, Symbol)) else None
    return itself if issubclass(kind, (Label, int)) and not issubclass(kind, bool) else None


def object_taker(accepted: str, kind: type) -> Taker | None:
    """What has an address in the end; a number is one, or what a cell holds at first."""
    if accepted == "table":
        return itself if issubclass(kind, (Table, Lazy)) else None
    if issubclass(kind, int):
        return word if accepted == "symbol" else lambda number: Cell(word(number))
    return itself if issubclass(kind, ADDRESSES if accepted == "symbol" else Cell) else None


def float_taker(accept: Accept) -> Taker:
    """A number as the bits of a float."""
    number, bits = FLOAT_FORMATS[accept.kind]

    def take(operand: float) -> int | None:
        try:
            value: int = bits.unpack(number.pack(operand))[0]
        except (OverflowError, struct.error):
            return None
        return value if accept.low <= value <= accept.high else None

    return take


def number_taker(accept: Accept) -> Taker:
    """A number as it is. A negative one for an unsigned word is its two's complement."""
    low, high, align, size = accept.low, accept.high, accept.align, WORDS.get(accept.kind, 0)

    def take(operand: int) -> int | None:
        value = operand + size if -(size >> 1) <= operand < 0 else operand
        return value if low <= value <= high and value % align == 0 else None

    return take


# ---- which form takes all


class Chooser:
    """The choices of a library."""

    def __init__(self, library: Library) -> None:
        self._features = library.features
        self._lists: dict[tuple[object, ...], Shortlist] = {}

    def shortlist(self, operation: Operation, operands: tuple[object, ...]) -> Shortlist:
        """The forms that take the kinds of these operands, in order."""
        key = (operation.name, *[o.bank if o.__class__ is Register else o.__class__ for o in operands])
        known = self._lists.get(key)
        if known is None:
            known = self._lists[key] = self._make(operation, key[1:])
        return known

    def choose(self, operation: Operation, operands: tuple[object, ...]) -> tuple[Shortlist, Choice | None]:
        """The best form for these operands, and the operands as it holds them. None: no form takes them
        together."""
        shortlist = self.shortlist(operation, operands)
        for form, takers, same, differ in shortlist.candidates:
            values: list[Value] = []
            for take, operand in zip(takers, operands):  # noqa: B905 (as many as the operation has)
                value = take(operand)
                if value is None:
                    break
                values.append(value)
            else:
                if not (same or differ) or tied(operands, same, differ):
                    return shortlist, (form, tuple(values))
        return shortlist, None

    def _make(self, operation: Operation, kinds: tuple[Any, ...]) -> Shortlist:
        found = (candidate(form, kinds) for form in operation.forms if self._has(form.feature))
        places = tuple(number for number, kind in enumerate(kinds) if place(operation.operands[number], kind))
        return Shortlist(tuple(item for item in found if item), places)

    def _has(self, feature: str) -> bool:
        return not feature or feature in self._features


def place(declared: Operand, kind: Kind) -> bool:
    """Whether an operand is a place of the program, a table of labels or a position, which becomes a label."""
    if isinstance(kind, str) or issubclass(kind, bool):
        return False
    return issubclass(kind, (Label, Table, DataLabel, Offset)) or (
        declared.kind == "label" and issubclass(kind, int)
    )


def candidate(form: Form, kinds: tuple[Any, ...]) -> Candidate | None:
    """The form, if it may take operands of these kinds."""
    takers: list[Taker] = []
    for accept, kind in zip(form.accepts, kinds, strict=True):
        take = taker(accept, kind)
        if take is None:
            return None
        takers.append(take)
    if any(kinds[a] != kinds[b] or not (kinds[a] is Slot or isinstance(kinds[a], str)) for a, b in form.same):
        return None
    differ = tuple((a, b) for a, b in form.differ if isinstance(kinds[a], str) and kinds[a] == kinds[b])
    return Candidate(form, tuple(takers), form.same, differ)


def tied(operands: tuple[object, ...], same: Pairs, differ: Pairs) -> bool:
    """Whether the operands are equal and different where a form says so."""
    for a, b in same:
        if operands[a] != operands[b]:
            return False
    return all(operands[a] != operands[b] for a, b in differ)


CHOOSERS: WeakKeyDictionary[Library, Chooser] = WeakKeyDictionary()


def chooser(library: Library) -> Chooser:
    """The chooser of a library, which all its assemblers share."""
    found = CHOOSERS.get(library)
    if found is None:
        found = CHOOSERS[library] = Chooser(library)
    return found


# ---- why not


def refusal(operation: Operation, operands: tuple[object, ...]) -> OperandError:
    """The error for operands that no form takes: which one it is, and what there could stand."""
    name, everything = operation.name, []
    for number, (declared, operand) in enumerate(zip(operation.operands, operands, strict=True)):
        accepts = [form.accepts[number] for form in operation.forms]
        allowed = ranges(accepts)
        everything.append(f"{declared.name}: {allowed}")
        kind = operand.bank if isinstance(operand, Register) else type(operand)
        takers = [take for accept in accepts if (take := taker(accept, kind))]
        if all(take(operand) is None for take in takers):
            message = f"{name}: operand {declared.name} takes {allowed}, not {operand!r}"
            return OperandError(message, op=name, operand=declared.name, value=operand, allowed=allowed)
    allowed = "; ".join(everything)
    message = f"{name} takes {allowed}; but not {', '.join(map(repr, operands))} together"
    return OperandError(message, op=name, operand="", value=operands, allowed=allowed)


def ranges(accepts: Iterable[Accept]) -> str:
    """What some forms take in one place, each kind once: "r[0 … 9] or slot 0 … 4095 or i32 -128 … 127"."""
    kinds: dict[str, list[Accept]] = {}
    for accept in accepts:
        kinds.setdefault(accept.kind, []).append(accept)
    return " or ".join(described(kind, group) for kind, group in kinds.items())


def described(kind: str, group: list[Accept]) -> str:
    """One kind with the union of its ranges."""
    if kind in ("r", "f"):
        mask = 0
        for accept in group:
            mask |= accept.mask
        return f"{kind}[{united((bit, bit) for bit in range(mask.bit_length()) if mask >> bit & 1)}]"
    if kind in CODE or kind in OBJECTS or kind in FLOAT_FORMATS:
        return kind
    align = min(accept.align for accept in group)
    multiples = f" (multiples of {align})" if align > 1 else ""
    return f"{kind} {united((accept.low, accept.high) for accept in group)}{multiples}"


def united(intervals: Iterable[tuple[int, int]]) -> str:
    """Intervals as text, those that touch as one."""
    merged: list[list[int]] = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    return ", ".join(f"{low} … {high}" if low < high else f"{low}" for low, high in merged)
