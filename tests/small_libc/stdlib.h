/* Of <stdlib.h> what small_libc.c has: numbers in decimal without a sign, blocks that are never given back. */

#ifndef STDLIB_H
#define STDLIB_H

#include <stddef.h>

__attribute__((noreturn)) void exit(int status);
long long atoll(const char *text);
void *realloc(void *old, size_t size);
void free(void *block);

#endif
