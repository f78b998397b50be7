"""An assignment to an optimizer takes effect or raises an error, which may suggest what to assign instead."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import lrcore
from support import CLASSES, N, assert_bits, run, start

REFUSED = {
    **dict.fromkeys(
        ("learning_rate", "lr_schedule", "scheduler", "rate"), "has no such attribute; assign opt.lr"
    ),
    "iterations": "has no such attribute; assign opt.step_count",
    "parameters": "has no such attribute; assign opt.params",
    **dict.fromkeys(("grad_scale", "colour"), "has no such attribute$"),
    "schedule": "cannot be assigned; assign opt.lr",
    "grads": "bound at construction; ",
    **dict.fromkeys(("state", "size"), "cannot be assigned$"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_attributes_without_effect_are_refused(name: str) -> None:
    opt = CLASSES[name](start(), lr=0.5)
    before = opt.state_dict() | {"state": {}}
    for attribute, words in REFUSED.items():
        with pytest.raises(AttributeError, match=f"^{attribute}: .*{words}"):
            setattr(opt, attribute, 0.1)
    assert opt.state_dict() | {"state": {}} == before


@pytest.mark.parametrize(
    ("cls", "name", "words"),
    [
        (lrcore.Adam, "eps", r'assign opt.hyper\["eps"\]$'),
        (lrcore.SGD, "eps", "SGD has no such attribute$"),
        (lrcore.Adam, "amsgrad", "fixed at construction"),
        (lrcore.Lion, "amsgrad", "Lion has no such attribute$"),
    ],
)
def test_numbers_name_their_place_if_the_class_has_them(cls: Any, name: str, words: str) -> None:
    with pytest.raises(AttributeError, match=f"^{name}: {words}"):
        setattr(cls(start()), name, 0.5)


class Own(lrcore.SGD):
    """A subclass with attributes that have the names of other classes' hyperparameters."""

    factor = 2.0

    def __init__(self, params: Any) -> None:
        self.alpha = "before"
        super().__init__(params, lr=0.5)
        self.eps = self.rho = 0.25


@pytest.mark.parametrize(
    "copied", [lambda opt: opt, copy.copy, copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))]
)
def test_a_subclass_has_attributes_of_its_own(copied: Any) -> None:
    made: Any = Own(start())
    vars(made)["seen"] = {3}
    opt: Any = copied(made)
    assert (type(opt), opt.seen, dict(opt.hyper)) == (Own, {3}, dict(made.hyper))
    opt.colour, opt.factor, opt.learning_rate = "red", 3.0, 0.1
    assert (opt.alpha, opt.eps, opt.rho, opt.colour, opt.factor) == ("before", 0.25, 0.25, "red", 3.0)
    for name, words in (
        ("momentum", r'assign opt.hyper\["momentum"\]'),
        ("nesterov", "fixed"),
        ("schedule", "assign opt.lr"),
    ):
        with pytest.raises(AttributeError, match=f"^{name}: .*{words}"):
            setattr(opt, name, 0.5)


def test_in_place_operators_write_and_bind_nothing_else() -> None:
    params = start()
    grads = np.ones(N, np.float32)
    opt = lrcore.Adam(params, lr=0.5, grads=grads)
    run(opt, 1)
    expected, average = params * 2, opt.state["exp_avg"] + 1
    opt.params *= 2
    opt.grads /= 4
    opt.state["exp_avg"] += 1  # type: ignore[index]
    assert opt.params is params
    assert opt.grads is grads
    assert_bits(params, expected)
    assert_bits(grads, np.full(N, 0.25, np.float32))
    assert_bits(opt.state["exp_avg"], average)
    for name in ("params", "grads"):
        with pytest.raises(AttributeError, match=f"^{name}: bound at construction"):
            setattr(opt, name, start())
    for name in ("exp_avg", "more"):
        with pytest.raises(TypeError, match=f"^{name}: the array cannot be replaced; write into it"):
            opt.state[name] = start()  # type: ignore[index]
    assert_bits(params, expected)
    assert list(opt.state) == ["exp_avg", "exp_avg_sq"]
    assert repr(opt.state) == repr(dict(opt.state))


def test_an_optimizer_is_made_once() -> None:
    opt = lrcore.SGD(start(), lr=0.5, momentum=0.5)
    run(opt, 2)
    before = opt.params.copy(), opt.state_dict()
    for again in (
        lambda: opt.__init__(np.ones(4, np.float32)),  # type: ignore[misc]
        lambda: opt.__setstate__(opt.__getstate__()),
    ):
        with pytest.raises(TypeError, match="^SGD: this optimizer is already initialized; make another"):
            again()
    assert_bits(opt.params, before[0])
    assert (opt.size, opt.step_count, opt.lr) == (N, 2, 0.5)
    assert_bits(opt.state["momentum_buffer"], before[1]["state"]["momentum_buffer"])


def test_a_constructor_that_was_refused_can_be_called_again() -> None:
    opt = lrcore.SGD.__new__(lrcore.SGD)
    with pytest.raises(TypeError, match="^params: expected dtype float32, got float64"):
        opt.__init__(np.ones(4))  # type: ignore[misc]
    opt.__init__(np.ones(4, np.float32), lr=0.5)  # type: ignore[misc]
    opt.step(np.ones(4, np.float32))
    assert_bits(opt.params, np.full(4, 0.5, np.float32))


@pytest.mark.parametrize("betas", [{0.999, 0.9}, {0.9: 1, 0.999: 2}, {}.keys(), (10**5000, 0.5, 0.5)])
def test_what_is_no_pair_in_order_is_no_betas(betas: Any) -> None:
    with pytest.raises(TypeError, match="^betas: expected two numbers"):
        lrcore.Adam(start(), betas=betas)
    opt = lrcore.Adam(start())
    with pytest.raises(TypeError, match="^betas: expected two numbers"):
        opt.hyper["betas"] = betas
    assert opt.hyper["betas"] == (0.9, 0.999)
    opt.hyper["betas"] = np.array([0.5, 0.25])
    assert opt.hyper["betas"] == (0.5, 0.25)


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda hyper: pickle.loads(pickle.dumps(hyper))]
)
def test_a_copy_of_the_numbers_is_a_dictionary(copied: Any) -> None:
    """The copy has the current values and is independent of the optimizer."""
    opt = lrcore.Adam(start(), eps=0.5)
    taken = copied(opt.hyper)
    assert type(taken) is dict
    opt.hyper["eps"] = 0.25
    assert taken == dict(opt.hyper) | {"eps": 0.5}


def test_a_number_that_assigns_another_as_it_is_converted() -> None:
    """Each number is converted once; otherwise, the outer assignment would be repeated forever."""
    opt = lrcore.Adam(start())

    class Number:
        def __float__(self) -> float:
            opt.hyper.update(weight_decay=opt.hyper["weight_decay"] + 0.25)
            return 0.5

    opt.hyper["eps"] = Number()
    assert (opt.hyper["eps"], opt.hyper["weight_decay"]) == (0.5, 0.25)
