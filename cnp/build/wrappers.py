"""Print the C that stands between bodies and stencils: one function for each operation and form.

A stencil is a function of (state words in registers, frame) that builds the state struct, calls the inlined body
with its hole values and tail-calls what the body says. Scalar replacement leaves the body's instructions and one
jump. What the target's prelude must define, with `i` the number of the operand as a literal:

    CNP_IMM64(i) u64 · CNP_IMM32S(i) i64 · CNP_IMM32U(i) u32     the value of an immediate, any value
    CNP_ADDRESS(i) u64                                           the address of a cell, table or symbol
    CNP_SLOT(i), CNP_SLOT_WIDE(i) char *                         the address of a slot: the short and the long way
    CNP_LESS(a, b) u64                                           optional: a - b in one instruction, b a number in it
    CNP_FOLD(i) i64                                              where `Target.folds`: an immediate as an address
    CNP_HOLE_DECLARE(i)                                          declarations that these need, if any
    CNP_READ_type(i), CNP_WRITE_type(i, value)                   optional: a slot access in one instruction
    CNP_DECLARE_TAIL(name, text), CNP_TAIL_INDIRECT(to)          optional: how a continuation is declared and called
"""

from __future__ import annotations

from dataclasses import dataclass

from cnp.build.discover import IMMEDIATE, INTEGERS, MOST_OPERANDS, SCALARS, Declaration, Source
from cnp.stencil import Accept, Operand
from cnp.target import Target

FLOATS = ("f32", "f64", "float", "double")
HEADER_BYTES = 32

COMMON = r"""
#define CNP_ANY(word) __asm__ volatile("" : "=r"(word))
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
#define CNP_TAIL(to) do { CNP_CLOSE __attribute__((musttail)) return to(CNP_GIVE); } while (0)
#define CNP_TAIL_UNCHANGED(to) do { __attribute__((musttail)) return to(CNP_GIVE_BACK); } while (0)
#define CNP_TAIL_LIVE(to) do { CNP_CLOSE_DEAD __attribute__((musttail)) return to(CNP_GIVE_LIVE); } while (0)
#ifndef CNP_TAIL_INDIRECT
#define CNP_TAIL_INDIRECT(to) CNP_TAIL(((cnp_code *)(to)))
#endif
#define CNP_LEAVE_TRAP(number) do { CNP_HEADER(cnp_frame)->code = (u32)(number); CNP_TAIL(cnp_to_trap); } while (0)
typedef CNP_CC cnp_word cnp_code(CNP_TAKE);
"""

ACCESS = r"""
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

RETURN = r"""
        case CNP_RETURN:
            if (unlikely(CNP_HEADER(cnp_frame)->outer)) CNP_TAIL(cnp_leave_return);
            return (cnp_word){ CNP_VALUE, (u64)cnp_frame };
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """A form to print. accepts: for each operand the kind that this form takes and the type's own range."""

    key: str
    operation: str
    declaration: Declaration
    operands: tuple[Operand, ...]
    accepts: tuple[Accept, ...]
    wide: bool
    folded: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the state lives: words in registers, the rest in the frame's save area."""

    ints: tuple[tuple[str, str], ...]
    floats: tuple[tuple[str, str], ...]
    homes: tuple[tuple[str, str], ...]


def layout(source: Source, target: Target) -> Layout:
    """Give the first words of each class to registers, as many as the target holds."""
    ints = [item for item in source.state if item[0] not in FLOATS]
    floats = [item for item in source.state if item[0] in FLOATS]
    homes = tuple(ints[target.ints :] + floats[target.floats :])
    return Layout(tuple(ints[: target.ints]), tuple(floats[: target.floats]), homes)


# ---- shapes: which forms an operation has


def shapes(source: Source, target: Target) -> list[Shape]:
    """All forms of all operations, the best first."""
    found: list[Shape] = []
    for item in source.declarations:
        for name, operands in variants(item):
            found += forms(name, item, operands, target)
    return found


def variants(item: Declaration) -> list[tuple[str, tuple[Operand, ...]]]:
    """The operations that one declaration makes: a test is a value and a branch."""
    if item.kind != "test":
        return [(item.name, item.operands)]
    branch = (*item.operands[1:], Operand("label", "", "target"))
    return [(item.name, item.operands), ("br_" + item.name, branch)]


