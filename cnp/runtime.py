"""What a user calls: load a vocabulary, assemble, build, run.

vm = cnp.load("my_vm.x86_64.cnp")
asm = vm.assembler(helpers={"vm_print": print})
asm.function("main", frame=64)
...
code = asm.build()
result = code["main"].run({"sp": cnp.address(stack)})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cnp import encode, interpret, patch, saved, source, targets
from cnp.assembler import Assembler as BareAssembler
from cnp.code import Code, Entry
from cnp.direct import Direct
from cnp.emit import flat
from cnp.errors import LibraryError, OperandError, StateError
from cnp.library import Library
from cnp.operands import Function, Label
from cnp.result import Result
from cnp.running import DEPTH, Frame, State, address
from cnp.sections import Buffer
from cnp.stencil import Operation
from cnp.symbols import Symbols, process

__all__ = [
    "Assembler",
    "Code",
    "Entry",
    "Frame",
    "Sizes",
    "Vocabulary",
    "address",
    "compile",
    "installed",
    "load",
    "load_code",
    "process",
]


class Vocabulary:
    """A loaded stencil file: its operations, its state, and assemblers for it."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.target = library.target

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the operations, in the order of their source."""
        return self.library.operations

    @property
    def ops(self) -> Mapping[str, Operation]:
        """The operations by name, each with its operands, forms, stencils, holes and sizes (`cnp/stencil.py`)."""
        return {name: self.library[name] for name in self.library.operations}

    def assembler(
        self,
        helpers: Mapping[str, object] | None = None,
        symbols: object = None,
        supers: bool = False,
        strict: bool = False,
    ) -> Assembler:
        """A new program. helpers: name -> address, Python callable, or cffi or ctypes function pointer. symbols: where
        other names come from: a dict, a callable, a library of cffi or ctypes, `cnp.process`, a code object, or a list
        of these. supers: `build` puts super-operations where their parts stand in a row; before that, `asm.fuse()` does.
        strict: a register that the target lacks is an OperandError, and no slot."""
        return Assembler(self.library, helpers or {}, strict, symbols, supers)

    def direct(
        self, signature: str, frame: int, helpers: Mapping[str, int] | None = None, name: str = "direct"
    ) -> Direct:
        """What makes callables straight from records: `cnp/direct.py`. helpers: name -> address."""
        return Direct(self.library, signature, frame, helpers or {}, name)

    def interpret(
        self,
        program: Code | Assembler,
        place: Function | Label | int | str,
        state: State | None = None,
        frame: Frame | None = None,
        depth: int = DEPTH,
        fuel: int | None = None,
        threaded: bool | None = None,
    ) -> Result:
        """Run a program by the interpreter of the same bodies, from a function (or its name), a label or a position on.

        program: code, or an assembler, which is built. state, frame, depth, fuel: as in `Entry.run`. threaded: by that one,
        or by the switch; None: by the faster one that there is. StateError: the source did not want it (CNP_INTERPRET).
        """
        code = program.build() if isinstance(program, Assembler) else program
        if threaded is None:
            threaded = interpret.has_threads(code.library)
        return code.interpreter.run(place, state, frame, depth, fuel, threaded)

    def frame(self, slots: int) -> Frame:
        """Memory for `slots` bytes of slots and the header below them."""
        return Frame(self.library, slots)


def load(path: str | Path, target: str = "host", features: Iterable[str] | None = None) -> Vocabulary:
    """Load a stencil file: a path, the name of one that came with the library, such as `ops`, or a C source.

    Of `my_vm.c` the file `my_vm.TARGET.cnp` beside it is taken, if it was built from this very source; else clang compiles
    it into the user's cache. target: for which machine, where the path does not say it; code for another one can be encoded
    here. features: of its processor, beyond the base line (`Target.features`), that code may use: by default those of this
    machine's processor, and none of another machine's. LibraryError, BuildError, ToolError and CacheWarning say what is
    wrong; OperandError: the target has no feature of that name.
    """
    file = Path(path)
    wanted = targets.get(target)
    if file.suffix == ".c":
        return Vocabulary(source.of_file(file, wanted, features))
    if not file.suffix and not file.is_file():
        file = installed(str(path), wanted.name)
    return Vocabulary(Library.load(file, features))


def compile(
    text: str,
    target: str = "host",
    *,
    name: str = "<source>",
    include: str | Path | Iterable[str | Path] = (),
    features: Iterable[str] | None = None,
) -> Vocabulary:
    """Compile operations written in C, given as text; what was compiled before comes out of the user's cache.

    name: what messages call the text. include: folders of headers that it includes, or one. features: as for `load`. BuildError
    stands at the line of the text; ToolError: there is no clang.
    """
    folders = [include] if isinstance(include, (str, Path)) else include
    return Vocabulary(source.of_text(text, targets.get(target), name, folders, features))


def load_code(
    path: str | Path,
    vocabulary: Vocabulary | None = None,
    helpers: Mapping[str, object] | None = None,
    symbols: object = None,
) -> Code:
    """Code that was saved by `Code.save`, linked anew. helpers, symbols: as for an assembler.

    vocabulary: what it was assembled with; else the stencil file of that name beside it is taken, or the one that came
    with the library. LibraryError: the file is damaged, of another vocabulary, or needs a processor with more features.
    SymbolError: imports are missing.
    """
    file = Path(path)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise LibraryError(f"{path}: {error.strerror}", path=str(path)) from error
    contents = saved.contents_of(data, str(path))
    library = vocabulary.library if vocabulary else beside(file, contents["library"][0])
    return Code(saved.unpack(contents, library, str(path)), helpers or {}, symbols)


def beside(file: Path, name: str) -> Library:
    """The stencil file of that name in the folder of another file, or among those that came with the library."""
    for folder in (file.parent, Path(__file__).parent / "lib"):
        if Path(name).name == name and (folder / name).is_file():
            return Library.load(folder / name, features=None)
    message = f"{file} was assembled with {name}, which is not there: give its vocabulary, or put it beside"
    raise LibraryError(message, path=name)


def installed(name: str, target: str) -> Path:
    """The stencil file of a vocabulary that came with the library."""
    file = Path(__file__).parent / "lib" / f"{name}.{target}.cnp"
    if not file.exists():
        there = sorted(other.name.split(".")[0] for other in file.parent.glob(f"*.{target}.cnp"))
        known = (
            f"there are {', '.join(there)}"
            if there
            else f"build them: python build_stencils.py --target {target}"
        )
        raise LibraryError(f"there is no stencil file for {name} on {target}; {known}", path=str(file))
    return file


class Sizes(NamedTuple):
    """Bytes of code and of data that suffice wherever a program lies."""

    code: int
    data: int


#: What an assembler has besides its methods.
ATTRIBUTES = frozenset(["library", "program", "ops", "rodata", "data", "helpers", "symbols"])


def taken_names() -> frozenset[str]:
    """The names that an assembler has for itself: an operation of such a name would be hidden."""
    return ATTRIBUTES.union(name for name in dir(Assembler) if not name.startswith("_"))


class Assembler(BareAssembler):
    """An assembler that can build code for this machine, and bytes for any.

    helpers: name -> address, callable or function pointer. symbols: where other names come from (`cnp/symbols.py`).
    """

    def __init__(
        self,
        library: Library,
        helpers: Mapping[str, object],
        strict: bool = False,
        symbols: object = None,
        supers: bool = False,
    ) -> None:
        super().__init__(library, strict, supers)
        self.helpers, self.symbols = dict(helpers), symbols
        self._buffers: tuple[memoryview, memoryview] | None = None

    def _find(self, name: str) -> int | None:
        """The address of a helper or symbol for bytes that may run elsewhere."""
        given = self.helpers.get(name)
        if isinstance(given, int):
            return given
        symbols = Symbols(self.symbols)
        ours = self.library.target.name == targets.get("host").name
        return symbols.address(name) if ours else symbols.portable(name)

    def encode(self, base: int, data_base: int | None = None) -> patch.Image:
        """Bytes for any base address, on any host. The helpers that the program uses must be addresses; symbols of this
        process are those of its own target only."""
        return encode.encode(self.program, base, data_base, self._find)

    def link(self) -> Sizes:
        """Check the program; the bytes that its code and data take at most, wherever they lie."""
        self.check()
        return Sizes(*encode.size_bound(self.program))

    def encode_into(
        self, buffer: Buffer, base: int, data: Buffer = b"", data_base: int | None = None
    ) -> patch.Image:
        """Write code that is to run at `base` into a buffer, and what may be written while it runs, for `data_base`, into
        another: of at least the sizes of `link()`, if they are to hold the program anywhere. OperandError: a buffer is
        too small, cannot be written or does not lie in one piece."""
        views = flat("buffer", buffer), flat("data", data)
        image = self.encode(base, data_base)
        for name, view, content in zip(("buffer", "data"), views, (image.code, image.data), strict=True):
            if len(view) < len(content) or (content and view.readonly):
                wrong = f"has {len(view)} bytes" if len(view) < len(content) else "cannot be written"
                message = f"{name} {wrong}; the program takes {len(content)} there"
                raise OperandError(
                    message, op="", operand=name, value=len(view), allowed=(len(content), None)
                )
        for view, content in zip(views, (image.code, image.data), strict=True):
            if content:
                view[: len(content)] = content
        self._buffers = views
        return image

    def relocate(self, base: int, data_base: int | None = None) -> patch.Image:
        """Write the program into the buffers of the last `encode_into` once more, for another base. Data is as at first.
        StateError: there are no buffers."""
        if self._buffers is None:
            raise StateError("nothing was encoded into a buffer yet", state="no buffer")
        return self.encode_into(self._buffers[0], base, self._buffers[1], data_base)

    def reset(self) -> None:
        super().reset()
        self._buffers = None

    def build(self) -> Code:
        """Link the program into executable memory of this process. The assembler is closed then, until `reset()`; an error,
        as of a symbol that is missing, leaves it open."""
        was_closed, program = self._closed, self.close()
        try:
            return Code(program, self.helpers, self.symbols)
        except BaseException:
            if not was_closed:
                self._open()
            raise
