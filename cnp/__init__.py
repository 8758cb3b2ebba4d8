"""cnp: a copy-and-patch JIT library. Operations are written once, in C; code comes out for five machines."""

from __future__ import annotations

from cnp.compose import Cost
from cnp.core import get_include
from cnp.errors import (
    BuildError,
    BytecodeError,
    CacheWarning,
    CnpError,
    HostError,
    LabelError,
    LibraryError,
    MemoryFault,
    OperandError,
    RangeError,
    SignatureError,
    StateError,
    SymbolError,
    ToolError,
    TrapError,
)
from cnp.library import Library
from cnp.operands import (
    Cell,
    DataLabel,
    Function,
    Label,
    Lazy,
    Offset,
    Register,
    Slot,
    Symbol,
    Table,
    f,
    r,
    slot,
)
from cnp.result import Activation, Result
from cnp.runtime import Assembler, Code, Entry, Frame, Vocabulary, address, compile, load, load_code, process

__version__ = "0.1.0"

__all__ = [
    "Activation",
    "Assembler",
    "BuildError",
    "BytecodeError",
    "CacheWarning",
    "Cell",
    "CnpError",
    "Code",
    "Cost",
    "DataLabel",
    "Entry",
    "Frame",
    "Function",
    "HostError",
    "Label",
    "LabelError",
    "Lazy",
    "Library",
    "LibraryError",
    "MemoryFault",
    "Offset",
    "OperandError",
    "RangeError",
    "Register",
    "Result",
    "SignatureError",
    "Slot",
    "StateError",
    "Symbol",
    "SymbolError",
    "Table",
    "ToolError",
    "TrapError",
    "Vocabulary",
    "__version__",
    "address",
    "compile",
    "f",
    "get_include",
    "load",
    "load_code",
    "process",
    "r",
    "slot",
]
