"""What cnp knows of a target machine: one value of type `Target` for each, made in cnp/targets/.

Letters in formulas are those of the ELF processor supplements: S the symbol's address, A the addend,
P the place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from cnp.errors import RangeError
from cnp.stencil import Block

Bits = tuple[tuple[int, int, int], ...]  #: (lowest bit of the value, width, lowest bit in the unit) …

REGION_SIZE = 1 << 28  #: bytes in which the jumps of `Formula.REGION` stay


class Formula(IntEnum):
    """How the value of a field comes from S, A and P."""

    ABSOLUTE = 0  #: S + A
    RELATIVE = 1  #: S + A - P
    PAGE = 2  #: Page(S + A) - Page(P), pages of 4 KiB
    REGION = 3  #: S + A - Region(P + 4), regions of REGION_SIZE
    NEGATED = 4  #: -(S + A)


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an instruction: how its value is computed, checked and written.

        value = formula(S, A, P)                      low <= value <= high, value % align == 0
        unit[bits] = (value + carry) >> …             each piece of `bits` picks its bits of the sum

    size: bytes of the unit that holds the field. carry: what the lower half of a pair will take back, because it
    is signed. alone: the checked field to use where this unchecked low half has no high half beside it. jump: the instruction goes there and reads nothing,
    so that a veneer may stand in for the place.
    """

    size: int
    formula: Formula
    bits: Bits
    low: int = -(1 << 63)
    high: int = (1 << 64) - 1
    align: int = 1
    carry: int = 0
    alone: str = ""
    jump: bool = False

    def value(self, s: int, a: int, p: int) -> int:
        """The spec's formula; not yet checked, not yet shifted."""
        if self.formula is Formula.ABSOLUTE:
            return s + a
        if self.formula is Formula.RELATIVE:
            return s + a - p
        if self.formula is Formula.REGION:
            return s + a - (p + 4 & -REGION_SIZE)
        if self.formula is Formula.NEGATED:
            return -(s + a)
        return ((s + a) & ~0xFFF) - (p & ~0xFFF)

    def fits(self, value: int) -> bool:
        return self.low <= value <= self.high and value % self.align == 0

    def write(self, code: bytearray, offset: int, value: int, byteorder: str) -> None:
        """Write a checked `value` into the unit at `offset`."""
        total = value + self.carry
        unit = int.from_bytes(code[offset : offset + self.size], byteorder)  # type: ignore[arg-type]
        for source, width, place in self.bits:
            mask = (1 << width) - 1
            unit = unit & ~(mask << place) | (total >> source & mask) << place
        code[offset : offset + self.size] = unit.to_bytes(self.size, byteorder)  # type: ignore[arg-type]


def checked(fld: Field, value: int, **evidence: object) -> int:
    """`value` if it fits the field; RangeError with the evidence if it does not."""
    if fld.fits(value):
        return value
    what = "is misaligned" if fld.low <= value <= fld.high else "is out of range"
    op, hole = evidence.get("op"), evidence.get("hole")
    message = (
        f"{op}: hole {hole} ({evidence.get('field')}) for {evidence.get('symbol')}: value {value:#x} {what}"
    )
    message += f"; allowed {fld.low:#x} … {fld.high:#x}, a multiple of {fld.align}"
    raise RangeError(message, value=value, low=fld.low, high=fld.high, align=fld.align, **evidence)


