/* How many numbers below the first word of memory are prime, by trial division. */
typedef unsigned long long u64;

u64 run(const u64 *memory, u64 size)
{
    u64 count = 0;
    if (size < 8) return 0;
    for (u64 n = 2; n < memory[0]; n++) {
        u64 divisor = 2;
        while (divisor * divisor <= n && n % divisor) divisor++;
        count += divisor * divisor > n;
    }
    return count;
}
