/* cnp.h: the contract between an operation and everybody who runs it (docs/contract.md).
 *
 * An operation is a plain C function on the state `s`; it returns what happens next:
 *
 *     NEXT         go on with the operation that follows        RETURN   leave the function with CNP_RESULT
 *     JUMP(label)  go on at a label                             EXIT     leave generated code at this operation
 *     SLOW         go on with CNP_SLOW of this operation        TRAP(n)  leave with trap code n
 *     JUMP_TABLE(table, i)  go on at entry i of a table
 *
 * In plain C this header is all there is: the bodies are functions that a switch may call (CNP_KIND, CNP_PAYLOAD).
 * The builder adds one wrapper for each operation and form that hands the body its operands and obeys its answer.
 */
#ifndef CNP_H
#define CNP_H

typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef float f32;
typedef double f64;
typedef i64 disp; /* an immediate of 32 bits, signed, that is used as 64: a displacement */

#define CNP_INLINE static inline __attribute__((always_inline, unused))
#ifndef likely
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#endif

/* ---- what happens next: kind in the low 8 bits, payload above */
typedef u64 cnp_go;
enum { CNP_NEXT, CNP_SLOW_PART, CNP_EXIT, CNP_RETURN, CNP_UNWIND, CNP_TABLE, CNP_TRAP, CNP_JUMP };
#define NEXT ((cnp_go)CNP_NEXT)
#define SLOW ((cnp_go)CNP_SLOW_PART)
#define EXIT ((cnp_go)CNP_EXIT)
#define RETURN ((cnp_go)CNP_RETURN)
#define TRAP(code) ((cnp_go)CNP_TRAP | (cnp_go)(u32)(code) << 8)
#define JUMP(label) ((cnp_go)CNP_JUMP | (cnp_go)(label) << 8)
#define JUMP_TABLE(table, i) (s->cnp_to = (table)[i], (cnp_go)CNP_TABLE)
#define CNP_KIND(go) ((u32)((go) & 255))
#define CNP_PAYLOAD(go) ((go) >> 8)

/* ---- trap codes; a vocabulary's own begin at CNP_TRAP_USER */
enum {
    CNP_TRAP_NONE,
    CNP_TRAP_UNREACHABLE,
    CNP_TRAP_DIV_BY_ZERO,
    CNP_TRAP_OVERFLOW,
    CNP_TRAP_OUT_OF_BOUNDS,
    CNP_TRAP_DEPTH,
    CNP_TRAP_FUEL,
    CNP_TRAP_INTERRUPT,
    CNP_TRAP_RAISED,
    CNP_TRAP_BAD_CONVERSION,
    CNP_TRAP_INDIRECT,
    CNP_TRAP_USER = 64
};

/* ---- the interpreters that come with the stencils: threaded (the switch, and the threaded one where the machine can have
 * it), switch, or none */
#ifndef CNP_INTERPRET
#define CNP_INTERPRET threaded
#endif

/* ---- the state: declared once as #define CNP_STATE(X) X(type, name) …, with CNP_RESULT one of its names */
#ifndef CNP_STATE
#define CNP_STATE(X)
#endif
/* Registers: words of these names can be operands, r[3] and f[2]. Bodies reach them as operands, not as s->r3; only the
 * result may be one of them. */
#define CNP_REGISTERS(X)                                                                      \
    X(u64, r0) X(u64, r1) X(u64, r2) X(u64, r3) X(u64, r4) X(u64, r5) X(u64, r6) X(u64, r7)   \
    X(u64, r8) X(u64, r9) X(f64, f0) X(f64, f1) X(f64, f2) X(f64, f3) X(f64, f4) X(f64, f5)   \
    X(f64, f6) X(f64, f7)
typedef u64 cnp_label;
typedef struct cnp_function *cnp_func;
#define CNP_FIELD(type, name) type name;
#define CNP_FLAG(type, name) u8 name;
typedef struct cnp_state {
    CNP_STATE(CNP_FIELD)
    char *cnp_frame;  /* slot 0 of the running function */
    cnp_label cnp_to; /* where JUMP_TABLE goes */
    struct cnp_flags { CNP_STATE(CNP_FLAG) u8 none; } cnp_dead;
} cnp_state;

