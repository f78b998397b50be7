"""The learning rate and the clock: what is asked when, and what a refused rate leaves as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from support import ONES, N, assert_bits, assert_same, run, start


def test_a_rate_is_asked_again_only_when_it_is_for_another_step() -> None:
    """Refused steps ask for the same one again; assignments that change nothing of it do not; reading it asks."""
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
    opt = lrcore.SGD(start(), lr=schedules.Cosine(1.0, steps=10))
    run(opt, 2)
    assert opt.lr == schedules.Cosine(1.0, steps=10)(2)
    opt.lr = 0.25
    assert opt.lr == 0.25
    before = np.array(opt.params)
    opt.step(ONES)
    assert_bits(opt.params, before - np.float32(0.25))
    opt.lr = lambda t: t * 1.0
    assert opt.lr == 3
    for bad in (-1.0, np.nan, 1e-50):
        with pytest.raises(ValueError, match="^lr: "):
            opt.lr = bad
    with pytest.raises(TypeError, match="^lr: expected a number, a schedule or a callable, got str"):
        opt.lr = "fast"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="^lr: expected .*got the class Cosine itself"):
        opt.lr = schedules.Cosine  # type: ignore[assignment]
    assert opt.lr == 3


@pytest.mark.parametrize(
    ("rate", "error", "words"),
    [
        (np.nan, ValueError, "lr: expected a number >= 0 that is finite in float32, got nan from the schedule at t = 1"),
        (-1.0, ValueError, "lr: expected a number >= 0 that is finite in float32, got -1.0 from the schedule"),
        (1e39, ValueError, r"lr: expected a number >= 0 that is finite in float32, got 1e\+39 from"),
        ("fast", TypeError, "lr from the schedule at t = 1: expected a number, got str"),
        (None, TypeError, "lr from the schedule at t = 1: expected a number, got None"),
    ],
)  # fmt: skip
def test_a_schedule_that_fails(rate: Any, error: type[Exception], words: str) -> None:
    """Nothing is changed and the clock stands still."""
    opt = lrcore.SGD(start(), lr=0.5, momentum=0.9)
    run(opt, 1)
    opt.lr = lambda _: rate
    before, states = np.array(opt.params), [np.array(opt.state["momentum_buffer"])]
    with pytest.raises(error, match=f"^{words}"):
        opt.step(ONES)
    assert_same(opt, before, states)
    assert opt.step_count == 1
    opt.lr = 0.5
    opt.step(ONES)
    assert opt.step_count == 2


def test_a_scheduled_rate_may_round_to_zero() -> None:
    opt = lrcore.SGD(start(), lr=lambda _: 1e-60)
    opt.step(ONES)
    assert_bits(opt.params, start())


def test_a_schedule_must_not_step_its_own_optimizer() -> None:
    """That step would ask for a rate in turn; also through other optimizers, and whatever else the schedule does."""
    opt = lrcore.SGD(start(), lr=0.5)
    other = lrcore.SGD(start(), lr=0.5)

    def stepping(t: int) -> float:
        assert opt.step_count == t == 0
        opt.state_dict()
        opt.step(ONES)
        return 0.5

    def through_another(_: int) -> float:
        other.step(ONES)
        return 0.5

    other.lr = stepping
    for rate in (stepping, through_another):
        opt.lr = rate
        with pytest.raises(RuntimeError, match="a schedule must not step the optimizer that is calling it"):
            opt.step(ONES)
    assert opt.step_count == other.step_count == 0
    assert_bits(opt.params, start())
    assert_bits(other.params, start())
    opt.lr = 0.5
    opt.step(ONES)
    assert opt.step_count == 1


def test_a_schedule_that_replaces_itself_is_not_asked_for_ever() -> None:
    """The step takes a rate that it was given, as if the schedule had been replaced after it."""
    opt = lrcore.SGD(start(), lr=0.5)
    asked = []

    def rate(t: int) -> float:
        asked.append(t)
        opt.lr = rate
        return 0.5

    opt.lr = rate
    opt.step(ONES)
    assert asked == [0] * 11
    assert opt.step_count == 1
    assert_bits(opt.params, start() - np.float32(0.5))


def test_a_schedule_that_moves_the_step_count_for_ever_is_refused() -> None:
    """There is no step that it could have been asked for."""
    opt = lrcore.SGD(start(), lr=0.5)

    def rate(t: int) -> float:
        opt.step_count = t + 1
        return 0.5

    opt.lr = rate
    with pytest.raises(RuntimeError, match="^step_count: .*a schedule must not change the step count"):
        opt.step(ONES)
    assert_bits(opt.params, start())
    opt.lr = 0.5
    opt.step(ONES)


def test_step_count() -> None:
    opt = lrcore.Adam(start())
    assert opt.step_count == 0
    opt.step_count = 100
    assert opt.step_count == 100
    for bad in (-1, 2**53, 2**70):
        with pytest.raises(
            ValueError, match="^step_count: expected an integer from 0 to 9007199254740991, got"
        ):
            opt.step_count = bad
    for wrong in (1.5, "3", None, True):
        with pytest.raises(TypeError, match="^step_count: expected an integer, got"):
            opt.step_count = wrong  # type: ignore[assignment]
    assert opt.step_count == 100


def test_step_returns_none_and_bound_gradients_are_read_at_every_step() -> None:
    g = ONES.copy()
    opt = lrcore.SGD(start(), lr=1.0, grads=g)
    assert opt.step() is None  # type: ignore[func-returns-value]
    g[:] = 2
    opt.step()
    opt.step(np.full(N, 4, np.float32))
    assert_bits(opt.params, start() - np.float32(1) - np.float32(2) - np.float32(4))
