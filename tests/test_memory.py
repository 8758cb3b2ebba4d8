"""Executable memory: both schemes with real code, protection, reuse, forks, threads, refused calls."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import gc
import mmap
import os
import pickle
import platform
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import need

from cnp import memory
from cnp.errors import MemoryFault, StateError
from cnp.memory import LINE, MIB, PAGE, Block, CodeMemory, Intervals, Probe

ROOT = Path(memory.__file__).resolve().parents[1]
TRAP = b"\xcc"


def returns(number: int) -> bytes:
    """`int f(void) { return number; }` for 0 <= number < 2048, on the machine that runs the tests."""
    machine = platform.machine()
    match machine:
        case "x86_64":
            return b"\xb8" + number.to_bytes(4, "little") + b"\xc3"  # mov eax, number; ret
        case "aarch64":
            return little(0x52800000 | number << 5, 0xD65F03C0)  # mov w0, number; ret
        case "riscv64":
            return little(0x00000513 | number << 20, 0x00008067)  # addi a0, zero, number; ret
        case "ppc64le":
            return little(0x38600000 | number, 0x4E800020)  # li r3, number; blr
        case "mips64":
            return little(0x03E00008, 0x24020000 | number)  # jr ra; addiu v0, zero, number
    pytest.fail(f"no machine code of {machine} in this test")


def little(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def call(block: Block) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(block.code_address)())


def function(space: CodeMemory, number: int, data_size: int = 0) -> Block:
    code = returns(number)
    block = space.allocate(len(code), data_size)
    block.write(code)
    return block


def dual_works() -> bool:
    probe = Probe((returns(1), 1), (returns(2), 2))
    return CodeMemory(probe=probe).scheme.name == "dual" or "CNP_MEMORY" in os.environ


@pytest.fixture(params=["dual", "flip"])
def space(request: pytest.FixtureRequest) -> CodeMemory:
    need(request.param == "flip" or dual_works(), "two views of one memory do not work here")
    return CodeMemory(scheme=request.param, trap=TRAP)


@pytest.fixture
def dual() -> CodeMemory:
    need(dual_works(), "two views of one memory do not work here")
    return CodeMemory(scheme="dual", trap=TRAP)


def mappings() -> list[tuple[int, int, str, str]]:
    """Start, end, protection and name of all mappings of this process."""
    rows = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, protection, _, _, _, *name = line.split(maxsplit=5)
        start, end = (int(word, 16) for word in bounds.split("-"))
        rows.append((start, end, protection, name[0] if name else ""))
    return rows


def protection_at(address: int) -> str:
    return next((rwx for start, end, rwx, _ in mappings() if start <= address < end), "unmapped")


def in_child(check: Callable[[], object]) -> int:
    """Fork; exit status of the child: 0 when the check came back true, else 1 or 2; negative: a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run_python(text: str, *prefix: str, **environment: str) -> str:
    """Standard output of a Python of its own that has `memory`, `returns` and `call` in scope."""
    head = "from test_memory import *\n"
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent), *sys.path])
    result = subprocess.run(
        [*prefix, sys.executable, "-c", head + text],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


# --- Free intervals -----------------------------------------------------------------------------------------


class NaiveIntervals:
    """The model: one flag a byte."""

    def __init__(self, size: int) -> None:
        self.free = [True] * size

    def take(self, size: int) -> int | None:
        for start in range(len(self.free) - size + 1):
            if all(self.free[start : start + size]):
                self.free[start : start + size] = [False] * size
                return start
        return None

    def parts(self) -> list[tuple[int, int]]:
        edges = [
            i for i, (a, b) in enumerate(zip([False, *self.free], [*self.free, False], strict=True)) if a != b
        ]
        return list(zip(edges[::2], edges[1::2], strict=True))


@settings(max_examples=400, deadline=None)
@given(st.integers(1, 24), st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=40))
def test_intervals_agree_with_flags(size: int, steps: list[tuple[bool, int]]) -> None:
    real, model, taken = Intervals(size), NaiveIntervals(size), list[tuple[int, int]]()
    for take, number in steps:
        if take:
            start = real.take(number)
            assert start == model.take(number)
            if start is not None:
                taken.append((start, number))
        elif taken:
            start, length = taken.pop(number % len(taken))
            real.give(start, length)
            model.free[start : start + length] = [True] * length
        assert real.parts() == model.parts()
        assert real.free == sum(model.free)


