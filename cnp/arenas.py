"""Arenas: reservations of address space in which code and data of a block are always near each other.

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

Whoever uses an arena is alone with it: locks, forks and the choice of a scheme belong to cnp/memory.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from typing import ClassVar

from . import pages
from .errors import MemoryFault
from .intervals import Intervals
from .pages import PAGE, round_up

LINE = 64
"""Alignment of blocks in bytes: a cache line of all targets, enough for any constant in the data."""

_CHUNK = max(PAGE, 64 << 10)  # unit in which pages of a memfd are taken from the system


class Arena:
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
            self.base = pages.reserve(code + data, region)
            undo.callback(pages.unmap, self.base, code + data)
            self.data_base = self.base + code
            pages.protect(self.data_base, data, pages.RW)
            self.writable = self._map_code()
            undo.pop_all()
        self._bytes = pages.view(self.writable, code)

    def _map_code(self) -> int:
        """Make the code part usable; returns the address at which it is written."""
        raise NotImplementedError

    def open(self, start: int, size: int) -> int:
        """The address at which a range may be written from now on."""
        raise NotImplementedError

    def close(self, start: int, size: int, opened: int) -> int:
        """What was written to the first `size` bytes of the `opened` ones is executable from now on, the instruction cache
        aside. The rest of its last line traps. Returns how many bytes are to be withdrawn."""
        end = start + size
        if self._trap and end % LINE:
            self._bytes[end : round_up(end, LINE)] = self._trap[end % LINE : LINE]
        return size

    def withdraw(self, start: int, size: int) -> None:
        """Take back what was written into a range that nobody runs any more."""
        raise NotImplementedError

    def publish(self, start: int, code: memoryview) -> None:
        """Write code to its place."""
        self.open(start, len(code))
        self._bytes[start : start + len(code)] = code
        self.close(start, len(code), len(code))

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
        ctypes.memset(self.data_base + start, 0, size)
        self.data.give(start, size)

    def unmap(self) -> None:
        """Give the whole reservation back. No block may be in use."""
        self._bytes.release()
        pages.unmap(self.base, self.code.size + self.data.size)


class DualArena(Arena):
    """Code is a memfd, seen R-X at `base` and RW- at `writable`."""

    grain = LINE
    shared = True

    def _map_code(self) -> int:
        size = self.code.size
        self._touched = bytearray(round_up(size, _CHUNK) // _CHUNK)
        file = pages.memory_file(size)
        try:
            pages.map_pages(self.base, size, pages.R_X, pages.SHARED | pages.FIXED, file)
            writable = pages.map_pages(0, size, pages.RW, pages.SHARED, file)
        finally:
            os.close(file)  # the mappings keep the memory; a number kept could be closed and reused by others
        try:
            pages.advise(writable, size, pages.DONTFORK)
        except MemoryFault:
            pages.unmap(writable, size)
            raise
        return writable

    def open(self, start: int, size: int) -> int:
        first, last = start // _CHUNK, (start + size - 1) // _CHUNK + 1
        if self._touched.find(0, first, last) >= 0:
            self._populate(first, last)
        return self.writable + start

    def _populate(self, first: int, last: int) -> None:
        """Take pages from the system now: lack of memory is an error here, and SIGBUS when they are written."""
        low, high = first * _CHUNK, min(last * _CHUNK, self.code.size)
        try:
            pages.advise(self.writable + low, high - low, pages.POPULATE_WRITE)
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
        pages.unmap(self.writable, self.code.size)


class FlipArena(Arena):
    """Code is private pages, written where they will run."""

    grain = PAGE
    shared = False

    def _map_code(self) -> int:
        return self.base

    def open(self, start: int, size: int) -> int:
        pages.protect(self.base + start, round_up(size, PAGE), pages.RW)
        return self.base + start

    def close(self, start: int, size: int, opened: int) -> int:
        super().close(start, size, opened)
        pages.protect(self.base + start, round_up(opened, PAGE), pages.R_X)
        return opened

    def withdraw(self, start: int, size: int) -> None:
        """New pages instead of the old: R-X never turns into RW-, and the memory goes back to the system."""
        pages.map_pages(self.base + start, round_up(size, PAGE), pages.NONE, pages.FRESH | pages.FIXED)


KINDS: dict[str, type[Arena]] = {"dual": DualArena, "flip": FlipArena}
"""The schemes by the names that people use for them."""
