"""Own operations, from text or a file: the prebuilt file beside the source first, and never a stale one."""

from __future__ import annotations

import builtins
import importlib.util
import warnings
from pathlib import Path

import pytest

import cnp
from cnp.build import batch, cache, command, driver, toolchain
from cnp.foreign import Call, ForeignCode
from tests.support import every_target, need, runnable

SOURCE = """#define CNP_STATE(X) X(u64, total)
#define CNP_RESULT total
#include <cnp.h>
#include "amount.h"
CNP_OP(add, imm(i32, k)) { s->total += k + AMOUNT; return NEXT; }
CNP_OP(ret) { return RETURN; }
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A vocabulary in two files."""
    path = tmp_path / "in" / "my_ops.c"
    path.parent.mkdir()
    path.write_text(SOURCE)
    (path.parent / "amount.h").write_text("#define AMOUNT 1\n")
    return path


def prebuild(source: Path, target: str = "host") -> Path:
    """Build the file beside a source, as its author does."""
    options = ["--source", str(source), "--out", str(source.parent), "--target", target, "--jobs", "1"]
    assert command.main(options) == 0
    return next(source.parent.glob("*.cnp"))


def value(vm: cnp.Vocabulary) -> object:
    asm = vm.assembler()
    asm.function("main", frame=0)
    asm.add(40)
    asm.ret()
    return asm.build()["main"].run().value


