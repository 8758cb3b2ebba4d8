"""C text of the routines that every image shares; cnp/build/wrappers.py says in which macros."""

from __future__ import annotations

#: What each way out writes down, besides the state.
LEAVES = {
    "exit": "header->inner = 0; header->code = 0; cnp_context *context = header->context;"
    " context->kind = 1; context->frame = context->outermost = cnp_frame;",
    "trap": "header->inner = 0; cnp_context *context = header->context;"
    " context->kind = 2; context->frame = context->outermost = cnp_frame;",
    "unwind": "header->code = 0; cnp_context *context = header->context;"
    " header->inner = context->outermost; context->outermost = cnp_frame;",
}


def routines() -> str:
    """What every image shares: the way in, the ways out with their stubs."""
    ways = "\n".join(
        f"""
CNP_CC CNP_HIDDEN __attribute__((noinline)) cnp_word cnp_leave_{name}(CNP_TAKE) {{
    CNP_OPEN_ALL CNP_SAVE_STATE
    cnp_header *header = CNP_HEADER(cnp_frame);
    {leave}
    return (cnp_word){{ 0, (u64)cnp_frame }};
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
    CNP_OPEN_ALL CNP_SAVE_STATE
    return (cnp_word){ (u64)cnp_frame, CNP_VALUE };
}
void cnp_enter(char *cnp_frame, cnp_code *code) {
    cnp_state S; CNP_PADS CNP_FORGET CNP_LOAD_STATE
    cnp_word result = code(CNP_GIVE);
    cnp_context *context = CNP_HEADER(cnp_frame)->context;
    if (!result.frame) return;
    context->kind = 0;
    context->value = result.value;
}
"""
    )
