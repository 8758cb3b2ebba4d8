"""Runs random bodies three ways on one machine, at the same addresses: what they leave in memory must be the same bytes.

    compiled     the stencils of the vocabulary
    interpreted  `cnp_interpret` of the same stencil file (clang -O2)
    threaded     `cnp_interpret_threaded`, where there is one
    plain        the bodies in a switch of our own, compiled with -O0 by another compiler where there is one

A site is one use of a body: `body  [a second body]  leave`. Where the run left says which way the body went.

    chunk of one run   context | state + header | 24 words: slots, the scratch memory around the state's pointers
"""

from __future__ import annotations

import random
import shutil
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import capstone
from elftools.elf.elffile import ELFFile

from cnp import frame as layout
from cnp import host, interpret, slot
from cnp.assembler import Assembler, Cell, Label, Slot, Table
from cnp.build import driver, toolchain
from cnp.foreign import ForeignCode, Job
from cnp.frame import FrameImage
from cnp.host import HostImage, Segment
from cnp.library import Library
from cnp.result import Result, read_result
from tests.body_generator import (
    ENTRIES,
    FLOATS,
    INTS,
    LABELS,
    SIZES,
    Body,
    Operand,
    RandomSource,
    random_source,
)

WORDS = 24
FAR = 36864  #: slots out of reach of every short form
SITES, RUNS, FAR_RUNS = 4, 6, 1  #: uses of a body; runs of a site; runs of a site whose slots lie far away
PLAIN_BASE = 0x1200_0000
WAYS = ("compiled", "interpreted", "threaded", "plain")
INTEGER_EDGES = (0, 0, 1, -1, 2, 3, 7, -8, 127, 128, -128, 255, 4095, 32767, -32768, 65535, (1 << 31) - 1, 1 << 31,
                 -(1 << 31), (1 << 32) - 1, 1 << 32, 1 << 52, (1 << 63) - 1, 1 << 63)  # fmt: skip
FLOAT_EDGES = (
    0.0,
    -0.0,
    1.0,
    -1.5,
    0.1,
    3e9,
    -1e19,
    1e300,
    -1e-310,
    1e38,
    float("inf"),
    float("-inf"),
    float("nan"),
)
MASK = (1 << 64) - 1

