"""cnp.bounds: memories that are declared once, on all targets.

What the checked operations do with every form and edge value is in test_operations.py and test_operation_calls.py.
"""

from __future__ import annotations

import struct
from typing import Any

import pytest

import cnp
from cnp import OperandError, f, r, slot
from cnp.assembler import Assembler, Register, Slot
from cnp.foreign import Call, ForeignCode
from tests.reference import LOADS, STORES, width
from tests.support import every_target, operations

OUT_OF_BOUNDS = 4  # trap code of the contract
SIZE = 64  #: bytes of a memory
CONTENTS = bytes(range(1, SIZE + 1))
WORD = 0xF1F2_F3F4_F5F6_F7F8  #: what stores write
BASE, BYTES, INDEX, VALUE = (slot(8 * number) for number in range(4))
FRAME = 32
PLACES: dict[str, tuple[Slot | Register, Slot | Register]] = {
    "registers": (r[5], r[6]),
    "slots": (BASE, BYTES),
}


def move(name: str) -> str:
    """What moves the value of a load or store."""
    return {"f64": "f64_move", "f32": "f32_move"}.get(name[:3], "i64_move")


def emit(asm: Any, name: str, where: str) -> int:
    """A function with one access, 8 bytes behind INDEX; its position. A load's word is the result."""
    asm.function(f"{name} {where}", frame=FRAME)
    for place, given in zip(PLACES[where], (BASE, BYTES), strict=True):
        if place != given:
            asm.i64_move(place, given)
    heap = asm.memory(*PLACES[where])
    index, value = (r[2], (f if name[0] == "f" else r)[1]) if where == "registers" else (INDEX, VALUE)
    if index != INDEX:
        asm.i64_move(index, INDEX)
        asm.op(move(name), value, VALUE)
    position: int = heap.op(name, *((value, index, 8) if name in LOADS else (index, 8, value)))
    if name in LOADS and value != VALUE:
        asm.op(move(name), VALUE, value)
    asm.ret(VALUE)
    return position


@every_target
def test_accesses_lie_in_the_memory_or_trap(target: str) -> None:
    """Every load and store at the first place, the last one and one byte behind that: each in a memory of its own."""
    lib = operations(target)
    mark = "<" if lib.target.byteorder == "little" else ">"
    asm: Any = Assembler(lib)
    names = [*LOADS, *STORES]
    positions = {(name, where): emit(asm, name, where) for name in names for where in PLACES}
    uses = []
    for name, where in positions:
        size = width((LOADS | STORES)[name][1]) // 8
        uses += [(name, where, size, index) for index in (0, SIZE - 8 - size, SIZE - 8 - size + 1)]
    code = ForeignCode(asm.close())
    (area,) = code.area_addresses([SIZE * len(uses)])
    calls = [
        Call(f"{name} {where}", slots=struct.pack(f"{mark}4Q", area + SIZE * number, SIZE, index, WORD))
        for number, (name, where, _, index) in enumerate(uses)
    ]
    outcome = code.run(calls, memory=[CONTENTS * len(uses)])
    for number, ((name, where, size, index), result) in enumerate(zip(uses, outcome.results, strict=True)):
        after = outcome.memory[0][SIZE * number : SIZE * (number + 1)]
        expected, at = bytearray(CONTENTS), index + 8
        if at + size > SIZE:
            wanted = ("trap", OUT_OF_BOUNDS, positions[name, where])
            assert (result.kind, result.code, result.op) == wanted, (name, where)
        elif name in STORES:
            word = struct.pack(f"{mark}Q", WORD)
            expected[at : at + size] = word[:size] if mark == "<" else word[-size:]
        else:
            got = struct.pack(f"{mark}Q", result.value)
            low = got[:size] if mark == "<" else got[-size:]
            assert low == CONTENTS[at : at + size], (name, where)
        assert after == expected, (name, where, index)


# ---- in this process


@pytest.fixture
def asm() -> Any:
    asm = cnp.load("ops").assembler()
    asm.function("main", frame=FRAME)
    return asm


def test_two_memories_of_one_program(asm: Any) -> None:
    """Methods have the names of the unchecked operations; a size is read at each access, so that a memory can grow."""
    first, second = asm.memory(base=r[5], size=r[6]), asm.memory(base=r[7], size=r[4])
    for register, value in ((r[5], slot(0)), (r[6], 16), (r[7], slot(8)), (r[4], 8)):
        asm.i64_move(register, value)
    asm.i64_move(r[1], 0)
    asm.i64_load(r[2], r[5], 8)
    first.i64_load(r[3], r[1], 8)
    assert first.i64_store(r[1], 0, r[3], at=("prog.lang", 7)) == len(asm.ops) - 1
    assert asm.ops[-1].at == ("prog.lang", 7)
    second.i64_store(r[1], 0, r[2])
    asm.i64_add(r[4], r[4], 8)
    second.i64_store(r[1], 8, r[2])
    grown = second.i64_store(r[1], 16, r[2])
    asm.ret(r[1])
    code = asm.build()
    memories = [bytearray(struct.pack("=3Q", number, 77, 5)) for number in (1, 2)]
    frame = cnp.load("ops").frame(FRAME)
    frame.write(0, struct.pack("=2Q", *map(cnp.address, memories)))
    result = code["main"].run(frame=frame)
    assert (result.kind, result.code, result.op) == ("trap", OUT_OF_BOUNDS, grown)
    assert [struct.unpack("=3Q", memory) for memory in memories] == [(77, 77, 5), (77, 77, 5)]


@pytest.mark.parametrize(
    ("base", "size", "operand"), [(f[1], r[1], "base"), (r[1], 4096, "size"), (None, r[1], "base")]
)
def test_memories_that_are_refused(asm: Any, base: object, size: object, operand: str) -> None:
    with pytest.raises(OperandError) as caught:
        asm.memory(base, size)
    assert (caught.value.op, caught.value.operand) == ("memory", operand)
    assert caught.value.value in (base, size)
    assert caught.value.allowed


def test_registers_that_the_vocabulary_does_not_have() -> None:
    with pytest.raises(OperandError) as caught:
        cnp.load("brainfuck").assembler().memory(r[1], r[2])
    assert (caught.value.op, caught.value.operand) == ("memory", "base")


def test_accesses_that_are_refused(asm: Any) -> None:
    heap = asm.memory(r[5], r[6])
    with pytest.raises(OperandError, match="takes d, index, offset; not 2 operands") as caught:
        heap.i64_load(r[1], r[2])
    assert (caught.value.op, caught.value.value) == ("i64_load", (r[1], r[2]))
    for name, operands, operand in (
        ("i64_load", (r[1], r[2], -1), "offset"),
        ("i64_load", (r[1], r[2], 1 << 31), "offset"),
        ("i64_store", (r[2], 0, f[1]), "a"),
        ("i64_store", (5, 0, r[1]), "index"),
    ):
        with pytest.raises(OperandError) as caught:
            heap.op(name, *operands)
        assert (caught.value.op, caught.value.operand) == (f"{name}_checked", operand)
    with pytest.raises(OperandError, match="no operation 'i64_add_checked'"):
        heap.op("i64_add", r[1], r[2], 8)
    with pytest.raises(AttributeError, match="no operation 'i64_add_checked'"):
        heap.i64_add(r[1], r[2], 8)
    with pytest.raises(OperandError) as caught:
        asm.memory(r[5], slot(FRAME)).i64_load(r[1], r[2], 0)
    assert caught.value.operand == "size"
    assert not asm.program.ops
