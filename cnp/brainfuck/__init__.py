"""Brainfuck on cnp: the first interpreter, and the example of how little one takes.

bf.c      the operations, in C
parse.py  source -> tree
here      tree -> program, and running it: here or on another target, compiled or interpreted
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cnp import foreign, targets
from cnp import frame as layout
from cnp import runtime as rt
from cnp.assembler import Assembler, Label, Program
from cnp.brainfuck.parse import (
    FAR,
    Bounds,
    Loop,
    Multiply,
    Node,
    Scan,
    Segment,
    SourceError,
    Travel,
    parse,
    travel,
    where,
)
from cnp.errors import CnpError
from cnp.library import Library
from cnp.result import Result

CELLS = 1 << 16  #: length of the tape
GUARD = FAR + 1  #: zeros on either side of the tape: no step of a scan is longer
MAIN = "main"


class TapeError(CnpError):
    """The pointer left the tape. Fields: line, column, what, cell."""


@dataclass(slots=True)
class Compiled:
    """A program with what is needed to say where it failed. marks: operation -> (offset, position) it checks."""

    source: str
    program: Program
    marks: dict[int, list[tuple[int, int]]]


def compile_source(source: str, library: Library) -> Compiled:
    """Assemble a program. SourceError for brackets that do not match."""
    compiler = Compiler(library)
    compiler.asm.function(MAIN, frame=0)
    compiler.asm.op("start")
    compiler.nodes(parse(source))
    compiler.asm.op("stop")
    return Compiled(source, compiler.asm.close(), compiler.marks)


class Compiler:
    """Tree -> operations.

    known: how far left and right of the pointer the tape is known to go; what lies within needs no check. A move to
    the right only makes the left side safer, so that loops and scans in one direction keep half of it.
    """

    def __init__(self, library: Library) -> None:
        self.asm = Assembler(library)
        self.known = (0, 0)
        self.marks: dict[int, list[tuple[int, int]]] = {}

    def nodes(self, tree: list[Node]) -> None:
        """A whole tree. Brackets may nest deeper than Python's own stack, so the open loops are kept here."""
        levels: list[Iterator[Node]] = [iter(tree)]
        loops: list[tuple[Label, Label, tuple[int, int]]] = []
        while levels:
            node = next(levels[-1], None)
            if isinstance(node, Loop):
                self.pass_over(node.travel)
                loops.append((*self.open(), self.known))
                levels.append(iter(node.body))
            elif isinstance(node, Segment):
                self.segment(node)
            elif isinstance(node, Scan):
                self.scan(node)
                self.pass_over(travel(node))
            else:
                levels.pop()
                if loops:
                    body, behind, self.known = loops.pop()
                    self.close(body, behind)

    def open(self) -> tuple[Label, Label]:
        """The head of a loop; labels of its body and of what follows."""
        body, behind = self.asm.label(), self.asm.label()
        self.asm.op("begin_loop", behind)
        self.asm.bind(body, entry=True)
        return body, behind

    def close(self, body: Label, behind: Label) -> None:
        self.asm.op("end_loop", body)
        self.asm.bind(behind)

    def pass_over(self, way: Travel) -> None:
        """What is still known after the pointer went some way left or right."""
        left, right = self.known
        self.known = (left if way[0] == 0 else 0, right if way[1] == 0 else 0)

    def unknown(self, trail: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The part of a trail that leaves what is known."""
        return [mark for mark in trail if not self.known[0] <= mark[0] <= self.known[1]]

    def scan(self, scan: Scan) -> None:
        op = self.asm.op("scan_right" if scan.step > 0 else "scan_left", scan.step)
        self.marks[op] = [(offset - scan.step, position) for offset, position in scan.trail]

    def segment(self, segment: Segment) -> None:
        steps = segment.steps
        if len(steps) == 1 and isinstance(steps[0], Bounds) and self.is_step(steps[0].trail, segment.move):
            op = self.asm.op("step_right" if segment.move > 0 else "step_left", segment.move)
            self.marks[op] = steps[0].trail
            self.learn(steps[0].trail, segment.move)
            return
        for step in steps:
            if isinstance(step, Bounds):
                self.reach(self.unknown(step.trail))
                self.learn(step.trail)
            elif isinstance(step, Multiply):
                self.multiply(step)
            elif step.kind in ("put", "get"):
                self.asm.op(step.kind, step.at)
            elif step.kind == "set" and step.value == 0:
                self.asm.op("clear", step.at)
            else:
                self.asm.op(step.kind, step.at, step.value)
        if segment.move:
            self.asm.op("move", segment.move)
            self.learn([], segment.move)

    def is_step(self, trail: list[tuple[int, int]], move: int) -> bool:
        """Whether one look at where the pointer ends is all that a segment needs."""
        return bool(self.unknown(trail)) and trail[-1][0] == move and extent(trail) in ((0, move), (move, 0))

    def learn(self, trail: list[tuple[int, int]], move: int = 0) -> None:
        """The trail was found to be on the tape; then the pointer moved."""
        left, right = extent([*trail, *((offset, 0) for offset in self.known)])
        self.known = (min(0, left - move), max(0, right - move))

    def reach(self, trail: list[tuple[int, int]]) -> None:
        """Check the ends of where the pointer goes; it starts on the tape."""
        least, most = extent(trail)
        if least == most:
            return
        if least == 0:
            op = self.asm.op("reach_right", most)
        elif most == 0:
            op = self.asm.op("reach_left", least)
        else:
            op = self.asm.op("reach_both", least, most)
        self.marks[op] = trail

    def multiply(self, loop: Multiply) -> None:
        """Skipped when the counter is zero, if that saves a check or much work."""
        behind = self.asm.label()
        trail = self.unknown([(loop.at + offset, position) for offset, position in loop.trail])
        least, most = extent(trail)
        if len(loop.factors) > 2 or least < 0 < most:
            self.asm.op("skip", loop.at, behind)
            self.reach(trail)
        elif trail:
            op = (
                self.asm.op("reach_right_if", loop.at, most)
                if most
                else self.asm.op("reach_left_if", loop.at, least)
            )
            self.marks[op] = trail
        for offset, factor in loop.factors.items():
            if name := {1: "copy", 255: "subtract"}.get(factor):
                self.asm.op(name, loop.at, loop.at + offset)
            else:
                self.asm.op("multiply", loop.at, loop.at + offset, factor)
        self.asm.op("clear", loop.at)
        self.asm.bind(behind)


def extent(trail: list[tuple[int, int]]) -> tuple[int, int]:
    """How far left and right of where it begins the pointer goes."""
    offsets = [0, *(offset for offset, _ in trail)]
    return min(offsets), max(offsets)


class Linked:
    """A program ready to run. target: another one than the host's runs in an emulator."""

    def __init__(self, source: str, target: str = "host", interpret: bool = False) -> None:
        chosen = targets.get(target)
        compiled = compile_source(source, Library.load(rt.installed("brainfuck", chosen.name)))
        here = chosen.name == targets.get("host").name
        self._program: Here | There = Here(compiled, interpret) if here else There(compiled, interpret)

    def run(self, stdin: BinaryIO, stdout: BinaryIO, cells: int = CELLS, fuel: int | None = None) -> None:
        """Run on a fresh tape. Reading past the end of the input gives 0. fuel: rounds of loops, None for no limit.

        TapeError when the pointer leaves the tape, with line and column; KeyboardInterrupt as usual. What the
        program wrote before is written in any case.
        """
        self._program.run(stdin, stdout, cells, fuel)


def run(
    source: str,
    stdin: bytes = b"",
    target: str = "host",
    interpret: bool = False,
    cells: int = CELLS,
    fuel: int | None = None,
) -> bytes:
    """Compile a program and run it, as `Linked` does; its output."""
    output = io.BytesIO()
    Linked(source, target, interpret).run(io.BytesIO(stdin), output, cells, fuel)
    return output.getvalue()


class Console:
    """Input and output byte by byte, for the helpers. Output is written at the end of a line and before input."""

    def __init__(self) -> None:
        self.stdin: BinaryIO = io.BytesIO()
        self.stdout: BinaryIO = io.BytesIO()
        self.pending = bytearray()

    def put(self, byte: int) -> int:
        self.pending.append(byte & 255)
        if byte == 10 or len(self.pending) > 4096:
            self.flush()
        return 0

    def get(self) -> int:
        self.flush()
        data = self.stdin.read(1)
        return data[0] if data else -1

    def flush(self) -> None:
        waiting, self.pending = bytes(self.pending), bytearray()
        self.stdout.write(waiting)
        self.stdout.flush()


class Here:
    """A program in this process."""

    def __init__(self, compiled: Compiled, interpret: bool) -> None:
        self.compiled, self.console = compiled, Console()
        code = rt.Code(
            compiled.program, {"cnp_host_putc": self.console.put, "cnp_host_getc": self.console.get}
        )
        self.code, self.interpreter = code, code.interpreter if interpret else None

    def run(self, stdin: BinaryIO, stdout: BinaryIO, cells: int, fuel: int | None) -> None:
        tape = bytearray(cells + 2 * GUARD)
        low = rt.address(tape) + GUARD
        state = {"p": low, "low": low, "high": low + cells}
        self.console.stdin, self.console.stdout = stdin, stdout
        try:
            if self.interpreter:
                result = self.interpreter.run(MAIN, state, fuel=fuel)
            else:
                result = self.code[MAIN].run(state, fuel=fuel)
        finally:
            self.console.flush()
        check(self.compiled, result, low)


class There:
    """A program in the host program of its target. It gets all of its input at once, and so does its output come."""

    def __init__(self, compiled: Compiled, interpret: bool) -> None:
        self.compiled, self.interpret = compiled, interpret
        self.code = foreign.ForeignCode(compiled.program)

    def run(self, stdin: BinaryIO, stdout: BinaryIO, cells: int, fuel: int | None) -> None:
        tape = bytes(cells + 2 * GUARD)
        low = self.code.area_addresses([len(tape)])[0] + GUARD
        call = foreign.Call(
            MAIN, {"p": low, "low": low, "high": low + cells}, fuel=fuel, interpret=self.interpret
        )
        given = stdin.read() if "," in self.compiled.source else b""
        outcome = self.code.run([call], given, [tape], timeout=None)
        stdout.write(outcome.stdout)
        stdout.flush()
        check(self.compiled, outcome.results[0], low)


def check(compiled: Compiled, result: Result, low: int) -> None:
    """Turn a trap into the error it stands for."""
    if result.returned:
        return
    if result.op not in compiled.marks:
        why = layout.TRAPS.get(result.code, f"trap {result.code}")
        raise CnpError(f"the program stopped: {why}", result=result)
    cell = int(result.state["p"]) - low
    size = int(result.state["high"]) - int(result.state["low"])
    trail = compiled.marks[result.op]
    offset, position = next((mark for mark in trail if not 0 <= cell + mark[0] < size), trail[-1])
    line, column = where(compiled.source, position)
    what = f"the pointer leaves the tape (cell {cell + offset} of {size})"
    facts = {"line": line, "column": column, "what": what, "cell": cell + offset}
    raise TapeError(f"line {line}, column {column}: {what}", **facts)


def read_source(path: str | Path) -> str:
    """A source file; anything that is no command is a comment, so that every encoding will do."""
    return Path(path).read_text(encoding="latin-1")


__all__ = ["Compiled", "Linked", "SourceError", "TapeError", "compile_source", "read_source", "run"]