PLAIN = """#include "{name}"
struct saved {{ {fields} }};
struct site {{ u64 operation, operand[6]; }};
void plain_run(char *frame, const struct site *sites, u64 at) {{
    struct saved *saved = (struct saved *)(frame - {header});
    cnp_state now, *s = &now;
    {load}
    s->cnp_frame = frame;
    cnp_header *header = CNP_HEADER(frame);
    cnp_context *context = header->context;
    for (;;) {{
        const u64 *o = sites[at].operand;
        cnp_go go = EXIT;
        switch (sites[at].operation) {{
{cases}
        }}
        u64 kind = CNP_KIND(go);
        if (kind == CNP_NEXT) {{ at++; continue; }}
        if (kind == CNP_JUMP) {{ at = CNP_PAYLOAD(go); continue; }}
        if (kind == CNP_TABLE) {{ at = s->cnp_to; continue; }}
        {save}
        context->kind = kind == CNP_TRAP ? 2 : kind == CNP_EXIT;
        if (kind == CNP_RETURN) {{ context->value = {value}; return; }}
        header->op = (u32)at;
        header->code = kind == CNP_TRAP ? (u32)CNP_PAYLOAD(go) : 0;
        header->inner = 0;
        context->frame = context->outermost = frame;
        return;
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Site:
    """One use of a body. values: its operands as they were given."""

    body: Body
    values: tuple[object, ...]
    position: int


@dataclass(slots=True)
class Run:
    """One run of a site: where its frame lies and what the memory of the run holds before."""

    position: int
    frame: FrameImage
    state: dict[str, int | float]


@dataclass
class Bodies:
    """A random vocabulary, built for a target, in a program that uses each body in several ways."""

    seed: int
    count: int
    target: Any
    folder: Path
    source: RandomSource = field(init=False)
    sites: dict[int, Site] = field(default_factory=dict)
    starts: list[int] = field(default_factory=list)
    far_starts: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.source = random_source(self.seed, self.count)
        self.rng = random.Random(f"values {self.seed}")
        self.path = self.folder / f"bodies{self.seed}.c"
        self.path.write_text(self.source.text)
        self.tools = toolchain.find()
        built = driver.build(driver.Job(self.path, self.target, self.tools))
        self.library = Library(built, f"bodies{self.seed}.{self.target.name}.cnp")
        self.order = layout.order(self.library)
        self.assemble()
        self.code = ForeignCode(self.asm.close())
        self.plain_at, self.plain = self.compile_plain()

    # ---- the program

    def assemble(self) -> None:
        """The sites, then the operations that labels and tables name."""
        self.asm = Assembler(self.library)
        self.asm.function("main", frame=FAR + 8 * WORDS)
        self.labels = [self.asm.label(f"way {number}") for number in range(LABELS + ENTRIES)]
        for body in self.source.bodies:
            for number in range(SITES):
                self.starts.append(self.use(body, 0))
                if number == 0 and self.rng.random() < 0.3:
                    self.use(self.rng.choice(self.source.bodies), 0)
                self.asm.leave()
            if any(operand.kind == "slot" for operand in body.operands):
                self.far_starts.append(self.use(body, FAR))
                self.asm.leave()
        for label in self.labels:
            self.asm.bind(label)
            self.asm.leave()

    def use(self, body: Body, base: int) -> int:
        """Append a body with random operands; its position."""
        values: list[object] = []
        for operand in body.operands:
            values.append(self.value(operand, base, values))
        position = self.asm.op(body.name, *values)
        self.sites[position] = Site(body, tuple(values), position)
        return position

    def value(self, operand: Operand, base: int, before: list[object]) -> object:
        """A random operand; slots and cells alias one another, immediates are often equal."""
        rng = self.rng
        match operand.kind:
            case "slot":
                return slot(base + 8 * rng.choice((0, 1, 1, 2, rng.randrange(WORDS))))
            case "label":
                return rng.choice(self.labels[:LABELS])
            case "table":
                return self.asm.table(*(rng.choice(self.labels[LABELS:]) for _ in range(ENTRIES)))
            case "cell":
                cells = [value for value in before if isinstance(value, Cell)]
                return (
                    rng.choice(cells)
                    if cells and rng.random() < 0.3
                    else self.asm.cell(self.word(operand.ctype))
                )
        if operand.ctype in FLOATS:
            return rng.choice(FLOAT_EDGES) if operand.ctype == "f64" else as_f32(rng.choice(FLOAT_EDGES))
        equal = [value for value in before if isinstance(value, int)]
        if equal and rng.random() < 0.4:
            return wrap(rng.choice(equal), operand.ctype)
        return wrap(self.integer(), operand.ctype)

    def integer(self) -> int:
        rng = self.rng
        kind = rng.random()
        return (
            rng.choice(INTEGER_EDGES)
            if kind < 0.7
            else rng.getrandbits(64)
            if kind < 0.85
            else rng.randint(-40, 40)
        )

    def word(self, ctype: str) -> int:
        """A random word as a value of a type lies in it."""
        if ctype == "f64":
            return int.from_bytes(struct.pack("<d", self.rng.choice(FLOAT_EDGES)), "little")
        if ctype == "f32":
            return int.from_bytes(struct.pack("<f", as_f32(self.rng.choice(FLOAT_EDGES))), "little")
        return self.integer() & MASK

    # ---- the bodies as plain C

    def compile_plain(self) -> tuple[int, list[Segment]]:
        """Address of `plain_run` and its memory."""
        text, object_file, linked = (self.folder / f"plain.{end}" for end in ("c", "o", "elf"))
        text.write_text(self.plain_source())
        job = driver.Job(self.path, self.target, self.tools)
        gcc = shutil.which("gcc") if host.emulator(self.target) == [] else None
        flags = [
            "-O0",
            "-w",
            "-std=gnu2x",
            "-ffreestanding",
            "-fno-builtin",
            "-fno-stack-protector",
            *driver.MEANING,
        ]
        flags += [*self.target.cflags, *job.includes(), "-c", str(text), "-o", str(object_file)]
        if gcc:
            toolchain.run([gcc, *flags])
        else:
            self.tools.compile(f"--target={self.target.triple}", *flags)
        defined = [f"--defsym={name}={address:#x}" for name, address in self.code.symbols.items()]
        options = [
            "-static",
            f"--image-base={PLAIN_BASE:#x}",
            "-z",
            "separate-loadable-segments",
            "-z",
            "max-page-size=4096",
        ]
        self.tools.link(*options, *defined, "-e", "plain_run", object_file, "-o", linked)
        with linked.open("rb") as file:
            elf = ELFFile(file)
            kinds = {4: "r", 5: "rx", 6: "rw"}
            parts = [part for part in elf.iter_segments("PT_LOAD") if part["p_memsz"]]
            memory = [Segment(p["p_vaddr"], p.data(), kinds[p["p_flags"]], p["p_memsz"]) for p in parts]
            return elf["e_entry"], memory

    def plain_source(self) -> str:
        names = [name for _, name in self.source.state]
        cases = []
        for number, body in enumerate(self.source.bodies, 1):
            arguments = "".join(f", {argument(operand, at)}" for at, operand in enumerate(body.operands))
            again = f" if (go == SLOW) go = {body.name}_slow(s{arguments});" if body.slow else ""
            cases.append(f"        case {number}: go = {body.name}(s{arguments});{again} break;")
        ctype = next(ctype for ctype, name in self.source.state if name == self.library.result)
        bits = {"f64": "cnp_bits_f64", "f32": "cnp_bits_f32"}.get(ctype, "(u64)")
        return PLAIN.format(
            name=self.path.name, fields=" ".join(f"{ctype} {name};" for ctype, name in self.source.state),
            header=self.library.header_size, load=" ".join(f"s->{name} = saved->{name};" for name in names),
            save=" ".join(f"saved->{name} = s->{name};" for name in names), cases="\n".join(cases),
            value=f"{bits}(s->{self.library.result})",
        )  # fmt: skip

    def plain_sites(self, base: int) -> bytes:
        """The program as the plain switch reads it: packed from what was written, not from what the assembler chose."""
        numbers = {body.name: number for number, body in enumerate(self.source.bodies, 1)}
        count = len(self.asm.program.ops)
        tables: list[int] = []

        def number(operand: Operand, value: object) -> int:
            if isinstance(value, Slot):
                return value.offset
            if isinstance(value, Label):
                return value.position or 0
            if isinstance(value, Cell):
                return self.code.image.cell_places[value]
            if isinstance(value, Table):
                tables.extend(label.position or 0 for label in value.labels)
                return base + 56 * count + 8 * (len(tables) - ENTRIES)
            kind = {"f64": "<d", "f32": "<f"}.get(operand.ctype)
            return int.from_bytes(struct.pack(kind, value), "little") if kind else int(value) & MASK  # type: ignore[call-overload]

        words: list[int] = []
        for position in range(count):
            site = self.sites.get(position)
            pairs = zip(site.body.operands, site.values, strict=True) if site else ()
            values = [number(operand, value) for operand, value in pairs]
            words += [numbers[site.body.name] if site else 0, *values, *[0] * (6 - len(values))]
        return struct.pack(f"{self.order}{len(words) + len(tables)}Q", *words, *tables)

    # ---- runs

    def plan(self) -> tuple[list[Run], bytes, int, int]:
        """All runs; the memory from DATA_BASE on; where the plain sites and the first chunk lie in it."""
        code = self.code
        sites_at = code.frames_at
        sites = self.plain_sites(sites_at)
        start = end = sites_at + (len(sites) + 127) // 64 * 64
        runs = []
        positions = [p for p in self.starts for _ in range(RUNS)] + [
            p for p in self.far_starts for _ in range(FAR_RUNS)
        ]
        far = set(self.far_starts)
        for position in positions:
            run = self.new_run(position, end, FAR if position in far else 0)
            end = (run.frame.address + run.frame.size + 15) & -16
            runs.append(run)
        data = bytearray(start - host.DATA_BASE)
        for address, piece in [
            (host.DATA_BASE, code.image.data),
            (code.records_at, code.records),
            (sites_at, sites),
        ]:
            data[address - host.DATA_BASE : address - host.DATA_BASE + len(piece)] = piece
        for run in runs:
            data += bytes(run.frame.context - host.DATA_BASE - len(data)) + run.frame.view
        return runs, bytes(data), sites_at, start

    def new_run(self, position: int, free: int, base: int) -> Run:
        rng, lib = self.rng, self.library
        below = lib.header_size + layout.CONTEXT_SIZE
        address = (free + below + 15) & -16
        size = base + 8 * WORDS
        frame = FrameImage(lib, size, address, memoryview(bytearray(below + size)))
        state: dict[str, int | float] = {}
        for ctype, name in self.source.state:
            if "*" in ctype:
                state[name] = address + base + 8 * rng.choice((8, 9, 12))
            elif ctype in FLOATS:
                state[name] = rng.choice(FLOAT_EDGES) if ctype == "f64" else as_f32(rng.choice(FLOAT_EDGES))
            else:
                state[name] = wrap(self.integer(), ctype)
        frame.set_context(layout.pack_context(lib))
        frame.set_header(layout.pack_header(lib, layout.pack_state(lib, state), 0, frame.context))
        kinds = rng.choices((*INTS, "f64", "f32"), k=WORDS)
        frame.write(base, struct.pack(f"{self.order}{WORDS}Q", *map(self.word, kinds)))
        return Run(position, frame, state)

    def execute(self, way: str, runs: list[Run], data: bytes, sites_at: int, start: int) -> bytes:
        """The memory after all runs: cells, then chunks."""
        code = self.code
        if way == "plain":
            calls = [host.Call(self.plain_at, (run.frame.address, sites_at, run.position)) for run in runs]
        else:
            interpreted, threaded = way != "compiled", way == "threaded"
            calls = code.calls([Job(r.frame.address, r.position, interpreted, threaded) for r in runs])
        segments = [*code.segments(data), *self.plain]
        dumps = [(host.DATA_BASE, max(8, len(code.image.data))), (start, host.DATA_BASE + len(data) - start)]
        return b"".join(host.run(self.target, HostImage(segments, calls, dumps)).dumps)

    def check(self) -> int:
        """Run everything in every way. AssertionError with the first run that differs; the number of runs."""
        runs, data, sites_at, start = self.plan()
        ways = [way for way in WAYS if way != "threaded" or interpret.has_threads(self.library)]
        first, *others = (self.execute(way, runs, data, sites_at, start) for way in ways)
        cells = max(8, len(self.code.image.data))
        for way, other in zip(ways[1:], others, strict=True):
            if first == other:
                continue
            for run in runs:
                begin = cells + run.frame.context - start
                chunks = [memory[begin : begin + len(run.frame.view)] for memory in (first, other)]
                if chunks[0] != chunks[1] and self.outcome(run, chunks[0]) != self.outcome(run, chunks[1]):
                    raise AssertionError(self.report(run, way, *chunks))
            assert first[:cells] == other[:cells], (
                f"seed {self.seed} on {self.target.name}: cells differ, compiled and {way}"
            )
        return len(runs)

    # ---- what a run left

    def result(self, run: Run, chunk: bytes) -> Result:
        area = FrameImage(self.library, run.frame.size, run.frame.address, memoryview(bytearray(chunk)))
        return read_result(self.library, area)

    def outcome(self, run: Run, chunk: bytes) -> tuple[object, ...]:
        """Everything that counts, the payloads of NaNs in the state aside."""
        r = self.result(run, chunk)
        state = {name: repr(value) for name, value in r.state.items()}
        return r.kind, repr(r.value), r.op, r.code, state, bytes(r.frame.view[r.frame.start :])

    def report(self, run: Run, way: str, mine: bytes, other: bytes) -> str:
        """Everything one needs to see what went wrong."""
        lines = [f"seed {self.seed}, {self.count} bodies, {self.target.name}: compiled code and {way} differ"]
        position = run.position
        while site := self.sites.get(position):
            lines += [
                f"op {position}: {site.body.name} {site.values}",
                site.body.text,
                self.disassembly(position),
            ]
            position += 1
        lines.append(f"state before: {run.state}")
        lines.append(f"frame at {run.frame.address:#x}")
        results = [self.result(run, chunk) for chunk in (mine, other)]
        for name, result in zip(("compiled", way), results, strict=True):
            lines.append(
                f"{name}: {result.kind} {result.value!r} at op {result.op} code {result.code} {result.state}"
            )
        base = run.frame.size - 8 * WORDS
        for offset in range(base, run.frame.size, 8):
            words = [run.frame[offset], *(result.frame[offset] for result in results)]
            mark = "   <<<" if words[1] != words[2] else ""
            lines.append(f"  slot {offset}: " + "  ".join(f"{word:#018x}" for word in words) + mark)
        return "\n".join(lines)

    def disassembly(self, position: int) -> str:
        image, (arch, modes) = self.code.image, self.target.capstone
        mode = sum(getattr(capstone, f"CS_MODE_{name}") for name in modes)
        engine = capstone.Cs(getattr(capstone, f"CS_ARCH_{arch}"), mode)
        engine.skipdata = True
        parts = [(a, image.code[a:b]) for a, b, op in image.ranges if op == position]
        return "\n".join(
            f"    {i.address:#x}  {i.mnemonic} {i.op_str}"
            for at, code in parts
            for i in engine.disasm(code, image.base + at)
        )


def argument(operand: Operand, number: int) -> str:
    """C text of an operand of the plain switch."""
    word, ctype = f"o[{number}]", operand.ctype
    match operand.kind:
        case "slot":
            return f"({ctype} *)(frame + {word} + CNP_LOW({SIZES[ctype]}))"
        case "cell":
            return f"({ctype} *)({word} + CNP_LOW({SIZES[ctype]}))"
        case "label":
            return word
        case "table":
            return f"(const cnp_label *){word}"
    if ctype in FLOATS:
        return f"cnp_{ctype}(({'u32' if ctype == 'f32' else 'u64'}){word})"
    return f"({ctype}){word}"


def as_f32(number: float) -> float:
    """The nearest number of that type; what is too large is infinite."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")


def wrap(number: int, ctype: str) -> int:
    """A number as an integer type holds it."""
    if ctype == "disp":
        ctype = "i32"
    bits = int(ctype[1:])
    number &= (1 << bits) - 1
    return number - (1 << bits) if ctype[0] == "i" and number >> bits - 1 else number
