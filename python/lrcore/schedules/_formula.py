"""The base class of schedules: calls with step numbers, repr and traversal."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from lrcore._checks import safe_repr
from lrcore._lrcore_core import to_float
from lrcore.schedules._depth import Steps, unrolled


class Formula(ABC):
    """A schedule without the methods that compose schedules."""

    _classes: ClassVar[dict[str, type[Any]]] = {}
    """The schedule classes of this library by name."""
    _holds_callable: ClassVar[bool] = False
    _has_state: ClassVar[bool] = False
    _is_own: ClassVar[bool] = True
    """Whether the class is part of this library."""
    _in_text: ClassVar[bool] = False
    """Whether `parse` accepts the class."""

    _children: tuple[Any, ...] = ()
    """The schedules directly inside this one, if its class is part of this library."""
    _height: int = 0
    """Number of levels of schedules inside this one."""
    _size: int = 1
    """Number of schedules in the code that makes this one, counting each occurrence."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._is_own = cls.__module__.startswith(f"{__package__}.")
        if cls._is_own:
            cls._classes[cls.__name__] = cls
        elif "_value" in vars(cls):
            cls._value = _converted(cls._value)  # type: ignore[assignment, method-assign]

    @abstractmethod
    def _value(self, t: int) -> float:
        """Return the rate for a checked t."""

    @overload
    def __call__(self, t: NDArray[Any] | Sequence[int]) -> NDArray[np.float64]: ...  # type: ignore[overload-overlap]  # zero-dimensional arrays are indices
    @overload
    def __call__(self, t: SupportsIndex) -> float: ...
    def __call__(self, t: SupportsIndex | NDArray[Any] | Sequence[int]) -> float | NDArray[np.float64]:
        """Return the learning rate of the step after `t` steps, for an integer or an array of integers `t`.

        The array may be a list, or any array that NumPy can read. A zero-dimensional array counts as an
        integer.

        Raises
        ------
        TypeError
            If `t` is neither an integer nor an array of integers.
        ValueError
            If `t` is negative, or a float that is not a whole number.
        """
        if type(t) is not int:
            steps = as_steps(t)
            if not isinstance(steps, int):
                rates = [self(step) for step in steps.ravel().tolist()]
                return np.array(rates, dtype=np.float64).reshape(steps.shape)
            t = steps
        if t < 0:
            raise ValueError(f"t: expected a number of steps >= 0, got {safe_repr(t)}")
        rate = to_float("lr", self._value(t))
        if math.isinf(rate) or (math.isnan(rate) and not self._holds_callable):
            raise self._overflow(t)  # NaN: infinity times 0, or infinity minus infinity
        return rate

    def _arguments(self) -> Iterator[tuple[str, Any]]:
        """Yield the name and the value of each argument of the constructor."""
        for name in argument_names(type(self)):
            yield name, getattr(self, name)

    def __repr__(self) -> str:
        text: str = unrolled(self._code())
        return text

    def _code(self) -> Steps:
        """Return the code that makes this schedule."""
        if not dataclasses.is_dataclass(type(self)):  # the arguments are unknown
            return object.__repr__(self)
        defaults = _defaults(type(self))
        shown = []
        for name, value in self._arguments():
            if defaults.get(name, ...) != value:
                code = yield code_of(value)
                shown.append(f"{name}={code}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _nested(self, in_each_place: bool = False) -> Iterator[Any]:
        """Yield this schedule and all schedules inside it, in the order of the repr, once each or once per occurrence."""
        waiting: list[Any] = [self]
        met = set()
        while waiting:
            value = waiting.pop()
            if isinstance(value, Formula):
                parts: Any = value._children if value._is_own else vars(value).values()
            elif isinstance(value, (tuple, list, dict)):
                parts = value.values() if isinstance(value, dict) else value
            else:
                continue
            if in_each_place or id(value) not in met:
                met.add(id(value))
                waiting += reversed(parts)
                if isinstance(value, Formula):
                    yield value

    def _overflow(self, t: int) -> OverflowError:
        return OverflowError(f"{self!r} overflows at t = {t}")

    def _power(self, base: float, exponent: float, t: int) -> float:
        try:
            return float(base**exponent)
        except OverflowError:
            raise self._overflow(t) from None


_STEPS = "t: expected an integer or an array of integers"


def as_steps(t: Any) -> int | NDArray[Any]:
    """Check the type of the step numbers that a schedule is called with. Their sign is not checked."""
    if isinstance(t, (float, np.floating)):
        if not float(t).is_integer():
            raise ValueError(f"{_STEPS}, got {t}")
        return int(t)
    if isinstance(t, (list, tuple, range)) or hasattr(t, "__array__"):
        try:
            steps = np.asarray(t)
            if steps.dtype.kind not in "iu" and isinstance(
                t, (list, tuple)
            ):  # mixed types may become float64
                objects = np.asarray(t, dtype=object)
                steps = np.array([as_steps(each) for each in objects.flat], object).reshape(objects.shape)
        except (TypeError, ValueError, RuntimeError) as error:
            reason = str(error).removeprefix(f"{_STEPS}, got ")
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{_STEPS}, got {type(t).__name__}: {reason}") from None
        if steps.dtype.kind not in "iuO" and steps.size:
            raise TypeError(f"{_STEPS}, got dtype {steps.dtype}")
        return steps if steps.ndim else int(steps)
    try:
        if not isinstance(t, bool):
            return operator.index(t)
    except TypeError:
        pass
    raise TypeError(f"{_STEPS}, got {type(t).__name__}")


def code_of(value: Any) -> Steps:
    """Return the code of an argument, which may be a schedule."""
    if isinstance(value, Formula) and type(value).__repr__ is Formula.__repr__:
        return (yield value._code())
    return repr(value)


def as_rate(value: Any, t: int) -> float:
    """Convert a rate returned by user code to a Python float, so that arithmetic with it is in float64."""
    return value if type(value) is float else to_float(f"lr from the schedule at t = {t}", value)


def _converted(formula: Callable[[Any, int], Any]) -> Callable[[Any, int], float]:
    """Wrap the `_value` of a user-defined class so that it returns Python floats."""

    @functools.wraps(formula)
    def value(self: Formula, t: int) -> float:
        return as_rate(formula(self, t), t)

    return value


@functools.cache
def argument_names(cls: type[Any]) -> tuple[str, ...]:
    """Return the names of a constructor's arguments."""
    return tuple(field.name for field in dataclasses.fields(cls) if field.init)


@functools.cache
def _defaults(cls: type[Formula]) -> dict[str, Any]:
    """Return the default values of a constructor's arguments by name."""
    parameters = inspect.signature(cls).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def set_fields(schedule: Formula, **checked: Any) -> None:
    """Store checked arguments in a frozen schedule."""
    for name, value in checked.items():
        object.__setattr__(schedule, name, value)
