"""Groups of a FusedOptimizer: numbers of their own, defaults, and values that are assigned between steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lrcore
from pytorch.modules import (
    ARGUMENTS,
    LINEAR,
    FusedOptimizer,
    Separate,
    assert_close,
    assert_shown,
    assert_unchanged,
    each_of_torch,
    each_optimizer,
    everything,
    give,
    grouped,
    in_groups,
    ones,
    own_numbers,
    stepping,
    torch,
    weights,
)


@each_optimizer
def test_bits_of_separate_optimizers(name: str) -> None:
    """Every group has the bits of a separate optimizer for each of its parameters, with the numbers assigned last.

    A refused number acts in no group, even if it was assigned together with valid ones.
    """
    params = weights()
    opt, separate = grouped(name, params), Separate(name, in_groups(name, params))
    assigned = own_numbers(name)
    for fixed in (
        ("momentum",) if name == "RMSprop" else ("betas", "momentum_decay") if name == "NAdam" else ()
    ):
        assigned.pop(
            fixed
        )  # a separate optimizer cannot begin with momentum later, and NAdam's cannot change
    changes: dict[int, dict[int, dict[str, Any]]] = {
        5: {0: {"lr": 0.04, "weight_decay": 0.125}, 1: {"maximize": False}, 2: {"maximize": True}},
        9: {1: {"lr": 0.0, "weight_decay": 0.0}, 2: assigned},
        13: {0: assigned},
    }
    for t in range(20):
        for i, numbers in changes.get(t, {}).items():
            opt.param_groups[i].update(numbers)
            separate.change(i, **numbers)
        if t in (6, 14):
            before = dict(opt.param_groups[1])
            opt.param_groups[0]["lr"] = former = opt.param_groups[0]["lr"] / 2
            opt.param_groups[1]["weight_decay"] = -1.0
            with pytest.raises(ValueError, match=r"^param_groups\[1\]: weight_decay: "):
                opt.step()
            opt.param_groups[0]["lr"] = 2 * former
            opt.param_groups[1].update(before)
        give(params, (2, t), 0.7)
        separate.step(grad_scale=0.5)
        opt.step(grad_scale=0.5)
        separate.assert_same(opt)
        assert_shown(opt)


@pytest.mark.parametrize("rates", ["groups", "OneCycleLR"])
@each_of_torch
def test_groups_of_torchs_optimizer(name: str, rates: str) -> None:
    """The groups agree with those of PyTorch's optimizer, also for parameters that miss some gradients.

    Both optimizers round every step by about 2^-24 of p in a few operations, but differently. Over 20 steps the
    rounding errors of p, and those of the states times the rate, add up to less than 1e-5.
    """
    ours, theirs = weights(), weights()
    arguments = ARGUMENTS.get(name, {}) | {"lr": 0.01}
    opts = [grouped(name, ours), getattr(torch.optim, name)(in_groups(name, theirs), **arguments)]
    schedulers: list[Any] = []
    if rates == "OneCycleLR":
        schedulers = [
            torch.optim.lr_scheduler.OneCycleLR(
                opt,
                [0.01, 0.02, 0.04],
                total_steps=30,
                cycle_momentum=name not in ("NAdam", "Adagrad", "Adadelta", "RMSprop"),
            )
            for opt in opts
        ]
    generator = torch.Generator().manual_seed(7)
    for t in range(20):
        for one, other in zip(ours, theirs, strict=True):
            grad = torch.randn(one.shape, generator=generator)
            one.grad = other.grad = grad if (t + one.numel()) % 4 else None
        for opt in opts:
            opt.step()
        for scheduler in schedulers:
            scheduler.step()
        for group, its in zip(*(opt.param_groups for opt in opts), strict=True):
            assert {each: group[each] for each in its if each != "params"} == {
                each: value for each, value in its.items() if each != "params"
            }
    assert_close(ours, theirs, 1e-5)


def test_groups_are_pytorchs() -> None:
    """Groups are plain dictionaries in the given order, with names, defaults, and entries of other tools."""
    names = ["a", "b", "c", "d"]
    given = [ones(3), ones(2), ones(1), ones(2, 2)]
    pairs = [*zip(names, given, strict=True)]

    def groups() -> Any:
        yield {"params": iter(pairs[2:]), "lr": 0.5, "layer": 3, "initial_lr": 0.25, "lr_scale": 0.5}
        yield {"params": [pairs[0]], "frozen": True, "fused": True, "foreach": False}
        yield {"params": (each for each in pairs[1:2]), "weight_decay": 0.25}

    opt = FusedOptimizer(groups(), lrcore.Adam, lr=0.125)
    theirs = torch.optim.Adam(groups(), lr=0.125)
    assert type(opt.param_groups) is list
    for group, its in zip(opt.param_groups, theirs.param_groups, strict=True):
        assert type(group) is dict
        assert all(map(lambda one, other: one is other, group["params"], its["params"]))
        others = its.keys() - {"params"}
        assert {each: group[each] for each in others} == {each: its[each] for each in others}
        assert group["lrcore"] == ""
    assert [group["param_names"] for group in opt.param_groups] == [["c", "d"], ["a"], ["b"]]
    separate = Separate(
        "Adam",
        [
            {"params": given[2:], "lr": 0.5},
            {"params": given[:1]},
            {"params": given[1:2], "weight_decay": 0.25},
        ],
        lr=0.125,
    )
    for t in range(3):
        give(given, (3, t))
        separate.step()
        opt.step()
        separate.assert_same(opt)  # `lr_scale`, `frozen` and the others have no effect
    opt.param_groups[1]["later"] = [1]
    saved = opt.state_dict()["param_groups"]
    assert [each["params"] for each in saved] == [[0, 1], [2], [3]]
    assert (saved[0]["layer"], saved[0]["lr_scale"], saved[0]["initial_lr"]) == (3, 0.5, 0.25)
    assert (saved[1]["frozen"], saved[1]["later"], saved[1]["fused"]) == (True, [1], True)


def test_a_single_tensor_is_a_group_and_groups_are_parts() -> None:
    """Each part of an inner optimizer has exactly the elements of its group; the rest is padding."""
    first, second = ones(5), ones(3, 3)
    opt = FusedOptimizer([{"params": first}, {"params": [second]}], lrcore.SGD)
    assert [group["params"] for group in opt.param_groups] == [[first], [second]]
    (inner,) = opt.optimizers
    assert [part.size for part in inner.groups[1:]] == [5, 9]
    assert inner.groups[0].size == inner.size - 14
    for part, values in ((inner.groups[1], first), (inner.groups[2], second)):
        ((begin, end),) = part.ranges
        assert values.data_ptr() == inner.params[begin:end].data_ptr()


@each_optimizer
def test_foreach_and_fused_have_no_effect(name: str) -> None:
    found = []
    for options in ({}, {"foreach": True, "fused": False}, {"foreach": None, "fused": True}):
        params = weights()
        opt = grouped(name, params, **options)
        for each, value in options.items():
            assert {group.get(each, value) for group in opt.param_groups} == {value}
        for t in range(3):
            give(params, (4, t))
            opt.step()
        found.append([each.tolist() for each in params])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"betas": (0.5, 1.0)}, ValueError, r"betas\[1\]: expected a number in \[0, 1\)"),
        ({"weight_decay": 0.75, "lr": -1.0}, ValueError, "lr: "),
        ({"lr": "0.5"}, TypeError, "lr: "),
        ({"lr": torch.ones(2)}, (TypeError, ValueError), "lr: "),
        ({"eps": float("nan")}, ValueError, "eps: "),
        ({"weight_decay": None}, TypeError, "weight_decay: "),
        ({"maximize": "yes"}, TypeError, "maximize: "),
        ({"amsgrad": True}, ValueError, "amsgrad"),
        ({"decoupled_weight_decay": False}, ValueError, "decoupled_weight_decay"),
        ({"differentiable": True}, ValueError, "differentiable"),
    ],
)
@pytest.mark.parametrize("i", [0, 1])
def test_refused_numbers_do_not_act(i: int, wrong: dict[str, Any], error: Any, message: str) -> None:
    """Neither do valid numbers that are assigned together with them, here or in another group."""
    params = [ones(3), ones(2)]
    opt = FusedOptimizer([{"params": each} for each in params], lrcore.AdamW)
    give(params, (5,))
    opt.step()
    before, told = everything(opt), [dict(group) for group in opt.param_groups]
    opt.param_groups[1 - i].update(lr=0.5, eps=0.25)
    opt.param_groups[i].update(wrong)
    for _ in range(2):
        with pytest.raises(error, match=rf"^param_groups\[{i}\]: {message}"):
            opt.step()
    for group, values in zip(opt.param_groups, told, strict=True):
        group.update(values)
    assert_unchanged(opt, before)
    opt.step()
    assert opt.step_count == 2


def test_refused_groups() -> None:
    """Groups that differ in an option, or have an invalid number, are refused, and the parameters do not move."""
    params = [ones(3), ones(2)]
    places = [each.data_ptr() for each in params]
    for wrong, error, message in (
        ({"amsgrad": True}, ValueError, "amsgrad"),
        ({"decoupled_weight_decay": False}, ValueError, "decoupled_weight_decay"),
        ({"differentiable": True}, ValueError, "differentiable"),
        ({"lr": -1.0}, ValueError, "lr: "),
        ({"betas": 0.5}, TypeError, "betas: "),
    ):
        with pytest.raises(error, match=rf"^param_groups\[1\]: {message}"):
            FusedOptimizer([{"params": params[:1]}, {"params": params[1:], **wrong}], lrcore.AdamW)
    with pytest.raises(ValueError, match="^differentiable: "):
        FusedOptimizer(params, lrcore.AdamW, differentiable=True)
    assert [each.data_ptr() for each in params] == places
    same = {"amsgrad": True, "decoupled_weight_decay": True, "differentiable": False}
    FusedOptimizer([{"params": params, **same}], lrcore.AdamW, amsgrad=True).step()


def test_the_rate_of_the_optimizer() -> None:
    """`lr` is the rate of the first group, and replaces that of all groups with the same source."""
    params, opt = stepping(None, 0.5, None, lr=1.0)
    assert opt.lr == 1.0
    opt.step()
    opt.lr = 0.25
    assert [group["lr"] for group in opt.param_groups] == [0.25, 0.5, 0.25]
    opt.step()
    opt.lr = LINEAR
    assert [group["lr"] for group in opt.param_groups] == [LINEAR(2), 0.5, LINEAR(2)]
    opt.step()
    moved = 1.0 + 0.25 + LINEAR(2)
    assert [-each.item() for each in params] == pytest.approx([moved, 1.5, moved], rel=1e-6)  # float32 rounds
    assert_shown(opt)


ASSIGNMENTS: dict[str, Callable[[Any], object]] = {
    "lr": lambda opt: setattr(opt, "lr", 0.25),
    "the group": lambda opt: opt.param_groups[0].update(lr=0.25),
    "a scheduler of PyTorch": lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda _: 0.25),
    "a tensor": lambda opt: setattr(opt, "lr", torch.tensor(0.25)),
    "a schedule": lambda opt: setattr(opt, "lr", LINEAR),
    "a schedule in the group": lambda opt: opt.param_groups[0].update(lr=LINEAR),
    "a callable": lambda opt: setattr(opt, "lr", lambda _: 0.25),
}


@pytest.mark.parametrize("way", ASSIGNMENTS)
def test_what_is_shown_is_what_acts(way: str) -> None:
    """The optimizer, its repr and the group show the rate that the step uses; other entries keep their values."""
    (weight,), opt = stepping(None, lr=1.0, momentum=0.5)
    weight.data.fill_(1.0)
    opt.param_groups[0]["weight_decay"] = 0.5
    ASSIGNMENTS[way](opt)
    assert opt.lr == opt.schedule(0) == 0.25
    if way not in ("a callable", "a schedule in the group"):  # read at the step
        assert opt.param_groups[0]["lr"] == 0.25
        assert "lr=0.25" in repr(opt)
    opt.step()
    assert weight.item() == 1 - 0.25 * 1.5
    assert opt.param_groups[0]["weight_decay"] == 0.5
    assert opt.optimizers[0].groups[1].hyper["weight_decay"] == 0.5


def test_rates_that_are_changed_in_place() -> None:
    """A tensor stays in the group and is read at each step, as in PyTorch's optimizers."""
    rate = torch.tensor(1.0)
    (weight, other), opt = stepping(rate, None, lr=0.125)
    for value in (1.0, 0.5, 0.25):
        rate.fill_(value)
        opt.step()
    assert (weight.item(), other.item()) == (-1.75, -0.375)
    assert opt.param_groups[0]["lr"] is rate
    assert opt.state_dict()["param_groups"][0]["lr"] == 0.25
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    opt.step()
    scheduler.step()
    assert opt.lr == rate.item() == 0.125
    opt.lr = rate
    rate.fill_(2.0)
    opt.step()
    before = everything(opt)[0]
    rate.fill_(-1.0)
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: lr: "):
        opt.step()
    assert [each.item() for each in before] == [weight.item(), other.item()]
    assert weight.item() == -4.0


