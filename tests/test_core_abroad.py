"""The core as code of other machines: under qemu it makes, of the same records, the bytes that it makes here, for the target
it runs on and for one of the other byte order."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pytest

from cnp import emit, native, runtime, targets
from cnp.errors import OperandError
from cnp.export_core import to_core
from cnp.library import Library
from cnp.stencil import Accept
from tests import abroad_rig
from tests.core_programs import forms

DRIVER = Path(__file__).parent / "core_abroad.c"
FRAME, BASE, SIZE = 4096, 0x10000, 400
MOST_WIDE = 4  #: operands of an operation of which one can be wide

#: Where the core runs -> whose code it makes: its own, and where the bytes of words are turned around, that of this machine.
HERE = targets.get("host")
FOREIGN = [targets.get(name) for name in targets.TARGETS if name != HERE.name]
ABROAD = [(target.name, target.name) for target in FOREIGN]
ABROAD += [(target.name, HERE.name) for target in FOREIGN if target.byteorder != HERE.byteorder]

HEADER = """enum {{ FRAME = {frame}, BASE = {base} }};
static const struct {{
    uint16_t op;
    uint32_t kinds;
    int32_t word[6];
    int is_wide;
    uint64_t wide;
}} given[] = {{
{rows}
}};
"""


class Given(NamedTuple):
    """An operation as a record in no byte order. wide: None, or what lies in the words 4 and 5."""

    op: int
    kinds: int
    words: list[int]
    wide: int | None

    def packed(self) -> bytes:
        words = [*self.words, 0, 0, 0, 0, 0, 0][:6]
        data = bytearray(emit.RECORD.pack(self.op, 0, self.kinds, *words))
        if self.wide is not None:
            data[-8:] = (self.wide % (1 << 64)).to_bytes(8, sys.byteorder)
        return bytes(data)

    def initializer(self) -> str:
        words = ", ".join(map(str, self.words))
        wide = (self.wide or 0) % (1 << 64)
        return f"    {{{self.op}, {self.kinds:#x}, {{{words}}}, {int(self.wide is not None)}, {wide:#x}}},"


def word(accept: Accept, rng: random.Random) -> tuple[int, int]:
    """Kind and value of something that a form takes. LookupError: nothing that has a record alone."""
    match accept.kind:
        case "r" | "f":
            bank = emit.R if accept.kind == "r" else emit.F
            return bank, rng.choice([n for n in range(32) if accept.mask >> n & 1])
        case "slot":
            return emit.SLOT, rng.randint(max(accept.low, 0), min(accept.high, FRAME - 8)) // 8 * 8
        case "label":
            return emit.POSITION, rng.randrange(SIZE)
        case "i32" | "i64" | "u32" | "u64":
            value = rng.choice((accept.low, accept.high, rng.randint(accept.low, accept.high)))
            value = value // accept.align * accept.align
            small, signed = -(1 << 31) <= value < 1 << 31, value < 1 << 63
            return (emit.NUMBER if small else emit.WIDE_KIND if signed else emit.UNSIGNED), value
    raise LookupError(accept.kind)


def operations(library: Library, rng: random.Random) -> Iterator[Given]:
    """Of forms of every kind that records alone can have; each is one that the core takes."""
    known = [(op, form) for op, form in forms(library) if form.accepts and not op.calls]
    trial = emit.Batch(library)
    while True:
        operation, form = rng.choice(known)
        kinds, words, wide = 0, [], None
        try:
            for number, accept in enumerate(form.accepts):
                kind, value = word(accept, rng)
                if kind in (emit.WIDE_KIND, emit.UNSIGNED):
                    if wide is not None or len(form.accepts) > MOST_WIDE:
                        raise LookupError("there is no room for it")
                    wide, value = value, 0
                kinds |= kind << 4 * number
                words.append(value)
            found = Given(operation.index, kinds, words, wide)
            trial.reset()
            trial.function(FRAME)
            trial.extend(found.packed())
        except (LookupError, OperandError):
            continue
        yield found


def bytes_here(library: Library, given: list[Given]) -> bytes:
    batch = emit.Batch(library)
    batch.function(FRAME)
    batch.extend(b"".join(item.packed() for item in given))
    batch.link()
    code = bytearray(batch.settle(BASE, 0, {}))
    batch.write(code, bytearray(8))
    return bytes(code)


@pytest.mark.skipif(native.core_module is None, reason=f"no core in C: {native.reason}")
@pytest.mark.parametrize(("name", "made"), ABROAD, ids=["-for-".join(pair) for pair in ABROAD])
def test_the_bytes_are_those_of_here(name: str, made: str, tmp_path: Path, session_folder: Path) -> None:
    library = Library.load(runtime.installed("ops", made))
    given = list(islice(operations(library, random.Random(made)), SIZE))
    given.append(Given(library["ret"].index, emit.SLOT, [0], None))
    wanted = bytes_here(library, given)
    assert any(item.wide is not None for item in given)
    (tmp_path / "ops.h").write_text(to_core(library), encoding="ascii")
    rows = "\n".join(item.initializer() for item in given)
    (tmp_path / "given.h").write_text(HEADER.format(rows=rows, frame=FRAME, base=BASE), encoding="ascii")
    command = abroad_rig.command(name, DRIVER, tmp_path, session_folder)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert bytes(map(int, done.stdout.split())) == wanted
