"""The complete examples of examples/: what they compute, on this machine and under qemu on all targets."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cnp
from cnp.assembler import Assembler
from cnp.foreign import Call, ForeignCode
from cnp.library import Library
from tests.conftest import VocabularyFile
from tests.support import every_target, need, runnable

EXAMPLES = Path(__file__).parents[1] / "examples"
COMPLETE = ("tiers", "forth", "regex")  #: each is a whole language in less than 250 lines
MOST_LINES = 250


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


tiers, forth, regex = (load_example(name) for name in COMPLETE)


@pytest.fixture(autouse=True)
def cache(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests build into a cache of their own."""
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_folder))


@pytest.mark.parametrize("name", COMPLETE)
def test_each_example_is_short(name: str) -> None:
    """Its C and its Python together."""
    lines = [len((EXAMPLES / f"{name}{suffix}").read_text().splitlines()) for suffix in (".c", ".py")]
    assert sum(lines) < MOST_LINES


# ---- tiers: interpreted, compiled in the middle of a hot loop, left on overflow

TIERS = """
fun triangle n | total is
    0 -> total
    while 0 n < do total n + -> total n 1 - -> n end
    total
end
fun twice n is n triangle n triangle + end
fun fib n is n 2 < if n else n 1 - fib n 2 - fib + end end
fun power base n | value is
    1 -> value
    while 0 n < do value base * -> value n 1 - -> n end
    value
end
fun endless n is n endless end
"""


def test_tiers_stay_in_the_interpreter_while_it_is_cold() -> None:
    machine = tiers.Machine(TIERS)
    assert machine.run("triangle", 100) == 5050
    assert machine.run("fib", 15) == 610
    assert machine.run("power", -3, 5) == -243
    assert machine.moves == []


def test_tiers_compile_in_the_middle_of_a_hot_loop() -> None:
    machine = tiers.Machine(TIERS)
    assert machine.run("triangle", 60_000) == 1_800_030_000
    assert machine.moves == ["loop"]


def test_tiers_leave_on_overflow_and_go_on_with_doubles() -> None:
    machine = tiers.Machine(TIERS)
    result = machine.run("triangle", 100_000)
    assert (result, type(result)) == (5_000_050_000, float)
    assert machine.moves == ["loop", "add"]
    assert machine.run("power", 3, 30) == 3**30


def test_tiers_compile_a_callee_whose_caller_is_interpreted() -> None:
    """The caller waits in the interpreter, whichever tier its callee returns from."""
    machine = tiers.Machine(TIERS)
    assert machine.run("twice", 40_000) == 2 * 800_020_000
    assert machine.moves == ["loop", "loop"]
    machine.moves.clear()
    assert machine.run("twice", 70_000) == 2 * 2_450_035_000
    assert machine.moves == ["loop", "add", "loop", "add"]


def test_tiers_say_what_is_wrong() -> None:
    machine = tiers.Machine(TIERS)
    with pytest.raises(RecursionError, match="endless calls too deep"):
        machine.run("endless", 1)
    with pytest.raises(OverflowError):
        machine.run("fib", 1 << 31)
    for text, message in {
        "fun f is end": "f ends with 0 values",
        "fun f is 1 + end": "more values than there are",
        "1 fun f is 1 end": "begins with `fun`",
    }.items():
        with pytest.raises(SyntaxError, match=message):
            tiers.Machine(text)


def test_tiers_go_on_compiled_only_at_entries() -> None:
    machine = tiers.Machine(TIERS)
    frame = machine.vocabulary.frame(10_000)
    frame[0], frame[8] = tiers.boxed(1 << 30), tiers.boxed(1)
    out = machine.code["twice"].run({"heat": 1 << 62}, frame)
    assert out.exited
    with pytest.raises(cnp.LabelError, match="add is no entry"):
        machine.code.interpreter.resume(out, compiled=True)
    assert machine.code.interpreter.resume(out, fuel=1).kind == "trap"


@every_target
def test_tiers_on_every_target(target: str, vocabulary_file: VocabularyFile) -> None:
    """The same moves under qemu: into the loop, out of it, on to the same end."""
    runnable(target)
    library = Library.load(vocabulary_file(EXAMPLES / "tiers.c", target))
    assembler = Assembler(library)
    tiers.Compiler(assembler).compile(TIERS)
    code = ForeignCode(assembler.close())

    def call(name: str, argument: int) -> Call:
        word = tiers.boxed(argument).to_bytes(8, library.target.byteorder)
        return Call(name, {"heat": tiers.HOT}, word, depth=100, interpret=True)

    def run(name: str, argument: int) -> tuple[object, list[str]]:
        outcome, moves = code.run([call(name, argument)]), []
        while outcome.results[0].exited:
            moves.append(code.program.ops[outcome.results[0].op].operation.name)
            outcome = code.resume(outcome, compiled=moves[-1] == "loop")
        return tiers.unboxed(outcome.results[0].value), moves

    assert run("fib", 15) == (610, [])
    assert run("triangle", 100_000) == (5_000_050_000, ["loop", "add"])
    assert run("twice", 40_000) == (1_600_040_000, ["loop", "loop"])


