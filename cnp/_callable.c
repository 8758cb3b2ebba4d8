/* The second half of cnp._core: callables, which turn Python arguments into slots, run generated code and
   turn the result back; and how the functions on Python objects get to Python. Compiled as one text with
   _core.c. */

/* -- arguments and results ------------------------------------------------------------------------------- */

/* Types are the letters of Python's struct module (b B h H i I q Q f d ? P), and v for a result of void.
   An integer of up to 32 bits is extended to 32 by its own sign, then with zeros to 64; a float lies in
   the low 32 bits. */

static int out_of_range(const char *type, PyObject *value)
{
    PyErr_Format(PyExc_OverflowError, "%R does not fit %s", value, type);
    return -1;
}

static inline int signed_slot(PyObject *value, int bits, const char *type, uint64_t *slot)
{
    long long number = PyLong_AsLongLong(value);
    if (unlikely(number == -1) && PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_OverflowError))
            return -1;
        PyErr_Clear();
        return out_of_range(type, value);
    }
    if (bits == 64) {
        *slot = (uint64_t)number;
        return 0;
    }
    if (number < -(1LL << (bits - 1)) || number >= 1LL << (bits - 1))
        return out_of_range(type, value);
    *slot = (uint32_t)number;
    return 0;
}

static inline int unsigned_slot(PyObject *value, int bits, const char *type, uint64_t *slot)
{
    PyObject *index = PyNumber_Index(value);
    if (!index)
        return -1;
    unsigned long long number = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    if (unlikely(number == ~0ULL) && PyErr_Occurred()) {
        PyErr_Clear();
        return out_of_range(type, value);
    }
    if (bits < 64 && number >> bits)
        return out_of_range(type, value);
    *slot = number;
    return 0;
}

static inline int double_slot(PyObject *value, uint64_t *slot)
{
    double number = PyFloat_AsDouble(value);
    if (unlikely(number == -1.0) && PyErr_Occurred())
        return -1;
    memcpy(slot, &number, sizeof *slot);
    return 0;
}

static int float_slot(PyObject *value, uint64_t *slot)
{
    double number = PyFloat_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred())
        return -1;
    float narrow = (float)number;
    if (isinf(narrow) && !isinf(number))
        return out_of_range("float", value);
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof bits);
    *slot = bits;
    return 0;
}

static int bool_slot(PyObject *value, uint64_t *slot)
{
    int truth = PyObject_IsTrue(value);
    *slot = (uint64_t)(truth > 0);
    return truth < 0 ? -1 : 0;
}

static inline int to_slot(char type, PyObject *value, uint64_t *slot)
{
    switch (type) {
    case 'q': return signed_slot(value, 64, "int64_t", slot);
    case 'd': return double_slot(value, slot);
    case 'Q': return unsigned_slot(value, 64, "uint64_t", slot);
    case 'P': return unsigned_slot(value, 64, "a pointer", slot);
    case 'i': return signed_slot(value, 32, "int32_t", slot);
    case 'I': return unsigned_slot(value, 32, "uint32_t", slot);
    case 'h': return signed_slot(value, 16, "int16_t", slot);
    case 'H': return unsigned_slot(value, 16, "uint16_t", slot);
    case 'b': return signed_slot(value, 8, "int8_t", slot);
    case 'B': return unsigned_slot(value, 8, "uint8_t", slot);
    case '?': return bool_slot(value, slot);
    default: return float_slot(value, slot); /* 'f': make_callable() has let nothing else in */
    }
}

static PyObject *from_word(char type, uint64_t word)
{
    uint32_t low = (uint32_t)word;
    double number;
    float narrow;
    switch (type) {
    case 'q': return PyLong_FromLongLong((int64_t)word);
    case 'd': memcpy(&number, &word, sizeof number); return PyFloat_FromDouble(number);
    case 'P':
    case 'Q': return PyLong_FromUnsignedLongLong(word);
    case 'i': return PyLong_FromLong((int32_t)low);
    case 'I': return PyLong_FromUnsignedLong(low);
    case 'h': return PyLong_FromLong((int16_t)low);
    case 'H': return PyLong_FromLong((uint16_t)low);
    case 'b': return PyLong_FromLong((int8_t)low);
    case 'B': return PyLong_FromLong((uint8_t)low);
    case '?': return PyBool_FromLong(low != 0);
    case 'f': memcpy(&narrow, &low, sizeof narrow); return PyFloat_FromDouble(narrow);
    default: Py_RETURN_NONE; /* 'v' */
    }
}

/* -- callables ------------------------------------------------------------------------------------------- */

/* The `self` of a callable. All text and bytes belong to `spec`, the tuple of make_callable()'s arguments,
   so that the collector sees every reference (no tp_clear: a callable in a dead cycle must stay callable
   until it is freed). */
