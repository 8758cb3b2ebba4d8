"""docs/quality.md: what each operation takes on each target, beside the least that it could take.

tests/quality_minimum.txt -> rows -> the operands of each -> Assembler.cost -> cells "1 (4)" -> the document

python -m tests.quality_table            print it
python -m tests.quality_table --write    write docs/quality.md
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from cnp import runtime
from cnp.assembler import Assembler
from cnp.errors import OperandError
from cnp.library import Library
from cnp.operands import f, r, slot

HOME = Path(__file__).resolve().parents[1]
MINIMUM = HOME / "tests" / "quality_minimum.txt"
DOCUMENT = HOME / "docs" / "quality.md"
COMMAND = "python -m tests.quality_table --write"

HEAD = """# Operation × target: instructions and bytes

What the code of the portable operations takes, beside the least that it could take. Written from the stencil files by

    {command}

and `tests/test_quality_table.py` fails when they say something else.

* A row is an operation with its operands: `r1` `f2` are registers, `s8` is the slot at offset 8, `L` a label near by,
  `T` a table of labels, the rest are immediates. The result comes first.
* A cell is *instructions (bytes)* of the form that the assembler takes, or of all where it composes several: the hot
  block, up to where the next operation begins, so that the jump there is not counted. What lies out of line (traps,
  some rare cases) is not counted; the delay slots of mips64 are. mips64el has the operations of mips64.
* **3 (12)** > 2 is above the minimum, which is 2; the reason stands below the table. **none**: the operation does not
  take these operands. All other cells are at the minimum, but for those with ~, where none is claimed: the base line
  has no instructions for the operation.
* The minima are those of the base lines {bases}. They were written down
  before the code was looked at; the few that were changed afterwards are named with what counts and what the contract
  asks for in `tests/quality_minimum.txt`. They count instructions, not time.
* Nothing here is about speed. `cnp bench quality` measures it on the machine where it runs; none is claimed for the
  targets that only qemu ran: aarch64, riscv64, ppc64le and mips64.
