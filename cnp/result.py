"""How a run ended, read from its frame: the same for this process and for another machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cnp import frame as layout
from cnp.frame import FrameImage
from cnp.library import Library

Kind = Literal["return", "exit", "trap"]
KINDS: tuple[Kind, ...] = ("return", "exit", "trap")


@dataclass(frozen=True, slots=True)
class Activation:
    """A function that was running when generated code left: where its frame lies, at which operation it stands."""

    frame: int
    op: int
    state: dict[str, int | float]


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended.

    kind: return, exit or trap. value: of a return. op: position of the operation that left (-1 for a return).
    code: trap code. state: the state where it left. activations: the functions that were running, the innermost
    first; empty after a return.
    """

    kind: Kind
    value: int | float | None
    op: int
    code: int
    state: dict[str, int | float]
    frame: FrameImage
    activations: tuple[Activation, ...] = ()

    @property
    def returned(self) -> bool:
        return self.kind == "return"

    @property
    def exited(self) -> bool:
        return self.kind == "exit"

    @property
    def trapped(self) -> bool:
        return self.kind == "trap"


def read_result(
    library: Library, area: FrameImage, outer: tuple[Activation, ...] = (), root: int | None = None
) -> Result:
    """Read how a run ended. outer: activations around the one that was entered, whose frame is `root`."""
    context = area.get_context()
    kind = KINDS[context["kind"]]
    if kind == "return":
        value = layout.result_of(library, context["value"])
        state = dict(area.header().state)
        if library.result:
            state[library.result] = value
        return Result("return", value, -1, 0, state, area)
    chain = tuple(activations(area, root if root is not None else area.address)) + outer
    header = area.header(chain[0].frame - area.address)
    return Result(kind, None, header.op, header.code, chain[0].state, area, chain)


def activations(area: FrameImage, root: int) -> list[Activation]:
    """The frames that an exit came through, the innermost first."""
    found: list[Activation] = []
    frame = root
    while frame:
        header = area.header(frame - area.address)
        found.insert(0, Activation(frame, header.op, header.state))
        frame = header.inner
    return found
