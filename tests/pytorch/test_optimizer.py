"""`lrcore.torch.FusedOptimizer`. Skipped by name where PyTorch is not installed.

Bits are compared with the same optimizer of lrcore on the parameters one after another; PyTorch's own optimizers within
the tolerances of `peers`.
"""

from __future__ import annotations

import copy
import gc
import io
import json
import math
import pickle
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from opcodes import at_each_opcode, interrupt
from support import assert_bits, slow_but_first

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode

import lrcore.torch
from lrcore.torch import FusedOptimizer

ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.01},
    "Lion": {"lr": 1e-3},
    "Adadelta": {"lr": 1.0},
}
"""What an optimizer is made with here, where the defaults would leave something out."""
NAMES = [name for name in lrcore.optimizers.__all__ if name != "Optimizer"]
IN_TORCH = [name for name in NAMES if hasattr(torch.optim, name)]
each_optimizer = pytest.mark.parametrize("name", NAMES)


def own(saved: Any) -> Any:
    """Return what a state dictionary says beside what PyTorch's has."""
    return json.loads(saved["param_groups"][0]["lrcore"])


def set_own(saved: Any, **changes: Any) -> None:
    saved["param_groups"][0]["lrcore"] = json.dumps(own(saved) | changes)


def network(seed: int = 0, channels_last: bool = False) -> Any:
    """Return a network with weights of odd sizes, and a scalar."""
    torch.manual_seed(seed)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 7), nn.PReLU(), nn.Linear(7, 3)
    )
    return model.to(memory_format=torch.channels_last) if channels_last else model


def batch(step: int) -> tuple[Any, Any]:
    """Return images and classes that a network can learn."""
    generator = torch.Generator().manual_seed(step)
    y = torch.randint(3, (16,), generator=generator)
    x = torch.randn(16, 3, 5, 5, generator=generator)
    return x + 2 * torch.nn.functional.one_hot(y, 3)[:, :, None, None], y


def loss_of(model: Any, step: int) -> Any:
    x, y = batch(step)
    return torch.nn.functional.cross_entropy(model(x), y)


def train(model: Any, opt: Any, steps: range, set_to_none: bool = True) -> list[float]:
    """Train; give the losses."""
    losses = []
    for step in steps:
        opt.zero_grad(set_to_none=set_to_none)
        loss = loss_of(model, step)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def build(name: str, model: Any, **others: Any) -> Any:
    return FusedOptimizer(model.parameters(), getattr(lrcore, name), **ARGUMENTS.get(name, {}) | others)


def parameters(model: Any) -> list[Any]:
    """Return copies of the parameters."""
    return [each.detach().clone() for each in model.parameters()]


def assert_equal(model: Any, expected: list[Any]) -> None:
    for found, wanted in zip(model.parameters(), expected, strict=True):
        assert_bits(found.detach().numpy(), wanted.numpy())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("set_to_none", [True, False])
@each_optimizer
def test_bits_of_one_flat_array(name: str, set_to_none: bool, channels_last: bool) -> None:
    """A module steps as its parameters in one array do."""
    model, twin = network(channels_last=channels_last), network(channels_last=channels_last)
    opt = build(name, model)
    flat = torch.cat([each.detach().reshape(-1) for each in twin.parameters()])
    plain = getattr(lrcore, name)(flat, **ARGUMENTS.get(name, {}))
    sizes = [each.numel() for each in twin.parameters()]
    for step in range(4):
        train(model, opt, range(step, step + 1), set_to_none)
        loss_of(twin, step).backward()
        plain.step(torch.cat([each.grad.reshape(-1) for each in twin.parameters()]))
        for each, part in zip(twin.parameters(), flat.split(sizes), strict=True):
            each.data.copy_(part.reshape(each.shape))
            each.grad = None
        assert_equal(model, parameters(twin))
    assert opt.step_count == 4


@pytest.mark.parametrize("name", IN_TORCH)
def test_losses_of_torchs_optimizer(name: str) -> None:
    """The same network learns alike under PyTorch's optimizer of the same arguments.

    Both round every step in float32 by 2^-24 of p, and differently; over 60 steps of a loss that both follow downhill that
    stays far below 1e-3 of a loss of about 1.
    """
    model, twin = network(), network()
    arguments = ARGUMENTS.get(name, {})
    ours = train(model, build(name, model), range(60))
    theirs = train(twin, getattr(torch.optim, name)(twin.parameters(), **arguments), range(60))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    assert ours[-1] < ours[0]


def test_one_buffer() -> None:
    """Parameters, gradients and states are views of flat buffers, each at a multiple of 64 bytes."""
    model = network()
    before = parameters(model)
    opt = build("Adam", model)
    assert_equal(model, before)
    (flat,) = opt.optimizers
    start, grads, state = (each.data_ptr() for each in (flat.params, flat.grads, flat.state["exp_avg"]))
    train(model, opt, range(2))
    for each in model.parameters():
        offset = each.data_ptr() - start
        assert offset % 64 == 0
        assert 0 <= offset < 4 * flat.size
        assert each.grad.data_ptr() - grads == offset
        assert opt.state[each]["exp_avg"].data_ptr() - state == offset
        assert opt.state[each]["exp_avg"].shape == each.shape
        assert opt.state[each]["exp_avg"].abs().max() > 0


def test_memory_formats_are_kept() -> None:
    """A parameter with channels last stays so, and so do its gradient and its state."""
    model = network(channels_last=True)
    opt = build("Adam", model)
    train(model, opt, range(1))
    weight = model[0].weight
    for each in (weight, weight.grad, opt.state[weight]["exp_avg"]):
        assert each.is_contiguous(memory_format=torch.channels_last)
        assert not each.is_contiguous()


def test_a_parameter_without_a_gradient_counts_as_zero() -> None:
    """Momentum and decay go on acting on it, and an old gradient does not."""
    first, second = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    opt = FusedOptimizer([first, second], lrcore.SGD, lr=0.5, momentum=0.5)
    (first.sum() + second.sum()).backward()
    opt.step()
    assert (second == 0.5).all()
    ways: list[Callable[[], Any]] = [
        opt.zero_grad,
        lambda: opt.zero_grad(set_to_none=False),
        lambda: setattr(second, "grad", None),
    ]
    for forget in ways:
        forget()
        first.sum().backward()
        before = second.detach().clone()
        velocity = opt.state[second]["momentum_buffer"].clone()
        opt.step()
        assert (second == before - 0.5 * (0.5 * velocity)).all()


def places(model: Any) -> list[int]:
    """Return where the gradients lie."""
    return [each.grad.data_ptr() for each in model.parameters()]


def test_zeroing() -> None:
    """The flat gradients are those of the last backward passes, before a step as well."""
    model = network()
    opt = build("SGD", model)
    loss_of(model, 0).backward()
    flat, attached = opt.optimizers[0].grads, places(model)
    norm = flat.norm()
    assert norm > 0
    opt.zero_grad()
    assert all(each.grad is None for each in model.parameters())
    assert not flat.any()
    loss_of(model, 0).backward()
    assert places(model) == attached  # the hook has put them back
    assert flat.norm() == norm
    for foreign in (lambda _: None, lambda each: each.grad.clone()):
        for each in model.parameters():
            each.grad = foreign(each)
        opt.zero_grad(set_to_none=False)
        assert places(model) == attached
        assert not flat.any()


def test_gradients_accumulate() -> None:
    """Over two backward passes, in both forms of zeroing; the module's own `zero_grad` and assigned gradients are seen."""
    expected = None
    for zero in ("none", "zero", "module", "assigned"):
        model = network()
        opt = build("Adam", model)
        for _ in range(2):
            if zero == "module":
                model.zero_grad()
            else:
                opt.zero_grad(set_to_none=zero != "zero")
            for step in (0, 1):
                (loss_of(model, step) / 2).backward()
            if zero == "assigned":
                for each in model.parameters():
                    each.grad = each.grad.clone()
            opt.step()
        expected = expected or parameters(model)
        assert_equal(model, expected)