def forms(name: str, item: Declaration, operands: tuple[Operand, ...], target: Target) -> list[Shape]:
    """Immediates before slots; folded immediates before those that take any value; short slots before wide ones."""
    choices: list[tuple[str, ...]] = [()]
    for operand in operands:
        kinds = (*item.immediates.get(operand.name, ()), KIND.get(operand.kind, operand.kind))
        choices = [(*choice, kind) for choice in choices for kind in kinds]
    choices = [choice for choice in choices if not constant(choice, operands)]
    has_slots = any("slot" in choice for choice in choices)
    found: list[Shape] = []
    for wide, folded in ((False, True), (False, False), (True, False)):
        if wide > (target.wide and has_slots) or folded > target.folds:
            continue
        for choice in choices:
            if wide and "slot" not in choice:
                continue
            accepts = tuple(
                accept(kind, operand, wide, target) for kind, operand in zip(choice, operands, strict=True)
            )
            if not folded or any(accepted.kind in FOLDING for accepted in accepts):
                found.append(Shape(f"{name}.{len(found)}", name, item, operands, accepts, wide, folded))
    return found


KIND = {"out": "slot", "in": "slot", "in/imm": "slot"}
FOLDING = ("i8", "u8", "i16", "u16", "i32", "u32")


def constant(choice: tuple[str, ...], operands: tuple[Operand, ...]) -> bool:
    """Whether all of several inputs are immediates: a compiler has computed such a value."""
    inputs = [kind for kind, operand in zip(choice, operands, strict=True) if operand.kind.startswith("in")]
    return len(inputs) > 1 and "slot" not in inputs


def accept(kind: str, operand: Operand, wide: bool, target: Target) -> Accept:
    """The range that the C type of an operand gives it; the fields of the object narrow it further."""
    if kind == "slot":
        low, high = (0, (1 << 31) - 1) if wide else target.short_slots
        return Accept("slot", low, high, 1)
    if kind != "imm" and not IMMEDIATE.fullmatch(kind):
        return Accept(kind, 0, (1 << 64) - 1)
    ctype = operand.ctype if kind == "imm" else kind
    ctype = "i32" if ctype == "disp" else ctype
    if ctype[0] in "iu" and IMMEDIATE.fullmatch(ctype):
        bits = int(ctype[1:])
        return Accept(
            ctype, *((-(1 << bits - 1), (1 << bits - 1) - 1) if ctype[0] == "i" else (0, (1 << bits) - 1))
        )
    return Accept(ctype if ctype in SCALARS else "u64", 0, (1 << (32 if ctype == "f32" else 64)) - 1)


# ---- the stencil source


def stencil_source(source: Source, target: Target, callers: frozenset[str], natives: frozenset[str]) -> str:
    """The C text of all stencils and routines of a vocabulary. callers: bodies that call helpers; natives: bodies
    that make native calls."""
    parts = [
        "/* Printed by the builder from the declarations of the source. */",
        f'#include "{source.path.name}"',
        f"#define CNP_CC {target.convention}",
        state_macros(source, target),
        target.prelude,
        COMMON,
        ACCESS,
        *(f"CNP_HOLE_DECLARE({number})" for number in range(MOST_OPERANDS)),
        *(f'CNP_DECLARE_TAIL(cnp_to_target_{n}, "cnp.target.{n}")' for n in range(MOST_OPERANDS)),
        *(f'CNP_DECLARE_TAIL(cnp_to_{name}, "cnp.leave.{name}")' for name in ("exit", "trap", "unwind")),
        'CNP_DECLARE_TAIL(cnp_to_next, "cnp.next")',
        routines(source),
        *(wrapper(shape, source, callers, natives) for shape in shapes(source, target)),
    ]
    return "\n".join(parts) + "\n"


