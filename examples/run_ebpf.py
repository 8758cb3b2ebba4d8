"""C compiled to eBPF, run in the JIT beside the interpreter of the same operations and the same C as native code.

    python examples/run_ebpf.py

Each program of examples/ebpf/ is a function `run(memory, size)`. Needs a clang with the BPF target, as the ziglang wheel
has. What `cnp bench ebpf` measures carefully is shown here quickly: medians of three runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from cnp.bench import ebpf as bench
from cnp.ebpf import AccessError, Program

ROUNDS = 3


def filter_packets(scratch: Path) -> None:
    """A filter as a user runs it: on the bytes of a packet; one that reads too far is stopped."""
    run = Program(bench.to_bpf("filter", scratch)).compile()
    verdicts = {port: run(bench.frame(port)) for port in (80, 443, 444)}
    print("filter    ", ", ".join(f"port {port}: {verdict}" for port, verdict in verdicts.items()))
    careless = Program(bytes.fromhex("6910360000000000 9500000000000000"))  # loads 2 bytes at 54
    try:
        careless.compile()(bench.frame(80))
    except AccessError as error:
        print(f"stopped    {error}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        filter_packets(scratch)
        print(f"{'ms':10} {'native':>9} {'JIT':>9} {'checked':>9} {'interpreter':>12}")
        for name, memory in bench.memories().items():
            contest = bench.Contest(name, memory, scratch)
            contest.check()
            times = [nanoseconds / 1e6 for nanoseconds in contest.measure(ROUNDS).values()]
            native, jit, checked, interpreter = times
            print(f"{name:10} {native:9.2f} {jit:9.2f} {checked:9.2f} {interpreter:12.2f}")


if __name__ == "__main__":
    main()
