/* cnp._core: what the run time cannot do in Python, as C behind one cffi module (API mode, limited API).

   Two kinds of functions live here. Those that know only addresses and numbers are plain C, declared to cffi in
   _core_build.py; cffi releases the GIL around each of them. Those that take or give Python objects (a callable, an
   exception) are ordinary PyCFunctions, which cnp_install() puts into a dict that native.py hands over.

   A frame and its header, as generated code sees them (H = header bytes, a multiple of 16):

       frame - H    state      the declared state, natural C alignment, state_size bytes
       ...          padding
       frame - 32   u64        inner: frame of the callee through which an exit came
       frame - 24   u32        op: operation at which the run left this frame
       frame - 20   u32        code: trap code
       frame - 16   u32        depth: calls that may still be nested
       frame - 12   u32        outer: 1: RETURN stores the state too
       frame -  8   pointer    context of the run
       frame +  0   slots      8 bytes each; arguments in slots 0, 1, 2 ...

   Greenlets must not be switched while generated code lies on the stack: the current context and the frame memory of a
   thread are stacks. */

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef METH_FASTCALL /* in the stable ABI since 3.10, but the headers of 3.10 hide it */
#define METH_FASTCALL 0x0080
#endif

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ROUND_UP(n, align) (((n) + (align) - 1) / (align) * (align))

enum trap { TRAP_FUEL = 6, TRAP_INTERRUPT = 7, TRAP_RAISED = 8 };

enum { FRAME_ALIGN = 16, SLOT = 8 };

/* One for each run. */
struct context {
    uint64_t kind;          /*  0: how the run ended: 0 returned, 1 exit, 2 trap */
    char *frame;            /*  8: innermost frame that left */
    uint64_t value;         /* 16: result of a return */
    int64_t fuel;           /* 24: polls left until cnp_poll is called */
    uint64_t raised;        /* 32: set by a helper: leave with this trap code */
    int64_t budget;         /* 40: polls left in all after those in fuel; negative: no limit */
    int64_t quantum;        /* 48: last refill */
    uint64_t pending;       /* 56: the interpreter's next call takes pending_value as its result */
    uint64_t pending_value; /* 64 */
    uint64_t clock;         /* 72: time of the last cnp_poll of this run, ns */
    void *user;             /* 80 */
    uint64_t reserved;      /* 88 */
};

/* The last 32 bytes below slot 0. */
struct header {
    uint64_t inner;
    uint32_t op, code, depth, outer;
    struct context *context;
};

_Static_assert(sizeof(struct context) == 96 && offsetof(struct context, user) == 80, "the context is part of the contract");
_Static_assert(sizeof(struct header) == 32 && offsetof(struct header, context) == 24, "the header is part of the contract");

typedef void entry(char *frame, void *code);

static struct header *header_of(char *frame)
{
    return (struct header *)frame - 1;
}

/* -- what each thread knows ------------------------------------------------------------------------------------ */

/* Frame memory of a thread: a stack of chunks, never moved while a frame lies in it. */
struct chunk {
    struct chunk *below;
    size_t size, used; /* bytes after this head */
    uint64_t pad;
};

struct thread {
    struct context *context; /* of the innermost run, NULL outside of generated code */
    int holds_gil;           /* that run was started by a callable, which keeps the GIL */
    char *stack_low, *stack_high;
    uint64_t asked;     /* ns: when cnp_poll last asked Python */
    uint64_t ask_after; /* ns: and how long it waits until the next time */
    struct chunk *top, *spare;
};

static _Thread_local struct thread this_thread;
static pthread_key_t thread_end;
static pthread_t main_thread;   /* the one in which Python runs signal handlers */
static int64_t forks, forks_under_way;

static void free_frames(void *at)
{
    struct thread *t = at;
    while (t->top) {
        struct chunk *below = t->top->below;
        free(t->top);
        t->top = below;
    }
    free(t->spare);
    t->spare = NULL;
}

static void before_fork(void)
{
    __atomic_add_fetch(&forks_under_way, 1, __ATOMIC_SEQ_CST);
}

static void after_fork_in_parent(void)
{
    __atomic_add_fetch(&forks, 1, __ATOMIC_SEQ_CST);
    __atomic_sub_fetch(&forks_under_way, 1, __ATOMIC_SEQ_CST);
}

