/* Copy and fill: the bytes of a settled image, each hole checked. The readable reference is cnp/patch.py. */

static void write_word(const struct cnp_library *library, uint8_t *to, uint64_t value)
{
    const bool big = library->tables.big_endian;
    for (unsigned i = 0; i < 8; i++)
        to[i] = (uint8_t)(value >> 8 * (big ? 7 - i : i));
}

/* ---- what holes are filled with */

static wide label_address(const struct cnp_program *p, uint32_t label)
{
    return (wide)address_of(p, (uint32_t)AT(p->labels, int64_t, label));
}

/* An operand as a number: itself, a slot's offset, a register's machine number, an address. */
static wide operand_number(const struct cnp_program *p, const struct cnp_record *record, unsigned i)
{
    const struct cnp_tables *t = &p->library->tables;
    const uint32_t word = (uint32_t)record->word[i];
    switch (kind_of(record->kinds, i)) {
    case CNP_R:
        return t->r[word].number;
    case CNP_F:
        return t->f[word].number;
    case CNP_POSITION:
        return (wide)address_of(p, word);
    case CNP_LABEL:
    case CNP_FUNCTION:
        return label_address(p, word);
    case CNP_SYMBOL:
        return AT(p->symbol_address, uint64_t, word);
    case CNP_CELL:
        return (wide)p->data_base + 8 * (wide)AT(p->cell_places, uint32_t, word);
    case CNP_TABLE:
        return (wide)p->base + AT(p->tables, struct table, word).address;
    }
    return operand_value(p, record, i);
}

/* The spec's S of hole `number` of a piece. */
static wide symbol_of(const struct cnp_program *p, uint32_t piece, uint32_t number, const struct hole *hole)
{
    const uint32_t op = piece < p->count ? piece : piece_at(p, piece)->op;
    const bool veneer = piece >= p->count && piece_at(p, piece)->kind == PIECE_VENEER;
    uint8_t outside = 0;
    uint64_t goal;
    if (veneer) {
        goal = piece_at(p, piece)->goal, outside = piece_at(p, piece)->outside;
        return outside ? (wide)goal : (wide)address_of(p, (uint32_t)goal);
    }
    switch (hole->what) {
    case CNP_WHAT_OPERAND:
        return operand_number(p, &p->records[op], hole->index);
    case CNP_WHAT_POSITION:
        return op;
    case CNP_WHAT_DATA:
        return (wide)p->base + AT(p->constants, struct constant, AT(p->constant_index, uint32_t, hole->index)).address;
    case CNP_WHAT_LITERAL: {
        struct literal literal;
        uint32_t key = literal_of(p, &p->records[op], hole->index, &literal);
        uint32_t found = look_up(&p->literal_map, literal.value.bits, key)->value;
        return (wide)p->base + AT(p->literals, struct literal, found).address;
    }
    }
    if (p->detours_used) {
        const struct entry *detour = look_up(&p->detours, piece, number);
        if (detour->used)
            return (wide)p->base + AT(p->veneers, struct piece, detour->value).address;
    }
    goal = goal_of(p, piece, hole, &outside);
    return outside ? (wide)goal : (wide)address_of(p, (uint32_t)goal);
}

static int refuse_hole(const struct cnp_program *p, uint32_t number, const struct hole *hole, wide value,
                       struct cnp_evidence *evidence)
{
    const struct cnp_field *field = &p->library->tables.fields[hole->field];
    const struct piece *piece = number < p->count ? NULL : piece_at(p, number);
    bool misaligned = value >= field->low && value <= (wide)field->high;
    enum cnp_status status = misaligned ? CNP_MISALIGNED : CNP_OUT_OF_RANGE;
    bool shared = piece && piece->kind >= PIECE_ROUTINE;
    size_t index = shared ? (size_t)-1 : piece ? piece->op : number;
    fail(evidence, status, index, shared ? piece->op : p->records[index].op);
    if (evidence) {
        evidence->block = piece ? piece->kind : 0, evidence->hole = hole->offset, evidence->field = hole->field;
        evidence->what = hole->what, evidence->what_index = hole->index, evidence->align = field->align;
        evidence->value = number_of(value), evidence->low = number_of(field->low);
        evidence->high = number_of((wide)field->high);
    }
    return status;
}

