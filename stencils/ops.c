/* The portable operations: what every front end needs, on slots of 8 bytes and on registers.
 *
 * i64_ operations use whole words. i32_ operations ignore the upper half of what they read and write a zero-extended
 * result. An f32 lies in the low 32 bits of its slot, whose upper half keeps what it was. Integers wrap. _s and _u say
 * how bits are understood; where that makes no difference, the name does not say it. Shifts and rotations take their
 * count modulo the width; the zeros of 0 are as many as it has bits. An immediate of an i64_ operation is 32 bits,
 * sign-extended; i64_move takes all 64.
 *
 * Floats are IEEE 754, round to nearest, ties to even, subnormals are kept. Every operation rounds once, fma too. A NaN
 * that is computed has any sign and payload; what moves a float (load, store, move, select, neg, abs, copysign, bits)
 * keeps its bits. A comparison with a NaN is false, but for ne. On mips64 the top mantissa bit of a NaN means signalling,
 * not quiet: a NaN from another machine is one there, which nothing traps on.
 *
 * Division by zero traps, and so does the one quotient that does not fit, the least number by -1. Its remainder is 0.
 * Where an operation traps, try_ and its name goes to a label instead: try_i64_rem_u d a b label. d then stays as it was.
 *
 * Loads and stores are in the byte order of the machine and aligned to the size of the access: for any alignment riscv64
 * would take 8 loads of a byte, and mips64 2 or more.
 */
#define CNP_STATE(X) CNP_REGISTERS(X)
#define CNP_RESULT r0
#include <cnp.h>
#include <cnp_math.h>

#define BY_ZERO(b) ((b) ? CNP_TRAP_NONE : CNP_TRAP_DIV_BY_ZERO)
#define NO_QUOTIENT(a, b, least) ((b) == -1 && (a) == (least) ? CNP_TRAP_OVERFLOW : BY_ZERO(b))
#define NO_NUMBER(type, f, a) (CNP_FITS_##type##_##f(a) ? CNP_TRAP_NONE : CNP_TRAP_BAD_CONVERSION)

/* ---- moves and constants; the address of a cell, a label or a symbol is a constant too */
CNP_PURE(i64_move, u64, (u64 a), a, IMM(a, 0) IMM(a, u32) IMM(a, i32) IMM(a, u64))
CNP_PURE(i32_move, u32, (u32 a), a, IMM(a, 0) IMM(a, u31) IMM(a, u32))
CNP_PURE(f64_move, f64, (f64 a), a, IMM(a, 0) IMM(a, f64))
CNP_PURE(f32_move, f32, (f32 a), a, IMM(a, 0) IMM(a, f32))
CNP_PURE(i64_select, u64, (u32 c, u64 a, u64 b), c ? a : b)
CNP_PURE(i32_select, u32, (u32 c, u32 a, u32 b), c ? a : b)
CNP_PURE(f64_select, f64, (u32 c, f64 a, f64 b), c ? a : b)
CNP_PURE(f32_select, f32, (u32 c, f32 a, f32 b), c ? a : b)

/* ---- integers of 64 bits */
CNP_PURE(i64_add, u64, (u64 a, u64 b), a + b, IMM(b, 1) IMM(b, -1) IMM(b, i32))
CNP_PURE(i64_sub, u64, (u64 a, u64 b), a - b, IMM(a, i32) IMM(b, 1) IMM(b, i32))
CNP_PURE(i64_mul, u64, (u64 a, u64 b), a * b, IMM(b, i32))
CNP_PURE(i64_mulh_s, i64, (i64 a, i64 b), (i64)((cnp_i128)a * b >> 64))
CNP_PURE(i64_mulh_u, u64, (u64 a, u64 b), (u64)((cnp_u128)a * b >> 64))
CNP_PURE(i64_madd, u64, (u64 a, u64 b, u64 c), a * b + c)
CNP_OP(i64_shadd, out(u64, d), in(u64, a), in(u64, b), imm(u32, shift, 1, 2, 3)) { *d = a + (b << shift); return NEXT; }
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
CNP_PURE(i64_clz, u64, (u64 a), a ? __builtin_clzll(a) : 64)
CNP_PURE(i64_ctz, u64, (u64 a), a ? __builtin_ctzll(a) : 64)
CNP_PURE(i64_popcnt, u64, (u64 a), __builtin_popcountll(a))
CNP_PURE(i64_bswap, u64, (u64 a), __builtin_bswap64(a))
CNP_PURE(i64_bswap32, u64, (u32 a), __builtin_bswap32(a))
CNP_PURE(i64_bswap16, u64, (u16 a), __builtin_bswap16(a))
CNP_PURE(i64_extend8_s, i64, (i8 a), a)
CNP_PURE(i64_extend8_u, u64, (u8 a), a)
CNP_PURE(i64_extend16_s, i64, (i16 a), a)
CNP_PURE(i64_extend16_u, u64, (u16 a), a)
CNP_PURE(i64_extend32_s, i64, (i32 a), a)
CNP_PURE(i64_extend32_u, u64, (u32 a), a)

