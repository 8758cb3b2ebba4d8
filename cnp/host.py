"""Runs generated code of any target: packs an image, starts the host program (in qemu), reads its report.

The host program (host/host.c) is freestanding. One is built for each target by `build_host` at build time and
lies in the package as host/bin/TARGET, with the addresses of its helpers in host/bin/TARGET.json. All numbers
in both files below are u64 in the target's byte order.

    image                                                 report
    +------------------------------------------------+    +-----------------------------------+
    | magic     the letters cnpimg01, most           |    | magic   cnprep01, likewise        |
    |           significant first                    |    | count   of the calls              |
    | size      of this file, bytes                  |    +-----------------------------------+
    | segments  how many                             |    | what the call returned            | x count
    | calls     how many                             |    +-----------------------------------+
    | dumps     how many                             |    | bytes of each dump, no padding    |
    +------------------------------------------------+    +-----------------------------------+
    | address                                        | x segments
    | size        of the memory, bytes               |
    | protection  1 read + 2 write + 4 execute       |
    | offset      of the contents in this file       |
    | bytes       of contents; zeros follow          |
    +------------------------------------------------+
    | routine, argument 0, 1, 2, 3                   | x calls
    +------------------------------------------------+
    | address, size                                  | x dumps
    +------------------------------------------------+
    | contents of the segments, each 16-aligned      |
    +------------------------------------------------+

The host maps every segment writable, fills it, flushes the instruction cache, then sets its protection; it
makes the calls in order by the target's C ABI; it dumps memory after the last one.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cnp.errors import HostError, OperandError, ToolError

# Where things lie in a process of a host program. Every address is good for every target, under qemu-user and
# a plain kernel: below 2^38 (RISC-V Sv39), where qemu's own area for mmap begins too.
#
#     0x00_1000_0000  HOST_BASE      the host program, its buffers behind it
#     0x00_1100_0000  CODE_BASE      code: its first 15 MiB reach the helpers by every direct branch (at least
#                                    +-32 MiB); all of it lies in one 256 MiB region with them
#     0x00_3000_0000  DATA_BASE      data, its addresses positive in 32 signed bits
#     0x12_3000_0000  FAR_CODE_BASE  code out of reach of the helpers for any direct branch; begins a region
#     0x12_4000_0000  FAR_DATA_BASE  data with addresses of more than 32 bits, within +-2 GiB of that code
HOST_BASE = 0x1000_0000
CODE_BASE = 0x1100_0000
DATA_BASE = 0x3000_0000
FAR_CODE_BASE = 0x12_3000_0000
FAR_DATA_BASE = 0x12_4000_0000
CODE_ROOM = 0x0F00_0000  # bytes of code that either code base has room for
PAGE = 4096  # a segment starts on such a boundary

_FOLDER = Path(__file__).parent / "host"
_IMAGE_MAGIC = int.from_bytes(b"cnpimg01", "big")
_REPORT_MAGIC = int.from_bytes(b"cnprep01", "big")
_HEADER_BYTES, _SEGMENT_BYTES, _CALL_BYTES, _DUMP_BYTES = 40, 40, 40, 16
_PROTECTIONS = {"r": 1, "rw": 3, "rx": 5}
_ARGUMENTS = 4
_STATUS_FAILED = 125  # the host program itself found what is wrong and wrote it to stderr

# The target brings its own flags; these make small, reproducible code that calls no library.
_CFLAGS = [
    "-std=gnu11",
    "-Os",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-pic",
    "-fno-stack-protector",
    "-fno-strict-aliasing",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
    "-fno-ident",
]
_LDFLAGS = ["-static", "--image-base", hex(HOST_BASE), "-e", "_start", "-z", "noexecstack", "--build-id=none"]


class TargetLike(Protocol):
    """What this module needs to know of a target."""

    @property
    def name(self) -> str: ...
    @property
    def byteorder(self) -> str:
        """'little' or 'big'."""

    @property
    def qemu(self) -> str:
        """The architecture as qemu-user and `uname -m` spell it."""

    @property
    def emulated(self) -> str:
        """The processor that qemu-user is to be; "" for its default."""


@dataclass(frozen=True)
class Segment:
    """Memory of an image: `data` at `address` (on a page boundary), followed by zeros up to `size` bytes."""

    address: int
    data: bytes
    protection: str  # "r", "rw" or "rx": never writable and executable
    size: int = 0  # 0: as long as data


@dataclass(frozen=True)
class Call:
    """A call of the C routine at `routine` with up to four integers of 64 bits, signed or unsigned."""

    routine: int
    arguments: Sequence[int] = ()


@dataclass(frozen=True)
class HostImage:
    """What one process of a host program does: map `segments`, make `calls`, dump (address, size) ranges."""

    segments: Sequence[Segment]
    calls: Sequence[Call] = ()
    dumps: Sequence[tuple[int, int]] = ()

    def pack(self, byteorder: str) -> bytes:
        """The image file for targets of a byte order; OperandError names what cannot be packed."""
        offset = (
            _HEADER_BYTES
            + _SEGMENT_BYTES * len(self.segments)
            + _CALL_BYTES * len(self.calls)
            + _DUMP_BYTES * len(self.dumps)
        )
        words: list[int] = []
        contents: list[bytes] = []
        for number, segment in enumerate(self.segments):
            _check_segment(number, segment)
            padding = -offset % 16
            offset += padding
            size = segment.size or len(segment.data)
            protection = _PROTECTIONS[segment.protection]
            words += (segment.address, size, protection, offset, len(segment.data))
            contents += (bytes(padding), segment.data)
            offset += len(segment.data)
        for number, call in enumerate(self.calls):
            words += _call_words(number, call)
        for number, (address, size) in enumerate(self.dumps):
            _check_range("dump", number, address, size)
            words += (address, size)
        header = [_IMAGE_MAGIC, offset, len(self.segments), len(self.calls), len(self.dumps)]
        tables = struct.pack(f"{_order(byteorder)}{len(header) + len(words)}Q", *header, *words)
        return b"".join([tables, *contents])


@dataclass(frozen=True)
class Report:
    """What came out: the u64 result of each call, the bytes of each dump, what was written to the streams."""

    values: list[int]
    dumps: list[bytes]
    stdout: bytes
    stderr: bytes


def emulator(target: TargetLike) -> list[str] | None:
    """The command that runs a program of the target: [] where this machine does, None where nothing can."""
    if sys.platform == "linux" and (platform.machine(), sys.byteorder) == (target.qemu, target.byteorder):
        return []
    for name in (f"qemu-{target.qemu}-static", f"qemu-{target.qemu}"):
        path = shutil.which(name)
        if path:
            return [path, "-cpu", target.emulated] if target.emulated else [path]
    return None


def host_program(target: TargetLike) -> Path:
    """The target's host program in the package; ToolError tells how to build it."""
    return _checked_program(target, _FOLDER / "bin" / target.name)