static void after_fork_in_child(void)
{
    main_thread = pthread_self();
    __atomic_store_n(&forks_under_way, 0, __ATOMIC_SEQ_CST);
    __atomic_add_fetch(&forks, 1, __ATOMIC_SEQ_CST);
}

/* Forks of this process (and, in a child, of those it comes from) since the module was loaded, in Python or in C. A
   negative number while one is under way. */
static int64_t cnp_fork_count(void)
{
    int64_t done = __atomic_load_n(&forks, __ATOMIC_SEQ_CST);
    return __atomic_load_n(&forks_under_way, __ATOMIC_SEQ_CST) ? -1 - done : done;
}

/* Address of the context of the innermost run in this thread, 0 outside of one. */
static uintptr_t cnp_context(void)
{
    return (uintptr_t)this_thread.context;
}

/* A helper wants to leave with trap `code` as soon as it is back in generated code. Without a run: nothing happens. */
static void cnp_raise(uint64_t code)
{
    if (this_thread.context)
        this_thread.context->raised = code;
}

/* -- native stack ---------------------------------------------------------------------------------------------- */

enum {
    STACK_FOREIGN = 64 << 10, /* taken as left on a stack that is not the thread's own, such as a coroutine's */
    STACK_RESERVE = 48 << 10, /* kept for what generated code calls: helpers, Python, signal handlers */
    STACK_CALL = 512,         /* upper bound of what one nested native call takes, on every target */
};

static void find_stack(struct thread *t)
{
    pthread_attr_t attributes;
    void *low;
    size_t size;
    if (pthread_getattr_np(pthread_self(), &attributes))
        return;
    if (!pthread_attr_getstack(&attributes, &low, &size)) {
        t->stack_low = low;
        t->stack_high = t->stack_low + size;
    }
    pthread_attr_destroy(&attributes);
}

static inline size_t stack_left(struct thread *t)
{
    char *here = __builtin_frame_address(0);
    if (unlikely(!t->stack_high))
        find_stack(t);
    if (unlikely(here < t->stack_low || here >= t->stack_high))
        return STACK_FOREIGN;
    return (size_t)(here - t->stack_low);
}

/* Bytes left on the native stack of this thread. */
static uint64_t cnp_stack_left(void)
{
    return stack_left(&this_thread);
}

/* -- run ------------------------------------------------------------------------------------------------------- */

static inline void enter_run(struct thread *t, entry *enter, char *frame, void *code, int holds_gil)
{
    struct context *context = t->context;
    int held = t->holds_gil;
    t->context = header_of(frame)->context;
    t->holds_gil = holds_gil;
    enter(frame, code);
    t->context = context;
    t->holds_gil = held;
}

/* Runs generated code in a frame that the caller has filled in. The GIL is released meanwhile (by cffi): other Python
   threads run, Python helpers take it for themselves. Runs may be nested. */
static void cnp_run(uintptr_t enter, uintptr_t frame, uintptr_t code)
{
    enter_run(&this_thread, (entry *)enter, (char *)frame, (void *)code, 0);
}

/* -- exceptions on their way through generated code ------------------------------------------------------------ */

static PyObject *raised_key;

/* In the dict of the running thread, so that whoever takes it is in the right thread and nothing outlives one. */
static PyObject *keep_exception(PyObject *self, PyObject *exception)
{
    (void)self;
    PyObject *store = PyThreadState_GetDict();
    if (store && PyDict_SetItem(store, raised_key, exception) < 0)
        return NULL;
    cnp_raise(TRAP_RAISED);
    Py_RETURN_NONE;
}

static PyObject *take_exception(PyObject *self, PyObject *nothing)
{
    (void)self, (void)nothing;
    PyObject *store = PyThreadState_GetDict();
    PyObject *exception = store ? PyDict_GetItemWithError(store, raised_key) : NULL;
    if (!exception) {
        if (PyErr_Occurred())
            return NULL;
        Py_RETURN_NONE;
    }
    Py_INCREF(exception);
    if (PyDict_DelItem(store, raised_key) < 0)
        Py_CLEAR(exception);
    return exception;
}

/* Moves the error indicator into the store. */
static void keep_error_indicator(void)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback)
        PyException_SetTraceback(value, traceback);
    PyObject *store = PyThreadState_GetDict();
    if (!store || PyDict_SetItem(store, raised_key, value) < 0)
        PyErr_WriteUnraisable(value);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
}

