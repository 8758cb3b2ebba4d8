"""Every portable operation, every form, every target: against a Python reference and the interpreter of the same bodies.

Results of `main` (operation_rig.py) are compared with tests/reference.py, once for generated code and once for the
interpreter, which is the bodies called as plain C. What leaves, jumps or calls has its programs here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from cnp import runtime, slot, targets
from cnp.assembler import Assembler
from cnp.build import driver, toolchain
from cnp.errors import OperandError
from cnp.foreign import Call, ForeignCode
from cnp.host import emulator
from cnp.library import Library
from cnp.result import Result
from operation_rig import UNTOUCHED, Bench
from reference import LOADS, STORES, Trap, hole_word, references
from support import need

TARGETS = ("x86_64", "aarch64", "riscv64", "ppc64le", "mips64", "mips64el")
WAYS = (False, True)  #: generated code, the interpreter
CONTROL = {"jump", "jump_table", "call", "call_table", "ret", "trap", "leave", "poll"}
UNREACHABLE, DEPTH, FUEL, INDIRECT = 1, 5, 6, 10  # trap codes of the contract
