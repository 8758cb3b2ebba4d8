"""The tools of `cnp bench emission`: each takes the workload and makes code of it, in its own way.

memcpy         of the code of the hand-written assembler: warm; into fresh memory that is made executable
hand-written   hand.x86_64.c: an assembler in C, one function an instruction
cnp …          the portable operations on slots
keystone       an assembler of text; the text is not in its time
llvmlite       LLVM's code generator with -O0 and -O2; so is the text of its IR not
"""

from __future__ import annotations

import ctypes
import importlib.util
import io
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version

import cnp
from cnp import emit, encode, patch, runtime, targets
from cnp import frame as layout
from cnp.assembler import Assembler
from cnp.bench.native import Buffer, Program, Slots
from cnp.bench.workload import SLOTS, Kind, Record, first_slots, unpack
from cnp.direct import Direct
from cnp.errors import CnpError
from cnp.library import ENTER
from cnp.link import code_memory
from cnp.memory import Block
from cnp.operands import slot

WARM, COLD, HAND = "memcpy warm", "memcpy cold", "hand-written"  #: what others are compared with
BATCH = "cnp batch warm"
RUNS, TRIES = 500, 9  #: of code that is timed: a time is the median of the tries
FRAME = 8 * SLOTS
FUNCTION = "workload"
SIGNATURE = "int64_t(int64_t)"  #: of slot 0
OPERATIONS = ("i64_move", "i64_add", "i64_sub", "i64_mul", "br_i64_lt_s", "jump", "ret")  #: by `Kind`
BASE = 0x10000  #: where code lies that nobody executes


Run = Callable[[int], None]  #: the code, so many times
Read = Callable[[], bytes]  #: the slots


class Job:
    """One tool on one program. size: bytes of code after `emit`."""

    size = 0

    def __init__(self, program: Program) -> None:
        self.native = program.native

    def emit(self, times: int) -> None:
        """Make the code, so many times."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Make it once, before it is timed."""
        self.emit(1)

    def timed(self, times: int) -> float:
        """The same; nanoseconds of this thread's processor time for once."""
        begun = time.thread_time_ns()
        self.emit(times)
        return (time.thread_time_ns() - begun) / times

    def length(self) -> int:
        """Bytes of the code that was made last."""
        return self.size

    def code(self) -> bytes:
        """What was made, as a function of the address of the slots that can lie anywhere."""
        raise NotImplementedError

    @contextmanager
    def placed(self) -> Iterator[int]:
        """The address of the code in executable memory."""
        block = code_memory(targets.get("host")).allocate(self.length())
        try:
            block.write(self.code())
            yield block.code_address
        finally:
            block.free()

    @contextmanager
    def entered(self) -> Iterator[tuple[Run, Read]]:
        """The code in executable memory, on slots as they are at first: a function of the slots' address."""
        slots, call = Slots(*first_slots()), self.native.library.bench_call
        with self.placed() as address:
            yield lambda times: call(address, ctypes.addressof(slots), times), lambda: bytes(slots)

    def first_call(self) -> float:
        """Nanoseconds to make the code, put it into executable memory and call it."""
        slots, call = Slots(*first_slots()), self.native.library.bench_call
        begun = time.thread_time_ns()
        self.emit(1)
        with self.placed() as address:
            call(address, ctypes.addressof(slots), 1)
            return time.thread_time_ns() - begun

    def execute(self) -> bytes:
        """The slots after the code."""
        with self.entered() as (run, read):
            run(1)
            return read()

    def run_time(self) -> float:
        """Nanoseconds of one run, of many behind each other."""
        with self.entered() as (run, _):
            return median_time(run)

    def close(self) -> None:
        """Give memory back."""


def median_time(run: Run) -> float:
    """Nanoseconds of one of RUNS times."""
    taken = []
    for _ in range(TRIES):
        begun = time.thread_time_ns()
        run(RUNS)
        taken.append((time.thread_time_ns() - begun) / RUNS)
    return statistics.median(taken)


@dataclass(frozen=True, slots=True)
class Tool:
    """prepare: a job for a program. executes: it makes code of its own, which is checked. outside: a program of its own,
    which says its version itself, in `told`."""

    name: str
    version: str
    prepare: Callable[[Program], Job]
    executes: bool = True
    outside: bool = False
    told: list[str] = field(default_factory=list)

    @property
    def known_version(self) -> str:
        """What it says itself, or what is installed; empty where there is none."""
        return self.told[-1] if self.told else self.version


