"""What README and docs/ say is true: code runs, commands exist, links lead somewhere, tests that are named are there."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from cnp import link as linking
from cnp import targets
from tests.support import need

HOME = Path(__file__).resolve().parents[1]
DOCS = HOME / "docs"
PAGES = sorted([HOME / "README.md", *(HOME / "docs").glob("*.md")])

#: Pages of which the tests run every block, also against the wheel.
WALKED = (
    "tutorial.md",
    "building-an-interpreter.md",
    "bytecode.md",
    "coming-from-dynasm.md",
    "coming-from-golang-asm.md",
    "coming-from-dynasm-rs.md",
    "coming-from-sljit.md",
    "debugging.md",
)

checkout = pytest.mark.checkout


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code of one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


@checkout
def test_readme_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first screen: build the C, run the Python, see the output that its comments promise."""
    from cnp.build.command import main

    (tmp_path / "sum.c").write_text(blocks(HOME / "README.md", "c")[0])
    host = targets.get("host").name
    monkeypatch.chdir(tmp_path)
    assert main(["--source", "sum.c", "--target", host, "--out", "."]) == 0
    capsys.readouterr()
    python = blocks(HOME / "README.md", "python")[0].replace("x86_64", host)
    exec(compile(python, "README.md", "exec"), {})
    promised = re.findall(r"print\(.*#\s+(\d+)", python)
    assert promised
    assert capsys.readouterr().out.split() == promised


@pytest.mark.parametrize("name", WALKED)
def test_every_block_runs(
    name: str,
    tmp_path: Path,
    session_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A page as a new user would type it, in an empty folder: C into the file that its first line names, Python in
    one session. What `print` says is what its comment promises."""
    need(importlib.util.find_spec("ziglang") is not None, "operations are built by the ziglang wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_folder))
    monkeypatch.setattr(linking, "watchers", {})
    monkeypatch.chdir(tmp_path)
    session: dict[str, object] = {}
    promised = []
    for language, block in re.findall(r"```(c|python)\n(.*?)```", (DOCS / name).read_text(), re.DOTALL):
        if language == "c":
            with Path(block.split()[1]).open("a") as file:
                file.write(block)
        else:
            promised += re.findall(r"^ *print\(.*\)  # (.+)$", block, re.MULTILINE)
            exec(compile(block, f"{name}: {block.strip().splitlines()[0]}", "exec"), session)
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line in promised] == promised
    if "ratio" in session:
        assert float(str(session["ratio"])) > 2, "the page says 5 to 17; a machine that is busy may say less"


@checkout
def test_pages_that_are_walked() -> None:
    """No page for newcomers is left out."""
    found = {page.name for page in PAGES if page.name.startswith(("tutorial", "coming-from"))}
    assert found <= set(WALKED)


@checkout
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), f"{page.name} links to {link}"


@checkout
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files(page: Path) -> None:
    """Files of the project that a page names exist."""
    for name in re.findall(r"`((?:cnp|tests|docs|stencils|examples|benchmarks)/[\w./-]+)`", page.read_text()):
        assert (HOME / name).exists(), f"{page.name} names {name}"


@checkout
def test_contract_names_every_register_count() -> None:
    """The table of state registers in docs/contract.md is what the targets say."""
    rows = re.findall(
        r"^\| ([\w-]+) \| (\d+) \| (\d+) \|$", (HOME / "docs" / "contract.md").read_text(), re.MULTILINE
    )
    assert len(rows) == 5
    for name, ints, floats in rows:
        target = targets.get(name)
        assert (target.ints, target.floats) == (int(ints), int(floats)), name


@checkout
def test_contract_lists_every_trap() -> None:
    """cnp.h, cnp/frame.py and the page have the same trap codes."""
    from cnp.frame import TRAPS

    header = (HOME / "stencils" / "cnp.h").read_text()
    names = re.search(r"CNP_TRAP_NONE,(.*?)CNP_TRAP_USER", header, re.DOTALL)
    assert names is not None
    assert len(re.findall(r"CNP_TRAP_\w+", names[1])) == len(TRAPS) - 1
    page = (HOME / "docs" / "contract.md").read_text()
    assert all(f"| {code} |" in page for code in range(1, len(TRAPS)))
