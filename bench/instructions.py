"""Count the instructions of each rule's sweep with callgrind, and compare them with the recorded counts.

    python bench/instructions.py             # status 1 if a count differs by more than 3 % from the recorded one
    python bench/instructions.py --record    # replaces the recorded counts of this compiler

Builds the harness, bench/instructions.cpp, with the objects of the extension. Requires x86-64 with AVX2, valgrind
with its headers, a C++ compiler, cmake and ninja, and the build dependencies of the extension. lrcore need not be
installed.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypeAlias

Counts: TypeAlias = dict[str, dict[str, int]]
"""Backend -> rule, decay and size -> instructions."""

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "bench" / "results" / "instructions.json"
TOLERANCE = 0.03
"""Counts do not vary from run to run. The tolerance allows for distributions that patch the same compiler release."""


class Failure(Exception):
    """Raised if the counts cannot be taken or compared."""


def run(*command: str | Path) -> str:
    """Return the output of a command; if it fails, raise Failure with its output."""
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode:
        raise Failure(f"{ended.stdout}\n{command[0]} failed with status {ended.returncode}")
    return ended.stdout


def build(directory: Path) -> Path:
    """Build the harness with the options of the extension, and return its path."""
    # Warnings are not errors here, because they differ between compilers.
    options = ("-DLRCORE_CUDA=OFF", "-DLRCORE_WERROR=OFF", f"-DPython_EXECUTABLE={sys.executable}")
    run("cmake", "--preset", "release", "-S", ROOT, "-B", directory, *options)
    run("cmake", "--build", directory, "--target", "instructions")
    return directory / "instructions"


def parse(dump: str) -> Counts:
    """Return the counts in a callgrind file, one for each dump."""
    part = r"^desc: Trigger: Client Request: (\S+) (.*)$(?s:.*?)^totals: (\d+)$"
    counts: Counts = {}
    for backend, case, instructions in re.findall(part, dump, re.MULTILINE):
        counts.setdefault(backend, {})[case] = int(instructions)
    return counts


def count() -> tuple[str, Counts]:
    """Build and run the harness, and return the compiler and its counts."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise Failure("instructions can only be counted on x86-64")
    for tool in ("valgrind", "cmake", "ninja"):
        if shutil.which(tool) is None:
            raise Failure(f"{tool} is not installed")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        harness = build(directory)
        dump = directory / "callgrind.out"
        callgrind = ("valgrind", "--quiet", "--tool=callgrind", "--collect-atstart=no", "--combine-dumps=yes")
        output = run(*callgrind, f"--callgrind-out-file={dump}", harness)
        *_, compiler = output.splitlines()  # valgrind may print warnings first
        counts = parse(dump.read_text())
    if not counts:
        raise Failure("valgrind dumped no counts")
    return compiler, counts


def load() -> dict[str, Counts]:
    """Return the recorded counts of each compiler."""
    everything: dict[str, Counts] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return everything


def line(*columns: object) -> str:
    """Return a line of the table."""
    return "{:9}{:48}{:>9}{:>9}{:>9}".format(*columns).rstrip()


def deviations(recorded: Counts, counts: Counts) -> list[str]:
    """Return a line for each recorded count that is missing now or differs. Counts of new rules are not included."""
    lines = []
    for backend in recorded | counts:
        old, new = recorded.get(backend, {}), counts.get(backend, {})
        for case in old:
            before, now = old.get(case), new.get(case)
            change = now / before - 1 if before and now else None
            if change is None or abs(change) > TOLERANCE:
                shown = "" if change is None else f"{change:+.1%}"
                lines.append(line(backend, case, before or "none", now or "none", shown))
    return lines


def compare(compiler: str, counts: Counts) -> int:
    """Print the differences from the recorded counts, and return the exit status."""
    everything = load()
    if compiler not in everything:
        raise Failure(
            f"{RECORD.name}: expected counts of {compiler}, got {', '.join(everything) or 'none'}; "
            "record them with --record, from a commit whose speed is known to be good"
        )
    recorded = everything[compiler]
    off = deviations(recorded, counts)
    if off:
        print(line("backend", "rule, decay and size", "recorded", "now", "change"), *off, sep="\n")
        print("Fix unintended increases. If all changes are intended, record the new counts with --record.")
    new = [
        f"{backend}: {case}"
        for backend, cases in counts.items()
        for case in cases
        if case not in recorded.get(backend, {})
    ]
    if new:
        print("New, and not compared until they are recorded with --record:", *new, sep="\n  ")
    compared = sum(map(len, counts.values())) - len(new)
    print(f"{compared} counts of {compiler} compared, {len(off)} differ by more than {TOLERANCE:.0%}")
    return 1 if off else 0


def record(compiler: str, counts: Counts) -> int:
    """Write the counts, keeping the counts of other compilers."""
    RECORD.write_text(json.dumps(load() | {compiler: counts}, indent=1, sort_keys=True) + "\n")
    print(f"{sum(len(cases) for cases in counts.values())} counts of {compiler} recorded in {RECORD}")
    return 0


def main() -> int:
    """Count, and compare or record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="replace the recorded counts of this compiler")
    options = parser.parse_args()
    try:
        return (record if options.record else compare)(*count())
    except Failure as failure:
        print(f"bench/instructions.py: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
