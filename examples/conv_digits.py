"""Train a convolutional network on handwritten digits in NumPy, with a hand-written backward pass.

Each convolution is computed as a matrix product in which a row holds the 3 by 3 pixels around one pixel. All kernels,
weights and biases are in one `Pack`, so one fused step updates the network. Requires scikit-learn, which bundles the
digits.

    pip install scikit-learn
    python examples/conv_digits.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lrcore

try:
    from sklearn.datasets import load_digits
except ModuleNotFoundError as error:
    raise SystemExit("scikit-learn is not installed: pip install scikit-learn") from error

TRAIN, EPOCHS, BATCH = 1437, 20, 64
SHAPES = {"k1": (1 * 9, 16), "b1": 16, "k2": (16 * 9, 32), "b2": 32, "w": (4 * 4 * 32, 10), "b": 10}


def patches(images: NDArray[Any]) -> NDArray[Any]:
    """Return the zero-padded 3 by 3 patch around each pixel of images (n, h, w, c) as rows (n * h * w, c * 9)."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # (n, h, w, c, 3, 3)
    return windows.reshape(-1, images.shape[3] * 9)


def forward(params: Mapping[str, Any], x: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return the patches and the output of each of the two layers, and the logits, for images x (n, 8, 8, 1)."""
    patches1 = patches(x)  # (n * 64, 9)
    layer1 = np.maximum(patches1 @ params["k1"] + params["b1"], 0)  # (n * 64, 16)
    pooled = layer1.reshape(-1, 4, 2, 4, 2, 16).mean(axis=(2, 4))  # (n, 4, 4, 16), 2 by 2 average pooling
    patches2 = patches(pooled)  # (n * 16, 144)
    layer2 = np.maximum(patches2 @ params["k2"] + params["b2"], 0)  # (n * 16, 32)
    return patches1, layer1, patches2, layer2, layer2.reshape(-1, 512) @ params["w"] + params["b"]  # (n, 10)


def loss_and_gradient(
    params: Mapping[str, Any], grads: Mapping[str, Any], x: NDArray[Any], y: NDArray[np.int64]
) -> float:
    """Return the mean cross-entropy of images x (n, 8, 8, 1) with classes y (n,), and store its gradient in `grads`."""
    patches1, layer1, patches2, layer2, logits = forward(params, x)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    d_logits = (np.exp(log_p) - np.eye(10, dtype=log_p.dtype)[y]) / len(y)  # (n, 10)
    d_layer2 = (d_logits @ params["w"].T).reshape(-1, 32) * (layer2 > 0)  # (n * 16, 32)
    # The gradient of a convolution is a convolution with the kernel rotated by 180 degrees and its channels swapped.
    turned = params["k2"].reshape(16, 3, 3, 32)[:, ::-1, ::-1].transpose(3, 1, 2, 0).reshape(32 * 9, 16)
    d_pooled = (patches(d_layer2.reshape(-1, 4, 4, 32)) @ turned).reshape(-1, 4, 4, 16)
    d_means = (d_pooled / 4).repeat(2, axis=1).repeat(2, axis=2)  # (n, 8, 8, 16)
    d_layer1 = d_means.reshape(-1, 16) * (layer1 > 0)  # (n * 64, 16)

    grads["w"][...], grads["b"][...] = layer2.reshape(-1, 512).T @ d_logits, d_logits.sum(axis=0)
    grads["k2"][...], grads["b2"][...] = patches2.T @ d_layer2, d_layer2.sum(axis=0)
    grads["k1"][...], grads["b1"][...] = patches1.T @ d_layer1, d_layer1.sum(axis=0)
    return float(-log_p[np.arange(len(y)), y].mean())


def main() -> float:
    """Train on four fifths of the 1797 images, and return the accuracy on the remaining images."""
    images, classes = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(classes))
    x, y = (images[order] / 16).astype(np.float32).reshape(-1, 8, 8, 1), classes[order]

    params = lrcore.Pack(SHAPES)
    for name in ("k1", "k2", "w"):
        params[name] = rng.normal(scale=np.sqrt(2 / len(params[name])), size=params[name].shape)
    grads = params.like()
    schedule = lrcore.schedules.Cosine(0.01, steps=EPOCHS * -(-TRAIN // BATCH))
    opt = lrcore.AdamW(params, lr=schedule, grads=grads, weight_decay=0.1)

    for _ in range(EPOCHS):
        for batch in np.split(rng.permutation(TRAIN), range(BATCH, TRAIN, BATCH)):
            loss = loss_and_gradient(params, grads, x[batch], y[batch])
            opt.step()

    accuracy = float((forward(params, x[TRAIN:])[-1].argmax(axis=1) == y[TRAIN:]).mean())
    print(f"{params.flat.size} parameters, {opt.step_count} steps, last loss {loss:.4f}")
    print(f"test accuracy: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
