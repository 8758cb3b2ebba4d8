"""Edited code: exits removed, blocks moved, far variants, veneers, chunks. Judged by what its bytes say.

Programs are random ones, and one that has every form of a vocabulary with registers: what was learned for any register, with
registers at both ends of each mask and others.

Every operation's code is decoded (tests/oracle_flow.py) and its jumps, through veneers where there are some, must be
those that its operands ask for, and control must fall only into the operation that follows. Then clang assembles the
disassembly of capstone back: the same bytes, with these exceptions.
* What capstone does not know is `.word`, and so is what clang does not take back: under one in ten.
* x86-64 has several encodings of one instruction; the assembler takes the shortest and the holes the longest. There
  the assembled bytes must disassemble to the same text. Its jumps are judged by the decoder.
* MIPS `j` takes part of its address from its place: judged by the decoder.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnp import patch, targets
from cnp.assembler import Assembler, slot
from cnp.errors import RangeError, ToolError
from cnp.library import Library
from cnp.operands import Cell, Function, Label, Table, Value
from cnp.patch import Image
from cnp.plan import Piece, Plan
from cnp.program import Op, Program
from cnp.stencil import What
from tests.conftest import VocabularyFile
from tests.form_uses import Operands
from tests.oracle_build import REGISTERS, TARGETS, everything, narrowed, tools
from tests.oracle_elf import parsed
from tests.oracle_flow import DECODERS, veneer_goal

IMPORTS = {
    "help_add": 0x1234_5670,
    "help_mix": 0x7FFF_1234_5670,
    "help_test": 0x4560,
    "cnp_poll": 0x7FFF_0000_0010,
    "cnp_test_clobber": 0x7FFF_0000_0020,
}


def random_program(library: Library, size: int, seed: int = 1, span: int = 0) -> Program:
    """A function of `size` operations with every kind of way on; labels at most `span` operations away (0: any)."""
    dice = random.Random(seed)
    asm = Assembler(library)
    function = asm.function("f", frame=64)
    labels = [asm.label(f"L{n}") for n in range(size)]

    def somewhere() -> Label:
        n = len(asm.program.ops)
        return (
            labels[dice.randrange(max(0, n - span), min(size, n + span + 1))] if span else dice.choice(labels)
        )

    choices = [
        lambda: asm.op("imm_i64", dice.randrange(1 << 60)), lambda: asm.op("imm_f64", dice.random()),
        lambda: asm.op("jump", somewhere()), lambda: asm.op("branch_signed", somewhere()),
        lambda: asm.op("branch_zero", somewhere()), lambda: asm.op("branch_bit", somewhere()),
        lambda: asm.op("branch_float", somewhere()), lambda: asm.op("branch_or_leave", somewhere(), 7),
        lambda: asm.op("branch_three", somewhere(), somewhere(), somewhere()), lambda: asm.op("loop", somewhere()),
        lambda: asm.op("helper"), lambda: asm.op("helper_branch", somewhere()), lambda: asm.op("multiply", somewhere()),
        lambda: asm.op("i64_add", slot(8), slot(16), slot(24)), lambda: asm.op("i64_div_s", slot(8), slot(16), slot(24)),
        lambda: asm.op("cell_compare", 3, 4), lambda: asm.op("constants"), lambda: asm.op("call", function, slot(0)),
        lambda: asm.op("jump_table", asm.table(somewhere(), somewhere()), 2), lambda: asm.op("slot_imm", slot(8), 5),
    ]  # fmt: skip
    for label in labels[:-1]:
        asm.bind(label)
        dice.choice(choices)()
    asm.bind(labels[-1])
    asm.op("ret")
    return asm.close()


def every_form(library: Library, turns: int) -> Program:
    """All forms of all operations, each with operands that are chosen for it: at least `turns` times."""
    dice = random.Random(library.target.name)
    operands = Operands(library, dice)
    program = Program(library, functions=[])
    function = Function("f", program.labels, 0, True, 1 << 40)
    program.functions.append(function)
    for operation in map(library.__getitem__, library.operations):
        for number in range(len(operation.forms)):
            for use in operands.uses(operation, number, turns):
                here = len(program.ops)
                goal = Label("", program.labels, dice.randint(max(0, here - 20), here))
                given: dict[str, Value] = {
                    "label": goal,
                    "table": Table((goal, goal)),
                    "func": function,
                    "cell": Cell(1),
                }
                pairs = zip(use.form.accepts, use.values, strict=True)
                values = tuple(given.get(accept.kind, value) for accept, value in pairs)
                program.ops.append(Op(operation, use.form, values, None))
    leave = library["leave"]
    program.ops.append(Op(leave, leave.forms[0], (), None))
    return program


# ---- the flow of control


class Flow:
    """A linked program and what its bytes say."""

    def __init__(self, program: Program, image: Image) -> None:
        self.program, self.image, self.name = program, image, program.library.target.name
        self.own: dict[int, list[tuple[int, int]]] = {}
        for start, end, op in image.ranges:
            self.own.setdefault(op, []).append((image.base + start, image.base + end))
        self.shared = {start for start, _ in self.own.get(-1, [])} - set(image.routines.values())
        self.veneers = 0

    def bytes_at(self, start: int, end: int) -> bytes:
        return self.image.code[start - self.image.base : end - self.image.base]

    def final(self, target: int) -> int:
        """Where a jump ends, through a veneer if there is one."""
        if target not in self.shared:
            return target
        goal = veneer_goal(self.name, self.bytes_at(target, target + 32))
        assert goal is not None, (
            f"a jump to {target:#x}, which is neither an operation nor a routine nor a veneer"
        )
        self.veneers += 1
        return goal

    def wanted(self, position: int) -> tuple[set[int], set[int]]:
        """Where an operation's direct jumps must and may go."""
        base, op = self.image.base, self.program.ops[position]
        must, may = set(), set(self.image.routines.values()) | set(IMPORTS.values())
        whats = {(hole.what, hole.index) for block in op.form.near.blocks for hole in block.holes}
        for number, value in enumerate(op.values):
            if isinstance(value, Label) and value.position is not None and (What.TARGET, number) in whats:
                must.add(base + self.image.offsets[value.position])
        if (What.NEXT, 0) in whats:
            may.add(base + self.image.offsets[position + 1])
        return must, may | must

    def check(self) -> None:
        """Every operation: its jumps, its ends."""
        decode, base = DECODERS[self.name], self.image.base
        for position in range(len(self.program.ops)):
            must, may = self.wanted(position)
            seen: set[int] = set()
            if position not in self.own:  # the move of a register to itself is only a way on, and that falls
                (block,) = self.program.ops[position].form.near.blocks
                assert block.tail == len(block.code)
            for start, end in self.own.get(position, ()):
                steps = list(decode(self.bytes_at(start, end), start))
                for _, _, target, _ in steps:
                    inside = target is not None and any(a <= target < b for a, b in self.own[position])
                    if target is not None and (target in may or not inside):
                        seen.add(self.final(target))
                at, length, _, ends = steps[-1]
                assert at + length == end, (
                    f"the code of operation {position} does not end with an instruction"
                )
                if not ends:
                    follows = base + self.image.offsets[position + 1]
                    assert start == base + self.image.offsets[position], "a cold block goes on behind its end"
                    assert not self.bytes_at(end, follows).strip(targets.get(self.name).nop), (
                        "falls into another place"
                    )
                    seen.add(follows)
            assert seen <= may, (position, self.program.ops[position].operation.name, seen - may)
            assert must <= seen, (position, self.program.ops[position].operation.name, must - seen)


