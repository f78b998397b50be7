"""`lrcore.functional`: the same steps as the classes, on the caller's state."""

from __future__ import annotations

import inspect
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import lrcore
from support import CLASSES, CONFIGURATIONS, Array, assert_bits, assert_same, gradients, make

N = 101


def function(rule: str) -> Any:
    """Return the function that takes the steps of a rule."""
    return getattr(lrcore.functional, CONFIGURATIONS[rule].cls.__name__.lower())


def zeros(rule: str) -> list[Array]:
    """Return the initial states of a rule."""
    return [np.zeros(N, np.float32) for _ in lrcore.rules()[rule].states]


def test_one_function_a_class() -> None:
    assert set(lrcore.functional.__all__) == {name.lower() for name in CLASSES}
    with pytest.raises(AttributeError, match="adamw2"):
        _ = lrcore.functional.adamw2  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", CLASSES)
def test_signature_is_that_of_the_class(name: str) -> None:
    own = inspect.signature(getattr(lrcore.functional, name.lower())).parameters
    assert list(own)[:3] == ["params", "grads", "states"]
    assert own["step"].default is own["lr"].default is inspect.Parameter.empty
    theirs = inspect.signature(CLASSES[name]).parameters
    # The functions lack the others, because the caller stores Adagrad's sum, slices the arrays, measures the gradients,
    # counts the steps and averages the parameters.
    fewer = {"params", "grads", "lr", "initial_accumulator_value", "groups", "capturable", "max_steps"}
    fewer |= {"max_norm", "skip_nonfinite", "ema"}
    for each in set(theirs) - fewer:
        assert own[each] == theirs[each]
    assert "initial_accumulator_value" not in own
    assert f"lrcore.{name}" in (inspect.getdoc(getattr(lrcore.functional, name.lower())) or "")


def test_same_bits_as_the_class(rule: str) -> None:
    """A step on whole arrays and steps on their slices, in any order, give the same bits as the class."""
    rng = np.random.default_rng(3)
    start = rng.standard_normal(N).astype(np.float32)
    all_gradients = [gradients(rng, N) for _ in range(5)]
    options = dict(CONFIGURATIONS[rule].arguments, weight_decay=0.1, maximize=True)
    opt = make(rule, start.copy(), lambda t: 0.1 / (1 + t), weight_decay=0.1, maximize=True)
    whole, sliced = (start.copy(), zeros(rule)), (start.copy(), zeros(rule))
    for t, g in enumerate(all_gradients, 1):
        opt.step(g, grad_scale=0.5)
        numbers = options | {"step": t, "lr": 0.1 / t, "grad_scale": 0.5}
        assert function(rule)(whole[0], g, *whole[1], **numbers) is None
        for cut in (slice(50, 101), slice(0, 7), slice(7, 50)):
            function(rule)(sliced[0][cut], g[cut], *(state[cut] for state in sliced[1]), **numbers)
    assert_same(opt, whole[0], whole[1])
    assert_same(opt, sliced[0], sliced[1])


def test_the_caller_sets_the_start_of_the_sum() -> None:
    total = np.full(N, 0.25, np.float32)
    p = np.ones(N, np.float32)
    lrcore.functional.adagrad(p, p.copy(), total, step=1, lr=0.1)
    opt = lrcore.Adagrad(np.ones(N, np.float32), lr=0.1, initial_accumulator_value=0.25)
    opt.step(np.ones(N, np.float32))
    assert_same(opt, p, [total])


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"step": 0}, ValueError, "^step: expected an integer from 1 to 9007199254740991, got"),
        ({"step": 1.5}, TypeError, "^step: expected an integer, got float"),
        ({"lr": -1.0}, ValueError, "^lr: expected a number >= 0 that is finite in float32, got -1.0"),
        ({"lr": 1e39}, ValueError, "^lr: expected"),
        ({"betas": (0.9, 1.0)}, ValueError, r"^betas\[1\]: expected"),
        ({"amsgrad": 1}, TypeError, "^amsgrad: expected True or False"),
        ({"decoupled_weight_decay": 1}, TypeError, "^decoupled_weight_decay: expected True or False, got"),
        ({"decay": "l2", "decoupled_weight_decay": True}, ValueError, "^decay: got 'l2' and "),
        (
            {"lr": Decimal("sNaN")},
            ValueError,
            "^lr: expected a number: cannot convert signaling NaN to float$",
        ),
        ({"lr": "fast"}, TypeError, "^lr: expected a number, got str"),
        ({"momentum": 0.5}, TypeError, "^momentum: adam takes no such argument; expected betas, eps, "),
        ({"exp_avg": 0.5}, TypeError, "^exp_avg: adam takes the states as positional arguments"),
    ],
)
def test_refusals_change_nothing(changed: dict[str, Any], error: type[Exception], match: str) -> None:
    """Wrong options are refused even if they equal a valid option of an earlier call, as 1 equals True."""
    arrays = [np.ones(N, np.float32) for _ in range(4)]
    lrcore.functional.adam(*arrays, step=1, lr=0.1, decoupled_weight_decay=True)
    before = [array.copy() for array in arrays]
    with pytest.raises(error, match=match):
        lrcore.functional.adam(*arrays, **{"step": 1, "lr": 0.1} | changed)
    for array, kept in zip(arrays, before, strict=True):
        assert_bits(array, kept)


def test_missing_keywords() -> None:
    with pytest.raises(TypeError, match="step"):
        lrcore.functional.sgd(np.ones(3, np.float32), np.ones(3, np.float32), lr=0.1)  # type: ignore[call-arg]


def test_numbers_are_read_at_every_call() -> None:
    """An object that is converted to a number, such as a tensor, may have a different value at each call."""

    class Number:
        value = 0.5

        def __float__(self) -> float:
            return self.value

    decay: Any = Number()
    p = np.ones(1, np.float32)
    lrcore.functional.sgd(p, np.zeros(1, np.float32), step=1, lr=1.0, weight_decay=decay)
    decay.value = 0.25
    lrcore.functional.sgd(p, np.zeros(1, np.float32), step=2, lr=1.0, weight_decay=decay)
    assert p == 0.5 * 0.75
    arrays: dict[str, Any] = {"betas": np.array([0.5, 0.5]), "eps": np.array(0.1)}
    lrcore.functional.adam(*(np.ones(3, np.float32) for _ in range(4)), step=1, lr=1.0, **arrays)
