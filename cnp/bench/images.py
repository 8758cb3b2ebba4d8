"""Contents of the kernels' memory: for n and a byte order, always the same."""

from __future__ import annotations

import math
import random
import struct
from itertools import chain

SEED = 88172645463325252  #: of the generators
BODIES = 5


def order(byteorder: str) -> str:
    """The byte order as `struct` writes it."""
    return "<" if byteorder == "little" else ">"


def nothing(n: int, byteorder: str) -> bytes:
    """For kernels that use registers only."""
    return bytes(8)


def zeros(n: int, byteorder: str) -> bytes:
    return bytes(max(n, 1))


def text(n: int, byteorder: str) -> bytes:
    return random.Random(SEED).randbytes(max(n, 1))


def numbers(n: int, byteorder: str) -> bytes:
    """n numbers of 64 bits, of both signs."""
    return signed(n, byteorder, 1 << 62)


def integers(n: int, byteorder: str) -> bytes:
    """Two matrices of n × n small numbers, and room for a third."""
    return signed(2 * n * n, byteorder, 1 << 20) + bytes(8 * n * n)


def signed(count: int, byteorder: str, bound: int) -> bytes:
    """Numbers of 64 bits from -bound to bound - 1."""
    draw = random.Random(SEED)
    return struct.pack(f"{order(byteorder)}{count}q", *(draw.randrange(-bound, bound) for _ in range(count)))


def floats(n: int, byteorder: str) -> bytes:
    """Two matrices of n × n numbers between -1 and 1, and room for a third."""
    draw = random.Random(SEED)
    values = [draw.uniform(-1.0, 1.0) for _ in range(2 * n * n)]
    return struct.pack(f"{order(byteorder)}{len(values)}d", *values) + bytes(8 * n * n)


def bodies(n: int, byteorder: str) -> bytes:
    """A heavy body in the middle and four light ones on circles around it."""
    rows = [(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 40.0)]
    for number in range(1, BODIES):
        angle, radius = 1.3 * number, 2.0 + 3.0 * number
        speed = math.sqrt(40.0 / radius)
        x, y = math.cos(angle), math.sin(angle)
        rows.append(
            (x * radius, y * radius, 0.1 * number, -y * speed, x * speed, 0.01 * number, 0.01 * number)
        )
    return struct.pack(f"{order(byteorder)}q{7 * BODIES}d", BODIES, *chain.from_iterable(rows))


def first_primes(count: int) -> list[int]:
    found: list[int] = []
    candidate = 2
    while len(found) < count:
        if all(candidate % prime for prime in found):
            found.append(candidate)
        candidate += 1
    return found


def root_bits(number: int, power: int) -> int:
    """The first 32 bits of the fraction of a number's square or cube root (FIPS 180-4, 4.2.2 and 5.3.3)."""
    root = 1 << 36
    scaled = number << 32 * power
    low, high = 0, root
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**power <= scaled else (low, middle - 1)
    return low & 0xFFFFFFFF


def blocks(n: int, byteorder: str) -> bytes:
    """SHA-256: the initial state, pairs of a constant and room for a word, a message that fills n blocks with its padding."""
    primes = first_primes(64)
    state = [root_bits(prime, 2) for prime in primes[:8]]
    pairs = [word for prime in primes for word in (root_bits(prime, 3), 0)]
    head = struct.pack(f"{order(byteorder)}{8 + 128}I", *state, *pairs)
    if n <= 0:
        return head
    message = random.Random(SEED).randbytes(64 * n - 9)
    return head + message + b"\x80" + struct.pack(">Q", 8 * len(message))
