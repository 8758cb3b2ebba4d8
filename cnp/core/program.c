/* The program under construction: records with the form of each, and the things that their operands name. */

static bool grow(struct cnp_program *program, size_t more);

int cnp_program_open(struct cnp_program **program, struct cnp_library *library, struct cnp_evidence *evidence)
{
    const struct cnp_allocator *a = &library->allocator;
    *program = a->resize(a->context, NULL, 0, sizeof **program);
    if (!*program)
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    memset(*program, 0, sizeof **program);
    (*program)->library = library;
    if (!grow(*program, 1)) { /* offsets have an item more than records, also where there are none */
        cnp_program_close(*program);
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    }
    cnp_reset(*program);
    return CNP_OK;
}

/* Every list of a program. */
#define LISTS(do_) \
    do_(functions) do_(labels) do_(cells) do_(cell_places) do_(tables) do_(table_labels) do_(numbers) do_(jumps) do_(named) do_(specials) \
    do_(chunks) do_(cold) do_(stubs) do_(routines) do_(veneers) do_(constants) do_(literals) do_(used_tables) \
    do_(seen) do_(met) do_(imports) do_(wanted) do_(exits) do_(found) do_(fresh) do_(longer) do_(detours) do_(veneer_map) do_(todo) \
    do_(routine_index) do_(constant_index) do_(literal_map) do_(import_address) do_(symbol_address)

/* The arrays with an item for each operation, and the size of their items. */
enum { ARRAYS = 4 };
static const size_t SIZES[ARRAYS] = {sizeof(struct cnp_record), sizeof(uint32_t), sizeof(uint32_t), sizeof(struct variant *)};

void cnp_program_close(struct cnp_program *program)
{
    if (!program)
        return;
    struct cnp_library *library = program->library;
    struct cnp_allocator a = library->allocator;
#define RELEASE(list) release(library, &program->list);
    LISTS(RELEASE)
#undef RELEASE
    void *arrays[ARRAYS] = {program->records, program->starts, program->offsets, (void *)program->variants};
    for (unsigned i = 0; i < ARRAYS; i++)
        if (arrays[i])
            a.resize(a.context, arrays[i], program->rooms[i] * SIZES[i], 0);
    a.resize(a.context, program, sizeof *program, 0);
}

void cnp_reset(struct cnp_program *program)
{
    const size_t forms = program->seen.count, met = program->met.count;
#define EMPTY(list) program->list.count = 0;
    LISTS(EMPTY)
#undef EMPTY
    program->seen.count = forms, program->met.count = met; /* cnp_plan forgets them */
    program->count = 0;
    program->starts[0] = program->offsets[0] = 0;
    program->hot_bound = 0, program->growth = 0, program->reach = true;
    program->symbols = program->limit = 0;
    program->planned = program->settled = program->moved = false;
}

size_t cnp_count(const struct cnp_program *program) { return program->count; }
const struct cnp_record *cnp_records(const struct cnp_program *program) { return program->records; }

/* ---- things */

/* Add an item of `size` bytes to a list; number: which one it is. */
static int add(struct cnp_program *program, struct list *list, const void *item, size_t size, uint32_t *number)
{
    void *place = reserve(program->library, list, size, 1);
    if (!place)
        return CNP_NO_MEMORY;
    if (list->count >= INT32_MAX)
        return CNP_TOO_LARGE;
    memcpy(place, item, size);
    if (number)
        *number = (uint32_t)list->count;
    list->count++;
    return CNP_OK;
}

int cnp_label(struct cnp_program *program, uint32_t *number)
{
    int64_t unbound = -1;
    return add(program, &program->labels, &unbound, sizeof unbound, number);
}

int cnp_bind(struct cnp_program *program, uint32_t label, int64_t position)
{
    if (label >= program->labels.count)
        return CNP_BAD_OPERAND;
    AT(program->labels, int64_t, label) = position;
    program->planned = program->settled = false;
    return CNP_OK;
}

int cnp_function(struct cnp_program *program, uint32_t label, uint32_t frame)
{
    if (frame % 8 || frame > INT32_MAX)
        return CNP_BAD_OPERAND;
    struct function function = {(uint32_t)program->count, frame};
    int status = add(program, &program->functions, &function, sizeof function, NULL);
    if (status)
        return status;
    program->limit = frame;
    return label == NONE ? CNP_OK : cnp_bind(program, label, (int64_t)program->count);
}

int cnp_symbol(struct cnp_program *program, uint32_t *number)
{
    if (program->symbols >= INT32_MAX)
        return CNP_TOO_LARGE;
    *number = program->symbols++;
    return CNP_OK;
}

int cnp_cell(struct cnp_program *program, uint64_t initial, uint32_t *number)
{
    return add(program, &program->cells, &initial, sizeof initial, number);
}

int cnp_number(struct cnp_program *program, struct cnp_number value, uint32_t *number)
{
    return add(program, &program->numbers, &value, sizeof value, number);
}

size_t cnp_numbers(const struct cnp_program *program) { return program->numbers.count; }

struct cnp_number cnp_number_at(const struct cnp_program *program, uint32_t number)
{
    return AT(program->numbers, struct cnp_number, number);
}

int cnp_table(struct cnp_program *program, const uint32_t *labels, size_t count, uint32_t *number)
{
    struct table table = {(uint32_t)program->table_labels.count, (uint32_t)count, 0};
    for (size_t i = 0; i < count; i++) {
        if (labels[i] >= program->labels.count)
            return CNP_BAD_OPERAND;
        int status = add(program, &program->table_labels, &labels[i], sizeof labels[i], NULL);
        if (status)
            return status;
    }
    return add(program, &program->tables, &table, sizeof table, number);
}

/* ---- records */

/* Make one of the arrays longer; it stays as it is where there is no memory. */
static bool stretch(struct cnp_program *program, void **array, size_t *room, size_t wanted, size_t size)
{
    const struct cnp_allocator *a = &program->library->allocator;
    if (*room >= wanted)
        return true;
    void *longer = wanted > (size_t)-1 / size ? NULL : a->resize(a->context, *array, *room * size, wanted * size);
    if (!longer)
        return false;
    *array = longer, *room = wanted;
    return true;
}

/* Room for more operations, and for the end of the last one. */
static bool grow(struct cnp_program *program, size_t more)
{
    if (LIKELY(program->room - program->count >= more))
        return true;
    size_t room = program->count + more + program->room / 2 + 16;
    if (more > INT32_MAX || room > (size_t)INT32_MAX * 2)
        return false;
    void *arrays[ARRAYS] = {program->records, program->starts, program->offsets, (void *)program->variants};
    bool made = true;
    for (unsigned i = 0; i < ARRAYS && made; i++)
        made = stretch(program, &arrays[i], &program->rooms[i], room + 1 + STRIDE, SIZES[i]);
    program->records = arrays[0], program->starts = arrays[1], program->offsets = arrays[2], program->variants = arrays[3];
    if (made)
        program->room = room;
    return made;
}

struct cnp_record *cnp_room(struct cnp_program *program, size_t count)
{
    return grow(program, count) ? program->records + program->count : NULL;
}
