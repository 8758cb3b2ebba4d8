"""Operations of a program as a sequence: read, insert, replace, remove; what points into it stays right.

    asm.ops[3].operation.name
    asm.ops.insert(3, "poll")
    asm.ops.replace(4, "i64_add", r[1], r[2], 5)
    del asm.ops[5]

Labels are positions; here alone they change once they are bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from cnp.errors import OperandError
from cnp.operands import At
from cnp.program import Op, Program

Select = Callable[[str, tuple[object, ...], At | None, int], list[Op]]


class Ops(Sequence[Op]):
    """The operations of an assembler. An operation that was composed of several is edited as a whole.

    select: the operations for a name and its operands at a position. check_open: refuses when the program is closed.
    """

    def __init__(self, program: Program, select: Select, check_open: Callable[[], None]) -> None:
        self._program, self._select, self._check_open = program, select, check_open

    def __len__(self) -> int:
        return len(self._program.ops)

    def __iter__(self) -> Iterator[Op]:
        return iter(self._program.ops)

    @overload
    def __getitem__(self, place: int) -> Op: ...
    @overload
    def __getitem__(self, place: slice) -> list[Op]: ...
    def __getitem__(self, place: int | slice) -> Op | list[Op]:
        return self._program.ops[place]

    def insert(
        self, position: int, name: str, *operands: object, at: At | None = None, first: bool = False
    ) -> int:
        """Put an operation before the one at a position; its position. Labels stay with the operation that they were
        bound to; first: they are bound to the new one. A function that begins there begins with the new one."""
        self._check_open()
        self._check_position(position, len(self))
        found = self._select(name, operands, at, position)
        splice(self._program, position, 0, found, first)
        return position

    def replace(self, position: int, name: str, *operands: object, at: At | None = None) -> int:
        """Put an operation in the place of another, whose labels it takes; its position."""
        self._check_open()
        place = self.extent(position)
        found = self._select(name, operands, at, position)
        splice(self._program, place.start, len(place), found, first=True)
        return position

    def __delitem__(self, place: int | slice) -> None:
        """Remove operations. Their labels go to the one that follows."""
        self._check_open()
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            if step != 1:
                raise self._refused(place, "a range without steps")
            for position in {start, max(start, stop)}:
                self._check_position(position, len(self))
            extent = range(start, max(start, stop))
        else:
            extent = self.extent(place)
        splice(self._program, extent.start, len(extent), [], first=False)

    def extent(self, position: int) -> range:
        """The positions of an operation that was composed of several; of any other one its own."""
        self._check_position(position, len(self) - 1)
        return range(position, position + self._program.composed.get(position, 1))

    def _check_position(self, position: int, last: int) -> None:
        """OperandError: there is no such position, or it lies within an operation that was composed."""
        if not 0 <= position <= last:
            raise self._refused(position, (0, last))
        whole = self._program.composition_at(position)
        if whole and position != whole.start:
            raise self._refused(position, f"operations {whole.start} … {whole.stop - 1} belong together")

    def _refused(self, position: object, allowed: object) -> OperandError:
        message = f"position {position}: allowed {allowed}"
        return OperandError(message, op="", operand="position", value=position, allowed=allowed)


def splice(program: Program, start: int, count: int, new: list[Op], first: bool) -> None:
    """Put operations in the place of `count` others, and move all that is a position.

    Nothing is replaced where count is 0: what stands at `start` moves on, but functions, ends of ranges and, if `first`
    is said, labels.
    """
    del program.ops[start : start + count]
    for number, op in enumerate(new):
        program.ops.insert(start + number, op)
    change = len(new) - count

    def moved(position: int, stays: bool) -> int:
        if position < start or (position == start and (stays or count)):
            return position
        return position + change if position >= start + count else start

    begins = any(function.position == start for function in program.functions)
    for function in program.functions:
        if function.position is not None:
            function.position = moved(function.position, True)
        function.end = moved(function.end, True)
    for label in program.labels:
        if label.position is not None:
            label.position = moved(label.position, first)
    for span in program.cold:
        span.start, span.end = moved(span.start, True), moved(span.end, True)
    program.aligned = shifted(program.aligned, lambda at: moved(at, first or begins))
    program.composed = {
        moved(at, False): size for at, size in program.composed.items() if not start <= at < start + count
    }
    if len(new) > 1:
        program.composed[start] = len(new)
    program.labels.forget_positions()


def shifted(aligned: dict[int, int], moved: Callable[[int], int]) -> dict[int, int]:
    """Alignments at their new positions; the largest where several meet."""
    found: dict[int, int] = {}
    for position, alignment in aligned.items():
        place = moved(position)
        found[place] = max(found.get(place, 1), alignment)
    return found
