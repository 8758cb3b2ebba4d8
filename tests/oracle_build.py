"""What the judges of templates share: vocabularies that are built once for each target in a test run."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from cnp import targets
from cnp.build import toolchain
from cnp.build.driver import Job, Made, header_folder, make
from cnp.errors import ToolError
from cnp.library import Library
from tests.support import need

EVERYTHING = Path(__file__).parent / "vocabularies" / "everything.c"
OPS = header_folder() / "ops.c"
TARGETS = tuple(targets.TARGETS)


def tools() -> toolchain.Toolchain:
    """clang and lld, or the test is skipped."""
    try:
        return toolchain.find()
    except ToolError as error:
        need(False, error.message)
        raise


@cache
def made(source: Path, target: str) -> Made:
    """A source built for a target: file, objects and what was read in them."""
    return make(Job(source, targets.get(target), tools()))


@cache
def everything(target: str) -> Library:
    """The library of the test vocabulary."""
    return Library(made(EVERYTHING, target).file, f"everything.{target}")


def narrowed(library: Library, island: int, **reach: int) -> Library:
    """A library whose jumps reach less far, so that a small program needs what only a huge one would: field name ->
    bytes either way."""
    target = library.target
    fields = dict(target.fields)
    for name, span in reach.items():
        fields[name] = replace(fields[name], low=-span, high=span - fields[name].align)
    other = Library.__new__(Library)
    other.__dict__.update(library.__dict__, target=replace(target, fields=fields, island=island))
    return other
