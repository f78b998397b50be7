"""The oracle against steps worked by hand, and its error bounds against random steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import pytest

from rules.oracle import RULES, Arithmetic, Decay, Options, bounds, step, step32, step64

F = np.float32
Array = npt.NDArray[np.float32]
Element = tuple[float, float, list[float]]

HYPER = {
    "momentum": 0.9,
    "dampening": 0.3,
    "lr_decay": 1e-3,
    "eps": 1e-8,
    "alpha": 0.99,
    "rho": 0.9,
    "beta1": 0.9,
    "beta2": 0.999,
    "momentum_decay": 4e-3,
}
DECAYS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.01, "grad_scale": 1 / 3, "maximize": True},
    {"weight_decay": 0.1, "decay": "decoupled", "grad_scale": 1 / 7},
    {"weight_decay": 0.1, "decay": "independent"},
]

# Steps from p = 1, g = 2 in which every intermediate result is a short binary fraction, so that float32
# and float64 are both exact: rule, t, lr, hyperparameters, states, p after, states after.
MU = {"momentum": 0.5, "dampening": 0.25}
RMS = {"alpha": 0.5, "eps": 2.0, "momentum": 0.5}
INSIDE = RMS | {"eps": 12.0}
BETAS = {"beta1": 0.5, "beta2": 0.75, "momentum_decay": 0.0}
BY_HAND: list[tuple[str, int, float, dict[str, float], list[float], float, list[float]]] = [
    ("sgd", 1, 0.25, {}, [], 0.5, []),
    ("sgd_momentum", 1, 0.25, MU, [4], 0, [4]),
    ("sgd_momentum", 2, 0.25, MU, [4], 0.125, [3.5]),
    ("sgd_nesterov", 2, 0.25, MU, [4], 0, [4]),
    ("sgd_velocity", 2, 0.25, MU, [4], -1.5, [2.5]),
    ("sgd_nesterov_velocity", 2, 0.25, MU, [4], -0.75, [2.5]),
    ("adagrad", 2, 0.25, {"eps": 4, "lr_decay": 1}, [12], 0.96875, [16]),
    ("adagrad_inside", 2, 0.25, {"eps": 4, "lr_decay": 1}, [8], 0.9375, [12]),
    ("rmsprop", 1, 0.25, RMS, [4], 0.875, [4]),
    ("rmsprop_momentum", 1, 0.25, RMS, [4, 4], 0.375, [4, 2.5]),
    ("rmsprop_velocity", 1, 0.25, RMS, [4, 4], -1.125, [4, 2.125]),
    ("rmsprop_inside", 1, 0.25, INSIDE, [4], 0.875, [4]),
    ("rmsprop_inside_momentum", 1, 0.25, INSIDE, [4, 4], 0.375, [4, 2.5]),
    ("rmsprop_inside_velocity", 1, 0.25, INSIDE, [4, 4], -1.125, [4, 2.125]),
    ("rmsprop_centered", 1, 0.25, RMS, [12, 2], 0.875, [8, 2]),
    ("rmsprop_centered", 1, 0.25, RMS, [0, 6], 0.75, [2, 4]),  # v - a * a is -14
    ("rmsprop_centered_momentum", 1, 0.25, RMS, [12, 2, 4], 0.375, [8, 2, 2.5]),
    ("rmsprop_centered_velocity", 1, 0.25, RMS, [12, 2, 4], -1.125, [8, 2, 2.125]),
    ("rmsprop_centered_inside", 1, 0.25, INSIDE, [12, 2], 0.875, [8, 2]),
    ("rmsprop_centered_inside_momentum", 1, 0.25, INSIDE, [12, 2, 4], 0.375, [8, 2, 2.5]),
    ("rmsprop_centered_inside_velocity", 1, 0.25, INSIDE, [12, 2, 4], -1.125, [8, 2, 2.125]),
    ("adadelta", 1, 0.25, {"rho": 0.5, "eps": 12}, [4, 52], 0, [4, 34]),
    ("adam", 1, 0.25, BETAS | {"eps": 4}, [2, 4], 0.875, [2, 4]),
    ("adam_hat", 1, 0.25, BETAS | {"eps": 2}, [2, 4], 0.875, [2, 4]),
    ("adam_amsgrad", 1, 0.25, BETAS | {"eps": 8}, [2, 4, 16], 0.9375, [2, 4, 16]),
    ("adam_amsgrad", 1, 0.25, BETAS | {"eps": 4}, [2, 4, 1], 0.875, [2, 4, 4]),
    ("adam_amsgrad_hat", 1, 0.25, BETAS | {"eps": 4}, [2, 4, 16], 0.9375, [2, 4, 16]),
    ("nadam", 1, 0.9375, BETAS | {"eps": 4}, [2, 4], 0.703125, [2, 4]),
    ("radam", 1, 0.25, BETAS | {"eps": 4}, [2, 4], 0, [2, 4]),  # rho is 1
    ("radam", 10**6, 0.25, BETAS | {"eps": 2}, [2, 4], 0.875, [2, 4]),  # rho is rho_inf, 7
    ("adamax", 1, 0.25, BETAS | {"eps": 2}, [2, 4], 0.75, [2, 4]),
    ("adamax", 1, 0.25, BETAS | {"eps": 2, "beta2": 0.5}, [2, 16], 0.875, [2, 8]),
    ("lion", 1, 0.25, BETAS, [-4], 1.25, [-2.5]),
    ("lion", 1, 0.25, BETAS, [-2], 1, [-1]),
]


def logarithmic(rng: np.random.Generator, n: int, low: float, high: float, *, signed: bool) -> Array:
    """Return numbers whose magnitudes are spread evenly on a logarithmic scale from 10**low to 10**high."""
    x = 10 ** rng.uniform(low, high, n)
    return (x * rng.choice([-1.0, 1.0], n) if signed else x).astype(F)


def draw(rule: str, seed: int, n: int, low: float = -6, high: float = 3) -> tuple[Array, Array, list[Array]]:
    """Return p, g and states; a fifth of the states are zero, as before the first step."""
    rng = np.random.default_rng(seed)
    p, g = (logarithmic(rng, n, low, high, signed=True) for _ in range(2))
    states: list[Array] = []
    for name in RULES[rule].states:
        if name == "grad_avg":
            states.append((np.sqrt(states[0]) * rng.uniform(-1, 1, n)).astype(F))
        elif name in ("exp_avg", "momentum_buffer"):
            states.append(logarithmic(rng, n, low, high, signed=True))
        else:
            power = 1 if name == "exp_inf" else 2
            states.append(logarithmic(rng, n, power * low, power * high, signed=False))
        states[-1][rng.random(n) < 0.2] = 0
    return p, g, states


def elements(p: Array, g: Array, states: list[Array]) -> Iterator[Element]:
    """Yield p, g and the states of each element."""
    for i in range(len(p)):
        yield float(p[i]), float(g[i]), [float(x[i]) for x in states]


def excess(rule: str, p: Array, g: Array, states: list[Array], options: Options) -> tuple[float, float]:
    """Return the worst |step32 - step64| / bound of p and the states, and the fraction of finite bounds.

    p is left out if it is not comparable, and so are results with an infinite bound.
    """
    worst, finite = 0.0, 0
    new, new_states = step32(rule, p, g, states, **options)
    for result, element in zip(zip(new, *new_states, strict=True), elements(p, g, states), strict=True):
        limit, limits, comparable = bounds(rule, *element, **options)
        finite += math.isfinite(limit)
        exact, exacts = step64(rule, *element, **options)
        for i, (x, y, most) in enumerate(zip(result, [exact, *exacts], [limit, *limits], strict=True)):
            if math.isfinite(most) and (comparable or i > 0):
                error = abs(float(x) - y)
                worst = max(worst, math.inf if math.isnan(error) else error / most)
    return worst, finite / len(p)


@pytest.mark.parametrize(("rule", "t", "lr", "hyper", "states", "p", "after"), BY_HAND)
def test_steps_worked_by_hand(
    rule: str, t: int, lr: float, hyper: dict[str, float], states: list[float], p: float, after: list[float]
) -> None:
    options: Options = {"t": t, "lr": lr, "hyper": hyper}
    assert step64(rule, 1.0, 2.0, [float(x) for x in states], **options) == (p, after)
    new, new_states = step32(
        rule, np.ones(3, F), np.full(3, 2, F), [np.full(3, x, F) for x in states], **options
    )
    for x, y in zip([new, *new_states], [p, *after], strict=True):
        assert x.dtype == F
        assert x.tolist() == [y] * 3


def test_stages_worked_by_hand() -> None:
    """The new p is 2 * KEEP - 0.25 * b, where b is the gradient after the stages."""
    options: dict[str, Any] = {"t": 1, "lr": 0.25, "hyper": {"momentum": 0.5, "dampening": 0.0}}
    cases: list[tuple[dict[str, Any], float, float]] = [
        ({}, 1.5, 2),
        ({"weight_decay": 0.5}, 1.25, 3),
        ({"weight_decay": 0.5, "decay": "decoupled"}, 1.25, 2),
        ({"weight_decay": 0.5, "decay": "independent"}, 0.5, 2),
        ({"maximize": True}, 2.5, -2),
        ({"grad_scale": 0.5, "maximize": True, "weight_decay": 0.5}, 2, 0),
        ({"grad_scale": 0.5, "maximize": True, "weight_decay": 0.5, "decay": "decoupled"}, 2, -1),
    ]
    for stages, p, b in cases:
        assert step64("sgd_momentum", 2.0, 2.0, [0.0], **options, **stages) == (p, [b])


class _Count:
    """The number of roundings in a value."""

    def __init__(self, n: float) -> None:
        self.n = n

    def __add__(self, b: _Count) -> _Count:
        return _Count(max(self.n, b.n) + 1)

    __sub__ = __add__

    def __mul__(self, b: _Count) -> _Count:
        return _Count(self.n + b.n + 1)

    __truediv__ = __mul__


class _Counting(Arithmetic):
    def constant(self, x: float) -> _Count:  # noqa: ARG002
        return _Count(1)

    def sqrt(self, x: _Count) -> _Count:
        return _Count(x.n / 2 + 1)

    def abs(self, x: _Count) -> _Count:
        return x

    def max(self, a: _Count, b: _Count) -> _Count:
        return _Count(max(a.n, b.n))

    def sign(self, x: _Count) -> _Count:  # noqa: ARG002
        return _Count(0)


@pytest.mark.parametrize("rule", RULES)
def test_k_is_the_number_of_roundings(rule: str) -> None:
    """The count of the longest path, rounded up to an integer, equals k."""
    counts = []
    decays: tuple[Decay, ...] = get_args(Decay)
    for decay in decays:
        zeros = [_Count(0) for _ in RULES[rule].states]
        options: Options = {"t": 2, "lr": 0.1, "hyper": HYPER, "weight_decay": 0.1, "decay": decay}
        p, states = step(_Counting(), rule, _Count(0), _Count(0), zeros, options)
        counts += [x.n for x in (p, *states)]
    assert math.ceil(max(counts)) == RULES[rule].k


@pytest.mark.parametrize("rule", RULES)
def test_float32_is_within_its_bound(rule: str) -> None:
    """The error is at most its bound. Somewhere it exceeds a tenth of the bound, so k is not too large.

    It is below the bound because roundings do not all err by half a unit with the same sign; the largest
    measured ratios are 0.2 to 0.6.
    """
    worst = 0.0
    for seed, (t, decay) in enumerate(itertools.product((1, 2, 10, 1000, 10**6), DECAYS)):
        options = cast("Options", {"t": t, "lr": 0.01, "hyper": HYPER} | decay)
        ratio, finite = excess(rule, *draw(rule, seed, 60), options)
        worst = max(worst, ratio)
        assert finite == 1
    print(f"{rule} k = {RULES[rule].k:g}: error / bound at most {worst:.3f}")
    assert 0.1 < worst <= 1


@pytest.mark.parametrize("rule", RULES)
def test_bound_holds_where_float32_underflows_or_overflows(rule: str) -> None:
    for low, high, eps in ((-46, -12, 1e-8), (-46, -12, 0), (-45, 38, 1e-8)):
        with np.errstate(over="ignore"):
            p, g, states = draw(rule, 5, 60, low, high)
        states = [np.where(np.isfinite(x), x, F(1)) for x in states]
        g = np.where(np.abs(g) < 1e-44, F(1e-44), g)  # avoids 0 / 0 if eps is 0
        options: Options = {"t": 3, "lr": 0.01, "hyper": HYPER | {"eps": eps}, "weight_decay": 0.3}
        assert excess(rule, p, g, states, options)[0] <= 1


@pytest.mark.parametrize("rule", RULES)
def test_bound_holds_where_the_decay_cancels_the_gradient(rule: str) -> None:
    """The sum g + WD * p is small; if the states are zero, later quotients and roots inherit its error."""
    p, _, states = draw(rule, 6, 100, -3, 1)
    cancelled = 10 ** np.random.default_rng(6).uniform(-8, 0, len(p))
    g = (-0.3 * p.astype(float) * (1 + cancelled)).astype(F)
    options: Options = {"t": 1, "lr": 0.01, "hyper": HYPER, "weight_decay": 0.3}
    for start in (states, [np.zeros_like(x) for x in states]):
        ratio, finite = excess(rule, p, g, start, options)
        assert ratio <= 1
        assert finite > 0.25


@pytest.mark.parametrize(("part", "comparable"), [(2.0**-23, False), (2.0**-12, True)])
def test_what_cancels_is_compared_where_it_is_resolved(part: float, comparable: bool) -> None:
    """Lion's terms of m and g, or RMSprop's mean square and squared mean, cancel except for `part`."""
    options: Options = {"t": 1, "lr": 0.1, "hyper": {"beta1": 0.5, "beta2": 0.9, "alpha": 0.5, "eps": 1e-8}}
    assert bounds("lion", 1.0, 1 + part / 2, [-1.0], **options)[2] is comparable
    assert bounds("rmsprop_centered", 1.0, 1.0, [1 + part, 1.0], **options)[2] is comparable
