"""Plateau: what counts as an improvement, when it reduces, and its state. test_steering.py has it in an optimizer."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcore import schedules
from lrcore.schedules import Constant, Cosine, Linear, Plateau
from schedules import plateau_oracle
from schedules.examples import WAYS

INF, NAN = math.inf, math.nan
fixed = settings(derandomize=True, deadline=None, database=None, max_examples=100)


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


# When it reduces.

ONE: dict[str, Any] = {"patience": 0, "threshold": 0}
BY_ONE: dict[str, Any] = {"patience": 2, "threshold": 1.0, "threshold_mode": "abs"}
MEAN: dict[str, Any] = ONE | {"statistic": "mean"}
BAD: dict[str, Any] = {"patience": 1, "nan": "bad"}

HISTORIES: dict[str, tuple[dict[str, Any], list[float], list[int]]] = {
    "at once": ({"patience": 0}, [1] * 4, [0, 1, 2, 3]),
    "more than patience": ({"patience": 2}, [1] * 8, [0, 0, 0, 1, 1, 1, 2, 2]),
    "ten by default": ({}, [1] * 23, [0] * 11 + [1] * 11 + [2]),
    "in a row": ({"patience": 2}, [9, 9, 9, 8, 9, 9, 7, 7, 8, 6, 6, 6, 6], [0] * 12 + [1]),
    "less than the threshold each": (BY_ONE, [10, 9.7, 9.4, 9.1], [0, 0, 0, 1]),
    "less than the threshold, and together more": (BY_ONE, [10, 9.5, 9, 8.5, 8, 7.5, 7], [0] * 7),
    "one in ten thousand by default": ({"patience": 0}, [1, 0.99989, 0.99981], [0, 0, 1]),
    "of a negative metric": ({"patience": 0}, [-100, -100.011, -100.019], [0, 0, 1]),
    "cooldown": ({"patience": 1, "cooldown": 1}, [1] * 9, [0, 0, 1, 1, 1, 2, 2, 2, 3]),
    "long cooldown": ({"patience": 1, "cooldown": 3}, [1] * 8, [0, 0, 1, 1, 1, 1, 1, 2]),
    "cooldown may set the best": (
        ONE | {"cooldown": 2},
        [5, 5, 3, 9, 4, 9, 9, 2.9],
        [0, 1, 1, 1, 2, 2, 2, 2],
    ),
    "mean of a full window": (MEAN | {"window": 3}, [1] * 5, [0, 0, 0, 1, 2]),
    "mean of the last two": (MEAN | {"window": 2}, [4, 6, 2, 6, 1], [0, 0, 0, 1, 1]),  # -, 5, 4, 4, 3.5
    "greatest mean": (MEAN | {"window": 3, "mode": "max"}, [1, 2, 3, 4, 2], [0, 0, 0, 0, 1]),  # -, -, 2, 3, 3
    "infinity leaves the mean": (
        MEAN | {"window": 2},
        [2, INF, 3, 3, 3],
        [0, 0, 1, 1, 2],
    ),  # -, inf, inf, 3, 3
    "any finite metric beats infinity": (ONE, [INF, INF, 1e308, 1e308], [0, 1, 1, 2]),
    "and minus infinity where more is better": (ONE | {"mode": "max"}, [-INF, -1e308, INF], [0, 0, 0]),
    "infinity is worse than any": (ONE, [2, INF, -INF], [0, 1, 1]),
    "NaN is bad": (BAD, [NAN, 5, NAN, 4, NAN, 4, NAN], [0, 0, 0, 0, 0, 1, 1]),
    "NaN at first": (BAD, [NAN, NAN, 5], [0, 1, 1]),
    "NaN in a cooldown": (BAD | {"cooldown": 2}, [5, NAN, NAN, NAN, NAN, NAN], [0, 0, 1, 1, 1, 1]),
    "NaN stays out of the mean": (
        MEAN | {"window": 2, "nan": "bad"},
        [NAN, 4, NAN, 4, NAN, 2],
        [0, 0, 0, 0, 1, 1],
    ),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_when_it_reduces(name: str) -> None:
    options, metrics, expected = HISTORIES[name]
    assert history(Plateau(1.0, **options), metrics) == expected


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


@pytest.mark.parametrize("options", [{}, {"statistic": "mean", "window": 2}, {"patience": 0, "cooldown": 1}])
@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        *((each, ValueError) for each in (NAN, np.float32("nan"), np.array(np.nan), 10**400)),
        *((each, TypeError) for each in ("1", None, True, 1j, [1.0], np.array([1.0, 2.0]))),
    ],
)
def test_what_is_no_metric_changes_nothing(options: Any, wrong: Any, error: type[Exception]) -> None:
    plateau = Plateau(1.0, **options)
    accepted: tuple[Any, ...] = (3, np.float32(2), np.int64(1), np.array(0.5))
    for metric in accepted:
        before = plateau.state_dict()
        with pytest.raises(error, match="^metric: "):
            plateau.observe(wrong)
        assert plateau.state_dict() == before
        plateau.observe(metric)


def test_combinations_without_effect_are_refused() -> None:
    with pytest.raises(ValueError, match="^window: "):
        Plateau(0.1, window=2)
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


def test_rates() -> None:
    """The floor lifts nothing that is below it by itself."""
    assert reduced(0)(10**15) == 0.7
    assert reduced(2000)(0) == 0
    assert reduced(2000, min_lr=1e-5)(0) == 1e-5
    assert reduced(1, 0.01, min_lr=0.5)(0) == 0.01
    assert reduced(2, Cosine(0.1, 20), min_lr=0.02)([0, 20]).tolist() == [0.02, 0]
    assert reduced(1, lambda t: 1.0 / (t + 1), factor=0.5)(range(3)).tolist() == [0.5, 0.25, 0.5 / 3]


@pytest.mark.parametrize("way", WAYS)
def test_what_is_composed_of_it_follows(way: str) -> None:
    plateau = Plateau(0.7, 0.5, patience=0)
    schedule = WAYS[way](plateau)
    for k in range(5):
        plateau.observe(1.0)
        assert plateau.reductions == k
        expected = WAYS[way](Constant(0.7 * 0.5**k))
        assert [schedule(t) for t in range(15)] == [expected(t) for t in range(15)]
        assert schedule(range(15)).tolist() == [expected(t) for t in range(15)]


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
@given(options(), metrics(), st.lists(st.sampled_from([INF, -INF, NAN, 1.0, 0.0, -1.0]), max_size=20))
def test_reductions_and_rates_are_the_oracles(
    arguments: dict[str, Any], observed: list[float], of_both_signs: list[float]
) -> None:
    """Infinities of both signs, where each metric is looked at alone: their mean has no value."""
    if "window" not in arguments:
        observed = observed + of_both_signs
    plateau = Plateau(Linear(0.7, 0.1, 5), **arguments)
    for i, metric in enumerate(observed, 1):
        plateau.observe(metric)
        k = plateau_oracle.reductions(observed[:i], **judging(arguments))
        assert plateau.reductions == k
        for t in (0, 3, 9):
            lr = Linear(0.7, 0.1, 5)(t)
            expected = plateau_oracle.rate(lr, k, arguments["factor"], arguments["min_lr"])
            assert plateau(t) == pytest.approx(expected, rel=4e-15)


@settings(fixed, max_examples=40)
@given(options(), metrics())
def test_saved_at_each_point(arguments: dict[str, Any], observed: list[float]) -> None:
    """By state, by pickle and by a copy: each goes on as the uninterrupted one does, and alone."""
    whole = Plateau(0.7, **arguments)
    expected = history(whole, observed)
    plateau = Plateau(0.7, **arguments)
    for cut in range(len(observed) + 1):
        loaded = Plateau(0.7, **arguments)
        loaded.load_state_dict(stored(plateau))
        before = stored(plateau)
        assert stored(loaded) == before
        for other in (loaded, pickle.loads(pickle.dumps(plateau)), copy.deepcopy(plateau)):
            assert other.reductions == plateau.reductions
            assert history(other, observed[cut:]) == expected[cut:]
            assert other(0) == whole(0)
            assert stored(other) == stored(whole)
        assert stored(plateau) == before
        if cut < len(observed):
            plateau.observe(observed[cut])


def test_it_is_a_value_whatever_it_observed() -> None:
    """Equality, hash, what it prints and its dictionary are about the arguments."""
    plateau, fresh = reduced(3), reduced(0)
    assert plateau == fresh
    assert hash(plateau) == hash(fresh)
    assert repr(plateau) == repr(fresh)
    assert plateau.to_dict() == fresh.to_dict()
    again: Any
    for again in (eval(repr(plateau), vars(schedules)), schedules.from_dict(plateau.to_dict())):
        assert again == plateau
        assert again.reductions == 0
    with pytest.raises(AttributeError):
        plateau.reductions = 1  # type: ignore[misc]


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


@pytest.mark.parametrize(
    ("plateau", "most"), [(Plateau(0.1), 0), (Plateau(0.1, statistic="mean", window=2), 2)]
)
def test_a_state_with_too_many_metrics_is_told_how_many_there_may_be(plateau: Plateau, most: int) -> None:
    state = plateau.state_dict() | {"recent": [0.5] * (most + 1)}
    with pytest.raises(
        ValueError, match=f"^recent: expected the last {most} metrics at most, got {most + 1}$"
    ):
        plateau.load_state_dict(state)
