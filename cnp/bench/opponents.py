"""The kernels in C and in assembly, compiled for this machine: functions that can be called, and how long they are."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cnp import targets
from cnp.build import toolchain
from cnp.build.toolchain import Toolchain
from cnp.errors import CnpError, ToolError
from cnp.target import Target

FOLDER = Path(__file__).parent
BASE_LINE = ("-march=", "-mcpu=", "-mtune=", "-mabi=")  #: flags of a target that C for it needs too

#: Integers and floats as the portable operations have them. No errno: a square root is one instruction.
MEANING = ("-fwrapv", "-ffp-contract=off", "-fno-math-errno")
NO_VECTORS = ("-fno-vectorize", "-fno-slp-vectorize")


@dataclass(frozen=True, slots=True)
class Opponent:
    """A shared object with the kernels. sizes: bytes of each."""

    library: ctypes.CDLL
    sizes: dict[str, int]

    def function(self, name: str) -> Callable[[int, int], int] | None:
        """The kernel of that name as f(memory, n), if there is one."""
        if name not in self.sizes:
            return None
        function = self.library[name]
        function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_void_p, ctypes.c_int64]
        call: Callable[[int, int], int] = function
        return call


def compilers() -> Toolchain:
    """clang and lld. ToolError says how to come by them."""
    try:
        return toolchain.find()
    except ToolError as error:
        raise ToolError(
            f"{error.message}; cnp bench compares with clang's code: pip install 'cnp[build]'",
            **error.evidence,
        ) from error


def compiled(folder: Path, level: str) -> Opponent:
    """kernels.c compiled by clang with -O1 or -O2, without vectors: the operations have none."""
    target = targets.get("host")
    base_line = [flag for flag in target.cflags if flag.startswith(BASE_LINE)]
    flags = [level, *base_line, *MEANING, *NO_VECTORS]
    return build(folder / f"clang{level}", FOLDER / "kernels.c", target, flags)


def by_hand(folder: Path) -> Opponent | None:
    """The assembly for this machine; None where nobody wrote any."""
    target = targets.get("host")
    source = FOLDER / f"kernels.{target.name}.s"
    return build(folder / "hand", source, target, []) if source.exists() else None


def build(place: Path, source: Path, target: Target, flags: list[str]) -> Opponent:
    """Compile or assemble a source, link and load it. place: of the files, without their endings."""
    tools = compilers()
    built, library = place.with_suffix(".o"), place.with_suffix(".so")
    tools.compile(f"--target={target.triple}", *flags, "-fPIC", "-c", source, "-o", built)
    tools.link("-shared", built, "-o", library)
    try:
        return Opponent(ctypes.CDLL(str(library)), symbol_sizes(built))
    except OSError as error:
        raise CnpError(
            f"{source.name}, compiled by clang, does not load: {error}", path=str(library)
        ) from error


def symbol_sizes(path: Path) -> dict[str, int]:
    """Bytes of each function in an object."""
    from elftools.elf.elffile import ELFFile  # of the extra `build`, as clang is
    from elftools.elf.sections import SymbolTableSection

    with path.open("rb") as file:
        tables = [part for part in ELFFile(file).iter_sections() if isinstance(part, SymbolTableSection)]
        symbols = [symbol for table in tables for symbol in table.iter_symbols()]
        return {s.name: s["st_size"] for s in symbols if s["st_info"]["type"] == "STT_FUNC"}
