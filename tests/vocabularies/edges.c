/* What a run time can stumble over: helpers in every place, cells of two widths, tables, deep native frames. */
#define CNP_STATE(X) X(u64, value) X(f64, acc)
#define CNP_RESULT value
#include <cnp.h>
extern i64 help(i64 a);

CNP_OP(set, imm(u64, k)) { s->value = k; return NEXT; }
CNP_OP(ask, imm(i64, k)) { s->value += (u64)help(k); return NEXT; }
CNP_OP(ask_and_exit, imm(i64, k)) { s->value += (u64)help(k); return EXIT; }
CNP_OP(ask_and_return, imm(i64, k)) { s->value += (u64)help(k); return RETURN; }
CNP_OP_SLOW(ask_slowly, imm(i64, k)) { return SLOW; }
CNP_SLOW(ask_slowly, imm(i64, k)) { s->value += (u64)help(k); return NEXT; }
CNP_OP(add_cells, cell(u64, wide), cell(u32, low)) { s->value += *wide + *low; return NEXT; }
CNP_OP(go, table(to), imm(u32, i)) { return JUMP_TABLE(to, i); }
CNP_OP(call, func(f), slot(u64, base)) { s->value = CNP_CALL(f, base); return NEXT; }
CNP_OP(leave) { return EXIT; }
CNP_OP(trap, imm(u32, code)) { return TRAP(code); }
CNP_OP(ret) { return RETURN; }

/* Keeps 3000 bytes of native stack during the call. */
CNP_OP(call_deeply, func(f), slot(u64, base))
{
    char room[3000];
    __asm__ volatile("" : : "r"(room) : "memory");
    s->value = CNP_CALL(f, base);
    __asm__ volatile("" : : "r"(room) : "memory");
    return NEXT;
}
