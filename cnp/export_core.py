"""A stencil file as C for the core: `struct cnp_tables` of cnp/core/cnp_core.h, so that a program in C needs no Python.

    Library --CoreLibrary--> struct cnp_tables --printed--> C

The same struct that Python hands to the core is printed, field by field as its C types say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnp import __version__
from cnp.core_library import CoreLibrary
from cnp.library import STUBS, Library
from cnp.tables import HOLE, TABLES

#: Arrays whose length is another member: name -> that member.
SIZED = {"veneer": "veneer_size", "nop": "nop_size", "trap": "trap_size"}


def to_core(library: Library) -> str:
    """A header: `cnp_NAME_tables`, an enumerator NAME_OPERATION for each operation, what a frame needs."""
    core = CoreLibrary(library)
    name = Path(str(library.facts["source"])).stem
    lines = [
        f"/* {name} for {library.target.name}, tables for the core of cnp {__version__}: do not edit */",
        '#include "cnp_core.h"',
        "enum {",
        *(f"    {name}_{operation} = {number}," for number, operation in enumerate(library.operations)),
        "};",
        "enum {",
        f"    cnp_{name}_enter = {core.routine('cnp_enter')}, /* routine: void enter(void *frame, const void *code) */",
        f"    cnp_{name}_header = {library.header_size}, /* bytes below slot 0 */",
        "};",
    ]
    members = []
    struct = core.ffi.typeof("struct cnp_tables")
    for member, field in struct.fields:
        value = getattr(core.tables, member)
        if member in TABLES:
            lines.append(array(f"cnp_{name}_{member}", "uint8_t", bytes(library.rows[member])))
            members.append(f".{member} = {{cnp_{name}_{member}, {value.count}}}")
        elif member == "features":  # the processor that it is printed on says nothing of the one that runs it
            base_line = bytes([1, *bytes(core.tables.features_count - 1)])
            lines.append(array(f"cnp_{name}_{member}", "uint8_t", base_line))
            members.append(f".{member} = cnp_{name}_{member}")
        elif field.type.kind == "pointer":
            count = length(core.tables, member)
            kind = field.type.item.cname
            rows = ", ".join(initializer(value[i], field.type.item) for i in range(count)) or initializer(
                None, field.type.item
            )
            lines.append(f"static const {kind} cnp_{name}_{member}[] = {{{rows}}};")
            members.append(f".{member} = cnp_{name}_{member}")
        else:
            members.append(f".{member} = {initializer(value, field.type)}")
    lines += [
        f"static const struct cnp_tables cnp_{name}_tables = {{",
        *(f"    {item}," for item in members),
        "};",
    ]
    return "\n".join(lines) + "\n"


def length(tables: Any, member: str) -> int:
    """Items of an array."""
    if member == "stubs":
        return len(STUBS)
    if member == "veneer_rows":
        return int(tables.veneer_holes) * HOLE.size
    return int(getattr(tables, SIZED.get(member, f"{member}_count")))


def array(name: str, kind: str, data: bytes) -> str:
    """Bytes as an array, so many on a line."""
    text = ",".join(map(str, data)) or "0"
    return f"static const {kind} {name}[] = {{{text}}};"


def initializer(value: Any, kind: Any) -> str:
    """A value of a C type; None: zero."""
    if kind.kind == "struct":
        parts = [initializer(value and getattr(value, name), field.type) for name, field in kind.fields]
        return f"{{{', '.join(parts)}}}"
    if kind.kind == "array":
        return f"{{{', '.join(initializer(value and value[i], kind.item) for i in range(kind.length))}}}"
    number = int(value or 0)
    if number == -(1 << 63):
        return "INT64_MIN"
    return f"{number}u" if number >= 1 << 31 else str(number)
