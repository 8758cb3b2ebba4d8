"""A small Forth that compiles each word as it is defined, into a code object of its own.

    forth = Forth()
    forth.eval(": square dup * ;")          # machine code from here on
    forth.eval("7 square 1 + .")            # prints 50

What stands outside a definition is compiled as a word without a name, run once and forgotten. A word calls those that
were defined before it by their addresses, so that redefining a word leaves its users alone, as Forth has it.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

import cnp
from cnp import slot

WORD = 8
MARGIN = 1024  #: words of memory beyond both ends of the stack, which is only checked now and then
ROOM = 4096  #: words on the stack
LOOPS = 8  #: counted loops that may be nested
FRAME = (
    2 * WORD * LOOPS
)  #: bytes of every word's frame: index and limit of each loop; a callee's frame behind them
DEPTH = 1000  #: calls that may be nested
TOKEN = re.compile(r'\."\s[^"]*"|\(\s[^)]*\)|\\[^\n]*|\S+')

PRIMITIVES = {
    "+": "add", "-": "sub", "*": "mul", "/": "divide", "=": "equal", "<": "less", ">": "greater", "@": "fetch", "!": "store",
} | {name: name for name in ("dup", "drop", "swap", "over", "rot", "mod", "and", "or", "xor", "emit")}  # fmt: skip

PRELUDE = """
: negate 0 swap - ;  : invert -1 xor ;  : cr 10 emit ;  : space 32 emit ;
: digits dup 10 / dup if recurse else drop then 10 mod 48 + emit ;
: . dup 0 < if 45 emit negate then digits space ;
"""


class Compiler:
    """Compiles one word. call(name): the function of a word that was defined before, or of this one."""

    def __init__(self, asm: cnp.Assembler, name: str, call: Callable[[str], object]) -> None:
        self.asm, self.name, self.call = asm, name, call
        self.open: list[tuple[str, cnp.Label]] = []  # structures under way: the word that is missing, a label
        self.loops = 0

    def compile(self, body: list[str]) -> None:
        if len(body) >= MARGIN // 2:
            raise SyntaxError(f"{self.name} is too long: factor it into words of less than {MARGIN // 2}")
        self.asm.fill()
        self.asm.guard()
        for word in body:
            self.word(word)
        if self.open:
            raise SyntaxError(f"{self.name} ends where {self.open[-1][0]!r} is missing")
        self.asm.ret()

    def word(self, word: str) -> None:
        asm = self.asm
        match word:
            case "if":
                self.forward("then", asm.jump_if_zero)
            case "else":
                label = self.close("then")
                self.forward("then", asm.jump)
                asm.bind(label)
            case "then":
                asm.bind(self.close("then"))
            case "begin":
                self.back("until")
            case "until":
                asm.jump_if_zero(self.close("until"))
            case "while":
                self.forward("repeat", asm.jump_if_zero)
            case "repeat":
                behind = self.close("repeat")
                asm.jump(self.close("until"))
                asm.bind(behind)
            case "do":
                self.loops += 1
                asm.do_from(*self.counter(1))
                self.back("loop")
            case "loop":
                asm.count(*self.counter(1), self.close("loop"))
                self.loops -= 1
            case "i" | "j":
                asm.index(self.counter("_ij".index(word))[0])
            case "variable":
                asm.address(asm.cell())
            case _ if word in PRIMITIVES:
                asm.op(PRIMITIVES[word])
            case _ if word.startswith('."'):
                for byte in word[3:-1].encode():
                    asm.literal(byte)
                    asm.emit()
            case _ if re.fullmatch(r"-?\d+", word):
                asm.literal(int(word))
            case _:
                asm.spill()
                asm.call(self.call(self.name if word == "recurse" else word), slot(FRAME))

    def forward(self, closes: str, jump: Callable[[cnp.Label], int]) -> None:
        """Jump to where `closes` will stand."""
        self.open.append((closes, self.asm.label(closes)))
        jump(self.open[-1][1])

    def back(self, closes: str) -> None:
        self.open.append((closes, self.asm.here(closes)))
        self.asm.guard()

    def close(self, word: str) -> cnp.Label:
        if not self.open or self.open[-1][0] != word:
            raise SyntaxError(f"{self.name}: nothing is open that {word!r} could close")
        return self.open.pop()[1]

    def counter(self, outwards: int) -> tuple[cnp.Slot, cnp.Slot]:
        """Index and limit of a counted loop: of the innermost (1), of the one around it …"""
        if not outwards <= self.loops <= LOOPS:
            raise SyntaxError(f"{self.name}: {self.loops} counted loops are open here")
        at = 2 * WORD * (self.loops - outwards)
        return slot(at), slot(at + WORD)


def definitions(text: str) -> Iterator[tuple[str, list[str]]]:
    """Name and body of the words that a text defines; what stands between definitions has no name."""
    words = iter([word for word in TOKEN.findall(text) if not re.match(r"\(\s|\\", word)])
    between: list[str] = []
    for word in words:
        if word in (":", "variable"):
            yield "", between
            yield next(words), ["variable"] if word == "variable" else list(iter(words.__next__, ";"))
            between = []
        else:
            between.append(word)
    yield "", between


class Forth:
    """A Forth in this process. out: a helper that is given each byte that is emitted; its result is ignored."""

    def __init__(self, out: Callable[[int], int] = lambda byte: sys.stdout.write(chr(byte))) -> None:
        self.vocabulary = cnp.load(Path(__file__).with_suffix(".c"))
        self.words: list[tuple[str, cnp.Code]] = []  # all that was defined: others may be using it
        self.out = out
        self.memory = array("q", bytes(WORD * (ROOM + 2 * MARGIN)))
        self.low = self.memory.buffer_info()[0] + WORD * MARGIN
        self.sp = self.low + WORD
        self.eval(PRELUDE)

    def eval(self, text: str) -> None:
        """Define and run what the text says. TrapError: a word divides by zero, leaves the stack, calls too deep."""
        for name, body in definitions(text):
            code = self.compile(name, body)
            if name:
                self.words.append((name, code))
            else:
                self.run(code)

    def compile(self, name: str, body: list[str]) -> cnp.Code:
        words = {word: code["word"].address for word, code in self.words}
        asm = self.vocabulary.assembler({**words, "cnp_host_putc": self.out})
        function = asm.function("word", FRAME)
        Compiler(asm, name, lambda word: function if word == name else cnp.Symbol(word)).compile(body)
        return asm.build()

    def run(self, code: cnp.Code) -> None:
        """Run a word on the stack. After a trap the stack is empty."""
        state = {"sp": self.sp, "low": self.low, "high": self.low + WORD * ROOM}
        frame = self.vocabulary.frame(DEPTH * (FRAME + self.vocabulary.library.header_size) + FRAME)
        result = code["word"].run(state, frame, DEPTH)
        self.sp = self.low + WORD if result.trapped else result.value
        if result.trapped:
            raise cnp.TrapError(f"trap {result.code}", code=result.code, index=result.op)

    @property
    def stack(self) -> list[int]:
        return list(self.memory[MARGIN + 1 : MARGIN + (self.sp - self.low) // WORD])
