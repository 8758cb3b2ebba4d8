"""What unwinders and debuggers must know of each machine: where a return address lies, how code moves its stack.

Apart from the targets' own files, since no stencil depends on it. Numbers of registers are those of DWARF in the
machine's ABI; instructions are as capstone prints them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Effect(NamedTuple):
    """What an instruction does to the stack. moves: bytes by which the stack pointer changes. saves: register -> where
    its value lies then, in bytes from the new stack pointer."""

    moves: int = 0
    saves: Mapping[int, int] = {}


class Rules(NamedTuple):
    """One machine. pointer, link: the stack pointer and the column of the return address. pushed: bytes that a call puts on
    the stack, 0 where the return address is left in a register. align: of code, in bytes. flags: e_flags of an ELF file.

    effect: (mnemonic, operands) -> what it does to the stack. branch, leave, call: mnemonics that may go on elsewhere in
    the same code, that do not go on behind, that come back; each with its operands behind a space. relative: a branch's
    operand counts from its own place. delay: the instruction behind a branch, leave or call is executed with it.
    below: bytes below the stack pointer that only the function itself writes.
    """

    pointer: int
    link: int
    pushed: int
    align: int
    flags: int
    effect: Callable[[str, str], Effect]
    branch: re.Pattern[str]
    leave: re.Pattern[str]
    call: re.Pattern[str]
    relative: bool = False
    delay: bool = False
    below: int = 0


NOTHING = Effect()


def number(text: str) -> int:
    return int(text, 0)


# ---- x86-64: psABI, figure 3.36

X86 = {"rbx": 3, "rbp": 6, "r12": 12, "r13": 13, "r14": 14, "r15": 15}


def x86(mnemonic: str, operands: str) -> Effect:
    if mnemonic == "push":
        return Effect(-8, {X86[operands]: 0} if operands in X86 else {})
    if mnemonic == "pop":
        return Effect(8)
    if step := re.fullmatch(r"rsp, (-?\w+)", operands):
        return Effect({"add": 1, "sub": -1}.get(mnemonic, 0) * number(step[1]))
    if mnemonic == "lea" and (step := re.fullmatch(r"rsp, \[rsp ([+-]) (\w+)\]", operands)):
        return Effect(number(step[1] + step[2]))
    return NOTHING


# ---- AArch64: "DWARF for the Arm 64-bit Architecture", 4.1

ARM = {f"x{n}": n for n in range(19, 31)} | {f"d{n}": 64 + n for n in range(8, 16)}


def arm(mnemonic: str, operands: str) -> Effect:
    if mnemonic in ("add", "sub") and (step := re.fullmatch(r"sp, sp, #(\w+)(, lsl #12)?", operands)):
        size = number(step[1]) << (12 if step[2] else 0)
        return Effect(size if mnemonic == "add" else -size)
    if behind := re.search(r"\[sp\], #(-?\w+)$", operands):
        return Effect(number(behind[1]))
    memory = re.search(r"\[sp(?:, #(-?\w+))?\](!?)$", operands)
    if not memory:
        return NOTHING
    at, moves = number(memory[1] or "0"), 0
    if memory[2]:
        at, moves = 0, at
    registers = operands[: memory.start()].split(", ")[:-1] if mnemonic in ("str", "stp") else []
    return Effect(moves, {ARM[name]: at + 8 * i for i, name in enumerate(registers) if name in ARM})


# ---- RISC-V: "RISC-V DWARF Specification", register numbers

RISCV = {"ra": 1, "s0": 8, "s1": 9} | {f"s{n}": 16 + n for n in range(2, 12)}
RISCV |= {"fs0": 40, "fs1": 41} | {f"fs{n}": 48 + n for n in range(2, 12)}


def riscv(mnemonic: str, operands: str) -> Effect:
    if mnemonic in ("addi", "c.addi", "c.addi16sp") and (
        step := re.fullmatch(r"sp, (?:sp, )?(-?\w+)", operands)
    ):
        return Effect(number(step[1]))
    save = re.fullmatch(r"(\w+), (-?\w+)\(sp\)", operands)
    if save and save[1] in RISCV and mnemonic in ("sd", "c.sdsp", "fsd", "c.fsdsp"):
        return Effect(0, {RISCV[save[1]]: number(save[2])})
    return NOTHING


# ---- Power: ELFv2 ABI 2.4; a return address goes to the stack by way of r0

POWER = {"r0": 65} | {f"r{n}": n for n in range(14, 32)} | {f"f{n}": 32 + n for n in range(14, 32)}


def power(mnemonic: str, operands: str) -> Effect:
    if mnemonic == "stdu" and (step := re.fullmatch(r"r1, (-?\w+)\(r1\)", operands)):
        return Effect(number(step[1]))
    if mnemonic == "addi" and (step := re.fullmatch(r"r1, r1, (-?\w+)", operands)):
        return Effect(number(step[1]))
    save = re.fullmatch(r"(\w+), (-?\w+)\(r1\)", operands)
    if save and save[1] in POWER and mnemonic in ("std", "stfd"):
        return Effect(0, {POWER[save[1]]: number(save[2])})
    return NOTHING


# ---- MIPS, n64

MIPS = {"$ra": 31, "$fp": 30, "$gp": 28} | {f"$s{n}": 16 + n for n in range(8)}
MIPS |= {f"$f{n}": 32 + n for n in range(24, 32)}


def mips(mnemonic: str, operands: str) -> Effect:
    if mnemonic == "daddiu" and (step := re.fullmatch(r"\$sp, \$sp, (-?\w+)", operands)):
        return Effect(number(step[1]))
    save = re.fullmatch(r"(\$\w+), (-?\w+)?\(\$sp\)", operands)
    if save and save[1] in MIPS and mnemonic in ("sd", "sdc1"):
        return Effect(0, {MIPS[save[1]]: number(save[2] or "0")})
    return NOTHING


N64 = (
    0x80000007  #: EF_MIPS_ARCH_64R2, with position-independent calls and no reordering left to the assembler
)
BIG = Rules(
    29, 31, 0, 4, N64, mips,
    branch=re.compile(r"(b\w*|j) "), leave=re.compile(r"(b|j|jr) |break|jr"),
    call=re.compile(r"(jal|jalr|bal) "), delay=True,
)  # fmt: skip

RULES = {
    "x86_64": Rules(
        7, 16, 8, 1, 0, x86,
        branch=re.compile(r"j\w+ "), leave=re.compile(r"jmp |ret|ud2"), call=re.compile(r"call "),
    ),
    "aarch64": Rules(
        31, 30, 0, 4, 0, arm,
        branch=re.compile(r"(b|b\.\w+|cbn?z|tbn?z) "), leave=re.compile(r"(b|br) |ret|brk|udf"),
        call=re.compile(r"blr? "),
    ),
    "riscv64": Rules(
        2, 1, 0, 2, 5, riscv,
        branch=re.compile(r"(c\.)?(b\w+|j) "), leave=re.compile(r"((c\.)?(j|jr)|jalr zero,) |ret|(c\.)?(ebreak|unimp)"),
        call=re.compile(r"(c\.)?jalr? (?!zero)"), relative=True,
    ),
    "ppc64le": Rules(
        1, 65, 0, 4, 2, power,
        branch=re.compile(r"(?!bl)b\w*[-+]? |b(lt|le|lel)[-+]? "), leave=re.compile(r"b |blr|bctr( |$)|trap"),
        call=re.compile(r"bl |bctrl"), below=288,
    ),
    "mips64": BIG,
    "mips64el": BIG,
}  # fmt: skip
