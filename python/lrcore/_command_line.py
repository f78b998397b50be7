"""Code shared by the commands: the parser, argument types, checks of output files, and exit statuses."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lrcore._extras import require_installed
from lrcore._names import nearest

# Exit statuses that shells report for programs killed by a signal: 128 plus the signal number.
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE


class Parser(argparse.ArgumentParser):
    """A parser whose error messages are one line long, and suggest a name for an unknown option."""

    def error(self, message: str) -> NoReturn:
        """Print a message on stderr and exit with status 2."""
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}; see {self.prog} --help\n")

    def parse_known_args(self, *arguments: Any, **keywords: Any) -> Any:
        """Parse arguments. For an unknown option, exit with an error that suggests the most similar option."""
        parsed, unknown = super().parse_known_args(*arguments, **keywords)
        if unknown:
            options = {each.lstrip("-"): each for each in self._option_string_actions}
            meant = nearest(unknown[0].partition("=")[0].lstrip("-"), options)
            self.error(f"unexpected {unknown[0]}" + (f"; did you mean {options[meant]}?" if meant else ""))
        return parsed, unknown


def complete(parser: argparse.ArgumentParser) -> None:
    """Print completions and exit if a shell requests them through argcomplete; otherwise do nothing."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def whole_number(text: str) -> int:
    """Return the integer in a string; notation such as 1e3 is accepted."""
    try:
        return int(text)
    except ValueError:
        try:
            number = float(text)
        except ValueError:
            number = 0.5
        if not number.is_integer():
            raise argparse.ArgumentTypeError(f"expected a whole number, got {text}") from None
        return int(number)


def fraction_number(text: str) -> float:
    """Return the number in a string, which must be at least 0 and less than 1."""
    try:
        number = float(text)
    except ValueError:
        number = 1.0
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected a number >= 0 and < 1, got {text}")
    return number


def positive_number(text: str) -> float:
    """Return the number in a string, which must be > 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise argparse.ArgumentTypeError(f"expected a number > 0, got {text}")
    return number


def one_of(known: Sequence[str]) -> Callable[[str], str]:
    """Return an argparse type that accepts only the known names."""

    def check(text: str) -> str:
        if text in known:
            return text
        meant = nearest(text, known)
        hint = f"did you mean {meant}?" if meant else f"expected one of {', '.join(known)}"
        raise argparse.ArgumentTypeError(f"unknown name {text}; {hint}")

    return check


def check_output(option: str, path: Path | None) -> None:
    """Raise OSError if the path cannot be written, so that a command fails before it starts its work."""
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{option}: there is no directory {folder}")
    if path.is_dir():
        raise IsADirectoryError(f"{option}: expected the name of a file, got the directory {path}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"{option}: no permission to write {path}")


def check_picture(option: str, path: Path | None, extra: str) -> None:
    """Check a path as `check_output` does; also check that matplotlib, which `extra` installs, supports its format."""
    if path is None:
        return
    check_output(option, path)
    require_installed(extra, "matplotlib")
    from matplotlib.backend_bases import FigureCanvasBase

    endings = [f".{each}" for each in FigureCanvasBase.get_supported_filetypes()]
    if path.suffix.lower() not in endings:
        raise ValueError(f"{option}: expected a name that ends in one of {' '.join(endings)}, got {path}")


def stderr_is_terminal() -> bool:
    """Return whether stderr is a terminal, where a progress bar can be drawn."""
    return sys.stderr is not None and sys.stderr.isatty()


def run(program: str, command: Callable[[], object]) -> int:
    """Run a command, and return its exit status.

    An error (2) or an interruption (130) is reported in one line on stderr. A closed pipe (141), as with ``| head``, is
    not reported.
    """
    try:
        try:
            command()
        finally:
            if sys.stdout is not None:  # None if it was closed, as by >&- in a shell
                sys.stdout.flush()
    except KeyboardInterrupt as interruption:
        echo = "\n" if stderr_is_terminal() else ""  # the terminal has already printed ^C
        print(f"{echo}{program}: {' '.join(['interrupted', *map(str, interruption.args)])}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout at exit, and this flush must not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ArithmeticError, ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"{program}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0
