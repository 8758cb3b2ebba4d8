/* The lengths of jumps in a program that is one chunk. If all its operations are plain, only their jumps are looked at:

   All jumps begin short. Those that do not reach become long, and push others out of reach: a jump that reached stays in
   question as long as there are short ones between it and its goal. A round judges each by what was long before it, as
   those of settle.c do, and the end is the same. Where there are special operations, a round looks at their exits too, and
   moves what lies behind. */

/* Bytes by which the jumps between a jump and its goal have grown before this round; open: whether some may still. */
static uint32_t growth_between(const struct jump *jumps, size_t count, size_t k, unsigned round, bool *open)
{
    const uint32_t op = jumps[k].op, goal = jumps[k].goal;
    uint32_t grown = 0;
    *open = false;
    for (size_t i = k + 1; goal > op && i < count && jumps[i].op < goal; i++) {
        bool is_long = jumps[i].far && jumps[i].far < round;
        grown += is_long ? jumps[i].near->growth : 0;
        *open |= !is_long;
    }
    for (size_t i = k; goal <= op && i-- > 0 && jumps[i].op >= goal;) {
        bool is_long = jumps[i].far && jumps[i].far < round;
        grown += is_long ? jumps[i].near->growth : 0;
        *open |= !is_long;
    }
    return grown;
}

/* What a jump holds where operations lie at `offsets`. */
static inline int64_t distance(const uint32_t *offsets, const struct jump *jump)
{
    return (int64_t)offsets[jump->goal] - offsets[jump->op] + jump->near->jump_add;
}

/* Begin to load where a jump behind this one goes to. */
static inline void fetch_goal(const struct jump *jump, const uint32_t *offsets)
{
    __builtin_prefetch(&offsets[jump[AHEAD].goal]);
}

/* One round over the jumps in question; those that stay are left in the list. */
static bool relax_round(struct cnp_program *p, uint32_t *pending, size_t *count, unsigned round)
{
    struct jump *jumps = p->jumps.data;
    bool changed = false;
    size_t left = 0;
    for (size_t i = 0; i < *count; i++) {
        struct jump *jump = &jumps[pending[i]];
        bool open;
        int64_t grown = growth_between(jumps, p->jumps.count, pending[i], round, &open), value = distance(p->starts, jump);
        value += jump->goal > jump->op ? grown : -grown;
        if (value < INT8_MIN || value > INT8_MAX)
            jump->far = (uint16_t)round, changed = true;
        else if (open)
            pending[left++] = pending[i];
    }
    *count = left;
    return changed;
}

static inline void move(uint32_t *restrict to, const uint32_t *restrict from, uint32_t grown)
{
    for (unsigned i = 0; i < STRIDE; i++)
        to[i] = from[i] + grown;
}

/* The offsets of the operations from `at` to `end`, STRIDE at a time: what is behind is made again, or nothing. */
static inline void move_all(struct cnp_program *p, size_t at, size_t end, uint32_t grown)
{
    for (; at < end; at += STRIDE)
        move(p->offsets + at, p->starts + at, grown);
}

/* Where everything lies: what is behind long jumps moves. longer: room for the number of each jump. */
static void push(struct cnp_program *p, uint32_t *longer)
{
    const struct jump *const jumps = p->jumps.data;
    size_t count = 0, at = 0;
    uint32_t grown = 0;
    for (size_t k = 0; k < p->jumps.count; k++)
        longer[count] = (uint32_t)k, count += jumps[k].far != 0;
    for (size_t i = 0; i < count; i++) {
        const struct jump *jump = &jumps[longer[i]];
        move_all(p, at, jump->op + (size_t)1, grown);
        at = jump->op + (size_t)1, grown += jump->near->growth;
        p->variants[jump->op] = jump->near + 1;
    }
    move_all(p, at, p->count + 1, grown);
}

/* Bytes of what a jump holds at most, if each operation between it and its goal becomes longer by `growth`. */
static inline uint64_t farthest(const struct jump *jump, int64_t value, uint64_t growth)
{
    const int64_t between = (int64_t)jump->goal - jump->op;
    return (uint64_t)(value < 0 ? -value : value) + growth * (uint64_t)(between < 0 ? -between : between);
}

