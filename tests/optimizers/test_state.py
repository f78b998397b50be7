"""Numbers and state of an optimizer: read, assigned, saved and loaded. Equal means equal bits."""

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
    opt = lrcore.SGD(start(), momentum=0.9)
    before = dict(opt.hyper)
    with pytest.raises(ValueError, match="^momentum: expected"):
        opt.hyper.update(weight_decay=0.5, momentum=2)
    with pytest.raises(KeyError, match="betas"):
        opt.hyper["betas"] = (0.1, 0.2)
    with pytest.raises(KeyError, match="momentun: expected one of momentum, .*; did you mean momentum?"):
        _ = opt.hyper["momentun"]
    assert opt.hyper.get("betas") is None
    with pytest.raises(ValueError, match="change the rule from sgd_momentum to sgd;"):
        opt.hyper["momentum"] = 0
    with pytest.raises(TypeError, match="cannot be removed"):
        del opt.hyper["momentum"]
    with pytest.raises(ValueError, match="change the rule from sgd to sgd_momentum"):
        lrcore.SGD(start()).hyper["momentum"] = 0.5
    with pytest.raises(ValueError, match="^dampening: "):
        lrcore.SGD(start()).hyper["dampening"] = 0.5
    untyped: Any = opt
    with pytest.raises(AttributeError, match=r'^momentum: assign opt.hyper\["momentum"\]$'):
        untyped.momentum = 0.5
    with pytest.raises(AttributeError, match="^nesterov: fixed at construction"):
        untyped.nesterov = True
    with pytest.raises(AttributeError):
        untyped.grads = np.zeros(N, np.float32)
    assert dict(opt.hyper) == before


def test_state_is_named_flat_and_live(rule: str) -> None:
    opt = make(rule, start().reshape(3, 7))
    assert tuple(opt.state) == lrcore.rules()[rule].states
    for state in opt.state.values():
        assert state.shape == (N,)
        assert state.dtype == np.float32
        assert state.ctypes.data % 64 == 0
        assert not state.any()
    run(opt, 2)
    expected = make(rule, np.array(opt.params))
    expected.step_count = 2
    for name, state in opt.state.items():
        expected.state[name][:] = state
    run(opt, 1)
    run(expected, 1)
    assert_same(opt, np.ravel(expected.params).reshape(3, 7), list(expected.state.values()))
    with pytest.raises(TypeError):
        opt.state["more"] = 1  # type: ignore[index]


def test_initial_accumulator_value() -> None:
    opt = lrcore.Adagrad(start(), initial_accumulator_value=0.1)
    assert_bits(opt.state["sum"], np.full(N, 0.1, np.float32))
    assert "initial_accumulator_value" not in opt.hyper


@pytest.mark.parametrize("k", range(1, 21))
def test_resume_from_a_state_dict(rule: str, k: int) -> None:
    """A fresh object with other numbers and another rate goes on with the bits of the uninterrupted run."""
    cosine = schedules.Cosine(0.02, steps=30)
    opt = make(rule, start(), cosine, weight_decay=0.01)
    run(opt, k)
    saved, params = opt.state_dict(), np.array(opt.params)
    run(opt, 3)

    others: dict[str, Any] = {"betas": (0.5, 0.6)} if "betas" in opt.hyper else {}
    resumed = make(rule, params, 7.0, weight_decay=0.5, **others)
    resumed.load_state_dict(saved)
    assert resumed.step_count == k
    assert resumed.lr == cosine(k)
    assert_goes_on(resumed, opt, 3)


def test_a_state_dict_is_a_copy() -> None:
    opt = lrcore.Adam(start(), lr=0.1)
    run(opt, 2)
    saved = opt.state_dict()
    kept = np.array(saved["state"]["exp_avg"])
    run(opt, 1)
    assert_bits(saved["state"]["exp_avg"], kept)
    assert saved["step_count"] == 2
    assert saved["schedule"] == {"schedule": "Constant", "lr": 0.1}
    assert set(saved) == {"rule", "options", "hyper", "step_count", "state", "schedule"}


def test_a_callable_is_not_stored_and_the_targets_own_stays() -> None:
    opt = lrcore.Adam(start(), lr=lambda _: 0.1)
    saved = opt.state_dict()
    assert "schedule" not in saved
    target = lrcore.Adam(start(), lr=0.25)
    target.load_state_dict(saved)
    assert target.lr == 0.25