def without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    monkeypatch.delenv("CNP_CLANG", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def without_the_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if only the core were installed: nothing of cnp.build can be imported."""
    imported = builtins.__import__

    def refuse(name: str, *rest: object) -> object:
        if name == "cnp.build":
            raise ModuleNotFoundError("No module named 'elftools'", name="elftools")
        return imported(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)


# ---- the file beside the source


def test_a_prebuilt_file_needs_no_compiler(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prebuild(source)
    without_the_builder(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value(cnp.load(source)) == 41
        (source.parent / "amount.h").unlink()  # what was not shipped cannot have been changed
        assert value(cnp.load(source)) == 41
        source.unlink()
        assert value(cnp.load(str(source))) == 41
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["my_ops.c", "amount.h"])
def test_a_stale_file_is_not_used_where_there_is_a_compiler(source: Path, name: str) -> None:
    """Whatever the clock says: the contents decide."""
    beside = prebuild(source)
    changed = source.parent / name
    changed.write_text(
        changed.read_text().replace("+ AMOUNT", "- AMOUNT").replace("define AMOUNT 1", "define AMOUNT -1")
    )
    with pytest.warns(cnp.CacheWarning) as told:
        assert value(cnp.load(source)) == 39
    message = str(told[0].message)
    assert f"{beside} was built from another {name} than the one that lies beside it" in message
    assert "my_ops.c was compiled instead" in message and f"build {beside.name} again" in message
    assert told[0].filename == __file__
    prebuild(source)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert value(cnp.load(source)) == 39


def test_a_stale_file_is_not_used_where_there_is_none_either(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = prebuild(source)
    source.write_text(SOURCE + "/* changed */\n")
    without_a_compiler(monkeypatch, tmp_path)
    with pytest.raises(cnp.ToolError) as caught:
        cnp.load(source)
    for text in ("was built from another my_ops.c", "no clang found", "pip install", f"load {beside.name} itself"):  # fmt: skip
        assert text in caught.value.message
    assert value(cnp.load(beside)) == 41  # as the message says


@pytest.mark.parametrize("how", ["damaged", "other target"])
def test_a_file_that_cannot_be_used_is_told(source: Path, how: str) -> None:
    beside = source.with_suffix(f".{cnp.load('ops').target.name}.cnp")
    if how == "damaged":
        beside.write_bytes(prebuild(source).read_bytes()[:-1])
    else:
        other = "mips64" if "mips64." not in beside.name else "x86_64"
        prebuild(source, other).rename(beside)
    with pytest.warns(cnp.CacheWarning, match="damaged" if how == "damaged" else "is for "):
        assert value(cnp.load(source)) == 41


def test_a_source_without_a_prebuilt_file_is_compiled_once(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert value(cnp.load(source)) == 41

    def build(job: driver.Job) -> bytes:
        raise AssertionError("this was built already")

    monkeypatch.setattr(cache, "build", build)
    assert value(cnp.load(source)) == 41
    assert list(source.parent.glob("*.cnp")) == []


def test_the_bytes_are_those_of_the_build_command(source: Path, tmp_path: Path) -> None:
    vm = cnp.load(source)
    assert Path(vm.library.path).read_bytes() == prebuild(source).read_bytes()


# ---- what is missing


def test_what_is_missing_is_said(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(cnp.LibraryError, match=r"nowhere\.c: no such file, nor nowhere\.\w+\.cnp beside it"):
        cnp.load("nowhere.c")
    with pytest.raises(cnp.ToolError, match="no target 'vax'"):
        cnp.compile(SOURCE, "vax")
    without_a_compiler(monkeypatch, tmp_path)
    with pytest.raises(
        cnp.ToolError, match=r"my_ops\.c must be compiled, for there is no my_ops\.\w+\.cnp.*no clang found"
    ):
        cnp.load(source)
    with pytest.raises(cnp.ToolError, match="no clang found; install the wheel"):
        cnp.compile(SOURCE)
    (tmp_path / "folder.c").mkdir()
    with pytest.raises(cnp.LibraryError, match=r"folder\.c: a source is a file"):
        cnp.load(tmp_path / "folder.c")


def test_the_builder_may_be_missing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_the_builder(monkeypatch)
    with pytest.raises(cnp.ToolError, match=r"elftools is needed: pip install 'cnp\[build\]'"):
        cnp.load(source)
    with pytest.raises(cnp.ToolError, match=r"pip install 'cnp\[build\]'"):
        cnp.compile(SOURCE)


# ---- text


@every_target
def test_text_is_compiled_for_any_target(target: str, source: Path) -> None:
    need(batch.PACKAGE.is_dir(), "the package lies in a folder")
    runnable(target)
    vm = cnp.compile(SOURCE, target, include=[source.parent])
    asm = vm.assembler()
    asm.function("main", frame=0)
    asm.add(40)
    asm.ret()
    (result,) = ForeignCode(asm.close()).run([Call("main")]).results
    assert result.value == 41


FOLDED = """#define CNP_STATE(X) CNP_REGISTERS(X)
#define CNP_RESULT r0
#include <cnp.h>
CNP_PURE(add_odd, u64, (u64 a, u64 k), a + (k & 1), IMM(k, i32))
CNP_OP(ret) { return RETURN; }
"""


@every_target
def test_a_number_that_only_feeds_what_the_compiler_folds(target: str) -> None:
    runnable(target)
    asm = cnp.compile(FOLDED, target).assembler()
    numbers = (0, 1, 2, 83, 84, 1000, 2047, 2048, 100_000, 100_001, -3, -4, -(1 << 31), (1 << 31) - 1)
    for index, number in enumerate(numbers):
        asm.function(str(index), frame=0)
        asm.add_odd(cnp.r[0], cnp.r[0], number)
        asm.ret()
    runs = [Call(str(index), {"r0": 40}) for index in range(len(numbers))]
    results = ForeignCode(asm.close()).run(runs).results
    assert [result.value for result in results] == [40 + (number & 1) for number in numbers]


def test_errors_stand_at_the_line_of_the_text(source: Path) -> None:
    broken = SOURCE.replace("return NEXT;", "return NEXT")
    with pytest.raises(cnp.BuildError) as caught:
        cnp.compile(broken, include=[source.parent])
    assert caught.value.message.startswith("<source>:5:")
    assert "error: expected ';' after return statement" in caught.value.message
    assert caught.value.line == 5
    with pytest.raises(cnp.BuildError, match=r"^my own \"name\":5:"):
        cnp.compile(broken, include=[source.parent], name='my own "name"')
    source.write_text(broken)
    with pytest.raises(cnp.BuildError) as caught:
        cnp.load(source)
    assert caught.value.message.startswith(f"{source}:5:")
    with pytest.raises(cnp.BuildError, match=r"^<source>:4:\d+: fatal error: 'amount.h' file not found"):
        cnp.compile(SOURCE)


def test_one_folder_of_headers(source: Path) -> None:
    listed = cnp.compile(SOURCE, include=[source.parent]).operations
    for folder in (str(source.parent), source.parent):
        assert cnp.compile(SOURCE, include=folder).operations == listed
