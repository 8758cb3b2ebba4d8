/* Appending: of each record the form that takes its operands, where its code begins if all jumps are short, and what has to
   be looked at later. Most records are decided by the table of their shape and go through append_quickly, which has no
   branch that depends on what they are; append_one does whatever that does not. */

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* ---- the table */

/* A record is read once: what is looked at is what is kept, whoever changes the caller's memory meanwhile. */

#if defined(__SSE2__)

struct held { __m128i low, high; };

static inline __m128i load(const void *from) { return _mm_loadu_si128(from); }
static inline struct held hold(const uint8_t *from) { return (struct held){load(from), load(from + 16)}; }
static inline uint32_t op_of(const struct held *held) { return (uint32_t)_mm_cvtsi128_si32(held->low) & 0xFFFF; }
static inline uint32_t kinds_of(const struct held *held)
{
    return (uint32_t)_mm_cvtsi128_si32(_mm_shuffle_epi32(held->low, _MM_SHUFFLE(1, 1, 1, 1)));
}
static inline bool is_negative(const struct held *held) /* its wide number */
{
    return _mm_movemask_ps(_mm_castsi128_ps(held->high)) >> 3;
}
static inline void put_held(struct cnp_record *record, const struct held *held)
{
    _mm_storeu_si128((__m128i *)(void *)record, held->low);
    _mm_storeu_si128((__m128i *)(void *)record + 1, held->high);
}

/* What the table of its shape says of a record; SCAN: nothing. limit: the last slot of the frame. */
static inline unsigned look(const struct shape *shape, const struct held *held, uint32_t limit)
{
    __m128i words = _mm_castps_si128(
        _mm_shuffle_ps(_mm_castsi128_ps(held->low), _mm_castsi128_ps(held->high), _MM_SHUFFLE(3, 0, 3, 2)));
    __m128i same = _mm_cmpeq_epi32(words, _mm_shuffle_epi32(words, _MM_SHUFFLE(3, 0, 2, 1)));
    __m128i odd = _mm_cmpgt_epi32(_mm_and_si128(words, load(shape->low)), _mm_setzero_si128());
    words = _mm_xor_si128(words, _mm_set1_epi32(INT32_MIN));
    __m128i last = _mm_and_si128(load(shape->slots), _mm_set1_epi32((int32_t)(limit ^ TURN)));
    __m128i over = _mm_cmpgt_epi32(words, _mm_or_si128(last, load(shape->limit)));
    __m128i low = _mm_packs_epi32(_mm_cmpgt_epi32(load(shape->bound[0]), words), _mm_cmpgt_epi32(load(shape->bound[1]), words));
    __m128i high = _mm_packs_epi32(_mm_cmpgt_epi32(load(shape->bound[2]), words), _mm_or_si128(over, odd));
    unsigned place = (unsigned)_mm_movemask_epi8(_mm_packs_epi16(low, high));
    unsigned equal = (unsigned)_mm_movemask_ps(_mm_castsi128_ps(same)) & shape->pairs;
    return LIKELY(place < PLACES) ? shape->table[equal][place] : SCAN;
}

#else

struct held { struct cnp_record record; };

static inline struct held hold(const uint8_t *from)
{
    struct held held;
    memcpy(&held.record, from, sizeof held.record);
    return held;
}
static inline uint32_t op_of(const struct held *held) { return held->record.op; }
static inline uint32_t kinds_of(const struct held *held) { return held->record.kinds; }
static inline bool is_negative(const struct held *held) { return held->record.word[5] < 0; }
static inline void put_held(struct cnp_record *record, const struct held *held) { *record = held->record; }

static inline unsigned look(const struct shape *shape, const struct held *held, uint32_t limit)
{
    const int32_t *words = held->record.word;
    unsigned place = 0;
    bool odd = false;
    for (unsigned lane = 0; lane < 4; lane++) {
        uint32_t word = (uint32_t)words[LANES[lane]];
        for (unsigned b = 0; b < 3; b++)
            place |= (unsigned)(word < (shape->bound[b][lane] ^ TURN)) << (4 * b + lane);
        odd |= word > (shape->slots[lane] ? limit : shape->limit[lane] ^ TURN) || word & shape->low[lane];
    }
    unsigned equal = (unsigned)(words[0] == words[1]) | (unsigned)(words[1] == words[2]) << 1 | (unsigned)(words[2] == words[0]) << 2;
    return odd ? SCAN : shape->table[equal & shape->pairs][place];
}

#endif

/* ---- one record, with all checks */

