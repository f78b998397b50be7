"""Modules to train, and optimizers for them. Tests that import this file are skipped without PyTorch."""

from __future__ import annotations

import json
from typing import Any

import pytest

import lrcore
from support import assert_bits

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


def zeros(*shape: int) -> Any:
    return torch.nn.Parameter(torch.zeros(shape))


def ones(*shape: int, **options: Any) -> Any:
    return torch.nn.Parameter(torch.ones(shape, **options))


def sgd(*weights: Any, lr: Any = 1.0, **others: Any) -> Any:
    return FusedOptimizer(weights, lrcore.SGD, lr=lr, **others)


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


def own(saved: Any) -> Any:
    """Return the entries of a state dictionary that PyTorch's dictionaries lack."""
    return json.loads(saved["param_groups"][0]["lrcore"])


def set_group(saved: Any, **changes: Any) -> None:
    saved["param_groups"][0].update(changes)


def set_state(saved: Any, i: int, **changes: Any) -> None:
    saved["state"][i].update(changes)


def assert_same_dictionary(found: Any, expected: Any) -> None:
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for i, entries in expected["state"].items():
        assert all(torch.equal(entries[name], found["state"][i][name]) for name in entries)
