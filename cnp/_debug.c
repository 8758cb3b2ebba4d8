/* What gdb knows of generated code: its JIT interface, a list of ELF files in memory.

       __jit_debug_descriptor    version, action, relevant entry, first entry
       __jit_debug_register_code gdb stops here and reads the descriptor

   gdb looks for the two names in each file that a process loads; `protected` keeps another library's from being taken
   for ours. cnp/debug/elf.py writes the files. */

enum { JIT_NOTHING, JIT_REGISTER, JIT_UNREGISTER };

struct jit_code_entry {
    struct jit_code_entry *next, *previous;
    const char *file;
    uint64_t size;
};

struct jit_descriptor {
    uint32_t version, action;
    struct jit_code_entry *relevant, *first;
};

#define SEEN_BY_GDB __attribute__((visibility("protected"), used))

SEEN_BY_GDB struct jit_descriptor __jit_debug_descriptor = {1, JIT_NOTHING, NULL, NULL};
SEEN_BY_GDB void __jit_debug_register_code(void);

__attribute__((noinline)) void __jit_debug_register_code(void)
{
    __asm__ volatile("" ::: "memory");
}

static pthread_mutex_t jit_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t jit_once = PTHREAD_ONCE_INIT;
static int jit_refused; /* the error of pthread_atfork */

static void lock_jit(void)
{
    pthread_mutex_lock(&jit_lock);
}

static void unlock_jit(void)
{
    pthread_mutex_unlock(&jit_lock);
}

/* A fork by one thread while another is inside would leave the child a lock that nobody opens. */
static void mind_forks(void)
{
    jit_refused = pthread_atfork(lock_jit, unlock_jit, unlock_jit);
}

static void tell_gdb(uint32_t action, struct jit_code_entry *entry)
{
    __jit_debug_descriptor.action = action;
    __jit_debug_descriptor.relevant = entry;
    __jit_debug_register_code();
    __jit_debug_descriptor.action = JIT_NOTHING;
    __jit_debug_descriptor.relevant = NULL;
}

/* Show gdb a copy of a file. NULL: no memory. */
static void *cnp_gdb_add(const void *file, size_t size)
{
    struct jit_code_entry *entry = malloc(sizeof *entry + size);
    if (!entry)
        return NULL;
    pthread_once(&jit_once, mind_forks);
    if (jit_refused) {
        free(entry);
        return NULL;
    }
    memcpy(entry + 1, file, size);
    entry->file = (const char *)(entry + 1);
    entry->size = size;
    entry->previous = NULL;
    lock_jit();
    entry->next = __jit_debug_descriptor.first;
    if (entry->next)
        entry->next->previous = entry;
    __jit_debug_descriptor.first = entry;
    tell_gdb(JIT_REGISTER, entry);
    unlock_jit();
    return entry;
}

/* Take back what cnp_gdb_add() returned. */
static void cnp_gdb_remove(void *added)
{
    struct jit_code_entry *entry = added;
    lock_jit();
    if (entry->previous)
        entry->previous->next = entry->next;
    else
        __jit_debug_descriptor.first = entry->next;
    if (entry->next)
        entry->next->previous = entry->previous;
    tell_gdb(JIT_UNREGISTER, entry);
    unlock_jit();
    free(entry);
}
