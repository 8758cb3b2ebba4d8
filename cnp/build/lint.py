"""What the operations of a source cost, on every target: for people to read, and as a test of their own.

A row is one operation on one target. Its figures are those of the form that is taken first, but `most`, which is of the
largest one. A golden file holds rows as JSON; against it, only what changed is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cnp import source
from cnp.build.discover import Source
from cnp.build.shapes import layout
from cnp.errors import LibraryError
from cnp.library import Library
from cnp.stencil import Hole, Leave, Operation, Stencil, What
from cnp.target import Target

COLUMNS = ("operation", "target", "forms", "bytes", "cold", "holes", "instructions", "spilled", "helpers", "exits", "state")  # fmt: skip
KEY = ("operation", "target")


@dataclass(frozen=True, slots=True)
class Row:
    """One operation on one target.

    forms: how many it has. bytes: of the hot code, without the jump to the next operation; most: the same of the largest
    form; cold: bytes of the cold code. holes: in both. instructions: of the hot code. spilled: bytes of native stack, for what
    found no register and for calls. helpers: names of those that are called. exits: the ways out: exit, trap, unwind (a
    callee left). state: `registers`, or how many words have their home in the frame's header for want of registers, and
    `spilled`: the operation uses the native stack.
    """

    operation: str
    target: str
    forms: int
    bytes: int
    most: int
    cold: int
    holes: int
    instructions: int
    spilled: int
    helpers: tuple[str, ...]
    exits: tuple[str, ...]
    state: str

    def cells(self) -> tuple[str, ...]:
        """As the cells of COLUMNS; - for nothing."""
        size = f"{self.bytes} … {self.most}" if self.most != self.bytes else str(self.bytes)
        numbers = (self.cold, self.holes, self.instructions, self.spilled)
        return (
            self.operation, self.target, str(self.forms), size, *map(str, numbers),
            ", ".join(self.helpers) or "-", ", ".join(self.exits) or "-", self.state,
        )  # fmt: skip


def lint(path: str | Path, targets: Iterable[Target]) -> list[Row]:
    """The rows of a C source, by operation, then by target. Errors as those of `cnp.load`."""
    libraries = [source.of_file(Path(path), target) for target in targets]
    names = list(dict.fromkeys(name for library in libraries for name in library.operations))
    return [row(library, name) for name in names for library in libraries if name in library]


def row(library: Library, name: str) -> Row:
    """The figures of one operation."""
    operation = library[name]
    first = operation.forms[0].near
    holes = [hole for block in first.blocks for hole in block.holes]
    helpers = {library.imports[hole.index].name for hole in every_hole(operation) if hole.what is What.IMPORT}
    exits = {Leave(hole.index).name.lower() for hole in every_hole(operation) if hole.what is What.LEAVE}
    homes = len(homes_of(library))
    elsewhere = [f"{homes} words in the frame"] * (homes > 0) + ["spilled"] * (first.stack > 0)
    state = ", ".join(elsewhere) or "registers"
    return Row(
        name, library.target.name, len(operation.forms), hot_bytes(first),
        max(hot_bytes(form.near) for form in operation.forms), first.size - len(first.blocks[0].code), len(holes),
        first.instructions, first.stack, tuple(sorted(helpers)), tuple(sorted(exits)), state,
    )  # fmt: skip


def every_hole(operation: Operation) -> Iterable[Hole]:
    return (hole for form in operation.forms for block in form.near.blocks for hole in block.holes)


def hot_bytes(stencil: Stencil) -> int:
    hot = stencil.blocks[0]
    return len(hot.code) - hot.tail


def homes_of(library: Library) -> tuple[tuple[str, str], ...]:
    """The words of the state, (type, name), that the target has no register for."""
    state = tuple((word.ctype, word.name) for word in library.state)
    plan = layout(Source(Path(library.path), state, library.result, ()), library.target)
    return (*plan.homes, *plan.memory)


# ---- as a test


def too_large(rows: Iterable[Row], limit: int) -> list[str]:
    """A line for each operation with a form of more bytes than that."""
    return [
        f"{row.operation} on {row.target}: {row.most} bytes, more than {limit}"
        for row in rows
        if row.most > limit
    ]


def as_json(rows: Iterable[Row]) -> str:
    """Rows as text, one in a line."""
    lines = ",\n".join(json.dumps(asdict(row)) for row in rows)
    return f"[\n{lines}\n]\n"


def differences(rows: Sequence[Row], golden: Path) -> list[str]:
    """What is not as in a golden file, a line for each operation and target. Of targets that were not asked for nothing is
    said. LibraryError: it is no golden file."""
    try:
        known = {tuple(item[key] for key in KEY): item for item in json.loads(golden.read_text("utf-8"))}
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"{golden} is no golden file ({error}); write it with --update"
        raise LibraryError(message, path=str(golden)) from error
    targets = {row.target for row in rows}
    found = []
    for row in rows:
        new = json.loads(json.dumps(asdict(row)))
        old = known.pop((row.operation, row.target), None)
        if old is None:
            found.append(f"{row.operation} on {row.target}: is new")
        elif changes := [f"{k} {said(old.get(k))} -> {said(new[k])}" for k in new if old.get(k) != new[k]]:
            found.append(f"{row.operation} on {row.target}: {', '.join(changes)}")
    gone = [f"{operation} on {target}: is gone" for operation, target in known if target in targets]
    return found + gone


def said(value: object) -> str:
    """A value of a row in a message."""
    return (", ".join(map(str, value)) or "none") if isinstance(value, list) else str(value)
