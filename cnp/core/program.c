/* The program under construction: records with the form of each, and the things that their operands name. */

int cnp_program_open(struct cnp_program **program, struct cnp_library *library, struct cnp_evidence *evidence)
{
    const struct cnp_allocator *a = &library->allocator;
    *program = a->resize(a->context, NULL, 0, sizeof **program);
    if (!*program)
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    memset(*program, 0, sizeof **program);
    (*program)->library = library;
    return CNP_OK;
}

/* Every list of a program. */
#define LISTS(do_) \
    do_(functions) do_(labels) do_(cells) do_(cell_places) do_(tables) do_(table_labels) do_(numbers) do_(jumps) do_(specials) \
    do_(chunks) do_(cold) do_(stubs) do_(routines) do_(veneers) do_(constants) do_(literals) do_(used_tables) \
    do_(seen) do_(imports) do_(wanted) do_(exits) do_(found) do_(fresh) do_(detours) do_(veneer_map) do_(todo) \
    do_(routine_index) do_(constant_index) do_(literal_map) do_(import_address) do_(symbol_address)

void cnp_program_close(struct cnp_program *program)
{
    if (!program)
        return;
    struct cnp_library *library = program->library;
    struct cnp_allocator a = library->allocator;
#define RELEASE(list) release(library, &program->list);
    LISTS(RELEASE)
#undef RELEASE
    if (program->room) {
        a.resize(a.context, program->records, program->room * sizeof *program->records, 0);
        a.resize(a.context, program->offsets, (program->room + 1) * sizeof *program->offsets, 0);
    }
    a.resize(a.context, program, sizeof *program, 0);
}

