/* cnp._core: what the run time cannot do in Python, as C behind one cffi module (API mode, limited API).

   Two kinds of functions live here. Those that know only addresses and numbers are plain C, declared to
   cffi in _core_build.py; cffi releases the GIL around each of them. Those that take or give Python
   objects (a callable, an exception) are ordinary PyCFunctions, which cnp_install() puts into a dict that
   native.py hands over. _callable.c is the second half of this text.

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

   Greenlets must not be switched while generated code lies on the stack: the current context and the frame
   memory of a thread are stacks. */

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

_Static_assert(sizeof(struct context) == 96 && offsetof(struct context, user) == 80,
               "the context is part of the contract");
_Static_assert(sizeof(struct header) == 32 && offsetof(struct header, context) == 24,
               "the header is part of the contract");

typedef void entry(char *frame, void *code);

static struct header *header_of(char *frame)
{
    return (struct header *)frame - 1;
}

/* -- what each thread knows ------------------------------------------------------------------------------ */

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

/* Forks of this process (and, in a child, of those it comes from) since the module was loaded, in Python
   or in C. A negative number while one is under way. */
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

/* A helper wants to leave with trap `code` as soon as it is back in generated code. Without a run: nothing
   happens. */
static void cnp_raise(uint64_t code)
{
    if (this_thread.context)
        this_thread.context->raised = code;
}

/* -- native stack ---------------------------------------------------------------------------------------- */

enum {
    STACK_FOREIGN = 64 << 10, /* taken as left on a stack not the thread's own, such as a coroutine's */
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

/* -- run ------------------------------------------------------------------------------------------------- */

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

/* Runs generated code in a frame that the caller has filled in. The GIL is released meanwhile (by cffi):
   other Python threads run, Python helpers take it for themselves. Runs may be nested. */
static void cnp_run(uintptr_t enter, uintptr_t frame, uintptr_t code)
{
    enter_run(&this_thread, (entry *)enter, (char *)frame, (void *)code, 0);
}

/* -- exceptions on their way through generated code ------------------------------------------------------ */

static PyObject *raised_key;

/* In the dict of the running thread, so that whoever takes it is in the right thread and nothing outlives
   one. */
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

/* -- poll ------------------------------------------------------------------------------------------------ */

/* Two clocks tick. cnp_poll itself is called every `quantum` polls, which adapts to CALL_LOW..CALL_HIGH
   ns; it costs a look at the clock. Python is asked when ASK ns have passed since this thread last did.
   QUANTUM_FIRST and QUANTUM_MAX bound the delay before anything is measured, and after an iteration has
   suddenly become slower: at 40 us an iteration, 1024 of them are 41 ms. At 1 ns an iteration they cost
   about 3 % for the clock. */
enum {
    QUANTUM_FIRST = 16,
    QUANTUM_MAX = 1024,
    CALL_LOW = 250000,
    CALL_HIGH = 1000000,
    ASK = 2000000,
    ASK_MAX = 12000000,
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
    /* Waiting for a GIL that busy threads hold costs up to 5 ms a time: ask more seldom then, but often
       enough. */
    uint64_t waited = held == PyGILState_LOCKED ? 0 : t->asked - since;
    t->ask_after = waited * 4 < ASK ? ASK : waited * 4 > ASK_MAX ? ASK_MAX : waited * 4;
    return raised;
}

/* Called by generated code when `fuel` has run out: refills it and returns 0, or returns the trap code
   with which the run has to leave: 6 when the budget is used up, 7 when a signal handler raised
   (native.take_exception() has it). A run that may resume finds `fuel` 0 and polls again at once. Works
   with and without the GIL. */
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

/* -- instruction cache and cells ------------------------------------------------------------------------- */

/* Makes what was written to [address, address + size) visible to instruction fetch. */
static void cnp_flush(uintptr_t address, size_t size)
{
    __builtin___clear_cache((char *)address, (char *)address + size);
}

/* Cells are aligned words of 1, 2, 4 or 8 bytes (native.check_cell() has made sure; with any other width
   nothing is touched). All accesses are sequentially consistent; those with a result return what the cell
   held before. */
#define EACH_WIDTH(ACCESS) \
    switch (width) { \
    case 1: ACCESS(uint8_t) \
    case 2: ACCESS(uint16_t) \
    case 4: ACCESS(uint32_t) \
    case 8: ACCESS(uint64_t) \
    } \
    return 0;

static uint64_t cnp_cell_load(uintptr_t address, unsigned width)
{
#define LOAD(type) return __atomic_load_n((type *)address, __ATOMIC_SEQ_CST);
    EACH_WIDTH(LOAD)
#undef LOAD
}

static uint64_t cnp_cell_store(uintptr_t address, unsigned width, uint64_t value)
{
#define STORE(type) return __atomic_exchange_n((type *)address, (type)value, __ATOMIC_SEQ_CST);
    EACH_WIDTH(STORE)
#undef STORE
}

static uint64_t cnp_cell_add(uintptr_t address, unsigned width, uint64_t value)
{
#define ADD(type) return __atomic_fetch_add((type *)address, (type)value, __ATOMIC_SEQ_CST);
    EACH_WIDTH(ADD)
#undef ADD
}

static uint64_t cnp_cell_compare_exchange(uintptr_t address, unsigned width, uint64_t expected,
                                          uint64_t desired)
{
#define EXCHANGE(type) { \
        type found = (type)expected; \
        __atomic_compare_exchange_n((type *)address, &found, (type)desired, 0, __ATOMIC_SEQ_CST, \
                                    __ATOMIC_SEQ_CST); \
        return found; \
    }
    EACH_WIDTH(EXCHANGE)
#undef EXCHANGE
}

/* -- frame memory ---------------------------------------------------------------------------------------- */

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
