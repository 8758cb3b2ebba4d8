"""`cnp bench report`: the figures of emission as one HTML page that needs nothing else, with plots drawn by matplotlib.

rows of emission, first calls, compile and run times, lines of source --> tables, SVG --> HTML
"""

from __future__ import annotations

import html
import io
import platform
import re
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnp.bench.emission import Row
from cnp.bench.native import Native, by_hand
from cnp.bench.opponents import FOLDER
from cnp.bench.tools import COLD, RUNS, WARM, Tool
from cnp.build.driver import header_folder
from cnp.targets import TARGETS

FIRST, KERNEL = 10, 1000  #: operations of the small function, and of the program that is run
TRIES = 9
COLOURS = (
    "#1f5fa8",
    "#c4532d",
    "#2f8f5b",
    "#7d4fa3",
    "#b08a1e",
    "#3a9aa8",
    "#8c4a5e",
    "#6b6b6b",
    "#d17fb0",
    "#4d6b2f",
)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem } svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } caption { text-align: left; color: #555 }
th, td { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left } .note { color: #555 }
"""


@dataclass(frozen=True, slots=True)
class Point:
    """Compiling and running the program of KERNEL operations: nanoseconds of both."""

    tool: str
    compiled: float
    ran: float


# ---- figures


def points(native: Native, tools: Iterable[Tool]) -> list[Point]:
    """Of every tool that makes code, and of the interpreter in C, which compiles nothing."""
    program = native.program(KERNEL, verify=True)
    found = [Point("interpreter in C", 0.0, native.interpret(program, RUNS))]
    for tool in tools:
        if tool.executes:
            job = tool.prepare(program)
            compiled = sorted(job.timed(1) for _ in range(TRIES))[TRIES // 2]
            found.append(Point(tool.name, compiled, job.run_time()))
            job.close()
    return found


def first_calls(native: Native, tools: Iterable[Tool]) -> list[tuple[str, float]]:
    """Of every tool: nanoseconds from the records of FIRST operations to the end of their first run, its medians."""
    program = native.program(FIRST, verify=True)
    found = []
    for tool in tools:
        if tool.executes:
            job, taken = tool.prepare(program), []
            for _ in range(TRIES):
                begun = time.thread_time_ns()
                job.emit(1)
                job.execute()
                taken.append(time.thread_time_ns() - begun)
            job.close()
            found.append((tool.name, float(sorted(taken)[TRIES // 2])))
    return found


def source_lines() -> list[tuple[str, str, str, str]]:
    """Lines of source an operation and target: of the portable operations, of the assembler by hand."""
    operations = lines_of(header_folder() / "ops.c")
    count = len(re.findall(r"^(?:CNP_\w+|LOAD|STORE)\(", (header_folder() / "ops.c").read_text(), re.M))
    ours = operations / count / len(TARGETS)
    hand = by_hand()
    assert hand is not None  # there is a Native
    instructions = len(
        re.findall(r"^void hand_\w+\(.*int32_t disp|^void hand_(?:mov|ret|j)", hand.read_text(), re.M)
    )
    theirs = (lines_of(hand) + lines_of(FOLDER / "hand.h")) / instructions
    return [
        ("cnp: declarations in ops.c", str(operations), f"{count} × {len(TARGETS)} targets", f"{ours:.2f}"),
        ("hand-written assembler", str(lines_of(hand) + lines_of(FOLDER / "hand.h")), f"{instructions} × 1 target", f"{theirs:.1f}"),
    ]  # fmt: skip


def lines_of(path: Path) -> int:
    """Lines that are neither empty nor comment alone."""
    text = re.sub(r"/\*(?:.|\n)*?\*/", "", path.read_text(encoding="utf-8"))
    return sum(bool(line.strip()) for line in text.splitlines())


# ---- plots


def figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    axes = drawn.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, alpha=0.25)
    return drawn, axes


def svg(drawn: Any) -> str:
    """A plot as an element of the page."""
    out = io.StringIO()
    drawn.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]


def over_sizes(rows: Sequence[Row]) -> str:
    """Nanoseconds an operation over N, both logarithmic."""
    drawn, axes = figure(9, 5)
    for number, tool in enumerate(dict.fromkeys(row.tool for row in rows)):
        own = [row for row in rows if row.tool == tool]
        style = "--" if tool in (WARM, COLD) else "-"
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(
            [r.n for r in own], [r.ns_per_op for r in own], style, marker="o", markersize=4, color=colour
        )
        axes.annotate(
            tool, (own[-1].n, own[-1].ns_per_op), xytext=(6, 0), textcoords="offset points", color=colour, va="center", fontsize=9
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="operations in the program", ylabel="ns an operation")
    axes.margins(x=0.22)
    return svg(drawn)


def bars(values: Sequence[tuple[str, float]], label: str, logarithmic: bool = False) -> str:
    """A bar for each tool, the smallest on top."""
    ordered = sorted(values, key=lambda item: -item[1])
    drawn, axes = figure(9, 0.6 + 0.34 * len(ordered))
    made = axes.barh([name for name, _ in ordered], [value for _, value in ordered], color=COLOURS[0])
    axes.bar_label(
        made,
        [f"{value:,.0f}" if value >= 100 else f"{value:,.2f}" for _, value in ordered],
        padding=4,
        fontsize=9,
    )
    axes.set(xlabel=label, **({"xscale": "log"} if logarithmic else {}))
    axes.margins(x=0.12)
    return svg(drawn)


def compile_and_run(found: Sequence[Point]) -> str:
    """A point for each way: the time to compile and the time to run."""
    drawn, axes = figure(9, 5)
    for number, point in enumerate(found):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(point.compiled / 1000, point.ran / 1000, "o", color=colour)
        axes.annotate(
            point.tool, (point.compiled / 1000, point.ran / 1000), xytext=(6, 5), textcoords="offset points", color=colour, fontsize=9
        )  # fmt: skip
    axes.set_xscale("symlog", linthresh=1)
    axes.set(yscale="log", xlabel=f"compiling {KERNEL:,} operations, µs", ylabel="one run, µs")
    axes.margins(x=0.18, y=0.15)
    return svg(drawn)


# ---- the page


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    return f"<table><caption>{html.escape(caption)}</caption><tr>{cells}</tr>{body}</table>"


def processor() -> str:
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def page(
    rows: Sequence[Row],
    tools: Sequence[Tool],
    calls: Sequence[tuple[str, float]],
    found: Sequence[Point],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    goals: Sequence[str],
) -> str:
    """The whole page. columns, cells: the table of emission; goals: its lines."""
    size = 1000 if any(row.n == 1000 for row in rows) else max(row.n for row in rows)
    lengths = [(r.tool, r.bytes_per_op) for r in rows if r.n == size and r.tool not in (WARM, COLD)]
    versions = [(tool.name, tool.version or "-") for tool in tools]
    about = f"Python {sys.version.split()[0]}, {platform.system()}, {html.escape(processor())}"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>How fast cnp makes code</title>",
        f"<style>{STYLE}</style><h1>How fast cnp makes code</h1>",
        "<p>One program of additions, subtractions, multiplications, constants and jumps on 256 slots, assembled by every"
        " tool for x86-64, by turns. All code that is timed was executed against an interpreter before."
        f" Compare within this page: {about}.</p>",
        "<h2>Time for an operation</h2>", over_sizes(rows),
        "<h2>Time to the first call</h2>",
        f"<p class='note'>{FIRST} operations: records, code in executable memory, one run. Python is in all of them.</p>",
        bars([(name, taken / 1000) for name, taken in calls], "µs", logarithmic=True),
        "<h2>Bytes of code for an operation</h2>", bars(lengths, f"bytes an operation, N = {size:,}"),
        "<h2>Compile time against run time</h2>", compile_and_run(found),
        table("", ("way", "compiling, µs", "one run, µs"), [(p.tool, f"{p.compiled / 1000:,.1f}", f"{p.ran / 1000:,.3f}") for p in found]),
        "<h2>Lines of source</h2>",
        table("what one writes, without comments", ("", "lines", "operations", "lines an operation and target"), source_lines()),
        "<h2>Goals</h2><pre>" + html.escape("\n".join(goals)) + "</pre>",
        "<h2>All figures</h2>", table("medians of interleaved rounds", columns, cells),
        "<h2>Versions</h2>", table("", ("tool", "version"), versions), "</html>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"
