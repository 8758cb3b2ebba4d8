"""Rows for register numbers and short numbers against clang's assembler: what a row writes into an instruction is what
the assembler makes of the text, at the limits too; one past them the assembler refuses or makes another instruction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest

from cnp import targets
from cnp.errors import ToolError
from cnp.target import Field, Formula, Target
from tests.oracle_build import TARGETS, tools
from tests.oracle_elf import parsed

X86_REGISTERS = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"]

#: Names of registers by number, of the placeholders in texts.
NAMES: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "r": [f"%r{name}" for name in X86_REGISTERS] + [f"%r{n}" for n in range(8, 16)],
        "e": [f"%e{name}" for name in X86_REGISTERS] + [f"%r{n}d" for n in range(8, 16)],
        "f": [f"%xmm{n}" for n in range(16)],
    },
    "aarch64": {"r": [*(f"x{n}" for n in range(31)), "xzr"], "f": [f"d{n}" for n in range(32)]},
    "riscv64": {"r": [f"x{n}" for n in range(32)], "f": [f"f{n}" for n in range(32)]},
    "ppc64le": {"r": [f"{n}" for n in range(32)]},
    "mips64": {"r": [f"${n}" for n in range(32)], "f": [f"$f{n}" for n in range(32)]},
}
NAMES["mips64el"] = NAMES["mips64"]

#: What stands around an instruction so that the assembler takes it as it is.
MODES = {
    "riscv64": ".option {}\n",
    "mips64": ".set noreorder\n.set nomacro\n.set noat\n",
    "mips64el": ".set noreorder\n.set nomacro\n.set noat\n",
}


class Case(NamedTuple):
    """text: an instruction with a placeholder for the number N: {n}, {neg} -N, {c32} 32 - N, {c64} 64 - N, {m32} N - 32,
    {pow} 2^N, of multiples {s16} {s32} {s48} N >> 16, 32, 48 and {u20}
    N >> 12 with 20 bits, or a register of that number (`NAMES`). rows: name of a row, addend, offset of its unit; more than one if
    the number is held twice. skip: numbers that the instruction cannot take for other reasons."""

    text: str
    rows: tuple[tuple[str, int, int], ...]
    skip: tuple[int, ...] = ()


def case(text: str, rows: str, skip: tuple[int, ...] = ()) -> Case:
    """rows: `row`, `row+addend` or `row@offset`, separated by blanks."""
    found = [re.fullmatch(r"(\w+)([+-]\d+)?(?:@(\d+))?", item) for item in rows.split()]
    return Case(text, tuple((m[1], int(m[2] or 0), int(m[3] or 0)) for m in found if m), skip)


CASES: dict[str, list[Case]] = {
    "x86_64": [
        case("addl %ecx, {e}", "low3@1"),
        case("bswapl {e}", "low3@1"),
        case("movl 8({r},%rcx), %eax", "low3@2"),
        case("addsd {f}, %xmm1", "low3@3"),
        case("addl {e}, %ecx", "mid3@1"),
        case("movl 8(%rcx,{r}), %eax", "mid3@2", skip=(4,)),  # no index
        case("movabsq $0x1122334455667788, {r}", "rex_b1"),
        case("addq %rcx, {r}", "rex_b2"),
        case("bswapq {r}", "rex_b2"),
        case("movq 8({r}), %rcx", "rex_b2", skip=(4, 12)),  # with a SIB
        case("imulq {r}, %rcx", "rex_b3"),
        case("cvtsi2sdq {r}, %xmm1", "rex_b3@1"),
        case("movq 8({r},%rcx), %rax", "rex_b3"),
        case("pextrq $1, %xmm1, {r}", "rex_b4@1"),
        case("imulq 8({r},%rcx), %rax", "rex_b4"),
        case("movbeq 8({r},%rcx), %rax", "rex_b5"),
        case("addq {r}, %rcx", "rex_r2"),
        case("leaq 8(%rcx), {r}", "rex_r2"),
        case("imulq %rcx, {r}", "rex_r3"),
        case("crc32q %rcx, {r}", "rex_r4@1"),
        case("movq 8(%rcx,{r}), %rax", "rex_x3", skip=(4,)),
        case("imulq 8(%rcx,{r}), %rax", "rex_x4", skip=(4,)),
        case("movbeq 8(%rcx,{r}), %rax", "rex_x5", skip=(4,)),
        case("shlxq %rcx, {r}, %rdx", "vex_b@1"),
        case("shlxq %rcx, %rdx, {r}", "vex_r@1"),
        case("shlxq {r}, %rcx, %rdx", "vex_v@1"),
        case("vaddsd %xmm1, {f}, %xmm2", "vex_v2@1"),
        case("addq ${n}, %rcx", "imm8@3"),
        case("movq {n}(%r13), %rax", "imm8@3"),
        case("addq ${neg}, %rcx", "imm8_neg@3"),
        case("leaq {neg}(%r13), %rax", "imm8_neg@3"),
        case("leaq 8(%rcx,%rdx,{pow}), %rax", "scale@3"),
        case("testq ${n}, %rcx", "abs32s@3"),
        case("movq {n}(,%rcx), %rax", "abs32s@4"),
    ],
    "aarch64": [
        case("add {r}, x1, x2", "rd"),
        case("fadd {f}, d1, d2", "rd"),
        case("ldr {r}, [x1, #8]", "rd"),
        case("add x1, {r}, x2", "rn"),
        case("fadd d1, {f}, d2", "rn"),
        case("add x1, x2, {r}", "rm"),
        case("csel x1, x2, {r}, lt", "rm"),
        case("fadd d1, d2, {f}", "rm"),
        case("madd x1, x2, x3, {r}", "ra"),
        case("fmadd d1, d2, d3, {f}", "ra"),
        case("ldp x1, {r}, [x2]", "ra", skip=(1,)),  # the same register twice
        case("add x1, x2, #{n}", "imm12"),
        case("cmp w1, #{n}", "imm12"),
        case("ldrb w1, [x2, #{n}]", "imm12"),
        case("ldrh w1, [x2, #{n}]", "off2"),
        case("str w1, [x2, #{n}]", "off4"),
        case("ldr x1, [x2, #{n}]", "off8"),
        case("str d1, [x2, #{n}]", "off8"),
        case("ldr q1, [x2, #{n}]", "off16"),
        case("ldur x1, [x2, #{n}]", "imm9"),
        case("stur d1, [x2, #{n}]", "imm9"),
        case("sub x1, x2, #{neg}", "imm12_neg"),
        case("cmn x1, #{neg}", "imm12_neg"),
        case("mov x1, #{n}", "mov16"),
        case("mov x1, #{n}", "mov16_neg+1"),
        case("movz x1, #{s16}, lsl #16", "mov16_16"),
        case("movz x1, #{s32}, lsl #32", "mov16_32"),
        case("mov x1, #{n}", "mov16_16", skip=(0,)),  # which has no shift
        case("mov x1, #{n}", "mov16_32", skip=(0,)),
        case("mov x1, #{n}", "mov16_48", skip=(0, -0x8001 << 48)),  # modulo 2^64
        case("lsr x1, x2, #{n}", "immr6"),
        case("asr x1, x2, #{n}", "immr6"),
        case("lsl x1, x2, #{n}", "immr6_neg imms6_neg-63"),
        case("ubfx x1, x2, #{n}, #1", "immr6 imms6"),
        case("ror x1, x2, #{n}", "imms6"),
        case("ror x1, x2, #{c64}", "imms6_neg-64"),
        case("lsr w1, w2, #{n}", "immr5"),
        case("asr w1, w2, #{n}", "immr5"),
        case("lsl w1, w2, #{n}", "immr5_neg imms5_neg-31"),
        case("ror w1, w2, #{n}", "imms5"),
        case("ror w1, w2, #{c32}", "imms5_neg-32"),
    ],
    "riscv64": [
        case("add {r}, x11, x12", "rd"),
        case("fadd.d {f}, f1, f2", "rd"),
        case("add x10, {r}, x12", "rs1"),
        case("ld x10, 8({r})", "rs1"),
        case("add x10, x11, {r}", "rs2"),
        case("fsd {f}, 8(x10)", "rs2"),
        case("fmadd.d f1, f2, f3, {f}", "rs3"),
        case("c.lwsp {r}, 8(x2)", "c_rd"),
        case("c.mv x10, {r}", "c_rs2"),
        case("c.and {r}, x9", "c_rs1p"),
        case("c.ld x9, 8({r})", "c_rs1p"),
        case("c.and x9, {r}", "c_rs2p"),
        case("c.fld {f}, 8(x9)", "c_rs2p"),
        case("addi x10, x11, {n}", "imm12_i"),
        case("ld x10, {n}(x11)", "imm12_i"),
        case("sd x10, {n}(x11)", "imm12_s"),
        case("addi x10, x11, {neg}", "imm12_i_neg"),
        case("slli x10, x11, {n}", "shamt6"),
        case("srai x10, x11, {n}", "shamt6"),
        case("srli x10, x11, {c64}", "shamt6_neg-64"),
        case("sraiw x10, x11, {n}", "shamt5"),
        case("srliw x10, x11, {c32}", "shamt5_neg-32"),
        case("c.li x10, {n}", "c_imm"),
        case("c.andi x9, {n}", "c_imm"),
        case("c.addiw x10, {n}", "c_imm"),
        case("c.li x10, {neg}", "c_imm_neg"),
        case("li x10, {n}", "lui", skip=(0,)),  # which is an addi
        case("lui x10, {s16}", "lui_16"),
        case("c.lui x10, {u20}", "c_lui", skip=(0,)),
        case("c.slli x10, {n}", "c_shamt", skip=(0,)),  # no shift by 0: those are hints
        case("c.srai x9, {n}", "c_shamt", skip=(0,)),
        case("c.srli x9, {c64}", "c_shamt_neg-64", skip=(64,)),
        case("c.lw x9, {n}(x10)", "c_off4"),
        case("c.ld x9, {n}(x10)", "c_off8"),
        case("c.fsd f9, {n}(x10)", "c_off8"),
    ],
    "ppc64le": [
        case("add {r}, 4, 5", "rt"),
        case("or 4, {r}, 5", "rt"),
        case("xsadddp {r}, 1, 2", "rt"),
        case("add 3, {r}, 5", "ra"),
        case("mtvsrd 1, {r}", "ra"),
        case("xsmuldp 1, {r}, 2", "ra"),
        case("add 3, 4, {r}", "rb"),
        case("xssqrtdp 1, {r}", "rb"),
        case("fmadd 1, 2, {r}, 3", "rc"),
        case("xxsel 1, 2, 3, {r}", "rc"),
        case("addi 3, 4, {n}", "disp16"),
        case("cmpdi 3, {n}", "disp16"),
        case("stw 3, {n}(4)", "disp16"),
        case("ld 3, {n}(4)", "disp16ds"),
        case("ori 3, 4, {n}", "uimm16"),
        case("andi. 3, 4, {n}", "uimm16"),
        case("cmpldi 3, {n}", "uimm16"),
        case("addi 3, 4, {neg}", "disp16_neg"),
        case("lis 3, {s16}", "li_16", skip=(-0x8001 << 16,)),  # lis takes 17 bits
        case("lis 3, {s32}", "li_32", skip=(-0x8001 << 32,)),
        case("lis 3, {s48}", "li_48", skip=(-0x8001 << 48,)),
        case("rldicl 3, 4, {n}, 0", "sh6"),
        case("sradi 3, 4, {n}", "sh6"),
        case("sldi 3, 4, {n}", "sh6 mb6_neg-63"),
        case("srdi 3, 4, {n}", "sh6_neg mb6"),
        case("rldicr 3, 4, 0, {n}", "mb6"),
        case("slwi 3, 4, {n}", "sh5 me5_neg-31"),
        case("srawi 3, 4, {n}", "sh5"),
        case("srwi 3, 4, {n}", "sh5_neg mb5"),
        case("rlwinm 3, 4, 0, {n}, 31", "mb5"),
        case("rlwinm 3, 4, 0, {c32}, 31", "mb5_neg-32"),
        case("rlwinm 3, 4, 0, 0, {n}", "me5"),
    ],
    "mips64": [
        case("daddu $3, {r}, $5", "rs"),
        case("ld $3, 8({r})", "rs"),
        case("daddu $3, $4, {r}", "rt"),
        case("add.d $f1, $f2, {f}", "rt"),
        case("daddu {r}, $4, $5", "rd"),
        case("mov.d $f1, {f}", "rd"),
        case("add.d {f}, $f2, $f3", "fd"),
        case("daddiu $3, $4, {n}", "simm16"),
        case("ld $3, {n}($4)", "simm16"),
        case("ori $3, $4, {n}", "uimm16"),
        case("daddiu $3, $4, {neg}", "simm16_neg"),
        case("lui $3, {s16}", "li_16"),
        case("lui $3, {s32}", "li_32"),
        case("lui $3, {s48}", "li_48"),
        case("dsll $3, $4, {n}", "sa5"),
        case("sra $3, $4, {n}", "sa5"),
        case("dsrl32 $3, $4, {m32}", "sa5-32"),
        case("drotr32 $3, $4, {c32}", "sa5_neg-32"),
        case("drotr $3, $4, {c64}", "sa5_neg-64"),
        case("dext $3, $4, {n}, {c32}", "sa5 msbd5_neg-31"),
    ],
}
CASES["mips64el"] = CASES["mips64"]

EACH = [(name, item) for name in TARGETS for item in CASES[name]]
each_case = pytest.mark.parametrize(
    ("name", "item"), EACH, ids=[f"{name}: {item.text}" for name, item in EACH]
)


# ---- numbers and texts


def interval(fld: Field, addend: int) -> tuple[int, int]:
    """The numbers whose value the field holds."""
    low, high = fld.low - addend, fld.high - fld.high % fld.align - addend
    return (low, high) if fld.formula is Formula.ABSOLUTE else (-(high + 2 * addend), -(low + 2 * addend))


def limits(target: Target, item: Case) -> tuple[int, int, int]:
    """The lowest and the highest number that all rows of a case hold, and the step between two."""
    ranges = [interval(target.fields[row], addend) for row, addend, _ in item.rows]
    step = max(target.fields[row].align for row, _, _ in item.rows)
    return max(low for low, _ in ranges), min(high for _, high in ranges), step


def inside(target: Target, item: Case) -> list[int]:
    """Both limits and numbers between them."""
    low, high, step = limits(target, item)
    some = {low + (high - low) * part // 16 // step * step for part in range(17)}
    near = {low + step, high - step, high, 0, step, -step}
    return sorted(n for n in some | near if low <= n <= high and n not in item.skip)


def outside(target: Target, item: Case) -> list[int]:
    """One step past each limit, and between two steps; of registers those that exist."""
    low, high, step = limits(target, item)
    past = [low - step, high + step, *([low + 1] if step > 1 else [])]
    return [n for n in past if n not in item.skip and written(target.name, item, n)]


def written(name: str, item: Case, number: int) -> str:
    """The text for one number; "" if there is no such register, or nothing to be shifted."""
    values = {"n": number, "neg": -number, "c32": 32 - number, "c64": 64 - number, "m32": number - 32}
    values |= {f"s{bits}": number >> bits for bits in (16, 32, 48) if number % (1 << bits) == 0}
    values |= {"u20": (number >> 12) + (1 << 20 if number < 0 else 0)} if number % (1 << 12) == 0 else {}
    values["pow"] = 1 << number if 0 <= number < 64 else 0
    names = {bank: known[number] for bank, known in NAMES[name].items() if 0 <= number < len(known)}
    try:
        text = item.text.format(**values, **names)
    except KeyError:
        return ""
    return MODES.get(name, "").format("rvc" if text.startswith("c.") else "norvc") + text


# ---- the assembler


@cache
def assembled(name: str) -> dict[str, bytes | None]:
    """What the assembler makes of the texts of all cases, in two runs; None where it refuses."""
    target = targets.get(name)
    texts = [
        written(name, item, number)
        for item in CASES[name]
        for number in (*inside(target, item), *outside(target, item))
    ]
    unique = list(dict.fromkeys(texts))
    lines = {text: f".section .text.{number}\n{text}\n" for number, text in enumerate(unique)}
    refused: set[str] = set()
    try:
        return dict(sections(target, lines))
    except ToolError as error:
        bad = {int(line) for line in re.findall(r"case\.s:(\d+):\d+: error:", error.message)}
    line = 1
    for text, written_lines in lines.items():
        count = written_lines.count("\n")
        refused |= {text} if bad & set(range(line, line + count)) else set()
        line += count
    good = {text: lines[text] for text in unique if text not in refused}
    return {**dict(sections(target, good)), **dict.fromkeys(refused)}


def sections(target: Target, lines: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Each text with the contents of its section."""
    with TemporaryDirectory() as folder:
        source, out = Path(folder) / "case.s", Path(folder) / "case.o"
        source.write_text("".join(lines.values()))
        flags = (
            f"--target={target.triple}",
            *target.cflags,
            *target.llvm_flags,
            "-Wno-unused-command-line-argument",
        )
        tools().compile(*flags, "-c", source, "-o", out)
        _, found = parsed(out.read_bytes())
        contents = {section.name: section.data() for section in found}
    for text, line in lines.items():
        yield text, contents[line.split()[1]]


