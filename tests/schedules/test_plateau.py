"""Plateau: what counts as an improvement, when it reduces, its state, and the optimizers that it steers."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import json
import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lrcore
from gpu.devices import CuPy, Torch, library
from lrcore import schedules
from lrcore.schedules import Constant, Cosine, Linear, Plateau, Schedule
from lrcore.schedules import Sequence as Parts
from schedules import plateau_oracle
from support import Array, assert_bits, run, start

INF, NAN = math.inf, math.nan
fixed = settings(derandomize=True, deadline=None, database=None, max_examples=200)


def history(plateau: Plateau, metrics: Sequence[float]) -> list[int]:
    """Return the number of reductions after each metric."""
    counts = []
    for metric in metrics:
        plateau.observe(metric)
        counts.append(plateau.reductions)
    return counts


def stored(plateau: Plateau) -> Any:
    """Return the state as it comes back from strict JSON."""
    return json.loads(json.dumps(plateau.state_dict(), allow_nan=False))


def test_signature() -> None:
    parameters = inspect.signature(Plateau).parameters
    assert {name: each.default for name, each in parameters.items() if name != "lr"} == {
        "factor": 0.1, "patience": 10, "mode": "min", "threshold": 1e-4, "threshold_mode": "rel", "cooldown": 0,
        "min_lr": 0.0, "statistic": "best", "window": 1, "nan": "error",
    }  # fmt: skip
    assert next(iter(parameters)) == "lr"
    assert "Plateau" in schedules.__all__


# When it reduces.


def test_more_than_patience_observations_without_improvement_reduce() -> None:
    for patience in range(5):
        plateau = Plateau(1.0, 0.5, patience)
        assert history(plateau, [1.0] * (1 + patience)) == [0] * (1 + patience)
        assert history(plateau, [1.0]) == [1]
        assert history(plateau, [1.0] * (patience + 1)) == [1] * patience + [2]
    plateau = Plateau(1.0)
    assert history(plateau, [1.0] * 23) == [0] * 11 + [1] * 11 + [2]


def test_in_a_row() -> None:
    """An improvement begins the count anew."""
    plateau = Plateau(1.0, patience=2)
    assert history(plateau, [9, 9, 9, 8, 9, 9, 7, 7, 8, 6, 6, 6, 6]) == [0] * 12 + [1]


def test_the_first_observation_improves() -> None:
    for mode in ("min", "max"):
        for first in (0.0, 1e300, -1e300, INF, -INF):
            plateau = Plateau(1.0, patience=0, mode=mode)
            assert history(plateau, [first]) == [0]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("infinity", [INF, -INF])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_any_finite_metric_beats_an_infinite_best(
    mode: Any, infinity: float, threshold_mode: Any, threshold: float
) -> None:
    for metric in (0.0, 1e308, -1e308, 3.0):
        plateau = Plateau(1.0, 0.5, 0, mode, threshold, threshold_mode)
        assert history(plateau, [infinity, metric]) == [0, 0]
        again = Plateau(1.0, 0.5, 0, mode, threshold, threshold_mode)
        assert history(again, [infinity, infinity]) == [0, 1]
    better, worse = (-INF, INF) if mode == "min" else (INF, -INF)
    assert history(Plateau(1.0, 0.5, 0, mode, threshold, threshold_mode), [2, better]) == [0, 0]
    assert history(Plateau(1.0, 0.5, 0, mode, threshold, threshold_mode), [2, worse]) == [0, 1]


@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_the_better_infinity_beats_the_worse(threshold_mode: Any) -> None:
    mode: Any
    for mode, metrics in (("min", [INF, -INF]), ("max", [-INF, INF])):
        plateau = Plateau(1.0, 0.5, 0, mode, threshold_mode=threshold_mode)
        assert history(plateau, metrics) == [0, 0]


@pytest.mark.parametrize(
    ("threshold_mode", "threshold", "best", "improves", "fails"),
    [
        ("rel", 0.25, 8.0, (5.99, -1.0), (6.0, 7.0, 8.0, 9.0)),
        ("rel", 0.25, -8.0, (-10.01, -11.0), (-10.0, -9.0, -8.0, -7.0, -6.0, 0.0, 5.0)),
        ("rel", 0.25, 0.0, (-1e-300,), (0.0, -0.0, 1e-300)),
        ("rel", 0.0, 8.0, (math.nextafter(8, 0),), (8.0, math.nextafter(8, 9))),
        ("rel", 2.0, 8.0, (-8.01,), (-8.0, 0.0)),
        ("abs", 0.25, 8.0, (7.74,), (7.75, 8.0, 8.25)),
        ("abs", 0.25, -8.0, (-8.26,), (-8.25, -8.0, -7.75)),
        ("abs", 0.25, 0.0, (-0.26,), (-0.25, 0.0)),
        ("abs", 0.0, -8.0, (math.nextafter(-8, -9),), (-8.0,)),
    ],
)
def test_thresholds(
    threshold_mode: Any, threshold: float, best: float, improves: Sequence[float], fails: Sequence[float]
) -> None:
    """By more than the threshold: a tie does not improve. Mirrored for "max"."""
    mode: Any
    for sign, mode in ((1, "min"), (-1, "max")):
        for expected, metrics in ((0, improves), (1, fails)):
            for metric in metrics:
                plateau = Plateau(1.0, 0.5, 0, mode, threshold, threshold_mode)
                assert history(plateau, [sign * best, sign * metric]) == [0, expected], (mode, metric)


def test_defaults_are_relative_and_a_ten_thousandth() -> None:
    for best, metric, k in (
        (1.0, 0.99991, 1),
        (1.0, 0.99989, 0),
        (-100.0, -100.009, 1),
        (-100.0, -100.011, 0),
    ):
        assert history(Plateau(1.0, patience=0), [best, metric]) == [0, k]


def test_small_improvements_do_not_move_the_best() -> None:
    """Each is below the threshold of the one before; together they pass it."""
    plateau = Plateau(1.0, patience=2, threshold=1.0, threshold_mode="abs")
    assert history(plateau, [10, 9.5, 9.0, 8.5, 8.0, 7.5, 7.0]) == [0] * 6 + [0]
    plateau = Plateau(1.0, patience=2, threshold=1.0, threshold_mode="abs")
    assert history(plateau, [10, 9.7, 9.4, 9.1]) == [0, 0, 0, 1]


def test_cooldown() -> None:
    """The next observations are not counted; then counting begins from 0."""
    for cooldown in range(4):
        plateau = Plateau(1.0, patience=1, cooldown=cooldown)
        expected = [0, 0, 1, *[1] * cooldown, 1, 2, *[2] * cooldown, 2, 3]
        assert history(plateau, [1.0] * len(expected)) == expected


def test_cooldown_may_set_the_best() -> None:
    plateau = Plateau(1.0, patience=0, cooldown=2)
    assert history(plateau, [5, 5, 3, 9]) == [0, 1, 1, 1]
    assert history(plateau, [4]) == [2]  # better than 5, but not than 3
    assert history(plateau, [9, 9, 2.9]) == [2, 2, 2]


def test_mean_counts_nothing_before_its_window_is_full() -> None:
    for window in range(1, 6):
        plateau = Plateau(1.0, patience=0, statistic="mean", window=window)
        assert history(plateau, [1.0] * window) == [0] * window
        assert history(plateau, [1.0, 1.0]) == [1, 2]


def test_mean_rolls() -> None:
    plateau = Plateau(1.0, patience=0, threshold=0, statistic="mean", window=2)
    #                         means: -  5  4  4  3.5
    assert history(plateau, [4, 6, 2, 6, 1]) == [0, 0, 0, 1, 1]
    plateau = Plateau(1.0, patience=0, threshold=0, statistic="mean", window=3, mode="max")
    #                         means: -  -  2  3  3
    assert history(plateau, [1, 2, 3, 4, 2]) == [0, 0, 0, 0, 1]


def test_mean_is_what_the_threshold_is_held_against() -> None:
    plateau = Plateau(1.0, patience=0, threshold=1.0, threshold_mode="abs", statistic="mean", window=2)
    #                         means:  -   10  8.75 7.5 6.75
    assert history(plateau, [10, 10, 7.5, 7.5, 6]) == [0, 0, 0, 0, 1]


def test_an_infinite_metric_leaves_the_mean_again() -> None:
    plateau = Plateau(1.0, patience=0, statistic="mean", window=2)
    #                         means: -  inf inf  3  3
    assert history(plateau, [2, INF, 3, 3, 3]) == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("nan", [NAN, np.float32("nan"), np.array(np.nan)])
def test_nan_is_refused(nan: Any) -> None:
    for options in ({}, {"statistic": "mean", "window": 2}, {"patience": 0, "cooldown": 1}):
        arguments: dict[str, Any] = options
        plateau = Plateau(1.0, **arguments)
        for metric in (None, 1.0, 2.0, 3.0):
            if metric is not None:
                plateau.observe(metric)
            before = plateau.state_dict()
            with pytest.raises(ValueError, match="^metric: "):
                plateau.observe(nan)
            assert plateau.state_dict() == before


def test_nan_counts_as_bad_where_it_is_told_to() -> None:
    plateau = Plateau(1.0, patience=1, nan="bad")
    assert history(plateau, [NAN, 5, NAN, 4, NAN, 4, NAN]) == [0, 0, 0, 0, 0, 1, 1]
    plateau = Plateau(1.0, patience=1, nan="bad")
    assert history(plateau, [NAN, NAN, 5]) == [0, 1, 1]
    plateau = Plateau(1.0, patience=0, cooldown=2, nan="bad")
    assert history(plateau, [5, NAN, NAN, NAN, NAN]) == [0, 1, 1, 1, 2]


def test_nan_stays_out_of_the_mean() -> None:
    plateau = Plateau(1.0, patience=0, threshold=0, statistic="mean", window=2, nan="bad")
    #                         means:  -    -    -  4   bad  3  bad
    assert history(plateau, [NAN, 4, NAN, 4, NAN, 2, NAN]) == [0, 0, 0, 0, 1, 1, 2]
    assert history(plateau, [3.5, 2, 3.5]) == [2, 3, 4]  # means: 2.75, 2.75, 2.75


def test_metrics() -> None:
    plateau = Plateau(1.0, patience=0)
    assert plateau.observe(3) is None
    accepted: tuple[Any, ...] = (np.float32(2), np.int64(1), np.array(0.5), np.float64(0.25))
    assert history(plateau, accepted) == [0] * 4
    before = plateau.state_dict()
    wrong: tuple[Any, ...] = ("1", None, True, 1j, [1.0], np.array([1.0, 2.0]))
    for metric in wrong:
        with pytest.raises(TypeError, match="^metric: "):
            plateau.observe(metric)
    with pytest.raises(ValueError, match="^metric: "):
        plateau.observe(10**400)
    assert plateau.state_dict() == before


def test_combinations_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="^window: "):
        Plateau(0.1, window=2)
    assert Plateau(0.1, statistic="mean") != Plateau(0.1)
    for factor in (0.0, 1.0, 1.5, -0.5, NAN):
        with pytest.raises(ValueError, match="^factor: "):
            Plateau(0.1, factor)


# The rate.


def reduced(k: int, lr: Any = 0.7, **options: Any) -> Plateau:
    """Return a Plateau that has reduced k times."""
    plateau = Plateau(lr, **{"patience": 0} | options)
    history(plateau, [1.0] * (k + 1))
    assert plateau.reductions == k
    return plateau


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.97])
def test_rates_of_a_number(factor: float) -> None:
    for k in range(30):
        plateau = reduced(k, factor=factor)
        assert plateau(0) == plateau(10**15) == pytest.approx(0.7 * factor**k, rel=1e-15)
        assert type(plateau(0)) is float
        assert plateau([0, 7]).tolist() == [plateau(0), plateau(7)]
        plateau = reduced(k, factor=factor, min_lr=0.01)
        assert plateau(0) == pytest.approx(max(0.7 * factor**k, 0.01), rel=1e-15)
    assert reduced(0)(3) == 0.7
    assert reduced(2000, factor=0.1)(0) == 0
    assert reduced(2000, factor=0.1, min_lr=1e-5)(0) == 1e-5


def test_rates_of_a_schedule() -> None:
    """The floor lifts nothing that is below it by itself."""
    cosine = Cosine(0.1, 20)
    for k in range(4):
        plain, floored = reduced(k, cosine, factor=0.5), reduced(k, cosine, factor=0.5, min_lr=0.02)
        for t in range(25):
            assert plain(t) == pytest.approx(cosine(t) * 0.5**k, rel=1e-15)
            assert floored(t) == plateau_oracle.rate(cosine(t), k, 0.5, 0.02)
        assert floored(20) == 0
    assert reduced(1, 0.01, min_lr=0.5)(0) == 0.01


def test_rates_of_a_callable() -> None:
    plateau = reduced(1, lambda t: 1.0 / (t + 1), factor=0.5)
    assert [plateau(t) for t in range(4)] == [0.5, 0.25, 0.5 / 3, 0.125]
    with pytest.raises(TypeError, match="has no dictionary form"):
        plateau.to_dict()


COMPOSITIONS: dict[str, tuple[Callable[[Any], Schedule], Callable[[float, int], float]]] = {
    "itself": (lambda p: p, lambda lr, _: lr),
    "warmup": (lambda p: p.warmup(4), lambda lr, t: lr * min(t + 1, 4) / 4),
    "warmup from": (lambda p: p.warmup(4, start=0.0), lambda lr, t: lr * min(t, 4) / 4),
    "number": (lambda p: 0.5 * p, lambda lr, _: lr * 0.5),
    "schedule": (lambda p: Linear(1.0, 0.0, 10) * p, lambda lr, t: lr * (1 - min(t, 10) / 10)),
    "clip": (lambda p: p.clip(0.03, 0.3), lambda lr, _: min(max(lr, 0.03), 0.3)),
    "then": (lambda p: p.then(0.25, at=3), lambda lr, t: lr if t < 3 else 0.25),
    "before": (lambda p: Constant(0.25).then(p, at=3), lambda lr, t: lr if t >= 3 else 0.25),
    "shift": (lambda p: p.shift(3), lambda lr, _: lr),
    "epochs": (lambda p: p.per_epoch(3), lambda lr, _: lr),
    "sequence": (
        lambda p: Parts([(0.25, 2), (p, 3), 0.125]),
        lambda lr, t: lr if 2 <= t < 5 else 0.25 if t < 2 else 0.125,
    ),
    "plateau": (lambda p: Plateau(p, 0.5), lambda lr, _: lr),
    "all": (
        lambda p: (p * 0.5).clip(0.001, 0.3).shift(2).per_epoch(3).warmup(5).then(0.125, at=12),
        lambda lr, t: 0.125 if t >= 12 else min(max(lr * 0.5, 0.001), 0.3) * min(t + 1, 5) / 5,
    ),
}
compositions = pytest.mark.parametrize("name", COMPOSITIONS)


@compositions
def test_inside_compositions(name: str) -> None:
    """What is composed of it follows what it observes."""
    compose, expected = COMPOSITIONS[name]
    plateau = Plateau(0.7, 0.5, patience=0)
    schedule = compose(plateau)
    for k in range(5):
        plateau.observe(1.0)
        assert plateau.reductions == k
        rates = [schedule(t) for t in range(15)]
        assert rates == pytest.approx([expected(0.7 * 0.5**k, t) for t in range(15)], rel=4e-15)
        assert schedule(range(15)).tolist() == rates


# The state.


def options() -> st.SearchStrategy[dict[str, Any]]:
    """Return arguments; thresholds are multiples of powers of 2, so that ties are exact."""
    mean = st.integers(1, 4).map(lambda window: {"statistic": "mean", "window": window})
    return st.builds(
        lambda arguments, statistic: arguments | statistic,
        st.fixed_dictionaries(
            {
                "factor": st.sampled_from([0.5, 0.25, 0.1, 0.97]),
                "patience": st.integers(0, 3),
                "mode": st.sampled_from(["min", "max"]),
                "threshold": st.sampled_from([0.0, 2**-10, 0.25, 0.5, 1.0]),
                "threshold_mode": st.sampled_from(["rel", "abs"]),
                "cooldown": st.integers(0, 3),
                "min_lr": st.sampled_from([0.0, 0.01, 0.2, 5.0]),
                "nan": st.just("bad"),
            }
        ),
        st.just({}) | mean,
    )


def metrics() -> st.SearchStrategy[list[float]]:
    """Return metrics whose means of up to 4 are exact in float64, NaN and infinities of one sign among them."""
    numbers = st.integers(-12, 12).map(lambda n: n * 0.75)

    def listed(infinity: float) -> st.SearchStrategy[list[float]]:
        return st.lists(numbers | numbers | st.sampled_from([infinity, NAN, 0.0]), max_size=30)

    return st.sampled_from([INF, -INF]).flatmap(listed)


def judging(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that decide when it reduces."""
    return {name: each for name, each in arguments.items() if name not in ("factor", "min_lr", "nan")}


