"""Compare the speed of two commits of this repository, each built separately.

    python bench/two_builds.py main HEAD                      # SGD and Adam, 8 to 1e6 elements
    python bench/two_builds.py HEAD WORKTREE --rules lion --sizes 1e5 -- --threads 1
    python bench/two_builds.py main HEAD --script save.py --limit 1.02

OLD and NEW are revisions as accepted by `git rev-parse`, or WORKTREE for the current files, including new files that
git does not ignore. Each is built without CUDA by this interpreter's pip into build/two_builds/<hash>. Existing
builds are reused, so remove the folder after a change of compiler.

Each round starts three processes in random order: NEW, OLD, and OLD again. They differ only in the build that they
import. They run that build's `lrcore bench`, or a script that prints lines of the form `name seconds` or `seconds`;
several lines with the same name become one row with their median. Arguments after -- are passed to `lrcore bench` or
to the script.

    OLD ns, NEW ns   median time over the rounds, in nanoseconds
    NEW/OLD          median over the rounds of the ratio within a round; 1.05 means 5 % slower than OLD. Slow phases
                     of the machine affect the ratio less than the times
    OLD/OLD          the same ratio for the two processes of OLD; any difference from 1 is noise
    spread           largest distance from 1 of the median and quartiles of OLD/OLD. Smaller changes of NEW/OLD are not
                     significant; to detect them, use more rounds or a quieter machine

The exit status is 0 after a measurement, 1 if a row's NEW/OLD exceeds --limit by more than its spread, and 2 if nothing
could be measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from lrcore.bench import load
from lrcore.bench._records import machine
from lrcore.bench._timing import quartiles

ROOT = Path(__file__).resolve().parent.parent
WORKTREE = "WORKTREE"
HEADER = f"{'row':60} {'OLD ns':>13} {'NEW ns':>13} {'NEW/OLD':>8} {'OLD/OLD':>8} {'spread':>7}"

Times: TypeAlias = dict[str, float]
"""Row -> nanoseconds, measured by one process."""
Measure: TypeAlias = Callable[[Path], Times]
"""Function that measures the build in a folder in one process."""

LAUNCH = """
import importlib.machinery, importlib.util, runpy, sys
sys.meta_path.insert(0, importlib.machinery.PathFinder)  # search PYTHONPATH before the finder of an editable install
_, build, work, *arguments = sys.argv
origin = importlib.util.find_spec("lrcore").origin
if not str(origin).startswith(build):
    sys.exit(f"lrcore: expected it in {build}, got {origin}; remove the folder to rebuild")
sys.argv = [work, *arguments]
if work == "lrcore":
    runpy.run_module(work, run_name="__main__", alter_sys=True)
else:
    runpy.run_path(work, run_name="__main__")
"""


class Failure(Exception):
    """Raised if the two builds cannot be compared."""


def run(what: str, cwd: Path, *command: str | Path, **env: str) -> bytes:
    """Return the standard output of a command; if it fails, raise Failure with the last lines that it printed."""
    ended = subprocess.run(command, cwd=cwd, env=os.environ | env, capture_output=True, check=False)
    if ended.returncode:
        printed = (ended.stdout + ended.stderr).decode(errors="replace").splitlines()
        raise Failure("\n".join([f"{what} failed with status {ended.returncode}", *printed[-30:]]))
    return ended.stdout


def hash_of(revision: str) -> str:
    """Return the full hash of a revision's commit, or of the tree of the current files."""
    if revision != WORKTREE:
        what = f"{revision}: expected a revision of {ROOT} or {WORKTREE}; git rev-parse"
        return run(what, ROOT, "git", "rev-parse", "--verify", f"{revision}^{{commit}}").decode().strip()
    with tempfile.TemporaryDirectory() as name:
        index = str(Path(name, "index"))  # leaves the repository's own index unchanged
        run("git add", ROOT, "git", "add", "--all", GIT_INDEX_FILE=index)
        return run("git write-tree", ROOT, "git", "write-tree", GIT_INDEX_FILE=index).decode().strip()


