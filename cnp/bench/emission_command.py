"""`cnp bench emission`: the options, the progress, and the figures as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cnp.bench.command import LEAST_ROUNDS, print_table

if TYPE_CHECKING:
    from cnp.bench.emission import Row
    from cnp.bench.extremes import Figure
    from cnp.bench.tools import Tool

COLUMNS = ("tool", "n", "ns/op", "MB/s", "bytes/op", "/memcpy", "/hand")
TITLE = 68  #: letters of a figure's title
MEANING = "medians; /memcpy: its time by that of memcpy warm, of cold rows by that of memcpy cold; /hand: by the hand-written"


def named(context: click.Context, option: click.Parameter, given: Sequence[str]) -> list[tuple[str, str]]:
    """NAME=COMMAND as pairs; every name once."""
    from cnp.bench.tools import all_tools

    pairs, taken = [], {tool.name for tool in all_tools()}
    for text in given:
        name, sign, command = text.partition("=")
        if not (name and sign and command.strip()):
            raise click.BadParameter(f"{text!r} is not NAME=COMMAND", context, option)
        if name in taken:
            raise click.BadParameter(f"there is a tool {name!r} already", context, option)
        taken.add(name)
        pairs.append((name, command))
    return pairs


@click.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON list of rows, and nothing else, on stdout")
@click.option(
    "--tool", "others", metavar="NAME=COMMAND", multiple=True, callback=named,
    help="another assembler, as docs/bench-protocol.md says (can be repeated)",
)  # fmt: skip
@click.option("--all", "all_sizes", is_flag=True, help="every tool at every N, however long it takes")
@click.option("--most", type=click.IntRange(10), default=10_000_000, show_default=True, help="the largest N")
@click.option("--rounds", type=click.IntRange(LEAST_ROUNDS), default=LEAST_ROUNDS, show_default=True, help="a time is the median")  # fmt: skip
def emission(as_json: bool, others: list[tuple[str, str]], all_sizes: bool, most: int, rounds: int) -> None:
    """How fast code is made, beside other assemblers.

    The same program is made by cnp, by an assembler written by hand, by keystone, by LLVM, as far as they are installed.
    """
    from cnp.bench import emission as contest
    from cnp.bench import extremes
    from cnp.bench.external import external
    from cnp.bench.native import Native
    from cnp.bench.tools import all_tools

    tools = [*all_tools(), *(external(name, command) for name, command in others)]
    sizes = [n for n in contest.SIZES if n <= most]
    with tempfile.TemporaryDirectory(prefix="cnp-") as scratch:
        native = Native(Path(scratch))
    with progress(sizes, rounds) as notify:
        rows = list(contest.run(native, tools, sizes, rounds, all_sizes, notify))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return
    print_table(COLUMNS, [cells(row) for row in rows])
    for line in (*notes(tools, rows, sizes), "", *goal_lines(extremes.figures(native, rows))):
        click.echo(line)


@click.command()
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), default="emission.html", show_default=True
)
@click.option(
    "--tool", "others", metavar="NAME=COMMAND", multiple=True, callback=named, help="as in cnp bench emission"
)
@click.option("--most", type=click.IntRange(10), default=1_000_000, show_default=True, help="the largest N")
def report(out: Path, others: list[tuple[str, str]], most: int) -> None:
    """Write what emission says as an HTML page with plots.

    The page needs no other file.
    """
    from cnp.bench import emission as contest
    from cnp.bench import extremes
    from cnp.bench import report as written
    from cnp.bench.clang import clang_tools
    from cnp.bench.external import external
    from cnp.bench.native import Native
    from cnp.bench.tools import all_tools

    written.figure(1, 1)  # where matplotlib is missing this ends here, not after minutes
    tools = [*all_tools(), *(external(name, command) for name, command in others)]
    sizes = [n for n in contest.SIZES if n <= most]
    with tempfile.TemporaryDirectory(prefix="cnp-") as scratch:
        native = Native(Path(scratch))
    with progress(sizes, contest.ROUNDS) as notify:
        rows = list(contest.run(native, tools, sizes, notify=notify))
    compilers = clang_tools()
    calls, found = written.first_calls(native, tools), written.points(native, [*tools, *compilers])
    table = [cells(row) for row in rows]
    figures, remarks = list(extremes.figures(native, rows)), [MEANING, *stops(tools, rows, sizes)]
    out.write_text(
        written.page(rows, [*tools, *compilers], calls, found, figures, COLUMNS, table, remarks),
        encoding="utf-8",
    )
    click.echo(f"{out}: {len(rows)} rows")


@contextmanager
def progress(sizes: Sequence[int], rounds: int) -> Iterator[Callable[[int], None]]:
    """What to call with the size after each round: moves a bar on stderr where that is a terminal and rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ImportError:
        yield lambda n: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda n: None
        return
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False
    ) as bar:  # no thread beside us
        shown = bar.add_task("checking", total=len(sizes) * rounds)
        bar.refresh()
        yield lambda n: bar.update(shown, advance=1, description=f"N = {n:,}", refresh=True)


# ---- the table


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    return (
        row.tool,
        f"{row.n:,}",
        *(f"{value:,.2f}" for value in (row.ns_per_op, row.mb_per_s, row.bytes_per_op)),
        f"{row.ratio_to_memcpy:,.2f}",
        f"{row.ratio_to_hand:,.3f}",
    )


def notes(tools: Sequence[Tool], rows: Sequence[Row], sizes: Sequence[int]) -> Iterator[str]:
    """What the columns mean, versions, and which tools stopped where."""
    yield f"\n{MEANING}"
    yield f"versions: {', '.join(f'{tool.name} {tool.known_version}' for tool in tools if tool.known_version)}"
    yield from stops(tools, rows, sizes)


def stops(tools: Sequence[Tool], rows: Sequence[Row], sizes: Sequence[int]) -> Iterator[str]:
    """Which tools went no further, and where."""
    for tool in tools:
        last = max((row.n for row in rows if row.tool == tool.name), default=0)
        if last < sizes[-1]:
            yield f"{tool.name} stops at {last:,}: a round of the next N would take too long (--all goes on)"


def goal_lines(figures: Iterable[Figure]) -> Iterator[str]:
    """The figures beside their goals."""
    yield f"{'in this run':{TITLE}}         goal"
    for figure in figures:
        shown = "-" if figure.value is None else f"{figure.value:.4g}"
        yield f"{figure.title:{TITLE}} {shown:>8}  ≤ {figure.bound:<6g} {figure.verdict}".rstrip()