def symbols(target: TargetLike, program: Path | None = None) -> dict[str, int]:
    """Name -> address of each helper in the host program (or in another `program` made by build_host)."""
    program = _checked_program(target, program) if program else host_program(target)
    try:
        facts = json.loads(_facts_path(program).read_text(encoding="ascii"))
        digest, table = facts["sha256"], facts["symbols"]
    except (OSError, ValueError, KeyError) as error:
        raise _not_built(target, program, f"its list of symbols cannot be read ({error})") from error
    if digest != hashlib.sha256(program.read_bytes()).hexdigest():
        raise _not_built(target, program, "its list of symbols belongs to another program")
    return {str(name): int(address) for name, address in table.items()}


def run(
    target: TargetLike,
    image: HostImage,
    stdin: bytes = b"",
    timeout: float | None = 60.0,
    program: Path | None = None,
) -> Report:
    """Run an image to its end. HostError: it did not get there (fields target, status, output, stdout).

    `status` is that of subprocess: negative for a signal, None after `timeout` seconds. `program` is a host
    program made by build_host, in place of the one in the package.
    """
    program = _checked_program(target, program) if program else host_program(target)
    prefix = emulator(target)
    if prefix is None:
        tool = f"qemu-{target.qemu}"
        raise ToolError(
            f"no emulator for {target.name}: install {tool} (Debian: qemu-user-static)",
            tool=tool,
            target=target.name,
        )
    # The folder is the working directory too, so that a core file of a crash goes with it.
    with tempfile.TemporaryDirectory(prefix="cnp-host-") as folder:
        (Path(folder) / "image").write_bytes(image.pack(target.byteorder))
        command = [*prefix, str(program.resolve()), "image", "report"]
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, cwd=folder, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _failure(target, None, error.stdout or b"", error.stderr or b"", f"{timeout} s") from error
        if done.returncode:
            raise _failure(target, done.returncode, done.stdout, done.stderr)
        values, dumps = _read_report(target, image, (Path(folder) / "report").read_bytes())
    return Report(values, dumps, done.stdout, done.stderr)


