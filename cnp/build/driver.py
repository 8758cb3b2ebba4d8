"""Build a stencil file: the pipeline from a C source to bytes, one call after the other.

source --discover--> declarations --shapes, wrappers--> C --clang--> (IR --convention-->) assembly --layout-->
assembly --clang--> objects --extract--> stencils --learn--> forms --library--> file

What learning wants to know goes around once more, from `wrappers` to `extract`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from cnp import library
from cnp.build import calls, convention, interpreter, layout, supers, wrappers
from cnp.build.discover import Source, discover
from cnp.build.extract import Extracted, extract
from cnp.build.forms import best, narrowed, plain_form, shortened
from cnp.build.learn import Learner
from cnp.build.shapes import Shape, registers, with_feature
from cnp.build.shapes import shapes as all_shapes
from cnp.build.toolchain import Toolchain
from cnp.build.wrappers import HEADER_BYTES, Sample
from cnp.errors import BuildError, ToolError
from cnp.library import Built
from cnp.source import digest_of
from cnp.stencil import Form, Import, Operation, StateField, Stencil
from cnp.target import Feature, Target

LOCATED = re.compile(r"\S.*?:(\d+):")  #: a message at a line, not the lines that show it
INCLUDED_FROM = re.compile(
    r"(In file included from |\s+from )(<stdin>|\S*/cnp-\w+/)"
)  #: files that the builder printed
PRINTED_NOTE = re.compile(r"\S*/cnp-\w+/\S*: note:")
CRASH = "frontend command failed"  #: what clang says when it dies
Item = TypeVar("Item")
PORTION = 2500  #: stencils that are compiled at once

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
    "-Werror=return-type",  # a path without an answer
    "-Werror=undefined-internal",  # CNP_OP_SLOW without its CNP_SLOW
)


@dataclass(frozen=True, slots=True)
class Job:
    """One source for one target. keep: folder for IR, assembly and objects to look at. name: what messages call the source,
    its path if not given. include: more folders of headers. feature: what the processor has beyond the base line."""

    source: Path
    target: Target
    toolchain: Toolchain
    keep: Path | None = None
    name: str = ""
    include: tuple[Path, ...] = ()
    feature: Feature | None = None

    @property
    def machine(self) -> list[str]:
        """Options that say what the code is for."""
        beyond = self.feature.cflags if self.feature else ()
        return [f"--target={self.target.triple}", *self.target.cflags, *beyond]

    @property
    def flags(self) -> list[str]:
        return [*self.machine, *SHAPE, *MEANING, *WARNINGS]

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
            *(f"-I{path.resolve()}" for path in self.include),
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
    with told(job):
        return pipeline(job)


def pipeline(job: Job) -> Made:
    """The whole way; clang's errors as they come."""
    source = discover(job.source, job.toolchain, [*job.flags, *job.includes()])
    helpers = calls.find(source, job.toolchain, job.machine, [*MEANING, *job.includes()])
    with tempfile.TemporaryDirectory(prefix="cnp-") as scratch:
        folder = job.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        compiler = Compiler(job, source, helpers, folder)
        units = interpreter.units(source, job.target, helpers.callers, helpers.natives)
        compiler.objects += [data for unit in units if (data := compile_unit(job, folder, unit))]
        shapes = all_shapes(source, job.target)
        learner = Learner(shapes, job.target, registers(source, job.target), source.result)
        plain = [Sample(shape, 0) for shape in shapes if not shape.learned]
        batch = learner.ask()
        learner.tell(compiler.compile([*plain, *batch.samples], batch.texts), compiler.sections)
        for shape in featured(compiler, shapes, learner):
            learner.begin(shape)
        while any(batch := learner.ask()):
            learner.tell(compiler.compile(*batch), compiler.sections)
        reports = [path.read_text() for path in folder.glob("*.su")]
        interpreted = max((stack_usage(job, report) for report in reports), default=0)
    extracted = compiler.extracted
    assert extracted is not None  # the first batch is never empty
    forms = learner.forms()
    for sample in plain:
        form = plain_form(sample.shape, extracted, job.target)
        forms.setdefault(sample.shape.operation, []).append(form)
    for found in forms.values():
        found += [shorter for form in found for shorter in shortened(form, job.target, compiler.straight)]
    file = library.pack(hand_over(job, source, forms, shapes, extracted, helpers, interpreted))
    return Made(file, tuple(compiler.objects), extracted)


