"""Modules to train, and optimizers for them. Tests that import this file are skipped without PyTorch."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

import lrcore
from support import assert_bits, gradients

torch = pytest.importorskip("torch")

import lrcore.torch

FusedOptimizer = lrcore.torch.FusedOptimizer

ARGUMENTS: dict[str, dict[str, Any]] = {
    "SGD": {"momentum": 0.9, "weight_decay": 0.01},
    "Lion": {"lr": 1e-3},
    "Adadelta": {"lr": 1.0},
}
"""Arguments for the optimizers whose defaults would leave something untested."""
NAMES = [name for name in lrcore.optimizers.__all__ if name != "Optimizer"]
each_optimizer = pytest.mark.parametrize("name", NAMES)
each_of_torch = pytest.mark.parametrize("name", [name for name in NAMES if hasattr(torch.optim, name)])


OWN = {
    "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.05, "momentum": 0.5, "dampening": 0.125, "rho": 0.8,
    "alpha": 0.9, "lr_decay": 0.1, "momentum_decay": 0.01,
}  # fmt: skip
"""Numbers that differ from the defaults of every class, for a group."""
LINEAR = lrcore.schedules.Linear(0.25, end=0.0, steps=10)
SHAPES = ((3, 5), (), (0, 4), (17,), (2, 3, 2, 2), (1,))


def zeros(*shape: int) -> Any:
    return torch.nn.Parameter(torch.zeros(shape))


def ones(*shape: int, **options: Any) -> Any:
    return torch.nn.Parameter(torch.ones(shape, **options))


def sgd(*weights: Any, lr: Any = 1.0, **others: Any) -> Any:
    return FusedOptimizer(weights, lrcore.SGD, lr=lr, **others)


def weights(seed: int = 0) -> list[Any]:
    """Return parameters of `SHAPES`: one has no elements, one is a number, and the images are channels last."""
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(shape, generator=generator) for shape in SHAPES]
    return [
        torch.nn.Parameter(each.to(memory_format=torch.channels_last) if each.ndim == 4 else each)
        for each in found
    ]


def own_numbers(name: str) -> dict[str, Any]:
    """Return numbers of a group for an optimizer, all different from its defaults."""
    hyper = getattr(lrcore, name)(np.zeros(0, np.float32)).hyper
    return {"lr": 0.02, "maximize": True} | {each: OWN[each] for each in hyper}


def in_groups(name: str, params: Sequence[Any]) -> list[dict[str, Any]]:
    """Return three groups: with the optimizer's numbers, with numbers of its own, and with a rate of its own."""
    return [
        {"params": [*params[0::3]]},
        {"params": [*params[1::3]], **own_numbers(name)},
        {"params": [*params[2::3]], "lr": 0.003},
    ]


def grouped(name: str, params: Sequence[Any], **others: Any) -> Any:
    """Return an optimizer of the groups of `in_groups`."""
    arguments = ARGUMENTS.get(name, {}) | {"lr": 0.01} | others
    return FusedOptimizer(in_groups(name, params), getattr(lrcore, name), **arguments)


def stepping(*rates: Any, **arguments: Any) -> tuple[list[Any], Any]:
    """Return parameters of one number with gradients of 1, each in a group with a rate, and an SGD optimizer.

    A rate of None is the optimizer's.
    """
    params = [zeros(1) for _ in rates]
    for each in params:
        each.grad = torch.ones(1)
    groups = [
        {"params": [each]} if rate is None else {"params": [each], "lr": rate}
        for each, rate in zip(params, rates, strict=True)
    ]
    return params, FusedOptimizer(groups, lrcore.SGD, **arguments)


def give(params: Iterable[Any], seed: Sequence[int], share: float = 1.0) -> None:
    """Assign random gradients, which span nine decades, to a random share of the parameters, and None to the others."""
    rng = np.random.default_rng(seed)
    for each in params:
        grad = torch.empty_like(each).copy_(torch.from_numpy(gradients(rng, each.numel())).view(each.shape))
        each.grad = grad if rng.random() < share else None


