"""ppc64le: 64-bit Power, little-endian, ELFv2 ABI (https://openpowerfoundation.org/specifications/64bitelfabi/).

What is odd about it
* r2 holds a table of contents (TOC) through which compiled code reaches its data, and a function finds its own TOC
  from r12, its address, in two instructions at its global entry; who shares the TOC enters behind them. Generated
  code has no TOC. What clang writes for one is rewritten before it is assembled (`clean`): the entry sequence goes,
  addresses become absolute ones of 64 bits, and r2 stays free.
* A helper has a TOC and must be entered with its address in r12. Each call of one loads r12 and goes through CTR,
  so that it reaches everything, and no branch to a helper may ever be direct.
* The tail call of an external function is refused, since it could need another TOC. So each continuation is
  defined in the file that calls it; its result comes out of an asm, that nobody can know it. The definitions are
  dropped from the assembly. No tail call is indirect: a jump through a table puts its target in CTR and calls the
  continuation `cnp.table`, the branch to which becomes `bctr`.
* A conditional branch reaches 32 KiB, a jump 32 MiB. r0, r11, r12 and CTR may hold values between the blocks of
  one stencil, so that a veneer has r2 and the target address register (TAR), which compiled code does not use.
* Displacements of `ld`, `std` and `lwa` have no low two bits: those are opcode.

The state is handed over as the plain C ABI does it: r3 the frame, r4 … r10, f1 … f8; a result returns in r3 and r4.
An integer that follows a float would lose its register, so floats come last.

Base line POWER8 (2013), the first with little-endian systems, TAR, and moves between both register files. The
prefixed instructions of POWER10 would make addresses relative; they may not be assumed. Feature power9 (2017) has
remainders, trailing zeros and multiply-add.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cnp.stencil import Block, Hole, What
from cnp.target import Feature, Field, Formula, Piece, Syntax, Target

ABSOLUTE, RELATIVE, NEGATED = Formula.ABSOLUTE, Formula.RELATIVE, Formula.NEGATED

# Bits are numbered from the lowest. The unit of a 16-bit field is the instruction's lower half, which comes first.
#
#   31    26 25  21 20  16 15                       0
#  +--------+------+------+--------------------------+
#  | opcode |  RT  |  RA  | D  immediate, displacement|  D form: addi addis lwz lbz lfd …; ori oris unsigned
#  +--------+------+------+----------------------+---+
#  | opcode |  RT  |  RA  | DS  displacement >> 2 |xo |  DS form: ld std lwa
#  +--------+------+------+----------------------+---+
#  | opcode |  BO  |  BI  | BD  distance >> 2     |lk |  B form: bc
#  +--------+------+------+----------------------+---+
#  | opcode | LI  distance >> 2                  |lk |  I form: b bl
#  +--------+------+------+------+------+--------+---+
#  | opcode |  RT  |  RA  |  RB  |  RC  |   xo   |   |  A form; X and XO form without RC; XX forms alike, with the
#  +--------+------+------+------+------+------+-+-+-+  sixth bits of their registers (0 of f0 … f31) below
#  | opcode |  RS  |  RA  |  SH  |  MB  |  ME  |     |  M form: rlwinm; X form: srawi, without MB and ME
#  +--------+------+------+------+------+-+----+-+---+
#  | opcode |  RS  |  RA  | SH 4:0 | MB 4:0 |5| xo|5|  |  MD form: rldicl rldicr rldic; XS form: sradi, without MB
#  +--------+------+------+--------+--------+-+---+-+--+
D16 = ((0, 16, 0),)
DS14 = ((2, 14, 2),)
SH6 = ((0, 5, 11), (5, 1, 1))
MB6 = ((0, 5, 6), (5, 1, 5))
SIGNED16 = (-(1 << 15), (1 << 15) - 1)
SIGNED32 = (-(1 << 31), (1 << 31) - 1)

FIELDS = {
    "abs64": Field(8, ABSOLUTE, ((0, 64, 0),)),
    "abs32": Field(4, ABSOLUTE, ((0, 32, 0),), -(1 << 31), (1 << 32) - 1),
    "disp16": Field(2, ABSOLUTE, D16, *SIGNED16),
    "disp16ds": Field(2, ABSOLUTE, DS14, *SIGNED16, align=4),
    "lo": Field(2, ABSOLUTE, D16),
    "lods": Field(2, ABSOLUTE, DS14, align=4),
    "hi": Field(2, ABSOLUTE, ((16, 16, 0),), *SIGNED32),
    "high": Field(2, ABSOLUTE, ((16, 16, 0),)),
    "higher": Field(2, ABSOLUTE, ((32, 16, 0),)),
    "highest": Field(2, ABSOLUTE, ((48, 16, 0),)),
    # Halves above a signed low one, which is below zero half of the time: they make up for it in advance.
    "ha": Field(2, ABSOLUTE, ((16, 16, 0),), SIGNED32[0] - 0x8000, SIGNED32[1] - 0x8000, carry=0x8000),
    "highera": Field(2, ABSOLUTE, ((32, 16, 0),), carry=0x8000),
    "highesta": Field(2, ABSOLUTE, ((48, 16, 0),), carry=0x8000),
    "rel24": Field(4, RELATIVE, ((2, 24, 2),), -(1 << 25), (1 << 25) - 4, align=4, jump=True),
    "rel14": Field(4, RELATIVE, ((2, 14, 2),), -(1 << 15), (1 << 15) - 4, align=4, jump=True),
    # Numbers of registers, of both files
    "rt": Field(4, ABSOLUTE, ((0, 5, 21),), 0, 31),  # also RS
    "ra": Field(4, ABSOLUTE, ((0, 5, 16),), 0, 31),
    "rb": Field(4, ABSOLUTE, ((0, 5, 11),), 0, 31),
    "rc": Field(4, ABSOLUTE, ((0, 5, 6),), 0, 31),
    # Numbers: of ori, xori, andi., cmpldi; of addi for the subtraction of one
    "uimm16": Field(2, ABSOLUTE, D16, 0, 0xFFFF),
    "disp16_neg": Field(2, NEGATED, D16, *SIGNED16),
    # Numbers: of lis; of li with a shift to the left by 16, 32, 48
    "li_16": Field(2, ABSOLUTE, ((16, 16, 0),), SIGNED32[0], 0xFFFF << 16, 1 << 16),
    "li_32": Field(2, ABSOLUTE, ((32, 16, 0),), SIGNED16[0] << 32, 0xFFFF << 32, 1 << 32),
    "li_48": Field(2, ABSOLUTE, ((48, 16, 0),), align=1 << 48),
    # Shifts are rotations by a mask, whose two ends are named from the top:
    #     sldi n: SH = n, ME = 63 - n     srdi n: SH = -n modulo 64, MB = n     sradi n, rotldi n: SH = n
    #     slwi n: SH = n, ME = 31 - n     srwi n: SH = -n modulo 32, MB = n     srawi n, rotlwi n: SH = n
    "sh6": Field(4, ABSOLUTE, SH6, 0, 63),
    "sh6_neg": Field(4, NEGATED, SH6, -63, 0),
    "mb6": Field(4, ABSOLUTE, MB6, 0, 63),  # also ME
    "mb6_neg": Field(4, NEGATED, MB6, 0, 63),
    "sh5": Field(4, ABSOLUTE, ((0, 5, 11),), 0, 31),
    "sh5_neg": Field(4, NEGATED, ((0, 5, 11),), -31, 0),
    "mb5": Field(4, ABSOLUTE, ((0, 5, 6),), 0, 31),
    "mb5_neg": Field(4, NEGATED, ((0, 5, 6),), 0, 31),
    "me5": Field(4, ABSOLUTE, ((0, 5, 1),), 0, 31),
    "me5_neg": Field(4, NEGATED, ((0, 5, 1),), 0, 31),
}

#: Rows whose value is the number of a register, and rows that hold a short immediate or offset (see `Target`), narrow
#: ones first: a wide row also writes what a narrow field holds, and takes more.
REGISTER_FIELDS = ("rt", "ra", "rb", "rc")
NUMBER_FIELDS = (
    "sh5", "sh5_neg", "mb5", "mb5_neg", "me5", "me5_neg", "sh6", "sh6_neg", "mb6", "mb6_neg",
    "disp16ds", "disp16", "disp16_neg", "uimm16", "li_16", "li_32", "li_48",
)  # fmt: skip

#: See `Target.constants`.
CONSTANTS = (
    (*SIGNED16, 1), (1 << 15, 0xFFFF, 1),  # li; li 0, ori
    (-(1 << 31), 0x7FFF << 16, 1 << 16), (1 << 31, 0xFFFF << 16, 1 << 16),  # lis; li, rldic
    (-(1 << 47), 0x7FFF << 32, 1 << 32), (1 << 47, 0xFFFF << 32, 1 << 32),  # li, sldi; li, rldic
    (1 << 48, 0xFFFF << 48, 1 << 48), (-(1 << 63), -(1 << 48), 1 << 48),  # li, sldi
)  # fmt: skip

RELOCATIONS = {
    1: (Piece("abs32"),),  # R_PPC64_ADDR32
    3: (Piece("disp16"),),  # R_PPC64_ADDR16
    4: (Piece("lo"),),  # R_PPC64_ADDR16_LO
    5: (Piece("hi"),),  # R_PPC64_ADDR16_HI
    6: (Piece("ha"),),  # R_PPC64_ADDR16_HA
    10: (Piece("rel24"),),  # R_PPC64_REL24
    11: (Piece("rel14"),),  # R_PPC64_REL14
    38: (Piece("abs64"),),  # R_PPC64_ADDR64
    39: (Piece("higher"),),  # R_PPC64_ADDR16_HIGHER
    40: (Piece("highera"),),  # R_PPC64_ADDR16_HIGHERA
    41: (Piece("highest"),),  # R_PPC64_ADDR16_HIGHEST
    42: (Piece("highesta"),),  # R_PPC64_ADDR16_HIGHESTA
    56: (Piece("disp16ds"),),  # R_PPC64_ADDR16_DS
    57: (Piece("lods"),),  # R_PPC64_ADDR16_LO_DS
    110: (Piece("high"),),  # R_PPC64_ADDR16_HIGH
}

PRELUDE = r"""
#define CNP_IMM64(i) ({ u64 cnp_v;                                                                       \
    __asm__("lis %0, cnp." #i "@highest\n\tori %0, %0, cnp." #i "@higher\n\tsldi %0, %0, 32\n\t"         \
            "oris %0, %0, cnp." #i "@high\n\tori %0, %0, cnp." #i "@l" : "=r"(cnp_v)); cnp_v; })
#define CNP_IMM32S(i) ({ i64 cnp_v;                                                                      \
    __asm__("lis %0, cnp." #i "@h\n\tori %0, %0, cnp." #i "@l" : "=r"(cnp_v));                           \
    if (cnp_v != (i32)cnp_v) __builtin_unreachable(); cnp_v; })
