"""Callables straight from records: what they compute, what is refused, how they fail, when their memory goes."""

from __future__ import annotations

import gc
import threading

import pytest

import cnp
from cnp import native, targets
from cnp.emit import FUNCTION, NUMBER, RECORD, SLOT, SYMBOL
from cnp.errors import LabelError, OperandError, SignatureError, StateError, SymbolError, TrapError
from cnp.link import code_memory

pytestmark = pytest.mark.skipif(native.core_module is None, reason=f"no core in C: {native.reason}")
VM = cnp.load("ops")


def record(name: str, *operands: tuple[int, int]) -> bytes:
    kinds = sum(kind << 4 * n for n, (kind, _) in enumerate(operands))
    words = [word for _, word in operands]
    return RECORD.pack(VM.library[name].index, 0, kinds, *words, *[0] * (6 - len(words)))


RETURN = record("ret", (SLOT, 0))


def add(number: int) -> bytes:
    return record("i64_add", (SLOT, 0), (SLOT, 0), (NUMBER, number)) + RETURN


def test_records_become_callables() -> None:
    make = VM.direct("int64_t(int64_t, int64_t)", frame=16)
    both = make(record("i64_add", (SLOT, 0), (SLOT, 0), (SLOT, 8)) + RETURN)
    more = [make(memoryview(add(n))) for n in range(300)]
    assert both(2, -5) == -3
    assert [function(n, 0) for n, function in enumerate(more)] == [2 * n for n in range(300)]
    assert more[0].__name__ == "direct" and more[0].__doc__ == "int64_t(int64_t, int64_t)"
    with pytest.raises(TypeError):
        both(1)


def test_memory_goes_with_the_callable() -> None:
    make = VM.direct("int64_t(int64_t)", frame=8)
    make(add(1))
    gc.collect()
    arenas = code_memory(VM.target)._arenas
    before = sum(arena.live for arena in arenas)
    kept = [make(add(n)) for n in range(500)]
    assert sum(arena.live for arena in arenas) > before + 1
    assert kept[7](1) == 8
    del kept
    gc.collect()
    assert sum(arena.live for arena in arenas) <= before, "all but the slab with room"
    for wrong in (
        add(1 << 20)[:-1],
        record("i64_add", (SLOT, 0), (SLOT, 0), (SLOT, 64)) + RETURN,
        add(1)[:32],
    ):
        with pytest.raises((OperandError, LabelError)):
            make(wrong)
    assert sum(arena.live for arena in arenas) <= before


def test_what_stops_a_function_is_raised() -> None:
    make = VM.direct("int64_t(int64_t)", frame=64)
    divide = make(
        record("i64_move", (SLOT, 8), (NUMBER, 0))
        + record("i64_div_s", *[(SLOT, n) for n in (0, 0, 8)])
        + RETURN
    )
    make(add(1))  # what the batch holds is another program by now
    with pytest.raises(TrapError) as trap:
        divide(3)
    assert (trap.value.op, trap.value.index) == ("i64_div_s", 1) and "division by zero" in str(trap.value)
    deep = make(record("call", (FUNCTION, 0), (SLOT, 8), (SLOT, 0)) + RETURN)
    with pytest.raises(TrapError) as nested:
        deep(1)
    assert nested.value.op == "call"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(OperandError) as small:
        VM.direct("int64_t(int64_t, int64_t)", frame=8)
    assert small.value.value == 8
    with pytest.raises(SignatureError):
        VM.direct("int64_t", frame=8)
    other = "riscv64" if targets.get("host").name != "riscv64" else "aarch64"
    with pytest.raises(StateError) as foreign:
        cnp.load("ops", other).direct("int64_t()", frame=0)
    assert foreign.value.state == "foreign"
    with pytest.raises((OperandError, SymbolError)):
        VM.direct("int64_t()", frame=8)(record("i64_move", (SLOT, 0), (SYMBOL, 0)) + RETURN)


def test_a_helper_that_is_called_is_asked_for() -> None:
    vm = cnp.load("brainfuck")
    words = [
        RECORD.pack(vm.library[name].index, 0, kinds, *[0] * 6)
        for name, kinds in (("put", NUMBER), ("stop", 0))
    ]
    make = vm.direct("void()", frame=0)
    with pytest.raises(SymbolError) as missing:
        make(b"".join(words))
    assert missing.value.symbols == ["cnp_host_putc"]
    make(words[1])  # which calls nothing
    given = {"cnp_host_putc": native.poll_address()}  # any function does: it is not run
    assert callable(vm.direct("void()", frame=0, helpers=given)(b"".join(words)))


def test_each_thread_has_its_own() -> None:
    found: list[int] = []

    def work(number: int) -> None:
        make = VM.direct("int64_t(int64_t)", frame=8)
        found.extend(make(add(number))(n) - n - number for n in range(200))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0] * 1600
