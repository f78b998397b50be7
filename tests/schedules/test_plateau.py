"""Plateau: what counts as an improvement, when it reduces the rate, and its state.

test_steering.py tests it in an optimizer.
"""

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
from schedules.examples import WAYS

INF, NAN = math.inf, math.nan


def history(plateau: Plateau, metrics: Sequence[float]) -> list[int]:
    """Return the number of reductions after each metric."""
    counts = []
    for metric in metrics:
        plateau.observe(metric)
        counts.append(plateau.reductions)
    return counts


def stored(plateau: Plateau) -> Any:
    """Return the state after a round trip through strict JSON."""
    return json.loads(json.dumps(plateau.state_dict(), allow_nan=False))


# ---- when it reduces

ONE: dict[str, Any] = {"patience": 0, "threshold": 0}
MEAN: dict[str, Any] = ONE | {"statistic": "mean", "window": 2}
BAD: dict[str, Any] = {"patience": 1, "nan": "bad"}

HISTORIES: dict[str, tuple[dict[str, Any], list[float], list[int]]] = {
    "more than patience": ({"patience": 2}, [1] * 8, [0, 0, 0, 1, 1, 1, 2, 2]),
    "ten by default": ({}, [1] * 23, [0] * 11 + [1] * 11 + [2]),
    "in a row": ({"patience": 2}, [9, 9, 9, 8, 9, 9, 7, 7, 8, 6, 6, 6, 6], [0] * 12 + [1]),
    "one in ten thousand by default": ({"patience": 0}, [1, 0.99989, 0.99981], [0, 0, 1]),
    "of a negative metric": ({"patience": 0}, [-100, -100.011, -100.019], [0, 0, 1]),
    "cooldown": ({"patience": 1, "cooldown": 1}, [1] * 9, [0, 0, 1, 1, 1, 2, 2, 2, 3]),
    "cooldown may set the best": (
        ONE | {"cooldown": 2},
        [5, 5, 3, 9, 4, 9, 9, 2.9],
        [0, 1, 1, 1, 2, 2, 2, 2],
    ),
    "mean of the last two": (MEAN, [4, 6, 2, 6, 1], [0, 0, 0, 1, 1]),  # means: -, 5, 4, 4, 3.5
    "infinity leaves the mean": (MEAN, [2, INF, 3, 3, 3], [0, 0, 1, 1, 2]),  # means: -, inf, inf, 3, 3
    "infinity is worse than any": ({"patience": 0}, [INF, -INF, -INF], [0, 0, 1]),
    "NaN in a cooldown": (BAD | {"cooldown": 2}, [5, NAN, NAN, NAN, NAN, NAN], [0, 0, 1, 1, 1, 1]),
    "NaN stays out of the mean": (MEAN | {"nan": "bad"}, [NAN, 4, NAN, 4, NAN, 2], [0, 0, 0, 0, 1, 1]),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_when_it_reduces(name: str) -> None:
    options, metrics, expected = HISTORIES[name]
    assert history(Plateau(1.0, **options), metrics) == expected


def replayed(metrics: Sequence[float], arguments: dict[str, Any]) -> int:
    """Return the number of reductions according to the documentation, computed from all metrics at once."""
    window = arguments.get("window")
    best, count, without, rest = NAN, 0, 0, 0
    for i, metric in enumerate(metrics, 1):
        numbers = [each for each in metrics[:i] if not math.isnan(each)]
        if window and len(numbers) < window:
            continue
        value = sum(numbers[-window:]) / window if window and not math.isnan(metric) else metric
        value = value if arguments["mode"] == "min" else -value
        margin = arguments["threshold"] * (abs(best) if arguments["threshold_mode"] == "rel" else 1)
        if math.isfinite(best):
            improved = best - value > margin
        else:
            improved = math.isfinite(value) or value < best or (math.isnan(best) and not math.isnan(value))
        best = value if improved else best
        if rest:
            rest -= 1
        else:
            without = 0 if improved else without + 1
            if without > arguments["patience"]:
                count, without, rest = count + 1, 0, arguments["cooldown"]
    return count


@st.composite
def trainings(draw: st.DrawFn) -> tuple[dict[str, Any], list[float]]:
    """Return arguments and metrics. The metrics, their thresholds and their means are exact in float64."""
    arguments = {
        "factor": draw(st.sampled_from([0.5, 0.25, 0.1, 0.97])),
        "patience": draw(st.integers(0, 3)),
        "mode": draw(st.sampled_from(["min", "max"])),
        "threshold": draw(st.sampled_from([0.0, 2**-10, 0.25, 0.5, 1.0, 2.0])),
        "threshold_mode": draw(st.sampled_from(["rel", "abs"])),
        "cooldown": draw(st.integers(0, 3)),
        "min_lr": draw(st.sampled_from([0.0, 0.01, 0.2, 5.0])),
        "nan": "bad",
    }
    infinities = [INF, -INF]
    if draw(st.booleans()):
        arguments |= {"statistic": "mean", "window": draw(st.integers(1, 4))}
        infinities = [draw(st.sampled_from(infinities))]  # the mean of both would be NaN
    numbers = st.integers(-12, 12).map(lambda n: n * 0.75)
    return arguments, draw(st.lists(numbers | st.sampled_from([*infinities, NAN, 0.0]), max_size=30))


@settings(derandomize=True, deadline=None, database=None, max_examples=200)
@given(trainings())
def test_any_history_is_as_described_wherever_it_is_saved(
    training: tuple[dict[str, Any], list[float]],
) -> None:
    """A copy made by state, pickle or deepcopy continues like the original, and independently of it."""
    arguments, metrics = training
    rates = Linear(0.7, 0.1, 5)
    expected = [replayed(metrics[:i], arguments) for i in range(len(metrics) + 1)]
    plateau = Plateau(rates, **arguments)
    for cut, k in enumerate(expected):
        assert plateau.reductions == k
        for t in (0, 3, 9):
            floor = min(arguments["min_lr"], rates(t))
            assert plateau(t) == pytest.approx(max(rates(t) * arguments["factor"] ** k, floor), rel=4e-15)
        before = stored(plateau)
        loaded = Plateau(rates, **arguments)
        loaded.load_state_dict(before)
        for other in (loaded, pickle.loads(pickle.dumps(plateau)), copy.deepcopy(plateau)):
            assert stored(other) == before
            assert history(other, metrics[cut:]) == expected[cut + 1 :]
        assert stored(plateau) == before
        history(plateau, metrics[cut : cut + 1])


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        *((each, ValueError) for each in (NAN, np.float32("nan"), np.array(np.nan), 10**400)),
        *((each, TypeError) for each in ("1", None, True, 1j, [1.0], np.array([1.0, 2.0]))),
    ],
)
def test_what_is_no_metric_changes_nothing(wrong: Any, error: type[Exception]) -> None:
    plateau = Plateau(1.0, statistic="mean", window=2)
    metrics: tuple[Any, ...] = (3, np.float32(2), np.int64(1), np.array(0.5))
    for metric in metrics:
        before = plateau.state_dict()
        with pytest.raises(error, match="^metric: "):
            plateau.observe(wrong)
        assert plateau.state_dict() == before
        plateau.observe(metric)


