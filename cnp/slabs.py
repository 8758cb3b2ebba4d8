"""Slabs: the code of many short functions in one block of executable memory, which is freed with the last of them.

      block   | function | function | function |      nothing yet      |
              ^ each begins at a multiple of 64 bytes, and may be run as soon as it is written

To reserve a block for a short function, and to free it, takes longer than to assemble it. The price: what lives longest keeps
the room of those beside it.
"""

from __future__ import annotations

from .arenas import LINE
from .memory import Block, CodeMemory
from .pages import round_up

SLAB = 16 << 10  #: bytes
LONGEST = SLAB // 4  #: of what shares a slab


class Slabs:
    """Room in executable memory for functions that come one after the other; for one thread at a time."""

    def __init__(self, memory: CodeMemory) -> None:
        self._memory = memory
        self._slab: Block | None = None  # the one with room
        self._end = 0  # of what was taken of it

    def take(self, code_size: int, data_size: int = 0) -> tuple[Block, int]:
        """A block, and where in its code there is room for so many bytes, which `Block.fill` writes from there on. It is freed
        with the last reference to it. What is long, or has data, gets a block of its own. MemoryFault: as for `allocate`."""
        if code_size > LONGEST or data_size or not self._memory.shares_pages:
            return self._memory.allocate(code_size, data_size, owned=True), 0
        size, slab = round_up(code_size, LINE), self._slab
        if slab is None or self._end + size > SLAB or not self._memory.owns(slab):
            slab = self._slab = self._memory.allocate(SLAB, owned=True)
            self._end = 0
        start = self._end
        self._end += size
        return slab, start
