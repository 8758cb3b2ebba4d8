"""Regular expressions on bytes, each compiled to machine code of its own; what they match is what Python's `re` matches.

    Regex(rb"(\\w+)@(\\w+\\.com)").search(b"mail me@here.com")     # ((5, 16), (5, 7), (8, 16))

Understood: bytes, `.`, `\\d \\w \\s` and their opposites, `[…]`, groups, `(?:…)`, `|`, `^`, `$`, `* + ? {m,n}`, also lazy.
The result is a span for each group, the whole match first; (-1, -1) if the group took no part. None: no match.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cnp
from cnp import slot

TEXT, LENGTH, AT, MARKS, LAST = (slot(8 * number) for number in range(5))  #: the arguments
SIGNATURE = "int64_t(void *, int64_t, int64_t, void *, int64_t)"
ALL = (1 << 256) - 1
Emit = Callable[[], object]  #: appends the operations of a part of the pattern, as often as it is called


def members(text: bytes) -> int:  # a set of bytes: bit b stands for byte b
    return sum(1 << byte for byte in text)


DIGIT, SPACE = members(b"0123456789"), members(b" \t\n\r\f\v")
WORD = DIGIT | members(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
ESCAPES = {"d": DIGIT, "s": SPACE, "w": WORD, "D": ALL & ~DIGIT, "S": ALL & ~SPACE, "W": ALL & ~WORD,
           "n": 1 << 10, "t": 1 << 9, "r": 1 << 13}  # fmt: skip


class Compiler:
    """Reads a pattern; each part becomes an Emit. compile() calls that of the whole."""

    def __init__(self, asm: cnp.Assembler, pattern: bytes) -> None:
        self.asm, self.pattern, self.at = asm, pattern.decode("latin-1"), 0
        self.groups, self.marks = 0, 2 + 2 * pattern.count(b"(")
        self.fail, self.ways = asm.label("fail"), [asm.label("next start")]

    def compile(self) -> None:
        asm, emit = self.asm, self.alternatives()
        if self.at < len(self.pattern):
            raise ValueError(f"unbalanced ) at {self.at} of {self.pattern!r}")
        asm.function("search", frame=40)
        asm.start(TEXT, LENGTH, AT, MARKS)
        again = asm.here("again")
        asm.fork(0)
        self.group(0, emit)
        asm.finish(1)
        asm.bind(self.ways[0])
        asm.next_start(LAST, again)
        asm.finish(0)
        asm.bind(self.fail)
        asm.backtrack(asm.table(*self.ways))

    def take(self, wanted: str) -> bool:
        found = self.pattern.startswith(wanted, self.at)
        self.at += len(wanted) * found
        return found

    def next(self) -> str:
        if self.at == len(self.pattern):
            raise ValueError(f"{self.pattern!r} ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def alternatives(self) -> Emit:
        items = [self.sequence()]
        while self.take("|"):
            items.append(self.sequence())
        return partial(self.any, items)

    def sequence(self) -> Emit:
        items = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            items.append(self.repeated(self.atom()))
        return lambda: [item() for item in items]

    def atom(self) -> Emit:
        match self.next():
            case "(":
                number = 0 if self.take("?:") else self.groups + 1
                self.groups = max(self.groups, number)
                item = self.alternatives()
                if self.next() != ")":
                    raise ValueError(f"a group of {self.pattern!r} has no end")
                return partial(self.group, number, item) if number else item
            case "*" | "+" | "?" | "{":
                raise ValueError(f"nothing to repeat at {self.at - 1} of {self.pattern!r}")
            case "^":
                return lambda: self.asm.at_start(self.fail)
            case "$":
                return lambda: self.asm.at_end(self.fail)
            case ".":
                return partial(self.one_of, ALL & ~members(b"\n"))
            case char:
                return partial(self.one_of, self.bracket() if char == "[" else self.single(char))

    def single(self, char: str) -> int:
        escape = self.next() if char == "\\" else ""
        return ESCAPES.get(escape) or 1 << ord(escape or char)

    def bracket(self) -> int:
        inverted, found, first = self.take("^"), 0, True
        while first or not self.take("]"):
            part, first = self.single(self.next()), False
            if not self.pattern.startswith("-]", self.at) and self.take("-"):
                part = (self.single(self.next()) << 1) - part  # all bits from the one to the other
            found |= part
        return ALL & ~found if inverted else found

    def repeated(self, item: Emit) -> Emit:
        for sign, (least, most) in {"*": (0, None), "+": (1, None), "?": (0, 1), "{": (0, 0)}.items():
            if self.take(sign):
                if sign == "{":
                    numbers = "".join(iter(self.next, "}")).split(",") * 2
                    least, most = int(numbers[0] or 0), int(numbers[1]) if numbers[1] else None
                return partial(self.repeat, item, least, most, not self.take("?"))
        return item

    def one_of(self, wanted: int) -> None:
        if wanted & (wanted - 1):
            self.asm.one_of(*((wanted >> shift) % (1 << 64) for shift in (0, 64, 128, 192)), self.fail)
        else:
            self.asm.byte(wanted.bit_length() - 1, self.fail)

    def any(self, items: list[Emit]) -> None:
        behind = self.asm.label("behind")
        for item in items[:-1]:
            other = self.fork(self.asm.label("other"))
            item()
            self.asm.jump(behind)
            self.asm.bind(other)
        items[-1]()
        self.asm.bind(behind)

    def group(self, number: int, item: Emit) -> None:
        self.asm.mark(2 * number)
        item()
        self.asm.mark(2 * number + 1)

    def repeat(self, item: Emit, least: int, most: int | None, greedy: bool) -> None:
        """A loop is over after a round that moved nowhere."""
        for _ in range(least):
            item()
        head, behind, mark = self.asm.here("head"), self.asm.label("behind"), self.marks
        self.marks += 1
        for _ in range(1 if most is None else most - least):
            body = self.fork(behind if greedy else self.asm.label("body"))
            if not greedy:
                self.asm.jump(behind)
                self.asm.bind(body)
            self.asm.mark(mark)
            item()
            self.asm.unless_moved(mark, behind)
        if most is None:
            self.asm.jump(head)
        self.asm.bind(behind)

    def fork(self, other: cnp.Label) -> cnp.Label:  # another way to go on, should this one fail
        self.asm.fork(len(self.ways))
        self.ways.append(other)
        return other


class Regex:
    """A pattern as machine code. ValueError: the pattern is not understood. Not for several threads at once."""

    def __init__(self, pattern: bytes) -> None:
        asm = cnp.load(Path(__file__).with_suffix(".c")).assembler()
        compiler = Compiler(asm, pattern)
        compiler.compile()
        self.code, self.groups = asm.build(), compiler.groups
        self.marks = array("q", bytes(8 * compiler.marks))
        self.make_room(1000)

    def make_room(self, pairs: int) -> None:
        """For what may have to be taken back."""
        self.undo = array("Q", bytes(16 * pairs))
        first = self.undo.buffer_info()[0]
        self.run = self.code["search"].callable(SIGNATURE, {"undo": first, "full": first + 16 * pairs})

    def match(self, text: bytes, at: int = 0) -> tuple[tuple[int, int], ...] | None:
        return self.search(text, at, at)

    def search(self, text: bytes, at: int = 0, last: int = -1) -> tuple[tuple[int, int], ...] | None:
        """The spans of the first match that begins at `at` … `last`, -1: anywhere behind."""
        self.marks[:] = array("q", [-1]) * len(self.marks)
        address = ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p).value
        try:
            marks = self.marks.buffer_info()[0]
            found = self.run(address, len(text), at, marks, len(text) if last < 0 else last)
        except cnp.TrapError as error:
            if error.code != 64:
                raise
            self.make_room(2 * len(self.undo))
            return self.search(text, at, last)
        ends = self.marks[: 2 * self.groups + 2]
        return tuple(zip(ends[::2], ends[1::2], strict=True)) if found else None
