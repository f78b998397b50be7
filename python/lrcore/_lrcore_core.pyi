"""The C++ core. It is not a public interface; use `lrcore`."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

_Hyperparameters: TypeAlias = tuple[dict[str, Any], Sequence[float], float]
"""The numeric arguments for display, the values of the rule's hyperparameters in order, and the weight decay."""

_Rate: TypeAlias = tuple[object, float | Callable[[int], float]]
"""The schedule for display, and the source of a step's rate: a float, or a callable of the step count."""

_Change: TypeAlias = tuple[
    Stepper, Sequence[Any] | None, int | None, _Hyperparameters | None, _Rate | None, Any
]
"""An optimizer and its new states, step count, hyperparameters, rate and parameters; None leaves a value unchanged."""

class _Metaclass(type):
    """The metaclass of pybind11's classes; its real name is an implementation detail."""

class RuleInfo(NamedTuple):
    """An update rule: the names of its states and hyperparameters, in order, and its divisions and roots per element."""

    states: tuple[str, ...]
    hyper: tuple[str, ...]
    divisions: int
    roots: int

class MemoryInfo(NamedTuple):
    """The memory of parameters: number of elements, CUDA device (-1 for the CPU), and address modulo 256."""

    size: int
    cuda_device: int
    offset: int

class Snapshot(NamedTuple):
    """The step count, the hyperparameters and the schedule that belong to copied states."""

    step_count: int
    hyperparameters: dict[str, Any]
    schedule: Any

class Stepper(metaclass=_Metaclass):
    """Owns the views, the step count, the learning rate, the hyperparameters and the lock of one optimizer."""

    def __init__(
        self,
        rule: str,
        params: Any,
        states: Sequence[Any],
        grads: Any,
        decoupled: bool,
        maximize: bool,
        hyperparameters: _Hyperparameters,
        rate: _Rate,
        max_steps: int | None = None,
    ) -> None: ...
    def step(self, grads: Any = None, *, grad_scale: float = 1.0, stream: Any = None) -> None: ...
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
    def _hyperparameters(self) -> dict[str, Any]: ...
    def _replace_hyperparameters(
        self, expected: dict[str, Any], hyperparameters: _Hyperparameters
    ) -> bool: ...
    def _set_rate(self, rate: _Rate) -> None: ...
    def _snapshot(self, states: Sequence[Any]) -> Snapshot: ...

class FunctionalStep(metaclass=_Metaclass):
    """A rule with its hyperparameters, for arrays that the caller keeps."""

    def __init__(
        self, rule: str, decoupled: bool, maximize: bool, hyperparameters: _Hyperparameters
    ) -> None: ...
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
def build_info() -> dict[str, Any]: ...
def cuda_devices() -> list[str]: ...
def to_float(name: str, value: Any) -> float: ...
def describe(params: Any) -> MemoryInfo: ...
def nadam_momentum_product(step_count: int, beta1: float, momentum_decay: float) -> float: ...
def copy(source: Any, destination: Any) -> None: ...
def require_memory(name: str, array: Any) -> None: ...
def commit(
    changes: Sequence[_Change],
    attributes: Sequence[tuple[Any, str, Any]] = (),
    updates: Sequence[tuple[dict[str, Any], dict[str, Any]]] = (),
) -> None:
    """Make all changes or none; then assign the attributes and update the dictionaries, before any Python code runs."""

def step_together(steppers: Sequence[Stepper], grad_scale: float = 1.0) -> None: ...
def run_stream_bound(params: Any, grads: Any, states: Sequence[Any], stream: Any = None) -> None: ...
def run_arithmetic_bound(rule: str, params: Any, grads: Any, states: Sequence[Any]) -> None: ...