# ---- memcpy, and by hand


class Copy(Job):
    """memcpy of the hand-written assembler's code."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        code = program.hand
        self.size = len(code)
        self.source, self.out = Buffer(self.size), Buffer(self.size)
        self.source.view()[:] = code

    def emit(self, times: int) -> None:
        self.native.library.bench_copy(self.out.address, self.source.address, self.size, times)


class CopyCold(Copy):
    """The same into fresh memory that is made executable."""

    def emit(self, times: int) -> None:
        if self.native.library.bench_copy_cold(self.source.address, self.size, times) != 0:
            raise CnpError("there is no executable memory for memcpy", tool="memcpy cold")


class Hand(Job):
    """The assembler in C, warm."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.program, self.out = program, Buffer(32 * program.count)

    def emit(self, times: int) -> None:
        self.size = self.program.native.assemble(self.program, self.out, times)

    def code(self) -> bytes:
        return self.out.bytes(self.size)

    def close(self) -> None:
        self.program.native.close()


# ---- cnp


def calls(program: list[Record]) -> list[tuple[int, tuple[object, ...]]]:
    """The workload as portable operations, by their number in OPERATIONS, with their operands."""
    slots = [slot(8 * number) for number in range(SLOTS)]
    found: list[tuple[int, tuple[object, ...]]] = []
    for op, d, a, b, imm in program:
        if op == Kind.LOADI:
            operands: tuple[object, ...] = (slots[d], imm)
        elif op <= Kind.MUL:
            operands = (slots[d], slots[a], slots[b])
        elif op == Kind.CBR:
            operands = (slots[a], slots[b], d)
        else:
            operands = (d,) if op == Kind.JMP else (slots[0],)
        found.append((int(op), operands))
    return found


def append(asm: Assembler, program: list[tuple[int, tuple[object, ...]]]) -> None:
    """One operation after the other."""
    asm.function(FUNCTION, frame=FRAME)
    appends = [getattr(asm, name) for name in OPERATIONS]
    for number, operands in program:
        appends[number](*operands)


def own_bytes(image: patch.Image) -> int:
    """bytes of the operations, without what an image has once: routines, veneers."""
    return sum(end - start for start, end, op in image.ranges if op >= 0)


class Framed(Job):
    """Code of cnp, which is entered with a frame."""

    def framed(self, frame: runtime.Frame, enter: int, address: int) -> tuple[Run, Read]:
        """A function of the vocabulary, by its way in."""
        library, call = frame.library, self.native.library.bench_enter
        frame.set_context(layout.pack_context(library))
        frame.set_header(layout.pack_header(library, layout.pack_state(library, {}), 0, frame.context))
        for number, value in enumerate(first_slots()):
            frame[8 * number] = value
        return lambda times: call(enter, frame.address, address, times), lambda: frame.read(0, FRAME)


class Batch(Framed):
    """The core in C takes the records at once and writes to memory that it has written before."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.library = runtime.load("ops").library
        self.batch, self.direct = (
            emit.Batch(self.library),
            Direct(self.library, SIGNATURE, FRAME, {}, FUNCTION),
        )
        numbers = [self.library[name].index for name in OPERATIONS]
        operations = (ctypes.c_uint16 * len(numbers))(*numbers)
        self.records = Buffer(emit.RECORD.size * program.count)
        program.native.library.bench_records(
            program.records.address, program.count, operations, self.records.address
        )
        self.view, self.out, self.data = self.records.view(), bytearray(), bytearray()

    def plan(self) -> tuple[int, int]:
        """The program, checked; bytes of code and data at most."""
        return self.batch.assemble(FRAME, self.view)

    def write(self, base: int, bound: int) -> memoryview:
        """The code for an address."""
        if len(self.out) < bound:
            self.out = bytearray(bound)
        size = self.batch.settle(base, 0, {})
        self.batch.write(self.out, self.data)
        return memoryview(self.out)[:size]

    @contextmanager
    def block(self) -> Iterator[Block]:
        """The code in executable memory."""
        bound, data = self.plan()
        block = code_memory(self.library.target).allocate(bound, data)
        try:
            self.batch.place(block, {})
            yield block
        finally:
            block.free()

    def emit(self, times: int) -> None:
        for _ in range(times):
            bound, _ = self.plan()
            self.write(BASE, bound)

    def length(self) -> int:
        return self.batch.offsets()[-1]

    def to_callable(self) -> Callable[[int], int]:
        """A function of slot 0 that is built from the buffer of records; its memory is given back with it."""
        return self.direct(self.view)

    def first_call(self) -> float:
        begun = time.thread_time_ns()
        self.to_callable()(0)
        return time.thread_time_ns() - begun

    @contextmanager
    def entered(self) -> Iterator[tuple[Run, Read]]:
        frame = runtime.Frame(self.library, FRAME)
        with self.block() as block:
            enter = self.batch.routine_address(ENTER)
            yield self.framed(frame, enter, block.code_address + self.batch.offsets()[0])


class BatchCold(Batch):
    """The same into executable memory of cnp's arenas, which is given back."""

    def emit(self, times: int) -> None:
        for _ in range(times):
            with self.block():
                pass


