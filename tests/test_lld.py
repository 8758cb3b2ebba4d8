"""The unedited template of every stencil, patched by us, against ld.lld.

What is compared are the stencils as they come out of the objects: the plain ones, all of them, and the samples, compiled
or renamed, from which the forms with holes for registers were learned, some hundred of each object. Those forms and the
shortened ones are no objects; they are judged in test_edited.py, and executed in test_forms.py.

The objects that the builder assembled are placed by us: a random base, the stencils in random order, random gaps.
Every symbol that a section names gets a random value within the range that its operand is said to take and that the
section's jumps reach, so that it is another one in every section. lld links that once a round for all stencils, and
each section's bytes must be those of our Block with its holes filled by `Field.write`.

What differs:
* `lui` + `addiw` takes each value of 32 bits modulo 2^32; lld thinks of `addi` and refuses the upper ones. It gets
  the congruent negative value.
* lld merges equal constants; -O0 lets each one stay where its section says. Those of an object are not distinct, ours
  are: lld may take any place that holds the same bytes.
* Short jumps between the parts of a stencil want them side by side. A few near variants are so long that this does not
  help in either order: no program uses them, and lld does not see them.
* Several objects may define a routine, each for itself; the library has the first one. Each is compared where it is.
* To lld a PowerPC function at address 0 is one that does not exist, and a branch to it goes nowhere.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cnp.build.driver import Made
from cnp.build.extract import Extracted, extract
from cnp.library import Library
from cnp.stencil import Accept, Block, Hole, Leave, What
from cnp.target import REGION_SIZE, Field, Formula, Target
from tests.oracle_build import EVERYTHING, OPS, REGISTERS, TARGETS, made, made_in_part, tools
from tests.oracle_elf import bind, code_sections, outside, parsed, section_bytes

ROUNDS = 20
LEARNED_ROUNDS = 2  #: … of objects with so many stencils that each round has all kinds of them
MANY = 250  #: stencils
PLAIN, LEARNED = 400, 20  #: shapes of the portable operations that are compiled for this
SAMPLES = 200  #: learned stencils of an object that are compared
PART_REACH = 2048  #: bytes within which the parts of a stencil lie when they are placed at random
WORD = 1 << 64


@dataclass(frozen=True)
class Template:
    """A section and the block that was read in it. siblings: sections of the same stencil, by block number."""

    section: str
    block: Block
    accepts: tuple[Accept, ...]
    siblings: tuple[str, ...]


def templates(built: Made, library: Library) -> dict[str, Template]:
    """Every block by its section: both variants of all stencils, all routines. accepts: of the forms that are stencils as
    they are."""
    accepts = {form.near: form.accepts for name in library.operations for form in library[name].forms}
    found: dict[str, Template] = {}
    for key, stencil in built.extracted.stencils.items():
        parts = tuple(f"cnp.{part}.{key}" for part in ("hot", "cold"))
        near = built.extracted.stencils[key.removesuffix(".far")]
        for section, block in zip(parts, stencil.blocks, strict=False):
            found[section] = Template(section, block, accepts.get(near, ()), parts)
    for name in library.routine_names:
        found[f".text.{name}"] = Template(f".text.{name}", library.routine(name), (), ())
    return found


class Renewed(dict[str, Block]):
    """Routines that are read again, in the place of those that serve all objects."""

    def setdefault(self, name: str, block: Block) -> Block:
        self[name] = block
        return block


def routines_of(built: Made, image: bytes, target: Target) -> dict[str, Template]:
    """The routines of an object as they are read in it, by section."""
    names = {section for section in code_sections(image) if section.startswith(".text.")}
    read = built.extracted
    again = Extracted({}, Renewed(read.routines), list(read.constants), list(read.imports), dict(read.places))
    routines = extract([image], target, {}, result=again).routines if names else {}
    return {section: Template(section, routines[section.removeprefix(".text.")], (), ()) for section in names}


def origin(section: str) -> str:
    """The key of a section's stencil: `add.0` of a plain one, `add.0.7` of a learned one; "" of a routine."""
    part, _, key = section.removeprefix("cnp.").partition(".")
    return key.removesuffix(".far") if part in ("hot", "cold") else ""


def is_learned(section: str) -> bool:
    return origin(section).count(".") == 2


