"""Each warm restart begins at exactly the right step.

The tests compute that step with integers, because a floating-point logarithm can be inexact.
"""

from __future__ import annotations

import math

import pytest

from lrcore.schedules import CosineRestarts

TINY = 1e-322
"""Absolute tolerance, because products below the smallest normal number round to multiples of 5e-324."""


@pytest.mark.parametrize("steps", [1, 2, 7, 1000, 2**20 + 7, 10**9])
@pytest.mark.parametrize("mult", range(1, 11))
def test_each_cycle_starts_at_its_step_with_its_peak(mult: int, steps: int) -> None:
    """The second and the last step of each cycle have the right rates, too."""
    halved = CosineRestarts(0.3, steps, cycle_mult=mult, peak_mult=0.5)
    near_powers = {base**k + more for base in (2, 10) for k in range(40) for more in (-1, 0, 1)}
    for cycle in range(100) if mult > 1 else sorted(near_powers):
        start = steps * ((mult**cycle - 1) // (mult - 1) if mult > 1 else cycle)
        length = steps * mult**cycle
        if start > 10**30:
            break
        peak = 0.3 * math.pow(0.5, cycle)
        assert halved(start) == halved([start])[0] == peak
        for at in {length - 1, min(1, length - 1)} - {0}:
            share = (1 + math.cos(math.pi * (at / length))) / 2
            assert halved(start + at) == pytest.approx(peak * share, rel=4e-15, abs=1e-16 * peak + TINY)
