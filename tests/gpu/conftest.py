"""The fixture of the tests that run with each library of device arrays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gpu.devices import LIBRARIES, CuPy, Torch, library


@pytest.fixture(params=LIBRARIES)
def xp(request: pytest.FixtureRequest) -> Iterator[CuPy | Torch]:
    """Yield each library of device arrays in turn: an imitated one everywhere, real ones if a GPU works."""
    with library(request.param) as made:
        yield made
