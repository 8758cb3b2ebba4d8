"""A bytecode's description as the core's tables, and programs through the core (cnp/core/bytecode.c)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnp import emit
from cnp.bytecode_rules import (
    RULES,
    SIZE,
    TARGET,
    ZERO,
    Begin,
    Bits,
    Call,
    Firsts,
    Goal,
    Jump,
    Map,
    Number,
    Pool,
    Pools,
    Rule,
    SlotOf,
    Step,
    Translated,
    constant,
    signed64,
    spans,
)
from cnp.core_library import core
from cnp.errors import OperandError, StateError

if TYPE_CHECKING:
    from cnp.bytecode import Bytecode
    from cnp.emit import Batch

CALLED = 1 << 31  #: in a place: a function begins there
CONSTANT, FIELD, MAP, POOL, TO_TARGET, TO_FUNCTION = range(6)
ROWS = ("fields", "spans", "limits", "maps", "sources", "steps", "rules")


class Tables:
    """`struct cnp_bytecode` of a description; it keeps what that points to."""

    def __init__(self, bytecode: Bytecode) -> None:
        self.bytecode = bytecode
        self.ffi, self.lib = core()
        self.names = {name: number for number, name in enumerate(bytecode.library.operations)}
        self.numbers = {name: number for number, name in enumerate(bytecode.fields)}
        self.each = bytecode.each()
        self._rows: dict[str, list[Any]] = {name: [] for name in ROWS}
        self._rows["fields"] = [self._bits(bits) for bits in bytecode.fields.values()]
        for rule in self.each:
            self._rows["rules"].append(self._rule(rule))
        rules = [{**row, "step": 0, "steps": 0} for row in self._rows["rules"]]
        #: what programs are checked by: the same of all bytecodes whose rules differ in their steps alone
        self.shape = hash(
            repr((bytecode.pools, rules, self._rows["fields"], self._rows["limits"], self._rows["spans"]))
        )
        #: operations of an instruction at most, those of a function's beginning included
        self.steps = max((len(rule.steps) or rule.most for rule in self.each), default=0) + self._begins()
        self._keep: list[Any] = []
        self._desks = threading.local()
        self._uncleared = self.ffi.new_allocator(should_clear_after_alloc=False)
        self._no_numbers = self._pool_rows(bytecode.empty)
        self.table = self.ffi.new("struct cnp_bytecode *", self._head())
        evidence = self.ffi.new("struct cnp_evidence *")
        status = self.lib.cnp_bytecode_valid(self.table, evidence)
        if status:
            name, row = self.ffi.string(evidence.table).decode(), evidence.row
            message = f"row {row} of the bytecode's {name} does not fit a record: {self._rows.get(name, [row])[row]}"
            raise OperandError(message, op="", operand=name, value=row, allowed="what fits a record")

    def _begins(self) -> int:
        functions = self.bytecode.functions
        return len(functions.begin) + bool(functions.join) if functions else 0

    def _array(self, kind: str, items: Any) -> Any:
        self._keep.append(self.ffi.new(f"{kind}[]", items or 1))
        return self._keep[-1]

    def _head(self) -> dict[str, Any]:
        bytecode, functions = self.bytecode, self.bytecode.functions
        begin = self._steps(functions.begin) if functions else 0
        join = 1 + self.names[functions.join] if functions and functions.join else 0
        opcodes = 1 << bytecode.bits(bytecode.opcode).width
        first, words = [0], bytearray(opcodes)
        for opcode in range(opcodes):
            rules = bytecode.rules.get(opcode, [])
            first.append(first[-1] + len(rules))
            words[opcode] = rules[0].words if rules else 1
        return {
            "size": bytecode.size, "big_endian": bytecode.big, "opcode": self.numbers[bytecode.opcode],
            "hint": self._hint(), "frame": bytecode.frame, "begin": begin, "begins": len(functions.begin) if functions else 0, "join": join,
            "first": self._array("uint32_t", first), "words": self._array("uint8_t", bytes(words)),
            "pools_count": len(bytecode.pools),
            **{name: self._array(f"struct cnp_{kind}", self._rows[name]) for name, kind in zip(ROWS, (
                "bits", "span", "limit", "mapped", "source", "step", "rule"), strict=True)},
            **{f"{name}_count": len(rows) for name, rows in self._rows.items()},
        }  # fmt: skip

    def _hint(self) -> int:
        """The bit of the first word that decides most: the sign of the field in which most jumps say how far they go."""
        fields = [self.bytecode.bits(rule.goes.field) for rule in self.each if isinstance(rule.goes, Jump)]
        signs = Counter(bits.at + bits.width - 1 for bits in fields if bits.signed and not bits.word)
        return signs.most_common(1)[0][0] if signs else 0

    def places(self, words: int) -> Any:
        """`struct cnp_place`s, with anything in them."""
        return self._uncleared("struct cnp_place[]", words)

    def desk(self) -> tuple[Any, Any]:
        """`struct cnp_recipe`s and a `struct cnp_evidence` of this thread."""
        found: tuple[Any, Any] | None = getattr(self._desks, "desk", None)
        if found is None:
            recipes = self.ffi.new("struct cnp_recipe[]", self.lib.CNP_RECIPES)
            found = self._desks.desk = recipes, self.ffi.new("struct cnp_evidence *")
        return found

    def pools(self, pools: Pools) -> tuple[Any, list[Any]]:
        """`struct cnp_pool` of each, and what they point to."""
        return self._no_numbers if pools is self.bytecode.empty else self._pool_rows(pools)

    def _pool_rows(self, pools: Pools) -> tuple[Any, list[Any]]:
        held, rows, new = [], [], self.ffi.new
        for pool in pools.values():
            keys = new("int64_t[]", list(pool))
            held += [keys, new("int64_t[]", [signed64(value) for value in pool.values()])]
            rows.append((keys, held[-1], len(pool), 0))
        return new("struct cnp_pool[]", rows), held

    # ---- rows

    def _bits(self, bits: Bits) -> tuple[int, ...]:
        return (bits.word, bits.at, bits.width, int(bits.signed))

    def _limits(self, limits: list[tuple[str, tuple[tuple[int, int], ...]]]) -> int:
        """The first row of some limits."""
        first, rows = len(self._rows["limits"]), self._rows["spans"]
        for name, allowed in limits:
            self._rows["limits"].append((self.numbers[name], len(rows), len(allowed)))
            rows += allowed
        return first

    def _rule(self, rule: Rule) -> dict[str, Any]:
        whens = [(name, spans(allowed)) for name, allowed in rule.when.items()]
        checks, goes = self.bytecode.limits(rule), rule.goes
        zeros = [self.bytecode.bits(name) for name, allowed in checks if allowed == ZERO]
        zero = [0, 0]
        for bits in zeros:
            zero[bits.word] |= (1 << bits.width) - 1 << bits.at
        pooled = any(isinstance(operand, Pool) for step in rule.steps for operand in step)
        row: dict[str, Any] = {
            "when": self._limits(whens), "whens": len(whens), "check": self._limits(checks), "checks": len(checks),
            "step": self._steps(rule.steps), "steps": len(rule.steps), "ends": rule.ends,
            "escape": rule.most if rule.escape else 0, "zero": zero, "zeros": len(zeros), "pooled": pooled,
        }  # fmt: skip
        if goes is not None:
            row |= {
                "goes": 2 if isinstance(goes, Call) else 1, "absolute": goes.absolute, "field": self.numbers[goes.field],
                "scale": self.bytecode.scale(goes), "base": self.bytecode.base(goes, rule.words),
            }  # fmt: skip
        return row

    def _steps(self, steps: tuple[Step, ...]) -> int:
        """The first row of some steps."""
        first = len(self._rows["steps"])
        for name, *operands in steps:
            sources = [self._source(operand) for operand in operands]
            self._rows["steps"].append((self.names[name], len(operands), len(self._rows["sources"])))
            self._rows["sources"] += sources
        return first

    def _source(self, operand: Any) -> dict[str, Any]:
        if isinstance(operand, Goal):
            return {"from": TO_TARGET if operand == TARGET else TO_FUNCTION}
        if isinstance(operand, Map):
            first = len(self._rows["maps"])
            self._rows["maps"] += [constant(value) for value in operand.values]
            field, count = self.numbers[operand.field], len(operand.values)
            return {"from": MAP, "field": field, "first": first, "count": count}
        if isinstance(operand, Pool):
            number = self.bytecode.pools.index(operand.name)
            kind = emit.TABLED if operand.tabled else emit.NUMBER
            return {"from": POOL, "kind": kind, "field": self.numbers[operand.field], "first": number}
        if isinstance(operand, (Number, SlotOf)):
            high = operand.high if isinstance(operand, Number) else None
            return {
                "from": FIELD, "kind": emit.NUMBER if isinstance(operand, Number) else emit.SLOT,
                "field": self.numbers[operand.field], "high": self.numbers[high] + 1 if high else 0,
                "scale": operand.scale, "base": operand.base,
            }  # fmt: skip
        kind, value = constant(operand)
        return {"from": CONSTANT, "kind": kind, "base": value}

    # ---- programs

    def check(self, code: bytes, pools: Pools) -> Translation:
        """As `Bytecode.check`."""
        return Translation(self, code, pools)

    def translate(self, code: bytes, pools: Pools, firsts: Firsts) -> Translated:
        """As `Bytecode.translate`."""
        return self.check(code, pools).records(pools, firsts)


class Run:
    """`struct cnp_translation` of a program, and what that points to."""

    def __init__(self, code: bytes, places: Any) -> None:
        self.ffi, _ = core()
        self.places = places
        self.job = job = self.ffi.new("struct cnp_translation *")
        job.words, job.places = len(places), places
        self._begins: Any = None
        self.read(code)

    def read(self, code: bytes) -> None:
        """Translate this code."""
        self.code, self._from = code, self.ffi.from_buffer(code)
        self.job.code = self._from

    def follow(self, tables: Tables, pools: Pools) -> None:
        """Go by these tables, in this thread, with these numbers."""
        self.tables, self._pools = tables, pools
        self._rows, self._numbers = tables.pools(pools)
        self.job.recipes, self.evidence = tables.desk()
        self.job.pools = self._rows

    def make_begins(self, functions: int) -> None:
        """Room for where the functions begin."""
        self._begins = self.ffi.new("struct cnp_begin[]", functions)
        self.job.begins, self.job.functions = self._begins, functions

    def translate(self, firsts: Firsts, room: Any) -> Translated:
        """Write the records to a room for as many as the job says."""
        job, tables = self.job, self.tables
        job.first_position, job.first_label, job.records = firsts.position, firsts.label, room
        job.index = job.count = job.asked = 0
        if self._pools is not tables.bytecode.empty:
            self.number(firsts.number)
        while status := tables.lib.cnp_bytecode_translate(tables.table, job, self.evidence):
            self.check(status)
            self.escape()
        found = [Begin(begin.index, begin.position) for begin in self._begins]
        records = memoryview(self.ffi.buffer(room, SIZE * job.count))
        return Translated(records, self.positions, found, firsts.position + job.count)

    @property
    def end(self) -> int:
        """How many operations it became."""
        count: int = self.job.count
        return count

    @property
    def positions(self) -> memoryview:
        """For each word the position of the first operation of its instruction."""
        return memoryview(self.ffi.buffer(self.places)).cast("I")[1::2]

    def number(self, first: int) -> None:
        """Tell the pools which of the batch's numbers theirs are."""
        for row, name in zip(self._rows, self._pools, strict=True):
            row.first = self.tables.bytecode.first_number(name, self._pools, first)

    def escape(self) -> None:
        """Write what a rule's callable gives for the instruction that the core stands at."""
        job, ffi, bytecode = self.job, self.ffi, self.tables.bytecode
        rule = self.tables.each[job.places[job.index].rule & ~CALLED]
        for record in bytecode.escaped(rule, bytecode.given(self.code, job.index, rule.words)):
            ffi.memmove(job.records + job.count, record, SIZE)
            job.count += 1

    def check(self, status: int) -> None:
        """Raise what a status and its evidence say."""
        lib, found, bytecode = self.tables.lib, self.evidence, self.tables.bytecode
        if status in (lib.CNP_OK, lib.CNP_ESCAPE):
            return
        if status != lib.CNP_BAD_INSTRUCTION:
            raise StateError(f"the core refuses this bytecode (status {status})", state=str(status))
        rule = list(RULES)[found.what]
        names = bytecode.pools if rule == "pool" else list(bytecode.fields)
        value, low, high = (n.bits - (n.negative << 64) for n in (found.value, found.low, found.high))
        allowed = (low, high) if rule == "field" else None
        raise bytecode.broken(found.index, found.op, rule, names[found.operand], value, allowed)