CNP_TEST(i64_eq, (u64 a, u64 b), a == b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i64_ne, (u64 a, u64 b), a != b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i64_lt_s, (i64 a, i64 b), a < b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i64_le_s, (i64 a, i64 b), a <= b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i64_gt_s, (i64 a, i64 b), a > b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i64_ge_s, (i64 a, i64 b), a >= b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i64_lt_u, (u64 a, u64 b), a < b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i64_le_u, (u64 a, u64 b), a <= b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i64_gt_u, (u64 a, u64 b), a > b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i64_ge_u, (u64 a, u64 b), a >= b, IMM(b, 0) IMM(b, i32))

/* ---- integers of 32 bits */
CNP_PURE(i32_add, u32, (u32 a, u32 b), a + b, IMM(b, 1) IMM(b, -1) IMM(b, u32))
CNP_PURE(i32_sub, u32, (u32 a, u32 b), a - b, IMM(a, u32) IMM(b, 1) IMM(b, u32))
CNP_PURE(i32_mul, u32, (u32 a, u32 b), a * b, IMM(b, u32))
CNP_PURE(i32_mulh_s, i32, (i32 a, i32 b), (i32)((i64)a * b >> 32))
CNP_PURE(i32_mulh_u, u32, (u32 a, u32 b), (u32)((u64)a * b >> 32))
CNP_PURE(i32_madd, u32, (u32 a, u32 b, u32 c), a * b + c)
CNP_OP(i32_shadd, out(u32, d), in(u32, a), in(u32, b), imm(u32, shift, 1, 2, 3)) { *d = a + (b << shift); return NEXT; }
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
CNP_PURE(i32_clz, u32, (u32 a), a ? __builtin_clz(a) : 32)
CNP_PURE(i32_ctz, u32, (u32 a), a ? __builtin_ctz(a) : 32)
CNP_PURE(i32_popcnt, u32, (u32 a), __builtin_popcount(a))
CNP_PURE(i32_bswap, u32, (u32 a), __builtin_bswap32(a))
CNP_PURE(i32_bswap16, u32, (u16 a), __builtin_bswap16(a))
CNP_PURE(i32_extend8_s, i32, (i8 a), a)
CNP_PURE(i32_extend8_u, u32, (u8 a), a)
CNP_PURE(i32_extend16_s, i32, (i16 a), a)
CNP_PURE(i32_extend16_u, u32, (u16 a), a)
CNP_PURE(i32_wrap_i64, u32, (u64 a), (u32)a)

CNP_TEST(i32_eq, (u32 a, u32 b), a == b, IMM(b, 0) IMM(b, u32))
CNP_TEST(i32_ne, (u32 a, u32 b), a != b, IMM(b, 0) IMM(b, u32))
CNP_TEST(i32_lt_s, (i32 a, i32 b), a < b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i32_le_s, (i32 a, i32 b), a <= b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i32_gt_s, (i32 a, i32 b), a > b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i32_ge_s, (i32 a, i32 b), a >= b, IMM(b, 0) IMM(b, i32))
CNP_TEST(i32_lt_u, (u32 a, u32 b), a < b, IMM(b, 0) IMM(b, u32))
CNP_TEST(i32_le_u, (u32 a, u32 b), a <= b, IMM(b, 0) IMM(b, u32))
CNP_TEST(i32_gt_u, (u32 a, u32 b), a > b, IMM(b, 0) IMM(b, u32))
CNP_TEST(i32_ge_u, (u32 a, u32 b), a >= b, IMM(b, 0) IMM(b, u32))

