/* The portable operations: what every front end needs, on slots of 8 bytes.
 *
 * i64_ operations use whole slots. i32_ operations ignore the upper half of what they read and write a zero-extended
 * result. An f32 lies in the low 32 bits of its slot; the upper half keeps what it was. Integers wrap. _s and _u say
 * how bits are understood; where that makes no difference, the name does not say it. Shifts and rotations take their
 * count modulo the width. An immediate of an i64_ operation is 32 bits, sign-extended; i64_move takes all 64.
 *
 * Floats are IEEE 754, round to nearest, ties to even, subnormals are kept. A NaN that is computed has any sign and
 * payload; what moves a float (load, store, move, neg, abs, copysign) keeps its bits. On mips64 the top mantissa bit of
 * a NaN means signalling, not quiet: a NaN from another machine is one there, which nothing traps on.
 *
 * Division by zero traps, and so does the one quotient that does not fit, the least number by -1. Its remainder is 0.
 *
 * Loads and stores take address + offset, in the byte order of the machine, aligned to the size of the access.
 */
#define CNP_STATE(X) X(u64, value) /* what the last call or this function returned: all else lies in slots */
#define CNP_RESULT value
#include <cnp.h>

#define I32_MIN (-0x7fffffff - 1)
#define I64_MIN (-0x7fffffffffffffff - 1)
#define BY_ZERO(b) ((b) ? CNP_TRAP_NONE : CNP_TRAP_DIV_BY_ZERO)
#define NO_QUOTIENT(a, b, least) ((b) == -1 && (a) == (least) ? CNP_TRAP_OVERFLOW : BY_ZERO(b))
#define SIGN32 0x80000000u
#define SIGN64 0x8000000000000000ull

/* ---- moves and constants; the address of a cell, a label or a symbol is a constant too */
CNP_PURE(i64_move, u64, (u64 a), a, IMM(a, i32) IMM(a, u64))
CNP_PURE(i32_move, u32, (u32 a), a, IMM(a, u32))
CNP_PURE(f64_move, f64, (f64 a), a, IMM(a, f64))
CNP_PURE(f32_move, f32, (f32 a), a, IMM(a, f32))
CNP_PURE(i64_select, u64, (u32 c, u64 a, u64 b), c ? a : b)

/* ---- integers of 64 bits */
CNP_PURE(i64_add, u64, (u64 a, u64 b), a + b, IMM(b, i32))
CNP_PURE(i64_sub, u64, (u64 a, u64 b), a - b, IMM(a, i32) IMM(b, i32))
CNP_PURE(i64_mul, u64, (u64 a, u64 b), a * b, IMM(b, i32))
CNP_PURE_TRAP(i64_div_s, i64, (i64 a, i64 b), NO_QUOTIENT(a, b, I64_MIN), a / b, IMM(b, i32))
CNP_PURE_TRAP(i64_div_u, u64, (u64 a, u64 b), BY_ZERO(b), a / b, IMM(b, i32))
CNP_PURE_TRAP(i64_rem_s, i64, (i64 a, i64 b), BY_ZERO(b), b == -1 ? 0 : a % b, IMM(b, i32))
CNP_PURE_TRAP(i64_rem_u, u64, (u64 a, u64 b), BY_ZERO(b), a % b, IMM(b, i32))
CNP_PURE(i64_and, u64, (u64 a, u64 b), a & b, IMM(b, i32))
CNP_PURE(i64_or, u64, (u64 a, u64 b), a | b, IMM(b, i32))
CNP_PURE(i64_xor, u64, (u64 a, u64 b), a ^ b, IMM(b, i32))
CNP_PURE(i64_neg, u64, (u64 a), -a)
CNP_PURE(i64_not, u64, (u64 a), ~a)
CNP_PURE(i64_shl, u64, (u64 a, u64 b), a << (b & 63), IMM(a, i32) IMM(b, u6))
CNP_PURE(i64_shr_s, i64, (i64 a, u64 b), a >> (b & 63), IMM(b, u6))
CNP_PURE(i64_shr_u, u64, (u64 a, u64 b), a >> (b & 63), IMM(b, u6))
CNP_PURE(i64_rotl, u64, (u64 a, u64 b), a << (b & 63) | a >> (-b & 63), IMM(b, u6))
CNP_PURE(i64_rotr, u64, (u64 a, u64 b), a >> (b & 63) | a << (-b & 63), IMM(b, u6))
CNP_PURE(i64_extend8_s, i64, (i8 a), a)
CNP_PURE(i64_extend16_s, i64, (i16 a), a)
CNP_PURE(i64_extend32_s, i64, (i32 a), a)

