"""Every form of every portable operation, on every target, with operands chosen for the form, against the Python reference.

test_operations.py gives operations operands as a program does and sees what the assembler makes of them; here no form is left
to chance: registers at both ends of each mask, numbers and slots at the ends of each interval, all pairs of operands that
may be equal. After each operation all registers, slots, memory and the header are compared (form_rig.py). Calls are tested in
test_operation_calls.py.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from random import Random
from typing import Any

import pytest

from cnp import host, targets
from cnp.build.question import cost
from cnp.choose import chooser
from cnp.library import Library
from cnp.operands import Label, Register, Slot, Table
from cnp.program import Program
from cnp.stencil import Accept, Block, Form, Hole, Operation, What
from tests.form_rig import Rig
from tests.form_uses import LABELS, Operands, Use, all_uses, forms_to_run
from tests.reference import decode, hole_word
from tests.support import every_target, need, operations

SEED = int(os.environ.get("CNP_SEED", "3"))
TURNS = 8  #: choices of operands for each form, beside the ends
MORE = (32, 5)  #: … in the long test, and how often with other seeds
WORDS = {"u32": 1 << 32, "u64": 1 << 64}
FLOATS = ("f32", "f64")


@cache
def library(name: str) -> Library:
    """The stencil file that comes with the library, with all features that run here."""
    return operations(name, featured=True)


def check(lib: Library, seed: int, turns: int) -> None:
    """Run all forms; each one has been run twice at least."""
    random = Random(seed)
    rig = Rig(lib, all_uses(lib, random, turns), random)
    assert rig.failures()[:20] == []
    runs = Counter((rig.uses[case.use].operation.name, rig.uses[case.use].number) for case in rig.cases)
    assert [(operation.name, n) for operation, n in forms_to_run(lib) if runs[operation.name, n] < 2] == []


@every_target
def test_every_form_does_what_the_reference_says(target: str) -> None:
    check(library(target), SEED, TURNS)


@pytest.mark.soak
@every_target
def test_every_form_with_more_operands(target: str) -> None:
    turns, rounds = MORE
    for seed in range(SEED + 1, SEED + 1 + rounds):
        check(library(target), seed, turns)


def test_the_interpreter_does_the_same() -> None:
    """The bodies called as plain C, on the machine that the tests run on. What an address of code is differs there."""
    natives = [name for name in targets.TARGETS if host.emulator(targets.get(name)) == []]
    need(bool(natives), "this machine is one of the targets")
    lib, random = library(natives[0]), Random(SEED)
    uses = [use for use in all_uses(lib, random, 2) if use.operation.name != "jump_address"]
    assert Rig(lib, uses, random).failures(interpreted=True)[:20] == []


# ---- the choice of a form


@every_target
def test_the_cheapest_form_that_fits_is_taken(target: str) -> None:
    """Of all forms that accept some operands, none is cheaper than the one that the assembler takes."""
    lib, random = library(target), Random(SEED)
    maker, choose = Operands(lib, random), chooser(lib).choose
    label = Label("", Program(lib).labels)
    for name in {operation.name: 0 for operation, _ in forms_to_run(lib)}:
        costs = [cost(form.near) for form in lib[name].forms]
        assert costs == sorted(costs), name
    for operation, number in forms_to_run(lib):
        for use in islice(maker.uses(operation, number, 2), 2):
            given = operands(use, label)
            first = next(n for n, form in enumerate(operation.forms) if accepts(form, given))
            _, choice = choose(operation, given)
            assert choice is not None, str(use)
            assert choice[0] is operation.forms[first], f"{use}: the best form is {first}"
            assert first <= number


def operands(use: Use, label: Label) -> tuple[Any, ...]:
    """The operands of a use as the assembler is given them."""
    places = {"label": label, "table": Table((label,))}
    return tuple(
        places[accept.kind] if accept.kind in LABELS
        else decode(accept.kind, value) if accept.kind in FLOATS and isinstance(value, int)
        else value
        for accept, value in zip(use.form.accepts, use.values, strict=True)
    )  # fmt: skip


def accepts(form: Form, given: tuple[Any, ...]) -> bool:
    """Whether a form takes operands, as the stencil file's description says it."""
    fit = all(takes(accept, operand) for accept, operand in zip(form.accepts, given, strict=True))
    same = all(given[a] == given[b] for a, b in form.same)
    differ = all(given[a] != given[b] for a, b in form.differ if isinstance(given[a], Register))
    return fit and same and differ


def takes(accept: Accept, operand: Any) -> bool:
    """Whether one operand of a form takes this."""
    if isinstance(operand, Register):
        return accept.kind == operand.bank and bool(accept.mask >> operand.index & 1)
    if isinstance(operand, Slot):
        return accept.kind == "slot" and within(accept, operand.offset)
    if isinstance(operand, (Label, Table)):
        return accept.kind == ("label" if isinstance(operand, Label) else "table")
    if accept.kind in FLOATS:
        return within(accept, hole_word(accept.kind, operand))
    if isinstance(operand, float) or accept.kind in (*LABELS, "r", "f", "slot"):
        return False
    return within(accept, operand + WORDS.get(accept.kind, 0) if operand < 0 else operand)


def within(accept: Accept, number: int) -> bool:
    return accept.low <= number <= accept.high and number % accept.align == 0


# ---- a rig that finds nothing is worth nothing


