"""What tests of several modules share."""

from __future__ import annotations

import os

import pytest


def need(present: bool, reason: str) -> None:
    """Skip the test where a tool is missing; in CI, where all tools are, that is a failure."""
    if present:
        return
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
