/* The library: rows of a stencil file, each checked when it is first needed, made into forms that can be laid out and
   copied. What does not hold is CNP_BAD_TABLES with the table and the row; nothing is read from beside a table. */

#define ROW_FORM 16
#define ROW_TAKE 2
#define ROW_ACCEPT 24
#define ROW_STENCIL 14
#define ROW_BLOCK 16
#define ROW_RUN 4
#define ROW_HOLE 20
#define MOST_ALIGN 12
#define MOST_FORMS 0x7FFF

static const uint8_t *row(const struct cnp_rows *rows, size_t number, size_t size)
{
    return number < rows->count ? (const uint8_t *)rows->data + number * size : NULL;
}

static int bad(struct cnp_evidence *evidence, const char *table, size_t number)
{
    fail(evidence, CNP_BAD_TABLES, (size_t)-1, 0);
    if (evidence)
        evidence->table = table, evidence->row = number;
    return CNP_BAD_TABLES;
}

/* Memory that lives as long as the library, zeroed, from the start of a cache line on. */
static void *keep(struct cnp_library *library, size_t size)
{
    struct slab *slab = library->slabs;
    size = (size + LINE - 1) & ~(size_t)(LINE - 1);
    if (!slab || slab->size - slab->used < size) {
        size_t whole = sizeof *slab + LINE + (size > 32768 ? size : 32768);
        slab = library->allocator.resize(library->allocator.context, NULL, 0, whole);
        if (!slab)
            return NULL;
        slab->size = whole, slab->used = sizeof *slab, slab->next = library->slabs;
        slab->used += -((uintptr_t)slab + slab->used) % LINE;
        library->slabs = slab;
    }
    void *found = (char *)slab + slab->used;
    slab->used += size;
    return memset(found, 0, size);
}

/* ---- what holes may ask for */

struct asked { uint32_t operands, places, blocks, end; };

static int read_hole(const struct cnp_library *library, const uint8_t *data, struct hole *hole, struct asked *asked)
{
    const struct cnp_tables *t = &library->tables;
    hole->offset = get32(data), hole->place = (int32_t)get32(data + 4), hole->addend = (int64_t)get64(data + 8);
    hole->field = data[16], hole->what = data[17], hole->index = get16(data + 18);
    const uint32_t most[] = {
        CNP_OPERANDS, CNP_OPERANDS, 1, 3, 2, t->constants_count, CNP_OPERANDS, t->imports_count, t->routines_count, 1,
    };
    if (hole->field >= t->fields_count || hole->what > CNP_WHAT_POSITION || hole->index >= most[hole->what])
        return CNP_BAD_TABLES;
    uint64_t end = (uint64_t)hole->offset + t->fields[hole->field].size;
    uint32_t operands = 0, blocks = 0;
    switch (hole->what) {
    case CNP_WHAT_TARGET:
        asked->places |= 1u << hole->index; /* fall through */
    case CNP_WHAT_OPERAND:
    case CNP_WHAT_LITERAL:
        operands = hole->index + 1u;
        break;
    case CNP_WHAT_BLOCK:
        blocks = hole->index + 1u;
        break;
    case CNP_WHAT_NEXT:
    case CNP_WHAT_LEAVE:
        blocks = 1;
        break;
    }
    if (operands > asked->operands)
        asked->operands = operands;
    if (blocks > asked->blocks)
        asked->blocks = blocks;
    if (end > asked->end)
        asked->end = end > NONE ? NONE : (uint32_t)end;
    return CNP_OK;
}