def test_gradients_of_a_differentiable_backward_pass() -> None:
    model, twin = network(), network()
    opt, other = build("SGD", model), build("SGD", twin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of the cycle that this makes
        loss_of(model, 0).backward(create_graph=True)
    opt.step()
    train(twin, other, range(1))
    assert_equal(model, parameters(twin))


def test_a_penalty_on_the_gradient() -> None:
    """A gradient that can be differentiated is left for what is computed of it."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0)
    opt.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of the cycle that this makes
        (weight**3).sum().backward(create_graph=True)
    penalty = (weight.grad**2).sum()
    ((weight**2).sum() + penalty).backward()  # 3 w^2 + 2 w + 36 w^3
    opt.step()
    assert weight.item() == 1 - 41


def test_gradients_that_are_assigned() -> None:
    """They are read at every step, wherever they lie: in a tensor of the caller's, in one another's place, or moved."""
    first, second = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    opt = FusedOptimizer([first, second], lrcore.SGD, lr=1.0)
    own = torch.zeros(3)
    first.grad = own
    for value in (1.0, 2.0, 4.0):
        own.fill_(value)
        opt.step()
    assert first.tolist() == [-7.0] * 3
    opt.zero_grad(set_to_none=False)
    (first.sum() + 10 * second.sum()).backward()
    first.grad, second.grad = second.grad, first.grad
    opt.step()
    assert (first.tolist(), second.tolist()) == ([-17.0] * 3, [-1.0] * 3)
    opt.zero_grad(set_to_none=False)
    first.sum().backward()
    first.grad.data = first.grad.data * 5
    opt.step()
    assert first.tolist() == [-22.0] * 3
    for _ in range(2):
        opt.zero_grad(set_to_none=False)
        first.sum().backward()
        opt.step()
    assert first.tolist() == [-24.0] * 3


def exchange(one: Any, two: Any, _: Any) -> Any:
    one.grad, two.grad = two.grad, one.grad


def rotate(one: Any, two: Any, three: Any) -> Any:
    one.grad, two.grad, three.grad = two.grad, three.grad, one.grad


def share(one: Any, two: Any, _: Any) -> Any:
    one.grad = two.grad


def take_over(one: Any, two: Any, _: Any) -> Any:
    kept = two.grad
    one.grad, two.grad = kept, None
    return kept


def view(one: Any, two: Any, _: Any) -> Any:
    one.grad = two.grad.view(-1)


def wrap(one: Any, *_: Any) -> Any:
    one.grad = one.grad.detach()


def exchange_memory(one: Any, two: Any, _: Any) -> Any:
    one.grad, two.grad = two.grad.detach(), one.grad.detach()


def take_memory(one: Any, two: Any, three: Any) -> Any:
    two.grad, one.grad = one.grad.detach(), None
    three.grad = three.grad.detach()


def take_memory_back(one: Any, two: Any, _: Any) -> Any:
    one.grad, two.grad = two.grad.detach(), None
    return one.grad


CHANGES = [exchange, rotate, share, take_over, view, wrap, exchange_memory, take_memory, take_memory_back]


@pytest.mark.parametrize("change", CHANGES)
def test_gradients_that_are_exchanged(change: Callable[..., Any]) -> None:
    """Over several steps and backward passes, as with PyTorch's optimizer, where a missing gradient is zero here."""
    seen = []
    for make_one in (FusedOptimizer, lambda params, _, **others: torch.optim.SGD(params, **others)):
        params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
        opt: Any = make_one(params, lrcore.SGD, lr=1.0)
        one, two, three = params
        values: list[Any] = []
        for _ in range(2):
            (one + 10 * two + 100 * three).sum().backward()
            kept = change(*params)
            for _ in range(2):
                opt.step()
                values.append([each.tolist() for each in params])
            values.append(
                [each.grad.tolist() for each in params if each.grad is not None and each.grad.any()]
            )
            values.append(None if kept is None else kept.tolist())
            opt.zero_grad()
        seen.append(values)
    assert seen[0] == seen[1]


def test_gradients_that_are_kept() -> None:
    """What is taken from a parameter before its gradient is set to None stays what it is, as in PyTorch."""
    forgets: list[Callable[[Any, Any], None]] = [
        lambda opt, _: opt.zero_grad(),
        lambda _, weight: setattr(weight, "grad", None),
        lambda _, weight: setattr(weight, "grad", torch.zeros(3)),
    ]
    for forget in forgets:
        weight = torch.nn.Parameter(torch.zeros(3))
        opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0)
        kept = []
        for value in (1.0, 2.0, 4.0):
            (value * weight).sum().backward()
            kept.append(weight.grad)
            forget(opt, weight)
        opt.step()
        (8 * weight).sum().backward()
        opt.step()
        assert [each.tolist() for each in kept] == [[1.0] * 3, [2.0] * 3, [4.0] * 3]
        assert (weight == -8).all()
        opt.zero_grad()
        weight.sum().backward()
        assert opt.optimizers[0].grads.tolist() == [1.0] * 3


def test_gradients_of_another_dtype() -> None:
    """Where `grad_dtype` asks for it, as PyTorch's optimizer: they are converted at the step, and stay the parameter's."""
    if not hasattr(torch.Tensor, "grad_dtype"):
        pytest.skip("this PyTorch has no grad_dtype")
    for after in (True, False):
        for set_to_none in (True, False):
            weight = torch.nn.Parameter(torch.zeros(3))
            if not after:
                weight.grad_dtype = torch.bfloat16
            opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0)
            if after:
                weight.grad = None
                weight.grad_dtype = torch.bfloat16
            opt.step()
            for _ in range(2):
                opt.zero_grad(set_to_none=set_to_none)
                for _ in range(2):
                    (1.25 * weight).sum().backward()
                assert weight.grad.dtype == torch.bfloat16
                assert opt.optimizers[0].grads.tolist() == [2.5] * 3
                opt.step()
            assert weight.tolist() == [-5.0] * 3
    weight = torch.nn.Parameter(torch.zeros(3))
    weight.grad_dtype = None
    opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0)
    weight.sum().backward()
    opt.step()
    assert weight.tolist() == [-1.0] * 3


def test_hooks_of_others_on_gradients() -> None:
    """Registered before or after the optimizer, they may take a gradient away, replace it, or step."""
    for first in (True, False):
        weight, other = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
        taken: list[Any] = []

        def take(parameter: Any, taken: list[Any] = taken) -> None:
            taken.append(parameter.grad)
            parameter.grad = None

        def double(parameter: Any) -> None:
            parameter.grad = 2 * parameter.grad

        if first:
            weight.register_post_accumulate_grad_hook(take)
            other.register_post_accumulate_grad_hook(double)
        opt = FusedOptimizer([weight, other], lrcore.SGD, lr=1.0)
        if not first:
            weight.register_post_accumulate_grad_hook(take)
            other.register_post_accumulate_grad_hook(double)
        opt.zero_grad()
        (weight + other).sum().backward()
        opt.step()
        assert (weight.tolist(), other.tolist()) == ([0.0] * 3, [-2.0] * 3)
        assert taken[0].tolist() == [1.0] * 3

    weight = torch.nn.Parameter(torch.zeros(3))
    makers: list[Any] = []

    def step(_: Any) -> None:
        makers[-1].step()
        makers[-1].zero_grad()

    weight.register_post_accumulate_grad_hook(step)
    for _ in range(2):
        makers.append(FusedOptimizer([weight], lrcore.SGD, lr=1.0))
        for _ in range(2):
            weight.sum().backward()
    assert weight.tolist() == [-4.0] * 3


def test_a_closure() -> None:
    model, twin = network(), network()
    opt, other = build("Adam", model), build("Adam", twin)

    def closure() -> Any:
        opt.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    assert opt.step(closure).item() == train(twin, other, range(1))[0]
    assert_equal(model, parameters(twin))
    opt.zero_grad()
    (3 * loss_of(model, 1)).backward()
    opt.step(grad_scale=1 / 3)
    train(twin, other, range(1, 2))
    for found, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        # 3 g / 3 is rounded twice, by 2^-24 each, and Adam's first steps are about the rate long whatever g is
        assert torch.allclose(found, wanted, rtol=0, atol=1e-5)


def test_a_changed_parameter_is_noticed_by_autograd() -> None:
    weights = torch.nn.Parameter(torch.ones(3))
    opt = FusedOptimizer([weights], lrcore.SGD)
    loss = (weights * weights).sum()
    opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_an_interrupt_after_the_step_is_noticed_by_autograd() -> None:
    """What was stepped counts as changed, whatever is raised before the method returns."""

    class Interrupted(lrcore.SGD):
        def step(self, *args: Any, **kwargs: Any) -> None:
            super().step(*args, **kwargs)
            raise KeyboardInterrupt

    weights = torch.nn.Parameter(torch.ones(3))
    opt = FusedOptimizer([weights], Interrupted, lr=lambda _: 0.5)
    loss = (weights * weights).sum()
    with pytest.raises(KeyboardInterrupt):
        opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert opt.param_groups[0]["lr"] == 0.5


def test_gradients_in_inference_mode() -> None:
    """Kept and exchanged ones stay what they are."""
    one, two = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(3))
    opt = FusedOptimizer([one, two], lrcore.SGD, lr=1.0)
    (one + 10 * two).sum().backward()
    kept = one.grad
    with torch.inference_mode():
        one.grad, two.grad = two.grad, one.grad
        opt.step()
        opt.step()
        opt.zero_grad()
    assert (one.tolist(), two.tolist(), kept.tolist()) == ([-20.0] * 3, [-2.0] * 3, [1.0] * 3)
    (one + two).sum().backward()
    opt.step()
    assert (one.tolist(), two.tolist(), kept.tolist()) == ([-21.0] * 3, [-3.0] * 3, [1.0] * 3)
    assert not kept.is_inference()
    assert kept.mul_(2).tolist() == [2.0] * 3


@pytest.mark.parametrize("way", ["zero_grad", "step"])
def test_gradients_after_inference_mode(way: str) -> None:
    """The tensors that took the place of kept ones in it can be changed outside of it, by clipping say."""
    full, empty = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(0))
    opt = FusedOptimizer([full, empty], lrcore.SGD, lr=1.0)
    (full.sum() + empty.sum()).backward()
    kept = [full.grad, empty.grad]
    with torch.inference_mode():
        if way == "step":
            full.grad = empty.grad = None
            opt.step()
        else:
            opt.zero_grad()
    (4 * full.sum() + empty.sum()).backward()
    torch.nn.utils.clip_grad_value_([full, empty], 3.0)
    opt.step()
    assert (full.tolist(), kept[0].tolist()) == ([-3.0] * 3, [1.0] * 3)


# Rates and hyperparameters.


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
    train(model, opt, range(10, 11))
    assert opt.lr == rates[0][-1][0]
    assert opt.optimizers[0].hyper["betas"] == rates[0][-1][1]


def test_a_schedule_of_ours() -> None:
    model = network()
    schedule = lrcore.schedules.Cosine(0.1, steps=10).warmup(3)
    opt = build("AdamW", model, lr=schedule)
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


