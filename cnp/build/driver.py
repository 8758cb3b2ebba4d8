"""Build a stencil file: the pipeline from a C source to bytes, one call after the other.

source --discover--> declarations --wrappers--> C --clang--> (IR --convention-->) assembly --layout-->
assembly --clang--> objects --extract--> stencils --library--> file
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cnp import library
from cnp.build import calls, convention, interpreter, layout, wrappers
from cnp.build.discover import Source, discover
from cnp.build.extract import Extracted, extract
from cnp.build.toolchain import Toolchain
from cnp.build.wrappers import HEADER_BYTES, Shape
from cnp.errors import BuildError, ToolError
from cnp.library import Built
from cnp.stencil import Accept, Form, Import, Operation, StateField, Stencil, What
from cnp.target import Target

#: What the shape of the code asks for: small functions without tables, frames, alignment or unwind tables.
SHAPE = (
    "-std=gnu2x", "-Os", "-ffreestanding", "-fno-builtin", "-fomit-frame-pointer", "-fno-stack-protector",
    "-fno-jump-tables", "-ffunction-sections", "-falign-functions=1", "-fno-ident", "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables", "-fno-verbose-asm",
)  # fmt: skip

#: What the meaning of the code asks for. Each has a failure that was seen without it.
MEANING = (
    "-fno-strict-aliasing",  # a slot is read as f64 after it was written as u64
    "-ffp-contract=off",  # some targets would fuse a*b+c, others not
    "-fno-math-errno",  # sqrt would become a call
    "-fwrapv",  # operations wrap
)

WARNINGS = (
    "-Wall",
    "-Wno-unused-function",
    "-Wno-unused-variable",
    "-Wno-unused-label",
    "-Wno-unknown-pragmas",
)


@dataclass(frozen=True, slots=True)
class Job:
    """One source for one target. keep: folder for IR, assembly and objects to look at."""

    source: Path
    target: Target
    toolchain: Toolchain
    keep: Path | None = None

    @property
    def flags(self) -> list[str]:
        return [f"--target={self.target.triple}", *self.target.cflags, *SHAPE, *MEANING, *WARNINGS]

    def includes(self) -> list[str]:
        """Where includes are looked for. Quoted ones begin at the source, whose name may be that of one of ours."""
        folder = self.source.resolve().parent
        return [
            "-iquote",
            str(folder),
            "-I",
            str(header_folder()),
            "-I",
            str(folder),
            f"-ffile-prefix-map={folder}=.",
        ]


def header_folder() -> Path:
    """Where cnp.h lies: beside the sources in a checkout, inside the package when installed."""
    package = Path(__file__).parents[1]
    inside = package / "stencils"
    return inside if inside.exists() else package.parent / "stencils"


@dataclass(frozen=True, slots=True)
class Made:
    """A stencil file with what it was made of: the objects, and the stencils and routines that were read in them."""

    file: bytes
    objects: tuple[bytes, ...]
    extracted: Extracted


def build(job: Job) -> bytes:
    """The stencil file of one source for one target, as bytes. BuildError names the operation and its C line."""
    return make(job).file


def make(job: Job) -> Made:
    """As `build`, with the objects beside the file."""
    source = discover(job.source, job.toolchain, [*job.flags, *job.includes()])
    helpers = calls.find(source, job.toolchain, [*MEANING, *job.includes()])
    text = wrappers.stencil_source(source, job.target, helpers.callers, helpers.natives)
    with tempfile.TemporaryDirectory(prefix="cnp-") as scratch:
        folder = job.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        lines_of = {shape.operation: shape.declaration.line for shape in wrappers.shapes(source, job.target)}
        arranged = layout.arrange(compile_stencils(job, folder, text, source), job.target, lines_of)
        objects = [
            assemble(job, folder, "stencils", arranged.text),
            compile_plain(
                job, folder, "interpreter", interpreter.interpreter_source(source, helpers.callers)
            ),
        ]
        interpreted = stack_usage(job, (folder / "interpreter.su").read_text())
    extracted = extract(objects, job.target, arranged.stack, lines_of, helpers.signatures)
    file = library.pack(hand_over(job, source, extracted, arranged, helpers, interpreted))
    return Made(file, tuple(objects), extracted)


def compile_stencils(job: Job, folder: Path, text: str, source: Source) -> str:
    """C -> assembly; by way of IR where the convention has no name in C."""
    c_file, assembly = folder / "stencils.c", folder / "stencils.s"
    c_file.write_text(text)
    flags = [*job.flags, *job.includes()]
    if not job.target.fastcc:
        run_clang(job, [*flags, *job.target.llvm_flags, "-S", c_file, "-o", assembly])
        return assembly.read_text()
    ir = folder / "stencils.ll"
    run_clang(job, [*flags, "-Xclang", "-disable-llvm-passes", "-emit-llvm", "-S", c_file, "-o", ir])
    ir.write_text(convention.to_fastcc(ir.read_text(), job.target.name))
    keep = [flag for flag in job.flags if not flag.startswith("-W")]
    run_clang(
        job, [*keep, *job.target.llvm_flags, "-Wno-override-module", "-x", "ir", "-S", ir, "-o", assembly]
    )
    return assembly.read_text()


def run_clang(job: Job, arguments: list[str | Path]) -> None:
    """clang, its errors at the user's line as BuildErrors."""
    try:
        job.toolchain.compile(*arguments)
    except ToolError as error:
        raise BuildError(error.message, op="", line=0, target=job.target.name) from error


