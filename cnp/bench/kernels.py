"""The kernels of `cnp bench quality` as programs of the portable operations, as a compiler with ten integer and eight
float registers would write them: what is used in loops lies in registers, loops are tested at their end.

The same stands in C in kernels.c and, by hand, in assembly in kernels.TARGET.S, in the same order. All have the signature
i64(memory, n), whose arguments lie in r3 and r4. Registers were chosen with an eye on x86-64, where r0, r1 and r3 to r6
make short instructions of 32 bits, and r5 is the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cnp.assembler import Assembler
from cnp.bench import images
from cnp.operands import Register, Slot, f, r, slot

MEMORY, N = r[3], r[4]  #: where a function finds its arguments


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel. assemble: writes its operations. memory: contents of its memory, for n and a byte order.

    n: its size when it is timed: a millisecond or a few of compiled code. inner: label at which its inner loop begins.
    frame: bytes of its slots.
    """

    name: str
    assemble: Callable[[Assembler], None]
    memory: Callable[[int, str], bytes]
    n: int
    inner: str
    frame: int = 0


def fib(asm: Assembler) -> None:
    """The n-th Fibonacci number, modulo 2^64."""
    a, b, t, i, n = r[5], r[3], r[0], r[6], N
    loop, done = asm.label("loop"), asm.label("done")
    asm.i64_move(a, 0)
    asm.i64_move(b, 1)
    asm.i64_move(i, 0)
    asm.br_i64_le_s(n, 0, done)
    asm.bind(loop)
    asm.i64_add(t, a, b)
    asm.i64_move(a, b)
    asm.i64_move(b, t)
    asm.i64_add(i, i, 1)
    asm.br_i64_lt_s(i, n, loop)
    asm.bind(done)
    asm.ret(a)


def gcd(asm: Assembler) -> None:
    """The sum of gcd(n, i) for i in 1 … n, each by Euclid."""
    total, a, t, b, i, n = r[0], r[3], r[5], r[6], r[1], N
    each, step, found, done = map(asm.label, ("each", "step", "found", "done"))
    asm.i64_move(total, 0)
    asm.i64_move(i, 1)
    asm.br_i64_le_s(n, 0, done)
    asm.bind(each)
    asm.i64_move(a, n)
    asm.i64_move(b, i)
    asm.bind(step)
    asm.try_i64_rem_u(t, a, b, found)
    asm.i64_move(a, b)
    asm.i64_move(b, t)
    asm.jump(step)
    asm.bind(found)
    asm.i64_add(total, total, a)
    asm.i64_add(i, i, 1)
    asm.br_i64_le_s(i, n, each)
    asm.bind(done)
    asm.ret(total)


def collatz(asm: Assembler) -> None:
    """Steps that the numbers 1 … n take to 1, in all."""
    steps, x, odd, i, n, up = r[5], r[3], r[6], r[1], N, r[0]
    each, step, test, done = map(asm.label, ("each", "step", "test", "done"))
    asm.i64_move(steps, 0)
    asm.i64_move(i, 1)
    asm.br_i64_le_s(n, 0, done)
    asm.bind(each)
    asm.i64_move(x, i)
    asm.jump(test)
    asm.bind(step)
    asm.i64_add(steps, steps, 1)
    asm.i64_and(odd, x, 1)
    asm.i64_shadd(up, x, x, 1)
    asm.i64_add(up, up, 1)
    asm.i64_shr_u(x, x, 1)
    asm.i64_select(x, odd, up, x)
    asm.bind(test)
    asm.br_i64_ne(x, 1, step)
    asm.i64_add(i, i, 1)
    asm.br_i64_le_s(i, n, each)
    asm.bind(done)
    asm.ret(steps)


def primes(asm: Assembler) -> None:
    """How many primes are below n, each number divided by all up to its root. 32 bits."""
    count, i, t, d, n = r[0], r[3], r[5], r[6], N
    each, divide, test, composite, done = map(asm.label, ("each", "divide", "test", "composite", "done"))
    asm.i64_move(count, 0)
    asm.i32_move(i, 2)
    asm.br_i32_le_u(n, 2, done)
    asm.bind(each)
    asm.i32_move(d, 2)
    asm.jump(test)
    asm.bind(divide)
    asm.try_i32_rem_u(t, i, d, composite)
    asm.br_i32_eq(t, 0, composite)
    asm.i32_add(d, d, 1)
    asm.bind(test)
    asm.i32_mul(t, d, d)
    asm.br_i32_le_u(t, i, divide)
    asm.i64_add(count, count, 1)
    asm.bind(composite)
    asm.i32_add(i, i, 1)
    asm.br_i32_lt_u(i, n, each)
    asm.bind(done)
    asm.ret(count)


