"""The build command: options, what is rebuilt and what is not, files in place whole, messages and exit status."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import cnp.build.driver
from cnp import host, targets
from cnp.build import batch, command, toolchain
from cnp.build.batch import Plan, build_all
from cnp.errors import ToolError
from cnp.library import Library
from tests.support import every_target

SOURCE = """\
#define CNP_STATE(X) X(u64, tos)
#define CNP_RESULT tos
#include <cnp.h>
#include "amount.h"
CNP_OP(grow, imm(i32, k)) { s->tos += k + AMOUNT; return NEXT; }
CNP_OP(ret) { return RETURN; }
"""
COMMAND = [sys.executable, "-c", "from cnp.build.command import main; raise SystemExit(main())"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(batch.PACKAGE.parent),
}  # the package that this process imported


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small vocabulary with a header of its own."""
    return write_source(tmp_path / "in")


def write_source(folder: Path, text: str = SOURCE) -> Path:
    folder.mkdir(parents=True)
    (folder / "amount.h").write_text("#define AMOUNT 1\n")
    path = folder / "tiny.c"
    path.write_text(text)
    return path


def run(source: Path, out: Path, *options: str) -> int:
    return command.main(["--source", str(source), "--out", str(out), "--jobs", "1", *options])


def stamp(path: Path) -> tuple[int, int]:
    """Changes when a file is moved into place, even with the same contents."""
    facts = path.stat()
    return facts.st_ino, facts.st_mtime_ns


def visible(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- targets


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["x86-64"], ("x86_64",)),
        (["amd64"], ("x86_64",)),
        (["arm64"], ("aarch64",)),
        (["AArch64"], ("aarch64",)),
        (["mips64el,x86_64"], ("x86_64", "mips64el")),
        (["riscv64", "riscv64", "arm64,riscv64"], ("aarch64", "riscv64")),
        (["all"], tuple(targets.TARGETS)),
        (["ppc64le, all"], tuple(targets.TARGETS)),
        (["host"], (targets.get("host").name,)),
    ],
)
def test_targets_are_named_in_usual_spellings(words: list[str], names: tuple[str, ...]) -> None:
    assert command.chosen(words) == names


@every_target
def test_every_spelling_of_a_target_means_it(target: str) -> None:
    known = targets.get(target)
    assert [command.chosen([word]) for word in (target, *known.aliases)] == [(target,)] * (
        1 + len(known.aliases)
    )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--target", "vax"], "no target 'vax'"),
        (["--target", ","], "names none"),
        (["--jobs", "0"], "at least one process"),
        (["--jobs", "two"], "invalid int"),
        (["--source", "nowhere.c"], "nowhere.c: no such file"),
        (["--frobnicate"], "unrecognized"),
    ],
)
def test_wrong_options_are_usage_errors(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(options) == 2
    assert says in capsys.readouterr().err


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"--{name}" in out for name in ("target", "source", "out", "clang", "jobs", "keep", "check"))


# ---- the plan


def test_without_a_source_all_that_comes_with_the_library_is_planned() -> None:
    tasks = Plan(("x86_64", "mips64")).tasks()
    places = {task.place.relative_to(batch.PACKAGE).as_posix() for task in tasks}
    assert {"lib/ops.x86_64.cnp", "lib/ops.mips64.cnp", "host/bin/x86_64", "host/bin/mips64"} <= places
    assert {task.name for task in tasks} == {*batch.VOCABULARIES, "host"}


def test_the_default_source_said_aloud_is_the_default(tmp_path: Path) -> None:
    said = command.plan_of(
        command.parse(["--source", str(batch.VOCABULARIES["ops"]), "--out", str(tmp_path)])
    )
    assert said == command.plan_of(command.parse(["--out", str(tmp_path)]))
    assert said.source is None
    assert said.host_out == tmp_path / "host"


def test_a_vocabulary_without_its_source_is_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(batch.VOCABULARIES, "later", tmp_path / "later.c")
    assert "later" not in {task.name for task in Plan(("x86_64",)).tasks()}
    (tmp_path / "later.c").write_text(SOURCE)
    assert "later" in {task.name for task in Plan(("x86_64",)).tasks()}


# ---- what it builds


