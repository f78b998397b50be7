"""Find how many steps of a schedule are worth drawing, from its values."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from lrcore.schedules import Schedule

DEFAULT = 1000
"""Number of steps to draw if the values of a schedule suggest none."""

_LATEST = 10**9
"""The last step that is examined."""
_LONGEST_PERIOD = 100_000
_CANDIDATES = 100
"""Number of possible periods that are compared with all rates, which takes a millisecond each."""
_SMALL = 0.3
"""A rate that falls forever is drawn for twice the time that it takes to fall to this fraction of its highest value."""


def duration(schedule: Schedule) -> int:
    """Return the number of steps to draw: enough to show the end, most of the decay, or four periods."""
    try:
        with np.errstate(all="ignore"):
            return _duration(schedule)
    except (ArithmeticError, ValueError):  # a rate overflows at late steps
        return DEFAULT


def _duration(schedule: Schedule) -> int:
    end = _last_change(schedule, 0.0)
    if end == 0:
        return DEFAULT
    decayed = _last_change(schedule, _SMALL * schedule(_steps(0, _LATEST)).max())
    if end < _LATEST // 2 and (end < 10 * decayed or decayed == 0):
        return end + math.ceil(end / 10)
    if 0 < decayed < _LATEST // 2:
        return 2 * decayed
    return 4 * _period(schedule) or DEFAULT


def _steps(first: int, last: int) -> NDArray[np.int64]:
    """Return irregularly spaced steps from `first` to `last`, both included, which are dense near `first`."""
    distances = np.unique(np.geomspace(1, max(last - first, 1), 200).astype(np.int64))
    return np.append(first, first + distances)


def _last_change(schedule: Schedule, tolerance: float) -> int:
    """Return the first step at and after which all rates are within `tolerance` of the rate at the last step."""
    last_rate = schedule(_LATEST)
    first, last = 0, _LATEST
    while True:
        steps = _steps(first, last)
        (differing,) = np.nonzero(~(np.abs(schedule(steps) - last_rate) <= tolerance))
        if not len(differing):
            return first
        first, following = int(steps[differing[-1]]), int(steps[min(differing[-1] + 1, len(steps) - 1)])
        if following <= first + 1:
            return following
        last = following


def _period(schedule: Schedule) -> int:
    """Return the period of the rates, or 0 if none is found."""
    rates = schedule(np.arange(2 * _LONGEST_PERIOD))
    first = rates[:_LONGEST_PERIOD]
    changes = np.flatnonzero(first[1:] != first[:-1])
    if not len(changes):
        return 0
    k = changes[0]  # a period later, the rates before and after the first change occur again
    before, after = (rates[k + i : k + i + _LONGEST_PERIOD + 1] for i in (0, 1))
    alike = np.isclose(before, before[0], rtol=1e-9) & np.isclose(after, after[0], rtol=1e-9)
    candidates = 1 + np.flatnonzero(alike[1:])
    return next(
        (
            int(n)
            for n in candidates[:_CANDIDATES]
            if np.allclose(rates[n : n + len(first)], first, rtol=1e-9)
        ),
        0,
    )
