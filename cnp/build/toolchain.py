"""Find clang and lld and run them: the pinned wheel, a system clang, or what the user names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from cnp.errors import ToolError

OLDEST = 19
ADVICE = (
    "install the wheel: pip install ziglang==0.17.0, or a clang >= 19 (Debian: apt install clang-22 lld-22)"
)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A clang with all targets and the lld that came with it. `version` as clang prints it, such as 22.1.8."""

    clang: tuple[str, ...]
    lld: tuple[str, ...]
    version: str
    include: tuple[str, ...] = ()

    def compile(self, *arguments: str | Path, text: str | None = None, cwd: Path | None = None) -> str:
        """Run clang; its standard output. ToolError with clang's own message if it fails."""
        return run([*self.clang, *self.include, *map(str, arguments)], text, cwd)

    def link(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run ld.lld; its standard output."""
        return run([*self.lld, *map(str, arguments)], None, cwd)


def run(command: list[str], text: str | None = None, cwd: Path | None = None) -> str:
    """Standard output of a command; ToolError with its standard error if it fails."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=cwd, check=False)
    if done.returncode:
        name = Path(command[0]).name
        raise ToolError(
            done.stderr.strip() or f"{name} failed", tool=name, status=done.returncode, command=command
        )
    return done.stdout


def find(clang: str | None = None) -> Toolchain:
    """The first of: `clang`, $CNP_CLANG, the ziglang wheel, clang-22 … clang-19, clang on PATH."""
    named = clang or os.environ.get("CNP_CLANG")
    if named:
        return system(named)
    if find_spec("ziglang"):
        return wheel()
    for name in [*(f"clang-{number}" for number in range(22, OLDEST - 1, -1)), "clang"]:
        if shutil.which(name):
            return system(name)
    raise ToolError(f"no clang found; {ADVICE}", tool="clang")


@cache
def wheel() -> Toolchain:
    """clang and lld inside the ziglang wheel. Its headers are not found by themselves."""
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise ToolError(f"the ziglang wheel is not installed; {ADVICE}", tool="ziglang")
    home = Path(spec.origin).parent
    program = next((p for p in (home / "zig", home / "zig.exe") if p.exists()), None)
    base = (str(program),) if program else (sys.executable, "-m", "ziglang")
    clang = (*base, "clang")
    include = ("-nostdlibinc", "-isystem", str(home / "lib" / "include"))
    return Toolchain(clang, (*base, "ld.lld"), version_of(clang), include)


@cache
def system(name: str) -> Toolchain:
    """A clang that is installed; its lld is beside it or on PATH."""
    program = shutil.which(name)
    if program is None:
        raise ToolError(f"no program {name!r}; {ADVICE}", tool=name)
    version = version_of((program,))
    major = version.split(".")[0]
    beside = [
        Path(program).resolve().parent / "ld.lld",
        shutil.which(f"ld.lld-{major}"),
        shutil.which("ld.lld"),
    ]
    lld = next((str(p) for p in beside if p and Path(p).exists()), "ld.lld")
    return Toolchain((program,), (lld,), version)


def version_of(clang: tuple[str, ...]) -> str:
    """clang's version; ToolError if it is older than the oldest that has the conventions we need."""
    found = re.search(r"version (\d+)\.(\d+)\.(\d+)", run([*clang, "--version"]))
    if found is None or int(found[1]) < OLDEST:
        what = found[0] if found else "no version"
        raise ToolError(f"{' '.join(clang)} is too old ({what}, {OLDEST} is needed); {ADVICE}", tool=clang[0])
    return found[0].removeprefix("version ")