def test_intervals_find_again_what_was_refused_before() -> None:
    free = Intervals(32)
    assert [free.take(16), free.take(16), free.take(16)] == [0, 16, None]
    free.give(16, 16)
    assert free.take(16) == 16


@pytest.mark.parametrize(("start", "size"), [(0, 8), (4, 8), (24, 16), (-8, 4), (8, 0)])
def test_intervals_refuse_what_is_not_taken(start: int, size: int) -> None:
    free = Intervals(32)
    assert free.take(8) == 0 and free.take(8) == 8 and free.take(16) == 16
    free.give(0, 8)
    before = free.parts()
    with pytest.raises(StateError):
        free.give(start, size)
    assert free.parts() == before


# --- Code runs, protection holds ----------------------------------------------------------------------------


def test_code_runs_and_data_is_zero_and_writable(space: CodeMemory) -> None:
    block = function(space, 42, data_size=100)
    assert call(block) == 42
    assert block.code_address % LINE == 0 and block.data_address % LINE == 0
    assert bytes(block.data) == bytes(100)
    block.data[:96].cast("Q")[11] = 0x1122334455667788
    assert ctypes.c_uint64.from_address(block.data_address + 88).value == 0x1122334455667788
    assert len(space.allocate(1).data) == 0


def test_no_mapping_is_writable_and_executable(space: CodeMemory) -> None:
    seen: list[str] = []
    space.flush = lambda address, size: seen.append(protection_at(address))
    blocks = [function(space, number, data_size=8) for number in range(40)]
    blocks[7].free()
    reused = function(space, 99, data_size=8)
    assert call(reused) == 99
    for block in [*blocks[:7], *blocks[8:], reused]:
        assert protection_at(block.code_address)[:3] == "r-x"
        assert protection_at(block.data_address)[:3] == "rw-"
    assert not [row for row in mappings() if "w" in row[2] and "x" in row[2]]
    assert set(rwx[:3] for rwx in seen) == {"r-x"}


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


