"""Learn where code holds its registers and short numbers, by comparing what it looks like with different ones.

A stencil cannot say "register 3": to the compiler a register is a parameter, not a symbol. So a form is compiled for
one choice, the base; its text is assembled again with other registers, and the bits that differ are the holes:

    add %r14, %r15 ; r14 <- …      4d 01 f7 …     the bits that change with an operand must change as a field does that
    add %r14, %rsi                 4c 01 f6 …     the target knows: Target.register_fields
    add %r8,  %r15                 4d 01 c7 …

Short numbers are found in the same way, but compiled each time: the compiler may treat some in a way of their own.
A template is believed where it reproduces all of this. Whatever it does not reproduce is learned again with that sample as
the base: shorter encodings of some registers, and what the code uses besides its operands, such as the register of a
shift's count: then the compiler is asked for that choice. Operands that are the same register are compiled too. Where
the template is right for them they may be equal; otherwise they are kept apart (`Form.differ`), and equal ones get
templates of their own (`Form.same`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from cnp.build import layout
from cnp.build.question import (
    NOTHING,
    SMALL,
    Interval,
    Question,
    Registered,
    Template,
    Values,
    banks_of,
    cost,
    distinct,
    exchanged,
    general,
    learned_accept,
    meet,
    merged,
    opaque,
    taken_by,
)
from cnp.build.shapes import MOST_MIXED, REGISTER, Pick, Registers, Shape
from cnp.build.templates import Fields, neighbours
from cnp.build.wrappers import Sample
from cnp.stencil import Form, Stencil
from cnp.target import Target

ROUNDS = 16
MOST_TEMPLATES = 24  #: of one shape
AT_ONCE = 4  #: bases that are taken in one round
MOST_SHORTER = 4  #: of these, as long as they are only shorter than others
#: Numbers that no multiplication, mask or shift treats in a special way.
PLAIN = (83, 107, 89, 53, 1237, 1483, 2789, 3463, 20011, 30011, 40013, 60013, 1234577, 300000007)
FEW = 3  #: registers that are tried of those that instructions encode alike


class Batch(NamedTuple):
    """What to make next. samples: to be compiled; texts: assembly by key, to be assembled, with the key of the sample that
    it was renamed from."""

    samples: list[Sample]
    texts: dict[str, tuple[str, list[str]]]


class Learner:
    """Asks for samples of all shapes, round by round: `while any(batch := learner.ask()): … learner.tell(…)`."""

    def __init__(self, shapes: Iterable[Shape], target: Target, registers: Registers, result: str) -> None:
        self.target, self.registers = target, registers
        self.fields = Fields(target)
        #: registers that code may use in a role of its own: what is returned, and what `ret` writes
        self.special = {("r", number) for number in target.results}
        if match := REGISTER.fullmatch(result):
            self.special.add((match[1], registers.number(match[1], int(match[2]))))
        self.classes = {
            bank: self.classes_of(bank, classes)
            for bank, classes in zip(("r", "f"), target.register_classes, strict=True)
        }
        self.questions: list[Question] = []
        self.sections: dict[str, list[str]] = {}
        self._patterns: dict[str, layout.Pattern] = {}
        self._numbers: dict[str, int] = {}
        self._known: dict[tuple[str, tuple[int, ...]], Question] = {}
        self._asked: dict[str, tuple[Question, Values]] = {}
        self._rounds = 0
        self._batch = Batch([], {})
        for shape in shapes:
            self.begin(shape)

    # ---- what to compile

    def ask(self) -> Batch:
        """The next round; empty when everything is learned."""
        batch, self._batch = self._batch, Batch([], {})
        self._rounds += 1
        return batch if self._rounds <= ROUNDS else Batch([], {})

    def asks_about(self, shape: Shape) -> bool:
        """Whether there is something to learn, with as many registers as there are."""
        return (shape.key, shape.group) in self._known

    def sample(self, shape: Shape) -> Sample:
        """A form with ordinary registers and numbers."""
        return Sample(shape, 0, self.base_of(shape, banks_of(shape)))

    def begin(self, shape: Shape) -> None:
        """A question about a shape, or about the same with other operands equal."""
        if not shape.learned:
            return
        key = (shape.key, shape.group)
        banks = banks_of(shape)
        if key in self._known or any(
            banks.count(bank) > len(self.registers.pinned(bank)) for bank in ("r", "f")
        ):
            return
        question = self._known[key] = Question(shape, banks, self.base_of(shape, banks))
        self.questions.append(question)
        self.explore(question, question.base)
        for pair in itertools.combinations(range(len(banks)), 2):
            first, second = banks[pair[0]], banks[pair[1]]
            if first == second and first in "rf" and self.may_be_equal(shape, *pair):
                values = list(question.base)
                values[pair[1]] = values[pair[0]]
                question.ties[pair] = tuple(values)
                self.want(question, tuple(values))

    @staticmethod
    def may_be_equal(shape: Shape, first: int, second: int) -> bool:
        """Whether equal operands are looked at: where there are many registers, only a result equal to one input."""
        kinds = {shape.operands[shape.group.index(group)].kind for group in (first, second)}
        used = [
            group for group, pick in zip(shape.group, shape.picks, strict=True) if pick.kind in ("r", "f")
        ]
        return len(used) <= MOST_MIXED or ("out" in kinds and len(set(used)) == len(used))

    def base_of(self, shape: Shape, banks: tuple[str, ...]) -> Values:
        """Registers in their order, numbers that are not special."""
        places = {"r": iter(self.order("r")), "f": iter(self.order("f"))}
        picks = {group: pick for group, pick in zip(shape.group, shape.picks, strict=True) if group >= 0}
        return tuple(
            next(places[bank]) if bank in places else self.numbers(picks[group])[0]
            for group, bank in enumerate(banks)
        )

    def classes_of(self, bank: str, classes: tuple[tuple[int, ...], ...]) -> list[list[int]]:
        """The pinned registers of a bank by what the target says of their numbers."""
        pinned = self.registers.pinned(bank)
        number = {index: self.registers.number(bank, index) for index in pinned}
        groups = [[i for i in pinned if number[i] in members] for members in classes] or [pinned]
        special = [i for i in pinned if (bank, number[i]) in self.special]
        groups = [[i for i in group if i not in special] for group in groups] + [[i] for i in special]
        return [group for group in groups if group]

    def order(self, bank: str) -> list[int]:
        """Registers, the ordinary ones first."""
        return [index for group in self.classes[bank] for index in group]

    def tried(self, bank: str, count: int) -> list[int]:
        """Registers that stand for all, more than the `count` ones that the operands of a base are."""
        return [i for group in self.classes[bank] for i in group[: FEW + count]]

    def numbers(self, pick: Pick) -> list[int]:
        """A few numbers of an interval that are not special."""
        low, high = pick.low, pick.high
        if pick.step > 1:  # of even multiples a compiler may make odd ones of the next power of two
            least, count = low // pick.step, (high - low) // pick.step
            return [(least + count * part // 7 | 1) * pick.step for part in (3, 1, 5, 6)]
        if high - low < SMALL:
            return [*list(range(low + 5, high, 6))[:3], low, high]
        if low > 0 or high < -1:
            return [low + (high - low) * part // 7 for part in (3, 1, 5, 6)]
        found = [n for n in PLAIN if n < high and n > high >> 20]
        found += [-n for n in PLAIN if -n > low and n > -low >> 20]
        return [found[0], found[len(found) // 2 - 1], found[len(found) // 3], found[-1]]

    def explore(self, question: Question, base: Values) -> None:
        """Ask for a base and for some numbers in the place of each of its numbers. What was renamed is so with these too: the
        compiler has seen them with other registers."""
        question.bases.append(base)
        self.want(question, base)
        root = question.roots.get(base, base)
        for group, pick in zip(question.shape.group, question.shape.picks, strict=True):
            for value in self.numbers(pick) if pick.kind == "number" else ():
                origin, values = (exchanged(question.banks, v, group, value) for v in (root, base))
                if origin in question.seen and question.keys[origin] in self.sections:
                    self.rename(question, origin, values)
                self.want(question, values)

    def vary(self, question: Question, base: Values) -> None:
        """Ask for the code of a base with each of its registers renamed. What it uses besides cannot be renamed: there
        the compiler is asked."""
        used = self.pattern(question, base).used
        own = {(bank, value) for bank, value in zip(question.banks, base, strict=True)}
        if self.crowded(used, own):
            question.learned.add(base)
            return
        for group, bank in enumerate(question.banks):
            for value in self.tried(bank, question.banks.count(bank)) if bank in "rf" else ():
                taken = (bank, self.registers.number(bank, value)) in used and (bank, value) not in own
                values = exchanged(question.banks, base, group, value)
                if taken:
                    self.want(question, values)
                else:
                    self.rename(question, base, values)
        joint = self.joint(question)
        self.rename(question, base, joint)
        self.check_numbers(question, base, joint)

    def crowded(self, used: frozenset[tuple[str, int]], own: set[tuple[str, int]]) -> bool:
        """Whether code uses most registers by itself, as what calls a function and keeps them does: it is long, and gets
        its operands in slots."""
        pinned = [(b, i) for b in "rf" for i in self.registers.pinned(b)]
        taken = [key for key in pinned if (key[0], self.registers.number(*key)) in used and key not in own]
        return 2 * len(taken) > len(pinned)

    def check_numbers(self, question: Question, base: Values, joint: Values) -> None:
        """Ask for other numbers together with other registers: a field that only looked right shows then."""
        for values in list(question.seen):
            other = [group for group, (a, b) in enumerate(zip(base, values, strict=True)) if a != b]
            if len(other) == 1 and question.banks[other[0]] == "n" and question.keys[values] in self.sections:
                both = tuple(values[g] if g in other else v for g, v in enumerate(joint))
                self.rename(question, values, both)
                if both in question.seen:
                    question.checks.add(both)

    def rename(self, question: Question, base: Values, values: Values) -> None:
        """Ask for the text of a base with other registers."""
        if values in question.seen:
            return
        pattern = self.pattern(question, base)
        own = {(bank, value) for bank, value in zip(question.banks, base, strict=True)}
        pairs = [
            pair for pair in zip(question.banks, values, strict=True) if pair[0] != "n" and pair not in own
        ]
        if any((bank, self.registers.number(bank, value)) in pattern.used for bank, value in pairs):
            return
        mapping = {
            (bank, self.registers.number(bank, old)): self.registers.number(bank, new)
            for bank, old, new in zip(question.banks, base, values, strict=True)
            if bank in "rf" and old != new
        }
        key, new = question.keys[base], self.new_key(question)
        text = layout.renamed(self.target.syntax, pattern, new, mapping)
        if text is not None:
            self.expect(question, values, new)
            question.roots[values] = question.roots.get(base, base)
            self.sections[new] = text
            self._batch.texts[new] = key, text

    def pattern(self, question: Question, values: Values) -> layout.Pattern:
        """The text of a sample, to be renamed."""
        key = question.keys[values]
        if key not in self._patterns:
            self._patterns[key] = layout.pattern(self.target.syntax, self.sections[key], key)
        return self._patterns[key]

    def joint(self, question: Question) -> Values:
        """The least ordinary registers, all at once."""
        last = {bank: iter(reversed(self.order(bank))) for bank in "rf"}
        return tuple(
            next(last[bank]) if bank in "rf" else value
            for bank, value in zip(question.banks, question.base, strict=True)
        )

    def want(self, question: Question, values: Values) -> None:
        """Ask the compiler."""
        if values not in question.seen:
            key = self.new_key(question)
            self.expect(question, values, key)
            self._batch.samples.append(Sample(question.shape, int(key.rpartition(".")[2]), values))

    def new_key(self, question: Question) -> str:
        number = self._numbers[question.shape.key] = self._numbers.get(question.shape.key, -1) + 1
        return f"{question.shape.key}.{number}"

    def expect(self, question: Question, values: Values, key: str) -> None:
        question.seen[values] = NOTHING
        question.keys[values] = key
        self._asked[key] = question, values

    # ---- what the answers say

    def tell(self, stencils: Mapping[str, Stencil], sections: Mapping[str, list[str]]) -> None:
        """Take the code of a round and think of what to ask next. sections: the text of what was compiled."""
        self.sections |= sections
        changed: dict[int, Question] = {}
        for key, (question, values) in self._asked.items():
            question.seen[values] = stencils[key], stencils.get(f"{key}.far")
            changed[id(question)] = question
        self._asked = {}
        for question in changed.values():
            self.take_late(question)
        for question in changed.values():
            self.think(question)

    def think(self, question: Question) -> None:
        """Rename the registers of new bases, learn from those that are; then look at what is not yet explained."""
        for base in question.bases:
            if question.seen[base] is NOTHING or base in question.learned:
                continue
            if base not in question.varied:
                question.varied.add(base)
                self.vary(question, base)
            elif not self.learn(question, base):
                return
        if not any(variants is NOTHING for variants in question.seen.values()) and self.go_on(question):
            self.think(question)

    def learn(self, question: Question, base: Values) -> bool:
        """Make the template of a base. False where even the first one does not make sense."""
        question.learned.add(base)
        template = self.fields.template(question, base, self.registers)
        if template is None:
            stepped = any(pick.step > 1 for pick in question.shape.picks)
            if base == question.base and "n" in question.banks and not stepped:
                self.begin(opaque(question.shape))
            return base != question.base
        self.widen(question, template)
        if not self.holds(question, template) or not general(template, question.banks):
            question.given_up.add(cost(question.seen[base][0]))
        else:
            question.templates.append(template)
            self.look_at_taken(question, template)
        return True

    def go_on(self, question: Question) -> bool:
        """Take more bases, if some samples are not explained; look at equal operands. Whether there is more to do now."""
        waiting = len(question.varied) < len(question.bases) or len(question.learned) < len(question.varied)
        done = {*question.ties.values(), *question.bases, *question.checks}
        left = [v for v in question.seen if v not in done and not self.explained(question, v)]
        left = [v for v in left if cost(question.seen[v][0]) not in question.given_up]
        numbers = [group for group, bank in enumerate(question.banks) if bank == "n"]
        left = [v for v in left if all(v[group] == question.base[group] for group in numbers)]
        missing = [v for v in left if not any(template.takes(v) for template in question.templates)]
        chosen = missing if len(question.bases) < MOST_TEMPLATES else []
        if not chosen and len(question.bases) < MOST_SHORTER:
            chosen = left
        by_cost = {cost(question.seen[values][0]): values for values in reversed(chosen)}
        for _, values in sorted(by_cost.items())[:AT_ONCE]:
            self.explore(question, values)
        for (first, second), tie in question.ties.items():
            if not self.explained(question, tie):
                self.begin(merged(question.shape, first, second))
        return bool(by_cost) or waiting

    def look_at_taken(self, question: Question, template: Template) -> None:
        """Registers that other operands of the base had: ask whether an operand may be one of them, the other then being
        another one that fits, or the same one where the two may be equal."""
        base = template.base
        for first, second in itertools.permutations(range(len(base)), 2):
            fit, other = template.fits[first], template.fits[second]
            if question.banks[first] == question.banks[second] != "n" and base[second] not in fit:
                free = (
                    v for v in self.order(question.banks[second]) if v in taken_by(other) and v not in base
                )
                spare = next(free, None)
                if spare is None and self.may_tie(question, template, *sorted((first, second))):
                    spare = base[second]
                if spare is not None:
                    values = list(base)
                    values[first], values[second] = base[second], spare
                    self.rename(question, base, tuple(values))
                    if tuple(values) in question.seen:
                        question.late.append((template, first, tuple(values)))

    def take_late(self, question: Question) -> None:
        """Take the registers for which the answers have come."""
        for template, group, values in question.late:
            if self.fields.reproduces(template, question, values, self.registers):
                template.fits[group] = taken_by(template.fits[group]) | {values[group]}
        question.late = []

    def holds(self, question: Question, template: Template) -> bool:
        """Whether a template is right where everything is different at once."""
        return not any(
            template.takes(values)
            and question.seen[values] is not NOTHING
            and cost(question.seen[values][0])[0] == template.cost[0]
            and not self.fields.reproduces(template, question, values, self.registers)
            for values in question.checks
            if values in question.seen
        )

    def widen(self, question: Question, template: Template) -> None:
        """Some registers stand for all that are encoded like them."""
        base = template.base
        for group, fit in enumerate(template.fits):
            if isinstance(fit, frozenset):
                tried = {
                    values[group]
                    for values in neighbours(question, base)
                    if exchanged(question.banks, base, group, values[group]) == values
                }
                used = self.pattern(question, base).used
                bank = question.banks[group]
                own = {v for v, other in zip(base, question.banks, strict=True) if other == bank}
                for alike in self.classes[bank]:
                    free = {
                        v for v in alike if v in own or (bank, self.registers.number(bank, v)) not in used
                    }
                    if tried & free and tried & free <= fit:
                        fit = fit | free
                template.fits[group] = fit

    def explained(self, question: Question, values: Values) -> bool:
        """Whether a template reproduces a sample, or does as well."""
        sample = question.seen[values]
        return any(
            self.fields.reproduces(template, question, values, self.registers)
            or (
                template.takes(values)
                and template.cost <= cost(sample[0])
                and distinct(question.banks, values)
            )
            for template in question.templates
        )

    # ---- what is learned

    @staticmethod
    def root(question: Question, template: Template) -> Values:
        """What the text of a template was compiled as."""
        return question.roots.get(template.base, template.base)

    def forms(self) -> dict[str, list[Form]]:
        """The forms by operation."""
        found: dict[str, list[Form]] = {}
        for question in self.questions:
            for template in question.templates:
                found.setdefault(question.shape.operation, []).extend(self.forms_of(question, template))
        return found

    def forms_of(self, question: Question, template: Template) -> Iterator[Form]:
        """A template as forms of the operation: one for each choice of intervals."""
        choices: list[tuple[Registered | Interval, ...]] = [
            (fit,) if isinstance(fit, frozenset) else fit for fit in template.fits
        ]
        same, differ = self.pairs(question, template)
        shape = question.shape
        for chosen in itertools.product(*choices):
            accepts = tuple(
                pick.accept if group < 0 else learned_accept(pick, chosen[group])
                for pick, group in zip(shape.picks, shape.group, strict=True)
            )
            yield Form(accepts, *template.variants, same, differ, shape.feature)

    def pairs(
        self, question: Question, template: Template
    ) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
        """The operands that must be the same, and those that must be different registers."""
        shape = question.shape
        first: dict[int, int] = {}
        same = []
        for operand, group in enumerate(shape.group):
            if group >= 0 and first.setdefault(group, operand) != operand:
                same.append((first[group], operand))
        differ = [
            (first[a], first[b])
            for a, b in itertools.combinations(range(len(question.banks)), 2)
            if question.banks[a] == question.banks[b] != "n"
            and meet(template.fits[a], template.fits[b])
            and not self.may_tie(question, template, a, b)
        ]
        return tuple(same), tuple(differ)

    def may_tie(self, question: Question, template: Template, first: int, second: int) -> bool:
        """Whether a template also holds where two of its groups are the same register."""
        tie = question.ties.get((first, second))
        return tie is not None and any(
            self.fields.reproduces(other, question, tie, self.registers)
            for other in question.templates
            if self.root(question, other) == self.root(question, template)
        )
