"""The examples in docstrings, in the README and in docs/ run as they stand."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lrcore
from fake_cuda import FakeCuda
from support import CLASSES

README = Path(__file__).resolve().parent.parent / "README.md"
CUDA = README.parent / "docs" / "cuda.md"
MODULES = ["lrcore", *(f"lrcore.{each.name}" for each in pkgutil.iter_modules(lrcore.__path__))]


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