@pytest.mark.parametrize("given", [lambda fn: fn, lrcore.schedules.Function])
def test_a_callable_is_asked_once_and_at_the_step(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For all devices; a step that is refused or skipped asks for the same step again. The group has the last rate."""
    rates: dict[int, float] = {0: 1.0, 1: 2.0}
    asked = []

    def rate(t: int) -> float:
        asked.append(t)
        return rates[t]

    first, second = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(1, 1))
    monkeypatch.setattr(lrcore.torch._fused, "place_of", lambda tensor: tensor.ndim)
    opt = FusedOptimizer([first, second], lrcore.SGD, lr=given(rate))
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
    assert asked == [0, 1, 2, 2]
    assert opt.step_count == 2
    assert opt.param_groups[0]["lr"] == opt.state_dict()["param_groups"][0]["lr"] == 2.0
    rates[2] = 4.0
    opt.step()
    assert (first.tolist(), second.tolist()) == ([-7.0] * 3, [[-7.0]])
    assert asked == [0, 1, 2, 2, 2]
    assert [each.step_count for each in opt.optimizers] == [3, 3]


def test_a_callable_is_asked_for_the_rate_of_now() -> None:
    rates = {"lr": 1.0}
    weight = torch.nn.Parameter(torch.zeros(1))
    opt = FusedOptimizer([weight], lrcore.SGD, lr=lambda _: rates["lr"])
    weight.grad = torch.ones(1)
    for rates["lr"] in (1.0, 0.5, 0.25):
        opt.step()
    assert weight.item() == -1.75
    rates["lr"] = 0.125
    assert opt.lr == 0.125


def test_rates_that_float32_loses() -> None:
    """They are 0, as those of a schedule."""
    weight = torch.nn.Parameter(torch.ones(3))
    opt = FusedOptimizer([weight], lrcore.SGD, lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(opt, gamma=0.1)
    for _ in range(60):
        weight.grad = torch.ones(3)
        opt.step()
        scheduler.step()
    assert opt.step_count == 60


def test_what_is_shown_is_what_acts() -> None:
    """By the optimizer, its text, the group and the optimizers of the devices, wherever it was assigned."""
    ways: list[Callable[[Any], None]] = [
        lambda opt: setattr(opt, "lr", 0.25),
        lambda opt: opt.param_groups[0].update(lr=0.25),
        lambda opt: setattr(opt.optimizers[0], "lr", 0.25),
        lambda opt: torch.optim.lr_scheduler.LambdaLR(opt, lambda _: 0.25),
        lambda opt: setattr(opt, "lr", torch.tensor(0.25)),
        lambda opt: setattr(opt, "lr", lrcore.schedules.Linear(0.25, end=0.0, steps=10)),
    ]
    for assign in ways:
        weight = torch.nn.Parameter(torch.zeros(1))
        opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0, momentum=0.5)
        weight.grad = torch.ones(1)
        assign(opt)
        assert opt.lr == opt.param_groups[0]["lr"] == opt.optimizers[0].lr == opt.schedule(0) == 0.25
        assert "lr=0.25" in repr(opt)
        opt.step()
        assert weight.item() == -0.25
    group = opt.param_groups[0]
    inner = opt.optimizers[0]
    inner.hyper["momentum"] = 0.25
    assert opt.param_groups[0]["momentum"] == group["momentum"] == 0.25
    group["momentum"] = 0.75
    assert opt.optimizers[0].hyper["momentum"] == 0.75
    group["momentum"] = 0.125
    inner.hyper["weight_decay"] = 0.5
    assert (opt.param_groups[0]["momentum"], group["weight_decay"]) == (0.125, 0.5)
    opt.step()
    assert dict(inner.hyper) == {"momentum": 0.125, "dampening": 0.0, "weight_decay": 0.5}


def test_a_plateau_is_shown_where_it_is() -> None:
    plateau = lrcore.schedules.Plateau(0.5, factor=0.5, patience=0)
    opt = FusedOptimizer([of(3)], lrcore.SGD, lr=plateau)
    for metric in (1.0, 2.0):
        plateau.observe(metric)
    assert opt.param_groups[0]["lr"] == opt.lr == 0.25


def test_assigning_a_rate_keeps_what_the_group_was_told() -> None:
    for lr in (0.5, lrcore.schedules.Linear(0.5, end=0.0, steps=10), lambda _: 0.5):
        weight = of(1)
        opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0)
        opt.param_groups[0]["weight_decay"] = 0.5
        opt.lr = lr
        assert opt.param_groups[0]["weight_decay"] == 0.5
        weight.grad = torch.zeros(1)
        opt.step()
        assert weight.item() == 0.75
        assert opt.param_groups[0]["weight_decay"] == 0.5


def test_numbers_that_are_changed_in_place() -> None:
    """A tensor and a list stay in the group and are read at each step, as PyTorch's optimizers do."""
    betas: Any
    weight = torch.nn.Parameter(torch.zeros(1))
    rate = torch.tensor(1.0)
    opt = FusedOptimizer([weight], lrcore.SGD, lr=rate)
    weight.grad = torch.ones(1)
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
    assert weight.item() == -4.0
    rate.fill_(-1.0)
    with pytest.raises(ValueError, match="^lr: "):
        opt.step()
    assert weight.item() == -4.0
    for betas in ([0.5, 0.75], torch.tensor([0.5, 0.75]), (torch.tensor(0.5), 0.75)):
        adam = FusedOptimizer([of(1)], lrcore.Adam, lr=torch.tensor([0.5]))
        adam.param_groups[0]["betas"] = betas
        adam.step()
        if isinstance(betas, tuple):
            betas[0].fill_(0.25)
        else:
            betas[0] = 0.25
        adam.param_groups[0]["lr"].fill_(0.25)
        adam.step()
        assert adam.optimizers[0].hyper["betas"] == (0.25, 0.75)
        assert adam.lr == 0.25


def clear_groups(opt: Any) -> None:
    opt.param_groups.clear()


def replace_groups(opt: Any) -> None:
    opt.param_groups = [{"params": [*opt.param_groups[0]["params"]]}]


def another_group(opt: Any) -> None:
    opt.param_groups.append({"params": [of(3)]})


def no_group(opt: Any) -> None:
    opt.param_groups[0] = None


def no_rate(opt: Any) -> None:
    del opt.param_groups[0]["lr"]


def other_parameter(opt: Any) -> None:
    opt.param_groups[0]["params"][0] = of(1)


def equal_parameters(opt: Any) -> None:
    opt.param_groups[0]["params"] = [each.detach().clone() for each in opt.param_groups[0]["params"]]


def other_order(opt: Any) -> None:
    opt.param_groups[0]["params"].reverse()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (clear_groups, "^param_groups: expected the one group"),
        (another_group, "^param_groups: expected the one group"),
        (no_group, "^param_groups: expected the one group"),
        (replace_groups, "^param_groups: expected the entry 'lr'"),
        (no_rate, "^param_groups: expected the entry 'lr'"),
        (other_parameter, "^param_groups: its parameters were changed"),
        (equal_parameters, "^param_groups: its parameters were changed"),
        (other_order, "^param_groups: its parameters were changed"),
    ],
)
def test_groups_of_something_else(spoil: Callable[[Any], None], message: str) -> None:
    weights = [of(1), of(1)]
    opt = FusedOptimizer(weights, lrcore.SGD, lr=1.0)
    weights[0].grad = torch.ones(1)
    spoil(opt)
    for attempt in (opt.step, opt.state_dict, lambda: opt.lr):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert isinstance(opt.param_groups, list)
    assert "lr=1.0" in repr(opt)
    assert weights == [1, 1]
    assert opt.step_count == 0


def test_names_that_mean_others() -> None:
    """They are refused with the right one; what PyTorch's tools keep on an optimizer and in its groups is carried."""
    opt = FusedOptimizer([of(3)], lrcore.Adam)
    for name, meant in (("learning_rate", r"opt\.lr"), ("beta1", "betas"), ("schedule", r"opt\.lr")):
        with pytest.raises(AttributeError, match=f"^{name}: assign .*{meant}"):
            setattr(opt, name, 0.5)
    with pytest.raises(AttributeError, match="^momentum: expected one of betas, eps, weight_decay$"):
        opt.momentum = 0.5
    for name in ("decay", "amsgrad", "decoupled_weight_decay"):
        with pytest.raises(AttributeError, match=f"^{name}: fixed at construction"):
            setattr(opt, name, 0.5)
    opt._opt_called = opt.my_note = True
    opt.param_groups[0]["lr_scale"] = 0.5
    opt.step()
    assert opt.state_dict()["param_groups"][0]["lr_scale"] == 0.5


def test_hyperparameters_of_the_group() -> None:
    model = network()
    opt = build("AdamW", model)
    group = opt.param_groups[0]
    group["weight_decay"], group["betas"], group["lr"] = 0.5, [0.5, 0.6], torch.tensor(0.125)
    opt.step()
    hyper = opt.optimizers[0].hyper
    assert (hyper["weight_decay"], hyper["betas"], opt.lr) == (0.5, (0.5, 0.6), 0.125)
    group["betas"] = (0.5, 1.0)
    with pytest.raises(ValueError, match=r"^betas\[1\]: expected a number in \[0, 1\)"):
        opt.step()
    group["betas"], group["maximize"] = (0.5, 0.6), True
    with pytest.raises(ValueError, match="^maximize: fixed at construction"):
        opt.step()
    group["maximize"], group["decay"] = False, "l2"  # it is decoupled_weight_decay there, as PyTorch has it
    for refused in (opt.step, opt.state_dict):
        with pytest.raises(ValueError, match="^decay: fixed at construction"):
            refused()
    del group["decay"]
    stored = opt.state_dict()
    stored["param_groups"][0]["decay"] = "l2"
    with pytest.raises(ValueError, match=r"^param_groups: expected the entries .*got .*'decay'"):
        opt.load_state_dict(stored)
    group["weight_decay"], group["lr"] = 0.75, -1.0
    with pytest.raises(ValueError, match=r"^lr: "):
        opt.step()
    assert hyper["weight_decay"] == 0.5  # none of it
    group["weight_decay"], group["lr"] = 0.25, 1.0
    assert opt.state_dict()["param_groups"][0]["weight_decay"] == hyper["weight_decay"] == 0.25
    hyper["weight_decay"] = 0.125
    assert opt.state_dict()["param_groups"][0]["weight_decay"] == group["weight_decay"] == 0.125
    for name in ("hyper", "weight_decay"):
        with pytest.raises(AttributeError, match=rf"^{name}: assign opt\.param_groups\[0\]"):
            setattr(opt, name, 0.5)
    group["params"].append(of(2))
    with pytest.raises(ValueError, match="^param_groups: its parameters were changed"):
        opt.step()
    assert opt.step_count == 1


