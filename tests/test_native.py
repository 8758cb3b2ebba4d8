"""cnp.native with the compiled core and with the pure fall-back: callables, frames, helpers, lifetimes."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import math
import mmap
import statistics
import struct
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from cnp import native
from cnp.errors import MemoryFault
from tests import native_rig
from tests.native_image import HEADER, STATE, Image, Trap, run_python
from tests.native_rig import only
from tests.support import need

image, backend = native_rig.image, native_rig.backend  # fixtures are found by their names in the module


# -- conversions --

INTEGERS = {
    "int8_t": (-(1 << 7), (1 << 7) - 1),
    "uint8_t": (0, (1 << 8) - 1),
    "int16_t": (-(1 << 15), (1 << 15) - 1),
    "uint16_t": (0, (1 << 16) - 1),
    "int32_t": (-(1 << 31), (1 << 31) - 1),
    "uint32_t": (0, (1 << 32) - 1),
    "int64_t": (-(1 << 63), (1 << 63) - 1),
    "uint64_t": (0, (1 << 64) - 1),
    "void *": (0, (1 << 64) - 1),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_at_their_limits(image: Image, name: str) -> None:
    low, high = INTEGERS[name]
    same = image.callable("first", f"{name}({name})")
    slot = image.callable("first", f"uint64_t({name})")
    width = 64 if high >> 32 or low < -(1 << 31) else 32
    for value in {low, high, 0, 1, max(low, -1), high - 1}:
        assert same(value) == value
        assert slot(value) == value & ((1 << width) - 1)
    for value in (low - 1, high + 1, 1 << 70, -(1 << 70)):
        with pytest.raises(OverflowError, match="does not fit"):
            same(value)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [1.5, "1", None, b"1"])
def test_what_is_no_integer_is_a_type_error(image: Image, name: str, value: object) -> None:
    with pytest.raises(TypeError):
        image.callable("first", f"{name}({name})")(value)


@pytest.mark.parametrize("name", INTEGERS)
def test_index_is_asked_and_may_raise(image: Image, name: str) -> None:
    class Index:
        def __init__(self, value: int) -> None:
            self.value = value

        def __index__(self) -> int:
            return 12 // self.value

    same = image.callable("first", f"{name}({name})")
    assert same(Index(2)) == 6 and same(True) == 1
    with pytest.raises(ZeroDivisionError):
        same(Index(0))


def test_upper_halves_of_results_are_ignored(image: Image) -> None:
    dirty = 0xDEAD_BEEF_FFFF_FF80
    results = {"int8_t": -128, "uint8_t": 128, "int16_t": -128, "uint16_t": 0xFF80, "int32_t": -128}
    for name, value in {**results, "uint32_t": 0xFFFF_FF80}.items():
        assert image.callable("first", f"{name}(uint64_t)")(dirty) == value
    assert image.callable("first", "bool(uint64_t)")(1 << 32) is False
    assert image.callable("first", "bool(uint64_t)")(1 << 31) is True
    assert image.callable("first", "void(uint64_t)")(dirty) is None


def test_floats(image: Image) -> None:
    double, bits = image.callable("first", "double(double)"), image.callable("first", "uint64_t(double)")
    for value in (0.0, -0.0, -1.0, 1.5, math.inf, -math.inf, 5e-324, 1.7976931348623157e308):
        assert double(value) == value
        assert bits(value) == struct.unpack("=Q", struct.pack("=d", value))[0]
    assert math.isnan(double(math.nan)) and double(3) == 3.0
    single, bits = image.callable("first", "float(float)"), image.callable("first", "uint64_t(float)")
    for value in (0.0, -1.0, 0.5, math.inf, 3.4028234663852886e38):
        assert single(value) == value
        assert bits(value) == struct.unpack("=I", struct.pack("=f", value))[0]
    assert single(0.1) == struct.unpack("=f", struct.pack("=f", 0.1))[0]
    with pytest.raises(OverflowError):
        single(1e39)
    for function in (double, single):
        for wrong in ("1.0", None, 1j):
            with pytest.raises(TypeError):
                function(wrong)


def test_bool_is_truth(image: Image) -> None:
    truth = image.callable("first", "bool(bool)")
    assert truth([]) is False and truth("x") is True and truth(0) is False and truth(256) is True


def test_counts_and_places(image: Image) -> None:
    add = image.callable("add", "int64_t(int64_t, int64_t)")
    assert add(2, 3) == 5
    for args in ((), (1,), (1, 2, 3)):
        with pytest.raises(TypeError, match=r"add\(\) takes exactly 2 arguments"):
            add(*args)
    with pytest.raises(TypeError):
        add(1, b=2)
    assert image.callable("third", "double(int32_t, float, double)")(1, 2.0, 3.25) == 3.25
    assert image.callable("inner", "int64_t()")() == 0


# -- frames --


def test_header_of_a_fresh_frame(image: Image) -> None:
    assert image.callable("depth", "uint64_t()", depth=77)() == 77
    assert image.callable("outer", "uint64_t()")() == 0
    state = image.callable("state", "uint64_t(uint64_t)")
    assert (state(0), state(1)) == struct.unpack("=QQ", STATE)
    for frame_bytes in (HEADER, 4096, 4097, 1 << 20):
        assert image.callable("where", "uint64_t()", frame_bytes=frame_bytes)() % 16 == 0


def test_arguments_may_be_words_of_the_state(image: Image) -> None:
    """It lies at the beginning of the header. The next call begins with the state again."""
    first = image.callable("state", "uint64_t(uint64_t, uint64_t)", places=(0, -HEADER))
    assert first(0, 77) == 77
    assert image.callable("state", "uint64_t(uint64_t)")(0) == struct.unpack_from("=Q", STATE)[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"header_size": 40},
        {"header_size": 32},
        {"frame_bytes": HEADER + 8},
        {"frame_bytes": -1},
        {"depth": -1},
        {"places": (0,)},
        {"places": (0, 64)},
        {"places": (0, 12)},
        {"places": (0, -8)},
        {"places": (0, -HEADER - 8)},
    ],
)
def test_a_spec_that_would_overrun_is_refused(image: Image, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"size|bytes|depth|places"):
        image.callable("add", "int64_t(int64_t, int64_t)", **wrong)


def test_it_is_a_builtin_with_name_and_doc(image: Image, backend: str) -> None:
    add = image.callable("add", "int64_t(int64_t, int64_t)", name="plus")
    assert add.__name__ == "plus" and add.__doc__ == "The body add."
    assert (type(add) is type(len)) == (backend == "core")


@pytest.mark.parametrize("frame_bytes", [HEADER + 64, 100_000, 300_000])
def test_recursion_through_helpers(image: Image, backend: str, frame_bytes: int) -> None:
    """Callable -> Python helper -> callable …, each with a frame of its own."""
    frames, contexts = [], []

    def helper(n: int, d: float) -> int:
        contexts.append(native.current_context())
        frames.append(where())
        return 0 if n == 0 else n + call(helper_address, n - 1, d / 2)

    handle = native.python_helper("int64_t(int64_t, double)", helper)
    helper_address = handle.address
    where = image.callable("where", "uint64_t()", frame_bytes=frame_bytes)
    call = image.callable("help", "int64_t(uint64_t, int64_t, double)", frame_bytes=frame_bytes)
    for _ in range(3):
        frames.clear()
        contexts.clear()
        assert call(helper_address, 20, 1.0) == 210
        assert len(set(contexts)) == 21 and 0 not in contexts
        by_address = sorted(frames)
        if backend == "core":  # frames are a stack
            assert all(b - a >= frame_bytes for a, b in itertools.pairwise(by_address))


def test_big_frames_are_reused_and_freed_with_their_thread(image: Image, backend: str) -> None:
    only(backend, "core")
    size = 4 << 20
    fill = image.callable("fill", "void(uint64_t)", frame_bytes=size + HEADER)
    where = image.callable("where", "uint64_t()", frame_bytes=size + HEADER)
    assert len({where() for _ in range(100)}) == 1

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    before = resident()
    for _ in range(50):
        thread = threading.Thread(target=fill, args=(size,))
        thread.start()
        thread.join()
    assert resident() - before < 10 * size


def test_depth_is_bounded_by_the_native_stack(image: Image, backend: str) -> None:
    only(backend, "core")
    depth = image.callable("depth", "uint64_t()", depth=0xFFFF_FFFF)
    assert depth() <= native.stack_left() // 512
    seen: list[int] = []
    old = threading.stack_size(256 << 10)
    try:
        thread = threading.Thread(target=lambda: seen.extend((depth(), native.stack_left())))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(old)
    assert 0 < seen[0] <= (256 << 10) // 512
    assert 0 < seen[1] <= 256 << 10


def test_no_native_stack_left_is_a_recursion_error(image: Image, backend: str) -> None:
    only(backend, "core")
    call = image.callable("help", "int64_t(uint64_t, int64_t, double)")
    handle = native.python_helper("int64_t(int64_t, double)", lambda n, d: call(handle.address, n + 1, d))
    caught: list[BaseException] = []

    def run() -> None:
        sys.setrecursionlimit(100_000)
        try:
            call(handle.address, 0, 0.0)
        except RecursionError as error:
            caught.append(error)

    old, limit = threading.stack_size(512 << 10), sys.getrecursionlimit()
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(old)
        sys.setrecursionlimit(limit)
    assert "native stack" in str(caught[0])


# -- failures and exceptions --


def test_failed_is_called_and_may_answer(image: Image) -> None:
    seen: list[tuple[int, ...]] = []

    def failed(*evidence: int) -> str:
        seen.append(evidence)
        return "resumed"

    assert image.callable("fail", "int64_t(uint32_t)", failed=failed)(3) == "resumed"
    ((kind, code, frame, op),) = seen
    assert (kind, code, op) == (2, 3, 17) and frame % 16 == 0
    with pytest.raises(Trap) as caught:
        image.callable("fail", "int64_t(uint32_t)")(64)
    assert caught.value.args == (2, 64, 17)


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, RecursionError])
def test_the_very_exception_comes_through(image: Image, kind: type[BaseException]) -> None:
    raised = kind("from the helper")

    def helper(n: int, d: float) -> int:
        raise raised

    handle = native.python_helper("int64_t(int64_t, double)", helper)
    with pytest.raises(kind) as caught:
        image.callable("help", "int64_t(uint64_t, int64_t, double)")(handle.address, 1, 2.0)
    assert caught.value is raised
    assert "helper" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize(("result", "kind"), [("x", TypeError), (1 << 63, OverflowError), (None, TypeError)])
def test_a_result_that_does_not_fit_is_an_exception(
    image: Image, result: object, kind: type[Exception]
) -> None:
    handle = native.python_helper("int64_t(int64_t, double)", lambda n, d: result)
    with pytest.raises(kind):
        image.callable("help", "int64_t(uint64_t, int64_t, double)")(handle.address, 1, 2.0)


def test_an_exception_of_an_inner_run_does_not_touch_the_outer(image: Image) -> None:
    call = image.callable("help", "int64_t(uint64_t, int64_t, double)")

    def inner(n: int, d: float) -> int:
        raise KeyError(n)

    def outer(n: int, d: float) -> int:
        with pytest.raises(KeyError):
            call(inner_handle.address, n, d)
        return 99

    inner_handle = native.python_helper("int64_t(int64_t, double)", inner)
    outer_handle = native.python_helper("int64_t(int64_t, double)", outer)
    assert call(outer_handle.address, 1, 2.0) == 99


def test_helpers_get_their_arguments(image: Image) -> None:
    seen: list[tuple[int, float]] = []

    def helper(n: int, d: float) -> int:
        seen.append((n, d))
        return -5

    handle = native.python_helper("int64_t(int64_t, double)", helper)
    assert image.callable("help", "int64_t(uint64_t, int64_t, double)")(handle.address, -7, 0.5) == -5
    assert seen == [(-7, 0.5)]


MDWE = """
import ctypes
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0, "refused"
from cnp import native
from cnp.errors import MemoryFault
try:
    native.python_helper("int64_t(int64_t)", abs)
