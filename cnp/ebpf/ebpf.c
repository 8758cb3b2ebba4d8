/* eBPF's operations (RFC 9669). r0 … r9 are registers of the vocabulary. r10 never changes within a function: what goes
 * through it knows its place in the frame. A program sees a little-endian machine on every target, and may access memory
 * at any alignment, but for atomic operations.
 *
 *     frame of a function                          frame of the entry, which calls the first function
 *
 *       0   the program's stack                      0   the memory's address and size, as the caller gives them
 *     512   r10, where it is an operand              16  regions: where loads and stores may go
 *     528   header of a callee's frame               …   header of the first function's frame
 *
 * A checked load compares with the region that the last one met, and so does a store; their slow parts look at all regions.
 */
struct region;
struct helper;
#define CNP_STATE(X)                                                                                                    \
    X(u64, r0) X(u64, r1) X(u64, r2) X(u64, r3) X(u64, r4) X(u64, r5) X(u64, r6) X(u64, r7) X(u64, r8) X(u64, r9)       \
    X(u64, load_low) X(u64, load_span) X(u64, store_low) X(u64, store_span)                                             \
    X(const struct region *, regions) X(const struct helper *, helpers)
#define CNP_RESULT r0
#define CNP_INTERPRET switch
#include <cnp.h>

enum { STACK = 512, ENDED = CNP_TRAP_USER, MISALIGNED, NO_HELPER };

/* ---- moves. le is a truncation; be and bswap are the same on a little-endian machine */
CNP_PURE(i64_move, u64, (u64 a), a, IMM(a, 0) IMM(a, u32) IMM(a, i32) IMM(a, u64))
CNP_PURE(mov32, u32, (u32 a), a)
CNP_PURE(mov16, u64, (u16 a), a)
CNP_PURE(movsx8_64, i64, (i8 a), a)
CNP_PURE(movsx16_64, i64, (i16 a), a)
CNP_PURE(movsx32_64, i64, (i32 a), a)
CNP_PURE(movsx8_32, i32, (i8 a), a)
CNP_PURE(movsx16_32, i32, (i16 a), a)
CNP_PURE(bswap16, u64, (u16 a), __builtin_bswap16(a))
CNP_PURE(bswap32, u64, (u32 a), __builtin_bswap32(a))
CNP_PURE(bswap64, u64, (u64 a), __builtin_bswap64(a))
CNP_OP(frame_pointer, out(u64, d)) { *d = (u64)s->cnp_frame + STACK; return NEXT; }

/* ---- arithmetic. By zero, a quotient is 0 and a remainder the dividend; the least number by -1 is itself, remainder 0 */
CNP_PURE(add64, u64, (u64 a, u64 b), a + b, IMM(b, i32))
CNP_PURE(sub64, u64, (u64 a, u64 b), a - b, IMM(b, i32))
CNP_PURE(mul64, u64, (u64 a, u64 b), a * b, IMM(b, i32))
CNP_PURE(div64, u64, (u64 a, u64 b), b ? a / b : 0)
CNP_PURE(mod64, u64, (u64 a, u64 b), b ? a % b : a)
CNP_PURE(sdiv64, i64, (i64 a, i64 b), b == 0 ? 0 : b == -1 ? (i64)-(u64)a : a / b)
CNP_PURE(smod64, i64, (i64 a, i64 b), b == 0 ? a : b == -1 ? 0 : a % b)
CNP_PURE(or64, u64, (u64 a, u64 b), a | b, IMM(b, i32))
CNP_PURE(and64, u64, (u64 a, u64 b), a & b, IMM(b, i32))
CNP_PURE(xor64, u64, (u64 a, u64 b), a ^ b, IMM(b, i32))
CNP_PURE(lsh64, u64, (u64 a, u64 b), a << (b & 63), IMM(b, u6))
CNP_PURE(rsh64, u64, (u64 a, u64 b), a >> (b & 63), IMM(b, u6))
CNP_PURE(arsh64, i64, (i64 a, u64 b), a >> (b & 63), IMM(b, u6))
CNP_PURE(neg64, u64, (u64 a), -a)
CNP_PURE(add32, u32, (u32 a, u32 b), a + b, IMM(b, u32))
CNP_PURE(sub32, u32, (u32 a, u32 b), a - b, IMM(b, u32))
CNP_PURE(mul32, u32, (u32 a, u32 b), a * b, IMM(b, u32))
CNP_PURE(div32, u32, (u32 a, u32 b), b ? a / b : 0)
CNP_PURE(mod32, u32, (u32 a, u32 b), b ? a % b : a)
CNP_PURE(sdiv32, i32, (i32 a, i32 b), b == 0 ? 0 : b == -1 ? (i32)-(u32)a : a / b)
CNP_PURE(smod32, i32, (i32 a, i32 b), b == 0 ? a : b == -1 ? 0 : a % b)
CNP_PURE(or32, u32, (u32 a, u32 b), a | b, IMM(b, u32))
CNP_PURE(and32, u32, (u32 a, u32 b), a & b, IMM(b, u32))
CNP_PURE(xor32, u32, (u32 a, u32 b), a ^ b, IMM(b, u32))
CNP_PURE(lsh32, u32, (u32 a, u32 b), a << (b & 31), IMM(b, u5))
CNP_PURE(rsh32, u32, (u32 a, u32 b), a >> (b & 31), IMM(b, u5))
CNP_PURE(arsh32, i32, (i32 a, u32 b), a >> (b & 31), IMM(b, u5))
CNP_PURE(neg32, u32, (u32 a), -a)

