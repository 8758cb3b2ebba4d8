/* What `cnp bench emission` needs in C: the workload, the loops that are timed, and the workload by the assembler of
   hand.h. A loop does the same `times` times, so that one call is long enough to be timed. */

#include "../core/cnp_core.h"
#include "hand.h"
#include "workload.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- the workload */

static uint64_t state;

static uint64_t step(void) { return state = state * 6364136223846793005u + 1442695040888963407u; }
static uint32_t draw(void) { return step() >> 33; }

/* Where operation i jumps to: mostly a little forward. */
static int32_t goal(uint64_t i, uint64_t count, int verify)
{
    uint32_t s = draw() % 4, q = draw();
    uint64_t t = verify || s < 3 ? i + 1 + q % 16 : q % count;
    return t < count - 1 ? t : count - 1;
}

static int32_t kind(uint32_t k)
{
    return k < 20 ? LOADI : k < 50 ? ADD : k < 65 ? SUB : k < 80 ? MUL : k < 95 ? CBR : k < 99 ? JMP : RET;
}

void workload_make(struct workload_record *records, size_t count, int verify)
{
    state = 42;
    for (size_t i = 0; i + 1 < count; i++) {
        struct workload_record record = {0};
        uint32_t k = draw() % 100;
        record.op = kind(verify && k == 99 ? 0 : k);
        if (record.op <= MUL)
            record.d = draw() % 256;
        if (record.op == LOADI)
            record.imm = (step() | 1ull << 62) & ~(1ull << 63);
        if (ADD <= record.op && record.op <= CBR) {
            record.a = draw() % 256;
            record.b = draw() % 256;
        }
        if (record.op == CBR || record.op == JMP)
            record.d = goal(i, count, verify);
        records[i] = record;
    }
    records[count - 1] = (struct workload_record){.op = RET};
}

uint64_t workload_interpret(const struct workload_record *records, int64_t *slots)
{
    uint64_t executed = 0;
    for (const struct workload_record *at = records;; executed++) {
        uint64_t a = slots[at->a], b = slots[at->b];
        const struct workload_record *next = at + 1;
        switch (at->op) {
        case LOADI: slots[at->d] = at->imm; break;
        case ADD: slots[at->d] = a + b; break;
        case SUB: slots[at->d] = a - b; break;
        case MUL: slots[at->d] = a * b; break;
        case CBR: next = (int64_t)a < (int64_t)b ? records + at->d : next; break;
        case JMP: next = records + at->d; break;
        default: return executed + 1;
        }
        at = next;
    }
}

/* ---- the workload as records of the core */

/* operations: the numbers of those that stand for LOADI … RET. Nothing but records: memory of `count` of them. */
void bench_records(const struct workload_record *records, size_t count, const uint16_t *operations, struct cnp_record *out)
{
    const uint32_t slots = CNP_KIND(CNP_SLOT, 0) | CNP_KIND(CNP_SLOT, 1);
    for (size_t i = 0; i < count; i++) {
        const struct workload_record *from = &records[i];
        int32_t d = 8 * from->d, a = 8 * from->a, b = 8 * from->b;
        struct cnp_record to = {.op = operations[from->op]};
        switch (from->op) {
        case LOADI:
            to.kinds = CNP_KIND(CNP_SLOT, 0) | CNP_KIND(CNP_WIDE, 1);
            to.word[0] = d;
            memcpy(&to.word[4], &from->imm, sizeof from->imm);
            break;
        case CBR:
            to = (struct cnp_record){to.op, 0, slots | CNP_KIND(CNP_POSITION, 2), {a, b, from->d}};
            break;
        case JMP: to = (struct cnp_record){to.op, 0, CNP_KIND(CNP_POSITION, 0), {from->d}}; break;
        case RET: to = (struct cnp_record){to.op, 0, CNP_KIND(CNP_SLOT, 0), {0}}; break;
        default: to = (struct cnp_record){to.op, 0, slots | CNP_KIND(CNP_SLOT, 2), {d, a, b}};
        }
        out[i] = to;
    }
}

/* ---- the core alone, without Python between its calls */

/* The core that this process has. */
struct bench_core {
    __typeof__(cnp_library_open) *library_open;
    __typeof__(cnp_library_close) *library_close;
    __typeof__(cnp_prepare) *prepare;
    __typeof__(cnp_program_open) *program_open;
    __typeof__(cnp_program_close) *program_close;
    __typeof__(cnp_reset) *reset;
    __typeof__(cnp_label) *label;
    __typeof__(cnp_function) *function;
    __typeof__(cnp_append) *append;
    __typeof__(cnp_plan) *plan;
    __typeof__(cnp_settle) *settle;
    __typeof__(cnp_write) *write;
};

/* Bytes that it holds, and held at most. */
struct bench_memory { size_t held, most; };

static void *counted(void *context, void *memory, size_t old, size_t size)
{
    struct bench_memory *sum = context;
    void *found = size ? realloc(memory, size) : NULL;
    if (size == 0)
        free(memory);
    if (size == 0 || found) {
        sum->held += size - old;
        sum->most = sum->held > sum->most ? sum->held : sum->most;
    }
    return found;
}

/* What Python opens once: a library and a program, the memory of both counted in `memory`. */
struct bench_opened {
    struct cnp_library *library;
    struct cnp_program *program;
    struct cnp_allocator allocator;
    struct bench_memory memory;
};

void bench_core_close(const struct bench_core *core, struct bench_opened *opened)
{
    if (opened->program)
        core->program_close(opened->program);
    if (opened->library)
        core->library_close(opened->library);
    *opened = (struct bench_opened){0};
}

