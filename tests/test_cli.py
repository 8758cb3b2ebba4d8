"""The command line: what each command prints, exit status, errors in one line, real processes."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnp import __version__, doctor, runtime, show, targets
from cnp.build import batch
from cnp.errors import LibraryError
from cnp.library import Library
from tests.support import every_target, need, runnable

click_testing = pytest.importorskip("click.testing")
pytest.importorskip("capstone")

from click.testing import Result  # noqa: E402

from cnp.cli import cli  # noqa: E402

CNP = [sys.executable, "-m", "cnp"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(runtime.__file__).parents[1])}
HELLO = "++++++[>++++++++++++<-]>.>++++++++++."  # H and a new line


def call(*arguments: str, given: bytes = b"") -> Result:
    result: Result = click_testing.CliRunner().invoke(cli, list(arguments), input=given)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def program(folder: Path, source: str) -> str:
    path = folder / "program.b"
    path.write_text(source)
    return str(path)


# ---- run


@pytest.mark.parametrize("mode", [[], ["--interpret"]], ids=["compiled", "interpreted"])
@every_target
def test_run(target: str, mode: list[str], tmp_path: Path) -> None:
    runnable(target)
    result = call("run", program(tmp_path, HELLO), "--target", target, *mode)
    assert (result.exit_code, result.stdout_bytes, result.stderr) == (0, b"H\n", "")


def test_output_and_input_are_bytes_as_they_are(tmp_path: Path) -> None:
    data = bytes(range(1, 256)) + b"\r\n"
    echo = program(tmp_path, ",[.,]")
    (tmp_path / "input").write_bytes(data)
    assert call("run", echo, given=data).stdout_bytes == data
    assert call("run", echo, "--input", str(tmp_path / "input")).stdout_bytes == data


def test_run_tells_times_beside_the_output(tmp_path: Path) -> None:
    result = call("run", program(tmp_path, HELLO), "--time")
    assert result.stdout_bytes == b"H\n"
    assert re.fullmatch(r"compiled in \d+\.\d{3} s, ran \d+\.\d{3} s\n", result.stderr)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("+\n [", "2:2: [ has no partner"),
        ("\n\n]", "3:1: ] has no partner"),
        (">>>>", "1:4: the pointer leaves the tape (cell 4 of 4)"),
        ("+[\n<]", "2:1: the pointer leaves the tape (cell -1 of 4)"),
    ],
)
def test_errors_in_programs_name_file_line_and_column(source: str, said: str, tmp_path: Path) -> None:
    file = program(tmp_path, source)
    result = call("run", file, "--cells", "4")
    assert (result.exit_code, result.stderr, result.stdout) == (1, f"{file}:{said}\n", "")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["run", "nowhere.b"], 2, "does not exist"),
        (["run", "PROGRAM", "--cells", "0"], 2, "0 is not in the range"),
        (["run", "PROGRAM", "--target", "z80"], 1, "error: no target 'z80'; there are host, "),
        (["list", "nothing"], 1, "; there are brainfuck, ebpf, ops"),
        (["list", "PROGRAM"], 1, "this is no stencil file"),
        (["list", "LIBRARY", "--target", "riscv64"], 1, "is for mips64, not for riscv64"),
        (["dump", "i64_frob"], 1, "error: no operation 'i64_frob'"),
        (["export", "ops", "--as", "cobol"], 2, "'cobol' is not one of"),
        (["export", "ops"], 2, "Missing option '--as'"),
        (
            ["export", "ops", "--as", "c", "--out", "/nowhere/ops.h"],
            1,
            "No such file or directory: '/nowhere/ops.h'",
        ),
        (["build", "--target", "z80"], 2, "no target 'z80'"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_errors_take_one_line_and_a_status(
    arguments: list[str], status: int, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    places = {"PROGRAM": program(tmp_path, "+"), "LIBRARY": str(runtime.installed("ops", "mips64"))}
    result = call(*(places.get(word, word) for word in arguments))
    told = result.stderr + capfd.readouterr().err
    assert result.exit_code == status
    assert said in told and "Traceback" not in told


# ---- build, export


def test_build_is_the_build_command(tmp_path: Path) -> None:
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    source = tmp_path / "vm.c"
    source.write_text("#define CNP_STATE(X) X(u64, tos)\n#define CNP_RESULT tos\n#include <cnp.h>\n"
                      "CNP_OP(push, imm(i32, k)) { s->tos = k; return NEXT; }\nCNP_OP(ret) { return RETURN; }\n")  # fmt: skip
    command = [
        *CNP,
        "build",
        "--source",
        str(source),
        "--target",
        "host",
        "--out",
        str(tmp_path),
        "--jobs",
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    name = targets.get("host").name
    assert Library.load(tmp_path / f"vm.{name}.cnp").operations == ("push", "ret")
    listed = call("list", str(tmp_path / f"vm.{name}.cnp"))
    assert {line.split()[0] for line in listed.stdout.splitlines()} == {"operation", "push", "ret"}


def test_build_has_the_help_of_the_build_command() -> None:
    done = subprocess.run(
        [*CNP, "build", "--help"], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert done.stdout.startswith("usage: cnp build ") and "--keep DIR" in done.stdout


def test_export_to_a_file_and_to_stdout(tmp_path: Path) -> None:
    printed = call("export", "ops", "--target", "mips64", "--as", "json")
    assert json.loads(printed.stdout)["facts"]["target"] == "mips64"
    out = tmp_path / "ops.json"
    written = call("export", str(runtime.installed("ops", "mips64")), "--as", "json", "--out", str(out))
    assert (written.exit_code, written.stdout) == (0, "")
    assert out.read_text() == printed.stdout


# ---- list, dump


def test_sources_are_listed_and_dumped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they are loaded: what is not built yet is built into the user's cache."""
    need(importlib.util.find_spec("ziglang") is not None, "the ziglang wheel is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "mine.c"
    source.write_text(
        "#define CNP_STATE(X) X(i64, value)\n#define CNP_RESULT value\n#include <cnp.h>\n"
        "CNP_OP(answer) { s->value = 42; return RETURN; }\n"
    )
    assert call("list", str(source)).stdout.splitlines()[1].startswith("answer")
    assert "0x2a" in call("dump", "answer", "--library", str(source)).stdout
    assert '"answer"' in call("export", str(source), "--as", "json").stdout
    source.write_text("#include <cnp.h>\nCNP_OP(answer) { return NEXXT; }\n")
    assert "mine.c:2" in call("list", str(source)).stderr


@every_target
def test_list_has_a_row_for_each_form(target: str) -> None:
    library = Library.load(runtime.installed("ops", target))
    heading, *lines = call("list", "--forms", "--target", target).stdout.splitlines()
    assert heading.split() == list(show.COLUMNS)
    forms = [(name, form) for name in library.operations for form in library[name].forms]
    assert len(lines) == len(forms)
    for line, (name, form) in zip(lines, forms, strict=True):
        hot, *cold = form.near.blocks
        figures = [
            len(hot.code) - hot.tail,
            sum(len(b.code) for b in cold),
            sum(len(b.holes) for b in form.near.blocks),
        ]
        assert line.split()[0] == name and line.split()[-3:] == [str(figure) for figure in figures]


def test_list_has_a_row_for_each_operation() -> None:
    heading, *lines = call("list", "brainfuck").stdout.splitlines()
    assert heading.split() == list(show.OPERATION_COLUMNS)
    library = Library.load(runtime.installed("brainfuck", targets.get("host").name))
    assert [line.split()[0] for line in lines] == list(library.operations)
    for line, name in zip(lines, library.operations, strict=True):
        forms = library[name].forms
        sizes = [len(form.near.blocks[0].code) - form.near.blocks[0].tail for form in forms]
        span = [str(size) for size in sorted({min(sizes), max(sizes)})]
        assert line.split()[-2 * len(span) :] == [str(len(forms)), *" … ".join(span).split()]


def test_a_terminal_gets_a_table() -> None:
    pytest.importorskip("rich")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*CNP, "list", "brainfuck"],
        stdout=slave,
        stderr=slave,
        env={**ENVIRONMENT, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 65536):
            shown += part
    except OSError:  # the other end is closed: that is how a terminal says so
        pass
    os.close(master)
    assert process.wait(30) == 0
    assert "━" in shown.decode() and "scan_right" in shown.decode()


