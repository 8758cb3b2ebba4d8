"""The plain facts that flow through cnp: what a stencil is, which holes it has and which operations it serves.

    Operation  "i64_add"
      Form     slot <- slot, slot          one stencil for each shape of operands
        Stencil   near | far               the same code with short or long conditional exits
          Block     hot | cold             bytes
            Hole      offset, field, what  a place that is patched once operands and addresses are known

Everything here is frozen, knows no machine and does no work. Named tuples where the names allow it: making the class
takes an eighth of a dataclass's time, and these are made at each start.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class What(IntEnum):
    """What a hole is filled with. `index` says which one of its kind."""

    OPERAND = (
        0  #: value of operand `index`: immediate, slot offset, address of a cell, table, symbol or function
    )
    TARGET = 1  #: code address of label or function operand `index`
    NEXT = 2  #: code address of the operation that follows
    LEAVE = 3  #: stub that leaves at this operation; index: a `Leave`
    BLOCK = 4  #: block `index` (0 hot, 1 cold) of this very operation
    DATA = 5  #: constant `index` of the library, shared by all who read it
    LITERAL = 6  #: literal pool slot that holds the value of operand `index`
    IMPORT = 7  #: import `index` of the library: a helper
    ROUTINE = 8  #: routine `index` of the library
    POSITION = 9  #: number of this operation in its program


class Leave(IntEnum):
    """The ways out of generated code that need the state stored. Each has a stub and a routine."""

    EXIT = 0
    TRAP = 1
    UNWIND = 2
    RETURN = 3


@dataclass(frozen=True, slots=True)
class Hole:
    """A field of an instruction that waits for a value.

    offset: of the field's unit, in bytes from the block's start. field: name of a row in `Target.fields`.
    place: the spec's P, in bytes from the block's start; it is not `offset` where one address is made by
    a pair of instructions. addend: the spec's A, in bytes.
    """

    offset: int
    field: str
    what: What
    index: int
    addend: int
    place: int


class Block(NamedTuple):
    """Machine code that stays together. `tail` bytes at its end only jump to the next operation: they are
    left out when it follows. `align` in bytes."""

    code: bytes
    holes: tuple[Hole, ...]
    tail: int = 0
    align: int = 1


class Stencil(NamedTuple):
    """The code of one form of an operation: the hot block, then the cold one if there is one.

    stack: bytes of native stack that it uses at most while it calls. instructions: how many the hot block has, its
    last jump to the next operation aside.
    """

    blocks: tuple[Block, ...]
    stack: int = 0
    instructions: int = 0

    @property
    def size(self) -> int:
        return sum(len(block.code) for block in self.blocks)


class Operand(NamedTuple):
    """A declared operand. kind: imm, slot, label, cell, func, symbol, table; of values `out` (a slot or register that is
    written), `in` (one that is read) or `in/imm` (or an immediate). ctype: the C type."""

    kind: str
    ctype: str
    name: str


class Accept(NamedTuple):
    """What one operand of a form takes: `imm` or `slot` (or another kind) within low … high, a multiple of align.

    mask: of the kinds `r` and `f`, whose values are registers: bit i says that register i of the bank fits.
    """

    kind: str
    low: int
    high: int
    align: int = 1
    mask: int = 0


class Form(NamedTuple):
    """One shape of operands and its code. `far` is the same with conditional exits that reach further.

    same: pairs of operands that must be equal; differ: pairs of operands that must be different registers.
    feature: what the processor must have beyond the base line; "" for nothing.
    """

    accepts: tuple[Accept, ...]
    near: Stencil
    far: Stencil | None
    same: tuple[tuple[int, int], ...] = ()
    differ: tuple[tuple[int, int], ...] = ()
    feature: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation of a vocabulary. Its forms are ordered: the first one that takes the operands is the best.

    calls: it makes native calls, so that its slots may be the base of a callee's frame.
    """

    name: str
    index: int
    operands: tuple[Operand, ...]
    forms: tuple[Form, ...]
    line: int
    calls: bool = False


class StateField(NamedTuple):
    """A word of the pinned state. offset: bytes from the start of the saved state struct."""

    name: str
    ctype: str
    offset: int
    size: int


class Import(NamedTuple):
    """A helper that generated code calls by the host's ABI. signature: C text such as `i64(ptr, i32)`."""

    name: str
    signature: str


class Constant(NamedTuple):
    """Read-only data that stencils share."""

    data: bytes
    align: int
