/* Of <stdio.h> what small_libc.c has: formats of %s, %d and %lld, nothing buffered. */

#ifndef STDIO_H
#define STDIO_H

typedef struct small_file FILE;
extern FILE *const stdout, *const stderr;

__attribute__((format(printf, 1, 2))) int printf(const char *format, ...);
__attribute__((format(printf, 2, 3))) int fprintf(FILE *file, const char *format, ...);

#endif
