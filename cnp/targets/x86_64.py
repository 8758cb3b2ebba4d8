"""x86-64, System V ABI (https://gitlab.com/x86-psABIs/x86-64-ABI).

What is odd about it
* Instructions have any length, and a 32-bit field is signed in one instruction and unsigned in the next: the two
  absolute 32-bit relocations differ in nothing else. An operand that occurs in both may only be what both hold.
* Branches have two lengths: two bytes reach 127 bytes, five or six reach 2 GiB, so that only imports need veneers. For
  a symbol outside of the section the assembler always takes the long one: short ones are written as bytes.
* `preserve_none` hands over twelve integer registers, r12 r13 r14 r15 rdi rsi rdx rcx r8 r9 r11 rax, and keeps
  none of them for the caller. rax is left free: a stencil that jumps through a table needs one register.
* r8 to r15 cost a byte more wherever 32 bits are meant. So r12 and rbx, and r13 and rbp, change their names in all of
  clang's text (`clean`), which is as good to everybody: C keeps all four for its caller. The frame pointer is the fourth,
  r15, which costs nothing as a base: a slot of 64 bits needs the prefix anyway.
* A hole is a weak symbol: its address may be null, equal to another's and unaligned, so that no test of it folds,
  and it still folds into displacements. Immediates go through an instruction in asm, which takes every value.

Base line x86-64-v2 (2009): it has popcnt and the SSE4.1 roundings, which are library calls without it. Feature v3
(x86-64-v3, 2013) has instructions with three operands, in prefixes of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from cnp.errors import BuildError
from cnp.stencil import Block, Hole, What
from cnp.target import Feature, Field, Formula, Piece, Syntax, Target

ABSOLUTE, RELATIVE, NEGATED = Formula.ABSOLUTE, Formula.RELATIVE, Formula.NEGATED

FIELDS = {
    "abs64": Field(8, ABSOLUTE, ((0, 64, 0),)),
    "abs32": Field(4, ABSOLUTE, ((0, 32, 0),), 0, (1 << 32) - 1),
    "abs32s": Field(4, ABSOLUTE, ((0, 32, 0),), -(1 << 31), (1 << 31) - 1),
    "abs16": Field(2, ABSOLUTE, ((0, 16, 0),), -(1 << 15), (1 << 16) - 1),
    "abs8": Field(1, ABSOLUTE, ((0, 8, 0),), -(1 << 7), (1 << 8) - 1),
    "pc32": Field(4, RELATIVE, ((0, 32, 0),), -(1 << 31), (1 << 31) - 1),
    "jump32": Field(4, RELATIVE, ((0, 32, 0),), -(1 << 31), (1 << 31) - 1, jump=True),
    "jump8": Field(1, RELATIVE, ((0, 8, 0),), -(1 << 7), (1 << 7) - 1, jump=True),
}

# The number of a register: three bits of a byte and a fourth one of the REX prefix, if there is a prefix.
#
#     REX 0100_W_R_X_B   [0F [38 | 3A]]   opcode 00000_bbb   ModRM 00_rrr_bbb   SIB 00_xxx_bbb
#
# B belongs to SIB.base where there is a SIB, else to ModRM.rm, else to the opcode. A row is named by its bit of the
# prefix, where its unit begins, and the bytes from there to the byte with the three bits.
REX_B = {f"rex_b{at}": Field(at + 1, ABSOLUTE, ((0, 3, 8 * at), (3, 1, 0)), 0, 15) for at in (1, 2, 3, 4, 5)}
REX_R = {f"rex_r{at}": Field(at + 1, ABSOLUTE, ((0, 3, 8 * at + 3), (3, 1, 2)), 0, 15) for at in (2, 3, 4)}
REX_X = {f"rex_x{at}": Field(at + 1, ABSOLUTE, ((0, 3, 8 * at + 3), (3, 1, 1)), 0, 15) for at in (3, 4, 5)}
NO_REX = {
    "low3": Field(1, ABSOLUTE, ((0, 3, 0),), 0, 7),  # opcode, ModRM.rm, SIB.base                 0b00_000_111
    "mid3": Field(1, ABSOLUTE, ((0, 3, 3),), 0, 7),  # ModRM.reg, SIB.index                       0b00_111_000
}
NUMBERS = {
    "scale": Field(1, ABSOLUTE, ((0, 2, 6),), 0, 3),  # of the index, as a shift                  0b11_000_000
    "imm8": Field(1, ABSOLUTE, ((0, 8, 0),), -(1 << 7), (1 << 7) - 1),  # also a displacement
    "imm8_neg": Field(1, NEGATED, ((0, 8, 0),), -(1 << 7), (1 << 7) - 1),  # sub for add, rol for ror
}
# Three operands, in prefixes whose register bits are inverted: so is the highest bit of a number to which 8 is added.
#
#     VEX C4   RXB_mmmmm   W_vvvv_L_pp   opcode   ModRM 00_rrr_bbb         or C5 R_vvvv_L_pp where X, B and W are 0
#
# Units begin with the byte of RXB, which holds a map (1 … 3); vvvv is a register as it stands, all bits inverted.
VEX = {
    "vex_b": Field(4, ABSOLUTE, ((0, 3, 24), (3, 1, 5)), 0, 15, carry=8),
    "vex_r": Field(4, ABSOLUTE, ((0, 3, 27), (3, 1, 7)), 0, 15, carry=8),
    "vex_v": Field(2, NEGATED, ((0, 4, 11),), -15, 0, carry=15),  # 0b0_1111_0_00_00000000
    "vex_v2": Field(1, NEGATED, ((0, 4, 3),), -15, 0, carry=15),  # 0b0_1111_0_00
}
FIELDS |= VEX
FIELDS |= REX_B | REX_R | REX_X | NO_REX | NUMBERS

#: Rows whose value is the number of a register, and rows that hold a short immediate or offset (see `Target`), narrow
#: ones first: a wide row also writes what a narrow field holds, and takes more.
REGISTER_FIELDS = (*NO_REX, *REX_B, *REX_R, *REX_X, *VEX)
NUMBER_FIELDS = (*NUMBERS, "abs32s")

RELOCATIONS = {
    1: (Piece("abs64"),),  # R_X86_64_64
    2: (Piece("pc32"),),  # R_X86_64_PC32
    4: (Piece("jump32"),),  # R_X86_64_PLT32
    10: (Piece("abs32"),),  # R_X86_64_32
    11: (Piece("abs32s"),),  # R_X86_64_32S
    12: (Piece("abs16"),),  # R_X86_64_16
    14: (Piece("abs8"),),  # R_X86_64_8
    15: (Piece("jump8"),),  # R_X86_64_PC8
}

PRELUDE = r"""
#define CNP_HOLE_DECLARE(i) \
    extern __attribute__((weak, visibility("hidden"))) char cnp_hole_##i[] __asm__("cnp." #i); \
    extern __attribute__((visibility("hidden"))) const f64 cnp_f64_##i __asm__("cnp." #i ".lit"); \
    extern __attribute__((visibility("hidden"))) const f32 cnp_f32_##i __asm__("cnp." #i ".lit");
