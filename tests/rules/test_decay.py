"""Independent weight decay: its definition in groups, and AdamW as its paper prints it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import lrcore
from lrcore.schedules import Cosine
from support import assert_bits


def test_independent_decay_depends_on_no_rate() -> None:
    """The first group has the optimizer's numbers, and each of the others one of its own."""
    own = [{"lr_scale": 0.25}, {"lr": 0.0}, {"weight_decay": 0.125}, {"weight_decay": 2.0**-25}]
    for lr in (0.0, 0.5):
        groups = [{"params": (i, i + 1), **each} for i, each in enumerate(own, 1)]
        opt = lrcore.Lion(np.ones(5, np.float32), lr, weight_decay=0.5, decay="independent", groups=groups)
        for _ in range(2):
            opt.step(np.zeros(5, np.float32))
        assert_bits(opt.params, np.array([0.25, 0.25, 0.25, 0.765625, 1], np.float32))


def test_adamw_as_its_paper_prints_it() -> None:
    """Algorithm 2 of Loshchilov & Hutter 2019, in float64, with a multiplier for the rate and the decay alike.

    A float32 step rounds p three times, by at most 2^-24 of its size each, which is at most 3; the rest of the step
    is a hundredth of that, with about ten roundings. Decay at the wrong rate would differ by more than 0.1.
    """
    alpha, decay, steps = 0.01, 0.05, 50
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    multiplier = Cosine(1.0, steps=steps)
    rng = np.random.default_rng(24)
    params = rng.uniform(-3, 3, 100).astype(np.float32)
    p, m, v = params.astype(np.float64), np.zeros(100), np.zeros(100)
    arguments: dict[str, Any] = {"weight_decay": decay * multiplier, "decay": "independent"}
    opt = lrcore.AdamW(params, alpha * multiplier, betas=(beta1, beta2), eps=eps, **arguments)
    for t in range(1, steps + 1):
        g = rng.standard_normal(100).astype(np.float32)
        eta = 0.5 * (1 + math.cos(math.pi * (t - 1) / steps))
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g.astype(np.float64) ** 2
        corrected = m / (1 - beta1**t), v / (1 - beta2**t)
        p = p - eta * (alpha * corrected[0] / (np.sqrt(corrected[1]) + eps) + decay * p)
        opt.step(g)
        np.testing.assert_allclose(params, p, rtol=0, atol=t * 4 * 3 * 2.0**-24)
