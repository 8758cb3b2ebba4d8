"""AArch64, AAPCS64 (https://github.com/ARM-software/abi-aa, aapcs64.rst; relocations: aaelf64.rst there).

What is odd about it
* Every instruction has 32 bits, so that no immediate is as wide as an address. Addresses come in two halves:
  `adrp` makes the page, relative to the page of the place (4 GiB either way), and the instruction that uses
  it adds the low 12 bits. That half needs no check beside its `adrp`; as the whole offset of a slot it does
  (`imm12`).
* Loads and stores scale their offset by the size of the access: the same 12 bits of a value go to another
  place in the word for each size, and the value must be a multiple of it. The field could hold larger offsets
  (32760 for 8 bytes), its relocation cannot: it stands for the low 12 bits of an address, and linkers cut off
  the rest.
* Branches reach 128 MiB (b, bl), 1 MiB (b.cond, cbz) or 32 KiB (tbz): long conditional exits go around a `b`.
* Veneers change x16 (and x17), so that nothing lives there across a call or jump. x18 is the platform's, x8
  carries the address of a returned struct, x30 the return address.

    stencil (preserve_none)                              helper (AAPCS64)
    x20         frame pointer                            x0-x7, v0-v7    arguments; results in x0, x1, v0
    x21-x28     state words 0-7: helpers keep them       x19-x28, x29    kept, and the low halves of v8-v15
    x0-x7       state words 8-15                         the rest        changed
    v0-v7       state floats 0-7
    x8-x17 x19  free within a stencil                    result of a stencil: x0 value, x1 frame

The convention would hand over seven more words (x10-x14, x9, x15). They are left to the stencils: a native
call spills the state to the stack and needs registers of its own. Words of 8 or 16 bits are handed over in
x0-x7 only; beyond eight of them they are on the stack.

A hole is an instruction in asm: a weak symbol would be loaded from a GOT, and any other symbol has an address
that the compiler knows to be neither null nor odd. 64-bit values come from the image's literal pool: 8 bytes
of code, where a chain of movz and movk takes 16.

Base line Armv8.0-A: no atomics of 8.1, nor the library calls that choose between both at run time. Feature lse has them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cnp.stencil import Block, Hole, What
from cnp.target import Feature, Field, Formula, Piece, Syntax, Target

ABSOLUTE, RELATIVE, PAGE, NEGATED = Formula.ABSOLUTE, Formula.RELATIVE, Formula.PAGE, Formula.NEGATED

FIELDS = {
    "abs64": Field(8, ABSOLUTE, ((0, 64, 0),)),
    # b, bl                                                0b0_00101_11111111111111111111111111
    "jump26": Field(4, RELATIVE, ((2, 26, 0),), -(1 << 27), (1 << 27) - 4, 4, jump=True),
    # b.cond, cbz, cbnz                                    0b01010100_1111111111111111111_0_0000
    "branch19": Field(4, RELATIVE, ((2, 19, 5),), -(1 << 20), (1 << 20) - 4, 4, jump=True),
    # tbz, tbnz                                            0b0_011011_0_00000_11111111111111_00000
    "branch14": Field(4, RELATIVE, ((2, 14, 5),), -(1 << 15), (1 << 15) - 4, 4, jump=True),
    # adrp                                                 0b1_11_10000_1111111111111111111_00000
    "page21": Field(4, PAGE, ((12, 2, 29), (14, 19, 5)), -(1 << 32), (1 << 32) - (1 << 12), 1 << 12),
    # add, ldrb, strb                                      0b0010010001_111111111111_00000_00000
    "lo12": Field(4, ABSOLUTE, ((0, 12, 10),), alone="imm12"),
    "imm12": Field(4, ABSOLUTE, ((0, 12, 10),), 0, 4095),
    # ldrh, strh                                           0b0111100101_011111111111_00000_00000
    "lo12_2": Field(4, ABSOLUTE, ((1, 11, 10),), align=2, alone="imm12_2"),
    "imm12_2": Field(4, ABSOLUTE, ((1, 11, 10),), 0, 4094, 2),
    # ldr, str of w, s                                     0b1011100101_001111111111_00000_00000
    "lo12_4": Field(4, ABSOLUTE, ((2, 10, 10),), align=4, alone="imm12_4"),
    "imm12_4": Field(4, ABSOLUTE, ((2, 10, 10),), 0, 4092, 4),
    # ldr, str of x, d                                     0b1111100101_000111111111_00000_00000
    "lo12_8": Field(4, ABSOLUTE, ((3, 9, 10),), align=8, alone="imm12_8"),
    "imm12_8": Field(4, ABSOLUTE, ((3, 9, 10),), 0, 4088, 8),
    # ldr, str of q                                        0b0011110111_000011111111_00000_00000
    "lo12_16": Field(4, ABSOLUTE, ((4, 8, 10),), align=16, alone="imm12_16"),
    "imm12_16": Field(4, ABSOLUTE, ((4, 8, 10),), 0, 4080, 16),
    # movz w; movk w, lsl 16: the halves of 32 bits        0b0_10_100101_00_1111111111111111_00000
    "low16": Field(4, ABSOLUTE, ((0, 16, 5),)),
    "high16": Field(4, ABSOLUTE, ((16, 16, 5),), -(1 << 31), (1 << 32) - 1),
    # Numbers of registers                                 0b00000000000_mmmmm_0_aaaaa_nnnnn_ddddd
    "rd": Field(4, ABSOLUTE, ((0, 5, 0),), 0, 31),  # also rt
    "rn": Field(4, ABSOLUTE, ((0, 5, 5),), 0, 31),
    "ra": Field(4, ABSOLUTE, ((0, 5, 10),), 0, 31),  # also rt2
    "rm": Field(4, ABSOLUTE, ((0, 5, 16),), 0, 31),  # also rs
    # Offsets of loads and stores by the size of the access: all that the twelve bits hold
    "off2": Field(4, ABSOLUTE, ((1, 12, 10),), 0, 4095 * 2, 2),
    "off4": Field(4, ABSOLUTE, ((2, 12, 10),), 0, 4095 * 4, 4),
    "off8": Field(4, ABSOLUTE, ((3, 12, 10),), 0, 4095 * 8, 8),
    "off16": Field(4, ABSOLUTE, ((4, 12, 10),), 0, 4095 * 16, 16),
    # ldur, stur                                           0b11111000010_111111111_00_00000_00000
    "imm9": Field(4, ABSOLUTE, ((0, 9, 12),), -256, 255),
    # sub for the add of a negative number, cmn for cmp
    "imm12_neg": Field(4, NEGATED, ((0, 12, 10),), 0, 4095),
    # movz; movn, which holds the complement: ~v = -(v + 1)
    "mov16": Field(4, ABSOLUTE, ((0, 16, 5),), 0, 0xFFFF),
    "mov16_neg": Field(4, NEGATED, ((0, 16, 5),), 0, 0xFFFF),
    # movz, lsl 16, 32, 48
    "mov16_16": Field(4, ABSOLUTE, ((16, 16, 5),), 0, 0xFFFF << 16, 1 << 16),
    "mov16_32": Field(4, ABSOLUTE, ((32, 16, 5),), 0, 0xFFFF << 32, 1 << 32),
    "mov16_48": Field(4, ABSOLUTE, ((48, 16, 5),), align=1 << 48),
    # ubfm, sbfm: immr, imms; extr: imms                   0b1_10_100110_1_rrrrrr_ssssss_00000_00000
    #     lsl  n: immr = -n modulo the width, imms = width - 1 - n        ror n: imms = n
    #     lsr and asr n: immr = n, imms = width - 1                       rol n: imms = width - n
    "immr6": Field(4, ABSOLUTE, ((0, 6, 16),), 0, 63),
    "immr6_neg": Field(4, NEGATED, ((0, 6, 16),), -63, 0),
    "imms6": Field(4, ABSOLUTE, ((0, 6, 10),), 0, 63),
    "imms6_neg": Field(4, NEGATED, ((0, 6, 10),), 0, 63),
    "immr5": Field(4, ABSOLUTE, ((0, 5, 16),), 0, 31),
    "immr5_neg": Field(4, NEGATED, ((0, 5, 16),), -31, 0),
    "imms5": Field(4, ABSOLUTE, ((0, 5, 10),), 0, 31),
    "imms5_neg": Field(4, NEGATED, ((0, 5, 10),), 0, 31),
}

#: Rows whose value is the number of a register, and rows that hold a short immediate or offset (see `Target`), narrow
#: ones first: a wide row also writes what a narrow field holds, and takes more.
REGISTER_FIELDS = ("rd", "rn", "rm", "ra")
NUMBER_FIELDS = (
    "immr5", "immr5_neg", "imms5", "imms5_neg", "immr6", "immr6_neg", "imms6", "imms6_neg", "imm9", "imm12",
    "imm12_neg", "off2", "off4", "off8", "off16", "mov16", "mov16_neg", "mov16_16", "mov16_32", "mov16_48",
)  # fmt: skip

#: See `Target.constants`.
CONSTANTS = (
    (0, 0xFFFF, 1), (-0x10000, -1, 1),  # movz, movn
    (1 << 16, 0xFFFF << 16, 1 << 16), (1 << 32, 0xFFFF << 32, 1 << 32),  # movz, lsl
    (1 << 48, 0xFFFF << 48, 1 << 48), (-(1 << 63), -(1 << 48), 1 << 48),
)  # fmt: skip

RELOCATIONS = {
    257: (Piece("abs64"),),  # R_AARCH64_ABS64
    264: (Piece("low16"),),  # R_AARCH64_MOVW_UABS_G0_NC
    266: (Piece("high16"),),  # R_AARCH64_MOVW_UABS_G1_NC
    275: (Piece("page21"),),  # R_AARCH64_ADR_PREL_PG_HI21
    277: (Piece("lo12"),),  # R_AARCH64_ADD_ABS_LO12_NC
    278: (Piece("lo12"),),  # R_AARCH64_LDST8_ABS_LO12_NC
    279: (Piece("branch14"),),  # R_AARCH64_TSTBR14
    280: (Piece("branch19"),),  # R_AARCH64_CONDBR19
    282: (Piece("jump26"),),  # R_AARCH64_JUMP26
    283: (Piece("jump26"),),  # R_AARCH64_CALL26
    284: (Piece("lo12_2"),),  # R_AARCH64_LDST16_ABS_LO12_NC
    285: (Piece("lo12_4"),),  # R_AARCH64_LDST32_ABS_LO12_NC
    286: (Piece("lo12_8"),),  # R_AARCH64_LDST64_ABS_LO12_NC
    299: (Piece("lo12_16"),),  # R_AARCH64_LDST128_ABS_LO12_NC
}

PRELUDE = r"""
#define CNP_IMM64(i) ({ u64 cnp_v; \
    __asm__("adrp %0, cnp." #i ".lit\n\tldr %0, [%0, :lo12:cnp." #i ".lit]" : "=r"(cnp_v)); cnp_v; })
#define CNP_IMM32U(i) ({ u64 cnp_v; \
    __asm__("movz %w0, #:abs_g0_nc:cnp." #i "\n\tmovk %w0, #:abs_g1_nc:cnp." #i : "=r"(cnp_v)); \
    __builtin_assume(cnp_v >> 32 == 0); (u32)cnp_v; })
