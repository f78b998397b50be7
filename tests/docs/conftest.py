"""Import the scripts that make pages and pictures."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Return a function that imports a script by its name."""
    if not SCRIPTS.is_dir():
        pytest.skip("scripts/ is missing")
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module