static int fill_hole(const struct cnp_program *p, uint32_t piece, uint32_t number, const struct hole *hole, uint8_t *code,
                     uint32_t start, struct cnp_evidence *evidence)
{
    const struct cnp_field *field = &p->library->tables.fields[hole->field];
    wide s = symbol_of(p, piece, number, hole);
    wide value = value_of(field, s, hole->addend, (wide)p->base + start + hole->place);
    bool fits = value >= field->low && value <= (wide)field->high;
    if (!fits || (field->align > 1 && value % field->align != 0))
        return refuse_hole(p, piece, hole, value, evidence);
    write_field(p->library, field, code + start + hole->offset, value);
    return CNP_OK;
}

/* The holes of a block but those in `handled`. */
static int fill_block(const struct cnp_program *p, uint32_t piece, const struct block *block, uint32_t keep,
                      uint32_t handled, uint8_t *code, uint32_t start, struct cnp_evidence *evidence)
{
    int status = CNP_OK;
    for (uint32_t i = 0; i < block->holes && !status; i++)
        if (block->hole[i].offset < keep && !(i < 32 && handled >> i & 1))
            status = fill_hole(p, piece, i, &block->hole[i], code, start, evidence);
    return status;
}

/* ---- operations */

/* Copy one operation and nothing behind it: where the buffer ends, and where its last jump stays. */
static void copy_exactly(const struct variant *v, const struct block *block, uint32_t keep,
                         const struct cnp_record *record, uint8_t *to)
{
    memcpy(to, block->code, keep);
    for (unsigned k = 0; k < v->turns; k++)
        for (unsigned i = 0; i < TURNED && i < keep; i++)
            to[i] ^= turned_by(v, k, record)[i];
    for (unsigned k = 0; k < FAST; k++)
        for (unsigned i = 0; i < 8; i++)
            if (v->mask[k] >> 8 * i & 0xFF)
                to[v->at[k] + i] = ((const uint8_t *)record)[v->from[k] + i];
}

static inline void store(const struct variant *v, unsigned k, const struct cnp_record *record, uint8_t *to)
{
    uint64_t word;
    memcpy(&word, (const uint8_t *)record + v->from[k], sizeof word);
    word = (word & v->mask[k]) | v->base[k];
    memcpy(to + v->at[k], &word, sizeof word);
}

/* The same, leaving what is there. */
static inline void store_among(const struct variant *v, unsigned k, const struct cnp_record *record, uint8_t *to)
{
    uint64_t word, there;
    memcpy(&word, (const uint8_t *)record + v->from[k], sizeof word);
    memcpy(&there, to + v->at[k], sizeof there);
    there = (word & v->mask[k]) | (there & ~v->mask[k]);
    memcpy(to + v->at[k], &there, sizeof there);
}

static inline void turn(uint64_t *words, const uint8_t *pattern)
{
    uint64_t turned[2];
    memcpy(turned, pattern, TURNED);
    words[0] ^= turned[0], words[1] ^= turned[1];
}

/* The same as copy_exactly with copies of a fixed size, which may go on behind it. */
INLINE void copy_quickly(const struct variant *v, const struct cnp_record *record, uint8_t *to)
{
    _Static_assert(FAST == 3 && TURNED == 16 && SHORT_CODE >= TURNED, "a store for each fast hole, a pattern for each register");
    if (!v->turns) {
        memcpy(to, v->code, SHORT_CODE);
        store(v, 0, record, to), store(v, 1, record, to), store(v, 2, record, to);
        return;
    }
    uint64_t words[2];
    memcpy(words, v->code, TURNED);
    turn(words, turned_by(v, 0, record)), turn(words, turned_by(v, 1, record)), turn(words, turned_by(v, 2, record));
    memcpy(to, words, TURNED);
    memcpy(to + TURNED, v->code + TURNED, SHORT_CODE - TURNED);
    store_among(v, 0, record, to), store_among(v, 1, record, to), store_among(v, 2, record, to);
}

#ifdef AVX2

AVX2 static uint32_t copy_ops_at_once(const struct cnp_program *p, uint32_t first, uint32_t end, uint8_t *code)
{
    const struct variant *const *const variants = p->variants;
    const struct cnp_record *record = p->records + first;
    const uint32_t *const offsets = p->offsets;
    size_t i = first;
    for (; i < end; i++, record++) {
        const struct variant *v = variants[i];
        __builtin_prefetch(record + PAGE_AHEAD); /* what fetches by itself stops at the end of a page */
        if (LIKELY(v->spreads))
            fill_at_once(v, record, code + offsets[i]);
        else if (LIKELY(v->quick))
            turn_at_once(v, record, code + offsets[i]);
        else
            break;
    }
    return (uint32_t)i;
}

