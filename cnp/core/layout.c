/* Where everything lies. The same layout as cnp/plan.py, which says why:

       code   chunk    hot blocks of its operations, each without its jump to the next one when that follows
                       cold blocks; stubs; veneers
              chunk    …
              routines, with veneers of their own
              constants by falling alignment, literals, tables
       data   cells

   In a program that is one chunk, only special operations have more than a hot block; the lengths of its jumps are
   chosen without looking at the others (relax.c). */

/* ---- what belongs to the image */

/* A bit of a set, which is made when it is first asked for. */
static bool *set_of(struct cnp_library *library, struct list *list, size_t size)
{
    list->count = 0;
    void *data = reserve(library, list, 1, size + 1);
    if (data)
        memset(data, 0, size), list->count = size;
    return data;
}

static int need_constant(struct cnp_program *p, uint32_t index)
{
    uint32_t *known = &AT(p->constant_index, uint32_t, index);
    if (*known != NONE)
        return CNP_OK;
    struct constant constant = {index, 0};
    return add(p, &p->constants, &constant, sizeof constant, known);
}

static uint64_t hash(uint64_t a, uint64_t b)
{
    uint64_t h = (a ^ b * 0x9E3779B97F4A7C15u) * 0xD6E8FEB86659FD93u;
    return h ^ h >> 32;
}

/* A map from pairs of words to numbers: a list of slots, a power of two of them, half full at most. */
struct entry { uint64_t a, b; uint32_t value, used; };

static int grow_map(struct cnp_library *library, struct list *map, size_t used)
{
    if (2 * (used + 1) <= map->count)
        return CNP_OK;
    struct list fresh = {0};
    size_t count = map->count ? 2 * map->count : 64;
    struct entry *entries = reserve(library, &fresh, sizeof *entries, count);
    if (!entries)
        return CNP_NO_MEMORY;
    memset(entries, 0, count * sizeof *entries);
    for (size_t i = 0; i < map->count; i++) {
        struct entry *e = &AT(*map, struct entry, i);
        size_t at = hash(e->a, e->b) & (count - 1);
        while (e->used && entries[at].used)
            at = (at + 1) & (count - 1);
        if (e->used)
            entries[at] = *e;
    }
    release(library, map);
    *map = fresh, map->count = count;
    return CNP_OK;
}

/* The place of a pair: that of its number, or where it would go. There is room. */
static struct entry *look_up(const struct list *map, uint64_t a, uint64_t b)
{
    size_t at = hash(a, b) & (map->count - 1);
    struct entry *entries = map->data;
    while (entries[at].used && (entries[at].a != a || entries[at].b != b))
        at = (at + 1) & (map->count - 1);
    return &entries[at];
}

/* The literal of an operand; equal ones share a place. What names a thing differs from a number. */
static uint32_t literal_of(const struct cnp_program *p, const struct cnp_record *record, unsigned i,
                           struct literal *literal)
{
    unsigned kind = kind_of(record->kinds, i);
    wide value = operand_value(p, record, i);
    *literal = (struct literal){number_of(value), is_number(kind) ? (uint32_t)CNP_NUMBER : kind, 0};
    if (kind == CNP_FUNCTION)
        literal->kind = CNP_LABEL;
    return literal->kind << 1 | literal->value.negative;
}

static int need_literal(struct cnp_program *p, const struct cnp_record *record, unsigned i)
{
    struct literal literal;
    uint32_t key = literal_of(p, record, i, &literal);
    int status = grow_map(p->library, &p->literal_map, p->literals.count);
    if (status)
        return status;
    struct entry *entry = look_up(&p->literal_map, literal.value.bits, key);
    if (entry->used)
        return CNP_OK;
    status = add(p, &p->literals, &literal, sizeof literal, NULL);
    *entry = (struct entry){literal.value.bits, key, (uint32_t)p->literals.count - 1, 1};
    return status;
}

/* A routine that is still to be collected, unless it was noted since `first`. */
static int need_routine(struct cnp_program *p, uint32_t index, size_t first)
{
    for (size_t i = first; i < p->todo.count; i++)
        if (AT(p->todo, uint32_t, i) == index)
            return CNP_OK;
    return add(p, &p->todo, &index, sizeof index, NULL);
}

