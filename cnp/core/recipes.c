/* Recipes: what becomes of instructions that are alike in the bits which decide. A recipe is made at the first of them
   and used for the others, in place of the rules:

       word     …  fields that only fill operands …  hint  …  | lowest 16 bits |     hint and lowest bits: the key
       recipe   its rule; bits that have to be 0; bits that must not be; the record, but for two numbers at most, or for one
                and a target, which is as far away as the second number says, in bytes

   An instruction that these bits do not decide, or that has other zeros than the one which its recipe was made for, has
   none: bytecode.c looks at its rules. */

#define RECIPES_BITS 10
_Static_assert(1 << RECIPES_BITS == CNP_RECIPES, "a recipe for each hash");
#define KEY 0xFFFFu
#define BESIDE 4 /* places in which a recipe may lie */
#define NO_OPERAND 0xFFu
#define REST 5 /* the word in which a number is put that there is not */
enum { CHECKED = 1, TRANSLATED = 2 };
enum verdict { NO, YES, OPEN };

static uint64_t bits_of(const struct cnp_bits *bits) { return ~(uint64_t)0 >> (64 - bits->width) << bits->at; }

static bool is_known(const struct cnp_bytecode *b, const struct cnp_bits *bits)
{
    return !bits->word && !(bits_of(bits) & ~(KEY | (uint64_t)1 << b->hint));
}

/* Whether a limit holds for all instructions with the key of this one. */
static enum verdict judge(const struct cnp_bytecode *b, const struct cnp_limit *limit, const struct words *words)
{
    const struct cnp_bits *bits = &b->fields[limit->field];
    if (is_known(b, bits))
        return holds(b, limit, field_value(bits, words)) ? YES : NO;
    if (bits->word || !bits->is_signed || bits->at + bits->width - 1u != b->hint)
        return OPEN;
    const wide half = (wide)1 << (bits->width - 1); /* the sign is known */
    const bool negative = words->word[0] >> b->hint & 1;
    const wide low = negative ? -half : 0, high = negative ? -1 : half - 1;
    const struct cnp_span *span = &b->spans[limit->first];
    bool meets = false;
    for (uint32_t k = 0; k < limit->count; k++, span++) {
        if (span->low <= low && span->high >= high)
            return YES;
        meets |= span->low <= high && span->high >= low;
    }
    return meets ? OPEN : NO;
}

/* Whether all that a limit says is that its field is 0. */
static bool asks_zero(const struct cnp_bytecode *b, const struct cnp_limit *limit)
{
    const struct cnp_span *span = &b->spans[limit->first];
    return limit->count == 1 && !span->low && !span->high && !b->fields[limit->field].word;
}

/* The same of a condition. One that asks for 0 is decided by this instruction: the others must be as it is there. */
static enum verdict judge_condition(const struct cnp_bytecode *b, const struct cnp_limit *limit, const struct words *words,
                                    struct cnp_recipe *recipe)
{
    const struct cnp_bits *bits = &b->fields[limit->field];
    enum verdict found = judge(b, limit, words);
    if (found != OPEN || !asks_zero(b, limit))
        return found;
    const uint64_t mask = bits_of(bits);
    if (!(words->word[0] & mask))
        return recipe->zero |= mask, YES;
    if (recipe->some && recipe->some != mask)
        return OPEN;
    return recipe->some = mask, NO;
}

/* The rule of all instructions that are like this one; NONE: they have several, or none. */
static uint32_t known_rule(const struct cnp_bytecode *b, uint32_t opcode, const struct words *words, struct cnp_recipe *recipe)
{
    for (uint32_t n = b->first[opcode]; n < b->first[opcode + 1]; n++) {
        const struct cnp_rule *rule = &b->rules[n];
        enum verdict all = YES;
        for (uint32_t k = 0; k < rule->whens && all != NO; k++) {
            enum verdict one = judge_condition(b, &b->limits[rule->when + k], words, recipe);
            all = one == YES ? all : one;
        }
        if (all != NO)
            return all == YES ? n : NONE;
    }
    return NONE;
}

static void note_number(const struct cnp_bits *bits, const struct cnp_source *source, uint32_t operand,
                        struct cnp_filled *filled)
{
    *filled = (struct cnp_filled){source->base, source->scale, (uint8_t)(64 - bits->at - bits->width),
                                  (uint8_t)(64 - bits->width), bits->is_signed, (uint8_t)operand};
}