def fair(sections: Mapping[str, Template], dice: random.Random) -> set[str]:
    """Which sections of an object are compared: all but most learned ones. The parts and variants of a stencil stay
    together."""
    keys = sorted({origin(section) for section in sections if is_learned(section)})
    chosen = set(dice.sample(keys, min(SAMPLES, len(keys))))
    return {section for section in sections if not is_learned(section) or origin(section) in chosen}


def symbol_name(library: Library, hole: Hole) -> str:
    """The symbol in the object that a hole stands for; "" for its own constants and blocks."""
    match hole.what:
        case What.OPERAND:
            return f"cnp.{hole.index}"
        case What.TARGET:
            return f"cnp.target.{hole.index}"
        case What.LITERAL:
            return f"cnp.{hole.index}.lit"
        case What.NEXT:
            return "cnp.next"
        case What.POSITION:
            return "cnp.position"
        case What.LEAVE:
            return f"cnp.leave.{Leave(hole.index).name.lower()}"
        case What.IMPORT:
            return library.imports[hole.index].name
        case What.ROUTINE:
            return library.routine_names[hole.index]
    return ""


# ---- places and values


Orders = dict[str, list[tuple[str, ...]]]  #: hot section -> the orders in which its parts lie side by side


def tight(found: dict[str, Template], target: Target) -> Orders:
    """The stencils whose parts jump to each other by less than PART_REACH, and the orders in which that reaches."""
    orders: Orders = {}
    for section, template in found.items():
        short = [
            (hole, fld)
            for hole in template.block.holes
            if hole.what is What.BLOCK and (fld := target.fields[hole.field]).high < PART_REACH and fld.jump
        ]
        if short:
            hot, cold = template.siblings
            assert section == hot, "only hot parts have short jumps"
            places = {(hot, cold): len(template.block.code), (cold, hot): -len(found[cold].block.code)}
            orders[hot] = [
                order
                for order, at in places.items()
                if all(fld.fits(fld.value(at, hole.addend, hole.place)) for hole, fld in short)
            ]
    return orders


