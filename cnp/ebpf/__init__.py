"""eBPF (RFC 9669) on cnp: bytecode in, machine code out, with the memory of the process guarded.

ebpf.c        the operations, in C
isa.py        instructions: their encoding and the table of what there is
verify.py     what is refused before anything is compiled
elf.py        objects of clang -target bpf -> bytecode and data
table.py      which operations each of them becomes
translate.py  programs -> operations
quick.py      bytes -> a callable by the core in C
program.py    Program: what a user holds
here.py       running in this process; memory.py: buffers, and what helpers may touch
stops.py      traps -> errors
command.py    the command line
"""

from cnp.ebpf.errors import AccessError, ProgramError, RunError, VerifyError
from cnp.ebpf.memory import Memory, memory
from cnp.ebpf.program import Program

__all__ = ["AccessError", "Memory", "Program", "ProgramError", "RunError", "VerifyError", "memory"]