def state_macros(source: Source, target: Target) -> str:
    """CNP_TAKE (parameters), CNP_GIVE (the state as it is), CNP_GIVE_BACK (as it came), CNP_GIVE_LIVE (as it came but for
    what is dead), CNP_OPEN, CNP_CLOSE."""
    plan = layout(source, target)
    ints = [(ctype, f"cnp_in_{name}", f"S.{name}") for ctype, name in plan.ints]
    while len(ints) < target.frame_position:
        pad = f"cnp_pad_{len(ints)}"
        ints.append(("u64", pad, pad))
    ints.insert(target.frame_position, ("char *", "cnp_frame", "cnp_frame"))
    pads = [name for _, name, _ in ints if name.startswith("cnp_pad")]
    words = ints + [(ctype, f"cnp_in_{name}", f"S.{name}") for ctype, name in plan.floats]
    saved = "((struct cnp_saved *)(cnp_frame - CNP_HEADER_SIZE))"
    registers = [name for _, name in (*plan.ints, *plan.floats)]
    homes = [name for _, name in plan.homes]
    opens = [f".{n} = cnp_in_{n}" for n in registers] + [f".{n} = {saved}->{n}" for n in homes]
    loads = [f"S.{name} = {saved}->{name};" for _, name in source.state]
    saves = [f"{saved}->{name} = S.{name};" for _, name in source.state]
    lines = {
        "CNP_HEADER_SIZE": f"(({HEADER_BYTES} + sizeof(struct cnp_saved) + 15) / 16 * 16)",
        "CNP_TAKE": ", ".join(f"{ctype} {name}" for ctype, name, _ in words),
        "CNP_GIVE": ", ".join(value for _, _, value in words),
        "CNP_GIVE_BACK": ", ".join(name for _, name, _ in words),
        "CNP_GIVE_LIVE": ", ".join(live(name, value) for _, name, value in words),
        "CNP_CLOSE_DEAD": " ".join(f"if (S.cnp_dead.{name}) {saved}->{name} = 0;" for name in homes),
        "CNP_OPEN": "cnp_state S = { " + ", ".join([*opens, ".cnp_frame = cnp_frame"]) + " };",
        "CNP_CLOSE": " ".join(f"{saved}->{name} = S.{name};" for name in homes),
        "CNP_LOAD_STATE": " ".join(loads),
        "CNP_SAVE_STATE": " ".join(saves),
        "CNP_PADS": " ".join(f"u64 {name};" for name in pads),
        "CNP_FORGET": " ".join(f"CNP_ANY({name});" for name in pads),
        "CNP_COPY_HOMES(to)": " ".join(
            f"((struct cnp_saved *)((to) - CNP_HEADER_SIZE))->{n} = s->{n};" for n in homes
        ),
        "CNP_STATE_OF_CALLER": ", ".join(
            value.replace("S.", "s->") if value.startswith("S.") else value.replace("cnp_frame", "frame")
            for _, _, value in words
        ),
        "CNP_VALUE": value_of(source),
    }
    fields = " ".join(f"{ctype} {name};" for ctype, name in source.state) or "u64 cnp_none;"
    checks = "\n".join(
        f'_Static_assert(sizeof({ctype}) <= 8, "state field {name} does not fit a word");'
        for ctype, name in source.state
    )
    return f"struct cnp_saved {{ {fields} }};\n{checks}\n" + "\n".join(
        f"#define {k} {v}" for k, v in lines.items()
    )


def live(name: str, value: str) -> str:
    """C text of a word as it came, 0 where the body has declared it dead."""
    field = value.removeprefix("S.")
    return name if field == value else f"(S.cnp_dead.{field} ? 0 : {name})"


def value_of(source: Source) -> str:
    """C text of the result as a word."""
    ctype = next((ctype for ctype, name in source.state if name == source.result), "")
    if not ctype:
        return "0"
    bits = {"f64": "cnp_bits_f64", "double": "cnp_bits_f64", "f32": "cnp_bits_f32", "float": "cnp_bits_f32"}
    return f"{bits.get(ctype, '(u64)')}(S.{source.result})"


