"""Schedules that rise, and then fall without an end."""

from __future__ import annotations

import dataclasses
from math import sqrt

from lrcore.schedules._base import Checked, argument, set_fields


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class InverseSqrt(Checked):
    """Rise to `peak` and fall with the root: ``peak min((t + 1) / warmup, sqrt(warmup / (t + 1)))``. It holds no end.

    Parameters
    ----------
    peak : float
        The largest rate, at t = warmup - 1.
    warmup : int
        The number of steps of the rise.

    References
    ----------
    Vaswani et al. 2017, "Attention Is All You Need", section 5.3, with a peak in place of the model's width; fairseq's
    ``inverse_sqrt`` falls like this.

    Examples
    --------
    >>> rates = InverseSqrt(0.1, warmup=100)
    >>> rates(49), rates(99), rates(399)
    (0.05, 0.1, 0.05)
    """

    peak: float
    warmup_steps: int = argument("warmup")

    def __init__(self, peak: float, warmup: int) -> None:
        set_fields(self, peak=peak, warmup_steps=warmup)
        self.__post_init__()

    def _value(self, t: int) -> float:
        return self.peak * min((t + 1) / self.warmup_steps, sqrt(self.warmup_steps / (t + 1)))


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Noam(Checked):
    """Give ``scale d^-0.5 min(s^-0.5, s warmup^-1.5)`` with ``s = t + 1``. It holds no end.

    Parameters
    ----------
    model_dim : int
        The width d of the model.
    warmup : int
        The number of steps of the rise.
    scale : float
        >= 0.

    References
    ----------
    Vaswani et al. 2017, "Attention Is All You Need", section 5.3.

    Examples
    --------
    >>> rates = Noam(model_dim=64, warmup=16)
    >>> rates(7), rates(15), rates(63)  # 1/64, 1/32, 1/64
    (0.015625, 0.03125, 0.015625)
    """

    model_dim: int
    warmup_steps: int = argument("warmup")
    scale: float = 1.0

    def __init__(self, model_dim: int, warmup: int, scale: float = 1.0) -> None:
        set_fields(self, model_dim=model_dim, warmup_steps=warmup, scale=scale)
        self.__post_init__()

    def _value(self, t: int) -> float:
        s = t + 1
        return float(self.scale * self.model_dim**-0.5 * min(s**-0.5, s * self.warmup_steps**-1.5))
