"""The figures that the library promises, measured: `python benchmarks/figures.py [--json] [--quick]`.

    fib      recursive fib(35) in the stack machine of examples/, against the same in C (clang -O1). All checks are on:
             overflow, call depth. `bound` is C whose recursive call is bound at compile time, `twice` C that really
             calls twice: clang turns one of the two calls into a loop otherwise.
    leaf     a call of `int64_t(int64_t, int64_t)` from Python, against the same in a compiled cffi module
    brainfuck  $CNP_SUITES/brainfuck/Mandelbrot.b, parsing and compiling included, against a switch interpreter of the same
             text in C (clang -O2, brackets resolved beforehand, no bounds check): how many times as fast; 3 rounds
    start    a whole process that imports cnp, loads a vocabulary, assembles and calls a function, against one that
             does nothing; modules compiled, files in the page cache, as it is once a library is installed

What is compared runs by turns in one process (`start`: by turns); a figure is the median of 9 rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import stack_vm  # noqa: E402

from cnp import brainfuck as bf  # noqa: E402
from cnp.build import toolchain  # noqa: E402
from cnp.targets import get  # noqa: E402

ROUNDS = 9
GOALS = {"fib": 2.0, "leaf": 1.5, "start": 100.0, "brainfuck": 1 / 12}

FIB = """
function fib n
    jump_if_local_less n 2 small
    call fib n-1
    call fib n-2
    add
    ret
small:
    ret_local n