"""


class Row(NamedTuple):
    """A row of the document. text: operation and operands; least: by target, None where none is claimed."""

    text: str
    least: tuple[int | None, ...]
    note: str


class Reason(NamedTuple):
    """Why cells are above the minimum: those of these targets whose row a pattern matches."""

    targets: tuple[str, ...]
    patterns: tuple[str, ...]
    why: str

    def covers(self, target: str, row: Row) -> bool:
        return target in self.targets and any(fnmatchcase(row.text, pattern) for pattern in self.patterns)


class Family(NamedTuple):
    """A section of the document."""

    title: str
    rows: list[Row]
    reasons: list[Reason]


class Minimum(NamedTuple):
    """The file of minima. bases: the base line of each target."""

    targets: tuple[str, ...]
    bases: tuple[str, ...]
    families: list[Family]


class Cell(NamedTuple):
    """What an operation takes; 0 instructions: its operands do not go together."""

    instructions: int
    bytes: int


# ---- the file


@cache
def minimum() -> Minimum:
    """tests/quality_minimum.txt. ValueError: a line is not what its head says."""
    preface, *sections = re.split(r"^# (?=[A-Z])", MINIMUM.read_text(), flags=re.MULTILINE)
    facts = {line.split()[0]: tuple(line.split()[1:]) for line in preface.splitlines() if line.strip()}
    targets = facts["targets"]
    return Minimum(targets, facts["base"], [family(text, len(targets)) for text in sections])


def family(text: str, count: int) -> Family:
    """A section; `count` targets."""
    title, *lines = [line for line in re.sub(r"\n +", " ", text).splitlines() if line.strip()]
    rows = [row for line in lines if not line.startswith(">") for row in read_rows(line, count)]
    return Family(title, rows, [read_reason(line[1:]) for line in lines if line.startswith(">")])


def read_rows(line: str, count: int) -> Iterator[Row]:
    """The rows of a line; what it notes stands at the first."""
    text, numbers, note = (part.strip() for part in line.split("|", 2))
    least = tuple(None if number == "-" else int(number) for number in numbers.split())
    if len(least) != count:
        raise ValueError(f"{line!r} has {len(least)} minima for {count} targets")
    for number, one in enumerate(multiplied(text)):
        yield Row(one, least, "" if number else note)


def read_reason(line: str) -> Reason:
    targets, patterns, why = (part.strip() for part in line.split("|", 2))
    texts = [one for pattern in patterns.split(";") for one in multiplied(pattern.strip())]
    return Reason(tuple(targets.split()), tuple(texts), why)


def multiplied(text: str) -> Iterator[str]:
    """`a{b,c} d` -> `ab d`, `ac d`."""
    parts = re.split(r"[{}]", text)  # every other one stood in braces
    choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
    return map("".join, product(*choices))


# ---- the figures

#: How the words of a row become operands, by their first letter.
OPERANDS: dict[str, Callable[[Assembler, str], Any]] = {
    "r": lambda asm, word: r[int(word[1:])],
    "f": lambda asm, word: f[int(word[1:])],
    "s": lambda asm, word: slot(int(word[1:])),
    "L": lambda asm, word: asm.label(),
    "T": lambda asm, word: asm.table(asm.label()),
}


@cache
def assembler(target: str) -> Assembler:
    return Assembler(Library.load(runtime.installed("ops", target)))


@cache
def measured(target: str, text: str) -> Cell:
    """What a row takes on a target."""
    asm = assembler(target)
    name, *words = text.split()
    operands = [OPERANDS[w[0]](asm, w) if w[0] in OPERANDS else literal(w) for w in words]
    try:
        size, instructions, _ = asm.cost(name, *operands)
    except OperandError:
        return Cell(0, 0)
    return Cell(instructions, size)


def literal(word: str) -> int | float:
    return float(word) if "." in word else int(word, 0)


def is_above(cell: Cell, least: int | None) -> bool:
    return not cell.instructions or (least is not None and cell.instructions > least)


# ---- the document


def document() -> str:
    """All of docs/quality.md."""
    found = minimum()
    bases = ", ".join(found.bases)
    head = HEAD.format(command=COMMAND, bases=bases)
    return "\n".join([head, *(section(item, found.targets) for item in found.families)])


def section(of: Family, targets: tuple[str, ...]) -> str:
    """A family: the table, and the reasons for the cells above the minimum."""
    columns = ["operation", *targets, "the minimum"]
    lines = [f"## {of.title}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in of.rows:
        cells = [
            shown(measured(target, row.text), least) for target, least in zip(targets, row.least, strict=True)
        ]
        lines.append(" | ".join([f"| `{row.text}`", *cells, row.note]).rstrip() + " |")
    if of.reasons:
        lines += ["", "Above the minimum:"]
        lines += [f"* {', '.join(reason.targets)}, {named(reason)}: {reason.why}" for reason in of.reasons]
    return "\n".join([*lines, ""])


def shown(cell: Cell, least: int | None) -> str:
    if not cell.instructions:
        return "**none**"
    text = f"{cell.instructions} ({cell.bytes})"
    if least is None:
        return f"{text} ~"
    return f"**{text}** > {least}" if is_above(cell, least) else text


def named(reason: Reason) -> str:
    return ", ".join(f"`{pattern}`" for pattern in reason.patterns)


# ---- what is wrong with it


def faults() -> Iterator[str]:
    """Cells above the minimum without a reason, reasons for nothing, minima that are none."""
    found = minimum()
    for item in found.families:
        above: list[tuple[str, Row]] = []
        for row, (target, least) in product_of_cells(item, found.targets):
            cell = measured(target, row.text)
            if is_above(cell, least):
                above.append((target, row))
                if not any(reason.covers(target, row) for reason in item.reasons):
                    yield f"{row.text} on {target}: {shown(cell, least)}, and no reason for it"
            elif least is not None and cell.instructions < least:
                yield f"{row.text} on {target}: {shown(cell, least)}, so that {least} is not the minimum"
        for reason in item.reasons:
            yield from idle(item, reason, above)


def product_of_cells(of: Family, targets: tuple[str, ...]) -> Iterator[tuple[Row, tuple[str, int | None]]]:
    for row in of.rows:
        for cell in zip(targets, row.least, strict=True):
            yield row, cell


def idle(of: Family, reason: Reason, above: list[tuple[str, Row]]) -> Iterator[str]:
    """The targets and patterns of a reason that explain nothing."""
    for target, pattern in product(reason.targets, reason.patterns):
        if not any(where == target and fnmatchcase(row.text, pattern) for where, row in above):
            yield f"{of.title}: the reason for {pattern} on {target} stands for no cell above the minimum"


def main(arguments: list[str]) -> int:
    if arguments == ["--write"]:
        DOCUMENT.write_text(document())
    elif not arguments:
        print(document(), end="")
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
