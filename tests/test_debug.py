"""Generated code as perf, gdb and unwinders see it: on all targets by what is written, on this machine by those programs."""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from elftools.dwarf.callframe import FDE
from elftools.elf.elffile import ELFFile

import cnp
from cnp import debug, link, native, patch
from cnp.debug import frames
from cnp.debug.ranges import ranges
from cnp.targets.unwind import RULES
from tests.core_programs import forms, program
from tests.support import every_target, need

BASE = 0x100000

BUILD = """
import ctypes, gc, os, sys
import cnp, cnp.debug
from cnp import slot

vm = cnp.load("ops")

def build(inner_name="inner", name="outer", helper=0, argument=0):
    asm = vm.assembler()
    inner = asm.function(inner_name, frame=256)
    asm.i64_move(slot(8), helper, at=("prog.lang", 3))
    asm.i64_move(slot(16), argument, at=("prog.lang", 3))
    if helper:
        asm.call_c(slot(8), slot(16), slot(0), at=("prog.lang", 4))
    asm.ret(slot(16))
    asm.function(name, frame=256)
    asm.call(inner, slot(256), slot(0), at=("prog.lang", 8))
    asm.poll()
    asm.ret(slot(0), at=("prog.lang", 9))
    return asm.build()
"""


def python(script: str, folder: Path, **environment: str) -> str:
    """What a new process says: what it is asked to watch goes on until its end."""
    (folder / "script.py").write_text(BUILD + script)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- the stack


@every_target
def test_frames_of_every_form_that_moves_the_stack(target: str) -> None:
    """All of its code is reached; as much stack is taken as the build saw; a call finds the return address saved."""
    lib = cnp.load("ops", target).library
    chosen = [item for item in forms(lib) if item[1].near.stack]
    random.Random(target).shuffle(chosen)
    asm = program(lib, 1, 40, chosen)
    image = patch.encode(asm.program, BASE, None, lambda name: 0x200000)
    rules, reader, calls = RULES[target], frames.Reader(lib.target), 0
    moving = [(number, op) for number, op in enumerate(asm.program.ops) if op.form.near.stack]
    for number, op in moving:
        blocks = [
            (image.base + start, image.base + end) for start, end, owner in image.ranges if owner == number
        ]
        code = dict(reader.decode(image, blocks))
        rows = {
            row.address: row
            for table in reader.follow(image, blocks, image.base + image.offsets[number]).values()
            for row in table
        }
        assert rows.keys() == code.keys(), op.operation.name
        assert max(row.depth for row in rows.values()) == op.form.near.stack, op.operation.name
        for address, instruction in code.items():
            if rules.call.match(instruction.text):
                calls += 1
                assert rules.pushed or rules.link in rows[address].saved
    assert calls


@every_target
def test_a_symbol_file_is_what_elftools_reads(target: str) -> None:
    asm = cnp.load("ops", target).assembler()
    one = asm.function("one", frame=256)
    asm.op("poll", at=("prog.lang", 3))
    asm.op("ret", cnp.slot(0))
    asm.function("two", frame=256)
    asm.op("call", one, cnp.slot(256), cnp.slot(0), at=("other.lang", 7))
    asm.op("ret", cnp.slot(0))
    image = patch.encode(asm.program, BASE, None, lambda name: 0x200000)
    elf: Any = ELFFile(io.BytesIO(debug.symbol_file(asm.program, image)))
    symbols = {
        s.name: (s["st_value"], s["st_size"]) for s in elf.get_section_by_name(".symtab").iter_symbols()
    }
    assert {name: symbols[name][0] for name in image.symbols} == image.symbols
    assert 0 <= len(image.code) - sum(part.end - part.start for part in ranges(asm.program, image)) < 64
    assert {"one.cold", "two.cold", "cnp_enter", "cnp_leave_trap"} <= symbols.keys()

    dwarf = elf.get_dwarf_info()
    (unit,) = dwarf.iter_CUs()
    table = dwarf.line_program_for_CU(unit)
    names = [entry.name.decode() for entry in table["file_entry"]]
    places = [
        (e.state.address, names[e.state.file - 1], e.state.line)
        for e in table.get_entries()
        if e.state and not e.state.end_sequence
    ]
    assert (image.base + image.offsets[0], "prog.lang", 3) in places
    assert (image.base + image.offsets[2], "other.lang", 7) in places

    rules = RULES[target]
    entries = [entry for entry in dwarf.EH_CFI_entries() if isinstance(entry, FDE)]
    covered = [(entry["initial_location"], entry["address_range"]) for entry in entries]
    assert covered == [(part.start, part.end - part.start) for part in ranges(asm.program, image)]
    deepest = max(row["cfa"].offset for entry in entries for row in entry.get_decoded().table)
    assert deepest >= asm.program.ops[2].form.near.stack + rules.pushed
    assert all(entry.get_decoded().table[0]["cfa"].reg == rules.pointer for entry in entries)


