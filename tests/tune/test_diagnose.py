"""`lrcore.tune.diagnose` on real training runs, and on curves whose verdict is known by construction.

For real training runs, the verdict is compared with a criterion that does not depend on the shape of the
curve: the final loss over the whole training set, relative to the final losses at all rates. Let s be the
fraction by which a rate's decrease in loss falls short of the best rate's. A rate is sound if s <= 0.05.
Rates below the sound ones are too small, and rates above them are too large. Near the sound rates, the
verdicts "sound" and "unclear" are also allowed. At three decades or more below the lowest sound rate, and at
two decades or more above the highest one, the verdict must be exact.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import lrcore
from lrcore.demo._network import Digits, batches, forward, initialize, load, log_softmax, loss_and_gradient
from lrcore.tune import Diagnosis, diagnose
from lrcore.tune._diagnose import LEAST, NAMES
from support import slow_but_first

Floats = NDArray[np.float64]

TOO_LARGE = ("diverging", "oscillating")
TOO_SMALL = ("barely moving",)
UNCLEAR = ("unclear",)
KINDS: tuple[type[np.floating[Any]], ...] = (np.float32, np.float64)

RATES = np.logspace(-6, 2, 17)
TRAININGS: dict[str, tuple[str, dict[str, Any], str, int]] = {  # optimizer, its arguments, schedule, epochs
    "SGD": ("SGD", {}, "constant", 5),
    "SGD, 20 epochs": ("SGD", {}, "constant", 20),
    "momentum": ("SGD", {"momentum": 0.9}, "constant", 3),
    "Adam": ("Adam", {}, "constant", 5),
    "Adam, cosine": ("Adam", {}, "cosine", 5),
    "AdamW": ("AdamW", {}, "constant", 2),
    "RMSprop": ("RMSprop", {}, "cosine", 3),
    "Lion": ("Lion", {}, "constant", 5),
}


def whole_loss(params: lrcore.Pack, data: Digits) -> float:
    _, logits = forward(params, data.train_x)
    loss = float(-log_softmax(logits)[np.arange(len(data.train_y)), data.train_y].mean())
    return loss if math.isfinite(loss) else math.inf


def train(data: Digits, training: str, lr: float, seed: int = 0, batch_size: int = 64) -> tuple[str, float]:
    """Train like `lrcore.demo`, and return the verdict and the final `whole_loss`.

    Unlike `lrcore.demo`, this function records non-finite losses too.
    """
    name, arguments, schedule, epochs = TRAININGS[training]
    rng = np.random.default_rng(seed)
    params = initialize(data.train_x.shape[1], 128, 10, rng)
    grads = params.like()
    steps = epochs * -(-len(data.train_y) // batch_size)
    rates: Any = lrcore.schedules.Cosine(lr, steps=steps) if schedule == "cosine" else lr
    opt = getattr(lrcore.optimizers, name)(params.flat, rates, grads=grads.flat, **arguments)
    losses = []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for batch in batches(len(data.train_y), batch_size, epochs, rng):
            losses.append(loss_and_gradient(params, grads, data.train_x[batch], data.train_y[batch]))
            opt.step()
        final = whole_loss(params, data)
    lrs = rates(np.arange(steps)) if schedule == "cosine" else lr
    return diagnose(losses, lrs).verdict, final


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load(0)


@pytest.mark.parametrize("training", slow_but_first(TRAININGS))
def test_real_sweep(digits: Digits, training: str) -> None:
    """All rates that are judged too small are below all rates that are judged too large.

    The verdict "unclear" says nothing about the rate, and is ignored.
    """
    verdicts, losses = zip(*(train(digits, training, lr) for lr in RATES), strict=True)
    finals = np.array(losses)
    best = int(finals.argmin())
    first, *_, last = np.flatnonzero((finals - finals[best]) / (finals[0] - finals[best]) <= 0.05)
    assert 6 < first <= last < 13  # leaves three decades below and two above
    assert verdicts[best] == "sound"
    for i, verdict in enumerate(verdicts):
        if not first <= i <= last:
            far = i <= first - 6 or i >= last + 4
            wrong = TOO_SMALL if i < first else TOO_LARGE
            assert verdict in wrong or (verdict in ("sound", "unclear") and not far), (RATES[i], verdicts)
    too_small = [i for i, verdict in enumerate(verdicts) if verdict in TOO_SMALL]
    too_large = [i for i, verdict in enumerate(verdicts) if verdict in TOO_LARGE]
    assert max(too_small) < min(too_large)


@pytest.mark.parametrize("seed", [1, 2])
def test_small_batches(digits: Digits, seed: int) -> None:
    """With batches of four images, the noise of a sound rate is not mistaken for oscillation."""
    verdicts = [train(digits, "AdamW", lr, seed, 4)[0] for lr in (1e-6, 1e-3, 1.0)]
    assert verdicts[:2] == ["barely moving", "sound"]
    assert verdicts[2] in TOO_LARGE


def noise(steps: int, seed: int, scale: float = 0.05) -> Floats:
    return np.random.default_rng(seed).normal(scale=scale, size=steps)


def curves(steps: int, seed: int) -> dict[str, tuple[Floats, tuple[str, ...]]]:
    """Return curves and the verdicts that fit them."""
    t = np.arange(steps) / steps
    e = noise(steps, seed)
    fall = 2.5 * np.exp(-8 * t)
    spike = np.where(np.arange(steps) == 1, 800.0, 0.0)
    every_tenth = np.where(np.arange(steps) % 10 == 9, 1.0, 0.0)
    easy = np.where(np.arange(steps) == 0, -0.13 - e, 0.0)  # 2.6 standard deviations lower
    dead = np.where(np.arange(steps) == 0, 2.5, math.log(10))
    return {
        "flat": (2.5 + e, TOO_SMALL),
        "flat after an easy batch": (2.5 + e + easy, TOO_SMALL),
        "constant": (np.full(steps, 2.5), UNCLEAR),
        "constant 0": (np.zeros(steps), UNCLEAR),
        "line": (2.5 - 1.5 * t + e, TOO_SMALL),
        "line without noise": (2.5 - 1e-4 * t, TOO_SMALL),
        "exponential": (fall + e, ("sound",)),
        "exponential without noise": (fall, UNCLEAR),
        "falls to a negative floor": (fall - 1000 + e, ("sound",)),
        "falls through 0": (fall - 1 + e, ("sound",)),
        "plateau, then a break": (2.5 - 2 / (1 + np.exp(40 * (0.5 - t))) + e, ("sound",)),
        "a break at the end": (2.5 - 2 / (1 + np.exp(40 * (0.9 - t))) + e, ("sound",)),
        "rises a little at the end": (fall + 0.15 * t + 0.02 * e, ("sound",)),
        "a break and a plateau": (2.5 - 2 / (1 + np.exp(40 * (0.6 - t))) + 0.2 * e, ("sound",)),
        "converged except for hard batches": (0.02 + 0.1 * e + 0.3 * every_tenth, UNCLEAR),
        "overshoots 100-fold and learns": (fall + 0.3 * spike + 0.2 * e, ("sound",)),
        "one bad batch": (fall + e + np.where(np.arange(steps) == steps // 2, 15.0, 0.0), ("sound",)),
        "peak while it warms up": (fall + e + 20 * np.exp(-((t - 0.15) ** 2) / 0.002), ("sound",)),
        "dead after one step": (dead + spike + 0.1 * e, ("diverging",)),
        "dead without noise": (dead + spike, ("diverging",)),
        "exploded and came down": (dead + 5000 * np.exp(-20 * t) * (t > 0) + e, ("diverging",)),
        "thrown up and stuck": (dead + 0.05 * spike + e, TOO_LARGE),
        "explodes every ten steps": (dead + 100 * every_tenth + e, TOO_LARGE),
        "rises": (2.5 + 3 * t + e, ("diverging",)),
        "explodes at the end": (fall + np.where(np.arange(steps) >= steps - 2, 1e6, 0.0), ("diverging",)),
        "falls, then rises": (2.5 - 4 * t + np.where(t > 0.4, 6 * (t - 0.4), 0) + e, TOO_LARGE),
    }


@pytest.mark.parametrize("steps", [46, 200, 2000])
@pytest.mark.parametrize("name", curves(46, 0))
def test_curves(name: str, steps: int) -> None:
    for seed in range(5):
        losses, verdicts = curves(steps, seed)[name]
        found = diagnose(losses)
        assert found.verdict in verdicts, (seed, found)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", [0, 1, 20, 45])
def test_one_loss_that_is_not_finite(bad: float, step: int) -> None:
    losses, _ = curves(46, 0)["exponential"]
    losses[step] = bad
    found = diagnose(losses)
    assert found.verdict == "diverging"
    assert found.evidence["finite"] == step / 46


@pytest.mark.parametrize("name", curves(200, 0))
def test_scale_and_shift(name: str) -> None:
    """Scaling by a power of two is exact, but other factors and shifts change the rounding in float64.

    A fall that float32 could not resolve in losses of that size counts as a rounding error, as if the loss
    had not changed at all.
    """
    losses, _ = curves(200, 0)[name]
    found = diagnose(losses)
    for factor in (2.0**-300, 0.25, 2.0**300):
        scaled = diagnose(losses * factor)
        assert scaled.verdict == found.verdict
        for each in ("fall", "overshoot", "rebound", "late_share", "late_pace"):
            assert scaled.evidence[each] == found.evidence[each]
        for each in ("first", "last", "lowest", "peak", "noise", "tail"):
            assert scaled.evidence[each] == found.evidence[each] * factor
    for factor in (1e-6, 3.0, 1e5):
        assert diagnose(losses * factor).verdict == found.verdict
    for shift in (-1000.0, -1.0, 0.3, 100.0):
        resolved = np.ptp(losses) > 5e-7 * abs(losses + shift).max()  # the resolution of float32
        assert diagnose(losses + shift).verdict == (found.verdict if resolved else "unclear")
    if name == "exponential":
        assert diagnose(losses + 1e9).verdict == "unclear"


def test_extreme_numbers() -> None:
    """Intermediate results do not overflow, and there is no warning, which would fail the test."""
    for losses in ([-1.7e308, *[1.7e308] * 30], [5e-324, *[0.0] * 30], [1.7e308, *np.linspace(1, 0, 30)]):
        assert all(math.isfinite(each) or each == math.inf for each in diagnose(losses).evidence.values())


def test_evidence() -> None:
    """The expected numbers were worked out by hand for a line from 99 to 0."""
    found = diagnose(range(99, -1, -1)).evidence
    assert tuple(found) == NAMES
    assert all(f"``{name}``" in str(Diagnosis.__doc__) for name in NAMES)
    assert (found["first"], found["peak"], found["finite"]) == (98.0, 99.0, 1.0)
    assert found["last"] == found["lowest"] == 5.5  # of the last 12 losses
    assert (found["start"], found["end"]) == pytest.approx((93.0, 5.5))  # of the first 13 and the last 12
    assert found["noise"] == pytest.approx(1 / (0.6745 * math.sqrt(2)))
    assert found["fall"] == pytest.approx(92.5 * 0.6745 * math.sqrt(2))
    assert found["overshoot"] == 0
    assert found["late_share"] == pytest.approx(0.5, abs=0.01)
    assert found["late_pace"] == pytest.approx(1, abs=0.02)


def test_pace_goes_by_the_rates() -> None:
    """If a rate is too small and falls to 0, the loss levels off, but is linear in the sum of the rates."""
    lrs = lrcore.schedules.Cosine(1e-5, steps=200)(np.arange(200))
    losses = 2.5 - 0.5 * np.cumsum(lrs) / lrs.sum() + noise(200, 0, 0.02)
    assert diagnose(losses, lrs).verdict == "barely moving"
    assert diagnose(losses).verdict == "sound"


@pytest.mark.parametrize("lrs", [0.0, [0.0] * 200, [1.0] + [0.0] * 199, [0.0] * 199 + [1e300]])
def test_odd_rates(lrs: Any) -> None:
    """If the sum of the rates cannot divide the curve into thirds, the number of steps is used instead."""
    losses, _ = curves(200, 0)["exponential"]
    assert diagnose(losses, lrs).evidence == diagnose(losses).evidence


NO_ADVICE = "Look at the curve and at the gradients; the losses alone do not show whether the rate is sound."
SCHEDULED = "Try a schedule with a highest rate of 0.02, a tenth of 0.2."
ADVICE: list[tuple[str, Any, str]] = [
    ("dead after one step", 0.01, "Try 0.001, a tenth of 0.01."),
    ("dead after one step", np.linspace(0.2, 0.1, 200), SCHEDULED),
    ("dead after one step", None, "Try a tenth of the rate."),
    ("falls, then rises", 0.3, "Try 0.1, a third of 0.3."),
    ("line", 0.01, "Try 0.1, ten times 0.01."),
    ("exponential", 0.3, "Keep 0.3; to refine it, compare 0.1 and 0.9."),
    ("exponential", None, "Keep the rate; to refine it, compare a third of it and three times it."),
    ("peak while it warms up", 0.3, "Keep 0.3, and add a warm-up to avoid the peak of the loss."),
    ("constant", 0.3, NO_ADVICE),
    ("constant", 0.0, "Every rate was 0; use a rate above 0."),
]


@pytest.mark.parametrize(("name", "lrs", "advice"), ADVICE)
def test_advice(name: str, lrs: Any, advice: str) -> None:
    losses, _ = curves(200, 0)[name]
    found = diagnose(losses, lrs)
    assert found.advice == advice
    assert str(found) == f"{found.verdict}\n{found.reason}\n{advice}"


def test_kinds_of_sequences() -> None:
    """Lists, tuples, integers and float32 are accepted too."""
    losses = np.linspace(100, 0, 50).round()
    found = diagnose(losses, 0.1)
    for each in (losses.tolist(), [int(each) for each in losses], losses.astype(np.float32), tuple(losses)):
        assert diagnose(each, [0.1] * 50) == found
    assert diagnose(losses, np.float32(0.5)).advice == "Try 5, ten times 0.5."


LINE = list(np.linspace(2.0, 1.0, LEAST))


@pytest.mark.parametrize(
    ("losses", "lrs", "error", "message"),
    [
        (LINE[1:], None, ValueError, "losses: expected at least 20, got 19"),
        ([LINE], None, ValueError, "losses: expected one dimension, got 2"),
        ([[1.0], [1.0, 2.0]], None, ValueError, "losses: expected one dimension, got rows of different l"),
        *(
            ([each] * LEAST, None, TypeError, "losses: expected real numbers, got")
            for each in ("a", 1j, None, True)
        ),
        (
            LINE,
            [0.1] * 19,
            ValueError,
            r"lrs: expected a number or 20 rates, one per loss, got shape \(19,\)",
        ),
        (LINE, [[0.1] * LEAST], ValueError, "lrs: expected one dimension, got 2"),
        *(
            (LINE, each, ValueError, "lrs: expected finite rates >= 0")
            for each in (-0.1, math.nan, [math.inf] * 20)
        ),
        (LINE, "0.1", TypeError, "lrs: expected a number, got str"),
        (LINE, True, TypeError, "lrs: expected a number, got bool"),
        (LINE, ["a"] * LEAST, TypeError, "lrs: expected real numbers, got <U1"),
    ],
)
def test_refusals(losses: Any, lrs: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        diagnose(losses, lrs)


@pytest.mark.parametrize("loss", [0.0, 2.302585, -3.0, 1e30])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_that_does_not_move(loss: float, kind: type[np.floating[Any]]) -> None:
    """All losses are equal or differ by a float32 rounding error, as they may if batch sizes differ."""
    losses = np.full(500, loss, kind)
    uneven = losses.copy()
    uneven[::23] = np.nextafter(losses[0], kind(-np.inf))
    for each in (losses, uneven) if loss else (losses,):
        found = diagnose(each, 0.1)
        assert found.verdict == "unclear"
        assert found.reason.endswith(" at every step; the gradients may not reach the optimizer.")


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        # after one large loss, such a curve does not show whether the training converged or is stuck
        ([2.0] + [0.0] * 40, "unclear"),
        ([1000.0, 1.0, 0.5] + [0.4] * 30, "unclear"),
        ([50.0, 0.05] + [0.01] * 30, "unclear"),
        ([1.0] * 50 + [5.0] + [1.0] * 49, "unclear"),
        # gradient descent does this at a rate of twice the inverse curvature; a tenfold rate would be worse
        ([2.0, 32.0] * 20, "oscillating"),
        ([1.0, 1.01] * 20, "oscillating"),
        ([-5.0, -4.0] * 20, "oscillating"),
    ],
)
def test_curves_of_few_values(losses: list[float], verdict: str) -> None:
    assert diagnose(losses).verdict == verdict


Curve = Callable[[np.random.Generator], Floats]
T = np.arange(1000)


def halving(sd: float) -> Curve:
    """Return a falling curve whose first and last eighths differ by 8 standard errors or more.

    This holds for standard deviations of the noise of up to 0.7.
    """
    return lambda rng: 1.3 + np.exp(-T / 200) + rng.normal(scale=sd, size=1000)


def skewed(half_life: float) -> Curve:
    """Return a curve that falls by a factor of six.

    The largest losses exceed their means by about the same factor, so the curve does not overshoot.
    """
    return lambda rng: (0.4 + 2 * np.exp(-T[:500] / half_life)) * rng.exponential(size=500)


def gradient_descent(lr: float, condition: float, kind: type[np.floating[Any]]) -> Curve:
    """Return losses without noise, in closed form.

    The largest curvature is 10. At a rate of 2 / 10, gradient descent jumps back and forth in one direction
    without getting closer to the minimum.
    """
    curvatures, t = np.geomspace(10 / condition, 10, 5), np.arange(200)[:, np.newaxis]
    powers = (1 - lr * curvatures) ** (2 * t)
    return lambda rng: ((powers * rng.normal(size=5) ** 2) @ curvatures / 2).astype(kind)


def two_values(share: float) -> Curve:
    """Return losses that take only two values.

    Most losses equal their neighbours, but a change of value is still neither an overshoot nor a fall.
    """
    return lambda rng: (rng.random(200) < share).astype(np.float64)


def late_rise(begin: int, sd: float) -> Curve:
    """Return a curve that rises so late that the level of its last eighth is below the start."""
    level = (0.3 + 2 * np.exp(-T / 50)) * np.exp(np.maximum(T - begin, 0) / (1000 - begin) * 3.4)
    return lambda rng: level + rng.normal(scale=sd, size=1000)


NOT_SOUND = (*TOO_SMALL, *TOO_LARGE, *UNCLEAR)
MOVED, STILL = ("sound", *UNCLEAR), (*TOO_SMALL, *UNCLEAR)
TALLIES: list[tuple[Curve, tuple[str, ...], int]] = [
    *((halving(sd), MOVED, 100) for sd in (0.2, 0.3, 0.5, 0.7)),
    *((skewed(half_life), MOVED, 100) for half_life in (50, 100)),
    (lambda rng: 1 + rng.normal(size=500) ** 2, STILL, 95),  # this and the next four are noise alone
    (lambda rng: rng.lognormal(size=500), STILL, 95),
    (lambda rng: rng.lognormal(sigma=0.5, size=500), STILL, 95),
    (lambda rng: rng.exponential(size=500), STILL, 95),
    (lambda rng: rng.normal(size=500), STILL, 95),
    *(
        (gradient_descent(*each), NOT_SOUND, 100)
        for each in itertools.product((0.1999, 0.2), (2, 10, 100), KINDS)
    ),
    *((two_values(share), STILL, 100) for share in (0.05, 0.2)),
    # a line that falls by two standard deviations of the noise
    (lambda rng: 2.4 - T / 1e4 + rng.normal(scale=0.05, size=1000), STILL, 100),
    (lambda rng: 2.4 - T / 1e4 + rng.normal(scale=0.05, size=1000), TOO_SMALL, 51),
    *(
        (late_rise(*each), ("diverging",), 100)
        for each in itertools.product((850, 900, 940), (0.0, 0.02, 0.1))
    ),
]
"""Curves, the verdicts that fit them, and the number of curves out of a hundred that must get one of these
verdicts. No curve may be judged "sound" unless "sound" is one of them."""


@pytest.mark.parametrize(("curve", "verdicts", "least"), TALLIES)
def test_a_hundred_curves(curve: Curve, verdicts: tuple[str, ...], least: int) -> None:
    found = Counter(diagnose(curve(np.random.default_rng(seed)), 0.2).verdict for seed in range(100))
    assert sum(count for verdict, count in found.items() if verdict in verdicts) >= least, found
    assert "sound" in verdicts or not found["sound"], found
