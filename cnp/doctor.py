"""What works on this machine and what to do about the rest: each thing is tried, not looked up."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from dataclasses import dataclass

from cnp import __version__, host, link, native, processor, runtime, targets
from cnp.assembler import slot
from cnp.build import toolchain
from cnp.errors import CnpError, ToolError
from cnp.host import HostImage, Segment
from cnp.library import Library
from cnp.target import Target

OK, MISSING, BROKEN = "ok", "missing", "broken"

#: Stencil files that come with the library.
VOCABULARIES = ("ops", "brainfuck", "ebpf")

ANSWER = 42


@dataclass(frozen=True, slots=True)
class Check:
    """A finding. state: ok; missing (a tool that is only needed for some things); broken."""

    subject: str
    state: str
    finding: str
    advice: str = ""


def examine() -> Iterator[Check]:
    """All checks, one after the other."""
    yield Check("cnp", OK, f"{__version__}, Python {platform.python_version()} on {platform.machine()}")
    yield features()
    yield core()
    yield memory()
    yield clang()
    for name in targets.TARGETS:
        yield machine(targets.get(name))


def features() -> Check:
    """What generated code may use here beyond the base line, and what it could if it were there."""
    try:
        known = targets.get("host").features
    except ToolError as error:
        return Check("processor", MISSING, error.message, "programs for other machines can be encoded here")
    here = processor.features(targets.get("host"))
    lacking = [feature.name for feature in known if feature.name not in here]
    finding = f"features beyond the base line: {', '.join(here) or 'none'}"
    return Check("processor", OK, finding + (f"; without {', '.join(lacking)}" if lacking else ""))


def core() -> Check:
    """Whether the core in C does the work, or Python."""
    if native.available:
        return Check("core", OK, "in C: cnp._core, compiled")
    advice = "everything works, slowly; install a C compiler and build cnp again for the core in C"
    return Check("core", MISSING, f"pure Python does its work: {native.reason}", advice)


def memory() -> Check:
    """Executable memory, and generated code that runs in it."""
    try:
        scheme = link.code_memory(targets.get("host")).scheme
        vocabulary = runtime.load("ops")
        assembler = vocabulary.assembler()
        assembler.function("answer", frame=8)
        assembler.op("i64_move", slot(0), ANSWER)
        assembler.op("ret", slot(0))
        value = assembler.build()["answer"].run().value
    except CnpError as error:
        return Check("memory", BROKEN, error.message, "generated code cannot run on this machine")
    finding = f"scheme {scheme.name}: {scheme.reason}"
    if value != ANSWER:
        return Check("memory", BROKEN, f"{finding}; code gave {value}, not {ANSWER}", "please report this")
    return Check("memory", OK, f"{finding}; generated code runs")


def clang() -> Check:
    """The compiler, which only builds need."""
    try:
        found = toolchain.find()
    except ToolError as error:
        return Check("clang", MISSING, error.message, "only `cnp build` needs it")
    return Check("clang", OK, f"{found.version}: {' '.join(found.clang)}")


def machine(target: Target) -> Check:
    """Stencil files of a target, and its host program: run here or in an emulator."""
    here = target.name == targets.host_name()
    build = f"cnp build --target {target.name}"
    try:
        for name in VOCABULARIES:
            Library.load(runtime.installed(name, target.name))
    except CnpError as error:
        return Check(target.name, BROKEN if here else MISSING, error.message, build)
    emulator = host.emulator(target)
    if emulator is None:
        advice = f"to run its code here install qemu-{target.qemu} (Debian: apt-get install qemu-user-static)"
        return Check(target.name, MISSING, "stencil files; no emulator", advice)
    code, result = target.probe[0]
    image = HostImage([Segment(host.CODE_BASE, code, "rx")], [host.Call(host.CODE_BASE)])
    try:
        value = host.run(target, image).values[0]
    except ToolError as error:
        return Check(target.name, MISSING, error.message, build)
    except CnpError as error:
        return Check(target.name, BROKEN, error.message, f"{build}; if that does not help, try another qemu")
    if value != result:
        return Check(target.name, BROKEN, f"its host program gave {value}, not {result}", build)
    return Check(
        target.name, OK, f"stencil files; code runs {'here' if not emulator else 'in ' + emulator[0]}"
    )
