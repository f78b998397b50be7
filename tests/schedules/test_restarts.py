"""Warm restarts begin at exactly their step.

That step is computed with integers here, because a floating-point logarithm can be off.
"""

from __future__ import annotations

import math

import pytest

from lrcore.schedules import CosineRestarts

TINY = 1e-322
"""Below the smallest normal number, products round to multiples of 5e-324."""


@pytest.mark.parametrize("steps", [1, 2, 7, 1000, 2**20 + 7, 10**9])
@pytest.mark.parametrize("mult", range(1, 11))
def test_each_cycle_starts_at_its_step_with_its_peak(mult: int, steps: int) -> None:
    """The step before is the last of the previous cycle, and the step after is the second of this one."""
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
