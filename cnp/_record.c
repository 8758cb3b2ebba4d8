/* Operations one by one: a callable for each, which writes its operands into a record and lets the core choose at once.

       asm.i64_add(r[1], r[2], slot(8))   ->   | op | form | kinds | 1 | 2 | 8 | … |   behind the program's records

   What a record says in one way only is written here: registers, slots, numbers, places that are numbered already. All
   else, and every error, is for the callable in Python that stands behind (`slow`): it knows words for what is wrong. */

/* Of a program under construction. The objects are borrowed from cnp/records.py, which holds them as long as it is open. */
struct cnp_recorder {
    struct cnp_program *program;
    uintptr_t numbers, sources;                        /* dicts: thing -> its number; position -> source position */
    uintptr_t slot, bank, label, function, cell, table; /* classes of operands */
    uintptr_t r, f;                                    /* names of the banks */
    int open;                                          /* 0: ask Python */
};

/* What a number is where this operand stands; whether places may stand there. */
enum { TAKES_NUMBERS = 1, TAKES_POSITIONS = 2, TAKES_THINGS = 4 };

/* An operation, as cnp/records.py describes it. recorder: where that of the present program is found. */
struct recorded {
    struct cnp_recorder *const *recorder;
    uint16_t op;
    uint8_t operands, takes[CNP_OPERANDS];
};

/* The `self` of a callable. owner: of what `recorder` points to. As for those of generated code there is no tp_clear. */
struct recording {
    PyObject_HEAD
    struct recorded which;
    PyObject *slow, *owner;
};

static PyObject *recording_type;

static bool is(PyObject *object, uintptr_t type)
{
    return (uintptr_t)Py_TYPE(object) == type;
}

/* Slots and registers that were written lately, by their address: they never change, and those that are here are held. The
   GIL guards them. */
enum { LATELY = 1024 };
static struct { PyObject *operand; uint32_t kind; int32_t word; } lately[LATELY];

static unsigned place_lately(PyObject *operand)
{
    return (unsigned)((uint64_t)(uintptr_t)operand * 0x9E3779B97F4A7C15u >> 32) % LATELY;
}

static unsigned keep_lately(PyObject *operand, unsigned kind, int32_t word)
{
    const unsigned at = place_lately(operand);
    PyObject *before = lately[at].operand;
    Py_INCREF(operand);
    lately[at].operand = operand, lately[at].kind = kind, lately[at].word = word;
    Py_XDECREF(before);
    return kind;
}

/* The item of a tuple as a word of a record; false: it is none. */
static bool item_word(PyObject *tuple, Py_ssize_t item, int32_t *word)
{
    PyObject *number = PyTuple_GetItem(tuple, item);
    if (!number || !PyLong_CheckExact(number))
        return false;
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    *word = (int32_t)value;
    return !overflow && value == (int32_t)value;
}

/* A number as its word, or in words 4 and 5 where no other one is. */
static unsigned write_number(const struct recorded *which, unsigned i, PyObject *number, struct cnp_record *record)
{
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (!overflow && value == (int32_t)value) {
        record->word[i] = (int32_t)value;
        if (which->takes[i] & TAKES_NUMBERS)
            return CNP_NUMBER;
        return which->takes[i] & TAKES_POSITIONS && value >= 0 ? CNP_POSITION : CNP_NONE;
    }
    if (!(which->takes[i] & TAKES_NUMBERS) || which->operands > 4 || record->form || overflow < 0)
        return CNP_NONE;
    uint64_t bits = overflow ? PyLong_AsUnsignedLongLong(number) : (uint64_t)value;
    if (overflow && PyErr_Occurred()) {
        PyErr_Clear();
        return CNP_NONE;
    }
    memcpy(&record->word[4], &bits, sizeof bits);
    record->form = 1; /* they are taken: the core writes the form */
    return overflow ? CNP_UNSIGNED : CNP_WIDE;
}

