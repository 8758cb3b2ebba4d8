"""Which bodies call helpers, what the helpers' prototypes are, and which answers a body gives: read off clang's IR.

An operation that calls a helper must look afterwards whether the helper wants to leave (a Python exception). The
others must not pay for that. What a body never answers need not be compiled in its thousands of stencils.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cnp.build import supers
from cnp.build.discover import Declaration, Source
from cnp.build.toolchain import Toolchain
from cnp.errors import BuildError, ToolError

#: A target on which IR says of each 32-bit argument whether it is signed.
TELLING = "--target=powerpc64le-unknown-linux-gnu"
NAME = r'@"?([\w.$]+)"?'
THREAD_LOCAL = re.compile(r'^@"?([\w.$]+)"? = .*\bthread_local\b', re.MULTILINE)
STATE_FAULT = re.compile(r"static assertion failed.*?: (state field .*)")
BY_ADDRESS = ""  #: what an indirect call calls, in a call graph
#: Answers that few bodies give: kinds of cnp.h.
RARE = ("CNP_EXIT", "CNP_UNWIND", "CNP_TABLE", "CNP_RETURN", "CNP_TRAP")
ANSWER = re.compile(r"\bcall void @(CNP_[A-Z]+)_of_(\w+)\(")
ASKED = re.compile(r"^define [^\n]*@cnp_answers_(\w+)\([^\n]*\n(.*?)^}", re.MULTILINE | re.DOTALL)
#: Begins the symbols that are left where a stencil does what was found impossible here.
UNFORESEEN = "cnp.unforeseen"
STATE = re.compile(r"%0\b")  #: the parameter of a question that is the state


@dataclass(frozen=True, slots=True)
class Helpers:
    """callers: bodies (`mul`, `mul_slow`) that call a helper. signatures: helper -> C text such as
    `int64_t(void *, uint32_t)`. natives: bodies that make native calls. answers: body -> those of RARE that clang does not
    see to be impossible. stateful: bodies that look at the state, or at what hangs on it."""

    callers: frozenset[str]
    signatures: dict[str, str]
    natives: frozenset[str]
    answers: dict[str, frozenset[str]]
    stateful: frozenset[str]


def find(source: Source, toolchain: Toolchain, machine: list[str], flags: list[str]) -> Helpers:
    """Compile one probe for each body and follow the calls; then judge the super-operations. machine: flags for the target
    whose answers are asked for."""
    ir = ir_of(source, toolchain, probe_source(source), [*flags, "-Xclang", "-disable-llvm-passes"])
    if variable := THREAD_LOCAL.search(ir):
        what = "code that is copied cannot reach it; keep it in a cell, a slot, the context's `user`, or behind a helper"
        raise BuildError(f"{variable[1]!r} is thread-local: {what}", op="", line=0, target="")
    graph, declared = call_graph(ir)
    bodies = [name for name, _ in bodies_of(source)]
    outside = {*declared, BY_ADDRESS}
    callers = frozenset(name for name in bodies if reaches(graph, f"cnp_probe_{name}", outside))
    natives = frozenset(name for name in bodies if reaches(graph, f"cnp_probe_{name}", {"cnp_native_call"}))
    if supers.supers(source):
        judged = ir_of(source, toolchain, opening(source) + supers.probes(source), [*flags, "-O2"])
        supers.judge(source, judged, callers, natives)
    return Helpers(callers, declared, natives, *answers_of(source, toolchain, [*machine, *flags]))


def answers_of(
    source: Source, toolchain: Toolchain, flags: list[str]
) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """What `Helpers` says of answers and of the state, from what clang makes of the question."""
    ir = ir_of(source, toolchain, opening(source) + answer_source(source), [*flags, "-Os"])
    answers: dict[str, set[str]] = {name: set() for name, _ in bodies_of(source)}
    for kind, name in ANSWER.findall(ir):
        answers[name].add(kind)
    stateful = {name for name, text in ASKED.findall(ir) if STATE.search(text)}
    return {name: frozenset(kinds) for name, kinds in answers.items()}, frozenset(stateful)


def ir_of(source: Source, toolchain: Toolchain, text: str, flags: list[str]) -> str:
    """clang's IR of a text that includes the source."""
    try:
        return toolchain.compile(
            TELLING, *flags, "-std=gnu2x", "-ffreestanding", "-Wno-everything", "-emit-llvm", "-S", "-x", "c", "-",
            "-o", "-", text=text, cwd=source.path.resolve().parent,
        )  # fmt: skip
    except ToolError as error:
        fault = STATE_FAULT.search(error.message)
        raise BuildError(fault[1] if fault else error.message, op="", line=0, target="") from error