/* The record of a step. false: it asks for more than a recipe has. */
static bool make_record(const struct cnp_bytecode *b, struct cnp_translation *t, struct cnp_recipe *recipe,
                        const struct cnp_step *step, const struct words *words)
{
    struct cnp_record *record = &recipe->record;
    unsigned numbers = 0, most = recipe->goes ? 1 : 2;
    record->op = step->op;
    for (uint32_t i = 0; i < step->operands; i++) {
        const struct cnp_source *source = &b->sources[step->first + i];
        const struct cnp_bits *bits = &b->fields[source->field];
        if (source->from == CNP_FROM_TARGET && recipe->target == NO_OPERAND) {
            recipe->target = (uint8_t)i, record->kinds |= CNP_KIND(CNP_POSITION, i);
        } else if (source->from == CNP_FROM_CONSTANT || (source->from <= CNP_FROM_MAP && !source->high && is_known(b, bits))) {
            if (!put(b, t, record, i, source, words, 0))
                return false;
        } else if (source->from == CNP_FROM_FIELD && !source->high && !bits->word && numbers < most) {
            record->kinds |= CNP_KIND(source->kind, i);
            note_number(bits, source, i, &recipe->filled[numbers++]);
        } else {
            return false;
        }
    }
    for (; numbers < most; numbers++)
        recipe->filled[numbers] = (struct cnp_filled){record->word[REST], 0, 0, 0, 0, REST};
    return true;
}

/* Note how far a rule's instructions go, from where they stand; false: they count from elsewhere. */
static bool is_near(const struct cnp_bytecode *b, const struct cnp_rule *rule, struct cnp_recipe *recipe)
{
    const struct cnp_bits *bits = &b->fields[rule->field];
    const struct cnp_source distance = {.base = rule->base, .scale = rule->scale};
    note_number(bits, &distance, NO_OPERAND, &recipe->filled[1]);
    return !rule->absolute && !bits->word;
}

static void make_recipe(const struct cnp_bytecode *b, struct cnp_translation *t, struct cnp_recipe *recipe, uint32_t key,
                        const struct words *words)
{
    const struct cnp_bits *bits = &b->fields[b->opcode];
    memset(recipe, 0, sizeof *recipe);
    recipe->key = key + 1, recipe->target = NO_OPERAND;
    if (!is_known(b, bits))
        return;
    uint32_t opcode = (uint32_t)field_value(bits, words), number = known_rule(b, opcode, words, recipe);
    if (number == NONE || b->words[opcode] != 1)
        return;
    const struct cnp_rule *rule = &b->rules[number];
    if (rule->pooled || rule->escape || rule->goes == CNP_CALLS || rule->steps > UINT8_MAX)
        return;
    if (rule->goes && !is_near(b, rule, recipe))
        return;
    for (uint32_t k = rule->zeros; k < rule->checks; k++)
        if (judge(b, &b->limits[rule->check + k], words) != YES)
            return;
    recipe->rule = number, recipe->zero |= rule->zero[0], recipe->ready = CHECKED;
    recipe->goes = rule->goes != CNP_GOES_ON, recipe->ends = rule->ends != 0, recipe->steps = (uint8_t)rule->steps;
    if (rule->steps == 1 && make_record(b, t, recipe, &b->steps[rule->step], words))
        recipe->ready |= TRANSLATED;
}

/* The recipe of a key that is not in the place for it: in one of those beside it, or made. */
static NOINLINE const struct cnp_recipe *recipe_beside(const struct cnp_bytecode *b, struct cnp_translation *t, uint32_t at,
                                                       uint32_t key, const struct words *words)
{
    for (uint32_t k = 0; k < BESIDE; k++) {
        struct cnp_recipe *recipe = &t->recipes[at ^ k];
        if (!recipe->key)
            make_recipe(b, t, recipe, key, words);
        if (recipe->key == key + 1)
            return recipe;
    }
    make_recipe(b, t, &t->recipes[at], key, words); /* in the place of another one */
    return &t->recipes[at];
}

static inline bool is_like(const struct cnp_recipe *recipe, uint64_t word)
{
    return !(word & recipe->zero) && (!recipe->some || word & recipe->some);
}

static inline int64_t filled_with(const struct cnp_filled *filled, uint64_t word)
{
    uint64_t high = word << filled->up;
    int64_t value = filled->is_signed ? (int64_t)high >> filled->down : (int64_t)(high >> filled->down);
    return (int64_t)((uint64_t)filled->base + (uint64_t)filled->scale * (uint64_t)value);
}

