"""A vocabulary with registers whose stencils no compiler made: forms for every rule of the choice, and no
others.

Its code does nothing; what counts is which form is taken, how long it is and what its holes hold. r[3] is a
register that the machine lacks: it lives in its home.
"""

from __future__ import annotations

from cnp import library, targets
from cnp.library import Built, Library
from cnp.stencil import Accept, Block, Form, Hole, Operand, Operation, StateField, Stencil, What
from cnp.target import Formula

TARGET = targets.get("x86_64")
REGISTERS = {"r": (7, 6, 2, -1), "f": (0, 1)}
WORDS = [f"{bank}{index}" for bank, numbers in REGISTERS.items() for index in range(len(numbers))]
HEADER = 32 + 8 * len(WORDS)  #: bytes, a multiple of 16
HOME = {name: 8 * index - HEADER for index, name in enumerate(WORDS)}
FIELD = next(
    name
    for name, fld in TARGET.fields.items()
    if fld.formula is Formula.ABSOLUTE and fld.size == 4 and fld.low < -HEADER
)
JUMP = next(name for name, fld in TARGET.fields.items() if fld.jump and fld.size == 4)
TAIL = 5  #: bytes of the jump to the next operation

R, F = Accept("r", 0, 0, 1, 0b0111), Accept("f", 0, 0, 1, 0b11)
SLOT, NEAR_SLOT = Accept("slot", -(1 << 31), (1 << 31) - 1), Accept("slot", -128, 127)
I8, I32 = Accept("i64", -128, 127), Accept("i32", -(1 << 31), (1 << 31) - 1)
U64, F64 = Accept("u64", 0, (1 << 64) - 1), Accept("f64", 0, (1 << 64) - 1)
F32, U6 = Accept("f32", 0, (1 << 32) - 1), Accept("u6", 0, 63)
LABEL = Accept("label", 0, (1 << 64) - 1)
SAME, DIFFER = ((0, 1),), ((0, 2),)


def form(
    size: int,
    *accepts: Accept,
    same: tuple[tuple[int, int], ...] = (),
    differ: tuple[tuple[int, int], ...] = (),
    feature: str = "",
    goes_on: bool = True,
) -> Form:
    """A form of so many bytes beside the jump, with a hole for each operand that is no label: 4 bytes each,
    from 0 on."""
    holes = [
        Hole(4 * n, FIELD, What.OPERAND, n, 0, 4 * n) for n, a in enumerate(accepts) if a.kind not in ("label", "u64")
    ]  # fmt: skip
    code = b"\x90" * size
    if goes_on:
        holes.append(Hole(size + 1, JUMP, What.NEXT, 0, -4, size + 1))
        code += b"\xe9" + bytes(TAIL - 1)
    block = Block(code, tuple(holes), TAIL if goes_on else 0)
    return Form(accepts, Stencil((block,), 0, size // 4), None, same, differ, feature)


def operation(index: int, name: str, operands: str, *forms: Form, calls: bool = False) -> Operation:
    """operands: "out u64 d, in u64 a"."""
    declared = tuple(Operand(*text.split(" ")) for text in operands.split(", ")) if operands else ()
    return Operation(name, index, declared, forms, index + 1, calls)


def operations() -> tuple[Operation, ...]:
    """All operations; the forms of each by their size."""
    moves = [
        ("i64_move", "u64", R, I32, U64),
        ("f64_move", "f64", F, F64, F64),
        ("f32_move", "f32", F, F32, F32),
    ]
    rows: list[tuple[str, str, tuple[Form, ...]]] = [
        (
            name,
            f"out {ctype} d, in/imm {ctype} a",
            (form(8, reg, reg), form(8, reg, SLOT), form(8, SLOT, reg), form(12, reg, few), form(12, SLOT, few),
             form(16, SLOT, SLOT), form(20, reg, every), form(20, SLOT, every)),
        )
        for name, ctype, reg, few, every in moves
    ]  # fmt: skip
    rows += [
        (
            "i64_add",
            "out u64 d, in u64 a, in/imm u64 b",
            (form(12, R, R, I8, same=SAME), form(13, R, R, R, same=SAME), form(16, R, R, I32), form(17, R, R, R),
             form(18, R, R, NEAR_SLOT), form(24, SLOT, SLOT, I32), form(28, SLOT, SLOT, SLOT)),
        ),
        ("i64_sub", "out u64 d, in u64 a, in u64 b", (form(12, R, R, R, differ=DIFFER), form(28, SLOT, SLOT, SLOT))),
        ("i64_rotl", "out u64 d, in u64 a, in/imm u64 b", (form(12, R, R, U6), form(28, SLOT, SLOT, SLOT))),
        ("i64_popcnt", "out u64 d, in u64 a", (form(8, R, R, feature="popcnt"), form(64, R, R))),
        ("i64_where", "out u64 d, in u64 a, label - to", (form(28, SLOT, SLOT, LABEL),)),
        ("f64_add", "out f64 d, in f64 a, in/imm f64 b", (form(12, F, F, F), form(28, SLOT, SLOT, SLOT))),
        ("f32_add", "out f32 d, in f32 a, in/imm f32 b", (form(28, SLOT, SLOT, SLOT),)),
        ("br_i64_lt_s", "in u64 a, in/imm u64 b, label - target", (form(12, R, R, LABEL), form(28, SLOT, SLOT, LABEL))),
        ("i32_add", "out u32 d, in u32 a, in/imm u32 b", (form(28, SLOT, SLOT, SLOT),)),
        ("i64_pick", "in u64 a, in u64 b", (form(12, R, SLOT), form(40, SLOT, R))),
        ("raw", "slot - a", (form(4, SLOT),)),
        ("ret", "in u64 a", (form(8, R, goes_on=False), form(16, SLOT, goes_on=False))),
    ]  # fmt: skip
    return tuple(
        operation(index, name, operands, *forms) for index, (name, operands, forms) in enumerate(rows)
    )


def built(*more: Operation, without: tuple[str, ...] = ()) -> Built:
    """What a builder would hand over. without: operations to leave out."""
    kept = [op for op in (*operations(), *more) if op.name not in without]
    kept = [Operation(op.name, index, op.operands, op.forms, op.line, op.calls) for index, op in enumerate(kept)]  # fmt: skip
    return Built(
        {"target": TARGET.name, "abi": "cnp-1", "source": "hand_made.c", "inputs": ""},
        tuple(kept),
        {
            name: Block(bytes(4 * 64) if "." in name else b"\xc3", ())
            for name in sorted(library.ROUTINES | library.INTERPRETER)
        },
        (),
        (),
        tuple(StateField(name, "f64" if name[0] == "f" else "u64", 8 * n, 8) for n, name in enumerate(WORDS)),
        8 * len(WORDS),
        HEADER,
        "r0",
        0,
        REGISTERS,
    )


def vocabulary(*features: str, without: tuple[str, ...] = ()) -> Library:
    """The library. features: of the processor."""
    return Library(library.pack(built(without=without)), "hand_made", features)
