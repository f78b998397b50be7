"""The joints of composed schedules. Any composition of any schedules is held by its formula in test_properties.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore.schedules import Constant, Cosine, Linear, Sequence, StepDecay
from schedules.examples import build


@pytest.mark.parametrize("warm", [1, 3, 7, 49])
def test_joints_of_a_warm_up(warm: int) -> None:
    """The ramp's last step and the schedule's first both have the full value; all lasts W + T."""
    cosine = Cosine(0.1, 10, end=0.03)
    schedule = cosine.warmup(warm)
    assert schedule(0) == pytest.approx(0.1 / warm, rel=4e-15)
    assert schedule(warm - 1) == cosine(0)
    from_start = cosine.warmup(warm, start=0.007)
    assert from_start(0) == 0.007
    for each in (schedule, from_start):
        assert [each(warm + t) for t in (0, 9, 10, 10**15)] == [cosine(0), cosine(9), 0.03, 0.03]
    for nothing in (cosine.warmup(0), cosine.warmup(0, start=0.5)):
        assert [nothing(t) for t in range(20)] == [cosine(t) for t in range(20)]


def test_joints_of_a_sequence() -> None:
    schedule: Any = Sequence([(Linear(1.0, 0.0, 4), 3), (0.3, 1), StepDecay(1.0, 2, 0.5)])
    assert [schedule(t) for t in range(9)] == [1, 0.75, 0.5, 0.3, 1, 1, 0.5, 0.5, 0.25]
    schedule = Constant(1).then(2, at=2).then(Linear(3, 4, 2), at=3)
    assert [schedule(t) for t in range(7)] == [1, 1, 2, 3, 3.5, 4, 4]


def test_epochs() -> None:
    schedule = Linear(1.0, 0.0, 4).per_epoch(3)
    assert [schedule(t) for t in range(7)] == [1, 1, 1, 0.75, 0.75, 0.75, 0.5]


def test_a_callable_is_accepted_wherever_a_schedule_is() -> None:
    def fn(t: int) -> float:
        return 0.5**t

    assert Constant(3).then(fn, at=2)(4) == 0.25
    assert (Constant(3) * fn)(2) == 0.75
    assert Sequence([(fn, 2), 0.3])(1) == 0.5
    opt = lrcore.SGD(np.zeros(3, np.float32), lr=Constant(3).then(fn, at=2))
    assert opt.lr == 3
    assert "schedule" not in opt.state_dict()


@pytest.mark.parametrize(
    ("code", "error", "match"),
    [
        ("Constant(0.1).then(-0.2, at=2)", ValueError, "^parts|^lr"),
        ("Constant(0.1).then('x', at=2)", TypeError, "^parts|^lr"),
        ("Constant(0.1).then(Cosine, at=2)", TypeError, "^parts|^lr"),
        ("Sequence([(-0.1, 3), 0.2])", ValueError, "^lr"),
        ("Sequence([(Constant(0.1), 0), 0.2])", ValueError, "^parts"),
        ("Constant(0.1) * -1", ValueError, "^factor"),
        ("Constant(0.1) * float('inf')", ValueError, "^factor"),
        ("Constant(0.1) * 'x'", TypeError, "^factor"),
        ("Constant(0.1).clip(0.2, 0.1)", ValueError, "^(low|high)"),
    ],
)
def test_what_cannot_be_composed(code: str, error: type[Exception], match: str) -> None:
    """Arguments of methods are in test_refusals.py."""
    with pytest.raises(error, match=match):
        build(code)
