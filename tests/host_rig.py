"""The rig of tests that run code in host programs: targets, test routines, a model of the test helper."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from cnp import host, targets
from cnp.host import HostImage, Segment

CLANG = [sys.executable, "-m", "ziglang", "clang"]
LLD = [sys.executable, "-m", "ziglang", "ld.lld"]
MASK = (1 << 64) - 1


@dataclass(frozen=True)
class HostTarget:
    """A target as the host module sees it, and the assembly that reads registers a call may change."""

    name: str
    triple: str
    cflags: tuple[str, ...]
    byteorder: str
    read_integer: str
    read_float: str
    read_entry: str = (
        ""  # reads the register that must hold the address of the called function, where there is one
    )

    @property
    def emulated(self) -> str:
        return targets.get(self.name).emulated

    @property
    def qemu(self) -> str:
        return self.name


MIPS = ("-mno-abicalls", "-G0", "-mllvm", "-mips-tail-calls=1")
MIPS_READS = ("move %0, $15", "dmfc1 %0, $f23", "move %0, $25")
TARGETS = {
    t.name: t
    for t in (
        HostTarget(
            "x86_64", "x86_64-linux-gnu", ("-mno-red-zone",), "little", "mov %%r10, %0", "movq %%xmm15, %0"
        ),
        HostTarget(
            "aarch64",
            "aarch64-linux-gnu",
            ("-ffixed-x18", "-mno-outline-atomics"),
            "little",
            "mov %0, x17",
            "fmov %0, d31",
        ),
        HostTarget(
            "riscv64",
            "riscv64-linux-gnu",
            ("-march=rv64gc", "-mcmodel=medany", "-mno-relax"),
            "little",
            "mv %0, t6",
            "fmv.x.d %0, ft11",
        ),
        HostTarget(
            "ppc64le", "powerpc64le-linux-gnu", (), "little", "mr %0, 11", "mfvsrd %0, 13", "mr %0, 12"
        ),
        HostTarget("mips64", "mips64-linux-gnuabi64", MIPS, "big", *MIPS_READS),
        HostTarget("mips64el", "mips64el-linux-gnuabi64", MIPS, "little", *MIPS_READS),
    )
}

LAST_PAGE = host.CODE_BASE + host.CODE_ROOM - host.PAGE

# Compiled for each target and linked at the bases of code. Helpers come in as addresses.
SOURCE = """
typedef __INT64_TYPE__ i64; typedef __UINT64_TYPE__ u64;
typedef __INT32_TYPE__ i32; typedef __UINT32_TYPE__ u32;
struct record { i64 a; double d; i64 f; i32 b; u32 c; float e; u32 unused; };
typedef i64 mix_helper(i64, i32, u32, double, float, i64);