@contextmanager
def told(job: Job) -> Iterator[None]:
    """What goes wrong as a BuildError in the user's terms: at the user's line, in clang's own words if they are clang's."""
    try:
        yield
    except (BuildError, ToolError) as error:
        if isinstance(error, ToolError) and "status" not in error.evidence:
            raise  # clang did not even start
        name, folder = job.name or str(job.source), job.source.parent.as_posix()
        lines = list(users_lines(error.message))
        lines = [
            f"{folder}/{line[2:]}" if line.startswith("./") else line for line in lines
        ]  # clang ran there
        first = next(filter(None, map(LOCATED.match, lines)), None)
        number = error.evidence.get("line") or (int(first[1]) if first else 0)
        if not first:
            lines[0] = f"{name}{f':{number}' if number else ''}: error: {lines[0]}"
        facts = {"op": "", **error.evidence, "target": job.target.name, "line": number}
        raise BuildError("\n".join(lines), **facts) from error


def users_lines(message: str) -> Iterator[str]:
    """The lines of a message that are about the user's files: not how the builder's include them, nor where these use what
    is wrong."""
    about = True
    for line in message.splitlines():
        if not line.startswith(" "):
            about = not (INCLUDED_FROM.match(line) or PRINTED_NOTE.match(line))
        if about and not INCLUDED_FROM.match(line):
            yield line


def featured(compiler: Compiler, shapes: list[Shape], learner: Learner) -> list[Shape]:
    """The forms in registers once more for each feature, of the operations that it makes shorter: the one with the fewest
    immediates tells. Forms with slots gain little, for the assembler composes."""
    in_registers: dict[str, list[Shape]] = {}
    for shape in shapes:
        if learner.asks_about(shape) and all(pick.kind != "slot" for pick in shape.picks):
            in_registers.setdefault(shape.operation, []).append(shape)
    samples = [
        learner.sample(min(found, key=lambda shape: sum(pick.kind not in "rf" for pick in shape.picks)))
        for found in in_registers.values()
    ]
    found: list[Shape] = []
    for feature in compiler.job.target.features if samples else ():
        count = compiler.count_instructions(samples, feature.name)
        better = (s.shape.operation for s in samples if count[s.key] < compiler.counts[s.key])
        found += [with_feature(shape, feature.name) for name in better for shape in in_registers[name]]
    return found


Texts = Mapping[str, tuple[str, list[str]]]  #: key -> the key that it was renamed from, assembly


