"""Link a program into executable memory of this process: helpers found, memory reserved, bytes written, all or nothing."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from cnp import encode, memory, native, patch, targets
from cnp._backend import Helper
from cnp.assembler import Cell, Op, Program, Slot
from cnp.errors import StateError, SymbolError
from cnp.frame import Needs
from cnp.library import Library
from cnp.symbols import Symbols, pointer_value
from cnp.target import Target

NATIVE_FRAME = 64  #: return address, padding and alignment of one nested call beside what its stencil says
LAZY_FRAME = 512  #: the same of functions of other code objects that come later


def code_memory(target: Target, scheme: str | None = None) -> memory.CodeMemory:
    """The executable memory of this process. scheme: what to take if there is none yet, and CNP_MEMORY says nothing."""
    return memory.default(new_memory, target, scheme)


def new_memory(target: Target, scheme: str | None) -> memory.CodeMemory:
    """Executable memory of a target."""
    return memory.CodeMemory(
        trap=target.trap,
        flush=native.flush,
        fork_count=native.fork_count,
        probe=memory.Probe(*target.probe),
        scheme=None if os.environ.get("CNP_MEMORY") else scheme,
    )


def check_host(target: Target, instead: str = "") -> None:
    """StateError: code for a target does not run in this process. instead: what else can be done with it."""
    host = targets.get("host").name
    if target.name != host:
        raise StateError(f"code for {target.name} does not run on {host}{instead}", state="foreign")


@dataclass(eq=False)
class Placed:
    """An image in executable memory, which is freed with the last user."""

    block: memory.Block
    image: patch.Image
    cells: dict[Cell, int]
    keep: object


class Helpers:
    """Addresses of helpers and symbols of a program; Python callables become C functions when they are first needed.

    symbols: where names come from that are not among the helpers.
    """

    def __init__(self, program: Program, given: Mapping[str, object], symbols: object = None) -> None:
        self._given = dict(given)
        self.symbols = Symbols(symbols)
        imports = {item.name: item.signature for item in program.library.imports}
        self._signatures = program.prototypes | imports
        self._made: dict[str, Helper] = {}

    def address(self, name: str) -> int | None:
        """Where a helper lies; None if nobody gave it."""
        value = self._given.get(name)
        if value is None:
            return native.poll_address() if name == native.POLL else self.symbols.address(name)
        if isinstance(value, int):
            return value
        if (pointer := pointer_value(value)) is not None:
            return pointer
        if not callable(value):
            raise SymbolError(
                f"helper {name} is {value!r}: give an address, a function pointer or a callable",
                symbols=[name],
            )
        if name not in self._signatures:
            message = f"no stencil calls {name}, so that it has no prototype: give an address or a pointer, or invoke it"
            raise SymbolError(message, symbols=[name])
        if name not in self._made:
            self._made[name] = native.python_helper(self._signatures[name], value)
        return self._made[name].address


#: Calls of cnp/debug that the environment asks for, before the first code is built.
ASKED = os.environ.get("CNP_DEBUG", "")

#: Told of each image in executable memory; what they return is called before it is freed (`cnp/debug`).
watchers: dict[str, Callable[[Program, patch.Image], Callable[[], None]]] = {}


def place(program: Program, addresses: Callable[[str], int | None], keep: object) -> Placed:
    """Reserve memory, link for its address, copy, and make it executable: undone as a whole if it fails."""
    if ASKED:
        from cnp import debug  # who does not ask does without

        debug.from_environment(ASKED)
    code_size, data_size = encode.size_bound(program)
    block = code_memory(program.library.target).allocate(code_size, data_size)
    try:
        image = encode.encode(program, block.code_address, block.data_address, addresses)
        block.data[: len(image.data)] = image.data
        block.write(image.code)
        forget = announce(program, image)
    except BaseException:
        block.free()
        raise
    placed = Placed(block, image, image.cell_places, keep)
    freeing = weakref.finalize(placed, release, block, forget)
    freeing.atexit = False  # threads may run it until the process is gone
    return placed


def announce(program: Program, image: patch.Image) -> list[Callable[[], None]]:
    """Tell all watchers, or, if one fails, none; what takes it back."""
    done: list[Callable[[], None]] = []
    try:
        for watcher in list(watchers.values()):
            done.append(watcher(program, image))
    except BaseException:
        for undo in done:
            undo()
        raise
    return done


def release(block: memory.Block, forget: list[Callable[[], None]]) -> None:
    """Free a block that nobody runs any more."""
    for undo in forget:
        undo()
    block.free()


def needs(program: Program) -> Needs:
    """What runs of a program take of frame memory and native stack."""
    header = program.library.header_size
    step = native_bytes = 0
    for op in callers(program):
        step = max(step, header + base_of(op))
        native_bytes = max(native_bytes, op.form.near.stack)
    native_bytes += NATIVE_FRAME
    found = Needs(step, max((f.frame for f in program.functions), default=0), native_bytes)
    for lazy in program.lazy.values():
        found = found.with_those_of(Needs(header + lazy.frame, lazy.frame, LAZY_FRAME))
    return found


def callers(program: Program) -> Iterator[Op]:
    """The operations that make native calls."""
    records = program.ops.records
    if records is None:
        yield from (op for op in program.ops if op.operation.calls)
    else:
        yield from (op for _, op in records.select(calls=True))


def interpreted_frame(library: Library) -> int:
    """Native stack of one nested call in the interpreter, in bytes."""
    return library.interpreter_stack + NATIVE_FRAME


def base_of(op: Op) -> int:
    """The largest slot offset that a calling operation can take as the base of its callee's frame."""
    return max((value.offset for value in op.values if isinstance(value, Slot)), default=0)
