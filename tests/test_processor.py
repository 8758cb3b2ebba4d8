"""Features of the processor: which ones this machine has, and what a library that is loaded for them may use."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import cnp
from cnp import OperandError, encode, native, patch, processor, runtime, targets
from cnp.assembler import Assembler
from cnp.library import Library
from cnp.target import Feature
from tests.support import every_target, need

TWO_CORES = """\
processor\t: 0
flags\t\t: fpu avx bmi1 bmi2

processor\t: 1
flags\t\t: fpu avx bmi2

platform\t: bmi1
"""
RISCV = "processor\t: 0\nhart\t: 0\nisa\t\t: rv64imafdc_zicsr_zba_zbb\n"


def test_what_all_processors_have() -> None:
    words = processor.described(TWO_CORES)
    assert {"fpu", "avx", "bmi2"} <= words
    assert "bmi1" not in words  # one of them lacks it, and the last block describes none
    assert {"zba", "zbb"} <= processor.described(RISCV)
    assert processor.described("") == frozenset()


def test_the_auxiliary_vector() -> None:
    data = struct.pack("@6L", 16, 0x123, 26, 1 << 23, 0, 0)
    assert processor.vector(data) == {16: 0x123, 26: 1 << 23, 0: 0}
    assert processor.vector(b"") == {}


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that says what the kernel says."""
    monkeypatch.setattr(processor, "DESCRIPTION", tmp_path / "cpuinfo")
    monkeypatch.setattr(processor, "VECTOR", tmp_path / "auxv")
    return tmp_path


def tell(kernel: Path, feature: Feature, without: int = 0) -> None:
    """The kernel of a processor with a feature. without: a bit of it that is not set."""
    kind, bits = feature.hwcap
    (kernel / "cpuinfo").write_text("processor : 0\nflags : " + " ".join(sorted(feature.words)) + "\n")
    (kernel / "auxv").write_bytes(struct.pack("@4L", kind, bits & ~without, 0, 0))


@every_target
def test_each_feature_is_told_by_the_kernel(
    target: str, kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "host_name", lambda: target)
    assert processor.features(targets.get(target)) == ()  # a kernel that says nothing
    for number, feature in enumerate(targets.get(target).features):
        monkeypatch.setattr(processor, "DESCRIPTION", kernel / f"{number}" / "cpuinfo")
        monkeypatch.setattr(processor, "VECTOR", kernel / f"{number}" / "auxv")
        (kernel / f"{number}").mkdir()
        tell(kernel / f"{number}", feature)
        assert processor.features(targets.get(target)) == (feature.name,)
        assert feature.words or feature.hwcap[1]  # else every processor would have it


@every_target
def test_features_are_checked_and_kept(target: str) -> None:
    path = runtime.installed("ops", target)
    names = [feature.name for feature in targets.get(target).features]
    assert Library.load(path).features == frozenset()
    assert Library.load(path, names).features == frozenset(names)
    with pytest.raises(OperandError, match=f"{target} has no feature 'sse9'") as caught:
        cnp.load("ops", target=target, features=["sse9"])
    assert (caught.value.operand, caught.value.value) == ("features", "sse9")
    assert list(caught.value.allowed) == names


@every_target
def test_the_default_is_what_this_machine_has(target: str) -> None:
    assert cnp.load("ops", target=target).library.features == frozenset(
        processor.features(targets.get(target))
    )
    assert cnp.load("ops", target=target, features=()).library.features == frozenset()


SHORTER = {
    "x86_64": ("v3", "i64_shl", cnp.r[0], cnp.r[1], cnp.r[2]),
    "aarch64": ("lse", "i64_atomic_add", cnp.r[0], cnp.r[1], 0, cnp.r[2]),
    "riscv64": ("zbb", "i64_clz", cnp.r[0], cnp.r[1]),
    "ppc64le": ("power9", "i64_rem_u", cnp.r[0], cnp.r[1], cnp.r[2]),
}


@pytest.mark.parametrize("target", SHORTER)
def test_a_feature_makes_an_operation_shorter(target: str) -> None:
    feature, name, *operands = SHORTER[target]
    path = runtime.installed("ops", target)
    with_it = Assembler(Library.load(path, [str(feature)])).cost(str(name), *operands)
    without = Assembler(Library.load(path)).cost(str(name), *operands)
    assert with_it.instructions < without.instructions
    assert [form.feature for form in with_it.forms] == [feature]
    assert [form.feature for form in without.forms] == [""]


@pytest.mark.parametrize("target", SHORTER)
def test_the_core_skips_forms_for_other_processors(target: str) -> None:
    need(native.core_module is not None, f"no core in C: {native.reason}")
    feature, name, *operands = SHORTER[target]
    codes = []
    for features in ((), (str(feature),)):
        asm = Assembler(Library.load(runtime.installed("ops", target), features))
        asm.function("main", frame=0)
        asm.op(str(name), *operands)
        asm.op("ret", cnp.r[0])
        assert asm.program.in_core() is not None
        emitted = encode.encode(asm.program, 0x10000000, 0x50000000, {})
        assert emitted.code == patch.encode(asm.program, 0x10000000, 0x50000000, {}).code
        codes.append(emitted.code)
    assert len(codes[0]) > len(codes[1])


@every_target
def test_every_feature_serves_some_operation(target: str) -> None:
    lib = Library.load(runtime.installed("ops", target))
    found = {form.feature for name in lib.operations for form in lib[name].forms}
    assert found - {""} == {feature.name for feature in targets.get(target).features}
