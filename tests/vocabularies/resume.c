/* A vocabulary for leaving and going on: all of the state is live everywhere, in registers and, on some targets, beside
 * them; `poll` leaves when its countdown has run out, and is the same when it is executed again. */
#define CNP_STATE(X)                                                                              \
    X(u64, acc) X(u64, b) X(i64, c) X(u32, d) X(f64, x) X(u8, small) X(i32, level) X(u64 *, mem)  \
    X(f32, y) X(i16, half) X(u64, e) X(i64, g)
#define CNP_RESULT acc
#include <cnp.h>
extern i64 cnp_test_clobber(i64);
enum { STEPS = 8, WORDS = 7 }; /* mem[STEPS]: polls until the run leaves; mem[0 … 7]: data */

CNP_OP(poll) {
    if (unlikely(s->mem[STEPS] == 0)) return EXIT;
    s->mem[STEPS]--;
    return NEXT;
}
CNP_OP(set, imm(u64, k)) { s->acc = k; return NEXT; }
CNP_OP(add_b, imm(i32, k)) { s->acc += s->b * k; s->e ^= s->acc; return NEXT; }
CNP_OP(rotate) { u64 acc = s->acc; s->acc = s->b; s->b = s->c; s->c = s->e; s->e = s->g; s->g = acc; return NEXT; }
CNP_OP(narrow) { s->small += s->acc; s->half -= s->acc; s->d = s->d * 5 + s->small; return NEXT; }
CNP_OP(widen) { s->acc ^= s->small + (u64)(i64)s->half * 3 + ((u64)s->d << 20); return NEXT; }
CNP_OP(store, slot(u64, to)) { *to = s->acc; return NEXT; }
CNP_OP(load, slot(u64, from)) { s->acc += *from; return NEXT; }
CNP_OP(swap, slot(u64, x), slot(u64, y)) { u64 t = *x; *x = *y + 1; *y = t; return NEXT; }
CNP_OP(byte, slot(u8, x), imm(u8, k)) { *x += k; s->b += *x; return NEXT; }
CNP_OP(write) { s->mem[s->acc & WORDS] ^= s->b; return NEXT; }
CNP_OP(read) { s->b += s->mem[s->acc >> 5 & WORDS]; return NEXT; }
CNP_OP(to_double, imm(f64, k)) { s->x = s->x * k + (f64)(s->acc & 1023); return NEXT; }
CNP_OP(to_float) { s->y = s->y * 0.25f + (f32)(s->b & 15); return NEXT; }
CNP_OP(from_floats) { s->acc ^= cnp_bits_f64(s->x) + cnp_bits_f32(s->y); return NEXT; }
CNP_OP(count, cell(u64, n)) { *n += 3; s->mem[WORDS]++; return NEXT; }
CNP_OP(help) { s->c = cnp_test_clobber(s->c); return NEXT; }
CNP_OP(loop, slot(i32, n), label(again)) { return --*n > 0 ? JUMP(again) : NEXT; }
CNP_OP(begin_loop, slot(i32, n), imm(i32, k)) { *n = k; return NEXT; }
CNP_OP(if_odd, label(there)) { return s->acc & 1 ? JUMP(there) : NEXT; }
CNP_OP(choose, table(t)) { return JUMP_TABLE(t, s->acc & 3); }
CNP_OP_SLOW(check_low, imm(u32, k)) { return unlikely((s->acc & 15) == k) ? SLOW : NEXT; }
CNP_SLOW(check_low, imm(u32, k)) { s->b++; return s->acc & 16 ? TRAP(CNP_TRAP_USER + k) : NEXT; }
CNP_OP(call, func(f), slot(char, base)) {
    s->level--;
    s->acc = CNP_CALL(f, base);
    s->b ^= s->acc;
    return NEXT;
}
CNP_OP(call_dead, func(f), slot(char, base)) {
    CNP_DEAD(e);
    u64 value = CNP_CALL(f, base);
    s->acc = value - s->acc;
    return NEXT;
}
CNP_OP(descend) { s->level--; return NEXT; }
CNP_OP(stop_at_bottom) { return s->level <= 0 ? RETURN : NEXT; }
CNP_OP(deeper, func(f), slot(char, base)) { s->mem[0]++; s->acc = CNP_CALL(f, base) + 1; return NEXT; }
CNP_OP(ret) { return RETURN; }
