"""`lrcore bench`: measure, print a table, and write, draw or compare the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lrcore
from lrcore._checks import integer
from lrcore._extras import progress_bar, require_installed
from lrcore._runtime import cpu_backends
from lrcore.bench import _records
from lrcore.bench._cases import MakeVariants, bytes_of_arrays, free_bytes, measure, variants
from lrcore.bench._draw import draw
from lrcore.bench._timing import Row

SIZES = [10**k for k in range(2, 9)]
RULES = ["sgd", "adam"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `run` reads."""
    rules = list(lrcore.rules())
    parser.add_argument(
        "--rules",
        nargs="+",
        default=RULES,
        choices=[*rules, "all"],
        metavar="RULE",
        help=f"all, or some of {', '.join(rules)} (default: {' '.join(RULES)})",
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=[*cpu_backends(), "all"],
        metavar="BACKEND",
        help=f"all of {', '.join(cpu_backends())}, or some (default: the one in use)",
    )
    parser.add_argument(
        "--threads", nargs="+", type=int, metavar="N", help="default: what lrcore uses by itself"
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=float,
        default=SIZES,
        metavar="N",
        help="elements, 1e6 for a million (default: 1e2 to 1e8)",
    )
    parser.add_argument(
        "--rounds", type=int, default=15, help="samples of each variant (default: %(default)s)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw throughput over size there, .png or .svg"
    )
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="an older JSON file to hold the results against"
    )


def run(arguments: argparse.Namespace) -> None:
    """Measure what the arguments say."""
    backends = arguments.backends or [lrcore.info()["backend"]]
    if "all" in backends:
        backends = cpu_backends()
    threads = [integer("--threads", each) for each in arguments.threads or [lrcore.info()["threads"]]]
    execute(arguments, lambda rule, size: variants(rule, size, backends, threads), bytes_of_arrays)


def execute(
    arguments: argparse.Namespace, make: MakeVariants, memory: Callable[[str, int], int], **extra: Any
) -> list[Row]:
    """Measure what `make` returns at each rule and size of the arguments; print, write, draw and compare.

    `memory` gives the bytes that `make` allocates: what does not fit is left out, and said. `extra` goes into the file.
    """
    rules = list(lrcore.rules()) if "all" in arguments.rules else arguments.rules
    sizes = [_size(float(each)) for each in arguments.sizes]
    rounds = integer("--rounds", arguments.rounds)
    for name in ("json", "plot"):
        path: Path | None = getattr(arguments, name)
        if path is not None and not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"--{name}: there is no directory {path.absolute().parent}")
    if arguments.plot is not None:
        require_installed("bench", "matplotlib")
    older = None if arguments.compare is None else _records.load(arguments.compare)

    cases = [(rule, size) for rule in rules for size in sizes]
    fitting = [case for case in cases if memory(*case) < 0.8 * free_bytes()]
    for rule, size in cases:
        if (rule, size) not in fitting:
            print(
                f"{rule} at {size:,} elements is left out: its arrays do not fit in memory", file=sys.stderr
            )

    machine = _records.machine()
    print(f"lrcore {machine['lrcore']} ({machine['compiler']}), {machine['cpu']}, {machine['cores']} cores")
    print(_records.HEADER)
    rows: list[Row] = []
    for finished in _finished(measure(fitting, make, rounds), len(fitting), rounds):
        rows += finished
        print("\n".join(_records.line(row, finished) for row in finished), flush=True)

    if older is not None:
        _print_comparison(_records.compare(older, rows), arguments.compare)
    if arguments.json is not None:
        _records.save(arguments.json, rows, extra)
    if arguments.plot is not None:
        draw(rows, arguments.plot, f"{machine['cpu']}, {machine['cores']} cores")
    return rows


def _size(value: float) -> int:
    if not (value >= 1 and value.is_integer()):
        raise ValueError(f"--sizes: expected whole numbers >= 1, got {value:g}")
    return int(value)


def _finished(measured: Iterator[list[Row]], cases: int, rounds: int) -> Iterator[list[Row]]:
    """Yield the rows of each case when all its rounds are done, under a progress bar if tqdm is installed."""
    installed = find_spec("tqdm") is not None
    with progress_bar("bench", cases * rounds, "round", shown=installed, leave=False) as bar:
        for rows in measured:
            bar.update()
            if rows[0].rounds == rounds:
                bar.clear()
                yield rows


def _print_comparison(verdicts: Sequence[tuple[Row, float, str]], path: Path) -> None:
    print(f"\nagainst {path}: time now over time then")
    for row, ratio, verdict in verdicts:
        print(
            f"{row.rule:32} {row.variant:16} {row.backend or '-':9} {row.threads or '-':>7} {row.size:>11,} "
            f"{ratio:>7.3f}  {verdict}"
        )
    counts = {word: sum(word == verdict for *_, verdict in verdicts) for word in ("faster", "same", "slower")}
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
