"""Executable memory: blocks for code and its data, for many threads, in arenas (cnp/arenas.py).

Fork. The pages of the scheme "dual" are shared with the children, so what the parent writes shows in them.
Therefore:
    * a range becomes free again only when no fork happened since its block was allocated: what a child may
      run is never rewritten, not even by traps (what was free at the time of the fork is nobody's);
    * the writable view is MADV_DONTFORK, so a child cannot write into the parent's code;
    * a child starts with no arenas of its own; inherited blocks stay executable, their free() does nothing;
    * data is private memory (copied on write), each process has its own cells.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from . import pages
from .arenas import KINDS, LINE, Arena, DualArena
from .errors import MemoryFault, StateError
from .pages import PAGE, round_up

MIB = 1 << 20


# --- Forks --------------------------------------------------------------------------------------------------


class _Forks:
    """What is known about forks of this process made by os.fork(), or told by note_fork()."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.under_way = 0
        self.done = 0
        self.lineage = 0  # differs between a process and its child even when a pid comes back
        os.register_at_fork(before=self.before, after_in_parent=self.in_parent, after_in_child=self.in_child)

    def before(self) -> None:
        with self.lock:
            self.under_way += 1

    def in_parent(self) -> None:
        with self.lock:
            self.done += 1
            self.under_way -= 1

    def in_child(self) -> None:
        self.lock = threading.Lock()  # a thread that is not here may have held the old one
        self.under_way = 0
        self.done += 1
        self.lineage += 1


_forks = _Forks()


def note_fork() -> None:
    """Tell that this process has forked in a way that Python does not see (fork() in a C library).

    Needed in the parent only; a child notices by itself. os.fork() and multiprocessing are seen anyway.
    """
    with _forks.lock:
        _forks.done += 1


# --- Blocks -------------------------------------------------------------------------------------------------


class Scheme(NamedTuple):
    """The scheme in use and the reason for it, for people."""

    name: str
    reason: str


class Probe(NamedTuple):
    """Two functions `int f(void)` of the machine, as bytes that run at any address, with their results.

    Both are run, one after the other at one address, to learn whether the machine (an emulator) sees a write
    through a second view.
    """

    first: tuple[bytes, int]
    second: tuple[bytes, int]


class Block:
    """Room for the code and the data of one piece of generated code. Made by CodeMemory.allocate().

    Addresses are aligned to 64 bytes. The code can be written once; it is executable from then on and does not
    change while anybody may run it. The owner calls free() when nobody runs it or holds its address any more.
    """

    __slots__ = (
        "__weakref__", "_arena", "_born", "_closed", "_code_at", "_data_at", "_held", "_memory", "_owner", "_view",
        "_written", "code_address", "code_size", "data_address", "data_size",
    )  # fmt: skip

    def __init__(
        self, memory: CodeMemory, arena: Arena, spot: tuple[int, int], code_size: int, data_size: int
    ) -> None:
        code_at, data_at = spot
        self._memory, self._arena, self._code_at, self._data_at = memory, arena, code_at, data_at
        self.code_size, self.data_size = code_size, data_size
        self.code_address = arena.base + code_at
        self.data_address = arena.data_base + data_at
        self._owner, self._born = memory._owner, (_forks.done, memory.fork_count())
        self._view: memoryview | None = None
        self._written = 0  # bytes
        self._closed = False  # free() was called
        self._held = True  # the ranges are still taken: changed only behind the gate

    @property
    def data(self) -> memoryview:
        """The data as writable bytes, zero at first; `.data.cast("Q")` gives 8-byte words.

        free() releases this view; what was made of it (slices, ctypes objects) must not be used afterwards.
        StateError after free().
        """
        if self._closed:
            raise StateError("the data of a freed block", state="freed")
        if self._view is None:
            self._view = pages.view(self.data_address, self.data_size)
        return self._view

    def write(self, code: bytes | bytearray | memoryview) -> None:
        """Publish the code, once: at most `code_size` bytes, then the flush of the instruction cache.

        StateError: written before, freed, or inherited from the process that forked. MemoryFault: it does
        not fit, or the system refused.
        """
        self._memory._publish(self, memoryview(code).cast("B"))

    def fill(self, writer: Callable[[int, int], int], start: int = 0, room: int | None = None) -> int:
        """Publish, once, what `writer(address, size)` writes to at most `size` bytes at an address, which need not be the one
        where they will run. It returns how many it wrote, at least 1, and so does this.

        start, room: into so many bytes of the code from there on, a multiple of 64, behind all that was published before, by
        one thread at a time, and only where blocks share pages. As for `write`; where `writer` raises, that part holds no code
        that anybody runs.
        """
        return self._memory._fill(self, writer, start, self.code_size - start if room is None else room)

    def rewrite(self, code: bytes | bytearray | memoryview) -> None:
        """Publish other code in the place of what nobody runs now, nor holds the address of an instruction of it.

        StateError: never written, freed, inherited, or a fork since may have given it to a child. MemoryFault: it does
        not fit, or the system refused; the block then holds traps, or nothing, and can be written.
        """
        self._memory._republish(self, memoryview(code).cast("B"))

    def free(self) -> None:
        """Give the ranges back; again is allowed and does nothing, nor does it in a child of the owner.

        StateError, and nothing is freed, while the view of the data is exported and cannot be released.
        """
        if self._closed:
            return
        if self._view is not None:
            try:
                self._view.release()
            except BufferError as error:
                raise StateError(f"the data of a block is in use: {error}", state="exported") from error
        self._closed = True
        self._memory._take_back(self)


