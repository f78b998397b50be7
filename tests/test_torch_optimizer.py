"""`lrcore.torch.FusedOptimizer`. Skipped by name where PyTorch is not installed.

Bits are compared with the same optimizer of lrcore on the parameters one after another; PyTorch's own optimizers within
the tolerances of `peers`.
"""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lrcore
from support import assert_bits

torch = pytest.importorskip("torch")

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


def network(seed: int = 0, channels_last: bool = False) -> Any:
    """Give a network with weights of odd sizes, and a scalar."""
    torch.manual_seed(seed)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 7), nn.PReLU(), nn.Linear(7, 3)
    )
    return model.to(memory_format=torch.channels_last) if channels_last else model


def batch(step: int) -> tuple[Any, Any]:
    """Give images and classes that a network can learn."""
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


def made(name: str, model: Any, **others: Any) -> Any:
    return FusedOptimizer(model.parameters(), getattr(lrcore, name), **ARGUMENTS.get(name, {}) | others)


def parameters(model: Any) -> list[Any]:
    """Give copies of the parameters."""
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
    opt = made(name, model)
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
    ours = train(model, made(name, model), range(60))
    theirs = train(twin, getattr(torch.optim, name)(twin.parameters(), **arguments), range(60))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
    assert ours[-1] < ours[0]


def test_one_buffer() -> None:
    """Parameters, gradients and states are views of flat buffers, each at a multiple of 64 bytes."""
    model = network()
    before = parameters(model)
    opt = made("Adam", model)
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


def test_zeroing() -> None:
    model = network()
    opt = made("SGD", model)
    loss_of(model, 0).backward()
    views = [each.grad for each in model.parameters()]
    opt.zero_grad()
    assert all(each.grad is None for each in model.parameters())
    loss_of(model, 0).backward()
    for each, view in zip(model.parameters(), views, strict=True):
        assert each.grad is view  # the hook has put it back
    opt.zero_grad(set_to_none=False)
    for each, view in zip(model.parameters(), views, strict=True):
        assert each.grad is view
        assert not each.grad.any()
    opt.zero_grad()
    opt.zero_grad(set_to_none=False)
    assert all(each.grad is view for each, view in zip(model.parameters(), views, strict=True))


def test_gradients_accumulate() -> None:
    """Over two backward passes, in both forms of zeroing; the module's own `zero_grad` and assigned gradients are seen."""
    expected = None
    for zero in ("none", "zero", "module", "assigned"):
        model = network()
        opt = made("Adam", model)
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
    opt, other = made("SGD", model), made("SGD", twin)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of the cycle that this makes
        loss_of(model, 0).backward(create_graph=True)
    opt.step()
    train(twin, other, range(1))
    assert_equal(model, parameters(twin))


def test_a_closure() -> None:
    model, twin = network(), network()
    opt, other = made("Adam", model), made("Adam", twin)

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


# Rates and hyperparameters.


def test_torchs_schedulers_set_the_rate() -> None:
    model, twin = network(), network()
    opt = made("AdamW", model, lr=0.01)
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
    opt = made("AdamW", model, lr=schedule)
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


def test_hyperparameters_of_the_group() -> None:
    model = network()
    opt = made("AdamW", model)
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
    assert opt.step_count == 1


# GradScaler.


def test_the_scale_of_a_grad_scaler() -> None:
    """The bits of the steps without it: its scales are powers of two."""
    model, twin = network(), network()
    opt, other = made("Adam", model), made("Adam", twin)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(3):
        opt.zero_grad()
        scaler.scale(loss_of(model, step)).backward()
        scaler.step(opt)
        scaler.update()
    train(twin, other, range(3))
    assert_equal(model, parameters(twin))


def test_a_step_is_skipped_where_the_scaler_found_an_infinity() -> None:
    model = network()
    opt = made("Adam", model)
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
    opt, plain = made("SGD", model), torch.optim.SGD(twin.parameters(), **ARGUMENTS["SGD"])
    for each, stepped in ((model, opt), (twin, plain)):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        scaler.scale(loss_of(each, 0)).backward()
        scaler.unscale_(stepped)
        torch.nn.utils.clip_grad_norm_(each.parameters(), 0.125)
        scaler.step(stepped)
    for found, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        # one step of SGD rounds p and the product by 2^-24 of their size, which is below 1; PyTorch fuses the two
        assert torch.allclose(found, wanted, rtol=0, atol=2.0**-23)


# State dictionaries.


