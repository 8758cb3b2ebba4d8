"""The operations of a program in their order: records of the core as long as they are only appended, else a list.

append, extend     records, 32 bytes each; `Op`s are made of them when somebody looks
insert, del, [i]=  from then on a list of `Op`s
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSequence
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from cnp.program import Op
    from cnp.records import Records


class OpList(MutableSequence["Op"]):
    """A list of operations. records: where they are as long as the core has them; None: they are a list."""

    def __init__(self, ops: Iterable[Op] = ()) -> None:
        self._ops = list(ops)
        self.records: Records | None = None

    def __len__(self) -> int:
        return len(self._ops) if self.records is None else len(self.records)

    def __iter__(self) -> Iterator[Op]:
        return iter(self._ops) if self.records is None else self.records.ops(range(len(self)))

    @overload
    def __getitem__(self, place: int) -> Op: ...
    @overload
    def __getitem__(self, place: slice) -> list[Op]: ...
    def __getitem__(self, place: int | slice) -> Op | list[Op]:
        if self.records is None:
            return self._ops[place]
        if isinstance(place, slice):
            return list(self.records.ops(range(len(self))[place]))
        return next(self.records.ops((range(len(self))[place],)))

    @overload
    def __setitem__(self, place: int, op: Op) -> None: ...
    @overload
    def __setitem__(self, place: slice, op: Iterable[Op]) -> None: ...
    def __setitem__(self, place: int | slice, op: Op | Iterable[Op]) -> None:
        self.listed()[place] = op  # type: ignore[index, assignment]

    def __delitem__(self, place: int | slice) -> None:
        del self.listed()[place]

    def insert(self, place: int, op: Op) -> None:
        self.listed().insert(place, op)

    def append(self, op: Op) -> None:
        self.extend([op])

    def extend(self, ops: Iterable[Op]) -> None:
        ops, count = list(ops), len(self)
        if self.records is None or not self.records.append(ops):
            self.listed(count).extend(ops)

    def listed(self, count: int | None = None) -> list[Op]:
        """The operations as a list, which they are from now on. count: how many of the records, if not all, they are."""
        if self.records is not None:
            self._ops = self[:count]
            self.records.close()
            self.records = None
        return self._ops
