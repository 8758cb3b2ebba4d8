/* From addresses to lengths and back, until nothing changes: variants and veneers, as in cnp/plan.py.

   Pieces have numbers: hot ones those of their operations, then cold ones, stubs, routines and veneers, each in the order
   in which they lie. */

struct exit {
    uint64_t goal; /* a piece, or an address outside */
    const struct hole *hole;
    uint32_t piece, number;
    uint8_t outside;
};

static struct piece *piece_at(const struct cnp_program *p, uint32_t number)
{
    size_t n = number - p->count;
    if (n < p->cold.count)
        return &AT(p->cold, struct piece, n);
    n -= p->cold.count;
    if (n < p->stubs.count)
        return &AT(p->stubs, struct piece, n);
    n -= p->stubs.count;
    if (n < p->routines.count)
        return &AT(p->routines, struct piece, n);
    return &AT(p->veneers, struct piece, n - p->routines.count);
}

static uint64_t address_of(const struct cnp_program *p, uint32_t number)
{
    return p->base + (number < p->count ? p->offsets[number] : piece_at(p, number)->address);
}

static uint32_t chunk_of(const struct cnp_program *p, uint32_t number)
{
    if (number >= p->count)
        return piece_at(p, number)->chunk;
    size_t low = 0, high = p->chunks.count - 1; /* the last one is that of the routines */
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (AT(p->chunks, struct cluster, middle).hot <= number)
            low = middle;
        else
            high = middle;
    }
    return (uint32_t)low;
}

/* Whether an operation takes its far variant. */
static bool is_far(const struct cnp_program *p, uint32_t op)
{
    const struct cnp_record *record = &p->records[op];
    return p->variants[op] != &operation_of(p->library, record->op)->variants[2 * record->form];
}

static const struct block *block_of(const struct cnp_program *p, uint32_t number)
{
    if (number >= p->count)
        return piece_at(p, number)->block;
    return &form_of(p, number)->block[is_far(p, number)][0];
}

/* Bytes of a hot block: without the jump to the next operation where that follows in the same chunk. */
static uint32_t kept(const struct block *block, bool falls) { return block->size - (falls ? block->tail : 0); }

static bool falls(const struct cnp_program *p, uint32_t op, const struct cluster *chunk)
{
    (void)p;
    return op + 1 < chunk[1].hot;
}

/* The pieces of an operation in a list that is in the order of operations. */
static uint32_t first_of(const struct list *list, uint32_t op)
{
    size_t low = 0, high = list->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (AT(*list, struct piece, middle).op < op)
            low = middle + 1;
        else
            high = middle;
    }
    return (uint32_t)low;
}

/* ---- addresses */

static int place_piece(struct cnp_program *p, const struct block *block, uint32_t keep, uint64_t *address, uint32_t *at)
{
    *address = up(*address, block->align);
    if (*address - p->base > NONE - keep)
        return CNP_TOO_LARGE;
    *at = (uint32_t)(*address - p->base);
    *address += keep;
    return CNP_OK;
}

static int place_list(struct cnp_program *p, struct list *list, size_t first, size_t end, uint64_t *address)
{
    int status = CNP_OK;
    for (size_t i = first; i < end && !status; i++) {
        struct piece *piece = &AT(*list, struct piece, i);
        status = place_piece(p, piece->block, piece->block->size, address, &piece->address);
    }
    return status;
}

static int place_chunk(struct cnp_program *p, size_t number, uint64_t *address)
{
    struct cluster *chunk = &AT(p->chunks, struct cluster, number);
    const bool last = number + 1 == p->chunks.count;
    int status = CNP_OK;
    if (p->library->regions && *address / REGION != (*address + chunk->bound) / REGION)
        *address = up(*address, REGION);
    if (*address - p->base > NONE)
        return CNP_TOO_LARGE;
    chunk->address = (uint32_t)(*address - p->base);
    if (!last) {
        const uint32_t end = chunk[1].hot;
        for (uint32_t i = chunk->hot; i < end && !status; i++) {
            const struct block *block = block_of(p, i);
            status = place_piece(p, block, kept(block, i + 1 < end), address, &p->offsets[i]);
        }
        if (!status && end == p->count)
            p->offsets[p->count] = (uint32_t)(*address - p->base);
        if (!status)
            status = place_list(p, &p->cold, chunk->cold, chunk[1].cold, address);
        if (!status)
            status = place_list(p, &p->stubs, chunk->stub, chunk[1].stub, address);
    } else {
        status = place_list(p, &p->routines, 0, p->routines.count, address);
    }
    for (uint32_t v = chunk->veneer; v != NONE && !status; v = AT(p->veneers, struct piece, v).next)
        status = place_list(p, &p->veneers, v, v + 1u, address);
    return status;
}

