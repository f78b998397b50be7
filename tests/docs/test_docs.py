"""The examples in docstrings run unchanged, and the generated pages agree with the code."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from lrcore.schedules import Schedule
from rules import peer_rows
from schedules import peers as schedule_peers
from schedules import plateau_peers
from support import CLASSES

ROOT = Path(__file__).resolve().parents[2]
ACCEPTANCE = ROOT / "docs" / "acceptance.md"
MODULES = ["lrcore", *(each.name for each in pkgutil.walk_packages(lrcore.__path__, "lrcore."))]
SCHEDULE_CLASSES: dict[str, type[Schedule]] = {
    name: each
    for name, each in vars(schedules).items()
    if name in schedules.__all__
    and inspect.isclass(each)
    and issubclass(each, Schedule)
    and each is not Schedule
}


@pytest.mark.parametrize(
    "name", [name for name in MODULES if name.split(".")[-1] not in ("__main__", "_lrcore_core")]
)
def test_docstrings(name: str) -> None:
    if "torch" in name and name != "lrcore.optimizers._torch_state":
        pytest.importorskip("torch")
    result = doctest.testmod(importlib.import_module(name), extraglobs={"lrcore": lrcore, "numpy": np})
    assert result.failed == 0


def test_examples_are_found() -> None:
    assert doctest.testmod(lrcore.pack, extraglobs={"lrcore": lrcore}).attempted > 3


@pytest.mark.skipif(not ACCEPTANCE.is_file(), reason="docs/acceptance.md is missing")
def test_what_must_hold_is_tested() -> None:
    """Each row of docs/acceptance.md names existing tests."""
    rows = re.findall(r"^\| +(\d+) \|.*\| (.*) \|$", ACCEPTANCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == [*range(1, 37)]
    tests = Path(__file__).parents[1]
    for number, names in rows:
        for file, name in (each.strip("`").split("::") for each in names.split(", ")):
            assert f"\ndef {name}(" in (tests / file).read_text(encoding="utf-8"), f"{number}: {file}::{name}"


@pytest.mark.parametrize("name", CLASSES)
def test_every_argument_is_documented(name: str) -> None:
    text = CLASSES[name].__doc__ or ""
    listed = {
        each
        for line in re.findall(r"^([a-z_, ]+)(?: : .*)?$", text, re.MULTILINE)
        for each in line.split(", ")
    }
    assert {*inspect.signature(CLASSES[name]).parameters} <= listed
    assert "References\n----------" in text


def section(text: str, name: str) -> str:
    """Return a section of a docstring, or an empty string if there is none."""
    found = re.search(rf"^{name}\n-+\n(.*?)(?=\n\w+\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


@pytest.mark.parametrize("name", SCHEDULE_CLASSES)
def test_every_schedule_is_documented(name: str) -> None:
    """The docstring lists every argument and the references, and has an example that is run."""
    cls = SCHEDULE_CLASSES[name]
    text = inspect.getdoc(cls) or ""
    listed = re.findall(r"^([a-z_0-9, ]+) : .+", section(text, "Parameters"), re.MULTILINE)
    assert ", ".join(listed).split(", ") == [*inspect.signature(cls).parameters]
    assert section(text, "References")
    assert ">>> " in section(text, "Examples")
    assert cls.__module__ in MODULES
    found = doctest.DocTestFinder(recurse=False).find(cls, name)
    assert any(name in example.source or example.want for each in found for example in each.examples)


@pytest.mark.parametrize("name", ["layout", "optimizer_pages", "schedule_pages", "tutorial_pictures"])
def test_pages_are_up_to_date(script: Callable[[str], Any], name: str) -> None:
    assert script(name).problems() == [], f"run scripts/{name}.py"


def test_pages_that_differ_are_told(
    script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One page is missing, one was edited, and one is not generated."""
    pages = script("_pages")
    made = script("optimizer_pages").pages()
    moved = {tmp_path / path.relative_to(pages.DOCS): text for path, text in made.items()}
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    pages.write(moved)
    assert pages.differing(moved) == []
    first, second, *_ = (path for path in moved if path.parent != tmp_path)
    first.unlink()
    second.write_text("edited", encoding="utf-8")
    (first.parent / "Other.md").write_text("", encoding="utf-8")
    told = [each.partition(" ")[2] for each in pages.differing(moved)]
    assert sorted(told) == [*["differs from the generated page"] * 2, "is not generated"]


def test_pictures_that_differ_are_told(
    script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One picture is missing, one has the wrong size, and one is not drawn by the script."""
    pictures = script("tutorial_pictures")
    for name in pictures.DRAWN:
        (tmp_path / f"{name}.png").write_bytes((pictures.PICTURES / f"{name}.png").read_bytes())
    monkeypatch.setattr(pictures, "PICTURES", tmp_path)
    assert pictures.problems() == []
    (tmp_path / "decay.png").unlink()
    (tmp_path / "rates.png").rename(tmp_path / "other.png")
    (tmp_path / "rates.png").write_bytes((tmp_path / "warmup.png").read_bytes())
    assert pictures.problems() == [
        "decay.png is missing or not a PNG of the right size",
        "other.png belongs to no picture",
        "rates.png is missing or not a PNG of the right size",
    ]


def test_every_optimizer_has_a_page(script: Callable[[str], Any]) -> None:
    """The page lists the optimizer's rules, and every call of a peer that the optimizer reproduces."""
    module = script("optimizer_pages")
    pages = {path.stem: " ".join(text.split()) for path, text in module.pages().items()}
    assert {*pages} == {*CLASSES, "index"}
    assert sum(len(module.variants(name)) for name in CLASSES) - len(module.variants("AdamW")) == len(
        lrcore.rules()
    )
    for name, text in pages.items():
        for rule in module.variants(name) if name != "index" else ():
            assert f"| `{rule}` |" in text
    for row in peer_rows.ROWS:
        theirs = f"`{row.theirs}`" if str(row.theirs) == str(row.ours) else f"`{row.theirs}` is `{row.ours}`."
        assert theirs in pages[row.ours.name], row.name


def test_every_schedule_has_a_page(script: Callable[[str], Any]) -> None:
    """Each call of a peer is listed exactly once."""
    module = script("schedule_pages")
    assert {*module.classes()} == {*SCHEDULE_CLASSES}
    pages = {path.stem: " ".join(text.split()) for path, text in module.pages().items()}
    assert {*pages} == {*SCHEDULE_CLASSES, "schedules"}
    rows: list[Any] = [*schedule_peers.ROWS, *plateau_peers.ROWS]
    calls = {(row.peer, row.theirs) for row in rows}
    for peer, theirs in calls:
        assert sum(text.count(f"- {module.PEERS[peer]}: `{theirs}` is") for text in pages.values()) == 1
