"""Labels by name and by number: those of a program, local ones that are defined again and again.

asm["done"]            the label of that name, made when it is first asked for
asm.local(1)           binds the next label 1 here
asm.backward(1)        the last label 1 that was bound
asm.forward(1)         the next one
"""

from __future__ import annotations

from collections.abc import Callable

from cnp.errors import LabelError
from cnp.operands import Label


class Labels(list[Label]):
    """The labels of a program, in the order in which they were made, with those of its positions. That is all that a label
    knows of its program, so that nothing keeps a program longer than somebody has it."""

    def __init__(self) -> None:
        super().__init__()
        self._positions: dict[int, Label] = {}

    def new(self, name: str = "", position: int | None = None) -> Label:
        """A label. name: for messages."""
        made = Label(name or f"label {len(self)}", self, position)
        self.append(made)
        return made

    def at(self, position: int) -> Label:
        """A label for an operation that was given by its position."""
        found = self._positions.get(position)
        if found is None:
            found = self._positions[position] = self.new(f"op {position}", position)
        return found

    def is_position(self, label: Label) -> bool:
        """Whether a label is one of those."""
        return label.position is not None and self._positions.get(label.position) is label

    def forget_positions(self) -> None:
        """Positions mean other operations from now on."""
        self._positions.clear()


class Locals:
    """Numbered labels. make: a new label of a name."""

    def __init__(self, make: Callable[[str], Label]) -> None:
        self._make = make
        self._last: dict[int, Label] = {}
        self._next: dict[int, Label] = {}

    def define(self, number: int) -> Label:
        """The label that is to be bound now: those who look forward to it have it already."""
        label = self._last[number] = self.forward(number)
        del self._next[number]
        return label

    def forward(self, number: int) -> Label:
        """The next one of that number."""
        if number not in self._next:
            self._next[number] = self._make(f"local {number}")
        return self._next[number]

    def backward(self, number: int) -> Label:
        """The last one of that number. LabelError: there is none yet."""
        if number not in self._last:
            raise LabelError(f"no local label {number} stands before this", label=str(number))
        return self._last[number]

    def check(self) -> None:
        """LabelError for those that were looked forward to and never came."""
        if self._next:
            missing = ", ".join(map(str, self._next))
            message = f"local labels {missing} are looked forward to and never bound"
            raise LabelError(message, label=missing)
