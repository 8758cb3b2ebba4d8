/* The core as code of any machine: it makes code of the operations in given.h for the target of the tables in ops.h and prints
   the bytes. The test knows what they are. */

#include "ops.h"
#include "given.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = sizeof given / sizeof *given, ROOM = 128 * COUNT + 4096, IMPORTS = 256 };
static struct cnp_record records[COUNT];
static uint8_t code[ROOM];

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
    return size ? realloc(memory, size) : NULL;
}

/* Wide operands are stored as this machine stores 64 bits. */
static void make_records(void)
{
    for (size_t i = 0; i < COUNT; i++) {
        records[i] = (struct cnp_record){.op = given[i].op, .kinds = given[i].kinds};
        memcpy(records[i].word, given[i].word, sizeof given[i].word);
        if (given[i].is_wide)
            memcpy(&records[i].word[4], &given[i].wide, sizeof given[i].wide);
    }
}

int main(void)
{
    static const uint64_t imports[IMPORTS];
    const struct cnp_allocator allocator = {resize, NULL};
    const uint32_t roots[] = {cnp_ops_enter};
    struct cnp_library *library;
    struct cnp_program *program;
    struct cnp_evidence evidence;
    struct cnp_needs needs;
    uint32_t label;
    uint64_t size;
    make_records();
    must("imports", cnp_ops_tables.imports_count > IMPORTS);
    must("tables", cnp_library_open(&library, &cnp_ops_tables, &allocator, &evidence));
    must("program", cnp_program_open(&program, library, &evidence));
    must("label", cnp_label(program, &label));
    must("function", cnp_function(program, label, FRAME));
    for (size_t at = 0, done; at < COUNT; at += done) { /* half of them at once, the others one by one */
        int status = cnp_append(program, records + at, at < COUNT / 2 ? COUNT / 2 - at : 1, &done, &evidence);
        if (status == CNP_UNPREPARED)
            status = cnp_prepare(library, evidence.op, evidence.what, &evidence);
        must("append", status);
    }
    must("plan", cnp_plan(program, roots, 1, &needs, &evidence));
    must("settle", cnp_settle(program, BASE, 0, imports, NULL, &size, &evidence));
    must("room", size > ROOM);
    must("write", cnp_write(program, code, size, NULL, 0, &evidence));
    for (uint64_t i = 0; i < size; i++)
        printf("%d\n", code[i]);
    return 0;
}
