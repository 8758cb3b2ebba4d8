"""Executes uses of operations one by one and compares everything that they may have touched.

Each use lies in the program with operations that leave behind it, one for each way it may go on:

    use      br_i64_lt_s  r[3], 127, label
             leave                            goes on
    label    leave                            taken

A case enters generated code at its use and leaves right behind it. So the header of its frame holds all registers
afterwards, and says where it left.

    A + i S          context | header with registers | slots 0 … 120 | memory     of case i
    …
    A + i S + O                                   a few slots more                where operands lie far up in the frame

All cases are entered in one start of the host program. What is expected is written into a copy of the memory; then both
are compared as a whole, so that nothing is overlooked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import chain
from random import Random

from cnp import frame as layout
from cnp import host, interpret, patch
from cnp.errors import HostError
from cnp.foreign import ForeignCode
from cnp.host import HostImage, Segment
from cnp.library import Library
from cnp.operands import Function, Label, Register, Slot, Table, Value
from cnp.program import Op, Program
from cnp.stencil import What
from tests.form_inputs import BUFFER, MASK32, TABLE, Case, Inputs, contents, place
from tests.form_meaning import widened
from tests.form_uses import FAR, NEAR, Use
from tests.reference import is_nan

FRAME = 1 << 40  #: bytes of slots that the program's function claims: any offset lies within
CASES_AT = host.DATA_BASE + (1 << 24)
FAR_BASE = 1 << 20  #: windows from here on have a segment of their own
GAP = 4096  #: between cases with different windows
MOST_DEATHS = 4
STALE = 0xC0DE  #: trap code in a header beforehand
WINDOW = bytes(range(0x30, 0x30 + 8 * FAR))  #: what lies in a window beforehand
CONTEXT = {"kind": 0, "frame": 8, "value": 16, "outermost": 88}  #: offsets of words that leaving writes


class Rig:
    """Uses as a program, with `runs` cases of each."""

    def __init__(self, library: Library, uses: Iterable[Use], random: Random, runs: int = 2) -> None:
        self.library, self.random, self.runs = library, random, runs
        self.order, self.mark = library.target.byteorder, layout.order(library)
        self.wide = "-DCNP_F32_IS_WIDE" in library.target.cflags
        self.program = Program(library, functions=[])
        self.program.functions.append(Function("main", self.program.labels, 0, True, FRAME))
        self.uses: list[Use] = []
        self.refused: list[str] = []  #: uses whose operands their own form cannot hold
        for use in uses:
            if wrong := self._misfit(use):
                self.refused.append(f"{self.library.target.name} {use} {wrong}")
            else:
                self.uses.append(use)
        self.deaths = 0
        self.positions: list[int] = []
        for use in self.uses:
            self._append(use)
        self.below = layout.CONTEXT_SIZE + library.header_size
        self.stride = (self.below + 8 * NEAR + BUFFER + 15) & -16
        self.template = self._template()
        self._word, self._halves = struct.Struct(f"{self.mark}Q"), struct.Struct(f"{self.mark}II")

    def failures(self, interpreted: bool = False) -> list[str]:
        """Run everything, in generated code or by the interpreter; what is not as expected, in words."""
        found = self._judged(self.cases, interpreted)
        return found if interpreted else self.refused + found

    # ---- the program

    def _append(self, use: Use) -> None:
        """A use and what leaves behind it."""
        ops, leave = self.program.ops, self.library["leave"]
        self.positions.append(len(ops))
        kinds = [accept.kind for accept in use.form.accepts]
        labels = TABLE if "table" in kinds else int("label" in kinds or use.operation.name == "jump_address")
        goals = tuple(Label("", self.program.labels, len(ops) + 2 + n) for n in range(labels))
        given: dict[str, Value] = {"table": Table(goals), "label": goals[0]} if goals else {}
        values = tuple(given.get(kind, value) for kind, value in zip(kinds, use.values, strict=True))
        ops.append(Op(use.operation, use.form, values, None))
        ops += [Op(leave, leave.forms[0], (), None)] * (1 + labels)

    def _misfit(self, use: Use) -> str:
        """Which hole of a form cannot hold its operand."""
        for block in use.form.near.blocks:
            for hole in block.holes:
                value = use.values[hole.index] if hole.what is What.OPERAND else None
                number = self.library.number(value) if isinstance(value, Register) else value
                number = number.offset if isinstance(number, Slot) else number
                fld = self.library.target.fields[hole.field]
                if isinstance(number, int) and not fld.fits(fld.value(number, hole.addend, 0)):
                    return f"has no room for {value!r} in hole {hole.offset} ({hole.field})"
        return ""

    @cached_property
    def code(self) -> ForeignCode:
        """The program with what the interpreter needs."""
        return ForeignCode(self.program)

    @cached_property
    def image(self) -> patch.Image:
        return patch.encode(self.program, host.CODE_BASE, host.DATA_BASE, host.symbols(self.library.target))

    def _entered(self, case: Case, interpreted: bool) -> host.Call:
        """The call that runs a case."""
        position = self.positions[case.use]
        if not interpreted:
            return host.Call(self.image.enter, (case.frame, self.image.base + self.image.offsets[position]))
        routine = interpret.routine(self.library, self.code.interpreter.routines, False)
        return host.Call(routine, (case.frame, self.code.records_at + interpret.RECORD_SIZE * position))

    # ---- cases

    @cached_property
    def cases(self) -> list[Case]:
        """Cases of all uses, those with the same window together."""
        found: list[Case] = []
        free, window, group = CASES_AT, 0, 0
        for number in sorted(range(len(self.uses)), key=lambda n: self.uses[n].window):
            use = self.uses[number]
            if use.window != window:
                free, window, group = self._after_window(free, window) + GAP, use.window, 0
            goal = self.image.base + self.image.offsets[self.positions[number] + 1]
            if use.operation.name == "jump_address":
                goal = self.image.base + self.image.offsets[self.positions[number] + 2]
            inputs = Inputs(self.library, self.random, number, use, goal)
            for _ in range(self.runs):
                if 0 < window < FAR_BASE and group == max(1, window // self.stride):
                    free, group = self._after_window(free, window), 0
                case = inputs.case(free + self.below)
                if case is not None:
                    found.append(case)
                    free, group = free + self.stride, group + 1
        return found

    def _after_window(self, free: int, window: int) -> int:
        """The first address behind a group of cases and their windows."""
        return free + (window + self.stride if 0 < window < FAR_BASE else 0)

    def idle(self) -> list[Use]:
        """Uses for which no inputs could be found."""
        busy = {case.use for case in self.cases}
        return [use for number, use in enumerate(self.uses) if number not in busy]

    # ---- run and compare

    def _judged(self, cases: Sequence[Case], interpreted: bool) -> list[str]:
        """Run some cases. Where the process dies, halves of them tell which case does it; not of many deaths."""
        if self.deaths >= MOST_DEATHS:
            return ["the process died so often that not all cases were looked at"]
        try:
            return self._compared(cases, interpreted)
        except HostError as error:
            if len(cases) == 1:
                self.deaths += 1
                return [f"{self.described(cases[0])}: {error.message}"]
        middle = len(cases) // 2
        return self._judged(cases[:middle], interpreted) + self._judged(cases[middle:], interpreted)

    def _compared(self, cases: Sequence[Case], interpreted: bool) -> list[str]:
        space = Space(self, cases)
        for case in cases:
            self._fill(case, space)
        calls = [self._entered(case, interpreted) for case in cases]
        image = HostImage(self._segments(space, interpreted), calls, space.ranges())
        space.run(self.library, image)
        wrong: dict[int, str] = {}
        for number, case in enumerate(cases):
            if text := self._expect(case, space):
                wrong[number] = text
        if not wrong and not space.differs():
            return []
        for number, case in enumerate(cases):
            if number not in wrong and (text := self._differences(case, space)):
                wrong[number] = text
        if not wrong:
            return [f"{self.library.target.name}: memory that belongs to no case has changed"]
        return [f"{self.described(cases[number])}: {text}" for number, text in sorted(wrong.items())]

    def _segments(self, space: Space, interpreted: bool) -> list[Segment]:
        segments = [Segment(self.image.base, self.image.code, "rx"), *space.segments()]
        if interpreted:
            code = self.code
            records = bytes(code.records_at - host.DATA_BASE) + code.records
            if host.DATA_BASE + len(records) > CASES_AT:
                raise OverflowError(f"{len(records)} bytes of records reach into the cases")
            segments.append(Segment(code.interpreter.base, code.interpreter.code, "rx"))
            segments.append(Segment(host.DATA_BASE, records, "rw"))
        return segments

    # ---- memory beforehand

    def _template(self) -> bytes:
        """Context, header and slots of a case; all words differ."""
        words = self.library.state_size // 8 + NEAR
        pattern = [(0xA5 + 7 * n & 0xFF) << 56 | n << 32 | 0x8000_0000 | n << 8 | 0x5A for n in range(words)]
        data = struct.pack(f"{self.mark}{words}Q", *pattern)
        header = bytearray(layout.pack_header(self.library, data[: self.library.state_size], 1000, 0))
        struct.pack_into(f"{self.mark}II", header, len(header) - 24, MASK32, STALE)
        return layout.pack_context(self.library) + bytes(header) + data[self.library.state_size :]

    def _fill(self, case: Case, space: Space) -> None:
        start, use = case.frame - self.below, self.uses[case.use]
        space.put(start, self.template + contents(case.frame))
        space.word(case.frame - 8, start)
        if use.window:
            space.put(case.frame + use.window, WINDOW)
        for declared, value in zip(use.operation.operands, use.values, strict=True):
            at = place(self.library, value)
            if at in case.words and declared.kind != "out":
                word = case.words[at]
                if declared.ctype == "f32" and isinstance(value, Register):
                    word = widened(word) if self.wide else word | MASK32 << 32
                space.word(case.frame + at, word)

    # ---- memory afterwards

    def _expect(self, case: Case, space: Space) -> str:
        """Write what a case is to change into the copy of its memory. Where more than one result is right, the actual one
        is taken, if it is: else the answer says what is wrong."""
        effect, frame = case.effect, case.frame
        start, position = frame - self.below, self.positions[case.use]
        if effect.returns:
            space.word(start + CONTEXT["value"], effect.result or 0)
            home = frame + self.library.home(Register("r", 0))
            space.word(home, space.actual(home))  # the result: it is in the context
            return ""
        space.word(start + CONTEXT["kind"], 1 if effect.trap is None else 2)
        space.word(start + CONTEXT["frame"], frame)
        space.word(start + CONTEXT["outermost"], frame)
        left = position if effect.trap is not None else position + 1 + effect.way
        space.put(frame - 24, self._halves.pack(left, effect.trap or 0))
        if effect.stored:
            address, value, size = effect.stored
            space.put(address, value.to_bytes(size, self.order))  # type: ignore[arg-type]
        return self._expect_result(case, space) if effect.writes else ""

    def _expect_result(self, case: Case, space: Space) -> str:
        use = self.uses[case.use]
        number = next(n for n, item in enumerate(use.operation.operands) if item.kind == "out")
        ctype, value = use.operation.operands[number].ctype, use.values[number]
        offset = place(self.library, value)
        if offset is None:
            raise TypeError(f"{use} writes to {value!r}")
        address, result = case.frame + offset, case.effect.result
        actual, in_register = space.actual(address), isinstance(value, Register)
        wide, half = self.wide and in_register and ctype == "f32", ctype == "f32"
        if result is None:
            if not is_nan("f64" if wide else ctype, actual & MASK32 if half and not wide else actual):
                return f"{value!r} is {actual:#x}, not a NaN"
            result = actual & MASK32 if half and not wide else actual
        elif wide:
            result = widened(result)
        if half and not wide:  # a slot keeps its upper half, in a register nobody looks at it
            above = actual if in_register else space.expected(address)
            result = above >> 32 << 32 | result & MASK32
        space.word(address, result)
        return ""

    # ---- what went wrong

    def _differences(self, case: Case, space: Space) -> str:
        """What of a case's memory is not as expected."""
        window = self.uses[case.use].window
        start, end = case.frame - self.below, case.frame + 8 * NEAR + BUFFER
        if not space.differs(start, end - start) and not (
            window and space.differs(case.frame + window, 8 * FAR)
        ):
            return ""
        found = []
        far = range(window, window + 8 * FAR, 8) if window else range(0)
        for offset in chain(range(-self.below, end - case.frame, 8), far):
            expected, actual = space.expected(case.frame + offset), space.actual(case.frame + offset)
            if expected != actual:
                found.append(f"{self._name(offset)} is {actual:#x}, not {expected:#x}")
        return "; ".join(found)

    def _name(self, offset: int) -> str:
        """What lies at an offset in a frame."""
        if 8 * NEAR <= offset < 8 * NEAR + BUFFER:
            return f"memory + {offset - 8 * NEAR}"
        return self._names.get(offset, f"slot({offset})")

    @cached_property
    def _names(self) -> dict[int, str]:
        names = {8 * n - self.below: f"context.{name}" for n, name in enumerate(layout.CONTEXT_FIELDS)}
        for bank, numbers in self.library.registers.items():
            names |= {self.library.home(Register(bank, n)): f"{bank}[{n}]" for n in range(len(numbers))}
        return names | {-32: "inner", -24: "op and code", -16: "depth and outer", -8: "context"}

    def described(self, case: Case) -> str:
        """A case in words: operation, operands, form, inputs."""
        use = self.uses[case.use]
        shape = ", ".join(
            f"{a.kind} {hex(a.mask) if a.mask else f'{a.low}…{a.high}'}" for a in use.form.accepts
        )
        given = ", ".join(f"{self._name(at)} = {word:#x}" for at, word in case.words.items())
        ties = f"same {use.form.same} differ {use.form.differ}"
        return f"{self.library.target.name} {use} [{shape}; {ties}] with {given}"


