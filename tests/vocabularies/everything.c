/* A vocabulary for the judges of templates: every kind of operand, every scalar type, constants, helpers, calls,
 * tables, cells, symbols, slow parts and traps, and more state than any target has registers for. */
struct machine;
#define CNP_STATE(X)                                                                                       \
    X(u64, tos) X(u64 *, sp) X(struct machine *, machine) X(i32, flag) X(u8, small) X(i64, a) X(i64, b)    \
    X(u64, c) X(u64, d) X(u64, e) X(u64, f) X(u64, g) X(u64, h) X(u64, i) X(u64, j) X(u64, k) X(u64, l)    \
    X(u16, half) X(f64, x0) X(f64, x1) X(f64, x2) X(f64, x3) X(f64, x4) X(f64, x5) X(f64, x6) X(f64, x7)   \
    X(f64, x8) X(f64, x9) X(f64, x10) X(f64, x11) X(f64, x12) X(f32, single)
#define CNP_RESULT tos
#include <cnp.h>

struct machine { u64 pending; i64 words[40000]; };
extern i64 help_add(struct machine *, i64, i64);
extern f64 help_mix(struct machine *, f64, i32, f32);
extern u32 help_test(u32 bits);

/* immediates of every type */
CNP_OP(imm_i8, imm(i8, n)) { s->a += n; return NEXT; }
CNP_OP(imm_u8, imm(u8, n)) { s->c ^= n; return NEXT; }
CNP_OP(imm_i16, imm(i16, n)) { s->a -= n; return NEXT; }
CNP_OP(imm_u16, imm(u16, n)) { s->c |= n; return NEXT; }
CNP_OP(imm_i32, imm(i32, n)) { s->a = s->b * n; return NEXT; }
CNP_OP(imm_u32, imm(u32, n)) { s->tos = (s->tos & n) + (s->c == n); return NEXT; }
CNP_OP(imm_i64, imm(i64, n)) { s->a = n < s->b ? n : s->a; return NEXT; }
CNP_OP(imm_u64, imm(u64, n)) { s->l = n; return NEXT; }
CNP_OP(imm_f32, imm(f32, n)) { s->single = s->single * n + 0.3f; return NEXT; }
CNP_OP(imm_f64, imm(f64, n)) { s->x0 = s->x0 * n + 0.1; s->x12 -= 1e300; return NEXT; }
CNP_OP(imm_pointer, imm(void *, p)) { *s->sp++ = (u64)p; return NEXT; }
CNP_OP(imm_shift, imm(u8, n)) { s->tos = s->tos << (n & 63) | s->tos >> (-n & 63); return NEXT; }
CNP_OP(imm_many, imm(i32, a), imm(i64, b), imm(u32, c), imm(u64, d), imm(i16, e), imm(f64, f)) {
    s->a = a + b; s->c = c ^ d; s->flag = e; s->x1 = f; return NEXT;
}

