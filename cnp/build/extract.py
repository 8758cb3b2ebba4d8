"""Object file -> stencils, routines and constants.

Every section and relocation must be known; what is not is refused with its name, because code that is missing a
relocation runs and is wrong. Pairs are resolved by the target, so that each hole stands alone.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from cnp.build.calls import UNFORESEEN
from cnp.build.elf import Object, Relocation, Section
from cnp.errors import BuildError
from cnp.stencil import Block, Constant, Hole, Leave, Stencil, What
from cnp.target import Field, Formula, Record, Target

STENCIL_SECTION = re.compile(r"cnp\.(hot|cold)\.([\w.]+?)(\.far)?")
IGNORED = re.compile(
    r"\.(note|comment|llvm_addrsig|debug|eh_frame|pdr|reginfo|MIPS|gnu\.attributes|riscv\.attributes)"
)
TAIL = "cnp.tail."  #: prefix of the label at the last jump of a stencil (`cnp/build/layout.py`)
OPERAND = re.compile(r"cnp\.(target\.)?(\d)(\.lit)?")


@dataclass
class Extracted:
    """What the objects of one build hold. stencils: key (`add.0`, `add.0.far`) -> code. imports: helpers by name.
    places: number of each constant."""

    stencils: dict[str, Stencil] = field(default_factory=dict)
    routines: dict[str, Block] = field(default_factory=dict)
    constants: list[Constant] = field(default_factory=list)
    imports: list[str] = field(default_factory=list)
    places: dict[Constant, int] = field(default_factory=dict)


class Sizes(NamedTuple):
    """What is known of stencils from their text: native stack in bytes, number of instructions."""

    stack: Mapping[str, int]
    instructions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a relocation stands, for messages. lines: operation -> its line in the C source."""

    target: Target
    section: str
    lines: Mapping[str, int]

    def refuse(self, what: str, **evidence: object) -> BuildError:
        found = STENCIL_SECTION.fullmatch(self.section)
        op = found[2].partition(".")[0] if found else ""
        line = self.lines.get(op, 0)
        where = f"operation {op!r} (line {line})" if op else self.section
        facts = {"op": op, "line": line, "target": self.target.name, "section": self.section}
        return BuildError(f"{where} on {self.target.name}: {what}", **facts, **evidence)


def extract(
    objects: list[bytes],
    target: Target,
    stack: Mapping[str, int],
    lines: Mapping[str, int] | None = None,
    helpers: Container[str] | None = None,
    instructions: Mapping[str, int] | None = None,
    result: Extracted | None = None,
    feature: str = "",
) -> Extracted:
    """Read all objects of one vocabulary. stack: native stack of each stencil, in bytes. lines: operation -> its
    line in the C source, for messages. helpers: the functions that the source calls; what else an object asks for
    is refused (None: nothing is). instructions: of each stencil. result: what was read of the same vocabulary before,
    to be added to; the first objects have all routines. feature: that the objects were compiled for; their routines are
    then those of the base line, which are called alike."""
    result = result or Extracted()
    sizes = Sizes(stack, instructions or {})
    files = [opened(image, target) for image in objects]
    names = set(result.routines) or {name for elf in files for name in routine_sections(elf)}
    routine_names = sorted(names)
    for elf in files:
        Reader(elf, target, result, routine_names, sizes, lines or {}, helpers, feature).read()
    result.routines = dict(sorted(result.routines.items()))
    return result


def opened(image: bytes, target: Target) -> Object:
    try:
        return Object(image, target.composed)
    except ValueError as error:
        raise Site(target, "object", {}).refuse(str(error)) from error


def routine_sections(elf: Object) -> Iterator[str]:
    for section in elf.sections:
        if section.name.startswith(".text.") and section.size:
            yield section.name.removeprefix(".text.")


