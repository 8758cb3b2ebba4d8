"""The host programs of all targets: mapping, calls, dumps, helpers, streams, and what failures say."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import json
import platform
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from cnp import host
from cnp.ebpf.command import THERE
from cnp.errors import HostError, OperandError, ToolError
from cnp.host import Call, HostImage, Segment
from tests.host_rig import (
    CLANG,
    LAST_PAGE,
    LLD,
    MASK,
    RECORD,
    TARGETS,
    Rig,
    build,
    compile_routines,
    mix_model,
)
from tests.support import need

EFAULT, ENOSPC = 14, 28  # the same number on all targets


@pytest.fixture(scope="module", params=TARGETS)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    target = TARGETS[request.param]
    need(importlib.util.find_spec("ziglang") is not None, "host programs are built by the ziglang wheel")
    need(host.emulator(target) is not None, f"qemu-{target.qemu} runs the code of this target")
    folder = tmp_path_factory.mktemp(target.name)
    program = build(target, folder)
    return Rig(target, program, host.symbols(target, program), compile_routines(target, folder))


# ---- What the host program does ----------------------------------------------------------------------------


@pytest.mark.parametrize("base", [host.CODE_BASE, host.FAR_CODE_BASE], ids=["near", "far"])
def test_ten_thousand_calls_give_their_results_in_order(rig: Rig, base: int) -> None:
    calls = [Call(rig.at("weigh", base), (i, -i, i * i << 32, MASK)) for i in range(10_000)]
    report = rig.run(HostImage([rig.text(base)], calls))
    assert report.values == [(i - 3 * i + 5 * (i * i << 32) - 7) & MASK for i in range(10_000)]


@pytest.mark.parametrize("base", [host.DATA_BASE, host.FAR_DATA_BASE], ids=["near", "far"])
def test_data_is_in_the_byte_order_of_the_target_and_is_dumped_after_the_calls(rig: Rig, base: int) -> None:
    data = Segment(base, rig.pack("QQ", 0x0102030405060708, 40), "rw", size=3 * host.PAGE)
    calls = [
        Call(rig.at("load"), (base,)),
        Call(rig.at("count"), (base + 8, 1)),
        Call(rig.at("count"), (base + 8, 1)),
    ]
    dumps = [(base + 8, 8), (base + 3 * host.PAGE - 1, 1), (base, 4)]
    report = rig.run(HostImage([rig.text(), data], calls, dumps))
    assert report.values == [0x0102030405060708, 41, 42]
    assert report.dumps == [rig.pack("Q", 42), b"\0", rig.pack("Q", 0x0102030405060708)[:4]]


def test_missing_arguments_are_zero_and_the_entry_register_holds_the_routine(rig: Rig) -> None:
    calls = [Call(rig.at("weigh"), (9,))]
    if rig.target.read_entry:
        calls.append(Call(rig.at("entry")))
    assert rig.run(HostImage([rig.text()], calls)).values == [9, rig.at("entry")][: len(calls)]


def test_a_large_code_segment_fills_its_room(rig: Rig) -> None:
    below = Segment(host.CODE_BASE, b"\0", "rx", host.CODE_ROOM - host.PAGE)
    call = Call(rig.at("weigh", LAST_PAGE), (1, 1, 1, 1))
    assert rig.run(HostImage([below, rig.text(LAST_PAGE)], [call])).values == [16]


# What flush_code is made of: instruction words, each with the mask of its register fields; none on x86_64.
LI_FLUSH_ICACHE = (0x10300893, 0)  # li a7, 259 (riscv_flush_icache)
LI_CACHEFLUSH = (0x6402144D, 0)  # daddiu $2, $0, 5197 (cacheflush)
FLUSHES = {
    "x86_64": [],
    "aarch64": [(0xD50B7B20, 0x1F), (0xD50B7520, 0x1F), (0xD5033FDF, 0)],  # dc cvau, ic ivau, isb
    "riscv64": [LI_FLUSH_ICACHE],
    "ppc64le": [(0x7C00006C, 0x1F << 11), (0x7C0007AC, 0x1F << 11), (0x4C00012C, 0)],  # dcbst, icbi, isync
    "mips64": [LI_CACHEFLUSH],
    "mips64el": [LI_CACHEFLUSH],
}


def test_the_program_knows_how_to_flush_the_instruction_cache(rig: Rig) -> None:
    """An emulator runs fresh code without a flush, so that no run can miss it."""
    text = ELFFile(io.BytesIO(rig.program.read_bytes())).get_section_by_name(".text")
    assert text is not None
    data = text.data()
    words = {struct.unpack_from(rig.order + "I", data, at)[0] for at in range(0, len(data) - 3, 2)}
    for instruction, registers in FLUSHES[rig.target.name]:
        assert any(word & ~registers == instruction for word in words), hex(instruction)


@pytest.mark.parametrize("name", ["mips64", "mips64el"])
def test_code_is_flushed_before_it_may_run(name: str, tmp_path: Path) -> None:
    """Here the flush is a system call that the emulator can list; its place is the same on all targets."""
    target = TARGETS[name]
    prefix = host.emulator(target)
    need(importlib.util.find_spec("ziglang") is not None, "host programs are built by the ziglang wheel")
    need(bool(prefix), f"qemu-{target.qemu} lists system calls")
    program = build(target, tmp_path)
    segments = [Segment(host.CODE_BASE, bytes(20), "rx", 8192), Segment(host.DATA_BASE, bytes(8), "rw", 4096)]
    (tmp_path / "image").write_bytes(HostImage(segments).pack(target.byteorder))
    command = [*(prefix or []), "-strace", str(program), "image", "report"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    calls = [line.split(" ", 1)[1] for line in done.stderr.splitlines()]
    first = next(
        i
        for i, call in enumerate(calls)
        if call.startswith(f"mmap(0x{host.CODE_BASE:016x},8192,PROT_READ|PROT_WRITE,")
    )
    assert calls[first + 1] == f"cacheflush({host.CODE_BASE},20,3,0,0,0) = 0"
    assert calls[first + 2] == f"mprotect(0x{host.CODE_BASE:016x},8192,PROT_EXEC|PROT_READ) = 0"
    assert calls[first + 4] == f"mprotect(0x{host.DATA_BASE:016x},4096,PROT_READ|PROT_WRITE) = 0"
    assert sum(call.startswith("cacheflush") for call in calls) == 1


# ---- Helpers -----------------------------------------------------------------------------------------------


def test_mix_takes_every_type_of_a_signature(rig: Rig) -> None:
    draw = random.Random(2)
    edges: list[tuple[int, int, int, float, float, int]] = [
        (0, 0, 0, 0.0, 0.0, 0),
        (-1, -1, 0xFFFFFFFF, -0.0, -0.0, -1),
        (1 << 62, -(1 << 31), 1 << 31, float("inf"), float("-inf"), -(1 << 63)),
        (-(1 << 63), (1 << 31) - 1, (1 << 31) - 1, 5e-324, 2.0**-149, (1 << 63) - 1),
    ]
    for _ in range(500):
        single = struct.unpack("<f", struct.pack("<f", draw.uniform(-1e30, 1e30)))[0]
        a, f = draw.getrandbits(64) - (1 << 63), draw.getrandbits(64) - (1 << 63)
        edges.append(
            (a, draw.getrandbits(32) - (1 << 31), draw.getrandbits(32), draw.gauss(0, 1e99), single, f)
        )
    records = b"".join(rig.pack(RECORD, a, d, f, b, c, e) for a, b, c, d, e, f in edges)
    size = struct.calcsize("<" + RECORD)
    helper = rig.helpers["cnp_test_mix"]
    calls = [Call(rig.at("mix"), (helper, host.DATA_BASE + size * i)) for i in range(len(edges))]
    report = rig.run(HostImage([rig.text(), Segment(host.DATA_BASE, records, "r")], calls))
    assert report.values == [mix_model(*edge) for edge in edges]


def test_a_helper_leaves_junk_in_the_registers_it_may_change(rig: Rig) -> None:
    helper = rig.helpers["cnp_test_clobber"]
    calls = [Call(rig.at(name), (helper,)) for name in ("junk_integer", "junk_float")]
    integer, floating = rig.run(HostImage([rig.text()], calls)).values
    assert integer in {-0x5556 & MASK, -0x55555556 & MASK}
    assert floating in {MASK, integer}


@pytest.mark.parametrize("base", [host.CODE_BASE, host.FAR_CODE_BASE], ids=["near", "far"])
def test_a_recursive_caller_of_a_helper_keeps_its_own_values(rig: Rig, base: int) -> None:
    routine = rig.at("recurse", base)
    report = rig.run(
        HostImage([rig.text(base)], [Call(routine, (rig.helpers["cnp_test_clobber"], 50, routine))])
    )
    expected = 0
    for n in range(1, 51):
        expected = 2 * expected + n + 1
    assert report.values == [expected]


def test_streams_pass_through(rig: Rig) -> None:
    data = random.Random(1).randbytes(200_003)  # more than three buffers, with a rest
    names = ("cnp_host_getc", "cnp_host_putc", "cnp_host_flush")
    echo = Call(rig.at("echo"), [rig.helpers[name] for name in names])
    report = rig.run(HostImage([rig.text()], [echo, Call(rig.helpers["cnp_host_getc"])]), stdin=data)
    assert report.stdout == data
    assert report.values == [len(data), MASK]
    assert report.stderr == b""


def test_write_takes_any_length_and_is_flushed_at_the_end(rig: Rig) -> None:
    data = random.Random(3).randbytes(150_001)
    write, putc = rig.helpers["cnp_host_write"], rig.helpers["cnp_host_putc"]
    sizes = [0, 1, 65_536, 150_000]
    calls = [Call(putc, (0x141,)), *(Call(write, (host.DATA_BASE + 1, size)) for size in sizes)]
    report = rig.run(HostImage([Segment(host.DATA_BASE, data, "r")], calls))
    assert report.values == [0x41, *sizes]
    assert report.stdout == b"A" + b"".join(data[1 : 1 + size] for size in sizes)


@pytest.mark.parametrize(
    ("budget", "result", "fuel", "left", "quantum"),
    [
        (0, 6, 0, 0, 7),
        (-1, 0, 65_535, -1, 65_536),
        (1, 0, 0, 0, 65_536),
        (65_536, 0, 65_535, 0, 65_536),
        (65_537, 0, 65_535, 1, 65_536),
        ((1 << 63) - 1, 0, 65_535, (1 << 63) - 1 - 65_536, 65_536),
    ],
)
def test_poll_refills_fuel_from_the_budget(
    rig: Rig, budget: int, result: int, fuel: int, left: int, quantum: int
) -> None:
    context = rig.pack("QQQqQqqQQQQQ", 1, 2, 3, -1, 4, budget, 7, 8, 9, 10, 11, 12)
    call = Call(rig.helpers["cnp_poll"], (host.DATA_BASE,))
    report = rig.run(
        HostImage([Segment(host.DATA_BASE, context, "rw")], [call], [(host.DATA_BASE, len(context))])
    )
    assert report.values == [result]
    assert report.dumps == [rig.pack("QQQqQqqQQQQQ", 1, 2, 3, fuel, 4, left, quantum, 8, 9, 10, 11, 12)]


@pytest.mark.parametrize(("fuel", "budget"), [(0, 0), (5, 0), (0, 1), (7, 65_537), (65_536, 300_000)])
def test_a_run_makes_as_many_polls_as_fuel_and_budget_say(rig: Rig, fuel: int, budget: int) -> None:
    context = rig.pack("12q", 0, 0, 0, fuel, 0, budget, 0, 0, 0, 0, 0, 0)
    call = Call(rig.at("polls"), (rig.helpers["cnp_poll"], host.DATA_BASE))
    report = rig.run(HostImage([rig.text(), Segment(host.DATA_BASE, context, "rw")], [call]))
    assert report.values == [fuel + budget]


def test_memory_functions_do_as_those_of_a_c_library(rig: Rig) -> None:
    data, base = bytes(range(64)), host.DATA_BASE
    expected = bytearray(data)
    expected[0:8] = expected[32:40]
    expected[11:21] = expected[10:20]
    expected[39:49] = expected[40:50]
    expected[60:63] = b"\xab" * 3
    calls = [
        Call(rig.helpers["memcpy"], (base, base + 32, 8)),
        Call(rig.helpers["memmove"], (base + 11, base + 10, 10)),
        Call(rig.helpers["memmove"], (base + 39, base + 40, 10)),
        Call(rig.helpers["memset"], (base + 60, 0x1AB, 3)),
    ]
    report = rig.run(HostImage([Segment(base, data, "rw")], calls, [(base, 64)]))
    assert report.values == [base, base + 11, base + 39, base + 60]
    assert report.dumps == [bytes(expected)]


# ---- Failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (0, "the first page stays unmapped: 0x0"),
        (host.DATA_BASE + 8, "not on a page boundary: 0x30000008"),
        (host.HOST_BASE, "mmap"),
        (host.CODE_BASE, "mmap"),
    ],
    ids=["zero", "unaligned", "host", "overlap"],
)
def test_an_address_that_cannot_be_mapped(rig: Rig, address: int, text: str) -> None:
    with pytest.raises(
        HostError, match=f"^{rig.target.name}: the host program gave up: cnp host: segment 1: "
    ) as caught:
        rig.run(HostImage([rig.text(), Segment(address, b"x", "rw")]))
    assert text in caught.value.output
    assert (caught.value.target, caught.value.status) == (rig.target.name, 125)


@pytest.mark.parametrize(
    ("routine", "address", "protection"),
    [
        ("store", host.CODE_BASE, "rx"),
        ("store", host.DATA_BASE, "r"),
        ("load", host.DATA_BASE + (1 << 20), "r"),
    ],
    ids=["code", "read-only", "nothing"],
)
def test_a_crash_of_the_code_is_an_error_with_its_signal(
    rig: Rig, routine: str, address: int, protection: str
) -> None:
    image = HostImage([rig.text(), Segment(host.DATA_BASE, b"x", "r")], [Call(rig.at(routine), (address, 1))])
    with pytest.raises(HostError, match=f"^{rig.target.name}: the code died of SIGSEGV") as caught:
        rig.run(image)
    assert caught.value.status == -11


def test_data_cannot_be_executed(rig: Rig) -> None:
    code, routines = rig.code[host.CODE_BASE]
    with pytest.raises(HostError, match="died of SIG"):
        rig.run(HostImage([Segment(host.CODE_BASE, code, "rw")], [Call(routines["weigh"])]))


def test_an_endless_loop_ends_at_the_timeout(rig: Rig) -> None:
    with pytest.raises(HostError, match=r"no end after 0\.5 s") as caught:
        rig.run(HostImage([rig.text()], [Call(rig.at("loop"))]), timeout=0.5)
    assert caught.value.status is None


def test_a_dump_of_what_is_not_mapped(rig: Rig) -> None:
    segment = Segment(host.DATA_BASE, b"x", "rw")
    with pytest.raises(HostError, match=f"dump 1: cannot be read at 0x30001000: errno {EFAULT}"):
        rig.run(HostImage([segment], dumps=[(host.DATA_BASE, 8), (host.DATA_BASE + host.PAGE, 8)]))


def test_output_that_cannot_be_written_is_not_lost_in_silence(rig: Rig, tmp_path: Path) -> None:
    need(Path("/dev/full").exists(), "/dev/full refuses every write")
    data = Segment(host.DATA_BASE, bytes(70_000), "r")
    calls = [
        Call(rig.helpers["cnp_host_write"], (host.DATA_BASE, 70_000)),
        Call(rig.helpers["cnp_host_flush"]),
    ]
    with open("/dev/full", "wb", buffering=0) as full:
        done = rig.start(HostImage([data], calls).pack(rig.target.byteorder), tmp_path, full)
    assert done.returncode == 125
    assert done.stderr == f"cnp host: write of stdout: errno {ENOSPC}\n".encode()


@pytest.mark.parametrize(
    ("word", "value", "text"),
    [
        (0, 0, "no image of this format and byte order"),
        (1, 1 << 40, "not as long as its header says"),
        (2, 1 << 62, "a count is too large"),
        (4, 6, "the tables are longer than the image"),
        (6, 8, "its bytes lie outside of the image"),
        (7, 7, "writable and executable at once"),
        (7, 9, "unknown protection"),
        (8, 1 << 63, "its bytes lie outside of the image"),
        (9, 4097, "its bytes lie outside of the image"),
    ],
)
def test_a_damaged_image_is_refused(rig: Rig, tmp_path: Path, word: int, value: int, text: str) -> None:
    image = bytearray(HostImage([Segment(host.DATA_BASE, b"x" * 16, "rw")]).pack(rig.target.byteorder))
    image[8 * word : 8 * word + 8] = rig.pack("Q", value)
    done = rig.start(bytes(image), tmp_path, subprocess.DEVNULL)
    assert done.returncode == 125
    assert text in done.stderr.decode()


def test_a_short_image_and_one_of_the_other_byte_order_are_refused(rig: Rig, tmp_path: Path) -> None:
    other = {"little": "big", "big": "little"}[rig.target.byteorder]
    assert b"cut short" in rig.start(b"cnpimg01", tmp_path, subprocess.DEVNULL).stderr
    assert b"byte order" in rig.start(HostImage([]).pack(other), tmp_path, subprocess.DEVNULL).stderr


# ---- The program and what belongs to it --------------------------------------------------------------------


def test_the_program_is_small_fixed_and_reproducible(rig: Rig, tmp_path: Path) -> None:
    again = build(rig.target, tmp_path / "elsewhere")
    assert again.read_bytes() == rig.program.read_bytes()
    assert (
        again.with_name(again.name + ".json").read_bytes()
        == rig.program.with_name(again.name + ".json").read_bytes()
    )
    assert sorted(path.name for path in again.parent.iterdir()) == [
        rig.target.name,
        f"{rig.target.name}.json",
    ]
    assert again.stat().st_size < 12_000
    with again.open("rb") as file:
        elf = ELFFile(file)
        loads = [s for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
        assert elf["e_type"] == "ET_EXEC"
        assert not elf.get_section_by_name(".interp")
        assert all(s["p_flags"] & 3 != 3 for s in loads)  # execute and write never together
        ends = [s["p_vaddr"] + s["p_memsz"] for s in loads]
    assert min(s["p_vaddr"] for s in loads) >= host.HOST_BASE
    assert max(ends) < host.CODE_BASE - (8 << 20)


def test_the_source_compiles_without_a_warning(rig: Rig) -> None:
    flags = [
        f"--target={rig.target.triple}",
        *rig.target.cflags,
        "-std=gnu11",
        "-ffreestanding",
        "-Wall",
        "-Wextra",
    ]
    source = Path(host.__file__).parent / "host" / "host.c"
    done = subprocess.run(
        [*CLANG, *flags, "-O2", "-c", str(source), "-o", "/dev/null"], capture_output=True, check=True
    )
    assert done.stderr == b""


def test_the_symbols_are_the_helpers(rig: Rig) -> None:
    io_helpers = {f"cnp_host_{name}" for name in ("write", "getc", "putc", "flush")}
    test_helpers = {"cnp_test_mix", "cnp_test_clobber", "cnp_test_packet"}
    for_ebpf = set(THERE.values())
    others = {"cnp_poll", "memcpy", "memmove", "memset"}
    assert set(rig.helpers) == io_helpers | test_helpers | for_ebpf | others
    assert all(host.HOST_BASE < address < host.CODE_BASE for address in rig.helpers.values())


def test_symbols_of_another_program_are_refused(rig: Rig, tmp_path: Path) -> None:
    program = tmp_path / rig.target.name
    shutil.copy(rig.program, program)
    with pytest.raises(ToolError, match=f"cannot be read.*run: .* --target {rig.target.name}"):
        host.symbols(rig.target, program)
    facts = json.loads((rig.program.with_name(program.name + ".json")).read_text())
    program.with_name(program.name + ".json").write_text(json.dumps(facts | {"sha256": "0" * 64}))
    with pytest.raises(ToolError, match="belongs to another program"):
        host.symbols(rig.target, program)


# ---- The Python side, without a target ---------------------------------------------------------------------


@pytest.mark.parametrize(("byteorder", "order"), [("little", "<"), ("big", ">")])
def test_the_layout_of_an_image(byteorder: str, order: str) -> None:
    image = HostImage([Segment(0x1000, b"abc", "rx", 99)], [Call(5, (-1, 2))], [(7, 8)])
    data = image.pack(byteorder)
    words = struct.unpack_from(f"{order}17Q", data)
    assert words == (
        *(int.from_bytes(b"cnpimg01", "big"), 147, 1, 1, 1),
        *(0x1000, 99, 5, 144, 3),
        *(5, MASK, 2, 0, 0),
        *(7, 8),
    )
    assert data[136:] == bytes(8) + b"abc"


@pytest.mark.parametrize(
    ("image", "operand"),
    [
        (HostImage([Segment(0, b"x", "rwx")]), "protection"),
        (HostImage([Segment(0, b"", "rx")]), "segment"),
        (HostImage([Segment(0, b"xy", "rx", 1)]), "segment"),
        (HostImage([Segment((1 << 64) - 4, b"x", "rw", 5)]), "segment"),
        (HostImage([Segment(-4096, b"x", "rw")]), "segment"),
        (HostImage([], [Call(0, (0, 0, 0, 0, 0))]), "call"),
        (HostImage([], [Call(0, (1 << 64,))]), "call"),
        (HostImage([], [Call(0, (-(1 << 63) - 1,))]), "call"),
        (HostImage([], [], [(MASK, 2)]), "dump"),
        (HostImage([], [], [(0, -1)]), "dump"),
    ],
)
def test_what_cannot_be_packed(image: HostImage, operand: str) -> None:
    with pytest.raises(OperandError) as caught:
        image.pack("little")
    assert caught.value.operand == operand


def test_an_unknown_byte_order_is_refused() -> None:
    with pytest.raises(OperandError, match="byte order 'middle'"):
        HostImage([]).pack("middle")


def test_the_emulator_is_found_or_its_absence_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = TARGETS["riscv64"]

    def only(name: str) -> Callable[[str], str | None]:
        return {name: f"/opt/{name}"}.get

    monkeypatch.setattr(platform, "machine", lambda: "another")
    monkeypatch.setattr(shutil, "which", only("qemu-riscv64"))
    processor = ["-cpu", target.emulated]
    assert host.emulator(target) == ["/opt/qemu-riscv64", *processor]
    monkeypatch.setattr(shutil, "which", only("qemu-riscv64-static"))
    assert host.emulator(target) == ["/opt/qemu-riscv64-static", *processor]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert host.emulator(target) is None
    program = tmp_path / "riscv64"
    program.touch(mode=0o755)
    with pytest.raises(ToolError, match="install qemu-riscv64 ") as caught:
        host.run(target, HostImage([]), program=program)
    assert caught.value.tool == "qemu-riscv64"
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert host.emulator(target) == ([] if sys.platform == "linux" and sys.byteorder == "little" else None)


def test_a_missing_program_tells_the_command_that_builds_it(tmp_path: Path) -> None:
    unknown = dataclasses.replace(TARGETS["riscv64"], name="no_such_target")
    with pytest.raises(ToolError, match=r"run: python build_stencils\.py --target no_such_target"):
        host.host_program(unknown)
    plain = tmp_path / "program"
    plain.touch(mode=0o644)
    with pytest.raises(ToolError, match="not executable"):
        host.run(TARGETS["riscv64"], HostImage([]), program=plain)


def test_a_failing_tool_is_named_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="cannot start /no/such/clang"):
        host.build_host("t", "t", [], ["/no/such/clang"], LLD, tmp_path)
    talk = [sys.executable, "-c", "import sys; sys.exit('no such flag')"]
    with pytest.raises(ToolError, match=r"t: host\.c was not built: no such flag") as caught:
        host.build_host("t", "t", [], talk, LLD, tmp_path)
    assert caught.value.output == "no such flag"
    assert list(tmp_path.iterdir()) == []
