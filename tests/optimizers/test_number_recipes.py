"""Schedules of momentum and weight decay have the numbers of PyTorch's schedulers and of optax."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import lrcore
from lrcore.schedules import Cosine, Cyclic, Linear, OneCycle
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


def test_the_weight_decay_of_dino() -> None:
    """DINO (Caron et al. 2021) raises the weight decay from 0.04 to 0.4 along a half cosine, as Cosine does."""
    i = np.arange(STEPS)
    theirs = 0.4 + 0.5 * (0.04 - 0.4) * (1 + np.cos(np.pi * i / STEPS))
    opt = lrcore.AdamW(start(), 1e-3, weight_decay=Cosine(0.04, steps=STEPS, end=0.4))
    for decay in theirs:
        np.testing.assert_allclose(opt.hyper["weight_decay"], decay, rtol=1e-12)
        opt.step(gradients(np.random.default_rng(0), N))


def test_the_beta2_warmup_of_optax() -> None:
    """Optax corrects with the current beta2 to the power t, too, in float32, so the parameters agree to its rounding.

    In float32, 1 - 0.999 has a relative error of 2^-24 / 0.001, and so have beta2's correction and the square root's
    operand; the error of the step is half as large.
    """
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    rise = Linear(0.95, end=0.999, steps=20)
    theirs = optax.inject_hyperparams(optax.adam)(0.01, b2=optax.linear_schedule(0.95, 0.999, 20))
    params = jax.numpy.array(start())
    state = theirs.init(params)
    opt = lrcore.Adam(start(), 0.01, betas=(0.9, rise))
    rng = np.random.default_rng(0)
    moved = 0.0
    for _ in range(30):
        g = rng.standard_normal(N, dtype=np.float32)
        before = opt.params.copy()
        updates, state = theirs.update(jax.numpy.array(g), state, params)
        params = optax.apply_updates(params, updates)
        opt.step(g)
        moved += float(np.abs(opt.params - before).max())
    error = moved * 2.0**-24 / 0.001 + 30 * float(np.abs(opt.params).max()) * 2.0**-24
    np.testing.assert_allclose(opt.params, np.asarray(params), rtol=0, atol=error)
