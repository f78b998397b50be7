"""Fixtures: every rule, every backend. Tests marked `gpu` are skipped where no CUDA device works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import lrcore


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU, by name, where none works."""
    error = lrcore.info()["cuda_error"]
    if error is not None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device works here"))


@pytest.fixture(params=lrcore.rules())
def rule(request: pytest.FixtureRequest) -> str:
    """Each rule in turn."""
    return str(request.param)


@pytest.fixture(params=lrcore._runtime.cpu_backends())
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
