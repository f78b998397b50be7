"""Break the library on purpose, one expression at a time, and check that the tests fail.

    python scripts/mutants.py                                # every mutant of scripts/mutants.toml
    python scripts/mutants.py "parse: // is true division"   # only this mutant
    python scripts/mutants.py --sample 10 --seed 1           # a random sample of ten, the same each time
    python scripts/mutants.py --list                         # print the names and files

The tracked files are copied to a temporary directory, and the core is built there once, for the CPU only. First the
selected tests must pass on the unmodified copy. Then the mutants are applied one at a time, and the tests of each are
run until one fails; a crash or a hang counts as a failure. The output has one line per mutant with its name, file and
result, and a last line with the counts.

An entry of the list has a name, a file, the literal text `before` and its replacement `after`, and `tests`: test
files, or `file::function`. Text that does not occur exactly once, a mutant that cannot be compiled or imported, and
tests that fail without a mutant are errors, not kills.

The exit status is 0 if every mutant was killed, 1 if one survived or was an error, and 2 if no mutant was run.
Requires git, cmake, ninja, a C++ compiler, the build dependencies of the core, and the packages that the tests use.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "scripts" / "mutants.toml"
TIMEOUT = 600
"""Maximum seconds for the tests of a mutant."""


class Failure(Exception):
    """Raised if a mutant cannot be tested."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """An entry of the list."""

    name: str
    file: str
    before: str
    after: str
    tests: list[str]

    @property
    def is_compiled(self) -> bool:
        """Whether the core must be rebuilt for the mutant."""
        return self.file.startswith("csrc/")

    def applied(self, text: str) -> str:
        """Return the text of the file with the mutant applied."""
        if (count := text.count(self.before)) != 1:
            raise Failure(
                f"{self.name}: {self.file}: expected `before` once, got {count} occurrences; update the list"
            )
        if self.after == self.before:
            raise Failure(f"{self.name}: expected `after` to differ from `before`")
        return text.replace(self.before, self.after)


def load(path: Path) -> list[Mutant]:
    """Return the mutants of a list."""
    mutants = [Mutant(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutants"]]
    names = [each.name for each in mutants]
    if repeated := {each for each in names if names.count(each) > 1}:
        raise Failure(
            f"{path.name}: expected each name once, got {', '.join(sorted(repeated))} more than once"
        )
    return mutants


def choose(mutants: Sequence[Mutant], options: argparse.Namespace) -> list[Mutant]:
    """Return the mutants that the options name, or a random sample."""
    known = {each.name: each for each in mutants}
    if unknown := [name for name in options.names if name not in known]:
        raise Failure(f"{unknown[0]}: there is no such mutant; --list prints the names")
    chosen = [known[name] for name in options.names] or [*mutants]
    if options.sample is None:
        return chosen
    return random.Random(options.seed).sample(chosen, min(options.sample, len(chosen)))


def run(tree: Path, *command: str | Path, timeout: float | None = None) -> tuple[int | None, str]:
    """Return the exit status and the output of a command run in a tree; the status is None after a timeout."""
    with subprocess.Popen(
        command,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree / "python")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except BaseException as error:  # Ctrl-C does not reach the child's session
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                return None, ""
            raise
    return process.returncode, output


def require(what: str, tree: Path, *command: str | Path) -> str:
    """Return the output of a command; if it fails, raise Failure with its last lines."""
    status, output = run(tree, *command)
    if status:
        raise Failure("\n".join([f"{what} failed with status {status}", *output.splitlines()[-20:]]))
    return output


def copy_to(tree: Path) -> None:
    """Copy the tracked files, including uncommitted changes."""
    for name in require("git ls-files", ROOT, "git", "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)


def configure(tree: Path) -> None:
    """Configure the build of the core. Results do not depend on the optimization level, and -O1 compiles faster."""
    options = ("-DLRCORE_CUDA=OFF", "-DLRCORE_WERROR=OFF", "-DCMAKE_CXX_FLAGS_RELEASE=-O1")
    preset = ("cmake", "--preset", "release", f"-DPython_EXECUTABLE={sys.executable}", *options)
    require("configuring the core", tree, *preset)


def build(tree: Path) -> None:
    """Rebuild the changed parts of the core, and copy it into the package."""
    require("the build", tree, "cmake", "--build", "--preset", "release", "--target", "_lrcore_core")
    install(tree)


def install(tree: Path) -> None:
    """Copy the built core into the package."""
    for path in (tree / "build" / "release").glob("_lrcore_core.*.so"):
        shutil.copy2(path, tree / "python" / "lrcore")


def check_import(tree: Path, file: str) -> None:
    """Check that the module of a file, or lrcore if the file is not in the package, is imported from the tree."""
    path = Path(file).with_suffix("")
    parts = path.parts[1:] if path.parts[0] == "python" else ("lrcore",)
    module = ".".join(each for each in parts if each != "__init__")
    program = f"import {module}, sys; print(sys.modules[{module!r}].__file__)"
    found = require(f"importing {module}", tree, sys.executable, "-c", program).splitlines()[-1]
    if not Path(found).is_relative_to(tree):
        raise Failure(
            f"{module}: expected it in {tree}, got {found}; use an environment without an editable install"
        )


def failing_test(tree: Path, tests: Sequence[str], timeout: float | None = None) -> str | None:
    """Run tests until one fails, and return its name, or None if all pass."""
    options = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0")
    status, output = run(tree, sys.executable, "-m", "pytest", *options, *tests, timeout=timeout)
    if status == 0:
        return None
    if status is None:
        return f"a hang of more than {timeout} s"
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    found = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)
    if status not in (1, 2) or not found:  # pytest's status if tests failed or could not be collected
        raise Failure("\n".join([f"pytest ended with status {status}", *output.splitlines()[-20:]]))
    return str(found[0])


def killer_of(mutant: Mutant, tree: Path, built: Path) -> str | None:
    """Apply a mutant, run its tests and restore the tree; return the name of the first failing test, or None."""
    path = tree / mutant.file
    text, times = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(mutant.applied(text), encoding="utf-8")
    try:
        if mutant.is_compiled:
            build(tree)
        check_import(tree, mutant.file)
        return failing_test(tree, mutant.tests, TIMEOUT)
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        if mutant.is_compiled:  # restores file times, so the next build compiles only the next mutant
            shutil.rmtree(tree / "build")
            shutil.copytree(built, tree / "build")
            install(tree)


def check_tests(mutants: Sequence[Mutant], tree: Path) -> None:
    """Run all tests of the mutants, and raise Failure if one fails."""
    every = dict.fromkeys(test for each in mutants for test in each.tests)
    files = {test for test in every if "::" not in test}
    if failing := failing_test(
        tree, [test for test in every if test.partition("::")[0] not in files - {test}]
    ):
        raise Failure(f"{failing}: fails without a mutant")


def execute(mutants: Sequence[Mutant]) -> int:
    """Copy the tree, build it, check the tests, and test each mutant; return the exit status."""
    for each in mutants:
        if not (ROOT / each.file).is_file():
            raise Failure(f"{each.name}: there is no file {each.file}; update the list")
        each.applied((ROOT / each.file).read_text(encoding="utf-8"))
    began, results = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        tree, built = Path(name, "tree").resolve(), Path(name, "built")
        copy_to(tree)
        configure(tree)
        build(tree)
        shutil.copytree(tree / "build", built)
        # Compiled files are validated by content, because two mutants may be written within one second.
        compiling = ("compileall", "-q", "--invalidation-mode", "checked-hash", "python")
        require("compiling Python", tree, sys.executable, "-m", *compiling)
        check_import(tree, "python/lrcore/__init__.py")
        check_tests(mutants, tree)
        for each in mutants:
            try:
                killer = killer_of(each, tree, built)
                result = f"killed by {killer}" if killer else "SURVIVED"
            except Failure as failure:
                result = f"ERROR: {failure}"
            results.append(result)
            print(f"{each.name:50} {each.file:45} {result}", flush=True)
    killed, survived = (sum(each.startswith(word) for each in results) for word in ("killed", "SURVIVED"))
    counts = f"{killed} killed, {survived} survived, {len(results) - killed - survived} errors"
    print(f"{len(results)} mutants: {counts}; {(time.monotonic() - began) / 60:.0f} min")
    return int(killed < len(results))


def main(argv: Sequence[str] | None = None) -> int:
    """Test the selected mutants, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="test only these mutants")
    parser.add_argument("--sample", type=int, metavar="N", help="test N mutants chosen at random")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the random choice (default: %(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="print the names and the files")
    options = parser.parse_args(argv)
    try:
        mutants = choose(load(LIST), options)
        if options.list:
            print(*(f"{each.name:50} {each.file}" for each in mutants), sep="\n")
            return 0
        return execute(mutants)
    except Failure as failure:
        print(f"scripts/mutants.py: {failure}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
