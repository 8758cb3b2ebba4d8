"""Where symbols come from, and what code objects know of each other."""

from __future__ import annotations

import ctypes
import gc
import importlib
import math
import sys
import weakref
from typing import Any

import pytest

import cnp
from cnp import LabelError, OperandError, StateError, Symbol, SymbolError, native, slot
from cnp.foreign import Call, ForeignCode
from cnp.runtime import installed
from cnp.symbols import Symbols
from tests.support import every_target, need, runnable

FFI = pytest.importorskip("cffi").FFI
H = cnp.load("ops").library.header_size


def reader(symbols: object) -> cnp.Code:
    """Code that returns the address of `x`."""
    asm = cnp.load("ops").assembler(symbols=symbols)
    asm.function("f", frame=16)
    asm.i64_move(slot(0), Symbol("x"))
    asm.ret(slot(0))
    return asm.build()


def doubler(frame: int = 8) -> cnp.Code:
    asm = cnp.load("ops").assembler()
    asm.function("double", frame)
    asm.i64_add(slot(0), slot(0), slot(0))
    asm.ret(slot(0))
    return asm.build()


def test_dicts_callables_and_lists() -> None:
    ffi = FFI()
    pointer = ffi.cast("void *", 0x4000)
    found: list[Any] = [
        {"x": 0x1000},
        lambda name: 0x2000 if name == "x" else None,
        [{"y": 1}, {"x": 0x3000}, {"x": 5}],
        {"x": pointer},
        [lambda name: None, [{"x": ctypes.CFUNCTYPE(None)(0x5000)}]],
    ]
    assert [reader(symbols)["f"].run().value for symbols in found] == [0x1000 * n for n in range(1, 6)]


def test_libraries() -> None:
    ffi = FFI()
    ffi.cdef("double cos(double); extern const int nothing;")
    library = ffi.dlopen("libm.so.6")
    expected = int(ffi.cast("uintptr_t", ffi.addressof(library, "cos")))
    assert Symbols(library).address("cos") == expected
    assert Symbols(library).address("sin") is None, "nobody declared it"
    other = ctypes.CDLL("libm.so.6")
    assert Symbols(other).address("cos") == expected
    sine = Symbols(other).address("sin")
    assert sine is not None
    assert ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(sine)(1.0) == math.sin(1.0)
    assert Symbols(other).address("nowhere_at_all") is None


def test_a_compiled_module_of_cffi() -> None:
    need(native.available, native.reason)
    library = importlib.import_module("cnp._core").lib
    assert Symbols(library).address("cnp_poll") == native.poll_address()
    assert Symbols(library).address("nowhere_at_all") is None


def test_the_process() -> None:
    address = cnp.process("Py_GetVersion")
    assert address is not None
    version = ctypes.CFUNCTYPE(ctypes.c_char_p)(address)()
    assert version.decode() == sys.version
    assert cnp.process("nowhere_at_all") is None
    asm = cnp.load("ops").assembler(symbols=cnp.process)
    asm.function("f", frame=16)
    asm.i64_move(slot(0), Symbol("malloc"))
    asm.ret(slot(0))
    assert asm.build()["f"].run().value == cnp.process("malloc")


def test_what_is_no_source() -> None:
    for symbols in (5, {"x": "text"}, {"x": True}, [{"x": 1.5}], "libc.so.6", {"x": -5}, {"x": 1 << 64}):
        with pytest.raises(SymbolError) as caught:
            reader(symbols)
        assert caught.value.symbols == ["x"]
    with pytest.raises(SymbolError, match="no address for x"):
        reader([{"y": 1}, cnp.process])


def test_a_callable_without_a_prototype() -> None:
    asm = cnp.load("ops").assembler(helpers={"x": print})
    asm.function("f", frame=16)
    asm.i64_move(slot(0), Symbol("x"))
    asm.ret(slot(0))
    with pytest.raises(SymbolError, match="prototype"):
        asm.build()


@every_target
def test_bytes_for_other_machines_take_nothing_of_this_process(target: str) -> None:
    asm = cnp.load(installed("ops", target)).assembler(symbols=[{"x": 0x1230}, cnp.process])
    asm.function("f", frame=16)
    asm.i64_move(slot(0), Symbol("x") + 4)
    asm.ret(slot(0))
    assert asm.encode(0).imports == {"x": 0x1230}
    asm.i64_move(slot(0), Symbol("malloc"))
    asm.leave()
    if target == cnp.load("ops").target.name:
        assert asm.encode(0).imports["malloc"] == cnp.process("malloc")
    else:
        with pytest.raises(SymbolError, match="malloc"):
            asm.encode(0)