def build_host(
    target_name: str,
    triple: str,
    cflags: Sequence[str],
    clang_command: Sequence[str],
    lld_command: Sequence[str],
    out: Path,
    inputs: str = "",
) -> Path:
    """Compile and link the target's host program: OUT/TARGET, OUT/TARGET.json, each moved into place whole.

    `cflags` are what the target asks for; the commands are those of clang and ld.lld, with leading arguments.
    `inputs` is kept with the facts: a digest by which a builder knows later whether the program is up to date.
    Returns the program's path. The bytes depend on source, flags and tools alone. ToolError: a tool is
    missing or failed. Needs pyelftools, which a run does not.
    """
    out.mkdir(parents=True, exist_ok=True)
    # In `out` itself, because a move into place is one step only within a file system.
    with tempfile.TemporaryDirectory(prefix=f".{target_name}-", dir=out) as folder:
        built, compiled = Path(folder).resolve() / target_name, Path(folder).resolve() / "host.o"
        flags = [f"--target={triple}", *cflags, *_CFLAGS]
        _tool([*clang_command, *flags, "-c", "host.c", "-o", str(compiled)], target_name)
        _tool([*lld_command, *_LDFLAGS, str(compiled), "-o", str(built)], target_name)
        facts = {
            "target": target_name,
            "inputs": inputs,
            "sha256": hashlib.sha256(built.read_bytes()).hexdigest(),
            "symbols": _read_symbols(built),
        }
        _facts_path(built).write_text(json.dumps(facts, indent=1) + "\n", encoding="ascii")
        program = out / target_name
        os.replace(built, program)
        os.replace(_facts_path(built), _facts_path(program))
    return program


def _order(byteorder: str) -> str:
    """The struct module's sign for a byte order."""
    try:
        return {"little": "<", "big": ">"}[byteorder]
    except KeyError:
        raise OperandError(
            f"byte order {byteorder!r}", operand="byteorder", value=byteorder, allowed=("little", "big")
        ) from None


def _check_range(part: str, number: int, address: int, size: int) -> None:
    if not (0 <= address < 1 << 64 and 0 < size <= (1 << 64) - address):
        raise OperandError(
            f"{part} {number}: {size} bytes at {address:#x} are no range of a 64-bit address space",
            operand=part,
            index=number,
            value=(address, size),
            allowed=(0, 1 << 64),
        )


def _check_segment(number: int, segment: Segment) -> None:
    if segment.protection not in _PROTECTIONS:
        raise OperandError(
            f"segment {number}: protection {segment.protection!r} is none of {', '.join(_PROTECTIONS)}",
            operand="protection",
            index=number,
            value=segment.protection,
            allowed=tuple(_PROTECTIONS),
        )
    size = segment.size or len(segment.data)
    _check_range("segment", number, segment.address, size)
    if len(segment.data) > size:
        raise OperandError(
            f"segment {number}: {len(segment.data)} bytes of data in {size} bytes",
            operand="segment",
            index=number,
            value=len(segment.data),
            allowed=size,
        )


