"""The schedule of recurrences."""

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
    """Make each rate of the one before: the callback ``lr_schedule(epoch, lr)`` of others.

    ::

        t = 0    s(t) = fn(0, lr)
        else     s(t) = fn(t, s(t - 1))

    The values are remembered, so any t can be asked, in any order, and `fn` is called once for each. If several threads,
    or a signal handler in the middle of `fn`, ask for a new value at the same moment, `fn` may be called more than once
    for the same t, and the first result is kept; so `fn` should be a pure function of its arguments. A Recursive holds no
    lock. It has no dictionary form, and pickles only when `fn` does.

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
            raise ValueError(f"t: {self!r} remembers each value, and takes t up to {self.last}, got {t}")
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