# ---- other code objects


def test_a_function_of_another_code_object() -> None:
    other = doubler(frame=512)
    asm = cnp.load("ops").assembler(symbols=other)
    asm.function("main", frame=16 + H)
    asm.i64_move(slot(8 + H), 21)
    asm.call(Symbol("double"), slot(8), slot(0))
    asm.ret(slot(0))
    code = asm.build()
    assert code.needs.largest == 512, "the frame must hold that of the callee"
    gone = weakref.ref(other)
    del other, asm
    gc.collect()
    assert gone() is not None and code["main"].run().value == 42
    del code
    gc.collect()
    assert gone() is None


def lazy_caller(frame: int = 8) -> cnp.Code:
    """Calls `double`; as long as there is none, a function that returns 7."""
    asm = cnp.load("ops").assembler()
    until = asm.declare("until", frame=8)
    double = asm.lazy("double", until, frame)
    asm.function("main", frame=16 + H)
    asm.i64_move(slot(8 + H), 21)
    asm.i64_move(slot(0), 0)
    asm.call_table(slot(0), 1, double, slot(8), slot(0))
    asm.ret(slot(0))
    asm.begin(until)
    asm.i64_move(slot(0), 7)
    asm.ret(slot(0))
    return asm.build()


def test_a_function_that_comes_later() -> None:
    code = lazy_caller()
    assert code["main"].run().value == 7
    assert code.link({"other": 5}) == ("double",)
    assert code.link(doubler()) == ()
    gc.collect()
    assert code["main"].run().value == 42
    assert code.link(None) == ()
    with pytest.raises(StateError, match="only generated code"):
        code.interpreter.run("main")


def test_later_functions_keep_to_what_was_said() -> None:
    code = lazy_caller(frame=64)
    with pytest.raises(StateError, match="1024") as caught:
        code.link(doubler(frame=1024))
    assert caught.value.state == "needs"
    assert code["main"].run().value == 7
    assert code.link(doubler(frame=64)) == () and code["main"].run().value == 42


@every_target
def test_ways_to_other_code(target: str) -> None:
    """A call by a symbol, by a cell that is lazy, and a jump to an address: all to what another image would hold."""
    vocabulary = cnp.load(installed("ops", runnable(target).name))
    header = vocabulary.library.header_size
    asm = vocabulary.assembler()
    double = asm.function("double", frame=8)
    asm.i64_add(slot(0), slot(0), slot(0))
    asm.ret(slot(0))
    later = asm.lazy("later", double, frame=8)
    asm.function("main", frame=16 + header)
    asm.i64_move(slot(8 + header), 5)
    asm.call(Symbol("theirs"), slot(8), slot(0))
    asm.i64_move(slot(8 + header), slot(0))
    asm.i64_move(slot(0), 0)
    asm.call_table(slot(0), 1, later, slot(8), slot(0))
    asm.jump(there := asm.label("there"))
    asm.bind(there, address=0x7000_0000)
    place = ForeignCode(asm.close(), {"theirs": 0x7000_0000}).image.symbols["double"]
    there.address = place
    code = ForeignCode(asm.program, {"theirs": place})
    assert code.image.symbols["double"] == place, "it is the first"
    assert code.run([Call("main")]).results[0].value == 40
    with pytest.raises(StateError, match="only generated code"):
        code.run([Call("main", interpret=True)])


def test_what_lazy_refuses() -> None:
    asm = cnp.load("ops").assembler()
    until = asm.function("until", frame=8)
    asm.ret(slot(0))
    double = asm.lazy("double", until, 8)
    with pytest.raises(LabelError, match="exists already"):
        asm.lazy("double", until, 8)
    for wrong in (asm.label(), until):
        with pytest.raises(OperandError):
            asm.lazy("other", wrong, 4)  # type: ignore[arg-type]
    asm.jump_table(slot(0), 1, double)
    asm.leave()
    with pytest.raises(OperandError, match="can only be called"):
        asm.check()