@fixed
@given(options(), metrics())
def test_reductions_and_rates_are_the_oracles(arguments: dict[str, Any], observed: list[float]) -> None:
    plateau = Plateau(Linear(0.7, 0.1, 5), **arguments)
    for i, metric in enumerate(observed, 1):
        plateau.observe(metric)
        k = plateau_oracle.reductions(observed[:i], **judging(arguments))
        assert plateau.reductions == k
        for t in (0, 3, 9):
            lr = Linear(0.7, 0.1, 5)(t)
            expected = plateau_oracle.rate(lr, k, arguments["factor"], arguments["min_lr"])
            assert plateau(t) == pytest.approx(expected, rel=4e-15)


@fixed
@given(
    options().filter(lambda arguments: "window" not in arguments),
    st.lists(st.sampled_from([INF, -INF, NAN, 1.0, 0.0, -1.0]), max_size=20),
)
def test_infinities_of_both_signs(arguments: dict[str, Any], observed: list[float]) -> None:
    """Where each metric is looked at alone; a mean of both has no value."""
    expected = [
        plateau_oracle.reductions(observed[: i + 1], **judging(arguments)) for i in range(len(observed))
    ]
    assert history(Plateau(0.7, **arguments), observed) == expected


@fixed
@given(options(), metrics())
def test_saved_at_each_point(arguments: dict[str, Any], observed: list[float]) -> None:
    """By state, by pickle and by copies: each goes on as the uninterrupted one does, and alone."""
    whole = Plateau(0.7, **arguments)
    expected = history(whole, observed)
    plateau = Plateau(0.7, **arguments)
    for cut in range(len(observed) + 1):
        loaded = Plateau(0.7, **arguments)
        loaded.load_state_dict(stored(plateau))
        before = stored(plateau)
        assert stored(loaded) == before
        others = [loaded, pickle.loads(pickle.dumps(plateau)), copy.deepcopy(plateau)]
        for other in others[: 1 if cut % 3 else 3]:
            assert other.reductions == plateau.reductions
            assert other(0) == plateau(0)
            assert history(other, observed[cut:]) == expected[cut:]
            assert other(0) == whole(0)
            assert stored(other) == stored(whole)
        assert stored(plateau) == before
        if cut < len(observed):
            plateau.observe(observed[cut])


