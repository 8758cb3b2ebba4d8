"""Brainfuck source -> a tree in which runs, clears, scans and multiply loops are one step each.

    Segment   straight code: changes of cells by their offset from the pointer, multiples, output, input, then one move
    Scan      [>>] and the like: go on in steps until a cell is zero
    Loop      everything else in brackets

Positions are offsets in the source; `where` turns one into line and column.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import inf

from cnp.errors import CnpError

COMMANDS = "<>+-.,[]"
FAR = 4096  #: offsets within a segment stay below this


class SourceError(CnpError):
    """A program whose brackets do not match. Fields: line, column, what."""


@dataclass(slots=True)
class Step:
    """One action on a cell. kind: add, set, put, get. at: offset of the cell. value: amount."""

    kind: str
    at: int
    value: int = 0


@dataclass(slots=True)
class Multiply:
    """A loop that counts cell `at` down to zero and adds multiples of it to others.

    factors: offset of the other cell, seen from this one -> factor. trail: as of `Bounds`, seen from this cell; a
    loop that is not entered goes nowhere.
    """

    at: int
    factors: dict[int, int]
    trail: list[tuple[int, int]]


@dataclass(slots=True)
class Bounds:
    """Cells that the following steps reach. trail: (offset, position in the source) of the places that lie beyond all
    places before."""

    trail: list[tuple[int, int]]


@dataclass(slots=True)
class Segment:
    """Straight code: bounds before the steps that need them, then a move of the pointer."""

    steps: list[Step | Bounds | Multiply] = field(default_factory=list)
    move: int = 0


@dataclass(slots=True)
class Scan:
    """Move in steps until the cell is zero. trail: as of `Bounds`, seen from where a step begins; its last place is
    where the step ends."""

    step: int
    trail: list[tuple[int, int]]


@dataclass(slots=True)
class Loop:
    """Run the body while the cell is not zero. travel: where the pointer may be when the head is reached again."""

    body: list[Node]
    travel: Travel


Node = Segment | Scan | Loop
#: How far left and right the pointer may be of where it was, at the head or behind.
Travel = tuple[float, float]
Item = Node | Multiply | tuple[str, int]  #: what stands between brackets while they are read


def where(source: str, position: int) -> tuple[int, int]:
    """Line and column, both from 1, of an offset in the source."""
    line = source.count("\n", 0, position) + 1
    return line, position - source.rfind("\n", 0, position)


def parse(source: str) -> list[Node]:
    """The program as a tree; SourceError for brackets that do not match."""
    stack: list[tuple[int, list[Item]]] = [(-1, [])]
    for position, command in enumerate(source):
        if command == "[":
            stack.append((position, []))
        elif command == "]":
            if len(stack) == 1:
                raise unmatched(source, position, "]")
            _, body = stack.pop()
            stack[-1][1].append(close(group(body)))
        elif command in COMMANDS:
            stack[-1][1].append((command, position))
    if len(stack) > 1:
        raise unmatched(source, stack[-1][0], "[")
    return group(stack[0][1])


def unmatched(source: str, position: int, bracket: str) -> SourceError:
    line, column = where(source, position)
    what = f"{bracket} has no partner"
    return SourceError(f"line {line}, column {column}: {what}", line=line, column=column, what=what)


def group(items: list[Item]) -> list[Node]:
    """Commands between loops become segments; simple loops become steps of the segment around them."""
    nodes: list[Node] = []
    builder = Builder()
    for item in items:
        if isinstance(item, tuple):
            builder.command(*item)
        elif isinstance(item, Multiply):
            builder.multiply(item)
        else:
            nodes += [*builder.finish(), item]
            builder = Builder()
        if abs(builder.offset) > FAR:
            nodes += builder.finish()
            builder = Builder()
    return nodes + builder.finish()


def close(body: list[Node]) -> Node | Multiply:
    """What a pair of brackets is."""
    if len(body) == 1 and isinstance(body[0], Segment):
        segment = body[0]
        trail = [mark for step in segment.steps if isinstance(step, Bounds) for mark in step.trail]
        changes = totals(segment)
        if changes == {} and is_straight(segment.move, trail):
            return Scan(segment.move, trail)
        if changes and segment.move == 0 and all(abs(at) <= FAR for at in changes):
            counter = changes.pop(0, 0)
            if counter in (1, 255):
                sign = 1 if counter == 255 else -1
                return Multiply(0, {at: value * sign & 255 for at, value in changes.items()}, trail)
    return Loop(body, loop_travel(body))


def totals(segment: Segment) -> dict[int, int] | None:
    """What a segment that only adds changes in all: cell -> amount, none of them zero. None: it does something else."""
    changes: dict[int, int] = {}
    for step in segment.steps:
        if isinstance(step, Step) and step.kind == "add":
            changes[step.at] = changes.get(step.at, 0) + step.value & 255
        elif not isinstance(step, Bounds):
            return None
    return {at: value for at, value in changes.items() if value}


def is_straight(move: int, trail: list[tuple[int, int]]) -> bool:
    """Whether no place lies behind the start of a step or beyond its end, so that checking the end is enough."""
    return move != 0 and all(0 < offset <= move or move <= offset < 0 for offset, _ in trail)


def loop_travel(body: list[Node]) -> Travel:
    """Where the pointer may be when the head of a loop is reached again, whatever the number of rounds."""
    parts = [travel(node) for node in body]
    left, right = sum(part[0] for part in parts), sum(part[1] for part in parts)
    return -inf if left < 0 else 0, inf if right > 0 else 0


def travel(node: Node) -> Travel:
    """Where the pointer may be behind a node."""
    if isinstance(node, Segment):
        return node.move, node.move
    if isinstance(node, Scan):
        return (0, inf) if node.step > 0 else (-inf, 0)
    return node.travel


class Builder:
    """A segment while its commands come in."""

    def __init__(self) -> None:
        self.segment = Segment()
        self.offset = 0
        self.pending: dict[int, Step] = {}
        self.bounds: Bounds | None = None
        self.least = self.most = 0

    def command(self, command: str, position: int) -> None:
        if command in "<>":
            self.offset += 1 if command == ">" else -1
            self.reach(position)
        elif command in "+-":
            step = self.pending.get(self.offset)
            if step is None:
                step = self.pending[self.offset] = Step("add", self.offset)
                self.segment.steps.append(step)
            step.value = step.value + (1 if command == "+" else -1) & 255
        else:
            self.pending.clear()
            self.segment.steps.append(Step("put" if command == "." else "get", self.offset))
            self.bounds = None  # what is beyond must not stop the output before it

    def reach(self, position: int) -> None:
        """Note a place that the pointer goes to; only those beyond all before need a look."""
        if self.least <= self.offset <= self.most:
            return
        self.least, self.most = min(self.least, self.offset), max(self.most, self.offset)
        if self.bounds is None:
            self.bounds = Bounds([])
            self.segment.steps.append(self.bounds)
            self.pending.clear()
        self.bounds.trail.append((self.offset, position))

    def multiply(self, loop: Multiply) -> None:
        """A multiply loop, or a mere clear, at the present cell. It leaves zero there."""
        here = self.offset
        beyond = [(at, place) for at, place in loop.trail if not self.least <= here + at <= self.most]
        if loop.factors or beyond:
            self.segment.steps.append(replace(loop, at=here, trail=beyond))
            self.pending.clear()
            if beyond:
                self.bounds = None  # the places that the loop goes to come before those behind it
        else:
            self.pending[here] = Step("set", here)
            self.segment.steps.append(self.pending[here])

    def finish(self) -> list[Node]:
        """The segment, if it does anything."""
        self.segment.move = self.offset
        steps = [s for s in self.segment.steps if not isinstance(s, Step) or s.kind != "add" or s.value]
        self.segment.steps = steps
        return [self.segment] if steps or self.offset else []
