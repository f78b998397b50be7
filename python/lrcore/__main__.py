"""The command line: `lrcore` or `python -m lrcore`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import lrcore
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
    for name, value in info.items():
        print(f"{name:<20}{_readable(value)}")


def _readable(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        value = ", ".join(value)
    return str(value or "none")


class Command(NamedTuple):
    """A subcommand: what it is called, what it does, what declares its arguments and what runs with them."""

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


COMMANDS = (
    Command("info", "tell what was built and what is here", _add_info_arguments, _info),
    Command("demo", "train a small network on handwritten digits", demo.add_arguments, demo.run),
    Command("plot", "draw learning-rate schedules", plot.add_arguments, plot.run),
    Command("bench", "time the optimizer step", bench.add_arguments, bench.run),
)


EXAMPLES = """\
examples:
  lrcore demo                                  train a network, and draw its loss: lrcore-demo.png
  lrcore demo --optimizer Lion --find-lr       with the rate that a range test finds
  lrcore plot "Cosine(0.1, steps=80).warmup(20)" --steps 120
  lrcore bench --rules adam --sizes 1e3 1e6
  python -c "import lrcore; help(lrcore)"      what the library has
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lrcore",
        description="The optimizer step as a library. `lrcore COMMAND --help` tells the options of a command.",
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
    """Run a command, `sys.argv` where none is given. Without a command, say what there is.

    Returns
    -------
    int
        0, or 2 after a message on stderr when the command was refused.

    Raises
    ------
    SystemExit
        From argparse: after --help and --version, and with status 2 for arguments that cannot be parsed.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 0
    try:
        arguments.run(arguments)
    except (ArithmeticError, ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"lrcore {arguments.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
