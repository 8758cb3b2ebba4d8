"""A memory that is declared once: its loads and stores name no more than where in it, and are checked against its size.

heap = asm.memory(base=r[8], size=r[9])
heap.i64_load(r[1], r[2], 16)         i64_load_checked   r[1], r[8], r[9], r[2], 16
heap.i32_store8(r[2], 3, r[1])        i32_store8_checked r[8], r[9], r[2], 3, r[1]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cnp.errors import OperandError
from cnp.operands import At, Register, Slot

if TYPE_CHECKING:
    from cnp.assembler import Assembler

SUFFIX = "_checked"
HIDDEN = ("base", "size")  #: operands that the memory stands for, one behind the other


class Memory:
    """Where a memory begins and how many bytes it has: in slots or registers, which a program may change, as when it grows.

    Each load and store that the vocabulary has with a check is a method with the name of the one without; so
    `load(d, index, offset)` and `store(index, offset, a)`. index: 32 bits without a sign; offset: a number from 0 to
    2**31 - 1. What does not lie in the memory with all of its bytes is trap 4, out of bounds, and is not touched.
    """

    def __init__(self, asm: Assembler, base: Slot | Register, size: Slot | Register) -> None:
        self.base, self.size = base, size
        self._asm = asm
        for name, place in zip(HIDDEN, (base, size), strict=True):
            if not isinstance(place, Slot) and not (isinstance(place, Register) and place.bank == "r"):
                allowed = "a slot or a register r[…]"
                message = f"memory: {name} is {place!r}; give {allowed} that holds it"
                raise OperandError(message, op="memory", operand=name, value=place, allowed=allowed)
            if isinstance(place, Register) and not 0 <= place.index < len(asm.library.registers.get("r", ())):
                message = f"memory: {name} is {place!r}, which the vocabulary does not have"
                raise OperandError(message, op="memory", operand=name, value=place, allowed="its registers")

    def op(self, name: str, *operands: object, at: At | None = None) -> int:
        """Append a load or store; its position. OperandError: there is none of that name, or it takes other operands."""
        operation = self._asm.library[name + SUFFIX]
        wanted = [o.name for o in operation.operands if o.name not in HIDDEN]
        if len(operands) != len(wanted):
            message = f"{name} of a memory takes {', '.join(wanted)}; not {len(operands)} operands"
            raise OperandError(message, op=name, operand="", value=operands, allowed=", ".join(wanted))
        before = [o.name for o in operation.operands].index(HIDDEN[0])
        return self._asm.op(
            operation.name, *operands[:before], self.base, self.size, *operands[before:], at=at
        )

    def __getattr__(self, name: str) -> Callable[..., int]:
        if name.startswith("_") or name + SUFFIX not in self._asm.library:
            raise AttributeError(f"no operation {name + SUFFIX!r} in {self._asm.library.path}")

        def append(*operands: object, at: At | None = None) -> int:
            return self.op(name, *operands, at=at)

        return append