# GradScaler.


def test_the_scale_of_a_grad_scaler() -> None:
    """The bits of the steps without it: its scales are powers of two."""
    model, twin = network(), network()
    opt, other = build("Adam", model), build("Adam", twin)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(3):
        opt.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        scaler.step(opt)
        scaler.update()
    train(twin, other, range(3))
    assert_equal(model, parameters(twin))
    opt.zero_grad()
    scaler.scale(4 * loss_of(model, 3)).backward()
    scaler.step(opt, grad_scale=0.25)  # both act
    train(twin, other, range(3, 4))
    assert_equal(model, parameters(twin))


def refuse_number(opt: Any) -> Callable[[], None]:
    opt.param_groups[0]["weight_decay"] = -1
    return lambda: opt.param_groups[0].update(weight_decay=0.0)


def refuse_rate(opt: Any) -> Callable[[], None]:
    def rate(_: int) -> float:
        raise ValueError("no rate")

    opt.lr = rate
    return lambda: setattr(opt, "lr", 1.0)


def refuse_in_the_core(opt: Any) -> Callable[[], None]:
    opt.lr = lambda _: -1.0
    return lambda: setattr(opt, "lr", 1.0)


def refuse_before(opt: Any) -> Callable[[], None]:
    def hook(*_: Any) -> None:
        raise ValueError("before the step")

    return opt.register_step_pre_hook(hook).remove  # type: ignore[no-any-return]


def refuse_gradient(opt: Any) -> Callable[[], None]:
    (weight,) = opt.param_groups[0]["params"]
    grad, weight.grad = weight.grad, torch.ones(3).to_sparse()
    return lambda: setattr(weight, "grad", grad)


def refuse_storage(opt: Any) -> Callable[[], None]:
    (weight,) = opt.param_groups[0]["params"]
    values, weight.data = weight.data, torch.zeros(3)
    return lambda: setattr(weight, "data", values)


@pytest.mark.parametrize(
    "refuse",
    [refuse_number, refuse_rate, refuse_in_the_core, refuse_before, refuse_gradient, refuse_storage],
)
@pytest.mark.parametrize("again", [True, False])
def test_a_refused_step_leaves_no_scale(refuse: Callable[[Any], Callable[[], None]], again: bool) -> None:
    """The next one, of the scaler or without it, is by the rate."""
    weight = torch.nn.Parameter(torch.ones(3))
    opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(weight.sum()).backward()
    repair = refuse(opt)
    with pytest.raises((ValueError, TypeError, RuntimeError, NotImplementedError)):
        scaler.step(opt)
    assert not {"grad_scale", "found_inf"} & {*vars(opt)}
    repair()
    if again:
        scaler.step(opt)
    else:
        opt.zero_grad()
        weight.sum().backward()
        opt.step()
    assert not weight.any()


def test_a_hook_that_raises_after_the_step_leaves_no_scale() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(weight.sum()).backward()

    def hook(*_: Any) -> None:
        raise ValueError("after the step")

    handle = opt.register_step_post_hook(hook)
    with pytest.raises(ValueError, match="^after the step"):
        scaler.step(opt)
    handle.remove()
    assert not weight.any()
    assert not {"grad_scale", "found_inf"} & {*vars(opt)}


def test_a_scale_that_is_set_by_hand() -> None:
    """It acts until it is taken away, as with PyTorch's fused optimizers; None is as none."""
    weight = torch.nn.Parameter(torch.ones(3))
    opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0)
    weight.grad = torch.ones(3)
    opt.grad_scale, opt.found_inf = None, None
    opt.step()
    assert not weight.any()
    del opt.found_inf
    opt.grad_scale = torch.tensor(2.0)
    with pytest.raises(ValueError, match="^grad_scale: "):
        opt.step(grad_scale=float("inf"))
    opt.step()
    assert (weight == -0.5).all()


def test_a_step_is_skipped_where_the_scaler_found_an_infinity() -> None:
    model = network()
    opt = build("Adam", model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    before = parameters(model)
    scaler.scale(loss_of(model, 0)).backward()
    next(model.parameters()).grad[0] = float("inf")
    scaler.step(opt)
    scaler.update()
    assert_equal(model, before)
    assert opt.step_count == 0
    assert not opt.optimizers[0].state["exp_avg"].any()
    assert scaler.get_scale() == 2.0**9


def test_clipping_what_a_scaler_has_unscaled() -> None:
    model, twin = network(), network()
    opt, plain = build("SGD", model), torch.optim.SGD(twin.parameters(), **ARGUMENTS["SGD"])
    for each, stepped in ((model, opt), (twin, plain)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        scaler.scale(loss_of(each, 0)).backward()
        scaler.unscale_(stepped)
        torch.nn.utils.clip_grad_norm_(each.parameters(), 0.125)
        scaler.step(stepped)
    for found, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        # one step of SGD rounds p and the product by 2^-24 of their size, which is below 1; PyTorch fuses the two
        assert torch.allclose(found, wanted, rtol=0, atol=2.0**-23)


# The state.


def stepped(name: str, theirs: bool, change: Callable[[Any, list[Any]], Any], count: int = 2) -> list[Any]:
    """Return parameters after two steps, a change, and two more, of our optimizer or PyTorch's."""
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(count)]
    arguments = ARGUMENTS.get(name, {}) | {"lr": 0.5}
    opt: Any = (
        getattr(torch.optim, name)(weights, **arguments)
        if theirs
        else FusedOptimizer(weights, getattr(lrcore, name), **arguments)
    )
    for i in range(4):
        if i == 2:
            change(opt, weights)
        for k, weight in enumerate(weights):
            weight.grad = torch.tensor([1.0 + i, 2.0 - k])
        opt.step()
    return [each.tolist() for each in weights]


def swap_in(opt: Any, _: Any) -> None:
    """Replace the state, train on, and put the former one back."""
    former, opt.state = opt.state, defaultdict(dict)
    opt.step()
    opt.state = former


RESETS: dict[str, tuple[int, Callable[[Any, list[Any]], Any]]] = {
    "defaultdict": (2, lambda opt, _: setattr(opt, "state", defaultdict(dict))),
    "dict": (2, lambda opt, _: setattr(opt, "state", defaultdict(dict, {}))),
    "setstate": (2, lambda opt, _: opt.__setstate__({"state": defaultdict(dict)})),
    "clear": (2, lambda opt, _: opt.state.clear()),
    "swap": (2, swap_in),
    "pop": (1, lambda opt, weights: opt.state.pop(weights[0])),
    "popitem": (1, lambda opt, _: opt.state.popitem()),
    "del": (1, lambda opt, weights: opt.state.__delitem__(weights[0])),
    "empty": (1, lambda opt, weights: opt.state.__setitem__(weights[0], {})),
    "clear one": (1, lambda opt, weights: opt.state[weights[0]].clear()),
}


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "NAdam"])
@pytest.mark.parametrize("way", RESETS)
def test_beginning_anew(way: str, name: str) -> None:
    """As PyTorch's optimizer does, whose step counts are in its state. Both round, by 2^-24 of numbers of about 10."""
    count, change = RESETS[way]
    ours = stepped(name, False, change, count)
    np.testing.assert_allclose(ours, stepped(name, True, change, count), rtol=0, atol=1e-5)
    assert ours != stepped(name, False, lambda *_: None, count) or way == "swap"


def test_beginning_anew_from_what_the_states_began_with() -> None:
    weight = of(3)
    opt = FusedOptimizer([weight], lrcore.Adagrad, lr=0.5, initial_accumulator_value=0.25)
    weight.grad = torch.ones(3)
    opt.step()
    first = weight.tolist()
    opt.state.clear()
    assert opt.state[weight]["sum"].tolist() == [0.25] * 3
    assert opt.step_count == 0
    with torch.no_grad():
        weight.fill_(1.0)
    opt.step()
    assert weight.tolist() == first


def put_entry(opt: Any, weight: Any, values: Any) -> None:
    opt.state[weight]["exp_avg"] = values


def put_entries(opt: Any, weight: Any, values: Any) -> None:
    opt.state[weight] = {"exp_avg": values, "exp_avg_sq": opt.state[weight]["exp_avg_sq"]}


def put_all(opt: Any, weight: Any, values: Any) -> None:
    (other,) = (each for each in opt.state if each is not weight)
    opt.state = {other: opt.state[other], weight: {**opt.state[weight], "exp_avg": values}}


def update_entry(opt: Any, weight: Any, values: Any) -> None:
    opt.state[weight].update(exp_avg=values)


def or_entry(opt: Any, weight: Any, values: Any) -> None:
    opt.state[weight] |= {"exp_avg": values}


def update_all(opt: Any, weight: Any, values: Any) -> None:
    opt.state.update({weight: {"exp_avg": values}})


def or_all(opt: Any, weight: Any, values: Any) -> None:
    opt.state |= {weight: {"exp_avg": values}}


PUTS = [put_entry, put_entries, put_all, update_entry, or_entry, update_all, or_all]


