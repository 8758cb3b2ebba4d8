/* What is special about each target of the host program, one section for each: types and facts, no state.

   Each section has the same rows, in the same order:
     NR_*                numbers of the system calls (asm/unistd.h of the kernel)
     O_CREATE, MAP_ANON  the two flags whose values differ between targets
     system_call         the call itself; a failure is -errno on every target
     flush_code          makes what was stored in [start, end) visible to instruction fetch; 0 or -errno
     ENTRY               _start: an aligned stack, the initial stack pointer as the only argument of host_main
     SCRAMBLE            stores junk in every register that a callee may change under the target's C ABI */

typedef __UINT8_TYPE__ u8;
typedef __INT32_TYPE__ i32;
typedef __UINT32_TYPE__ u32;
typedef __INT64_TYPE__ i64;
typedef __UINT64_TYPE__ u64;
typedef double f64;
typedef float f32;

#if defined(__x86_64__)
/* ---- x86-64, System V ABI ------------------------------------------------------------------------------ */

enum { NR_read = 0, NR_write = 1, NR_lseek = 8, NR_mmap = 9, NR_mprotect = 10 };
enum { NR_exit_group = 231, NR_openat = 257 };
enum { O_CREATE = 0x40, MAP_ANON = 0x20 };

static i64 system_call(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
    register u64 r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    u64 result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "cc", "memory");
    return (i64)result;
}

/* Instruction fetch sees stores at the next jump: Intel SDM volume 3, 12.1.3. */
static i64 flush_code(u64 start, u64 end) {
    (void)start, (void)end;
    return 0;
}

#define ENTRY               \
    "mov  %rsp, %rdi\n"     \
    "xor  %ebp, %ebp\n"     \
    "and  $-16, %rsp\n"     \
    "call host_main\n"      \
    "ud2\n"

#define SCRAMBLE                                                                                       \
    __asm__ volatile(                                                                                  \
        ".irp reg, rax,rcx,rdx,rsi,rdi,r8,r9,r10,r11\n mov $-0x55555556, %%\\reg\n .endr\n"            \
        ".irp reg, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n pcmpeqd %%xmm\\reg, %%xmm\\reg\n .endr\n"   \
        "cmp %%rax, %%rcx\n"                                                                           \
        : /* no result */                                                                              \
        : /* no operand */                                                                             \
        : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3", \
          "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", \
          "xmm15", "cc", "memory")

#elif defined(__aarch64__)
/* ---- AArch64, AAPCS64 ---------------------------------------------------------------------------------- */

enum { NR_openat = 56, NR_lseek = 62, NR_read = 63, NR_write = 64, NR_exit_group = 94 };
enum { NR_mmap = 222, NR_mprotect = 226 };
enum { O_CREATE = 0x40, MAP_ANON = 0x20 };

static i64 system_call(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
    register u64 x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register u64 x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "cc", "memory");
    return (i64)x0;
}

/* Arm ARM B2.4.4: clean the data lines to the point of unification, then drop the instruction lines. */
static i64 flush_code(u64 start, u64 end) {
    u64 ctr;
    __asm__("mrs %0, ctr_el0" : "=r"(ctr));
    u64 data_line = 4ull << (ctr >> 16 & 15), code_line = 4ull << (ctr & 15);
    for (u64 p = start & -data_line; p < end; p += data_line)
        __asm__ volatile("dc cvau, %0" ::"r"(p) : "memory");
    __asm__ volatile("dsb ish" ::: "memory");
    for (u64 p = start & -code_line; p < end; p += code_line)
        __asm__ volatile("ic ivau, %0" ::"r"(p) : "memory");
    __asm__ volatile("dsb ish\n isb" ::: "memory");
    return 0;
}

#define ENTRY               \
    "mov  x0, sp\n"         \
    "mov  x29, xzr\n"       \
    "mov  x30, xzr\n"       \
    "bl   host_main\n"      \
    "udf  #0\n"

