"""Executable memory: both schemes with real code, protection, reuse, threads; which scheme is chosen."""

from __future__ import annotations

import ctypes
import errno
import pickle
import platform
import random
import shutil
import threading
from typing import Any

import pytest

from cnp import memory
from cnp.arenas import LINE
from cnp.errors import MemoryFault, StateError
from cnp.memory import MIB, Block, CodeMemory, Probe
from cnp.pages import PAGE
from tests import memory_rig
from tests.memory_rig import TRAP, call, function, in_child, mappings, protection_at, returns, run_python
from tests.support import need

space, dual = memory_rig.space, memory_rig.dual  # fixtures are found by their names in the module


# --- Code runs, protection holds ----------------------------------------------------------------------------


def test_code_runs_and_data_is_zero_and_writable(space: CodeMemory) -> None:
    block = function(space, 42, data_size=100)
    assert call(block) == 42
    assert block.code_address % LINE == 0 and block.data_address % LINE == 0
    assert bytes(block.data) == bytes(100)
    block.data[:96].cast("Q")[11] = 0x1122334455667788
    assert ctypes.c_uint64.from_address(block.data_address + 88).value == 0x1122334455667788
    assert len(space.allocate(1).data) == 0


def writable_and_executable() -> set[int]:
    """Where mappings begin that are both."""
    return {row[0] for row in mappings() if "w" in row[2] and "x" in row[2]}


def test_no_mapping_is_writable_and_executable(space: CodeMemory) -> None:
    seen: list[str] = []
    others = writable_and_executable()  # libffi's closures, where another test made some
    space.flush = lambda address, size: seen.append(protection_at(address))
    blocks = [function(space, number, data_size=8) for number in range(40)]
    blocks[7].free()
    reused = function(space, 99, data_size=8)
    assert call(reused) == 99
    for block in [*blocks[:7], *blocks[8:], reused]:
        assert protection_at(block.code_address)[:3] == "r-x"
        assert protection_at(block.data_address)[:3] == "rw-"
    assert not writable_and_executable() - others
    assert {rwx[:3] for rwx in seen} == {"r-x"}


