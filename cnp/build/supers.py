"""Super-operations: the bodies of several operations as one, and the proof that nothing can be told from one by one.

    CNP_SUPER(load_add, load_local, add)      cnp_go load_add(cnp_state *s, u64 *a0) {
                                                  cnp_go go = load_local(s, a0);
                                                  if (go != NEXT) return go;
                                                  return add(s);
                                              }

Who leaves at an operation comes back to its beginning. So only the first part may leave: it is then as if it had been there
alone. What comes behind it may say NEXT, JUMP, JUMP_TABLE and RETURN, which clang has to prove: each later part is compiled
with a mark behind each answer that it must not give, and no mark may be left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnp.build.discover import VALUES_IN, Declaration, Source
from cnp.errors import BuildError
from cnp.stencil import Operand

#: What a later part must not say: a condition on the answer `go`, and how it is called in the source.
REFUSED = {
    "CNP_EXIT": "EXIT",
    "CNP_TRAP": "TRAP",
    "CNP_SLOW_PART": "SLOW without a CNP_SLOW",
    "CNP_UNWIND": "CNP_UNWIND",
}
MARK = re.compile(r"call void @cnp_says_(\w+?)_(\d+)_(\d+)\(")


def supers(source: Source) -> list[Declaration]:
    """The super-operations of a vocabulary."""
    return [item for item in source.declarations if item.parts]


def definitions(source: Source, callers: frozenset[str] = frozenset()) -> str:
    """The bodies of all super-operations. callers: bodies that call helpers, which may want to leave."""
    known = {item.name: item for item in source.declarations}
    return "\n".join(text for item in supers(source) for text in bodies(item, known, callers))


def bodies(item: Declaration, known: Mapping[str, Declaration], callers: frozenset[str]) -> Iterator[str]:
    """The body of a super-operation and, where its first part has one, its slow part: that of the first part, and all that
    comes behind it again."""
    first, *later = steps(item, known)
    given = parameters(item.operands)
    rest = "".join(f" cnp_then = {step.text}; if (cnp_then != NEXT) return cnp_then;" for step in later)
    for part in ("", "_slow") if item.kind == "slow" else ("",):
        raised = " || unlikely(CNP_CONTEXT->raised)" if first.name + part in callers else ""
        yield (
            f"CNP_INLINE cnp_go {item.name}{part}(cnp_state *s{given}) {{"
            f" cnp_go cnp_then = {first.name}{part}({first.arguments});"
            f" if (cnp_then != NEXT{raised}) return cnp_then;{rest} return NEXT; }}"
        )


@dataclass(frozen=True, slots=True)
class Step:
    """A part in its place. arguments: C text; text: the call with its slow part, as one that is not the first."""

    name: str
    arguments: str
    slow: bool

    @property
    def text(self) -> str:
        call = f"{self.name}({self.arguments})"
        if not self.slow:
            return call
        slow = f"{self.name}_slow({self.arguments})"
        return f"({{ cnp_go cnp_now = {call}; unlikely(cnp_now == SLOW) ? {slow} : cnp_now; }})"


def steps(item: Declaration, known: Mapping[str, Declaration]) -> Iterator[Step]:
    """The parts of a super-operation with their share of its operands."""
    start = 0
    for name in item.parts:
        count = len(known[name].operands)
        arguments = "".join(f", a{number}" for number in range(start, start + count))
        yield Step(name, f"s{arguments}", known[name].kind == "slow")
        start += count


def parameters(operands: Sequence[Operand]) -> str:
    """The operands as further parameters a0, a1, … of a C function, as a body takes them."""
    fixed = {"label": "cnp_label", "func": "cnp_func", "table": "const cnp_label *"}
    values = ("imm", *VALUES_IN)
    types = [o.ctype if o.kind in values else fixed.get(o.kind, f"{o.ctype} *") for o in operands]
    return "".join(f", __typeof__({ctype}) a{number}" for number, ctype in enumerate(types))


# ---- what later parts may say


def probes(source: Source) -> str:
    """C text with a function for each later part: what it must not answer is a call of a mark."""
    known = {item.name: item for item in source.declarations}
    lines: list[str] = []
    for number, item in enumerate(supers(source)):
        for place, step in enumerate(steps(item, known)):
            if place:
                lines += probe(item.operands, step, f"{number}_{place}")
    return "\n".join(lines) + "\n"


def probe(operands: tuple[Operand, ...], step: Step, key: str) -> Iterator[str]:
    """A function for each answer that one part must not give: clang folds one question where it keeps a switch of them.
    Labels are their numbers, as in the stencil."""
    labels = "".join(f" a{number} = {number};" for number, o in enumerate(operands) if o.kind == "label")
    for kind in REFUSED:
        mark = f"cnp_says_{kind}_{key}"
        yield f"void {mark}(void);"
        yield (
            f"void cnp_judge_{kind}_{key}(cnp_state *s{parameters(operands)}) {{"
            f"{labels} if (CNP_KIND({step.text}) == {kind}) {mark}(); }}"
        )


def judge(source: Source, ir: str, callers: frozenset[str], natives: frozenset[str]) -> None:
    """BuildError for the first part that may leave and is not the first of its super-operation. ir: of the probes,
    optimised. callers, natives: bodies that call helpers, and that make native calls."""
    known = {item.name: item for item in source.declarations}
    for item in supers(source):
        for name in item.parts[1:]:
            names = {name, f"{name}_slow"} if known[name].kind == "slow" else {name}
            for found, what in (
                (natives, "makes native calls"),
                (callers, "calls helpers, which may want to leave"),
            ):
                if names & found:
                    raise refusal(item, name, what)
    for kind, number, place in MARK.findall(ir):
        item = supers(source)[int(number)]
        raise refusal(item, item.parts[int(place)], f"may say {REFUSED[kind]}")


def refusal(item: Declaration, part: str, what: str) -> BuildError:
    message = (
        f"{item.file}:{item.line}: super-operation {item.name!r}: part {part!r} {what}; only the first part may, for who "
        "leaves comes back to the beginning: put it first, or end the super-operation before it"
    )
    return BuildError(message, op=item.name, line=item.line)
