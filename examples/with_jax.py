"""Update NumPy parameters in place with the gradient of a function that JAX has compiled.

The parameters are in a nested `Pack`. Its ``tree()`` is passed directly to a jitted function, and
``grads.assign(tree)`` copies JAX's gradient into a second pack. JAX arrays are immutable, so they cannot be parameters.
A single flat JAX array can be passed to ``opt.step(gradient)`` as the gradient without a copy.

    pip install jax
    python examples/with_jax.py
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

import lrcore

try:
    import jax
    import jax.numpy as jnp
except ModuleNotFoundError as error:
    raise SystemExit("jax is not installed: pip install jax") from error

STEPS = 1000
WIDTHS = (2, 64, 64, 1)


def predict(params: dict[str, Any], x: Any) -> Any:
    """Return the heights (n, 1) that the network predicts at points x (n, 2)."""
    *hidden, last = params["layers"]
    for layer in hidden:
        x = jnp.tanh(x @ layer["w"] + layer["b"])  # (n, 64)
    return x @ last["w"] + last["b"]


def loss(params: dict[str, Any], x: Any, y: Any) -> Any:
    """Return the mean squared error of the prediction at points x (n, 2) against heights y (n, 1)."""
    return jnp.mean((predict(params, x) - y) ** 2)


def surface(x: Any) -> Any:
    """Return the heights (n, 1) of the target surface at points x (n, 2)."""
    return np.sin(3 * x[:, :1]) * np.cos(3 * x[:, 1:])


def main() -> float:
    """Fit a surface, and return the root-mean-square error at points that were not used for fitting."""
    rng = np.random.default_rng(0)
    x, test_x = rng.uniform(-1, 1, size=(2, 500, 2)).astype(np.float32)
    y = surface(x)

    layers = [{"w": (rows, columns), "b": columns} for rows, columns in pairwise(WIDTHS)]
    params = lrcore.Pack({"layers": layers})
    for layer in params["layers"]:
        layer["w"] = rng.normal(scale=len(layer["w"]) ** -0.5, size=layer["w"].shape)
    grads = params.like()
    opt = lrcore.Adam(params, lr=lrcore.schedules.Cosine(0.05, steps=STEPS), grads=grads)

    loss_and_gradient = jax.jit(jax.value_and_grad(loss))
    for _ in range(STEPS):
        # JAX reads NumPy's memory in place, and may still be reading it after the call has returned. The parameters
        # must not change before the results are ready.
        value, gradient = jax.block_until_ready(loss_and_gradient(params.tree(), x, y))
        grads.assign(gradient)
        opt.step()

    error = float(jnp.sqrt(jnp.mean((predict(params.tree(), test_x) - surface(test_x)) ** 2)))
    print(f"last loss {value:.6f} after {opt.step_count} steps on {opt.size} parameters")
    print(f"error at unseen points: {error:.4f}")
    return error


if __name__ == "__main__":
    main()
