"""The result of a training run, as text and as pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import lrcore
from lrcore._extras import optional_dependency
from lrcore._names import explain_keywords
from lrcore.demo._training import Result


@explain_keywords
def report(result: Result) -> str:
    """Return the result as text, one value per line. If groups have different rates, each rate has a line."""
    step, optimizer = np.median(result.step_seconds), np.median(result.optimizer_seconds)
    lines = {
        "test accuracy": f"{result.accuracy:.4f}",
        "parameters": f"{result.parameters}",
        "steps": f"{len(result.losses)}",
        "time per step": f"{step * 1e6:.1f} us (median)",
        "in the optimizer": f"{optimizer * 1e6:.1f} us, {optimizer / step:.1%} of it",
        "optimizer": result.optimizer,
        "learning rate": result.schedule.replace("\n", "\n" + " " * 18),
        "backend": result.backend,
    }
    if result.backend != "cuda":
        lines["threads"] = f"{result.threads}"
    return "\n".join(f"{name:<18}{value}" for name, value in lines.items())


@explain_keywords
def plot(result: Result, path: str | Path) -> None:
    """Draw the loss and the learning rate over the steps, as a PNG file.

    Raises
    ------
    OSError
        If the file cannot be written.
    ImportError
        If matplotlib is not installed.
    """
    with optional_dependency("demo"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = lrcore.plot.training(result.losses, result.rates, figure.subplots())
    axes.set_title(
        f"{result.optimizer} on handwritten digits: test accuracy {result.accuracy:.1%}\n"
        f"{result.parameters} parameters, backend {result.backend}"
    )
    axes.set_ylabel("training loss (nats)")
    figure.axes[-1].set_xlabel(f"step ({result.steps_per_epoch} per epoch)")
    figure.savefig(path, format="png", dpi=150)


def plot_range_test(found: lrcore.tune.RangeTest, path: Path) -> None:
    """Draw a range test, as a PNG file."""
    with optional_dependency("demo"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    found.plot(figure.subplots()).set_ylabel("training loss (nats)")
    figure.savefig(path, format="png", dpi=150)
