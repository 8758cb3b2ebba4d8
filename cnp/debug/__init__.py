"""Generated code for perf, gdb and unwinders: four calls, each of them for all code that is built from then on.

cnp.debug.perf_map()      /tmp/perf-PID.map: names for `perf report`
cnp.debug.jitdump()       jit-PID.dump: names, code and lines for `perf inject --jit`
cnp.debug.gdb()           names, lines and frames for gdb
cnp.debug.unwinding()     frames for C++ exceptions and backtrace(): generated code calls what throws or walks

CNP_DEBUG=perf_map,gdb in the environment makes these calls before the first code is built. What a call has been told of
code is taken back when that is freed, where the format allows it (docs/debugging.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path

from cnp import link, native, targets
from cnp.debug import perf
from cnp.debug.elf import eh_frame, symbol_file
from cnp.debug.ranges import ranges
from cnp.errors import MemoryFault, StateError, ToolError
from cnp.patch import Image
from cnp.program import Program

ONE_VIEW = "flip"  #: the scheme of `cnp/memory.py`

__all__ = ["gdb", "jitdump", "perf_map", "symbol_file", "unwinding"]


def perf_map() -> None:
    """Write a line for each function to /tmp/perf-PID.map, where perf looks. ToolError: it cannot be written.

    To be called before any code is built: code memory is of one view then, and StateError says that it cannot be any
    more. perf takes two views for a file, in which it looks for names.
    """
    if "perf_map" not in link.watchers:
        one_view()
        link.watchers["perf_map"] = perf.PerfMap().add


def jitdump(folder: str | Path = ".") -> None:
    """Write each function to jit-PID.dump in a folder, with its code and its lines. Of `perf record -k mono` that makes
    `perf inject --jit` what perf shows instructions of. ToolError: it cannot be written."""
    if "jitdump" not in link.watchers:
        link.watchers["jitdump"] = perf.JitDump(Path(folder)).add


def gdb() -> None:
    """Tell gdb of functions, lines and frames, whether it watches already or attaches later. StateError: cnp._core is
    missing. ToolError: capstone is.

    To be called before any code is built: code memory is of one view then, and StateError says that it cannot be any
    more. Of two views gdb writes its breakpoints to the wrong one.
    """
    if not native.available:
        raise StateError(
            f"gdb finds code by a symbol of cnp._core, which is missing: {native.reason}", state="pure"
        )
    one_view()
    link.watchers["gdb"] = show_gdb


def one_view() -> None:
    """Have code memory of plain anonymous pages."""
    memory = link.code_memory(targets.get("host"), ONE_VIEW)
    if memory.scheme.name != ONE_VIEW:
        message = (
            f"code memory has two views ({memory.scheme.reason}), which perf and gdb do not see through: "
            f"make this call before any code is built, or set CNP_MEMORY={ONE_VIEW}"
        )
        raise StateError(message, state=memory.scheme.name)


def unwinding() -> None:
    """Let exceptions of C++, `backtrace()` and the like pass through generated code. ToolError: there is no libgcc_s, or
    no capstone."""
    if "unwinding" in link.watchers:
        return
    try:
        runtime = ctypes.CDLL("libgcc_s.so.1")
    except OSError as error:
        raise ToolError(f"frames are registered with libgcc_s: {error}", tool="libgcc_s.so.1") from error

    def register(program: Program, image: Image) -> Callable[[], None]:
        section = ctypes.create_string_buffer(eh_frame(program, image, list(ranges(program, image))))
        runtime.__register_frame(section)
        return lambda: runtime.__deregister_frame(section)

    link.watchers["unwinding"] = register


def show_gdb(program: Program, image: Image) -> Callable[[], None]:
    """Add the file of one image to gdb's list; what takes it back."""
    lib, content = native.core_module.lib, symbol_file(program, image)
    added = lib.cnp_gdb_add(content, len(content))
    if not added:
        raise MemoryFault("no memory for what gdb is told", call="malloc", errno=None, size=len(content))
    return lambda: lib.cnp_gdb_remove(added)


CALLS = {"perf_map": perf_map, "jitdump": jitdump, "gdb": gdb, "unwinding": unwinding}


def from_environment(names: str) -> None:
    """Make the calls that CNP_DEBUG names. StateError: it names something else."""
    for name in filter(None, names.split(",")):
        if name not in CALLS:
            raise StateError(f"CNP_DEBUG={names}: {name!r} is none of {', '.join(CALLS)}", state=name)
        CALLS[name]()