@pytest.mark.parametrize("lr", [0.01, lrcore.schedules.Cosine(0.01, steps=20).warmup(4)])
@each_optimizer
def test_resuming(name: str, lr: Any) -> None:
    """Through a file that PyTorch loads without running anything in it: bits of the uninterrupted run."""
    for k in (0, 1, 5):
        model = network()
        opt = made(name, model, lr=lr)
        train(model, opt, range(k))
        file = io.BytesIO()
        torch.save((model.state_dict(), opt.state_dict()), file)
        train(model, opt, range(k, 8))

        file.seek(0)
        weights, state = torch.load(file, weights_only=True)
        resumed = network(seed=1)
        resumed.load_state_dict(weights)
        other = made(name, resumed, lr=0.5, weight_decay=0.125)
        train(network(seed=2), other, range(0))
        other.load_state_dict(state)
        assert other.step_count == k
        train(resumed, other, range(k, 8))
        assert_equal(resumed, parameters(model))
        assert other.lr == opt.lr == other.param_groups[0]["lr"]


def test_the_dictionary_is_a_copy() -> None:
    model = network()
    opt = made("Adam", model)
    train(model, opt, range(2))
    saved = opt.state_dict()
    kept = copy.deepcopy(saved)
    train(model, opt, range(2, 4))
    for i, each in saved["state"].items():
        assert all((each[name] == kept["state"][i][name]).all() for name in each)
    assert saved["lrcore"]["step_count"] == 2


@pytest.mark.parametrize("name", IN_TORCH)
def test_from_and_for_torchs_optimizer(name: str) -> None:
    """PyTorch's optimizer goes on from our dictionary, and ours from PyTorch's: within what float32 rounds.

    See `test_losses_of_torchs_optimizer` for the tolerance.
    """
    arguments = ARGUMENTS.get(name, {})
    counted = {"step_count": 3} if name == "SGD" else {}
    for k in (0, 3):
        model, twin = network(), network()
        opt = made(name, model)
        theirs = getattr(torch.optim, name)(twin.parameters(), **arguments)
        train(model, opt, range(k))
        train(twin, theirs, range(k))
        from_ours, from_theirs = copy.deepcopy(model), copy.deepcopy(twin)
        from_ours_opt = getattr(torch.optim, name)(from_ours.parameters(), lr=7.0)
        from_ours_opt.load_state_dict(opt.state_dict())
        from_theirs_opt = made(name, from_theirs, lr=lrcore.schedules.Constant(7.0))
        from_theirs_opt.load_state_dict(theirs.state_dict(), **counted if k else dict.fromkeys(counted, 0))
        assert from_theirs_opt.step_count == k
        expected = train(twin, theirs, range(k, 20))
        for other, its in ((from_ours, from_ours_opt), (from_theirs, from_theirs_opt)):
            np.testing.assert_allclose(train(other, its, range(k, 20)), expected, rtol=0, atol=1e-3)


def test_there_and_back() -> None:
    """What PyTorch has loaded from ours comes back as it was, with the options that it does not know."""
    model = network()
    opt = made("Adam", model, eps_placement="hat")
    train(model, opt, range(2))
    theirs = torch.optim.Adam(network().parameters())
    theirs.load_state_dict(opt.state_dict())
    expected = opt.state_dict()
    opt.load_state_dict(theirs.state_dict())
    found = opt.state_dict()
    assert found["lrcore"] == expected["lrcore"]
    assert found["param_groups"] == expected["param_groups"]
    for i, each in expected["state"].items():
        assert all((each[name] == found["state"][i][name]).all() for name in each)
    other = made("Adam", network())
    with pytest.raises(ValueError, match="^rule: expected adam, got adam_hat"):
        other.load_state_dict(theirs.state_dict())


def test_a_number_in_the_dictionary_is_obeyed() -> None:
    opt = made("AdamW", network(), lr=0.01)
    saved = opt.state_dict()
    saved["param_groups"][0] |= {"lr": 0.5, "weight_decay": 0.25, "initial_lr": 3.0}
    opt.load_state_dict(saved)
    assert (opt.lr, opt.optimizers[0].hyper["weight_decay"]) == (0.5, 0.25)
    assert opt.param_groups[0]["initial_lr"] == 3.0


def break_rule(saved: Any) -> None:
    saved["lrcore"]["rule"] = "sgd"


def break_count(saved: Any) -> None:
    saved["lrcore"]["step_count"] = -1


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


