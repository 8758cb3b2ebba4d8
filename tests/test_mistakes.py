"""Mistakes that are made in operations: each is refused, at the user's line, with words that say what to change."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import cnp
from cnp import runtime
from tests.support import every_target, need

HEAD = "#define CNP_STATE(X) X(u64, tos) X(f64, acc)\n#define CNP_RESULT tos\n#include <cnp.h>\n"
LINE = HEAD.count("\n") + 1
#: What is wrong with the declaration: all targets see the same. name -> text in line LINE, what is said of it.
DECLARED = {
    "unknown kind of operand": ("CNP_OP(bad, bogus(i32, k)) { return NEXT; }", "operand 'bogus(i32, k)' is none of in(type, name)"),
    "operand without a type": ("CNP_OP(bad, imm(k)) { return NEXT; }", "too few arguments provided to function-like macro"),
    "operand twice": ("CNP_OP(bad, imm(i32, k), imm(i32, k)) { return NEXT; }", "redefinition of parameter 'k'"),
    "too many operands": (f"CNP_OP(bad, {', '.join(f'imm(i32, k{n})' for n in range(7))}) {{ return NEXT; }}", "at most 6 operands"),
    "immediate of no type": ("CNP_OP(bad, imm(int, k)) { return NEXT; }", "an immediate is a pointer or one of i8, i16"),
    "value of no type": ("CNP_OP(bad, in(int, k)) { return NEXT; }", "a value is one of i8, i16"),
    "wrong list of immediates": ("CNP_OP(bad, in(i64, k, banana)) { return NEXT; }", "or a number, not banana"),
    "operation twice": ("CNP_OP(ret) { return EXIT; }", "operation 'ret' is declared twice"),
    "name of a method": ("CNP_OP(check) { return NEXT; }", "operation 'check' would be hidden: assemblers have something of that name"),
    "name of an attribute": ("CNP_PURE(data, i64, (i64 a), a)", "operation 'data' would be hidden"),
    "unknown field": ("CNP_OP(bad) { s->nothing = 1; return NEXT; }", "no member named 'nothing' in 'struct cnp_state'"),
    "helper without a prototype": ("CNP_OP(bad) { s->tos = vm_help(s->tos); return NEXT; }", "use of undeclared identifier 'vm_help'"),
    "pure result": ("CNP_PURE(bad, int, (i64 a), a)", "a value of type 'int' has no place in a slot"),
    "pure parameter": ("CNP_PURE(bad, i64, (int a), a)", "parameter 'int a': use one of i8"),
    "immediate of no parameter": ("CNP_PURE(bad, i64, (i64 a), a, IMM(zz, i32))", "IMM(zz, …) is for none of its parameters"),
    "thread-local": ("static _Thread_local u64 t; CNP_OP(bad) { s->tos = ++t; return NEXT; }", "'t' is thread-local: code that is copied cannot reach it; keep it in a cell"),
    "thread-local of others": ("extern _Thread_local u64 t; CNP_OP(bad) { s->tos = ++t; return NEXT; }", "'t' is thread-local"),
    "no answer": ("CNP_OP(bad) { s->tos = 1; }", "non-void function does not return a value"),
    "no answer on a path": ("CNP_OP(bad) { if (s->tos) return NEXT; }", "does not return a value in all control paths"),
    "slow part missing": ("CNP_OP_SLOW(bad) { return s->tos ? NEXT : SLOW; }", "function 'bad_slow' has internal linkage but is not defined"),
}  # fmt: skip
#: What only the code of a target shows.
COMPILED = {
    "static variable": ("static u64 count; CNP_OP(bad) { s->tos = ++count; return NEXT; }", "use cells, slots or helpers for what changes"),
    "static variable inside": ("CNP_OP(bad) { static u64 n = 5; s->tos = n++; return NEXT; }", "use cells, slots or helpers for what changes"),
    "variable of others": ("extern u64 count; CNP_OP(bad) { s->tos = count; return NEXT; }", "cells"),
    "function of a library": ("CNP_OP(bad) { s->acc = __builtin_sin(s->acc); return NEXT; }", "it asks for 'sin', which is no helper of the source"),
    "table of addresses": ('static const char *const names[] = {"a", "bc"}; CNP_OP(bad) { s->tos = (u64)names[s->tos & 1]; return NEXT; }', "data that needs relocations has no place in a stencil"),
    "alloca": ("extern void vm_use(char *); CNP_OP(bad) { vm_use(__builtin_alloca(s->tos)); return NEXT; }", "cannot be followed (alloca, or an array of variable length)"),
    "array of variable length": ("extern void vm_use(char *); CNP_OP(bad) { char b[s->tos]; vm_use(b); return NEXT; }", "cannot be followed (alloca, or an array of variable length)"),
    "instruction of no machine": ('CNP_OP(bad) { __asm__("bogus"); return NEXT; }', "bogus"),
}  # fmt: skip
#: What looks like a mistake and is none: name -> text.
FINE = {
    "switch": "switch (s->tos) {"
    + "".join(f" case {n}: s->tos = {n * n + 7}; break;" for n in range(12))
    + " }",
    "float constants": "s->acc = s->acc * 3.14159 + 1e300;",
    "table of numbers": "static const u64 t[] = {3, 5, 99, 1234567}; s->tos = t[s->tos & 3];",
    "variable arguments": 'vm_log("%d", s->tos);',
    "structure by value": "struct big b = {{1, 2, 3, 4, 5}}; s->tos = vm_sum(b);",
    "local array": "u64 b[4] = {1, 2, 3, 4}; s->tos = b[s->tos & 3];",
    "function of its own": "s->tos = triple(s->tos);",
}
HELPERS = """struct big { u64 a[5]; };
extern int vm_log(const char *, ...);
extern u64 vm_sum(struct big);
static __attribute__((noinline)) u64 triple(u64 x) { return x * 3; }
"""
WHOLE = {
    "wide state": ("#define CNP_STATE(X) X(__int128, wide)", "state field 'wide' is a __int128, which is no word: integers, floats and pointers of at most 8"),
    "structure as state": ("struct two { int a; };\n#define CNP_STATE(X) X(struct two, both)", "state field 'both' is a struct two, which is no word"),
    "state twice": ("#define CNP_STATE(X) X(u64, tos) X(u64, tos)", "state field 'tos' is declared twice in CNP_STATE"),
    "result of no field": ("#define CNP_STATE(X) X(u64, tos)\n#define CNP_RESULT top", "CNP_RESULT is 'top', which is no state field; there are tos"),
    "result without state": ("#define CNP_RESULT top", "CNP_RESULT is 'top', which is no state field; there are none"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _cache(session_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(importlib.util.find_spec("ziglang") is not None, "stencils are built by the ziglang wheel")
    monkeypatch.setenv("XDG_CACHE_HOME", str(session_folder))


def refused(body: str, target: str) -> cnp.BuildError:
    with pytest.raises(cnp.BuildError) as caught:
        cnp.compile(f"{HEAD}CNP_OP(ret) {{ return RETURN; }} {body}\n", target)
    return caught.value


@pytest.mark.parametrize("name", DECLARED)
def test_mistakes_in_declarations(name: str) -> None:
    body, says = DECLARED[name]
    error = refused(body, "host")
    assert says in error.message
    assert "/tmp/" not in error.message
    if "thread-local" not in name:  # a variable has no line in what clang tells of it
        assert re.match(rf"<source>:{LINE}:", error.message), error.message
        assert error.line == LINE


def test_all_names_of_an_assembler_are_known() -> None:
    asm = cnp.load("ops").assembler()
    assert {name for name in dir(asm) if not name.startswith("_")} == runtime.taken_names()


@every_target
@pytest.mark.parametrize("name", COMPILED)
def test_mistakes_that_the_code_shows(name: str, target: str) -> None:
    body, says = COMPILED[name]
    error = refused(body, target)
    assert re.match(rf"<source>:{LINE}:", error.message), error.message
    assert says in error.message
    assert (error.line, error.target) == (LINE, target)
    assert error.op == "bad" or re.match(rf"<source>:{LINE}:\d+: error:", error.message)  # ours, or clang's
    assert "/tmp/" not in error.message


@pytest.mark.parametrize(
    ("then", "says"),
    [
        ("*d = s->r3; return NEXT;", "a look at the state depends on a feature of the processor"),
        ("*d = a; return a ? NEXT : TRAP(7);", "an answer depends on a feature of the processor"),
    ],
)
def test_what_only_some_processors_do(then: str, says: str) -> None:
    """Stencils are spared what no body of the base line does: one that does it with a feature must not go unnoticed."""
    long = "a = (a ^ a >> 7) * 0x9e3779b97f4a7c15; " * 30
    text = f"""#define CNP_STATE(X) CNP_REGISTERS(X)
