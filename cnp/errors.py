"""The exceptions of cnp: one class for each decision a caller can make, the evidence as fields.

What Python says itself comes as it is: TypeError where a value has no business to be (a text for a number), OSError where a
file cannot be written.
"""

from __future__ import annotations

from typing import Any


class CnpError(Exception):
    """Base of all errors of this library. Every keyword of the constructor becomes a field of the error.

    >>> BuildError("no tail jump", op="add", line=12).op
    'add'
    """

    def __init__(self, message: str, **evidence: Any) -> None:
        super().__init__(message)
        self.message = message
        self.evidence = evidence

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["evidence"][name]
        except KeyError:
            raise AttributeError(name) from None


class ToolError(CnpError):
    """A program from outside (clang, lld, qemu) is missing, too old or failed. Fields: tool."""


class BuildError(CnpError):
    """A C source breaks the contract, or its object holds what no stencil may hold. Fields: op, target, line."""


class LibraryError(CnpError):
    """A stencil file is damaged, of another format or target, or not what its digest says. Fields: path."""


class OperandError(CnpError):
    """An operation was given operands it does not take. Fields: op, operand, value, allowed."""


class BytecodeError(CnpError):
    """An instruction of bytecode breaks a rule of its description. Fields: index (its place in words), opcode, rule (one of
    cnp.bytecode.RULES), field, value, allowed."""


class RangeError(CnpError):
    """A value does not fit its hole. Fields: op, index, hole, field, symbol, value, low, high, align,
    at (source position)."""


class LabelError(CnpError):
    """A label is unbound, bound twice or of another program; a program runs off its end. Fields: label, and
    index where one operation is to blame."""


class SymbolError(CnpError):
    """Imports without an address. Fields: symbols (all that are missing)."""


class MemoryFault(CnpError):
    """The system refused memory or a change of its protection. Fields: call, errno, size."""


class StateError(CnpError):
    """A call came at the wrong time, for example on code that is closed. Fields: state."""


class TrapError(CnpError):
    """Generated code trapped where the caller asked for a value. Fields: code, op, index, at (source position), state (as it
    was then)."""


class HostError(CnpError):
    """A program for another target did not run to its end. Fields: target, status, output."""


class SignatureError(CnpError):
    """A C signature is not understood. Fields: signature, type."""


class CacheWarning(UserWarning):
    """What should have saved a build could not be used: a prebuilt file of another source, a cache that is damaged, full or
    read-only. The code is right all the same."""
