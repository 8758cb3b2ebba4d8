"""Saved code: a program with the name and digest of the stencil file that it was assembled with; imports stay names.

    0    magic     8 bytes  "CNPCODE1"
    8    digest    32 bytes SHA-256 of everything that follows
    40   contents  JSON     library: [file, digest, target], features, and the parts of the program:

         labels     [name, position, is an entry, address, frame]      frame: of functions only, else null
         data       [name, section, offset]                            labels of data
         cells      [initial, name, frame]                             name, frame: of lazy ones only, else null
         tables     [[label …] …]
         ops        [operation, form, [operand …], at, meant]          numbers in the library; meant: as `Op.meant`
         functions, named, exports, lazy, sections, cold, aligned, composed, prototypes

    an operand   5   ["s", offset]  ["r", bank, number]  ["l", label]  ["d", data]  ["c", cell]  ["t", table]
                 ["y", symbol]  ["o", place, addend]

Machine code is not kept: it is linked for the place where it is loaded, at the speed of copying. What is read is checked
like a stranger's: each form takes its operands, each slot lies in its frame, and the program is what linking asks for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

from cnp.choose import FLOAT_FORMATS, taker, tied
from cnp.errors import CnpError, LibraryError
from cnp.library import MALFORMED, Library
from cnp.operands import (
    Cell,
    DataLabel,
    Function,
    Label,
    Lazy,
    Offset,
    Place,
    Register,
    Slot,
    Symbol,
    Table,
)
from cnp.program import Op, Program, Span
from cnp.sections import Fix, Section
from cnp.signature import parse_signature
from cnp.stencil import Accept

MAGIC = b"CNPCODE1"
HEAD = len(MAGIC) + 32
STRANGE = (*MALFORMED, AttributeError, RecursionError)  #: what contents of another shape raise

Thing = TypeVar("Thing")


# ---- writing


class Packer:
    """Numbers the parts of a program as they are met."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.labels: dict[Label, int] = {}
        self.data: dict[DataLabel, int] = {}
        self.cells: dict[Cell, int] = {}
        self.tables: dict[Table, int] = {}

    def contents(self) -> dict[str, Any]:
        """The whole file as JSON can hold it."""
        program, library = self.program, self.program.library
        found = {
            "library": [library.file, library.digest, library.target.name],
            "features": sorted({op.form.feature for op in program.ops} - {""}),
            "functions": [self.number(self.labels, f) for f in program.functions],
            "named": {name: self.number(self.labels, label) for name, label in program.named.items()},
            "ops": [self.op(op) for op in program.ops],
            "exports": {name: self.operand(place) for name, place in program.exports.items()},
            "lazy": {name: self.number(self.cells, cell) for name, cell in program.lazy.items()},
            "sections": {name: self.section(section) for name, section in program.sections.items()},
            "cold": [[span.start, span.end] for span in program.cold],
            "aligned": list(program.aligned.items()),
            "composed": list(program.composed.items()),
            "prototypes": program.prototypes,
        }
        for label in program.labels:
            if label.entry:  # somebody may enter there though nobody in the program goes there
                self.number(self.labels, label)
        found["tables"] = [[self.number(self.labels, label) for label in t.labels] for t in self.tables]
        cells: list[object] = []
        while len(cells) < len(self.cells):  # what one holds at first may be another one
            cells.append(self.cell(list(self.cells)[len(cells)]))
        found["cells"] = cells
        found["data"] = [[label.name, label.section, label.offset] for label in self.data]
        found["labels"] = [self.label(label) for label in self.labels]
        return found

    def number(self, known: dict[Thing, int], thing: Thing) -> int:
        return known.setdefault(thing, len(known))

    def operand(self, value: object) -> object:
        if isinstance(value, Slot):
            return ["s", value.offset]
        if isinstance(value, Register):
            return ["r", value.bank, value.index]
        if isinstance(value, Label):
            return ["l", self.number(self.labels, value)]
        if isinstance(value, DataLabel):
            return ["d", self.number(self.data, value)]
        if isinstance(value, Cell):
            return ["c", self.number(self.cells, value)]
        if isinstance(value, Table):
            return ["t", self.number(self.tables, value)]
        if isinstance(value, Symbol):
            return ["y", value.name]
        if isinstance(value, Offset):
            return ["o", self.operand(value.place), value.addend]
        return value

    def op(self, op: Op) -> list[object]:
        form = next(n for n, form in enumerate(op.operation.forms) if form is op.form)
        meant = None if op.meant is None else list(map(self.operand, op.meant))
        return [op.operation.index, form, list(map(self.operand, op.values)), op.at, meant]

    def label(self, label: Label) -> list[object]:
        frame = label.frame if isinstance(label, Function) else None
        return [label.name, label.position, label.entry, label.address, frame]

    def cell(self, cell: Cell) -> list[object]:
        name, frame = (cell.name, cell.frame) if isinstance(cell, Lazy) else (None, None)
        return [self.operand(cell.initial), name, frame]

    def section(self, section: Section) -> list[object]:
        fixes = [[f.offset, f.size, self.operand(f.place), self.operand(f.to)] for f in section.fixes]
        return [section.data.hex(), section.align, fixes]