u64 weigh(u64 a, u64 b, u64 c, u64 d) { return a + 3 * b + 5 * c + 7 * d; }
u64 load(const u64 *p) { return *p; }
u64 count(u64 *p, u64 step) { return *p += step; }
u64 store(u64 *p, u64 value) { *p = value; return 0; }
u64 mix(mix_helper *helper, const struct record *r) { return helper(r->a, r->b, r->c, r->d, r->e, r->f); }
u64 recurse(i64 (*helper)(i64), u64 n, u64 (*self)(void *, u64, void *)) {
    return n ? 2 * self(helper, n - 1, self) + helper(n) : 0;
}
u64 echo(i64 (*get)(void), i64 (*put)(i64), i64 (*flush)(void)) {
    i64 byte; u64 n = 0;
    while ((byte = get()) >= 0) n += put(byte) == byte;
    return n | (u64)flush() << 32;
}
u64 polls(u64 (*poll)(void *), i64 *context) {
    u64 n = 0;
    for (; --context[3] >= 0 || !poll(context); n++);
    return n;
}
u64 loop(void) { for (;;) __asm__ volatile(""); }
u64 junk_integer(i64 (*helper)(i64)) { u64 x; helper(1); __asm__ volatile(READ_INTEGER : "=r"(x)); return x; }
u64 junk_float(i64 (*helper)(i64)) { u64 x; helper(1); __asm__ volatile(READ_FLOAT : "=r"(x)); return x; }
u64 entry(void) { u64 x; __asm__ volatile(READ_ENTRY : "=r"(x)); return x; }
"""
RECORD = "qdqiIf4x"


@dataclass(frozen=True)
class Rig:
    """A target with its host program, the helpers' addresses and the test routines, ready to run."""

    target: HostTarget
    program: Path
    helpers: dict[str, int]
    code: dict[
        int, tuple[bytes, dict[str, int]]
    ]  # base -> bytes linked there, addresses of the test routines

    @property
    def order(self) -> str:
        return {"little": "<", "big": ">"}[self.target.byteorder]

    def pack(self, layout: str, *values: float) -> bytes:
        return struct.pack(self.order + layout, *values)

    def at(self, name: str, base: int = host.CODE_BASE) -> int:
        return self.code[base][1][name]

    def text(self, base: int = host.CODE_BASE) -> Segment:
        return Segment(base, self.code[base][0], "rx")

    def run(self, image: HostImage, stdin: bytes = b"", timeout: float = 60.0) -> host.Report:
        return host.run(self.target, image, stdin, timeout, self.program)

    def start(
        self, image: bytes, folder: Path, stdout: int | io.FileIO
    ) -> subprocess.CompletedProcess[bytes]:
        """The host program itself, on an image that host.run would not write."""
        (folder / "image").write_bytes(image)
        prefix = host.emulator(self.target)
        assert prefix is not None
        command = [*prefix, str(self.program), "image", "report"]
        return subprocess.run(
            command, stdout=stdout, stderr=subprocess.PIPE, cwd=folder, timeout=60, check=False
        )


def compile_routines(target: HostTarget, folder: Path) -> dict[int, tuple[bytes, dict[str, int]]]:
    """SOURCE linked for each base: its bytes, and the address of each function."""
    reads = {"INTEGER": target.read_integer, "FLOAT": target.read_float, "ENTRY": target.read_entry}
    head = "".join(f'#define READ_{name} "{text}"\n' for name, text in reads.items())
    (folder / "routines.c").write_text(head + SOURCE)
    flags = [f"--target={target.triple}", *target.cflags, "-O1", "-ffreestanding", "-fno-builtin", "-fno-pic"]
    flags += [
        "-fno-stack-protector",
        "-fno-asynchronous-unwind-tables",
        "-fno-unwind-tables",
        "-fno-jump-tables",
    ]
    built = folder / "routines.o"
    subprocess.run([*CLANG, *flags, "-c", str(folder / "routines.c"), "-o", str(built)], check=True)
    return {base: link_routines(built, base) for base in (host.CODE_BASE, LAST_PAGE, host.FAR_CODE_BASE)}


def link_routines(built: Path, base: int) -> tuple[bytes, dict[str, int]]:
    """The text of an object at `base`, and the addresses of its functions."""
    linked = built.with_name(f"{base:x}")
    subprocess.run([*LLD, f"-Ttext={base:#x}", "-e", "weigh", str(built), "-o", str(linked)], check=True)
    elf = ELFFile(io.BytesIO(linked.read_bytes()))
    text, table = elf.get_section_by_name(".text"), elf.get_section_by_name(".symtab")
    assert text is not None
    assert isinstance(table, SymbolTableSection)
    assert text["sh_addr"] == base
    functions = [symbol for symbol in table.iter_symbols() if symbol["st_info"]["type"] == "STT_FUNC"]
    return text.data(), {str(symbol.name): int(symbol["st_value"]) for symbol in functions}


def build(target: HostTarget, out: Path) -> Path:
    return host.build_host(target.name, target.triple, target.cflags, CLANG, LLD, out)


def mix_model(a: int, b: int, c: int, d: float, e: float, f: int) -> int:
    """What cnp_test_mix gives: b sign-extended, c zero-extended, d and e by their bits."""
    bits_of_d = int.from_bytes(struct.pack("<d", d), "little")
    bits_of_e = int.from_bytes(struct.pack("<f", e), "little")
    h = a
    for word in (b, c, bits_of_d, bits_of_e, f):
        h = h * 0x9E3779B97F4A7C15 + word
    return h & MASK
