"""What can go wrong with an eBPF program, one class for each decision a caller can make."""

from __future__ import annotations

from cnp.errors import CnpError


class ProgramError(CnpError):
    """Neither bytecode nor an object that a program can be made of. Fields: what, section."""


class VerifyError(CnpError):
    """A program breaks a rule and was not compiled. Fields: index, instruction (its disassembly), rule."""


class RunError(CnpError):
    """A run was stopped: out of fuel, too many nested calls, a helper that does not exist. Fields: index, instruction,
    what, code (of the trap)."""


class AccessError(RunError):
    """A load or store went where the program may not go. Fields: those of RunError, and address (None: not known), size."""
