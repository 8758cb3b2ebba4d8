"""A plugin of pytest: cnp._core is the one that lies where CNP_SANITIZED says, compiled with sanitizers.

python -m pytest -p tests.sanitized_core …
"""

from __future__ import annotations

import importlib.util
import os
import sys

spec = importlib.util.spec_from_file_location("cnp._core", os.environ["CNP_SANITIZED"])
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["cnp._core"] = module
sys.modules["capstone"] = None  # type: ignore[assignment]  # it is loaded in a way that the sanitizers refuse
