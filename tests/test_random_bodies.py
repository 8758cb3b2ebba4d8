"""The builder on random C bodies: generated code against the same bodies as plain C, byte for byte, on every target.

Each vocabulary has bodies of its own (body_generator.py); each body is used with several operands and run on several
states (body_rig.py). The bodies are executed as stencils, by the interpreter of the same file, and by a plain switch
that was compiled without optimisation, on this machine by gcc.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.body_generator import random_source
from tests.support import every_target, need, runnable

BODIES = 125  #: of one vocabulary
SEEDS = range(16)  #: 2,000 bodies
MANY_SEEDS = range(1000, 1400)  #: 50,000 bodies


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
    sources = [random_source(seed, BODIES) for seed in SEEDS]
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
