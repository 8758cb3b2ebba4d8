# The kernels of `cnp bench quality` by hand for x86-64-v2, in the order of kernels.py, which says what each one does.
#
# Each does what the operations there do, in their order and with their loops. Whatever the machine offers for one
# operation, or for neighbours together, is used: addresses as operands, lea, flags of the instruction before, constants
# in registers, all sixteen registers of either kind, and no more than that: nothing is unrolled, moved or left out, but
# a division whose divisor is seen to be other than 0 is not preceded by a test: where it is the test of a loop, as in gcd,
# that stands at the loop's end.
#
# System V ABI: i64(u8 *memory = rdi, i64 n = rsi), rax. rax rcx rdx rsi rdi r8-r11 and all xmm need not be kept.

        .intel_syntax noprefix
        .text

        .macro  function name, gap=0    # the gap in front lets the inner loop begin a cache line
        .globl  \name
        .type   \name, @function
        .p2align 6
        .fill   \gap, 1, 0xcc
\name:
        .endm

        .macro  end name
        .size   \name, . - \name
        .endm

        function fib                    # rax a, rcx b, rdi t, rdx i
        xor     eax, eax
        mov     ecx, 1
        xor     edx, edx
        test    rsi, rsi
        jle     .Lfib_done
.Lfib_loop:
        lea     rdi, [rax + rcx]
        mov     rax, rcx
        mov     rcx, rdi
        inc     rdx
        cmp     rdx, rsi
        jl      .Lfib_loop
.Lfib_done:
        ret
        end     fib

        function gcd                    # r8 total, rax a, rcx b, rdx t, rdi i
        xor     r8d, r8d
        mov     edi, 1
        test    rsi, rsi
        jle     .Lgcd_done
.Lgcd_each:
        mov     rax, rsi
        mov     rcx, rdi
.Lgcd_step:
        xor     edx, edx
        div     rcx
        mov     rax, rcx
        mov     rcx, rdx
        test    rcx, rcx
        jnz     .Lgcd_step
        add     r8, rax
        inc     rdi
        cmp     rdi, rsi
        jle     .Lgcd_each
.Lgcd_done:
        mov     rax, r8
        ret
        end     gcd

        function collatz                # rax steps, rdx x, rdi up, rcx i; odd is the carry of the shift
        xor     eax, eax
        mov     ecx, 1
        test    rsi, rsi
        jle     .Lcollatz_done
.Lcollatz_each:
        mov     rdx, rcx
        jmp     .Lcollatz_test
.Lcollatz_step:
        inc     rax
        lea     rdi, [rdx + 2 * rdx + 1]
        shr     rdx, 1
        cmovc   rdx, rdi
.Lcollatz_test:
        cmp     rdx, 1
        jne     .Lcollatz_step
        inc     rcx
        cmp     rcx, rsi
        jle     .Lcollatz_each
.Lcollatz_done:
        ret
        end     collatz

        function primes                 # r8 count, edi i, ecx d
        xor     r8d, r8d
        mov     edi, 2
        cmp     esi, 2
        jbe     .Lprimes_done
.Lprimes_each:
        mov     ecx, 2
        jmp     .Lprimes_test
.Lprimes_divide:
        mov     eax, edi
        xor     edx, edx
        div     ecx
        test    edx, edx
        jz      .Lprimes_composite
        inc     ecx
.Lprimes_test:
        mov     eax, ecx
        imul    eax, ecx
        cmp     eax, edi
        jbe     .Lprimes_divide
        inc     r8
.Lprimes_composite:
        inc     edi
        cmp     edi, esi
        jb      .Lprimes_each
.Lprimes_done:
        mov     rax, r8
        ret
        end     primes

        function sieve                  # rdi flags, rax count, rcx i, rdx j
        xor     eax, eax
        mov     ecx, 2
        cmp     rsi, 2
        jle     .Lsieve_done
.Lsieve_each:
        cmp     byte ptr [rdi + rcx], 0
        jne     .Lsieve_following
        inc     rax
        mov     rdx, rcx
        imul    rdx, rcx
        cmp     rdx, rsi
        jge     .Lsieve_following
.Lsieve_strike:
        mov     byte ptr [rdi + rdx], 1
        add     rdx, rcx
        cmp     rdx, rsi
        jl      .Lsieve_strike
.Lsieve_following:
        inc     rcx
        cmp     rcx, rsi
        jl      .Lsieve_each
.Lsieve_done:
        ret
        end     sieve

        function fnv1a                  # rdi text, rax value, r8 prime, rcx i, edx byte
        movabs  rax, 0xcbf29ce484222325
        movabs  r8, 0x100000001b3
        xor     ecx, ecx
        test    rsi, rsi
        jle     .Lfnv1a_done
