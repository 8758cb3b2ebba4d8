"""cnp bench emission: the workload in C against the one in Python, every tool's code against an interpreter, what the
command prints, and other people's assemblers."""

from __future__ import annotations

import hashlib
import html
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from cnp.bench import emission, extremes, report, workload
from cnp.bench import native as native_module
from cnp.bench.clang import LEVELS, clang_tools
from cnp.bench.emission import GOALS, Pace, Row
from cnp.bench.external import external
from cnp.bench.extremes import Figure
from cnp.bench.native import Buffer, Native, Program, by_hand, compiler_version
from cnp.bench.tools import BASE, COLD, HAND, WARM, Batch, Job, Tool, all_tools
from cnp.bench.workload import Kind
from cnp.errors import CnpError, ToolError
from tests.support import need

click_testing = pytest.importorskip("click.testing")

from click.testing import Result  # noqa: E402

from cnp.cli import cli  # noqa: E402

COLUMNS = ["tool", "n", "ns_per_op", "mb_per_s", "bytes_per_op", "ratio_to_memcpy", "ratio_to_hand"]
DIGESTS = {10_000: "936530ff6548700d", 100_000: "4181ce0379bce210", 1_000_000: "d7e4e2f105803cef"}
SAMPLES = Path(__file__).parents[1] / "examples" / "assemblers"


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Native:
    if by_hand() is None:
        pytest.skip("nobody wrote an assembler by hand for this machine")
    return Native(tmp_path_factory.mktemp("emission"))


def file_of(program: Program) -> bytes:
    return program.records.bytes(program.records.size)


# ---- the workload


@pytest.mark.parametrize("count", [1, 2, 10, 1000, 10_000])
@pytest.mark.parametrize("verify", [False, True])
def test_the_workload_in_c_and_in_python(native: Native, count: int, verify: bool) -> None:
    assert file_of(native.program(count, verify)) == workload.pack(workload.records(count, verify))


@pytest.mark.parametrize("count", DIGESTS)
def test_digests(native: Native, count: int) -> None:
    assert hashlib.sha256(file_of(native.program(count))).hexdigest().startswith(DIGESTS[count])


def test_shares_of_operations() -> None:
    found = Counter(Kind(record.op).name for record in workload.records(10_000))
    assert found == {
        "LOADI": 1992,
        "ADD": 2992,
        "SUB": 1535,
        "MUL": 1528,
        "CBR": 1449,
        "JMP": 391,
        "RET": 113,
    }


@pytest.mark.parametrize("count", [1, 10, 1000])
def test_both_interpreters(native: Native, count: int) -> None:
    slots = workload.first_slots()
    workload.interpret(list(workload.records(count, verify=True)), slots)
    assert native.program(count, verify=True).outcome() == b"".join(w.to_bytes(8, "little") for w in slots)


# ---- the tools


def names() -> list[str]:
    return [tool.name for tool in all_tools()]


@pytest.mark.parametrize("name", [name for name in names() if name not in (WARM, COLD)])
def test_every_tool_computes_what_the_interpreter_does(native: Native, name: str) -> None:
    tool = next(tool for tool in all_tools() if tool.name == name)
    for n in (1, 10, 300):
        emission.Contest(native, [tool], n).check(tool)


def test_bytes_of_the_hand_written_assembler(native: Native) -> None:
    """Those of DynASM for the same program, jump by jump."""
    assert len(native.program(10_000).hand) == 186_739


def test_a_tool_that_computes_something_else_is_refused(native: Native) -> None:
    class Wrong(Job):
        def emit(self, times: int) -> None:
            self.size = 1

        def code(self) -> bytes:
            return b"\xc3"

    tool = Tool("wrong", "", Wrong)
    with pytest.raises(CnpError, match=r"wrong, n = 10: its code leaves another number in slot \d+"):
        emission.Contest(native, [tool], 10).check(tool)


def test_the_hand_written_assembler_refuses_what_does_not_fit(native: Native) -> None:
    with pytest.raises(CnpError, match="gives up with status"):
        native.assemble(native.program(100), Buffer(100), 1)


def test_rows_of_two_sizes(native: Native) -> None:
    tools = [tool for tool in all_tools() if tool.name in (WARM, COLD, HAND)]
    rows = list(emission.run(native, tools, (10, 1000), rounds=9))
    assert [(row.tool, row.n) for row in rows] == [(tool.name, n) for n in (10, 1000) for tool in tools]
    for row in rows:
        assert row.ns_per_op > 0 and row.mb_per_s > 0 and row.bytes_per_op > 10
        assert row.ratio_to_memcpy == 1.0 or row.tool == HAND
    assert all(row.ratio_to_hand == 1.0 for row in rows if row.tool == HAND)


