/* A tool for `cnp bench emission --tool` in C: it speaks docs/bench-protocol.md.

       cc -O2 -o assembler examples/assemblers/assembler.c
       cnp bench emission --tool mine=./assembler

   It writes every jump and every displacement in its long form. Put your own assembler in the place of `assemble`. */

#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { LOADI, ADD, SUB, MUL, CBR, JMP, RET };
enum { LONGEST = 24 }; /* bytes of one operation */
struct record { int32_t op, d, a, b; uint64_t imm; };

static uint8_t *put(uint8_t *at, const char *bytes, size_t size, int32_t last)
{
    memcpy(at, bytes, size);
    memcpy(at + size, &last, sizeof last);
    return at + size + sizeof last;
}

static uint8_t *load(uint8_t *at, int32_t slot) { return put(at, "\x48\x8B\x87", 3, 8 * slot); }

static size_t assemble(const struct record *records, size_t count, uint8_t *out, uint32_t *places)
{
    uint8_t *at = out;
    for (size_t i = 0; i < count; i++) {
        const struct record *r = &records[i];
        places[i] = at - out;
        if (r->op == LOADI) {
            at[0] = 0x48, at[1] = 0xB8;
            memcpy(at + 2, &r->imm, 8);
            at += 10;
        } else if (r->op <= CBR)
            at = load(at, r->a);
        switch (r->op) {
        case ADD: at = put(at, "\x48\x03\x87", 3, 8 * r->b); break;
        case SUB: at = put(at, "\x48\x2B\x87", 3, 8 * r->b); break;
        case MUL: at = put(at, "\x48\x0F\xAF\x87", 4, 8 * r->b); break;
        case CBR: at = put(put(at, "\x48\x3B\x87", 3, 8 * r->b), "\x0F\x8C", 2, r->d); break;
        case JMP: at = put(at, "\xE9", 1, r->d); break;
        case RET: *at++ = 0xC3; break;
        }
        if (r->op <= MUL)
            at = put(at, "\x48\x89\x87", 3, 8 * r->d);
    }
    for (size_t i = 0; i < count; i++) {
        uint32_t end = i + 1 < count ? places[i + 1] : (uint32_t)(at - out);
        if (records[i].op == CBR || records[i].op == JMP) {
            int32_t distance = places[records[i].d] - end;
            memcpy(out + end - 4, &distance, 4);
        }
    }
    return at - out;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

int main(int argc, char **argv)
{
    FILE *in = argc == 4 ? fopen(argv[1], "rb") : NULL, *out = argc == 4 ? fopen(argv[2], "wb") : NULL;
    if (!in || !out || fseek(in, 0, SEEK_END) != 0) {
        fputs("usage: assembler RECORDS CODE TIMES\n", stderr);
        return 2;
    }
    size_t count = ftell(in) / sizeof(struct record), size;
    struct record *records = malloc(count * sizeof *records + 1);
    uint8_t *code = malloc(count * LONGEST + LONGEST);
    uint32_t *places = malloc(count * sizeof *places + 1);
    rewind(in);
    if (!records || !code || !places || fread(records, sizeof *records, count, in) != count) {
        fputs("the records cannot be read\n", stderr);
        return 1;
    }
    long times = atol(argv[3]);
    size = assemble(records, count, code, places); /* once before the clock runs */
    double begun = now();
    for (long i = 0; i < times; i++)
        size = assemble(records, count, code, places);
    printf("{\"ns\": %.1f, \"version\": \"1\"}\n", (now() - begun) / times);
    return fwrite(code, 1, size, out) == size && fclose(out) == 0 ? 0 : 1;
}
