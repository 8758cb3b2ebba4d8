"""Build many files at once: which ones there are, which are up to date, and how each gets into its place.

    VOCABULARIES x targets  -> tasks   (stencils)  \
                   targets  -> tasks   (host)       > worker processes -> outcomes, in the order of the tasks

A task whose inputs are those in the head of the file on disk does nothing. A finished file is written beside its
place, synced and moved there, so that a reader sees the old file or the new one and nothing between.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import secrets
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from cnp import host, targets
from cnp.build import toolchain
from cnp.build.driver import Job, build, header_folder, inputs_digest
from cnp.errors import CnpError, LibraryError, ToolError
from cnp.library import Library
from cnp.target import Target

PACKAGE = Path(__file__).parents[1]

#: What comes with the library: name of the stencil file -> its source. A row without its source is left out.
VOCABULARIES = {
    "ops": header_folder() / "ops.c",
    "brainfuck": PACKAGE / "brainfuck" / "bf.c",
    "ebpf": PACKAGE / "ebpf" / "ebpf.c",
}

BUILT, FRESH, SAME, DIFFERS, FAILED = "built", "up to date", "same", "differs", "failed"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build and where. source: one file instead of all that comes with the library.

    out: folder of the stencil files. host_out: folder of the host programs. clang: as for toolchain.find.
    keep: folder for IR, assembly and objects; everything is then built. check: compare, write nothing.
    """

    targets: tuple[str, ...]
    source: Path | None = None
    out: Path = PACKAGE / "lib"
    host_out: Path = PACKAGE / "host" / "bin"
    clang: str | None = None
    keep: Path | None = None
    check: bool = False

    def tasks(self) -> list[Task]:
        """One for each file. ToolError: there is no source at all."""
        if self.source is not None:
            return [Task(self, self.source.stem, name, self.source) for name in self.targets]
        present = {name: path for name, path in VOCABULARIES.items() if path.is_file()}
        if not present:
            raise ToolError(
                f"no stencil sources in {header_folder()}: the installation is not whole", tool="cnp"
            )
        stencils = [
            Task(self, name, target, path) for name, path in present.items() for target in self.targets
        ]
        return stencils + [Task(self, "host", target, None) for target in self.targets]


@dataclass(frozen=True, slots=True)
class Task:
    """One file to build: a vocabulary for a target, or (source None) the target's host program."""

    plan: Plan
    name: str
    target: str
    source: Path | None

    @property
    def place(self) -> Path:
        """Where the file goes."""
        if self.source is None:
            return self.plan.host_out / self.target
        return self.plan.out / f"{self.name}.{self.target}.cnp"

    @property
    def keep(self) -> Path | None:
        return self.plan.keep and self.plan.keep / f"{self.name}.{self.target}"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Figures of a stencil file; of a host program only its bytes. shared: bytes of constants that stencils share."""

    bytes: int
    operations: int | None = None
    stencils: int | None = None
    holes: int | None = None
    shared: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended. state: one of BUILT, FRESH, SAME, DIFFERS, FAILED. error: why it failed, or what differs."""

    task: Task
    state: str
    seconds: float
    sizes: Sizes | None = None
    error: CnpError | None = None

    @property
    def good(self) -> bool:
        return self.state not in (DIFFERS, FAILED)


def build_all(
    plan: Plan, jobs: int | None = None, notify: Callable[[Outcome], None] | None = None
) -> list[Outcome]:
    """Carry out a plan; the outcomes in the order of its tasks, `notify` called with each as it ends.

    jobs: processes at a time, the number of cores if not given; with one, all happens in this process. What goes
    wrong with one file is in its outcome and does not stop the others. ToolError: clang is missing or too old.
    """
    toolchain.find(plan.clang)
    tasks = plan.tasks()
    count = min(jobs or os.cpu_count() or 1, len(tasks))
    if count > 1:
        return in_parallel(tasks, count, notify)
    outcomes = []
    for task in tasks:
        outcomes.append(carry_out(task))
        if notify:
            notify(outcomes[-1])
    return outcomes


def in_parallel(tasks: Sequence[Task], jobs: int, notify: Callable[[Outcome], None] | None) -> list[Outcome]:
    """Carry out tasks in worker processes. They are spawned: a fork of a process with threads may hang."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, initializer=ignore_interrupts)
    outcomes: dict[Task, Outcome] = {}
    try:
        futures = {pool.submit(carry_out, task): task for task in tasks}
        for future in as_completed(futures):
            outcome = ended(future, futures[future])
            outcomes[outcome.task] = outcome
            if notify:
                notify(outcome)
    finally:
        pool.shutdown(cancel_futures=True)
    return [outcomes[task] for task in tasks]


def ignore_interrupts() -> None:
    """Ctrl-C is for the parent, which then waits for the tasks that run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ended(future: Future[Outcome], task: Task) -> Outcome:
    """The outcome of a worker, even if it was killed."""
    try:
        return future.result()
    except BrokenProcessPool:
        error = ToolError("a build process was killed (out of memory?)", tool="python", target=task.target)
        return Outcome(task, FAILED, 0.0, error=error)


