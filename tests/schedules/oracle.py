"""The schedules once more, each row of their table as a plain function of t and the constructor's arguments.

Written from the specification alone, in its order of operations. Where a hold, a peak or an end is named there,
it is that number itself, not what the formula rounds to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

Rate = Callable[[int], float]
Pairs = Sequence[tuple[float, int]]

EXACT = {"Constant", "PiecewiseConstant", "StepDecay", "CyclicStages", "PeriodicPulse", "Recursive"}
"""No more than one product of given numbers: equal, to the bit."""

DIFFERENCES = {
    "Linear",  # lr + (end - lr) z cancels where it comes near 0
    "Polynomial",  # and so does 1 - z
    "PolynomialProduct",
    "Cosine",  # 1 + cos near pi
    "CosineRestarts",
    "Cyclic",
    "OneCycle",
    "WarmupStableDecay",
    "Rex",
}
"""Right to a few bits of the largest rate; the others, which only multiply and divide, of the rate itself."""


def constant(_t: int, lr: float) -> float:
    return lr


def piecewise_constant(t: int, boundaries: Sequence[int], values: Sequence[float]) -> float:
    return values[sum(boundary <= t for boundary in boundaries)]


def step_decay(t: int, lr: float, every: int, factor: float = 0.1) -> float:
    return lr * math.pow(factor, t // every)


def exponential(t: int, lr: float, rate: float, steps: int = 1, staircase: bool = False) -> float:
    return lr * math.pow(rate, t // steps if staircase else t / steps)


def natural_exponential(t: int, lr: float, k: float) -> float:
    return lr * math.exp(-k * t)


def inverse_time(t: int, lr: float, k: float, steps: int = 1, staircase: bool = False) -> float:
    return lr / (1 + (k * (t // steps) if staircase else k * t / steps))


def linear(t: int, lr: float, end: float, steps: int) -> float:
    return end if t >= steps else lr + (end - lr) * (t / steps)


def polynomial(t: int, lr: float, steps: int, power: float = 1, end: float = 0, cycle: bool = False) -> float:
    total = steps * max(1, -(-t // steps)) if cycle else steps
    return (lr - end) * math.pow(1 - min(t, total) / total, power) + end


def polynomial_product(t: int, lr: float, steps: int, power: float, power2: float) -> float:
    if t >= steps - 1:
        return 0
    return lr * math.pow(1 - t / steps, power) * math.pow(1 - t / (steps - 1), power2)


def cosine(t: int, lr: float, steps: int, end: float = 0) -> float:
    return end if t >= steps else end + (lr - end) * (1 + math.cos(math.pi * (t / steps))) / 2


def cosine_restarts(
    t: int, lr: float, steps: int, cycle_mult: int = 1, peak_mult: float = 1, end: float = 0
) -> float:
    cycle, length = 0, steps
    if cycle_mult == 1:
        cycle, t = divmod(t, steps)
    while t >= length:
        cycle, t, length = cycle + 1, t - length, length * cycle_mult
    return cosine(t, max(lr * math.pow(peak_mult, cycle), min(lr, end)), length, end)


def cyclic(
    t: int,
    low: float,
    high: float,
    up: int,
    down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1,
) -> float:
    down = up if down is None else down
    cycle, r = divmod(t, up + down)
    tri = r / up if r <= up else (up + down - r) / down
    scale = {"triangular": 1.0, "triangular2": math.pow(0.5, cycle), "exp_range": math.pow(gamma, t)}[mode]
    return low + (high - low) * tri * scale


def one_cycle(
    t: int,
    peak: float,
    steps: int,
    pct_start: float = 0.3,
    div: float = 25,
    final_div: float = 1e4,
    shape: str = "cosine",
    three_phase: bool = False,
) -> float:
    start = peak / div
    end = start / final_div
    a, last = pct_start * steps - 1, steps - 1
    phases = [(0, a, start, peak), (a, last, peak, end)]
    if three_phase:
        b = 2 * pct_start * steps - 2
        phases[1:] = [(a, b, peak, start), (b, last, start, end)]
    for left, right, first, second in phases:
        if t < right:
            z = (t - left) / (right - left)
            return first + (second - first) * ((1 - math.cos(math.pi * z)) / 2 if shape == "cosine" else z)
    return end


def warmup_stable_decay(
    t: int, peak: float, warmup_steps: int, stable: int, decay: int, end: float = 0, shape: str = "1-sqrt"
) -> float:
    if t < warmup_steps:
        return peak * ((t + 1) / warmup_steps)
    if t < warmup_steps + stable:
        return peak
    z = (t - warmup_steps - stable) / decay
    if z >= 1:
        return end
    f = {"linear": 1 - z, "cosine": (1 + math.cos(math.pi * z)) / 2, "1-sqrt": 1 - math.sqrt(z)}[shape]
    return end + (peak - end) * f


def inverse_sqrt(t: int, peak: float, warmup_steps: int) -> float:
    return peak * min((t + 1) / warmup_steps, math.sqrt(warmup_steps / (t + 1)))


def noam(t: int, model_dim: int, warmup_steps: int, scale: float = 1) -> float:
    s = t + 1
    return scale * math.pow(model_dim, -0.5) * min(math.pow(s, -0.5), s * math.pow(warmup_steps, -1.5))


def cyclic_stages(t: int, stages: Pairs) -> float:
    t %= sum(length for _, length in stages)
    for rate, length in stages:
        if t < length:
            return rate
        t -= length
    raise AssertionError


def periodic_pulse(t: int, base: float, pulses: Pairs) -> float:
    return next((rate for rate, every in pulses if t % every == 0), base)


def rex(t: int, lr: float, steps: int, end: float = 0) -> float:
    z = min(t, steps) / steps
    return end + (lr - end) * (1 - z) / (1 - z / 2)


def recursive(t: int, fn: Callable[[int, float], float], lr: float) -> float:
    for step in range(t + 1):
        lr = fn(step, lr)
    return lr


ORACLES: dict[str, Callable[..., float]] = {
    "Constant": constant,
    "PiecewiseConstant": piecewise_constant,
    "StepDecay": step_decay,
    "Exponential": exponential,
    "NaturalExponential": natural_exponential,
    "InverseTime": inverse_time,
    "Linear": linear,
    "Polynomial": polynomial,
    "PolynomialProduct": polynomial_product,
    "Cosine": cosine,
    "CosineRestarts": cosine_restarts,
    "Cyclic": cyclic,
    "OneCycle": one_cycle,
    "WarmupStableDecay": warmup_stable_decay,
    "InverseSqrt": inverse_sqrt,
    "Noam": noam,
    "CyclicStages": cyclic_stages,
    "PeriodicPulse": periodic_pulse,
    "Rex": rex,
    "Recursive": recursive,
}


def of(name: str, *args: Any, **options: Any) -> Rate:
    """Return one row with its arguments as a function of t alone."""
    return lambda t: ORACLES[name](t, *args, **options)


# Composing.


def then(a: Rate, b: Rate, at: int) -> Rate:
    return lambda t: a(t) if t < at else b(t - at)


def warmup(s: Rate, steps: int, start: float | None = None) -> Rate:
    def rate(t: int) -> float:
        if t >= steps:
            return s(t - steps)
        return s(0) * ((t + 1) / steps) if start is None else start + (s(0) - start) * t / steps

    return rate


def times(a: Rate, b: Rate) -> Rate:
    return lambda t: a(t) * b(t)


def clip(s: Rate, low: float, high: float) -> Rate:
    return lambda t: min(max(s(t), low), high)


def shift(s: Rate, n: int) -> Rate:
    return lambda t: s(t + n)


def per_epoch(s: Rate, steps_per_epoch: int) -> Rate:
    return lambda t: s(t // steps_per_epoch)
