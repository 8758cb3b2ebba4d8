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

/* Bytes that are a callable's first item; the others: slow, and the owner of the recorder. */
struct recorded {
    struct cnp_recorder *recorder;
    uint16_t op;
    uint8_t operands, takes[CNP_OPERANDS];
};

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

/* The kind of an operand, its word written; CNP_NONE: Python knows more. */
static unsigned write_operand(const struct recorded *which, unsigned i, PyObject *operand, struct cnp_record *record)
{
    const struct cnp_recorder *recorder = which->recorder;
    const unsigned at = place_lately(operand);
    int32_t *word = &record->word[i];
    if (lately[at].operand == operand) {
        *word = lately[at].word;
        return lately[at].kind;
    }
    if (is(operand, recorder->slot))
        return item_word(operand, 0, word) && *word >= 0 ? keep_lately(operand, CNP_SLOT, *word) : CNP_NONE;
    if (is(operand, recorder->bank)) {
        uintptr_t bank = (uintptr_t)PyTuple_GetItem(operand, 0);
        if (!item_word(operand, 1, word) || (bank != recorder->r && bank != recorder->f))
            return CNP_NONE;
        return keep_lately(operand, bank == recorder->r ? CNP_R : CNP_F, *word);
    }
    if (PyLong_CheckExact(operand))
        return write_number(which, i, operand, record);
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

/* Append the operation; false: nothing was appended. */
static bool record_operation(const struct recorded *which, PyObject *const *args, Py_ssize_t given)
{
    struct cnp_program *program = which->recorder->program;
    if (!which->recorder->open || given != which->operands)
        return false;
    struct cnp_record *record = cnp_room(program, 1);
    if (!record)
        return false;
    memset(record, 0, sizeof *record);
    record->op = which->op;
    for (unsigned i = 0; i < which->operands; i++) {
        unsigned kind = write_operand(which, i, args[i], record);
        if (kind == CNP_NONE)
            return false;
        record->kinds |= CNP_KIND(kind, i);
    }
    size_t done;
    return cnp_append(program, record, 1, &done, NULL) == CNP_OK;
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

static PyObject *recorded_call(PyObject *self, PyObject *const *args, Py_ssize_t given, PyObject *names)
{
    struct recorded which;
    PyObject *at = NULL;
    memcpy(&which, PyBytes_AsString(PyTuple_GetItem(self, 0)), sizeof which);
    if (names && PyTuple_Size(names)) {
        if (PyTuple_Size(names) > 1 || PyUnicode_CompareWithASCIIString(PyTuple_GetItem(names, 0), "at"))
            return call_slowly(PyTuple_GetItem(self, 1), args, given, names);
        at = args[given] == Py_None ? NULL : args[given];
        if (at && !is_source(at))
            return call_slowly(PyTuple_GetItem(self, 1), args, given, names);
    }
    if (!record_operation(&which, args, given)) {
        if (PyErr_Occurred())
            return NULL;
        return call_slowly(PyTuple_GetItem(self, 1), args, given, names);
    }
    PyObject *position = PyLong_FromSize_t(cnp_count(which.recorder->program) - 1);
    if (position && at && PyDict_SetItem((PyObject *)which.recorder->sources, position, at) < 0) {
        Py_DECREF(position);
        return NULL;
    }
    return position;
}

static PyMethodDef recorded_method = {
    "operation", (PyCFunction)(void (*)(void))recorded_call, METH_FASTCALL | METH_KEYWORDS,
    "Append this operation with its operands; its position. at: its source position as (file, line)."};

/* make_recorded(which, slow, owner): which are the bytes of a `struct recorded`. */
static PyObject *make_recorded(PyObject *self, PyObject *items)
{
    (void)self;
    char *which;
    Py_ssize_t size;
    if (PyTuple_Size(items) != 3 || PyBytes_AsStringAndSize(PyTuple_GetItem(items, 0), &which, &size))
        return NULL;
    if (size != sizeof(struct recorded)) {
        PyErr_SetString(PyExc_ValueError, "these are no bytes of a struct recorded");
        return NULL;
    }
    return PyCFunction_NewEx(&recorded_method, items, NULL);
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