def opening(source: Source) -> str:
    """The source, with native calls that show in the IR."""
    return f"""#include "{source.path.name}"
cnp_word cnp_native_call(cnp_state *s, cnp_func f, void *b);
CNP_INLINE cnp_word cnp_call(cnp_state *s, cnp_func f, void *b) {{ return cnp_native_call(s, f, b); }}
{state_checks(source)}
{supers.definitions(source)}
"""


def state_checks(source: Source) -> str:
    """C text that does not compile for state fields which are no words."""
    return "\n".join(
        f"_Static_assert(sizeof({ctype}) <= 8 && __builtin_classify_type(*(__typeof__({ctype}) *)0) < 12, "
        f"\"state field '{name}' is a {ctype}, which is no word: integers, floats and pointers of at most 8 bytes are\");"
        for ctype, name in source.state
    )


def bodies_of(source: Source) -> Iterator[tuple[str, Declaration]]:
    """The functions that answer what happens next, with the declaration of each."""
    for item in source.declarations:
        if item.kind in ("op", "slow"):
            yield item.name, item
        if item.kind == "slow":
            yield f"{item.name}_slow", item


def probe_source(source: Source) -> str:
    """A function for each body that does nothing but call it."""
    lines = [
        opening(source),
        "cnp_word cnp_native_call(cnp_state *s, cnp_func f, void *b) { return (cnp_word){0}; }",
    ]
    for name, item in bodies_of(source):
        lines.append(
            f"cnp_go cnp_probe_{name}(cnp_state *s{supers.parameters(item.operands)}) {{ return {call(name, item)}; }}"
        )
    return "\n".join(lines) + "\n"


def call(name: str, item: Declaration) -> str:
    """C text of the call of a body with the parameters that its probe has."""
    return f"{name}(s{''.join(f', a{n}' for n in range(len(item.operands)))})"


def answer_source(source: Source) -> str:
    """A function for each body that calls a mark for each of its rare answers."""
    lines = ["cnp_go cnp_answer;"]
    for name, item in bodies_of(source):
        marks = "".join(f" case {kind}: {kind}_of_{name}(); break;" for kind in RARE)
        lines += [f"void {kind}_of_{name}(void);" for kind in RARE]
        lines.append(
            f"void cnp_answers_{name}(cnp_state *s{supers.parameters(item.operands)}) {{"
            f" cnp_answer = {call(name, item)}; switch (CNP_KIND(cnp_answer)) {{{marks} }} }}"
        )
    return "\n".join(lines) + "\n"


def call_graph(ir: str) -> tuple[dict[str, set[str]], dict[str, str]]:
    """Function -> functions it calls, BY_ADDRESS among them; declared function -> its C signature. Intrinsics do not
    count."""
    graph: dict[str, set[str]] = {}
    declared: dict[str, str] = {}
    current = ""
    for line in ir.splitlines():
        if line.startswith("define") and (found := re.search(NAME + r"\(", line)):
            current = found[1]
            graph[current] = set()
        elif line.startswith("declare") and (found := re.search(rf"declare (.*?){NAME}\((.*)\)", line)):
            if not found[2].startswith("llvm."):
                declared[found[2]] = signature(found[1], found[3])
        elif current and (found := re.search(rf"\bcall\b[^@]*{NAME}\(", line)):
            graph[current].add(found[1])
        elif current and re.search(r"\bcall\b[^@\"]*%[\w.]+\(", line):
            graph[current].add(BY_ADDRESS)
    return graph, declared


def signature(result: str, arguments: str) -> str:
    """C text from IR types."""
    types = [ctype(part) for part in arguments.split(",")] if arguments else []
    return f"{ctype(result)}({', '.join(types)})"


def ctype(text: str) -> str:
    """One IR type with its attributes as C text. Two words returned together are not a helper's type."""
    words = text.split()
    base = next((w for w in words if re.fullmatch(r"void|ptr|float|double|i\d+|\.\.\.", w)), "")
    names = {"void": "void", "ptr": "void *", "float": "float", "double": "double"}
    if base in names:
        return names[base]
    if found := re.fullmatch(r"i(\d+)", base):
        bits = "8" if found[1] == "1" else found[1]
        return f"{'u' if 'zeroext' in words else ''}int{bits}_t"
    return "?"


def reaches(graph: dict[str, set[str]], start: str, wanted: set[str]) -> bool:
    seen, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name in wanted:
            return True
        if name not in seen:
            seen.add(name)
            todo += graph.get(name, ())
    return False