static int read_block(struct cnp_library *library, uint32_t number, struct block *block, struct asked *all,
                      struct cnp_evidence *evidence)
{
    const struct cnp_tables *t = &library->tables;
    const uint8_t *data = row(&t->blocks, number, ROW_BLOCK);
    if (!data)
        return bad(evidence, "blocks", number);
    uint32_t start = get32(data), first = get32(data + 8);
    *block = (struct block){.size = get32(data + 4), .holes = get16(data + 12), .tail = data[14]};
    if (data[15] > MOST_ALIGN || block->tail > block->size || start > t->code.count || block->size > t->code.count - start)
        return bad(evidence, "blocks", number);
    block->align = 1u << data[15], block->code = (const uint8_t *)t->code.data + start;
    struct hole *holes = keep(library, block->holes * sizeof *holes);
    if (!holes)
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    block->hole = holes;
    struct asked asked = {0};
    for (uint32_t i = 0; i < block->holes; i++) {
        const uint8_t *run = row(&t->runs, (size_t)first + i, ROW_RUN);
        if (!run)
            return bad(evidence, "runs", (size_t)first + i);
        const uint8_t *hole = row(&t->holes, get32(run), ROW_HOLE);
        if (!hole || read_hole(library, hole, &holes[i], &asked))
            return bad(evidence, "holes", get32(run));
    }
    if (asked.end > block->size)
        return bad(evidence, "blocks", number);
    all->places |= asked.places;
    all->operands = asked.operands > all->operands ? asked.operands : all->operands;
    all->blocks = asked.blocks > all->blocks ? asked.blocks : all->blocks;
    return CNP_OK;
}

/* ---- what a form asks of the layout */

static void count_block(const struct cnp_library *library, const struct block *block, uint32_t *bound, uint32_t *veneers)
{
    *bound += block->size + block->align - 1;
    for (uint32_t i = 0; i < block->holes; i++)
        *veneers += library->tables.fields[block->hole[i].field].jump;
}

/* Whether blocks like this one leave no gaps between them. */
static bool is_even(const struct cnp_library *library, const struct block *block)
{
    const uint32_t align = library->tables.code_align;
    return (block->align == 1 || align % block->align == 0) && block->size % align == 0 && block->tail % align == 0;
}

/* Whether control may go somewhere else than on or to one label; notes the stubs and what is shared. */
static bool is_plain(const struct cnp_library *library, struct form *form, const struct block *block)
{
    const struct cnp_tables *t = &library->tables;
    bool plain = form->blocks == 1 && is_even(library, block);
    uint32_t targets = 0;
    for (uint32_t i = 0; i < block->holes; i++) {
        const struct hole *hole = &block->hole[i];
        const struct cnp_field *field = &t->fields[hole->field];
        switch (hole->what) {
        case CNP_WHAT_OPERAND:
            plain &= field->formula == CNP_ABSOLUTE || field->formula == CNP_NEGATED;
            break;
        case CNP_WHAT_TARGET:
            plain &= ++targets == 1 && field->formula == CNP_RELATIVE && field->jump && !field->carry;
            break;
        case CNP_WHAT_NEXT:
            plain &= hole->offset >= block->size - block->tail;
            break;
        case CNP_WHAT_POSITION:
            break;
        default:
            plain = false;
        }
    }
    return plain;
}

static void note_holes(struct form *form, const struct block *block)
{
    for (uint32_t i = 0; i < block->holes; i++) {
        const struct hole *hole = &block->hole[i];
        bool known = false;
        switch (hole->what) {
        case CNP_WHAT_LEAVE:
            for (unsigned k = 0; k < form->leaves; k++)
                known |= form->leave[k] == hole->index;
            if (!known)
                form->leave[form->leaves++] = (uint8_t)hole->index;
            break;
        case CNP_WHAT_NEXT:
            form->goes_on = 1;
            break;
        case CNP_WHAT_DATA:
        case CNP_WHAT_LITERAL:
        case CNP_WHAT_IMPORT:
        case CNP_WHAT_ROUTINE:
            form->shared = 1;
            break;
        }
    }
}

