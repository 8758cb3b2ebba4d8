r"""MIPS64 release 2, n64 ABI, both byte orders (https://refspecs.linuxfoundation.org/elf/mipsabi.pdf and the
"MIPS64 ELF Object File Specification", which describes the relocations of n64).

What is odd about it
* The instruction after a jump, branch or call, in its *delay slot*, is executed before the jump takes effect. The
  last real instruction of a stencil therefore stands behind its last jump. The layout puts the one of a jump before
  it and writes jumps with a `nop`; those of branches and returns stay where they are.
* `j` and `jal` replace the lower 28 bits of the address of their delay slot: they reach every place of the same
  256 MiB *region* and none outside, however near it lies. Branches are pc-relative and reach 128 KiB either way.
* An address has 64 bits, which six instructions build from four 16-bit pieces. All but the first one are *added as
  signed numbers*, so that each piece has a carry for what the lower ones will take back:

      lui    $1, %highest(S)         (S + 0x800080008000) >> 48
      daddiu $1, $1, %higher(S)      (S + 0x80008000) >> 32
      dsll   $1, $1, 16
      daddiu $1, $1, %hi(S)          (S + 0x8000) >> 16
      dsll   $1, $1, 16
      daddiu $1, $1, %lo(S)           S

* `lui` + `addiu` computes modulo 2^32 and sign-extends, so that every value of 32 bits, signed or unsigned, has its
  pair; and 32-bit values live in registers sign-extended, unsigned ones too.
* An immediate of 16 signed bits is one instruction (`daddiu` from $zero): it has forms of its own (CNP_FOLD).
* One relocation of n64 may compose three types, each applied to the result of the one before. Code without the
  GOT has plain ones only: the others are not in the table.
* A function of another library expects its own address in $25 (it finds its GOT from there). So helpers are called
  by the long way, `jalr $25` (-mlong-calls), and stencils by `jal` (short_call).
* clang's MIPS back end makes tail calls only when asked to (-mips-tail-calls=1), of hidden functions. `fastcc`,
  LLVM's own convention, hands over 14 integers and 20 floats in registers; C has no name for it, so the IR is
  rewritten.
* A quiet NaN of the PowerPC, x86 and IEEE 754-2008 kind, 0x7ff8…, is a *signalling* one here (-mnan=legacy, what
  Debian and most processors have).

* A fault of clang 22 that no option was found to avoid: the register allocator takes `sll d, s, 0`, the sign extension
  of 32 bits, for a copy and folds it into the reload of a spilled 64-bit value, so that the extension is lost. It takes
  more live values than there are registers; random bodies met it once in 2,000, in a 32-bit argument of a helper. A
  helper that is to be safe takes 64-bit integers.

    $4        frame pointer                    $2 $3 $15 $24 $25 $1   free: what a stencil computes with
    $5-$14    state words 1-10                 $16-$23 $28-$31        the caller's
    $f0-$f7   state floats 1-8                 $f8-$f19               free: $f8 … and what fastcc could still hand over

Base line mips64r2 with 64-bit floating-point registers: no popcount, no fused multiply-add, no floor to a float.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cnp.stencil import Block, Hole, What
from cnp.target import Field, Formula, Piece, Syntax, Target

ABSOLUTE, RELATIVE, REGION, NEGATED = Formula.ABSOLUTE, Formula.RELATIVE, Formula.REGION, Formula.NEGATED

# I-type   opcode rs    rt    immediate           J-type   opcode index
# R-type   opcode rs    rt    rd    sa    function         floats: opcode format ft fs fd function
I_TYPE = ((0, 16, 0),)  # 0b000000_00000_00000_1111111111111111
BRANCH = ((2, 16, 0),)  # the same bits, counted in instructions
J_TYPE = ((2, 26, 0),)  # 0b000000_11111111111111111111111111
SA = ((0, 5, 6),)  # 0b000000_00000_00000_00000_11111_000000

FIELDS = {
    "highest": Field(4, ABSOLUTE, ((48, 16, 0),), carry=0x8000_8000_8000),
    "higher": Field(4, ABSOLUTE, ((32, 16, 0),), carry=0x8000_8000),
    "hi16": Field(4, ABSOLUTE, ((16, 16, 0),), carry=0x8000),
    "lo16": Field(4, ABSOLUTE, I_TYPE, alone="simm16"),
    "simm16": Field(4, ABSOLUTE, I_TYPE, -(1 << 15), (1 << 15) - 1),
    "jump26": Field(4, REGION, J_TYPE, 0, (1 << 28) - 4, align=4, jump=True),
    "pc16": Field(4, RELATIVE, BRANCH, -(1 << 17), (1 << 17) - 4, align=4, jump=True),
    # Numbers of registers                               0b000000_sssss_ttttt_ddddd_fffff_000000
    "rs": Field(4, ABSOLUTE, ((0, 5, 21),), 0, 31),
    "rt": Field(4, ABSOLUTE, ((0, 5, 16),), 0, 31),  # also ft
    "rd": Field(4, ABSOLUTE, ((0, 5, 11),), 0, 31),  # also fs
    "fd": Field(4, ABSOLUTE, ((0, 5, 6),), 0, 31),
    # Numbers: of ori, xori, andi; of daddiu for the subtraction of one
    "uimm16": Field(4, ABSOLUTE, I_TYPE, 0, 0xFFFF),
    "simm16_neg": Field(4, NEGATED, I_TYPE, -(1 << 15), (1 << 15) - 1),
    # Numbers: of lui; of daddiu and ori with a shift to the left by 16, 32, 48
    "li_16": Field(4, ABSOLUTE, ((16, 16, 0),), -(1 << 31), 0xFFFF << 16, 1 << 16),
    "li_32": Field(4, ABSOLUTE, ((32, 16, 0),), -(1 << 47), 0xFFFF << 32, 1 << 32),
    "li_48": Field(4, ABSOLUTE, ((48, 16, 0),), align=1 << 48),
    # Shift amounts; dsll32 and its like hold the amount - 32. A rotation to the left is one to the right by the rest.
    "sa5": Field(4, ABSOLUTE, SA, 0, 31),
    "sa5_neg": Field(4, NEGATED, SA, 0, 31),
    # The highest bit of a dext above its lowest one, which is `sa5`, of what is left of 32 bits
    "msbd5_neg": Field(4, NEGATED, ((0, 5, 11),), 0, 31),
}

#: Rows whose value is the number of a register, and rows that hold a short immediate or offset (see `Target`), narrow
#: ones first: a wide row also writes what a narrow field holds, and takes more.
REGISTER_FIELDS = ("rs", "rt", "rd", "fd")
NUMBER_FIELDS = ("sa5", "sa5_neg", "msbd5_neg", "simm16", "simm16_neg", "uimm16", "li_16", "li_32", "li_48")

#: See `Target.constants`.
CONSTANTS = (
    (-(1 << 15), (1 << 15) - 1, 1), (1 << 15, 0xFFFF, 1),  # daddiu, ori
    (-(1 << 31), 0x7FFF << 16, 1 << 16), (1 << 31, 0xFFFF << 16, 1 << 16),  # lui; ori, dsll
    (-(1 << 47), 0x7FFF << 32, 1 << 32), (1 << 47, 0xFFFF << 32, 1 << 32),  # daddiu, dsll; ori, dsll
    (1 << 48, 0xFFFF << 48, 1 << 48), (-(1 << 63), -(1 << 48), 1 << 48),  # daddiu, dsll
)  # fmt: skip

RELOCATIONS: dict[int, tuple[Piece, ...]] = {
    4: (Piece("jump26"),),  # R_MIPS_26
    5: (Piece("hi16"),),  # R_MIPS_HI16
    6: (Piece("lo16"),),  # R_MIPS_LO16
    10: (Piece("pc16"),),  # R_MIPS_PC16
    28: (Piece("higher"),),  # R_MIPS_HIGHER
    29: (Piece("highest"),),  # R_MIPS_HIGHEST
}

PRELUDE = r"""
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define CNP_HOLE(i, low) "%%lo(cnp." #i "+" #low ")"
#else
#define CNP_HOLE(i, low) "%%lo(cnp." #i ")"
#endif
#define CNP_IMM64(i)  ({ u64 cnp_v; __asm__( \
    "lui %0, %%highest(cnp." #i ")\n\tdaddiu %0, %0, %%higher(cnp." #i ")\n\tdsll %0, %0, 16\n\t" \
    "daddiu %0, %0, %%hi(cnp." #i ")\n\tdsll %0, %0, 16\n\tdaddiu %0, %0, %%lo(cnp." #i ")" : "=r"(cnp_v)); cnp_v; })
