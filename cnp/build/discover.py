"""First look at a C source: which operations, state and result it declares.

clang preprocesses the source with CNP_DISCOVER defined; the header then leaves a mark at every declaration, a
`#pragma cnp …` line, and the preprocessor's line markers tell where it stands.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cnp.build.toolchain import Toolchain
from cnp.errors import BuildError
from cnp.runtime import taken_names
from cnp.stencil import Operand

KINDS = {"in": 2, "out": 2, "imm": 2, "slot": 2, "cell": 2, "symbol": 2, "label": 1, "func": 1, "table": 1}
VALUES_IN = ("in", "in/imm")  #: kinds of operands whose values the body is handed
LISTED = ("in", "imm")  #: kinds whose immediates may be listed behind the name
INTEGERS = {f"{sign}{bits}": bits // 8 for sign in "iu" for bits in (8, 16, 32, 64)}
SCALARS = INTEGERS | {"f32": 4, "f64": 8}
MOST_OPERANDS = 6
#: What CNP_INTERPRET may say: the switch and, where the target can have it, the threaded one; the switch; neither.
INTERPRETERS = ("threaded", "switch", "none")
#: What IMM(operand, type) may name: also u5 and the like; or a number.
IMMEDIATE = re.compile(r"[iu]([1-9]|[1-5]\d|6[0-4])|f32|f64")
NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True, slots=True)
class Declaration:
    """One operation as it is written. kind: op, slow (an op with a slow part), pure, test, trap.

    result: C type of a pure operation's value. immediates: operand name -> types of immediates that it may be, the best
    first. parts: of a super-operation, the operations that it is made of.
    """

    kind: str
    name: str
    operands: tuple[Operand, ...]
    result: str
    immediates: dict[str, tuple[str, ...]]
    file: str
    line: int
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A vocabulary: state as (type, name) in order, the name of the result, the declarations in order. interpret: one of
    INTERPRETERS."""

    path: Path
    state: tuple[tuple[str, str], ...]
    result: str
    declarations: tuple[Declaration, ...]
    interpret: str = "threaded"


def discover(path: Path, toolchain: Toolchain, flags: list[str]) -> Source:
    """Read the declarations of a C source. BuildError at the user's line for what is not understood."""
    text = toolchain.compile("-E", "-DCNP_DISCOVER", *flags, path)
    state: list[tuple[str, str]] = []
    result, interpret = "", INTERPRETERS[0]
    found: dict[str, Declaration] = {}
    taken = taken_names()
    for mark, file, line in marks(text):
        kind, _, rest = mark.partition(" ")
        if kind == "state":
            name, _, ctype = rest.partition(" ")
            state.append((ctype.strip(), name))
        elif kind == "result":
            result = "" if rest == "CNP_RESULT" else rest
        elif kind == "interpret":
            interpret = rest
        else:
            if kind == "super":
                new = super_operation(rest, found, file, line)
            else:
                new = declaration(kind, rest, file, line)
            if new.name in found:
                raise BuildError(
                    f"{file}:{line}: operation {new.name!r} is declared twice", op=new.name, line=line
                )
            if new.name in taken:
                hint = f"assemblers have something of that name for themselves; call it {new.name}_it, say"
                message = f"{file}:{line}: operation {new.name!r} would be hidden: {hint}"
                raise BuildError(message, op=new.name, line=line)
            found[new.name] = new
    if not found:
        raise BuildError("no operation found: declare some with CNP_OP(name, operands) { … }", op="", line=0)
    if result and result not in {name for _, name in state}:
        names = ", ".join(name for _, name in state) or "none"
        raise BuildError(
            f"CNP_RESULT is {result!r}, which is no state field; there are {names}", op="", line=0
        )
    if twice := [name for name, count in Counter(name for _, name in state).items() if count > 1]:
        raise BuildError(f"state field {twice[0]!r} is declared twice in CNP_STATE", op="", line=0)
    if interpret not in INTERPRETERS:
        message = f"CNP_INTERPRET is {interpret}; it is one of {', '.join(INTERPRETERS)}"
        raise BuildError(message, op="", line=0)
    return Source(path, tuple(state), result, tuple(found.values()), interpret)


def marks(text: str) -> Iterator[tuple[str, str, int]]:
    """(mark, file, line) for each `#pragma cnp` line of preprocessed text."""
    file, line = "", 0
    for row in text.splitlines():
        if marker := re.match(r'# (\d+) "(.*?)"', row):
            line, file = int(marker[1]), marker[2]
            continue
        if row.startswith("#pragma cnp "):
            yield " ".join(row.removeprefix("#pragma cnp ").split()), file, line
            continue  # a pragma stands on a line of its own that the source does not have
        line += 1


def declaration(kind: str, rest: str, file: str, line: int) -> Declaration:
    """One mark as a declaration."""
    name, _, rest = rest.partition(" ")
    where = f"{file}:{line}: operation {name!r}"
    if kind in ("op", "slow"):
        listed: dict[str, tuple[str, ...]] = {}
        operands = tuple(operand(text, where, name, line, listed) for text in split(rest))
        if len(operands) > MOST_OPERANDS:
            raise BuildError(f"{where}: at most {MOST_OPERANDS} operands", op=name, line=line)
        return Declaration(kind, name, operands, "", listed, file, line)
    result, _, rest = rest.partition(" ")
    inner, flags = parenthesised(rest)
    immediates = immediate_types(flags, where, name, line)
    inputs = tuple(typed(text, immediates, where, name, line) for text in split(inner))
    if result not in SCALARS:
        raise BuildError(f"{where}: a value of type {result!r} has no place in a slot", op=name, line=line)
    if unknown := immediates.keys() - {item.name for item in inputs}:
        raise BuildError(f"{where}: IMM({min(unknown)}, …) is for none of its parameters", op=name, line=line)
    operands = (Operand("out", result, "d"), *inputs)
    return Declaration(kind, name, operands, result, immediates, file, line)


