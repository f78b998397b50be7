"""Rates and hyperparameters of a FusedOptimizer: from schedules, `param_groups`, `lr` or inner optimizers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

import lrcore
from pytorch.modules import (
    FusedOptimizer,
    assert_equal,
    build,
    built,
    network,
    ones,
    parameters,
    sgd,
    torch,
    train,
    zeros,
)

LINEAR = lrcore.schedules.Linear(0.25, end=0.0, steps=10)


def stepping(**arguments: Any) -> tuple[Any, Any]:
    """Return a parameter of one number with a gradient of 1, and an SGD optimizer for it."""
    weight = zeros(1)
    weight.grad = torch.ones(1)
    return weight, sgd(weight, **arguments)


def test_torchs_schedulers_set_the_rate() -> None:
    model, twin = network(), network()
    opt = build("AdamW", model, lr=0.01)
    plain = torch.optim.AdamW(twin.parameters(), lr=0.01)
    rates = []
    for each, scheduled in ((model, opt), (twin, plain)):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(scheduled, 0.01, total_steps=12)
        seen = []
        for step in range(10):
            train(each, scheduled, range(step, step + 1))
            scheduler.step()
            seen.append((scheduled.param_groups[0]["lr"], tuple(scheduled.param_groups[0]["betas"])))
        rates.append(seen)
    assert rates[0] == rates[1]
    opt.step()
    assert (opt.lr, opt.optimizers[0].hyper["betas"]) == rates[0][-1]
    opt.param_groups[0]["lr"] = 1e-60  # 0 in float32, which is allowed, as in a schedule
    opt.step()
    assert opt.step_count == 12


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.5, total_steps=9),
        lambda opt: torch.optim.lr_scheduler.CyclicLR(opt, 0.25, 0.5),
    ],
)
def test_a_scheduler_of_momentum_without_momentum(scheduler: Any) -> None:
    """It is refused when it is made, and the optimizer continues as before."""
    weight, opt = stepping(lr=0.25)
    with pytest.raises(
        ValueError, match=r"^momentum: 0.9\d* was assigned .* pass momentum= above 0 to FusedOptimizer"
    ):
        scheduler(opt)
    opt.step()
    assert (weight.item(), opt.param_groups[0]["momentum"]) == (-0.25, 0.0)
    opt.param_groups[0]["momentum"] = 0.5
    with pytest.raises(ValueError, match="^momentum: 0.5 was assigned"):
        opt.step()
    assert weight.item() == -0.25


def test_a_scheduler_beside_a_schedule_of_ours() -> None:
    """It is refused when it is made."""
    weight, opt = stepping(lr=LINEAR)
    with pytest.raises(
        ValueError, match=r"^lr: the rate comes from Linear.*, so PyTorch's schedulers cannot set it"
    ):
        torch.optim.lr_scheduler.StepLR(opt, 30)
    opt.step()
    assert weight.item() == -0.25
    opt.lr = 0.5
    torch.optim.lr_scheduler.StepLR(opt, 30)
    opt.step()
    assert weight.item() == -0.75


def test_a_schedule_of_ours() -> None:
    schedule = lrcore.schedules.Cosine(0.1, steps=10).warmup(3)
    model, opt = built("AdamW", lr=schedule)
    shown = []
    for step in range(5):
        shown.append(opt.param_groups[0]["lr"])
        train(model, opt, range(step, step + 1))
    assert shown == [schedule(t) for t in range(5)]
    assert opt.schedule is schedule
    opt.param_groups[0]["lr"] = 0.5
    before = parameters(model)
    with pytest.raises(ValueError, match=r"^lr: 0\.5 was assigned in param_groups.*Cosine\(.*assign opt\.lr"):
        opt.step()
    assert_equal(model, before)
    opt.lr = 0.25
    opt.step()
    assert opt.param_groups[0]["lr"] == opt.lr == 0.25


ASSIGNMENTS: dict[str, Callable[[Any], object]] = {
    "lr": lambda opt: setattr(opt, "lr", 0.25),
    "the group": lambda opt: opt.param_groups[0].update(lr=0.25),
    "an inner optimizer": lambda opt: setattr(opt.optimizers[0], "lr", 0.25),
    "a scheduler of PyTorch": lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda _: 0.25),
    "a tensor": lambda opt: setattr(opt, "lr", torch.tensor(0.25)),
    "a schedule": lambda opt: setattr(opt, "lr", LINEAR),
    "a callable": lambda opt: setattr(opt, "lr", lambda _: 0.25),
}


@pytest.mark.parametrize("way", ASSIGNMENTS)
def test_what_is_shown_is_what_acts(way: str) -> None:
    """The optimizer, its repr, the group and the inner optimizers show the rate that the step uses.

    The other entries of the group keep their values.
    """
    weight, opt = stepping(momentum=0.5)
    weight.data.fill_(1.0)
    opt.param_groups[0]["weight_decay"] = 0.5
    ASSIGNMENTS[way](opt)
    assert opt.lr == opt.optimizers[0].lr == opt.schedule(0) == 0.25
    if way != "a callable":  # a callable is not called before the step
        assert opt.param_groups[0]["lr"] == 0.25
        assert "lr=0.25" in repr(opt)
    opt.step()
    assert weight.item() == 1 - 0.25 * 1.5
    assert opt.param_groups[0]["weight_decay"] == opt.optimizers[0].hyper["weight_decay"] == 0.5


def test_hyperparameters_are_those_that_were_assigned_last() -> None:
    _, opt = stepping(momentum=0.5)
    group, inner = opt.param_groups[0], opt.optimizers[0]
    inner.hyper["momentum"] = 0.25
    assert opt.param_groups[0]["momentum"] == group["momentum"] == 0.25
    group["momentum"] = 0.75
    assert opt.optimizers[0].hyper["momentum"] == 0.75
    group["momentum"] = 0.125
    inner.hyper["weight_decay"] = 0.5
    assert opt.state_dict()["param_groups"][0]["momentum"] == inner.hyper["momentum"] == 0.125
    opt.step()
    for numbers in (group, inner.hyper):
        assert (numbers["momentum"], numbers["weight_decay"]) == (0.125, 0.5)


def test_groups_of_inner_optimizers_have_nothing_of_their_own() -> None:
    """Neither `param_groups` nor a state dictionary would show it. Copies of them are free."""
    weight, opt = stepping(lr=0.5, momentum=0.5)
    (inner,) = opt.optimizers
    for name, value in {"lr": 0.25, "lr_scale": 0.5, "frozen": True, "maximize": True}.items():
        with pytest.raises(AttributeError, match=rf"^opt\.groups\[0\]\.{name}: .*param_groups"):
            setattr(inner.groups[0], name, value)
    with pytest.raises(AttributeError, match=r"^opt\.groups\[0\]\.hyper: .*param_groups"):
        inner.groups[0].hyper["momentum"] = 0.25
    free = copy.copy(inner)
    free.groups[0].lr_scale = 0.5
    with pytest.raises(ValueError, match="^groups: expected none"):
        inner.load_state_dict(free.state_dict())
    opt.step()
    assert weight.item() == -0.5

    class Grouped(lrcore.SGD, groups=[{"params": (0, 1)}]):
        pass

    with pytest.raises(TypeError, match="^groups: "):
        FusedOptimizer([weight], Grouped)


def test_numbers_that_are_assigned_twice_in_two_places_are_refused() -> None:
    weight, opt = stepping()
    (flat,) = opt.optimizers
    group = opt.param_groups[0]
    group["lr"] = 0.5
    flat.lr = 0.125
    for _ in range(2):
        with pytest.raises(
            ValueError, match="^lr: 0.5 was assigned in param_groups, and 0.125 to an optimizer"
        ):
            opt.step()
    group["lr"] = 0.125
    opt.step()
    assert weight.item() == -0.125
    flat.hyper["weight_decay"] = 0.25
    group["weight_decay"] = 0.25
    opt.step()
    assert opt.param_groups[0]["weight_decay"] == flat.hyper["weight_decay"] == 0.25


def test_a_rate_that_is_changed_in_place() -> None:
    """A tensor stays in the group and is read at each step, as in PyTorch's optimizers."""
    rate = torch.tensor(1.0)
    weight, opt = stepping(lr=rate)
    for value in (1.0, 0.5, 0.25):
        rate.fill_(value)
        opt.step()
    assert weight.item() == -1.75
    assert opt.param_groups[0]["lr"] is rate
    assert opt.state_dict()["param_groups"][0]["lr"] == 0.25
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    opt.step()
    scheduler.step()
    assert opt.lr == rate.item() == 0.125
    opt.lr = rate
    rate.fill_(2.0)
    opt.step()
    rate.fill_(-1.0)
    with pytest.raises(ValueError, match="^lr: "):
        opt.step()
    assert weight.item() == -4.0