@fixed
@given(options(), metrics())
def test_max_mirrors_min(arguments: dict[str, Any], observed: list[float]) -> None:
    """Metrics of the other sign in the other mode reduce at the same points."""
    other = "max" if arguments["mode"] == "min" else "min"
    mirrored = Plateau(0.7, **arguments | {"mode": other})
    assert history(Plateau(0.7, **arguments), observed) == history(mirrored, [-each for each in observed])


@fixed
@given(options(), metrics())
def test_it_is_a_value_whatever_it_observed(arguments: dict[str, Any], observed: list[float]) -> None:
    """Equality, hash, what it prints and its dictionary are about the arguments."""
    plateau, fresh = Plateau(0.7, **arguments), Plateau(0.7, **arguments)
    history(plateau, observed)
    assert plateau == fresh
    assert hash(plateau) == hash(fresh)
    assert repr(plateau) == repr(fresh)
    assert plateau.to_dict() == fresh.to_dict()
    again: Any
    for again in (
        eval(repr(plateau), vars(schedules)),
        schedules.from_dict(json.loads(json.dumps(plateau.to_dict(), allow_nan=False))),
    ):
        assert again == plateau
        assert again.reductions == 0
        assert again.state_dict() == fresh.state_dict()
    for name, value in arguments.items():
        different = {"factor": 0.3, "mode": "max" if value == "min" else "min", "nan": "error"}
        different |= {"threshold_mode": "rel" if value == "abs" else "abs"}
        if name not in ("statistic", "window"):
            assert plateau != Plateau(0.7, **arguments | {name: different.get(name, 7)})
    assert plateau != Plateau(0.6, **arguments)


