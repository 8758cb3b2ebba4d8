/* cnp_core.h: stencils and records in, machine code out. The hot path of cnp, for any target on any host.

       struct cnp_tables --cnp_library_open--> library       rows of a stencil file, checked like a stranger's
       struct cnp_record --cnp_append--------> program       the form of each operation chosen at once
                           cnp_plan                          what belongs to the image, how large it is at most
                           cnp_settle(base)                  where everything lies
                           cnp_write                         bytes, each hole checked

   It knows nothing of Python and needs of C's library only memcpy, memset and memmove. No globals: everything hangs on
   the library and the program it is given. A library does not change once its operations are prepared: many threads may
   use it, a program is for one at a time. Memory comes from the caller's allocator. What goes wrong is a code, with the
   evidence in a struct; after an error a program may be reset or closed, and after one of cnp_append it is as long as
   `done` says. The byte order of the output is the target's, whatever the host's; nothing is assumed aligned. */

#ifndef CNP_CORE_H
#define CNP_CORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CNP_CORE_VERSION 1

/* ---- records */

/* An operation of a program, 32 bytes in the host's byte order:

       0        2        4                 8        12       16       20       24       28       32
       | op u16 |form u16|    kinds u32    | word 0 | word 1 | word 2 | word 3 | word 4 | word 5 |
                                                                               |    wide u64     |

   op: number of the operation in its library, which is not that of a form. form: the core writes which form it took;
   what is given does not matter. kinds: 4 bits for each operand, the first operand's lowest; the rest is 0. Operand i
   lies in word i, as its kind says; the 64 bits of a `wide` one lie in words 4 and 5, so that one operand can be wide
   and then only four others fit. Further wide ones go by way of the program's table of numbers. The position of a
   record is the operation's number, and a place to jump to. */
struct cnp_record {
    uint16_t op, form;
    uint32_t kinds;
    int32_t word[6];
};

enum cnp_kind {
    CNP_NONE,     /* no operand */
    CNP_SLOT,     /* offset in bytes from the frame's first slot */
    CNP_R,        /* register of the bank r */
    CNP_F,        /* register of the bank f */
    CNP_NUMBER,   /* the word itself; of a float: its bits */
    CNP_WIDE,     /* signed 64 bits in words 4 and 5 */
    CNP_UNSIGNED, /* unsigned 64 bits in words 4 and 5: for numbers that are no signed ones, and floats */
    CNP_TABLED,   /* a number of the program, by cnp_number */
    CNP_POSITION, /* an operation of the program, by its position: for operands that are labels */
    CNP_LABEL,    /* a label, by cnp_label */
    CNP_FUNCTION, /* a label that is a function's */
    CNP_SYMBOL,   /* a name that is resolved when the program is linked, by cnp_symbol */
    CNP_CELL,     /* a word of data, by cnp_cell */
    CNP_TABLE,    /* a jump table, by cnp_table */
    CNP_HOME,     /* the slot at a register's home, by its offset: what a composition parks there */
    CNP_KINDS
};

#define CNP_KIND(kind, operand) ((uint32_t)(kind) << 4 * (operand))
#define CNP_OPERANDS 6 /* of an operation at most */

/* ---- errors */

enum cnp_status {
    CNP_OK,
    CNP_NO_MEMORY,         /* the allocator gave none */
    CNP_BAD_TABLES,        /* a row says what cannot be; evidence: op, row, table */
    CNP_UNPREPARED,        /* cnp_prepare this operation with these kinds first; evidence: index, op, kinds in what */
    CNP_NO_OPERATION,      /* the library has no such operation; evidence: index, op */
    CNP_BAD_OPERAND,       /* a kind that there is not, or a number of nothing in the program; evidence: index, operand */
    CNP_NO_FORM,           /* no form takes these operands together; evidence: index, op */
    CNP_OUTSIDE_FRAME,     /* a slot outside of its function's frame; evidence: index, operand, value, high */
    CNP_NO_FUNCTION,       /* operations before the first function */
    CNP_UNBOUND,           /* a label that is bound to no operation; evidence: index, operand, value: the label */
    CNP_LARGER_FRAME,      /* a jump into a function with a larger frame; evidence: index, operand, value: the position */
    CNP_EMPTY_FUNCTION,    /* evidence: index, where it begins */
    CNP_RUNS_OFF,          /* control would run off a function's end; evidence: index */
    CNP_OUT_OF_RANGE,      /* a value that does not fit its hole; evidence: everything */
    CNP_MISALIGNED,        /* the same, a multiple of `align` is asked for */
    CNP_BAD_BASE,          /* base or data_base; evidence: value, high, align */
    CNP_TOO_LARGE,         /* more than 2^32 - 1 operations, bytes of code or things of one kind */
    CNP_NO_SPACE,          /* the buffer is smaller than the image */
    CNP_WRONG_TIME,        /* a call out of order: append after cnp_plan without cnp_reset, settle before plan … */
    CNP_BAD_INSTRUCTION,   /* of bytecode; evidence: enum cnp_fault says what */
    CNP_ESCAPE             /* no error: the caller gives the records of an instruction of bytecode */
};

