/* Recipes: what becomes of instructions that are alike in the bits which decide. A recipe is made at the first of them
   and used for the others, in place of the rules:

       word     …  fields that only fill operands …  hint  …  | lowest 16 bits |     hint and lowest bits: the key
       recipe   its rule, if it is checked or translated so; bits that have to be 0; bits that must not be; the record, but for
                two numbers at most, or for one and a target, which is as far away as the second number says, in bytes

   An instruction that these bits do not decide, or that has other zeros than the one which its recipe was made for, has
   none: bytecode.c looks at its rules. */

#define RECIPES_BITS 11
_Static_assert(1 << RECIPES_BITS == CNP_RECIPES, "a recipe for each hash");
#define KEY 0xFFFFu
#define BESIDE 4 /* places in which a recipe may lie */
#define NO_OPERAND 0xFFu
#define REST 5 /* the word in which a number is put that there is not */
#define NO_RULE 0x7FFFFFFFu /* no place of a program has it */
_Static_assert(sizeof(struct cnp_recipe) == 128, "a power of two");
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
    const unsigned down = 64u - bits->width;
    *filled = (struct cnp_filled){source->base, source->scale, ~(uint64_t)0 >> (bits->is_signed ? 0 : down),
                                  (uint8_t)(down - bits->at), (uint8_t)down, (uint8_t)operand};
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
    recipe->key = key + 1, recipe->target = NO_OPERAND, recipe->checked = recipe->translated = NO_RULE;
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
    recipe->checked = number, recipe->zero |= rule->zero[0];
    recipe->goes = rule->goes != CNP_GOES_ON, recipe->ends = rule->ends != 0, recipe->steps = (uint8_t)rule->steps;
    if (rule->steps == 1 && make_record(b, t, recipe, &b->steps[rule->step], words))
        recipe->translated = number;
}

/* The recipe of a key that is not in the place for it: in one of those beside it, or made. */
static NOINLINE const struct cnp_recipe *recipe_beside(const struct cnp_bytecode *b, struct cnp_translation *t, uint32_t at,
                                                       uint32_t key, uint64_t word)
{
    const struct words words = {{word, 0}};
    for (uint32_t k = 0; k < BESIDE; k++) {
        struct cnp_recipe *recipe = &t->recipes[at ^ k];
        if (!recipe->key)
            make_recipe(b, t, recipe, key, &words);
        if (recipe->key == key + 1)
            return recipe;
    }
    make_recipe(b, t, &t->recipes[at], key, &words); /* in the place of another one */
    return &t->recipes[at];
}

static inline bool is_like(const struct cnp_recipe *recipe, uint64_t word)
{
    return !(word & recipe->zero) && (!recipe->some || word & recipe->some);
}

static inline int64_t filled_with(const struct cnp_filled *filled, uint64_t word)
{
    const uint64_t value = (uint64_t)((int64_t)(word << filled->up) >> filled->down) & filled->mask;
    return (int64_t)((uint64_t)filled->base + (uint64_t)filled->scale * value);
}

/* Whether both are numbers that words of a record hold. */
static inline bool are_words(int64_t a, int64_t b)
{
    return !(((uint64_t)a + TURN) >> 32 | ((uint64_t)b + TURN) >> 32);
}

/* What the loops over instructions look at, which their stores cannot change. */
struct look {
    const uint8_t *code;
    struct cnp_place *places;
    const struct cnp_recipe *recipes;
    size_t words, size;
    unsigned shift, hint;
};

INLINE struct look look_at(const struct cnp_bytecode *b, const struct cnp_translation *t, bool plain)
{
    const size_t size = plain ? 8 : b->size;
    return (struct look){t->code, t->places, t->recipes, t->words, size, (size > 1) + (size > 2) + (size > 4), b->hint};
}