@pytest.mark.parametrize("put", PUTS)
def test_states_that_are_assigned(put: Callable[..., None]) -> None:
    """They are copied at once: shown, stepped with and stored. What does not fit changes nothing."""
    one, two = of(3), of(2, 2)
    opt = FusedOptimizer([("one", one), ("two", two)], lrcore.Adam, lr=0.5)
    one.grad, two.grad = torch.ones(3), torch.ones(2, 2)
    opt.step()
    given = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    put(opt, two, given)
    expected = given.clone()
    given.zero_()
    assert torch.equal(opt.state[two]["exp_avg"], expected)
    assert torch.equal(opt.state_dict()["state"][1]["exp_avg"], expected)
    assert opt.step_count == 1
    assert isinstance(opt.state, defaultdict)
    for wrong, error, message in (
        (torch.zeros(4), ValueError, r"expected shape \(2, 2\), got \(4,\)"),
        (expected.double(), TypeError, "expected a tensor of float32, got float64"),
        (expected.to_sparse(), TypeError, "expected a dense tensor"),
        (None, TypeError, "expected a tensor of float32, got NoneType"),
        (0.0, TypeError, "expected a tensor of float32, got float"),
    ):
        with pytest.raises(error, match=rf"^state\[(two|1)\].*: {message}"):
            put(opt, two, wrong)
    assert torch.equal(opt.state[two]["exp_avg"], expected)
    before = two.detach().clone()
    opt.step()
    assert not torch.equal(two, before)
    np.testing.assert_allclose(opt.state[two]["exp_avg"], 0.9 * expected + 0.1, rtol=1e-6)


def test_states_that_are_exchanged() -> None:
    one, two = of(2), of(2)
    opt = FusedOptimizer([one, two], lrcore.Adam)
    opt.state[one]["exp_avg"], opt.state[two]["exp_avg"] = torch.ones(2), torch.full((2,), 3.0)
    opt.state.update({one: opt.state[two], two: opt.state[one]})
    assert (opt.state[one]["exp_avg"].tolist(), opt.state[two]["exp_avg"].tolist()) == ([3.0] * 2, [1.0] * 2)
    entries = opt.state[one]
    entries["exp_avg_sq"].fill_(7.0)
    entries.update(exp_avg=entries["exp_avg_sq"], exp_avg_sq=entries["exp_avg"])
    assert (entries["exp_avg"].tolist(), entries["exp_avg_sq"].tolist()) == ([7.0] * 2, [3.0] * 2)
    opt.state[one]["exp_avg"] *= 2
    assert opt.optimizers[0].state["exp_avg"][:2].tolist() == [14.0] * 2


PARTIAL: dict[str, Callable[[Any, Any], Any]] = {
    "del": lambda opt, weight: opt.state.__delitem__(weight),
    "pop": lambda opt, weight: opt.state.pop(weight, None),
    "popitem": lambda opt, _: opt.state.popitem(),
    "empty": lambda opt, weight: opt.state.__setitem__(weight, {}),
    "clear": lambda opt, weight: opt.state[weight].clear(),
    "del entry": lambda opt, weight: opt.state[weight].__delitem__("exp_avg"),
    "pop entry": lambda opt, weight: opt.state[weight].pop("exp_avg"),
    "popitem entry": lambda opt, weight: opt.state[weight].popitem(),
    "some": lambda opt, weight: setattr(opt, "state", {weight: opt.state[weight]}),
    "lacking": lambda opt, weight: opt.state.__setitem__(weight, {"exp_avg": opt.state[weight]["exp_avg"]}),
    "others": lambda opt, weight: opt.state.__setitem__(of(3), {**opt.state[weight]}),
    "read others": lambda opt, _: opt.state[of(3)],
    "no dictionary": lambda opt, _: setattr(opt, "state", 3),
    "no entries": lambda opt, weight: opt.state.__setitem__(weight, 3),
    "name": lambda opt, weight: opt.state[weight].setdefault("velocity", torch.zeros(3)),
    "count": lambda opt, weight: opt.state[weight].update(step=torch.tensor(0.0)),
}


@pytest.mark.parametrize("way", PARTIAL)
def test_states_that_cannot_be_assigned(way: str) -> None:
    """Parts of what belongs together, and what would have no effect, are refused at once and change nothing."""
    weights = [of(3), of(3)]
    opt = FusedOptimizer(weights, lrcore.Adam)
    weights[0].grad = torch.ones(3)
    opt.step()
    before = copy.deepcopy(opt.state_dict())
    with pytest.raises((KeyError, TypeError, ValueError), match="state"):
        PARTIAL[way](opt, weights[0])
    after = opt.state_dict()
    assert own(after) == own(before)
    for i, entries in before["state"].items():
        assert all(torch.equal(entries[name], after["state"][i][name]) for name in entries)
    assert [*opt.state] == weights
    assert opt.state.pop(of(3), None) is None
    assert opt.state[weights[0]].pop("step", None) is None
    assert opt.state.setdefault(weights[1], {}) is opt.state[weights[1]]


def test_a_state_that_was_read_before_others_took_its_place() -> None:
    """It keeps its values and its count, and is a dictionary like any other."""
    weights = [of(3), of(3)]
    opt = FusedOptimizer(weights, lrcore.Adam)
    weights[0].grad = torch.ones(3)
    for _ in range(3):
        opt.step()
    former, expected = opt.state, copy.deepcopy(opt.state)
    assert type(copy.copy(former)) is type(expected) is defaultdict
    opt.state = {}
    assert opt.step_count == 0
    assert not opt.state[weights[0]]["exp_avg"].any()
    assert [entries["exp_avg"].tolist() for entries in former.values()] == [
        entries["exp_avg"].tolist() for entries in expected.values()
    ]
    opt.state = former
    assert opt.step_count == 3
    del former[weights[0]]["exp_avg"]
    former.clear()
    former[3]["more"] = 1
    assert opt.state[weights[0]]["exp_avg"].any()


def test_an_optimizer_without_states() -> None:
    """It has a count alone."""
    weight = of(3)
    opt = FusedOptimizer([weight], lrcore.SGD)
    opt.step()
    opt.state = dict(opt.state)
    assert opt.step_count == 1
    former, opt.state = opt.state, {}
    assert opt.step_count == 0
    opt.state = former
    assert opt.step_count == 1
    with pytest.raises(ValueError, match=r"^state\[params\[0\]\]: expected the entries \[\], got momentum"):
        opt.state[weight]["momentum_buffer"] = torch.zeros(3)


def test_states_whose_storage_was_replaced() -> None:
    ways: list[Callable[[Any, Any], None]] = [
        lambda opt, weight: setattr(opt.state[weight]["exp_avg"], "data", torch.zeros(3)),
        lambda opt, _: setattr(opt.optimizers[0].state["exp_avg_sq"], "data", torch.zeros(3)),
    ]
    for replace in ways:
        weight = of(3)
        opt = FusedOptimizer([weight], lrcore.Adam)
        replace(opt, weight)
        with pytest.raises(RuntimeError, match="exp_avg"):
            opt.step()
        assert (weight == 1).all()


# State dictionaries.


@pytest.mark.parametrize("lr", [0.01, lrcore.schedules.Cosine(0.01, steps=20).warmup(4)])
@each_optimizer
def test_resuming(name: str, lr: Any) -> None:
    """Through a file that PyTorch loads without running anything in it: bits of the uninterrupted run."""
    for k in (0, 1, 5):
        model = network()
        opt = build(name, model, lr=lr)
        train(model, opt, range(k))
        file = io.BytesIO()
        torch.save((model.state_dict(), opt.state_dict()), file)
        train(model, opt, range(k, 8))

        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        resumed = network(seed=1)
        resumed.load_state_dict(weights)
        other = build(name, resumed, lr=0.5, weight_decay=0.125)
        train(resumed, other, range(3))  # it is somewhere else
        resumed.load_state_dict(weights)
        other.load_state_dict(state)
        assert other.step_count == k
        train(resumed, other, range(k, 8))
        assert_equal(resumed, parameters(model))
        assert other.lr == opt.lr == other.param_groups[0]["lr"]


def test_the_dictionary_is_a_copy() -> None:
    model = network()
    opt = build("Adam", model)
    train(model, opt, range(2))
    saved = opt.state_dict()
    kept = copy.deepcopy(saved)
    train(model, opt, range(2, 4))
    for i, each in saved["state"].items():
        assert all((each[name] == kept["state"][i][name]).all() for name in each)
    assert own(saved)["step_count"] == 2


@pytest.mark.parametrize("name", IN_TORCH)
def test_from_and_for_torchs_optimizer(name: str) -> None:
    """PyTorch's optimizer goes on from our dictionary, and ours from PyTorch's: within what float32 rounds.

    See `test_losses_of_torchs_optimizer` for the tolerance.
    """
    arguments = ARGUMENTS.get(name, {})
    counted = {"step_count": 3} if name == "SGD" else {}
    for k in (0, 3):
        model, twin = network(), network()
        opt = build(name, model)
        theirs = getattr(torch.optim, name)(twin.parameters(), **arguments)
        train(model, opt, range(k))
        train(twin, theirs, range(k))
        from_ours, from_theirs = copy.deepcopy(model), copy.deepcopy(twin)
        from_ours_opt = getattr(torch.optim, name)(from_ours.parameters(), lr=7.0)
        from_ours_opt.load_state_dict(opt.state_dict())
        from_theirs_opt = build(name, from_theirs, lr=lrcore.schedules.Constant(7.0))
        from_theirs_opt.load_state_dict(theirs.state_dict(), **counted if k else dict.fromkeys(counted, 0))
        assert from_theirs_opt.step_count == k
        expected = train(twin, theirs, range(k, 20))
        for other, its in ((from_ours, from_ours_opt), (from_theirs, from_theirs_opt)):
            np.testing.assert_allclose(train(other, its, range(k, 20)), expected, rtol=0, atol=1e-3)


def test_there_and_back() -> None:
    """What PyTorch has loaded from ours comes back as it was, with the options that it does not know."""
    model = network()
    opt = build("Adam", model, eps_placement="hat")
    train(model, opt, range(2))
    theirs = torch.optim.Adam(network().parameters())
    theirs.load_state_dict(opt.state_dict())
    expected = opt.state_dict()
    opt.load_state_dict(theirs.state_dict())
    found = opt.state_dict()
    assert own(found) == own(expected)
    assert found["param_groups"] == expected["param_groups"]
    for i, each in expected["state"].items():
        assert all((each[name] == found["state"][i][name]).all() for name in each)
    other = build("Adam", network())
    with pytest.raises(ValueError, match="^rule: expected adam, got adam_hat"):
        other.load_state_dict(theirs.state_dict())