#define CNP_IMM32S(i) ((i64)(i32)CNP_IMM32U(i))
#define CNP_ADDRESS(i) CNP_IMM64(i)
#define CNP_SLOT(i) ({ char *cnp_v; \
    __asm__("add %0, %1, :lo12:cnp." #i : "=r"(cnp_v) : "r"(cnp_frame)); cnp_v; })
#define CNP_SLOT_WIDE(i) (cnp_frame + CNP_IMM32S(i))

/* Loads name the frame as memory that they read, so that none is moved over a store. They are told what the
   register can hold, so that no extension is repeated. */
#define CNP_LOAD_(type, held, low, high, instruction, i) ({ held cnp_v; \
    CNP_LOAD_ASM_(instruction, "=r", i); \
    __builtin_assume(cnp_v >= (low) && cnp_v <= (high)); (type)cnp_v; })
#define CNP_LOAD_FLOAT_(type, instruction, i) ({ type cnp_v; CNP_LOAD_ASM_(instruction, "=w", i); cnp_v; })
#define CNP_LOAD_ASM_(instruction, constraint, i) \
    __asm__(instruction ", [%1, :lo12:cnp." #i "]" : constraint(cnp_v) \
            : "r"(cnp_frame), "m"(*(const char(*)[4096])cnp_frame))
