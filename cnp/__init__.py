"""cnp: a copy-and-patch JIT library. Operations are written once, in C; code comes out for five machines."""

from __future__ import annotations