/* ---- floats of 64 bits */
CNP_PURE(f64_add, f64, (f64 a, f64 b), a + b, IMM(b, f64))
CNP_PURE(f64_sub, f64, (f64 a, f64 b), a - b, IMM(b, f64))
CNP_PURE(f64_mul, f64, (f64 a, f64 b), a * b, IMM(b, f64))
CNP_PURE(f64_div, f64, (f64 a, f64 b), a / b, IMM(b, f64))
CNP_PURE(f64_sqrt, f64, (f64 a), __builtin_sqrt(a))
CNP_PURE(f64_fma, f64, (f64 a, f64 b, f64 c), cnp_fma_f64(a, b, c))
CNP_PURE(f64_min, f64, (f64 a, f64 b), CNP_MIN(f64, a, b))
CNP_PURE(f64_max, f64, (f64 a, f64 b), CNP_MAX(f64, a, b))
CNP_PURE(f64_floor, f64, (f64 a), cnp_floor_f64(a))
CNP_PURE(f64_ceil, f64, (f64 a), cnp_ceil_f64(a))
CNP_PURE(f64_trunc, f64, (f64 a), cnp_trunc_f64(a))
CNP_PURE(f64_nearest, f64, (f64 a), cnp_nearest_f64(a))
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
CNP_PURE(f32_fma, f32, (f32 a, f32 b, f32 c), cnp_fma_f32(a, b, c))
CNP_PURE(f32_min, f32, (f32 a, f32 b), CNP_MIN(f32, a, b))
CNP_PURE(f32_max, f32, (f32 a, f32 b), CNP_MAX(f32, a, b))
CNP_PURE(f32_floor, f32, (f32 a), cnp_floor_f32(a))
CNP_PURE(f32_ceil, f32, (f32 a), cnp_ceil_f32(a))
CNP_PURE(f32_trunc, f32, (f32 a), cnp_trunc_f32(a))
CNP_PURE(f32_nearest, f32, (f32 a), cnp_nearest_f32(a))
CNP_PURE(f32_neg, f32, (f32 a), cnp_f32(cnp_bits_f32(a) ^ SIGN32))
CNP_PURE(f32_abs, f32, (f32 a), cnp_f32(cnp_bits_f32(a) & ~SIGN32))
CNP_PURE(f32_copysign, f32, (f32 a, f32 b), cnp_f32((cnp_bits_f32(a) & ~SIGN32) | (cnp_bits_f32(b) & SIGN32)))

CNP_TEST(f32_eq, (f32 a, f32 b), a == b, IMM(b, f32))
CNP_TEST(f32_ne, (f32 a, f32 b), a != b, IMM(b, f32))
CNP_TEST(f32_lt, (f32 a, f32 b), a < b, IMM(b, f32))
CNP_TEST(f32_le, (f32 a, f32 b), a <= b, IMM(b, f32))
CNP_TEST(f32_gt, (f32 a, f32 b), a > b, IMM(b, f32))
CNP_TEST(f32_ge, (f32 a, f32 b), a >= b, IMM(b, f32))

/* ---- conversions. To integers: towards zero; what does not fit traps, or is the nearest number that there is, and 0 for a
 * NaN. To floats: rounded to nearest, ties to even. */
