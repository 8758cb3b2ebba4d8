/* The kernels of `cnp bench quality` in plain C, in the order of kernels.py, which says what each one does.
 *
 * Compiled by clang -O1 and -O2 for the base line of the target, with integers that wrap and floats that are neither
 * contracted nor reordered, as the portable operations have them.
 */
typedef unsigned char u8;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef double f64;

i64 fib(u8 *memory, i64 n)
{
    u64 a = 0, b = 1;
    for (i64 i = 0; i < n; i++) {
        u64 t = a + b;
        a = b;
        b = t;
    }
    return (i64)a;
}

i64 gcd(u8 *memory, i64 n)
{
    u64 total = 0;
    for (i64 i = 1; i <= n; i++) {
        u64 a = (u64)n, b = (u64)i;
        do {
            u64 t = a % b;
            a = b;
            b = t;
        } while (b != 0);
        total += a;
    }
    return (i64)total;
}

i64 collatz(u8 *memory, i64 n)
{
    i64 steps = 0;
    for (i64 i = 1; i <= n; i++)
        for (u64 x = (u64)i; x != 1; x = x & 1 ? 3 * x + 1 : x >> 1) steps++;
    return steps;
}

i64 primes(u8 *memory, i64 n)
{
    i64 count = 0;
    for (u32 i = 2; i < (u32)n; i++) {
        for (u32 d = 2; d * d <= i; d++)
            if (i % d == 0) goto composite;
        count++;
    composite:;
    }
    return count;
}

i64 sieve(u8 *flags, i64 n)
{
    i64 count = 0;
    for (i64 i = 2; i < n; i++) {
        if (flags[i]) continue;
        count++;
        for (i64 j = i * i; j < n; j += i) flags[j] = 1;
    }
    return count;
}

i64 fnv1a(u8 *text, i64 n)
{
    u64 value = 0xcbf29ce484222325;
    for (i64 i = 0; i < n; i++) value = (value ^ text[i]) * 0x100000001b3;
    return (i64)value;
}

