/* Several calls of the core as one: each costs Python more than the core takes for a short program. */

/* Begin anew with one function of these records, as cnp_function, cnp_append and cnp_plan do. done: records that were
   appended. After CNP_UNPREPARED it may be called again. */
static int cnp_assemble(struct cnp_program *program, uint32_t frame, const void *records, size_t count,
                        const uint32_t *roots, size_t roots_count, size_t *done, struct cnp_needs *needs,
                        struct cnp_evidence *evidence)
{
    uint32_t label;
    cnp_reset(program);
    *done = 0;
    int status = cnp_label(program, &label);
    if (!status)
        status = cnp_function(program, label, frame);
    if (!status)
        status = cnp_append(program, records, count, done, evidence);
    return status ? status : cnp_plan(program, roots, roots_count, needs, evidence);
}

/* Lay a planned program out and write it, as cnp_settle and cnp_write do: code for `base` to the address `code`. made: its
   bytes; the addresses of a routine, 0 if it has none, and of the operation at a position. */
static int cnp_emit(struct cnp_program *program, uint64_t base, uint64_t data_base, const uint64_t *imports,
                    const uint64_t *symbols, uintptr_t code, size_t room, uintptr_t data, size_t data_room,
                    uint32_t routine, size_t position, uint64_t *made, struct cnp_evidence *evidence)
{
    if (position > cnp_count(program))
        return fail(evidence, CNP_BAD_OPERAND, position, 0);
    int status = cnp_settle(program, base, data_base, imports, symbols, &made[0], evidence);
    if (!status)
        status = cnp_write(program, (void *)code, room, (void *)data, data_room, evidence);
    if (status)
        return status;
    made[1] = cnp_routine_address(program, routine);
    made[2] = base + cnp_offsets(program)[position];
    return CNP_OK;
}

/* A program of bytecode that was checked, in an empty batch, and behind it a function of `count` records for those who call
   it from outside. Its functions have the labels from 0 on, its numbers the numbers from 0 on. After CNP_UNPREPARED it may be
   called again. */
static int cnp_compile(struct cnp_program *program, const struct cnp_bytecode *bytecode, struct cnp_translation *job,
                       const struct cnp_number *numbers, size_t numbers_count, uint32_t frame, const void *records,
                       size_t count, const uint32_t *roots, size_t roots_count, struct cnp_needs *needs,
                       struct cnp_evidence *evidence)
{
    uint32_t ignored;
    size_t done;
    int status = CNP_OK;
    cnp_reset(program);
    for (size_t n = 0; n < numbers_count && !status; n++)
        status = cnp_number(program, numbers[n], &ignored);
    for (size_t n = 0; n <= job->functions && !status; n++)
        status = cnp_label(program, &ignored);
    if (status)
        return status;
    if (!(job->records = cnp_room(program, job->room)))
        return CNP_NO_MEMORY;
    job->first_position = job->first_label = 0;
    job->index = job->count = job->asked = 0;
    status = cnp_bytecode_translate(bytecode, job, evidence);
    for (size_t n = 0; n < job->functions && !status; n++) {
        size_t end = n + 1 < job->functions ? job->begins[n + 1].position : job->count;
        status = cnp_function(program, (uint32_t)n, bytecode->frame);
        if (!status)
            status = cnp_append(program, job->records + job->begins[n].position, end - job->begins[n].position, &done,
                                evidence);
    }
    if (!status)
        status = cnp_function(program, (uint32_t)job->functions, frame);
    if (!status)
        status = cnp_append(program, records, count, &done, evidence);
    return status ? status : cnp_plan(program, roots, roots_count, needs, evidence);
}
