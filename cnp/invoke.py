"""A call of a C function by its signature: its arguments go where `call_c` takes them from, its result becomes a word.

    asm.invoke("double(double, int32_t)", Symbol("ldexp"), slot(64), f[0], f[1], r[2])

    words 0 … 7    slot(64) …    integers, pointers    i64_extend32_s  slot(64), r[2]
    words 8 … 15   slot(128) …   floats, doubles       f64_move        slot(128), f[1]
    word 16        slot(192)     the function          i64_move        slot(192), ldexp       if it is no register or slot
                                                       call_c_f64      slot(192), slot(64), f[0]

Which word an argument is in, and how it is held there, says `cnp/targets/arguments`. Integers of fewer than 64 bits come and
go as the i32 operations have them: the upper half of an argument counts for nothing, that of a result is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cnp.errors import OperandError
from cnp.library import Library
from cnp.operands import Register, Slot, Symbol
from cnp.signature import parse_signature
from cnp.targets.arguments import RULES, Rules

ROOM = 17 * 8  #: bytes of the words
FUNCTION = 16 * 8  #: offset of the last one
MOVES = {"d": "f64_move", "f": "f32_move", "q": "i64_move", "Q": "i64_move", "P": "i64_move"}
#: Letter of an integer of fewer bits -> what makes it the word that its register holds, and how many bits count.
EXTENSIONS = {
    "b": ("i64_extend8_s", 8),
    "B": ("i64_extend8_u", 8),
    "h": ("i64_extend16_s", 16),
    "H": ("i64_extend16_u", 16),
    "i": ("i64_extend32_s", 32),
    "I": ("i64_extend32_u", 32),
}
#: Letter of a result that is an i32 -> what makes it one.
NARROW = {"b": "i32_extend8_s", "B": "i32_extend8_u", "h": "i32_extend16_s", "H": "i32_extend16_u",
          "i": "i64_extend32_u", "I": "i64_extend32_u", "?": "i32_extend8_u"}  # fmt: skip


class Step(NamedTuple):
    """An operation of the call. part: what of the call it is for."""

    part: str
    name: str
    operands: tuple[object, ...]


def steps_of(
    library: Library, signature: str, function: object, base: object, d: object, arguments: Sequence[object]
) -> list[Step]:
    """The operations of a call, in order. SignatureError; OperandError: what cannot be handed over like this."""
    result, types = parse_signature(signature)
    if not isinstance(base, Slot) or base.offset % 8:
        raise refused("base", base, "a slot, at a multiple of 8: the first of 17 words for this call")
    if len(arguments) != len(types):
        raise refused("arguments", tuple(arguments), f"{len(types)}, for {signature}")
    if (result == "v") > (d is None):
        raise refused("d", d, f"None, as there is no result of {signature}")
    for number, operand in enumerate((function, *arguments)):
        if isinstance(operand, Slot) and -8 < operand.offset - base.offset < ROOM:
            raise refused(part(number), operand, f"what lies outside the {ROOM} bytes at {base}")
    found = handed_over(RULES[library.target.name], signature, types, base, arguments)
    if not isinstance(function, (Register, Slot)):
        word = Slot(base.offset + FUNCTION)
        found.append(Step(part(0), "i64_move", (word, function)))
        function = word
    call = {"d": "call_c_f64", "f": "call_c_f32"}.get(result, "call_c")
    if d is None:
        return [*found, Step(part(0), "call_c", (function, base, base))]
    found.append(Step("d", call, (function, base, d)))
    if result in NARROW:
        found.append(Step("d", NARROW[result], (d, d)))
    return found


def handed_over(
    rules: Rules, signature: str, types: str, base: Slot, arguments: Sequence[object]
) -> list[Step]:
    """The operations that put the arguments into their words."""
    found = []
    words = rules.words([letter in "df" for letter in types])
    for number, (letter, word, operand) in enumerate(zip(types, words, arguments, strict=True), 1):
        if word is None:
            raise refused(part(number), operand, f"what travels in registers; in {signature} it does not")
        place = Slot(base.offset + 8 * word)
        found += [Step(part(number), *step) for step in handing(rules, letter, place, operand)]
    return found


def handing(rules: Rules, letter: str, word: Slot, operand: object) -> list[tuple[str, tuple[object, ...]]]:
    """The operations that make an argument the word that its register holds."""
    if letter == "f" and rules.widened:
        if isinstance(operand, (int, float)):
            return [("f32_move", (word, operand)), ("f64_from_f32", (word, word))]
        return [("f64_from_f32", (word, operand))]
    if letter == "f" and rules.boxed:
        return [("i64_move", (word, -1)), ("f32_move", (word, operand))]
    if letter in MOVES:
        return [(MOVES[letter], (word, operand))]
    if letter == "?":
        if isinstance(operand, bool):
            return [("i64_move", (word, int(operand)))]
        return [("i32_ne", (word, operand, 0))]
    name, bits = EXTENSIONS["i" if letter == "I" and rules.signed else letter]
    if isinstance(operand, int) and not isinstance(operand, bool) and -(1 << bits - 1) <= operand < 1 << bits:
        sign = 1 << bits - 1 if name.endswith("_s") else 0
        return [("i64_move", (word, (operand + sign & (1 << bits) - 1) - sign))]
    return [(name, (word, operand))]


def check_base(base: Slot, frame: int) -> None:
    """OperandError: the words do not lie within a frame of so many bytes."""
    if not 0 <= base.offset <= frame - ROOM:
        raise refused("base", base, f"{ROOM} bytes of the frame, which has {frame}")


def note_prototype(known: dict[str, str], function: object, signature: str) -> None:
    """Keep the signature of a symbol, so that a Python callable can be given for it. OperandError: it has another one."""
    if isinstance(function, Symbol):
        before = known.setdefault(function.name, signature)
        if parse_signature(before) != parse_signature(signature):
            raise refused("function", function, f"it the signature {before}, as before, not {signature}")


def part(number: int) -> str:
    """What of the call an operand is."""
    return f"argument {number}" if number else "function"


def refused(operand: str, value: object, allowed: str) -> OperandError:
    """The error for what a call was given."""
    return OperandError(
        f"invoke: {operand} is {value!r}; give {allowed}",
        op="invoke",
        operand=operand,
        value=value,
        allowed=allowed,
    )
