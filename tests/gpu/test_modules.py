"""PyTorch modules on a device: `FusedOptimizer`, an iteration in a CUDA graph, and the guide on offloading.

All results are compared with the CPU's to the last bit. A device may round computed gradients differently, so
the gradients are either assigned or exact. The tests also run with the CPU as the device. They are skipped if
PyTorch is not installed.
"""

from __future__ import annotations

import io
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import Torch
from pytorch.modules import ARGUMENTS, FusedOptimizer, assert_equal, network, parameters, torch
from support import assert_bits, gradients

SCHEDULE = lrcore.schedules.Cosine(0.1, steps=9).warmup(2)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Return each device of PyTorch in turn."""
    return str(request.param)


def in_two_groups(model: Any, name: str, **arguments: Any) -> Any:
    """Return an optimizer for a network; the parameters alternate between its groups."""
    params = [*model.parameters()]
    groups = [{"params": params[::2]}, {"params": params[1::2], "weight_decay": 0.25, "maximize": True}]
    return FusedOptimizer(groups, getattr(lrcore, name), **ARGUMENTS.get(name, {}) | arguments)


def both(device: str, name: str = "AdamW", lr: Any = 0.1, **others: Any) -> list[tuple[Any, Any]]:
    """Return a network on the device and one on the CPU, each with its optimizer."""
    models = [network().to(each) for each in (device, "cpu")]
    return [(each, in_two_groups(each, name, lr=lr, **others)) for each in models]


def given(model: Any, t: int) -> list[Any]:
    """Return the gradients of step t, on the device of the parameters."""
    rng = np.random.default_rng(t)
    return [torch.from_numpy(gradients(rng, p.numel())).view_as(p).to(p.device) for p in model.parameters()]


def assign(model: Any, t: int) -> None:
    """Assign the gradients of step t."""
    for p, g in zip(model.parameters(), given(model, t), strict=True):
        p.grad = g


def linear_loss(model: Any, t: int) -> Any:
    """Return a loss whose gradients are exactly those of step t."""
    return sum((p * g).sum() for p, g in zip(model.parameters(), given(model, t), strict=True))


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    """Assert that modules and states on any devices have equal bits, and that counts and rates are equal."""
    (model, opt), (twin, its) = one, other
    assert_equal(model, parameters(twin))
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert opt.state[p].keys() == its.state[q].keys()
        for key, expected in its.state[q].items():
            state = opt.state[p][key]
            assert state.device == (torch.device("cpu") if key == "step" else p.device)
            assert_bits(state.cpu().numpy(), expected.cpu().numpy())
    assert opt.step_count == its.step_count
    assert [group["lr"] for group in opt.param_groups] == [group["lr"] for group in its.param_groups]


@pytest.mark.parametrize("rate", ["number", "scheduler", "schedule"])
@pytest.mark.parametrize(
    ("name", "options"), [("AdamW", {"amsgrad": True}), ("SGD", {"momentum": 0.9, "weight_decay": 0.01})]
)
def test_a_module_steps_as_on_the_cpu(device: str, name: str, options: dict[str, Any], rate: str) -> None:
    """Gradients are assigned, written in place, or missing: from the start, later, or in a single step."""
    pair = both(device, name, lr=SCHEDULE if rate == "schedule" else 0.1, **options)
    schedulers = [torch.optim.lr_scheduler.StepLR(opt, 2, 0.5) for _, opt in pair if rate == "scheduler"]
    assert {p.device.type for p in pair[0][0].parameters()} == {device}
    for t in range(6):
        for model, opt in pair:
            if t % 2:
                opt.zero_grad(set_to_none=False)
                for p, g in zip(model.parameters(), given(model, t), strict=True):
                    if p.grad is not None:
                        p.grad.copy_(g)
            else:
                assign(model, t)
            for i, p in enumerate(model.parameters()):
                if (i, t) == (2, 1) or (i == 0 and t < 2) or (i == 1 and t >= 4):
                    p.grad = None
            opt.step()
        for scheduler in schedulers:
            scheduler.step()
        assert_same(*pair)
    assert pair[0][1].step_count == 6
    if name == "AdamW":
        counts = [float(pair[0][1].state[p]["step"]) for p in pair[0][0].parameters()]
        assert counts == [4.0, 4.0, 5.0, 6.0, 6.0, 6.0, 6.0]


def test_a_group_joins_on_the_device(device: str) -> None:
    """Parameters and states move to a new buffer on the device, and steps continue with equal bits."""
    pairs = []
    for where in (device, "cpu"):
        model = network().to(where)
        first, *others = model.parameters()
        pairs.append((model, FusedOptimizer([first], lrcore.NAdam, lr=SCHEDULE), others))
    for t in range(6):
        for model, opt, others in pairs:
            if t == 3:
                opt.add_param_group({"params": others, "lr": 0.5})
            assign(model, t)
            opt.step()
        if t >= 3:
            assert_same(*(pair[:2] for pair in pairs))


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("aside", [False, True])
def test_backward_passes(device: str, set_to_none: bool, aside: bool) -> None:
    """Two backward passes add up. The last step sees no gradients, or zeros. The stream may differ from the constructor's."""
    (model, opt), (twin, other) = pair = both(device)
    assert opt.optimizers[0].grads is None
    stream: Any = nullcontext()
    if aside and device == "cuda":
        torch.cuda.synchronize()
        stream = torch.cuda.stream(torch.cuda.Stream())
    with stream:
        for t in range(3):
            opt.zero_grad(set_to_none=set_to_none)
            for _ in range(2):
                linear_loss(model, t).backward()
            places = [(p.grad, p.grad.data_ptr()) for p in model.parameters()]
            opt.step()
            for p, (grad, place) in zip(model.parameters(), places, strict=True):
                assert p.grad is grad
                assert grad.data_ptr() == place
            assign(twin, t)
            other.step(grad_scale=2.0)
        for each in (opt, other):
            each.zero_grad(set_to_none=set_to_none)
        assert all((p.grad is None) == set_to_none for p in model.parameters())
        before = parameters(model)
        for each in (opt, other):
            each.step()
        assert (
            any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)) != set_to_none
        )
        assert_same(*pair)


