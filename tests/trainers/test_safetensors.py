"""Modules that `lrcore.torch.FusedOptimizer` trains in files of safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytorch.modules import assert_same_dictionary
from trainers.runs import (
    STEPS,
    assert_moved,
    assert_same,
    groups_of,
    language_model,
    loss_of,
    network,
    ours,
    torch,
    values,
)  # fmt: skip

safetensors = pytest.importorskip("safetensors.torch")

TOKENS = torch.arange(12)[None]


def train(model: Any, opt: Any, steps: range) -> None:
    """Train either module of `runs`."""
    for step in steps:
        opt.zero_grad()
        loss = model(TOKENS, labels=TOKENS).loss if hasattr(model, "config") else loss_of(model, step)
        loss.backward()
        opt.step()


def test_a_module_and_its_optimizer(tmp_path: Path) -> None:
    """A module in use is saved, with a shared parameter, and loaded into another one in use, which then continues it.

    States and gradients can be saved too.
    """
    model, other = network(0), network(1)
    opt, its = ours(groups_of(model)), ours(groups_of(other))
    train(model, opt, range(25))
    train(other, its, range(3))
    safetensors.save_model(model, tmp_path / "model")
    torch.save(opt.state_dict(), tmp_path / "optimizer")
    states = {f"{i}.{name}": each for i, of in opt.state_dict()["state"].items() for name, each in of.items()}
    gradients = {name: each.grad for name, each in model.named_parameters()}
    for tensors in (states, gradients):
        safetensors.save_file(tensors, tmp_path / "tensors")
        assert_same(safetensors.load_file(tmp_path / "tensors"), tensors)

    safetensors.load_model(other, tmp_path / "model")
    assert other[4].weight is other[3].weight
    its.load_state_dict(torch.load(tmp_path / "optimizer", mmap=True))
    assert_same(values(other), values(model))
    for each in ((model, opt), (other, its)):
        train(*each, range(25, STEPS))
    assert_same(values(other), values(model))
    assert_same_dictionary(its.state_dict(), opt.state_dict())


def test_pretrained_models(tmp_path: Path) -> None:
    """save_pretrained writes a module in use; from_pretrained returns a module that a new optimizer continues."""
    pytest.importorskip("transformers")
    model = language_model().eval()  # without dropout
    opt = ours(groups_of(model))
    train(model, opt, range(3))
    model.save_pretrained(tmp_path)
    saved = opt.state_dict()
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    its = ours(groups_of(loaded))
    its.load_state_dict(saved)
    assert_same(values(loaded), values(model))
    for each in ((model, opt), (loaded, its)):
        train(*each, range(3, 6))
    assert_same(values(loaded), values(model))
    assert_moved(values(model), values(type(model).from_pretrained(tmp_path)))
