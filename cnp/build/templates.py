"""Registers and numbers in bytes: find the fields that hold them, make a template, fill it again.

A field is one of those that the target knows (`Target.register_fields`, `number_fields`). It is believed where its bits
are those of the operand in the base and in the samples around it, and where it lies over no other hole.
"""

from __future__ import annotations

from functools import cache

from cnp.build.question import SMALL, Filling, Fit, Question, Template, Values, Variants, distinct, exchanged
from cnp.build.shapes import Pick, Registers
from cnp.stencil import Block, Hole, Stencil, What
from cnp.target import Field, Formula, Target

ADDENDS = (0, 1, -1, -32, 31, 32, 63, 64, -31, -63, -64)
ENOUGH = 2  #: samples besides the base in which a field must have the right value


class Fields:
    """Finds and fills the fields that a target knows."""

    def __init__(self, target: Target) -> None:
        self.target, self.fields = target, target.fields
        self.order = target.byteorder
        self.step = target.code_align
        self.masks = {name: self.bits(fld, -1) for name, fld in self.fields.items()}
        self.sizes = {name: fld.size for name, fld in self.fields.items()}
        self.guards = target.guards

    @staticmethod
    def bits(fld: Field, value: int) -> int:
        """The bits of a unit in which a value is written."""
        total = value + fld.carry if value != -1 else -1
        return sum(((total >> source & (1 << width) - 1) << place) for source, width, place in fld.bits)

    @cache  # noqa: B019 - one for each build
    def pattern(self, name: str, addend: int, value: int) -> int | None:
        """The bits that a field has for a value; None if it cannot."""
        fld = self.fields[name]
        inner = -(value + addend) if fld.formula is Formula.NEGATED else value + addend
        if not fld.fits(inner):
            return None
        total = inner + fld.carry
        return sum(((total >> source & (1 << width) - 1) << place) for source, width, place in fld.bits)

    def template(self, question: Question, base: Values, registers: Registers) -> Template | None:
        """What a base and the samples around it say; None where a number stays unexplained."""
        sample = question.seen[base]
        near_by = neighbours(question, base)
        around: list[list[tuple[int, Variants]]] = [[] for _ in base]
        for values in near_by:
            changed = [group for group, (a, b) in enumerate(zip(base, values, strict=True)) if a != b]
            if len(changed) == 1 and same_shape(sample, seen := question.seen[values]):
                around[changed[0]].append((values[changed[0]], seen))
        near = self.with_holes(
            question, base, sample[0], [[(v, s[0]) for v, s in g] for g in around], registers
        )
        far = None
        if sample[1] is not None:
            far_around = [[(v, s[1]) for v, s in g if s[1] is not None] for g in around]
            far = self.with_holes(question, base, sample[1], far_around, registers)
        template = Template((near, far), [frozenset()] * len(base), base)
        for group, bank in enumerate(question.banks):
            fit = self.fit(question, template, near_by, group, bank, registers)
            if fit is None:
                return None
            template.fits[group] = fit
        return template

    def fit(
        self,
        question: Question,
        template: Template,
        near_by: list[Values],
        group: int,
        bank: str,
        registers: Registers,
    ) -> Fit | None:
        """The values of a group for which the template reproduces the compiler's code. None for a number that it does not
        follow."""
        base = template.base
        good = [
            values
            for values in near_by
            if exchanged(question.banks, base, group, values[group]) == values
            and self.reproduces(template, question, values, registers)
        ]
        if bank != "n":
            return frozenset(values[group] for values in good)
        if len(good) <= ENOUGH:
            return None
        pick = next(p for p, g in zip(question.shape.picks, question.shape.group, strict=True) if g == group)
        operand = question.shape.group.index(group)
        holes = [
            hole
            for variant in filter(None, template.variants)
            for hole in (hole for block in variant.blocks for hole in block.holes)
            if hole.what is What.OPERAND and hole.index == operand
        ]
        if not holes:  # it only fed what the compiler folded: nobody knows for which others that is the same
            return None
        low, high = believed(question, base, group, {values[group] for values in good}, pick)
        across = 0
        for hole in holes:
            fld = self.fields[hole.field]
            low, high = narrowed(fld, hole.addend, low, high)
            if hole.addend in (1, -1) and fld.formula is not Formula.NEGATED:
                across = hole.addend
        return sides(low, high, across)

    def with_holes(
        self,
        question: Question,
        base: Values,
        sample: Stencil,
        around: list[list[tuple[int, Stencil]]],
        registers: Registers,
    ) -> Stencil:
        """The sample with holes where its registers and numbers are."""
        blocks = []
        groups = sorted(range(len(around)), key=lambda group: question.banks[group] != "n")  # numbers first
        for index, block in enumerate(sample.blocks):
            holes = list(block.holes)
            for group in groups:
                codes = [(value, stencil.blocks[index].code) for value, stencil in around[group]]
                holes += self.find(
                    question, group, base[group], block._replace(holes=tuple(holes)), codes, registers
                )
            blocks.append(block._replace(holes=tuple(sorted(holes, key=lambda h: (h.offset, h.field)))))
        return sample._replace(blocks=tuple(blocks))

    def find(
        self,
        question: Question,
        group: int,
        value: int,
        block: Block,
        variants: list[tuple[int, bytes]],
        registers: Registers,
    ) -> list[Hole]:
        """The holes of one group in one block: fields that follow the value, and hold nothing else."""
        code, varying = block.code, 0
        for _, other in variants:
            varying |= int.from_bytes(code, "little") ^ int.from_bytes(other, "little")
        if not varying:
            return []
        bank = question.banks[group]
        names = self.target.number_fields if bank == "n" else self.target.register_fields
        number = (lambda v: v) if bank == "n" else (lambda v: registers.number(bank, v))
        taken = 0
        for hole in block.holes:
            taken |= self.place(hole.field, hole.offset)
        found: list[tuple[int, int, int, str, int]] = []
        for name in names:
            size, mask = self.sizes[name], self.masks[name]
            guard, wanted = self.guards.get(name, (0, 0))
            addends = ADDENDS if bank == "n" else (0,)
            candidates = [(addend, self.pattern(name, addend, number(value))) for addend in addends]
            patterns = {pattern for _, pattern in candidates}
            for offset in range(0, len(code) - size + 1, self.step):
                if not varying >> 8 * offset & (1 << 8 * size) - 1 or taken & self.place(name, offset):
                    continue
                unit = self.unit(code, offset, size)
                if unit & guard != wanted or unit & mask not in patterns:
                    continue
                for addend, pattern in candidates:
                    if pattern != unit & mask:
                        continue
                    count = sum(
                        self.pattern(name, addend, number(v)) == self.unit(other, offset, size) & mask
                        for v, other in variants
                    )
                    if count >= min(ENOUGH, len(variants)):
                        found.append((-count, -mask.bit_count(), offset, name, addend))
        return self.choose(found, question.shape.group.index(group), varying)

    def choose(self, found: list[tuple[int, int, int, str, int]], operand: int, varying: int) -> list[Hole]:
        """The fields that explain the bits that vary: first those that are right most often, then the wide ones."""
        holes = []
        taken = 0
        for _, _, offset, name, addend in sorted(found):
            mask = self.place(name, offset)
            if mask & varying and not mask & taken:
                varying &= ~mask
                taken |= mask
                holes.append(Hole(offset, name, What.OPERAND, operand, addend, offset))
        return holes

    @cache  # noqa: B019 - one for each build
    def place(self, name: str, offset: int) -> int:
        """The bits of a field as bits of the whole code, byte by byte."""
        return self.spread(self.masks[name], self.sizes[name]) << 8 * offset

    def spread(self, unit: int, size: int) -> int:
        """A unit as bits of code that is read as one number, the first byte lowest."""
        return unit if self.order == "little" else int.from_bytes(unit.to_bytes(size, "big"), "little")

    def unit(self, code: bytes | bytearray, offset: int, size: int) -> int:
        return int.from_bytes(code[offset : offset + size], self.order)  # type: ignore[arg-type]

    def reproduces(
        self, template: Template, question: Question, values: Values, registers: Registers
    ) -> bool:
        """Whether the template, filled with these values, is what the compiler made."""
        if not template.patterns:
            template.patterns = tuple(
                variant and tuple(self.filling(block, question) for block in variant.blocks)
                for variant in template.variants
            )
        banks = {"r": registers.r, "f": registers.f}
        numbers = [
            value if bank == "n" else banks[bank][value]
            for bank, value in zip(question.banks, values, strict=True)
        ]
        for mine, theirs in zip(template.patterns, question.seen[values], strict=True):
            if mine is None or theirs is None:
                if mine or theirs:
                    return False
            elif not self.same_code(mine, theirs, numbers):
                return False
        return True

    def same_code(self, mine: tuple[Filling, ...], theirs: Stencil, numbers: list[int]) -> bool:
        """Compare block by block: the same code once the learned holes are filled, and the same other holes."""
        if len(mine) != len(theirs.blocks):
            return False
        for filling, other in zip(mine, theirs.blocks, strict=True):
            if filling.size != len(other.code):
                return False
            code = filling.code
            for name, addend, offset, group in filling.holes:
                bits = self.placed(name, addend, offset, numbers[group])
                if bits is None:
                    return False
                code |= bits
            if code != int.from_bytes(other.code, "little") or filling.others != other.holes:
                return False
        return True

    def filling(self, block: Block, question: Question) -> Filling:
        """A block as `same_code` compares it."""
        groups = question.shape.group
        learned = [h for h in block.holes if h.what is What.OPERAND and groups[h.index] >= 0]
        code = int.from_bytes(block.code, "little")
        for hole in learned:
            code &= ~self.place(hole.field, hole.offset)
        holes = tuple((h.field, h.addend, h.offset, groups[h.index]) for h in learned)
        return Filling(code, len(block.code), holes, tuple(h for h in block.holes if h not in learned))

    @cache  # noqa: B019 - one for each build
    def placed(self, name: str, addend: int, offset: int, value: int) -> int | None:
        """The bits of a field with a value as bits of the whole code; None if it cannot hold it."""
        bits = self.pattern(name, addend, value)
        return None if bits is None else self.spread(bits, self.sizes[name]) << 8 * offset


