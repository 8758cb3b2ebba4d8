"""Random C bodies: a vocabulary of operations that do everything the contract allows, decided by a seed alone.

What a body may not do is what C leaves open, since three compilers must agree on it:

    shifts are masked, divisions guarded, conversions from floats bounded, accesses aligned; signed sums wrap by flag
    the payload of a NaN stays inside floats: what goes to memory or becomes an integer is a canonical NaN first
    pointers stay near the middle of the slots: they are moved a few times, by a word, outside of loops; only low
    bits of them are looked at, since what follows a test for null may be taken to be unreachable
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

INTS = ("u8", "i8", "u16", "i16", "u32", "i32", "u64", "i64")
WIDE = ("u32", "i32", "u64", "i64")
FLOATS = ("f32", "f64")
SIZES = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "u32": 4, "i32": 4, "u64": 8, "i64": 8, "f32": 4, "f64": 8}
MOST_OPERANDS = 6
LABELS, ENTRIES = 3, 4  #: ways out of a program that labels name; entries of a jump table
LITERALS = (0, 1, 2, 7, 255, 256, 32767, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1)

HEADER = """#define CNP_STATE(X) {state}
#define CNP_RESULT {result}
#include <cnp.h>
extern i64 cnp_test_mix(i64, i32, u32, f64, f32, i64);
extern i64 cnp_test_clobber(i64);
#define DIVIDE(type) \\
    CNP_INLINE type div_##type(type a, type b) {{ return b == 0 || b == (type)-1 ? a ^ 5 : a / b; }} \\
    CNP_INLINE type mod_##type(type a, type b) {{ return b == 0 || b == (type)-1 ? a ^ 6 : a % b; }}
DIVIDE(u32) DIVIDE(i32) DIVIDE(u64) DIVIDE(i64)
CNP_INLINE i64 whole(f64 v) {{ return v > -9e18 && v < 9e18 ? (i64)v : 7; }}
CNP_INLINE f64 clean_f64(f64 v) {{ return v != v ? cnp_f64(0x7ff8000000000000) : v; }}
CNP_INLINE f32 clean_f32(f32 v) {{ return v != v ? cnp_f32(0x7fc00000) : v; }}
CNP_INLINE u64 bits_f64(f64 v) {{ return v != v ? 3 : cnp_bits_f64(v); }}
CNP_INLINE u32 bits_f32(f32 v) {{ return v != v ? 3 : cnp_bits_f32(v); }}

/* clang 22 for MIPS drops the sign extension of a 32-bit argument when the 64-bit value that it is made of was spilled:
 * the register allocator folds `sll d, s, 0` into the reload of s, as if it were a copy. */
#ifdef __mips__
#define NARROW(type, value) ({{ type narrow = (type)(value); __asm__("" : "+r"(narrow)); narrow; }})
#else
#define NARROW(type, value) ((type)(value))
#endif

