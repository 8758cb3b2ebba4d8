
/* The allocator of the core, where Python owns its libraries and programs: that of C. */

static void *cnp_heap(void *context, void *memory, size_t old, size_t size)
{
    (void)context, (void)old;
    if (size)
        return realloc(memory, size);
    free(memory);
    return NULL;
}