/* Before CNP_CALL: nobody reads this field again before it is written, so the call need not keep it. It is 0 after the
 * call, also in the state that is stored when the run is left out of the callee. */
#define CNP_DEAD(name) ((void)(s->cnp_dead.name = 1))
#define CNP_BURY(type, name) if (s->cnp_dead.name) s->name = 0;

/* ---- one run (docs/contract.md draws it): fuel counts the polls down, a helper sets raised to leave */
typedef struct cnp_context {
    u64 kind;
    char *frame;
    u64 value;
    i64 fuel;
    u64 raised;
    i64 budget;
    i64 quantum;
    u64 pending, pending_value;
    u64 clock;
    void *user;
    char *outermost; /* the last frame that an exit came through */
} cnp_context;

typedef struct cnp_header { /* lies right below slot 0 of every frame, the saved state below it */
    char *inner;
    u32 op, code;
    u32 depth, outer;
    cnp_context *context;
#if __SIZEOF_POINTER__ == 4
    u32 padding[2];
#endif
} cnp_header;
#define CNP_HEADER(frame) ((cnp_header *)(frame) - 1)
#define CNP_CONTEXT (CNP_HEADER(s->cnp_frame)->context)
extern u64 cnp_poll(cnp_context *context);

/* ---- native calls: the callee's frame begins behind a header at `base`, a slot of the caller */
/* What a stencil returns: its frame and its result; when the run was left, 0 and its frame. What cnp_call returns: the
 * same; when the run was left, 0 and what the body has to return. */
typedef struct cnp_word { u64 frame, value; } cnp_word;
CNP_INLINE cnp_word cnp_call(cnp_state *s, cnp_func function, void *base);
#define CNP_CALL(function, base)                                                  \
    ({                                                                            \
        cnp_word cnp_result = cnp_call(s, (cnp_func)(function), (char *)(base));  \
        if (unlikely(!cnp_result.frame)) return (cnp_go)cnp_result.value;         \
        cnp_result.value;                                                         \
    })

/* ---- bits of floats, as they lie in words. Where a machine's negation is arithmetic, which need not flip the sign of a
 * NaN (its target's flags say so), clang must not see that a sign is flipped: it would use that instruction. */
#ifdef CNP_NEGATION_IS_ARITHMETIC
#define CNP_OPAQUE(bits) __asm__("" : "+r"(bits));
#else
#define CNP_OPAQUE(bits)
#endif
CNP_INLINE f64 cnp_f64(u64 bits) { CNP_OPAQUE(bits) f64 value; __builtin_memcpy(&value, &bits, 8); return value; }
CNP_INLINE f32 cnp_f32(u32 bits) { CNP_OPAQUE(bits) f32 value; __builtin_memcpy(&value, &bits, 4); return value; }
CNP_INLINE u64 cnp_bits_f64(f64 value) { u64 bits; __builtin_memcpy(&bits, &value, 8); return bits; }
CNP_INLINE u32 cnp_bits_f32(f32 value) { u32 bits; __builtin_memcpy(&bits, &value, 4); return bits; }

/* ---- a word in memory holds a smaller value in its low bytes, which lie at its end on a big-endian machine */
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define CNP_LOW(size) ((size) < 8 ? 8 - (size) : 0)
#else
#define CNP_LOW(size) 0
#endif

/* ---- operands as parameters of the body. in(type, name, …) and out(type, name) are values, in slots or registers; what
 * follows the name says which immediates the operand may be: types, or numbers, each of which has a form of its own. */
