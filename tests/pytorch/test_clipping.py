"""`max_norm` and `skip_nonfinite` of a FusedOptimizer: bits, GradScaler, several devices, dictionaries and copies."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore import schedules
from pytorch.modules import (
    FusedOptimizer,
    Separate,
    assert_same_dictionary,
    assert_unchanged,
    each_optimizer,
    everything,
    give,
    grouped,
    in_groups,
    ones,
    own,
    set_group,
    sgd,
    torch,
    weights,
)
from pytorch.test_copies import TOGETHER
from sums.oracle import clipped, norm

ENTRIES = ("max_norm", "skip_nonfinite", "skipped_steps")


def units(params: Any) -> list[Any]:
    """Return the gradient of each parameter with elements in the order of the parameter's memory, with zeros for None."""
    found = []
    for each in params:
        grad = torch.zeros_like(each) if each.grad is None else torch.empty_like(each).copy_(each.grad)
        found.append(grad.detach().as_strided((each.numel(),), (1,)).numpy())
    return [each for each in found if each.size]


def in_order(opt: Any) -> list[Any]:
    """Return the parameters in the order of the groups."""
    return [each for group in opt.param_groups for each in group["params"]]


def step_both(
    opt: Any, separate: Any, limit: float = math.inf, scale: float = 1.0, params: Any = None
) -> None:
    """Take a step, and the steps of separate optimizers with the scale of the definition; assert that they are equal."""
    expected = norm(units(in_order(opt) if params is None else params), scale)
    opt.step(grad_scale=scale)
    assert type(opt.grad_norm) is float
    assert opt.grad_norm == expected
    separate.step(grad_scale=clipped(scale, expected, limit))
    separate.assert_same(opt)


def but_skips(opt: Any) -> tuple[Any, Any]:
    """Return copies of everything that a skipped step must leave."""
    params, saved = everything(opt)
    text = own(saved)
    text.pop("skipped_steps")
    set_group(saved, lrcore=json.dumps(text))
    return params, saved


def assert_skips(opt: Any, **arguments: Any) -> None:
    """Assert that a step changes nothing but the number of skipped steps."""
    skipped, (params, saved) = opt.skipped_steps, but_skips(opt)
    opt.step(**arguments)
    assert opt.skipped_steps == skipped + 1
    now = but_skips(opt)
    assert all(map(torch.equal, now[0], params))
    assert_same_dictionary(now[1], saved)


