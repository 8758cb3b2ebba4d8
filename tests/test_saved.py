"""Saved code: what is loaded is the program that was saved; what is not, or not for this library, is refused."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

import cnp
from cnp import LibraryError, Symbol, SymbolError, patch, r, slot, targets
from cnp.library import Library
from cnp.runtime import installed
from cnp.saved import HEAD, MAGIC, contents_of, pack, unpack
from tests.support import every_target

H = cnp.load("ops").library.header_size
IMPORTS = {"cnp_poll": 0x1234560, "x": 0x4000}


def program(target: str) -> cnp.Assembler:
    """Something of everything: f counts in a loop and calls g by a lazy cell."""
    asm = cnp.load(installed("ops", target)).assembler(helpers=IMPORTS)
    asm.function("f", frame=32 + H)
    g = asm.declare("g", frame=32)
    lazy = asm.lazy("later", g, 64)
    cell = asm.cell(5)
    numbers = asm.rodata.here("numbers")
    asm.rodata.i64(3, -4)
    asm.bind("loop", entry=True)
    asm.i64_add(slot(8), slot(8), 1, at=("prog.lang", 3))
    asm.br_i64_lt_s(slot(8), 10, asm["loop"])
    asm.i64_move(slot(0), numbers + 8)
    asm.i64_load(slot(0), slot(0), 0)
    with asm.cold():
        asm.align(32)
        asm.i64_rotl(r[1], r[2], 70000)
    asm.i64_move(slot(24), cell)
    asm.f64_move(slot(24), -2.5)
    asm.i64_add(slot(0), slot(0), slot(8))
    asm.i64_move(slot(16), 0)
    asm.call_table(slot(16), 1, lazy, slot(24), slot(16))
    asm.i64_add(slot(0), slot(0), slot(16))
    asm.ret(slot(0))
    asm.begin(g)
    asm.jump_table(slot(0), 1, asm.table(asm["out"], asm["out"]))
    asm.bind("out")
    asm.i64_move(slot(0), Symbol("x") + 2)
    asm.ret(slot(0))
    asm.data.address(asm["out"], cell, numbers + 4, Symbol("x"), asm.bind("far", address=0x77))
    asm.data.relative(asm["loop"])
    asm.export("numbers", numbers)
    return asm


@every_target
def test_the_same_program(target: str) -> None:
    asm = program(target)
    saved = pack(asm.close())
    library = Library.load(installed("ops", target))
    loaded = unpack(contents_of(saved, "p"), library, "p")
    assert pack(loaded) == saved
    ours, theirs = asm.encode(1 << 20), patch.encode(loaded, 1 << 20, None, IMPORTS)
    assert (ours.code, ours.data, ours.symbols) == (theirs.code, theirs.data, theirs.symbols)
    assert loaded.entries() == asm.program.entries()


def test_code_that_is_loaded_runs(tmp_path: Path) -> None:
    asm = program(cnp.load("ops").target.name)
    asm.helpers.pop("cnp_poll")
    code = asm.build()
    expected = code["f"].run().value
    assert expected == 10 - 4 + 0x4002
    code.save(tmp_path / "f.code")
    loaded = cnp.load_code(tmp_path / "f.code", symbols={"x": 0x4000})
    assert loaded["f"].run().value == expected
    assert (
        loaded["f"].callable("int64_t(int64_t, int64_t)")(0, 0) == expected
    )  # slots begin with what lay there
    assert loaded.program.ops[0].at == ("prog.lang", 3)
    assert cnp.load_code(tmp_path / "f.code", cnp.load("ops"), {"x": 0})["f"].run().value == 10 - 4 + 2
    with pytest.raises(SymbolError) as caught:
        cnp.load_code(tmp_path / "f.code")
    assert caught.value.symbols == ["x"]


def test_files_that_are_none(tmp_path: Path) -> None:
    file = tmp_path / "f.code"
    with pytest.raises(LibraryError) as caught:
        cnp.load_code(file)
    assert caught.value.path == str(file)
    good = pack(program(cnp.load("ops").target.name).close())
    wrong = good[: len(MAGIC)] + hashlib.sha256(b"[]").digest() + b"[]"
    for data in (b"", good[:30], b"CNPCODE2" + good[8:], good[:-1], good + b" ", wrong):
        file.write_bytes(data)
        with pytest.raises(LibraryError):
            cnp.load_code(file)


def changed(file: bytes, /, **parts: Any) -> bytes:
    """A file with other parts and the right digest."""
    text = json.dumps(json.loads(file[HEAD:]) | parts).encode()
    return MAGIC + hashlib.sha256(text).digest() + text


def test_other_libraries_and_features(tmp_path: Path) -> None:
    file, host = tmp_path / "f.code", cnp.load("ops").target.name
    good = pack(program(host).close())
    _, digest, _ = json.loads(good[HEAD:])["library"]
    other = next(name for name in targets.TARGETS if name != host)
    for named, reason in (
        (["ops.nowhere.cnp", digest, host], "not there"),
        (["../ops.cnp", digest, host], "not there"),
        ([f"ops.{host}.cnp", "0" * 64, host], "assemble and save"),
        ([f"ops.{host}.cnp", digest, other], "assemble and save"),
    ):
        file.write_bytes(changed(good, library=named))
        with pytest.raises(LibraryError, match=reason):
            cnp.load_code(file)
    file.write_bytes(changed(good, features=["wings"]))
    with pytest.raises(LibraryError, match="wings") as caught:
        cnp.load_code(file)
    assert caught.value.features == ["wings"]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [(value, key) for key in keys] + [found for key in keys for found in places(value[key])]


@pytest.mark.parametrize("seed", range(8))
def test_strange_contents(seed: int) -> None:
    """Whatever one place of the contents becomes: a program that links, or words that say why not."""
    rng = random.Random(seed)
    library = Library.load(installed("ops", cnp.load("ops").target.name))
    good = pack(program(library.target.name).close())
    refused = 0
    for _ in range(60):
        contents = json.loads(good[HEAD:])
        container, key = rng.choice(places(contents)[3:])
        container[key] = rng.choice(
            [None, -1, 0, 1, 7, 1 << 40, 1 << 70, "x", [], ["s", -(1 << 40)], {}, 1.5, True]
        )
        try:
            loaded = unpack(contents_of(changed(good, **contents), "p"), library, "p")
            patch.encode(loaded, 1 << 20, None, lambda name: 0x1000)
        except LibraryError:
            refused += 1
        except (cnp.RangeError, cnp.LabelError):
            pass  # an address that does not fit; a name that is none
    assert refused > 20
