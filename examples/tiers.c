/* A stack machine in two tiers: its interpreter knows all numbers, its compiled code bets on small integers.
 *
 * A value is a word: the bits of a double, or a 32-bit integer under 16 set bits, which no double has that arithmetic
 * makes. The stack is a run of slots; tiers.py knows its height at each operation and names the slots.
 *
 * Both tiers are these bodies. `heat` says which one is running: in the interpreter it counts down to the moment when a
 * loop is hot, in compiled code it is far above that. Each activation of a function has a `heat` of its own.
 *
 *     interpreter ── loop: heat ran out ──> EXIT, goes on in compiled code in the middle of the loop
 *     compiled    ── a result that is no small integer ──> EXIT, the same operation goes on in the interpreter
 */
#define CNP_STATE(X) X(i64, heat) X(u64, result)
#define CNP_RESULT result
#include <cnp.h>

#define INTEGER 0xffff000000000000ull
#define COMPILED (1ll << 62) /* heat of compiled code */
#define AGAIN 1000000 /* rounds in the interpreter before a loop that was left is compiled again */

CNP_INLINE u64 integer(i32 value) { return INTEGER | (u32)value; }
CNP_INLINE f64 number(u64 value) { return value >= INTEGER ? (i32)value : cnp_f64(value); }

/* ---- arithmetic: a = a op b. A double is the interpreter's: the bet is lost. */
#define ARITHMETIC(name, checked, operator)                                                                          \
    CNP_OP_SLOW(name, slot(u64, a), slot(u64, b)) {                                                                  \
        i32 result;                                                                                                  \
        if (unlikely((*a & *b) < INTEGER || checked((i32)*a, (i32)*b, &result))) return SLOW;                        \
        *a = integer(result);                                                                                        \
        return NEXT;                                                                                                 \
    }                                                                                                                \
    CNP_SLOW(name, slot(u64, a), slot(u64, b)) {                                                                     \
        if (s->heat > AGAIN) {                                                                                       \
            s->heat = AGAIN;                                                                                         \
            return EXIT;                                                                                             \
        }                                                                                                            \
        *a = cnp_bits_f64(number(*a) operator number(*b));                                                           \
        return NEXT;                                                                                                 \
    }
ARITHMETIC(add, __builtin_sadd_overflow, +)
ARITHMETIC(sub, __builtin_ssub_overflow, -)
ARITHMETIC(mul, __builtin_smul_overflow, *)

CNP_OP(less, slot(u64, a), slot(u64, b)) {
    *a = integer(likely((*a & *b) >= INTEGER) ? (i32)*a < (i32)*b : number(*a) < number(*b));
    return NEXT;
}

/* ---- moves and jumps */
CNP_OP(push, slot(u64, to), imm(u64, value))       { *to = value; return NEXT; }
CNP_OP(copy, slot(u64, to), slot(u64, from))       { *to = *from; return NEXT; }
CNP_OP(jump, label(to))                            { return JUMP(to); }
CNP_OP(jump_unless, slot(u64, a), label(to))       { return *a == INTEGER ? JUMP(to) : NEXT; }

/* The head of each loop: heat, and a look at signals now and then. */
CNP_OP(loop) {
    if (unlikely(--s->heat < 0)) {
        s->heat = COMPILED;
        return EXIT;
    }
    u64 trap = unlikely(--CNP_CONTEXT->fuel < 0) ? cnp_poll(CNP_CONTEXT) : 0;
    return trap ? TRAP(trap) : NEXT;
}

/* ---- functions: arguments lie in the callee's first slots, `base` and a header behind the stack */
CNP_OP(call, func(f), slot(u64, base), slot(u64, to)) {
    u64 value = CNP_CALL(f, base);
    *to = value;
    return NEXT;
}
CNP_OP(ret, slot(u64, a))                          { s->result = *a; return RETURN; }
