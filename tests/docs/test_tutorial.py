"""The pictures of docs/tutorial.md are those of the script that draws them; its examples are run in test_docs.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "tutorial_pictures.py"


@pytest.fixture(name="pictures")
def load_pictures(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script that draws the pictures of the tutorial."""
    if not SCRIPT.is_file() or not (ROOT / "docs" / "tutorial.md").is_file():
        pytest.skip("the scripts or the documentation are not here")
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT.stem] = module
    spec.loader.exec_module(module)
    return module


def test_pictures_are_there(pictures: Any) -> None:
    assert pictures.problems() == [], "run scripts/tutorial_pictures.py"


def test_pictures_that_differ_are_told(
    pictures: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One is missing, one is of another size, and one belongs to nothing."""
    for name in pictures.DRAWN:
        (tmp_path / f"{name}.png").write_bytes((pictures.PICTURES / f"{name}.png").read_bytes())
    monkeypatch.setattr(pictures, "PICTURES", tmp_path)
    assert pictures.problems() == []
    (tmp_path / "decay.png").unlink()
    (tmp_path / "rates.png").rename(tmp_path / "other.png")
    (tmp_path / "rates.png").write_bytes((tmp_path / "warmup.png").read_bytes())
    assert pictures.problems() == [
        "decay.png is missing, or no PNG of its size",
        "other.png belongs to nothing",
        "rates.png is missing, or no PNG of its size",
    ]


def test_page_shows_every_picture(pictures: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(pictures.DRAWN, "decay")
    with pytest.raises(ValueError, match="decay"):
        pictures.drawings()