class OneByOne(Framed):
    """The operations of an assembler, each called from Python with operands that are there already."""

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.calls = calls(unpack(program.records.view()))
        self.vocabulary = runtime.load("ops")
        self.assembler = self.vocabulary.assembler()
        self.image: patch.Image | None = None

    def assembled(self) -> runtime.Assembler:
        """The workload in an assembler that there is already."""
        self.assembler.reset()
        append(self.assembler, self.calls)
        return self.assembler

    def encoded(self) -> patch.Image:
        """The code for an address."""
        return encode.encode(self.assembled().close(), BASE)

    def emit(self, times: int) -> None:
        for _ in range(times):
            self.image = self.encoded()

    def length(self) -> int:
        assert self.image is not None
        return own_bytes(self.image)

    def first_call(self) -> float:
        begun = time.thread_time_ns()
        self.assembled().build()[FUNCTION].callable(SIGNATURE)(0)
        return time.thread_time_ns() - begun

    @contextmanager
    def entered(self) -> Iterator[tuple[Run, Read]]:
        code = self.assembled().build()
        yield self.framed(self.vocabulary.frame(FRAME), code.image.enter, code[FUNCTION].address)


class PurePython(OneByOne):
    """cnp without its core: chosen, laid out and patched in Python."""

    def assembled(self) -> runtime.Assembler:
        self.assembler.reset()
        self.assembler.program.ops.listed()  # no records
        append(self.assembler, self.calls)
        return self.assembler

    def encoded(self) -> patch.Image:
        return patch.encode(self.assembled().close(), BASE)


# ---- others


def text(program: list[Record]) -> str:
    """The workload as assembly. Labels stand where jumps go.

    It is AT&T's, which keystone reads fastest, for it says how large an operand is; numbers without 0x are hexadecimal there.
    """
    goals = {record.d for record in program if record.op in (Kind.CBR, Kind.JMP)}
    names = {Kind.ADD: "addq", Kind.SUB: "subq", Kind.MUL: "imulq"}
    slots = [f"{8 * number:#x}(%rdi)" for number in range(SLOTS)]
    lines = []
    for position, (op, d, a, b, imm) in enumerate(program):
        if position in goals:
            lines.append(f"l{position}:")
        if op == Kind.LOADI:
            lines += [f"movabsq ${imm:#x}, %rax", f"movq %rax, {slots[d]}"]
        elif op <= Kind.MUL:
            lines += [
                f"movq {slots[a]}, %rax",
                f"{names[Kind(op)]} {slots[b]}, %rax",
                f"movq %rax, {slots[d]}",
            ]
        elif op == Kind.CBR:
            lines += [f"movq {slots[a]}, %rax", f"cmpq {slots[b]}, %rax", f"jl l{d}"]
        else:
            lines.append(f"jmp l{d}" if op == Kind.JMP else "ret")
    return "\n".join(lines)


class Keystone(Job):
    """keystone-engine: text to bytes."""

    def __init__(self, program: Program) -> None:
        import keystone

        super().__init__(program)
        self.text = text(unpack(program.records.view()))
        self.assembler = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
        self.assembler.syntax = keystone.KS_OPT_SYNTAX_ATT
        self.made = b""

    def emit(self, times: int) -> None:
        for _ in range(times):
            made, _ = self.assembler.asm(self.text, as_bytes=True)
            self.made, self.size = made, len(made)

    def code(self) -> bytes:
        return self.made


