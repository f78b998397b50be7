"""Schedules that rise and fall: once, or in cycles."""

from __future__ import annotations

import dataclasses
import itertools
from bisect import bisect_right
from collections.abc import Callable, Sequence
from math import cos, pi, sqrt
from typing import Any, ClassVar

from lrcore._arguments import length
from lrcore.schedules._base import Checked, argument, set_fields
from lrcore.schedules._checks import count, one_of, optional, rate


def _cycle_starts(steps: int, mult: int, last: int) -> list[int]:
    """Give where the cycles of `CosineRestarts` begin, up to the first that begins after t = last."""
    starts = [0]
    while starts[-1] <= last:
        starts.append(starts[-1] + steps)
        steps *= mult
    return starts


@dataclasses.dataclass(frozen=True, repr=False)
class CosineRestarts(Checked):
    """Fall along half a cosine to `end`, again and again: warm restarts.

    Cycle i takes ``steps cycle_mult^i`` steps and falls from ``lr peak_mult^i``.

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    steps : int
        The number of steps of the first cycle.
    cycle_mult : int
        How many times longer each cycle is than the one before.
    peak_mult : float
        What the peak is multiplied by from cycle to cycle, > 0.
    end : float
        What each cycle falls to.

    References
    ----------
    Loshchilov & Hutter 2017, "SGDR: Stochastic Gradient Descent with Warm Restarts".

    Examples
    --------
    >>> rates = CosineRestarts(0.1, steps=10, cycle_mult=2)
    >>> rates(0), rates(5)  # 10 steps
    (0.1, 0.05)
    >>> rates(10), rates(20), rates(30)  # 20 steps, and the next
    (0.1, 0.05, 0.1)
    """

    lr: float
    steps: int
    cycle_mult: int = 1
    peak_mult: float = 1.0
    end: float = 0.0

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
            starts = self._starts  # type: ignore[attr-defined]
            cycle = bisect_right(starts, t) - 1
            if cycle + 1 == len(starts):
                starts = _cycle_starts(self.steps, mult, t)
                cycle = len(starts) - 2
            start = starts[cycle]
            z = (t - start) / (starts[cycle + 1] - start)
        peak = self.lr if self.peak_mult == 1 else self.lr * self._power(self.peak_mult, cycle, t)
        return self.end + (peak - self.end) * (1 + cos(pi * z)) / 2


