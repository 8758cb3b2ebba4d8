"""What every run does, compiled or interpreted: memory for frames, what stands in them before, what is read after.

frame    prepare() writes header and context      native.run(...)      finish() reads how it ended
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from cnp import frame as layout
from cnp import native
from cnp.assembler import Function
from cnp.errors import OperandError, StateError, TrapError
from cnp.frame import FrameImage
from cnp.library import Library
from cnp.result import Activation, Result, read_result

if TYPE_CHECKING:
    from cnp.code import Code

DEPTH = 1000  #: calls that may be nested unless a run says otherwise
NATIVE_MARGIN = 256 * 1024  #: native stack that is left to helpers
NATIVE_LEAST = 48 * 1024  #: native stack without which no run begins
CALLABLE_FRAME = 512  #: native stack that a callable reckons with for one nested call
CALLABLE_SPARE = 24 * 1024  #: what all nested calls of a callable may take beyond that
HELD = (7, 8)  #: trap codes that stand for a Python exception

State = Mapping[str, int | float]


def address(buffer: bytearray | memoryview | ctypes.Array[Any]) -> int:
    """The address of a writable buffer's first byte. The buffer must outlive its use."""
    if isinstance(buffer, (bytearray, memoryview)):
        return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    return ctypes.addressof(buffer)


class Frame(FrameImage):
    """Memory of a frame in this process: `frame[offset]` is the 8-byte word at a slot's offset, unsigned."""

    def __init__(self, library: Library, slots: int) -> None:
        below = library.header_size + layout.CONTEXT_SIZE
        if slots < 0:
            raise OperandError(
                f"a frame of {slots} bytes", op="", operand="slots", value=slots, allowed=(0, None)
            )
        memory = bytearray(
            below + slots + 32
        )  # 15 to align; a callee's frame, and what is read there, may begin at the end
        start = address(memory)
        place = (start + below + 15) & -16
        super().__init__(library, slots, place, memoryview(memory)[place - below - start :])
        self.memory = memory
        self.left: tuple[Code, tuple[Activation, ...]] | None = None  # by the last run, for who resumes it
        self.lock = threading.Lock()  # held while a run uses it


@contextmanager
def alone(frame: Frame | None) -> Iterator[None]:
    """For the length of a run. StateError: another run, in a thread or around this one, is using the frame.
    OperandError: it is none."""
    if frame is None:
        yield
    elif not isinstance(frame, Frame):
        message = f"a frame is made by vm.frame(bytes); this is {type(frame).__name__}"
        raise OperandError(message, op="", operand="frame", value=frame, allowed="a frame")
    elif not frame.lock.acquire(blocking=False):
        raise StateError("another run is using this frame", state="busy")
    else:
        try:
            yield
        finally:
            frame.lock.release()


# ---- before and after a run


def prepare(
    code: Code,
    frame: Frame | None,
    state: State,
    depth: int,
    fuel: int | None,
    function: Function,
    native_frame: int,
) -> Frame:
    """Write header and context of a frame, a new one if there is none. Its memory and the native stack bound the depth."""
    if depth < 0:
        raise OperandError(
            f"depth is {depth}", op=function.name, operand="depth", value=depth, allowed=(0, None)
        )
    stack = native_stack()
    deepest = min(depth, stack // max(code.needs.native, native_frame))
    area = frame or Frame(code.library, code.needs.frame_bytes(function.frame, deepest))
    if area.library.state != code.library.state or area.library.target is not code.library.target:
        raise OperandError(
            "this frame is of another vocabulary", op=function.name, operand="frame", value=area, allowed=""
        )
    if area.size < function.frame:
        message = f"{function.name} needs a frame of {function.frame} bytes, not {area.size}"
        raise OperandError(
            message, op=function.name, operand="frame", value=area.size, allowed=function.frame
        )
    packed, context = (
        layout.pack_state(code.library, state),
        layout.pack_context(code.library, check_fuel(fuel)),
    )
    area.left = None
    area.set_context(context)
    area.set_header(
        layout.pack_header(code.library, packed, code.needs.depth_in(area.size, stack, deepest), area.context)
    )
    return area


def native_stack() -> int:
    """Bytes of native stack for nested calls. RecursionError: not even helpers have enough."""
    left = native.stack_left()
    if left < NATIVE_LEAST:
        raise RecursionError(f"{left} bytes are left on the native stack")
    return max(0, left - NATIVE_MARGIN)


def check_fuel(fuel: int | None) -> int | None:
    """`fuel` if a context can hold it."""
    if fuel is not None and not 0 <= fuel < 1 << 63:
        raise OperandError(f"fuel is {fuel}", op="", operand="fuel", value=fuel, allowed=(0, (1 << 63) - 1))
    return fuel


def finish(code: Code, area: Frame, outer: tuple[Activation, ...] = (), root: int | None = None) -> Result:
    """Read how a run ended; raise what a Python helper raised."""
    result = read_result(code.library, area, outer, root)
    if result.kind == "trap":
        raise_held(result.code)
    area.left = (code, result.activations) if result.activations else None
    return result


def raise_held(trap: int) -> None:
    """Raise what a Python helper or a signal handler raised."""
    if trap in HELD and (held := native.take_exception()) is not None:
        raise held


def op_name(code: Code, op: int) -> str:
    return code.program.ops[op].operation.name if 0 <= op < len(code.program.ops) else ""


def state_at(library: Library, frame: int) -> Mapping[str, int | float]:
    """The state that a run stored below a frame that it left."""
    header = ctypes.string_at(frame - library.header_size, library.header_size)
    return layout.unpack_header(library, header).state


def fail(library: Library, kind: int, trap: int, frame: int, op: int, name: str, at: object) -> NoReturn:
    """Raise why a callable did not return: what a Python helper raised, or TrapError. frame: address of the one that was left;
    name: of the operation; at: its place in a source."""
    way, why = layout.KINDS[kind], ""
    if way == "trap":
        raise_held(trap)
        why = f": {layout.TRAPS.get(trap, f'code {trap}')}"
    message = f"{way} at op {op} ({name}){why}"
    raise TrapError(message, code=trap, op=name, index=op, at=at, state=state_at(library, frame))
