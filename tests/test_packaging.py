"""What an installation holds, whichever it is: in place, or the wheel, which then has files of all targets inside."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata

import pytest

import cnp
from cnp import host, native, targets
from cnp.build.batch import PACKAGE, VOCABULARIES
from cnp.build.driver import header_folder
from cnp.library import Library
from cnp.runtime import installed
from tests.support import every_target, need, runnable


@every_target
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_stencil_files_of_all_targets_are_inside(vocabulary: str, target: str) -> None:
    library = Library.load(installed(vocabulary, target))
    assert library.target.name == target
    assert library.facts["source"] == VOCABULARIES[vocabulary].name
    assert library.operations


@every_target
def test_host_programs_of_all_targets_are_inside_and_start(target: str) -> None:
    program = host.host_program(targets.get(target))  # checks that it is executable
    assert host.symbols(targets.get(target))
    emulated = host.emulator(runnable(target))
    assert emulated is not None
    done = subprocess.run([*emulated, str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 125  # it wants an image, and says so
    assert done.stderr


def test_sources_that_users_compile_against_are_inside() -> None:
    assert (header_folder() / "cnp.h").is_file()
    for source in VOCABULARIES.values():
        assert source.is_file()
    assert {"host.c", "machine.h"} <= {path.name for path in (PACKAGE / "host").iterdir()}
    assert (PACKAGE / "py.typed").is_file()


def test_the_core_is_compiled() -> None:
    assert native.available, native.reason


def test_metadata_says_what_the_package_says() -> None:
    need(any(metadata.distributions(name="cnp")), "pip install -e . makes metadata")
    facts = metadata.metadata("cnp")
    assert facts["Version"] == cnp.__version__
    plain = [line for line in metadata.requires("cnp") or [] if "extra ==" not in line]
    assert [line.partition(">")[0] for line in plain] == ["cffi"]
    (script,) = metadata.entry_points(group="console_scripts", name="cnp")
    assert callable(script.load())


def test_importing_needs_nothing_but_what_is_required() -> None:
    """A user without the extras: their modules are out of reach."""
    extras = ["elftools", "rich", "click", "capstone", "ziglang", "lief"]
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({extras})); import cnp; cnp.load('ops').assembler()"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
