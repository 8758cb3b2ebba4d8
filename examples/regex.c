/* The steps of a backtracking matcher. What a step may have to take back lies on a stack of pairs:
 *
 *     way, place      another way to go on, from that place in the text
 *     ~mark, old      the mark had that value before
 *
 * `backtrack` takes the newest pairs off until there is a way to go. Marks are offsets in the text: 0 and 1 are the ends
 * of the match, two more for each group, one for each loop.
 */
#define CNP_STATE(X)                                                                                                 \
    X(const u8 *, p) X(const u8 *, end) X(u64 *, undo) X(i64 *, marks) X(const u8 *, text) X(u64 *, full) X(u64, found)
#define CNP_RESULT found
#include <cnp.h>

#define HERE (s->p - s->text)
#define REMEMBER(what, value)                                                                                        \
    if (unlikely(s->undo == s->full)) return TRAP(CNP_TRAP_USER);                                                    \
    s->undo[0] = (u64)(value), s->undo[1] = (u64)(what), s->undo += 2;

CNP_OP(start, slot(const u8 *, text), slot(i64, length), slot(i64, at), slot(i64 *, marks)) {
    s->text = *text, s->end = *text + *length, s->p = *text + *at, s->marks = *marks;
    return NEXT;
}
CNP_OP(byte, imm(u8, wanted), label(fail)) {
    return s->p != s->end && *s->p == wanted ? (s->p++, NEXT) : JUMP(fail);
}
CNP_OP(one_of, imm(u64, a), imm(u64, b), imm(u64, c), imm(u64, d), label(fail)) {
    if (s->p == s->end) return JUMP(fail);
    u64 part = *s->p < 128 ? (*s->p < 64 ? a : b) : *s->p < 192 ? c : d;
    return part >> (*s->p & 63) & 1 ? (s->p++, NEXT) : JUMP(fail);
}
CNP_OP(at_start, label(fail))         { return s->p == s->text ? NEXT : JUMP(fail); }
CNP_OP(at_end, label(fail))           { return s->p == s->end || (s->p + 1 == s->end && *s->p == '\n') ? NEXT : JUMP(fail); }
CNP_OP(mark, imm(u32, number))        { REMEMBER(~(u64)number, s->marks[number]) s->marks[number] = HERE; return NEXT; }
CNP_OP(unless_moved, imm(u32, number), label(to)) { return s->marks[number] == HERE ? JUMP(to) : NEXT; }
CNP_OP(jump, label(to))               { return JUMP(to); }
CNP_OP(fork, imm(u32, other))         { REMEMBER(other, s->p) return NEXT; }
CNP_OP(backtrack, table(ways)) {
    u64 trap = unlikely(--CNP_CONTEXT->fuel < 0) ? cnp_poll(CNP_CONTEXT) : 0;
    if (trap) return TRAP(trap);
    while ((s->undo -= 2)[1] >> 63) s->marks[~s->undo[1]] = (i64)s->undo[0];
    s->p = (const u8 *)s->undo[0];
    return JUMP_TABLE(ways, s->undo[1]);
}
/* ---- ends; when all ways from a byte failed, the next byte's turn comes */
CNP_OP(next_start, slot(i64, last), label(again)) { return s->p++ - s->text < *last ? JUMP(again) : NEXT; }
CNP_OP(finish, imm(u32, found))       { s->found = found; return RETURN; }