def super_operation(rest: str, known: dict[str, Declaration], file: str, line: int) -> Declaration:
    """Operations in a row as one; its operands are theirs, one after the other."""
    name, _, rest = rest.partition(" ")
    parts = tuple(split(rest))
    where = f"{file}:{line}: super-operation {name!r}"

    def refuse(what: str) -> BuildError:
        return BuildError(f"{where}: {what}", op=name, line=line)

    if len(parts) < 2:
        raise refuse(f"it needs two parts or more: CNP_SUPER({name}, first, second)")
    operands: list[Operand] = []
    listed: dict[str, tuple[str, ...]] = {}
    first = known.get(parts[0])
    for part in parts:
        if part not in known:
            raise refuse(f"part {part!r} is no operation that was declared before it")
        item = known[part]
        if item.kind not in ("op", "slow") or item.parts:
            raise refuse(f"part {part!r} is no CNP_OP or CNP_OP_SLOW: only these can be parts")
        for given in item.operands:
            if given.kind == "out" or (given.kind in VALUES_IN and item is not first):
                when = "written after the last part" if given.kind == "out" else "read before the first part"
                raise refuse(
                    f"{given.name} of part {part!r} would be {when}; make it slot({given.ctype}, {given.name})"
                )
            label = unused(given.name, {other.name for other in operands})
            operands.append(given._replace(name=label))
            if given.name in item.immediates:
                listed[label] = item.immediates[given.name]
    if len(operands) > MOST_OPERANDS:
        raise refuse(f"its parts have {len(operands)} operands together; at most {MOST_OPERANDS}")
    return Declaration(known[parts[0]].kind, name, tuple(operands), "", listed, file, line, parts)


def unused(name: str, taken: set[str]) -> str:
    """A name for an operand whose own may be taken: x, x2, x3."""
    names = itertools.chain([name], (f"{name}{number}" for number in itertools.count(2)))
    return next(found for found in names if found not in taken)


def operand(text: str, where: str, name: str, line: int, listed: dict[str, tuple[str, ...]]) -> Operand:
    """`kind(type, name)` or `kind(name)`; the immediates behind the name go to `listed`."""
    found = re.fullmatch(r"(\w+) ?\((.*)\)", text)
    parts = [part.strip() for part in found[2].split(",")] if found else []
    count = KINDS.get(found[1], -1) if found else -1
    if found is None or (len(parts) < count if found[1] in LISTED else len(parts) != count) or count < 0:
        forms = ", ".join(f"{kind}({'type, ' * (count - 1)}name)" for kind, count in KINDS.items())
        raise BuildError(f"{where}: operand {text!r} is none of {forms}", op=name, line=line)
    kind, (ctype, label) = found[1], ("", *parts[:count])[-2:]
    if kind in ("in", "out") and ctype not in SCALARS:
        raise BuildError(f"{where}: a value is one of {', '.join(SCALARS)}", op=name, line=line)
    if kind == "imm" and ctype not in (*SCALARS, "disp") and not ctype.endswith("*"):
        allowed = ", ".join((*SCALARS, "disp"))
        raise BuildError(f"{where}: an immediate is a pointer or one of {allowed}", op=name, line=line)
    if extra := parts[count:]:
        listed[label] = tuple(check_immediate(part, where, name, line) for part in extra)
    return Operand("in/imm" if kind == "in" and extra else kind, ctype, label)


def check_immediate(text: str, where: str, name: str, line: int) -> str:
    """A type of immediates or a number."""
    if not IMMEDIATE.fullmatch(text) and not NUMBER.fullmatch(text):
        message = f"{where}: an immediate is f32, f64, i1 … i64, u1 … u64 or a number, not {text}"
        raise BuildError(message, op=name, line=line)
    return text


def immediate_types(flags: str, where: str, name: str, line: int) -> dict[str, tuple[str, ...]]:
    """The types in `IMM(operand, type) …`, in their order."""
    found: dict[str, tuple[str, ...]] = {}
    for text in re.findall(r"IMM\(([^)]*)\)", flags):
        label, ctype = pair(text)
        found[label] = (*found.get(label, ()), check_immediate(ctype, where, name, line))
    return found


def typed(text: str, immediates: dict[str, tuple[str, ...]], where: str, name: str, line: int) -> Operand:
    """A parameter `type name` of a pure operation."""
    ctype, label = pair(text, None)
    if ctype not in SCALARS:
        raise BuildError(f"{where}: parameter {text!r}: use one of {', '.join(SCALARS)}", op=name, line=line)
    return Operand("in/imm" if label in immediates else "in", ctype, label)


def pair(text: str, separator: str | None = ",") -> tuple[str, str]:
    """Two words."""
    first, second = (part.strip() for part in text.split(separator))
    return first, second


def split(text: str) -> list[str]:
    """The comma-separated parts outside of parentheses."""
    parts, depth, start = [], 0, 0
    for position, letter in enumerate(text + ","):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            parts.append(text[start:position].strip())
            start = position + 1
    return [part for part in parts if part]


def parenthesised(text: str) -> tuple[str, str]:
    """The inside of the leading parentheses and what follows them."""
    end = text.index(")")
    return text[text.index("(") + 1 : end], text[end + 1 :]
