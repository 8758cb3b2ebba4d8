"""What the processor of this machine has beyond the base line of its target, as the kernel tells it.

Two sources: /proc/cpuinfo, a block of lines `name : words` for each processor, and the auxiliary vector of this process,
pairs of words (type, value). A program may run on any of the processors, so that a word counts where all have it. Where
there is neither, on another system, nothing is known to be there.
"""

from __future__ import annotations

import re
import struct
from functools import cache
from pathlib import Path

from cnp import targets
from cnp.target import Target

DESCRIPTION, VECTOR = Path("/proc/cpuinfo"), Path("/proc/self/auxv")
ENTRY = struct.Struct("@LL")


def features(target: Target) -> tuple[str, ...]:
    """Names of the features of this machine's processor, in the target's order; none if it is for another machine."""
    if not target.features or target.name != targets.host_name():
        return ()
    words, entries = described(contents(DESCRIPTION).decode("ascii", "replace")), vector(contents(VECTOR))

    def has(kind: int, bits: int) -> bool:
        return entries.get(kind, 0) & bits == bits

    return tuple(f.name for f in target.features if f.words <= words and has(*f.hwcap))


@cache
def contents(path: Path) -> bytes:
    """What the kernel says; nothing where it is not asked that way."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def described(text: str) -> frozenset[str]:
    """The words that stand in the description of every processor. RISC-V joins them: rv64imafdc_zba_zbb."""
    blocks = [block for block in re.split(r"\n\s*\n", text) if re.match(r"\s*processor\s*:", block)]
    found = [frozenset(re.split(r"[\s_:]+", block)) for block in blocks]
    return frozenset.intersection(*found) if found else frozenset()


def vector(data: bytes) -> dict[int, int]:
    """The auxiliary vector by type."""
    return dict(ENTRY.iter_unpack(data[: len(data) // ENTRY.size * ENTRY.size]))