def test_all_targets_in_parallel_with_a_table(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    status = command.main(["--source", str(source), "--out", str(out), "--target", "all", "--jobs", "2"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert visible(out) == sorted(f"tiny.{name}.cnp" for name in targets.TARGETS)
    head, *rows = printed.out.splitlines()
    assert head.split() == [
        "vocabulary",
        "target",
        "operations",
        "stencils",
        "bytes",
        "holes",
        "shared",
        "data",
        "seconds",
    ]
    assert [row.split()[1] for row in rows] == list(targets.TARGETS)
    for row in rows:
        vocabulary, name, operations, stencils, size, holes, shared, seconds, state = row.split()
        path = out / f"{vocabulary}.{name}.cnp"
        library = Library.load(path)
        assert library.target.name == name
        assert (int(operations), int(size.replace(",", ""))) == (2, path.stat().st_size)
        counts = library.facts["counts"]
        assert (int(stencils), int(holes)) == (counts["stencils"], counts["holes"])
        data = sum(len(constant.data) for constant in library.constants)
        assert (int(shared.replace(",", "")), state) == (data, "built")
        assert float(seconds) < 60
    assert len(printed.err.splitlines()) == len(targets.TARGETS)  # no terminal: a line for each


def test_keep_leaves_what_was_on_the_way(source: Path, tmp_path: Path) -> None:
    out, keep = tmp_path / "out", tmp_path / "keep"
    assert run(source, out, "--target", "x86_64,mips64") == 0
    before = stamp(out / "tiny.mips64.cnp")
    assert run(source, out, "--target", "x86_64,mips64", "--keep", str(keep)) == 0
    assert stamp(out / "tiny.mips64.cnp") != before  # built although it was up to date
    kept = visible(keep)
    for wanted in ("tiny.x86_64/stencils.s", "tiny.x86_64/stencils.o", "tiny.mips64/stencils.ll"):
        assert wanted in kept
    assert (keep / "tiny.mips64" / "stencils.o").read_bytes().startswith(b"\x7fELF")


def test_two_builds_in_different_folders_give_identical_files(tmp_path: Path) -> None:
    files = []
    for number, name in enumerate(("here", "somewhere/quite else/#1 $x")):
        copy = write_source(tmp_path / name / "in")
        environment = {
            **ENVIRONMENT,
            "PYTHONHASHSEED": str(number),
            "TZ": f"UTC-{number}",
            "TMPDIR": str(copy.parent),
        }
        options = ["--source", copy.name, "--out", "../out", "--target", "all", "--jobs", str(number + 1)]
        subprocess.run(
            [*COMMAND, *options], cwd=copy.parent, env=environment, check=True, capture_output=True
        )
        out = copy.parent.parent / "out"
        files.append({path: (out / path).read_bytes() for path in visible(out)})
    assert len(files[0]) == len(targets.TARGETS)
    assert files[0] == files[1]
    assert not any(str(tmp_path).encode() in data for data in files[0].values())


# ---- up to date


def test_up_to_date_output_is_not_rebuilt(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, tmp_path / "out") == 0
    before = stamp(place := built(tmp_path))
    os.utime(source)  # a new time is no change
    capsys.readouterr()
    assert run(source, tmp_path / "out") == 0
    assert "up to date" in capsys.readouterr().out
    assert stamp(place) == before


def built(tmp_path: Path) -> Path:
    return tmp_path / "out" / f"tiny.{targets.get('host').name}.cnp"


@pytest.mark.parametrize("changed", ["tiny.c", "amount.h"])
def test_a_changed_source_or_header_is_rebuilt(source: Path, tmp_path: Path, changed: str) -> None:
    assert run(source, tmp_path / "out") == 0
    before = built(tmp_path).read_bytes()
    file = source.parent / changed
    file.write_text(file.read_text().replace("AMOUNT 1", "AMOUNT 2").replace("k + AMOUNT", "k - AMOUNT"))
    assert run(source, tmp_path / "out") == 0
    assert built(tmp_path).read_bytes() != before


def test_other_flags_or_another_clang_rebuild(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(source, tmp_path / "out") == 0
    first = stamp(built(tmp_path))
    monkeypatch.setattr("cnp.build.driver.MEANING", (*cnp.build.driver.MEANING, "-fno-math-errno"))
    assert run(source, tmp_path / "out") == 0
    second = stamp(built(tmp_path))
    assert second != first
    found = toolchain.find()
    other = toolchain.Toolchain(found.clang, found.lld, "99.9.9", found.include)
    monkeypatch.setattr(toolchain, "find", lambda clang=None: other)
    assert run(source, tmp_path / "out") == 0
    assert stamp(built(tmp_path)) != second
    assert Library.load(built(tmp_path)).facts["clang"] == "99.9.9"


def test_a_damaged_file_is_rebuilt(source: Path, tmp_path: Path) -> None:
    assert run(source, tmp_path / "out") == 0
    good = built(tmp_path).read_bytes()
    built(tmp_path).write_bytes(good[:-1])
    assert run(source, tmp_path / "out") == 0
    assert built(tmp_path).read_bytes() == good


def test_check_compares_and_writes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(source, out, "--check") == 1
    assert not out.exists()
    assert run(source, out) == 0
    assert run(source, out, "--check") == 0
    before = stamp(built(tmp_path))
    data = bytearray(built(tmp_path).read_bytes())
    data[-1] ^= 1
    built(tmp_path).write_bytes(data)
    before = stamp(built(tmp_path))
    capsys.readouterr()
    assert run(source, out, "--check") == 1
    assert f"{built(tmp_path)}: error: not what a rebuild gives" in capsys.readouterr().err
    assert stamp(built(tmp_path)) == before
    assert visible(out) == [built(tmp_path).name]


# ---- host programs


def host_plan(out: Path, check: bool = False, keep: Path | None = None) -> list[str]:
    plan = Plan(("mips64",), host_out=out, check=check, keep=keep)
    task = next(task for task in plan.tasks() if task.source is None)
    outcome = batch.carry_out(task)
    assert outcome.error is None, outcome.error
    return [outcome.state, *visible(out)]


def test_host_programs_are_built_checked_and_kept_up_to_date(tmp_path: Path) -> None:
    out, target = tmp_path / "out", targets.get("mips64")
    assert host_plan(out) == ["built", "mips64", "mips64.json"]
    assert (out / "mips64").stat().st_mode & stat.S_IXUSR
    assert host.symbols(target, out / "mips64")
    assert host_plan(out)[0] == "up to date"
    assert host_plan(out, check=True)[0] == "same"
    assert host_plan(out, keep=tmp_path / "keep")[0] == "built"
    with (out / "mips64").open("ab") as file:
        file.write(b"!")
    assert host_plan(out, check=True)[0] == "differs"
    assert host_plan(out)[0] == "built"
    facts = json.loads((out / "mips64.json").read_text())
    (out / "mips64.json").write_text(json.dumps({**facts, "inputs": "of another source"}))
    assert host_plan(out)[0] == "built"


def test_host_programs_are_the_same_from_any_folder(tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        host_plan(tmp_path / name)
    for file in ("mips64", "mips64.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b/c" / file).read_bytes()


# ---- whole or not at all


def test_a_move_that_fails_leaves_the_old_file_and_no_other(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    built(tmp_path).write_bytes(b"old")

    def full(fresh: Path, place: Path) -> None:
        raise OSError(28, "No space left on device", str(fresh))

    monkeypatch.setattr(os, "replace", full)
    assert run(source, out) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {built(tmp_path).name: b"old"}


def test_a_build_that_is_killed_leaves_the_old_file(source: Path, tmp_path: Path) -> None:
    """clang hangs at the last step, so that the build is surely killed in the midst."""
    out, pid = tmp_path / "out", tmp_path / "pid"
    out.mkdir()
    built(tmp_path).write_bytes(b"old")
    tools = toolchain.find()
    script = tmp_path / "clang"
    hang = f'case "$*" in *interpreter.o*) echo $$ >{pid}.new; mv {pid}.new {pid}; exec sleep 60;; esac'
    script.write_text(f'#!/bin/sh\n{hang}\nexec {shlex.join([*tools.clang, *tools.include])} "$@"\n')
    script.chmod(0o755)
    options = ["--source", str(source), "--out", str(out), "--jobs", "1", "--clang", str(script)]
    process = subprocess.Popen([*COMMAND, *options], env=ENVIRONMENT, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not pid.exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert visible(out) == [built(tmp_path).name]
    assert built(tmp_path).read_bytes() == b"old"
    assert run(source, out) == 0
    assert Library.load(built(tmp_path)).operations == ("grow", "ret")


def test_a_killed_worker_is_a_failure_of_its_file(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """clang stands for what kills a worker: it kills its parent once the version is known."""
    script = tmp_path / "clang"
    script.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && { echo "clang version 22.1.8"; exit; }\nkill -9 $PPID\n'
    )
    script.chmod(0o755)
    options = ["--target", "x86_64,mips64", "--jobs", "2", "--clang", str(script)]
    assert command.main(["--source", str(source), "--out", str(tmp_path / "out"), *options]) == 1
    assert "a build process was killed" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_in_one_line(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    # root may write anywhere unless it drops that capability
    drop = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    options = ["--source", str(source), "--out", str(out), "--jobs", "1"]
    done = subprocess.run(
        [*drop, *COMMAND, *options], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    assert visible(out) == []


# ---- clang


def fake_clang(folder: Path, text: str) -> Path:
    script = folder / "clang"
    script.write_text(f"#!/bin/sh\necho '{text}'\n")
    script.chmod(0o755)
    return script


def test_a_clang_that_is_too_old_is_said_in_one_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = fake_clang(tmp_path, "Debian clang version 18.1.8 (1)")
    assert run(source, tmp_path / "out", "--clang", str(old)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert all(text in line for text in (str(old), "version 18.1.8", "19 is needed", "pip install ziglang=="))


def test_a_clang_that_is_missing_is_said_in_one_line(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, tmp_path / "out", "--clang", "/nowhere/clang") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "/nowhere/clang" in line
    assert "pip install ziglang==" in line
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    monkeypatch.delenv("CNP_CLANG", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(source, tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no clang found; install the wheel: pip install ziglang==")


def test_the_environment_names_a_clang(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CNP_CLANG", str(fake_clang(tmp_path, "clang version 17.0.6")))
    assert run(source, tmp_path / "out") == 1
    assert "version 17.0.6" in capsys.readouterr().err


# ---- errors of the source


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("CNP_OP(bad) { s->nothing = 1; return NEXT; }", r"^{path}:8:\d+: error: no member named 'nothing'"),
        ("CNP_OP(bad) { return NEXT }", r"^{path}:8:\d+: error: expected ';'"),
        ('#include "missing.h"', r"^{path}:8:\d+: fatal error: 'missing.h' file not found"),
        ("CNP_OP(ret) { return RETURN; }", r"^{path}:8: operation 'ret' is declared twice"),
        ("CNP_OP(bad, imm(struct x, y)) { return NEXT; }", r"^{path}:8: operation 'bad': an immediate is"),
    ],
)
def test_errors_stand_at_the_line_of_the_source(
    tmp_path: Path, body: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_source(tmp_path / "in", SOURCE + "\n" + body + "\n")
    assert run(source, tmp_path / "out", "--target", "x86_64,aarch64") == 1
    printed = capsys.readouterr()
    assert re.search(says.format(path=re.escape(str(source))), printed.err, re.MULTILINE), printed.err
    assert len(re.findall(r":8:", printed.err)) == 1  # once, not once a target
    assert printed.out.count("failed") == 2
    assert "Traceback" not in printed.err
    assert not (tmp_path / "out").exists()


def test_an_error_of_one_file_does_not_stop_the_others(tmp_path: Path) -> None:
    text = SOURCE + "#ifdef __mips__\n#error not on this machine\n#endif\n"
    source = write_source(tmp_path / "in", text)
    outcomes = build_all(Plan(("x86_64", "mips64"), source, tmp_path / "out"), jobs=2)
    assert [outcome.state for outcome in outcomes] == ["built", "failed"]
    assert "not on this machine" in str(outcomes[1].error)
    assert visible(tmp_path / "out") == ["tiny.x86_64.cnp"]


def test_a_library_without_sources_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "VOCABULARIES", {})
    with pytest.raises(ToolError, match="not whole"):
        build_all(Plan(("x86_64",)), jobs=1)


# ---- the surroundings


def test_without_rich_there_are_plain_lines(source: Path, tmp_path: Path) -> None:
    blocked = "import sys; sys.modules['rich'] = sys.modules['rich.console'] = None\n" + COMMAND[-1]
    options = ["--source", str(source), "--out", str(tmp_path / "out"), "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, "-c", blocked, *options], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert re.fullmatch(r"tiny \w+: built \(\d+\.\d s\)\n", done.stderr)
    assert len(done.stdout.splitlines()) == 2


def test_on_a_terminal_there_is_a_bar(source: Path, tmp_path: Path) -> None:
    leader, follower = os.openpty()
    options = ["--source", str(source), "--out", str(tmp_path / "out"), "--jobs", "1"]
    environment = {**ENVIRONMENT, "TERM": "xterm-256color"}
    done = subprocess.run(
        [*COMMAND, *options], stdout=subprocess.PIPE, stderr=follower, env=environment, check=False
    )
    os.close(follower)
    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert done.returncode == 0
    assert "━" in shown
    assert "1/1" in shown


@pytest.mark.checkout
def test_the_script_works_from_a_plain_checkout(source: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "lib", "bin")
    for part in ("cnp", "stencils"):
        shutil.copytree(root / part, copy / part, ignore=ignored)
    shutil.copy(root / "build_stencils.py", copy)
    options = ["--target", "host", "--source", str(source), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, str(copy / "build_stencils.py"), *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert built(tmp_path).exists()
    assert not any("cnp/lib" in str(path) for path in copy.rglob("*.cnp"))