# ---- forth: each word is compiled as it is defined

FORTH = """
variable total
: sum ( n -- ) 0 total ! 1 + 0 do i total @ + total ! loop ;
: fib dup 2 < if else dup 1 - recurse swap 2 - recurse + then ;
: down begin dup while dup . 1 - repeat drop ;
: up 0 begin 1 + dup . dup 3 = until drop ;
: table 4 1 do 4 1 do i j * . loop cr loop ;
: main 100 sum total @ . 20 fib . -42 . 3 down up ." | " 7 2 mod -9 2 / . . cr table ; \\ this is shown
"""
SAYS = "5050 6765 -42 3 2 1 1 2 3 | -4 1 \n1 2 3 \n2 4 6 \n3 6 9 \n"


@pytest.fixture
def system() -> tuple[Any, list[int]]:
    """A Forth and what it emits."""
    said: list[int] = []

    def out(byte: int) -> int:
        said.append(byte)
        return 0

    return forth.Forth(out), said


def test_forth_runs_what_it_defines(system: tuple[Any, list[int]]) -> None:
    machine, said = system
    machine.eval(FORTH)
    assert said == []
    machine.eval("main")
    assert bytes(said).decode() == SAYS
    machine.eval("1 2 3 rot over xor invert")
    assert machine.stack == [2, 3, ~(1 ^ 3)]


def test_forth_words_keep_what_they_were_defined_with(system: tuple[Any, list[int]]) -> None:
    machine, _ = system
    machine.eval(": a 1 ; : b a a + ; : a 10 ; a b")
    assert machine.stack == [10, 2]


def test_forth_agrees_with_the_interpreter_of_its_words(system: tuple[Any, list[int]]) -> None:
    """A word as its interpreter runs it, the words that it calls compiled."""
    machine, _ = system
    machine.eval(": f dup 3 mod 0 = if 2 * else 7 + then ; : g 20 0 do f loop ; 5 g")
    expected, value = 5, 5
    for _ in range(20):
        expected = expected * 2 if expected % 3 == 0 else expected + 7
    assert machine.stack == [expected]
    frame = machine.vocabulary.frame(8 * forth.FRAME)
    machine.memory[forth.MARGIN + 1] = value
    limits = {"sp": machine.low + 16, "low": machine.low, "high": machine.low + 8 * forth.ROOM}
    out = dict(machine.words)["f"].interpreter.run("word", limits, frame)
    assert (out.value, machine.memory[forth.MARGIN + 1]) == (machine.low + 16, 12)


@pytest.mark.parametrize(
    ("text", "code"), [("1 0 /", 2), ("drop drop negate", 4), (": pour begin 1 0 until ; pour", 4), (": x recurse ; x", 5)]
)  # fmt: skip
def test_forth_traps(system: tuple[Any, list[int]], text: str, code: int) -> None:
    machine, _ = system
    with pytest.raises(cnp.TrapError) as raised:
        machine.eval(text)
    assert (raised.value.code, machine.stack) == (code, [])
    machine.eval("1 2 +")
    assert machine.stack == [3]


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 then", "nothing is open"), ("1 if", "'then' is missing"), ("i", "0 counted loops"), ("1 " * 512, "too long")],
)  # fmt: skip
def test_forth_refuses(system: tuple[Any, list[int]], text: str, message: str) -> None:
    with pytest.raises(SyntaxError, match=message):
        system[0].eval(text)


def test_forth_names_unknown_words(system: tuple[Any, list[int]]) -> None:
    with pytest.raises(cnp.SymbolError) as raised:
        system[0].eval(": f nowhere noplace ;")
    assert set(raised.value.symbols) == {"nowhere", "noplace"}


@every_target
def test_forth_on_every_target(target: str, vocabulary_file: VocabularyFile) -> None:
    """The same words as functions of one program, compiled and interpreted."""
    runnable(target)
    library = Library.load(vocabulary_file(EXAMPLES / "forth.c", target))
    assembler = Assembler(library)
    words = {}
    for name, body in forth.definitions(forth.PRELUDE + FORTH):
        if name:
            words[name] = assembler.function(name, forth.FRAME)
            forth.Compiler(assembler, name, words.__getitem__).compile(body)
    code = ForeignCode(assembler.close())
    memory = bytes(8 * 2 * forth.MARGIN)
    low = code.area_addresses([len(memory)])[0] + 8 * forth.MARGIN
    state = {"sp": low + 8, "low": low, "high": low + 8 * 512}
    calls = [Call("main", state, depth=100, interpret=way) for way in (False, True)]
    outcome = code.run(calls, memory=[memory])
    assert [result.value for result in outcome.results] == [low + 8] * 2
    assert outcome.stdout.decode() == SAYS * 2


