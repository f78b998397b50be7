"""Rates and numbers of the groups of a FusedOptimizer from schedules, callables and PyTorch's schedulers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

import lrcore
from lrcore.schedules import Constant, Cosine, Linear
from pytorch.modules import (
    ARGUMENTS,
    LINEAR,
    FusedOptimizer,
    Separate,
    assert_shown,
    everything,
    give,
    network,
    stepping,
    torch,
    train,
    weights,
)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "RMSprop"])
def test_schedules_of_each_group(name: str) -> None:
    """Rates and numbers may be schedules or callables of the optimizer's count, per group.

    A parameter's own count, which is smaller if it missed gradients, affects only its bias corrections.
    """
    rate, decay = Cosine(0.1, steps=16).warmup(3), Linear(0.5, end=0.0, steps=12)
    scheduled: list[dict[str, Any]] = [
        {"lr": rate},
        {"lr": lambda t: 0.5 / (1 + t), "weight_decay": decay},
        {
            "weight_decay": lambda t: 0.01 * t,
            "eps" if name != "SGD" else "momentum": Linear(0.5, end=0.25, steps=5),
        },
    ]
    params = weights()
    groups = [{"params": params[i::3], **numbers} for i, numbers in enumerate(scheduled)]
    opt = FusedOptimizer(groups, getattr(lrcore, name), lr=LINEAR, **ARGUMENTS.get(name, {}))
    separate = Separate(name, [{"params": params[i::3]} for i in range(3)])
    for t in range(15):
        for i, numbers in enumerate(scheduled):
            now = {each: value(t) for each, value in ({"lr": LINEAR} | numbers).items()}
            separate.change(i, **now)
            known = {
                each: value
                for each, value in now.items()
                if isinstance(numbers.get(each), lrcore.schedules.Schedule)
            }
            assert {each: opt.param_groups[i][each] for each in known} == known
        give(params, (8, t), 0.6)
        separate.step()
        opt.step()
        separate.assert_same(opt)
    assert opt.step_count == 15


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_a_number_over_a_schedule(name: str) -> None:
    """A number assigned over a schedule is refused. A schedule, a callable or `opt.lr` replaces it."""
    params, opt = stepping(0.5, 0.5, lr=1.0)
    opt.param_groups[1][name] = LINEAR
    opt.step()
    before = everything(opt)
    opt.param_groups[1][name] = 0.5
    with pytest.raises(ValueError, match=rf"^param_groups\[1\]: {name}: 0\.5 was assigned.*Linear\("):
        opt.step()
    assert [each.item() for each in params] == [each.item() for each in before[0]]
    for replacement in (Constant(0.125), lambda _: 0.125):
        opt.param_groups[1][name] = replacement
        opt.step()
    numbers = opt.optimizers[0].groups[2]
    assert (numbers.lr if name == "lr" else numbers.hyper[name]) == 0.125


def test_plateaus_of_two_groups() -> None:
    """`plateaus` finds the schedule of every group, and an observation acts on the next step."""
    plateaus = [lrcore.schedules.Plateau(rate, factor=0.5, patience=0) for rate in (1.0, 0.5)]
    params, opt = stepping(*plateaus)
    assert lrcore.schedules.plateaus(opt) == plateaus
    opt.step()
    for metric in (1.0, 2.0):
        plateaus[1].observe(metric)
    assert [group["lr"] for group in opt.param_groups] == [1.0, 0.25]
    opt.step()
    assert [each.item() for each in params] == [-2.0, -0.75]


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "OneCycleLR": lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, [0.1, 0.2], total_steps=12),
    "CyclicLR": lambda opt: torch.optim.lr_scheduler.CyclicLR(opt, [0.1, 0.2], [0.3, 0.4], 3),
    "LambdaLR": lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, [lambda t: 1 / (1 + t), lambda t: 0.9**t]),
    "CosineAnnealingWarmRestarts": lambda opt: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, 3),
    "SequentialLR": lambda opt: torch.optim.lr_scheduler.SequentialLR(
        opt,
        [torch.optim.lr_scheduler.ConstantLR(opt, 0.1), torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)],
        milestones=[3],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULERS)
def test_torchs_schedulers_set_the_rate(name: str) -> None:
    """The groups show the numbers that PyTorch's optimizer shows, and the steps use them."""
    seen = []
    for ours in (True, False):
        model = network()
        params = [*model.parameters()]
        groups: Any = [{"params": params[:3]}, {"params": params[3:], "lr": 0.02, "betas": (0.8, 0.99)}]
        opt = FusedOptimizer(groups, lrcore.AdamW, lr=0.01) if ours else torch.optim.AdamW(groups, lr=0.01)
        scheduler = SCHEDULERS[name](opt)
        shown = []
        for step in range(10):
            train(model, opt, range(step, step + 1))
            if ours:
                assert_shown(opt)
            scheduler.step()
            shown.append(
                [(group["lr"], tuple(group["betas"]), group["initial_lr"]) for group in opt.param_groups]
            )
        seen.append(shown)
        opt.param_groups[0]["lr"] = 1e-60  # 0 in float32, which is allowed, as in a schedule
        opt.step()
    assert seen[0] == seen[1]


