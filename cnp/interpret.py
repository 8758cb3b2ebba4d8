"""The interpreters of the same bodies: a program as records, and the routines that run them.

The stencil file carries `cnp_interpret` and, where the machine has indirect tail calls, `cnp_interpret_threaded`, both
compiled from the bodies that made the stencils (the record is drawn in cnp/build/interpreter.py). They share frames and
contexts with generated code: what one leaves, another continues. One array of records serves both.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Mapping, Sequence

from cnp.errors import LibraryError, StateError, SymbolError
from cnp.library import Library
from cnp.operands import Cell, DataLabel, Label, Lazy, Offset, Register, Slot, Symbol, Table, Value, name_of
from cnp.program import Op, Program
from cnp.stencil import Operand

RECORD_SIZE = 64
MOST_OPERANDS = 6
NOWHERE = 8  #: an address in the page that is never mapped

SWITCH, THREADED = "cnp_interpret", "cnp_interpret_threaded"
FIRST_CASES, THREADS, PLACES = "cnp.cases", "cnp.threads", "cnp.threads.at"

IDLE = 0  #: the case that does nothing
WORD, VALUE = "word", "value"
#: How each operand is given: WORD, VALUE, or exactly this number; "" where there is no choice.
Way = tuple[str | int, ...]


def ways(operands: Sequence[Operand], numbers: Mapping[int, Sequence[int]]) -> list[Way]:
    """The ways to give the operands of an operation that have a case each. numbers: position of an operand -> the only
    values it may have."""
    return list(
        itertools.product(
            *(
                numbers.get(position) or ((WORD, VALUE) if operand.kind == "in/imm" else ("",))
                for position, operand in enumerate(operands)
            )
        )
    )


def reachable_imports(given: Callable[[str], int | None]) -> Callable[[str], int]:
    """Addresses for the interpreter's image. It mentions the helpers of all operations; those that nobody gave belong
    to operations that the program does not have, since linking the program itself found all of its own."""
    return lambda name: given(name) or NOWHERE


def interpreter_program(program: Program) -> Program:
    """An empty program whose image is the interpreters, as many as there are."""
    library = program.library
    if not exists(library):
        return Program(library, roots=())
    return Program(library, roots=(SWITCH, THREADED, THREADS) if has_threads(library) else (SWITCH,))


def exists(library: Library) -> bool:
    """Whether a vocabulary has an interpreter."""
    return SWITCH in library.routine_names


def check_exists(library: Library) -> None:
    """StateError: the source did not want an interpreter."""
    if not exists(library):
        what = "there is no interpreter of these operations"
        raise StateError(f"{library.facts['source']} says CNP_INTERPRET none: {what}", state="interpreter")


def has_threads(library: Library) -> bool:
    """Whether a vocabulary has the threaded interpreter on its target."""
    return THREADED in library.routine_names


def routine(library: Library, routines: Mapping[str, int], threaded: bool) -> int:
    """Address of one of the two interpreters. StateError where it does not exist."""
    check_exists(library)
    if threaded and not has_threads(library):
        message = (
            f"there is no threaded interpreter of {library.facts['source']} for {library.target.name}: the source does not "
            "want one (CNP_INTERPRET), or the machine has no indirect tail calls"
        )
        raise StateError(message, state="threaded")
    return routines[THREADED if threaded else SWITCH]


def records_size(program: Program) -> int:
    """Bytes that the records of a program and its jump tables take."""
    return RECORD_SIZE * len(program.ops) + 8 * sum(len(table.labels) for table in tables(program))


def tables(program: Program) -> list[Table]:
    """The jump tables of a program, each once."""
    return list(dict.fromkeys(value for op in program.ops for value in op.values if isinstance(value, Table)))


def records(
    program: Program,
    base: int,
    cell: Callable[[Cell], int],
    symbols: Mapping[str, int],
    routines: Mapping[str, int] | None = None,
    located: Callable[[DataLabel | Offset], int] | None = None,
) -> bytes:
    """The program as records for the address `base`; none where no interpreter reads them. cell: address of a cell; symbols: addresses of helpers; routines:
    those of the interpreters' image, which the threaded one needs to be known here; located: address in data, or of bytes
    beside a place, which is that of generated code.

    StateError: the program goes to generated code of others, which has no records.
    """
    check_calls(program)
    if not exists(program.library):
        return b""
    place = base + RECORD_SIZE * len(program.ops)
    places: dict[Table, int] = {}
    for table in tables(program):
        places[table] = place
        place += 8 * len(table.labels)

    def number(value: Value) -> int:
        if isinstance(value, int):
            return value & (1 << 64) - 1
        if isinstance(value, Slot):
            return value.offset & (1 << 64) - 1
        if isinstance(value, Register):
            return program.library.home(value) & (1 << 64) - 1
        if isinstance(value, Label):
            if value.address is not None:
                return value.address
            assert value.position is not None  # Program.check saw to it
            return base + RECORD_SIZE * value.position
        if isinstance(value, Cell):
            return cell(value)
        if isinstance(value, Table):
            return places[value]
        if isinstance(value, (DataLabel, Offset)):
            if located is None:
                raise SymbolError("nobody says where data lies", symbols=[name_of(value)])
            return located(value) & (1 << 64) - 1
        return symbol(value)

    def symbol(value: Symbol) -> int:
        if value.name not in symbols:
            raise SymbolError(f"no address for {value.name}", symbols=[value.name])
        return symbols[value.name]

    cases = Cases(program.library, (routines or {}).get(THREADS, 0))
    packed = struct.Struct(f"{cases.mark}QII{MOST_OPERANDS}Q")
    parts = [
        packed.pack(
            *cases.of(op),
            position,
            *map(number, op.interpreted),
            *[0] * (MOST_OPERANDS - len(op.interpreted)),
        )
        for position, op in enumerate(program.ops)
    ]
    parts += [struct.pack(f"{cases.mark}{len(t.labels)}Q", *map(number, t.labels)) for t in places]
    return b"".join(parts)


class Cases:
    """The cases of a vocabulary's interpreters. threads: address of the threaded ones; 0: they are not needed."""

    def __init__(self, library: Library, threads: int) -> None:
        self.mark = "<" if library.target.byteorder == "little" else ">"
        self._threads = threads
        self._first = self._words(library, FIRST_CASES)
        self._places = self._words(library, PLACES) if threads else ()

    def _words(self, library: Library, name: str) -> tuple[int, ...]:
        code = library.routine(name).code
        if len(code) % 4:
            raise LibraryError(f"{library.path}: its table {name} has {len(code)} bytes", path=library.path)
        return struct.unpack(f"{self.mark}{len(code) // 4}I", code)

    def of(self, op: Op) -> tuple[int, int]:
        """(address of its threaded case, number of its case) of an operation with its operands."""
        number = IDLE if is_idle(op) else self._first[op.operation.index] + self._choice(op)
        return (self._threads + self._places[number] if self._threads else 0), number

    def _choice(self, op: Op) -> int:
        return ways(op.operation.operands, exact_numbers(op)).index(way(op))