#define CNP_FLOAT64(i) cnp_f64_##i
#define CNP_FLOAT32(i) cnp_f32_##i
#define CNP_IMM64(i)  ({ u64 cnp_v; __asm__("movabsq $cnp." #i ", %0" : "=r"(cnp_v)); cnp_v; })
#define CNP_IMM32S(i) ({ i64 cnp_v; __asm__("movq $cnp." #i ", %0" : "=r"(cnp_v)); cnp_v; })
#define CNP_IMM32U(i) ({ u64 cnp_v; __asm__("movl $cnp." #i ", %k0" : "=r"(cnp_v)); \
    __builtin_assume(cnp_v >> 32 == 0); (u32)cnp_v; })
#define CNP_ADDRESS(i) CNP_IMM64(i)
#define CNP_FOLD(i)   ((i64)cnp_hole_##i)
#define CNP_SLOT(i)   (cnp_frame + (i64)cnp_hole_##i)
#define CNP_LESS(a, b) ({ u64 cnp_v = (a); __asm__("subq %1, %0" : "+r"(cnp_v) : "ri"(b)); cnp_v; })
"""

#: Registers that change places in clang's text: both of a pair are kept by functions of the C ABI.
EXCHANGED = (("bx", "12"), ("bp", "13"))

#: Names of the parts of each register: 64, 32, 16 and 8 bits.
PARTS = [
    (f"r{n}", f"e{n}", n, f"{n[0]}l" if n[1] == "x" else f"{n}l")
    for n in ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"]
]
PARTS += [(f"r{n}", f"r{n}d", f"r{n}w", f"r{n}b") for n in range(8, 16)]
NUMBERED = {name: (number, part) for number, names in enumerate(PARTS) for part, name in enumerate(names)}
HIGH = {"ah": 0, "ch": 1, "dh": 2, "bh": 3}  #: bytes that only these registers have
NAME = re.compile(r"%(\w+)")
NUMBER = {names[0]: number for number, names in enumerate(PARTS)}
OTHERS = {
    name: other
    for pair in EXCHANGED
    for a, b in (pair, pair[::-1])
    for name, other in zip(PARTS[NUMBER[f"r{a}"]], PARTS[NUMBER[f"r{b}"]], strict=True)
}

OPPOSITE = "o/no b/ae e/ne be/a s/ns p/np l/ge le/g"
INVERSE = {
    f"j{a}": f"j{b}" for pair in OPPOSITE.split() for a, b in (pair.split("/"), reversed(pair.split("/")))
}
SHORT = "\t.byte\t{:#x}\n\t.byte\t{{}}-.-1"  # opcode; distance from the byte behind
SHORT_BRANCH = {  # jcc rel8, the conditions in the order of their numbers                         0b0111_1111
    f"j{condition}": SHORT.format(0x70 + number)
    for number, condition in enumerate(OPPOSITE.replace("/", " ").split())
}


def clean(line: str) -> str | None:
    """clang's text with registers exchanged. BuildError: bits 8 to 15 of rbx, which no other register has a name for."""
    return NAME.sub(exchanged, line) if "%" in line else line


