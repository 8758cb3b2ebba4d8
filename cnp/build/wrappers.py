"""Print the C that stands between bodies and stencils: one function for each operation and form.

A stencil is a function of (state words in registers, frame) that builds the state struct, calls the inlined body
with its hole values and tail-calls what the body says. Scalar replacement leaves the body's instructions and one
jump. What the target's prelude must define, with `i` the number of the operand as a literal:

    CNP_IMM64(i) u64 · CNP_IMM32S(i) i64 · CNP_IMM32U(i) u32     the value of an immediate, any value
    CNP_IMM31_IS_SIGNED                                          optional: where both would give it, by CNP_IMM32S
    CNP_SHIFTS                                                   optional: multiples of 2^32 are short numbers, shifted
    CNP_ADDRESS(i) u64                                           the address of a cell, table or symbol
    CNP_SLOT(i), CNP_SLOT_WIDE(i) char *                         the address of a slot: the short and the long way
    CNP_LESS(a, b) u64                                           optional: a - b in one instruction, b a number in it
    CNP_FOLD(i) i64                                              where `Target.folds`: an immediate as an address
    CNP_HOLE_DECLARE(i)                                          declarations that these need, if any
    CNP_READ_type(i), CNP_WRITE_type(i, value)                   optional: a slot access in one instruction
    CNP_DECLARE_TAIL(name, text), CNP_TAIL_INDIRECT(to, …)       optional: how a continuation is declared and called
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cnp.build import supers
from cnp.build.calls import UNFORESEEN, Helpers
from cnp.build.discover import INTEGERS, MOST_OPERANDS, SCALARS, Source
from cnp.build.routines import routines
from cnp.build.shapes import MOST_MIXED, REGISTER, TRY, VALUES, Shape, layout
from cnp.target import Target

HEADER_BYTES = 32

COMMON = r"""
#define CNP_ANY(word) __asm__ volatile("" : "=r"(word))
/* The value of a register, for the compiler another one than the register hands on: where a branch has found that it equals
 * a number, the number would be handed on instead, which costs an instruction. */
#define CNP_APART(word) __builtin_annotation(word, "")
#define CNP_FIRST_HALF(number) ((u64)(u32)(number) << (CNP_LOW(4) * 8))
/* After a native call the frame is found from the callee's, where their distance is a number in the code. */
#ifdef CNP_LESS
#define CNP_COME_BACK(callee) s->cnp_frame = (char *)CNP_LESS(callee, distance);
#else
#define CNP_COME_BACK(callee)
#endif
#define CNP_PASTE(a, b) CNP_PASTE_(a, b)
#define CNP_PASTE_(a, b) a##b
#ifndef CNP_HOLE_DECLARE
#define CNP_HOLE_DECLARE(i)
#endif
#define CNP_HIDDEN __attribute__((visibility("hidden")))
#ifndef CNP_DECLARE_TAIL
#define CNP_DECLARE_TAIL(name, text) extern CNP_CC CNP_HIDDEN cnp_word name(CNP_TAKE) __asm__(text);
#endif
#define CNP_TAIL_UNCHANGED(to) do { __attribute__((musttail)) return to(CNP_GIVE_BACK); } while (0)
#ifndef CNP_TAIL_INDIRECT
#define CNP_TAIL_INDIRECT(to, ...) do { CNP_CLOSE __attribute__((musttail)) return ((cnp_code *)(to))(__VA_ARGS__); } while (0)
#endif
/* A value of 31 bits, to which the signed and the unsigned way would give the same. */
#ifdef CNP_IMM31_IS_SIGNED
#define CNP_IMM31(i) ({ u64 cnp_v = (u64)CNP_IMM32S(i); __builtin_assume(cnp_v <= 0x7fffffff); cnp_v; })
#else
#define CNP_IMM31(i) CNP_IMM32U(i)
#endif
/* A number whose lowest bits are 0. Where CNP_SHIFTS is defined the compiler does not see which one is shifted: it would
 * make what is done to it depend on how many of the highest bits are 0 or equal. */
#ifdef CNP_SHIFTS
#define CNP_STEPPED(number, bits) ((bits) >= 32 && (i16)((number) >> (bits)) == (number) >> (bits) \
    ? ({ i64 cnp_n = (number) >> (bits); __asm__("" : "+r"(cnp_n)); (u64)cnp_n << (bits); }) : (u64)(number))
