/* How many numbers below the size of the memory are prime, by a sieve that has a byte for each, 0 at first. */
typedef unsigned long long u64;

u64 run(unsigned char *memory, u64 size)
{
    u64 count = 0;
    for (u64 n = 2; n < size; n++) {
        if (memory[n]) continue;
        count++;
        for (u64 multiple = n * n; multiple < size; multiple += n) memory[multiple] = 1;
    }
    return count;
}