static uint64_t place_data(struct cnp_program *p, uint64_t address)
{
    const struct cnp_tables *t = &p->library->tables;
    for (uint32_t align = 1u << MOST_ALIGN; align; align >>= 1)
        for (size_t i = 0; i < p->constants.count; i++) {
            struct constant *constant = &AT(p->constants, struct constant, i);
            const struct cnp_constant *row = &t->constants[constant->index];
            if (row->align != align)
                continue;
            address = up(address, align);
            constant->address = (uint32_t)(address - p->base);
            address += row->size;
        }
    address = up(address, 8);
    for (size_t i = 0; i < p->literals.count; i++, address += 8)
        AT(p->literals, struct literal, i).address = (uint32_t)(address - p->base);
    for (size_t i = 0; i < p->used_tables.count; i++) {
        struct table *table = &AT(p->tables, struct table, AT(p->used_tables, uint32_t, i));
        table->address = (uint32_t)(address - p->base);
        address += 8 * (uint64_t)table->count;
    }
    return address;
}

/* Everything, under the present choice of variants and veneers. */
static int place_all(struct cnp_program *p)
{
    uint64_t address = p->base;
    int status = CNP_OK;
    for (size_t i = 0; i < p->chunks.count && !status; i++)
        status = place_chunk(p, i, &address);
    if (status)
        return status;
    address = place_data(p, address) - p->base;
    p->end = (uint32_t)address;
    return address > NONE ? CNP_TOO_LARGE : CNP_OK;
}

/* ---- what does not reach */

/* Where a hole that means a place in code goes: a piece, or an address outside. */
static uint64_t goal_of(const struct cnp_program *p, uint32_t number, const struct hole *hole, uint8_t *outside)
{
    const uint32_t op = number < p->count ? number : piece_at(p, number)->op;
    const uint32_t first = (uint32_t)p->count, stubs = first + (uint32_t)p->cold.count;
    *outside = 0;
    switch (hole->what) {
    case CNP_WHAT_TARGET: {
        const struct cnp_record *record = &p->records[op];
        unsigned kind = kind_of(record->kinds, hole->index);
        uint32_t word = (uint32_t)record->word[hole->index];
        if (kind == CNP_POSITION)
            return word;
        if (kind != CNP_SYMBOL)
            return (uint64_t)AT(p->labels, int64_t, word);
        *outside = 1;
        return AT(p->symbol_address, uint64_t, word);
    }
    case CNP_WHAT_NEXT:
        return op + 1;
    case CNP_WHAT_BLOCK:
        return hole->index ? first + first_of(&p->cold, op) : op;
    case CNP_WHAT_LEAVE: {
        uint32_t at = first_of(&p->stubs, op);
        while (AT(p->stubs, struct piece, at).next != hole->index)
            at++;
        return stubs + at;
    }
    case CNP_WHAT_ROUTINE:
        return stubs + p->stubs.count + AT(p->routine_index, uint32_t, hole->index);
    }
    *outside = 1;
    return AT(p->import_address, uint64_t, hole->index);
}

static wide value_of(const struct cnp_field *field, wide s, wide a, wide place)
{
    switch (field->formula) {
    case CNP_ABSOLUTE:
        return s + a;
    case CNP_RELATIVE:
        return s + a - place;
    case CNP_REGION:
        return s + a - ((place + 4) & -(wide)REGION);
    case CNP_NEGATED:
        return -(s + a);
    }
    return ((s + a) & ~(wide)0xFFF) - (place & ~(wide)0xFFF);
}

static bool misses(const struct cnp_program *p, const struct exit *exit, wide margin)
{
    const struct cnp_field *field = &p->library->tables.fields[exit->hole->field];
    wide s = exit->outside ? (wide)exit->goal : (wide)address_of(p, (uint32_t)exit->goal);
    wide value = value_of(field, s, exit->hole->addend, (wide)address_of(p, exit->piece) + exit->hole->place);
    return value < field->low + margin || value > (wide)field->high - margin;
}

