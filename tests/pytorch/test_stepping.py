"""`lrcore.torch.FusedOptimizer` steps a module: its bits, its buffers, closures, autograd, GradScaler.

Bits are compared with the same optimizer of lrcore on the parameters one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from pytorch.modules import (
    ARGUMENTS,
    FusedOptimizer,
    assert_equal,
    build,
    built,
    each_of_torch,
    each_optimizer,
    loss_of,
    network,
    ones,
    parameters,
    sgd,
    torch,
    train,
    zeros,
)


@pytest.mark.parametrize(("set_to_none", "channels_last"), [(True, False), (False, True)])
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


@each_of_torch
def test_losses_of_torchs_optimizer(name: str) -> None:
    """The same network learns alike under PyTorch's optimizer of the same arguments.

    Both round every step in float32 by 2^-24 of p, and differently; over 60 steps of a loss that both follow downhill that
    stays far below 1e-3 of a loss of about 1.
    """
    model, twin = network(), network()
    theirs = getattr(torch.optim, name)(twin.parameters(), **ARGUMENTS.get(name, {}))
    losses = train(model, build(name, model), range(60))
    np.testing.assert_allclose(losses, train(twin, theirs, range(60)), rtol=0, atol=1e-3)
    assert losses[-1] < losses[0]


def test_one_buffer() -> None:
    """Parameters, gradients and states are views of flat buffers, each at a multiple of 64 bytes, in its memory format."""
    model = network(channels_last=True)
    before = parameters(model)
    opt = build("Adam", model)
    assert_equal(model, before)
    (flat,) = opt.optimizers
    start, grads, state = (each.data_ptr() for each in (flat.params, flat.grads, flat.state["exp_avg"]))
    train(model, opt, range(2))
    for each in model.parameters():
        moment = opt.state[each]["exp_avg"]
        offset = each.data_ptr() - start
        assert offset % 64 == 0
        assert 0 <= offset < 4 * flat.size
        assert (each.grad.data_ptr() - grads, moment.data_ptr() - state) == (offset, offset)
        assert each.shape == moment.shape
        assert each.stride() == each.grad.stride() == moment.stride()
        assert moment.abs().max() > 0
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[0].weight.is_contiguous()


@pytest.mark.parametrize(
    "views",
    [
        lambda w: (w[:, ::2], w[:, 1::2]),
        lambda w: (w[:, :2], w[:, 2:]),
        lambda w: (w[::2], w[1::2, ::3], w[1::2, 1::3], w[1::2, 2::3]),
    ],
)
def test_parameters_that_lie_between_one_another(views: Callable[[Any], Any]) -> None:
    """Views of one tensor without a common element are as any others."""
    memory = torch.arange(24.0).view(4, 6)
    parts = [torch.nn.Parameter(each) for each in views(memory.clone())]
    opt = sgd(*parts, lr=0.5)
    for part, gradient in zip(parts, views(memory), strict=True):
        part.grad = gradient.clone()
    opt.step()
    for part, begun in zip(parts, views(memory), strict=True):
        assert torch.equal(part, begun / 2)


def test_a_closure() -> None:
    (model, opt), (twin, other) = built("Adam"), built("Adam")

    def closure() -> Any:
        opt.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    assert opt.step(closure).item() == train(twin, other, range(1))[0]
    assert_equal(model, parameters(twin))


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_changed_parameter_is_noticed_by_autograd(interrupted: bool) -> None:
    """What was stepped counts as changed, whatever is raised before the method returns."""

    class Interrupted(lrcore.SGD):
        def step(self, *args: Any, **kwargs: Any) -> None:
            super().step(*args, **kwargs)
            raise KeyboardInterrupt

    weights = ones(3)
    opt = FusedOptimizer([weights], Interrupted if interrupted else lrcore.SGD, lr=lambda _: 0.5)
    loss = (weights * weights).sum()
    if interrupted:
        with pytest.raises(KeyboardInterrupt):
            opt.step()
    else:
        opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert opt.param_groups[0]["lr"] == 0.5


def scaled(loss: Any, init_scale: float = 2.0**10) -> Any:
    """Return a scaler after a backward pass of the loss that it scaled."""
    scaler = torch.amp.GradScaler("cpu", init_scale=init_scale)
    scaler.scale(loss).backward()
    return scaler


def test_the_scale_of_a_grad_scaler() -> None:
    """The bits of the steps without it: its scales are powers of two. `grad_scale` acts too."""
    (model, opt), (twin, other) = built("Adam"), built("Adam")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step, options in enumerate([{}, {}, {}, {"grad_scale": 0.25}]):
        opt.zero_grad()
        scaler.scale(loss_of(model, step) / options.get("grad_scale", 1)).backward()
        scaler.step(opt, **options)
        scaler.update()
    train(twin, other, range(4))
    assert_equal(model, parameters(twin))


def fail(*_: Any) -> None:
    raise ValueError("a hook")


def without(opt: Any, weight: Any) -> None:
    """Take away whatever was wrong."""
    opt.lr = 1.0
    opt.param_groups[0]["weight_decay"] = 0.0
    opt._optimizer_step_pre_hooks.clear()
    weight.grad = torch.full((3,), 4.0)


WRONG: dict[str, Callable[[Any, Any], object]] = {
    "a number": lambda opt, _: opt.param_groups[0].update(weight_decay=-1),
    "a rate that fails": lambda opt, _: setattr(opt, "lr", fail),
    "a rate below 0": lambda opt, _: setattr(opt, "lr", lambda _: -1.0),
    "a hook": lambda opt, _: opt.register_step_pre_hook(fail),
    "a gradient": lambda _, weight: setattr(weight, "grad", torch.ones(3).to_sparse()),
}


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_refused_step_leaves_no_scale(wrong: str, again: bool) -> None:
    """The next one, of the scaler or without it, is by the rate."""
    weight = ones(3)
    opt = sgd(weight)
    scaler = scaled(weight.sum(), 4.0)
    WRONG[wrong](opt, weight)
    with pytest.raises((ValueError, TypeError, NotImplementedError)):
        scaler.step(opt)
    assert not {"grad_scale", "found_inf"} & {*vars(opt)}
    without(opt, weight)
    if again:
        scaler.step(opt)
    else:
        weight.grad.fill_(1.0)
        opt.step()
    assert not weight.any()


def test_a_hook_that_raises_after_the_step_leaves_no_scale() -> None:
    weight = ones(3)
    opt = sgd(weight)
    scaler = scaled(weight.sum(), 4.0)
    opt.register_step_post_hook(fail)
    with pytest.raises(ValueError, match="^a hook"):
        scaler.step(opt)
    assert not weight.any()
    assert not {"grad_scale", "found_inf"} & {*vars(opt)}


def test_a_scale_that_is_set_by_hand() -> None:
    """It acts until it is taken away, as with PyTorch's fused optimizers; None is as none."""
    weight = ones(3)
    opt = sgd(weight)
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
    model, opt = built("Adam")
    before = parameters(model)
    scaler = scaled(loss_of(model, 0))
    next(model.parameters()).grad[0] = float("inf")
    scaler.step(opt)
    scaler.update()
    assert_equal(model, before)
    assert opt.step_count == 0
    assert not opt.optimizers[0].state["exp_avg"].any()
    assert scaler.get_scale() == 2.0**9


def test_clipping_what_a_scaler_has_unscaled() -> None:
    (model, opt), twin = built("SGD"), network()
    plain = torch.optim.SGD(twin.parameters(), **ARGUMENTS["SGD"])
    for each, stepped in ((model, opt), (twin, plain)):
        scaler = scaled(loss_of(each, 0))
        scaler.unscale_(stepped)
        torch.nn.utils.clip_grad_norm_(each.parameters(), 0.125)
        scaler.step(stepped)
    for found, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        # one step of SGD rounds p and the product by 2^-24 of their size, which is below 1; PyTorch fuses the two
        assert torch.allclose(found, wanted, rtol=0, atol=2.0**-23)


def test_hooks_of_steps_and_state_dictionaries() -> None:
    opt = sgd(zeros(3))
    seen: list[str] = []
    opt.register_step_pre_hook(lambda *_: seen.append("before the step"))
    opt.register_step_post_hook(lambda *_: seen.append("after the step"))
    opt.register_state_dict_pre_hook(lambda _: seen.append("before state_dict"))
    opt.register_state_dict_post_hook(lambda _, saved: saved | {"more": 7})
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
