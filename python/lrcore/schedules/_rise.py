"""Schedules that rise once and then decay."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from math import cos, pi, sqrt
from typing import ClassVar, Literal, TypeAlias, get_args

from lrcore._checks import num_steps_or_zero, one_of
from lrcore._names import explain_keywords
from lrcore.schedules._base import Checked
from lrcore.schedules._formula import set_fields


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class InverseSqrt(Checked):
    """Rise linearly to `peak`, then decay with the inverse square root of the step. There is no final rate.

    ::

        s(t) = peak min((t + 1) / warmup_steps, sqrt(warmup_steps / (t + 1)))

    Parameters
    ----------
    peak : float
        The largest rate, at t = warmup_steps - 1.
    warmup_steps : int
        Number of steps during which the rate rises.

    References
    ----------
    Vaswani et al. 2017, "Attention Is All You Need", section 5.3, with the peak as a parameter instead of the model's
    width. fairseq's ``inverse_sqrt`` decays in the same way.

    Examples
    --------
    >>> rates = InverseSqrt(0.1, warmup_steps=100)
    >>> rates(49), rates(99), rates(399)
    (0.05, 0.1, 0.05)
    """

    peak: float
    warmup_steps: int

    def _value(self, t: int) -> float:
        return self.peak * min((t + 1) / self.warmup_steps, sqrt(self.warmup_steps / (t + 1)))


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Noam(Checked):
    """Rise linearly, then decay with the inverse square root of the step; the model's width determines the peak.

    ::

        s(t) = scale model_dim^-0.5 min((t + 1)^-0.5, (t + 1) warmup_steps^-1.5)

    There is no final rate.

    Parameters
    ----------
    model_dim : int
        Width of the model.
    warmup_steps : int
        Number of steps during which the rate rises.
    scale : float
        Factor by which all rates are multiplied, >= 0.

    References
    ----------
    Vaswani et al. 2017, "Attention Is All You Need", section 5.3.

    Examples
    --------
    >>> rates = Noam(model_dim=64, warmup_steps=16)
    >>> rates(7), rates(15), rates(63)  # 1/64, 1/32, 1/64
    (0.015625, 0.03125, 0.015625)
    """

    model_dim: int
    warmup_steps: int
    scale: float = 1.0

    def _value(self, t: int) -> float:
        s = t + 1
        return float(self.scale * self.model_dim**-0.5 * min(s**-0.5, s * self.warmup_steps**-1.5))


def _cosine(start: float, end: float, z: float) -> float:
    return end + (start - end) * (1 + cos(pi * z)) / 2


def _line(start: float, end: float, z: float) -> float:
    return start + (end - start) * z


def _root(start: float, end: float, z: float) -> float:
    return end + (start - end) * (1 - sqrt(z))


_Curve: TypeAlias = Callable[[float, float, float], float]

CycleShape: TypeAlias = Literal["cosine", "linear"]
DecayShape: TypeAlias = Literal["1-sqrt", "linear", "cosine"]

_CURVES: dict[DecayShape, _Curve] = {
    "cosine": _cosine,
    "linear": _line,
    "1-sqrt": _root,
}


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class OneCycle(Checked):
    """Rise from ``peak / div`` to `peak`, decay to ``peak / div / final_div``, then hold that rate.

    ::

        start = peak / div,   end = start / final_div,   a = pct_start steps - 1
        cosine    f(z) = (1 + cos(pi z)) / 2
        linear    f(z) = 1 - z
        t <= a    s(t) = peak + (start - peak) f(t / a)
        else      s(t) = end + (peak - end) f(min((t - a) / (steps - 1 - a), 1))

    The phases meet at the same t as in PyTorch. With `three_phase`, the rate decays first to `start`, until
    ``t = 2 pct_start steps - 2``, and then to `end`.

    Parameters
    ----------
    peak : float
        The largest rate.
    steps : int
        Total number of steps.
    pct_start : float
        Fraction of the steps spent rising. ValueError is raised if the length of a phase would not be positive.
    div, final_div : float
        Ratio of `peak` to the first rate, and of the first rate to the last one, > 0.
    shape : {"cosine", "linear"}
        Whether each phase is half a cosine or a line.
    three_phase : bool
        Whether to decay in two phases.

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
    shape: CycleShape = "cosine"
    three_phase: bool = False
    _phases: list[tuple[float, float, float, float]] = dataclasses.field(
        init=False, repr=False, compare=False
    )
    _last: float = dataclasses.field(init=False, repr=False, compare=False)
    _shape: _Curve = dataclasses.field(init=False, repr=False, compare=False)

    _checks: ClassVar = {"shape": one_of(*get_args(CycleShape))}

    def __post_init__(self) -> None:
        super().__post_init__()
        start = self.peak / self.div
        rates = [start, self.peak, *([start] if self.three_phase else []), start / self.final_div]
        joints = [0.0, self.pct_start * self.steps - 1, self.steps - 1]
        if self.three_phase:
            joints.insert(2, 2 * self.pct_start * self.steps - 2)
        if any(later <= earlier for earlier, later in itertools.pairwise(joints)):
            raise ValueError(
                f"pct_start: expected phases of positive length, got {self.pct_start} of {self.steps} steps, "
                f"with phases from t = {' to '.join(map(str, joints))}"
            )
        phases = [
            (*span, *ends)
            for span, ends in zip(itertools.pairwise(joints), itertools.pairwise(rates), strict=True)
        ]
        set_fields(self, _phases=phases, _last=rates[-1], _shape=_CURVES[self.shape])

    def _value(self, t: int) -> float:
        for begin, end, start, last in self._phases:
            if t < end:  # exact where two phases meet
                return self._shape(start, last, (t - begin) / (end - begin)) if t != begin else start
            if t == end:
                return last
        return self._last


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class WarmupStableDecay(Checked):
    """Rise linearly to `peak`, stay there, decay to `end`, and hold `end`.

    ::

        z = min(t - warmup_steps - stable, decay) / decay
        1-sqrt                 f(z) = 1 - sqrt(z)
        linear                 f(z) = 1 - z
        cosine                 f(z) = (1 + cos(pi z)) / 2
        t < warmup_steps             s(t) = peak (t + 1) / warmup_steps
        t < warmup_steps + stable    s(t) = peak
        else                         s(t) = end + (peak - end) f(z)

    Parameters
    ----------
    peak : float
        The largest rate.
    warmup_steps, stable, decay : int
        Number of steps of each part. The first two may be 0.
    end : float
        The final rate.
    shape : {"1-sqrt", "linear", "cosine"}
        The function f of the decay: ``1 - sqrt(z)``, ``1 - z`` or ``(1 + cos(pi z)) / 2``.

    References
    ----------
    Hu et al. 2024, "MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies". The
    shape "1-sqrt" is from Hägele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations".

    Examples
    --------
    >>> rates = WarmupStableDecay(0.1, warmup_steps=4, stable=4, decay=4)
    >>> rates(0), rates(3), rates(8), rates(9), rates(12)  # 0.1 / 4, the peak until 8, 0.1 (1 - sqrt(1/4)), the end
    (0.025, 0.1, 0.1, 0.05, 0.0)
    """

    peak: float
    warmup_steps: int
    stable: int
    decay: int
    end: float = 0.0
    shape: DecayShape = "1-sqrt"

    _checks: ClassVar = {"warmup_steps": num_steps_or_zero, "shape": one_of(*get_args(DecayShape))}

    def _value(self, t: int) -> float:
        if t < self.warmup_steps:
            return self.peak * ((t + 1) / self.warmup_steps)
        into = t - self.warmup_steps - self.stable
        if into <= 0:
            return self.peak
        return _CURVES[self.shape](self.peak, self.end, into / self.decay) if into < self.decay else self.end
