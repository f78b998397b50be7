"""Train a network with gradients from autograd: only the loss is written by hand, using autograd's NumPy.

The parameters are in a nested `Pack`. ``params.tree()`` returns them as plain dictionaries and lists, which autograd
can differentiate with respect to, and ``grads.assign(tree)`` copies a gradient of the same structure into the pack. The
data are float64, as is common, so autograd computes in float64. The parameters stay float32, and `assign` converts the
gradient.

    pip install autograd
    python examples/with_autograd.py
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import lrcore

try:
    import autograd.numpy as anp
    from autograd import value_and_grad
except ModuleNotFoundError as error:
    raise SystemExit("autograd is not installed: pip install autograd") from error

NOISE = 0.1
STEPS = 1000
WIDTHS = (1, 32, 32, 1)


def predict(params: dict[str, Any], x: Any) -> Any:
    """Return the network's output (n, 1) at x (n, 1)."""
    *hidden, last = params["layers"]
    for layer in hidden:
        x = anp.tanh(x @ layer["w"] + layer["b"])  # (n, 32)
    return x @ last["w"] + last["b"]


def loss(params: dict[str, Any], x: Any, y: Any) -> Any:
    """Return the mean squared error of the prediction at x (n, 1) against y (n, 1)."""
    return anp.mean((predict(params, x) - y) ** 2)


def main() -> float:
    """Fit noisy samples of a function, and return the root-mean-square error against the function itself."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, size=(400, 1))  # float64
    y = np.sin(3 * x) + rng.normal(scale=NOISE, size=x.shape)

    layers = [{"w": (rows, columns), "b": columns} for rows, columns in pairwise(WIDTHS)]
    params = lrcore.Pack({"layers": layers})
    for layer in params["layers"]:
        layer["w"] = rng.normal(scale=len(layer["w"]) ** -0.5, size=layer["w"].shape)
    grads = params.like()
    opt = lrcore.NAdam(params, lr=lrcore.schedules.Cosine(0.02, steps=STEPS), grads=grads)

    loss_and_gradient = value_and_grad(loss)
    for _ in range(STEPS):
        value, gradient = loss_and_gradient(params.tree(), x, y)
        grads.assign(gradient)
        opt.step()

    grid = np.linspace(-2, 2, 201)[:, None]
    error = float(np.sqrt(((predict(params.tree(), grid) - np.sin(3 * grid)) ** 2).mean()))
    print(f"last loss {value:.4f}, computed in {value.dtype}; parameters in {params.flat.dtype}")
    print(f"error against the function: {error:.3f}, with noise of {NOISE} in the samples")
    return error


if __name__ == "__main__":
    main()