def test_arguments_cannot_be_assigned() -> None:
    plateau: Any = reduced(1)
    for name in ("lr", "factor", "patience", "reductions", "more"):
        with pytest.raises(AttributeError):
            setattr(plateau, name, 1)


def test_the_state_is_a_few_numbers() -> None:
    """It does not grow with the observations, and nothing that is given out leads back in."""
    for more in ({}, {"statistic": "mean", "window": 3}):
        arguments: dict[str, Any] = more
        plateau = Plateau(0.7, patience=2, **arguments)
        history(plateau, [1 / 3] * 10)
        size = len(json.dumps(plateau.state_dict(), allow_nan=False))
        history(plateau, [1 / 3] * 1000)
        assert len(json.dumps(plateau.state_dict(), allow_nan=False)) <= size + 3
        given_out = plateau.state_dict()
        kept = copy.deepcopy(given_out)
        for value in given_out.values():
            if isinstance(value, list):
                value.clear()
        given_out.clear()
        assert plateau.state_dict() == kept
        plateau.load_state_dict(kept)
        history(plateau, [1 / 3] * 10)
        assert plateau.state_dict() != kept


def spoiled(state: dict[str, Any]) -> Iterator[Any]:
    """Yield what `load_state_dict` must refuse, made from a state."""
    yield from (None, 3, [], "ab", {}, {"more": 1}, state | {"more": 1})
    for name, value in state.items():
        yield {key: each for key, each in state.items() if key != name}
        yield from (state | {name: wrong} for wrong in ("nonsense", NAN, {"a": 1}, 1j))
        if type(value) is int:
            yield from (state | {name: wrong} for wrong in (-1, 1.5, "1", None, INF))
        elif isinstance(value, list):
            yield from (state | {name: wrong} for wrong in (3, None, ["x"], [None], [NAN], [1.0] * 1000))


