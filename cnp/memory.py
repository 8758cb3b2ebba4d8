"""Executable memory: every system call on memory in this project, each checked, and the arenas built on them.

An arena is one reservation of address space, so that code and data of a block are always near each other:

    base                         base + code                base + code + data
      | block | block |   free     | data | data |   free     |
      |<------ R-X, or PROT_NONE ->|<--------- RW- ---------->|        never W and X in one mapping
          ^ "dual": the same pages, seen a second time elsewhere as RW- (a memfd mapped twice)

Two schemes, because no single one works everywhere:

    dual   one memfd, two shared views. Blocks of 64 bytes share pages, publishing is a copy (no system call),
           works under PR_SET_MDWE, and no page ever changes its protection under whoever runs on it.
    flip   fresh private pages, RW- while they are written, R-X from then on; a block has pages of its own, so
           that a flip never concerns a neighbour. For kernels without an executable memfd, and for emulators
           that keep running stale code after a write through another view (qemu-user does).

Fork. The pages of "dual" are shared with the children, so what the parent writes shows in them. Therefore:
    * a range becomes free again only when no fork happened since its block was allocated: what a child may
      run is never rewritten, not even by traps (what was free at the time of the fork is nobody's);
    * the writable view is MADV_DONTFORK, so a child cannot write into the parent's code;
    * a child starts with no arenas of its own; inherited blocks stay executable, their free() does nothing;
    * data is private memory (copied on write), each process has its own cells.

Bound by ctypes: importing it takes 2-5 ms, against 46-72 ms for cffi in ABI mode, whose cdef() imports
pycparser (CPython 3.11); from the import of cnp to the first call there are 100 ms.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from .errors import MemoryFault, StateError

LINE = 64
"""Alignment of blocks in bytes: a cache line of all targets, enough for any constant in the data."""

PAGE = mmap.PAGESIZE
MIB = 1 << 20
_CHUNK = max(PAGE, 64 << 10)  # unit in which pages of a memfd are taken from the system
_LIMIT = 1 << 62  # no address space is larger; ctypes would cut a larger number without a word
_R_X = mmap.PROT_READ | mmap.PROT_EXEC
_RW_ = mmap.PROT_READ | mmap.PROT_WRITE
_NONE = 0  # PROT_NONE
_FRESH = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
_MAP_FIXED = 0x10  # the same on all five targets, unlike MAP_ANONYMOUS
_MFD_NOEXEC_SEAL = 8  # Linux 6.3: execve() of the file is refused, mapping it R-X is not
_MADV_POPULATE_WRITE = 23  # Linux 5.14


# --- System calls -------------------------------------------------------------------------------------------


def _bind() -> ctypes.CDLL:
    """The C library with the types of the calls used here."""
    libc = ctypes.CDLL(None, use_errno=True)
    word, number = ctypes.c_size_t, ctypes.c_int
    libc.mmap.argtypes, libc.mmap.restype = [word, word, number, number, number, ctypes.c_int64], word
    libc.munmap.argtypes = [word, word]
    libc.mprotect.argtypes = [word, word, number]
    libc.madvise.argtypes = [word, word, number]
    return libc


_libc: Any = _bind()


def _fault(call: str, code: int, size: int) -> MemoryFault:
    name = errno.errorcode.get(code, str(code))
    message = f"{call} of {size} bytes: {name}, {os.strerror(code)}"
    return MemoryFault(message, call=call, errno=code, size=size)


def _check(call: str, status: int, size: int) -> None:
    if status != 0:
        raise _fault(call, ctypes.get_errno(), size)


def _mmap(address: int, size: int, protection: int, flags: int, file: int = -1) -> int:
    """Map `size` bytes; address 0: anywhere. Returns the address."""
    if not 0 < size < _LIMIT:
        raise _fault("mmap", errno.ENOMEM, size)
    result: int = _libc.mmap(address, size, protection, flags, file, 0)
    if result == ctypes.c_size_t(-1).value:  # MAP_FAILED
        raise _fault("mmap", ctypes.get_errno(), size)
    return result


def _munmap(address: int, size: int) -> None:
    _check("munmap", _libc.munmap(address, size), size)


def _mprotect(address: int, size: int, protection: int) -> None:
    _check("mprotect", _libc.mprotect(address, size, protection), size)


def _madvise(address: int, size: int, advice: int) -> None:
    _check("madvise", _libc.madvise(address, size, advice), size)


def _memfd(size: int) -> int:
    """A new file of `size` zero bytes in memory. Pages are taken when they are first touched."""
    if not hasattr(os, "memfd_create"):
        raise _fault("memfd_create", errno.ENOSYS, size)
    try:
        try:
            file = os.memfd_create("cnp-code", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
        except OSError as unknown:
            if unknown.errno != errno.EINVAL:
                raise
            file = os.memfd_create("cnp-code", os.MFD_CLOEXEC)  # a kernel that does not know the seal
    except OSError as error:
        raise _fault("memfd_create", error.errno or 0, size) from error
    try:
        os.ftruncate(file, size)
    except OSError as error:
        os.close(file)
        raise _fault("ftruncate", error.errno or 0, size) from error
    return file


def _reserve(size: int, region: int) -> int:
    """Address space without access that crosses no multiple of `region`, if it is not longer than one.

    Twice the size always holds such a piece. It starts at the boundary, if one lies in the first half; what
    lies around it is given back:

        start     boundary                                    start           boundary
          |---------|==size==|-------|      otherwise           |==size==|-------|------|
    """
    if size > region:
        return _mmap(0, size, _NONE, _FRESH)
    start = _mmap(0, 2 * size, _NONE, _FRESH)
    boundary = _round_up(start, region)
    base = boundary if boundary < start + size else start
    if base > start:
        _munmap(start, base - start)
    if base < start + size:
        _munmap(base + size, start + size - base)
    return base


def _view(address: int, size: int) -> memoryview:
    """Bytes at an address. Nothing keeps the mapping alive: release the view before the memory goes."""
    if not size:
        return memoryview(bytearray())  # an empty array cannot be cast
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


# --- Free space ---------------------------------------------------------------------------------------------


class Intervals:
    """The free parts of the interval [0, size), in bytes: first fit, neighbours are joined."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size  # bytes in all
        self._starts = [0]
        self._ends = [size]
        self._bound = size  # no free part is longer: a full arena refuses without a search

    def take(self, size: int) -> int | None:
        """Start of the lowest free part of `size` > 0 bytes, which is free no longer; None: there is none."""
        if size > self._bound:
            return None
        for index, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            if end - start >= size:
                self.free -= size
                if end - start > size:
                    self._starts[index] += size
                else:
                    del self._starts[index], self._ends[index]
                return start
        self._bound = size - 1
        return None

    def give(self, start: int, size: int) -> None:
        """Make [start, start + size) free again. StateError when part of it is free or out of range."""
        end, index = start + size, bisect_right(self._starts, start)
        low = self._ends[index - 1] if index else 0
        high = self._starts[index] if index < len(self._starts) else self.size
        if size < 1 or start < low or end > high:
            raise StateError(f"[{start}, {end}) is not taken", state="free")
        left, right = bool(index) and low == start, high == end and index < len(self._starts)
        first, last = index - left, index + right
        joined = (self._starts[first] if left else start), (self._ends[index] if right else end)
        self._starts[first:last], self._ends[first:last] = [joined[0]], [joined[1]]
        self._bound = max(self._bound, joined[1] - joined[0])
        self.free += size

    def parts(self) -> list[tuple[int, int]]:
        """All free parts as (start, end), ascending, none touching the next."""
        return list(zip(self._starts, self._ends, strict=True))


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


