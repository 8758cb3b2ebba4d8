"""What operations are given: slots, registers, labels, cells, tables, symbols, places in data and numbers."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from cnp.errors import OperandError

if TYPE_CHECKING:
    from cnp.labels import Labels


class Slot(NamedTuple):
    """A slot of the running function's frame; offset in bytes from the frame's first slot."""

    offset: int


@lru_cache(4096)  # one made before is found in less time than it takes to make one
def slot(offset: int) -> Slot:
    """The slot at `offset` bytes from the frame's first one."""
    return Slot(operator.index(offset))


class Register(NamedTuple):
    """A register of the vocabulary: word `r3` of the state, for example. bank: `r` (integers) or `f` (floats)."""

    bank: str
    index: int  # type: ignore[assignment]  # the word that everybody uses, though tuples have a method of that name

    def __repr__(self) -> str:
        return f"{self.bank}[{self.index}]"


class Bank(dict[int, Register]):
    """`r[3]`: the registers of a bank by number; one after the other. IndexError for numbers that no vocabulary has.

    A dict, since nothing written in Python finds them as fast.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__((index, Register(name, index)) for index in range(size))
        self._name = name

    def __missing__(self, index: int) -> Register:
        raise IndexError(f"{self._name}[{operator.index(index)}]: registers are numbered 0 … {len(self) - 1}")

    def __iter__(self) -> Iterator[Register]:  # type: ignore[override]
        return iter(self.values())

    def __contains__(self, register: object) -> bool:
        return register in self.values()


r = Bank("r", 10)
f = Bank("f", 8)


class Place:
    """What has an address once the program is linked. `place + 8` is the address 8 bytes behind it."""

    __slots__ = ()

    def __add__(self, addend: int) -> Offset:
        return Offset(self, operator.index(addend))

    def __sub__(self, addend: int) -> Offset:
        return self + -operator.index(addend)


@dataclass(eq=False, slots=True)
class Label(Place):
    """A place in a program: the operation that it is bound to. owner: the labels of that program, by which labels of
    others are told. entry: the interpreter may enter here.

    address: of a label that is bound to no operation, but to what lies there.
    """

    name: str
    owner: Labels = field(repr=False)
    position: int | None = None
    entry: bool = False
    address: int | None = field(default=None, kw_only=True)


@dataclass(eq=False, slots=True)
class Function(Label):
    """A label that can be called, with a frame of its own. frame: bytes of its slots. end: position behind it."""

    frame: int = 0
    end: int = 0


@dataclass(eq=False, slots=True)
class DataLabel(Place):
    """A place in a data section, `offset` bytes from its start; None: not yet bound."""

    name: str
    owner: Labels = field(repr=False)
    section: str = ""
    offset: int | None = None


@dataclass(eq=False, slots=True)
class Cell(Place):
    """A word of the code object's data: read by code, changed atomically from outside. initial: a number or the
    address of a place."""

    initial: int | Place = 0


@dataclass(eq=False, slots=True)
class Lazy(Cell):
    """A cell for the address of a function of another code object, which may come later.

    initial: the function of this program that is called until then. frame: bytes of slots that it may have at most.
    """

    name: str = ""
    frame: int = 0


@dataclass(eq=False, slots=True)
class Table:
    """A jump table: code addresses of its labels, 8 bytes each, in the target's byte order."""

    labels: tuple[Label, ...]


@dataclass(frozen=True, slots=True)
class Symbol(Place):
    """A name that is resolved when the program is linked."""

    name: str


@dataclass(frozen=True, slots=True)
class Offset(Place):
    """`addend` bytes behind a place."""

    place: Place
    addend: int

    def __add__(self, addend: int) -> Offset:
        return Offset(self.place, self.addend + operator.index(addend))


Value = int | Slot | Register | Label | Cell | Table | Symbol | DataLabel | Offset
At = tuple[str, int]

ADDRESSES = (Label, Symbol, Cell, DataLabel, Offset)  #: values that are addresses once the program is linked


def name_of(place: object) -> str:
    """A place for people."""
    if isinstance(place, Offset):
        return f"{name_of(place.place)}{place.addend:+}"
    return str(getattr(place, "name", "") or type(place).__name__.lower())


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