def pack(program: Program) -> bytes:
    """A checked program as the bytes of a file; the same for the same program."""
    text = json.dumps(Packer(program).contents(), separators=(",", ":")).encode()
    return MAGIC + hashlib.sha256(text).digest() + text


# ---- reading


def contents_of(data: bytes, path: str) -> dict[str, Any]:
    """What a file holds. LibraryError: it is no such file, or damaged."""
    if data[: len(MAGIC)] != MAGIC:
        raise LibraryError(f"{path}: this is no saved code of format {MAGIC.decode()}", path=path)
    text = data[HEAD:]
    if hashlib.sha256(text).digest() != data[len(MAGIC) : HEAD]:
        raise LibraryError(f"{path}: the digest does not match: the file is damaged", path=path)
    try:
        contents: dict[str, Any] = json.loads(text)
        file, digest, target = contents["library"]
        if not all(isinstance(item, str) for item in (file, digest, target)):
            raise TypeError("the library is not named")
    except STRANGE as error:
        raise LibraryError(
            f"{path}: the contents are not what the format says ({error!r})", path=path
        ) from error
    return contents


def unpack(contents: dict[str, Any], library: Library, path: str) -> Program:
    """The program, checked, for the library that it was assembled with. LibraryError: it was another one, or has not the
    features that the code needs; the contents are not what the format says."""
    file, digest, target = contents["library"]
    if (digest, target) != (library.digest, library.target.name):
        message = (
            f"{path} was assembled with {file} for {target} ({digest[:12]}…), not with {library.path} for "
            f"{library.target.name} ({library.digest[:12]}…): assemble and save it again"
        )
        raise LibraryError(message, path=path)
    try:
        missing = set(contents["features"]) - library.features
        if missing:
            message = f"{path} needs a processor with {', '.join(sorted(missing))}"
            raise LibraryError(message, path=path, features=sorted(missing))
        program = Unpacker(contents, library).program
        program.check()
    except LibraryError:
        raise
    except (*STRANGE, CnpError) as error:
        raise LibraryError(
            f"{path}: the contents are not what the format says ({error!r})", path=path
        ) from error
    return program