@pytest.mark.parametrize(
    "betas", [[0.5, 0.75], torch.tensor([0.5, 0.75]), (torch.tensor(0.5), 0.75)], ids=repr
)
def test_numbers_that_are_changed_in_place(betas: Any) -> None:
    opt = FusedOptimizer([ones(1)], lrcore.Adam)
    opt.param_groups[0]["betas"] = betas
    opt.step()
    if isinstance(betas, tuple):
        betas[0].fill_(0.25)
    else:
        betas[0] = 0.25
    opt.step()
    assert opt.optimizers[0].hyper["betas"] == (0.25, 0.75)


ONE_GROUP, ENTRY, CHANGED = (
    "expected a single group",
    "expected the entry 'lr'",
    "the group's param.* were changed",
)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda opt: opt.param_groups.clear(), ONE_GROUP),
        (lambda opt: opt.param_groups.append({"params": [ones(3)]}), ONE_GROUP),
        (lambda opt: opt.param_groups.__setitem__(0, None), ONE_GROUP),
        (lambda opt: setattr(opt, "param_groups", [{"params": opt.param_groups[0]["params"][:]}]), ENTRY),
        (lambda opt: opt.param_groups[0].pop("lr"), ENTRY),
        (lambda opt: opt.param_groups[0]["params"].append(ones(2)), CHANGED),
        (lambda opt: opt.param_groups[0]["params"].reverse(), CHANGED),
        (lambda opt: opt.param_groups[0]["params"].__setitem__(0, ones(1)), CHANGED),
    ],
)
def test_groups_of_something_else(spoil: Callable[[Any], None], message: str) -> None:
    weights = [ones(1), ones(1)]
    opt = sgd(*weights)
    weights[0].grad = torch.ones(1)
    spoil(opt)
    for attempt in (opt.step, opt.state_dict, lambda: opt.lr):
        with pytest.raises(ValueError, match=f"^param_groups: {message}"):
            attempt()
    assert isinstance(opt.param_groups, list)
    assert "lr=1.0" in repr(opt)
    assert weights == [1, 1]
    assert opt.step_count == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("learning_rate", r"assign .*opt\.lr"),
        ("beta1", "assign .*betas"),
        ("schedule", r"assign .*opt\.lr"),
        ("momentum", "no such hyperparameter; expected one of betas, eps, weight_decay$"),
        ("decay", "fixed at construction"),
        ("amsgrad", "fixed at construction"),
        ("decoupled_weight_decay", "fixed at construction"),
        ("hyper", r"assign opt\.param_groups\[0\]"),
        ("weight_decay", r"assign opt\.param_groups\[0\]"),
    ],
)
def test_names_that_mean_others(name: str, message: str) -> None:
    with pytest.raises(AttributeError, match=f"^{name}: {message}"):
        setattr(FusedOptimizer([ones(3)], lrcore.Adam), name, 0.5)


