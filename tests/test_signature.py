"""cnp.signature: C signatures as letters."""

from __future__ import annotations

import pytest

from cnp.errors import SignatureError
from cnp.signature import Signature, parse_signature


@pytest.mark.parametrize(
    ("text", "signature", "c"),
    [
        ("int64_t(int64_t, double)", Signature("q", "qd"), "int64_t(int64_t, double)"),
        ("void()", Signature("v", ""), "void(void)"),
        (" unsigned  long ( void ) ", Signature("Q", ""), "uint64_t(void)"),
        ("const char *(*)(const struct vm *, bool)", Signature("P", "P?"), "uintptr_t(uintptr_t, _Bool)"),
        ("i64(i8, u8, i16)", Signature("q", "bBh"), "int64_t(int8_t, uint8_t, int16_t)"),
        ("f64(u16, i32, u32)", Signature("d", "HiI"), "double(uint16_t, int32_t, uint32_t)"),
        ("u64(f32, const u64 *)", Signature("Q", "fP"), "uint64_t(float, uintptr_t)"),
        (
            "float(int, unsigned, size_t, short)",
            Signature("f", "iIQh"),
            "float(int32_t, uint32_t, uint64_t, int16_t)",
        ),
    ],
)
def test_signatures_are_read(text: str, signature: Signature, c: str) -> None:
    assert parse_signature(text) == signature
    assert signature.c == c


@pytest.mark.parametrize(
    "text", ["", "int64_t", "int64_t(", "int(long double)", "i128(int)", "int(int,)", "int(void, int)"]
)
def test_signatures_are_refused(text: str) -> None:
    with pytest.raises(SignatureError) as caught:
        parse_signature(text)
    assert caught.value.signature == text