def _call_words(number: int, call: Call) -> tuple[int, ...]:
    """Routine and four arguments as u64."""
    arguments = call.arguments
    if len(arguments) > _ARGUMENTS or not all(
        -(1 << 63) <= value < 1 << 64 for value in (call.routine, *arguments)
    ):
        raise OperandError(
            f"call {number}: {tuple(arguments)} are not up to {_ARGUMENTS} integers of 64 bits",
            operand="call",
            index=number,
            value=(call.routine, *arguments),
            allowed=(-(1 << 63), (1 << 64) - 1),
        )
    mask = (1 << 64) - 1
    return (
        call.routine & mask,
        *(value & mask for value in arguments),
        *(0 for _ in range(_ARGUMENTS - len(arguments))),
    )


def _read_report(target: TargetLike, image: HostImage, data: bytes) -> tuple[list[int], list[bytes]]:
    """Values and dumps of a report; HostError when it is not the report of this image."""
    count = len(image.calls)
    offset = 16 + 8 * count
    head = struct.Struct(f"{_order(target.byteorder)}{2 + count}Q")
    if len(data) != offset + sum(size for _, size in image.dumps):
        raise HostError(
            f"{target.name}: the report has {len(data)} bytes", target=target.name, status=0, output=""
        )
    magic, calls, *values = head.unpack_from(data)
    if (magic, calls) != (_REPORT_MAGIC, count):
        raise HostError(
            f"{target.name}: this is no report of {count} calls", target=target.name, status=0, output=""
        )
    dumps = []
    for _, size in image.dumps:
        dumps.append(data[offset : offset + size])
        offset += size
    return values, dumps


def _failure(
    target: TargetLike, status: int | None, stdout: bytes, stderr: bytes, limit: str = ""
) -> HostError:
    """The error of a process that did not end well."""
    text = stderr.decode("utf-8", "replace").strip()
    if status is None:
        reason = f"no end after {limit}"
    elif status < 0:
        reason = f"the code died of {_signal_name(-status)}"
    elif status == _STATUS_FAILED:
        reason = "the host program gave up"
    else:
        reason = f"ended with status {status}"
    message = f"{target.name}: {reason}" + (f": {text.splitlines()[-1]}" if text else "")
    return HostError(message, target=target.name, status=status, output=text, stdout=stdout)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _facts_path(program: Path) -> Path:
    return program.with_name(program.name + ".json")


def _not_built(target: TargetLike, program: Path, reason: str) -> ToolError:
    return ToolError(
        f"no host program for {target.name}: {program}: {reason}; "
        f"run: python build_stencils.py --target {target.name}",
        tool="host",
        target=target.name,
        path=program,
    )


def _checked_program(target: TargetLike, program: Path) -> Path:
    if not program.is_file():
        raise _not_built(target, program, "no such file")
    if not os.access(program, os.X_OK):  # both a kernel and qemu-user ask for this bit
        raise _not_built(target, program, "it is not executable")
    return program


def _tool(command: Sequence[str], target_name: str) -> None:
    """Run a build tool in the folder of host.c, so that no path of this machine can enter its output."""
    try:
        done = subprocess.run(
            command, cwd=_FOLDER, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise ToolError(f"cannot start {command[0]}: {error}", tool=command[0], target=target_name) from error
    if done.returncode:
        text = done.stderr.strip() or f"status {done.returncode}"
        raise ToolError(
            f"{target_name}: host.c was not built: {text}", tool=command[0], target=target_name, output=text
        )


def _read_symbols(program: Path) -> dict[str, int]:
    """Name -> address of the functions that host.c exports: what a function pointer to them holds."""
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    with program.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            raise ToolError(f"{program.name}: the linker left no symbols", tool="ld.lld", target=program.name)
        found = {
            str(symbol.name): int(symbol["st_value"])
            for symbol in table.iter_symbols()
            if (symbol["st_info"]["type"], symbol["st_info"]["bind"]) == ("STT_FUNC", "STB_GLOBAL")
            and symbol["st_other"]["visibility"] == "STV_DEFAULT"
        }
    del found["_start"]  # takes no call
    return dict(sorted(found.items()))