static int count_form(struct cnp_library *library, struct form *form, struct cnp_evidence *evidence)
{
    uint32_t bound[2] = {0, 0}, veneers[2] = {0, 0};
    for (unsigned far = 0; far < 2; far++)
        for (unsigned b = 0; b < form->blocks; b++)
            count_block(library, &form->block[far][b], &bound[far], &veneers[far]);
    for (unsigned b = 0; b < form->blocks; b++)
        note_holes(form, &form->block[0][b]);
    form->bound = bound[0] > bound[1] ? bound[0] : bound[1];
    form->veneers = veneers[0] > veneers[1] ? veneers[0] : veneers[1];
    for (unsigned k = 0; k < form->leaves; k++) {
        int32_t stub = library->tables.stubs[form->leave[k]];
        if (stub < 0 || (uint32_t)stub >= library->tables.routines_count)
            return bad(evidence, "stubs", form->leave[k]);
        count_block(library, &library->routines[stub], &form->bound, &form->veneers);
    }
    form->even = is_even(library, &form->block[0][0]) && is_even(library, &form->block[1][0]);
    form->plain = !form->leaves && is_plain(library, form, &form->block[0][0]) &&
                  is_plain(library, form, &form->block[1][0]);
    return CNP_OK;
}

/* ---- fields */

/* Put a value, which fits, into the unit of a field. */
static void write_field(const struct cnp_library *library, const struct cnp_field *field, uint8_t *unit, wide value)
{
    const bool big = library->tables.big_endian;
    uint64_t total = (uint64_t)value + field->carry, word = 0;
    for (unsigned i = 0; i < field->size; i++)
        word |= (uint64_t)unit[i] << 8 * (big ? field->size - 1u - i : i);
    for (unsigned k = 0; k < field->parts; k++) {
        struct cnp_part part = field->part[k];
        uint64_t mask = ~(uint64_t)0 >> (64 - part.width);
        word = (word & ~(mask << part.to)) | (total >> part.from & mask) << part.to;
    }
    for (unsigned i = 0; i < field->size; i++)
        unit[i] = (uint8_t)(word >> 8 * (big ? field->size - 1u - i : i));
}

/* ---- the variants that are copied */

/* Whether the bits of a field lie as they are in whole bytes, lowest first. */
static bool is_straight(const struct cnp_field *field)
{
    return field->parts == 1 && field->part[0].from == 0 && field->part[0].to == 0 &&
           field->part[0].width == 8 * field->size && !field->carry;
}

/* The intervals of its values within those of the field: they were checked when the form was chosen. */
static bool always_fits(const struct accept *accept, const struct cnp_field *field)
{
    return accept->low >= field->low && accept->high <= (wide)field->high && !((field->align - 1) & ~accept->rest);
}

/* Whether an operand may be a number that does not fit a word of a record. */
static bool is_long(const struct accept *accept)
{
    return accept->kind >= CNP_TAKES_SIGNED && accept->kind <= CNP_TAKES_U64 &&
           (accept->low < INT32_MIN || accept->high > INT32_MAX);
}

static const uint8_t NOTHING[TURNED]; /* what no register turns over */

static bool make_fast(struct variant *v, unsigned number, const struct form *form, const struct hole *hole,
                      const struct cnp_field *field, const struct block *block)
{
    const struct accept *accept = &form->accepts[hole->index];
    bool long_one = is_long(accept);
    if (accept->kind < CNP_TAKES_SLOT || accept->kind > CNP_TAKES_U64 || field->formula != CNP_ABSOLUTE ||
        hole->addend || !is_straight(field) || !always_fits(accept, field) || (field->size > 4 && !long_one) ||
        (long_one && form->wide != hole->index + 1u))
        return false;
    v->mask[number] = ~(uint64_t)0 >> (64 - 8 * field->size);
    v->at[number] = (uint8_t)hole->offset;
    v->from[number] = (uint8_t)(8 + 4 * (long_one ? 4 : hole->index));
    uint8_t bytes[8] = {0};
    for (uint32_t i = 0; i < 8 && hole->offset + i < block->size; i++)
        bytes[i] = block->code[hole->offset + i];
    v->base[number] = get64(bytes) & ~v->mask[number];
    for (unsigned i = 0; i < field->size && hole->offset + i < SHORT_CODE; i++) {
        const unsigned word = long_one ? 4 : hole->index, byte = 4 * word + i;
        v->spread[word >= 4][hole->offset + i] = (uint8_t)(word >= 4 ? byte - 8 : byte);
        v->code[hole->offset + i] = 0;
    }
    return true;
}