# --- Arenas -------------------------------------------------------------------------------------------------


class _Arena:
    """One reservation: a code part and a data part, each with its free intervals (drawn above)."""

    grain: ClassVar[int]
    """Unit of code ranges in bytes."""
    shared: ClassVar[bool]
    """Whether a child sees what the parent writes."""

    def __init__(self, code: int, data: int, region: int, trap: bytes) -> None:
        self.code = Intervals(code)
        self.data = Intervals(data)
        self.live = 0  # blocks that are not freed
        self.lost = False  # whether a range was given up because a child may run what is in it
        self._trap = trap
        with contextlib.ExitStack() as undo:
            self.base = _reserve(code + data, region)
            undo.callback(_munmap, self.base, code + data)
            _mprotect(self.base + code, data, _RW_)
            self.writable = self._map_code()
            undo.pop_all()
        self._bytes = _view(self.writable, code)

    def _map_code(self) -> int:
        """Make the code part usable; returns the address at which it is written."""
        raise NotImplementedError

    def publish(self, start: int, code: memoryview) -> None:
        """Copy code to its place. Afterwards it is executable, the instruction cache aside."""
        raise NotImplementedError

    def withdraw(self, start: int, size: int) -> None:
        """Take back what publish() wrote into a range that nobody runs any more."""
        raise NotImplementedError

    def _copy(self, start: int, code: memoryview) -> None:
        """Copy, and fill the rest of the last line with traps."""
        end = start + len(code)
        self._bytes[start:end] = code
        if self._trap and end % LINE:
            self._bytes[end : _round_up(end, LINE)] = self._trap[end % LINE : LINE]

    def take(self, code: int, data: int) -> tuple[int, int] | None:
        """Offsets of a code range and a data range, or None. A data range of 0 bytes lies at 0."""
        start = self.code.take(code)
        if start is None:
            return None
        words = self.data.take(data) if data else 0
        if words is None:
            self.code.give(start, code)
            return None
        self.live += 1
        return start, words

    def wipe_data(self, start: int, size: int) -> None:
        """Zero a data range and make it free."""
        ctypes.memset(self.base + self.code.size + start, 0, size)
        self.data.give(start, size)

    def unmap(self) -> None:
        self._bytes.release()
        _munmap(self.base, self.code.size + self.data.size)


