"""The forms of an operation as the file has them: shorter ones for slots that lie near, what each takes, the best ones first.

what was compiled ──shortened──> … for slots near and first ──narrowed──> the ranges of fields ──best──> by cost
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from cnp.build.extract import Extracted
from cnp.build.question import cost
from cnp.build.shapes import MOST_MIXED, Shape
from cnp.stencil import Accept, Form, Stencil, What
from cnp.target import Formula, Target

FAR, NEAR, FIRST = range(
    3
)  #: where in the frame a slot lies, for machines whose fields are shorter near its begin


def best(forms: list[Form]) -> tuple[Form, ...]:
    """The forms by cost, without those that take nothing that a cheaper one does not take. A form that needs a feature
    comes behind one that costs the same, and replaces none that can do without."""
    ordered = sorted(forms, key=lambda form: (cost(form.near), form.feature != ""))
    found: list[Form] = []
    by_kinds: dict[tuple[str, ...], list[Form]] = {}
    for form in ordered:
        if any(accept.low > accept.high for accept in form.accepts):
            continue
        kinds = tuple(accept.kind if accept.kind in ("r", "f", "slot") else "imm" for accept in form.accepts)
        rivals = by_kinds.setdefault(kinds, [])
        if not any(rival.feature in ("", form.feature) and includes(rival, form) for rival in rivals):
            rivals.append(form)
            found.append(form)
    return tuple(found)


def includes(first: Form, second: Form) -> bool:
    """Whether one form takes whatever another takes."""
    for a, b in zip(first.accepts, second.accepts, strict=True):
        if a.low > b.low or b.high > a.high or b.align % a.align or b.mask & ~a.mask:
            return False
        if a.kind != b.kind and not a.kind[0] == b.kind[0] == "i":
            return False
    return set(first.same) <= set(second.same) and set(first.differ) <= set(second.differ)


def plain_form(shape: Shape, extracted: Extracted, target: Target) -> Form:
    """A form whose operands are all symbols in the object."""
    near, far = extracted.stencils[shape.key], extracted.stencils.get(f"{shape.key}.far")
    return Form(tuple(pick.accept for pick in shape.picks), near, far, feature=shape.feature)


def shortened(form: Form, target: Target, straight: set[bytes]) -> Iterator[Form]:
    """The same form for slots near the frame's begin, where fields have shorter forms that the compiler cannot choose for
    a symbol: all mixtures of slots that are far, near and first in the frame."""
    variants = [form.near] if form.far is None else [form.near, form.far]
    if target.shorten is None or any(variant.blocks[0].code not in straight for variant in variants):
        return
    slots = [number for number, accept in enumerate(form.accepts) if accept.kind == "slot"]
    mixtures = itertools.product(
        *[(FAR, NEAR, FIRST) if len(slots) <= MOST_MIXED else (NEAR,) for _ in slots]
    )
    for mixture in mixtures:
        lengths = dict(zip(slots, mixture, strict=True))
        near, first = (frozenset(n for n in slots if lengths[n] == length) for length in (NEAR, FIRST))
        blocks = [target.shorten(variant.blocks[0], near, first) for variant in variants]
        shorter = [
            variant._replace(blocks=(block, *variant.blocks[1:]))
            for variant, block in zip(variants, blocks, strict=True)
            if block is not None
        ]
        if len(shorter) == len(variants):
            accepts = tuple(
                reached(accept, lengths.get(number, FAR), target)
                for number, accept in enumerate(form.accepts)
            )
            shorter_form = form._replace(
                accepts=accepts, near=shorter[0], far=shorter[1] if form.far else None
            )
            yield narrowed(shorter_form, target)


def reached(accept: Accept, length: int, target: Target) -> Accept:
    """What is left of an operand where its slot has a shorter field."""
    if length == FAR:
        return accept
    limits = target.fields[target.short_field]
    return (
        accept._replace(low=limits.low, high=limits.high)
        if length == NEAR
        else accept._replace(low=0, high=0)
    )


def narrowed(form: Form, target: Target) -> Form:
    """What the operands of a form may be, by type and by every field they fill."""
    accepts = tuple(
        accepted if accepted.kind in ("r", "f") else narrow(accepted, number, form.near, target)
        for number, accepted in enumerate(form.accepts)
    )
    return form._replace(accepts=accepts)


def narrow(accepted: Accept, operand: int, stencil: Stencil, target: Target) -> Accept:
    """The range that all holes of an operand share."""
    low, high, align = accepted.low, accepted.high, accepted.align
    for block in stencil.blocks:
        for hole in block.holes:
            if hole.what is What.OPERAND and hole.index == operand:
                fld = target.fields[hole.field]
                if fld.formula is Formula.NEGATED:
                    low, high = max(low, -fld.high - hole.addend), min(high, -fld.low - hole.addend)
                else:
                    low, high = max(low, fld.low - hole.addend), min(high, fld.high - hole.addend)
                if fld.align > 1 and hole.addend % fld.align == 0:
                    align = max(align, fld.align)
    return Accept(accepted.kind, low, high, align)
