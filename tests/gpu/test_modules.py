"""Modules of PyTorch on a device: `FusedOptimizer`, an iteration in a CUDA graph, and what the guide on offloading says.

Everything is held against the CPU to the last bit, so gradients are given or exact: those that a device computes may round
otherwise. The tests run on the CPU as well, against the same there. Skipped by name where PyTorch is not installed.
"""

from __future__ import annotations

import io
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import lrcore
from gpu.devices import Torch
from support import assert_bits, gradients

SCHEDULE = lrcore.schedules.Cosine(0.1, steps=9).warmup(2)


@pytest.fixture
def torch() -> Any:
    """PyTorch."""
    return pytest.importorskip("torch")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    """Each device of PyTorch in turn."""
    return str(request.param)


def network(torch: Any, device: str) -> Any:
    """Return the same network every time."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.PReLU(), torch.nn.Linear(7, 3)).to(device)


def fused(model: Any, name: str = "AdamW", lr: Any = 0.1, **arguments: Any) -> Any:
    """Return a FusedOptimizer of a model's parameters."""
    from lrcore.torch import FusedOptimizer

    return FusedOptimizer(model.parameters(), getattr(lrcore, name), lr=lr, **arguments)


def both(torch: Any, device: str, *arguments: Any, **others: Any) -> list[tuple[Any, Any]]:
    """Return a network on the device and one on the CPU, each with its optimizer."""
    models = [network(torch, each) for each in (device, "cpu")]
    return [(each, fused(each, *arguments, **others)) for each in models]


def given(torch: Any, model: Any, t: int) -> list[Any]:
    """Return the gradients of step t, on the device of the parameters."""
    rng = np.random.default_rng(t)
    return [torch.from_numpy(gradients(rng, p.numel())).view_as(p).to(p.device) for p in model.parameters()]


def assign(torch: Any, model: Any, t: int) -> None:
    """Assign the gradients of step t."""
    for p, g in zip(model.parameters(), given(torch, model, t), strict=True):
        p.grad = g


def linear_loss(torch: Any, model: Any, t: int) -> Any:
    """Return a loss whose gradients are exactly those of step t."""
    return sum((p * g).sum() for p, g in zip(model.parameters(), given(torch, model, t), strict=True))


def assert_equal(one: Any, other: Any, what: str = "") -> None:
    """Assert equal bits of the parameters of two models, wherever they are."""
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert_bits(p.detach().cpu().numpy(), q.detach().cpu().numpy(), what)


@pytest.mark.parametrize("rate", ["number", "scheduler", "schedule"])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_a_module_steps_as_on_the_cpu(torch: Any, device: str, name: str, rate: str) -> None:
    """With gradients that are assigned, that are written in place, and that one parameter lacks."""
    arguments: Any = {"momentum": 0.9, "weight_decay": 0.01} if name == "SGD" else {"amsgrad": True}
    lr = SCHEDULE if rate == "schedule" else 0.1
    (model, opt), (twin, other) = pair = both(torch, device, name, lr=lr, **arguments)
    schedulers = [torch.optim.lr_scheduler.StepLR(each, 2, 0.5) for _, each in pair if rate == "scheduler"]
    assert {p.device.type for p in model.parameters()} == {device}
    for t in range(6):
        for each, its in pair:
            if t % 2:
                its.zero_grad(set_to_none=False)
                for p, g in zip(each.parameters(), given(torch, each, t), strict=True):
                    p.grad.copy_(g)
            else:
                assign(torch, each, t)
            if t >= 4:
                each[0].bias.grad = None
            its.step()
        for scheduler in schedulers:
            scheduler.step()
        assert_equal(model, twin, f"step {t}")
    assert opt.step_count == 6
    assert opt.param_groups[0]["lr"] == other.param_groups[0]["lr"]
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        for state, expected in zip(opt.state[p].values(), other.state[q].values(), strict=True):
            assert state.device == p.device
            assert_bits(state.cpu().numpy(), expected.numpy())


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("aside", [False, True])
def test_backward_passes(torch: Any, device: str, set_to_none: bool, aside: bool) -> None:
    """Two add up in the flat gradients, then there is none. Also on another stream than where the optimizer was made."""
    (model, opt), (twin, other) = both(torch, device)
    (flat,) = (each.grads for each in opt.optimizers)
    stream: Any = nullcontext()
    if aside and device == "cuda":
        torch.cuda.synchronize()
        stream = torch.cuda.stream(torch.cuda.Stream())
    with stream:
        for t in range(3):
            opt.zero_grad(set_to_none=set_to_none)
            for _ in range(2):
                linear_loss(torch, model, t).backward()
            for p in model.parameters():
                assert 0 <= p.grad.data_ptr() - flat.data_ptr() < 4 * flat.numel()
            opt.step()
            assign(torch, twin, t)
            other.step(grad_scale=2.0)
        opt.zero_grad(set_to_none=set_to_none)
        assert all((p.grad is None) == set_to_none for p in model.parameters())
        opt.step()
        assert not flat.any()
        other.zero_grad()
        other.step()
        assert_equal(model, twin)


