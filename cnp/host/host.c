/* The host program: a freestanding process that maps an image of generated code, calls it and reports.

   Use:  host IMAGE REPORT        stdin and stdout belong to the code that runs
   The formats of IMAGE and REPORT are drawn in cnp/host.py, which writes the one and reads the other.

   Nothing of a C library is here: it runs wherever a Linux kernel or qemu-user runs. What is special about
   one target lies in machine.h. Every external function of this file is a helper that generated code may call
   by name; build_host() writes their addresses beside the program.

   Whatever fails says so in one line on stderr and ends with exit status 125. A signal in the code (a wild
   load, an undefined instruction) is not caught: it kills the process, and cnp/host.py reads the status. */

#include "machine.h"

__asm__(".text\n .globl _start\n .type _start, @function\n_start:\n" ENTRY ".size _start, . - _start\n");

/* ---- System calls, the same on all targets ------------------------------------------------------------- */

enum { STDIN = 0, STDOUT = 1, STDERR = 2, AT_CWD = -100 };
enum { O_READ = 0, O_WRITE = 1, O_TRUNCATE = 0x200, OWNER_ONLY = 0600, SEEK_END = 2 };
enum { PROT_READ = 1, PROT_WRITE = 2, PROT_EXEC = 4, PROT_ALL = 7 };
enum { MAP_PRIVATE = 2, MAP_FIXED_NOREPLACE = 0x100000, PAGE_MASK = 4095 };
enum { EXIT_OK = 0, EXIT_FAILED = 125, EINTR = 4 };

/* The kernel gives an address or -errno; an address never lies in the last page. */
static i64 sys_mmap(u64 address, u64 size, u64 protection, u64 flags, i64 fd) {
    return system_call(NR_mmap, address, size, protection, flags, (u64)fd, 0);
}

static int failed(i64 result) { return (u64)result > (u64)-4096; }

__attribute__((noreturn)) static void leave(i64 status) {
    for (;;) system_call(NR_exit_group, (u64)status, 0, 0, 0, 0, 0);
}

/* 0, or -errno; a short write goes on where it stopped. */
static i64 write_all(i64 fd, const void *data, u64 size) {
    const u8 *p = data;
    while (size) {
        i64 n = system_call(NR_write, (u64)fd, (u64)p, size, 0, 0, 0);
        if (n == -EINTR) continue;
        if (failed(n)) return n;
        p += n, size -= (u64)n;
    }
    return 0;
}

/* ---- Memory functions: the compiler may call them, and so may generated code --------------------------- */

void *memcpy(void *to, const void *from, u64 n) {
    u8 *d = to;
    const u8 *s = from;
    while (n--) *d++ = *s++;
    return to;
}

void *memmove(void *to, const void *from, u64 n) {
    u8 *d = to;
    const u8 *s = from;
    if ((u64)d - (u64)s >= n) return memcpy(to, from, n);
    while (n--) d[n] = s[n];
    return to;
}

void *memset(void *to, int byte, u64 n) {
    u8 *d = to;
    while (n--) *d++ = (u8)byte;
    return to;
}

/* ---- Messages: "cnp host: segment 2: mmap 0x1000: errno 17" -------------------------------------------- */

struct message {
    u64 size;
    char text[240];
};

static void say(struct message *m, const char *text) {
    while (*text && m->size < sizeof m->text) m->text[m->size++] = *text++;
}

static void say_number(struct message *m, u64 value, u64 base) {
    char digits[21];
    u64 n = sizeof digits;
    digits[--n] = 0;
    do digits[--n] = "0123456789abcdef"[value % base];
    while (value /= base);
    say(m, base == 16 ? "0x" : "");
    say(m, digits + n);
}

/* Says what failed and ends the process; `index` and `address` belong to `part`, a list of the image. */
__attribute__((noreturn)) static void
die(const char *part, u64 index, const char *what, u64 address, i64 error) {
    struct message m = {.size = 0};
    say(&m, "cnp host: ");
    if (part) say(&m, part), say(&m, " "), say_number(&m, index, 10), say(&m, ": ");
    say(&m, what);
    if (part) say(&m, " "), say_number(&m, address, 16);
    if (error) say(&m, ": errno "), say_number(&m, (u64)-error, 10);
    say(&m, "\n");
    write_all(STDERR, m.text, m.size); /* nothing is left to tell a failure to */
    leave(EXIT_FAILED);
}

