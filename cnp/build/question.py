"""What is asked about one shape, and what was learned of it: plain data for cnp/build/learn.py.

A question is a shape with one choice of which operands are the same register. Its samples are keyed by `Values`: for each
group of operands the index of a register, or a number.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cnp.build.shapes import MOST_MIXED, Pick, Shape
from cnp.stencil import Accept, Hole, Stencil

SMALL = 100  #: numbers in an interval of which some are tried from end to end

Values = tuple[int, ...]
Variants = tuple[Stencil, Stencil | None]  #: near and far
Registered = frozenset[int]  #: registers that fit
Interval = tuple[int, int]  #: numbers that fit
Fit = Registered | tuple[Interval, ...]


class Filling(NamedTuple):
    """A block of a template, to be compared with samples: its code as one number, the first byte lowest, without the bits of
    learned holes; these holes, as (field, addend, offset, group); the other holes."""

    code: int
    size: int
    holes: tuple[tuple[str, int, int, int], ...]
    others: tuple[Hole, ...]


@dataclass
class Template:
    """Code with holes for its groups. fits: for each group the registers it takes (a set), or intervals of
    numbers. base: the sample that it was made of. patterns: the blocks of each variant, made when they are first compared."""

    variants: Variants
    fits: list[Fit]
    base: Values
    patterns: tuple[tuple[Filling, ...] | None, ...] = ()

    @property
    def cost(self) -> tuple[int, int]:
        return cost(self.variants[0])

    def takes(self, values: Values) -> bool:
        return all(
            value in fit if isinstance(fit, frozenset) else any(low <= value <= high for low, high in fit)
            for value, fit in zip(values, self.fits, strict=True)
        )


def cost(stencil: Stencil) -> tuple[int, int]:
    """What forms are ordered by: bytes of the hot block without the jump to NEXT, then instructions."""
    hot = stencil.blocks[0]
    return len(hot.code) - hot.tail, stencil.instructions


@dataclass
class Question:
    """One shape with one choice of which operands are the same register. seen: what was compiled of it. ties: pairs of
    groups -> a sample in which both are the same register. varied: bases whose registers were renamed. keys: of samples.
    given_up: costs of samples that fit one choice of registers only. checks: samples in which everything is different. roots: what
    renamed samples were compiled as. learned: bases with their templates made. late: registers to be added to a template
    when a sample has come."""

    shape: Shape
    banks: tuple[str, ...]
    base: Values
    seen: dict[Values, Variants] = field(default_factory=dict)
    ties: dict[tuple[int, int], Values] = field(default_factory=dict)
    templates: list[Template] = field(default_factory=list)
    keys: dict[Values, str] = field(default_factory=dict)
    varied: set[Values] = field(default_factory=set)
    given_up: set[tuple[int, int]] = field(default_factory=set)
    checks: set[Values] = field(default_factory=set)
    roots: dict[Values, Values] = field(default_factory=dict)
    learned: set[Values] = field(default_factory=set)
    late: list[tuple[Template, int, Values]] = field(default_factory=list)
    bases: list[Values] = field(default_factory=list)


NOTHING: Variants = (Stencil(()), None)


def banks_of(shape: Shape) -> tuple[str, ...]:
    """For each group its bank, or `n` for a number."""
    found: dict[int, str] = {}
    for group, pick in zip(shape.group, shape.picks, strict=True):
        if group >= 0:
            found[group] = pick.kind if pick.kind in "rf" else "n"
    return tuple(found[group] for group in sorted(found))


def general(template: Template, banks: tuple[str, ...]) -> bool:
    """Whether a template is for more than one choice of many registers."""
    sets = [fit for fit in template.fits if isinstance(fit, frozenset)]
    return len(sets) < MOST_MIXED or any(len(fit) > 1 for fit in sets)


def exchanged(banks: tuple[str, ...], values: Values, group: int, value: int) -> Values:
    """`values` with one group changed; who has that register already takes the one that is given up."""
    return tuple(
        value
        if index == group
        else values[group]
        if banks[index] == banks[group] != "n" and old == value
        else old
        for index, old in enumerate(values)
    )


def merged(shape: Shape, first: int, second: int) -> Shape:
    """The shape with two groups that are one."""
    group = tuple(first if g == second else g - (g > second) for g in shape.group)
    return replace(shape, group=group)


def opaque(shape: Shape) -> Shape:
    """The shape with numbers that the compiler does not know, for where no field follows the short ones."""
    picks = tuple(pick._replace(kind="imm") if pick.kind == "number" else pick for pick in shape.picks)
    count = itertools.count()
    group = tuple(next(count) if pick.learned else -1 for pick in picks)
    return replace(shape, key=f"{shape.key}.opaque", picks=picks, group=group)


def distinct(banks: tuple[str, ...], values: Values) -> bool:
    used = [pair for pair in zip(banks, values, strict=True) if pair[0] != "n"]
    return len(set(used)) == len(used)


def taken_by(fit: Fit) -> Registered:
    """The registers that fit; none for a number."""
    return fit if isinstance(fit, frozenset) else frozenset()


def meet(first: Fit, second: Fit) -> bool:
    return not (isinstance(first, frozenset) and isinstance(second, frozenset)) or bool(first & second)


def learned_accept(pick: Pick, fit: Registered | Interval) -> Accept:
    """The operands that one choice stands for."""
    if isinstance(fit, frozenset):
        return Accept(pick.kind, 0, 0, 1, sum(1 << index for index in fit))
    return pick.accept._replace(low=fit[0], high=fit[1])