# ---- regex: patterns as native matchers, held against Python's

PATTERNS = [
    rb"(\w+)@(\w+\.com)", rb"a{2,3}b?c*?$", rb"(a|ab)(c|bcd)(d*)", rb"(a*)*b", rb"[^a-c]+[]x-]", rb"(?:(a)|b)*", rb"^a{2}",
    rb"a{,2}b", rb"(a{2,}?)(a*)", rb"\d+\.\d*|\s\S", rb"x*", rb"(a+|b)*?c", rb"a\.b\n|\W$", rb".{3}",
]  # fmt: skip
TEXTS = [
    b"",
    b"mail me@here.com!",
    b"xaaab\n",
    b"abcd",
    b"aaaab",
    b"defx]",
    b"ab",
    b"abc\n",
    b"12.5 \xffx",
    b"a.b\nc",
]


def spans(found: re.Match[bytes] | None) -> tuple[tuple[int, int], ...] | None:
    return None if found is None else tuple(found.span(group) for group in range(1 + (found.re.groups)))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_regex_matches_what_re_matches(pattern: bytes) -> None:
    """All groups, from everywhere."""
    ours, theirs = regex.Regex(pattern), re.compile(pattern)
    for text in TEXTS:
        assert ours.search(text) == spans(theirs.search(text)), text
        assert ours.match(text) == spans(theirs.match(text)), text


@st.composite
def patterns(draw: st.DrawFn, depth: int = 3) -> str:
    """A pattern of a, b and c. What is repeated matches at least one byte: there Python's groups have their quirks."""
    if depth == 0:
        return draw(st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\w"]))
    parts = [draw(patterns(depth - 1)) for _ in range(draw(st.integers(1, 3)))]
    match draw(st.sampled_from(["all", "any", "repeat", "group"])):
        case "any":
            return f"(?:{'|'.join(parts)})"
        case "repeat":
            return f"(?:b{parts[0]})" + draw(
                st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{,2}?", "{1,}"])
            )
        case "group":
            return f"({''.join(parts)})"
    return "".join(parts)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patterns(), st.lists(st.text("abc\n", max_size=20), min_size=1, max_size=5))
def test_regex_on_random_patterns(pattern: str, texts: list[str]) -> None:
    ours, theirs = regex.Regex(pattern.encode()), re.compile(pattern.encode())
    for text in texts:
        assert ours.search(text.encode()) == spans(theirs.search(text.encode()))


def test_regex_makes_room_for_its_ways_back() -> None:
    text = b"ab" * 50_000
    assert regex.Regex(rb"(?:a|b)*c|(?:ab)*$").match(text) == ((0, 100_000),)


@pytest.mark.parametrize("pattern", [b"(a", b"a)", b"*a", b"[a", b"a{2", b"\\"])
def test_regex_refuses(pattern: bytes) -> None:
    with pytest.raises(ValueError, match=r"too early|no end|unbalanced|nothing to repeat"):
        regex.Regex(pattern)


@every_target
def test_regex_on_every_target(target: str, vocabulary_file: VocabularyFile) -> None:
    runnable(target)
    library = Library.load(vocabulary_file(EXAMPLES / "regex.c", target))
    order: Literal["big", "little"] = "big" if library.target.byteorder == "big" else "little"
    for pattern in PATTERNS[:6]:
        assembler = Assembler(library)
        compiler = regex.Compiler(assembler, pattern)
        compiler.compile()
        code = ForeignCode(assembler.close())
        memory = [b"".join(TEXTS), b"\xff" * 8 * compiler.marks * len(TEXTS), bytes(16 * 1000)]
        text_at, marks_at, undo = code.area_addresses([len(area) for area in memory])
        calls, at = [], 0
        for number, text in enumerate(TEXTS):
            marks = marks_at + 8 * compiler.marks * number
            slots = [text_at + at, len(text), 0, marks, len(text)]
            state = {"undo": undo, "full": undo + 16 * 1000}
            calls.append(Call("search", state, b"".join(word.to_bytes(8, order) for word in slots)))
            at += len(text)
        outcome = code.run(calls, memory=memory)
        for number, (text, result) in enumerate(zip(TEXTS, outcome.results, strict=True)):
            found = outcome.memory[1][8 * compiler.marks * number :][: 16 * (1 + compiler.groups)]
            ends = [int.from_bytes(found[at : at + 8], order, signed=True) for at in range(0, len(found), 8)]
            pairs = tuple(zip(ends[::2], ends[1::2], strict=True))
            assert (pairs if result.value else None) == spans(re.search(pattern, text)), (pattern, text)
