"""The relative size of a step, and rates for other batch sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import LIBRARIES, library
from lrcore import schedules
from lrcore.tune import scale_lr, update_ratio
from schedules.examples import every, label
from support import Array, assert_bits, assert_same, gradients, make, run, start


def ratio(before: Array, after: Array) -> float:
    """Return the ratio of two norms in float64, from exact sums of squares."""
    p, q = before.ravel().astype(np.float64), after.ravel().astype(np.float64)
    moved, size = math.fsum((q - p) ** 2), math.fsum(p**2)
    return math.sqrt(moved) / math.sqrt(size)


CLOSE = 1e-14
"""Relative tolerance: each of about twenty squares and sums has a relative rounding error of up to 1.1e-16."""


def test_it_takes_the_step_and_measures_it(rule: str) -> None:
    measured, plain = (make(rule, start().reshape(3, 7), weight_decay=0.01) for _ in range(2))
    for opt in (measured, plain):
        run(opt, 2)
    before, g = np.array(plain.params), gradients(np.random.default_rng(4), plain.size)
    plain.step(g, grad_scale=0.5)
    found = update_ratio(measured, g, grad_scale=0.5)
    assert type(found) is float
    assert found == pytest.approx(ratio(before, plain.params), rel=CLOSE)
    assert found > 0
    assert_same(measured, plain.params, [np.array(state) for state in plain.state.values()])
    assert measured.step_count == plain.step_count == 3


@pytest.mark.parametrize(
    ("params", "gradient", "expected"),
    [
        ([3, 4], [0.6, 0.8], 0.1),
        ([1, 1, 1], [0.25] * 3, 0.125),
        ([0, 0], [1, 0], math.inf),
        ([0, 0], [0, 0], 0),
        ([1, 1], [0, 0], 0),
        ([-0.0], [0], 0),
        ([], [], 0),
        *(([1, each], [1, 1], math.nan) for each in (math.nan, math.inf, -math.inf)),
    ],
)
def test_by_hand(params: Any, gradient: Any, expected: float) -> None:
    """The gradients are bound. (3, 4) moves by (0.6, 0.8) / 2, a tenth of its norm.

    float32 rounds each number with a relative error of 2^-24.
    """
    p, g = np.array(params, np.float32), np.array(gradient, np.float32)
    moved = p - g / 2
    found = update_ratio(lrcore.SGD(p, lr=0.5, grads=g))
    assert found == pytest.approx(expected, rel=2**-20, nan_ok=True)
    assert_bits(p, moved)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-20, 1.0, 1e20, 1e30, 1e37])
def test_no_size_overflows_or_vanishes(scale: float) -> None:
    """Squares in float32 would overflow above 1.85e19, and vanish below 2.6e-23."""
    before = (start() * scale).astype(np.float32)
    opt = lrcore.SGD(before.copy(), lr=0.5)
    found = update_ratio(opt, before[::-1].copy())
    assert found == pytest.approx(ratio(before, opt.params), rel=CLOSE)
    assert 0.1 < found < 1


def test_a_tiny_move_of_many_parameters_is_exact() -> None:
    """Of 10,000 parameters that are 1, one decreases by an ulp of 2^-24, which would be lost in float32 sums.

    All squares are powers of two.
    """
    params, g = np.ones(10_000, np.float32), np.zeros(10_000, np.float32)
    g[77] = 2.0**-24
    assert update_ratio(lrcore.SGD(params, lr=1.0), g) == 2.0**-24 / 100


@pytest.mark.parametrize("name", LIBRARIES)
def test_device_arrays(name: str, rule: str) -> None:
    g = gradients(np.random.default_rng(4), 21)
    expected = update_ratio(make(rule, start().reshape(3, 7)), g)
    with library(name) as xp:
        opt, stream = make(rule, xp.array(start().reshape(3, 7))), xp.stream()
        assert update_ratio(opt, xp.array(g), stream=stream) == expected
        assert opt.step_count == 1


def test_a_refused_step_changes_nothing() -> None:
    opt = lrcore.Adam(start())
    run(opt, 2)
    before, states = np.array(opt.params), [np.array(state) for state in opt.state.values()]
    with pytest.raises(TypeError, match="^grads: "):
        update_ratio(opt, np.ones(21))
    with pytest.raises(TypeError, match="^opt: expected an optimizer, got ndarray"):
        update_ratio(start(), start())  # type: ignore[arg-type]
    assert_same(opt, before, states)
    assert opt.step_count == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0.1, 1024, 256), 0.4),
        ((0.1, 1024, 256, "sqrt"), 0.2),
        ((0.1, 64, 256), 0.025),
        ((0.1, 64, 256, "sqrt"), 0.05),
    ],
)
def test_scaled_rates(arguments: Any, expected: float) -> None:
    """The factors are powers of two, so the results are exact."""
    scaled = scale_lr(*arguments)
    assert scaled == expected
    assert isinstance(scaled, float)


@pytest.mark.parametrize("schedule", every(), ids=label)
@pytest.mark.parametrize(("rule", "factor"), [("linear", 9.0), ("sqrt", 3.0)])
def test_scaled_schedules(schedule: schedules.Schedule, rule: Any, factor: float) -> None:
    scaled = scale_lr(schedule, 1152, 128, rule)
    assert [scaled(t) for t in range(30)] == [factor * schedule(t) for t in range(30)]
    lrcore.SGD(start(), lr=scaled)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0.1, 0, 1), ValueError, "batch_size: "),
        ((0.1, 1, 0), ValueError, "base_batch_size: "),
        ((0.1, math.inf, 1), ValueError, "batch_size: "),
        ((0.1, "64", 1), TypeError, "batch_size: "),
        ((0.1, 2, 1, "cubic"), ValueError, "rule: expected one of linear, sqrt, got 'cubic'"),
        ((-0.1, 2, 1), ValueError, "lr: "),
        (("0.1", 2, 1), TypeError, "lr: "),
        ((lambda _: 0.1, 2, 1), TypeError, "lr: "),
    ],
)
def test_wrong_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        scale_lr(*arguments)
