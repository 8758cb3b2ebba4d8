"""eBPF's instructions (RFC 9669): how they are encoded, and the table of what there is.

    byte 0     1            2 … 3    4 … 7
    +--------+------+------+--------+-----------------+
    | opcode | src  | dst  | offset | imm             |      little-endian; src is the upper half of byte 1
    +--------+------+------+--------+-----------------+

    opcode of arithmetic and jumps    code 4 bits, source 1 bit (0 imm, 1 src), class 3 bits
    opcode of loads and stores        mode 3 bits, size 2 bits, class 3 bits

`lddw` takes two such places: the second one has the upper half of a 64-bit constant in its imm, and nothing else. A
program for a big-endian machine (`bpfeb`) is encoded differently and not understood here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

SIZE = 8  #: bytes of an instruction
STACK = 512  #: bytes of a function's stack
R10 = 10  #: the frame pointer: the end of the stack, never written
LDDW, EXIT, CALL_REGISTER = 0x18, 0x95, 0x8D
CODE = struct.Struct("<BBhi")
FIELDS = ("dst", "src", "offset", "imm")
U32, U64 = (1 << 32) - 1, (1 << 64) - 1

LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(8)


class Instruction(NamedTuple):
    """One instruction. imm: signed 32 bits; of lddw the unsigned 64 bits of both places."""

    opcode: int
    dst: int
    src: int
    offset: int
    imm: int


@dataclass(frozen=True, slots=True)
class Spec:
    """What an instruction does. kind: how it is compiled; op: which operation of ebpf.c; text: how it is written.

    uses: fields that mean something; the others are reserved and zero. selects: fields whose value chose this row.
    bits: width of the operation or of the access. signed: how a 32-bit operation understands its imm.
    """

    kind: str
    op: str
    text: str
    uses: frozenset[str]
    bits: int = 64
    signed: bool = True


#: Opcode -> the field that chooses among its rows, if there are several.
SELECTORS: dict[int, str] = {}
#: (opcode, value of that field or 0) -> its row.
SPECS: dict[tuple[int, int], Spec] = {}


def spec_of(instruction: Instruction) -> Spec | None:
    """The row of an instruction; None: there is no such instruction."""
    field = SELECTORS.get(instruction.opcode)
    return SPECS.get((instruction.opcode, getattr(instruction, field) if field else 0))


def knows(opcode: int) -> bool:
    """Whether some instruction has this opcode."""
    return opcode in OPCODES


# ---- the table


def row(opcode: int, spec: Spec, selector: str = "", value: int = 0) -> None:
    """Add a row; `selector` is the field that has `value` in it."""
    if selector:
        SELECTORS[opcode] = selector
    SPECS[opcode, value] = spec


ARITHMETIC = (
    ("add", "+="), ("sub", "-="), ("mul", "*="), ("div", "/="), ("or", "|="), ("and", "&="), ("lsh", "<<="),
    ("rsh", ">>="), ("neg", ""), ("mod", "%="), ("xor", "^="), ("mov", "="), ("arsh", "s>>="),
)  # fmt: skip
JUMPS = (
    ("", ""), ("jeq", "=="), ("jgt", ">"), ("jge", ">="), ("jset", "&"), ("jne", "!="), ("jsgt", "s>"), ("jsge", "s>="),
    ("", ""), ("", ""), ("jlt", "<"), ("jle", "<="), ("jslt", "s<"), ("jsle", "s<="),
)  # fmt: skip
SIZES = (("w", 32, 0), ("h", 16, 1), ("b", 8, 2), ("dw", 64, 3))  #: letters, bits, code
ATOMICS = (("add", "+=", 0x00), ("or", "|=", 0x40), ("and", "&=", 0x50), ("xor", "^=", 0xA0))
FETCH = 1


def arithmetic() -> None:
    """Classes ALU and ALU64. w0 is the lower half of r0, which is written zero-extended."""
    for group, bits, letter in ((ALU, 32, "w"), (ALU64, 64, "r")):
        dst, src = letter + "{dst}", letter + "{src}"
        for code, (name, sign) in enumerate(ARITHMETIC):
            opcode = code << 4 | group
            if name == "neg":
                row(opcode, Spec("unary", f"neg{bits}", f"{dst} = -{dst}", frozenset(("dst",)), bits))
                continue
            for source, operand, used in ((0, "{imm}", "imm"), (8, src, "src")):
                uses = frozenset(("dst", used))
                kind = "move" if name == "mov" else "alu"
                signed, op = bits == 64, "i64_move" if (name, bits) == ("mov", 64) else f"{name}{bits}"
                selector = "offset" if name in ("div", "mod") or (name == "mov" and source) else ""
                row(opcode | source, Spec(kind, op, f"{dst} {sign} {operand}", uses, bits, signed), selector)
                if name in ("div", "mod"):
                    text = f"{dst} s{sign} {operand}"
                    row(
                        opcode | source,
                        Spec(kind, f"s{name}{bits}", text, uses | {"offset"}, bits),
                        selector,
                        1,
                    )
        for width in (8, 16, 32)[: 3 if bits == 64 else 2]:
            spec = Spec(
                "unary",
                f"movsx{width}_{bits}",
                f"{dst} = (s{width}){src}",
                frozenset(("dst", "src", "offset")),
                bits,
            )
            row(0xB8 | group, spec, "offset", width)
    for width, truncation in ((16, "mov16"), (32, "mov32"), (64, "")):
        uses = frozenset(("dst", "imm"))
        row(0xD4, Spec("unary", truncation, f"r{{dst}} = le{width} r{{dst}}", uses), "imm", width)
        row(0xDC, Spec("unary", f"bswap{width}", f"r{{dst}} = be{width} r{{dst}}", uses), "imm", width)
        row(0xD7, Spec("unary", f"bswap{width}", f"r{{dst}} = bswap{width} r{{dst}}", uses), "imm", width)


def jumps() -> None:
    """Classes JMP and JMP32: an offset counts places from the following one."""
    for group, bits, letter in ((JMP, 64, "r"), (JMP32, 32, "w")):
        for code, (name, sign) in enumerate(JUMPS):
            for source, operand, used in ((0, "{imm}", "imm"), (8, letter + "{src}", "src")):
                if name:
                    text = f"if {letter}{{dst}} {sign} {operand} goto {{offset:+d}}"
                    signed = bits == 64 or (name.startswith("js") and name != "jset")
                    spec = Spec(
                        "branch", f"{name}{bits}", text, frozenset(("dst", used, "offset")), bits, signed
                    )
                    row(code << 4 | source | group, spec)
    row(0x05, Spec("goto", "ja", "goto {offset:+d}", frozenset(("offset",))))
    row(0x06, Spec("goto", "ja", "gotol {imm:+d}", frozenset(("imm",))))
    row(0x85, Spec("call_helper", "call_helper", "call {imm}", frozenset(("src", "imm"))), "src", 0)
    row(0x85, Spec("call_local", "call", "call local {imm:+d}", frozenset(("src", "imm"))), "src", 1)
    row(CALL_REGISTER, Spec("call_register", "call_register", "callx r{dst}", frozenset(("dst",))))
    row(EXIT, Spec("exit", "leave", "exit", frozenset()))


def memory() -> None:
    """Classes LD, LDX, ST and STX."""
    row(LDDW, Spec("lddw", "i64_move", "r{dst} = {imm:#x} ll", frozenset(("dst", "imm"))))
    for letters, bits, size in SIZES:
        place, code = f"*(u{bits} *)(r{{}} {{offset:+d}})", size << 3
        at_src, at_dst = place.replace("{}", "{src}", 1), place.replace("{}", "{dst}", 1)
        loads = frozenset(("dst", "src", "offset"))
        row(0x60 | code | LDX, Spec("load", f"ldx{letters}", f"r{{dst}} = {at_src}", loads, bits))
        row(
            0x60 | code | ST,
            Spec(
                "store_imm", f"st{letters}", f"{at_dst} = {{imm}}", frozenset(("dst", "offset", "imm")), bits
            ),
        )
        row(0x60 | code | STX, Spec("store", f"st{letters}", f"{at_dst} = r{{src}}", loads, bits))
        if bits < 64:
            signed = at_src.replace("*(u", "*(s")
            row(0x80 | code | LDX, Spec("load", f"ldxs{letters}", f"r{{dst}} = {signed}", loads, bits))
            row(
                0x20 | code | LD,
                Spec("packet", "load_packet", f"r0 = *(u{bits} *)skb[{{imm}}]", frozenset(("imm",)), bits),
            )
            text = f"r0 = *(u{bits} *)skb[r{{src}} + {{imm}}]"
            row(0x40 | code | LD, Spec("packet", "load_packet", text, frozenset(("src", "imm")), bits))
        if bits >= 32:
            atomics(0xC0 | code | STX, bits, at_dst)


def atomics(opcode: int, bits: int, place: str) -> None:
    """The atomic operations of one width; imm says which."""
    uses = frozenset(("dst", "src", "offset", "imm"))
    for name, sign, code in ATOMICS:
        row(
            opcode,
            Spec("atomic", f"atomic_{name}{bits}", f"lock {place} {sign} r{{src}}", uses, bits),
            "imm",
            code,
        )
        text = f"r{{src}} = atomic_fetch_{name}({place}, r{{src}})"
        row(opcode, Spec("atomic_fetch", f"atomic_{name}{bits}_fetch", text, uses, bits), "imm", code | FETCH)
    text = f"r{{src}} = xchg({place}, r{{src}})"
    row(opcode, Spec("atomic_fetch", f"atomic_xchg{bits}", text, uses, bits), "imm", 0xE0 | FETCH)
    text = f"r0 = cmpxchg({place}, r0, r{{src}})"
    row(opcode, Spec("atomic_compare", f"atomic_cmpxchg{bits}", text, uses, bits), "imm", 0xF0 | FETCH)


arithmetic()
jumps()
memory()
OPCODES = frozenset(opcode for opcode, _ in SPECS)

#: Kinds that write the register dst; src is written by those that fetch.
WRITES_DST = frozenset(("alu", "move", "unary", "load", "lddw"))
WRITES_SRC = frozenset(("atomic_fetch",))
#: Kinds after which the program does not go on with the next instruction.
ENDS = frozenset(("goto", "exit"))


# ---- bytes and text


def decode(code: bytes) -> list[Instruction]:
    """The places of a program, each as an instruction; those of lddw are not yet put together. len(code) is a multiple of 8."""
    return [
        Instruction(op, regs & 15, regs >> 4, offset, imm) for op, regs, offset, imm in CODE.iter_unpack(code)
    ]


def encode(instruction: Instruction) -> bytes:
    """The bytes of an instruction: 16 of lddw, 8 of the others."""
    opcode, dst, src, offset, imm = instruction
    if opcode != LDDW:
        return CODE.pack(opcode, src << 4 | dst, offset, imm)
    low, high = imm & U32, imm >> 32
    return CODE.pack(opcode, src << 4 | dst, offset, signed32(low)) + CODE.pack(0, 0, 0, signed32(high))


def signed32(value: int) -> int:
    """The lower 32 bits as a signed number."""
    return (value & U32 ^ 1 << 31) - (1 << 31)


def whole(places: Sequence[Instruction]) -> Iterator[tuple[int, Instruction]]:
    """(place, instruction) in order, lddw with the constant of both its places. A last lddw may lack its second one."""
    index = 0
    while index < len(places):
        found = places[index]
        if found.opcode == LDDW:
            high = places[index + 1].imm if index + 1 < len(places) else 0
            yield index, found._replace(imm=(high & U32) << 32 | found.imm & U32)
            index += 2
        else:
            yield index, found
            index += 1


def text_of(instruction: Instruction) -> str:
    """An instruction as llvm-objdump writes it; its bytes, if it is none."""
    spec = spec_of(instruction)
    if spec is None:
        return f".8byte {int.from_bytes(encode(instruction)[:8], 'little'):#018x}"
    return spec.text.format(**instruction._asdict()).replace("r10 +0)", "r10)") if spec.uses else spec.text
