"""Run programs of another target: link them for its host program and let an emulator execute them.

    code = ForeignCode(program)
    outcome = code.run([Call("main", {"sp": 0}), Call("main", interpret=True), ...])
    outcome = code.resume(outcome)

One start of the emulator serves many calls. Each call has a frame and a context of its own; the calls of one run
share the cells and whatever memory they are given. What a run left can be continued in another start: everything
lies at the same addresses again.

    HOST_BASE   the host program with its helpers
    CODE_BASE   the program's image, then the interpreter's
    DATA_BASE   cells, records, extra memory, then context + header + slots of each call
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cnp import encode, host, interpret, patch
from cnp import frame as layout
from cnp.assembler import Program, Symbol
from cnp.errors import LabelError, StateError
from cnp.frame import FrameImage, Needs
from cnp.host import HostImage, Segment
from cnp.link import interpreted_frame, needs
from cnp.result import Activation, Result, read_result

NATIVE_STACK = 4 << 20  #: bytes of native stack that calls may use in the host program
DEPTH = 1000
PAGE = 0x10000
PADDING = 64  #: bytes behind the last frame


@dataclass(frozen=True, slots=True)
class Call:
    """One run. place: a function's name or an operation's position. slots: contents of the first slots.

    state, depth, fuel: as in `Entry.run`. frame_bytes: slots in all (default: what the program needs).
    interpret: by the interpreter of the same bodies, threaded: by the one that is.
    """

    place: str | int
    state: Mapping[str, int | float] = field(default_factory=dict)
    slots: bytes = b""
    depth: int = DEPTH
    fuel: int | None = None
    frame_bytes: int | None = None
    interpret: bool = False
    threaded: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What runs gave: a result for each call, the output, the extra memory and the cells afterwards.

    data: the cells as they lie at DATA_BASE.
    """

    results: list[Result]
    stdout: bytes
    memory: list[bytes]
    cells: dict[int, dict[str, int]]
    data: bytes


@dataclass(frozen=True, slots=True)
class Job:
    """A call of the host program: which frame goes on at which operation, in generated code or in an interpreter."""

    frame: int
    position: int
    interpret: bool
    threaded: bool = False