class Separate:
    """The definition of a step: a separate lrcore optimizer for a flat copy of each parameter.

    It has the numbers of the parameter's group, and steps when the parameter has a gradient.
    """

    def __init__(self, name: str, groups: Iterable[dict[str, Any]], **others: Any) -> None:
        self.make = getattr(lrcore, name)
        self.arguments = ARGUMENTS.get(name, {}) | {"lr": 0.01} | others
        self.groups: list[list[tuple[Any, Any]]] = []
        for group in groups:
            self.add(group)

    def add(self, group: dict[str, Any]) -> None:
        """Add the parameters of a group."""
        numbers = self.arguments | {name: value for name, value in group.items() if name != "params"}
        self.groups.append([(each, self.made(each, numbers)) for each in group["params"]])

    def made(self, parameter: Any, numbers: dict[str, Any]) -> Any:
        return self.make(parameter.detach().reshape(-1).clone(), **numbers)

    def change(self, i: int, **numbers: Any) -> None:
        """Assign numbers of a group."""
        for _, its in self.groups[i]:
            for name, value in numbers.items():
                if name == "lr":
                    its.lr = value
                elif name == "maximize":
                    its.groups[0].maximize = value
                else:
                    its.hyper[name] = value

    def of(self, parameter: Any) -> Any:
        """Return the optimizer of a parameter."""
        return next(its for group in self.groups for each, its in group if each is parameter)

    def step(self, grad_scale: float = 1.0) -> None:
        """Take a step on the gradients of the parameters themselves."""
        for group in self.groups:
            for parameter, its in group:
                if parameter.grad is not None:
                    its.step(parameter.grad.detach().reshape(-1).contiguous(), grad_scale=grad_scale)

    def assert_same(self, opt: Any) -> None:
        """Check that parameters and states have equal bits, and that each parameter has counted its own steps."""
        for group in self.groups:
            for parameter, its in group:
                assert_bits(parameter.detach().reshape(-1).numpy(), its.params.numpy(), "params")
                entries = opt.state[parameter]
                if not its.step_count:
                    assert not entries or self.make is lrcore.Adagrad
                    continue
                assert entries.get("step", its.step_count) == its.step_count
                for name, flat in its.state.items():
                    assert_bits(entries[name].reshape(-1).numpy(), flat.numpy(), name)


def network(seed: int = 0, channels_last: bool = False) -> Any:
    """Return a network with weights of odd sizes, one of them a single number."""
    torch.manual_seed(seed)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 7), nn.PReLU(), nn.Linear(7, 3)
    )
    return model.to(memory_format=torch.channels_last) if channels_last else model


def build(name: str, model: Any, **others: Any) -> Any:
    return FusedOptimizer(model.parameters(), getattr(lrcore, name), **ARGUMENTS.get(name, {}) | others)


def built(name: str, seed: int = 0, **others: Any) -> tuple[Any, Any]:
    """Return a network and an optimizer for it."""
    model = network(seed)
    return model, build(name, model, **others)


def loss_of(model: Any, step: int) -> Any:
    """Return the loss for random images with classes that a network can learn."""
    generator = torch.Generator().manual_seed(step)
    y = torch.randint(3, (16,), generator=generator)
    x = torch.randn(16, 3, 5, 5, generator=generator)
    x = x + 2 * torch.nn.functional.one_hot(y, 3)[:, :, None, None]
    return torch.nn.functional.cross_entropy(model(x), y)


def train(model: Any, opt: Any, steps: range, set_to_none: bool = True) -> list[float]:
    """Train a model, and return the loss of each step."""
    losses = []
    for step in steps:
        opt.zero_grad(set_to_none=set_to_none)
        loss = loss_of(model, step)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def parameters(model: Any) -> list[Any]:
    """Return copies of the parameters."""
    return [each.detach().clone() for each in model.parameters()]


def assert_equal(model: Any, expected: list[Any]) -> None:
    for found, wanted in zip(model.parameters(), expected, strict=True):
        assert_bits(found.detach().cpu().numpy(), wanted.cpu().numpy())


def assert_close(params: Iterable[Any], expected: Iterable[Any], tolerance: float) -> None:
    """Check that the parameters differ by at most `tolerance` times 1 + |p|."""
    for found, wanted in zip(params, expected, strict=True):
        a, b = found.detach().numpy(), wanted.detach().numpy()
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def assert_shown(opt: Any) -> None:
    """Check that the parts of the inner optimizers have the numbers of their groups."""
    for inner in opt.optimizers:
        for part, group in zip(inner.groups[1:], opt.param_groups, strict=True):
            numbers = dict(part.hyper) | {"lr": part.lr, "maximize": part.maximize}
            for name, value in numbers.items():
                shown = group[name]
                if isinstance(value, tuple):
                    shown = tuple(float(each) for each in shown)
                assert shown == value, name


def own(saved: Any, i: int = 0) -> Any:
    """Return the entries of a state dictionary that PyTorch's dictionaries lack."""
    return json.loads(saved["param_groups"][i]["lrcore"])


def set_group(saved: Any, i: int = 0, **changes: Any) -> None:
    saved["param_groups"][i].update(changes)


def set_state(saved: Any, i: int, **changes: Any) -> None:
    saved["state"][i].update(changes)


def everything(opt: Any) -> tuple[Any, Any]:
    """Return copies of whatever a refused call must leave: the parameters, and the state dictionary."""
    params = [each.detach().clone() for group in opt.param_groups for each in group["params"]]
    return params, copy.deepcopy(opt.state_dict())


def assert_unchanged(opt: Any, before: tuple[Any, Any]) -> None:
    """Check that nothing has changed since `everything`."""
    params, saved = everything(opt)
    assert all(map(torch.equal, params, before[0]))
    assert_same_dictionary(saved, before[1])


def assert_same_dictionary(found: Any, expected: Any) -> None:
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for i, entries in expected["state"].items():
        assert found["state"][i].keys() == entries.keys()
        assert all(torch.equal(entries[name], found["state"][i][name]) for name in entries)
