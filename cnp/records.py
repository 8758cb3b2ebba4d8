"""Operations as records of 32 bytes (cnp/core/cnp_core.h draws them): operands as kinds and words, and back.

    r[1], slot(8), label  --Things--> (R, 1), (SLOT, 8), (LABEL, 0)      what a record names has a number
    records               --check---> Op                                 `read`: in Python; the core does the same
                          --Records-> the core's, which chooses forms    where it is there

`Records` holds a program under construction as long as operations are only appended and the core knows all their
operands. While the core works the GIL is released; who comes in between is refused with StateError.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, cast

from cnp import native
from cnp.core_library import core, core_library
from cnp.emit import (
    CELL,
    FUNCTION,
    HOME,
    LABEL,
    NUMBER,
    POSITION,
    RECORD,
    SLOT,
    SYMBOL,
    TABLE,
    TABLED,
    UNSIGNED,
    WIDE_KIND,
    Batch,
    F,
    R,
)
from cnp.errors import LabelError, OperandError, StateError
from cnp.labels import Labels
from cnp.library import Library
from cnp.operands import (
    At,
    Cell,
    DataLabel,
    Function,
    Label,
    Lazy,
    Offset,
    Place,
    Register,
    Slot,
    Symbol,
    Table,
    Value,
)
from cnp.program import Op, Program, check_slots
from cnp.sections import DATA, RODATA
from cnp.stencil import Accept, Form, Operation

NEAR = 0x7FFF  #: bits of a record's form that are its number
CHUNK = 4096  #: records that are copied, then read by the core
WHICH = struct.Struct("@PHB6s0P")  #: `struct recorded` of cnp/_record.c
HALVES = {WIDE_KIND: struct.Struct("=q"), UNSIGNED: struct.Struct("=Q")}  #: words 4 and 5 as a number
PAIR = struct.Struct("=2i")
MOST_WIDE = 4  #: operands beside which one number has room for 64 bits
OBJECTS = {
    "f32",
    "f64",
    "cell",
    "table",
    "symbol",
    "func",
}  #: kinds of which a plain number is none, as it stands
TAKES_NUMBERS, TAKES_POSITIONS, TAKES_THINGS = 1, 2, 4
PLAIN = frozenset((SLOT, HOME, R, F))  #: kinds whose word is all there is to know


@lru_cache(maxsize=1 << 14)
def plain(kind: int, word: int) -> Slot | Register:
    """The operand of a plain kind: there are few of them in a program."""
    return Slot(word) if kind in (SLOT, HOME) else Register("r" if kind == R else "f", word)


class UnknownError(Exception):
    """A record cannot say this value."""


def is_late(value: object) -> bool:
    """Whether this is a place in data, or beside one there or in code: the core takes it for a symbol, whose address is known
    once the code is laid out."""
    return isinstance(value, DataLabel) or (
        isinstance(value, Offset) and isinstance(value.place, (Label, DataLabel))
    )


def is_held(cell: Cell) -> bool:
    """Whether the core can hold a cell: a number, or a place whose address is filled in behind it."""
    plain = isinstance(cell.initial, (int, Label)) or is_late(cell.initial)
    return plain and not isinstance(cell, Lazy)


class Things:
    """What the records of a program name by number: labels, cells, tables, symbols, and numbers that have no room.

    owned: the labels of the program. batch: the core's program, which numbers things likewise; None: there is none. known:
    label, cell or table -> number.
    """

    def __init__(self, library: Library, owned: Labels) -> None:
        self.library, self.owned = library, owned
        self.batch: Batch | None = None
        self.known: dict[object, int] = {}
        self.labels: list[Label] = []
        self.cells: list[Cell] = []
        self.tables: list[Table] = []
        self.symbols: dict[str | Place, int] = {}
        self.numbers: list[int] = []
        self.functions = bytearray()  # of each label: whether it is one

    # ---- operands to words

    def operand(self, value: object) -> tuple[int, int]:
        """Kind and word. UnknownError: records have no word for it."""
        if isinstance(value, Slot):
            if not -(1 << 31) <= value.offset < 1 << 31:
                raise UnknownError
            return (SLOT if value.offset >= 0 else HOME), value.offset
        if isinstance(value, Register):
            return (R if value.bank == "r" else F), value.index
        if isinstance(value, Label):
            if value.position is not None and 0 <= value.position < 1 << 31 and self.owned.is_position(value):
                return POSITION, value.position
            return (FUNCTION if isinstance(value, Function) else LABEL), self._label(value)
        if isinstance(value, Cell):
            return CELL, self._cell(value)
        if isinstance(value, Table):
            return TABLE, self._table(value)
        if isinstance(value, Symbol):
            return SYMBOL, self._symbol(value.name)
        if isinstance(value, bool) or not isinstance(value, int) or not -(1 << 63) <= value < 1 << 64:
            raise UnknownError
        if -(1 << 31) <= value < 1 << 31:
            return NUMBER, value
        return TABLED, self._number(value)

    def _label(self, label: Label) -> int:
        if label not in self.known:
            if self.batch is not None:
                self.batch.label()
            self.known[label] = len(self.labels)
            self.labels.append(label)
            self.functions.append(isinstance(label, Function))
        return self.known[label]

    def _cell(self, cell: Cell) -> int:
        if cell not in self.known:
            if self.batch is not None:
                if not is_held(cell):
                    raise UnknownError
                self.batch.cell(cell.initial if isinstance(cell.initial, int) else 0)
            self.known[cell] = len(self.cells)
            self.cells.append(cell)
        return self.known[cell]

    def _table(self, table: Table) -> int:
        if table not in self.known:
            labels = [self._label(label) for label in table.labels]
            if self.batch is not None:
                self.batch.table(labels)
            self.known[table] = len(self.tables)
            self.tables.append(table)
        return self.known[table]

    def _symbol(self, name: str | Place) -> int:
        """name: or a place whose address is known once the code is laid out."""
        if name not in self.symbols:
            if self.batch is not None:
                self.batch.symbol(name)
            self.symbols[name] = len(self.symbols)
        return self.symbols[name]

    def late(self) -> list[Place]:
        """The places among the symbols."""
        return [name for name in self.symbols if not isinstance(name, str)]

    def _number(self, value: int) -> int:
        if self.batch is not None:
            return self.batch.number(value)
        self.numbers.append(value)
        return len(self.numbers) - 1

    def record(self, op: Op) -> bytes:
        """An operation as a record. UnknownError: it has an operand that records have no word for."""
        kinds, words, wide = 0, [0] * 6, len(op.values) <= MOST_WIDE
        for n, value in enumerate(op.values):
            if wide and isinstance(value, int) and not -(1 << 31) <= value < 1 << 31:
                kind = WIDE_KIND if value < 1 << 63 else UNSIGNED
                words[4:6] = PAIR.unpack(HALVES[kind].pack(value))
                wide = False
            elif is_late(value):
                kind, words[n] = SYMBOL, self._symbol(value)  # type: ignore[arg-type]
            else:
                kind, words[n] = self.operand(value)
            kinds |= kind << 4 * n
        return RECORD.pack(op.operation.index, 0, kinds, *words)

    # ---- words to operands

    def value(self, kind: int, word: int, wide: tuple[int, int]) -> Value:
        """An operand of a record. wide: its words 4 and 5. LookupError: there is no such kind or thing."""
        if kind in PLAIN:
            return plain(kind, word)
        if kind == NUMBER:
            return word
        if kind in HALVES:
            return int(HALVES[kind].unpack(PAIR.pack(*wide))[0])
        if kind == POSITION:  # one where nothing can be is an unbound label, as it is in a call
            return self.owned.at(word)
        if word < 0:
            raise LookupError(kind)
        if kind == TABLED:
            return self.numbers[word] if self.batch is None else self.batch.number_at(word)
        if kind == SYMBOL:
            name = list(self.symbols)[word]
            return Symbol(name) if isinstance(name, str) else cast(Value, name)
        found: dict[int, list[Any]] = {LABEL: self.labels, FUNCTION: self.labels, CELL: self.cells, TABLE: self.tables}  # fmt: skip
        value: Value = found[kind][word]
        if kind == FUNCTION and not isinstance(value, Function):
            raise LookupError(value)
        return value

    def values(self, operation: Operation, kinds: int, words: Sequence[int]) -> tuple[Value, ...]:
        """The operands of a record that was checked."""
        wide, found = (words[4], words[5]), []
        for word in words[: len(operation.operands)]:
            kind = kinds & 15
            found.append(plain(kind, word) if kind in PLAIN else self.value(kind, word, wide))
            kinds >>= 4
        return tuple(found)

    def leave(self) -> None:
        """The core has the program no longer: what has a number keeps it."""
        if self.batch is not None:
            self.numbers = [self.batch.number_at(number) for number in range(self.batch.numbers())]
            self.batch = None


# ---- records of strangers, as the core reads them


#: What takes what has an address, by its kind.
PLACES = {
    POSITION: ("label",),
    LABEL: ("label", "symbol", "u64", "f64"),
    FUNCTION: ("func", "label", "symbol", "u64", "f64"),
    SYMBOL: ("func", "symbol", "u64", "f64"),
    CELL: ("cell", "symbol", "u64", "f64"),
    TABLE: ("table",),
}
NUMBERS = (NUMBER, WIDE_KIND, UNSIGNED, TABLED)
OTHERS = {"r", "f", "slot", *(kind for kinds in PLACES.values() for kind in kinds)} - {"u64", "f64"}
BITS = {"u32": 32, "f32": 32, "u64": 64, "f64": 64, "symbol": 64}


def read(
    things: Things, index: int, record: tuple[int, ...], function: Function
) -> tuple[Operation, tuple[Value, ...]]:
    """The operation of a record with its operands. OperandError: it is none, or names what there is not; a slot lies
    outside of the function's frame."""
    number, _, kinds, *words = record
    library = things.library
    if number >= len(library.operations):
        raise strange(index, "", "", number)
    operation = library[library.operations[number]]
    count = len(operation.operands)
    found = [kinds >> 4 * n & 15 for n in range(8)]
    if any((kind == 0) != (n >= count) for n, kind in enumerate(found)):
        raise strange(index, operation.name, "", kinds)
    values: list[Value] = []
    for n, kind in enumerate(found[:count]):
        try:
            values.append(things.value(kind, words[n], (words[4], words[5])))
            check_register(library, kind, values[-1])
        except LookupError:
            raise strange(index, operation.name, str(n), words[n]) from None
    slots = tuple(value if kind == SLOT else None for kind, value in zip(found, values, strict=False))
    try:
        check_slots(operation, slots, function)
    except OperandError as error:
        error.evidence["index"] = index
        raise
    return operation, tuple(values)


