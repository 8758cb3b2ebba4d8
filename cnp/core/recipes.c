/* Recipes: what becomes of instructions that are alike in the bits which decide. A recipe is made at the first of them
   and used for the others, in place of the rules:

       word     …  fields that only fill operands …  hint  …  | lowest 16 bits |     hint and lowest bits: the key
       recipe   its rule, if it is checked or translated so; bits that have to be 0; bits that must not be; a number that has
                to be `span` at most; the record, but for two numbers at most, or for one and a target, which is as far away
                as the second number says, in bytes; and which bytes of the instruction go where in the record, if these
                numbers fit words wherever no bit of `large` is set

   An instruction that these bits do not decide, or that has other zeros or a number in another range than the one which its
   recipe was made for, has none: bytecode.c looks at its rules. */

#define RECIPES_BITS 10
_Static_assert((1 << RECIPES_BITS) + 1 == CNP_RECIPES, "a recipe for each hash, and one that says what the processor has");
#define KEY 0xFFFFu
#define BESIDE 4 /* places in which a recipe may lie */
#define NO_OPERAND 0xFFu
#define REST 5 /* the word in which a number is put that there is not */
#define NO_RULE 0x7FFFFFFFu /* no place of a program has it */
enum { SOME = 1, IN_RANGE = 2 }; /* what a recipe asks of instructions beside zeros */
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

static void note_number(const struct cnp_bits *bits, const struct cnp_source *source, uint32_t operand,
                        struct cnp_filled *filled)
{
    const unsigned down = 64u - bits->width;
    *filled = (struct cnp_filled){source->base, source->scale, ~(uint64_t)0 >> (bits->is_signed ? 0 : down),
                                  (uint8_t)(down - bits->at), (uint8_t)down, (uint8_t)operand};
}

/* Let a recipe be for instructions alone in which a limit holds, as in this one. OPEN: it is for others too. */
static enum verdict note_range(const struct cnp_bytecode *b, const struct cnp_limit *limit, const struct words *words,
                               struct cnp_recipe *recipe)
{
    const struct cnp_bits *bits = &b->fields[limit->field];
    const struct cnp_span *span = &b->spans[limit->first];
    const struct cnp_source above = {.base = (int64_t)(0 - (uint64_t)span->low), .scale = 1};
    if (recipe->asks & IN_RANGE || limit->count != 1 || bits->word || !holds(b, limit, field_value(bits, words)))
        return OPEN;
    note_number(bits, &above, NO_OPERAND, &recipe->ranged);
    recipe->span = (uint64_t)span->high - (uint64_t)span->low, recipe->asks |= IN_RANGE;
    return YES;
}

/* The same of a condition. One that asks for 0 is decided by this instruction, and one that asks for a range in which this one
   is: the others must be as it is there. */
