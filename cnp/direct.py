"""Callables straight from records, for who makes many short functions: no assembler, no object for each operation.

make = vm.direct("int64_t(int64_t)", frame=16)
double = make(records)       # any buffer of records: cnp/emit.py says what they are
double(21)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cnp import native
from cnp.emit import RECORD, Batch, Buffer
from cnp.errors import OperandError, SymbolError
from cnp.library import Library
from cnp.link import check_host, code_memory
from cnp.running import fail
from cnp.signature import parse_signature
from cnp.slabs import Slabs


class Direct:
    """Makes functions of one signature; one thread at a time. Each lives as long as its callable.

    frame: bytes of slots; arguments lie in the slots 0, 8, 16 …. helpers: addresses of what operations call, by name. Functions
    cannot call others: such a call traps. StateError: the core in C is missing, or the code is for another machine.
    OperandError: the arguments do not lie in the frame.
    """

    def __init__(
        self, library: Library, signature: str, frame: int, helpers: Mapping[str, int], name: str = "direct"
    ) -> None:
        check_host(library.target)
        arguments = len(parse_signature(signature).arguments)
        if frame < 8 * arguments or frame % 8:
            what = f"a multiple of 8, at least {8 * arguments}"
            raise OperandError(
                f"a frame of {frame} bytes: {what}", op="", operand="frame", value=frame, allowed=what
            )
        self.library, self._batch, self._slabs = library, Batch(library), Slabs(code_memory(library.target))
        self._signature, self._frame, self._name = signature, frame, name
        self._addresses = {native.POLL: native.poll_address(), **helpers}
        self._has_all = all(item.name in self._addresses for item in library.imports)
        self._state = bytes(library.state_size)

    def __call__(self, records: Buffer) -> Callable[..., Any]:
        """A function of these records, which are copied. OperandError, LabelError, RangeError: as for an assembler.
        SymbolError: a helper is missing."""
        batch, library, held = self._batch, self.library, bytes(records)
        code_size, data_size = batch.assemble(self._frame, held)
        if not self._has_all and (missing := batch.missing(self._addresses)):
            raise SymbolError(f"no address for {', '.join(missing)}", symbols=missing)
        block, start = self._slabs.take(code_size, data_size)
        _, enter, code = batch.place(block, self._addresses, start)

        def failed(kind: int, trap: int, frame: int, op: int) -> None:
            number = RECORD.unpack_from(held, op * RECORD.size)[0]
            fail(library, kind, trap, frame, op, library.operations[number], None)

        return native.make_callable(
            enter=enter, code=code, signature=self._signature, header_size=library.header_size, state=self._state,
            frame_bytes=library.header_size + self._frame, depth=0, name=self._name, doc=self._signature, failed=failed, keepalive=block,
        )  # fmt: skip