except MemoryFault as fault:
    print(fault.call)
try:
    native.poll_address()
except MemoryFault:
    print("no poll")
"""


def test_helpers_under_mdwe_fail_clearly(backend: str) -> None:
    done = run_python(MDWE, backend)
    need("refused" not in done.stderr, "this kernel has no PR_SET_MDWE")
    expected = ["ffi.callback"] + ["no poll"] * (backend == "pure")
    assert done.stdout.splitlines() == expected, done.stderr


def test_a_refused_closure_is_a_memory_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def callback(self, *_: object) -> object:
            raise MemoryError("no")

    monkeypatch.setattr(native._backend, "ffi", Refusing())
    with pytest.raises(MemoryFault) as caught:
        native.python_helper("int64_t(int64_t)", abs)
    assert caught.value.call == "ffi.callback"


# -- lifetimes --


class Token:
    """Something a weak reference can point to."""

    callable: object = None


def test_the_keepalive_goes_with_the_callable(image: Image) -> None:
    token = Token()
    alive = weakref.ref(token)
    add = image.callable("add", "int64_t(int64_t, int64_t)", keepalive=token)
    del token
    gc.collect()
    assert alive() is not None and add(1, 2) == 3
    del add
    gc.collect()
    assert alive() is None


def test_a_cycle_through_the_keepalive_is_collected(image: Image) -> None:
    token = Token()
    alive = weakref.ref(token)
    token.callable = image.callable("add", "int64_t(int64_t, int64_t)", keepalive=token)
    del token
    gc.collect()
    assert alive() is None


def test_calls_leak_no_references(image: Image, backend: str) -> None:
    only(backend, "core")
    big, failed = 1 << 62, Trap("x")

    def fail(*_: int) -> object:
        raise failed

    add = image.callable("add", "int64_t(int64_t, int64_t)")
    trap = image.callable("fail", "int64_t(uint64_t)", failed=fail)
    before = sys.getrefcount(big), sys.getrefcount(add), sys.getrefcount(None)
    for _ in range(1000):
        add(big, 1)
        with pytest.raises(TypeError):
            add(big, "x")
        with pytest.raises(OverflowError):
            add(big, 1 << 64)
        with pytest.raises(Trap):
            trap(big)
    after = sys.getrefcount(big), sys.getrefcount(add), sys.getrefcount(None)
    assert all(abs(b - a) < 100 for a, b in zip(before, after, strict=True))


# -- choice of the backend and costs --


def test_the_environment_asks_for_pure_python(backend: str) -> None:
    done = run_python("from cnp import native; print(native.available, native.reason)", backend)
    expected = {"core": "True \n", "pure": "False CNP_PURE=1 asks for pure Python\n"}
    assert done.stdout == expected[backend]


def test_pure_python_needs_no_pycparser(backend: str) -> None:
    only(backend, "pure")
    code = "import sys; from cnp import native; native.poll_address(); print('pycparser' in sys.modules)"
    assert run_python(code, backend).stdout == "False\n"


def test_a_call_costs_at_most_one_and_a_half_cffi_calls(image: Image, backend: str, tmp_path: Path) -> None:
    only(backend, "core")
    import cffi

    ffi = cffi.FFI()
    ffi.cdef("int64_t plus(int64_t, int64_t);")
    ffi.set_source("cnp_plus", "static int64_t plus(int64_t a, int64_t b) { return a + b; }")
    path = ffi.compile(tmpdir=str(tmp_path))
    spec = importlib.util.spec_from_file_location("cnp_plus", path)
    assert spec is not None and spec.loader is not None
    plus = importlib.util.module_from_spec(spec).lib.plus
    add = image.callable("add", "int64_t(int64_t, int64_t)")
    times: dict[str, list[float]] = {"cffi": [], "ours": []}
    for _ in range(9):
        for name, function in (("cffi", plus), ("ours", add)):
            start = time.perf_counter()
            for _ in range(20_000):
                function(2, 3)
            times[name].append((time.perf_counter() - start) / 20_000)
    cffi_ns, ours_ns = (statistics.median(times[name]) * 1e9 for name in ("cffi", "ours"))
    print(f"cffi {cffi_ns:.0f} ns, ours {ours_ns:.0f} ns")
    assert ours_ns <= 1.5 * cffi_ns
