"""`Plateau` in PyTorch, optax and Keras: a table of calls, and functions that pass the metrics to them.

Each row pairs a peer's call with a `Plateau` that has the same rate after each observation. Calls are code,
as in `peers`; optax's call computes a scale, which multiplies the rate 0.1. The peers compute in float64.

Some calls have no row, because no call here matches them: optax with ``accumulation_size`` above 1 (it uses
the mean of each block of metrics, but ``statistic="mean"`` uses the mean of the latest metrics), with both
``rtol`` and ``atol`` above 0, or with ``patience=0`` (it reduces the rate when a metric improves); and PyTorch
if its ``eps`` has an effect (it skips reductions smaller than ``eps``).
"""

from __future__ import annotations

import functools
import importlib
import os
import random
import re
import types
from collections.abc import Callable, Sequence
from typing import Any

from schedules.peers import LR, Row


def _noisy() -> tuple[float, ...]:
    """Return a noisy loss that falls more and more slowly."""
    uniform = random.Random(20150101).random
    return tuple(round(3 / (1 + index / 3) + 0.2 * uniform(), 3) for index in range(40))


METRICS: dict[str, tuple[float, ...]] = {
    "improving": tuple(round(2 - index / 20, 2) for index in range(30)),
    "slow": tuple(round(2 - index / 1000, 3) for index in range(30)),
    "flat": (1.0,) * 30,
    "noisy": _noisy(),
    "rising": tuple(round(4 - value, 3) for value in _noisy()),
    "negative": tuple(round(value - 4, 3) for value in _noisy()),
}
"""Sequences of metrics by name. No metric is so close to a threshold that the peers' rounding errors
matter."""

_TABLES = {
    "torch": """
ReduceLROnPlateau(patience=3)
    Plateau(0.1, patience=3)  # on improving, flat, noisy
ReduceLROnPlateau(factor=0.5, patience=2, threshold=0.03, cooldown=3, min_lr=0.01)
    Plateau(0.1, factor=0.5, patience=2, threshold=0.03, cooldown=3, min_lr=0.01)  # on improving, slow, flat, noisy
ReduceLROnPlateau(mode='max', factor=0.3, patience=1, threshold=0.01)
    Plateau(0.1, factor=0.3, patience=1, mode='max', threshold=0.01)  # on rising
ReduceLROnPlateau(mode='max', patience=4, threshold=0.05, threshold_mode='abs')
    Plateau(0.1, patience=4, mode='max', threshold=0.05, threshold_mode='abs')  # on rising
ReduceLROnPlateau(factor=0.5, patience=1, threshold=0.1, threshold_mode='abs', cooldown=1)
    Plateau(0.1, factor=0.5, patience=1, threshold=0.1, threshold_mode='abs', cooldown=1)  # on negative
    # With threshold_mode='rel', ReduceLROnPlateau counts a negative metric that worsens by less than the threshold as an improvement; Plateau does not.
ReduceLROnPlateau(patience=0, eps=0)
    Plateau(0.1, patience=0)  # on flat
    # ReduceLROnPlateau skips reductions smaller than eps, which is 1e-8 by default.
""",
    "optax": """
reduce_on_plateau(patience=4)
    Plateau(0.1, patience=3)  # on improving, flat, noisy
    # It reduces at the patience-th observation without improvement; Plateau reduces one observation later.
reduce_on_plateau(factor=0.5, patience=2, rtol=0.03, cooldown=3, min_scale=0.1)
    Plateau(0.1, factor=0.5, patience=1, threshold=0.03, cooldown=3, min_lr=0.01)  # on slow, flat, noisy
reduce_on_plateau(factor=0.5, patience=3, rtol=0.0, atol=0.1)
    Plateau(0.1, factor=0.5, patience=2, threshold=0.1, threshold_mode='abs')  # on negative
""",
    "keras": """
ReduceLROnPlateau(patience=4)
    Plateau(0.1, patience=3, threshold_mode='abs')  # on improving, flat, noisy
    # It reduces at the patience-th observation without improvement; Plateau reduces one observation later.
ReduceLROnPlateau(factor=0.5, patience=2, min_delta=0.03, cooldown=3, min_lr=0.01)
    Plateau(0.1, factor=0.5, patience=1, threshold=0.03, threshold_mode='abs', cooldown=2, min_lr=0.01)  # on slow, flat, noisy
    # A cooldown of c skips c - 1 observations, and min_delta is absolute.
ReduceLROnPlateau(factor=0.5, patience=0, cooldown=0)
    Plateau(0.1, factor=0.5, patience=0, threshold_mode='abs', cooldown=0)  # on noisy
    # A patience of 0 acts like 1, and a cooldown of 1 has no effect.
ReduceLROnPlateau(factor=0.5, patience=1, cooldown=1)
    Plateau(0.1, factor=0.5, patience=0, threshold_mode='abs', cooldown=0)  # on noisy
ReduceLROnPlateau(factor=0.5, patience=1, cooldown=2)
    Plateau(0.1, factor=0.5, patience=0, threshold_mode='abs', cooldown=1)  # on noisy
ReduceLROnPlateau(mode='max', factor=0.3, patience=3, min_delta=0.05)
    Plateau(0.1, factor=0.3, patience=2, mode='max', threshold=0.05, threshold_mode='abs')  # on rising
""",
}
"""For each peer, rows of its call; our call, with the metrics that both observe; and perhaps a note."""

