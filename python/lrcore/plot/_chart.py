"""A line chart in text, for a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""The bits of Braille's eight dots, by column and row, from U+2800 on."""


def chart(
    value: Callable[[NDArray[np.int64]], NDArray[np.float64]],
    steps: int,
    width: int = 64,
    height: int = 15,
    plain: bool = False,
) -> str:
    """Draw a function of the steps 0 to ``steps - 1``, upwards from 0, with Braille's dots, or with asterisks if `plain`.

    Width and height are in characters, without the labels. An odd height has a middle row for the label of the half.
    """
    across, down = (1, 1) if plain else (2, 4)
    columns, rows = width * across, height * down
    edges = np.linspace(0, steps, columns + 1).astype(np.int64)
    spans = [
        np.unique(np.linspace(a, max(a, b - 1), 64).astype(np.int64)) for a, b in itertools.pairwise(edges)
    ]
    values = [value(np.minimum(span, steps - 1)) for span in spans]
    top = max(float(each.max()) for each in values) or 1.0

    marked = np.zeros((rows, columns), bool)
    before = values[0][0]
    for x, each in enumerate(values):
        reached = np.append(each, before)
        low, high = (round((1 - end / top) * (rows - 1)) for end in (reached.max(), reached.min()))
        marked[low : high + 1, x] = True
        before = each[-1]

    labels = {0: f"{top:.4g}", height // 2: f"{top / 2:.4g}", height - 1: "0"}
    margin = max(map(len, labels.values()))
    lines = []
    for row in range(height):
        cells = marked[row * down : (row + 1) * down]
        drawn = "".join(_cell(cells[:, x * across : (x + 1) * across], plain) for x in range(width))
        lines.append(f"{labels.get(row, ''):>{margin}} |{drawn.rstrip()}")
    lines.append(f"{'':>{margin}} +{'-' * width}")
    lines.append(f"{'':>{margin}}  0{steps - 1:>{width - 1}}")
    return "\n".join(lines)


def _cell(dots: NDArray[np.bool_], plain: bool) -> str:
    """Return the character of one cell."""
    if not dots.any():
        return " "
    if plain:
        return "*"
    return chr(0x2800 + sum(_DOTS[x][y] for y, x in zip(*np.nonzero(dots), strict=True)))