/* The jumps of a piece that may miss, behind those that there are. */
static int add_exits(struct cnp_program *p, struct list *exits, uint32_t number, uint32_t keep)
{
    const struct block *block = block_of(p, number);
    for (uint32_t i = 0; i < block->holes; i++) {
        const struct hole *hole = &block->hole[i];
        const struct cnp_field *field = &p->library->tables.fields[hole->field];
        bool leaves = hole->what == CNP_WHAT_TARGET || hole->what == CNP_WHAT_IMPORT, spans = reaches_all(p, field);
        if (!field->jump || hole->offset >= keep || (spans && !leaves))
            continue;
        struct exit exit = {.hole = hole, .piece = number, .number = i};
        exit.goal = goal_of(p, number, hole, &exit.outside);
        if (spans && !exit.outside)
            continue;
        int status = add(p, exits, &exit, sizeof exit, NULL);
        if (status)
            return status;
    }
    return CNP_OK;
}

static uint32_t kept_of(const struct cnp_program *p, uint32_t number)
{
    const struct block *block = block_of(p, number);
    if (number >= p->count)
        return block->size;
    return kept(block, falls(p, number, &AT(p->chunks, struct cluster, chunk_of(p, number))));
}

static int all_exits(struct cnp_program *p)
{
    const uint32_t cold = (uint32_t)p->count, stubs = cold + (uint32_t)p->cold.count;
    const uint32_t routines = stubs + (uint32_t)p->stubs.count;
    int status = CNP_OK;
    p->exits.count = 0;
    for (size_t c = 0; c + 1 < p->chunks.count; c++) {
        const struct cluster *chunk = &AT(p->chunks, struct cluster, c);
        for (uint32_t i = chunk->hot; i < chunk[1].hot && !status; i++)
            status = add_exits(p, &p->exits, i, kept(block_of(p, i), falls(p, i, chunk)));
        for (uint32_t i = chunk->cold; i < chunk[1].cold && !status; i++)
            status = add_exits(p, &p->exits, cold + i, NONE);
        for (uint32_t i = chunk->stub; i < chunk[1].stub && !status; i++)
            status = add_exits(p, &p->exits, stubs + i, NONE);
    }
    for (uint32_t i = 0; i < p->routines.count && !status; i++)
        status = add_exits(p, &p->exits, routines + i, NONE);
    return status;
}

/* The far variant of the operation of a piece, if it has one that is not taken yet. */
static bool take_far(struct cnp_program *p, uint32_t number)
{
    if (number >= p->count && piece_at(p, number)->kind != PIECE_COLD)
        return false;
    uint32_t op = number < p->count ? number : piece_at(p, number)->op;
    const struct form *form = form_of(p, op);
    if (!form->far || is_far(p, op))
        return false;
    p->variants[op]++;
    if (form->blocks > 1)
        AT(p->cold, struct piece, first_of(&p->cold, op)).block = &form->block[1][1];
    return true;
}

/* A veneer for a jump; taken: false for one within its chunk, which no veneer helps. */
static int take_veneer(struct cnp_program *p, const struct exit *exit, bool *taken)
{
    uint32_t chunk = chunk_of(p, exit->piece);
    *taken = exit->outside || chunk_of(p, (uint32_t)exit->goal) != chunk;
    if (!*taken)
        return CNP_OK;
    uint64_t key = (uint64_t)chunk << 1 | exit->outside;
    int status = grow_map(p->library, &p->veneer_map, p->veneers.count);
    if (!status)
        status = grow_map(p->library, &p->detours, p->detours_used);
    if (status)
        return status;
    struct entry *entry = look_up(&p->veneer_map, exit->goal, key);
    if (!entry->used) {
        struct cluster *owner = &AT(p->chunks, struct cluster, chunk);
        uint32_t number = (uint32_t)p->veneers.count;
        status = add_piece(p, &p->veneers, &p->library->veneer, NONE, chunk, PIECE_VENEER);
        if (status)
            return status;
        AT(p->veneers, struct piece, number).goal = exit->goal;
        AT(p->veneers, struct piece, number).outside = exit->outside;
        if (owner->veneer == NONE)
            owner->veneer = number;
        else
            AT(p->veneers, struct piece, owner->last_veneer).next = number;
        owner->last_veneer = number;
        *entry = (struct entry){exit->goal, key, number, 1};
    }
    struct entry *detour = look_up(&p->detours, exit->piece, exit->number);
    p->detours_used += !detour->used;
    *detour = (struct entry){exit->piece, exit->number, entry->value, 1};
    return CNP_OK;
}