@each_optimizer
def test_bits_of_separate_optimizers(name: str) -> None:
    """The norm is that of all parameters; those without a gradient count as zeros. One is channels last."""
    params = weights()
    limits = [1e-3, 1e9, 0.5, math.inf]
    opt = grouped(name, params, max_norm=lambda t: limits[t % 4], skip_nonfinite=9)
    separate = Separate(name, in_groups(name, params))
    for t in range(8):
        give(params, (5, t), 0.6 if t else 1.0)
        if t == 5:  # other strides than those of its parameter
            params[4].grad = torch.randn(2, 3, 2, 2)
        step_both(opt, separate, limits[t % 4], (1.0, -0.3)[t % 2])
    for each in params:
        each.grad = None
    step_both(opt, separate, 1e-3)
    assert (opt.grad_norm, opt.skipped_steps) == (0.0, 0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_skipped_steps(value: float) -> None:
    """Nothing changes, wherever the value is, and the n-th in a row raises. Without skipping, the arithmetic goes on."""
    params = weights()
    asked: list[int] = []

    def rate(t: int) -> float:
        asked.append(t)
        return 0.1

    opt = grouped("Adam", params, lr=rate, max_norm=0.5, skip_nonfinite=6)
    separate = Separate("Adam", in_groups("Adam", params), lr=0.1)
    give(params, (1, 0))
    step_both(opt, separate, 0.5)
    for each in (each for each in params if each.numel()):
        kept = each.grad.clone()
        each.grad[(-1,) * each.ndim] = value
        assert_skips(opt)
        np.testing.assert_equal(opt.grad_norm, value)
        each.grad = kept
    separate.assert_same(opt)
    params[0].grad[0, 0] = value
    with pytest.raises(FloatingPointError, match=r"skip_nonfinite.*\b6\b"):
        opt.step()
    assert (opt.step_count, opt.skipped_steps) == (1, 6)
    give(params, (1, 1))
    step_both(opt, separate, 0.5)
    assert asked[-1] == 1
    opt.skip_nonfinite = False
    params[0].grad[0, 0] = value
    opt.step()
    assert all(
        np.isnan(each.detach().numpy()).sum() == (each.numel() if math.isnan(value) else each is params[0])
        for each in params
    )
    assert opt.step_count == 3


def test_attributes_of_gradscaler() -> None:
    """The norm is that of the gradients without the scale. A step that GradScaler skips counts as skipped."""
    params = weights()
    opt = grouped("AdamW", params, max_norm=0.5)
    separate = Separate("AdamW", in_groups("AdamW", params))
    give(params, (2, 0))
    opt.grad_scale, opt.found_inf = torch.tensor(3.0), torch.tensor(0.0)
    expected = norm(units(in_order(opt)), -2.0 / 3.0)
    opt.step(grad_scale=-2.0)
    assert opt.grad_norm == expected
    separate.step(grad_scale=clipped(-2.0 / 3.0, expected, 0.5))
    separate.assert_same(opt)
    for _ in range(2):
        opt.found_inf = torch.tensor(1.0)
        assert_skips(opt)
    opt.skip_nonfinite = 2  # begins a new row
    assert_skips(opt)
    with pytest.raises(FloatingPointError, match="^skip_nonfinite: "):
        opt.step()
    opt.grad_scale = opt.found_inf = None
    step_both(opt, separate, 0.5)
    assert (opt.step_count, opt.skipped_steps) == (2, 4)


def test_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm is that of the parameters of all devices, in the order of the devices."""
    monkeypatch.setattr("lrcore.torch._fused.place_of", lambda tensor: tensor.ndim)
    params = weights()
    opt = grouped("NAdam", params, max_norm=0.5, skip_nonfinite=2)
    separate = Separate("NAdam", in_groups("NAdam", params))
    places = dict.fromkeys(each.ndim for each in in_order(opt))
    assert len(opt.optimizers) == len(places) == 4
    of_devices = [each for place in places for each in in_order(opt) if each.ndim == place]
    for t in range(6):
        give(params, (3, t), 0.6 if t else 1.0)
        step_both(opt, separate, 0.5, params=of_devices)
    give(params, (3, 6))
    params[-1].grad[0] = math.inf
    assert_skips(opt)
    with pytest.raises(FloatingPointError, match="skip_nonfinite"):
        opt.step()
    separate.assert_same(opt)


def test_attributes() -> None:
    weight = ones(3)
    opt = sgd(weight)
    assert (opt.max_norm, opt.skip_nonfinite, opt.grad_norm, opt.skipped_steps) == (None, False, None, 0)
    weight.grad = torch.full((3,), math.inf)
    opt.max_norm, opt.skip_nonfinite = schedules.Linear(2.0, end=1.0, steps=2), True
    opt.step()
    assert (opt.max_norm, opt.skip_nonfinite, opt.grad_norm, opt.skipped_steps) == (2.0, True, math.inf, 1)
    weight.grad = torch.ones(3)
    opt.step()
    assert (opt.max_norm, opt.grad_norm) == (1.5, math.sqrt(3))
    for name in ("grad_norm", "skipped_steps"):
        with pytest.raises(AttributeError, match=name):
            setattr(opt, name, 1)
    before = everything(opt)
    with pytest.raises(TypeError):
        opt.step([torch.ones(3)])
    for wrong in (lambda _: 0.0, lambda _: "1"):
        opt.max_norm = wrong
        with pytest.raises((TypeError, ValueError), match="^max_norm: .* from the schedule at t = 1$"):
            opt.step()
    opt.max_norm = schedules.Linear(2.0, end=1.0, steps=2)
    for name, value in (
        ("max_norm", 0.0),
        ("max_norm", True),
        ("skip_nonfinite", 0),
        ("skip_nonfinite", 1.0),
    ):
        for call in (lambda: sgd(ones(3), **{name: value}), lambda: setattr(opt, name, value)):  # noqa: B023
            with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
                call()
    assert_unchanged(opt, before)
    assert (opt.grad_norm, opt.skipped_steps) == (math.sqrt(3), 1)


def test_added_groups_keep_the_record() -> None:
    weight = ones(3)
    opt = sgd(weight, max_norm=0.5, skip_nonfinite=9)
    weight.grad = torch.full((3,), math.inf)
    opt.step()
    for _ in range(2):
        opt.add_param_group({"params": ones(2)})
        assert (opt.max_norm, opt.skip_nonfinite, opt.grad_norm, opt.skipped_steps) == (0.5, 9, math.inf, 1)
    weight.grad = torch.ones(3)
    opt.step()
    assert opt.grad_norm == math.sqrt(3)


# ---- dictionaries and copies


LIMITS: dict[str, Callable[[], Any]] = {
    "number": lambda: 0.5,
    "infinite": lambda: math.inf,
    "Plateau": lambda: schedules.Plateau(schedules.Cosine(0.5, steps=9), patience=0, threshold=0),
}


def trained(limit: str) -> tuple[Any, Any]:
    """Return parameters and an optimizer that has skipped two steps in a row."""
    module = torch.nn.ParameterList(weights())
    opt = grouped("AdamW", [*module], max_norm=LIMITS[limit](), skip_nonfinite=3)
    for t in range(4):
        give(module, (6, t))
        if t > 1:
            module[0].grad[0, 0] = math.nan
        opt.step()
    for each in schedules.plateaus(opt):
        each.observe(1)
        each.observe(1)
    return module, opt


def assert_goes_on(copied: Any, its: Any, module: Any, opt: Any) -> None:
    """Assert that a copy has the same settings, begins a new row, and goes on like an optimizer that loads its state."""
    results = []
    opt.load_state_dict(opt.state_dict())
    for params, each in ((copied, its), (module, opt)):
        results.append([repr((each.max_norm, each.skip_nonfinite, each.skipped_steps))])
        for t in range(5):
            give(params, (7, t))
            if t < 2:
                params[0].grad[0, 0] = math.inf
            each.step()
        results[-1] += [each.max_norm, each.skipped_steps, each.grad_norm, *(p.tolist() for p in params)]
    assert results[0] == results[1]
    assert opt.skipped_steps == 4


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("way", TOGETHER)
def test_copies(way: str, limit: str) -> None:
    """Copies of a module and its optimizer keep the settings, and begin a new row."""
    module, opt = trained(limit)
    copied, its = TOGETHER[way]((module, opt))
    assert_goes_on(copied, its, module, opt)


def halved(t: int) -> float:
    return 0.5 / (t + 1)


@pytest.mark.parametrize("way", TOGETHER)
def test_copies_have_the_assigned_callable(way: str) -> None:
    """That of the constructor, which pickle would refuse, is not copied."""
    module = torch.nn.ParameterList(weights())
    opt = grouped("AdamW", [*module], max_norm=lambda _: 0.25, skip_nonfinite=3)
    opt.max_norm = halved
    for t in range(2):
        give(module, (6, t))
        opt.step()
    _, its = TOGETHER[way]((module, opt))
    assert its.max_norm == opt.max_norm == halved(2)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("by_torch", [False, True])
def test_dictionaries(limit: str, by_torch: bool) -> None:
    """They keep the settings in the text of the first group, also through PyTorch's optimizer."""
    module, opt = trained(limit)
    saved = opt.state_dict()
    assert {*ENTRIES} <= own(saved).keys()
    assert not {*ENTRIES} & own(saved, 1).keys()
    copied = copy.deepcopy(module)
    if by_torch:
        theirs = torch.optim.AdamW([{"params": each["params"]} for each in in_groups("AdamW", [*copied])])
        theirs.load_state_dict(saved)
        saved = theirs.state_dict()
    its = grouped("AdamW", [*copied], max_norm=7.0, skip_nonfinite=2)
    its.load_state_dict(saved)
    assert_goes_on(copied, its, module, opt)


@pytest.mark.parametrize("of_torch", [False, True])
def test_dictionaries_without_the_entries(of_torch: bool) -> None:
    """Those of earlier versions and of PyTorch: the optimizer keeps its settings, and begins a new row."""
    module, opt = trained("Plateau")
    limit = opt.max_norm
    if of_torch:
        theirs = torch.optim.AdamW([{"params": each["params"]} for each in in_groups("AdamW", weights())])
        saved = theirs.state_dict()
    else:
        saved = opt.state_dict()
        set_group(
            saved, lrcore=json.dumps({key: value for key, value in own(saved).items() if key not in ENTRIES})
        )
    plateaus = schedules.plateaus(opt)
    opt.load_state_dict(saved)
    assert schedules.plateaus(opt) == plateaus
    assert (opt.skip_nonfinite, opt.skipped_steps) == (3, 0)
    if not of_torch:
        assert opt.max_norm == limit
    module[0].grad[0, 0] = math.nan
    for _ in range(2):
        opt.step()
    with pytest.raises(FloatingPointError, match="skip_nonfinite"):
        opt.step()


@pytest.mark.parametrize(
    "change",
    [
        {"max_norm": 0.0},
        {"max_norm": "1"},
        {"skip_nonfinite": 0},
        {"skipped_steps": -1},
        {"skipped_steps": 2**63},
    ],
)
def test_a_wrong_entry_is_refused(change: dict[str, Any]) -> None:
    _, opt = trained("number")
    saved = opt.state_dict()
    before = everything(opt)
    set_group(saved, lrcore=json.dumps(own(saved) | change))
    with pytest.raises((TypeError, ValueError), match=next(iter(change))):
        opt.load_state_dict(saved)
    assert_unchanged(opt, before)


def test_groups_have_none() -> None:
    """An entry of a group would have no effect. It may repeat the argument, as some tools copy all arguments."""
    params = weights()
    for name, value in (("max_norm", 1.0), ("skip_nonfinite", 3)):
        entries: Any = {"params": params, name: value}
        with pytest.raises(TypeError, match=rf"param_groups\[0\]: {name}: an argument of the optimizer"):
            FusedOptimizer([entries], lrcore.Adam)
        opt = FusedOptimizer([dict(entries)], lrcore.Adam, **{name: value})
        give(params, (4, 0))
        opt.step()
        opt.param_groups[0][name] = 2
        with pytest.raises(TypeError, match=rf"param_groups\[0\]: {name}: .*assign opt\.{name}"):
            opt.step()