#define CNP_RESULT r0
#include <cnp.h>
CNP_OP(ret) {{ return RETURN; }}
#ifdef __BMI2__
CNP_OP(odd, out(u64, d), in(u64, a)) {{ {then} }}
#else
CNP_OP(odd, out(u64, d), in(u64, a)) {{ {long} *d = a; return NEXT; }}
#endif
"""
    with pytest.raises(cnp.BuildError) as caught:
        cnp.compile(text, "x86_64")
    assert says in caught.value.message
    assert caught.value.op == "odd"


@pytest.mark.parametrize("name", WHOLE)
def test_mistakes_in_the_state(name: str) -> None:
    text, says = WHOLE[name]
    with pytest.raises(cnp.BuildError) as caught:
        cnp.compile(f"{text}\n#include <cnp.h>\nCNP_OP(ret) {{ return RETURN; }}\n")
    assert caught.value.message.startswith(f"<source>: error: {says}")


@pytest.mark.parametrize("text", ["", "int x;\n", "#include <cnp.h>\n", "CNP_OP(ret) { return RETURN; }\n"])
def test_a_source_without_operations(text: str) -> None:
    with pytest.raises(
        cnp.BuildError, match=r"^<source>: error: no operation found: declare some with CNP_OP"
    ):
        cnp.compile(text)


@every_target
def test_what_is_no_mistake(target: str) -> None:
    bodies = "".join(f"CNP_OP(fine{n}) {{ {text} return NEXT; }}\n" for n, text in enumerate(FINE.values()))
    assert len(cnp.compile(f"{HEAD}{HELPERS}{bodies}", target).operations) == len(FINE)
