"""Program -> where everything lies: which variant of each stencil, which jumps by way of a veneer, every address.

    code   chunk    hot blocks of its operations     each without its jump to the next one when that follows
                    those of operations in the cold  likewise
                    cold blocks, stubs               a stub for each operation and way out: "I left at op N"
                    veneers                          for what its jumps do not reach
           chunk    …
           routines with veneers of their own        the ways in and out
           constants, literals, tables, rodata       read-only data
    data   cells, data                               somewhere else, where they may be written

A chunk is so small that each of its jumps reaches the whole of it, with all veneers that it could ever need. So the
chunks are known before any address is; only what leaves its chunk can miss, and its own veneers are always near.
Where jumps stay within a region of memory, a chunk does too.

Lengths depend on reach and reach depends on lengths: the layout starts with the short variants and without veneers,
and gives an operation its far variant, or a jump a veneer, wherever a hole is out of range, until nothing changes.
Each round only adds and looks only at what may still miss, so that nothing is long that could be short. A chain of jumps
each of which just reaches until the next one grows would take a round for each: after some rounds, what misses takes
along what nearly does, by a margin that doubles each time, and the number of rounds stays below that of the bits of an
address.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cnp.assembler import Cell, Label, Offset, Op, Program, Symbol, Table, Value
from cnp.library import STUBS
from cnp.operands import Place
from cnp.sections import DATA, RODATA
from cnp.stencil import Block, Form, Hole, Leave, What
from cnp.target import REGION_SIZE, Field, Formula, Target

BASE_ALIGN = 16  #: what a base address must be a multiple of, in bytes
EXACT_ROUNDS = 16  #: rounds of the layout without a margin
OUTSIDE = (What.TARGET, What.IMPORT)  #: holes whose goal may lie outside of the image


@dataclass(eq=False, slots=True)
class Piece:
    """A block with its place in the image. op: the operation it belongs to (-1: a routine or veneer).

    keep: bytes of the block that are used. falls: control goes on behind it. siblings: the pieces of the same
    operation, by block number. detours: hole number -> veneer. goal: where a veneer goes. least: what the address is
    aligned to at least.
    """

    block: Block
    op: int
    chunk: Chunk
    keep: int
    name: str = ""
    address: int = 0
    falls: bool = False
    siblings: tuple[Piece, ...] = ()
    detours: dict[int, Piece] | None = None
    goal: Goal | None = None
    least: int = 1


Goal = Piece | int  #: where a jump ends: a piece of the image or an address outside


@dataclass(eq=False, slots=True)
class Chunk:
    """Pieces that reach each other. bound: bytes that it takes at most, wherever it lies. late: hot blocks of operations
    that the program puts into the cold."""

    bound: int = 0
    hot: list[Piece] = field(default_factory=list)
    late: list[Piece] = field(default_factory=list)
    cold: list[Piece] = field(default_factory=list)
    stubs: list[Piece] = field(default_factory=list)
    veneers: dict[Goal, Piece] = field(default_factory=dict)

    def pieces(self) -> Iterator[Piece]:
        """All pieces in the order of their addresses."""
        yield from self.own()
        yield from self.veneers.values()

    def own(self) -> Iterator[Piece]:
        """All but the veneers."""
        yield from self.hot
        yield from self.late
        yield from self.cold
        yield from self.stubs


Jump = tuple[int, Hole, Field]  #: a hole that a veneer could help: its number in the block


class Exit(NamedTuple):
    """A jump that may miss its goal. number: of its hole in the block of its piece."""

    piece: Piece
    number: int
    hole: Hole
    field: Field
    goal: Goal

    def misses(self, margin: int) -> bool:
        """Whether it reaches by less than `margin` bytes, or not at all."""
        piece, _, hole, fld, goal = self
        s = goal if isinstance(goal, int) else goal.address
        value = fld.value(s, hole.addend, piece.address + hole.place)
        return value < fld.low + margin or value > fld.high - margin


@dataclass(slots=True)
class Facts:
    """What some blocks ask of an image, whatever their operands are. size: bytes at most, alignment included;
    veneers: how many they could need."""

    size: int = 0
    veneers: int = 0
    leaves: dict[Leave, None] = field(default_factory=dict)
    routines: dict[int, None] = field(default_factory=dict)
    constants: dict[int, None] = field(default_factory=dict)
    literals: dict[int, None] = field(default_factory=dict)
    imports: dict[int, None] = field(default_factory=dict)


class Plan:
    """The layout of one image: `Plan(program)` knows what belongs to it, `settle(base, imports)` where it lies.

    ops: the operations. hot[i]: piece of operation i. constants, literals, tables: address of each; rodata: of that section. cells: number
    of each. bound, data_bound: bytes of code and data at most, wherever the image lies. end: bytes of code, once settled; rounds: how often the
    layout was made again for that.
    """

    def __init__(self, program: Program) -> None:
        program.check()
        self.program, self.library = program, program.library
        self.ops = list(program.ops)
        self.target: Target = program.library.target
        self.hot: list[Piece] = []
        self.stubs: dict[tuple[int, int], Piece] = {}
        self.routines: dict[int, Piece] = {}
        self.constants: dict[int, int] = {}
        self.literals: dict[Value, int] = {}
        self.tables: dict[Table, int] = {}
        self.cells: dict[Cell, int] = {}
        self.absolute: dict[Label, None] = {}
        self.imports: dict[str, None] = {}
        self.symbols: Mapping[str, int] = {}
        self.far: set[int] = set()
        self.base = self.end = self.rounds = self.rodata = 0
        self._facts: dict[int, Facts] = {}
        self._jumps: dict[int, tuple[Jump, ...]] = {}
        self._doubtful: dict[int, tuple[Jump, ...]] = {}
        self._stubs = {leave: self.library.routine(name) for leave, name in STUBS.items()}
        self._regions = any(fld.formula is Formula.REGION for fld in self.target.fields.values())
        self.chunks = self._collect()
        self.bound = self._bound()
        self.data_bound = 8 * len(self.cells) + program.sections[DATA].room

    # ---- what belongs to the image

    def _collect(self) -> list[Chunk]:
        """All pieces, in chunks. From here on the chunks are final, and so is which jump to the next operation goes."""
        facts = [self._form_facts(op.form) for op in self.ops]
        room = self.target.island if sum(item.size for item in facts) > self.target.island > 0 else 0
        each = len(self.target.veneer.code) + self.target.veneer.align - 1
        chunks = [Chunk()]
        aligned, cold = self.program.aligned, self.program.cold_positions()
        for position, (op, item) in enumerate(zip(self.ops, facts, strict=True)):
            least = aligned.get(position, 1)
            size = item.size + least - 1 + (each * item.veneers if room else 0)
            if room and chunks[-1].bound + size > room:
                chunks.append(Chunk())
            elif self.hot and (position in cold) == (position - 1 in cold):
                shorten(self.hot[-1])
            chunks[-1].bound += size
            self._add(position, op, item, chunks[-1], position in cold)
            self.hot[-1].least = least
        for _, place in self.program.places():
            self._use(place)
        chunks.append(self._routine_chunk())
        outside = 0 if room else each * (len(self.imports) + len(self.routines) + len(self.absolute))
        for chunk in chunks:
            chunk.bound += outside
        return chunks

    def _add(self, position: int, op: Op, facts: Facts, chunk: Chunk, late: bool) -> None:
        """The pieces of one operation. late: it is to lie in the cold."""
        pieces = tuple([Piece(block, position, chunk, len(block.code)) for block in op.form.near.blocks])
        for piece in pieces:
            piece.siblings = pieces
        self.hot.append(pieces[0])
        (chunk.late if late else chunk.hot).append(pieces[0])
        chunk.cold += pieces[1:]
        for leave in facts.leaves:
            block = self._stubs[leave]
            stub = Piece(block, position, chunk, len(block.code), STUBS[leave])
            self.stubs[position, leave] = stub
            chunk.stubs.append(stub)
        self._need(facts)
        for index in facts.literals:
            self.literals.setdefault(op.values[index], 0)
        for value in op.values:
            if isinstance(value, Table):
                self.tables.setdefault(value, 0)
                for label in value.labels:
                    self._use(label)
            elif isinstance(value, Place):
                self._use(value)

    def _use(self, place: Place) -> None:
        """What a place asks of the image."""
        if isinstance(place, Offset):
            place = place.place
        if isinstance(place, Cell):
            if place not in self.cells:
                self.cells[place] = len(self.cells)
                if isinstance(place.initial, Place):
                    self._use(place.initial)
        elif isinstance(place, Symbol):
            self.imports[place.name] = None
        elif isinstance(place, Label) and place.address is not None:
            self.absolute[place] = None

    def _need(self, facts: Facts) -> None:
        self.constants |= dict.fromkeys(facts.constants, 0)
        self.imports |= dict.fromkeys(self.library.imports[index].name for index in facts.imports)

    def _routine_chunk(self) -> Chunk:
        """The routines that roots, operations and other routines ask for, in the order of the library."""
        chunk = Chunk()
        names = self.library.routine_names
        todo = [names.index(name) for name in self.program.roots]
        todo += [index for facts in self._facts.values() for index in facts.routines]
        found: dict[int, Block] = {}
        while todo:
            index = todo.pop()
            if index not in found:
                found[index] = self.library.routine(names[index])
                facts = self._block_facts([found[index]])
                self._need(facts)
                chunk.bound += facts.size + facts.veneers * (
                    len(self.target.veneer.code) + self.target.veneer.align
                )
                todo += facts.routines
        for index, block in sorted(found.items()):
            self.routines[index] = Piece(block, -1, chunk, len(block.code), names[index])
        chunk.hot = list(self.routines.values())
        return chunk

    def _form_facts(self, form: Form) -> Facts:
        """Of both variants with their stubs, kept by form."""
        known = self._facts.get(id(form))
        if known is None:
            near = self._block_facts(form.near.blocks)
            far = self._block_facts(form.far.blocks) if form.far else near
            known = self._facts[id(form)] = near
            near.size, near.veneers = max(near.size, far.size), max(near.veneers, far.veneers)
            stubs = self._block_facts([self._stubs[leave] for leave in near.leaves])
            near.size, near.veneers = near.size + stubs.size, near.veneers + stubs.veneers
            near.routines |= stubs.routines
        return known

    def _block_facts(self, blocks: Iterable[Block]) -> Facts:
        facts = Facts()
        kinds: dict[What, dict[int, None]] = {
            What.ROUTINE: facts.routines, What.DATA: facts.constants, What.LITERAL: facts.literals,
            What.IMPORT: facts.imports, What.LEAVE: facts.leaves,  # type: ignore[dict-item]
        }  # fmt: skip
        for block in blocks:
            facts.size += len(block.code) + block.align - 1
            for hole in block.holes:
                if hole.what in kinds:
                    kinds[hole.what][Leave(hole.index) if hole.what is What.LEAVE else hole.index] = None
            facts.veneers += len(self._jumps_of(block))
        return facts

    def _jumps_of(self, block: Block) -> tuple[Jump, ...]:
        """The jumps of a block that leave it."""
        known = self._jumps.get(id(block))
        if known is None:
            fields = self.target.fields
            found = [(number, hole, fields[hole.field]) for number, hole in enumerate(block.holes)]
            known = self._jumps[id(block)] = tuple(jump for jump in found if jump[2].jump)
        return known

    def _bound(self) -> int:
        """Bytes of everything; where chunks stay within regions, the gap before the largest one, for each border."""
        data = sum(len(c.data) + c.align for c in map(self.library.constant, self.constants))
        data += 8 + 8 * len(self.literals) + 8 * sum(len(table.labels) for table in self.tables)
        data += self.program.sections[RODATA].room
        code = sum(chunk.bound for chunk in self.chunks)
        borders = 1 + code // (REGION_SIZE // 4) if self._regions else 0
        return code + data + borders * max(chunk.bound for chunk in self.chunks)

    # ---- where everything lies

    def settle(self, base: int, symbols: Mapping[str, int]) -> None:
        """Find the layout for a base address: from here on addresses are final. symbols: addresses of `imports`."""
        self.base, self.symbols = base, symbols
        self._place()
        exits = self._exits(piece for chunk in self.chunks for piece in chunk.own())
        while found := [exit for exit in exits if exit.misses(0)]:
            if self.rounds >= EXACT_ROUNDS:
                found = [exit for exit in exits if exit.misses(1 << self.rounds - EXACT_ROUNDS)]
            left = self._lengthen(found, exits)
            if left is None:
                break  # neither a far variant nor a veneer helps: the final check tells
            exits = left
            self.rounds += 1
            self._place()

    def _place(self) -> None:
        """Give every piece its address under the present choice of variants and veneers."""
        address = self.base
        for chunk in self.chunks:
            if self._regions and address // REGION_SIZE != (address + chunk.bound) // REGION_SIZE:
                address = align(address, REGION_SIZE)
            for piece in chunk.pieces():
                if piece.block.align > 1 or piece.least > 1:
                    address = align(address, max(piece.block.align, piece.least))
                piece.address = address
                address += piece.keep
        self.end = self._place_data(address) - self.base

    def _place_data(self, address: int) -> int:
        """Constants by falling alignment, then literals, then tables, then what the program has itself."""
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
        section = self.program.sections[RODATA]
        self.rodata = align(address, section.align) if section.data else address
        return self.rodata + len(section.data)

    # ---- what does not reach

    def _exits(self, pieces: Iterable[Piece]) -> list[Exit]:
        """The jumps of some pieces that may miss."""
        found: list[Exit] = []
        for piece in pieces:
            for number, hole, fld in self._doubtful_of(piece.block):
                if hole.offset < piece.keep:
                    goal = self.goal(piece, hole)
                    if isinstance(goal, int) or not self._spans(fld):
                        found.append(Exit(piece, number, hole, fld, goal))
        return found

    def _doubtful_of(self, block: Block) -> tuple[Jump, ...]:
        """The jumps of a block but those that reach all of the image and do not leave it."""
        known = self._doubtful.get(id(block))
        if known is None:
            jumps = self._jumps_of(block)
            found = [jump for jump in jumps if jump[1].what in OUTSIDE or not self._spans(jump[2])]
            known = self._doubtful[id(block)] = tuple(found)
        return known

    def _spans(self, fld: Field) -> bool:
        """Whether a field reaches from any place of the image to any other."""
        return fld.formula is Formula.RELATIVE and min(fld.high, -fld.low) >= self.bound

    def _lengthen(self, found: list[Exit], exits: list[Exit]) -> list[Exit] | None:
        """Give what was found among the exits far variants, or veneers where they have them already. The exits that may
        miss then; None where nothing could be lengthened."""
        far: dict[int, tuple[Piece, ...]] = {}
        detoured: set[tuple[Piece, int]] = set()
        for exit in found:
            piece = exit.piece
            if not (piece.siblings and piece.op in far):
                if self._take_far(piece):
                    far[piece.op] = piece.siblings
                elif self._take_veneer(exit):
                    detoured.add((piece, exit.number))
        if not far and not detoured:
            return None
        left = [
            exit
            for exit in exits
            if not ((exit.piece.op in far and exit.piece.siblings) or (exit.piece, exit.number) in detoured)
        ]
        return left + self._exits(piece for pieces in far.values() for piece in pieces)

    def _take_far(self, piece: Piece) -> bool:
        """The far variant of an operation, if it has one that is not taken yet."""
        form = self.ops[piece.op].form if piece.siblings else None
        if form is None or form.far is None or piece.op in self.far:
            return False
        self.far.add(piece.op)
        for sibling, block in zip(piece.siblings, form.far.blocks, strict=True):
            sibling.block, sibling.keep, sibling.detours = block, len(block.code), None
        if piece.siblings[0].falls:
            shorten(piece.siblings[0])
        return True

    def _take_veneer(self, exit: Exit) -> bool:
        """A veneer for a jump; False for one within its chunk, which no veneer helps."""
        piece, goal = exit.piece, exit.goal
        if not isinstance(goal, int) and goal.chunk is piece.chunk:
            return False
        veneer = piece.chunk.veneers.get(goal)
        if veneer is None:
            block = self.target.veneer
            veneer = Piece(block, -1, piece.chunk, len(block.code), "veneer", goal=goal)
            piece.chunk.veneers[goal] = veneer
        if piece.detours is None:
            piece.detours = {}
        piece.detours[exit.number] = veneer
        return True

    def goal(self, piece: Piece, hole: Hole) -> Goal:
        """Where a hole that means a place in code goes."""
        match hole.what:
            case What.TARGET:
                value = self.ops[piece.op].values[hole.index]
                if isinstance(value, Label):
                    if value.address is not None:
                        return value.address
                    return self.hot[value.position or 0]  # Program.check has seen that it is bound
                assert isinstance(value, Symbol)  # the assembler takes nothing else
                return self.symbols[value.name]
            case What.NEXT:
                return self.hot[piece.op + 1]
            case What.BLOCK:
                return piece.siblings[hole.index]
            case What.LEAVE:
                return self.stubs[piece.op, hole.index]
            case What.ROUTINE:
                return self.routines[hole.index]
            case _:
                return self.symbols[self.library.imports[hole.index].name]


def shorten(piece: Piece) -> None:
    """Leave out the jump to the next operation."""
    piece.falls = True
    piece.keep = len(piece.block.code) - piece.block.tail


def align(address: int, alignment: int) -> int:
    return (address + alignment - 1) & -alignment
