"""eBPF programs: the conformance suite, memory, fuel, helpers, calls, random programs; here and on all targets."""

from __future__ import annotations

import contextlib
import mmap
import random
from array import array
from pathlib import Path

import pytest
from cffi import FFI
from click.testing import CliRunner

from cnp import cli, targets
from cnp.ebpf import AccessError, Program, ProgramError, RunError, VerifyError, memory
from cnp.ebpf.command import HELPERS, THERE, UNWIND
from cnp.ebpf.here import Function
from cnp.ebpf.isa import Instruction, encode, text_of
from cnp.ebpf.there import Task, run_all
from cnp.errors import CnpError, OperandError
from tests.ebpf_model import Model, packet, random_program
from tests.ebpf_suite import cases
from tests.support import every_target, runnable

compiled_and_interpreted = pytest.mark.parametrize(
    "interpret", [False, True], ids=["compiled", "interpreted"]
)
checked_and_unchecked = pytest.mark.parametrize("unchecked", [False, True], ids=["checked", "unchecked"])
FOREIGN = [name for name in targets.TARGETS if name != targets.host_name()]
EXIT = encode(Instruction(0x95, 0, 0, 0, 0))


def code(*instructions: tuple[int, int, int, int, int]) -> bytes:
    """Bytecode of (opcode, dst, src, offset, imm), with an exit behind it."""
    return b"".join(encode(Instruction(*fields)) for fields in instructions) + EXIT


def made(program: Program, interpret: bool, unchecked: bool = False, depth: int = 8) -> Function:
    return program.interpret(unchecked, depth=depth) if interpret else program.compile(unchecked, depth=depth)


# ---- the conformance suite


@compiled_and_interpreted
@checked_and_unchecked
def test_conformance_here(interpret: bool, unchecked: bool) -> None:
    wrong = {}
    for case in cases():
        program = Program(case.program, helpers=HELPERS, unwind=UNWIND)
        found = made(program, interpret, unchecked)(bytearray(case.memory))
        if found != case.result:
            wrong[case.name] = f"{found:#x}, not {case.result:#x}"
    assert wrong == {}


@pytest.mark.parametrize("target", FOREIGN)
def test_conformance_there(target: str) -> None:
    """All tests in one start of the emulator; the helpers are those of the host program."""
    runnable(target)
    ways = []
    for case in cases():
        program = Program(case.program, helpers=HELPERS, unwind=UNWIND)
        for interpret in (False, True):
            for unchecked in (False, True):
                ways.append((case, Task(program, case.memory, interpret, unchecked, helpers=THERE)))
    ends = run_all([task for _, task in ways], target)
    wrong = {case.name: end for (case, _), end in zip(ways, ends, strict=True) if end_of(end) != case.result}
    assert {name: str(end) for name, end in wrong.items()} == {}


def end_of(end: tuple[int, bytes] | CnpError) -> object:
    return end if isinstance(end, CnpError) else end[0]


@pytest.mark.parametrize("mode", ["--jit", "--interpret"])
def test_conformance_by_the_plugin(mode: str) -> None:
    for case in cases()[::20]:
        text = " ".join(f"{byte:02x}" for byte in case.program)
        done = CliRunner().invoke(cli.cli, ["ebpf-plugin", case.memory.hex(), mode], input=text)
        assert (done.exit_code, int(done.output, 16)) == (0, case.result), case.name


# ---- random programs


def random_cases(seeds: range) -> list[tuple[Program, bytes, int, bytes]]:
    """Programs with their memory, and what the model makes of them."""
    found = []
    for seed in seeds:
        bytecode, given = random_program(seed)
        model = Model(bytecode, given)
        program = Program(bytecode, helpers=HELPERS, packet=packet, unwind=UNWIND)
        found.append((program, given, model.run(), bytes(model.memory)))
    return found


def check_here(seeds: range) -> None:
    for seed, (program, given, r0, after) in zip(seeds, random_cases(seeds), strict=True):
        for interpret in (False, True):
            area = bytearray(given)
            found = made(program, interpret, unchecked=seed % 2 == 1)(area)
            assert (found, bytes(area)) == (r0, after), (seed, interpret)


def check_there(target: str, seeds: range) -> None:
    tasks, wanted = [], []
    for number, (program, given, r0, after) in enumerate(random_cases(seeds)):
        for interpret in (False, True):
            task = Task(
                program, given, interpret, unchecked=number % 2 == 1, helpers=THERE, packet="cnp_test_packet"
            )
            tasks.append(task)
            wanted.append((r0, after))
    assert run_all(tasks, target) == wanted


def test_random_programs_here() -> None:
    check_here(range(500))


