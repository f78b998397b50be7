"""The scripts that make pages and pictures, as modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return what imports a script by its name."""
    if not SCRIPTS.is_dir():
        pytest.skip("the scripts are not here")
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module