struct callable {
    PyObject_HEAD
    PyMethodDef method;
    PyObject *spec;
    PyObject *failed;
    entry *enter;
    void *code;
    const char *state, *types;
    const int64_t *places; /* of the arguments, in bytes from slot 0: in slots or in the state */
    size_t state_size, header_size, frame_bytes; /* frame_bytes: all frames and headers, a multiple of 16 */
    Py_ssize_t arguments;
    uint32_t depth;
    char result;
};

#define NOINLINE __attribute__((noinline))
#define VALUES "qQiIhHbBdf?P" /* types of arguments */

static PyObject *callable_type;

static PyObject *call_failed(const struct callable *c, const struct context *context)
{
    const struct header *left = header_of(context->frame);
    unsigned long long kind = context->kind, frame = (uintptr_t)context->frame;
    return PyObject_CallFunction(c->failed, "KIKI", kind, (unsigned)left->code, frame, (unsigned)left->op);
}

static inline PyObject *call_in(const struct callable *c, struct thread *t, char *memory, uint32_t depth,
                                PyObject *const *args)
{
    char *frame = memory + c->header_size;
    struct context context = {.fuel = QUANTUM_FIRST, .budget = -1, .quantum = QUANTUM_FIRST};
    memcpy(memory, c->state, c->state_size);
    for (Py_ssize_t n = 0; n < c->arguments; n++)
        if (unlikely(to_slot(c->types[n], args[n], (uint64_t *)(frame + c->places[n])) < 0))
            return NULL;
    *header_of(frame) = (struct header){.depth = depth, .context = &context};
    enter_run(t, c->enter, frame, c->code, 1);
    if (unlikely(context.kind))
        return call_failed(c, &context);
    return from_word(c->result, context.value);
}

static NOINLINE PyObject *call_on_stack(const struct callable *c, struct thread *t, uint32_t depth,
                                        PyObject *const *args)
{
    _Alignas(FRAME_ALIGN) char memory[FRAME_ON_STACK];
    return call_in(c, t, memory, depth, args);
}

static NOINLINE PyObject *call_in_chunk(const struct callable *c, struct thread *t, uint32_t depth,
                                        PyObject *const *args)
{
    char *memory = push_frames(t, c->frame_bytes);
    if (!memory)
        return PyErr_NoMemory();
    PyObject *result = call_in(c, t, memory, depth, args);
    pop_frames(t, c->frame_bytes);
    return result;
}

static PyObject *wrong_count(const struct callable *c, Py_ssize_t count)
{
    return PyErr_Format(PyExc_TypeError, "%s() takes exactly %zd argument%s (%zd given)", c->method.ml_name,
                        c->arguments, c->arguments == 1 ? "" : "s", count);
}

/* The function behind every callable. It keeps the GIL: cnp_poll lets other threads run. */
static PyObject *callable_call(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    const struct callable *c = (const struct callable *)self;
    struct thread *t = &this_thread;
    if (unlikely(count != c->arguments))
        return wrong_count(c, count);
    size_t left = stack_left(t);
    if (unlikely(left < STACK_RESERVE))
        return PyErr_Format(PyExc_RecursionError, "%s(): %zu bytes are left on the native stack",
                            c->method.ml_name, left);
    size_t deepest = (left - STACK_RESERVE) / STACK_CALL;
    uint32_t depth = c->depth < deepest ? c->depth : (uint32_t)deepest;
    if (likely(c->frame_bytes <= FRAME_ON_STACK))
        return call_on_stack(c, t, depth, args);
    return call_in_chunk(c, t, depth, args);
}

static int callable_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((struct callable *)self)->spec);
    return 0;
}

static void callable_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((struct callable *)self)->spec);
    PyObject_GC_Del(self);
    Py_DECREF(type);
}

static PyType_Slot callable_slots[] = {
    {Py_tp_traverse, callable_traverse},
    {Py_tp_dealloc, callable_dealloc},
    {Py_tp_doc, "Generated code, its frame and what keeps both alive: the __self__ of a callable."},
    {0, NULL},
};

static PyType_Spec callable_spec = {
    .name = "cnp._core.Callable",
    .basicsize = sizeof(struct callable),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = callable_slots,
};

/* Reads the arguments of make_callable() into `c`. Everything that could break the memory of a call is
   checked here, once, so that the call need not. */