class Unpacker:
    """Makes a program; ValueError, TypeError and the like mean contents of another shape."""

    def __init__(self, contents: dict[str, Any], library: Library) -> None:
        self.library = library
        self.program = program = Program(library)
        self.labels = [self.label(*row) for row in contents["labels"]]
        self.data = [DataLabel(text(n), program.labels, text(s), whole(o)) for n, s, o in contents["data"]]
        self.tables = [Table(tuple(self.labels[whole(n)] for n in row)) for row in contents["tables"]]
        self.cells: list[Cell] = [
            Cell() if name is None else Lazy(0, text(name), whole(frame))
            for _, name, frame in contents["cells"]
        ]
        for cell, (initial, _, _) in zip(self.cells, contents["cells"], strict=True):
            cell.initial = self.initial(initial)
        self.fill(contents)

    def fill(self, contents: dict[str, Any]) -> None:
        program = self.program
        program.labels += [label for label in self.labels if not isinstance(label, Function)]
        functions = [self.labels[whole(n)] for n in contents["functions"]]
        program.functions = [function for function in functions if isinstance(function, Function)]
        count = len(contents["ops"])
        positions = [-1 if f.position is None else f.position for f in program.functions]
        if len(functions) != len(positions) or positions != sorted(positions) or (count and positions[0]):
            raise ValueError("the functions do not begin one behind the other")
        for function, end in zip(program.functions, [*positions[1:], count], strict=True):
            function.end = end
        program.named = {text(name): self.labels[whole(n)] for name, n in contents["named"].items()}
        program.ops += [self.op(position, *row) for position, row in enumerate(contents["ops"])]
        program.exports = {text(name): self.place(item) for name, item in contents["exports"].items()}
        for name, n in contents["lazy"].items():
            cell = self.cells[whole(n)]
            if not isinstance(cell, Lazy) or not isinstance(cell.initial, Function):
                raise TypeError(f"{name} is not lazy")
            program.lazy[text(name)] = cell
        program.sections = {name: self.section(*contents["sections"][name]) for name in program.sections}
        program.cold = [Span(whole(start), whole(end)) for start, end in contents["cold"]]
        program.aligned = {whole(at): power(whole(size)) for at, size in contents["aligned"]}
        program.composed = {whole(at): whole(size) for at, size in contents["composed"]}
        program.prototypes = {text(name): readable(given) for name, given in contents["prototypes"].items()}
        lengths = {name: len(section.data) for name, section in program.sections.items()}
        if any(not 0 <= label.offset <= lengths[label.section] for label in self.data):  # type: ignore[operator]
            raise ValueError("a label lies outside of its section")

    def label(self, name: object, position: object, entry: object, address: object, frame: object) -> Label:
        place = None if position is None else whole(position)
        at = None if address is None else whole(address)
        if frame is None:
            return Label(text(name), self.program.labels, place, entry is True, address=at)
        return Function(
            text(name), self.program.labels, place, entry is True, frame=multiple(whole(frame)), address=at
        )

    def initial(self, item: object) -> int | Place:
        return whole(item) if not isinstance(item, list) else self.place(item)

    def place(self, item: Any) -> Place:
        found = self.operand(item)
        if not isinstance(found, Place):
            raise TypeError(f"{item!r} is no place")
        return found

    def operand(self, item: Any) -> Any:
        if not isinstance(item, list):
            return whole(item)
        kind, first, *rest = item
        makers: dict[str, Callable[[], object]] = {
            "s": lambda: Slot(whole(first)),
            "r": lambda: Register(text(first), whole(*rest)),
            "l": lambda: self.labels[whole(first)],
            "d": lambda: self.data[whole(first)],
            "c": lambda: self.cells[whole(first)],
            "t": lambda: self.tables[whole(first)],
            "y": lambda: Symbol(text(first)),
            "o": lambda: Offset(self.place(first), whole(*rest)),
        }
        return makers[kind]()

    def op(self, position: int, index: object, form: object, values: Any, at: Any, meant: Any) -> Op:
        """An operation whose form takes its operands, which lie where its function has slots."""
        operation = self.library[self.library.operations[whole(index)]]
        chosen = operation.forms[whole(form)]
        found = tuple(map(self.operand, values))
        for accept, value in zip(chosen.accepts, found, strict=True):
            if not takes(accept, value):
                raise ValueError(f"op {position} ({operation.name}): its form does not take {value!r}")
        if not tied(found, chosen.same, chosen.differ):
            raise ValueError(f"op {position} ({operation.name}): its form does not take these together")
        given = None if meant is None else tuple(map(self.operand, meant))
        frame, header = self.program.function_at(position).frame, self.library.header_size
        last = frame if operation.calls else frame - 8
        for value in (*found, *(given or ())):
            if isinstance(value, Slot) and not -header <= value.offset <= last:
                raise ValueError(f"op {position} ({operation.name}): {value} lies outside of its frame")
        if given is not None and len(given) != len(found):
            raise ValueError(f"op {position} ({operation.name}): it is meant to have other operands")
        return Op(operation, chosen, found, None if at is None else (text(at[0]), whole(at[1])), given)

    def section(self, data: Any, align: object, fixes: Any) -> Section:
        found = Section(bytearray.fromhex(data), [], power(whole(align)))
        for offset, size, place, to in fixes:
            start, length = whole(offset), whole(size)
            if length not in (4, 8) or not 0 <= start <= len(found.data) - length:
                raise ValueError("an address lies outside of its section")
            found.fixes.append(Fix(start, length, self.place(place), None if to is None else self.place(to)))
        return found


def takes(accept: Accept, value: Any) -> bool:
    """Whether a form holds this value in one place: as it takes it, floats by their bits."""
    if accept.kind in FLOAT_FORMATS and isinstance(value, int):
        return accept.low <= value <= accept.high
    take = taker(accept, value.bank if isinstance(value, Register) else type(value))
    taken = take(value) if take else None
    return bool(taken is not None and taken == value)


def whole(value: object) -> int:
    """A whole number of the contents; TypeError for anything else."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    return value


def text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def readable(signature: object) -> str:
    """A signature; SignatureError if it is none."""
    found = text(signature)
    parse_signature(found)
    return found


def power(value: int) -> int:
    """An alignment; ValueError if it is none."""
    if not 0 < value <= 4096 or value & value - 1:
        raise ValueError(f"{value} is no alignment")
    return value


def multiple(value: int) -> int:
    """Bytes of a frame; ValueError for what no frame has."""
    if value < 0 or value % 8:
        raise ValueError(f"{value} bytes are no frame")
    return value