@pytest.mark.parametrize(
    "betas", [[0.5, 0.75], torch.tensor([0.5, 0.75]), (torch.tensor(0.5), 0.75)], ids=repr
)
def test_numbers_that_are_changed_in_place(betas: Any) -> None:
    weight = ones(1)
    opt = FusedOptimizer([weight], lrcore.Adam)
    separate = Separate("Adam", opt.param_groups[:1] and [{"params": [weight], "lr": 1e-3}])
    opt.param_groups[0]["betas"] = betas
    for first in (0.5, 0.25):
        (betas[0].fill_ if isinstance(betas, tuple) else lambda value: betas.__setitem__(0, value))(first)
        separate.change(0, betas=(first, 0.75))
        give([weight], (6,))
        separate.step()
        opt.step()
        separate.assert_same(opt)


CHANGES: dict[str, Callable[[Any], object]] = {
    "no group": lambda opt: opt.param_groups.clear(),
    "one less": lambda opt: opt.param_groups.pop(),
    "one more": lambda opt: opt.param_groups.append({**opt.param_groups[0], "params": [ones(3)]}),
    "no dictionary": lambda opt: opt.param_groups.__setitem__(0, None),
    "exchanged": lambda opt: opt.param_groups.reverse(),
    "no list": lambda opt: setattr(opt, "param_groups", {}),
    "no entries": lambda opt: setattr(
        opt, "param_groups", [{"params": each["params"]} for each in opt.param_groups]
    ),
    "no rate": lambda opt: opt.param_groups[1].pop("lr"),
    "a parameter more": lambda opt: opt.param_groups[1]["params"].append(ones(2)),
    "a parameter moved": lambda opt: opt.param_groups[1]["params"].append(
        opt.param_groups[0]["params"].pop()
    ),
    "other order": lambda opt: opt.param_groups[0]["params"].reverse(),
    "another parameter": lambda opt: opt.param_groups[0]["params"].__setitem__(0, ones(1)),
}