def check_register(library: Library, kind: int, value: Value) -> None:
    """LookupError: the vocabulary has no such register, or none whose home this is."""
    registers = library.registers
    if isinstance(value, Register) and not 0 <= value.index < len(registers.get(value.bank, ())):
        raise LookupError(value)
    if kind == HOME:
        every = [Register(bank, n) for bank, numbers in registers.items() for n in range(len(numbers))]
        if value not in [Slot(library.home(register)) for register in every]:
            raise LookupError(value)


def strange(index: int, name: str, operand: str, value: object) -> OperandError:
    """The error for a record that names what there is not."""
    message = f"record {index}: {name or f'operation {value}'}: there is no such operation, kind or thing"
    return OperandError(message, op=name, operand=operand, value=value, allowed="", index=index)


def chosen(library: Library, index: int, operation: Operation, kinds: int, values: tuple[Value, ...]) -> Op:
    """A record's operation with the first form that takes its operands. OperandError: none does."""
    given = [kinds >> 4 * n & 15 for n in range(len(values))]
    for form in operation.forms:
        if form.feature and form.feature not in library.features:
            continue
        held = list(map(held_by, form.accepts, given, values))
        if all(value is not None for value in held) and is_tied(form, values):
            return Op(operation, form, tuple(held), None)  # type: ignore[arg-type]
    message = f"op {index}: no form of {operation.name} takes its operands"
    raise OperandError(message, op=operation.name, operand="", value=None, allowed="", index=index)


