/* A packet filter: 1 for an Ethernet frame with a TCP or UDP packet of IPv4 to or from port 53, 80 or 443, else 0. */
typedef unsigned long long u64;
typedef unsigned char u8;

enum { ETHERNET = 14, TCP = 6, UDP = 17 };

static unsigned big16(const u8 *p) { return p[0] << 8 | p[1]; }
static int wanted(unsigned port) { return port == 53 || port == 80 || port == 443; }

u64 run(const u8 *packet, u64 size)
{
    const u8 *ip = packet + ETHERNET;
    if (size < ETHERNET + 20 || big16(packet + 12) != 0x0800 || ip[0] >> 4 != 4) return 0;
    u64 header = (ip[0] & 15) * 4;
    if (header < 20 || size < ETHERNET + header + 4) return 0;
    if (ip[9] != TCP && ip[9] != UDP) return 0;
    if (big16(ip + 6) & 0x1fff) return 0; /* a later fragment, which has no ports */
    return wanted(big16(ip + header)) || wanted(big16(ip + header + 2));
}