/* Choose the lengths; false: it takes so many rounds that settle.c must decide, or there is no memory to note them. */
static bool relax(struct cnp_program *p)
{
    struct jump *jumps = p->jumps.data;
    const uint32_t *const starts = p->starts;
    const uint64_t growth = p->growth;
    p->found.count = 0;
    uint32_t *pending = reserve(p->library, &p->found, sizeof *pending, p->jumps.count + 1);
    if (!pending)
        return false;
    size_t count = 0, longer = 0;
    for (size_t k = 0; k < p->jumps.count; k++) {
        struct jump *jump = &jumps[k];
        fetch_goal(jump, starts);
        const int64_t value = distance(starts, jump);
        const bool is_short = jump->near->jump_size == 1, misses = is_short & ((uint64_t)(value - INT8_MIN) > UINT8_MAX);
        jump->far = misses, longer += misses;
        pending[count] = (uint32_t)k;
        count += is_short & !misses & (farthest(jump, value, growth) > INT8_MAX); /* others reach whatever becomes long between */
    }
    for (unsigned round = 2; longer && round < ROUNDS; round++)
        if (!relax_round(p, pending, &count, round))
            break;
        else if (round + 1 == ROUNDS)
            return false;
    p->moved = true;
    push(p, pending);
    return true;
}

/* What lies behind the operations of such a program. */
static int settle_rest(struct cnp_program *p)
{
    const struct block *last = block_of(p, (uint32_t)p->count - 1);
    p->veneers.count = 0;
    p->offsets[p->count] = p->offsets[p->count - 1] + last->size;
    uint64_t address = p->base + p->offsets[p->count];
    struct list *lists[] = {&p->cold, &p->stubs, &p->routines};
    int status = CNP_OK;
    for (unsigned i = 0; i < 3 && !status; i++)
        status = place_list(p, lists[i], 0, lists[i]->count, &address);
    if (status)
        return status;
    p->end = (uint32_t)(place_data(p, address) - p->base);
    return CNP_OK;
}

/* ---- with special operations */

/* Their exits, and those of their pieces. */
static int special_exits(struct cnp_program *p)
{
    const uint32_t cold = (uint32_t)p->count, pieces = (uint32_t)(p->cold.count + p->stubs.count);
    int status = CNP_OK;
    p->exits.count = 0;
    for (size_t i = 0; i < p->specials.count && !status; i++) {
        uint32_t op = AT(p->specials, uint32_t, i);
        if (!form_of(p, op)->plain)
            status = add_exits(p, &p->exits, op, kept(block_of(p, op), op + 1 < cold));
    }
    for (uint32_t i = 0; i < pieces && !status; i++)
        status = add_exits(p, &p->exits, cold + i, NONE);
    return status;
}

/* Bytes by which an operation becomes longer at most. */
static uint32_t most_growth(const struct cnp_program *p)
{
    uint32_t most = p->growth;
    for (size_t i = 0; i < p->specials.count; i++) {
        const uint32_t growth = p->variants[AT(p->specials, uint32_t, i)]->growth;
        most = growth > most ? growth : most;
    }
    return most;
}

/* The short jumps that may not reach in the end; how many. */
static size_t find_pending(struct cnp_program *p, uint32_t *pending)
{
    const uint32_t growth = most_growth(p);
    size_t count = 0;
    for (size_t k = 0; k < p->jumps.count; k++) {
        struct jump *jump = &AT(p->jumps, struct jump, k);
        fetch_goal(jump, p->starts);
        jump->far = 0;
        pending[count] = (uint32_t)k;
        count += (jump->near->jump_size == 1) & (farthest(jump, distance(p->starts, jump), growth) > INT8_MAX);
    }
    return count;
}

/* Plain jumps that do not reach become long; those that do are left in the list. */
static bool lengthen_jumps(struct cnp_program *p, uint32_t *pending, size_t *count)
{
    size_t left = 0;
    for (size_t i = 0; i < *count; i++) {
        struct jump *jump = &AT(p->jumps, struct jump, pending[i]);
        int64_t value = distance(p->offsets, jump);
        if (value >= INT8_MIN && value <= INT8_MAX) {
            pending[left++] = pending[i];
            continue;
        }
        jump->far = 1, p->variants[jump->op]++;
        mark(&p->longer, jump->op);
    }
    bool changed = left < *count;
    *count = left;
    return changed;
}

/* The same of the exits of special operations. */
static int lengthen_specials(struct cnp_program *p, bool *changed)
{
    *changed = false;
    if (!any_misses(p))
        return CNP_OK;
    int status = lengthen(p, 0, changed);
    for (size_t i = 0; i < p->found.count; i++)
        mark(&p->longer, AT(p->found, uint32_t, i));
    return status;
}

