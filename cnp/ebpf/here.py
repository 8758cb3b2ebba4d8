"""Run an eBPF program in this process: its helpers found, the memory it is given held, traps turned into errors."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ctypes import addressof, c_ubyte
from functools import cached_property
from typing import Any

from cnp import link, native
from cnp.code import Code
from cnp.ebpf.memory import Memory, accessible, address_of, hold, placed
from cnp.ebpf.program import Program
from cnp.ebpf.quick import Compiled
from cnp.ebpf.stops import MAIN, stopped
from cnp.ebpf.table import Options
from cnp.ebpf.translate import Job, Places, Region, Translated, translated
from cnp.errors import OperandError, SymbolError, TrapError
from cnp.running import Frame
from cnp.symbols import pointer_value

HELPER = "uint64_t(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t)"
PACKET = "uint64_t(uint64_t, uint64_t, uint64_t)"
first_byte = c_ubyte.from_buffer
NO_PACKET = (1 << 64) - 1  #: what the packet's callback gives for bytes that there are not


class Function:
    """A program ready to run on this machine: `function(memory)` gives r0.

    memory: bytes (the program works on a copy), or a writable buffer in one piece, such as a bytearray, a numpy array or
    an mmap. fuel: rounds of loops and calls, None for no limit. Raises AccessError, RunError, and what a Python
    helper raises.
    """

    def __init__(self, program: Program, options: Options, interpret: bool) -> None:
        self.program, self.options = program, options
        self.helpers = helpers = Helpers(program)
        self._data = [hold(data) for data in program.data]
        kinds = zip(self._data, program.image.sections, strict=True)
        regions = [Region(address_of(data), len(data), section.writable) for data, section in kinds]
        self._places = Places(regions, helpers.addresses, helpers.table, helpers.packet, program.unwind)
        self._interpret = interpret
        self._quick = None if interpret else self._compiled()
        self._fast = None
        if not interpret and not self.helpers.in_python:
            self._fast = self._quick.callable() if self._quick else self._made_callable()

    def _compiled(self) -> Compiled | None:
        """The program by way of the core in C; None: there is none, operations have to be composed, or somebody wants to see
        code as what it was made of (cnp/debug)."""
        checked = self.program.checked
        if checked is None or link.watchers or link.ASKED:
            return None
        try:
            return Compiled(self.program, checked, self.options, self._places)
        except OperandError:
            return None

    @cached_property
    def translated(self) -> Translated:
        """The program as operations, for the interpreter and where the core in C does not do."""
        program = self.program
        job = Job(MAIN, program.instructions, program.image.relocations, self.options, self._places)
        return translated("host", [job])

    @cached_property
    def code(self) -> Code:
        """The code object of these operations."""
        return Code(self.translated.program, {})

    @property
    def size(self) -> int:
        """Bytes of machine code."""
        return self._quick.size if self._quick else len(self.code.image.code)

    def _made_callable(self) -> Callable[[int, int], int]:
        return self.code[MAIN].callable("uint64_t(uint64_t, uint64_t)", depth=self.options.depth)

    def __call__(self, memory: Any = b"", fuel: int | None = None) -> int:
        fast = self._fast
        if fast is None or fuel is not None:
            return self._run(memory, fuel)
        try:
            if (
                type(memory) is bytearray and memory
            ):  # what most calls give, and the shortest way to its address
                held: object = first_byte(memory)  # until the run is over
                return fast(addressof(held), len(memory))  # type: ignore[arg-type]
            held, place, size = placed(memory)
            return fast(place, size)
        except TrapError as trap:  # of a code object: what the core compiled raises what it should
            return stopped(self.program, self.translated, trap.index, trap.code, trap.state)

    def _run(self, memory: Any, fuel: int | None) -> int:
        """With fuel, or with a frame that helpers can look into."""
        if fuel is not None and not self.options.polls:
            raise OperandError(
                "fuel needs code with polls", op="", operand="fuel", value=fuel, allowed="polls=True"
            )
        _held, place, size = placed(memory)  # held until the run is over
        depth, compiled = self.options.depth, self._quick
        library, needs, slots = (
            (compiled.library, compiled.needs, compiled.entry.frame) if compiled
            else (self.code.library, self.code.needs, self.code[MAIN].function.frame)
        )  # fmt: skip
        frame = Frame(library, needs.frame_bytes(slots, depth))
        frame[0], frame[8] = place, size
        with accessible(Memory(frame, self.options.checked)):
            if compiled:
                result = compiled.run(frame, fuel)
            elif self._interpret:
                result = self.code.interpreter.run(MAIN, frame=frame, depth=depth, fuel=fuel)
            else:
                result = self.code[MAIN].run(frame=frame, depth=depth, fuel=fuel)
        if result.returned:
            return int(result.value or 0)
        where = compiled or self.translated
        return stopped(self.program, where, result.op, result.code, result.state)


class Helpers:
    """The helpers of a program as C functions. addresses: by number; table: of number and address, for callx, or 0."""

    def __init__(self, program: Program) -> None:
        self._keep: list[object] = []
        self.in_python = False
        self.addresses = {number: self._address(value, HELPER) for number, value in program.helpers.items()}
        self.packet = 0
        if program.packet is not None:
            self.packet = self._address(optional(program.packet), PACKET)
        self.table = self._table() if program.calls_registers else 0

    def _table(self) -> int:
        """Address of the table."""
        rows = [word for pair in self.addresses.items() for word in pair]
        held = hold(bytearray(struct.pack(f"={len(rows) + 2}Q", *rows, 0, 0)))
        self._keep.append(held)
        return address_of(held)

    def _address(self, value: object, signature: str) -> int:
        if isinstance(value, int):
            return value
        if (pointer := pointer_value(value)) is not None:
            return pointer
        if not callable(value):
            message = f"helper {value!r}: give an address, a function pointer or a callable"
            raise SymbolError(message, symbols=[repr(value)])
        self.in_python = True
        made = native.python_helper(signature, value)
        self._keep.append(made)
        return made.address


def optional(packet: object) -> object:
    """A Python callback whose None says that the packet has no such bytes."""
    if isinstance(packet, int) or pointer_value(packet) is not None or not callable(packet):
        return packet

    def load(offset: int, size: int, context: int) -> int:
        found = packet(offset, size, context)
        return NO_PACKET if found is None else int(found)

    return load