def sieve(asm: Assembler) -> None:
    """How many primes are below n, by the sieve of Eratosthenes on bytes that are 0 at first."""
    count, flags, i, j, n = r[5], MEMORY, r[6], r[0], N
    each, strike, following, done = map(asm.label, ("each", "strike", "following", "done"))
    asm.i64_move(count, 0)
    asm.i64_move(i, 2)
    asm.br_i64_le_s(n, 2, done)
    asm.bind(each)
    asm.i64_load8_u_at(j, flags, i, 1, 0)
    asm.br_i32_ne(j, 0, following)
    asm.i64_add(count, count, 1)
    asm.i64_mul(j, i, i)
    asm.br_i64_ge_s(j, n, following)
    asm.bind(strike)
    asm.i64_store8_at(flags, j, 1, 0, 1)
    asm.i64_add(j, j, i)
    asm.br_i64_lt_s(j, n, strike)
    asm.bind(following)
    asm.i64_add(i, i, 1)
    asm.br_i64_lt_s(i, n, each)
    asm.bind(done)
    asm.ret(count)


def fnv1a(asm: Assembler) -> None:
    """The FNV-1a hash of n bytes (http://www.isthe.com/chongo/tech/comp/fnv/), 64 bits."""
    value, text, i, byte, n, prime = r[5], MEMORY, r[6], r[0], N, r[7]
    loop, done = asm.label("loop"), asm.label("done")
    asm.i64_move(value, 0xCBF29CE484222325)
    asm.i64_move(prime, 0x100000001B3)
    asm.i64_move(i, 0)
    asm.br_i64_le_s(n, 0, done)
    asm.bind(loop)
    asm.i64_load8_u_at(byte, text, i, 1, 0)
    asm.i64_xor(value, value, byte)
    asm.i64_mul(value, value, prime)
    asm.i64_add(i, i, 1)
    asm.br_i64_lt_s(i, n, loop)
    asm.bind(done)
    asm.ret(value)


def xorshift(asm: Assembler) -> None:
    """n steps of Marsaglia's generator with the shifts 13, 7, 17 (https://doi.org/10.18637/jss.v008.i14)."""
    x, t, i, n = r[5], r[6], r[0], N
    loop, done = asm.label("loop"), asm.label("done")
    asm.i64_move(x, images.SEED)
    asm.i64_move(i, 0)
    asm.br_i64_le_s(n, 0, done)
    asm.bind(loop)
    asm.i64_shl(t, x, 13)
    asm.i64_xor(x, x, t)
    asm.i64_shr_u(t, x, 7)
    asm.i64_xor(x, x, t)
    asm.i64_shl(t, x, 17)
    asm.i64_xor(x, x, t)
    asm.i64_add(i, i, 1)
    asm.br_i64_lt_s(i, n, loop)
    asm.bind(done)
    asm.ret(x)


def bubble_sort(asm: Assembler) -> None:
    """Sorts n numbers of 64 bits; how many swaps it took."""
    swaps, a, j, end, x, y = r[5], MEMORY, r[6], N, r[0], r[1]
    each, compare, right, done = map(asm.label, ("each", "compare", "right", "done"))
    asm.i64_sub(end, end, 1)
    asm.i64_move(swaps, 0)
    asm.br_i64_le_s(end, 0, done)
    asm.bind(each)
    asm.i64_move(j, 0)
    asm.bind(compare)
    asm.i64_load_at(x, a, j, 8, 0)
    asm.i64_load_at(y, a, j, 8, 8)
    asm.br_i64_le_s(x, y, right)
    asm.i64_store_at(a, j, 8, 0, y)
    asm.i64_store_at(a, j, 8, 8, x)
    asm.i64_add(swaps, swaps, 1)
    asm.bind(right)
    asm.i64_add(j, j, 1)
    asm.br_i64_lt_s(j, end, compare)
    asm.i64_count_down(end, end, each)
    asm.bind(done)
    asm.ret(swaps)


