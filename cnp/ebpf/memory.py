"""The memory of a run: buffers that are held while a program uses them, and what Python helpers may touch of it.

def checksum(r1, r2, r3, r4, r5):
    return sum(ebpf.memory().read(r1, r2)) & 0xffff
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cffi import FFI

from cnp.ebpf.errors import AccessError
from cnp.ebpf.translate import REGION, TABLE, WRITABLE
from cnp.errors import OperandError, StateError
from cnp.frame import FrameImage

_ffi = FFI()
_END = 2  #: ends the table of regions


def hold(memory: Any) -> Any:
    """The bytes of a buffer, at a fixed address as long as what is returned lives. What cannot be written is copied.
    OperandError: it is no buffer, or not in one piece."""
    try:
        view = memoryview(memory)
        writable = bytearray(view) if view.readonly else memory
        return _ffi.from_buffer("uint8_t[]", writable, require_writable=True)
    except (TypeError, ValueError, BufferError) as error:
        message = f"memory is {type(memory).__name__}: give bytes or a buffer in one piece ({error})"
        raise OperandError(
            message, op="", operand="memory", value=memory, allowed="a contiguous buffer"
        ) from error


def address_of(held: Any) -> int:
    """Where it lies."""
    return int(_ffi.cast("uintptr_t", held))


def placed(memory: Any) -> tuple[object, int, int]:
    """The same with its address and its bytes: (0, 0) where there are none."""
    held = hold(memory)
    return held, *((address_of(held), len(held)) if len(held) else (0, 0))


class Memory:
    """What a running program may access, for its helpers. AccessError for anything else, where code is checked."""

    def __init__(self, frame: FrameImage, checked: bool) -> None:
        self._frame, self._checked = frame, checked

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory."""
        self._check(address, size, 0)
        return ctypes.string_at(address, size) if size else b""

    def write(self, address: int, data: bytes) -> None:
        """Change memory."""
        self._check(address, len(data), WRITABLE)
        ctypes.memmove(address, data, len(data))

    def text(self, address: int) -> bytes:
        """A string up to its zero byte, which is not included."""
        found = bytearray()
        while byte := self.read(address + len(found), 1)[0]:
            found.append(byte)
        return bytes(found)

    def _check(self, address: int, size: int, access: int) -> None:
        fine = not self._checked or any(
            kind >= access and low <= address and address + size <= low + length
            for low, length, kind in self._regions()
        )
        if not fine:
            what = f"a helper went outside of the program's memory: {size} bytes at {address:#x}"
            raise AccessError(what, index=None, instruction="", what=what, code=0, address=address, size=size)

    def _regions(self) -> Iterator[tuple[int, int, int]]:
        """The table that the code looks at."""
        for at in range(TABLE, self._frame.size, REGION):
            low, size, access = struct.unpack("=3Q", self._frame.read(at, REGION))
            if access == _END:
                return
            yield low, size, access


_running = threading.local()


@contextmanager
def accessible(memory: Memory) -> Iterator[None]:
    """For the length of a run: `memory()` of this thread."""
    outer = getattr(_running, "memory", None)
    _running.memory = memory
    try:
        yield
    finally:
        _running.memory = outer


def memory() -> Memory:
    """The memory of the program that is running in this thread, for its helpers. StateError: none is."""
    found: Memory | None = getattr(_running, "memory", None)
    if found is None:
        raise StateError("no eBPF program is running in this thread", state="idle")
    return found
