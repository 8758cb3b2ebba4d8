r"""RISC-V, 64 bits, little-endian, LP64D (https://github.com/riscv-non-isa/riscv-elf-psabi-doc).

What is odd about it
* No instruction holds more than 20 bits of a value. A larger one is built by two: `lui` or `auipc` takes the upper
  20 bits, the next instruction adds 12 *signed* bits, so that the upper half has to be 0x800 larger than it looks.
* The lower half of a pc-relative pair names not the symbol but the label of its `auipc`, because its P is that of
  the `auipc`. `pairs` puts symbol, addend and P of the upper half into the lower one.
* Absolute pairs (`lui`) reach ±2 GiB around address 0, pc-relative ones ±2 GiB around the code: data by the medany
  model, so that constants lie beside the code wherever that is, and holes by `lui` in asm, so that small numbers fit.
* `lui` + `addiw` computes modulo 2^32 and sign-extends, so that every value of 32 bits, signed or unsigned, has its
  pair. (A linker refuses the last 0x800 values below 2^31 and what lies above: it thinks of `lui` + `addi`.)
* An immediate of 12 bits has a form of its own, in one instruction; it does not fold into the one that uses it.
* Immediates of 64 bits and addresses would take up to eight instructions; they are one load from the literal pool.
* Half of the instructions have a form of two bytes, which reaches next to nothing; and the assembler turns a
  conditional branch to a symbol into one around a jump, silently. `.option exact` forbids both: what leaves its
  section is a branch of four bytes (±4 KiB) or a jump of four (±1 MiB).
* Linker relaxation deletes bytes: -mno-relax; R_RISCV_RELAX and R_RISCV_ALIGN are not in the table.
* The C convention hands over eight integers. `fastcc`, LLVM's own, hands over a0-a7 t3 t4 t5 t6 and twenty floats,
  fa0-fa7 ft0-ft11, and callers keep none of them; C has no name for it, so the IR is rewritten.

    a0        frame pointer                    t0 t1 t2 t6   free: what a stencil computes with; veneers take t1
    a1-a7     state words 1-7                  ra s0-s11 sp  the caller's
    t3 t4 t5  state words 8-10                 ft4-ft11      free
    fa0-fa7 ft0-ft3   state floats 1-12

Base line rv64gc, what every Linux distribution asks for: no Zba, Zbb (popcount and leading zeros are long), no vectors.
Features zba and zbb have them; the kernel describes a processor as rv64imafdc_zba_zbb.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from cnp.errors import BuildError
from cnp.stencil import Block, Hole, What
from cnp.target import Feature, Field, Formula, Piece, Record, Syntax, Target

ABSOLUTE, RELATIVE, NEGATED = Formula.ABSOLUTE, Formula.RELATIVE, Formula.NEGATED

# Where the bits of a value lie, in the letters of the specification (imm is the value, the highest bit stands left):
#
#            31                25 24     20 19  15 14  12 11           7 6      0
#     U-type imm[31:12] ···································    rd           opcode
#     I-type imm[11:0] ················     rs1    funct3      rd           opcode
#     S-type imm[11:5]             rs2      rs1    funct3      imm[4:0]     opcode
#     B-type imm[12|10:5]          rs2      rs1    funct3      imm[4:1|11]  opcode
#     J-type imm[20|10:1|11|19:12] ························    rd           opcode
#
#            15 13  12      11 10      9 7    6 5          4 2 1 0
#     CB     funct3 imm[8|4:3]         rs1    imm[7:6|2:1|5]   op
#     CJ     funct3 imm[11|4|9:8|10|6|7|3:1|5] ············    op
#     CI     funct3 imm[5]  rd/rs1            imm[4:0]         op
#     CL, CS funct3 offset[5:3]    rs1'   offset  rd'/rs2'     op
U_TYPE = ((12, 20, 12),)  # 0b11111111111111111111_00000_0000000
I_TYPE = ((0, 12, 20),)  # 0b111111111111_00000_000_00000_0000000
S_TYPE = ((5, 7, 25), (0, 5, 7))  # 0b1111111_00000_00000_000_11111_0000000
CI_TYPE = ((5, 1, 12), (0, 5, 2))  # 0b000_1_00000_11111_00
B_TYPE = ((12, 1, 31), (5, 6, 25), (1, 4, 8), (11, 1, 7))  # 0b1_111111_00000_00000_000_1111_1_0000000
J_TYPE = ((20, 1, 31), (1, 10, 21), (11, 1, 20), (12, 8, 12))  # 0b1_1111111111_1_11111111_00000_0000000
CB_TYPE = ((8, 1, 12), (3, 2, 10), (6, 2, 5), (1, 2, 3), (5, 1, 2))  # 0b000_1_11_000_11_11_1_00
CJ_TYPE = (  # 0b000_1_1_11_1_1_1_111_1_00
    ((11, 1, 12), (4, 1, 11), (8, 2, 9), (10, 1, 8), (6, 1, 7), (7, 1, 6), (1, 3, 3), (5, 1, 2))
)
#: What a pair of upper 20 and lower 12 signed bits reaches.
PAIR_LOW, PAIR_HIGH = -(1 << 31) - 0x800, (1 << 31) - 0x801

FIELDS = {
    "abs64": Field(8, ABSOLUTE, ((0, 64, 0),)),
    "hi20": Field(4, ABSOLUTE, U_TYPE, -(1 << 31), (1 << 32) - 1, carry=0x800),  # of lui + addiw: modulo 2^32
    "lo12_i": Field(4, ABSOLUTE, I_TYPE, alone="imm12_i"),
    "lo12_s": Field(4, ABSOLUTE, S_TYPE, alone="imm12_s"),
    "imm12_i": Field(4, ABSOLUTE, I_TYPE, -(1 << 11), (1 << 11) - 1),
    "imm12_s": Field(4, ABSOLUTE, S_TYPE, -(1 << 11), (1 << 11) - 1),
    "pcrel_hi20": Field(4, RELATIVE, U_TYPE, PAIR_LOW, PAIR_HIGH, carry=0x800),
    "pcrel_lo12_i": Field(4, RELATIVE, I_TYPE, PAIR_LOW, PAIR_HIGH),
    "pcrel_lo12_s": Field(4, RELATIVE, S_TYPE, PAIR_LOW, PAIR_HIGH),
    "call_hi20": Field(4, RELATIVE, U_TYPE, PAIR_LOW, PAIR_HIGH, carry=0x800, jump=True),
    "call_lo12": Field(4, RELATIVE, I_TYPE, PAIR_LOW, PAIR_HIGH, jump=True),
    "branch": Field(4, RELATIVE, B_TYPE, -(1 << 12), (1 << 12) - 2, align=2, jump=True),
    "jal": Field(4, RELATIVE, J_TYPE, -(1 << 20), (1 << 20) - 2, align=2, jump=True),
    "rvc_branch": Field(2, RELATIVE, CB_TYPE, -(1 << 8), (1 << 8) - 2, align=2, jump=True),
    "rvc_jump": Field(2, RELATIVE, CJ_TYPE, -(1 << 11), (1 << 11) - 2, align=2, jump=True),
    # Numbers of registers                              0b33333_00_22222_11111_000_ddddd_0000000
    "rd": Field(4, ABSOLUTE, ((0, 5, 7),), 0, 31),
    "rs1": Field(4, ABSOLUTE, ((0, 5, 15),), 0, 31),
    "rs2": Field(4, ABSOLUTE, ((0, 5, 20),), 0, 31),
    "rs3": Field(4, ABSOLUTE, ((0, 5, 27),), 0, 31),
    # … in two bytes: five bits, which may not be zero, or three bits for 8 … 15 (rd', rs1', rs2' of the specification)
    "c_rd": Field(2, ABSOLUTE, ((0, 5, 7),), 1, 31),  # 0b1001_ddddd_22222_10; also rs1
    "c_rs2": Field(2, ABSOLUTE, ((0, 5, 2),), 1, 31),
    "c_rs1p": Field(2, ABSOLUTE, ((0, 3, 7),), 8, 15),  # 0b100011_111_00_222_01; also rd'
    "c_rs2p": Field(2, ABSOLUTE, ((0, 3, 2),), 8, 15),  # also rd' of loads
    # Numbers: addi for the subtraction of one; shift amounts, and what is left of the width (or of 32) beside one
    "imm12_i_neg": Field(4, NEGATED, I_TYPE, -(1 << 11), (1 << 11) - 1),
    "shamt6": Field(4, ABSOLUTE, ((0, 6, 20),), 0, 63),  # 0b000000_111111_00000_000_00000_0000000
    "shamt6_neg": Field(4, NEGATED, ((0, 6, 20),), 0, 63),
    "shamt5": Field(4, ABSOLUTE, ((0, 5, 20),), 0, 31),  # of slliw, srliw, sraiw
    "shamt5_neg": Field(4, NEGATED, ((0, 5, 20),), 0, 31),
    "c_imm": Field(2, ABSOLUTE, CI_TYPE, -32, 31),  # of c.addi, c.addiw, c.li, c.andi
    "c_imm_neg": Field(2, NEGATED, CI_TYPE, -32, 31),
    # lui alone, with nothing to be added; it extends the sign
    "lui": Field(4, ABSOLUTE, U_TYPE, -(1 << 31), (1 << 31) - (1 << 12), 1 << 12),
    "lui_16": Field(4, ABSOLUTE, ((16, 20, 12),), 0, 0xFFFFF << 16, 1 << 16),  # and a shift to the left by 4
    "c_lui": Field(2, ABSOLUTE, ((17, 1, 12), (12, 5, 2)), -32 << 12, 31 << 12, 1 << 12),
    "c_shamt": Field(2, ABSOLUTE, CI_TYPE, 1, 63),
    "c_shamt_neg": Field(2, NEGATED, CI_TYPE, 1, 63),
    "c_off4": Field(2, ABSOLUTE, ((3, 3, 10), (2, 1, 6), (6, 1, 5)), 0, 31 * 4, 4),  # of c.lw, c.sw
    "c_off8": Field(2, ABSOLUTE, ((3, 3, 10), (6, 2, 5)), 0, 31 * 8, 8),  # of c.ld, c.sd, c.fld, c.fsd
}

#: Rows whose value is the number of a register, and rows that hold a short immediate or offset (see `Target`), narrow
#: ones first: a wide row also writes what a narrow field holds, and takes more.
REGISTER_FIELDS = ("c_rs1p", "c_rs2p", "c_rd", "c_rs2", "rd", "rs1", "rs2", "rs3")
NUMBER_FIELDS = (
    "shamt5", "shamt5_neg", "shamt6", "shamt6_neg", "c_imm", "c_imm_neg", "c_shamt", "c_shamt_neg", "c_off4", "c_off8",
    "imm12_i", "imm12_i_neg", "imm12_s", "c_lui", "lui", "lui_16",
)  # fmt: skip

#: See `Target.constants`.
CONSTANTS = (
    (0, 31, 1), (-32, -1, 1), (-(1 << 11), (1 << 11) - 1, 1),  # c.li, addi
    (1 << 12, 31 << 12, 1 << 12), (-32 << 12, -1 << 12, 1 << 12),  # c.lui, which has no 0
    (32 << 12, (1 << 31) - (1 << 12), 1 << 12), (-(1 << 31), -33 << 12, 1 << 12),  # lui
    (1 << 31, 0xFFFF << 16, 1 << 16),  # lui, slli by 4
)  # fmt: skip

PCREL_HI20, PCREL_LO12 = 23, (24, 25)

RELOCATIONS = {
    2: (Piece("abs64"),),  # R_RISCV_64
    16: (Piece("branch"),),  # R_RISCV_BRANCH
    17: (Piece("jal"),),  # R_RISCV_JAL
    18: (Piece("call_hi20"), Piece("call_lo12", 4, keep_place=True)),  # R_RISCV_CALL
    19: (Piece("call_hi20"), Piece("call_lo12", 4, keep_place=True)),  # R_RISCV_CALL_PLT
    23: (Piece("pcrel_hi20"),),  # R_RISCV_PCREL_HI20
    24: (Piece("pcrel_lo12_i"),),  # R_RISCV_PCREL_LO12_I
    25: (Piece("pcrel_lo12_s"),),  # R_RISCV_PCREL_LO12_S
    26: (Piece("hi20"),),  # R_RISCV_HI20
    27: (Piece("lo12_i"),),  # R_RISCV_LO12_I
    28: (Piece("lo12_s"),),  # R_RISCV_LO12_S
    44: (Piece("rvc_branch"),),  # R_RISCV_RVC_BRANCH
    45: (Piece("rvc_jump"),),  # R_RISCV_RVC_JUMP
}


def pairs(records: list[Record]) -> list[Record]:
    """Give each pc-relative lower half symbol, addend and place of the `auipc` whose label it names."""
    uppers = {record.offset: record for record in records if record.type == PCREL_HI20}
    return [own_value(record, uppers) if record.type in PCREL_LO12 else record for record in records]


def own_value(lower: Record, uppers: dict[int, Record]) -> Record:
    upper = uppers.get(lower.value)
    if upper is None or lower.addend:
        message = f"{lower.section}: the lower half at {lower.offset:#x} has no upper half ({lower.symbol}) in its block"
        raise BuildError(message, target="riscv64", op="", line=0, symbol=lower.symbol, offset=lower.offset)
    return replace(upper, offset=lower.offset, type=lower.type, place=upper.offset)


PRELUDE = r"""
#define CNP_IMM64(i)  ({ u64 cnp_v; __asm__("ld %0, cnp." #i ".lit" : "=r"(cnp_v)); cnp_v; })
#define CNP_IMM32S(i) ({ i64 cnp_v; __asm__("lui %0, %%hi(cnp." #i ")\n\taddiw %0, %0, %%lo(cnp." #i ")" : "=r"(cnp_v)); \
    __builtin_assume(cnp_v == (i32)cnp_v); cnp_v; })