@dataclass(frozen=True, slots=True)
class Record:
    """A relocation as the object has it. type: the ELF number (three composed ones: first | second << 8 | third << 16).

    symbol: its name; section, value: where it is defined ("" and 0 if it is not). place: the spec's P, if not offset.
    """

    offset: int
    type: int
    symbol: str
    section: str
    value: int
    addend: int
    place: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What one ELF relocation becomes: a hole with this field at its offset + `at`. keep_place: P stays that of the
    relocation, because the pieces are one pair."""

    field: str
    at: int = 0
    addend: int = 0
    keep_place: bool = False


@dataclass(frozen=True, slots=True)
class Syntax:
    """How the target's assembly text is read: just enough to see the blocks of a stencil and their exits.

    jump: mnemonics of unconditional jumps to a label. inverse: mnemonic of a conditional branch -> its opposite.
    ends: mnemonics that leave without a label (return, indirect jump). local: prefix of block labels.
    emit_jump: text of a jump that the assembler does not shorten, `{}` its target. stack: (mnemonic, arguments) ->
    the change of the stack pointer in bytes, None if it cannot be followed. uses: the same -> registers that it names or
    changes, as (bank, number). rename: a line with other registers, None where the new one lacks a name for that part. delay: the instruction after a jump,
    branch or return is executed with it. far: conditional branches reach less far than jumps. register: how a
    jump's argument looks that is a register, not a label. clean: rewrites a line of clang's output before it is read
    (None: drop it). wrap: lines around each section. emit_branch: text of a conditional branch that leaves its
    section, the mnemonic and the arguments its `{}`. short_jump, short_branch (by mnemonic): text of a jump and of a
    branch that are shorter and reach less far, `{}` the target; "" and empty where there are none.
    """

    jump: frozenset[str]
    inverse: dict[str, str]
    ends: frozenset[str]
    local: str
    emit_jump: str
    stack: Callable[[str, str], int | None]
    uses: Callable[[str, str], frozenset[tuple[str, int]]]
    rename: Callable[[str, Mapping[tuple[str, int], int]], str | None]
    delay: bool = False
    far: bool = True
    register: str = ""
    clean: Callable[[str], str | None] = lambda line: line
    wrap: tuple[str, str] = ("", "")
    emit_branch: str = "\t{}\t{}"
    short_jump: str = ""
    short_branch: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_short(self) -> bool:
        return bool(self.short_jump)

    def delays(self, mnemonic: str) -> bool:
        """Whether the next line is the delay slot of this one."""
        return self.delay and (mnemonic in self.jump or mnemonic in self.inverse or mnemonic in self.ends)

    def is_register(self, argument: str) -> bool:
        return bool(self.register) and argument.startswith(self.register)

    def opposite(self, mnemonic: str, arguments: str) -> tuple[str, str]:
        """The branch that is taken when this one is not."""
        return self.inverse[mnemonic], arguments


@dataclass(frozen=True, slots=True)
class Feature:
    """What some processors of a target have beyond its base line: instructions that code may use where they are there.

    cflags: clang's options for it, behind those of the target. How the kernel tells that a processor has it: `words`, all of
    which stand in its description, and `hwcap`, an entry of the auxiliary vector with the bits that are set there.
    """

    name: str
    cflags: tuple[str, ...]
    words: frozenset[str] = frozenset()
    hwcap: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Target:
    """A machine: everything that is special about it, as data.

    ints, floats: state words that stay in registers, besides the frame pointer. registers: their machine numbers, in the
    order of the state. results: numbers of the two in which a stencil returns. register_fields, number_fields: rows of `fields` in which instructions hold the number of a
    register, and a short immediate or offset. guards: of some of these, (mask, value) of bits that the
    unit must have. short: intervals of immediates that are worth a form;
    constants: of those that are only loaded, (low, high, step): in each there is one way to load its multiples of `step`, a
    power of two, so that negative ones, and those that are longer, are apart. register_classes:
    machine numbers that instructions encode alike, for ints and floats; none: all are alike. shorten: (block, near
    slots, slots at offset 0) -> the same code with short fields for the former and none for the latter, None where it
    has none; short_field: the row that they then are. frame_position: where the frame pointer stands among the integer parameters. convention: attribute of stencil functions in C; fastcc: the IR is
    rewritten instead. prelude: C text of the hole macros (see `cnp/build/wrappers.py` for their list).
    relocations: ELF type -> pieces. composed: each has three types. pairs: rewrites records so that each one stands alone.
    veneer: jumps anywhere; its holes are filled with the
    address (What.OPERAND 0). island: code bytes between two islands of veneers, 0 when no jump is ever too short.
    coherent: instruction fetch sees every store, nothing has to be flushed. wide: slots also come in a long form, beside
    the short one for offsets within short_slots. folds: small immediates also come as addresses, which fold into
    instructions. trap: fills unused code memory. probe: two functions `int f(void)` with their results, to test the
    memory with. long_nops: instructions that do nothing and are longer than `nop`, the longest first. lld: options that its
    linker needs. code_align: of instructions, in bytes. machine: the ELF number. features: beyond the base line; an operation
    has forms of its own for each that makes it shorter. emulated: the processor that the emulator is to be, so that it has
    them all; "" where that is its default.
    """

    name: str
    aliases: tuple[str, ...]
    triple: str
    machine: int
    byteorder: str
    cflags: tuple[str, ...]
    ints: int
    floats: int
    frame_position: int
    convention: str
    fastcc: bool
    prelude: str
    fields: dict[str, Field]
    relocations: Mapping[int, tuple[Piece, ...]]
    syntax: Syntax
    veneer: Block
    nop: bytes
    trap: bytes
    probe: tuple[tuple[bytes, int], tuple[bytes, int]]
    island: int
    short_slots: tuple[int, int]
    lld: tuple[str, ...] = ()
    qemu: str = ""
    emulated: str = ""
    features: tuple[Feature, ...] = ()
    wide: bool = True
    folds: bool = False
    llvm_flags: tuple[str, ...] = ()
    code_align: int = 4
    coherent: bool = False
    composed: bool = False
    pairs: Callable[[list[Record]], list[Record]] = lambda records: records
    registers: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    results: tuple[int, ...] = ()
    register_fields: tuple[str, ...] = ()
    number_fields: tuple[str, ...] = ()
    guards: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    short: tuple[tuple[int, int], ...] = ()
    constants: tuple[tuple[int, int, int], ...] = ()
    register_classes: tuple[tuple[tuple[int, ...], ...], ...] = ((), ())
    short_field: str = ""
    shorten: Callable[[Block, frozenset[int], frozenset[int]], Block | None] | None = None
    capstone: tuple[str, tuple[str, ...]] = ("", ())
    long_nops: tuple[bytes, ...] = ()

    def padding(self, size: int) -> bytes:
        """As few nops as fill `size` bytes, a multiple of `code_align`: the longest first."""
        found = bytearray()
        for nop in (*self.long_nops, self.nop):
            found += nop * ((size - len(found)) // len(nop))
        return bytes(found)