def test_a_module_steps_on_the_current_stream(torch: Any, device: str) -> None:
    """Behind long work there, for whose end it does not wait."""
    (model, opt), (twin, other) = both(torch, device)
    opt.zero_grad(set_to_none=False)
    new = given(torch, model, 0)
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
    assign(torch, twin, 0)
    other.step()
    assert_equal(model, twin)


@pytest.mark.parametrize("file", [False, True])
def test_a_module_goes_on_elsewhere(torch: Any, device: str, file: bool) -> None:
    """There, then on the CPU, then there again: the bits of a run that stayed on the CPU."""
    _, (whole, uninterrupted) = both(torch, "cpu", "NAdam", lr=SCHEDULE)
    saved: Any = None
    for part, where in enumerate((device, "cpu", device)):
        (model, opt), _ = both(torch, where, "NAdam", lr=0.5 if saved else SCHEDULE)
        if saved:
            model.load_state_dict(saved[0])
            opt.load_state_dict(saved[1])
        for t in range(3 * part, 3 * part + 3):
            for each, its in ((model, opt), (whole, uninterrupted)):
                assign(torch, each, t)
                its.step()
        assert_equal(model, whole, f"part {part}")
        assert (opt.step_count, opt.lr) == (uninterrupted.step_count, uninterrupted.lr)
        saved = {name: each.clone() for name, each in model.state_dict().items()}, opt.state_dict()
        assert saved[1]["state"][0]["exp_avg"].device.type == where
        if file:
            written = io.BytesIO()
            torch.save(saved, written)
            written.seek(0)
            saved = torch.load(written, weights_only=True, map_location="cpu")


def test_a_module_that_is_moved(torch: Any, device: str) -> None:
    """Its optimizer refuses to step; another goes on from the state of that one."""
    (model, former), (twin, other) = both(torch, "cpu")
    for each, its in ((model, former), (twin, other)):
        assign(torch, each, 0)
        its.step()
    model.to(torch.float64).to(device, torch.float32)
    with pytest.raises(RuntimeError, match="its storage has moved"):
        former.step()
    opt = fused(model, lr=0.5)
    opt.load_state_dict(former.state_dict())
    for each, its in ((model, opt), (twin, other)):
        assign(torch, each, 1)
        its.step()
    assert_equal(model, twin)


def test_a_grad_scaler(torch: Any, device: str) -> None:
    """Its scales are powers of two, unscaled in the step or before; `grad_scale` acts too. An infinity skips the step."""
    (model, opt), (twin, other) = both(torch, device)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10)
    for t in range(5):
        grad_scale = 0.25 if t == 2 else 1.0
        opt.zero_grad()
        scaler.scale(linear_loss(torch, model, t) / grad_scale).backward()
        if t == 1:
            scaler.unscale_(opt)
        if t == 4:
            model[0].weight.grad[0] = float("inf")
        else:
            assign(torch, twin, t)
            other.step()
        scaler.step(opt, grad_scale=grad_scale)
        scaler.update()
    assert (opt.step_count, scaler.get_scale()) == (4, 2.0**9)
    assert_equal(model, twin)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(opt.state[p]["exp_avg"].cpu(), other.state[q]["exp_avg"])


def test_offloading(torch: Any, device: str) -> None:
    """The guide's parts: a model of half precision there, float32 parameters, pinned gradients and state here."""
    model = network(torch, "cpu")
    master = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    twin = lrcore.AdamW(master.numpy().copy(), lr=0.01)
    model = model.to(device, torch.bfloat16)
    grads = torch.zeros(len(master), pin_memory=device == "cuda")
    opt = lrcore.AdamW(master, lr=0.01, grads=grads)
    sizes = [p.numel() for p in model.parameters()]
    x = torch.randn(16, 5).to(device, torch.bfloat16)
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


def test_a_whole_iteration_in_a_graph(torch: Any, device: str) -> None:
    """Forward pass, backward pass into the bound gradients, and step. On the CPU without a graph."""
    rng = np.random.default_rng(3)
    start, target = (rng.standard_normal(1003).astype(np.float32) for _ in range(2))
    params, goal = (torch.from_numpy(each.copy()).to(device) for each in (start, target))
    grads = torch.zeros_like(params)
    weight = params[:].requires_grad_()
    weight.grad = grads[:]
    graphs: Any = {"capturable": True, "max_steps": 20} if device == "cuda" else {}
    opt, reference = lrcore.Adam(params, SCHEDULE, grads=grads, **graphs), lrcore.Adam(start, SCHEDULE)

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
            iterate()  # once before the capture, as PyTorch asks for
        stream.synchronize()
        replay = Torch(torch).capture(iterate)
    while opt.step_count < 9:
        replay()
    for _ in range(9):
        reference.step(2 * (reference.params - target))
    assert_bits(params.cpu().numpy(), reference.params)