def test_who_goes_on() -> None:
    second = 1e9
    pace = Pace(9, 400.0)
    assert pace.goes_on("linear", 10, 0.1 * second, 100)
    assert not pace.goes_on("slow", 10, 0.3 * second, 100)
    assert pace.goes_on(HAND, 10, 3.0 * second, 100)
    assert pace.goes_on("square", 10, 0.0001 * second, 100)
    assert not pace.goes_on("square", 100, 0.05 * second, 1000)  # ten times n took 500 times as long
    pace.left = 20.0
    assert not pace.goes_on("linear", 100, 0.1 * second, 1000)
    assert Pace(9, None).goes_on("slow", 10, 9.0 * second, 100)


def test_goals() -> None:
    rows = [
        Row(HAND, 1_000_000, 20.0, 900.0, 18.7, 15.0, 1.0),
        Row(WARM, 1_000_000, 1.3, 1.0, 18.7, 1.0, 0.1),
    ]
    goal = next(goal for goal in GOALS if goal.tool == HAND)
    assert goal.figure(rows) == 15.0
    assert all(goal.figure([]) is None for goal in GOALS)
    verdicts = [Figure("", value, 16).verdict for value in (16.0, 16.1, None)]
    assert verdicts == ["met", "MISSED", ""]


def test_records_to_a_callable(native: Native) -> None:
    """It is a function of slot 0, which is what it returns."""
    assert Batch(native.program(1)).to_callable()(1234) == 1234


def test_the_core_alone_makes_the_same_code(native: Native) -> None:
    core, job = extremes.Core(native), Batch(native.program(300))
    bound, _ = job.plan()
    out = Buffer(bound)
    with core.open():
        size = core.compile(job.records, out, 2)
        held = core.opened.memory.held
        assert core.opened.memory.most >= held > 300 * 32  # it keeps the records
    assert core.opened.memory.held == 0
    assert out.bytes(size) == bytes(job.write(BASE, bound))
    with core.open(), pytest.raises(CnpError, match="the core refuses the workload"):
        core.compile(job.records, Buffer(100), 1)


def test_memory_an_operation(native: Native) -> None:
    """At least its record, and far less than a page."""
    core = extremes.Core(native)
    assert 32 < core.memory(native.program(10_000)) < 4096


def test_what_is_linear() -> None:
    assert extremes.spread([2.0, 3.0, 4.0]) == 2.0
    assert extremes.spread([2.0]) is None


@pytest.mark.parametrize("level", LEVELS)
def test_clang_computes_what_the_interpreter_does(native: Native, level: str) -> None:
    need(bool(clang_tools()), "clang is in the ziglang wheel")
    (tool,) = [tool for tool in clang_tools() if tool.name == f"clang {level}"]
    emission.Contest(native, [tool], 300).check(tool)
    job = tool.prepare(native.program(10))
    assert job.timed(1) > 0 and job.length() > 0
    job.close()


def test_lines_that_say_something(tmp_path: Path) -> None:
    for name, text in (
        ("a.c", "/* one\n   two */\n\nint x; /* three */\n"),
        ("a.py", '"""A.\n\nB."""\n\n# c\nx = 1  # d\n'),
    ):
        (tmp_path / name).write_text(text)
        assert report.lines_of(tmp_path / name) == 1


def test_names_stand_apart() -> None:
    """Three points in one place: three names above each other; one far away keeps its place."""
    need(importlib.util.find_spec("matplotlib") is not None, "matplotlib draws the plots")
    _, axes = report.figure(4, 4)
    axes.set(xlim=(0, 10), ylim=(0, 10))
    report.name_points(axes, [("a", (1, 1), "r"), ("b", (1, 1), "g"), ("c", (1, 1), "b"), ("d", (8, 8), "k")])
    heights = [text.xyann[1] for text in axes.texts]
    assert sorted(heights) == pytest.approx([0, 0, report.LETTER[1], 2 * report.LETTER[1]])


# ---- other people's assemblers