def flow(program: Program, base: int) -> Flow:
    found = Flow(program, patch.encode(program, base, imports=IMPORTS))
    found.check()
    return found


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("base", [0x10000, 0x5555_0000_0000])
def test_every_jump_goes_where_its_operation_says(name: str, base: int) -> None:
    """Small programs: exits removed, cold blocks apart, nothing far."""
    library = everything(name)
    removed = 0
    for seed in range(5):
        program = random_program(library, 60, seed)
        found = flow(program, base)
        plan = Plan(program)
        removed += sum(piece.falls and piece.block.tail > 0 for piece in plan.hot)
        assert len(found.image.code) <= patch.size_bound(program)[0]
    assert removed > 50


#: What makes a program of a few thousand operations need everything: island size and the reach of fields.
NARROW = {
    "aarch64": (24 << 10, {"jump26": 1 << 16, "branch19": 1 << 11, "branch14": 1 << 9}),
    "ppc64le": (48 << 10, {"rel24": 1 << 17, "rel14": 1 << 11}),
    "riscv64": (48 << 10, {"jal": 1 << 17}),
}


@pytest.mark.parametrize("name", NARROW)
def test_chunks_far_variants_and_veneers(name: str) -> None:
    """The same as in a huge program, with the reach of jumps cut down."""
    island, reach = NARROW[name]
    library = narrowed(everything(name), island, **reach)
    program = random_program(library, 6000)
    plan = Plan(program)
    assert len(plan.chunks) > 4
    found = flow(program, 0x7000_0000)
    assert found.veneers > 1000
    assert len(found.image.code) <= patch.size_bound(program)[0]