def build(tree: str, cache: Path, options: Sequence[str]) -> Path:
    """Return the folder with the build of a commit or tree; if it does not exist, build it with these pip options."""
    folder = cache.absolute() / tree / str(sysconfig.get_config_var("SOABI"))
    if folder.is_dir():
        return folder
    print(f"building {tree}", file=sys.stderr)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        source, target = Path(name, "source.tar.gz"), Path(name, "target")
        run("git archive", ROOT, "git", "archive", "--prefix=source/", "--output", source, tree)
        pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target), *options)
        run(f"the build of {tree}", Path(name), *pip, source, LRCORE_CUDA="OFF")
        target.rename(folder)
    return folder


def launch(folder: Path, cwd: Path, work: str, *arguments: str) -> str:
    """Return the output of a process that runs `work` with a build; `work` is "lrcore" or the path of a script."""
    command = (sys.executable, "-P", "-c", LAUNCH, str(folder), work, *arguments)
    return run(f"{work} with {folder}", cwd, *command, PYTHONPATH=str(folder)).decode(errors="replace")


def bench_times(folder: Path, cwd: Path, *arguments: str) -> Times:
    """Return the rows that a build's `lrcore bench` measures."""
    path = cwd / "rows.json"
    launch(folder, cwd, "lrcore", "bench", *arguments, "--json", str(path))
    try:
        return {" ".join(map(str, row.key)): row.ns for row in load(path)}
    except ValueError as error:
        raise Failure(f"lrcore bench with {folder}: {error}") from None


def script_times(folder: Path, cwd: Path, script: Path, *arguments: str) -> Times:
    """Return the median time for each name that a script prints when it runs with a build."""
    samples: dict[str, list[float]] = {}
    wanted = f"{script}: expected lines of the form `name seconds` or `seconds`"
    for line in launch(folder, cwd, str(script), *arguments).splitlines():
        *name, number = line.split() or [""]
        try:
            seconds = float(number)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise Failure(f"{wanted}, got {line!r}; print anything else to stderr")
        samples.setdefault(" ".join(name) or script.stem, []).append(seconds * 1e9)
    if not samples:
        raise Failure(f"{wanted}, got none")
    return {name: quartiles(each)[1] for name, each in samples.items()}


