"""Plateau in an optimizer: the rates that it controls, the state that is saved, and the errors.

test_identity.py resumes runs in every possible way.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import CuPy, Torch, library
from lrcore import schedules
from lrcore.schedules import Constant, Cosine, Plateau
from schedules.examples import WAYS
from support import Array, assert_bits, run, start

METRICS = [3.0, 2.0, 2.5, np.inf, 2.0, 1.0, 1.5, 2.0, 2.0, 0.5, 0.5, 0.5, 0.5, 0.5]


def double(t: int) -> float:
    """Return a rate. As a schedule, this function has no dictionary form."""
    return 0.02 * (t + 1)


def plain(lr: Any = 0.05, **more: Any) -> Plateau:
    return Plateau(lr, **{"factor": 0.5, "patience": 1} | more)


def adam(lr: Any) -> Any:
    return lrcore.Adam(start(), lr=lr)


def train(opt: Any, steps: int) -> list[float]:
    """Return the rates of some steps. After each step, every plateau observes a metric of its own."""
    rates = []
    for _ in range(steps):
        rates.append(opt.lr)
        run(opt, 1)
        for i, plateau in enumerate(schedules.plateaus(opt.schedule)):
            plateau.observe(METRICS[(opt.step_count + i) % len(METRICS)])
    return rates


def everything(opt: Any) -> Any:
    """Return everything that loading can change, for comparison."""
    saved = opt.state_dict()
    saved["state"] = {name: np.array(each).tobytes() for name, each in saved["state"].items()}
    return copy.deepcopy(saved), np.array(opt.params).tobytes(), repr(opt.schedule), dict(opt.hyper)


def test_an_optimizer_follows() -> None:
    """Several optimizers may follow the same Plateau."""
    plateau = plain()
    opt, other = lrcore.SGD(start(), lr=plateau), adam(plateau * 10.0)
    assert opt.schedule is plateau
    plateau.observe(1.0)
    for k in range(4):
        assert plateau.reductions == k
        assert opt.lr == plateau(opt.step_count) == 0.05 * 0.5**k
        assert other.lr == opt.lr * 10.0
        before = np.array(opt.params)
        opt.step(np.ones_like(before))
        assert_bits(opt.params, before - np.float32(opt.lr))
        for _ in range(2):
            plateau.observe(1.0)
    assert opt.state_dict()["schedule_state"] == [plateau.state_dict()]
    assert "reductions" not in repr(opt)
    opt.lr = plain(0.5)
    assert opt.lr == 0.5


@pytest.mark.parametrize(("lr", "is_kept"), [(Cosine(0.1, 10), False), (double, True)])
def test_a_saved_schedule_without_one_replaces_a_plateau(lr: Any, is_kept: bool) -> None:
    """A callable is not saved, so loading the state of an optimizer with a callable keeps the plateau."""
    plateau = plain()
    target = adam(plateau)
    train(target, 8)
    before = plateau.state_dict()
    saved = adam(lr).state_dict()
    assert "schedule_state" not in saved
    target.load_state_dict(saved)
    assert target.step_count == 0
    assert target.schedule is plateau if is_kept else target.schedule == lr
    assert plateau.state_dict() == before


def test_a_plateau_over_a_callable_goes_into_one_alone() -> None:
    opt = adam(plain(double))
    train(opt, 8)
    saved = opt.state_dict()
    assert "schedule" not in saved
    for lr in (0.3, double, plain() * plain()):
        target = adam(lr)
        before = everything(target)
        with pytest.raises(ValueError, match="^schedule_state: "):
            target.load_state_dict(saved)
        assert everything(target) == before
    target = adam(plain(double))
    target.load_state_dict(saved)
    assert train(target, 8) == train(opt, 8)


@pytest.mark.parametrize(
    "make", [plain, lambda lr: plain(lr) * plain(0.1), lambda lr: plain(plain(lr).warmup(3))]
)
@pytest.mark.parametrize("lr", [0.05, 0.3, double])
def test_states_that_do_not_fit_change_nothing(make: Any, lr: Any) -> None:
    """Neither the optimizer nor any plateau changes: all states are checked before the first is loaded."""
    opt, target = adam(make(double if lr is double else 0.05)), adam(make(lr))
    train(opt, 9)
    train(target, 5)
    saved, before = opt.state_dict(), everything(target)
    states = saved["schedule_state"]
    wrong: list[Any] = [[], states + states[:1], states[:-1], None, 3, "ab", {}, [None] * len(states), [[]]]
    wrong += [[*states[:-1], states[-1] | {"bad": -1}], [*states[:-1], {}]]
    changes: list[dict[str, Any]] = [{"schedule_state": each} for each in wrong]
    changes += [{"step_count": -1}, {"rule": "sgd"}, {"hyper": saved["hyper"] | {"eps": -1.0}}]
    changes += [{"state": saved["state"] | {"exp_avg": np.zeros(3, np.float32)}}]
    dictionaries: list[Any] = [saved | change for change in changes]
    dictionaries += [adam(Cosine(0.1, 10)).state_dict() | {"schedule_state": states}]
    if lr is not double:
        dictionaries += [{name: each for name, each in saved.items() if name != "schedule_state"}]
    for each in dictionaries:
        with pytest.raises((TypeError, ValueError), match=r"^[a-z_]+(\[\d+\])?(\.[a-z_]+)?: "):
            target.load_state_dict(each)
        assert everything(target) == before, each


@pytest.fixture
def xp() -> Iterator[CuPy | Torch]:
    """Yield an array library with fake CUDA devices."""
    with library("imitated") as made:
        yield made


@pytest.mark.parametrize("way", WAYS)
def test_a_capturable_optimizer_refuses_it(way: str, xp: CuPy | Torch) -> None:
    """A Plateau is refused anywhere in the schedule: the table of rates on the device is made only once.

    A state that was saved with such a schedule is refused as well.
    """

    def capturable(lr: Any) -> Any:
        ones: Array = np.ones(4, np.float32)
        return lrcore.Adam(xp.array(ones), lr=lr, grads=xp.array(ones), capturable=True, max_steps=10)

    schedule = WAYS[way](plain())
    with pytest.raises(ValueError, match="^lr: "):
        capturable(schedule)
    opt = capturable(Cosine(0.1, 10))
    opt.step()
    before = xp.numpy(opt.params).tobytes(), opt.step_count, opt.schedule, opt.lr
    with pytest.raises(ValueError, match="^lr: "):
        opt.load_state_dict(lrcore.Adam(np.ones(4, np.float32), lr=schedule).state_dict())
    assert (xp.numpy(opt.params).tobytes(), opt.step_count, opt.schedule, opt.lr) == before


def test_plateaus_are_found_in_whatever_is_made_of_them() -> None:
    """Plateaus are found in lists and dictionaries of user-defined schedules, but not in callables."""

    class Own(schedules.Schedule):
        def __init__(self, *parts: Any) -> None:
            self.parts, self.named = [*parts], dict(enumerate(parts))

        def _value(self, t: int) -> float:
            return float(self.parts[0](t))

    first, second = Plateau(0.1), Plateau(Plateau(0.2), 0.5)
    assert [id(each) for each in schedules.plateaus(first.warmup(3) * second)] == [
        *map(id, (first, second, second.lr))
    ]
    assert [id(each) for each in schedules.plateaus(Own(first))] == [id(first)]  # listed once
    assert schedules.plateaus(schedules.Function(lambda t: first(t) * 2)) == []
    assert schedules.plateaus(Constant(0.1)) == []


def test_plateaus_of_an_optimizer_are_those_of_its_groups_too() -> None:
    """They are in the order of the optimizer and its groups, each once, even if they are equal or shared."""
    shared, *equal = plain(), plain(0.1), plain(0.1)
    rates: list[Any] = [equal[1] * shared, shared, 0.1, equal[0]]
    groups = [{"params": (i, i + 1), "lr": lr, "frozen": i == 3} for i, lr in enumerate(rates)]
    opt = lrcore.Adam(start(), lr=shared.warmup(3), groups=groups)
    expected = [*map(id, (shared, equal[1], equal[0]))]
    assert [id(each) for each in schedules.plateaus(opt)] == expected
    opt.groups[0].lr = equal[0]
    opt.lr = 0.1
    assert [id(each) for each in schedules.plateaus(opt)] == [expected[2], *expected[1::-1]]
    wrong: Any
    for wrong in (0.1, None, double, lrcore.Adam, Plateau, opt.groups[1], [shared]):
        with pytest.raises(TypeError, match="^schedule: expected a schedule or an optimizer, got "):
            schedules.plateaus(wrong)
