"""Properties of schedules with any arguments, and of their compositions, for small and large t."""

from __future__ import annotations

import inspect
import math
import typing
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lrcore import schedules
from lrcore.schedules._composed import TALL
from schedules import equations
from schedules.examples import CLASSES, EXAMPLES

made: Any = schedules
EPS = 2.0**-52

examples = settings(derandomize=True, deadline=None, database=None, max_examples=30)

rates = st.just(0.0) | st.floats(1e-9, 10.0) | st.sampled_from([0.1, 0.3, 0.7, 1.0])
shares = st.just(1.0) | st.floats(0.05, 1.0)
lengths = st.integers(1, 60) | st.sampled_from([1, 2, 49, 97, 10**6 + 3])
pairs = st.lists(st.tuples(rates, st.integers(1, 30)), min_size=1, max_size=4)
times = st.integers(0, 300) | st.integers(0, 10**15)

BY_NAME: dict[str, st.SearchStrategy[Any]] = (
    dict.fromkeys(("lr", "end", "peak", "base", "low", "high", "scale"), rates)
    | dict.fromkeys(("rate", "factor", "gamma", "peak_mult"), shares)
    | dict.fromkeys(("steps", "every", "up", "decay", "model_dim"), lengths)
    | dict.fromkeys(("warmup_steps", "stable"), st.just(0) | lengths)
    | dict.fromkeys(("power", "power2"), st.just(0.0) | st.just(1.0) | st.floats(0.05, 4.0))
    | dict.fromkeys(("stages", "pulses"), pairs)
    | {
        "k": st.just(0.0) | st.floats(1e-9, 3.0),
        "down": st.none() | lengths,
        "cycle_mult": st.integers(1, 10),
        "pct_start": st.floats(0.05, 0.6),
        "div": st.floats(0.5, 50),
        "final_div": st.floats(0.5, 1e4),
    }
)
"""Values for arguments by name. They are limited so that no rate grows without bound."""
NAMES = [*EXAMPLES.keys() - {"Recursive"}]
"""All schedules with a dictionary form, except compositions."""


class Built(NamedTuple):
    """A schedule, and the formula that its composition stands for."""

    schedule: Any
    formula: Callable[[int], float]


@st.composite
def single(draw: st.DrawFn, name: str | None = None) -> Built:
    """Return a schedule with any arguments; if these are incompatible, use those of its first example."""
    name = name or draw(st.sampled_from(sorted(NAMES)))
    hints = typing.get_type_hints(CLASSES[name].__init__)
    options = dict(EXAMPLES[name][0])
    for argument in inspect.signature(CLASSES[name]).parameters:
        if hints[argument] is bool:
            options[argument] = draw(st.booleans())
        elif typing.get_origin(hints[argument]) is typing.Literal:
            options[argument] = draw(st.sampled_from(typing.get_args(hints[argument])))
        elif argument in BY_NAME:
            options[argument] = draw(BY_NAME[argument])
    if name == "PiecewiseConstant":
        options["boundaries"] = draw(st.lists(lengths, unique=True, max_size=5).map(sorted))
        options["values"] = [draw(rates) for _ in range(len(options["boundaries"]) + 1)]
    try:
        schedule = CLASSES[name](**options)
    except ValueError:
        schedule = CLASSES[name](**EXAMPLES[name][0])
    return Built(schedule, schedule)


@st.composite
def composed(draw: st.DrawFn, parts: st.SearchStrategy[Built], how: str | None = None) -> Built:
    """Return a composition made in one of the possible ways."""
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
    """Return a composition that is too tall to be evaluated by recursion."""
    built = draw(single())
    for _ in range(draw(st.integers(TALL, TALL + 9))):
        built = draw(composed(st.just(built)))
    return built


def rate_of(schedule: Any, t: int) -> float:
    """Return a rate, and check that it is a finite float >= 0."""
    rate = schedule(t)
    assert type(rate) is float
    assert math.isfinite(rate)
    assert math.copysign(1, rate) > 0
    return rate


@equations.needs_script
@pytest.mark.parametrize("name", sorted(NAMES))
@examples
@given(data=st.data())
def test_values_are_those_of_the_equation(name: str, data: st.DataObject) -> None:
    """The tolerance is 64 rounding errors of the largest rate.

    Each value is a rate, plus a difference of two rates times a factor of at most 1.
    """
    schedule = data.draw(single(name)).schedule
    options = dict(schedule._arguments())
    assume(equations.says_all(options))
    far = (
        [] if options.get("mode") == "triangular2" else data.draw(st.lists(times, max_size=5))
    )  # 2^i would overflow
    asked = [*range(0, 100, 7), *far]
    seen = [rate_of(schedule, t) for t in asked]
    high = max(*seen, *(options.get(rate, 0.0) for rate in ("lr", "end", "peak", "low", "high", "scale")))
    assert seen == pytest.approx(equations.rates(schedule, asked), rel=64 * EPS, abs=64 * EPS * high)


@pytest.mark.parametrize("how", COMPOSING)
@examples
@given(data=st.data())
def test_compositions_have_the_bits_of_their_formulas(how: str, data: st.DataObject) -> None:
    """A composition and its formula have the same bits for small and large t.

    The rate of a composition therefore becomes constant once the rates of its parts are constant.
    """
    schedule, formula = data.draw(composed(any_schedule, how))
    for t in (*range(40), *data.draw(st.lists(times, max_size=5))):
        assert rate_of(schedule, t) == formula(t)


@settings(examples, max_examples=10)
@given(tall(), st.lists(times, max_size=5))
def test_tall_compositions_have_the_bits_of_their_formulas(built: Built, far: list[int]) -> None:
    """The bits are equal, although the composition is flattened and evaluated without recursion."""
    for t in (*range(9), *far):
        assert rate_of(built.schedule, t) == built.formula(t)
