"""The schedule that is defined by a recurrence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from lrcore._checks import rate
from lrcore._names import explain_keywords
from lrcore.schedules._base import Function, Schedule
from lrcore.schedules._formula import as_rate, set_fields

__all__ = ["Function", "Recursive"]


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Recursive(Schedule):
    """Compute each rate from the previous one, like the callback ``lr_schedule(epoch, lr)`` of other libraries.

    ::

        t = 0    s(t) = fn(0, lr)
        else     s(t) = fn(t, s(t - 1))

    The rates are cached, so they can be computed for any t in any order, and `fn` is called once for each t.
    If several threads, or a signal handler that interrupts `fn`, need a new rate at the same time, `fn` may
    be called more than once for the same t, and the first result is kept. So `fn` should be a pure function
    of its arguments. A `Recursive` holds no lock. It has no dictionary form, and can be pickled only if `fn`
    can.

    Parameters
    ----------
    fn : callable
        A function that takes t and the previous rate and returns the next rate.
    lr : float
        The previous rate at t = 0.

    References
    ----------
    Keras' ``LearningRateScheduler``, whose ``schedule(epoch, lr)`` receives the previous rate.

    Examples
    --------
    >>> halving = Recursive(lambda t, lr: lr / 2 if t > 0 else lr, lr=0.1)
    >>> halving(2), halving(0), halving(1)
    (0.025, 0.1, 0.05)
    """

    fn: Callable[[int, float], float]
    lr: float
    _values: dict[int, float] = dataclasses.field(init=False, repr=False, compare=False)

    last: ClassVar[int] = 10**7
    _holds_callable: ClassVar = True

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"fn: expected a callable, got {type(self.fn).__name__}")
        set_fields(self, lr=rate("lr", self.lr))
        self.__setstate__({})

    def _value(self, t: int) -> float:
        values = self._values
        if t in values:
            return values[t]
        if t > self.last:
            raise ValueError(f"t: expected at most {self.last}, as {self!r} stores every rate, got {t}")
        while (following := len(values)) <= t:
            before = values[following - 1] if following else self.lr
            values.setdefault(following, as_rate(self.fn(following, before), following))
        return values[t]

    def __getstate__(self) -> dict[str, Any]:
        return {"fn": self.fn, "lr": self.lr}

    def __setstate__(self, state: dict[str, Any]) -> None:
        set_fields(self, **state, _values={})

    def __repr__(self) -> str:
        return f"Recursive({getattr(self.fn, '__qualname__', repr(self.fn))}, lr={self.lr!r})"
