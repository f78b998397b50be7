"""What a training's loss curve says about its learning rate."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lrcore._checks import vector
from lrcore._lrcore_core import to_float
from lrcore._names import explain_keywords

__all__ = ["Diagnosis", "diagnose"]

Floats: TypeAlias = NDArray[np.float64]

Verdict: TypeAlias = Literal["diverging", "oscillating", "barely moving", "sound", "unclear"]

LEAST = 20
"""Losses that `diagnose` needs, for eight levels of two or three and a noise from ten differences. Of 20, 2 % of flat
noisy curves are called diverging or oscillating; of 12 it is 4 %, of 46 below 1 %."""

# The thresholds were chosen on trainings of a small network, and then tried on other seeds, optimizers and lengths. At
# the borders they err towards "sound" and "unclear".
EXPLODED = 300.0
"""Overshoot above which the rate was too large whatever came after. RMSprop and Adagrad, whose first steps are their
largest, reach 150 at rates that end well."""
OVERSHOT = 3.5
"""Overshoot from which a curve that is STUCK was thrown there. Flat curves, one image a batch included, reach 2.5."""
STUCK = 8.0
"""Fall, in noises, of a curve that learned little. At sound rates it is 10 and more in batches of 64. Also the change of
the mean, in standard errors, that outliers as large as the fall may hide. At sound rates it is 16 and more then."""
REBOUND = 0.2
"""Share of the deepest fall that was lost again. At sound rates it is below 0.1."""
REBOUND_ERRORS = 5.0
"""Standard errors of a level that a rebound exceeds: the lowest of eight levels lies low by chance."""
FLAT = 3.0
"""Fall, in noises, below which the first loss may just have been high by chance; and change of a mean, in standard
errors, below which it may be chance."""
TO_AND_FRO = 0.1
"""Alternation of a loss that jumps between two levels. Of ten noisy differences it is never that small."""
LIFTED = 10.0
"""Noises that no loss exceeds both the first and the last level where the rate is too small."""
TAILS = (2.5, 30.0)
"""Noises that the tail is at least, for short curves show little of it, and at most, for a batch of hard examples does
not reach that far. A lower peak is not called an overshoot either."""
LATE_SHARE = 0.35
"""A straight line has 0.5, an exponential that falls to a tenth 0.32."""
LATE_PACE = (0.25, 2.0)
"""A straight line has 1, that exponential 0.43, a plateau after a late fall 0; above 2 the fall has only begun."""
ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Relative changes that float32 arithmetic makes to a loss."""
NAMES = (
    "first", "last", "lowest", "peak", "smallest", "final", "start", "end", "noise", "tail", "fall", "moved",
    "sag", "overshoot", "overshoot_noises", "rebound", "rebound_errors", "late_share", "late_pace", "alternation",
    "turns", "finite",
)  # fmt: skip
"""The evidence, as `Diagnosis` defines it."""


