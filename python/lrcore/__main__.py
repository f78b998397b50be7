"""The command line: `lrcore` or `python -m lrcore`."""

# PYTHON_ARGCOMPLETE_OK

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import lrcore
from lrcore import _command_line
from lrcore.bench import _command as bench
from lrcore.demo import _command as demo
from lrcore.plot import _command as plot

__all__ = ["main"]


def _add_info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def _info(arguments: argparse.Namespace) -> None:
    """Print `lrcore.info()`."""
    info = lrcore.info()
    if arguments.json:
        print(json.dumps(info, indent=2))
        return
    if info["cuda"] and info["cuda_error"] and not _has_driver():
        info["cuda_error"] = "no NVIDIA driver is installed, so there is no GPU to use"
    for name, value in info.items():
        print(f"{name:<20}{_readable(value)}")


def _has_driver() -> bool:
    """Return whether the library of the NVIDIA driver can be loaded."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def _readable(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(value)
    return str(value or "none")


class Command(NamedTuple):
    """A subcommand: its name, a line of help, a function that declares its arguments, and a function that runs it."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


COMMANDS = (
    Command("info", "print the build, and the available backends and devices", _add_info_arguments, _info),
    Command("demo", "train a small network on handwritten digits", demo.add_arguments, demo.run),
    Command("plot", "draw learning-rate schedules", plot.add_arguments, plot.run),
    Command("bench", "time the optimizer step", bench.add_arguments, bench.run),
)


EXAMPLES = """\
examples:
  lrcore demo                                  train a network, and draw its loss in lrcore-demo.png
  lrcore demo --optimizer Lion --find-lr       use the rate that a range test finds
  lrcore plot "Cosine(0.1, steps=80).warmup(20)" "Linear(0.1, 0, steps=100)"
  lrcore bench --rules adam --sizes 1e3 1e6
  python -c "import lrcore; help(lrcore)"      list the modules and classes
"""


def _parser() -> argparse.ArgumentParser:
    parser = _command_line.Parser(
        prog="lrcore",
        description="The optimizer step as a library. `lrcore COMMAND --help` describes the options of a command.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lrcore {lrcore.__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="command")
    for command in COMMANDS:
        subparser = subparsers.add_parser(command.name, help=command.help, description=command.help)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: `sys.argv`); without a command, print the help.

    Returns
    -------
    int
        0 if the command succeeded, 2 if it failed, 130 if it was interrupted, and 141 if the reader of stdout has
        closed the pipe. A failure or an interruption is reported in one line on stderr.

    Raises
    ------
    SystemExit
        From argparse: after --help and --version, and with status 2 for arguments that cannot be parsed.
    """
    parser = _parser()
    _command_line.complete(parser)
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        return _command_line.run("lrcore", parser.print_help)
    return _command_line.run(f"lrcore {arguments.command}", lambda: arguments.run(arguments))


if __name__ == "__main__":
    sys.exit(main())