#define CNP_PAIR(type, i) ({ type cnp_v; \
    __asm__("lui %0, %%hi(cnp." #i ")\n\taddiu %0, %0, %%lo(cnp." #i ")" : "=r"(cnp_v)); cnp_v; })
#define CNP_IMM32S(i) CNP_PAIR(i64, i)
#define CNP_IMM32U(i) CNP_PAIR(u32, i)
#define CNP_IMM31_IS_SIGNED
#define CNP_SHIFTS
#define CNP_FOLD(i) ({ i64 cnp_v; __asm__("daddiu %0, $zero, %%lo(cnp." #i ")" : "=r"(cnp_v)); cnp_v; })
#define CNP_ADDRESS(i) CNP_IMM64(i)
#define CNP_SLOT(i) ({ char *cnp_v; __asm__("daddiu %0, %1, %%lo(cnp." #i ")" : "=r"(cnp_v) : "r"(cnp_frame)); cnp_v; })
#define CNP_SLOT_WIDE(i) (cnp_frame + CNP_IMM32S(i))
#define CNP_LOAD_AS(type, load, to, i, low) ({ type cnp_v; __asm__(load " %0, " CNP_HOLE(i, low) "(%1)" \
    : "=" to(cnp_v) : "r"(cnp_frame), "m"(*(const char (*)[1 << 15])cnp_frame)); cnp_v; })
