/* The words of a small Forth. The top of the data stack is in a register, the rest in memory below `sp`:
 *
 *     low                        sp                     high
 *      | unused | n1 | n2 | … nk |                       |          tos = n(k+1), the top
 *      `- where the top of an empty stack would be
 *
 * A call hands the whole stack over in memory; the result of a word is where its stack ends. Words and rounds of loops
 * begin with a `guard`; between two of them the stack moves by less than the margins beyond low and high.
 */
#define CNP_STATE(X) X(i64 *, sp) X(i64, tos) X(i64 *, low) X(i64 *, high)
#define CNP_RESULT sp
#include <cnp.h>

extern i64 cnp_host_putc(i64 byte);

#define PUSH(value) do { i64 pushed = (value); *s->sp++ = s->tos; s->tos = pushed; } while (0)
#define DROP() (s->tos = *--s->sp)
#define WORD(name, ...) CNP_OP(name) { __VA_ARGS__; return NEXT; }
#define BINARY(name, answer, expression) CNP_OP(name) { i64 a = *--s->sp, b = s->tos; s->tos = (expression); return answer; }

/* ---- the stack */
CNP_OP(literal, imm(i64, value))                { PUSH(value); return NEXT; }
WORD(dup, *s->sp++ = s->tos)
WORD(drop, DROP())
WORD(swap, i64 a = s->sp[-1]; s->sp[-1] = s->tos; s->tos = a)
WORD(over, PUSH(s->sp[-1]))
WORD(rot, i64 a = s->sp[-2]; s->sp[-2] = s->sp[-1]; s->sp[-1] = s->tos; s->tos = a)

/* ---- arithmetic, which wraps around; true is -1 */
BINARY(add, NEXT, (i64)((u64)a + (u64)b))
BINARY(sub, NEXT, (i64)((u64)a - (u64)b))
BINARY(mul, NEXT, (i64)((u64)a * (u64)b))
BINARY(and, NEXT, a & b) BINARY(or, NEXT, a | b) BINARY(xor, NEXT, a ^ b)
BINARY(equal, NEXT, -(i64)(a == b))
BINARY(less, NEXT, -(i64)(a < b))
BINARY(greater, NEXT, -(i64)(a > b))
#define UNLESS_ZERO b ? NEXT : TRAP(CNP_TRAP_DIV_BY_ZERO)
BINARY(divide, UNLESS_ZERO, b == 0 ? 0 : b == -1 ? (i64)-(u64)a : a / b)
BINARY(mod, UNLESS_ZERO, b == 0 || b == -1 ? 0 : a % b)

/* ---- memory: a variable is a cell of its word's code object */
CNP_OP(address, cell(i64, variable))            { PUSH((i64)variable); return NEXT; }
WORD(fetch, s->tos = *(i64 *)s->tos)
WORD(store, i64 *to = (i64 *)s->tos; *to = *--s->sp; DROP())

/* ---- control */
CNP_OP(guard) {
    if (unlikely(s->sp < s->low || s->sp >= s->high)) return TRAP(CNP_TRAP_OUT_OF_BOUNDS);
    u64 trap = unlikely(--CNP_CONTEXT->fuel < 0) ? cnp_poll(CNP_CONTEXT) : 0;
    return trap ? TRAP(trap) : NEXT;
}
CNP_OP(jump, label(to))                         { return JUMP(to); }
CNP_OP(jump_if_zero, label(to))                 { i64 a = s->tos; DROP(); return a ? NEXT : JUMP(to); }
CNP_OP(do_from, slot(i64, i), slot(i64, limit)) { *i = s->tos; *limit = s->sp[-1]; s->tos = *(s->sp -= 2); return NEXT; }
CNP_OP(count, slot(i64, i), slot(i64, limit), label(body)) { return ++*i < *limit ? JUMP(body) : NEXT; }
CNP_OP(index, slot(i64, i))                     { PUSH(*i); return NEXT; }

/* ---- words that call words: `spill` before a call, `fill` at the head of a word */
WORD(spill, *s->sp++ = s->tos) WORD(fill, DROP())
CNP_OP(call, func(word), slot(u64, base)) {
    CNP_DEAD(sp), CNP_DEAD(tos);
    s->sp = (i64 *)CNP_CALL(word, base);
    DROP();
    return NEXT;
}
CNP_OP(ret)                                     { *s->sp++ = s->tos; return RETURN; }
WORD(emit, cnp_host_putc(s->tos); DROP())