#else
#define CNP_STEPPED(number, bits) (number)
#endif
/* Immediate floats, unless the target knows better. */
#ifndef CNP_FLOAT64
#define CNP_FLOAT64(i) cnp_f64(CNP_IMM64(i))
#define CNP_FLOAT32(i) cnp_f32(CNP_IMM32U(i))
#endif
/* An f32 in a float register that other operands of the same stencil know as an f64. */
#ifdef CNP_F32_IS_WIDE
#define CNP_F32_OF(word) ((f32)(word))
#define CNP_HOLDING_F32(value) ((f64)(value))
#else
#define CNP_F32_OF(word) cnp_f32((u32)cnp_bits_f64(word))
#define CNP_HOLDING_F32(value) cnp_f64(0xffffffff00000000 | cnp_bits_f32(value))
#endif
typedef CNP_CC cnp_word cnp_code(CNP_TAKE);
"""

ACCESS = r"""
#ifdef CNP_READ_u64
#define CNP_READ_ALONE(type, i) CNP_READ(type, i)
#else
#define CNP_READ_ALONE(type, i) (*(volatile type *)(CNP_SLOT(i) + CNP_LOW(sizeof(type))))
#endif
#define CNP_AT(type, address) (*(type *)((address) + CNP_LOW(sizeof(type))))
#define CNP_READ(type, i) CNP_READ_##type(i)
#define CNP_WRITE(type, i, value) CNP_WRITE_##type(i, value)
#define CNP_READ_WIDE(type, i) CNP_AT(type, CNP_SLOT_WIDE(i))
#define CNP_WRITE_WIDE(type, i, value) (void)(CNP_AT(type, CNP_SLOT_WIDE(i)) = (value))
""" + "".join(
    f"""#ifndef CNP_READ_{name}
