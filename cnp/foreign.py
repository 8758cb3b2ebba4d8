"""Run programs of another target: link them for its host program and let an emulator execute them.

    code = ForeignCode(program)
    results = code.run([Call("main", {"sp": 0}, slots=64), Call("main", interpret=True), ...])

One start of the emulator serves many calls. Each call has a frame and a context of its own; the calls of one run
share the cells and whatever memory they are given.

    HOST_BASE   the host program with its helpers
    CODE_BASE   the program's image, then the interpreter's
    DATA_BASE   cells, records, extra memory, then context + header + slots of each call
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cnp import frame as layout
from cnp import host, interpret, patch
from cnp.assembler import Function, Program, Symbol
from cnp.errors import LabelError
from cnp.frame import FrameImage, Needs
from cnp.host import HostImage, Segment
from cnp.result import Result, read_result
from cnp.runtime import INTERPRETED_FRAME, needs

NATIVE_STACK = 4 << 20  #: bytes of native stack that calls may use in the host program
DEPTH = 1000
PAGE = 0x10000


@dataclass(frozen=True, slots=True)
class Call:
    """One run. place: a function's name or an operation's position. slots: contents of the first slots.

    state, depth, fuel: as in `Entry.run`. frame_bytes: slots in all (default: what the program needs).
    interpret: by the interpreter of the same bodies.
    """

    place: str | int
    state: Mapping[str, int | float] = field(default_factory=dict)
    slots: bytes = b""
    depth: int = DEPTH
    fuel: int | None = None
    frame_bytes: int | None = None
    interpret: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one start of the emulator gave: a result for each call, the output, the extra memory afterwards."""

    results: list[Result]
    stdout: bytes
    memory: list[bytes]
    cells: dict[int, dict[str, int]]


class ForeignCode:
    """A program linked for its target's host program.

    imports: addresses of helpers beside those of the host program. base: where the image lies.
    """

    def __init__(self, program: Program, imports: Mapping[str, int] | None = None, base: int = host.CODE_BASE) -> None:
        program.check()
        self.program, self.library, self.target = program, program.library, program.library.target
        self.symbols = {**host.symbols(self.target), **(imports or {})}
        self.image = patch.encode(program, base, host.DATA_BASE, self.symbols)
        after = (base + len(self.image.code) + PAGE - 1) & -PAGE
        helpers = interpret.reachable_imports(self.symbols.get)
        self.interpreter = patch.encode(interpret.interpreter_program(program), after, host.DATA_BASE, helpers)
        self.records_at = align(host.DATA_BASE + len(self.image.data) + 64)
        used = {v.name for op in program.ops for v in op.values if isinstance(v, Symbol)}
        self.records = interpret.records(
            program, self.records_at, self.image.cell_places.__getitem__, {name: self.symbols[name] for name in used}
        )
        self.needs: Needs = needs(program)
        self.frames_at = align(self.records_at + len(self.records) + 64)

    def run(self, calls: Sequence[Call], stdin: bytes = b"", memory: Sequence[bytes] = (), timeout: float | None = 60.0) -> Outcome:
        """Execute the calls in order, in one start. memory: contents of extra areas, at `area_addresses(sizes)`."""
        areas = self.area_addresses([len(data) for data in memory])
        end = align(areas[-1] + len(memory[-1])) if memory else self.frames_at
        frames = []
        for call in calls:
            frame = self.frame(call, end)
            frames.append(frame)
            end = (frame.address + frame.size + 63) & -64
        data = bytearray(end - host.DATA_BASE)
        for address, piece in [
            (host.DATA_BASE, self.image.data),
            (self.records_at, self.records),
            *zip(areas, memory, strict=True),
            *((frame.context, bytes(frame.view)) for frame in frames),
        ]:
            data[address - host.DATA_BASE : address - host.DATA_BASE + len(piece)] = piece
        report = host.run(self.target, self.host_image(calls, frames, bytes(data), areas, memory), stdin, timeout)
        return self.outcome(report, frames, areas, memory)

    def area_addresses(self, sizes: Sequence[int]) -> list[int]:
        """Where extra memory areas of these sizes will lie."""
        places, place = [], self.frames_at
        for size in sizes:
            places.append(place)
            place = align(place + size)
        return places

    def frame(self, call: Call, free: int) -> FrameImage:
        """Context, header and slots of one call, in the first free memory."""
        function = self.function(call.place)
        size = call.frame_bytes or max(self.needs.frame_bytes(function.frame, call.depth), len(call.slots))
        below = self.library.header_size + layout.CONTEXT_SIZE
        address = (free + below + 15) & -16
        frame = FrameImage(self.library, size, address, memoryview(bytearray(below + size)))
        native = max(self.needs.native, INTERPRETED_FRAME if call.interpret else 0)
        deepest = Needs(self.needs.step, self.needs.largest, native).depth_in(size, NATIVE_STACK, call.depth)
        state = layout.pack_state(self.library, call.state)
        frame.set_context(layout.pack_context(self.library, call.fuel))
        frame.set_header(layout.pack_header(self.library, state, deepest, frame.context))
        frame.write(0, call.slots)
        return frame

    def function(self, place: str | int) -> Function:
        """The function that a place belongs to."""
        position = self.position(place)
        return [f for f in self.program.functions if f.position is not None and f.position <= position][-1]

    def position(self, place: str | int) -> int:
        if isinstance(place, int):
            return place
        for function in self.program.functions:
            if function.name == place and function.position is not None:
                return function.position
        raise LabelError(f"there is no function {place!r}", label=place)

    def host_image(
        self, calls: Sequence[Call], frames: Sequence[FrameImage], data: bytes, areas: Sequence[int], memory: Sequence[bytes]
    ) -> HostImage:
        """Everything the host program needs."""
        segments = [
            Segment(self.image.base, self.image.code, "rx"),
            Segment(self.interpreter.base, self.interpreter.code, "rx"),
            Segment(host.DATA_BASE, data, "rw"),
        ]
        jobs = [
            host.Call(self.interpreter.routines["cnp_interpret"], (f.address, self.records_at + interpret.RECORD_SIZE * self.position(c.place)))
            if c.interpret
            else host.Call(self.image.enter, (f.address, self.image.base + self.image.offsets[self.position(c.place)]))
            for c, f in zip(calls, frames, strict=True)
        ]
        dumps = [(f.context, len(f.view)) for f in frames]
        dumps += [(address, len(piece)) for address, piece in zip(areas, memory, strict=True)]
        dumps.append((host.DATA_BASE, max(8, len(self.image.data))))
        return HostImage(segments, jobs, dumps)

    def outcome(
        self, report: host.Report, frames: Sequence[FrameImage], areas: Sequence[int], memory: Sequence[bytes]
    ) -> Outcome:
        """The report as results."""
        results = []
        for frame, dump in zip(frames, report.dumps, strict=False):
            after = FrameImage(self.library, frame.size, frame.address, memoryview(bytearray(dump)))
            results.append(read_result(self.library, after))
        extra = report.dumps[len(frames) : len(frames) + len(memory)]
        cells = report.dumps[-1]
        order = self.target.byteorder
        read = {
            op: {name: int.from_bytes(cells[at - host.DATA_BASE :][:8], order) for name, at in named.items()}  # type: ignore[arg-type]
            for op, named in self.image.cells.items()
        }
        return Outcome(results, report.stdout, extra, read)


def align(address: int) -> int:
    """The next cache line."""
    return (address + 63) & -64
