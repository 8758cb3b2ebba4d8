/* Registers beside other words of state, and every kind of operand: for what runs bodies, compiled or interpreted. */
#define CNP_STATE(X) CNP_REGISTERS(X) X(u64, a) X(f64, x) X(u16, half) X(u64, b) X(i64, c) X(u32, d) X(u64, e) X(f32, y)
#define CNP_RESULT r0
#include <cnp.h>
extern i64 cnp_test_clobber(i64);

/* values */
CNP_PURE(i64_move, u64, (u64 a), a, IMM(a, i32) IMM(a, u64))
CNP_PURE(i64_add, u64, (u64 a, u64 b), a + b, IMM(b, i32))
CNP_PURE(i32_sub, u32, (u32 a, u32 b), a - b, IMM(a, u32) IMM(b, u32))
CNP_PURE(i8_extend, i64, (i8 a), a)
CNP_PURE(f64_mul, f64, (f64 a, f64 b), a * b, IMM(b, f64))
CNP_PURE(f32_move, f32, (f32 a), a, IMM(a, f32))
CNP_PURE(f32_add, f32, (f32 a, f32 b), a + b, IMM(b, f32))
CNP_PURE(f32_bits, u32, (f32 a), cnp_bits_f32(a))
CNP_PURE_TRAP(i64_div_u, u64, (u64 a, u64 b), b ? CNP_TRAP_NONE : CNP_TRAP_DIV_BY_ZERO, a / b, IMM(b, i32))
CNP_TEST(i64_lt_s, (i64 a, i64 b), a < b, IMM(b, i32))
CNP_TEST(f32_lt, (f32 a, f32 b), a < b, IMM(b, f32))
CNP_OP(mix, out(u64, d), in(u64, a), in(u64, b, i32), in(u64, c, u64)) { *d = a + 3 * b - c; return NEXT; }
CNP_OP(scaled, out(u64, d), in(u64, a), in(u64, b), imm(u32, scale, 1, 2, 4, 8)) { *d = a + b * scale; return NEXT; }
CNP_OP(divide, out(u64, q), out(u32, rest), in(u64, a), in(u64, b))
{
    if (b == 0) return TRAP(CNP_TRAP_DIV_BY_ZERO);
    *q = a / b;
    *rest = (u32)(a % b);
    return NEXT;
}
CNP_OP_SLOW(sum, out(u64, d), in(u64, a), in(u64, b)) { u64 r = a + b; if (r < a) return SLOW; *d = r; return NEXT; }
CNP_SLOW(sum, out(u64, d), in(u64, a), in(u64, b)) { *d = ~0ull; s->a++; return NEXT; }

/* the other state, and none */
CNP_OP(others) { s->a += s->b; s->half++; s->x *= 0.5; s->y += 1; s->c -= 3; s->d *= 5; s->e ^= s->a; return NEXT; }
CNP_OP(nothing) { return NEXT; }
CNP_OP(count, cell(u64, n), slot(u8, x)) { *n += 3; *x += 1; return NEXT; }

/* ways on */
CNP_OP(less, out(u64, d), in(u64, a), in(u64, b, i32), label(t)) { *d = a - b; return a < b ? JUMP(t) : NEXT; }
CNP_OP(choose, out(u64, d), in(u64, i), table(t)) { *d = i + 100; return JUMP_TABLE(t, i); }
CNP_OP(ask, out(i64, d), in(i64, a)) { s->a += 2; *d = cnp_test_clobber(a); return NEXT; }
CNP_OP(leave_once, out(u64, d), in(u64, a)) { *d = 9; if (s->b) return s->b--, EXIT; *d = a; return NEXT; }
CNP_OP(leave) { return EXIT; }
CNP_OP(ret, in(u64, a)) { s->r0 = a; return RETURN; }

/* calls */
CNP_OP(call, func(f), slot(char, base), out(u64, d)) { u64 v = CNP_CALL(f, base); s->r0 = *d = v; return NEXT; }
CNP_OP(call_kill, func(f), slot(char, base), out(u64, d))
{
    CNP_DEAD(r3); CNP_DEAD(f2); CNP_DEAD(a); CNP_DEAD(e);
    u64 v = CNP_CALL(f, base);
    *d = v;
    return NEXT;
}
