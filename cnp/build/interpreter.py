"""Print the interpreters of a vocabulary: the same bodies in a switch, and threaded.

    record   0  u64 code         the threaded case      operand i of kind   imm            its value
             8  u32 number       of the case                                slot, in, out  bytes from the frame's slot 0,
            12  u32 position                                                               negative: a register's home
            16  u64 operand[6]                                              label, func    address of the record to go on at
            64                                                              cell, symbol   address
                                                                            table          address of a table of records

An operation has a case for each way to give its operands (`cnp.interpret.ways`): what is an immediate is known to the
case and never tested. Case 0 does nothing, for moves that only generated code needs. Each case is printed once and compiled in two frames:

    switch      cnp_interpret            one function, one jump through a table of distances between its labels:
                                         a compiler's own table would hold addresses, which stencil files do not
    threaded    cnp_interpret_threaded   a function for each case, its address in the record; each ends in a tail call of
                                         the next one, and the state travels in its parameters

The frame, the context and the way a run ends are those of generated code, so that each can go on where another left.
Registers (state words that operands can name) lie in their homes below the frame, always. Other words lie in C
variables; what the threaded interpreter has no parameter for lies in its home too.

Two tables come along as if they were routines, for `cnp.interpret.records` to read:

    cnp.cases        u32 for each operation: number of its first case
    cnp.threads.at   u32 for each case: where it begins in the routine cnp.threads
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cnp import interpret
from cnp.build import supers
from cnp.build.discover import NUMBER, SCALARS, Declaration, Source
from cnp.build.shapes import FLOATS, REGISTER, TRY, variants
from cnp.build.wrappers import HEADER_BYTES
from cnp.interpret import VALUE, Way
from cnp.stencil import Operand
from cnp.target import Target

#: What is added to the flags of the stencils: speed, as an interpreter's author would ask for it. No warnings: the
#: stencils have given them, and what clang does to find them takes minutes in a function of this size.
FLAGS: tuple[str, ...] = ("-O2", "-w")
#: Where code may name data by addresses of 32 bits, it would index a table by one.
POSITION_INDEPENDENT, SHORT_ADDRESSES = "-fpie", "-mcmodel=small"
#: What makes the switch stay one: its dispatch is not copied to the end of every case, and cases share no code that
#: each would first have to jump to.
ONE_DISPATCH = (
    "-mllvm", "-disable-early-taildup", "-mllvm", "-disable-tail-duplicate", "-mllvm", "-enable-tail-merge=0",
)  # fmt: skip
C_PLACES = 8  #: arguments that every C convention here hands over in registers, of all types together
RECORD_AND_FRAME = 2  #: places that are no state words
STACK = re.compile(r":(?:cnp_steps|cnp_case_\d+)\t(\d+)\t(\S+)")

COMMON = r"""
#define CNP_HOME(frame) ((struct cnp_saved *)((frame) - CNP_HEADER_SIZE))
#define CNP_RECORD(word) ((const struct cnp_record *)(__UINTPTR_TYPE__)(word))
/* What the compiler calls by itself to copy and clear large states. */
__attribute__((used)) void *memcpy(void *to, const void *from, __SIZE_TYPE__ size) {
    __SIZE_TYPE__ i = 0;
    if (!(((u64)to | (u64)from) & 7))
        for (; i + 8 <= size; i += 8) *(u64 *)((char *)to + i) = *(const u64 *)((const char *)from + i);
    for (; i < size; i++) ((char *)to)[i] = ((const char *)from)[i];
    return to;
}
__attribute__((used)) void *memset(void *to, int value, __SIZE_TYPE__ size) {
    for (__SIZE_TYPE__ i = 0; i < size; i++) ((char *)to)[i] = (char)value;
    return to;
}
CNP_INLINE u64 cnp_word_f64(f64 value) { return cnp_bits_f64(value); }
CNP_INLINE u64 cnp_word_f32(f32 value) { return cnp_bits_f32(value); }
/* An f32 in the home of a register: boxed, or as the f64 of the same value; a NaN keeps its bits. */
#ifdef CNP_F32_IS_WIDE
CNP_INLINE u64 cnp_boxed(f32 value) {
    u64 bits = cnp_bits_f32(value);
    if ((bits & 0x7f800000) != 0x7f800000) return cnp_bits_f64((f64)value);
    return (bits & 0x80000000) << 32 | 0x7ff0000000000000 | (bits & 0x7fffff) << 29;
}
CNP_INLINE f32 cnp_unboxed(u64 word) {
    if ((word & 0x7ff0000000000000) != 0x7ff0000000000000) return (f32)cnp_f64(word);
    return cnp_f32((u32)(word >> 32 & 0x80000000 | 0x7f800000 | (word >> 29 & 0x7fffff)));
}
#else
CNP_INLINE u64 cnp_boxed(f32 value) { return 0xffffffff00000000 | cnp_bits_f32(value); }
CNP_INLINE f32 cnp_unboxed(u64 word) { return cnp_f32((u32)word); }
#endif
CNP_INLINE f32 cnp_get_f32(const char *frame, i64 offset) {
#ifdef CNP_F32_IS_WIDE
    if (offset < 0) return cnp_unboxed(*(const u64 *)(frame + offset));
#endif
    return *(const f32 *)(frame + offset + CNP_LOW(4));
}
CNP_INLINE void cnp_put_f32(char *frame, i64 offset, f32 value) {
    if (offset < 0) *(u64 *)(frame + offset) = cnp_boxed(value);
    else *(f32 *)(frame + offset + CNP_LOW(4)) = value;
}
CNP_INLINE cnp_word cnp_leave(char *frame, u32 position, u32 kind) {
    cnp_header *header = CNP_HEADER(frame);
    cnp_context *context = header->context;
    header->op = position;
    header->inner = kind ? 0 : context->outermost;
    context->outermost = frame;
    if (kind) {
        context->kind = kind;
        context->frame = frame;
    }
    return (cnp_word){ 0, 0 };
}
/* The ways out of both frames. */
#define CNP_EXIT_HERE CNP_SAVE CNP_HEADER(cnp_frame)->code = 0; return cnp_leave(cnp_frame, cnp_pc->position, 1);
#define CNP_TRAP_HERE CNP_SAVE return cnp_leave(cnp_frame, cnp_pc->position, 2);
#define CNP_UNWIND_HERE CNP_SAVE CNP_HEADER(cnp_frame)->code = 0; return cnp_leave(cnp_frame, cnp_pc->position, 0);
#define CNP_RETURN_HERE if (CNP_HEADER(cnp_frame)->outer) { CNP_SAVE } return (cnp_word){ 1, CNP_RESULT_WORD };
CNP_INLINE cnp_word cnp_call(cnp_state *s, cnp_func function, void *base) {
    cnp_header *mine = CNP_HEADER(s->cnp_frame);
    if (unlikely(mine->context->pending)) {
        mine->context->pending = 0;
        return (cnp_word){ 1, mine->context->pending_value };
    }
    if (unlikely(mine->depth == 0)) return (cnp_word){ 0, TRAP(CNP_TRAP_DEPTH) };
    char *frame = (char *)base + CNP_HEADER_SIZE;
    CNP_HEADER(frame)->depth = mine->depth - 1;
    CNP_HEADER(frame)->outer = 0;
    CNP_HEADER(frame)->context = mine->context;
    struct cnp_saved *to = CNP_HOME(frame);
    CNP_COPY_HOMES
    const struct cnp_record *record = CNP_RECORD(function);
    cnp_word result = CNP_CODE(record)(frame, record CNP_WORDS_OF(s));
    if (unlikely(!result.frame)) result.value = CNP_UNWIND;
    CNP_STATE(CNP_BURY)
    return result;
}
"""

ENTRY = r"""void @NAME@(char *frame, const struct cnp_record *record) {
    cnp_word result = CNP_CODE(record)(frame, record CNP_WORDS_OF(CNP_HOME(frame)));
    cnp_context *context = CNP_HEADER(frame)->context;
    if (!result.frame) return;
    context->kind = 0;
    context->value = result.value;
}"""

#: One jump to the case whose number the record holds: the distances are the same wherever the code lies.
JUMP = r"""#define CNP_CASE(number) cnp_case_##number:
    static const i32 cnp_distances[] = { @DISTANCES@ };
