/* The assembler of hand.h. Instructions are written with stores of fixed size, so that no jump here depends on what is
   assembled: a displacement is stored as four bytes and then counted as 0, 1 or 4. */

#include "hand.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST = 16, LEAST_ROOM = 4096, UNBOUND = UINT32_MAX, CHUNK = 32, AHEAD = 24 };
enum { CONDITION_L = 0xC, NO_CONDITION = -1 };
enum { SHORT = 2, LONG_JMP = 5, LONG_JCC = 6 }; /* bytes of jumps */

#define MOST_CODE ((size_t)INT32_MAX) /* what 32 bits of a jump reach everywhere */

void hand_open(struct hand *a) { memset(a, 0, sizeof *a); }

void hand_close(struct hand *a)
{
    free(a->code);
    free(a->labels);
    free(a->jumps);
    hand_open(a);
}

void hand_reset(struct hand *a)
{
    a->at = a->code;
    a->jumps_count = 0;
    a->lost = 0;
    a->status = HAND_OK;
    if (a->labels_room)
        memset(a->labels, 0xFF, a->labels_room * sizeof *a->labels);
}

/* ---- room */

static _Bool grow_code(struct hand *a)
{
    size_t used = a->at - a->code, room = a->limit - a->code;
    size_t wanted = room ? 2 * room : LEAST_ROOM;
    uint8_t *more = used < MOST_CODE ? realloc(a->code, wanted) : NULL;
    if (!more) {
        a->status = used < MOST_CODE ? HAND_NO_MEMORY : HAND_TOO_LARGE;
        return 0;
    }
    a->code = more;
    a->at = more + used;
    a->limit = more + wanted;
    return 1;
}

/* Whether the longest instruction fits. */
static inline _Bool room(struct hand *a)
{
    return __builtin_expect(a->limit - a->at >= LONGEST, 1) || grow_code(a);
}

static _Bool grow_labels(struct hand *a, uint32_t label)
{
    size_t wanted = a->labels_room ? a->labels_room : LEAST_ROOM;
    while (wanted <= label)
        wanted *= 2;
    struct hand_label *more = realloc(a->labels, wanted * sizeof *more);
    if (!more) {
        a->status = HAND_NO_MEMORY;
        return 0;
    }
    memset(more + a->labels_room, 0xFF, (wanted - a->labels_room) * sizeof *more);
    a->labels = more;
    a->labels_room = wanted;
    return 1;
}

static _Bool grow_jumps(struct hand *a)
{
    size_t wanted = a->jumps_room ? 2 * a->jumps_room : LEAST_ROOM;
    struct hand_jump *more = realloc(a->jumps, wanted * sizeof *more);
    if (!more) {
        a->status = HAND_NO_MEMORY;
        return 0;
    }
    a->jumps = more;
    a->jumps_room = wanted;
    return 1;
}

/* ---- instructions */

/*  op reg, [base + disp]:   REX.W 0100_1R0B   opcode   ModRM mod_reg_rm   [SIB 00_100_100]   [disp8 | disp32] */
static inline void memory(struct hand *a, uint32_t opcode, int opcode_size, unsigned reg, unsigned base, int32_t disp)
{
    if (!room(a))
        return;
    if (__builtin_expect((reg | base) > HAND_R15, 0)) {
        a->status = HAND_BAD_REGISTER;
        return;
    }
    uint8_t *at = a->at;
    unsigned none = disp == 0 && (base & 7) != HAND_RBP; /* [rbp] and [r13] have no form without */
    unsigned near = disp == (int8_t)disp;
    unsigned mod = none ? 0 : near ? 1 : 2, length = none ? 0 : near ? 1 : 4;
    *at++ = 0x48 | (reg >> 3) << 2 | base >> 3;
    memcpy(at, &opcode, sizeof opcode);
    at += opcode_size;
    *at++ = mod << 6 | (reg & 7) << 3 | (base & 7);
    if (__builtin_expect((base & 7) == HAND_RSP, 0))
        *at++ = 0x24;
    memcpy(at, &disp, sizeof disp);
    a->at = at + length;
}

void hand_load(struct hand *a, enum hand_register to, enum hand_register base, int32_t disp)
{
    memory(a, 0x8B, 1, to, base, disp);
}

void hand_store(struct hand *a, enum hand_register base, int32_t disp, enum hand_register from)
{
    memory(a, 0x89, 1, from, base, disp);
}

void hand_add(struct hand *a, enum hand_register to, enum hand_register base, int32_t disp)
{
    memory(a, 0x03, 1, to, base, disp);
}

void hand_sub(struct hand *a, enum hand_register to, enum hand_register base, int32_t disp)
{
    memory(a, 0x2B, 1, to, base, disp);
}

void hand_imul(struct hand *a, enum hand_register to, enum hand_register base, int32_t disp)
{
    memory(a, 0xAF0F, 2, to, base, disp);
}

void hand_cmp(struct hand *a, enum hand_register first, enum hand_register base, int32_t disp)
{
    memory(a, 0x3B, 1, first, base, disp);
}

/*  mov reg, imm64:   REX.W 0100_100B   10111_reg   imm64 */
void hand_mov_imm64(struct hand *a, enum hand_register to, uint64_t value)
{
    if (!room(a))
        return;
    if (__builtin_expect((unsigned)to > HAND_R15, 0)) {
        a->status = HAND_BAD_REGISTER;
        return;
    }
    a->at[0] = 0x48 | to >> 3;
    a->at[1] = 0xB8 | (to & 7);
    memcpy(a->at + 2, &value, sizeof value);
    a->at += 10;
}