#define CNP_READ_{name}(i) CNP_AT({name}, CNP_SLOT(i))
#endif
#ifndef CNP_WRITE_{name}
#define CNP_WRITE_{name}(i, value) (void)(CNP_AT({name}, CNP_SLOT(i)) = (value))
#endif
"""
    for name in SCALARS
)


class Sample(NamedTuple):
    """A shape with one value for each group that is to be learned: the index of a register or a number."""

    shape: Shape
    number: int
    values: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.shape.key}.{self.number}" if self.shape.learned else self.shape.key

    def value(self, operand: int) -> int:
        """The register or number that an operand has here."""
        return self.values[self.shape.group[operand]]

    def register(self, operand: int) -> str:
        """The state word that an operand is; "" if it is in no register."""
        kind = self.shape.picks[operand].kind
        return f"{kind}{self.value(operand)}" if kind in ("r", "f") else ""


# ---- the stencil source


def stencil_source(source: Source, target: Target, samples: Iterable[Sample], called: Helpers) -> str:
    """The C text of some stencils of a vocabulary, and of the routines that all share."""
    printer = Printer(source, target, called)
    parts = [
        "/* Printed by the builder from the declarations of the source. */",
        f'#include "{source.path.name}"',
        supers.definitions(source, called.callers),
        f"#define CNP_CC {target.convention}",
        printer.macros(),
        target.prelude,
        COMMON,
        ACCESS,
        *(f"CNP_HOLE_DECLARE({number})" for number in range(MOST_OPERANDS)),
        *(f'CNP_DECLARE_TAIL(cnp_to_target_{n}, "cnp.target.{n}")' for n in range(MOST_OPERANDS)),
        *(f'CNP_DECLARE_TAIL(cnp_to_{name}, "cnp.leave.{name}")' for name in ("exit", "trap", "unwind")),
        'CNP_DECLARE_TAIL(cnp_to_next, "cnp.next")',
        f'cnp_state *cnp_no_state(void) __asm__("{UNFORESEEN}.state") __attribute__((const));',
        f'void cnp_no_answer(void) __asm__("{UNFORESEEN}.answer");',
        routines(),
        CALL,
        *(text for sample in samples for text in printer.stencils(sample)),
    ]
    return "\n".join(parts) + "\n"


class Word(NamedTuple):
    """A parameter of all stencils: its C type, its name there, and the expression that hands it on. field: the state word
    that it is, "" if it is none."""

    ctype: str
    name: str
    value: str
    field: str = ""


class Printer:
    """Prints the stencils of a vocabulary for a target."""

    def __init__(self, source: Source, target: Target, called: Helpers) -> None:
        self.source, self.called = source, called
        self.plan = layout(source, target)
        ints = [Word(ctype, f"cnp_in_{name}", f"S.{name}", name) for ctype, name in self.plan.ints]
        while len(ints) < target.frame_position:
            pad = f"cnp_pad_{len(ints)}"
            ints.append(Word("u64", pad, pad))
        ints.insert(target.frame_position, Word("char *", "cnp_frame", "cnp_frame"))
        floats = [Word(ctype, f"cnp_in_{name}", f"S.{name}", name) for ctype, name in self.plan.floats]
        self.words = (*ints, *floats)

    # ---- what all stencils share

    def macros(self) -> str:
        """CNP_TAKE (parameters), CNP_GIVE (the state as it is), CNP_GIVE_BACK (as it came), CNP_OPEN,
        CNP_CLOSE."""
        words, plan = self.words, self.plan
        pads = [word.name for word in words if word.name.startswith("cnp_pad")]
        saved = "((struct cnp_saved *)(cnp_frame - CNP_HEADER_SIZE))"
        homes, memory = [name for _, name in plan.homes], [name for _, name in plan.memory]
        everything = [name for _, name in self.source.state]
        lines = {
            "CNP_HEADER_SIZE": f"(({HEADER_BYTES} + sizeof(struct cnp_saved) + 15) / 16 * 16)",
            "CNP_TAKE": ", ".join(f"{word.ctype} {word.name}" for word in words),
            "CNP_GIVE": ", ".join(word.value for word in words),
            "CNP_GIVE_BACK": ", ".join(word.name for word in words),
            "CNP_CLOSE_DEAD": " ".join(
                f"if (S.cnp_dead.{name}) {saved}->{name} = 0;" for name in homes + memory
            ),
            "CNP_OPEN": self.open(frozenset()),
            "CNP_OPEN_ALL": self.open(frozenset()) + " ".join(f"S.{n} = {saved}->{n};" for n in memory),
            "CNP_CLOSE": " ".join(f"{saved}->{name} = S.{name};" for name in homes),
            "CNP_LOAD_STATE": " ".join(f"S.{name} = {saved}->{name};" for name in everything),
            "CNP_SAVE_STATE": " ".join(f"{saved}->{name} = S.{name};" for name in everything),
            "CNP_PADS": " ".join(f"u64 {name};" for name in pads),
            "CNP_FORGET": " ".join(f"CNP_ANY({name});" for name in pads),
            "CNP_COPY_HOMES(to, from)": " ".join(
                [f"((struct cnp_saved *)((to) - CNP_HEADER_SIZE))->{n} = s->{n};" for n in homes]
                + [
                    f"((struct cnp_saved *)((to) - CNP_HEADER_SIZE))->{n} = "
                    f"((struct cnp_saved *)((from) - CNP_HEADER_SIZE))->{n};"
                    for n in memory
                ]
            ),
            "CNP_BURY_MEMORY": " ".join(f"if (S.cnp_dead.{name}) {saved}->{name} = 0;" for name in memory),
            "CNP_STATE_OF_CALLER": ", ".join(
                word.value.replace("S.", "s->") if word.field else word.value.replace("cnp_frame", "frame")
                for word in words
            ),
            "CNP_VALUE": value_of(self.source),
        }
        fields = " ".join(f"{ctype} {name};" for ctype, name in self.source.state) or "u64 cnp_none;"
        checks = "\n".join(
            f'_Static_assert(sizeof({ctype}) <= 8, "state field {name} does not fit a word");'
            for ctype, name in self.source.state
        )
        return f"struct cnp_saved {{ {fields} }};\n{checks}\n" + "\n".join(
            f"#define {k} {v}" for k, v in lines.items()
        )

    def open(self, narrow: frozenset[str]) -> str:
        """The state struct as it comes in, but for the words of which only a part is meant."""
        saved = "((struct cnp_saved *)(cnp_frame - CNP_HEADER_SIZE))"
        pinned = [word for word in self.words if word.field and word.field not in narrow]
        parts = [f".{word.field} = {word.name}" for word in pinned]
        parts += [f".{name} = {saved}->{name}" for _, name in self.plan.homes]
        return "cnp_state S = { " + ", ".join([*parts, ".cnp_frame = cnp_frame"]) + " };"

    # ---- stencils

    def stencils(self, sample: Sample) -> list[str]:
        """The stencil of one form, and its slow part if it has one."""
        if sample.shape.declaration.kind in ("op", "slow"):
            slow = sample.shape.declaration.kind == "slow"
            return [Body(self, sample, part).text() for part in (("slow", "hot") if slow else ("hot",))]
        return [Pure(self, sample).text()]


class Stencil:
    """The C text of one stencil: what pure operations and bodies have in common."""

    def __init__(self, printer: Printer, sample: Sample) -> None:
        self.printer, self.sample, self.shape = printer, sample, sample.shape
        self.operands, self.picks = sample.shape.operands, sample.shape.picks
        named: dict[str, set[str]] = {}
        for number, operand in enumerate(self.operands):
            if word := sample.register(number):
                named.setdefault(word, set()).add(operand.ctype)
        #: float words of which this stencil only knows the f32
        self.narrow = frozenset(word for word, types in named.items() if types == {"f32"})

    def opening(self, c_name: str, text: str) -> str:
        """Declaration of a stencil function under its name in the object; the type of its parameters."""
        if not self.narrow:
            kind = ""
            take, code = "CNP_TAKE", "cnp_code"
        else:
            take = ", ".join(
                f"{'f32' if self.is_narrow(word) else word.ctype} {word.name}" for word in self.printer.words
            )
            kind, code = f"typedef CNP_CC cnp_word {c_name}_code({take});\n", f"{c_name}_code"
        self.code = code
        attributes = "__attribute__((noinline, used)) CNP_HIDDEN"
        return f'{kind}{attributes} {code} {c_name} __asm__("{text}");\n{attributes} CNP_CC cnp_word {c_name}({take})'

    def is_narrow(self, word: Word) -> bool:
        return word.field in self.narrow

    def tail(self, to: str, values: Iterable[str]) -> str:
        callee = f"(({self.code} *){to})" if self.narrow else to
        return f"__attribute__((musttail)) return {callee}({', '.join(values)});"

    def back(self, changed: dict[str, str]) -> list[str]:
        """The state as it came, but for some words."""
        return [changed.get(word.field, word.name) for word in self.printer.words]

    # ---- operands

    def read(self, number: int) -> str:
        """C text of the value of an `in`."""
        operand, pick = self.operands[number], self.picks[number]
        if word := self.sample.register(number):
            if operand.ctype == "f32" and word not in self.narrow:
                return f"CNP_F32_OF(cnp_in_{word})"
            return f"({operand.ctype}){f'CNP_APART(cnp_in_{word})' if word[0] == 'r' else f'cnp_in_{word}'}"
        if pick.kind == "slot":
            return f"CNP_READ{'_WIDE' if pick.wide else ''}({operand.ctype}, {number})"
        return self.immediate(number)

    def immediate(self, number: int) -> str:
        """C text of an immediate, converted to the type of the operand. folded: as an address that LLVM may fold into an
        instruction; which values that leaves is read off the object."""
        pick, ctype = self.picks[number], self.operands[number].ctype
        if pick.fixed is not None:
            return f"({ctype}){pick.fixed}ll"
        if pick.kind == "number":
            text = literal(self.sample.value(number))
            if pick.step > 1:
                text = f"CNP_STEPPED({text}, {pick.step.bit_length() - 1})"
            return f"({ctype}){text}"
        kind = pick.ctype
        if pick.folded:
            whole = kind in ("i32", "u31") and ctype in ("i64", "u64", "disp")
            kind = "u32" if kind == "u31" else kind
            return f"({ctype}){'' if whole else f'({kind})'}CNP_FOLD({number})"
        if kind == "f64":
            return f"({ctype})CNP_FLOAT64({number})"
        if kind == "f32":
            return f"({ctype})CNP_FLOAT32({number})"
        if kind[0] not in "iu" or int(kind[1:]) > 32:
            return f"({ctype})({'i' if kind[0] == 'i' else 'u'}64)CNP_IMM64({number})"
        way = "CNP_IMM32S" if kind[0] == "i" else "CNP_IMM31" if kind == "u31" else "CNP_IMM32U"
        return f"({ctype}){way}({number})"

    def write(self, number: int, value: str) -> tuple[str, dict[str, str]]:
        """What stores the value of an `out`: statements, and the words of the state that change. Integers of 32 bits are
        zero-extended."""
        ctype, pick = self.operands[number].ctype, self.picks[number]
        if ctype in INTEGERS and INTEGERS[ctype] < 8:
            ctype, value = "u64", f"(u64)(u32)({value})"
        if word := self.sample.register(number):
            if ctype == "f32" and word not in self.narrow:
                value = f"CNP_HOLDING_F32({value})"
            return "", {word: value}
        return f"CNP_WRITE{'_WIDE' if pick.wide else ''}({ctype}, {number}, {value});", {}


class Pure(Stencil):
    """A pure operation: values in, a value out or a branch. The state stays as it came."""

    def text(self) -> str:
        opening = self.opening(symbol(self.sample), f"cnp.stencil.{self.sample.key}")
        return f"{opening} {{ {self.code_of()} }}"

    def code_of(self) -> str:
        shape, item = self.shape, self.shape.declaration
        name = item.name
        first = 0 if shape.operation == "br_" + name else 1
        inputs = [n for n, o in enumerate(self.operands) if o.kind.startswith("in") and n >= first]
        values = " ".join(
            f"{self.operands[n].ctype} in{n} = {self.read_whole(n, len(inputs))};" for n in inputs
        )
        asked = inputs[: len(item.operands) - 1]
        names = ", ".join(f"in{number}" for number in asked)
        go_on = self.tail("cnp_to_next", self.back({}))
        if first == 0:
            taken = self.tail(f"cnp_to_target_{len(self.operands) - 1}", self.back({}))
            return f"{values} if ({name}({names})) {taken} {go_on}"
        value = f"{name}({names})"
        if shape.operation == "sel_" + name:
            value = f"{value} ? in{inputs[-2]} : in{inputs[-1]}"
        trap = ""
        if item.kind == "trap":
            leave = f"CNP_HEADER(cnp_frame)->code = cnp_trap; {self.tail('cnp_to_trap', self.back({}))}"
            if shape.operation == TRY + name:
                leave = self.tail(f"cnp_to_target_{len(self.operands) - 1}", self.back({}))
            trap = f"u32 cnp_trap = {name}_trap({names}); if (unlikely(cnp_trap)) {{ {leave} }}"
        store, changed = self.write(0, "cnp_out")
        go_on = self.tail("cnp_to_next", self.back(changed))
        return f"{values} {trap} {self.operands[0].ctype} cnp_out = {value}; {store} {go_on}"

    def read_whole(self, number: int, count: int) -> str:
        """An input; where there are many, the compiler must not choose between the addresses of two slots."""
        pick = self.picks[number]
        if count >= MOST_MIXED and pick.kind == "slot" and not pick.wide:
            return f"CNP_READ_ALONE({self.operands[number].ctype}, {number})"
        return self.read(number)


class Body(Stencil):
    """A body that says what happens next, and the obedience to it."""

    def __init__(self, printer: Printer, sample: Sample, part: str) -> None:
        super().__init__(printer, sample)
        self.part, item, called = part, self.shape.declaration, printer.called
        self.name = name = item.name if part == "hot" else f"{item.name}_slow"
        self.rare = called.answers[name]
        #: whether the state is more than what is handed on; for the others the compiler is spared the struct
        self.stateful = name in called.stateful | called.callers | called.natives or not self.rare <= {
            "CNP_TRAP"
        }

    def text(self) -> str:
        item, name, called = self.shape.declaration, self.name, self.printer.called
        calls, native = name in called.callers, name in called.natives
        reads = " ".join(
            f"{o.ctype} in{n} = {self.read(n)};" if o.kind.startswith("in") else f"{o.ctype} out{n};"
            for n, o in enumerate(self.operands)
            if o.kind in VALUES
        )
        arguments = "".join(f", {self.argument(number)}" for number in range(len(item.operands)))
        opening = self.opening(symbol(self.sample, "stencil" if self.part == "hot" else "slow"), self.label())
        return f"""{opening} {{
    {self.open()} {reads}
    cnp_go cnp_next = {name}({"&S" if self.stateful else "cnp_no_state()"}{arguments}); {self.apart()}
    {"CNP_FORGET" if calls or native else ""} {"cnp_frame = S.cnp_frame; CNP_BURY_MEMORY" if native else ""}
    {self.look_for_raised() if calls else ""}
    switch (cnp_next) {{
        {self.cases(item.kind == "slow")}
    }}
}}"""

    def open(self) -> str:
        """The state as a struct."""
        if not self.stateful:
            return ""
        return self.printer.open(self.narrow) if self.narrow else "CNP_OPEN"

    def label(self) -> str:
        return f"cnp.{'stencil' if self.part == 'hot' else 'slow'}.{self.sample.key}"

    def apart(self) -> str:
        """What a body writes to registers before it branches on that is handed on as it is: see CNP_APART."""
        if not any(operand.kind == "label" for operand in self.operands):
            return ""
        return " ".join(
            f"out{n} = CNP_APART(out{n});"
            for n, operand in enumerate(self.operands)
            if operand.kind == "out" and self.sample.register(n)[:1] == "r"
        )

    def cases(self, has_slow: bool) -> str:
        """What is done for each answer that this body may give."""
        writes, changed = "", dict[str, str]()
        for number, operand in enumerate(self.operands):
            if operand.kind == "out":
                store, word = self.write(number, f"out{number}")
                writes, changed = writes + store, changed | word
        give, close = self.give(changed), "CNP_CLOSE" if self.stateful else ""
        lines = [f"case NEXT: {writes} {close} {self.tail('cnp_to_next', give)}"]
        if self.part == "hot" and has_slow:
            lines.append(f"case SLOW: {close} {self.tail(symbol(self.sample, 'slow'), self.give({}))}")
        for number, operand in enumerate(self.operands):
            if operand.kind == "label":
                to = self.tail(f"cnp_to_target_{number}", give)
                lines.append(f"case JUMP({number}): {writes} {close} {to}")
        ways = {
            "CNP_EXIT": f"CNP_CLOSE {self.leave('exit')}",
            "CNP_UNWIND": f"CNP_CLOSE_DEAD {self.tail('cnp_to_unwind', self.live())}",
            "CNP_TABLE": f"{writes} {self.indirect(give)}",
            "CNP_RETURN": f"{writes} {self.give_up(changed)}",
        }
        lines += [f"case {kind}: {way}" for kind, way in ways.items() if kind in self.rare]
        trap = f"CNP_HEADER(cnp_frame)->code = (u32)CNP_PAYLOAD(cnp_next); {close} {self.leave('trap')}"
        unforeseen = (
            f"cnp_no_answer(); {self.tail('cnp_to_next', give)}"  # goes on somehow: it is refused by the call
        )
        lines.append(f"default: {trap if 'CNP_TRAP' in self.rare else unforeseen}")
        return "\n        ".join(lines)

    def indirect(self, give: list[str]) -> str:
        """The jump through a table. There is no type for one that knows some words as f32, and no body that needs it."""
        if self.narrow:
            return f"CNP_HEADER(cnp_frame)->code = CNP_TRAP_INDIRECT; CNP_CLOSE {self.leave('trap')}"
        return f"CNP_TAIL_INDIRECT(S.cnp_to, {', '.join(give)});"

    def give_up(self, changed: dict[str, str]) -> str:
        """The return; by way of the routine that stores the state where somebody wants to see it. Where all state
        is registers nobody does: they are for what lies between."""
        store = " ".join(f"S.{word} = {value};" for word, value in changed.items() if word not in self.narrow)
        back = "return (cnp_word){ (u64)cnp_frame, CNP_VALUE };"
        if self.printer.source.state and all(REGISTER.fullmatch(n) for _, n in self.printer.source.state):
            return f"{store} {back}"
        leave = self.tail("cnp_leave_return", self.give(changed))
        return f"{store} if (unlikely(CNP_HEADER(cnp_frame)->outer)) {{ CNP_CLOSE {leave} }} {back}"

    def give(self, changed: dict[str, str]) -> list[str]:
        """The state as the body left it."""

        def value(word: Word) -> str:
            came = word.field in self.narrow or not self.stateful
            return changed.get(word.field, word.name if came else word.value)

        return [value(word) for word in self.printer.words]

    def live(self) -> list[str]:
        return [word.name if self.is_narrow(word) else live(word) for word in self.printer.words]

    def leave(self, way: str) -> str:
        return self.tail(f"cnp_to_{way}", self.give({}))

    def look_for_raised(self) -> str:
        """A helper may want to leave."""
        leave = f"CNP_HEADER(cnp_frame)->code = (u32)cnp_raised; {self.tail('cnp_to_trap', self.back({}))}"
        return (
            "u64 cnp_raised = CNP_HEADER(cnp_frame)->context->raised;\n"
            f"    if (unlikely(cnp_raised)) {{ {leave} }}"
        )

    def argument(self, number: int) -> str:
        """C text of the value of one operand of a body."""
        operand = self.operands[number]
        match operand.kind:
            case "in" | "in/imm":
                return f"in{number}"
            case "out":
                return f"&out{number}"
            case "imm":
                return self.immediate(number)
            case "slot":
                wide = "_WIDE" if self.picks[number].wide else ""
                low = f" + CNP_LOW({SCALARS[operand.ctype]})" if operand.ctype in SCALARS else ""
                return f"({operand.ctype} *)(CNP_SLOT{wide}({number}){low})"
            case "label":
                return str(number)
            case "func":
                return f"(cnp_func)cnp_to_target_{number}"
            case "table":
                return f"(const cnp_label *)CNP_ADDRESS({number})"
            case "cell" if operand.ctype in SCALARS:
                return f"({operand.ctype} *)(CNP_ADDRESS({number}) + CNP_LOW({SCALARS[operand.ctype]}))"
            case _:
                return f"({operand.ctype} *)CNP_ADDRESS({number})"


def symbol(sample: Sample, part: str = "stencil") -> str:
    return f"cnp_{part}_{sample.key.replace('.', '_')}"


def live(word: Word) -> str:
    """C text of a word as it came, 0 where the body has declared it dead."""
    return f"(S.cnp_dead.{word.field} ? 0 : {word.name})" if word.field else word.name


def literal(value: int) -> str:
    """C text of a number of 64 bits, signed or not."""
    return f"{value - (value >> 63 << 64) if value > 0 else value}ll"


def value_of(source: Source) -> str:
    """C text of the result as a word."""
    ctype = next((ctype for ctype, name in source.state if name == source.result), "")
    if not ctype:
        return "0"
    bits = {"f64": "cnp_bits_f64", "double": "cnp_bits_f64", "f32": "cnp_bits_f32", "float": "cnp_bits_f32"}
    return f"{bits.get(ctype, '(u64)')}(S.{source.result})"


CALL = """
CNP_INLINE cnp_word cnp_call(cnp_state *s, cnp_func function, void *base) {
    cnp_header *mine = CNP_HEADER(s->cnp_frame);
    u32 depth = mine->depth;
    if (unlikely(depth == 0)) return (cnp_word){ 0, TRAP(CNP_TRAP_DEPTH) };
    char *frame = (char *)base + CNP_HEADER_SIZE;
    *(u64 *)&CNP_HEADER(frame)->depth = CNP_FIRST_HALF(depth - 1); /* and outer = 0: one store */
    CNP_HEADER(frame)->context = mine->context;
    CNP_COPY_HOMES(frame, s->cnp_frame)
    i64 distance = frame - s->cnp_frame;
    CNP_PADS CNP_FORGET
    cnp_word result = ((cnp_code *)function)(CNP_STATE_OF_CALLER);
    if (unlikely(!result.frame)) {
        CNP_COME_BACK(result.value)
        result.value = CNP_UNWIND;
    } else {
        CNP_COME_BACK(result.frame)
    }
    CNP_STATE(CNP_BURY)
    return result;
}
"""