def matmul_i64(asm: Assembler) -> None:
    """C = A B, n × n numbers of 64 bits by rows, A, B and C one behind the other; the sum of C's elements."""
    k, value, row, a, n, total, b, j, c, x = (r[i] for i in range(10))
    start = slot(0)  # of B, where A ends: used once an element
    each_row, each, term, done = map(asm.label, ("each_row", "each", "term", "done"))
    asm.i64_move(total, 0)
    asm.br_i64_le_s(n, 0, done)
    asm.i64_shl(row, n, 3)
    asm.i64_mul(x, row, n)
    asm.i64_shadd(c, a, x, 1)
    asm.i64_add(x, x, a)
    asm.i64_move(start, x)
    asm.bind(each_row)
    asm.i64_move(j, 0)
    asm.bind(each)
    asm.i64_move(b, start)
    asm.i64_shadd(b, b, j, 3)
    asm.i64_move(value, 0)
    asm.i64_move(k, 0)
    asm.bind(term)
    asm.i64_load_at(x, a, k, 8, 0)
    asm.i64_mul_load(x, x, b, 0)
    asm.i64_add(value, value, x)
    asm.i64_add(b, b, row)
    asm.i64_add(k, k, 1)
    asm.br_i64_lt_s(k, n, term)
    asm.i64_store_at(c, j, 8, 0, value)
    asm.i64_add(total, total, value)
    asm.i64_add(j, j, 1)
    asm.br_i64_lt_s(j, n, each)
    asm.i64_add(a, a, row)
    asm.i64_add(c, c, row)
    asm.br_i64_lt_u(a, start, each_row)
    asm.bind(done)
    asm.ret(total)


def matmul_f64(asm: Assembler) -> None:
    """The same with f64; the bits of the sum."""
    b, j, row, a, n, bits, k, c, i, start = (r[i] for i in range(10))
    total, value, x = (f[i] for i in range(3))
    each_row, each, term, done = map(asm.label, ("each_row", "each", "term", "done"))
    asm.f64_move(total, 0.0)
    asm.br_i64_le_s(n, 0, done)
    asm.i64_shl(row, n, 3)
    asm.i64_mul(start, row, n)
    asm.i64_shadd(c, a, start, 1)
    asm.i64_add(start, start, a)
    asm.i64_move(i, 0)
    asm.bind(each_row)
    asm.i64_move(j, 0)
    asm.bind(each)
    asm.i64_shadd(b, start, j, 3)
    asm.f64_move(value, 0.0)
    asm.i64_move(k, 0)
    asm.bind(term)
    asm.f64_load_at(x, a, k, 8, 0)
    asm.f64_mul_load(x, x, b, 0)
    asm.f64_add(value, value, x)
    asm.i64_add(b, b, row)
    asm.i64_add(k, k, 1)
    asm.br_i64_lt_s(k, n, term)
    asm.f64_store_at(c, j, 8, 0, value)
    asm.f64_add(total, total, value)
    asm.i64_add(j, j, 1)
    asm.br_i64_lt_s(j, n, each)
    asm.i64_add(a, a, row)
    asm.i64_add(c, c, row)
    asm.i64_add(i, i, 1)
    asm.br_i64_lt_s(i, n, each_row)
    asm.bind(done)
    asm.i64_bits_f64(bits, total)
    asm.ret(bits)


def mandelbrot(asm: Assembler) -> None:
    """Iterations that the points of an n × n grid over the Mandelbrot set take, at most 100 each, in all."""
    total, x, y, count, n = r[5], r[3], r[0], r[6], N
    step, ci, cr, zr, zi, rr, ii, t = (f[i] for i in range(8))
    each_row, each, again, out, done = map(asm.label, ("each_row", "each", "again", "out", "done"))
    asm.i64_move(total, 0)
    asm.br_i64_le_s(n, 0, done)
    asm.f64_from_i64_s(t, n)
    asm.f64_move(step, 3.0)
    asm.f64_div(step, step, t)
    asm.i64_move(y, 0)
    asm.bind(each_row)
    asm.f64_from_i64_s(ci, y)
    asm.f64_mul(ci, ci, step)
    asm.f64_sub(ci, ci, 1.5)
    asm.i64_move(x, 0)
    asm.bind(each)
    asm.f64_from_i64_s(cr, x)
    asm.f64_mul(cr, cr, step)
    asm.f64_sub(cr, cr, 2.0)
    for register in (zr, zi, rr, ii):
        asm.f64_move(register, 0.0)
    asm.i64_move(count, 0)
    asm.bind(again)
    asm.f64_add(zr, zr, zr)
    asm.f64_mul(zi, zi, zr)
    asm.f64_add(zi, zi, ci)
    asm.f64_sub(zr, rr, ii)
    asm.f64_add(zr, zr, cr)
    asm.f64_mul(rr, zr, zr)
    asm.f64_mul(ii, zi, zi)
    asm.i64_add(count, count, 1)
    asm.br_i64_ge_s(count, 100, out)
    asm.f64_add(t, rr, ii)
    asm.br_f64_le(t, 4.0, again)
    asm.bind(out)
    asm.i64_add(total, total, count)
    asm.i64_add(x, x, 1)
    asm.br_i64_lt_s(x, n, each)
    asm.i64_add(y, y, 1)
    asm.br_i64_lt_s(y, n, each_row)
    asm.bind(done)
    asm.ret(total)


