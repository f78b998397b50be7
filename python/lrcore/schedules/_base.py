"""What all schedules share, and those that stand for a number and a callable."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, SupportsIndex, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from lrcore._checks import length, magnitude, shown
from lrcore._lrcore_core import to_float
from lrcore.schedules._checks import CHECKS, Check, nonnegative, rate
from lrcore.schedules._depth import Steps, unrolled


class Schedule(ABC):
    """The base of all schedules.

    Examples
    --------
    >>> rates = Constant(0.4).warmup(4)
    >>> rates(0), rates([0, 1, 100])
    (0.1, array([0.1, 0.2, 0.4]))
    >>> Constant(0.4).warmup(4, start=0.2)(0)
    0.2
    >>> rates.then(0.3, at=10)(10), (rates * 0.5)(10), rates.clip(0.2, 0.3)(0)
    (0.3, 0.2, 0.2)
    >>> rates.shift(1)(0), rates.per_epoch(100)(199)
    (0.2, 0.2)
    >>> from lrcore.schedules import from_dict
    >>> Constant(0.4).to_dict(), from_dict(rates.to_dict()) == rates
    ({'schedule': 'Constant', 'lr': 0.4}, True)
    """

    _classes: ClassVar[dict[str, type[Schedule]]] = {}
    _holds_callable: ClassVar[bool] = False
    _has_state: ClassVar[bool] = False
    _is_own: ClassVar[bool] = True
    """Whether the class is of this library."""

    _children: tuple[Schedule, ...] = ()
    """The schedules that this one is made of, where its class is of this library."""
    _height: int = 0
    """How many levels of those there are."""
    _size: int = 1
    """How many schedules are written in the code that makes this one."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._is_own = cls.__module__.startswith(f"{__package__}.")
        if cls._is_own:
            cls._classes[cls.__name__] = cls
        elif "_value" in vars(cls):
            cls._value = _converted(cls._value)  # type: ignore[assignment, method-assign]

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
            step = self._checked(operator.index(cast(SupportsIndex, t)))
            rate = to_float("lr", self._value(step))
            if math.isinf(rate) or (math.isnan(rate) and not self._holds_callable):
                raise self._overflow(step)  # NaN: infinity times 0, or less infinity
            return rate
        steps = np.asarray(t)
        if steps.size and not np.issubdtype(steps.dtype, np.integer):
            raise TypeError(f"t: expected integers, got dtype {steps.dtype}")
        rates = [self(step) for step in steps.ravel().tolist()]
        return np.array(rates, dtype=np.float64).reshape(steps.shape)

    @staticmethod
    def _checked(t: int) -> int:
        if t < 0:
            raise ValueError(f"t: expected a number of steps >= 0, got {shown(t)}")
        return t

    def _arguments(self) -> Iterator[tuple[str, Any]]:
        """Give the constructor's arguments by name."""
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            yield field.metadata.get("argument", field.name), getattr(self, field.name)

    def __repr__(self) -> str:
        text: str = unrolled(self._code())
        return text

    def _code(self) -> Steps:
        """Return the code that makes this schedule."""
        defaults = _defaults(type(self))
        shown = []
        for name, value in self._arguments():
            if defaults.get(name, ...) != value:
                code = yield code_of(value)
                shown.append(f"{name}={code}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def _nested(self, in_each_place: bool = False) -> Iterator[Schedule]:
        """Yield this schedule and those that it is made of, in the order in which they print: each once, or in each place."""
        waiting: list[Any] = [self]
        met = set()
        while waiting:
            value = waiting.pop()
            if isinstance(value, Schedule):
                parts: Any = value._children if value._is_own else vars(value).values()
            elif isinstance(value, (tuple, list, dict)):
                parts = value.values() if isinstance(value, dict) else value
            else:
                continue
            if in_each_place or id(value) not in met:
                met.add(id(value))
                waiting += reversed(parts)
                if isinstance(value, Schedule):
                    yield value

    def _overflow(self, t: int) -> OverflowError:
        return OverflowError(f"{self!r} overflows at t = {t}")

    def _power(self, base: float, exponent: float, t: int) -> float:
        try:
            return float(base**exponent)
        except OverflowError:
            raise self._overflow(t) from None

    def then(self, other: Rate, at: int) -> Schedule:
        """Give this schedule for t < at, then `other` with a clock of its own from 0."""
        from lrcore.schedules._compose import joined

        return joined(self, length("at", at), other)

    def warmup(self, steps: int, start: float | None = None) -> Schedule:
        """Give `steps` steps up to the rate that this schedule starts with, then this schedule from its own t = 0.

        Step t of the ramp is ``(t + 1) / steps`` of that rate, so no step is wasted at rate 0, and the ramp's last step
        and this schedule's first have the full rate. With `start`, the ramp is ``start + (rate - start) t / steps``.

        References
        ----------
        Goyal et al. 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", section 2.2.
        """
        from lrcore.schedules._compose import Warmup

        return Warmup(self, steps, start)

    def __mul__(self, other: Rate) -> Schedule:
        """Give the product with a number or with another schedule."""
        from lrcore.schedules._compose import multiplied

        return multiplied(self, factor_or_schedule(other))

    __rmul__ = __mul__

    def clip(self, low: float, high: float) -> Schedule:
        """Give this schedule, but no rate below `low` or above `high`."""
        from lrcore.schedules._compose import Clip

        return Clip(self, low, high)

    def shift(self, n: int) -> Schedule:
        """Give this schedule as it is n steps later."""
        from lrcore.schedules._compose import Shift

        return Shift(self, n)

    def per_epoch(self, steps_per_epoch: int) -> Schedule:
        """Give a schedule that asks this one for the epoch, ``t // steps_per_epoch``, where it was written for epochs."""
        from lrcore.schedules._compose import PerEpoch

        return PerEpoch(self, steps_per_epoch)

    def to_dict(self) -> dict[str, Any]:
        """Give a JSON-safe dictionary that `from_dict` turns back into this schedule.

        A `Plateau` that stands in several places is one again. However deep a schedule is composed, the dictionary is nested a
        few levels only.

        Raises
        ------
        TypeError
            For a schedule that holds a callable, or one of a class that is not from this module.
        ValueError
            For more than a million schedules within one another, each counted in each of its places.
        """
        from lrcore.schedules._dictionary import to_dict

        return to_dict(self)


def code_of(value: Any) -> Steps:
    """Return the code of an argument, which may be a schedule."""
    if isinstance(value, Schedule) and type(value).__repr__ is Schedule.__repr__:
        return (yield value._code())
    return repr(value)


def as_rate(value: Any, t: int) -> float:
    """Return a rate from the caller's own code as a Python float, so that arithmetic with it is in float64."""
    return value if type(value) is float else to_float(f"lr from the schedule at t = {t}", value)


def _converted(formula: Callable[[Any, int], Any]) -> Callable[[Any, int], float]:
    """Return the formula of a class of the caller's own, with its results as Python floats."""

    @functools.wraps(formula)
    def value(self: Schedule, t: int) -> float:
        return as_rate(formula(self, t), t)

    return value


@functools.cache
def _defaults(cls: type[Schedule]) -> dict[str, Any]:
    """Give the arguments of a constructor that may be left out, and what they are then."""
    parameters = inspect.signature(cls).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


Rate: TypeAlias = float | Schedule | Callable[[int], float]
"""What an optimizer takes as its learning rate."""


def as_schedule(lr: Rate) -> Schedule:
    """Give a schedule for whatever is accepted as a learning rate: a number, a schedule or a callable."""
    if isinstance(lr, Schedule):
        return lr
    if isinstance(lr, type):
        raise TypeError(
            f"lr: expected a number, a schedule or a callable, got the class {lr.__name__} itself"
        )
    if callable(lr):
        from lrcore.schedules._callable import Function

        return Function(lr)
    try:
        return Constant(lr)
    except TypeError:
        message = f"lr: expected a number, a schedule or a callable, got {type(lr).__name__}"
        raise TypeError(message) from None


def rate_or_schedule(name: str, value: Any) -> float | Schedule:
    """Check a rate or a schedule; a callable becomes a schedule."""
    return as_schedule(value) if callable(value) else rate(name, value)


def factor_or_schedule(value: Any) -> float | Schedule:
    """Check a factor or a schedule; a callable becomes a schedule."""
    return as_schedule(value) if callable(value) else nonnegative("factor", value)


def argument(name: str) -> Any:
    """Give a field that cannot bear the name of its argument, which is a method's."""
    return dataclasses.field(metadata={"argument": name}, default=None)


def set_fields(schedule: Schedule, **checked: Any) -> None:
    """Store checked arguments in a frozen schedule."""
    for name, value in checked.items():
        object.__setattr__(schedule, name, value)


class Checked(Schedule):
    """A schedule whose arguments are checked by their names when it is made."""

    _checks: ClassVar[Mapping[str, Check]] = {}
    """The checks of arguments that mean something else here, or that nothing else takes."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            name = field.metadata.get("argument", field.name)
            check = self._checks.get(name) or CHECKS.get(name)
            if check is not None:
                set_fields(self, **{field.name: check(name, getattr(self, field.name))})


@dataclasses.dataclass(frozen=True, repr=False)
class Constant(Checked):
    """Give `lr` at every step.

    ::

        s(t) = lr

    Parameters
    ----------
    lr : float
        The rate, finite and >= 0.

    References
    ----------
    Optax's ``constant_schedule``: the rate of plain stochastic gradient descent.

    Examples
    --------
    >>> Constant(0.1)(0), Constant(0.1)(1_000_000)
    (0.1, 0.1)
    >>> as_schedule(0.1)
    Constant(lr=0.1)
    """

    lr: float
    _checks: ClassVar = {"lr": magnitude}

    def _value(self, t: int) -> float:  # noqa: ARG002
        return self.lr