#define CNP_P_in(type, name, ...) , type name
#define CNP_P_out(type, name) , type *name
#define CNP_P_imm(type, name, ...) , type name
#define CNP_P_slot(type, name) , type *name
#define CNP_P_cell(type, name) , type *name
#define CNP_P_symbol(type, name) , type *name
#define CNP_P_label(name) , cnp_label name
#define CNP_P_func(name) , cnp_func name
#define CNP_P_table(name) , const cnp_label *name
#define CNP_PARAMS0()
#define CNP_PARAMS1(a) CNP_P_##a
#define CNP_PARAMS2(a, b) CNP_P_##a CNP_P_##b
#define CNP_PARAMS3(a, b, c) CNP_P_##a CNP_P_##b CNP_P_##c
#define CNP_PARAMS4(a, b, c, d) CNP_P_##a CNP_P_##b CNP_P_##c CNP_P_##d
#define CNP_PARAMS5(a, b, c, d, e) CNP_P_##a CNP_P_##b CNP_P_##c CNP_P_##d CNP_P_##e
#define CNP_PARAMS6(a, b, c, d, e, f) CNP_P_##a CNP_P_##b CNP_P_##c CNP_P_##d CNP_P_##e CNP_P_##f
#define CNP_COUNT(...) CNP_COUNT_(__VA_OPT__(__VA_ARGS__, ) 6, 5, 4, 3, 2, 1, 0)
#define CNP_COUNT_(a, b, c, d, e, f, n, ...) n
#define CNP_CAT(a, b) CNP_CAT_(a, b)
#define CNP_CAT_(a, b) a##b
#define CNP_PARAMS(...) CNP_CAT(CNP_PARAMS, CNP_COUNT(__VA_ARGS__))(__VA_ARGS__)

/* ---- declarations: the builder's first look at a source is its preprocessed text with these marks in it */
#ifdef CNP_DISCOVER
#define CNP_PRAGMA(...) _Pragma(#__VA_ARGS__)
#define CNP_MARK(...) CNP_PRAGMA(cnp __VA_ARGS__)
#else
#define CNP_MARK(...)
#endif

#define CNP_OP(name, ...)                                                   \
    CNP_MARK(op name __VA_ARGS__)                                           \
    CNP_INLINE cnp_go name(cnp_state *s CNP_PARAMS(__VA_ARGS__))
#define CNP_SLOW(name, ...)                                                 \
    CNP_INLINE cnp_go CNP_CAT(name, _slow)(cnp_state *s CNP_PARAMS(__VA_ARGS__))
#define CNP_OP_SLOW(name, ...)                                              \
    CNP_SLOW(name, __VA_ARGS__);                                            \
    CNP_MARK(slow name __VA_ARGS__)                                         \
    CNP_INLINE cnp_go name(cnp_state *s CNP_PARAMS(__VA_ARGS__))

/* A super-operation: its parts in one stencil, one after the other. The builder prints the body. */
#define CNP_SUPER(name, ...) CNP_MARK(super name __VA_ARGS__)

/* Pure operations: values in, a value out; the builder prints their forms. What may follow the expression:
 * IMM(operand, type): the operand may be an immediate of that type, which is i1 … i64, u1 … u64, f32 or f64, or just the
 * number that stands there; several for one operand, the best first. */
#define CNP_PURE(name, type, params, expression, ...)                       \
    CNP_MARK(pure name type params __VA_ARGS__)                             \
    CNP_INLINE type name params { return expression; }
#define CNP_TEST(name, params, expression, ...)                             \
    CNP_MARK(test name u32 params __VA_ARGS__)                              \
    CNP_INLINE u32 name params { return expression; }
#define CNP_PURE_TRAP(name, type, params, code, expression, ...)            \
    CNP_MARK(trap name type params __VA_ARGS__)                             \
    CNP_INLINE u32 CNP_CAT(name, _trap) params { return code; }             \
    CNP_INLINE type name params { return expression; }
/* Loads and stores: d <- memory[base + offset], memory[base + offset] <- a. */
#define CNP_LOAD(name, type, memory)                                        \
    CNP_OP(name, out(type, d), in(u64, base), imm(disp, offset))            \
    { *d = *(const memory *)(__UINTPTR_TYPE__)(base + offset); return NEXT; }
#define CNP_STORE(name, type, memory)                                       \
    CNP_OP(name, in(u64, base), imm(disp, offset), in(type, a))             \
    { *(memory *)(__UINTPTR_TYPE__)(base + offset) = (memory)a; return NEXT; }

#ifdef CNP_DISCOVER
CNP_MARK(result CNP_RESULT)
CNP_MARK(interpret CNP_INTERPRET)
#define CNP_MARK_STATE(type, name) CNP_MARK(state name type)
CNP_STATE(CNP_MARK_STATE)
#endif
#endif
