/* An interpreter in C with a JIT, and no Python in the process: its bytecode goes to records, the core of cnp makes them
   machine code.

       cnp export ops --as core --out ops.h
       cc -I "$(python -c 'import cnp; print(cnp.get_include())')" -I. examples/jit.c \
          "$(python -c 'import cnp; print(cnp.get_include())')/cnp_core.c" -o jit
       ./jit 20

   It runs three programs both ways, says what they returned, and fails where the ways differ. */

#define _GNU_SOURCE
#include "ops.h" /* which includes cnp_core.h */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- the bytecode: four bytes, on 16 variables of 64 bits */

enum code { SET, ADD, SUB, MUL, LESS, JUMP, RETURN };
struct insn {
    uint8_t code, a, b, c; /* SET a = b | ADD a = b + c … | LESS if a < b go to c | JUMP to c | RETURN a */
};
enum { VARIABLES = 16, INSNS = 64 };

static int64_t interpret(const struct insn *program, int64_t *v)
{
    for (const struct insn *i = program;; i++)
        switch (i->code) {
        case SET: v[i->a] = i->b; break;
        case ADD: v[i->a] = (uint64_t)v[i->b] + (uint64_t)v[i->c]; break;
        case SUB: v[i->a] = (uint64_t)v[i->b] - (uint64_t)v[i->c]; break;
        case MUL: v[i->a] = (uint64_t)v[i->b] * (uint64_t)v[i->c]; break;
        case LESS: i = v[i->a] < v[i->b] ? program + i->c - 1 : i; break;
        case JUMP: i = program + i->c - 1; break;
        default: return v[i->a];
        }
}

/* ---- bytecode to records: one each, so that positions are those of the bytecode */

static int32_t variable(uint8_t number) { return 8 * number; }

static struct cnp_record record(const struct insn *i)
{
    const uint32_t two = CNP_KIND(CNP_SLOT, 0) | CNP_KIND(CNP_SLOT, 1), three = two | CNP_KIND(CNP_SLOT, 2);
    int32_t a = variable(i->a), b = variable(i->b), c = variable(i->c);
    switch (i->code) {
    case SET: return (struct cnp_record){ops_i64_move, 0, CNP_KIND(CNP_SLOT, 0) | CNP_KIND(CNP_NUMBER, 1), {a, i->b}};
    case ADD: return (struct cnp_record){ops_i64_add, 0, three, {a, b, c}};
    case SUB: return (struct cnp_record){ops_i64_sub, 0, three, {a, b, c}};
    case MUL: return (struct cnp_record){ops_i64_mul, 0, three, {a, b, c}};
    case LESS: return (struct cnp_record){ops_br_i64_lt_s, 0, two | CNP_KIND(CNP_POSITION, 2), {a, b, i->c}};
    case JUMP: return (struct cnp_record){ops_jump, 0, CNP_KIND(CNP_POSITION, 0), {i->c}};
    default: return (struct cnp_record){ops_ret, 0, CNP_KIND(CNP_SLOT, 0), {a}};
    }
}

/* ---- the core */

/* status: 0 where all is well. */
static void must(const char *what, int status)
{
    if (status == 0)
        return;
    fprintf(stderr, "%s: status %d\n", what, status);
    exit(1);
}

static void *resize(void *context, void *memory, size_t old, size_t size)
{
    (void)context, (void)old;
    if (size)
        return realloc(memory, size);
    free(memory);
    return NULL;
}

/* Append records; what the library has not been asked for yet is prepared on the way. */
static void append(struct cnp_library *library, struct cnp_program *program, const struct cnp_record *records, size_t count)
{
    struct cnp_evidence evidence;
    size_t done = 0, now;
    while (done < count) {
        int status = cnp_append(program, records + done, count - done, &now, &evidence);
        done += now;
        if (status == CNP_UNPREPARED)
            status = cnp_prepare(library, evidence.op, evidence.what, &evidence);
        must("append", status);
    }
}

struct jit {
    void *memory;
    size_t size;
    uint64_t enter, code;
};

/* Machine code of a bytecode program, in memory that is first writable and then executable. */
static struct jit compile(struct cnp_library *library, struct cnp_program *program, const struct insn *insns, size_t count)
{
    struct cnp_record records[INSNS];
    struct cnp_evidence evidence;
    struct cnp_needs needs;
    const uint32_t roots[] = {cnp_ops_enter};
    struct jit jit;
    uint32_t function;
    uint64_t size;

