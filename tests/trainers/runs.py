"""A task for the tools that train models: a module, its batches, and the optimizers that are compared.

Every tool trains the same module on the same batches in two groups: once with `ours`, which is the optimizer under
test, and once with `theirs`, which is torch.optim.AdamW.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

import lrcore

torch = pytest.importorskip("torch")

import lrcore.torch

STEPS = 50
LR = 0.01
NUMBERS = {"betas": (0.9, 0.95), "eps": 1e-8}
MakeOptimizer = Callable[..., Any]


def network(seed: int = 0) -> Any:
    """Return a module with matrices, biases, a normalization layer and a shared parameter."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(8, 16), torch.nn.LayerNorm(16), torch.nn.Tanh(), torch.nn.Linear(16, 16),
        torch.nn.Linear(16, 16), torch.nn.Linear(16, 1),
    )  # fmt: skip
    model[4].weight = model[3].weight
    return model


def language_model(seed: int = 0) -> Any:
    """Return a small GPT-2 of transformers, with tied embeddings and with dropout, for 32 tokens and texts of 12."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        n_layer=2, n_embd=16, n_head=2, vocab_size=32, n_positions=12, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def batch(step: int, size: int = 12) -> tuple[Any, Any]:
    """Return the inputs and targets of a step."""
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(step))
    return x, x[:, :1] * x[:, 1:2] + 0.5


def loss_of(model: Any, step: int) -> Any:
    """Return the mean squared error on the batch of a step."""
    x, y = batch(step)
    return torch.nn.functional.mse_loss(model(x), y)


def groups_of(model: Any) -> list[dict[str, Any]]:
    """Return two groups of parameters, with and without weight decay."""
    groups: list[dict[str, Any]] = lrcore.torch.decay_groups(model, 0.1)
    return groups


def ours(params: Any, **numbers: Any) -> Any:
    return lrcore.torch.FusedOptimizer(params, lrcore.AdamW, **{"lr": LR, **NUMBERS, **numbers})


def theirs(params: Any, **numbers: Any) -> Any:
    return torch.optim.AdamW(params, **{"lr": LR, **NUMBERS, **numbers})


def our_sgd(params: Any, **numbers: Any) -> Any:
    """Return an optimizer whose steps are proportional to the gradients, which those of AdamW are not."""
    return lrcore.torch.FusedOptimizer(params, lrcore.SGD, **{"lr": LR, "momentum": 0.9, **numbers})


def their_sgd(params: Any, **numbers: Any) -> Any:
    return torch.optim.SGD(params, **{"lr": LR, "momentum": 0.9, **numbers})


def move(model: Any) -> None:
    """Replace the storage of the parameters, as moving a module to another device does."""
    for each in model.parameters():
        each.data = each.data.clone()


def values(model: Any) -> dict[str, Any]:
    """Return copies of the parameters of a module."""
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def assert_close(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Check that two runs agree in float32.

    The optimizers round differently, by 1e-7 of a value in each step, and the gradients of later steps carry this on.
    A difference of 1e-5 of the largest value leaves room for 100 such steps. A wrong number of one step would be seen:
    a step moves a parameter by up to 1e-2, and its weight decay alone by 1e-3 of the value.
    """
    assert one.keys() == other.keys()
    for name, each in one.items():
        scale = max(1.0, float(each.abs().max()))
        assert torch.allclose(each, other[name], rtol=0, atol=1e-5 * scale), name


def assert_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Check that two runs have equal bits."""
    assert one.keys() == other.keys()
    for name, each in one.items():
        assert torch.equal(each, other[name]), name


def assert_moved(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """Check that every parameter differs between two states of a run, so that a comparison of them means something."""
    assert one.keys() == other.keys()
    for name, each in one.items():
        assert not torch.equal(each, other[name]), name
