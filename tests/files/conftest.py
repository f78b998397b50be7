"""Fixtures: a name for a file, and each kind of file."""

from __future__ import annotations

from pathlib import Path

import pytest

from files.kinds import KINDS, Kind


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a name for a file, in a folder of its own."""
    return tmp_path / "file.safetensors"


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Return each kind in turn."""
    return KINDS[request.param]
