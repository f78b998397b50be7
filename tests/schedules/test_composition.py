"""Composed schedules, and what every schedule is: a value, a function of arrays, a rate of an optimizer."""

from __future__ import annotations

import copy
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from schedules import examples as schedule_examples
from schedules.examples import CALLABLES, CASES, COMPOSED, build, label, made

every = pytest.mark.parametrize(
    ("name", "options"),
    [*CASES, *((code, None) for code in COMPOSED)],
    ids=label,
)
NAMES = vars(schedules) | {"halving": schedule_examples.halving, "counting": schedule_examples.counting}


def one(name: str, options: dict[str, Any] | None) -> Any:
    return build(name) if options is None else getattr(made, name)(**options)


@pytest.mark.parametrize("code", COMPOSED)
def test_composed_values(code: str) -> None:
    schedule, expected = build(code), [COMPOSED[code](t) for t in (*range(100), 1000, 10**15)]
    assert isinstance(schedule, schedules.Schedule)
    rates = [schedule(t) for t in (*range(100), 1000, 10**15)]
    assert all(type(rate) is float for rate in rates)
    assert rates == pytest.approx(expected, rel=4e-15, abs=4e-15 * max(expected))


@pytest.mark.parametrize("warm", [1, 3, 7, 49])
def test_joints_of_a_warm_up(warm: int) -> None:
    """The ramp's last step and the schedule's first both have the full value; all lasts W + T."""
    cosine = made.Cosine(0.1, 10, end=0.03)
    schedule = cosine.warmup(warm)
    assert schedule(0) == pytest.approx(0.1 / warm, rel=4e-15)
    assert schedule(warm - 1) == schedule(warm) == cosine(0)
    assert schedule(warm + 9) == cosine(9)
    assert schedule(warm + 10) == schedule(10**15) == 0.03
    schedule = cosine.warmup(warm, start=0.007)
    assert schedule(0) == 0.007
    assert schedule(warm) == cosine(0)
    assert schedule(warm + 9) == cosine(9)
    assert schedule(warm + 10) == schedule(10**15) == 0.03
    for nothing in (cosine.warmup(0), cosine.warmup(0, start=0.5)):
        assert [nothing(t) for t in range(20)] == [cosine(t) for t in range(20)]


def test_joints_of_a_sequence() -> None:
    schedule = made.Sequence([(made.Linear(1.0, 0.0, 4), 3), (0.3, 1), made.StepDecay(1.0, 2, 0.5)])
    assert [schedule(t) for t in range(9)] == [1, 0.75, 0.5, 0.3, 1, 1, 0.5, 0.5, 0.25]
    schedule = made.Constant(1).then(2, at=2).then(made.Linear(3, 4, 2), at=3)
    assert [schedule(t) for t in range(7)] == [1, 1, 2, 3, 3.5, 4, 4]


