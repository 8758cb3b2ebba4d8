/* Which form takes the operands of a record: the first one that does. A shape is made once for each combination of kinds
   that an operation is used with; then a choice is a few comparisons and a look into its table. */

/* ---- what one operand of a form takes */

static inline bool within(const struct accept *accept, wide value)
{
    return value >= accept->low && value <= accept->high && !((uint64_t)value & accept->rest);
}

/* Whether a form takes an operand of this kind at all. */
static bool takes_kind(const struct accept *accept, unsigned kind)
{
    switch (kind) {
    case CNP_SLOT:
    case CNP_HOME:
        return accept->kind == CNP_TAKES_SLOT;
    case CNP_R:
        return accept->kind == CNP_TAKES_R;
    case CNP_F:
        return accept->kind == CNP_TAKES_F;
    case CNP_NUMBER:
    case CNP_WIDE:
    case CNP_UNSIGNED:
    case CNP_TABLED:
        return (accept->kind >= CNP_TAKES_SIGNED && accept->kind <= CNP_TAKES_U64) || accept->kind == CNP_TAKES_SYMBOL;
    case CNP_POSITION:
        return accept->kind == CNP_TAKES_LABEL;
    case CNP_LABEL:
        return accept->kind == CNP_TAKES_LABEL || accept->kind == CNP_TAKES_SYMBOL || accept->kind == CNP_TAKES_U64;
    case CNP_FUNCTION:
        return accept->kind == CNP_TAKES_FUNCTION || takes_kind(accept, CNP_LABEL);
    case CNP_SYMBOL:
        return accept->kind == CNP_TAKES_FUNCTION || accept->kind == CNP_TAKES_SYMBOL || accept->kind == CNP_TAKES_U64;
    case CNP_CELL:
        return accept->kind == CNP_TAKES_CELL || accept->kind == CNP_TAKES_SYMBOL || accept->kind == CNP_TAKES_U64;
    case CNP_TABLE:
        return accept->kind == CNP_TAKES_TABLE;
    }
    return false;
}

/* The value that a form would hold of an operand of a kind that it takes; a negative one for an unsigned word is its
   two's complement. */
static bool take(const struct accept *accept, unsigned kind, wide value, wide *taken)
{
    wide size = 0;
    *taken = value;
    switch (kind) {
    case CNP_SLOT:
    case CNP_HOME:
        return within(accept, value);
    case CNP_R:
    case CNP_F:
        return value >= 0 && value < 32 && accept->mask >> (unsigned)value & 1;
    case CNP_NUMBER:
    case CNP_WIDE:
    case CNP_UNSIGNED:
    case CNP_TABLED:
        if (accept->kind == CNP_TAKES_SYMBOL)
            size = (wide)1 << 64;
        else if (accept->kind == CNP_TAKES_U32 || accept->kind == CNP_TAKES_U64)
            size = (wide)1 << (accept->kind == CNP_TAKES_U32 ? 32 : 64);
        if (value < 0 && value >= -(size >> 1))
            *taken = value + size;
        return accept->kind == CNP_TAKES_SYMBOL || within(accept, *taken);
    }
    return true;
}

static bool is_register(unsigned kind) { return kind == CNP_R || kind == CNP_F; }
static bool is_number(unsigned kind) { return kind >= CNP_NUMBER && kind <= CNP_TABLED; }
static unsigned kind_of(uint32_t kinds, unsigned i) { return kinds >> 4 * i & 15; }

/* Whether the operands are equal and different where a form says so. */
static bool is_tied(const struct cnp_library *library, const struct form *form, const struct cnp_record *record)
{
    const struct cnp_ties *ties = form->ties;
    for (uint32_t k = 0; k < ties->same; k++) {
        const struct cnp_pair *p = &library->tables.pairs[ties->first_same + k];
        if (record->word[p->first] != record->word[p->second])
            return false;
    }
    for (uint32_t k = 0; k < ties->differ; k++) {
        const struct cnp_pair *p = &library->tables.pairs[ties->first_differ + k];
        unsigned kind = kind_of(record->kinds, p->first);
        if (is_register(kind) && kind == kind_of(record->kinds, p->second) && record->word[p->first] == record->word[p->second])
            return false;
    }
    return true;
}