/* A number of 65 bits: bits, less 2^64 if it is negative. */
struct cnp_number {
    uint64_t bits;
    uint32_t negative;
};

/* What is known of an error. index: position of the operation, (size_t)-1 if it is none; op: its number in the
   library; operand; hole: offset of the hole in its block; block: 0 hot, 1 cold, 2 a stub, 3 a routine, 4 a veneer;
   field: row of the fields; what, what_index: what the hole is filled with (enum cnp_what). */
struct cnp_evidence {
    enum cnp_status status;
    size_t index;
    uint32_t op, operand, block, hole, field, what, what_index;
    struct cnp_number value, low, high;
    uint64_t align;
    const char *table; /* of a bad row */
    size_t row;
};

/* ---- memory */

/* As realloc: memory of `size` bytes, aligned as malloc does, with the contents of `memory`, which has `old` bytes and may
   be NULL; size 0 frees. NULL: there is none, and the old memory is as it was. */
struct cnp_allocator {
    void *(*resize)(void *context, void *memory, size_t old, size_t size);
    void *context;
};

/* ---- the library */

enum cnp_formula { CNP_ABSOLUTE, CNP_RELATIVE, CNP_PAGE, CNP_REGION, CNP_NEGATED };
enum cnp_what {
    CNP_WHAT_OPERAND, CNP_WHAT_TARGET, CNP_WHAT_NEXT, CNP_WHAT_LEAVE, CNP_WHAT_BLOCK, CNP_WHAT_DATA, CNP_WHAT_LITERAL,
    CNP_WHAT_IMPORT, CNP_WHAT_ROUTINE, CNP_WHAT_POSITION
};

/* How a value gets into an instruction: docs/export.md. The value lies in low … high and is a multiple of align, a power of two; then
   carry is added and each part moves `width` bits from bit `from` of the sum to bit `to` of a unit of `size` bytes. */
struct cnp_part { uint8_t from, width, to; };
struct cnp_field {
    int64_t low;
    uint64_t high, carry, align;
    uint8_t size, formula, jump, parts;
    struct cnp_part part[8];
};

/* What a form's operand may be: the kinds of the file by number. */
enum cnp_accept {
    CNP_TAKES_R, CNP_TAKES_F, CNP_TAKES_SLOT, CNP_TAKES_SIGNED, CNP_TAKES_UNSIGNED, CNP_TAKES_U32, CNP_TAKES_U64,
    CNP_TAKES_LABEL, CNP_TAKES_FUNCTION, CNP_TAKES_CELL, CNP_TAKES_TABLE, CNP_TAKES_SYMBOL
};

struct cnp_operation {
    uint32_t first, forms; /* rows of forms */
    uint8_t operands;
    uint8_t calls;  /* it makes native calls: its slots may be the base of a callee's frame */
    uint8_t places; /* bits: which operands are labels or tables that it goes to itself */
};

struct cnp_pair { uint8_t first, second; };
struct cnp_ties { uint32_t first_same, same, first_differ, differ; }; /* ranges of pairs */
struct cnp_constant { uint32_t start, size, align; };                 /* in the code */
struct cnp_register { int32_t number, home; };                        /* number -1: it lives at its home, an offset */
struct cnp_rows { const void *data; size_t count; };                  /* of a table of the file; little-endian */