def test_simple_compositions_change_no_bit() -> None:
    decay = made.Exponential(0.1, 0.9)
    assert [decay.shift(5)(t) for t in range(9)] == [decay(t + 5) for t in range(9)]
    assert [decay.per_epoch(5)(t) for t in range(99)] == [decay(t // 5) for t in range(99)]
    assert [(decay * 0.3)(t) for t in range(9)] == [decay(t) * 0.3 for t in range(9)]
    assert [(decay * decay)(t) for t in range(9)] == [decay(t) * decay(t) for t in range(9)]
    clipped = decay.clip(0.06, 0.085)
    assert [clipped(t) for t in range(9)] == [min(max(decay(t), 0.06), 0.085) for t in range(9)]


def test_a_callable_is_accepted_wherever_a_schedule_is() -> None:
    def fn(t: int) -> float:
        return 0.5**t

    assert made.Constant(3).then(fn, at=2)(4) == 0.25
    assert (made.Constant(3) * fn)(2) == 0.75
    assert made.Sequence([(fn, 2), 0.3])(1) == 0.5
    opt = lrcore.SGD(np.zeros(3, np.float32), lr=made.Constant(3).then(fn, at=2))
    assert opt.lr == 3
    assert "schedule" not in opt.state_dict()


@pytest.mark.parametrize(
    ("code", "error", "match"),
    [
        ("Constant(0.1).then(0.2, at=0)", ValueError, r"^at\b"),
        ("Constant(0.1).then(0.2, at=-3)", ValueError, r"^at\b"),
        ("Constant(0.1).then(0.2, at=2.5)", ValueError, r"^at\b"),
        ("Constant(0.1).then(-0.2, at=2)", ValueError, r"^[a-z_]+\b.*: "),
        ("Constant(0.1).then('x', at=2)", TypeError, r"^[a-z_]+\b.*: "),
        ("Constant(0.1).then(Cosine, at=2)", TypeError, r"^[a-z_]+\b.*: "),
        ("Sequence([(Constant(0.1), 0), 0.2])", ValueError, r"^[a-z_]+\b.*: "),
        ("Sequence([(Constant(0.1), 2.5), 0.2])", ValueError, r"^[a-z_]+\b.*: "),
        ("Sequence([(Constant(0.1), -1), 0.2])", ValueError, r"^[a-z_]+\b.*: "),
        ("Sequence([(-0.1, 3), 0.2])", ValueError, r"^[a-z_]+\b.*: "),
        ("Sequence([])", (ValueError, TypeError), r"^[a-z_]+\b.*: "),
        ("Constant(0.1).warmup(-1)", ValueError, r"^[a-z_]+\b.*: "),
        ("Constant(0.1).warmup(2.5)", ValueError, r"^[a-z_]+\b.*: "),
        ("Constant(0.1).warmup(3, start=-0.1)", ValueError, r"^start\b"),
        ("Constant(0.1).warmup(3, start='x')", TypeError, r"^start\b"),
        ("Constant(0.1) * -1", ValueError, r"^[a-z_]+\b.*: "),
        ("Constant(0.1) * float('inf')", ValueError, r"^[a-z_]+\b.*: "),
        ("Constant(0.1) * 'x'", TypeError, None),
        ("Constant(0.1).clip(-0.1, 1)", ValueError, r"^low\b"),
        ("Constant(0.1).clip(0, float('nan'))", ValueError, r"^high\b"),
        ("Constant(0.1).clip(0.2, 0.1)", ValueError, r"^(low|high)\b"),
        ("Constant(0.1).shift(1.5)", ValueError, r"^n\b"),
        ("Constant(0.1).per_epoch(0)", ValueError, r"^steps_per_epoch\b"),
        ("Constant(0.1).per_epoch(1.5)", ValueError, r"^steps_per_epoch\b"),
    ],
)
def test_composed_domains(code: str, error: Any, match: str | None) -> None:
    with pytest.raises(error, match=match):
        build(code)


@every
def test_they_are_values(name: str, options: dict[str, Any] | None) -> None:
    """They print as code, compare, hash, copy, pickle, stay as they are, and go to JSON and back."""
    schedule = one(name, options)
    times = range(40)
    rates = [schedule(t) for t in times]
    same = [
        one(name, options),
        eval(repr(schedule), dict(NAMES)),
        pickle.loads(pickle.dumps(schedule)),
        copy.copy(schedule),
        copy.deepcopy(schedule),
    ]
    if name not in CALLABLES:
        same.append(schedules.from_dict(json.loads(json.dumps(schedule.to_dict()))))
    for each in same:
        assert type(each) is type(schedule)
        assert each == schedule
        assert hash(each) == hash(schedule)
        assert repr(each) == repr(schedule)
        assert [each(t) for t in times] == rates
    for other in (made.Constant(0.7), schedule.shift(1), 0.1, None):
        assert schedule != other
    for attribute in (*(options or ()), "lr", "more"):
        with pytest.raises(AttributeError):
            setattr(schedule, attribute, 1.0)
    assert [schedule(t) for t in times] == rates


def test_other_spellings_of_the_same_arguments_are_the_same_value() -> None:
    for code in (
        "PiecewiseConstant([2, 3], [1, 0, 2]) == PiecewiseConstant((2, 3), (1.0, 0.0, 2.0))",
        "CyclicStages([[1, 2], [3, 4]]) == CyclicStages(((1.0, 2), (3.0, 4)))",
        "PeriodicPulse(1, [[1, 2], [3, 4]]) == PeriodicPulse(1.0, ((1.0, 2), (3.0, 4)))",
        "Cyclic(0, 1, 4) != Cyclic(0, 1, 5)",
        "Linear(1, 0, 3) == Linear(1.0, 0.0, 3)",
        "Constant(0.1).then(0.2, at=2) == Constant(0.1).then(Constant(0.2), at=2)",
    ):
        assert build(code)
    assert repr(build("Linear(1, -0.0, 3)")) == "Linear(lr=1.0, end=0.0, steps=3)"
    for code in (
        "PiecewiseConstant([2, 3], [1, 0, 2])",
        "CyclicStages([[1, 2]])",
        "PeriodicPulse(1, [[1, 2]])",
    ):
        assert isinstance(hash(build(code)), int)


@every
def test_arrays_hold_the_scalar_forms_floats(name: str, options: dict[str, Any] | None) -> None:
    schedule = one(name, options)
    expected = [one(name, options)(t) for t in range(120)]
    rates = schedule(np.arange(120)[::-1].reshape(4, 30))
    assert rates.dtype == np.float64
    assert rates.shape == (4, 30)
    assert rates.ravel()[::-1].tolist() == expected
    assert schedule(np.array([], dtype=int)).shape == (0,)
    assert schedule(np.uint8(3)) == schedule(3) == expected[3]
    for bad in (-1, np.array([0, -1])):
        with pytest.raises(ValueError, match="^t: "):
            schedule(bad)
    with pytest.raises(TypeError):
        schedule(np.array([1.0]))


@every
def test_an_optimizer_asks_at_its_step_count(name: str, options: dict[str, Any] | None) -> None:
    """And a saved run goes on with the same rates."""
    schedule = one(name, options)
    opt = lrcore.SGD(np.zeros(3, np.float32), lr=schedule)
    gradient, total = np.ones(3, np.float32), np.zeros(3, np.float32)
    for t in range(6):
        assert opt.step_count == t
        assert opt.lr == schedule(opt.step_count)
        opt.step(gradient)
        total -= np.float32(schedule(t))
    assert opt.params == pytest.approx(total, rel=1e-5)
    saved = opt.state_dict()
    resumed = lrcore.SGD(np.zeros(3, np.float32), lr=0.75)
    resumed.load_state_dict(saved)
    assert resumed.step_count == 6
    assert ("schedule" in saved) == (name not in CALLABLES)
    assert resumed.lr == (0.75 if name in CALLABLES else schedule(6))
    assert math.isfinite(opt.lr)
