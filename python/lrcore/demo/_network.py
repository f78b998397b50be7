"""What `lrcore demo` trains: the digits, and the network with its forward and backward pass written out.

A hidden layer with ReLU and a softmax over ten classes, for the arrays of any module `xp` with NumPy's interface.

In the shapes below n is the number of images, D that of pixels, H of hidden units and C of classes.
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
    """Images, float32 (n, D) from 0 to 1, and their classes, int64 (n,): to train on, and to test with."""

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]

    @explain_keywords
    def to(self, xp: ModuleType) -> Digits:
        """Return the same as arrays of `xp`."""
        return Digits(*map(xp.asarray, vars(self).values()))


@explain_keywords
def load(seed: int) -> Digits:
    """Return the 1797 images of 8 by 8 pixels that scikit-learn bundles, a fifth of each class for the test."""
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
    """Yield the indices of each batch: every epoch all `count` in a new order, the last batch what is left."""
    for _ in range(epochs):
        order = rng.permutation(count)
        for start in range(0, count, batch_size):
            yield order[start : start + batch_size]


def initialize(pixels: int, hidden: int, classes: int, rng: np.random.Generator, xp: ModuleType = np) -> Pack:
    """Return the parameters before the first step: normal weights of variance 2 / fan-in, biases 0.

    NumPy draws them for every `xp`.

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
    """Return the logarithms (n, C) of the probabilities that the logits (n, C) mean."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))


def loss_and_gradient(params: Parameters, grads: Parameters, x: Any, y: Any, xp: ModuleType = np) -> float:
    """Return the mean cross-entropy in nats of images x (n, D) of classes y (n,); `grads` gets its gradient.

    On a GPU it returns when both are there.
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
    return float(loss)  # last: it waits for all of the above


def accuracy(params: Parameters, x: Any, y: Any, xp: ModuleType = np) -> float:
    """Return the share of the images x (n, D) whose largest logit is that of their class y (n,)."""
    _, logits = forward(params, x, xp)
    return float((logits.argmax(axis=1) == y).mean())