"""

FIB_C = """
typedef long long i64;
i64 fib(i64 n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static i64 inner(i64 n) { return n < 2 ? n : inner(n - 1) + inner(n - 2); }
i64 fib_bound(i64 n) { return inner(n); }
__attribute__((disable_tail_calls)) static i64 both(i64 n) { return n < 2 ? n : both(n - 1) + both(n - 2); }
i64 fib_twice(i64 n) { return both(n); }
"""

LEAF = "function leaf a b\n load a\n load b\n add\n ret"

SWITCH_C = r"""
long run(const char *code, const int *partner, unsigned char *p, char *output) {
    char *start = output;
    for (long pc = 0;; pc++) switch (code[pc]) {
        case '>': p++; break;
        case '<': p--; break;
        case '+': ++*p; break;
        case '-': --*p; break;
        case '.': *output++ = (char)*p; break;
        case ',': *p = 0; break;
        case '[': if (!*p) pc = partner[pc]; break;
        case ']': if (*p) pc = partner[pc]; break;
        case 0: return output - start;
    }
}
"""

START = """
import sys
sys.path.insert(0, {root!r})
import cnp
asm = cnp.load({library!r}).assembler()
asm.function("leaf", frame=64)
asm.stack(cnp.slot(16)); asm.load(cnp.slot(0)); asm.load(cnp.slot(8)); asm.lt(); asm.ret()
assert asm.build()["leaf"].callable("int64_t(int64_t, int64_t)")(2, 3) == 1
"""


def by_turns(tasks: Mapping[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median seconds of each task."""
    taken: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            begun = time.perf_counter()
            task()
            taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def shared_object(folder: Path, text: str, level: str = "-O1") -> ctypes.CDLL:
    """C text compiled by clang and loaded."""
    source, built, library = (folder / f"opponent{level}{suffix}" for suffix in (".c", ".o", ".so"))
    source.write_text(text)
    tools = toolchain.find()
    tools.compile(f"--target={get('host').triple}", level, "-fPIC", "-c", source, "-o", built)
    tools.link("-shared", built, "-o", library)
    return ctypes.CDLL(str(library))


def fib(folder: Path, n: int) -> dict[str, float]:
    """Seconds of fib(n), and their ratios."""
    ours = stack_vm.Machine().assemble(FIB).callable("fib", "int64_t(int64_t)")
    library = shared_object(folder, FIB_C)
    theirs = {name: library[name] for name in ("fib", "fib_bound", "fib_twice")}
    for function in theirs.values():
        function.restype, function.argtypes = ctypes.c_int64, [ctypes.c_int64]
    if {ours(20), *(function(20) for function in theirs.values())} != {6765}:
        raise RuntimeError("fib(20) is not 6765")
    calls: dict[str, Callable[..., Any]] = {"ours": ours, **theirs}
    taken = by_turns({name: (lambda call=call: call(n)) for name, call in calls.items()})  # type: ignore[misc]
    return {
        "ratio": taken["ours"] / taken["fib"],
        "ratio_bound": taken["ours"] / taken["fib_bound"],
        "ratio_twice": taken["ours"] / taken["fib_twice"],
        "seconds": taken["ours"],
        "seconds_c": taken["fib"],
    }


def leaf(folder: Path, calls: int) -> dict[str, float]:
    """Nanoseconds of one call from a Python loop; the loop itself is not counted."""
    from cffi import FFI

    ffi = FFI()
    ffi.cdef("int64_t leaf(int64_t, int64_t);")
    ffi.set_source("cnp_bench_leaf", "int64_t leaf(int64_t a, int64_t b) { return a + b; }")
    ffi.compile(tmpdir=str(folder))
    sys.path.insert(0, str(folder))
    theirs = __import__("cnp_bench_leaf").lib.leaf
    ours = stack_vm.Machine().assemble(LEAF).callable("leaf", "int64_t(int64_t, int64_t)")
    if ours(2, 3) != theirs(2, 3):
        raise RuntimeError("the two leaves differ")

    def loop(function: Callable[[int, int], object] | None) -> Callable[[], None]:
        def run() -> None:
            if function is None:
                for _ in range(calls):
                    pass
            else:
                for _ in range(calls):
                    function(2, 3)

        return run

    taken = by_turns({"ours": loop(ours), "cffi": loop(theirs), "empty": loop(None)})
    one = {name: (taken[name] - taken["empty"]) / calls * 1e9 for name in ("ours", "cffi")}
    return {"ratio": one["ours"] / one["cffi"], "nanoseconds": one["ours"], "nanoseconds_cffi": one["cffi"]}


def brainfuck(folder: Path, program: Path) -> dict[str, float]:
    """Seconds of one program, and how they compare. Compiling is in ours, resolving brackets in neither."""
    text = bf.read_source(program)
    code = "".join(command for command in text if command in "<>+-.,[]").encode()
    partner, open_brackets = (ctypes.c_int * (len(code) + 1))(), []
    for place, command in enumerate(code):
        if command == ord("["):
            open_brackets.append(place)
        elif command == ord("]"):
            other = open_brackets.pop()
            partner[place], partner[other] = other, place
    output = ctypes.create_string_buffer(1 << 20)
    switch = shared_object(folder, SWITCH_C, "-O2").run

    def theirs() -> bytes:
        tape = ctypes.create_string_buffer(1 << 17)
        written = switch(code, partner, tape, output)
        return output.raw[:written]

    if theirs() != bf.run(text):
        raise RuntimeError("the outputs differ")
    taken = by_turns({"ours": lambda: bf.run(text), "switch": theirs}, rounds=3)
    return {
        "ratio": taken["ours"] / taken["switch"],
        "times_as_fast": taken["switch"] / taken["ours"],
        "seconds": taken["ours"],
        "seconds_switch": taken["switch"],
    }


def start(folder: Path) -> dict[str, float]:
    """Milliseconds of whole processes."""
    script = START.format(root=str(ROOT), library=stack_vm.Machine().vocabulary.library.path)
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def process(text: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", text], check=True, env=environment)

    tasks = {"ours": process(script), "bare": process("pass")}
    for task in tasks.values():
        task()  # compiles the modules
    taken = by_turns(tasks)
    return {
        "beyond_ms": (taken["ours"] - taken["bare"]) * 1e3,
        "ours_ms": taken["ours"] * 1e3,
        "bare_ms": taken["bare"] * 1e3,
    }


def outside_program() -> Path | None:
    """Mandelbrot.b of github.com/rdebath/Brainfuck, if it is there."""
    program = Path(os.environ.get("CNP_SUITES", "")) / "brainfuck" / "Mandelbrot.b"
    return program if program.exists() else None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="smaller work: for a look, not for the record")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cnp-") as scratch:
        folder = Path(scratch)
        figures = {
            "fib": fib(folder, 27 if arguments.quick else 35),
            "leaf": leaf(folder, 20_000 if arguments.quick else 1_000_000),
            "start": start(folder),
        }
        if program := outside_program():
            figures["brainfuck"] = brainfuck(folder, program)
        else:
            print(
                "brainfuck: left out; set CNP_SUITES to a folder with brainfuck/Mandelbrot.b", file=sys.stderr
            )
    met = {name: next(iter(values.values())) <= GOALS[name] for name, values in figures.items()}
    if arguments.json:
        print(json.dumps({"figures": figures, "goals": GOALS, "met": met}, indent=2))
    else:
        for name, values in figures.items():
            text = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
            print(f"{name:9} {'met   ' if met[name] else 'MISSED'} (goal {GOALS[name]:g}): {text}")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