def nbody(asm: Assembler) -> None:
    """n steps of bodies that attract each other: their number, then x y z vx vy vz mass of each; the bits of the first x."""
    first, a, b, end, last, step, n = MEMORY, r[6], r[5], r[0], r[1], r[7], N
    dx, dy, dz, d2, t, mb, v, dt = (f[i] for i in range(8))
    ma = t
    each_step, each, other, move, done = map(asm.label, ("each_step", "each", "other", "move", "done"))
    asm.i64_load(end, first, 0)
    asm.i64_add(first, first, 8)
    asm.i64_mul(end, end, 56)
    asm.i64_add(end, end, first)
    asm.i64_sub(last, end, 56)
    asm.i64_move(step, 0)
    asm.br_i64_le_s(n, 0, done)
    asm.f64_move(dt, 0.01)
    asm.bind(each_step)
    asm.i64_move(a, first)
    asm.bind(each)
    asm.i64_add(b, a, 56)
    asm.bind(other)
    for distance, at in ((dx, 0), (dy, 8), (dz, 16)):
        asm.f64_load(distance, a, at)
        asm.f64_sub_load(distance, distance, b, at)
    asm.f64_mul(d2, dx, dx)
    asm.f64_mul(t, dy, dy)
    asm.f64_add(d2, d2, t)
    asm.f64_mul(t, dz, dz)
    asm.f64_add(d2, d2, t)
    asm.f64_sqrt(t, d2)
    asm.f64_mul(d2, d2, t)
    asm.f64_move(t, dt)
    asm.f64_div(t, t, d2)
    asm.f64_load(mb, b, 48)
    asm.f64_mul(mb, mb, t)
    asm.f64_mul_load(ma, t, a, 48)
    for distance, at in ((dx, 24), (dy, 32), (dz, 40)):
        asm.f64_mul(d2, distance, mb)
        asm.f64_load(v, a, at)
        asm.f64_sub(v, v, d2)
        asm.f64_store(a, at, v)
        asm.f64_mul(distance, distance, ma)
        asm.f64_add_load(distance, distance, b, at)
        asm.f64_store(b, at, distance)
    asm.i64_add(b, b, 56)
    asm.br_i64_lt_u(b, end, other)
    asm.i64_add(a, a, 56)
    asm.br_i64_lt_u(a, last, each)
    asm.i64_move(a, first)
    asm.bind(move)
    for at in (0, 8, 16):
        asm.f64_load(v, a, at + 24)
        asm.f64_mul(v, v, dt)
        asm.f64_add_load(v, v, a, at)
        asm.f64_store(a, at, v)
    asm.i64_add(a, a, 56)
    asm.br_i64_lt_u(a, end, move)
    asm.i64_add(step, step, 1)
    asm.br_i64_lt_s(step, n, each_step)
    asm.bind(done)
    asm.i64_load(b, first, 0)
    asm.ret(b)


def sha256(asm: Assembler) -> None:
    """n blocks of SHA-256 (FIPS 180-4, 6.2): the state, 64 pairs of constant and schedule word, then the blocks; the first
    two words of the hash."""
    memory, message, left, end = (slot(8 * i) for i in range(4))
    block, done = asm.label("block"), asm.label("done")
    p, high, word = r[6], r[0], r[5]
    asm.i64_move(memory, MEMORY)
    asm.i64_move(left, N)
    asm.br_i64_le_s(N, 0, done)
    asm.i64_add(p, MEMORY, 544)
    asm.i64_move(message, p)
    asm.i64_move(end, p)
    asm.bind(block)
    _schedule(asm, memory, message, end)
    _compress(asm, memory, end)
    asm.i64_add(message, message, 64)
    asm.i64_count_down(left, left, block)
    asm.bind(done)
    asm.i64_move(p, memory)
    asm.i64_load32_u(high, p, 0)
    asm.i64_load32_u(word, p, 4)
    asm.i64_shl(high, high, 32)
    asm.i64_or(word, word, high)
    asm.ret(word)


