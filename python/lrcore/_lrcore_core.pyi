"""The C++ core. It is not a public interface; use `lrcore`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

_Numbers: TypeAlias = tuple[Sequence[float], float, bool]
"""The values of the rule's hyperparameters in order, the weight decay, and whether to maximize."""

_Source: TypeAlias = float | Callable[[int], float]
"""The source of a rate: a float, or a callable of the step count."""

_Group: TypeAlias = tuple[_Numbers, bool, float, _Source | None]
"""A group: its numbers, whether it is frozen, and the source of its rate, or the factor for the optimizer's rate."""

_Number: TypeAlias = tuple[
    Callable[[int], float], Callable[[object, int], float], float, Sequence[tuple[int, int]]
]
"""A number that changes from step to step: a callable of the step count; a function that checks or converts the result,
unless it is a float from 0 to below the next entry; and the hyperparameters, each as the index of its group and its own
index among those of the rule, or -1 for the weight decay; or -2 for the largest norm or -3 for the decay of the average,
which belong to no group."""

_WholeSettings: TypeAlias = tuple[float | None, int, float | None]
"""The largest norm of the gradients, or None; the number of skipped steps in a row that is an error, or 0 if no step is
skipped; and the decay of the average of the parameters, or None. NaN stands for a number that changes."""

_Settings: TypeAlias = tuple[object, object, Sequence[_Group], Sequence[_Number], _WholeSettings]
"""The settings to be replaced, or None for any; the new settings, for display; the groups as the core uses them; the
numbers that change; and the settings of the whole optimizer."""

_Rate: TypeAlias = tuple[object, _Source]
"""The schedule for display, and the source of a step's rate."""

_Tensors: TypeAlias = tuple[
    Sequence[str],
    Sequence[Any],
    Sequence[Any],
    Sequence[int],
    Callable[[int, Any], Any],
    Callable[[list[Any]], None],
]
"""The tensors whose gradients are read: names for messages, tensors, the views of the flat parameters that the tensors must
be, and indices of first elements; a function that returns a copy of the gradient of the tensor with a given index, if a step
cannot read the gradient where it lies; and a function that zeroes gradients."""

_Change: TypeAlias = tuple[
    Stepper,
    Sequence[Any] | None,
    int | None,
    Sequence[tuple[int, int, int]],
    _Settings | None,
    _Rate | None,
    Any,
    int | None,
]
"""An optimizer, and its new values: states, step count, ranges with smaller counts, settings, rate, parameters and number
of skipped steps.

None leaves a value unchanged.
"""

class _Metaclass(type):
    """The metaclass of pybind11's classes; its real name is an implementation detail."""

class RuleInfo(NamedTuple):
    """An update rule: the names of its states and hyperparameters, in order, and its divisions and roots per element."""

    states: tuple[str, ...]
    hyper: tuple[str, ...]
    divisions: int
    roots: int

class MemoryInfo(NamedTuple):
    """The memory of parameters: number of elements, CUDA device (-1 for the CPU), and address modulo 4096."""

    size: int
    cuda_device: int
    offset: int

class Snapshot(NamedTuple):
    """The step count, smaller counts of ranges, settings, schedule and skipped steps that belong to copied states."""

    step_count: int
    counts: list[tuple[int, int, int]]
    settings: Any
    schedule: Any
    skipped_steps: int

