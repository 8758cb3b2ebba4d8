"""cnp bench ebpf: the programs of examples/ebpf against references in Python, here and on every target, and what the command
prints."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from cnp import targets
from cnp.bench import ebpf
from cnp.bench.ebpf import Contest, Figure, Row
from cnp.ebpf import Program
from cnp.ebpf.isa import decode, whole
from cnp.ebpf.there import Task, run_all
from cnp.errors import CnpError
from tests.support import need, runnable

click_testing = pytest.importorskip("click.testing")

from cnp.cli import cli  # noqa: E402

COLUMNS = [
    "program", "insns", "native_ns", "jit_ns", "jit_checked_ns", "interpreter_ns", "compile_ns_per_insn",
    "code_bytes_per_insn",
]  # fmt: skip
WORD = (1 << 64) - 1
FOREIGN = [name for name in targets.TARGETS if name != targets.host_name()]


@pytest.fixture(autouse=True)
def compiler() -> None:
    need(importlib.util.find_spec("ziglang") is not None, "clang of the ziglang wheel compiles C to BPF")


# ---- what the programs compute, in Python


def prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, n))


def fnv1a(memory: bytes) -> int:
    value = 14695981039346656037
    for byte in memory:
        value = (value ^ byte) * 1099511628211 & WORD
    return value


def steps(n: int) -> int:
    return 0 if n == 1 else 1 + steps(3 * n + 1 if n % 2 else n // 2)


def product(memory: bytes) -> int:
    words = struct.unpack(f"<{len(memory) // 8}Q", memory)
    n = max(n for n in range(len(words)) if 3 * n * n <= len(words))
    a, b = words[: n * n], words[n * n : 2 * n * n]
    cells = ((i, j, k) for i in range(n) for j in range(n) for k in range(n))
    return int(sum(a[n * i + k] * b[n * k + j] for i, j, k in cells)) & WORD


def xorshift(memory: bytes) -> int:
    x, count = struct.unpack("<QQ", memory)
    total = 0
    for _ in range(count):
        x ^= x >> 12
        x ^= x << 25 & WORD
        x ^= x >> 27
        total += x * 2685821657736338717
    return total & WORD


def first(memory: bytes) -> int:
    return int.from_bytes(memory[:8], "little")


REFERENCES: dict[str, Callable[[bytes], int]] = {
    "primes": lambda memory: sum(map(prime, range(first(memory)))),
    "fnv1a": fnv1a,
    "sieve": lambda memory: sum(map(prime, range(len(memory)))),
    "collatz": lambda memory: sum(map(steps, range(1, first(memory) + 1))),
    "matrix": product,
    "xorshift": xorshift,
}
SMALL = {
    "primes": struct.pack("<Q", 60),
    "fnv1a": bytes(range(100)),
    "sieve": bytes(130),
    "collatz": struct.pack("<Q", 30),
    "matrix": bytes(range(200)) + bytes(40),
    "xorshift": struct.pack("<QQ", 88172645463325252, 40),
}


def test_every_program_has_a_reference() -> None:
    assert list(REFERENCES) == list(SMALL) == list(ebpf.memories())
    names = {path.stem for path in ebpf.folder().glob("*.c")}
    assert names == {*REFERENCES, ebpf.FILTER}


@pytest.mark.parametrize("name", list(REFERENCES))
def test_programs_here(name: str, tmp_path: Path) -> None:
    """All ways agree with each other, which check() sees to, and one with the reference."""
    contest = Contest(name, SMALL[name], tmp_path)
    contest.check()
    assert contest.ways["jit"](bytearray(SMALL[name])) == REFERENCES[name](SMALL[name])
    contest.ways["native"] = lambda memory: 5
    with pytest.raises(CnpError, match=f"{name}: jit gives .*, native 0x5"):
        contest.check()


@pytest.mark.parametrize("target", FOREIGN)
def test_programs_there(target: str, tmp_path: Path) -> None:
    runnable(target)
    programs = {name: Program(ebpf.to_bpf(name, tmp_path)) for name in REFERENCES}
    tasks = [
        Task(programs[name], SMALL[name], unchecked=unchecked)
        for name in SMALL
        for unchecked in (False, True)
    ]
    wanted = [REFERENCES[name](SMALL[name]) for name in SMALL for _ in range(2)]
    assert [end[0] if isinstance(end, tuple) else end for end in run_all(tasks, target)] == wanted


def test_the_packet_filter(tmp_path: Path) -> None:
    run = Program(ebpf.to_bpf(ebpf.FILTER, tmp_path)).compile()
    good = ebpf.frame(53)
    assert [run(ebpf.frame(port)) for port in (53, 80, 443, 54, 0)] == [1, 1, 1, 0, 0]
    for at, value in ((12, 0x86), (14, 0x65), (14, 0x44), (20, 1), (23, 1)):  # other protocols, a fragment
        changed = bytearray(good)
        changed[at] = value
        assert run(changed) == 0
    assert [run(good[:size]) for size in range(len(good) + 1)] == [0] * 38 + [1] * 17


def test_programs_that_are_only_compiled() -> None:
    small = ebpf.small()
    assert ebpf.count(small) == len(small) // 8 == 21
    total = 0
    for byte in b"cnp":
        total = (total + byte) * 31
        total ^= total >> 7
    low = (total + (total >> 32)) & 0xFFFFFFFF
    wanted = (total | low << 32) & 0x7FFFFFFF
    assert Program(small).compile()(b"cnp") == wanted
    whole_program = ebpf.large([small, bytes.fromhex("18000000010000000000000002000000 9500000000000000")])
    places = decode(whole_program)
    assert ebpf.count(whole_program) == len(list(whole(places))) >= ebpf.LARGE
    Program(whole_program)


# ---- the command


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ebpf, "memories", lambda: dict(SMALL))
    monkeypatch.setattr(ebpf, "LARGE", 200)
    monkeypatch.setattr(ebpf, "ROUND", 1)
    done = click_testing.CliRunner().invoke(cli, ["bench", "ebpf", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [row["program"] for row in rows] == [*SMALL, "filter", "small", "large"]
    for row in rows:
        assert list(row) == COLUMNS
        ran = row["program"] in SMALL
        assert all((row[name] is not None and row[name] > 0) == ran for name in COLUMNS[2:6])
        assert row["insns"] > 0 and row["compile_ns_per_insn"] > 0 and row["code_bytes_per_insn"] > 1
    assert rows[-1]["insns"] >= 200


def test_what_is_said_beside_the_goals(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("matrix", 20, 100, 150, 190, 1600, 30.0, 8.0)
    rows = [
        row,
        Row("small", 21, None, None, None, None, 2000.0, 20.0),
        Row("large", 20000, None, None, None, None, 39.0, 12.0),
    ]
    monkeypatch.setattr(ebpf, "run", lambda rounds: iter(rows))
    monkeypatch.setattr(ebpf, "call_ratio", lambda rounds: 5.5)
    said = click_testing.CliRunner().invoke(cli, ["bench", "ebpf"]).stdout
    for line in (
        "unchecked time / native time        1.50  ≤ 1.40  MISSED",
        "checked time / native time          1.90  ≤ 2.00  met",
        "interpreter time / unchecked time  10.67  ≥ 10.00  met",
    ):
        assert line in said
    states = [line.split()[-1] for line in said.splitlines() if " ≤ " in line]
    assert states == ["MISSED", "met", "met", "MISSED", "MISSED", "met"]
    assert "4,606" in said
    assert Figure("", 6.0, 6).met and not Figure("", 6.1, 6).met


def test_a_call_beside_one_of_cffi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ebpf, "CALLS", 200)
    assert ebpf.call_ratio(9) > 0
