"""The least number of instructions of each operation on each target, written down before the code was looked at, and
why a cell of docs/quality.md is above it.

A line of `rows` is an operation with its operands, the minima on the targets in the order of `TARGETS`, and how they come
about. `{add,sub}` stands for one row each. Operands: r1 f2 registers, s8 a slot, L a label, T a table, the rest numbers.
A minimum `-` claims nothing: the base line has no instructions for it, so that a sequence is a matter of invention.

What counts: the instructions on the likely way, checks included, up to where the next operation begins; delay slots of
mips64. What the contract asks for: an i32 is zero-extended when it is written, its upper half ignored when it is read;
nothing but the result is written, not even when an operation traps; so rdx on x86-64, which is r5, has to be kept.

A line of `above` is targets, then operations as patterns with `*`, then the reason: the test fails where one is missing,
and where one stands for a cell that needs none.
"""

from __future__ import annotations

from typing import NamedTuple

TARGETS = ("x86_64", "aarch64", "riscv64", "ppc64le", "mips64")
BASE = ("x86-64-v2", "Armv8.0-A", "rv64gc", "POWER8", "mips64r2")


class Family(NamedTuple):
    """A section of the document."""

    title: str
    rows: str
    above: str = ""


FAMILIES = (
    Family(
        "Moves and constants",
        """
        i64_move r1 r2              | 1 1 1 1 1 |
        i32_move r1 r2              | 1 1 2 1 1 | riscv64 slli, srli
        i32_wrap_i64 r1 r2          | 1 1 2 1 1 |
        {f64,f32}_move f1 f2        | 1 1 1 1 1 |
        i64_move r1 {5,-1}          | 1 1 1 1 1 |
        i64_move r1 0x12345678      | 1 2 2 2 2 |
        i64_move r1 0x123456789abcdef0 | 1 2 2 5 6 | from a pool in two on aarch64 and riscv64; made piece by piece
        i32_move r1 5               | 1 1 1 1 1 |
        i32_move r1 0x12345678      | 1 2 2 2 2 |
        f64_move f1 0.1             | 1 2 2 5 6 | from memory: the address is a part of it
        f32_move f1 0.1             | 1 2 2 5 3 | mips64 lui, ori, mtc1
        i64_select r1 r2 r3 r4      | 3 2 4 2 3 | test, move, conditional move; riscv64 has none: a branch
        i32_select r1 r2 r3 r4      | 3 2 6 3 4 | and zero-extended
        {f64,f32}_select f1 r2 f3 f4 | 4 2 4 4 3 | a branch around a move
        """,
    ),
    Family(
        "Slots",
        """
        i64_move r1 s8              | 1 1 1 1 1 |
        i64_move s8 r1              | 1 1 1 1 1 |
        i64_move s8 5               | 1 2 2 2 2 |
        i32_move r1 s8              | 1 1 1 1 1 |
        i32_move s8 r1              | 2 2 2 2 2 | the upper half becomes 0
        {f64,f32}_move f1 s8        | 1 1 1 1 1 |
        {f64,f32}_move s8 f1        | 1 1 1 1 1 |
        i64_add r1 r1 s8            | 1 2 2 2 2 |
        i64_add s8 s8 r1            | 1 3 3 3 3 |
        """,
    ),
    Family(
        "Integers of 64 bits",
        """
        i64_add r1 r2 r3            | 1 1 1 1 1 | x86-64 lea
        i64_{sub,and,or,xor} r1 r2 r3 | 2 1 1 1 1 |
        i64_{add,sub,and,or,xor} r1 r1 r2 | 1 1 1 1 1 |
        i64_{add,sub} r1 r2 5       | 1 1 1 1 1 |
        i64_sub r1 5 r2             | 2 2 2 1 2 | ppc64le subfic
        i64_{and,or,xor} r1 r2 5    | 2 2 1 1 1 | 5 is no mask of aarch64
        i64_mul r1 r2 r3            | 2 1 1 1 2 | mips64 dmult, mflo
        i64_mul r1 r1 r2            | 1 1 1 1 2 |
        i64_mul r1 r2 5             | 1 2 2 1 3 |
        i64_mulh_{s,u} r1 r2 r3     | 5 1 1 1 2 | x86-64 keeps rdx
        i64_madd r1 r2 r3 r4        | 3 1 2 2 3 |
        i64_shadd r1 r2 r3 3        | 1 1 2 2 2 |
        i64_div_u r1 r2 r3          | 8 2 2 3 3 | a check; x86-64 keeps rdx
        i64_div_s r1 r2 r3          | 9 4 4 4 5 | 0 and -1 by one check: b + 1 <= 1, unsigned
        i64_rem_u r1 r2 r3          | 8 3 2 5 3 |
        i64_rem_s r1 r2 r3          | 9 3 2 6 3 | -1 needs a check where the division would trap or be undefined
        i64_div_{s,u} r1 r2 5       | 7 2 2 2 3 | nothing to check
        i64_rem_{s,u} r1 r2 5       | 7 3 2 4 3 |
        i64_{neg,not} r1 r2         | 2 1 1 1 1 |
        i64_{shl,shr_s,shr_u} r1 r2 r6 | 2 1 1 2 1 | r6 is rcx; ppc64le cuts the count
        i64_rotl r1 r2 r6           | 2 2 4 1 2 |
        i64_rotr r1 r2 r6           | 2 1 4 2 1 |
        i64_shl r1 r2 3             | 1 1 1 1 1 | x86-64 lea
        i64_shr_{s,u} r1 r2 3       | 2 1 1 1 1 |
        i64_rot{l,r} r1 r2 3        | 2 1 3 1 1 |
        i64_shl r1 1 r6             | 2 2 2 3 2 |
        i64_clz r1 r2               | 4 1 6 1 1 | x86-64 bsr, cmov; riscv64 the exponent of a float, 0 apart
        i64_ctz r1 r2               | 3 2 7 3 5 | x86-64 bsf, cmov; ppc64le popcntd, mips64 dclz of ~(a | -a)
        i64_popcnt r1 r2            | 1 4 - 1 - | aarch64 by a vector
        i64_bswap r1 r2             | 2 1 - 3 2 | ppc64le by way of memory
        i64_bswap32 r1 r2           | 2 1 - 3 3 |
        i64_bswap16 r1 r2           | 2 2 5 2 2 |
        i64_extend{8_s,16_s} r1 r2  | 1 1 2 1 1 |
        i64_extend8_u r1 r2         | 1 1 1 1 1 |
        i64_extend16_u r1 r2        | 1 1 2 1 1 |
        i64_extend32_s r1 r2        | 1 1 1 1 1 |
        i64_extend32_u r1 r2        | 1 1 2 1 1 |
        """,
    ),
    Family(
        "Integers of 32 bits",
        """
        i32_add r1 r2 r3            | 1 1 3 2 2 | the last one or two zero-extend
        i32_{sub,and,or,xor} r1 r2 r3 | 2 1 3 2 2 |
        i32_{add,sub} r1 r2 5       | 1 1 3 2 2 |
        i32_sub r1 5 r2             | 2 2 4 2 3 |
        i32_and r1 r2 5             | 2 2 1 1 1 |
        i32_{or,xor} r1 r2 5        | 2 2 3 2 2 |
        i32_mul r1 r2 r3            | 2 1 3 2 3 |
        i32_mul r1 r2 5             | 1 2 4 2 4 |
        i32_mulh_s r1 r2 r3         | 4 2 4 2 5 |
        i32_mulh_u r1 r2 r3         | 4 2 4 2 5 |
        i32_madd r1 r2 r3 r4        | 3 1 4 3 4 |
        i32_shadd r1 r2 r3 3        | 1 1 4 3 3 |
        i32_div_u r1 r2 r3          | 8 2 5 4 6 |
        i32_div_s r1 r2 r3          | 9 4 6 5 8 |
        i32_rem_u r1 r2 r3          | 8 3 5 6 6 |
        i32_rem_s r1 r2 r3          | 9 3 5 7 6 |
        i32_{neg,not} r1 r2         | 2 1 3 2 2 |
        i32_shl r1 r2 r6            | 2 1 3 2 2 |
        i32_shr_s r1 r2 r6          | 2 1 3 3 3 |
        i32_shr_u r1 r2 r6          | 2 1 3 2 3 |
        i32_rotl r1 r2 r6           | 2 2 6 1 4 |
        i32_rotr r1 r2 r6           | 2 1 6 2 3 |
        i32_shl r1 r2 3             | 1 1 2 1 2 | x86-64 lea
        i32_shr_s r1 r2 3           | 2 1 3 2 3 |
        i32_shr_u r1 r2 3           | 2 1 1 1 1 |
        i32_rot{l,r} r1 r2 3        | 2 1 4 1 3 |
        i32_clz r1 r2               | 4 1 6 1 2 |
        i32_ctz r1 r2               | 3 2 7 4 6 |
        i32_popcnt r1 r2            | 1 4 - 2 - |
        i32_bswap r1 r2             | 2 1 - 3 3 | mips64 dsbh, dshd, dsrl32
        i32_bswap16 r1 r2           | 2 2 5 2 2 |
        i32_extend{8_s,16_s} r1 r2  | 1 1 3 2 2 |
        i32_extend8_u r1 r2         | 1 1 1 1 1 |
        i32_extend16_u r1 r2        | 1 1 2 1 1 |
        """,
    ),
    Family(
        "Comparisons of integers: compare and branch",
        """
        br_i64_{eq,ne} r1 r2 L      | 2 2 1 2 2 | mips64 with its delay slot
        br_i64_{lt_s,le_s,gt_s,ge_s,lt_u,le_u,gt_u,ge_u} r1 r2 L | 2 2 1 2 3 |
        br_i64_{eq,ne} r1 5 L       | 2 2 2 2 3 |
        br_i64_{lt_s,le_s,gt_s,ge_s,lt_u,le_u,gt_u,ge_u} r1 5 L | 2 2 2 2 3 |
        br_i64_{eq,ne,lt_s,ge_s} r1 0 L | 2 1 1 2 2 | cbz, tbz; beqz, bltz
        br_i64_{le_s,gt_s} r1 0 L   | 2 2 1 2 2 |
        br_i32_{eq,ne} r1 r2 L      | 2 2 2 2 4 | riscv64 subw; mips64 xor, sll
        br_i32_{lt_s,le_s,gt_s,ge_s,lt_u,le_u,gt_u,ge_u} r1 r2 L | 2 2 3 2 5 | both are sign-extended first
        br_i32_{eq,ne} r1 5 L       | 2 2 2 2 4 |
        br_i32_{lt_s,le_s,gt_s,ge_s,lt_u,le_u,gt_u,ge_u} r1 5 L | 2 2 3 2 4 |
        br_i32_{eq,ne,lt_s,ge_s} r1 0 L | 2 1 2 2 3 |
        """,
    ),
    Family(
        "Comparisons of integers: the value",
        """
        i64_{eq,ne} r1 r2 r3        | 3 2 2 3 2 | x86-64 xor, cmp, setcc; ppc64le out of a condition register
        i64_{lt_s,gt_s,lt_u,gt_u} r1 r2 r3 | 3 2 1 3 1 |
        i64_{le_s,ge_s,le_u,ge_u} r1 r2 r3 | 3 2 2 3 2 |
        i64_{eq,ne} r1 r2 5         | 3 2 2 3 2 |
        i64_{lt_s,le_s,lt_u,le_u} r1 r2 5 | 3 2 1 3 1 | <= 5 is < 6
        i64_{gt_s,ge_s,gt_u,ge_u} r1 r2 5 | 3 2 2 3 2 |
        i32_{eq,ne} r1 r2 r3        | 3 2 2 3 3 |
        i32_{lt_s,gt_s,lt_u,gt_u} r1 r2 r3 | 3 2 3 3 3 |
        i32_{le_s,ge_s,le_u,ge_u} r1 r2 r3 | 3 2 4 3 4 |
        i32_{eq,ne} r1 r2 5         | 3 2 2 3 3 |
        i32_{lt_s,le_s,lt_u,le_u} r1 r2 5 | 3 2 2 3 2 |
        i32_{gt_s,ge_s,gt_u,ge_u} r1 r2 5 | 3 2 3 3 3 |
        """,
    ),
    Family(
        "Comparisons of integers: select",
        """
        sel_i64_{eq,ne,lt_s,le_s,gt_s,ge_s,lt_u,le_u,gt_u,ge_u} r1 r2 r3 r4 r5 | 3 2 3 2 3 | riscv64 move, branch, move
        sel_i32_{eq,ne} r1 r2 r3 r4 r5 | 3 2 4 2 4 |
        sel_i32_{lt_s,le_s,gt_s,ge_s,lt_u,le_u,gt_u,ge_u} r1 r2 r3 r4 r5 | 3 2 5 2 5 |
        """,
    ),
    Family(
        "Floats of 64 bits",
        """
        f64_{add,sub,mul,div} f1 f2 f3 | 2 1 1 1 1 |
        f64_{add,sub,mul,div} f1 f1 f2 | 1 1 1 1 1 |
        f64_add f1 f2 0.1           | 2 3 3 6 7 |
        f64_sqrt f1 f2              | 1 1 1 1 1 |
        f64_fma f1 f2 f3 f4         | - 1 1 1 - | in software where there is none
        f64_{min,max} f1 f2 f3      | 4 1 5 3 5 | equal numbers and NaNs out of line
        f64_{floor,ceil,trunc,nearest} f1 f2 | 1 1 9 1 13 | to an integer and back where there is none
        f64_neg f1 f2               | 2 1 1 1 5 | mips64 by way of an integer: neg.d is arithmetic
        f64_abs f1 f2               | 2 1 1 1 3 |
        f64_copysign f1 f2 f3       | 4 3 1 1 5 | ((a ^ b) & sign) ^ a
        f64_{eq,ne} r1 f2 f3        | 4 2 1 3 3 | x86-64 cmpsd
        f64_{lt,gt} r1 f2 f3        | 3 2 1 3 3 |
        f64_{le,ge} r1 f2 f3        | 3 2 1 4 3 | ppc64le cror
        br_f64_{eq,ne} f2 f3 L      | 3 2 2 2 3 | x86-64 by two branches
        br_f64_{lt,gt} f2 f3 L      | 2 2 2 2 3 |
        br_f64_{le,ge} f2 f3 L      | 2 2 2 3 3 |
        sel_f64_{eq,ne} r1 f2 f3 r4 r5 | 4 2 4 2 3 |
        sel_f64_{lt,gt} r1 f2 f3 r4 r5 | 3 2 4 2 3 |
        sel_f64_{le,ge} r1 f2 f3 r4 r5 | 3 2 4 3 3 |
        """,
    ),
    Family(
        "Floats of 32 bits",
        """
        f32_{add,sub,mul,div} f1 f2 f3 | 2 1 1 1 1 |
        f32_add f1 f2 0.1           | 2 3 3 6 4 |
        f32_sqrt f1 f2              | 1 1 1 1 1 |
        f32_fma f1 f2 f3 f4         | - 1 1 1 - | in software where there is none
        f32_{min,max} f1 f2 f3      | 4 1 5 3 5 |
        f32_{floor,ceil,trunc,nearest} f1 f2 | 1 1 8 1 12 |
        f32_neg f1 f2               | 2 1 1 1 4 |
        f32_abs f1 f2               | 2 1 1 1 3 |
        f32_copysign f1 f2 f3       | 4 2 1 1 5 |
        f32_{eq,ne} r1 f2 f3        | 4 2 1 3 3 |
        f32_{lt,gt} r1 f2 f3        | 3 2 1 3 3 |
        f32_{le,ge} r1 f2 f3        | 3 2 1 4 3 |
        br_f32_{eq,ne} f2 f3 L      | 3 2 2 2 3 |
        br_f32_{lt,gt} f2 f3 L      | 2 2 2 2 3 |
        br_f32_{le,ge} f2 f3 L      | 2 2 2 3 3 |
        sel_f32_{eq,ne} r1 f2 f3 r4 r5 | 4 2 4 2 3 |
        sel_f32_{lt,gt} r1 f2 f3 r4 r5 | 3 2 4 2 3 |
        sel_f32_{le,ge} r1 f2 f3 r4 r5 | 3 2 4 3 3 |
        """,
    ),
    Family(
        "Conversions",
        """
        i32_trunc_{f32,f64}_s r1 f2 | 4 5 5 6 6 | nothing is written before the check
        i32_trunc_{f32,f64}_u r1 f2 | 5 5 5 6 6 |
        i64_trunc_{f32,f64}_{s,u} r1 f2 | 4 5 5 6 7 | what is 2^62 or more out of line
        i32_trunc_sat_{f32,f64}_s r1 f2 | 3 1 5 4 5 | what saturates out of line
        i32_trunc_sat_{f32,f64}_u r1 f2 | 4 1 5 2 5 |
        i64_trunc_sat_{f32,f64}_s r1 f2 | 3 1 3 4 6 |
        i64_trunc_sat_{f32,f64}_u r1 f2 | 3 1 3 2 6 |
        {f32,f64}_from_i32_s f1 r2  | 1 1 1 2 2 |
        {f32,f64}_from_i32_u f1 r2  | 2 1 1 2 3 |
        {f32,f64}_from_i64_s f1 r2  | 1 1 1 2 2 |
        {f32,f64}_from_i64_u f1 r2  | 3 1 1 2 3 | 2^63 and more out of line
        f64_from_f32 f1 f2          | 1 1 1 1 1 |
        f32_from_f64 f1 f2          | 1 1 1 1 1 |
        i64_bits_f64 r1 f2          | 1 1 1 1 1 |
        f64_bits_i64 f1 r2          | 1 1 1 1 1 |
        i32_bits_f32 r1 f2          | 1 1 3 3 2 | ppc64le xscvdpspn: its registers hold the f64 of the value
        f32_bits_i32 f1 r2          | 1 1 1 3 1 |
        """,
    ),
    Family(
        "Memory",
        """
        i64_load r1 r2 8            | 1 1 1 1 1 |
        i64_load{8_u,16_s,16_u,32_s,32_u} r1 r2 8 | 1 1 1 1 1 |
        i64_load8_s r1 r2 8         | 1 1 1 2 1 |
        i32_load r1 r2 8            | 1 1 1 1 1 |
        i32_load8_s r1 r2 8         | 1 1 3 3 2 |
        i32_load16_s r1 r2 8        | 1 1 3 2 2 |
        {f64,f32}_load f1 r2 8      | 1 1 1 1 1 |
        i64_store{,8,16,32} r2 8 r3 | 1 1 1 1 1 |
        {f64,f32}_store r2 8 f3     | 1 1 1 1 1 |
        i64_store{,8,16,32} r2 8 5  | 1 2 2 2 2 |
        i64_load_at r1 r2 r3 8 8    | 1 2 3 3 3 |
        i64_load_at r1 r2 r3 8 0    | 1 1 3 2 3 |
        i64_load8_u_at r1 r2 r3 1 8 | 1 2 2 2 2 |
        i64_load8_u_at r1 r2 r3 1 0 | 1 1 2 1 2 |
        i64_load8_s_at r1 r2 r3 1 8 | 1 2 2 3 2 |
        i64_load16_{s,u}_at r1 r2 r3 2 8 | 1 2 3 3 3 |
        i64_load32_{s,u}_at r1 r2 r3 4 8 | 1 2 3 3 3 |
        i32_load_at r1 r2 r3 4 8    | 1 2 3 3 3 |
        i32_load8_s_at r1 r2 r3 1 8 | 1 2 4 4 3 |
        i32_load16_s_at r1 r2 r3 2 8 | 1 2 5 4 4 |
        f64_load_at f1 r2 r3 8 8    | 1 2 3 3 3 |
        f64_load_at f1 r2 r3 8 0    | 1 1 3 2 3 |
        f32_load_at f1 r2 r3 4 8    | 1 2 3 3 3 |
        i64_store_at r2 r3 8 8 r4   | 1 2 3 3 3 |
        i64_store_at r2 r3 8 0 r4   | 1 1 3 2 3 |
        i64_store8_at r2 r3 1 8 r4  | 1 2 2 2 2 |
        i64_store16_at r2 r3 2 8 r4 | 1 2 3 3 3 |
        i64_store32_at r2 r3 4 8 r4 | 1 2 3 3 3 |
        f64_store_at r2 r3 8 8 f4   | 1 2 3 3 3 |
        f32_store_at r2 r3 4 8 f4   | 1 2 3 3 3 |
        i64_load{,8_u,16_s,16_u,32_s,32_u}_checked r1 r2 r3 r4 8 | 5 6 6 6 6 | zero-extend, add, compare, branch, add, load
        i64_load8_s_checked r1 r2 r3 r4 8 | 5 6 6 7 6 |
        i32_load_checked r1 r2 r3 r4 8 | 5 6 6 6 6 |
        i32_load8_s_checked r1 r2 r3 r4 8 | 5 6 8 8 7 |
        i32_load16_s_checked r1 r2 r3 r4 8 | 5 6 8 7 7 |
        {f64,f32}_load_checked f1 r2 r3 r4 8 | 5 6 6 6 6 |
        i64_store{,8,16,32}_checked r2 r3 r4 8 r5 | 5 6 6 6 6 |
        {f64,f32}_store_checked r2 r3 r4 8 f5 | 5 6 6 6 6 |
        """,
    ),
    Family(
        "Atomic memory",
        """
        i64_atomic_load r1 r2 8     | 1 2 3 3 2 |
        i64_atomic_store r2 8 r3    | 2 2 2 2 3 |
        i64_atomic_add r1 r2 8 r3   | 2 5 2 7 7 |
        i64_atomic_{and,or,xor} r1 r2 8 r3 | 6 5 2 7 7 |
        i64_atomic_exchange r1 r2 8 r3 | 2 4 2 6 7 |
        i64_atomic_cas r1 r2 8 r3 r4 | 3 6 5 8 8 |
        i32_atomic_load r1 r2 8     | 1 2 3 3 2 |
        i32_atomic_store r2 8 r3    | 2 2 2 2 3 |
        i32_atomic_add r1 r2 8 r3   | 2 5 4 7 8 |
        i32_atomic_{and,or,xor} r1 r2 8 r3 | 6 5 4 7 8 |
        i32_atomic_exchange r1 r2 8 r3 | 2 4 4 6 8 |
        i32_atomic_cas r1 r2 8 r3 r4 | 3 6 8 8 10 |
        """,
    ),
    Family(
        "Where to go on",
        """
        jump L                      | 1 1 1 1 2 |
        jump_table r1 4 T           | 4 6 7 11 12 | the address of the table is a part of it
        jump_address r1             | 1 1 1 2 2 |
        poll                        | 3 5 5 5 5 | counts down in the context
        """,
    ),
)
