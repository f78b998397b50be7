"""`lrcore bench`: measure, print a table, and write, draw or compare the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lrcore
from lrcore._checks import integer
from lrcore._command_line import (
    check_output,
    check_picture,
    fraction_number,
    one_of,
    positive_number,
    stderr_is_terminal,
    whole_number,
)
from lrcore._extras import progress_bar
from lrcore._runtime import cpu_backends
from lrcore.bench import _records
from lrcore.bench._cases import MakeVariants, bytes_of_arrays, free_bytes, measure, variants
from lrcore.bench._draw import draw
from lrcore.bench._timing import Row

SIZES = [10**k for k in range(2, 9)]
RULES = ["sgd", "adam"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `run` reads."""
    rules = list(lrcore.rules())
    parser.epilog = _records.LEGEND
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--rules",
        nargs="+",
        default=RULES,
        type=one_of([*rules, "all"]),
        metavar="RULE",
        help=f"all, or some of {', '.join(rules)} (default: {' '.join(RULES)})",
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        type=one_of([*cpu_backends(), "all"]),
        metavar="BACKEND",
        help=f"all, or some of {', '.join(cpu_backends())} (default: the one in use)",
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=whole_number,
        metavar="N",
        help="numbers of threads (default: the number that lrcore uses)",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=whole_number,
        default=SIZES,
        metavar="N",
        help="numbers of elements; 1e6 is a million (default: 1e2 to 1e8)",
    )
    parser.add_argument(
        "--segments",
        nargs="+",
        type=whole_number,
        default=[],
        metavar="N",
        help="also time steps of N segments in up to 28 parameter groups",
    )
    parser.add_argument(
        "--gradients",
        nargs="+",
        type=whole_number,
        default=[],
        metavar="N",
        help="also time steps with the sum of N gradients",
    )
    parser.add_argument(
        "--max-norm",
        type=positive_number,
        metavar="NORM",
        help="also time steps that clip the norm of the gradients",
    )
    parser.add_argument(
        "--ema",
        type=fraction_number,
        metavar="DECAY",
        help="also time steps that average the parameters",
    )
    parser.add_argument("--zero-grads", action="store_true", help="also time steps that zero the gradients")
    parser.add_argument(
        "--rounds",
        type=whole_number,
        default=15,
        metavar="N",
        help="samples of each variant (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to a JSON file")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw throughput against size: .png, .svg, .pdf or another format that matplotlib supports",
    )
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="compare the results with an older JSON file"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run the benchmark that the arguments describe."""
    backends = arguments.backends or [lrcore.info()["backend"]]
    if "all" in backends:
        backends = cpu_backends()
    threads = [integer("--threads", each) for each in arguments.threads or [lrcore.info()["threads"]]]
    segments = [integer("--segments", each) for each in arguments.segments]
    gradients = [integer("--gradients", each) for each in arguments.gradients]
    execute(
        arguments,
        lambda rule, size: variants(
            rule,
            size,
            backends,
            threads,
            segments,
            gradients,
            arguments.max_norm,
            arguments.ema,
            arguments.zero_grads,
        ),
        lambda rule, size: bytes_of_arrays(rule, size, gradients, arguments.ema),
    )


def execute(
    arguments: argparse.Namespace, make: MakeVariants, memory: Callable[[str, int], int], **extra: Any
) -> list[Row]:
    """Measure the variants that `make` returns for each rule and size; print, compare, write and draw the results.

    If the measurement ends early, for example after Ctrl-C, the finished rows are still compared, written and drawn.
    `memory` returns the number of bytes that `make` allocates; cases that do not fit in memory are skipped with a
    message. `extra` is added to the JSON file.
    """
    rules = list(lrcore.rules()) if "all" in arguments.rules else arguments.rules
    sizes = [integer("--sizes", each) for each in arguments.sizes]
    rounds = integer("--rounds", arguments.rounds)
    check_output("--json", arguments.json)
    check_picture("--plot", arguments.plot, "bench")
    if arguments.compare is not None and not arguments.compare.is_file():
        raise FileNotFoundError(f"--compare: there is no file {arguments.compare}")
    older = None if arguments.compare is None else _records.load(arguments.compare)

    cases = [(rule, size) for rule in rules for size in sizes]
    fitting = [case for case in cases if memory(*case) < 0.8 * free_bytes()]
    for rule, size in cases:
        if (rule, size) not in fitting:
            print(f"{rule} at {size:,} elements is skipped: its arrays do not fit in memory", file=sys.stderr)
    if not fitting:
        raise ValueError("--sizes: nothing is left to measure; choose smaller sizes")

    machine = _records.machine()
    print(f"lrcore {machine['lrcore']} ({machine['compiler']}), {machine['cpu']}, {machine['cores']} cores")
    print(_records.HEADER)
    rows: list[Row] = []
    finished = 0
    try:
        for each in _finished(measure(fitting, make, rounds), len(fitting), rounds):
            rows += each
            finished += 1
            print("\n".join(_records.line(row, each) for row in each), flush=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"after {finished} of {len(fitting)} cases") from None
    finally:
        if rows:
            _use(rows, older, arguments, extra, f"{machine['cpu']}, {machine['cores']} cores")
    return rows


def _use(
    rows: Sequence[Row],
    older: Sequence[Row] | None,
    arguments: argparse.Namespace,
    extra: Mapping[str, Any],
    title: str,
) -> None:
    """Write, draw, explain and compare the rows, as the arguments specify."""
    if arguments.json is not None:
        _records.save(arguments.json, rows, extra)
    if arguments.plot is not None:
        draw(rows, arguments.plot, title)
    print(f"\n{_records.LEGEND}")
    if warning := _records.warning(rows):
        print(warning)
    if older is not None:
        _print_comparison(_records.compare(older, rows), arguments.compare)
    for path in filter(None, (arguments.json, arguments.plot)):
        print(path)


def _finished(measured: Iterator[list[Row]], cases: int, rounds: int) -> Iterator[list[Row]]:
    """Yield the rows of each case when all its rounds are done; draw a progress bar on a terminal if tqdm is installed."""
    shown = stderr_is_terminal() and find_spec("tqdm") is not None
    with progress_bar("bench", cases * rounds, "round", shown=shown, leave=False) as bar:
        for rows in measured:
            bar.update()
            if rows[0].rounds == rounds:
                bar.clear()
                yield rows


def _print_comparison(verdicts: Sequence[tuple[Row, float, str]], path: Path) -> None:
    print(f"\ncurrent time divided by the time in {path}")
    for row, ratio, verdict in verdicts:
        print(
            f"{row.rule:32} {row.variant:16} {row.backend or '-':9} {row.threads or '-':>7} {row.size:>11,} "
            f"{ratio:>7.3f}  {verdict}"
        )
    counts = {word: sum(word == verdict for *_, verdict in verdicts) for word in ("faster", "same", "slower")}
    print(", ".join(f"{count} {word}" for word, count in counts.items()))