_ROW = re.compile(r"^(\S.*)\n    (.*)  # on (.*)(?:\n    # (.*))?$", re.MULTILINE)

ROWS = tuple(
    Row(peer, theirs, ours, METRICS[metrics], note, metrics)
    for peer, table in _TABLES.items()
    for theirs, ours, listed, note in _ROW.findall(table)
    for metrics in listed.split(", ")
)
"""Every plateau schedule of a peer that lrcore can express, with our call for it."""


def run_torch(code: str, metrics: Sequence[float]) -> list[float]:
    """Return the rates of a PyTorch scheduler after each metric."""
    torch = importlib.import_module("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    made = functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, optimizer)
    scheduler = eval(code, {"ReduceLROnPlateau": made})
    rates = []
    for metric in metrics:
        scheduler.step(metric)
        rates.append(float(optimizer.param_groups[0]["lr"]))
    return rates


def run_optax(code: str, metrics: Sequence[float]) -> list[float]:
    """Return the rates of an optax transformation after each metric, computed in float64 on the CPU."""
    jax = importlib.import_module("jax")
    contrib = importlib.import_module("optax.contrib")
    rates = []
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        transformation = eval(code, vars(contrib).copy())
        updates = jax.numpy.ones(1, "float64")
        state = transformation.init(updates)
        update = jax.jit(transformation.update)
        for metric in metrics:
            _, state = update(updates, state, value=metric)
            rates.append(LR * float(state.scale))
    return rates


def run_keras(code: str, metrics: Sequence[float]) -> list[float]:
    """Return the rates of a Keras callback after each metric. Its model consists of an optimizer only."""
    os.environ["KERAS_BACKEND"] = "torch"
    keras = importlib.import_module("keras")
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    rates = []
    try:
        callback: Any = eval(code, vars(keras.callbacks).copy())
        callback.set_model(types.SimpleNamespace(optimizer=keras.optimizers.SGD(LR)))
        callback.on_train_begin()
        for epoch, metric in enumerate(metrics):
            callback.on_epoch_end(epoch, {"val_loss": metric})
            rates.append(float(callback.model.optimizer.learning_rate))
    finally:
        keras.config.set_floatx(before)
    return rates


PEERS: dict[str, Callable[[str, Sequence[float]], list[float]]] = {
    "torch": run_torch,
    "optax": run_optax,
    "keras": run_keras,
}
"""For each peer, the function that returns its rate after each metric. It raises ImportError if it is not
installed."""