int bench_core_open(const struct bench_core *core, struct bench_opened *opened, const struct cnp_tables *tables)
{
    *opened = (struct bench_opened){.allocator = {counted, &opened->memory}};
    int status = core->library_open(&opened->library, tables, &opened->allocator, NULL);
    if (!status)
        status = core->program_open(&opened->program, opened->library, NULL);
    if (status)
        bench_core_close(core, opened);
    return status;
}

/* Another program in the place of the one that there is; what is held then is the library's. */
int bench_core_renew(const struct bench_core *core, struct bench_opened *opened)
{
    core->program_close(opened->program);
    opened->program = NULL;
    opened->memory.most = opened->memory.held;
    return core->program_open(&opened->program, opened->library, NULL);
}

/* One function of these records, as code for the address `base`. */
static int compile(const struct bench_core *core, const struct bench_opened *opened, const struct cnp_record *records,
                   size_t count, uint32_t frame, uint32_t enter, uint64_t base, void *out, size_t room, uint64_t *size)
{
    struct cnp_program *program = opened->program;
    struct cnp_evidence evidence;
    struct cnp_needs needs;
    uint32_t label;
    core->reset(program);
    int status = core->label(program, &label);
    if (!status)
        status = core->function(program, label, frame);
    for (size_t at = 0, done; at < count && !status; at += done) {
        status = core->append(program, records + at, count - at, &done, &evidence);
        if (status == CNP_UNPREPARED)
            status = core->prepare(opened->library, evidence.op, evidence.what, &evidence);
    }
    if (!status)
        status = core->plan(program, &enter, 1, &needs, &evidence);
    if (!status)
        status = core->settle(program, base, 0, NULL, NULL, size, &evidence);
    if (!status)
        status = *size > room ? CNP_NO_SPACE : core->write(program, out, *size, NULL, 0, &evidence);
    return status;
}

/* bytes of the code, or minus the core's status. */
int64_t bench_core(const struct bench_core *core, const struct bench_opened *opened, const struct cnp_record *records,
                   size_t count, uint32_t frame, uint32_t enter, uint64_t base, void *out, size_t room, size_t times)
{
    uint64_t size = 0;
    while (times--) {
        int status = compile(core, opened, records, count, frame, enter, base, out, room, &size);
        if (status)
            return -(int64_t)status;
    }
    return (int64_t)size;
}

/* ---- memory */

void bench_copy(void *to, const void *from, size_t size, size_t times)
{
    while (times--) {
        memcpy(to, from, size);
        __asm__ volatile("" : : "r"(to) : "memory"); /* each copy counts */
    }
}

/* Copies into fresh memory, made executable, and given back; 0, or -1 where there is none. */
int bench_copy_cold(const void *from, size_t size, size_t times)
{
    while (times--) {
        void *to = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (to == MAP_FAILED)
            return -1;
        memcpy(to, from, size);
        if (mprotect(to, size, PROT_READ | PROT_EXEC) != 0 || munmap(to, size) != 0)
            return -1;
    }
    return 0;
}

/* ---- runs */

void bench_interpret(const struct workload_record *records, int64_t *slots, size_t times)
{
    while (times--)
        workload_interpret(records, slots);
}

void bench_call(void function(int64_t *), int64_t *slots, size_t times)
{
    while (times--)
        function(slots);
}

/* Code of cnp, by its way in. */
void bench_enter(void enter(void *, void *), void *frame, void *code, size_t times)
{
    while (times--)
        enter(frame, code);
}

/* ---- by hand */

#define ARITHMETIC(operate)                           \
    hand_load(a, HAND_RAX, HAND_RDI, 8 * record->a);  \
    operate(a, HAND_RAX, HAND_RDI, 8 * record->b);    \
    hand_store(a, HAND_RDI, 8 * record->d, HAND_RAX); \
    break

static void assemble(struct hand *a, const struct workload_record *records, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct workload_record *record = &records[i];
        hand_bind(a, i);
        switch (record->op) {
        case LOADI:
            hand_mov_imm64(a, HAND_RAX, record->imm);
            hand_store(a, HAND_RDI, 8 * record->d, HAND_RAX);
            break;
        case ADD: ARITHMETIC(hand_add);
        case SUB: ARITHMETIC(hand_sub);
        case MUL: ARITHMETIC(hand_imul);
        case CBR:
            hand_load(a, HAND_RAX, HAND_RDI, 8 * record->a);
            hand_cmp(a, HAND_RAX, HAND_RDI, 8 * record->b);
            hand_jl(a, record->d);
            break;
        case JMP: hand_jmp(a, record->d); break;
        default: hand_ret(a);
        }
    }
}

static struct hand by_hand; /* warm: it keeps its memory */

/* Assemble into `out`, which has `room` bytes; the size of the code, or minus what hand_link said. */
int64_t bench_hand(const struct workload_record *records, size_t count, uint8_t *out, size_t room, size_t times)
{
    size_t size = 0;
    while (times--) {
        hand_reset(&by_hand);
        assemble(&by_hand, records, count);
        enum hand_status status = hand_link(&by_hand, &size);
        if (status == HAND_OK && size > room)
            status = HAND_TOO_LARGE;
        if (status != HAND_OK)
            return -(int64_t)status;
        hand_write(&by_hand, out);
    }
    return size;
}

/* Give the memory back. */
void bench_hand_close(void) { hand_close(&by_hand); }
