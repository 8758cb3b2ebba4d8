"""Generated code for the tests of cnp.native: C compiled to one flat text without relocations.

An `enter` routine and bodies that keep to the contract of frame and context drawn in cnp/_core.c.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnp import native

HEADER = 48  # 32 bytes and a state of two words
STATE = struct.pack("=QQ", 0x1122334455667788, 42)
NO_LIMIT = -1

SOURCE = r"""
typedef unsigned long long u64; typedef long long i64; typedef unsigned u32;
struct word { u64 value, abnormal; };
struct context { u64 kind; char *frame; u64 value; i64 fuel; u64 raised; i64 budget; u64 rest[6]; };
#define CONTEXT(frame) (*(struct context **)((frame) - 8))
#define SLOT(n) (((u64 *)frame)[n])
#define BODY(name) struct word name(char *frame)
#define RETURN(x) return (struct word){(u64)(x), 0}
#define TRAP(code, op) do { \
        struct context *c = CONTEXT(frame); c->kind = 2; c->frame = frame; \
        *(u32 *)(frame - 20) = (code); *(u32 *)(frame - 24) = (op); return (struct word){0, 1}; } while (0)

void enter(char *frame, void *code) {
    struct word w = ((struct word (*)(char *))code)(frame);
    if (!w.abnormal) { CONTEXT(frame)->kind = 0; CONTEXT(frame)->value = w.value; }
}
BODY(first) { RETURN(SLOT(0)); }
BODY(add) { RETURN(SLOT(0) + SLOT(1)); }
BODY(third) { RETURN(SLOT(2)); }
BODY(depth) { RETURN(*(u32 *)(frame - 16)); }
BODY(outer) { RETURN(*(u32 *)(frame - 12)); }
BODY(inner) { RETURN(*(u64 *)(frame - 32)); }
BODY(state) { RETURN(((u64 *)(frame - 48))[SLOT(0)]); }
BODY(where) { RETURN(frame); }
BODY(fail) { TRAP((u32)SLOT(0), 17); }
BODY(fill) { volatile char *at = frame; for (u64 n = SLOT(0); n > 8; n--) at[n - 1] = 1; RETURN(0); }
/* slot 0: a helper i64(i64, double); slots 1, 2: its arguments */
BODY(help) {
    double d; __builtin_memcpy(&d, &SLOT(2), 8);
    u64 n = SLOT(1);
    u64 result = ((i64 (*)(i64, double))SLOT(0))(n, d);
    u32 code = CONTEXT(frame)->raised;
    if (SLOT(1) != n) TRAP(64, 5); /* somebody else wrote into this frame */
    if (code) { CONTEXT(frame)->raised = 0; TRAP(code, 5); }
    RETURN(result);
}
/* slot 0: cnp_poll; slot 1: turns of an empty loop in each iteration; slot 2: address of a word that
   ends it; slot 3 counts the polls that passed */
BODY(spin) {
    for (SLOT(3) = 0; !SLOT(2) || !*(volatile u64 *)SLOT(2); SLOT(3)++) {
        struct context *c = CONTEXT(frame);
        for (u64 n = SLOT(1); n; n--) __asm__ volatile("");
        if (--c->fuel < 0) { u64 code = ((u64 (*)(void *))SLOT(0))(c); if (code) TRAP((u32)code, 9); }
    }
    RETURN(SLOT(3));
}
"""


class Image:
    """The text of SOURCE, mapped executable."""

    def __init__(self, text: bytes, symbols: dict[str, int]) -> None:
        self._map = mmap.mmap(-1, len(text), prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self._map.write(text)
        libc = ctypes.CDLL(None, use_errno=True)
        base = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        assert libc.mprotect(base, len(text), mmap.PROT_READ | mmap.PROT_EXEC) == 0, ctypes.get_errno()
        native.flush(base, len(text))
        self.at = {name: base + offset for name, offset in symbols.items()}

    def callable(self, body: str, signature: str, **options: Any) -> Callable[..., Any]:
        spec: dict[str, Any] = {
            "enter": self.at["enter"],
            "code": self.at[body],
            "signature": signature,
            "header_size": HEADER,
            "state": STATE,
            "frame_bytes": HEADER + 64,
            "depth": 1000,
            "name": body,
            "doc": f"The body {body}.",
            "failed": raise_trap,
            "keepalive": self,
        }
        return native.make_callable(**(spec | options))


class Trap(Exception):
    """A trap: its arguments are kind, code and operation."""


def raise_trap(kind: int, code: int, frame: int, op: int) -> object:
    exception = native.take_exception()
    raise exception if exception is not None else Trap(kind, code, op)


def build(folder: Path) -> tuple[bytes, dict[str, int]]:
    """The text of SOURCE, and its functions."""
    from elftools.elf.elffile import ELFFile

    source, obj = folder / "bodies.c", folder / "bodies.o"
    source.write_text(SOURCE)
    flags = "-c -O1 -fPIC -ffreestanding -fno-builtin -fno-stack-protector -fno-asynchronous-unwind-tables"
    command = [sys.executable, "-m", "ziglang", "clang", *flags.split(), "-o", str(obj), str(source)]
    subprocess.run(command, check=True)
    with obj.open("rb") as file:
        elf = ELFFile(file)
        sections: dict[str, Any] = {section.name: section for section in elf.iter_sections()}
        assert ".rela.text" not in sections
        symbols = sections[".symtab"].iter_symbols()
        functions = {s.name: s["st_value"] for s in symbols if s["st_info"]["type"] == "STT_FUNC"}
        return sections[".text"].data(), functions


class Run:
    """A frame and a context for native.run()."""

    def __init__(self, image: Image, body: str, *slots: int, fuel: int = 0, budget: int = NO_LIMIT) -> None:
        self.image, self.body = image, body
        self.context = (ctypes.c_int64 * 12)()
        self.context[3], self.context[5] = fuel, budget
        self.memory = ctypes.create_string_buffer(1024)
        base = -(-ctypes.addressof(self.memory) // 16) * 16
        self.frame = base + HEADER
        ctypes.c_uint64.from_address(self.frame - 8).value = ctypes.addressof(self.context)
        for n, slot in enumerate(slots):
            ctypes.c_uint64.from_address(self.frame + 8 * n).value = slot

    def __call__(self) -> int:
        """The trap code, 0 if the run returned."""
        native.run(self.image.at["enter"], self.frame, self.image.at[self.body])
        return ctypes.c_uint32.from_address(self.frame - 20).value if self.context[0] else 0

    @property
    def polls(self) -> int:
        return ctypes.c_uint64.from_address(self.frame + 24).value


def run_python(code: str, backend: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment(backend), capture_output=True, text=True, timeout=60)


def environment(backend: str) -> dict[str, str]:
    paths = os.pathsep.join(
        p for p in (str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")) if p
    )
    return {**os.environ, "PYTHONPATH": paths, "CNP_PURE": str(int(backend == "pure"))}