i64 xorshift(u8 *memory, i64 n)
{
    u64 x = 88172645463325252;
    for (i64 i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    return (i64)x;
}

i64 bubble_sort(u8 *memory, i64 n)
{
    i64 *a = (i64 *)memory, swaps = 0;
    for (i64 end = n - 1; end > 0; end--)
        for (i64 j = 0; j < end; j++) {
            i64 x = a[j], y = a[j + 1];
            if (x > y) {
                a[j] = y;
                a[j + 1] = x;
                swaps++;
            }
        }
    return swaps;
}

i64 matmul_i64(u8 *memory, i64 n)
{
    i64 *a = (i64 *)memory, *b = a + n * n, *c = b + n * n, total = 0;
    for (i64 i = 0; i < n; i++)
        for (i64 j = 0; j < n; j++) {
            i64 value = 0;
            for (i64 k = 0; k < n; k++) value += a[i * n + k] * b[k * n + j];
            c[i * n + j] = value;
            total += value;
        }
    return total;
}

i64 matmul_f64(u8 *memory, i64 n)
{
    f64 *a = (f64 *)memory, *b = a + n * n, *c = b + n * n, total = 0;
    for (i64 i = 0; i < n; i++)
        for (i64 j = 0; j < n; j++) {
            f64 value = 0;
            for (i64 k = 0; k < n; k++) value += a[i * n + k] * b[k * n + j];
            c[i * n + j] = value;
            total += value;
        }
    i64 bits;
    __builtin_memcpy(&bits, &total, 8);
    return bits;
}

i64 mandelbrot(u8 *memory, i64 n)
{
    i64 total = 0;
    f64 step = 3.0 / (f64)n;
    for (i64 y = 0; y < n; y++) {
        f64 ci = (f64)y * step - 1.5;
        for (i64 x = 0; x < n; x++) {
            f64 cr = (f64)x * step - 2.0, zr = 0, zi = 0, rr = 0, ii = 0;
            i64 count = 0;
            do {
                zi = zi * (zr + zr) + ci;
                zr = rr - ii + cr;
                rr = zr * zr;
                ii = zi * zi;
                count++;
            } while (count < 100 && rr + ii <= 4.0);
            total += count;
        }
    }
    return total;
}

struct body { f64 x, y, z, vx, vy, vz, mass; };

i64 nbody(u8 *memory, i64 n)
{
    struct body *first = (struct body *)(memory + 8), *end = first + *(i64 *)memory;
    for (i64 step = 0; step < n; step++) {
        for (struct body *a = first; a < end - 1; a++)
            for (struct body *b = a + 1; b < end; b++) {
                f64 dx = a->x - b->x, dy = a->y - b->y, dz = a->z - b->z;
                f64 d2 = dx * dx + dy * dy + dz * dz;
                f64 pull = 0.01 / (d2 * __builtin_sqrt(d2));
                f64 ma = a->mass * pull, mb = b->mass * pull;
                a->vx -= dx * mb;
                b->vx += dx * ma;
                a->vy -= dy * mb;
                b->vy += dy * ma;
                a->vz -= dz * mb;
                b->vz += dz * ma;
            }
        for (struct body *a = first; a < end; a++) {
            a->x += a->vx * 0.01;
            a->y += a->vy * 0.01;
            a->z += a->vz * 0.01;
        }
    }
    i64 bits;
    __builtin_memcpy(&bits, &first->x, 8);
    return bits;
}

struct hash { u32 state[8]; struct { u32 k, w; } pairs[64]; u32 blocks[]; };

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define BIG(x) __builtin_bswap32(x)
#else
#define BIG(x) (x)
#endif
#define ROTR(x, n) ((x) >> (n) | (x) << (32 - (n)))
#define CH(x, y, z) (((x) & (y)) ^ (~(x) & (z)))
#define MAJ(x, y, z) (((x) & (y)) ^ ((x) & (z)) ^ ((y) & (z)))
#define ROUND(a, b, c, d, e, f, g, h, i)                                                                              \
    h += s->pairs[i].k + s->pairs[i].w + (ROTR(e, 6) ^ ROTR(e, 11) ^ ROTR(e, 25)) + CH(e, f, g);                      \
    d += h;                                                                                                           \
    h += (ROTR(a, 2) ^ ROTR(a, 13) ^ ROTR(a, 22)) + MAJ(a, b, c);

i64 sha256(u8 *memory, i64 n)
{
    struct hash *s = (struct hash *)memory;
    for (i64 left = n, at = 0; left > 0; left--, at += 16) {
        for (i64 i = 0; i < 16; i++) s->pairs[i].w = BIG(s->blocks[at + i]);
        for (i64 i = 16; i < 64; i++) {
            u32 x = s->pairs[i - 15].w, y = s->pairs[i - 2].w;
            s->pairs[i].w = (ROTR(x, 7) ^ ROTR(x, 18) ^ x >> 3) + s->pairs[i - 16].w + s->pairs[i - 7].w
                          + (ROTR(y, 17) ^ ROTR(y, 19) ^ y >> 10);
        }
        u32 a = s->state[0], b = s->state[1], c = s->state[2], d = s->state[3];
        u32 e = s->state[4], f = s->state[5], g = s->state[6], h = s->state[7];
        for (i64 i = 0; i < 64; i += 8) {
            ROUND(a, b, c, d, e, f, g, h, i)
            ROUND(h, a, b, c, d, e, f, g, i + 1)
            ROUND(g, h, a, b, c, d, e, f, i + 2)
            ROUND(f, g, h, a, b, c, d, e, i + 3)
            ROUND(e, f, g, h, a, b, c, d, i + 4)
            ROUND(d, e, f, g, h, a, b, c, i + 5)
            ROUND(c, d, e, f, g, h, a, b, i + 6)
            ROUND(b, c, d, e, f, g, h, a, i + 7)
        }
        s->state[0] += a, s->state[1] += b, s->state[2] += c, s->state[3] += d;
        s->state[4] += e, s->state[5] += f, s->state[6] += g, s->state[7] += h;
    }
    return (i64)((u64)s->state[0] << 32 | s->state[1]);
}