def neighbours(question: Question, base: Values) -> list[Values]:
    """The samples in which at most one operand is another one than in a base, and who had that instead."""
    most = 2 if distinct(question.banks, base) else len(base)
    return [v for v in question.seen if sum(a != b for a, b in zip(base, v, strict=True)) <= most]


def same_shape(first: Variants, second: Variants) -> bool:
    """Whether two samples have blocks of the same lengths."""
    for a, b in zip(first, second, strict=True):
        if (a is None) != (b is None):
            return False
        if a and b and [len(x.code) for x in a.blocks] != [len(x.code) for x in b.blocks]:
            return False
    return True


def believed(question: Question, base: Values, group: int, good: set[int], pick: Pick) -> tuple[int, int]:
    """The part of an interval that the samples speak for: up to where they are another code, or to zero if only numbers
    of the other sign are, because these instructions do not extend it."""
    tried = {
        values[group]
        for values in question.seen
        if all(a == b or index == group for index, (a, b) in enumerate(zip(values, base, strict=True)))
    }
    start = base[group]
    above = [value for value in tried - good if value > start]
    below = [value for value in tried - good if value < start]
    if pick.high - pick.low < SMALL and not pick.low < 0 <= pick.high:  # tried from end to end
        return pick.low + (pick.low in below), pick.high - (pick.high in above)
    high = (
        pick.high if not above else -1 if start < 0 <= min(above) else max(v for v in good if v < min(above))
    )
    low = pick.low if not below else 0 if max(below) < 0 <= start else min(v for v in good if v > max(below))
    return low, high


def narrowed(fld: Field, addend: int, low: int, high: int) -> tuple[int, int]:
    """The part of an interval that a field holds."""
    if fld.formula is Formula.NEGATED:
        return max(low, -fld.high - addend), min(high, -fld.low - addend)
    return max(low, fld.low - addend), min(high, fld.high - addend)


def sides(low: int, high: int, across: int) -> tuple[tuple[int, int], ...]:
    """The parts of an interval in which a number and its neighbour are on the same side of zero. Where the compiler made
    `a <= n - 1` of `a < n`, an unsigned comparison with 0 would turn into its opposite."""
    if across == 0:
        parts = [(low, high)]
    elif across < 0:
        parts = [(max(low, 1), high), (low, min(high, -1))]
    else:
        parts = [(max(low, 0), high), (low, min(high, -2))]
    return tuple(part for part in parts if part[0] <= part[1])