/* What the holes of a block share with others. record: NULL of a routine. */
static int need_shared(struct cnp_program *p, const struct block *block, const struct cnp_record *record)
{
    int status = CNP_OK;
    for (uint32_t i = 0; i < block->holes && !status; i++) {
        const struct hole *hole = &block->hole[i];
        if (hole->what == CNP_WHAT_DATA)
            status = need_constant(p, hole->index);
        else if (hole->what == CNP_WHAT_IMPORT)
            AT(p->imports, bool, hole->index) = true;
        else if (hole->what == CNP_WHAT_LITERAL && record)
            status = need_literal(p, record, hole->index);
    }
    return status;
}

/* Routines that a form or a routine asks for. */
static int need_routines(struct cnp_program *p, const struct block *block, size_t first)
{
    int status = CNP_OK;
    for (uint32_t i = 0; i < block->holes && !status; i++)
        if (block->hole[i].what == CNP_WHAT_ROUTINE)
            status = need_routine(p, block->hole[i].index, first);
    return status;
}

/* The things that an operation names. */
static int need_things(struct cnp_program *p, const struct cnp_record *record)
{
    int status = CNP_OK;
    for (unsigned i = 0; i < CNP_OPERANDS && !status; i++) {
        uint32_t word = (uint32_t)record->word[i];
        switch (kind_of(record->kinds, i)) {
        case CNP_CELL:
            if (AT(p->cell_places, uint32_t, word) == NONE)
                AT(p->cell_places, uint32_t, word) = p->cells_used++;
            break;
        case CNP_TABLE:
            if (AT(p->tables, struct table, word).address == NONE) {
                AT(p->tables, struct table, word).address = 0;
                status = add(p, &p->used_tables, &word, sizeof word, NULL);
            }
            break;
        case CNP_SYMBOL:
            AT(p->wanted, bool, word) = true;
            break;
        }
    }
    return status;
}

static const struct form *form_of(const struct cnp_program *p, size_t op)
{
    const struct cnp_record *record = &p->records[op];
    return &operation_of(p->library, record->op)->forms[record->form];
}

static int add_piece(struct cnp_program *p, struct list *list, const struct block *block, uint32_t op, uint32_t chunk,
                     uint8_t kind)
{
    struct piece piece = {.block = block, .op = op, .chunk = chunk, .kind = kind, .next = NONE};
    return add(p, list, &piece, sizeof piece, NULL);
}

/* The first form of the file that a program uses asks for the routines of its stubs too. */
static int meet_form(struct cnp_program *p, const struct form *form)
{
    bool *seen = &AT(p->seen, bool, form->row);
    const size_t first = p->todo.count;
    if (*seen)
        return CNP_OK;
    int status = add(p, &p->met, &form->row, sizeof form->row, NULL);
    *seen = !status;
    for (unsigned b = 0; b < form->blocks && !status; b++)
        status = need_routines(p, &form->block[0][b], first);
    for (unsigned k = 0; k < form->leaves && !status; k++)
        status = need_routines(p, &p->library->routines[p->library->tables.stubs[form->leave[k]]], first);
    return status;
}

/* The pieces of one operation beside its hot one. */
static int collect_op(struct cnp_program *p, size_t position, uint32_t chunk)
{
    const struct cnp_record *record = &p->records[position];
    const struct form *form = form_of(p, position);
    int status = meet_form(p, form);
    if (form->blocks > 1 && !status)
        status = add_piece(p, &p->cold, &form->block[0][1], (uint32_t)position, chunk, PIECE_COLD);
    for (unsigned k = 0; k < form->leaves && !status; k++) {
        const struct block *stub = &p->library->routines[p->library->tables.stubs[form->leave[k]]];
        status = add_piece(p, &p->stubs, stub, (uint32_t)position, chunk, PIECE_STUB);
        if (!status)
            AT(p->stubs, struct piece, p->stubs.count - 1).next = form->leave[k];
    }
    if (form->shared)
        for (unsigned b = 0; b < form->blocks && !status; b++)
            status = need_shared(p, &form->block[0][b], record);
    return status ? status : need_things(p, record);
}

static int new_cluster(struct cnp_program *p, uint32_t hot)
{
    struct cluster chunk = {.hot = hot, .cold = (uint32_t)p->cold.count, .stub = (uint32_t)p->stubs.count,
                          .veneer = NONE, .last_veneer = NONE};
    return add(p, &p->chunks, &chunk, sizeof chunk, NULL);
}

/* A program that is one chunk: plain operations have nothing to be collected. */
static int collect_specials(struct cnp_program *p)
{
    int status = CNP_OK;
    AT(p->chunks, struct cluster, 0).bound = p->hot_bound;
    for (size_t i = 0; i < p->specials.count && !status; i++)
        status = collect_op(p, AT(p->specials, uint32_t, i), 0);
    return status;
}