static void make_variant(const struct cnp_library *library, struct variant *v, const struct form *form,
                         const struct block *block)
{
    const struct cnp_tables *t = &library->tables;
    v->size = block->size - block->tail;
    memcpy(v->code, block->code, block->size < SHORT_CODE ? block->size : SHORT_CODE);
    memset(v->spread, NO_BYTE, sizeof v->spread);
    unsigned fast = 0;
    uint32_t last = 0;
    for (uint32_t i = 0; i < block->holes; i++) {
        const struct hole *hole = &block->hole[i];
        const struct cnp_field *field = &t->fields[hole->field];
        if (hole->what == CNP_WHAT_TARGET && form->plain)
            v->jump_from = WORD_AT(hole->index);
        if (hole->offset >= v->size)
            continue;
        bool straight = LITTLE_HOST && !t->big_endian && i < 32;
        if (straight && hole->what == CNP_WHAT_OPERAND && fast < FAST && hole->offset >= last && hole->offset < 256 &&
            make_fast(v, fast, form, hole, field, block)) {
            fast++, last = hole->offset + field->size;
            v->handled |= 1u << i;
        } else if (form->plain && hole->what == CNP_WHAT_TARGET && straight && is_straight(field) &&
                   (field->size == 1 || field->size == 4)) {
            v->jump_size = field->size, v->jump_at = hole->offset, v->jump_mask = NONE >> (32 - 8 * field->size);
            v->jump_add = (int32_t)(hole->addend - hole->place);
            v->handled |= 1u << i;
        } else {
            v->rest = 1;
        }
    }
    v->quick = v->spreads = v->size <= SHORT_CODE && !v->rest;
    for (unsigned k = fast; k-- > 0;) /* those that do nothing come first, at the start of the code */
        v->base[FAST - fast + k] = v->base[k], v->mask[FAST - fast + k] = v->mask[k],
        v->at[FAST - fast + k] = v->at[k], v->from[FAST - fast + k] = v->from[k];
    for (unsigned k = 0; k < FAST - fast; k++) {
        memcpy(&v->base[k], v->code, sizeof v->base[k]); /* as it is stored: in the host's byte order */
        v->mask[k] = 0, v->at[k] = 0, v->from[k] = 8;
    }
    for (unsigned k = 0; k < FAST; k++)
        v->turn[k] = NOTHING, v->turn_from[k] = 8;
}

/* The registers of a bank. */
static const struct cnp_register *bank_of(const struct cnp_tables *t, unsigned kind, uint32_t *count)
{
    *count = kind == CNP_TAKES_R ? t->r_count : t->f_count;
    return kind == CNP_TAKES_R ? t->r : t->f;
}

/* Whether none of these bytes of code belongs to a fast hole. */
static bool is_fixed(const struct variant *v, uint32_t first, uint32_t end)
{
    bool fixed = true;
    for (uint32_t i = first; i < end; i++)
        fixed &= v->spread[0][i] == NO_BYTE && v->spread[1][i] == NO_BYTE;
    return fixed;
}

/* Whether a hole is for the number of a register and lies where these are filled at once, whichever it takes. */
static bool is_turned(const struct cnp_tables *t, const struct variant *v, const struct form *form, const struct hole *hole)
{
    if (hole->what != CNP_WHAT_OPERAND)
        return false;
    const struct cnp_field *field = &t->fields[hole->field];
    const struct accept *accept = &form->accepts[hole->index];
    const uint32_t end = hole->offset + field->size;
    if ((accept->kind != CNP_TAKES_R && accept->kind != CNP_TAKES_F) || field->formula != CNP_ABSOLUTE || end > TURNED ||
        end > v->size || !is_fixed(v, hole->offset, end))
        return false;
    uint32_t count;
    const struct cnp_register *bank = bank_of(t, accept->kind, &count);
    bool fits = true;
    for (uint32_t n = 0; n < count; n++) {
        wide value = (wide)bank[n].number + hole->addend;
        bool fine = value >= field->low && value <= (wide)field->high && value % field->align == 0;
        fits &= fine || !(accept->mask >> n & 1);
    }
    return fits;
}

