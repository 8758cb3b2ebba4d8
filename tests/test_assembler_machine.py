"""Arbitrary calls of the assembler, also wrong ones: only documented exceptions come out, what was refused left nothing
behind, and what links runs as a model says.

The model knows no positions: its labels point at its operations. So it can only agree if edits move positions rightly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import cnp
from cnp import LabelError, OperandError, SignatureError, StateError, Symbol, r, slot, targets
from cnp.emit import RECORD
from cnp.foreign import Call, ForeignCode
from cnp.runtime import installed
from tests.support import runnable

MASK = (1 << 64) - 1
STEPS = 300  #: of a run, after which the model does not know
SLOTS = (0, 8, 16)
ENDS = ("ret", "jump", "trap")
IMPORTS = {"cnp_poll": 0x1230}


@dataclass(eq=False)
class Item:
    """An operation of the model. size: operations of the assembler that it became."""

    name: str
    operands: tuple[Any, ...]
    size: int = 1


END = Item("end", ())


@dataclass(eq=False)
class Mark:
    """A label of the model with the real one. target: None where it is not bound."""

    label: cnp.Label
    target: Item | None = None


@dataclass(eq=False)
class Body:
    """A function of the model."""

    name: str
    frame: int
    items: list[Item] = field(default_factory=list)


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


class Machine(RuleBasedStateMachine):
    """asm is what is tested; bodies, marks and data are what it should be."""

    @initialize(machine=st.sampled_from(list(targets.TARGETS)))
    def begin(self, machine: str) -> None:
        self.vocabulary = cnp.load(installed("ops", runnable(machine).name))
        self.asm = self.vocabulary.assembler()
        self.other = self.vocabulary.assembler()
        self.forget()
        self.function(24)

    def forget(self) -> None:
        self.bodies: list[Body] = []
        self.marks: list[Mark] = []
        self.locals: dict[int, Mark] = {}
        self.pending: dict[int, Mark] = {}
        self.words: list[tuple[cnp.DataLabel, int]] = []
        self.closed = self.by_record = False

    # ---- the model

    def items(self) -> list[Item]:
        return [item for body in self.bodies for item in body.items]

    def start(self, number: int) -> int:
        """Position of the function of a number."""
        return sum(item.size for body in self.bodies[:number] for item in body.items)

    def size(self) -> int:
        return self.start(len(self.bodies))

    def place(self, position: int) -> tuple[Body, int] | None:
        """Where an operation inserted at a position goes; None within one that was composed."""
        number = max(n for n in range(len(self.bodies)) if self.start(n) <= position)
        at, index = self.start(number), 0
        for item in self.bodies[number].items:
            if at >= position:
                break
            at, index = at + item.size, index + 1
        return (self.bodies[number], index) if at == position else None

    def problem(self) -> bool:
        """Whether linking must refuse the program."""
        order = {item: number for number, body in enumerate(self.bodies) for item in body.items}
        for number, body in enumerate(self.bodies):
            if not self.ends(body):
                return True
            for item in body.items:
                for mark in (o for o in item.operands if isinstance(o, Mark)):
                    if mark.target is None or mark.target is END:
                        return True
                    if self.bodies[order[mark.target]].frame > self.bodies[number].frame:
                        return True
        return False

    def ends(self, body: Body) -> bool:
        """Whether a function has operations and does not run off its end."""
        return bool(body.items) and body.items[-1].name in ENDS

    def expected(self, body: Body) -> tuple[str, int] | None:
        """How a run of a function ends; None: it takes too long."""
        items, words = self.items(), dict.fromkeys((*SLOTS, r[1], r[2]), 0)
        at = items.index(body.items[0])
        for _ in range(STEPS):
            name, given = items[at].name, items[at].operands
            a: list[Any] = [words[o.offset] if isinstance(o, cnp.Slot) else words.get(o, o) for o in given]
            at += 1
            to: Any = (
                given[0].offset if given and isinstance(given[0], cnp.Slot) else given[0] if given else None
            )
            match name:
                case "i64_add":
                    words[to] = (a[1] + a[2]) & MASK
                case "i64_move":
                    words[to] = a[1] & MASK
                case "i64_rotl":
                    turn = a[2] % 64
                    words[to] = (a[1] << turn | a[1] >> 64 - turn) & MASK
                case "word":
                    words[to] = dict(self.words)[a[1]]
                case "br_i64_lt_s":
                    at = items.index(a[2].target) if signed(a[0]) < a[1] else at
                case "jump":
                    at = items.index(a[0].target)
                case "ret":
                    return "return", a[0]
                case "trap":
                    return "trap", a[0]
        return None

    # ---- right calls

    @rule(frame=st.sampled_from([24, 24, 32]))
    def function(self, frame: int) -> None:
        if self.refused_if_closed(lambda: self.asm.function("late", 24)):
            return
        if self.bodies and not self.ends(self.bodies[-1]):
            self.append("ret", slot(0))
        name = f"f{len(self.bodies)}"
        self.asm.function(name, frame)
        self.bodies.append(Body(name, frame))

    def refused_if_closed(self, call: Callable[[], object]) -> bool:
        """Whether the program is closed, so that a call is refused."""
        if self.closed:
            refuse(StateError, call)
        return self.closed

    def append(self, name: str, *operands: Any) -> None:
        """The same operation at the end of both."""
        if self.refused_if_closed(lambda: self.asm.leave()):
            return
        position = self.emit(name, operands)
        item = Item(name, operands, len(self.asm.ops) - position)
        for mark in self.marks:
            if mark.target is END:
                mark.target = item
        self.bodies[-1].items.append(item)
        assert position == self.size() - item.size

    def emit(self, name: str, operands: tuple[Any, ...]) -> int:
        given = tuple(map(real, operands))
        if self.by_record:
            try:
                return self.asm.extend(record(self.asm, name, given))
            except OperandError:
                pass  # it has to be composed
        return self.asm.op(name, *given)

    @rule(data=st.data(), by_record=st.booleans())
    def computation(self, data: st.DataObject, by_record: bool) -> None:
        self.by_record = by_record
        self.append(*self.drawn(data))
        self.by_record = False

    @rule(data=st.data(), alignment=st.sampled_from([1, 2, 16, 64]))
    def cold_and_aligned(self, data: st.DataObject, alignment: int) -> None:
        if self.refused_if_closed(lambda: self.asm.align(alignment)):
            return
        with self.asm.cold():
            self.asm.align(alignment)
            self.append(*self.drawn(data))

    def drawn(self, data: st.DataObject) -> tuple[Any, ...]:
        """Any operation of the model."""
        numbers = st.sampled_from([0, 1, -1, 5, 70000, 1 << 40, -(1 << 63)])
        slots = st.sampled_from([slot(offset) for offset in SLOTS])
        places: st.SearchStrategy[Any] = st.one_of(slots, st.sampled_from([r[1], r[2]]))
        some = [
            st.tuples(st.just("i64_add"), slots, slots, st.one_of(slots, numbers)),
            st.tuples(st.just("i64_move"), places, st.one_of(slots, numbers)),
            st.tuples(st.just("i64_move"), slots, places),
            st.just(("i64_rotl", r[1], r[2], 70000)),
            st.tuples(st.just("ret"), slots),
            st.tuples(st.just("trap"), st.sampled_from([99, 100])),
        ]
        if self.marks:
            marks = st.sampled_from(self.marks)
            some += [
                st.tuples(st.just("br_i64_lt_s"), slots, st.sampled_from([0, 1, 5]), marks),
                st.tuples(st.just("jump"), marks),
            ]
        found: tuple[Any, ...] = data.draw(st.one_of(some))
        return found

    @rule(bind=st.booleans(), name=st.sampled_from(["", "a", "b"]))
    def label(self, bind: bool, name: str) -> None:
        if self.refused_if_closed(lambda: self.asm.bind(self.asm.label())):
            return
        known = next((m for m in self.marks if name and m.label.name == name), None)
        mark = known or Mark(self.asm[name] if name else self.asm.label())
        assert not name or mark.label is self.asm[name]
        if known is None:
            self.marks.append(mark)
        if bind and mark.target is None:
            self.asm.bind(mark.label)
            mark.target = END
        elif bind:
            refuse(LabelError, lambda: self.asm.bind(mark.label))

    @rule(number=st.integers(0, 2), way=st.sampled_from(["bind", "forward", "backward"]))
    def local(self, number: int, way: str) -> None:
        if way == "backward":
            if number in self.locals:
                assert self.asm.backward(number) is self.locals[number].label
            else:
                refuse(LabelError, lambda: self.asm.backward(number))
        elif way == "forward":
            label = self.asm.forward(number)
            if number in self.pending:
                assert self.pending[number].label is label
            else:
                self.pending[number] = Mark(label)
                self.marks.append(self.pending[number])
        elif not self.refused_if_closed(lambda: self.asm.local(number)):
            label = self.asm.local(number)
            mark = self.pending.pop(number, None)
            if mark is None:
                mark = Mark(label)
                self.marks.append(mark)
            assert mark.label is label
            mark.target, self.locals[number] = END, mark

    @precondition(lambda self: not self.closed and self.items())
    @rule(data=st.data())
    def by_position(self, data: st.DataObject) -> None:
        """A jump to an operation by its position."""
        items = self.items()
        number = data.draw(st.integers(0, len(items) - 1))
        position = sum(item.size for item in items[:number])
        at = self.asm.jump(position)
        mark = Mark(self.asm.ops[at].values[0], items[number])  # type: ignore[arg-type]
        item = Item("jump", (mark,))
        for other in self.marks:
            if other.target is END:
                other.target = item
        self.bodies[-1].items.append(item)
        self.marks.append(mark)

    @rule(value=st.integers(0, MASK), to=st.sampled_from(SLOTS), writable=st.booleans())
    def word(self, value: int, to: int, writable: bool) -> None:
        """A word of data, and an operation that reads it."""
        section = self.asm.data if writable else self.asm.rodata
        if self.refused_if_closed(lambda: section.u64(value)):
            return
        section.align(8)
        label = section.here()
        section.u64(value)
        self.words.append((label, value))
        self.append("i64_move", slot(to), label)
        self.items()[-1].name = "word"
        self.items()[-1].operands = (slot(to), label)
        load = self.asm.ops.insert(len(self.asm.ops), "i64_load", slot(to), slot(to), 0)
        self.bodies[-1].items[-1].size += 1
        assert load == self.size() - 1

    # ---- edits

    @rule(data=st.data(), first=st.booleans())
    def insert(self, data: st.DataObject, first: bool) -> None:
        position = data.draw(st.integers(-1, self.size() + 1))
        name, *operands = self.drawn(data)

        def call() -> None:
            self.asm.ops.insert(position, name, *map(real, operands), first=first)

        if self.refused_if_closed(call):
            return
        if not 0 <= position <= self.size() or self.within(position):
            refuse(OperandError, call)
            return
        if (found := self.place(position)) is None:
            return  # within a word, which stays whole
        body, index = found
        before = len(self.asm.ops)
        call()
        item = Item(name, tuple(operands), len(self.asm.ops) - before)
        following = self.following(position)
        if first:
            for mark in self.marks:
                if mark.target is following:
                    mark.target = item
        body.items.insert(index, item)

    def following(self, position: int) -> Item:
        """The operation that stands at a position, if one does."""
        at = 0
        for item in self.items():
            if at == position:
                return item
            at += item.size
        return END

    def within(self, position: int) -> bool:
        """Whether a position is inside of what the assembler composed; the word's load may be edited on its own."""
        extents = (self.asm.program.composition_at(position),) if position < len(self.asm.ops) else ()
        return any(whole and position != whole.start for whole in extents)

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(-1, self.size()))
        if self.refused_if_closed(lambda: self.asm.ops.__delitem__(position)):
            return
        if not 0 <= position < self.size() or self.within(position):
            refuse(OperandError, lambda: self.asm.ops.__delitem__(position))
            return
        if (found := self.place(position)) is None:
            return
        item = self.following(position)
        del self.asm.ops[position : position + item.size]
        items = self.items()
        follower = items[items.index(item) + 1] if item is not items[-1] else END
        for mark in self.marks:
            if mark.target is item:
                mark.target = follower
        found[0].items.pop(found[1])

    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(-1, self.size()))
        name, *operands = self.drawn(data)

        def call() -> None:
            self.asm.ops.replace(position, name, *map(real, operands))

        if self.refused_if_closed(call):
            return
        if not 0 <= position < self.size() or self.within(position):
            refuse(OperandError, call)
            return
        item, found = self.following(position), self.place(position)
        if item.name == "word" or found is None:
            return  # two operations, of which only one would go
        before = len(self.asm.ops)
        call()
        new = Item(name, tuple(operands), item.size + len(self.asm.ops) - before)
        for mark in self.marks:
            if mark.target is item:
                mark.target = new
        found[0].items[found[1]] = new

    # ---- wrong calls

    @rule(number=st.integers(0, 100))
    def wrong(self, number: int) -> None:
        """Each is refused with the exception that its docstring names, and changes nothing: the invariants see to it."""
        asm, theirs = self.asm, self.other.label("theirs")
        wrong: list[tuple[type[cnp.CnpError], Callable[[], object]]] = [
            (OperandError, lambda: asm.op("nothing")),
            (OperandError, lambda: asm.op("i64_add", slot(0))),
            (OperandError, lambda: asm.op("i64_add", slot(0), slot(8), 1.5)),
            (OperandError, lambda: asm.op("i64_add", slot(0), slot(8), 1 << 64)),
            (OperandError, lambda: asm.op("i64_move", 5, slot(0))),
            (LabelError, lambda: asm.jump(theirs)),
            (LabelError, lambda: asm.i64_move(slot(0), theirs + 4)),
            (LabelError, lambda: asm.bind(theirs)),
            (LabelError, lambda: asm.rodata.address(theirs)),
            (LabelError, lambda: asm.export("x", theirs)),
            (LabelError, lambda: asm.function("f0", 24)),
            (OperandError, lambda: asm.function("new", 12)),
            (OperandError, lambda: asm.align(3)),
            (OperandError, lambda: asm.rodata.align(8192)),
            (OperandError, lambda: asm.data.u8(256)),
            (OperandError, lambda: asm.data.space(-1)),
            (OperandError, lambda: asm.rodata.address(asm["f0"], size=3)),
            (OperandError, lambda: asm.i64_move(slot(64), 1)),
            (OperandError, lambda: asm.encode_into(b"", 0)),
            (cnp.RangeError, lambda: asm.encode(8)),
            (OperandError, lambda: asm.lazy("x", asm["f0"], 4)),  # type: ignore[arg-type]
            (OperandError, lambda: asm.cell(1 << 64)),
            (OperandError, lambda: asm.extend(b"short")),
            (OperandError, lambda: asm.extend(RECORD.pack(65535, *[0] * 8))),
            (OperandError, lambda: asm.operand(1.5)),
            (LabelError, lambda: asm.operand(theirs)),
            (OperandError, lambda: asm.table(None)),  # type: ignore[arg-type]
            (OperandError, lambda: asm.begin(theirs)),  # type: ignore[arg-type]
            (OperandError, lambda: asm.bind(asm.data.label())),  # type: ignore[arg-type]
            (OperandError, lambda: asm.memory(5, r[1])),  # type: ignore[arg-type]
            (OperandError, lambda: asm.invoke("int(int)", Symbol("x"), slot(0), None)),
            (OperandError, lambda: asm.invoke("void()", Symbol("x"), slot(8), None)),
            (SignatureError, lambda: asm.invoke("what", Symbol("x"), slot(0), None)),
        ]
        expected, call = wrong[number % len(wrong)]
        refuse((expected, StateError, LabelError) if self.closed or self.problem() else expected, call)

    # ---- the end

    def runs(self, code: ForeignCode) -> None:
        """All functions, by generated code and by the interpreter."""
        expected = [(body, end) for body in self.bodies if (end := self.expected(body))]
        calls = [Call(body.name, interpret=way) for body, _ in expected for way in (False, True)]
        results = code.run(calls).results if calls else []
        for number, result in enumerate(results):
            body, (kind, value) = expected[number // 2]
            found = result.value if kind == "return" else result.code
            assert (result.kind, found) == (kind, value), (body.name, calls[number].interpret)

    def complete(self) -> None:
        """Bind what is bound to nothing, and end the last function."""
        for number in list(self.pending):
            self.local(number, "bind")
        for mark in self.marks:
            if mark.target is None:
                self.asm.bind(mark.label)
                mark.target = END
        self.append("ret", slot(8))

    @rule(base=st.sampled_from([0x4000_0000, 0x4000_0010, 0x5000_0000]), complete=st.booleans())
    def link(self, base: int, complete: bool) -> None:
        """At any time: what links runs as the model says, what does not is refused."""
        if complete and not self.closed:
            self.complete()
        if self.problem():
            refuse(LabelError, self.asm.program.check)
            refuse(LabelError, lambda: self.asm.encode(base))
            return
        self.asm.program.check()
        if self.pending:
            refuse(LabelError, self.asm.check)
        else:
            sizes, code = self.asm.link(), bytearray(1 << 20)
            image = self.asm.encode_into(code, base, bytearray(1 << 16))
            assert len(image.code) <= sizes.code and len(image.data) <= sizes.data
        self.runs(ForeignCode(self.asm.program))

    @precondition(lambda self: not self.closed and not self.problem())
    @rule()
    def close(self) -> None:
        self.asm.close()
        self.closed = True

    @precondition(lambda self: self.closed)
    @rule()
    def reset(self) -> None:
        old = self.asm["f0"]
        self.asm.reset()
        self.forget()
        self.function(24)
        refuse(LabelError, lambda: self.asm.jump(old))

    @invariant()
    def agreement(self) -> None:
        """Operations, functions and labels are where the model has them."""
        if not hasattr(self, "asm"):
            return
        names: list[str] = []
        for item in self.items():
            names += ["i64_move", "i64_load"] if item.name == "word" else [item.name] * item.size
        found = [op.operation.name for op in self.asm.ops]
        assert len(found) == len(names)
        composed = {p for at, n in self.asm.program.composed.items() for p in range(at, at + n)}
        assert all(a == b for p, (a, b) in enumerate(zip(found, names, strict=True)) if p not in composed)
        assert [f.position for f in self.asm.program.functions] == list(
            map(self.start, range(len(self.bodies)))
        )
        positions, at = {END: self.size()}, 0
        for item in self.items():
            positions[item] = at
            at += item.size
        for mark in self.marks:
            assert mark.label.position == (None if mark.target is None else positions[mark.target])


def real(operand: Any) -> Any:
    """An operand of the model as the assembler takes it."""
    return operand.label if isinstance(operand, Mark) else operand


def record(asm: cnp.Assembler, name: str, operands: tuple[Any, ...]) -> bytes:
    """An operation as a record."""
    found = [asm.operand(operand) for operand in operands]
    kinds = sum(kind << 4 * n for n, (kind, _) in enumerate(found))
    words = [word for _, word in found] + [0] * (6 - len(found))
    return RECORD.pack(asm.library[name].index, 0, kinds, *words)


def refuse(expected: type[cnp.CnpError] | tuple[type[cnp.CnpError], ...], call: Callable[[], object]) -> None:
    """A call that must be refused."""
    with pytest.raises(expected) as caught:
        call()
    assert caught.value.message and caught.value.evidence


Machine.TestCase.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestAssembler = Machine.TestCase