class _DualArena(_Arena):
    grain = LINE
    shared = True

    def _map_code(self) -> int:
        size = self.code.size
        self._touched = bytearray(_round_up(size, _CHUNK) // _CHUNK)
        file = _memfd(size)
        try:
            _mmap(self.base, size, _R_X, mmap.MAP_SHARED | _MAP_FIXED, file)
            writable = _mmap(0, size, _RW_, mmap.MAP_SHARED, file)
        finally:
            os.close(file)  # the mappings keep the memory; a number kept could be closed and reused by others
        try:
            _madvise(writable, size, mmap.MADV_DONTFORK)
        except MemoryFault:
            _munmap(writable, size)
            raise
        return writable

    def publish(self, start: int, code: memoryview) -> None:
        self._populate(start, len(code))
        self._copy(start, code)

    def _populate(self, start: int, size: int) -> None:
        """Take the pages from the system now: lack of memory is an error here, and SIGBUS in the copy."""
        first, last = start // _CHUNK, _round_up(start + size, _CHUNK) // _CHUNK
        if self._touched.find(0, first, last) < 0:
            return
        low, high = first * _CHUNK, min(last * _CHUNK, self.code.size)
        try:
            _madvise(self.writable + low, high - low, _MADV_POPULATE_WRITE)
        except MemoryFault as fault:
            if fault.errno != errno.EINVAL:  # EINVAL: a kernel before 5.14, which cannot be asked
                raise
        self._touched[first:last] = b"\1" * (last - first)

    def withdraw(self, start: int, size: int) -> None:
        if not self._trap:
            return
        for at in range(start, start + size, len(self._trap)):
            end = min(at + len(self._trap), start + size)
            self._bytes[at:end] = self._trap[: end - at]

    def unmap(self) -> None:
        super().unmap()
        _munmap(self.writable, self.code.size)


class _FlipArena(_Arena):
    grain = PAGE
    shared = False

    def _map_code(self) -> int:
        return self.base

    def publish(self, start: int, code: memoryview) -> None:
        size = _round_up(len(code), PAGE)
        _mprotect(self.base + start, size, _RW_)
        self._copy(start, code)
        _mprotect(self.base + start, size, _R_X)

    def withdraw(self, start: int, size: int) -> None:
        """New pages instead of the old: R-X never turns into RW-, and the memory goes back to the system."""
        _mmap(self.base + start, _round_up(size, PAGE), _NONE, _FRESH | _MAP_FIXED)


_ARENAS: dict[str, type[_Arena]] = {"dual": _DualArena, "flip": _FlipArena}


# --- What the other modules use -----------------------------------------------------------------------------


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

    Addresses are aligned to 64 bytes. The code can be written once; it is executable from then on and never
    changes. The owner calls free() when nobody runs it or holds its address any more.
    """

    def __init__(
        self, memory: CodeMemory, arena: _Arena, spot: tuple[int, int], sizes: tuple[int, int]
    ) -> None:
        self._memory, self._arena = memory, arena
        self._code_at, self._data_at = spot
        self.code_size, self.data_size = sizes
        self.code_address = arena.base + self._code_at
        self.data_address = arena.base + arena.code.size + self._data_at
        self._owner, self._born = memory._owner, memory._stamp()
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
            self._view = _view(self.data_address, self.data_size)
        return self._view

    def write(self, code: bytes | bytearray | memoryview) -> None:
        """Publish the code, once: at most `code_size` bytes, then the flush of the instruction cache.

        StateError: written before, freed, or inherited from the process that forked. MemoryFault: it does
        not fit, or the system refused.
        """
        self._memory._publish(self, memoryview(code).cast("B"))

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


class _Gate:
    """A lock that tells a finalizer, run by the garbage collector in the thread that is inside, to go away.

    A plain lock would wait for itself there, a recursive one would let it into half-changed lists.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._busy = False

    def attempt(self, wait: bool = False) -> bool:
        if not self._lock.acquire(blocking=wait):
            return False
        if self._busy:
            self._lock.release()
            return False
        self._busy = True
        return True

    def __enter__(self) -> None:
        if not self.attempt(wait=True):
            raise StateError("code memory was asked for by a finalizer that interrupted it", state="busy")

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
        self._data_part = _round_up(arena_size // 4, PAGE)
        self._code_part = _round_up(arena_size - self._data_part, PAGE)
        self._reset()
        self.scheme = self._choose(scheme, probe)
        self._kind = _ARENAS[self.scheme.name]

    def _reset(self) -> None:
        """Start without arenas: at first, and again in each child."""
        self._owner = (os.getpid(), _forks.lineage)
        self._gate = _Gate()
        self._arenas: list[_Arena] = []
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
        if name not in _ARENAS:
            raise StateError(f"memory scheme {name!r}: not one of {', '.join(_ARENAS)}", state=name)
        return Scheme(name, reason)

    def _try_dual(self, probe: Probe | None) -> str:
        """Write twice through one view and look through the other; what is wrong, or an empty string."""
        arena = _DualArena(PAGE, PAGE, PAGE * 2, self._trap)
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

    def allocate(self, code_size: int, data_size: int = 0) -> Block:
        """Room for code_size >= 1 bytes of code and data_size >= 0 zero bytes of data, near each other.

        Both lie in one arena, less than `arena_size` apart, or than the sum of both sizes if that is larger.
        MemoryFault: the sizes are out of range, or the system refused.
        """
        if code_size < 1 or data_size < 0:
            raise _fault("allocate", errno.EINVAL, min(code_size, data_size))
        self._notice_child()
        self._settle()
        with self._gate:
            code = _round_up(code_size, self._kind.grain)
            arena, spot = self._place(code, _round_up(data_size, LINE))
            return Block(self, arena, spot, (code_size, data_size))

    def _place(self, code: int, data: int) -> tuple[_Arena, tuple[int, int]]:
        """The first arena with room for both ranges, or a new one. Behind the gate."""
        alone = code > self._code_part or data > self._data_part
        for arena in () if alone else self._arenas:
            if spot := arena.take(code, data):
                return arena, spot
        parts = (
            (_round_up(code, PAGE), _round_up(max(data, 1), PAGE))
            if alone
            else (self._code_part, self._data_part)
        )
        arena = self._kind(*parts, self._region, self._trap)
        if not alone:
            self._arenas.append(arena)
        spot = arena.take(code, data)
        if spot is None:
            raise _fault("allocate", errno.ENOMEM, code)
        return arena, spot

    def _publish(self, block: Block, code: memoryview) -> None:
        self._notice_child()
        self._settle()
        with self._gate:
            state = "freed" if block._closed else "written" if block._written else ""
            state = state or ("inherited" if block._owner != self._owner else "")
            if state:
                raise StateError(f"code cannot be written into a block that is {state}", state=state)
            if not 0 < len(code) <= block.code_size:
                raise _fault("write", errno.EINVAL, len(code))
            block._arena.publish(block._code_at, code)
            block._written = len(code)
        self.flush(block.code_address, len(code))

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
            arena.wipe_data(block._data_at, _round_up(block.data_size, LINE))
        if reusable:
            if block._written:
                arena.withdraw(block._code_at, _round_up(block._written, LINE))
            arena.code.give(block._code_at, _round_up(block.code_size, arena.grain))

    def _worth_keeping(self, arena: _Arena) -> bool:
        """Of the empty arenas one is kept, if all of it can be used again: the next block comes soon."""
        others = any(not other.live for other in self._arenas if other is not arena)
        return arena in self._arenas and not arena.lost and not others

    # Forks

    def _stamp(self) -> tuple[int, int]:
        return _forks.done, self.fork_count()

    def _unforked(self, block: Block) -> bool:
        """Whether no child can have the block: no fork is under way or was made since the allocation."""
        stamp = self._stamp()
        return not _forks.under_way and stamp[1] >= 0 and stamp == block._born

    def _notice_child(self) -> None:
        """In a child: leave the arenas to the parent, and its gate, which another thread may have held."""
        if self._owner == (os.getpid(), _forks.lineage):
            return
        with _forks.lock:
            if self._owner != (os.getpid(), _forks.lineage):
                self._reset()


_default: CodeMemory | None = None
_default_lock = threading.Lock()


def default(create: Callable[[], CodeMemory] = CodeMemory) -> CodeMemory:
    """The memory of this process, made by `create` at the first call."""
    global _default
    if _default is None:
        with _default_lock:
            if _default is None:
                _default = create()
    return _default
