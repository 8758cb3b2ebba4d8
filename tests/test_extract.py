"""What is read out of objects: pyelftools held against lief, and everything that must be refused.

Objects with faults are made by clang from short assembly or C texts, or by changing a byte of a good one.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest

from cnp import targets
from cnp.build.driver import Job, build
from cnp.build.extract import extract
from cnp.build.layout import arrange
from cnp.errors import BuildError
from cnp.stencil import What
from tests.oracle_build import EVERYTHING, OPS, REGISTERS, TARGETS, made, made_in_part, tools
from tests.oracle_elf import parsed

MIPS = ("mips64", "mips64el")

# ---- two readers, one object


def by_elftools(image: bytes) -> dict[str, list[tuple[int, int, str, int]]]:
    """Section -> its relocations as (offset, type, symbol, addend), in order of the offset."""
    _, sections = parsed(image)
    found: dict[str, list[tuple[int, int, str, int]]] = {}
    for section in sections:
        if section["sh_type"] == "SHT_RELA":
            symbols = sections[section["sh_link"]]
            rows = found.setdefault(sections[section["sh_info"]].name, [])
            for raw in section.iter_relocations():
                entry = raw.entry
                kind = entry["r_info_type"]
                if "r_type2" in entry:
                    kind = entry["r_type"] | entry["r_type2"] << 8 | entry["r_type3"] << 16
                rows.append(
                    (entry["r_offset"], kind, symbols.get_symbol(entry["r_info_sym"]).name, entry["r_addend"])
                )
    return {name: sorted(rows) for name, rows in found.items()}


def by_lief(image: bytes) -> dict[str, list[tuple[int, int, str, int]]]:
    """The same by lief. Its type numbers carry the machine above bit 27; composed ones lie in one word."""
    lief = pytest.importorskip("lief")
    binary = lief.ELF.parse(list(image))
    found: dict[str, list[tuple[int, int, str, int]]] = {}
    for row in binary.object_relocations:
        name = row.section.name
        found.setdefault(name, []).append(
            (
                row.address,
                int(row.type) & (1 << 27) - 1,
                row.symbol.name if row.has_symbol else "",
                row.addend,
            )
        )
    return {name: sorted(rows) for name, rows in found.items()}


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("source", [EVERYTHING, OPS, REGISTERS], ids=lambda path: path.stem)
def test_lief_reads_the_same_sections_and_symbols(source: Path, name: str) -> None:
    lief = pytest.importorskip("lief")
    for image in made_in_part(source, name, 400, 20).objects:
        binary = lief.ELF.parse(list(image))
        _, ours = parsed(image)
        assert [(s.name, s.size, s.alignment) for s in binary.sections] == [
            (s.name, s["sh_size"], s["sh_addralign"]) for s in ours
        ]
        contents = {
            s.name: bytes(s.content)
            for s in binary.sections
            if s.name.startswith(("cnp.", ".text.", ".rodata"))
        }
        assert contents == {s.name: s.data() for s in ours if s.name in contents}
        symbols = next(s for s in ours if s["sh_type"] == "SHT_SYMTAB")
        assert [(s.name, s.value) for s in binary.symtab_symbols] == [
            (s.name, s["st_value"]) for s in symbols.iter_symbols()
        ]


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in MIPS])
@pytest.mark.parametrize("source", [EVERYTHING, OPS, REGISTERS], ids=lambda path: path.stem)
def test_lief_reads_the_same_relocations(source: Path, name: str) -> None:
    for image in made_in_part(source, name, 400, 20).objects:
        ours = by_elftools(image)
        assert by_lief(image) == ours
        assert sum(map(len, ours.values())) > 0


LINES = {"add": 12}
HOT = "cnp.hot.add.0"
COMPOSED = 7 | 24 << 8 | 5 << 16  # R_MIPS_GPREL16, R_MIPS_SUB, R_MIPS_HI16: each applied to the one before


@pytest.mark.filterwarnings("ignore:.*is not a valid TYPE")
@pytest.mark.parametrize("name", MIPS)
def test_where_lief_errs(name: str) -> None:
    """In every record of mips64el: n64 stores the number of the symbol first in both byte orders, and lief takes it
    for the type there. Big-endian ones are right, composed ones too."""
    image = made(EVERYTHING, name).objects[0]
    pair = assembled(name, f'.section {HOT},"ax",@progbits\nlui $28, %hi(%neg(%gp_rel(f)))')
    assert by_elftools(pair) == {HOT: [(0, COMPOSED, "f", 0)]}
    if name == "mips64":
        assert by_lief(image) == by_elftools(image)
        assert by_lief(pair) == by_elftools(pair)
        return
    _, sections = parsed(image)
    for rows in sections:
        if rows["sh_type"] == "SHT_RELA":
            numbers = sorted((raw["r_offset"], raw["r_info_sym"]) for raw in rows.iter_relocations())
            assert [row[:2] for row in by_lief(image)[sections[rows["sh_info"]].name]] == numbers
    assert by_lief(pair) != by_elftools(pair)


# ---- objects that are refused


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def assembled(name: str, text: str) -> bytes:
    """An object with this text, in the working folder."""
    target = targets.get(name)
    Path("text.s").write_text(text + "\n")
    flags = [*target.cflags, "-Wno-unused-command-line-argument"]
    tools().compile(f"--target={target.triple}", *flags, "-c", "text.s", "-o", "text.o")
    return Path("text.o").read_bytes()


def refused(name: str, image: bytes, what: str) -> BuildError:
    """The error for an object, after the fields that all of them have."""
    with pytest.raises(BuildError, match=what) as caught:
        extract([image], targets.get(name), {}, LINES, set())
    assert caught.value.target == name
    return caught.value


def section(body: str, name: str = HOT) -> str:
    return f'.section {name},"ax",@progbits\n{body}\n'


UNKNOWN = {  # name -> instruction with a relocation of the GOT or of thread-local storage, its type
    "x86_64": ("movq other@GOTPCREL(%rip), %rax", 42),
    "aarch64": ("adrp x0, :got:other", 311),
    "riscv64": ("auipc a0, %got_pcrel_hi(other)", 20),
    "ppc64le": ("addis 3, 2, other@got@ha", 17),
    "mips64": ("lui $2, %gp_rel(other)", 7),
    "mips64el": ("lui $2, %gp_rel(other)", 7),
}


@pytest.mark.parametrize("name", TARGETS)
def test_unknown_relocations(name: str) -> None:
    text, number = UNKNOWN[name]
    error = refused(
        name, assembled(name, section(text)), f"relocation type {number:#x} at 0x[0-3] is not known"
    )
    assert (error.op, error.line, error.section, error.type) == ("add", 12, HOT, number)


@pytest.mark.parametrize("name", ["riscv64"])
def test_linker_relaxation_is_refused(name: str) -> None:
    """It would delete bytes that we count on."""
    error = refused(name, assembled(name, section(".option relax\ncall cnp.next")), "0x33 at")
    assert error.type == 51


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    ("other", "flags"),
    [
        (".data", '"aw",@progbits'),
        (".bss", '"aw",@nobits'),
        (".tdata", '"awT",@progbits'),
        (".init_array", '"aw"'),
        ("mine", '"a"'),
    ],
)
def test_unknown_sections(name: str, other: str, flags: str) -> None:
    """The stencil that refers to it is named; where none does, the section."""
    data = f".section {other},{flags}\nthing:\n.zero 8\n"
    word = ".quad" if name != "ppc64le" else ".8byte"
    assert refused(name, assembled(name, data), re.escape(other)).section == other
    error = refused(name, assembled(name, data + section(f"{word} thing")), re.escape(other))
    assert (error.op, error.line) == ("add", 12)


@pytest.mark.parametrize("name", TARGETS)
def test_other_machines(name: str) -> None:
    other = "aarch64" if name != "aarch64" else "x86_64"
    assert "machine" in refused(name, assembled(other, section("nop")), "it is for machine").message


@pytest.mark.parametrize("name", [name for name in TARGETS if name not in MIPS])
def test_calls_of_functions_that_nobody_declared(name: str) -> None:
    call = {"x86_64": "callq", "aarch64": "bl", "riscv64": "call", "ppc64le": "bl"}[name]
    error = refused(name, assembled(name, section(f"{call} __udivti3")), "__udivti3")
    assert (error.op, error.line, error.symbol) == ("add", 12, "__udivti3")
    found = extract([assembled(name, section(f"{call} known"))], targets.get(name), {}, LINES, {"known"})
    assert found.imports == ["known"]


@pytest.mark.parametrize("name", TARGETS)
def test_symbols_without_a_meaning(name: str) -> None:
    jump = {"x86_64": "jmp", "riscv64": "j", "mips64": "j", "mips64el": "j"}.get(name, "b")
    assert refused(name, assembled(name, section(f"{jump} cnp.nowhere")), "cnp.nowhere").op == "add"


@pytest.mark.parametrize("name", ["riscv64"])
@pytest.mark.parametrize(
    "text",
    [
        "ld a0, %pcrel_lo(.Lother)(a0)",
        ".Lhere:\nauipc a0, %pcrel_hi(cnp.0.lit)\nld a0, %pcrel_lo(.Lhere+4)(a0)",
    ],
)
def test_halves_that_do_not_pair(name: str, text: str) -> None:
    other = ".text\n.Lother:\nauipc a0, %pcrel_hi(cnp.0.lit)\n"
    with pytest.raises(BuildError) as caught:
        extract([assembled(name, other + section(text))], targets.get(name), {}, LINES, set())
    assert caught.value.target == name


@pytest.mark.parametrize("name", TARGETS)
def test_relocations_outside_of_their_section(name: str) -> None:
    """A record whose offset is behind the end of the code, written into a good object."""
    image = bytearray(made(EVERYTHING, name).objects[0])
    _, sections = parsed(bytes(image))
    rows = next(s for s in sections if s.name == ".relacnp.hot.jump.0")
    struct.pack_into(
        "<Q" if targets.get(name).byteorder == "little" else ">Q", image, rows["sh_offset"], 1 << 20
    )
    with pytest.raises(BuildError, match="outside of the section") as caught:
        extract([bytes(image)], targets.get(name), {}, {"jump": 3})
    assert (caught.value.op, caught.value.line) == ("jump", 3)


# ---- sources that break the contract

HEAD = """#define CNP_STATE(X) X(u64, tos) X(f64, x)
#define CNP_RESULT tos
#include <cnp.h>
static u64 counter;
static __thread u64 local;
extern u64 elsewhere;
CNP_OP(good) { return NEXT; }
"""
LINE = HEAD.count("\n") + 1
BROKEN = {
    "a counter of its own": ("{ s->tos = ++counter; return NEXT; }", r"\.s?bss"),
    "a table that changes": ("{ static u64 t[3] = {1, 2, 3}; t[1]++; s->tos = t[s->tos & 1]; return NEXT; }", r"\.data"),
    "a table of addresses": (
        '{ static const char *const n[2] = {"abc", "defg"}; s->tos = (u64)n[s->tos & 1]; return NEXT; }', r"needs relocations"),
    "a variable of the program": ("{ s->tos = elsewhere; return NEXT; }", "elsewhere|toc"),
    "a hidden library call": ("{ unsigned __int128 p = s->tos; s->tos = (u64)((p << 64) / (s->tos | 1)); return NEXT; }", "__udivti3"),
    "an array as large as a number says": ("{ volatile char a[s->tos]; a[1] = 2; s->tos = a[2]; return NEXT; }", "stack pointer"),
    "no way on": ("{ __builtin_trap(); }", "ends in no tail jump"),
    "no way on, on one path": ("{ if (s->tos == 3) __builtin_trap(); return NEXT; }", "ends in no tail jump"),
}  # fmt: skip
PUSH = {
    "x86_64": "subq $16, %rsp", "aarch64": "sub sp, sp, #16", "riscv64": "addi sp, sp, -16", "ppc64le": "addi 1, 1, -16",
    "mips64": "daddiu $sp, $sp, -16", "mips64el": "daddiu $sp, $sp, -16",
}  # fmt: skip
SET = {
    "x86_64": "movq %rdi, %rsp", "aarch64": "mov sp, x20", "riscv64": "mv sp, a0", "ppc64le": "mr 1, 3",
    "mips64": "move $sp, $4", "mips64el": "move $sp, $4",
}  # fmt: skip


def break_contract(name: str, body: str) -> Any:
    """Build a source with one bad operation; the error."""
    Path("bad.c").write_text(f"{HEAD}CNP_OP(bad) {body}\n")
    with pytest.raises(BuildError) as caught:
        build(Job(Path("bad.c"), targets.get(name), tools()))
    error = caught.value
    assert (error.op, error.line, error.target) == ("bad", LINE, name)
    assert "'bad'" in error.message and f"line {LINE}" in error.message and name in error.message
    return error


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_bodies(name: str, fault: str) -> None:
    """Refused with operation, C line and target. (What cannot be seen: the address of a local variable that a body
    leaves in the state, a path that the compiler drops because it ends in __builtin_unreachable, an endless loop.)"""
    body, what = BROKEN[fault]
    assert re.search(what, break_contract(name, body).message)


@pytest.mark.parametrize("name", TARGETS)
def test_stack_pointer_that_is_not_restored(name: str) -> None:
    error = break_contract(name, f'{{ __asm__ volatile("{PUSH[name]}"); return NEXT; }}')
    assert error.offset == 16 and "16 bytes off" in error.message
    error = break_contract(
        name, f'{{ if (s->tos) __asm__ volatile("{PUSH[name]}"); s->tos++; return NEXT; }}'
    )
    assert "stack pointer" in error.message
    error = break_contract(name, f'{{ __asm__ volatile("{SET[name]}"); return NEXT; }}')
    assert "cannot be followed" in error.message


DELAYED = """cnp.stencil.bad.0:
	bnez	$5, .LBB0_2
	{0}
	j	cnp.next
	{1}