class OwnedBlock(Block):
    """A block that is freed when nobody refers to it any more; but not while the process ends, as threads may run it."""

    __slots__ = ()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing():
            self.free()


def check_size(size: int, room: int) -> None:
    """MemoryFault: so many bytes of code do not fit."""
    if not 0 < size <= room:
        raise pages.fault("write", errno.EINVAL, size)


class _Gate:
    """A lock that tells a finalizer, run by the garbage collector in the thread that is inside, to go away.

    A plain lock would wait for itself there, a recursive one would let it into half-changed lists.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._busy = False

    def attempt(self) -> bool:
        """Enter, if nobody is inside."""
        if not self._lock.acquire(blocking=False):
            return False
        if self._busy:
            self._lock.release()
            return False
        self._busy = True
        return True

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._busy:
            self._lock.release()
            raise StateError("code memory was asked for by a finalizer that interrupted it", state="busy")
        self._busy = True

    def __exit__(self, *_: object) -> None:
        self._busy = False
        self._lock.release()


class CodeMemory:
    """Arenas of executable memory; safe to use from many threads.

    trap        an instruction that traps, 1 to 64 bytes, a power of two; b"": freed code is left as it is
    region      no arena crosses a multiple of it, unless it is larger: a jump in a region reaches all of it
    flush       called with address and size after every write of code, before its first call
    fork_count  a number that changes with each fork, both before and after it; negative while one is under
                way: what the handlers of a C pthread_atfork() count, for forks that Python does not see
    probe       code to learn whether the machine sees writes through another view; None: bytes are compared
    arena_size  bytes of an arena, three quarters of it for code; a larger request gets an arena of its own
    scheme      "dual" or "flip"; None: the environment's CNP_MEMORY, else what a trial shows to work
    """

    def __init__(
        self,
        *,
        trap: bytes = b"",
        region: int = 256 * MIB,
        flush: Callable[[int, int], None] = lambda address, size: None,
        fork_count: Callable[[], int] = lambda: 0,
        probe: Probe | None = None,
        arena_size: int = 64 * MIB,
        scheme: str | None = None,
    ) -> None:
        if trap and LINE % len(trap):
            raise ValueError(f"a trap of {len(trap)} bytes does not fill {LINE} bytes")
        self.flush = flush
        self.fork_count = fork_count
        self._trap = trap * (PAGE // len(trap)) if trap else b""
        self._region = region
        self._data_part = round_up(arena_size // 4, PAGE)
        self._code_part = round_up(arena_size - self._data_part, PAGE)
        self._reset()
        self.scheme = self._choose(scheme, probe)
        self._kind = KINDS[self.scheme.name]

    def _reset(self) -> None:
        """Start without arenas: at first, and again in each child."""
        self._owner = (os.getpid(), _forks.lineage)
        self._gate = _Gate()
        self._arenas: list[Arena] = []
        self._returned: deque[Block] = deque()

    # Choice of the scheme

    def _choose(self, scheme: str | None, probe: Probe | None) -> Scheme:
        if scheme is not None:
            return self._named(scheme, "asked for by the program")
        if asked := os.environ.get("CNP_MEMORY"):
            return self._named(asked, f"CNP_MEMORY={asked}")
        try:
            complaint = self._try_dual(probe)
        except MemoryFault as fault:
            complaint = str(fault)
        if complaint:
            return Scheme("flip", f"two views of one memory do not work here: {complaint}")
        return Scheme("dual", "two views of one memory work here (tried)")

    def _named(self, name: str, reason: str) -> Scheme:
        if name not in KINDS:
            raise StateError(f"memory scheme {name!r}: not one of {', '.join(KINDS)}", state=name)
        return Scheme(name, reason)

    def _try_dual(self, probe: Probe | None) -> str:
        """Write twice through one view and look through the other; what is wrong, or an empty string."""
        arena = DualArena(PAGE, PAGE, PAGE * 2, self._trap)
        try:
            for code, result in probe or ((b"first", 0), (b"second", 0)):
                arena.publish(0, memoryview(code))
                self.flush(arena.base, len(code))
                if ctypes.string_at(arena.base, len(code)) != code:
                    return "the second view does not show what was written"
                if probe and ctypes.CFUNCTYPE(ctypes.c_int)(arena.base)() != result:
                    return "the machine runs old code after a write through the other view"
        finally:
            arena.unmap()
        return ""

    # Blocks

    def allocate(self, code_size: int, data_size: int = 0, owned: bool = False) -> Block:
        """Room for code_size >= 1 bytes of code and data_size >= 0 zero bytes of data, near each other. owned: it is freed
        with the last reference to it.

        Both lie in one arena, less than `arena_size` apart, or than the sum of both sizes if that is larger.
        MemoryFault: the sizes are out of range, or the system refused.
        """
        if code_size < 1 or data_size < 0:
            raise pages.fault("allocate", errno.EINVAL, min(code_size, data_size))
        self._notice_child()
        if self._returned:
            self._settle()
        with self._gate:
            code = round_up(code_size, self._kind.grain)
            arena, spot = self._place(code, round_up(data_size, LINE))
            return (OwnedBlock if owned else Block)(self, arena, spot, code_size, data_size)

    @property
    def shares_pages(self) -> bool:
        """Whether blocks share pages, so that one can be written to piece by piece while others run what is in it."""
        return self._kind.shared

    def owns(self, block: Block) -> bool:
        """Whether a block was allocated by this process, and not by the one that forked."""
        self._notice_child()
        return block._owner == self._owner

    def _place(self, code: int, data: int) -> tuple[Arena, tuple[int, int]]:
        """The first arena with room for both ranges, or a new one. Behind the gate."""
        alone = code > self._code_part or data > self._data_part
        if not alone:
            for arena in self._arenas:
                if spot := arena.take(code, data):
                    return arena, spot
        parts = (
            (round_up(code, PAGE), round_up(max(data, 1), PAGE))
            if alone
            else (self._code_part, self._data_part)
        )
        arena = self._kind(*parts, self._region, self._trap)
        if not alone:
            self._arenas.append(arena)
        spot = arena.take(code, data)
        if spot is None:
            raise pages.fault("allocate", errno.ENOMEM, code)
        return arena, spot

    def _publish(self, block: Block, code: memoryview) -> None:
        self._notice_child()
        with self._gate:
            self._check_empty(block)
            check_size(len(code), block.code_size)
            block._arena.publish(block._code_at, code)
            block._written = len(code)
        self.flush(block.code_address, len(code))

    def _fill(self, block: Block, writer: Callable[[int, int], int], start: int, room: int) -> int:
        arena, at = block._arena, block._code_at + start
        check_size(room, block.code_size - start)
        if start % LINE or start < 0 or (start and not arena.shared):
            raise pages.fault("write", errno.EINVAL, start)
        self._notice_child()
        if block._written:
            self._check_empty(block, start)
            address, block._written = arena.writable + at, start + room
        else:
            with self._gate:
                self._check_empty(block)
                address, block._written = arena.open(block._code_at, block.code_size) + start, start + room
        # the range is this block's alone: others need not wait
        size = writer(address, room)
        check_size(size, room)
        block._written = start + arena.close(at, size, block.code_size)
        self.flush(block.code_address + start, size)
        return size

    def _check_empty(self, block: Block, start: int = 0) -> None:
        """StateError: nothing can be written into a block from there on. Behind the gate."""
        if block._closed or block._written > start or block._owner != self._owner:
            state = "freed" if block._closed else "written" if block._written > start else "inherited"
            raise StateError(f"code cannot be written into a block that is {state}", state=state)

    def _republish(self, block: Block, code: memoryview) -> None:
        self._notice_child()
        with self._gate:
            arena = block._arena
            forked = arena.shared and not self._unforked(block)
            state = "freed" if block._closed else "" if block._written else "empty"
            state = state or ("inherited" if block._owner != self._owner else "forked" if forked else "")
            if state:
                raise StateError(f"code cannot be rewritten in a block that is {state}", state=state)
            check_size(len(code), block.code_size)
            arena.withdraw(block._code_at, round_up(block._written, LINE))
            block._written = 0
        self._publish(block, code)

    def _take_back(self, block: Block) -> None:
        self._notice_child()
        self._returned.append(block)
        self._settle()

    def _settle(self) -> None:
        """Release what was returned, unless somebody is inside: then the next call does it."""
        while self._returned and self._gate.attempt():
            try:
                while self._returned:
                    self._release(self._returned.popleft())
            finally:
                self._gate.__exit__()

    def _release(self, block: Block) -> None:
        """Make the ranges of a block free, or unmap an arena with nothing left in it. Behind the gate."""
        if not block._held or block._owner != self._owner:
            return
        block._held = False
        arena = block._arena
        reusable = not arena.shared or self._unforked(block)
        arena.live -= 1
        arena.lost |= not reusable
        if not arena.live and not self._worth_keeping(arena):
            if arena in self._arenas:
                self._arenas.remove(arena)
            arena.unmap()
            return
        if block.data_size:
            arena.wipe_data(block._data_at, round_up(block.data_size, LINE))
        if reusable:
            if block._written:
                arena.withdraw(block._code_at, round_up(block._written, LINE))
            arena.code.give(block._code_at, round_up(block.code_size, arena.grain))

    def _worth_keeping(self, arena: Arena) -> bool:
        """Of the empty arenas one is kept, if all of it can be used again: the next block comes soon."""
        if arena.lost or arena not in self._arenas:
            return False
        return not any(not other.live for other in self._arenas if other is not arena)

    # Forks

    def _stamp(self) -> tuple[int, int]:
        return _forks.done, self.fork_count()

    def _unforked(self, block: Block) -> bool:
        """Whether no child can have the block: no fork is under way or was made since the allocation."""
        stamp = self._stamp()
        return not _forks.under_way and stamp[1] >= 0 and stamp == block._born

    def _notice_child(self) -> None:
        """In a child: leave the arenas to the parent, and its gate, which another thread may have held."""
        pid, lineage = self._owner
        if lineage == _forks.lineage and pid == os.getpid():
            return
        with _forks.lock:
            if self._owner != (os.getpid(), _forks.lineage):
                self._reset()


_default: CodeMemory | None = None
_default_lock = threading.Lock()


def default(create: Callable[..., CodeMemory] = CodeMemory, *arguments: object) -> CodeMemory:
    """The memory of this process, made by `create` with these arguments at the first call."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = create(*arguments)
    return _default
