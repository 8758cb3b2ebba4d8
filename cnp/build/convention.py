"""Give stencils a calling convention that C has no name for: rewrite unoptimised IR to `fastcc`.

Every definition, declaration and call of the state's function type is changed, indirect calls too. A call whose
convention differs from the definition's would silently delete the caller's body, so that afterwards none may be
left: this is checked.
"""

from __future__ import annotations

import re

from cnp.errors import BuildError

PROBE = "cnp_leave_exit"
CALL = re.compile(r"(?P<head>.*\bcall )(?P<fast>fastcc )?(?P<rest>.*?(?P<callee>[@%][\w.\"$]+)\((?P<args>.*)\).*)")
FUNCTION = re.compile(r"(?P<head>(?:define|declare) )(?P<rest>.*?@(?P<callee>[\w.\"$]+)\((?P<args>.*?)\).*)")
NOISE = re.compile(r"\b(noundef|signext|zeroext|nonnull|align \d+|dereferenceable\(\d+\))\b|%[\w.]+|@[\w.\"$]+")


def types(arguments: str) -> tuple[str, ...]:
    """The bare types of an argument list."""
    return tuple(NOISE.sub("", part).split()[0] if part.strip() else "" for part in arguments.split(","))


def returned(text: str) -> str:
    """The result type of a call or definition: what stands before the callee, attributes aside."""
    found = re.search(r"(\[2 x i64\]|\{ i64, i64 \}|i128|%struct\.cnp_word)", text.split("@")[0].split("(")[0])
    return found[1] if found else ""


def to_fastcc(ir: str, target: str) -> str:
    """`ir` with `fastcc` at everything of the state's function type. BuildError if that type is not found."""
    probe = next((m for line in ir.splitlines() if (m := FUNCTION.match(line)) and m["callee"] == PROBE), None)
    if probe is None:
        raise BuildError(f"{target}: the IR has no {PROBE}", target=target, op="", line=0)
    wanted, result = types(probe["args"]), returned(probe["rest"])
    lines = [change(line, wanted, result) for line in ir.splitlines()]
    defined = {m["callee"] for line in lines if (m := FUNCTION.match(line)) and "fastcc" in line}
    for line in lines:
        called = CALL.match(line)
        if called and called["callee"].lstrip("@") in defined and "fastcc" not in line.split("@")[0]:
            raise BuildError(f"{target}: a call kept its convention: {line.strip()}", target=target, op="", line=0)
    return "\n".join(lines) + "\n"


def change(line: str, wanted: tuple[str, ...], result: str) -> str:
    """One line with `fastcc` where it belongs."""
    for pattern in (FUNCTION, CALL):
        found = pattern.match(line)
        if found and returned(found["rest"]) == result and types(found["args"]) == wanted:
            if pattern is CALL:
                return f"{found['head']}fastcc {found['rest']}"
            before, at, name = re.split(rf"((?:inreg )?{re.escape(result)})", found["rest"], maxsplit=1)
            return f"{found['head']}{before}fastcc {at}{name}"
    return line
