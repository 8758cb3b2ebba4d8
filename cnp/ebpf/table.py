"""eBPF as a bytecode for cnp/bytecode.py: from the table of isa.py, and how each kind of instruction is compiled.

Checks are those of verify.py, which words what is refused. Frames are drawn in ebpf.c.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from cnp.bytecode import FUNCTION, TARGET, Bytecode, Call, Functions, Jump, Map, Number, Pool, Rule, Step
from cnp.ebpf.isa import ENDS, FIELDS, LDDW, R10, SELECTORS, SIZE, SPECS, STACK, Spec
from cnp.library import Library
from cnp.operands import Register, Slot

R10_SLOT = STACK  #: where r10 lies for what takes it as an operand
SCRATCH = Slot(STACK + 8)  #: a constant or an address that an operation does not take
BASE = STACK + 16  #: where the header of a callee's frame begins
DIVISIONS = ("div", "mod", "sdiv", "smod")

BITS: dict[str, tuple[Any, ...]] = {
    "opcode": (0, 8), "dst": (8, 4), "src": (12, 4), "offset": (16, 16, "signed"), "imm": (32, 32, "signed"),
    "unsigned": (32, 32), "shift32": (32, 5), "shift64": (32, 6), "second": (64, 32), "high": (96, 32),
}  # fmt: skip

R0, R6 = Register("r", 0), Register("r", 6)
WRITTEN = tuple(Register("r", number) for number in range(R10))
DST, SRC = (Map(name, (*WRITTEN, Slot(R10_SLOT))) for name in ("dst", "src"))
TO_DST, TO_SRC = (Map(name, WRITTEN) for name in ("dst", "src"))
HELPERS, PACKET = "helpers", "packet"  #: pools: number of a helper, opcode of a legacy load -> address

#: What is done where fields have some values; the first that fits.
Case = tuple[dict[str, Any], tuple[Step, ...]]


class Options(NamedTuple):
    """How code is to be made. checked: loads and stores stay in regions. polls: endless loops can be stopped. depth: functions
    that may be nested, the first one included."""

    checked: bool = True
    polls: bool = True
    depth: int = 8


@lru_cache(maxsize=32)
def bytecode(
    library: Library, checked: bool, polls: bool, takes_r10: bool, packet: bool, unwind: int | None
) -> Bytecode:
    """eBPF in the operations of ebpf.c.

    takes_r10: some instruction has r10 as an operand. packet: legacy loads are allowed. unwind: number of the helper that may
    end the program.
    """
    begin: tuple[Step, ...] = (("frame_pointer", Slot(R10_SLOT)),) if takes_r10 else ()
    functions = Functions(BASE + 8, begin, "ja")
    rules = Rules(checked, polls, packet, unwind).all()
    return Bytecode(library, SIZE, BITS, rules, "opcode", functions=functions)


class Rules:
    """The rules for some options. A method for each kind of instruction gives its cases. checked and polls change only their
    steps, so that what was checked by the rules for one is checked for all."""

    def __init__(self, checked: bool, polls: bool, packet: bool, unwind: int | None) -> None:
        self.checked, self.polls, self.allows_packets, self.unwind = checked, polls, packet, unwind

    def all(self) -> Iterator[Rule]:
        for (opcode, value), spec in SPECS.items():
            if spec.kind == "packet" and not self.allows_packets:
                continue
            selector = SELECTORS.get(opcode)
            chosen = {selector: value} if selector else {}
            must = {name: 0 for name in FIELDS if name not in spec.uses and name not in chosen}
            goes = self.goes(spec)
            words = 2 if opcode == LDDW else 1
            if words == 2:
                must["second"] = 0
            for when, steps in getattr(self, spec.kind)(spec):
                given = {**chosen, **when}
                yield Rule(
                    opcode, *steps, when=given, must=must, goes=goes, ends=spec.kind in ENDS, words=words
                )

    def goes(self, spec: Spec) -> Jump | None:
        """Where an instruction goes."""
        if spec.kind == "call_local":
            return Call("imm")
        if spec.kind == "call_register" and self.unwind is not None:
            return Jump("imm", scale=0)  # over the end of the program
        if spec.kind in ("branch", "goto"):
            return Jump("imm" if spec.kind == "goto" and "imm" in spec.uses else "offset")
        return None

    # ---- arithmetic

    def immediate(self, spec: Spec) -> Number:
        return Number("imm" if spec.signed else "unsigned")

    def alu(self, spec: Spec) -> Iterator[Case]:
        name = spec.op[:-2]
        if "src" in spec.uses:
            yield {}, ((spec.op, TO_DST, TO_DST, SRC),)
        elif name in DIVISIONS:
            yield {}, (("i64_move", SCRATCH, self.immediate(spec)), (spec.op, TO_DST, TO_DST, SCRATCH))
        elif name.endswith("sh"):
            nothing = "i64_move" if spec.bits == 64 else "mov32"  # which has no form of the operation
            yield {f"shift{spec.bits}": 0}, ((nothing, TO_DST, TO_DST),)
            yield {}, ((spec.op, TO_DST, TO_DST, Number(f"shift{spec.bits}")),)
        else:
            yield {}, ((spec.op, TO_DST, TO_DST, self.immediate(spec)),)

    def move(self, spec: Spec) -> Iterator[Case]:
        if "src" not in spec.uses:
            yield {}, (("i64_move", TO_DST, self.immediate(spec)),)
            return
        if spec.bits == 64:
            yield {"src": R10}, (("frame_pointer", TO_DST),)
        yield {}, ((spec.op, TO_DST, SRC),)

    def unary(self, spec: Spec) -> Iterator[Case]:
        yield (
            {},
            ((spec.op or "i64_move", TO_DST, SRC if "src" in spec.uses else TO_DST),),
        )  # le64 changes nothing

    def lddw(self, spec: Spec) -> Iterator[Case]:
        yield {}, ((spec.op, TO_DST, Number("unsigned", high="high")),)

    # ---- where to go on

    def polled(self, field: str, *steps: Step) -> Iterator[Case]:
        """With a poll on the way back."""
        poll: tuple[Step, ...] = (("poll",),) if self.polls else ()
        yield {field: (-(1 << 31), -1)}, (*poll, *steps)
        yield {}, steps

    def branch(self, spec: Spec) -> Iterator[Case]:
        other = SRC if "src" in spec.uses else self.immediate(spec)
        yield from self.polled("offset", (spec.op, DST, other, TARGET))

    def goto(self, spec: Spec) -> Iterator[Case]:
        yield from self.polled("imm" if "imm" in spec.uses else "offset", (spec.op, TARGET))

    def exit(self, spec: Spec) -> Iterator[Case]:
        yield {}, ((spec.op,),)

    # ---- calls

    def call_local(self, spec: Spec) -> Iterator[Case]:
        poll: tuple[Step, ...] = (("poll",),) if self.polls else ()
        yield {}, (*poll, (spec.op, FUNCTION, Slot(BASE)))

    def call_helper(self, spec: Spec) -> Iterator[Case]:
        call: Step = (spec.op, Pool(HELPERS, "imm"))
        if self.unwind is not None:
            yield {"imm": self.unwind}, (call, ("end_if", R0, 0))
        yield {}, (call,)

    def call_register(self, spec: Spec) -> Iterator[Case]:
        steps: tuple[Step, ...] = (("i64_move", SCRATCH, DST), (spec.op, SCRATCH))
        if self.unwind is not None:
            steps += (("jne64", SCRATCH, self.unwind, TARGET), ("end_if", R0, 0))
        yield {}, steps

    def packet(self, spec: Spec) -> Iterator[Case]:
        at, steps = (SRC, ()) if "src" in spec.uses else (SCRATCH, (("i64_move", SCRATCH, 0),))
        load = (spec.op, Pool(PACKET, "opcode", tabled=True), at, Number("imm"), spec.bits // 8, R6)
        yield {}, (*steps, load, ("end_if", R0, -1))

    # ---- memory

    def accesses(self, base: str, kind: str, spec: Spec, stack: Step, other: Step) -> Iterator[Case]:
        """An access by a field that is a register: on the function's own stack by r10, or checked."""
        size = spec.bits // 8
        yield {base: R10, "offset": (-STACK, -size)}, (stack,)
        yield {}, (*self.check(kind, base, size), other)

    def check(self, kind: str, base: str, size: int) -> tuple[Step, ...]:
        operand = SRC if base == "src" else DST
        return ((f"check_{kind}", operand, Number("offset"), size),) if self.checked else ()

    def load(self, spec: Spec) -> Iterator[Case]:
        stack = (spec.op + "_stack", TO_DST, Number("offset", base=STACK))
        yield from self.accesses("src", "load", spec, stack, (spec.op, TO_DST, SRC, Number("offset")))

    def stores(self, spec: Spec, value: Any) -> Iterator[Case]:
        stack = (spec.op + "_stack", Number("offset", base=STACK), value)
        yield from self.accesses("dst", "store", spec, stack, (spec.op, DST, Number("offset"), value))

    def store(self, spec: Spec) -> Iterator[Case]:
        yield from self.stores(spec, SRC)

    def store_imm(self, spec: Spec) -> Iterator[Case]:
        yield from self.stores(spec, Number("imm"))

    def places(self, spec: Spec, step: Step) -> Iterator[Case]:
        """An atomic access: `step` has None where the address belongs, which is checked before."""
        size = spec.bits // 8
        own = {"dst": R10, "offset": (-STACK, -size)}
        checks = self.check("store", "dst", size)
        for when, checked in (({"offset": 0}, checks), (own, ()), ({}, checks)):
            place = DST if when == {"offset": 0} else SCRATCH
            address: tuple[Step, ...] = () if place is DST else (("add64", SCRATCH, DST, Number("offset")),)
            access = tuple(place if operand is None else operand for operand in step)
            yield when, (*address, ("check_aligned", place, size), *checked, access)

    def atomic(self, spec: Spec) -> Iterator[Case]:
        yield from self.places(spec, (spec.op, None, SRC))

    def atomic_fetch(self, spec: Spec) -> Iterator[Case]:
        yield from self.places(spec, (spec.op, TO_SRC, None, TO_SRC))

    def atomic_compare(self, spec: Spec) -> Iterator[Case]:
        yield from self.places(spec, (spec.op, R0, None, R0, SRC))
