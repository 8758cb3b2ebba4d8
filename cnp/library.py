"""The stencil file: write it, check it, read operations out of it on first use.

    0    magic        8 bytes  "CNPLIB3\n"
    8    head length  u32      all integers little-endian, whatever the target
    12   digest       32 bytes SHA-256 of everything that follows
    44   head         JSON     facts, names of operations, state, imports, routines, constants (docs/file-format.md)
    ..   tables       forms, what they take, stencils, blocks, holes, code (`cnp/tables.py`)

Loading a stencil file is loading code, checked like a stranger's. At once: the digest, the sizes of all
tables, the facts that all operations share. What belongs to one operation or routine is checked when that is
first asked for, before anything of it is handed out: whoever holds an Operation or a Block holds a checked
one.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cnp import processor, targets
from cnp.errors import BuildError, LibraryError, OperandError, ToolError
from cnp.operands import Register
from cnp.stencil import Block, Constant, Import, Leave, Operand, Operation, StateField
from cnp.tables import MOST_ALIGN, MOST_OPERANDS, TABLES, Names, Pairs, Tables, Writer
from cnp.target import Target

MAGIC = b"CNPLIB3\n"
FORMAT = 3
HEAD = struct.Struct("<8sI32s")

ENTER = "cnp_enter"  #: the routine by which C calls generated code
STUBS = {Leave.EXIT: "cnp.stub.exit", Leave.TRAP: "cnp.stub.trap", Leave.UNWIND: "cnp.stub.unwind"}
ROUTINES = frozenset({ENTER, *STUBS.values()})
INTERPRETER = frozenset({"cnp_interpret", "cnp.cases"})  #: all of them or none
MALFORMED = (ToolError, LookupError, TypeError, ValueError, OverflowError, struct.error)
Known = TypeVar("Known")


@dataclass(frozen=True, slots=True)
class Built:
    """What the builder hands over to be written. `facts`: target, clang, flags, digest of the inputs, …

    registers: bank (r, f) -> machine number of each of its state words in order, -1 for those that live in
    their homes; empty for a vocabulary without registers. supers: super-operation -> its parts.
    """

    facts: dict[str, Any]
    operations: tuple[Operation, ...]
    routines: dict[str, Block]
    constants: tuple[Constant, ...]
    imports: tuple[Import, ...]
    state: tuple[StateField, ...]
    state_size: int
    header_size: int
    result: str
    interpreter_stack: int
    registers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    supers: dict[str, tuple[str, ...]] = field(default_factory=dict)


def pack(built: Built) -> bytes:
    """The stencil file as bytes: the same for the same input. BuildError: a number is too large for its place
    in it, or no power of two where only these have one."""
    target = targets.get(built.facts["target"])
    writer = Writer(target)
    try:
        operations = [writer.operation(op) for op in built.operations]
        routines = [[name, writer.block(block)] for name, block in built.routines.items()]
    except (struct.error, ValueError) as error:
        message = f"the stencils do not fit a file of format {FORMAT}: {error}"
        raise BuildError(message, op="", line=0, target=target.name) from error
    constants = [[writer.place(item.data), len(item.data), item.align] for item in built.constants]
    tables = writer.tables()
    head = {
        "format": FORMAT,
        **built.facts,
        "fields": list(writer.fields),
        "kinds": list(writer.kinds),
        "features": list(writer.features),
        "ties": list(writer.ties),
        "state": [[f.name, f.ctype, f.offset, f.size] for f in built.state],
        "state_size": built.state_size,
        "header_size": built.header_size,
        "registers": built.registers,
        **({"supers": built.supers} if built.supers else {}),
        "result": built.result,
        "interpreter_stack": built.interpreter_stack,
        "imports": [[item.name, item.signature] for item in built.imports],
        "operations": operations,
        "routines": routines,
        "constants": constants,
        "counts": {n: len(t) // row.size for t, (n, row) in zip(tables, TABLES.items(), strict=True)},
    }
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=True).encode()
    rest = b"".join([text, *tables])
    return HEAD.pack(MAGIC, len(text), hashlib.sha256(rest).digest()) + rest


# ---- reading


class Library:
    """A vocabulary for one target, ready to assemble with.

    operations: names in order. `library["add"]` makes the Operation on first use. state, imports, routines,
    constants, registers, supers as in the builder's hand-over; facts: target, clang, flags, digest of the inputs. digest:
    of the file's contents.
    features: of the processor that code is made for, beyond the target's base line; forms that need others
    are skipped. None: those that the processor of this machine has.
    """

    def __init__(self, data: bytes, path: str = "<bytes>", features: Iterable[str] | None = ()) -> None:
        self.path = path
        head, body = self._open(data)
        self.facts: dict[str, Any] = head
        try:
            self._read(head, body)
        except MALFORMED as error:
            raise self._refuse(f"the head is not what format {FORMAT} says ({error!r})") from error
        self.core: Any = None  # what cnp/core_library.py makes of it for the core in C
        self.operations = tuple(self._rows)
        self.features = self._features(features)
        self._operations: dict[str, Operation] = {}

    @classmethod
    def load(cls, path: str | Path, features: Iterable[str] | None = ()) -> Library:
        """Read a stencil file. LibraryError says what is wrong with it; OperandError: a feature that there is not."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise LibraryError(
                f"{path}: {error.strerror}; build it with build_stencils.py", path=str(path)
            ) from error
        return cls(data, str(path), features)

    def _features(self, wanted: Iterable[str] | None) -> frozenset[str]:
        """The features that are asked for, their names checked."""
        if wanted is None:
            return frozenset(processor.features(self.target))
        known = [feature.name for feature in self.target.features]
        known += [name for name in self.facts["features"] if name and name not in known]
        found = frozenset([wanted] if isinstance(wanted, str) else wanted)
        if unknown := sorted(found - set(known)):
            there = f"it has {', '.join(known)}" if known else "it has none"
            message = f"{self.target.name} has no feature {unknown[0]!r}; {there}"
            raise OperandError(message, op="", operand="features", value=unknown[0], allowed=tuple(known))
        return found

    def _refuse(self, what: str) -> LibraryError:
        return LibraryError(f"{self.path}: {what}", path=self.path)

    def _open(self, data: bytes) -> tuple[dict[str, Any], memoryview]:
        """Check magic, length and digest; split head and tables."""
        if len(data) < HEAD.size or data[:8] != MAGIC:
            raise self._refuse(f"this is no stencil file of format {FORMAT}; rebuild it")
        _, length, digest = HEAD.unpack_from(data)
        view, self.digest = memoryview(data)[HEAD.size :], digest.hex()
        if hashlib.sha256(view).digest() != digest:
            raise self._refuse("the digest does not match: the file is damaged; rebuild it")
        try:
            head = json.loads(bytes(view[:length]))
        except (ValueError, RecursionError) as error:
            raise self._refuse(f"the head is no JSON ({error})") from error
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            raise self._refuse("the head is of another format")
        return head, view[length:]

    def _read(self, head: dict[str, Any], body: memoryview) -> None:
        """Take the facts apart and check what all operations share. KeyErrors and the like mean a head of
        another shape."""
        self.target: Target = targets.get(head["target"])
        if head["fields"] != list(self.target.fields):
            raise self._refuse(
                "its instruction fields are not those of this version of cnp's target; rebuild it"
            )
        self.imports = tuple(Import(*texts(item)) for item in head["imports"])
        self._rows: dict[str, tuple[int, list[Any]]] = {
            row[0]: (index, row) for index, row in enumerate(head["operations"])
        }
        self._routines = {name: whole(block) for name, block in head["routines"]}
        if min(self._routines.values(), default=0) < 0:
            raise self._refuse("a routine has a number below 0")
        self._constants = [(whole(a), whole(b), whole(c)) for a, b, c in head["constants"]]
        texts([*self._rows, *self._routines])
        interpreter = INTERPRETER & self._routines.keys()
        missing = not self._routines.keys() >= ROUTINES or interpreter not in (INTERPRETER, set())
        if len(self._rows) != len(head["operations"]) or missing:
            raise self._refuse("an operation is there twice, or a routine is missing")
        self.supers = {name: tuple(texts(parts)) for name, parts in dict(head.get("supers", {})).items()}
        if not self._rows.keys() >= {
            *self.supers,
            *(part for parts in self.supers.values() for part in parts),
        }:
            raise self._refuse("a super-operation is made of operations that it does not have")
        self.rows = self._split(head["counts"], body)
        self._tables = Tables(self.rows, self._names(head))
        self._read_frames(head)

    def _split(self, counts: dict[str, Any], body: memoryview) -> dict[str, memoryview]:
        """The tables by name."""
        sizes = {name: whole(counts[name]) * row.size for name, row in TABLES.items()}
        if min(sizes.values()) < 0 or sum(sizes.values()) != len(body):
            raise self._refuse("its tables do not have the sizes that the head says")
        found, start = {}, 0
        for name, size in sizes.items():
            found[name] = body[start : start + size]
            start += size
        return found

    def _names(self, head: dict[str, Any]) -> Names:
        """What the rows of tables refer to."""
        ties = [(pairs(same), pairs(differ)) for same, differ in head["ties"]]
        fields = [(name, fld.size) for name, fld in self.target.fields.items()]
        constants, imports, routines = len(self._constants), len(self.imports), len(self._routines)
        operand = MOST_OPERANDS
        most = [operand, operand, 1, 3, 2, constants, operand, imports, routines, 1]  # in the order of What
        return Names(texts(head["kinds"]), texts(head["features"]), ties, fields, most)

    def _read_frames(self, head: dict[str, Any]) -> None:
        """The state lies within the header of a frame, each word in its place; registers are words of the
        state."""
        self.state = tuple(
            StateField(*texts((name, ctype)), *map(whole, (offset, size)))  # type: ignore[arg-type]
            for name, ctype, offset, size in head["state"]
        )
        self.state_size, self.header_size = whole(head["state_size"]), whole(head["header_size"])
        self.interpreter_stack = whole(head["interpreter_stack"])
        self.result = str(head["result"])
        self.registers = {
            str(b): tuple(map(whole, numbers)) for b, numbers in dict(head["registers"]).items()
        }
        bad = self.header_size % 16 or self.header_size < 32 + self.state_size or self.interpreter_stack < 0
        bad |= any(
            f.size not in (1, 2, 4, 8) or not 0 <= f.offset <= self.state_size - f.size for f in self.state
        )
        if bad or self.result not in ("", *(item.name for item in self.state)):
            raise self._refuse("its state does not fit its frames")
        words = {item.name: item.offset - self.header_size for item in self.state if item.size == 8}
        self._homes = {
            Register(bank, index): words[f"{bank}{index}"]
            for bank, numbers in self.registers.items()
            for index in range(len(numbers))
        }
        if any(number < -1 for numbers in self.registers.values() for number in numbers):
            raise self._refuse("a register has a number below -1")

    @property
    def file(self) -> str:
        """The name of its file, by which saved code finds it."""
        return Path(self.path).name

    # ---- registers

    def home(self, register: Register) -> int:
        """Where a register's word lies in the frame, in bytes from slot 0: negative, within the header.
        OperandError if the vocabulary has no such register."""
        home = self._homes.get(register)
        if home is None:
            has = " and ".join(f"{bank}[0 … {len(n) - 1}]" for bank, n in self.registers.items() if n)
            message = f"no register {register} in {self.path}; it has {has or 'none'}"
            raise OperandError(message, op="", operand="", value=register, allowed=has)
        return home

    def number(self, register: Register) -> int | None:
        """The machine's number of a register; None for one that the target does not have, whose word stays in
        its home."""
        self.home(register)
        number = self.registers[register.bank][register.index]
        return number if number >= 0 else None

    # ---- operations, checked and made when they are asked for

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> Operation:
        """The operation of that name. OperandError if there is none, LibraryError if it is not what the
        format says."""
        known = self._operations.get(name)
        if known is None:
            if name not in self._rows:
                raise OperandError(
                    f"no operation {name!r} in {self.path}", op=name, operand="", value=None, allowed=""
                )
            known = self._operations[name] = self._checked(name, lambda: self._operation(name))
        return known

    def _checked(self, what: str, make: Callable[[], Known]) -> Known:
        """What `make` reads; LibraryError if it does not find what it should."""
        try:
            return make()
        except MALFORMED as error:
            raise self._refuse(f"{what} is not what format {FORMAT} says ({error!r})") from error

    def _operation(self, name: str) -> Operation:
        index, (_, line, calls, operands, first, count) = self._rows[name]
        declared = tuple([Operand(*texts((kind, ctype, of))) for kind, ctype, of in operands])
        forms = self._tables.forms(whole(first), whole(count), len(declared))
        return Operation(name, index, declared, forms, whole(line), bool(calls))

    # ---- what operations share

    @cached_property
    def routine_names(self) -> tuple[str, ...]:
        return tuple(self._routines)

    def routine(self, name: str) -> Block:
        """A routine that images share, such as `cnp_enter`."""
        if name not in self._routines:
            raise self._refuse(f"it has no routine {name!r}")
        block, asked = self._checked(name, lambda: self._tables.block(self._routines[name]))
        if asked.of_operation:
            raise self._refuse(f"routine {name} asks for what only an operation has")
        return block

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The data that stencils share, in the order of `What.DATA`."""
        return tuple(self.constant(index) for index in range(len(self._constants)))

    def constant(self, index: int) -> Constant:
        start, size, align = self._constants[index]
        if not 0 < align <= 1 << MOST_ALIGN or align & (align - 1):
            raise self._refuse(f"constant {index} is aligned to {align}")
        return Constant(self._checked("a constant", lambda: self._tables.code(start, size)), align)


# ---- values of the head


def whole(value: object) -> int:
    """A whole number of the head; TypeError for anything else."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def texts(values: Iterable[object]) -> list[str]:
    """Names of the head; TypeError for anything else."""
    found = list(values)
    for value in found:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is no text")
    return found  # type: ignore[return-value]


def pairs(values: Iterable[Iterable[object]]) -> Pairs:
    """Pairs of operand numbers."""
    return tuple((whole(a), whole(b)) for a, b in values)