#define CNP_IMM31_IS_SIGNED
#define CNP_SHIFTS
/* clang takes nothing for granted of the upper half of an asm's 32-bit result: lis may extend its sign */
#define CNP_IMM32U(i) ({ u32 cnp_v;                                                                      \
    __asm__("lis %0, cnp." #i "@high\n\tori %0, %0, cnp." #i "@l" : "=r"(cnp_v)); cnp_v; })
#define CNP_ADDRESS(i) CNP_IMM64(i)
#define CNP_SLOT(i) ({ char *cnp_v; __asm__("addi %0, %1, cnp." #i : "=r"(cnp_v) : "b"(cnp_frame)); cnp_v; })
#define CNP_SLOT_WIDE(i) (cnp_frame + CNP_IMM32S(i))

#define CNP_FETCH(type, code, class, i) ({ type cnp_v;                                                   \
    __asm__(code " %0, cnp." #i "(%1)" : class(cnp_v) : "b"(cnp_frame), "m"(*(const char(*)[32768])cnp_frame)); cnp_v; })
#define CNP_PUT(type, code, class, i, value)                                                             \
    __asm__ volatile(code " %0, cnp." #i "(%1)" : : class((type)(value)), "b"(cnp_frame) : "memory")
/* what the load leaves in the upper bits, so that no instruction clears them again */
#define CNP_FETCH_BELOW(type, code, bits, i) ({ u64 cnp_w = CNP_FETCH(u64, code, "=r", i);               \
    if (cnp_w >> (bits)) __builtin_unreachable(); (type)cnp_w; })
#define CNP_READ_u8(i)  CNP_FETCH_BELOW(u8, "lbz", 8, i)
#define CNP_READ_i8(i)  ((i8)CNP_FETCH(u32, "lbz", "=r", i))
#define CNP_READ_u16(i) CNP_FETCH_BELOW(u16, "lhz", 16, i)
#define CNP_READ_i16(i) ((i16)CNP_FETCH(u32, "lhz", "=r", i))
#define CNP_READ_u32(i) CNP_FETCH_BELOW(u32, "lwz", 32, i)
#define CNP_READ_i32(i) CNP_FETCH(i32, "lwz", "=r", i)
#define CNP_READ_u64(i) CNP_FETCH(u64, "ld", "=r", i)
#define CNP_READ_i64(i) CNP_FETCH(i64, "ld", "=r", i)
#define CNP_READ_f32(i) CNP_FETCH(f32, "lfs", "=f", i)
#define CNP_READ_f64(i) CNP_FETCH(f64, "lfd", "=d", i)
#define CNP_WRITE_u8(i, value)  CNP_PUT(u32, "stb", "r", i, value)
#define CNP_WRITE_i8(i, value)  CNP_PUT(u32, "stb", "r", i, value)
#define CNP_WRITE_u16(i, value) CNP_PUT(u32, "sth", "r", i, value)
#define CNP_WRITE_i16(i, value) CNP_PUT(u32, "sth", "r", i, value)
#define CNP_WRITE_u32(i, value) CNP_PUT(u32, "stw", "r", i, value)
#define CNP_WRITE_i32(i, value) CNP_PUT(u32, "stw", "r", i, value)
#define CNP_WRITE_u64(i, value) CNP_PUT(u64, "std", "r", i, value)
#define CNP_WRITE_i64(i, value) CNP_PUT(u64, "std", "r", i, value)
#define CNP_WRITE_f32(i, value) CNP_PUT(f32, "stfs", "f", i, value)
#define CNP_WRITE_f64(i, value) CNP_PUT(f64, "stfd", "d", i, value)

#define CNP_DECLARE_TAIL(name, text)                                                                     \
    CNP_HIDDEN cnp_word name(CNP_TAKE) __asm__(text);                                                    \
    __attribute__((noinline, optnone)) cnp_word name(CNP_TAKE) {                                         \
        cnp_word cnp_unknown;                                                                            \
        __asm__ volatile("" : "=r"(cnp_unknown.value), "=r"(cnp_unknown.frame) : : "memory");         \
        return cnp_unknown;                                                                              \
    }
#define CNP_TAIL_INDIRECT(to, ...) do { CNP_CLOSE __asm__ volatile("mtctr %0" : : "r"(to) : "ctr", "memory"); \
    __attribute__((musttail)) return cnp_to_table(__VA_ARGS__); } while (0)