/* -- poll ------------------------------------------------------------------------------------------------------ */

/* Two clocks tick. cnp_poll itself is called every `quantum` polls, which adapts to CALL_LOW..CALL_HIGH ns; it costs a
   look at the clock. Python is asked when ASK ns have passed since this thread last did. QUANTUM_FIRST and QUANTUM_MAX
   bound the delay before anything is measured, and after an iteration has suddenly become slower: at 40 us an
   iteration, 1024 of them are 41 ms. At 1 ns an iteration they cost about 3 % for the clock. */
enum {
    QUANTUM_FIRST = 16,
    QUANTUM_MAX = 1024,
    CALL_LOW = 250000,
    CALL_HIGH = 1000000,
    ASK = 2000000,
    ASK_MAX = 20000000,
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int64_t adapted(int64_t quantum, uint64_t gap)
{
    if (quantum < 1)
        return QUANTUM_FIRST;
    if (gap < CALL_LOW)
        quantum *= 4;
    else if (gap > CALL_HIGH)
        quantum = (int64_t)((uint64_t)quantum * (CALL_HIGH / 2) / gap);
    return quantum < 1 ? 1 : quantum > QUANTUM_MAX ? QUANTUM_MAX : quantum;
}

/* Runs pending signal handlers and lets other Python threads run. Returns whether a handler raised. */
static int ask_python(struct thread *t, uint64_t since)
{
    PyGILState_STATE held = PyGILState_Ensure();
    int raised = PyErr_CheckSignals() != 0;
    if (raised) {
        keep_error_indicator();
    } else if (held == PyGILState_LOCKED) {
        PyThreadState *state = PyEval_SaveThread();
        PyEval_RestoreThread(state);
    }
    PyGILState_Release(held);
    t->asked = now_ns();
    /* Waiting for a GIL that busy threads hold costs up to 5 ms a time: ask more seldom then, but often enough. */
    uint64_t waited = held == PyGILState_LOCKED ? 0 : t->asked - since;
    t->ask_after = waited * 4 < ASK ? ASK : waited * 4 > ASK_MAX ? ASK_MAX : waited * 4;
    return raised;
}

/* Called by generated code when `fuel` has run out: refills it and returns 0, or returns the trap code with which the
   run has to leave: 6 when the budget is used up, 7 when a signal handler raised (native.take_exception() has it). A
   run that may resume finds `fuel` 0 and polls again at once. Works with and without the GIL. */
static uint64_t cnp_poll(void *at)
{
    struct context *context = at;
    struct thread *t = &this_thread;
    context->fuel = 0;
    if (context->budget == 0)
        return TRAP_FUEL;
    uint64_t now = now_ns();
    int64_t quantum = context->clock ? adapted(context->quantum, now - context->clock) : QUANTUM_FIRST;
    /* Handlers run in the main thread only; elsewhere, without the GIL, there is nothing to do or to give. */
    int concerned = t->holds_gil || pthread_equal(pthread_self(), main_thread);
    if (concerned && now - t->asked >= t->ask_after) {
        if (ask_python(t, now))
            return TRAP_INTERRUPT;
        now = t->asked;
    }
    context->clock = now;
    context->quantum = quantum;
    if (context->budget > 0) {
        quantum = quantum < context->budget ? quantum : context->budget;
        context->budget -= quantum;
    }
    context->fuel = quantum - 1; /* this poll is one of them */
    return 0;
}

/* -- instruction cache and cells ------------------------------------------------------------------------------- */

/* Makes what was written to [address, address + size) visible to instruction fetch. */
static void cnp_flush(uintptr_t address, size_t size)
{
    __builtin___clear_cache((char *)address, (char *)address + size);
}

/* status 0: done, value is what the cell held before (load, add, compare-exchange); -1: the width is none of 1, 2, 4, 8
   or the address is not a multiple of it, nothing was touched. All accesses are sequentially consistent. */
struct cnp_cell {
    uint64_t value;
    int status;
};

#define EACH_WIDTH(ACCESS)                                                                                               \
    if (width && address % width)                                                                                        \
        return (struct cnp_cell){0, -1};                                                                                 \
    switch (width) {                                                                                                     \
    case 1: ACCESS(uint8_t)                                                                                              \
    case 2: ACCESS(uint16_t)                                                                                             \
    case 4: ACCESS(uint32_t)                                                                                             \
    case 8: ACCESS(uint64_t)                                                                                             \
    default: return (struct cnp_cell){0, -1};                                                                            \
    }

static struct cnp_cell cnp_cell_load(uintptr_t address, unsigned width)
{
#define LOAD(type) return (struct cnp_cell){__atomic_load_n((type *)address, __ATOMIC_SEQ_CST), 0};
    EACH_WIDTH(LOAD)
#undef LOAD
}

static struct cnp_cell cnp_cell_store(uintptr_t address, unsigned width, uint64_t value)
{
#define STORE(type) __atomic_store_n((type *)address, (type)value, __ATOMIC_SEQ_CST); return (struct cnp_cell){value, 0};
    EACH_WIDTH(STORE)
#undef STORE
}

static struct cnp_cell cnp_cell_add(uintptr_t address, unsigned width, uint64_t value)
{
#define ADD(type) return (struct cnp_cell){__atomic_fetch_add((type *)address, (type)value, __ATOMIC_SEQ_CST), 0};
    EACH_WIDTH(ADD)
#undef ADD
}

static struct cnp_cell cnp_cell_compare_exchange(uintptr_t address, unsigned width, uint64_t expected, uint64_t desired)
{
#define EXCHANGE(type) {                                                                                                 \
        type found = (type)expected;                                                                                     \
        __atomic_compare_exchange_n((type *)address, &found, (type)desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);      \
        return (struct cnp_cell){found, 0};                                                                              \
    }
    EACH_WIDTH(EXCHANGE)
#undef EXCHANGE
}

