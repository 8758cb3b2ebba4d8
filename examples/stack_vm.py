"""The front end of the stack machine in stack_vm.c: text in, running code out. Copy both to begin an interpreter.

    program = Machine().assemble('''
        function fib n
            jump_if_local_less n 2 small
            call fib n-1
            call fib n-2
            add
            ret
        small:
            ret_local n
    ''')
    fib = program.callable("fib", "int64_t(int64_t)")

A line is a function with its parameters, `local` with more names, a label (`loop:`, or `@loop:` where a run may also
enter), or an operation of stack_vm.c with its operands. `call f` takes its arguments from the stack, `call f a b-1`
from locals. The height of the stack is known at every line, so that nothing is checked while the code runs.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cnp

WORD = 8
#: Values that an operation takes from the stack and gives back.
EFFECTS = {
    "push": (0, 1), "dup": (1, 2), "drop": (1, 0), "swap": (2, 2), "load": (0, 1), "store": (1, 0), "add": (2, 1),
    "sub": (2, 1), "mul": (2, 1), "div": (2, 1), "lt": (2, 1), "add_local": (0, 0), "jump": (0, 0), "jump_if": (1, 0),
    "jump_if_less": (2, 0), "jump_if_local_less": (0, 0), "jump_table": (1, 0), "loop_head": (0, 0), "ret": (1, 1),
    "ret_local": (0, 0), "attribute": (1, 1), "load_cell": (0, 1), "print": (1, 0), "magnitude": (1, 1),
    "to_float": (1, 0), "scale": (0, 0), "from_float": (0, 1), "fail": (0, 0),
}  # fmt: skip
#: Operations that leave the stack below its top alone, so that they do not need `sp`.
WITHOUT_SP = {
    "add_local",
    "jump",
    "jump_if_local_less",
    "loop_head",
    "ret",
    "ret_local",
    "attribute",
    "magnitude",
    "scale",
    "fail",
}


class Unit:
    """One program under construction. labels and cells: by name, labels as `function.label`."""

    def __init__(self, assembler: cnp.Assembler, text: str) -> None:
        self.asm, self.header = assembler, assembler.library.header_size
        lines = [line.split("#")[0].split() for line in text.splitlines()]
        self.lines = [words for words in lines if words]
        self.labels: dict[str, cnp.Label] = {}
        self.cells: dict[str, cnp.Cell] = {}
        self.heights: dict[str, int] = {}
        heads = [words for words in self.lines if words[0] == "function"]
        self.parameters = {name: names for _, name, *names in heads}
        widest = self.header + 2 * WORD * sum(
            map(len, self.lines)
        )  # a local, value or argument takes a word of text
        self.functions = {name: assembler.declare(name, widest) for name in self.parameters}

    def assemble(self) -> Unit:
        for words in self.lines:
            head, *operands = words
            if head == "function":
                self.begin(*operands)
            elif head == "local":
                self.locals += operands
            elif head.endswith(":"):
                self.bind(head[:-1])
            elif head == "call":
                self.call(*operands)
            else:
                self.operation(head, operands)
        return self

    def begin(self, name: str, *parameters: str) -> None:
        self.asm.begin(self.functions[name])
        self.name, self.locals = name, list(parameters)
        self.height, self.sp_is_set = 0, False

    def bind(self, name: str) -> None:
        """What is known of `sp` ends at a label: those who jump here may not have set it."""
        key = f"{self.name}.{name.lstrip('@')}"
        self.height = self.heights.setdefault(key, self.height)
        self.sp_is_set = False
        self.asm.bind(self.label(key), entry=name.startswith("@"))

    def label(self, key: str) -> cnp.Label:
        if key not in self.labels:
            self.labels[key] = self.asm.label(key)
        return self.labels[key]

    def operation(self, name: str, operands: list[str]) -> None:
        takes, gives = EFFECTS[name]
        if self.height < takes:
            raise ValueError(f"{self.name}: {name} takes {takes} values, the stack holds {self.height}")
        if name not in WITHOUT_SP:
            self.set_sp()
        self.height += gives - takes
        if name == "jump_table":
            table = self.asm.table(*(self.target(operand) for operand in operands))
            self.asm.jump_table(table, len(operands))
        else:
            kinds = (operand.kind for operand in self.asm.library[name].operands)
            self.asm.op(name, *(self.value(kind, operands) for kind in kinds))

    def value(self, kind: str, operands: list[str]) -> object:
        """The next operand of a line as the assembler wants it; an `attribute` has a cache of its own."""
        if kind == "cell":
            return self.cells.setdefault(operands.pop(0), self.asm.cell()) if operands else self.asm.cell()
        word = operands.pop(0)
        match kind:
            case "slot":
                return self.slot(self.locals.index(word))
            case "label":
                return self.target(word)
            case _:
                return float(word) if "." in word else int(word)

    def target(self, name: str) -> cnp.Label:
        """A label that this line jumps to: the stack has the same height there."""
        key = f"{self.name}.{name}"
        if self.heights.setdefault(key, self.height) != self.height:
            raise ValueError(f"{key}: the stack holds {self.heights[key]} or {self.height} values")
        return self.label(key)

    def call(self, name: str, *arguments: str) -> None:
        """Put the arguments into the callee's slots, its frame behind the stack of this one."""
        count = len(self.parameters[name])
        height = self.height if arguments else self.height - count
        base = len(self.locals) + height + 1
        places = [self.slot(base + self.header // WORD + number) for number in range(count)]
        for place, argument in zip(places, arguments, strict=bool(arguments)):
            local, plus = re.fullmatch(r"(\w+?)([+-]\d+)?", argument).groups()  # type: ignore[union-attr]
            self.asm.add_local(place, self.slot(self.locals.index(local)), int(plus or 0))
        if not arguments:
            self.set_sp()
            for place in reversed(places):
                self.asm.store(place)
        if height:
            self.asm.spill(self.slot(base - 1))
        self.asm.call(self.functions[name], self.slot(base))
        self.height, self.sp_is_set = height + 1, False

    def set_sp(self) -> None:
        """Only operations that reach below the top need `sp`; a call leaves nothing in it."""
        if not self.sp_is_set:
            self.asm.stack(self.slot(len(self.locals) + self.height))
            self.sp_is_set = True

    def slot(self, number: int) -> cnp.Slot:
        return cnp.slot(WORD * number)


class Objects:
    """Objects for the `attribute` operation: a shape (a number below 2^48) and the attributes in the shape's order."""

    def __init__(self) -> None:
        self.shapes: dict[int, list[int]] = {}
        self.misses = 0

    def make(self, shape: int, names: dict[int, int]) -> ctypes.Array[ctypes.c_uint64]:
        """An object; names: attribute -> value."""
        self.shapes[shape] = list(names)
        return (ctypes.c_uint64 * (1 + len(names)))(shape, *names.values())

    def look_up(self, _vm: int, address: int, name: int, cache: int) -> int:
        """What a miss calls: the attribute's value; the cache holds shape and index from now on, in one store."""
        self.misses += 1
        shape = ctypes.c_uint64.from_address(address).value
        if name not in self.shapes[shape]:
            raise AttributeError(f"shape {shape} has no attribute {name}")
        index = self.shapes[shape].index(name) + 1
        ctypes.c_uint64.from_address(cache).value = shape | index << 48
        return ctypes.c_uint64.from_address(address + WORD * index).value


class Machine:
    """A stack machine: its vocabulary, its helpers and the word that calls a run out at the next loop head."""

    def __init__(self, **helpers: object) -> None:
        self.vocabulary = cnp.load(Path(__file__).with_name("stack_vm.c"))
        self.objects = Objects()
        self.pending = ctypes.c_uint64(0)
        self.printed: list[int] = []
        self.state = {"vm": ctypes.addressof(self.pending)}
        self.helpers = {
            "vm_overflow": overflow,
            "vm_attribute": self.objects.look_up,
            "vm_print": lambda _vm, value: self.printed.append(value),
            "vm_magnitude": abs,
        } | helpers

    def assemble(self, text: str) -> Program:
        """Running code of a text; ValueError: the stack does not add up."""
        return Program(Unit(self.vocabulary.assembler(self.helpers), text).assemble(), self)


class Program:
    """Assembled code with its labels and cells by name."""

    def __init__(self, unit: Unit, machine: Machine) -> None:
        self.machine, self.labels, self.cells = machine, unit.labels, unit.cells
        self.code = unit.asm.build()

    def callable(self, name: str, signature: str, depth: int = 1000) -> Callable[..., Any]:
        return self.code[name].callable(signature, self.machine.state, depth)

    def frame(self, name: str, *arguments: int) -> cnp.Frame:
        """A frame with room for 1,000 nested calls and the arguments in its first slots."""
        needs = self.code.needs
        frame = self.machine.vocabulary.frame(needs.frame_bytes(needs.largest, 1000))
        for number, argument in enumerate(arguments):
            frame[WORD * number] = argument
        return frame

    def run(self, name: str, *arguments: int, depth: int = 1000, fuel: int | None = None) -> cnp.Result:
        """Run a function; the result says how it ended."""
        return self.code[name].run(self.machine.state, self.frame(name, *arguments), depth, fuel)

    def interpret(self, name: str, *arguments: int, fuel: int | None = None) -> cnp.Result:
        """The same in the interpreter of the same bodies."""
        return self.code.interpreter.run(name, self.machine.state, self.frame(name, *arguments), fuel=fuel)


def overflow(_vm: int, operation: int, a: int, b: int) -> int:
    """What a result that needs more than 64 bits becomes: here, an exception."""
    raise OverflowError(f"{a} {'+-*'[operation]} {b} does not fit 64 bits")