static int collect_ops(struct cnp_program *p)
{
    const struct block *veneer = &p->library->veneer;
    const uint64_t each = veneer->size + veneer->align - 1;
    const uint64_t island = p->library->tables.island;
    p->island = island && p->hot_bound > island ? island : 0;
    int status = new_cluster(p, 0);
    if (!p->island)
        return status ? status : collect_specials(p);
    for (size_t i = 0; i < p->count && !status; i++) {
        const struct form *form = form_of(p, i);
        uint64_t size = form->bound + each * form->veneers;
        if (AT(p->chunks, struct cluster, p->chunks.count - 1).bound + size > p->island)
            status = new_cluster(p, (uint32_t)i);
        if (!status) {
            AT(p->chunks, struct cluster, p->chunks.count - 1).bound += size;
            status = collect_op(p, i, (uint32_t)p->chunks.count - 1);
        }
    }
    return status;
}

/* The routines that roots, operations and other routines ask for: a chunk of its own, in the order of the library. */
static int collect_routines(struct cnp_program *p)
{
    const struct cnp_library *library = p->library;
    const uint32_t veneer = library->veneer.size + library->veneer.align;
    int status = new_cluster(p, (uint32_t)p->count);
    uint64_t bound = 0;
    while (p->todo.count && !status) {
        uint32_t index = AT(p->todo, uint32_t, --p->todo.count);
        if (AT(p->routine_index, uint32_t, index) != NONE)
            continue;
        AT(p->routine_index, uint32_t, index) = 0;
        const struct block *block = &library->routines[index];
        uint32_t size = 0, veneers = 0;
        count_block(library, block, &size, &veneers);
        bound += size + (uint64_t)veneers * veneer;
        status = need_shared(p, block, NULL);
        if (!status)
            status = need_routines(p, block, p->todo.count);
    }
    for (uint32_t i = 0; i < library->tables.routines_count && !status; i++)
        if (AT(p->routine_index, uint32_t, i) != NONE) {
            AT(p->routine_index, uint32_t, i) = (uint32_t)p->routines.count;
            status = add_piece(p, &p->routines, &library->routines[i], i, (uint32_t)p->chunks.count - 1, PIECE_ROUTINE);
        }
    if (!status)
        AT(p->chunks, struct cluster, p->chunks.count - 1).bound = bound;
    return status;
}

static uint64_t bound_of(struct cnp_program *p)
{
    const struct cnp_tables *t = &p->library->tables;
    uint64_t outside = 0, data = 8 + 8 * (uint64_t)p->literals.count, code = 0, largest = 0;
    for (uint32_t i = 0; i < t->imports_count; i++)
        outside += AT(p->imports, bool, i);
    for (uint32_t i = 0; i < p->symbols; i++)
        outside += AT(p->wanted, bool, i);
    outside = p->island ? 0 : (p->library->veneer.size + p->library->veneer.align - 1) * (outside + p->routines.count);
    for (size_t i = 0; i < p->constants.count; i++) {
        const struct cnp_constant *c = &t->constants[AT(p->constants, struct constant, i).index];
        data += c->size + c->align;
    }
    for (size_t i = 0; i < p->used_tables.count; i++)
        data += 8 * (uint64_t)AT(p->tables, struct table, AT(p->used_tables, uint32_t, i)).count;
    for (size_t i = 0; i < p->chunks.count; i++) {
        struct cluster *chunk = &AT(p->chunks, struct cluster, i);
        chunk->bound += outside, code += chunk->bound;
        if (chunk->bound > largest)
            largest = chunk->bound;
    }
    return code + data + (p->library->regions ? 1 + code / (REGION / 4) : 0) * largest;
}

/* ---- the program as a whole */

static uint32_t function_at(const struct cnp_program *p, uint32_t position)
{
    size_t low = 0, high = p->functions.count;
    while (high - low > 1) {
        size_t middle = (low + high) / 2;
        if (AT(p->functions, struct function, middle).begin <= position)
            low = middle;
        else
            high = middle;
    }
    return (uint32_t)low;
}

static int refuse(struct cnp_evidence *evidence, enum cnp_status status, size_t index, uint32_t op, uint32_t operand,
                  int64_t value)
{
    fail(evidence, status, index, op);
    if (evidence)
        evidence->operand = operand, evidence->value = number_of(value);
    return status;
}

