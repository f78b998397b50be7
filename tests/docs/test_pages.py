"""Every code block in README.md, CONTRIBUTING.md, bench/README.md and docs/ is run or checked.

The Python blocks of a page run one after another in an empty directory, with warnings as errors. The comment
next to each print must be its output. A page that imports CuPy runs on fake CUDA devices. A page is skipped
if it needs a package that is not installed.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import re
import shlex
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import lrcore
from gpu.fake_cuda import FakeCuda
from lrcore.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [
    path
    for path in (README, ROOT / "CONTRIBUTING.md", ROOT / "bench" / "README.md", *sorted(DOCS.rglob("*.md")))
    if path.is_file() and not path.name.endswith(".in.md")
]
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="docs/ is missing")

LANGUAGES = {"python", "pycon", "sh", "text", "math", "{toctree}", "{eval-rst}"}
"""The languages that blocks may have. Text and math are only displayed, and the last two are for Sphinx."""

NEEDED_BY_METHODS = {
    "optuna": r"tune\.search\(",
    "matplotlib": r"\.plot\(",
}
"""Packages that a page needs without importing them."""


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    code: str


def blocks(path: Path) -> list[Block]:
    """Return the blocks of a page."""
    text = path.read_text(encoding="utf-8")
    return [Block(*each) for each in re.findall(r"^```([^\s`]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_of(path: Path) -> str:
    """Return the Python code of a page."""
    return "\n".join(block.code for block in blocks(path) if block.language == "python")


def needed(code: str) -> Iterator[str]:
    """Yield the packages that the code needs."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        if isinstance(node, ast.ImportFrom):
            yield str(node.module)
    yield from (package for package, call in NEEDED_BY_METHODS.items() if re.search(call, code))


def is_here(module: str) -> bool:
    package = module.partition(".")[0]
    if module == "lrcore.torch":
        package = "torch"
    return importlib.util.find_spec(package) is not None


WITH_PYTHON = [path for path in PAGES if code_of(path)]


@pytest.mark.parametrize("path", WITH_PYTHON, ids=name_of)
def test_python(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = code_of(path)
    on_a_device = "import cupy" in code
    for module in needed(code):
        if not is_here(module) and not (on_a_device and module == "cupy"):
            pytest.skip(f"{module} is not installed")
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        if on_a_device:
            stack.enter_context(FakeCuda())
        namespace: dict[str, Any] = {"__name__": "page"}
        exec(compile(code, name_of(path), "exec"), namespace)
        namespace.clear()
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == expected
    assert len(expected) == code.count("print(")


@pytest.mark.parametrize(
    "path", [path for path in PAGES if any(each.language == "pycon" for each in blocks(path))], ids=name_of
)
def test_sessions(path: Path) -> None:
    """Each interactive session prints the output shown on the page.

    Pages about schedules assume ``from lrcore.schedules import *``.
    """
    text = "\n".join(block.code for block in blocks(path) if block.language == "pycon")
    known = {"lrcore": lrcore, **vars(lrcore.schedules)}
    runner = doctest.DocTestRunner(verbose=False)
    test = doctest.DocTestParser().get_doctest(text, known, path.name, None, None)
    assert test.examples
    assert runner.run(test).failed == 0


def commands() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the page and the words of each shell command.

    Variable assignments before a command are left out.
    """
    for path in PAGES:
        for block in blocks(path):
            for line in block.code.splitlines() if block.language == "sh" else ():
                for command in line.split(" && "):
                    words = shlex.split(command, comments=True)
                    while words and re.match(r"[A-Z_]+=", words[0]):
                        del words[0]
                    if words:
                        yield path, tuple(words)


SHORT = {
    "demo": ["--epochs", "1"],
    "bench": ["--sizes", "100", "--rounds", "1", "--rules", "sgd", "--threads", "1"],
}
"""Options that shorten an lrcore command. If an option is repeated, the last one counts."""


def run_lrcore(words: list[str]) -> None:
    """Run a shortened lrcore command in the current directory."""
    if "--compare" in words:
        older = words[words.index("--compare") + 1]
        assert main(["bench", "--json", older, *SHORT["bench"]]) == 0
    assert main([*words, *SHORT.get(words[0], [])]) == 0


@pytest.mark.parametrize(
    "words",
    [pytest.param(words, id=f"{name_of(path)}: {' '.join(words)[:60]}") for path, words in commands()],
)
def test_commands(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The lrcore commands are run in a shortened form.

    The other commands must name existing extras, groups, sessions or files. CI runs the README's first
    commands in an empty environment, and other tests run the examples.
    """
    program, *rest = words
    if program == "lrcore":
        for module in ("sklearn", "tqdm", "matplotlib") if rest[0] in ("demo", "plot") else ():
            pytest.importorskip(module)
        monkeypatch.chdir(tmp_path)
        run_lrcore(rest)
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        assert rest[0] == "install"
        for before, word in pairwise(rest):
            if extras := re.fullmatch(r"(?:\.|lrcore)\[(.*)\]", word):
                assert {*extras[1].split(",")} <= {*project["project"]["optional-dependencies"]}
            if before == "--group":
                assert word in project["dependency-groups"]
    elif program == "nox":
        sessions = (ROOT / "noxfile.py").read_text(encoding="utf-8")
        assert re.search(rf"^def {rest[1]}\(", sessions, re.MULTILINE)
    elif program == "export":
        assert "=" in rest[0]
    elif program == "python":
        assert (ROOT / rest[0]).is_file()
    elif program != "pytest":
        assert (ROOT / program).is_file()


INDENTED = r"\n\n {4}(?!\s)(?!-|\*|\d+\.)"
"""An indented paragraph, which Markdown takes for code except in a list."""


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_what_a_page_is_made_of(path: Path) -> None:
    """All blocks are fenced and in known languages, rows of tables have lines of their own, and links lead to files."""
    text = path.read_text(encoding="utf-8")
    assert {block.language for block in blocks(path)} <= LANGUAGES
    assert text.count("\n```") == 2 * len(blocks(path))
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(INDENTED, outside)
    rules = [line for line in outside.splitlines() if "| --" in line]
    assert all(re.fullmatch(r"\|( :?-+:? \|)+", line) for line in rules), rules
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", outside):
        assert ":" in target or (path.parent / target).exists(), target
