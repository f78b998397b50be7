"""Shared code of the fuzz targets: the input file, the guard around calls, the corpus, and the run."""

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
"""Limits of time, memory and length per input. Options on the command line come later and take precedence."""

_FILE = os.memfd_create("input")
PATH = f"/proc/self/fd/{_FILE}"
"""Path of the input file."""
AGAIN = (
    Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()) / f"lrcore-fuzz-{os.getpid()}"
)
"""Path of a scratch file, in memory if possible, so that a million saves do not wait for a disk."""

_MEMORY = 2**28
"""Number of bytes that a guarded call may allocate. No input is long enough to need a tenth of them."""
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
    elif event == "compile":  # ast.parse compiles with this file name, and only returns a tree
        forbidden = arguments[1] != "<unknown>"
    if forbidden:
        _breaches.append(f"{event}: {arguments!r:.200}")
        raise AssertionError(_breaches[-1])


def put(data: bytes) -> None:
    """Replace the content of the input file."""
    os.ftruncate(_FILE, 0)
    os.pwrite(_FILE, data, 0)


@contextmanager
def guarded() -> Iterator[None]:
    """Forbid running, importing and writing anything inside the block.

    A violation raises AssertionError, and raises it again at the end of the block if it was caught inside. Large
    allocations raise MemoryError, even if the memory is never written.
    """
    global _guarded  # noqa: PLW0603  # the audit hook can only read a global
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", "rb") as pages:  # noqa: PTH123  # ten times as fast as pathlib
        most = int(pages.read().split()[0]) * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))
    _guarded = True
    try:
        yield
    finally:
        _guarded = False
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
        assert not _breaches, _breaches
        assert not os.listdir(), "a file was created"  # noqa: PTH208  # ten times as fast as pathlib


def mutator(change: Callable[[Random, bytes], bytes]) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator that applies `change`; one time in five, and if `change` fails, it mutates bytes instead."""

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
    """Run a target on the seeds and their mutations, with libFuzzer's options from the command line.

    Interesting inputs are kept in the folder named on the command line, or in ``build/fuzz``. If a file is named
    instead, only that input is run.
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
    os.chdir(empty)  # a folder in which no file may appear
    for number, seed in enumerate(seeds):
        target(seed)  # completes lazy imports before the guard is active
        if not paths[0].is_file():
            paths[0].mkdir(parents=True, exist_ok=True)
            (paths[0] / f"seed-{number}").write_bytes(seed)
    sys.addaudithook(_audit)
    atheris.Setup([sys.argv[0], *options, *map(str, paths)], target, custom_mutator=mutate)
    atheris.Fuzz()
