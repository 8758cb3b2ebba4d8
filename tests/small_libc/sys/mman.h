/* Of <sys/mman.h> what small_libc.c has: memory of no file. MAP_ANONYMOUS is a name alone, for its number differs. */

#ifndef MMAN_H
#define MMAN_H

#include <stddef.h>

enum { PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4, MAP_PRIVATE = 2, MAP_ANONYMOUS = 0 };
#define MAP_FAILED ((void *)-1)

void *mmap(void *address, size_t size, int protection, int flags, int file, long offset);
int mprotect(void *start, size_t size, int protection);
int munmap(void *start, size_t size);

#endif
