"""FusedOptimizer with `torch.compile`, and with functions of PyTorch for modules and gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcore.schedules import Cosine
from trainers.runs import (
    LR,
    STEPS,
    MakeOptimizer,
    assert_close,
    assert_same,
    batch,
    groups_of,
    loss_of,
    network,
    ours,
    theirs,
    torch,
    values,
)

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # from PyTorch itself
utils = torch.nn.utils
Iterate = Callable[[int], None]
RATE = Cosine(LR, steps=STEPS).warmup(5)


def rate_of(step: int) -> float:
    """Return the rate of a scheduler, whose state must not have a schedule of lrcore."""
    return RATE(step)


class Run:
    """A module, its optimizer, and a function that takes a step."""

    def __init__(self, way: str, make: MakeOptimizer, seed: int = 0) -> None:
        self.model = network(seed)
        if way == "weight_norm":
            utils.parametrizations.weight_norm(self.model[0])
        if way == "compiled before the optimizer":
            self.model = torch.compile(self.model, backend="aot_eager")
            self.model(batch(0)[0])
        # A scheduler encloses the method `step`, so it is used where the step is compiled.
        rate: Any = RATE if make is ours and "step" not in way else 1.0
        self.opt = make(groups_of(self.model), lr=rate)
        self.schedulers = [torch.optim.lr_scheduler.LambdaLR(self.opt, rate_of)] if rate == 1.0 else []
        self.iterate = WAYS[way](self.model, self.opt)

    def train(self, steps: range) -> None:
        for step in steps:
            self.iterate(step)
            for each in self.schedulers:
                each.step()

    def parts(self) -> tuple[Any, ...]:
        return self.model, self.opt, *self.schedulers


def plain(model: Any, opt: Any, step: Any = None, clip: Any = None) -> Iterate:
    """Return an iteration that may clip the gradients and have its own function for the step of the optimizer."""
    step = step or opt.step

    def iterate(t: int) -> None:
        opt.zero_grad()
        loss_of(model, t).backward()
        if clip is not None:
            clip([*model.parameters()])
        step()

    return iterate


def clipped(clip: Any, *args: Any, **kwargs: Any) -> Callable[[Any, Any], Iterate]:
    return lambda model, opt: plain(model, opt, clip=lambda params: clip(params, *args, **kwargs))


def compiled(model: Any, opt: Any, backend: str = "aot_eager") -> Iterate:
    return plain(torch.compile(model, backend=backend), opt)


def compiled_iteration(model: Any, opt: Any) -> Iterate:
    def iterate(x: Any, y: Any) -> None:
        opt.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        opt.step()

    function = torch.compile(iterate, backend="aot_eager")
    return lambda t: function(*batch(t))


def compiled_autograd(model: Any, opt: Any) -> Iterate:
    """Return an iteration whose backward pass is compiled as well."""
    with torch._dynamo.config.patch(compiled_autograd=True):
        return compiled_iteration(model, opt)


def functional(model: Any, opt: Any) -> Iterate:
    """Return an iteration in which the parameters are arguments of a function, and its gradients are assigned."""

    def loss(params: dict[str, Any], x: Any, y: Any) -> Any:
        return torch.nn.functional.mse_loss(torch.func.functional_call(model, params, (x,)), y)

    def iterate(t: int) -> None:
        params = dict(model.named_parameters())
        for name, grad in torch.func.grad(loss)(params, *batch(t)).items():
            params[name].grad = grad
        opt.step()

    return iterate


WAYS: dict[str, Callable[[Any, Any], Iterate]] = {
    "compiled before the optimizer": plain,
    "compiled after the optimizer": compiled,
    "compiled by Inductor": lambda model, opt: compiled(model, opt, "inductor"),
    "compiled step": lambda model, opt: plain(model, opt, torch.compile(opt.step, backend="aot_eager")),
    "compiled steps and backward passes": compiled_iteration,
    "compiled autograd and step": compiled_autograd,
    "functional_call": functional,
    "weight_norm": plain,
    "clip_grad_norm_": clipped(utils.clip_grad_norm_, 0.5, foreach=False),
    "clip_grad_norm_ by foreach": clipped(utils.clip_grad_norm_, 0.5, norm_type=3.0, foreach=True),
    "clip_grad_value_": clipped(utils.clip_grad_value_, 0.05, foreach=True),
}
"""Functions that return an iteration for a module and its optimizer."""


@pytest.mark.parametrize("way", WAYS)
def test_way(way: str, tmp_path: Path) -> None:
    """A run equals that of PyTorch's optimizer. One that is resumed from a file has equal bits."""
    counters = torch._dynamo.utils.counters
    torch.compiler.reset()
    counters.clear()
    run, other = Run(way, ours), Run(way, theirs)
    run.train(range(STEPS // 2))
    assert bool(counters["frames"]) == way.startswith("compiled")
    assert bool(counters["compiled_autograd"]) == (way == "compiled autograd and step")
    torch.save([each.state_dict() for each in run.parts()], tmp_path / "run.pt")
    run.train(range(STEPS // 2, STEPS))
    other.train(range(STEPS))
    assert_close(values(run.model), values(other.model))
    again = Run(way, ours, seed=1)
    for each, state in zip(again.parts(), torch.load(tmp_path / "run.pt"), strict=True):
        each.load_state_dict(state)
    again.train(range(STEPS // 2, STEPS))
    assert_same(values(run.model), values(again.model))


def test_an_ensemble() -> None:
    """The stacked parameters of several modules are parameters as well."""
    runs = []
    for make in (ours, theirs):
        params, buffers = torch.func.stack_module_state([network(seed) for seed in range(3)])
        base = network()
        opt = make(params.items(), lr=LR)

        def outputs(own: Any, x: Any, base: Any = base, buffers: Any = buffers) -> Any:
            return torch.func.functional_call(base, (own, buffers), (x,))

        for step in range(STEPS):
            opt.zero_grad()
            x, y = batch(step)
            found = torch.vmap(outputs, in_dims=(0, None))(params, x)
            (found - y).square().mean((1, 2)).sum().backward()
            opt.step()
        runs.append({name: each.detach() for name, each in params.items()})
    assert_close(*runs)


def test_a_parametrization_that_moves_a_parameter() -> None:
    """A parametrization that is registered after the optimizer was made may move its parameter, and the step says so."""
    model = network()
    opt = ours(groups_of(model))
    utils.parametrizations.orthogonal(model[0])
    loss_of(model, 0).backward()
    with pytest.raises(RuntimeError, match=r"0\.weight: .*moved.*make a new FusedOptimizer"):
        opt.step()
