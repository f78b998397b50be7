"""The examples in docstrings, in the README and in docs/ run as they stand, and the pages say what the code says."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
import plateau_peers
import schedule_peers
from fake_cuda import FakeCuda
from lrcore import schedules
from lrcore.schedules import Schedule
from support import CLASSES

README = Path(__file__).resolve().parent.parent / "README.md"
CUDA = README.parent / "docs" / "cuda.md"
SCHEDULES = README.parent / "docs" / "schedules.md"
ACCEPTANCE = README.parent / "docs" / "acceptance.md"
SCRIPT = README.parent / "scripts" / "schedule_pages.py"
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
    result = doctest.testmod(importlib.import_module(name), extraglobs={"lrcore": lrcore, "numpy": np})
    assert result.failed == 0


def test_examples_are_found() -> None:
    assert doctest.testmod(lrcore.pack, extraglobs={"lrcore": lrcore}).attempted > 3


@pytest.mark.skipif(not README.is_file(), reason="the README is not here")
def test_readme_example(capsys: pytest.CaptureFixture[str]) -> None:
    """It learns what it is meant to."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    exec(example, {})
    error, _, opt = capsys.readouterr().out.partition(" ")
    assert float(error) < 0.01
    assert opt.startswith("Adam(size=8, device=cpu, ")


@pytest.mark.skipif(not CUDA.is_file(), reason="the documentation is not here")
def test_cuda_examples() -> None:
    """They run on imitated devices."""
    examples = re.findall(r"```python\n(.*?)```", CUDA.read_text(encoding="utf-8"), re.DOTALL)
    namespace: dict[str, Any] = {}
    with FakeCuda() as fake:
        for example in examples:
            exec(example, namespace)
        assert namespace["opt"].step_count == 1000
        assert len(fake.calls("launch")) == 2
        namespace.clear()


@pytest.mark.skipif(not ACCEPTANCE.is_file(), reason="the documentation is not here")
def test_what_must_hold_is_tested() -> None:
    """Each row names tests that are there."""
    rows = re.findall(r"^\| +(\d+) \|.*\| (.*) \|$", ACCEPTANCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in rows] == [*range(1, 28)]
    tests = Path(__file__).parent
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
    assert {*CLASSES[name].__init__.__annotations__} - {"return"} <= listed
    assert "References\n----------" in text


def section(text: str, name: str) -> str:
    """Give a section of a docstring; empty where there is none."""
    found = re.search(rf"^{name}\n-+\n(.*?)(?=\n\w+\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


@pytest.mark.parametrize("name", SCHEDULE_CLASSES)
def test_every_schedule_is_documented(name: str) -> None:
    """Each argument, where it is from, and an example that is run."""
    cls = SCHEDULE_CLASSES[name]
    text = inspect.getdoc(cls) or ""
    listed = re.findall(r"^([a-z_0-9, ]+) : .+", section(text, "Parameters"), re.MULTILINE)
    assert ", ".join(listed).split(", ") == [*inspect.signature(cls).parameters]
    assert section(text, "References")
    assert ">>> " in section(text, "Examples")
    assert cls.__module__ in MODULES
    found = doctest.DocTestFinder(recurse=False).find(cls, name)
    assert any(name in example.source or example.want for each in found for example in each.examples)


@pytest.mark.skipif(not SCHEDULES.is_file(), reason="the documentation is not here")
def test_schedule_examples(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They print what stands beside them."""
    monkeypatch.chdir(tmp_path)
    code = "\n".join(re.findall(r"```python\n(.*?)```", SCHEDULES.read_text(encoding="utf-8"), re.DOTALL))
    exec(code, {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)


@pytest.fixture(name="pages")
def load_pages() -> Any:
    """Give the script that makes the page of the schedules."""
    if not SCRIPT.is_file():
        pytest.skip("the scripts are not here")
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[SCRIPT.stem] = module
    spec.loader.exec_module(module)
    return module


def test_schedule_page_is_up_to_date(pages: Any) -> None:
    assert pages.problems() == [], "run scripts/schedule_pages.py"


def test_schedule_page_has_every_schedule_and_peer(pages: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule that is not drawn is an error, and each call of a peer is listed once."""
    assert {*pages.classes()} == {*SCHEDULE_CLASSES}
    text = " ".join(pages.page().split())
    calls = {(row.peer, row.theirs) for row in schedule_peers.ROWS}
    calls |= {(row.peer, row.theirs) for row in plateau_peers.ROWS}
    for peer, theirs in calls:
        assert text.count(f"- {pages.PEERS[peer]}: `{theirs}` is") == 1
    monkeypatch.delitem(pages.DRAWINGS, "Cosine")
    with pytest.raises(ValueError, match="Cosine"):
        pages.page()