.Lfnv1a_loop:
        movzx   edx, byte ptr [rdi + rcx]
        xor     rax, rdx
        imul    rax, r8
        inc     rcx
        cmp     rcx, rsi
        jl      .Lfnv1a_loop
.Lfnv1a_done:
        ret
        end     fnv1a

        function xorshift               # rax x, rcx t, rdx i
        movabs  rax, 88172645463325252
        xor     edx, edx
        test    rsi, rsi
        jle     .Lxorshift_done
.Lxorshift_loop:
        mov     rcx, rax
        shl     rcx, 13
        xor     rax, rcx
        mov     rcx, rax
        shr     rcx, 7
        xor     rax, rcx
        mov     rcx, rax
        shl     rcx, 17
        xor     rax, rcx
        inc     rdx
        cmp     rdx, rsi
        jl      .Lxorshift_loop
.Lxorshift_done:
        ret
        end     xorshift

        function bubble_sort            # rdi a, rsi end, rax swaps, rcx j, rdx x, r8 y
        xor     eax, eax
        dec     rsi
        jle     .Lbubble_done
.Lbubble_each:
        xor     ecx, ecx
.Lbubble_compare:
        mov     rdx, [rdi + 8 * rcx]
        mov     r8, [rdi + 8 * rcx + 8]
        cmp     rdx, r8
        jle     .Lbubble_right
        mov     [rdi + 8 * rcx], r8
        mov     [rdi + 8 * rcx + 8], rdx
        inc     rax
.Lbubble_right:
        inc     rcx
        cmp     rcx, rsi
        jl      .Lbubble_compare
        dec     rsi
        jnz     .Lbubble_each
.Lbubble_done:
        ret
        end     bubble_sort

        function matmul_i64, 22         # rdi a, rdx start, rcx c, rax total, r8 row, r10 j, r11 k, rbx value, rbp b, r9 x
        xor     eax, eax
        test    rsi, rsi
        jle     .Lmatmul_i64_done
        push    rbx
        push    rbp
        mov     r8, rsi
        shl     r8, 3
        mov     rdx, r8
        imul    rdx, rsi
        lea     rcx, [rdi + 2 * rdx]
        add     rdx, rdi
.Lmatmul_i64_row:
        xor     r10d, r10d
.Lmatmul_i64_each:
        lea     rbp, [rdx + 8 * r10]
        xor     ebx, ebx
        xor     r11d, r11d
.Lmatmul_i64_term:
        mov     r9, [rdi + 8 * r11]
        imul    r9, [rbp]
        add     rbx, r9
        add     rbp, r8
        inc     r11
        cmp     r11, rsi
        jl      .Lmatmul_i64_term
        mov     [rcx + 8 * r10], rbx
        add     rax, rbx
        inc     r10
        cmp     r10, rsi
        jl      .Lmatmul_i64_each
        add     rdi, r8
        add     rcx, r8
        cmp     rdi, rdx
        jb      .Lmatmul_i64_row
        pop     rbp
        pop     rbx
.Lmatmul_i64_done:
        ret
        end     matmul_i64

        function matmul_f64, 19         # rdi a, rdx start, rcx c, r8 row, r9 i, r10 j, r11 k, rax b
        xorps   xmm0, xmm0              # xmm0 total, xmm1 value, xmm2 x
        test    rsi, rsi
        jle     .Lmatmul_f64_done
        mov     r8, rsi
        shl     r8, 3
        mov     rdx, r8
        imul    rdx, rsi
        lea     rcx, [rdi + 2 * rdx]
        add     rdx, rdi
        xor     r9d, r9d
.Lmatmul_f64_row:
        xor     r10d, r10d
.Lmatmul_f64_each:
        lea     rax, [rdx + 8 * r10]
        xorps   xmm1, xmm1
        xor     r11d, r11d
.Lmatmul_f64_term:
        movsd   xmm2, [rdi + 8 * r11]
        mulsd   xmm2, [rax]
        addsd   xmm1, xmm2
        add     rax, r8
        inc     r11
        cmp     r11, rsi
        jl      .Lmatmul_f64_term
        movsd   [rcx + 8 * r10], xmm1
        addsd   xmm0, xmm1
        inc     r10
        cmp     r10, rsi
        jl      .Lmatmul_f64_each
        add     rdi, r8
        add     rcx, r8
        inc     r9
        cmp     r9, rsi
        jl      .Lmatmul_f64_row