#define CNP_HIDDEN __attribute__((visibility("hidden")))
CNP_DECLARE_TAIL(cnp_to_table, "cnp.table")
"""

OPPOSITE = "blt/bge bgt/ble beq/bne bso/bns bun/bnu bt/bf bdnz/bdz"
INVERSE = {
    f"{a}{hint}": f"{b}{opposite_hint}"
    for pair in OPPOSITE.split()
    for a, b in (pair.split("/"), reversed(pair.split("/")))
    for hint, opposite_hint in (("", ""), ("+", "-"), ("-", "+"))
}

#: Lines that only serve the TOC: the global entry, the save and restore of r2 around calls, the linker's nop there.
TOC_ONLY = re.compile(r" (addis? %r2, |std %r2, 24\(%r1\)|ld %?r?2, 24\(%r1\)|\.localentry |nop$)")
TOC_HIGH = re.compile(r" addis (%r\d+), %r2, (.+)@toc@ha$")
HELPER_CALL = re.compile(r" bl (?!cnp\.)([\w.$]+)$")
CONDITION = re.compile(r" bc (12|4), (.+)$")

# Of the third part @higha would say the same as @high with the carry added; lld does not know its relocation.
ADDRESS_HIGH = "\tlis {0}, {1}@highesta\n\tori {0}, {0}, {1}@highera\n\tsldi {0}, {0}, 32\n\toris {0}, {0}, {1}@high+0x8000"
CALL = (
    "\tlis %r12, {0}@highest\n\tori %r12, %r12, {0}@higher\n\tsldi %r12, %r12, 32\n"
    "\toris %r12, %r12, {0}@high\n\tori %r12, %r12, {0}@l\n\tmtctr %r12\n\tbctrl"
)


def clean(line: str) -> str | None:
    """Assembly without TOC, with jumps through CTR, and with conditions whose opposite is a mnemonic."""
    text = line.replace("\t", " ").rstrip()
    if TOC_ONLY.match(text):
        return None
    if high := TOC_HIGH.match(text):
        return ADDRESS_HIGH.format(*high.groups())
    if call := HELPER_CALL.match(text):
        return CALL.format(call[1])
    if condition := CONDITION.match(text):
        return f"\t{'bt' if condition[1] == '12' else 'bf'}\t{condition[2]}"
    return "\tbctr" if text == " b cnp.table" else line.replace("@toc@l", "@l")


def stack(mnemonic: str, arguments: str) -> int | None:
    """Bytes by which an instruction moves r1; None for a change that cannot be followed."""
    if mnemonic == "addi" and (step := re.fullmatch(r"%r1, %r1, (-?\d+)", arguments)):
        return int(step[1])
    if mnemonic == "stdu" and (step := re.fullmatch(r"%r1, (-?\d+)\(%r1\)", arguments)):
        return int(step[1])
    updated = mnemonic.endswith(("u", "ux")) and re.search(r"\(%r1\)$|, %r1, %r\d+$", arguments)
    written = arguments.startswith("%r1, ") and not mnemonic.startswith(("st", "cmp", "mt"))
    return None if updated or written else 0


NAME = re.compile(r"%(r|f|vs)(\d+)\b")


def uses(mnemonic: str, arguments: str) -> frozenset[tuple[str, int]]:
    """The registers that an instruction names: ("r" or "f", number); the first 32 vector-scalar ones are the floats."""
    found = NAME.findall(arguments)
    return frozenset(("r" if bank == "r" else "f", int(number)) for bank, number in found)


def rename(line: str, registers: Mapping[tuple[str, int], int]) -> str | None:
    """The line with other registers: (bank, number) -> number."""

    def other(found: re.Match[str]) -> str:
        bank = "r" if found[1] == "r" else "f"
        return f"%{found[1]}{registers.get((bank, int(found[2])), found[2])}"

    return NAME.sub(other, line)


SYNTAX = Syntax(
    jump=frozenset({"b"}),
    inverse=INVERSE,
    ends=frozenset({"blr", "bctr"}),
    local=".LBB",
    emit_jump="\tb\t{}",
    stack=stack,
    uses=uses,
    rename=rename,
    clean=clean,
)

VENEER = Block(
    bytes.fromhex("0000403c")  # lis   r2, target@highest
    + bytes.fromhex("00004260")  # ori   r2, r2, target@higher
    + bytes.fromhex("c6074278")  # sldi  r2, r2, 32
    + bytes.fromhex("00004264")  # oris  r2, r2, target@high
    + bytes.fromhex("00004260")  # ori   r2, r2, target@l
    + bytes.fromhex("a6cb4f7c")  # mtspr 815 (TAR), r2
    + bytes.fromhex("6004804e"),  # bctar
    (
        Hole(0, "highest", What.OPERAND, 0, 0, 0),
        Hole(4, "higher", What.OPERAND, 0, 0, 4),
        Hole(12, "high", What.OPERAND, 0, 0, 12),
        Hole(16, "lo", What.OPERAND, 0, 0, 16),
    ),
    align=4,
)

TARGET = Target(
    name="ppc64le",
    aliases=("ppc64el", "powerpc64le", "powerpc64el"),
    triple="powerpc64le-unknown-linux-gnu",
    machine=21,
    byteorder="little",
    cflags=(
        "-mcpu=pwr8",
        "-fno-pic",
        "-mcmodel=medium",
        "-DCNP_CONSTANTS_ARE_FAR",  # five instructions away
        "-DCNP_F32_IS_WIDE",  # a float register holds an f32 as the f64 of the same value
    ),
    llvm_flags=("-mllvm", "-ppc-reg-with-percent-prefix"),
    ints=7,
    floats=8,
    frame_position=0,
    convention="",
    fastcc=False,
    prelude=PRELUDE,
    fields=FIELDS,
    relocations=RELOCATIONS,
    syntax=SYNTAX,
    veneer=VENEER,
    nop=bytes.fromhex("00000060"),
    trap=bytes.fromhex("0800e07f"),
    probe=(
        (bytes.fromhex("2a006038" + "2000804e"), 42),  # li r3, 42; blr
        (bytes.fromhex("17006038" + "2000804e"), 23),
    ),
    island=24 << 20,
    short_slots=SIGNED16,
    registers=(tuple(range(4, 11)), tuple(range(1, 9))),
    results=(3, 4),
    register_fields=REGISTER_FIELDS,
    number_fields=NUMBER_FIELDS,
    short=(SIGNED16, (0, 0xFFFF)),
    constants=CONSTANTS,
    qemu="ppc64le",
    emulated="power9",
    features=(
        Feature("power9", ("-mcpu=pwr9",), hwcap=(26, 1 << 23)),  # PPC_FEATURE2_ARCH_3_00
    ),
    capstone=("PPC", ("64", "LITTLE_ENDIAN")),
)