def test_a_number_in_the_dictionary_is_obeyed() -> None:
    opt = build("AdamW", network(), lr=0.01)
    saved = opt.state_dict()
    saved["param_groups"][0] |= {"lr": 0.5, "weight_decay": 0.25, "initial_lr": 3.0}
    opt.load_state_dict(saved)
    assert (opt.lr, opt.optimizers[0].hyper["weight_decay"]) == (0.5, 0.25)
    assert opt.param_groups[0]["initial_lr"] == 3.0


def break_rule(saved: Any) -> None:
    set_own(saved, rule="sgd")


def break_count(saved: Any) -> None:
    set_own(saved, step_count=3)


def break_sign(saved: Any) -> None:
    set_own(saved, step_count=-1)


def break_text(saved: Any) -> None:
    saved["param_groups"][0]["lrcore"] += "}"


def break_entries(saved: Any) -> None:
    set_own(saved, more=1)


def break_group(saved: Any) -> None:
    saved["param_groups"].append(saved["param_groups"][0])


def break_parameters(saved: Any) -> None:
    saved["param_groups"][0]["params"].pop()


def break_shape(saved: Any) -> None:
    saved["state"][0]["exp_avg"] = torch.zeros(2, 2)


def break_dtype(saved: Any) -> None:
    saved["state"][0]["exp_avg"] = saved["state"][0]["exp_avg"].double()


def break_state(saved: Any) -> None:
    del saved["state"][1]["exp_avg_sq"]


def break_hyper(saved: Any) -> None:
    saved["param_groups"][0]["eps"] = float("nan")


def break_step(saved: Any) -> None:
    saved["state"][2]["step"] += 1


def break_name(saved: Any) -> None:
    saved["state"][2]["more"] = saved["state"][2]["exp_avg"]


def break_option(saved: Any) -> None:
    saved["param_groups"][0]["maximize"] = True


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (break_rule, "rule: expected adam, got sgd"),
        (break_count, r"state\[0\]: step: expected 3, got 2"),
        (break_sign, "step_count: expected an integer >= 0, got -1"),
        (break_text, "param_groups: lrcore: Extra data"),
        (break_entries, "lrcore: expected the entries"),
        (break_group, "param_groups: expected one group, got 2"),
        (break_parameters, "param_groups: expected 7 parameters, got 6"),
        (break_shape, r"state\[0\]: exp_avg: expected shape \(5, 3, 3, 3\), got \(2, 2\)"),
        (break_dtype, "exp_avg: expected a tensor of float32, got float64"),
        (break_state, r"state\[1\]: expected the entries"),
        (break_hyper, "eps: expected a finite number"),
        (break_option, "options: expected"),
        (break_step, r"state\[2\]: step: expected 2, got 3"),
        (break_name, r"state\[2\]: expected the entries"),
    ],
)
def test_wrong_dictionaries_change_nothing(broken: Callable[[Any], None], message: str) -> None:
    model = network()
    opt = build("Adam", model, lr=0.01)
    train(model, opt, range(2))
    saved = opt.state_dict()
    train(model, opt, range(2, 3))
    before = opt.state_dict()
    broken(saved)
    with pytest.raises((TypeError, ValueError), match=message):
        opt.load_state_dict(saved)
    with pytest.raises(ValueError, match="^step_count: .*leave it out"):
        opt.load_state_dict(before, step_count=3)
    after = opt.state_dict()
    assert own(after) == own(before)
    assert after["param_groups"] == before["param_groups"]
    for i, each in before["state"].items():
        assert all((each[name] == after["state"][i][name]).all() for name in each)


def test_hooks_of_state_dictionaries_and_steps() -> None:
    model = network()
    opt = build("Adam", model)
    seen: list[str] = []
    opt.register_step_pre_hook(lambda *_: seen.append("before the step"))
    opt.register_step_post_hook(lambda *_: seen.append("after the step"))
    opt.register_state_dict_pre_hook(lambda _: seen.append("before state_dict"))
    opt.register_state_dict_post_hook(lambda _, saved: saved | {"more": len(saved["state"])})
    opt.register_load_state_dict_pre_hook(
        lambda _, saved: {key: saved[key] for key in saved if key != "more"}
    )
    opt.register_load_state_dict_pre_hook(lambda *_: seen.append("before load_state_dict"))
    opt.register_load_state_dict_post_hook(lambda _: seen.append("after load_state_dict"))
    opt.step()
    saved = opt.state_dict()
    assert saved["more"] == 7
    opt.load_state_dict(saved)
    steps = ["before the step", "after the step"]
    assert seen == [*steps, "before state_dict", "before load_state_dict", "after load_state_dict"]


# Several devices: parameters that are said to be apart.


def test_a_buffer_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """One optimizer for each; steps, states and dictionaries are those of one for all."""
    model, twin = network(), network()
    together = build("NAdam", twin, lr=lrcore.schedules.Cosine(0.01, steps=20))
    monkeypatch.setattr(lrcore.torch._fused, "place_of", lambda tensor: tensor.ndim)
    apart = build("NAdam", model, lr=lrcore.schedules.Cosine(0.01, steps=20))
    assert [each.size for each in apart.optimizers] == [
        135,
        51,
        341,
    ]  # padded to 16 elements, but for the last of each
    for each, opt in ((model, apart), (twin, together)):
        train(each, opt, range(3))
    assert_equal(model, parameters(twin))
    saved, other = apart.state_dict(), together.state_dict()
    assert own(saved) == own(other)
    assert [*saved["state"]] == [*other["state"]] == [*range(7)]
    apart.load_state_dict(other)
    together.load_state_dict(saved)
    for each, opt in ((model, apart), (twin, together)):
        train(each, opt, range(3, 6))
    assert_equal(model, parameters(twin))


def test_what_is_set_is_set_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates and hyperparameters, in the group or by `lr`; and one Plateau steers all."""
    model = network()
    monkeypatch.setattr(lrcore.torch._fused, "place_of", lambda tensor: tensor.ndim)
    opt = build("Adam", model, lr=lrcore.schedules.Plateau(0.5, patience=0))
    saved = opt.state_dict()
    other = build("Adam", network(), lr=0.1)
    other.load_state_dict(saved)
    for each in (opt, other):
        (plateau,) = lrcore.schedules.plateaus(each.schedule)
        for metric in (1.0, 2.0):
            plateau.observe(metric)
        assert {inner.lr for inner in each.optimizers} == {0.05}
    opt.lr = 0.25
    opt.param_groups[0]["eps"] = 0.5
    opt.step()
    assert {(inner.lr, inner.hyper["eps"]) for inner in opt.optimizers} == {(0.25, 0.5)}
    opt.param_groups[0]["lr"] = 0.125
    opt.step()
    assert {inner.lr for inner in opt.optimizers} == {0.125}


def test_an_interrupt_leaves_devices_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the rate raises, every device has taken as many steps as every other."""
    monkeypatch.setattr(lrcore.torch._fused, "place_of", lambda tensor: tensor.ndim)
    weights = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(1, 1))]
    raised: list[type[BaseException]] = []

    def rate(_: int) -> float:
        if raised:
            raise raised.pop()
        return 1.0

    opt = FusedOptimizer(weights, lrcore.SGD, lr=rate)
    for each in weights:
        each.grad = torch.ones_like(each)
    for i, error in enumerate((KeyboardInterrupt, SystemExit, OverflowError), 1):
        raised.append(error)
        with pytest.raises(error):
            opt.step()
        opt.step()
        assert [each.step_count for each in opt.optimizers] == [i, i]
        assert all((each == -i).all() for each in weights)


def test_devices_that_are_changed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lrcore.torch._fused, "place_of", lambda tensor: tensor.ndim)
    ways: list[Callable[[Any], Any]] = [
        lambda inner: setattr(inner, "lr", 0.5),
        lambda inner: inner.hyper.update(eps=0.5),
        lambda inner: setattr(inner, "step_count", 3),
        lambda inner: inner.step(),
    ]
    for change in ways:
        for i in range(2):
            opt = FusedOptimizer([of(3), of(1, 1)], lrcore.Adam, lr=0.25)
            change(opt.optimizers[i])
            before = [each.params.clone() for each in opt.optimizers]
            for attempt in (opt.step, opt.state_dict):
                with pytest.raises(ValueError, match=r"^optimizers\[1\]: expected rate, hyperparameters and"):
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


def test_states_of_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lrcore.torch._fused, "place_of", lambda tensor: tensor.ndim)
    weights = [of(1, 1), of(3), of(2, 2)]
    opt = FusedOptimizer(weights, lrcore.Adam)
    opt.step()
    former = opt.state
    opt.state = {
        each: {"exp_avg": each.detach() * i, "exp_avg_sq": each.detach()} for i, each in enumerate(weights)
    }
    assert [opt.state[each]["exp_avg"].max().item() for each in weights] == [0, 1, 2]
    assert opt.step_count == 1
    with pytest.raises(ValueError, match="cannot be removed alone"):
        opt.state.pop(weights[1])
    opt.state.clear()
    assert [each.step_count for each in opt.optimizers] == [0, 0]
    opt.state = former
    assert [each.step_count for each in opt.optimizers] == [1, 1]


def test_a_schedule_stays_where_pytorchs_dictionary_has_none() -> None:
    model, twin = network(), network()
    theirs = torch.optim.Adam(twin.parameters(), lr=0.5)
    train(twin, theirs, range(3))
    schedule = lrcore.schedules.Cosine(0.1, steps=10)
    opt = build("Adam", model, lr=schedule)
    opt.load_state_dict(theirs.state_dict())
    assert (opt.schedule, opt.step_count, opt.lr) == (schedule, 3, schedule(3))


