"""The core in C: choosing, laying out and patching for programs that want no Python. Here is where its files lie."""

from __future__ import annotations

from pathlib import Path

ROOM = Path(__file__).parent


def get_include() -> str:
    """The folder of `cnp_core.h`; `cnp_core.c` beside it is all that has to be compiled."""
    return str(ROOM)


def amalgamated() -> str:
    """The whole core as the text of one file."""
    lines: list[str] = []
    for room in ("cnp_core.h", "internal.h", *rooms()):
        text = (ROOM / room).read_text(encoding="utf-8").splitlines()
        lines += [f'#line 1 "cnp/core/{room}"', *(line for line in text if not line.startswith('#include "'))]
    return "\n".join(lines) + "\n"


def rooms() -> list[str]:
    """The files that cnp_core.c is made of, in order."""
    text = (ROOM / "cnp_core.c").read_text(encoding="utf-8").splitlines()
    names = [line.split('"')[1] for line in text if line.startswith('#include "')]
    return [name for name in names if name.endswith(".c")]


def declarations() -> str:
    """The header as cffi reads it: without what is for a preprocessor."""
    text = (ROOM / "cnp_core.h").read_text(encoding="utf-8")
    lines = text.replace("\\\n", " ").splitlines()
    kept = [line for line in lines if not line.startswith(("#", 'extern "C"'))]
    return "\n".join(kept[: kept.index("}")] if "}" in kept else kept)
