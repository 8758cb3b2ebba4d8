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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import cnp
from cnp import patch, runtime, targets
from cnp.assembler import Assembler
from cnp.bench.native import Buffer, Program, Slots
from cnp.bench.workload import SLOTS, Kind, Record, first_slots, unpack
from cnp.errors import CnpError
from cnp.link import code_memory
from cnp.operands import slot

WARM, COLD, HAND = "memcpy warm", "memcpy cold", "hand-written"  #: what others are compared with
FRAME = 8 * SLOTS
FUNCTION = "workload"
BASE = 0x10000  #: where code lies that nobody executes


class Job:
    """One tool on one program. size: bytes of code after `emit`."""

    size = 0

    def emit(self, times: int) -> None:
        """Make the code, so many times."""
        raise NotImplementedError

    def timed(self, times: int) -> float:
        """The same; nanoseconds of this thread's processor time for once."""
        begun = time.thread_time_ns()
        self.emit(times)
        return (time.thread_time_ns() - begun) / times

    def code(self) -> bytes:
        """What was made, as a function of the address of the slots that can lie anywhere."""
        raise NotImplementedError

    def execute(self) -> bytes:
        """The slots after the code."""
        slots = Slots(*first_slots())
        with executable(self.code()) as address:
            call(address, slots)
        return bytes(slots)

    def close(self) -> None:
        """Give memory back."""


@dataclass(frozen=True, slots=True)
class Tool:
    """prepare: a job for a program. executes: it makes code of its own, which is checked."""

    name: str
    version: str
    prepare: Callable[[Program], Job]
    executes: bool = True


@contextmanager
def executable(code: bytes) -> Iterator[int]:
    """The address of code in executable memory, as long as the context lasts."""
    block = code_memory(targets.get("host")).allocate(len(code))
    try:
        block.write(code)
        yield block.code_address
    finally:
        block.free()


def call(address: int, slots: ctypes.Array[ctypes.c_uint64]) -> None:
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(slots))


# ---- memcpy, and by hand


class Copy(Job):
    """memcpy of the hand-written assembler's code."""

    def __init__(self, program: Program) -> None:
        self.native, code = program.native, program.hand
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
        self.program, self.out = program, Buffer(32 * program.count)

    def emit(self, times: int) -> None:
        self.size = self.program.native.assemble(self.program, self.out, times)

    def code(self) -> bytes:
        return self.out.bytes(self.size)

    def close(self) -> None:
        self.program.native.close()


# ---- cnp


def append(asm: Assembler, program: list[Record]) -> None:
    """The workload as portable operations, one after the other."""
    asm.function(FUNCTION, frame=FRAME)
    arithmetic = {Kind.ADD: asm.i64_add, Kind.SUB: asm.i64_sub, Kind.MUL: asm.i64_mul}
    slots = [slot(8 * number) for number in range(SLOTS)]
    for op, d, a, b, imm in program:
        if op == Kind.LOADI:
            asm.i64_move(slots[d], imm)
        elif op <= Kind.MUL:
            arithmetic[Kind(op)](slots[d], slots[a], slots[b])
        elif op == Kind.CBR:
            asm.br_i64_lt_s(slots[a], slots[b], d)
        elif op == Kind.JMP:
            asm.jump(d)
        else:
            asm.ret(slots[0])


def own_bytes(image: patch.Image) -> int:
    """Bytes of the operations, without what an image has once: routines, veneers."""
    return sum(end - start for start, end, op in image.ranges if op >= 0)


class PurePython(Job):
    """cnp without its core: chosen, laid out and patched in Python."""

    def __init__(self, program: Program) -> None:
        self.records = unpack(program.records.view())
        self.vocabulary = runtime.load("ops")

    def emit(self, times: int) -> None:
        for _ in range(times):
            asm = self.vocabulary.assembler()
            append(asm, self.records)
            self.size = own_bytes(patch.encode(asm.close(), BASE))

    def execute(self) -> bytes:
        asm = self.vocabulary.assembler()
        append(asm, self.records)
        frame = self.vocabulary.frame(FRAME)
        for number, value in enumerate(first_slots()):
            frame[8 * number] = value
        asm.build()[FUNCTION].run(frame=frame)
        return frame.read(0, FRAME)


# ---- others


def text(program: list[Record]) -> str:
    """The workload as assembly, in the syntax of Intel. Labels stand where jumps go."""
    goals = {record.d for record in program if record.op in (Kind.CBR, Kind.JMP)}
    names = {Kind.ADD: "add", Kind.SUB: "sub", Kind.MUL: "imul"}
    lines = []
    for position, (op, d, a, b, imm) in enumerate(program):
        if position in goals:
            lines.append(f"l{position}:")
        if op == Kind.LOADI:
            lines += [f"movabs rax, {imm:#x}", f"mov [rdi+{8 * d}], rax"]
        elif op <= Kind.MUL:
            lines += [f"mov rax, [rdi+{8 * a}]", f"{names[Kind(op)]} rax, [rdi+{8 * b}]", f"mov [rdi+{8 * d}], rax"]  # fmt: skip
        elif op == Kind.CBR:
            lines += [f"mov rax, [rdi+{8 * a}]", f"cmp rax, [rdi+{8 * b}]", f"jl l{d}"]
        else:
            lines.append(f"jmp l{d}" if op == Kind.JMP else "ret")
    return "\n".join(lines)


class Keystone(Job):
    """keystone-engine: text to bytes."""

    def __init__(self, program: Program) -> None:
        import keystone

        self.text = text(unpack(program.records.view()))
        self.assembler = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)
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

        self.llvm, self.level = llvm, level
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        host = llvm.Target.from_default_triple()
        self.machine = host.create_target_machine(opt=level, reloc="pic", codemodel="small")
        self.modules = [llvm.parse_assembly(ir(unpack(program.records.view())))]

    def emit(self, times: int) -> None:
        for _ in range(times):
            module = self.modules[0].clone() if self.level else self.modules[0]
            if self.level:
                options = self.llvm.create_pipeline_tuning_options(speed_level=self.level)
                passes = self.llvm.create_pass_builder(self.machine, options)
                passes.getModulePassManager().run(module, passes)
            self.made = self.machine.emit_object(module)
        self.size = text_size(self.made)

    def execute(self) -> bytes:
        slots = Slots(*first_slots())
        engine = self.llvm.create_mcjit_compiler(self.llvm.parse_assembly(""), self.machine)
        engine.add_object_file(self.llvm.ObjectFileRef.from_data(self.made))
        engine.finalize_object()
        call(engine.get_function_address(FUNCTION), slots)
        return bytes(slots)


def text_size(made: bytes) -> int:
    """Bytes of .text in an object."""
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
        Tool("cnp pure Python", ours, PurePython),
    ]
    if importlib.util.find_spec("keystone"):
        found.append(Tool("keystone", version("keystone-engine"), Keystone))
    if importlib.util.find_spec("llvmlite"):
        found += [llvm_tool(0), llvm_tool(2)]
    return found