    for (size_t i = 0; i < count; i++)
        records[i] = record(&insns[i]);
    cnp_reset(program);
    must("label", cnp_label(program, &function));
    must("function", cnp_function(program, function, 8 * VARIABLES));
    append(library, program, records, count);
    must("plan", cnp_plan(program, roots, 1, &needs, &evidence));

    jit.size = needs.bound;
    jit.memory = mmap(NULL, jit.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must("mmap", jit.memory == MAP_FAILED);
    uint64_t base = (uint64_t)(uintptr_t)jit.memory;
    must("settle", cnp_settle(program, base, 0, NULL, NULL, &size, &evidence));
    must("write", cnp_write(program, jit.memory, size, NULL, 0, &evidence));
    must("mprotect", mprotect(jit.memory, jit.size, PROT_READ | PROT_EXEC));
    __builtin___clear_cache(jit.memory, (char *)jit.memory + size);
    jit.enter = cnp_routine_address(program, cnp_ops_enter);
    jit.code = base + cnp_offsets(program)[0];
    return jit;
}

/* A frame as docs/export.md draws it: the variables are its slots, the header lies below them. */
static int64_t run(const struct jit *jit, int64_t *v)
{
    static _Alignas(16) char area[cnp_ops_header + 8 * VARIABLES];
    uint64_t context[12] = {0};
    char *frame = area + cnp_ops_header;
    void *context_at = context;
    uint32_t outer = 1;
    memset(area, 0, cnp_ops_header);
    memcpy(frame - 12, &outer, sizeof outer);
    memcpy(frame - 8, &context_at, sizeof context_at);
    memcpy(frame, v, 8 * VARIABLES);
    ((void (*)(void *, void *))(uintptr_t)jit->enter)(frame, (void *)(uintptr_t)jit->code);
    must("a run that did not return", (int)context[0]);
    memcpy(v, frame, 8 * VARIABLES);
    return (int64_t)context[2];
}

/* ---- programs: variable 0 is what they are given */

static const struct { const char *name; struct insn insns[INSNS]; size_t count; } programs[] = {
    {"factorial", {{SET, 1, 1, 0}, {SET, 2, 1, 0}, {SET, 3, 1, 0}, {ADD, 4, 0, 3}, {LESS, 2, 4, 6}, {RETURN, 1, 0, 0},
                   {MUL, 1, 1, 2}, {ADD, 2, 2, 3}, {JUMP, 0, 0, 4}}, 9},
    {"fibonacci", {{SET, 1, 0, 0}, {SET, 2, 1, 0}, {SET, 3, 0, 0}, {SET, 5, 1, 0}, {LESS, 3, 0, 6}, {RETURN, 1, 0, 0},
                   {ADD, 4, 1, 2}, {SET, 6, 0, 0}, {ADD, 1, 2, 6}, {ADD, 2, 4, 6}, {ADD, 3, 3, 5}, {JUMP, 0, 0, 4}}, 12},
    {"squares", {{SET, 1, 0, 0}, {SET, 2, 0, 0}, {SET, 3, 1, 0}, {LESS, 2, 0, 5}, {RETURN, 1, 0, 0},
                 {ADD, 2, 2, 3}, {MUL, 4, 2, 2}, {ADD, 1, 1, 4}, {JUMP, 0, 0, 3}}, 9},
};

int main(int argc, char **argv)
{
    const struct cnp_allocator allocator = {resize, NULL};
    struct cnp_evidence evidence;
    struct cnp_library *library;
    struct cnp_program *program;
    int64_t given = argc > 1 ? atoll(argv[1]) : 10;
    must("tables", cnp_library_open(&library, &cnp_ops_tables, &allocator, &evidence));
    must("program", cnp_program_open(&program, library, &evidence));
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        int64_t first[VARIABLES] = {given}, second[VARIABLES] = {given};
        struct jit jit = compile(library, program, programs[i].insns, programs[i].count);
        int64_t wanted = interpret(programs[i].insns, first), found = run(&jit, second);
        printf("%s %lld\n", programs[i].name, (long long)found);
        must("compiled and interpreted differ", found != wanted || memcmp(first, second, sizeof first));
        must("munmap", munmap(jit.memory, jit.size));
    }
    cnp_program_close(program);
    cnp_library_close(library);
    return 0;
}
