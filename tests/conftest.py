"""Fixtures that tests of several modules rely on.

The package under test is the installed one: in place in `make test`, the wheel in `make test-wheel`.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import need

VocabularyFile = Callable[[Path, str], Path]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the kernel lets go of it when the holder dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all xdist workers of a session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def vocabulary_file(session_folder: Path) -> VocabularyFile:
    """vocabulary_file(source, target) -> path of its stencil file, built once a session by whoever asks first.

    target: a name or spelling. A source with other contents is another file. The error of a build that fails is
    raised, a BuildError or ToolError.
    """

    def get(source: Path, target: str) -> Path:
        need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
        from cnp.build.batch import Plan, build_all
        from cnp.build.command import chosen

        key = hashlib.sha256(f"{source.resolve()}\0{source.read_text()}".encode()).hexdigest()[:12]
        plan = Plan(chosen([target]), source, session_folder / key)
        (task,) = plan.tasks()
        with locked(session_folder / f"{key}.{task.target}.lock"):
            if not task.place.exists():
                (outcome,) = build_all(plan, jobs=1)
                if outcome.error is not None:
                    raise outcome.error
        return task.place

    return get


def pytest_report_header() -> str:
    """Says which package is tested, so that a run's log proves it."""
    import cnp

    return f"cnp: {Path(cnp.__file__).parent}"


def pytest_sessionstart() -> None:
    """Where the wheel is to be tested, refuse to test anything else."""
    import cnp

    if os.environ.get("CNP_WHEEL") and "site-packages" not in Path(cnp.__file__).parts:
        pytest.exit(f"CNP_WHEEL is set but cnp is imported from {Path(cnp.__file__).parent}", returncode=4)
