"""Operands that no form takes together: the operation between moves through memory, where they lie as slots.

    i64_rotl  r[1], r[2], 70000            no form rotates a register by such a number

    i64_move  slot(home of r[3]), 70000    the number lies where nobody looks
    i64_rotl  r[1], r[2], slot(…)          a form that there is

A register goes by way of its own home in the frame's header; a number, an address or a slot that is out of
reach by way of the home of a register that this operation does not name. The homes of registers that are in
machine registers are free memory while code runs: they are read when a run begins and written when it leaves,
and in between nobody knows them but the compositions: bodies see the frame through their operands only, a
callee has a header of its own. So a composition needs no scratch register and changes nothing that others may
look at. A register that the target does not have lives in its home; that one is never borrowed.

If the operation leaves, by a trap or an exit, the state is stored over what was parked. That is no loss:
inputs were copied, an output is copied to its register only afterwards, so all registers are stored as they
were; and what goes on from there is the interpreter, for which `Op.meant` has the operands as they were
given. In the interpreter a home *is* the register: there the moves copy each home to itself, and nothing is
borrowed. No run can begin within a composition, as labels are bound before or behind it.

An output is not replaced where control may go elsewhere than on, for then nothing would copy it.

The moves are the operations of the vocabulary with these names: i64_move for integers, f64_move and f32_move
for floats of these types (f32_move, since not every machine holds an f32 in a register by its bits). A
vocabulary without them composes nothing.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

from cnp.choose import Chooser
from cnp.library import Library
from cnp.operands import ADDRESSES, Register, Slot, Value
from cnp.program import Op, goes_on
from cnp.stencil import Form, Operand, Operation

MOVES = {"f32": "f32_move", "float": "f32_move", "f64": "f64_move", "double": "f64_move"}
INTEGER_MOVE = "i64_move"
SMALL = {"i8": 8, "u8": 8, "i16": 16, "u16": 16, "i32": 32, "u32": 32, "int": 32, "unsigned": 32}  #: bits
INPUTS = ("in", "in/imm")


class Cost(NamedTuple):
    """What operations take. bytes, instructions: of their hot blocks in the short variant, without the jump
    to the next operation. forms: of each one, in order; several where the assembler composes."""

    bytes: int
    instructions: int
    forms: tuple[Form, ...]


def cost(ops: list[Op]) -> Cost:
    """The sum."""
    hot = [op.form.near.blocks[0] for op in ops]
    size = sum(len(block.code) - block.tail for block in hot)
    return Cost(size, sum(op.form.near.instructions for op in ops), tuple(op.form for op in ops))


def valued(ctype: str, operand: object) -> bool:
    """Whether this is a value of a C type, or may be one: what does not fit 64 bits no move takes."""
    if isinstance(operand, bool) or not isinstance(operand, (int, float, *ADDRESSES)):
        return False
    bits = SMALL.get(ctype)
    return bits is None or (isinstance(operand, int) and -(1 << bits - 1) <= operand < 1 << bits)


class Composer:
    """Finds the cheapest composition."""

    def __init__(self, library: Library, chooser: Chooser) -> None:
        self._library, self._chooser = library, chooser
        self._homes = {
            register: Slot(library.home(register))
            for bank, numbers in library.registers.items()
            for register in map(Register, [bank] * len(numbers), range(len(numbers)))
            if library.number(register) is not None
        }

    def compose(self, operation: Operation, operands: tuple[object, ...]) -> list[Op] | None:
        """The operation with its moves, in order; None if there is no way. As few operands as possible are
        replaced, and of several ways the cheapest is taken."""
        places = [n for n, operand in enumerate(operands) if self._movable(operation, n, operand)]
        for count in range(1, len(places) + 1):
            ways = (self._replaced(operation, operands, chosen) for chosen in combinations(places, count))
            if found := [way for way in ways if way]:
                return min(found, key=lambda ops: cost(ops)[:2])
        return None

    def _movable(self, operation: Operation, number: int, operand: object) -> bool:
        """Whether an operand may be replaced by a slot."""
        declared = operation.operands[number]
        if declared.kind not in (*INPUTS, "out"):
            return False
        if declared.kind == "out" and any(other.kind in ("label", "table") for other in operation.operands):
            return False
        if isinstance(operand, Register):
            return operand in self._homes and operand.bank == ("f" if declared.ctype in MOVES else "r")
        return isinstance(operand, Slot) or (declared.kind == "in/imm" and valued(declared.ctype, operand))

    def _replaced(
        self, operation: Operation, operands: tuple[object, ...], chosen: tuple[int, ...]
    ) -> list[Op] | None:
        """The operation with slots for the chosen operands, between the moves."""
        spare = (home for register, home in self._homes.items() if register not in operands)
        places, meant = list(operands), list(operands)
        before: dict[Slot, Op] = {}
        after: list[Op] = []
        for number in chosen:
            operand, declared = operands[number], operation.operands[number]
            place = self._homes[operand] if isinstance(operand, Register) else next(spare, None)
            if place is None:
                return None
            written = declared.kind == "out"
            to, source = (operand, place) if written else (place, operand)
            move = self._move(declared, to, source, place)
            if move is None:
                return None
            places[number] = place
            if written:
                after.append(move)
            else:
                before[place] = move
                meant[number] = move.values[1]
        _, choice = self._chooser.choose(operation, tuple(places))
        if choice is None or (after and not goes_on(choice[0])):
            return None
        return [*before.values(), Op(operation, *choice, None, self._meant(choice[1], meant, chosen)), *after]

    def _move(self, declared: Operand, to: object, source: object, place: Slot) -> Op | None:
        """The move of one operand. For the interpreter it moves the place to itself."""
        name = MOVES.get(declared.ctype, INTEGER_MOVE)
        if name not in self._library or len(self._library[name].operands) != 2:
            return None
        _, choice = self._chooser.choose(self._library[name], (to, source))
        return Op(self._library[name], *choice, None, (place, place)) if choice else None

    def _meant(
        self, values: tuple[Value, ...], meant: list[Any], chosen: tuple[int, ...]
    ) -> tuple[Value, ...]:
        """The values with the chosen operands as they were given."""
        return tuple(meant[n] if n in chosen else value for n, value in enumerate(values))
