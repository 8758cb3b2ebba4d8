"""Executable memory and forks: the code of a child never changes; each process has memory of its own."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal

import pytest

from cnp import memory
from cnp.errors import StateError
from cnp.memory import MIB, CodeMemory
from tests import memory_rig
from tests.memory_rig import call, function, in_child, protection_at, returns

space, dual = memory_rig.space, memory_rig.dual  # fixtures are found by their names in the module


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
