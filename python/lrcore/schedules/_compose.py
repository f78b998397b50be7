"""Schedules that are made from others. All but `Sequence` are made by methods of `Schedule`."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any, ClassVar, cast

from lrcore._arguments import length
from lrcore.schedules._base import Checked, Rate, Schedule, as_schedule, rate_or_schedule, set_fields
from lrcore.schedules._checks import count, listed, optional, rate


@dataclasses.dataclass(frozen=True)
class Sequence(Schedule):
    """Ask one schedule after another, each with a clock of its own from 0.

    ::

        s(t) = s_i(t - t_i)

    Part i is the one that t is in, and ``t_i`` its first step.

    Parameters
    ----------
    parts : sequence of (schedule, int), the last a schedule alone
        The schedules, which may be numbers, and how many steps each but the last is asked.

    References
    ----------
    PyTorch's ``SequentialLR`` and optax's ``join_schedules``, with lengths in place of the steps at which the
    parts begin.

    Examples
    --------
    >>> from lrcore.schedules import Linear
    >>> rates = Sequence([(0.4, 10), (Linear(0.4, 0.0, steps=2), 2), 0.1])
    >>> rates(9), rates(10), rates(11), rates(12)
    (0.4, 0.4, 0.2, 0.1)
    """

    parts: Iterable[Any]

    def __post_init__(self) -> None:
        if not listed("parts", self.parts):
            raise ValueError("parts: expected at least one schedule")
        try:
            *pairs, last = self.parts
            checked: list[Any] = [(schedule, steps) for schedule, steps in pairs]
        except (TypeError, ValueError):
            message = f"parts: expected pairs of a schedule and a length, and a schedule at last, got {self.parts!r}"
            raise TypeError(message) from None
        checked = [(_part(schedule), length("parts", steps)) for schedule, steps in checked]
        last = _part(last)
        ends = list(itertools.accumulate(steps for _, steps in checked))
        starts = [0, *ends]
        plan = list(zip(ends, starts, (schedule for schedule, _ in checked), strict=False))
        set_fields(self, parts=(*checked, last), _plan=plan, _last=(starts[-1], last))

    def _value(self, t: int) -> float:
        start: int
        schedule: Schedule
        for end, start, schedule in self._plan:  # type: ignore[attr-defined]
            if t < end:
                return schedule._value(t - start)
        start, schedule = self._last  # type: ignore[attr-defined]
        return schedule._value(t - start)

    def __repr__(self) -> str:
        return f"Sequence({[*self.parts]!r})"


def _part(value: Rate) -> Schedule:
    """Check a part of a sequence."""
    try:
        return as_schedule(value)
    except TypeError as error:
        raise TypeError(f"parts: {error}") from None


def _inner(name: str, value: Any) -> Schedule:
    """Check what a schedule is made around, which a dictionary may say wrong."""
    if not isinstance(value, Schedule):
        raise TypeError(f"{name}: expected a schedule, got {type(value).__name__}")
    return value


@dataclasses.dataclass(frozen=True)
class Warmup(Checked):
    """A ramp before a schedule: `Schedule.warmup`."""

    inner: Schedule
    steps: int
    start: float | None = None

    _checks: ClassVar = {"inner": _inner, "steps": count, "start": optional(rate)}

    def _value(self, t: int) -> float:
        steps = self.steps
        if t >= steps:
            return self.inner._value(t - steps)
        full = self.inner._value(0)
        return (
            full * ((t + 1) / steps) if self.start is None else self.start + (full - self.start) * (t / steps)
        )

    def __repr__(self) -> str:
        start = "" if self.start is None else f", start={self.start!r}"
        return f"{_operand(self.inner)}.warmup({self.steps!r}{start})"


@dataclasses.dataclass(frozen=True)
class Product(Checked):
    """A schedule times a number or another schedule: ``schedule * other``."""

    inner: Schedule
    other: Rate

    _checks: ClassVar = {"inner": _inner}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, other=rate_or_schedule("factor", self.other))

    def _value(self, t: int) -> float:
        other = self.other
        factor = other._value(t) if isinstance(other, Schedule) else cast(float, other)
        product = self.inner._value(t) * factor
        if math.isnan(product):
            raise self._overflow(t)  # infinity times 0
        return product

    def __repr__(self) -> str:
        other = _operand(self.other) if isinstance(self.other, Schedule) else repr(self.other)
        return f"{_operand(self.inner)} * {other}"


@dataclasses.dataclass(frozen=True)
class Clip(Checked):
    """A schedule within bounds: `Schedule.clip`."""

    inner: Schedule
    low: float
    high: float

    _checks: ClassVar = {"inner": _inner}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low: expected at most high = {self.high}, got {self.low}")

    def _value(self, t: int) -> float:
        return min(max(self.inner._value(t), self.low), self.high)

    def __repr__(self) -> str:
        return f"{_operand(self.inner)}.clip({self.low!r}, {self.high!r})"


@dataclasses.dataclass(frozen=True)
class Shift(Checked):
    """A schedule as it is later: `Schedule.shift`."""

    inner: Schedule
    n: int

    _checks: ClassVar = {"inner": _inner}

    def _value(self, t: int) -> float:
        return self.inner._value(t + self.n)

    def __repr__(self) -> str:
        return f"{_operand(self.inner)}.shift({self.n!r})"


@dataclasses.dataclass(frozen=True)
class PerEpoch(Checked):
    """A schedule of epochs: `Schedule.per_epoch`."""

    inner: Schedule
    steps_per_epoch: int

    _checks: ClassVar = {"inner": _inner}

    def _value(self, t: int) -> float:
        return self.inner._value(t // self.steps_per_epoch)

    def __repr__(self) -> str:
        return f"{_operand(self.inner)}.per_epoch({self.steps_per_epoch!r})"


def _operand(schedule: Schedule) -> str:
    """Give the code of a schedule where a method or an operator follows."""
    return f"({schedule!r})" if isinstance(schedule, Product) else repr(schedule)