.Lmatmul_f64_done:
        movq    rax, xmm0
        ret
        end     matmul_f64

        function mandelbrot, 27         # rax total, rcx x, rdx y, rdi count; xmm0 step, xmm1 ci, xmm2 cr, xmm3 zr, xmm4 zi
        xor     eax, eax                # xmm5 rr, xmm6 ii, xmm7 t, xmm8 4.0
        test    rsi, rsi
        jle     .Lmandelbrot_done
        pxor    xmm7, xmm7
        cvtsi2sd xmm7, rsi
        movsd   xmm8, [rip + .Lfour]
        movsd   xmm0, [rip + .Lthree]
        divsd   xmm0, xmm7
        xor     edx, edx
.Lmandelbrot_row:
        pxor    xmm1, xmm1
        cvtsi2sd xmm1, rdx
        mulsd   xmm1, xmm0
        subsd   xmm1, [rip + .Lthree_halves]
        xor     ecx, ecx
.Lmandelbrot_each:
        pxor    xmm2, xmm2
        cvtsi2sd xmm2, rcx
        mulsd   xmm2, xmm0
        subsd   xmm2, [rip + .Ltwo]
        xorps   xmm3, xmm3
        xorps   xmm4, xmm4
        xorps   xmm5, xmm5
        xorps   xmm6, xmm6
        xor     edi, edi
.Lmandelbrot_again:
        addsd   xmm3, xmm3
        mulsd   xmm4, xmm3
        addsd   xmm4, xmm1
        movaps  xmm3, xmm5
        subsd   xmm3, xmm6
        addsd   xmm3, xmm2
        movaps  xmm5, xmm3
        mulsd   xmm5, xmm5
        movaps  xmm6, xmm4
        mulsd   xmm6, xmm6
        inc     rdi
        cmp     rdi, 100
        jge     .Lmandelbrot_out
        movaps  xmm7, xmm5
        addsd   xmm7, xmm6
        ucomisd xmm8, xmm7
        jae     .Lmandelbrot_again
.Lmandelbrot_out:
        add     rax, rdi
        inc     rcx
        cmp     rcx, rsi
        jl      .Lmandelbrot_each
        inc     rdx
        cmp     rdx, rsi
        jl      .Lmandelbrot_row
.Lmandelbrot_done:
        ret
        end     mandelbrot

        .macro  pull at, distance       # xmm4 mb, xmm5 ma
        movaps  xmm6, \distance
        mulsd   xmm6, xmm4
        movsd   xmm7, [rcx + \at]
        subsd   xmm7, xmm6
        movsd   [rcx + \at], xmm7
        mulsd   \distance, xmm5
        addsd   \distance, [rdx + \at]
        movsd   [rdx + \at], \distance
        .endm

        .macro  move at
        movsd   xmm0, [rcx + \at + 24]
        mulsd   xmm0, xmm8
        addsd   xmm0, [rcx + \at]
        movsd   [rcx + \at], xmm0
        .endm

        function nbody                  # rdi first, rax end, r8 last, rcx a, rdx b, r9 step
        imul    rax, [rdi], 56          # xmm0 dx, xmm1 dy, xmm2 dz, xmm3 d2, xmm4 t, xmm8 0.01
        add     rdi, 8
        add     rax, rdi
        lea     r8, [rax - 56]
        xor     r9d, r9d
        test    rsi, rsi
        jle     .Lnbody_done
        movsd   xmm8, [rip + .Lhundredth]
.Lnbody_step:
        mov     rcx, rdi
.Lnbody_each:
        lea     rdx, [rcx + 56]
.Lnbody_other:
        movsd   xmm0, [rcx]
        subsd   xmm0, [rdx]
        movsd   xmm1, [rcx + 8]
        subsd   xmm1, [rdx + 8]
        movsd   xmm2, [rcx + 16]
        subsd   xmm2, [rdx + 16]
        movaps  xmm3, xmm0
        mulsd   xmm3, xmm3
        movaps  xmm4, xmm1
        mulsd   xmm4, xmm4
        addsd   xmm3, xmm4
        movaps  xmm4, xmm2
        mulsd   xmm4, xmm4
        addsd   xmm3, xmm4
        sqrtsd  xmm4, xmm3
        mulsd   xmm3, xmm4
        movaps  xmm4, xmm8
        divsd   xmm4, xmm3
        movsd   xmm5, [rcx + 48]
        mulsd   xmm5, xmm4
        mulsd   xmm4, [rdx + 48]
        pull    24, xmm0
        pull    32, xmm1
        pull    40, xmm2
        add     rdx, 56
        cmp     rdx, rax
        jb      .Lnbody_other
        add     rcx, 56
        cmp     rcx, r8
        jb      .Lnbody_each
        mov     rcx, rdi