# What is refused.


def test_storage_that_has_moved() -> None:
    for move in (
        lambda model: model.to(torch.float64).to(torch.float32),
        lambda model: setattr(model[0].weight, "data", model[0].weight.data.clone()),
        lambda model: FusedOptimizer(model.parameters(), lrcore.SGD),
        lambda model: setattr(model[0].weight, "data", model[0].weight.data.transpose(2, 3)),
    ):
        model = network()
        opt = FusedOptimizer(model.named_parameters(), lrcore.SGD)
        loss_of(model, 0).backward()
        kept = move(model)
        before = parameters(model)
        with pytest.raises(
            RuntimeError, match=r"^0\.weight: its storage has moved.*make a new FusedOptimizer"
        ):
            opt.step()
        assert_equal(model, before)
        assert opt.step_count == 0
        del kept


def test_gradients_whose_storage_has_moved() -> None:
    """They are read where they lie, as those that are assigned."""
    weight = torch.nn.Parameter(torch.zeros(5))
    opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0)
    weight.sum().backward()
    weight.grad.share_memory_()
    opt.step()
    weight.grad[0] = 3
    opt.step()
    assert weight.tolist() == [-4, -2, -2, -2, -2]
    opt.zero_grad(set_to_none=False)
    (2 * weight.sum()).backward()
    opt.step()
    assert weight.tolist() == [-6, -4, -4, -4, -4]
    opt.zero_grad()
    weight.sum().backward()
    opt.step()
    assert weight.tolist() == [-7, -5, -5, -5, -5]


def test_a_parameter_that_is_frozen_later() -> None:
    model = network()
    opt = FusedOptimizer(model.named_parameters(), lrcore.AdamW)
    model[3].bias.requires_grad_(False)
    before = parameters(model)
    with pytest.raises(ValueError, match=r"^3\.bias: does not require its gradient any more"):
        opt.step()
    assert_equal(model, before)


def test_other_default_dtypes_and_inference_mode() -> None:
    model = network()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode():
            opt = build("Adam", model)
    finally:
        torch.set_default_dtype(torch.float32)
    train(model, opt, range(2))
    with torch.inference_mode():
        inner = torch.ones(3, requires_grad=True)
    with pytest.raises(ValueError, match=r"^params\[0\]: .*inference_mode"):
        FusedOptimizer([inner], lrcore.SGD)
    shared = of(3)
    shared.share_memory_()
    with pytest.raises(ValueError, match=r"^params\[0\]: lies in shared memory"):
        FusedOptimizer([shared], lrcore.SGD)


@pytest.mark.parametrize("device", [None, "meta"])
def test_other_defaults(device: Any) -> None:
    """State dictionaries, from and for PyTorch's and ours, under other default dtypes and devices."""
    model = network()
    opt = build("NAdam", model)
    train(model, opt, range(2))
    opt.optimizers[0].step_count = 70_001
    expected = opt.state_dict()
    torch.set_default_dtype(torch.float16)
    torch.set_default_device(device)
    try:
        saved = opt.state_dict()
        other = build("NAdam", network_on_cpu())
        for each in (opt, other):
            each.load_state_dict(saved)
            each.step()
        opt.state.clear()
        opt.state = {each: dict(entries) for each, entries in opt.state.items()}
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)
    for i, entries in expected["state"].items():
        for name, values in entries.items():
            assert torch.equal(saved["state"][i][name], values)
            assert saved["state"][i][name].dtype == torch.float32
    assert other.step_count == 70_002


def network_on_cpu() -> Any:
    """Return the network in float32 on the CPU, whatever the defaults are."""
    with torch.device("cpu"):
        return network().float()


def test_counts_that_float32_has_not() -> None:
    """The dictionary has the exact one beside PyTorch's."""
    opt = FusedOptimizer([of(3)], lrcore.Adam)
    opt.optimizers[0].step_count = 2**24 + 1
    saved = opt.state_dict()
    opt.state.clear()
    opt.load_state_dict(saved)
    assert opt.step_count == 2**24 + 1


def test_a_tensor_that_was_sent_to_another_process() -> None:
    """The message says how to send it."""
    model = network()
    opt = build("SGD", model)
    queue = torch.multiprocessing.SimpleQueue()
    queue.put({name: values.clone() for name, values in model.state_dict().items()})
    queue.get()
    opt.step()
    queue.put({"weight": model[0].weight})
    queue.get()
    with pytest.raises(
        RuntimeError, match=r"its storage has moved .*another process.*send clones: .*v\.clone\(\)"
    ):
        opt.step()


def test_sparse_gradients() -> None:
    layer = torch.nn.Embedding(5, 3, sparse=True)
    opt = FusedOptimizer(layer.named_parameters(), lrcore.SGD)
    opt.zero_grad()
    with pytest.raises(
        TypeError, match="^weight: expected a dense gradient, got a sparse one; pass sparse=False"
    ):
        layer(torch.tensor([1, 2])).sum().backward()
    layer = torch.nn.Embedding(5, 3, sparse=True)
    layer(torch.tensor([1, 2])).sum().backward()
    other = of(3)
    addresses = layer.weight.data_ptr(), other.data_ptr()
    with pytest.raises(TypeError, match=r"^params\[1\]: expected a dense gradient"):
        FusedOptimizer([other, layer.weight], lrcore.SGD)
    assert (layer.weight.data_ptr(), other.data_ptr()) == addresses
    assert layer.weight.grad.is_sparse


def fake() -> Any:
    """Return a tensor without memory."""
    with FakeTensorMode():
        return torch.ones(3)


def freed() -> Any:
    """Return a tensor whose memory was freed."""
    values = torch.ones(3)
    values.untyped_storage().resize_(0)
    return values


def test_tensors_without_memory() -> None:
    """As parameters, gradients and states, assigned or loaded."""
    for make_one, error in ((fake, TypeError), (freed, ValueError)):
        with pytest.raises(error, match=r"^params\[0\]: expected"):
            FusedOptimizer([torch.nn.Parameter(make_one())], lrcore.SGD)
        weight = of(3)
        opt = FusedOptimizer([weight], lrcore.Adam)
        weight.grad = make_one()
        with pytest.raises(error, match=r"^params\[0\]: expected"):
            opt.step()
        weight.grad = torch.ones(3)
        opt.step()
        before, saved = weight.detach().clone(), opt.state_dict()
        saved["state"][0]["exp_avg"] = make_one()
        with pytest.raises(error, match=r"^state\[0\]: exp_avg: expected"):
            opt.load_state_dict(saved)
        with pytest.raises(error, match=r"^state\[params\[0\]\]: exp_avg: expected"):
            opt.state[weight]["exp_avg"] = make_one()
        with pytest.raises(error, match=r"^params\[0\]: expected"):
            FusedOptimizer([with_gradient(make_one())], lrcore.SGD)
        assert torch.equal(weight, before)
        assert opt.state[weight]["exp_avg"].any()
        assert opt.step_count == 1


def with_gradient(gradient: Any) -> Any:
    """Return a parameter that has a gradient."""
    weight = of(3)
    weight.grad = gradient
    return weight


def of(*arguments: Any, **keywords: Any) -> Any:
    return torch.nn.Parameter(torch.ones(*arguments, **keywords))


