"""The command line: run, build, export, list, dump, doctor, lint, cache, bench. What a command needs is imported when it runs.

Exit status: 0 fine, 1 an error that was told on stderr, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import click

from cnp import __version__
from cnp.bench.command import bench
from cnp.bench.ebpf_command import ebpf
from cnp.bench.emission_command import emission, report
from cnp.ebpf.command import disasm, plugin
from cnp.errors import CnpError, LibraryError
from cnp.targets import TARGETS

if TYPE_CHECKING:
    from cnp.library import Library

LANGUAGES = ("c", "go", "rust", "json", "core")
MOST_CELLS = 1 << 30  #: of a Brainfuck tape


class Commands(click.Group):
    """Turns the exceptions of the library into one line and a status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CnpError as error:
            fail(error.message)
        except KeyboardInterrupt:
            ctx.exit(130)
        except ModuleNotFoundError as missing:
            extra = {"capstone": "cli", "elftools": "build", "matplotlib": "bench"}.get(
                (missing.name or "").partition(".")[0]
            )
            if extra is None:
                raise
            fail(f"this command needs {missing.name}: pip install 'cnp[{extra}]'")
        except OSError as error:
            if error.errno == errno.EPIPE:  # click ends quietly
                raise
            fail(str(error))


def fail(message: str, prefix: str = "error: ") -> NoReturn:
    """Tell what is wrong and exit with status 1."""
    click.echo(prefix + message, err=True)
    click.get_current_context().exit(1)


def find_library(name: str, target: str | None) -> Library:
    """A stencil file by its path, by the name of one that came with the library, or of a C source. LibraryError,
    BuildError, ToolError."""
    from cnp import runtime, targets
    from cnp.library import Library

    if name.endswith(".c"):
        return runtime.load(name, target or "host", features=()).library
    if not (name.endswith(".cnp") or Path(name).is_file()):
        return Library.load(runtime.installed(name, targets.get(target or "host").name))
    library = Library.load(name)
    if target is not None and targets.get(target).name != library.target.name:
        raise LibraryError(f"{name} is for {library.target.name}, not for {target}", path=name)
    return library


target_option = click.option(
    "--target",
    metavar="T",
    help=f"{', '.join(TARGETS)} (default: this machine)",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="cnp")
def cli() -> None:
    """A copy-and-patch JIT library: operations written once, in C; machine code for five architectures."""


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--input", "given", type=click.File("rb"), default="-", help="what the program reads (default: stdin)"
)
@target_option
@click.option("--interpret", is_flag=True, help="by the interpreter of the same operations")
@click.option(
    "--cells",
    type=click.IntRange(1, MOST_CELLS),
    default=1 << 16,
    show_default=True,
    help="length of the tape",
)
@click.option("--time", "timed", is_flag=True, help="tell on stderr how long compiling and running took")
@click.option(
    "--section", metavar="S", help="eBPF: section of an ELF object (default: the first one with code)"
)
@click.option("--mem", type=click.Path(exists=True, dir_okay=False), help="eBPF: file that r1 points to")
@click.option("--unchecked", is_flag=True, help="eBPF: trust the program's loads and stores")
def run(
    file: str,
    given: BinaryIO,
    target: str | None,
    interpret: bool,
    cells: int,
    timed: bool,
    section: str | None,
    mem: str | None,
    unchecked: bool,
) -> None:
    """Run an eBPF or Brainfuck program, compiled or interpreted.

    It runs on this machine, or on another one in an emulator. An ELF object, or a file that ends in .o, .bin or .bpf, is
    eBPF: r0 is printed in hex. Anything else is Brainfuck.
    """
    from cnp.ebpf import command

    if command.is_program(file):
        click.echo(f"{command.run(file, section, mem, target, interpret, unchecked):#x}")
    else:
        run_brainfuck(file, given, target, interpret, cells, timed)


def run_brainfuck(
    file: str, given: BinaryIO, target: str | None, interpret: bool, cells: int, timed: bool
) -> None:
    from cnp import brainfuck

    start = compiled = time.perf_counter()
    try:
        program = brainfuck.Linked(brainfuck.read_source(file), target or "host", interpret)
        compiled = time.perf_counter()
        program.run(given, sys.stdout.buffer, cells)
    except (brainfuck.SourceError, brainfuck.TapeError) as error:
        fail(error.what, f"{file}:{error.line}:{error.column}: ")
    finally:
        if timed:
            end = time.perf_counter()
            click.echo(f"compiled in {compiled - start:.3f} s, ran {end - compiled:.3f} s", err=True)


@cli.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def build(options: tuple[str, ...]) -> None:
    """Build stencil files from C, as build_stencils.py does."""
    from cnp.build import command

    click.get_current_context().exit(command.main(options))