# ---- the rate


def reduced(k: int, lr: Any = 0.7, **options: Any) -> Plateau:
    """Return a Plateau that has reduced the rate k times."""
    plateau = Plateau(lr, **{"patience": 0} | options)
    assert history(plateau, [1.0] * (k + 1))[-1] == k
    return plateau


def test_rates() -> None:
    """The floor does not raise a rate that is already below it."""
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
        expected = WAYS[way](Constant(0.7 * 0.5**k))
        assert [schedule(t) for t in range(15)] == [expected(t) for t in range(15)]
        assert schedule(range(15)).tolist() == [expected(t) for t in range(15)]


# ---- the state


def test_it_is_a_value_whatever_it_observed() -> None:
    """Equality, hash, repr and dictionary depend only on the arguments."""
    plateau, fresh = reduced(3), reduced(0)
    assert plateau == fresh
    assert hash(plateau) == hash(fresh)
    assert repr(plateau) == repr(fresh)
    assert plateau.to_dict() == fresh.to_dict()
    assert schedules.from_dict(plateau.to_dict()).reductions == 0  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        plateau.reductions = 1  # type: ignore[misc]


def test_the_state_is_a_few_numbers() -> None:
    """The state does not grow with the number of observations."""
    plateau = Plateau(0.7, patience=2, statistic="mean", window=3)
    history(plateau, [1 / 3] * 10)
    size = len(json.dumps(stored(plateau)))
    history(plateau, [1 / 3] * 1000)
    assert len(json.dumps(stored(plateau))) <= size + 3


def spoiled(state: dict[str, Any]) -> Iterator[Any]:
    """Yield states that `load_state_dict` must refuse, made from a valid one."""
    yield from (None, 3, [], "ab", {}, {"more": 1}, state | {"more": 1})
    for name, value in state.items():
        yield {key: each for key, each in state.items() if key != name}
        wrong: list[Any] = ["nonsense", NAN, {"a": 1}, 1j]
        if type(value) is int:
            wrong += [-1, 1.5, "1", None, INF]
        elif isinstance(value, list):
            wrong += [3, None, ["x"], [None], [NAN], [1.0] * 1000]
        yield from (state | {name: each} for each in wrong)


@pytest.mark.parametrize(("more", "most"), [({}, 0), ({"statistic": "mean", "window": 3, "cooldown": 2}, 3)])
def test_refused_states_change_nothing(more: dict[str, Any], most: int) -> None:
    plateau, target = Plateau(0.7, patience=1, **more), Plateau(0.7, patience=1, **more)
    history(plateau, [3.0, 2.0, 2.0, 2.0, 2.5])
    history(target, [1.0, 1.0, 1.0])
    before, good = stored(target), stored(plateau)
    for state in spoiled(good):
        with pytest.raises((TypeError, ValueError), match=r"^[a-z_]+(\[\d+\])?: "):
            target.load_state_dict(state)
        assert stored(target) == before, state
    with pytest.raises(ValueError, match=f"^recent: expected at most {most} metrics, got {most + 1}$"):
        target.load_state_dict(good | {"recent": [0.5] * (most + 1)})
    target.load_state_dict(good)
    assert stored(target) == good
