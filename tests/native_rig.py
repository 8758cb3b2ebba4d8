"""The fixtures of the tests of cnp.native: its compiled core, its pure fall-back, and an image to call."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from cnp import native
from cnp._backend import Backend
from cnp._pure import PureBackend
from tests.native_image import Image, build
from tests.support import need


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    need(importlib.util.find_spec("ziglang") is not None, "the ziglang wheel is not installed")
    return Image(*build(tmp_path_factory.mktemp("native")))


def backends() -> dict[str, Backend]:
    core, _ = native._import_core()
    return {"pure": PureBackend()} | ({"core": native.CoreBackend(core)} if core else {})


BACKENDS = backends()


@pytest.fixture(params=["core", "pure"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    need(request.param in BACKENDS, f"no compiled core: {native.reason}")
    monkeypatch.setattr(native, "_backend", BACKENDS[request.param])
    yield request.param
    assert native.current_context() == 0
    assert native.take_exception() is None


def only(backend: str, wanted: str) -> None:
    if backend != wanted:
        pytest.skip(f"about the {wanted} backend")