CNP_OP(leave) {{ return EXIT; }}
"""


@dataclass(frozen=True, slots=True)
class Operand:
    """A declared operand. kind: imm, slot, cell, label, table; ctype empty for the last two."""

    kind: str
    ctype: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}({self.ctype + ', ' if self.ctype else ''}{self.name})"


@dataclass(frozen=True, slots=True)
class Body:
    """One operation: its C text and its operands. slow: it has a slow part."""

    name: str
    text: str
    operands: tuple[Operand, ...]
    slow: bool


@dataclass(frozen=True, slots=True)
class RandomSource:
    """A vocabulary. state: (type, name) in order."""

    text: str
    state: tuple[tuple[str, str], ...]
    bodies: tuple[Body, ...]


def random_source(seed: int, count: int) -> RandomSource:
    """`count` bodies over a random state: from few words to more than any target has registers for."""
    rng = random.Random(f"bodies {seed}")
    extra = rng.choice((0, 0, 0, 0, 2, 2, 4, 14))
    types = ["u64", "i64", "f64", *rng.choices(INTS, k=3 + extra), *rng.choices(FLOATS, k=1 + extra // 2)]
    state = [(ctype, f"v{number}") for number, ctype in enumerate(types)] + [("char *", "p"), ("u64 *", "sp")]
    rng.shuffle(state)
    bodies = tuple(Writer(rng, state, f"op{number}").body() for number in range(count))
    fields = " ".join(f"X({ctype}, {name})" for ctype, name in state)
    result = rng.choice([name for ctype, name in state if "*" not in ctype])
    text = HEADER.format(state=fields, result=result) + "\n".join(body.text for body in bodies)
    return RandomSource(text, tuple(state), bodies)


class Writer:
    """Writes one body."""

    def __init__(self, rng: random.Random, state: list[tuple[str, str]], name: str) -> None:
        self.rng, self.state, self.name = rng, state, name
        self.calls = rng.random() < 0.15
        self.slow = rng.random() < 0.2
        self.operands = self.choose_operands()
        self.locals: list[tuple[str, str]] = []
        self.moves, self.loops, self.depth = 2, 0, 0
        self.in_slow = False

    def choose_operands(self) -> tuple[Operand, ...]:
        rng, found = self.rng, []
        for number in range(rng.choice((0, 1, 2, 2, 3, 3, 4, 5, MOST_OPERANDS))):
            kind = rng.choice(("imm", "imm", "imm", "slot", "slot", "slot", "label", "cell", "table"))
            ctype = rng.choice((*INTS, *FLOATS, *WIDE, *WIDE))
            if kind == "imm" and rng.random() < 0.25:
                ctype = "disp"
            found.append(Operand(kind, "" if kind in ("label", "table") else ctype, f"{kind[0]}{number}"))
        return tuple(found)

    def body(self) -> Body:
        """The text of the operation with its slow part."""
        head = f"({', '.join([self.name, *map(str, self.operands)])})"
        text = f"CNP_OP{'_SLOW' if self.slow else ''}{head} {{\n{self.function()}}}\n"
        if self.slow:
            self.in_slow = True
            text += f"CNP_SLOW{head} {{\n{self.function()}}}\n"
        return Body(self.name, text, self.operands, self.slow)

    def function(self) -> str:
        self.locals = []
        lines = [self.statement("    ") for _ in range(self.rng.choice((0, 1, 1, 1, 2, 2, 3)))]
        return "".join(lines) + f"    return {self.way()};\n"

    # ---- statements

    def statement(self, indent: str) -> str:
        rng = self.rng
        kinds = ["assign"] * 6 + ["change"] * 3 + ["local"] * 2 + ["leave"] * 2 + ["if"] * 2 + ["loop"]
        kinds += ["move"] * (self.moves > 0 and self.loops == 0) + ["help"] * 3 * self.calls
        kind = rng.choice([k for k in kinds if self.depth < 2 or k not in ("if", "loop")])
        write: dict[str, Callable[[str], str]] = {
            "assign": self.assign, "change": self.change, "local": self.local, "leave": self.leave, "if": self.branch,
            "loop": self.loop, "move": self.move, "help": self.help,
        }  # fmt: skip
        return write[kind](indent)

    def assign(self, indent: str) -> str:
        ctype, place, inside = self.place()
        return f"{indent}{place} = {self.value_of(ctype, inside)};\n"

    def change(self, indent: str) -> str:
        ctype, place, inside = self.place()
        if ctype in FLOATS:
            return f"{indent}{place} = {self.value_of(ctype, inside)};\n"
        return f"{indent}{place} {self.rng.choice('+-*&|^')}= {self.integer(1)};\n"

    def local(self, indent: str) -> str:
        ctype = self.rng.choice((*INTS, *FLOATS, *WIDE))
        text = f"{indent}{ctype} x{len(self.locals)} = {self.value_of(ctype, True)};\n"
        if self.depth == 0:
            self.locals.append((ctype, f"x{len(self.locals)}"))
            return text
        return self.assign(indent)

    def leave(self, indent: str) -> str:
        if self.rng.random() < 0.2:
            ctype = self.rng.choice(("i32", "u32", "i64", "u64"))
            operation = self.rng.choice(("add", "sub"))
            terms = f"({ctype})({self.integer(1)}), ({ctype})({self.integer(1)})"
            return f"{indent}{{ {ctype} sum; if (__builtin_{operation}_overflow({terms}, &sum)) return {self.way()}; }}\n"
        wrap = self.rng.choice(("{}", "likely({})", "unlikely({})"))
        return f"{indent}if ({wrap.format(self.test())}) return {self.way()};\n"

    def block(self, indent: str) -> str:
        self.depth += 1
        lines = "".join(self.statement(indent + "    ") for _ in range(self.rng.choice((1, 1, 2))))
        self.depth -= 1
        return f"{{\n{lines}{indent}}}"

    def branch(self, indent: str) -> str:
        text = f"{indent}if ({self.test()}) {self.block(indent)}"
        return text + (f" else {self.block(indent)}\n" if self.rng.random() < 0.5 else "\n")

    def loop(self, indent: str) -> str:
        count, index = self.integer(1), f"n{self.depth}"
        self.loops += 1
        self.locals.append(("i32", index))
        body = self.block(indent)
        self.locals.remove(("i32", index))
        self.loops -= 1
        return f"{indent}for (int {index} = 0, end{self.depth} = (int)(({count}) & 7); {index} < end{self.depth}; {index}++) {body}\n"

    def move(self, indent: str) -> str:
        self.moves -= 1
        return indent + self.rng.choice(
            (
                "s->p += 8;\n",
                "s->p -= 8;\n",
                "s->sp++;\n",
                f"*s->sp++ = {self.integer(1)};\n",
                f"*--s->sp = {self.integer(1)};\n",
            )
        )

    def help(self, indent: str) -> str:
        ctype, place, _ = self.place(floats=False)
        if self.rng.random() < 0.4:
            return f"{indent}{place} = ({ctype})cnp_test_clobber((i64)({self.integer(1)}));\n"
        integers = [self.integer(1) for _ in range(4)]
        floats = f"clean_f64({self.floating(1, 'f64')}), clean_f32({self.floating(1, 'f32')})"
        arguments = f"(i64)({integers[0]}), NARROW(i32, {integers[1]}), NARROW(u32, {integers[2]}), {floats}, (i64)({integers[3]})"
        return f"{indent}{place} = ({ctype})cnp_test_mix({arguments});\n"

    def way(self) -> str:
        """What happens next."""
        rng = self.rng
        ways = ["NEXT"] * 8 + ["EXIT"] * 2 + ["RETURN"] + ["SLOW"] * 8 * (self.slow and not self.in_slow)
        ways += ["TRAP(CNP_TRAP_OVERFLOW)", f"TRAP({rng.randrange(1 << 16)})", f"TRAP({self.integer(1)})"]
        for operand in self.operands:
            ways += [f"JUMP({operand.name})"] * 6 * (operand.kind == "label")
            ways += (
                [f"JUMP_TABLE({operand.name}, ({self.integer(1)}) & {ENTRIES - 1})"]
                * 4
                * (operand.kind == "table")
            )
        if rng.random() < 0.25:
            table_free = [way for way in ways if "TABLE" not in way]
            return f"{self.test()} ? {rng.choice(table_free)} : {rng.choice(table_free)}"
        return rng.choice(ways)

    # ---- places

    def place(self, floats: bool = True) -> tuple[str, str, bool]:
        """(type, C text, whether it is a word of the state or a local, where a NaN may be any) of what is assigned."""
        places = [(ctype, f"s->{name}", True) for ctype, name in self.state if "*" not in ctype]
        places = [p for p in self.rng.sample(places, 4) if floats or p[0] not in FLOATS]
        memory = [(o.ctype, f"*{o.name}", False) for o in self.operands if o.kind in ("slot", "cell")]
        places += memory * 4 + [(ctype, name, True) for ctype, name in self.locals if name[0] == "x"] * 2
        ctype = self.rng.choice((*INTS, *FLOATS) if floats else INTS)
        places += [(ctype, self.memory(ctype), False)] * 2
        return self.rng.choice([p for p in places if floats or p[0] not in FLOATS])

    def memory(self, ctype: str) -> str:
        base = self.rng.choice(("s->p", "(char *)s->sp"))
        return f"*({ctype} *)({base} + (({self.integer(0)}) & {31 & -SIZES[ctype]}))"

    def leaves(self, wanted: tuple[str, ...]) -> list[str]:
        """Everything of these types that can be read."""
        found = [f"s->{name}" for ctype, name in self.state if ctype in wanted]
        found = self.rng.sample(found, min(3, len(found)))
        for operand in self.operands:
            if operand.ctype in wanted or (operand.ctype == "disp" and "i64" in wanted):
                found += [operand.name if operand.kind == "imm" else f"*{operand.name}"] * 3
        return found + [name for ctype, name in self.locals if ctype in wanted]

    def value_of(self, ctype: str, inside: bool) -> str:
        """An expression to store in a place of a type."""
        if ctype not in FLOATS:
            return self.integer(2)
        text = self.floating(2, ctype)
        return text if inside else f"clean_{ctype}({text})"

    # ---- expressions

    def integer(self, depth: int) -> str:
        rng = self.rng
        if depth <= 0 or rng.random() < 0.35:
            return self.integer_leaf()
        kind = rng.choice(
            (
                "sum",
                "sum",
                "sum",
                "bits",
                "shift",
                "divide",
                "test",
                "choose",
                "cast",
                "one",
                "float",
                "address",
            )
        )
        wide = rng.choice(WIDE)
        a, b = self.integer(depth - 1), self.integer(depth - 1)
        match kind:
            case "sum":
                return f"(({wide})({a}) {rng.choice('+-*')} ({wide})({b}))"
            case "bits":
                return f"(({a}) {rng.choice('&|^')} ({b}))"
            case "shift":
                return f"(({wide})({a}) {rng.choice(('<<', '>>'))} (({b}) & {8 * SIZES[wide] - 1}))"
            case "divide":
                return f"{rng.choice(('div', 'mod'))}_{wide}({a}, {b})"
            case "test":
                return self.test(depth - 1)
            case "choose":
                return f"({self.test(depth - 1)} ? {a} : {b})"
            case "cast":
                return f"({rng.choice(INTS)})({a})"
            case "one":
                return f"({rng.choice('~-!')}({wide})({a}))"
            case "float":
                ctype = rng.choice(FLOATS)
                return f"{rng.choice(('whole', f'bits_{ctype}'))}({self.floating(depth - 1, ctype)})"
            case _:
                slots = [f"((u64){o.name} & 4095)" for o in self.operands if o.kind == "slot"]
                return rng.choice(["((u64)s->p & 65535)", "((u64)s->sp & 31)", *slots])

    def integer_leaf(self) -> str:
        rng = self.rng
        if rng.random() < 0.2:
            number = rng.choice(LITERALS)
            return rng.choice((f"{number}ull" if number >> 31 else str(number), f"-{number & 0xFFFF}"))
        if rng.random() < 0.15:
            return f"*({rng.choice(INTS)} *)s->p" if rng.random() < 0.5 else "*s->sp"
        return rng.choice(self.leaves(INTS))

    def test(self, depth: int = 1) -> str:
        """A condition; often one that a compiler would decide if it took an immediate for an address."""
        rng = self.rng
        immediates = [o.name for o in self.operands if o.kind == "imm" and o.ctype not in FLOATS]
        if immediates and rng.random() < 0.4:
            k = rng.choice(immediates)
            return rng.choice(
                (f"({k} == 0)", f"!{k}", f"({k} & 7)", f"({k} < 0)", f"({k} > 0)", f"({k} & 1)", f"({k} == {rng.choice(immediates)})",
                 f"({k} < {rng.choice(immediates)})", f"({k} == {self.integer(depth - 1)})", f"((i32){k} == -1)")
            )  # fmt: skip
        slots = [o.name for o in self.operands if o.kind == "slot"]
        if len(slots) > 1 and rng.random() < 0.15:
            return f"((char *){slots[0]} {rng.choice(('==', '<', '!='))} (char *){slots[1]})"
        if rng.random() < 0.2:
            ctype = rng.choice(FLOATS)
            return f"(({self.floating(depth - 1, ctype)}) {rng.choice(('<', '<=', '==', '!=', '>', '>='))} ({self.floating(depth - 1, ctype)}))"
        relation = rng.choice(("<", "<=", "==", "!=", ">", ">=", "&"))
        if rng.random() < 0.5:
            wide = rng.choice(WIDE)
            return f"(({wide})({self.integer(depth - 1)}) {relation} ({wide})({self.integer(depth - 1)}))"
        return f"(({self.integer(depth - 1)}) {relation} ({self.integer(depth - 1)}))"

    def floating(self, depth: int, ctype: str) -> str:
        rng = self.rng
        if depth <= 0 or rng.random() < 0.35:
            literals = ("0.0", "1.0", "-1.5", "1e30", "3.0", "0.1")
            return rng.choice(
                [*self.leaves((ctype,)) * 2, f"({ctype}){rng.choice(literals)}", f"*({ctype} *)s->sp"]
            )
        a, b = self.floating(depth - 1, ctype), self.floating(depth - 1, ctype)
        other = "f32" if ctype == "f64" else "f64"
        return rng.choice(
            (f"(({a}) {rng.choice('+-*/')} ({b}))", f"(({a}) {rng.choice('+-*/')} ({b}))", f"(-({a}))", f"({self.test(depth - 1)} ? {a} : {b})",
             f"(({ctype})({rng.choice(WIDE)})({self.integer(depth - 1)}))", f"(({ctype})({self.floating(depth - 1, other)}))")
        )  # fmt: skip
