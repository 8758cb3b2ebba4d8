"""Random programs over vocabularies/resume.c, and what its operations do, in Python.

A program is a few functions of 48 bytes of slots that call each other, themselves too, until `level` is 0. Before each
operation stands a `poll`, bound as an entry: the places where a run may be left.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cnp import slot
from cnp.assembler import Function, Label, Slot, Table
from cnp.library import Library

DATA, COUNTERS = (slot(0), slot(8), slot(16), slot(24)), (slot(32), slot(40))
FRAME = 48
CALLEE = slot(FRAME)
MEMORY = 9  #: words: eight of data, then the countdown of `poll`
FOREVER = 1 << 62
M64 = (1 << 64) - 1
FACTORS = (0.5, -0.25, 0.75)

State = dict[str, Any]
Chain = tuple[tuple[int, State], ...]  #: (operation, state) of each activation, the innermost first


# ---- programs


@dataclass
class Writer:
    """Appends random functions to a program."""

    asm: Any
    rng: random.Random
    functions: list[Function] = field(default_factory=list)
    loops: int = 0

    def program(self, name: str) -> None:
        """The functions `name`, `name.1`, …"""
        self.functions = [self.asm.declare(f"{name}{end}", FRAME) for end in ("", ".1", ".2")]
        for function in self.functions:
            self.asm.begin(function)
            self.emit("stop_at_bottom")
            for place in (*DATA, *COUNTERS):
                self.emit("store", place)
            for _ in range(self.rng.randint(2, 5)):
                self.part()
            self.call()
            self.emit("ret")

    def emit(self, name: str, *operands: object) -> None:
        self.asm.bind(self.asm.label(), entry=True)
        self.asm.poll()
        self.asm.op(name, *operands)

    def part(self) -> None:
        choice = self.rng.choice(("plain", "plain", "plain", "loop", "branch", "table", "call"))
        {
            "plain": self.plain,
            "loop": self.loop,
            "branch": self.branch,
            "table": self.table,
            "call": self.call,
        }[choice]()

    def plain(self) -> None:
        rng = self.rng
        choices: list[tuple[object, ...]] = [
            ("set", rng.getrandbits(64)), ("add_b", rng.randint(-(1 << 31), (1 << 31) - 1)), ("rotate",), ("narrow",), ("widen",),
            ("store", rng.choice(DATA)), ("load", rng.choice(DATA)), ("swap", rng.choice(DATA), rng.choice(DATA)),
            ("byte", rng.choice(DATA), rng.randrange(256)), ("write",), ("read",), ("to_double", rng.choice(FACTORS)),
            ("to_float",), ("from_floats",), ("count", 5), ("help",), ("check_low", rng.randrange(16)),
        ]  # fmt: skip
        for name, *operands in rng.choices(choices, k=rng.randint(1, 4)):
            self.emit(str(name), *operands)

    def loop(self) -> None:
        if self.loops == len(COUNTERS):
            return self.plain()
        counter = COUNTERS[self.loops]
        self.loops += 1
        self.emit("begin_loop", counter, self.rng.randint(1, 3))
        again = self.asm.here(entry=True)
        self.part()
        self.emit("loop", counter, again)
        self.loops -= 1
        return None

    def branch(self) -> None:
        there = self.asm.label()
        self.emit("if_odd", there)
        self.plain()
        self.asm.bind(there)

    def table(self) -> None:
        labels = [self.asm.label() for _ in range(4)]
        self.emit("choose", self.asm.table(*self.rng.sample(labels, 4)))
        for label in labels:
            self.asm.bind(label)
            self.plain()

    def call(self) -> None:
        callee = self.rng.choice(self.functions)
        if self.rng.random() < 0.5:
            self.emit("call", callee, CALLEE)
        else:
            self.emit("descend")
            self.emit("call_dead", callee, CALLEE)


def random_state(rng: random.Random) -> State:
    """All fields but the address of the memory."""
    return {
        "acc": rng.getrandbits(64), "b": rng.getrandbits(64), "c": signed(rng.getrandbits(64), 64), "d": rng.getrandbits(32),
        "x": rng.randint(-1000, 1000) / 8, "small": rng.getrandbits(8), "level": 3, "y": rng.randint(-100, 100) / 4,
        "half": signed(rng.getrandbits(16), 16), "e": rng.getrandbits(64), "g": signed(rng.getrandbits(64), 64),
    }  # fmt: skip


# ---- what the operations do


def signed(word: int, bits: int) -> int:
    word &= (1 << bits) - 1
    return word - (1 << bits) if word >> bits - 1 else word


def bits_of(kind: str, number: float) -> int:
    return int.from_bytes(struct.pack(kind, number), "little")


class Left(Exception):
    """A trap. chain: where the run stands."""

    def __init__(self, code: int, chain: Chain) -> None:
        super().__init__(code)
        self.code, self.chain = code, chain


@dataclass
class End:
    """How a run ends. steps[k]: where a run stands that is left at its poll number k. counts: executions of `count`."""

    kind: str
    value: int | None
    code: int
    state: State
    chain: Chain
    slots: list[int]
    memory: list[int]
    steps: list[Chain]
    counts: int


class Reference:
    """Executes a program in Python."""

    def __init__(self, program: Any, memory: list[int], depth: int = 1000) -> None:
        self.ops = program.ops
        self.memory, self.depth = memory, depth
        self.steps: list[Chain] = []
        self.outer: Chain = ()
        self.counts = 0
        self.slots = [0] * (FRAME // 8)

    def run(self, function: Function, state: State, limit: int = 600) -> End | None:
        """The end; None for a program that polls more than `limit` times."""
        self.limit = limit
        try:
            value, last = self.activation(function.position or 0, dict(state), self.slots)
        except Left as left:
            return self.end("trap", None, left.code, left.chain[0][1], left.chain)
        except StopIteration:
            return None
        return self.end("return", value, 0, last, ())

    def end(self, kind: str, value: int | None, code: int, state: State, chain: Chain) -> End:
        return End(kind, value, code, state, chain, self.slots, self.memory, self.steps, self.counts)

    def activation(self, position: int, state: State, slots: list[int]) -> tuple[int, State]:
        while True:
            op = self.ops[position]
            name, values = op.operation.name, op.values
            position += 1
            if name == "poll":
                self.poll(position - 1, state)
            elif name == "ret" or (name == "stop_at_bottom" and state["level"] <= 0):
                return state["acc"], state
            elif name in CALLS:
                self.call(name, position - 1, state, values[0])
            elif name == "check_low":
                self.check(position - 1, state, values[0])
            elif name == "count":
                self.counts += 1
                self.memory[7] = self.memory[7] + 1 & M64
            elif name in JUMPS:
                position = JUMPS[name](state, slots, values) or position
            else:
                SIMPLE[name](state, slots, self.memory, values)

    def poll(self, position: int, state: State) -> None:
        self.steps.append(((position, dict(state)), *self.outer))
        if len(self.steps) > self.limit:
            raise StopIteration

    def check(self, position: int, state: State, k: int) -> None:
        if state["acc"] & 15 == k:
            state["b"] = state["b"] + 1 & M64
            if state["acc"] & 16:
                raise Left(64 + k, ((position, dict(state)), *self.outer))

    def call(self, name: str, position: int, state: State, function: Function) -> None:
        before, dead = dict(state), {"e": 0} if name == "call_dead" else {}
        if name == "call":
            state["level"] -= 1
        if name == "deeper":
            self.memory[0] += 1
        if self.depth == 0:
            raise Left(5, ((position, dict(state)), *self.outer))
        outer, self.outer = self.outer, ((position, before | dead), *self.outer)
        self.depth -= 1
        value, _ = self.activation(function.position or 0, dict(state), [0] * (FRAME // 8))
        self.depth += 1
        self.outer = outer
        if name == "call":
            state["acc"], state["b"] = value, state["b"] ^ value
        elif name == "call_dead":
            state |= {"acc": value - state["acc"] & M64, "e": 0}
        else:
            state["acc"] = value + 1 & M64


CALLS = ("call", "call_dead", "deeper")


def at(place: Slot) -> int:
    return place.offset // 8


def add_b(s: State, _: list[int], __: list[int], values: Any) -> None:
    s["acc"] = s["acc"] + s["b"] * values[0] & M64
    s["e"] ^= s["acc"]


def rotate(s: State, _: list[int], __: list[int], ___: Any) -> None:
    s |= {
        "acc": s["b"],
        "b": s["c"] & M64,
        "c": signed(s["e"], 64),
        "e": s["g"] & M64,
        "g": signed(s["acc"], 64),
    }


def narrow(s: State, _: list[int], __: list[int], ___: Any) -> None:
    s["small"] = s["small"] + s["acc"] & 255
    s["half"] = signed(s["half"] - s["acc"], 16)
    s["d"] = s["d"] * 5 + s["small"] & 0xFFFFFFFF


def widen(s: State, _: list[int], __: list[int], ___: Any) -> None:
    s["acc"] ^= s["small"] + s["half"] * 3 + (s["d"] << 20) & M64


def store(s: State, slots: list[int], _: list[int], values: Any) -> None:
    slots[at(values[0])] = s["acc"]


def load(s: State, slots: list[int], _: list[int], values: Any) -> None:
    s["acc"] = s["acc"] + slots[at(values[0])] & M64


def swap(_: State, slots: list[int], __: list[int], values: Any) -> None:
    x, y = map(at, values)
    old = slots[x]
    slots[x] = slots[y] + 1 & M64
    slots[y] = old


def byte(s: State, slots: list[int], _: list[int], values: Any) -> None:
    x = at(values[0])
    low = slots[x] + values[1] & 255
    slots[x] = slots[x] & ~255 | low
    s["b"] = s["b"] + low & M64


def write(s: State, _: list[int], memory: list[int], __: Any) -> None:
    memory[s["acc"] & 7] ^= s["b"]


def read(s: State, _: list[int], memory: list[int], __: Any) -> None:
    s["b"] = s["b"] + memory[s["acc"] >> 5 & 7] & M64


def to_double(s: State, _: list[int], __: list[int], values: Any) -> None:
    s["x"] = s["x"] * struct.unpack("<d", struct.pack("<Q", values[0]))[0] + (s["acc"] & 1023)


def to_float(s: State, _: list[int], __: list[int], ___: Any) -> None:
    s["y"] = struct.unpack("<f", struct.pack("<f", s["y"] * 0.25 + (s["b"] & 15)))[0]


def from_floats(s: State, _: list[int], __: list[int], ___: Any) -> None:
    s["acc"] ^= bits_of("<d", s["x"]) + bits_of("<f", s["y"]) & M64


def begin_loop(_: State, slots: list[int], __: list[int], values: Any) -> None:
    slots[at(values[0])] = slots[at(values[0])] & ~0xFFFFFFFF | values[1]


SIMPLE: dict[str, Callable[[State, list[int], list[int], Any], None]] = {
    "set": lambda s, _, __, v: s.update(acc=v[0] & M64), "add_b": add_b, "rotate": rotate, "narrow": narrow, "widen": widen,
    "store": store, "load": load, "swap": swap, "byte": byte, "write": write, "read": read, "to_double": to_double,
    "to_float": to_float, "from_floats": from_floats, "begin_loop": begin_loop,
    "help": lambda s, _, __, ___: s.update(c=signed(s["c"] + 1, 64)), "descend": lambda s, _, __, ___: s.update(level=s["level"] - 1),
    "stop_at_bottom": lambda _, __, ___, ____: None,
}  # fmt: skip


def loop(_: State, slots: list[int], values: Any) -> int | None:
    counter = at(values[0])
    left = (slots[counter] - 1) & 0xFFFFFFFF
    slots[counter] = slots[counter] & ~0xFFFFFFFF | left
    return place(values[1]) if signed(left, 32) > 0 else None


def place(label: Label) -> int:
    assert label.position is not None
    return label.position


def choose(s: State, _: list[int], values: Any) -> int:
    table: Table = values[0]
    return place(table.labels[s["acc"] & 3])


JUMPS: dict[str, Callable[[State, list[int], Any], int | None]] = {
    "loop": loop, "if_odd": lambda s, _, v: place(v[0]) if s["acc"] & 1 else None, "choose": choose,
}  # fmt: skip


def pack_memory(library: Library, words: list[int], countdown: int) -> bytes:
    """The memory that `mem` points to."""
    mark = "<" if library.target.byteorder == "little" else ">"
    return struct.pack(f"{mark}{MEMORY}Q", *words, countdown)


def unpack_memory(library: Library, data: bytes) -> list[int]:
    """Its eight words of data."""
    mark = "<" if library.target.byteorder == "little" else ">"
    return list(struct.unpack(f"{mark}{MEMORY}Q", data)[:-1])
