"""Where the addresses of symbols come from: dicts, callables, libraries, the process, other code objects.

vm.assembler(symbols={"table": 0x7000})         addresses or pointers
vm.assembler(symbols=lambda name: …)            an address, or None
vm.assembler(symbols=ffi.dlopen("libm.so.6"))   a library of cffi or ctypes
vm.assembler(symbols=cnp.process)               whatever this process has loaded
vm.assembler(symbols=[code, cnp.process])       the first that knows the name
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnp.errors import SymbolError

if TYPE_CHECKING:
    from cnp.code import Code

FUNCTION_POINTER = type(ctypes.CFUNCTYPE(None)()).__mro__[1]  #: what all ctypes functions are

Find = Callable[[str], int | None]


def process(name: str) -> int | None:
    """The address of a symbol that this process has loaded (dlsym); None if there is none."""
    return in_ctypes(ctypes.CDLL(None), name)


def pointer_value(value: object) -> int | None:
    """The address in a ctypes or cffi pointer; None for anything else."""
    if isinstance(value, FUNCTION_POINTER):
        pointer: Any = value
        return ctypes.cast(pointer, ctypes.c_void_p).value
    if type(value).__module__ == "_cffi_backend":
        from cffi import FFI

        return int(FFI().cast("uintptr_t", value))
    return None


class Symbols:
    """The sources of a program, in order.

    codes: other code objects whose symbols were taken; they must live as long as what took them.
    """

    def __init__(self, given: object) -> None:
        self._sources = list(sources(given))
        self.codes: dict[Code, None] = {}

    def address(self, name: str) -> int | None:
        """The address of a symbol; None if no source knows it."""
        for source in self._sources:
            found = find(source, name)
            if found is not None:
                if is_code(source):
                    self.codes[source] = None
                return found
        return None

    def portable(self, name: str) -> int | None:
        """The same from what is not of this process: what dicts and callables say."""
        for source in self._sources:
            if isinstance(source, Mapping) or (callable(source) and source is not process):
                found = find(source, name)
                if found is not None:
                    return found
        return None


def sources(given: object) -> Iterator[Any]:
    """One source, or several in a list."""
    if given is None:
        return
    if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
        for one in given:
            yield from sources(one)
    else:
        yield given


def is_code(source: object) -> bool:
    from cnp.code import Code  # which takes symbols itself

    return isinstance(source, Code)


def find(source: Any, name: str) -> int | None:
    """The address of a symbol in one source. SymbolError: this is no source, or no address."""
    if is_code(source):
        found: object = source.symbols.get(name)
    elif isinstance(source, Mapping):
        found = source.get(name)
    elif isinstance(source, ctypes.CDLL):
        found = in_ctypes(source, name)
    elif hasattr(type(source), "__addressof__") or type(source).__module__ == "_cffi_backend":
        found = in_cffi(source, name)
    elif callable(source):
        found = source(name)
    else:
        message = (
            f"symbols are {source!r}: give a dict, a callable, a library, a code object or a list of these"
        )
        raise SymbolError(message, symbols=[name])
    if found is None or (isinstance(found, int) and not isinstance(found, bool)):
        return found
    address = pointer_value(found)
    if address is None:
        raise SymbolError(f"symbol {name} is {found!r}: give an address or a pointer", symbols=[name])
    return address


def in_ctypes(library: ctypes.CDLL, name: str) -> int | None:
    """The address of a symbol in a library of ctypes: of a function or of data."""
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(library, name))
    except ValueError:
        return None


def in_cffi(library: Any, name: str) -> object:
    """A pointer to a function or variable that a library of cffi declares."""
    try:
        if hasattr(type(library), "__addressof__"):
            return type(library).__addressof__(library, name)
        return importlib.import_module("_cffi_backend").FFI().addressof(library, name)
    except AttributeError:
        return None