.Lnbody_move:
        move    0
        move    8
        move    16
        add     rcx, 56
        cmp     rcx, rax
        jb      .Lnbody_move
        inc     r9
        cmp     r9, rsi
        jl      .Lnbody_step
.Lnbody_done:
        mov     rax, [rdi]
        ret
        end     nbody

        .macro  mix x, first, second, third
        mov     edi, \x
        ror     edi, \first
        xor     edi, \x
        ror     edi, \second
        xor     edi, \x
        ror     edi, \third
        .endm

        .macro  round a, b, c, d, e, f, g, h, i
        add     \h, [r10 + 8 * \i]
        add     \h, [r10 + 8 * \i + 4]
        mix     \e, 14, 5, 6
        add     \h, edi
        mov     edi, \f
        xor     edi, \g
        and     edi, \e
        xor     edi, \g
        add     \h, edi
        add     \d, \h
        mix     \a, 9, 11, 2
        add     \h, edi
        mov     edi, \a
        xor     edi, \b
        and     edi, \c
        add     \h, edi
        mov     edi, \a
        and     edi, \b
        add     \h, edi
        .endm

        function sha256                 # r11 memory, r12 left, r13 message, r14 end, r10 p
        push    rbx                     # eax ebx ecx edx ebp esi r8d r9d a … h, edi t
        push    rbp
        push    r12
        push    r13
        push    r14
        mov     r11, rdi
        lea     r13, [r11 + 544]
        mov     r14, r13
        mov     r12, rsi
        test    r12, r12
        jle     .Lsha256_done
.Lsha256_block:
        mov     rsi, r11
        .irp    i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
        mov     eax, [r13 + 4 * \i]
        bswap   eax
        mov     [rsi + 8 * \i + 36], eax
        .endr
        add     rsi, 160
.Lsha256_extend:
        mov     eax, [rsi - 116]
        mov     ecx, eax
        ror     ecx, 7
        mov     edx, eax
        ror     edx, 18
        xor     ecx, edx
        shr     eax, 3
        xor     ecx, eax
        add     ecx, [rsi - 124]
        add     ecx, [rsi - 52]
        mov     eax, [rsi - 12]
        mov     edx, eax
        ror     edx, 17
        mov     ebx, eax
        ror     ebx, 19
        xor     edx, ebx
        shr     eax, 10
        xor     edx, eax
        add     ecx, edx
        mov     [rsi + 4], ecx
        add     rsi, 8
        cmp     rsi, r14
        jne     .Lsha256_extend
        mov     eax, [r11]
        mov     ebx, [r11 + 4]
        mov     ecx, [r11 + 8]
        mov     edx, [r11 + 12]
        mov     ebp, [r11 + 16]
        mov     esi, [r11 + 20]
        mov     r8d, [r11 + 24]
        mov     r9d, [r11 + 28]
        lea     r10, [r11 + 32]
.Lsha256_rounds:
        round   eax, ebx, ecx, edx, ebp, esi, r8d, r9d, 0
        round   r9d, eax, ebx, ecx, edx, ebp, esi, r8d, 1
        round   r8d, r9d, eax, ebx, ecx, edx, ebp, esi, 2
        round   esi, r8d, r9d, eax, ebx, ecx, edx, ebp, 3
        round   ebp, esi, r8d, r9d, eax, ebx, ecx, edx, 4
        round   edx, ebp, esi, r8d, r9d, eax, ebx, ecx, 5
        round   ecx, edx, ebp, esi, r8d, r9d, eax, ebx, 6
        round   ebx, ecx, edx, ebp, esi, r8d, r9d, eax, 7
        add     r10, 64
        cmp     r10, r14
        jne     .Lsha256_rounds
        add     [r11], eax
        add     [r11 + 4], ebx
        add     [r11 + 8], ecx
        add     [r11 + 12], edx
        add     [r11 + 16], ebp
        add     [r11 + 20], esi
        add     [r11 + 24], r8d
        add     [r11 + 28], r9d
        add     r13, 64
        dec     r12
        jnz     .Lsha256_block
.Lsha256_done:
        mov     ecx, [r11]
        mov     eax, [r11 + 4]
        shl     rcx, 32
        or      rax, rcx
        pop     r14
        pop     r13
        pop     r12
        pop     rbp
        pop     rbx
        ret
        end     sha256

        .section .rodata
        .p2align 3
.Lhundredth:    .double 0.01
.Lthree_halves: .double 1.5
.Ltwo:          .double 2.0
.Lthree:        .double 3.0
.Lfour:         .double 4.0

        .section .note.GNU-stack, "", @progbits