/* x18 belongs to the platform. Of v8-v15 a callee keeps the low halves only. */
#define SCRAMBLE                                                                                           \
    __asm__ volatile(                                                                                      \
        ".irp reg, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17\n mov x\\reg, #-0x5556\n .endr\n"           \
        ".irp reg, 0,1,2,3,4,5,6,7,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"                      \
        " movi v\\reg\\().16b, #0xff\n .endr\n"                                                            \
        ".irp reg, 8,9,10,11,12,13,14,15\n mov v\\reg\\().d[1], x0\n .endr\n"                              \
        "cmp x0, #1\n"                                                                                     \
        : /* no result */                                                                                  \
        : /* no operand */                                                                                 \
        : "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",   \
          "x15", "x16", "x17", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17", "v18", "v19", \
          "v20", "v21", "v22", "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31", "cc",        \
          "memory")

#elif defined(__riscv) && __riscv_xlen == 64
/* ---- RISC-V 64, lp64d ---------------------------------------------------------------------------------- */

enum { NR_openat = 56, NR_lseek = 62, NR_read = 63, NR_write = 64, NR_exit_group = 94 };
enum { NR_mmap = 222, NR_mprotect = 226, NR_riscv_flush_icache = 259 };
enum { O_CREATE = 0x40, MAP_ANON = 0x20 };

static i64 system_call(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
    register u64 a7 __asm__("a7") = number, a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c;
    register u64 a3 __asm__("a3") = d, a4 __asm__("a4") = e, a5 __asm__("a5") = f;
    __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5) : "memory");
    return (i64)a0;
}

/* fence.i orders the hart it runs on only, and the kernel may move us to another: so the kernel is asked. */
static i64 flush_code(u64 start, u64 end) {
    return system_call(NR_riscv_flush_icache, start, end, 0, 0, 0, 0);
}

#define ENTRY               \
    "mv   a0, sp\n"         \
    "andi sp, sp, -16\n"    \
    "mv   s0, zero\n"       \
    "call host_main\n"      \
    "unimp\n"

#define SCRAMBLE                                                                                          \
    __asm__ volatile(                                                                                     \
        ".irp reg, ra,t0,t1,t2,t3,t4,t5,t6,a0,a1,a2,a3,a4,a5,a6,a7\n li \\reg, -0x55555556\n .endr\n"     \
        ".irp reg, ft0,ft1,ft2,ft3,ft4,ft5,ft6,ft7,ft8,ft9,ft10,ft11,fa0,fa1,fa2,fa3,fa4,fa5,fa6,fa7\n"   \
        " fmv.d.x \\reg, t0\n .endr\n"                                                                    \
        : /* no result */                                                                                 \
        : /* no operand */                                                                                \
        : "ra", "t0", "t1", "t2", "t3", "t4", "t5", "t6", "a0", "a1", "a2", "a3", "a4", "a5", "a6", "a7", \
          "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7", "ft8", "ft9", "ft10", "ft11", "fa0",    \
          "fa1", "fa2", "fa3", "fa4", "fa5", "fa6", "fa7", "memory")

#elif defined(__powerpc64__) && _CALL_ELF == 2
/* ---- Power, little-endian, ELFv2 ----------------------------------------------------------------------- */

enum { NR_read = 3, NR_write = 4, NR_lseek = 19, NR_mmap = 90, NR_mprotect = 125 };
enum { NR_exit_group = 234, NR_openat = 286 };
enum { O_CREATE = 0x40, MAP_ANON = 0x20 };

/* The kernel flags a failure in the summary overflow bit of cr0 and gives errno as a positive number. */
static i64 system_call(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
    register u64 r0 __asm__("r0") = number, r3 __asm__("r3") = a, r4 __asm__("r4") = b, r5 __asm__("r5") = c;
    register u64 r6 __asm__("r6") = d, r7 __asm__("r7") = e, r8 __asm__("r8") = f;
    __asm__ volatile("sc\n bns+ 1f\n neg 3, 3\n1:"
                     : "+r"(r0), "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r7), "+r"(r8)
                     :
                     : "r9", "r10", "r11", "r12", "cr0", "ctr", "memory");
    return (i64)r3;
}

/* Power ISA book II 1.8. 32 divides the block size of every implementation. */
static i64 flush_code(u64 start, u64 end) {
    for (u64 p = start & -32ull; p < end; p += 32) __asm__ volatile("dcbst 0, %0" ::"r"(p) : "memory");
    __asm__ volatile("sync" ::: "memory");
    for (u64 p = start & -32ull; p < end; p += 32) __asm__ volatile("icbi 0, %0" ::"r"(p) : "memory");
    __asm__ volatile("sync\n isync" ::: "memory");
    return 0;
}

/* The program lies below 2 GiB, so two instructions make the table pointer, whoever jumped here. */
#define ENTRY               \
    "lis   2, .TOC.@ha\n"   \
    "addi  2, 2, .TOC.@l\n" \
    "mr    3, 1\n"          \
    "clrrdi 1, 1, 4\n"      \
    "li    0, 0\n"          \
    "stdu  0, -64(1)\n"     \
    "bl    host_main\n"     \
    "nop\n"                 \
    "trap\n"