def test_code_of_one_name_in_several_places() -> None:
    asm = cnp.load("ops", "x86_64").assembler()
    for name in ("one", "two\n"):
        asm.function(name, frame=64)
        asm.op("poll")
        asm.op("ret", cnp.slot(0))
    image = patch.encode(asm.program, BASE, None, lambda name: 0x200000)
    found = [(part.name, part.function) for part in ranges(asm.program, image)]
    assert found[:4] == [("one", True), ("two\n", True), ("one.cold", False), ("two\n.cold", False)]
    assert b"two?" in debug.symbol_file(asm.program, image)


# ---- unwinding

THROWING = """
extern "C" int guarded(void (*enter)(void *, void *), void *frame, void *code) {
    try { enter(frame, code); } catch (int value) { return value; }
    return -1;
}
extern "C" long thrower(long value) { throw int(value); }
"""


def test_an_exception_passes_through_generated_code(tmp_path: Path) -> None:
    need(shutil.which("g++") is not None, "g++ compiles what throws")
    (tmp_path / "throw.cpp").write_text(THROWING)
    subprocess.run(["g++", "-shared", "-fPIC", "throw.cpp", "-o", "throw.so"], cwd=tmp_path, check=True)
    said = python(
        """
from cnp import running
cnp.debug.unwinding()
lib = ctypes.CDLL("./throw.so")
lib.guarded.argtypes = [ctypes.c_void_p] * 3
for turn in range(3):
    code = build(helper=ctypes.cast(lib.thrower, ctypes.c_void_p).value, argument=42 + turn)
    area = running.prepare(code, None, {}, 100, None, code["outer"].function, 64)
    print(lib.guarded(code.image.enter, area.address, code["outer"].address))
    del code
    gc.collect()
""",
        tmp_path,
    )
    assert said.split() == ["42", "43", "44"]


def test_backtraces_go_on_until_code_is_freed(tmp_path: Path) -> None:
    """docs/debugging.md walks through two functions; here what was registered is taken back."""
    said = python(
        """
cnp.debug.unwinding()
from cnp import link
taken = []
register = link.watchers["unwinding"]
link.watchers["unwinding"] = lambda *given: (undo := register(*given)) and (lambda: (undo(), taken.append(1)))
for _ in range(3):
    build()["outer"].run()
    gc.collect()
print(len(taken))
""",
        tmp_path,
    )
    assert said.split() == ["3"]


# ---- perf


def test_the_map_of_a_process(tmp_path: Path) -> None:
    """Code has a line each; what other code takes the place of has none any more; a child has a map of its own."""
    said = python(
        """
first, second = build("a", "b"), build("c", "d")
print(os.getpid(), *(code[name].address for code, name in ((first, "a"), (first, "b"), (second, "c"))))
old = first["b"].address
del first
gc.collect()
third = build("e", "f")
assert third["f"].address == old
if not (child := os.fork()):
    fourth = build("g", "h")
    os._exit(0)
os.waitpid(child, 0)
print(child)
""",
        tmp_path,
        CNP_DEBUG="perf_map",
    )
    parent, a, b, c, child = map(int, said.split())
    maps = [Path(f"/tmp/perf-{process}.map") for process in (parent, child)]
    tables = [[line.split() for line in path.read_text().splitlines()] for path in maps]
    for path in maps:
        path.unlink()
    where = [{name: int(address, 16) for address, _, name in table} for table in tables]
    assert (where[0]["e"], where[0]["f"], where[0]["c"]) == (a, b, c)
    assert "a" not in where[0] and "g" not in where[0]
    assert {"c", "d", "e", "f", "g", "h", "cnp_enter"} <= where[1].keys()
    assert all(int(size, 16) > 0 for _, size, _ in tables[0])


