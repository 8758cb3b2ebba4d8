"""Programs through the core in C: a library's tables handed over, operations as records, errors as exceptions.

    Library --tables--> cnp_library        made once for each library, its operations when they are first used
    Program --records--> cnp_program --> bytes, the same as those of cnp/patch.py

A record has 32 bytes (cnp/core/cnp_core.h draws it). cnp/records.py makes records of an assembler's operations.
"""

from __future__ import annotations

import struct
import threading
from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from cnp import native
from cnp.errors import CnpError, LabelError, LibraryError, OperandError, RangeError, StateError
from cnp.library import MALFORMED, Library
from cnp.operands import Register
from cnp.stencil import What
from cnp.tables import HOLE, TABLES

if TYPE_CHECKING:
    from cnp.memory import Block

RECORD = struct.Struct("=HHI6i")
WIDE = struct.Struct("=q")
(
    NONE,
    SLOT,
    R,
    F,
    NUMBER,
    WIDE_KIND,
    UNSIGNED,
    TABLED,
    POSITION,
    LABEL,
    FUNCTION,
    SYMBOL,
    CELL,
    TABLE,
    HOME,
) = range(15)
#: Kinds of operands in the file -> enum cnp_accept.
ACCEPTS = {
    "r": 0, "f": 1, "slot": 2, "u32": 5, "f32": 5, "u64": 6, "f64": 6, "label": 7, "func": 8, "cell": 9, "table": 10,
    "symbol": 11,
}  # fmt: skip
SIGNED, PLAIN_UNSIGNED = 3, 4
Buffer: TypeAlias = Any  #: bytes, array, memoryview, numpy array, mmap …
SOME_ODD = 256  #: hot blocks that room is made for at first
ENTER = "cnp_enter"
LEAVES = ("cnp.stub.exit", "cnp.stub.trap", "cnp.stub.unwind")


def core() -> tuple[Any, Any]:
    """ffi and lib of the compiled core. StateError: it is not there."""
    module = native.core_module
    if module is None:
        raise StateError(f"the core in C is missing: {native.reason}", state="pure")
    return module.ffi, module.lib


# ---- the library


class Programs:
    """A library of the core and its programs, whichever the garbage collector finalizes first: programs take the library's
    allocator until the end, so that it goes with the last of them. One that nobody has any more stays with its memory for
    the next, so that short-lived ones do not ask the system for theirs again and again.

    Finalizers come at any time, in any thread: what they share are lists, which grow and shrink at once. They use nothing of
    this module, which may be gone before them. most: operations of a program that stays.
    """

    def __init__(self, ffi: Any, lib: Any, library: Any, most: int = 1 << 16) -> None:
        self._ffi, self._lib, self._library, self._most = ffi, lib, library, most
        self._users = [True]  # the library's owner, then a False for each program
        self._kept: list[Any] = []
        self._wanted = True

    def open(self, core: CoreLibrary) -> Any:
        """An empty program."""
        try:
            handle = self._kept.pop()
        except IndexError:
            place, evidence = self._ffi.new("struct cnp_program **"), self._ffi.new("struct cnp_evidence *")
            core.check(self._lib.cnp_program_open(place, self._library, evidence), evidence[0])
            handle = place[0]
            self._users.append(False)
        return self._ffi.gc(handle, self._give_back)

    def _give_back(self, handle: Any) -> None:
        if self._kept or self._lib.cnp_count(handle) > self._most:
            self._close(handle)
        else:
            self._lib.cnp_reset(handle)
            self._kept.append(handle)
            if not self._wanted:
                self._close_kept()

    def close(self, _: Any) -> None:
        """The library's owner is gone."""
        self._wanted = False
        self._close_kept()
        self._leave()

    def _close_kept(self) -> None:
        try:
            while True:
                self._close(self._kept.pop())
        except IndexError:
            return

    def _close(self, handle: Any) -> None:
        self._lib.cnp_program_close(handle)
        self._leave()

    def _leave(self) -> None:
        if self._users.pop():
            self._lib.cnp_library_close(self._library)


