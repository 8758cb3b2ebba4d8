/* Tables of a bytecode that cnp did not make: whether every row says what can be, so that bytecode.c may believe them. */

static bool in(uint64_t first, uint64_t count, uint64_t rows) { return first <= rows && count <= rows - first; }

/* Values of a field, and of what a source makes of them. */
static void limits_of(const struct cnp_bits *bits, wide *low, wide *high)
{
    *low = bits->is_signed ? -((wide)1 << (bits->width - 1)) : 0;
    *high = ((wide)1 << (bits->width - bits->is_signed)) - 1;
}

static bool fits(const struct cnp_bits *bits, int64_t scale, int64_t base, bool small)
{
    wide low, high;
    limits_of(bits, &low, &high);
    wide a = base + scale * low, b = base + scale * high;
    return small ? a == (int32_t)a && b == (int32_t)b : a == (int64_t)a && b == (int64_t)b;
}

static bool valid_source(const struct cnp_bytecode *b, const struct cnp_source *s, bool constant)
{
    const struct cnp_bits *bits = &b->fields[s->field];
    switch (s->from) {
    case CNP_FROM_CONSTANT:
        return s->kind == CNP_NUMBER || (s->kind <= CNP_HOME && s->kind != CNP_TABLED && s->kind != CNP_WIDE && s->kind != CNP_UNSIGNED &&
                                         s->kind != CNP_POSITION && s->base == (int32_t)s->base);
    case CNP_FROM_FIELD:
        if (constant || s->field >= b->fields_count)
            return false;
        if (s->high)
            return s->kind == CNP_NUMBER && s->high <= b->fields_count && s->scale == 1 && s->base == 0 && !bits->is_signed &&
                   bits->width + b->fields[s->high - 1].width <= 64;
        return (s->kind == CNP_NUMBER || s->kind == CNP_SLOT) && fits(bits, s->scale, s->base, s->kind == CNP_SLOT);
    case CNP_FROM_MAP:
        return !constant && s->field < b->fields_count && in(s->first, s->count, b->maps_count);
    case CNP_FROM_POOL:
        return !constant && (s->kind == CNP_NUMBER || s->kind == CNP_TABLED) && s->field < b->fields_count &&
               s->first < b->pools_count;
    }
    return !constant && s->from <= CNP_FROM_FUNCTION;
}

/* Whether an operand may need words 4 and 5. */
static bool may_be_wide(const struct cnp_bytecode *b, const struct cnp_source *s)
{
    if (s->kind != CNP_NUMBER || s->from == CNP_FROM_MAP || s->from >= CNP_FROM_TARGET)
        return false;
    if (s->from == CNP_FROM_CONSTANT)
        return s->base != (int32_t)s->base;
    return s->from == CNP_FROM_POOL || s->high || !fits(&b->fields[s->field], s->scale, s->base, true);
}

static bool valid_step(const struct cnp_bytecode *b, const struct cnp_step *step, const struct cnp_rule *rule)
{
    unsigned wides = 0;
    if (step->operands > CNP_OPERANDS || !in(step->first, step->operands, b->sources_count))
        return false;
    for (uint32_t i = 0; i < step->operands; i++) {
        const struct cnp_source *s = &b->sources[step->first + i];
        bool goes = s->from == CNP_FROM_TARGET || s->from == CNP_FROM_FUNCTION;
        if (!valid_source(b, s, !rule) || (goes && rule->goes != (s->from == CNP_FROM_TARGET ? CNP_GOES_TO : CNP_CALLS)))
            return false;
        wides += may_be_wide(b, s);
    }
    return wides == 0 || (wides == 1 && step->operands <= 4);
}

static bool asks_pool(const struct cnp_bytecode *b, const struct cnp_step *step)
{
    bool asks = false;
    for (uint32_t i = 0; i < step->operands; i++)
        asks |= b->sources[step->first + i].from == CNP_FROM_POOL;
    return asks;
}

static bool valid_rule(const struct cnp_bytecode *b, const struct cnp_rule *rule)
{
    if (!in(rule->when, rule->whens, b->limits_count) || !in(rule->check, rule->checks, b->limits_count) ||
        !in(rule->step, rule->steps, b->steps_count) || rule->goes > CNP_CALLS || (rule->goes == CNP_CALLS && !b->frame) ||
        rule->zeros > rule->checks || (rule->escape && rule->steps) || rule->escape > MOST_RECORDS)
        return false;
    if (rule->goes != CNP_GOES_ON &&
        (rule->field >= b->fields_count || b->fields[rule->field].width > 40 || rule->base != (int32_t)rule->base ||
         rule->scale != (int16_t)rule->scale))
        return false;
    for (uint32_t s = rule->step; s < rule->step + rule->steps; s++)
        if (!valid_step(b, &b->steps[s], rule) || (!rule->pooled && asks_pool(b, &b->steps[s])))
            return false;
    return true;
}

static bool valid_bits(const struct cnp_bytecode *b, const struct cnp_bits *bits)
{
    return bits->word < 2 && bits->width && bits->is_signed < 2 && bits->at + bits->width <= 8 * b->size &&
           (bits->is_signed || bits->width < 64);
}

static bool valid_limit(const struct cnp_bytecode *b, const struct cnp_limit *limit)
{
    return limit->field < b->fields_count && limit->count && in(limit->first, limit->count, b->spans_count);
}

/* The first row that does not hold is the evidence. */
#define EACH_ROW(rows, valid) \
    for (uint32_t n = 0; n < b->rows##_count; n++) \
        if (!(valid)) \
            return bad(evidence, #rows, n);

int cnp_bytecode_valid(const struct cnp_bytecode *b, struct cnp_evidence *evidence)
{
    if (b->size != 1 && b->size != 2 && b->size != 4 && b->size != 8)
        return bad(evidence, "bytecode", 0);
    EACH_ROW(fields, valid_bits(b, &b->fields[n]))
    EACH_ROW(limits, valid_limit(b, &b->limits[n]))
    EACH_ROW(rules, valid_rule(b, &b->rules[n]))
    if (b->opcode >= b->fields_count || b->fields[b->opcode].word || b->fields[b->opcode].width > 16 ||
        b->fields[b->opcode].is_signed || b->frame % 8 || b->frame > INT32_MAX || b->join > 0x10000 ||
        b->hint >= 8 * b->size || !in(b->begin, b->begins, b->steps_count))
        return bad(evidence, "bytecode", 0);
    for (uint32_t s = b->begin; s < b->begin + b->begins; s++)
        if (!valid_step(b, &b->steps[s], NULL))
            return bad(evidence, "steps", s);
    for (uint32_t v = 0; v >> b->fields[b->opcode].width == 0; v++)
        if (!in(b->first[v], b->first[v + 1] - (uint64_t)b->first[v], b->rules_count) ||
            (b->first[v] != b->first[v + 1] && b->words[v] != 1 && b->words[v] != 2))
            return bad(evidence, "first", v);
    return CNP_OK;
}
