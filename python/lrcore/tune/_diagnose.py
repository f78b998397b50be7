"""A verdict on the learning rate of a training run from its loss curve."""

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
"""Minimum number of losses for `diagnose`. It gives eight levels of two or three losses, and nine differences for the
noise. With 20 losses, 2 % of flat noisy curves are judged diverging or oscillating; the share is 4 % with 12 losses
and below 1 % with 46."""

# The thresholds were chosen on training runs of a small network, then tested with other seeds, optimizers and lengths.
# Borderline curves tend to be judged "sound" or "unclear".
EXPLODED = 300.0
"""Overshoot above which the rate was too large, regardless of the later losses. RMSprop and Adagrad, whose first steps
are their largest, reach 150 at rates at which training succeeds."""
OVERSHOT = 3.5
"""Overshoot above which the peak explains why the fall is below `STUCK`. Flat curves, including those with batches of
one image, reach 2.5."""
STUCK = 8.0
"""Fall, in units of the noise, below which little was learned. At sound rates it is at least 10 with batches of 64.
The same limit applies to the change of the mean, in standard errors: below it, outliers as large as the fall may hide
the change. With such outliers, the change is at least 16 at sound rates."""
REBOUND = 0.2
"""Fraction of the deepest fall that a rebound must exceed. At sound rates, less than 0.1 of it is lost again."""
REBOUND_ERRORS = 5.0
"""Number of standard errors of a level that a rebound must exceed, because the lowest of eight levels is low by
chance."""
FLAT = 3.0
"""Fall, in units of the noise, below which the first loss may have been high by chance. This value is also the change
of a mean, in standard errors, below which the change may be chance."""
TO_AND_FRO = 0.1
"""Alternation below which a loss jumps between two levels. With ten noisy differences it is never this small."""
LIFTED = 10.0
"""Height of the peak above the larger of `first` and `last`, in units of the noise. If the rate is too small, the peak
is never higher."""
TAILS = (2.5, 30.0)
"""Limits of the tail, in units of the noise. The lower limit is for short curves, which show little of the tail; a batch
of hard examples does not reach the upper limit. A peak that is higher than the first loss by less than the upper limit
may also be an outlier, not an overshoot."""
LATE_SHARE = 0.35
"""Late share above which a curve may still be falling. A straight line has 0.5, and an exponential that falls to a
tenth has 0.32."""
LATE_PACE = (0.25, 2.0)
"""Range of the late pace in which a curve may still be falling. A straight line has 1, an exponential that falls to a
tenth has 0.43, and a plateau after a late fall has 0. Above 2, the fall has only begun."""
ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Relative rounding error of a loss in float32 arithmetic."""
NAMES = (
    "first", "last", "lowest", "peak", "smallest", "final", "start", "end", "noise", "tail", "fall", "moved",
    "sag", "overshoot", "overshoot_noises", "rebound", "rebound_errors", "late_share", "late_pace", "alternation",
    "turns", "finite",
)  # fmt: skip
"""The names of the evidence, as documented in `Diagnosis`."""


@explain_keywords
@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The verdict on a learning rate from a loss curve.

    Attributes
    ----------
    verdict : str
        "diverging" or "oscillating" if the rate looks too large, "barely moving" if it looks too small, "sound", or
        "unclear" if the losses do not show which of these applies.
    evidence : dict of str to float
        The numbers behind the verdict. In the unit of the losses:

        - ``first``: the first loss, or the median of the first three if that is lower.
        - ``last``: the median of the last eighth of the losses.
        - ``lowest``: the lowest of the medians of the eighths.
        - ``peak``: the largest loss.
        - ``smallest``: the smallest loss.
        - ``final``: the last loss, or the median of the last three if that is lower.
        - ``start``: the mean of the first eighth of the losses.
        - ``end``: the mean of the last eighth.
        - ``noise``: the standard deviation of a loss around the curve, estimated from the median difference between
          neighbours in the second half, or from the mean square of the differences if most are 0; at least the
          rounding error of float32.
        - ``tail``: the largest loss of a half minus the median of that half, for the half where this is smaller;
          limited to the range from 2.5 to 30 times the noise.

        Dimensionless:

        - ``fall``: first - last, divided by the noise.
        - ``moved``: start - end, divided by its standard error. The error comes from the noise, or from the standard
          deviation within an eighth if that is larger.
        - ``sag``: the midpoint of start and end minus the mean of all losses, divided by half the standard error of
          start - end; about 0 for a straight line, positive if the loss levels off.
        - ``overshoot``: the peak minus the first loss, divided by the larger of first - last and the tail.
        - ``overshoot_noises``: the peak minus the first loss, divided by the noise of the half that contains
          the peak.
        - ``rebound``: last - lowest, divided by the larger of first - lowest and the noise.
        - ``rebound_errors``: last - lowest, divided by the standard error of the median of an eighth.
        - ``late_share``: the fall of the median from the middle third to the last, divided by its fall from the first
          third to the last, or by a quarter of first - last if that is larger; 0.5 for a straight line, 0 if neither
          fall is positive.
        - ``late_pace``: the slope of a line through the last third, divided by the mean slope between the first third
          and the last, computed from the larger of the same two falls; 1 for a straight line, 0 if neither is positive.
        - ``alternation``: the median difference between losses two steps apart, divided by that between neighbours,
          in the second half; 1 for noise, 0 for a loss that jumps between two levels.
        - ``turns``: how often the loss turns from falling to rising or back in the second half, divided by how often
          it could. Changes within the rounding error of float32 are ignored. 2/3 for noise, 0 for a curve without
          turns.
        - ``finite``: the fraction of the losses that precede the first NaN or infinite loss; 1 if there is none.

        If a loss is not finite, all numbers except ``finite`` are NaN.
    reason : str
        A sentence that explains the verdict with these numbers.
    advice : str
        A sentence that says what to try next.
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
        raise ValueError(f"lrs: expected a number or {steps} rates, one per loss, got shape {rates.shape}")
    if not (np.isfinite(rates) & (rates >= 0)).all():
        raise ValueError("lrs: expected finite rates >= 0")
    return rates


def _ratio(top: float, bottom: float) -> float:
    """Return the quotient; 0 divided by 0 is 0, and any other number divided by 0 is infinite."""
    if bottom != 0:
        return top / bottom
    return math.copysign(math.inf, top) if top else 0.0


def noise_of(losses: Floats, order: int) -> float:
    """Return the standard deviation of losses around their curve, from their differences of this order.

    It is computed from the median difference, which outliers do not affect, or from the mean square if most
    differences are 0.
    """
    differences = np.diff(losses, order)
    # standard deviation of such differences of independent numbers with standard deviation 1
    scale = math.sqrt(math.comb(2 * order, order))
    half_lie_within = 0.6745  # standard deviations of a normal distribution
    deviation = float(np.median(abs(differences))) / half_lie_within or math.sqrt(np.mean(differences**2))
    return deviation / scale


def _progress(rates: Floats | None, steps: int) -> Floats:
    """Return the progress of the training at each step, from 0 to 1, measured by the sum of the rates so far.

    The progress is measured by the number of steps instead if there are no rates, or if a third of their sum or more
    comes from fewer than four steps.
    """
    even = (np.arange(steps) + 0.5) / steps
    if rates is None or not rates.max() > 0:
        return even
    rates = rates / rates.max()
    progress: Floats = (np.cumsum(rates) - rates / 2) / rates.sum()
    return progress if np.histogram(progress, 3, (0, 1))[0].min() >= 4 else even


def _measure(losses: Floats, rates: Floats | None) -> dict[str, float]:
    """Return the evidence for finite losses."""
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
    # 1.25: ratio of the standard errors of median and mean for normally distributed numbers
    level_error = 1.25 * noise / math.sqrt(len(curve) / 8)

    done = _progress(rates, len(curve))
    thirds = np.minimum(3 * done, 2).astype(int)
    early, middle, late = (float(np.median(curve[thirds == each])) for each in range(3))
    along = done[thirds == 2] - done[thirds == 2].mean()
    slope = _ratio(float(along @ curve[thirds == 2]), float(along @ along))  # least squares
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
            f"The loss was {told['last']} at every step; the gradients may not reach the optimizer."
        )
    path = f"from {told['first']} to {told['last']}"
    noises = f"a fall of {told['fall']} times its noise of {told['noise']}"
    means = (
        f"The mean loss went from {told['start']} to {told['end']}, "
        f"a fall of {told['moved']} times the standard error"
    )
    ended_above = found["final"] > found["first"]
    upward: Verdict = "diverging" if found["last"] > found["first"] or ended_above else "oscillating"
    exploded = found["overshoot"] > EXPLODED
    overshot = found["overshoot"] > OVERSHOT and found["fall"] < STUCK
    over_peak = f"The loss went {path} with a peak of {told['peak']}"
    if exploded or (overshot and found["overshoot_noises"] > TAILS[1]):
        return "diverging" if exploded else upward, f"{over_peak}, an overshoot of {told['overshoot']}."
    rebounded = found["rebound"] > REBOUND and found["rebound_errors"] > REBOUND_ERRORS
    if rebounded or (found["fall"] >= FLAT and ended_above):
        return upward, (
            f"The loss went from {told['first']} to {told['lowest']} and rose again to {told['last']}, "
            f"a rebound of {told['rebound']}; it ended at {told['final']}."
        )
    if overshot:
        return "unclear", (
            f"{over_peak}, which may be an outlier: it is {told['overshoot_noises']} times the noise above the "
            "first loss."
        )
    if found["fall"] < FLAT and found["alternation"] < TO_AND_FRO:
        return "oscillating", f"The loss went {path}, and kept jumping back and forth by {told['noise']}."
    lifted = found["peak"] - max(found["first"], found["last"]) > LIFTED * found["noise"]
    within_tail = found["first"] - found["last"] <= found["tail"] and found["moved"] < STUCK
    hidden = lifted if found["fall"] < FLAT else within_tail
    if hidden:
        return "unclear", (
            f"The loss went {path}, {noises}, with outliers up to {told['peak']} that hide whether it changed."
        )
    if abs(found["moved"]) <= FLAT and found["fall"] < FLAT:
        return "barely moving", f"{means}; this may be chance, or there was nothing left to learn."
    paced = LATE_PACE[0] < found["late_pace"] < LATE_PACE[1]
    falling = not lifted and paced and found["late_share"] > LATE_SHARE
    if found["fall"] < FLAT and not (falling and abs(found["sag"]) <= 1):
        return "unclear", f"{means}, but the noise of a single loss, {told['noise']}, hides how it changed."
    if falling:
        went = means if found["fall"] < FLAT else f"The loss went {path}"
        return "barely moving", (
            f"{went}, and was still falling at the end, at {told['late_pace']} times its mean pace, "
            f"with a late share of {told['late_share']}."
        )
    if found["turns"] == 0:
        return "unclear", (
            f"The loss fell {path} without noise, as it does both at a sound rate and at the limit of stability."
        )
    return "sound", f"The loss fell {path}, {noises}, with a late share of {told['late_share']}."


FACTORS: dict[Verdict, tuple[float, str]] = {
    "diverging": (0.1, "a tenth of"),
    "oscillating": (1 / 3, "a third of"),
    "barely moving": (10.0, "ten times"),
}
"""The factor for the next rate, and its name. A diverging rate may be far too large; an oscillating one is only
a little too large."""


def _advise(verdict: Verdict, overshoot: float, rates: Floats | None) -> str:
    """Return a sentence that says what to try next. It names the highest rate if the rates are known."""
    highest = None if rates is None else float(rates.max())
    if highest == 0:
        return "Every rate was 0; use a rate above 0."
    if verdict == "unclear":
        return (
            "Look at the curve and at the gradients; the losses alone do not show whether the rate is sound."
        )
    if verdict == "sound":
        kept = "Keep the rate" if highest is None else f"Keep {highest:.3g}"
        if overshoot > OVERSHOT:
            return f"{kept}, and add a warm-up to avoid the peak of the loss."
        others = (
            "a third of it and three times it"
            if highest is None
            else f"{highest / 3:.3g} and {highest * 3:.3g}"
        )
        return f"{kept}; to refine it, compare {others}."
    factor, words = FACTORS[verdict]
    if rates is None or highest is None:
        return f"Try {words} the rate."
    subject = "" if (rates == highest).all() else "a schedule with a highest rate of "
    return f"Try {subject}{highest * factor:.3g}, {words} {highest:.3g}."


@explain_keywords
def diagnose(losses: Any, lrs: Any = None) -> Diagnosis:
    """Judge from the losses of a training run whether its learning rate looks too large, too small or sound.

    The losses may have any scale and sign, and may be as noisy as those of small batches. Multiplying them by a
    positive number, or adding a constant, does not change the verdict. An exception is a constant so large that
    the changes become smaller than the resolution of float32, 5e-7 of the median loss: such changes count as
    rounding errors, because losses are usually computed in float32.

    The curve of a rate that is too small looks like that of a run that had converged before its first step; both
    are "barely moving". The verdict "unclear" comes without advice on the rate. It means that the loss did not change
    at all, that outliers or the noise of single losses hide how it changed, or that it fell without any noise and
    levelled off. The last case also occurs at the limit of stability, where some parameters only jump back and forth.
    If the rate decays during the run and `lrs` is not given, a rate that is too small may go undetected, because the
    loss levels off anyway.

    Parameters
    ----------
    losses : sequence or array of float, (steps,)
        The loss of each step, in order; at least 20. NaN and infinities are evidence of divergence.
    lrs : float, or sequence or array of float, (steps,), optional
        The learning rate, or that of each step, >= 0. If it is given, the advice names rates, and the pace is
        measured against the sum of the rates instead of the number of steps.

    Raises
    ------
    TypeError
        If an argument does not contain real numbers.
    ValueError
        If there are fewer than 20 losses or more than one dimension, or if `lrs` has the wrong length or contains a
        negative or non-finite number.

    References
    ----------
    Bengio 2012, "Practical Recommendations for Gradient-Based Training of Deep Architectures", section 3.1.1: the
    best rate is usually close to the largest at which training does not diverge.

    Examples
    --------
    >>> print(diagnose([2.5, 900.0] + [2.3] * 20, lrs=0.01))
    diverging
    The loss went from 2.5 to 2.3 with a peak of 900, an overshoot of 4.49e+03.
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
