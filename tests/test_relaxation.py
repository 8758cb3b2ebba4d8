"""Lengths and reach, which depend on each other: exact limits, chains of branches, and what comes out when it is run.

Pads of so many nops put a branch and its goal at the distance that is wanted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from cnp import targets
from cnp.assembler import Assembler, Label, Op, Program, slot
from cnp.build.layout import arrange
from cnp.foreign import Call, ForeignCode
from cnp.library import Library
from cnp.plan import EXACT_ROUNDS, Plan
from cnp.runtime import installed
from cnp.stencil import Block, Form, Hole, Stencil, What
from cnp.target import Field, Formula
from tests.oracle_build import TARGETS, everything
from tests.support import runnable

BASE = 0x10000
BRANCH = "branch_signed"
SHORT = [(name, BRANCH) for name in TARGETS] + [("x86_64", "jump")]


def pad(library: Library, size: int) -> Op:
    """An operation that does nothing, `size` bytes long."""
    nop = library.target.nop
    assert size >= 0 and size % len(nop) == 0
    form = Form((), Stencil((Block(nop * (size // len(nop)), ()),)), None)
    return Op(library["ret"], form, (), None)


@dataclass
class Branch:
    """The near variant of an operation that goes to a label. size: bytes when the next operation follows; past: what
    the field's value is more than the bytes between the branch and its goal, when that lies behind it."""

    size: int
    hole: Hole
    field: Field

    def value(self, distance: int) -> int:
        """Of the field, where the goal lies so many bytes behind the start of the operation."""
        return self.field.value(distance, self.hole.addend, self.hole.place)

    def most(self) -> int:
        """The largest value that its field holds."""
        return self.field.high - self.field.high % self.field.align


def branch_of(library: Library, name: str) -> Branch:
    block = library[name].forms[0].near.blocks[0]
    (hole,) = (hole for hole in block.holes if hole.what is What.TARGET)
    fld = library.target.fields[hole.field]
    assert fld.formula is Formula.RELATIVE and fld.jump
    return Branch(len(block.code) - block.tail, hole, fld)


def settled(program: Program) -> Plan:
    plan = Plan(program)
    plan.settle(BASE, {})
    return plan


# ---- exact limits


@pytest.mark.parametrize(("name", "operation"), SHORT)
@pytest.mark.parametrize("forward", [True, False])
def test_the_last_place_that_is_reached(name: str, operation: str, forward: bool) -> None:
    """At the limit of its field a branch is near, one step past it is far; all of both still reaches."""
    library = everything(name)
    branch = branch_of(library, operation)
    step = max(branch.field.align, len(library.target.nop))
    limit = branch.most() if forward else branch.field.low
    size = limit - branch.value(branch.size) if forward else branch.value(0) - limit
    assert size % len(library.target.nop) == 0
    for more, far in ((-step, False), (0, False), (step, True)):
        asm = Assembler(library)
        asm.function("f", frame=0)
        goal = asm.label("goal")
        if not forward:
            asm.bind(goal)
            asm.program.ops.append(pad(library, size + more))
        asm.op(operation, goal)
        at = len(asm.program.ops) - 1
        if forward:
            asm.program.ops.append(pad(library, size + more))
            asm.bind(goal)
        asm.op("ret")
        plan = settled(asm.close())
        assert (at in plan.far, plan.rounds) == (far, int(far))
        taken = plan.hot[at].block
        near, other = (library[operation].forms[0].near, library[operation].forms[0].far)
        assert other and taken is (other if far else near).blocks[0]
        distance = plan.hot[goal.position or 0].address - plan.hot[at].address
        if not far:
            assert branch.value(distance) == limit + (more if forward else -more)


def test_limits_of_a_short_jump() -> None:
    """127 bytes on, 128 back, from behind the instruction."""
    for operation in (BRANCH, "jump"):
        branch = branch_of(everything("x86_64"), operation)
        assert (branch.field.low, branch.field.high, branch.field.size) == (-128, 127, 1)
        assert branch.value(branch.hole.place + 1) == 0


# ---- chains


def chain(library: Library, length: int, last: int) -> Program:
    """Branches each of which has the next one between itself and its goal, which it just reaches. The last one has a
    goal `last` bytes behind that.

        branch 0   pad   goal of the branch before   pad   branch 1   pad   goal of branch 0   pad   branch 2 …
    """
    branch = branch_of(library, BRANCH)
    rest = branch.most() - branch.value(branch.size)  # bytes between a branch and its goal
    behind = 8 * len(library.target.nop)
    asm = Assembler(library)
    asm.function("f", frame=0)
    goal: Label | None = None
    for number in range(length):
        mine = asm.label(f"goal {number}")
        asm.op(BRANCH, mine)
        asm.program.ops.append(pad(library, behind))
        if goal:
            asm.bind(goal)
        asm.program.ops.append(pad(library, rest - branch.size - 2 * behind))
        goal = mine
    asm.program.ops.append(pad(library, branch.size + behind + last))
    assert goal
    asm.bind(goal)
    asm.op("ret")
    return asm.close()


@pytest.mark.parametrize("name", TARGETS)
def test_chains_settle_one_branch_a_round(name: str) -> None:
    """The last branch misses by one step; each of the others only when the one that it spans has grown."""
    library = everything(name)
    step = max(branch_of(library, BRANCH).field.align, len(library.target.nop))
    plan = settled(chain(library, 10, 0))
    assert (plan.far, plan.rounds) == (set(), 0)
    plan = settled(chain(library, 10, step))
    assert (len(plan.far), plan.rounds) == (10, 10)


