/* workload.h: the program that `cnp bench emission` has assembled, as records of 24 bytes (docs/bench-protocol.md). */

#ifndef WORKLOAD_H
#define WORKLOAD_H

#include <stddef.h>
#include <stdint.h>

enum { LOADI, ADD, SUB, MUL, CBR, JMP, RET, OPERATIONS };

struct workload_record {
    int32_t op, d, a, b; /* slots 0 … 255; d of jumps: the operation to go to */
    uint64_t imm;
};

/* The program of `count` operations; verify: the variant that always ends. */
void workload_make(struct workload_record *records, size_t count, int verify);

/* Interpret it on 256 slots; how many operations were executed. */
uint64_t workload_interpret(const struct workload_record *records, int64_t *slots);

#endif