def spoiled() -> list[tuple[Any, Any, str]]:
    """Return state dictionaries with one thing wrong: where, what, and the message."""
    nine = np.zeros(9, np.float32)
    return [
        ("rule", "adamax", "^rule: expected adam, got adamax"),
        ("options", {"decoupled_weight_decay": True, "maximize": False}, "^options: expected"),
        (
            "options",
            {"eps_placement": "hat", "amsgrad": False, "decay": "l2", "maximize": False},
            "^options: expected",
        ),
        ("options", {"decay": "l2", "maximize": False}, "^options: expected the entries"),
        ("options", {}, "^options: expected"),
        ("hyper", {"betas": (0.9, 0.999), "eps": 1e-8}, "^hyper: expected the entries"),
        ("hyper", {"betas": (0.9, 0.999), "eps": np.nan, "weight_decay": 0.0}, "^eps: expected"),
        ("hyper", {"betas": (0.9, 1.0), "eps": 1e-8, "weight_decay": 0.0}, r"^betas\[1\]: expected"),
        ("step_count", -1, "^step_count: expected"),
        ("step_count", 2**53, "^step_count: expected"),
        ("state", {"exp_avg": nine}, "^state: expected the entries"),
        ("state", {"exp_avg": nine, "exp_avg_sq": nine}, "^exp_avg: expected 21 elements"),
        ("state", {"exp_avg": np.zeros(N), "exp_avg_sq": np.zeros(N)}, "^exp_avg: expected dtype float32"),
        ("schedule", {"schedule": "Nothing"}, "^schedule: expected the name"),
        ("schedule", {"schedule": "Cosine", "lr": 1.0, "steps": 0}, "^steps: expected"),
        ("more", 1, "^state_dict: expected the entries"),
        (3, 1, "^state_dict: expected the entries"),
        ("rule", np.array(["adam"]), "^rule: expected adam"),
        ("rule", None, "^rule: expected adam"),
        ("options", None, "^options: expected a dictionary, got NoneType"),
        (
            "options",
            {"decoupled_weight_decay": 0, "maximize": False},
            "^decoupled_weight_decay: expected True or False",
        ),
        ("hyper", ["betas", "eps", "weight_decay"], "^hyper: expected a dictionary, got list"),
        ("hyper", {3: 1, "eps": 1.0}, "^hyper: expected the entries"),
        ("step_count", 2**70, "^step_count: expected an integer from 0"),
        ("step_count", 1.0, "^step_count: expected an integer, got float"),
        ("step_count", True, "^step_count: expected an integer, got bool"),
        ("step_count", None, "^step_count: expected an integer, got None"),
        ("state", ["exp_avg", "exp_avg_sq"], "^state: expected a dictionary, got list"),
        ("state", {"exp_avg": None, "exp_avg_sq": None}, "^exp_avg: expected a float32 array"),
        ("schedule", None, "^schedule: expected a dictionary, got NoneType"),
    ]


@pytest.mark.parametrize(("entry", "value", "match"), spoiled())
def test_a_wrong_state_dict_changes_nothing(entry: str, value: Any, match: str) -> None:
    opt = lrcore.Adam(start(), lr=0.1)
    run(opt, 2)
    saved = lrcore.Adam(start(), lr=0.3, eps=0.5).state_dict() | {entry: value}
    before, states = np.array(opt.params), [np.array(state) for state in opt.state.values()]
    with pytest.raises((ValueError, TypeError), match=match):
        opt.load_state_dict(saved)
    assert_same(opt, before, states)
    assert (opt.step_count, opt.lr, opt.hyper["eps"]) == (2, 0.1, 1e-8)
    with pytest.raises(TypeError, match="^state_dict: expected a dictionary, got NoneType"):
        opt.load_state_dict(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected the entries"):
        opt.load_state_dict({name: each for name, each in saved.items() if name != "hyper"})


def test_states_that_trade_places_are_refused() -> None:
    """Each would be read after it was written."""
    opt = lrcore.Adam(start())
    run(opt, 2)
    saved = opt.state_dict()
    states = [np.array(state) for state in opt.state.values()]
    saved["state"] = {"exp_avg": opt.state["exp_avg_sq"], "exp_avg_sq": opt.state["exp_avg"]}
    with pytest.raises(ValueError, match="^exp_avg: shares memory with exp_avg_sq"):
        opt.load_state_dict(saved)
    assert_same(opt, np.array(opt.params), states)
    opt.load_state_dict(saved | {"state": dict(opt.state)})


def test_a_schedule_of_the_callers_own_is_not_stored_and_replaces_none() -> None:
    """Whatever it is called."""
    saved = lrcore.SGD(start(), lr=schedules.Cosine(0.5, steps=9)).state_dict()

    class Cosine(schedules.Schedule):
        def _value(self, t: int) -> float:
            return 999.0 + t

    class Constant(schedules.Constant):
        def _value(self, t: int) -> float:
            return self.lr * (1 + t)

    opt = lrcore.SGD(start(), lr=Cosine())
    assert opt.lr == 999
    assert "schedule" not in opt.state_dict()
    opt.load_state_dict(saved)
    assert opt.lr == 0.5
    own = lrcore.SGD(start(), lr=Constant(0.5))
    run(own, 2)
    assert own.lr == 1.5
    assert "schedule" not in own.state_dict()
    expected = lrcore.SGD(start(), lr=lambda t: 0.5 * (1 + t))
    assert_bits(own.params, run(expected, 2))


def test_unknown_states_are_named() -> None:
    opt = lrcore.Adam(start())
    with pytest.raises(
        KeyError, match="^'exp_avgs: expected one of exp_avg, exp_avg_sq; did you mean exp_avg[?]'$"
    ):
        _ = opt.state["exp_avgs"]
    assert "exp_avgs" not in opt.state
    with pytest.raises(KeyError, match="^'exp_avg: there are none'$"):
        _ = lrcore.SGD(start()).state["exp_avg"]
