"""A library handed to the core in C: its tables, memory for its programs, and what errors mean.

Library --tables--> cnp_library        made once for each library, its operations when they are first used
"""

from __future__ import annotations

import threading
from typing import Any

from cnp import native
from cnp.errors import CnpError, LabelError, LibraryError, OperandError, RangeError, StateError
from cnp.library import ENTER, MALFORMED, STUBS, Library
from cnp.operands import Register
from cnp.stencil import What
from cnp.tables import HOLE, TABLES

#: Kinds of operands in the file -> enum cnp_accept.
ACCEPTS = {
    "r": 0, "f": 1, "slot": 2, "u32": 5, "f32": 5, "u64": 6, "f64": 6, "label": 7, "func": 8, "cell": 9, "table": 10,
    "symbol": 11,
}  # fmt: skip
SIGNED, PLAIN_UNSIGNED = 3, 4


def core() -> tuple[Any, Any]:
    """ffi and lib of the compiled core. StateError: it is not there."""
    module = native.core_module
    if module is None:
        raise StateError(f"the core in C is missing: {native.reason}", state="pure")
    return module.ffi, module.lib


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
            "stubs": self._array("int32_t", [self.routines[name] for name in STUBS.values()]),
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
