"""Executes every form of every operation by itself and compares everything that it may have touched.

A `Use` is an operation with a form and operands for it, chosen for the form and not by the assembler. It lies in the
program with operations that leave behind it, one for each way it may go on:

    use      br_i64_lt_s  r[3], 127, label
             leave                            goes on
    label    leave                            taken

A `Case` runs a use once: generated code is entered at the use, with inputs of its own, and leaves right behind it. So the
header of its frame holds all registers afterwards, and says where it left.

    A + i S     context | header with registers | slots 0 … 120 | memory     of case i
    …
    A + i S + O                                   a few slots more           where the operands lie far up in the frame

All cases of a target are entered in one start of its host program. What is expected is written into a copy of the
memory beforehand; then both are compared as a whole, so that nothing is overlooked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from random import Random
from typing import NamedTuple

from cnp import frame as layout
from cnp import host, interpret, patch
from cnp.errors import HostError
from cnp.foreign import ForeignCode
from cnp.host import HostImage, Segment
from cnp.library import Library
from cnp.operands import Function, Label, Register, Slot, Table, Value
from cnp.program import Op, Program
from cnp.stencil import Accept, Form, Operation
from tests.form_meaning import ELSEWHERE, Effect, Memory, meaning, size_of, widened
from tests.reference import (
    FLOAT_EDGES,
    MASK64,
    edge_words,
    hole_word,
    is_nan,
)

REGISTERS = ("r", "f")
VALUES = ("in", "in/imm", "out")
NEAR = 16  #: slots at the frame's beginning
FAR = 8  #: slots of a window further up
BUFFER = 64  #: bytes of memory
FAR_BASE = 1 << 20  #: windows from here on have a segment of their own
LABELS = 3  #: of a jump table
CODE = 0xC0DE  #: trap code in a header beforehand
INDICES = (3, MASK64 - 4, 1 << 20, 0)  #: of base + index * scale
ABOVE = 0xDEAD_BEEF << 32  #: above an index of 32 bits
TRIES = 8  #: to find inputs that end in another way
Pair = tuple[int, int]


class Use(NamedTuple):
    """An operation to be executed. number: of its form. window: where its slots begin that are not near, 0 for none."""

    operation: Operation
    number: int
    form: Form
    values: tuple[Value, ...]
    window: int = 0

    def __str__(self) -> str:
        given = [f"label {n}" if isinstance(v, (Label, Table)) else repr(v) for n, v in enumerate(self.values)]
        return f"{self.operation.name} form {self.number} ({', '.join(given)})"


@dataclass(slots=True)
class Case:
    """One run of a use. frame: address of slot 0; words: what its inputs hold, by their offset in the frame."""

    use: int
    frame: int
    words: dict[int, int]
    effect: Effect = field(default_factory=Effect)


# ---- which operands a form is tried with


class Chooser:
    """Operands that a form takes: those at the ends of what it accepts, equal ones, some others."""

    def __init__(self, library: Library, random: Random) -> None:
        self.library, self.random = library, random
        self.homes = {
            Register(bank, index): library.home(Register(bank, index))
            for bank, numbers in library.registers.items()
            for index, number in enumerate(numbers)
            if number >= 0
        }

    def uses(self, operation: Operation, number: int, turns: int) -> Iterator[Use]:
        """The first registers and numbers, the last ones, pairs of equal operands, others. turns: how many of the latter."""
        form = operation.forms[number]
        ties = self.ties(operation, form)
        if len(ties) > turns:
            ties = self.random.sample(ties, turns)
        plain = max(2, turns - len(ties) + 1)
        for turn, tie in enumerate([(), *[()] * (plain - 1), *((tie,) for tie in ties)]):
            found = self.values(operation, form, turn, tie)
            if found is not None:
                values, window = found
                yield Use(operation, number, form, values, window)
                if turn == 1 and form.far is not None:
                    yield Use(operation, number, form._replace(near=form.far, far=None), values, window)

    def ties(self, operation: Operation, form: Form) -> list[Pair]:
        """Pairs of operands that may be one register or slot, though they need not."""
        kinds = [
            accept.kind if declared.kind in VALUES else ""
            for declared, accept in zip(operation.operands, form.accepts, strict=True)
        ]
        groups = united(len(kinds), form.same)
        apart = {(groups[a], groups[b]) for a, b in form.differ} | {(groups[b], groups[a]) for a, b in form.differ}
        return [
            (a, b)
            for b in range(len(kinds))
            for a in range(b)
            if kinds[a] == kinds[b] and groups[a] != groups[b]
            and (kinds[a] == "slot" or (kinds[a] in REGISTERS and form.accepts[a].mask & form.accepts[b].mask))
            and (kinds[a] == "slot" or (groups[a], groups[b]) not in apart)
        ]  # fmt: skip

    def values(
        self, operation: Operation, form: Form, turn: int, ties: Sequence[Pair]
    ) -> tuple[tuple[Value, ...], int] | None:
        """Operands for one turn, and the window of their slots. None if there are none."""
        groups = united(len(form.accepts), (*form.same, *ties))
        registers = self.registers(form, groups, turn)
        if registers is None:
            return None
        slots, window = self.slots(operation, form, groups, turn)
        found: list[Value] = []
        for number, accept in enumerate(form.accepts):
            if accept.kind in REGISTERS:
                found.append(registers[groups[number]])
            elif accept.kind == "slot":
                found.append(slots[groups[number]])
            elif accept.kind in ("label", "table"):
                found.append(0)  # `Rig` puts labels there
            else:
                found.append(self.number(accept, turn, number))
        return tuple(found), window

    def registers(self, form: Form, groups: Sequence[int], turn: int) -> dict[int, Register] | None:
        """A register for each group, all different. None if the masks do not allow that."""
        masks: dict[int, int] = {}
        banks: dict[int, str] = {}
        for accept, group in zip(form.accepts, groups, strict=True):
            if accept.kind in REGISTERS:
                masks[group] = masks.get(group, -1) & accept.mask
                banks[group] = accept.kind
        order = list(range(max((len(n) for n in self.library.registers.values()), default=0)))
        if turn == 1:
            order.reverse()
        elif turn > 1:
            self.random.shuffle(order)
        found: dict[int, Register] = {}

        def place(rest: list[int]) -> bool:
            if not rest:
                return True
            group = rest[0]
            for index in order:
                register = Register(banks[group], index)
                if masks[group] >> index & 1 and register not in found.values():
                    found[group] = register
                    if place(rest[1:]):
                        return True
                    del found[group]
            return False

        return found if place(sorted(masks, key=lambda g: masks[g].bit_count())) else None

    def slots(
        self, operation: Operation, form: Form, groups: Sequence[int], turn: int
    ) -> tuple[dict[int, Slot], int]:
        """A slot for each group: near ones, the last that the form reaches, homes of registers that are only read."""
        accepts = {group: a for a, group in zip(form.accepts, groups, strict=True) if a.kind == "slot"}
        if not accepts:
            return {}, 0
        last = min(accept.high for accept in accepts.values()) & -8
        window = last - 8 * (FAR - 1) if turn % 3 == 1 and last >= 8 * NEAR else 0
        first = window or 8 * self.random.randrange(3)
        offsets = [first + 8 * number for number in range(FAR)]
        if window == 0 and last < 8 * NEAR:
            offsets = [last - 8 * number for number in range(FAR)] if turn % 3 == 1 else offsets
        if window:
            offsets.reverse()
        found = {group: Slot(offset) for group, offset in zip(accepts, offsets, strict=False)}
        if turn % 3 == 2 and not any(accept.kind in REGISTERS for accept in form.accepts):
            self.move_home(operation, groups, found, accepts)
        return found, window

    def move_home(
        self, operation: Operation, groups: Sequence[int], found: dict[int, Slot], accepts: dict[int, Accept]
    ) -> None:
        """Let one group that is only read lie in the home of an integer register."""
        written = {g for o, g in zip(operation.operands, groups, strict=True) if o.kind == "out"}
        homes = [home for register, home in self.homes.items() if register.bank == "r"]
        for group, accept in accepts.items():
            fitting = [home for home in homes if accept.low <= home <= accept.high]
            if group not in written and fitting:
                found[group] = Slot(self.random.choice(fitting))
                return

    def number(self, accept: Accept, turn: int, place: int) -> int:
        """An immediate: the ends first."""
        numbers = immediates(accept)
        if turn < 2:
            return numbers[turn]
        extra = self.random.randrange(accept.low, accept.high + 1) // accept.align * accept.align
        choice = self.random.choice([*numbers[2:], extra])
        return max(accept.low, choice)


@cache
def immediates(accept: Accept) -> tuple[int, ...]:
    """The ends of an interval, then 0 and ±1 if they are in it; of floats, edge values as bits."""
    if accept.kind in ("f32", "f64"):
        return tuple(hole_word(accept.kind, value) for value in FLOAT_EDGES[accept.kind])
    low, high = -(-accept.low // accept.align) * accept.align, accept.high // accept.align * accept.align
    middle = [n for n in (0, 1, -1) if low <= n <= high and n % accept.align == 0]
    return (low, high, *middle)


def united(count: int, pairs: Iterable[Pair]) -> list[int]:
    """For each operand the first one that is equal to it."""
    groups = list(range(count))
    for a, b in pairs:
        old, new = max(groups[a], groups[b]), min(groups[a], groups[b])
        groups = [new if group == old else group for group in groups]
    return groups


def all_uses(library: Library, random: Random, turns: int) -> Iterator[Use]:
    """Uses of all forms but those that are tested elsewhere."""
    chooser = Chooser(library, random)
    for name in library.operations:
        if name not in ELSEWHERE:
            operation = library[name]
            for number, form in enumerate(operation.forms):
                if not form.feature or form.feature in library.features:
                    yield from chooser.uses(operation, number, turns)


# ---- the program and its memory


class Rig:
    """The uses of one library as a program, and the cases that run them."""

    def __init__(self, library: Library, uses: Iterable[Use], random: Random, runs: int) -> None:
        self.library, self.random, self.runs = library, random, runs
        self.order, self.mark = library.target.byteorder, layout.order(library)
        self.wide = "-DCNP_F32_IS_WIDE" in library.target.cflags
        self.program = Program(library)
        self.uses: list[Use] = []
        self.positions: list[int] = []
        self.assemble(uses)
        self.below = layout.CONTEXT_SIZE + library.header_size
        self.stride = (self.below + 8 * NEAR + BUFFER + 15) & -16
        self.state = range(-library.header_size, -library.header_size + library.state_size, 8)
        self.cases: list[Case] = []

    def assemble(self, uses: Iterable[Use]) -> None:
        """Append each use with what leaves behind it."""
        self.program.functions.append(Function("main", self.program, 0, True, 1 << 40))
        leave = self.library["leave"]
        ops = self.program.ops
        for use in uses:
            self.positions.append(len(ops))
            values, labels = self.labelled(use, len(ops) + 2)
            self.uses.append(use)
            ops.append(Op(use.operation, use.form, values, None))
            ops += [Op(leave, leave.forms[0], (), None)] * (1 + labels)

    def labelled(self, use: Use, position: int) -> tuple[tuple[Value, ...], int]:
        """The operands of a use with labels for the operations from a position on; how many these are."""
        kinds = [accept.kind for accept in use.form.accepts]
        if "table" in kinds:
            table = Table(tuple(Label("", self.program, position + n) for n in range(LABELS)))
            return tuple(table if k == "table" else v for k, v in zip(kinds, use.values, strict=True)), LABELS
        label = Label("", self.program, position)
        values = tuple(label if k == "label" else v for k, v in zip(kinds, use.values, strict=True))
        return values, int("label" in kinds or use.operation.name == "jump_address")

    @cached_property
    def code(self) -> ForeignCode:
        """The program with its interpreter."""
        return ForeignCode(self.program)

    @cached_property
    def image(self) -> patch.Image:
        target = self.library.target
        return patch.encode(self.program, host.CODE_BASE, host.DATA_BASE, host.symbols(target))

    def failures(self, interpreted: bool = False) -> list[str]:
        """Run everything; what is not as expected, in words."""
        if interpreted:
            self.image = self.code.image
        if not self.cases:
            self.make_cases()
        return self.judged(self.cases, interpreted)

    # ---- cases

    def make_cases(self) -> None:
        """Cases of all uses, those with the same window together."""
        order = sorted(range(len(self.uses)), key=lambda n: self.uses[n].window)
        free, window, group = host.DATA_BASE + (1 << 24), 0, 0
        for number in order:
            use = self.uses[number]
            if use.window != window:
                free, window, group = self.after_window(free, window) + 4096, use.window, 0
            ends: set[tuple[int, int]] = set()
            for _ in range(self.runs):
                if 0 < window < FAR_BASE and group == max(1, window // self.stride):
                    free, group = self.after_window(free, window), 0
                case = self.new_case(number, use, free + self.below, ends)
                if case is not None:
                    self.cases.append(case)
                    free, group = free + self.stride, group + 1

    def after_window(self, free: int, window: int) -> int:
        """The first address behind a group of cases and their windows."""
        return free + (window + self.stride if window < FAR_BASE else 0)

    def new_case(self, number: int, use: Use, frame: int, ends: set[tuple[int, int]]) -> Case | None:
        """A case that ends in a way that is not in `ends`, if that is easily found. None: there is none at all."""
        found = None
        around = Memory(frame + 8 * NEAR, self.buffer(frame), self.order)  # type: ignore[arg-type]
        compute = meaning(use.operation)
        names = [item.name for item in use.operation.operands]
        for _ in range(TRIES):
            words = self.inputs(number, use, around)
            given = {
                name: words[at] if (at := self.offset(value)) is not None and at in words else value
                for name, value in zip(names, use.values, strict=True)
            }
            given = {name: word & MASK64 if isinstance(word, int) else 0 for name, word in given.items()}
            if given.get("offset", 0) >> 63 and size_of(use.operation):
                given["offset"] -= 1 << 64
            try:
                effect = compute(given, around)
            except IndexError:
                continue
            found = Case(number, frame, words, effect)
            end = (effect.way, effect.trap)
            if end not in ends:
                ends.add(end)
                break
        return found

    def offset(self, value: Value) -> int | None:
        """Where an operand lies in its frame; None if it does not."""
        if isinstance(value, Register):
            return self.library.home(value)
        return value.offset if isinstance(value, Slot) else None

    @staticmethod
    def buffer(frame: int) -> bytes:
        """What lies in the memory of a case beforehand."""
        return Random(frame).randbytes(BUFFER)

    def inputs(self, number: int, use: Use, around: Memory) -> dict[int, int]:
        """Words for the places that are read; the later operand wins where two share one."""
        words: dict[int, int] = {}
        places: dict[str, int] = {}
        random = self.random
        last: int | None = None
        for declared, value in zip(use.operation.operands, use.values, strict=True):
            if declared.kind not in ("in", "in/imm"):
                continue
            at = self.offset(value)
            word = random.choice(edges(declared.ctype))
            if random.random() < 0.2:
                word = random.getrandbits(64)
            if at is None:
                assert isinstance(value, int)
                if last is not None and random.random() < 0.3:
                    words[last] = value & MASK64
                continue
            if last is not None and random.random() < 0.25:
                word = words[last]
            if self.is_wide(declared.ctype, value):
                word &= 0xFFFF_FFFF
            words[at], places[declared.name], last = word, at, at
        if use.operation.name == "jump_address":
            words[places["address"]] = self.image.base + self.image.offsets[self.positions[number] + 2]
        elif use.operation.name == "jump_table":
            words[places["index"]] = self.index_of_table(use)
        elif size_of(use.operation):
            self.aim(use, words, places, around)
        return words

    def is_wide(self, ctype: str, value: Value) -> bool:
        return self.wide and ctype == "f32" and isinstance(value, Register)

    def index_of_table(self, use: Use) -> int:
        """One of a label, or beyond the table."""
        count = next(v for o, v in zip(use.operation.operands, use.values, strict=True) if o.name == "count")
        assert isinstance(count, int)
        inside = list(range(min(count & 0xFFFF_FFFF, LABELS)))
        return self.random.choice([*inside, *inside, *((count & 0xFFFF_FFFF) + n for n in (0, 1, 1 << 32)), MASK64])

    def aim(self, use: Use, words: dict[int, int], places: dict[str, int], around: Memory) -> None:
        """Let the operands of an access make an address in the buffer, or one beside what is allowed."""
        random, size, name = self.random, size_of(use.operation), use.operation.name
        given = dict(zip((item.name for item in use.operation.operands), use.values, strict=True))
        offset = given["offset"]
        assert isinstance(offset, int)
        goal = around.address + size * random.randrange(BUFFER // size) - offset
        base, index = places["base"], places.get("index")
        if name.endswith("_at"):
            scale = given["scale"]
            assert isinstance(scale, int) and index is not None
            if base == index:
                words[base] = solved(goal & MASK64, 1 + scale)
            else:
                words[index] = random.choice(INDICES)
                words[base] = goal - words[index] * scale & MASK64
        elif name.endswith("_checked"):
            assert index is not None
            number = random.choice((0, 7, 0xFFFF_FFFF, 1 << 31))
            end = number + offset + size
            words[places["size"]] = random.choice((end, end, end + 1, MASK64, end - 1)) & MASK64
            if base == index:
                low = (goal & 0xFFFF_FFFF) // 2
                words[base] = (goal - 2 * low & MASK64) + low & MASK64
            else:
                words[index] = number | random.choice((0, ABOVE))
                number = words[index] & 0xFFFF_FFFF
                words[base] = goal - number & MASK64
        else:
            words[base] = goal & MASK64
            if "expected" in places and places["expected"] != base and random.random() < 0.5:
                at = goal + offset - around.address
                words[places["expected"]] = int.from_bytes(around.data[at : at + size], around.order)

    # ---- memory before and after

    def judged(self, cases: Sequence[Case], interpreted: bool) -> list[str]:
        """Run some cases. Where the process dies, it is found out by halves of them which case does it."""
        try:
            return self.compared(cases, interpreted)
        except HostError as error:
            if len(cases) == 1:
                return [f"{self.described(cases[0])}: {error.message}"]
        middle = len(cases) // 2
        for half in (cases[:middle], cases[middle:]):
            found = self.judged(half, interpreted)
            if found:
                return found
        return []

    def compared(self, cases: Sequence[Case], interpreted: bool) -> list[str]:
        near, far = Space(self, cases, False), Space(self, cases, True)
        for case in cases:
            self.fill(case, near, far)
        segments = [Segment(self.image.base, self.image.code, "rx")]
        spaces = [space for space in (near, far) if space.before]
        segments += [Segment(space.start, bytes(space.before), "rw") for space in spaces]
        calls = [self.entered(case, interpreted) for case in cases]
        if interpreted:
            code = self.code
            segments.append(Segment(code.interpreter.base, code.interpreter.code, "rx"))
            segments.append(Segment(host.DATA_BASE, self.padded_records(), "rw"))
        dumps = [(space.start, len(space.before)) for space in spaces]
        report = host.run(self.library.target, HostImage(segments, calls, dumps), timeout=120)
        for space, dump in zip(spaces, report.dumps, strict=True):
            space.after = dump
        expected = [bytearray(space.before) for space in spaces]
        for space, data in zip(spaces, expected, strict=True):
            space.before = data
        wrong = {}
        for number, case in enumerate(cases):
            if text := self.settle(case, near, far):
                wrong[number] = text
        if not wrong and all(space.before == space.after for space in spaces):
            return []
        for number, case in enumerate(cases):
            if number not in wrong and (text := self.differences(case, near, far)):
                wrong[number] = text
        if not wrong:
            return ["memory that belongs to no case has changed"]
        return [f"{self.described(cases[number])}: {text}" for number, text in sorted(wrong.items())]

    def padded_records(self) -> bytes:
        """The interpreter's records as they lie at the beginning of the data."""
        return bytes(self.code.records_at - host.DATA_BASE) + self.code.records

    def entered(self, case: Case, interpreted: bool) -> host.Call:
        position = self.positions[case.use]
        if not interpreted:
            return host.Call(self.image.enter, (case.frame, self.image.base + self.image.offsets[position]))
        routine = interpret.routine(self.library, self.code.interpreter.routines, False)
        return host.Call(routine, (case.frame, self.code.records_at + interpret.RECORD_SIZE * position))

    @cached_property
    def template(self) -> bytes:
        """Context, header and slots of a case; all words differ."""
        words = len(self.state) + NEAR
        pattern = [(0xA5 + 7 * n & 0xFF) << 56 | n << 32 | 0x8000_0000 | n << 8 | 0x5A for n in range(words)]
        pack = struct.Struct(f"{self.mark}{words}Q").pack(*pattern)
        state, slots = pack[: 8 * len(self.state)], pack[8 * len(self.state) :]
        header = bytearray(layout.pack_header(self.library, state, 1000, 0))
        struct.pack_into(f"{self.mark}II", header, len(header) - 24, 0, CODE)
        return layout.pack_context(self.library) + bytes(header) + slots

    def fill(self, case: Case, near: Space, far: Space) -> None:
        """What lies in the memory of a case beforehand."""
        start = case.frame - self.below
        near.put(start, self.template + self.buffer(case.frame))
        near.word(case.frame - 8, start)
        window = self.uses[case.use].window
        if window:
            self.space(case, window, near, far).put(case.frame + window, bytes(range(0x30, 0x30 + 8 * FAR)))
        use = self.uses[case.use]
        for declared, value in zip(use.operation.operands, use.values, strict=True):
            at = self.offset(value)
            if at is not None and at in case.words and declared.kind != "out":
                word = case.words[at]
                if isinstance(value, Register) and declared.ctype == "f32":
                    word = widened(word) if self.wide else word | 0xFFFF_FFFF << 32
                self.space(case, at, near, far).word(case.frame + at, word)

    def space(self, case: Case, offset: int, near: Space, far: Space) -> Space:
        return far if offset >= FAR_BASE else near

    # ---- what is expected

    def settle(self, case: Case, near: Space, far: Space) -> str:
        """Write what a case is expected to change into the copy of its memory. Where more than one result is right, the
        actual one is taken; text: why it is wrong."""
        effect, frame = case.effect, case.frame
        start, position = frame - self.below, self.positions[case.use]
        if effect.returns:
            near.word(start + 16, effect.result or 0)
            near.word(frame + self.library.home(Register("r", 0)), effect.result or 0)
            return ""
        near.word(start, 1 if effect.trap is None else 2)
        near.word(start + 8, frame)
        near.word(start + 88, frame)
        at = position if effect.trap is not None else position + 1 + effect.way
        near.half(frame - 24, at)
        near.half(frame - 20, effect.trap or 0)
        if effect.stored:
            address, value, size = effect.stored
            near.put(address, value.to_bytes(size, self.order))  # type: ignore[arg-type]
        return self.settle_result(case, near, far) if effect.writes else ""

    def settle_result(self, case: Case, near: Space, far: Space) -> str:
        use = self.uses[case.use]
        number = next(n for n, item in enumerate(use.operation.operands) if item.kind == "out")
        ctype, value = use.operation.operands[number].ctype, use.values[number]
        offset = self.offset(value)
        assert offset is not None
        space, address, result = self.space(case, offset, near, far), case.frame + offset, case.effect.result
        actual = space.actual(address)
        float32, wide = ctype == "f32", self.is_wide(ctype, value)
        if result is None:
            low = actual & 0xFFFF_FFFF if float32 and not wide else actual
            if not is_nan("f64" if wide else ctype, low):
                return f"{value!r} is {actual:#x}, not a NaN"
            result = actual
        elif wide:
            result = widened(result)
        elif float32:
            result &= 0xFFFF_FFFF
            result |= (actual if isinstance(value, Register) else space.read(address)) >> 32 << 32
        space.word(address, result)
        return ""

    def differences(self, case: Case, near: Space, far: Space) -> str:
        """What of a case's memory is not as expected."""
        found = []
        names = {self.library.home(register): repr(register) for register in self.homes()}
        names |= {-self.library.header_size - layout.CONTEXT_SIZE + 8 * n: f"context.{name}"
                  for n, name in enumerate(layout.CONTEXT_FIELDS)}  # fmt: skip
        names |= {-32: "inner", -24: "op and code", -16: "depth and outer", -8: "context"}
        window = self.uses[case.use].window
        offsets = [*range(-self.below, 8 * NEAR + BUFFER, 8), *range(window, window + 8 * FAR if window else 0, 8)]
        for offset in offsets:
            space = self.space(case, offset, near, far)
            expected, actual = space.read(case.frame + offset), space.actual(case.frame + offset)
            if expected != actual:
                where = names.get(offset, f"slot({offset})" if offset < 8 * NEAR or offset >= window > 0 else "memory")
                found.append(f"{where} is {actual:#x}, not {expected:#x}")
        return "; ".join(found)

    def homes(self) -> list[Register]:
        return [Register(b, n) for b, numbers in self.library.registers.items() for n in range(len(numbers))]

    def described(self, case: Case) -> str:
        use = self.uses[case.use]
        shape = ", ".join(f"{a.kind}{f' {a.mask:#x}' if a.mask else f' {a.low}…{a.high}'}" for a in use.form.accepts)
        names = {self.library.home(register): repr(register) for register in self.homes()}
        given = ", ".join(f"{names.get(at, f'slot({at})')} = {word:#x}" for at, word in case.words.items())
        return f"{self.library.target.name} {use} [{shape}; same {use.form.same} differ {use.form.differ}] with {given}"