@every_target
def test_dump_shows_every_byte_and_every_hole(target: str) -> None:
    library = Library.load(runtime.installed("ops", target))
    for name in library.operations:
        lines = list(show.dump(library, name))
        code = [line for line in lines if re.match(r" +[0-9a-f]+  ", line)]
        stencils = [s for form in library[name].forms for s in (form.near, form.far) if s]
        blocks = [block for stencil in stencils for block in stencil.blocks]
        shown = "".join(
            match[1] for line in code if (match := re.match(r" +[0-9a-f]+  ((?:[0-9a-f]{2} )+)", line))
        )
        assert bytes.fromhex(shown) == b"".join(block.code for block in blocks), name
        notes = sum(len(re.findall(r"\+\d+ \w+ = ", line)) for line in code)
        assert notes == sum(len(block.holes) for block in blocks), name


def test_dump_names_what_goes_into_holes() -> None:
    text = call("dump", "i64_div_s", "--target", "x86_64").stdout
    assert text.startswith("i64_div_s(out i64 d, in i64 a, in/imm i64 b)  ops.c:")
    for note in (
        r"idiv ",
        r"\+3 abs32s = a",
        r"\+1 jump32 = next - 4",
        r"jump32 = cold - 4",
        r"jump32 = leave by trap - 4",
    ):
        assert re.search(note, text), note
    assert "= literal a" in call("dump", "i64_move", "--target", "aarch64").stdout
    assert "= cnp_poll" in call("dump", "poll", "--target", "mips64").stdout


