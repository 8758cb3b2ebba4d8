"""Programs through the core in C: operations as records, the bytes and the errors that come back.

    Program --records--> cnp_program --> bytes, the same as those of cnp/patch.py

A record has 32 bytes (cnp/core/cnp_core.h draws it). cnp/records.py makes records of an assembler's operations.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from cnp.core_library import core_library
from cnp.errors import OperandError
from cnp.library import ENTER, Library

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
Buffer: TypeAlias = Any  #: bytes, array, memoryview, numpy array, mmap …
SOME_ODD = 256  #: hot blocks that room is made for at first


def flat(name: str, buffer: object) -> memoryview:
    """The bytes of a buffer. OperandError: it is none, or they do not lie one behind the other."""
    try:
        view = memoryview(buffer)  # type: ignore[arg-type]
        return view.cast("B") if view.nbytes else memoryview(b"")
    except TypeError as error:
        message = f"{name}: give a buffer of bytes that lie one behind the other, not this {type(buffer).__name__} ({error})"
        raise OperandError(message, op="", operand=name, value=buffer, allowed="a buffer") from error


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
        self._addresses: Mapping[Any, int] = {}
        self._imports = self._imported(self._addresses)
        self.symbols: dict[Any, int] = {}  # by name, or what else stands for it

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

    def symbol(self, name: object) -> int:
        """The number of a symbol. name: or an object that stands for one, and is not among those that are `needed`."""
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
        self, block: Block, addresses: Mapping[Any, int], start: int = 0, position: int = 0
    ) -> tuple[int, int, int]:
        """Lay it out for executable memory and write it there: `settle`, `write` and publish. start: where in the block's code
        (`Slabs.take`). The bytes of code, and the addresses of the way in and of the operation at a position."""
        block.fill(partial(self._emit, block, addresses, start, position), start, self._needs.bound)
        size, enter, operation = self._made
        return size, enter, operation

    def _emit(
        self, block: Block, addresses: Mapping[Any, int], start: int, position: int, place: int, room: int
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

    def _outside(self, addresses: Mapping[Any, int]) -> tuple[Any, Any]:
        """The addresses of all imports and symbols as the core takes them; the former are mostly those of the last program."""
        if addresses != self._addresses:
            self._addresses, self._imports = dict(addresses), self._imported(addresses)
        symbols = [addresses.get(name, 0) for name in self.symbols] if self.symbols else self._ffi.NULL
        return self._imports, symbols

    def _imported(self, addresses: Mapping[Any, int]) -> Any:
        """The addresses of all imports."""
        imports = self.library.library.imports
        return self._ffi.new("uint64_t[]", [addresses.get(item.name, 0) for item in imports])

    def missing(self, addresses: Mapping[Any, int]) -> list[str]:
        """Names of those that have to have an address, once it is linked, and are not among these."""
        return [name for name in self.needed() if name not in addresses]

    def needed(self) -> list[str]:
        """Names of the imports and symbols that have to have an address, once it is linked."""
        imports = [item.name for n, item in enumerate(self.library.library.imports) if self._needs.imports[n]]
        return imports + [
            name for name, n in self.symbols.items() if isinstance(name, str) and self._needs.symbols[n]
        ]

    def settle(self, base: int, data_base: int, addresses: Mapping[Any, int]) -> int:
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