def take_rounds(old: Path, new: Path, measure: Measure, rounds: int) -> list[list[Times]]:
    """Return the times of NEW, of OLD, and of OLD again for each round, measured in random order."""
    folders, order, shuffle = (new, old, old), [0, 1, 2], random.Random(0).shuffle
    taken = []
    for k in range(rounds):
        print(f"round {k + 1} of {rounds}", file=sys.stderr)
        shuffle(order)
        times = {arm: measure(folders[arm]) for arm in order}
        taken.append([times[arm] for arm in range(3)])
    return taken


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A row of both builds: nanoseconds per round, and the quartiles of the ratios NEW/OLD and OLD/OLD."""

    row: str
    new: list[float]
    old: list[float]
    again: list[float]
    ratio: tuple[float, float, float]
    control: tuple[float, float, float]
    spread: float
    over: bool

    def __str__(self) -> str:
        old, new = quartiles(self.old)[1], quartiles(self.new)[1]
        ratios = f"{self.ratio[1]:>8.3f} {self.control[1]:>8.3f} {self.spread:>7.3f}"
        return f"{self.row:60} {old:>13,.0f} {new:>13,.0f} {ratios}{'  over the limit' * self.over}"


def compare(rounds: Sequence[Sequence[Times]], limit: float) -> tuple[list[Comparison], dict[str, str]]:
    """Return the rows that all processes measured, and which builds measured the other rows.

    A row is over the limit if the median of NEW/OLD exceeds the limit by more than the spread.
    """
    compared, others = [], {}
    for row in dict.fromkeys(row for times in rounds for each in times for row in each):
        new, old, again = ([times[arm][row] for times in rounds if row in times[arm]] for arm in range(3))
        if len(new) == len(old) == len(again) == len(rounds):
            ratio = quartiles([x / y for x, y in zip(new, old, strict=True)])
            control = quartiles([x / y for x, y in zip(again, old, strict=True)])
            spread = max(abs(each - 1) for each in control)
            over = ratio[1] > limit + spread
            compared.append(Comparison(row, new, old, again, ratio, control, spread, over))
        else:
            both = new and old + again
            others[row] = "in some rounds only" if both else f"in {'NEW' if new else 'OLD'} only"
    return compared, others


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed options; `arguments` holds the arguments after --."""
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        usage="%(prog)s OLD NEW [options] [-- arguments of lrcore bench or of the script]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, rules, sizes = parser.add_argument, ["sgd", "adam"], ["8", "1e3", "1e5", "1e6"]
    default = "default: %(default)s"
    add("old", metavar="OLD")
    add("new", metavar="NEW")
    add("--rules", nargs="+", default=rules, metavar="RULE", help=f"default: {' '.join(rules)}")
    add("--sizes", nargs="+", default=sizes, metavar="N", help=f"elements (default: {' '.join(sizes)})")
    add("--script", type=Path, metavar="FILE", help="run this script instead of lrcore bench")
    add("--rounds", type=int, default=7, metavar="N", help=default)
    add("--limit", type=float, default=math.inf, help="status 1 if a row's NEW/OLD > LIMIT + spread")
    add("--json", type=Path, metavar="FILE", help="also write the times of all processes to this file")
    add("--cache", type=Path, default=ROOT / "build" / "two_builds", metavar="DIR", help=default)
    isolation = "--no-build-isolation"
    add(isolation, action="store_const", const=[isolation], default=[], help="passed to pip")
    options = parser.parse_args(argv[:cut])
    options.arguments = argv[cut + 1 :]
    if options.rounds < 1:
        parser.error(f"--rounds: expected a whole number >= 1, got {options.rounds}")
    if options.script is not None and not options.script.is_file():
        parser.error(f"--script: there is no file {options.script}")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no directory {options.json.absolute().parent}")
    return options


def execute(options: argparse.Namespace) -> int:
    """Build, measure, print and write the results, and return the exit status."""
    trees = [hash_of(options.old), hash_of(options.new)]
    old, new = (build(tree, options.cache, options.no_build_isolation) for tree in trees)
    with tempfile.TemporaryDirectory() as name:
        cwd = Path(name)

        def measure(folder: Path) -> Times:
            if options.script is not None:
                return script_times(folder, cwd, options.script.absolute(), *options.arguments)
            cases = ("--rules", *options.rules, "--sizes", *options.sizes)
            return bench_times(folder, cwd, *cases, *options.arguments)

        compared, others = compare(take_rounds(old, new, measure, options.rounds), options.limit)
    print(f"OLD {options.old} {trees[0]}, NEW {options.new} {trees[1]}, rounds: {options.rounds}\n{HEADER}")
    print(*compared, *(f"{row:60} {where}" for row, where in others.items()), sep="\n")
    if options.json is not None:
        contents = {
            "machine": {key: value for key, value in machine().items() if key not in ("lrcore", "compiler")},
            "old": [options.old, trees[0]],
            "new": [options.new, trees[1]],
            "limit": None if options.limit == math.inf else options.limit,
            "rows": [dataclasses.asdict(each) for each in compared],
            "not compared": others,
        }
        options.json.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")
    return int(any(each.over for each in compared))


def main(argv: Sequence[str]) -> int:
    """Compare two builds, and return the exit status."""
    try:
        return execute(parse(argv))
    except (Failure, OSError) as failure:
        print(f"bench/two_builds.py: {failure}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench/two_builds.py: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
