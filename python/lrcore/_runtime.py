"""What is here and what is in use: rules, backends, threads."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import reprlib
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lrcore._lrcore_core as core
from lrcore._names import explain_keywords


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
    """Return every update rule by name. Variants of an optimizer are rules of their own."""
    return {name: Rule(*info) for name, info in core.rules().items()}


def backends() -> list[str]:
    """Return the names of the backends that run here.

    First those for CPU arrays, best first, then `cuda`, if a device works. Arrays of a CUDA device are always stepped by
    `cuda`.
    """
    devices, _ = _devices()
    return [*cpu_backends(), *(["cuda"] if devices else [])]


def cpu_backends() -> list[str]:
    """Return the names of the backends that step CPU arrays here, best first."""
    return core.backends()


def _devices() -> tuple[list[str], str | None]:
    """Return the CUDA devices that work, and why there are none."""
    try:
        return core.cuda_devices(), None
    except RuntimeError as error:
        return [], str(error)


@dataclasses.dataclass(eq=False)
class _Choice:
    """A backend that was chosen: from outside, by a call of `use_backend` that may still begin a block, or by a block."""

    name: str
    caller: Callable[[], object] | None = None
    """For a call, what returns its `use_backend` object while there is one."""
    errors: Sequence[Exception] = ()
    """The errors of the environment variable, if it is wrong; `name` is the best backend then."""


def _apply_environment(variable: str, choose: Callable[[str], object]) -> list[Exception]:
    """Apply an environment variable, if it is set; return the error if it is wrong."""
    value = os.environ.get(variable)
    try:
        if value:
            choose(value)
    except (RuntimeError, ValueError) as error:
        return [type(error)(f"{variable}: {error}")]
    return []


def _use_threads(count: str) -> None:
    try:
        core.set_num_threads(int(count))
    except ValueError:
        message = f"expected an integer from 1 to {2**31 - 1}, got {reprlib.repr(count)}"
        raise ValueError(message) from None


_backend_errors = _apply_environment("LRCORE_BACKEND", core.use_backend)

_choices = [_Choice(core.active_backend(), lambda: None, _backend_errors)]
"""The choices that stand, the latest last. Changed by atomic operations alone: there is no lock to wait for."""

_threads_errors = _apply_environment("LRCORE_NUM_THREADS", _use_threads)
"""What is wrong with the number of threads from outside, until the program chooses one."""


def require_environment() -> None:
    """Raise the error of a wrong environment variable in whose place the program has chosen nothing."""
    for error in (*_choices[-1].errors, *_threads_errors):
        raise type(error)(*error.args)


def _use_latest_choice() -> None:
    """Make the core use the latest choice, also where another thread chooses at the same time."""
    while True:
        name = _choices[-1].name
        core.use_backend(name)
        if _choices[-1].name == name:
            return


def _forget_former_calls() -> None:
    """Remove the calls before the last one that can begin no block any more."""
    calls = [each for each in _choices.copy() if each.caller is not None]
    final = [index for index, each in enumerate(calls) if each.caller is not None and each.caller() is None]
    for each in calls[: final[-1]]:
        _remove(each)


def _remove(choice: _Choice) -> None:
    with contextlib.suppress(ValueError):  # another thread has removed it
        _choices.remove(choice)


class use_backend:
    """Step CPU arrays with the named backend from now on, or within a ``with`` block.

    It holds for the whole process, all threads included, and is looked up at every step. Results do not depend on it.
    The environment variable ``LRCORE_BACKEND`` is the choice before the first. It is read when lrcore is imported; a wrong
    one is an error where an optimizer is made, a function of `lrcore.functional` is called or `info` is called, as long as
    no call or block stands in its place.

    The latest choice that stands is in use. A call stands until the next one. A ``with`` block stands until it ends, and
    takes its own choice back then, and no other: blocks may be nested, may overlap in several threads and may use one
    object more than once, and after the last of them the backend is the one that was in use before the first. A call
    within a block is in use at once, and stays in use after the block.

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

    @explain_keywords
    def __init__(self, name: str) -> None:
        core.use_backend(name)
        self._call = _Choice(name, weakref.ref(self))
        self._blocks: list[_Choice] = []
        _choices.append(self._call)
        _forget_former_calls()
        _use_latest_choice()

    def __enter__(self) -> None:
        block = _Choice(self._call.name)
        _choices.append(block)
        self._blocks.append(block)
        _remove(self._call)
        _use_latest_choice()

    def __exit__(self, *exception: object) -> None:
        _remove(self._blocks.pop())
        _use_latest_choice()


@explain_keywords
def set_num_threads(count: int) -> None:
    """Let large steps use `count` threads, the calling one included.

    The default is the number of CPUs that the process may use. Results do not depend on it. ``info()["threads"]`` tells how
    many there are.

    The environment variable ``LRCORE_NUM_THREADS`` does the same from outside. It is read when lrcore is imported; a wrong
    one is an error where an optimizer is made, a function of `lrcore.functional` is called or `info` is called, until this
    is called or threadpoolctl sets the number.

    Raises
    ------
    ValueError
        When count is less than 1.
    """
    core.set_num_threads(count)
    _threads_errors.clear()


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
            _threads_errors.clear()

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
    """Return what was built and what is here.

    Returns
    -------
    dict
        `version`, `compiler`, `fp_mode` ("default": steps round to nearest and keep subnormal numbers, whatever the caller's
        mode; "caller's" on a processor whose mode lrcore cannot set), `architectures` (the CPU backends), `cuda` (whether it
        was built) and `cuda_architectures` of the build; `cpu`, `backends`, `backend` (the one in use for CPU arrays),
        `threads`, `devices` and `cuda_error` (why there is no CUDA device, else None) of this machine.

    Raises
    ------
    ValueError, RuntimeError
        When the environment variable ``LRCORE_BACKEND`` or ``LRCORE_NUM_THREADS`` is wrong and the program has chosen nothing
        in its place.
    """
    require_environment()
    devices, error = _devices()
    return core.build_info() | {
        "cpu": _cpu_name(),
        "backends": backends(),
        "backend": core.active_backend(),
        "threads": core.num_threads(),
        "devices": ["cpu", *devices],
        "cuda_error": error,
    }