def _schedule(asm: Assembler, memory: Slot, message: Slot, end: Slot) -> None:
    """W of one block (6.2.2, step 1), one word after the other."""
    v, x, t, u, p, start, stop = r[0], r[6], r[5], r[1], r[4], r[3], r[7]
    extend = asm.label("extend")
    asm.i64_move(p, memory)
    asm.i64_move(start, message)
    for i in range(16):
        asm.i32_load(x, start, 4 * i)
        if asm.library.target.byteorder == "little":
            asm.i32_bswap(x, x)
        asm.i64_store32(p, 36 + 8 * i, x)
    asm.i64_add(p, p, 160)
    asm.i64_move(stop, end)
    asm.bind(extend)
    asm.i32_load(x, p, -116)  # W[i - 15]
    asm.i32_rotr(t, x, 7)
    asm.i32_rotr(u, x, 18)
    asm.i32_xor(t, t, u)
    asm.i32_shr_u(x, x, 3)
    asm.i32_xor(t, t, x)
    asm.i32_add_load(t, t, p, -124)  # W[i - 16]
    asm.i32_add_load(t, t, p, -52)  # W[i - 7]
    asm.i32_load(x, p, -12)  # W[i - 2]
    asm.i32_rotr(u, x, 17)
    asm.i32_rotr(v, x, 19)
    asm.i32_xor(u, u, v)
    asm.i32_shr_u(x, x, 10)
    asm.i32_xor(u, u, x)
    asm.i32_add(t, t, u)
    asm.i64_store32(p, 4, t)
    asm.i64_add(p, p, 8)
    asm.br_i64_ne(p, stop, extend)


def _compress(asm: Assembler, memory: Slot, end: Slot) -> None:
    """Steps 2 to 4 for one block: eight rounds in a loop, so that the variables change their names and not their places.

    S1(e) is rotr(rotr(rotr(e, 14) ^ e, 5) ^ e, 6), S0(a) likewise; Ch is ((f ^ g) & e) ^ g, Maj the sum of (a ^ b) & c
    and a & b, which have no bit in common. That way one register is enough for what is between.
    """
    variables, t, p = [r[i] for i in (0, 1, 2, 5, 6, 7, 8, 9)], r[4], r[3]
    rounds = asm.label("rounds")
    asm.i64_move(p, memory)
    for i, variable in enumerate(variables):
        asm.i32_load(variable, p, 4 * i)
    asm.i64_add(p, p, 32)
    asm.bind(rounds)
    for i in range(8):
        a, b, c, d, e, f_, g, h = variables[-i:] + variables[:-i]
        for at in (0, 4):  # the constant, the word of the schedule
            asm.i32_add_load(h, h, p, 8 * i + at)
        _mix(asm, t, e, 14, 5, 6)
        asm.i32_add(h, h, t)
        asm.i32_xor(t, f_, g)
        asm.i32_and(t, t, e)
        asm.i32_xor(t, t, g)
        asm.i32_add(h, h, t)
        asm.i32_add(d, d, h)
        _mix(asm, t, a, 9, 11, 2)
        asm.i32_add(h, h, t)
        asm.i32_xor(t, a, b)
        asm.i32_and(t, t, c)
        asm.i32_add(h, h, t)
        asm.i32_and(t, a, b)
        asm.i32_add(h, h, t)
    asm.i64_add(p, p, 64)
    asm.br_i64_ne(p, end, rounds)
    asm.i64_move(p, memory)
    for i, variable in enumerate(variables):
        asm.i32_add_to(p, 4 * i, variable)


def _mix(asm: Assembler, t: Register, x: Register, first: int, second: int, third: int) -> None:
    """t = rotr(rotr(rotr(x, first) ^ x, second) ^ x, third)."""
    asm.i32_rotr(t, x, first)
    asm.i32_xor(t, t, x)
    asm.i32_rotr(t, t, second)
    asm.i32_xor(t, t, x)
    asm.i32_rotr(t, t, third)


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("fib", fib, images.nothing, 4_000_000, "loop"),
        Kernel("gcd", gcd, images.nothing, 30_000, "step"),
        Kernel("collatz", collatz, images.nothing, 12_000, "step"),
        Kernel("primes", primes, images.nothing, 30_000, "divide"),
        Kernel("sieve", sieve, images.zeros, 500_000, "strike"),
        Kernel("fnv1a", fnv1a, images.text, 1_000_000, "loop"),
        Kernel("xorshift", xorshift, images.nothing, 800_000, "loop"),
        Kernel("bubble_sort", bubble_sort, images.numbers, 1_500, "compare"),
        Kernel("matmul_i64", matmul_i64, images.integers, 140, "term", frame=8),
        Kernel("matmul_f64", matmul_f64, images.floats, 140, "term"),
        Kernel("mandelbrot", mandelbrot, images.nothing, 150, "again"),
        Kernel("nbody", nbody, images.bodies, 24_000, "other"),
        Kernel("sha256", sha256, images.blocks, 5_000, "rounds", frame=32),
    )
}