@pytest.mark.parametrize("way", CHANGES)
def test_groups_of_something_else(way: str) -> None:
    """Parameters join by `add_param_group` alone. Groups that were changed otherwise are refused."""
    params = [ones(1), ones(1), ones(2)]
    opt = FusedOptimizer([{"params": params[:2]}, {"params": params[2:]}], lrcore.SGD, lr=1.0)
    for each in params:
        each.grad = torch.zeros_like(each)
    for _ in range(2):
        opt.step()
    give(params, (7,))
    CHANGES[way](opt)
    for attempt in (opt.step, opt.state_dict):
        with pytest.raises((TypeError, ValueError), match="^param_groups"):
            attempt()
    assert [each.tolist() for each in params] == [[1.0], [1.0], [1.0] * 2]
    assert opt.step_count == 2


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
        ("hyper", r"assign opt\.param_groups"),
        ("weight_decay", r"assign opt\.param_groups"),
    ],
)
def test_names_that_mean_others(name: str, message: str) -> None:
    with pytest.raises(AttributeError, match=f"^{name}: {message}"):
        setattr(FusedOptimizer([ones(3)], lrcore.Adam), name, 0.5)


def test_the_momentum_of_nadam_does_not_move() -> None:
    """PyTorch multiplies the momenta of all steps; here the product is computed from the current momentum."""
    weight = ones(3)
    opt = FusedOptimizer([weight], lrcore.NAdam)
    weight.grad = torch.ones(3)
    group = opt.param_groups[0]
    group["betas"] = (0.8, 0.99)  # before the first step
    opt.step()
    group["betas"] = (0.8, 0.9)
    opt.step()
    for name, value in (("betas", (0.7, 0.9)), ("momentum_decay", 0.1)):
        before = group[name]
        group[name] = value
        with pytest.raises(
            ValueError, match=rf"^param_groups\[0\]: {name}: the momentum of NAdam cannot change"
        ):
            opt.step()
        group[name] = before
    opt.step()
    assert opt.step_count == 3
