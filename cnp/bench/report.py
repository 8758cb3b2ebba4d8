"""`cnp bench report`: the figures of emission as one HTML page that needs nothing else, with plots drawn by matplotlib.

rows of emission, first calls, compile and run times, lines of source --> tables, SVG --> HTML
"""

from __future__ import annotations

import html
import io
import math
import platform
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnp import runtime, targets
from cnp.bench.emission import Contest, Row
from cnp.bench.extremes import Figure
from cnp.bench.native import Native, by_hand, compiler_version
from cnp.bench.opponents import FOLDER
from cnp.bench.tools import COLD, TRIES, WARM, Tool, median_time
from cnp.build.driver import header_folder
from cnp.targets import TARGETS

FIRST, KERNEL = 10, 1000  #: operations of the small function, and of the program that is run
GAP, LETTER = 7, (5.6, 11)  #: points from a point to its name; width and height of a letter
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
    contest = Contest(native, [], KERNEL)
    program = contest.verified
    found = [Point("interpreter in C", 0.0, median_time(native.interpreter(program)))]
    for tool in tools:
        if tool.executes:
            contest.check(tool)
            job = tool.prepare(program)
            compiled = statistics.median(job.timed(1) for _ in range(TRIES))
            found.append(Point(tool.name, compiled, job.run_time()))
            job.close()
    return found


def first_calls(native: Native, tools: Iterable[Tool]) -> list[tuple[str, float]]:
    """Of every tool of this process: nanoseconds from FIRST operations to the end of their first run, medians."""
    program = native.program(FIRST, verify=True)
    found = []
    for tool in tools:
        if tool.executes and not tool.outside and not tool.name.endswith(" cold"):  # that one is cold anyway
            job = tool.prepare(program)
            found.append(
                (tool.name.removesuffix(" warm"), statistics.median(job.first_call() for _ in range(TRIES)))
            )
            job.close()
    return found


def source_lines() -> list[tuple[str, str, str, str]]:
    """Lines of source, what they are for, and how many that is for an operation on one target."""
    operations, every = len(runtime.load("ops").operations), len(TARGETS)
    declared = lines_of(header_folder() / "ops.c")
    described = sum(lines_of(path) for path in Path(targets.__file__).parent.glob("*.py"))
    hand = by_hand()
    assert hand is not None  # there is a Native
    instructions = len(
        re.findall(r"^void hand_\w+\(.*int32_t disp|^void hand_(?:mov|ret|j)", hand.read_text(), re.M)
    )
    written = lines_of(hand) + lines_of(FOLDER / "hand.h")

    def row(what: str, lines: int, count: int, machines: int) -> tuple[str, str, str, str]:
        return what, f"{lines:,}", f"{count} × {machines}", f"{lines / count / machines:,.2f}"

    return [
        row("cnp: its portable operations, in C", declared, operations, every),
        row("cnp: what it must know of its targets", described, operations, every),
        row("hand-written: instructions of one target, in C", written, instructions, 1),
    ]


def lines_of(path: Path) -> int:
    """Lines that are neither empty nor comment or docstring alone."""
    comment = r'^ *#.*|"""(?:.|\n)*?"""' if path.suffix == ".py" else r"/\*(?:.|\n)*?\*/"
    text = re.sub(comment, "", path.read_text(encoding="utf-8"), flags=re.M)
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


def name_points(axes: Any, points: Iterable[tuple[str, tuple[float, float], str]]) -> None:
    """Write names beside points, each in its colour; what has no room goes higher."""
    drawn = axes.figure
    drawn.draw_without_rendering()  # from here on places are final
    scale = 72 / drawn.dpi
    taken: list[tuple[float, float, float]] = []
    placed = [(name, at, colour, *axes.transData.transform(at) * scale) for name, at, colour in points]
    for name, at, colour, x, y in sorted(placed, key=lambda item: item[-1]):
        left, bottom, right = x + GAP, y - LETTER[1] / 2, x + GAP + LETTER[0] * len(name)
        for start, end, line in taken:  # from below
            if left < end and start < right and abs(bottom - line) < LETTER[1]:
                bottom = line + LETTER[1]
        taken.append((left, right, bottom))
        taken.sort(key=lambda item: item[-1])
        offset = (GAP, bottom + LETTER[1] / 2 - y)
        axes.annotate(
            name, at, xytext=offset, textcoords="offset points", va="center", fontsize=9, color=colour
        )


def plain_number(value: float, _: int) -> str:
    return f"{value:,.10g}"


def colours(names: Sequence[str]) -> dict[str, str]:
    """One for each name."""
    return {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}