CNP_TEST(i64_eq, (u64 a, u64 b), a == b, IMM(b, i32))
CNP_TEST(i64_ne, (u64 a, u64 b), a != b, IMM(b, i32))
CNP_TEST(i64_lt_s, (i64 a, i64 b), a < b, IMM(b, i32))
CNP_TEST(i64_le_s, (i64 a, i64 b), a <= b, IMM(b, i32))
CNP_TEST(i64_gt_s, (i64 a, i64 b), a > b, IMM(b, i32))
CNP_TEST(i64_ge_s, (i64 a, i64 b), a >= b, IMM(b, i32))
CNP_TEST(i64_lt_u, (u64 a, u64 b), a < b, IMM(b, i32))
CNP_TEST(i64_le_u, (u64 a, u64 b), a <= b, IMM(b, i32))
CNP_TEST(i64_gt_u, (u64 a, u64 b), a > b, IMM(b, i32))
CNP_TEST(i64_ge_u, (u64 a, u64 b), a >= b, IMM(b, i32))

/* ---- integers of 32 bits */
CNP_PURE(i32_add, u32, (u32 a, u32 b), a + b, IMM(b, u32))
CNP_PURE(i32_sub, u32, (u32 a, u32 b), a - b, IMM(a, u32) IMM(b, u32))
CNP_PURE(i32_mul, u32, (u32 a, u32 b), a * b, IMM(b, u32))
CNP_PURE_TRAP(i32_div_s, i32, (i32 a, i32 b), NO_QUOTIENT(a, b, I32_MIN), a / b, IMM(b, i32))
CNP_PURE_TRAP(i32_div_u, u32, (u32 a, u32 b), BY_ZERO(b), a / b, IMM(b, u32))
CNP_PURE_TRAP(i32_rem_s, i32, (i32 a, i32 b), BY_ZERO(b), b == -1 ? 0 : a % b, IMM(b, i32))
CNP_PURE_TRAP(i32_rem_u, u32, (u32 a, u32 b), BY_ZERO(b), a % b, IMM(b, u32))
CNP_PURE(i32_and, u32, (u32 a, u32 b), a & b, IMM(b, u32))
CNP_PURE(i32_or, u32, (u32 a, u32 b), a | b, IMM(b, u32))
CNP_PURE(i32_xor, u32, (u32 a, u32 b), a ^ b, IMM(b, u32))
CNP_PURE(i32_neg, u32, (u32 a), -a)
CNP_PURE(i32_not, u32, (u32 a), ~a)
CNP_PURE(i32_shl, u32, (u32 a, u32 b), a << (b & 31), IMM(a, u32) IMM(b, u5))
CNP_PURE(i32_shr_s, i32, (i32 a, u32 b), a >> (b & 31), IMM(b, u5))
CNP_PURE(i32_shr_u, u32, (u32 a, u32 b), a >> (b & 31), IMM(b, u5))
CNP_PURE(i32_rotl, u32, (u32 a, u32 b), a << (b & 31) | a >> (-b & 31), IMM(b, u5))
CNP_PURE(i32_rotr, u32, (u32 a, u32 b), a >> (b & 31) | a << (-b & 31), IMM(b, u5))
CNP_PURE(i32_extend8_s, i32, (i8 a), a)
CNP_PURE(i32_extend16_s, i32, (i16 a), a)

CNP_TEST(i32_eq, (u32 a, u32 b), a == b, IMM(b, u32))
CNP_TEST(i32_ne, (u32 a, u32 b), a != b, IMM(b, u32))
CNP_TEST(i32_lt_s, (i32 a, i32 b), a < b, IMM(b, i32))
CNP_TEST(i32_le_s, (i32 a, i32 b), a <= b, IMM(b, i32))
CNP_TEST(i32_gt_s, (i32 a, i32 b), a > b, IMM(b, i32))
CNP_TEST(i32_ge_s, (i32 a, i32 b), a >= b, IMM(b, i32))
CNP_TEST(i32_lt_u, (u32 a, u32 b), a < b, IMM(b, u32))
CNP_TEST(i32_le_u, (u32 a, u32 b), a <= b, IMM(b, u32))
CNP_TEST(i32_gt_u, (u32 a, u32 b), a > b, IMM(b, u32))
CNP_TEST(i32_ge_u, (u32 a, u32 b), a >= b, IMM(b, u32))

/* ---- floats of 64 bits */
CNP_PURE(f64_add, f64, (f64 a, f64 b), a + b, IMM(b, f64))
CNP_PURE(f64_sub, f64, (f64 a, f64 b), a - b, IMM(b, f64))
CNP_PURE(f64_mul, f64, (f64 a, f64 b), a * b, IMM(b, f64))
CNP_PURE(f64_div, f64, (f64 a, f64 b), a / b, IMM(b, f64))
CNP_PURE(f64_sqrt, f64, (f64 a), __builtin_sqrt(a))
CNP_PURE(f64_neg, f64, (f64 a), cnp_f64(cnp_bits_f64(a) ^ SIGN64))
CNP_PURE(f64_abs, f64, (f64 a), cnp_f64(cnp_bits_f64(a) & ~SIGN64))
CNP_PURE(f64_copysign, f64, (f64 a, f64 b), cnp_f64((cnp_bits_f64(a) & ~SIGN64) | (cnp_bits_f64(b) & SIGN64)))

