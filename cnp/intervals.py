"""Which parts of an interval are free: the bookkeeping of an arena's code and of its data."""

from __future__ import annotations

from bisect import bisect_right

from .errors import StateError


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
        starts, ends = self._starts, self._ends
        for index, start in enumerate(starts):
            left = ends[index] - start - size
            if left >= 0:
                self.free -= size
                if left:
                    starts[index] = start + size
                else:
                    del starts[index], ends[index]
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