/* Where everything lies: what became longer moves everything behind it. */
static void push_longer(struct cnp_program *p)
{
    size_t at = 0;
    uint32_t grown = 0;
    for (size_t w = 0; w <= p->count / 64; w++)
        for (uint64_t left = AT(p->longer, uint64_t, w); left; left &= left - 1) {
            const size_t op = 64 * w + (size_t)__builtin_ctzll(left);
            move_all(p, at, op + 1, grown);
            at = op + 1, grown += p->variants[op][-1].growth; /* it takes the far one, which follows the near one */
        }
    move_all(p, at, p->count + 1, grown);
}

/* done: false where settle.c must decide, because it takes too many rounds, or a veneer. */
static int settle_specials(struct cnp_program *p, bool *done)
{
    p->todo.count = 0;
    uint32_t *pending = reserve(p->library, &p->todo, sizeof *pending, p->jumps.count + 1);
    if (!pending || !ops_set(p, &p->fresh) || !ops_set(p, &p->longer))
        return CNP_NO_MEMORY;
    size_t count = find_pending(p, pending);
    for (size_t i = 0; i < p->cold.count; i++)
        AT(p->cold, struct piece, i).block = &form_of(p, AT(p->cold, struct piece, i).op)->block[0][1];
    memcpy(p->offsets, p->starts, (p->count + 1) * sizeof *p->offsets);
    p->moved = true, p->rounds = 0;
    forget_veneers(p);
    int status = settle_rest(p);
    if (!status)
        status = special_exits(p);
    for (; !status && p->rounds < ROUNDS; p->rounds++) {
        bool changed, jumps = lengthen_jumps(p, pending, &count);
        status = lengthen_specials(p, &changed);
        if (p->veneers.count)
            return status;
        if (!changed && !jumps)
            return *done = true, status;
        push_longer(p);
        if (!status)
            status = settle_rest(p);
    }
    return status;
}

/* The layout of a program that is one chunk. */
static int settle_quickly(struct cnp_program *p)
{
    bool done = false;
    int status = CNP_OK;
    if (p->specials.count)
        status = settle_specials(p, &done);
    else if ((done = relax(p)))
        status = settle_rest(p);
    if (done || status)
        return status;
    if (p->moved)
        restore(p);
    return settle_slowly(p);
}

/* ---- settle */

static int copy_addresses(struct cnp_program *p, struct list *list, const uint64_t *from, size_t count)
{
    list->count = 0;
    uint64_t *to = reserve(p->library, list, sizeof *to, count + 1);
    if (!to)
        return CNP_NO_MEMORY;
    if (count && from)
        memcpy(to, from, count * sizeof *to);
    else
        memset(to, 0, count * sizeof *to);
    list->count = count;
    return CNP_OK;
}

static int check_base(uint64_t base, uint64_t size, uint32_t align, struct cnp_evidence *evidence)
{
    uint64_t high = -size; /* 2^64 - size */
    if (base % align == 0 && (base <= high || !size))
        return CNP_OK;
    fail(evidence, CNP_BAD_BASE, (size_t)-1, 0);
    if (evidence)
        evidence->value = number_of((wide)base), evidence->high = number_of((wide)high), evidence->align = align;
    return CNP_BAD_BASE;
}

int cnp_settle(struct cnp_program *p, uint64_t base, uint64_t data_base, const uint64_t *imports, const uint64_t *symbols,
               uint64_t *size, struct cnp_evidence *evidence)
{
    if (!p->planned)
        return fail(evidence, CNP_WRONG_TIME, (size_t)-1, 0);
    int status = check_base(base, p->bound, 16, evidence);
    if (!status)
        status = check_base(data_base, 8 * (uint64_t)p->cells_used, 8, evidence);
    if (status)
        return status;
    p->settled = false;
    if (p->moved)
        restore(p);
    p->base = base, p->data_base = data_base;
    status = copy_addresses(p, &p->import_address, imports, p->library->tables.imports_count);
    if (!status)
        status = copy_addresses(p, &p->symbol_address, symbols, p->symbols);
    if (!status)
        status = p->fast ? settle_quickly(p) : settle_slowly(p);
    if (status)
        return fail(evidence, status, (size_t)-1, 0);
    p->settled = true, *size = p->end;
    return CNP_OK;
}