def carry_out(task: Task) -> Outcome:
    """Build, or find up to date, or compare one file."""
    start = time.perf_counter()
    try:
        state = host_program(task) if task.source is None else stencil_file(task, task.source)
        sizes = measure(task) if state in (BUILT, FRESH, SAME) else None
        return Outcome(task, state, time.perf_counter() - start, sizes)
    except CnpError as error:
        return Outcome(task, FAILED, time.perf_counter() - start, error=error)
    except OSError as error:
        failure = ToolError(
            f"{error.filename or task.place}: {error.strerror}", tool="cnp", target=task.target
        )
        return Outcome(task, FAILED, time.perf_counter() - start, error=failure)


def measure(task: Task) -> Sizes:
    """Figures of the file in its place."""
    size = task.place.stat().st_size
    if task.source is None:
        return Sizes(size)
    library = Library.load(task.place)
    stencils, holes = (library.facts["counts"][name] for name in ("stencils", "holes"))
    shared = sum(length for _, length, _ in library.facts["constants"])
    return Sizes(size, len(library.operations), stencils, holes, shared)


# ---- stencil files


def stencil_file(task: Task, source: Path) -> str:
    """Bring a stencil file up to date, or compare it; the state it is then in."""
    plan = task.plan
    job = Job(source, targets.get(task.target), toolchain.find(plan.clang), task.keep)
    if not plan.check and plan.keep is None and inputs_on_disk(task.place) == inputs_digest(job):
        return FRESH
    data = build(job)
    if plan.check:
        return SAME if contents(task.place) == data else DIFFERS
    put(task.place, data)
    return BUILT


def inputs_on_disk(place: Path) -> str:
    """The digest in the head of a stencil file; "" if there is no whole file."""
    try:
        return str(Library.load(place).facts.get("inputs", ""))
    except LibraryError:
        return ""


def contents(place: Path) -> bytes | None:
    """The bytes of a file, None if there is none."""
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None


def put(place: Path, data: bytes, mode: int = 0o666) -> None:
    """Write a file whole or not at all: beside its place, to disk, then moved. The parent folders are made.

    mode: permissions, less those that the umask takes. Any number of processes and threads may do so at once.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.{secrets.token_hex(8)}")
    try:
        with open(fresh, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, place)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the move itself
    finally:
        os.close(folder)


# ---- host programs


def host_program(task: Task) -> str:
    """Bring a host program up to date, or compare it; the state it is then in."""
    target, tools = targets.get(task.target), toolchain.find(task.plan.clang)
    inputs = host_inputs(target, tools)
    if not task.plan.check and task.plan.keep is None and host_inputs_on_disk(target, task.place) == inputs:
        return FRESH
    with tempfile.TemporaryDirectory(prefix="cnp-host-") as scratch:
        made = build_host(target, tools, task.keep or Path(scratch), inputs)
        program, facts = made.read_bytes(), facts_of(made).read_bytes()
    if task.plan.check:
        same = (contents(task.place), contents(facts_of(task.place))) == (program, facts)
        return SAME if same else DIFFERS
    put(task.place, program, 0o777)
    put(facts_of(task.place), facts)
    return BUILT


def build_host(target: Target, tools: toolchain.Toolchain, out: Path, inputs: str) -> Path:
    clang = [*tools.clang, *tools.include]
    return host.build_host(target.name, target.triple, host_flags(target), clang, tools.lld, out, inputs)


def host_flags(target: Target) -> tuple[str, ...]:
    return (*target.cflags, *target.llvm_flags)


def host_inputs(target: Target, tools: toolchain.Toolchain) -> str:
    """SHA-256 of everything that decides the bytes of a host program."""
    digest = hashlib.sha256()
    digest.update(json.dumps([target.triple, host_flags(target), tools.version]).encode())
    for path in [*sorted((PACKAGE / "host").glob("*.[ch]")), PACKAGE / "host.py"]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def host_inputs_on_disk(target: Target, place: Path) -> str:
    """The digest kept with a host program; "" if program and facts are not whole."""
    try:
        host.symbols(target, place)  # program and facts belong together
        return str(json.loads(facts_of(place).read_text(encoding="ascii")).get("inputs", ""))
    except (ToolError, OSError, ValueError):
        return ""


def facts_of(program: Path) -> Path:
    return program.with_name(program.name + ".json")