CNP_PURE_TRAP(i32_trunc_f32_s, i32, (f32 a), NO_NUMBER(i32, f32, a), (i32)a)
CNP_PURE_TRAP(i32_trunc_f32_u, u32, (f32 a), NO_NUMBER(u32, f32, a), (u32)a)
CNP_PURE_TRAP(i32_trunc_f64_s, i32, (f64 a), NO_NUMBER(i32, f64, a), (i32)a)
CNP_PURE_TRAP(i32_trunc_f64_u, u32, (f64 a), NO_NUMBER(u32, f64, a), (u32)a)
CNP_PURE_TRAP(i64_trunc_f32_s, i64, (f32 a), NO_NUMBER(i64, f32, a), (i64)a)
CNP_PURE_TRAP(i64_trunc_f32_u, u64, (f32 a), NO_NUMBER(u64, f32, a), (u64)a)
CNP_PURE_TRAP(i64_trunc_f64_s, i64, (f64 a), NO_NUMBER(i64, f64, a), (i64)a)
CNP_PURE_TRAP(i64_trunc_f64_u, u64, (f64 a), NO_NUMBER(u64, f64, a), (u64)a)
CNP_PURE(i32_trunc_sat_f32_s, i32, (f32 a), CNP_SATURATED(i32, f32, a, I32_MIN, I32_MAX))
CNP_PURE(i32_trunc_sat_f32_u, u32, (f32 a), CNP_SATURATED(u32, f32, a, 0, U32_MAX))
CNP_PURE(i32_trunc_sat_f64_s, i32, (f64 a), CNP_SATURATED(i32, f64, a, I32_MIN, I32_MAX))
CNP_PURE(i32_trunc_sat_f64_u, u32, (f64 a), CNP_SATURATED(u32, f64, a, 0, U32_MAX))
CNP_PURE(i64_trunc_sat_f32_s, i64, (f32 a), CNP_SATURATED(i64, f32, a, I64_MIN, I64_MAX))
CNP_PURE(i64_trunc_sat_f32_u, u64, (f32 a), CNP_SATURATED(u64, f32, a, 0, U64_MAX))
CNP_PURE(i64_trunc_sat_f64_s, i64, (f64 a), CNP_SATURATED(i64, f64, a, I64_MIN, I64_MAX))
CNP_PURE(i64_trunc_sat_f64_u, u64, (f64 a), CNP_SATURATED(u64, f64, a, 0, U64_MAX))
CNP_PURE(f64_from_i32_s, f64, (i32 a), (f64)a)
CNP_PURE(f64_from_i32_u, f64, (u32 a), (f64)a)
CNP_PURE(f64_from_i64_s, f64, (i64 a), (f64)a)
CNP_PURE(f64_from_i64_u, f64, (u64 a), (f64)a)
CNP_PURE(f32_from_i32_s, f32, (i32 a), (f32)a)
CNP_PURE(f32_from_i32_u, f32, (u32 a), (f32)a)
CNP_PURE(f32_from_i64_s, f32, (i64 a), (f32)a)
CNP_PURE(f32_from_i64_u, f32, (u64 a), (f32)a)
CNP_PURE(f64_from_f32, f64, (f32 a), a)
CNP_PURE(f32_from_f64, f32, (f64 a), (f32)a)

/* ---- the bits of a float as an integer, and back */
CNP_PURE(i64_bits_f64, u64, (f64 a), cnp_bits_f64(a))
CNP_PURE(i32_bits_f32, u32, (f32 a), cnp_bits_f32(a))
CNP_PURE(f64_bits_i64, f64, (u64 a), cnp_f64(a))
CNP_PURE(f32_bits_i32, f32, (u32 a), cnp_f32(a))

/* ---- memory: at base + offset; _at: at base + index * scale + offset; _checked: at base + index + offset, all of it below
 * base + size, where the memory begins at base and index has 32 bits. The last one traps before it touches anything. */
