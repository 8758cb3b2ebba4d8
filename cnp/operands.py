"""What operations are given: slots, registers, labels, cells, tables, symbols and numbers."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from cnp.errors import OperandError

if TYPE_CHECKING:
    from cnp.program import Program


class Slot(NamedTuple):
    """A slot of the running function's frame; offset in bytes from the frame's first slot."""

    offset: int


def slot(offset: int) -> Slot:
    """The slot at `offset` bytes from the frame's first one."""
    return Slot(operator.index(offset))


class Register(NamedTuple):
    """A register of the vocabulary: word `r3` of the state, for example. bank: `r` (integers) or `f` (floats)."""

    bank: str
    index: int  # type: ignore[assignment]  # the word that everybody uses, though tuples have a method of that name

    def __repr__(self) -> str:
        return f"{self.bank}[{self.index}]"


class Bank:
    """`r[3]`: the registers of a bank by number. IndexError for numbers that no vocabulary has."""

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._registers = tuple(Register(name, index) for index in range(size))

    def __getitem__(self, index: int) -> Register:
        if not 0 <= operator.index(index) < len(self):
            raise IndexError(f"{self._name}[{index}]: registers are numbered 0 … {len(self) - 1}")
        return self._registers[index]

    def __len__(self) -> int:
        return len(self._registers)


r = Bank("r", 10)
f = Bank("f", 8)


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


Value = int | Slot | Register | Label | Cell | Table | Symbol
At = tuple[str, int]

ADDRESSES = (Label, Symbol, Cell)  #: values that are addresses once the program is linked


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