/* A place that an operation names: bound, and in a function whose frame is not larger, if it goes there itself. */
static int check_place(const struct cnp_program *p, size_t index, uint32_t operand, int64_t position, int64_t label,
                       bool jumps, struct cnp_evidence *evidence)
{
    uint32_t op = p->records[index].op;
    if (position < 0 || (uint64_t)position >= p->count)
        return refuse(evidence, CNP_UNBOUND, index, op, operand, label);
    if (!jumps || p->functions.count < 2)
        return CNP_OK;
    const struct function *here = &AT(p->functions, struct function, function_at(p, (uint32_t)index));
    const struct function *there = &AT(p->functions, struct function, function_at(p, (uint32_t)position));
    return there->frame > here->frame ? refuse(evidence, CNP_LARGER_FRAME, index, op, operand, position) : CNP_OK;
}

static int check_places(const struct cnp_program *p, size_t index, struct cnp_evidence *evidence)
{
    const struct cnp_record *record = &p->records[index];
    const struct cnp_operation *row = operation_of(p->library, record->op)->row;
    int status = CNP_OK;
    for (unsigned i = 0; i < row->operands && !status; i++) {
        bool jumps = row->places >> i & 1;
        unsigned kind = kind_of(record->kinds, i);
        if (kind == CNP_POSITION) {
            status = check_place(p, index, i, record->word[i], record->word[i], jumps, evidence);
        } else if (kind == CNP_LABEL || kind == CNP_FUNCTION) {
            int64_t position = AT(p->labels, int64_t, (uint32_t)record->word[i]);
            status = check_place(p, index, i, position, record->word[i], jumps, evidence);
        } else if (kind == CNP_TABLE) {
            const struct table *table = &AT(p->tables, struct table, (uint32_t)record->word[i]);
            for (uint32_t k = 0; k < table->count && !status; k++) {
                uint32_t label = AT(p->table_labels, uint32_t, table->first + k);
                status = check_place(p, index, i, AT(p->labels, int64_t, label), label, jumps, evidence);
            }
        }
    }
    return status;
}

static int check_functions(const struct cnp_program *p, struct cnp_evidence *evidence)
{
    for (size_t f = 0; f < p->functions.count; f++) {
        size_t begin = AT(p->functions, struct function, f).begin;
        size_t end = f + 1 < p->functions.count ? AT(p->functions, struct function, f + 1).begin : p->count;
        if (begin == end)
            return fail(evidence, CNP_EMPTY_FUNCTION, begin, (uint32_t)f);
        if (form_of(p, end - 1)->goes_on)
            return fail(evidence, CNP_RUNS_OFF, end - 1, p->records[end - 1].op);
    }
    return CNP_OK;
}

/* The first operation behind a function. */
static size_t end_of(const struct cnp_program *p, size_t function)
{
    return function + 1 < p->functions.count ? AT(p->functions, struct function, function + 1).begin : p->count;
}

/* Where a label is bound; NONE, which no operation has: nowhere, or behind all of them. */
static uint32_t position_of(const struct cnp_program *p, uint32_t label)
{
    int64_t position = AT(p->labels, int64_t, label);
    return position < 0 || position > NONE ? NONE : (uint32_t)position;
}

/* The places that plain jumps go to by name, and ends behind the last one. */
static int find_goals(struct cnp_program *p)
{
    struct jump *end = reserve(p->library, &p->jumps, sizeof *end, AHEAD);
    if (!end)
        return CNP_NO_MEMORY;
    for (unsigned i = 0; i < AHEAD; i++)
        end[i] = (struct jump){NULL, NONE, 0, 0};
    for (size_t i = 0; i < p->named.count; i++) {
        const struct named *named = &AT(p->named, struct named, i);
        AT(p->jumps, struct jump, named->jump).goal = position_of(p, named->label);
    }
    return CNP_OK;
}

/* The positions that jumps go to, checked, and what else operations name. The first of both that is refused counts. */
static int check_program(struct cnp_program *p, struct cnp_evidence *evidence)
{
    const uint32_t *specials = p->specials.data;
    const struct jump *jump = p->jumps.data;
    int status = CNP_OK;
    size_t s = 0;
    for (size_t function = 0; function < p->functions.count && !status; function++) {
        const uint32_t first = AT(p->functions, struct function, function).begin, last = (uint32_t)end_of(p, function);
        for (; jump->op < last && !status; jump++) {
            for (; s < p->specials.count && specials[s] < jump->op && !status; s++)
                status = check_places(p, specials[s], evidence);
            if (UNLIKELY(jump->goal < first || jump->goal >= last) && !status)
                status = check_places(p, jump->op, evidence);
        }
    }
    for (; s < p->specials.count && !status; s++)
        status = check_places(p, specials[s], evidence);
    return status ? status : check_functions(p, evidence);
}