#define CNP_IMM32U(i) ((u32)CNP_IMM32S(i))
#define CNP_IMM31_IS_SIGNED
#define CNP_FOLD(i)   ({ i64 cnp_v; __asm__("addi %0, zero, %%lo(cnp." #i ")" : "=r"(cnp_v)); \
    __builtin_assume(cnp_v >= -0x800 && cnp_v <= 0x7ff); cnp_v; })
#define CNP_ADDRESS(i) CNP_IMM64(i)
#define CNP_SLOT(i)   ({ char *cnp_v; __asm__("addi %0, %1, %%lo(cnp." #i ")" : "=r"(cnp_v) : "r"(cnp_frame)); cnp_v; })
#define CNP_SLOT_WIDE(i) (cnp_frame + CNP_IMM32S(i))
#define CNP_FRAME_MEMORY "m"(*(const char(*)[2048])cnp_frame)
#define CNP_READ_AS(type, load, to, i) ({ type cnp_v; \
    __asm__(load " %0, %%lo(cnp." #i ")(%1)" : "=" to(cnp_v) : "r"(cnp_frame), CNP_FRAME_MEMORY); cnp_v; })
#define CNP_READ_INT(type, word, load, i) ({ word cnp_w = CNP_READ_AS(word, load, "r", i); \
    __builtin_assume(cnp_w == (type)cnp_w); (type)cnp_w; })
