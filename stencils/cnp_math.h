/* cnp_math.h: what the operations of ops.c compute where C has no expression for it, on bits and whole numbers.
 *
 * A target's flags say what its base line lacks: CNP_NO_FMA, a fused multiply-add; CNP_NO_ROUNDING, the roundings of a
 * float to a float. What stands here in their place gives the same bits. They also say what it has: CNP_MINIMUM, a minimum
 * with the rules below; CNP_CASTS_SATURATE, conversions that saturate, C's casts being told to do so. Functions that are
 * not inlined become routines that all stencils share.
 */
#ifndef CNP_MATH_H
#define CNP_MATH_H
#include <cnp.h>

typedef __int128 cnp_i128;
typedef unsigned __int128 cnp_u128;

#define I32_MIN (-0x7fffffff - 1)
#define I32_MAX 0x7fffffff
#define U32_MAX 0xffffffffu
#define I64_MIN (-0x7fffffffffffffff - 1)
#define I64_MAX 0x7fffffffffffffff
#define U64_MAX 0xffffffffffffffffull
#define SIGN32 0x80000000u
#define SIGN64 0x8000000000000000ull

/* ---- 2 ** n and -(2 ** n) as floats. Where a constant in memory is many instructions away, so that its bits are made in
 * fewer, clang must not see that they are constant. */
#ifdef CNP_CONSTANTS_ARE_FAR
#define CNP_HIDE(bits) __asm__("" : "+r"(bits));
#else
#define CNP_HIDE(bits)
#endif
CNP_INLINE f64 cnp_power_f64(u64 n) { u64 bits = (1023 + n) << 52; CNP_HIDE(bits) return cnp_f64(bits); }
CNP_INLINE f32 cnp_power_f32(u32 n) { u32 bits = (127 + n) << 23; CNP_HIDE(bits) return cnp_f32(bits); }
CNP_INLINE f64 cnp_minus_f64(u64 n) { u64 bits = (3071 + n) << 52; CNP_HIDE(bits) return cnp_f64(bits); }
CNP_INLINE f32 cnp_minus_f32(u32 n) { u32 bits = (383 + n) << 23; CNP_HIDE(bits) return cnp_f32(bits); }

