"""The vocabulary of a C source, wherever it is had from without more work than is needed.

    my_ops.c ──┬─> my_ops.TARGET.cnp beside it, if it was built from this very source: no compiler, the normal case
               └─> clang, by way of the user's cache (cnp/build/cache.py)

A file beside the source is never taken for what it is not: its head has the SHA-256 of the source and of the headers in the
source's folder. Those that lie there must be the same; one that was not shipped cannot have been changed.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cnp.errors import CacheWarning, LibraryError, ToolError
from cnp.library import Library
from cnp.target import Target

if TYPE_CHECKING:
    from cnp.build.driver import Job

PACKAGE = str(Path(__file__).parent)


def of_file(path: Path, target: Target, features: Iterable[str] | None = ()) -> Library:
    """The vocabulary of a C source for a target. features: as for `Library`.

    BuildError stands at the line of the source. ToolError: it has to be compiled and there is no clang; LibraryError: there is
    no such source. CacheWarning: the file beside the source, or the cache, could not be used.
    """
    beside = path.with_suffix(f".{target.name}.cnp")
    fault = ""
    if beside.exists():
        found = prebuilt(beside, path, target, features)
        if isinstance(found, Library):
            return found
        fault = found
    if not path.exists():
        raise LibraryError(fault or f"{path}: no such file, nor {beside.name} beside it", path=str(path))
    if not path.is_file():
        raise LibraryError(f"{path}: a source is a file; cnp.compile takes a text", path=str(path))
    try:
        library = compiled(path, target, str(path), (), features)
    except ToolError as error:
        missing = f"{path} must be compiled, for there is no {beside.name} beside it"
        message = f"{fault or missing}; {error.message}"
        hint = f"; or load {beside.name} itself, to have it as it is" if fault else ""
        raise ToolError(message + hint, **error.evidence) from error
    if fault:
        warn(f"{fault}; {path.name} was compiled instead: build {beside.name} again, or delete it")
    return library


def prebuilt(beside: Path, path: Path, target: Target, features: Iterable[str] | None) -> Library | str:
    """The stencil file beside a source, or why it cannot be used."""
    try:
        library = Library.load(beside, features)
    except LibraryError as error:
        return error.message
    if library.target is not target:
        return f"{beside} is for {library.target.name}"
    recorded = library.facts.get("sources")
    for name, digest in recorded.items() if isinstance(recorded, dict) else [(path.name, "")]:
        if (path.parent / name).exists() and digest_of(path.parent / name) != digest:
            return f"{beside} was built from another {name} than the one that lies beside it"
    return library


def of_text(
    text: str, target: Target, name: str, include: Iterable[str | Path], features: Iterable[str] | None = ()
) -> Library:
    """The vocabulary of C text. name: what messages call it; include: folders of headers; features: as for `Library`."""
    with tempfile.TemporaryDirectory(prefix="cnp-") as scratch:
        path = Path(scratch) / "source.c"
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        path.write_text(f'#line 1 "{quoted}"\n{text}', encoding="utf-8")
        return compiled(path, target, name, tuple(Path(folder) for folder in include), features)


def compiled(
    path: Path, target: Target, name: str, include: tuple[Path, ...], features: Iterable[str] | None
) -> Library:
    """By clang, or out of the cache. ToolError: what is needed for that is not installed."""
    try:
        from cnp.build import cache, driver, toolchain
    except ModuleNotFoundError as error:
        message = f"to compile operations, {error.name} is needed: pip install 'cnp[build]'"
        raise ToolError(message, tool=error.name) from error
    job: Job = driver.Job(path, target, toolchain.find(), name=name, include=include)
    return cache.built(job, features)


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def warn(what: str) -> None:
    """A CacheWarning at the line outside of this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(what, CacheWarning, stacklevel=level)
