"""Anybody's assembler in the table of `cnp bench emission`: a program that speaks docs/bench-protocol.md.

COMMAND RECORDS CODE TIMES      reads RECORDS, assembles TIMES times, writes CODE, prints {"ns": …, "version": …}
"""

from __future__ import annotations

import json
import shlex
import subprocess
import tempfile
from pathlib import Path

from cnp.bench.native import Program
from cnp.bench.tools import Job, Tool
from cnp.errors import ToolError

PATIENCE = 300  #: seconds that a program may take


def external(name: str, command: str) -> Tool:
    """A tool of that name. ToolError: the command is no program, or does not answer as it should."""
    words = shlex.split(command)
    if not words:
        raise ToolError(f"--tool {name}= names no command", tool=name)
    told: list[str] = []
    return Tool(name, "", lambda program: External(name, words, program, told), outside=True, told=told)


class External(Job):
    """A program on one workload. told: where its version goes, if it says one."""

    def __init__(self, name: str, command: list[str], program: Program, told: list[str]) -> None:
        super().__init__(program)
        self.name, self.command, self.told = name, command, told
        self.folder = tempfile.TemporaryDirectory(prefix="cnp-")
        self.records, self.made = Path(self.folder.name) / "records", Path(self.folder.name) / "code"
        self.records.write_bytes(program.records.view())

    def emit(self, times: int) -> None:
        self.timed(times)

    def warm_up(self) -> None:
        """The program does that itself."""

    def timed(self, times: int) -> float:
        """One start of the program; the nanoseconds are its own."""
        command = [*self.command, str(self.records), str(self.made), str(times)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ToolError(f"{self.name}: {error}", tool=self.name, command=command) from error
        if done.returncode:
            told = done.stderr.strip() or f"exit status {done.returncode}"
            raise ToolError(f"{self.name}: {told}", tool=self.name, status=done.returncode, command=command)
        return self.read(done.stdout)

    def read(self, answer: str) -> float:
        """Nanoseconds of an answer."""
        try:
            facts = json.loads(answer)
            nanoseconds = float(facts["ns"])
            self.told[:] = [str(facts["version"])] if "version" in facts else []
            self.size = self.made.stat().st_size
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ToolError(
                f'{self.name}: write the code to the second argument and print {{"ns": nanoseconds of one time}}: {error!r}',
                tool=self.name,
                answer=answer[:200],
            ) from error
        if not 0 < nanoseconds < float("inf") or not self.size:
            raise ToolError(
                f"{self.name}: it says that {self.size} bytes of code took {nanoseconds} ns", tool=self.name
            )
        return nanoseconds

    def code(self) -> bytes:
        return self.made.read_bytes()

    def close(self) -> None:
        self.folder.cleanup()
