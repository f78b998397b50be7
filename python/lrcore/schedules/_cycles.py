"""Schedules that rise and fall repeatedly."""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from math import cos, pi
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from lrcore._checks import num_steps, one_of, optional, rate
from lrcore._names import explain_keywords
from lrcore.schedules._base import Checked
from lrcore.schedules._formula import set_fields

CyclicMode: TypeAlias = Literal["triangular", "triangular2", "exp_range"]


def _cycle_starts(steps: int, mult: int, last: int) -> list[int]:
    """Return the steps at which the cycles of `CosineRestarts` begin, up to the first one after `last`."""
    starts = [0]
    while starts[-1] <= last:
        starts.append(starts[-1] + steps)
        steps *= mult
    return starts


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class CosineRestarts(Checked):
    """Decay to `end` along half a cosine, repeatedly (warm restarts).

    ::

        z = (t - t_i) / (steps cycle_mult^i)
        peak = max(lr peak_mult^i, min(lr, end))
        s(t) = end + (peak - end) (1 + cos(pi z)) / 2

    Cycles are numbered i = 0, 1, and so on; ``t_i`` is the first step of cycle i. If `peak_mult` would reduce a peak
    below `end`, the schedule holds `end` from then on.

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    steps : int
        Number of steps of the first cycle.
    cycle_mult : int
        Ratio of the length of each cycle to the length of the previous one.
    peak_mult : float
        Factor by which the peak is multiplied after each cycle, > 0.
    end : float
        The rate at the end of each cycle. If it is above `lr`, the first cycle rises, and no cycle begins below `lr`.

    References
    ----------
    Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts".

    Examples
    --------
    >>> rates = CosineRestarts(0.1, steps=10, cycle_mult=2)
    >>> rates(0), rates(5)  # a cycle of 10 steps
    (0.1, 0.05)
    >>> rates(10), rates(20), rates(30)  # a cycle of 20 steps, and the next one
    (0.1, 0.05, 0.1)
    """

    lr: float
    steps: int
    cycle_mult: int = 1
    peak_mult: float = 1.0
    end: float = 0.0
    _starts: list[int] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cycle_mult > 1:
            set_fields(self, _starts=_cycle_starts(self.steps, self.cycle_mult, 2**64))

    def _value(self, t: int) -> float:
        mult = self.cycle_mult
        if mult == 1:
            cycle, into = divmod(t, self.steps)
            z = into / self.steps
        else:
            starts = self._starts
            cycle = bisect_right(starts, t) - 1
            if cycle + 1 == len(starts):
                starts = _cycle_starts(self.steps, mult, t)
                cycle = len(starts) - 2
            start = starts[cycle]
            z = (t - start) / (starts[cycle + 1] - start)
        peak = self.lr if self.peak_mult == 1 else self.lr * self._power(self.peak_mult, cycle, t)
        peak = max(peak, min(self.lr, self.end))
        return self.end + (peak - self.end) * (1 + cos(pi * z)) / 2


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Cyclic(Checked):
    """Rise linearly from `low` to `high` and fall back, forever.

    ::

        i = floor(t / (up + down)),   r = mod(t, up + down)
        r <= up        x = r / up
        else           x = (up + down - r) / down
        triangular     s(t) = low + (high - low) x
        triangular2    s(t) = low + (high - low) x / 2^i
        exp_range      s(t) = low + (high - low) x gamma^t

    Parameters
    ----------
    low, high : float
        The rates at the beginning and at the end of each rise. Unless `mode` is "triangular", the latter may change
        from rise to rise.
    up, down : int
        Number of steps of the rise and of the fall. `down` defaults to `up`.
    mode : {"triangular", "triangular2", "exp_range"}
        Whether the height ``high - low`` stays the same, is halved after each cycle, or is multiplied by ``gamma^t``.
    gamma : float
        Base of ``gamma^t``, > 0. Only used if `mode` is "exp_range". Above 1, the height grows without bound and the
        rate eventually overflows. ValueError is raised if `gamma` is above 1 and `high` is below `low`, because the
        rate would become negative.

    References
    ----------
    Smith 2017, "Cyclical Learning Rates for Training Neural Networks".

    Examples
    --------
    >>> rates = Cyclic(0.0, 0.4, up=2, mode="triangular2")
    >>> [rates(t) for t in range(9)]
    [0.0, 0.2, 0.4, 0.2, 0.0, 0.1, 0.2, 0.1, 0.0]
    """

    low: float
    high: float
    up: int
    down: int | None = None
    mode: CyclicMode = "triangular"
    gamma: float = 1.0

    _checks: ClassVar = {
        "low": rate,
        "high": rate,
        "down": optional(num_steps),
        "mode": one_of(*get_args(CyclicMode)),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma != 1 and self.mode != "exp_range":
            raise ValueError(f"gamma: has no effect with mode {self.mode!r}; leave it out")
        if self.gamma > 1 and self.high < self.low:
            raise ValueError(
                f"gamma: expected at most 1 with high = {self.high} below low = {self.low}, got {self.gamma}; "
                "the rate would become negative"
            )

    def _value(self, t: int) -> float:
        period = self.up + (self.down or self.up)
        cycle, into = divmod(t, period)
        height = into / self.up if into <= self.up else (period - into) / (period - self.up)
        if self.mode == "triangular2":
            height *= 0.5**cycle
        elif self.mode == "exp_range":
            height *= self._power(self.gamma, t, t)
        return self.low + (self.high - self.low) * height


def _pairs(name: str, value: Any) -> tuple[tuple[float, int], ...]:
    """Check pairs of a rate and a number of steps."""
    try:
        pairs = [(lr, steps) for lr, steps in value]
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected pairs of a rate and a number of steps, got {value!r}") from None
    if not pairs:
        raise ValueError(f"{name}: expected at least one pair of a rate and a number of steps")
    return tuple((rate(name, lr), num_steps(name, steps)) for lr, steps in pairs)


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class CyclicStages(Checked):
    """Hold the rate of each stage for its number of steps, then start again from the first stage.

    ::

        s(t) = lr_i

    Stage i is the stage that contains t.

    Parameters
    ----------
    stages : sequence of (float, int)
        The rate and the number of steps of each stage.

    References
    ----------
    None known. This is a `PiecewiseConstant` that repeats.

    Examples
    --------
    >>> rates = CyclicStages([(0.1, 2), (0.01, 1)])
    >>> [rates(t) for t in range(6)]
    [0.1, 0.1, 0.01, 0.1, 0.1, 0.01]
    """

    stages: Sequence[tuple[float, int]]
    _period: int = dataclasses.field(init=False, repr=False, compare=False)

    _checks: ClassVar = {"stages": _pairs}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, _period=sum(steps for _, steps in self.stages))

    def _value(self, t: int) -> float:
        into = t % self._period
        for lr, steps in self.stages:
            if into < steps:
                return lr
            into -= steps
        raise AssertionError


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class PeriodicPulse(Checked):
    """Use the rate of the first pulse whose period divides t, otherwise `base`.

    ::

        mod(t, T_i) = 0    s(t) = lr_i
        else               s(t) = base

    Parameters
    ----------
    base : float
        The rate between the pulses.
    pulses : sequence of (float, int)
        The rate and the period, in steps, of each pulse.

    References
    ----------
    None known. This is a literal reading of "use lr_i every T_i steps".

    Examples
    --------
    >>> rates = PeriodicPulse(0.01, [(0.5, 4), (0.1, 2)])
    >>> [rates(t) for t in range(6)]
    [0.5, 0.01, 0.1, 0.01, 0.5, 0.01]
    """

    base: float
    pulses: Sequence[tuple[float, int]]

    _checks: ClassVar = {"pulses": _pairs}

    def _value(self, t: int) -> float:
        for lr, period in self.pulses:
            if t % period == 0:
                return lr
        return self.base