SHARED = torch.ones(6)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (
            [of(3, dtype=torch.bfloat16)],
            TypeError,
            r"^params\[0\]: expected dtype float32, got .*bfloat16; .*autocast",
        ),
        (
            [("w", of(3)), ("v", of(3, dtype=torch.float64))],
            TypeError,
            "^v: expected dtype float32, got .*float64",
        ),
        ([{"params": [of(3)]}, {"params": [of(2)]}], TypeError, "^params: expected parameters, got a group"),
        ([torch.ones(3)], ValueError, r"^params\[0\]: does not require its gradient; pass"),
        ([of(3) * 2], ValueError, r"^params\[0\]: expected a leaf"),
        ([np.ones(3)], TypeError, r"^params\[0\]: expected a tensor, got ndarray"),
        ([of(3).detach().to_sparse().requires_grad_()], TypeError, r"^params\[0\]: expected a dense tensor"),
        (
            [of(3, device="meta")],
            ValueError,
            r"^params\[0\]: expected a tensor on a CPU or CUDA device, got meta",
        ),
        (of(3), TypeError, "^params: expected an iterable of parameters, got a tensor"),
        ([], ValueError, "^params: expected at least one parameter, got none"),
        (
            [torch.nn.Parameter(SHARED[:4]), torch.nn.Parameter(SHARED[3:])],
            ValueError,
            r"^params\[1\]: shares memory with params\[0\]",
        ),
        ([SHARED.clone().requires_grad_()] * 2, ValueError, r"^params\[1\]: shares memory with params\[0\]"),
    ],
)
def test_wrong_parameters(params: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FusedOptimizer(params, lrcore.SGD)


W = torch.arange(24.0).view(4, 6)


@pytest.mark.parametrize(
    "views",
    [(W[:, ::2], W[:, 1::2]), (W[:, :2], W[:, 2:]), (W[::2], W[1::2, ::3], W[1::2, 1::3], W[1::2, 2::3])],
)
def test_parameters_that_lie_between_one_another(views: tuple[Any, ...]) -> None:
    """Views of one tensor without a common element are as any others."""
    memory = W.clone()
    ours, theirs = (
        [torch.nn.Parameter(memory.as_strided(v.shape, v.stride(), v.storage_offset())) for v in views]
        for memory in (memory, memory.clone())
    )
    optimizers = FusedOptimizer(ours, lrcore.SGD, lr=0.5), torch.optim.SGD(theirs, lr=0.5)
    for parameters, opt in zip((ours, theirs), optimizers, strict=True):
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view.clone()
        opt.step()
    assert all(torch.equal(*pair) for pair in zip(ours, theirs, strict=True))
    assert torch.equal(memory, W)


@pytest.mark.parametrize("views", [(W[:, ::2], W[:, ::3]), (W, W[1:3, 2:4]), (W[:, :4], W[:, :4].T)])
def test_parameters_that_share_an_element(views: tuple[Any, ...]) -> None:
    for first, second in (views, views[::-1]):
        parameters = [torch.nn.Parameter(each) for each in (first, torch.ones(3), second)]
        addresses = [each.data_ptr() for each in parameters]
        with pytest.raises(ValueError, match=r"^params\[2\]: shares memory with params\[0\]; pass one"):
            FusedOptimizer(parameters, lrcore.SGD)
        assert [each.data_ptr() for each in parameters] == addresses


def test_a_refused_argument_leaves_the_module() -> None:
    model = network()
    addresses = [each.data_ptr() for each in model.parameters()]
    for wrong in ({"eps": -1}, {"grads": torch.ones(3)}, {"fused": True}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            FusedOptimizer(model.parameters(), lrcore.Adam, **wrong)
    for cls in (torch.optim.Adam, lrcore.Adam(np.ones(3, np.float32)), "Adam", lrcore.optimizers.Optimizer):
        with pytest.raises(TypeError, match="^(optimizer|Optimizer)"):
            FusedOptimizer(model.parameters(), cls)  # type: ignore[arg-type]
    assert [each.data_ptr() for each in model.parameters()] == addresses
    assert all(each.grad is None for each in model.parameters())
    opt = build("Adam", model)
    with pytest.raises(ValueError, match="^param_group: a FusedOptimizer has one group"):
        opt.add_param_group({"params": [of(3)]})


def test_no_copies() -> None:
    opt = build("Adam", network())
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"cannot be copied or pickled.*state_dict\(\)"):
            take(opt)
    assert repr(opt) == "FusedOptimizer(Adam(size=547, device=cpu, lr=0.001, step_count=0))"


def test_an_optimizer_that_is_gone_leaves_nothing() -> None:
    """Its hooks go with it; parameters and their last gradients stay."""
    model, twin = network(), network()
    opt = build("Adam", model)
    train(model, opt, range(1))
    train(twin, build("Adam", twin), range(1))
    before = [each.grad for each in model.parameters()]
    del opt
    gc.collect()
    model.zero_grad()
    loss_of(model, 1).backward()
    assert not {id(each.grad) for each in model.parameters()} & {id(each) for each in before}
    model.zero_grad()
    for each in (model, twin):
        train(each, build("SGD", each), range(1, 4))
    assert_equal(model, parameters(twin))


# ---- what others keep, and interrupts


def test_gradients_in_a_buffer_of_the_callers() -> None:
    """They stay there, through backward passes, zeroing and scaling, as with PyTorch."""
    results = []
    for ours in (True, False):
        parameters = [torch.nn.Parameter(torch.zeros(n)) for n in (3, 1, 4)]
        opt: Any = (
            FusedOptimizer(parameters, lrcore.SGD, lr=1.0) if ours else torch.optim.SGD(parameters, lr=1.0)
        )
        bucket = torch.zeros(8)
        places = list(bucket.split([3, 1, 4]))
        for parameter, place in zip(parameters, places, strict=True):
            parameter.grad = place
        for turn in range(4):
            opt.zero_grad(set_to_none=False) if turn % 2 else bucket.zero_()
            sum((each * (i + 1)).sum() for i, each in enumerate(parameters)).backward()
            bucket.div_(2)
            opt.step()
            assert all(each.grad is place for each, place in zip(parameters, places, strict=True))
        results.append([each.tolist() for each in parameters])
    assert results[0] == results[1]


def test_gradients_are_absent_until_there_are_some() -> None:
    """As with PyTorch: nobody takes the zeros of the beginning for gradients."""
    first, second = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    opt = FusedOptimizer([first, second], lrcore.SGD, lr=1.0, momentum=0.5)
    assert first.grad is None
    first.sum().backward()
    opt.step()
    assert second.grad is None
    assert (first == -1).all()
    assert not second.any()


def test_states_that_are_exchanged_are_refused() -> None:
    first, second = (torch.nn.Parameter(torch.zeros(3)) for _ in range(2))
    opt = FusedOptimizer([first, second], lrcore.SGD, lr=1.0, momentum=0.5)
    (first + 2 * second).sum().backward()
    opt.step()
    with pytest.raises(ValueError, match="got the state of another parameter itself.*assign clones"):
        opt.state[first], opt.state[second] = opt.state[second], opt.state[first]
    assert [opt.state[each]["momentum_buffer"][0] for each in (first, second)] == [1, 2]
    copies = [{name: value.clone() for name, value in opt.state[each].items()} for each in (second, first)]
    opt.state[first], opt.state[second] = copies
    assert [opt.state[each]["momentum_buffer"][0] for each in (first, second)] == [2, 1]


def test_numbers_that_are_assigned_twice_in_two_places_are_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    opt = FusedOptimizer([weight], lrcore.SGD, lr=1.0)
    (flat,) = opt.optimizers
    group = opt.param_groups[0]
    weight.grad = torch.ones(1)
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


def test_the_momentum_of_nadam_does_not_move() -> None:
    """PyTorch multiplies the momenta of all steps; here the product follows from the momentum of now."""
    weight = torch.nn.Parameter(torch.ones(3))
    opt = FusedOptimizer([weight], lrcore.NAdam, lr=0.1)
    group = opt.param_groups[0]
    group["betas"] = (0.8, 0.99)  # before the first step
    (weight**2).sum().backward()
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


def test_a_parameter_that_holds_its_optimizer_is_collected() -> None:
    alive = []
    for stepped in (False, True):
        weight = torch.nn.Parameter(torch.zeros(9))
        weight.opt = FusedOptimizer([weight], lrcore.Adam)
        if stepped:
            weight.sum().backward()
            weight.opt.step()
        alive.append(weakref.ref(weight.opt))
        del weight
    gc.collect()
    assert [each() for each in alive] == [None, None]


INTERRUPTED: dict[str, Callable[[Any, Any], object]] = {
    "step": lambda opt, _: opt.step(),
    "load": lambda opt, saved: opt.load_state_dict(saved),
    "clear": lambda opt, _: opt.state.clear(),
    "state": lambda opt, saved: setattr(opt, "state", saved["mapping"]),
    "lr": lambda opt, _: setattr(opt, "lr", 0.125),
}


@pytest.mark.parametrize(
    ("rate", "devices"),
    slow_but_first([("number", 1), ("number", 2), ("schedule", 1), ("callable", 1)]),
)
@pytest.mark.parametrize("call", ["step", "load", "clear", "state", "lr"])
def test_an_interrupt_at_any_moment_leaves_all_or_nothing(
    call: str, rate: str, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On all devices, which are imitated here, and in the group; the next step is taken."""
    if devices == 2:
        monkeypatch.setattr("lrcore.torch._fused.place_of", lambda tensor: tensor.ndim)
    rates: dict[str, Any] = {
        "number": 0.5,
        "schedule": lrcore.schedules.Rex(0.5, 100),
        "callable": lambda t: 0.5 / (1 + t),
    }
    first, second = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(1, 2))
    opt = FusedOptimizer([first, second], lrcore.SGD, lr=rates[rate], momentum=0.5)
    first.grad, second.grad = torch.ones(3), torch.ones(1, 2)
    opt.step()
    later = FusedOptimizer(
        [torch.nn.Parameter(each.detach().clone()) for each in (first, second)],
        lrcore.SGD,
        lr=0.25,
        momentum=0.5,
    )
    later.load_state_dict(opt.state_dict())
    if rate == "number":
        later.lr = 0.25
    for _ in range(2):
        later.step()
    saved = later.state_dict()
    saved["mapping"] = {
        first: {"momentum_buffer": torch.full((3,), 7.0)},
        second: {"momentum_buffer": torch.full((1, 2), 7.0)},
    }
    begun = opt.state_dict(), [each.detach().clone() for each in (first, second)]

    def back() -> None:
        opt.lr = rates[rate]
        opt.load_state_dict({name: begun[0][name] for name in begun[0]})
        with torch.no_grad():
            first.copy_(begun[1][0])
            second.copy_(begun[1][1])
        if rate == "number" and call == "step":
            opt.param_groups[0]["lr"] = 0.125  # which the step obeys

    def seen() -> Any:
        optimizers = opt.optimizers
        shown = opt.param_groups[0]["lr"]
        assert len({each.step_count for each in optimizers}) == len({each.lr for each in optimizers}) == 1
        if rate == "number":
            assert shown == optimizers[0].lr
        buffers = [opt.state[each]["momentum_buffer"].flatten().tolist() for each in (first, second)]
        values = [each.flatten().tolist() for each in (first, second)]
        return repr((optimizers[0].step_count, buffers, values, optimizers[0].lr))

    back()
    before = seen()
    back()
    INTERRUPTED[call](opt, saved)
    after = seen()
    moments = 0
    back()
    for _ in at_each_opcode(lambda: INTERRUPTED[call](opt, saved), interrupt):
        assert seen() in (before, after)
        count = opt.step_count
        opt.step()
        assert opt.step_count == count + 1
        back()
        moments += 1
    assert moments > 10


@pytest.mark.parametrize("rate", ["number", "schedule"])
def test_a_handler_that_looks_and_steps_at_any_moment(rate: str) -> None:
    """What it shows, of another step, is not taken for an assignment by the call that it came into."""
    weight = torch.nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    lr: Any = 0.5 if rate == "number" else lrcore.schedules.Rex(0.5, 100_000)
    opt = FusedOptimizer([weight], lrcore.SGD, lr=lr, momentum=0.5)
    stepped = 0

    def handle() -> None:
        nonlocal stepped
        try:
            opt.step()
        except RuntimeError as error:  # it came while the rate was asked
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
