"""The available rules, backends and devices, and the backend and threads in use."""

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
        The names of its states and of its hyperparameters, in order.
    divisions, roots : int
        Number of divisions and square roots per element. They limit the speed of a step on data in cache.
    """

    states: tuple[str, ...]
    hyper: tuple[str, ...]
    divisions: int
    roots: int

    @property
    def bytes_per_element(self) -> int:
        """The number of bytes per element that a step reads (p, g and each state) and writes (p and each state)."""
        return 4 * (3 + 2 * len(self.states))


def rules() -> dict[str, Rule]:
    """Return every update rule by name. Each variant of an optimizer is a separate rule."""
    return {name: Rule(*info) for name, info in core.rules().items()}


def backends() -> list[str]:
    """Return the names of the backends that run on this machine.

    The backends for CPU arrays come first, best first, followed by `cuda` if a CUDA device works. Arrays on a CUDA
    device are always stepped by `cuda`.
    """
    devices, _ = _devices()
    return [*cpu_backends(), *(["cuda"] if devices else [])]


def cpu_backends() -> list[str]:
    """Return the names of the backends for CPU arrays that run on this machine, best first."""
    return core.backends()


def _devices() -> tuple[list[str], str | None]:
    """Return the CUDA devices that work and, if there are none, the reason."""
    try:
        return core.cuda_devices(), None
    except RuntimeError as error:
        return [], str(error)


@dataclasses.dataclass(eq=False)
class _Choice:
    """A backend chosen by the environment, by a call to `use_backend`, or by its ``with`` block."""

    name: str
    caller: Callable[[], object] | None = None
    """For a call, a function that returns its `use_backend` object, or None once that object no longer exists."""
    errors: Sequence[Exception] = ()
    """The errors of the environment variable if it is invalid; `name` is then the best backend."""


def _apply_environment(variable: str, choose: Callable[[str], object]) -> list[Exception]:
    """Apply an environment variable if it is set; return a list with the error if it is invalid."""
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
"""The choices in effect, the latest last. Only atomic operations change this list, so no lock is needed."""

_threads_errors = _apply_environment("LRCORE_NUM_THREADS", _use_threads)
"""The error of an invalid ``LRCORE_NUM_THREADS``, until the program sets the number of threads."""


def require_environment() -> None:
    """Raise the error of an invalid environment variable, unless the program has overridden it."""
    for error in (*_choices[-1].errors, *_threads_errors):
        raise type(error)(*error.args)


def _use_latest_choice() -> None:
    """Make the core use the latest choice, even if another thread chooses at the same time."""
    while True:
        name = _choices[-1].name
        core.use_backend(name)
        if _choices[-1].name == name:
            return


def _forget_former_calls() -> None:
    """Remove the calls that can never take effect again.

    A call to `use_backend` stays in effect until its object begins a ``with`` block. Once the object no longer exists,
    it cannot begin a block, so the call overrides all earlier calls for good.
    """
    calls = [each for each in _choices.copy() if each.caller is not None]
    final = [index for index, each in enumerate(calls) if each.caller is not None and each.caller() is None]
    for each in calls[: final[-1]]:
        _remove(each)


def _remove(choice: _Choice) -> None:
    with contextlib.suppress(ValueError):  # another thread has removed it
        _choices.remove(choice)


class use_backend:
    """Step CPU arrays with the named backend from now on, or within a ``with`` block.

    The choice applies to all threads of the process, and is looked up at every step. Results do not depend on it. The
    environment variable ``LRCORE_BACKEND`` sets the initial choice. It is read when lrcore is imported. If it is
    invalid, creating an optimizer, calling a function of `lrcore.functional` or calling `info` raises an error, unless
    a `use_backend` call or block is in effect.

    The latest choice in effect is used. A call stays in effect until the next call, or until the object that it
    returned begins a ``with`` block. A ``with`` block stays in effect until it ends; it then withdraws its own choice
    and no other. Blocks may be nested, may overlap in several threads, and may use the same object more than once. When
    the last block has ended, the backend is again the one that was in use before the blocks' objects were created. A
    call within a block takes effect immediately, and stays in effect after the block.

    Parameters
    ----------
    name : str
        One of `backends()`, except `cuda`.

    Raises
    ------
    ValueError
        If no CPU backend has that name.
    RuntimeError
        If this CPU cannot run the backend.

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
    """Set the number of threads that large steps use, including the calling thread.

    The default is the number of CPUs that the process may use. Results do not depend on the number of threads.
    ``info()["threads"]`` is the current number. After ``import lrcore.torch``, steps of the main thread use PyTorch's
    threads, and therefore not more than ``torch.get_num_threads()``.

    The environment variable ``LRCORE_NUM_THREADS`` sets the initial number. It is read when lrcore is imported. If it
    is invalid, creating an optimizer, calling a function of `lrcore.functional` or calling `info` raises an error,
    until this function is called or threadpoolctl sets the number.

    Raises
    ------
    ValueError
        If `count` is less than 1 or greater than 2**31 - 1.
    """
    core.set_num_threads(count)
    _threads_errors.clear()


def register_threadpoolctl() -> None:
    """Let `threadpoolctl` inspect and limit the threads of lrcore, like the threads of BLAS libraries."""
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
    """Return information about the build and the machine.

    Returns
    -------
    dict
        About the build: `version`, `compiler`, `fp_mode`, `architectures` (the CPU backends), `cuda` (whether the CUDA
        kernels were built) and `cuda_architectures`. If `fp_mode` is "default", steps round to nearest and keep
        subnormal numbers, regardless of the caller's floating-point mode. `fp_mode` is "caller's" on processors whose
        mode lrcore cannot set.

        About the machine: `cpu`, `backends`, `backend` (the one in use for CPU arrays), `threads`, `devices` and
        `cuda_error` (the reason why there is no CUDA device, or None).

    Raises
    ------
    ValueError, RuntimeError
        If the environment variable ``LRCORE_BACKEND`` or ``LRCORE_NUM_THREADS`` is invalid and the program has not
        overridden it.
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
