"""The last stage of a step: a state below 2^-126 is stored as 0, unless eps is below 1e-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import lrcore
from rules.stepping import Followed
from support import Array, assert_bits, flat_hyper, make, slow_but_first

LEAST = np.float32(2**-126)
EXPONENTS = range(-70, -49)
"""Exponents of gradients whose squares lie on both sides of the smallest normal number."""


def has_eps(rule: str) -> bool:
    return "eps" in lrcore.rules()[rule].hyper


def array(*values: float) -> Array:
    return np.array(values, np.float32)


def test_what_is_stored(backend: str) -> None:
    """The parameters are computed from the state before it is stored, and are not set to 0 themselves."""
    halves = array(1.5, 1, np.nextafter(LEAST, np.float32(1)) / LEAST, 0.75, 0.5, 2**-23)
    halves = np.concatenate([halves * LEAST, -halves * LEAST, array(0, -0.0, np.nan, np.inf, -np.inf)])
    stored = np.where(np.abs(halves) < LEAST, np.float32(0), halves)
    assert np.count_nonzero(stored != halves) == 6 + 1  # NaN counts as unequal
    opt = lrcore.SGD(np.zeros_like(halves), lr=1.0, momentum=0.5)
    opt.state["momentum_buffer"][:] = 2 * halves
    opt.step(np.zeros_like(halves))
    assert_bits(opt.params, 0 - halves, backend)
    assert_bits(opt.state["momentum_buffer"], stored, backend)


def test_around_the_smallest_normal_number(rule: str, backend: str) -> None:
    """Around 2^-126 and at zero, states, gradients and parameters have the oracle's bits."""
    rng = np.random.default_rng(4)
    numbers = rng.standard_normal((7, 37)) * np.exp2(rng.integers(-140, -120, (7, 37)))
    numbers[:, 3], numbers[:, 20] = 0, -0.0
    p, *others = numbers.astype(np.float32)
    for eps in (0.0, 9.9e-11, 1e-10, 1e-8) if has_eps(rule) else (None,):
        followed = Followed(rule, p, weight_decay=0.01, **({} if eps is None else {"eps": eps}))
        for (name, state), x in zip(followed.opt.state.items(), others, strict=False):
            state[:] = np.abs(x) if "sq" in name or name == "sum" else x
        followed.states = [np.array(state) for state in followed.opt.state.values()]
        for g in others[-3:]:
            followed.step(g, f"{backend}, eps = {eps}")


EPS = (0.0, 1e-30, 1e-12, 1e-10)
CASES: list[tuple[str, float | None]] = [
    *((name, None) for name in lrcore.rules() if name != "lion"),
    *((name, eps) for name in ("adagrad", "rmsprop_centered", "adadelta", "adam", "adamax") for eps in EPS),
]
"""Each rule except Lion has a case with its default eps.

Some rules, which divide in different ways, also have a case with each of `EPS`.
"""


@pytest.mark.parametrize(("name", "eps"), slow_but_first(CASES))
def test_no_step_changes_by_it(name: str, eps: float | None) -> None:
    """The stage adds no NaN or infinity, for constant tiny gradients and for bursts followed by many zeros.

    The parameters have the same bits with and without the stage. With an eps below 1e-10, the states also
    have the same bits. Lion has its own test.
    """
    constant = np.exp2(EXPONENTS) * np.random.default_rng(5).uniform(1, 2, len(EXPONENTS))
    g = np.tile(constant, 4).astype(np.float32)
    later = g * np.repeat(array(1, 0, 1, 0), len(EXPONENTS))
    start = np.repeat(array(0, 0, 1, 1), len(EXPONENTS))
    without = Followed(name, start, **({} if eps is None else {"eps": eps}))
    opt = without.opt
    lost = 0
    for t in range(1, 2500 if flat_hyper(opt).get("eps", 1) >= 1e-10 else 500):
        opt.step(g if t <= 3 else later)
        without.follow(g if t <= 3 else later, t, store=False)
        assert_bits(opt.params, without.p, f"t = {t}")
        for x, y in zip(opt.state.values(), without.states, strict=True):
            lost += int(np.count_nonzero(x != y))
    assert (lost > 0) == (len(without.states) > 0 and (eps is None or eps >= 1e-10))


def test_lion_comes_to_rest() -> None:
    """Lion steps by the sign of even the smallest average; without the stage it would never stop."""
    g = np.exp2(EXPONENTS).astype(np.float32)
    without = Followed("lion", np.zeros_like(g), betas=(0.9, 0.9))
    opt = without.opt
    for t in range(1, 1501):
        opt.step(g if t == 1 else 0 * g)
        without.follow(g if t == 1 else 0 * g, t, store=False)
    assert_bits(opt.state["exp_avg"], np.zeros_like(g))
    at_rest, p = opt.params.copy(), without.p
    opt.step(0 * g)
    assert_bits(opt.params, at_rest)
    without.follow(0 * g, 1501, store=False)
    assert np.all(without.p < p)
    assert np.all(p < at_rest)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad", "adadelta"])
def test_eps_is_that_of_the_step(name: str, backend: str) -> None:
    """An eps that is assigned between two steps takes effect in the second."""
    opt = make(name, np.ones(5, np.float32), weight_decay=0.0)
    (squares,) = (state for state in opt.state if state in ("exp_avg_sq", "square_avg", "sum"))
    for eps in (1e-8, 1e-11, 0.99e-10, 1e-10, 0.0, 1.0):
        opt.hyper["eps"] = eps
        opt.state[squares][:] = np.full(5, 1e-39, np.float32)
        opt.step(np.zeros(5, np.float32))
        assert np.all((opt.state[squares] == 0) == (eps >= 1e-10)), f"{backend}, eps = {eps}"


def test_small_states_that_are_given_wait_for_a_step(tmp_path: Path) -> None:
    """Small states keep their values when they are assigned, loaded, read from a file or copied."""
    small = np.full(5, 1e-40, np.float32)
    opt = lrcore.Adam(np.ones(5, np.float32))
    opt.state["exp_avg"][:] = small
    opt.save(tmp_path / "state.safetensors")
    loaded = lrcore.Adam(np.ones(5, np.float32))
    loaded.load_state_dict(opt.state_dict())
    from_file = lrcore.Adam(np.ones(5, np.float32))
    from_file.load(tmp_path / "state.safetensors")
    for each in (opt, loaded, from_file):
        assert_bits(each.state["exp_avg"], small)
        each.step(np.zeros(5, np.float32))
        assert_bits(each.state["exp_avg"], np.zeros(5, np.float32))
