"""The free parts of an interval, against one flag a byte."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnp.errors import StateError
from cnp.intervals import Intervals


class NaiveIntervals:
    """The model: one flag a byte."""

    def __init__(self, size: int) -> None:
        self.free = [True] * size

    def take(self, size: int) -> int | None:
        for start in range(len(self.free) - size + 1):
            if all(self.free[start : start + size]):
                self.free[start : start + size] = [False] * size
                return start
        return None

    def parts(self) -> list[tuple[int, int]]:
        edges = [
            i for i, (a, b) in enumerate(zip([False, *self.free], [*self.free, False], strict=True)) if a != b
        ]
        return list(zip(edges[::2], edges[1::2], strict=True))


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 24), st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=40))
def test_intervals_agree_with_flags(size: int, steps: list[tuple[bool, int]]) -> None:
    real, model, taken = Intervals(size), NaiveIntervals(size), list[tuple[int, int]]()
    for take, number in steps:
        if take:
            start = real.take(number)
            assert start == model.take(number)
            if start is not None:
                taken.append((start, number))
        elif taken:
            start, length = taken.pop(number % len(taken))
            real.give(start, length)
            model.free[start : start + length] = [True] * length
        assert real.parts() == model.parts()
        assert real.free == sum(model.free)


def test_intervals_find_again_what_was_refused_before() -> None:
    free = Intervals(32)
    assert [free.take(16), free.take(16), free.take(16)] == [0, 16, None]
    free.give(16, 16)
    assert free.take(16) == 16


@pytest.mark.parametrize(("start", "size"), [(0, 8), (4, 8), (24, 16), (-8, 4), (8, 0)])
def test_intervals_refuse_what_is_not_taken(start: int, size: int) -> None:
    free = Intervals(32)
    assert free.take(8) == 0 and free.take(8) == 8 and free.take(16) == 16
    free.give(0, 8)
    before = free.parts()
    with pytest.raises(StateError):
        free.give(start, size)
    assert free.parts() == before
