"""`cnp lint`: what operations cost on every target, as a table and as a test of the user's own."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import cnp
from cnp import targets
from cnp.build import lint
from tests.support import every_target, need

click_testing = pytest.importorskip("click.testing")

from click.testing import Result  # noqa: E402

from cnp.cli import cli  # noqa: E402

SOURCE = """#define CNP_STATE(X) X(u64 *, sp) X(u64, tos)
#define CNP_RESULT tos
#include <cnp.h>
extern i64 vm_print(i64);
extern void vm_look(u64 *);
CNP_OP(push, imm(i32, k)) { *s->sp++ = s->tos; s->tos = k; return NEXT; }
CNP_OP(load, slot(u64, x)) { s->tos = *x; return NEXT; }
CNP_OP_SLOW(half) { if (unlikely(s->tos & 1)) return SLOW; s->tos /= 2; return NEXT; }
CNP_SLOW(half) { s->tos = s->tos * 3 + 1; return NEXT; }
CNP_OP(guard) { if (s->tos == 0) return TRAP(70); return s->tos == 1 ? EXIT : NEXT; }
CNP_OP(show) { vm_print(s->tos); return NEXT; }
CNP_OP(look) { u64 copy = s->tos; vm_look(&copy); s->tos = copy; return NEXT; }
CNP_OP(call, func(f), slot(u64, base)) { s->tos = CNP_CALL(f, base); return NEXT; }
CNP_OP(ret) { return RETURN; }
"""
MANY = "".join(f" X(u64, w{number})" for number in range(20))


@pytest.fixture(autouse=True)
def _cache(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_folder))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "my_ops.c"
    path.write_text(SOURCE)
    return path


def run(*arguments: object) -> Result:
    result: Result = click_testing.CliRunner().invoke(cli, ["lint", *map(str, arguments)])
    return result


@every_target
def test_what_is_told_of_an_operation(target: str, source: Path) -> None:
    rows = {row.operation: row for row in lint.lint(source, [targets.get(target)])}
    assert list(rows) == ["push", "load", "half", "guard", "show", "look", "call", "ret"]
    library = cnp.load(source, target).library
    for name, row in rows.items():
        hot = library[name].forms[0].near.blocks[0]
        assert (row.target, row.forms, row.bytes) == (
            target,
            len(library[name].forms),
            len(hot.code) - hot.tail,
        )
        assert row.most >= row.bytes > 0 and row.instructions > 0 and row.holes > 0
    plain = rows["push"]
    assert (plain.spilled, plain.helpers, plain.exits, plain.state) == (0, (), (), "registers")
    assert plain.cold == 0 < rows["half"].cold
    assert rows["guard"].exits == ("exit", "trap")
    assert (rows["show"].helpers, rows["show"].exits) == (("vm_print",), ("trap",))  # a helper may raise
    assert rows["look"].helpers == ("vm_look",)
    assert (rows["look"].spilled > 0, rows["look"].state) == (True, "spilled")
    assert "unwind" in rows["call"].exits and "trap" in rows["call"].exits


@every_target
def test_words_without_a_register_are_told(target: str, source: Path) -> None:
    source.write_text(SOURCE.replace("X(u64, tos)", f"X(u64, tos){MANY}"))
    (row,) = (row for row in lint.lint(source, [targets.get(target)]) if row.operation == "push")
    words = f"{22 - targets.get(target).ints} words in the frame"
    assert row.state in (words, f"{words}, spilled")
    assert (row.spilled > 0) == row.state.endswith("spilled")


def test_the_command_prints_a_row_for_each_operation_and_target(source: Path) -> None:
    done = run(source)
    assert done.exit_code == 0, done.output
    head, *lines = done.stdout.splitlines()
    assert tuple(head.split()) == lint.COLUMNS
    assert [tuple(line.split()[:2]) for line in lines][: len(targets.TARGETS)] == [
        ("push", t) for t in targets.TARGETS
    ]
    assert len(lines) == 8 * len(targets.TARGETS)
    few = run(source, "--target", "host,mips64").stdout.splitlines()
    assert len(few) == 1 + 8 * len({targets.get("host").name, "mips64"})


def test_json_is_what_the_table_says(source: Path) -> None:
    rows = json.loads(run(source, "--json", "--target", "mips64").stdout)
    assert [
        lint.Row(**{**row, "helpers": tuple(row["helpers"]), "exits": tuple(row["exits"])}) for row in rows
    ] == (lint.lint(source, [targets.get("mips64")]))


def test_a_limit_of_bytes(source: Path) -> None:
    rows = lint.lint(source, [targets.get("x86_64")])
    limit = sorted(row.most for row in rows)[-2]
    (largest,) = (row for row in rows if row.most > limit)
    done = run(source, "--target", "x86_64", "--max-bytes", limit)
    assert done.exit_code == 1
    assert done.stderr == f"{largest.operation} on x86_64: {largest.most} bytes, more than {limit}\n"
    assert run(source, "--target", "x86_64", "--max-bytes", largest.most).exit_code == 0


def test_a_golden_file_tells_what_changed(source: Path, tmp_path: Path) -> None:
    golden = tmp_path / "golden.json"
    options = ("--target", "x86_64,mips64", "--golden", golden)
    done = run(source, *options)
    assert done.exit_code == 1 and "write it with --update" in done.stderr
    assert run(source, *options, "--update").exit_code == 0
    assert run(source, *options).exit_code == 0
    text = SOURCE.replace("s->tos = *x;", "s->tos = *x; vm_print(s->tos);").replace(
        "CNP_OP(guard)", "CNP_OP(watch)"
    )
    source.write_text(text)
    done = run(source, *options)
    assert done.exit_code == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2 * 3
    changed = next(line for line in lines if line.startswith("load on x86_64: "))
    assert "helpers none -> vm_print" in changed and "exits none -> trap" in changed and "state" in changed
    assert {"watch on x86_64: is new", "watch on mips64: is new", "guard on x86_64: is gone", "guard on mips64: is gone"} <= set(lines)  # fmt: skip
    assert len(run(source, "--target", "mips64", "--golden", golden).stderr.splitlines()) == 3
    assert run(source, *options, "--update").exit_code == 0
    assert run(source, *options).exit_code == 0


def test_what_is_wrong_is_said(source: Path, tmp_path: Path) -> None:
    assert run(source, "--update").exit_code == 2
    assert run(tmp_path / "nowhere.c").exit_code == 1
    assert "no target 'vax'" in run(source, "--target", "vax").stderr
    (tmp_path / "golden").write_text("{}")
    assert run(source, "--target", "x86_64", "--golden", tmp_path / "golden").exit_code == 1
    (tmp_path / "golden").write_text("[1]")
    assert "is no golden file" in run(source, "--target", "x86_64", "--golden", tmp_path / "golden").stderr
    source.write_text(SOURCE.replace("return RETURN", "return RETRUN"))
    done = run(source)
    assert done.exit_code == 1 and f"{source}:14:" in done.stderr and "RETRUN" in done.stderr