/* The kind of an operand that was not there lately, its word written; CNP_NONE: Python knows more. */
static NOINLINE unsigned write_new(const struct recorded *which, unsigned i, PyObject *operand, struct cnp_record *record)
{
    const struct cnp_recorder *recorder = *which->recorder;
    int32_t *word = &record->word[i];
    if (PyLong_CheckExact(operand))
        return write_number(which, i, operand, record);
    if (is(operand, recorder->slot))
        return item_word(operand, 0, word) && *word >= 0 ? keep_lately(operand, CNP_SLOT, *word) : CNP_NONE;
    if (is(operand, recorder->bank)) {
        uintptr_t bank = (uintptr_t)PyTuple_GetItem(operand, 0);
        if (!item_word(operand, 1, word) || (bank != recorder->r && bank != recorder->f))
            return CNP_NONE;
        return keep_lately(operand, bank == recorder->r ? CNP_R : CNP_F, *word);
    }
    if (!(which->takes[i] & TAKES_THINGS))
        return CNP_NONE;
    unsigned kind = is(operand, recorder->label)      ? CNP_LABEL
                    : is(operand, recorder->function) ? CNP_FUNCTION
                    : is(operand, recorder->cell)     ? CNP_CELL
                    : is(operand, recorder->table)    ? CNP_TABLE
                                                      : CNP_NONE;
    if (kind == CNP_NONE) /* of the others' classes nobody knows how they are hashed */
        return CNP_NONE;
    PyObject *number = PyDict_GetItemWithError((PyObject *)recorder->numbers, operand);
    if (!number)
        return CNP_NONE;
    record->word[i] = (int32_t)PyLong_AsLong(number);
    return kind;
}

/* The same of any operand. */
static inline unsigned write_operand(const struct recorded *which, unsigned i, PyObject *operand, struct cnp_record *record)
{
    const unsigned at = place_lately(operand);
    if (unlikely(lately[at].operand != operand))
        return write_new(which, i, operand, record);
    record->word[i] = lately[at].word;
    return lately[at].kind;
}

/* Append the operation; false: nothing was appended. */
static bool record_operation(const struct recorded *which, PyObject *const *args, Py_ssize_t given)
{
    const struct cnp_recorder *recorder = *which->recorder;
    struct cnp_record record = {.op = which->op};
    if (!recorder->open || given != which->operands)
        return false;
    for (unsigned i = 0; i < which->operands; i++) {
        unsigned kind = write_operand(which, i, args[i], &record);
        if (kind == CNP_NONE)
            return false;
        record.kinds |= CNP_KIND(kind, i);
    }
    size_t done;
    return cnp_append(recorder->program, &record, 1, &done, NULL) == CNP_OK;
}

/* The same call of the callable in Python. */
static PyObject *call_slowly(PyObject *slow, PyObject *const *args, Py_ssize_t given, PyObject *names)
{
    PyObject *operands = PyTuple_New(given), *named = NULL, *result = NULL;
    if (!operands)
        return NULL;
    for (Py_ssize_t i = 0; i < given; i++) {
        Py_INCREF(args[i]);
        PyTuple_SetItem(operands, i, args[i]);
    }
    Py_ssize_t count = names ? PyTuple_Size(names) : 0;
    bool failed = count > 0 && !(named = PyDict_New());
    for (Py_ssize_t i = 0; i < count && !failed; i++)
        failed = PyDict_SetItem(named, PyTuple_GetItem(names, i), args[given + i]) < 0;
    if (!failed)
        result = PyObject_Call(slow, operands, named);
    Py_XDECREF(named);
    Py_DECREF(operands);
    return result;
}

/* Whether a source position is as it is kept: (file, line). */
static bool is_source(PyObject *at)
{
    return PyTuple_Check(at) && PyTuple_Size(at) == 2 && PyUnicode_Check(PyTuple_GetItem(at, 0)) &&
           PyLong_Check(PyTuple_GetItem(at, 1));
}

/* Whether the named arguments are no more than a source position; at: that, or NULL. */
static NOINLINE bool only_source(PyObject *names, PyObject *const *named, PyObject **at)
{
    if (!PyTuple_Size(names))
        return true;
    if (PyTuple_Size(names) > 1 || PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "at"))
        return false;
    *at = *named == Py_None ? NULL : *named;
    return !*at || is_source(*at);
}

static PyObject *recorded_call(PyObject *self, PyObject *const *args, Py_ssize_t given, PyObject *names)
{
    const struct recording *made = (const struct recording *)self;
    const struct cnp_recorder *recorder = *made->which.recorder;
    PyObject *at = NULL;
    if (unlikely(names != NULL) && !only_source(names, &args[given], &at))
        return call_slowly(made->slow, args, given, names);
    if (unlikely(!record_operation(&made->which, args, given)))
        return PyErr_Occurred() ? NULL : call_slowly(made->slow, args, given, names);
    PyObject *position = PyLong_FromLong((long)cnp_count(recorder->program) - 1); /* of all ways to make one the fastest */
    if (unlikely(at != NULL) && position && PyDict_SetItem((PyObject *)recorder->sources, position, at) < 0) {
        Py_DECREF(position);
        return NULL;
    }
    return position;
}

