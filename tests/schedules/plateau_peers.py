"""What PyTorch, optax and Keras call `Plateau`: one table of calls, and what tells them the metrics.

A row says that the rates after each observation are those of a peer's call. Calls are code, as in
`peers`; optax's gives a scale, which multiplies the rate 0.1. The peers compute in float64.

No row, since no call here gives it: optax ``accumulation_size`` above 1 (looks at the mean of each block of
metrics; ``statistic="mean"`` looks at that of the last ones), ``rtol`` and ``atol`` that both count, and optax
``patience=0`` (reduces where a metric improves); PyTorch ``eps`` where it acts (skips smaller reductions).
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
    """Return a loss that falls ever more slowly under noise."""
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
"""The sequences of metrics by name. None comes as near to a threshold as the peers' roundings of it."""

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
    # With threshold_mode='rel' ReduceLROnPlateau takes a negative metric that worsens by less than the threshold for an improvement; Plateau does not.
ReduceLROnPlateau(patience=0, eps=0)
    Plateau(0.1, patience=0)  # on flat
    # A reduction of less than eps, 1e-8 unless it is given, is skipped.
""",
    "optax": """
reduce_on_plateau(patience=4)
    Plateau(0.1, patience=3)  # on improving, flat, noisy
    # Reduces at the patience-th observation without improvement, Plateau at the one after its patience-th.
reduce_on_plateau(factor=0.5, patience=2, rtol=0.03, cooldown=3, min_scale=0.1)
    Plateau(0.1, factor=0.5, patience=1, threshold=0.03, cooldown=3, min_lr=0.01)  # on slow, flat, noisy
reduce_on_plateau(factor=0.5, patience=3, rtol=0.0, atol=0.1)
    Plateau(0.1, factor=0.5, patience=2, threshold=0.1, threshold_mode='abs')  # on negative
""",
    "keras": """
ReduceLROnPlateau(patience=4)
    Plateau(0.1, patience=3, threshold_mode='abs')  # on improving, flat, noisy
    # Reduces at the patience-th observation without improvement, Plateau at the one after its patience-th.
ReduceLROnPlateau(factor=0.5, patience=2, min_delta=0.03, cooldown=3, min_lr=0.01)
    Plateau(0.1, factor=0.5, patience=1, threshold=0.03, threshold_mode='abs', cooldown=2, min_lr=0.01)  # on slow, flat, noisy
    # A cooldown of c leaves out c - 1 observations, and min_delta is absolute.
ReduceLROnPlateau(factor=0.5, patience=0, cooldown=0)
    Plateau(0.1, factor=0.5, patience=0, threshold_mode='abs', cooldown=0)  # on noisy
    # A patience of 0 is one of 1, and a cooldown of 1 is none.
ReduceLROnPlateau(factor=0.5, patience=1, cooldown=1)
    Plateau(0.1, factor=0.5, patience=0, threshold_mode='abs', cooldown=0)  # on noisy
ReduceLROnPlateau(factor=0.5, patience=1, cooldown=2)
    Plateau(0.1, factor=0.5, patience=0, threshold_mode='abs', cooldown=1)  # on noisy
ReduceLROnPlateau(mode='max', factor=0.3, patience=3, min_delta=0.05)
    Plateau(0.1, factor=0.3, patience=2, mode='max', threshold=0.05, threshold_mode='abs')  # on rising
""",
}
"""By peer: its call; ours, and the metrics that both are told; what is to be known."""

_ROW = re.compile(r"^(\S.*)\n    (.*)  # on (.*)(?:\n    # (.*))?$", re.MULTILINE)

ROWS = tuple(
    Row(peer, theirs, ours, METRICS[metrics], note, metrics)
    for peer, table in _TABLES.items()
    for theirs, ours, listed, note in _ROW.findall(table)
    for metrics in listed.split(", ")
)
"""Every reduction on a plateau that has a form here, and that form."""


def run_torch(code: str, metrics: Sequence[float]) -> list[float]:
    """Step a scheduler of PyTorch."""
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
    """Update a transformation of optax, in float64 and on the CPU."""
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
    """Call a callback of Keras with a model that is an optimizer and nothing else."""
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
"""What gives the rates of each peer after each of some metrics. ImportError where it is not installed."""