/* v0-v19 are vs32-vs51. Of vs14-vs31 a callee keeps the first doublewords only (f14-f31). */
#define SCRAMBLE                                                                                        \
    __asm__ volatile(                                                                                   \
        ".irp reg, 0,3,4,5,6,7,8,9,10,11,12\n li \\reg, -0x5556\n .endr\n"                              \
        ".irp reg, 0,1,2,3,4,5,6,7,8,9,10,11,12,13\n xxlorc \\reg, \\reg, \\reg\n .endr\n"              \
        ".irp reg, 14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"                             \
        " xxmrghd \\reg, \\reg, 0\n .endr\n"                                                            \
        ".irp reg, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19\n vspltisb \\reg, -1\n .endr\n"    \
        "mtctr 0\n mtlr 0\n mtxer 0\n mtcrf 0xc7, 0\n"                                                  \
        : /* no result */                                                                               \
        : /* no operand */                                                                              \
        : "r0", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "f0", "f1", "f2", "f3",  \
          "f4", "f5", "f6", "f7", "f8", "f9", "f10", "f11", "f12", "f13", "v0", "v1", "v2", "v3", "v4", \
          "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18",  \
          "v19", "cr0", "cr1", "cr5", "cr6", "cr7", "ctr", "lr", "xer", "memory")

#elif defined(__mips64) && _MIPS_SIM == _ABI64
/* ---- MIPS64, n64, both byte orders --------------------------------------------------------------------- */

enum { NR_read = 5000, NR_write = 5001, NR_lseek = 5008, NR_mmap = 5009, NR_mprotect = 5010 };
enum { NR_cacheflush = 5197, NR_exit_group = 5205, NR_openat = 5247 };
enum { O_CREATE = 0x100, MAP_ANON = 0x800 };

/* The kernel flags a failure in $7 and gives errno as a positive number in $2. */
static i64 system_call(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f) {
    register u64 v0 __asm__("$2") = number, a0 __asm__("$4") = a, a1 __asm__("$5") = b, a2 __asm__("$6") = c;
    register u64 a3 __asm__("$7") = d, a4 __asm__("$8") = e, a5 __asm__("$9") = f;
    __asm__ volatile("syscall"
                     : "+r"(v0), "+r"(a3)
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a4), "r"(a5)
                     : "$1", "$3", "$10", "$11", "$12", "$13", "$14", "$15", "$24", "$25", "hi", "lo",
                       "memory");
    return a3 ? -(i64)v0 : (i64)v0;
}

enum { BOTH_CACHES = 3 };

static i64 flush_code(u64 start, u64 end) {
    return system_call(NR_cacheflush, start, end - start, BOTH_CACHES, 0, 0, 0);
}

#define ENTRY                       \
    ".set push\n .set noreorder\n"  \
    "move  $4, $29\n"               \
    "dins  $29, $0, 0, 4\n"         \
    "move  $30, $0\n"               \
    "move  $31, $0\n"               \
    "jal   host_main\n"             \
    "nop\n"                         \
    "break\n"                       \
    ".set pop\n"

#define SCRAMBLE                                                                                          \
    __asm__ volatile(                                                                                     \
        ".set push\n .set noat\n"                                                                         \
        ".irp reg, 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,24,25,31\n daddiu $\\reg, $0, -0x5556\n .endr\n"   \
        ".irp reg, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n"                       \
        " dmtc1 $1, $f\\reg\n .endr\n"                                                                    \
        "mthi $1\n mtlo $1\n .set pop\n"                                                                  \
        : /* no result */                                                                                 \
        : /* no operand */                                                                                \
        : "$1", "$2", "$3", "$4", "$5", "$6", "$7", "$8", "$9", "$10", "$11", "$12", "$13", "$14", "$15", \
          "$24", "$25", "$31", "$f0", "$f1", "$f2", "$f3", "$f4", "$f5", "$f6", "$f7", "$f8", "$f9",      \
          "$f10", "$f11", "$f12", "$f13", "$f14", "$f15", "$f16", "$f17", "$f18", "$f19", "$f20", "$f21", \
          "$f22", "$f23", "hi", "lo", "memory")

#else
#error "the host program knows no system calls for this target: add a section"
#endif
