"""The conformance suite of eBPF, read where it lies."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

ORIGINAL = "github.com/Alan-Jowett/bpf_conformance, folder tests"


@dataclass(frozen=True)
class Case:
    """A program, the memory it is called with and the r0 that it must give."""

    name: str
    program: bytes
    memory: bytes
    result: int


def cases() -> list[Case]:
    """The tests of the suite. They are skipped where nobody says where it lies."""
    folder = os.environ.get("CNP_SUITES")
    if folder is None:
        pytest.skip(f"set CNP_SUITES to a folder with bpf_conformance.json, made of {ORIGINAL}")
    path = Path(folder, "bpf_conformance.json")
    if not path.is_file():
        pytest.fail(f"CNP_SUITES is {folder}, which has no bpf_conformance.json ({ORIGINAL})")
    return [
        Case(t["name"], bytes.fromhex(t["program"]), bytes.fromhex(t["memory"]), int(t["result"], 16))
        for t in json.loads(path.read_text())
    ]