@pytest.fixture(scope="module")
def sample_in_c(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc") or shutil.which("gcc")
    need(compiler is not None, "a C compiler builds the sample")
    program = tmp_path_factory.mktemp("sample") / "assembler"
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([str(compiler), *flags, "-o", str(program), str(SAMPLES / "assembler.c")], check=True)
    return shlex.quote(str(program))


def sample_in_python() -> str:
    return shlex.join([sys.executable, str(SAMPLES / "assembler.py")])


def test_samples_make_the_same_code(native: Native, sample_in_c: str) -> None:
    made = []
    for command in (sample_in_c, sample_in_python()):
        tool = external("mine", command)
        emission.Contest(native, [tool], 300).check(tool)
        assert tool.known_version
        job = tool.prepare(native.program(300))
        assert job.timed(2) > 0 and job.size == len(job.code())
        made.append(job.code())
        job.close()
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("import sys; sys.exit('no such thing')", "mine: no such thing"),
        ("import sys; sys.exit(3)", "mine: exit status 3"),
        ("print('{}')", "print {\"ns\": nanoseconds"),
        ("print('nothing')", "print {\"ns\": nanoseconds"),
        ("print('{\"ns\": 5}')", "write the code to the second argument"),
        ("import sys; open(sys.argv[2], 'w').close(); print('{\"ns\": 5}')", "0 bytes of code took 5.0 ns"),
        ("import sys; open(sys.argv[2], 'w').write('x'); print('{\"ns\": -1}')", "1 bytes of code took -1.0 ns"),
    ],
)  # fmt: skip
def test_answers_that_are_none(native: Native, script: str, complaint: str) -> None:
    job = external("mine", shlex.join([sys.executable, "-c", script])).prepare(native.program(10))
    with pytest.raises(ToolError) as caught:
        job.timed(1)
    assert complaint in caught.value.message
    job.close()


def test_no_such_program(native: Native) -> None:
    job = external("mine", "/nowhere/assembler").prepare(native.program(10))
    with pytest.raises(ToolError, match=r"mine: .*nowhere"):
        job.timed(1)
    job.close()


# ---- the command


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(native_module, "find_spec", lambda name: None)
    done = call("--json")
    assert done.exit_code == 1 and done.stdout == ""
    assert "install a C compiler" in done.stderr and len(done.stderr.splitlines()) == 1


def call(*arguments: str) -> Result:
    done: Result = click_testing.CliRunner().invoke(cli, ["bench", "emission", *arguments])
    return done


def test_json_is_all_that_is_printed(native: Native) -> None:
    done = call("--json", "--most", "10", "--tool", f"mine={sample_in_python()}")
    assert (done.exit_code, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert [row["tool"] for row in rows] == [*names(), "mine"]
    assert all(list(row) == COLUMNS and row["n"] == 10 for row in rows)


def test_the_table_has_versions_and_goals(native: Native) -> None:
    done = call("--most", "10")
    assert (done.exit_code, done.stderr) == (0, "")
    head, first, *rest = done.stdout.splitlines()
    assert head.split() == ["tool", "n", "ns/op", "MB/s", "bytes/op", "/memcpy", "/hand"]
    assert first.startswith("memcpy warm")
    assert any(line.startswith("versions: hand-written ") for line in rest)
    for goal in GOALS:
        assert sum(line.startswith(goal.title) for line in rest) == 1
    small = [line for line in rest if line.startswith("10 operations, ")]
    assert len(small) == 2
    assert all(re.search(r"µs +[\d.]+  ≤ (15|1) +(met|MISSED)$", line) for line in small)


def test_the_page_needs_nothing_else(native: Native, tmp_path: Path) -> None:
    need(importlib.util.find_spec("matplotlib") is not None, "matplotlib draws the plots")
    need(bool(clang_tools()), "clang is in the ziglang wheel")
    out = tmp_path / "page.html"
    done: Result = click_testing.CliRunner().invoke(
        cli, ["bench", "report", "--most", "10", "--out", str(out)]
    )
    assert (done.exit_code, done.stderr) == (0, "")
    page = out.read_text()
    assert page.count("<svg") == page.count("</svg>") == 4
    assert not re.search(r"(?:src|href)=[\"'](?!#)", page)
    assert html.escape(compiler_version()) in page
    for name in [*names(), "interpreter in C", "clang -O0", "clang -O2"]:
        assert f"<td>{name}</td>" in page
    for goal in GOALS:
        assert f"<td>{goal.title}</td>" in page
    for title in ("Time to the first call", "Compile time against run time", "Lines of source", "Versions"):
        assert f"<h2>{title}</h2>" in page


def test_no_page_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It says so before it measures."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(emission, "run", lambda *_, **__: pytest.fail("it measures"))
    out = str(tmp_path / "page.html")
    done: Result = click_testing.CliRunner().invoke(cli, ["bench", "report", "--out", out])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "error: this command needs matplotlib.figure: pip install 'cnp[bench]'\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tool", "mine"], "'mine' is not NAME=COMMAND"),
        (["--tool", "mine= "], "is not NAME=COMMAND"),
        (["--tool", "a=b", "--tool", "a=c"], "there is a tool 'a' already"),
        (["--tool", "memcpy warm=x"], "there is a tool 'memcpy warm' already"),
        (["--most", "9"], "9 is not in the range x>=10"),
        (["--rounds", "8"], "8 is not in the range x>=9"),
    ],
)
def test_wrong_options(arguments: list[str], complaint: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2 and done.stdout == ""
    assert complaint in done.stderr
