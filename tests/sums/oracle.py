"""The definition of a sum, in NumPy and independent of the library.

The terms are added in leaves of 4,096, in 32 partial sums of float64, which are then added in pairs; the sums of the
leaves are added in the same way. The norm of gradients consists of one sum per unit, and the sum of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAF = 4096


def tree(values: NDArray[np.float64], leaf: int = LEAF, dtype: Any = np.float64) -> float:
    """Return the sum of values, of which a single one counts as a leaf."""
    values = values.astype(dtype)
    first = True
    while values.size > 1 or (first and values.size):
        padded = np.zeros(-(-values.size // leaf) * leaf, dtype)
        padded[: values.size] = values
        rows = padded.reshape(-1, leaf // 32, 32)
        sums = np.zeros((rows.shape[0], 32), dtype)
        for i in range(leaf // 32):
            sums = sums + rows[:, i]
        while sums.shape[1] > 1:
            half = sums.shape[1] // 2
            sums = sums[:, :half] + sums[:, half:]
        values, first = sums[:, 0], False
    return float(values[0]) if values.size else 0.0


def products(x: NDArray[np.float32], y: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the products of two float32 arrays, which are exact in float64."""
    return x.reshape(-1).astype(np.float64) * y.reshape(-1).astype(np.float64)


def dot(x: Any, y: Any) -> float:
    with np.errstate(invalid="ignore"):
        return tree(products(x, y))


def norm(units: Iterable[Any], scale: float = 1.0) -> float:
    """Return the norm of the gradients of an optimizer, given those of each unit, times the absolute value of a scale."""
    return math.sqrt(tree(np.array([dot(each, each) for each in units], np.float64))) * abs(scale)


def clipped(scale: float, found: float, limit: float) -> float:
    """Return the scale of the gradients that gives a norm of at most `limit`, rounded once to float32."""
    return float(np.float32(scale * (1.0 if found <= limit or limit == math.inf else limit / found)))