void cnp_reset(struct cnp_program *program)
{
#define EMPTY(list) program->list.count = 0;
    LISTS(EMPTY)
#undef EMPTY
    program->count = 0;
    program->hot_bound = 0;
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

static bool grow(struct cnp_program *program, size_t more)
{
    if (LIKELY(program->room - program->count >= more))
        return true;
    const struct cnp_allocator *a = &program->library->allocator;
    size_t old = program->room, room = program->count + more + old / 2 + 16;
    if (room > (size_t)INT32_MAX * 2 || room > (size_t)-1 / sizeof *program->records)
        return false;
    void *records = a->resize(a->context, program->records, old * sizeof *program->records, room * sizeof *program->records);
    if (!records)
        return false;
    program->records = records;
    void *offsets = a->resize(a->context, program->offsets, old ? (old + 1) * sizeof *program->offsets : 0,
                              (room + 1) * sizeof *program->offsets);
    if (!offsets) { /* the records stay as large as they were, as far as anybody knows */
        records = a->resize(a->context, records, room * sizeof *program->records, old * sizeof *program->records);
        program->records = records ? records : program->records;
        return false;
    }
    program->offsets = offsets, program->room = room;
    return true;
}

/* A number as the form holds it: its words are rewritten where its kind does not say that. */
static int adjust(struct cnp_program *program, const struct operation *op, const struct choice *choice,
                  struct cnp_record *record)
{
    const struct form *form = &op->forms[choice->form];
    for (unsigned i = 0; i < op->row->operands; i++) {
        unsigned kind = kind_of(record->kinds, i), now = kind;
        if (!is_number(kind))
            continue;
        wide value = operand_value(program, record, i), taken;
        take(&form->accepts[i], kind, value, &taken);
        uint64_t bits = (uint64_t)taken;
        if (form->wide == i + 1) {
            now = taken > INT64_MAX ? CNP_UNSIGNED : CNP_WIDE;
            memcpy(&record->word[4], &bits, sizeof bits);
        } else if (taken != value && taken == (int32_t)taken) {
            now = CNP_NUMBER, record->word[i] = (int32_t)taken;
        } else if (taken != value) {
            uint32_t number;
            int status = cnp_number(program, number_of(taken), &number);
            if (status)
                return status;
            now = CNP_TABLED, record->word[i] = (int32_t)number;
        }
        record->kinds = (record->kinds & ~(15u << 4 * i)) | CNP_KIND(now, i);
    }
    return CNP_OK;
}

static bool is_home(const struct cnp_tables *t, int32_t offset)
{
    bool found = false;
    for (uint32_t i = 0; i < t->r_count; i++)
        found |= t->r[i].home == offset;
    for (uint32_t i = 0; i < t->f_count; i++)
        found |= t->f[i].home == offset;
    return found;
}

/* Whether what the operands name is there, and slots lie in the frame. */
static int check_operands(const struct cnp_program *program, const struct cnp_operation *op,
                          const struct cnp_record *record, struct cnp_evidence *evidence)
{
    const int64_t limit = (int64_t)program->limit - (op->calls ? 0 : 8);
    const struct cnp_tables *t = &program->library->tables;
    for (unsigned i = 0; i < op->operands; i++) {
        uint32_t word = (uint32_t)record->word[i];
        unsigned kind = kind_of(record->kinds, i);
        const size_t counts[CNP_KINDS] = {
            [CNP_R] = t->r_count, [CNP_F] = t->f_count, [CNP_TABLED] = program->numbers.count,
            [CNP_POSITION] = (size_t)INT32_MAX + 1, [CNP_LABEL] = program->labels.count,
            [CNP_FUNCTION] = program->labels.count, [CNP_SYMBOL] = program->symbols,
            [CNP_CELL] = program->cells.count, [CNP_TABLE] = program->tables.count,
        };
        if (kind == CNP_SLOT && word > limit) {
            fail(evidence, CNP_OUTSIDE_FRAME, program->count, record->op);
            if (evidence)
                evidence->operand = i, evidence->value = number_of(record->word[i]), evidence->high = number_of(limit);
            return CNP_OUTSIDE_FRAME;
        }
        if (kind == CNP_HOME && !is_home(t, record->word[i])) {
            fail(evidence, CNP_BAD_OPERAND, program->count, record->op);
            return CNP_BAD_OPERAND;
        }
        if (kind == CNP_HOME)
            continue;
        if (counts[kind] ? word >= counts[kind] : is_register(kind) || kind >= CNP_TABLED) {
            fail(evidence, CNP_BAD_OPERAND, program->count, record->op);
            if (evidence)
                evidence->operand = i, evidence->value = number_of(record->word[i]);
            return CNP_BAD_OPERAND;
        }
    }
    return CNP_OK;
}

/* Registers that the target lacks become the slots at their homes. */
static void at_home(const struct cnp_tables *t, struct cnp_record *record)
{
    for (unsigned i = 0; i < CNP_OPERANDS; i++) {
        unsigned kind = kind_of(record->kinds, i);
        if (!is_register(kind))
            continue;
        const struct cnp_register *r = &(kind == CNP_R ? t->r : t->f)[record->word[i]];
        if (r->number < 0) {
            record->word[i] = r->home;
            record->kinds = (record->kinds & ~(15u << 4 * i)) | CNP_KIND(CNP_HOME, i);
        }
    }
}

static int unprepared(const struct cnp_program *program, const struct cnp_record *record, struct cnp_evidence *evidence)
{
    fail(evidence, CNP_UNPREPARED, program->count, record->op);
    if (evidence)
        evidence->what = record->kinds;
    return CNP_UNPREPARED;
}

/* A record that the table of its shape does not decide, with all checks. */
static int choose_slowly(struct cnp_program *program, const struct operation *op, const struct shape *shape,
                         struct cnp_record *record, const struct choice **choice, struct cnp_evidence *evidence)
{
    if (!program->functions.count)
        return fail(evidence, CNP_NO_FUNCTION, program->count, record->op);
    int status = check_operands(program, op->row, record, evidence);
    if (status)
        return status;
    if (shape->homes) {
        uint32_t kinds = record->kinds;
        at_home(&program->library->tables, record);
        if (kinds != record->kinds && !(shape = shape_of(op, record->kinds)))
            return unprepared(program, record, evidence);
    }
    *choice = scan(program, op, shape, record);
    return *choice ? CNP_OK : fail(evidence, CNP_NO_FORM, program->count, record->op);
}

static int note_jump(struct cnp_program *program, const struct operation *op, const struct choice *choice,
                     const struct cnp_record *record)
{
    struct jump *jump = reserve(program->library, &program->jumps, sizeof *jump, 1);
    if (!jump)
        return CNP_NO_MEMORY;
    unsigned operand = choice->jump - 1u;
    *jump = (struct jump){&op->variants[2 * choice->form], (uint32_t)program->count, (uint32_t)record->word[operand], 0, 0,
                          kind_of(record->kinds, operand) != CNP_POSITION};
    program->jumps.count++;
    return CNP_OK;
}

/* The short variants again, one behind the other. */
static void restore(struct cnp_program *program)
{
    uint32_t offset = 0;
    for (size_t i = 0; i < program->count; i++) {
        struct cnp_record *record = &program->records[i];
        record->form &= (uint16_t)~FAR;
        program->offsets[i] = offset;
        offset += operation_of(program->library, record->op)->variants[2 * record->form].size;
    }
    program->offsets[program->count] = offset;
    program->moved = false;
}

struct cnp_record *cnp_room(struct cnp_program *program, size_t count)
{
    return grow(program, count) ? program->records + program->count : NULL;
}

int cnp_append(struct cnp_program *program, const void *records, size_t count, size_t *done,
               struct cnp_evidence *evidence)
{
    const struct cnp_library *library = program->library;
    const uint8_t *from = records;
    const uint32_t operations = library->tables.operations_count;
    int status = CNP_OK;
    program->planned = program->settled = false;
    *done = 0;
    if (!grow(program, count))
        return fail(evidence, CNP_NO_MEMORY, program->count, 0);
    if (program->moved)
        restore(program);
    struct cnp_record *record = program->records + program->count;
    uint32_t offset = program->count ? program->offsets[program->count] : 0;
    const uint32_t room = program->functions.count && program->limit >= 8 ? program->limit - 8 : 0;
    const bool slowly = !program->functions.count || program->limit < 8;
    for (size_t i = 0; i < count; i++, record++, from += sizeof *record) {
        if (from != (const uint8_t *)record)
            memcpy(record, from, sizeof *record);
        const struct operation *op = LIKELY(record->op < operations) ? operation_of(library, record->op) : NULL;
        const struct shape *shape = LIKELY(op != NULL) ? shape_of(op, record->kinds) : NULL;
        if (UNLIKELY(!shape)) {
            status = record->op < operations ? unprepared(program, record, evidence)
                                             : fail(evidence, CNP_NO_OPERATION, program->count, record->op);
            break;
        }
        const uint8_t *words = from + offsetof(struct cnp_record, word);
        unsigned place = place_of(shape, words, room);
        const unsigned number = table_of(shape, words)[place % PLACES];
        const struct choice *choice = &shape->choice[number];
        if (UNLIKELY(place >= PLACES || slowly || number == SCAN || shape->things | shape->homes)) {
            status = choose_slowly(program, op, shape, record, &choice, evidence);
            if (status)
                break;
        }
        if (UNLIKELY((choice->adjust & ADJUST) | (choice->adjust >> 1 & (uint32_t)record->word[5] >> 31))) {
            status = adjust(program, op, choice, record);
            if (status)
                break;
        }
        record->form = choice->form;
        program->offsets[program->count] = offset;
        if (!choice->plain || shape->things) {
            uint32_t position = (uint32_t)program->count;
            status = add(program, &program->specials, &position, sizeof position, NULL);
            if (status)
                break;
        }
        if (choice->jump) {
            status = note_jump(program, op, choice, record);
            if (status)
                break;
        }
        if (UNLIKELY(offset > NONE - choice->size)) {
            status = fail(evidence, CNP_TOO_LARGE, program->count, record->op);
            break;
        }
        offset += choice->size;
        program->hot_bound += choice->bound;
        program->count++;
        ++*done;
    }
    if (program->room)
        program->offsets[program->count] = offset;
    if (status == CNP_NO_MEMORY || status == CNP_TOO_LARGE)
        fail(evidence, status, program->count, record->op);
    return status;
}