#define CNP_STORE_AS(type, store, from, i, low, value) ({ type cnp_v = (value); \
    __asm__ volatile(store " %z0, " CNP_HOLE(i, low) "(%1)" : : from(cnp_v), "r"(cnp_frame) : "memory"); })
#define CNP_READ_u8(i)  CNP_LOAD_AS(u8, "lbu", "r", i, 7)
#define CNP_READ_i8(i)  CNP_LOAD_AS(i8, "lb", "r", i, 7)
#define CNP_READ_u16(i) CNP_LOAD_AS(u16, "lhu", "r", i, 6)
#define CNP_READ_i16(i) CNP_LOAD_AS(i16, "lh", "r", i, 6)
#define CNP_READ_u32(i) CNP_LOAD_AS(u32, "lw", "r", i, 4)
#define CNP_READ_i32(i) CNP_LOAD_AS(i32, "lw", "r", i, 4)
#define CNP_READ_u64(i) CNP_LOAD_AS(u64, "ld", "r", i, 0)
#define CNP_READ_i64(i) CNP_LOAD_AS(i64, "ld", "r", i, 0)
#define CNP_READ_f32(i) CNP_LOAD_AS(f32, "lwc1", "f", i, 4)
#define CNP_READ_f64(i) CNP_LOAD_AS(f64, "ldc1", "f", i, 0)
#define CNP_WRITE_u8(i, value)  CNP_STORE_AS(u32, "sb", "Jr", i, 7, value)
#define CNP_WRITE_i8(i, value)  CNP_STORE_AS(u32, "sb", "Jr", i, 7, value)
#define CNP_WRITE_u16(i, value) CNP_STORE_AS(u32, "sh", "Jr", i, 6, value)
#define CNP_WRITE_i16(i, value) CNP_STORE_AS(u32, "sh", "Jr", i, 6, value)
#define CNP_WRITE_u32(i, value) CNP_STORE_AS(u32, "sw", "Jr", i, 4, value)
#define CNP_WRITE_i32(i, value) CNP_STORE_AS(u32, "sw", "Jr", i, 4, value)
#define CNP_WRITE_u64(i, value) CNP_STORE_AS(u64, "sd", "Jr", i, 0, value)
#define CNP_WRITE_i64(i, value) CNP_STORE_AS(u64, "sd", "Jr", i, 0, value)
#define CNP_WRITE_f32(i, value) CNP_STORE_AS(f32, "swc1", "f", i, 4, value)
#define CNP_WRITE_f64(i, value) CNP_STORE_AS(f64, "sdc1", "f", i, 0, value)
"""

OPPOSITE = "beq/bne beqz/bnez bltz/bgez blez/bgtz bc1t/bc1f"
INVERSE = {a: b for pair in OPPOSITE.split() for a, b in (pair.split("/"), reversed(pair.split("/")))}

#: The assembler would fill delay slots and expand macros; clang's text has done both, and turns it off and on again
#: around each function and each asm. Here it is off from the first line on.
OWN_WORK = "\t.set\tnoreorder\n\t.set\tnomacro\n\t.set\tnoat"
MODES = re.compile(r"\s*\.set\s+(no)?(reorder|macro|at|mips16|micromips)$|\s*\.set\s+(push|pop)$")


def clean(line: str) -> str | None:
    """Drop changes of the assembler's mode; set it once, at the first line of the text that names the file."""
    if line.startswith("\t.file"):
        return f"{line}\n{OWN_WORK}"
    return None if MODES.match(line) else line


def stack(mnemonic: str, arguments: str) -> int | None:
    """Bytes by which an instruction moves $sp; None for a change that cannot be followed."""
    if not arguments.startswith("$sp,") or mnemonic.startswith(("b", "s")):  # a branch or store only reads it
        return 0
    step = re.fullmatch(r"\$sp, \$sp, (-?\d+)", arguments)
    return int(step[1]) if step and mnemonic == "daddiu" else None