@pytest.mark.parametrize("name", TARGETS)
def test_large_programs(name: str) -> None:
    """More than a MiB with the real reach: riscv64's jal, everybody's conditional branches (127 bytes, 4 KiB, 32 KiB,
    128 KiB)."""
    program = random_program(everything(name), 16_000)
    found = flow(program, 0x5555_0000_0000)
    assert len(found.image.code) > 1 << 20
    plan = Plan(program)
    plan.settle(0x5555_0000_0000, IMPORTS)
    inner = sum(isinstance(goal, Piece) for chunk in plan.chunks for goal in chunk.veneers)
    assert (inner > 1000) == (name == "riscv64")
    assert len(plan.far) > 1000


@pytest.mark.parametrize("name", ["mips64", "mips64el"])
def test_regions(name: str) -> None:
    """No jump of MIPS leaves its 256 MiB: the code moves behind the border, or a veneer crosses it."""
    program = random_program(everything(name), 2000)
    for distance in (0x10, 0x400, 0x8000, 0x20000):
        found = flow(program, 0x2000_0000 - distance)
        assert len(found.image.code) <= patch.size_bound(program)[0]
        library = narrowed(everything(name), 64 << 10)
        found = flow(random_program(library, 2000), 0x2000_0000 - distance)
    assert found.veneers > 10


@pytest.mark.parametrize("distance", [0, 1 << 33, 1 << 46])
def test_imports_beyond_two_gigabytes(distance: int) -> None:
    """One veneer for each helper on x86-64, none when they are near."""
    program = random_program(everything("x86_64"), 300)
    base = 0x1000_0000 + distance
    plan = Plan(program)
    near = {name: base + (1 << 24) + 16 * number for number, name in enumerate(IMPORTS)}
    plan.settle(base, near)
    assert not any(chunk.veneers for chunk in plan.chunks)
    if distance:
        plan = Plan(program)
        plan.settle(base, dict.fromkeys(IMPORTS, 0x1000))
        assert sum(len(chunk.veneers) for chunk in plan.chunks) == 1, "equal goals share a veneer"
        flow(program, base)


@pytest.mark.parametrize("name", TARGETS)
def test_linking_is_deterministic_and_moves_with_its_base(name: str) -> None:
    images = [
        patch.encode(random_program(everything(name), 400), 0x10_0000, 0x900_0000, IMPORTS) for _ in range(2)
    ]
    assert images[0].code == images[1].code and images[0].offsets == images[1].offsets
    moved = patch.encode(random_program(everything(name), 400), 0x20_0000, 0x900_0000, IMPORTS)
    assert moved.offsets == images[0].offsets and moved.ranges == images[0].ranges
    image = images[0]
    for start, end, op in image.ranges:
        for offset in (start, end - 1):
            assert image.op_at(image.base + offset) == (op if op >= 0 else None)
    assert image.op_at(image.base - 1) is None and image.op_at(image.base + len(image.code)) is None


def test_what_no_veneer_can_help_is_refused() -> None:
    """A chunk without room for its own jumps cannot be planned: the final check says so."""
    library = narrowed(everything("ppc64le"), 0, rel24=1 << 10, rel14=1 << 9)
    with pytest.raises(RangeError) as caught:
        patch.encode(random_program(library, 400), 0x1000, imports=IMPORTS)
    assert caught.value.field in ("rel24", "rel14") and caught.value.index >= 0


# ---- the disassembly assembled again


TURNS = 4  #: choices of operands for each form, beside those at the ends


def disassembler(name: str) -> Any:
    import capstone

    arch, modes = targets.get(name).capstone
    found = capstone.Cs(
        getattr(capstone, f"CS_ARCH_{arch}"), sum(getattr(capstone, f"CS_MODE_{mode}") for mode in modes)
    )
    if name == "x86_64":
        found.syntax = capstone.CS_OPT_SYNTAX_ATT
    return found


class Line:
    """One instruction: its bytes and its text, or its bytes as data."""

    def __init__(self, code: bytes, text: str, jump: bool) -> None:
        self.code, self.text, self.jump = code, "" if jump else text, jump

    @property
    def data(self) -> str:
        return ".byte " + ", ".join(map(str, self.code))