def failures(lib: Library, operation: Operation, number: int, form: Form) -> list[str]:
    """What the rig says of an operation that has this form in the place of another one."""
    forms = (*operation.forms[:number], form, *operation.forms[number + 1 :])
    changed = Operation(operation.name, operation.index, operation.operands, forms, operation.line)
    random = Random(SEED)
    return Rig(lib, list(Operands(lib, random).uses(changed, number, 12)), random).failures()


def find(
    operation: Operation, kinds: tuple[str, ...], wanted: Callable[[Form], bool]
) -> Iterator[tuple[int, Form]]:
    """The forms that take operands of these kinds."""
    for number, form in enumerate(operation.forms):
        if tuple(accept.kind for accept in form.accepts) == kinds and wanted(form):
            yield number, form


def has_holes(form: Form) -> bool:
    """Whether each operand has a hole: the first slot of a frame may have none."""
    return all(accept.low < accept.high for accept in form.accepts if accept.kind == "slot")


def rewired(form: Form, change: Callable[[Hole], Hole | None]) -> Form:
    """A form with other holes for its operands; None: the hole is left as the builder found it."""

    def block(old: Block) -> Block:
        holes = [change(hole) if hole.what is What.OPERAND else hole for hole in old.holes]
        return old._replace(holes=tuple(hole for hole in holes if hole is not None))

    return form._replace(near=form.near._replace(blocks=tuple(map(block, form.near.blocks))), far=None)


def moved(hole: Hole, index: int, addend: int = 0) -> Hole:
    return Hole(hole.offset, hole.field, hole.what, index, hole.addend + addend, hole.place)


SWAPPED = {0: 0, 1: 2, 2: 1}
FAULTS: dict[str, tuple[str, tuple[str, ...], Callable[[Hole], Hole | None]]] = {
    "a and b are exchanged": ("i64_sub", ("r", "r", "r"), lambda hole: moved(hole, SWAPPED[hole.index])),
    "d is always the same register": ("i64_not", ("r", "r"), lambda hole: hole if hole.index else None),
    "a is always the same register": ("i64_not", ("r", "r"), lambda hole: None if hole.index else hole),
    "the slot beside it is written": ("i64_move", ("slot", "r"), lambda hole: moved(hole, hole.index, 8 * (hole.index == 0))),
    "the slot beside it is read": ("f64_move", ("f", "slot"), lambda hole: moved(hole, hole.index, 8 * (hole.index == 1))),
}  # fmt: skip


@every_target
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_hole_is_found(target: str, fault: str) -> None:
    lib = library(target)
    name, kinds, change = FAULTS[fault]
    number, form = next(find(lib[name], kinds, lambda form: form.same == () and has_holes(form)))
    assert failures(lib, lib[name], number, form) == []
    assert failures(lib, lib[name], number, rewired(form, change))


IMPOSTORS: dict[tuple[str, str], tuple[str, ...]] = {
    ("i64_add", "i64_or"): ("r", "r", "r"),
    ("i64_div_u", "i64_rem_u"): ("r", "r", "r"),
    ("br_i64_eq", "br_i64_ne"): ("r", "r", "label"),
    ("i64_load32_s", "i64_load32_u"): ("r", "r", "i32"),
    ("i64_store16", "i64_store8"): ("r", "i32", "r"),
}


@every_target
@pytest.mark.parametrize(("name", "other"), IMPOSTORS)
def test_wrong_code_is_found(target: str, name: str, other: str) -> None:
    """The stencil of another operation, with operands that both forms take."""
    lib, kinds = library(target), IMPOSTORS[name, other]
    number, form = next(find(lib[name], kinds, lambda form: form.same == ()))
    _, wrong = next(find(lib[other], kinds, lambda found: found.same == ()))
    accepts = tuple(
        a._replace(mask=a.mask & b.mask, low=max(a.low, b.low), high=min(a.high, b.high))
        for a, b in zip(form.accepts, wrong.accepts, strict=True)
    )
    assert failures(lib, lib[name], number, wrong._replace(accepts=accepts, differ=form.differ))


def test_equal_registers_that_must_differ_are_found() -> None:
    """x86-64 subtracts b from a copy of a in d, where b is no longer d by then."""
    lib = library("x86_64")
    forms = find(lib["i64_sub"], ("r", "r", "r"), lambda form: form.same == () and (0, 2) in form.differ)
    number, form = next(forms)
    assert failures(lib, lib["i64_sub"], number, form) == []
    assert failures(lib, lib["i64_sub"], number, form._replace(differ=((0, 1),)))


def test_a_register_too_many_is_found() -> None:
    """r[1] of x86-64 cannot be a base without a displacement: its number there says that there is one, from rip."""
    lib = library("x86_64")
    loads = list(find(lib["i64_load"], ("r", "r", "i32"), lambda form: form.accepts[1].mask == 0x3FD))
    assert loads
    for number, form in loads:
        d, base, offset = form.accepts
        assert failures(lib, lib["i64_load"], number, form) == []
        wrong = form._replace(accepts=(d, base._replace(mask=0x3FF), offset))
        assert failures(lib, lib["i64_load"], number, wrong)


@every_target
def test_a_number_too_large_is_found(target: str) -> None:
    """One beyond the interval of a form that holds numbers in an instruction."""
    lib = library(target)
    number, form = next(
        find(lib["i64_add"], ("r", "r", "i32"), lambda form: 0 < form.accepts[2].high < 1 << 16)
    )
    d, a, b = form.accepts
    assert failures(lib, lib["i64_add"], number, form) == []
    wrong = form._replace(accepts=(d, a, b._replace(high=b.high + 1)))
    assert failures(lib, lib["i64_add"], number, wrong)
