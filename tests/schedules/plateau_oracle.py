"""`Plateau` once more, from its description: a replay of all metrics in exact arithmetic, with no state between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TypeAlias

Judged: TypeAlias = Fraction | float | None
"""An exact number, an infinity, or None for one that cannot improve."""


def judged(metrics: Sequence[float], statistic: str, window: int) -> list[Judged]:
    """Return what is compared with the best: nothing for a metric before the window is full."""
    values: list[Judged] = []
    for i, metric in enumerate(metrics):
        numbers = [each for each in metrics[: i + 1] if not math.isnan(each)]
        if statistic == "mean" and len(numbers) < window:
            continue
        last = numbers[-window:] if statistic == "mean" else [metric]
        if math.isnan(metric):
            values.append(None)
        elif any(math.isinf(each) for each in last):
            values.append(sum(last))  # of one sign
        else:
            values.append(sum(map(Fraction, last), Fraction(0)) / len(last))
    return values


def beats(value: Judged, best: Judged, margin: Callable[[Fraction], Fraction]) -> bool:
    """Tell whether a value is less than the best by more than a margin of it."""
    if value is None:
        return False
    if best is None:
        return True
    if not isinstance(best, Fraction):
        return isinstance(value, Fraction) or value < best
    return best - value > margin(best) if isinstance(value, Fraction) else value < 0


def reductions(
    metrics: Sequence[float],
    *,
    patience: int = 10,
    mode: str = "min",
    threshold: float = 1e-4,
    threshold_mode: str = "rel",
    cooldown: int = 0,
    statistic: str = "best",
    window: int = 1,
) -> int:
    """Return how many reductions the metrics make."""
    allowed = Fraction(threshold)
    best: Judged = None
    count = without = rest = 0
    for each in judged(metrics, statistic, window):
        value = -each if mode == "max" and each is not None else each
        improved = beats(value, best, lambda b: allowed * abs(b) if threshold_mode == "rel" else allowed)
        if improved:
            best = value
        if rest > 0:
            rest -= 1
        elif improved:
            without = 0
        else:
            without += 1
            if without == patience + 1:
                count, without, rest = count + 1, 0, cooldown
    return count


def rate(lr: float, k: int, factor: float = 0.1, min_lr: float = 0.0) -> float:
    """Return the rate after k reductions where the schedule's is lr."""
    return max(lr * factor**k, min(min_lr, lr))
