"""cnp.native with the compiled core and with the pure fall-back: runs, fuel, polls, cells, forks."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cnp import native
from cnp._backend import CELL_WIDTHS
from cnp.errors import OperandError, RangeError
from tests import native_rig
from tests.native_image import Image, Run, environment
from tests.native_rig import only
from tests.support import best_of

image, backend = native_rig.image, native_rig.backend  # fixtures are found by their names in the module


# -- run, fuel and polls --


def test_run(image: Image) -> None:
    run = Run(image, "add", 2, 3)
    assert run() == 0 and run.context[2] == 5


@pytest.mark.parametrize("fuel", [0, 7, 1000])
@pytest.mark.parametrize("budget", [0, 1, 15, 16, 17, 100_000])
def test_fuel_is_counted_exactly(image: Image, fuel: int, budget: int) -> None:
    run = Run(image, "spin", native.poll_address(), 0, 0, fuel=fuel, budget=budget)
    assert run() == 6
    assert run.polls == fuel + budget
    assert run() == 6 and run.polls == 0  # nothing is left
    run.context[5] = 10
    assert run() == 6 and run.polls == 10


def test_polls_adapt_to_the_length_of_an_iteration(image: Image) -> None:
    run = Run(image, "spin", native.poll_address(), 0, 0, budget=1_000_000)
    assert run() == 6
    quick = run.context[6]
    run = Run(image, "spin", native.poll_address(), 1_000_000, 0, budget=200)  # about 0.3 ms each
    assert run() == 6
    assert quick >= 512 and 1 <= run.context[6] <= 64


@pytest.mark.parametrize("through", ["run", "callable"])
def test_other_threads_run(image: Image, through: str) -> None:
    """The flag that ends the loop is set by a thread that starts when the loop already runs."""
    flag = ctypes.c_uint64(0)
    address = ctypes.addressof(flag)
    timer = threading.Timer(0.05, native.cell_store, (address, 8, 1))
    timer.start()
    slots = native.poll_address(), 0, address
    if through == "run":
        assert Run(image, "spin", *slots)() == 0
    else:
        spin = image.callable("spin", "uint64_t(uint64_t, uint64_t, uint64_t, uint64_t)")
        assert spin(*slots, 0) > 0
    timer.join()


def test_callables_in_many_threads(image: Image) -> None:
    add = image.callable("add", "int64_t(int64_t, int64_t)")
    call = image.callable("help", "int64_t(uint64_t, int64_t, double)", frame_bytes=50_000)
    caught: list[int] = []

    def helper(n: int, d: float) -> int:
        time.sleep(0)
        raise LookupError(threading.get_ident())

    handle = native.python_helper("int64_t(int64_t, double)", helper)

    def work() -> None:
        for n in range(200):
            assert add(n, n) == 2 * n
            with pytest.raises(LookupError) as error:
                call(handle.address, n, 0.0)
            caught.append(error.value.args[0] == threading.get_ident())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(caught) == 800 and all(caught)


ENDLESS = """
import sys, time
from pathlib import Path
from cnp import native
from tests.native_image import Image, Run, build, raise_trap
folder, through, turns = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
image = Image(*build(folder))
slots = native.poll_address(), turns, 0
call = image.callable("spin", "uint64_t(uint64_t, uint64_t, uint64_t, uint64_t)")
run = Run(image, "spin", *slots)
print("ready", flush=True)
try:
    if through == "callable":
        call(*slots, 0)
    else:
        assert run() == 7
        raise native.take_exception()
except KeyboardInterrupt:
    print(time.monotonic())
"""


@pytest.mark.parametrize("turns", [0, 300_000, 10_000_000], ids=["1ns", "100us", "3ms"])
@pytest.mark.parametrize("through", ["run", "callable"])
def test_ctrl_c_within_50_ms(backend: str, tmp_path: Path, through: str, turns: int) -> None:
    command = [sys.executable, "-c", ENDLESS, str(tmp_path), through, str(turns)]

    def latency() -> float:
        child = subprocess.Popen(command, env=environment(backend), stdout=subprocess.PIPE, text=True)
        with child:
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
            time.sleep(0.3)
            sent = time.monotonic()
            child.send_signal(signal.SIGINT)
            output, _ = child.communicate(timeout=20)
        return float(output) - sent

    assert best_of(latency, below=0.05) < 0.05


# -- cells and forks --


@pytest.fixture
def cells() -> tuple[int, Any]:
    words = (ctypes.c_uint64 * 4)()
    return ctypes.addressof(words), words


@pytest.mark.parametrize("width", CELL_WIDTHS)
def test_cells(cells: tuple[int, Any], width: int) -> None:
    address, words = cells
    top = (1 << 8 * width) - 1
    words[0] = words[2] = (1 << 64) - 1
    for at in (address, address + width):
        before = native.cell_load(at, width)
        assert native.cell_store(at, width, 5) == before
        assert native.cell_load(at, width) == 5
        assert native.cell_add(at, width, -6) == 5
        assert native.cell_load(at, width) == top
        assert native.cell_compare_exchange(at, width, 7, 8) == top
        assert native.cell_compare_exchange(at, width, -1, 8) == top
        assert native.cell_compare_exchange(at, width, 8, 9) == 8
        assert native.cell_load(at, width) == 9
    assert words[2] == (1 << 64) - 1, "a neighbour was touched"
    for value in (top + 1, -(top + 1) // 2 - 1):
        with pytest.raises(RangeError) as caught:
            native.cell_store(address, width, value)
        assert (caught.value.value, caught.value.high) == (value, top)


@pytest.mark.parametrize("access", ["cell_load", "cell_store", "cell_add", "cell_compare_exchange"])
def test_cells_refuse_what_is_misaligned(cells: tuple[int, Any], access: str) -> None:
    address, words = cells
    rest = {"cell_load": 0, "cell_compare_exchange": 2}.get(access, 1) * (1,)
    for width in (2, 4, 8):
        with pytest.raises(RangeError) as caught:
            getattr(native, access)(address + 1, width, *rest)
        assert (caught.value.value, caught.value.align) == (address + 1, width)
    for width in (0, 3, 16):
        with pytest.raises(OperandError) as wrong:
            getattr(native, access)(address, width, *rest)
        assert wrong.value.value == width
    assert list(words) == [0, 0, 0, 0]


def test_cells_are_atomic(cells: tuple[int, Any]) -> None:
    address, words = cells
    threads = [
        threading.Thread(target=lambda: [native.cell_add(address, 4, 1) for _ in range(5000)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert words[0] == 20_000


def test_forks_are_counted() -> None:
    before = native.fork_count()
    assert before >= 0
    pid = os.fork()
    if pid == 0:
        os._exit(native.fork_count() - before)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert native.fork_count() == before + 1


def test_forks_in_c_are_counted(backend: str) -> None:
    only(backend, "core")
    before = native.fork_count()
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        os._exit(native.fork_count() - before)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert native.fork_count() == before + 1
