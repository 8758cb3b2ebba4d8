"""From bytes to a callable by the core in C: verification, translation, choosing and patching, with little Python between."""

from __future__ import annotations

import ctypes
import re
import threading
import weakref
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from cnp import frame as layout
from cnp import native
from cnp.assembler import Function as Label
from cnp.assembler import Program as Operations
from cnp.assembler import Slot
from cnp.bytecode import Step
from cnp.bytecode_rules import Labelled
from cnp.bytecode_tables import Translation
from cnp.ebpf.isa import R10, SIZE
from cnp.ebpf.stops import MAIN, stopped
from cnp.ebpf.table import BASE, HELPERS, PACKET, Options
from cnp.ebpf.translate import PACKETS, Places, Positions, described, entry, entry_base, relocated, vocabulary
from cnp.ebpf.verify import MOST
from cnp.emit import Batch
from cnp.errors import BytecodeError
from cnp.frame import Needs
from cnp.library import Library
from cnp.link import NATIVE_FRAME, code_memory
from cnp.result import Result
from cnp.running import CALLABLE_FRAME, CALLABLE_SPARE, Frame, alone, finish, prepare, raise_held

if TYPE_CHECKING:
    from cnp.ebpf.program import Program

SIGNATURE = "uint64_t(uint64_t, uint64_t)"
POLL = "cnp_poll"
MOST_KEPT = 1 << 16  #: operations whose memory stays for the next program
MENTIONS_R10 = re.compile(
    b"[" + b"".join(re.escape(bytes((n,))) for n in range(256) if R10 in (n & 15, n >> 4)) + b"]"
)
_kept = threading.local()


class Compiled:
    """Machine code of a program on this machine. size: its bytes."""

    def __init__(self, program: Program, options: Options, places: Places) -> None:
        self.program, self.options = program, options
        self.library = library = vocabulary("host")
        base = entry_base(len(places.data), options.depth)
        self.entry = Label(MAIN, Operations(library), None, True, frame=base + 8)
        largest = max(base, BASE)  # of the slots at which a callee's frame begins
        self.needs = Needs(library.header_size + largest, largest + 8, native_frame(library))
        batch = kept_batch(library)
        code = relocated(program.image.code, program.image.relocations, places.data)
        takes_r10 = MENTIONS_R10.search(code[1::SIZE]) is not None
        made = described(library, options, places, takes_r10).extend(
            batch, code, places.pools, program.checked
        )
        end = len(batch)
        self.positions = Positions(made.places, end)
        batch.function(base + 8)
        batch.extend(entry_records(library, options, places))
        self._place(batch)
        self.enter = batch.routine_address("cnp_enter")
        self.address = self._block.code_address + batch.offset(end)
        if end > MOST_KEPT:
            del _kept.batch

    def _place(self, batch: Batch) -> None:
        """Into executable memory, which is freed with this object."""
        code_size, data_size = batch.link()
        self._block = block = code_memory(self.library.target).allocate(code_size, data_size)
        try:
            self.size = batch.settle(block.code_address, block.data_address, {POLL: native.poll_address()})
            code, data = bytearray(self.size), bytearray(data_size)
            batch.write(code, data)
            block.data[:data_size] = data
            block.write(code)
        except BaseException:
            block.free()
            raise
        weakref.finalize(self, block.free).atexit = False  # threads may run it until the process is gone

    def instruction_at(self, op: int, name: str = MAIN) -> int:
        """Which instruction an operation belongs to."""
        return self.positions.instruction_at(op)

    def run(self, frame: Frame, fuel: int | None) -> Result:
        """As `Entry.run`."""
        as_code = cast(Any, self)  # a library and its needs are all that is asked of it
        with alone(frame):
            area = prepare(as_code, frame, {}, self.options.depth, fuel, self.entry, NATIVE_FRAME)
            native.run(self.enter, area.address, self.address)
            return finish(as_code, area)

    def callable(self) -> Callable[[int, int], int]:
        """A fast callable with address and size of the memory; it raises what stops the program."""
        library, depth = self.library, self.options.depth
        depth = min(depth, CALLABLE_SPARE // max(1, self.needs.native - CALLABLE_FRAME))

        def failed(kind: int, trap: int, frame: int, op: int) -> int:
            raise_held(trap)
            header = ctypes.string_at(frame - library.header_size, library.header_size)
            return stopped(self.program, self, op, trap, layout.unpack_header(library, header).state)

        frame_bytes = library.header_size + self.needs.frame_bytes(self.entry.frame, depth)
        return native.make_callable(
            enter=self.enter, code=self.address, signature=SIGNATURE, header_size=library.header_size,
            state=bytes(library.state_size), frame_bytes=frame_bytes, depth=depth, name=MAIN, doc=SIGNATURE,
            failed=failed, keepalive=self,
        )  # fmt: skip


def kept_batch(library: Library) -> Batch:
    """An empty batch; each thread keeps one."""
    batch: Batch | None = getattr(_kept, "batch", None)
    if batch is None:
        batch = _kept.batch = Batch(library)
    batch.reset()
    return batch


@lru_cache
def native_frame(library: Library) -> int:
    """Native stack of one nested call at most, in bytes."""
    calling = [library[name] for name in library.operations if library[name].calls]
    return max(form.near.stack for operation in calling for form in operation.forms) + NATIVE_FRAME


def entry_records(library: Library, options: Options, places: Places) -> bytes:
    """The entry's operations as records, the first function having the label 0."""
    if not places.data and not places.table:
        return bare_entry(library, options)
    return packed_entry(library, options, places)


@lru_cache
def bare_entry(library: Library, options: Options) -> bytes:
    return packed_entry(library, options, Places())


def packed_entry(library: Library, options: Options, places: Places) -> bytes:
    base = Slot(entry_base(len(places.data), options.depth))
    steps: list[Step] = [*entry(library, options, places), ("call", Labelled(0), base), ("leave",)]
    return b"".join(described(library, options, places).packed(step) for step in steps)


def checked(code: bytes, helpers: Collection[int], packet: bool, unwind: int | None) -> Translation | None:
    """A program that breaks no rule of verify.py; None: it does."""
    if not 0 < len(code) <= SIZE * MOST:
        return None
    library = vocabulary("host")
    pools = {HELPERS: dict.fromkeys(helpers, 0), PACKET: dict.fromkeys(PACKETS, 0)}
    places = Places(packet=int(packet), unwind=unwind)
    table = described(library, Options(), places)
    try:
        return table.tables.check(code, table.pools_of(pools))
    except BytecodeError:
        return None