#define CNP_STORE_(type, instruction, constraint, i, value) ({ type cnp_v = (value); \
    __asm__ volatile(instruction ", [%1, :lo12:cnp." #i "]" \
                     : : constraint(cnp_v), "r"(cnp_frame) : "memory"); })
#define CNP_READ_u8(i)  CNP_LOAD_(u8, u64, 0, 0xff, "ldrb %w0", i)
#define CNP_READ_i8(i)  CNP_LOAD_(i8, i64, -0x80, 0x7f, "ldrsb %0", i)
#define CNP_READ_u16(i) CNP_LOAD_(u16, u64, 0, 0xffff, "ldrh %w0", i)
#define CNP_READ_i16(i) CNP_LOAD_(i16, i64, -0x8000, 0x7fff, "ldrsh %0", i)
#define CNP_READ_u32(i) CNP_LOAD_(u32, u64, 0, 0xffffffff, "ldr %w0", i)
#define CNP_READ_i32(i) CNP_LOAD_(i32, i64, -0x80000000ll, 0x7fffffff, "ldrsw %0", i)
#define CNP_READ_u64(i) CNP_LOAD_(u64, u64, 0, ~0ull, "ldr %0", i)
#define CNP_READ_i64(i) CNP_LOAD_(i64, u64, 0, ~0ull, "ldr %0", i)
#define CNP_READ_f32(i) CNP_LOAD_FLOAT_(f32, "ldr %s0", i)
#define CNP_READ_f64(i) CNP_LOAD_FLOAT_(f64, "ldr %d0", i)
#define CNP_WRITE_u8(i, value)  CNP_STORE_(u8, "strb %w0", "rz", i, value)
#define CNP_WRITE_i8(i, value)  CNP_STORE_(i8, "strb %w0", "rz", i, value)
#define CNP_WRITE_u16(i, value) CNP_STORE_(u16, "strh %w0", "rz", i, value)
#define CNP_WRITE_i16(i, value) CNP_STORE_(i16, "strh %w0", "rz", i, value)
#define CNP_WRITE_u32(i, value) CNP_STORE_(u32, "str %w0", "rz", i, value)
#define CNP_WRITE_i32(i, value) CNP_STORE_(i32, "str %w0", "rz", i, value)
#define CNP_WRITE_u64(i, value) CNP_STORE_(u64, "str %x0", "rz", i, value)
#define CNP_WRITE_i64(i, value) CNP_STORE_(i64, "str %x0", "rz", i, value)
#define CNP_WRITE_f32(i, value) CNP_STORE_(f32, "str %s0", "w", i, value)
#define CNP_WRITE_f64(i, value) CNP_STORE_(f64, "str %d0", "w", i, value)
"""

OPPOSITE = "b.eq/b.ne b.hs/b.lo b.mi/b.pl b.vs/b.vc b.hi/b.ls b.ge/b.lt b.gt/b.le b.cs/b.cc cbz/cbnz tbz/tbnz"
INVERSE = {a: b for pair in OPPOSITE.split() for a, b in (pair.split("/"), reversed(pair.split("/")))}


def stack(mnemonic: str, arguments: str) -> int | None:
    """Bytes by which an instruction moves sp; None for a change that cannot be followed."""
    if step := re.fullmatch(r"sp, sp, #(\d+)(, lsl #12)?", arguments):
        amount = int(step[1]) << (12 if step[2] else 0)
        return {"add": amount, "sub": -amount}.get(mnemonic)
    if step := re.search(r"\[sp, #(-?\d+)\]!$", arguments) or re.search(r"\[sp\], #(-?\d+)$", arguments):
        return int(step[1])
    writes = re.match(r"sp\b", arguments) and mnemonic != "cmp"
    return None if writes or re.search(r"\[sp.*\]!|\[sp\], ", arguments) else 0


NAME = re.compile(r"\b([xwvqdshb])(\d+)\b")


def uses(mnemonic: str, arguments: str) -> frozenset[tuple[str, int]]:
    """The registers that an instruction names: ("r" or "f", number)."""
    found = NAME.findall(arguments)
    return frozenset(("r" if letter in "xw" else "f", int(number)) for letter, number in found)


def rename(line: str, registers: Mapping[tuple[str, int], int]) -> str | None:
    """The line with other registers: (bank, number) -> number."""

    def other(found: re.Match[str]) -> str:
        bank = "r" if found[1] in "xw" else "f"
        return f"{found[1]}{registers.get((bank, int(found[2])), found[2])}"

    return NAME.sub(other, line)


SYNTAX = Syntax(
    jump=frozenset({"b"}),
    inverse=INVERSE,
    ends=frozenset({"ret", "br"}),
    local=".LBB",
    emit_jump="\tb\t{}",
    stack=stack,
    uses=uses,
    rename=rename,
)

VENEER = Block(
    bytes.fromhex("50000058")  # ldr x16, #8
    + bytes.fromhex("00021fd6")  # br x16
    + bytes(8),  # .quad target
    (Hole(8, "abs64", What.OPERAND, 0, 0, 8),),
    align=8,
)

TARGET = Target(
    name="aarch64",
    aliases=("arm64", "armv8"),
    triple="aarch64-unknown-linux-gnu",
    machine=183,
    byteorder="little",
    cflags=(
        "-march=armv8-a",
        "-mcmodel=small",
        "-fno-pic",
        "-ffixed-x18",  # the platform's: stencils are then not tied to one
        "-mno-outline-atomics",
        "-DCNP_MINIMUM",  # fmin: a NaN wins, and -0 is less than 0
        "-fno-strict-float-cast-overflow",
        "-DCNP_CASTS_SATURATE",  # what fcvtzs and fcvtzu do
        "-mbranch-protection=none",  # no landing pads: some clangs put them everywhere
    ),
    ints=16,
    floats=8,
    frame_position=0,
    convention="__attribute__((preserve_none))",
    fastcc=False,
    prelude=PRELUDE,
    fields=FIELDS,
    relocations=RELOCATIONS,
    syntax=SYNTAX,
    veneer=VENEER,
    nop=bytes.fromhex("1f2003d5"),
    trap=bytes.fromhex("000020d4"),  # brk #0
    probe=(  # mov w0, #n; ret
        (bytes.fromhex("40058052 c0035fd6"), 42),
        (bytes.fromhex("e0028052 c0035fd6"), 23),
    ),
    island=96 << 20,
    short_slots=(0, 4095),
    registers=((*range(21, 29), *range(8)), tuple(range(8))),
    results=(0, 1),
    register_fields=REGISTER_FIELDS,
    number_fields=NUMBER_FIELDS,
    short=((0, 4095), (-4095, -1)),
    constants=CONSTANTS,
    qemu="aarch64",
    emulated="max",
    features=(
        Feature(
            "lse", ("-march=armv8-a+lse",), hwcap=(16, 1 << 8)
        ),  # atomics in one instruction: HWCAP_ATOMICS
    ),
    capstone=("ARM64", ("ARM",)),
)