def filled(target: Target, item: Case, code: bytes, number: int) -> bytes:
    """The instruction with its rows written for another number."""
    out = bytearray(code)
    for row, addend, offset in item.rows:
        fld = target.fields[row]
        fld.write(out, offset, fld.value(number, addend, 0), target.byteorder)
    return bytes(out)


# ---- tests


@each_case
def test_rows_write_what_the_assembler_writes(name: str, item: Case) -> None:
    """From the instruction with any number of the interval to that with any other, limits included."""
    target, codes = targets.get(name), assembled(name)
    numbers = inside(target, item)
    known = {number: codes[written(name, item, number)] for number in numbers}
    for number in (numbers[0], numbers[-1], numbers[len(numbers) // 2]):
        code = known[number]
        assert code is not None, f"the assembler refuses {number}"
        for other in numbers:
            assert filled(target, item, code, other) == known[other], other
        for row, addend, _ in item.rows:
            fld = target.fields[row]
            assert fld.fits(fld.value(number, addend, 0))


@each_case
def test_one_past_the_limits_is_another_instruction(name: str, item: Case) -> None:
    """No row holds the number, and it has no instruction that would differ in nothing but the fields."""
    target, codes = targets.get(name), assembled(name)
    code = codes[written(name, item, inside(target, item)[0])]
    assert code is not None
    for number in outside(target, item):
        values = [(fld := target.fields[row], fld.value(number, addend, 0)) for row, addend, _ in item.rows]
        assert not all(fld.fits(value) for fld, value in values)
        other = codes[written(name, item, number)]
        assert other is None or other != filled(target, item, code, number), number


@pytest.mark.parametrize("name", TARGETS)
def test_every_row_is_tried_at_its_limits(name: str) -> None:
    """No row of a target's lists is missing above, nor one of its limits; and the lists name every row once."""
    target = targets.get(name)
    listed = [*target.register_fields, *target.number_fields]
    assert len(set(listed)) == len(listed)
    reached: dict[str, set[int]] = {row: set() for row in listed}
    for item in CASES[name]:
        for row, addend, _ in item.rows:
            fld = target.fields[row]
            reached[row] |= {fld.value(number, addend, 0) for number in inside(target, item)}
    for row, values in reached.items():
        fld = target.fields[row]
        assert {fld.low, fld.high - fld.high % fld.align} <= values, row


@pytest.mark.parametrize("name", TARGETS)
def test_register_rows_hold_every_register(name: str) -> None:
    """Numbers of the state's registers: as many as the target pins, none twice, each held by a row."""
    target = targets.get(name)
    rows = [target.fields[row] for row in target.register_fields]
    assert [len(bank) for bank in target.registers] == [target.ints, target.floats]
    for bank in target.registers:
        assert len(set(bank)) == len(bank)
        assert all(any(fld.fits(number) for fld in rows) for number in bank)
    assert all(
        fld.formula in (Formula.ABSOLUTE, Formula.NEGATED) for fld in rows
    )  # some with all bits inverted


@pytest.mark.parametrize("name", TARGETS)
def test_narrow_rows_come_first(name: str) -> None:
    """A wide row that lies around a narrow one writes the same bits for small values: the narrow one is to be found."""
    target = targets.get(name)
    for listed in (target.register_fields, target.number_fields):
        rows = [target.fields[row] for row in listed]
        for number, wide in enumerate(rows):
            for later in rows[number + 1 :]:
                same = (later.size, later.formula) == (wide.size, wide.formula)
                assert not (same and own(later) < own(wide)), (listed[number], later)


def own(fld: Field) -> frozenset[int]:
    """The bits of the unit that the field fills."""
    return frozenset(place + bit for _, width, place in fld.bits for bit in range(width))