def is_idle(op: Op) -> bool:
    """Whether this is a move of a composition, which in an interpreter moves a word to itself: not even that is done, for
    the word may be of another type than the move."""
    return op.meant is not None and len(op.meant) == 2 and op.meant[0] == op.meant[1]


def way(op: Op) -> Way:
    """How the operands of an operation are given."""
    exact = exact_numbers(op)

    def how(position: int, kind: str, value: Value) -> str | int:
        if position in exact and isinstance(value, int):
            return value
        return "" if kind != "in/imm" else WORD if isinstance(value, (Slot, Register)) else VALUE

    pairs = zip(op.operation.operands, op.interpreted, strict=True)
    return tuple(how(position, declared.kind, value) for position, (declared, value) in enumerate(pairs))


def exact_numbers(op: Op) -> dict[int, list[int]]:
    """Operands that may only be certain numbers, by position: each number has forms of its own."""
    found = {}
    for position, declared in enumerate(op.operation.operands):
        if declared.kind == "imm":
            accepts = [form.accepts[position] for form in op.operation.forms]
            if all(accept.low == accept.high for accept in accepts):
                found[position] = sorted({accept.low for accept in accepts})
    return found


def check_calls(program: Program) -> None:
    """An operation can only go to what the program has itself. StateError: to generated code of others."""
    for position, op in enumerate(program.ops):
        for declared, value in zip(op.operation.operands, op.values, strict=True):
            goals = value.labels if isinstance(value, Table) else (value,)
            imported = declared.kind == "func" and isinstance(value, Symbol)
            placed = declared.kind in ("label", "func", "table") and any(map(is_placed, goals))
            if imported or placed or (declared.kind == "table" and isinstance(value, Lazy)):
                name = name_of(value)
                message = f"op {position} ({op.operation.name}) calls {name}: only generated code can be entered there"
                raise StateError(message, state="import")


def is_placed(value: object) -> bool:
    """Whether this is a label that is bound to an address."""
    return isinstance(value, Label) and value.address is not None