/* -- frame memory ---------------------------------------------------------------------------------------------- */

enum {
    FRAME_ON_STACK = 4 << 10, /* up to this many bytes lie on the native stack */
    CHUNK_LEAST = 256 << 10,
};

static struct chunk *new_chunk(struct thread *t, size_t size)
{
    struct chunk *chunk = t->spare;
    t->spare = NULL;
    if (!chunk || chunk->size < size) {
        free(chunk);
        size = size < CHUNK_LEAST ? CHUNK_LEAST : size;
        chunk = malloc(sizeof *chunk + size);
        if (!chunk)
            return NULL;
        chunk->size = size;
        if (pthread_setspecific(thread_end, t)) {
            free(chunk);
            return NULL;
        }
    }
    chunk->used = 0;
    chunk->below = t->top;
    return t->top = chunk;
}

/* `size` is a multiple of 16. NULL: no memory. */
static char *push_frames(struct thread *t, size_t size)
{
    struct chunk *chunk = t->top;
    if (!chunk || chunk->size - chunk->used < size)
        chunk = new_chunk(t, size);
    if (!chunk)
        return NULL;
    char *frames = (char *)(chunk + 1) + chunk->used;
    chunk->used += size;
    return frames;
}

/* An emptied chunk stays as the spare one: the next call needs it again. */
static void pop_frames(struct thread *t, size_t size)
{
    struct chunk *chunk = t->top;
    chunk->used -= size;
    if (chunk->used)
        return;
    t->top = chunk->below;
    free(t->spare);
    t->spare = chunk;
}

_Static_assert(sizeof(struct chunk) % FRAME_ALIGN == 0, "frames are aligned as malloc aligns");

/* -- arguments and results ------------------------------------------------------------------------------------- */

/* Types are the letters of Python's struct module (b B h H i I q Q f d ? P), and v for a result of void.
   An integer of up to 32 bits is extended to 32 by its own sign, then with zeros to 64; a float lies in the low 32 bits. */

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

/* -- callables ------------------------------------------------------------------------------------------------- */

/* The `self` of a callable. All text and bytes belong to `spec`, the tuple of make_callable()'s arguments, so that the
   collector sees every reference (no tp_clear: a callable in a dead cycle must stay callable until it is freed). */
struct callable {
    PyObject_HEAD
    PyMethodDef method;
    PyObject *spec;
    PyObject *failed;
    entry *enter;
    void *code;
    const char *state, *types;
    size_t state_size, header_size, frame_bytes; /* frame_bytes: all frames and headers, a multiple of 16 */
    Py_ssize_t arguments;
    uint32_t depth;
    char result;
};

static PyObject *callable_type;

