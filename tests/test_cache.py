"""The user's cache: every source once, whole files only, right results whatever is wrong with it, and clear words."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

import cnp
from cnp import cli
from cnp.build import batch, cache, driver
from cnp.library import Library
from tests.support import need

SOURCE = """#define CNP_STATE(X) X(u64, total)
#define CNP_RESULT total
#include <cnp.h>
CNP_OP(add, imm(i32, k)) { s->total += k; return NEXT; }
CNP_OP(ret) { return RETURN; }
"""
#: Compiles SOURCE, runs it and says what came out, with the warnings on the way.
PROGRAM = f"""
import sys, warnings
warnings.simplefilter("always")
import cnp
vm = cnp.compile({SOURCE!r})
asm = vm.assembler()
asm.function("main", frame=0)
asm.add(40)
asm.add(2)
asm.ret()
print(asm.build()["main"].run().value)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "cnp"


def value(vm: cnp.Vocabulary) -> object:
    """What a program of two operations gives."""
    asm = vm.assembler()
    asm.function("main", frame=0)
    asm.add(40)
    asm.add(2)
    asm.ret()
    return asm.build()["main"].run().value


def quietly() -> cnp.Vocabulary:
    """The vocabulary, without any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return cnp.compile(SOURCE)


def forbid_building(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(job: driver.Job) -> bytes:
        raise AssertionError("this was built already")

    monkeypatch.setattr(cache, "build", build)


# ---- what is kept


def test_a_source_is_built_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert value(quietly()) == 42
    (kept,) = folder.iterdir()
    assert Library.load(kept).operations == ("add", "ret")
    forbid_building(monkeypatch)
    assert value(quietly()) == 42


def test_everything_that_decides_the_bytes_is_in_the_key(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source, target, includes: each makes another file; the same again does not."""
    header = tmp_path / "amount.h"
    header.write_text("#define AMOUNT 1\n")
    text = SOURCE + '#include "amount.h"\nCNP_OP(grow) { s->total += AMOUNT; return NEXT; }\n'
    for count, (source, target) in enumerate(
        [(SOURCE, "host"), (SOURCE + "/**/", "host"), (SOURCE, "mips64"), (text, "host")], 1
    ):
        assert cnp.compile(source, target, include=[tmp_path]).operations
        assert len(list(folder.iterdir())) == count
    header.write_text("#define AMOUNT 2\n")
    cnp.compile(text, include=[tmp_path])
    assert len(list(folder.iterdir())) == 5
    monkeypatch.setattr(driver, "WARNINGS", (*driver.WARNINGS, "-Wextra"))
    cnp.compile(SOURCE)
    assert len(list(folder.iterdir())) == 6
    forbid_building(monkeypatch)
    cnp.compile(SOURCE)


def test_processes_compile_the_same_source_into_an_empty_cache_at_once(folder: Path) -> None:
    """Each gets the right result, and one whole file is left: no lock, no half file."""
    environment = {**os.environ, "PYTHONPATH": str(batch.PACKAGE.parent)}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        for _ in range(3)
    ]
    assert [process.communicate() for process in running] == [(b"42\n", b"")] * 3
    (kept,) = folder.iterdir()
    assert kept.suffix == ".cnp" and not kept.name.startswith(".")
    assert Library.load(kept).operations == ("add", "ret")


# ---- a cache that is damaged


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_told_and_built_again(folder: Path, how: str) -> None:
    quietly()
    (kept,) = folder.iterdir()
    data = kept.read_bytes()
    middle = len(data) // 2
    kept.write_bytes(
        {
            "cut": data[:middle],
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "empty": b"",
            "text": b"not a stencil file" * 100,
        }[how]
    )
    with pytest.warns(cnp.CacheWarning, match="rebuild it; this was done now") as told:
        assert value(cnp.compile(SOURCE)) == 42
    assert str(kept) in str(told[0].message)
    assert told[0].filename == __file__  # the caller's line, not ours
    assert kept.read_bytes() == data
    assert value(quietly()) == 42


def test_a_file_under_another_name_is_not_believed(folder: Path) -> None:
    """A whole file, of other contents than its name says."""
    quietly()
    (kept,) = folder.iterdir()
    cnp.compile(SOURCE.replace("+= k", "-= k"))
    (other,) = set(folder.iterdir()) - {kept}
    kept.write_bytes(other.read_bytes())
    with pytest.warns(cnp.CacheWarning, match="is not what its name says"):
        assert value(cnp.compile(SOURCE)) == 42
    assert value(quietly()) == 42


def test_a_folder_in_the_place_of_a_file_does_no_harm(folder: Path) -> None:
    quietly()
    (kept,) = folder.iterdir()
    kept.unlink()
    (kept / "inside").mkdir(parents=True)
    with pytest.warns(cnp.CacheWarning) as told:
        assert value(cnp.compile(SOURCE)) == 42
    assert ["could not be read" in str(told[0].message), "could not be kept" in str(told[1].message)] == [
        True
    ] * 2


# ---- a cache that takes nothing


def limited(command: str, *before: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(batch.PACKAGE.parent)}
    return subprocess.run(
        [*before, sys.executable, "-c", command], capture_output=True, text=True, env=environment, check=True
    )


def test_a_full_disk_costs_the_cache_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.warns(cnp.CacheWarning, match="No space left") as told:
            assert value(cnp.compile(SOURCE)) == 42
    assert "is built again next time" in str(told[0].message)
    assert list(folder.iterdir()) == []  # nothing half
    assert value(quietly()) == 42


def test_a_disk_that_fills_up_while_a_file_is_written(folder: Path) -> None:
    """The system itself cuts the file off, in the middle of it."""
    cut = """
from cnp.build import cache
inner = cache.put
def put(place, data):
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    inner(place, data)
cache.put = put
"""
    done = limited(cut + PROGRAM)
    assert done.stdout == "42\n"
    assert "CacheWarning" in done.stderr and "File too large" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_cache_that_cannot_be_written(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    # root may write anywhere unless it drops that capability
    drop = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    done = limited(PROGRAM, *drop)
    folder.chmod(0o755)
    assert done.stdout == "42\n"
    assert "CacheWarning" in done.stderr and "Permission denied" in done.stderr
    assert list(folder.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_read_all_the_same(folder: Path) -> None:
    quietly()
    folder.chmod(0o555)
    drop = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    done = limited(PROGRAM, *drop)
    folder.chmod(0o755)
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "relative/paths/do/not/count")
    monkeypatch.setattr(Path, "home", nobody)
    with pytest.warns(cnp.CacheWarning, match="no home folder"):
        assert value(cnp.compile(SOURCE)) == 42
    assert cache.contents() == []


# ---- the command


def test_the_command_shows_and_clears(folder: Path) -> None:
    run = CliRunner().invoke
    assert f"0 files, 0 bytes in {folder}" in run(cli.cli, ["cache", "show"]).output
    quietly()
    (kept,) = folder.iterdir()
    (folder / f".{kept.name}.0123").write_bytes(b"half")
    shown = run(cli.cli, ["cache", "show"]).output
    assert str(kept) in shown and "source.c" in shown and "half a file" in shown and "2 files" in shown
    assert "2 files" in run(cli.cli, ["cache", "clear"]).output
    assert list(folder.iterdir()) == []