/* What each register turns over in one hole. */
static void turn_hole(const struct cnp_library *library, const struct variant *v, const struct accept *accept,
                      const struct hole *hole, uint8_t *turn)
{
    uint32_t count;
    const struct cnp_register *bank = bank_of(&library->tables, accept->kind, &count);
    const struct cnp_field *field = &library->tables.fields[hole->field];
    for (uint32_t n = 0; n < count; n++, turn += TURNED) {
        uint8_t unit[8];
        if (!(accept->mask >> n & 1))
            continue;
        memcpy(unit, v->code + hole->offset, field->size);
        write_field(library, field, unit, (wide)bank[n].number + hole->addend);
        for (unsigned i = 0; i < field->size; i++)
            turn[hole->offset + i] ^= unit[i] ^ v->code[hole->offset + i];
    }
}

/* Work out what the registers of a form's operands turn over in a variant, unless that is done. false: no memory. */
static bool make_turns(struct cnp_library *library, struct variant *v, const struct form *form, const struct block *block)
{
    const struct cnp_tables *t = &library->tables;
    bool rest = false;
    if (v->turns)
        return true;
    for (uint32_t i = 0; i < block->holes; i++) {
        const struct hole *hole = &block->hole[i];
        if (hole->offset >= v->size || (i < 32 && v->handled >> i & 1))
            continue;
        unsigned k = 0;
        while (k < v->turns && v->turn_from[k] != WORD_AT(hole->index))
            k++;
        if (i >= 32 || k == FAST || !is_turned(t, v, form, hole)) {
            rest = true;
            continue;
        }
        if (k == v->turns) {
            uint8_t *turn = keep(library, TURNED * 32); /* as many as a mask has bits */
            if (!turn)
                return false;
            v->turn[k] = turn, v->turn_mask[k] = 31, v->turn_from[k] = WORD_AT(hole->index), v->turns++;
        }
        turn_hole(library, v, &form->accepts[hole->index], hole, (uint8_t *)v->turn[k]);
        v->handled |= 1u << i;
    }
    v->rest = rest, v->quick = v->size <= SHORT_CODE && !rest, v->spreads = v->quick && !v->turns;
    return true;
}

/* ---- forms */

static int read_accept(const struct cnp_library *library, uint32_t number, struct accept *accept)
{
    const uint8_t *data = row(&library->tables.accepts, number, ROW_ACCEPT);
    if (!data || data[22] >= library->tables.kinds_count)
        return CNP_BAD_TABLES;
    accept->low = (wide)get64(data) - (data[23] ? (wide)1 << 64 : 0);
    accept->high = accept->low + get64(data + 8);
    accept->mask = get32(data + 16);
    accept->kind = library->tables.kinds[data[22]];
    unsigned log2 = get16(data + 20);
    accept->rest = ((uint64_t)1 << (log2 & 63)) - 1;
    bool fine = log2 < 64 && accept->low >= -((wide)1 << 63) && accept->high < (wide)1 << 64;
    return fine ? CNP_OK : CNP_BAD_TABLES;
}

static int read_stencil(struct cnp_library *library, uint32_t number, struct block *blocks, unsigned *count,
                        struct asked *asked, struct cnp_evidence *evidence)
{
    const uint8_t *data = row(&library->tables.stencils, number, ROW_STENCIL);
    if (!data)
        return bad(evidence, "stencils", number);
    uint32_t cold = get32(data + 4);
    *count = cold == NONE ? 1 : 2;
    int status = read_block(library, get32(data), &blocks[0], asked, evidence);
    if (!status && cold != NONE)
        status = read_block(library, cold, &blocks[1], asked, evidence);
    return status;
}