__attribute__((noreturn)) static void die_plain(const char *what, i64 error) { die(0, 0, what, 0, error); }

/* ---- Helpers for input and output ------------------------------------------------------------------------
   Both streams are buffered. Output goes out when the buffer is full, on cnp_host_flush, before input is
   waited for, and at the end; a process that dies of a signal loses what was buffered. */

enum { BUFFER = 65536 };

static struct {
    u64 size;
    i64 error; /* the first failure: 0 or -errno; it drops later output and becomes the exit status */
    u8 bytes[BUFFER];
} output;

static struct {
    u64 next, size;
    int ended;
    u8 bytes[BUFFER];
} input;

/* 0, or -errno of the first write that failed. */
i64 cnp_host_flush(void) {
    u64 size = output.size;
    output.size = 0;
    if (!output.error) output.error = write_all(STDOUT, output.bytes, size);
    return output.error;
}

/* n, or -errno. */
i64 cnp_host_write(const void *p, u64 n) {
    const u8 *from = p;
    for (u64 left = n; left;) {
        u64 part = BUFFER - output.size < left ? BUFFER - output.size : left;
        memcpy(output.bytes + output.size, from, part);
        output.size += part, from += part, left -= part;
        if (output.size == BUFFER) cnp_host_flush();
    }
    return output.error ? output.error : (i64)n;
}

/* The byte written (the low eight bits of `byte`), or -errno. */
i64 cnp_host_putc(i64 byte) {
    output.bytes[output.size++] = (u8)byte;
    if (output.size == BUFFER) cnp_host_flush();
    return output.error ? output.error : (u8)byte;
}

/* The next byte of stdin, -1 at its end (and ever after). */
i64 cnp_host_getc(void) {
    if (input.next == input.size && !input.ended) {
        cnp_host_flush();
        i64 n;
        do n = system_call(NR_read, STDIN, (u64)input.bytes, BUFFER, 0, 0, 0);
        while (n == -EINTR);
        if (failed(n)) die_plain("read of stdin", n);
        input.next = 0, input.size = (u64)n, input.ended = n == 0;
    }
    return input.next < input.size ? input.bytes[input.next++] : -1;
}

/* ---- The poll helper ----------------------------------------------------------------------------------- */

enum { TRAP_NONE = 0, TRAP_FUEL = 6, QUANTUM = 65536 };

/* The words of the context that a poll touches; the whole layout is drawn in docs/contract.md. */
struct context {
    u64 kind, frame, value;
    i64 fuel; /* polls until the next call of cnp_poll */
    u64 raised;
    i64 budget;  /* polls left in all after those in fuel; negative: no limit */
    i64 quantum; /* the last refill, unless the budget was less */
};

/* Called by the poll operation when fuel ran out: refills it from the budget. The trap code, or TRAP_NONE. A
   run makes exactly fuel + budget polls and traps at the next one, as it does under the native cnp_poll. */
u64 cnp_poll(struct context *context) {
    i64 refill = QUANTUM;
    context->fuel = 0;
    if (context->budget == 0) return TRAP_FUEL;
    if (context->budget > 0) {
        if (context->budget < refill) refill = context->budget;
        context->budget -= refill;
    }
    context->quantum = QUANTUM;
    context->fuel = refill - 1; /* the poll under way is one of them */
    return TRAP_NONE;
}

/* ---- Helpers for tests: they come back with junk in every register that a callee may change ------------ */

/* One parameter of each type a signature may have, mixed so that each bit of each counts:
   h = a; then h = h * K + x for x = b (sign-extended), c (zero-extended), the bits of d, of e, f. */
i64 cnp_test_mix(i64 a, i32 b, u32 c, f64 d, f32 e, i64 f) {
    const u64 K = 0x9e3779b97f4a7c15;
    u64 d_bits;
    u32 e_bits;
    __builtin_memcpy(&d_bits, &d, sizeof d);
    __builtin_memcpy(&e_bits, &e, sizeof e);
    u64 h = (u64)a;
    h = h * K + (u64)(i64)b;
    h = h * K + c;
    h = h * K + d_bits;
    h = h * K + e_bits;
    h = h * K + (u64)f;
    SCRAMBLE;
    return (i64)h;
}

