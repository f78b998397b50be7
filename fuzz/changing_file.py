"""Load files while a thread changes them: ``PYTHONPATH=tests python fuzz/changing_file.py -runs=100000 -seed=1``.

An optimizer file and a pack file are truncated, extended, rewritten in place and replaced. `load` must either accept
contents that were written completely at some time, or raise a documented exception and change nothing. A run is one
load. Other options of libFuzzer are accepted and have no effect.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from files.kinds import KINDS, LARGE, Kind, number_of

SECONDS = 5
COUNT = 6
"""Number of different contents of a file."""


def files_of(kind: Kind, path: Path) -> list[bytes]:
    """Return the contents of the files with numbers 1 to COUNT, which have the same length."""
    found = []
    for number in range(1, COUNT + 1):
        kind.make(number, LARGE).save(path)
        found.append(path.read_bytes())
    assert len({len(each) for each in found}) == 1
    return found


def change(random: Random, path: Path, files: Sequence[bytes]) -> None:
    """Change the file in one random way."""
    content = random.choice(files)
    match random.choice(["replace", "rewrite", "truncate", "extend", "part"]):
        case "replace":
            other = path.with_name("other")
            other.write_bytes(content)
            other.replace(path)
            time.sleep(random.choice([0, 0.002]))  # lets some loads succeed
        case "rewrite":
            path.write_bytes(content)
        case "truncate":
            os.truncate(path, random.randrange(len(content)))
        case "extend":
            os.truncate(path, len(content) + random.choice([1, 4096, len(content)]))
        case _:
            with path.open("r+b") as file:
                begin = random.randrange(len(content))
                file.seek(begin)
                file.write(content[begin : begin + 50_000])


def load(into: Any, path: Path) -> ValueError | OSError | None:
    """Load a file, and return the exception if it was rejected."""
    try:
        into.load(path)
    except (ValueError, OSError) as error:
        return error
    return None


def hammer(kind: Kind, path: Path, seed: int, seconds: float) -> tuple[int, int]:
    """Load a file while a thread changes it, and return how often it was accepted and how often rejected.

    Accepted contents must have been written completely at some time. A rejection must be a ValueError or an OSError
    that names the file, and must change nothing.
    """
    files = files_of(kind, path)
    stopped = threading.Event()

    def work() -> None:
        random = Random(seed)
        while not stopped.is_set():
            change(random, path, files)

    taken = refused = 0
    into = kind.make(99, LARGE)
    thread = threading.Thread(target=work)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    end = time.monotonic() + seconds
    thread.start()
    try:
        while time.monotonic() < end:
            before, error = number_of(into), load(into, path)
            if error is None:
                assert 1 <= number_of(into) <= COUNT
                taken += 1
            else:
                assert str(path) in str(error), error
                assert number_of(into) == before
                refused += 1
    finally:
        stopped.set()
        thread.join()
        sys.setswitchinterval(interval)
    path.write_bytes(files[-1])
    into.load(path)
    assert number_of(into) == COUNT
    return taken, refused


def main() -> None:
    """Load each kind of file as often as requested on the command line, with a new seed every few seconds."""
    options = dict(each.split("=", 1) for each in sys.argv[1:] if each[0] == "-" and "=" in each)
    runs, seed = int(options.get("-runs", 20_000)), int(options.get("-seed", 1))
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            taken = refused = 0
            while taken + refused < runs:
                more_taken, more_refused = hammer(kind, Path(folder, name), seed, SECONDS)
                taken, refused, seed = taken + more_taken, refused + more_refused, seed + 1
            assert taken, name
            assert refused, name
            print(f"{name}: {taken} loads accepted, {refused} rejected")


if __name__ == "__main__":
    main()