/* Whether the piece of an exit belongs to an operation that has become far in this round. */
static bool is_renewed(const struct cnp_program *p, const struct exit *exit)
{
    if (exit->piece >= p->count && piece_at(p, exit->piece)->kind != PIECE_COLD)
        return false;
    uint32_t op = exit->piece < p->count ? exit->piece : piece_at(p, exit->piece)->op;
    return is_marked(&p->fresh, op);
}

/* Give what misses far variants, or veneers where they have them already. changed: whether anything could be done. The
   exits that may miss then take the place of those that did. */
static int lengthen(struct cnp_program *p, wide margin, bool *changed)
{
    struct exit *exits = p->exits.data;
    const size_t count = p->exits.count;
    int status = CNP_OK;
    *changed = false;
    p->found.count = 0; /* operations that become far */
    memset(p->fresh.data, 0, p->fresh.count);
    for (size_t i = 0; i < count && !status; i++) {
        struct exit *exit = &exits[i];
        if (!misses(p, exit, margin) || is_renewed(p, exit))
            continue;
        if (take_far(p, exit->piece)) {
            uint32_t op = exit->piece < p->count ? exit->piece : piece_at(p, exit->piece)->op;
            mark(&p->fresh, op);
            status = add(p, &p->found, &op, sizeof op, NULL);
            *changed = true;
        } else {
            bool taken;
            status = take_veneer(p, exit, &taken);
            if (taken)
                *changed = true, exit->hole = NULL;
        }
    }
    size_t left = 0;
    for (size_t i = 0; i < count; i++)
        if (exits[i].hole && !is_renewed(p, &exits[i]))
            exits[left++] = exits[i];
    p->exits.count = left;
    for (size_t i = 0; i < p->found.count && !status; i++) {
        uint32_t op = AT(p->found, uint32_t, i);
        status = add_exits(p, &p->exits, op, kept_of(p, op));
        if (!status && form_of(p, op)->blocks > 1)
            status = add_exits(p, &p->exits, (uint32_t)p->count + first_of(&p->cold, op), NONE);
    }
    return status;
}

static bool any_misses(const struct cnp_program *p)
{
    for (size_t i = 0; i < p->exits.count; i++)
        if (misses(p, &AT(p->exits, struct exit, i), 0))
            return true;
    return false;
}

/* Those of the last layout are none of this one. */
static void forget_veneers(struct cnp_program *p)
{
    struct list *maps[] = {&p->veneer_map, &p->detours};
    p->veneers.count = 0, p->detours_used = 0;
    for (size_t i = 0; i < 2; i++)
        if (maps[i]->count)
            memset(maps[i]->data, 0, maps[i]->count * sizeof(struct entry));
}

/* A set of operations, empty. false: no memory. */
static bool ops_set(struct cnp_program *p, struct list *set)
{
    return set_of(p->library, set, (p->count / 64 + 1) * sizeof(uint64_t));
}

/* The layout of any program. */
static int settle_slowly(struct cnp_program *p)
{
    p->moved = true, p->rounds = 0;
    forget_veneers(p);
    for (size_t i = 0; i < p->chunks.count; i++)
        AT(p->chunks, struct cluster, i).veneer = AT(p->chunks, struct cluster, i).last_veneer = NONE;
    for (size_t i = 0; i < p->cold.count; i++)
        AT(p->cold, struct piece, i).block = &form_of(p, AT(p->cold, struct piece, i).op)->block[0][1];
    if (!ops_set(p, &p->fresh))
        return CNP_NO_MEMORY;
    int status = place_all(p);
    if (!status)
        status = all_exits(p);
    while (!status && any_misses(p)) {
        bool changed;
        wide margin = p->rounds >= ROUNDS ? (wide)1 << (p->rounds - ROUNDS) : 0;
        status = lengthen(p, margin, &changed);
        if (!changed)
            break; /* neither a far variant nor a veneer helps: the final check tells */
        p->rounds++;
        if (!status)
            status = place_all(p);
    }
    for (size_t k = 0; k < p->jumps.count; k++) {
        struct jump *jump = &AT(p->jumps, struct jump, k);
        jump->far = is_far(p, jump->op);
    }
    return status;
}
