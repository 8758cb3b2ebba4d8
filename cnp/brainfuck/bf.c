/* Brainfuck's operations. The cell pointer and the tape's bounds stay in registers.
 *
 * A program is cut into segments without loops, input or output. Within one, cells are named by their offset from the
 * pointer, so that one check at its head serves all of them:
 *
 *     low                 p + least … p + most                     high
 *      |------------------------|====p=======|-----------------------|
 *
 * Around the tape lie BF_GUARD bytes that may be read and added zero to: a multiply loop whose counter is zero touches
 * cells that the program does not reach.
 */
#define CNP_STATE(X) X(u8 *, p) X(u8 *, low) X(u8 *, high)
#include <cnp.h>

extern i64 cnp_host_putc(i64 byte);
extern i64 cnp_host_getc(void);

#define OUTSIDE(first, last) ((first) < s->low || (last) >= s->high)

CNP_OP(bounds, imm(disp, least), imm(disp, most))
{
    return unlikely(OUTSIDE(s->p + least, s->p + most)) ? TRAP(CNP_TRAP_OUT_OF_BOUNDS) : NEXT;
}
CNP_OP(bounds_if, imm(disp, counter), imm(disp, least), imm(disp, most))
{
    return s->p[counter] && unlikely(OUTSIDE(s->p + least, s->p + most)) ? TRAP(CNP_TRAP_OUT_OF_BOUNDS) : NEXT;
}
CNP_OP(move, imm(disp, distance)) { s->p += distance; return NEXT; }
CNP_OP(add, imm(disp, at), imm(u8, k)) { s->p[at] += k; return NEXT; }
CNP_OP(set, imm(disp, at), imm(u8, k)) { s->p[at] = k; return NEXT; }
CNP_OP(copy, imm(disp, from), imm(disp, at)) { s->p[at] += s->p[from]; return NEXT; }
CNP_OP(subtract, imm(disp, from), imm(disp, at)) { s->p[at] -= s->p[from]; return NEXT; }
CNP_OP(multiply, imm(disp, from), imm(disp, at), imm(u8, factor)) { s->p[at] += s->p[from] * factor; return NEXT; }
CNP_OP(scan, imm(disp, step))
{
    u8 *p = s->p;
    while (*p) {
        p += step;
        if (unlikely(OUTSIDE(p, p))) return TRAP(CNP_TRAP_OUT_OF_BOUNDS);
    }
    s->p = p;
    return NEXT;
}

CNP_OP(open, label(behind)) { return *s->p ? NEXT : JUMP(behind); }
CNP_OP_SLOW(close, label(body))
{
    if (*s->p == 0) return NEXT;
    if (unlikely(--CNP_CONTEXT->fuel < 0)) return SLOW;
    return JUMP(body);
}
CNP_SLOW(close, label(body))
{
    u64 trap = cnp_poll(CNP_CONTEXT);
    return trap ? TRAP(trap) : JUMP(body);
}

CNP_OP(put, imm(disp, at)) { cnp_host_putc(s->p[at]); return NEXT; }
CNP_OP(get, imm(disp, at))
{
    i64 byte = cnp_host_getc();
    s->p[at] = byte < 0 ? 0 : (u8)byte;
    return NEXT;
}
CNP_OP(stop) { return RETURN; }
