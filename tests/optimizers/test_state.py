"""Hyperparameters and state of an optimizer: read, assigned, saved, loaded. Arrays are compared bitwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from support import N, assert_bits, assert_goes_on, assert_same, make, run, start


def test_hyper_reads_and_assigns() -> None:
    opt = lrcore.Adam(start(), betas=(0.8, 0.9))
    assert dict(opt.hyper) == {"betas": (0.8, 0.9), "eps": 1e-8, "weight_decay": 0.0}
    assert list(opt.hyper) == ["betas", "eps", "weight_decay"]
    opt.hyper["eps"] = 1
    opt.hyper.update(betas=(0.5, 0.7), weight_decay=0.1)
    opt.hyper = {"betas": (0.5, 0.6)}
    assert repr(opt.hyper) == "{'betas': (0.5, 0.6), 'eps': 1.0, 'weight_decay': 0.1}"
    assert_bits(run(opt, 3), run(lrcore.Adam(start(), betas=(0.5, 0.6), eps=1.0, weight_decay=0.1), 3))


def test_hyper_refuses() -> None:
    opt: Any = lrcore.SGD(start(), momentum=0.9)
    plain = lrcore.SGD(start())
    before = dict(opt.hyper)
    for call, error, words in (
        (lambda: opt.hyper.update(weight_decay=0.5, momentum=2), ValueError, "^momentum: expected"),
        (lambda: opt.hyper.update(betas=(0.1, 0.2)), KeyError, "betas"),
        (lambda: opt.hyper["momentun"], KeyError, "momentun: expected one of momentum, .*; did you mean momentum?"),
        (lambda: opt.hyper.update(momentum=0), ValueError, "change the rule from sgd_momentum to sgd;"),
        (lambda: opt.hyper.pop("momentum"), TypeError, "cannot be removed"),
        (lambda: plain.hyper.update(momentum=0.5), ValueError, "change the rule from sgd to sgd_momentum"),
        (lambda: plain.hyper.update(dampening=0.5), ValueError, "^dampening: "),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            call()
    assert opt.hyper.get("betas") is None
    assert dict(opt.hyper) == before


def test_state_is_named_flat_and_live(rule: str) -> None:
    opt = make(rule, start().reshape(3, 7))
    assert tuple(opt.state) == lrcore.rules()[rule].states
    for state in opt.state.values():
        assert state.shape == (N,)
        assert state.dtype == np.float32
        assert (state.ctypes.data - opt.params.ctypes.data) % 4096 == 0
        assert not state.any()
    run(opt, 2)
    expected = make(rule, np.array(opt.params))
    expected.step_count = 2
    for name, state in opt.state.items():
        expected.state[name][:] = state
    run(opt, 1)
    run(expected, 1)
    assert_same(opt, np.ravel(expected.params).reshape(3, 7), list(expected.state.values()))


def test_initial_accumulator_value() -> None:
    opt = lrcore.Adagrad(start(), initial_accumulator_value=0.1)
    assert_bits(opt.state["sum"], np.full(N, 0.1, np.float32))
    assert "initial_accumulator_value" not in opt.hyper


def test_resume_from_a_state_dict(rule: str) -> None:
    """An optimizer that loads the state after any step continues bit for bit like the uninterrupted run.

    Its own hyperparameters and rate are replaced.
    """
    cosine = schedules.Cosine(0.02, steps=30)
    opt = make(rule, start(), cosine, weight_decay=0.01)
    others: dict[str, Any] = {"betas": (0.5, 0.6)} if "betas" in opt.hyper else {}
    saved = []
    for _ in range(20):
        run(opt, 1)
        saved.append((opt.state_dict(), np.array(opt.params)))
    run(opt, 3)
    for k, (state, params) in enumerate(saved, 1):
        resumed = make(rule, params, 7.0, weight_decay=0.5, **others)
        resumed.load_state_dict(state)
        assert resumed.step_count == k
        assert resumed.lr == cosine(k)
        assert_goes_on(resumed, opt, 23 - k)


def test_a_state_dict_is_a_copy() -> None:
    opt = lrcore.Adam(start(), lr=0.1)
    run(opt, 2)
    saved = opt.state_dict()
    kept = np.array(saved["state"]["exp_avg"])
    run(opt, 1)
    assert_bits(saved["state"]["exp_avg"], kept)
    assert saved["step_count"] == 2
    assert saved["schedule"] == {"schedule": "Constant", "lr": 0.1}
    guard = {"max_norm", "skip_nonfinite", "skipped_steps"}
    assert set(saved) == {"rule", "options", "hyper", "step_count", "state", "schedule", *guard}


NINE = np.zeros(9, np.float32)
OPTIONS = {"eps_placement": "corrected", "amsgrad": False, "decay": "l2", "maximize": False}
NUMBERS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}

SPOILED: list[tuple[Any, Any, str]] = [
    ("rule", "adamax", "expected adam, got adamax"),
    ("options", OPTIONS | {"eps_placement": "hat"}, "expected"),
    ("options", OPTIONS | {"decay": "independent"}, "expected"),
    ("options", {"decay": "l2", "maximize": False}, "expected the entries"),
    ("options", {"decoupled_weight_decay": True, "maximize": False}, "expected"),  # from an earlier version
    ("options", None, "expected a dictionary, got NoneType"),
    ("hyper", {3: 1, "eps": 1.0}, "expected the entries"),
    ("hyper", ["betas", "eps", "weight_decay"], "expected a dictionary, got list"),
    ("step_count", 2**70, "expected an integer from 0"),
    ("step_count", 1.0, "expected an integer, got float"),
    ("step_count", None, "expected an integer, got None"),
    ("state", {"exp_avg": NINE}, "expected the entries"),
    ("state", ["exp_avg", "exp_avg_sq"], "expected a dictionary, got list"),
    ("schedule", {"schedule": "Nothing"}, "expected the name"),
    ("schedule", None, "expected a dictionary, got NoneType"),
    # these messages name the wrong value, not the entry
    ("options", {"decoupled_weight_decay": 0, "maximize": False}, "decoupled_weight_decay: expected True or False"),
    ("hyper", NUMBERS | {"eps": np.nan}, "eps: expected"),
    ("state", {"exp_avg": NINE, "exp_avg_sq": NINE}, "exp_avg: expected 21 elements"),
    ("schedule", {"schedule": "Cosine", "lr": 1.0, "steps": 10**5000}, "steps: expected"),
    ("more", 1, "state_dict: expected the entries"),
    (3, 1, "state_dict: expected the entries"),
]  # fmt: skip
"""State dictionaries with one wrong entry: the entry, its value, and a part of the message."""


@pytest.mark.parametrize(("entry", "value", "words"), SPOILED)
def test_a_wrong_state_dict_changes_nothing(entry: Any, value: Any, words: str) -> None:
    opt = lrcore.Adam(start(), lr=0.1)
    run(opt, 2)
    saved = lrcore.Adam(start(), lr=0.3, eps=0.5).state_dict() | {entry: value}
    before, states = np.array(opt.params), [np.array(state) for state in opt.state.values()]
    with pytest.raises((ValueError, TypeError), match=f"^{words}" if ": " in words else f"^{entry}: {words}"):
        opt.load_state_dict(saved)
    assert_same(opt, before, states)
    assert (opt.step_count, opt.lr, opt.hyper["eps"]) == (2, 0.1, 1e-8)
    with pytest.raises(TypeError, match="^state_dict: expected a dictionary, got NoneType"):
        opt.load_state_dict(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected the entries"):
        opt.load_state_dict({name: each for name, each in saved.items() if name != "hyper"})


def test_states_that_trade_places_are_refused() -> None:
    """One of the states would be overwritten before it is read."""
    opt = lrcore.Adam(start())
    run(opt, 2)
    saved = opt.state_dict()
    states = [np.array(state) for state in opt.state.values()]
    saved["state"] = {"exp_avg": opt.state["exp_avg_sq"], "exp_avg_sq": opt.state["exp_avg"]}
    with pytest.raises(ValueError, match="^exp_avg: shares memory with exp_avg_sq"):
        opt.load_state_dict(saved)
    assert_same(opt, np.array(opt.params), states)
    opt.load_state_dict(saved | {"state": dict(opt.state)})


class Cosine(schedules.Schedule):
    """A schedule whose class has the name of a library class."""

    def _value(self, t: int) -> float:
        return 999.0 + t


class Constant(schedules.Constant):
    """A schedule derived from a library class of the same name."""

    _value = Cosine._value


@pytest.mark.parametrize("rate", [lambda t: 999.0 + t, Cosine(), Constant(0.5)])
def test_a_schedule_of_the_callers_own_is_not_stored_and_replaces_none(rate: Any) -> None:
    """The class of a user-defined schedule may have the name of a library class."""
    opt = lrcore.SGD(start(), lr=rate)
    run(opt, 2)
    assert opt.lr == 1001
    saved = opt.state_dict()
    assert "schedule" not in saved
    opt.lr = cosine = schedules.Cosine(0.5, steps=9)
    opt.load_state_dict(saved | {"step_count": 3})
    assert (opt.lr, opt.step_count) == (cosine(3), 3)


def test_unknown_states_are_named() -> None:
    opt = lrcore.Adam(start())
    with pytest.raises(
        KeyError, match="^'exp_avgs: expected one of exp_avg, exp_avg_sq; did you mean exp_avg[?]'$"
    ):
        _ = opt.state["exp_avgs"]
    assert "exp_avgs" not in opt.state
    with pytest.raises(KeyError, match="^'exp_avg: there are no entries'$"):
        _ = lrcore.SGD(start()).state["exp_avg"]