INLINE const struct cnp_recipe *look_recipe(const struct look *look, const struct cnp_bytecode *b, struct cnp_translation *t,
                                            uint64_t word)
{
    const uint32_t key = (uint32_t)(word & KEY) | (uint32_t)(word >> look->hint & 1) << 16;
    const uint32_t at = key * 0x9E3779B1u >> (32 - RECIPES_BITS);
    return LIKELY(look->recipes[at].key == key + 1) ? &look->recipes[at] : recipe_beside(b, t, at, key, word);
}

/* The place of the instruction to which one at `index` jumps, so many bytes from it; what is none of them: there is none. */
INLINE size_t goal_from(const struct look *look, size_t index, int64_t distance)
{
    size_t goal = index + (size_t)(distance >> look->shift);
    bool whole = !(distance & (int64_t)(look->size - 1));
    return whole && goal < look->words && look->places[goal].rule != NONE ? goal : NONE;
}

INLINE size_t check_run(const struct cnp_bytecode *b, struct cnp_translation *t, size_t index, bool plain)
{
    const struct look look = look_at(b, t, plain);
    const size_t last = look.words - 1, most = (MOST_RECORDS - t->most) / UINT8_MAX;
    const size_t end = last - index < most ? last : index + most;
    size_t steps = t->most;
    for (; index < end; index++) {
        const uint64_t word = word_at(b, look.code, index, plain);
        const struct cnp_recipe *recipe = look_recipe(&look, b, t, word);
        if (UNLIKELY(recipe->checked == NO_RULE || !is_like(recipe, word)))
            break;
        if (recipe->goes && goal_from(&look, index, filled_with(&recipe->filled[1], word)) == NONE)
            break;
        look.places[index].rule |= recipe->checked;
        steps += recipe->steps;
    }
    t->most = steps;
    return index;
}

/* As check_one, for all instructions from one on up to the first that has no recipe, or is refused, or is the last one. None of
   them is a second word: what has two has no recipe. */
static size_t check_quickly(const struct cnp_bytecode *b, struct cnp_translation *t, size_t index)
{
    return is_plain_code(b) ? check_run(b, t, index, true) : check_run(b, t, index, false);
}

INLINE size_t translate_run(const struct cnp_bytecode *b, struct cnp_translation *t, bool plain)
{
    const struct look look = look_at(b, t, plain);
    struct cnp_record *const records = t->records;
    const size_t first = t->index, room = t->room - t->count, end = look.words - first < room ? look.words : first + room;
    const size_t behind = t->count - first;
    const uint32_t before = t->first_position;
    const struct cnp_recipe *last = NULL;
    size_t index = first;
    for (; index < end; index++) {
        const uint64_t word = word_at(b, look.code, index, plain);
        const struct cnp_recipe *recipe = look_recipe(&look, b, t, word);
        struct cnp_place *place = &look.places[index];
        if (UNLIKELY(place->rule != recipe->translated))
            break;
        const struct cnp_filled *filled = recipe->filled;
        const int64_t one = filled_with(&filled[0], word), other = filled_with(&filled[1], word);
        if (UNLIKELY(!are_words(one, other)))
            break;
        size_t goal = 0;
        if (recipe->goes && UNLIKELY((goal = goal_from(&look, index, other)) == NONE))
            break;
        const size_t count = index + behind;
        struct cnp_record *record = &records[count];
        begin_place(records, place, before + (uint32_t)count);
        *record = recipe->record;
        record->word[filled[0].operand] = (int32_t)one;
        if (!recipe->goes)
            record->word[filled[1].operand] = (int32_t)other;
        else if (recipe->target != NO_OPERAND)
            name_place_in(records, count, recipe->target, &look.places[goal], goal <= index);
        last = recipe;
    }
    if (last)
        t->goes_on = !last->ends;
    t->index = t->bound = index, t->count = index + behind;
    return index;
}

/* The records of all instructions from the one at hand on up to the first that has no recipe, or is not as it was checked. At
   none of them a function begins: its rule would have a mark. */
static size_t translate_quickly(const struct cnp_bytecode *b, struct cnp_translation *t)
{
    return is_plain_code(b) ? translate_run(b, t, true) : translate_run(b, t, false);
}