def placing(
    sizes: dict[str, tuple[int, int]], orders: Orders, target: Target, dice: random.Random
) -> dict[str, int]:
    """An address for each section: the parts of a stencil together, everything else in random order."""
    groups: dict[str, list[str]] = {}
    for name in sizes:
        groups.setdefault(name.replace("cnp.cold.", "cnp.hot."), []).append(name)
    order = list(groups.items())
    dice.shuffle(order)
    address = dice.randrange(1 << dice.choice((20, 28, 31, 40, 47))) + 0x10000 & -0x1000
    if address % REGION_SIZE > REGION_SIZE - (1 << 20):
        address += (
            1 << 20
        )  # a stencil does not jump from one region into the next: `cnp/plan.py` sees to that
    places = {}
    for hot, group in order:
        address += dice.randrange(64) * 16
        fitting = orders.get(hot, [])
        for name in dice.choice(fitting) if fitting else dice.sample(group, len(group)):
            address += 0 if fitting else dice.randrange(8) * 16
            address = -(-address // max(sizes[name][1], 1)) * max(sizes[name][1], 1)
            places[name] = address
            address += sizes[name][0]
    return places


def limits(fld: Field, hole: Hole, start: int) -> tuple[int, int]:
    """The values of S for which a hole of a block at `start` is in range."""
    p = start + hole.place
    if fld.formula is Formula.ABSOLUTE:
        return fld.low - hole.addend, fld.high - hole.addend
    if fld.formula is Formula.REGION:
        region = p + 4 & -REGION_SIZE
        return region, region + REGION_SIZE - 4
    edge = 0x1000 if fld.formula is Formula.PAGE else 0
    return max(16, fld.low - hole.addend + p + edge), min(fld.high - hole.addend + p - edge, WORD - 1)


def choose(library: Library, template: Template, name: str, start: int, dice: random.Random) -> int:
    """A random value of a symbol that all holes which name it can take."""
    fields = library.target.fields
    holes = [hole for hole in template.block.holes if symbol_name(library, hole) == name]
    low, high, step = -(1 << 63), WORD - 1, 1
    for hole in holes:
        first, last = limits(fields[hole.field], hole, start)
        low, high, step = max(low, first), min(high, last), max(step, fields[hole.field].align)
    if holes[0].what is What.OPERAND and template.accepts:
        accepted = template.accepts[holes[0].index]
        low, high = max(low, accepted.low), min(high, accepted.high)
    if holes[0].what is What.POSITION:
        low, high = 0, (1 << 32) - 1
    if holes[0].what is What.LITERAL:
        step = 8
    assert low <= high, (template.section, name)
    value = dice.choice(
        (
            low,
            high,
            dice.randint(low, high),
            dice.randint(low, high),
            max(low, min(high, dice.randint(-300, 300))),
        )
    )
    phase = next(
        (start + h.place - h.addend for h in holes if fields[h.field].formula is Formula.RELATIVE),
        -holes[0].addend,
    )
    value -= (
        (value - phase) % step
        if step > 1 and not any(fields[h.field].formula is Formula.PAGE for h in holes)
        else value % step
    )
    return value if value >= low else value + step


# ---- both ways


Values = dict[tuple[str, str], int]  #: (section, symbol) -> value


def patched(
    library: Library, template: Template, places: dict[str, int], values: Values, constants: dict[Hole, int]
) -> bytes:
    """A template with its holes filled by us."""
    code, start = bytearray(template.block.code), places[template.section]
    for hole in template.block.holes:
        name = symbol_name(library, hole)
        if (template.section, name) in values:
            s = values[template.section, name]
        elif hole.what is What.ROUTINE:
            s = places[f".text.{name}"]
        elif hole.what is What.BLOCK:
            s = places[template.siblings[hole.index]]
        else:
            s = constants[hole]
        fill(library, code, hole, s, start)
    return bytes(code)


def fill(library: Library, code: bytearray, hole: Hole, s: int, start: int) -> None:
    """The hole of a block at `start`, checked."""
    fld = library.target.fields[hole.field]
    value = fld.value(s, hole.addend, start + hole.place)
    assert fld.fits(value), (hole, value)
    fld.write(code, hole.offset, value, library.target.byteorder)


def constants_of(
    library: Library, template: Template, start: int, theirs: bytes, copies: dict[int, list[int]]
) -> dict[Hole, int]:
    """Which copy of a constant each hole reads: one to which lld's hole leads, if there is one."""
    found: dict[Hole, int] = {}
    for hole in template.block.holes:
        for copy in copies[hole.index] if hole.what is What.DATA else ():
            code = bytearray(theirs)
            fill(library, code, hole, copy, start)
            found.setdefault(hole, copy)
            if code == theirs:
                found[hole] = copy
                break
    return found


def constant_places(built: Made, image: bytes, places: dict[str, int]) -> dict[int, list[int]]:
    """Where the copies of each constant lie that an object has: in the sections that hold its bytes."""
    found: dict[int, list[int]] = {}
    for section in parsed(image)[1]:
        for index, constant in enumerate(built.extracted.constants):
            if (
                section.name in places
                and section.name.startswith(".rodata")
                and constant.align == section["sh_addralign"]
            ):
                data, step = section.data(), len(constant.data)
                at = [n for n in range(0, len(data), step) if data[n : n + step] == constant.data]
                if step == section["sh_entsize"] or step == len(data):
                    found.setdefault(index, []).extend(places[section.name] + offset for offset in at)
    return found


def link(
    image: bytes, places: dict[str, int], left_out: set[str], target: Target, folder: Path
) -> dict[str, tuple[int, bytes]]:
    """lld's answer: section -> (address, bytes)."""
    lines = [
        f'  "{name}" {address:#x} : {{ *("{name}") }}'
        for name, address in sorted(places.items(), key=lambda item: item[1])
    ]
    unseen = "".join(f' *("{name}")' for name in sorted(left_out))
    script = folder / "script.ld"
    script.write_text(
        "SECTIONS {\n"
        + "\n".join(lines)
        + "\n  /DISCARD/ : { *(.eh_frame .note* .comment .llvm_addrsig .MIPS* .reginfo .pdr)"
        + f"{unseen} }}\n}}\n"
    )
    file, out = folder / "bound.o", folder / "linked"
    file.write_bytes(image)
    tools().link(*target.lld, "-O0", "--no-relax", "-e", "0", "-T", script, file, "-o", out)
    return section_bytes(out.read_bytes(), set(places))


def lld_values(library: Library, found: dict[str, Template], values: Values) -> Values:
    """The values that lld is given for ours: those of `lui` pairs congruent modulo 2^32."""
    given = dict(values)
    for section, template in found.items():
        for hole in template.block.holes:
            fld = library.target.fields[hole.field]
            if fld.formula is Formula.ABSOLUTE and fld.carry and fld.high == (1 << 32) - 1:
                key = (section, symbol_name(library, hole))
                given[key] = (values[key] + (1 << 31) + 0x800) % (1 << 32) - (1 << 31) - 0x800
    return given


def differences(
    built: Made, folder: Path, found: dict[str, Template] | None = None
) -> Iterator[tuple[int, str]]:
    """(round, section) wherever lld's bytes are not ours. found: templates in the place of those that were built."""
    library = Library(built.file)
    found = found or templates(built, library)
    dice = random.Random(f"{len(found)} {library.target.name}")
    orders = tight(found, library.target)
    unseen = {part for hot, fitting in orders.items() if not fitting for part in found[hot].siblings}
    assert len(unseen) < len(found) / 10
    seen, every = set(), set()
    for image in built.objects:
        all_sizes = code_sections(image)
        known = found | routines_of(built, image, library.target)
        own = {section: known[section] for section in all_sizes if not section.startswith(".rodata")}
        mine = {section: own[section] for section in sorted(fair(own, dice) - unseen)}
        sizes = {s: size for s, size in all_sizes.items() if s in mine or s.startswith(".rodata")}
        every |= set(own)
        seen |= set(mine)
        for number in range(ROUNDS if len(mine) < MANY else min(ROUNDS, LEARNED_ROUNDS)):
            places = placing(sizes, orders, library.target, dice)
            for section in one_round(built, library, image, mine, places, dice, folder):
                yield number, section
    assert every == set(found)
    assert {section for section in found if not is_learned(section)} <= seen | unseen


def one_round(
    built: Made,
    library: Library,
    image: bytes,
    found: dict[str, Template],
    places: dict[str, int],
    dice: random.Random,
    folder: Path,
) -> Iterator[str]:
    """The sections of one object in which lld's bytes are not ours, at these places."""
    wanted = sorted(key for key in outside(image) if key[0] in found)
    values = {
        (section, name): choose(library, found[section], name, places[section], dice)
        for section, name in wanted
    }
    left_out = set(code_sections(image)) - set(places)
    bound = bind(image, lld_values(library, found, values))
    linked = link(bound, places, left_out, library.target, folder)
    copies = constant_places(built, image, places)
    for section, template in found.items():
        address, theirs = linked[section]
        assert address == places[section]
        constants = constants_of(library, template, address, theirs, copies)
        if patched(library, template, places, values, constants) != theirs:
            yield section


@pytest.mark.parametrize("name", TARGETS)
def test_templates_against_lld(name: str, tmp_path: Path) -> None:
    assert list(differences(made(EVERYTHING, name), tmp_path)) == []


@pytest.mark.parametrize("name", TARGETS)
def test_learned_templates_against_lld(name: str, tmp_path: Path) -> None:
    """Samples of every kind of operand in registers, and what they were renamed to."""
    built = made(REGISTERS, name)
    assert sum(map(is_learned, templates(built, Library(built.file)))) > 2000
    assert list(differences(built, tmp_path)) == []


@pytest.mark.parametrize("name", TARGETS)
def test_portable_operations_against_lld(name: str, tmp_path: Path) -> None:
    """A part of their shapes, with some that are learned."""
    assert list(differences(made_in_part(OPS, name, PLAIN, LEARNED), tmp_path)) == []


@pytest.mark.parametrize("name", TARGETS)
def test_the_comparison_sees_a_wrong_template(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jumps that miss by four bytes, and the judge speaks."""
    right = Field.write

    def wrong(self: Field, code: bytearray, offset: int, value: int, byteorder: str) -> None:
        right(self, code, offset, value + 4 * (self.jump and offset > 0), byteorder)

    monkeypatch.setattr(Field, "write", wrong)
    assert any(differences(made(EVERYTHING, name), tmp_path))


@pytest.mark.parametrize("name", TARGETS)
def test_the_comparison_sees_one_wrong_bit(name: str, tmp_path: Path) -> None:
    """In the first instruction of one learned sample, where no hole is."""
    built = made_in_part(REGISTERS, name, 20, 12)
    found = templates(built, Library(built.file))
    spoiled = next(
        section
        for section, template in found.items()
        if is_learned(section) and all(hole.offset >= 4 for hole in template.block.holes)
    )
    block = found[spoiled].block
    code = bytes([block.code[0] ^ 1]) + block.code[1:]
    found[spoiled] = replace(found[spoiled], block=block._replace(code=code))
    assert {section for _, section in differences(built, tmp_path, found)} == {spoiled}
