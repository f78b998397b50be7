"""Warm restarts begin at exactly their step: cycle i at steps (m^i - 1) / (m - 1), found here with integers alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from lrcore.schedules import CosineRestarts

FAR = 10**12
TINY = 1e-322
"""Below the smallest ordinary number, products round to multiples of 5e-324."""


def cycles(steps: int, mult: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and length of cycles up to 10^12: all that grow, and of equal ones the first and some more."""
    if mult > 1:
        cycle, start, length = 0, 0, steps
        while start <= FAR:
            yield cycle, start, length
            cycle, start, length = cycle + 1, start + length, length * mult
            assert start == steps * (mult**cycle - 1) // (mult - 1)
        return
    near_powers = (power + more for k in range(40) for power in (2**k, 10**k) for more in (-1, 0, 1))
    for cycle in sorted({*range(40), *near_powers, FAR // steps}):
        if 0 <= cycle <= FAR // steps:
            yield cycle, cycle * steps, steps


@pytest.mark.parametrize("steps", [1, 2, 7, 1000, 2**20 + 7, 10**9])
@pytest.mark.parametrize("mult", range(1, 11))
def test_each_cycle_starts_at_its_step_with_its_peak(mult: int, steps: int) -> None:
    """Not one step sooner: that is the last of the cycle before; and not one later, which is its second."""
    halved = CosineRestarts(0.3, steps, cycle_mult=mult, peak_mult=0.5)
    for cycle, start, length in cycles(steps, mult):
        peak = 0.3 * math.pow(0.5, cycle)
        assert halved(start) == peak
        for at in {length - 1, min(1, length - 1)} - {0}:
            share = (1 + math.cos(math.pi * (at / length))) / 2
            assert halved(start + at) == pytest.approx(peak * share, rel=4e-15, abs=1e-16 * peak + TINY)


@pytest.mark.parametrize("mult", range(2, 11))
def test_powers_where_a_floating_logarithm_slips(mult: int) -> None:
    """Every power of every base up to 10^30: one step before, at and after."""
    schedule = CosineRestarts(1.0, 1, cycle_mult=mult, peak_mult=0.5)
    start, length, cycle = 0, 1, 0
    while start < 10**30:
        assert schedule(start) == schedule([start])[0] == 0.5**cycle
        assert length <= 2 or schedule(start + length - 1) < 0.5 ** (cycle + 1)
        start, length, cycle = start + length, length * mult, cycle + 1
    assert mult != 3 or schedule(121) == 0.5**5
