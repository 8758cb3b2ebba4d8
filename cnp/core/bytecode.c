/* Bytecode into records, as tables say: which rule each instruction has, then what it becomes. Places of a program:

       cnp_bytecode_check       at            rule
         second word            NONE          NONE
         instruction            NONE          its rule, and CALLED if a function begins there
       cnp_bytecode_translate
         before it is reached   the last operand that names it: 8 * record + operand, whose word names the one before
         afterwards             position of its first operation
*/

#define CALLED 0x80000000u
#define MOST_WORDS ((size_t)1 << 28)
#define MOST_RECORDS ((size_t)1 << 28)

/* Instructions by recipes, as many in a row as have any (recipes.c): where the next one stands. */
static size_t check_quickly(const struct cnp_bytecode *b, struct cnp_translation *t, size_t index);
static size_t translate_quickly(const struct cnp_bytecode *b, struct cnp_translation *t);

/* ---- fields */

struct words { uint64_t word[2]; };

/* Whether words are the host's. */
static bool is_plain_code(const struct cnp_bytecode *b) { return LITTLE_HOST && b->size == 8 && !b->big_endian; }

static uint64_t read_word(const struct cnp_bytecode *b, const uint8_t *p)
{
    uint64_t found = 0;
    if (is_plain_code(b)) {
        memcpy(&found, p, sizeof found);
        return found;
    }
    for (uint32_t i = 0; i < b->size; i++)
        found |= (uint64_t)p[b->big_endian ? b->size - 1 - i : i] << 8 * i;
    return found;
}

/* The word of an instruction in a loop that is compiled for plain code and for other code. */
INLINE uint64_t word_at(const struct cnp_bytecode *b, const uint8_t *code, size_t index, bool plain)
{
    uint64_t word;
    if (!plain)
        return read_word(b, code + index * b->size);
    memcpy(&word, code + index * sizeof word, sizeof word);
    return word;
}

static struct words read_words(const struct cnp_bytecode *b, const struct cnp_translation *t, size_t index)
{
    const uint8_t *p = (const uint8_t *)t->code + index * b->size;
    struct words found = {{read_word(b, p), 0}};
    if (index + 1 < t->words && t->places[index + 1].rule == NONE)
        found.word[1] = read_word(b, p + b->size);
    return found;
}

static inline int64_t field_value(const struct cnp_bits *bits, const struct words *words)
{
    uint64_t high = words->word[bits->word] << (64 - bits->at - bits->width);
    unsigned down = 64u - bits->width;
    return bits->is_signed ? (int64_t)high >> down : (int64_t)(high >> down);
}

static inline uint32_t opcode_at(const struct cnp_bytecode *b, const struct cnp_translation *t, size_t index)
{
    struct words words = {{read_word(b, (const uint8_t *)t->code + index * b->size), 0}};
    return (uint32_t)field_value(&b->fields[b->opcode], &words);
}

static inline bool holds(const struct cnp_bytecode *b, const struct cnp_limit *limit, int64_t value)
{
    const struct cnp_span *span = &b->spans[limit->first];
    for (uint32_t k = 0; k < limit->count; k++, span++)
        if (value >= span->low && value <= span->high)
            return true;
    return false;
}

