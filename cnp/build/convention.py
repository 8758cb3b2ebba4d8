"""Give stencils a calling convention that C has no name for: rewrite optimised IR to `fastcc`.

The state's function type is that of `cnp_leave_exit`. Everything of this type changes: definitions and declarations
under the builder's own names (`cnp.…`, `cnp_…`), calls of these, and indirect calls, whose callees are always the
code of stencils. A helper may have the same type by chance; it keeps the host's convention.

The IR is optimised already, so that there is little of it, and only becomes code afterwards. A call whose convention differs
from the definition's is undefined, so that all mentions of a name have to agree: this is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cnp.errors import BuildError

PROBE = "@cnp_leave_exit"
OWN = re.compile(r'@"?cnp[._]')
#: `define hidden [2 x i64] @f(` or `%7 = musttail call inreg { i64, i64 } %6(`: a convention stands behind `head`.
SITE = re.compile(
    r"(?P<head>(?:define|declare) (?:\w+ )*?|.*?\bcall )(?P<convention>fastcc )?"
    r"(?P<attributes>(?:(?:inreg|noundef|signext|zeroext|range\([^)]*\)) )*)"
    r'(?P<result>\[[^]]*\]|\{[^}]*\}|%?[\w.]+) (?P<callee>[@%](?:[\w.$]+|"[^"]*"))\('
)

FunctionType = tuple[str, ...]  #: result, then parameters


def to_fastcc(ir: str, target: str) -> str:
    """`ir` with `fastcc` at everything of the state's function type. BuildError if that type is not found, or if a
    call would disagree with its callee."""
    lines = ir.splitlines()
    sites = [SITE.match(line) if line.startswith(("de", "  ")) and "(" in line else None for line in lines]
    wanted = next((function_type(site) for site in sites if site and site["callee"] == PROBE), None)
    if wanted is None:
        raise refusal(f"the IR has no {PROBE}", target)
    chosen = [site if site and belongs(site, wanted) else None for site in sites]
    names = {site["callee"] for site in chosen if site}
    for site, change in zip(sites, chosen, strict=True):
        if site and not change and site["callee"].startswith("@") and site["callee"] in names:
            raise refusal(
                f"{site['callee']} is used with another type than it has: {site.string.strip()}", target
            )
    return "\n".join(map(with_fastcc, lines, chosen)) + "\n"


def refusal(what: str, target: str) -> BuildError:
    return BuildError(f"{target}: {what}", target=target, op="", line=0)


def belongs(site: re.Match[str], wanted: FunctionType) -> bool:
    """Whether a definition, declaration or call is one of the state's functions."""
    own = site["callee"].startswith("%") or bool(OWN.match(site["callee"]))
    return own and function_type(site) == wanted


def function_type(site: re.Match[str]) -> FunctionType:
    """Result and parameter types, attributes and names aside. A stencil that only knows the lower half of a float word
    says `float` for `double`; the register is the same."""
    text = site.string[site.end() :]
    types = (next(pieces(part, " "), "") for part in pieces(parameters(text), ","))
    return site["result"], *("double" if name == "float" else name for name in types)


def parameters(text: str) -> str:
    """`text` up to the parenthesis that closes it."""
    depth = 1
    for position, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth == 0:
            return text[:position]
    return text


def pieces(text: str, separator: str) -> Iterator[str]:
    """The parts of a list, brackets of any kind being whole."""
    depth = start = 0
    for position, letter in enumerate(text):
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == separator and depth == 0:
            yield text[start:position].strip()
            start = position + 1
    if rest := text[start:].strip():
        yield rest


def with_fastcc(line: str, site: re.Match[str] | None) -> str:
    if site is None or site["convention"]:
        return line
    return f"{site['head']}fastcc {line[site.end('head') :]}"
