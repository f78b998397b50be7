"""The data and the network of `lrcore demo`, with hand-written forward and backward passes.

The network has one hidden layer with ReLU, and a softmax over ten classes. It accepts the arrays of any module `xp`
with NumPy's interface.

In the shapes below, n is the number of images, D of pixels, H of hidden units, and C of classes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lrcore._extras import optional_dependency
from lrcore._names import explain_keywords
from lrcore.pack import Pack

Parameters: TypeAlias = Pack | dict[str, NDArray[Any]]
"""The arrays of the network, or their gradients: w1 (D, H), b1 (H,), w2 (H, C), b2 (C,)."""


@explain_keywords
@dataclasses.dataclass(frozen=True, eq=False)
class Digits:
    """Training and test images, float32 (n, D) from 0 to 1, and their classes, int64 (n,)."""

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]

    @explain_keywords
    def to(self, xp: ModuleType) -> Digits:
        """Return the same data as arrays of `xp`."""
        return Digits(*map(xp.asarray, vars(self).values()))


@explain_keywords
def load(seed: int) -> Digits:
    """Return the 1797 images of 8 by 8 pixels that scikit-learn bundles, with a fifth of each class as test images."""
    with optional_dependency("demo"):
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    images, classes = load_digits(return_X_y=True)
    x = (images / images.max()).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        x, classes, test_size=0.2, stratify=classes, random_state=seed
    )
    return Digits(train_x, train_y, test_x, test_y)


def batches(
    count: int, batch_size: int, epochs: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of each batch; each epoch has all `count` indices in a new order.

    The last batch of an epoch may be smaller than `batch_size`.
    """
    for _ in range(epochs):
        order = rng.permutation(count)
        for start in range(0, count, batch_size):
            yield order[start : start + batch_size]


def initialize(pixels: int, hidden: int, classes: int, rng: np.random.Generator, xp: ModuleType = np) -> Pack:
    """Return the initial parameters: normally distributed weights with variance 2 / fan-in, and zero biases.

    The weights are drawn with NumPy, whichever module `xp` is.

    References
    ----------
    He et al. 2015, "Delving Deep into Rectifiers", equation 10.
    """
    params = Pack({"w1": (pixels, hidden), "b1": hidden, "w2": (hidden, classes), "b2": classes}, xp=xp)
    for name in ("w1", "w2"):
        shape = params[name].shape
        weights = rng.normal(scale=math.sqrt(2 / shape[0]), size=shape)
        params[name] = xp.asarray(weights.astype(np.float32))
    return params


def forward(params: Parameters, x: Any, xp: ModuleType = np) -> tuple[Any, Any]:
    """Return the hidden activations (n, H) and the logits (n, C) of images x (n, D)."""
    hidden = xp.maximum(x @ params["w1"] + params["b1"], 0)
    return hidden, hidden @ params["w2"] + params["b2"]


def log_softmax(logits: Any, xp: ModuleType = np) -> Any:
    """Return the log-probabilities (n, C) for the logits (n, C)."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))


def loss_and_gradient(params: Parameters, grads: Parameters, x: Any, y: Any, xp: ModuleType = np) -> float:
    """Return the mean cross-entropy in nats of images x (n, D) of classes y (n,), and write its gradient to `grads`.

    On a GPU, both are complete when the function returns.
    """
    hidden, logits = forward(params, x, xp)
    log_p = log_softmax(logits, xp)
    own_class = xp.arange(len(y)), y
    loss = -log_p[own_class].mean()

    d_logits = xp.exp(log_p)  # (n, C)
    d_logits[own_class] -= 1
    d_logits /= len(y)
    d_hidden = (d_logits @ params["w2"].T) * (hidden > 0)  # (n, H)

    grads["w2"][...] = hidden.T @ d_logits
    grads["b2"][...] = d_logits.sum(axis=0)
    grads["w1"][...] = x.T @ d_hidden
    grads["b1"][...] = d_hidden.sum(axis=0)
    return float(loss)  # at the end, because it waits for the GPU


def accuracy(params: Parameters, x: Any, y: Any, xp: ModuleType = np) -> float:
    """Return the fraction of the images x (n, D) whose largest logit is that of their class y (n,)."""
    _, logits = forward(params, x, xp)
    return float((logits.argmax(axis=1) == y).mean())
