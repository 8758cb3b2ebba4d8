"""Stencil files of sources that are loaded as they are: built once for each content, kept in the user's cache."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cnp.build import toolchain
from cnp.build.driver import Job, build, inputs_digest
from cnp.target import Target


def folder() -> Path:
    """`cnp` in the user's cache: $XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cnp"


def built(source: Path, target: Target) -> Path:
    """The stencil file of a source for a target; clang compiles it if no file of this content is there.

    BuildError names the operation and its line; ToolError: there is no clang; OSError: the cache cannot be written.
    """
    job = Job(source, target, toolchain.find())
    place = folder() / f"{source.stem}.{inputs_digest(job)[:20]}.{target.name}.cnp"
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        data = build(job)
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as fresh:
            fresh.write(data)
        os.replace(fresh.name, place)  # whole or not at all, also when two processes build it at once
    return place
