"""Run both calls of a row of `peer_rows`, and compare the results.

The peer runs in float64, from the same float32 start and on the same float32 gradients as lrcore. The
gradients are fixed in advance and do not depend on the parameters, so that no difference feeds back through
a loss.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import os
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rules.peer_rows import ROWS, Row, Tolerance

__all__ = ["ROWS", "Row", "Tolerance"]

Float64 = NDArray[np.float64]

STEPS = 60
"""Number of steps of each call."""

CHECKED = (1, 2, 10, 60)
"""The steps after which the parameters are compared."""

COUNT = 18
"""Number of elements."""

PACKAGES = {"torch": ("torch",), "optax": ("optax", "jax"), "keras": ("keras", "jax")}
"""Distributions whose versions determine a peer's results."""


def rate(lr: float, index: int) -> float:
    """Return the learning rate of step ``index + 1``: a decaying sawtooth that changes at every step."""
    return lr * (1 + (3 * index) % 8) / (8 + index)


def problem() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the start (shape ``(COUNT,)``) and gradients (shape ``(STEPS, COUNT)``) that all rows share.

    The gradients' magnitudes range from 1e-4 to 3 over the elements, and fall to a quarter after a third of
    the steps. Element 0 never has a gradient, element 1 has none at first, element 2 has none at every third
    step, and element 3 has only one. Elements 4 and 5 start at zero, element 6 at 1000. Every fourth element
    has gradients of one sign. `random.Random.random` is the only generator in the standard library whose
    sequence is guaranteed.
    """
    uniform = random.Random(20150101).random
    start = [_digits(3 * (2 * uniform() - 1)) for _ in range(COUNT)]
    start[4:7] = 0.0, 0.0, 1000.0
    gradients = np.zeros((STEPS, COUNT))
    for index in range(STEPS):
        for element in range(COUNT):
            shape = uniform() + uniform() - 1
            if element % 4 == 3:
                shape = abs(shape)
            scale = 3 * 10 ** (-4.5 * (7 * element % COUNT) / (COUNT - 1))
            gradients[index, element] = _digits(scale * shape * (1 if index < STEPS // 3 else 0.25))
    gradients[:, 0] = 0
    gradients[:7, 1] = 0
    gradients[2::3, 2] = 0
    gradients[np.arange(STEPS) != 2, 3] = 0
    return np.array(start, np.float32), gradients.astype(np.float32)


def _digits(value: float) -> float:
    """Return the value rounded to four significant digits, so that it is short when stored."""
    return float(f"{value:.4g}")


def deviation(actual: ArrayLike, expected: ArrayLike) -> NDArray[np.float64]:
    """Return ``|difference| / (1 + |expected|)``, element by element, in float64."""
    expected = np.asarray(expected, np.float64)
    result: NDArray[np.float64] = np.abs(np.asarray(actual, np.float64) - expected) / (1 + np.abs(expected))
    return result


def check(
    actual: Mapping[int, ArrayLike], expected: Mapping[int, ArrayLike], tolerance: Tolerance, what: str
) -> None:
    """Raise AssertionError unless the parameters agree at each of the `CHECKED` steps, element by element."""
    for step in CHECKED:
        found = deviation(actual[step], expected[step])
        worst = int(np.argmax(found))  # the first NaN, if there is one
        assert found[worst] <= tolerance.limit, (
            f"{what}: after step {step}, element {worst} is {np.asarray(actual[step])[worst]!r}, "
            f"expected {np.asarray(expected[step])[worst]!r}: off by {found[worst]:.2e}, "
            f"but only {tolerance.limit:.0e} is allowed ({tolerance.reason})"
        )


def run_lrcore(
    row: Row, start: NDArray[np.float32], gradients: NDArray[np.float32]
) -> dict[int, NDArray[np.float32]]:
    """Return the parameters after each of the `CHECKED` steps of lrcore, in float32."""
    lrcore = importlib.import_module("lrcore")
    params = start.copy()
    optimizer = getattr(lrcore, row.ours.name)(params, functools.partial(rate, row.lr), **row.ours.kwargs)
    seen = {}
    for step, gradient in enumerate(gradients, 1):
        optimizer.step(gradient)
        if step in CHECKED:
            seen[step] = params.copy()
    return seen


def run_peer(row: Row, start: NDArray[np.float32], gradients: NDArray[np.float32]) -> dict[int, Float64]:
    """Return the parameters after each of the `CHECKED` steps of the peer, in float64 and on the CPU.

    Raises ImportError if the peer is not installed.
    """
    steps = {"torch": steps_of_torch, "optax": steps_of_optax, "keras": steps_of_keras}[row.peer]
    after = enumerate(steps(row, start.astype(np.float64), gradients.astype(np.float64)), 1)
    return {step: np.array(params) for step, params in after if step in CHECKED}


def steps_of_torch(row: Row, start: Float64, gradients: Float64) -> Iterator[Any]:
    """Yield the parameters after each step.

    During the steps, the default dtype is float64, in which PyTorch keeps step counts and NAdam's product of
    momenta.
    """
    torch = importlib.import_module("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        param = torch.nn.Parameter(torch.from_numpy(start))
        optimizer = getattr(torch.optim, row.theirs.name)([param], lr=row.lr, **row.theirs.kwargs)
        for index, gradient in enumerate(gradients):
            optimizer.param_groups[0]["lr"] = rate(row.lr, index)
            param.grad = torch.from_numpy(gradient)
            optimizer.step()
            yield param.detach().numpy()
    finally:
        torch.set_default_dtype(before)


def steps_of_optax(row: Row, start: Float64, gradients: Float64) -> Iterator[Any]:
    """Yield the parameters after each step.

    The schedule looks up its rates in an array, so that they equal those of `rate` to the last bit.
    """
    jax = importlib.import_module("jax")
    optax = importlib.import_module("optax")
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        rates = jax.numpy.asarray([rate(row.lr, index) for index in range(len(gradients))])
        optimizer = getattr(optax, row.theirs.name)(lambda count: rates[count], **row.theirs.kwargs)
        params = jax.numpy.asarray(start)
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(jax.numpy.asarray(gradient), state, params)
            params = optax.apply_updates(params, updates)
            yield params


def steps_of_keras(row: Row, start: Float64, gradients: Float64) -> Iterator[Any]:
    """Yield the parameters after each step, on Keras' JAX backend.

    This backend runs Keras' own code for the steps. The PyTorch backend has separate code, whose results
    agreed within 1.2e-15. While JAX has 64-bit types enabled, Python numbers become float64 arrays,
    regardless of ``floatx``. The rate is a callable because Keras casts its result to the parameters' dtype,
    but would store a number in ``floatx``.
    """
    os.environ["KERAS_BACKEND"] = "jax"
    jax = importlib.import_module("jax")
    keras = importlib.import_module("keras")
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        optimizer: Any = getattr(keras.optimizers, row.theirs.name)(
            lambda: rate(row.lr, int(optimizer.iterations)), **row.theirs.kwargs
        )
        params = keras.Variable(start, dtype="float64")
        for gradient in gradients:
            optimizer.apply([jax.numpy.asarray(gradient)], [params])
            yield params.value


def versions(peer: str) -> dict[str, str]:
    """Return the installed versions of a peer and of the packages that it computes with."""
    return {name: importlib.metadata.version(name) for name in PACKAGES[peer]}