static int read_spec(struct callable *c, PyObject *spec)
{
    unsigned long long enter, code;
    Py_ssize_t header_size, frame_bytes, depth, state_size, types_size, places_size;
    PyObject *types, *state, *places, *keepalive;
    const char *name, *doc;
    char *text;
    if (!PyArg_ParseTuple(spec, "KKSnSSnnssOO:make_callable", &enter, &code, &types, &header_size, &state,
                          &places, &frame_bytes, &depth, &name, &doc, &c->failed, &keepalive))
        return -1;
    if (PyBytes_AsStringAndSize(types, &text, &types_size) < 0)
        return -1;
    if (strspn(text, VALUES "v") < 1 || strspn(text + 1, VALUES) != (size_t)types_size - 1) {
        PyErr_SetString(PyExc_ValueError, "types: one letter for the result, one for each argument");
        return -1;
    }
    state_size = PyBytes_Size(state);
    if (header_size % FRAME_ALIGN || header_size < (Py_ssize_t)sizeof(struct header) + state_size) {
        PyErr_SetString(PyExc_ValueError,
                        "header_size: a multiple of 16 with room for the state and 32 bytes");
        return -1;
    }
    if (frame_bytes < header_size || frame_bytes > PY_SSIZE_T_MAX - CHUNK_LEAST) {
        PyErr_SetString(PyExc_ValueError, "frame_bytes: the header does not fit");
        return -1;
    }
    places_size = PyBytes_Size(places);
    c->places = (const int64_t *)PyBytes_AsString(places);
    if (places_size != (types_size - 1) * (Py_ssize_t)sizeof *c->places) {
        PyErr_SetString(PyExc_ValueError, "places: one for each argument");
        return -1;
    }
    for (Py_ssize_t n = 0; n < types_size - 1; n++) {
        int64_t place = c->places[n], end = place < 0 ? state_size - header_size : frame_bytes - header_size;
        if (place % SLOT || place < -header_size || place > end - SLOT) {
            PyErr_SetString(PyExc_ValueError, "places: not a slot of the frame, nor a word of the state");
            return -1;
        }
    }
    if (depth < 0) {
        PyErr_SetString(PyExc_ValueError, "depth: negative");
        return -1;
    }
    c->enter = (entry *)(uintptr_t)enter;
    c->code = (void *)(uintptr_t)code;
    c->result = text[0];
    c->types = text + 1;
    c->arguments = types_size - 1;
    c->state = PyBytes_AsString(state);
    c->state_size = (size_t)state_size;
    c->header_size = (size_t)header_size;
    c->frame_bytes = ROUND_UP((size_t)frame_bytes, FRAME_ALIGN);
    c->depth = depth < UINT32_MAX ? (uint32_t)depth : UINT32_MAX;
    c->method = (PyMethodDef){name, (PyCFunction)(void (*)(void))callable_call, METH_FASTCALL, doc};
    return 0;
}

/* make_callable(enter, code, types, header_size, state, places, frame_bytes, depth, name, doc, failed, keepalive) */
static PyObject *make_callable(PyObject *self, PyObject *spec)
{
    (void)self;
    struct callable *c = PyObject_GC_New(struct callable, (PyTypeObject *)callable_type);
    if (!c)
        return NULL;
    c->spec = NULL;
    PyObject *function = NULL;
    if (read_spec(c, spec) == 0) {
        Py_INCREF(spec);
        c->spec = spec;
        function = PyCFunction_NewEx(&c->method, (PyObject *)c, NULL);
    }
    PyObject_GC_Track(c);
    Py_DECREF(c);
    return function;
}

/* -- to Python ------------------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"make_callable", make_callable, METH_VARARGS, NULL},
    {"make_recorded", make_recorded, METH_VARARGS, NULL},
    {"keep_exception", keep_exception, METH_O, NULL},
    {"take_exception", take_exception, METH_NOARGS, NULL},
};

static int prepare(void)
{
    static int prepared;
    if (prepared)
        return 0;
    if (!(raised_key = PyUnicode_InternFromString("cnp: raised in generated code")))
        return -1;
    if (!(callable_type = PyType_FromSpec(&callable_spec)) || !(recording_type = PyType_FromSpec(&recording_spec)))
        return -1;
    errno = pthread_key_create(&thread_end, free_frames);
    if (!errno)
        errno = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
    if (errno) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    prepared = 1;
    return 0;
}

/* Puts the functions on Python objects into the dict at `table`, which is its id(): in CPython the
   address. `main` is the ident of Python's main thread. Returns 0, or -1 with the exception printed: cffi
   has no way to raise it. */
static int cnp_install(uintptr_t table, uintptr_t main)
{
    PyGILState_STATE held = PyGILState_Ensure();
    int failed = prepare();
    main_thread = (pthread_t)main;
    for (size_t n = 0; n < sizeof functions / sizeof *functions && !failed; n++) {
        PyObject *function = PyCFunction_NewEx(&functions[n], NULL, NULL);
        failed = !function || PyDict_SetItemString((PyObject *)table, functions[n].ml_name, function) < 0;
        Py_XDECREF(function);
    }
    if (failed)
        PyErr_Print();
    PyGILState_Release(held);
    return failed ? -1 : 0;
}
