/* The sum of the next numbers of the generator xorshift64*. Memory: its state, and how many. */
typedef unsigned long long u64;

u64 run(u64 *memory, u64 size)
{
    u64 sum = 0;
    if (size < 16) return 0;
    u64 x = memory[0];
    for (u64 i = 0; i < memory[1]; i++) {
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        sum += x * 0x2545f4914f6cdd1d;
    }
    memory[0] = x;
    return sum;
}
