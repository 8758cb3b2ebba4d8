"""Program + base address -> bytes. Pure: for any target, on any host, always checked. The readable reference.

An image is laid out like this; the data lies somewhere else, where it may be written.

    code   hot blocks of op 0, op 1, …      each without its jump to the next one when that follows
           island                           veneers, where a jump in the midst of a large program reaches no end
           hot blocks …
           cold blocks                      in the same order
           stubs                            one for each operation and way out: "I left at op N"
           routines                         the ways in and out
           island
           constants, literals, tables      read-only data
    data   cells                            8 bytes each

Lengths depend on reach and reach depends on lengths: the layout starts with the short forms and without veneers,
and gives a form its long code or an island a veneer wherever a hole is out of range, until nothing changes. Each
step only adds, so that it ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from cnp.assembler import Cell, Function, Label, Op, Program, Slot, Symbol, Table, Value
from cnp.errors import SymbolError
from cnp.stencil import Block, Hole, Leave, Stencil, What
from cnp.target import Field, Formula, Target, checked

Resolver = Mapping[str, int] | Callable[[str], int | None]
STUBS = {Leave.EXIT: "cnp.stub.exit", Leave.TRAP: "cnp.stub.trap", Leave.UNWIND: "cnp.stub.unwind"}
CODE_TARGETS = (What.TARGET, What.NEXT, What.LEAVE, What.BLOCK, What.IMPORT, What.ROUTINE)
DATA_ALIGN = 64


@dataclass(slots=True)
class Piece:
    """A block with its place in the image. op: the operation it belongs to (-1: a routine or veneer).

    siblings: the pieces of the same stencil, by block number. keep: bytes of the block that are used.
    """

    block: Block
    op: int
    keep: int
    siblings: tuple[Piece, ...] = ()
    address: int = 0
    name: str = ""


@dataclass(slots=True)
class Island:
    """Veneers that stand together. after: the operation behind which it lies. slots: code address -> piece."""

    after: int
    veneers: dict[Key, Piece] = field(default_factory=dict)


Key = tuple[str, int]  #: what a veneer goes to: ("op", position), ("import", index), ("routine", index) …


@dataclass(slots=True)
class Image:
    """A linked program.

    code: bytes for `base`; data: bytes for `data_base`. offsets[i]: where op i begins, in bytes from base;
    ranges: (start, end, op) of every block in the order of addresses. symbols: functions by name.
    cells: op -> operand name -> address; cell_places: the same by cell. routines: address of each.
    """

    base: int
    code: bytes
    data_base: int
    data: bytes
    offsets: list[int]
    ranges: list[tuple[int, int, int]]
    symbols: dict[str, int]
    cells: dict[int, dict[str, int]]
    routines: dict[str, int]
    cell_places: dict[Cell, int]

    @property
    def enter(self) -> int:
        """Address of `cnp_enter`."""
        return self.routines["cnp_enter"]

    def op_at(self, address: int) -> int | None:
        """The operation whose code holds an address; None for what all share."""
        offset = address - self.base
        found = next((op for start, end, op in self.ranges if start <= offset < end), -1)
        return found if found >= 0 else None


def resolve(program: Program, imports: Resolver) -> dict[str, int]:
    """Addresses of all helpers and symbols that a program uses. SymbolError lists all that are missing."""
    library = program.library
    names = {value.name for op in program.ops for value in op.values if isinstance(value, Symbol)}
    used = {index for block in used_blocks(program) for index in indexes(block, What.IMPORT)}
    names |= {library.imports[index].name for index in used}
    found = {name: imports(name) if callable(imports) else imports.get(name) for name in sorted(names)}
    missing = [name for name, address in found.items() if address is None]
    if missing:
        raise SymbolError(f"no address for {', '.join(missing)}", symbols=missing)
    return {name: address for name, address in found.items() if address is not None}


def indexes(block: Block, what: What) -> set[int]:
    return {hole.index for hole in block.holes if hole.what is what}


def stencils(program: Program) -> Iterator[Stencil]:
    for op in program.ops:
        yield op.form.near


def used_blocks(program: Program) -> Iterator[Block]:
    """Every block that becomes part of the image, stubs aside."""
    todo: list[Block] = [block for stencil in {id(s): s for s in stencils(program)}.values() for block in stencil.blocks]
    todo += [program.library.routine(name) for name in program.roots]
    seen: set[int] = set()
    while todo:
        block = todo.pop()
        yield block
        for index in indexes(block, What.ROUTINE) - seen:
            seen.add(index)
            todo.append(program.library.routine(program.library.routine_names[index]))


def size_bound(program: Program) -> tuple[int, int]:
    """Bytes of code and data that an image of this program needs at most, wherever it lies."""
    planner = Planner(program, 0, 1 << 31, {}, generous=True)
    planner.plan()
    return planner.end, max(8, 8 * len(planner.cells))


def encode(program: Program, base: int, data_base: int | None = None, imports: Resolver | None = None) -> Image:
    """Link a program for a base address. data_base: where its cells will lie (default: behind the code).

    RangeError, LabelError and SymbolError say which hole of which operation cannot be filled.
    """
    addresses = resolve(program, imports or {})
    if data_base is None:
        data_base = (base + size_bound(program)[0] + 0xFFFF) & ~0xFFFF
    planner = Planner(program, base, data_base, addresses)
    planner.plan()
    return planner.image()


class Planner:
    """The layout of one image and its bytes."""

    def __init__(
        self, program: Program, base: int, data_base: int, imports: Mapping[str, int], generous: bool = False
    ) -> None:
        self.program, self.library = program, program.library
        self.target: Target = program.library.target
        self.base, self.data_base, self.imports = base, data_base, imports
        self.generous = generous
        self.far: set[int] = set()
        self.islands: list[Island] = []
        self.detours: dict[tuple[int, int], Piece] = {}
        self.hot: list[Piece] = []
        self.cold: list[Piece] = []
        self.stubs: dict[tuple[int, Leave], Piece] = {}
        self.routines: dict[int, Piece] = {}
        self.constants: dict[int, int] = {}
        self.literals: dict[Value, int] = {}
        self.tables: dict[Table, int] = {}
        self.cells: dict[Cell, int] = {}
        self.end = 0
        self.collect()

    # ---- what belongs to the image

    def collect(self) -> None:
        """Stubs, routines, constants, literals, tables and cells that the operations ask for."""
        todo = [self.library.routine_names.index(name) for name in self.program.roots]
        for position, op in enumerate(self.program.ops):
            for value in op.values:
                if isinstance(value, Cell):
                    self.cells.setdefault(value, len(self.cells))
                elif isinstance(value, Table):
                    self.tables.setdefault(value, 0)
            for block in op.form.near.blocks:
                todo += self.need(position, op, block)
        while todo:
            index = todo.pop()
            if index not in self.routines:
                name = self.library.routine_names[index]
                block = self.library.routine(name)
                self.routines[index] = Piece(block, -1, len(block.code), name=name)
                todo += self.need(-1, None, block)
        self.routines = dict(sorted(self.routines.items()))

    def need(self, position: int, op: Op | None, block: Block) -> Iterator[int]:
        """Note what a block's holes ask for; yields the routines among it."""
        for hole in block.holes:
            if hole.what is What.ROUTINE:
                yield hole.index
            elif hole.what is What.DATA:
                self.constants.setdefault(hole.index, 0)
            elif hole.what is What.LITERAL and op:
                self.literals.setdefault(op.values[hole.index], 0)
            elif hole.what is What.LEAVE and (position, Leave(hole.index)) not in self.stubs:
                name = STUBS[Leave(hole.index)]
                stub = self.library.routine(name)
                self.stubs[position, Leave(hole.index)] = Piece(stub, position, len(stub.code), name=name)
                yield from self.need(position, op, stub)

    # ---- where everything lies

    def plan(self) -> None:
        """Find the layout: from here on addresses are final."""
        self.place()
        limits = [fld.high for fld in self.target.fields.values() if fld.formula is not Formula.ABSOLUTE]
        while self.generous or self.imports or self.end >= min(limits):
            if not self.extend():
                break
            self.place()

    def place(self) -> None:
        """Give every piece its address under the present choice of forms and veneers."""
        ops = self.program.ops
        self.hot, self.cold = [], []
        breaks = {island.after for island in self.islands}
        address, since = self.base, 0
        known = {island.after: island for island in self.islands}
        starts = {function.position for function in self.program.functions}
        for position, op in enumerate(ops):
            stencil = op.form.far if position in self.far and op.form.far else op.form.near
            block = stencil.blocks[0]
            address = align(address, block.align)
            full = since + len(block.code) >= self.target.island > 0
            if full and position not in breaks:
                self.islands.append(Island(position))
                known[position] = self.islands[-1]
                breaks.add(position)
            follows = position + 1 < len(ops) and position not in breaks and position + 1 not in starts
            keep = len(block.code) - (block.tail if follows else 0)
            pieces = tuple(Piece(b, position, keep if b is block else len(b.code)) for b in stencil.blocks)
            for piece in pieces:
                piece.siblings = pieces
            pieces[0].address = address
            self.hot.append(pieces[0])
            self.cold += pieces[1:]
            address += keep
            since += keep
            if position in breaks:
                address = self.place_pieces(known[position].veneers.values(), address)
                since = 0
        if not self.islands or self.islands[-1].after != len(ops):
            self.islands.append(Island(len(ops)))
        final = self.islands[-1]
        shared = [*self.cold, *self.stubs.values(), *self.routines.values(), *final.veneers.values()]
        self.end = self.place_data(self.place_pieces(shared, address)) - self.base

    def place_pieces(self, pieces: object, address: int) -> int:
        for piece in pieces:  # type: ignore[attr-defined]
            address = align(address, piece.block.align)
            piece.address = address
            address += piece.keep
        return address

    def place_data(self, address: int) -> int:
        """Constants by falling alignment, then literals, then tables."""
        for index in sorted(self.constants, key=lambda i: -self.library.constant(i).align):
            constant = self.library.constant(index)
            address = align(address, constant.align)
            self.constants[index] = address
            address += len(constant.data)
        address = align(address, 8)
        for value in self.literals:
            self.literals[value] = address
            address += 8
        for table in self.tables:
            self.tables[table] = address
            address += 8 * len(table.labels)
        return address

    def pieces(self) -> Iterator[Piece]:
        yield from self.hot
        yield from self.cold
        yield from self.stubs.values()
        yield from self.routines.values()
        for island in self.islands:
            yield from island.veneers.values()

    # ---- what does not reach

    def extend(self) -> bool:
        """Lengthen what does not reach; whether anything changed."""
        changed = False
        for piece in list(self.pieces()):
            for number, hole in enumerate(piece.block.holes):
                fld = self.target.fields[hole.field]
                if hole.what not in CODE_TARGETS or fld.formula is Formula.ABSOLUTE or hole.offset >= piece.keep:
                    continue
                if hole.what is What.IMPORT and self.generous or not self.reaches(piece, number, hole, fld):
                    changed |= self.lengthen(piece, number, hole)
        return changed

    def reaches(self, piece: Piece, number: int, hole: Hole, fld: Field) -> bool:
        if hole.what is What.IMPORT and self.generous:
            return False
        detour = self.detours.get(self.hole_key(piece, number))
        s = detour.address if detour else self.symbol_value(piece, hole)
        return fld.fits(fld.value(s, hole.addend, piece.address + hole.place))

    def hole_key(self, piece: Piece, number: int) -> tuple[int, int]:
        """A name for a hole that outlives a new layout."""
        block = piece.siblings.index(piece) if piece.siblings else hash(piece.name) & 0xFFFF | 0x10000
        return piece.op, block << 16 | number

    def lengthen(self, piece: Piece, number: int, hole: Hole) -> bool:
        """Take the far form of an operation, or a veneer."""
        if piece.siblings and piece.op not in self.far and self.program.ops[piece.op].form.far:
            self.far.add(piece.op)
            self.detours = {key: value for key, value in self.detours.items() if key[0] != piece.op}
            return True
        goal = self.goal(piece, hole)
        island = min(self.islands, key=lambda i: abs(self.island_address(i) - piece.address))
        veneer = island.veneers.get(goal)
        if veneer is None:
            block = self.target.veneer
            veneer = island.veneers[goal] = Piece(block, -1, len(block.code), name=f"veneer {goal[0]} {goal[1]}")
            self.detours[self.hole_key(piece, number)] = veneer
            return True
        if self.detours.get(self.hole_key(piece, number)) is veneer:
            return False  # no better way: the final check tells
        self.detours[self.hole_key(piece, number)] = veneer
        return True

    def island_address(self, island: Island) -> int:
        return self.hot[island.after].address if island.after < len(self.hot) else self.base + self.end

    def goal(self, piece: Piece, hole: Hole) -> Key:
        """What a veneer for this hole goes to."""
        if hole.what is What.TARGET:
            value = self.program.ops[piece.op].values[hole.index]
            if isinstance(value, Label) and value.position is not None:
                return "op", value.position
            return "symbol", self.symbol_value(piece, hole)
        if hole.what is What.NEXT:
            return "op", piece.op + 1
        if hole.what is What.LEAVE:
            return f"leave {hole.index}", piece.op
        if hole.what is What.BLOCK:
            return f"block {hole.index}+{hole.addend}", piece.op
        return hole.what.name.lower(), hole.index

    def goal_address(self, goal: Key) -> int:
        kind, number = goal
        if kind == "op":
            return self.hot[number].address
        if kind.startswith("leave"):
            return self.stubs[number, Leave(int(kind.split()[1]))].address
        if kind.startswith("block"):
            index, _, addend = kind.split()[1].partition("+")
            return self.hot[number].siblings[int(index)].address + int(addend)
        if kind == "routine":
            return self.routines[number].address
        return number if kind == "symbol" else self.imports[self.library.imports[number].name]

    # ---- what the holes hold

    def symbol_value(self, piece: Piece, hole: Hole) -> int:
        """The spec's S of a hole."""
        match hole.what:
            case What.OPERAND:
                if piece.name.startswith("veneer"):
                    _, _, goal = piece.name.partition(" ")
                    kind, _, number = goal.rpartition(" ")
                    return self.goal_address((kind, int(number)))
                return self.operand(self.program.ops[piece.op].values[hole.index])
            case What.TARGET:
                return self.operand(self.program.ops[piece.op].values[hole.index])
            case What.NEXT:
                return self.hot[piece.op + 1].address
            case What.LEAVE:
                return self.stubs[piece.op, Leave(hole.index)].address
            case What.BLOCK:
                return piece.siblings[hole.index].address
            case What.DATA:
                return self.constants[hole.index]
            case What.LITERAL:
                return self.literals[self.program.ops[piece.op].values[hole.index]]
            case What.IMPORT:
                return self.imports.get(self.library.imports[hole.index].name, 0)
            case What.ROUTINE:
                return self.routines[hole.index].address
            case What.POSITION:
                return piece.op

    def operand(self, value: Value) -> int:
        """An operand as a number: itself, a slot's offset, an address."""
        if isinstance(value, int):
            return value
        if isinstance(value, Slot):
            return value.offset
        if isinstance(value, Label):
            assert value.position is not None  # Program.check saw to it
            return self.hot[value.position].address
        if isinstance(value, Cell):
            return self.data_base + 8 * self.cells[value]
        if isinstance(value, Table):
            return self.tables[value]
        return self.imports[value.name]

    # ---- bytes

    def image(self) -> Image:
        """Copy and patch."""
        code = bytearray(self.target.trap * (self.end // len(self.target.trap) + 1))[: self.end]
        for piece in self.pieces():
            start = piece.address - self.base
            code[start : start + piece.keep] = piece.block.code[: piece.keep]
            self.patch(code, piece)
        order = self.target.byteorder
        for index, address in self.constants.items():
            put(code, address - self.base, self.library.constant(index).data)
        for value, address in self.literals.items():
            put(code, address - self.base, word_bytes(self.operand(value), order))
        for table, address in self.tables.items():
            put(code, address - self.base, b"".join(word_bytes(self.operand(item), order) for item in table.labels))
        data = b"".join(word_bytes(cell.initial, order) for cell in self.cells)
        return Image(
            self.base, bytes(code), self.data_base, data, [piece.address - self.base for piece in self.hot],
            self.ranges(), self.function_addresses(), self.cell_addresses(),
            {piece.name: piece.address for piece in self.routines.values()},
            {cell: self.operand(cell) for cell in self.cells},
        )  # fmt: skip

    def patch(self, code: bytearray, piece: Piece) -> None:
        """Fill the holes of one piece, each checked."""
        for number, hole in enumerate(piece.block.holes):
            if hole.offset >= piece.keep:
                continue
            fld = self.target.fields[hole.field]
            detour = self.detours.get(self.hole_key(piece, number)) if hole.what in CODE_TARGETS else None
            s = detour.address if detour else self.symbol_value(piece, hole)
            value = fld.value(s, hole.addend, piece.address + hole.place)
            if not fld.fits(value):
                self.refuse(piece, hole, fld, value)
            fld.write(code, piece.address - self.base + hole.offset, value, self.target.byteorder)

    def refuse(self, piece: Piece, hole: Hole, fld: Field, value: int) -> None:
        """Raise the range error with all that is known."""
        op = self.program.ops[piece.op].operation if piece.op >= 0 else None
        name = op.name if op else piece.name
        what = op.operands[hole.index].name if op and hole.what in (What.OPERAND, What.TARGET) else hole.what.name.lower()
        if hole.what is What.IMPORT:
            what = self.library.imports[hole.index].name
        checked(fld, value, op=name, index=piece.op, hole=hole.offset, field=hole.field, symbol=what)

    def ranges(self) -> list[tuple[int, int, int]]:
        found = [(p.address - self.base, p.address - self.base + p.keep, p.op) for p in self.pieces() if p.keep]
        return sorted(found)

    def function_addresses(self) -> dict[str, int]:
        functions: list[Function] = [f for f in self.program.functions if f.position is not None]
        return {f.name: self.hot[f.position].address for f in functions if f.position is not None and f.position < len(self.hot)}

    def cell_addresses(self) -> dict[int, dict[str, int]]:
        return {
            position: cells
            for position, op in enumerate(self.program.ops)
            if (cells := {
                declared.name: self.operand(value)
                for declared, value in zip(op.operation.operands, op.values, strict=True)
                if isinstance(value, Cell)
            })
        }  # fmt: skip


def align(address: int, alignment: int) -> int:
    return (address + alignment - 1) & -alignment


def put(code: bytearray, offset: int, data: bytes) -> None:
    code[offset : offset + len(data)] = data


def word_bytes(value: int, byteorder: str) -> bytes:
    return (value & (1 << 64) - 1).to_bytes(8, byteorder)  # type: ignore[arg-type]
