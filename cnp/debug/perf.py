"""Names of generated code for perf: the map of a process, and jitdump, which keeps the code as well.

perf-PID.map    address size name           a line for each range, in hexadecimal

jit-PID.dump    magic, version, size, machine, pad, process, time, flags
                record: kind, size, time
                    lines   address, count, (address, line, discriminator, file) …      before the code they are of
                    code    process, thread, address, address, size, number, name, bytes
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import BinaryIO

from cnp.debug.ranges import Line, Range, lines, name, ranges
from cnp.errors import ToolError
from cnp.patch import Image
from cnp.program import Program

MAPS = Path("/tmp")  #: the only place where perf looks for maps
MAGIC, VERSION = 0x4A695444, 1  # "JiTD"
LOAD, DEBUG_INFO = 0, 2
HEADER, RECORD, CODE, ENTRY = "=IIIIIIQQ", "=IIQ", "=IIQQQQ", "=QII"


class Sink:
    """A file of this process. In the child of a fork it is written anew, with the code that the child has, too.

    live: what was added and not taken back, by number.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._numbers = count()
        self.live: dict[int, list[tuple[Range, bytes, list[Line]]]] = {}
        self.open()
        os.register_at_fork(after_in_child=self._in_child)

    def _in_child(self) -> None:
        self._lock = threading.RLock()
        self.open()
        for entries in list(self.live.values()):
            self.write(entries)

    def add(self, program: Program, image: Image) -> Callable[[], None]:
        """Write the ranges of an image; what takes them back."""
        table = lines(program, image)
        entries = []
        for part in ranges(program, image):
            code = image.code[part.start - image.base : part.end - image.base]
            entries.append((part, code, [line for line in table if part.start <= line.address < part.end]))
        number = next(self._numbers)
        with self._lock:
            self.write(entries)
            self.live[number] = entries
        return lambda: self.forget(number)

    def open(self) -> None:
        raise NotImplementedError

    def write(self, entries: list[tuple[Range, bytes, list[Line]]]) -> None:
        raise NotImplementedError

    def forget(self, number: int) -> None:
        """May interrupt any of the others: it is called by finalizers."""
        self.live.pop(number, None)


def opened(path: Path) -> BinaryIO:
    """A new file, which is nobody's link. ToolError: it cannot be made."""
    try:
        path.unlink(missing_ok=True)
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w+b", 0)
    except OSError as error:
        raise ToolError(f"{path} cannot be written: {error.strerror}", tool="perf") from error


class PerfMap(Sink):
    """Freed code keeps its lines, since perf reads them after the end, until other code takes its place."""

    def open(self) -> None:
        self._file = opened(MAPS / f"perf-{os.getpid()}.map")
        self._freed: list[tuple[int, int]] = []

    def write(self, entries: list[tuple[Range, bytes, list[Line]]]) -> None:
        parts = [part for part, _, _ in entries]
        if any(start < part.end and part.start < end for start, end in self._freed for part in parts):
            self._freed.clear()
            self._file.seek(0)
            self._file.truncate()
            parts = [part for others in list(self.live.values()) for part, _, _ in others] + parts
        self._file.write(
            b"".join(b"%x %x %b\n" % (part.start, part.end - part.start, name(part.name)) for part in parts)
        )

    def forget(self, number: int) -> None:
        for part, _, _ in self.live.pop(number, ()):
            self._freed.append((part.start, part.end))


class JitDump(Sink):
    """Each record has its time, so that it is clear what lay where when: nothing is taken back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._count = count()
        super().__init__()

    def open(self) -> None:
        self.path = self.folder / f"jit-{os.getpid()}.dump"
        self._file = opened(self.path)
        with open("/proc/self/exe", "rb") as python:
            machine = struct.unpack_from("=H", python.read(20), 18)[0]  # e_machine of an ELF header
        size = struct.calcsize(HEADER)
        self._file.write(struct.pack(HEADER, MAGIC, VERSION, size, machine, 0, os.getpid(), now(), 0))
        # perf learns of the file by this: it records each mapping that may be executed.
        self._marker = mmap.mmap(self._file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)

    def write(self, entries: list[tuple[Range, bytes, list[Line]]]) -> None:
        for part, code, table in entries:
            if table:
                closed = [
                    *table,
                    table[-1]._replace(address=part.end),
                ]  # perf ends its table behind the last row
                rows = (struct.pack(ENTRY, a, line, 0) + name(file) + b"\0" for a, file, line in closed)
                self.record(DEBUG_INFO, struct.pack("=QQ", part.start, len(closed)) + b"".join(rows))
            ids = os.getpid(), threading.get_native_id()
            head = struct.pack(CODE, *ids, part.start, part.start, len(code), next(self._count))
            self.record(LOAD, head + name(part.name) + b"\0" + code)

    def record(self, kind: int, content: bytes) -> None:
        self._file.write(struct.pack(RECORD, kind, struct.calcsize(RECORD) + len(content), now()) + content)


def now() -> int:
    """The clock of `perf record -k mono`."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