def assemble(job: Job, folder: Path, name: str, text: str) -> bytes:
    """Assembly -> object."""
    path, out = folder / f"{name}.arranged.s", folder / f"{name}.o"
    path.write_text(text)
    flags = [f"--target={job.target.triple}", *job.target.cflags, "-Wno-unused-command-line-argument"]
    run_clang(job, [*flags, *job.target.llvm_flags, "-c", path, "-o", out])
    return out.read_bytes()


def compile_plain(job: Job, folder: Path, name: str, text: str) -> bytes:
    """C by the host's convention -> object, by way of assembly so that a target may clean it."""
    c_file, assembly = folder / f"{name}.c", folder / f"{name}.s"
    c_file.write_text(text)
    flags = [*job.flags, *job.includes(), *job.target.llvm_flags, "-fstack-usage"]
    run_clang(job, [*flags, "-S", c_file, "-o", assembly])
    cleaned = (job.target.syntax.clean(line) for line in assembly.read_text().splitlines())
    return assemble(job, folder, name, "\n".join(line for line in cleaned if line is not None) + "\n")


def stack_usage(job: Job, report: str) -> int:
    """Native stack of one nested call in the interpreter, in bytes, from clang's report of its functions."""
    found = re.search(rf"\b{interpreter.STEPS}\t(\d+)\tstatic", report)
    if found is None:
        message = (
            f"the interpreter's native stack has no fixed size on {job.target.name}: a body allocates on it"
        )
        raise BuildError(message, op="", line=0, target=job.target.name)
    return int(found[1])


# ---- what goes into the file


def hand_over(
    job: Job,
    source: Source,
    extracted: Extracted,
    arranged: layout.Arranged,
    helpers: calls.Helpers,
    interpreter_stack: int,
) -> Built:
    """Put operations and their stencils together."""
    by_operation: dict[str, list[Shape]] = {}
    for shape in wrappers.shapes(source, job.target):
        by_operation.setdefault(shape.operation, []).append(shape)
    operations = tuple(
        Operation(
            name,
            index,
            group[0].operands,
            distinct(make_form(shape, extracted, job.target) for shape in group),
            group[0].declaration.line,
            bool(helpers.natives & {group[0].declaration.name, f"{group[0].declaration.name}_slow"}),
        )
        for index, (name, group) in enumerate(by_operation.items())
    )
    state, size = state_fields(source)
    return Built(
        facts(job),
        operations,
        extracted.routines,
        tuple(extracted.constants),
        tuple(Import(name, helpers.signatures.get(name, "")) for name in extracted.imports),
        state,
        size,
        (HEADER_BYTES + size + 15) // 16 * 16,
        source.result,
        interpreter_stack,
    )


def distinct(forms: Iterable[Form]) -> tuple[Form, ...]:
    """The forms without those that take nothing an earlier one does not take."""
    found: dict[tuple[Accept, ...], Form] = {}
    for form in forms:
        found.setdefault(form.accepts, form)
    return tuple(found.values())


def make_form(shape: Shape, extracted: Extracted, target: Target) -> Form:
    """One form: its stencils and what its operands may be, by type and by every field they fill."""
    near, far = extracted.stencils[shape.key], extracted.stencils.get(f"{shape.key}.far")
    accepts = tuple(narrow(accepted, number, near, target) for number, accepted in enumerate(shape.accepts))
    return Form(accepts, near, far)


def narrow(accepted: Accept, operand: int, stencil: Stencil, target: Target) -> Accept:
    """The range that all holes of an operand share."""
    low, high, align = accepted.low, accepted.high, accepted.align
    for block in stencil.blocks:
        for hole in block.holes:
            if hole.what is What.OPERAND and hole.index == operand:
                fld = target.fields[hole.field]
                low, high = max(low, fld.low - hole.addend), min(high, fld.high - hole.addend)
                if fld.align > 1 and hole.addend % fld.align == 0:
                    align = max(align, fld.align)
    return Accept(accepted.kind, low, high, align)


def state_fields(source: Source) -> tuple[tuple[StateField, ...], int]:
    """The saved state: the C layout of a struct whose fields are words or less."""
    fields, offset = [], 0
    for ctype, name in source.state:
        size = 8 if ctype.endswith("*") else {"i8": 1, "u8": 1, "i16": 2, "u16": 2, "i32": 4, "u32": 4, "f32": 4,
                                             "float": 4, "int": 4, "unsigned": 4}.get(ctype, 8)  # fmt: skip
        offset = (offset + size - 1) // size * size
        fields.append(StateField(name, ctype, offset, size))
        offset += size
    return tuple(fields), max(8, (offset + 7) // 8 * 8)


def facts(job: Job) -> dict[str, object]:
    """What the head says of where the file comes from. No path: two folders give the same file."""
    return {
        "target": job.target.name,
        "abi": "cnp-1",
        "source": job.source.name,
        "clang": job.toolchain.version,
        "flags": [*job.flags, *job.target.llvm_flags],
        "inputs": inputs_digest(job),
    }


def inputs_digest(job: Job) -> str:
    """SHA-256 of everything that decides the bytes: sources and what they include, flags, clang, the builder itself."""
    digest = hashlib.sha256()
    digest.update(
        json.dumps([job.flags, job.target.llvm_flags, job.toolchain.version, library.FORMAT]).encode()
    )
    listed = job.toolchain.compile("-E", "-M", *job.flags, *job.includes(), job.source)
    names = re.split(r"(?<!\\)\s+", listed.replace("\\\n", " ").partition(":")[2].strip())
    files = [
        Path(re.sub(r"\\([ #])", r"\1", name).replace("$$", "$")) for name in names
    ]  # as make reads them
    package = Path(__file__).parents[1]
    types = [package / f"{name}.py" for name in ("library", "stencil", "target")]
    builder = sorted([*package.glob("build/*.py"), *package.glob("targets/*.py"), *types])
    for path in [*files, *builder]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
