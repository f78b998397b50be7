"""The mutants that the tests must kill: their list is sound, and the script tells killed from survived on a small tree."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(not (ROOT / "scripts" / "mutants.py").is_file(), reason="the scripts are not here"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]


@pytest.fixture(name="mutants")
def load_script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script as a module."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("mutants")


def test_each_text_stands_in_its_file_once(mutants: Any) -> None:
    for each in mutants.load(mutants.LIST):
        text = (ROOT / each.file).read_text(encoding="utf-8")
        assert each.applied(text) != text, each.name


def test_each_test_is_there(mutants: Any) -> None:
    for each in mutants.load(mutants.LIST):
        assert each.tests, each.name
        for test in each.tests:
            file, _, function = test.partition("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            assert f"\ndef {function or 'test_'}" in text, (each.name, test)


SOURCES = {
    "pyproject.toml": "[tool.pytest.ini_options]\n",
    "csrc/core.cpp": "SIZE = 3\n",
    "python/lrcore/__init__.py": "from lrcore.core import SIZE\n\ndef double(x):\n    return 2 * x\n",
    "tests/test_it.py": (
        "import lrcore\n\n"
        "def test_double():\n    assert lrcore.double(2) == 4\n\n"
        "def test_size():\n    assert lrcore.SIZE == 3\n"
    ),
}
PACKAGE = "python/lrcore/__init__.py"


class Small:
    """A repository whose core is built by a copy of its source, and a list of mutants of it."""

    def __init__(self, mutants: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.main, self.root, self.list = mutants.main, root, root / "mutants.toml"
        for name, text in SOURCES.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        for command in (["init", "--quiet"], ["add", "."]):
            subprocess.run(["git", *command], cwd=root, check=True)

        def build(tree: Path) -> None:
            shutil.copy(tree / "csrc" / "core.cpp", tree / "build")
            install(tree)

        def install(tree: Path) -> None:
            shutil.copy(tree / "build" / "core.cpp", tree / "python" / "lrcore" / "core.py")

        replaced = {"ROOT": root, "LIST": self.list, "build": build, "install": install}
        for name, value in replaced.items():
            monkeypatch.setattr(mutants, name, value)
        monkeypatch.setattr(mutants, "configure", lambda tree: (tree / "build").mkdir())

    def write(self, *entries: tuple[str, str, str, str]) -> None:
        """Write the list: name, file, text before and after."""
        keys = ("name", "file", "before", "after")
        parts = [
            "\n".join(
                [
                    "[[mutants]]",
                    *(f"{key} = {json.dumps(value)}" for key, value in zip(keys, each, strict=True)),
                ]
            )
            for each in entries
        ]
        self.list.write_text("".join(f'{part}\ntests = ["tests/test_it.py"]\n' for part in parts))


@pytest.fixture(name="small")
def make_small(mutants: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    return Small(mutants, tmp_path, monkeypatch)


@pytest.mark.slow
def test_each_mutant_has_its_result(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    """None of them is left in the tree for those that follow: the last one survives."""
    small.write(
        ("of the package", PACKAGE, "2 * x", "3 * x"),
        ("of the core", "csrc/core.cpp", "SIZE = 3", "SIZE = 4"),
        ("a crash", PACKAGE, "return 2 * x", "import os; os.abort()"),
        ("no Python", PACKAGE, "2 * x", "2 *"),
        ("no difference", PACKAGE, "2 * x", "x + x"),
    )
    assert small.main([]) == 1
    printed = capsys.readouterr().out
    results = [
        re.split("  +", line)[-1] for line in printed.splitlines() if re.search(" (csrc|python)/", line)
    ]
    assert results == [
        "killed by tests/test_it.py::test_double",
        "killed by tests/test_it.py::test_size",
        "killed by signal SIGABRT",
        "ERROR: importing lrcore failed with status 1",
        "SURVIVED",
    ]
    assert "5 mutants: 3 killed, 1 survived, 1 errors" in printed
    for name, text in SOURCES.items():
        assert (small.root / name).read_text() == text


def test_the_status_is_0_if_all_are_killed(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.write(("wrong", PACKAGE, "2 * x", "3 * x"), ("alike", PACKAGE, "2 * x", "x + x"))
    assert small.main(["wrong"]) == 0
    assert "1 mutants: 1 killed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "match"),
    [
        ("4 * x", "expected its text once in python/lrcore/__init__.py, got it 0 times"),
        ("x", "expected its text once in python/lrcore/__init__.py, got it 2 times"),
        ("2 * x", "expected another text after than before"),
    ],
)
def test_a_stale_entry(small: Small, capsys: pytest.CaptureFixture[str], before: str, match: str) -> None:
    small.write(("stale", PACKAGE, before, "2 * x"))
    assert small.main([]) == 2
    assert f"stale: {match}" in capsys.readouterr().err


def test_tests_that_fail_without_a_mutant(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.write(("any", PACKAGE, "2 * x", "3 * x"))
    (small.root / "csrc" / "core.cpp").write_text("SIZE = 5\n")
    assert small.main([]) == 2
    assert "tests/test_it.py::test_size: fails without a mutant" in capsys.readouterr().err


def test_a_hang_is_a_kill(mutants: Any, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("while True: pass")
    assert mutants.failing_test(tmp_path, ["test_it.py"], 0.1) == "a hang of more than 0.1 s"


def test_a_sample_is_the_same_each_time(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.write(*((f"mutant {k}", PACKAGE, "2 * x", f"{k} * x") for k in range(20, 40)))
    listed = []
    for seed in ("1", "1", "2"):
        assert small.main(["--list", "--sample", "5", "--seed", seed]) == 0
        listed.append(capsys.readouterr().out.splitlines())
    assert listed[0] == listed[1] != listed[2]
    assert [len(each) for each in listed] == [5, 5, 5]


def test_names_that_are_unknown_or_repeated(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.write(("one", PACKAGE, "2 * x", "3 * x"))
    assert small.main(["two"]) == 2
    assert "two: there is no such mutant" in capsys.readouterr().err
    small.write(*[("one", PACKAGE, "2 * x", "3 * x")] * 2)
    assert small.main([]) == 2
    assert "got one again" in capsys.readouterr().err