def test_long_chains_settle_in_few_rounds() -> None:
    library = everything("x86_64")
    for length in (EXACT_ROUNDS, 100, 3000):
        plan = settled(chain(library, length, 1))
        assert len(plan.far) == length
        assert plan.rounds <= EXACT_ROUNDS + 8  # 1 << 7 is all that a short jump reaches


def test_nothing_is_long_that_could_be_short() -> None:
    """In random programs no far variant could be taken back: what it jumps to would then be out of reach."""
    library = everything("x86_64")
    for seed in range(20):
        program = permuted(library, 40, random.Random(seed)).program
        plan = settled(program)
        assert plan.far and len(plan.far) < len(program.ops)
        for op in plan.far:
            assert any(misses(plan, op, hole) for hole in program.ops[op].form.near.blocks[0].holes)


def misses(plan: Plan, op: int, hole: Hole) -> bool:
    """Whether a hole of the near variant would not reach, if only this operation took it. What lies behind it would
    be nearer by what is gained."""
    piece, near = plan.hot[op], plan.program.ops[op].form.near.blocks[0]
    fld = plan.target.fields[hole.field]
    if not fld.jump or hole.offset >= len(near.code) - near.tail:
        return False
    goal = plan.goal(piece, hole)
    assert not isinstance(goal, int)
    gained = piece.keep - (len(near.code) - near.tail)
    moved = goal.address - (gained if goal.address > piece.address else 0)
    return not fld.fits(fld.value(moved, hole.addend, piece.address + hole.place))


# ---- what runs


@dataclass
class Permuted:
    """Blocks that run in one order and lie in another. Each adds its number to a slot of its own."""

    program: Program
    blocks: int


def permuted(library: Library, blocks: int, dice: random.Random, widest: int = 40) -> Permuted:
    """With all of the state zero, each block goes on to the one that runs next, in one of several ways."""
    asm = Assembler(library)
    asm.function("f", frame=8 * blocks)
    labels = [asm.label(f"block {number}") for number in range(blocks)]
    end = asm.label("end")
    asm.op("jump", labels[0])
    nop = len(library.target.nop)
    for number in dice.sample(range(blocks), blocks):
        asm.bind(labels[number])
        asm.op("slot_imm", slot(8 * number), number + 1)
        asm.op("branch_bit", dice.choice(labels))  # never
        asm.program.ops.append(pad(library, dice.randrange(widest) * nop))
        goal = labels[number + 1] if number + 1 < blocks else end
        way = dice.choice(("jump", "branch_zero", "branch_float", "branch_three"))
        asm.op(way, *([dice.choice(labels), goal, dice.choice(labels)] if way == "branch_three" else [goal]))
        asm.op("trap", number)
    asm.bind(end)
    asm.op("ret")
    return Permuted(asm.close(), blocks)


@pytest.mark.parametrize("name", TARGETS)
def test_every_block_runs_once(name: str) -> None:
    """Whatever the distances are: pads from nothing to more than a short jump reaches."""
    runnable(name)
    library = everything(name)
    far: set[bool] = set()
    for seed, (blocks, widest) in enumerate([(2, 2), (8, 8), (30, 20), (60, 60), (60, 400)]):
        made_up = permuted(library, blocks, random.Random(seed), widest)
        far.add(len(settled(made_up.program).far) > 0)
        (result,) = ForeignCode(made_up.program).run([Call("f", frame_bytes=8 * blocks)]).results
        assert result.kind == "return"
        assert [result.frame[8 * number] for number in range(blocks)] == list(range(1, blocks + 1))
    assert True in far or name not in ("x86_64", "riscv64")


@pytest.mark.parametrize("name", TARGETS)
def test_chains_run(name: str) -> None:
    """Near, and far from end to end."""
    runnable(name)
    library = everything(name)
    step = max(branch_of(library, BRANCH).field.align, len(library.target.nop))
    for last in (0, step):
        (result,) = ForeignCode(chain(library, 12, last)).run([Call("f")]).results
        assert result.kind == "return"


# ---- the code of one operation


@pytest.mark.parametrize("name", TARGETS)
def test_a_comparison_of_integers_branches_once(name: str) -> None:
    """The branch that would fall through is inverted away: one exit to the label, none to the next operation but the
    tail, which disappears."""
    library = Library.load(installed("ops", name))
    seen = [operation for operation in library.operations if operation.startswith(("br_i32_", "br_i64_"))]
    assert len(seen) >= 20
    for operation in seen:
        for form in library[operation].forms:
            if form.same or any(accept[1:3] == (0, 0) and accept.kind not in "rf" for accept in form.accepts):
                continue  # decided before it runs: a < a, an unsigned number below 0
            hot = form.near.blocks[0]
            kept = [hole for hole in hot.holes if hole.offset < len(hot.code) - hot.tail]
            exits = [hole.what for hole in kept if library.target.fields[hole.field].jump]
            assert exits == [What.TARGET], operation
            assert hot.tail > 0 and form.far


TABLE = """cnp.stencil.go.0:
	cmpq	$3, %rax
	jae	cnp.next
	jmpq	*%rax
	.size	cnp.stencil.go.0, 24
"""


def test_a_branch_at_the_end_is_no_tail() -> None:
    """Its two bytes and those of the jump through a register are fewer than a long jump has."""
    text = arrange(TABLE, targets.get("x86_64"), {}).text
    assert "cnp.tail" not in text and ".byte\t0x73" in text
    for form in everything("x86_64")["jump_table"].forms:
        assert form.near.blocks[0].tail == 0