/* The same of the kinds alone: operands that must be equal are both slots or registers of one bank. */
static bool may_be_tied(const struct cnp_library *library, const struct form *form, uint32_t kinds)
{
    for (uint32_t k = 0; k < form->ties->same; k++) {
        const struct cnp_pair *p = &library->tables.pairs[form->ties->first_same + k];
        unsigned kind = kind_of(kinds, p->first);
        if (kind != kind_of(kinds, p->second) || !(kind == CNP_SLOT || kind == CNP_HOME || is_register(kind)))
            return false;
    }
    return true;
}

static bool is_candidate(const struct cnp_library *library, const struct operation *op, const struct form *form,
                         uint32_t kinds)
{
    const uint8_t *data = row(&library->tables.forms, form->row, ROW_FORM);
    if (!library->tables.features[get16(data + 14)] || !may_be_tied(library, form, kinds))
        return false;
    for (unsigned i = 0; i < op->row->operands; i++)
        if (!takes_kind(&form->accepts[i], kind_of(kinds, i)))
            return false;
    return true;
}

/* ---- the table of a shape */

static const uint8_t LANES[4] = {0, 1, 2, 5}; /* the word of each lane */

/* The operand that a lane compares, -1: none, or none that decides anything. */
static int lane_operand(const struct operation *op, uint32_t kinds, unsigned lane)
{
    for (unsigned i = 0; i < op->row->operands; i++) {
        unsigned kind = kind_of(kinds, i);
        if (kind == CNP_WIDE ? lane == 3 : i == LANES[lane] && (kind <= CNP_NUMBER && kind != CNP_NONE))
            return (int)i;
    }
    return -1;
}

/* The values that the words low … high of a lane stand for, in the order of unsigned words. */
static void values_of(unsigned kind, uint32_t low, uint32_t high, wide *first, wide *last)
{
    if (kind == CNP_WIDE) {
        *first = (wide)(int32_t)low << 32, *last = ((wide)(int32_t)high << 32) + NONE;
    } else if (kind == CNP_NUMBER) {
        *first = (int32_t)low, *last = (int32_t)high;
    } else {
        *first = low, *last = high;
    }
}

enum fit { FITS_NOT, FITS, FITS_SOME };

/* Whether a form takes all values of an interval that lies on one side of 0, none, or some. low_bits: those of slots are 0. */
static enum fit fit_of(const struct accept *accept, unsigned kind, wide first, wide last, uint32_t low_bits)
{
    wide a, b;
    if (is_register(kind)) {
        uint32_t fits = 0, count = 0;
        for (wide v = first; v <= last && v < 32; v++)
            count++, fits += take(accept, kind, v, &a);
        return fits == 0 ? FITS_NOT : fits == count && last < 32 ? FITS : FITS_SOME;
    }
    struct accept every = *accept;
    if (kind == CNP_SLOT && !(accept->rest & ~(uint64_t)low_bits))
        every.rest = 0; /* none that comes here has other ones */
    if (every.rest)
        return FITS_SOME;
    bool low = take(&every, kind, first, &a), high = take(&every, kind, last, &b);
    if (accept->kind == CNP_TAKES_SYMBOL)
        return FITS;
    if (b - a != last - first) /* some are two's complements, some are not */
        return FITS_SOME;
    if (low && high)
        return FITS;
    return b < accept->low || a > accept->high ? FITS_NOT : FITS_SOME;
}

/* Where forms begin and end to take words of a lane: at most three of these bounds go into the shape. */
static void add_bound(uint32_t *bounds, unsigned *count, wide word)
{
    if (word <= 0 || word > NONE)
        return;
    unsigned at = 0;
    while (at < *count && bounds[at] < (uint32_t)word)
        at++;
    if ((at < *count && bounds[at] == (uint32_t)word) || *count == 3)
        return;
    memmove(&bounds[at + 1], &bounds[at], (*count - at) * sizeof *bounds);
    bounds[at] = (uint32_t)word, ++*count;
}

/* Whether a form takes numbers below 0. */
static bool takes_negative(const struct operation *op, const struct shape *shape, unsigned operand)
{
    bool takes = false;
    for (unsigned c = 0; c < shape->choices; c++) {
        const struct accept *accept = &op->forms[shape->choice[c].form].accepts[operand];
        takes |= accept->low < 0 || (accept->kind != CNP_TAKES_SIGNED && accept->kind != CNP_TAKES_UNSIGNED);
    }
    return takes;
}

