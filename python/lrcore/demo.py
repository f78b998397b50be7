"""`lrcore demo`: train a small network on handwritten digits, and draw how its loss fell.

A hidden layer with ReLU and a softmax over ten classes, in NumPy, forward and backward written out. All
parameters live in one `lrcore.Pack`, all gradients in another like it, and one fused step moves them all.

In the shapes below n is the number of images, D that of pixels, H of hidden units and C of classes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import lrcore

__all__ = ["RATES", "Digits", "Result", "add_arguments", "load", "plot", "report", "run", "train"]

Parameters: TypeAlias = lrcore.Pack | dict[str, NDArray[Any]]
"""The arrays of the network, or their gradients: w1 (D, H), b1 (H,), w2 (H, C), b2 (C,)."""

RATES = {
    "Adadelta": 10.0,
    "Adagrad": 0.05,
    "Adam": 0.01,
    "AdamW": 0.01,
    "Adamax": 0.02,
    "Lion": 0.002,
    "NAdam": 0.01,
    "RAdam": 0.02,
    "RMSprop": 0.005,
    "SGD": 1.0,
}
"""The learning rate at which each optimizer starts here, where none is given."""


@contextmanager
def _demo_extra() -> Iterator[None]:
    """Say how to install what is imported in this block and is not there."""
    try:
        yield
    except ModuleNotFoundError as error:
        module, _, _ = str(error.name).partition(".")
        package = "scikit-learn" if module == "sklearn" else module
        raise ImportError(f'{package} is not installed: pip install "lrcore[demo]"') from error


@dataclasses.dataclass(frozen=True, eq=False)
class Digits:
    """Images, float32 (n, D) from 0 to 1, and their classes, int64 (n,): to train on, and to test with."""

    train_x: NDArray[np.float32]
    train_y: NDArray[np.int64]
    test_x: NDArray[np.float32]
    test_y: NDArray[np.int64]


def load(seed: int) -> Digits:
    """Give the 1797 images of 8 by 8 pixels that scikit-learn bundles, a fifth of each class for the test."""
    with _demo_extra():
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
    """Give the indices of each batch: every epoch all `count` in a new order, the last batch what is left."""
    for _ in range(epochs):
        order = rng.permutation(count)
        for start in range(0, count, batch_size):
            yield order[start : start + batch_size]


def initialize(pixels: int, hidden: int, classes: int, rng: np.random.Generator) -> lrcore.Pack:
    """Give the parameters before the first step: normal weights of variance 2 / fan-in, biases 0.

    References
    ----------
    He et al. 2015, "Delving Deep into Rectifiers", equation 10.
    """
    params = lrcore.Pack({"w1": (pixels, hidden), "b1": hidden, "w2": (hidden, classes), "b2": classes})
    for name in ("w1", "w2"):
        fan_in, _ = params[name].shape
        params[name] = rng.normal(scale=np.sqrt(2 / fan_in), size=params[name].shape)
    return params


def forward(params: Parameters, x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Give the hidden activations (n, H) and the logits (n, C) of images x (n, D)."""
    hidden = np.maximum(x @ params["w1"] + params["b1"], 0)
    return hidden, hidden @ params["w2"] + params["b2"]


def log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Give the logarithms (n, C) of the probabilities that the logits (n, C) mean."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def loss_and_gradient(params: Parameters, grads: Parameters, x: NDArray[Any], y: NDArray[np.int64]) -> float:
    """Give the mean cross-entropy in nats of images x (n, D) of classes y (n,); `grads` gets its gradient."""
    hidden, logits = forward(params, x)
    log_p = log_softmax(logits)
    own_class = np.arange(len(y)), y
    loss = -log_p[own_class].mean()

    d_logits = np.exp(log_p)  # (n, C)
    d_logits[own_class] -= 1
    d_logits /= len(y)
    d_hidden = (d_logits @ params["w2"].T) * (hidden > 0)  # (n, H)

    grads["w2"][...] = hidden.T @ d_logits
    grads["b2"][...] = d_logits.sum(axis=0)
    grads["w1"][...] = x.T @ d_hidden
    grads["b1"][...] = d_hidden.sum(axis=0)
    return float(loss)


