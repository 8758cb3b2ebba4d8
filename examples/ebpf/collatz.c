/* Steps until 1 is reached from every number up to the first word of memory: half of an even one, 3 n + 1 of an odd one. */
typedef unsigned long long u64;

u64 run(const u64 *memory, u64 size)
{
    u64 steps = 0;
    if (size < 8) return 0;
    for (u64 start = 1; start <= memory[0]; start++)
        for (u64 n = start; n != 1; steps++) n = n & 1 ? 3 * n + 1 : n >> 1;
    return steps;
}