def test_refused_numbers_of_the_group_do_not_act() -> None:
    """Valid numbers that are assigned together with refused ones do not take effect either."""
    opt = FusedOptimizer([ones(3)], lrcore.AdamW)
    opt._opt_called = True  # as PyTorch's schedulers do
    group, hyper = opt.param_groups[0], opt.optimizers[0].hyper
    told, numbers = dict(group), dict(hyper)
    for wrong, message in (
        ({"betas": (0.5, 1.0)}, r"betas\[1\]: expected a number in \[0, 1\)"),
        ({"weight_decay": 0.75, "lr": -1.0}, "lr: "),
        ({"maximize": True}, "maximize: fixed at construction"),
        ({"decay": "l2"}, "decay: fixed at construction"),  # the entry's name is decoupled_weight_decay
    ):
        group.update(wrong)
        for refused in (opt.step, opt.state_dict):
            with pytest.raises(ValueError, match=f"^{message}"):
                refused()
        assert dict(hyper) == numbers
        group.pop("decay", None)
        group.update(told)
    opt.step()
    assert opt.step_count == 1


def test_the_momentum_of_nadam_does_not_move() -> None:
    """PyTorch multiplies the momenta of all steps; here the product is computed from the current momentum."""
    opt = FusedOptimizer([ones(3)], lrcore.NAdam)
    group = opt.param_groups[0]
    group["betas"] = (0.8, 0.99)  # before the first step
    opt.step()
    group["betas"] = (0.8, 0.9)
    opt.step()
    for name, value in (("betas", (0.7, 0.9)), ("momentum_decay", 0.1)):
        before = group[name]
        group[name] = value
        with pytest.raises(ValueError, match=f"^{name}: the momentum of NAdam cannot change between steps"):
            opt.step()
        group[name] = before
    opt.step()
    assert opt.step_count == 3
