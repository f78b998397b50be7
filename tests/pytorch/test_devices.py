"""A FusedOptimizer on several simulated devices, which stay in step and are consistent after an interrupt."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

import lrcore
from opcodes import at_each_opcode, interrupt
from pytorch.modules import (
    FusedOptimizer,
    assert_equal,
    assert_same_dictionary,
    built,
    ones,
    own,
    parameters,
    sgd,
    torch,
    train,
    zeros,
)
from support import slow_but_first


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that parameters with different numbers of dimensions are on different devices."""
    monkeypatch.setattr("lrcore.torch._fused.place_of", lambda tensor: tensor.ndim)


def test_a_buffer_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each device has its own optimizer. Steps, states and dictionaries equal those of a single optimizer."""
    (twin, together) = whole = built("NAdam", lr=lrcore.schedules.Cosine(0.01, steps=20))
    monkeypatch.setattr("lrcore.torch._fused.place_of", lambda tensor: tensor.ndim)
    (model, apart) = parted = built("NAdam", lr=lrcore.schedules.Cosine(0.01, steps=20))
    # each array is padded to a multiple of 16 elements, except the last one on each device
    sizes = [135, 51, 341]
    assert [each.size for each in apart.optimizers] == sizes
    for steps in (range(3), range(3, 6)):
        train(*whole, steps)
        train(*parted, steps)
        assert_equal(model, parameters(twin))
        saved, other = apart.state_dict(), together.state_dict()
        assert_same_dictionary(saved, other)
        assert [*saved["state"]] == [*range(7)]
        apart.load_state_dict(other)
        together.load_state_dict(saved)


@pytest.mark.usefixtures("apart")
def test_what_is_set_is_set_on_every_device() -> None:
    """Rates and hyperparameters, set in the group or by `lr`, apply to all devices. So does a Plateau."""
    _, opt = built("Adam", lr=lrcore.schedules.Plateau(0.5, patience=0))
    _, other = built("Adam", lr=0.1)
    other.load_state_dict(opt.state_dict())
    for each in (opt, other):
        (plateau,) = lrcore.schedules.plateaus(each)
        for metric in (1.0, 2.0):
            plateau.observe(metric)
        assert {inner.lr for inner in each.optimizers} == {0.05} == {each.param_groups[0]["lr"], each.lr}
    opt.lr = 0.25
    opt.param_groups[0]["eps"] = 0.5
    opt.step()
    assert {(inner.lr, inner.hyper["eps"]) for inner in opt.optimizers} == {(0.25, 0.5)}
    opt.param_groups[0]["lr"] = 0.125
    opt.step()
    assert {inner.lr for inner in opt.optimizers} == {0.125}


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("given", [lambda fn: fn, lrcore.schedules.Function])
def test_a_callable_is_asked_once_and_at_the_step(given: Any) -> None:
    """The callable is called once for all devices, and again when a refused step is repeated.

    A skipped step does not call it. The group contains the rate of the last step.
    """
    rates: dict[int, float] = {0: 1.0, 1: 2.0}
    asked = []

    def rate(t: int) -> float:
        asked.append(t)
        return rates[t]

    first, second = zeros(3), zeros(1, 1)
    opt = sgd(first, second, lr=given(rate))
    for each in (first, second):
        each.grad = torch.ones_like(each)
    assert math.isnan(opt.param_groups[0]["lr"])
    assert not asked
    for t in range(2):
        opt.step()
        assert opt.param_groups[0]["lr"] == rates[t]
    for _ in range(2):
        with pytest.raises(KeyError):
            opt.step()
    opt.found_inf = torch.tensor(1.0)
    opt.step()
    del opt.found_inf
    assert opt.step_count == 2
    assert opt.param_groups[0]["lr"] == opt.state_dict()["param_groups"][0]["lr"] == 2.0
    rates[2] = 4.0
    opt.step()
    assert (first.tolist(), second.tolist()) == ([-7.0] * 3, [[-7.0]])
    assert asked == [0, 1, 2, 2, 2]
    assert [each.step_count for each in opt.optimizers] == [3, 3]


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("i", range(2))
@pytest.mark.parametrize(
    "change",
    [
        lambda inner: setattr(inner, "lr", 0.5),
        lambda inner: inner.hyper.update(eps=0.5),
        lambda inner: setattr(inner, "step_count", 3),
        lambda inner: inner.step(),
    ],
)
def test_a_device_that_is_changed_alone_is_refused(change: Callable[[Any], object], i: int) -> None:
    opt = FusedOptimizer([ones(3), ones(1, 1)], lrcore.Adam, lr=0.25)
    change(opt.optimizers[i])
    before = [each.params.clone() for each in opt.optimizers]
    for attempt in (opt.step, opt.state_dict):
        with pytest.raises(ValueError, match=r"^optimizers\[1\]: expected the rate, hyperparameters and"):
            attempt()
    assert all(torch.equal(each.params, a) for each, a in zip(opt.optimizers, before, strict=True))
    opt.lr = 0.25
    opt.param_groups[0]["eps"] = 0.125
    opt.state.clear()
    opt.step()
    for each in opt.optimizers:
        each.lr = 0.125
        each.hyper["eps"] = 0.5
    opt.step()
    assert (opt.param_groups[0]["lr"], opt.param_groups[0]["eps"]) == (0.125, 0.5)


@pytest.mark.usefixtures("apart")
def test_states_of_several_devices() -> None:
    weights = [ones(1, 1), ones(3), ones(2, 2)]
    opt = FusedOptimizer(weights, lrcore.Adam)
    opt.step()
    former = opt.state
    opt.state = {
        each: {"exp_avg": each.detach() * i, "exp_avg_sq": each.detach()} for i, each in enumerate(weights)
    }
    assert [opt.state[each]["exp_avg"].max().item() for each in weights] == [0, 1, 2]
    with pytest.raises(ValueError, match="cannot be removed alone"):
        opt.state.pop(weights[1])
    assert [each.step_count for each in opt.optimizers] == [1, 1]
    opt.state.clear()
    assert [each.step_count for each in opt.optimizers] == [0, 0]
    opt.state = former
    assert [each.step_count for each in opt.optimizers] == [1, 1]


CALLS: dict[str, Callable[[Any, Any], object]] = {
    "step": lambda opt, _: opt.step(),
    "clear": lambda opt, _: opt.state.clear(),
    "state": lambda opt, _: setattr(
        opt,
        "state",
        {each: {"momentum_buffer": torch.full_like(each, 7.0)} for each in opt.param_groups[0]["params"]},
    ),
    "lr": lambda opt, _: setattr(opt, "lr", 0.125),
    "load": lambda opt, later: opt.load_state_dict(later),
}
RATES: dict[str, Callable[[], Any]] = {
    "number": lambda: 0.5,
    "schedule": lambda: lrcore.schedules.Rex(0.5, 100_000),
    "callable": lambda: lambda t: 0.5 / (1 + t),
}


@pytest.mark.parametrize(
    ("rate", "devices"),
    slow_but_first([("number", 2), ("schedule", 1), ("callable", 1)]),
)
@pytest.mark.parametrize(
    "call",
    ["step", "clear", "lr", *(pytest.param(each, marks=pytest.mark.slow) for each in ("load", "state"))],
)
def test_an_interrupt_at_any_moment_leaves_all_or_nothing(
    call: str, rate: str, devices: int, request: pytest.FixtureRequest
) -> None:
    """After an interrupt, all devices and the group are consistent, and the next step succeeds."""
    if devices == 2:
        request.getfixturevalue("apart")
    lr = RATES[rate]()
    weights = [zeros(3), zeros(1, 2)]
    opt = sgd(*weights, lr=lr, momentum=0.5)
    for each in weights:
        each.grad = torch.ones_like(each)
    opt.step()
    begun, values = opt.state_dict(), [each.detach().clone() for each in weights]
    if rate == "number":
        opt.lr = 0.25
    for _ in range(2):
        opt.step()
    later = opt.state_dict()

    def back() -> None:
        opt.lr = lr
        opt.load_state_dict(begun)
        for each, value in zip(weights, values, strict=True):
            each.data.copy_(value)
        if rate == "number" and call == "step":
            opt.param_groups[0]["lr"] = 0.125  # the step applies it

    def seen() -> Any:
        inner = opt.optimizers
        rate_shown = opt.param_groups[0]["lr"]
        assert len({each.step_count for each in inner}) == len({each.lr for each in inner}) == 1
        if rate == "number":
            assert rate_shown == inner[0].lr
        shown = [[each.tolist(), opt.state[each]["momentum_buffer"].tolist()] for each in weights]
        return repr((inner[0].step_count, shown, inner[0].lr))

    back()
    before = seen()
    back()
    CALLS[call](opt, later)
    after = seen()
    moments = 0
    back()
    for _ in at_each_opcode(lambda: CALLS[call](opt, later), interrupt):
        assert seen() in (before, after)
        count = opt.step_count
        opt.step()
        assert opt.step_count == count + 1
        back()
        moments += 1
    assert moments > 10


@pytest.mark.parametrize("rate", ["number", "schedule"])
def test_a_handler_that_looks_and_steps_at_any_moment(rate: str) -> None:
    """The interrupted call does not mistake the rate of the handler's step for an assignment."""
    weight = zeros(3)
    weight.grad = torch.ones(3)
    opt = sgd(weight, lr=RATES[rate](), momentum=0.5)
    stepped = 0

    def handle() -> None:
        nonlocal stepped
        try:
            opt.step()
        except RuntimeError as error:  # the handler ran inside a call of the schedule
            if "a schedule must not step" not in str(error):
                raise
        else:
            stepped += 1
        assert opt.param_groups[0]["lr"] == opt.lr
        assert own(opt.state_dict())["step_count"] == opt.step_count

    moments = 0
    for _ in at_each_opcode(opt.step, handle):
        opt.step()
        moments += 1
    assert moments > 100
    assert opt.step_count == 2 * moments + stepped + 1