/* ---- min and max as in WebAssembly: a NaN wins, and -0 is less than 0. Equal numbers differ in their sign at most. */
#if defined(CNP_MINIMUM) && __has_builtin(__builtin_elementwise_minimum)
#define CNP_MIN(f, a, b) __builtin_elementwise_minimum(a, b)
#define CNP_MAX(f, a, b) __builtin_elementwise_maximum(a, b)
#else
#define CNP_EXTREME(f, a, b, lies, combine) \
    (likely((a) < (b) || (a) > (b)) ? (a) lies (b) ? (a) : (b) \
     : (a) == (b) ? cnp_##f(cnp_bits_##f(a) combine cnp_bits_##f(b)) : (a) + (b))
#define CNP_MIN(f, a, b) CNP_EXTREME(f, a, b, <, |)
#define CNP_MAX(f, a, b) CNP_EXTREME(f, a, b, >, &)
#endif

/* ---- to a whole number that is a float, the sign of a zero kept: towards -inf, inf, 0; to the nearest, ties to even */
#ifdef CNP_NO_ROUNDING
/* From 2 ** bits on all floats are whole; the sum with it is rounded to a whole number. A NaN is none of both. */
#define CNP_ROUND(f, name, bits, type, digits, rounded)                                       \
    CNP_INLINE f cnp_##name##_##f(f a)                                                        \
    {                                                                                         \
        f size = cnp_##f(cnp_bits_##f(a) & ~SIGN##bits), limit = cnp_power_##f(digits);       \
        if (unlikely(!(size < limit))) return a + (f)0; /* quiet */                                    \
        f whole = rounded;                                                                    \
        return cnp_##f((cnp_bits_##f(whole) & ~SIGN##bits) | (cnp_bits_##f(a) & SIGN##bits)); \
    }
#define CNP_ROUNDINGS(f, bits, type, digits)                                                  \
    CNP_ROUND(f, trunc, bits, type, digits, (f)(type)a)                                       \
    CNP_ROUND(f, floor, bits, type, digits, (f)((type)a - ((f)(type)a > a)))                  \
    CNP_ROUND(f, ceil, bits, type, digits, (f)((type)a + ((f)(type)a < a)))                   \
    CNP_ROUND(f, nearest, bits, type, digits, size + limit - limit)
CNP_ROUNDINGS(f64, 64, i64, 52)
CNP_ROUNDINGS(f32, 32, i32, 23)
#else
CNP_INLINE f64 cnp_floor_f64(f64 a) { return __builtin_floor(a); }
CNP_INLINE f64 cnp_ceil_f64(f64 a) { return __builtin_ceil(a); }
CNP_INLINE f64 cnp_trunc_f64(f64 a) { return __builtin_trunc(a); }
CNP_INLINE f64 cnp_nearest_f64(f64 a) { return __builtin_rint(a); }
CNP_INLINE f32 cnp_floor_f32(f32 a) { return __builtin_floorf(a); }
CNP_INLINE f32 cnp_ceil_f32(f32 a) { return __builtin_ceilf(a); }
CNP_INLINE f32 cnp_trunc_f32(f32 a) { return __builtin_truncf(a); }
CNP_INLINE f32 cnp_nearest_f32(f32 a) { return __builtin_rintf(a); }
#endif

/* ---- a * b + c, rounded once */
#ifdef CNP_NO_FMA
/* a * b is exact in 64 bits. The sum is rounded to odd: where it is not exact, the neighbour whose last bit is 1. That
 * keeps which side of a tie it lay on, so that rounding once more to 32 bits rounds the exact sum. */
CNP_INLINE f32 cnp_fma_f32(f32 a, f32 b, f32 c)
{
    f64 product = (f64)a * b, sum = product + c;
    f64 other = sum - product, error = (product - (sum - other)) + (c - other); /* sum + error is exact; NaN by an inf */
    u64 bits = cnp_bits_f64(sum);
    if ((error < 0 || error > 0) && !(bits & 1)) bits += (error > 0) == (sum > 0) ? 1 : -1;
    return (f32)cnp_f64(bits);
}

typedef struct cnp_number { i64 exponent; u64 whole; } cnp_number; /* whole * 2 ** exponent, 2 ** 52 <= whole < 2 ** 53 */
CNP_INLINE cnp_number cnp_split(f64 a) /* not of 0, infinities and NaNs */
{
    u64 bits = cnp_bits_f64(a), fraction = bits << 12 >> 12;
    i64 exponent = (i64)(bits << 1 >> 53);
    if (exponent) return (cnp_number){ exponent - 1075, fraction | 1ull << 52 };
    int up = __builtin_clzll(fraction) - 11;
    return (cnp_number){ -1074 - up, fraction << up };
}
/* a >> by, with a last bit of 1 if anything was lost: it decides between exact, half and more. */
CNP_INLINE cnp_u128 cnp_shift_sticky(cnp_u128 a, u64 by)
{
    if (by > 127) return 1;
    return a >> by | ((a & (((cnp_u128)1 << by) - 1)) != 0);
}
/* Both terms as numbers of 128 bits with 2 spare ones at the top: the product begins with bit 124 or 125, c with bit 124.
 *
 *     bit 127 126 125 124             52           20            0
 *          0   0  [     product, 106 bits       ] 0 0 0 0 0 0 0 0
 *          0   0   0 [ c, 53 bits    ] 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 *
 * The lesser one is shifted down to the exponent of the other. Bits are lost only where it lies so far below that the
 * sum keeps its first 100 bits, so that one sticky bit stands for all of them. `used`: clang then leaves its calling
 * convention as it is, and the copies of all objects are the same. */
static __attribute__((noinline, used)) f64 cnp_fma_f64(f64 a, f64 b, f64 c)
{
    f64 product = a * b;
    u64 sign = (cnp_bits_f64(a) ^ cnp_bits_f64(b)) & SIGN64, sign_c = cnp_bits_f64(c) & SIGN64;
    if (a == 0 || b == 0 || a - a != 0 || b - b != 0) return product + c; /* exact, infinite or a NaN */
    if (c - c != 0) return c + c;
    if (c == 0) return product == 0 ? cnp_f64(sign) : product;
    cnp_number x = cnp_split(a), y = cnp_split(b), z = cnp_split(c);
    cnp_u128 greater = (cnp_u128)x.whole * y.whole << 20, lesser = (cnp_u128)z.whole << 72;
    i64 exponent = x.exponent + y.exponent - 20, below = exponent - (z.exponent - 72);
    if (below < 0) {
        greater = cnp_shift_sticky(greater, (u64)-below);
        exponent -= below;
    } else {
        lesser = cnp_shift_sticky(lesser, (u64)below);
    }
    cnp_u128 sum = greater + lesser;
    if (sign != sign_c) {
        if (greater == lesser) return 0;
        sum = greater > lesser ? greater - lesser : lesser - greater;
        if (lesser > greater) sign = sign_c;
    }
    int up = ((u64)(sum >> 64) ? __builtin_clzll((u64)(sum >> 64)) : 64 + __builtin_clzll((u64)sum)) - 1;
    sum <<= up; /* from here on the first bit is bit 126 */
    exponent += 126 - up; /* … and stands for 2 ** exponent */
    if (exponent > 1023) return cnp_f64(sign | 0x7ffull << 52);
    u64 lost = exponent >= -1022 ? 74 : 74 + (u64)(-1022 - exponent);
    if (lost > 127) return cnp_f64(sign);
    cnp_u128 half = (cnp_u128)1 << (lost - 1), rest = sum & (half * 2 - 1);
    u64 bits = (u64)(sum >> lost);
    bits += rest > half || (rest == half && (bits & 1));
    if (exponent >= -1022) bits += (u64)(exponent + 1022) << 52; /* the first bit of 53 counts one more */
    return cnp_f64(sign | bits);
}
#else
CNP_INLINE f64 cnp_fma_f64(f64 a, f64 b, f64 c) { return __builtin_fma(a, b, c); }
CNP_INLINE f32 cnp_fma_f32(f32 a, f32 b, f32 c) { return __builtin_fmaf(a, b, c); }
#endif

/* ---- floats to integers. FITS: whether the part before the point is one of the type's numbers, so no NaN. */
#define CNP_FITS_i32_f64(a) ((a) > -0x80000001p0 && (a) < cnp_power_f64(31))
#define CNP_FITS_u32_f64(a) ((a) > cnp_minus_f64(0) && (a) < cnp_power_f64(32))
#define CNP_FITS_i64_f64(a) ((a) >= cnp_minus_f64(63) && (a) < cnp_power_f64(63))
#define CNP_FITS_u64_f64(a) ((a) > cnp_minus_f64(0) && (a) < cnp_power_f64(64))
#define CNP_FITS_i32_f32(a) ((a) >= cnp_minus_f32(31) && (a) < cnp_power_f32(31))
#define CNP_FITS_u32_f32(a) ((a) > cnp_minus_f32(0) && (a) < cnp_power_f32(32))
#define CNP_FITS_i64_f32(a) ((a) >= cnp_minus_f32(63) && (a) < cnp_power_f32(63))
#define CNP_FITS_u64_f32(a) ((a) > cnp_minus_f32(0) && (a) < cnp_power_f32(64))
#ifdef CNP_CASTS_SATURATE
#define CNP_SATURATED(type, f, a, least, most) ((type)(a))
#else
#define CNP_SATURATED(type, f, a, least, most) \
    (likely(CNP_FITS_##type##_##f(a)) ? (type)(a) : (a) > 0 ? (most) : (a) < 0 ? (least) : 0)
#endif

/* ---- C functions. An argument is in the word that its register has: integers and pointers in words 0 … 7, floats and
 * doubles (a float in the low half) in words 8 … 15. By default each class counts for itself. CNP_C_INTEGERS: how many
 * integers registers hold. CNP_C_POSITIONS: the third argument is in the third register of its class, which no prototype
 * says of an integer and a float at once; so a function that has 8 floats makes a call with 8 integers, and the floats
 * stay in their registers. Its asm uses them, because clang passes nothing that is not used. */
#ifndef CNP_C_INTEGERS
#define CNP_C_INTEGERS 8
#endif
#if CNP_C_INTEGERS == 6
#define CNP_C_WORDS u64, u64, u64, u64, u64, u64
#define CNP_C_WORDS_OF(a) a[0], a[1], a[2], a[3], a[4], a[5]
#else
#define CNP_C_WORDS u64, u64, u64, u64, u64, u64, u64, u64
#define CNP_C_WORDS_OF(a) a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
#endif
#define CNP_C_FLOATS f64, f64, f64, f64, f64, f64, f64, f64
#define CNP_C_FLOATS_OF(b) b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]
#ifdef CNP_C_POSITIONS
#define CNP_CALL_C(type)                                                                                       \
    static __attribute__((noinline, used)) type cnp_call_integers_##type(f64 b0, f64 b1, f64 b2, f64 b3,       \
        f64 b4, f64 b5, f64 b6, f64 b7, u64 f, const u64 *a)                                                   \
    {                                                                                                          \
        __asm__ volatile("" : : "f"(b0), "f"(b1), "f"(b2), "f"(b3), "f"(b4), "f"(b5), "f"(b6), "f"(b7));       \
        return ((type (*)(CNP_C_WORDS))f)(CNP_C_WORDS_OF(a));                                                  \
    }                                                                                                          \
    CNP_INLINE type cnp_call_c_##type(u64 f, const u64 *a)                                                     \
    {                                                                                                          \
        const f64 *b = (const f64 *)(a + 8);                                                                   \
        return cnp_call_integers_##type(CNP_C_FLOATS_OF(b), f, a);                                             \
    }
#else
#define CNP_CALL_C(type)                                                                                       \
    CNP_INLINE type cnp_call_c_##type(u64 f, const u64 *a)                                                     \
    {                                                                                                          \
        const f64 *b = (const f64 *)(a + 8);                                                                   \
        return ((type (*)(CNP_C_WORDS, CNP_C_FLOATS))f)(CNP_C_WORDS_OF(a), CNP_C_FLOATS_OF(b));                \
    }
#endif
CNP_CALL_C(u64)
CNP_CALL_C(f64)
CNP_CALL_C(f32)
#endif