def routines(source: Source) -> str:
    """What every image shares: the way in, the ways out with their stubs, the native call."""
    ways = "\n".join(
        f"""
CNP_CC CNP_HIDDEN __attribute__((noinline)) cnp_word cnp_leave_{name}(CNP_TAKE) {{
    CNP_OPEN CNP_SAVE_STATE
    cnp_header *header = CNP_HEADER(cnp_frame);
    {leave}
    return (cnp_word){{ (u64)cnp_frame, 0 }};
}}
CNP_CC __attribute__((used)) cnp_word cnp_stub_{name}(CNP_TAKE) __asm__("cnp.stub.{name}");
CNP_CC cnp_word cnp_stub_{name}(CNP_TAKE) {{
    CNP_HEADER(cnp_frame)->op = CNP_IMM32U(position);
    CNP_TAIL_UNCHANGED(cnp_leave_{name});
}}"""
        for name, leave in LEAVES.items()
    )
    return (
        ways
        + """
CNP_CC CNP_HIDDEN __attribute__((noinline)) cnp_word cnp_leave_return(CNP_TAKE) {
    CNP_OPEN CNP_SAVE_STATE
    return (cnp_word){ CNP_VALUE, (u64)cnp_frame };
}
void cnp_enter(char *cnp_frame, cnp_code *code) {
    cnp_state S; CNP_PADS CNP_FORGET CNP_LOAD_STATE
    cnp_word result = code(CNP_GIVE);
    cnp_context *context = CNP_HEADER(cnp_frame)->context;
    if (!result.frame) return;
    context->kind = 0;
    context->value = result.value;
}
CNP_INLINE cnp_word cnp_call(cnp_state *s, cnp_func function, void *base) {
    cnp_header *mine = CNP_HEADER(s->cnp_frame);
    u32 depth = mine->depth;
    if (unlikely(depth == 0)) return (cnp_word){ TRAP(CNP_TRAP_DEPTH), 0 };
    char *frame = (char *)base + CNP_HEADER_SIZE;
    *(u64 *)&CNP_HEADER(frame)->depth = CNP_FIRST_HALF(depth - 1); /* and outer = 0: one store */
    CNP_HEADER(frame)->context = mine->context;
    CNP_COPY_HOMES(frame)
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
    )


LEAVES = {
    "exit": "header->inner = 0; header->code = 0; cnp_context *context = header->context;"
    " context->kind = 1; context->frame = context->outermost = cnp_frame;",
    "trap": "header->inner = 0; cnp_context *context = header->context;"
    " context->kind = 2; context->frame = context->outermost = cnp_frame;",
    "unwind": "header->code = 0; cnp_context *context = header->context;"
    " header->inner = context->outermost; context->outermost = cnp_frame;",
}


def wrapper(shape: Shape, source: Source, callers: frozenset[str], natives: frozenset[str]) -> str:
    """The stencil of one form, and its slow part if it has one."""
    item = shape.declaration
    if item.kind in ("op", "slow"):
        parts = [
            body_stencil(shape, source, callers, natives, part)
            for part in (("slow", "hot") if item.kind == "slow" else ("hot",))
        ]
        return "\n".join(parts)
    c_name = symbol(shape)
    code = pure_code(shape)
    return f"{opening(c_name, f'cnp.stencil.{shape.key}')} {{ CNP_OPEN {code} CNP_TAIL_UNCHANGED(cnp_to_next); }}"


def symbol(shape: Shape, part: str = "stencil") -> str:
    return f"cnp_{part}_{shape.key.replace('.', '_')}"


def opening(c_name: str, text: str) -> str:
    """Declaration of a stencil function under its name in the object."""
    return (
        f'CNP_CC __attribute__((noinline, used)) CNP_HIDDEN cnp_word {c_name}(CNP_TAKE) __asm__("{text}");\n'
        f"CNP_CC cnp_word {c_name}(CNP_TAKE)"
    )


def body_stencil(
    shape: Shape, source: Source, callers: frozenset[str], natives: frozenset[str], part: str
) -> str:
    """A body that says what happens next, and the obedience to it."""
    item = shape.declaration
    arguments = "".join(f", {argument(shape, number)}" for number in range(len(item.operands)))
    name = item.name if part == "hot" else f"{item.name}_slow"
    slow = f"case SLOW: CNP_TAIL({symbol(shape, 'slow')});" if part == "hot" and item.kind == "slow" else ""
    jumps = " ".join(
        f"case JUMP({number}): CNP_TAIL(cnp_to_target_{number});"
        for number, operand in enumerate(item.operands)
        if operand.kind == "label"
    )
    raised = (
        "u64 cnp_raised = CNP_HEADER(cnp_frame)->context->raised;\n    if (unlikely(cnp_raised)) "
        "{ CNP_HEADER(cnp_frame)->code = (u32)cnp_raised; CNP_TAIL_UNCHANGED(cnp_to_trap); }"
        if name in callers
        else ""
    )
    forget = "CNP_FORGET" if name in callers | natives else ""
    back = "cnp_frame = S.cnp_frame;" if name in natives else ""
    text = f"cnp.stencil.{shape.key}" if part == "hot" else f"cnp.slow.{shape.key}"
    return f"""{opening(symbol(shape, "stencil" if part == "hot" else "slow"), text)} {{
    CNP_OPEN
    cnp_go cnp_next = {name}(&S{arguments});
    {forget} {back}
    {raised}
    switch (cnp_next) {{
        case NEXT: CNP_TAIL(cnp_to_next);
        {slow}
        {jumps}
        case EXIT: CNP_TAIL(cnp_to_exit);
        case CNP_UNWIND: CNP_TAIL_LIVE(cnp_to_unwind);
        case CNP_TABLE: CNP_TAIL_INDIRECT(S.cnp_to);
        {RETURN.strip()}
        default: CNP_LEAVE_TRAP(CNP_PAYLOAD(cnp_next));
    }}
}}"""


def argument(shape: Shape, number: int) -> str:
    """C text of the value of one operand of a body."""
    operand, accepted = shape.operands[number], shape.accepts[number]
    wide = "_WIDE" if shape.wide else ""
    match operand.kind:
        case "imm":
            return immediate(accepted.kind, operand.ctype, number, shape.folded)
        case "slot":
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


def immediate(kind: str, ctype: str, number: int, folded: bool) -> str:
    """C text of an immediate of type `kind`, converted to `ctype`. folded: as an address that LLVM may fold into an
    instruction; which values that leaves is read off the object."""
    if folded and kind in FOLDING:
        whole = kind == "i32" and ctype in ("i64", "u64", "disp")
        return f"({ctype}){'' if whole else f'({kind})'}CNP_FOLD({number})"
    if kind == "f64":
        return f"({ctype})cnp_f64(CNP_IMM64({number}))"
    if kind == "f32":
        return f"({ctype})cnp_f32(CNP_IMM32U({number}))"
    if int(kind[1:]) > 32:
        return f"({ctype})({kind[0]}64)CNP_IMM64({number})"
    way = "CNP_IMM32S" if kind[0] == "i" else "CNP_IMM32U"
    return f"({ctype}){way}({number})"


def read(shape: Shape, number: int) -> str:
    """C text of an input of a pure operation."""
    operand, accepted = shape.operands[number], shape.accepts[number]
    if accepted.kind != "slot":
        return immediate(accepted.kind, operand.ctype, number, shape.folded)
    return f"CNP_READ{'_WIDE' if shape.wide else ''}({operand.ctype}, {number})"


def write(shape: Shape, value: str) -> str:
    """C text that stores the value of a pure operation in operand 0. Integers of 32 bits are zero-extended."""
    ctype = shape.operands[0].ctype
    if ctype in INTEGERS and INTEGERS[ctype] < 8:
        ctype, value = "u64", f"(u64)(u32)({value})"
    return f"CNP_WRITE{'_WIDE' if shape.wide else ''}({ctype}, 0, {value});"


def pure_code(shape: Shape) -> str:
    """The statements of a pure operation up to the tail call. The state stays as it came: its homes are not written."""
    item, name = shape.declaration, shape.declaration.name
    branch = shape.operation != name
    inputs = range(0 if branch else 1, len(shape.operands) - branch)
    if item.kind == "load":
        return write(
            shape, f"{name}((const char *){read(shape, 1)} + {immediate('i32', 'i64', 2, shape.folded)})"
        )
    if item.kind == "store":
        return f"{name}((char *){read(shape, 0)} + {immediate('i32', 'i64', 1, shape.folded)}, {read(shape, 2)});"
    names = ", ".join(f"in{number}" for number in inputs)
    values = " ".join(
        f"{shape.operands[number].ctype} in{number} = {read(shape, number)};" for number in inputs
    )
    if branch:
        return f"{values} if ({name}({names})) CNP_TAIL_UNCHANGED(cnp_to_target_{len(shape.operands) - 1});"
    trap = (
        f"u32 cnp_trap = {name}_trap({names}); if (unlikely(cnp_trap)) CNP_LEAVE_TRAP(cnp_trap);"
        if item.kind == "trap"
        else ""
    )
    return f"{values} {trap} {write(shape, f'{name}({names})')}"