/* ---- plan */

static bool reaches_all(const struct cnp_program *p, const struct cnp_field *field)
{
    uint64_t least = (uint64_t)-field->low < field->high ? (uint64_t)-field->low : field->high;
    return field->formula == CNP_RELATIVE && field->low < 0 && least >= p->bound;
}

/* Whether hot blocks leave no gaps, and what is common to all programs always reaches. */
static bool is_fast(struct cnp_program *p)
{
    const struct cnp_tables *t = &p->library->tables;
    bool fast = !p->island && !p->library->regions && p->count;
    for (size_t i = 0; i < p->specials.count && fast; i++)
        fast &= form_of(p, AT(p->specials, uint32_t, i))->even;
    for (size_t i = 0; i < p->routines.count && fast; i++) {
        const struct block *block = AT(p->routines, struct piece, i).block;
        for (uint32_t k = 0; k < block->holes; k++) {
            const struct cnp_field *field = &t->fields[block->hole[k].field];
            fast &= !field->jump || (block->hole[k].what != CNP_WHAT_IMPORT && reaches_all(p, field));
        }
    }
    return fast && p->bound <= INT32_MAX && p->reach;
}

/* The forms that a program uses, none: those that the last one met are forgotten, for there are many. */
static bool forget_forms(struct cnp_program *p)
{
    const size_t count = p->library->tables.forms.count;
    if (!p->seen.count && !set_of(p->library, &p->seen, count))
        return false;
    for (size_t i = 0; i < p->met.count; i++)
        AT(p->seen, bool, AT(p->met, uint32_t, i)) = false;
    p->met.count = 0;
    return true;
}

static int begin_plan(struct cnp_program *p)
{
    struct cnp_library *library = p->library;
    const struct cnp_tables *t = &library->tables;
    struct list *empty[] = {&p->chunks, &p->cold, &p->stubs, &p->routines, &p->constants, &p->literals,
                            &p->used_tables, &p->todo, &p->veneers};
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++)
        empty[i]->count = 0;
    if (p->literal_map.count)
        memset(p->literal_map.data, 0, p->literal_map.count * sizeof(struct entry));
    p->cells_used = 0;
    bool made = forget_forms(p) && set_of(library, &p->imports, t->imports_count) &&
                set_of(library, &p->wanted, p->symbols) &&
                set_of(library, &p->routine_index, 4 * (size_t)t->routines_count) &&
                set_of(library, &p->constant_index, 4 * (size_t)t->constants_count) &&
                set_of(library, &p->cell_places, 4 * p->cells.count);
    if (!made)
        return CNP_NO_MEMORY;
    memset(p->routine_index.data, 0xFF, p->routine_index.count);
    memset(p->constant_index.data, 0xFF, p->constant_index.count);
    memset(p->cell_places.data, 0xFF, p->cell_places.count);
    for (size_t i = 0; i < p->tables.count; i++)
        AT(p->tables, struct table, i).address = NONE;
    return CNP_OK;
}

int cnp_plan(struct cnp_program *p, const uint32_t *roots, size_t count, struct cnp_needs *needs,
             struct cnp_evidence *evidence)
{
    p->planned = p->settled = false;
    if (p->moved)
        restore(p);
    if (find_goals(p))
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    int status = check_program(p, evidence);
    if (status)
        return status;
    status = begin_plan(p);
    for (size_t i = 0; i < count && !status; i++)
        status = roots[i] < p->library->tables.routines_count ? need_routine(p, roots[i], 0) : CNP_NO_OPERATION;
    if (!status)
        status = collect_ops(p);
    if (!status)
        status = collect_routines(p);
    if (status)
        return fail(evidence, status, (size_t)-1, 0);
    p->bound = bound_of(p);
    if (p->bound > NONE)
        return fail(evidence, CNP_TOO_LARGE, (size_t)-1, 0);
    p->fast = is_fast(p);
    p->planned = true;
    needs->bound = p->bound, needs->data_bound = 8 * (uint64_t)p->cells_used;
    needs->imports = p->imports.data, needs->symbols = p->wanted.data;
    return CNP_OK;
}
