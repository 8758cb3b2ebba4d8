"""The command line's eBPF: sections of objects, helpers, other targets, and both ways to write the plugin's bytes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from cnp.build import toolchain
from cnp.ebpf.command import HELPERS
from cnp.ebpf.isa import Instruction, encode
from tests.support import every_target, need, runnable

click_testing = pytest.importorskip("click.testing")

from cnp.cli import cli  # noqa: E402

SOURCE = """
typedef unsigned long long u64;
extern u64 helper_3(u64), helper_9(u64);
__attribute__((section("first"))) u64 count(const unsigned char *p, u64 n) { return n; }
__attribute__((section("root"))) u64 take_root(const unsigned char *p, u64 n) { return helper_3(p[0]); }
__attribute__((section("none"))) u64 ask(void) { return helper_9(1); }
"""
EXIT = encode(Instruction(0x95, 0, 0, 0, 0))
UNWOUND = encode(Instruction(0xB7, 1, 0, 0, 0)) + encode(Instruction(0x85, 0, 0, 0, 5)) + EXIT
#: r1 … r5 of gather_bytes are the first byte of memory and four numbers.
GATHERED = b"".join(
    encode(Instruction(*row))
    for row in ((0x71, 1, 1, 0, 0), *((0xB7, n, 0, 0, n) for n in range(2, 6)), (0x85, 0, 0, 0, 0))
) + EXIT  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an object and a memory of 200 bytes, the first of which is 81."""
    need(importlib.util.find_spec("ziglang") is not None, "objects are built by the ziglang wheel")
    folder = tmp_path_factory.mktemp("bpf")
    (folder / "a.c").write_text(SOURCE)
    flags = ("-target", "bpfel", "-O2", "-mcpu=v3", "-c")
    toolchain.find().compile(*flags, folder / "a.c", "-o", folder / "a.o")
    (folder / "memory").write_bytes(b"Q" * 200)
    return folder


def said(*command: str, given: str = "") -> str:
    """What a command that ends well prints."""
    done = click_testing.CliRunner().invoke(cli, list(command), input=given)
    assert done.exit_code == 0, done.output
    return str(done.stdout)


@every_target
def test_sections_are_run_with_helpers(target: str, files: Path) -> None:
    runnable(target)
    command = ("run", str(files / "a.o"), "--mem", str(files / "memory"), "--target", target)
    assert said(*command) == "0xc8\n"
    for options in ((), ("--interpret",), ("--unchecked",)):
        assert said(*command, "--section", "root", *options) == "0x9\n"


def test_what_cannot_be_run(files: Path) -> None:
    for section, message in (
        ("nowhere", "no such section with code; there are first, root, none"),
        ("none", f"there is no helper 9; there are {', '.join(map(str, HELPERS))}"),
    ):
        done = click_testing.CliRunner().invoke(cli, ["run", str(files / "a.o"), "--section", section])
        assert done.exit_code == 1
        assert message in done.output


def test_disasm_of_a_section(files: Path) -> None:
    lines = said("disasm", str(files / "a.o"), "--section", "root").splitlines()
    assert [lines[0], lines[-2].split(": ")[1], lines[-1].split(": ")[1]] == ["take_root:", "call 3", "exit"]
    assert said("disasm", str(files / "a.o")).startswith("count:\n")


@every_target
@pytest.mark.parametrize("mode", ["--jit", "--interpret"])
@pytest.mark.parametrize("blank", ["", " "], ids=["joined", "blanks"])
def test_the_plugin(target: str, mode: str, blank: str) -> None:
    """Memory first, or none; bytes with or without blanks between them; options in any place."""
    runnable(target)

    def text(data: bytes) -> str:
        return blank.join(f"{byte:02x}" for byte in data)

    options = (mode, "--target", target)
    assert said("ebpf-plugin", text(b"\x01\x05"), *options, given=text(GATHERED)) == "102030405\n"
    assert said("ebpf-plugin", *options, given=text(UNWOUND) + "\n") == "0\n"


def test_the_plugin_refuses_what_is_no_program() -> None:
    for given in ("95 0", "nonsense", "9500000000000000ff", "ff00000000000000"):
        done = click_testing.CliRunner().invoke(cli, ["ebpf-plugin"], input=given)
        assert (done.exit_code, done.stdout) == (1, "")
