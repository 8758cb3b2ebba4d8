"""The core as Python uses it, compiled with both sanitizers: its tests against the reference, in a process of their own.

cnp._core as a whole is compiled so, with what is between Python and generated code. Python's own memory comes from
malloc there, so that an access behind a buffer that Python handed over is seen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import need

HOME = Path(__file__).resolve().parents[1]
FLAGS = "-g -fsanitize=address,undefined -fno-sanitize-recover=all"
TESTS = ("test_core.py", "test_labels.py", "test_sections.py")

COMPILE = """
import runpy, sys
print(runpy.run_path("cnp/_core_build.py")["ffibuilder"].compile(tmpdir=sys.argv[1]))
"""

OVERFLOW = """
import tests.sanitized_core
from cnp import native
ffi, lib = native.core_module.ffi, native.core_module.lib
lib.cnp_gdb_add(ffi.new("char[64]"), 65)
"""

pytestmark = pytest.mark.checkout  # a wheel has the core's sources, but not those of the rest of cnp._core


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a Python that takes the sanitized core."""
    need(shutil.which("gcc") is not None, "gcc builds the core with sanitizers")
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        found = subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        libraries.append(found.stdout.strip())
        need(Path(libraries[-1]).is_absolute(), f"gcc has no {name}")
    compiler = {"CC": "gcc", "LDSHARED": "gcc -shared", "CFLAGS": FLAGS, "LDFLAGS": FLAGS}
    built = subprocess.run(
        [sys.executable, "-c", COMPILE, str(tmp_path_factory.mktemp("core"))],
        cwd=HOME, env={**os.environ, **compiler}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {
        **os.environ,
        "CNP_SANITIZED": built.stdout.splitlines()[-1],
        "LD_PRELOAD": ":".join(libraries),
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaves much to the end of the process
    }


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=HOME, env=environment, capture_output=True, text=True, check=False)


def test_the_core_is_clean(environment: dict[str, str]) -> None:
    files = [f"tests/{name}" for name in TESTS]
    done = run(environment, "-m", "pytest", "-q", "-s", "-n", "0", "-p", "tests.sanitized_core", *files)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_overflow_is_seen(environment: dict[str, str]) -> None:
    """What the other test would say."""
    done = run(environment, "-c", OVERFLOW)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