/* x + 1; it overwrites half a KiB of stack below its caller too: nothing may be kept there. */
i64 cnp_test_clobber(i64 x) {
    volatile u64 stack[64];
    for (u64 i = 0; i < 64; i++) stack[i] = ~i;
    SCRAMBLE;
    return (i64)((u64)x + 1);
}

/* A legacy load of eBPF (offset, size, context), of a packet of 256 bytes: byte i is i ^ context. All ones: not there. */
u64 cnp_test_packet(u64 offset, u64 size, u64 context) {
    u64 value = 0;
    if (offset > 256 - size) return ~(u64)0;
    for (u64 i = offset; i < offset + size; i++) value = value << 8 | (u8)(i ^ context);
    SCRAMBLE;
    return value;
}

/* ---- Helpers for eBPF: those of github.com/Alan-Jowett/bpf_conformance, by the names of cnp/ebpf/command.py.
   They trust the addresses that they are given: a wrong one kills the process. */

u64 cnp_ebpf_gather_bytes(u64 a, u64 b, u64 c, u64 d, u64 e) {
    u64 value = (u64)(u8)a << 32 | (u64)(u8)b << 24 | (u64)(u8)c << 16 | (u64)(u8)d << 8 | (u8)e;
    SCRAMBLE;
    return value;
}

u64 cnp_ebpf_memfrob(u8 *bytes, u64 size) {
    while (size--) *bytes++ ^= 42;
    SCRAMBLE;
    return 0;
}

u64 cnp_ebpf_nothing(void) { return 0; }

/* The largest integer whose square is not more than x, one bit after the other. */
u64 cnp_ebpf_square_root(u64 x) {
    u64 root = 0;
    for (u64 bit = (u64)1 << 62; bit; bit >>= 2) {
        int fits = x >= root + bit;
        if (fits) x -= root + bit;
        root = (root >> 1) + (fits ? bit : 0);
    }
    return root;
}

i64 cnp_ebpf_compare_strings(const u8 *a, const u8 *b) {
    while (*a && *a == *b) a++, b++;
    return (i64)*a - *b;
}

u64 cnp_ebpf_unwind(u64 r1) { return r1; }

/* ---- Image and report: drawn in cnp/host.py ------------------------------------------------------------ */

#define IMAGE_MAGIC 0x636e70696d673031ull  /* "cnpimg01" as a number: a wrong byte order shows here */
#define REPORT_MAGIC 0x636e707265703031ull /* "cnprep01" */

struct segment {
    u64 address, size, protection, offset, bytes;
};

struct call {
    u64 routine, argument[4];
};

struct dump {
    u64 address, size;
};

struct image {
    u64 magic, size, segments, calls, dumps;
};

typedef u64 routine(u64, u64, u64, u64);

/* The whole file, read-only in memory; its header is checked against its length. */
static const struct image *open_image(const char *path) {
    i64 fd = system_call(NR_openat, (u64)AT_CWD, (u64)path, O_READ, 0, 0, 0);
    if (failed(fd)) die_plain("open of the image", fd);
    i64 length = system_call(NR_lseek, (u64)fd, 0, SEEK_END, 0, 0, 0);
    if (failed(length)) die_plain("length of the image", length);
    if ((u64)length < sizeof(struct image)) die_plain("the image is cut short", 0);
    i64 at = sys_mmap(0, (u64)length, PROT_READ, MAP_PRIVATE, fd);
    if (failed(at)) die_plain("mmap of the image", at);

    const struct image *image = (const struct image *)at;
    if (image->magic != IMAGE_MAGIC) die_plain("this is no image of this format and byte order", 0);
    if (image->size != (u64)length) die_plain("the image is not as long as its header says", 0);
    u64 limit = image->size / 16; /* no entry is smaller: from here on the sums below cannot overflow */
    if (image->segments > limit || image->calls > limit || image->dumps > limit)
        die_plain("a count is too large", 0);
    u64 tables = image->segments * sizeof(struct segment) + image->calls * sizeof(struct call) +
                 image->dumps * sizeof(struct dump);
    if (tables > image->size - sizeof *image) die_plain("the tables are longer than the image", 0);
    return image;
}

