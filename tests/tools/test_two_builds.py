"""The comparison of two builds, on prepared builds and made-up times.

No measured time is asserted, and lrcore is not compiled.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "bench" / "two_builds.py"
pytestmark = [
    pytest.mark.skipif(not SCRIPT.is_file(), reason="bench/two_builds.py is missing"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
]

PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
BACKEND = """
import os, pathlib, zipfile
def build_wheel(directory, settings=None, metadata=None):
    number = pathlib.Path("number").read_text()
    if number == "broken":
        raise SystemExit("error: expected a number in this line")
    name = "lrcore-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.writestr("lrcore/__init__.py", f"NUMBER, CUDA = {number}, {os.environ['LRCORE_CUDA']!r}")
        wheel.writestr("lrcore-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: lrcore\\nVersion: 1\\n")
        wheel.writestr("lrcore-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("lrcore-1.dist-info/RECORD", "")
    return name
"""
BENCH = """
import json, pathlib, sys
assert sys.argv[1:-1] == ["bench", "--rules", "sgd", "--sizes", "8", "1e3", "--threads", "1", "--json"], sys.argv
row = {"rule": "sgd", "backend": "avx2", "threads": 1, "size": 8, "bytes": 96, "low": 1, "high": 1, "rounds": 3}
rows = [row | {"variant": name, "ns": ns} for name, ns in ROWS.items()]
pathlib.Path(sys.argv[-1]).write_text(json.dumps({"lrcore_bench": FORMAT, "rows": rows}))
"""


@pytest.fixture(name="two_builds")
def load_script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the script as a module."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    return importlib.import_module(SCRIPT.stem)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(name="commits")
def make_repository(two_builds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the hashes of the commits "broken", "old" and "new" of a repository.

    The builds need no compiler. The build of "broken" fails.
    """
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.setattr(two_builds, "ROOT", root)
    git(root, "init", "--quiet")
    (root / "pyproject.toml").write_text(PROJECT)
    (root / "backend.py").write_text(BACKEND)
    hashes = {}
    for name, number in (("broken", "broken"), ("old", "1"), ("new", "2")):
        (root / "number").write_text(number)
        git(root, "add", ".")
        git(root, "commit", "--quiet", "--no-verify", "-m", name)
        git(root, "tag", name)
        hashes[name] = git(root, "rev-parse", "HEAD")
    (root / "number").write_text("3")
    return hashes


Main = Callable[..., tuple[int, str, str]]


@pytest.fixture(name="main")
def make_main(two_builds: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Main:
    """Return a function that runs two rounds of the script on the old and the new commit.

    The function returns the exit status, the output and the error output.
    """

    def main(*options: str | Path, revisions: Sequence[str] = ("old", "new")) -> tuple[int, str, str]:
        given = (*revisions, "--rounds", "2", "--cache", tmp_path / "cache", *options)
        status: int = two_builds.main([str(each) for each in given])
        return status, *capsys.readouterr()

    return main


def prepare(tmp_path: Path, commit: str, **files: str) -> Path:
    """Write a build of a commit that consists of these modules of lrcore, and return its folder."""
    folder = tmp_path / "cache" / commit / str(sysconfig.get_config_var("SOABI"))
    (folder / "lrcore").mkdir(parents=True)
    for name, text in files.items():
        (folder / "lrcore" / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(name="builds")
def prepare_builds(commits: dict[str, str], tmp_path: Path) -> dict[str, Path]:
    """Return the folders of builds of "old" and "new" in which `lrcore.SECONDS` is 1 and 1.5."""
    numbers = {"old": "1.0", "new": "1.5"}
    return {
        name: prepare(tmp_path, commits[name], __init__=f"SECONDS = {each}") for name, each in numbers.items()
    }


def write_script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "work.py"
    path.write_text(text)
    return path


def test_ratios_are_taken_within_a_round(two_builds: Any) -> None:
    """The machine is four times slower in the last round, but the ratios do not show it.

    With a single round, the quartiles are equal.
    """
    new, old, again = [110.0, 210.0, 440.0], [100.0, 200.0, 400.0], [90.0, 200.0, 440.0]
    rounds = [[{"row": ns} for ns in times] for times in zip(new, old, again, strict=True)]
    (row,), _ = two_builds.compare(rounds, limit=1.04)
    assert row.ratio == pytest.approx((1.075, 1.1, 1.1), rel=1e-15)
    assert row.control == pytest.approx((0.95, 1.0, 1.05), rel=1e-15)
    assert row.spread == pytest.approx(0.05, rel=1e-14)
    assert str(row).split() == ["row", "200", "210", "1.100", "1.000", "0.050", "over", "the", "limit"]
    (row,), _ = two_builds.compare(rounds, limit=1.06)
    assert not row.over, "the excess is within the spread"
    (row,), _ = two_builds.compare([[{"row": 3.0}, {"row": 2.0}, {"row": 2.5}]], 1.0)
    assert (row.ratio, row.control, row.spread) == ((1.5,) * 3, (1.25,) * 3, 0.25)


def test_builds_take_turns(two_builds: Any) -> None:
    seen: list[str] = []

    def measure(folder: Path) -> dict[str, float]:
        seen.append(folder.name)
        return {folder.name: float(len(seen))}

    taken = two_builds.take_rounds(Path("old"), Path("new"), measure, 12)
    assert [[*map(list, times)] for times in taken] == [[["new"], ["old"], ["old"]]] * 12
    assert {seen[k : k + 3].index("new") for k in range(0, 36, 3)} == {0, 1, 2}
    firsts = {times[1]["old"] < times[2]["old"] for times in taken}
    assert firsts == {True, False}, "each process of OLD comes first in some rounds"


def test_a_script_is_compared(main: Main, builds: dict[str, Path], tmp_path: Path) -> None:
    """A line without a name gets the name of the script. If a name has several lines, their median is used."""
    script = write_script(
        tmp_path,
        "import lrcore, sys\n"
        "print(lrcore.SECONDS * 2)\n"
        "for factor in (1, 9, 3): print(sys.argv[1], 'all', lrcore.SECONDS * factor)\n"
        "if lrcore.SECONDS > 1: print('added', 1)\n",
    )
    path = tmp_path / "results.json"
    status, output, _ = main("--script", script, "--json", path, "--limit", "1.5", "--", "save")
    assert status == 0
    assert [line.split() for line in output.splitlines()[2:]] == [
        ["work", "2,000,000,000", "3,000,000,000", "1.500", "1.000", "0.000"],
        ["save", "all", "3,000,000,000", "4,500,000,000", "1.500", "1.000", "0.000"],
        ["added", "in", "NEW", "only"],
    ]
    contents = json.loads(path.read_text())
    assert [contents[name] for name in builds] == [[k, each.parent.name] for k, each in builds.items()]
    assert contents["not compared"] == {"added": "in NEW only"}
    row = contents["rows"][0]
    assert (row["row"], row["new"], row["old"], row["again"]) == ("work", [3e9] * 2, [2e9] * 2, [2e9] * 2)
    assert main("--script", script, "--limit", "1.49", "--", "save")[0] == 1


@pytest.mark.usefixtures("builds")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import lrcore\nlrcore.missing", ["status 1", "AttributeError", "missing"]),
        ("", ["expected lines of the form `name seconds` or `seconds`, got none"]),
        *((f"print({each!r})", [f"got {each!r}"]) for each in ("done", "save 0.0", "nan", "inf", "")),
    ],
)
def test_a_script_that_measures_nothing(main: Main, tmp_path: Path, text: str, said: list[str]) -> None:
    status, output, error = main("--script", write_script(tmp_path, text))
    assert (status, output) == (2, "")
    assert all(each in error for each in ("work.py", *said)), error


def test_rows_of_lrcore_bench(main: Main, commits: dict[str, str], tmp_path: Path) -> None:
    """The rows come from each build's own bench. Rows in an unknown format are refused."""
    options = ("--rules", "sgd", "--sizes", "8", "1e3", "--", "--threads", "1")
    for name, rows in (("old", {"step": 10, "removed": 1}), ("new", {"step": 20, "added": 1})):
        prepare(tmp_path, commits[name], __init__="", __main__=f"FORMAT, ROWS = 1, {rows}\n{BENCH}")
    status, output, _ = main(*options)
    first, _, *table = output.splitlines()
    assert status == 0
    assert first == f"OLD old {commits['old']}, NEW new {commits['new']}, rounds: 2"
    assert {" ".join(line.split()) for line in table} == {
        "sgd step avx2 1 8 10 20 2.000 1.000 0.000",
        "sgd removed avx2 1 8 in OLD only",
        "sgd added avx2 1 8 in NEW only",
    }
    for unknown in (tmp_path / "cache").rglob("__main__.py"):
        unknown.write_text(f"FORMAT, ROWS = 0, {{}}\n{BENCH}")
    status, _, error = main(*options)
    assert status == 2
    assert "format 0" in error


def test_a_process_imports_its_build_alone(two_builds: Any, tmp_path: Path) -> None:
    """The build takes precedence over the current directory and over the finder of an editable install."""
    folder = prepare(tmp_path, "0", __init__="NAME = 'build'")
    for elsewhere in ("cwd", "editable"):
        (tmp_path / elsewhere / "lrcore").mkdir(parents=True)
        (tmp_path / elsewhere / "lrcore" / "__init__.py").write_text(f"NAME = {elsewhere!r}")
    (folder / "sitecustomize.py").write_text(
        "import importlib.util, sys\n"
        "class Finder:\n"
        "    def find_spec(name, path=None, target=None):\n"
        f"        path = {str(tmp_path / 'editable' / 'lrcore' / '__init__.py')!r}\n"
        "        return importlib.util.spec_from_file_location(name, path) if name == 'lrcore' else None\n"
        "sys.meta_path.insert(0, Finder)\n"
    )
    script = write_script(
        tmp_path, "import lrcore, os, sys; print(lrcore.NAME, sys.meta_path[1].__name__, os.getcwd())"
    )
    printed = two_builds.launch(folder, tmp_path / "cwd", str(script))
    assert printed.split() == ["build", "Finder", str(tmp_path / "cwd")]
    (folder / "lrcore" / "__init__.py").unlink()
    with pytest.raises(two_builds.Failure, match="lrcore: expected it in"):
        two_builds.launch(folder, tmp_path / "cwd", str(script))


@pytest.mark.slow
def test_what_is_built_is_the_commit_or_the_files_as_they_are(
    main: Main, two_builds: Any, commits: dict[str, str], tmp_path: Path
) -> None:
    """A build is reused for the same files, staged changes stay staged, and a failure leaves no build."""
    pytest.importorskip("pip")
    script = write_script(tmp_path, "import lrcore; print(lrcore.CUDA, lrcore.NUMBER)")
    status, _, error = main("--script", script, revisions=("broken", "old"))
    assert status == 2
    assert f"the build of {commits['broken']} failed with status 1" in error
    assert "expected a number in this line" in error
    assert [*(tmp_path / "cache").glob("*/*")] == []
    state = git(two_builds.ROOT, "status", "--porcelain")
    seen = []
    for number in (3, 4, 4):
        (two_builds.ROOT / "number").write_text(str(number))
        options = ("--script", script, "--no-build-isolation")
        status, output, error = main(*options, revisions=("old", "WORKTREE"))
        assert status == 0
        *_, row = output.splitlines()
        assert row.split()[:4] == ["OFF", "1,000,000,000", f"{number},000,000,000", f"{number}.000"]
        seen.append((error.count(f"building {commits['old']}"), error.count("building ")))
    assert seen == [(1, 2), (0, 1), (0, 0)]
    assert git(two_builds.ROOT, "status", "--porcelain") == state


@pytest.mark.usefixtures("commits")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["old"], "NEW"),
        (["old", "nowhere"], "nowhere: expected a revision of"),
        (["old", "new", "--rounds", "0"], "--rounds: expected a whole number >= 1, got 0"),
        (["old", "new", "--script", "missing.py"], "--script: there is no file missing.py"),
        (["old", "new", "--json", "missing/a.json"], "--json: there is no directory"),
        (["old", "new", "--threads", "1"], "--threads"),
    ],
)
def test_what_is_refused_before_anything_is_built(
    two_builds: Any, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = two_builds.main(given)
    except SystemExit as ended:  # from argparse
        status = ended.code
    error = capsys.readouterr().err
    assert status == 2
    assert said in error
    assert "building" not in error
