"""Finished code: functions that run, their cells, the interpreter of the same program.

A run releases the GIL; a `callable` keeps it (cnp/native.py says more). A code object lives as long as anything
that can run it: runs, callables, functions and results hold it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnp import frame as layout
from cnp import interpret, native
from cnp.amend import Users, amend
from cnp.assembler import Cell, Function, Label, Offset, Program, Symbol
from cnp.errors import LabelError, OperandError, StateError
from cnp.link import NATIVE_FRAME, Helpers, check_host, interpreted_frame, needs, place
from cnp.listing import Line, listing
from cnp.operands import Place, Register, Slot, name_of
from cnp.patch import Image
from cnp.result import Result
from cnp.running import (
    CALLABLE_FRAME,
    CALLABLE_SPARE,
    DEPTH,
    Frame,
    State,
    address,
    alone,
    check_fuel,
    fail,
    finish,
    native_stack,
    op_name,
    prepare,
)
from cnp.saved import pack
from cnp.signature import C_TYPES, parse_signature
from cnp.symbols import Symbols


class Code:
    """Finished code: functions by name, its cells, the ways in.

    symbols: address of each function, global label and export. `code["name"]` is a function that can be run or made a
    callable. Code whose symbols this one took lives as long as this.
    """

    def __init__(self, program: Program, helpers: Mapping[str, object], symbols: object = None) -> None:
        check_host(program.library.target, "; encode() it, or cnp run --target")
        self.program, self.library = program, program.library
        self.users: Users = Users()
        self._helpers = Helpers(program, helpers, symbols)
        self._block = place(program, self._helpers.address, self._helpers)
        self.image = self._block.image
        self.symbols = self.image.symbols
        self.needs = needs(program)
        for other in self._helpers.symbols.codes:
            self._check_vocabulary(other)
            other.users.shared = "other code has symbols of this"
            self.needs = self.needs.with_those_of(other.needs)
        self._links: dict[str, object] = {}  # what the cells of lazy functions point into
        self._entries = program.entries()
        self._interpreter: Interpreter | None = None
        program.codes += 1

    def __getitem__(self, name: str) -> Entry:
        """The function of that name; LabelError if there is none."""
        for function in self.program.functions:
            if function.name == name:
                return Entry(self, function)
        known = ", ".join(self.symbols)
        raise LabelError(f"there is no function {name!r}; there are {known}", label=name)

    def __iter__(self) -> Iterator[str]:
        return (function.name for function in self.program.functions if function.name in self.symbols)

    def _check_vocabulary(self, other: Code) -> None:
        """StateError: functions of the other code cannot be called from here."""
        ours, theirs = self.library, other.library
        if (ours.state, ours.header_size) != (theirs.state, theirs.header_size):
            message = f"code of {ours.path} cannot call code of {theirs.path}, which has another state"
            raise StateError(message, state="vocabulary")

    def link(self, symbols: object) -> tuple[str, ...]:
        """Let the cells of lazy functions (`asm.lazy`) point to those that are known now, each by one atomic store; the
        names that are still open.

        symbols: as for an assembler. StateError: a function of another code object takes more frame or stack than was
        said, or is of another vocabulary.
        """
        source = Symbols(symbols)
        found = {name: source.address(name) for name in self.program.lazy}
        for other in source.codes:
            self._check_vocabulary(other)
            if not self.needs.covers(other.needs):
                message = (
                    f"{', '.join(other)} take {other.needs}, of which lazy functions here have {self.needs}"
                )
                raise StateError(message, state="needs")
        for name, where in found.items():
            if where is not None:
                self._links[name] = source
                for other in source.codes:
                    other.users.shared = "other code has symbols of this"
                native.cell_store(self._block.cells[self.program.lazy[name]], 8, where)
        return tuple(name for name in found if name not in self._links)

    # ---- what stands in it

    def save(self, path: str | Path) -> None:
        """Write the program to a file for `cnp.load_code`: imports by name, cells with what they held at first."""
        Path(path).write_bytes(pack(self.program))

    def listing(self) -> list[Line]:
        """Each instruction with its address, bytes, operation, patched holes and source position; `print(*…, sep="\\n")`."""
        return list(listing(self.program, self.image))

    def patch(self, op: int, operand: str, value: object) -> None:
        """Give an operation another operand, of those that its form takes, while nobody runs this code.

        StateError: a run is under way, or nobody can know (a callable was made, other code has symbols of this one, the
        process was forked); another code object was built from the same program; the operation was composed, or other
        code would have to move. OperandError, LabelError, RangeError: as when it is assembled. Nothing is changed then. The
        caller knows who has an address of it.
        """
        with self.users.amending():
            amend(self, op, operand, value)

    def import_address(self, name: str) -> int | None:
        """The address that a helper or symbol was found at."""
        return self.image.imports.get(name)

    def rewrite(self, image: Image) -> None:
        """Put another image of the same shape in the place of this one, and in the records of the interpreter."""
        self._block.block.rewrite(image.code)
        self.image = self._block.image = image
        if self._interpreter is not None:
            self._interpreter.write()

    @property
    def cells(self) -> Cells:
        """Cells by operation: `code.cells[12].shape = 5` is one atomic store."""
        return Cells(self)

    def address(self, place: Place | int | str) -> int:
        """Address of a label, of an operation, of a place in data or beside another place, of a symbol by its name.
        LabelError: this program has no such place."""
        if isinstance(place, str):
            if place not in self.symbols:
                raise LabelError(
                    f"there is no symbol {place!r}; there are {', '.join(self.symbols)}", label=place
                )
            return self.symbols[place]
        if isinstance(place, Offset):
            return self.address(place.place) + place.addend
        if isinstance(place, int) or (isinstance(place, Label) and place.address is None):
            return self.image.base + self.image.offsets[self.position(place)]
        try:
            if getattr(place, "owner", self.program.labels) is not self.program.labels:
                raise LookupError(place)
            return self.image.address(place)
        except LookupError:
            message = f"{name_of(place)} is no place of this program"
            raise LabelError(message, label=name_of(place)) from None

    def position(self, place: Place | int) -> int:
        """Position of a label or of an operation; LabelError if this program has no such operation."""
        label = place if isinstance(place, Label) else None
        position = place.position if isinstance(place, Label) else place
        if (
            (label and label.owner is not self.program.labels)
            or not isinstance(position, int)
            or not 0 <= position < len(self.image.offsets)
        ):
            raise LabelError(
                f"{place} is no operation of this program", label=label.name if label else str(place)
            )
        return position

    def op_at(self, address: int) -> int | None:
        """The operation whose code holds an address."""
        return self.image.op_at(address)

    def enter(
        self,
        place: Label | int,
        state: State | None = None,
        frame: Frame | None = None,
        depth: int = DEPTH,
        fuel: int | None = None,
    ) -> Result:
        """Run from a function, or from an operation that was bound as an entry."""
        position = self.position(place)
        if position not in self._entries:
            raise self.program.no_entry(position)
        function = self.program.function_at(position)
        with alone(frame), self.users.running():
            area = prepare(self, frame, state or {}, depth, fuel, function, NATIVE_FRAME)
            native.run(self.image.enter, area.address, self.address(place))
            return finish(self, area)

    @property
    def interpreter(self) -> Interpreter:
        """The interpreter of this program, with the same cells and helpers."""
        if self._interpreter is None:
            self._interpreter = Interpreter(self)
        return self._interpreter


class Entry:
    """A function of a code object."""

    def __init__(self, code: Code, function: Function) -> None:
        self.code, self.function, self.name = code, function, function.name

    @property
    def address(self) -> int:
        return self.code.symbols[self.name]

    def run(
        self,
        state: State | None = None,
        frame: Frame | None = None,
        depth: int = DEPTH,
        fuel: int | None = None,
    ) -> Result:
        """Enter with a state and a frame; the result says how it ended, with the state as it is then.

        depth: calls that may be nested; running out of it is a trap, as is running out of fuel (polls). An
        exception in a Python helper, and KeyboardInterrupt in a poll, is raised here.
        """
        return self.code.enter(self.function, state, frame, depth, fuel)

    def callable(
        self,
        signature: str,
        state: State | None = None,
        depth: int = DEPTH,
        arguments: Sequence[Register | Slot] | None = None,
    ) -> Callable[..., Any]:
        """A plain fast callable, such as `callable("int64_t(int64_t, double)")`.

        arguments: where each of them is when the code begins, a register or slot; without it they lie in the slots 0,
        8, 16 …. The result is the vocabulary's result. Each call has a frame of its own and begins with `state`.
        TrapError when the code traps or exits. OperandError: an argument cannot be there.
        """
        code, name = self.code, self.name
        places = self._places(signature, arguments)
        depth = min(depth, CALLABLE_SPARE // max(1, code.needs.native - CALLABLE_FRAME))
        size = code.needs.frame_bytes(self.function.frame, depth)
        if places and max(places) > size - 8:
            message = (
                f"{name}: {len(places)} arguments do not lie in its frame of {self.function.frame} bytes"
            )
            raise OperandError(message, op=name, operand="arguments", value=len(places), allowed=size // 8)
        code.users.shared = f"{name} was made a callable, which may be running"

        def failed(kind: int, trap: int, frame: int, op: int) -> None:
            fail(code.library, kind, trap, frame, op, op_name(code, op), code.program.ops[op].at)

        return native.make_callable(
            enter=code.image.enter, code=self.address, signature=signature, header_size=code.library.header_size,
            state=layout.pack_state(code.library, state or {}), frame_bytes=code.library.header_size + size,
            depth=depth, name=name, doc=f"{name}: {signature}, generated code", failed=failed, keepalive=code,
            places=places,
        )  # fmt: skip

    def _places(self, signature: str, arguments: Sequence[Register | Slot] | None) -> list[int]:
        """Where the arguments go, in bytes from slot 0: a register lies at its home when a run begins."""
        types = parse_signature(signature).arguments
        if arguments is None:
            return list(range(0, 8 * len(types), 8))
        if len(arguments) != len(types):
            message = (
                f"{self.name}: {len(types)} arguments of {signature}, and {len(arguments)} places for them"
            )
            raise OperandError(
                message, op=self.name, operand="arguments", value=arguments, allowed=len(types)
            )
        return [self._place(letter, place) for letter, place in zip(types, arguments, strict=True)]

    def _place(self, letter: str, place: Register | Slot) -> int:
        """The place of one argument, by the letter of its type. An f32 in a register is a word that the machine chooses
        (docs/contract.md); in a slot it is not."""
        if isinstance(place, Register):
            allowed = {"d": "f", "f": ""}.get(letter, "r")
            if place.bank == allowed:
                return self.code.library.home(place)
            what = f"a register of {allowed} or a slot" if allowed else "a slot"
        elif (
            isinstance(place, Slot) and 0 <= place.offset <= self.function.frame - 8 and place.offset % 8 == 0
        ):
            return place.offset
        else:
            what = f"one of the {self.function.frame} bytes of slots of {self.name}, or a register"
        message = f"{self.name}: a {C_TYPES[letter]} is handed over in {what}, not in {place!r}"
        raise OperandError(message, op=self.name, operand="arguments", value=place, allowed=what)


class Cells:
    """The cells of a code object by operation."""

    def __init__(self, code: Code) -> None:
        self._code = code

    def __getitem__(self, op: int) -> CellsOf:
        if op not in self._code.image.cells:
            raise OperandError(
                f"op {op} has no cells", op=op_name(self._code, op), operand="", value=op, allowed=""
            )
        return CellsOf(self._code, self._code.image.cells[op])


class CellsOf:
    """The cells of one operation as attributes; each access is atomic."""

    def __init__(self, code: Code, addresses: dict[str, int]) -> None:
        self.__dict__["_code"] = code  # keeps the cells alive
        self.__dict__["_addresses"] = addresses

    def _address(self, name: str) -> int:
        addresses: dict[str, int] = self.__dict__["_addresses"]
        if name not in addresses:
            raise AttributeError(f"no cell {name!r}; there are {', '.join(addresses)}")
        return addresses[name]

    def __getattr__(self, name: str) -> int:
        return native.cell_load(self._address(name), 8)

    def __setattr__(self, name: str, value: int) -> None:
        native.cell_store(self._address(name), 8, value)


class Interpreter:
    """Runs a program by its records; continues what generated code left."""

    def __init__(self, code: Code) -> None:
        interpret.check_exists(code.library)
        self.code = code
        self._records = bytearray(interpret.records_size(code.program) + 16)
        self._base = (address(self._records) + 7) & ~7
        program = interpret.interpreter_program(code.program)
        self._block = place(program, interpret.reachable_imports(code._helpers.address), code._helpers)
        self.write()

    def write(self) -> None:
        """Write the records of the program as it is."""
        code = self.code
        names = {value.name for op in code.program.ops for value in op.values if isinstance(value, Symbol)}
        symbols = {name: found for name in names if (found := code._helpers.address(name)) is not None}
        data = interpret.records(
            code.program, self._base, self._cell, symbols, self._block.image.routines, code.image.address
        )
        start = self._base - address(self._records)
        self._records[start : start + len(data)] = data

    def _cell(self, cell: Cell) -> int:
        return self.code._block.cells[cell]

    def _routine(self, threaded: bool) -> int:
        return interpret.routine(self.code.library, self._block.image.routines, threaded)

    def record(self, op: int) -> int:
        """Address of an operation's record."""
        return self._base + interpret.RECORD_SIZE * op

    def run(
        self,
        place: Function | Label | int | str,
        state: State | None = None,
        frame: Frame | None = None,
        depth: int = DEPTH,
        fuel: int | None = None,
        threaded: bool = False,
    ) -> Result:
        """Interpret from an operation on: a function (or its name), a label, a position.

        threaded: by the faster of the two interpreters. StateError where the machine's vocabularies have none.
        """
        code, routine = self.code, self._routine(threaded)
        position = code.position(code[place].function if isinstance(place, str) else place)
        with alone(frame), code.users.running():
            function = code.program.function_at(position)
            area = prepare(code, frame, state or {}, depth, fuel, function, interpreted_frame(code.library))
            native.run(routine, area.address, self.record(position))
            return finish(code, area)

    def resume(
        self, result: Result, fuel: int | None = None, threaded: bool = False, compiled: bool = False
    ) -> Result:
        """Go on where a run left, until the function that run() entered returns, exits or traps.

        Each activation goes on at the operation at which it stands; a call that was under way is given the
        callee's result. compiled: the innermost activation goes on in generated code, at an operation that is bound
        as an entry (LabelError: it is not). StateError: it returned, its frame was used again since, it is of another
        program, or there is no threaded interpreter.
        """
        routine = self._routine(threaded)
        if not result.activations:
            raise StateError("this run returned: there is nothing to resume", state=result.kind)
        code, area = self.code, result.frame
        if (
            not isinstance(area, Frame)
            or not area.left
            or area.left[0] is not code
            or area.left[1] is not result.activations
        ):
            raise StateError("this is not what the last run of this code left in its frame", state="stale")
        innermost = result.activations[0].op
        if compiled and innermost not in code._entries:
            raise code.program.no_entry(innermost)
        check_fuel(fuel)
        area.left = None
        with alone(area), code.users.running():
            return self._go_on(routine, result, area, fuel, compiled)

    def _go_on(self, routine: int, result: Result, area: Frame, fuel: int | None, compiled: bool) -> Result:
        """Run the activations of a result, the innermost first."""
        code = self.code
        area.set_context(layout.pack_context(code.library, fuel))
        deepest = native_stack() // max(interpreted_frame(code.library), code.needs.native if compiled else 0)
        for activation in result.activations:
            area.limit_depth(activation.frame - area.address, deepest)
        for number, activation in enumerate(result.activations):
            if compiled and number == 0:
                native.run(code.image.enter, activation.frame, code.address(activation.op))
            else:
                native.run(routine, activation.frame, self.record(activation.op))
            if area.get_context()["kind"]:
                return finish(code, area, result.activations[number + 1 :], activation.frame)
            area.set_context(layout.pack_pending(code.library, area.get_context()))
        return finish(code, area)