static PyObject *call_failed(const struct callable *c, const struct context *context)
{
    const struct header *left = header_of(context->frame);
    return PyObject_CallFunction(c->failed, "KIKI", (unsigned long long)context->kind, (unsigned int)left->code,
                                 (unsigned long long)(uintptr_t)context->frame, (unsigned int)left->op);
}

static inline PyObject *call_in(const struct callable *c, struct thread *t, char *memory, uint32_t depth,
                                PyObject *const *args)
{
    char *frame = memory + c->header_size;
    uint64_t *slots = (uint64_t *)frame;
    for (Py_ssize_t n = 0; n < c->arguments; n++)
        if (unlikely(to_slot(c->types[n], args[n], &slots[n]) < 0))
            return NULL;
    struct context context = {.fuel = QUANTUM_FIRST, .budget = -1, .quantum = QUANTUM_FIRST};
    memcpy(memory, c->state, c->state_size);
    *header_of(frame) = (struct header){.depth = depth, .context = &context};
    enter_run(t, c->enter, frame, c->code, 1);
    if (unlikely(context.kind))
        return call_failed(c, &context);
    return from_word(c->result, context.value);
}

static __attribute__((noinline)) PyObject *call_on_stack(const struct callable *c, struct thread *t, uint32_t depth,
                                                         PyObject *const *args)
{
    _Alignas(FRAME_ALIGN) char memory[FRAME_ON_STACK];
    return call_in(c, t, memory, depth, args);
}

static __attribute__((noinline)) PyObject *call_in_chunk(const struct callable *c, struct thread *t, uint32_t depth,
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
    return PyErr_Format(PyExc_TypeError, "%s() takes exactly %zd argument%s (%zd given)", c->method.ml_name, c->arguments,
                        c->arguments == 1 ? "" : "s", count);
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
        return PyErr_Format(PyExc_RecursionError, "%s(): %zu bytes are left on the native stack", c->method.ml_name, left);
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

/* Reads the arguments of make_callable() into `c`. Everything that could break the memory of a call is checked here,
   once, so that the call need not. */
static int read_spec(struct callable *c, PyObject *spec)
{
    unsigned long long enter, code;
    Py_ssize_t header_size, frame_bytes, state_size, types_size;
    unsigned int depth;
    PyObject *types, *state, *keepalive;
    const char *name, *doc;
    char *text;
    if (!PyArg_ParseTuple(spec, "KKSnSnIssOO:make_callable", &enter, &code, &types, &header_size, &state, &frame_bytes,
                          &depth, &name, &doc, &c->failed, &keepalive))
        return -1;
    if (PyBytes_AsStringAndSize(types, &text, &types_size) < 0)
        return -1;
    if (types_size < 1 || !strchr("qQiIhHbBdf?Pv", text[0]) || strspn(text + 1, "qQiIhHbBdf?P") != (size_t)types_size - 1) {
        PyErr_SetString(PyExc_ValueError, "types: one letter for the result, one for each argument");
        return -1;
    }
    state_size = PyBytes_Size(state);
    if (header_size % FRAME_ALIGN || header_size < (Py_ssize_t)sizeof(struct header) + state_size) {
        PyErr_SetString(PyExc_ValueError, "header_size: a multiple of 16 with room for the state and 32 bytes");
        return -1;
    }
    if (frame_bytes < header_size + (types_size - 1) * SLOT || frame_bytes > PY_SSIZE_T_MAX - CHUNK_LEAST) {
        PyErr_SetString(PyExc_ValueError, "frame_bytes: header and arguments do not fit");
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
    c->depth = depth;
    c->method = (PyMethodDef){name, (PyCFunction)(void (*)(void))callable_call, METH_FASTCALL, doc};
    return 0;
}

/* make_callable(enter, code, types, header_size, state, frame_bytes, depth, name, doc, failed, keepalive) */
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

/* -- to Python ------------------------------------------------------------------------------------------------- */

static PyMethodDef functions[] = {
    {"make_callable", make_callable, METH_VARARGS, NULL},
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
    if (!(callable_type = PyType_FromSpec(&callable_spec)))
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

/* Puts the functions on Python objects into the dict at `table`, which is its id(): in CPython the address. `main` is
   the ident of Python's main thread. Returns 0, or -1 with the exception printed: cffi has no way to raise it. */
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