@pytest.mark.parametrize("target", FOREIGN)
def test_random_programs_there(target: str) -> None:
    runnable(target)
    for first in range(0, 500, 125):
        check_there(target, range(first, first + 125))


@pytest.mark.soak
@every_target
@pytest.mark.parametrize("part", range(20))
def test_many_random_programs(target: str, part: int) -> None:
    runnable(target)
    seeds = range(1000 + 500 * part, 1500 + 500 * part)
    if target == targets.host_name():
        check_here(seeds)
    else:
        for first in seeds[::100]:
            check_there(target, range(first, first + 100))


# ---- memory


LOAD = code((0x71, 0, 1, 3, 0))
STORE = code((0x72, 1, 0, 3, 77), (0xB7, 0, 0, 0, 5))


@compiled_and_interpreted
def test_kinds_of_memory(interpret: bool, tmp_path: Path) -> None:
    load, store = made(Program(LOAD), interpret), made(Program(STORE), interpret)
    (tmp_path / "file").write_bytes(b"abcdefgh")
    with (tmp_path / "file").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        for given in (
            bytearray(b"abcdefgh"),
            array("B", b"abcdefgh"),
            mapped,
            memoryview(bytearray(b"abcdefgh")),
        ):
            assert load(given) == ord("d")
            assert store(given) == 5
            assert given[3] == 77
    untouched = b"abcdefgh"
    assert (load(untouched), store(untouched), untouched) == (ord("d"), 5, b"abcdefgh")
    with pytest.raises(OperandError, match="a buffer in one piece"):
        load(memoryview(bytearray(b"abcdefgh"))[::2])
    with pytest.raises(OperandError, match="a buffer in one piece"):
        load(17)


OUTSIDE = [  # opcode, register of the address, offset, size of the access
    *((opcode, 1, offset, size) for opcode, size in ((0x71, 1), (0x69, 2), (0x61, 4), (0x79, 8)) for offset in (-1, 17 - size, 16, -32768)),
    (0x79, 3, 0, 8), (0x72, 1, 16, 1), (0x7A, 1, 9, 8), (0x7A, 10, 0, 8), (0x7A, 10, -513, 8), (0x61, 10, -2, 4), (0xC3, 1, 16, 4), (0xDB, 1, 4, 8),
]  # fmt: skip


@compiled_and_interpreted
@every_target
def test_leaving_the_memory(target: str, interpret: bool) -> None:
    runnable(target)
    programs, facts = [], []
    for opcode, base, offset, size in OUTSIDE:
        store = opcode & 7 in (2, 3)
        fields = (opcode, base if store else 0, 0 if store else base, offset, 0)
        programs.append(Program(code((0xB7, 4, 0, 0, 1), fields)))
        facts.append((1, text_of(Instruction(*fields)), size))
    ends = run_all([Task(program, bytes(16), interpret) for program in programs], target)
    for end, fact in zip(ends, facts, strict=True):
        assert isinstance(end, AccessError)
        assert (end.index, end.instruction, end.size) == fact


@compiled_and_interpreted
def test_the_error_has_the_address(interpret: bool) -> None:
    program = Program(code((0xB7, 3, 0, 0, 4096), (0x79, 0, 3, 8, 0)))
    with pytest.raises(
        AccessError, match=r"instruction 1: .*outside of its memory: 8 bytes at 0x1008"
    ) as caught:
        made(program, interpret)()
    assert (caught.value.address, caught.value.size, caught.value.index) == (0x1008, 8, 1)


@compiled_and_interpreted
def test_every_last_byte_can_be_reached(interpret: bool) -> None:
    for opcode, size in ((0x71, 1), (0x69, 2), (0x61, 4), (0x79, 8)):
        for length in range(size, 20):
            given = bytes(range(1, length + 1))
            found = made(Program(code((opcode, 0, 1, length - size, 0))), interpret)(given)
            assert found == int.from_bytes(given[-size:], "little")


def test_a_callee_uses_the_stack_of_its_caller_and_not_what_lies_between() -> None:
    """The caller's r10 - 8 goes to the callee, which writes there; 8 bytes above lies the header of its frame."""

    def program(distance: int) -> Program:
        main = [
            (0xBF, 1, 10, 0, 0),
            (0x07, 1, 0, 0, distance),
            (0x85, 0, 1, 0, 2),
            (0x79, 0, 10, -8, 0),
            (0x95, 0, 0, 0, 0),
        ]
        return Program(code(*main, (0x7A, 1, 0, 0, 99)))

    for make in (Program.compile, Program.interpret):
        assert make(program(-8))() == 99
        for distance in (0, -7, 8, 16, 24, -520, -513):
            with pytest.raises(AccessError) as caught:
                make(program(distance))()
            assert caught.value.index == 5


