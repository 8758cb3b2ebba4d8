"""The rules of the house that a machine can hold: target facts stay in their rooms, rooms do not get crowded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    path
    for folder in ("cnp", "stencils", "tests", "examples", "benchmarks")
    for path in (HOME / folder).rglob("*")
    if path.suffix in (".py", ".c", ".h") and path.name != "_core.c.in"
)
OUTSIDE = [
    path
    for path in SOURCES
    if path.is_relative_to(HOME / "cnp")
    and not path.is_relative_to(HOME / "cnp" / "targets")
    and path.name != "machine.h"
]
MOST_LINES = 600

pytestmark = pytest.mark.checkout


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: str(path.relative_to(HOME)))
def test_no_target_facts_outside_their_room(path: Path) -> None:
    """No relocation name and no target's name in code (comments and docstrings may explain)."""
    text = path.read_text()
    assert not re.search(r"\bR_(X86_64|AARCH64|RISCV|PPC64|MIPS)_", text)
    names = r"x86_64|aarch64|riscv64|ppc64le|mips64(?:el)?"
    code = re.sub(r'"""(?:.|\n)*?"""|#.*|/\*(?:.|\n)*?\*/|//.*', "", text)
    assert not re.findall(rf"[\"'](?:{names})[\"']", code)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(HOME)))
def test_rooms_are_not_crowded(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize(
    "path", [p for p in SOURCES if p.suffix == ".py"], ids=lambda path: str(path.relative_to(HOME))
)
def test_files_open_with_what_they_are_for(path: Path) -> None:
    assert path.read_text().startswith(('"""', 'r"""'))
