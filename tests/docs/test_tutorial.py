"""The pictures of docs/tutorial.md are those of the script that draws them; its examples are run in test_docs.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


@pytest.fixture
def pictures(script: Callable[[str], Any]) -> Any:
    """Return the script that draws the pictures of the tutorial."""
    if not PAGE.is_file():
        pytest.skip("the documentation is not here")
    return script("tutorial_pictures")


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
