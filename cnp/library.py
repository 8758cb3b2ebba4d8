"""The stencil file: write it, check it, read operations out of it on first use.

    0    magic        8 bytes  "CNPLIB1\\n"
    8    head length  u32      all integers little-endian, whatever the target
    12   digest       32 bytes SHA-256 of everything that follows
    44   head         JSON     facts, operations, forms, state, imports, routines, constants (docs/file-format.md)
    ..   tables       stencils 16 bytes each: first block u32, blocks u32, native stack u32, 0
                      blocks   24 bytes each: code offset u32, code length u32, first hole u32, holes u32, tail u32, align u32
                      holes    20 bytes each: offset u32, place i32, addend i64, field u8, what u8, index u16
    ..   code         bytes of all blocks, then of all constants

Loading a stencil file is loading code: the digest, every offset and every index are checked in one pass before
anything is used. Objects are made when an operation is first asked for.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cnp import targets
from cnp.errors import LibraryError, OperandError, ToolError
from cnp.stencil import (
    Accept,
    Block,
    Constant,
    Form,
    Hole,
    Import,
    Operand,
    Operation,
    StateField,
    Stencil,
    What,
)
from cnp.target import Target

MAGIC = b"CNPLIB1\n"
FORMAT = 1
HEAD = struct.Struct("<8sI32s")
STENCIL = struct.Struct("<IIII")
BLOCK = struct.Struct("<IIIIII")
HOLE = struct.Struct("<IiqBBH")


Asked = tuple[
    int, int, int
]  #: of an operation: how many operands, which of them as code (bits), how many blocks
NOTHING: Asked = (0, 0, 0)
ROUTINES = frozenset({"cnp_enter", "cnp_interpret", "cnp.stub.exit", "cnp.stub.trap", "cnp.stub.unwind"})


def alignment(align: int) -> bool:
    """Whether code or constants may be so aligned."""
    return 0 < align <= 4096 and not align & (align - 1)


@dataclass(frozen=True, slots=True)
class Built:
    """What the builder hands over to be written. `facts`: target, clang, flags, digest of the inputs, …"""

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


class Writer:
    """Collects tables while the head is put together."""

    def __init__(self, fields: list[str]) -> None:
        self.fields = {name: number for number, name in enumerate(fields)}
        self.stencils: list[bytes] = []
        self.blocks: list[bytes] = []
        self.holes: list[bytes] = []
        self.code = bytearray()

    def stencil(self, stencil: Stencil | None) -> int:
        """Number of the stencil in its table; -1 for none."""
        if stencil is None:
            return -1
        first = len(self.blocks)
        for block in stencil.blocks:
            self.block(block)
        self.stencils.append(STENCIL.pack(first, len(stencil.blocks), stencil.stack, 0))
        return len(self.stencils) - 1

    def block(self, block: Block) -> int:
        start, first = self.bytes(block.code), len(self.holes)
        for h in block.holes:
            self.holes.append(HOLE.pack(h.offset, h.place, h.addend, self.fields[h.field], h.what, h.index))
        self.blocks.append(
            BLOCK.pack(start, len(block.code), first, len(block.holes), block.tail, block.align)
        )
        return len(self.blocks) - 1

    def bytes(self, data: bytes) -> int:
        """Offset of `data` in the code; equal data is stored once."""
        start = self.code.find(data) if len(data) >= 8 else -1
        if start < 0:
            start = len(self.code)
            self.code += data
        return start


def pack(built: Built) -> bytes:
    """The stencil file as bytes: the same for the same input."""
    target = targets.get(built.facts["target"])
    writer = Writer(list(target.fields))
    operations = [
        [
            op.name,
            op.line,
            int(op.calls),
            [[operand.kind, operand.ctype, operand.name] for operand in op.operands],
            [
                [
                    [[a.kind, a.low, a.high, a.align] for a in form.accepts],
                    writer.stencil(form.near),
                    writer.stencil(form.far),
                ]
                for form in op.forms
            ],
        ]
        for op in built.operations
    ]
    routines = [[name, writer.block(block)] for name, block in built.routines.items()]
    constants = [[writer.bytes(item.data), len(item.data), item.align] for item in built.constants]
    head = {
        "format": FORMAT,
        **built.facts,
        "fields": list(target.fields),
        "state": [[f.name, f.ctype, f.offset, f.size] for f in built.state],
        "state_size": built.state_size,
        "header_size": built.header_size,
        "result": built.result,
        "interpreter_stack": built.interpreter_stack,
        "imports": [[item.name, item.signature] for item in built.imports],
        "operations": operations,
        "routines": routines,
        "constants": constants,
        "counts": [len(writer.stencils), len(writer.blocks), len(writer.holes), len(writer.code)],
    }
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=True).encode()
    rest = b"".join([text, *writer.stencils, *writer.blocks, *writer.holes, bytes(writer.code)])
    return HEAD.pack(MAGIC, len(text), hashlib.sha256(rest).digest()) + rest


class Library:
    """A vocabulary for one target, ready to assemble with.

    operations: names in order. `library["add"]` makes the Operation on first use. state, imports, routines,
    constants as in the builder's hand-over; facts: target, clang, flags, digest of the inputs.
    """

    def __init__(self, data: bytes, path: str = "<bytes>") -> None:
        self.path = path
        head, body = self._open(data)
        self.facts: dict[str, Any] = head
        self._read(head, body)

    @classmethod
    def load(cls, path: str | Path) -> Library:
        """Read and check a stencil file. LibraryError says what is wrong with it."""
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise LibraryError(
                f"{path}: {error.strerror}; build it with build_stencils.py", path=str(path)
            ) from error
        return cls(data, str(path))

    def _refuse(self, what: str) -> LibraryError:
        return LibraryError(f"{self.path}: {what}", path=self.path)

    def _open(self, data: bytes) -> tuple[dict[str, Any], memoryview]:
        """Check magic, length and digest; split head and tables."""
        if len(data) < HEAD.size or data[:8] != MAGIC:
            raise self._refuse("this is no stencil file of format 1; rebuild it")
        _, length, digest = HEAD.unpack_from(data)
        view = memoryview(data)[HEAD.size :]
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
        """Take the facts apart and check every table. KeyErrors and the like mean a head of another shape."""
        try:
            self.target: Target = targets.get(str(head["target"]))
            self.state = tuple(StateField(*item) for item in head["state"])
            self.state_size = int(head["state_size"])
            self.header_size = int(head["header_size"])
            self.interpreter_stack = int(head["interpreter_stack"])
            self.result = str(head["result"])
            self.imports = tuple(Import(*item) for item in head["imports"])
            self._rows = {str(row[0]): (index, row) for index, row in enumerate(head["operations"])}
            self._routines = {str(name): int(block) for name, block in head["routines"]}
            self._constants = [(int(a), int(b), int(c)) for a, b, c in head["constants"]]
            self._fields = [str(name) for name in head["fields"]]
            counts = [int(count) for count in head["counts"]]
            self._check(counts, body)
            self._check_frames()
        except (ToolError, LookupError, TypeError, ValueError, OverflowError, struct.error) as error:
            raise self._refuse(f"the head is not what format 1 says ({error!r})") from error
        self.operations = tuple(self._rows)
        self._cache: dict[str, Operation] = {}

    def _check(self, counts: list[int], body: memoryview) -> None:
        """One pass over the tables: every index and offset lies within what it points into."""
        stencils, blocks, holes, code = counts
        sizes = [stencils * STENCIL.size, blocks * BLOCK.size, holes * HOLE.size, code]
        if min(counts) < 0 or sum(sizes) != len(body) or self._fields != list(self.target.fields):
            raise self._refuse("its tables do not have the sizes that the head says")
        self._units = [fld.size for fld in self.target.fields.values()]
        ends = [sum(sizes[: number + 1]) for number in range(4)]
        self._stencils = list(STENCIL.iter_unpack(body[: ends[0]]))
        self._blocks = list(BLOCK.iter_unpack(body[ends[0] : ends[1]]))
        self._holes = list(HOLE.iter_unpack(body[ends[1] : ends[2]]))
        self._code = bytes(body[ends[2] :])
        bad = any(first + count > blocks or not 0 < count <= 2 for first, count, _, _ in self._stencils)
        bad |= any(start + size > code or first + count > holes or tail > size or not alignment(align)
                   for start, size, first, count, tail, align in self._blocks)  # fmt: skip
        bad |= any(
            not 0 <= start <= start + size <= code or not alignment(align)
            for start, size, align in self._constants
        )
        bad |= any(not 0 <= block < blocks for block in self._routines.values())
        if bad or not self._routines.keys() >= ROUTINES:
            raise self._refuse("an entry points outside of its table")
        known: dict[tuple[int, int, int], Asked] = {}
        asked = [
            self._check_holes(size, self._holes[first : first + count], known)
            for _, size, first, count, _, _ in self._blocks
        ]
        if any(asked[block] is not NOTHING for block in self._routines.values()):
            raise self._refuse("a routine asks for what only an operation has")
        for name, (_, row) in self._rows.items():
            for form in row[4]:
                self._check_form(name, len([str(kind) for kind, _, _ in row[3]]), form, asked)

    def _check_holes(self, size: int, holes: list[Any], known: dict[tuple[int, int, int], Asked]) -> Asked:
        """The holes of a block of `size` bytes; what they ask of the operation that the block belongs to."""
        operands = code = siblings = 0
        for offset, _, _, fld, what, index in holes:
            asks = known.get((fld, what, index))
            if asks is None:
                asks = known[fld, what, index] = self._check_hole(fld, what, index)
            if offset + self._units[fld] > size:
                raise self._refuse(f"a hole at {offset} of a block of {size} bytes")
            if asks is not NOTHING:
                operands, code, siblings = max(operands, asks[0]), code | asks[1], max(siblings, asks[2])
        return (operands, code, siblings) if operands or siblings else NOTHING

    def _check_hole(self, fld: int, what: int, index: int) -> Asked:
        """What a hole asks of its operation, wherever it lies."""
        most = [6, 6, 1, 3, 2, len(self._constants), 6, len(self.imports), len(self._routines), 1]
        if fld >= len(self._units) or what >= len(most) or index >= most[what]:
            raise self._refuse(f"a hole with field {fld} for {what}, {index} points outside of its table")
        if what in (What.OPERAND, What.TARGET, What.LITERAL):
            return index + 1, (what == What.TARGET) << index, 0
        return (0, 0, index + 1) if what in (What.BLOCK, What.NEXT) else NOTHING

    def _check_form(self, name: str, count: int, form: list[Any], asked: list[Asked]) -> None:
        """A form takes all operands of its operation, and its stencils ask for no more than there is."""
        accepts, near, far = form
        if (
            len(accepts) != count
            or not 0 <= near < len(self._stencils)
            or not -1 <= far < len(self._stencils)
        ):
            raise self._refuse(f"a form of {name} points outside of its table")
        bad, labels = False, 0
        for number, (kind, low, high, align) in enumerate(accepts):
            bad |= low > high or align < 1 or not isinstance(kind, str)
            labels |= (kind in ("label", "func")) << number
        first, blocks, _, _ = self._stencils[near]
        again, others, _, _ = self._stencils[far if far >= 0 else near]
        for operands, code, siblings in asked[first : first + blocks] + asked[again : again + others]:
            bad |= operands > count or siblings > blocks or code & ~labels != 0
        if bad or blocks != others:
            raise self._refuse(f"a form of {name} does not fit its operands")

    def _check_frames(self) -> None:
        """The state lies within the header of a frame, each word in its place."""
        bad = self.header_size % 16 or self.header_size < 32 + self.state_size or self.interpreter_stack < 0
        bad |= any(
            f.size not in (1, 2, 4, 8) or not 0 <= f.offset <= self.state_size - f.size for f in self.state
        )
        bad |= any(not isinstance(text, str) for item in (*self.state, *self.imports) for text in item[:2])
        if bad or self.result not in ("", *(item.name for item in self.state)):
            raise self._refuse("its state does not fit its frames")

    # ---- objects, made when they are asked for

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> Operation:
        """The operation of that name; OperandError if there is none."""
        known = self._cache.get(name)
        if known is None:
            if name not in self._rows:
                raise OperandError(
                    f"no operation {name!r} in {self.path}", op=name, operand="", value=None, allowed=""
                )
            index, (_, line, calls, operands, forms) = self._rows[name]
            known = Operation(
                name,
                index,
                tuple(Operand(*item) for item in operands),
                tuple(self._form(*form) for form in forms),
                line,
                bool(calls),
            )
            self._cache[name] = known
        return known

    def _form(self, accepts: list[list[Any]], near: int, far: int) -> Form:
        return Form(
            tuple(Accept(*item) for item in accepts),
            self._stencil(near),
            self._stencil(far) if far >= 0 else None,
        )

    def _stencil(self, number: int) -> Stencil:
        first, count, stack, _ = self._stencils[number]
        return Stencil(tuple(self._block(index) for index in range(first, first + count)), stack)

    def _block(self, number: int) -> Block:
        start, size, first, count, tail, align = self._blocks[number]
        holes = tuple(
            Hole(offset, self._fields[fld], What(what), index, addend, place)
            for offset, place, addend, fld, what, index in self._holes[first : first + count]
        )
        return Block(self._code[start : start + size], holes, tail, align)

    @cached_property
    def routine_names(self) -> tuple[str, ...]:
        return tuple(self._routines)

    def routine(self, name: str) -> Block:
        """A routine that images share, such as `cnp_enter`."""
        if name not in self._routines:
            raise self._refuse(f"it has no routine {name!r}")
        return self._block(self._routines[name])

    @property
    def constants(self) -> tuple[Constant, ...]:
        """The data that stencils share, in the order of `What.DATA`."""
        return tuple(self.constant(index) for index in range(len(self._constants)))

    def constant(self, index: int) -> Constant:
        start, size, align = self._constants[index]
        return Constant(self._code[start : start + size], align)