#endif

/* Operations whose copy may go on behind them, until one has holes of another kind; the first that was not written. */
static uint32_t copy_ops(const struct cnp_program *p, uint32_t first, uint32_t end, uint8_t *code)
{
#ifdef AVX2
    if (p->library->avx2)
        return copy_ops_at_once(p, first, end, code);
#endif
    const struct variant *const *variant = p->variants + first;
    const struct cnp_record *record = p->records + first, *const last = p->records + end;
    const uint32_t *offset = p->offsets + first;
    for (; record < last && (*variant)->quick; record++)
        copy_quickly(*variant++, record, code + *offset++);
    return (uint32_t)(record - p->records);
}

/* A block of operations but what their plain jumps hold. last: the last one of the chunk; roomy: the first one behind which
   there is no room for more than it has. */
static int write_block(const struct cnp_program *p, uint32_t first, uint32_t end, uint32_t roomy, uint32_t last,
                       uint8_t *code, struct cnp_evidence *evidence)
{
    const uint32_t *offsets = p->offsets, quick = roomy < end ? roomy : end;
    int status = CNP_OK;
    for (uint32_t i = copy_ops(p, first, quick, code); i < end && !status; i = copy_ops(p, i + 1, quick, code)) {
        const struct variant *v = p->variants[i];
        const struct block *block = block_of(p, i);
        if (i < roomy && v->size <= SHORT_CODE) {
            copy_quickly(v, &p->records[i], code + offsets[i]);
            status = fill_block(p, i, block, v->size, v->handled, code, offsets[i], evidence);
        } else {
            uint32_t keep = kept(block, i < last);
            copy_exactly(v, block, keep, &p->records[i], code + offsets[i]);
            if (v->rest || keep > v->size)
                status = fill_block(p, i, block, keep, v->handled, code, offsets[i], evidence);
        }
    }
    return status;
}

static const struct hole *target_hole(const struct block *block, uint32_t *number)
{
    for (uint32_t i = 0; i < block->holes; i++)
        if (block->hole[i].what == CNP_WHAT_TARGET)
            return *number = i, &block->hole[i];
    return NULL;
}

/* A jump that is not a plain one after all: it goes by way of a veneer, or does not reach. */
static int write_jump(const struct cnp_program *p, uint32_t op, uint8_t *code, struct cnp_evidence *evidence)
{
    uint32_t number = 0;
    const struct hole *hole = target_hole(block_of(p, op), &number);
    return fill_hole(p, op, number, hole, code, p->offsets[op], evidence);
}

/* Fill in one that is: what is behind a short one stays. */
static inline void store_jump(const struct variant *v, uint8_t *to, size_t room, uint32_t value)
{
    uint32_t word;
    if (LIKELY(room >= sizeof word)) {
        memcpy(&word, to, sizeof word);
        word = (word & ~v->jump_mask) | (value & v->jump_mask);
        memcpy(to, &word, sizeof word);
    } else {
        for (unsigned i = 0; i < v->jump_size; i++)
            to[i] = (uint8_t)(value >> 8 * i);
    }
}

/* The plain jumps of the operations before `op`. next: the first one, and then the first one behind them. */
static int write_jumps(const struct cnp_program *p, const struct jump **next, uint32_t op, uint8_t *code, size_t size,
                       struct cnp_evidence *evidence)
{
    const struct jump *jump = *next;
    const uint32_t *const offsets = p->offsets;
    const bool detours = p->detours_used != 0;
    int status = CNP_OK;
    for (; jump->op < op && !status; jump++) {
        fetch_goal(jump, offsets);
        const struct variant *v = p->variants[jump->op];
        const uint32_t start = offsets[jump->op], at = start + v->jump_at;
        const int64_t value = (int64_t)offsets[jump->goal] - start + v->jump_add;
        if (LIKELY(!detours && (uint64_t)(value + (v->jump_mask >> 1) + 1) <= v->jump_mask))
            store_jump(v, code + at, size - at, (uint32_t)value);
        else if (v->jump_size)
            status = write_jump(p, jump->op, code, evidence);
    }
    *next = jump;
    return status;
}

/* The operations of a chunk, a block and then its jumps, while it is at hand. jump: the first one of the chunk, and then
   the first one behind it. */
