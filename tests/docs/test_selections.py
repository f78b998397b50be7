"""Scripts, pages and settings refer only to existing tests, whether by file or by expression."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMING = (
    *(
        "noxfile.py",
        "pyproject.toml",
        "CMakeLists.txt",
        "CONTRIBUTING.md",
        "README.md",
        ".ci/run",
        "tests/README.md",
    ),
    *("scripts/*", "docs/*.md", "docs/*/*.md", ".github/workflows/*"),
)
FILES = [path for pattern in NAMING for path in sorted(ROOT.glob(pattern)) if path.is_file()]

pytestmark = pytest.mark.skipif(not (ROOT / "noxfile.py").is_file(), reason="noxfile.py is missing")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_are_there(path: Path) -> None:
    for name in re.findall(r"\btests/[\w/]+\.\w+", path.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name


def expressions() -> list[str]:
    """Return the expressions that are passed to pytest's ``-k``."""
    named = {"noxfile.py": r'"-k",\s*"([^"]+)"', "scripts/gpu_check.sh": r'LRCORE_SANITIZE_TESTS:-"([^"]+)"'}
    paths = {ROOT / name: pattern for name, pattern in named.items() if (ROOT / name).is_file()}
    return [
        each
        for path, pattern in paths.items()
        for each in re.findall(pattern, path.read_text(encoding="utf-8"))
    ]


@pytest.mark.slow
def test_expressions_select_some_and_not_all() -> None:
    """Each expression, and each word in it, selects some tests but not all."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider", "tests"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tests = [line.partition("::")[2].lower() for line in listed.splitlines() if "::" in line]
    chosen = expressions()
    assert len(chosen) >= 3
    for expression in chosen:
        words = {*re.findall(r"\w+", expression)} - {"and", "or", "not"}
        for each in (expression, *words):
            selected = [name for name in tests if selects(each, words, name)]
            assert 0 < len(selected) < len(tests), each


def selects(expression: str, words: set[str], name: str) -> bool:
    """Return whether pytest's expression selects a name."""
    asked = re.sub(r"\w+", lambda word: str(word[0] in name) if word[0] in words else word[0], expression)
    return bool(eval(asked))
