"""Every rule on every backend against the oracle.

Results must be equal to the last bit. test_oracle.py checks how far the oracle's float32 is from its float64.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest

import lrcore
from rules import oracle
from rules.stepping import SIZES, STAGES, Followed, rate
from support import CONFIGURATIONS, Array, assert_bits, assert_same, gradients, make

STEPS = 50


def grad_scale(stages: str) -> float:
    """Return the scale of the gradients for an entry of `STAGES`."""
    return 0.3 if stages == "coupled" else 1.0


@functools.cache
def problem() -> tuple[Array, list[Array]]:
    """Return the start and the gradients for the largest size; smaller sizes take the first elements."""
    rng = np.random.default_rng(20240601)
    start = rng.standard_normal(SIZES[-1]).astype(np.float32)
    return start, [gradients(rng, SIZES[-1]) for _ in range(STEPS)]


@functools.cache
def expected(rule: str, stages: str) -> tuple[Array, list[Array]]:
    """Return the oracle's parameters and states after all steps."""
    start, all_gradients = problem()
    followed = Followed(rule, start, rate, **STAGES[stages])
    for t, g in enumerate(all_gradients, 1):
        followed.follow(g, t, grad_scale=grad_scale(stages))
    return followed.p, followed.states


def test_every_rule_is_reached_and_has_an_oracle() -> None:
    """Each registered rule has a class that chooses it, and an oracle with its states and hyperparameters."""
    registered = lrcore.rules()
    assert set(CONFIGURATIONS) == set(registered)
    assert set(oracle.RULES) == set(registered)
    for name, rule in registered.items():
        assert oracle.RULES[name].states == rule.states
        assert oracle.RULES[name].hyper == rule.hyper


def test_divisions_and_roots() -> None:
    """A rule that divides has an epsilon; the divisor is a root, except in Adamax, where it is a maximum."""
    for name, rule in lrcore.rules().items():
        roots = {"adadelta": 2, "adamax": 0}.get(name, 1)
        assert (rule.divisions, rule.roots) == ((1, roots) if "eps" in rule.hyper else (0, 0)), name


@pytest.mark.parametrize("stages", STAGES)
def test_bits_of_the_oracle(rule: str, backend: str, stages: str) -> None:
    """The bits equal the oracle's for all sizes, over 50 steps under a scheduled rate."""
    start, all_gradients = problem()
    p, states = expected(rule, stages)
    for n in SIZES:
        optimizer = make(rule, start[:n].copy(), rate, **STAGES[stages])
        for g in all_gradients:
            optimizer.step(g[:n], grad_scale=grad_scale(stages))
        assert optimizer.step_count == STEPS
        assert_same(optimizer, p[:n], [state[:n] for state in states], f"{rule}, {backend}, n = {n}:")


OF_EACH_KIND = ("sgd", "sgd_momentum", "adam", "adam_amsgrad")
"""Rules with zero to three states; no other property of a rule affects the division of a step into parts."""


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("rule", OF_EACH_KIND)
@pytest.mark.parametrize("count", [2, 3, 7])
def test_bits_do_not_depend_on_threads(rule: str, backend: str, count: int) -> None:
    """The sizes are around the smallest ones that the pool divides among two, three and seven threads."""
    start, all_gradients = problem()
    for n in (65_535, 65_536, 98_305, 7 * 32_768 + 5):
        one, many = (make(rule, np.resize(start, n), rate) for _ in range(2))
        resized = [np.resize(g, n) for g in all_gradients[:3]]
        for optimizer, threads in ((one, 1), (many, count)):
            lrcore.set_num_threads(threads)
            for g in resized:  # without a pause, or the pool would not divide so few elements
                optimizer.step(g)
        states = [np.array(state) for state in one.state.values()]
        assert_same(many, one.params, states, f"{rule}, {backend}, {count} threads:")


def test_any_alignment_and_nothing_outside(rule: str, backend: str) -> None:
    """Each array has its own offset of 0 to 15 floats from a cache line.

    The guard words around it stay unchanged.
    """
    guard = np.float32(1e30)
    start, all_gradients = problem()
    cls, chosen = CONFIGURATIONS[rule]
    function = getattr(lrcore.functional, cls.__name__.lower())
    for n in (1, 7, 16, 33, 200):
        optimizer = make(rule, start[:n].copy())
        for g in all_gradients[:3]:
            optimizer.step(g[:n])

        rng = np.random.default_rng(n)
        for shift in range(16):
            offsets = [shift, *rng.integers(0, 16, 1 + len(optimizer.state))]
            memories = [aligned(n + 48, guard) for _ in offsets]
            places = [slice(16 + offset, 16 + offset + n) for offset in offsets]
            p, g, *states = (memory[place] for memory, place in zip(memories, places, strict=True))
            p[:] = start[:n]
            for state in states:
                state[:] = 0
            for t, gradient in enumerate(all_gradients[:3], 1):
                g[:] = gradient[:n]
                function(p, g, *states, step=t, lr=0.01, **chosen)
            assert_same(optimizer, p, states, f"{rule}, {backend}, n = {n}, offsets {offsets}:")
            assert_bits(g, all_gradients[2][:n], "grads")
            for memory, place in zip(memories, places, strict=True):
                assert (np.delete(memory, np.r_[place]) == guard).all()


def aligned(n: int, fill: np.float32) -> Array:
    """Return an array filled with `fill` that begins at a multiple of 64 bytes."""
    memory = np.full(n + 16, fill, np.float32)
    start = (-memory.ctypes.data % 64) // 4
    return memory[start : start + n]
