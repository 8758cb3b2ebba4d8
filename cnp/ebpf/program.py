"""eBPF programs for Python: read, verify, compile, interpret, take apart.

    program = Program("filter.o", helpers={1: lambda r1, r2, r3, r4, r5: ...})
    run = program.compile()
    run(packet)        # r1 is the address of the packet, r2 its length; r0

A program may use its stack, the memory that it is called with, and the sections of its object. Checked code looks at every
load and store, and at fuel; unchecked code trusts the program with the whole process.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from cnp import native
from cnp.ebpf import quick
from cnp.ebpf.errors import ProgramError
from cnp.ebpf.isa import CALL_REGISTER, SIZE, Instruction, decode, text_of, whole
from cnp.ebpf.table import Options
from cnp.ebpf.verify import verify
from cnp.errors import OperandError

if TYPE_CHECKING:
    from cnp.bytecode_tables import Translation
    from cnp.ebpf.here import Function

DEPTH = 8  #: functions that may be nested, the first one included
MOST_DEPTH = 1000


class Section(NamedTuple):
    """Data of an object: its name, its contents at the start, whether a program may write there."""

    name: str
    data: bytes
    writable: bool


NOTHING: Mapping[int, Any] = MappingProxyType({})


class Image(NamedTuple):
    """A program as it comes out of a file. relocations: place of an lddw -> (section, offset) that it is the address of.
    names: place -> function that begins there."""

    code: bytes
    sections: tuple[Section, ...] = ()
    relocations: Mapping[int, tuple[int, int]] = NOTHING
    names: Mapping[int, str] = NOTHING


class Program:
    """A verified program.

    source: bytecode, an ELF object's bytes, or the path of either. section: of an object, which one to run (default: the
    first with code). helpers: number -> Python callable of five integers, cffi or ctypes function pointer, or address.
    packet: what legacy loads call with (offset, size, r6), for a number or None; without it they are refused. unwind: number
    of a helper whose result 0 ends the whole program with r0 = 0. ProgramError, VerifyError.
    """

    def __init__(
        self,
        source: bytes | bytearray | str | Path,
        section: str | None = None,
        helpers: Mapping[int, object] | None = None,
        packet: object = None,
        unwind: int | None = None,
    ) -> None:
        data = bytes(source) if isinstance(source, (bytes, bytearray)) else Path(source).read_bytes()
        self.image = read(data, section)
        self.helpers, self.packet, self.unwind = dict(helpers or {}), packet, unwind
        self.checked = self._verify()
        #: contents of the sections, which all runs in this process share
        self.data = [bytearray(section.data) for section in self.image.sections]

    def _verify(self) -> Translation | None:
        """What the core made of it, which finds faster what verify.py has words for. VerifyError names the first instruction that
        breaks a rule."""
        code, packet = self.image.code, self.packet is not None
        found = None
        if native.core_module is not None:
            found = quick.checked(code, self.helpers, packet, self.unwind)
        if found is None:
            verify(decode(code), self.helpers, packet)
        return found

    @cached_property
    def instructions(self) -> list[tuple[int, Instruction]]:
        """Its instructions with their places."""
        return list(whole(decode(self.image.code)))

    @property
    def calls_registers(self) -> bool:
        """Whether some instruction calls the helper whose number is in a register."""
        code = self.image.code
        return CALL_REGISTER in code and CALL_REGISTER in code[::SIZE]  # a second half of lddw begins with 0

    def compile(self, unchecked: bool = False, polls: bool | None = None, depth: int = DEPTH) -> Function:
        """Machine code for this machine.

        unchecked: trust the program's loads and stores. polls: look for fuel and signals on the way back of loops (default:
        where code is checked). depth: functions that may be nested, the first one included.
        """
        from cnp.ebpf.here import Function

        return Function(self, options(unchecked, polls, depth), interpret=False)

    def interpret(self, unchecked: bool = False, polls: bool | None = None, depth: int = DEPTH) -> Function:
        """The same by the interpreter of the same operations."""
        from cnp.ebpf.here import Function

        return Function(self, options(unchecked, polls, depth), interpret=True)

    def disassemble(self) -> str:
        """One line for each instruction: its place and what it does."""
        return disassemble(self.image)


@lru_cache(maxsize=64)
def options(unchecked: bool, polls: bool | None, depth: int) -> Options:
    """How code is to be made. OperandError: a depth that cannot be."""
    if not 1 <= depth <= MOST_DEPTH:
        raise OperandError(f"depth is {depth}", op="", operand="depth", value=depth, allowed=(1, MOST_DEPTH))
    return Options(not unchecked, not unchecked if polls is None else polls, depth)


def read(data: bytes, section: str | None = None) -> Image:
    """Bytecode or an ELF object. ProgramError."""
    if data.startswith(b"\x7fELF"):
        from cnp.ebpf import elf  # needs pyelftools, which bytecode does not

        return elf.read(data, section)
    if section is not None:
        raise ProgramError("bytecode has no sections", what="bytecode has no sections", section=section)
    if len(data) % SIZE:
        what = f"bytecode has {len(data)} bytes, which is no multiple of {SIZE}"
        raise ProgramError(what, what=what, section="")
    return Image(data)


def disassemble(image: Image) -> str:
    """The instructions of a program that need not be valid."""
    lines = []
    for index, instruction in whole(decode(image.code)):
        if name := image.names.get(index):
            lines.append(f"{name}:")
        lines.append(f"{index:6}: {text_of(instruction)}")
    return "\n".join(lines)
