"""`lrcore plot`: draw schedules, as a picture or as text in the terminal."""

from __future__ import annotations

import argparse
import inspect
import shutil
import sys
from pathlib import Path

from lrcore._command_line import check_picture, whole_number
from lrcore._extras import optional_dependency
from lrcore.plot import _figures
from lrcore.plot._chart import MARKS, chart
from lrcore.plot._duration import duration
from lrcore.schedules import Schedule, parse
from lrcore.schedules._parse import TEXT_METHODS, text_classes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `run` reads."""
    parser.add_argument(
        "schedules",
        nargs="*",
        metavar="schedule",
        help='for example "Cosine(1e-3, steps=1000).warmup(100)"; several are drawn in one chart',
    )
    parser.add_argument("--list", action="store_true", help="list the schedules and their arguments")
    parser.add_argument(
        "--steps",
        type=whole_number,
        metavar="N",
        help="number of steps to draw (default: enough to show the end, most of the decay, or four periods)",
    )
    parser.add_argument(
        "--log", action="store_true", help="use a logarithmic axis for the rates; requires --out"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=(
            "draw a picture: .png, .svg, .pdf or another format that matplotlib supports "
            "(default: text in the terminal)"
        ),
    )


def run(arguments: argparse.Namespace) -> None:
    """Draw the schedules."""
    if arguments.list:
        _print_schedules()
        return
    if not arguments.schedules:
        raise ValueError("schedule: expected at least one; lrcore plot --list lists them")
    drawn = [parse(text) for text in arguments.schedules]
    if arguments.steps is None:
        steps = max(map(duration, drawn))
    else:
        steps = _figures.steps_to_draw("--steps", arguments.steps)
    if arguments.out is None:
        if arguments.log:
            raise ValueError("--log: a chart in the terminal has no logarithmic axis; add --out")
        _print_chart(drawn, steps)
        return
    check_picture("--out", arguments.out, "plot")
    with optional_dependency("plot"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    _figures.schedules(
        *drawn, steps=steps, labels=arguments.schedules, log=arguments.log, ax=figure.subplots()
    )
    figure.savefig(arguments.out, dpi=150)
    print(arguments.out)


def _print_chart(drawn: list[Schedule], steps: int) -> None:
    """Print a legend, and below it a chart that fits in the terminal; it has at most 64 columns, plus its labels."""
    if len(drawn) > len(MARKS):
        raise ValueError(f"schedule: expected at most {len(MARKS)} in one chart, got {len(drawn)}")
    if len(drawn) == 1:
        print(drawn[0])
    else:
        for mark, schedule in zip(MARKS, drawn, strict=False):
            print(f"{mark}  {schedule}")
    labels = 12  # columns reserved for the labels of the rates
    width = min(max(shutil.get_terminal_size().columns - labels, 20), 64)
    print(chart(drawn, steps, width, plain=not _has_braille()))


def _print_schedules() -> None:
    """Print the arguments and the summary of each schedule that `parse` accepts."""
    for name, cls in sorted(text_classes().items()):
        parameters = inspect.signature(cls).parameters.values()
        arguments = (str(each.replace(annotation=inspect.Parameter.empty)) for each in parameters)
        print(f"{name}({', '.join(arguments)})")
        print(f"    {(inspect.getdoc(cls) or '').partition(chr(10))[0]}")
    print(f"methods: {', '.join(TEXT_METHODS)}; and schedule * number, schedule * schedule")


def _has_braille() -> bool:
    """Return whether the terminal's encoding has Braille characters."""
    try:
        "\u28ff".encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        return False
    return True
