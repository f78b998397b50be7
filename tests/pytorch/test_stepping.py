"""Steps of a module by `lrcore.torch.FusedOptimizer`: bits, buffers, closures, autograd and GradScaler.

The bits are compared with those of the same lrcore optimizer on the concatenated parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import lrcore
from pytorch.modules import (
    ARGUMENTS,
    FusedOptimizer,
    assert_equal,
    build,
    built,
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
    """Stepping a module gives the same bits as stepping its concatenated parameters."""
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


def test_one_buffer() -> None:
    """Parameters, gradients and states are views of flat buffers, at multiples of 64 bytes.

    Each view has the memory format of its parameter, and its own storage, so that it can be saved separately.
    The same holds for the tensors of a state dictionary.
    """
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last),
        torch.nn.Linear(7, 1),
        torch.nn.ParameterList([torch.zeros(()), torch.zeros(0, 3), torch.zeros(2, 1, 4)]),
    )
    before = parameters(model)
    opt = FusedOptimizer(model.parameters(), lrcore.Adam)
    assert_equal(model, before)
    (flat,) = opt.optimizers
    starts = [each.data_ptr() for each in (flat.params, flat.grads, *flat.state.values())]
    sum(each.sum() for each in model.parameters()).backward()
    opt.step()
    saved = opt.state_dict()["state"]
    for i, each in enumerate(model.parameters()):
        views = [each, each.grad, *opt.state[each].values()]
        if each.numel():
            (offset,) = {view.data_ptr() - start for view, start in zip(views, starts, strict=True)}
            assert offset % 64 == 0
            assert 0 <= offset < 4 * flat.size
        assert saved[i].keys() == {"step", "exp_avg", "exp_avg_sq"}
        for view in (*views, saved[i]["exp_avg"], saved[i]["exp_avg_sq"]):
            assert view.untyped_storage().nbytes() == 4 * each.numel()
            assert view.shape == each.shape
            assert view.stride() == torch.empty_like(each).stride()
    assert not model[0].weight.is_contiguous()
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_parameters_that_lie_between_one_another() -> None:
    """Views of one tensor that share no element are treated like any other parameters."""
    memory = torch.arange(24.0).view(4, 6)
    whole = memory.clone()
    parts = [torch.nn.Parameter(each) for each in (whole[:, ::2], whole[:, 1::2])]
    opt = sgd(*parts, lr=0.5)
    for part in parts:
        part.grad = part.detach().clone()
    opt.step()
    for part, begun in zip(parts, (memory[:, ::2], memory[:, 1::2]), strict=True):
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


def test_a_changed_parameter_is_noticed_by_autograd() -> None:
    """A stepped parameter counts as modified, and the rate is shown, even if the step raises afterwards."""

    class Interrupted(lrcore.SGD):
        def step(self, *args: Any, **kwargs: Any) -> None:
            super().step(*args, **kwargs)
            raise KeyboardInterrupt

    weights = ones(3)
    opt = FusedOptimizer([weights], Interrupted, lr=lambda _: 0.5)
    loss = (weights * weights).sum()
    with pytest.raises(KeyboardInterrupt):
        opt.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    assert opt.param_groups[0]["lr"] == 0.5


def fail(*_: Any) -> None:
    raise ValueError("a hook")


FAULTS: dict[str, Callable[[Any, Any], object]] = {
    "a number": lambda opt, _: opt.param_groups[0].update(weight_decay=-1),
    "a rate that fails": lambda opt, _: setattr(opt, "lr", fail),
    "a rate below 0": lambda opt, _: setattr(opt, "lr", lambda _: -1.0),
    "a gradient": lambda _, weight: setattr(weight, "grad", torch.ones(3).to_sparse()),
    "a hook": lambda opt, _: opt.register_step_pre_hook(fail),
    "a hook after the step": lambda opt, _: opt.register_step_post_hook(fail),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_raises_leaves_no_scale(fault: str) -> None:
    """The attributes that GradScaler sets for one step do not affect the next step."""
    weight = ones(3)
    opt = sgd(weight)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(weight.sum()).backward()
    FAULTS[fault](opt, weight)
    with pytest.raises((ValueError, TypeError, NotImplementedError)):
        scaler.step(opt)
    assert not {"grad_scale", "found_inf"} & {*vars(opt)}


def test_a_scale_that_is_set_by_hand() -> None:
    """A scale applies until it is removed, as in PyTorch's fused optimizers. None means no scale."""
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