def accuracy(params: Parameters, x: NDArray[Any], y: NDArray[np.int64]) -> float:
    """Give the share of the images x (n, D) whose largest logit is that of their class y (n,)."""
    _, logits = forward(params, x)
    return float((logits.argmax(axis=1) == y).mean())


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a training gave.

    Attributes
    ----------
    optimizer, backend : str
        What stepped.
    threads : int
        How many threads lrcore could use.
    parameters : int
        How many numbers were trained.
    steps_per_epoch : int
        How many steps saw each training image once.
    accuracy : float
        The share of the test images that were classified correctly, at the end.
    losses, rates : array of float64, (steps,)
        The loss of each step's batch in nats, before the step, and the step's learning rate.
    step_seconds, optimizer_seconds : array of float64, (steps,)
        How long each step took, forward and backward passes included, and the optimizer's part of it.
    """

    optimizer: str
    backend: str
    threads: int
    parameters: int
    steps_per_epoch: int
    accuracy: float
    losses: NDArray[np.float64]
    rates: NDArray[np.float64]
    step_seconds: NDArray[np.float64]
    optimizer_seconds: NDArray[np.float64]


def _optimizer_name(name: str) -> str:
    """Give the name of an optimizer as its class writes it."""
    names = {each.lower(): each for each in lrcore.optimizers.__all__ if each != "Optimizer"}
    if name.lower() not in names:
        raise ValueError(f"optimizer: expected one of {', '.join(names.values())}, got {name!r}")
    return names[name.lower()]


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}: expected a number >= {least}, got {value}")


def train(
    optimizer: str = "Adam",
    lr: float | None = None,
    *,
    epochs: int = 30,
    batch_size: int = 64,
    hidden: int = 128,
    seed: int = 0,
    backend: str | None = None,
    progress: bool = False,
) -> Result:
    """Train the network on the digits.

    Equal arguments give equal losses, to the last bit, on every CPU backend and with any number of lrcore's
    threads. The rest is NumPy, which may round otherwise on another machine or with other BLAS threads.

    Parameters
    ----------
    optimizer : str
        The name of a class in `lrcore.optimizers`, in any case.
    lr : float, optional
        The rate of the first step, falling to 0 along a cosine. Default: the optimizer's in `RATES`.
    epochs : int
        How often each training image is seen.
    batch_size : int
        Images a step.
    hidden : int
        Hidden units.
    seed : int
        Of the split of the data, the first parameters and the order of the images.
    backend : str, optional
        One of `lrcore.backends()`. Default: the one in use.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    ValueError
        When an argument is out of range, or so large a rate that the loss is no longer finite.
    RuntimeError
        When this CPU cannot run the backend.
    ImportError
        When a package that the demo needs is not installed.
    """
    name = _optimizer_name(optimizer)
    for what, value in {"epochs": epochs, "batch_size": batch_size, "hidden": hidden}.items():
        _check_least(what, value, 1)
    _check_least("seed", seed, 0)
    with _demo_extra():
        from tqdm import tqdm

    data = load(seed)
    steps_per_epoch = -(-len(data.train_y) // batch_size)
    steps = epochs * steps_per_epoch
    schedule = lrcore.schedules.Cosine(RATES[name] if lr is None else lr, steps=steps)

    rng = np.random.default_rng(seed)
    pixels, classes = data.train_x.shape[1], int(data.train_y.max()) + 1
    params = initialize(pixels, hidden, classes, rng)
    grads = params.like()
    opt = getattr(lrcore.optimizers, name)(params.flat, schedule, grads=grads.flat)

    losses, step_seconds, optimizer_seconds = np.empty((3, steps))
    all_batches = batches(len(data.train_y), batch_size, epochs, rng)
    with (
        lrcore.use_backend(lrcore.info()["backend"] if backend is None else backend),
        np.errstate(over="ignore", invalid="ignore"),
        tqdm(all_batches, total=steps, desc=name, unit="step", disable=not progress) as bar,
    ):
        for t, batch in enumerate(bar):
            begin = perf_counter()
            losses[t] = loss_and_gradient(params, grads, data.train_x[batch], data.train_y[batch])
            middle = perf_counter()
            opt.step()
            end = perf_counter()
            step_seconds[t], optimizer_seconds[t] = end - begin, end - middle
            if not np.isfinite(losses[t]):
                raise ValueError(f"lr: {schedule.lr} is too large, the loss became {losses[t]} at step {t}")
        info = lrcore.info()

    return Result(
        optimizer=name,
        backend=info["backend"],
        threads=info["threads"],
        parameters=params.flat.size,
        steps_per_epoch=steps_per_epoch,
        accuracy=accuracy(params, data.test_x, data.test_y),
        losses=losses,
        rates=schedule(np.arange(steps)),
        step_seconds=step_seconds,
        optimizer_seconds=optimizer_seconds,
    )


def report(result: Result) -> str:
    """Give the result in words, a line for each of them."""
    step, optimizer = np.median(result.step_seconds), np.median(result.optimizer_seconds)
    lines = {
        "test accuracy": f"{result.accuracy:.4f}",
        "parameters": f"{result.parameters}",
        "steps": f"{len(result.losses)}",
        "time a step": f"{step * 1e6:.1f} us (median)",
        "in the optimizer": f"{optimizer * 1e6:.1f} us, {optimizer / step:.1%} of it",
        "optimizer": f"{result.optimizer}, lr {result.rates[0]:g} falling to 0",
        "backend": result.backend,
        "threads": f"{result.threads}",
    }
    return "\n".join(f"{name:<18}{value}" for name, value in lines.items())


def plot(result: Result, path: str | Path) -> None:
    """Draw the loss and the learning rate over the steps, as a PNG file.

    Raises
    ------
    OSError
        When the file cannot be written.
    ImportError
        When matplotlib is not installed.
    """
    with _demo_extra():
        from matplotlib.figure import Figure

    steps = np.arange(1, len(result.losses) + 1)
    window = max(1, len(steps) // 30)
    smoothed = np.convolve(result.losses, np.full(window, 1 / window), mode="valid")
    centers = np.arange(len(smoothed)) + (1 + window) / 2

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    above.set_title(
        f"{result.optimizer} on handwritten digits: test accuracy {result.accuracy:.1%}\n"
        f"{result.parameters} parameters, backend {result.backend}"
    )
    above.plot(steps, result.losses, color="C0", alpha=0.3, linewidth=0.8, label="each batch")
    above.plot(centers, smoothed, color="C0", linewidth=2, label=f"mean over {window} steps")
    above.set_yscale("log")
    above.set_ylabel("training loss (nats)")
    above.legend(loc="upper right")
    below.plot(steps, result.rates, color="C1", linewidth=2)
    below.set_ylim(bottom=0)
    below.set_ylabel("learning rate")
    below.set_xlabel(f"step ({result.steps_per_epoch} to an epoch)")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(path, format="png", dpi=150)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `run` reads."""
    parser.add_argument(
        "--optimizer", default="Adam", help=f"{', '.join(RATES)}; in any case (default: Adam)"
    )
    parser.add_argument(
        "--lr", type=float, help="rate of the first step (default: one that suits the optimizer)"
    )
    parser.add_argument("--epochs", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=64, help="images a step (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--backend", help=f"{', '.join(lrcore.backends())} (default: the one in use)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("lrcore-demo.png"),
        help="where the picture goes (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> None:
    """Train, print the report, and draw the picture."""
    folder = arguments.out.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"--out: there is no directory {folder}")
    result = train(
        arguments.optimizer,
        arguments.lr,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
        backend=arguments.backend,
        progress=True,
    )
    print(report(result))
    plot(result, arguments.out)
    print(f"{'picture':<18}{arguments.out}")