static int read_form(struct cnp_library *library, const struct cnp_operation *op, uint32_t number, struct form *form,
                     struct cnp_evidence *evidence)
{
    const struct cnp_tables *t = &library->tables;
    const uint8_t *data = row(&t->forms, number, ROW_FORM);
    if (!data || get16(data + 12) >= t->ties_count || get16(data + 14) >= t->features_count)
        return bad(evidence, "forms", number);
    struct accept *accepts = keep(library, op->operands * sizeof *accepts);
    if (!accepts)
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    form->accepts = accepts, form->row = number, form->ties = &t->ties[get16(data + 12)];
    uint32_t code = 0, longs = 0;
    for (uint32_t i = 0; i < op->operands; i++) {
        const uint8_t *take = row(&t->takes, (size_t)get32(data) + i, ROW_TAKE);
        if (!take || read_accept(library, get16(take), &accepts[i]))
            return bad(evidence, "takes", (size_t)get32(data) + i);
        code |= (uint32_t)(accepts[i].kind == CNP_TAKES_LABEL || accepts[i].kind == CNP_TAKES_FUNCTION) << i;
        if (is_long(&accepts[i]))
            longs++, form->wide = (uint8_t)(i + 1);
    }
    if (longs != 1 || op->operands > 4)
        form->wide = 0;
    for (unsigned far = 0; far < 2; far++) {
        struct asked asked = {0};
        unsigned blocks;
        uint32_t stencil = get32(data + (far && get32(data + 8) != NONE ? 8 : 4));
        int status = read_stencil(library, stencil, form->block[far], &blocks, &asked, evidence);
        if (status)
            return status;
        if (asked.operands > op->operands || asked.blocks > blocks || asked.places & ~code || (far && blocks != form->blocks))
            return bad(evidence, "stencils", stencil);
        form->blocks = (uint8_t)blocks;
    }
    form->far = get32(data + 8) != NONE;
    const struct cnp_ties *ties = form->ties;
    for (uint32_t i = 0; i < ties->same + ties->differ; i++) {
        uint32_t at = i < ties->same ? ties->first_same + i : ties->first_differ + (i - ties->same);
        if (at >= t->pairs_count || t->pairs[at].first >= op->operands || t->pairs[at].second >= op->operands)
            return bad(evidence, "ties", get16(data + 12));
    }
    return count_form(library, form, evidence);
}

static int read_operation(struct cnp_library *library, uint32_t number, struct operation **found,
                          struct cnp_evidence *evidence)
{
    const struct cnp_tables *t = &library->tables;
    const struct cnp_operation *op = &t->operations[number];
    if (op->operands > CNP_OPERANDS || op->forms > MOST_FORMS || op->first > t->forms.count ||
        op->forms > t->forms.count - op->first)
        return bad(evidence, "operations", number);
    struct operation *made = keep(library, sizeof *made);
    struct form *forms = keep(library, op->forms * sizeof *forms);
    struct variant *variants = keep(library, op->forms * 2 * sizeof *variants);
    if (!made || !forms || !variants)
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, number);
    made->row = op, made->forms = forms, made->variants = variants;
    for (uint32_t i = 0; i < op->forms; i++) {
        int status = read_form(library, op, op->first + i, &forms[i], evidence);
        if (status)
            return status;
        make_variant(library, &variants[2 * i], &forms[i], &forms[i].block[0][0]);
        make_variant(library, &variants[2 * i + 1], &forms[i], &forms[i].block[1][0]);
        struct variant *near = &variants[2 * i];
        near->growth = near[1].size - near->size, near->unreached = near[1].jump_size != 4;
        if (near->jump_size && !near[1].jump_size)
            forms[i].plain = 0;
        near->special = !forms[i].plain;
    }
    *found = made;
    return CNP_OK;
}

