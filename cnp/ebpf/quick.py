"""From bytes to a callable by the core in C: verification, translation, choosing and patching, with little Python between."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, cast

from cnp import native
from cnp.assembler import Function as Label
from cnp.assembler import Slot
from cnp.bytecode import Bytecode, Step
from cnp.bytecode_rules import Labelled
from cnp.bytecode_tables import Translation
from cnp.ebpf.isa import R10, SIZE
from cnp.ebpf.stops import MAIN, stopped
from cnp.ebpf.table import BASE, Options, bytecode
from cnp.ebpf.translate import Places, Positions, entry, entry_base, pools_of, relocated, vocabulary
from cnp.ebpf.verify import MOST
from cnp.emit import Batch
from cnp.errors import BytecodeError
from cnp.frame import Needs
from cnp.labels import Labels
from cnp.library import Library
from cnp.link import NATIVE_FRAME, code_memory
from cnp.result import Result
from cnp.running import CALLABLE_FRAME, CALLABLE_SPARE, Frame, alone, finish, prepare, raise_held, state_at
from cnp.slabs import Slabs

if TYPE_CHECKING:
    from cnp.ebpf.program import Program

SIGNATURE = "uint64_t(uint64_t, uint64_t)"
MOST_KEPT = 1 << 16  #: operations whose memory stays for the next program
REGISTERS_OF_R10 = re.compile(
    b"[" + b"".join(re.escape(bytes((n,))) for n in range(256) if R10 in (n & 15, n >> 4)) + b"]"
)
LIKELY = 64 * SIZE  #: bytes of code that mention r10 if any do
_kept = threading.local()


class Kind:
    """What programs have in common that are compiled alike. regions: of data."""

    def __init__(
        self, options: Options, takes_r10: bool, packet: bool, unwind: int | None, regions: int
    ) -> None:
        self.library = library = vocabulary("host")
        self.bytecode = bytecode(library, options.checked, options.polls, takes_r10, packet, unwind)
        base = entry_base(regions, options.depth)
        largest = max(base, BASE)  # of the slots at which a callee's frame begins
        self.frame = base + 8
        self.needs = Needs(library.header_size + largest, largest + 8, native_frame(library))
        self.depth = min(options.depth, CALLABLE_SPARE // max(1, self.needs.native - CALLABLE_FRAME))
        self.frame_bytes = library.header_size + self.needs.frame_bytes(self.frame, self.depth)
        self.state = bytes(library.state_size)
        self.addresses = {native.POLL: native.poll_address()}
        self.bare = self.entry(options, Places()) if not regions else b""

    def entry(self, options: Options, places: Places) -> bytes:
        """The records of the function that is called from outside; the program's first function has the label 0."""
        base = Slot(entry_base(len(places.data), options.depth))
        steps: list[Step] = [*entry(self.library, options, places), ("call", Labelled(0), base), ("leave",)]
        return b"".join(self.bytecode.packed(step) for step in steps)


def mentions_r10(code: bytes) -> bool:
    """Whether some instruction has r10 as an operand."""
    early = REGISTERS_OF_R10.search(code[1:LIKELY:SIZE])
    return early is not None or REGISTERS_OF_R10.search(code[LIKELY + 1 :: SIZE]) is not None


kind_of = lru_cache(maxsize=64)(Kind)


class Compiled:
    """Machine code of a program on this machine. size: its bytes."""

    def __init__(self, program: Program, checked: Translation, options: Options, places: Places) -> None:
        self.program, self.options = program, options
        code, relocations, data = program.image.code, program.image.relocations, places.data
        self.kind = kind = kind_of(options, mentions_r10(code), places.packet != 0, places.unwind, len(data))
        if relocations:
            code = relocated(code, relocations, data)
        entry = kind.entry(options, places) if data or places.table else kind.bare
        desk, pools = desk_of(kind.library), given(kind.bytecode, places.helpers, places.packet)
        self._run, size, data_size = checked.compile(
            desk.batch, kind.bytecode, code, pools, kind.frame, entry
        )
        self._end = end = self._run.end
        self._block, start = desk.slabs.take(size, data_size)
        self.size, self.enter, self.address = desk.batch.place(self._block, kind.addresses, start, end)
        if end > MOST_KEPT:
            del _kept.desk

    @property
    def library(self) -> Library:
        return self.kind.library

    @property
    def needs(self) -> Needs:
        return self.kind.needs

    @cached_property
    def entry(self) -> Label:
        """The function that is called from outside."""
        return Label(MAIN, Labels(), None, True, frame=self.kind.frame)

    def instruction_at(self, op: int, name: str = MAIN) -> int:
        """Which instruction an operation belongs to."""
        return Positions(self._run.positions, self._end).instruction_at(op)

    def run(self, frame: Frame, fuel: int | None) -> Result:
        """As `Entry.run`."""
        as_code = cast(Any, self)  # a library and its needs are all that is asked of it
        with alone(frame):
            area = prepare(as_code, frame, {}, self.options.depth, fuel, self.entry, NATIVE_FRAME)
            native.run(self.enter, area.address, self.address)
            return finish(as_code, area)

    def callable(self) -> Callable[[int, int], int]:
        """A fast callable with address and size of the memory; it raises what stops the program."""
        kind, library = self.kind, self.kind.library

        def failed(what: int, trap: int, frame: int, op: int) -> int:
            raise_held(trap)
            return stopped(self.program, self, op, trap, state_at(library, frame))

        return native.make_callable(
            enter=self.enter, code=self.address, signature=SIGNATURE, header_size=library.header_size,
            state=kind.state, frame_bytes=kind.frame_bytes, depth=kind.depth, name=MAIN, doc=SIGNATURE,
            failed=failed, keepalive=self,
        )  # fmt: skip


class Desk:
    """What programs are compiled with."""

    def __init__(self, library: Library) -> None:
        self.batch, self.slabs = Batch(library), Slabs(code_memory(library.target))


def desk_of(library: Library) -> Desk:
    """That of this thread, for a new program."""
    desk: Desk | None = getattr(_kept, "desk", None)
    if desk is None:
        desk = _kept.desk = Desk(library)
    return desk


@lru_cache
def native_frame(library: Library) -> int:
    """Native stack of one nested call at most, in bytes."""
    calling = [library[name] for name in library.operations if library[name].calls]
    return max(form.near.stack for operation in calling for form in operation.forms) + NATIVE_FRAME


def checked(code: bytes, helpers: Collection[int], packet: bool, unwind: int | None) -> Translation | None:
    """A program that breaks no rule of verify.py; None: it does."""
    if not 0 < len(code) <= SIZE * MOST:
        return None
    rules = rules_of(packet, unwind)
    try:
        return rules.tables.check(
            code, given(rules, dict.fromkeys(helpers, 0) if helpers else {}, int(packet))
        )
    except BytecodeError:
        return None


def given(rules: Bytecode, helpers: Mapping[int, int], packet: int) -> dict[str, dict[int, int]]:
    """The numbers for a bytecode: addresses of helpers, and of the packet's callback, 0: there is none."""
    return rules.pools_of(pools_of(helpers, packet)) if helpers or packet else rules.empty


@lru_cache
def rules_of(packet: bool, unwind: int | None) -> Bytecode:
    """The bytecode by whose rules programs are checked."""
    return bytecode(vocabulary("host"), True, True, True, packet, unwind)