cnp_dispatch:
    goto *(void *)((const char *)&&cnp_case_0 + cnp_distances[cnp_pc->number]);
@CASES@"""
#: The same by comparing, where the address of a label is data.
COMPARE = r"""#define CNP_CASE(number) case number:
cnp_dispatch:
    switch (cnp_pc->number) {
@CASES@
        default: __builtin_unreachable();
    }"""

SWITCH = r"""
#define CNP_CODE(record) cnp_steps
static cnp_word cnp_steps(CNP_TAKE);
@COMMON@
#define CNP_GO(to) do { cnp_pc = CNP_RECORD(to); goto cnp_dispatch; } while (0)
#define CNP_TO(way) goto cnp_to_##way
static __attribute__((noinline)) cnp_word cnp_steps(CNP_TAKE) {
@DISPATCH@
cnp_to_exit: CNP_EXIT_HERE
cnp_to_trap: CNP_TRAP_HERE
cnp_to_unwind: CNP_UNWIND_HERE
cnp_to_return: CNP_RETURN_HERE
}
@ENTRY@
__asm__(".section .text.cnp.cases,\"ax\",@progbits\n\t.p2align 2\n@FIRST@\t.text\n");
"""

OPTIONAL = "threaded"  #: the name of the unit that not every target has

THREADED = r"""
#define CNP_PLACED __attribute__((section(".text.cnp.threads"), used))
__asm__(".section .text.cnp.threads,\"ax\",@progbits\n.Lcnp_threads:\n\t.text\n");
typedef CNP_CC cnp_word cnp_thread(CNP_TAKE);
#define CNP_CODE(record) ((cnp_thread *)(record)->code)
@COMMON@
#define CNP_CASE(number) static CNP_PLACED CNP_CC cnp_word cnp_case_##number(CNP_TAKE)
#define CNP_GO(to)                                                                                      \
    do {                                                                                                \
        cnp_pc = CNP_RECORD(to);                                                                        \
        __attribute__((musttail)) return CNP_CODE(cnp_pc)(CNP_GIVE);                                    \
    } while (0)
