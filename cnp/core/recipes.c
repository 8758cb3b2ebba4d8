/* Recipes: what becomes of instructions that are alike in the bits which decide. A recipe is made at the first of them
   and used for the others, in place of the rules:

       word     …  fields that only fill operands …  hint  …  | lowest 16 bits |     hint and lowest bits: the key
       recipe   its rule; bits that have to be 0; bits that must not be; the record, but for two numbers and a target at most

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
    unsigned numbers = 0;
    record->op = step->op;
    for (uint32_t i = 0; i < step->operands; i++) {
        const struct cnp_source *source = &b->sources[step->first + i];
        const struct cnp_bits *bits = &b->fields[source->field];
        if (source->from == CNP_FROM_TARGET && recipe->target == NO_OPERAND) {
            recipe->target = (uint8_t)i, record->kinds |= CNP_KIND(CNP_POSITION, i);
        } else if (source->from == CNP_FROM_CONSTANT || (source->from <= CNP_FROM_MAP && !source->high && is_known(b, bits))) {
            if (!put(b, t, record, i, source, words, 0))
                return false;
        } else if (source->from == CNP_FROM_FIELD && !source->high && !bits->word && numbers < 2) {
            record->kinds |= CNP_KIND(source->kind, i);
            note_number(bits, source, i, &recipe->filled[numbers++]);
        } else {
            return false;
        }
    }
    for (; numbers < 2; numbers++)
        recipe->filled[numbers] = (struct cnp_filled){record->word[REST], 0, 0, 0, 0, REST};
    return true;
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
    if (rule->pooled || rule->escape || rule->goes == CNP_CALLS)
        return;
    for (uint32_t k = rule->zeros; k < rule->checks; k++)
        if (judge(b, &b->limits[rule->check + k], words) != YES)
            return;
    recipe->rule = number, recipe->zero |= rule->zero[0], recipe->ready = CHECKED;
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

static inline const struct cnp_recipe *recipe_for(const struct cnp_bytecode *b, struct cnp_translation *t, const struct words *words)
{
    uint32_t key = (uint32_t)(words->word[0] & KEY) | (uint32_t)(words->word[0] >> b->hint & 1) << 16;
    uint32_t at = key * 0x9E3779B1u >> (32 - RECIPES_BITS);
    return LIKELY(t->recipes[at].key == key + 1) ? &t->recipes[at] : recipe_beside(b, t, at, key, words);
}

static inline bool is_like(const struct cnp_recipe *recipe, uint64_t word)
{
    return !(word & recipe->zero) && (!recipe->some || word & recipe->some);
}

/* As check_one; false: there is no recipe, or it does not fit. */
static bool check_quickly(const struct cnp_bytecode *b, struct cnp_translation *t, size_t index, int *status,
                          struct cnp_evidence *evidence)
{
    const struct words words = {{read_word(b, (const uint8_t *)t->code + index * b->size), 0}};
    const struct cnp_recipe *recipe = recipe_for(b, t, &words);
    if (!(recipe->ready & CHECKED) || !is_like(recipe, words.word[0]))
        return false;
    const struct cnp_rule *rule = &b->rules[recipe->rule];
    *status = CNP_OK;
    if (index + 1 == t->words && !rule->ends)
        *status = fault(b, t, index, CNP_FAULT_RUNS_OFF, b->opcode, opcode_at(b, t, index), evidence);
    else if (rule->goes != CNP_GOES_ON)
        *status = check_goal(b, t, rule, &words, index, evidence);
    t->places[index].rule |= recipe->rule;
    t->most += rule->steps;
    return true;
}

static inline int64_t filled_with(const struct cnp_filled *filled, uint64_t word)
{
    uint64_t high = word << filled->up;
    int64_t value = filled->is_signed ? (int64_t)high >> filled->down : (int64_t)(high >> filled->down);
    return (int64_t)((uint64_t)filled->base + (uint64_t)filled->scale * (uint64_t)value);
}

/* The record of the instruction at hand; false: there is no recipe, or it does not fit. A function does not begin there: its
   rule would have a mark. */
static bool translate_quickly(const struct cnp_bytecode *b, struct cnp_translation *t)
{
    const size_t index = t->index;
    const struct words words = {{read_word(b, (const uint8_t *)t->code + index * b->size), 0}};
    const struct cnp_recipe *recipe = recipe_for(b, t, &words);
    struct cnp_place *place = &t->places[index];
    if (!(recipe->ready & TRANSLATED) || place->rule != recipe->rule || t->count >= t->room)
        return false;
    const struct cnp_rule *rule = &b->rules[recipe->rule];
    const struct cnp_filled *filled = recipe->filled;
    int64_t first = filled_with(&filled[0], words.word[0]), second = filled_with(&filled[1], words.word[0]);
    if (UNLIKELY((first != (int32_t)first) | (second != (int32_t)second)))
        return false;
    size_t goal = 0;
    if (recipe->target != NO_OPERAND && !goal_of_jump(b, t, rule, &words, index, &goal))
        return false;
    struct cnp_record *record = &t->records[t->count];
    begin_place(t, place);
    *record = recipe->record;
    record->word[filled[0].operand] = (int32_t)first, record->word[filled[1].operand] = (int32_t)second;
    t->bound = index + 1;
    if (recipe->target != NO_OPERAND)
        name_place(t, record, recipe->target, goal);
    t->count++, t->index++, t->goes_on = !rule->ends;
    return true;
}
