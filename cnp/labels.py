"""Labels by name and by number: global ones of a program, local ones that are defined again and again.

asm["done"]            the label of that name, made when it is first asked for
asm.local(1)           binds the next label 1 here
asm.backward(1)        the last label 1 that was bound
asm.forward(1)         the next one
"""

from __future__ import annotations

from collections.abc import Callable

from cnp.errors import LabelError
from cnp.operands import Label


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
