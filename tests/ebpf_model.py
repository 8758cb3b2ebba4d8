"""A model of eBPF in Python, and random programs for it: what the JIT and the interpreter are held against."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from cnp.ebpf.isa import Instruction, decode, encode, signed32, whole

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
MEMORY = 64  #: bytes that a random program is called with
PACKET = 256  #: bytes of the packet of legacy loads
ALU, JMP, JMP32, ALU64 = 4, 5, 6, 7
BINARY = (0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0x90, 0xA0, 0xB0, 0xC0)
TESTS = (0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xB0, 0xC0, 0xD0)
WIDTHS = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}
ATOMICS = (0x00, 0x01, 0x40, 0x41, 0x50, 0x51, 0xA0, 0xA1, 0xE1, 0xF1)


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def packet(offset: int, size: int, context: int) -> int | None:
    """What a legacy load finds: byte i is i ^ context. The twin of cnp_test_packet in the host program."""
    if offset + size > PACKET:
        return None
    return int.from_bytes(bytes((i ^ context) & 255 for i in range(offset, offset + size)), "big")


class Ended(Exception):
    """The program ended itself within a function."""


class Model:
    """Runs a program. Addresses: the memory begins at 2^32, r10 of the function at `depth` calls is 2^40 + 4096 * depth."""

    def __init__(self, code: bytes, memory: bytes) -> None:
        self.program = dict(whole(decode(code)))
        self.memory = bytearray(memory)
        self.stacks: list[bytearray] = []

    def run(self) -> int:
        try:
            return self.function(0, [0, 1 << 32, len(self.memory), *[0] * 7])
        except Ended:
            return 0

    def function(self, at: int, registers: Sequence[int]) -> int:
        r = [*registers, (1 << 40) + 4096 * len(self.stacks)]
        self.stacks.append(bytearray(512))
        while True:
            insn = self.program[at]
            opcode, dst, src, offset, imm = insn
            at += 1
            group = opcode & 7
            if opcode == 0x95:
                self.stacks.pop()
                return r[0]
            if opcode == 0x18:
                r[dst], at = imm, at + 1
            elif opcode == 0x8D or (opcode == 0x85 and src == 0):
                r[0] = self.helper(imm if opcode == 0x85 else r[dst], *r[1:6])
            elif opcode & 7 == 0:  # lddw was before
                r[0] = self.packet((r[src] if opcode & 0x40 else 0) + imm & M32, WIDTHS[opcode & 0x18], r[6])
            elif opcode == 0x85:
                r[0] = self.function(at + imm, r[:10])
                r[1:6] = [0] * 5
            elif opcode in (0x05, 0x06):
                at += imm if opcode == 0x06 else offset
            elif group in (ALU, ALU64):
                r[dst] = self.alu(insn, r[dst], r[src])
            elif group in (JMP, JMP32):
                bits = 64 if group == JMP else 32
                if self.holds(opcode & 0xF0, r[dst], r[src] if opcode & 8 else imm, bits):
                    at += offset
            else:
                self.access(insn, r)

    def helper(self, number: int, a: int, b: int, c: int, d: int, e: int) -> int:
        """Those of the conformance suite that random programs call."""
        if number == 0:
            return int.from_bytes(bytes(x & 255 for x in (a, b, c, d, e)), "big")
        if number == 1:
            for address in range(a, a + b):
                self.put(address, 1, self.bytes(address, 1)[0] ^ 42)
        if number == 5 and a == 0:
            raise Ended
        return {3: math.isqrt(a), 5: a}.get(number, 0)

    def packet(self, offset: int, size: int, context: int) -> int:
        found = packet(offset, size, context)
        if found is None:
            raise Ended
        return found

    def alu(self, insn: Instruction, a: int, b: int) -> int:
        opcode, _, _, offset, imm = insn
        bits = 64 if opcode & 7 == ALU64 else 32
        code, mask = opcode & 0xF0, (1 << bits) - 1
        if code == 0xD0:
            return self.swapped(opcode, a, imm)
        if code == 0x80:
            return -a & mask
        b = b if opcode & 8 else imm
        a, b = a & mask, b & mask
        if code == 0xB0:
            return signed(b, offset) & mask if offset else b
        if code in (0x30, 0x90):
            return self.divided(code == 0x30, offset == 1, a, b, bits) & mask
        count = b & bits - 1
        results = {
            0x00: a + b, 0x10: a - b, 0x20: a * b, 0x40: a | b, 0x50: a & b, 0x60: a << count, 0x70: a >> count,
            0xA0: a ^ b, 0xC0: signed(a, bits) >> count,
        }  # fmt: skip
        return results[code] & mask

    def divided(self, quotient: bool, with_sign: bool, a: int, b: int, bits: int) -> int:
        if b == 0:
            return 0 if quotient else a
        if with_sign:
            a, b = signed(a, bits), signed(b, bits)
        whole_part = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return whole_part if quotient else a - b * whole_part

    def swapped(self, opcode: int, a: int, width: int) -> int:
        data = (a & (1 << width) - 1).to_bytes(width // 8, "little")
        return int.from_bytes(data, "little" if opcode == 0xD4 else "big")

    def holds(self, code: int, a: int, b: int, bits: int) -> bool:
        mask = (1 << bits) - 1
        a, b = a & mask, b & mask
        s, t = signed(a, bits), signed(b, bits)
        return {
            0x10: a == b, 0x20: a > b, 0x30: a >= b, 0x40: bool(a & b), 0x50: a != b, 0x60: s > t, 0x70: s >= t,
            0xA0: a < b, 0xB0: a <= b, 0xC0: s < t, 0xD0: s <= t,
        }[code]  # fmt: skip

    def access(self, insn: Instruction, r: list[int]) -> None:
        opcode, dst, src, offset, imm = insn
        group, size = opcode & 7, WIDTHS[opcode & 0x18]
        if group == 1:
            value = int.from_bytes(self.bytes(r[src] + offset, size), "little")
            r[dst] = signed(value, 8 * size) & M64 if opcode & 0xE0 == 0x80 else value
        elif opcode & 0xE0 == 0xC0:
            self.atomic(insn, r, size)
        else:
            self.put(r[dst] + offset, size, r[src] if group == 3 else imm)

    def atomic(self, insn: Instruction, r: list[int], size: int) -> None:
        _, dst, src, offset, imm = insn
        place, mask = r[dst] + offset, (1 << 8 * size) - 1
        old, a = int.from_bytes(self.bytes(place, size), "little"), r[src] & mask
        if imm == 0xF1:
            if old == r[0] & mask:
                self.put(place, size, a)
            r[0] = old
            return
        new = {0x00: old + a, 0x40: old | a, 0x50: old & a, 0xA0: old ^ a, 0xE0: a}[imm & 0xF0]
        self.put(place, size, new)
        if imm & 1:
            r[src] = old

    def place(self, address: int, size: int) -> tuple[bytearray, int]:
        if address < 1 << 39:
            area, at = self.memory, address - (1 << 32)
        else:
            depth = (address - (1 << 40) + 4095) // 4096
            area, at = self.stacks[depth], address - (1 << 40) - 4096 * depth + 512
        assert 0 <= at <= len(area) - size, "a random program stays in its memory"
        return area, at

    def bytes(self, address: int, size: int) -> bytes:
        area, at = self.place(address, size)
        return bytes(area[at : at + size])

    def put(self, address: int, size: int, value: int) -> None:
        area, at = self.place(address, size)
        area[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def random_program(seed: int) -> tuple[bytes, bytes]:
    """(code, memory): every opcode, with r9 as the address of the memory and r8 as a count for loops; a function that is
    called writes on the stack of its caller.

    Numbers that are addresses never flow into results, so that every machine gives the same ones.
    """
    rng = random.Random(seed)
    interesting = (0, 1, 2, -1, 7, 63, 64, 255, 256, 32767, -32768, 1 << 31, (1 << 31) - 1, 0x1234567)
    free = range(8)
    functions = [[encode(Instruction(0xBF, 9, 1, 0, 0))], []]
    memory = bytes(rng.randrange(256) for _ in range(MEMORY))

    def number() -> int:
        return signed32(rng.choice(interesting)) if rng.random() < 0.6 else rng.randrange(-(1 << 31), 1 << 31)

    def arithmetic() -> Instruction:
        dst, src, group = rng.choice(free), rng.choice(free), rng.choice((ALU, ALU64))
        kind = rng.randrange(8)
        if kind == 0:
            return Instruction(rng.choice((0xD4, 0xDC, 0xD7)), dst, 0, 0, rng.choice((16, 32, 64)))
        if kind == 1:
            return Instruction(0x80 | group, dst, 0, 0, 0)
        if kind == 2:
            return Instruction(0x18, dst, 0, 0, rng.getrandbits(64))
        if kind == 3:
            return Instruction(
                0xB8 | group, dst, src, rng.choice((0, 8, 16, 32)[: 4 if group == ALU64 else 3]), 0
            )
        code = rng.choice(BINARY)
        sign = rng.randrange(2) if code in (0x30, 0x90) else 0
        return (
            Instruction(code | 8 | group, dst, src, sign, 0)
            if rng.random() < 0.5
            else Instruction(code | group, dst, 0, sign, number())
        )

    def access() -> Instruction:
        size = rng.choice(tuple(WIDTHS))
        width = WIDTHS[size]
        on_stack = rng.random() < 0.4
        base, offset = (
            (10, rng.randrange(-64, -width + 1)) if on_stack else (9, rng.randrange(MEMORY - width + 1))
        )
        kind = rng.randrange(5)
        if kind == 0 and width >= 4:
            offset -= offset % width
            return Instruction(0xC3 | size, base, rng.choice(free), offset, rng.choice(ATOMICS))
        if kind == 1:
            return Instruction(0x62 | size, base, 0, offset, number())
        if kind == 2:
            return Instruction(0x63 | size, base, rng.choice(free), offset, 0)
        return Instruction(
            (0x81 if kind == 3 and width < 8 else 0x61) | size, rng.choice(free), base, offset, 0
        )

    def helper() -> list[Instruction]:
        """A call by number or by register. What a helper is given as an address is none afterwards."""
        chosen, by = rng.choice((0, 1, 2, 3, 5)), rng.choice(free)
        call = [Instruction(0x85, 0, 0, 0, chosen)]
        if rng.random() < 0.5:
            call = [Instruction(0xB7, by, 0, 0, chosen), Instruction(0x8D, by, 0, 0, 0)]
        if chosen == 5:
            return [Instruction(0xB7, 1, 0, 0, number()), *call]
        if chosen == 1:
            if call[0].opcode == 0xB7 and by in (1, 2):
                return helper()
            at = rng.randrange(MEMORY)
            begin = [Instruction(0xBF, 1, 9, 0, 0), Instruction(0x07, 1, 0, 0, at)]
            size = Instruction(0xB7, 2, 0, 0, rng.randrange(MEMORY - at + 1))
            return [*begin, size, *call, Instruction(0xB7, 1, 0, 0, number())]
        return call

    def legacy() -> list[Instruction]:
        """A load of the packet; few go behind its end, which ends the program."""
        size, src = rng.choice((0x00, 0x08, 0x10)), rng.choice(free)
        if rng.random() < 0.5:
            return [Instruction(0x20 | size, 0, 0, 0, rng.randrange(PACKET - 2))]
        start = Instruction(0xB7, src, 0, 0, rng.randrange(PACKET // 2))
        return [start, Instruction(0x40 | size, 0, src, 0, rng.randrange(-16, PACKET // 2))]

    def frame_pointer() -> list[Instruction]:
        """r10 as an operand, and an address made of it; what is left is a number."""
        at, other = rng.sample(free[1:], 2)  # r0 takes part in cmpxchg
        offset = -8 * rng.randrange(1, 9)
        copied = Instruction(0xBF, at, 10, 0, 0)
        return rng.choice((
            [copied, Instruction(0x07, at, 0, 0, offset), Instruction(0x7B, at, other, 0, 0),
             Instruction(0xDB, at, other, 0, rng.choice(ATOMICS)), Instruction(0x1F, at, 10, 0, 0)],
            [Instruction(0xBC, at, 10, 0, 0), Instruction(0x1C, at, 10, 0, 0)],
            [Instruction(0x7B, 10, 10, -72, 0), Instruction(0x79, at, 10, -72, 0), Instruction(0x1F, at, 10, 0, 0)],
            [copied, Instruction(0x1D, 10, at, 1, 0), Instruction(0x95, 0, 0, 0, 0), Instruction(0xAF, at, 10, 0, 0)],
        ))  # fmt: skip

    def block(length: int) -> list[bytes]:
        found = []
        for _ in range(length):
            kind = rng.random()
            if kind < 0.85:
                found.append(encode(arithmetic() if kind < 0.55 else access()))
            else:
                several = rng.choice((helper, legacy, frame_pointer))()
                found.append(b"".join(encode(one) for one in several))
        return found

    def body(calls: bool) -> list[bytes]:
        parts = [encode(Instruction(0x7A, 10, 0, -8 * n, number())) for n in range(1, 9)]
        parts += [encode(Instruction(0x18, n, 0, 0, rng.getrandbits(64))) for n in free]
        for _ in range(rng.randrange(2, 6)):
            inside = block(rng.randrange(1, 8))
            size = len(b"".join(inside)) // 8
            group = rng.choice((JMP, JMP32))
            code = rng.choice(TESTS)
            kind = rng.randrange(4)
            if kind == 0:  # a loop of a few rounds
                parts.append(encode(Instruction(0xB7, 8, 0, 0, rng.randrange(1, 5))))
                parts += [
                    *inside,
                    encode(Instruction(0x17, 8, 0, 0, 1)),
                    encode(Instruction(0x55, 8, 0, -size - 2, 0)),
                ]
            elif kind == 1:
                parts += [
                    encode(Instruction(code | 8 | group, rng.choice(free), rng.choice(free), size, 0)),
                    *inside,
                ]
            elif kind == 2:
                parts += [encode(Instruction(code | group, rng.choice(free), 0, size, number())), *inside]
            else:
                jump = (
                    Instruction(0x05, 0, 0, size, 0)
                    if rng.random() < 0.5
                    else Instruction(0x06, 0, 0, 0, size)
                )
                parts += [encode(jump), *inside, *block(2)]
            if calls and rng.random() < 0.5:
                parts += [
                    encode(Instruction(0xBF, 1, 9, 0, 0)),
                    encode(Instruction(0xBF, 2, 10, 0, 0)),
                    b"call",
                ]
        return [*parts, encode(Instruction(0x95, 0, 0, 0, 0))]

    functions[0] += body(True)
    begin = (Instruction(0xBF, 9, 1, 0, 0), Instruction(0x7A, 2, 0, -8 * rng.randrange(1, 9), number()))
    functions[1] = [*map(encode, begin), *body(False)]
    first = sum(8 if part == b"call" else len(part) for part in functions[0]) // 8
    code = bytearray()
    for part in functions[0] + functions[1]:
        at = len(code) // 8
        code += encode(Instruction(0x85, 0, 1, 0, first - at - 1)) if part == b"call" else part
    return bytes(code), memory
