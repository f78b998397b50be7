"""A line chart in text, for a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lrcore.plot._figures import examined_steps

MARKS = "123456789abcdefghijklmnopqrstuvwxyz"
"""Characters that mark the lines of a chart with several lines."""

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
"""Bits of the eight dots of a Braille character, by row and column. The character is U+2800 plus its bits."""

Function: TypeAlias = Callable[[NDArray[np.int64]], NDArray[np.float64]]


def chart(
    functions: Sequence[Function], steps: int, width: int = 64, height: int = 15, *, plain: bool = False
) -> str:
    """Draw functions at the steps 0 to ``steps - 1``, on a vertical axis that starts at 0.

    One function is drawn with Braille dots, or with asterisks if `plain`. Several are drawn with the characters of
    `MARKS`, one for each; a cell that several lines cross shows the last of them. Width and height are in characters,
    without the labels. An odd height has a middle row, whose label is half of the highest value.
    """
    alone = len(functions) == 1
    dotted = alone and not plain
    columns, rows = (2 * width, 4 * height) if dotted else (width, height)
    t = examined_steps(steps)
    edges = np.searchsorted(t, np.linspace(0, steps, columns + 1).astype(np.int64))
    spans = [slice(min(a, len(t) - 1), max(a + 1, b)) for a, b in itertools.pairwise(edges)]
    drawn = [function(t) for function in functions]
    top = max(float(values.max()) for values in drawn) or 1.0

    cells = np.full((height, width), " ")
    for mark, values in zip("*" if alone else MARKS, drawn, strict=alone):
        marked = _marked([values[span] for span in spans], top, rows)
        cells = _braille(marked) if dotted else np.where(marked, mark, cells)

    labels = {0: f"{top:.4g}", height // 2: f"{top / 2:.4g}", height - 1: "0"}
    margin = max(map(len, labels.values()))
    text = [f"{labels.get(k, ''):>{margin}} |{''.join(row).rstrip()}" for k, row in enumerate(cells)]
    text.append(f"{'':>{margin}} +{'-' * width}")
    text.append(f"{'':>{margin}}  0{steps - 1:>{width - 1}}")
    return "\n".join(text)


def _marked(columns: Sequence[NDArray[np.float64]], top: float, rows: int) -> NDArray[np.bool_]:
    """Return which cells a line crosses, given its values in each column; row 0 is at the top."""
    marked = np.zeros((rows, len(columns)), bool)
    before = columns[0][0]
    for x, values in enumerate(columns):
        reached = np.append(values, before)
        low, high = (round((1 - end / top) * (rows - 1)) for end in (reached.max(), reached.min()))
        marked[low : high + 1, x] = True
        before = values[-1]
    return marked


def _braille(marked: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Return the Braille characters with the marked dots, and a space for a character without dots."""
    rows, columns = marked.shape
    bits = (marked.reshape(rows // 4, 4, columns // 2, 2) * _DOTS[:, None, :]).sum((1, 3))
    return np.where(bits == 0, " ", (0x2800 + bits).astype(np.uint32).view("<U1"))
