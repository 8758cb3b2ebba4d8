"""The builder on random C bodies: generated code against the same bodies as plain C, byte for byte, on every target.

Each vocabulary has bodies of its own (body_generator.py); each body is used with several operands and run on several
states (body_rig.py). The bodies are executed as stencils, by the interpreter of the same file, and by a plain switch
that was compiled without optimisation, on this machine by gcc.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from cnp.assembler import Assembler
from cnp.foreign import Call, ForeignCode
from cnp.library import Library
from tests.body_generator import random_source
from tests.support import every_target, need, runnable

BODIES = 125  #: of one vocabulary
WHEEL = bool(os.environ.get("CNP_WHEEL"))
SEEDS = range(
    2 if WHEEL else 16
)  #: 2,000 bodies; the wheel has the same builder, a few show that it is there
MANY_SEEDS = range(1000, 1400)  #: 50,000 bodies

HALVES = """#define CNP_STATE(X) X(u64, a) X(f64, x) X(f64, y) X(u8 *, p)
#define CNP_RESULT a
#include <cnp.h>
CNP_INLINE i64 whole(f64 v) { return v > -9e18 && v < 9e18 ? (i64)v : 7; }
CNP_OP(shares_an_address) {
    if (s->a & 1) s->p[0] = whole(s->x); else s->p[s->a & 7] = s->a;
    if (s->p[3]) s->p[1] = whole(s->y);
    return TRAP(CNP_TRAP_OVERFLOW);
}
"""


def check(seed: int, target: str, folder: Path) -> None:
    """Build a vocabulary and compare all its runs."""
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    from tests.body_rig import Bodies

    assert Bodies(seed, BODIES, runnable(target), folder).check() > 20 * BODIES


@every_target
@pytest.mark.parametrize("seed", SEEDS)
def test_stencils_do_what_the_bodies_say(seed: int, target: str, tmp_path: Path) -> None:
    check(seed, target, tmp_path)


@pytest.mark.soak
@every_target
@pytest.mark.parametrize("seed", MANY_SEEDS)
def test_many_stencils_do_what_the_bodies_say(seed: int, target: str, tmp_path: Path) -> None:
    check(seed, target, tmp_path)


def test_the_generator_uses_the_whole_contract() -> None:
    """Every kind of operand, every scalar type, every way on: otherwise the tests above prove less than they seem to."""
    sources = [random_source(seed, BODIES) for seed in range(16)]
    text = "\n".join(source.text for source in sources)
    operands = {(o.kind, o.ctype) for source in sources for body in source.bodies for o in body.operands}
    scalars = ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64", "f32", "f64")
    assert operands >= {(kind, ctype) for kind in ("imm", "slot", "cell") for ctype in scalars} | {
        ("imm", "disp")
    }
    assert operands >= {("label", ""), ("table", "")}
    for word in ("NEXT", "EXIT", "RETURN", "SLOW", "TRAP(", "JUMP(", "JUMP_TABLE(", "cnp_test_mix(", "cnp_test_clobber(",
                 "for (", "else", "likely(", "__builtin_add_overflow(", " == 0)", "& 7)", "< 0)", "(char *)s"):  # fmt: skip
        assert text.count(word) > 20, word
    assert len({len(source.state) for source in sources}) > 2
    assert random_source(3, 5) == random_source(3, 5)


@every_target
def test_an_address_in_two_halves_stays_in_one_section(target: str, tmp_path: Path) -> None:
    """All ways of this body leave, so that everything behind its first block is cold; clang computes the upper half of
    a constant's address there, for two blocks that add the lower half (found by a random body, on riscv64)."""
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    from cnp.build import driver, toolchain

    source = tmp_path / "halves.c"
    source.write_text(HALVES)
    library = Library(driver.build(driver.Job(source, runnable(target), toolchain.find())), "halves.cnp")
    asm = Assembler(library)
    asm.function("main", frame=0)
    asm.shares_an_address()
    code = ForeignCode(asm.close())
    (area,) = code.area_addresses([8])
    calls = [Call("main", {"a": 1, "x": 3.5, "y": 8.25, "p": area}, interpret=way) for way in (False, True)]
    for call in calls:
        outcome = code.run([call], memory=[bytes([0, 0, 0, 1, 0, 0, 0, 0])])
        assert (outcome.results[0].kind, outcome.results[0].code) == ("trap", 3)
        assert outcome.memory == [bytes([3, 8, 0, 1, 0, 0, 0, 0])]


def test_a_wrong_instruction_is_found(tmp_path: Path) -> None:
    """A stencil that is spoilt on purpose shows, with its body, in the message."""
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    from tests.body_rig import Bodies

    bodies = Bodies(2, 20, runnable("host"), tmp_path)
    image = bodies.code.image
    for start, end, op in image.ranges:
        if op in bodies.starts and end - start > 16:
            spoilt = image.code[:start] + bodies.target.nop * ((end - start) // len(bodies.target.nop))
            image.code = spoilt + image.code[len(spoilt) :]
            break
    with pytest.raises(AssertionError, match=r"CNP_OP[\s\S]*state before[\s\S]*compiled:[\s\S]*interpreted:"):
        bodies.check()
