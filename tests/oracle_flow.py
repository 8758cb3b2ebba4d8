"""Where the jumps of linked code go, read off its bytes: a second opinion that shares nothing with cnp/targets.

Each decoder takes code and an address and yields (address, length, target, ends): `target` of a direct jump, branch
or call, None for any other instruction; `ends` for an instruction behind which control never goes on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

Step = tuple[int, int, int | None, bool]
Decoder = Callable[[bytes, int], Iterator[Step]]


def signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value


def words(code: bytes, order: str) -> Iterator[tuple[int, int]]:
    for number, (word,) in enumerate(struct.iter_unpack(order + "I", code)):
        yield number * 4, word


@cache
def capstone_x86() -> Any:
    import capstone

    return capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)


def x86_64(code: bytes, address: int) -> Iterator[Step]:
    for at, length, mnemonic, operand in capstone_x86().disasm_lite(code, address):
        direct = mnemonic.startswith(("j", "call")) and operand.startswith("0x")
        yield at, length, int(operand, 16) if direct else None, mnemonic in ("jmp", "ret")


def aarch64(code: bytes, address: int) -> Iterator[Step]:
    for offset, w in words(code, "<"):
        at, target = address + offset, None
        if w & 0x7C00_0000 == 0x1400_0000:  # b, bl
            target = at + 4 * signed(w, 26)
        elif w & 0xFF00_0010 == 0x5400_0000 or w & 0x7E00_0000 == 0x3400_0000:  # b.cond, cbz
            target = at + 4 * signed(w >> 5, 19)
        elif w & 0x7E00_0000 == 0x3600_0000:  # tbz
            target = at + 4 * signed(w >> 5, 14)
        yield at, 4, target, w >> 26 == 5 or w & 0xFFFF_FC1F in (0xD61F_0000, 0xD65F_0000)


def ppc64le(code: bytes, address: int) -> Iterator[Step]:
    for offset, w in words(code, "<"):
        at, target = address + offset, None
        if w >> 26 == 18:  # b, bl
            target = at + signed(w & 0x3FF_FFFC, 26)
        elif w >> 26 == 16:  # bc
            target = at + signed(w & 0xFFFC, 16)
        # blr, bctr; 0 is no instruction: clang ends each function with twelve such bytes, an empty traceback table
        yield at, 4, target, (w >> 26 == 18 and not w & 1) or w in (0x4E80_0020, 0x4E80_0420, 0)


def mips(order: str) -> Decoder:
    def decode(code: bytes, address: int) -> Iterator[Step]:
        slot = False
        for offset, w in words(code, order):
            at, target, op = address + offset, None, w >> 26
            if op in (2, 3):  # j, jal
                target = at + 4 & -(1 << 28) | (w & 0x3FF_FFFF) << 2
            elif op in (1, 4, 5, 6, 7) or w >> 21 == 0x228:  # bltz …, beq bne blez bgtz, bc1
                target = at + 4 + 4 * signed(w, 16)
            yield at, 4, target, slot  # control ends behind the delay slot
            slot = op == 2 or w & 0xFC1F_FFFF == 8  # j, jr

    return decode


def riscv64(code: bytes, address: int) -> Iterator[Step]:
    offset, upper = 0, None
    while offset < len(code):
        at = address + offset
        half = int.from_bytes(code[offset : offset + 2], "little")
        if half & 3 != 3:
            yield (
                at,
                2,
                compressed(half, at),
                half & 0xE003 == 0xA001 or (half & 0xF07F == 0x8002 and half != 0x8002),
            )
            offset, upper = offset + 2, None
            continue
        w = int.from_bytes(code[offset : offset + 4], "little")
        op, target = w & 0x7F, None
        if op == 0x6F:  # jal
            target = at + signed(
                w >> 31 << 20 | (w >> 12 & 0xFF) << 12 | (w >> 20 & 1) << 11 | (w >> 21 & 0x3FF) << 1, 21
            )
        elif op == 0x63:  # branch
            target = at + signed(
                w >> 31 << 12 | (w >> 7 & 1) << 11 | (w >> 25 & 0x3F) << 5 | (w >> 8 & 15) << 1, 13
            )
        elif op == 0x67 and upper is not None:  # jalr behind its auipc
            target = upper + signed(w >> 20, 12)
        yield at, 4, target, op in (0x6F, 0x67) and w >> 7 & 31 == 0
        upper = at + signed(w & 0xFFFF_F000, 32) if op == 0x17 else None
        offset += 4


def compressed(half: int, at: int) -> int | None:
    if half & 0xE003 == 0xA001:  # c.j
        places = ((12, 11), (11, 4), (10, 9), (9, 8), (8, 10), (7, 6), (6, 7), (5, 3), (4, 2), (3, 1), (2, 5))
        return at + signed(sum((half >> bit & 1) << to for bit, to in places), 12)
    if half & 0xC003 == 0xC001:  # c.beqz, c.bnez
        near = ((12, 8), (11, 4), (10, 3), (6, 7), (5, 6), (4, 2), (3, 1), (2, 5))
        return at + signed(sum((half >> bit & 1) << to for bit, to in near), 9)
    return None


DECODERS: dict[str, Decoder] = {
    "x86_64": x86_64,
    "aarch64": aarch64,
    "riscv64": riscv64,
    "ppc64le": ppc64le,
    "mips64": mips(">"),
    "mips64el": mips("<"),
}


def veneer_goal(name: str, code: bytes) -> int | None:
    """Where a veneer jumps; None if the bytes are none."""
    if name in ("x86_64", "aarch64", "riscv64"):
        head, size = {
            "x86_64": (b"\xff\x25\0\0\0\0", 6),  # jmp *0(%rip)
            "aarch64": (bytes.fromhex("5000005800021fd6"), 8),  # ldr x16, .+8; br x16
            "riscv64": (bytes.fromhex("170300000333030167000300"), 16),  # auipc t1, 0; ld t1, 16(t1); jr t1
        }[name]
        return int.from_bytes(code[size : size + 8], "little") if code.startswith(head) else None
    list_of: tuple[int, ...] = (
        struct.unpack_from((">" if name == "mips64" else "<") + "7I", code) if len(code) >= 28 else ()
    )
    if not list_of:
        return None
    if name == "ppc64le":  # lis, ori, sldi 32, oris, ori, mtspr TAR, bctar
        if list_of[5] != 0x7C4F_CBA6:
            return None
        a, b, _, c, d = (w & 0xFFFF for w in list_of[:5])
        return a << 48 | b << 32 | c << 16 | d
    if list_of[6] != 0x0320_0008:  # lui, daddiu, dsll 16, daddiu, dsll 16, daddiu, jr $25
        return None
    value = signed(list_of[0], 16) << 16
    for number in (1, 3, 5):
        value = (value << 16 if number > 1 else value) + signed(list_of[number], 16)
    return value & (1 << 64) - 1