static int write_ops(const struct cnp_program *p, const struct cluster *chunk, const struct jump **jump, uint8_t *code,
                     size_t size, struct cnp_evidence *evidence)
{
    const uint32_t last = chunk[1].hot - 1;
    uint32_t roomy = last;
    while (roomy > chunk->hot && size - p->offsets[roomy - 1] < SLACK)
        roomy--;
    int status = CNP_OK;
    for (uint32_t first = chunk->hot, end; first <= last && !status; first = end) {
        end = last - first < BLOCK ? last + 1 : first + BLOCK;
        status = write_block(p, first, end, roomy, last, code, evidence);
        if (!status)
            status = write_jumps(p, jump, end, code, size, evidence);
    }
    return status;
}

/* ---- everything else */

static void fill(uint8_t *code, uint32_t from, uint32_t to, const uint8_t *pattern, uint32_t size, uint32_t phase)
{
    for (uint32_t i = from; i < to; i++)
        code[i] = pattern[(i - phase) % size];
}

/* Code that traps in what nobody uses, and code that does nothing where control goes on over a gap. */
static void fill_gap(const struct cnp_program *p, uint8_t *code, uint32_t from, uint32_t to, bool passed)
{
    const struct cnp_tables *t = &p->library->tables;
    if (from >= to)
        return;
    fill(code, from, to, t->trap, t->trap_size, 0);
    if (passed)
        fill(code, from, from + (to - from) / t->nop_size * t->nop_size, t->nop, t->nop_size, from);
}

static int write_pieces(const struct cnp_program *p, const struct list *list, size_t first, size_t end, uint32_t number,
                        uint8_t *code, uint32_t *done, struct cnp_evidence *evidence)
{
    int status = CNP_OK;
    for (size_t i = first; i < end && !status; i++) {
        const struct piece *piece = &AT(*list, struct piece, i);
        fill_gap(p, code, *done, piece->address, false);
        memcpy(code + piece->address, piece->block->code, piece->block->size);
        status = fill_block(p, number + (uint32_t)i, piece->block, NONE, 0, code, piece->address, evidence);
        *done = piece->address + piece->block->size;
    }
    return status;
}

static void fill_hot_gaps(const struct cnp_program *p, const struct cluster *chunk, uint8_t *code, uint32_t *done)
{
    for (uint32_t i = chunk->hot; i < chunk[1].hot; i++) {
        fill_gap(p, code, *done, p->offsets[i], i > chunk->hot);
        *done = p->offsets[i] + kept(block_of(p, i), i + 1 < chunk[1].hot);
    }
}

static int write_chunk(const struct cnp_program *p, size_t number, uint8_t *code, uint32_t *done,
                       struct cnp_evidence *evidence)
{
    const struct cluster *chunk = &AT(p->chunks, struct cluster, number);
    const uint32_t cold = (uint32_t)p->count, stubs = cold + (uint32_t)p->cold.count;
    const uint32_t routines = stubs + (uint32_t)p->stubs.count, veneers = routines + (uint32_t)p->routines.count;
    int status = CNP_OK;
    if (number + 1 == p->chunks.count) {
        status = write_pieces(p, &p->routines, 0, p->routines.count, routines, code, done, evidence);
    } else {
        if (p->fast)
            *done = p->offsets[p->count];
        else
            fill_hot_gaps(p, chunk, code, done);
        status = write_pieces(p, &p->cold, chunk->cold, chunk[1].cold, cold, code, done, evidence);
        if (!status)
            status = write_pieces(p, &p->stubs, chunk->stub, chunk[1].stub, stubs, code, done, evidence);
    }
    for (uint32_t v = chunk->veneer; v != NONE && !status; v = AT(p->veneers, struct piece, v).next)
        status = write_pieces(p, &p->veneers, v, v + 1u, veneers, code, done, evidence);
    return status;
}

static void write_data(const struct cnp_program *p, uint8_t *code, uint32_t done)
{
    const struct cnp_tables *t = &p->library->tables;
    fill_gap(p, code, done, p->end, false);
    for (size_t i = 0; i < p->constants.count; i++) {
        const struct constant *constant = &AT(p->constants, struct constant, i);
        const struct cnp_constant *row = &t->constants[constant->index];
        memcpy(code + constant->address, (const uint8_t *)t->code.data + row->start, row->size);
    }
    for (size_t i = 0; i < p->literals.count; i++) {
        const struct literal *literal = &AT(p->literals, struct literal, i);
        struct cnp_record named = {.kinds = literal->kind, .word = {(int32_t)literal->value.bits}};
        wide value = is_number(literal->kind) ? wide_of(literal->value) : operand_number(p, &named, 0);
        write_word(p->library, code + literal->address, (uint64_t)value);
    }
    for (size_t i = 0; i < p->used_tables.count; i++) {
        const struct table *table = &AT(p->tables, struct table, AT(p->used_tables, uint32_t, i));
        for (uint32_t k = 0; k < table->count; k++) {
            uint32_t label = AT(p->table_labels, uint32_t, table->first + k);
            write_word(p->library, code + table->address + 8 * k, (uint64_t)label_address(p, label));
        }
    }
}

