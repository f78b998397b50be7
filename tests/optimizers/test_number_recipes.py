"""Schedules of momentum and weight decay have the numbers of PyTorch's schedulers and of optax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore.schedules import Cosine, Cyclic, OneCycle
from support import N, gradients, start

STEPS = 100


@pytest.mark.parametrize(
    ("name", "arguments", "lr", "momentum"),
    [
        (
            "OneCycleLR",
            {"max_lr": 1.0, "total_steps": STEPS},
            OneCycle(1.0, steps=STEPS),
            Cosine(0.95, steps=29, end=0.85).then(Cosine(0.85, steps=70, end=0.95), at=29),
        ),
        (
            "CyclicLR",
            {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 10, "step_size_down": 20},
            Cyclic(0.01, 0.1, up=10, down=20),
            Cyclic(0.8, 0.9, up=20, down=10).shift(20),
        ),
    ],
)
def test_the_momentum_of_pytorchs_schedulers(name: str, arguments: Any, lr: Any, momentum: Any) -> None:
    """The numbers agree up to float64 rounding. After 100 steps, the parameters agree up to float32 rounding."""
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.from_numpy(start()))
    theirs = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    scheduler = getattr(torch.optim.lr_scheduler, name)(theirs, **arguments)
    opt = lrcore.SGD(start(), lr, momentum=momentum)
    rng = np.random.default_rng(0)
    for t in range(STEPS):
        group = theirs.param_groups[0]
        np.testing.assert_allclose(
            [opt.lr, opt.hyper["momentum"]], [group["lr"], group["momentum"]], rtol=1e-12
        )
        g = rng.standard_normal(N, dtype=np.float32)
        weight.grad = torch.from_numpy(g.copy())
        theirs.step()
        opt.step(g)
        if t < STEPS - 1:
            scheduler.step()
    # 100 steps, each of which rounds p twice and, through the momentum, the buffer 20 times as much in total
    largest = float(np.abs(opt.params).max())
    np.testing.assert_allclose(
        opt.params, weight.detach().numpy(), rtol=0, atol=100 * 22 * largest * 2.0**-24
    )


def test_the_injected_weight_decay_of_optax() -> None:
    """Optax computes in float32, so its weight decay and parameters agree up to float32 rounding."""
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    decay = Cosine(0.4, steps=20, end=0.04)
    theirs = optax.inject_hyperparams(optax.adamw)(
        0.01, weight_decay=optax.cosine_decay_schedule(0.4, 20, alpha=0.1)
    )
    params = jax.numpy.array(start())
    state = theirs.init(params)
    opt = lrcore.AdamW(start(), 0.01, weight_decay=decay)
    for t in range(30):
        g = gradients(np.random.default_rng(t), N)
        updates, state = theirs.update(jax.numpy.array(g), state, params)
        np.testing.assert_allclose(state.hyperparams["weight_decay"], decay(t), rtol=1e-6)
        params = optax.apply_updates(params, updates)
        opt.step(g)
    # 30 steps, each of which rounds p three times by at most 2^-24 of its size, which is at most 3
    np.testing.assert_allclose(opt.params, np.asarray(params), rtol=0, atol=30 * 3 * 3 * 2.0**-24)