@pytest.mark.parametrize("more", [{}, {"statistic": "mean", "window": 3, "cooldown": 2}])
def test_refused_states_change_nothing(more: dict[str, Any]) -> None:
    plateau, target = Plateau(0.7, patience=1, **more), Plateau(0.7, patience=1, **more)
    history(plateau, [3.0, 2.0, 2.0, 2.0, 2.5])
    history(target, [1.0, 1.0, 1.0])
    before, good = stored(target), stored(plateau)
    number = 0
    for state in spoiled(good):
        with pytest.raises((TypeError, ValueError), match=r"^[a-z_]+(\[\d+\])?: "):
            target.load_state_dict(state)
        assert stored(target) == before, state
        number += 1
    assert number > 30
    target.load_state_dict(good)
    assert stored(target) == good


# In an optimizer.


def double(t: int) -> float:
    """Return a rate that has no dictionary form."""
    return 0.02 * (t + 1)


def plain(lr: Any = 0.05, **more: Any) -> Plateau:
    return Plateau(lr, **{"factor": 0.5, "patience": 1} | more)


STEERED: dict[str, Callable[[], tuple[Schedule, list[Plateau]]]] = {}
"""Schedules with the plateaus in them, made anew at each call."""


def steered(make: Callable[..., Schedule], number: int = 1, **more: Any) -> Callable[[], Any]:
    """Return what makes a schedule of so many plateaus, and gives them with it."""

    def build() -> tuple[Schedule, list[Plateau]]:
        plateaus = [plain(0.05 * (i + 1), patience=i, **more) for i in range(number)]
        return make(*plateaus), plateaus

    return build