def test_gradients_are_zeroed(device: str) -> None:
    """The step zeroes them, also if it is skipped, or copies one of them first."""
    (model, opt), (twin, other) = pair = both(device, max_norm=0.5, skip_nonfinite=3)
    for t in range(4):
        for each in (model, twin):
            assign(each, t)
            params = [*each.parameters()]
            if t == 1:
                params[2].grad = torch.ones(params[2].shape[::-1], device=params[2].device).t()
            if t == 2:
                params[1].grad[0] = float("inf")
            params[t].grad = None
        grads = [(p, p.grad, None if p.grad is None else p.grad._version) for p in model.parameters()]
        opt.step(zero_grads=True)
        other.step()
        assert_same(*pair)
        for p, grad, version in grads:
            assert p.grad is grad
            if grad is not None:
                assert grad._version > version
                assert_bits(grad.cpu().numpy(), np.zeros(grad.shape, np.float32))
    assert opt.skipped_steps == 1


def test_a_module_steps_on_the_current_stream(device: str) -> None:
    """The step is queued behind long work, and the host does not wait for it."""
    (model, opt), (twin, other) = both(device)
    new = given(model, 0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    source, target = (torch.ones(1 << 26 if device == "cuda" else 8, device=device) for _ in range(2))
    stream = torch.cuda.Stream() if device == "cuda" else None
    if stream:
        torch.cuda.synchronize()
    with torch.cuda.stream(stream) if stream else nullcontext():
        for _ in range(200):
            target.copy_(source)
        for p, g in zip(model.parameters(), new, strict=True):
            p.grad.copy_(g)
        opt.step()
    if stream:
        assert not stream.query()
        stream.synchronize()
    assign(twin, 0)
    other.step()
    assert_equal(model, parameters(twin))


@pytest.mark.parametrize("file", [False, True])
def test_a_module_goes_on_elsewhere(device: str, file: bool) -> None:
    """A run moves from the device to the CPU and back, and has the bits of a run that stayed on the CPU."""
    _, whole = both("cpu", "NAdam", lr=SCHEDULE)
    saved: Any = None
    for part, where in enumerate((device, "cpu", device)):
        one, _ = both(where, "NAdam", lr=0.5 if saved else SCHEDULE)
        if saved:
            for each, its in zip(one, saved, strict=True):
                each.load_state_dict(its)
        for t in range(3 * part, 3 * part + 3):
            for model, opt in (one, whole):
                assign(model, t)
                opt.step()
        assert_same(one, whole)
        saved = {name: each.clone() for name, each in one[0].state_dict().items()}, one[1].state_dict()
        assert saved[1]["state"][0]["exp_avg"].device.type == where
        if file:
            written = io.BytesIO()
            torch.save(saved, written)
            written.seek(0)
            saved = torch.load(written, weights_only=True, map_location="cpu")


def test_a_module_that_is_moved(device: str) -> None:
    """The module's optimizer refuses to step; a new one continues from the former optimizer's state."""
    (model, former), (twin, other) = both("cpu")
    for each, its in ((model, former), (twin, other)):
        assign(each, 0)
        its.step()
    model.to(torch.float64).to(device, torch.float32)
    with pytest.raises(RuntimeError, match="its storage has moved"):
        former.step()
    opt = in_two_groups(model, "AdamW", lr=0.5)
    opt.load_state_dict(former.state_dict())
    for each, its in ((model, opt), (twin, other)):
        assign(each, 1)
        its.step()
    assert_same((model, opt), (twin, other))


def test_a_grad_scaler(device: str) -> None:
    """The scales are powers of two. They are divided out before the step or during it.

    If a gradient is infinite, the scaler skips the step. The argument `grad_scale` applies as well.
    """
    (model, opt), (twin, other) = pair = both(device, max_norm=0.5)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    for t in range(5):
        grad_scale = 0.25 if t == 2 else 1.0
        opt.zero_grad()
        scaler.scale(linear_loss(model, t) / grad_scale).backward()
        if t == 1:
            scaler.unscale_(opt)
        if t == 4:
            model[0].weight.grad[0] = float("inf")
        else:
            assign(twin, t)
            other.step()
        scaler.step(opt, grad_scale=grad_scale)
        scaler.update()
    assert (opt.step_count, opt.skipped_steps, scaler.get_scale()) == (4, 1, 2.0**9)
    assert opt.grad_norm == other.grad_norm
    assert_same(*pair)


def test_offloading(device: str) -> None:
    """Run the example of the guide on offloading, with a bfloat16 model on the device.

    The float32 parameters, pinned gradients and state are on the host.
    """
    model = network()
    master = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    twin = lrcore.AdamW(master.numpy().copy(), lr=0.01)
    model = model.to(device, torch.bfloat16)
    grads = torch.zeros(len(master), pin_memory=device == "cuda")
    opt = lrcore.AdamW(master, lr=0.01, grads=grads)
    sizes = [p.numel() for p in model.parameters()]
    x = torch.randn(16, 3, 5, 5).to(device, torch.bfloat16)
    for _ in range(5):
        model(x).float().square().mean().backward()
        expected = torch.cat([p.grad.cpu().float().reshape(-1) for p in model.parameters()])
        with torch.no_grad():
            for g, p in zip(grads.split(sizes), model.parameters(), strict=True):
                g.view_as(p).copy_(p.grad, non_blocking=True)
                p.grad = None
            if device == "cuda":
                torch.cuda.synchronize()
            opt.step()
            for m, p in zip(master.split(sizes), model.parameters(), strict=True):
                p.copy_(m.view_as(p))
        assert expected.any()
        twin.step(expected.numpy())
        assert_bits(grads.numpy(), expected.numpy(), "grads")
        assert_bits(master.numpy(), twin.params, "master")
    assert opt.device == "cpu"
    for m, p in zip(master.split(sizes), model.parameters(), strict=True):
        assert torch.equal(p.detach().cpu().reshape(-1), m.to(torch.bfloat16))


def test_a_whole_iteration_in_a_graph(device: str) -> None:
    """Forward pass, backward pass into the bound gradients, and step. On the CPU there is no graph."""
    rng = np.random.default_rng(3)
    start, target = (rng.standard_normal(1003).astype(np.float32) for _ in range(2))
    params, goal = (torch.from_numpy(each.copy()).to(device) for each in (start, target))
    grads = torch.zeros_like(params)
    weight = params[:].requires_grad_()
    weight.grad = grads[:]
    graphs: Any = {"capturable": True, "max_steps": 20} if device == "cuda" else {}
    guard: Any = {"max_norm": lrcore.schedules.Linear(40.0, end=1.0, steps=9), "skip_nonfinite": True}
    opt = lrcore.Adam(params, SCHEDULE, grads=grads, **guard, **graphs)
    reference = lrcore.Adam(start, SCHEDULE, **guard)

    def iterate() -> None:
        grads.zero_()
        distance = weight - goal
        (distance * distance).sum().backward()
        opt.step()

    replay = iterate
    if device == "cuda":
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            iterate()  # once before the capture, as PyTorch requires
        stream.synchronize()
        replay = Torch(torch).capture(iterate)
    while opt.step_count < 9:
        replay()
    for _ in range(9):
        reference.step(2 * (reference.params - target))
    assert_bits(params.cpu().numpy(), reference.params)