/* The first choice that takes the operands; NULL: none does. */
static const struct choice *scan(const struct cnp_program *program, const struct operation *op, const struct shape *shape,
                                 const struct cnp_record *record)
{
    wide values[CNP_OPERANDS], taken;
    for (unsigned i = 0; i < shape->operands; i++)
        values[i] = operand_value(program, record, i);
    for (unsigned c = 0; c < shape->choices; c++) {
        const struct form *form = &op->forms[shape->choice[c].form];
        bool fits = true;
        for (unsigned i = 0; i < shape->operands && fits; i++)
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
            [CNP_POSITION] = SIZE_MAX, [CNP_LABEL] = program->labels.count, /* linking looks what is at a position */
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

static int note_jump(struct cnp_program *program, const struct choice *choice, const struct cnp_record *record)
{
    const unsigned operand = (choice->target - WORD_AT(0)) / 4u;
    const uint32_t goal = (uint32_t)record->word[operand];
    const bool is_label = kind_of(record->kinds, operand) != CNP_POSITION;
    struct jump jump = {choice->near, (uint32_t)program->count, goal, is_label ? goal : NONE, 0};
    return add(program, &program->jumps, &jump, sizeof jump, NULL);
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
static int append_one(struct cnp_program *program, uint32_t offset, struct cnp_evidence *evidence)
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
    if (!status && (!choice->plain || shape->things)) {
        uint32_t position = (uint32_t)program->count;
        status = add(program, &program->specials, &position, sizeof position, NULL);
    }
    if (!status && choice->jump)
        status = note_jump(program, choice, record);
    if (!status && offset > NONE - choice->size)
        status = CNP_TOO_LARGE;
    if (status)
        return fail(evidence, status, program->count, record->op);
    record->form = choice->form;
    program->variants[program->count] = choice->near;
    program->hot_bound += choice->bound;
    program->starts[++program->count] = offset + choice->size;
    return CNP_OK;
}

/* ---- many records */

/* Take records over and choose for them, until one has to be looked at more closely; how many were chosen for. The one
   behind them is taken over too, if it is among `count`. */
static size_t choose_quickly(const struct cnp_program *program, const uint8_t *from, size_t count, const struct choice **chosen)
{
    _Atomic(struct shape *) const *const shapes = program->library->shapes;
    const uint32_t limit = program->limit - 8, operations = program->library->tables.operations_count;
    struct cnp_record *record = program->records + program->count;
    size_t i = 0;
    for (; i < count; i++, from += sizeof *record) {
        const struct held held = hold(from);
        const uint32_t op = op_of(&held);
        put_held(record++, &held);
        const struct shape *shape = LIKELY(op < operations) ? shape_among(&shapes[op], kinds_of(&held)) : NULL;
        if (UNLIKELY(!shape))
            break;
        const struct choice *choice = &shape->choice[look(shape, &held, limit)];
        if (UNLIKELY(choice->closer & (ALWAYS | is_negative(&held) << 1)))
            break;
        chosen[i] = choice;
    }
    return i;
}

/* What follows from the choices. There is room for a jump more than there are records, and they end below 2^32 bytes of
   code. */
static void append_chosen(struct cnp_program *program, const struct choice *const *chosen, size_t count)
{
    struct cnp_record *record = program->records + program->count;
    uint32_t *at = program->starts + program->count, offset = *at, position = (uint32_t)program->count;
    const struct variant **variant = program->variants + program->count;
    struct jump *const jumps = program->jumps.data, *jump = jumps + program->jumps.count;
    uint64_t bound = program->hot_bound;
    for (size_t i = 0; i < count; i++, record++, position++) {
        const struct choice *choice = chosen[i];
        uint32_t goal;
        record->form = choice->form;
        *variant++ = choice->near;
        *at++ = offset;
        offset += choice->size, bound += choice->bound;
        memcpy(&goal, (const uint8_t *)record + choice->target, sizeof goal);
        *jump = (struct jump){choice->near, position, goal, NONE, 0}; /* noted in any case; it stays if there is one */
        jump = (struct jump *)((char *)jump + choice->jump);
    }
    *at = offset;
    program->count = position, program->hot_bound = bound;
    program->jumps.count = (size_t)(jump - jumps);
}

int cnp_append(struct cnp_program *program, const void *records, size_t count, size_t *done,
               struct cnp_evidence *evidence)
{
    const uint8_t *from = records;
    const size_t before = program->count;
    int status = CNP_OK;
    program->planned = program->settled = false;
    *done = 0;
    if (!grow(program, count))
        return fail(evidence, CNP_NO_MEMORY, program->count, 0);
    if (program->moved)
        restore(program);
    if (!program->count)
        program->starts[0] = 0;
    const bool framed = program->functions.count && program->limit >= 8;
    while (program->count - before < count && !status) {
        const struct choice *chosen[TOGETHER];
        size_t left = count - (program->count - before), most = (NONE - program->starts[program->count]) / LARGEST;
        size_t tried = left < TOGETHER ? left : TOGETHER, found = 0;
        if (!reserve(program->library, &program->jumps, sizeof(struct jump), TOGETHER + 1))
            return *done = program->count - before, fail(evidence, CNP_NO_MEMORY, program->count, 0);
        from = (const uint8_t *)records + (program->count - before) * sizeof(struct cnp_record);
        if (framed && most >= tried)
            append_chosen(program, chosen, found = choose_quickly(program, from, tried, chosen));
        else
            put_held(&program->records[program->count], &(struct held[]){hold(from)}[0]);
        if (found < tried)
            status = append_one(program, program->starts[program->count], evidence);
    }
    *done = program->count - before;
    return status;
}
