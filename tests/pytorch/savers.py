"""Modules whose training runs are saved, with optimizers and rates of all kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lrcore
from lrcore.schedules import Cosine, Plateau, plateaus
from pytorch.modules import FusedOptimizer, assert_same_dictionary, loss_of, network, torch

RATES: dict[str, Callable[[], Any]] = {
    "number": lambda: 0.1,
    "schedule": lambda: Cosine(0.1, steps=20).warmup(2),
    "plateau": lambda: Plateau(Cosine(0.1, steps=20), factor=0.5, patience=1),
    "one plateau twice": lambda: (p := Plateau(0.1, factor=0.5, patience=1)).then(p * 0.5, at=5),
}
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (lrcore.SGD, {}),
    "SGD with momentum": (lrcore.SGD, {"momentum": 0.9}),
    "SGD with dampening": (lrcore.SGD, {"momentum": 0.9, "dampening": 0.1, "maximize": True}),
    "Lion": (lrcore.Lion, {}),
    "AdamW": (lrcore.AdamW, {"amsgrad": True}),
    "Adam with eps before the correction": (lrcore.Adam, {"eps_placement": "hat"}),
    "NAdam": (lrcore.NAdam, {}),
    "RAdam with independent decay": (lrcore.RAdam, {"weight_decay": 0.01, "decay": "independent"}),
}


def build(optimizer: str = "AdamW", rate: str = "plateau", seed: int = 0) -> tuple[Any, Any]:
    cls, options = OPTIMIZERS[optimizer]
    model = network(seed)
    return model, FusedOptimizer(model.parameters(), cls, lr=RATES[rate](), **options)


def parted(seed: int) -> tuple[Any, Any]:
    """Return a module with a shared parameter, and its two optimizers."""
    model = network(seed)
    model.append(torch.nn.Linear(3, 3)).append(torch.nn.Linear(3, 3))
    model[-1].weight = model[-2].weight
    first, *others = model.parameters()
    return model, [
        FusedOptimizer([first], lrcore.SGD, lr=0.1, momentum=0.9),
        FusedOptimizer(others, lrcore.Lion, lr=RATES["plateau"]()),
    ]


def train(model: Any, opts: Any, steps: range) -> None:
    """Train a module with one or several optimizers."""
    opts = opts if isinstance(opts, list) else [opts]
    for step in steps:
        for opt in opts:
            opt.zero_grad()
        loss_of(model, step).backward()
        for opt in opts:
            opt.step()
            for each in plateaus(opt.schedule):
                each.observe(1.0)


def assert_same(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
    """Check that the modules have equal bits and the optimizers agree in whatever affects later steps."""
    for name, values in one[0].state_dict().items():
        assert torch.equal(values, other[0].state_dict()[name]), name
    for each in ("step_count", "lr", "schedule"):
        assert getattr(one[1], each) == getattr(other[1], each)
    assert_same_dictionary(one[1].state_dict(), other[1].state_dict())
