/* What the rooms of the core share: rows of the stencil file made into structs, and the program under construction. */

#include "cnp_core.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

__extension__ typedef __int128 wide; /* sums of an address, an addend and a place */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define LITTLE_HOST 1
#else
#define LITTLE_HOST 0
#endif

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)
#define NOINLINE __attribute__((noinline))
#define INLINE static inline __attribute__((always_inline))
#define LINE 64          /* bytes of a cache line, as most processors have them */
#define NONE 0xFFFFFFFFu
#define REGION 0x10000000u
#define ROUNDS 16        /* of the layout without a margin */
#define SHORT_CODE 32    /* bytes that are copied whatever the length is */
#define FAST 3           /* holes that are filled, and registers that are, whatever there are */
#define TURNED 16        /* bytes of code in which fields of registers are filled at once */
#define NO_BYTE 0x80     /* of a record: what is filled with it stays 0 */
#define STRIDE 8         /* offsets that are moved at a time; behind the last one there is room for as many */
#define BLOCK 512        /* operations that are written before their jumps are */
#define AHEAD 24         /* jumps whose goals, which lie anywhere, are fetched before they are looked at; as many ends follow */
#define PAGE_AHEAD (4096 / sizeof(struct cnp_record)) /* records in a row that are fetched before they are looked at */
#define SLACK (SHORT_CODE + 8) /* bytes from the start of an operation that are written then */

/* ---- rows */

struct hole {
    int64_t addend;
    uint32_t offset;
    int32_t place;
    uint16_t index;
    uint8_t field, what;
};

struct block {
    const uint8_t *code;
    const struct hole *hole;
    uint32_t size, align, holes;
    uint8_t tail;
};

struct accept {
    wide low, high;
    uint64_t rest; /* the bits that are 0 in all values */
    uint32_t mask;
    uint8_t kind;
};

/* The hot block of a stencil, ready to be copied. A fast hole is a store of 8 bytes: the bits of its field from the
   record, the rest from the template. Stores go up in their offset, so that each leaves right what is behind it:

       template  48 8b 87 00 00 00 00 48 03 87 …
       store 1            oo oo oo oo 48 03 87 00
       store 2                                 oo oo oo oo 48 …

   The fields of a register operand lie anywhere in the first bytes. What each register of the bank changes there is
   worked out once: these bits are turned over in what is copied, and the stores leave them as they are. */
struct variant {
    _Alignas(LINE) uint8_t code[SHORT_CODE];
    const uint8_t *turn[FAST];    /* TURNED bytes for each register */
    uint8_t turn_mask[FAST];      /* 31; 0 where no operand turns anything */
    uint8_t turn_from[FAST];      /* byte in the record */
    uint8_t quick;                /* it is short, and these are all its holes but a jump */
    uint8_t spreads;              /* it is quick, and no operand turns anything */
    uint8_t spread[2][SHORT_CODE]; /* the fast holes byte by byte: the number of the byte in words 0 to 3, 2 to 5; NO_BYTE */
    uint64_t base[FAST], mask[FAST];
    uint8_t from[FAST], at[FAST]; /* bytes in the record and in the code */
    uint32_t size;                /* without the jump to the next operation */
    uint8_t turns;                /* operands that turn something */
    uint8_t rest;                 /* holes that are filled one by one */
    uint8_t jump_from;            /* where the operand that it goes to lies in a record */
    uint8_t jump_size;            /* bytes of a plain relative jump to a label; 0: there is none */
    uint8_t unreached;            /* the far variant's jump does not reach everywhere */
    uint8_t special;              /* operations that take it are special: it is the near one of a form that is not plain */
    uint32_t growth;              /* bytes by which the far variant is longer */
    uint32_t jump_at, jump_mask;
    int32_t jump_add;             /* its value: goal - operation + jump_add */
    uint32_t handled;             /* bits: the fast holes, registers and the jump, of the block's first 32 holes */
};

struct form {
    struct block block[2][2]; /* near and far; hot and cold */
    const struct accept *accepts;
    const struct cnp_ties *ties;
    uint32_t bound, veneers, row; /* bytes at most, stubs included; veneers at most; its row in the file */
    uint8_t blocks, far, goes_on;
    uint8_t even;                      /* its hot blocks leave no gaps */
    uint8_t plain;                     /* no layout of its own: one block, whose only exits are the next operation and one jump */
    uint8_t leaves, leave[3];          /* its stubs, in the order in which they are asked for */
    uint8_t shared;                    /* it asks for constants, literals, imports or routines */
    uint8_t wide;                      /* operand + 1 of the only one that may need 64 bits: words 4 and 5 hold it */
};

