"""Fixtures: every rule, every backend."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import lrcore


@pytest.fixture(params=lrcore.rules())
def rule(request: pytest.FixtureRequest) -> str:
    """Each rule in turn."""
    return str(request.param)


@pytest.fixture(params=lrcore.backends())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend that runs here in turn, in use during the test."""
    with lrcore.use_backend(request.param):
        yield str(request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the number of threads back after a test that changes it."""
    before = lrcore.info()["threads"]
    yield
    lrcore.set_num_threads(before)