# --- Forks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("neighbours", [0, 3])
def test_what_a_child_may_run_is_never_rewritten(space: CodeMemory, neighbours: int) -> None:
    """The parent frees the code and fills its memory with other code, then the child runs it."""
    keep = [function(space, number) for number in range(neighbours)]  # without any, the arena is unmapped
    block, (listen, tell) = function(space, 42, data_size=8), os.pipe()
    block.data[0] = 1
    pid = os.fork()
    if pid == 0:
        os.read(listen, 1)
        os._exit(0 if call(block) == 42 and block.data[0] == 1 else 1)
    address = block.code_address
    block.free()
    if neighbours and space.scheme.name == "dual":
        assert ctypes.string_at(address, len(returns(42))) == returns(42), "traps would show in the child"
    others = [function(space, 7, data_size=8) for _ in range(500)]
    os.write(tell, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert [call(other) for other in others] == [7] * 500
    assert [call(other) for other in keep] == list(range(neighbours))
    os.close(listen)
    os.close(tell)


def test_a_child_has_memory_of_its_own_and_harmless_blocks(space: CodeMemory) -> None:
    old, unwritten = function(space, 42), space.allocate(16)

    def child() -> bool:
        new = [function(space, number) for number in range(100)]
        with pytest.raises(StateError) as error:
            unwritten.write(returns(1))
        old.free()
        unwritten.free()
        apart = all(abs(block.code_address - old.code_address) >= MIB for block in new)
        works = call(old) == 42 and [call(block) for block in new] == list(range(100))
        for block in new:
            block.free()
        return apart and works and error.value.state == "inherited"

    assert in_child(child) == 0
    assert call(old) == 42
    unwritten.write(returns(3))
    assert call(unwritten) == 3


def test_a_child_of_a_child(space: CodeMemory) -> None:
    first = function(space, 1)

    def child() -> bool:
        second = function(space, 2)
        return in_child(lambda: (call(first), call(second), call(function(space, 3))) == (1, 2, 3)) == 0

    assert in_child(child) == 0


def test_the_writable_view_is_not_in_the_child(dual: CodeMemory) -> None:
    block = function(dual, 42)
    writable = block._arena.writable

    def child() -> bool:
        faulthandler.disable()
        ctypes.memset(writable, 0, 1)
        return True

    assert protection_at(writable)[:3] == "rw-"
    assert in_child(lambda: protection_at(writable)[1] != "w") == 0
    assert in_child(child) == -signal.SIGSEGV
    assert call(block) == 42


def test_blocks_made_after_a_fork_are_reused(dual: CodeMemory) -> None:
    keep = function(dual, 1)
    assert in_child(lambda: True) == 0
    block = function(dual, 2)
    address = block.code_address
    block.free()
    assert function(dual, 3).code_address == address and call(keep) == 1


def test_an_arena_with_lost_ranges_is_unmapped_when_empty(dual: CodeMemory) -> None:
    block, other = function(dual, 1), function(dual, 2)
    assert in_child(lambda: True) == 0
    block.free()
    assert protection_at(other.code_address)[:3] == "r-x"
    other.free()
    assert protection_at(other.code_address) == "unmapped"


@pytest.mark.parametrize("tell", ["note_fork", "fork_count", "under way"])
def test_forks_that_python_does_not_see(dual: CodeMemory, tell: str) -> None:
    count = [-1 if tell == "under way" else 0]
    dual.fork_count = lambda: count[0]
    keep, block = function(dual, 1), function(dual, 42)
    if tell == "note_fork":
        memory.note_fork()
    elif tell == "fork_count":
        count[0] = 2
    block.free()
    assert ctypes.string_at(block.code_address, len(returns(42))) == returns(42)
    assert function(dual, 7).code_address != block.code_address
    assert call(keep) == 1


def test_what_is_freed_while_a_fork_is_under_way_is_not_reused(dual: CodeMemory) -> None:
    """Another thread may free and allocate between the handlers of a fork, which has then happened or not."""
    keep, block = function(dual, 1), function(dual, 42)
    memory._forks.before()
    try:
        block.free()
        other = function(dual, 7)
    finally:
        memory._forks.in_parent()
    assert ctypes.string_at(block.code_address, len(returns(42))) == returns(42)
    assert other.code_address != block.code_address
    other.free()
    assert call(keep) == 1
    assert ctypes.string_at(other.code_address, len(returns(7))) == returns(7), (
        "made before the fork was over"
    )


def test_handlers_of_forks_may_use_code_memory(space: CodeMemory) -> None:
    results: list[int] = []

    def before() -> None:  # a handler cannot be taken back: it works once
        if not results:
            results.append(call(function(space, 8)))

    os.register_at_fork(before=before)
    assert in_child(lambda: call(function(space, 9)) == 9) == 0
    assert results == [8]


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


# --- What the system refuses --------------------------------------------------------------------------------


class Refusing:
    """The C library, but the call of that name fails from its n-th use on."""

    def __init__(self, name: str, after: int, code: int) -> None:
        self.name, self.after, self.code, self.libc = name, after, code, memory._libc

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
    block: Block | None = None
    with monkeypatch.context() as patch:
        patch.setattr(memory, "_libc", Refusing(name, after, errno.ENOMEM))
        with pytest.raises(MemoryFault) as error:
            block = space.allocate(64, 64)
            block.write(returns(1))
    assert (error.value.call, error.value.errno) == (name, errno.ENOMEM)
    assert error.value.size > 0 and "ENOMEM" in str(error.value)
    if block is None:
        block = space.allocate(64, 64)
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
        patch.setattr(memory, "_libc", Refusing("madvise", 0, errno.ENOMEM))
        with pytest.raises(MemoryFault) as error:
            block.write(returns(1))
        patch.setattr(memory, "_libc", Refusing("madvise", 0, errno.EINVAL))  # an old kernel cannot be asked
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
    real = memory._libc.mmap

    def no_exec(address: int, size: int, protection: int, flags: int, *rest: int) -> int:
        if protection & mmap.PROT_EXEC:
            ctypes.set_errno(errno.EPERM)
            return int(ctypes.c_size_t(-1).value or 0)
        return int(real(address, size, protection, flags, *rest))

    monkeypatch.setattr(memory, "_libc", Refusing("none", 0, 0))
    monkeypatch.setattr(memory._libc, "mmap", no_exec, raising=False)
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
