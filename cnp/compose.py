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

A number may also go by way of a register, where that is cheaper and the operation can only go on: the register of
the result, if no input is there, or another one, whose value lies in its home meanwhile.

    i64_add   r[1], r[2], 1 << 40

    i64_move  r[1], 1 << 40
    i64_add   r[1], r[2], r[1]

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

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from cnp.choose import Chooser
from cnp.library import Library
from cnp.operands import ADDRESSES, Register, Slot, Value
from cnp.program import Op, goes_on
from cnp.stencil import Form, Operand, Operation, What

MOVES = {"f32": "f32_move", "float": "f32_move", "f64": "f64_move", "double": "f64_move"}
INTEGER_MOVE = "i64_move"
SMALL = {"i8": 8, "u8": 8, "i16": 16, "u16": 16, "i32": 32, "u32": 32, "int": 32, "unsigned": 32}  #: bits
INPUTS = ("in", "in/imm")
GOALS = ("label", "table", "func")
STAYS = (What.OPERAND, What.NEXT, What.BLOCK, What.DATA, What.LITERAL)  #: holes of code that can only go on


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


def stays(form: Form) -> bool:
    """Whether code can only go on with the operation that follows: it does not leave, jump or call."""
    stencils = [form.near] if form.far is None else [form.near, form.far]
    blocks = [block for stencil in stencils for block in stencil.blocks]
    return goes_on(form) and all(hole.what in STAYS for block in blocks for hole in block.holes)


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
            ways = [self._replaced(operation, operands, chosen) for chosen in combinations(places, count)]
            if count == 1:
                ways += [way for number in places for way in self._in_registers(operation, operands, number)]
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

    def _in_registers(
        self, operation: Operation, operands: tuple[object, ...], number: int
    ) -> Iterator[list[Op] | None]:
        """The operation with one of its numbers in a register: in that of the result, and in another one."""
        declared = operation.operands[number]
        elsewhere = any(other.kind in GOALS for other in operation.operands)
        if elsewhere or isinstance(operands[number], (Register, Slot)):
            return
        bank = "f" if declared.ctype in MOVES else "r"
        fitting = [register for register in self._homes if register.bank == bank]
        for other, result in zip(operation.operands, operands, strict=True):
            if other.kind == "out" and isinstance(result, Register) and operands.count(result) == 1:
                yield self._in_register(operation, operands, number, result) if result in fitting else None
        if lent := next((register for register in fitting if register not in operands), None):
            moved, home = self._in_register(operation, operands, number, lent), self._homes[lent]
            away, back = self._move(declared, home, lent, home), self._move(declared, lent, home, home)
            yield [away, *moved, back] if moved and away and back else None

    def _in_register(
        self, operation: Operation, operands: tuple[object, ...], number: int, register: Register
    ) -> list[Op] | None:
        """The operation behind a move of one number to a register; None if it may do anything but go on."""
        move = self._move(operation.operands[number], register, operands[number], self._homes[register])
        places = (*operands[:number], register, *operands[number + 1 :])
        _, choice = self._chooser.choose(operation, places)
        if move is None or choice is None or not stays(choice[0]):
            return None
        meant = (*choice[1][:number], move.values[1], *choice[1][number + 1 :])
        return [move, Op(operation, *choice, None, meant)]

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
