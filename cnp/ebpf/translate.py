"""A verified program -> operations of ebpf.c. Addresses of data and helpers come in as numbers.

    functions    one for each instruction that is called, and the first: cnp/ebpf/table.py says what they consist of
    entry        fills in the table of regions (checked code only), hands over the memory, calls the first function

Frames are drawn in ebpf.c.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cnp import targets
from cnp.assembler import Assembler, Program, Register, Slot
from cnp.bytecode import Bytecode, Step
from cnp.ebpf.isa import R10, SIZE, U32, Instruction, encode
from cnp.ebpf.table import BASE, HELPERS, PACKET, Options, bytecode
from cnp.library import Library
from cnp.runtime import installed

REGION = 24  #: bytes of a row of the table of regions
TABLE = 16  #: where it lies in the entry's frame
READABLE, WRITABLE = 0, 1
PACKETS = (0x20, 0x28, 0x30, 0x40, 0x48, 0x50)  #: opcodes of legacy loads


@dataclass(frozen=True, slots=True)
class Region:
    """Memory that a program may use beside its stack and what it is called with."""

    address: int
    size: int
    writable: bool


@dataclass(slots=True)
class Places:
    """Addresses that code mentions. data: of each section; helpers: by number; table: of the helpers for callx."""

    data: Sequence[Region] = ()
    helpers: Mapping[int, int] = field(default_factory=dict)
    table: int = 0
    packet: int = 0
    unwind: int | None = None

    @property
    def pools(self) -> dict[str, Mapping[int, int]]:
        """The numbers of a translation by cnp/ebpf/table.py."""
        return pools_of(self.helpers, self.packet)


def pools_of(helpers: Mapping[int, int], packet: int) -> dict[str, Mapping[int, int]]:
    """The same of these addresses; packet: of the callback, 0: there is none."""
    return {HELPERS: helpers, PACKET: dict.fromkeys(PACKETS, packet) if packet else {}}


@dataclass(frozen=True, slots=True)
class Job:
    """A program to translate. instructions: with their places. relocations: place of an lddw -> (section, offset) whose
    address is its constant. name: of its entry."""

    name: str
    instructions: Sequence[tuple[int, Instruction]]
    relocations: Mapping[int, tuple[int, int]]
    options: Options
    places: Places

    @property
    def code(self) -> bytes:
        """Its bytes, with the addresses that it mentions."""
        whole = b"".join(encode(instruction) for _, instruction in self.instructions)
        return relocated(whole, self.relocations, self.places.data)


def relocated(code: bytes, relocations: Mapping[int, tuple[int, int]], data: Sequence[Region]) -> bytes:
    """Bytecode whose lddw have the addresses of data."""
    if not relocations:
        return code
    changed = bytearray(code)
    for index, (section, offset) in relocations.items():
        value = data[section].address + offset
        struct.pack_into("<I", changed, SIZE * index + 4, value & U32)
        struct.pack_into("<I", changed, SIZE * index + 12, value >> 32 & U32)
    return bytes(changed)


def described(library: Library, options: Options, places: Places, takes_r10: bool = True) -> Bytecode:
    """eBPF as a bytecode for these options."""
    return bytecode(library, options.checked, options.polls, takes_r10, places.packet != 0, places.unwind)


def entry_base(regions: int, depth: int) -> int:
    """Where the first function's header begins in the entry's frame. regions: of data."""
    return TABLE + (REGION * (regions + depth + 2) + 15 & -16)


def entry(library: Library, options: Options, places: Places) -> Iterator[Step]:
    """The operations of the function that is called from outside, with the address and the size of the memory, up to its call
    of the first function at the slot `entry_base`."""
    data, r = places.data, [Register("r", number) for number in range(5)]
    yield "i64_move", r[1], Slot(0)
    yield "i64_move", r[2], Slot(8)
    if options.checked:
        yield "region", Slot(TABLE), r[1], r[2], WRITABLE
        for number, region in enumerate(data):
            yield "i64_move", r[3], region.address
            yield "i64_move", r[4], region.size
            yield "region", Slot(TABLE + REGION * (number + 1)), r[3], r[4], int(region.writable)
        base, header = entry_base(len(data), options.depth), library.header_size
        yield "stacks", Slot(TABLE + REGION * (len(data) + 1)), options.depth, base + header, BASE + header
        yield "watch", Slot(TABLE)
        for number in (3, 4) if data else ():
            yield "i64_move", r[number], 0
    if places.table:
        yield "offer", places.table


@dataclass(frozen=True, slots=True)
class Positions:
    """Where the operations of a program lie. places: for each word of its code the position of its instruction's first
    operation; end: of the last one's last operation."""

    places: Sequence[int]
    end: int

    def instruction_at(self, op: int) -> int:
        """Which instruction an operation belongs to; the first one for those of the entry."""
        if not self.places or not self.places[0] <= op < self.end:
            return 0
        found = bisect_right(self.places, op) - 1
        return found - 1 if found and self.places[found - 1] == self.places[found] else found


@dataclass(frozen=True, slots=True)
class Translated:
    """Operations of programs; positions: by the name of their entry."""

    program: Program
    positions: Mapping[str, Positions]

    def instruction_at(self, op: int, name: str = "main") -> int:
        """Which instruction of a program an operation belongs to."""
        return self.positions[name].instruction_at(op)


def translated(target: str, jobs: Sequence[Job]) -> Translated:
    """Programs as operations, each with an entry of its own."""
    asm = Assembler(vocabulary(target))
    positions = {job.name: append(asm, job) for job in jobs}
    return Translated(asm.close(), positions)


def append(asm: Assembler, job: Job) -> Positions:
    """Put one program into an assembler: its functions are called `name.0` and so on."""
    options, places = job.options, job.places
    takes_r10 = any(R10 in (instruction.dst, instruction.src) for _, instruction in job.instructions)
    table = described(asm.library, options, places, takes_r10)
    functions, where = table.append(asm, job.code, places.pools, job.name)
    end = len(asm.program.ops)
    base = entry_base(len(places.data), options.depth)
    asm.function(job.name, frame=base + 8)
    for name, *operands in entry(asm.library, options, places):
        asm.op(name, *operands)
    asm.op("call", functions[0], Slot(base))
    asm.op("leave")
    return Positions(where, end)


@lru_cache
def vocabulary(target: str) -> Library:
    """eBPF's operations for a target."""
    return Library.load(installed("ebpf", targets.get(target).name))
