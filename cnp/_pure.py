"""What cnp._core does, in pure Python: slower, and with the limits that cnp/native.py names.

Memory is reached and C is called through cffi's backend; the FFI object is made as cffi's own generated
modules make it, so that pycparser is not imported. Layouts of frame and context: see cnp/_core.c.
"""

from __future__ import annotations

import importlib
import math
import operator
import os
import resource
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple

from cnp import targets
from cnp._backend import Arguments, Failed, closure
from cnp.errors import StateError
from cnp.signature import C_TYPES, Signature

TRAP_FUEL, TRAP_INTERRUPT, TRAP_RAISED = 6, 7, 8

CONTEXT_WORDS = 12
KIND, FRAME, VALUE, FUEL, RAISED, BUDGET, QUANTUM, CLOCK = 0, 1, 2, 3, 4, 5, 6, 9

HEADER = struct.Struct("=QIIIIQ")  # inner, op, code, depth, outer, context: the 32 bytes below slot 0

QUANTUM_FIRST, QUANTUM_MAX = 16, 1 << 14
CALL_LOW, CALL_HIGH = 1_000_000, 5_000_000  # ns between two polls

STACK_RESERVE, STACK_CALL = 48 << 10, 512

_UNSIGNED = {1: "uint8_t *", 2: "uint16_t *", 4: "uint32_t *", 8: "uint64_t *"}
_BITS = {"b": 8, "B": 8, "h": 16, "H": 16, "i": 32, "I": 32, "q": 64, "Q": 64, "P": 64}


class _Thread(threading.local):
    context = 0
    exception: BaseException | None = None


class PureBackend:
    """The fall-back without cnp._core; its functions are described in cnp/native.py."""

    def __init__(self) -> None:
        self.ffi: Any = importlib.import_module("_cffi_backend").FFI()
        self._thread = _Thread()
        self._forks = 0
        self._cells = threading.Lock()
        self._poll: Any = None
        os.register_at_fork(after_in_parent=self._forked, after_in_child=self._forked)

    def run(self, enter: int, frame: int, code: int) -> None:
        thread = self._thread
        outside = thread.context
        thread.context = self._words(frame - 8)[0]
        try:
            self.ffi.cast("void(*)(uintptr_t, uintptr_t)", enter)(frame, code)
        finally:
            thread.context = outside

    def poll_address(self) -> int:
        if self._poll is None:
            poll = Signature("Q", "P")
            self._poll = closure(self.ffi, poll, self._poll_once, TRAP_INTERRUPT, self._interrupted)
        return int(self.ffi.cast("uintptr_t", self._poll))

    def current_context(self) -> int:
        return self._thread.context

    def keep_exception(self, exception: BaseException) -> None:
        self._thread.exception = exception
        if self._thread.context:
            self._words(self._thread.context)[RAISED] = TRAP_RAISED

    def take_exception(self) -> BaseException | None:
        exception, self._thread.exception = self._thread.exception, None
        return exception

    def make_callable(self, *spec: Any) -> Callable[..., Any]:
        return PureCallable(self, CallableSpec(*spec))

    def flush(self, address: int, size: int) -> None:
        if not targets.get("host").coherent:
            raise StateError(
                "this machine needs a flush of its instruction cache: cnp._core is missing", state="pure"
            )

    def fork_count(self) -> int:
        return self._forks

    def stack_left(self) -> int:
        """Half of what a thread's stack has when it starts, 8 MiB where the limit is larger or none."""
        limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
        size = threading.stack_size() or (8 << 20 if limit == resource.RLIM_INFINITY else limit)
        return min(size, 8 << 20) // 2

    def cell_load(self, address: int, width: int) -> int:
        return int(self._cell(address, width)[0])

    def cell_store(self, address: int, width: int, value: int) -> int:
        return self._update(address, width, lambda before: value)

    def cell_add(self, address: int, width: int, value: int) -> int:
        return self._update(address, width, lambda before: (before + value) & ((1 << 8 * width) - 1))

    def cell_compare_exchange(self, address: int, width: int, expected: int, desired: int) -> int:
        return self._update(address, width, lambda before: desired if before == expected else before)

    def _cell(self, address: int, width: int) -> Any:
        return self.ffi.cast(_UNSIGNED[width], address)

    def _update(self, address: int, width: int, change: Callable[[int], int]) -> int:
        cell = self._cell(address, width)
        with self._cells:
            before = int(cell[0])
            after = change(before)
            if after != before:
                cell[0] = after
        return before

    def _words(self, address: int) -> Any:
        return self.ffi.cast("uint64_t *", address)

    def _forked(self) -> None:
        self._forks += 1

    # -- poll --

    def _poll_once(self, address: int) -> int:
        """Being in Python is enough for signal handlers to run and for other threads to have had the GIL."""
        context = self.ffi.cast("int64_t *", address)
        context[FUEL] = 0
        if context[BUDGET] == 0:
            return TRAP_FUEL
        now = time.monotonic_ns()
        quantum = _adapted(context[QUANTUM], now - context[CLOCK]) if context[CLOCK] else QUANTUM_FIRST
        context[CLOCK], context[QUANTUM] = now, quantum
        if context[BUDGET] > 0:
            quantum = min(quantum, context[BUDGET])
            context[BUDGET] -= quantum
        context[FUEL] = quantum - 1  # this poll is one of them
        return 0

    def _interrupted(self, kind: object, exception: BaseException, traceback: TracebackType | None) -> None:
        self._thread.exception = exception.with_traceback(traceback)