def ir(program: list[Record]) -> str:
    """The workload as LLVM's IR: a block an operation."""
    names = {Kind.ADD: "add", Kind.SUB: "sub", Kind.MUL: "mul"}
    lines = [f"define void @{FUNCTION}(ptr %s) {{", "br label %l0"]
    for i, (op, d, a, b, imm) in enumerate(program):
        lines.append(f"l{i}:")
        read = [f"%p{i}.{n} = getelementptr i64, ptr %s, i64 {v}\n%v{i}.{n} = load i64, ptr %p{i}.{n}" for n, v in (("a", a), ("b", b))]  # fmt: skip
        write = f"%p{i}.d = getelementptr i64, ptr %s, i64 {d}"
        if op == Kind.LOADI:
            lines += [write, f"store i64 {imm}, ptr %p{i}.d", f"br label %l{i + 1}"]
        elif op <= Kind.MUL:
            value = f"%r{i} = {names[Kind(op)]} i64 %v{i}.a, %v{i}.b"
            lines += [*read, value, write, f"store i64 %r{i}, ptr %p{i}.d", f"br label %l{i + 1}"]
        elif op == Kind.CBR:
            lines += [*read, f"%c{i} = icmp slt i64 %v{i}.a, %v{i}.b", f"br i1 %c{i}, label %l{d}, label %l{i + 1}"]  # fmt: skip
        else:
            lines.append(f"br label %l{d}" if op == Kind.JMP else "ret void")
    return "\n".join([*lines, "}"])


class Llvm(Job):
    """llvmlite: IR, parsed before, through LLVM's passes and code generator to an object."""

    def __init__(self, program: Program, level: int) -> None:
        from llvmlite import binding as llvm

        super().__init__(program)
        self.llvm, self.level = llvm, level
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        host = llvm.Target.from_default_triple()
        self.machine = partial(host.create_target_machine, opt=level, reloc="pic", codemodel="small")
        self.generator = self.machine()
        self.modules = [llvm.parse_assembly(ir(unpack(program.records.view())))]

    def emit(self, times: int) -> None:
        for _ in range(times):
            module = self.modules[0].clone() if self.level else self.modules[0]
            if self.level:
                options = self.llvm.create_pipeline_tuning_options(speed_level=self.level)
                passes = self.llvm.create_pass_builder(self.generator, options)
                passes.getModulePassManager().run(module, passes)
            self.made = self.generator.emit_object(module)
        self.size = text_size(self.made)

    @contextmanager
    def placed(self) -> Iterator[int]:
        engine = self.llvm.create_mcjit_compiler(self.llvm.parse_assembly(""), self.machine())
        engine.add_object_file(self.llvm.ObjectFileRef.from_data(self.made))
        engine.finalize_object()
        yield int(engine.get_function_address(FUNCTION))


def text_size(made: bytes) -> int:
    """bytes of .text in an object."""
    from elftools.elf.elffile import ELFFile

    section = ELFFile(io.BytesIO(made)).get_section_by_name(".text")
    return int(section["sh_size"]) if section else 0


def llvm_tool(level: int) -> Tool:
    return Tool(f"llvmlite -O{level}", version("llvmlite"), lambda program: Llvm(program, level))


# ---- which there are


def all_tools() -> list[Tool]:
    """The tools that are installed here. The first three always are: the others are compared with them."""
    ours = cnp.__version__
    found = [
        Tool(WARM, "", Copy, executes=False),
        Tool(COLD, "", CopyCold, executes=False),
        Tool(HAND, ours, Hand),
        Tool(BATCH, ours, Batch),
        Tool("cnp batch cold", ours, BatchCold),
        Tool("cnp one by one", ours, OneByOne),
        Tool("cnp pure Python", ours, PurePython),
    ]
    if importlib.util.find_spec("keystone"):
        found.append(Tool("keystone", version("keystone-engine"), Keystone))
    if importlib.util.find_spec("llvmlite"):
        found += [llvm_tool(0), llvm_tool(2)]
    return found