def test_reducing_on_a_plateau_of_pytorch() -> None:
    (first, second), opt = stepping(None, 0.5, lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(opt, factor=0.5, patience=0, min_lr=[0.75, 0.0])
    for metric in (1.0, 1.0, 1.0):
        opt.step()
        scheduler.step(metric)
    opt.step()
    assert (first.item(), second.item()) == (-1 - 1 - 0.75 - 0.75, -0.5 - 0.5 - 0.25 - 0.125)


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.5, total_steps=9),
        lambda opt: torch.optim.lr_scheduler.CyclicLR(opt, 0.25, 0.5),
    ],
)
def test_a_scheduler_of_momentum_without_momentum(scheduler: Any) -> None:
    """It is refused when it is made, and the optimizer continues as before."""
    (weight,), opt = stepping(None, lr=0.25)
    with pytest.raises(
        ValueError, match=r"^param_groups\[0\]: momentum: 0.9\d* was assigned .* pass momentum= above 0"
    ):
        scheduler(opt)
    opt.step()
    assert (weight.item(), opt.param_groups[0]["momentum"]) == (-0.25, 0.0)
    opt.param_groups[0]["momentum"] = 0.5
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: momentum: 0.5 was assigned"):
        opt.step()
    assert weight.item() == -0.25


@pytest.mark.parametrize("i", [0, 1])
def test_a_scheduler_beside_a_schedule_of_ours(i: int) -> None:
    """It is refused when it is made, if the rate of any group comes from a schedule."""
    rates: list[Any] = [0.25, 0.25]
    rates[i] = LINEAR
    params, opt = stepping(*rates)
    with pytest.raises(
        ValueError, match=rf"^param_groups\[{i}\]: lr: .*Linear.*PyTorch's schedulers cannot set it"
    ):
        torch.optim.lr_scheduler.StepLR(opt, 30)
    opt.step()
    assert [each.item() for each in params] == [-0.25] * 2
    opt.param_groups[i]["lr"] = Constant(0.5)
    opt.param_groups[1 - i]["lr"] = 0.5
    torch.optim.lr_scheduler.StepLR(opt, 30)
    opt.step()
    assert [each.item() for each in params] == [-0.75] * 2


def test_own_text_of_each_group() -> None:
    """Each group of a dictionary has its own schedule, and the schedule resumes there."""
    rates: list[Any] = [Cosine(0.1, steps=9), 0.5, LINEAR]
    params, opt = stepping(*rates)
    for _ in range(3):
        opt.step()
    saved = copy.deepcopy(opt.state_dict())
    texts = [json.loads(each["lrcore"]) for each in saved["param_groups"]]
    assert [each["step_count"] for each in texts] == [3] * 3
    others, resumed = stepping(1.0, 1.0, 1.0)
    resumed.load_state_dict(saved)
    assert [group["lr"] for group in resumed.param_groups] == [rates[0](3), 0.5, LINEAR(3)]
    for each, values in zip(others, params, strict=True):
        each.data.copy_(values.detach())
    for _ in range(3):
        opt.step()
        resumed.step()
    assert [each.item() for each in others] == [each.item() for each in params]


def test_follow_schedules() -> None:
    """The scheduler for tools that require one shows the rates of the optimizer's schedules, and changes nothing."""
    rate = Cosine(0.1, steps=16).warmup(3)
    _, opt = stepping(None, 0.5, lr=rate)
    scheduler = lrcore.torch.FollowSchedules(opt)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
    for t in range(5):
        opt.step()
        assert scheduler.get_last_lr() == [rate(t), 0.5]  # as with PyTorch's, until its own step
        scheduler.step()
    assert scheduler.state_dict() == {}
    opt.step()
    scheduler.load_state_dict({})
    assert scheduler.get_last_lr() == [rate(6), 0.5]
    assert opt.step_count == 6
    for other in (rate, torch.optim.SGD([torch.zeros(1)])):
        with pytest.raises(TypeError, match="^optimizer: expected a FusedOptimizer, got (Warmup|SGD)"):
            lrcore.torch.FollowSchedules(other)
