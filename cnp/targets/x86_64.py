"""x86-64, System V ABI (https://gitlab.com/x86-psABIs/x86-64-ABI).

What is odd about it
* Instructions have any length, and a 32-bit field is signed in one instruction and unsigned in the next: the two
  absolute 32-bit relocations differ in nothing else. An operand that occurs in both may only be what both hold.
* Branches reach 2 GiB either way, so that no conditional exit needs a far form and only imports need veneers.
* `preserve_none` hands over twelve integer registers, r12 r13 r14 r15 rdi rsi rdx rcx r8 r9 r11 rax, and keeps
  none of them for the caller. The frame pointer is the fifth (rdi), because r12 and r13 cost a byte more when they
  are a base. rax is left free: a stencil that jumps through a table needs one register.
* A hole is a weak symbol: its address may be null, equal to another's and unaligned, so that no test of it folds,
  and it still folds into displacements. Immediates go through an instruction in asm, which takes every value.

Base line x86-64-v2 (2009): it has popcnt and the SSE4.1 roundings, which are library calls without it.
"""

from __future__ import annotations

import re

from cnp.stencil import Block, Hole, What
from cnp.target import Field, Formula, Piece, Syntax, Target

ABSOLUTE, RELATIVE = Formula.ABSOLUTE, Formula.RELATIVE

FIELDS = {
    "abs64": Field(8, ABSOLUTE, ((0, 64, 0),)),
    "abs32": Field(4, ABSOLUTE, ((0, 32, 0),), 0, (1 << 32) - 1),
    "abs32s": Field(4, ABSOLUTE, ((0, 32, 0),), -(1 << 31), (1 << 31) - 1),
    "abs16": Field(2, ABSOLUTE, ((0, 16, 0),), -(1 << 15), (1 << 16) - 1),
    "abs8": Field(1, ABSOLUTE, ((0, 8, 0),), -(1 << 7), (1 << 8) - 1),
    "pc32": Field(4, RELATIVE, ((0, 32, 0),), -(1 << 31), (1 << 31) - 1),
    "jump32": Field(4, RELATIVE, ((0, 32, 0),), -(1 << 31), (1 << 31) - 1, jump=True),
    "pc8": Field(1, RELATIVE, ((0, 8, 0),), -(1 << 7), (1 << 7) - 1),
}

RELOCATIONS = {
    1: (Piece("abs64"),),  # R_X86_64_64
    2: (Piece("pc32"),),  # R_X86_64_PC32
    4: (Piece("jump32"),),  # R_X86_64_PLT32
    10: (Piece("abs32"),),  # R_X86_64_32
    11: (Piece("abs32s"),),  # R_X86_64_32S
    12: (Piece("abs16"),),  # R_X86_64_16
    14: (Piece("abs8"),),  # R_X86_64_8
    15: (Piece("pc8"),),  # R_X86_64_PC8
}

PRELUDE = r"""
#define CNP_HOLE_DECLARE(i) extern __attribute__((weak, visibility("hidden"))) char cnp_hole_##i[] __asm__("cnp." #i);
#define CNP_IMM64(i)  ({ u64 cnp_v; __asm__("movabsq $cnp." #i ", %0" : "=r"(cnp_v)); cnp_v; })
#define CNP_IMM32S(i) ({ i64 cnp_v; __asm__("movq $cnp." #i ", %0" : "=r"(cnp_v)); cnp_v; })
#define CNP_IMM32U(i) ({ u32 cnp_v; __asm__("movl $cnp." #i ", %k0" : "=r"(cnp_v)); cnp_v; })
#define CNP_ADDRESS(i) CNP_IMM64(i)
#define CNP_FOLD(i)   ((i64)cnp_hole_##i)
#define CNP_SLOT(i)   (cnp_frame + (i64)cnp_hole_##i)
#define CNP_LESS(a, b) ({ u64 cnp_v = (a); __asm__("subq %1, %0" : "+r"(cnp_v) : "ri"(b)); cnp_v; })
"""

OPPOSITE = "o/no b/ae e/ne be/a s/ns p/np l/ge le/g"
INVERSE = {
    f"j{a}": f"j{b}" for pair in OPPOSITE.split() for a, b in (pair.split("/"), reversed(pair.split("/")))
}


def stack(mnemonic: str, arguments: str) -> int | None:
    """Bytes by which an instruction moves %rsp; None for a change that cannot be followed."""
    if mnemonic in ("push", "pushq"):
        return -8
    if mnemonic in ("pop", "popq"):
        return 8
    if not arguments.endswith("%rsp") or mnemonic.startswith(("cmp", "test")):
        return 0
    if step := re.fullmatch(r"\$(-?\d+), %rsp", arguments):
        amount = int(step[1])
        return {"addq": amount, "subq": -amount}.get(mnemonic)
    if mnemonic == "leaq" and (step := re.fullmatch(r"(-?\d+)\(%rsp\), %rsp", arguments)):
        return int(step[1])
    return None


SYNTAX = Syntax(
    jump=frozenset({"jmp"}),
    inverse=INVERSE,
    ends=frozenset({"retq", "ret", "jmpq"}),
    local=".LBB",
    emit_jump="\tjmp\t{}",
    stack=stack,
    far=False,
    register="*",
)

VENEER = Block(  # jmp *0(%rip); .quad target
    bytes.fromhex("ff2500000000") + bytes(8), (Hole(6, "abs64", What.OPERAND, 0, 0, 6),)
)

TARGET = Target(
    name="x86_64",
    aliases=("x86-64", "amd64", "x64"),
    triple="x86_64-unknown-linux-gnu",
    machine=62,
    byteorder="little",
    cflags=("-march=x86-64-v2", "-mno-red-zone", "-fno-pic", "-mcmodel=small"),
    ints=10,
    floats=8,
    frame_position=4,
    convention="__attribute__((preserve_none))",
    fastcc=False,
    prelude=PRELUDE,
    fields=FIELDS,
    relocations=RELOCATIONS,
    syntax=SYNTAX,
    jump_size=5,
    veneer=VENEER,
    nop=b"\x90",
    trap=b"\xcc",
    probe=((b"\xb8\x2a\x00\x00\x00\xc3", 42), (b"\xb8\x17\x00\x00\x00\xc3", 23)),  # mov $n, %eax; ret
    island=0,
    short_slots=(0, (1 << 31) - 1),
    qemu="x86_64",
    wide=False,
    folds=True,
    coherent=True,
    code_align=1,
    capstone=("X86", ("64",)),
)
