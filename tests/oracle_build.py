"""What the judges of templates share: vocabularies that are built once for each target in a test run."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

from cnp import targets
from cnp.build import toolchain
from cnp.build.driver import Job, Made, header_folder, make
from cnp.build.shapes import Shape, shapes
from cnp.errors import ToolError
from cnp.library import Library
from tests.support import need

EVERYTHING = Path(__file__).parent / "vocabularies" / "everything.c"
REGISTERS = Path(__file__).parent / "vocabularies" / "registers.c"
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
def made_in_part(source: Path, target: str, plain: int, learned: int) -> Made:
    """As `made`, of a fair part of the shapes: up to so many plain ones, and learned ones of the same operations."""
    dice = random.Random(f"{source.name} {target}")

    def chosen(*given: Any) -> list[Shape]:
        every = shapes(*given)
        first = [shape for shape in every if not shape.learned]
        first = dice.sample(first, min(plain, len(first)))
        operations = {shape.operation for shape in first}
        second = [shape for shape in every if shape.learned and shape.operation in operations]
        second = dice.sample(second, min(learned, len(second)))
        kept = {shape.key for shape in [*first, *second]}
        return [shape for shape in every if shape.key in kept]

    with mock.patch("cnp.build.driver.all_shapes", chosen):
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