@dataclasses.dataclass(frozen=True, repr=False)
class Cyclic(Checked):
    """Rise from `low` to `high` along a line and fall back, for ever.

    Parameters
    ----------
    low, high : float
        The rates at the ends of the lines.
    up, down : int
        How many steps it rises and falls; `down` is `up` where it is left out.
    mode : {"triangular", "triangular2", "exp_range"}
        What the height is multiplied by: 1; 1/2 from cycle to cycle; ``gamma^t``.
    gamma : float
        > 0; acts with "exp_range".

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
    mode: str = "triangular"
    gamma: float = 1.0

    _checks: ClassVar = {
        "down": optional(length),
        "mode": one_of("triangular", "triangular2", "exp_range"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gamma != 1 and self.mode != "exp_range":
            raise ValueError(f"gamma: has no effect with mode {self.mode!r}; leave it out")

    def _value(self, t: int) -> float:
        whole = self.up + (self.down or self.up)
        cycle, into = divmod(t, whole)
        height = into / self.up if into <= self.up else (whole - into) / (whole - self.up)
        if self.mode == "triangular2":
            height *= 0.5**cycle
        elif self.mode == "exp_range":
            height *= self._power(self.gamma, t, t)
        return self.low + (self.high - self.low) * height


def _cosine(start: float, end: float, z: float) -> float:
    return end + (start - end) * (1 + cos(pi * z)) / 2


def _line(start: float, end: float, z: float) -> float:
    return start + (end - start) * z


def _root(start: float, end: float, z: float) -> float:
    return end + (start - end) * (1 - sqrt(z))


_SHAPES: dict[str, Callable[[float, float, float], float]] = {
    "cosine": _cosine,
    "linear": _line,
    "1-sqrt": _root,
}


@dataclasses.dataclass(frozen=True, repr=False)
class OneCycle(Checked):
    """Rise from ``peak / div`` to `peak` and fall to ``peak / div / final_div``, then hold that.

    The rise ends at ``a = pct_start steps - 1``, the fall at ``steps - 1``, as PyTorch has it. With `three_phase` it
    falls to ``peak / div`` until ``b = 2 pct_start steps - 2`` first.

    Parameters
    ----------
    peak : float
        The largest rate.
    steps : int
        Of the whole cycle.
    pct_start : float
        The share of the rise. Refused where a phase would have no length.
    div, final_div : float
        > 0.
    shape : {"cosine", "linear"}
        Half a cosine for each phase, or a line.
    three_phase : bool
        Fall in two phases.

    References
    ----------
    Smith & Topin 2018, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates".

    Examples
    --------
    >>> rates = OneCycle(0.5, steps=10, pct_start=0.5)
    >>> rates(0), rates(4), round(rates(9), 9)  # 0.5 / 25, the peak, 0.5 / 25 / 1e4
    (0.02, 0.5, 2e-06)
    """

    peak: float
    steps: int
    pct_start: float = 0.3
    div: float = 25.0
    final_div: float = 1e4
    shape: str = "cosine"
    three_phase: bool = False

    _checks: ClassVar = {"shape": one_of("cosine", "linear")}

    def __post_init__(self) -> None:
        super().__post_init__()
        start = self.peak / self.div
        rates = [start, self.peak, *([start] if self.three_phase else []), start / self.final_div]
        joints = [0.0, self.pct_start * self.steps - 1, self.steps - 1]
        if self.three_phase:
            joints.insert(2, 2 * self.pct_start * self.steps - 2)
        if any(later <= earlier for earlier, later in itertools.pairwise(joints)):
            raise ValueError(
                f"pct_start: {self.pct_start} of {self.steps} steps leaves a phase without length: joints at {joints}"
            )
        phases = [
            (*span, *ends)
            for span, ends in zip(itertools.pairwise(joints), itertools.pairwise(rates), strict=True)
        ]
        set_fields(self, _phases=phases, _last=rates[-1], _shape=_SHAPES[self.shape])

    def _value(self, t: int) -> float:
        for begin, end, start, last in self._phases:  # type: ignore[attr-defined]
            if t < end:  # the joints are exact
                return self._shape(start, last, (t - begin) / (end - begin)) if t != begin else start  # type: ignore[attr-defined, no-any-return]
            if t == end:
                return last  # type: ignore[no-any-return]
        return self._last  # type: ignore[attr-defined, no-any-return]


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class WarmupStableDecay(Checked):
    """Rise to `peak`, stay there, fall to `end`, and hold that.

    Step t of the rise is ``peak (t + 1) / warmup``, and the fall ``end + (peak - end) f(z)`` with z the share of it that is
    over.

    Parameters
    ----------
    peak : float
        The largest rate.
    warmup, stable, decay : int
        How many steps each part takes; the first two may be 0.
    end : float
        The last rate.
    shape : {"1-sqrt", "linear", "cosine"}
        f: ``1 - sqrt(z)``, ``1 - z``, ``(1 + cos(pi z)) / 2``.

    References
    ----------
    Hu et al. 2024, "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies". The
    shape "1-sqrt" is from Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations".

    Examples
    --------
    >>> rates = WarmupStableDecay(0.1, warmup=4, stable=4, decay=4)
    >>> rates(0), rates(3), rates(8), rates(9), rates(12)  # 0.1 / 4, the peak until 8, 0.1 (1 - sqrt(1/4)), the end
    (0.025, 0.1, 0.1, 0.05, 0.0)
    """

    peak: float
    warmup_steps: int = argument("warmup")
    stable: int = 0
    decay: int = 1
    end: float = 0.0
    shape: str = "1-sqrt"

    _checks: ClassVar = {"warmup": count, "shape": one_of(*_SHAPES)}

    def __init__(
        self, peak: float, warmup: int, stable: int, decay: int, end: float = 0.0, shape: str = "1-sqrt"
    ) -> None:
        set_fields(self, peak=peak, warmup_steps=warmup, stable=stable, decay=decay, end=end, shape=shape)
        self.__post_init__()

    def _value(self, t: int) -> float:
        if t < self.warmup_steps:
            return self.peak * ((t + 1) / self.warmup_steps)
        into = t - self.warmup_steps - self.stable
        if into <= 0:
            return self.peak
        return _SHAPES[self.shape](self.peak, self.end, into / self.decay) if into < self.decay else self.end


def _pairs(name: str, value: Any) -> tuple[tuple[float, int], ...]:
    """Check pairs of a rate and a number of steps."""
    try:
        pairs = [(lr, steps) for lr, steps in value]
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected pairs of a rate and a number of steps, got {value!r}") from None
    if not pairs:
        raise ValueError(f"{name}: expected at least one pair of a rate and a number of steps")
    return tuple((rate(name, lr), length(name, steps)) for lr, steps in pairs)


@dataclasses.dataclass(frozen=True, repr=False)
class CyclicStages(Checked):
    """Give ``lr_i`` for ``length_i`` steps, one stage after another, then again from the first.

    Parameters
    ----------
    stages : sequence of (float, int)
        The rate and the number of steps of each.

    References
    ----------
    None known. The values of `PiecewiseConstant`, again and again.

    Examples
    --------
    >>> rates = CyclicStages([(0.1, 2), (0.01, 1)])
    >>> [rates(t) for t in range(6)]
    [0.1, 0.1, 0.01, 0.1, 0.1, 0.01]
    """

    stages: Sequence[tuple[float, int]]

    _checks: ClassVar = {"stages": _pairs}

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, _whole=sum(steps for _, steps in self.stages))

    def _value(self, t: int) -> float:
        into: int = t % self._whole  # type: ignore[attr-defined]
        for lr, steps in self.stages:
            if into < steps:
                return lr
            into -= steps
        raise AssertionError


@dataclasses.dataclass(frozen=True, repr=False)
class PeriodicPulse(Checked):
    """Give ``lr_i`` of the first i with ``t mod T_i = 0``, else `base`.

    Parameters
    ----------
    base : float
        The rate between the pulses.
    pulses : sequence of (float, int)
        The rate and the period of each.

    References
    ----------
    None known. It is "every T_i steps take lr_i", taken literally.

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