def over_sizes(rows: Sequence[Row]) -> str:
    """Nanoseconds an operation over N, both logarithmic."""
    drawn, axes = figure(9, 5.5)
    shades, ends = colours(list(dict.fromkeys(row.tool for row in rows))), []
    for tool, colour in shades.items():
        own = [row for row in rows if row.tool == tool]
        style = "--" if tool in (WARM, COLD) else "-"
        sizes, times = [row.n for row in own], [row.ns_per_op for row in own]
        axes.plot(sizes, times, style, marker="o", markersize=4, color=colour)
        ends.append((tool, (sizes[-1], times[-1]), colour))
    axes.set(xscale="log", yscale="log", xlabel="operations in the program", ylabel="ns an operation")
    least, most = min(row.n for row in rows), max(row.n for row in rows)
    axes.set_xlim(least / 1.6, 1.6 * most * (most / least) ** 0.25)  # names stand behind the lines
    axes.xaxis.set_major_formatter(plain_number)
    axes.yaxis.set_major_formatter(plain_number)
    name_points(axes, ends)
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
    axes.set(xlabel=label)
    axes.grid(False, axis="y")
    if logarithmic:
        values_only = [value for _, value in ordered]
        axes.set(xscale="log", xlim=(10 ** math.floor(math.log10(min(values_only))), 3 * max(values_only)))
        axes.xaxis.set_major_formatter(plain_number)
    else:
        axes.margins(x=0.12)
    return svg(drawn)


def compile_and_run(found: Sequence[Point]) -> str:
    """A point for each way: the time to compile and the time to run, microseconds; what compiles nothing stands at 0."""
    drawn, axes = figure(9, 5.5)
    shades = colours([point.tool for point in found])
    places = [(p.tool, (p.compiled / 1000, p.ran / 1000), shades[p.tool]) for p in found]
    for _, (compiled, ran), colour in places:
        axes.plot(compiled, ran, "o", color=colour)
    last = math.ceil(math.log10(max(compiled for _, (compiled, _), _ in places)))
    axes.set_xscale("symlog", linthresh=1, linscale=0.5)
    axes.set(yscale="log", xlabel=f"compiling {KERNEL:,} operations, µs", ylabel="one run, µs")
    axes.set_xlim(-0.2, 20 * 10**last)
    axes.set_xticks([0, *(10**power for power in range(last + 1))])
    axes.xaxis.set_major_formatter(plain_number)
    axes.yaxis.set_major_formatter(plain_number)
    axes.yaxis.set_minor_formatter(plain_number)
    axes.margins(y=0.12)
    name_points(axes, places)
    return svg(drawn)


# ---- the page


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows
    )
    above = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{above}<tr>{cells}</tr>{body}</table>"


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
    figures: Sequence[Figure],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    remarks: Sequence[str],
) -> str:
    """The whole page. columns, cells: the table of emission; remarks: on it."""
    size = 1000 if any(row.n == 1000 for row in rows) else max(row.n for row in rows)
    lengths = [(r.tool, r.bytes_per_op) for r in rows if r.n == size and r.tool not in (WARM, COLD)]
    versions = [(tool.name, tool.known_version) for tool in tools if tool.known_version]
    versions.append(("C, by hand and interpreted", compiler_version()))
    about = f"Python {sys.version.split()[0]}, {platform.system()}, {html.escape(processor())}"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>How fast cnp makes code</title>",
        "<meta name='viewport' content='width=device-width'>",
        f"<style>{STYLE}</style><h1>How fast cnp makes code</h1>",
        "<p>One program of additions, subtractions, multiplications, constants and jumps on 256 slots, assembled by every"
        f" tool for {html.escape(platform.machine())}, by turns. All code that is timed was executed against an interpreter before."
        f" Compare within this page: {about}.</p>",
        "<h2>Time for an operation</h2>", over_sizes(rows),
        "<h2>Time to the first call</h2>",
        f"<p class='note'>{FIRST} operations: records, code in executable memory, one run. Python is in all of them.</p>",
        bars([(name, taken / 1000) for name, taken in calls], "µs", logarithmic=True),
        "<h2>Bytes of code for an operation</h2>", bars(lengths, f"bytes an operation, N = {size:,}"),
        "<h2>Compile time against run time</h2>",
        "<p class='note'>Of the same program, in its variant that always ends. The interpreter compiles nothing. clang begins with"
        " the text of a C file and ends with a shared object.</p>",
        compile_and_run(found),
        table("", ("way", "compiling, µs", "one run, µs"), [(p.tool, f"{p.compiled / 1000:,.1f}", f"{p.ran / 1000:,.3f}") for p in found]),
        "<h2>Lines of source</h2>",
        table("what one writes, without comments", ("", "lines", "operations × targets", "lines an operation and target"), source_lines()),
        "<h2>Goals</h2>", table("", ("figure", "in this run", "goal", ""), [goal_cells(figure) for figure in figures]),
        "<h2>All figures</h2>", table("medians of interleaved rounds", columns, cells),
        *(f"<p class='note'>{html.escape(line)}</p>" for line in remarks),
        "<h2>Versions</h2>", table("", ("tool", "version"), versions), "</html>",
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def goal_cells(figure: Figure) -> tuple[str, str, str, str]:
    shown = "-" if figure.value is None else f"{figure.value:.4g}"
    return figure.title, shown, f"≤ {figure.bound:g}", figure.verdict
