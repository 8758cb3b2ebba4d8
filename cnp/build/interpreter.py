"""Print the interpreter of a vocabulary: the same bodies in a switch over records.

    record   0  u16 operation      operand i of kind   imm            its value
             2  u16 immediates                         slot           bytes from the frame's first slot
             4  u32 position                           label, func    address of the record to go on at
             8  u64 operand[6]                         cell, symbol   address
            56                                         table          address of a table of record addresses

Bit i of `immediates` says that operand i of a pure operation is a value, not a slot. The frame, the context and
the way a run ends are the same as those of generated code, so that either can go on where the other left.
"""

from __future__ import annotations

from cnp.build.discover import SCALARS, Declaration, Source
from cnp.build.wrappers import HEADER_BYTES, value_of, variants
from cnp.stencil import Operand

STEPS = "cnp_steps"  #: the function that calls itself for each nested call

RUN = r"""
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
struct cnp_record { u16 operation, immediates; u32 position; u64 operand[6]; };
static void cnp_save(cnp_state *s) { struct cnp_saved *to = (void *)(s->cnp_frame - CNP_HEADER_SIZE); CNP_SAVE }
static void cnp_restore(cnp_state *s) { struct cnp_saved *from = (void *)(s->cnp_frame - CNP_HEADER_SIZE); CNP_RESTORE }
static cnp_word cnp_leave(cnp_state *s, u32 position, u32 kind, u32 code, int inner) {
    cnp_header *header = CNP_HEADER(s->cnp_frame);
    cnp_context *context = header->context;
    cnp_save(s);
    header->op = position;
    header->code = code;
    header->inner = inner ? context->outermost : 0;
    context->outermost = s->cnp_frame;
    if (!inner) {
        context->kind = kind;
        context->frame = s->cnp_frame;
    }
    return (cnp_word){ 0, 0 };
}
static cnp_word cnp_steps(cnp_state *s, const struct cnp_record *pc);
CNP_INLINE cnp_word cnp_call(cnp_state *s, cnp_func function, void *base) {
    cnp_header *mine = CNP_HEADER(s->cnp_frame);
    if (mine->context->pending) {
        mine->context->pending = 0;
        return (cnp_word){ mine->context->pending_value, 1 };
    }
    if (mine->depth == 0) return (cnp_word){ TRAP(CNP_TRAP_DEPTH), 0 };
    char *frame = (char *)base + CNP_HEADER_SIZE;
    CNP_HEADER(frame)->depth = mine->depth - 1;
    CNP_HEADER(frame)->outer = 0;
    CNP_HEADER(frame)->context = mine->context;
    cnp_state callee = *s;
    callee.cnp_frame = frame;
    cnp_word result = cnp_steps(&callee, (const struct cnp_record *)function);
    if (!result.frame) result.value = CNP_UNWIND;
    CNP_STATE(CNP_BURY)
    return result;
}
static __attribute__((noinline)) cnp_word cnp_steps(cnp_state *cnp_initial, const struct cnp_record *cnp_pc) {
    cnp_state cnp_now = *cnp_initial, cnp_before, *s = &cnp_now;
    for (;;) {
        char *cnp_at = cnp_now.cnp_frame;
        const u64 *cnp_o = cnp_pc->operand;
        cnp_go cnp_next = NEXT;
        int cnp_calls = 0;
        switch (cnp_pc->operation) {
@CASES@
            default: cnp_next = TRAP(CNP_TRAP_UNREACHABLE);
        }
        if (cnp_calls && CNP_CONTEXT->raised)
            return cnp_leave(&cnp_before, cnp_pc->position, 2, (u32)CNP_CONTEXT->raised, 0);
        switch (CNP_KIND(cnp_next)) {
            case CNP_NEXT: cnp_pc++; break;
            case CNP_JUMP: cnp_pc = (const struct cnp_record *)(__UINTPTR_TYPE__)CNP_PAYLOAD(cnp_next); break;
            case CNP_TABLE: cnp_pc = (const struct cnp_record *)(__UINTPTR_TYPE__)cnp_now.cnp_to; break;
            case CNP_EXIT: return cnp_leave(s, cnp_pc->position, 1, 0, 0);
            case CNP_TRAP: return cnp_leave(s, cnp_pc->position, 2, (u32)CNP_PAYLOAD(cnp_next), 0);
            case CNP_UNWIND:
                s = &cnp_before;
                s->cnp_dead = cnp_now.cnp_dead;
                CNP_STATE(CNP_BURY)
                return cnp_leave(s, cnp_pc->position, 0, 0, 1);
            default:
                if (CNP_HEADER(cnp_at)->outer) cnp_save(s);
                return (cnp_word){ CNP_RESULT_WORD, 1 };
        }
    }
}
void cnp_interpret(char *frame, const struct cnp_record *record) {
    cnp_state state = { .cnp_frame = frame };
    cnp_restore(&state);
    cnp_word result = cnp_steps(&state, record);
    cnp_context *context = CNP_HEADER(frame)->context;
    if (!result.frame) return;
    context->kind = 0;
    context->value = result.value;
}
"""


