"""`cnp bench ebpf`: the options, a progress bar, and the figures as a table or as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from cnp.bench.command import LEAST_ROUNDS, goal_lines, micro, print_table, progress, ratio

if TYPE_CHECKING:
    from cnp.bench.ebpf import Row

COLUMNS = (
    "program", "insns", "native µs", "jit µs", "checked µs", "interpreter µs", "jit/native", "checked/native", "ns/insn",
    "B/insn",
)  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON list of rows, and nothing else, on stdout")
@click.option(
    "--rounds",
    type=click.IntRange(LEAST_ROUNDS),
    default=LEAST_ROUNDS,
    show_default=True,
    help="how often each implementation runs; a time is the median",
)
def ebpf(as_json: bool, rounds: int) -> None:
    """How good and how fast eBPF is, beside C for this machine.

    The same C is compiled to eBPF, which is run here, and for this machine. How fast eBPF is compiled is shown, too.
    """
    from cnp.bench import ebpf as contest

    rows: list[Row] = []
    with progress(contest.NAMES) as notify:
        for row in contest.run(rounds):
            rows.append(row)
            notify()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return
    print_table(COLUMNS, [cells(row) for row in rows])
    for line in (*notes(), "", *goal_lines(rows, contest.GOALS), "", *figure_lines(rows, rounds)):
        click.echo(line)


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table; - for what was not run."""
    times = (row.native_ns, row.jit_ns, row.jit_checked_ns, row.interpreter_ns)
    return (
        row.program, f"{row.insns:,}", *map(micro, times), ratio(row.jit_ns, row.native_ns),
        ratio(row.jit_checked_ns, row.native_ns), f"{row.compile_ns_per_insn:,.0f}", f"{row.code_bytes_per_insn:.1f}",
    )  # fmt: skip


def notes() -> Iterator[str]:
    """What the columns mean."""
    yield "\nmedian times; native: clang -O2 without vectors; ns/insn: to compile an instruction, verification included;"
    yield "ns/insn and B/insn without checks. Compiled only: a packet filter, a small program, all of them again and again"


def figure_lines(rows: Sequence[Row], rounds: int) -> Iterator[str]:
    """The other figures beside their goals, and the lines of source."""
    from cnp.bench import ebpf as contest

    for figure in contest.figures(rows, contest.call_ratio(rounds)):
        state = "met" if figure.met else "MISSED"
        yield f"{figure.title:44} {figure.value:6.1f}  ≤ {figure.bound:<3g} {state}"
    c, python = contest.lines()
    yield ""
    yield (
        f"lines: {c} of C for all targets, {python} of Python; "
        f"ubpf's back ends for two targets: {contest.HAND_WRITTEN:,}"
    )