/* The value that a pool has for a key; NULL: none. */
static const int64_t *pooled(const struct cnp_pool *pool, int64_t key)
{
    size_t low = 0, high = pool->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (pool->keys[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low < pool->count && pool->keys[low] == key ? &pool->values[low] : NULL;
}

/* ---- check */

static int fault(const struct cnp_bytecode *b, const struct cnp_translation *t, size_t index, enum cnp_fault what,
                 uint32_t operand, int64_t value, struct cnp_evidence *evidence)
{
    fail(evidence, CNP_BAD_INSTRUCTION, index, opcode_at(b, t, index));
    if (evidence)
        evidence->what = what, evidence->operand = operand, evidence->value = number_of(value);
    return CNP_BAD_INSTRUCTION;
}

/* The byte that an instruction goes to. */
static inline int64_t goes_to(const struct cnp_bytecode *b, const struct cnp_rule *rule, const struct words *words, size_t index)
{
    int64_t from = rule->absolute ? 0 : (int64_t)(index * b->size);
    return from + rule->base + rule->scale * field_value(&b->fields[rule->field], words);
}

static int check_goal(const struct cnp_bytecode *b, struct cnp_translation *t, const struct cnp_rule *rule,
                      const struct words *words, size_t index, struct cnp_evidence *evidence)
{
    int64_t goal = goes_to(b, rule, words, index);
    if (goal < 0 || (uint64_t)goal >= (uint64_t)t->words * b->size)
        return fault(b, t, index, CNP_FAULT_OUTSIDE, rule->field, goal, evidence);
    struct cnp_place *place = &t->places[(size_t)goal / b->size];
    if (goal % b->size || place->rule == NONE)
        return fault(b, t, index, CNP_FAULT_INSIDE, rule->field, goal, evidence);
    if (rule->goes == CNP_CALLS && !(place->rule & CALLED))
        place->rule |= CALLED, t->functions++;
    return CNP_OK;
}

static int check_pools(const struct cnp_bytecode *b, const struct cnp_translation *t, const struct cnp_rule *rule,
                       const struct words *words, size_t index, struct cnp_evidence *evidence)
{
    for (uint32_t s = rule->step; s < rule->step + rule->steps; s++)
        for (uint32_t i = 0; i < b->steps[s].operands; i++) {
            const struct cnp_source *source = &b->sources[b->steps[s].first + i];
            if (LIKELY(source->from != CNP_FROM_POOL))
                continue;
            int64_t key = field_value(&b->fields[source->field], words);
            if (!pooled(&t->pools[source->first], key))
                return fault(b, t, index, CNP_FAULT_POOL, source->first, key, evidence);
        }
    return CNP_OK;
}

/* first: of the limits, that is to be looked at. */
static int check_fields(const struct cnp_bytecode *b, const struct cnp_translation *t, const struct cnp_rule *rule,
                        uint32_t first, const struct words *words, size_t index, struct cnp_evidence *evidence)
{
    const struct cnp_limit *limit = &b->limits[rule->check + first];
    for (uint32_t k = first; k < rule->checks; k++, limit++) {
        int64_t value = field_value(&b->fields[limit->field], words);
        if (LIKELY(holds(b, limit, value)))
            continue;
        fault(b, t, index, CNP_FAULT_FIELD, limit->field, value, evidence);
        if (evidence) {
            evidence->low = number_of(b->spans[limit->first].low);
            evidence->high = number_of(b->spans[limit->first].high);
        }
        return CNP_BAD_INSTRUCTION;
    }
    return CNP_OK;
}

/* The first rule whose conditions hold, of those of an opcode; NONE: there is none. */
static inline uint32_t rule_for(const struct cnp_bytecode *b, uint32_t opcode, const struct words *words)
{
    for (uint32_t n = b->first[opcode]; n < b->first[opcode + 1]; n++) {
        const struct cnp_rule *rule = &b->rules[n];
        uint32_t k = 0;
        while (k < rule->whens && holds(b, &b->limits[rule->when + k], field_value(&b->fields[b->limits[rule->when + k].field], words)))
            k++;
        if (k == rule->whens)
            return n;
    }
    return NONE;
}

static int check_one(const struct cnp_bytecode *b, struct cnp_translation *t, size_t index, uint32_t opcode,
                     struct cnp_evidence *evidence)
{
    if (b->first[opcode] == b->first[opcode + 1])
        return fault(b, t, index, CNP_FAULT_OPCODE, b->opcode, opcode, evidence);
    size_t next = index + b->words[opcode];
    if (next > t->words)
        return fault(b, t, index, CNP_FAULT_CUT, b->opcode, opcode, evidence);
    struct words words = read_words(b, t, index);
    uint32_t number = rule_for(b, opcode, &words);
    if (number == NONE)
        return fault(b, t, index, CNP_FAULT_VARIANT, b->opcode, opcode, evidence);
    const struct cnp_rule *rule = &b->rules[number];
    bool is_zero = !((words.word[0] & rule->zero[0]) | (words.word[1] & rule->zero[1]));
    int status = check_fields(b, t, rule, is_zero ? rule->zeros : 0, &words, index, evidence);
    if (!status && rule->pooled)
        status = check_pools(b, t, rule, &words, index, evidence);
    if (!status && next == t->words && !rule->ends)
        status = fault(b, t, index, CNP_FAULT_RUNS_OFF, b->opcode, opcode, evidence);
    if (!status && rule->goes != CNP_GOES_ON)
        status = check_goal(b, t, rule, &words, index, evidence);
    t->places[index].rule |= number; /* an earlier call may have marked it */
    t->most += rule->escape ? rule->escape : rule->steps;
    return status;
}

/* Mark second words, and all places as not looked at. */
INLINE void find_words_of(const struct cnp_bytecode *b, struct cnp_translation *t, bool plain)
{
    const struct cnp_bits *bits = &b->fields[b->opcode];
    const unsigned down = 64u - bits->width, up = down - bits->at;
    const uint8_t *const code = t->code, *const width = b->words;
    struct cnp_place *const places = t->places;
    const size_t words = t->words;
    for (size_t i = 0; i < words; i++) {
        const uint32_t opcode = (uint32_t)(word_at(b, code, i, plain) << up >> down);
        places[i] = (struct cnp_place){0, NONE};
        if (UNLIKELY(width[opcode] == 2) && b->first[opcode] != b->first[opcode + 1] && i + 1 < words)
            places[++i] = (struct cnp_place){NONE, NONE};
    }
}

static void find_words(const struct cnp_bytecode *b, struct cnp_translation *t)
{
    if (is_plain_code(b))
        find_words_of(b, t, true);
    else
        find_words_of(b, t, false);
}

int cnp_bytecode_check(const struct cnp_bytecode *b, struct cnp_translation *t, struct cnp_evidence *evidence)
{
    t->most = t->functions = t->count = t->index = t->bound = t->asked = 0;
    if (t->words > MOST_WORDS)
        return fail(evidence, CNP_TOO_LARGE, MOST_WORDS, 0);
    find_words(b, t);
    if (t->words && b->frame)
        t->places[0].rule = CALLED, t->functions = 1;
    for (size_t i = 0; i < t->words; i++) {
        if (t->places[i].rule == NONE)
            continue;
        if (t->recipes)
            i = check_quickly(b, t, i);
        int status = check_one(b, t, i, opcode_at(b, t, i), evidence);
        if (status)
            return status;
        if (t->most > MOST_RECORDS)
            return fail(evidence, CNP_TOO_LARGE, i, 0);
    }
    t->most += t->functions * ((size_t)b->begins + (b->join != 0));
    return t->most > MOST_RECORDS ? fail(evidence, CNP_TOO_LARGE, t->words, 0) : CNP_OK;
}

/* ---- translate */

/* Let an operand name the operation at which an instruction begins, now or as soon as that is known. */
static inline void name_place_in(struct cnp_record *records, size_t index, uint32_t operand, struct cnp_place *place, bool is_bound)
{
    records[index].word[operand] = (int32_t)place->at;
    if (!is_bound)
        place->at = (uint32_t)index * 8 + operand;
}

static void name_place(struct cnp_translation *t, struct cnp_record *record, uint32_t operand, size_t goal)
{
    name_place_in(t->records, (size_t)(record - t->records), operand, &t->places[goal], goal < t->bound);
}

/* An instruction begins at an operation. */
static inline void begin_place(struct cnp_record *records, struct cnp_place *place, uint32_t position)
{
    for (uint32_t at = place->at; UNLIKELY(at != NONE);) {
        int32_t *word = &records[at / 8].word[at % 8];
        at = (uint32_t)*word;
        *word = (int32_t)position;
    }
    place->at = position;
}

static uint32_t function_of(const struct cnp_translation *t, size_t index)
{
    size_t low = 0, high = t->functions;
    while (low + 1 < high) {
        size_t middle = low + (high - low) / 2;
        *(t->begins[middle].index <= index ? &low : &high) = middle;
    }
    return (uint32_t)low;
}

/* A number, in its word if it fits. */
static inline void put_number(struct cnp_record *record, uint32_t operand, int64_t value)
{
    record->word[operand] = (int32_t)value;
    if (value == (int32_t)value) {
        record->kinds |= CNP_KIND(CNP_NUMBER, operand);
        return;
    }
    record->word[operand] = operand < 4 ? 0 : record->word[operand];
    memcpy(&record->word[4], &value, sizeof value);
    record->kinds |= CNP_KIND(CNP_WIDE, operand);
}

static inline bool put(const struct cnp_bytecode *b, struct cnp_translation *t, struct cnp_record *record, uint32_t operand,
                       const struct cnp_source *source, const struct words *words, size_t goal)
{
    int64_t value = 0;
    const int64_t *found;
    if (source->from >= CNP_FROM_FIELD && source->from <= CNP_FROM_POOL)
        value = field_value(&b->fields[source->field], words);
    switch (source->from) {
    case CNP_FROM_FIELD:
        if (source->high) {
            uint64_t high = (uint64_t)field_value(&b->fields[source->high - 1], words);
            value = (int64_t)((uint64_t)value | high << b->fields[source->field].width);
        }
        value = (int64_t)((uint64_t)source->base + (uint64_t)source->scale * (uint64_t)value);
        break;
    case CNP_FROM_MAP:
        if (UNLIKELY((uint64_t)value >= source->count))
            return false; /* it was another program that was checked */
        record->word[operand] = b->maps[source->first + value].word;
        record->kinds |= CNP_KIND(b->maps[source->first + value].kind, operand);
        return true;
    case CNP_FROM_POOL:
        if (!(found = pooled(&t->pools[source->first], value)))
            return false;
        value = source->kind == CNP_NUMBER ? *found : t->pools[source->first].first + (found - t->pools[source->first].values);
        break;
    case CNP_FROM_TARGET:
        record->kinds |= CNP_KIND(CNP_POSITION, operand);
        name_place(t, record, operand, goal);
        return true;
    case CNP_FROM_FUNCTION:
        record->kinds |= CNP_KIND(CNP_FUNCTION, operand);
        record->word[operand] = (int32_t)(t->first_label + function_of(t, goal));
        return true;
    default:
        value = source->base;
    }
    if (source->kind == CNP_NUMBER) {
        put_number(record, operand, value);
    } else {
        record->word[operand] = (int32_t)value;
        record->kinds |= CNP_KIND(source->kind, operand);
    }
    return true;
}

static bool put_steps(const struct cnp_bytecode *b, struct cnp_translation *t, uint32_t first, uint32_t count,
                      const struct words *words, size_t goal)
{
    bool fine = true;
    for (uint32_t s = first; s < first + count; s++) {
        const struct cnp_step *step = &b->steps[s];
        struct cnp_record *record = &t->records[t->count];
        memset(record, 0, sizeof *record);
        record->op = step->op;
        for (uint32_t i = 0; i < step->operands; i++)
            fine &= put(b, t, record, i, &b->sources[step->first + i], words, goal);
        t->count++;
    }
    return fine;
}

/* A function begins: what runs into it from the instruction before jumps behind its first steps. */
static void begin_function(const struct cnp_bytecode *b, struct cnp_translation *t, size_t index, bool goes_on)
{
    const struct words none = {{0, 0}};
    if (goes_on && b->join) {
        struct cnp_record *record = &t->records[t->count];
        memset(record, 0, sizeof *record);
        record->op = (uint16_t)(b->join - 1), record->kinds = CNP_KIND(CNP_POSITION, 0);
        name_place(t, record, 0, index);
        t->count++;
    }
    t->begins[function_of(t, index)].position = t->first_position + (uint32_t)t->count;
    put_steps(b, t, b->begin, b->begins, &none, 0);
}

/* Positions in the records that a caller gave name instructions. */
static int adopt(const struct cnp_bytecode *b, struct cnp_translation *t, size_t first, size_t index,
                 struct cnp_evidence *evidence)
{
    for (size_t n = first; n < t->count; n++)
        for (uint32_t i = 0; i < CNP_OPERANDS; i++) {
            struct cnp_record *record = &t->records[n];
            if ((record->kinds >> 4 * i & 15) != CNP_POSITION)
                continue;
            int64_t goal = record->word[i];
            if (goal < 0 || (uint64_t)goal >= t->words)
                return fault(b, t, index, CNP_FAULT_OUTSIDE, b->opcode, goal * (int64_t)b->size, evidence);
            if (t->places[goal].rule == NONE)
                return fault(b, t, index, CNP_FAULT_INSIDE, b->opcode, goal * (int64_t)b->size, evidence);
            name_place(t, record, i, (size_t)goal);
        }
    return CNP_OK;
}

static void begin_program(const struct cnp_bytecode *b, struct cnp_translation *t)
{
    struct cnp_place *const places = t->places;
    const size_t words = t->words, functions = b->frame ? t->functions : 0;
    for (size_t i = 0; i < words; i++)
        places[i].at = NONE;
    for (size_t i = 0, number = 0; i < words && number < functions; i++)
        if (places[i].rule != NONE && places[i].rule & CALLED)
            t->begins[number++] = (struct cnp_begin){(uint32_t)i, 0};
    t->bound = 0, t->goes_on = 0;
}

/* Whether there is room for what becomes of an instruction. */
static inline bool has_room(const struct cnp_bytecode *b, const struct cnp_translation *t, const struct cnp_rule *rule,
                            bool called)
{
    return t->room - t->count >= (rule->escape ? rule->escape : rule->steps) + (called ? b->begins + (b->join != 0) : 0);
}

static size_t width_of(const struct cnp_translation *t, size_t index)
{
    return index + 1 < t->words && t->places[index + 1].rule == NONE ? 2 : 1;
}

/* The instruction that a jump goes to. false: there is none, so this is not the program that was checked. */
static bool goal_of_jump(const struct cnp_bytecode *b, const struct cnp_translation *t, const struct cnp_rule *rule,
                         const struct words *words, size_t index, size_t *goal)
{
    int64_t byte = goes_to(b, rule, words, index);
    *goal = (size_t)byte / b->size;
    return byte >= 0 && *goal < t->words && t->places[*goal].rule != NONE;
}

/* The records of an instruction. CNP_WRONG_TIME: this is not the program that was checked. */
static int translate_one(const struct cnp_bytecode *b, struct cnp_translation *t, const struct cnp_rule *rule, size_t index,
                         struct cnp_evidence *evidence)
{
    struct words words = read_words(b, t, index);
    size_t goal = 0;
    if (rule->goes != CNP_GOES_ON && !goal_of_jump(b, t, rule, &words, index, &goal))
        return fail(evidence, CNP_WRONG_TIME, index, 0);
    return put_steps(b, t, rule->step, rule->steps, &words, goal) ? CNP_OK : fail(evidence, CNP_WRONG_TIME, index, 0);
}

int cnp_bytecode_translate(const struct cnp_bytecode *b, struct cnp_translation *t, struct cnp_evidence *evidence)
{
    if (!t->index && !t->asked)
        begin_program(b, t);
    while (t->index < t->words) {
        if (t->recipes && !t->asked && translate_quickly(b, t) == t->words)
            break;
        size_t index = t->index;
        struct cnp_place *place = &t->places[index];
        const struct cnp_rule *rule = &b->rules[place->rule & ~CALLED];
        int status;
        if (!t->asked) {
            if (UNLIKELY(!has_room(b, t, rule, place->rule & CALLED)))
                return fail(evidence, CNP_NO_SPACE, index, 0);
            if (place->rule & CALLED)
                begin_function(b, t, index, t->goes_on);
            begin_place(t->records, place, t->first_position + (uint32_t)t->count);
            t->bound = index + 1, t->asked = t->count + 1;
            if (rule->escape)
                return fail(evidence, CNP_ESCAPE, index, opcode_at(b, t, index));
        }
        size_t first = t->asked - 1;
        t->asked = 0;
        if (rule->escape)
            status = t->count >= first && t->count - first <= rule->escape ? adopt(b, t, first, index, evidence)
                                                                           : fail(evidence, CNP_NO_SPACE, index, 0);
        else
            status = translate_one(b, t, rule, index, evidence);
        if (status)
            return status;
        t->goes_on = !rule->ends;
        t->index += width_of(t, index);
        if (t->index == index + 2)
            place[1].at = place->at;
    }
    return CNP_OK;
}
