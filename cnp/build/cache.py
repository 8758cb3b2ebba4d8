"""Stencil files of sources that are loaded as they are: built once for each content, kept in the user's cache.

    key     SHA-256 of the source, what it includes, the flags, clang, the target, the format and the builder itself
    file    SOURCE.KEY.TARGET.cnp, written beside its place and moved there

So processes that build the same source at once each get a whole file, the last one's stays, and no lock is left behind by
one that was killed. The cache only saves time: what is wrong with it is told by a CacheWarning, and what was built is right
all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cnp.build.batch import put
from cnp.build.driver import Job, build, inputs_digest
from cnp.errors import LibraryError
from cnp.library import Library
from cnp.source import warn

KEY = 20  #: digits of the digest in a file's name; all of it is compared with what the file's head says


def folder() -> Path | None:
    """`cnp` in the user's cache: $XDG_CACHE_HOME, if it is an absolute path, else ~/.cache; None for a user without a
    home."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(named) if os.path.isabs(named) else Path.home() / ".cache") / "cnp"
    except RuntimeError:
        return None


def built(job: Job, features: Iterable[str] | None = ()) -> Library:
    """The vocabulary of a job; clang compiles it if no file of this content is there. A file has the forms of all features:
    which ones code may use is said when it is read.

    BuildError stands at the user's line; ToolError: clang failed to start. CacheWarning: nothing could be kept, or what was
    kept was damaged.
    """
    key, inside = inputs_digest(job), folder()
    if inside is None:
        warn("there is no home folder to keep stencil files in; set XDG_CACHE_HOME")
        return Library(build(job), job.source.name, features)
    place = inside / f"{job.source.stem}.{key[:KEY]}.{job.target.name}.cnp"
    if (known := kept(place, key, features)) is not None:
        return known
    data = build(job)
    try:
        put(place, data)
    except OSError as error:
        warn(f"{place} could not be kept ({error.strerror}): {job.source.name} is built again next time")
    return Library(data, str(place), features)


def kept(place: Path, key: str, features: Iterable[str] | None = ()) -> Library | None:
    """The vocabulary in a file of the cache; None if there is none that can be used."""
    try:
        data = place.read_bytes()
        library = Library(data, str(place), features)
    except FileNotFoundError:
        return None
    except OSError as error:
        warn(f"{place} could not be read ({error.strerror}): it is built again")
        return None
    except LibraryError as error:
        warn(f"{error.message}; this was done now")
        return None
    if library.facts.get("inputs") != key:
        warn(f"{place} is not what its name says: it is built again")
        return None
    return library


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the cache. target: "" for what a process left that was killed while it wrote. bytes: its size."""

    path: Path
    source: str
    target: str
    bytes: int


def contents() -> list[Kept]:
    """What is in the cache, by name."""
    return sorted(found(), key=lambda item: item.path.name)


def found() -> Iterator[Kept]:
    """The files of the cache, whole and half."""
    inside = folder()
    for path in inside.glob("*.cnp*") if inside else ():
        stem, _, target = path.name.removesuffix(".cnp").rpartition(".")
        whole = not path.name.startswith(".")
        yield Kept(path, stem.rpartition(".")[0] + ".c", target if whole else "", path.stat().st_size)


def clear() -> list[Kept]:
    """Empty the cache; what was in it. Vocabularies that are loaded are not touched."""
    gone = contents()
    for item in gone:
        item.path.unlink(missing_ok=True)
    return gone
