"""What is here and what is in use: rules, backends, threads."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any, NamedTuple

from lrcore import _lrcore_core as core


class Rule(NamedTuple):
    """An update rule.

    Attributes
    ----------
    states, hyper : tuple of str
        The names of its states and of the numbers it takes, in order.
    divisions, roots : int
        How many of each an element takes: the arithmetic that a step in cache waits for.
    """

    states: tuple[str, ...]
    hyper: tuple[str, ...]
    divisions: int
    roots: int

    @property
    def bytes_per_element(self) -> int:
        """What a step has to read and write: p, g and each state; p and each state."""
        return 4 * (3 + 2 * len(self.states))


def rules() -> dict[str, Rule]:
    """Give every update rule by name. Variants of an optimizer are rules of their own."""
    return {name: Rule(*facts) for name, facts in core.rules().items()}


def backends() -> list[str]:
    """Give the names of the backends that run here.

    First those for CPU arrays, best first; then `emulated`, which simulates a GPU's grid on the host and is used only
    when it is chosen; and last `cuda`, where a device works. Arrays of a CUDA device are always stepped by `cuda`.
    """
    devices, _ = _devices()
    return [*cpu_backends(), *(["cuda"] if devices else [])]


def cpu_backends() -> list[str]:
    """Give the names of the backends that step CPU arrays here, best first, then `emulated`."""
    return core.backends()


def _devices() -> tuple[list[str], str | None]:
    """Give the CUDA devices that work, and why there are none."""
    try:
        return core.cuda_devices(), None
    except RuntimeError as error:
        return [], str(error)


class use_backend:
    """Step CPU arrays with the named backend from now on, or within a ``with`` block.

    It holds for the whole process, all threads included, and is looked up at every step. Results do not depend on it.
    The environment variable ``LRCORE_BACKEND`` does the same from outside.

    Parameters
    ----------
    name : str
        One of `backends()`, `cuda` excepted.

    Raises
    ------
    ValueError
        When no CPU backend has that name.
    RuntimeError
        When this CPU cannot run it.

    Examples
    --------
    >>> with use_backend("portable"):
    ...     pass
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._switch()

    def _switch(self) -> None:
        self._former = core.active_backend()
        core.use_backend(self._name)

    def __enter__(self) -> None:
        if core.active_backend() != self._name:  # another was chosen since
            self._switch()

    def __exit__(self, *exception: object) -> None:
        core.use_backend(self._former)


def set_num_threads(count: int) -> None:
    """Let large steps use `count` threads, the calling one included.

    The default is the number of CPUs that the process may use. Results do not depend on it. The environment variable
    ``LRCORE_NUM_THREADS`` does the same from outside. ``info()["threads"]`` tells how many there are.

    Raises
    ------
    ValueError
        When count is less than 1.
    """
    core.set_num_threads(count)


def register_threadpoolctl() -> None:
    """Let `threadpoolctl` see and limit the threads of lrcore, as it does those of the BLAS libraries."""
    try:
        import threadpoolctl
    except ImportError as error:
        raise ImportError("threadpoolctl is not installed: pip install threadpoolctl") from error

    class Controller(threadpoolctl.LibController):  # type: ignore[misc]
        user_api = "lrcore"
        internal_api = "lrcore"
        filename_prefixes = ("_lrcore_core",)
        check_symbols = ("lrcore_get_num_threads", "lrcore_set_num_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.lrcore_get_num_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.lrcore_set_num_threads(num_threads)

        def get_version(self) -> str:
            return str(core.build_info()["version"])

        def set_additional_attributes(self) -> None:
            pass

    threadpoolctl.register(Controller)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def info() -> dict[str, Any]:
    """Tell what was built and what is here.

    Returns
    -------
    dict
        `version`, `compiler`, `architectures` (the CPU backends), `cuda` (whether it was built) and `cuda_architectures`
        of the build; `cpu`, `backends`, `backend` (the one in use for CPU arrays), `threads`,
        `devices` and `cuda_error` (why there is no CUDA device, else None) of this machine.
    """
    devices, error = _devices()
    return core.build_info() | {
        "cpu": _cpu_name(),
        "backends": backends(),
        "backend": core.active_backend(),
        "threads": core.num_threads(),
        "devices": ["cpu", *devices],
        "cuda_error": error,
    }


def obey_environment() -> None:
    """Do what LRCORE_BACKEND and LRCORE_NUM_THREADS ask for. The command line ends with a message where they are wrong."""
    try:
        _obey_environment()
    except (RuntimeError, ValueError) as error:
        program = Path(
            getattr(sys, "argv", [""])[0]
        ).name  # "-m" while `python -m lrcore` imports the package
        if program in ("lrcore", "-m"):
            print(f"lrcore: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        raise


def _obey_environment() -> None:
    backend = os.environ.get("LRCORE_BACKEND")
    if backend:
        try:
            core.use_backend(backend)
        except (ValueError, RuntimeError) as error:
            raise type(error)(f"LRCORE_BACKEND: {error}") from None
    threads = os.environ.get("LRCORE_NUM_THREADS")
    if threads:
        if not threads.isdecimal() or int(threads) < 1:
            raise ValueError(f"LRCORE_NUM_THREADS: expected a number >= 1, got {threads!r}")
        core.set_num_threads(int(threads))
