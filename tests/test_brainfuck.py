"""Brainfuck: programs that nobody here wrote, errors with their places, Ctrl-C, fuel, random programs, all targets."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from cnp import brainfuck, targets
from cnp.brainfuck import Linked, SourceError, TapeError
from cnp.brainfuck.parse import Loop, Multiply, Scan, Segment, parse
from cnp.errors import CnpError
from tests.support import best_of, every_target, need, runnable

compiled_and_interpreted = pytest.mark.parametrize(
    "interpret", [False, True], ids=["compiled", "interpreted"]
)

# ---- outside programs

ORIGINAL = "github.com/rdebath/Brainfuck, folder testing"
SLOW = ("Counter", "Collatz", "Mandelbrot", "Long", "Factor")  # seconds each in an emulator


def programs() -> list[Path | None]:
    """The programs, the slow ones first so that parallel workers end together; [None] if there are none."""
    folder = os.environ.get("CNP_SUITES")
    found = sorted(Path(folder, "brainfuck").glob("*.b")) if folder else []
    return [*sorted(found, key=lambda path: path.stem not in SLOW)] or [None]


def name_of(value: object) -> str | None:
    return value.stem if isinstance(value, Path) else "none" if value is None else None


def expected(program: Path | None) -> tuple[str, bytes, bytes]:
    """Source, input and output of a program of the suite."""
    if program is None:
        if "CNP_SUITES" in os.environ:
            pytest.fail(f"CNP_SUITES is {os.environ['CNP_SUITES']}, which has no brainfuck/*.b ({ORIGINAL})")
        pytest.skip(f"set CNP_SUITES to a folder with brainfuck/*.b, .in and .out, as in {ORIGINAL}")
    given = program.with_suffix(".in")
    source = brainfuck.read_source(program)
    return source, given.read_bytes() if given.exists() else b"", program.with_suffix(".out").read_bytes()


@pytest.mark.parametrize("program", programs(), ids=name_of)
@every_target
def test_outside_programs(target: str, program: Path | None) -> None:
    source, given, output = expected(program)
    runnable(target)
    assert brainfuck.run(source, given, target) == output


@pytest.mark.parametrize("program", [p for p in programs() if p is None or p.stem not in SLOW], ids=name_of)
@every_target
def test_outside_programs_interpreted(target: str, program: Path | None) -> None:
    source, given, output = expected(program)
    runnable(target)
    assert brainfuck.run(source, given, target, interpret=True) == output


def test_the_example() -> None:
    """examples/residues.b prints what its first line says."""
    example = Path(__file__).parents[1] / "examples" / "residues.b"
    need(example.exists(), "examples/residues.b comes with the sources")
    rows = range(2, 58)
    squares = {p: {x * x % p for x in range(p)} for p in rows}
    picture = "".join("".join("#" if a in squares[p] else "." for a in range(p)) + "\n" for p in rows)
    assert brainfuck.run(brainfuck.read_source(example)) == picture.encode()


# ---- errors say where

ERRORS = [  # source, cells, line, column, cell
    ("+\n <", 4, 2, 2, -1),
    (">>>>", 4, 1, 4, 4),
    ("><<>", 4, 1, 3, -1),  # there and back again
    ("a comment\n\n>>>> >", 5, 3, 6, 5),
    ("+>+>+>+[>]", 4, 1, 9, 4),  # scans
    ("+>>+<<[>>]", 3, 1, 8, 3),
    ("+>>+<<[>>]", 4, 1, 9, 4),
    ("+[<]", 4, 1, 3, -1),
    (">+[\n<<]", 4, 2, 2, -1),
    ("+[<>>]", 4, 1, 3, -1),
    ("+[>>><]", 3, 1, 5, 3),
    ("+[-<+>]", 4, 1, 4, -1),  # multiply loops
    ("+[->>>+<<<]", 3, 1, 6, 3),
    ("+[->>>><<<<]", 3, 1, 6, 3),
    ("+[-<+>]>>>>", 2, 1, 4, -1),
    ("[-<+>]<", 4, 1, 7, -1),
    ("+[>+]", 3, 1, 3, 3),  # any other loop
    ("++[>+++[-<<+>>]<-]", 4, 1, 11, -1),
]


@pytest.mark.parametrize(("source", "cells", "line", "column", "cell"), ERRORS)
@compiled_and_interpreted
@every_target
def test_leaving_the_tape(
    target: str, interpret: bool, source: str, cells: int, line: int, column: int, cell: int
) -> None:
    runnable(target)
    with pytest.raises(TapeError) as caught:
        brainfuck.run(source, target=target, interpret=interpret, cells=cells)
    error = caught.value
    assert (error.line, error.column, error.cell) == (line, column, cell)
    assert str(error) == f"line {line}, column {column}: the pointer leaves the tape (cell {cell} of {cells})"


@pytest.mark.parametrize("source", ["[-<+>]", "[->>>>+<<<<]", "[<]", ">>>[>]", "[<+]", "[->><<]"])
@compiled_and_interpreted
def test_loops_that_are_not_entered_go_nowhere(source: str, interpret: bool) -> None:
    assert brainfuck.run(source, interpret=interpret, cells=4) == b""


@pytest.mark.parametrize(
    ("source", "line", "column", "bracket"),
    [("]", 1, 1, "]"), ("+[\n>]\n ]", 3, 2, "]"), ("[[]", 1, 1, "["), ("ok [\n  [-] [", 2, 7, "[")],
)
def test_unmatched_brackets(source: str, line: int, column: int, bracket: str) -> None:
    with pytest.raises(
        SourceError, match=rf"^line {line}, column {column}: \{bracket} has no partner$"
    ) as caught:
        brainfuck.run(source)
    assert (caught.value.line, caught.value.column) == (line, column)


# ---- input, output, limits


@compiled_and_interpreted
@every_target
def test_input_at_its_end_gives_zero(target: str, interpret: bool) -> None:
    runnable(target)
    assert brainfuck.run(",.,.+++,.", b"A\xff", target, interpret) == b"A\xff\x00"


class Keyboard(io.BytesIO):
    """Notes what had been written whenever something is read."""

    def __init__(self, data: bytes, screen: io.BytesIO) -> None:
        super().__init__(data)
        self.screen, self.seen = screen, [b""]

    def read(self, size: int | None = -1) -> bytes:
        self.seen.append(self.screen.getvalue())
        return super().read(size)


def test_output_is_written_before_input_is_read_and_at_the_end_of_a_line() -> None:
    screen = io.BytesIO()
    keyboard = Keyboard(b"\n?", screen)
    Linked(",.,.").run(keyboard, screen)
    assert keyboard.seen == [b"", b"", b"\n"]
    assert screen.getvalue() == b"\n?"


@compiled_and_interpreted
def test_what_was_written_before_an_error_is_written(interpret: bool) -> None:
    screen = io.BytesIO()
    with pytest.raises(TapeError):
        Linked("+.<", interpret=interpret).run(io.BytesIO(), screen)
    assert screen.getvalue() == b"\x01"


class Full(io.BytesIO):
    def write(self, data: object) -> int:
        raise OSError(28, "No space left on device")


@compiled_and_interpreted
def test_an_output_that_fails_ends_the_program(interpret: bool) -> None:
    with pytest.raises(OSError, match="No space left"):
        Linked("++++++++++[.]", interpret=interpret).run(io.BytesIO(), Full())


@compiled_and_interpreted
@every_target
def test_fuel(target: str, interpret: bool) -> None:
    """Five rounds go back four times."""
    runnable(target)
    assert brainfuck.run("+++++[>.<-]", target=target, interpret=interpret, fuel=4) == bytes(5)
    with pytest.raises(CnpError, match="out of fuel") as caught:
        brainfuck.run("+++++[>.<-]", target=target, interpret=interpret, fuel=3)
    assert caught.value.result.code == 6


INTERRUPTED = """
import os, signal, sys, threading, time
from cnp.brainfuck import Linked
program = Linked("+[]", interpret={interpret})
def press():
    global pressed
    time.sleep(0.2)
    pressed = time.perf_counter()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=press).start()
