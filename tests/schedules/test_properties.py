"""What holds for schedules with any arguments, and for what is composed of them, near and far."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lrcore import schedules
from lrcore.schedules._composed import TALL
from schedules import equations

made: Any = schedules
EPS = 2.0**-52

examples = settings(derandomize=True, deadline=None, database=None, max_examples=30)

rates = st.just(0.0) | st.floats(1e-9, 10.0) | st.sampled_from([0.1, 0.3, 0.7, 1.0])
positive = st.floats(1e-3, 10.0)
shares = st.floats(0.05, 1.0)
lengths = st.integers(1, 60) | st.sampled_from([1, 2, 49, 97, 10**6 + 3])
powers = st.just(0.0) | st.just(1.0) | st.floats(0.05, 4.0)
flags = st.booleans()
pairs = st.lists(st.tuples(rates, st.integers(1, 30)), min_size=1, max_size=4)
times = st.integers(0, 300) | st.integers(0, 10**15)


@st.composite
def piecewise(draw: st.DrawFn) -> dict[str, Any]:
    boundaries = draw(st.lists(lengths, unique=True, max_size=5).map(sorted))
    values = draw(st.lists(rates, min_size=len(boundaries) + 1, max_size=len(boundaries) + 1))
    return {"boundaries": boundaries, "values": values}


@st.composite
def cyclic(draw: st.DrawFn) -> dict[str, Any]:
    mode = draw(st.sampled_from(["triangular", "triangular2", "exp_range"]))
    down = st.none() | lengths
    options = {"low": draw(rates), "high": draw(rates), "up": draw(lengths), "down": draw(down), "mode": mode}
    return options | ({"gamma": draw(shares)} if mode == "exp_range" else {})


@st.composite
def one_cycle(draw: st.DrawFn) -> dict[str, Any]:
    steps, three = draw(st.integers(4, 120)), draw(flags)
    last = (steps + 1) / (2 * steps) if three else 1.0
    share = draw(st.floats(1 / steps, last))
    joints = [0, share * steps - 1, *([2 * share * steps - 2] if three else []), steps - 1]
    assume(all(later - earlier > 1e-3 for earlier, later in itertools.pairwise(joints)))
    return {
        "peak": draw(rates), "steps": steps, "pct_start": share, "div": draw(st.floats(0.5, 50)),
        "final_div": draw(st.floats(0.5, 1e4)), "shape": draw(st.sampled_from(["cosine", "linear"])), "three_phase": three,
    }  # fmt: skip


def of(**options: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(options)


ARGUMENTS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "Constant": of(lr=rates),
    "PiecewiseConstant": piecewise(),
    "StepDecay": of(lr=rates, every=lengths, factor=shares),
    "Exponential": of(lr=rates, rate=shares, steps=lengths, staircase=flags),
    "NaturalExponential": of(lr=rates, k=st.just(0.0) | st.floats(1e-9, 3.0)),
    "InverseTime": of(lr=rates, k=st.just(0.0) | st.floats(1e-9, 3.0), steps=lengths, staircase=flags),
    "Linear": of(lr=rates, end=rates, steps=lengths),
    "Polynomial": of(lr=rates, steps=lengths, power=powers, end=rates, cycle=flags),
    "PolynomialProduct": of(lr=rates, steps=lengths.map(lambda n: n + 1), power=powers, power2=powers),
    "Cosine": of(lr=rates, steps=lengths, end=rates),
    "CosineRestarts": of(
        lr=rates, steps=lengths, cycle_mult=st.integers(1, 10), peak_mult=shares | st.just(1.0), end=rates
    ),
    "Cyclic": cyclic(),
    "OneCycle": one_cycle(),
    "WarmupStableDecay": of(
        peak=rates,
        warmup_steps=st.just(0) | lengths,
        stable=st.just(0) | lengths,
        decay=lengths,
        end=rates,
        shape=st.sampled_from(["1-sqrt", "linear", "cosine"]),
    ),
    "InverseSqrt": of(peak=rates, warmup_steps=lengths),
    "Noam": of(model_dim=lengths, warmup_steps=lengths, scale=rates),
    "CyclicStages": of(stages=pairs),
    "PeriodicPulse": of(base=rates, pulses=pairs),
    "Rex": of(lr=rates, steps=lengths, end=rates),
}
"""Arguments of every schedule with a dictionary form that is not composed; rates that cannot grow without end."""


class Built(NamedTuple):
    """A schedule, and the formula that composing it stands for."""

    schedule: Any
    formula: Callable[[int], float]


@st.composite
def single(draw: st.DrawFn) -> Built:
    name = draw(st.sampled_from(list(ARGUMENTS)))
    schedule = getattr(made, name)(**draw(ARGUMENTS[name]))
    return Built(schedule, schedule)


@st.composite
def composed(draw: st.DrawFn, parts: st.SearchStrategy[Built], how: str | None = None) -> Built:
    """Compose a schedule in one of the ways there are."""
    (s, f), (other, g), n, x = draw(parts), draw(single()), draw(lengths), draw(rates)
    least, most = sorted([x, draw(rates)])
    ways: dict[str, tuple[Callable[[], Any], Callable[[int], float]]] = {
        "then": (lambda: s.then(other, at=n), lambda t: f(t) if t < n else g(t - n)),
        "before": (lambda: other.then(s, at=n), lambda t: g(t) if t < n else f(t - n)),
        "sequence": (
            lambda: made.Sequence([(other, n), (s, 7), other]),
            lambda t: g(t) if t < n else f(t - n) if t < n + 7 else g(t - n - 7),
        ),
        "warmup": (lambda: s.warmup(n), lambda t: f(t - n) if t >= n else f(0) * ((t + 1) / n)),
        "warmup from": (
            lambda: s.warmup(n, start=x),
            lambda t: f(t - n) if t >= n else x + (f(0) - x) * (t / n),
        ),
        "number": (lambda: s * x, lambda t: f(t) * x),
        "number from the left": (lambda: x * s, lambda t: x * f(t)),
        "product": (lambda: s * other, lambda t: f(t) * g(t)),
        "product from the left": (lambda: other * s, lambda t: g(t) * f(t)),
        "clip": (lambda: s.clip(least, most), lambda t: min(max(f(t), least), most)),
        "shift": (lambda: s.shift(n), lambda t: f(t + n)),
        "per_epoch": (lambda: s.per_epoch(n), lambda t: f(t // n)),
        "plateau": (lambda: made.Plateau(s, nan="bad"), f),
    }
    make, formula = ways[how or draw(st.sampled_from(COMPOSING))]
    return Built(make(), formula)


COMPOSING = (
    *("then", "before", "sequence", "warmup", "warmup from", "number", "number from the left", "product"),
    *("product from the left", "clip", "shift", "per_epoch", "plateau"),
)
any_schedule = single() | composed(single()) | composed(composed(single() | composed(single())))
"""Schedules, and compositions up to three deep."""


@st.composite
def tall(draw: st.DrawFn) -> Built:
    """Compose more often than is asked by recursion."""
    built = draw(single())
    for _ in range(draw(st.integers(TALL, TALL + 9))):
        built = draw(composed(st.just(built)))
    return built


def rate_of(schedule: Any, t: int) -> float:
    """Return a rate, which is a finite float >= 0."""
    rate = schedule(t)
    assert type(rate) is float
    assert math.isfinite(rate)
    assert math.copysign(1, rate) > 0
    return rate


@equations.needs_script
@pytest.mark.parametrize("name", ARGUMENTS)
@examples
@given(data=st.data())
def test_values_are_those_of_the_equation(name: str, data: st.DataObject) -> None:
    """Each is a rate plus a share, at most 1, of a difference of rates: a few roundings of the largest rate."""
    options = data.draw(ARGUMENTS[name].filter(equations.says_all))
    schedule = getattr(made, name)(**options)
    far = (
        [] if options.get("mode") == "triangular2" else data.draw(st.lists(times, max_size=5))
    )  # 2^i overflows
    asked = [*range(0, 100, 7), *far]
    seen = [rate_of(schedule, t) for t in asked]
    high = max(*seen, *(options.get(rate, 0.0) for rate in ("lr", "end", "peak", "low", "high", "scale")))
    assert seen == pytest.approx(equations.rates(schedule, asked), rel=64 * EPS, abs=64 * EPS * high)


@pytest.mark.parametrize("how", COMPOSING)
@examples
@given(data=st.data())
def test_compositions_have_the_bits_of_their_formulas(how: str, data: st.DataObject) -> None:
    """Near and far: so they are within the rates of their parts, and hold when those hold."""
    schedule, formula = data.draw(composed(any_schedule, how))
    for t in (*range(40), *data.draw(st.lists(times, max_size=5))):
        assert rate_of(schedule, t) == formula(t)


@settings(examples, max_examples=10)
@given(tall(), st.lists(times, max_size=5))
def test_tall_compositions_have_the_bits_of_their_formulas(built: Built, far: list[int]) -> None:
    """However they are flattened, and without recursion."""
    for t in (*range(9), *far):
        assert rate_of(built.schedule, t) == built.formula(t)