def held_by(accept: Accept, kind: int, value: Value) -> Value | None:
    """An operand as a form holds it; None if it does not take it."""
    if isinstance(value, Slot):
        number, fits = value.offset, accept.kind == "slot"
    elif isinstance(value, Register):
        return value if accept.kind == value.bank and accept.mask >> value.index & 1 else None
    elif kind in NUMBERS:
        assert isinstance(value, int)
        size = 1 << BITS.get(accept.kind, 0)
        number = value = value + size if -(size >> 1) <= value < 0 else value
        if accept.kind == "symbol":
            return value
        fits = accept.kind not in OTHERS
    else:
        return value if accept.kind in PLACES[kind] else None
    return value if fits and accept.low <= number <= accept.high and number % accept.align == 0 else None


def is_tied(form: Form, values: tuple[Value, ...]) -> bool:
    """Whether operands are equal and different where a form says so: slots, and registers of one bank."""
    for a, b in form.same:
        if values[a] != values[b] or not isinstance(values[a], (Slot, Register)):
            return False
    return not any(values[a] == values[b] and isinstance(values[a], Register) for a, b in form.differ)


# ---- the core's


class Records:
    """The operations of a program under construction, as the core has them. sources, meant: what `Op` says besides, by
    position. bounds: bytes of code and data at most, as `plan` found them."""

    def __init__(self, things: Things) -> None:
        self.things, self.library = things, things.library
        self.batch = things.batch = Batch(self.library)
        self.sources: dict[int, At] = {}
        self.meant: dict[int, tuple[Value, ...]] = {}
        self.bounds = (0, 0)
        self._lock = threading.RLock()
        known = {"numbers": things.known, "sources": self.sources, "r": "r", "f": "f"}
        classes = {
            "slot": Slot,
            "bank": Register,
            "label": Label,
            "function": Function,
            "cell": Cell,
            "table": Table,
        }
        self.recorder = self.batch.recorder({name: id(item) for name, item in (known | classes).items()})

    def __len__(self) -> int:
        return len(self.batch)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The core works on the program, perhaps without the GIL. StateError: somebody else does so."""
        if not self._lock.acquire(blocking=False):
            raise StateError("another thread works on this program", state="busy")
        was, self.recorder.open = self.recorder.open, 0
        try:
            yield
        finally:
            self.recorder.open = was
            self._lock.release()

    def close(self) -> None:
        """No operation comes from C any more."""
        with self.alone():
            self.things.leave()
        self.stop()

    def stop(self) -> None:
        """The program is closed, or another one begins."""
        self.recorder.open = 0

    def go_on(self) -> None:
        """It is open again."""
        self.recorder.open = 1

    # ---- operations come

    def append(self, ops: list[Op]) -> bool:
        """Take operations as they are. False: the core does not know an operand, or would take another form; then the
        program is no longer here."""
        if any(self.library[op.operation.name] is not op.operation for op in ops):
            return False
        with self.alone():
            start = len(self)
            try:
                self.batch.extend(b"".join(map(self.things.record, ops)))
            except (UnknownError, OperandError, LabelError):
                return False
            taken = self.ops(range(start, len(self)))
            if any(found.form is not op.form for found, op in zip(taken, ops, strict=True)):
                return False
            for position, op in enumerate(ops, start):
                if op.at is not None:
                    self.sources[position] = op.at
                if op.meant is not None:
                    self.meant[position] = op.meant
        return True

    def extend(self, data: memoryview) -> None:
        """Take records from a buffer of bytes, which are copied once, and checked as copies: others may write there."""
        batch, functions = self.batch, self.things.functions
        with self.alone():
            batch.room(len(data) // RECORD.size)
            for start in range(0, len(data), CHUNK * RECORD.size):
                count = batch.copy(data[start : start + CHUNK * RECORD.size])
                good = batch.first_impostor(count, functions)
                batch.adopt(good)
                if good < count:
                    raise self._impostor()

    def _impostor(self) -> OperandError:
        """The error for the record behind the last one, which means a label as a function."""
        index = len(self)
        number, *_ = self.batch.record(index)
        names = self.library.operations
        return strange(index, names[number] if number < len(names) else "", "", number)

    def begin(self, function: Function) -> bool:
        """Begin the code of a function. False: the core has no such functions."""
        number = self.things.operand(function)[1]
        try:
            with self.alone():
                self.batch.function(function.frame, number)
        except (OperandError, OverflowError):
            return False
        return True

    # ---- and are looked at

    def ops(self, positions: Iterable[int]) -> Iterator[Op]:
        """The operations at some positions."""
        asked, library, things = iter(positions), self.library, self.things
        while chunk := list(islice(asked, CHUNK)):
            found = []
            with self.alone():
                view = self.batch.records()
                for position in chunk:
                    number, form, kinds, *words = RECORD.unpack_from(view, RECORD.size * position)
                    operation = library[library.operations[number]]
                    found.append((position, operation, operation.forms[form & NEAR], things.values(operation, kinds, words)))  # fmt: skip
            for position, operation, taken, values in found:
                yield Op(operation, taken, values, self.sources.get(position), self.meant.get(position))

    def select(self, calls: bool = False, kinds: Iterable[int] = ()) -> Iterator[tuple[int, Op]]:
        """The operations that make native calls, if those are asked for, or have an operand of one of these kinds, with
        their positions."""
        rows = self.library.facts["operations"]  # to ask all operations would make objects of them
        marked = bytearray(calls and bool(calling) for _, _, calling, *_ in rows)
        wanted, start, count = sum(1 << kind for kind in kinds), 0, len(self)
        while start < count:
            with self.alone():
                positions = self.batch.select(start, marked, wanted, CHUNK)
            yield from zip(positions, self.ops(positions), strict=True)
            start = positions[-1] + 1 if len(positions) == CHUNK else count

    # ---- the whole

    def whole(self, program: Program) -> bool:
        """Whether the core knows everything that their program has beside its operations."""
        if program.cold or program.aligned or program.lazy:
            return False
        if not all(isinstance(place, Label) or is_late(place) for _, place in program.places()):
            return False
        return all(label.address is None for label in self.things.labels)

    def plan(self, program: Program) -> None:
        """Check their program and collect what belongs to it. LabelError, OperandError: as `Program.check`."""
        fine = {
            POSITION: not program.composed,
            SYMBOL: all(map(program.is_bound, self.things.late())),
            CELL: all(map(program.is_bound, self.things.cells)),
        }
        if not all(fine.values()):
            for position, op in self.select(kinds=[kind for kind in fine if not fine[kind]]):
                program.check_op(position, op)
        try:
            with self.alone():
                for number, label in enumerate(self.things.labels):
                    self.batch.bind(number, -1 if label.position is None else label.position)
                sizes = self.batch.link(program.roots)
        except LabelError as error:  # the core has numbers for it, the program has names
            if 0 <= error.index < len(self):
                program.check_op(error.index, program.ops[error.index])
            program.check_functions()
            raise
        rodata, data = (program.sections[name].room for name in (RODATA, DATA))
        self.bounds = sizes[0] + rodata, sizes[1] + data


class Present:
    """Where the functions of an assembler's operations append from C: to the records of its present program."""

    def __init__(self, library: Library) -> None:
        ffi, _ = core()
        self._place = ffi.new("struct cnp_recorder **")
        self._address = int(ffi.cast("uintptr_t", self._place))
        self._takes = core_library(library).takes

    def become(self, records: Records) -> None:
        """Another program begins."""
        self._place[0] = records.recorder
        self._records = records  # which C looks at from now on, and at those before no more

    def callable(self, operation: Operation, slow: Callable[..., int]) -> Callable[..., int]:
        """An operation as a function that appends it. slow: what is called where C does not know what to do."""
        takes = self._takes.get(operation.name)
        if takes is None:
            count = len(operation.operands)
            takes = self._takes[operation.name] = bytes(takes_of(operation, n) for n in range(count))
        which = WHICH.pack(self._address, operation.index, len(takes), takes)
        return native.make_recorded(which, slow, self)


def takes_of(operation: Operation, number: int) -> int:
    """What C may write of an operand that is no register or slot: numbers, positions, things."""
    kinds = {form.accepts[number].kind for form in operation.forms}
    if operation.operands[number].kind == "label":
        return TAKES_POSITIONS | TAKES_THINGS
    if kinds & {"f32", "f64"}:
        return 0
    return TAKES_THINGS if kinds & OBJECTS else TAKES_THINGS | TAKES_NUMBERS