/* ---- the library as a whole */

static bool fields_are_fine(const struct cnp_tables *t)
{
    for (uint32_t i = 0; i < t->fields_count; i++) {
        const struct cnp_field *f = &t->fields[i];
        if (f->size < 1 || f->size > 8 || f->formula > CNP_NEGATED || f->parts > 8 || !f->align ||
            f->align & (f->align - 1))
            return false;
        for (unsigned k = 0; k < f->parts; k++)
            if (!f->part[k].width || f->part[k].from + f->part[k].width > 64 || f->part[k].to + f->part[k].width > 8 * f->size)
                return false;
    }
    return t->fields_count <= 256 && t->nop_size && t->trap_size && t->code_align && t->ties_count && t->features_count;
}

static int read_shared(struct cnp_library *library, struct cnp_evidence *evidence)
{
    const struct cnp_tables *t = &library->tables;
    for (uint32_t i = 0; i < t->constants_count; i++) {
        const struct cnp_constant *c = &t->constants[i];
        if (!c->align || c->align > 1u << MOST_ALIGN || c->align & (c->align - 1) || c->start > t->code.count ||
            c->size > t->code.count - c->start)
            return bad(evidence, "constants", i);
    }
    for (uint32_t i = 0; i < t->routines_count; i++) {
        struct asked asked = {0};
        int status = read_block(library, t->routines[i], &library->routines[i], &asked, evidence);
        if (status)
            return status;
        if (asked.operands + asked.blocks)
            return bad(evidence, "routines", i);
    }
    struct hole *holes = keep(library, t->veneer_holes * sizeof *holes);
    if (!holes)
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    library->veneer = (struct block){t->veneer, holes, t->veneer_size, t->veneer_align, t->veneer_holes, 0};
    struct asked asked = {0};
    for (uint32_t i = 0; i < t->veneer_holes; i++)
        if (read_hole(library, t->veneer_rows + (size_t)i * ROW_HOLE, &holes[i], &asked) || holes[i].what != CNP_WHAT_OPERAND)
            return bad(evidence, "veneer", i);
    return asked.end > t->veneer_size ? bad(evidence, "veneer", 0) : CNP_OK;
}

int cnp_library_open(struct cnp_library **library, const struct cnp_tables *tables, const struct cnp_allocator *allocator,
                     struct cnp_evidence *evidence)
{
    *library = NULL;
    if (!fields_are_fine(tables))
        return bad(evidence, "fields", 0);
    struct cnp_library *made = allocator->resize(allocator->context, NULL, 0, sizeof *made);
    if (!made)
        return fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    memset(made, 0, sizeof *made);
    made->tables = *tables, made->allocator = *allocator, made->avx2 = has_avx2();
    made->operations = keep(made, tables->operations_count * sizeof *made->operations);
    made->shapes = keep(made, tables->operations_count * sizeof *made->shapes);
    made->routines = keep(made, tables->routines_count * sizeof *made->routines);
    int status = made->operations && made->shapes && made->routines ? read_shared(made, evidence)
                                                    : fail(evidence, CNP_NO_MEMORY, (size_t)-1, 0);
    for (uint32_t i = 0; i < tables->r_count; i++)
        made->homes |= tables->r[i].number < 0;
    for (uint32_t i = 0; i < tables->f_count; i++)
        made->homes |= tables->f[i].number < 0;
    for (uint32_t i = 0; i < tables->fields_count; i++)
        made->regions |= tables->fields[i].formula == CNP_REGION;
    if (status)
        cnp_library_close(made);
    else
        *library = made;
    return status;
}

void cnp_library_close(struct cnp_library *library)
{
    if (!library)
        return;
    struct cnp_allocator a = library->allocator;
    for (struct slab *slab = library->slabs, *next; slab; slab = next) {
        next = slab->next;
        a.resize(a.context, slab, slab->size, 0);
    }
    a.resize(a.context, library, sizeof *library, 0);
}