/* Places where numbers may stand: the fast holes were filled with what numbers the record has for them. */
static int write_addresses(const struct cnp_program *p, uint8_t *code, struct cnp_evidence *evidence)
{
    int status = CNP_OK;
    for (size_t k = 0; k < p->specials.count && !status; k++) {
        const uint32_t op = AT(p->specials, uint32_t, k);
        const struct block *block = block_of(p, op);
        for (uint32_t i = 0; i < block->holes && !status; i++) {
            const struct hole *hole = &block->hole[i];
            unsigned kind = hole->what == CNP_WHAT_OPERAND ? kind_of(p->records[op].kinds, hole->index) : CNP_NONE;
            if (kind >= CNP_LABEL && kind <= CNP_CELL && hole->offset < kept_of(p, op))
                status = fill_hole(p, op, i, hole, code, p->offsets[op], evidence);
        }
    }
    return status;
}

int cnp_write(struct cnp_program *p, void *code, size_t size, void *data, size_t data_size, struct cnp_evidence *evidence)
{
    if (!p->settled)
        return fail(evidence, CNP_WRONG_TIME, (size_t)-1, 0);
    if (size < p->end || data_size < 8 * (size_t)p->cells_used)
        return fail(evidence, CNP_NO_SPACE, (size_t)-1, 0);
    int status = CNP_OK;
    uint32_t done = 0;
    const struct jump *jump = p->jumps.data;
    for (size_t c = 0; c + 1 < p->chunks.count && !status; c++)
        if (AT(p->chunks, struct cluster, c).hot < AT(p->chunks, struct cluster, c + 1).hot)
            status = write_ops(p, &AT(p->chunks, struct cluster, c), &jump, code, p->end, evidence);
    for (size_t c = 0; c < p->chunks.count && !status; c++)
        status = write_chunk(p, c, code, &done, evidence);
    if (!status)
        status = write_addresses(p, code, evidence);
    if (status)
        return status;
    write_data(p, code, done);
    for (size_t i = 0; i < p->cells.count; i++) {
        uint32_t place = AT(p->cell_places, uint32_t, i);
        if (place != NONE)
            write_word(p->library, (uint8_t *)data + 8 * (size_t)place, AT(p->cells, uint64_t, i));
    }
    return CNP_OK;
}

/* ---- where things lie */

const uint32_t *cnp_offsets(const struct cnp_program *p) { return p->offsets; }

uint64_t cnp_routine_address(const struct cnp_program *p, uint32_t routine)
{
    if (!p->settled || routine >= p->library->tables.routines_count || AT(p->routine_index, uint32_t, routine) == NONE)
        return 0;
    return p->base + AT(p->routines, struct piece, AT(p->routine_index, uint32_t, routine)).address;
}

int64_t cnp_cell_place(const struct cnp_program *p, uint32_t cell)
{
    bool used = p->planned && cell < p->cells.count && AT(p->cell_places, uint32_t, cell) != NONE;
    return used ? 8 * (int64_t)AT(p->cell_places, uint32_t, cell) : -1;
}

size_t cnp_blocks(const struct cnp_program *p)
{
    return p->settled ? p->count + p->cold.count + p->stubs.count + p->routines.count + p->veneers.count : 0;
}

int cnp_is_dense(const struct cnp_program *p) { return p->settled && p->fast; }

struct cnp_block cnp_block_at(const struct cnp_program *p, size_t number)
{
    uint32_t piece = (uint32_t)number, start = (uint32_t)(address_of(p, piece) - p->base);
    if (number < p->count)
        return (struct cnp_block){start, start + kept_of(p, piece), (int64_t)number};
    const struct piece *found = piece_at(p, piece);
    return (struct cnp_block){start, start + found->block->size, found->kind >= PIECE_ROUTINE ? -1 : (int64_t)found->op};
}