static PyMethodDef recorded_method = {
    "operation", (PyCFunction)(void (*)(void))recorded_call, METH_FASTCALL | METH_KEYWORDS,
    "Append this operation with its operands; its position. at: its source position as (file, line)."};

static int recording_traverse(PyObject *self, visitproc visit, void *arg)
{
    const struct recording *made = (const struct recording *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(made->slow);
    Py_VISIT(made->owner);
    return 0;
}

static void recording_dealloc(PyObject *self)
{
    struct recording *made = (struct recording *)self;
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_DECREF(made->slow);
    Py_DECREF(made->owner);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyType_Slot recording_slots[] = {
    {Py_tp_traverse, recording_traverse},
    {Py_tp_dealloc, recording_dealloc},
    {Py_tp_doc, "An operation of a program under construction: the __self__ of the function that appends it."},
    {0, NULL},
};

static PyType_Spec recording_spec = {
    .name = "cnp._core.Recording",
    .basicsize = sizeof(struct recording),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = recording_slots,
};

/* make_recorded(which, slow, owner): which are the bytes of a `struct recorded`. */
static PyObject *make_recorded(PyObject *self, PyObject *items)
{
    (void)self;
    PyObject *which, *slow, *owner;
    if (!PyArg_ParseTuple(items, "SOO:make_recorded", &which, &slow, &owner))
        return NULL;
    if (PyBytes_Size(which) != sizeof(struct recorded)) {
        PyErr_SetString(PyExc_ValueError, "these are no bytes of a struct recorded");
        return NULL;
    }
    struct recording *made = PyObject_GC_New(struct recording, (PyTypeObject *)recording_type);
    if (!made)
        return NULL;
    memcpy(&made->which, PyBytes_AsString(which), sizeof made->which);
    Py_INCREF(slow);
    Py_INCREF(owner);
    made->slow = slow, made->owner = owner;
    PyObject_GC_Track(made);
    PyObject *function = PyCFunction_NewEx(&recorded_method, (PyObject *)made, NULL);
    Py_DECREF(made);
    return function;
}

/* -- what Python asks of records in bulk ------------------------------------------------------------------- */

/* Positions from `first` on of records whose operation is marked (a byte for each) or that have an operand of one of these
   kinds (bits); at most `room` of them. How many were found. */
static size_t cnp_select(const struct cnp_program *program, size_t first, const uint8_t *marked, uint32_t kinds,
                         uint32_t *positions, size_t room)
{
    const struct cnp_record *records = cnp_records(program);
    size_t found = 0;
    for (size_t i = first; i < cnp_count(program) && found < room; i++) {
        bool wanted = marked[records[i].op];
        for (uint32_t rest = kinds ? records[i].kinds : 0; rest && !wanted; rest >>= 4)
            wanted = kinds >> (rest & 15) & 1;
        if (wanted)
            positions[found++] = (uint32_t)i;
    }
    return found;
}

/* The first of some records that means a label as a function which is none: functions has a byte for each label. */
static size_t cnp_first_impostor(const struct cnp_record *records, size_t count, const uint8_t *functions, size_t labels)
{
    for (size_t i = 0; i < count; i++)
        for (unsigned k = 0; k < CNP_OPERANDS; k++)
            if ((records[i].kinds >> 4 * k & 15) == CNP_FUNCTION && (uint32_t)records[i].word[k] < labels &&
                !functions[records[i].word[k]])
                return i;
    return count;
}

/* The blocks of an image but for hot ones that end where the next operation begins; at most `room` of them are written. How
   many there are. */
static size_t cnp_odd_blocks(const struct cnp_program *program, struct cnp_block *blocks, size_t room)
{
    const uint32_t *offsets = cnp_offsets(program);
    size_t found = 0, count = cnp_count(program);
    for (size_t i = cnp_is_dense(program) ? count : 0; i < cnp_blocks(program); i++) {
        struct cnp_block block = cnp_block_at(program, i);
        if (i < count && block.end == offsets[i + 1])
            continue;
        if (found < room)
            blocks[found] = block;
        found++;
    }
    return found;
}
