"""Brainfuck on cnp: the first interpreter, and the example of how little one takes.

    bf.c      the operations, in C
    parse.py  source -> tree
    here      tree -> program, and running it: here or on another target, compiled or interpreted
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cnp import foreign, targets
from cnp import runtime as rt
from cnp.assembler import Assembler, Program
from cnp.brainfuck.parse import Bounds, Loop, Multiply, Node, Scan, Segment, SourceError, parse, where
from cnp.errors import CnpError
from cnp.library import Library
from cnp.result import Result

CELLS = 1 << 16  #: length of the tape
MAIN = "main"


class TapeError(CnpError):
    """The pointer left the tape. Fields: line, column, cell."""


@dataclass(slots=True)
class Compiled:
    """A program with what is needed to say where it failed. marks: operation -> (offset, position) it checks."""

    source: str
    program: Program
    marks: dict[int, list[tuple[int, int]]]


def compile_source(source: str, library: Library) -> Compiled:
    """Assemble a program. SourceError for brackets that do not match."""
    compiler = Compiler(library, source)
    compiler.asm.function(MAIN, frame=0)
    compiler.asm.op("start")
    compiler.nodes(parse(source))
    compiler.asm.op("stop")
    compiler.asm.program.check()
    return Compiled(source, compiler.asm.program, compiler.marks)


class Compiler:
    """Tree -> operations."""

    def __init__(self, library: Library, source: str) -> None:
        self.asm = Assembler(library)
        self.source = source
        self.marks: dict[int, list[tuple[int, int]]] = {}

    def nodes(self, nodes: list[Node]) -> None:
        for node in nodes:
            if isinstance(node, Segment):
                self.segment(node)
            elif isinstance(node, Scan):
                op = self.asm.op("scan_right" if node.step > 0 else "scan_left", node.step)
                self.marks[op] = [(node.step, node.position)]
            else:
                self.loop(node)

    def loop(self, loop: Loop) -> None:
        body, behind = self.asm.label(), self.asm.label()
        self.asm.op("open", behind)
        self.asm.bind(body, entry=True)
        self.nodes(loop.body)
        self.asm.op("close", body)
        self.asm.bind(behind)

    def segment(self, segment: Segment) -> None:
        match segment.steps:
            case [Bounds(trail)] if trail[-1][0] == segment.move and extent(trail) in ((0, segment.move), (segment.move, 0)):
                op = self.asm.op("step_right" if segment.move > 0 else "step_left", segment.move)
                self.marks[op] = trail
                return
        for step in segment.steps:
            if isinstance(step, Bounds):
                self.reach(step.trail)
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

    def reach(self, trail: list[tuple[int, int]]) -> None:
        """Check the ends of where the pointer goes; it starts on the tape."""
        least, most = extent(trail)
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
        if loop.trail or len(loop.factors) > 2:
            self.asm.op("skip", loop.at, behind)
        if loop.trail:
            self.reach([(loop.at + offset, position) for offset, position in loop.trail])
        for offset, factor in loop.factors.items():
            if name := {1: "copy", 255: "subtract"}.get(factor):
                self.asm.op(name, loop.at, loop.at + offset)
            else:
                self.asm.op("multiply", loop.at, loop.at + offset, factor)
        self.asm.op("clear", loop.at)
        self.asm.bind(behind)


def extent(trail: list[tuple[int, int]]) -> tuple[int, int]:
    """How far left and right of where it begins the pointer goes."""
    return min(0, *(offset for offset, _ in trail)), max(0, *(offset for offset, _ in trail))


def run(
    source: str,
    stdin: bytes = b"",
    target: str = "host",
    interpret: bool = False,
    cells: int = CELLS,
    fuel: int | None = None,
) -> bytes:
    """Compile a program and run it; its output. target: another one runs in an emulator.

    Reading past the end of the input gives 0. TapeError when the pointer leaves the tape, with line and column;
    KeyboardInterrupt as usual.
    """
    chosen = targets.get(target)
    library = Library.load(rt.installed("brainfuck", chosen.name))
    compiled = compile_source(source, library)
    if chosen.name == targets.get("host").name:
        return run_here(compiled, stdin, interpret, cells, fuel)
    return run_foreign(compiled, stdin, interpret, cells, fuel)


def run_here(compiled: Compiled, stdin: bytes, interpret: bool, cells: int, fuel: int | None) -> bytes:
    """Run in this process."""
    output, rest = bytearray(), iter(stdin)

    def put(byte: int) -> int:
        output.append(byte & 255)
        return 0

    def get() -> int:
        return next(rest, -1)

    code = rt.Code(compiled.program, {"cnp_host_putc": put, "cnp_host_getc": get})
    tape = bytearray(cells)
    low = rt.address(tape)
    state = {"p": low, "low": low, "high": low + cells}
    result = code.interpreter.run(MAIN, state, fuel=fuel) if interpret else code[MAIN].run(state, fuel=fuel)
    check(compiled, result, low)
    return bytes(output)


def run_foreign(compiled: Compiled, stdin: bytes, interpret: bool, cells: int, fuel: int | None) -> bytes:
    """Run in the target's host program."""
    code = foreign.ForeignCode(compiled.program)
    tape = bytes(cells)
    low = code.area_addresses([cells])[0]
    state = {"p": low, "low": low, "high": low + cells}
    outcome = code.run([foreign.Call(MAIN, state, fuel=fuel, interpret=interpret)], stdin, [tape], timeout=600)
    check(compiled, outcome.results[0], low)
    return outcome.stdout


def check(compiled: Compiled, result: Result, low: int) -> None:
    """Turn a trap into the error it stands for."""
    if result.returned:
        return
    if result.op not in compiled.marks or result.code != 4:
        raise CnpError(f"the program ended by {result.kind} {result.code} at operation {result.op}", result=result)
    cell = int(result.state["p"]) - low
    size = int(result.state["high"]) - int(result.state["low"])
    trail = compiled.marks[result.op]
    offset, position = next((mark for mark in trail if not 0 <= cell + mark[0] < size), trail[-1])
    line, column = where(compiled.source, position)
    raise TapeError(
        f"line {line}, column {column}: the pointer leaves the tape (cell {cell + offset} of {size})",
        line=line,
        column=column,
        cell=cell + offset,
    )


def read_source(path: str | Path) -> str:
    """A source file; anything that is no command is a comment, so that every encoding will do."""
    return Path(path).read_text(encoding="latin-1")


__all__ = ["Compiled", "SourceError", "TapeError", "compile_source", "read_source", "run"]