#define CNP_WRITE_AS(type, store, from, i, value) ({ type cnp_v = (value); \
    __asm__ volatile(store " %z0, %%lo(cnp." #i ")(%1)" : : from(cnp_v), "r"(cnp_frame) : "memory"); })
#define CNP_READ_u8(i)  CNP_READ_INT(u8, u64, "lbu", i)
#define CNP_READ_i8(i)  CNP_READ_INT(i8, i64, "lb", i)
#define CNP_READ_u16(i) CNP_READ_INT(u16, u64, "lhu", i)
#define CNP_READ_i16(i) CNP_READ_INT(i16, i64, "lh", i)
#define CNP_READ_u32(i) CNP_READ_INT(u32, u64, "lwu", i)
#define CNP_READ_i32(i) CNP_READ_INT(i32, i64, "lw", i)
#define CNP_READ_u64(i) CNP_READ_AS(u64, "ld", "r", i)
#define CNP_READ_i64(i) CNP_READ_AS(i64, "ld", "r", i)
#define CNP_READ_f32(i) CNP_READ_AS(f32, "flw", "f", i)
#define CNP_READ_f64(i) CNP_READ_AS(f64, "fld", "f", i)
#define CNP_WRITE_u8(i, value)  CNP_WRITE_AS(u8, "sb", "rJ", i, value)
#define CNP_WRITE_i8(i, value)  CNP_WRITE_AS(i8, "sb", "rJ", i, value)
#define CNP_WRITE_u16(i, value) CNP_WRITE_AS(u16, "sh", "rJ", i, value)
#define CNP_WRITE_i16(i, value) CNP_WRITE_AS(i16, "sh", "rJ", i, value)
#define CNP_WRITE_u32(i, value) CNP_WRITE_AS(u32, "sw", "rJ", i, value)
#define CNP_WRITE_i32(i, value) CNP_WRITE_AS(i32, "sw", "rJ", i, value)
#define CNP_WRITE_u64(i, value) CNP_WRITE_AS(u64, "sd", "rJ", i, value)
#define CNP_WRITE_i64(i, value) CNP_WRITE_AS(i64, "sd", "rJ", i, value)
#define CNP_WRITE_f32(i, value) CNP_WRITE_AS(f32, "fsw", "f", i, value)
#define CNP_WRITE_f64(i, value) CNP_WRITE_AS(f64, "fsd", "f", i, value)
"""

OPPOSITE = "beq/bne beqz/bnez blt/bge bltu/bgeu bltz/bgez blez/bgtz bgt/ble bgtu/bleu"
INVERSE = {a: b for pair in OPPOSITE.split() for a, b in (pair.split("/"), reversed(pair.split("/")))}


def stack(mnemonic: str, arguments: str) -> int | None:
    """Bytes by which an instruction moves sp; None for a change that cannot be followed."""
    if not arguments.startswith("sp,") or mnemonic.startswith("b"):
        return 0
    step = re.fullmatch(r"sp, sp, (-?\d+)", arguments)
    return int(step[1]) if step and mnemonic == "addi" else None


#: Name of each register by bank and number.
SPELLED = {("r", 0): "zero", ("r", 1): "ra", ("r", 2): "sp", ("r", 3): "gp", ("r", 4): "tp"}
for bank, prefix in (("r", ""), ("f", "f")):
    for letter, start, numbers in (("a", 0, range(10, 18)), ("s", 0, range(8, 10)), ("s", 2, range(18, 28))):
        SPELLED |= {(bank, number): f"{prefix}{letter}{start + i}" for i, number in enumerate(numbers)}
SPELLED |= {("r", number): f"t{i}" for i, number in enumerate([5, 6, 7, 28, 29, 30, 31])}
SPELLED |= {("f", number): f"ft{i}" for i, number in enumerate([*range(8), *range(28, 32)])}
NUMBERED = {name: key for key, name in SPELLED.items()}
NAME = re.compile(r"\b(f?[ast]\d+)\b")


def uses(mnemonic: str, arguments: str) -> frozenset[tuple[str, int]]:
    """The registers that an instruction names: ("r" or "f", number)."""
    return frozenset(NUMBERED[name] for name in NAME.findall(arguments))


def rename(line: str, registers: Mapping[tuple[str, int], int]) -> str | None:
    """The line with other registers: (bank, number) -> number."""

    def other(found: re.Match[str]) -> str:
        bank, number = NUMBERED[found[1]]
        return SPELLED[bank, registers.get((bank, number), number)]

    mnemonic, tab, arguments = line.lstrip().partition("\t")
    return f"\t{mnemonic}{tab}{NAME.sub(other, arguments)}"


SYNTAX = Syntax(
    jump=frozenset({"j", "tail"}),
    inverse=INVERSE,
    ends=frozenset({"ret", "jr"}),
    local=".LBB",
    emit_jump="\t.option\tpush\n\t.option\tnorvc\n\tj\t{}\n\t.option\tpop",
    emit_branch="\t.option\tpush\n\t.option\texact\n\t{}\t{}\n\t.option\tpop",
    stack=stack,
    uses=uses,
    rename=rename,
)

VENEER = Block(
    bytes.fromhex(
        "17030000"  # auipc t1, 0
        "03330301"  # ld    t1, 16(t1)
        "67000300"  # jr    t1; not t0, which a processor takes for a return
        "00000000"  # unimp
        "0000000000000000"  # .quad target
    ),
    (Hole(16, "abs64", What.OPERAND, 0, 0, 16),),
    align=8,
)

TARGET = Target(
    name="riscv64",
    aliases=("riscv", "riscv64gc", "rv64", "rv64gc"),
    triple="riscv64-unknown-linux-gnu",
    machine=243,
    byteorder="little",
    cflags=(
        "-march=rv64gc",
        "-mabi=lp64d",
        "-mcmodel=medany",
        "-mno-relax",
        "-fno-pic",
        "-DCNP_MINIMUM",
        "-DCNP_NO_ROUNDING",
    ),
    ints=10,
    floats=12,
    frame_position=0,
    convention="",
    fastcc=True,
    prelude=PRELUDE,
    fields=FIELDS,
    relocations=RELOCATIONS,
    syntax=SYNTAX,
    veneer=VENEER,
    nop=b"\x01\x00",  # c.nop
    long_nops=(bytes.fromhex("13000000"),),  # addi zero, zero, 0
    trap=b"\x02\x90",  # c.ebreak
    probe=((bytes.fromhex("1305a0028280"), 42), (bytes.fromhex("130570018280"), 23)),  # li a0, n; ret
    island=3 << 18,
    folds=True,
    short_slots=(-(1 << 11), (1 << 11) - 1),
    # compressed instructions have short fields for x8-x15 and f8-f15
    register_classes=(
        (tuple(range(8, 16)), (*range(16, 32),)),
        (tuple(range(8, 16)), (*range(16, 32), *range(8))),
    ),
    registers=((*range(11, 18), 28, 29, 30), (*range(10, 18), *range(4))),
    results=(10, 11),
    register_fields=REGISTER_FIELDS,
    number_fields=NUMBER_FIELDS,
    short=((-(1 << 11), (1 << 11) - 1),),
    constants=CONSTANTS,
    lld=("-melf64lriscv",),
    qemu="riscv64",
    emulated="rv64,zba=true,zbb=true",
    features=(
        Feature("zba", ("-march=rv64gc_zba",), words=frozenset({"zba"})),  # shift and add
        Feature(
            "zbb", ("-march=rv64gc_zbb",), words=frozenset({"zbb"})
        ),  # count, rotate, swap, extend, min, max
    ),
    code_align=2,
    pairs=pairs,
    capstone=("RISCV", ("RISCV64", "RISCVC")),
)
