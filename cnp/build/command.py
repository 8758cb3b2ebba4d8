"""The build command: options in, a progress bar and a table out. `python build_stencils.py` and `cnp build`.

Exit status: 0 all is built (or, with --check, as a rebuild gives it), 1 not so, 2 the options are wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cnp import targets
from cnp.build.batch import BUILT, DIFFERS, FRESH, PACKAGE, Outcome, Plan, build_all
from cnp.build.driver import header_folder
from cnp.errors import BuildError, CnpError, ToolError

__all__ = ["BUILT", "DIFFERS", "FRESH", "Outcome", "Plan", "build_all", "main"]

COLUMNS = ("vocabulary", "target", "operations", "stencils", "bytes", "holes", "shared data", "seconds", "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (those of the process if None); the exit status."""
    try:
        options = parse(argv)
        plan = plan_of(options)
    except SystemExit as stop:  # argparse has printed what is wrong, or the help
        return int(stop.code or 0)
    try:
        with progress(len(plan.tasks())) as notify:
            outcomes = build_all(plan, options.jobs, notify)
    except CnpError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was built so far is whole", file=sys.stderr)
        return 130
    for line in table(outcomes):
        print(line)
    for line in complaints(outcomes):
        print(line, file=sys.stderr)
    return 0 if all(outcome.good for outcome in outcomes) else 1


# ---- options


def parser() -> argparse.ArgumentParser:
    """The options, each with its help."""
    made = argparse.ArgumentParser(
        prog=script if (script := os.path.basename(sys.argv[0])) == "build_stencils.py" else "cnp build",
        description="Build stencil files: C operations compiled by clang, read out as templates with holes.",
    )
    names = "|".join([*targets.TARGETS, "host", "all"])
    made.add_argument(
        "--target", action="append", metavar=names, help="repeat it or separate by commas (default: host)"
    )
    made.add_argument("--source", type=Path, metavar="FILE", help="build only FILE (default: stencils/ops.c and all that "
                      "comes with the library, the host programs too)")  # fmt: skip
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of the stencil files (default: cnp/lib)"
    )
    made.add_argument("--host-out", type=Path, metavar="DIR", help="folder of the host programs (default: cnp/host/bin, "
                      "or host in --out)")  # fmt: skip
    made.add_argument(
        "--clang", metavar="PATH", help="default: $CNP_CLANG, the ziglang wheel, clang-22 … clang-19, clang"
    )
    made.add_argument("--jobs", type=int, metavar="N", help="processes at a time (default: one a core)")
    made.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep IR, assembly and objects there; builds everything"
    )
    made.add_argument("--check", action="store_true", help="write nothing; exit 1 when what is on disk is not what a "
                      "rebuild gives")  # fmt: skip
    return made


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options, checked. SystemExit 2 with a message for what cannot be."""
    reader = parser()
    options = reader.parse_args(argv)
    try:
        options.target = chosen(options.target or ["host"])
    except ToolError as error:
        reader.error(str(error))
    if options.jobs is not None and options.jobs < 1:
        reader.error(f"--jobs {options.jobs}: at least one process is needed")
    if options.source is not None and not options.source.is_file():
        reader.error(f"--source {options.source}: no such file")
    return options


def chosen(texts: Sequence[str]) -> tuple[str, ...]:
    """Names of targets, in the order of the table, each once. ToolError: a name is none."""
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    if not words:
        raise ToolError(f"--target names none; there are host, all, {', '.join(targets.TARGETS)}", tool="cnp")
    wanted = {
        name for word in words for name in (targets.TARGETS if word == "all" else [targets.get(word).name])
    }
    return tuple(name for name in targets.TARGETS if name in wanted)


def plan_of(options: argparse.Namespace) -> Plan:
    """The plan that the options ask for."""
    out: Path = options.out or PACKAGE / "lib"
    beside = out / "host" if options.out else PACKAGE / "host" / "bin"
    source: Path | None = options.source
    if source is not None and source.resolve() == (header_folder() / "ops.c").resolve():
        source = None  # the default, said aloud
    return Plan(
        options.target, source, out, options.host_out or beside, options.clang, options.keep, options.check
    )


# ---- what is printed


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[Outcome], None]]:
    """What to call with each outcome: moves a bar on a terminal, prints lines elsewhere and where rich is missing."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    except ImportError:
        yield say
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield say
        return
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        shown = bar.add_task("building", total=total)
        yield lambda outcome: bar.update(shown, advance=1, description=title(outcome))


def title(outcome: Outcome) -> str:
    return f"{outcome.task.name} {outcome.task.target}"


def say(outcome: Outcome) -> None:
    """One plain line where there is no terminal, for what took its time."""
    if outcome.state != FRESH:
        print(f"{title(outcome)}: {outcome.state} ({outcome.seconds:.1f} s)", file=sys.stderr, flush=True)


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """The lines of the table at the end: words to the left, numbers to the right."""
    rows = [COLUMNS, *(row(outcome) for outcome in outcomes)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(COLUMNS))]
    last = len(COLUMNS) - 1

    def line(cells: tuple[str, ...]) -> str:
        parts = [
            cell.ljust(width) if column in (0, 1, last) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return [line(cells) for cells in rows]


def row(outcome: Outcome) -> tuple[str, ...]:
    """The cells of one outcome; - for what it does not have."""
    sizes = outcome.sizes
    figures = (
        (sizes.operations, sizes.stencils, sizes.bytes, sizes.holes, sizes.shared) if sizes else (None,) * 5
    )
    numbers = ["-" if figure is None else f"{figure:,}" for figure in figures]
    return (outcome.task.name, outcome.task.target, *numbers, f"{outcome.seconds:.1f}", outcome.state)


def complaints(outcomes: Sequence[Outcome]) -> list[str]:
    """What went wrong, as a compiler says it; the same error on several targets once."""
    lines: dict[str, None] = {}
    for outcome in outcomes:
        if outcome.state == DIFFERS:
            lines[f"{outcome.task.place}: error: not what a rebuild gives; run the build without --check"] = (
                None
            )
        elif outcome.error is not None:
            lines["\n".join(located(outcome.error, outcome.task.source))] = None
    return list(lines)


def located(error: CnpError, source: Path | None) -> list[str]:
    """The lines of an error, `file:line: …`: the builder tells its own so."""
    first, *rest = str(error).splitlines()
    if isinstance(error, BuildError):
        return [first, *rest]
    return [f"{f'{source}: ' if source else ''}error: {first}", *rest]