@explain_keywords
@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What a loss curve says about the learning rate.

    Attributes
    ----------
    verdict : str
        "diverging" or "oscillating": the rate looks too large; "barely moving": too small; "sound"; or "unclear": the
        losses do not show which of these it is.
    evidence : dict of str to float
        What the verdict rests on. In the unit of the losses:

        - ``first``: the first loss, or the median of the first three where that is lower.
        - ``last``: the median of the last eighth of the losses.
        - ``lowest``: the lowest median of an eighth.
        - ``peak``: the largest loss.
        - ``smallest``: the smallest loss.
        - ``final``: the last loss, or the median of the last three if that is lower.
        - ``start``: the mean of the first eighth of the losses.
        - ``end``: the mean of the last eighth.
        - ``noise``: the standard deviation of a loss about the curve, from the median difference of neighbours in
          the second half, or where most of them are equal from the mean square; at least what float32 rounds.
        - ``tail``: how far the largest loss of a half exceeds its median, in the half where that is less; at least 2.5
          and at most 30 noises.

        Numbers without unit:

        - ``fall``: first - last, over the noise.
        - ``moved``: start - end, over its standard error; from the noise, or from the standard deviation within an
          eighth if that is larger.
        - ``sag``: the middle between start and end, less the mean of all losses, over half the standard error of
          start - end; about 0 for a straight line, positive where the loss levels off.
        - ``overshoot``: peak - the first loss, over first - last or the tail, the larger of them.
        - ``overshoot_noises``: peak - the first loss, over the noise of the half in which the peak is.
        - ``rebound``: last - lowest, over first - lowest or the noise, the larger of them.
        - ``rebound_errors``: last - lowest, over the standard error of a level.
        - ``late_share``: what the median fell from the middle third to the last, over its fall from the first third to
          the last or a quarter of first - last, the larger of them; 0.5 for a straight line, 0 where nothing fell.
        - ``late_pace``: the slope of a line through the last third, over the mean slope between the first third and
          the last, with the same larger of two; 1 for a straight line, 0 where nothing fell.
        - ``alternation``: the median difference of losses two steps apart, over that of neighbours, in the second half; 1
          for noise, 0 for a loss that jumps to and fro.
        - ``turns``: how often the loss turns from falling to rising or back, over how often it could, in the second half;
          changes that float32 rounds are left out. 2/3 for noise, 0 for a curve without any.
        - ``finite``: the share of the losses before the first that is NaN or infinite.

        With a loss that is not finite, all but ``finite`` are NaN.
    reason : str
        Why, with these numbers: a sentence.
    advice : str
        What to try next: a sentence.
    """

    verdict: Verdict
    evidence: dict[str, float]
    reason: str
    advice: str

    def __str__(self) -> str:
        return f"{self.verdict}\n{self.reason}\n{self.advice}"


def _rates(value: Any, steps: int) -> Floats:
    """Check the rates, and return one for each step."""
    one = np.isscalar(value) or (isinstance(value, np.ndarray) and value.ndim == 0)
    rates = np.full(steps, to_float("lrs", value)) if one else vector("lrs", value)
    if rates.shape != (steps,):
        raise ValueError(f"lrs: expected a number or {steps} rates, one a loss, got shape {rates.shape}")
    if not (np.isfinite(rates) & (rates >= 0)).all():
        raise ValueError("lrs: expected finite rates >= 0")
    return rates


def _ratio(top: float, bottom: float) -> float:
    """Divide; 0 over 0 is 0, and another number over 0 infinite."""
    if bottom != 0:
        return top / bottom
    return math.copysign(math.inf, top) if top else 0.0


def noise_of(losses: Floats, order: int) -> float:
    """Return the standard deviation of losses about their curve, from their differences of this order.

    From the median difference, which outliers do not move; or, if most differences are 0, from the mean square.
    """
    differences = np.diff(losses, order)
    # differences of independent numbers have so many times their standard deviation
    scale = math.sqrt(math.comb(2 * order, order))
    half_lie_within = 0.6745  # standard deviations of a normal distribution
    deviation = float(np.median(abs(differences))) / half_lie_within or math.sqrt(np.mean(differences**2))
    return deviation / scale


def _progress(rates: Floats | None, steps: int) -> Floats:
    """Return how far through the training each step is, from 0 to 1, by the sum of the rates until then.

    Without rates, or with fewer than four steps in a third of that sum, by the number of steps.
    """
    even = (np.arange(steps) + 0.5) / steps
    if rates is None or not rates.max() > 0:
        return even
    rates = rates / rates.max()
    progress: Floats = (np.cumsum(rates) - rates / 2) / rates.sum()
    return progress if np.histogram(progress, 3, (0, 1))[0].min() >= 4 else even


def _measure(losses: Floats, rates: Floats | None) -> dict[str, float]:
    """Return the evidence of finite losses."""
    scale = float(abs(losses).max()) or 1.0  # so that no difference overflows
    curve = losses / scale
    first, peak = float(min(curve[0], np.median(curve[:3]))), float(curve.max())
    eighths = np.array_split(curve, 8)
    levels = [float(np.median(each)) for each in eighths]
    last, lowest = levels[-1], min(levels)
    final = float(min(curve[-1], np.median(curve[-3:])))

    halves = np.array_split(curve, 2)
    steps = np.diff(halves[1])
    neighbours = float(np.median(abs(steps)))
    apart = float(np.median(abs(halves[1][2:] - halves[1][:-2])))
    rounding = ROUNDING * float(np.median(abs(curve)))
    noise = max(noise_of(halves[1], 1), rounding)
    peak_noise = max(noise_of(next(half for half in halves if half.max() == peak), 1), rounding)
    directions = steps[abs(steps) > rounding] > 0
    turns = float(np.mean(directions[1:] != directions[:-1])) if len(directions) > 1 else 0.0
    tail = min(float(half.max() - np.median(half)) for half in halves)
    tail = min(max(tail, TAILS[0] * noise), TAILS[1] * noise)
    means = eighths[0], eighths[-1]
    start, end = (float(each.mean()) for each in means)
    moved_error = math.hypot(*(max(noise, float(each.std())) / math.sqrt(len(each)) for each in means))
    level_error = 1.25 * noise / math.sqrt(len(curve) / 8)  # of the median of normal numbers

    done = _progress(rates, len(curve))
    thirds = np.minimum(3 * done, 2).astype(int)
    early, middle, late = (float(np.median(curve[thirds == each])) for each in range(3))
    along = done[thirds == 2] - done[thirds == 2].mean()
    slope = _ratio(float(along @ curve[thirds == 2]), float(along @ along))  # of least squares
    fell = max(early - late, (first - last) / 4)
    return {
        "first": first * scale,
        "last": last * scale,
        "lowest": lowest * scale,
        "peak": peak * scale,
        "smallest": float(curve.min()) * scale,
        "final": final * scale,
        "start": start * scale,
        "end": end * scale,
        "noise": noise * scale,
        "tail": tail * scale,
        "fall": _ratio(first - last, noise),
        "moved": _ratio(start - end, moved_error),
        "sag": _ratio((start + end) / 2 - float(curve.mean()), moved_error / 2),
        "overshoot": _ratio(peak - float(curve[0]), max(first - last, tail)),
        "overshoot_noises": _ratio(peak - float(curve[0]), peak_noise),
        "rebound": _ratio(last - lowest, max(first - lowest, noise)),
        "rebound_errors": _ratio(last - lowest, level_error),
        "late_share": (middle - late) / fell if fell > 0 else 0.0,
        "late_pace": -slope * 2 / 3 / fell if fell > 0 else 0.0,
        "alternation": apart / neighbours if neighbours > rounding else 1.0,
        "turns": turns,
        "finite": 1.0,
    }


def _judge(found: dict[str, float]) -> tuple[Verdict, str]:
    """Return the verdict and its reason."""
    told = {name: f"{value:.3g}" for name, value in found.items()}
    if found["finite"] < 1:
        return "diverging", f"After {found['finite']:.1%} of the steps the loss was no longer finite."
    if found["peak"] - found["smallest"] <= ROUNDING * abs(found["peak"]):
        return "unclear", (
            f"The loss was {told['last']} at every step: it did not move at all, and the gradients may not arrive."
        )
    path = f"from {told['first']} to {told['last']}"
    noises = f"{told['fall']} times its noise of {told['noise']}"
    means = (
        f"The mean loss went from {told['start']} to {told['end']}, {told['moved']} times its standard error"
    )
    ended_above = found["final"] > found["first"]
    upward: Verdict = "diverging" if found["last"] > found["first"] or ended_above else "oscillating"
    exploded = found["overshoot"] > EXPLODED
    overshot = found["overshoot"] > OVERSHOT and found["fall"] < STUCK
    over_peak = f"The loss went {path} by way of a peak of {told['peak']}"
    if exploded or (overshot and found["overshoot_noises"] > TAILS[1]):
        return "diverging" if exploded else upward, f"{over_peak}, an overshoot of {told['overshoot']}."
    rebounded = found["rebound"] > REBOUND and found["rebound_errors"] > REBOUND_ERRORS
    if rebounded or (found["fall"] >= FLAT and ended_above):
        return upward, (
            f"The loss went from {told['first']} to {told['lowest']} and rose again to {told['last']}, "
            f"a rebound of {told['rebound']}; it ended at {told['final']}."
        )
    if overshot:
        return (
            "unclear",
            f"{over_peak}, which may be an outlier: {told['overshoot_noises']} noises above the first loss.",
        )
    if found["fall"] < FLAT and found["alternation"] < TO_AND_FRO:
        return "oscillating", f"The loss went {path}, and jumped to and fro by {told['noise']} all the while."
    lifted = found["peak"] - max(found["first"], found["last"]) > LIFTED * found["noise"]
    within_tail = found["first"] - found["last"] <= found["tail"] and found["moved"] < STUCK
    hidden = lifted if found["fall"] < FLAT else within_tail
    if hidden:
        return "unclear", (
            f"The loss went {path} with outliers up to {told['peak']}, which hide whether it moved: {noises}."
        )
    if abs(found["moved"]) <= FLAT and found["fall"] < FLAT:
        return "barely moving", f"{means}, which may be chance, or there was nothing left to learn."
    paced = LATE_PACE[0] < found["late_pace"] < LATE_PACE[1]
    falling = not lifted and paced and found["late_share"] > LATE_SHARE
    if found["fall"] < FLAT and not (falling and abs(found["sag"]) <= 1):
        return "unclear", f"{means}, but the noise of a single loss, {told['noise']}, hides how it moved."
    if falling:
        went = means if found["fall"] < FLAT else f"The loss went {path}"
        return "barely moving", (
            f"{went} and was still falling at the end, at {told['late_pace']} of its mean pace, "
            f"with a late share of {told['late_share']}."
        )
    if found["turns"] == 0:
        return "unclear", (
            f"The loss fell {path} without noise, as it does at a sound rate, and also at the limit of stability."
        )
    return "sound", f"The loss fell {path}, {noises}, and {told['late_share']} of it late."


FACTORS: dict[Verdict, tuple[float, str]] = {
    "diverging": (0.1, "a tenth of"),
    "oscillating": (1 / 3, "a third of"),
    "barely moving": (10.0, "ten times"),
}
"""What to multiply the rate by next, and its name. A curve that diverges may be far off, one that oscillates is near."""


def _advise(verdict: Verdict, overshoot: float, rates: Floats | None) -> str:
    """Return the next thing to try, with the highest rate if rates are known."""
    highest = None if rates is None else float(rates.max())
    if highest == 0:
        return "Every rate was 0: take one above it."
    if verdict == "unclear":
        return "Look at the curve and at the gradients: the losses alone say nothing about the rate."
    if verdict == "sound":
        kept = "Keep the rate" if highest is None else f"Keep {highest:.3g}"
        if overshoot > OVERSHOT:
            return f"{kept}, and let it warm up: that spares the peak of the loss."
        others = (
            "a third and three times it" if highest is None else f"{highest / 3:.3g} and {highest * 3:.3g}"
        )
        return f"{kept}; to refine it, compare {others}."
    factor, words = FACTORS[verdict]
    if rates is None or highest is None:
        return f"Try {words} the rate."
    subject = "" if (rates == highest).all() else "a schedule with a highest rate of "
    return f"Try {subject}{highest * factor:.3g}, {words} {highest:.3g}."


@explain_keywords
def diagnose(losses: Any, lrs: Any = None) -> Diagnosis:
    """Say from a training's losses whether its learning rate looks too large, too small or sound, or that it is unclear.

    The losses may have any scale and sign, and the noise of small batches. Multiplying them by a positive number
    changes no verdict. Adding a constant does not either, until the changes are less than float32 resolves in losses of
    that size, 5e-7 of the median: then they count as rounding, for losses are mostly computed in float32.

    The curve cannot tell a rate too small from a training that had converged before its first step; both are "barely
    moving". "unclear" comes without advice on the rate: the loss did not move at all, outliers or the noise of single
    losses hide how it moved, or it fell without any noise and levelled off, which it does as well at the limit of
    stability, where some parameters only jump to and fro. Without `lrs`, a rate that falls during the training
    hides that it was too small: the loss levels off anyway.

    Parameters
    ----------
    losses : sequence or array of float, (steps,)
        The loss of each step, in order; at least 20. NaN and infinities are evidence of divergence.
    lrs : float, or sequence or array of float, (steps,), optional
        The learning rate, or that of each step, >= 0. With it the advice names rates, and the pace is measured by the
        sum of the rates in place of the number of steps.

    Raises
    ------
    TypeError
        When an argument holds no real numbers.
    ValueError
        When there are fewer than 20 losses or more than one dimension, or `lrs` has another length, is negative or
        not finite.

    References
    ----------
    Bengio 2012, "Practical Recommendations for Gradient-Based Training of Deep Architectures", section 3.1.1: the
    best rate is usually close to the largest at which training does not diverge.

    Examples
    --------
    >>> print(diagnose([2.5, 900.0] + [2.3] * 20, lrs=0.01))
    diverging
    The loss went from 2.5 to 2.3 by way of a peak of 900, an overshoot of 4.49e+03.
    Try 0.001, a tenth of 0.01.
    """
    curve = vector("losses", losses)
    if len(curve) < LEAST:
        raise ValueError(f"losses: expected at least {LEAST}, got {len(curve)}")
    rates = None if lrs is None else _rates(lrs, len(curve))
    finite = np.isfinite(curve)
    if finite.all():
        found = _measure(curve, rates)
    else:
        found = dict.fromkeys(NAMES, math.nan) | {"finite": float(np.argmin(finite)) / len(curve)}
    verdict, reason = _judge(found)
    return Diagnosis(verdict, found, reason, _advise(verdict, found["overshoot"], rates))
