"""Slabs: short functions share a block, which goes with the last of them; what is long, or has data, has its own."""

from __future__ import annotations

import ctypes
import gc
import threading
from collections.abc import Callable

import pytest

from cnp.arenas import LINE
from cnp.errors import MemoryFault, StateError
from cnp.memory import Block, CodeMemory
from cnp.slabs import LONGEST, SLAB, Slabs
from tests import memory_rig
from tests.memory_rig import TRAP, in_child, returns

space, dual = memory_rig.space, memory_rig.dual  # fixtures are found by their names in the module


def writer(code: bytes) -> Callable[[int, int], int]:
    def write(address: int, size: int) -> int:
        assert len(code) <= size
        ctypes.memmove(address, code, len(code))
        return len(code)

    return write


def function(slabs: Slabs, number: int, room: int = LINE) -> tuple[Block, int]:
    """A block, and the address of a function in it that returns a number."""
    block, start = slabs.take(room)
    block.fill(writer(returns(number)), start, room)
    return block, block.code_address + start


def call(address: int) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())


def taken(space: CodeMemory) -> int:
    """Blocks that are not freed."""
    return sum(arena.live for arena in space._arenas)


def test_functions_run_wherever_they_are(space: CodeMemory) -> None:
    slabs = Slabs(space)
    made = [function(slabs, number, room=LINE * (1 + number % 5)) for number in range(500)]
    assert [call(address) for _, address in made] == list(range(500))
    assert len({address for _, address in made}) == 500
    assert all(address % LINE == 0 for _, address in made)


def test_the_short_share_a_slab(dual: CodeMemory) -> None:
    slabs = Slabs(dual)
    made = [function(slabs, number) for number in range(2 * SLAB // LINE)]
    assert len({block.code_address for block, _ in made}) == 2 == taken(dual)
    assert [call(address) for _, address in made] == list(range(len(made)))
    assert slabs.take(LONGEST + 1)[0].code_size == LONGEST + 1
    assert slabs.take(10, data_size=8)[0].data_size == 8


def test_where_pages_are_not_shared_each_has_its_own() -> None:
    flip = CodeMemory(scheme="flip", trap=TRAP)
    slabs = Slabs(flip)
    made = [function(slabs, number) for number in range(3)]
    assert len({block.code_address for block, _ in made}) == 3 == taken(flip)


def test_a_slab_goes_with_its_last_function(dual: CodeMemory) -> None:
    slabs = Slabs(dual)
    made = [function(slabs, number) for number in range(3 * SLAB // LINE)]
    kept = made[0]
    del made
    gc.collect()
    assert taken(dual) == 2, "the one that is used, and the one with room"
    assert call(kept[1]) == 0
    del kept, slabs
    gc.collect()
    assert taken(dual) == 0


def test_what_is_freed_traps(dual: CodeMemory) -> None:
    other = dual.allocate(LINE)  # so that the arena stays
    block, address = function(Slabs(dual), 7)
    place = address - block._arena.base
    arena = block._arena
    del block
    gc.collect()
    assert bytes(arena._bytes[place : place + LINE]) == TRAP * LINE
    other.free()


def test_a_child_takes_a_slab_of_its_own(space: CodeMemory) -> None:
    slabs = Slabs(space)
    block, address = function(slabs, 1)

    def child() -> bool:
        new, place = function(slabs, 2)
        with pytest.raises(StateError) as error:
            block.fill(writer(returns(3)), LINE, LINE)
        return (call(address), call(place), new is block, error.value.state) == (1, 2, False, "inherited")

    assert not space.shares_pages or in_child(child) == 0
    _held, address = function(slabs, 4)
    assert call(address) == 4


def test_parts_are_written_in_order_and_once(dual: CodeMemory) -> None:
    block = dual.allocate(4 * LINE)
    assert block.fill(writer(returns(1)), 0, LINE) == len(returns(1))
    assert block.fill(writer(returns(2)), 2 * LINE, LINE) == len(returns(2))
    for start in (0, LINE, 2 * LINE):
        with pytest.raises(StateError) as error:
            block.fill(writer(returns(3)), start, LINE)
        assert error.value.state == "written"
    for start, room in ((3 * LINE + 1, 8), (-LINE, 8), (3 * LINE, 2 * LINE), (3 * LINE, 0), (4 * LINE, 8)):
        with pytest.raises(MemoryFault):
            block.fill(writer(returns(3)), start, room)
    assert call(block.code_address) == 1 and call(block.code_address + 2 * LINE) == 2
    block.free()
    with pytest.raises(StateError):
        block.fill(writer(returns(3)), 3 * LINE, LINE)


def test_pages_that_are_not_shared_are_written_at_once() -> None:
    block = CodeMemory(scheme="flip", trap=TRAP).allocate(4 * LINE)
    block.fill(writer(returns(1)), 0, LINE)
    with pytest.raises(MemoryFault):
        block.fill(writer(returns(2)), LINE, LINE)
    assert call(block.code_address) == 1


def test_a_writer_that_fails_spoils_its_part_alone(dual: CodeMemory) -> None:
    def failing(address: int, size: int) -> int:
        raise LookupError

    slabs = Slabs(dual)
    block, address = function(slabs, 1)
    spoilt, start = slabs.take(LINE)
    with pytest.raises(LookupError):
        spoilt.fill(failing, start, LINE)
    _, other = function(slabs, 2)
    assert spoilt is block and (call(address), call(other)) == (1, 2)


def test_each_thread_has_slabs_of_its_own(space: CodeMemory) -> None:
    found: list[bool] = []

    def work(seed: int) -> None:
        slabs = Slabs(space)
        kept = {number: function(slabs, number, LINE * (1 + number % 3)) for number in range(seed, 2000, 4)}
        for number in [number for number in kept if number % 3]:
            del kept[number]
        more = {number: function(slabs, number) for number in range(100)}
        found.append(
            all(call(address) == number for made in (kept, more) for number, (_, address) in made.items())
        )

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