class Space:
    """A range of memory. before: its bytes, then what is expected of them; after: what they became."""

    def __init__(self, rig: Rig, cases: Sequence[Case], far: bool) -> None:
        spans = [
            (case.frame + window, 8 * FAR) if far else (case.frame - rig.below, rig.stride)
            for case in cases
            if not far or (window := rig.uses[case.use].window) >= FAR_BASE
        ]
        if not far:
            for case in cases:
                window = rig.uses[case.use].window
                if 0 < window < FAR_BASE:
                    spans.append((case.frame + window, 8 * FAR))
        self.start = min((at for at, _ in spans), default=0) & -host.PAGE
        self.before = bytearray(max((at + size for at, size in spans), default=self.start) - self.start)
        self.after = b""
        self.order = rig.order
        self._word, self._half = struct.Struct(f"{rig.mark}Q"), struct.Struct(f"{rig.mark}I")

    def put(self, address: int, data: bytes) -> None:
        self.before[address - self.start : address - self.start + len(data)] = data

    def word(self, address: int, value: int) -> None:
        self._word.pack_into(self.before, address - self.start, value)

    def half(self, address: int, value: int) -> None:
        self._half.pack_into(self.before, address - self.start, value)

    def read(self, address: int) -> int:
        return int(self._word.unpack_from(self.before, address - self.start)[0])

    def actual(self, address: int) -> int:
        return int(self._word.unpack_from(self.after, address - self.start)[0])


@cache
def edges(ctype: str) -> list[int]:
    """Words for an input of a type."""
    return edge_words(ctype)


def solved(product: int, factor: int) -> int:
    """A number that is `product` modulo 2**64 when it is multiplied by a factor; for an even one, about that."""
    if factor & 1:
        return product * pow(factor, -1, 1 << 64) & MASK64
    return product // factor