try:
    program.run(sys.stdin.buffer, sys.stdout.buffer)
except KeyboardInterrupt:
    print(time.perf_counter() - pressed)
"""


@compiled_and_interpreted
def test_interrupt_within_50_ms(interpret: bool) -> None:
    script = [sys.executable, "-c", INTERRUPTED.format(interpret=interpret)]
    path = str(Path(brainfuck.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": path}

    def latency() -> float:
        done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True, env=environment)
        return float(done.stdout)

    assert best_of(latency, below=0.05) < 0.05


def test_brackets_nest_deeper_than_python() -> None:
    deep = 20_000
    assert brainfuck.run("+" + "[" * deep + "-" + "]" * deep + ".") == b"\0"


# ---- what loops become


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("[>>]", Scan), ("[<]", Scan), ("[+>-<->+]", Scan), ("[>><]", Loop), ("[<>>]", Loop), ("[>+]", Loop), ("[]", Loop),
        ("[.]", Loop), ("[--]", Loop), ("[-[-]]", Loop),
    ],
)  # fmt: skip
def test_kinds_of_loops(source: str, kind: type) -> None:
    (node,) = parse(source)
    assert isinstance(node, kind)


@pytest.mark.parametrize(
    ("source", "factors"),
    [
        ("[->+<]", {1: 1}),
        ("[->++<<->]", {1: 2, -1: 255}),
        ("[+>+<]", {1: 255}),
        ("[>+<-]", {1: 1}),
        ("[-+->+<]", {1: 1}),
    ],
)
def test_multiply_loops(source: str, factors: dict[int, int]) -> None:
    (node,) = parse(source)
    assert isinstance(node, Segment) and isinstance(node.steps[0], Multiply)
    assert node.steps[0].factors == factors


# ---- random programs

End = tuple[bytes, int, int] | tuple[bytes, None, None]


def reference(source: str, given: bytes, cells: int, most: int = 20_000) -> End | None:
    """Output, and position and cell where the pointer left the tape; None for a program that takes too long."""
    partner, stack = {}, []
    for position, command in enumerate(source):
        if command == "[":
            stack.append(position)
        elif command == "]":
            partner[position] = stack.pop()
            partner[partner[position]] = position
    tape, pointer, at, rest, output = bytearray(cells), 0, 0, iter(given), bytearray()
    for _ in range(most):
        if at == len(source):
            return bytes(output), None, None
        command = source[at]
        if command in "<>":
            pointer += 1 if command == ">" else -1
            if not 0 <= pointer < cells:
                return bytes(output), at, pointer
        elif command in "+-":
            tape[pointer] = tape[pointer] + (1 if command == "+" else -1) & 255
        elif command == ".":
            output.append(tape[pointer])
        elif command == ",":
            tape[pointer] = next(rest, 0)
        elif (command == "[") == (tape[pointer] == 0):
            at = partner[at]
        at += 1
    return None


plain = st.text("+-<>", max_size=6)
idioms = st.sampled_from(
    ["[-]", "[->+<]", "[>]", "[<]", "[->+<-]", "[-<<+>>]", "[>>]", "[+>-<]", "[->><<]", "[-<>]"]
)
sources = st.recursive(
    st.one_of(plain, idioms, st.text("+-<>.,", max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map("".join),
        inner.map(lambda body: f"[{body}]"),
        inner.map(lambda body: f"[-{body}]"),
    ),
    max_leaves=12,
)


def agrees(source: str, given: bytes, cells: int, target: str, interpret: bool) -> None:
    """A run ends as in the reference."""
    wanted = reference(source, given, cells)
    assume(wanted is not None)
    screen = io.BytesIO()
    position = cell = None
    try:
        Linked(source, target, interpret).run(io.BytesIO(given), screen, cells)
    except TapeError as error:
        position, cell = error.column - 1, error.cell
    assert (screen.getvalue(), position, cell) == wanted


cases = given(sources, st.binary(max_size=4), st.integers(1, 8))


@compiled_and_interpreted
@cases
@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_programs_here(interpret: bool, source: str, given: bytes, cells: int) -> None:
    agrees(source, given, cells, "host", interpret)


@pytest.mark.parametrize("target", [name for name in targets.TARGETS if name != targets.host_name()])
@compiled_and_interpreted
@cases
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_programs_there(target: str, interpret: bool, source: str, given: bytes, cells: int) -> None:
    runnable(target)
    agrees(source, given, cells, target, interpret)
