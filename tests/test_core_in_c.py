"""The core without Python: examples/jit.c, built with the tables that `cnp export --as core` prints: under sanitizers on
this machine, cross-compiled for the others, and as docs/using-from-c.md says, by hand, by CMake and by pkg-config."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cnp import runtime, targets
from cnp.export_core import to_core
from cnp.library import Library
from tests import abroad_rig
from tests.abroad_rig import CORE, WARNINGS
from tests.support import need

HOME = Path(__file__).parents[1]
EXAMPLE = HOME / "examples" / "jit.c"
PAGE = HOME / "docs" / "using-from-c.md"
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
FOREIGN = [name for name in targets.TARGETS if name != targets.host_name()]
EXPECTED = {
    "0": "factorial 1\nfibonacci 0\nsquares 0\n",
    "20": "factorial 2432902008176640000\nfibonacci 6765\nsquares 2870\n",
}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ops.h."""
    folder = tmp_path_factory.mktemp("tables")
    (folder / "ops.h").write_text(to_core(runtime.load("ops").library), encoding="ascii")
    return folder


def check(command: Sequence[str | Path]) -> None:
    """The program says what it must."""
    for given, said in EXPECTED.items():
        done = subprocess.run([*command, given], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 250


@pytest.mark.parametrize(
    ("compiler", "flags"), [("gcc", []), ("clang", []), ("gcc", ["-DCNP_PORTABLE"])], ids=str
)
def test_an_interpreter_in_c(compiler: str, flags: list[str], tables: Path, tmp_path: Path) -> None:
    need(shutil.which(compiler) is not None, f"{compiler} builds the example")
    program = tmp_path / "jit"
    folders: list[str | Path] = ["-I", CORE, "-I", tables]
    sources = [EXAMPLE, CORE / "cnp_core.c"]
    subprocess.run([compiler, *WARNINGS, *SANITIZED, *flags, *folders, *sources, "-o", program], check=True)
    check([program])


@pytest.mark.parametrize("name", FOREIGN)
def test_on_other_targets(name: str, tmp_path: Path, session_folder: Path) -> None:
    """The core itself is code of the target here, in its byte order. What is called of C's library is in small_libc/."""
    (tmp_path / "ops.h").write_text(to_core(Library.load(runtime.installed("ops", name))), encoding="ascii")
    check(abroad_rig.command(name, EXAMPLE, tmp_path, session_folder))


@pytest.mark.parametrize(
    ("section", "tools"),
    [("A JIT in C", ["cc"]), ("CMake", ["cc", "cmake", "make"]), ("pkg-config", ["cc", "pkg-config"])],
)
def test_as_the_page_says(section: str, tools: list[str], tmp_path: Path) -> None:
    """Commands of the page, typed in a folder that has examples/jit.c: the last lines are those that it promises."""
    for tool in tools:
        need(shutil.which(tool) is not None, f"{tool} builds the example as docs/using-from-c.md says")
    need(importlib.util.find_spec("click") is not None, "the command line needs click")
    (text,) = re.findall(rf"^#+ {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "examples").mkdir()
    shutil.copy(EXAMPLE, tmp_path / "examples")
    for block in re.findall(r"```cmake\n(.*?)```", text, re.DOTALL):
        (tmp_path / "CMakeLists.txt").write_text(block)
    ((script, promised),) = re.findall(r"```console\n((?:\$ [^\n]*\n)+)(.*?)```", text, re.DOTALL)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["sh", "-eu", "-c", re.sub(r"^\$ ", "", script, flags=re.MULTILINE)],
        cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert promised and done.stdout.endswith(promised)


def test_tables_name_every_operation(tables: Path) -> None:
    text = (tables / "ops.h").read_text()
    for number, name in enumerate(runtime.load("ops").operations):
        assert f"    ops_{name} = {number}," in text