void hand_ret(struct hand *a)
{
    if (room(a))
        *a->at++ = 0xC3;
}

/* ---- labels and jumps */

void hand_bind(struct hand *a, uint32_t label)
{
    if (__builtin_expect(label >= a->labels_room, 0) && !grow_labels(a, label))
        return;
    if (__builtin_expect(a->labels[label].offset != UNBOUND, 0))
        a->status = HAND_BOUND_TWICE;
    a->labels[label] = (struct hand_label){a->at - a->code, a->jumps_count};
}

/* Room for the long form; its bytes are written when it is known which form it gets. */
static inline void jump(struct hand *a, uint32_t label, int condition, int length)
{
    if (!room(a) || (__builtin_expect(a->jumps_count == a->jumps_room, 0) && !grow_jumps(a)))
        return;
    a->jumps[a->jumps_count++] = (struct hand_jump){a->at - a->code, label, 0, condition, 0};
    a->at += length;
}

void hand_jl(struct hand *a, uint32_t label) { jump(a, label, CONDITION_L, LONG_JCC); }
void hand_jmp(struct hand *a, uint32_t label) { jump(a, label, NO_CONDITION, LONG_JMP); }

static inline uint32_t length_of(const struct hand_jump *jump)
{
    return jump->condition == NO_CONDITION ? LONG_JMP : LONG_JCC;
}

/* Bytes that the first `count` jumps lose. */
static inline uint32_t lost_before(const struct hand *a, uint32_t count)
{
    return count < a->jumps_count ? a->jumps[count].lost : a->lost;
}

uint32_t hand_offset(const struct hand *a, uint32_t label)
{
    return a->labels[label].offset - lost_before(a, a->labels[label].jumps);
}

/* Labels lie anywhere, and so do the jumps before them: they are fetched before they are looked at. (gcc leaves calls of
   functions out that do nothing else, unless they are always inline.) */
static inline __attribute__((always_inline)) void fetch_label(const struct hand *a, size_t i)
{
    if (i < a->jumps_count && a->jumps[i].label < a->labels_room)
        __builtin_prefetch(&a->labels[a->jumps[i].label]);
}

static inline __attribute__((always_inline)) void fetch_lost(const struct hand *a, size_t i)
{
    if (i < a->jumps_count && a->jumps[i].label < a->labels_room)
        __builtin_prefetch(&a->jumps[a->labels[a->jumps[i].label].jumps]);
}

/* One pass in the order of the code: what lies behind is final, what lies ahead can only come nearer. */
enum hand_status hand_link(struct hand *a, size_t *size)
{
    uint32_t lost = 0;
    if (a->status != HAND_OK)
        return a->status;
    if ((size_t)(a->at - a->code) > MOST_CODE)
        return a->status = HAND_TOO_LARGE;
    for (size_t i = 0; i < a->jumps_count; i++) {
        struct hand_jump *jump = &a->jumps[i];
        fetch_label(a, i + 2 * AHEAD);
        fetch_lost(a, i + AHEAD);
        if (jump->label >= a->labels_room || a->labels[jump->label].offset == UNBOUND)
            return a->status = HAND_UNBOUND;
        struct hand_label to = a->labels[jump->label];
        uint32_t length = length_of(jump);
        int64_t ahead = (int64_t)to.offset - (jump->offset + length);
        jump->lost = lost;
        if (to.jumps <= i) /* from the end of the short form to a label that is where it will be */
            ahead = (int64_t)to.offset - a->jumps[to.jumps].lost - (jump->offset - lost + SHORT);
        jump->is_short = ahead == (int8_t)ahead;
        lost += jump->is_short ? length - SHORT : 0;
    }
    a->lost = lost;
    *size = (size_t)(a->at - a->code) - lost;
    return HAND_OK;
}

/* Copy in chunks of fixed size where there is room behind for what is copied too much. */
static inline void copy(uint8_t *to, const uint8_t *from, size_t size, const uint8_t *end)
{
    if (size + CHUNK > (size_t)(end - to)) {
        memcpy(to, from, size);
        return;
    }
    for (size_t done = 0; done < size; done += CHUNK)
        memcpy(to + done, from + done, CHUNK);
}

void hand_write(const struct hand *a, uint8_t *out)
{
    const uint8_t *from = a->code, *end = out + (a->at - a->code) - a->lost;
    uint8_t *to = out;
    for (size_t i = 0; i < a->jumps_count; i++) {
        const struct hand_jump *jump = &a->jumps[i];
        fetch_label(a, i + 2 * AHEAD);
        fetch_lost(a, i + AHEAD);
        size_t size = a->code + jump->offset - from;
        copy(to, from, size, end);
        to += size;
        from += size + length_of(jump);
        uint32_t length = jump->is_short ? SHORT : length_of(jump);
        int32_t distance = (int32_t)(hand_offset(a, jump->label) - (uint32_t)(to - out) - length);
        if (jump->is_short) { /* EB | 7c  rel8 */
            to[0] = jump->condition == NO_CONDITION ? 0xEB : 0x70 | jump->condition;
            to[1] = (uint8_t)distance;
        } else { /* E9 | 0F 8c  rel32 */
            if (jump->condition == NO_CONDITION)
                to[0] = 0xE9;
            else
                to[0] = 0x0F, to[1] = 0x80 | jump->condition;
            memcpy(to + length - 4, &distance, sizeof distance);
        }
        to += length;
    }
    copy(to, from, end - to, end);
}