class Translation(Run):
    """A program that was checked, and its first run. functions: how many it has."""

    def __init__(self, tables: Tables, code: bytes, pools: Pools) -> None:
        super().__init__(code, tables.places(tables.bytecode.words_of(code)))
        self.follow(tables, pools)
        if status := tables.lib.cnp_bytecode_check(tables.table, self.job, self.evidence):
            self.check(status)
        self._checked_by, self._checked = tables, code
        self.functions, self.most = self.job.functions, self.job.most
        self._fresh = [True]  # until it was run

    def records(self, pools: Pools, firsts: Firsts) -> Translated:
        """What it becomes."""
        run, memory = self._begun(self._checked_by, self._checked, pools), bytearray(SIZE * self.most)
        return run.translate(firsts, self.ffi.from_buffer("struct cnp_record[]", memory))

    def into(self, batch: Batch, bytecode: Bytecode, code: bytes, pools: Pools, firsts: Firsts) -> Translated:
        """The same, in the room of a batch behind what it has, which is yet to adopt it. bytecode: that by which it was checked,
        or one whose rules differ in their steps alone; code: what was checked, but for numbers. StateError: they are others."""
        run = self._begun(bytecode.tables, code, pools)
        return run.translate(firsts, batch.room(run.job.room))

    def compile(
        self, batch: Batch, bytecode: Bytecode, code: bytes, pools: Pools, frame: int, records: bytes
    ) -> tuple[Run, int, int]:
        """The same as a whole program: its functions, and behind them one of records, for those who call it from outside, with a
        frame of so many bytes; the functions' labels count from 0. pools: as `Bytecode.pools_of` gives them. The run, whose
        `end` is where the function of records begins; bytes of code and data at most. StateError: it has no functions, or rules
        with callables."""
        if not self.functions or bytecode.escapes:
            raise StateError("give a bytecode of functions, without escapes", state="escapes")
        run = self._begun(bytecode.tables, code, pools)
        numbers: Sequence[int] = ()
        if pools is not bytecode.empty:
            run.number(0)
            numbers = bytecode.numbers(pools)
        return run, *batch.compile(bytecode.tables.table, run.job, numbers, frame, records)

    def _begun(self, tables: Tables, code: bytes, pools: Pools) -> Run:
        """A run that can begin, by tables that check alike. Each but the first has places of its own: those of what was made
        before are its positions."""
        if tables.shape != self._checked_by.shape or len(code) != len(self._checked):
            raise StateError("this program was checked by the rules of another bytecode", state="checked")
        try:
            self._fresh.pop()  # at most one thread can
            run: Run = self
        except IndexError:
            run = Run(code, tables.places(len(self.places)))
            self.ffi.memmove(run.places, self.places, self.ffi.sizeof(self.places))
        if code is not run.code:
            run.read(code)
        run.follow(tables, pools)
        run.job.room = self.most if tables is self._checked_by else self.most * max(1, tables.steps)
        run.make_begins(self.functions)
        return run
