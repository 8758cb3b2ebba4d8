/* Which form takes the operands of a record: the first one that does. A shape is made once for each combination of kinds
   that an operation is used with; then a choice is a few comparisons and a look into its table. */

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

/* ---- what one operand of a form takes */

static inline bool within(const struct accept *accept, wide value)
{
    return value >= accept->low && value <= accept->high && (accept->align == 1 || value % accept->align == 0);
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

/* Whether a form takes all values of an interval that lies on one side of 0, none, or some. */
static enum fit fit_of(const struct accept *accept, unsigned kind, wide first, wide last)
{
    wide a, b;
    if (is_register(kind)) {
        uint32_t fits = 0, count = 0;
        for (wide v = first; v <= last && v < 32; v++)
            count++, fits += take(accept, kind, v, &a);
        return fits == 0 ? FITS_NOT : fits == count && last < 32 ? FITS : FITS_SOME;
    }
    if (accept->align != 1)
        return FITS_SOME;
    bool low = take(accept, kind, first, &a), high = take(accept, kind, last, &b);
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

static void find_bounds(const struct operation *op, const struct shape *shape, unsigned operand, unsigned kind,
                        uint32_t *bounds, unsigned *count)
{
    if (kind == CNP_NUMBER)
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

/* What each interval of a lane means for each form: bits of those that take it all, and of those that take some. */
struct interval { uint32_t takes[8], some[8]; };

static void judge_lane(const struct operation *op, const struct shape *shape, int operand, unsigned lane,
                       const uint32_t *bounds, unsigned count, struct interval *intervals)
{
    for (unsigned k = 0; k <= count; k++) {
        uint32_t low = k ? bounds[k - 1] : 0, high = k < count ? bounds[k] - 1 : shape->limit[lane];
        for (unsigned c = 0; c < shape->choices; c++) {
            enum fit fit = FITS;
            if (operand >= 0) {
                unsigned kind = kind_of(shape->kinds, (unsigned)operand);
                wide first, last;
                values_of(kind, low, high, &first, &last);
                fit = low > high ? FITS_NOT : fit_of(&op->forms[shape->choice[c].form].accepts[operand], kind, first, last);
            }
            intervals[k].takes[c / 32] |= (uint32_t)(fit == FITS) << c % 32;
            intervals[k].some[c / 32] |= (uint32_t)(fit == FITS_SOME) << c % 32;
        }
    }
}

/* Words are greater than none, the lowest, the two lowest … of their bounds: the bits of interval k. */
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
    return a + b > 3 || a > 2 || b > 2 || a == b ? 0 : 1u << (a + b - 1);
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

/* The table for what is equal among the words of a record. */
static inline const uint8_t *table_of(const struct shape *shape, const uint8_t *words_at)
{
    int32_t w[3];
    memcpy(w, words_at, sizeof w);
    unsigned equal = (unsigned)(w[0] == w[1]) | (unsigned)(w[0] == w[2]) << 1 | (unsigned)(w[1] == w[2]) << 2;
    return shape->table[equal & shape->pairs];
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
            uint32_t first = some & -some; /* the first that may take them: if it is not sure to, the list is looked at */
            if (takes & first)
                shape->table[equal][bits] = (uint8_t)(32 * w + (unsigned)__builtin_ctz(first));
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
        uint32_t bounds[4];
        shape->limit[lane] = NONE;
        if (kind == CNP_SLOT)
            shape->limit[lane] = INT32_MAX, shape->slots[lane] = NONE;
        else if (is_register(kind))
            shape->limit[lane] = (kind == CNP_R ? library->tables.r_count : library->tables.f_count) - 1;
        if (operand >= 0)
            find_bounds(op, shape, (unsigned)operand, kind, bounds, &count);
        judge_lane(op, shape, operand, lane, bounds, count, lanes[lane]);
        for (unsigned b = 0; b < 3; b++)
            shape->bound[b][lane] = b < count ? bounds[b] - 1 : NONE;
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

static void describe(const struct operation *op, struct choice *choice, unsigned form, uint32_t kinds)
{
    const struct form *f = &op->forms[form];
    *choice = (struct choice){.form = (uint16_t)form, .plain = f->plain, .size = op->variants[2 * form].size,
                              .bound = f->bound};
    for (uint32_t i = 0; i < f->block[0][0].holes && f->plain; i++)
        if (f->block[0][0].hole[i].what == CNP_WHAT_TARGET)
            choice->jump = (uint8_t)(f->block[0][0].hole[i].index + 1);
    unsigned always = 0, negative = 0;
    for (unsigned i = 0; i < op->row->operands; i++) {
        unsigned kind = kind_of(kinds, i), takes = f->accepts[i].kind;
        bool wraps = takes == CNP_TAKES_U32 || takes == CNP_TAKES_U64 || takes == CNP_TAKES_SYMBOL;
        always |= (kind == CNP_NUMBER || kind == CNP_TABLED) && (wraps || f->wide == i + 1);
        always |= kind == CNP_WIDE && wraps && takes != CNP_TAKES_U64;
        negative |= kind == CNP_WIDE && takes == CNP_TAKES_U64;
    }
    choice->adjust = always ? ADJUST : negative ? ADJUST_NEGATIVE : 0;
}

static int make_shape(struct cnp_library *library, struct operation *op, uint32_t kinds, struct cnp_evidence *evidence)
{
    struct shape *shape = keep(library, sizeof *shape);
    if (!shape)
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    shape->kinds = kinds, shape->operands = op->row->operands;
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
            describe(op, &shape->choice[shape->choices++], i, kinds);
            known &= note_ties(library, op->forms[i].ties, shape);
        }
    if (!fill_tables(library, op, shape, known))
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    shape->next = atomic_load_explicit(&op->shapes, memory_order_relaxed);
    atomic_store_explicit(&op->shapes, shape, memory_order_release);
    return CNP_OK;
}

static inline const struct shape *shape_of(const struct operation *op, uint32_t kinds)
{
    const struct shape *shape = atomic_load_explicit(&op->shapes, memory_order_acquire);
    while (shape && shape->kinds != kinds)
        shape = shape->next;
    return shape;
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
    if (shape_of(operation, kinds))
        return CNP_OK;
    int status = make_shape(library, operation, kinds, evidence);
    if (status && evidence)
        evidence->op = op;
    return status;
}

/* ---- one choice */

/* The twelve bits of a record's place in the table of its shape, and four that must be 0. words_at: those of the record where
   it was given: what has just been stored in pieces is slow to load in others. */
static inline unsigned place_of(const struct shape *shape, const uint8_t *words_at, uint32_t limit)
{
#if defined(__SSE2__)
    const __m128i turn = _mm_set1_epi32(INT32_MIN); /* unsigned words in the order of signed ones */
    __m128i a = _mm_loadu_si128((const __m128i *)(const void *)words_at);
    __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(words_at + 8)), c = _mm_unpackhi_epi32(a, b);
    __m128i words = _mm_castps_si128(_mm_shuffle_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(c), _MM_SHUFFLE(3, 0, 1, 0)));
    words = _mm_xor_si128(words, turn);
#define BOUND(n) _mm_cmpgt_epi32(words, _mm_xor_si128(turn, _mm_loadu_si128((const __m128i *)(const void *)shape->bound[n])))
    __m128i frame = _mm_loadu_si128((const __m128i *)(const void *)shape->slots);
    __m128i last = _mm_loadu_si128((const __m128i *)(const void *)shape->limit);
    last = _mm_or_si128(_mm_andnot_si128(frame, last), _mm_and_si128(frame, _mm_set1_epi32((int32_t)limit)));
    __m128i over = _mm_cmpgt_epi32(words, _mm_xor_si128(turn, last));
    __m128i low = _mm_packs_epi32(BOUND(0), BOUND(1)), high = _mm_packs_epi32(BOUND(2), over);
#undef BOUND
    return (unsigned)_mm_movemask_epi8(_mm_packs_epi16(low, high));
#else
    unsigned bits = 0;
    uint32_t words[6];
    memcpy(words, words_at, sizeof words);
    for (unsigned lane = 0; lane < 4; lane++) {
        uint32_t word = words[LANES[lane]], last = shape->slots[lane] ? limit : shape->limit[lane];
        for (unsigned b = 0; b < 3; b++)
            bits |= (unsigned)(word > shape->bound[b][lane]) << (4 * b + lane);
        bits |= (unsigned)(word > last) << (12 + lane);
    }
    return bits;
#endif
}

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
