"""What tests of several modules share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from cnp import host, processor, runtime, targets
from cnp.library import Library
from cnp.target import Target

#: Parametrises a test by the name of every target: `@every_target def test_…(target: str)`.
every_target = pytest.mark.parametrize("target", list(targets.TARGETS))
#: … and whether with the features of its processor; once for targets without any.
every_processor = pytest.mark.parametrize(
    ("target", "featured"),
    [
        pytest.param(name, featured, id=f"{name}-features" if featured else name)
        for name in targets.TARGETS
        for featured in (False, True)
        if targets.get(name).features or not featured
    ],
)


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


def features(target: Target) -> tuple[str, ...]:
    """The features with which code of a target runs here: all that the emulator has, or what this machine has."""
    if host.emulator(target) == []:
        return processor.features(target)
    return tuple(feature.name for feature in target.features)


def operations(name: str, featured: bool = False) -> Library:
    """The portable operations for a target that runs here; featured: with all features that there are."""
    target = runnable(name)
    if featured:
        need(bool(features(target)) or not target.features, f"no processor here has a feature of {name}")
    return Library.load(runtime.installed("ops", name), features(target) if featured else ())


def best_of(measure: Callable[[], float], below: float, tries: int = 10) -> float:
    """The smallest of up to `tries` measurements, done when one is small enough: the machine may be busy."""
    best = measure()
    for _ in range(tries - 1):
        if best < below:
            break
        best = min(best, measure())
    return best
