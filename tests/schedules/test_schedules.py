"""Every schedule is a value, a function of integers and integer arrays, and a rate for an optimizer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from lrcore.schedules import Constant, Cosine, Function, Plateau
from schedules.examples import build, every, has_dictionary, label, made, round_trips

PLATEAU = Plateau(Constant(0.1).warmup(3), factor=0.5, mode="max", statistic="mean", window=4, nan="bad")
EVERY = [*every(), PLATEAU, Plateau(0.1), PLATEAU * 0.5]
each_schedule = pytest.mark.parametrize("schedule", EVERY, ids=label)


@each_schedule
def test_they_are_values(schedule: Any) -> None:
    """Schedules print as code and can be compared, hashed, copied and pickled.

    They are immutable, and survive a round trip through text and JSON.
    """
    rates = [schedule(t) for t in range(60)]
    for each in round_trips(schedule):
        assert [each(t) for t in range(60)] == rates
    for other in (Constant(0.7), schedule.shift(1), 0.1, None):
        assert schedule != other
    for attribute in (*dict(schedule._arguments()), "lr", "more"):
        with pytest.raises(AttributeError):
            setattr(schedule, attribute, 1.0)
    assert [schedule(t) for t in range(60)] == rates


@pytest.mark.parametrize(
    "code",
    [
        "PiecewiseConstant([2, 3], [1, 0, 2]) == PiecewiseConstant((2, 3), (1.0, 0.0, 2.0))",
        "CyclicStages([[1, 2], [3, 4]]) == CyclicStages(((1.0, 2), (3.0, 4)))",
        "PeriodicPulse(1, [[1, 2], [3, 4]]) == PeriodicPulse(1.0, ((1.0, 2), (3.0, 4)))",
        "Linear(1, 0, 3) == Linear(1.0, 0.0, 3)",
        "repr(Linear(1, -0.0, 3)) == 'Linear(lr=1.0, end=0.0, steps=3)'",
        "Constant(0.1).then(0.2, at=2) == Constant(0.1).then(Constant(0.2), at=2)",
        "hash(PiecewiseConstant([2, 3], [1, 0, 2])) != hash(CyclicStages([[1, 2]]))",
    ],
)
def test_other_spellings_of_the_same_arguments_are_the_same_value(code: str) -> None:
    assert build(code)


@each_schedule
def test_arrays_hold_the_scalar_forms_floats(schedule: Any) -> None:
    """An array of any shape and any integer dtype gives the same floats as scalars."""
    expected = [schedule(t) for t in range(120)]
    for kind in "bBhHiIlLqQ":
        rates = schedule(np.arange(120, dtype=kind)[::-1].reshape(4, 30))
        assert rates.dtype == np.float64
        assert rates.shape == (4, 30)
        assert rates.ravel()[::-1].tolist() == expected
        assert schedule(np.array(3, kind)) == schedule(np.arange(9, dtype=kind)[3]) == expected[3]
    assert schedule(range(3)).tolist() == schedule([0, 1, 2]).tolist() == expected[:3]
    assert schedule(np.array([], dtype=int)).shape == (0,)


@each_schedule
def test_an_optimizer_asks_at_its_step_count(schedule: Any) -> None:
    """A saved run continues with the same rates."""
    opt = lrcore.SGD(np.zeros(3, np.float32), lr=schedule)
    gradient, total = np.ones(3, np.float32), np.zeros(3, np.float32)
    for t in range(6):
        assert opt.step_count == t
        assert opt.lr == schedule(t)
        opt.step(gradient)
        total -= np.float32(schedule(t))
    assert opt.params == pytest.approx(total, rel=1e-5)
    saved = opt.state_dict()
    resumed = lrcore.SGD(np.zeros(3, np.float32), lr=0.75)
    resumed.load_state_dict(saved)
    assert resumed.step_count == 6
    assert ("schedule" in saved) == has_dictionary(schedule)
    assert resumed.lr == (schedule(6) if has_dictionary(schedule) else 0.75)


# Values of t.

COSINE: Any = Cosine(0.1, 7, end=0.01)


class Other:
    """An array of another library. NumPy can read it, unless `values` is an exception, which is raised."""

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


NO_KIND: list[Any] = [
    "1",
    None,
    True,
    1j,
    {},
    ["1"],
    [None],
    *map(np.array, ([1.0], 1.0, [True])),
    Other([0.5]),
]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        *((each, TypeError, "an integer or an array of integers, got ") for each in NO_KIND),
        *(
            (each, ValueError, "an integer or an array of integers, got ")
            for each in (0.5, math.nan, math.inf, np.float32(0.5), [0, 0.5], [[0, 1], [2]])
        ),
        *((each, ValueError, "a number of steps >= 0, got -1$") for each in (-1, [0, -1], Other([3, -1]))),
        (Other(TypeError("on a device; copy it")), TypeError, ".* got Other: on a device; copy it$"),
    ],
)
def test_what_is_no_t(wrong: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^t: expected {message}"):
        COSINE(wrong)


def test_arrays_of_any_library() -> None:
    """Arrays of other libraries act like NumPy arrays.

    A scalar of any type that has an integer value acts like an integer.
    """
    expected = [COSINE(t) for t in (3, 0, 7)]
    for array in (
        Other([3, 0, 7]),
        [Other(3), Other(0), Other(7)],
        [np.uint64(3), np.int64(0), 7.0],
        (3, np.uint8(0), 7),
    ):
        rates = COSINE(array)
        assert rates.dtype == np.float64
        assert rates.tolist() == expected
    assert COSINE(Other([[3], [0], [7]])).tolist() == [[each] for each in expected]
    for one in (3.0, np.float32(3), np.array(3), Other(3)):
        assert type(COSINE(one)) is float
        assert COSINE(one) == expected[0]


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    assert COSINE(torch.arange(3)).tolist() == [COSINE(t) for t in range(3)]
    assert COSINE(torch.tensor([3])).shape == (1,)
    assert type(COSINE(torch.tensor(3))) is float
    with pytest.raises(TypeError, match="^t: expected .* got dtype float32$"):
        COSINE(torch.ones(3))
    with pytest.raises(TypeError, match="^t: expected .* got Tensor: "):
        COSINE(torch.ones(3, requires_grad=True))


# Callables and dictionaries.


def halve(t: int) -> float:
    """Return a rate. Unlike a lambda, this function can be pickled."""
    return 0.5**t


def test_a_callable_becomes_a_schedule() -> None:
    schedule = schedules.as_schedule(halve)
    assert isinstance(schedule, Function)
    assert repr(schedule) == "Function(halve)"
    assert schedule([0, 3]).tolist() == [1, 0.125]
    assert {each(3) for each in round_trips(schedule)} == {0.125}
    assert (
        Constant(3).then(halve, at=2)(4)
        == (Constant(2) * halve)(3)
        == made.Sequence([(halve, 3), 1])(2)
        == 0.25
    )


def test_what_holds_a_callable_has_no_dictionary() -> None:
    recursive = made.Recursive(lambda _, lr: lr, 0.1)
    for each in (Function(halve), recursive, recursive.warmup(3), Constant(0.1).then(lambda _: 0.5, at=3)):
        with pytest.raises(TypeError, match=r"(Function\(.*\)|Recursive\(.*\)) has no dictionary form"):
            each.to_dict()