/* The forms for operands of some kinds, as a list and as a table. Four words of a record are compared with three bounds
   each, unsigned; the twelve bits that say where they lie choose the form at once, in the table for what is equal among them:

       lane    0 word 0     1 word 1     2 word 2     3 word 5, the upper half of a wide number
       bits    0-3 > last[0]   4-7 > last[1]   8-11 > last[2]: behind the last word below each bound
               12-15 > last[3], or bits of `low` that are not 0: refused, or looked at more closely

   These are turned: their highest bit is the other one, so that unsigned words are in the order of signed ones. */
struct choice {
    const struct variant *near;
    uint64_t sizes;  /* bytes of its near variant; from bit 32 on its bound; from bit 56 on 1 if its operations are special */
    uint64_t jumps;  /* the highest bit, if it has a plain jump */
    uint64_t form_bits; /* its form, as it lies in the first 8 bytes of a record */
    uint16_t form;
    uint8_t closer;  /* records of it have to be looked at more closely: always, or where their wide number is negative */
    uint8_t adjust;  /* the same of numbers that have to be written in another way */
};
enum { ALWAYS = 1, NEGATIVE = 2 };
#define SPECIAL ((uint64_t)1 << 56)
#define CHOICES 254
#define SCAN 255 /* the table does not tell: look at the list. No choice has this number */
#define PLACES 4096
#define TURN 0x80000000u
#define LARGEST 4096 /* bytes of an operation at most that needs no closer look */
#define WORD_AT(i) ((uint8_t)(offsetof(struct cnp_record, word) + 4u * (i)))

struct shape {
    _Atomic(struct shape *) next;
    uint32_t kinds;
    uint8_t choices;
    uint8_t things; /* operands that name things of the program */
    uint8_t homes;  /* some register lives at its home on this target */
    uint8_t pairs;  /* bits: some form says that the words 0 and 1, 1 and 2, 2 and 0 are equal, or different */
    uint32_t low[4], last[4][4];
    uint32_t slots[8]; /* the upper half: all ones where the limit is that of the frame; last[3] is 0 there */
    uint8_t *table[8]; /* one for each set of those pairs that are equal */
    struct choice choice[CHOICES];
};

struct operation {
    const struct cnp_operation *row;
    struct form *forms;
    struct variant *variants; /* near and far of each form */
};

struct slab {
    struct slab *next;
    size_t size, used;
};

struct cnp_library {
    struct cnp_tables tables;
    struct cnp_allocator allocator;
    struct slab *slabs;
    _Atomic(struct operation *) *operations;
    _Atomic(struct shape *) *shapes; /* of each operation, in the order in which they were needed */
    struct block *routines, veneer;
    bool avx2;    /* the processor has it */
    bool homes;   /* some register lives at its home */
    bool regions; /* some jumps stay within a region */
};

/* ---- the program */

struct function { uint32_t begin, frame; };

/* A plain jump; `op` of the ends that follow the last one is NONE. goal: the position that it goes to, once it is planned.
   far: the round in which it became long, once it is settled. */
struct jump {
    const struct variant *near; /* the far one is the next */
    uint32_t op, goal, far;
};

struct named { uint32_t jump, label; }; /* where a jump goes to, if that is a label */

struct piece { /* what is not hot */
    const struct block *block;
    uint64_t goal; /* of a veneer */
    uint32_t op, chunk, address, next;
    uint8_t kind, outside; /* BLOCK_COLD …; the goal is an address outside */
};
enum { PIECE_HOT, PIECE_COLD, PIECE_STUB, PIECE_ROUTINE, PIECE_VENEER };

struct cluster {
    uint64_t bound;
    uint32_t hot, cold, stub;     /* the first of each; those of the next chunk end them */
    uint32_t address, veneer, last_veneer; /* list of pieces, NONE: none */
};

struct list { /* items of one size */
    void *data;
    size_t count, room, size;
};

struct literal { struct cnp_number value; uint32_t kind, address; };
struct constant { uint32_t index, address; };