/* slots of every type, read and written; several of one operation */
#define SLOT(type) \
    CNP_OP(slot_##type, slot(type, x), slot(type, y)) { type t = *x; *x = *y + (type)1; *y = t; return NEXT; }
SLOT(i8) SLOT(u8) SLOT(i16) SLOT(u16) SLOT(i32) SLOT(u32) SLOT(i64) SLOT(u64) SLOT(f32) SLOT(f64)
CNP_OP(slot_address, slot(char, x)) { s->sp = (u64 *)x; return NEXT; }
CNP_OP(slot_imm, slot(u64, x), imm(i32, n)) { *x += n; return *x == 0 ? EXIT : NEXT; }

/* cells, symbols, tables */
CNP_OP(cell_compare, cell(u64, shape), cell(u64, offset)) {
    if (*(u64 *)s->tos != *shape) return EXIT;
    s->tos = *(u64 *)(s->tos + *offset);
    return NEXT;
}
CNP_OP(symbol_read, symbol(u64, where)) { s->tos = where[3]; return NEXT; }
CNP_OP(jump_table, table(t), imm(u32, n)) { return s->tos >= n ? TRAP(CNP_TRAP_INDIRECT) : JUMP_TABLE(t, s->tos); }

/* ways on */
CNP_OP(jump, label(t)) { return JUMP(t); }
CNP_OP(branch_signed, label(t)) { return s->a < s->b ? JUMP(t) : NEXT; }
CNP_OP(branch_zero, label(t)) { return s->tos ? NEXT : JUMP(t); }
CNP_OP(branch_bit, label(t)) { return s->flag & 4 ? JUMP(t) : NEXT; }
CNP_OP(branch_float, label(t)) { return s->x2 <= s->x3 ? JUMP(t) : NEXT; }
CNP_OP(branch_three, label(less), label(equal), label(more)) {
    if (s->a == s->b) return JUMP(equal);
    return s->a < s->b ? JUMP(less) : JUMP(more);
}
CNP_OP(branch_or_leave, label(t), imm(i32, n)) {
    if (s->a == n) return JUMP(t);
    if (s->b == n) return EXIT;
    return s->c == 0 ? TRAP(CNP_TRAP_DIV_BY_ZERO) : NEXT;
}
CNP_OP(loop, label(t)) { if (unlikely(s->machine->pending)) return EXIT; return --s->a ? JUMP(t) : NEXT; }
CNP_OP(leave) { return EXIT; }
CNP_OP(trap, imm(u32, n)) { return TRAP(n); }
CNP_OP(ret) { return RETURN; }

/* helpers and calls */
CNP_OP(helper) { s->tos = help_add(s->machine, s->a, s->b); return NEXT; }
CNP_OP(helper_float, imm(i32, n)) { s->x4 = help_mix(s->machine, s->x4, n, s->single); return NEXT; }
CNP_OP(helper_branch, label(t)) { return help_test(s->flag) ? JUMP(t) : NEXT; }
CNP_OP(call, func(f), slot(char, base)) { s->tos = CNP_CALL(f, base); return NEXT; }
CNP_OP_SLOW(multiply, label(t)) {
    i64 r;
    if (unlikely(__builtin_mul_overflow(s->a, s->b, &r))) return SLOW;
    s->a = r;
    return r < 0 ? JUMP(t) : NEXT;
}
CNP_SLOW(multiply, label(t)) {
    i64 r = help_add(s->machine, s->a, s->b);
    if (r == 7) return TRAP(CNP_TRAP_OVERFLOW);
    s->a = r;
    return r < 0 ? JUMP(t) : NEXT;
}

/* constants: of every width, shared and not; 16 bytes at once */
CNP_OP(constants) {
    s->x5 = s->x5 * 3.14159 + 2.71828; s->single = s->single / 1.1f; s->x6 = (f64)s->tos; s->tos = (u64)s->x7;
    return NEXT;
}
CNP_OP(constant_signs) { s->x5 = -s->x5; s->x6 = __builtin_fabs(s->x6); s->single = -s->single; return NEXT; }
CNP_OP(wide_words) { s->machine->words[0] = 0x123456789abcdef0; s->machine->words[39999] = 0x7654321fedcba; return NEXT; }

/* pure operations */
CNP_PURE(i64_add, u64, (u64 a, u64 b), a + b, IMM(b, i32))
CNP_PURE(i32_sub, u32, (u32 a, u32 b), a - b, IMM(a, i32) IMM(b, i32))
CNP_PURE(i64_shl, u64, (u64 a, u64 b), a << (b & 63), IMM(b, u8))
CNP_PURE(f64_mul, f64, (f64 a, f64 b), a * b * 1.5, IMM(b, f64))
CNP_PURE(f32_div, f32, (f32 a, f32 b), a / b, IMM(b, f32))
CNP_PURE(widen, i64, (i8 a), a)
CNP_PURE(narrow, u16, (u64 a), (u16)a)
CNP_TEST(i64_lt_s, (i64 a, i64 b), a < b, IMM(b, i32))
CNP_TEST(f64_eq, (f64 a, f64 b), a == b)
CNP_PURE_TRAP(i64_div_s, i64, (i64 a, i64 b),
              b == 0 ? CNP_TRAP_DIV_BY_ZERO : a == (i64)(1ull << 63) && b == -1 ? CNP_TRAP_OVERFLOW : 0, a / b)
CNP_LOAD(load_i8, i64, i8)
CNP_LOAD(load_f64, f64, f64)
CNP_STORE(store_u16, u64, u16)
CNP_STORE(store_f32, f32, f32)
