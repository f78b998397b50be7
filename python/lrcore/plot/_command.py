"""`lrcore plot`: draw schedules, as a picture or as text in the terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lrcore._extras import optional_dependency
from lrcore.plot import _figures
from lrcore.plot._chart import chart
from lrcore.schedules import parse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `run` reads."""
    parser.add_argument(
        "schedules",
        nargs="+",
        metavar="schedule",
        help='for example "Cosine(1e-3, steps=1000).warmup(100)"; the names are those of lrcore.schedules',
    )
    parser.add_argument("--steps", type=int, default=1000, help="how many are drawn (default: %(default)s)")
    parser.add_argument("--log", action="store_true", help="a logarithmic axis of rates; needs --out")
    parser.add_argument(
        "--out", type=Path, help="draw a picture there, .png, .svg or .pdf (default: text in the terminal)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Draw the schedules."""
    steps = _figures.steps_to_draw("--steps", arguments.steps)
    schedules = [parse(text) for text in arguments.schedules]
    if arguments.out is None:
        if arguments.log:
            raise ValueError("--log: a chart in the terminal has no logarithmic axis; add --out")
        for schedule in schedules:
            print(schedule)
            print(chart(schedule, steps, plain=not _has_braille()))
        return
    if not arguments.out.suffix:
        raise ValueError(f"--out: expected a name that ends in .png, .svg or .pdf, got {arguments.out}")
    with optional_dependency("plot"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    _figures.schedules(
        *schedules, steps=steps, labels=arguments.schedules, log=arguments.log, ax=figure.subplots()
    )
    figure.savefig(arguments.out, dpi=150)
    print(arguments.out)


def _has_braille() -> bool:
    """Tell whether the terminal's encoding has Braille's dots."""
    try:
        "\u28ff".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