NAME = re.compile(r"\$(f?)(\d+)\b")


def uses(mnemonic: str, arguments: str) -> frozenset[tuple[str, int]]:
    """The registers that an instruction names: ("r" or "f", number)."""
    found = NAME.findall(arguments)
    return frozenset(("f" if bank else "r", int(number)) for bank, number in found)


def rename(line: str, registers: Mapping[tuple[str, int], int]) -> str | None:
    """The line with other registers: (bank, number) -> number."""

    def other(found: re.Match[str]) -> str:
        bank = "f" if found[1] else "r"
        return f"${found[1]}{registers.get((bank, int(found[2])), found[2])}"

    return NAME.sub(other, line)


SYNTAX = Syntax(
    jump=frozenset({"j", "b"}),
    inverse=INVERSE,
    ends=frozenset({"jr"}),
    local=".LBB",
    emit_jump="\tj\t{}\n\tnop",
    stack=stack,
    uses=uses,
    rename=rename,
    delay=True,
    clean=clean,
)


def veneer(byteorder: str) -> Block:
    """A jump to any address, which is left in $25, as the callee expects it."""
    words = (
        0x3C190000,  # lui    $25, %highest(S)
        0x67390000,  # daddiu $25, $25, %higher(S)
        0x0019CC38,  # dsll   $25, $25, 16
        0x67390000,  # daddiu $25, $25, %hi(S)
        0x0019CC38,  # dsll   $25, $25, 16
        0x67390000,  # daddiu $25, $25, %lo(S)
        0x03200008,  # jr     $25
        0x00000000,  # nop
    )
    places = ((0, "highest"), (4, "higher"), (12, "hi16"), (20, "lo16"))
    holes = tuple(Hole(offset, field, What.OPERAND, 0, 0, offset) for offset, field in places)
    return Block(instructions(byteorder, *words), holes, align=4)


def instructions(byteorder: str, *words: int) -> bytes:
    return b"".join(word.to_bytes(4, byteorder) for word in words)  # type: ignore[arg-type]


def make(byteorder: str) -> Target:
    """The target of one byte order, `big` or `little`."""
    ending, modes = {"big": ("", ("BIG_ENDIAN",)), "little": ("el", ("LITTLE_ENDIAN",))}[byteorder]
    name = f"mips64{ending}"
    return Target(
        name=name,
        aliases=(f"{name}r2", f"mips64r2{ending}", f"{name}-unknown-linux-gnuabi64"),
        triple=f"{name}-unknown-linux-gnuabi64",
        machine=8,
        composed=True,
        byteorder=byteorder,
        cflags=(
            "-march=mips64r2", "-mabi=64", "-mno-abicalls", "-fno-pic", "-G0", "-mlong-calls", "-mnan=legacy",
            "-mno-madd4",  # some processors fuse it, others not
            "-DCNP_NEGATION_IS_ARITHMETIC",  # neg.d of a NaN is an invalid operation before release 5
            "-DCNP_NO_FMA", "-DCNP_NO_ROUNDING",
            "-DCNP_CONSTANTS_ARE_FAR",  # six instructions away
            "-DCNP_C_POSITIONS",
            "-mno-check-zero-division",  # a body says itself what happens
            "-Wno-ignored-attributes",  # short_call, where a type of function is named
        ),
        ints=10,
        floats=8,
        frame_position=0,
        convention="__attribute__((short_call))",
        fastcc=True,
        prelude=PRELUDE,
        fields=FIELDS,
        relocations=RELOCATIONS,
        syntax=SYNTAX,
        veneer=veneer(byteorder),
        nop=instructions(byteorder, 0),
        trap=instructions(byteorder, 0x0000000D),  # break
        probe=(  # jr $ra; addiu $2, $0, n in its delay slot
            (instructions(byteorder, 0x03E00008, 0x2402002A), 42),
            (instructions(byteorder, 0x03E00008, 0x24020017), 23),
        ),
        island=192 << 20,
        short_slots=(-(1 << 15), (1 << 15) - 1),
        registers=(tuple(range(5, 15)), tuple(range(8))),
        results=(2, 3),
        register_fields=REGISTER_FIELDS,
        number_fields=NUMBER_FIELDS,
        short=((-(1 << 15), (1 << 15) - 1), (0, 0xFFFF)),
        constants=CONSTANTS,
        lld=("-m", "elf64ltsmip" if ending else "elf64btsmip"),
        qemu=name,
        folds=True,
        llvm_flags=("-mllvm", "-mips-tail-calls=1"),
        capstone=("MIPS", ("MIPS64", *modes)),
    )  # fmt: skip