/* A stencil file, opened: docs/file-format.md. Everything stays the caller's and must outlive the library. */
struct cnp_tables {
    struct cnp_rows forms, takes, accepts, stencils, blocks, runs, holes, code;
    const struct cnp_operation *operations;
    const struct cnp_field *fields;
    const uint8_t *kinds;    /* enum cnp_accept of each kind */
    const uint8_t *features; /* 1: the processor has this one; [0] is the base line */
    const struct cnp_ties *ties;
    const struct cnp_pair *pairs;
    const struct cnp_constant *constants;
    const struct cnp_register *r, *f;
    const uint32_t *routines;  /* a block each */
    const int32_t *stubs;      /* routines of the ways out: exit, trap, unwind */
    const uint8_t *veneer;     /* code that jumps anywhere */
    const uint8_t *nop, *trap; /* code that does nothing; code for unused memory */
    uint32_t operations_count, fields_count, kinds_count, features_count, ties_count, pairs_count, constants_count,
        r_count, f_count, routines_count, imports_count;
    uint32_t veneer_size, veneer_align, veneer_holes, nop_size, trap_size;
    const uint8_t *veneer_rows; /* rows of holes, as in the file; their OPERAND 0 is the address */
    uint64_t island;            /* bytes of code between two islands of veneers; 0: jumps always reach */
    uint32_t code_align, big_endian;
};

struct cnp_library;

int cnp_library_open(struct cnp_library **library, const struct cnp_tables *tables, const struct cnp_allocator *allocator,
                     struct cnp_evidence *evidence);
void cnp_library_close(struct cnp_library *library);

/* Check the rows of an operation, and make what choosing and patching need for operands of these kinds: once for each
   combination that records have, by
   one thread at a time; others may use the library meanwhile. */
int cnp_prepare(struct cnp_library *library, uint32_t op, uint32_t kinds, struct cnp_evidence *evidence);

/* ---- the program */

struct cnp_program;

int cnp_program_open(struct cnp_program **program, struct cnp_library *library, struct cnp_evidence *evidence);
void cnp_program_close(struct cnp_program *program);
void cnp_reset(struct cnp_program *program); /* empty again; its memory stays for the next one */

/* Things that operands name; `number` says which one it became. Labels are unbound (-1) until cnp_bind. */
int cnp_label(struct cnp_program *program, uint32_t *number);
int cnp_bind(struct cnp_program *program, uint32_t label, int64_t position);
int cnp_function(struct cnp_program *program, uint32_t label, uint32_t frame); /* begins at the next operation */
int cnp_symbol(struct cnp_program *program, uint32_t *number);
int cnp_cell(struct cnp_program *program, uint64_t initial, uint32_t *number);
int cnp_table(struct cnp_program *program, const uint32_t *labels, size_t count, uint32_t *number);
int cnp_number(struct cnp_program *program, struct cnp_number value, uint32_t *number);
size_t cnp_numbers(const struct cnp_program *program); /* how many there are; some the core added itself */
struct cnp_number cnp_number_at(const struct cnp_program *program, uint32_t number);

/* Append `count` records; done: how many were. They are copied. */
int cnp_append(struct cnp_program *program, const void *records, size_t count, size_t *done,
               struct cnp_evidence *evidence);
/* Room for records behind those of a program: written there, cnp_append takes them without a copy. NULL: there is none. */
struct cnp_record *cnp_room(struct cnp_program *program, size_t count);
size_t cnp_count(const struct cnp_program *program);
const struct cnp_record *cnp_records(const struct cnp_program *program);

/* ---- the image */

/* bound, data_bound: bytes of code and data at most, wherever it lies. imports, symbols: 1 for each that has to have an
   address, by its number. */
struct cnp_needs {
    uint64_t bound, data_bound;
    const uint8_t *imports, *symbols;
};

/* Check the program as a whole and collect what belongs to its image. roots: routines that are called from outside. */
int cnp_plan(struct cnp_program *program, const uint32_t *roots, size_t count, struct cnp_needs *needs,
             struct cnp_evidence *evidence);

/* Lay the image out for a base address, a multiple of 16; data_base: where its cells will lie, a multiple of 8. imports,
   symbols: addresses of those that are needed. May be called again for another base. */