#define CNP_TO(way) do { __attribute__((musttail)) return cnp_to_##way(CNP_GIVE); } while (0)
#define CNP_WAY_OUT static CNP_PLACED __attribute__((noinline)) CNP_CC cnp_word
CNP_WAY_OUT cnp_to_exit(CNP_TAKE) { CNP_EXIT_HERE }
CNP_WAY_OUT cnp_to_trap(CNP_TAKE) { CNP_TRAP_HERE }
CNP_WAY_OUT cnp_to_unwind(CNP_TAKE) { CNP_UNWIND_HERE }
CNP_WAY_OUT cnp_to_return(CNP_TAKE) { CNP_RETURN_HERE }
@CASES@
@ENTRY@
__asm__(".section .text.cnp.threads.at,\"ax\",@progbits\n\t.p2align 2\n@PLACES@\t.text\n");
"""


@dataclass(frozen=True, slots=True)
class Unit:
    """A source to compile. flags: beside those of the stencils."""

    name: str
    text: str
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Words:
    """Where the state lives: (type, name) of what is in variables, and of what is always in its home."""

    variables: tuple[tuple[str, str], ...]
    homes: tuple[tuple[str, str], ...]


def units(source: Source, target: Target, callers: frozenset[str], natives: frozenset[str]) -> list[Unit]:
    """The interpreters that the source wants and a target can have. callers: bodies that call helpers; natives: those that make native calls."""
    if source.interpret == "none":
        return []
    firsts: dict[str, int] = {}
    texts = ["CNP_GO(cnp_pc + 1);"]  # interpret.IDLE
    for number, case in enumerate(cases(source), len(texts)):
        firsts.setdefault(case.name, number)
        texts.append(case_text(case, callers, natives))
    numbers = range(len(texts))
    marks = {
        "@DISPATCH@": JUMP if has_threads(target) else COMPARE,
        "@CASES@": "\n".join(f"CNP_CASE({number}) {{ {text} }}" for number, text in enumerate(texts)),
        "@DISTANCES@": ", ".join(f"&&cnp_case_{n} - &&cnp_case_0" for n in numbers),
        "@FIRST@": longs(firsts.values()),
        "@PLACES@": longs(f"cnp_case_{n} - .Lcnp_threads" for n in numbers),
        "@COMMON@": COMMON,
    }
    most, flags = len(source.state), FLAGS
    if SHORT_ADDRESSES in target.cflags:
        flags = (*flags, POSITION_INDEPENDENT)
    text = filled(SWITCH, {**marks, "@ENTRY@": ENTRY.replace("@NAME@", interpret.SWITCH)})
    found = [
        Unit(
            "interpreter",
            opening(source, words(source, most, most, most), "", callers) + text,
            flags + ONE_DISPATCH,
        )
    ]
    if has_threads(target) and source.interpret == OPTIONAL:
        convention = "" if target.fastcc else target.convention
        text = filled(THREADED, {**marks, "@ENTRY@": ENTRY.replace("@NAME@", interpret.THREADED)})
        found.append(
            Unit(OPTIONAL, opening(source, thread_words(source, target), convention, callers) + text, flags)
        )
    return found


def filled(text: str, marks: dict[str, str]) -> str:
    """`text` with other text in the place of its marks."""
    for mark, content in marks.items():
        text = text.replace(mark, content)
    return text


def longs(values: Iterable[object]) -> str:
    """Words of 32 bits as text of an assembly string."""
    return "".join(f"\\t.long {value}\\n" for value in values)


def has_threads(target: Target) -> bool:
    """Whether clang makes indirect tail calls there. Where it does not, the prelude has a way of its own to make one."""
    return "#define CNP_TAIL_INDIRECT" not in target.prelude


def thread_words(source: Source, target: Target) -> Words:
    """Which words the cases hand over: as many as the convention has registers for, without any by way of memory.
    `fastcc` is a convention that C cannot name: there it is the plain one."""
    if target.fastcc:
        most = C_PLACES - RECORD_AND_FRAME
        return words(source, most, most, most)
    return words(source, target.ints + 1 - RECORD_AND_FRAME, target.floats, len(source.state))


def words(source: Source, ints: int, floats: int, both: int) -> Words:
    """The first words that are no registers of the vocabulary in variables, so many of each class and of both."""
    variables: list[tuple[str, str]] = []
    left = {True: floats, False: ints}
    for word in source.state:
        is_float = word[0] in FLOATS
        if not REGISTER.fullmatch(word[1]) and left[is_float] and len(variables) < both:
            left[is_float] -= 1
            variables.append(word)
    return Words(tuple(variables), tuple(word for word in source.state if word not in variables))


def native_stack(report: str) -> int | None:
    """Native stack of one nested call, in bytes, from clang's report of its functions; None if it has no fixed size."""
    found = STACK.findall(report)
    if any(kind != "static" for _, kind in found):
        return None
    return max(int(size) for size, _ in found)


