"""In which registers the C functions of each machine take their arguments.

Apart from the targets' own files, since no stencil depends on it: `call_c` of the portable operations loads all of these
registers from sixteen words, whatever the function takes.

    words 0 … 7    the registers for integers and pointers, in their order
    words 8 … 15   those for floats and doubles
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

FLOATS = 8  #: words of floats; the first of them is the word of this number too


class Rules(NamedTuple):
    """One machine. integers: how many registers take integers. counted, floats_counted: the third argument, whatever stands
    before it, is in the third register for integers, or for floats; otherwise each kind counts for itself. signed: integers
    of 32 bits are sign-extended, unsigned ones too. boxed: the upper half of a register with a float is all ones.
    widened: a float is held as the double of the same value."""

    integers: int = 8
    counted: bool = False
    floats_counted: bool = False
    signed: bool = False
    boxed: bool = False
    widened: bool = False

    def words(self, floats: Sequence[bool]) -> list[int | None]:
        """The word of each argument; None: it lies on the stack. floats: which are floats or doubles."""
        found: list[int | None] = []
        for position, is_float in enumerate(floats):
            number = floats[:position].count(is_float)
            if is_float:
                number = position if self.floats_counted else number
                found.append(FLOATS + number if number < FLOATS else None)
            else:
                number = position if self.counted else number
                found.append(number if number < self.integers else None)
        return found


N64 = Rules(counted=True, floats_counted=True, signed=True)  #: MIPS

RULES = {
    "x86_64": Rules(integers=6),  # psABI, 3.2.3
    "aarch64": Rules(),  # AAPCS64, 6.8.2
    "riscv64": Rules(
        signed=True, boxed=True
    ),  # RISC-V psABI, integer and hardware floating-point conventions
    "ppc64le": Rules(counted=True, widened=True),  # ELFv2 ABI, 2.2.3
    "mips64": N64,
    "mips64el": N64,
}
