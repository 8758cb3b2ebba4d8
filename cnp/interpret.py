"""The interpreter of the same bodies: a program as records, and the routine that runs them.

The stencil file carries `cnp_interpret`, compiled from the bodies that made the stencils (the record is drawn in
cnp/build/interpreter.py). It shares frames and contexts with generated code: what one leaves, the other continues.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from cnp.assembler import Cell, Label, Op, Program, Slot, Symbol, Table, Value
from cnp.errors import StateError, SymbolError

RECORD_SIZE = 56
MOST_OPERANDS = 6
NOWHERE = 8  #: an address in the page that is never mapped
PURE_INPUT = "in/imm"


def reachable_imports(given: Callable[[str], int | None]) -> Callable[[str], int]:
    """Addresses for the interpreter's image. It mentions the helpers of all operations; those that nobody gave belong
    to operations that the program does not have, since linking the program itself found all of its own."""
    return lambda name: given(name) or NOWHERE


def interpreter_program(program: Program) -> Program:
    """An empty program whose image is the interpreter."""
    return Program(program.library, roots=("cnp_interpret",))


def records_size(program: Program) -> int:
    """Bytes that the records of a program and its jump tables take."""
    return RECORD_SIZE * len(program.ops) + 8 * sum(len(table.labels) for table in tables(program))


def tables(program: Program) -> list[Table]:
    """The jump tables of a program, each once."""
    return list(dict.fromkeys(value for op in program.ops for value in op.values if isinstance(value, Table)))


def records(program: Program, base: int, cell: Callable[[Cell], int], symbols: Mapping[str, int]) -> bytes:
    """The program as records for the address `base`. cell: address of a cell; symbols: addresses of helpers.

    StateError: the program calls generated code of others, which has no records.
    """
    check_calls(program)
    place = base + RECORD_SIZE * len(program.ops)
    places: dict[Table, int] = {}
    for table in tables(program):
        places[table] = place
        place += 8 * len(table.labels)

    def number(value: Value) -> int:
        if isinstance(value, int):
            return value & (1 << 64) - 1
        if isinstance(value, Slot):
            return value.offset
        if isinstance(value, Label):
            assert value.position is not None  # Program.check saw to it
            return base + RECORD_SIZE * value.position
        if isinstance(value, Cell):
            return cell(value)
        if isinstance(value, Table):
            return places[value]
        return symbol(value)

    def symbol(value: Symbol) -> int:
        if value.name not in symbols:
            raise SymbolError(f"no address for {value.name}", symbols=[value.name])
        return symbols[value.name]

    mark = "<" if program.library.target.byteorder == "little" else ">"
    packed = struct.Struct(f"{mark}HHI{MOST_OPERANDS}Q")
    parts = [
        packed.pack(
            op.operation.index,
            immediates(op),
            position,
            *map(number, op.values),
            *[0] * (MOST_OPERANDS - len(op.values)),
        )
        for position, op in enumerate(program.ops)
    ]
    parts += [struct.pack(f"{mark}{len(t.labels)}Q", *map(number, t.labels)) for t in places]
    return b"".join(parts)


def check_calls(program: Program) -> None:
    """Only functions of the program itself can be called."""
    for position, op in enumerate(program.ops):
        for declared, value in zip(op.operation.operands, op.values, strict=True):
            if declared.kind == "func" and isinstance(value, Symbol):
                message = f"op {position} ({op.operation.name}) calls {value.name}: only generated code can be entered there"
                raise StateError(message, state="import")


def immediates(op: Op) -> int:
    """Bit i: operand i of a pure operation is a value, not a slot."""
    return sum(
        1 << number
        for number, (declared, value) in enumerate(zip(op.operation.operands, op.values, strict=True))
        if declared.kind == PURE_INPUT and not isinstance(value, Slot)
    )
