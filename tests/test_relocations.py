"""Every row of every target's tables: fields at a typical value, at both limits, one past each, and misaligned;
relocations against what objects hold."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from cnp import patch, targets
from cnp.assembler import Assembler
from cnp.errors import RangeError
from cnp.stencil import Block, Form, Hole, Operand, Operation, Stencil, What
from cnp.target import Field, Formula, checked
from tests.oracle_build import EVERYTHING, OPS, TARGETS, everything, made, made_in_part
from tests.oracle_elf import parsed

WORD = 1 << 64
WHOLE = (-(1 << 63), WORD - 1)

ROWS = [(name, field) for name in TARGETS for field in targets.get(name).fields]

#: Relocations that no object of ours holds, and why their rows are there.
UNSEEN = {
    "x86_64": {
        12: "an immediate of 16 bits, in a user's asm",
        14: "an immediate of 8 bits, such as a shift count in a user's asm",
    },
    "aarch64": {257: "a pointer in data", 299: "a vector constant"},
    "riscv64": {
        2: "a pointer in data",
        18: "the older name of 19, of assemblers before LLVM 11",
        25: "a store to the address of data",
        44: "a short branch out of its section, which .option exact forbids",
        45: "a short jump out of its section, which is written long",
    },
    "ppc64le": {
        1: "a word in data",
        6: "the adjusted upper half of 32 bits, in a user's asm",
        38: "a pointer in data",
        57: "a low half whose low two bits are opcode",
    },
    "mips64": {},
    "mips64el": {},
}


def in_range(name: str, field: str) -> Field:
    return targets.get(name).fields[field]


def read_back(fld: Field, code: bytes, order: str) -> int:
    """The bits of a field, each piece at its own place of the value."""
    unit = int.from_bytes(code, order)  # type: ignore[arg-type]
    return sum((unit >> place & (1 << width) - 1) << source for source, width, place in fld.bits)


def mask_of(fld: Field) -> int:
    return sum(((1 << width) - 1) << source for source, width, _ in fld.bits)


def good_values(fld: Field) -> Iterator[int]:
    """Both limits, and typical values between them."""
    yield from (fld.low, fld.high - fld.high % fld.align, 0 if fld.low <= 0 else fld.low)
    dice = random.Random(fld.high)
    for _ in range(20):
        yield dice.randrange(fld.low, fld.high + 1) // fld.align * fld.align


# ---- fields


@pytest.mark.parametrize(("name", "field"), ROWS)
def test_field_holds_what_it_is_given(name: str, field: str) -> None:
    """At the limits and between them the bits are those of value + carry, and no others change."""
    fld, order = in_range(name, field), targets.get(name).byteorder
    own = sum(((1 << width) - 1) << place for _, width, place in fld.bits)
    for value in good_values(fld):
        for before in (bytes(fld.size), b"\xff" * fld.size):
            code = bytearray(b"\xaa" + before + b"\xaa")
            assert checked(fld, value) == value
            fld.write(code, 1, value, order)
            assert code[0] == code[-1] == 0xAA
            assert read_back(fld, bytes(code[1:-1]), order) == value + fld.carry & mask_of(fld)
            unit = int.from_bytes(code[1:-1], order)  # type: ignore[arg-type]
            assert unit & ~own == int.from_bytes(before, order) & ~own  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "field"), ROWS)
def test_field_refuses_one_past_its_limits(name: str, field: str) -> None:
    fld = in_range(name, field)
    for value in (fld.low - 1, fld.low - fld.align, fld.high + 1, fld.high + fld.align):
        assert not fld.fits(value)
        facts = {"op": "add", "index": 7, "hole": 12, "field": field, "symbol": "x"}
        with pytest.raises(RangeError) as caught:
            checked(fld, value, **facts)
        expected = {**facts, "value": value, "low": fld.low, "high": fld.high, "align": fld.align}
        assert caught.value.evidence == expected
        assert (
            "out of range" in caught.value.message
            and "add" in caught.value.message
            and field in caught.value.message
        )


@pytest.mark.parametrize(("name", "field"), [row for row in ROWS if in_range(*row).align > 1])
def test_field_refuses_misaligned_values(name: str, field: str) -> None:
    fld = in_range(name, field)
    for off in {1, fld.align - 1}:
        value = fld.low // fld.align * fld.align + fld.align + off
        assert fld.low <= value <= fld.high and not fld.fits(value)
        with pytest.raises(RangeError, match="misaligned") as caught:
            checked(fld, value, op="add", index=0, hole=0, field=field, symbol="x")
        assert caught.value.align == fld.align and caught.value.value == value


@pytest.mark.parametrize(("name", "field"), ROWS)
def test_limits_are_what_the_bits_hold(name: str, field: str) -> None:
    """A checked field is no wider than its bits: between its limits no two values look the same, limits aside that
    are alternatives modulo 2^width (signed or unsigned, addresses modulo 2^32)."""
    fld = in_range(name, field)
    top = max(source + width for source, width, _ in fld.bits)
    lowest = min(source for source, _, _ in fld.bits)
    assert fld.align % (1 << lowest) == 0 or fld.formula is Formula.ABSOLUTE or fld.carry or fld.jump, (
        "bits are lost"
    )
    others = targets.get(name).fields.values()
    lower = (
        any((o.low, o.high, o.formula) == (fld.low, fld.high, fld.formula) and o.carry for o in others)
        and not fld.carry
    )
    if (fld.low, fld.high) != WHOLE and not lower:  # the lower half of a pair has the range of the pair
        assert fld.high - fld.low < 2 << top
        assert fld.low % fld.align == 0


@pytest.mark.parametrize("name", TARGETS)
def test_unchecked_low_halves_have_a_checked_row(name: str) -> None:
    fields = targets.get(name).fields
    for fld in fields.values():
        if fld.alone:
            other = fields[fld.alone]
            assert other.bits == fld.bits and (other.low, other.high) != WHOLE and not other.alone


def test_formulas_are_those_of_the_specifications() -> None:
    s, a, p = 0x1234_5678_9ABC, -0x10, 0x1234_0000_0FFC
    assert Field(4, Formula.ABSOLUTE, ()).value(s, a, p) == s + a
    assert Field(4, Formula.RELATIVE, ()).value(s, a, p) == s + a - p
    assert Field(4, Formula.PAGE, ()).value(s, a, p) == 0x1234_5678_9000 - 0x1234_0000_0000
    assert Field(4, Formula.REGION, ()).value(s, a, 0x1234_5FFF_FFFC) == s + a - 0x1234_6000_0000


# ---- relocations


@pytest.mark.parametrize("name", TARGETS)
def test_every_relocation_is_produced_or_explained(name: str) -> None:
    target, seen = targets.get(name), set()
    for built in (made(EVERYTHING, name), made_in_part(OPS, name, 10_000, 20)):
        for image in built.objects:
            _, sections = parsed(image)
            for section in sections:
                if section["sh_type"] == "SHT_RELA" and sections[section["sh_info"]].name.startswith(
                    ("cnp.", ".text.")
                ):
                    for raw in section.iter_relocations():
                        entry = raw.entry
                        composed = (
                            entry["r_type"] | entry["r_type2"] << 8 | entry["r_type3"] << 16
                            if "r_type2" in entry
                            else 0
                        )
                        seen.add(composed or entry["r_info_type"])
    assert seen <= set(target.relocations)
    assert set(target.relocations) - seen == set(UNSEEN[name])


@pytest.mark.parametrize("name", TARGETS)
def test_relocations_name_fields(name: str) -> None:
    target = targets.get(name)
    named = {piece.field for pieces in target.relocations.values() for piece in pieces}
    named |= {hole.field for hole in target.veneer.holes}
    named |= {*target.register_fields, *target.number_fields}
    assert named <= set(target.fields)
    assert set(target.fields) == named | {fld.alone for fld in target.fields.values() if fld.alone}, (
        "a row that nothing uses"
    )


# ---- through patch.encode


def one_field(name: str, field: str, what: What, number: int) -> Callable[[int, int], patch.Image]:
    """What links a program of one operation with one hole of this field, which takes a number."""
    library = everything(name)
    block = Block(bytes(16), (Hole(8, field, what, number, 0, 8),))
    form = Form((), Stencil((block,)), None)
    operation = Operation("probe", 0, (Operand("imm", "u64", "wanted"),), (form,), 1)

    def link(base: int, value: int) -> patch.Image:
        asm = Assembler(library)
        asm.function("f", frame=0)
        asm.op("ret")
        program = asm.close()
        program.ops.insert(0, program.ops[0]._replace(operation=operation, form=form, values=(value,)))
        return patch.encode(program, base)

    return link


@pytest.mark.parametrize(
    ("name", "field"),
    [row for row in ROWS if not in_range(*row).jump and in_range(*row).formula is Formula.ABSOLUTE],
)
def test_encode_refuses_with_all_that_is_known(name: str, field: str) -> None:
    """A RangeError names operation, index, hole, symbol, value and range; the limits themselves are taken."""
    fld = in_range(name, field)
    link = one_field(name, field, What.OPERAND, 0)
    order = targets.get(name).byteorder
    for value in (fld.low, fld.high - fld.high % fld.align):
        image = link(0x10000, value)
        assert read_back(fld, image.code[8 : 8 + fld.size], order) == value + fld.carry & mask_of(fld)
    bad = [
        fld.low - fld.align,
        fld.high + fld.align - fld.high % fld.align,
        *([fld.low + 1] if fld.align > 1 else []),
    ]
    for value in bad if (fld.low, fld.high) != WHOLE else ():
        with pytest.raises(RangeError) as caught:
            link(0x10000, value)
        error = caught.value
        assert (error.op, error.index, error.hole, error.symbol, error.value) == (
            "probe",
            0,
            8,
            "wanted",
            value,
        )
        assert (error.field, error.low, error.high, error.align) == (field, fld.low, fld.high, fld.align)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        row
        for row in ROWS
        if in_range(*row).formula in (Formula.RELATIVE, Formula.PAGE) and not in_range(*row).jump
    ],
)
def test_encode_refuses_what_no_veneer_can_help(name: str, field: str) -> None:
    """Data that is read relative to the place is never replaced by a veneer: the limits hold, one past is refused."""
    fld = in_range(name, field)
    link = one_field(name, field, What.OPERAND, 0)
    base, place = 1 << 40, (1 << 40) + 8
    for value in (fld.low, fld.high - fld.high % fld.align):
        link(base, place + value)
    for value in (fld.low - fld.align, fld.high - fld.high % fld.align + fld.align):
        with pytest.raises(RangeError) as caught:
            link(base, place + value)
        assert caught.value.op == "probe" and caught.value.symbol == "wanted" and caught.value.field == field


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("base", [1, 8, -16, WORD - 16, WORD])
def test_encode_refuses_bases(name: str, base: int) -> None:
    """Misaligned, below zero, or so high that the image would pass the end of the address space."""
    asm = Assembler(everything(name))
    asm.function("f", frame=0)
    asm.op("ret")
    with pytest.raises(RangeError) as caught:
        patch.encode(asm.close(), base, data_base=0)
    assert caught.value.symbol == "base" and caught.value.value == base and caught.value.align == 16


@pytest.mark.parametrize("name", TARGETS)
def test_encode_takes_high_bases(name: str) -> None:
    """The last aligned place of the address space that holds the image."""
    asm = Assembler(everything(name))
    asm.function("f", frame=16)
    asm.op("imm_f64", 2.5)
    asm.op("ret")
    program = asm.close()
    base = (WORD - patch.size_bound(program)[0]) & -(1 << 28)
    low = patch.encode(program, 0x1000_0000, data_base=0)
    high = patch.encode(program, base, data_base=0)
    assert high.offsets == low.offsets and len(high.code) == len(low.code)
    with pytest.raises(RangeError, match="data_base"):
        patch.encode(program, 0x1000_0000, data_base=4)


def test_a_replaced_row_is_another_one() -> None:
    """The checks above would see a range that is one step too wide."""
    fld = targets.get("aarch64").fields["jump26"]
    assert replace(fld, high=fld.high + 4).fits(fld.high + 4) and not fld.fits(fld.high + 4)
