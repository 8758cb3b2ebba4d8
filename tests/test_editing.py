"""Operations as a sequence: what is inserted, replaced and removed, and where labels are then."""

from __future__ import annotations

import pytest

import cnp
from cnp import LabelError, OperandError, StateError, r, slot


@pytest.fixture
def asm() -> cnp.Assembler:
    """Counts slot 0 from 0 to 10 and returns it."""
    asm = cnp.load("ops").assembler()
    asm.function("f", frame=32)
    asm.bind("loop")
    asm.i64_add(slot(0), slot(0), 1)
    asm.br_i64_lt_s(slot(0), 10, asm["loop"])
    asm.bind("end")
    asm.ret(slot(0))
    return asm


def run(asm: cnp.Assembler) -> object:
    code = asm.build()
    assert code["f"].run().value == code.interpreter.run("f").value
    return code["f"].run().value


def names(asm: cnp.Assembler) -> list[str]:
    return [op.operation.name for op in asm.ops]


def test_reading(asm: cnp.Assembler) -> None:
    assert names(asm) == ["i64_add", "br_i64_lt_s", "ret"]
    assert len(asm.ops) == 3 and asm.ops[-1].values == (slot(0),)
    assert [op.operation.name for op in asm.ops[1:]] == ["br_i64_lt_s", "ret"]
    assert run(asm) == 10


def test_labels_stay_with_their_operations(asm: cnp.Assembler) -> None:
    assert asm.ops.insert(2, "i64_add", slot(0), slot(0), 100, at=("f", 3)) == 2
    assert asm["end"].position == 3 and asm.ops[2].at == ("f", 3)
    assert run(asm) == 110


def test_an_insertion_that_takes_the_labels(asm: cnp.Assembler) -> None:
    asm.ops.insert(0, "i64_add", slot(8), slot(8), 1)
    assert asm["loop"].position == 1 and asm["f"].position == 0
    asm.ops.insert(1, "i64_add", slot(8), slot(8), 1, first=True)
    assert asm["loop"].position == 1
    asm.ops.replace(4, "ret", slot(8))
    assert run(asm) == 11


def test_labels_of_what_is_removed_go_on(asm: cnp.Assembler) -> None:
    asm.ops.insert(0, "i64_add", slot(0), slot(0), 5, first=True)
    del asm.ops[0]
    assert asm["loop"].position == 0 and run(asm) == 10


def test_ranges_are_removed(asm: cnp.Assembler) -> None:
    del asm.ops[0:2]
    assert (asm["loop"].position, asm["end"].position) == (0, 0)
    assert run(asm) == 0


def test_positions_mean_what_stood_there(asm: cnp.Assembler) -> None:
    asm.ops.replace(1, "jump", 2)
    asm.ops.insert(1, "trap", 99)
    asm.ops.insert(1, "jump", 2)
    del asm.ops[2]
    asm.ops.replace(1, "jump", 2)
    assert names(asm) == ["i64_add", "jump", "jump", "ret"]
    assert run(asm) == 1


def test_functions_behind_move(asm: cnp.Assembler) -> None:
    asm.function("g", frame=8)
    asm.ret(slot(0))
    asm.align(64)
    aligned = asm.i64_move(slot(0), 3)
    with asm.cold():
        asm.ret(slot(0))
    asm.ops.insert(1, "i64_add", slot(0), slot(0), 0)
    asm.ops.insert(4, "i64_move", slot(0), 7)
    f, g = asm.program.functions
    assert (f.position, f.end, g.position) == (0, 4, 4)
    assert asm.program.aligned == {aligned + 2: 64}
    assert [(span.start, span.end) for span in asm.program.cold] == [(7, 8)]
    code = asm.build()
    assert [code["f"].run().value, code["g"].run().value] == [10, 7]
    assert code.address(aligned + 2) % 64 == 0


def test_what_was_composed_is_one(asm: cnp.Assembler) -> None:
    at = asm.ops.insert(2, "i64_rotl", r[1], r[2], 70000)
    whole = asm.ops.extent(at)
    assert len(whole) > 1 and asm["end"].position == whole.stop
    for wrong in (whole.start + 1, whole.stop - 1):
        with pytest.raises(OperandError, match="belong together"):
            asm.ops.insert(wrong, "i64_move", slot(0), 1)
        with pytest.raises(OperandError):
            del asm.ops[wrong]
        with pytest.raises(OperandError):
            del asm.ops[:wrong]
    asm.ops.replace(1, "jump", whole.start + 1)
    with pytest.raises(LabelError, match="composed"):
        asm.check()
    asm.ops.replace(1, "br_i64_lt_s", slot(0), 10, asm["loop"])
    asm.ops.replace(at, "i64_add", slot(0), slot(0), 1)
    assert names(asm) == ["i64_add", "br_i64_lt_s", "i64_add", "ret"]
    assert asm.ops.extent(at) == range(2, 3)
    assert run(asm) == 11


def test_what_editing_refuses(asm: cnp.Assembler) -> None:
    for position in (-1, 4):
        with pytest.raises(OperandError) as caught:
            asm.ops.insert(position, "leave")
        assert (caught.value.value, caught.value.allowed) == (position, (0, 3))
    for call in (
        lambda: asm.ops.replace(3, "leave"),
        lambda: asm.ops.insert(0, "leave", 1),
        lambda: asm.ops.insert(0, "i64_move", slot(32), 1),
        lambda: asm.ops.__delitem__(3),
        lambda: asm.ops.__delitem__(slice(0, 3, 2)),
    ):
        with pytest.raises(OperandError):
            call()
    asm.build()
    for call in (lambda: asm.ops.insert(0, "leave"), lambda: asm.ops.__delitem__(0)):
        with pytest.raises(StateError):
            call()


def test_slots_belong_to_the_function_of_the_place(asm: cnp.Assembler) -> None:
    asm.function("large", frame=1 << 10)
    asm.ret(slot(512))
    with pytest.raises(OperandError, match="32 bytes"):
        asm.ops.insert(1, "i64_move", slot(512), 1)
    asm.ops.insert(3, "i64_move", slot(512), 1)
    assert run(asm) == 10


def test_a_new_program_after_reset(asm: cnp.Assembler) -> None:
    code, old = asm.build(), asm["loop"]
    asm.reset()
    asm.function("f", frame=8)
    with pytest.raises(LabelError, match="another program"):
        asm.jump(old)
    asm.ret(slot(0))
    assert (run(asm), code["f"].run().value) == (0, 10)