class Reader:
    """One object on its way into `result`."""

    def __init__(
        self,
        elf: Object,
        target: Target,
        result: Extracted,
        routines: list[str],
        sizes: Sizes,
        lines: Mapping[str, int],
        helpers: Container[str] | None,
        feature: str,
    ) -> None:
        self.elf, self.target, self.result = elf, target, result
        self.routines, self.sizes, self.lines, self.helpers = routines, sizes, lines, helpers
        self.feature = feature
        self.sections = elf.sections
        self.names = [section.name for section in self.sections]
        self.named = dict(zip(self.names, self.sections, strict=True))

    def read(self) -> None:
        if self.elf.machine != self.target.machine:
            raise self.site("object").refuse(f"it is for machine {self.elf.machine}")
        records = self.records()
        parts: dict[str, dict[str, Block]] = {}
        for section in self.sections:
            if section.name in records and not self.is_code(section):
                if section.allocated and not IGNORED.match(section.name):
                    what = f"section {section.name}: data that needs relocations has no place in a stencil (a variable, or a table of addresses: use cells, symbol operands or helpers)"
                    raise self.user_of(section.name, records).refuse(what)
            elif found := STENCIL_SECTION.fullmatch(section.name):
                key = found[2] + (found[3] or "")
                parts.setdefault(key, {})[found[1]] = self.block(section, records.get(section.name, []))
            elif section.name.startswith(".text.") and section.size:
                self.routine(section, records.get(section.name, []))
            else:
                self.check_known(section, records)
        for key, blocks in parts.items():
            ordered = tuple(blocks[part] for part in ("hot", "cold") if part in blocks)
            name = key.removesuffix(".far")
            sizes = self.sizes.stack.get(name, 0), self.sizes.instructions.get(name, 0)
            self.result.stencils[key] = Stencil(ordered, *sizes)

    def routine(self, section: Section, records: list[Record]) -> None:
        """What stencils share. Each object has a copy of it, and one serves them all. A static function may be called in a
        way of its own in each object: all copies have to be the same."""
        name = section.name.removeprefix(".text.")
        if name not in self.routines:
            what = f"function {name} is in some objects only; declare it __attribute__((noinline, used))"
            raise self.site(section.name).refuse(what, routine=name)
        if not self.feature:
            block = self.block(section, records)
            old = self.result.routines.setdefault(name, block)
            if old != block and section.name not in self.global_sections:
                what = (
                    f"two compilations made different code of function {name}: clang fits what it knows all calls of to "
                    "them; declare it __attribute__((noinline, used)), so that it keeps the C calling convention"
                )
                raise self.site(section.name).refuse(what, routine=name)

    def site(self, section: str) -> Site:
        return Site(self.target, section, self.lines)

    def is_code(self, section: Section) -> bool:
        return bool(STENCIL_SECTION.fullmatch(section.name)) or section.name.startswith(".text")

    def user_of(self, name: str, records: dict[str, list[Record]]) -> Site:
        """The stencil that refers to a section first, or the section itself."""
        users = (user for user, found in records.items() if any(name in (r.section, r.symbol) for r in found))
        return self.site(next((user for user in users if STENCIL_SECTION.fullmatch(user)), name))

    def check_known(self, section: Section, records: dict[str, list[Record]]) -> None:
        known = section.name.startswith(".rodata") or IGNORED.match(section.name) or not section.allocated
        if not known and section.size:
            hint = (
                "use cells, slots or helpers for what changes"
                if section.name.startswith((".data", ".bss", ".sdata", ".sbss"))
                else ""
            )
            what = f"section {section.name} is one that no stencil may have ({hint or 'unknown'})"
            raise self.user_of(section.name, records).refuse(what)

    def block(self, section: Section, records: list[Record]) -> Block:
        """One section as code with holes."""
        site = self.site(section.name)
        holes = [hole for record in self.target.pairs(records) for hole in self.holes(site, record)]
        code = section.data
        holes = sorted(stand_alone(holes, self.target.fields), key=lambda hole: (hole.offset, hole.field))
        for hole in holes:
            if not 0 <= hole.offset <= len(code) - self.target.fields[hole.field].size:
                raise site.refuse(f"a relocation at {hole.offset:#x} lies outside of the section")
        tail = len(code) - self.tails.get(section.name, len(code))
        return Block(code, tuple(holes), tail, max(1, section.align))

    @cached_property
    def global_sections(self) -> set[str]:
        """The sections with a symbol that other objects see."""
        return {self.names[s.section] for table in self.elf.symbols.values() for s in table if s.seen}

    @cached_property
    def tails(self) -> dict[str, int]:
        """Where the tail of each section begins that has one."""
        return {
            self.names[symbol.section]: symbol.value
            for table in self.elf.symbols.values()
            for symbol in table
            if symbol.name.startswith(TAIL)
        }

    def records(self) -> dict[str, list[Record]]:
        """Relocations by the section they change."""
        found: dict[str, list[Record]] = {}
        for changed, relocations in self.elf.relocations():
            if relocations is None:
                raise self.site(changed.name).refuse("relocations without addends")
            found[changed.name] = [self.record(relocation) for relocation in relocations]
        return found

    def record(self, relocation: Relocation) -> Record:
        offset, symbol, kind, addend = relocation
        section = self.names[symbol.section] if symbol.section else ""
        return Record(offset, kind, symbol.name or section, section, symbol.value, addend, offset)

    def holes(self, site: Site, record: Record) -> Iterator[Hole]:
        """The holes of one relocation."""
        if record.type not in self.target.relocations:
            raise site.refuse(
                f"relocation type {record.type:#x} at {record.offset:#x} is not known", type=record.type
            )
        what, index, addend = self.meaning(site, record)
        for piece in self.target.relocations[record.type]:
            place = record.place + (piece.at if record.place == record.offset and not piece.keep_place else 0)
            yield Hole(record.offset + piece.at, piece.field, what, index, addend + piece.addend, place)

    def meaning(self, site: Site, record: Record) -> tuple[What, int, int]:
        """What a symbol stands for, with the addend that is then left."""
        name, addend = record.symbol, record.addend
        if found := OPERAND.fullmatch(name):
            what = What.TARGET if found[1] else What.LITERAL if found[3] else What.OPERAND
            return what, int(found[2]), addend
        if name == "cnp.next":
            return What.NEXT, 0, addend
        if name == "cnp.position":
            return What.POSITION, 0, addend
        if name.startswith("cnp.leave."):
            return What.LEAVE, Leave[name.removeprefix("cnp.leave.").upper()], addend
        if found := STENCIL_SECTION.fullmatch(record.section):
            return What.BLOCK, ("hot", "cold").index(found[1]), addend + record.value
        if record.section.startswith(".text."):
            return (
                What.ROUTINE,
                self.routines.index(record.section.removeprefix(".text.")),
                addend + record.value,
            )
        if record.section.startswith(".rodata"):
            return What.DATA, *self.constant(record)
        if record.section:
            raise site.refuse(
                f"it refers to section {record.section} ({name}); use cells, slots or helpers for data"
            )
        if name.startswith(UNFORESEEN):
            act = "an answer" if name.endswith("answer") else "a look at the state"
            raise site.refuse(f"{act} depends on a feature of the processor; let all processors have it")
        if name.startswith("cnp."):
            raise site.refuse(f"symbol {name!r} has no meaning")
        if name in self.routines:  # of another object
            return What.ROUTINE, self.routines.index(name), addend
        if self.helpers is not None and name not in self.helpers:
            hint = "a variable, for which there are cells and symbol operands; or a function of a library, which needs a prototype"
            raise site.refuse(f"it asks for {name!r}, which is no helper of the source ({hint})", symbol=name)
        if name not in self.result.imports:
            self.result.imports.append(name)
        return What.IMPORT, self.result.imports.index(name), addend

    def constant(self, record: Record) -> tuple[int, int]:
        """Index of the constant that a relocation reads, and the addend left. One entry of a mergeable section, or
        the whole section where only the section is named."""
        section = self.named[record.section]
        single = record.symbol != record.section and section.entry
        start, length = (record.value, section.entry) if single else (0, section.size)
        data = Constant(section.data[start : start + length], max(1, section.align))
        index = self.result.places.setdefault(data, len(self.result.constants))
        if index == len(self.result.constants):
            self.result.constants.append(data)
        return index, record.addend + (0 if single else record.value)


def stand_alone(holes: list[Hole], fields: dict[str, Field]) -> list[Hole]:
    """Low halves without a high half beside them are checked by the field that says what fits alone. An address never
    stands alone: its high half may be in another block."""

    def is_high(hole: Hole) -> bool:
        return fields[hole.field].carry != 0 or fields[hole.field].formula is Formula.PAGE

    def is_pair(hole: Hole) -> bool:
        return hole.what not in (What.OPERAND, What.POSITION) or (hole.what, hole.index) in highs

    highs = {(hole.what, hole.index) for hole in holes if is_high(hole)}
    return [
        replace(hole, field=alone) if (alone := fields[hole.field].alone) and not is_pair(hole) else hole
        for hole in holes
    ]
