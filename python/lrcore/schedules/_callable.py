"""Schedules that ask a callable."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from lrcore._lrcore_core import to_float
from lrcore.schedules._base import Schedule, set_fields
from lrcore.schedules._checks import rate


@dataclasses.dataclass(frozen=True, repr=False)
class Function(Schedule):
    """Ask a callable. Any is accepted wherever a schedule is, and becomes one of these.

    ::

        s(t) = fn(t)

    It has no dictionary form, and pickles only when `fn` does.

    Parameters
    ----------
    fn : callable
        Takes the number of steps already taken and gives a rate.

    References
    ----------
    Optax's schedules are such callables; PyTorch's ``LambdaLR`` multiplies the optimizer's rate by what one gives.

    Examples
    --------
    >>> rates = Function(lambda t: 0.1 / (1 + t))
    >>> rates(0), rates(1), rates(3)
    (0.1, 0.05, 0.025)
    """

    fn: Callable[[int], float]
    _holds_callable: ClassVar = True

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"fn: expected a callable, got {type(self.fn).__name__}")

    def _value(self, t: int) -> float:
        return self.fn(t)

    def __repr__(self) -> str:
        return f"Function({getattr(self.fn, '__qualname__', repr(self.fn))})"


@dataclasses.dataclass(frozen=True, repr=False)
class Recursive(Schedule):
    """Make each rate of the one before: the callback ``lr_schedule(epoch, lr)`` of others.

    ::

        t = 0    s(t) = fn(0, lr)
        else     s(t) = fn(t, s(t - 1))

    The values are remembered, so any t can be asked, in any order, and `fn` is called once for each. It has no dictionary
    form, and pickles only when `fn` does.

    Parameters
    ----------
    fn : callable
        Takes t and the rate before, and gives a rate.
    lr : float
        The rate before the first.

    References
    ----------
    Keras' ``LearningRateScheduler``, whose ``schedule(epoch, lr)`` is given the rate before.

    Examples
    --------
    >>> halving = Recursive(lambda t, lr: lr / 2 if t > 0 else lr, lr=0.1)
    >>> halving(2), halving(0), halving(1)
    (0.025, 0.1, 0.05)
    """

    fn: Callable[[int, float], float]
    lr: float

    last: ClassVar[int] = 10**7
    _holds_callable: ClassVar = True

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"fn: expected a callable, got {type(self.fn).__name__}")
        set_fields(self, lr=rate("lr", self.lr))
        self.__setstate__({})

    def _value(self, t: int) -> float:
        values: list[float] = self._values  # type: ignore[attr-defined]
        if t < len(values):
            return values[t]
        if t > self.last:
            raise ValueError(f"t: {self!r} remembers each value, and takes t up to {self.last}, got {t}")
        with self._turn:  # type: ignore[attr-defined]
            while len(values) <= t:
                before = values[-1] if values else self.lr
                values.append(to_float("lr", self.fn(len(values), before)))
        return values[t]

    def __getstate__(self) -> dict[str, Any]:
        return {"fn": self.fn, "lr": self.lr}

    def __setstate__(self, state: dict[str, Any]) -> None:
        set_fields(self, **state, _values=[], _turn=threading.RLock())

    def __repr__(self) -> str:
        return f"Recursive({getattr(self.fn, '__qualname__', repr(self.fn))}, lr={self.lr!r})"
