"""cnp bench quality: every implementation of every kernel against a reference in Python, the cnp programs on every
target, and what the command prints."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from cnp import runtime
from cnp.assembler import Assembler
from cnp.bench import opponents, quality
from cnp.bench.kernels import KERNELS
from cnp.bench.quality import GOALS, Contest, Opponents, Row
from cnp.build import toolchain
from cnp.errors import CnpError, ToolError
from cnp.foreign import Call, ForeignCode
from cnp.interpret import has_threads
from cnp.library import Library
from tests.support import every_target, need, runnable

click_testing = pytest.importorskip("click.testing")

from click.testing import Result  # noqa: E402

from cnp.cli import cli  # noqa: E402

COLUMNS = [
    "kernel", "cnp_ns", "clang_O1_ns", "clang_O2_ns", "hand_ns", "interpreter_ns", "switch_ns",
    "cnp_bytes", "hand_bytes", "clang_O1_bytes",
]  # fmt: skip
SIZES = (0, 1, 2, 3, 9, 20)
WORD = (1 << 64) - 1

every_kernel = pytest.mark.parametrize("name", list(KERNELS))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Opponents:
    need(
        importlib.util.find_spec("ziglang") is not None,
        "the ziglang wheel compiles the other implementations",
    )
    return quality.find_opponents(tmp_path_factory.mktemp("opponents"))


# ---- what the kernels compute, in Python; memory as on a little-endian machine


def fib(n: int, memory: bytes) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def collatz(n: int, memory: bytes) -> int:
    def steps(x: int) -> int:
        return 0 if x == 1 else 1 + steps(3 * x + 1 if x % 2 else x // 2)

    return sum(steps(x) for x in range(1, n + 1))


def primes(n: int, memory: bytes) -> int:
    return sum(all(i % d for d in range(2, i)) for i in range(2, n))


def fnv1a(n: int, memory: bytes) -> int:
    value = 14695981039346656037
    for byte in memory[:n]:
        value = (value ^ byte) * 1099511628211 & WORD
    return value


def xorshift(n: int, memory: bytes) -> int:
    x = 88172645463325252
    for _ in range(n):
        x ^= x << 13 & WORD
        x ^= x >> 7
        x ^= x << 17 & WORD
    return x


def bubble_sort(n: int, memory: bytes) -> int:
    """A bubble sort swaps once for each pair that stands in the wrong order."""
    a = struct.unpack(f"<{n}q", memory)
    return sum(a[i] > a[j] for j in range(n) for i in range(j))


def matmul_i64(n: int, memory: bytes) -> int:
    a = struct.unpack(f"<{3 * n * n}q", memory)
    return sum(a[i * n + k] * a[n * n + k * n + j] for i in range(n) for j in range(n) for k in range(n))


def matmul_f64(n: int, memory: bytes) -> int:
    a, total = struct.unpack(f"<{3 * n * n}d", memory), 0.0
    for i in range(n):
        for j in range(n):
            value = 0.0
            for k in range(n):
                value += a[i * n + k] * a[n * n + k * n + j]
            total += value
    return bits(total)


def mandelbrot(n: int, memory: bytes) -> int:
    def iterations(cr: float, ci: float) -> int:
        zr = zi = 0.0
        for count in range(1, 101):
            zr, zi = zr * zr - zi * zi + cr, zi * (zr + zr) + ci
            if zr * zr + zi * zi > 4.0:
                return count
        return 100

    places = [i * (3.0 / n) for i in range(n)] if n else []
    return sum(iterations(x - 2.0, y - 1.5) for y in places for x in places)


def nbody(n: int, memory: bytes) -> int:
    (count,) = struct.unpack_from("<q", memory)
    bodies = [list(struct.unpack_from("<7d", memory, 8 + 56 * i)) for i in range(count)]
    for _ in range(n):
        for i, a in enumerate(bodies):
            for b in bodies[i + 1 :]:
                d = [a[axis] - b[axis] for axis in range(3)]
                square = d[0] * d[0] + d[1] * d[1] + d[2] * d[2]
                pull = 0.01 / (square * math.sqrt(square))
                ma, mb = a[6] * pull, b[6] * pull
                for axis in range(3):
                    a[3 + axis] -= d[axis] * mb
                    b[3 + axis] += d[axis] * ma
        for a in bodies:
            for axis in range(3):
                a[axis] += a[3 + axis] * 0.01
    return bits(bodies[0][0])


def sha256(n: int, memory: bytes) -> int:
    if n == 0:
        return 0x6A09E667BB67AE85
    return int.from_bytes(hashlib.sha256(memory[544:-9]).digest()[:8], "big")


def bits(value: float) -> int:
    (word,) = struct.unpack("<q", struct.pack("<d", value))
    return int(word)


REFERENCES: dict[str, Callable[[int, bytes], int]] = {
    "fib": fib,
    "gcd": lambda n, memory: sum(math.gcd(n, i) for i in range(1, n + 1)),
    "collatz": collatz,
    "primes": primes,
    "sieve": primes,
    "fnv1a": fnv1a,
    "xorshift": xorshift,
    "bubble_sort": bubble_sort,
    "matmul_i64": matmul_i64,
    "matmul_f64": matmul_f64,
    "mandelbrot": mandelbrot,
    "nbody": nbody,
    "sha256": sha256,
}


def expected(name: str, n: int) -> int:
    return REFERENCES[name](n, KERNELS[name].memory(n, "little")) & WORD


# ---- the kernels


@every_kernel
def test_all_implementations_agree(name: str, others: Opponents) -> None:
    for n in SIZES:
        contest = Contest(KERNELS[name], n, others)
        assert {"cnp", "clang_O1", "clang_O2", "switch"} <= set(contest.ways)
        assert ("interpreter" in contest.ways) == has_threads(contest.code.library)
        assert contest.check() == expected(name, n)


@every_kernel
def test_the_timed_size_agrees_too(name: str, others: Opponents) -> None:
    kernel = KERNELS[name]
    Contest(kernel, kernel.n, others).check()


def test_hand_written_assembly(others: Opponents) -> None:
    need(others.hand is not None, "nobody wrote assembly for this machine")
    assert others.hand is not None
    assert set(others.hand.sizes) <= set(KERNELS) and len(others.hand.sizes) >= 8
    assert all(size > 0 for size in others.hand.sizes.values())


def test_c_has_all_kernels(others: Opponents) -> None:
    for opponent in (others.clang_O1, others.clang_O2):
        assert set(opponent.sizes) == set(KERNELS)


@every_target
def test_on_every_target(target: str) -> None:
    """Generated code and the interpreters, in one start of the emulator."""
    machine = runnable(target)
    library = Library.load(runtime.installed("ops", target))
    asm = Assembler(library)
    for kernel in KERNELS.values():
        asm.function(kernel.name, frame=kernel.frame)
        kernel.assemble(asm)
    code = ForeignCode(asm.close())
    ways = ("compiled", "switch", "threaded") if has_threads(library) else ("compiled", "switch")
    runs = [(kernel, n, way) for kernel in KERNELS.values() for n in SIZES for way in ways]
    memory = [kernel.memory(n, machine.byteorder) or bytes(8) for kernel, n, _ in runs]
    calls = [
        Call(
            kernel.name,
            state={"r3": address, "r4": n},
            depth=0,
            interpret=way != "compiled",
            threaded=way == "threaded",
        )
        for (kernel, n, way), address in zip(
            runs, code.area_addresses([len(image) for image in memory]), strict=True
        )
    ]
    outcome = code.run(calls, memory=memory)
    for (kernel, n, way), result in zip(runs, outcome.results, strict=True):
        assert isinstance(result.value, int), (kernel.name, n, way, result)
        assert result.value & WORD == expected(kernel.name, n), (kernel.name, n, way)


# ---- the measurement


def test_a_wrong_result_is_told(others: Opponents) -> None:
    contest = Contest(KERNELS["fib"], 10, others)
    contest.ways["clang_O1"] = lambda: 54
    with pytest.raises(CnpError, match=r"fib, n = 10: clang_O1 gives 0x36, cnp 0x37") as caught:
        contest.check()
    assert (caught.value.kernel, caught.value.way) == ("fib", "clang_O1")


def test_different_memory_is_told(others: Opponents) -> None:
    contest = Contest(KERNELS["bubble_sort"], 10, others)
    swaps = contest.check()
    contest.ways["hand"] = lambda: swaps
    with pytest.raises(CnpError, match="hand and cnp leave different memory"):
        contest.check()


def test_rounds_run_by_turns(others: Opponents) -> None:
    contest = Contest(KERNELS["fib"], 10, others)
    order: list[str] = []

    def way(name: str) -> Callable[[], int]:
        def run() -> int:
            order.append(name)
            return 0

        return run

    contest.ways = {name: way(name) for name in ("a", "b")}
    assert set(contest.measure(3)) == {"a", "b"}
    assert order == ["a", "b"] * 3


def test_rows_where_there_is_no_assembly(
    tmp_path: Path, others: Opponents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opponents, "FOLDER", tmp_path)
    assert opponents.by_hand(tmp_path) is None
    bare = Contest(KERNELS["fib"], 100, Opponents(others.clang_O1, others.clang_O2, None)).row(1)
    assert (bare.hand_ns, bare.hand_bytes) == (None, None)
    assert bare.cnp_ns > 0 and bare.cnp_bytes > 0 and bare.clang_O1_bytes > 0


def test_bytes_are_those_of_the_function(others: Opponents) -> None:
    """Hot and cold parts of its own operations: more operations, more bytes, by what they take."""
    contest = Contest(KERNELS["fib"], 1, others)
    image = contest.code.image
    own = contest.row(1).cnp_bytes
    shared = sum(end - start for start, end, op in image.ranges if op < 0)
    assert 0 < own < len(image.code) and own + shared <= len(image.code)


def test_geometric_means() -> None:
    def row(cnp: int, hand: int | None) -> Row:
        return Row("k", cnp, 10, 10, hand, None, 80, 10, None, 10)

    time, size, _, switch, interpreter = GOALS
    rows = [row(20, 10), row(10, 20), row(40, None)]
    assert time.mean(rows) == pytest.approx(1.0)
    assert size.mean(rows) is None and interpreter.mean(rows) is None
    assert switch.mean(rows) == pytest.approx(4.0)
    assert time.met(1.05) and not time.met(1.06)
    assert switch.met(8.0) and not switch.met(7.99)


# ---- the command


def call(*arguments: str) -> Result:
    done: Result = click_testing.CliRunner().invoke(cli, ["bench", "quality", *arguments])
    return done


def test_json_is_all_that_is_printed(others: Opponents) -> None:
    done = call("--json", "--kernel", "gcd", "--kernel", "fib", "--kernel", "gcd")
    assert (done.exit_code, done.stderr) == (0, "")
    rows = json.loads(done.stdout)
    assert [row["kernel"] for row in rows] == ["gcd", "fib"]
    hand = others.hand is not None
    for row in rows:
        assert list(row) == COLUMNS == [field.name for field in dataclasses.fields(Row)]
        given = {column for column in COLUMNS if row[column] is not None}
        assert set(COLUMNS) - given <= {"interpreter_ns"} | (set() if hand else {"hand_ns", "hand_bytes"})
        assert all(isinstance(row[column], int) and row[column] > 0 for column in given - {"kernel"})


def test_the_table_has_means_and_goals(others: Opponents) -> None:
    done = call("--kernel", "fib")
    assert (done.exit_code, done.stderr) == (0, "")
    head, figures, *_ = done.stdout.splitlines()
    assert head.startswith("kernel") and figures.startswith("fib")
    for goal, bound in zip(GOALS, ("≤ 1.05", "≤ 1.10", "≤ 1.25", "≥ 8.00", "≥ 4.00"), strict=True):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(goal.title)]
        assert bound in line


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--kernel", "nix"], "there is no 'nix'; there are fib, gcd"),
        (["--rounds", "8"], "8 is not in the range x>=9"),
    ],
)
def test_wrong_options(arguments: list[str], complaint: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2 and done.stdout == ""
    assert complaint in done.stderr


def test_no_clang(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> toolchain.Toolchain:
        raise ToolError("no clang found", tool="clang")

    monkeypatch.setattr(toolchain, "find", missing)
    done = call("--json")
    assert done.exit_code == 1 and done.stdout == ""
    assert "pip install 'cnp[build]'" in done.stderr and len(done.stderr.splitlines()) == 1
