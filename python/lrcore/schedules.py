"""Learning-rate schedules: pure functions of the number of steps already taken.

``schedule(t)``, t = 0, 1, 2, ..., is the learning rate of the next step as a float. ``schedule(array)`` gives a float64
array of the same shape that holds exactly those floats. Schedules are frozen values: they print as the code that makes
them, compare equal, pickle, and go to a plain dictionary and back. They hold no counter; the optimizer's step count is
the only clock. Past its end a schedule holds its last value.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from math import cos, pi
from typing import Any, ClassVar, SupportsIndex, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from lrcore._arguments import length, magnitude, to_float

__all__ = ["Constant", "Cosine", "Function", "Rate", "Schedule", "as_schedule", "from_dict"]


class Schedule(ABC):
    """The base of all schedules."""

    _classes: ClassVar[dict[str, type[Schedule]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__ == __name__:
            cls._classes[cls.__name__] = cls

    @abstractmethod
    def _value(self, t: int) -> float:
        """Give the rate for a checked t."""

    @overload
    def __call__(self, t: NDArray[Any] | Sequence[int]) -> NDArray[np.float64]: ...  # type: ignore[overload-overlap]  # arrays of no dimension are indices
    @overload
    def __call__(self, t: SupportsIndex) -> float: ...
    def __call__(self, t: SupportsIndex | NDArray[Any] | Sequence[int]) -> float | NDArray[np.float64]:
        """Give the learning rate of the step after `t` steps, for an integer or an array of them.

        Raises
        ------
        TypeError
            When t is no integer.
        ValueError
            When t is negative.
        """
        if not isinstance(t, (np.ndarray, list, tuple, range)):
            return to_float("lr", self._value(self._checked(operator.index(cast(SupportsIndex, t)))))
        steps = np.asarray(t)
        if steps.size and not np.issubdtype(steps.dtype, np.integer):
            raise TypeError(f"t: expected integers, got dtype {steps.dtype}")
        rates = [self(step) for step in steps.ravel().tolist()]
        return np.array(rates, dtype=np.float64).reshape(steps.shape)

    @staticmethod
    def _checked(t: int) -> int:
        if t < 0:
            raise ValueError(f"t: expected a number of steps >= 0, got {t}")
        return t

    def to_dict(self) -> dict[str, Any]:
        """Give a JSON-safe dictionary that `from_dict` turns back into this schedule.

        Raises
        ------
        TypeError
            For a schedule that holds a callable, or one of a class that is not from this module.
        """
        if type(self) not in self._classes.values():
            raise TypeError(f"{self!r} has no dictionary form: {type(self).__name__} is not from {__name__}")
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {"schedule": type(self).__name__} | fields


Rate: TypeAlias = float | Schedule | Callable[[int], float]
"""What an optimizer takes as its learning rate."""


def from_dict(dictionary: Mapping[str, Any]) -> Schedule:
    """Make the schedule that `Schedule.to_dict` described.

    Raises
    ------
    TypeError, ValueError
        When it is no dictionary, names no schedule, or has arguments that it does not take or that are out of range.
    """
    if not isinstance(dictionary, Mapping):
        raise TypeError(f"schedule: expected a dictionary, got {type(dictionary).__name__}")
    arguments = dict(dictionary)
    name = arguments.pop("schedule", None)
    cls = Schedule._classes.get(name) if isinstance(name, str) else None
    if cls is None or cls is Function:
        raise ValueError(f"schedule: expected the name of a schedule, got {name!r}")
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"schedule: {name} cannot be made from {arguments}: {error}") from error


def as_schedule(lr: Rate) -> Schedule:
    """Give a schedule for whatever is accepted as a learning rate: a number, a schedule or a callable."""
    if isinstance(lr, Schedule):
        return lr
    if isinstance(lr, type):
        raise TypeError(
            f"lr: expected a number, a schedule or a callable, got the class {lr.__name__} itself"
        )
    if callable(lr):
        return Function(lr)
    try:
        return Constant(lr)
    except TypeError:
        message = f"lr: expected a number, a schedule or a callable, got {type(lr).__name__}"
        raise TypeError(message) from None


def _set(schedule: Schedule, **checked: Any) -> None:
    """Store checked arguments in a frozen schedule."""
    for name, value in checked.items():
        object.__setattr__(schedule, name, value)


@dataclasses.dataclass(frozen=True)
class Constant(Schedule):
    """Give `lr` at every step.

    Parameters
    ----------
    lr : float
        The rate, finite and >= 0.
    """

    lr: float

    def __post_init__(self) -> None:
        _set(self, lr=magnitude("lr", self.lr))

    def _value(self, t: int) -> float:  # noqa: ARG002
        return self.lr


def _rate(name: str, value: Any) -> float:
    """Check a rate that a schedule passes through; it may be too small for float32."""
    rate = to_float(name, value)
    if not 0 <= rate < math.inf:
        raise ValueError(f"{name}: expected a finite rate >= 0, got {rate}")
    return rate


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Fall from `lr` to `end` along half a cosine, then hold `end`.

    ``end + (lr - end) (1 + cos(pi z)) / 2`` with ``z = min(t, steps) / steps``.

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    steps : int
        The number of steps until `end`.
    end : float
        The last rate.

    References
    ----------
    Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts", one cycle.
    """

    lr: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        _set(self, lr=_rate("lr", self.lr), steps=length("steps", self.steps), end=_rate("end", self.end))

    def _value(self, t: int) -> float:
        z = t / self.steps if t < self.steps else 1.0
        return self.end + (self.lr - self.end) * (1 + cos(pi * z)) / 2


@dataclasses.dataclass(frozen=True)
class Function(Schedule):
    """Give ``fn(t)``. Any callable is accepted wherever a schedule is, and becomes one of these.

    It has no dictionary form, and pickles only when `fn` does.

    Parameters
    ----------
    fn : callable
        Takes the number of steps already taken and gives a rate.
    """

    fn: Callable[[int], float]

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"fn: expected a callable, got {type(self.fn).__name__}")

    def _value(self, t: int) -> float:
        return self.fn(t)

    def __repr__(self) -> str:
        return f"Function({getattr(self.fn, '__qualname__', repr(self.fn))})"

    def to_dict(self) -> dict[str, Any]:
        """Refuse: a callable has no dictionary form."""
        raise TypeError(f"{self!r} has no dictionary form: a callable cannot be stored")
