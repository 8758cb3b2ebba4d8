"""docs/quality.md: what each operation takes on each target, beside the least that it could take (`minimum.py`).

    row "i64_add r1 r2 5" -> the operands -> Assembler.cost -> a cell "1 (4)" -> a section for each family
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from typing import Any, NamedTuple

from cnp import runtime
from cnp.assembler import Assembler
from cnp.bench.minimum import BASE, FAMILIES, TARGETS, Family
from cnp.errors import StateError
from cnp.library import Library
from cnp.operands import f, r, slot

COMMAND = "cnp bench table --write docs/quality.md"  #: what makes the document
HEAD = f"""# Operation × target: instructions and bytes

What the code of the portable operations takes, beside the least that it could take. Written by `{COMMAND}`,
from the stencil files in `cnp/lib/`; `tests/test_quality_table.py` fails when they say something else.

How to read it
* A row is an operation with its operands: `r1` `f2` are registers, `s8` is the slot at offset 8, `L` a label near by,
  `T` a table of labels, the rest are immediates. The result comes first.
* A cell is *instructions (bytes)* of the form that the assembler takes: the likely way with its checks, up to where
  the next operation begins, so that a jump there is not counted. What lies out of line (traps, rare cases) is not
  counted; the delay slots of mips64 are. mips64el has the same code as mips64.
* **3 (12)** > 2: above the minimum, which is 2. The reason stands below the table of the family. All other cells are
  at the minimum, but for those with ~: there the base line has no instructions for the operation, and no minimum is claimed.
* The minima were written down before the code was looked at (`cnp/bench/minimum.py`), for the base lines {{base}},
  and for the contract: an i32 is zero-extended when it is written, and the upper half of what it reads is
  ignored; nothing is written but the result, and that not before the last check. They count instructions, not time.
* No speed is claimed here, for any target. What was measured is in `cnp bench quality`, on the machine that it runs
  on; riscv64, ppc64le, mips64 and aarch64 were only run by qemu, which says nothing of speed.
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


class Cell(NamedTuple):
    """What an operation takes."""

    instructions: int
    bytes: int


# ---- the data


def rows(family: Family) -> list[Row]:
    """The rows of a family, the braces of its lines multiplied out."""
    found = []
    for line in filter(None, map(str.strip, family.rows.splitlines())):
        text, numbers, note = (part.strip() for part in line.split("|", 2))
        least = tuple(None if number == "-" else int(number) for number in numbers.split())
        if len(least) != len(TARGETS):
            raise StateError(f"{line!r} has {len(least)} minima for {len(TARGETS)} targets", state="minimum")
        found += [Row(one, least, note if number == 0 else "") for number, one in enumerate(multiplied(text))]
    return found


def multiplied(text: str) -> Iterator[str]:
    """`a{b,c} d` -> `ab d`, `ac d`."""
    parts = [part.split(",") if odd else [part] for odd, part in alternate(re.split(r"[{}]", text))]
    return map("".join, product(*parts))


def alternate(parts: list[str]) -> Iterator[tuple[bool, str]]:
    return ((number % 2 == 1, part) for number, part in enumerate(parts))


def reasons(family: Family) -> list[Reason]:
    """Lines `targets | patterns | why`; a line that is indented further goes on with the one before."""
    found = []
    for line in filter(None, map(str.strip, family.above.replace("\n            ", " ").splitlines())):
        targets, patterns, why = (part.strip() for part in line.split("|", 2))
        texts = [one for pattern in patterns.split(";") for one in multiplied(pattern.strip())]
        found.append(Reason(tuple(targets.split()), tuple(texts), " ".join(why.split())))
    return found


# ---- the figures

#: A word of a row -> the operand, by its beginning.
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


def measured(target: str, row: Row) -> Cell:
    """What a row takes on a target. OperandError if it cannot be assembled."""
    asm = assembler(target)
    name, *words = row.text.split()
    made = [OPERANDS[w[0]](asm, w) if w[0] in OPERANDS else number(w) for w in words]
    size, instructions, _ = asm.cost(name, *made)
    return Cell(instructions, size)


def number(word: str) -> int | float:
    return float(word) if "." in word else int(word, 0)


# ---- the document


def document() -> str:
    """All of docs/quality.md."""
    bases = ", ".join(f"{base} ({target})" for target, base in zip(TARGETS, BASE, strict=True))
    return "\n".join([HEAD.format(base=bases), *map(section, FAMILIES)])


def section(family: Family) -> str:
    """A family: the table, and the reasons for the cells above the minimum."""
    found = rows(family)
    lines = [f"## {family.title}", "", f"| operation | {' | '.join(TARGETS)} | the minimum |", "|---" * (len(TARGETS) + 2) + "|"]  # fmt: skip
    for row in found:
        cells = [shown(measured(t, row), least) for t, least in zip(TARGETS, row.least, strict=True)]
        lines.append(f"| `{row.text}` | {' | '.join(cells)} | {row.note} |")
    if given := reasons(family):
        lines += ["", "Above the minimum:"]
        lines += [f"* {', '.join(reason.targets)}: {named(reason)}: {reason.why}" for reason in given]
    return "\n".join([*lines, ""])


def shown(cell: Cell, least: int | None) -> str:
    text = f"{cell.instructions} ({cell.bytes})"
    if least is None:
        return f"{text} ~"
    return text if cell.instructions <= least else f"**{text}** > {least}"


def named(reason: Reason) -> str:
    return ", ".join(f"`{pattern}`" for pattern in reason.patterns)


# ---- what is wrong with it


def faults() -> Iterator[str]:
    """Cells above the minimum without a reason, reasons for none, and minima that are none."""
    for family in FAMILIES:
        found, given = rows(family), reasons(family)
        above: list[tuple[str, Row]] = []
        for row in found:
            for target, least in zip(TARGETS, row.least, strict=True):
                cell = measured(target, row)
                if least is not None and cell.instructions < least:
                    yield f"{row.text} on {target}: {cell.instructions} instructions, and the minimum says {least}"
                if least is not None and cell.instructions > least:
                    above.append((target, row))
                    if not any(reason.covers(target, row) for reason in given):
                        yield f"{row.text} on {target}: {cell.instructions} instructions, {least} would do, and no reason"
        for reason in given:
            yield from idle(family, reason, above)


def idle(family: Family, reason: Reason, above: list[tuple[str, Row]]) -> Iterator[str]:
    """The targets and patterns of a reason that explain nothing."""
    for target, pattern in product(reason.targets, reason.patterns):
        if not any(where == target and fnmatchcase(row.text, pattern) for where, row in above):
            yield f"{family.title}: the reason for {pattern} on {target} stands for no cell above the minimum"
