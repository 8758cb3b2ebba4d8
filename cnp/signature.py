"""C signatures such as "int64_t(int64_t, double)": read once, then known as one letter for each type.

The letters are those of Python's struct module, and "v" for a result of void. A pointer is an integer to
Python.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from cnp.errors import SignatureError

#: Letter -> the C type as it is handed to cffi. All targets are LP64: long has 64 bits.
C_TYPES = {
    "b": "int8_t",
    "B": "uint8_t",
    "h": "int16_t",
    "H": "uint16_t",
    "i": "int32_t",
    "I": "uint32_t",
    "q": "int64_t",
    "Q": "uint64_t",
    "f": "float",
    "d": "double",
    "?": "_Bool",
    "P": "uintptr_t",
    "v": "void",
}

_LETTERS = {name: letter for letter, name in C_TYPES.items()} | {
    "i8": "b",  # the names of cnp.h
    "u8": "B",
    "i16": "h",
    "u16": "H",
    "i32": "i",
    "u32": "I",
    "i64": "q",
    "u64": "Q",
    "f32": "f",
    "f64": "d",
    "bool": "?",
    "signed char": "b",
    "unsigned char": "B",
    "short": "h",
    "unsigned short": "H",
    "int": "i",
    "unsigned": "I",
    "unsigned int": "I",
    "long": "q",
    "unsigned long": "Q",
    "long long": "q",
    "unsigned long long": "Q",
    "intptr_t": "q",
    "uintptr_t": "P",
    "ptrdiff_t": "q",
    "ssize_t": "q",
    "size_t": "Q",
}

_SHAPE = re.compile(r"\s*([\w\s*]+?)\s*\(\s*(?:\*\s*\)\s*\()?([\w\s*,]*)\)\s*")
_POINTER = re.compile(r"\w[\w ]*( ?\*)+")


class Signature(NamedTuple):
    """Types by their letters: `result`, and one letter of `arguments` for each argument."""

    result: str
    arguments: str

    @property
    def c(self) -> str:
        """The signature in C's words, pointers as uintptr_t."""
        names = ", ".join(C_TYPES[letter] for letter in self.arguments)
        return f"{C_TYPES[self.result]}({names or 'void'})"


@lru_cache(maxsize=1024)
def parse_signature(text: str) -> Signature:
    """Read "result(argument, …)" or "result(*)(argument, …)"; names of arguments are not understood. Types may have their
    names of `cnp.h`: "i64(i64, f64)".

    SignatureError (fields signature, type): a type is unknown, or void where a value is needed.
    """
    match = _SHAPE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise SignatureError(f"not of the form result(argument, …): {text!r}", signature=text, type=None)
    result, inner = match.groups()
    names = [] if inner.strip() in ("", "void") else inner.split(",")
    arguments = "".join(_letter(name, text) for name in names)
    if "v" in arguments:
        raise SignatureError(f"an argument of {text!r} is void", signature=text, type="void")
    return Signature(_letter(result, text), arguments)


def _letter(name: str, signature: str) -> str:
    words = " ".join(word for word in name.replace("*", " * ").split() if word != "const")
    if _POINTER.fullmatch(words):
        return "P"
    try:
        return _LETTERS[words]
    except KeyError:
        raise SignatureError(
            f"unknown type {name.strip()!r} in {signature!r}", signature=signature, type=words
        ) from None
