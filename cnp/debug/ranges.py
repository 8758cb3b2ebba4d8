"""What stands where in a linked image: its functions, their cold parts, what all share; lines of the source."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from cnp.patch import Image
from cnp.program import Program

COLD, SHARED = ".cold", "cnp.shared"
PRINTABLE = bytes.maketrans(b"\0\n\r", b"???")


class Line(NamedTuple):
    """The code from an address on belongs to this line of a source; to none, if that is 0."""

    address: int
    file: str
    line: int


class Range(NamedTuple):
    """Code that has one name. start, end: addresses. function: False for what is no way in, such as a cold part.

    blocks: (start, end, op) of its parts, op -1 for what all share.
    """

    name: str
    start: int
    end: int
    function: bool
    blocks: tuple[tuple[int, int, int], ...]


def ranges(program: Program, image: Image) -> Iterator[Range]:
    """All code of an image in the order of addresses: each function as often as it comes to stand in one piece, each
    shared routine for itself."""
    routines = {address: name for name, address in image.routines.items()}
    blocks = [(image.base + start, image.base + end, op) for start, end, op in image.ranges]
    begun: set[str] = set()

    def title(block: tuple[int, int, int]) -> str:
        return named(program, block[2]) if block[2] >= 0 else routines.get(block[0], SHARED)

    for name, group in groupby(blocks, title):
        parts = tuple(group)
        function = name not in begun and name != SHARED
        begun.add(name)
        whole = name if function or name == SHARED else name + COLD
        yield Range(whole, parts[0][0], parts[-1][1], function, parts)


def named(program: Program, op: int) -> str:
    """The function of an operation; there is one around each, unless a program is nothing but a routine."""
    return program.function_at(op).name if program.functions else SHARED


def name(text: str) -> bytes:
    """A name as files have it, without what would end it there."""
    return text.encode(errors="replace").translate(PRINTABLE)


def lines(program: Program, image: Image) -> list[Line]:
    """Where the code of another line of a source begins, as `at=` said it with each operation; line 0: of none."""
    found: list[Line] = []
    for start, _, op in image.ranges:
        at = program.ops[op].at if op >= 0 else None
        if at is None and not found:
            continue
        file, line = at or (found[-1].file, 0)
        if not found or found[-1][1:] != (file, line):
            found.append(Line(image.base + start, file, line))
    return found