/* limit: the last word that is not looked at more closely. */
static void find_bounds(const struct operation *op, const struct shape *shape, unsigned operand, unsigned kind,
                        uint32_t limit, uint32_t *bounds, unsigned *count)
{
    if (kind == CNP_NUMBER && limit == NONE)
        add_bound(bounds, count, (wide)1 << 31);
    if (kind == CNP_WIDE)
        add_bound(bounds, count, (wide)1 << 31), add_bound(bounds, count, 1), add_bound(bounds, count, NONE);
    for (unsigned c = 0; c < shape->choices && kind != CNP_WIDE; c++) {
        const struct accept *accept = &op->forms[shape->choice[c].form].accepts[operand];
        if (is_register(kind)) {
            for (unsigned r = 1; r < 32; r++)
                if ((accept->mask >> r & 1) != (accept->mask >> (r - 1) & 1))
                    add_bound(bounds, count, r);
        } else {
            add_bound(bounds, count, accept->low), add_bound(bounds, count, accept->high + 1);
            if (kind == CNP_NUMBER)
                add_bound(bounds, count, accept->low + ((wide)1 << 32));
        }
    }
}

/* The bits that are 0 in the slots that all forms take. */
static uint32_t low_bits(const struct operation *op, const struct shape *shape, unsigned operand)
{
    uint32_t bits = 0;
    for (unsigned c = 0; c < shape->choices; c++) {
        bits |= (uint32_t)op->forms[shape->choice[c].form].accepts[operand].rest;
    }
    return bits;
}

/* What each interval of a lane means for each form: bits of those that take it all, and of those that take some. */
struct interval {
    uint32_t takes[8], some[8];
    bool negative; /* wide numbers below 0 */
};

static void judge_lane(const struct operation *op, const struct shape *shape, int operand, unsigned lane, uint32_t limit,
                       const uint32_t *bounds, unsigned count, struct interval *intervals)
{
    for (unsigned k = 0; k <= count; k++) {
        uint32_t low = k ? bounds[k - 1] : 0, high = k < count ? bounds[k] - 1 : limit;
        intervals[k].negative = operand >= 0 && kind_of(shape->kinds, (unsigned)operand) == CNP_WIDE && low & TURN;
        for (unsigned c = 0; c < shape->choices; c++) {
            enum fit fit = FITS;
            if (operand >= 0) {
                unsigned kind = kind_of(shape->kinds, (unsigned)operand);
                wide first, last;
                values_of(kind, low, high, &first, &last);
                const struct accept *accept = &op->forms[shape->choice[c].form].accepts[operand];
                fit = low > high ? FITS_NOT : fit_of(accept, kind, first, last, shape->low[lane]);
            }
            intervals[k].takes[c / 32] |= (uint32_t)(fit == FITS) << c % 32;
            intervals[k].some[c / 32] |= (uint32_t)(fit == FITS_SOME) << c % 32;
        }
    }
}

/* Words lie behind none, the lowest, the two lowest … of their bounds: the bits of interval k. */
static unsigned interval_bits(unsigned k, unsigned lane)
{
    unsigned bits = 0;
    for (unsigned b = 0; b < k; b++)
        bits |= 1u << (4 * b + lane);
    return bits;
}

/* Which of the words 0, 1, 2 a tie compares, as a bit of a shape's pairs; 0: it compares others. */
static unsigned pair_bit(const struct cnp_pair *pair)
{
    unsigned a = pair->first, b = pair->second;
    return a > 2 || b > 2 || a == b ? 0 : a + b == 1 ? 1 : a + b == 3 ? 2 : 4;
}

/* Note which words the ties of a form compare. false: some that no table is for. */
static bool note_ties(const struct cnp_library *library, const struct cnp_ties *ties, struct shape *shape)
{
    bool known = true;
    for (uint32_t k = 0; k < ties->same + ties->differ; k++) {
        uint32_t at = k < ties->same ? ties->first_same + k : ties->first_differ + (k - ties->same);
        unsigned bit = pair_bit(&library->tables.pairs[at]);
        shape->pairs |= (uint8_t)bit, known &= bit != 0;
    }
    return known;
}

/* As is_tied, of words that are known only by which of them are equal. */
static bool is_tied_so(const struct cnp_library *library, const struct cnp_ties *ties, uint32_t kinds, unsigned equal)
{
    for (uint32_t k = 0; k < ties->same; k++)
        if (!(equal & pair_bit(&library->tables.pairs[ties->first_same + k])))
            return false;
    for (uint32_t k = 0; k < ties->differ; k++) {
        const struct cnp_pair *p = &library->tables.pairs[ties->first_differ + k];
        unsigned kind = kind_of(kinds, p->first);
        if (is_register(kind) && kind == kind_of(kinds, p->second) && equal & pair_bit(p))
            return false;
    }
    return true;
}

