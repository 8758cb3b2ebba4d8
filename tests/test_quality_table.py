"""docs/quality.md says what the stencil files say, and gives a reason for each cell above the minimum."""

from __future__ import annotations

import pytest

from cnp import runtime
from cnp.library import Library
from tests import quality_table
from tests.quality_table import COMMAND, DOCUMENT, Cell, Family, Reason, Row

pytestmark = pytest.mark.checkout


def test_document_is_what_the_command_writes() -> None:
    wanted = quality_table.document().splitlines()
    found = DOCUMENT.read_text().splitlines()
    changed = [f"- {line}" for line in found if line not in wanted] + [
        f"+ {line}" for line in wanted if line not in found
    ]
    assert found == wanted, f"docs/quality.md is old: {COMMAND} rewrites it\n" + "\n".join(changed)


def test_cells_above_the_minimum_have_a_reason_and_the_others_none() -> None:
    assert not list(quality_table.faults()), "see the head of tests/quality_minimum.txt"


def test_every_operation_has_a_row() -> None:
    """Calls and ways out aside, whose code is the contract's."""
    shown = {row.text.split()[0] for family in quality_table.minimum().families for row in family.rows}
    library = Library.load(runtime.installed("ops", quality_table.minimum().targets[0]))
    missing = set(library.operations) - shown
    assert missing == {
        name for name in missing if name.startswith("call") or name in ("ret", "trap", "leave")
    }


ROW = Row("i64_add r1 r2 r3", (1, 1), "")


@pytest.mark.parametrize(
    ("cell", "why", "fault"),
    [
        (Cell(1, 4), None, ""),
        (Cell(2, 8), "*", ""),
        (Cell(2, 8), None, "no reason for it"),
        (Cell(0, 0), None, "no reason for it"),
        (Cell(1, 4), "i64_add*", "stands for no cell"),
        (Cell(2, 8), "i64_sub*", "no reason for it"),
    ],
)
def test_faults_are_found(cell: Cell, why: str | None, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = [Reason(("x86_64",), (why,), "because")] if why else []
    family = Family("Sums", [ROW._replace(least=(1,))], reasons)
    monkeypatch.setattr(
        quality_table, "minimum", lambda: quality_table.Minimum(("x86_64",), ("x86-64-v2",), [family])
    )
    monkeypatch.setattr(quality_table, "measured", lambda target, text: cell)
    found = list(quality_table.faults())
    assert bool(found) == bool(fault)
    assert not fault or fault in found[0]


def test_a_minimum_that_is_undercut_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family("Sums", [ROW._replace(least=(2,))], [])
    monkeypatch.setattr(
        quality_table, "minimum", lambda: quality_table.Minimum(("x86_64",), ("x86-64-v2",), [family])
    )
    monkeypatch.setattr(quality_table, "measured", lambda target, text: Cell(1, 4))
    assert "is not the minimum" in next(quality_table.faults())