/* What the loops over instructions look at, which their stores cannot change. */
struct look {
    const uint8_t *code;
    struct cnp_place *places;
    const struct cnp_recipe *recipes;
    size_t words, size;
    unsigned shift, hint;
    bool plain; /* words are the host's */
};

static inline struct look look_at(const struct cnp_bytecode *b, const struct cnp_translation *t)
{
    return (struct look){t->code, t->places, t->recipes, t->words, b->size, (b->size > 1) + (b->size > 2) + (b->size > 4),
                         b->hint, LITTLE_HOST && b->size == 8 && !b->big_endian};
}

static inline struct words look_word(const struct look *look, const struct cnp_bytecode *b, size_t index)
{
    struct words words = {{0, 0}};
    if (LIKELY(look->plain))
        memcpy(words.word, look->code + index * 8, 8);
    else
        words.word[0] = read_word(b, look->code + index * look->size);
    return words;
}

static inline const struct cnp_recipe *look_recipe(const struct look *look, const struct cnp_bytecode *b,
                                                   struct cnp_translation *t, const struct words *words)
{
    uint32_t key = (uint32_t)(words->word[0] & KEY) | (uint32_t)(words->word[0] >> look->hint & 1) << 16;
    uint32_t at = key * 0x9E3779B1u >> (32 - RECIPES_BITS);
    return LIKELY(look->recipes[at].key == key + 1) ? &look->recipes[at] : recipe_beside(b, t, at, key, words);
}

/* The place of the instruction to which one at `index` jumps, so many bytes from it; what is none of them: there is none. */
static inline size_t goal_from(const struct look *look, size_t index, int64_t distance)
{
    size_t goal = index + (size_t)(distance >> look->shift);
    bool whole = !(distance & (int64_t)(look->size - 1));
    return whole && goal < look->words && look->places[goal].rule != NONE ? goal : NONE;
}

/* As check_one, for all instructions from one on up to the first that has no recipe, or is refused. */
static size_t check_quickly(const struct cnp_bytecode *b, struct cnp_translation *t, size_t index)
{
    const struct look look = look_at(b, t);
    size_t most = t->most;
    for (; index < look.words && most <= MOST_RECORDS; index++) {
        const struct words words = look_word(&look, b, index);
        const struct cnp_recipe *recipe = look_recipe(&look, b, t, &words);
        struct cnp_place *place = &look.places[index];
        if (UNLIKELY(!(recipe->ready & CHECKED) || !is_like(recipe, words.word[0]) || place->rule == NONE))
            break;
        if (UNLIKELY(index + 1 == look.words && !recipe->ends))
            break;
        if (recipe->goes && goal_from(&look, index, filled_with(&recipe->filled[1], words.word[0])) == NONE)
            break;
        place->rule |= recipe->rule;
        most += recipe->steps;
    }
    t->most = most;
    return index;
}

/* The records of all instructions from the one at hand on up to the first that has no recipe, or is not as it was checked. At
   none of them a function begins: its rule would have a mark. */
static size_t translate_quickly(const struct cnp_bytecode *b, struct cnp_translation *t)
{
    const struct look look = look_at(b, t);
    struct cnp_record *const records = t->records;
    const uint32_t before = t->first_position;
    const size_t room = t->room;
    size_t index = t->index, count = t->count;
    for (; index < look.words && count < room; index++, count++) {
        const struct words words = look_word(&look, b, index);
        const struct cnp_recipe *recipe = look_recipe(&look, b, t, &words);
        struct cnp_place *place = &look.places[index];
        if (UNLIKELY(!(recipe->ready & TRANSLATED) || place->rule != recipe->rule))
            break;
        const struct cnp_filled *filled = recipe->filled;
        const int64_t first = filled_with(&filled[0], words.word[0]), second = filled_with(&filled[1], words.word[0]);
        if (UNLIKELY((first != (int32_t)first) | (second != (int32_t)second)))
            break;
        size_t goal = 0;
        if (recipe->goes && UNLIKELY((goal = goal_from(&look, index, second)) == NONE))
            break;
        struct cnp_record *record = &records[count];
        begin_place(records, place, before + (uint32_t)count);
        *record = recipe->record;
        record->word[filled[0].operand] = (int32_t)first;
        if (!recipe->goes)
            record->word[filled[1].operand] = (int32_t)second;
        else if (recipe->target != NO_OPERAND)
            name_place_in(records, count, recipe->target, &look.places[goal], goal <= index);
        t->goes_on = !recipe->ends;
    }
    t->index = t->bound = index, t->count = count;
    return index;
}
