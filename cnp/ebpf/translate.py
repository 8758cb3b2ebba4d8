"""A verified program -> operations of ebpf.c. Addresses of data and helpers come in as numbers.

    entry        fills in the table of regions (checked code only), hands over the memory, calls the first function
    functions    one for each instruction that is called, and the first; code that runs into one jumps there

Frames are drawn in ebpf.c.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cnp import targets
from cnp.assembler import Assembler, Function, Label, Program, Register, Slot
from cnp.ebpf.isa import ENDS, R10, STACK, U32, Instruction, Spec, spec_of
from cnp.ebpf.verify import target
from cnp.library import Library
from cnp.runtime import installed

R10_SLOT = STACK  #: where r10 lies for what takes it as an operand
SCRATCH = STACK + 8  #: a constant or an address that an operation does not take
BASE = STACK + 16  #: where the header of a callee's frame begins
REGION = 24  #: bytes of a row of the table of regions
TABLE = 16  #: where it lies in the entry's frame
READABLE, WRITABLE = 0, 1
DIVISIONS = ("div", "mod", "sdiv", "smod")


@dataclass(frozen=True, slots=True)
class Region:
    """Memory that a program may use beside its stack and what it is called with."""

    address: int
    size: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Options:
    """How code is to be made. checked: loads and stores stay in regions. polls: endless loops can be stopped. depth: functions
    that may be nested, the first one included."""

    checked: bool = True
    polls: bool = True
    depth: int = 8


@dataclass(frozen=True, slots=True)
class Places:
    """Addresses that code mentions. data: of each section; helpers: by number; table: of the helpers for callx."""

    data: Sequence[Region] = ()
    helpers: Mapping[int, int] = field(default_factory=dict)
    table: int = 0
    packet: int = 0
    unwind: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A program to translate. instructions: with their places. relocations: place of an lddw -> (section, offset) whose
    address is its constant. name: of its entry."""

    name: str
    instructions: Sequence[tuple[int, Instruction]]
    relocations: Mapping[int, tuple[int, int]]
    options: Options
    places: Places


def entry_base(regions: int, depth: int) -> int:
    """Where the first function's header begins in the entry's frame. regions: of data."""
    return TABLE + (REGION * (regions + depth + 2) + 15 & -16)


@dataclass(frozen=True, slots=True)
class Translated:
    """Operations of programs; translators: by the name of their entry."""

    program: Program
    translators: Mapping[str, Translator]

    def instruction_at(self, op: int, name: str = "main") -> int:
        """Which instruction of a program an operation belongs to."""
        return self.translators[name].instruction_at(op)


def translated(target: str, jobs: Sequence[Job]) -> Translated:
    """Programs as operations, each with an entry of its own."""
    asm = Assembler(vocabulary(target))
    translators = {}
    for job in jobs:
        translators[job.name] = Translator(asm, job)
        translators[job.name].translate()
    return Translated(asm.close(), translators)


