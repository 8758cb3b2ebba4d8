"""clang beside the tools of `cnp bench emission`: the workload as C, compiled and linked to a shared object that is loaded.

It takes part in the page's compile time against run time only; its time is that of its own processes.
"""

from __future__ import annotations

import ctypes
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnp import targets
from cnp.bench.native import Program
from cnp.bench.opponents import BASE_LINE, Opponent, build, compilers
from cnp.bench.tools import FUNCTION, Job, Tool
from cnp.bench.workload import Kind, Record, unpack
from cnp.errors import ToolError

LEVELS = ("-O0", "-O2")


def source(program: list[Record]) -> str:
    """The workload as C: a label an operation, words without a sign, which may overflow."""
    signs = {Kind.ADD: "+", Kind.SUB: "-", Kind.MUL: "*"}
    lines = [f"void {FUNCTION}(unsigned long long *s) {{"]
    for i, (op, d, a, b, imm) in enumerate(program):
        if op == Kind.LOADI:
            does = f"s[{d}] = {imm:#x}ull"
        elif op <= Kind.MUL:
            does = f"s[{d}] = s[{a}] {signs[Kind(op)]} s[{b}]"
        elif op == Kind.CBR:
            does = f"if ((long long)s[{a}] < (long long)s[{b}]) goto l{d}"
        else:
            does = f"goto l{d}" if op == Kind.JMP else "return"
        lines.append(f"l{i}: {does};")
    return "\n".join([*lines, "}", ""])


class Clang(Job):
    """From the text to code that is loaded."""

    def __init__(self, program: Program, level: str) -> None:
        super().__init__(program)
        target = targets.get("host")
        base_line = [flag for flag in target.cflags if flag.startswith(BASE_LINE)]
        self.flags, self.target = [level, *base_line], target
        self.folder = tempfile.TemporaryDirectory(prefix="cnp-")
        self.source = Path(self.folder.name) / "workload.c"
        self.source.write_text(source(unpack(program.records.view())), encoding="ascii")
        self.made: Opponent | None = None

    def emit(self, times: int) -> None:
        for _ in range(times):
            self.made = build(self.source.with_suffix(""), self.source, self.target, self.flags)
            self.size = self.made.sizes[FUNCTION]

    def timed(self, times: int) -> float:
        begun = children()
        self.emit(times)
        return (children() - begun) / times

    @contextmanager
    def placed(self) -> Iterator[int]:
        assert self.made is not None  # emit() was called
        yield ctypes.cast(self.made.library[FUNCTION], ctypes.c_void_p).value or 0

    def close(self) -> None:
        self.folder.cleanup()


def children() -> float:
    """Nanoseconds of processor time of the processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1e9


def clang_tools() -> list[Tool]:
    """One for each level; none where there is no clang."""
    try:
        found = compilers().version
    except ToolError:
        return []
    return [clang_tool(level, found) for level in LEVELS]


def clang_tool(level: str, found: str) -> Tool:
    return Tool(f"clang {level}", found, lambda program: Clang(program, level))
