"""The checks of the schedules' arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from lrcore._checks import flag, length, magnitude, shown, whole
from lrcore._lrcore_core import to_float

Check: TypeAlias = Callable[[str, Any], Any]
"""Takes the name of an argument and its value, and gives the value to keep."""


def rate(name: str, value: Any) -> float:
    """Check a rate that a schedule passes through; it may be too small for float32, and not too large."""
    checked = nonnegative(name, value)
    return magnitude(name, checked) if checked > 1 else checked


def nonnegative(name: str, value: Any) -> float:
    """Check a finite number >= 0."""
    checked = to_float(name, value)
    if not 0 <= checked < math.inf:
        raise ValueError(f"{name}: expected a finite number >= 0, got {checked}")
    return checked + 0.0  # -0.0 is 0.0, as for the optimizers' numbers


def listed(name: str, value: Any) -> tuple[Any, ...]:
    """Check a sequence."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected a sequence, got {type(value).__name__}")
    return tuple(value)


def positive(name: str, value: Any) -> float:
    """Check a finite number > 0."""
    checked = to_float(name, value)
    if not 0 < checked < math.inf:
        raise ValueError(f"{name}: expected a finite number > 0, got {checked}")
    return checked


def count(name: str, value: Any) -> int:
    """Check a number of steps that may be 0."""
    return length(name, value, least=0)


def one_of(*known: str) -> Check:
    """Give the check of a word."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {shown(value)}")
        return value

    return check


def optional(check: Check) -> Check:
    """Give a check that lets None pass."""
    return lambda name, value: None if value is None else check(name, value)


CHECKS: dict[str, Check] = (
    dict.fromkeys(("lr", "end", "peak", "base", "start"), rate)
    | dict.fromkeys(("low", "high", "k", "power", "power2", "scale", "pct_start"), nonnegative)
    | dict.fromkeys(("rate", "factor", "peak_mult", "gamma", "div", "final_div"), positive)
    | dict.fromkeys(("steps", "every", "up", "warmup", "decay", "steps_per_epoch"), length)
    | dict.fromkeys(("cycle_mult", "model_dim"), whole)
    | dict.fromkeys(("stable", "n"), count)
    | dict.fromkeys(("staircase", "cycle", "three_phase"), flag)
)
"""The check of every argument that means the same wherever it is taken."""
