"""System calls on memory that are refused: errors with evidence, nothing left behind, or the other scheme."""

from __future__ import annotations

import ctypes
import errno
import gc
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cnp import pages
from cnp.errors import MemoryFault
from cnp.memory import MIB, Block, CodeMemory
from tests import memory_rig
from tests.memory_rig import call, dual_works, function, mappings, returns
from tests.support import need

dual = memory_rig.dual  # fixtures are found by their names in the module


class Refusing:
    """The C library, but the call of that name fails from its n-th use on."""

    def __init__(self, name: str, after: int, code: int) -> None:
        self.name, self.after, self.code, self.libc = name, after, code, pages._libc

    def __getattr__(self, name: str) -> Any:
        if name != self.name:
            return getattr(self.libc, name)
        self.after -= 1
        return self.refuse if self.after < 0 else getattr(self.libc, name)

    def refuse(self, *_: object) -> int:
        ctypes.set_errno(self.code)
        return int(ctypes.c_size_t(-1).value or 0) if self.name == "mmap" else -1


REFUSED = [
    *[
        ("dual", name, after)
        for name, after in [("mmap", 0), ("mmap", 1), ("mmap", 2), ("mprotect", 0), ("madvise", 0)]
    ],
    *[
        ("flip", name, after)
        for name, after in [("mmap", 0), ("mprotect", 0), ("mprotect", 1), ("mprotect", 2)]
    ],
]


@pytest.fixture
def counted() -> Iterator[None]:
    """No mapping and no open file may be left behind."""

    def count() -> tuple[int, int]:
        gc.collect()
        ours = [
            row for row in mappings() if "cnp-code" in row[3] or (row[1] - row[0] >= 12 * MIB and not row[3])
        ]
        return len(ours), len(os.listdir("/proc/self/fd"))

    before = count()
    yield
    assert count() == before


@pytest.mark.parametrize(("scheme", "name", "after"), REFUSED)
def test_refused_calls_are_errors_with_evidence_and_leave_nothing(
    scheme: str, name: str, after: int, counted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = CodeMemory(scheme=scheme)
    blocks: list[Block] = []

    def use() -> None:
        blocks.append(space.allocate(64, 64))
        blocks[0].write(returns(1))

    with monkeypatch.context() as patch:
        patch.setattr(pages, "_libc", Refusing(name, after, errno.ENOMEM))
        with pytest.raises(MemoryFault) as error:
            use()
    assert (error.value.call, error.value.errno) == (name, errno.ENOMEM)
    assert error.value.size > 0 and "ENOMEM" in str(error.value)
    block = blocks[0] if blocks else space.allocate(64, 64)
    block.write(returns(1))
    assert call(block) == 1
    other = space.allocate(space._code_part)  # another arena, so that an empty one is unmapped
    block.free()
    other.free()
    for arena in space._arenas:
        arena.unmap()


def test_a_lack_of_memory_is_an_error_before_the_copy(
    dual: CodeMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = dual.allocate(64)
    with monkeypatch.context() as patch:
        patch.setattr(pages, "_libc", Refusing("madvise", 0, errno.ENOMEM))
        with pytest.raises(MemoryFault) as error:
            block.write(returns(1))
        patch.setattr(pages, "_libc", Refusing("madvise", 0, errno.EINVAL))  # an old kernel cannot be asked
        block.write(returns(2))
    assert error.value.call == "madvise" and call(block) == 2


def refuse_file(name: str, code: int) -> Callable[..., int]:
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("name", ["memfd_create", "ftruncate"])
def test_without_a_memfd_the_scheme_is_flip(
    name: str, counted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CNP_MEMORY", raising=False)
    monkeypatch.setattr(os, name, refuse_file(name, errno.EPERM))
    space = CodeMemory()
    assert space.scheme.name == "flip" and name in space.scheme.reason and "EPERM" in space.scheme.reason
    with pytest.raises(MemoryFault) as error:
        CodeMemory(scheme="dual").allocate(8)
    assert (error.value.call, error.value.errno) == (name, errno.EPERM)


def test_without_an_executable_memfd_the_scheme_is_flip(
    counted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CNP_MEMORY", raising=False)
    real = pages._libc.mmap

    def no_exec(address: int, size: int, protection: int, flags: int, *rest: int) -> int:
        if protection & mmap.PROT_EXEC:
            ctypes.set_errno(errno.EPERM)
            return int(ctypes.c_size_t(-1).value or 0)
        return int(real(address, size, protection, flags, *rest))

    monkeypatch.setattr(pages, "_libc", Refusing("none", 0, 0))
    monkeypatch.setattr(pages._libc, "mmap", no_exec, raising=False)
    space = CodeMemory()
    assert space.scheme.name == "flip" and "EPERM" in space.scheme.reason
    block = function(space, 5)
    assert call(block) == 5
    block._arena.unmap()


def test_an_old_kernel_without_the_seal(monkeypatch: pytest.MonkeyPatch) -> None:
    need(dual_works(), "two views of one memory do not work here")
    real, flags = os.memfd_create, list[int]()

    def old(name: str, given: int) -> int:
        flags.append(given)
        if given & ~(os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING):
            raise OSError(errno.EINVAL, "unknown flag")
        return real(name, given)

    monkeypatch.setattr(os, "memfd_create", old)
    assert call(function(CodeMemory(scheme="dual"), 6)) == 6
    assert len(flags) == 2
