"""Schedules: values, domains, and their being values."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

from lrcore import schedules
from lrcore.schedules import Constant, Cosine, Function, Schedule

EXAMPLES: list[Schedule] = [Constant(0.1), Cosine(1e-3, steps=100), Cosine(0.1, 7, end=0.01)]
ids = pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)


def test_constant() -> None:
    assert Constant(0.1)(0) == Constant(0.1)(10**12) == 0.1


def test_cosine() -> None:
    """Half a cosine from lr to end, then end."""
    schedule = Cosine(0.1, steps=10, end=0.02)
    assert schedule(0) == 0.1
    assert schedule(5) == pytest.approx(0.06, rel=1e-15)
    for t in range(11):
        assert schedule(t) == 0.02 + (0.1 - 0.02) * (1 + math.cos(math.pi * (t / 10))) / 2
    assert schedule(10) == schedule(11) == schedule(10**15) == 0.02
    assert Cosine(1.0, 4)(4) == 0


@ids
def test_arrays_hold_the_scalar_forms_floats(schedule: Schedule) -> None:
    steps = np.arange(240).reshape(4, 60)
    rates = schedule(steps)
    assert rates.dtype == np.float64
    assert rates.shape == (4, 60)
    assert rates.ravel().tolist() == [schedule(t) for t in range(240)]
    assert schedule(range(3)).tolist() == schedule([0, 1, 2]).tolist() == [schedule(t) for t in range(3)]
    assert schedule(np.array([], dtype=int)).shape == (0,)
    assert schedule(np.int32(3)) == schedule(np.uint8(3)) == schedule(3)


@ids
def test_t(schedule: Schedule) -> None:
    for bad in (-1, np.array([0, -1])):
        with pytest.raises(ValueError, match="^t: expected a number of steps >= 0, got -1"):
            schedule(bad)
    call: Any = schedule
    wrong: Any
    for wrong in (
        "1",
        None,
        True,
        1j,
        {},
        ["1"],
        [None],
        np.array([1.0]),
        np.array(1.0),
        np.array([True]),
        Other([0.5]),
    ):
        with pytest.raises(TypeError, match="^t: expected an integer or an array of integers, got "):
            call(wrong)
    for value in (0.5, math.nan, math.inf, np.float32(0.5), [0, 0.5], [[0, 1], [2]]):
        with pytest.raises(ValueError, match="^t: expected an integer or an array of integers, got "):
            call(value)


class Other:
    """An array of another library, which NumPy can read unless its values are an error."""

    def __init__(self, values: Any) -> None:
        self.values = values

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if isinstance(self.values, Exception):
            raise self.values
        return np.array(self.values, dtype)

    def __index__(self) -> int:
        if isinstance(self.values, int):
            return self.values
        raise TypeError("only integer scalar arrays can be converted to a scalar index")


@ids
def test_arrays_of_any_library(schedule: Schedule) -> None:
    """As NumPy's; and what counts as an integer elsewhere does so here."""
    call: Any = schedule
    expected = [schedule(t) for t in (3, 0, 7)]
    for array in (
        Other([3, 0, 7]),
        [Other(3), Other(0), Other(7)],
        [np.uint64(3), np.int64(0), 7.0],
        (3, np.uint8(0), 7),
    ):
        rates = call(array)
        assert rates.dtype == np.float64
        assert rates.tolist() == expected
    assert call(Other([[3], [0], [7]])).tolist() == [[each] for each in expected]
    for one in (3.0, np.float32(3), np.array(3), Other(3)):
        assert type(call(one)) is float
        assert call(one) == expected[0]
    with pytest.raises(TypeError, match="^t: expected .* got Other: on a device; copy it$"):
        call(Other(TypeError("on a device; copy it")))
    with pytest.raises(ValueError, match="^t: expected a number of steps >= 0, got -1$"):
        call(Other([3, -1]))


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    schedule: Any = Cosine(0.1, steps=10)
    assert schedule(torch.arange(3)).tolist() == [schedule(t) for t in range(3)]
    assert schedule(torch.tensor([3])).shape == (1,)
    assert type(schedule(torch.tensor(3))) is float
    with pytest.raises(TypeError, match="^t: expected .* got dtype float32$"):
        schedule(torch.ones(3))
    with pytest.raises(TypeError, match="^t: expected .* got Tensor: "):
        schedule(torch.ones(3, requires_grad=True))


@ids
def test_they_are_values(schedule: Schedule) -> None:
    """They print as code, compare, hash, copy, pickle, and go to JSON and back."""
    assert eval(repr(schedule), vars(schedules)) == schedule
    assert schedule != Constant(0.7)
    assert hash(schedule) == hash(copy.deepcopy(schedule))
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert schedules.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    with pytest.raises(AttributeError):
        schedule.lr = 1.0  # type: ignore[attr-defined]


def test_integers_become_the_same_value() -> None:
    assert repr(Cosine(1, np.int64(10), 0)) == "Cosine(lr=1.0, steps=10)"  # type: ignore[arg-type]
    assert Constant(1) == Constant(1.0)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Constant(-1), ValueError, "^lr: expected"),
        (lambda: Constant(math.nan), ValueError, "^lr: expected"),
        (lambda: Constant(1e-50), ValueError, "^lr: 1e-50 becomes 0.0 in float32"),
        (lambda: Constant("1"), TypeError, "^lr: expected a number"),  # type: ignore[arg-type]
        (lambda: Cosine(math.inf, 10), ValueError, "^lr: expected a finite number"),
        (lambda: Cosine(0.1, 0), ValueError, "^steps: expected a number of steps >= 1"),
        (lambda: Cosine(0.1, -3), ValueError, "^steps: "),
        (lambda: Cosine(0.1, 10.5), ValueError, "^steps: expected a number of steps"),  # type: ignore[arg-type]
        (lambda: Cosine(0.1, 10, -0.1), ValueError, "^end: expected"),
        (lambda: Function(3), TypeError, "^fn: expected a callable"),  # type: ignore[arg-type]
    ],
)
def test_domains(make: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        make()


def halve(t: int) -> float:
    """Return a rate that a pickle can find."""
    return 0.5**t


def test_function() -> None:
    schedule = schedules.as_schedule(halve)
    assert isinstance(schedule, Function)
    assert repr(schedule) == "Function(halve)"
    assert schedule(3) == 0.125
    assert schedule([0, 1]).tolist() == [1, 0.5]
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    with pytest.raises(TypeError, match=r"Function\(halve\) has no dictionary form"):
        schedule.to_dict()


@pytest.mark.parametrize(
    "dictionary",
    [
        {},
        {"schedule": "Nothing"},
        {"schedule": 3},
        {"schedule": "Function", "fn": 1},
        {"schedule": "Schedule"},
        {"schedule": "Cosine", "lr": 0.1},
        {"schedule": "Cosine", "lr": 0.1, "steps": 3, "more": 1},
        {"schedule": "Cosine", "lr": 0.1, "steps": -3},
        {"schedule": "Constant", "lr": math.nan},
    ],
)
def test_from_dict_refuses(dictionary: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^(schedule|steps|lr): "):
        schedules.from_dict(dictionary)
