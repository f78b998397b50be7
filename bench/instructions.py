"""Instructions that the sweep of each rule takes, counted by callgrind and held against the recorded ones.

    python bench/instructions.py             # status 1 where a count is more than 3 % off the recorded one
    python bench/instructions.py --record    # records the counts of this compiler anew

Builds the harness, bench/instructions.cpp, with the objects of the extension. Needs x86-64 with AVX2, valgrind with its
headers, a C++ compiler, cmake and ninja, and the packages that the extension is built with. lrcore need not be installed.
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
"""Counts do not vary from run to run. This is room for what distributions change in one release of a compiler."""


class Failure(Exception):
    """What keeps the counts from being taken or compared."""


def run(*command: str | Path) -> str:
    """Return the output of a command; where it fails, its output is what is said."""
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode:
        raise Failure(f"{ended.stdout}\n{command[0]} failed with status {ended.returncode}")
    return ended.stdout


def build(directory: Path) -> Path:
    """Build the harness as the extension is built; give its path."""
    # Warnings are not what is guarded here: another compiler may have others.
    options = ("-DLRCORE_CUDA=OFF", "-DLRCORE_WERROR=OFF", f"-DPython_EXECUTABLE={sys.executable}")
    run("cmake", "--preset", "release", "-S", ROOT, "-B", directory, *options)
    run("cmake", "--build", directory, "--target", "instructions")
    return directory / "instructions"


def parse(dump: str) -> Counts:
    """Return the counts in a file of callgrind, one for each of its dumps."""
    part = r"^desc: Trigger: Client Request: (\S+) (.*)$(?s:.*?)^totals: (\d+)$"
    counts: Counts = {}
    for backend, case, instructions in re.findall(part, dump, re.MULTILINE):
        counts.setdefault(backend, {})[case] = int(instructions)
    return counts


def count() -> tuple[str, Counts]:
    """Build and run the harness; give the compiler and its counts."""
    if platform.machine() not in ("x86_64", "AMD64"):
        raise Failure("instructions are counted on x86-64 alone")
    for tool in ("valgrind", "cmake", "ninja"):
        if shutil.which(tool) is None:
            raise Failure(f"{tool} is not installed")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        harness = build(directory)
        dump = directory / "callgrind.out"
        callgrind = ("valgrind", "--quiet", "--tool=callgrind", "--collect-atstart=no", "--combine-dumps=yes")
        output = run(*callgrind, f"--callgrind-out-file={dump}", harness)
        *_, compiler = output.splitlines()  # valgrind may warn before
        counts = parse(dump.read_text())
    if not counts:
        raise Failure("valgrind has dumped no counts")
    return compiler, counts


def load() -> dict[str, Counts]:
    """Return the recorded counts by compiler."""
    everything: dict[str, Counts] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return everything


def line(*columns: object) -> str:
    """Lay out a line of the table."""
    return "{:9}{:48}{:>9}{:>9}{:>9}".format(*columns).rstrip()


def deviations(recorded: Counts, counts: Counts) -> list[str]:
    """Return a line for each recorded count that is missing or off. Those of a new rule are not."""
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
    """Print what differs from the recorded figures; give the exit status."""
    everything = load()
    if compiler not in everything:
        raise Failure(
            f"{RECORD.name} has no counts of {compiler}, it has: {', '.join(everything) or 'none'}. "
            "Record them with --record, from a tree whose speed is known to be right"
        )
    recorded = everything[compiler]
    off = deviations(recorded, counts)
    if off:
        print(line("backend", "rule, decay and size", "recorded", "now", "change"), *off, sep="\n")
        print("Mend what takes more. Where more is meant, or where it takes less, record anew with --record.")
    new = [
        f"{backend}: {case}"
        for backend, cases in counts.items()
        for case in cases
        if case not in recorded.get(backend, {})
    ]
    if new:
        print("New, and compared with nothing until --record:", *new, sep="\n  ")
    compared = sum(map(len, counts.values())) - len(new)
    print(f"{compared} counts of {compiler} compared, {len(off)} off by more than {TOLERANCE:.0%}")
    return 1 if off else 0


def record(compiler: str, counts: Counts) -> int:
    """Write the counts beside those of other compilers."""
    RECORD.write_text(json.dumps(load() | {compiler: counts}, indent=1, sort_keys=True) + "\n")
    print(f"{sum(len(cases) for cases in counts.values())} counts of {compiler} recorded in {RECORD}")
    return 0


def main() -> int:
    """Count, and compare or record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--record", action="store_true", help="record the counts of this compiler anew")
    options = parser.parse_args()
    try:
        return (record if options.record else compare)(*count())
    except Failure as failure:
        print(f"bench/instructions.py: {failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
