"""The core without Python: examples/jit.c, built with the tables that `cnp export --as core` prints, under sanitizers on
this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import cnp
from cnp import runtime
from cnp.export_core import to_core
from tests.support import need

EXAMPLE = Path(__file__).parents[1] / "examples" / "jit.c"
SANITIZED = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Werror")
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


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 250


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_an_interpreter_in_c(compiler: str, tables: Path, tmp_path: Path) -> None:
    need(shutil.which(compiler) is not None, f"{compiler} builds the example")
    core, program = Path(cnp.get_include()), tmp_path / "jit"
    sources = [EXAMPLE, core / "cnp_core.c"]
    command: list[str | Path] = [
        compiler,
        *WARNINGS,
        *SANITIZED,
        "-I",
        core,
        "-I",
        tables,
        *sources,
        "-o",
        program,
    ]
    subprocess.run(command, check=True)
    for given, said in EXPECTED.items():
        done = subprocess.run([program, given], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_tables_name_every_operation(tables: Path) -> None:
    text = (tables / "ops.h").read_text()
    for number, name in enumerate(runtime.load("ops").operations):
        assert f"    ops_{name} = {number}," in text