class ForeignCode:
    """A program linked for its target's host program.

    imports: addresses of helpers beside those of the host program. base: where the image lies. free: where extra memory and
    frames begin, unless the records reach further.
    """

    def __init__(
        self,
        program: Program,
        imports: Mapping[str, int] | None = None,
        base: int = host.CODE_BASE,
        free: int = 0,
    ) -> None:
        program.check()
        self.program, self.library, self.target = program, program.library, program.library.target
        self.symbols = {**host.symbols(self.target), **(imports or {})}
        self.image = encode.encode(program, base, host.DATA_BASE, self.symbols)
        after = (base + len(self.image.code) + PAGE - 1) & -PAGE
        helpers = interpret.reachable_imports(self.symbols.get)
        self.interpreter = patch.encode(
            interpret.interpreter_program(program), after, host.DATA_BASE, helpers
        )
        self.records_at = align(host.DATA_BASE + len(self.image.data) + 64)
        self.no_records: StateError | None = None
        try:
            self.records = self.make_records()
        except StateError as error:  # it goes to code of others: compiled code can
            self.records, self.no_records = b"", error
        self.needs: Needs = needs(program)
        self.frames_at = align(max(free, self.records_at + len(self.records) + 64))

    def make_records(self) -> bytes:
        """The program for the interpreters. StateError: it goes to generated code of others."""
        used = {v.name for op in self.program.ops for v in op.values if isinstance(v, Symbol)}
        return interpret.records(
            self.program,
            self.records_at,
            self.image.cell_places.__getitem__,
            {name: self.symbols[name] for name in used},
            self.interpreter.routines,
            self.image.address,
        )

    def run(
        self,
        calls: Sequence[Call],
        stdin: bytes = b"",
        memory: Sequence[bytes] = (),
        timeout: float | None = 60.0,
    ) -> Outcome:
        """Execute the calls in order, in one start. memory: contents of extra areas, at `area_addresses(sizes)`."""
        areas = self.area_addresses([len(data) for data in memory])
        end = align(areas[-1] + len(memory[-1])) if memory else self.frames_at
        frames = []
        for call in calls:
            frame = self.frame(call, end)
            frames.append(frame)
            end = align(frame.address + frame.size)
        jobs = [
            Job(f.address, self.position(c.place), c.interpret, c.threaded)
            for c, f in zip(calls, frames, strict=True)
        ]
        report = self.start(jobs, frames, memory, self.image.data, stdin, timeout)
        return self.outcome(
            [read_result(self.library, frame) for frame in self.after(report, frames)], report, memory
        )

    def resume(
        self,
        outcome: Outcome,
        memory: Sequence[bytes] | None = None,
        compiled: bool = False,
        fuel: int | None = None,
        stdin: bytes = b"",
        timeout: float | None = 60.0,
        threaded: bool = False,
    ) -> Outcome:
        """Go on with every run that exited, until its outermost function returns or it leaves again.

        As `Interpreter.resume`, for all of them at once: each start of the emulator continues one activation of every
        run. memory: contents of the extra areas, if they are to be others than those that the runs left. compiled: the
        innermost activation goes on in generated code, at an operation that is bound as an entry. fuel: as for `run`.
        threaded: the interpreter that all others go on in is the threaded one.
        """
        memory, data = outcome.memory if memory is None else memory, outcome.data
        results, chains = (
            list(outcome.results),
            [list(r.activations) if r.exited else [] for r in outcome.results],
        )
        for number, result in enumerate(results):
            if chains[number]:
                frame = copy_of(result.frame)
                frame.set_context(layout.pack_context(self.library, fuel))
                results[number] = replace(result, frame=frame)
        output, first = b"", True
        while going := [number for number, chain in enumerate(chains) if chain]:
            entered = [chains[number].pop(0) for number in going]
            if first and compiled:
                self.check_entries(entered)
            jobs = [Job(a.frame, a.op, not (first and compiled), threaded) for a in entered]
            report = self.start(
                jobs, [results[number].frame for number in going], memory, data, stdin, timeout
            )
            frames = self.after(report, [results[number].frame for number in going])
            for number, activation, frame in zip(going, entered, frames, strict=True):
                context = frame.get_context()
                if context["kind"] == 0 and chains[number]:
                    frame.set_context(layout.pack_pending(self.library, context))
                    results[number] = replace(results[number], frame=frame)
                    continue
                results[number] = read_result(self.library, frame, tuple(chains[number]), activation.frame)
                chains[number].clear()
            last = self.outcome(results, report, memory)
            memory, data, output, first = last.memory, last.data, output + last.stdout, False
        return replace(last, stdout=output) if not first else outcome

    def check_entries(self, activations: Sequence[Activation]) -> None:
        """LabelError if one of these stands at an operation where generated code may not be entered."""
        entries = self.program.entries()
        for activation in activations:
            if activation.op not in entries:
                raise self.program.no_entry(activation.op)

    def start(
        self,
        jobs: Sequence[Job],
        frames: Sequence[FrameImage],
        memory: Sequence[bytes],
        cells: bytes,
        stdin: bytes,
        timeout: float | None,
    ) -> host.Report:
        """Put everything into its place and execute the jobs. The report holds frames, memory and cells, in this order."""
        areas = self.area_addresses([len(piece) for piece in memory])
        pieces = [
            (host.DATA_BASE, cells),
            (self.records_at, self.records),
            *zip(areas, memory, strict=True),
            *((frame.context, bytes(frame.view)) for frame in frames),
        ]
        data = bytearray(max(address + len(piece) for address, piece in pieces) + PADDING - host.DATA_BASE)
        for address, piece in pieces:
            data[address - host.DATA_BASE : address - host.DATA_BASE + len(piece)] = piece
        dumps = [(frame.context, len(frame.view)) for frame in frames]
        dumps += [(address, len(piece)) for address, piece in zip(areas, memory, strict=True)]
        dumps.append((host.DATA_BASE, max(8, len(cells))))
        return host.run(
            self.target, HostImage(self.segments(bytes(data)), self.calls(jobs), dumps), stdin, timeout
        )

    def area_addresses(self, sizes: Sequence[int]) -> list[int]:
        """Where extra memory areas of these sizes will lie."""
        return areas_from(self.frames_at, sizes)

    def frame(self, call: Call, free: int) -> FrameImage:
        """Context, header and slots of one call, in the first free memory."""
        function = self.program.function_at(self.position(call.place))
        size = call.frame_bytes or max(self.needs.frame_bytes(function.frame, call.depth), len(call.slots))
        below = self.library.header_size + layout.CONTEXT_SIZE
        address = (free + below + 15) & -16
        frame = FrameImage(self.library, size, address, memoryview(bytearray(below + size)))
        interpreted = call.interpret or call.threaded
        native = max(self.needs.native, interpreted_frame(self.library) if interpreted else 0)
        deepest = Needs(self.needs.step, self.needs.largest, native).depth_in(size, NATIVE_STACK, call.depth)
        state = layout.pack_state(self.library, call.state)
        frame.set_context(layout.pack_context(self.library, call.fuel))
        frame.set_header(layout.pack_header(self.library, state, deepest, frame.context))
        frame.write(0, call.slots)
        return frame

    def position(self, place: str | int) -> int:
        if isinstance(place, int):
            return place
        for function in self.program.functions:
            if function.name == place and function.position is not None:
                return function.position
        raise LabelError(f"there is no function {place!r}", label=place)

    def segments(self, data: bytes) -> list[Segment]:
        """The memory of the host program."""
        images = [image for image in (self.image, self.interpreter) if image.code]
        code = [Segment(image.base, image.code, "rx") for image in images]
        return [*code, Segment(host.DATA_BASE, data, "rw")]

    def calls(self, jobs: Sequence[Job]) -> list[host.Call]:
        """The jobs as calls of `cnp_enter` and of the interpreters."""
        return [self.interpreted(job) if job.interpret else self.entered(job) for job in jobs]

    def entered(self, job: Job) -> host.Call:
        return host.Call(self.image.enter, (job.frame, self.image.base + self.image.offsets[job.position]))

    def interpreted(self, job: Job) -> host.Call:
        if self.no_records is not None:
            raise self.no_records
        routine = interpret.routine(self.library, self.interpreter.routines, job.threaded)
        return host.Call(routine, (job.frame, self.records_at + interpret.RECORD_SIZE * job.position))

    def after(self, report: host.Report, frames: Sequence[FrameImage]) -> list[FrameImage]:
        """The frames of a start as it left them."""
        return [
            FrameImage(self.library, frame.size, frame.address, memoryview(bytearray(dump)))
            for frame, dump in zip(frames, report.dumps, strict=False)
        ]

    def outcome(self, results: Sequence[Result], report: host.Report, memory: Sequence[bytes]) -> Outcome:
        """Results with what a report says of the memory that all runs share."""
        *dumps, cells = report.dumps
        order = self.target.byteorder
        read = {
            op: {name: int.from_bytes(cells[at - host.DATA_BASE :][:8], order) for name, at in named.items()}  # type: ignore[arg-type]
            for op, named in self.image.cells.items()
        }
        extra = dumps[len(dumps) - len(memory) :]
        return Outcome(list(results), report.stdout, extra, read, cells[: len(self.image.data)])


def copy_of(frame: FrameImage) -> FrameImage:
    """The same bytes at the same address, in memory of their own."""
    return FrameImage(frame.library, frame.size, frame.address, memoryview(bytearray(frame.view)))


def areas_from(place: int, sizes: Sequence[int]) -> list[int]:
    """Areas of these sizes one behind the other, each at a cache line of its own."""
    places = []
    for size in sizes:
        places.append(align(place))
        place = places[-1] + size
    return places


def align(address: int) -> int:
    """The next cache line."""
    return (address + 63) & -64
