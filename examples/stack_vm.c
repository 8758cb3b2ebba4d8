/* A stack machine in 30 operations: what an interpreter writer copies to begin with. stack_vm.py is its front end.
 *
 * A value is a 64-bit word. The top of the stack is in the register `tos`, the rest lies in the frame behind the
 * locals, and `sp` points behind it. The front end knows the height of the stack at each operation, so that nothing
 * here needs to check it:
 *
 *     slot 0            slot locals                          base = locals + height + 1
 *     | arguments, locals | junk | value … value (top in tos) | header | arguments of a callee …
 *
 * Arithmetic is signed and checked: a result that does not fit goes to vm_overflow, which may give another or raise.
 * The float accumulator `acc` belongs to one function: a call leaves nothing in it.
 */
struct vm;
#define CNP_STATE(X) X(u64 *, sp) X(u64, tos) X(struct vm *, vm) X(f64, acc)
#define CNP_RESULT tos
#include <cnp.h>

struct vm {
    u64 pending; /* somebody wants the run to come out at the next loop head */
};

extern i64 vm_overflow(struct vm *, i32 operation, i64 a, i64 b);         /* what a result that does not fit becomes */
extern u64 vm_attribute(struct vm *, u64 *object, u64 name, u64 *cache);  /* the cache missed: look up, fill it */
extern void vm_print(struct vm *, i64);
extern i64 vm_magnitude(i64);

#define PUSH(value) do { u64 pushed = (value); *s->sp++ = s->tos; s->tos = pushed; } while (0)
#define DROP() (s->tos = *--s->sp)

/* ---- stack and locals */
CNP_OP(push, imm(i64, k))                            { PUSH(k); return NEXT; }
CNP_OP(dup)                                          { *s->sp++ = s->tos; return NEXT; }
CNP_OP(drop)                                         { DROP(); return NEXT; }
CNP_OP(swap)                                         { u64 a = s->sp[-1]; s->sp[-1] = s->tos; s->tos = a; return NEXT; }
CNP_OP(load, slot(u64, x))                           { PUSH(*x); return NEXT; }
CNP_OP(store, slot(u64, x))                          { *x = s->tos; DROP(); return NEXT; }

/* ---- checked arithmetic: the rare case lies out of the way */
#define CHECKED(name, number, builtin)                                                                               \
    CNP_OP_SLOW(name) {                                                                                              \
        i64 result;                                                                                                  \
        if (unlikely(builtin((i64)s->sp[-1], (i64)s->tos, &result))) return SLOW;                                    \
        s->tos = result;                                                                                             \
        s->sp--;                                                                                                     \
        return NEXT;                                                                                                 \
    }                                                                                                                \
    CNP_SLOW(name) {                                                                                                 \
        s->tos = vm_overflow(s->vm, number, s->sp[-1], s->tos);                                                      \
        s->sp--;                                                                                                     \
        return NEXT;                                                                                                 \
    }
CHECKED(add, 0, __builtin_add_overflow)
CHECKED(sub, 1, __builtin_sub_overflow)
CHECKED(mul, 2, __builtin_mul_overflow)

CNP_OP(div) {
    i64 a = s->sp[-1], b = s->tos;
    if (b == 0) return TRAP(CNP_TRAP_DIV_BY_ZERO);
    if (a == (i64)(1ull << 63) && b == -1) return TRAP(CNP_TRAP_OVERFLOW);
    s->tos = a / b;
    s->sp--;
    return NEXT;
}
CNP_OP(lt)                                           { s->tos = (i64)*--s->sp < (i64)s->tos; return NEXT; }

/* to = from + k; with `to` a slot of a callee, it passes an argument */
CNP_OP_SLOW(add_local, slot(i64, to), slot(i64, from), imm(disp, k)) {
    i64 result;
    if (unlikely(__builtin_add_overflow(*from, k, &result))) return SLOW;
    *to = result;
    return NEXT;
}
CNP_SLOW(add_local, slot(i64, to), slot(i64, from), imm(disp, k)) {
    *to = vm_overflow(s->vm, 0, *from, k);
    return NEXT;
}

/* ---- jumps */
CNP_OP(jump, label(to))                              { return JUMP(to); }
CNP_OP(jump_if, label(to))                           { u64 a = s->tos; DROP(); return a ? JUMP(to) : NEXT; }
CNP_OP(jump_if_less, label(to)) {
    i64 b = s->tos, a = s->sp[-1];
    s->sp -= 2;
    s->tos = *s->sp;
    return a < b ? JUMP(to) : NEXT;
}
CNP_OP(jump_if_local_less, slot(i64, x), imm(disp, k), label(to)) { return *x < k ? JUMP(to) : NEXT; }
CNP_OP(jump_table, table(cases), imm(u32, count)) {
    u64 i = s->tos;
    if (i >= count) return TRAP(CNP_TRAP_INDIRECT);
    DROP();
    return JUMP_TABLE(cases, i);
}
/* Each loop passes here: signals and fuel, and the way out for whoever sets `pending`. */
CNP_OP(loop_head) {
    if (unlikely(s->vm->pending)) return EXIT;
    if (unlikely(--CNP_CONTEXT->fuel < 0)) {
        u64 code = cnp_poll(CNP_CONTEXT);
        if (code) return TRAP(code);
    }
    return NEXT;
}

/* ---- calls: the front end puts `spill` before, so that all of the stack lies in memory, and `stack` behind. The
 * result takes the place of tos. */
CNP_OP(spill, slot(u64, to))                         { *to = s->tos; return NEXT; }
CNP_OP(call, func(f), slot(u64, base)) {
    CNP_DEAD(sp);
    CNP_DEAD(tos);
    CNP_DEAD(acc);
    s->tos = CNP_CALL(f, base);
    return NEXT;
}
CNP_OP(stack, slot(u64, top))                        { s->sp = top; return NEXT; }
CNP_OP(ret)                                          { return RETURN; }
CNP_OP(ret_local, slot(u64, x))                      { s->tos = *x; return RETURN; }

/* ---- an attribute behind an inline cache: shape in the low 48 bits, index in the upper 16, so that both change at once.
 * An object is shape, attribute 1, attribute 2 ... */
CNP_OP_SLOW(attribute, imm(u64, name), cell(u64, cache)) {
    u64 *object = (u64 *)s->tos, known = __atomic_load_n(cache, __ATOMIC_RELAXED);
    if (unlikely((*object ^ known) << 16)) return SLOW;
    s->tos = object[known >> 48];
    return NEXT;
}
CNP_SLOW(attribute, imm(u64, name), cell(u64, cache)) {
    s->tos = vm_attribute(s->vm, (u64 *)s->tos, name, cache);
    return NEXT;
}
CNP_OP(load_cell, cell(u64, x))                      { PUSH(__atomic_load_n(x, __ATOMIC_RELAXED)); return NEXT; }

/* ---- helpers, floats, ways out */
CNP_OP(print)                                        { vm_print(s->vm, s->tos); DROP(); return NEXT; }
CNP_OP(magnitude)                                    { s->tos = vm_magnitude(s->tos); return NEXT; }
CNP_OP(to_float)                                     { s->acc = (i64)s->tos; DROP(); return NEXT; }
CNP_OP(scale, imm(f64, k))                           { s->acc *= k; return NEXT; }
CNP_OP(from_float) {
    if (!(s->acc > -0x1p63 && s->acc < 0x1p63)) return TRAP(CNP_TRAP_BAD_CONVERSION);
    PUSH((i64)s->acc);
    return NEXT;
}
CNP_OP(fail, imm(u32, code))                         { return TRAP(code); }