def _adapted(quantum: int, gap: int) -> int:
    if quantum < 1:
        return QUANTUM_FIRST
    if gap < CALL_LOW:
        quantum *= 4
    elif gap > CALL_HIGH:
        quantum = quantum * (CALL_HIGH // 2) // gap
    return max(1, min(quantum, QUANTUM_MAX))


class CallableSpec(NamedTuple):
    """What make_callable() was given."""

    enter: int
    code: int
    arguments: Arguments
    header_size: int
    state: bytes
    frame_bytes: int
    depth: int
    name: str
    doc: str
    failed: Failed
    keepalive: object


class PureCallable:
    """Generated code as a Python callable."""

    def __init__(self, backend: PureBackend, spec: CallableSpec) -> None:
        slots = spec.frame_bytes - spec.header_size
        if spec.header_size % 16 or spec.header_size < HEADER.size + len(spec.state):
            raise ValueError("header_size: a multiple of 16 with room for the state and 32 bytes")
        if slots < 0:
            raise ValueError("frame_bytes: the header does not fit")
        if len(spec.arguments.places) != len(spec.arguments.signature.arguments):
            raise ValueError("places: one for each argument")
        for place in spec.arguments.places:
            low, high = (-spec.header_size, len(spec.state) - spec.header_size) if place < 0 else (0, slots)
            if place % 8 or not low <= place <= high - 8:
                raise ValueError("places: not a slot of the frame, nor a word of the state")
        if spec.depth < 0:
            raise ValueError("depth: negative")
        self._backend = backend
        self._spec = spec
        self.__name__ = spec.name
        self.__doc__ = spec.doc

    def __repr__(self) -> str:
        return f"<generated function {self._spec.name}>"

    def __call__(self, *args: object) -> object:
        spec, backend = self._spec, self._backend
        types = spec.arguments.signature.arguments
        if len(args) != len(types):
            s = "" if len(types) == 1 else "s"
            raise TypeError(f"{spec.name}() takes exactly {len(types)} argument{s} ({len(args)} given)")
        slots = [_to_slot(letter, value) for letter, value in zip(types, args, strict=True)]
        left = backend.stack_left()
        depth = min(spec.depth, max(0, left - STACK_RESERVE) // STACK_CALL)
        memory = backend.ffi.new("char[]", spec.frame_bytes + 16)
        context = backend.ffi.new("uint64_t[]", CONTEXT_WORDS)
        context[FUEL] = context[QUANTUM] = QUANTUM_FIRST
        context[BUDGET] = (1 << 64) - 1
        start = -int(backend.ffi.cast("uintptr_t", memory)) % 16
        slot0 = start + spec.header_size
        buffer = backend.ffi.buffer(memory)
        buffer[start : start + len(spec.state)] = spec.state
        HEADER.pack_into(buffer, slot0 - HEADER.size, 0, 0, 0, depth, 0, self._address(context))
        for place, word in zip(spec.arguments.places, slots, strict=True):
            struct.pack_into("=Q", buffer, slot0 + place, word)
        backend.run(spec.enter, self._address(memory) + slot0, spec.code)
        if context[KIND]:
            return self._failed(context)
        return _from_word(spec.arguments.signature.result, context[VALUE])

    def _address(self, pointer: Any) -> int:
        return int(self._backend.ffi.cast("uintptr_t", pointer))

    def _failed(self, context: Any) -> object:
        frame = context[FRAME]
        header = self._backend.ffi.buffer(self._backend.ffi.cast("char *", frame - HEADER.size), HEADER.size)
        _, op, code, *_ = HEADER.unpack_from(header)
        return self._spec.failed(context[KIND], code, frame, op)


def _to_slot(letter: str, value: Any) -> int:
    """An argument as the 64 bits of its slot; see "arguments and results" in cnp/_core.c."""
    if letter == "?":
        return int(bool(value))
    if letter in "df":
        return _float_slot(letter, value)
    number = operator.index(value)
    bits = _BITS[letter]
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if letter.islower() else (0, 1 << bits)
    if not low <= number < high:
        raise OverflowError(f"{value!r} does not fit {'a pointer' if letter == 'P' else C_TYPES[letter]}")
    return number & (0xFFFF_FFFF if bits < 64 else (1 << 64) - 1)


def _float_slot(letter: str, value: Any) -> int:
    number = value if type(value) is float else math.ldexp(value, 0)  # TypeError for what is no number
    try:
        return int.from_bytes(struct.pack("<" + letter, number), "little")
    except OverflowError:
        raise OverflowError(f"{value!r} does not fit float") from None


def _from_word(letter: str, word: int) -> object:
    if letter == "v":
        return None
    if letter == "?":
        return word & 0xFFFF_FFFF != 0
    if letter == "P":
        return word
    size = struct.calcsize("<" + letter)
    return struct.unpack("<" + letter, (word & ((1 << 8 * size) - 1)).to_bytes(size, "little"))[0]