def exchanged(found: re.Match[str]) -> str:
    """The other register of a pair, the same part of it."""
    if found[1] == "bh":
        raise BuildError("clang uses %bh, and r12 has no such part", target="x86_64", register="bh")
    return f"%{OTHERS.get(found[1], found[1])}"


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


COUNTED = re.compile(r"(sh|sa|ro|rc)[lr]d?[bwlq]?$")  #: their count is in cl
#: Instructions that use rdx besides what they name.
IMPLICIT = re.compile(r"(i?div|mulx?|cqto|cltd|cqo|cdq)[bwlq]?$")


def uses(mnemonic: str, arguments: str) -> frozenset[tuple[str, int]]:
    """The registers that an instruction names or changes: ("r" or "f", number)."""
    found = set()
    for name in NAME.findall(arguments):
        if name in NUMBERED or name in HIGH:
            found.add(("r", HIGH[name] if name in HIGH else NUMBERED[name][0]))
        elif name.startswith("xmm"):
            found.add(("f", int(name[3:])))
    if is_implicit(mnemonic, arguments):
        found.add(("r", NUMBERED["rdx"][0]))
    return frozenset(found)


def is_implicit(mnemonic: str, arguments: str) -> bool:
    """Whether an instruction uses rdx without naming it."""
    return bool(IMPLICIT.match(mnemonic) or (mnemonic.startswith("imul") and "," not in arguments))


def rename(line: str, registers: Mapping[tuple[str, int], int]) -> str | None:
    """The line with other registers: (bank, number) -> number."""

    def other(found: re.Match[str]) -> str:
        name = found[1]
        if name.startswith("xmm"):
            return f"%xmm{registers.get(('f', int(name[3:])), name[3:])}"
        number, part = NUMBERED.get(name, (-1, 0))
        return f"%{PARTS[registers[('r', number)]][part]}" if ("r", number) in registers else found[0]

    mnemonic, _, arguments = line.strip().partition("\t")
    bound = [("r", number) for name, number in HIGH.items() if f"%{name}" in line]
    bound += [("r", NUMBERED["rcx"][0])] if COUNTED.match(mnemonic) and arguments.startswith("%cl") else []
    bound += [("r", NUMBERED["rdx"][0])] if is_implicit(mnemonic, arguments) else []
    bound += [("f", 0)] if "blendv" in mnemonic else []
    return None if any(key in registers for key in bound) else NAME.sub(other, line)


SYNTAX = Syntax(
    jump=frozenset({"jmp"}),
    inverse=INVERSE,
    ends=frozenset({"retq", "ret", "jmpq"}),
    local=".LBB",
    emit_jump="\tjmp\t{}",
    stack=stack,
    uses=uses,
    rename=rename,
    far=False,
    register="*",
    short_jump=SHORT.format(0xEB),
    short_branch=SHORT_BRANCH,
    clean=clean,
)