/* The table for some equal pairs of words, from what the intervals of the lanes mean. */
static void fill_table(const struct cnp_library *library, const struct operation *op, const struct shape *shape,
                       const struct interval lanes[4][4], const unsigned *counts, unsigned equal)
{
    uint32_t tied[8] = {0};
    for (unsigned c = 0; c < shape->choices; c++)
        tied[c / 32] |= (uint32_t)is_tied_so(library, op->forms[shape->choice[c].form].ties, shape->kinds, equal) << c % 32;
    for (unsigned code = 0; code < 256; code++) {
        unsigned k[4] = {code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6}, bits = 0;
        bool there = true;
        for (unsigned lane = 0; lane < 4; lane++)
            there &= k[lane] <= counts[lane], bits |= interval_bits(k[lane], lane);
        for (unsigned w = 0; there && w < 8; w++) {
            uint32_t takes = tied[w], some = tied[w];
            for (unsigned lane = 0; lane < 4; lane++) {
                const struct interval *interval = &lanes[lane][k[lane]];
                takes &= interval->takes[w], some &= interval->takes[w] | interval->some[w];
            }
            if (!some)
                continue;
            const unsigned first = (unsigned)__builtin_ctz(some); /* that may take them: if it is not sure to, the list is looked at */
            const unsigned closer = shape->choice[32 * w + first].closer;
            if (takes >> first & 1 && !(closer & (ALWAYS | (lanes[3][k[3]].negative ? NEGATIVE : 0))))
                shape->table[equal][bits] = (uint8_t)(32 * w + first);
            break;
        }
    }
}

static bool fill_tables(struct cnp_library *library, const struct operation *op, struct shape *shape, bool known)
{
    struct interval lanes[4][4];
    unsigned counts[4];
    bool unseen = !known; /* an operand that no lane sees may refuse a form */
    memset(lanes, 0, sizeof lanes);
    for (unsigned lane = 0; lane < 4; lane++) {
        int operand = lane_operand(op, shape->kinds, lane);
        unsigned kind = operand < 0 ? CNP_NONE : kind_of(shape->kinds, (unsigned)operand), count = 0;
        uint32_t bounds[4], limit = NONE;
        if (kind == CNP_SLOT)
            limit = INT32_MAX, shape->slots[4 + lane] = NONE, shape->low[lane] = low_bits(op, shape, (unsigned)operand);
        else if (is_register(kind))
            limit = (kind == CNP_R ? library->tables.r_count : library->tables.f_count) - 1;
        else if (kind == CNP_NUMBER && !takes_negative(op, shape, (unsigned)operand))
            limit = INT32_MAX;
        if (operand >= 0)
            find_bounds(op, shape, (unsigned)operand, kind, limit, bounds, &count);
        judge_lane(op, shape, operand, lane, limit, bounds, count, lanes[lane]);
        for (unsigned b = 0; b < 3; b++)
            shape->last[b][lane] = (b < count ? bounds[b] - 1 : NONE) ^ TURN;
        shape->last[3][lane] = kind == CNP_SLOT ? 0 : limit ^ TURN;
        counts[lane] = count;
    }
    for (unsigned i = 0; i < op->row->operands; i++) {
        unsigned kind = kind_of(shape->kinds, i), seen = 0;
        for (unsigned lane = 0; lane < 4; lane++)
            seen |= lane_operand(op, shape->kinds, lane) == (int)i;
        unseen |= !seen && (kind <= CNP_TABLED || kind == CNP_HOME);
    }
    for (unsigned equal = 0; equal < 8; equal++) {
        bool cannot_be = shape->pairs == 7 && (equal == 3 || equal == 5 || equal == 6); /* two equal pairs make a third */
        if (equal & ~shape->pairs || cannot_be)
            continue;
        shape->table[equal] = keep(library, PLACES);
        if (!shape->table[equal])
            return false;
        memset(shape->table[equal], SCAN, PLACES);
        if (!unseen)
            fill_table(library, op, shape, (const struct interval(*)[4])lanes, counts, equal);
    }
    return true;
}

/* ---- shapes */