class CoreLibrary:
    """The tables of a library as the core has them. It keeps what they point to."""

    def __init__(self, library: Library) -> None:
        self.ffi, self.lib = core()
        self.library = library
        self.target = library.target
        self._keep: list[Any] = []
        self.takes: dict[str, bytes] = {}  # what cnp/records.py knows of operations
        self.tables = tables = self._tables()
        evidence = self.ffi.new("struct cnp_evidence *")
        heap = self.ffi.new("struct cnp_allocator *", {"resize": self.ffi.addressof(self.lib, "cnp_heap")})
        place = self.ffi.new("struct cnp_library **")
        self.names = library.operations
        self.numbers = {name: index for index, name in enumerate(self.names)}
        self.check(self.lib.cnp_library_open(place, tables, heap, evidence), evidence[0])
        self.preparing = threading.Lock()  # many threads use a library, one at a time completes it
        self.programs = Programs(self.ffi, self.lib, place[0])
        self.handle = self.ffi.gc(place[0], self.programs.close)

    def _hold(self, value: Any) -> Any:
        self._keep.append(value)
        return value

    def _rows(self, view: memoryview, size: int) -> dict[str, Any]:
        self._hold(
            view
        )  # and not a buffer of it: Python's garbage collector may clear a view that still has one
        data = self.ffi.cast("void *", self.ffi.from_buffer(view)) if len(view) else self.ffi.NULL
        return {"data": data, "count": len(view) // size}

    def _array(self, kind: str, items: list[Any]) -> Any:
        return self._hold(self.ffi.new(f"{kind}[]", items or 1))

    def _bytes(self, data: bytes) -> Any:
        return self._hold(self.ffi.new("uint8_t[]", data or b"\0"))

    def _tables(self) -> Any:
        """`struct cnp_tables` of the library."""
        library, target, head = self.library, self.target, self.library.facts
        pairs: list[tuple[int, int]] = []
        ties: list[tuple[int, int, int, int]] = []
        for same, differ in head["ties"]:
            ties.append((len(pairs), len(same), len(pairs) + len(same), len(differ)))
            pairs += [tuple(pair) for pair in (*same, *differ)]
        self.routines = {name: number for number, name in enumerate(library.routine_names)}
        self.enter = self.routines[ENTER]
        self.roots = self._array("uint32_t", [self.enter])
        values = {name: self._rows(library.rows[name], row.size) for name, row in TABLES.items()} | {
            "operations": self._array("struct cnp_operation", [self._operation(o) for o in head["operations"]]),
            "fields": self._array("struct cnp_field", [self._field(f) for f in target.fields.values()]),
            "kinds": self._bytes(bytes(self._accept(kind) for kind in head["kinds"])),
            "features": self._bytes(bytes(not f or f in library.features for f in head["features"])),
            "ties": self._array("struct cnp_ties", ties),
            "pairs": self._array("struct cnp_pair", pairs),
            "constants": self._array("struct cnp_constant", head["constants"]),
            "r": self._array("struct cnp_register", self._registers("r")),
            "f": self._array("struct cnp_register", self._registers("f")),
            "routines": self._array("uint32_t", [block for _, block in head["routines"]]),
            "stubs": self._array("int32_t", [self.routines[name] for name in LEAVES]),
            "veneer": self._bytes(target.veneer.code),
            "nop": self._bytes(target.nop), "trap": self._bytes(target.trap),
            "veneer_rows": self._bytes(self._veneer_rows()),
            "operations_count": len(head["operations"]), "fields_count": len(target.fields),
            "kinds_count": len(head["kinds"]), "features_count": len(head["features"]), "ties_count": len(ties),
            "pairs_count": len(pairs), "constants_count": len(head["constants"]),
            "r_count": len(self._registers("r")), "f_count": len(self._registers("f")),
            "routines_count": len(self.routines), "imports_count": len(library.imports),
            "veneer_size": len(target.veneer.code), "veneer_align": target.veneer.align,
            "veneer_holes": len(target.veneer.holes), "nop_size": len(target.nop), "trap_size": len(target.trap),
            "island": target.island, "code_align": target.code_align, "big_endian": target.byteorder == "big",
        }  # fmt: skip
        return self._hold(self.ffi.new("struct cnp_tables *", values))

    def _operation(self, row: list[Any]) -> tuple[int, ...]:
        _, _, calls, operands, first, forms = row
        places = sum(1 << n for n, (kind, _, _) in enumerate(operands) if kind in ("label", "table"))
        return (first, forms, len(operands), calls, 0 if calls else places)

    def _field(self, field: Any) -> dict[str, Any]:
        bits = [{"from": source, "width": width, "to": to} for source, width, to in field.bits]
        return {
            "low": field.low, "high": field.high, "carry": field.carry, "align": field.align, "size": field.size,
            "formula": field.formula, "jump": field.jump, "parts": len(bits), "part": bits,
        }  # fmt: skip

    def _accept(self, kind: str) -> int:
        return ACCEPTS.get(kind, SIGNED if kind.startswith("i") else PLAIN_UNSIGNED)

    def _registers(self, bank: str) -> list[tuple[int, int]]:
        numbers = self.library.registers.get(bank, ())
        return [(number, self.library.home(Register(bank, index))) for index, number in enumerate(numbers)]

    def _veneer_rows(self) -> bytes:
        fields = list(self.target.fields)
        rows = [
            (h.offset, h.place, h.addend, fields.index(h.field), h.what, h.index)
            for h in self.target.veneer.holes
        ]
        return b"".join(HOLE.pack(*row) for row in rows)

    def routine(self, name: str) -> int:
        return self.routines[name]

    # ---- errors

    def check(self, status: int, found: Any) -> None:
        """Raise what a status and its evidence say."""
        if status:
            raise self.error(status, found)

    def error(self, status: int, found: Any) -> CnpError:
        lib = self.lib
        index, name = found.index, self.names[found.op] if found.op < len(self.names) else ""
        value = found.value.bits - (found.value.negative << 64)
        if status in (lib.CNP_OUT_OF_RANGE, lib.CNP_MISALIGNED):
            return self._range(found, name)
        if status == lib.CNP_NO_FORM:
            return OperandError(f"op {index}: no form of {name} takes its operands", op=name, operand="", value=None, allowed="", index=index)  # fmt: skip
        if status == lib.CNP_OUTSIDE_FRAME:
            message = f"op {index} {name}: slot({value}) lies outside of its frame"
            return OperandError(message, op=name, operand=self._operand(name, found.operand), value=value, allowed=(0, found.high.bits), index=index)  # fmt: skip
        if status in (lib.CNP_BAD_OPERAND, lib.CNP_NO_OPERATION):
            message = f"record {index}: {name or f'operation {found.op}'}: there is no such operation, kind or thing"
            return OperandError(
                message, op=name, operand=str(found.operand), value=value, allowed="", index=index
            )
        if status in (lib.CNP_UNBOUND, lib.CNP_LARGER_FRAME, lib.CNP_EMPTY_FUNCTION, lib.CNP_RUNS_OFF):
            words = {
                lib.CNP_UNBOUND: "goes to a place that is bound to no operation",
                lib.CNP_LARGER_FRAME: "jumps into a function whose frame is larger",
                lib.CNP_EMPTY_FUNCTION: "is where a function without operations begins",
                lib.CNP_RUNS_OFF: "runs off the end of its function",
            }
            return LabelError(f"op {index} {name} {words[status]}", label=str(value), index=index)
        if status == lib.CNP_BAD_TABLES:
            table = self.ffi.string(found.table).decode()
            return LibraryError(f"{self.library.path}: row {found.row} of {table} says what cannot be", path=self.library.path)  # fmt: skip
        if status == lib.CNP_BAD_BASE:
            message = f"base {value:#x}: allowed 0 … {found.high.bits:#x}, a multiple of {found.align}"
            return RangeError(message, value=value, low=0, high=found.high.bits, align=found.align, op="", index=-1, hole=0, field="", symbol="base", at=None)  # fmt: skip
        if status == lib.CNP_NO_FUNCTION:
            return StateError("begin a function first", state="no function")
        if status == lib.CNP_NO_MEMORY:
            raise MemoryError
        return StateError(f"the core refuses this call (status {status})", state=str(status))

    def _operand(self, name: str, number: int) -> str:
        operands = self.library[name].operands
        return operands[number].name if number < len(operands) else str(number)

    def _range(self, found: Any, name: str) -> RangeError:
        low, high = (n.bits - (n.negative << 64) for n in (found.low, found.high))
        value = found.value.bits - (found.value.negative << 64)
        field, what = list(self.target.fields)[found.field], What(found.what)
        operand = what in (What.OPERAND, What.TARGET, What.LITERAL) and found.block < 3
        symbol = self._operand(name, found.what_index) if operand else what.name.lower()
        message = f"{name}: hole {found.hole} ({field}) for {symbol}: value {value:#x} does not fit"
        message += f"; allowed {low:#x} … {high:#x}, a multiple of {found.align}"
        return RangeError(message, op=name, index=found.index, hole=found.hole, field=field, symbol=symbol, value=value, low=low, high=high, align=found.align, at=None)  # fmt: skip


def core_library(library: Library) -> CoreLibrary:
    """The core's tables of a library, made once."""
    if library.core is None:
        try:
            library.core = CoreLibrary(library)
        except MALFORMED as error:
            message = f"{library.path}: its tables are not what the format says ({error!r})"
            raise LibraryError(message, path=library.path) from error
    found: CoreLibrary = library.core
    return found


def flat(name: str, buffer: object) -> memoryview:
    """The bytes of a buffer. OperandError: it is none, or they do not lie one behind the other."""
    try:
        view = memoryview(buffer)  # type: ignore[arg-type]
        return view.cast("B") if view.nbytes else memoryview(b"")
    except TypeError as error:
        message = f"{name}: give a buffer of bytes that lie one behind the other, not this {type(buffer).__name__} ({error})"
        raise OperandError(message, op="", operand=name, value=buffer, allowed="a buffer") from error


# ---- the program


class Batch:
    """A program of records. One thread at a time; the GIL is released while the core works."""

    def __init__(self, library: Library) -> None:
        self.library = core_library(library)
        self._ffi, self._lib = self.library.ffi, self.library.lib
        self._handle = self.library.programs.open(self.library)
        self._evidence = self._ffi.new("struct cnp_evidence *")
        self._done = self._ffi.new("size_t *")
        self._number = self._ffi.new("uint32_t *")
        self._size = self._ffi.new("uint64_t *")
        self._made = self._ffi.new("uint64_t[3]")
        self._needs = self._ffi.new("struct cnp_needs *")
        self._addresses: Mapping[str, int] = {}
        self._imports = self._imported(self._addresses)
        self.symbols: dict[str, int] = {}

    def __len__(self) -> int:
        return int(self._lib.cnp_count(self._handle))

    def _check(self, status: int) -> None:
        self.library.check(status, self._evidence[0])

    def reset(self) -> None:
        """Empty again; the memory stays for the next program."""
        self._lib.cnp_reset(self._handle)
        self.symbols.clear()

    def function(self, frame: int, label: int | None = None) -> int:
        """Begin a function with a frame of so many bytes; the number of its label, a new one if none is given."""
        label = self.label() if label is None else label
        self._check(self._lib.cnp_function(self._handle, label, frame))
        return label

    def label(self) -> int:
        self._check(self._lib.cnp_label(self._handle, self._number))
        return int(self._number[0])

    def bind(self, label: int, position: int) -> None:
        self._check(self._lib.cnp_bind(self._handle, label, position))

    def symbol(self, name: str) -> int:
        if name not in self.symbols:
            self._check(self._lib.cnp_symbol(self._handle, self._number))
            self.symbols[name] = int(self._number[0])
        return self.symbols[name]

    def cell(self, initial: int) -> int:
        self._check(self._lib.cnp_cell(self._handle, initial, self._number))
        return int(self._number[0])

    def table(self, labels: list[int]) -> int:
        self._check(self._lib.cnp_table(self._handle, labels, len(labels), self._number))
        return int(self._number[0])

    def number(self, value: int) -> int:
        item = {"bits": value % (1 << 64), "negative": value < 0}
        self._check(self._lib.cnp_number(self._handle, item, self._number))
        return int(self._number[0])

    def numbers(self) -> int:
        """How many numbers there are."""
        return int(self._lib.cnp_numbers(self._handle))

    def number_at(self, number: int) -> int:
        """A number that has no room in records. LookupError: there is none of that number."""
        if not 0 <= number < self.numbers():
            raise LookupError(number)
        found = self._lib.cnp_number_at(self._handle, number)
        return int(found.bits - (found.negative << 64))

    def extend(self, records: Buffer) -> None:
        """Append records from any buffer; it is read once and not kept. An error leaves those before it appended."""
        data = self._ffi.from_buffer(records)
        if len(data) % RECORD.size:
            raise self._no_whole(len(data))
        self._append(data, len(data) // RECORD.size)

    def _no_whole(self, size: int) -> OperandError:
        message = f"{size} bytes are no whole number of records of {RECORD.size} bytes"
        return OperandError(message, op="", operand="records", value=size, allowed=RECORD.size)

    def room(self, count: int) -> Any:
        """Room for records behind those that there are, as the core's: valid until the next call but `adopt`."""
        found = self._lib.cnp_room(self._handle, count)
        if found == self._ffi.NULL:
            raise MemoryError
        return found

    def adopt(self, count: int) -> None:
        """Append records that were written into the room, without copying them."""
        self._append(self._ffi.cast("char *", self.room(count)), count)

    def _append(self, data: Any, count: int) -> None:
        lib, evidence, done = self._lib, self._evidence, 0
        while done < count:
            status = lib.cnp_append(
                self._handle, data + done * RECORD.size, count - done, self._done, evidence
            )
            done += self._done[0]
            if status == lib.CNP_UNPREPARED:
                status = self._prepare()
            self._check(status)

    def _prepare(self) -> int:
        """Complete the library for what is in the evidence; a status."""
        evidence = self._evidence
        with self.library.preparing:
            status: int = self._lib.cnp_prepare(self.library.handle, evidence.op, evidence.what, evidence)
        evidence.index = len(self)
        return status

    def copy(self, records: memoryview) -> int:
        """Copy records into the room; how many there are. `adopt` takes them."""
        count = len(records) // RECORD.size
        self._ffi.memmove(self.room(count), records, count * RECORD.size)
        return count

    def first_impostor(self, count: int, functions: bytearray) -> int:
        """The first of so many records in the room that means a label as a function which is none; functions: a byte for
        each label. `count`: there is none."""
        given = self._ffi.from_buffer(functions)
        return int(self._lib.cnp_first_impostor(self.room(count), count, given, len(functions)))

    def recorder(self, objects: Mapping[str, int]) -> Any:
        """A `struct cnp_recorder` of this program, open; objects: addresses of what C looks at."""
        return self._ffi.new("struct cnp_recorder *", {"program": self._handle, "open": 1, **objects})

    def record(self, position: int) -> tuple[int, ...]:
        """The fields of one record, as the core has it."""
        place = self._lib.cnp_records(self._handle) + position
        return RECORD.unpack(self._ffi.buffer(place, RECORD.size))

    def select(self, first: int, marked: bytearray, kinds: int, most: int) -> list[int]:
        """Positions from the first on of the records of marked operations (a byte each), or with operands of some kinds
        (bits)."""
        positions = self._ffi.new("uint32_t[]", most)
        found = self._lib.cnp_select(
            self._handle, first, self._ffi.from_buffer(marked), kinds, positions, most
        )
        return list(positions[0:found])

    def records(self) -> memoryview:
        """The records as the core has them: valid until the next call."""
        size = len(self) * RECORD.size
        return (
            memoryview(self._ffi.buffer(self._lib.cnp_records(self._handle), size))
            if size
            else memoryview(b"")
        )

    def link(self, roots: tuple[str, ...] = (ENTER,)) -> tuple[int, int]:
        """Check and plan; bytes of code and data at most."""
        numbers = [self.library.routine(name) for name in roots]
        self._check(self._lib.cnp_plan(self._handle, numbers, len(numbers), self._needs, self._evidence))
        return int(self._needs.bound), int(self._needs.data_bound)

    def assemble(self, frame: int, records: Buffer) -> tuple[int, int]:
        """The shortest way for one function: `reset`, `function`, `extend` and `link`."""
        data, needs, evidence = self._ffi.from_buffer(records), self._needs, self._evidence
        count, rest = divmod(len(data), RECORD.size)
        if rest:
            raise self._no_whole(len(data))
        self.symbols.clear()
        while status := self._lib.cnp_assemble(
            self._handle, frame, data, count, self.library.roots, 1, self._done, needs, evidence
        ):
            self._check(self._prepare() if status == self._lib.CNP_UNPREPARED else status)
        return needs.bound, needs.data_bound

    def compile(
        self, table: Any, job: Any, numbers: Sequence[int], frame: int, records: bytes
    ) -> tuple[int, int]:
        """Begin anew with a program of bytecode (`bytecode_tables.Translation.compile`); bytes of code and data at most."""
        needs, evidence, lib = self._needs, self._evidence, self._lib
        items = [{"bits": n % (1 << 64), "negative": n < 0} for n in numbers] if numbers else self._ffi.NULL
        self.symbols.clear()
        while status := lib.cnp_compile(
            self._handle, table, job, items, len(numbers), frame, records, len(records) // RECORD.size,
            self.library.roots, 1, needs, evidence,
        ):  # fmt: skip
            self._check(self._prepare() if status == lib.CNP_UNPREPARED else status)
        return needs.bound, needs.data_bound

    def place(
        self, block: Block, addresses: Mapping[str, int], start: int = 0, position: int = 0
    ) -> tuple[int, int, int]:
        """Lay it out for executable memory and write it there: `settle`, `write` and publish. start: where in the block's code
        (`Slabs.take`). The bytes of code, and the addresses of the way in and of the operation at a position."""
        block.fill(partial(self._emit, block, addresses, start, position), start, self._needs.bound)
        size, enter, operation = self._made
        return size, enter, operation

    def _emit(
        self, block: Block, addresses: Mapping[str, int], start: int, position: int, place: int, room: int
    ) -> int:
        imports, symbols = self._outside(addresses)
        status = self._lib.cnp_emit(
            self._handle, block.code_address + start, block.data_address, imports, symbols, place, room,
            block.data_address, block.data_size, self.library.enter, position, self._made, self._evidence,
        )  # fmt: skip
        if status:
            self._check(status)
        size: int = self._made[0]
        return size

    def _outside(self, addresses: Mapping[str, int]) -> tuple[Any, Any]:
        """The addresses of all imports and symbols as the core takes them; the former are mostly those of the last program."""
        if addresses != self._addresses:
            self._addresses, self._imports = dict(addresses), self._imported(addresses)
        symbols = [addresses.get(name, 0) for name in self.symbols] if self.symbols else self._ffi.NULL
        return self._imports, symbols

    def _imported(self, addresses: Mapping[str, int]) -> Any:
        """The addresses of all imports."""
        imports = self.library.library.imports
        return self._ffi.new("uint64_t[]", [addresses.get(item.name, 0) for item in imports])

    def missing(self, addresses: Mapping[str, int]) -> list[str]:
        """Names of those that have to have an address, once it is linked, and are not among these."""
        return [name for name in self.needed() if name not in addresses]

    def needed(self) -> list[str]:
        """Names of the imports and symbols that have to have an address, once it is linked."""
        imports = [item.name for n, item in enumerate(self.library.library.imports) if self._needs.imports[n]]
        return imports + [name for name, n in self.symbols.items() if self._needs.symbols[n]]

    def settle(self, base: int, data_base: int, addresses: Mapping[str, int]) -> int:
        """Lay it out for these addresses; the bytes of code."""
        imports, symbols = self._outside(addresses)
        status = self._lib.cnp_settle(
            self._handle, base, data_base, imports, symbols, self._size, self._evidence
        )
        self._check(status)
        return int(self._size[0])

    def write(self, code: Buffer, data: Buffer) -> None:
        """The bytes, into writable buffers that may lie anywhere."""
        code, data = (self._ffi.from_buffer(item, require_writable=True) for item in (code, data))
        status = self._lib.cnp_write(self._handle, code, len(code), data, len(data), self._evidence)
        self._check(status)

    def written(self, size: int, data: Buffer) -> bytes:
        """The bytes of code, written once and copied no more; data: as for `write`."""
        code = bytes(size) if size > 1 else bytearray(size)  # nobody else has it yet
        place = self._ffi.cast("char *", self._ffi.from_buffer(code))
        data = self._ffi.from_buffer(data, require_writable=True)
        self._check(self._lib.cnp_write(self._handle, place, size, data, len(data), self._evidence))
        return bytes(code)

    def offset_array(self) -> array[int]:
        """The same as `offsets` in 4 bytes each."""
        found = array("I")
        found.frombytes(self._ffi.buffer(self._lib.cnp_offsets(self._handle), 4 * (len(self) + 1)))
        return found

    def odd_blocks(self) -> bytes:
        """Each a `struct cnp_block`: those that are not the hot one of an operation up to where the next begins."""
        lib, handle = self._lib, self._handle
        found = lib.cnp_blocks(handle) - len(self) + SOME_ODD  # of hot ones there are few as a rule
        room = 0
        while room < found:
            room = found
            blocks = self._ffi.new("struct cnp_block[]", room)
            found = lib.cnp_odd_blocks(handle, blocks, room)
        return bytes(self._ffi.buffer(blocks, found * self._ffi.sizeof("struct cnp_block")))

    def cell_place(self, cell: int) -> int:
        """Where a cell lies, in bytes from the data's base; -1: nothing uses it."""
        return int(self._lib.cnp_cell_place(self._handle, cell))

    def offsets(self) -> list[int]:
        """Where each operation begins, in bytes from the base, and where the last one ends."""
        return list(self._ffi.unpack(self._lib.cnp_offsets(self._handle), len(self) + 1))

    def offset(self, position: int) -> int:
        """Where one operation begins."""
        return int(self._lib.cnp_offsets(self._handle)[position])

    def routines(self) -> dict[str, int]:
        """The addresses of the routines that the image has."""
        address, handle = self._lib.cnp_routine_address, self._handle
        found = {name: address(handle, n) for n, name in enumerate(self.library.library.routine_names)}
        return {name: int(where) for name, where in found.items() if where}

    def routine_address(self, name: str) -> int:
        return int(self._lib.cnp_routine_address(self._handle, self.library.routine(name)))