def break_option(saved: Any) -> None:
    saved["param_groups"][0]["maximize"] = True


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (break_rule, "rule: expected adam, got sgd"),
        (break_count, "step_count: "),
        (break_group, "param_groups: expected one group, got 2"),
        (break_parameters, "param_groups: expected 7 parameters, got 6"),
        (break_shape, r"state\[0\]: exp_avg: expected shape \(5, 3, 3, 3\), got \(2, 2\)"),
        (break_dtype, "exp_avg: expected a tensor of float32, got float64"),
        (break_state, r"state\[1\]: expected the entries"),
        (break_hyper, "eps: expected a finite number"),
        (break_option, "options: expected"),
    ],
)
def test_wrong_dictionaries_change_nothing(broken: Callable[[Any], None], message: str) -> None:
    model = network()
    opt = made("Adam", model, lr=0.01)
    train(model, opt, range(2))
    saved = opt.state_dict()
    train(model, opt, range(2, 3))
    before = opt.state_dict()
    broken(saved)
    with pytest.raises((TypeError, ValueError), match=message):
        opt.load_state_dict(saved)
    after = opt.state_dict()
    assert after["lrcore"] == before["lrcore"]
    assert after["param_groups"] == before["param_groups"]
    for i, each in before["state"].items():
        assert all((each[name] == after["state"][i][name]).all() for name in each)


def test_hooks_of_state_dictionaries_and_steps() -> None:
    model = network()
    opt = made("Adam", model)
    seen: list[str] = []
    opt.register_step_pre_hook(lambda *_: seen.append("before the step"))
    opt.register_step_post_hook(lambda *_: seen.append("after the step"))
    opt.register_state_dict_pre_hook(lambda _: seen.append("before state_dict"))
    opt.register_state_dict_post_hook(lambda _, saved: saved | {"more": len(saved["state"])})
    opt.register_load_state_dict_pre_hook(
        lambda _, saved: {key: saved[key] for key in saved if key != "more"}
    )
    opt.register_load_state_dict_post_hook(lambda _: seen.append("after load_state_dict"))
    opt.step()
    saved = opt.state_dict()
    assert saved["more"] == 7
    opt.load_state_dict(saved)
    assert seen == ["before the step", "after the step", "before state_dict", "after load_state_dict"]


# Several devices: parameters that are said to be apart.


def test_a_buffer_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """One optimizer for each; steps, states and dictionaries are those of one for all."""
    model, twin = network(), network()
    together = made("NAdam", twin, lr=lrcore.schedules.Cosine(0.01, steps=20))
    monkeypatch.setattr(lrcore.torch, "place_of", lambda tensor: tensor.ndim)
    apart = made("NAdam", model, lr=lrcore.schedules.Cosine(0.01, steps=20))
    assert [each.size for each in apart.optimizers] == [
        135,
        51,
        341,
    ]  # padded to 16 elements, but for the last of each
    for each, opt in ((model, apart), (twin, together)):
        train(each, opt, range(3))
    assert_equal(model, parameters(twin))
    saved, other = apart.state_dict(), together.state_dict()
    assert saved["lrcore"] == other["lrcore"]
    assert [*saved["state"]] == [*other["state"]] == [*range(7)]
    apart.load_state_dict(other)
    together.load_state_dict(saved)
    for each, opt in ((model, apart), (twin, together)):
        train(each, opt, range(3, 6))
    assert_equal(model, parameters(twin))


# What is refused.


def test_storage_that_has_moved() -> None:
    for move in (
        lambda model: model.to(torch.float64).to(torch.float32),
        lambda model: setattr(model[0].weight, "data", model[0].weight.data.clone()),
        lambda model: FusedOptimizer(model.parameters(), lrcore.SGD),
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


def test_sparse_gradients() -> None:
    layer = torch.nn.Embedding(5, 3, sparse=True)
    opt = FusedOptimizer(layer.named_parameters(), lrcore.SGD)
    opt.zero_grad()
    with pytest.raises(
        TypeError, match="^weight: expected a dense gradient, got a sparse one; pass sparse=False"
    ):
        layer(torch.tensor([1, 2])).sum().backward()


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
    opt = made("Adam", model)
    with pytest.raises(ValueError, match="^param_group: a FusedOptimizer has one group"):
        opt.add_param_group({"params": [of(3)]})


def test_no_copies() -> None:
    opt = made("Adam", network())
    for take in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"cannot be copied or pickled.*state_dict\(\)"):
            take(opt)
    assert repr(opt) == "FusedOptimizer(Adam(size=547, device=cpu, lr=0.001, step_count=0))"


def test_an_optimizer_that_is_gone_leaves_nothing() -> None:
    """Its hooks go with it; parameters and their last gradients stay."""
    model, twin = network(), network()
    opt = made("Adam", model)
    train(model, opt, range(1))
    train(twin, made("Adam", twin), range(1))
    before = [each.grad for each in model.parameters()]
    del opt
    gc.collect()
    model.zero_grad()
    loss_of(model, 1).backward()
    assert not {id(each.grad) for each in model.parameters()} & {id(each) for each in before}
    model.zero_grad()
    for each in (model, twin):
        train(each, made("SGD", each), range(1, 4))
    assert_equal(model, parameters(twin))
