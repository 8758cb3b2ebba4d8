
/* The allocator of the core, where Python owns its libraries and programs: that of C. What is large asks for large pages: the
   parts of a long program are walked from end to end several times. */

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { LARGE = 4 << 20 }; /* bytes */

/* Advice, which the system may refuse and nobody needs to be told of. */
static void ask_for_large_pages(void *memory, size_t size)
{
#ifdef MADV_HUGEPAGE
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), start = ((uintptr_t)memory + page - 1) & -page;
    (void)madvise((void *)start, ((uintptr_t)memory + size - start) & -page, MADV_HUGEPAGE);
#else
    (void)memory, (void)size;
#endif
}

static void *cnp_heap(void *context, void *memory, size_t old, size_t size)
{
    (void)context, (void)old;
    if (!size) {
        free(memory);
        return NULL;
    }
    void *found = realloc(memory, size);
    if (found && size >= LARGE)
        ask_for_large_pages(found, size);
    return found;
}