class Compiler:
    """Compiles samples of one vocabulary, batch by batch. objects: all that were made; extracted: what is in them."""

    def __init__(self, job: Job, source: Source, helpers: calls.Helpers, folder: Path) -> None:
        self.job, self.source, self.folder = job, source, folder
        self.jobs = {"": job} | {f.name: replace(job, feature=f) for f in job.target.features}
        self.helpers = helpers
        self.objects: list[bytes] = []
        self.extracted: Extracted | None = None
        self.straight: set[bytes] = set()
        self.straight_keys: set[str] = set()
        self.heads: dict[str, list[str]] = {}
        self.features: dict[str, str] = {}
        self.constants: dict[str, list[str]] = {}
        self.stack: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.sections: dict[str, list[str]] = {}
        self.count = 0

    def compile(self, samples: list[Sample], texts: Texts) -> dict[str, Stencil]:
        """The stencils of samples and of assembly texts, by key. The first call also reads the objects that are there
        already."""
        lines = {s.shape.operation: s.shape.declaration.line for s in samples}
        first = self.extracted is None
        self.features |= {sample.key: sample.shape.feature for sample in samples}
        self.features |= {key: self.features[origin] for key, (origin, _) in texts.items()}
        portions = [
            (feature, part)
            for feature in self.jobs
            for part in in_portions([sample for sample in samples if sample.shape.feature == feature])
        ] or [("", [])] * first
        with ThreadPoolExecutor(2) as pool:  # clang runs in processes of its own
            made = list(pool.map(lambda part: self.one(*part), enumerate(portions, self.count)))
        self.count += len(portions)
        known = [arranged for _, arranged in made]
        for (feature, _), arranged in zip(portions, known, strict=True):
            self.heads.setdefault(feature, arranged.head)
            self.constants |= arranged.constants
            self.stack |= arranged.stack
            self.counts |= arranged.instructions
        for key, (origin, _) in texts.items():
            self.stack[key], self.counts[key] = self.stack[origin], self.counts[origin]
        result = self.extracted
        for feature in self.jobs:
            objects = [data for (name, _), (data, _) in zip(portions, made, strict=True) if name == feature]
            objects += self.assemble_texts(
                {k: t for k, t in texts.items() if self.features[k] == feature}, feature
            )
            # the interpreters come last: faults are told of an operation
            everything = [*objects, *(self.objects if first and not feature else [])]
            if not everything:
                continue
            result = extract(
                everything,
                self.job.target,
                self.stack,
                lines,
                self.helpers.signatures,
                self.counts,
                result,
                feature,
            )
            self.objects = everything if first and not feature else [*self.objects, *objects]
        self.sections = {key: text for arranged in known for key, text in arranged.sections.items()}
        self.extracted = result
        assert result is not None  # there is the base line at least
        stencils = result.stencils
        straight = {key for arranged in known for key in arranged.straight}
        straight |= {key for key, (origin, _) in texts.items() if origin in self.straight_keys}
        self.straight_keys |= straight
        for key in straight:
            variants = filter(None, (stencils[key], stencils.get(f"{key}.far")))
            self.straight |= {variant.blocks[0].code for variant in variants}
        return stencils

    def assemble_texts(self, texts: Texts, feature: str) -> list[bytes]:
        """Objects of assembly texts, with the constants that they mention."""
        portions = list(in_portions([section for _, section in texts.values()]))

        def one(numbered: tuple[int, list[list[str]]]) -> bytes:
            number, portion = numbered
            lines = [*self.heads[feature], *(line for section in portion for line in section)]
            text = "\n".join(lines) + "\n"
            name = f"renamed{self.count}.{feature}{number}"
            text += layout.definitions(text, self.constants)
            return assemble(self.jobs[feature], self.folder, name, text)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(one, enumerate(portions)))

    def one(self, number: int, part: tuple[str, list[Sample]]) -> tuple[bytes, layout.Arranged]:
        """One object of samples for one feature."""
        feature, samples = part
        name = f"stencils{number or ''}"
        arranged = self.arranged(name, samples, feature, f"{layout.CONSTANT}{number}.")
        return assemble(self.jobs[feature], self.folder, name, arranged.text), arranged

    def arranged(self, name: str, samples: list[Sample], feature: str, constants: str) -> layout.Arranged:
        """The edited assembly of samples. constants: begins the names of theirs, which other objects can use."""
        lines = {s.shape.operation: s.shape.declaration.line for s in samples}
        text = wrappers.stencil_source(self.source, self.job.target, samples, self.helpers)
        assembly = compile_stencils(self.jobs[feature], self.folder, name, text)
        return layout.arrange(assembly.replace(".LCPI", constants), self.job.target, lines)

    def count_instructions(self, samples: list[Sample], feature: str) -> dict[str, int]:
        """Instructions in the hot parts of samples, compiled for a feature, by key."""
        return self.arranged(f"probe.{feature}", samples, feature, layout.CONSTANT).instructions


def in_portions(items: list[Item]) -> Iterator[list[Item]]:
    """What is compiled or assembled at once."""
    return (items[start : start + PORTION] for start in range(0, len(items), PORTION))


def compile_stencils(job: Job, folder: Path, name: str, text: str) -> str:
    """C -> assembly; by way of IR where the convention has no name in C."""
    c_file, assembly = folder / f"{name}.c", folder / f"{name}.s"
    c_file.write_text(text)
    flags = [*job.flags, *job.includes()]
    if not job.target.fastcc:
        run_clang(job, [*flags, *job.target.llvm_flags, "-S", c_file, "-o", assembly])
        return assembly.read_text()
    ir = folder / f"{name}.ll"
    run_clang(job, [*flags, "-emit-llvm", "-S", c_file, "-o", ir])
    ir.write_text(convention.to_fastcc(ir.read_text(), job.target.name))
    keep = [flag for flag in job.flags if not flag.startswith("-W")]
    keep += [*job.target.llvm_flags, "-Xclang", "-disable-llvm-passes", "-Wno-override-module"]
    run_clang(job, [*keep, "-x", "ir", "-S", ir, "-o", assembly])
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
    flags = [*job.machine, "-Wno-unused-command-line-argument"]
    run_clang(job, [*flags, *job.target.llvm_flags, "-c", path, "-o", out])
    return out.read_bytes()