def over(lr: Any, **more: Any) -> Callable[[], Any]:
    """Return what makes a plateau over a schedule."""

    def build() -> tuple[Schedule, list[Plateau]]:
        plateau = plain(lr, **more)
        return plateau, [plateau]

    return build


def within() -> tuple[Schedule, list[Plateau]]:
    """Return one plateau in another."""
    inner = plain(0.05, patience=2)
    outer = plain(inner.warmup(3))
    return outer, [outer, inner]


STEERED |= {
    "alone": steered(lambda p: p),
    "mean": steered(lambda p: p, statistic="mean", window=3, cooldown=2, min_lr=0.001),
    "schedule": over(Cosine(0.05, 40).warmup(4)),
    "nested": steered(lambda p: (p.warmup(4) * Cosine(1.0, 40)).clip(1e-4, 1.0).shift(1)),
    "two": steered(lambda p, q: p * q, 2),
    "parts": steered(lambda p, q, r: Parts([(p, 4), (q.warmup(2), 5), r]), 3),
    "within": within,
    "callable": over(double),
}
kinds = pytest.mark.parametrize("kind", STEERED)
METRICS = [3.0, 2.0, 2.5, INF, 2.0, 1.0, 1.5, 2.0, 2.0, 0.5, 0.5, 0.5, 0.5, 0.5]


def train(opt: Any, plateaus: Sequence[Plateau], steps: range) -> list[float]:
    """Step and observe, each plateau its own metric; give the rates."""
    rates = []
    for t in steps:
        rates.append(opt.lr)
        run(opt, 1)
        for i, plateau in enumerate(plateaus):
            plateau.observe(METRICS[(t + i) % len(METRICS)])
    return rates


def plateaus_in(schedule: Any) -> list[Plateau]:
    """Return the plateaus that a schedule is made of, from the left."""
    if isinstance(schedule, (tuple, list)):
        return [each for part in schedule for each in plateaus_in(part)]
    if not isinstance(schedule, Schedule):
        return []
    inner = [getattr(schedule, field.name) for field in dataclasses.fields(schedule)]  # type: ignore[arg-type]
    return ([schedule] if isinstance(schedule, Plateau) else []) + plateaus_in(inner)


def adam(lr: Any, params: Any = None) -> Any:
    return lrcore.Adam(start() if params is None else params, lr=lr)


def strict(saved: dict[str, Any]) -> dict[str, Any]:
    """Return a state dictionary of which all but the arrays went through strict JSON."""
    rest = {name: value for name, value in saved.items() if name != "state"}
    return {**json.loads(json.dumps(rest, allow_nan=False)), "state": saved["state"]}


def everything(opt: Any) -> Any:
    """Return all that loading can change, to compare."""
    saved = opt.state_dict()
    saved["state"] = {name: np.array(each).tobytes() for name, each in saved["state"].items()}
    return copy.deepcopy(saved), np.array(opt.params).tobytes(), repr(opt.schedule), dict(opt.hyper)


def test_an_optimizer_follows() -> None:
    plateau = plain()
    opt = lrcore.SGD(start(), lr=plateau)
    assert opt.schedule is plateau
    plateau.observe(1.0)
    for k in range(4):
        history(plateau, [1.0] * 2 * (k > 0))
        assert plateau.reductions == k
        assert opt.lr == plateau(opt.step_count) == 0.05 * 0.5**k
        before = np.array(opt.params)
        opt.step(np.ones_like(before))
        assert_bits(opt.params, before - np.float32(opt.lr))
    assert "reductions" not in repr(opt)
    opt.lr = plain(0.5)
    assert opt.lr == 0.5


@kinds
def test_steering_is_what_a_run_with_those_rates_does(kind: Any) -> None:
    schedule, plateaus = STEERED[kind]()
    opt = adam(schedule)
    rates = train(opt, plateaus, range(20))
    assert any(each.reductions for each in plateaus)
    plain_opt = adam(lambda t: rates[t])
    run(plain_opt, 20)
    assert_bits(opt.params, plain_opt.params)


@kinds
def test_what_is_saved(kind: Any) -> None:
    schedule, plateaus = STEERED[kind]()
    opt = adam(schedule)
    train(opt, plateaus, range(7))
    saved = opt.state_dict()
    assert saved["schedule_state"] == [each.state_dict() for each in plateaus]
    assert plateaus_in(schedule) == plateaus
    assert ("schedule" in saved) == (kind != "callable")
    kept = copy.deepcopy(saved["schedule_state"])
    train(opt, plateaus, range(7, 12))
    assert saved["schedule_state"] == kept != opt.state_dict()["schedule_state"]
    for lr in (0.1, Cosine(0.1, 10).warmup(3), double):
        assert "schedule_state" not in adam(lr).state_dict()


