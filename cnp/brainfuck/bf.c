/* Brainfuck's operations. The cell pointer, the tape's bounds and the fuel stay in registers.
 *
 * A program is cut into segments without loops, input or output. Within one, cells are named by their offset from the
 * pointer, so that one check at its head serves all of them. The pointer itself is always on the tape, so that a
 * segment that only goes right needs to look at one end only.
 *
 *     low                 p + least … p + most                     high
 *      |------------------------|====p=======|-----------------------|
 *
 * Zeros that nobody writes to lie before and behind the tape, as many as a scan may step over.
 */
#define CNP_STATE(X) X(u8 *, p) X(u8 *, low) X(u8 *, high) X(i64, fuel)
#include <cnp.h>

extern i64 cnp_host_putc(i64 byte);
extern i64 cnp_host_getc(void);

#define CHECK(fine) { return unlikely(!(fine)) ? TRAP(CNP_TRAP_OUT_OF_BOUNDS) : NEXT; }

CNP_OP(start) { s->fuel = CNP_CONTEXT->fuel; return NEXT; }
CNP_OP(stop) { return RETURN; }

/* ---- does the pointer stay on the tape? */
CNP_OP(reach_left, imm(disp, least)) CHECK(s->p + least >= s->low)
CNP_OP(reach_right, imm(disp, most)) CHECK(s->p + most < s->high)
CNP_OP(reach_both, imm(disp, least), imm(disp, most)) CHECK(s->p + least >= s->low && s->p + most < s->high)
#define STEP(fine) { u8 *p = s->p + distance; if (unlikely(!(fine))) return TRAP(CNP_TRAP_OUT_OF_BOUNDS); s->p = p; return NEXT; }
CNP_OP(step_left, imm(disp, distance)) STEP(p >= s->low)
CNP_OP(step_right, imm(disp, distance)) STEP(p < s->high)

/* ---- straight code */
CNP_OP(move, imm(disp, distance)) { s->p += distance; return NEXT; }
CNP_OP(add, imm(disp, at), imm(u8, k)) { s->p[at] += k; return NEXT; }
CNP_OP(set, imm(disp, at), imm(u8, k)) { s->p[at] = k; return NEXT; }
CNP_OP(clear, imm(disp, at)) { s->p[at] = 0; return NEXT; }
CNP_OP(put, imm(disp, at)) { cnp_host_putc(s->p[at]); return NEXT; }
CNP_OP(get, imm(disp, at))
{
    i64 byte = cnp_host_getc();
    s->p[at] = byte < 0 ? 0 : (u8)byte;
    return NEXT;
}

/* ---- loops that only count down add multiples of their counter to other cells. Those are reached only if the counter is
 * not zero; adding zero to the zeros around the tape does no harm. */
#define CHECK_IF { return s->p[counter] ? TRAP(CNP_TRAP_OUT_OF_BOUNDS) : NEXT; }
CNP_OP_SLOW(reach_left_if, imm(disp, counter), imm(disp, least)) { return unlikely(s->p + least < s->low) ? SLOW : NEXT; }
CNP_SLOW(reach_left_if, imm(disp, counter), imm(disp, least)) CHECK_IF
CNP_OP_SLOW(reach_right_if, imm(disp, counter), imm(disp, most)) { return unlikely(s->p + most >= s->high) ? SLOW : NEXT; }
CNP_SLOW(reach_right_if, imm(disp, counter), imm(disp, most)) CHECK_IF
CNP_OP(skip, imm(disp, counter), label(behind)) { return s->p[counter] ? NEXT : JUMP(behind); }
CNP_OP(copy, imm(disp, from), imm(disp, at)) { s->p[at] += s->p[from]; return NEXT; }
CNP_OP(subtract, imm(disp, from), imm(disp, at)) { s->p[at] -= s->p[from]; return NEXT; }
CNP_OP(multiply, imm(disp, from), imm(disp, at), imm(u8, factor)) { s->p[at] += s->p[from] * factor; return NEXT; }

/* ---- loops that only move; the zeros around the tape stop them at the first step beyond its end */
CNP_OP(scan_right, imm(disp, step)) { while (*s->p) s->p += step; CHECK(s->p < s->high) }
CNP_OP(scan_left, imm(disp, step)) { while (*s->p) s->p += step; CHECK(s->p >= s->low) }

/* ---- all other loops; the way back polls */
CNP_OP(begin_loop, label(behind)) { return *s->p ? NEXT : JUMP(behind); }
CNP_OP_SLOW(end_loop, label(body))
{
    if (*s->p == 0) return NEXT;
    if (unlikely(--s->fuel < 0)) return SLOW;
    return JUMP(body);
}
CNP_SLOW(end_loop, label(body))
{
    CNP_CONTEXT->fuel = s->fuel;
    u64 trap = cnp_poll(CNP_CONTEXT);
    s->fuel = CNP_CONTEXT->fuel;
    return trap ? TRAP(trap) : JUMP(body);
}
