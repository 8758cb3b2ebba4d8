"""A small language in two tiers: interpreted until a loop is hot, compiled while its numbers are small integers.

    machine = Machine('''
        fun triangle n | total is
            0 -> total
            while 0 n < do
                total n + -> total
                n 1 - -> n
            end
            total
        end
    ''')
    machine.run("triangle", 100_000)        # 5000050000.0: the sum outgrows an integer on the way
    machine.moves                           # ["loop", "add"]: into compiled code, and out of it

A function has parameters and, behind `|`, locals. Words: a number, a name, `-> name` to set it, `+ - * <`, a function
with its arguments before it; `while … do … end`, `if … else … end`. The value that is left at `end` is the result.
"""

from __future__ import annotations

import struct
from pathlib import Path

import cnp
from cnp import slot

WORD = 8
INTEGER = 0xFFFF << 48  #: what stands above an integer of 32 bits (tiers.c)
HOT = 1000  #: rounds after which a loop is compiled
BINARY = {"+": "add", "-": "sub", "*": "mul", "<": "less"}


class Compiler:
    """Text to operations. Every stack position is a slot behind the locals: the height is known at each word."""

    def __init__(self, assembler: cnp.Assembler) -> None:
        self.asm, self.header = assembler, assembler.library.header_size
        self.functions: dict[str, tuple[cnp.Function, int]] = {}

    def compile(self, text: str) -> None:
        words = text.split()
        room = WORD * 2 * len(words) + self.header  # no function holds more values than there are words
        for at in (number for number, word in enumerate(words) if word == "fun"):
            name, *parameters = words[at + 1 : words.index("is", at)]
            count = [*parameters, "|"].index("|")
            self.functions[name] = (
                self.asm.declare(name, room),
                count,
            )  # it may be called before its code comes
        self.words = iter(words)
        for word in self.words:
            if word != "fun":
                raise SyntaxError(f"a function begins with `fun`, not with {word!r}")
            self.function(next(self.words))

    def function(self, name: str) -> None:
        self.asm.begin(self.functions[name][0])
        self.locals = [word for word in iter(self.words.__next__, "is") if word != "|"]
        self.height = 0
        self.block(next(self.words))
        if self.height != 1:
            raise SyntaxError(f"{name} ends with {self.height} values, not with its result")
        self.asm.ret(self.pop())

    def block(self, word: str, *ends: str) -> str:
        """Words until one of `ends`, which is returned."""
        while word not in (ends or ["end"]):
            self.word(word)
            word = next(self.words)
        return word

    def word(self, word: str) -> None:
        if word in BINARY:
            self.asm.op(BINARY[word], self.top(2), self.top(1))
            self.height -= 1
        elif word in self.locals:
            self.asm.copy(self.push(), self.local(word))
        elif word == "->":
            self.asm.copy(self.local(next(self.words)), self.pop())
        elif word in self.functions:
            self.call(*self.functions[word])
        elif word == "while":
            self.loop()
        elif word == "if":
            self.choice()
        else:
            self.asm.push(self.push(), boxed(int(word)))

    def loop(self) -> None:
        """Compiled code may be entered at the head."""
        head, behind = self.asm.here("while", entry=True), self.asm.label("behind")
        self.asm.loop()
        self.block(next(self.words), "do")
        self.asm.jump_unless(self.pop(), behind)
        self.block(next(self.words))
        self.asm.jump(head)
        self.asm.bind(behind)

    def choice(self) -> None:
        otherwise, behind = self.asm.label("else"), self.asm.label("behind")
        self.asm.jump_unless(self.pop(), otherwise)
        height = self.height
        self.block(next(self.words), "else")
        self.asm.jump(behind)
        self.asm.bind(otherwise)
        self.height = height
        self.block(next(self.words))
        self.asm.bind(behind)

    def call(self, function: cnp.Function, count: int) -> None:
        """The callee's frame begins behind the stack: copy the arguments there."""
        base = WORD * (len(self.locals) + self.height)
        for number in range(count):
            place = slot(base + self.header + WORD * number)
            self.asm.copy(place, self.top(count - number))
        self.height -= count
        self.asm.call(function, slot(base), self.push())

    def local(self, name: str) -> cnp.Slot:
        return slot(WORD * self.locals.index(name))

    def top(self, number: int) -> cnp.Slot:
        """The slot of the value that many places below the end of the stack."""
        if number > self.height:
            raise SyntaxError("a word takes more values than there are")
        return slot(WORD * (len(self.locals) + self.height - number))

    def push(self) -> cnp.Slot:
        self.height += 1
        return self.top(1)

    def pop(self) -> cnp.Slot:
        popped = self.top(1)
        self.height -= 1
        return popped


class Machine:
    """A program in its two tiers. moves: the operation at each change; `loop` is the way into compiled code."""

    def __init__(self, text: str) -> None:
        self.vocabulary = cnp.load(Path(__file__).with_suffix(".c"))
        assembler = self.vocabulary.assembler()
        Compiler(assembler).compile(text)
        self.code = assembler.build()
        self.moves: list[str] = []

    def run(self, name: str, *arguments: int) -> int | float:
        needs = self.code.needs
        frame = self.vocabulary.frame(needs.frame_bytes(needs.largest, 1000))
        for number, argument in enumerate(arguments):
            frame[WORD * number] = boxed(argument)
        result = self.code.interpreter.run(name, {"heat": HOT}, frame)
        while result.exited:
            operation = self.code.program.ops[result.op].operation.name
            self.moves.append(operation)
            result = self.code.interpreter.resume(result, compiled=operation == "loop")
        if result.trapped:
            raise RecursionError(f"{name} calls too deep")
        return unboxed(result.value)


def boxed(value: int) -> int:
    """An integer as a word."""
    if not -(1 << 31) <= value < 1 << 31:
        raise OverflowError(f"{value} does not fit 32 bits")
    return INTEGER | value & 0xFFFFFFFF


def unboxed(word: int) -> int | float:
    """The number that a word stands for."""
    if word < INTEGER:
        return struct.unpack("<d", struct.pack("<Q", word))[0]
    return (word & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)