@kinds
@pytest.mark.parametrize("cut", range(15))
def test_resumed_with_an_equal_schedule(kind: Any, cut: int) -> None:
    """Its plateaus are kept and get the state, so that the caller goes on with those at hand."""
    schedule, plateaus = STEERED[kind]()
    opt = adam(schedule)
    rates = train(opt, plateaus, range(cut))
    saved, params = strict(opt.state_dict()), np.array(opt.params)
    rates += train(opt, plateaus, range(cut, 20))

    own, own_plateaus = STEERED[kind]()
    if cut % 2:
        history(own_plateaus[0], [1.0] * 9)  # which the saved state replaces
    resumed = adam(own, params)
    resumed.load_state_dict(saved)
    assert resumed.schedule is own
    assert [each is other for each, other in zip(plateaus_in(own), own_plateaus, strict=True)]
    assert train(resumed, own_plateaus, range(cut, 20)) == rates[cut:]
    assert_bits(resumed.params, opt.params)
    for name, state in opt.state.items():
        assert_bits(resumed.state[name], state)
    assert [each.state_dict() for each in own_plateaus] == [each.state_dict() for each in plateaus]


@pytest.mark.parametrize("kind", [kind for kind in STEERED if kind != "callable"])
@pytest.mark.parametrize("cut", range(15))
def test_resumed_with_another_schedule(kind: Any, cut: int) -> None:
    """It is replaced, and `opt.schedule` is the one to tell."""
    schedule, plateaus = STEERED[kind]()
    opt = adam(schedule)
    rates = train(opt, plateaus, range(cut))
    saved, params = strict(opt.state_dict()), np.array(opt.params)
    rates += train(opt, plateaus, range(cut, 20))

    mine = plain(0.3)
    others: list[Any] = [0.3, Cosine(0.1, 10), double, mine, mine.warmup(3)]
    resumed = adam(others[cut % len(others)], params)
    resumed.load_state_dict(saved)
    assert resumed.schedule == schedule
    assert resumed.schedule is not schedule
    new = plateaus_in(resumed.schedule)
    assert train(resumed, new, range(cut, 20)) == rates[cut:]
    assert_bits(resumed.params, opt.params)
    assert [each.state_dict() for each in new] == [each.state_dict() for each in plateaus]
    assert mine.state_dict() == plain(0.3).state_dict()


def test_a_schedule_without_one_replaces_a_plateau() -> None:
    plateau = plain()
    target = adam(plateau)
    train(target, [plateau], range(8))
    before = plateau.state_dict()
    source = adam(Cosine(0.1, 10))
    run(source, 2)
    target.load_state_dict(source.state_dict())
    assert target.schedule == Cosine(0.1, 10)
    assert plateau.state_dict() == before


def test_a_callable_that_was_saved_leaves_the_targets_plateau() -> None:
    plateau = plain()
    target = adam(plateau)
    train(target, [plateau], range(8))
    before = plateau.state_dict()
    target.load_state_dict(adam(double).state_dict())
    assert target.schedule is plateau
    assert target.step_count == 0
    assert plateau.state_dict() == before


@pytest.mark.parametrize(("plateau", "most"), [(plain(), 0), (plain(statistic="mean", window=2), 2)])
def test_a_state_with_too_many_metrics_is_told_how_many_there_may_be(plateau: Plateau, most: int) -> None:
    state = plateau.state_dict() | {"recent": [0.5] * (most + 1)}
    with pytest.raises(
        ValueError, match=f"^recent: expected the last {most} metrics at most, got {most + 1}$"
    ):
        plateau.load_state_dict(state)


def test_a_plateau_over_a_callable_needs_one_to_go_into() -> None:
    schedule, plateaus = STEERED["callable"]()
    opt = adam(schedule)
    train(opt, plateaus, range(8))
    for lr in (0.3, double, plain() * plain()):
        target = adam(lr)
        before = everything(target)
        with pytest.raises(ValueError, match="^schedule_state: "):
            target.load_state_dict(opt.state_dict())
        assert everything(target) == before