# ---- what the cases share


def opening(source: Source, plan: Words, convention: str, callers: frozenset[str]) -> str:
    """The beginning of a unit: the source, and how the state is taken, given, opened and closed. callers: bodies that call
    helpers."""
    fields = " ".join(f"{ctype} {name};" for ctype, name in source.state) or "u64 cnp_none;"
    variables, homes = [name for _, name in plan.variables], [name for _, name in plan.homes]
    everything = [f".{name} = cnp_w_{name}" for name in variables]
    everything += [f".{name} = CNP_HOME(cnp_frame)->{name}" for name in homes]
    lines = {
        "CNP_CC": convention,
        "CNP_HEADER_SIZE": f"(({HEADER_BYTES} + sizeof(struct cnp_saved) + 15) / 16 * 16)",
        "CNP_TAKE": ", ".join(
            ["char *cnp_frame", "const struct cnp_record *cnp_pc"]
            + [f"{ctype} cnp_w_{name}" for ctype, name in plan.variables]
        ),
        "CNP_GIVE": ", ".join(["cnp_frame", "cnp_pc", *(f"cnp_w_{name}" for name in variables)]),
        "CNP_WORDS_OF(from)": "".join(f", (from)->{name}" for name in variables),
        "CNP_SAVE": " ".join(f"CNP_HOME(cnp_frame)->{name} = cnp_w_{name};" for name in variables),
        "CNP_COPY_HOMES": " ".join(f"to->{name} = s->{name};" for name in homes),
        "CNP_OPEN": "cnp_state S = { " + ", ".join([*everything, ".cnp_frame = cnp_frame"]) + " };"
        + (" const cnp_state cnp_old = S;" if homes else ""),
        "CNP_COMMIT": " ".join(
            [f"cnp_w_{name} = S.{name};" for name in variables] + [commit(*word) for word in plan.homes]
        ),
        "CNP_DROP_DEAD": " ".join(
            [f"if (S.cnp_dead.{name}) cnp_w_{name} = 0;" for name in variables]
            + [f"if (S.cnp_dead.{name}) CNP_HOME(cnp_frame)->{name} = 0;" for name in homes]
        ),
        "CNP_RESULT_WORD": result_word(source, variables),
    }  # fmt: skip
    return "\n".join([
        "/* Printed by the builder from the declarations of the source. */",
        f'#include "{source.path.name}"',
        supers.definitions(source, callers),
        f"struct cnp_saved {{ {fields} }};",
        "struct cnp_record { u64 code; u32 number, position; u64 operand[6]; };",
        *(f"#define {name} {text}" for name, text in lines.items()),
    ])  # fmt: skip


