"""Pages: every system call on memory in this project, each checked. A refusal is a MemoryFault.

Bound by ctypes: importing it takes 2-5 ms, against 46-72 ms for cffi in ABI mode, whose cdef() imports
pycparser (CPython 3.11); from the import of cnp to the first call there are 100 ms.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from typing import Any

from .errors import MemoryFault

PAGE = mmap.PAGESIZE

R_X = mmap.PROT_READ | mmap.PROT_EXEC
RW = mmap.PROT_READ | mmap.PROT_WRITE
NONE = 0  # PROT_NONE

FRESH = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
SHARED = mmap.MAP_SHARED
FIXED = 0x10  # MAP_FIXED, the same on all five targets, unlike MAP_ANONYMOUS

DONTFORK = mmap.MADV_DONTFORK
POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, Linux 5.14

_MFD_NOEXEC_SEAL = 8  # Linux 6.3: execve() of the file is refused, mapping it R-X is not
_LIMIT = 1 << 62  # no address space is larger; ctypes would cut a larger number without a word


def _bind() -> ctypes.CDLL:
    """The C library with the types of the calls used here."""
    libc = ctypes.CDLL(None, use_errno=True)
    word, number = ctypes.c_size_t, ctypes.c_int
    libc.mmap.argtypes, libc.mmap.restype = [word, word, number, number, number, ctypes.c_int64], word
    libc.munmap.argtypes = [word, word]
    libc.mprotect.argtypes = [word, word, number]
    libc.madvise.argtypes = [word, word, number]
    return libc


_libc: Any = _bind()


def fault(call: str, code: int, size: int) -> MemoryFault:
    """The error of a call on `size` bytes that ended with that errno."""
    name = errno.errorcode.get(code, str(code))
    message = f"{call} of {size} bytes: {name}, {os.strerror(code)}"
    return MemoryFault(message, call=call, errno=code, size=size)


def _check(call: str, status: int, size: int) -> None:
    if status != 0:
        raise fault(call, ctypes.get_errno(), size)


def map_pages(address: int, size: int, protection: int, flags: int, file: int = -1) -> int:
    """Map `size` bytes of fresh memory or of a file; address 0: anywhere. Returns the address."""
    if not 0 < size < _LIMIT:
        raise fault("mmap", errno.ENOMEM, size)
    result: int = _libc.mmap(address, size, protection, flags, file, 0)
    if result == ctypes.c_size_t(-1).value:  # MAP_FAILED
        raise fault("mmap", ctypes.get_errno(), size)
    return result


def unmap(address: int, size: int) -> None:
    """Give pages back; their addresses may be taken by anybody afterwards."""
    _check("munmap", _libc.munmap(address, size), size)


def protect(address: int, size: int, protection: int) -> None:
    """Set what may be done with mapped pages: NONE, RW or R_X."""
    _check("mprotect", _libc.mprotect(address, size, protection), size)


def advise(address: int, size: int, advice: int) -> None:
    """madvise(2): DONTFORK or POPULATE_WRITE."""
    _check("madvise", _libc.madvise(address, size, advice), size)


def memory_file(size: int) -> int:
    """A new file of `size` zero bytes in memory. Pages are taken when they are first touched."""
    if not hasattr(os, "memfd_create"):
        raise fault("memfd_create", errno.ENOSYS, size)
    try:
        try:
            file = os.memfd_create("cnp-code", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
        except OSError as unknown:
            if unknown.errno != errno.EINVAL:
                raise
            file = os.memfd_create("cnp-code", os.MFD_CLOEXEC)  # a kernel that does not know the seal
    except OSError as error:
        raise fault("memfd_create", error.errno or 0, size) from error
    try:
        os.ftruncate(file, size)
    except OSError as error:
        os.close(file)
        raise fault("ftruncate", error.errno or 0, size) from error
    return file


def reserve(size: int, region: int) -> int:
    """Address space without access that crosses no multiple of `region`, if it is not longer than one.

    Twice the size always holds such a piece. It starts at the boundary, if one lies in the first half; what
    lies around it is given back:

        start     boundary                                    start           boundary
          |---------|==size==|-------|      otherwise           |==size==|-------|------|
    """
    if size > region:
        return map_pages(0, size, NONE, FRESH)
    start = map_pages(0, 2 * size, NONE, FRESH)
    boundary = round_up(start, region)
    base = boundary if boundary < start + size else start
    if base > start:
        unmap(start, base - start)
    if base < start + size:
        unmap(base + size, start + size - base)
    return base


def view(address: int, size: int) -> memoryview:
    """Bytes at an address. Nothing keeps the mapping alive: release the view before the memory goes."""
    if not size:
        return memoryview(bytearray())  # an empty array cannot be cast
    return memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B")


def round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
