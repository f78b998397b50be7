"""What the fuzz targets share: the file that is read, the guard over a call, the corpus, and the run."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import atheris

LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=8192")
"""Seconds and memory for one input, its bytes; what is given on the command line comes later and wins."""

_FILE = os.memfd_create("input")
PATH = f"/proc/self/fd/{_FILE}"
"""The file that is read."""
AGAIN = (
    Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()) / f"lrcore-fuzz-{os.getpid()}"
)
"""A file in memory, where there is such a place: a million saves wait for no disk."""

_MEMORY = 2**28
"""What a guarded call may allocate, in bytes: no input is long enough to need a tenth of it."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NEVER = (
    "exec",
    "import",
    "os.",
    "subprocess.",
    "socket.",
    "shutil.",
    "pickle.",
    "ctypes.",
    "pty.",
    "marshal.",
)
_breaches: list[str] = []
_guarded = False


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guarded:
        return
    forbidden = event.startswith(_NEVER)
    if event == "open":
        forbidden = bool(arguments[2] & _WRITES)
    elif event == "compile":  # to ast.parse, which asks for a tree alone, no text has a name
        forbidden = arguments[1] != "<unknown>"
    if forbidden:
        _breaches.append(f"{event}: {arguments!r:.200}")
        raise AssertionError(_breaches[-1])


def put(data: bytes) -> None:
    """Make this the content of the file that is read."""
    os.ftruncate(_FILE, 0)
    os.pwrite(_FILE, data, 0)


@contextmanager
def guarded() -> Iterator[None]:
    """Let nothing be run, imported or written; AssertionError where something was, also where that was caught.

    Allocating much raises MemoryError, also where nothing is written into it.
    """
    global _guarded  # noqa: PLW0603  # the hook has no other way to know
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", "rb") as pages:  # noqa: PTH123  # a tenth of the time
        most = int(pages.read().split()[0]) * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    _guarded = True
    try:
        yield
    finally:
        _guarded = False
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
        assert not _breaches, _breaches
        assert not os.listdir(), "a file was made"  # noqa: PTH208  # a tenth of the time


def mutator(change: Callable[[Random, bytes], bytes]) -> Callable[[bytes, int, int], bytes]:
    """Return what changes an input as `change` does, or bytes of it: one time of five, and where `change` finds no form."""

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.8:
            with suppress(ValueError, TypeError, AttributeError, KeyError, RecursionError):
                return change(random, data)[:max_size]
        return bytes(atheris.Mutate(data, max_size))

    return mutate


def fuzz(
    target: Callable[[bytes], None], mutate: Callable[[bytes, int, int], bytes], seeds: Iterable[bytes]
) -> None:
    """Run a target on the seeds and on what comes of them, as libFuzzer's options on the command line say.

    What was found to be of interest is kept in the folder named there, or in ``build/fuzz``; a file is tried alone.
    """
    name, home = Path(sys.argv[0]).stem, Path("build/fuzz").absolute()
    options = [
        f"-artifact_prefix={home}/{name}-",
        *LIMITS,
        *(each for each in sys.argv[1:] if each[0] == "-"),
    ]
    paths = [Path(each).absolute() for each in sys.argv[1:] if each[0] != "-"] or [home / name]
    empty = home / "empty"
    empty.mkdir(parents=True, exist_ok=True)
    os.chdir(empty)  # where nothing may appear
    for number, seed in enumerate(seeds):
        target(seed)  # what is imported late is there before the guard counts it
        if not paths[0].is_file():
            paths[0].mkdir(parents=True, exist_ok=True)
            (paths[0] / f"seed-{number}").write_bytes(seed)
    sys.addaudithook(_audit)
    atheris.Setup([sys.argv[0], *options, *map(str, paths)], target, custom_mutator=mutate)
    atheris.Fuzz()