#define AT(memory, address) (*(memory *)(address))
#define OUTSIDE(memory) unlikely((u64)index + offset + sizeof(memory) > size)
#define LOAD(name, type, memory)                                                                                        \
    CNP_OP(name, out(type, d), in(u64, base), imm(disp, offset))                                                        \
    { *d = AT(memory, base + offset); return NEXT; }                                                                    \
    CNP_OP(name##_at, out(type, d), in(u64, base), in(u64, index), imm(u32, scale, 1, 2, 4, 8), imm(disp, offset))       \
    { *d = AT(memory, base + index * scale + offset); return NEXT; }                                                    \
    CNP_OP(name##_checked, out(type, d), in(u64, base), in(u64, size), in(u32, index), imm(disp, offset, u31))                \
    { if (OUTSIDE(memory)) return TRAP(CNP_TRAP_OUT_OF_BOUNDS); *d = AT(memory, base + index + offset); return NEXT; }
#define STORE(name, type, memory, ...)                                                                                  \
    CNP_OP(name, in(u64, base), imm(disp, offset), in(type, a __VA_OPT__(,) __VA_ARGS__))                               \
    { AT(memory, base + offset) = (memory)a; return NEXT; }                                                             \
    CNP_OP(name##_at, in(u64, base), in(u64, index), imm(u32, scale, 1, 2, 4, 8), imm(disp, offset),                    \
           in(type, a __VA_OPT__(,) __VA_ARGS__))                                                                       \
    { AT(memory, base + index * scale + offset) = (memory)a; return NEXT; }                                             \
    CNP_OP(name##_checked, in(u64, base), in(u64, size), in(u32, index), imm(disp, offset, u31), in(type, a))                 \
    { if (OUTSIDE(memory)) return TRAP(CNP_TRAP_OUT_OF_BOUNDS); AT(memory, base + index + offset) = (memory)a; return NEXT; }

LOAD(i64_load, u64, u64)
LOAD(i64_load8_s, i64, i8)
LOAD(i64_load8_u, u64, u8)
LOAD(i64_load16_s, i64, i16)
LOAD(i64_load16_u, u64, u16)
LOAD(i64_load32_s, i64, i32)
LOAD(i64_load32_u, u64, u32)
LOAD(i32_load, u32, u32)
LOAD(i32_load8_s, i32, i8)
LOAD(i32_load16_s, i32, i16)
LOAD(f64_load, f64, f64)
LOAD(f32_load, f32, f32)
STORE(i64_store, u64, u64, i32)
STORE(i64_store8, u64, u8, i32)
STORE(i64_store16, u64, u16, i32)
STORE(i64_store32, u64, u32, i32)
STORE(f64_store, f64, f64)
STORE(f32_store, f32, f32)

/* ---- arithmetic with memory at base + offset: _load: its second input lies there; _to: so does its first one, and the
 * result goes there. */
#define WITH_LOAD(name, type)                                                                                           \
    CNP_OP(name##_load, out(type, d), in(type, a), in(u64, base), imm(disp, offset))                                    \
    { *d = name(a, AT(type, base + offset)); return NEXT; }
#define UPDATE(name, type, number)                                                                                      \
    CNP_OP(name##_to, in(u64, base), imm(disp, offset), in(type, a, number))                                            \
    { AT(type, base + offset) = name(AT(type, base + offset), a); return NEXT; }

WITH_LOAD(i64_add, u64)
WITH_LOAD(i64_sub, u64)
WITH_LOAD(i64_mul, u64)
WITH_LOAD(i64_and, u64)
WITH_LOAD(i64_or, u64)
WITH_LOAD(i64_xor, u64)
WITH_LOAD(i32_add, u32)
WITH_LOAD(i32_sub, u32)
WITH_LOAD(i32_mul, u32)
WITH_LOAD(i32_and, u32)
WITH_LOAD(i32_or, u32)
WITH_LOAD(i32_xor, u32)
WITH_LOAD(f64_add, f64)
WITH_LOAD(f64_sub, f64)
WITH_LOAD(f64_mul, f64)
WITH_LOAD(f64_div, f64)
WITH_LOAD(f32_add, f32)
WITH_LOAD(f32_sub, f32)
WITH_LOAD(f32_mul, f32)
WITH_LOAD(f32_div, f32)
UPDATE(i64_add, u64, i32)
UPDATE(i64_and, u64, i32)
UPDATE(i64_or, u64, i32)
UPDATE(i64_xor, u64, i32)
UPDATE(i32_add, u32, u32)
UPDATE(i32_and, u32, u32)
UPDATE(i32_or, u32, u32)
UPDATE(i32_xor, u32, u32)

/* ---- atomic memory at base + offset, aligned, in one order for all threads. What reads and writes gives the old value. */
#define ATOMIC(name, type, value)                                                                                       \
    CNP_OP(name, out(type, d), in(u64, base), imm(disp, offset), in(type, a))                                           \
    { *d = value((type *)(base + offset), a, __ATOMIC_SEQ_CST); return NEXT; }
#define ATOMICS(name, type)                                                                                             \
    CNP_OP(name##_load, out(type, d), in(u64, base), imm(disp, offset))                                                 \
    { *d = __atomic_load_n((type *)(base + offset), __ATOMIC_SEQ_CST); return NEXT; }                                   \
    CNP_OP(name##_store, in(u64, base), imm(disp, offset), in(type, a))                                                 \
    { __atomic_store_n((type *)(base + offset), a, __ATOMIC_SEQ_CST); return NEXT; }                                    \
    CNP_OP(name##_cas, out(type, d), in(u64, base), imm(disp, offset), in(type, expected), in(type, desired))           \
    {                                                                                                                   \
        __atomic_compare_exchange_n((type *)(base + offset), &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
        *d = expected;                                                                                                  \
        return NEXT;                                                                                                    \
    }                                                                                                                   \
    ATOMIC(name##_add, type, __atomic_fetch_add)                                                                        \
    ATOMIC(name##_and, type, __atomic_fetch_and)                                                                        \
    ATOMIC(name##_or, type, __atomic_fetch_or)                                                                          \
    ATOMIC(name##_xor, type, __atomic_fetch_xor)                                                                        \
    ATOMIC(name##_exchange, type, __atomic_exchange_n)
ATOMICS(i64_atomic, u64)
ATOMICS(i32_atomic, u32)

/* ---- where to go on. A compare-and-branch is br_ and the name of the comparison; counting down goes there until d is 0; an index that a jump table does not
 * hold goes on with the operation that follows. The address of a label is a constant that i64_move takes. */
CNP_OP(jump, label(to)) { return JUMP(to); }
CNP_OP(i64_count_down, out(u64, d), in(u64, a), label(to)) { *d = a - 1; return *d ? JUMP(to) : NEXT; }
CNP_OP(jump_table, in(u64, index), imm(u32, count), table(to)) { return index < count ? JUMP_TABLE(to, index) : NEXT; }
CNP_OP(jump_address, in(u64, address)) { return JUMP_TABLE(&address, 0); }

/* ---- calls: slot 0 of the callee lies one header behind slot `base` of the caller; arguments and results are 8 bytes.
 * f is the table of callees of an indirect call. A call keeps the registers of the caller; after one that is called kill
 * they are 0, but for d. */
#define DIE(type, name) CNP_DEAD(name);
CNP_OP(call, func(f), slot(u64, base), out(u64, d)) { *d = CNP_CALL(f, base); return NEXT; }
CNP_OP(call_kill, func(f), slot(u64, base), out(u64, d)) { CNP_STATE(DIE) *d = CNP_CALL(f, base); return NEXT; }
CNP_OP(call_table, in(u64, index), imm(u32, count), table(f), slot(u64, base), out(u64, d))
{
    if (unlikely(index >= count)) return TRAP(CNP_TRAP_INDIRECT);
    *d = CNP_CALL(f[index], base);
    return NEXT;
}
CNP_OP(call_table_kill, in(u64, index), imm(u32, count), table(f), slot(u64, base), out(u64, d))
{
    if (unlikely(index >= count)) return TRAP(CNP_TRAP_INDIRECT);
    CNP_STATE(DIE)
    *d = CNP_CALL(f[index], base);
    return NEXT;
}
CNP_OP(ret, in(u64, a)) { s->CNP_RESULT = a; return RETURN; }

/* ---- calls of C functions by address. `arguments` are 16 words in slots: 8 for integers, then 8 for floats; which word an
 * argument is in is what the machine's convention makes of it (cnp_math.h). Afterwards `raised` is looked at. */
CNP_OP(call_c, in(u64, f), slot(u64, arguments), out(u64, d)) { *d = cnp_call_c_u64(f, arguments); return NEXT; }
CNP_OP(call_c_f64, in(u64, f), slot(u64, arguments), out(f64, d)) { *d = cnp_call_c_f64(f, arguments); return NEXT; }
CNP_OP(call_c_f32, in(u64, f), slot(u64, arguments), out(f32, d)) { *d = cnp_call_c_f32(f, arguments); return NEXT; }

/* ---- leaving */
CNP_OP(trap, imm(u32, code)) { return TRAP(code); }
CNP_OP(leave) { return EXIT; }
CNP_OP_SLOW(poll) { return unlikely(--CNP_CONTEXT->fuel < 0) ? SLOW : NEXT; }
CNP_SLOW(poll) { u64 code = cnp_poll(CNP_CONTEXT); return code ? TRAP(code) : NEXT; }