/* ---- jumps */
#define JUMP_IF(name, type, immediate, test)                                                                            \
    CNP_OP(name, in(type, a), in(type, b, 0, immediate), label(to)) { return (test) ? JUMP(to) : NEXT; }
JUMP_IF(jeq64, u64, i32, a == b)
JUMP_IF(jne64, u64, i32, a != b)
JUMP_IF(jset64, u64, i32, a & b)
JUMP_IF(jgt64, u64, i32, a > b)
JUMP_IF(jge64, u64, i32, a >= b)
JUMP_IF(jlt64, u64, i32, a < b)
JUMP_IF(jle64, u64, i32, a <= b)
JUMP_IF(jsgt64, i64, i32, a > b)
JUMP_IF(jsge64, i64, i32, a >= b)
JUMP_IF(jslt64, i64, i32, a < b)
JUMP_IF(jsle64, i64, i32, a <= b)
JUMP_IF(jeq32, u32, u32, a == b)
JUMP_IF(jne32, u32, u32, a != b)
JUMP_IF(jset32, u32, u32, a & b)
JUMP_IF(jgt32, u32, u32, a > b)
JUMP_IF(jge32, u32, u32, a >= b)
JUMP_IF(jlt32, u32, u32, a < b)
JUMP_IF(jle32, u32, u32, a <= b)
JUMP_IF(jsgt32, i32, i32, a > b)
JUMP_IF(jsge32, i32, i32, a >= b)
JUMP_IF(jslt32, i32, i32, a < b)
JUMP_IF(jsle32, i32, i32, a <= b)
CNP_OP(ja, label(to)) { return JUMP(to); }

/* ---- memory: in the byte order and at the alignments of the program, not of the machine */
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define SWAP8(a) (a)
#define SWAP16(a) __builtin_bswap16(a)
#define SWAP32(a) __builtin_bswap32(a)
#define SWAP64(a) __builtin_bswap64(a)
#else
#define SWAP8(a) (a)
#define SWAP16(a) (a)
#define SWAP32(a) (a)
#define SWAP64(a) (a)
#endif
typedef u8 any8;
typedef u16 any16 __attribute__((aligned(1), may_alias));
typedef u32 any32 __attribute__((aligned(1), may_alias));
typedef u64 any64 __attribute__((aligned(1), may_alias));
#define READ(memory, bits, address) ((memory)SWAP##bits(*(const any##bits *)(address)))
/* The words of the state that lie in the frame are in no program's memory: without being told, the compiler would read
 * them before each store and write them back after it. */
#define WRITE(bits, address, value)                                                                                     \
    do {                                                                                                                \
        any##bits *place = (any##bits *)(address);                                                                      \
        __builtin_assume_separate_storage(place, s->cnp_frame);                                                         \
        *place = SWAP##bits((u##bits)(value));                                                                          \
    } while (0)

