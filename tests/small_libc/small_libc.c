/* As much of C's library as examples/jit.c asks for, on bare system calls: so it is cross-compiled by a clang alone, for
   every target of the host program, whose machine.h says how each calls its kernel. */

#include "machine.h"

#include "stdio.h"
#include "stdlib.h"
#include "string.h"
#include "sys/mman.h"

#include <stdarg.h>

__asm__(".text\n .globl _start\n .type _start, @function\n_start:\n" ENTRY ".size _start, . - _start\n");

int main(int argc, char **argv);

__attribute__((noreturn)) void host_main(u64 *stack) { exit(main((int)stack[0], (char **)(stack + 1))); }

void exit(int status)
{
    for (;;)
        system_call(NR_exit_group, (u64)status, 0, 0, 0, 0, 0);
}

static int failed(i64 result) { return (u64)result > (u64)-4096; }

/* ---- memory */

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    if ((u64)to - (u64)from >= n)
        return memcpy(to, from, n);
    while (n--)
        ((char *)to)[n] = ((const char *)from)[n];
    return to;
}

void *memset(void *to, int byte, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((char *)to)[i] = (char)byte;
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const u8 *p = a, *q = b;
    for (; n; n--, p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}

enum { HEAP = 1 << 27, BEFORE = 16 }; /* bytes; a block's size stands before it */
static _Alignas(16) char heap[HEAP];
static size_t used;

/* Blocks are never given back. */
void *realloc(void *old, size_t size)
{
    if (size > HEAP - BEFORE - 16 || used + BEFORE + size > HEAP)
        return NULL;
    char *made = heap + used + BEFORE;
    used += BEFORE + (size + 15 & ~(size_t)15);
    memcpy(made - BEFORE, &size, sizeof size);
    if (old) {
        size_t before;
        memcpy(&before, (char *)old - BEFORE, sizeof before);
        memcpy(made, old, before < size ? before : size);
    }
    return made;
}

void free(void *block) { (void)block; }

void *mmap(void *address, size_t size, int protection, int flags, int file, long offset)
{
    (void)flags;
    i64 made = system_call(NR_mmap, (u64)address, size, (u64)protection, MAP_PRIVATE | MAP_ANON, (u64)file, (u64)offset);
    return failed(made) ? MAP_FAILED : (void *)made;
}

int mprotect(void *start, size_t size, int protection)
{
    return failed(system_call(NR_mprotect, (u64)start, size, (u64)protection, 0, 0, 0)) ? -1 : 0;
}

/* The memory stays, but whoever touches it dies. */
int munmap(void *start, size_t size) { return mprotect(start, size, 0); }

/* What compilers make of __builtin___clear_cache where it is not an instruction, under its two names. */
void __clear_cache(void *start, void *end)
{
    if (flush_code((u64)start, (u64)end) != 0)
        exit(124);
}

int __riscv_flush_icache(void *start, void *end, unsigned long flags)
{
    (void)flags;
    __clear_cache(start, end);
    return 0;
}

/* ---- numbers and text */

/* a % b, which compilers call for numbers of 128 bits: long division, bit by bit. */
__int128 __modti3(__int128 a, __int128 b)
{
    unsigned __int128 left = a < 0 ? -(unsigned __int128)a : (unsigned __int128)a;
    unsigned __int128 by = b < 0 ? -(unsigned __int128)b : (unsigned __int128)b, rest = 0;
    for (int bit = 127; bit >= 0; bit--) {
        rest = rest << 1 | (left >> bit & 1);
        if (rest >= by)
            rest -= by;
    }
    return a < 0 ? -(__int128)rest : (__int128)rest;
}

long long atoll(const char *text)
{
    long long value = 0;
    while ('0' <= *text && *text <= '9')
        value = 10 * value + (*text++ - '0');
    return value;
}

struct small_file {
    int number;
};
static struct small_file output = {1}, errors = {2};
FILE *const stdout = &output, *const stderr = &errors;

static void put(FILE *file, const char *text, size_t size)
{
    while (size) {
        i64 written = system_call(NR_write, (u64)file->number, (u64)text, size, 0, 0, 0);
        if (failed(written))
            exit(123);
        text += written, size -= (size_t)written;
    }
}

static void put_number(FILE *file, long long value)
{
    char digits[20], *end = digits + sizeof digits, *at = end;
    u64 left = value < 0 ? -(u64)value : (u64)value;
    do
        *--at = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0)
        put(file, "-", 1);
    put(file, at, (size_t)(end - at));
}

/* %s, %d and %lld */
static void print(FILE *file, const char *format, va_list values)
{
    for (; *format; format++)
        if (format[0] == '%' && format[1] == 's') {
            const char *text = va_arg(values, const char *), *end = text;
            while (*end)
                end++;
            put(file, text, (size_t)(end - text));
            format++;
        } else if (format[0] == '%' && format[1] == 'd') {
            put_number(file, va_arg(values, int));
            format++;
        } else if (format[0] == '%') {
            put_number(file, va_arg(values, long long));
            format += 3;
        } else
            put(file, format, 1);
}

int fprintf(FILE *file, const char *format, ...)
{
    va_list values;
    va_start(values, format);
    print(file, format, values);
    va_end(values);
    return 0;
}

int printf(const char *format, ...)
{
    va_list values;
    va_start(values, format);
    print(stdout, format, values);
    va_end(values);
    return 0;
}
