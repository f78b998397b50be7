"""`lrcore demo`: train a small network on handwritten digits, and draw how its loss fell.

The network, in `_digits.py`, is written for NumPy and CuPy alike. All parameters live in one `lrcore.Pack`, all
gradients in another like it, and one fused step moves them all, on the CPU or on a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

import lrcore
from lrcore._digits import Digits, accuracy, batches, initialize, load, loss_and_gradient, needs
from lrcore._runtime import cpu_backends

__all__ = ["RATES", "Digits", "Result", "add_arguments", "load", "plot", "report", "run", "train"]

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

DEVICES = ("cpu", "cuda")


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a training gave.

    Attributes
    ----------
    optimizer, backend : str
        What stepped.
    threads : int
        How many threads lrcore could use, on the CPU.
    parameters : int
        How many numbers were trained.
    steps_per_epoch : int
        How many steps saw each training image once.
    accuracy : float
        The share of the test images that were classified correctly, at the end.
    losses, rates : array of float64, (steps,)
        The loss of each step's batch in nats, before the step, and the step's learning rate.
    step_seconds, optimizer_seconds : array of float64, (steps,)
        How long each step took, forward and backward passes included, and the optimizer's part of it. A GPU works
        after the call that asks for it has returned; these times last until it has finished.
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


def _array_module(device: str) -> tuple[ModuleType, Callable[[], None]]:
    """Give the module of a device's arrays, and what waits until the work on them is done."""
    if device == "cpu":
        return np, lambda: None
    with needs("cuda"):
        import cupy
    try:
        ones = cupy.ones((2, 2), dtype=cupy.float32)
        float((ones @ ones).sum())
    except Exception as error:  # the kinds are many: driver, compiler, libraries, memory
        raise RuntimeError(f"device: CuPy cannot use a GPU here: {error}") from error
    return cupy, cupy.cuda.get_current_stream().synchronize


def train(
    optimizer: str = "Adam",
    lr: float | None = None,
    *,
    epochs: int = 30,
    batch_size: int = 64,
    hidden: int = 128,
    seed: int = 0,
    device: str = "cpu",
    backend: str | None = None,
    progress: bool = False,
) -> Result:
    """Train the network on the digits.

    Equal arguments give equal losses, to the last bit, on every CPU backend and with any number of lrcore's
    threads. The rest is NumPy, which may round otherwise on another machine or with other BLAS threads. On a GPU the
    first parameters, the batches and, for equal gradients, the steps have the same bits; but CuPy's matrix products
    and sums round otherwise than NumPy's, and the losses differ by that.

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
    device : str
        "cpu", or "cuda": CuPy arrays, on CuPy's current device and stream. For the sake of the times each step then
        waits for its gradient and again for the optimizer.
    backend : str, optional
        One of `lrcore.backends()` that steps CPU arrays. Default: the one in use.
    progress : bool
        Show a progress bar on stderr.

    Raises
    ------
    ValueError
        When an argument is out of range, or so large a rate that the loss is no longer finite.
    RuntimeError
        When this CPU cannot run the backend, no GPU can be used, or lrcore was built without CUDA.
    ImportError
        When a package that the demo needs is not installed.
    """
    name = _optimizer_name(optimizer)
    for what, value in {"epochs": epochs, "batch_size": batch_size, "hidden": hidden}.items():
        _check_least(what, value, 1)
    _check_least("seed", seed, 0)
    if device not in DEVICES:
        raise ValueError(f"device: expected one of {', '.join(DEVICES)}, got {device!r}")
    if device == "cuda" and backend is not None:
        raise ValueError(f"backend: device arrays always use cuda, got {backend!r}; leave it out")
    with needs("demo"):
        from tqdm import tqdm
    xp, wait = _array_module(device)

    data = load(seed)
    steps_per_epoch = -(-len(data.train_y) // batch_size)
    steps = epochs * steps_per_epoch
    schedule = lrcore.schedules.Cosine(RATES[name] if lr is None else lr, steps=steps)

    rng = np.random.default_rng(seed)
    pixels, classes = data.train_x.shape[1], int(data.train_y.max()) + 1
    data = data.to(xp)
    params = initialize(pixels, hidden, classes, rng, xp)
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
            rows = xp.asarray(batch)
            losses[t] = loss_and_gradient(params, grads, data.train_x[rows], data.train_y[rows], xp)
            middle = perf_counter()
            opt.step()
            wait()
            end = perf_counter()
            step_seconds[t], optimizer_seconds[t] = end - begin, end - middle
            if not np.isfinite(losses[t]):
                raise ValueError(f"lr: {schedule.lr} is too large, the loss became {losses[t]} at step {t}")
        info = lrcore.info()

    return Result(
        optimizer=name,
        backend=info["backend"] if device == "cpu" else device,
        threads=info["threads"],
        parameters=params.flat.size,
        steps_per_epoch=steps_per_epoch,
        accuracy=accuracy(params, data.test_x, data.test_y, xp),
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
    }
    if result.backend != "cuda":
        lines["threads"] = f"{result.threads}"
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
    with needs("demo"):
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
    parser.add_argument(
        "--device", choices=DEVICES, default="cpu", help="cuda: on a GPU, with CuPy (default: %(default)s)"
    )
    parser.add_argument("--backend", help=f"{', '.join(cpu_backends())} (default: the one in use)")
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
        device=arguments.device,
        backend=arguments.backend,
        progress=True,
    )
    print(report(result))
    plot(result, arguments.out)
    print(f"{'picture':<18}{arguments.out}")
