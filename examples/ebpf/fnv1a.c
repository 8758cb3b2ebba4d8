/* The FNV-1a hash of the memory, 64 bits. */
typedef unsigned long long u64;

u64 run(const unsigned char *memory, u64 size)
{
    u64 hash = 0xcbf29ce484222325;
    for (u64 i = 0; i < size; i++) hash = (hash ^ memory[i]) * 0x100000001b3;
    return hash;
}
