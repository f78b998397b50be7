"""The list of mutants is valid, and the script that tests them gives the right results for a small tree."""

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
    pytest.mark.skipif(
        not (ROOT / "scripts" / "mutants.py").is_file(), reason="scripts/mutants.py is missing"
    ),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]


@pytest.fixture(name="mutants")
def load_script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script as a module."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("mutants")


def test_each_mutant_has_its_text_once_and_its_tests(mutants: Any) -> None:
    for each in mutants.load(mutants.LIST):
        text = (ROOT / each.file).read_text(encoding="utf-8")
        assert each.applied(text) != text, each.name
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
    """A repository whose core is built by copying its source, and a list of its mutants."""

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
        """Write the list of mutants. An entry is a name, a file, and the text before and after the change."""
        keys = ("name", "file", "before", "after")
        lines = []
        for each in entries:
            lines += ["[[mutants]]", 'tests = ["tests/test_it.py"]']
            lines += [f"{key} = {json.dumps(value)}" for key, value in zip(keys, each, strict=True)]
        self.list.write_text("\n".join(lines))


@pytest.fixture(name="small")
def make_small(mutants: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    return Small(mutants, tmp_path, monkeypatch)


@pytest.mark.slow
def test_each_mutant_has_its_result(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    """No mutant stays in the tree while later ones are tested, so the last one survives."""
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


WRONG = ("wrong", PACKAGE, "2 * x", "3 * x")


@pytest.mark.parametrize(
    ("core", "names", "entries", "said"),
    [
        (3, [], [("stale", PACKAGE, "4 * x", "")], f"stale: {PACKAGE}: expected `before` once, got 0"),
        (3, [], [("stale", PACKAGE, "x", "")], f"stale: {PACKAGE}: expected `before` once, got 2"),
        (3, [], [("stale", PACKAGE, "2 * x", "2 * x")], "stale: expected `after` to differ from `before`"),
        (3, [], [WRONG, WRONG], "got wrong more than once"),
        (3, ["another"], [WRONG], "another: there is no such mutant"),
        (5, [], [WRONG], "tests/test_it.py::test_size: fails without a mutant"),
    ],
)
def test_what_says_nothing_of_the_tests(
    small: Small, capsys: pytest.CaptureFixture[str], core: int, names: list[str], entries: Any, said: str
) -> None:
    (small.root / "csrc" / "core.cpp").write_text(f"SIZE = {core}\n")
    small.write(*entries)
    assert small.main(names) == 2
    assert said in capsys.readouterr().err


def test_a_hang_is_a_kill(mutants: Any, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("while True: pass")
    assert mutants.failing_test(tmp_path, ["test_it.py"], 0.1) == "a hang of more than 0.1 s"