def shorten(block: Block, near: frozenset[int], first: frozenset[int]) -> Block | None:
    """The code with disp8 instead of disp32 for the slots `near`, and no displacement for those that are `first` in the
    frame; None if it cannot be. No jump of the code goes across them. A slot is always [r15 + disp32]:

        op  mod reg rm    disp32              op  mod reg rm    disp8           op  mod reg rm
        8b  10  ... 111   ........        ->  8b  01  ... 111   ..          or  8b  00  ... 111
    """
    code, holes, moved = bytearray(block.code), [], 0
    for hole in block.holes:
        at = hole.offset - moved
        hole = replace(hole, offset=at, place=hole.place - moved)
        if hole.what is What.OPERAND and hole.index in near | first:
            if hole.field != "abs32s" or code[at - 1] & 0xC7 != 0x87 or (hole.index in first and hole.addend):
                return None
            code[at - 1] ^= 0x80 if hole.index in first else 0xC0
            left = 0 if hole.index in first else 1
            del code[at + left : at + 4]
            moved += 4 - left
            if not left:
                continue
            hole = replace(hole, field="imm8")
        holes.append(hole)
    return block._replace(code=bytes(code), holes=tuple(holes)) if moved else None


VENEER = Block(  # jmp *0(%rip); .quad target
    bytes.fromhex("ff2500000000") + bytes(8), (Hole(6, "abs64", What.OPERAND, 0, 0, 6),)
)

NOPS = (
    "662e0f1f840000000000",  # cs nopw 0(%rax,%rax), the displacement of 4 bytes
    "660f1f840000000000",  # nopw 0(%rax,%rax)
    "0f1f840000000000",  # nopl 0(%rax,%rax)
    "0f1f8000000000",  # nopl 0(%rax)
    "660f1f440000",  # nopw 0(%rax,%rax), the displacement of one byte
    "0f1f440000",  # nopl 0(%rax,%rax)
    "0f1f4000",  # nopl 0(%rax)
    "0f1f00",  # nopl (%rax)
    "6690",  # xchg %ax, %ax
)
#: An instruction has 15 bytes at most; what is missing are prefixes that change nothing.
LONG_NOPS = tuple(bytes.fromhex(text) for text in (*("66" * n + NOPS[0] for n in range(5, 0, -1)), *NOPS))

TARGET = Target(
    name="x86_64",
    aliases=("x86-64", "amd64", "x64"),
    triple="x86_64-unknown-linux-gnu",
    machine=62,
    byteorder="little",
    cflags=(
        "-march=x86-64-v2",
        # rotations as such, not as double shifts, which are slow on half of the machines and longer; a sum of three in one lea
        "-mtune=znver3",
        "-mno-red-zone",
        "-fno-pic",
        "-mcmodel=small",
        "-DCNP_NO_FMA",
        "-DCNP_C_INTEGERS=6",
    ),
    ints=10,
    floats=8,
    frame_position=3,
    convention="__attribute__((preserve_none))",
    fastcc=False,
    prelude=PRELUDE,
    fields=FIELDS,
    relocations=RELOCATIONS,
    syntax=SYNTAX,
    veneer=VENEER,
    nop=b"\x90",
    long_nops=LONG_NOPS,
    trap=b"\xcc",
    probe=((b"\xb8\x2a\x00\x00\x00\xc3", 42), (b"\xb8\x17\x00\x00\x00\xc3", 23)),  # mov $n, %eax; ret
    island=0,
    short_slots=(-(1 << 31), (1 << 31) - 1),
    registers=((3, 5, 14, 7, 6, 2, 1, 8, 9, 11), tuple(range(8))),
    results=(0, 2),
    register_fields=REGISTER_FIELDS,
    number_fields=NUMBER_FIELDS,
    guards=dict.fromkeys(REX_B | REX_R | REX_X, (240, 64))
    | dict.fromkeys(("vex_b", "vex_r", "vex_v"), (28, 0)),
    short=((-(1 << 7), (1 << 7) - 1), (-(1 << 31), (1 << 31) - 1)),
    constants=(
        (0, (1 << 31) - 1, 1),
        (-(1 << 31), -1, 1),
    ),  # mov with 32 bits, which extends nothing; with their sign
    qemu="x86_64",
    emulated="max",
    features=(
        Feature(  # what the psABI calls x86-64-v3: shifts and roundings of three operands, lzcnt, tzcnt, fma
            "v3",
            ("-march=x86-64-v3", "-UCNP_NO_FMA"),
            words=frozenset(["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]),
        ),
    ),
    wide=False,
    shorten=shorten,
    short_field="imm8",
    # rbp is odd as a base; rdi and rsi need a prefix for their low bytes, rdx and rcx are those of divisions and shifts,
    # xmm0 that of blends
    register_classes=(((14, 8, 9, 11), (7, 6), (3,), (5,), (2,), (1,)), (tuple(range(1, 8)), (0,))),
    folds=True,
    coherent=True,
    code_align=1,
    capstone=("X86", ("64",)),
)