CNP_TEST(f64_eq, (f64 a, f64 b), a == b, IMM(b, f64))
CNP_TEST(f64_ne, (f64 a, f64 b), a != b, IMM(b, f64))
CNP_TEST(f64_lt, (f64 a, f64 b), a < b, IMM(b, f64))
CNP_TEST(f64_le, (f64 a, f64 b), a <= b, IMM(b, f64))
CNP_TEST(f64_gt, (f64 a, f64 b), a > b, IMM(b, f64))
CNP_TEST(f64_ge, (f64 a, f64 b), a >= b, IMM(b, f64))

/* ---- floats of 32 bits */
CNP_PURE(f32_add, f32, (f32 a, f32 b), a + b, IMM(b, f32))
CNP_PURE(f32_sub, f32, (f32 a, f32 b), a - b, IMM(b, f32))
CNP_PURE(f32_mul, f32, (f32 a, f32 b), a * b, IMM(b, f32))
CNP_PURE(f32_div, f32, (f32 a, f32 b), a / b, IMM(b, f32))
CNP_PURE(f32_sqrt, f32, (f32 a), __builtin_sqrtf(a))
CNP_PURE(f32_neg, f32, (f32 a), cnp_f32(cnp_bits_f32(a) ^ SIGN32))
CNP_PURE(f32_abs, f32, (f32 a), cnp_f32(cnp_bits_f32(a) & ~SIGN32))
CNP_PURE(f32_copysign, f32, (f32 a, f32 b), cnp_f32((cnp_bits_f32(a) & ~SIGN32) | (cnp_bits_f32(b) & SIGN32)))

CNP_TEST(f32_eq, (f32 a, f32 b), a == b, IMM(b, f32))
CNP_TEST(f32_ne, (f32 a, f32 b), a != b, IMM(b, f32))
CNP_TEST(f32_lt, (f32 a, f32 b), a < b, IMM(b, f32))
CNP_TEST(f32_le, (f32 a, f32 b), a <= b, IMM(b, f32))
CNP_TEST(f32_gt, (f32 a, f32 b), a > b, IMM(b, f32))
CNP_TEST(f32_ge, (f32 a, f32 b), a >= b, IMM(b, f32))

/* ---- conversions that lose nothing */
CNP_PURE(f64_from_i32_s, f64, (i32 a), a)
CNP_PURE(f64_from_i32_u, f64, (u32 a), a)
CNP_PURE(f64_from_f32, f64, (f32 a), a)

/* ---- memory */
CNP_LOAD(i64_load, u64, u64)
CNP_LOAD(i64_load8_s, i64, i8)
CNP_LOAD(i64_load8_u, u64, u8)
CNP_LOAD(i64_load16_s, i64, i16)
CNP_LOAD(i64_load16_u, u64, u16)
CNP_LOAD(i64_load32_s, i64, i32)
CNP_LOAD(i64_load32_u, u64, u32)
CNP_LOAD(i32_load, u32, u32)
CNP_LOAD(i32_load8_s, i32, i8)
CNP_LOAD(i32_load16_s, i32, i16)
CNP_LOAD(f64_load, f64, f64)
CNP_LOAD(f32_load, f32, f32)
CNP_STORE(i64_store, u64, u64)
CNP_STORE(i64_store8, u64, u8)
CNP_STORE(i64_store16, u64, u16)
CNP_STORE(i64_store32, u64, u32)
CNP_STORE(f64_store, f64, f64)
CNP_STORE(f32_store, f32, f32)

/* ---- where to go on. A compare-and-branch is br_ and the name of the comparison; an index that a jump table does not
 * hold goes on with the operation that follows. */
CNP_OP(jump, label(to)) { return JUMP(to); }
CNP_OP(jump_table, slot(u64, index), imm(u32, count), table(to)) { return *index < count ? JUMP_TABLE(to, *index) : NEXT; }

/* ---- calls: slot 0 of the callee lies one header behind slot `base` of the caller; arguments and results are 8 bytes.
 * f is the table of callees of an indirect call. */
CNP_OP(call, func(f), slot(u64, base), slot(u64, d)) { s->value = *d = CNP_CALL(f, base); return NEXT; }
CNP_OP(call_table, slot(u64, index), imm(u32, count), table(f), slot(u64, base), slot(u64, d))
{
    if (unlikely(*index >= count)) return TRAP(CNP_TRAP_INDIRECT);
    s->value = *d = CNP_CALL(f[*index], base);
    return NEXT;
}
CNP_OP(ret, slot(u64, a)) { s->value = *a; return RETURN; }

/* ---- leaving */
CNP_OP(trap, imm(u32, code)) { return TRAP(code); }
CNP_OP(leave) { return EXIT; }
CNP_OP_SLOW(poll) { return unlikely(--CNP_CONTEXT->fuel < 0) ? SLOW : NEXT; }
CNP_SLOW(poll) { u64 code = cnp_poll(CNP_CONTEXT); return code ? TRAP(code) : NEXT; }