# ---- fuel, calls, helpers


@compiled_and_interpreted
def test_fuel(interpret: bool) -> None:
    rounds = code((0xB7, 0, 0, 0, 0), (0x07, 0, 0, 0, 1), (0xA5, 0, 0, -2, 10))
    function = made(Program(rounds), interpret)
    assert function(fuel=10) == 10
    with pytest.raises(RunError, match="instruction 2: if r0 < 10 goto -2: out of fuel"):
        function(fuel=9)
    with pytest.raises(RunError, match="out of fuel"):
        made(Program(code((0x05, 0, 0, -1, 0))), interpret)(fuel=100)
    with pytest.raises(OperandError, match="fuel needs code with polls"):
        made(Program(rounds), interpret, unchecked=True)(fuel=9)


@compiled_and_interpreted
@checked_and_unchecked
def test_recursion_ends_at_its_depth(interpret: bool, unchecked: bool) -> None:
    endless = Program(code((0x85, 0, 1, 0, -1)))
    with pytest.raises(RunError, match="instruction 0: call local -1: too many nested calls"):
        made(endless, interpret, unchecked)()
    down = Program(code((0x07, 0, 0, 0, 1), (0x35, 0, 0, 1, 20), (0x85, 0, 1, 0, -3)))
    assert made(down, interpret, unchecked, depth=20)() == 20
    with pytest.raises(RunError, match="too many nested calls"):
        made(down, interpret, unchecked, depth=19)()


@compiled_and_interpreted
@checked_and_unchecked
def test_helpers(interpret: bool, unchecked: bool) -> None:
    ffi = FFI()
    triple = ffi.callback(
        "uint64_t(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t)", lambda a, b, c, d, e: 3 * a
    )
    address = int(ffi.cast("uintptr_t", triple))
    helpers = {1: lambda a, b, c, d, e: a * 10000 + b * 1000 + c * 100 + d * 10 + e, 2: triple, 7: address}
    arguments = [(0xB7, n, 0, 0, n) for n in range(1, 6)]
    for number, wanted in ((1, 12345), (2, 3), (7, 3)):
        by_number = Program(code(*arguments, (0x85, 0, 0, 0, number)), helpers=helpers)
        by_register = Program(code(*arguments, (0xB7, 9, 0, 0, number), (0x8D, 9, 0, 0, 0)), helpers=helpers)
        assert made(by_number, interpret, unchecked)() == wanted
        assert made(by_register, interpret, unchecked)() == wanted
    missing = Program(code((0xB7, 9, 0, 0, 8), (0x8D, 9, 0, 0, 0)), helpers=helpers)
    with pytest.raises(RunError, match="instruction 1: callx r9: there is no such helper"):
        made(missing, interpret, unchecked)()


@compiled_and_interpreted
def test_helpers_raise_and_look(interpret: bool) -> None:
    def fail(*registers: int) -> int:
        raise LookupError("no")

    def first(a: int, b: int, c: int, d: int, e: int) -> int:
        memory().write(a, b"\x09")
        return memory().read(a, b)[1]

    with pytest.raises(LookupError, match="no"):
        made(Program(code((0x85, 0, 0, 0, 1)), helpers={1: fail}), interpret)()
    area = bytearray(b"\x01\x02")
    program = Program(code((0x85, 0, 0, 0, 1)), helpers={1: first})
    assert (made(program, interpret)(area), bytes(area)) == (2, b"\x09\x02")
    wild = Program(code((0xB7, 1, 0, 0, 4096), (0x85, 0, 0, 0, 1)), helpers={1: first})
    with pytest.raises(AccessError, match="a helper went outside"):
        made(wild, interpret)(area)


@compiled_and_interpreted
def test_packets(interpret: bool) -> None:
    packet = bytes(range(1, 17))

    def load(offset: int, size: int, context: int) -> int | None:
        part = packet[offset : offset + size]
        return int.from_bytes(part, "big") if len(part) == size else None

    for opcode, imm, wanted in ((0x20, 2, 0x03040506), (0x28, 0, 0x0102), (0x30, 15, 16), (0x20, 14, 0)):
        found = made(Program(code((opcode, 0, 0, 0, imm)), packet=load), interpret)()
        assert found == wanted
    indirect = Program(code((0xB7, 7, 0, 0, 3), (0x48, 0, 7, 0, 4)), packet=load)
    assert made(indirect, interpret)() == 0x0809


# ---- what is refused

