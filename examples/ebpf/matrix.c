/* The product of two square matrices of 64-bit numbers, which lie in memory one behind the other with room for the
   product; they are as large as fits. The sum of the product's elements. */
typedef unsigned long long u64;

u64 run(u64 *memory, u64 size)
{
    u64 n = 0, sum = 0;
    while (3 * 8 * (n + 1) * (n + 1) <= size) n++;
    u64 *a = memory, *b = a + n * n, *product = b + n * n;
    for (u64 row = 0; row < n; row++, a += n)
        for (u64 column = 0; column < n; column++) {
            u64 element = 0, *other = b + column;
            for (u64 k = 0; k < n; k++, other += n) element += a[k] * *other;
            *product++ = element;
            sum += element;
        }
    return sum;
}
