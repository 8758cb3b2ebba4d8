"""Program + base address -> bytes. Pure: for any target, on any host, always checked. The readable reference.

`cnp/plan.py` says where everything lies; here the bytes are copied and their holes filled, each one checked.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cnp.errors import OperandError, RangeError, SymbolError
from cnp.library import ENTER
from cnp.operands import Cell, DataLabel, Label, Offset, Place, Register, Slot, Symbol, Table, Value
from cnp.plan import BASE_ALIGN, Piece, Plan, align
from cnp.program import Program
from cnp.sections import DATA, RODATA, filled
from cnp.stencil import Hole, What
from cnp.target import Field, checked

Resolver = Mapping[str, int] | Callable[[str], int | None]
CODE = frozenset({What.TARGET, What.NEXT, What.BLOCK, What.LEAVE, What.ROUTINE, What.IMPORT})
ADDRESSES = 1 << 64
DATA_ALIGN = 1 << 16  #: of the data's address where nobody says it


@dataclass(slots=True)
class Image:
    """A linked program.

    code: bytes for `base`; data: bytes for `data_base`. offsets[i]: where op i begins, in bytes from base;
    ranges: (start, end, op) of every block in the order of addresses, op -1 for what all share. symbols: address of
    each function, global label and export. cells: op -> operand name -> address; cell_places: the same by cell.
    routines, imports, sections: address of each.
    """

    base: int
    code: bytes
    data_base: int
    data: bytes
    offsets: Sequence[int]
    ranges: Sequence[tuple[int, int, int]]
    symbols: dict[str, int]
    cells: dict[int, dict[str, int]]
    routines: dict[str, int]
    cell_places: dict[Cell, int]
    imports: Mapping[str, int] = field(default_factory=dict)
    sections: Mapping[str, int] = field(default_factory=dict)

    def address(self, place: Place) -> int:
        """Address of a label, a cell, a symbol or a place in data. LookupError: the program does not use it."""
        if isinstance(place, Offset):
            return self.address(place.place) + place.addend
        if isinstance(place, DataLabel) and place.offset is not None:
            return self.sections[place.section] + place.offset
        if isinstance(place, Cell):
            return self.cell_places[place]
        if isinstance(place, Symbol):
            return self.imports[place.name]
        if isinstance(place, Label) and place.address is not None:
            return place.address
        if isinstance(place, Label) and place.position is not None:
            return self.base + self.offsets[place.position]
        raise LookupError(f"{place} is bound to nothing")

    @property
    def enter(self) -> int:
        """Address of `cnp_enter`."""
        return self.routines[ENTER]

    def op_at(self, address: int) -> int | None:
        """The operation whose code holds an address; None for what all share."""
        offset = address - self.base
        number = bisect_right(self.ranges, offset, key=lambda item: item[0]) - 1
        if number < 0:
            return None
        _, end, op = self.ranges[number]
        return op if op >= 0 and offset < end else None


def size_bound(program: Program) -> tuple[int, int]:
    """Bytes of code and data that an image of this program needs at most, wherever it lies."""
    plan = Plan(program)
    return plan.bound, plan.data_bound


def encode(
    program: Program, base: int, data_base: int | None = None, imports: Resolver | None = None
) -> Image:
    """Link a program for a base address, a multiple of 16 bytes. data_base: where its cells will lie, a multiple
    of 8 (default: behind the code). imports: addresses of helpers and symbols, a mapping or a function.

    RangeError, LabelError and SymbolError say which hole of which operation cannot be filled.
    """
    plan = Plan(program)
    if data_base is None:
        data_base = (base + plan.bound + DATA_ALIGN - 1) & -DATA_ALIGN
    check_base("base", base, plan.bound, BASE_ALIGN)
    check_base("data_base", data_base, plan.data_bound, 8)
    plan.settle(base, resolve(plan.imports, imports or {}))
    return Patcher(plan, data_base).image()


def check_base(name: str, address: int, size: int, alignment: int) -> None:
    """RangeError if `size` bytes cannot begin at an address."""
    high = ADDRESSES - size
    if not 0 <= address <= high or address % alignment:
        message = f"{name} {address:#x} for {size} bytes: allowed 0 … {high:#x}, a multiple of {alignment}"
        facts = {"op": "", "index": -1, "hole": 0, "field": "", "symbol": name}
        raise RangeError(message, value=address, low=0, high=high, align=alignment, **facts)


def resolve(names: Mapping[str, None], imports: Resolver) -> dict[str, int]:
    """Addresses of helpers and symbols. SymbolError lists all that are missing."""
    found = {name: imports(name) if callable(imports) else imports.get(name) for name in sorted(names)}
    missing = [name for name, address in found.items() if address is None]
    if missing:
        raise SymbolError(f"no address for {', '.join(missing)}", symbols=missing)
    wrong = [name for name, address in found.items() if not 0 <= (address or 0) < ADDRESSES]
    if wrong:
        said = ", ".join(f"{name} is {found[name]:#x}" for name in wrong)
        raise SymbolError(f"{said}, which is no address of 64 bits", symbols=wrong)
    return {name: address for name, address in found.items() if address is not None}


class Patcher:
    """The bytes of a settled plan."""

    def __init__(self, plan: Plan, data_base: int) -> None:
        self.plan, self.data_base = plan, data_base
        self.program, self.library, self.target = plan.program, plan.library, plan.target
        self.base, self.order = plan.base, plan.target.byteorder
        cells = data_base + 8 * len(plan.cells)
        self.sections = {RODATA: plan.rodata, DATA: align(cells, plan.program.sections[DATA].align)}
        self.code = bytearray(self.target.trap * (plan.end // len(self.target.trap) + 1))[: plan.end]

    def image(self) -> Image:
        """Copy and patch."""
        plan = self.plan
        for piece in self.pieces():
            start = piece.address - self.base
            self.code[start : start + piece.keep] = piece.block.code[: piece.keep]
            self.patch(piece)
        self.fill_gaps()
        self.copy_data()
        return Image(
            self.base,
            bytes(self.code),
            self.data_base,
            self.data(),
            [piece.address - self.base for piece in plan.hot],
            [(p.address - self.base, p.address - self.base + p.keep, p.op) for p in self.pieces() if p.keep],
            {name: self.operand(place) for name, place in self.program.symbols()},  # type: ignore[arg-type]
            dict(self.cell_addresses()),
            {piece.name: piece.address for piece in plan.routines.values()},
            {cell: self.operand(cell) for cell in plan.cells},
            plan.symbols,
            self.sections,
        )

    def pieces(self) -> Iterator[Piece]:
        """All pieces in the order of their addresses."""
        for chunk in self.plan.chunks:
            yield from chunk.pieces()

    # ---- holes

    def patch(self, piece: Piece) -> None:
        """Fill the holes of one piece, each checked."""
        start, fields, order = piece.address - self.base, self.target.fields, self.order
        for number, hole in enumerate(piece.block.holes):
            if hole.offset >= piece.keep:
                continue
            fld = fields[hole.field]
            value = fld.value(self.symbol(piece, number, hole), hole.addend, piece.address + hole.place)
            if not fld.fits(value):
                self.refuse(piece, hole, fld, value)
            fld.write(self.code, start + hole.offset, value, order)

    def symbol(self, piece: Piece, number: int, hole: Hole) -> int:
        """The spec's S of a hole."""
        what = hole.what
        if what is What.OPERAND and piece.goal is None:
            return self.operand(self.plan.ops[piece.op].values[hole.index])
        if what in CODE or what is What.OPERAND:
            veneer = piece.detours.get(number) if piece.detours else None
            goal = veneer or (self.plan.goal(piece, hole) if piece.goal is None else piece.goal)
            return goal if isinstance(goal, int) else goal.address
        if what is What.DATA:
            return self.plan.constants[hole.index]
        if what is What.LITERAL:
            return self.plan.literals[self.plan.ops[piece.op].values[hole.index]]
        return piece.op

    def operand(self, value: Value) -> int:
        """An operand as a number: itself, a slot's offset, a register's machine number, an address."""
        if isinstance(value, int):
            return value
        if isinstance(value, Slot):
            return value.offset
        if isinstance(value, Register):
            return self.register(value)
        if isinstance(value, Label):
            if value.address is not None:
                return value.address
            return self.plan.hot[value.position or 0].address  # Program.check has seen that it is bound
        if isinstance(value, Cell):
            return self.data_base + 8 * self.plan.cells[value]
        if isinstance(value, Table):
            return self.plan.tables[value]
        if isinstance(value, Offset):
            return self.operand(value.place) + value.addend  # type: ignore[arg-type]
        if isinstance(value, DataLabel):
            return self.sections[value.section] + (value.offset or 0)  # likewise
        return self.plan.symbols[value.name]

    def register(self, register: Register) -> int:
        """The machine's number of a register; the assembler has put the slot at its home where there is none."""
        number = self.library.number(register)
        if number is None:
            message = f"{register} is no register of {self.target.name}: take the slot at its home"
            raise OperandError(message, op="", operand="", value=register, allowed="")
        return number

    def refuse(self, piece: Piece, hole: Hole, fld: Field, value: int) -> None:
        """Raise the range error with all that is known."""
        op = self.plan.ops[piece.op].operation if piece.op >= 0 else None
        symbol = hole.what.name.lower()
        if op and hole.what in (What.OPERAND, What.TARGET, What.LITERAL):
            symbol = op.operands[hole.index].name
        elif hole.what is What.IMPORT:
            symbol = self.library.imports[hole.index].name
        name = op.name if op else piece.name
        at = self.plan.ops[piece.op].at if op else None
        checked(fld, value, op=name, index=piece.op, hole=hole.offset, field=hole.field, symbol=symbol, at=at)

    # ---- what has no holes

    def fill_gaps(self) -> None:
        """Nops where control goes on over the gap before an aligned block."""
        for piece, following in zip(self.plan.hot, self.plan.hot[1:], strict=False):
            start, end = piece.address + piece.keep - self.base, following.address - self.base
            if piece.falls and start < end:
                self.code[start:end] = self.target.padding(end - start)

    def copy_data(self) -> None:
        """Constants, literals, tables and the program's own."""
        plan = self.plan
        for index, address in plan.constants.items():
            self.put(address, self.library.constant(index).data)
        for value, address in plan.literals.items():
            self.put(address, self.word(self.operand(value)))
        for table, address in plan.tables.items():
            self.put(address, b"".join(self.word(self.operand(label)) for label in table.labels))
        self.put(plan.rodata, self.section(RODATA))

    def section(self, name: str) -> bytes:
        """The bytes of a section, its addresses filled in."""
        return filled(self.program.sections[name], self.operand, self.order)  # type: ignore[arg-type]

    def data(self) -> bytes:
        """The cells, then the section behind them."""
        first = (cell.initial for cell in self.plan.cells)
        words = [self.word(v if isinstance(v, int) else self.operand(v)) for v in first]  # type: ignore[arg-type]
        data = self.section(DATA)
        gap = self.sections[DATA] - self.data_base - 8 * len(words) if data else 0
        return b"".join(words) + bytes(gap) + data

    def put(self, address: int, data: bytes) -> None:
        self.code[address - self.base : address - self.base + len(data)] = data

    def word(self, value: int) -> bytes:
        return (value & ADDRESSES - 1).to_bytes(8, self.order)  # type: ignore[arg-type]

    def cell_addresses(self) -> Iterator[tuple[int, dict[str, int]]]:
        """The cells of each operation that has some, by the name of the operand."""
        for position, op in enumerate(self.plan.ops):
            if any(isinstance(value, Cell) for value in op.values):
                named = zip(op.operation.operands, op.values, strict=True)
                yield position, {o.name: self.operand(value) for o, value in named if isinstance(value, Cell)}