REFUSED = [
    ("", 0, "the program is empty"),
    ("b700000000000000", 0, "the program runs off its end"),
    ("ff00000000000000" + EXIT.hex(), 0, "opcode 0xff is unknown"),
    ("b70b000000000000" + EXIT.hex(), 0, "dst is r11; there are r0 … r10"),
    ("b70a000000000000" + EXIT.hex(), 0, "r10 is the frame pointer, which is never written"),
    ("db0a000001000000" + EXIT.hex(), 0, None),
    ("dba0000001000000" + EXIT.hex(), 0, "r10 is the frame pointer, which is never written"),
    ("b710000000000000" + EXIT.hex(), 0, "src is reserved and must be 0, not 1"),
    ("bf10000001000000" + EXIT.hex(), 0, "imm is reserved and must be 0, not 1"),
    ("0500010000000000" + EXIT.hex(), 0, "it goes to 2, outside of the program"),
    ("0500feff00000000" + EXIT.hex(), 0, "it goes to -1, outside of the program"),
    ("05000100000000001800000000000000" + "00" * 8 + EXIT.hex(), 0, "it goes to 2, the second half of lddw"),
    ("1800000000000000", 0, "its second half is missing"),
    ("18000000000000000100000000000000" + EXIT.hex(), 0, "the second half of lddw has fields that must be 0"),
    ("8500000009000000" + EXIT.hex(), 0, "there is no helper 9; there are 1"),
    ("2000000000000000" + EXIT.hex(), 0, "legacy packet loads are off: give the program a packet"),
    ("dc00000011000000" + EXIT.hex(), 0, "opcode 0xdc has no variant with src 0, offset 0, imm 17"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "index", "rule"), REFUSED)
def test_the_verifier(text: str, index: int, rule: str | None) -> None:
    if rule is None:
        Program(bytes.fromhex(text))
        return
    with pytest.raises(VerifyError) as caught:
        Program(bytes.fromhex(text), helpers={1: 4096})
    error = caught.value
    assert (error.index, error.rule) == (index, rule)
    assert str(error).endswith(rule)


def test_bytecode_is_whole_instructions() -> None:
    with pytest.raises(ProgramError, match="no multiple of 8"):
        Program(bytes(9))


# ---- nothing crashes


def survives(bytecode: bytes) -> None:
    """A program is refused, or runs in both ways to an end with one of the errors that are documented."""
    try:
        program = Program(bytecode, helpers=HELPERS, unwind=UNWIND)
    except (VerifyError, ProgramError):
        return
    for function in (program.compile(), program.interpret()):
        with contextlib.suppress(RunError):
            assert 0 <= function(bytearray(64), fuel=1000) < 1 << 64


def random_bytes(seeds: range) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        if seed % 2:
            survives(bytes(rng.randrange(256) for _ in range(8 * rng.randrange(1, 12))))
            continue
        bytecode = bytearray(random_program(seed)[0])
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(bytecode))
            bytecode[at] = rng.randrange(256)
        survives(bytes(bytecode))


def test_random_bytes() -> None:
    random_bytes(range(1000))


@pytest.mark.soak
@pytest.mark.parametrize("part", range(20))
def test_many_random_bytes(part: int) -> None:
    random_bytes(range(10_000 + 5000 * part, 15_000 + 5000 * part))


# ---- the command line


def test_run_and_disasm(tmp_path: Path) -> None:
    (tmp_path / "load.bin").write_bytes(LOAD)
    (tmp_path / "memory").write_bytes(b"abcd")
    command = ["run", str(tmp_path / "load.bin"), "--mem", str(tmp_path / "memory")]
    for options in ([], ["--interpret"], ["--unchecked"]):
        done = CliRunner().invoke(cli.cli, [*command, *options])
        assert (done.exit_code, done.output) == (0, "0x64\n")
    done = CliRunner().invoke(cli.cli, ["disasm", str(tmp_path / "load.bin")])
    assert done.output.splitlines() == ["     0: r0 = *(u8 *)(r1 +3)", "     1: exit"]
    done = CliRunner().invoke(cli.cli, ["run", str(tmp_path / "load.bin")])
    assert done.exit_code == 1
    assert "instruction 0: r0 = *(u8 *)(r1 +3): outside of its memory: 1 bytes at 0x3" in done.output


@pytest.mark.parametrize("target", FOREIGN)
def test_run_elsewhere(target: str, tmp_path: Path) -> None:
    runnable(target)
    (tmp_path / "load.bin").write_bytes(LOAD)
    (tmp_path / "memory").write_bytes(b"abcd")
    command = ["run", str(tmp_path / "load.bin"), "--mem", str(tmp_path / "memory"), "--target", target]
    assert CliRunner().invoke(cli.cli, command).output == "0x64\n"
