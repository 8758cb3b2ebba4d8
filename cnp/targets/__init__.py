"""The table of targets. A new one is a file beside this one and a line in `TARGETS`."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from cnp.errors import ToolError
from cnp.target import Target

#: name -> module: a target's file is imported when it is first asked for.
TARGETS = {
    "x86_64": "x86_64",
    "aarch64": "aarch64",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "mips64": "mips64",
    "mips64el": "mips64el",
}


def get(name: str) -> Target:
    """The target called `name`: its own name, `host`, or a usual spelling such as `amd64` or `arm64`. ToolError: there is
    none, or `name` is no text."""
    if not isinstance(name, str):
        raise no_target(name)
    wanted = host_name() if name == "host" else name.lower()
    if wanted in TARGETS:
        target: Target = import_module(f"cnp.targets.{TARGETS[wanted]}").TARGET
        return target
    for known in TARGETS:
        target = import_module(f"cnp.targets.{TARGETS[known]}").TARGET
        if wanted in target.aliases:
            return target
    raise no_target(name)


def no_target(name: object) -> ToolError:
    """The error for what no target is called."""
    return ToolError(f"no target {name!r}; there are host, {', '.join(TARGETS)}", tool=str(name))


def host_name() -> str:
    """The spelling that this machine uses for itself."""
    machine = os.uname().machine.lower()
    return "mips64el" if machine == "mips64" and sys.byteorder == "little" else machine