class Part:
    """A range of memory. before: its bytes, then what is expected of them; after: what they became."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self.start = min(at for at, _ in spans) & -host.PAGE
        self.end = max(at + size for at, size in spans)
        self.before = bytearray(self.end - self.start)
        self.after = b""


class Space:
    """The memory of some cases: near their frames, and where windows lie far above them."""

    def __init__(self, rig: Rig, cases: Sequence[Case]) -> None:
        near = [(case.frame - rig.below, rig.stride) for case in cases]
        windows = [(case.frame + w, w) for case in cases if (w := rig.uses[case.use].window)]
        near += [(at, 8 * FAR) for at, window in windows if window < FAR_BASE]
        far = [(at, 8 * FAR) for at, window in windows if window >= FAR_BASE]
        self.parts = [Part(spans) for spans in (near, far) if spans]
        self.near, self.limit = self.parts[0], self.parts[0].end
        self._word = struct.Struct(f"{rig.mark}Q")

    def _part(self, address: int) -> Part:
        return self.near if address < self.limit else self.parts[-1]

    def put(self, address: int, data: bytes) -> None:
        """Set bytes."""
        part = self._part(address)
        part.before[address - part.start : address - part.start + len(data)] = data

    def word(self, address: int, value: int) -> None:
        """Set a word."""
        part = self._part(address)
        self._word.pack_into(part.before, address - part.start, value)

    def expected(self, address: int) -> int:
        part = self._part(address)
        return int(self._word.unpack_from(part.before, address - part.start)[0])

    def actual(self, address: int) -> int:
        part = self._part(address)
        return int(self._word.unpack_from(part.after, address - part.start)[0])

    def segments(self) -> list[Segment]:
        return [Segment(part.start, bytes(part.before), "rw") for part in self.parts]

    def ranges(self) -> list[tuple[int, int]]:
        return [(part.start, len(part.before)) for part in self.parts]

    def run(self, library: Library, image: HostImage) -> None:
        """Run an image that dumps these ranges."""
        for part, dump in zip(self.parts, host.run(library.target, image, timeout=30).dumps, strict=True):
            part.after = dump

    def differs(self, address: int | None = None, size: int = 0) -> bool:
        """Whether a range is not as expected; without an address, all of it."""
        if address is None:
            return any(part.before != part.after for part in self.parts)
        part = self._part(address)
        at = address - part.start
        return part.before[at : at + size] != part.after[at : at + size]
