"""The learning-rate range test finds a rate and restores everything. Equal means bitwise identical."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pytest

import lrcore
from gpu.devices import LIBRARIES, imitated, library
from lrcore import schedules
from lrcore.tune import RangeTest, range_test
from support import N, gradients, make, start

METHODS: tuple[Any, ...] = ("steepest", "valley", "minimum/10")


class Problem(NamedTuple):
    """An optimizer that has taken two steps, its bound gradients, and a closure that uses both."""

    opt: Any
    grads: Any
    closure: Callable[[], float]


def problem(rule: str = "adam", lr: Any = 0.01, **arguments: Any) -> Problem:
    """Return the same problem in every call, with -0 and NaN payloads in a matrix of parameters."""
    params, grads = start().reshape(3, 7), np.zeros((3, 7), np.float32)
    opt = make(rule, params, lr, grads=grads, **arguments)
    for t in range(2):
        grads.flat[:] = gradients(np.random.default_rng([2, t]), N)
        opt.step()
    params.view(np.uint32).flat[[3, 8, 9]] = 0x80000000, 0x7FC01234, 0xFFC00001

    def closure() -> float:
        grads[:] = params
        return float(np.nansum(params.astype(np.float64) ** 2))

    return Problem(opt, grads, closure)


def bits(opt: Any) -> tuple[Any, ...]:
    """Return everything that must be restored, with arrays as bytes."""
    states = {name: np.array(state).tobytes() for name, state in opt.state.items()}
    return np.array(opt.params).tobytes(), states, opt.step_count, dict(opt.hyper), opt.lr


def told(losses: Iterable[float], **options: Any) -> tuple[RangeTest, int]:
    """Return the result of a test whose closure returns these losses, and the number of its calls."""
    opt, given, calls = problem().opt, iter(losses), 0

    def closure() -> float:
        nonlocal calls
        calls += 1
        return next(given)

    return range_test(opt, closure, **{"smoothing": 0.0} | options), calls


class Stop(Exception):
    """Any exception that a closure may raise."""


ENDINGS: dict[str, Any] = {
    "steps": None,
    "divergence": 1e30,
    "not finite": math.nan,
    "Stop": Stop,
    "KeyboardInterrupt": KeyboardInterrupt,
    "StopIteration": StopIteration,
    "TypeError": "no number",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_everything_is_put_back(rule: str, ending: str) -> None:
    schedule = schedules.Cosine(0.02, steps=30)
    opt, _, closure = problem(rule, schedule, weight_decay=0.01)
    before, seen = bits(opt), list[Any]()

    def ends() -> Any:
        seen.append(bits(opt))
        opt.hyper["weight_decay"] = 0.5
        last = ENDINGS[ending]
        if isinstance(last, type) and len(seen) == 4:
            raise last
        return closure() if last is None or len(seen) < 4 else last

    try:
        ended: str = range_test(opt, ends, 1e-3, 0.1, steps=6, stop_factor=1e6).stopped_by
    except (Stop, KeyboardInterrupt, StopIteration, TypeError) as error:
        ended = type(error).__name__
    assert ended == ending
    assert len(seen) == (6 if ending == "steps" else 4)
    assert len({params for params, *_ in seen}) == len(seen)  # every step moved the parameters
    assert [step_count for _, _, step_count, *_ in seen] == list(range(2, 2 + len(seen)))
    assert bits(opt) == before
    assert opt.schedule is schedule


@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_losses_are_those_of_a_loop(rule: str, mode: Any) -> None:
    found = range_test(*problem(rule)[::2], 1e-4, 1e-2, steps=8, mode=mode, stop_factor=1e30)
    opt, _, closure = problem(rule)
    expected = []
    for lr in found.rates:
        expected.append(closure())
        opt.lr = float(lr)
        opt.step()
    assert found.losses.tobytes() == np.array(expected).tobytes()
    assert (found.mode, found.stopped_by) == (mode, "steps")


def test_rates_grow_by_a_factor_or_by_an_addend() -> None:
    """The exponent and the power are each rounded once, which causes errors of a few ulps of 1.1e-16."""
    closure = problem().closure
    ratio = range_test(problem().opt, closure, 1e-5, 0.3, steps=7).rates
    np.testing.assert_allclose(ratio, [1e-5 * 3e4 ** (i / 6) for i in range(7)], rtol=1e-14)
    even = range_test(problem().opt, closure, 0.1, 0.7, steps=7, mode="linear").rates
    np.testing.assert_allclose(even, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], rtol=1e-14)
    assert (ratio[0], ratio[-1], even[0], even[-1]) == (1e-5, 0.3, 0.1, 0.7)


def test_smoothing_by_hand() -> None:
    """With smoothing 1/2, the averages are (1/2) / (1/2), (1/4 + 2/2) / (3/4) and (5/8 + 4/2) / (7/8).

    All but one of them are exact.
    """
    found, _ = told([1.0, 2.0, 4.0], steps=3, smoothing=0.5, stop_factor=9.0)
    assert found.losses.tolist() == [1.0, 2.0, 4.0]
    assert found.smoothed.tolist() == [1.0, 1.25 / 0.75, 3.0]
    assert told([3.0, 5.0, 4.0], steps=3, smoothing=0.0)[0].smoothed.tolist() == [3.0, 5.0, 4.0]


@pytest.mark.parametrize(
    ("losses", "ending"),
    [
        # the loss may rise from 1 to 4, from -1 to 2, from 2 to 8, and from 0 by a tenth of the fall
        ([5.0, 1.0, 4.0, 4.1], "divergence"),
        ([-0.5, -1.0, 2.0, 2.1], "divergence"),
        ([7.0, 4.0, 2.0, 8.1], "divergence"),
        ([5.0, 0.0, 0.5, 0.51], "divergence"),
        # these losses are constant, fall, or rise by less than the factor allows
        ([0.0] * 6, "steps"),
        ([-1.0] * 6, "steps"),
        ([1.0, 0.5, 0.0, -0.5, -1.0, -3.0], "steps"),
        ([-3.0, -3.5, -3.0, -2.0, -1.0, 0.0], "steps"),
        ([1.0, 0.0, 1e-3, 0.0, 1e-3, 0.0], "steps"),
        ([1.0, -0.01, 0.04, -0.01, 0.04, 0.0], "steps"),
    ],
)
def test_divergence_begins_above_the_factor(losses: list[float], ending: str) -> None:
    found, calls = told([*losses, 1.0, 1.0], steps=6)
    assert (found.stopped_by, calls, found.losses.tolist()) == (ending, len(losses), losses)
    assert found.rates.shape == found.smoothed.shape == (calls,)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("finite", [0, 1, 5])
def test_a_loss_that_is_not_finite_ends_the_test(loss: float, finite: int) -> None:
    found, calls = told([1.0] * finite + [loss] * 3, steps=9)
    assert (found.stopped_by, calls) == ("not finite", finite + 1)
    assert found.losses.tolist() == [1.0] * finite
    assert len(found.rates) == len(found.smoothed) == finite


@pytest.mark.parametrize("mode", ["exponential", "linear"])
def test_a_quadratic_diverges_beyond_two(mode: Any) -> None:
    """Gradient descent on p^2 / 2 multiplies p by 1 - lr, so the loss cannot grow until lr exceeds 2."""
    params, grads = np.full(4, 3.0, np.float32), np.empty(4, np.float32)
    opt = lrcore.SGD(params, grads=grads)

    def closure() -> float:
        grads[:] = params
        return float((params.astype(np.float64) ** 2).sum() / 2)

    found = range_test(opt, closure, 0.01, 5.0 if mode == "linear" else 100.0, 60, mode, smoothing=0.0)
    beyond = int(np.argmax(found.rates > 2))
    assert found.stopped_by == "divergence"
    assert (np.diff(found.losses[: beyond + 1]) <= 0).all()
    assert found.rates[-2] > 2
    for method in METHODS:
        assert 0.001 <= found.suggest(method) < 2


def curve(smoothed: Any, low: float = 1e-4, high: float = 1.0) -> RangeTest:
    values = np.array(smoothed, np.float64)
    return RangeTest(np.geomspace(low, high, len(values)), values, values, "exponential", "steps")


def test_suggestions_by_hand() -> None:
    """The loss falls from the 1st to the 9th of 13 rates in 12 decades, fastest from the 3rd to the 5th."""
    found = curve([20, 19, 18, 13, 8, 7, 6.5, 6, 5, 6, 8, 9, 15], 1e-8, 1e4)
    assert found.suggest() == found.suggest("steepest") == pytest.approx(1e-5, rel=1e-14)
    # four rates before the minimum: half of the nine rates up to it, rounded down
    assert found.suggest("valley") == pytest.approx(1e-4, rel=1e-14)
    assert found.suggest("minimum/10") == pytest.approx(0.1, rel=1e-14)
    assert curve([20, 19, 18, 13, 8, 7, 6.5, 6, 5, 40, 30, 20, 9], 1e-8, 1e4).suggest() == found.suggest()


def test_steepest_is_where_a_line_falls_fastest() -> None:
    """The reference is numpy.polyfit, applied to every ten consecutive points up to the minimum."""
    rng = np.random.default_rng(5)
    x = np.linspace(-4, 0, 100)
    found = curve(2 - np.tanh(3 * (x + 2.2)) + 8 * np.maximum(x + 0.6, 0) + 0.02 * rng.standard_normal(100))
    last = int(np.argmin(found.smoothed)) - 9
    slopes = [np.polyfit(x[i : i + 10], found.smoothed[i : i + 10], 1)[0] for i in range(last + 1)]
    center = x[np.argmin(slopes) :][:10].mean()
    assert found.suggest() == pytest.approx(10**center, rel=1e-12)  # a fit to ten points is ill-conditioned
    assert abs(center + 2.2) < 0.4  # the centre of the tanh is at -2.2, and the line is 0.4 wide


ROUNDED = np.tile([2.3, float(np.nextafter(np.float32(2.3), np.float32(0)))], 50)
REFUSED: list[tuple[Any, str]] = [
    ([], "expected at least 5 losses, got 0; start at a smaller rate"),
    ([4, 3, 2, 1], "expected at least 5 losses, got 4; start at a smaller rate"),
    ([1, 2, 3, 4, 5, 6], "the loss never fell by more than its noise; start at a"),
    ([4, 3.9, 4.1, 4, 3.8, 4.2, 3.8, 4.1], "the loss never fell by more than its noise"),
    # one easier batch: it is the only noise, because the other losses are equal
    ([1.0] * 60 + [0.8] + [1.0] * 39, "the loss never fell by more than its noise"),
    ([10] * 60 + [9] + [10] * 39, "the loss never fell by more than its noise"),
    ([1] * 6, "the loss did not change; check that the closure fills the bound gradients$"),
    ([0] * 6, "the loss did not change"),
    (ROUNDED, "the loss did not change"),
]


@pytest.mark.parametrize("method", METHODS)
def test_suggestions_are_refused(method: Any) -> None:
    for losses, message in REFUSED:
        with pytest.raises(ValueError, match=f"^suggest: {message}"):
            curve(losses).suggest(method)
    still, _ = told([2.302585] * 100, steps=100, smoothing=0.9)  # rounding makes the average seem to fall
    with pytest.raises(ValueError, match="^suggest: the loss did not change"):
        still.suggest(method)
    with pytest.raises(ValueError, match="^method: expected one of steepest, valley, minimum/10, got 'best'"):
        curve([5, 4, 3, 2, 1]).suggest("best")  # type: ignore[arg-type]


def suggests(found: RangeTest, method: Any) -> bool:
    try:
        found.suggest(method)
    except ValueError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("steps", [30, 300])
@pytest.mark.parametrize("smoothing", [0.0, 0.9, 0.98])
def test_noise_alone_is_no_fall(steps: int, smoothing: float) -> None:
    """One curve in twenty may seem to fall by three standard errors, because its minimum is selected."""
    falls = 0
    for seed in range(200):
        losses = 2.3 + np.random.default_rng(seed).normal(scale=0.1, size=steps)
        falls += suggests(told(losses, steps=steps, smoothing=smoothing)[0], "steepest")
    assert falls <= 10


@pytest.mark.parametrize(("steps", "sd"), [(30, 0.2), (100, 0.2), (100, 0.0)])
def test_a_fall_through_noise_is_one(steps: int, sd: float) -> None:
    """The loss falls by 1.6 from 2.3, but only after half of the rates, and rises at the end."""
    t = np.linspace(0, 1, steps)
    level = 2.3 - 1.6 * np.clip(4 * t - 2, 0, 1) + 30 * np.clip(t - 0.9, 0, 1)
    for seed in range(50):
        losses = level + np.random.default_rng(seed).normal(scale=sd, size=steps)
        assert suggests(told(losses, steps=steps, smoothing=0.9)[0], "steepest"), seed


@pytest.mark.parametrize(
    "losses", [[5, 4, 3, 2, 1], [3e-200, 2e-200, 1e-200, 1e-201, 0], [1e308, 0, -1e308, 0, 1e308]]
)
def test_a_short_fall_is_one(losses: list[float]) -> None:
    """A steady fall is not noise, at any scale, and nothing overflows."""
    assert suggests(curve(losses), "minimum/10") == (losses[0] < 1e300)


@pytest.mark.parametrize("mode", ["exponential", "linear"])
@pytest.mark.parametrize("method", METHODS)
def test_a_suggestion_has_no_scale(method: Any, mode: Any) -> None:
    """Multiplying the losses by a power of two, which rounds none of them, does not change the suggestion."""
    losses = np.concatenate([np.linspace(3, 1, 20) ** 2, np.linspace(1, 15, 10)])
    found = dataclasses.replace(curve(losses, 1e-8), mode=mode)
    for scale in (2.0**-1000, 2.0**1000, 2.0**1019):
        scaled = dataclasses.replace(found, losses=losses * scale, smoothed=losses * scale)
        assert scaled.suggest(method) == found.suggest(method)


def raising() -> float:
    raise Stop


def test_what_a_closure_tells_a_plateau_is_put_back() -> None:
    plateau = schedules.Plateau(0.1, factor=0.5, patience=0)
    plateau.observe(2.0)
    before, schedule = plateau.state_dict(), plateau.warmup(3)
    opt, _, closure = problem("adam", schedule)

    def telling() -> float:
        loss = closure()
        plateau.observe(3.0 + loss)
        return loss

    range_test(opt, telling, steps=5)
    assert opt.schedule is schedule
    assert plateau.state_dict() == before
    plateau.observe(3.0)
    assert plateau.reductions == 1


@pytest.mark.parametrize("name", LIBRARIES)
def test_device_arrays(name: str, rule: str) -> None:
    """Device arrays give the same losses as NumPy arrays, and are restored."""
    options: dict[str, Any] = {"lr_min": 1e-3, "lr_max": 0.1, "steps": 6, "stop_factor": 1e6}
    own = problem(rule)
    with library(name) as xp:
        params, grads = xp.array(own.opt.params), xp.array(own.grads)
        opt = make(rule, params, 0.01, grads=grads)
        opt.load_state_dict(own.opt.state_dict())

        def everything() -> list[bytes]:
            return [xp.numpy(array).tobytes() for array in (opt.params, *opt.state.values())]

        def closure() -> float:
            host = xp.numpy(params)
            xp.write(grads, host)
            return float(np.nansum(host.astype(np.float64) ** 2))

        before = everything()
        found = range_test(opt, closure, **options)
        assert found.losses.tobytes() == range_test(own.opt, own.closure, **options).losses.tobytes()
        assert len({*found.losses}) == 6
        assert everything() == before
        assert (opt.step_count, opt.lr) == (2, 0.01)


WRONG: dict[str, list[Any]] = {
    "opt": [None, start()],
    "closure": [3, None],
    "lr_min": [0, -1.0, math.nan, "1", True, 10.0, 20.0, 1e-50],  # the last is 0 in float32
    "lr_max": [math.inf, None, 1e39],  # the last is infinite in float32
    "steps": [1, -5, 9.5],
    "mode": ["log", None],
    "smoothing": [1, -0.1, math.nan, "0.9"],
    "stop_factor": [1, 0.5, math.nan, None],
}


@pytest.mark.parametrize(("name", "value"), [(name, each) for name in WRONG for each in WRONG[name]])
def test_wrong_arguments_change_nothing(name: str, value: Any) -> None:
    """The closure, which would raise, is not even called."""
    opt = problem().opt
    before = bits(opt)
    with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
        range_test(**{"opt": opt, "closure": raising, name: value})
    assert bits(opt) == before


def test_optimizers_without_gradients_or_with_fixed_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="^opt: expected bound gradients"):
        range_test(lrcore.SGD(start()), raising)
    with imitated() as xp:
        opt = lrcore.Adam(xp.array(start()), grads=xp.array(start()), capturable=True, max_steps=9)
        with pytest.raises(ValueError, match="^opt: .*capturable"):
            range_test(opt, raising)


def test_progress(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tqdm")
    opt, _, closure = problem()
    range_test(opt, closure, steps=5)
    assert not any(capsys.readouterr())
    range_test(opt, closure, steps=5, progress=True)
    assert "5/5" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r'^tqdm is not installed: pip install "lrcore\[tune\]"$'):
        range_test(opt, closure, progress=True)
    assert opt.step_count == 2


def interrupt(after: int) -> tuple[int, bool, bool]:
    """Run a test with Ctrl-C at one of the events at which Python checks for signals, and return the outcome.

    The events are calls of Python functions and returns from C functions. The outcome is the number of
    events, whether KeyboardInterrupt was raised, and whether everything was restored before it was caught.
    """
    opt, _, closure = problem()
    before, events = bits(opt), 0

    def profile(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal events
        events += event in ("call", "c_return")
        if events == after:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

    sys.setprofile(profile)
    try:
        range_test(opt, closure, 1e-3, 0.1, steps=2)
    except KeyboardInterrupt:
        sys.setprofile(None)
        return events, True, bits(opt) == before
    finally:
        sys.setprofile(None)
    return events, False, bits(opt) == before


def test_ctrl_c_at_every_moment() -> None:
    total, *others = interrupt(0)
    assert others == [False, True]
    results = {after: interrupt(after) for after in range(1, total)}
    assert sum(raised for _, raised, _ in results.values()) > 100
    assert [after for after, (_, _, same) in results.items() if not same] == []
