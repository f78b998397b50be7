"""Train a character-level language model on sums such as "17+25=42" in NumPy, with parameter groups and a nested Pack.

The model predicts each character of a line from the characters before it. It consists of an embedding, residual layers
with normalization, and an output layer. Parameter groups select arrays by name. Matrices decay, but biases and the
gains of the normalizations do not. The embedding has half the rate, and is frozen while the rate warms up. At the end,
the model generates lines, and completes sums that it was not trained on.

    python examples/character_model.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lrcore

CHARS = "\n+0123456789="  # a newline ends each line
PLACES = len("99+99=198")  # the number of characters that the model sees
WIDTH, HIDDEN = 64, 128
STEPS, WARMUP, BATCH = 1500, 100, 384

LAYER = {"gain": WIDTH, "w": (WIDTH, HIDDEN), "b": HIDDEN, "out": (HIDDEN, WIDTH)}
HEAD = {"gain": WIDTH, "w": (WIDTH, len(CHARS)), "b": len(CHARS)}
SHAPES = {"embed": (PLACES * len(CHARS), WIDTH), "layers": [LAYER, LAYER], "head": HEAD}


def inputs(texts: list[str]) -> NDArray[np.float32]:
    """Return the last characters of each text as ones among zeros (len(texts), PLACES * 13).

    A text that is too short is preceded by newlines.
    """
    codes = [[CHARS.index(char) for char in text.rjust(PLACES, "\n")[-PLACES:]] for text in texts]
    ones: NDArray[np.float32] = np.eye(len(CHARS), dtype=np.float32)[codes]
    return ones.reshape(len(texts), -1)


def root_mean_square(x: NDArray[Any]) -> Any:
    """Return the root mean square of each row of x (n, WIDTH) as a column (n, 1)."""
    return np.sqrt((x * x).mean(axis=1, keepdims=True) + 1e-6)


def linear(layer: Mapping[str, Any], x: NDArray[Any]) -> Any:
    """Return the linear map of the normalized rows of x (n, WIDTH)."""
    return (layer["gain"] * x / root_mean_square(x)) @ layer["w"] + layer["b"]


def linear_gradient(
    layer: Mapping[str, Any], grads: Mapping[str, Any], x: NDArray[Any], d_y: NDArray[Any]
) -> Any:
    """Return the gradient with respect to x, from the one with respect to linear(layer, x), and store the others."""
    scale = root_mean_square(x)
    unit = x / scale
    d_scaled = d_y @ layer["w"].T
    grads["gain"][...] = (d_scaled * unit).sum(axis=0)
    grads["w"][...], grads["b"][...] = (layer["gain"] * unit).T @ d_y, d_y.sum(axis=0)
    d_unit = d_scaled * layer["gain"]
    return (d_unit - unit * (d_unit * unit).mean(axis=1, keepdims=True)) / scale


def forward(params: Mapping[str, Any], x: NDArray[Any]) -> tuple[list[Any], list[Any], NDArray[Any]]:
    """Return the inputs of the layers and the head, the hidden values of the layers, and the logits (n, 13)."""
    streams, hidden = [x @ params["embed"]], []  # (n, WIDTH) and (n, HIDDEN) each
    for layer in params["layers"]:
        hidden.append(np.maximum(linear(layer, streams[-1]), 0))
        streams.append(streams[-1] + hidden[-1] @ layer["out"])
    return streams, hidden, linear(params["head"], streams[-1])


def loss_and_gradient(
    params: Mapping[str, Any], grads: Mapping[str, Any], x: NDArray[Any], y: NDArray[np.intp]
) -> float:
    """Return the mean cross-entropy of characters y (n,) after `inputs` x, and store its gradient in `grads`."""
    streams, hidden, logits = forward(params, x)
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    d_logits = (np.exp(log_p) - np.eye(len(CHARS), dtype=log_p.dtype)[y]) / len(y)
    d_stream = linear_gradient(params["head"], grads["head"], streams[-1], d_logits)
    for i in reversed(range(len(hidden))):
        layer, d_layer = params["layers"][i], grads["layers"][i]
        d_layer["out"][...] = hidden[i].T @ d_stream
        d_hidden = (d_stream @ layer["out"].T) * (hidden[i] > 0)
        d_stream = d_stream + linear_gradient(layer, d_layer, streams[i], d_hidden)
    grads["embed"][...] = x.T @ d_stream
    return float(-log_p[np.arange(len(y)), y].mean())


def completed(
    params: Mapping[str, Any], texts: list[str], rng: np.random.Generator | None = None
) -> list[str]:
    """Return the texts, continued by the likeliest characters, or by random ones with the model's probabilities."""
    for _ in range(PLACES + 1):
        scores = forward(params, inputs(texts))[-1]
        if rng is not None:
            scores += rng.gumbel(size=scores.shape)  # the largest sum is a sample of the softmax
        chars = [CHARS[k] for k in scores.argmax(axis=1)]
        texts = [text + char * (text[-1:] != "\n") for text, char in zip(texts, chars, strict=True)]
    return texts


def main() -> float:
    """Train on nine tenths of the sums of numbers below 100, and return the accuracy on the remaining sums."""
    rng = np.random.default_rng(0)
    lines = [f"{a}+{b}={a + b}\n" for a, b in rng.permutation([divmod(k, 100) for k in range(10_000)])]
    contexts = [line[:i] for line in lines for i in range(len(line))]
    x, y = inputs(contexts), np.array([CHARS.index(char) for char in "".join(lines)])
    train = len("".join(lines[:9000]))

    params = lrcore.Pack(SHAPES)
    params["embed"] = rng.normal(scale=PLACES**-0.5, size=params["embed"].shape)
    for part in (*params["layers"], params["head"]):
        part["gain"] = 1
        part["w"] = rng.normal(scale=WIDTH**-0.5, size=part["w"].shape)
    grads = params.like()
    schedule = lrcore.schedules.Cosine(0.01, steps=STEPS - WARMUP).warmup(WARMUP)
    groups = lrcore.decay_groups(params, 0.1, [{"params": "embed", "lr_scale": 0.5, "frozen": True}])
    opt = lrcore.AdamW(params, lr=schedule, grads=grads, groups=groups)

    before = loss_and_gradient(params, grads, x[train:], y[train:])
    for step in range(STEPS):
        if step == WARMUP:
            opt.groups[1].frozen = False  # opt.groups[0] is for arrays that no group names
        batch = rng.integers(train, size=BATCH)
        loss_and_gradient(params, grads, x[batch], y[batch])
        opt.step()
    after = loss_and_gradient(params, grads, x[train:], y[train:])

    for group in opt.groups[1:]:
        decay, names = group.hyper["weight_decay"], ", ".join(group.names or ())
        print(f"decay {decay}, rate times {group.lr_scale}, {group.step_count} steps: {names}")
    # A perfect model gives each of the 10,000 lines the same probability.
    least = 1000 * np.log(10_000) / len(y[train:])
    print(f"loss on unseen lines: {before:.3f} before, {after:.3f} after, {least:.3f} for a perfect model")
    print("generated: " + " ".join(completed(params, [""] * 8, rng)).replace("\n", ""))
    questions = [line[: line.index("=") + 1] for line in lines[9000:]]
    accuracy = float(np.equal(completed(params, questions), lines[9000:]).mean())
    print(f"unseen sums completed correctly: {accuracy:.3f}")
    return accuracy


if __name__ == "__main__":
    main()
