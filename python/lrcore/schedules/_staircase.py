"""Schedules that hold each rate for a number of steps."""

from __future__ import annotations

import dataclasses
import itertools
from bisect import bisect_right
from collections.abc import Sequence

from lrcore._checks import num_steps, rate, sequence
from lrcore._names import explain_keywords
from lrcore.schedules._base import Checked
from lrcore.schedules._formula import set_fields


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class PiecewiseConstant(Checked):
    """Use one value after another: ``values[i]`` if exactly i of the boundaries are <= t.

    ::

        s(t) = values_i

    Parameters
    ----------
    boundaries : sequence of int
        Increasing step numbers. The next value begins at t = boundary.
    values : sequence of float
        The rates, one more than there are boundaries.

    References
    ----------
    He et al. 2016, "Deep Residual Learning for Image Recognition", section 4.2, divides the rate by 10 at two
    steps. The arguments are named as in Keras' ``PiecewiseConstantDecay``, which switches one step later.

    Examples
    --------
    >>> rates = PiecewiseConstant([10, 20], [0.1, 0.01, 0.001])
    >>> rates(9), rates(10), rates(20)
    (0.1, 0.01, 0.001)
    """

    boundaries: Sequence[int]
    values: Sequence[float]

    def __post_init__(self) -> None:
        boundaries = tuple(num_steps("boundaries", each) for each in sequence("boundaries", self.boundaries))
        values = tuple(rate("values", each) for each in sequence("values", self.values))
        if any(later <= earlier for earlier, later in itertools.pairwise(boundaries)):
            raise ValueError(f"boundaries: expected increasing numbers, got {boundaries}")
        if len(values) != len(boundaries) + 1:
            raise ValueError(
                f"values: expected {len(boundaries) + 1} values, one more than boundaries, got {len(values)}"
            )
        set_fields(self, boundaries=boundaries, values=values)

    def _value(self, t: int) -> float:
        return self.values[bisect_right(self.boundaries, t)]


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class StepDecay(Checked):
    """Multiply the rate by `factor` each time that `every` steps have passed.

    ::

        s(t) = lr factor^floor(t / every)

    Parameters
    ----------
    lr : float
        The rate at t = 0.
    every : int
        Number of steps between two changes.
    factor : float
        Factor by which the rate is multiplied, > 0.

    References
    ----------
    Szegedy et al. 2015, "Going Deeper with Convolutions", section 6: a rate that falls by 4 % every 8 epochs.
    PyTorch's ``StepLR`` is the same.

    Examples
    --------
    >>> halving = StepDecay(0.1, every=10, factor=0.5)
    >>> halving(9), halving(10), halving(20)
    (0.1, 0.05, 0.025)
    """

    lr: float
    every: int
    factor: float = 0.1

    def _value(self, t: int) -> float:
        return self.lr * self._power(self.factor, t // self.every, t)
