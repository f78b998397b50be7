"""Classify points on two spirals with a small network, in NumPy alone, with a hand-written backward pass.

The parameters are in a `Pack`. A second pack holds the gradients and is bound to the optimizer, so ``opt.step()`` needs
no argument. The learning rate warms up and then falls along a cosine.

    python examples/spirals.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lrcore

HIDDEN, STEPS, WARMUP = 64, 1000, 50


def spirals(count: int, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return `count` points (count, 2), and the number of the spiral that each lies on, 0 or 1 (count,)."""
    arm = rng.integers(2, size=count)
    turns = rng.uniform(0.2, 1.5, size=count)  # turns around the center; also the distance from it
    angle = 2 * np.pi * turns + np.pi * arm
    points = turns[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points += rng.normal(scale=0.02, size=points.shape)
    return points.astype(np.float32), arm.astype(np.float32)


def forward(params: Mapping[str, Any], x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the hidden layer (n, HIDDEN) and the logits (n,) of points x (n, 2)."""
    hidden = np.tanh(x @ params["w1"] + params["b1"])
    return hidden, hidden @ params["w2"] + params["b2"]


def loss_and_gradient(
    params: Mapping[str, Any], grads: Mapping[str, Any], x: NDArray[Any], y: NDArray[Any]
) -> float:
    """Return the mean cross-entropy of points x (n, 2) on spirals y (n,), and store its gradient in `grads`."""
    hidden, logits = forward(params, x)
    probability = (1 + np.tanh(logits / 2)) / 2  # the logistic function, in a form that cannot overflow
    d_logits = (probability - y) / len(y)  # (n,)
    d_hidden = np.outer(d_logits, params["w2"]) * (1 - hidden**2)  # (n, HIDDEN)
    grads["w2"][...] = hidden.T @ d_logits
    grads["b2"][...] = d_logits.sum()
    grads["w1"][...] = x.T @ d_hidden
    grads["b1"][...] = d_hidden.sum(axis=0)
    return float((np.logaddexp(0, logits) - y * logits).mean())


def main() -> float:
    """Train on 500 points, and return the accuracy on 500 others."""
    rng = np.random.default_rng(0)
    x, y = spirals(500, rng)
    test_x, test_y = spirals(500, rng)

    params = lrcore.Pack({"w1": (2, HIDDEN), "b1": HIDDEN, "w2": HIDDEN, "b2": 1})
    params["w1"] = 3 * rng.normal(size=(2, HIDDEN))
    params["w2"] = rng.normal(size=HIDDEN) / np.sqrt(HIDDEN)
    grads = params.like()
    schedule = lrcore.schedules.Cosine(0.05, steps=STEPS - WARMUP).warmup(WARMUP)
    opt = lrcore.AdamW(params, lr=schedule, grads=grads, weight_decay=0.01)

    for step in range(STEPS):
        rate = opt.lr
        loss = loss_and_gradient(params, grads, x, y)
        opt.step()
        if step in (0, WARMUP, STEPS - 1):
            print(f"step {step}: rate {rate:.2g}, loss {loss:.4f}")

    accuracy = float(((forward(params, test_x)[1] > 0) == test_y).mean())
    print(f"test accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