@pytest.mark.parametrize(
    ("target", "code", "text"),
    [
        ("aarch64", "ffffffff1f2003d5", [".word 0xffffffff", "nop"]),
        ("mips64", "4ffffffe00000000", [".word 0x4ffffffe", "nop"]),
        ("x86_64", "0604 90", [".byte 0x06", "add al, 0x90"]),
    ],
)
def test_what_capstone_does_not_know_is_a_number(target: str, code: str, text: list[str]) -> None:
    read = list(show.Disassembler(targets.get(target)).instructions(bytes.fromhex(code)))
    assert [instruction for _, _, instruction in read] == text
    assert b"".join(data for _, data, _ in read) == bytes.fromhex(code)


# ---- doctor


def test_doctor_tries_everything() -> None:
    assert set(doctor.VOCABULARIES) == set(batch.VOCABULARIES)
    for name in targets.TARGETS:
        runnable(name)
    result = call("doctor")
    assert result.exit_code == 0
    states = {
        line.split()[1]: line.split()[0] for line in result.stdout.splitlines() if not line.startswith(" ")
    }
    assert set(states) == {"cnp", "processor", "core", "memory", "clang", *targets.TARGETS}
    assert {states[name] for name in targets.TARGETS} == {"ok"}
    assert "generated code runs" in result.stdout


def test_doctor_says_what_to_do_about_a_missing_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    foreign = next(name for name in targets.TARGETS if name != targets.host_name())
    result = call("doctor")
    assert result.exit_code == 0
    assert re.search(rf"^missing  {foreign} .*\n.*-> .*qemu-user-static", result.stdout, re.MULTILINE)


def test_doctor_fails_when_this_machine_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, target: str) -> Path:
        raise LibraryError("the stencil file is damaged", path="")

    monkeypatch.setattr(runtime, "installed", missing)
    result = call("doctor")
    assert result.exit_code == 1
    assert re.search(
        rf"^broken   {targets.host_name()} +the stencil file is damaged$", result.stdout, re.MULTILINE
    )
    assert re.search(r"^broken   memory ", result.stdout, re.MULTILINE)


# ---- real processes


def test_the_package_is_a_command() -> None:
    done = subprocess.run([*CNP, "--version"], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout == f"cnp, version {__version__}\n"


def test_ctrl_c_ends_with_130(tmp_path: Path) -> None:
    """The program says that it runs, then loops for ever."""
    process = subprocess.Popen(
        [*CNP, "run", program(tmp_path, "++++++++++.[]")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.communicate() == (b"", b"")


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    endless = program(tmp_path, "++++++++++[.]")
    process = subprocess.Popen(
        [*CNP, "run", endless], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(10) == 1
    assert process.stderr.read() == b""
    process.stderr.close()


def test_without_click_it_says_what_to_install() -> None:
    script = "import sys; sys.modules['click'] = None; from cnp.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert (done.returncode, done.stderr) == (1, "the command needs click: pip install 'cnp[cli]'\n")


def test_without_capstone_dump_says_what_to_install() -> None:
    script = "import sys; sys.modules['capstone'] = None; from cnp.cli import cli; cli(['dump', 'ret'])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert (done.returncode, done.stderr) == (
        1,
        "error: this command needs capstone: pip install 'cnp[cli]'\n",
    )


def test_starting_is_light() -> None:
    """What only single commands need is not imported before they run."""
    script = "import sys, cnp.cli; print(*{'elftools', 'capstone', 'rich', 'cnp.build', 'cnp.brainfuck'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT, check=True
    )
    assert done.stdout == "\n"
