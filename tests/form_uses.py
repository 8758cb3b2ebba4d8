"""Which operands a form is tried with: those at the ends of what it accepts, equal ones, some others.

A `Use` is an operation with a form and operands for it, chosen for the form and not by the assembler (form_rig.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from random import Random
from typing import NamedTuple

from cnp.library import Library
from cnp.operands import Register, Slot, Value
from cnp.stencil import Accept, Form, Operation
from tests.form_meaning import ELSEWHERE
from tests.reference import FLOAT_EDGES, hole_word

REGISTERS = ("r", "f")
VALUES = ("in", "in/imm", "out")
LABELS = ("label", "table")
NEAR = 16  #: slots at the frame's beginning
FAR = 8  #: slots of a window further up
CORNERS = 4  #: turns with registers from the ends of the masks
Pair = tuple[int, int]


class Use(NamedTuple):
    """An operation to be executed. number: of its form. window: where its slots begin that are not near, 0 for none."""

    operation: Operation
    number: int
    form: Form
    values: tuple[Value, ...]
    window: int = 0

    def __str__(self) -> str:
        pairs = zip(self.form.accepts, self.values, strict=True)
        given = [accept.kind if accept.kind in LABELS else repr(value) for accept, value in pairs]
        return f"{self.operation.name} form {self.number} ({', '.join(given)})"


class Operands:
    """Operands that a form takes: those at the ends of what it accepts, equal ones, some others."""

    def __init__(self, library: Library, random: Random) -> None:
        self.library, self.random = library, random
        self.homes = {
            Register(bank, index): library.home(Register(bank, index))
            for bank, numbers in library.registers.items()
            for index, number in enumerate(numbers)
            if number >= 0
        }

    def uses(self, operation: Operation, number: int, turns: int) -> Iterator[Use]:
        """The first registers and numbers, the last ones, pairs of equal operands, others. turns: how many of the latter."""
        form = operation.forms[number]
        ties = self.ties(operation, form)
        if len(ties) > turns:
            ties = self.random.sample(ties, turns)
        plain = max(CORNERS, turns - len(ties) + 1)
        for turn, tie in enumerate([(), *[()] * (plain - 1), *((tie,) for tie in ties)]):
            found = self.values(operation, form, turn, tie)
            if found is not None:
                values, window = found
                yield Use(operation, number, form, values, window)
                if turn == 1 and form.far is not None:
                    yield Use(operation, number, form._replace(near=form.far, far=None), values, window)

    def ties(self, operation: Operation, form: Form) -> list[Pair]:
        """Pairs of operands that may be one register or slot, though they need not."""
        kinds = [
            accept.kind if declared.kind in VALUES else ""
            for declared, accept in zip(operation.operands, form.accepts, strict=True)
        ]
        groups = united(len(kinds), form.same)
        apart = {frozenset((groups[a], groups[b])) for a, b in form.differ}
        return [
            (a, b)
            for b in range(len(kinds))
            for a in range(b)
            if kinds[a] == kinds[b] and groups[a] != groups[b]
            and (kinds[a] == "slot" or (kinds[a] in REGISTERS and form.accepts[a].mask & form.accepts[b].mask))
            and (kinds[a] == "slot" or {groups[a], groups[b]} not in apart)
        ]  # fmt: skip

    def values(
        self, operation: Operation, form: Form, turn: int, ties: Sequence[Pair]
    ) -> tuple[tuple[Value, ...], int] | None:
        """Operands for one turn, and the window of their slots. None if there are none."""
        groups = united(len(form.accepts), (*form.same, *ties))
        registers = self.registers(form, groups, turn)
        if registers is None:
            return None
        slots, window = self.slots(operation, form, groups, turn)
        found: list[Value] = []
        for number, accept in enumerate(form.accepts):
            if accept.kind in REGISTERS:
                found.append(registers[groups[number]])
            elif accept.kind == "slot":
                found.append(slots[groups[number]])
            elif accept.kind in LABELS:
                found.append(0)  # `Rig` puts labels there
            else:
                found.append(self.number(accept, turn, number))
        return tuple(found), window

    def registers(self, form: Form, groups: Sequence[int], turn: int) -> dict[int, Register] | None:
        """A register for each group, all different: the first ones that fit, the last ones, the same with the last operand
        choosing first, any. None if the masks do not allow that."""
        masks: dict[int, int] = {}
        banks: dict[int, str] = {}
        for accept, group in zip(form.accepts, groups, strict=True):
            if accept.kind in REGISTERS:
                masks[group] = masks.get(group, -1) & accept.mask
                banks[group] = accept.kind
        order = list(range(max((len(n) for n in self.library.registers.values()), default=0)))
        if turn >= CORNERS:
            self.random.shuffle(order)
        elif turn % 2:
            order.reverse()
        found: dict[int, Register] = {}

        def place(rest: list[int]) -> bool:
            if not rest:
                return True
            group = rest[0]
            for index in order:
                register = Register(banks[group], index)
                if masks[group] >> index & 1 and register not in found.values():
                    found[group] = register
                    if place(rest[1:]):
                        return True
                    del found[group]
            return False

        return found if place(sorted(masks, reverse=2 <= turn < CORNERS)) else None

    def slots(
        self, operation: Operation, form: Form, groups: Sequence[int], turn: int
    ) -> tuple[dict[int, Slot], int]:
        """A slot for each group: near ones, the last that the form reaches, homes of registers that are only read."""
        accepts: dict[int, Accept] = {}
        for accept, group in zip(form.accepts, groups, strict=True):
            if accept.kind == "slot":
                accepts[group] = common(accepts.get(group, accept), accept)
        if not accepts:
            return {}, 0
        far = [accept.high & -8 for accept in accepts.values() if accept.high >= 8 * NEAR]
        window = min(far) - 8 * (FAR - 1) if turn % 3 == 1 and far else 0
        first = 8 * self.random.randrange(1, 4)
        found = {}
        for number, (group, accept) in enumerate(accepts.items()):
            last = (accept.high & -8) - 8 * number
            if accept.low == accept.high:
                found[group] = Slot(accept.low)
            elif window and accept.high >= 8 * NEAR:
                found[group] = Slot(window + 8 * (FAR - 1 - number))
            else:
                found[group] = Slot(last if turn % 3 == 1 else first + 8 * number)
        if turn % 3 == 2 and not any(accept.kind in REGISTERS for accept in form.accepts):
            self.move_home(operation, groups, found, accepts)
        return found, window

    def move_home(
        self, operation: Operation, groups: Sequence[int], found: dict[int, Slot], accepts: dict[int, Accept]
    ) -> None:
        """Let one group that is only read lie in the home of an integer register."""
        written = {g for o, g in zip(operation.operands, groups, strict=True) if o.kind == "out"}
        homes = [home for register, home in self.homes.items() if register.bank == "r"]
        for group, accept in accepts.items():
            fitting = [home for home in homes if accept.low <= home <= accept.high]
            if group not in written and fitting:
                found[group] = Slot(self.random.choice(fitting))
                return

    def number(self, accept: Accept, turn: int, place: int) -> int:
        """An immediate: the ends first."""
        numbers = immediates(accept)
        if turn < 2:
            return numbers[turn]
        extra = self.random.randrange(accept.low, accept.high + 1) // accept.align * accept.align
        choice = self.random.choice([*numbers[2:], extra])
        return max(accept.low, choice)


@cache
def immediates(accept: Accept) -> tuple[int, ...]:
    """The ends of an interval, then 0 and ±1 if they are in it; of floats, edge values as bits."""
    if accept.kind in ("f32", "f64"):
        words = (hole_word(accept.kind, value) for value in FLOAT_EDGES[accept.kind])
        found = tuple(word for word in words if accept.low <= word <= accept.high)
        return (found or (accept.low,)) * 2
    low, high = -(-accept.low // accept.align) * accept.align, accept.high // accept.align * accept.align
    middle = [n for n in (0, 1, -1) if low <= n <= high and n % accept.align == 0]
    return (low, high, *middle)


def common(first: Accept, second: Accept) -> Accept:
    """What two slots that are the same one may be."""
    low, high = max(first.low, second.low), min(first.high, second.high)
    return first._replace(low=low, high=high, align=max(first.align, second.align))


def united(count: int, pairs: Iterable[Pair]) -> list[int]:
    """For each operand the first one that is equal to it."""
    groups = list(range(count))
    for a, b in pairs:
        old, new = max(groups[a], groups[b]), min(groups[a], groups[b])
        groups = [new if group == old else group for group in groups]
    return groups


def forms_to_run(library: Library) -> Iterator[tuple[Operation, int]]:
    """All forms that the library's processor has, but those of operations that are tested elsewhere."""
    for name in library.operations:
        if name not in ELSEWHERE:
            for number, form in enumerate(library[name].forms):
                if not form.feature or form.feature in library.features:
                    yield library[name], number


def all_uses(library: Library, random: Random, turns: int) -> Iterator[Use]:
    """Uses of all these forms."""
    operands = Operands(library, random)
    for operation, number in forms_to_run(library):
        yield from operands.uses(operation, number, turns)
