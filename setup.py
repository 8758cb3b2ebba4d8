"""What pyproject.toml cannot say: the C core, folders elsewhere as packages, and files built by clang.

The wheel's build runs build_stencils.py for all targets, so that a machine without clang gets them installed. The
core is compiled by the system's C compiler, or by the one in the ziglang wheel where there is none.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent

#: zig cc compiles for the very processor it runs on unless it is told not to.
ZIG_CC = f"{shlex.quote(sys.executable)} -m ziglang cc -mcpu=baseline"


class BuildWithStencils(build_py):
    """Copies the package, then builds what is not kept in git: into the wheel, or in place for an editable install."""

    def run(self) -> None:
        super().run()
        command = [sys.executable, "build_stencils.py", "--target", "all"]
        if not self.editable_mode:
            # What lay built in the tree was copied as package data; only what is out of date is built again.
            package = Path(self.build_lib).resolve() / "cnp"
            command += ["--out", str(package / "lib"), "--host-out", str(package / "host" / "bin")]
        subprocess.run(command, cwd=ROOT, check=True)


class BuildWithAnyCompiler(build_ext):
    """Compiles the core with a compiler that exists."""

    def run(self) -> None:
        configured = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
        if shutil.which(configured) is None:
            found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), ZIG_CC)
            os.environ["CC"], os.environ["LDSHARED"] = found, f"{found} -shared"
        super().run()


setup(
    packages=[*find_packages(include=["cnp", "cnp.*"]), "cnp.stencils", "cnp.bench.programs"],
    package_dir={"cnp.stencils": "stencils", "cnp.bench.programs": "examples/ebpf"},
    cffi_modules=["cnp/_core_build.py:ffibuilder"],
    cmdclass={"build_py": BuildWithStencils, "build_ext": BuildWithAnyCompiler},
    options={
        "bdist_wheel": {"py_limited_api": "cp310"}
    },  # one wheel for all Pythons, as cnp/_core_build.py compiles it
)
