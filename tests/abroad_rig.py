"""The core in C as code of other targets: compiled by the clang in the ziglang wheel, linked with small_libc/, run by qemu."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import cnp
from cnp import host
from tests import host_rig
from tests.conftest import locked
from tests.support import need, runnable

SMALL_LIBC = Path(__file__).parent / "small_libc"
MACHINE = Path(host.__file__).parent / "host"  #: the folder of machine.h
CORE = Path(cnp.get_include())
WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Werror")
FREESTANDING = ("-O1", "-ffreestanding", "-fno-builtin", "-fno-pic", "-fno-stack-protector")


def compile_for(name: str, source: Path, out: Path, *folders: Path) -> Path:
    """An object of a target. folders: of headers."""
    ziglang = importlib.util.find_spec("ziglang")
    need(ziglang is not None, "the clang in the ziglang wheel compiles for other targets")
    assert ziglang is not None and ziglang.origin is not None
    target = host_rig.TARGETS[name]
    headers = Path(ziglang.origin).parent / "lib" / "include"  # of the compiler
    command = [*host_rig.CLANG, f"--target={target.triple}", *target.cflags, *WARNINGS, *FREESTANDING]
    command += [
        "-isystem",
        str(headers),
        *(f"-I{folder}" for folder in (SMALL_LIBC, MACHINE, CORE, *folders)),
    ]
    subprocess.run([*command, "-c", source, "-o", out], check=True)
    return out


def command(name: str, source: Path, folder: Path, shared: Path) -> list[str]:
    """The command that runs a program around the core on a target. folder: for what is made, with the source's headers;
    shared: a folder of the session, where the core is compiled once."""
    emulator = host.emulator(runnable(name))
    assert emulator is not None
    objects = [shared / f"core.{name}.o", shared / f"small_libc.{name}.o"]
    with locked(shared / f"core.{name}.lock"):
        for part, made in zip((CORE / "cnp_core.c", SMALL_LIBC / "small_libc.c"), objects, strict=True):
            if not made.exists():
                compile_for(name, part, made)
    objects.append(compile_for(name, source, folder / f"{source.stem}.o", folder))
    program = folder / source.stem
    subprocess.run([*host_rig.LLD, "-static", "-e", "_start", *objects, "-o", program], check=True)
    return [*emulator, str(program)]
