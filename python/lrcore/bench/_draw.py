"""A picture of the results: throughput against size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrcore._extras import optional_dependency
from lrcore.bench._cases import LOOPS
from lrcore.bench._timing import Row


def draw(rows: Sequence[Row], path: Path, title: str) -> None:
    """Draw a panel for each rule: a line for each variant, the stream bound as a band, the arithmetic bound dotted.

    The band reaches from the lower to the upper quartile.

    Raises
    ------
    OSError, ValueError
        If the file cannot be written, or matplotlib does not support its format.
    ImportError
        If matplotlib is not installed.
    """
    with optional_dependency("bench"):
        from matplotlib.figure import Figure

    rules = list(dict.fromkeys(row.rule for row in rows))
    columns = min(len(rules), 3)
    lines = math.ceil(len(rules) / columns)
    figure = Figure(figsize=(1 + 6 * columns, 0.6 + 4.4 * lines), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax in panels[len(rules) :]:
        ax.set_axis_off()
    for ax, rule in zip(panels, rules, strict=False):
        _panel(ax, rule, [row for row in rows if row.rule == rule])
    figure.savefig(path, dpi=120)


def _panel(ax: Any, rule: str, rows: Sequence[Row]) -> None:
    series: dict[tuple[str, str, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.size):
        series.setdefault((row.variant, row.backend, row.threads), []).append(row)
    for (variant, backend, threads), each in series.items():
        sizes, throughput = [row.size for row in each], [row.gb_per_s for row in each]
        label = " ".join(
            filter(None, (variant, backend, f"{threads} thread{'s' * (threads > 1)}" if threads else ""))
        )
        if variant == LOOPS[0]:
            slowest, fastest = [row.bytes / row.high for row in each], [row.bytes / row.low for row in each]
            ax.fill_between(sizes, slowest, fastest, color="0.75", label=label)
            ax.plot(sizes, throughput, color="0.6", linewidth=1)
        elif variant in LOOPS:
            ax.plot(sizes, throughput, color="0.6", linestyle=":", label=label)
        else:
            ax.plot(sizes, throughput, marker="o", markersize=4, label=label)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_title(rule)
    ax.set_xlabel("elements")
    ax.set_ylabel("necessary bytes / time (GB/s)")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