@cli.command()
@click.argument("library", metavar="NAME_OR_FILE")
@target_option
@click.option("--as", "language", type=click.Choice(LANGUAGES), required=True)
@click.option("--out", type=click.Path(dir_okay=False), help="(default: stdout)")
def export(library: str, target: str | None, language: str, out: str | None) -> None:
    """Print a stencil table for another language.

    It is for runtimes in these languages (docs/export.md), or for the core in C (docs/using-from-c.md).
    """
    from cnp import export as tables
    from cnp.export_core import to_core

    found = find_library(library, target)
    text = to_core(found) if language == "core" else tables.export(found, language)
    if out is None:
        click.echo(text, nl=False)
    else:
        Path(out).write_text(text, encoding="ascii")


@cli.command()
@click.argument("source", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--target", "names", multiple=True, metavar="T", help="repeat it or separate by commas (default: all)"
)
@click.option("--max-bytes", "limit", type=click.IntRange(0), metavar="N", help="fail where a form is larger")
@click.option(
    "--golden",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="fail where it says otherwise",
)
@click.option("--update", is_flag=True, help="write the golden file")
@click.option("--json", "raw", is_flag=True, help="print the rows as JSON, as they stand in a golden file")
def lint(
    source: Path, names: tuple[str, ...], limit: int | None, golden: Path | None, update: bool, raw: bool
) -> None:
    """Tell what each operation of a C source costs on each target. Exit status 1: it is not as --max-bytes or --golden say."""
    from cnp import show, targets
    from cnp.build import lint as linter
    from cnp.build.command import chosen

    if update and golden is None:
        raise click.UsageError("--update needs --golden FILE")
    rows = linter.lint(source, [targets.get(name) for name in chosen(names or ("all",))])
    cells = [row.cells() for row in rows]
    if raw:
        click.echo(linter.as_json(rows), nl=False)
    elif not (sys.stdout.isatty() and print_table(f"{source}", linter.COLUMNS, cells)):
        for line in show.aligned([linter.COLUMNS, *cells]):
            click.echo(line)
    faults = [] if limit is None else linter.too_large(rows, limit)
    if golden is not None and update:
        golden.write_text(linter.as_json(rows), encoding="utf-8")
    elif golden is not None:
        faults += linter.differences(rows, golden)
    for fault in faults:
        click.echo(fault, err=True)
    click.get_current_context().exit(int(bool(faults)))


@cli.command("list")
@click.argument("library", metavar="[NAME_OR_FILE]", default="ops")
@click.option("--forms", is_flag=True, help="Each form of each operation, with its holes.")
@target_option
def list_operations(library: str, forms: bool, target: str | None) -> None:
    """List operations: operands, forms, bytes."""
    from cnp import show

    loaded = find_library(library, target)
    columns, rows = (
        (show.COLUMNS, show.list_rows(loaded))
        if forms
        else (show.OPERATION_COLUMNS, show.operation_rows(loaded))
    )
    if sys.stdout.isatty() and print_table(show.summary(loaded), columns, rows):
        return
    for line in show.aligned([columns, *rows]):
        click.echo(line)


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> bool:
    """A table on the terminal, an operation's name once; False where rich is missing."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ImportError:
        return False
    table = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 3 else "right", no_wrap=number == 0)
    previous = ""
    for row in rows:
        table.add_row(*(("", "", *row[2:]) if row[0] == previous else row))
        previous = row[0]
    Console(highlight=False).print(table)
    return True


@cli.command()
@click.argument("operation", metavar="OP")
@click.option("--library", default="ops", show_default=True, metavar="NAME_OR_FILE")
@target_option
def dump(operation: str, library: str, target: str | None) -> None:
    """Show an operation's code: blocks, instructions, holes."""
    from cnp import show

    for line in show.dump(find_library(library, target), operation):
        click.echo(line)


@cli.command()
def doctor() -> None:
    """Tell what works here and what to do about the rest. Exit status 1 when something is broken."""
    from cnp import doctor as checks

    colours = {checks.OK: "green", checks.MISSING: "yellow", checks.BROKEN: "red"}
    broken = False
    for check in checks.examine():
        state = click.style(f"{check.state:8}", fg=colours[check.state])
        click.echo(f"{state} {check.subject:10} {check.finding}")
        if check.advice:
            click.echo(f"{'':19} -> {check.advice}")
        broken |= check.state == checks.BROKEN
    click.get_current_context().exit(int(broken))


@cli.group("cache")
def cached() -> None:
    """The stencil files of sources that were loaded as they are."""


@cached.command("show")
def show_cache() -> None:
    """List what is kept, and where."""
    from cnp import show
    from cnp.build import cache

    kept = cache.contents()
    rows = [(item.source, item.target or "half a file", str(item.path), f"{item.bytes:,}") for item in kept]
    for line in show.aligned(rows):
        click.echo(line)
    click.echo(f"{len(kept)} files, {sum(item.bytes for item in kept):,} bytes in {cache.folder()}")


@cached.command("clear")
def clear_cache() -> None:
    """Delete it all; what is loaded again is built again."""
    from cnp.build import cache

    gone = cache.clear()
    click.echo(f"{len(gone)} files, {sum(item.bytes for item in gone):,} bytes deleted from {cache.folder()}")


bench.add_command(ebpf)
bench.add_command(emission)
bench.add_command(report)
cli.add_command(bench)
cli.add_command(disasm)
cli.add_command(plugin)