def lines(name: str, image: Image) -> Iterator[Line]:
    """Each instruction of all operations, direct jumps relative to their own place."""
    machine = disassembler(name)
    for start, end, op in image.ranges:
        if op < 0:
            continue
        code = image.code[start:end]
        for at, length, target, _ in DECODERS[name](code, image.base + start):
            raw = code[at - image.base - start :][:length]
            found = list(machine.disasm_lite(raw, at))
            text = f"{found[0][2]} {found[0][3]}" if len(found) == 1 else ""
            if target is not None and text and not text.startswith(("jalr", "c.jalr")):
                text = re.sub(r"#?-?(0x)?[0-9a-f]+$", f".+{target - at}".replace("+-", "-"), text)
            if name.startswith("mips"):  # capstone has the registers' names of o32, clang those of n64
                text = re.sub(r"\$t([0-7])\b", lambda m: f"${int(m[1]) + 8}", text)
            if name == "ppc64le":
                text = re.sub(r"\b(r|f|v|vs|cr)(\d+)\b", r"%\1\2", text)
                if text.startswith(
                    ("x", "lx", "stx", "mtvsr", "mfvsr")
                ):  # the 64 registers of VSX: f0 …, v0 …
                    text = re.sub(r"%v(\d+)", lambda m: f"%vs{int(m[1]) + 32}", text.replace("%f", "%vs"))
            if page := re.fullmatch(r"adrp (x\d+), #(0x[0-9a-f]+)", text):
                text = f"adrp {page[1]}, #{int(page[2], 16) - (at & -0x1000)}"
            jump = target is not None and (
                name == "x86_64" or (text.startswith(("j ", "jal ")) and name.startswith("mips"))
            )
            yield Line(raw, text, bool(jump))


def assemble(name: str, listing: list[Line], folder: Path) -> list[bytes]:
    """Each line's bytes by clang; a line that it does not take becomes data."""
    target = targets.get(name)
    head = {
        "mips64": ".set noreorder\n.set nomacro\n.set noat",
        "mips64el": ".set noreorder\n.set nomacro\n.set noat",
    }.get(name, "")
    source, out = folder / "again.s", folder / "again.o"
    flags = [
        f"--target={target.triple}",
        *(f for f in target.cflags if "reg" not in f),
        "-Wno-everything",
        "-Wno-unused-command-line-argument",
    ]
    for _ in range(8):
        rows = [head]
        for number, line in enumerate(listing):
            norvc = (
                ".option norvc; "
                if name == "riscv64" and len(line.code) == 4
                else ".option rvc; "
                if name == "riscv64"
                else ""
            )
            rows.append(f"{norvc}.org {16 * number}; {line.text or line.data}")
        source.write_text("\n".join(["\n" * (2 - head.count("\n")) + rows[0], *rows[1:]]) + "\n")
        try:
            tools().compile(*flags, "-ferror-limit=0", "-c", source, "-o", out)
        except ToolError as error:
            bad = {int(n) - 4 for n in re.findall(r"again\.s:(\d+):\d+: error", str(error))}
            if not bad:
                raise
            for number in bad:
                listing[number].text = ""
            continue
        _, sections = parsed(out.read_bytes())
        text = next(s for s in sections if s.name == ".text").data()
        return [text[16 * n : 16 * n + len(line.code)] for n, line in enumerate(listing)]
    raise AssertionError("clang does not take the listing")


def reassembled(name: str, image: Image, folder: Path) -> list[tuple[str, str, str]]:
    """Text, bytes and clang's bytes of the instructions that clang makes other bytes of."""
    listing = list(lines(name, image))
    again = assemble(name, listing, folder)
    machine = disassembler(name)
    jumps = sum(line.jump for line in listing)
    assert sum(bool(line.text) for line in listing) > 0.9 * (len(listing) - jumps)
    return [
        (line.text, line.code.hex(), code.hex())
        for line, code in zip(listing, again, strict=True)
        if line.text and line.code != code and not (name == "x86_64" and starts_with(machine, code, line))
    ]


@pytest.mark.parametrize("name", TARGETS)
def test_clang_assembles_the_disassembly_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    pytest.importorskip("capstone")
    image = patch.encode(random_program(everything(name), 400, 3), 0x10000, imports=IMPORTS)
    assert reassembled(name, image, tmp_path) == []


@pytest.mark.parametrize("name", TARGETS)
def test_every_form_with_registers(name: str, tmp_path: Path, vocabulary_file: VocabularyFile) -> None:
    """Its jumps, and its bytes by clang."""
    pytest.importorskip("capstone")
    library = Library.load(vocabulary_file(REGISTERS, name))
    program = every_form(library, TURNS)
    assert {op.form.near for op in program.ops} >= {
        form.near for operation in library.operations for form in library[operation].forms
    }
    found = flow(program, 0x10000)
    assert reassembled(name, found.image, tmp_path) == []


def starts_with(machine: Any, code: bytes, line: Line) -> bool:
    """Whether the first instruction of the assembled bytes is the same as the line's, whatever its length."""
    first = next(machine.disasm_lite(code, 0), None)
    second = next(machine.disasm_lite(line.code, 0))
    return first is not None and first[2:] == second[2:]