def interpreter_source(source: Source, callers: frozenset[str]) -> str:
    """The C text of `cnp_interpret`. callers: bodies that call helpers."""
    fields = " ".join(f"{ctype} {name};" for ctype, name in source.state) or "u64 cnp_none;"
    names = [name for _, name in source.state]
    cases: list[str] = []
    for item in source.declarations:
        for name, operands in variants(item):
            code = (
                body_case(item, callers) if item.kind in ("op", "slow") else pure_case(name, item, operands)
            )
            cases.append(f"            case {len(cases)}: {code} break;")
    lines = [
        "/* Printed by the builder from the declarations of the source. */",
        f'#include "{source.path.name}"',
        f"struct cnp_saved {{ {fields} }};",
        f"#define CNP_HEADER_SIZE (({HEADER_BYTES} + sizeof(struct cnp_saved) + 15) / 16 * 16)",
        "#define CNP_SAVE " + " ".join(f"to->{name} = s->{name};" for name in names),
        "#define CNP_RESTORE " + " ".join(f"s->{name} = from->{name};" for name in names),
        "#define CNP_RESULT_WORD " + value_of(source).replace("S.", "s->"),
        RUN.replace("@CASES@", "\n".join(cases)),
    ]
    return "\n".join(lines)


def body_case(item: Declaration, callers: frozenset[str]) -> str:
    """Call the body, and its slow part when it asks for it."""
    values = "".join(f", {argument(operand, number)}" for number, operand in enumerate(item.operands))
    code = f"cnp_next = {item.name}(s{values});"
    if item.kind == "slow":
        code += f" if (cnp_next == SLOW) cnp_next = {item.name}_slow(s{values});"
    calls = bool(callers & {item.name, f"{item.name}_slow"})
    careful = calls or any(operand.kind == "func" for operand in item.operands)
    return (
        f"cnp_before = cnp_now; cnp_now.cnp_dead = (struct cnp_flags){{ 0 }}; cnp_calls = {int(calls)}; {code}"
        if careful
        else code
    )


def argument(operand: Operand, number: int) -> str:
    word = f"cnp_o[{number}]"
    match operand.kind:
        case "imm":
            return value(operand.ctype, word)
        case "slot":
            low = f" + CNP_LOW({SCALARS[operand.ctype]})" if operand.ctype in SCALARS else ""
            return f"({operand.ctype} *)(cnp_at + {word}{low})"
        case "label":
            return word
        case "func":
            return f"(cnp_func)(__UINTPTR_TYPE__){word}"
        case "table":
            return f"(const cnp_label *)(__UINTPTR_TYPE__){word}"
        case "cell" if operand.ctype in SCALARS:
            return f"({operand.ctype} *)(__UINTPTR_TYPE__)({word} + CNP_LOW({SCALARS[operand.ctype]}))"
        case _:
            return f"({operand.ctype} *)(__UINTPTR_TYPE__){word}"


def value(ctype: str, word: str) -> str:
    """A word as an immediate of a type."""
    if ctype in ("f32", "f64"):
        return f"cnp_{ctype}(({'u32' if ctype == 'f32' else 'u64'}){word})"
    return f"({ctype}){word}"


def read(item: Declaration, operand: Operand, number: int) -> str:
    """An input of a pure operation: a slot, or an immediate where it may be one."""
    ctype = operand.ctype
    slot = f"*({ctype} *)(cnp_at + cnp_o[{number}] + CNP_LOW(sizeof({ctype})))"
    if operand.kind != "in/imm":
        return slot
    return f"(cnp_pc->immediates >> {number} & 1 ? {value(ctype, f'cnp_o[{number}]')} : {slot})"


def pure_case(name: str, item: Declaration, operands: tuple[Operand, ...]) -> str:
    """Read the inputs, compute, write the slot or take the branch."""

    def write(result: str) -> str:
        ctype = operands[0].ctype
        if ctype not in ("f32", "f64") and SCALARS[ctype] < 8:
            ctype, result = "u64", f"(u64)(u32)({result})"
        return f"*({ctype} *)(cnp_at + cnp_o[0] + CNP_LOW(sizeof({ctype}))) = {result};"

    if item.kind == "load":
        return write(
            f"{item.name}((const char *)(__UINTPTR_TYPE__){read(item, operands[1], 1)} + (i32)cnp_o[2])"
        )
    if item.kind == "store":
        address = f"(char *)(__UINTPTR_TYPE__){read(item, operands[0], 0)} + (i32)cnp_o[1]"
        return f"{item.name}({address}, {read(item, operands[2], 2)});"
    branch = name != item.name
    inputs = [(n, o) for n, o in enumerate(operands) if o.kind.startswith("in")]
    values = ", ".join(read(item, operand, number) for number, operand in inputs)
    if branch:
        return f"if ({item.name}({values})) cnp_next = JUMP(cnp_o[{len(operands) - 1}]);"
    if item.kind == "trap":
        code = f"u32 cnp_trap = {item.name}_trap({values}); if (cnp_trap) cnp_next = TRAP(cnp_trap); else {write(f'{item.name}({values})')}"
        return f"{{ {code} }}"
    return write(f"{item.name}({values})")