/* Where a program may go: size bytes from low on. What follows the last of them is no region but their END. */
struct region { u64 low, size, access; };
enum { READABLE, WRITABLE, END };
CNP_INLINE int holds(const struct region *r, u64 address, u64 size)
{
    return address - r->low < r->size && r->size - (address - r->low) >= size;
}
/* Addresses less low that are fine for an access of any size. */
CNP_INLINE u64 span_of(const struct region *r) { return r->size < 8 ? 0 : r->size - 7; }
CNP_INLINE const struct region *find(const struct region *r, u64 address, u64 size, u64 access)
{
    for (; r->access != END; r++)
        if (holds(r, address, size) && r->access >= access) return r;
    return 0;
}
#define CHECK(kind, access)                                                                                             \
    CNP_OP_SLOW(check_##kind, in(u64, base), imm(disp, offset), imm(u64, size, 1, 2, 4, 8))                             \
    { return unlikely(base + offset - s->kind##_low >= s->kind##_span) ? SLOW : NEXT; }                                 \
    CNP_SLOW(check_##kind, in(u64, base), imm(disp, offset), imm(u64, size, 1, 2, 4, 8))                                \
    {                                                                                                                   \
        const struct region *r = find(s->regions, base + offset, size, access);                                         \
        if (!r) return TRAP(CNP_TRAP_OUT_OF_BOUNDS);                                                                    \
        s->kind##_low = r->low;                                                                                         \
        s->kind##_span = span_of(r);                                                                                    \
        return NEXT;                                                                                                    \
    }
CHECK(load, READABLE)
CHECK(store, WRITABLE)

/* _stack: on the stack of the function, at an offset from the stack's beginning */
#define LOAD(name, type, memory, bits)                                                                                  \
    CNP_OP(name, out(type, d), in(u64, base), imm(disp, offset))                                                        \
    { *d = READ(memory, bits, base + offset); return NEXT; }                                                            \
    CNP_OP(name##_stack, out(type, d), imm(disp, offset))                                                               \
    { *d = READ(memory, bits, s->cnp_frame + offset); return NEXT; }
#define STORE(name, bits)                                                                                               \
    CNP_OP(name, in(u64, base), imm(disp, offset), in(u64, a, i32))                                                     \
    { WRITE(bits, base + offset, a); return NEXT; }                                                                     \
    CNP_OP(name##_stack, imm(disp, offset), in(u64, a, i32))                                                            \
    { WRITE(bits, (u64)s->cnp_frame + offset, a); return NEXT; }
LOAD(ldxb, u64, u8, 8)
LOAD(ldxh, u64, u16, 16)
LOAD(ldxw, u64, u32, 32)
LOAD(ldxdw, u64, u64, 64)
LOAD(ldxsb, i64, i8, 8)
LOAD(ldxsh, i64, i16, 16)
LOAD(ldxsw, i64, i32, 32)
STORE(stb, 8)
STORE(sth, 16)
STORE(stw, 32)
STORE(stdw, 64)

/* ---- atomic memory, at an address that is aligned: an operation of its own checks that before */
CNP_OP(check_aligned, in(u64, p), imm(u64, size, 4, 8)) { return unlikely(p & (size - 1)) ? TRAP(MISALIGNED) : NEXT; }

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define ATOMIC_ADD(bits)                                                                                                \
    CNP_INLINE u##bits add_##bits(u##bits *p, u##bits a)                                                                \
    {                                                                                                                   \
        u##bits old = *p;                                                                                               \
        while (!__atomic_compare_exchange_n(p, &old, SWAP##bits(SWAP##bits(old) + a), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) \
            ;                                                                                                           \
        return SWAP##bits(old);                                                                                         \
    }
#else
#define ATOMIC_ADD(bits) BITWISE(bits, add, __atomic_fetch_add)
#endif
#define BITWISE(bits, name, builtin)                                                                                    \
    CNP_INLINE u##bits name##_##bits(u##bits *p, u##bits a) { return SWAP##bits(builtin(p, SWAP##bits(a), __ATOMIC_SEQ_CST)); }
#define ATOMIC(bits, name)                                                                                              \
    CNP_OP(atomic_##name##bits, in(u64, p), in(u##bits, a)) { name##_##bits((u##bits *)p, a); return NEXT; }            \
    ATOMIC_FETCH(bits, name, name##bits##_fetch)
#define ATOMIC_FETCH(bits, name, as)                                                                                    \
    CNP_OP(atomic_##as, out(u##bits, d), in(u64, p), in(u##bits, a)) { *d = name##_##bits((u##bits *)p, a); return NEXT; }
#define ATOMICS(bits)                                                                                                   \
    ATOMIC_ADD(bits)                                                                                                    \
    BITWISE(bits, or, __atomic_fetch_or)                                                                                \
    BITWISE(bits, and, __atomic_fetch_and)                                                                              \
    BITWISE(bits, xor, __atomic_fetch_xor)                                                                              \
    BITWISE(bits, exchange, __atomic_exchange_n)                                                                        \
    ATOMIC(bits, add)                                                                                                   \
    ATOMIC(bits, or)                                                                                                    \
    ATOMIC(bits, and)                                                                                                   \
    ATOMIC(bits, xor)                                                                                                   \
    ATOMIC_FETCH(bits, exchange, xchg##bits)                                                                            \
    CNP_OP(atomic_cmpxchg##bits, out(u##bits, d), in(u64, p), in(u##bits, expected), in(u##bits, a))                    \
    {                                                                                                                   \
        expected = SWAP##bits(expected);                                                                                \
        __atomic_compare_exchange_n((u##bits *)p, &expected, SWAP##bits(a), 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);     \
        *d = SWAP##bits(expected);                                                                                      \
        return NEXT;                                                                                                    \
    }
ATOMICS(32)
ATOMICS(64)

/* ---- calls. A local call keeps r6 … r9, a helper changes only r0. Helpers that are found when the program runs lie in a
 * table whose last one has address 0. */
struct helper { u64 number, address; };
#define CALL(address) ((u64 (*)(u64, u64, u64, u64, u64))(address))(s->r1, s->r2, s->r3, s->r4, s->r5)
CNP_OP(call, func(f), slot(u64, base))
{
    CNP_DEAD(r1), CNP_DEAD(r2), CNP_DEAD(r3), CNP_DEAD(r4), CNP_DEAD(r5);
    s->r0 = CNP_CALL(f, base);
    return NEXT;
}
CNP_OP(call_helper, imm(u64, f)) { s->r0 = CALL(f); return NEXT; }
CNP_OP(call_register, in(u64, number))
{
    const struct helper *h = s->helpers;
    while (h->address && h->number != number) h++;
    if (unlikely(!h->address)) return TRAP(NO_HELPER);
    s->r0 = CALL(h->address);
    return NEXT;
}
/* A legacy load: as a helper, from the packet that r6 is of. All ones: the packet has no such bytes, which ends the program. */
CNP_OP(load_packet, imm(u64, f), in(u64, at), imm(u32, offset), imm(u32, size), in(u64, packet))
{
    s->r0 = ((u64 (*)(u64, u64, u64))f)((u32)(at + offset), size, packet);
    return NEXT;
}
CNP_OP(end_if, in(u64, a), imm(u64, ending, 0, -1)) { return a == ending ? TRAP(ENDED) : NEXT; }
CNP_OP(leave) { return RETURN; }
CNP_OP(outside) { return TRAP(CNP_TRAP_OUT_OF_BOUNDS); }
CNP_OP_SLOW(poll) { return unlikely(--CNP_CONTEXT->fuel < 0) ? SLOW : NEXT; }
CNP_SLOW(poll) { u64 code = cnp_poll(CNP_CONTEXT); return code ? TRAP(code) : NEXT; }

/* ---- the entry: what all functions share. The table of regions is written one after the other, then the stacks of as many
 * functions as may be nested. */
CNP_OP(region, slot(u64, at), in(u64, low), in(u64, size), imm(u64, access))
{
    struct region *r = (struct region *)at;
    r->low = low, r->size = size, r->access = access;
    return NEXT;
}
CNP_OP(stacks, slot(u64, at), imm(u32, most), imm(disp, first), imm(disp, step))
{
    struct region *r = (struct region *)at;
    u64 low = (u64)s->cnp_frame + first, depth = CNP_HEADER(s->cnp_frame)->depth;
    for (u64 n = 0; n < most && n < depth; n++, r++, low += step)
        r->low = low, r->size = STACK, r->access = WRITABLE;
    r->access = END;
    return NEXT;
}
CNP_OP(watch, slot(u64, table))
{
    const struct region *r = s->regions = (const struct region *)table;
    s->load_low = s->store_low = r->low;
    s->load_span = s->store_span = span_of(r);
    return NEXT;
}
CNP_OP(offer, imm(u64, helpers)) { s->helpers = (const struct helper *)helpers; return NEXT; }