def compile_plain(job: Job, folder: Path, unit: interpreter.Unit) -> bytes:
    """An interpreter -> object, by way of assembly so that a target may clean it."""
    c_file, assembly = folder / f"{unit.name}.c", folder / f"{unit.name}.s"
    c_file.write_text(unit.text)
    flags = [*job.flags, *unit.flags, *job.includes(), *job.target.llvm_flags, "-fstack-usage"]
    run_clang(job, [*flags, "-S", c_file, "-o", assembly])
    cleaned = (job.target.syntax.clean(line) for line in assembly.read_text().splitlines())
    text = "\n".join(line for line in cleaned if line is not None) + "\n"
    return assemble(job, folder, unit.name, with_own_functions(text, unit.name))


def with_own_functions(text: str, unit: str) -> str:
    """Assembly whose static functions are in sections with the unit's name behind theirs: made for other flags and calls,
    they are not those of the stencils."""
    functions = set(re.findall(r"^\s*\.type\s+([^\s,]+), ?[@%]function", text, re.MULTILINE))
    static = functions - set(re.findall(r"^\s*\.globl\s+(\S+)", text, re.MULTILINE))

    def own(found: re.Match[str]) -> str:
        return f"{found[0]}.{unit}" if found[1] in static else found[0]

    return re.sub(r"^\s*\.section\s+\.text\.([^\s,]+)", own, text, flags=re.MULTILINE)


def compile_unit(job: Job, folder: Path, unit: interpreter.Unit) -> bytes:
    """An interpreter's object. Nothing where clang itself fails at the threaded one (22 dies of some bodies on mips64): the
    vocabulary then has the switch only, as on the targets that lack it."""
    try:
        return compile_plain(job, folder, unit)
    except BuildError as error:
        if unit.name == interpreter.OPTIONAL and CRASH in error.message:
            (folder / f"{unit.name}.su").unlink(missing_ok=True)
            return b""
        raise


def stack_usage(job: Job, report: str) -> int:
    """Native stack of one nested call in the interpreter, in bytes, from clang's report of its functions."""
    found = interpreter.native_stack(report)
    if found is None:
        message = (
            f"the interpreter's native stack has no fixed size on {job.target.name}: a body allocates on it"
        )
        raise BuildError(message, op="", line=0, target=job.target.name)
    return found


# ---- what goes into the file


Forms = dict[str, list[Form]]  #: by operation


def hand_over(
    job: Job,
    source: Source,
    forms: Forms,
    shapes: list[Shape],
    extracted: Extracted,
    helpers: calls.Helpers,
    interpreter_stack: int,
) -> Built:
    """Put operations and their stencils together."""
    first = {shape.operation: shape for shape in reversed(shapes)}
    names = list(dict.fromkeys(shape.operation for shape in shapes))
    operations = tuple(
        Operation(
            name,
            index,
            first[name].operands,
            best([narrowed(form, job.target) for form in forms[name]]),
            first[name].declaration.line,
            bool(helpers.natives & {first[name].declaration.name, f"{first[name].declaration.name}_slow"}),
        )
        for index, name in enumerate(names)
    )
    state, size = state_fields(source)
    banks = registers(source, job.target)
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
        {bank: numbers for bank, numbers in (("r", banks.r), ("f", banks.f)) if numbers},
        {item.name: item.parts for item in supers.supers(source)},
    )


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
        "sources": own_sources(job),
    }


def inputs_digest(job: Job) -> str:
    """SHA-256 of everything that decides the bytes: sources and what they include, flags, clang, the builder itself."""
    digest = hashlib.sha256()
    digest.update(
        json.dumps([job.flags, job.target.llvm_flags, job.toolchain.version, library.FORMAT]).encode()
    )
    package = Path(__file__).parents[1]
    types = [package / f"{name}.py" for name in ("library", "stencil", "tables", "target")]
    builder = sorted([*package.glob("build/*.py"), *package.glob("targets/*.py"), *types])
    for path in [*input_files(job), *builder]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def input_files(job: Job) -> list[Path]:
    """The source and what it includes."""
    with told(job):
        listed = job.toolchain.compile("-E", "-M", *job.flags, *job.includes(), job.source)
    names = re.split(r"(?<!\\)\s+", listed.replace("\\\n", " ").partition(":")[2].strip())
    return [Path(re.sub(r"\\([ #])", r"\1", name).replace("$$", "$")) for name in names]  # as make reads them


def own_sources(job: Job) -> dict[str, str]:
    """SHA-256 of the source and of the headers in its folder, by their paths in it: who has no compiler can see by these
    whether the file is of the source beside it."""
    folder = job.source.resolve().parent
    paths = [path.resolve() for path in input_files(job)]
    return {
        path.relative_to(folder).as_posix(): digest_of(path) for path in paths if path.is_relative_to(folder)
    }