int cnp_settle(struct cnp_program *program, uint64_t base, uint64_t data_base, const uint64_t *imports,
               const uint64_t *symbols, uint64_t *size, struct cnp_evidence *evidence);

/* The bytes: `size` of code as cnp_settle said, data_bound of data. The buffers may lie anywhere. */
int cnp_write(struct cnp_program *program, void *code, size_t size, void *data, size_t data_size,
              struct cnp_evidence *evidence);

/* Where things lie in a settled image, in bytes from its base. */
const uint32_t *cnp_offsets(const struct cnp_program *program);               /* of each operation, and the end of the last */
uint64_t cnp_routine_address(const struct cnp_program *program, uint32_t routine); /* 0: the image has none */
int64_t cnp_cell_place(const struct cnp_program *program, uint32_t cell);     /* bytes from data_base; -1: unused */

/* A block: start, end, and the operation it belongs to, -1 for what all share. Those of a kind come one behind the other:
   hot blocks, cold ones, stubs, routines, veneers, each in the order of their addresses. */
struct cnp_block { uint32_t start, end; int64_t op; };
size_t cnp_blocks(const struct cnp_program *program);
struct cnp_block cnp_block_at(const struct cnp_program *program, size_t number);
int cnp_is_dense(const struct cnp_program *program); /* whether each hot block ends where the next operation begins */

/* ---- bytecode

   Instructions of a fixed width into records, as tables say; cnp/bytecode.py makes the tables of a description.

       code --cnp_bytecode_check------> a rule for each instruction, or the first one that breaks the rules
            --cnp_bytecode_translate--> records for cnp_append, and where functions begin

   An instruction is one word of 1, 2, 4 or 8 bytes, or two such words. One of its fields, the opcode, leads to some
   rules; the first whose conditions hold says what is checked, what it becomes and where it goes. Places count words. */

/* `width` bits from bit `at` on of the first or second word (0, 1), the lowest bit being 0. */
struct cnp_bits { uint8_t word, at, width, is_signed; };
struct cnp_span { int64_t low, high; };
struct cnp_limit { uint32_t field, first, count; }; /* the field's value lies in one of these spans */
struct cnp_mapped { uint32_t kind; int32_t word; }; /* kind CNP_NONE: the map has no such entry */

/* Where an operand comes from. With `high` (a field + 1) a number has that field above the bits of this one. */
enum cnp_from {
    CNP_FROM_CONSTANT, /* kind, base */
    CNP_FROM_FIELD,    /* kind, base + scale * field */
    CNP_FROM_MAP,      /* what the map from `first` on has at the field's value, which is below `count` */
    CNP_FROM_POOL,     /* the number that pool `first` of this translation has for the field's value; kind: NUMBER or TABLED */
    CNP_FROM_TARGET,   /* the operation at which the instruction begins that this one goes to */
    CNP_FROM_FUNCTION  /* the function that begins there */
};
struct cnp_source { uint8_t from, kind, field, high; uint32_t first, count; int64_t scale, base; };
struct cnp_step { uint16_t op; uint16_t operands; uint32_t first; }; /* an operation with its sources */

enum cnp_goes { CNP_GOES_ON, CNP_GOES_TO, CNP_CALLS };

/* What an instruction becomes. goes: whether it names an instruction, that lies at the byte base + scale * field from
   its own place, or from the first one's (absolute). A called instruction, and the first, begins a function if the bytecode
   has functions. ends: what follows is reached by jumps only. escape: records at most that the caller gives in its place;
   0: the steps. pooled: some step asks a pool. The
   first `zeros` checks hold where the bits `zero` of its words are 0. */
struct cnp_rule {
    uint32_t when, whens, check, checks, zeros; /* limits: conditions of the rule, and what must hold then */
    uint32_t step, steps, escape;
    uint8_t goes, absolute, field, ends, pooled;
    int64_t scale, base;
    uint64_t zero[2];
};

/* size: bytes of a word. opcode: a field of the first word with at most 16 bits; value v has the rules first[v] …
   first[v + 1] and, if it has any, words[v] words. frame: bytes of slots of each function, 0: the bytecode has none. begin:
   steps where a function begins, of constants; join: the operation that jumps there from the instruction before, + 1. hint:
   a bit of the first word that often decides between rules, such as the sign of a distance. */