def commit(ctype: str, name: str) -> str:
    """Store a word in its home, unless the compiler sees that the body left it alone: then nothing is left of this, nor
    of the word's load."""
    same = f"{word_of(ctype, f'S.{name}')} == {word_of(ctype, f'cnp_old.{name}')}"
    return f"if (!(__builtin_constant_p({same}) && {same})) CNP_HOME(cnp_frame)->{name} = S.{name};"


def word_of(ctype: str, text: str) -> str:
    """A state word as bits: floats that are NaNs equal nothing."""
    kind = {"float": "f32", "double": "f64"}.get(ctype, ctype)
    return f"cnp_word_{kind}({text})" if kind in ("f32", "f64") else f"(u64)({text})"


def result_word(source: Source, variables: list[str]) -> str:
    """C text of the result as a word, once the state is committed."""
    for ctype, name in source.state:
        if name == source.result:
            place = f"cnp_w_{name}" if name in variables else f"CNP_HOME(cnp_frame)->{name}"
            return word_of(ctype, place)
    return "0"


# ---- cases


@dataclass(frozen=True, slots=True)
class Case:
    """One way to give the operands of an operation. name: of the operation; declaration: what it comes from."""

    name: str
    declaration: Declaration
    operands: tuple[Operand, ...]
    way: Way


def cases(source: Source) -> Iterator[Case]:
    """All cases, those of one operation together, in the order of the operations."""
    for item in source.declarations:
        for name, operands in variants(item):
            for way in interpret.ways(operands, exact_numbers(item, operands)):
                yield Case(name, item, operands, way)


def exact_numbers(item: Declaration, operands: tuple[Operand, ...]) -> dict[int, list[int]]:
    """Operands that may only be certain numbers, by position."""
    found = {}
    for position, operand in enumerate(operands):
        allowed = item.immediates.get(operand.name, ())
        if operand.kind == "imm" and allowed and all(NUMBER.fullmatch(text) for text in allowed):
            found[position] = sorted(map(int, allowed))
    return found


def case_text(case: Case, callers: frozenset[str], natives: frozenset[str]) -> str:
    """The statements of a case, up to where it goes on."""
    if case.declaration.kind in ("op", "slow"):
        return body_text(case, callers, natives)
    return pure_text(case)


def body_text(case: Case, callers: frozenset[str], natives: frozenset[str]) -> str:
    """Call the body, its slow part when it asks for it, and obey the answer."""
    item, names = case.declaration, {case.declaration.name, f"{case.declaration.name}_slow"}
    numbered = list(enumerate(case.operands))
    inputs = [f"{o.ctype} in{n} = {read(case, n)};" for n, o in numbered if o.kind.startswith("in")]
    outputs = [f"{o.ctype} out{n};" for n, o in numbered if o.kind == "out"]
    values = "".join(f", {argument(case, n)}" for n, _ in numbered)
    writes = " ".join(write(case, n, f"out{n}") for n, o in numbered if o.kind == "out")
    jumps = [n for n, o in numbered if o.kind == "label"]
    parts = ["CNP_OPEN", *inputs, *outputs, f"cnp_go cnp_next = {item.name}(&S{values});"]
    if item.kind == "slow":
        parts.append(f"if (cnp_next == SLOW) cnp_next = {item.name}_slow(&S{values});")
    if names & callers:
        raised = "u64 cnp_raised = CNP_HEADER(cnp_frame)->context->raised;"
        leave = "CNP_HEADER(cnp_frame)->code = (u32)cnp_raised; CNP_TO(trap);"
        parts.append(f"{raised} if (unlikely(cnp_raised)) {{ {leave} }}")
    if names & natives:
        parts.append("if (unlikely(cnp_next == CNP_UNWIND)) { CNP_DROP_DEAD CNP_TO(unwind); }")
    parts += [
        "CNP_COMMIT switch (cnp_next) {",
        f"case NEXT: {writes} CNP_GO(cnp_pc + 1);",
        *(f"case JUMP({n}): {writes} CNP_GO(cnp_pc->operand[{n}]);" for n in jumps),
        f"case CNP_TABLE: {writes} CNP_GO(S.cnp_to);",
        f"case CNP_RETURN: {writes} CNP_TO(return);",
        "case EXIT: CNP_TO(exit);",
        "default: CNP_HEADER(cnp_frame)->code = (u32)CNP_PAYLOAD(cnp_next); CNP_TO(trap); }",
    ]
    return " ".join(parts)


