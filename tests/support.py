"""What tests of several modules share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from cnp import host, targets
from cnp.target import Target

#: Parametrises a test by the name of every target: `@every_target def test_…(target: str)`.
every_target = pytest.mark.parametrize("target", list(targets.TARGETS))


def need(present: bool, reason: str) -> None:
    """Skip the test where a tool is missing; in CI, where all tools are, that is a failure."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def runnable(name: str) -> Target:
    """The target of that name, if its code runs here: on this machine or in qemu."""
    target = targets.get(name)
    need(host.emulator(target) is not None, f"qemu-{target.qemu} runs the code of this target")
    return target


def best_of(measure: Callable[[], float], below: float, tries: int = 10) -> float:
    """The smallest of up to `tries` measurements, done when one is small enough: the machine may be busy."""
    best = measure()
    for _ in range(tries - 1):
        if best < below:
            break
        best = min(best, measure())
    return best