/* A form as a choice. false: no memory. */
static bool describe(struct cnp_library *library, const struct operation *op, struct choice *choice, unsigned form,
                     uint32_t kinds)
{
    const struct form *f = &op->forms[form];
    struct variant *near = &op->variants[2 * form];
    if (!make_turns(library, near, f, &f->block[0][0]) || !make_turns(library, near + 1, f, &f->block[1][0]))
        return false;
    *choice = (struct choice){.near = near, .form = (uint16_t)form, .form_bits = (uint64_t)form << 16,
                              .sizes = near->size | (uint64_t)f->bound << 32 | (f->plain ? 0 : SPECIAL),
                              .jumps = f->plain && near->jump_from ? (uint64_t)1 << 63 : 0};
    unsigned always = 0, negative = 0;
    for (unsigned i = 0; i < op->row->operands; i++) {
        unsigned kind = kind_of(kinds, i), takes = f->accepts[i].kind;
        bool wraps = takes == CNP_TAKES_U32 || takes == CNP_TAKES_U64 || takes == CNP_TAKES_SYMBOL;
        always |= (kind == CNP_NUMBER || kind == CNP_TABLED) && (wraps || f->wide == i + 1);
        always |= kind == CNP_WIDE && wraps && takes != CNP_TAKES_U64;
        negative |= kind == CNP_WIDE && takes == CNP_TAKES_U64;
    }
    choice->adjust = always ? ALWAYS : negative ? NEGATIVE : 0;
    return true;
}

static int make_shape(struct cnp_library *library, uint32_t number, uint32_t kinds, struct cnp_evidence *evidence)
{
    const struct operation *op = operation_of(library, number);
    struct shape *shape = keep(library, sizeof *shape);
    if (!shape)
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    shape->kinds = kinds;
    for (unsigned i = 0; i < 8; i++) {
        unsigned kind = kind_of(kinds, i);
        if ((kind == CNP_NONE) != (i >= op->row->operands) || kind >= CNP_KINDS)
            return fail(evidence, CNP_BAD_OPERAND, (size_t)-1, 0);
        shape->things |= kind >= CNP_TABLED && kind != CNP_POSITION && kind != CNP_HOME;
        shape->homes |= library->homes && is_register(kind);
    }
    bool known = true;
    for (unsigned i = 0; i < op->row->forms; i++)
        if (is_candidate(library, op, &op->forms[i], kinds)) {
            if (shape->choices == CHOICES)
                return bad(evidence, "operations", 0); /* no operation has so many forms for one kind of operands */
            if (!describe(library, op, &shape->choice[shape->choices++], i, kinds))
                return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
            known &= note_ties(library, op->forms[i].ties, shape);
        }
    for (unsigned c = 0; c < shape->choices; c++) {
        struct choice *choice = &shape->choice[c];
        bool simple = !shape->things && !shape->homes && op->forms[choice->form].bound <= LARGEST;
        choice->closer = simple ? choice->adjust : ALWAYS;
    }
    if (!fill_tables(library, op, shape, known))
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    _Atomic(struct shape *) *end = &library->shapes[number];
    for (struct shape *last; (last = atomic_load_explicit(end, memory_order_relaxed));)
        end = &last->next;
    atomic_store_explicit(end, shape, memory_order_release); /* what programs use first, most of them use most */
    return CNP_OK;
}

/* The shape of these kinds of operands among those of an operation; NULL: it is not prepared. */
static inline const struct shape *shape_among(_Atomic(struct shape *) const *shapes, uint32_t kinds)
{
    const struct shape *shape = atomic_load_explicit(shapes, memory_order_acquire);
    while (shape && shape->kinds != kinds)
        shape = atomic_load_explicit(&shape->next, memory_order_acquire);
    return shape;
}

static const struct shape *shape_of(const struct cnp_library *library, uint32_t op, uint32_t kinds)
{
    return shape_among(&library->shapes[op], kinds);
}

int cnp_prepare(struct cnp_library *library, uint32_t op, uint32_t kinds, struct cnp_evidence *evidence)
{
    if (op >= library->tables.operations_count)
        return fail(evidence, CNP_NO_OPERATION, (size_t)-1, op);
    struct operation *operation = operation_of(library, op);
    if (!operation) {
        int status = read_operation(library, op, &operation, evidence);
        if (status)
            return status;
        atomic_store_explicit(&library->operations[op], operation, memory_order_release);
    }
    if (shape_of(library, op, kinds))
        return CNP_OK;
    int status = make_shape(library, op, kinds, evidence);
    if (status && evidence)
        evidence->op = op;
    return status;
}