def pure_text(case: Case) -> str:
    """Read the inputs, compute, write the output or take the branch."""
    item, name = case.declaration, case.declaration.name
    inputs = [n for n, operand in enumerate(case.operands) if operand.kind.startswith("in")]
    parts = [f"{case.operands[n].ctype} in{n} = {read(case, n)};" for n in inputs]
    values = ", ".join(f"in{n}" for n in inputs[: len(item.operands) - 1])
    go_on = "CNP_GO(cnp_pc + 1);"
    if case.name == f"br_{name}":
        taken = f"CNP_GO(cnp_pc->operand[{len(case.operands) - 1}]);"
        return " ".join([*parts, f"if ({name}({values})) {taken}", go_on])
    if item.kind == "trap":
        leave = "{ CNP_HEADER(cnp_frame)->code = cnp_trap; CNP_TO(trap); }"
        if case.name == TRY + name:
            leave = f"CNP_GO(cnp_pc->operand[{len(case.operands) - 1}]);"
        parts.append(f"u32 cnp_trap = {name}_trap({values}); if (unlikely(cnp_trap)) {leave}")
    value = f"{name}({values})"
    if case.name == f"sel_{name}":
        value = f"{value} ? in{inputs[-2]} : in{inputs[-1]}"
    return " ".join([*parts, write(case, 0, value), go_on])


# ---- operands


def read(case: Case, number: int) -> str:
    """C text of an `in`: a word of the frame, or the immediate itself."""
    ctype, word = case.operands[number].ctype, f"cnp_pc->operand[{number}]"
    if case.way[number] == VALUE:
        return value_of(ctype, word)
    if ctype == "f32":
        return f"cnp_get_f32(cnp_frame, (i64){word})"
    return f"*({ctype} *)(cnp_frame + (i64){word} + CNP_LOW(sizeof({ctype})))"


def write(case: Case, number: int, text: str) -> str:
    """C text that stores an `out`. Integers of 32 bits and less are zero-extended."""
    ctype, word = case.operands[number].ctype, f"cnp_pc->operand[{number}]"
    if ctype == "f32":
        return f"cnp_put_f32(cnp_frame, (i64){word}, {text});"
    if ctype != "f64" and SCALARS[ctype] < 8:
        ctype, text = "u64", f"(u64)(u32)({text})"
    return f"*({ctype} *)(cnp_frame + (i64){word} + CNP_LOW(sizeof({ctype}))) = {text};"


def argument(case: Case, number: int) -> str:
    """C text of the value of one operand of a body."""
    operand, word = case.operands[number], f"cnp_pc->operand[{number}]"
    match operand.kind:
        case "in" | "in/imm":
            return f"in{number}"
        case "out":
            return f"&out{number}"
        case "imm":
            exact = case.way[number]
            return f"({operand.ctype}){exact}" if isinstance(exact, int) else value_of(operand.ctype, word)
        case "slot":
            return f"({operand.ctype} *)(cnp_frame + (i64){word}{low(operand)})"
        case "label":
            return str(number)
        case "func":
            return f"(cnp_func)(__UINTPTR_TYPE__){word}"
        case "table":
            return f"(const cnp_label *)(__UINTPTR_TYPE__){word}"
        case "cell":
            return f"({operand.ctype} *)(__UINTPTR_TYPE__)({word}{low(operand)})"
        case _:
            return f"({operand.ctype} *)(__UINTPTR_TYPE__){word}"


def low(operand: Operand) -> str:
    """What is added to the address of a word to point at a scalar in it."""
    return f" + CNP_LOW({SCALARS[operand.ctype]})" if operand.ctype in SCALARS else ""


def value_of(ctype: str, word: str) -> str:
    """A word as an immediate of a type."""
    if ctype in ("f32", "f64"):
        return f"cnp_{ctype}(({'u32' if ctype == 'f32' else 'u64'}){word})"
    return f"({ctype}){word}"