static enum verdict judge_condition(const struct cnp_bytecode *b, const struct cnp_limit *limit, const struct words *words,
                                    struct cnp_recipe *recipe)
{
    const struct cnp_bits *bits = &b->fields[limit->field];
    enum verdict found = judge(b, limit, words);
    if (found != OPEN)
        return found;
    if (!asks_zero(b, limit))
        return note_range(b, limit, words, recipe);
    const uint64_t mask = bits_of(bits);
    if (!(words->word[0] & mask))
        return recipe->zero |= mask, YES;
    if (recipe->some && recipe->some != mask)
        return OPEN;
    return recipe->some = mask, recipe->asks |= SOME, NO;
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

/* Note from which bytes of the instruction a number comes. Signed ones end with a byte, which becomes the highest of the word
   that is then shifted down. Of unsigned ones with 32 bits the highest has to be 0. false: it is not so, or may not fit. */
static bool note_spread(const struct cnp_bits *bits, const struct cnp_source *source, uint32_t operand,
                        struct cnp_recipe *recipe)
{
    const unsigned end = bits->at + bits->width, first = bits->at / 8u, last = (end - 1) / 8;
    const bool is_signed = bits->is_signed, is_halved = !is_signed && bits->width == 32;
    const unsigned width = bits->width - is_halved, down = is_signed ? 32 - width : bits->at % 8u;
    const uint64_t bytes = ~(uint64_t)0 >> (56 - 8 * last) & ~(uint64_t)0 << 8 * first;
    const wide low = is_signed ? -((wide)1 << (width - 1)) : 0, high = low + ((wide)1 << width) - 1;
    if (source->scale != 1 || (is_signed ? width > 32 || end % 8 : down + width > 31) || bytes & recipe->spread_bits ||
        source->base + low < INT32_MIN || source->base + high > INT32_MAX)
        return false;
    recipe->record.word[operand] = (int32_t)source->base;
    recipe->spread_bits |= bits_of(bits), recipe->large |= is_halved ? (uint64_t)1 << (end - 1) : 0;
    recipe->down[2 + operand] = (uint8_t)down;
    for (unsigned i = 0; i < 4; i++) {
        const int byte = (int)(is_signed ? last + i : first + i + 3) - 3;
        recipe->spread[4 * (2 + operand) + i] = byte >= 0 && byte <= (int)last ? (uint8_t)byte : NO_BYTE;
    }
    return true;
}

/* The record of a step, unless it asks for more than a recipe has. */
static void make_record(const struct cnp_bytecode *b, struct cnp_translation *t, struct cnp_recipe *recipe,
                        const struct cnp_step *step, const struct words *words)
{
    struct cnp_record *record = &recipe->record;
    unsigned numbers = 0, most = recipe->goes ? 1 : 2;
    bool spreads = true;
    record->op = step->op;
    for (uint32_t i = 0; i < step->operands; i++) {
        const struct cnp_source *source = &b->sources[step->first + i];
        const struct cnp_bits *bits = &b->fields[source->field];
        if (source->from == CNP_FROM_TARGET && recipe->target == NO_OPERAND) {
            recipe->target = (uint8_t)i, record->kinds |= CNP_KIND(CNP_POSITION, i);
        } else if (source->from == CNP_FROM_CONSTANT || (source->from <= CNP_FROM_MAP && !source->high && is_known(b, bits))) {
            if (!put(b, t, record, i, source, words, 0))
                return;
        } else if (source->from == CNP_FROM_FIELD && !source->high && !bits->word && numbers < most) {
            record->kinds |= CNP_KIND(source->kind, i);
            note_number(bits, source, i, &recipe->filled[numbers++]);
            spreads &= note_spread(bits, source, i, recipe);
        } else {
            return;
        }
    }
    for (; numbers < most; numbers++)
        recipe->filled[numbers] = (struct cnp_filled){record->word[REST], 0, 0, 0, 0, REST};
    recipe->translated = recipe->checked;
    recipe->at_once = spreads ? recipe->checked : NO_RULE;
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
    recipe->key = key + 1, recipe->target = NO_OPERAND, recipe->checked = recipe->translated = recipe->at_once = NO_RULE;
    memset(recipe->spread, NO_BYTE, sizeof recipe->spread);
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
    if (rule->steps == 1)
        make_record(b, t, recipe, &b->steps[rule->step], words);
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

static inline int64_t filled_with(const struct cnp_filled *filled, uint64_t word)
{
    const uint64_t value = (uint64_t)((int64_t)(word << filled->up) >> filled->down) & filled->mask;
    return (int64_t)((uint64_t)filled->base + (uint64_t)filled->scale * value);
}

static inline bool is_like(const struct cnp_recipe *recipe, uint64_t word)
{
    if (LIKELY(!recipe->asks) || word & recipe->zero)
        return !(word & recipe->zero);
    const bool some = !(recipe->asks & SOME) || word & recipe->some;
    return some && (!(recipe->asks & IN_RANGE) || (uint64_t)filled_with(&recipe->ranged, word) <= recipe->span);
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

/* Instructions that are translated in a row. behind: from the place of one to that of its record; last: the recipe of the last
   one. */
struct run {
    size_t index, end, behind;
    const struct cnp_recipe *last;
};

INLINE struct run begin_run(const struct cnp_translation *t)
{
    const size_t words = t->words - t->index, room = t->room - t->count;
    return (struct run){t->index, t->index + (words < room ? words : room), t->count - t->index, NULL};
}

/* Where the next one stands. */
INLINE size_t end_run(struct cnp_translation *t, const struct run *run)
{
    if (run->last)
        t->goes_on = !run->last->ends;
    t->index = t->bound = run->index, t->count = run->index + run->behind;
    return t->index;
}

/* Let the record of an instruction name its target. */
INLINE void put_target(const struct look *look, struct cnp_record *records, const struct run *run,
                       const struct cnp_recipe *recipe, size_t goal)
{
    if (recipe->target != NO_OPERAND)
        name_place_in(records, run->index + run->behind, recipe->target, &look->places[goal], goal <= run->index);
}

INLINE size_t translate_run(const struct cnp_bytecode *b, struct cnp_translation *t, bool plain)
{
    const struct look look = look_at(b, t, plain);
    struct cnp_record *const records = t->records;
    const uint32_t before = t->first_position;
    struct run run = begin_run(t);
    for (; run.index < run.end; run.index++) {
        const uint64_t word = word_at(b, look.code, run.index, plain);
        const struct cnp_recipe *recipe = look_recipe(&look, b, t, word);
        const struct cnp_filled *filled = recipe->filled;
        struct cnp_place *place = &look.places[run.index];
        if (UNLIKELY(place->rule != recipe->translated))
            break;
        const int64_t one = filled_with(&filled[0], word), other = filled_with(&filled[1], word);
        if (UNLIKELY(!are_words(one, other)))
            break;
        size_t goal = 0;
        if (recipe->goes && UNLIKELY((goal = goal_from(&look, run.index, other)) == NONE))
            break;
        struct cnp_record *record = &records[run.index + run.behind];
        begin_place(records, place, before + (uint32_t)(run.index + run.behind));
        *record = recipe->record;
        record->word[filled[0].operand] = (int32_t)one;
        if (recipe->goes)
            put_target(&look, records, &run, recipe, goal);
        else
            record->word[filled[1].operand] = (int32_t)other;
        run.last = recipe;
    }
    return end_run(t, &run);
}

#ifdef AVX2

/* The same of the host's words, up to the first whose numbers do not always fit words of its record. */
AVX2 static void translate_at_once(const struct cnp_bytecode *b, struct cnp_translation *t)
{
    const struct look look = look_at(b, t, true);
    struct cnp_record *const records = t->records;
    const uint32_t before = t->first_position;
    struct run run = begin_run(t);
    for (; run.index < run.end; run.index++) {
        const uint64_t word = word_at(b, look.code, run.index, true);
        const struct cnp_recipe *recipe = look_recipe(&look, b, t, word);
        struct cnp_place *place = &look.places[run.index];
        if (UNLIKELY(place->rule != recipe->at_once || word & recipe->large))
            break;
        size_t goal = 0;
        if (recipe->goes && UNLIKELY((goal = goal_from(&look, run.index, filled_with(&recipe->filled[1], word))) == NONE))
            break;
        begin_place(records, place, before + (uint32_t)(run.index + run.behind));
        spread_at_once(recipe, word, &records[run.index + run.behind]);
        if (recipe->goes)
            put_target(&look, records, &run, recipe, goal);
        run.last = recipe;
    }
    end_run(t, &run);
}

/* Whether the processor has it: asked once, for that takes longer than a short program. */
static bool may_be_at_once(struct cnp_translation *t)
{
    enum { NOT_ASKED, HAS_IT, HAS_IT_NOT };
    uint32_t *answer = &t->recipes[CNP_RECIPES - 1].key;
    if (*answer == NOT_ASKED)
        *answer = has_avx2() ? HAS_IT : HAS_IT_NOT;
    return *answer == HAS_IT;
}

#endif

/* The records of all instructions from the one at hand on up to the first that has no recipe, or is not as it was checked. At
   none of them a function begins: its rule would have a mark. */
static size_t translate_quickly(const struct cnp_bytecode *b, struct cnp_translation *t)
{
    if (!is_plain_code(b))
        return translate_run(b, t, false);
#ifdef AVX2
    if (may_be_at_once(t))
        translate_at_once(b, t);
#endif
    return translate_run(b, t, true);
}
