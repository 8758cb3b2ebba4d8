"""`cnp bench`: the options, a progress bar, and the figures as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cnp.bench.quality import Goal, Row

LEAST_ROUNDS = 9  #: fewer say little
COLUMNS = (
    "kernel", "cnp µs", "hand µs", "-O1 µs", "-O2 µs", "threaded µs", "switch µs", "cnp/hand", "cnp/-O1",
    "cnp B", "hand B", "-O1 B", "cnp/hand",
)  # fmt: skip


@click.group()
def bench() -> None:
    """Measure how good the code is, and how fast it is made."""


@bench.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON list of rows, and nothing else, on stdout")
@click.option("--kernel", "names", metavar="NAME", multiple=True, help="only this one (can be repeated)")
@click.option(
    "--rounds",
    type=click.IntRange(LEAST_ROUNDS),
    default=LEAST_ROUNDS,
    show_default=True,
    help="how often each implementation runs; a time is the median",
)
def quality(as_json: bool, names: Sequence[str], rounds: int) -> None:
    """How good code is: kernels beside C, assembly, interpreters.

    The kernels are written with the portable operations; beside them run the same in C, in assembly by hand, and
    interpreted.
    """
    from cnp.bench.kernels import KERNELS
    from cnp.bench.quality import GOALS, run

    for name in names:
        if name not in KERNELS:
            known = ", ".join(KERNELS)
            raise click.BadParameter(f"there is no {name!r}; there are {known}", param_hint="--kernel")
    chosen = list(dict.fromkeys(names)) or list(KERNELS)
    rows: list[Row] = []
    with progress(chosen) as notify:
        for row in run(chosen, rounds):
            rows.append(row)
            notify()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return
    print_table(COLUMNS, [cells(row) for row in rows])
    click.echo(
        "\nmedian times; cnp: the portable operations; hand: assembly; -O1, -O2: clang without vectors; B: bytes\n"
    )
    for line in goal_lines(rows, GOALS):
        click.echo(line)


@contextmanager
def progress(names: Sequence[str]) -> Iterator[Any]:
    """What to call when a kernel is done: moves a bar on stderr where that is a terminal and rich is installed."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ImportError:
        yield lambda: None
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda: None
        return
    left = iter([*names[1:], "done"])
    columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False
    ) as bar:  # no thread beside us
        shown = bar.add_task(names[0], total=len(names))
        bar.refresh()
        yield lambda: bar.update(shown, advance=1, description=next(left), refresh=True)


# ---- the table


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table; times in microseconds, - for what is not there."""
    return (
        row.kernel,
        *(micro(t) for t in (row.cnp_ns, row.hand_ns, row.clang_O1_ns, row.clang_O2_ns)),
        *(micro(t) for t in (row.interpreter_ns, row.switch_ns)),
        ratio(row.cnp_ns, row.hand_ns),
        ratio(row.cnp_ns, row.clang_O1_ns),
        *("-" if size is None else str(size) for size in (row.cnp_bytes, row.hand_bytes, row.clang_O1_bytes)),
        ratio(row.cnp_bytes, row.hand_bytes),
    )


def micro(nanoseconds: int | None) -> str:
    return "-" if nanoseconds is None else f"{nanoseconds / 1000:,.0f}"


def ratio(a: int | None, b: int | None) -> str:
    return f"{a / b:.2f}" if a and b else "-"


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """On a terminal by rich, where it is installed; else as plain columns, the first one to the left."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            pass
        else:
            table = Table(header_style="bold")
            for number, column in enumerate(columns):
                table.add_column(column, justify="right" if number else "left")
            for row in rows:
                table.add_row(*row)
            Console(highlight=False).print(table)
            return
    lines = [columns, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(columns))]
    for line in lines:
        first, *rest = (
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        click.echo("  ".join([first, *rest]))


def goal_lines(rows: Sequence[Any], goals: Sequence[Goal]) -> Iterator[str]:
    """The geometric means beside the goals."""
    yield "geometric means                           goal"
    for goal in goals:
        mean = goal.mean(rows)
        bound = f"{'≤' if goal.most else '≥'} {goal.bound:.2f}"
        if mean is None:
            yield f"{goal.title:33}      -  {bound}"
        else:
            yield f"{goal.title:33} {mean:6.2f}  {bound}  {'met' if goal.met(mean) else 'MISSED'}"