@kinds
@pytest.mark.parametrize("equal", [True, False])
def test_states_that_do_not_fit_change_nothing(kind: Any, equal: bool) -> None:
    """Neither the optimizer nor any plateau: the states are all checked before the first is loaded."""
    schedule, plateaus = STEERED[kind]()
    opt = adam(schedule)
    train(opt, plateaus, range(9))
    saved = strict(opt.state_dict())
    own, own_plateaus = STEERED[kind]() if equal or kind == "callable" else over(0.3)()
    target = adam(own)
    train(target, own_plateaus, range(5))
    before = everything(target)

    states = saved["schedule_state"]
    wrong: list[Any] = [[], states + states[:1], states[:-1], None, 3, "ab", {}, [None] * len(states), [[]]]
    wrong += [[*states[:-1], each] for each in spoiled(states[-1])]
    for each in wrong:
        with pytest.raises((TypeError, ValueError), match=r"^[a-z_]+(\[\d+\])?(\.[a-z]+)?: "):
            target.load_state_dict(saved | {"schedule_state": each})
        assert everything(target) == before, each
    changes: list[dict[str, Any]] = [
        {"step_count": -1},
        {"state": saved["state"] | {"exp_avg": np.zeros(3, np.float32)}},
        {"hyper": saved["hyper"] | {"eps": -1.0}},
        {"rule": "sgd"},
    ]
    for change in changes:
        with pytest.raises((TypeError, ValueError)):
            target.load_state_dict(saved | change)
        assert everything(target) == before, change
    if kind != "callable":
        with pytest.raises(ValueError, match="^schedule_state: "):
            target.load_state_dict({name: each for name, each in saved.items() if name != "schedule_state"})
        assert everything(target) == before
    no_plateau = adam(Cosine(0.1, 10)).state_dict()
    with pytest.raises(ValueError, match="^schedule_state: "):
        target.load_state_dict(no_plateau | {"schedule_state": states})
    assert everything(target) == before
    assert target.schedule is own


@kinds
def test_pickles_and_copies_of_an_optimizer(kind: Any) -> None:
    """They have plateaus of their own with the state so far; one copied with its plateau goes on with that."""
    schedule, plateaus = STEERED[kind]()
    opt = adam(schedule)
    train(opt, plateaus, range(6))
    kept = [each.state_dict() for each in plateaus]
    both = (opt, plateaus)
    copies = [pickle.loads(pickle.dumps(both)), copy.deepcopy(both), copy.deepcopy(both)]
    copies[2] = (copies[2][0], plateaus_in(copies[2][0].schedule))
    for other, others in copies:
        assert other.schedule == schedule
        assert [each is own for each, own in zip(plateaus_in(other.schedule), others, strict=True)]
        assert not any(each is own for each in others for own in plateaus)
        assert [each.state_dict() for each in others] == kept
    rates = train(opt, plateaus, range(6, 20))
    for other, others in copies:
        assert [each.state_dict() for each in others] == kept
        assert train(other, others, range(6, 20)) == rates
        assert_bits(other.params, opt.params)
    alone = pickle.loads(pickle.dumps(opt))
    assert alone.lr == opt.lr


def test_a_plateau_may_steer_several_optimizers() -> None:
    plateau = plain()
    one, two = adam(plateau), lrcore.SGD(start(), lr=plateau * 10.0)
    history(plateau, [1.0] * 3)
    assert one.lr == 0.025
    assert two.lr == 0.25


@pytest.fixture
def xp() -> Iterator[CuPy | Torch]:
    """Imitate devices."""
    with library("imitated") as made:
        yield made


def capturable(xp: CuPy | Torch, lr: Any) -> Any:
    """Make an optimizer whose rates are in a table on the device."""
    ones: Array = np.ones(4, np.float32)
    return lrcore.Adam(xp.array(ones), lr=lr, grads=xp.array(ones), capturable=True, max_steps=10)


@pytest.mark.parametrize("kind", [*STEERED, *COMPOSITIONS])
def test_a_capturable_optimizer_refuses_it(kind: Any, xp: CuPy | Torch) -> None:
    """Anywhere in its schedule: the table is made once. And what was saved from another."""
    if kind in STEERED:
        schedule, plateaus = STEERED[kind]()
    else:
        plateaus = [plain()]
        schedule = COMPOSITIONS[kind][0](plateaus[0])
    with pytest.raises(ValueError, match="^lr: "):
        capturable(xp, schedule)
    history(plateaus[0], [1.0] * 9)
    with pytest.raises(ValueError, match="^lr: "):
        capturable(xp, schedule)
    saved = lrcore.Adam(np.ones(4, np.float32), lr=schedule).state_dict()
    opt = capturable(xp, Cosine(0.1, 10))
    opt.step()
    before = xp.numpy(opt.params).tobytes(), opt.step_count, opt.schedule, opt.lr
    if "schedule" in saved:
        with pytest.raises(ValueError, match="^lr: "):
            opt.load_state_dict(saved)
        assert (xp.numpy(opt.params).tobytes(), opt.step_count, opt.schedule, opt.lr) == before


def test_plateaus_are_found_in_whatever_is_made_of_them() -> None:
    """Also in a list or a dictionary of a schedule of one's own; not in a callable."""

    class Own(schedules.Schedule):
        def __init__(self, *parts: Any) -> None:
            self.parts, self.named = [*parts], dict(enumerate(parts))

        def _value(self, t: int) -> float:
            return float(self.parts[0](t))

    first, second = Plateau(0.1), Plateau(Plateau(0.2), 0.5)
    inner = second.lr
    assert schedules.plateaus(first.warmup(3) * second) == [first, second, inner]
    assert [id(each) for each in schedules.plateaus(Own(first))] == [id(first)]  # once
    assert (
        schedules.plateaus(schedules.Function(lambda t: first(t) * 2))
        == schedules.plateaus(Constant(0.1))
        == []
    )
