"""The learning rate and the step count: when schedules are called, and what refused rates leave unchanged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from support import ONES, N, assert_bits, assert_same, run, start


def test_a_rate_is_asked_again_only_when_it_is_for_another_step() -> None:
    """Steps and reads of opt.lr call the schedule; refused gradients and unrelated assignments do not."""
    asked: list[int] = []

    def rate(t: int) -> float:
        asked.append(t)
        opt.hyper["weight_decay"] = 0.0
        opt.state_dict()
        return 0.5

    opt = lrcore.SGD(start(), lr=rate)
    opt.step(ONES)
    with pytest.raises(ValueError, match="^grads: "):
        opt.step(ONES[:3])
    opt.step(ONES)
    opt.step_count = 7
    opt.step(ONES)
    assert asked == [0, 1, 7]
    assert opt.lr == 0.5
    assert asked == [0, 1, 7, 8]


def test_assigning_the_rate() -> None:
    """A number, schedule or callable is accepted; the step count continues. Wrong values have no effect."""
    opt, rate = lrcore.SGD(start()), np.array(0.5)
    opt.lr = rate  # type: ignore[assignment]
    rate[...] = 0.25  # the value was read at the assignment
    assert opt.schedule == schedules.Constant(0.5)
    run(opt, 2)
    opt.lr = schedules.Cosine(1.0, steps=10)
    assert opt.lr == schedules.Cosine(1.0, steps=10)(2)
    opt.lr = lambda t: t * 1.0
    assert opt.lr == 2
    wrong: list[tuple[Any, type[Exception], str]] = [
        (-1.0, ValueError, ""),
        (np.nan, ValueError, ""),
        (1e-50, ValueError, ""),
        ("fast", TypeError, "expected a number, a schedule or a callable, got str"),
        (schedules.Cosine, TypeError, "expected .*got the class Cosine itself"),
    ]
    for bad, error, words in wrong:
        with pytest.raises(error, match=f"^lr: {words}"):
            opt.lr = bad
    before = np.array(opt.params)
    opt.step(ONES)
    assert_bits(opt.params, before - np.float32(2))


FINITE = "lr: expected a number >= 0 that is finite in float32, got"


@pytest.mark.parametrize(
    ("rate", "error", "words"),
    [
        (np.nan, ValueError, f"{FINITE} nan from the schedule at t = 1"),
        (-1.0, ValueError, f"{FINITE} -1.0 from the schedule at t = 1"),
        ("fast", TypeError, "lr from the schedule at t = 1: expected a number, got str"),
    ],
)
def test_a_schedule_that_fails(rate: Any, error: type[Exception], words: str) -> None:
    """Nothing changes, including the step count."""
    opt = lrcore.SGD(start(), lr=0.5, momentum=0.9)
    run(opt, 1)
    opt.lr = lambda _: rate
    before, states = np.array(opt.params), [np.array(opt.state["momentum_buffer"])]
    with pytest.raises(error, match=f"^{words}"):
        opt.step(ONES)
    assert_same(opt, before, states)
    assert opt.step_count == 1


def test_a_schedule_must_not_step_its_own_optimizer() -> None:
    """The inner step would call the schedule again. Other uses of the optimizer are allowed."""

    def stepping(t: int) -> float:
        assert opt.step_count == t == 0
        opt.state_dict()
        opt.step(ONES)
        return 0.5

    opt = lrcore.SGD(start(), lr=stepping)
    with pytest.raises(RuntimeError, match="a schedule must not step the optimizer that is calling it"):
        opt.step(ONES)
    assert_bits(opt.params, start())
    opt.lr = 0.5
    opt.step(ONES)
    assert opt.step_count == 1


@pytest.mark.parametrize("moving", [False, True])
def test_a_schedule_that_is_never_current_is_not_asked_for_ever(moving: bool) -> None:
    """If a schedule replaces itself at each call, the step uses its rate after ten failed tries.

    The last replacement takes effect after the step. If a schedule changes the step count, the step raises.
    """
    asked = []

    def rate(t: int) -> float:
        asked.append(t)
        if moving:
            opt.step_count = t + 1
        else:
            opt.lr = rate
        return 0.5

    opt = lrcore.SGD(start(), lr=rate)
    if moving:
        with pytest.raises(RuntimeError, match="^step_count: .*a schedule must not change the step count"):
            opt.step(ONES)
    else:
        opt.step(ONES)
        assert asked == [0] * 11
    assert_bits(opt.params, start() - np.float32(0 if moving else 0.5))


def test_step_returns_none_and_bound_gradients_are_read_at_every_step() -> None:
    g = ONES.copy()
    opt = lrcore.SGD(start(), lr=1.0, grads=g)
    assert opt.step() is None  # type: ignore[func-returns-value]
    g[:] = 2
    opt.step()
    opt.step(np.full(N, 4, np.float32))
    assert_bits(opt.params, start() - np.float32(1) - np.float32(2) - np.float32(4))