class Stepper(metaclass=_Metaclass):
    """Owns the views, the step count, the settings and the lock of one optimizer."""

    def __init__(
        self,
        rule: str,
        params: Any,
        states: Sequence[Any],
        grads: Any,
        decay: str,
        groups: Sequence[Sequence[tuple[int, int]]],
        settings: _Settings,
        rate: _Rate,
        max_steps: int | None = None,
        flat_gradients: Callable[[Any, str], Any] | None = None,
        tensors: _Tensors | None = None,
        units: Sequence[tuple[int, int]] | None = None,
    ) -> None: ...
    def step(
        self, grads: Any = None, *, grad_scale: float = 1.0, zero_grads: bool = False, stream: Any = None
    ) -> None: ...
    @property
    def step_count(self) -> int: ...
    @step_count.setter
    def step_count(self, count: int) -> None: ...
    @property
    def rule(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def schedule(self) -> Any: ...
    @property
    def grad_norm(self) -> float | None: ...
    @property
    def skipped_steps(self) -> int: ...
    @property
    def _settings(self) -> Any: ...
    @property
    def _started_steps(self) -> int | None:
        """The number of steps that were started, some of which a device may yet skip; None if the device counts."""
    def _step_count_of(self, group: int) -> int | None: ...
    def _counts(self) -> tuple[int, list[tuple[int, int, int]]]:
        """Return the step count, and the ranges that have taken another number of steps, with that number."""
    def _copy_average(self, out: Any) -> None: ...
    def _snapshot(self, states: Sequence[Any]) -> Snapshot: ...

class FunctionalStep(metaclass=_Metaclass):
    """A rule with its hyperparameters, for arrays that the caller keeps."""

    def __init__(self, rule: str, decay: str, numbers: _Numbers) -> None: ...
    def apply(
        self,
        params: Any,
        grads: Any,
        states: Sequence[Any],
        step: int,
        lr: float,
        grad_scale: float,
        stream: Any,
    ) -> None: ...

class Watch(metaclass=_Metaclass):
    """NumPy arrays or PyTorch tensors, and a record of their memory at construction."""

    def __init__(self, names: Sequence[str], arrays: Sequence[Any], why: str) -> None: ...
    def check(self) -> None:
        """Raise RuntimeError "name: why" if the address, size, dtype or layout of an array has changed."""

class DeviceArray(metaclass=_Metaclass):
    """Flat float32 memory of a CUDA device, exported through DLPack."""

    def __init__(self, device: int, size: int, offset: int, value: float) -> None: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: Any = None
    ) -> Any: ...

def rules() -> dict[str, RuleInfo]: ...
def backends() -> list[str]: ...
def active_backend() -> str: ...
def use_backend(name: str) -> None: ...
def num_threads() -> int: ...
def set_num_threads(count: int) -> None: ...
def join_openmp() -> bool: ...
def dot(x: Any, y: Any) -> float: ...
def norm(x: Any) -> float: ...
def norms(arrays: Sequence[Any]) -> list[float]: ...
def build_info() -> dict[str, Any]: ...
def cuda_devices() -> list[str]: ...
def to_float(name: str, value: Any) -> float: ...
def describe(params: Any) -> MemoryInfo: ...
def nadam_momentum_product(step_count: int, beta1: float, momentum_decay: float) -> float: ...
def copy(
    source: Any, destination: Any, source_name: str = "source", destination_name: str = "destination"
) -> None: ...
def have_same_entries(dictionaries: list[Any], others: list[dict[str, Any]]) -> bool:
    """Return whether two lists of dictionaries have the same keys and, in values and in lists, the same objects."""

def require_detachable(name: str, gradient: Any) -> None:
    """Raise RuntimeError if PyTorch cannot zero a gradient, because it is a view that belongs to a graph."""

def require_memory(name: str, array: Any) -> None: ...
def commit(
    changes: Sequence[_Change],
    attributes: Sequence[tuple[Any, str, Any]] = (),
    updates: Sequence[tuple[dict[str, Any], dict[str, Any]]] = (),
) -> bool:
    """Make all changes or none; then assign the attributes and update the dictionaries, before any Python code runs.

    Return False, and change nothing, if an optimizer no longer has the settings that a change is meant to replace.
    """

def step_together(
    steppers: Sequence[Stepper],
    grad_scale: float = 1.0,
    loss_scale: Any = None,
    found_inf: Any = None,
    *,
    zero_grads: bool = False,
) -> None:
    """Take one step of each optimizer with its own gradients.

    A single optimizer on a device can take the arrays of a loss scaler: the number that divides `grad_scale`, and one
    that skips the step unless it is 0.
    """

def skip_together(steppers: Sequence[Stepper]) -> None:
    """Count a skipped step of each optimizer."""

def run_stream_bound(params: Any, grads: Any, states: Sequence[Any], stream: Any = None) -> None: ...
def run_arithmetic_bound(rule: str, params: Any, grads: Any, states: Sequence[Any]) -> None: ...