struct cnp_bytecode {
    uint32_t size, big_endian, opcode, frame, begin, begins, join, hint;
    const struct cnp_bits *fields;
    const struct cnp_span *spans;
    const struct cnp_limit *limits;
    const struct cnp_mapped *maps;
    const struct cnp_source *sources;
    const struct cnp_step *steps;
    const struct cnp_rule *rules;
    const uint32_t *first;
    const uint8_t *words;
    uint32_t fields_count, spans_count, limits_count, maps_count, sources_count, steps_count, rules_count, pools_count;
};

/* Numbers by the values of a field; keys go up. first: of the program's numbers (cnp_number) the one that the first value is,
   where operands are TABLED. */
struct cnp_pool { const int64_t *keys, *values; size_t count; uint32_t first; };

/* Which rule an instruction breaks, in `what` of the evidence. Further evidence: index, its place; op, its opcode; operand, the
   field, the pool or the source; value. */
enum cnp_fault {
    CNP_FAULT_OPCODE,    /* no rule has this opcode */
    CNP_FAULT_CUT,       /* its second word is missing */
    CNP_FAULT_VARIANT,   /* no rule of this opcode takes these fields */
    CNP_FAULT_FIELD,     /* a field has a value that it must not have; low, high: its first span */
    CNP_FAULT_POOL,      /* a pool has no number for it */
    CNP_FAULT_RUNS_OFF,  /* the program runs off its end */
    CNP_FAULT_OUTSIDE,   /* it goes to a place outside of the program; value: this place, in bytes */
    CNP_FAULT_INSIDE     /* it goes into an instruction; value: the same */
};

struct cnp_place { uint32_t rule, at; };                 /* of each word: the core's */
struct cnp_begin { uint32_t index, position; };          /* a function: its instruction, its first operation */

/* What becomes of instructions that are alike (recipes.c). CNP_RECIPES of them are memory that the core uses as it likes:
   zeroed before it is first given, then for one bytecode and one thread at a time. */
enum { CNP_RECIPES = 1025 };
struct cnp_filled { int64_t base, scale; uint64_t mask; uint8_t up, down, operand; };
struct cnp_recipe {
    uint64_t zero, some, span;
    uint32_t key, checked, translated, at_once;
    uint8_t target, goes, ends, steps, asks;
    struct cnp_filled filled[2], ranged;
    struct cnp_record record;
    uint64_t spread_bits, large;
    uint8_t spread[32], down[8];
};

/* A program under translation. What is given: code, of `words` words; pools; recipes, or NULL, which takes longer; room for as
   many places; first_position,
   first_label: position of its first operation, label of its first function, those of the others follow. Then
   cnp_bytecode_check says how many records it becomes at most and how many functions it has, for which there has to be
   room when cnp_bytecode_translate is called (room: that of the records); count: records that were written. Where index and
   count are 0 again, it begins anew: so a program that was checked can be translated by tables with other steps. */
struct cnp_translation {
    const void *code;
    size_t words;
    const struct cnp_pool *pools;
    struct cnp_recipe *recipes;
    struct cnp_place *places;
    uint32_t first_position, first_label;
    struct cnp_record *records;
    struct cnp_begin *begins;
    size_t room, most, functions, count, index;
    size_t bound, asked; /* the core's, as goes_on */
    uint32_t goes_on;
};

/* Check tables that were not made by cnp: CNP_BAD_TABLES with the table and the row. */
int cnp_bytecode_valid(const struct cnp_bytecode *bytecode, struct cnp_evidence *evidence);
/* CNP_BAD_INSTRUCTION: the first instruction that breaks a rule. */
int cnp_bytecode_check(const struct cnp_bytecode *bytecode, struct cnp_translation *translation,
                       struct cnp_evidence *evidence);
/* CNP_ESCAPE: the caller writes the records of instruction `index` behind the first `count` ones, adds their number to
   count, and calls again. Positions among its operands name places of
   instructions. Afterwards each place has the first operation of its instruction in `at`. */
int cnp_bytecode_translate(const struct cnp_bytecode *bytecode, struct cnp_translation *translation,
                           struct cnp_evidence *evidence);

#ifdef __cplusplus
}
#endif
#endif