class Translator:
    """Puts one program into an assembler, as functions called `name`, `name.0` and so on."""

    def __init__(self, asm: Assembler, job: Job) -> None:
        self.asm, self.name, self.program, self.relocations = asm, job.name, job.instructions, job.relocations
        self.options, self.places, program, name = job.options, job.places, job.instructions, job.name
        self.labels: dict[int, Label] = {index: asm.label(f"{name}:{index}") for index, _ in program}
        self.functions: dict[int, Function] = {}
        self.specs = {index: spec for index, insn in program if (spec := spec_of(insn))}
        for index, instruction in program:
            if self.specs[index].kind == "call_local":
                self.declare(index + 1 + instruction.imm)
        self.declare(0)
        self.takes_r10 = any(R10 in (insn.dst, insn.src) for _, insn in program)
        self.positions: list[int] = []  # of the operations of each instruction
        self.emit: dict[str, Callable[[int, Instruction, Spec], object]] = {
            kind: getattr(self, kind)
            for kind in (
                "alu", "move", "unary", "branch", "goto", "call_helper", "call_local", "call_register", "exit", "lddw",
                "packet", "load", "store", "store_imm", "atomic", "atomic_fetch", "atomic_compare",
            )
        }  # fmt: skip

    def declare(self, index: int) -> None:
        if index not in self.functions:
            self.functions[index] = self.asm.declare(f"{self.name}.{index}", BASE + 8)

    def translate(self) -> None:
        """Append everything."""
        self.entry()
        goes_on = False
        for index, instruction in self.program:
            if index in self.functions:
                if goes_on:
                    self.asm.op("ja", self.labels[index])
                self.begin(self.functions[index])
            self.asm.bind(self.labels[index])
            self.positions.append(len(self.asm.program.ops))
            spec = self.specs[index]
            self.emit[spec.kind](index, instruction, spec)
            goes_on = spec.kind not in ENDS

    def entry(self) -> None:
        """The function that is called from outside, with the address and the size of the memory."""
        asm, options, data = self.asm, self.options, self.places.data
        base = entry_base(len(data), options.depth)
        asm.function(self.name, frame=base + 8)
        asm.op("i64_move", Register("r", 1), Slot(0))
        asm.op("i64_move", Register("r", 2), Slot(8))
        if options.checked:
            asm.op("region", Slot(TABLE), Register("r", 1), Register("r", 2), WRITABLE)
            for number, region in enumerate(data):
                asm.op("i64_move", Register("r", 3), region.address)
                asm.op("i64_move", Register("r", 4), region.size)
                at = Slot(TABLE + REGION * (number + 1))
                asm.op("region", at, Register("r", 3), Register("r", 4), int(region.writable))
            header = asm.library.header_size
            at = Slot(TABLE + REGION * (len(data) + 1))
            asm.op("stacks", at, options.depth, base + header, BASE + header)
            asm.op("watch", Slot(TABLE))
            for number in (3, 4) if data else ():
                asm.op("i64_move", Register("r", number), 0)
        if self.places.table:
            asm.op("offer", self.places.table)
        asm.op("call", self.functions[0], Slot(base))
        asm.op("leave")

    def begin(self, function: Function) -> None:
        self.asm.begin(function)
        if self.takes_r10:
            self.asm.op("frame_pointer", Slot(R10_SLOT))

    def instruction_at(self, op: int) -> int:
        """Which instruction an operation belongs to; the first one for those of the entry."""
        return self.program[max(0, bisect_right(self.positions, op) - 1)][0]

    # ---- operands

    def register(self, number: int) -> Register | Slot:
        return Slot(R10_SLOT) if number == R10 else Register("r", number)

    def source(self, instruction: Instruction, spec: Spec) -> Register | Slot | int:
        """The second operand: a register or the constant as the operation takes it."""
        if "src" in spec.uses:
            return self.register(instruction.src)
        return instruction.imm if spec.signed else instruction.imm & U32

    # ---- arithmetic

    def alu(self, index: int, instruction: Instruction, spec: Spec) -> None:
        dst, operand = self.register(instruction.dst), self.source(instruction, spec)
        name = spec.op[:-2]
        if isinstance(operand, int) and name in DIVISIONS:
            self.asm.op("i64_move", Slot(SCRATCH), operand)
            operand = Slot(SCRATCH)
        elif isinstance(operand, int) and name.endswith("sh"):
            operand &= spec.bits - 1
        self.asm.op(spec.op, dst, dst, operand)

    def move(self, index: int, instruction: Instruction, spec: Spec) -> None:
        dst = self.register(instruction.dst)
        if "src" in spec.uses:
            if instruction.src == R10 and spec.bits == 64:
                self.asm.op("frame_pointer", dst)
            else:
                self.asm.op(spec.op, dst, self.register(instruction.src))
        else:
            self.asm.op("i64_move", dst, instruction.imm if spec.bits == 64 else instruction.imm & U32)

    def unary(self, index: int, instruction: Instruction, spec: Spec) -> None:
        dst = self.register(instruction.dst)
        operand = self.register(instruction.src) if "src" in spec.uses else dst
        self.asm.op(spec.op or "i64_move", dst, operand)  # le64 changes nothing

    def lddw(self, index: int, instruction: Instruction, spec: Spec) -> None:
        value = instruction.imm
        if index in self.relocations:
            section, offset = self.relocations[index]
            value = self.places.data[section].address + offset
        self.asm.op("i64_move", self.register(instruction.dst), value)

    # ---- where to go on

    def poll(self, index: int, to: int) -> None:
        if self.options.polls and to <= index:
            self.asm.op("poll")

    def branch(self, index: int, instruction: Instruction, spec: Spec) -> None:
        to = target(index, instruction, spec)
        assert to is not None
        self.poll(index, to)
        self.asm.op(spec.op, self.register(instruction.dst), self.source(instruction, spec), self.labels[to])

    def goto(self, index: int, instruction: Instruction, spec: Spec) -> None:
        to = target(index, instruction, spec)
        assert to is not None
        self.poll(index, to)
        self.asm.op("ja", self.labels[to])

    def exit(self, index: int, instruction: Instruction, spec: Spec) -> None:
        self.asm.op("leave")

    # ---- calls

    def call_local(self, index: int, instruction: Instruction, spec: Spec) -> None:
        if self.options.polls:
            self.asm.op("poll")
        self.asm.op("call", self.functions[index + 1 + instruction.imm], Slot(BASE))

    def call_helper(self, index: int, instruction: Instruction, spec: Spec) -> None:
        self.asm.op("call_helper", self.places.helpers[instruction.imm])
        if instruction.imm == self.places.unwind:
            self.asm.op("end_if", Register("r", 0), 0)

    def call_register(self, index: int, instruction: Instruction, spec: Spec) -> None:
        self.asm.op("i64_move", Slot(SCRATCH), self.register(instruction.dst))
        self.asm.op("call_register", Slot(SCRATCH))
        if self.places.unwind is None:
            return
        behind = self.asm.label()
        self.asm.op("jne64", Slot(SCRATCH), self.places.unwind, behind)
        self.asm.op("end_if", Register("r", 0), 0)
        self.asm.bind(behind)
        self.asm.op("i64_move", Register("r", 0), Register("r", 0))

    def packet(self, index: int, instruction: Instruction, spec: Spec) -> None:
        at: Register | Slot = Slot(SCRATCH)
        if "src" in spec.uses:
            at = self.register(instruction.src)
        else:
            self.asm.op("i64_move", at, 0)
        packet, offset = self.places.packet, instruction.imm & U32
        self.asm.op("load_packet", packet, at, offset, spec.bits // 8, Register("r", 6))
        self.asm.op("end_if", Register("r", 0), -1)

    # ---- memory

    def access(self, kind: str, base: int, offset: int, size: int) -> bool:
        """Check an access. True: it is on the function's own stack, by r10."""
        if base == R10 and -STACK <= offset <= -size:
            return True
        if self.options.checked:
            self.asm.op(f"check_{kind}", self.register(base), offset, size)
        return False

    def load(self, index: int, instruction: Instruction, spec: Spec) -> None:
        _, dst, src, offset, _ = instruction
        if self.access("load", src, offset, spec.bits // 8):
            self.asm.op(spec.op + "_stack", self.register(dst), STACK + offset)
        else:
            self.asm.op(spec.op, self.register(dst), self.register(src), offset)

    def store(self, index: int, instruction: Instruction, spec: Spec) -> None:
        self.put(instruction, spec, self.register(instruction.src))

    def store_imm(self, index: int, instruction: Instruction, spec: Spec) -> None:
        self.put(instruction, spec, instruction.imm)

    def put(self, instruction: Instruction, spec: Spec, value: Register | Slot | int) -> None:
        base, offset = instruction.dst, instruction.offset
        if self.access("store", base, offset, spec.bits // 8):
            self.asm.op(spec.op + "_stack", STACK + offset, value)
        else:
            self.asm.op(spec.op, self.register(base), offset, value)

    def place(self, instruction: Instruction, spec: Spec) -> Register | Slot:
        """Where the address of an atomic access lies, after its checks."""
        base, offset, size = self.register(instruction.dst), instruction.offset, spec.bits // 8
        place = base
        if offset:
            place = Slot(SCRATCH)
            self.asm.op("add64", place, base, offset)
        self.asm.op("check_aligned", place, size)
        self.access("store", instruction.dst, offset, size)
        return place

    def atomic(self, index: int, instruction: Instruction, spec: Spec) -> None:
        self.asm.op(spec.op, self.place(instruction, spec), self.register(instruction.src))

    def atomic_fetch(self, index: int, instruction: Instruction, spec: Spec) -> None:
        src = self.register(instruction.src)
        self.asm.op(spec.op, src, self.place(instruction, spec), src)

    def atomic_compare(self, index: int, instruction: Instruction, spec: Spec) -> None:
        r0 = Register("r", 0)
        self.asm.op(spec.op, r0, self.place(instruction, spec), r0, self.register(instruction.src))


@lru_cache
def vocabulary(target: str) -> Library:
    """eBPF's operations for a target."""
    return Library.load(installed("ebpf", targets.get(target).name))