.LBB0_2:
	j	cnp.leave.exit
	{2}
	.size	cnp.stencil.bad.0, 24
"""
DOWN, UP = "daddiu	$sp, $sp, -16", "daddiu	$sp, $sp, 16"


@pytest.mark.parametrize("name", MIPS)
def test_stack_pointer_in_delay_slots(name: str) -> None:
    """What stands there belongs to both ways of a branch, and to the block that a jump leaves."""
    target = targets.get(name)
    assert arrange(DELAYED.format(DOWN, UP, UP), target, {}).stack == {"bad.0": 16}
    for slots in (("nop", UP, "nop"), (DOWN, UP, "nop"), (DOWN, "nop", UP), (UP, "nop", "nop")):
        with pytest.raises(BuildError, match="16 bytes off") as caught:
            arrange(DELAYED.format(*slots), target, {"bad": 5})
        assert (caught.value.op, caught.value.line, caught.value.target) == ("bad", 5, name)


@pytest.mark.parametrize("name", TARGETS)
def test_constants_that_stencils_share_are_read_once(name: str) -> None:
    found = made(EVERYTHING, name).extracted
    assert len(set(found.constants)) == len(found.constants)
    used = {
        h.index for s in found.stencils.values() for b in s.blocks for h in b.holes if h.what is What.DATA
    }
    used |= {h.index for b in found.routines.values() for h in b.holes if h.what is What.DATA}
    assert used == set(range(len(found.constants)))