def test_small_functions_share_pages(dual: CodeMemory) -> None:
    pages = {function(dual, number).code_address // PAGE for number in range(PAGE // LINE)}
    assert len(pages) <= 2


def test_a_flip_never_touches_the_page_of_another_block() -> None:
    space = CodeMemory(scheme="flip")
    pages = {function(space, number).code_address // PAGE for number in range(10)}
    assert len(pages) == 10


def test_flush_is_asked_for_each_range_before_its_first_call(space: CodeMemory) -> None:
    flushed: list[tuple[int, int]] = []
    space.flush = lambda address, size: flushed.append((address, size))
    for number in range(5):
        block = function(space, number)
        assert flushed[-1] == (block.code_address, len(returns(number)))
        assert ctypes.string_at(*flushed[-1]) == returns(number), "the flush came before the code"
        assert call(block) == number
        if number % 2:
            block.free()
    assert len(flushed) == 5


def test_the_rest_of_the_last_line_traps(space: CodeMemory) -> None:
    size = len(returns(1))
    block = function(space, 1)
    assert ctypes.string_at(block.code_address, LINE) == returns(1) + TRAP * (LINE - size)


def test_code_and_data_are_near_and_in_one_region(space: CodeMemory) -> None:
    region = 8 * MIB
    small = CodeMemory(scheme=space.scheme.name, arena_size=6 * MIB, region=region)
    blocks = [small.allocate(2 * MIB, MIB // 4) for _ in range(40)]
    for block in blocks:
        assert block.code_address < block.data_address < block.code_address + 6 * MIB
        assert block.code_address // region == (block.data_address + block.data_size - 1) // region
    for block in blocks:
        block.free()


# --- Free, reuse, sizes -------------------------------------------------------------------------------------


def test_freed_ranges_trap_join_and_are_used_again(dual: CodeMemory) -> None:
    first, second, third = (dual.allocate(LINE, LINE) for _ in range(3))
    for block in (first, second):
        block.write(b"\x90" * LINE)
        block.data[:] = b"\xff" * LINE
    where = first.code_address, first.data_address
    first.free()
    second.free()
    assert ctypes.string_at(where[0], 2 * LINE) == TRAP * 2 * LINE
    both = dual.allocate(2 * LINE, 2 * LINE)
    assert (both.code_address, both.data_address) == where
    assert bytes(both.data) == bytes(2 * LINE), "data of an earlier owner"
    assert third.code_address == where[0] + 2 * LINE


def test_flipped_pages_are_used_again_without_access_between() -> None:
    space = CodeMemory(scheme="flip")
    keep, block = function(space, 1), function(space, 2)
    address = block.code_address
    block.free()
    assert protection_at(address)[:3] == "---"
    again = function(space, 3)
    assert (again.code_address, call(again), call(keep)) == (address, 3, 1)


def test_free_is_idempotent_and_final(space: CodeMemory) -> None:
    keep, block = function(space, 5), function(space, 6, data_size=8)
    block.free()
    block.free()
    other = function(space, 7, data_size=8)
    block.free()
    assert (call(keep), call(other)) == (5, 7)
    for use in (lambda: block.data, lambda: block.write(returns(1))):
        with pytest.raises(StateError) as error:
            use()
        assert error.value.state == "freed"


def test_two_threads_that_free_at_once_free_once(space: CodeMemory) -> None:
    keep, block = function(space, 1), function(space, 2)
    block.free()
    other = function(space, 3)
    space._take_back(block)  # what the slower of two threads does
    assert function(space, 4).code_address != other.code_address
    assert (call(keep), call(other)) == (1, 3)


def test_full_data_does_not_cost_code(space: CodeMemory) -> None:
    small = CodeMemory(scheme=space.scheme.name, arena_size=16 * PAGE)
    first = small.allocate(1, 4 * PAGE)  # all data of the first arena
    second = small.allocate(8 * PAGE, 64)
    assert not first.code_address <= second.code_address < first.code_address + 12 * PAGE, "in another arena"
    third = small.allocate(10 * PAGE)
    assert 0 < third.code_address - first.code_address < 12 * PAGE, "the attempt for the second took nothing"


def test_data_that_is_exported_is_not_freed(space: CodeMemory) -> None:
    block = space.allocate(8, 8)
    user = pickle.PickleBuffer(block.data)
    with pytest.raises(StateError) as error:
        block.free()
    assert error.value.state == "exported"
    assert bytes(block.data) == bytes(8)
    user.release()
    block.free()


def test_code_is_written_once(space: CodeMemory) -> None:
    block = function(space, 5)
    with pytest.raises(StateError) as error:
        block.write(returns(6))
    assert error.value.state == "written" and call(block) == 5


def test_code_may_be_written_where_it_lies(space: CodeMemory) -> None:
    seen: list[tuple[int, str]] = []

    def writer(address: int, size: int) -> int:
        seen.append((size, protection_at(block.code_address)[:3]))
        ctypes.memmove(address, returns(8), len(returns(8)))
        return len(returns(8))

    block = space.allocate(100)
    assert block.fill(writer) == len(returns(8)) and call(block) == 8
    assert seen == [(100, {"dual": "r-x", "flip": "rw-"}[space.scheme.name])]
    assert protection_at(block.code_address)[:3] == "r-x"
    with pytest.raises(StateError):
        block.fill(writer)
    assert len(seen) == 1


def test_a_writer_that_fails_leaves_a_block_that_can_be_freed(space: CodeMemory) -> None:
    def failing(address: int, size: int) -> int:
        ctypes.memset(address, 0x90, size)
        raise LookupError

    block = space.allocate(LINE)
    with pytest.raises(LookupError):
        block.fill(failing)
    with pytest.raises(StateError):
        block.write(returns(1))
    block.free()
    for size in (0, LINE + 1):
        other = space.allocate(LINE)
        with pytest.raises(MemoryFault):
            other.fill(lambda *_, size=size: size)
        other.free()
    assert call(function(space, 7)) == 7


def test_empty_arenas_go_back_to_the_system(space: CodeMemory) -> None:
    size = 4 * MIB
    small = CodeMemory(scheme=space.scheme.name, arena_size=size)
    blocks = [small.allocate(2 * MIB, 64) for _ in range(6)]
    addresses = [block.code_address for block in blocks]
    for block in blocks:
        block.free()
    assert sum(protection_at(address) != "unmapped" for address in addresses) == 1, "one is kept for the next"


def test_a_block_larger_than_an_arena(space: CodeMemory) -> None:
    size = 80 * MIB
    block = space.allocate(size, 20 * MIB)
    code = bytearray(size)
    code[-len(returns(9)) :] = returns(9)
    block.write(code)
    assert ctypes.CFUNCTYPE(ctypes.c_int)(block.code_address + size - len(returns(9)))() == 9
    assert block.data_address - block.code_address < 1 << 30
    small = function(space, 3)
    block.free()
    assert protection_at(block.code_address) == "unmapped"
    assert call(small) == 3


def test_two_gibibytes_of_code(space: CodeMemory) -> None:
    block = space.allocate(2 << 30, 64)
    block.write(returns(4))
    assert call(block) == 4
    assert block.data_address >= block.code_address + (2 << 30)
    block.free()


@pytest.mark.parametrize("sizes", [(0, 0), (-1, 0), (8, -1), (1 << 61, 0), (1 << 64, 0), (8, 1 << 64)])
def test_impossible_sizes_are_refused(space: CodeMemory, sizes: tuple[int, int]) -> None:
    with pytest.raises(MemoryFault) as error:
        space.allocate(*sizes)
    assert error.value.errno in (errno.EINVAL, errno.ENOMEM)
    assert call(function(space, 1)) == 1


@pytest.mark.parametrize("size", [0, 9])
def test_code_that_does_not_fit_is_refused(space: CodeMemory, size: int) -> None:
    block = space.allocate(8)
    with pytest.raises(MemoryFault) as error:
        block.write(bytes(size))
    assert (error.value.call, error.value.errno, error.value.size) == ("write", errno.EINVAL, size)


def test_random_use_keeps_every_live_function_intact(space: CodeMemory) -> None:
    choose, live = random.Random(1), list[tuple[Block, int]]()
    for _ in range(2000):
        if live and choose.random() < 0.48:
            block, number = live.pop(choose.randrange(len(live)))
            assert call(block) == number and bytes(block.data) == bytes([number % 256]) * block.data_size
            block.free()
        else:
            number, code = choose.randrange(2048), returns(0)
            block = space.allocate(len(code) + choose.randrange(300), choose.randrange(200))
            block.write(returns(number))
            assert bytes(block.data) == bytes(block.data_size)
            block.data[:] = bytes([number % 256]) * block.data_size
            live.append((block, number))
    assert all(call(block) == number for block, number in live)


# --- Threads ------------------------------------------------------------------------------------------------


def test_threads(space: CodeMemory) -> None:
    failures: list[object] = []

    def work(seed: int) -> None:
        choose = random.Random(seed)
        try:
            for _ in range(200):
                numbers = [choose.randrange(2048) for _ in range(5)]
                blocks = [function(space, number, data_size=number % 100) for number in numbers]
                failures.extend((call(b), n) for b, n in zip(blocks, numbers, strict=True) if call(b) != n)
                for block in blocks:
                    block.free()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    children = [in_child(lambda: call(function(space, 11)) == 11) for _ in range(5)]
    for thread in threads:
        thread.join()
    assert failures == [] and children == [0] * 5


def test_a_finalizer_inside_does_not_lock(space: CodeMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector may run finalizers in the thread that is inside: free() waits, allocate() refuses."""
    keep, block = function(space, 1), function(space, 2)
    refused: list[object] = []
    place = space._place

    def interrupted(code: int, data: int) -> Any:
        block.free()
        with pytest.raises(StateError) as error:
            space.allocate(8)
        refused.append(error.value.state)
        return place(code, data)

    monkeypatch.setattr(space, "_place", interrupted)
    other = function(space, 3)
    monkeypatch.undo()
    assert other.code_address != block.code_address
    assert function(space, 4).code_address == block.code_address, "released by the next call"
    assert refused == ["busy"] and (call(keep), call(other)) == (1, 3)


# --- Choice of the scheme -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["dual", "flip"])
def test_the_environment_decides(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNP_MEMORY", scheme)
    assert CodeMemory().scheme == (scheme, f"CNP_MEMORY={scheme}")


def test_an_unknown_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNP_MEMORY", "rwx")
    with pytest.raises(StateError) as error:
        CodeMemory()
    assert error.value.state == "rwx"


@pytest.mark.parametrize("trap", [b"abc", b"x" * 128])
def test_a_trap_that_does_not_fill_a_line_is_refused(trap: bytes) -> None:
    with pytest.raises(ValueError, match="trap"):
        CodeMemory(trap=trap)


def test_a_machine_that_misses_writes_gets_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CNP_MEMORY", raising=False)
    stale = Probe((returns(1), 1), (returns(2), 3))  # 3 stands for what such a machine does not see
    space = CodeMemory(probe=stale)
    assert space.scheme.name == "flip" and "old code" in space.scheme.reason


def test_qemu_user_misses_writes_and_gets_flip() -> None:
    """The real thing: this Python under an emulator that translates code once."""
    qemu = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    need(platform.machine() == "x86_64" and qemu is not None, "needs qemu-user for x86-64 on x86-64")
    text = """
space = CodeMemory(probe=Probe((returns(1), 1), (returns(2), 2)))
print(space.scheme.name, call(function(space, 77)))
"""
    assert run_python(text, str(qemu), CNP_MEMORY="") == "flip 77"


def test_dual_works_where_gaining_execution_is_refused() -> None:
    """PR_SET_MDWE (65) with PR_MDWE_REFUSE_EXEC_GAIN (1), Linux 6.3: no mapping may become executable."""
    text = """
from cnp.errors import MemoryFault
probe = Probe((returns(1), 1), (returns(2), 2))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0) != 0:
    print("unknown")
else:
    space = CodeMemory(probe=probe)
    blocks = [function(space, number, data_size=8) for number in range(100)]
    for block in blocks[::2]:
        block.free()
    blocks[::2] = [function(space, number) for number in range(0, 100, 2)]
    try:
        function(CodeMemory(scheme="flip"), 1)
    except MemoryFault as fault:
        results = [call(block) for block in blocks]
        print(space.scheme.name, results == list(range(100)), fault.call, fault.errno)
"""
    output = run_python(text, CNP_MEMORY="")
    need(output != "unknown", "this kernel has no PR_SET_MDWE")
    assert output == f"dual True mprotect {errno.EACCES}"


def test_one_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_default", None)
    made: list[CodeMemory] = []

    def create() -> CodeMemory:
        made.append(CodeMemory())
        return made[-1]

    assert memory.default(create) is memory.default(create) is memory.default() is made[0]
    assert len(made) == 1