def test_the_dump_of_a_process(tmp_path: Path) -> None:
    said = python(
        """
cnp.debug.jitdump()
code = build()
print(os.getpid(), code["outer"].address, code.image.code[:16].hex())
print([line for line in open("/proc/self/maps") if line.rstrip().endswith(".dump") and " r-x" in line] != [])
""",
        tmp_path,
    )
    process, address, first, mapped = said.split()
    data = (tmp_path / f"jit-{process}.dump").read_bytes()
    magic, version, at, _, _, owner, _, _ = struct.unpack_from("=IIIIIIQQ", data)
    assert (magic, version, owner, mapped) == (0x4A695444, 1, int(process), "True")
    loads, lines = {}, {}
    while at < len(data):
        kind, size, _ = struct.unpack_from("=IIQ", data, at)
        body = data[at + 16 : at + size]
        if kind == 0:
            _, _, where, _, length, _ = struct.unpack_from("=IIQQQQ", body)
            name, _, code = body[40:].partition(b"\0")
            assert len(code) == length
            loads[name] = where, code
        else:
            where, count = struct.unpack_from("=QQ", body)
            lines[where] = re.findall(rb"prog\.lang\0", body), count
        at += size
    assert at == len(data)
    assert loads[b"outer"][0] == int(address) and loads[b"inner"][1].startswith(bytes.fromhex(first))
    found, count = lines[int(address)]
    assert len(found) == count >= 3


# ---- gdb


def gdb(script: str, folder: Path, *commands: str) -> str:
    need(shutil.which("gdb") is not None, "gdb reads the symbols")
    need(native.available, "gdb finds code by a symbol of cnp._core")
    (folder / "script.py").write_text(BUILD + script)
    first = ("set pagination off", "set breakpoint pending on", "set width 0", "set debuginfod enabled off")
    arguments = [part for command in (*first, *commands) for part in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-q", "-batch", *arguments, "--args", sys.executable, "script.py"],
        cwd=folder, env={**os.environ, "CNP_DEBUG": "gdb"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_gdb_stops_by_name_and_by_line_and_walks_back(tmp_path: Path) -> None:
    said = gdb(
        'build()["outer"].run()',
        tmp_path,
        "break inner",
        "run",
        "bt 8",
        "break prog.lang:9",
        "continue",
        "bt 4",
    )
    assert re.search(
        r"#0 .*inner \(\) at prog.lang:3\n#1 .* in outer \(\) at prog.lang:8\n#2 .* in cnp_enter \(\)\n", said
    ), said
    assert re.search(r"#0 .*outer \(\) at prog.lang:9\n#1 .* in cnp_enter \(\)\n(.*\n)*.*cnp_run", said), said


def test_gdb_walks_back_from_every_instruction(tmp_path: Path) -> None:
    steps = 120
    said = gdb(
        'build()["outer"].run()', tmp_path, "break outer", "run",
        *["stepi", "bt 8"] * steps,
    )  # fmt: skip
    walked = [part for part in re.split(r"(?m)^#0 ", said)[1:] if "cnp_enter" in part]
    assert len(walked) > 60, said
    assert all("cnp_run" in part for part in walked)


def test_gdb_forgets_what_is_freed(tmp_path: Path) -> None:
    script = "build('gone', 'b')\ngc.collect()\nkept = build('stays', 'd')\nos.getppid()"
    said = gdb(script, tmp_path, "break getppid", "run", "info symbol gone", "info symbol stays")
    assert 'No symbol "gone"' in said, said
    assert "stays in section .text" in said, said


# ---- what is refused


def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    said = python(
        """
for change, call in (("CNP_MEMORY", cnp.debug.gdb), ("CNP_DEBUG", build)):
    try:
        call()
    except cnp.errors.StateError as error:
        print(error.state)
""",
        tmp_path,
        CNP_DEBUG="gbd",
        CNP_MEMORY="dual",
    )
    assert said.split() == ["dual", "gbd"]


def test_a_watcher_that_fails_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def good(*_: object) -> object:
        told.append("told")
        return lambda: told.append("taken back")

    def bad(*_: object) -> object:
        raise OSError("full")

    monkeypatch.setattr(link, "watchers", {"good": good, "bad": bad})
    asm = cnp.load("ops").assembler()
    asm.function("main", frame=8)
    asm.op("ret", cnp.slot(0))
    with pytest.raises(OSError, match="full"):
        asm.build()
    assert told == ["told", "taken back"]