struct cnp_program {
    struct cnp_library *library;
    struct cnp_record *records;
    uint32_t *starts;  /* where each operation and the end of the last one would lie if all of them were near variants */
    uint32_t *offsets; /* … where they lie, once it is settled */
    const struct variant **variants; /* that each operation takes; the near ones until it is settled */
    size_t count, room, rooms[4]; /* of operations; of items in those arrays */
    struct list functions, labels, cells, cell_places, tables, table_labels, numbers, jumps, named;
    uint32_t symbols, limit; /* limit: the last slot of the present function */
    struct list specials;    /* operations that are not plain, or that name things */
    uint64_t hot_bound;      /* bytes of all code at most */
    uint32_t growth;         /* bytes by which a plain jump becomes longer at most */
    bool planned, settled;
    bool reach; /* the far variants of plain jumps reach everywhere */
    bool fast; /* one chunk without gaps between hot blocks, in which no jump needs help but those that grow */
    bool moved; /* some variants are far */
    /* made by cnp_plan */
    uint64_t bound, base, data_base, island;
    struct list chunks, cold, stubs, routines, veneers, constants, literals, used_tables, seen, imports, wanted;
    struct list met; /* those of `seen` */
    struct list exits, found, fresh, longer, detours, veneer_map, literal_map, todo, routine_index, constant_index;
    size_t detours_used;
    uint32_t cells_used, end, rounds;
    struct list import_address, symbol_address;
};

struct table { uint32_t first, count, address; };

#define AT(list_, type, i) (((type *)(list_).data)[i])

static int fail(struct cnp_evidence *evidence, enum cnp_status status, size_t index, uint32_t op)
{
    if (evidence) {
        memset(evidence, 0, sizeof *evidence);
        evidence->status = status, evidence->index = index, evidence->op = op;
    }
    return status;
}

static inline uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }
static inline uint32_t get32(const uint8_t *p) { return get16(p) | (uint32_t)get16(p + 2) << 16; }
static inline uint64_t get64(const uint8_t *p) { return get32(p) | (uint64_t)get32(p + 4) << 32; }

static inline uint64_t up(uint64_t address, uint64_t alignment) { return (address + alignment - 1) & -alignment; }

static struct cnp_number number_of(wide value)
{
    return (struct cnp_number){(uint64_t)value, value < 0};
}

static inline wide wide_of(struct cnp_number number)
{
    return (wide)number.bits - (number.negative ? (wide)1 << 64 : 0);
}

/* Make a list longer, for `more` items behind those that it has. false: no memory. */
static NOINLINE bool lengthen_list(struct cnp_library *library, struct list *list, size_t size, size_t more)
{
    size_t room = list->count + more + list->room / 2 + 8;
    if (room > (size_t)-1 / size)
        return false;
    const struct cnp_allocator *a = &library->allocator;
    void *data = a->resize(a->context, list->data, list->room * size, room * size);
    if (!data)
        return false;
    list->data = data, list->room = room;
    return true;
}

/* Room for `more` items behind those of a list; NULL: no memory. */
static inline void *reserve(struct cnp_library *library, struct list *list, size_t size, size_t more)
{
    list->size = size;
    if (UNLIKELY(list->room - list->count < more) && !lengthen_list(library, list, size, more))
        return NULL;
    return (char *)list->data + list->count * size;
}

static void release(struct cnp_library *library, struct list *list)
{
    if (list->data)
        library->allocator.resize(library->allocator.context, list->data, list->room * list->size, 0);
    memset(list, 0, sizeof *list);
}

/* An operand as a number, whatever it stands for: the word, or the 64 bits. */
static inline wide operand_value(const struct cnp_program *program, const struct cnp_record *record, unsigned i)
{
    unsigned kind = record->kinds >> 4 * i & 15;
    if (kind == CNP_TABLED)
        return wide_of(AT(program->numbers, struct cnp_number, (uint32_t)record->word[i]));
    if (kind == CNP_WIDE || kind == CNP_UNSIGNED) {
        uint64_t bits;
        memcpy(&bits, &record->word[4], 8);
        return kind == CNP_WIDE ? (wide)(int64_t)bits : (wide)bits;
    }
    return record->word[i];
}

/* ---- sets of operations: lists with a bit for each, 64 of them a word */

static inline void mark(const struct list *set, size_t op) { AT(*set, uint64_t, op / 64) |= (uint64_t)1 << op % 64; }
static inline bool is_marked(const struct list *set, size_t op) { return AT(*set, uint64_t, op / 64) >> op % 64 & 1; }

static inline struct operation *operation_of(const struct cnp_library *library, uint32_t op)
{
    return atomic_load_explicit(&library->operations[op], memory_order_acquire);
}

/* What the register of operand k turns over. */
static inline const uint8_t *turned_by(const struct variant *v, unsigned k, const struct cnp_record *record)
{
    uint32_t number;
    memcpy(&number, (const uint8_t *)record + v->turn_from[k], sizeof number);
    return v->turn[k] + TURNED * (size_t)(number & v->turn_mask[k]);
}
