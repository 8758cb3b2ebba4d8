/* Appending: of each record the form that takes its operands, where its code begins if all jumps are short, and what has to
   be looked at later. Most records are decided by the table of their shape and go through append_quickly, which has no
   branch that depends on what they are; append_one does whatever that does not. */

/* ---- one record, with all checks */

/* The first choice that takes the operands; NULL: none does. */
static const struct choice *scan(const struct cnp_program *program, const struct operation *op, const struct shape *shape,
                                 const struct cnp_record *record)
{
    wide values[CNP_OPERANDS], taken;
    for (unsigned i = 0; i < op->row->operands; i++)
        values[i] = operand_value(program, record, i);
    for (unsigned c = 0; c < shape->choices; c++) {
        const struct form *form = &op->forms[shape->choice[c].form];
        bool fits = true;
        for (unsigned i = 0; i < op->row->operands && fits; i++)
            fits = take(&form->accepts[i], kind_of(shape->kinds, i), values[i], &taken);
        if (fits && is_tied(program->library, form, record))
            return &shape->choice[c];
    }
    return NULL;
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

/* How many things there are that operands of a kind may name; none of other kinds. */
static size_t things_of(const struct cnp_program *program, unsigned kind)
{
    switch (kind) {
    case CNP_R:
        return program->library->tables.r_count;
    case CNP_F:
        return program->library->tables.f_count;
    case CNP_TABLED:
        return program->numbers.count;
    case CNP_POSITION:
        return SIZE_MAX; /* linking looks what is there */
    case CNP_LABEL:
    case CNP_FUNCTION:
        return program->labels.count;
    case CNP_SYMBOL:
        return program->symbols;
    case CNP_CELL:
        return program->cells.count;
    case CNP_TABLE:
        return program->tables.count;
    }
    return 0;
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
        const bool names = is_register(kind) || kind >= CNP_TABLED;
        if (names && word >= things_of(program, kind)) {
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

/* The choice for a record. */
static int choose(struct cnp_program *program, const struct operation *op, const struct shape *shape,
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
        if (kinds != record->kinds && !(shape = shape_of(program->library, record->op, record->kinds)))
            return unprepared(program, record, evidence);
    }
    *choice = scan(program, op, shape, record);
    return *choice ? CNP_OK : fail(evidence, CNP_NO_FORM, program->count, record->op);
}

/* Jump number `jump` goes to a label, which is looked up when it is planned. */
static NOINLINE void name_label(struct cnp_program *program, size_t jump, uint32_t label)
{
    AT(program->named, struct named, program->named.count++) = (struct named){(uint32_t)jump, label};
}

/* Note the plain jumps of those of 64 operations, from `first` on, that have a bit; the lowest stands for the first one. There is
   room for them. */
static inline void note_jumps(struct cnp_program *program, size_t first, uint64_t bits)
{
    const struct cnp_record *const records = program->records + first;
    const struct variant *const *const variants = program->variants + first;
    struct jump *const begin = program->jumps.data, *jump = begin + program->jumps.count;
    uint32_t most = program->growth, unreached = 0;
    for (; bits; bits &= bits - 1, jump++) {
        const unsigned i = (unsigned)__builtin_ctzll(bits);
        const struct variant *near = variants[i];
        uint32_t word;
        memcpy(&word, (const uint8_t *)&records[i] + near->jump_from, sizeof word);
        jump->near = near, jump->op = (uint32_t)first + i, jump->goal = word;
        if (UNLIKELY((records[i].kinds >> (near->jump_from - WORD_AT(0)) & 15) != CNP_POSITION))
            name_label(program, (size_t)(jump - begin), word);
        unreached |= near->unreached;
        most = near->growth > most ? near->growth : most;
    }
    program->jumps.count = (size_t)(jump - begin), program->growth = most, program->reach &= !unreached;
}

/* Note those operations, from `first` on, that are special: so many. There is room for them. */
static NOINLINE void note_specials(struct cnp_program *program, size_t first, size_t count)
{
    uint32_t *special = &AT(program->specials, uint32_t, program->specials.count);
    program->specials.count += count;
    for (size_t op = first; count; op++)
        if (program->variants[op]->special)
            *special++ = (uint32_t)op, count--;
}

/* Room for what is noted of 64 more operations. */
static inline bool reserve_notes(struct cnp_program *program)
{
    return reserve(program->library, &program->jumps, sizeof(struct jump), 64) &&
           reserve(program->library, &program->named, sizeof(struct named), 64) &&
           reserve(program->library, &program->specials, sizeof(uint32_t), 64);
}

/* The near variants again. */
static void restore(struct cnp_program *program)
{
    for (size_t i = 0; i < program->count; i++) {
        const struct cnp_record *record = &program->records[i];
        program->variants[i] = &operation_of(program->library, record->op)->variants[2 * record->form];
    }
    program->moved = false;
}

/* Append a record that is there already, behind the others. */
static int append_one(struct cnp_program *program, struct cnp_evidence *evidence)
{
    const struct cnp_library *library = program->library;
    struct cnp_record *record = &program->records[program->count];
    if (record->op >= library->tables.operations_count)
        return fail(evidence, CNP_NO_OPERATION, program->count, record->op);
    const struct shape *shape = shape_of(library, record->op, record->kinds);
    if (!shape)
        return unprepared(program, record, evidence);
    const struct operation *op = operation_of(library, record->op);
    const struct choice *choice;
    int status = choose(program, op, shape, record, &choice, evidence);
    if (status)
        return status;
    if ((choice->adjust & ALWAYS) || (choice->adjust && record->word[5] < 0))
        status = adjust(program, op, choice, record);
    if (!status && (choice->near->special || shape->things)) {
        uint32_t position = (uint32_t)program->count;
        status = add(program, &program->specials, &position, sizeof position, NULL);
    }
    if (!status && program->starts[program->count] > NONE - choice->near->size)
        status = CNP_TOO_LARGE;
    if (status)
        return fail(evidence, status, program->count, record->op);
    record->form = choice->form;
    program->variants[program->count] = choice->near;
    note_jumps(program, program->count, choice->jumps >> 63);
    program->hot_bound += op->forms[choice->form].bound;
    program->starts[program->count + 1] = program->starts[program->count] + choice->near->size;
    program->count++;
    return CNP_OK;
}

/* ---- many records */

/* Where what follows from a choice is put. sizes: where the next operation begins, below 2^32, and above that the sums of what
   choices have there, of 64 operations at most. jumps: a bit for each that has a plain jump, the highest for the last one. */
struct ends {
    struct cnp_record *record;
    uint32_t *start;
    const struct variant **variant;
    uint64_t sizes, jumps;
};

static inline struct ends ends_of(const struct cnp_program *program)
{
    const size_t count = program->count;
    return (struct ends){program->records + count, program->starts + count, program->variants + count, program->starts[count], 0};
}

/* What follows from a choice, but its record. */
INLINE void put_choice(struct ends *ends, const struct choice *choice)
{
    *ends->start++ = (uint32_t)ends->sizes, *ends->variant++ = choice->near;
    ends->sizes += choice->sizes;
    ends->jumps = ends->jumps >> 1 | choice->jumps;
    ends->record++;
}

/* How many were put. */
INLINE size_t put_ends(struct cnp_program *program, struct ends ends)
{
    const size_t count = (size_t)(ends.record - program->records) - program->count;
    if (count)
        note_jumps(program, program->count, ends.jumps >> (64 - count));
    if (UNLIKELY(ends.sizes >= SPECIAL))
        note_specials(program, program->count, ends.sizes / SPECIAL);
    *ends.start = (uint32_t)ends.sizes;
    program->count += count, program->hot_bound += ends.sizes % SPECIAL >> 32;
    return count;
}

/* The shape of a record that is among the library's operations; NULL: it is not prepared. */
static inline const struct shape *shape_at(const struct cnp_library *library, uint32_t op, uint32_t kinds)
{
    return LIKELY(op < library->tables.operations_count) ? shape_among(&library->shapes[op], kinds) : NULL;
}

#ifdef AVX2

AVX2 static size_t append_at_once(struct cnp_program *program, const uint8_t *from, size_t count)
{
    const struct cnp_library *const library = program->library;
    const struct lanes lanes = lanes_of(program->limit - 8);
    struct ends ends = ends_of(program);
    for (size_t i = 0; i < count; i++, from += sizeof(struct cnp_record)) {
        uint64_t head; /* op, form, kinds: they are here sooner alone */
        memcpy(&head, from, sizeof head);
        const __m256i record = _mm256_loadu_si256((const __m256i *)(const void *)from);
        const struct shape *shape = shape_at(library, head & 0xFFFF, (uint32_t)(head >> 32));
        const unsigned found = LIKELY(shape) ? look_at_once(shape, record, &lanes) : SCAN;
        if (UNLIKELY(found == SCAN)) {
            keep_at_once(ends.record, record, head);
            break;
        }
        const struct choice *choice = &shape->choice[found];
        keep_at_once(ends.record, record, (head & ~(uint64_t)0xFFFF0000) | choice->form_bits);
        put_choice(&ends, choice);
    }
    return put_ends(program, ends);
}

#endif

/* What the table of its shape says of a record; SCAN: nothing. limit: the last slot of the frame. */
static inline unsigned look(const struct shape *shape, const struct cnp_record *record, uint32_t limit)
{
    const int32_t *words = record->word;
    unsigned place = 0;
    bool odd = false;
    for (unsigned lane = 0; lane < 4; lane++) {
        uint32_t word = (uint32_t)words[LANES[lane]];
        for (unsigned b = 0; b < 3; b++)
            place |= (unsigned)(word > (shape->last[b][lane] ^ TURN)) << (4 * b + lane);
        odd |= word > (shape->slots[4 + lane] ? limit : shape->last[3][lane] ^ TURN) || word & shape->low[lane];
    }
    unsigned equal = (unsigned)(words[0] == words[1]) | (unsigned)(words[1] == words[2]) << 1 | (unsigned)(words[2] == words[0]) << 2;
    return odd ? SCAN : shape->table[equal & shape->pairs][place];
}

/* Take records over and append them, until one has to be looked at more closely; how many were appended. The one behind them
   is taken over too, if it is among `count`. A record is read once: what is looked at is what is kept, whoever changes the
   caller's memory meanwhile. */
static size_t append_quickly(struct cnp_program *program, const uint8_t *from, size_t count)
{
#ifdef AVX2
    if (program->library->avx2)
        return append_at_once(program, from, count);
#endif
    struct ends ends = ends_of(program);
    for (size_t i = 0; i < count; i++, from += sizeof(struct cnp_record)) {
        struct cnp_record record;
        memcpy(&record, from, sizeof record);
        *ends.record = record;
        const struct shape *shape = shape_at(program->library, record.op, record.kinds);
        const unsigned found = LIKELY(shape) ? look(shape, &record, program->limit - 8) : SCAN;
        if (UNLIKELY(found == SCAN))
            break;
        ends.record->form = shape->choice[found].form;
        put_choice(&ends, &shape->choice[found]);
    }
    return put_ends(program, ends);
}

static NOINLINE int append_many(struct cnp_program *program, const void *records, size_t count, size_t *done,
                                struct cnp_evidence *evidence)
{
    const size_t before = program->count;
    int status = CNP_OK;
    *done = 0;
    if (!grow(program, count))
        return fail(evidence, CNP_NO_MEMORY, program->count, 0);
    if (program->moved)
        restore(program);
    if (!program->count)
        program->starts[0] = 0;
    const bool framed = program->functions.count && program->limit >= 8;
    while (program->count - before < count && !status) {
        const size_t done_now = program->count - before, most = (NONE - program->starts[program->count]) / LARGEST;
        const size_t tried = count - done_now < 64 ? count - done_now : 64;
        const uint8_t *from = (const uint8_t *)records + done_now * sizeof(struct cnp_record);
        size_t found = 0;
        if (UNLIKELY(!reserve_notes(program)))
            status = fail(evidence, CNP_NO_MEMORY, program->count, 0);
        else if (framed && most >= tried)
            found = append_quickly(program, from, tried);
        else
            memmove(&program->records[program->count], from, sizeof(struct cnp_record));
        if (found < tried && !status)
            status = append_one(program, evidence);
    }
    *done = program->count - before;
    return status;
}

/* ---- one record and many */

/* Whether one more record goes behind the others as things are: there are some already, so that there is a function. */
static inline bool is_ready(const struct cnp_program *program)
{
    const size_t count = program->count;
    const bool has_room = count < program->room && program->jumps.count < program->jumps.room &&
                          program->named.count < program->named.room && program->specials.count < program->specials.room;
    return count && has_room && program->limit >= 8 && !program->moved && program->starts[count] <= NONE - LARGEST;
}

int cnp_append(struct cnp_program *program, const void *records, size_t count, size_t *done,
               struct cnp_evidence *evidence)
{
    program->planned = program->settled = false;
    if (count != 1 || !is_ready(program) || !append_quickly(program, records, 1))
        return append_many(program, records, count, done, evidence);
    *done = 1;
    return CNP_OK;
}