/* New memory, filled while it is writable, flushed, and only then given the protection it keeps. */
static void map_segment(const struct image *image, const struct segment *s, u64 index) {
    if (s->protection & ~(u64)PROT_ALL) die("segment", index, "unknown protection", s->protection, 0);
    if (s->protection & PROT_WRITE && s->protection & PROT_EXEC)
        die("segment", index, "writable and executable at once at", s->address, 0);
    /* A kernel lets root map the first page; then a null pointer would no longer crash. */
    if (s->address <= PAGE_MASK) die("segment", index, "the first page stays unmapped:", s->address, 0);
    if (s->address & PAGE_MASK) die("segment", index, "not on a page boundary:", s->address, 0);
    if (s->bytes > s->size || s->offset > image->size || s->bytes > image->size - s->offset)
        die("segment", index, "its bytes lie outside of the image at", s->address, 0);

    u64 flags = MAP_PRIVATE | MAP_ANON | MAP_FIXED_NOREPLACE;
    i64 at = sys_mmap(s->address, s->size, PROT_READ | PROT_WRITE, flags, -1);
    if (failed(at)) die("segment", index, "mmap at", s->address, at);
    /* Kernels and emulators older than MAP_FIXED_NOREPLACE take the address for a hint. */
    if ((u64)at != s->address) die("segment", index, "mmap: this address is not free:", s->address, 0);

    memcpy((void *)s->address, (const u8 *)image + s->offset, s->bytes);
    if (s->protection & PROT_EXEC) {
        i64 flushed = flush_code(s->address, s->address + s->bytes);
        if (failed(flushed)) die("segment", index, "flush of the instruction cache at", s->address, flushed);
    }
    i64 changed = system_call(NR_mprotect, s->address, s->size, s->protection, 0, 0, 0);
    if (failed(changed)) die("segment", index, "mprotect at", s->address, changed);
}

static void write_report(const char *path, const u64 *words, u64 size, const struct dump *dumps, u64 count) {
    u64 flags = O_WRITE | O_CREATE | O_TRUNCATE;
    i64 fd = system_call(NR_openat, (u64)AT_CWD, (u64)path, flags, OWNER_ONLY, 0, 0);
    if (failed(fd)) die_plain("open of the report", fd);
    i64 written = write_all(fd, words, size);
    if (failed(written)) die_plain("write of the report", written);
    for (u64 i = 0; i < count; i++) {
        written = write_all(fd, (const void *)dumps[i].address, dumps[i].size);
        if (failed(written)) die("dump", i, "cannot be read at", dumps[i].address, written);
    }
}

__attribute__((visibility("hidden"), used, noreturn)) void host_main(const u64 *stack) {
    if (stack[0] != 3) die_plain("usage: host IMAGE REPORT", 0);
    const struct image *image = open_image((const char *)stack[2]);
    const struct segment *segments = (const struct segment *)(image + 1);
    const struct call *calls = (const struct call *)(segments + image->segments);
    const struct dump *dumps = (const struct dump *)(calls + image->calls);

    for (u64 i = 0; i < image->segments; i++) map_segment(image, segments + i, i);

    u64 report_size = (2 + image->calls) * sizeof(u64);
    i64 at = sys_mmap(0, report_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1);
    if (failed(at)) die_plain("mmap of the results", at);
    u64 *report = (u64 *)at;
    report[0] = REPORT_MAGIC, report[1] = image->calls;
    for (u64 i = 0; i < image->calls; i++) {
        const u64 *argument = calls[i].argument;
        report[2 + i] = ((routine *)calls[i].routine)(argument[0], argument[1], argument[2], argument[3]);
    }

    i64 flushed = cnp_host_flush();
    if (failed(flushed)) die_plain("write of stdout", flushed);
    write_report((const char *)stack[3], report, report_size, dumps, image->dumps);
    leave(EXIT_OK);
}
