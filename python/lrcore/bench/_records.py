"""Results as a table, as a JSON file, and in comparison with older ones."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lrcore
from lrcore.bench._cases import LOOPS, share_of_bound
from lrcore.bench._timing import Row

FORMAT = 1

FORMER_VARIANTS = {"limit": "stream bound", "divisions": "arithmetic bound"}
"""The names of the loops in results of earlier versions."""

HEADER = (
    f"{'rule':32} {'variant':16} {'backend':9} {'threads':>7} {'elements':>11} {'ns':>13} {'GB/s':>7} "
    f"{'of bound':>8} {'spread':>6}"
)

LEGEND = """\
ns        median time of a call, in nanoseconds
GB/s      bytes that the step has to read and write, divided by that time
of bound  time of the slower bound divided by that time: 1 is as fast as memory and arithmetic allow;
          noise can raise it above 1
spread    half the distance between the quartiles, divided by the median
variants  step: gradients passed to step(); bound step: gradients bound beforehand; decayed step: after the states
          have decayed to 0; stream bound: a plain loop over the same arrays; arithmetic bound: that loop with the
          divisions and square roots of the rule; N segments: a bound step of N segments in up to 28 groups; clipped
          step: a bound step with max_norm; averaged step: with ema; zeroing step: with zero_grads; N gradients:
          a step with the sum of N gradients"""

MEANINGLESS = 0.25
"""Spread at and above which a median is meaningless: with 15 samples, its standard error is then 12 % or more."""


def warning(rows: Sequence[Row]) -> str | None:
    """Return a warning about rows whose spread makes them meaningless, or None if there are none."""
    noisy = [row for row in rows if row.spread >= MEANINGLESS]
    if not noisy:
        return None
    return (
        f"warning: {len(noisy)} of {len(rows)} rows have a spread of {MEANINGLESS:.0%} or more, so their medians are "
        "unreliable; repeat the measurement on an idle machine, or with more --rounds"
    )


def line(row: Row, rows: Sequence[Row]) -> str:
    """Return a line of the table. `rows` contains the bounds of the row if they were measured."""
    share = share_of_bound(rows, row) if row.variant not in LOOPS else None
    return (
        f"{row.rule:32} {row.variant:16} {row.backend or '-':9} {row.threads or '-':>7} {row.size:>11,} "
        f"{row.ns:>13,.0f} {row.gb_per_s:>7.1f} {'-' if share is None else f'{share:.2f}':>8} {row.spread:>6.0%}"
    )


def machine() -> dict[str, Any]:
    """Return a description of the machine and of the software."""
    info = lrcore.info()
    clock = time.get_clock_info("perf_counter")
    return {
        "cpu": info["cpu"],
        "cores": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": platform.platform(),
        "clock": f"perf_counter: {clock.implementation}, resolution {clock.resolution:g} s",
        "clock_source": _text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "lrcore": info["version"],
        "compiler": info["compiler"],
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def _text(path: str) -> str:
    """Return the contents of a system file, or an empty string if there is no such file."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _caches() -> list[str]:
    """Return the caches of the first core, from the lowest level."""
    root = "/sys/devices/system/cpu/cpu0/cache/index"
    found = (tuple(_text(f"{root}{i}/{name}") for name in ("level", "type", "size")) for i in range(8))
    return [f"L{level} {kind} {size}" for level, kind, size in found if level]


def save(path: Path, rows: Sequence[Row], extra: Mapping[str, Any]) -> None:
    """Write a JSON file with the rows, the machine and `extra`."""
    contents = {
        "lrcore_bench": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        **extra,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    path.write_text(json.dumps(contents, indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Row]:
    """Read the rows of a JSON file.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it was not written by this benchmark.
    """
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
        if contents["lrcore_bench"] != FORMAT:
            raise ValueError(f"format {contents['lrcore_bench']}")
        rows = [Row(**row) for row in contents["rows"]]
        return [
            dataclasses.replace(row, variant=FORMER_VARIANTS.get(row.variant, row.variant)) for row in rows
        ]
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it has no entry {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: expected a file that lrcore bench --json wrote: {reason}") from None


NOISE = 3.0
"""Number of standard deviations that a difference must exceed to count as a change."""
LEAST = 0.03
"""Smallest relative difference that counts as a change: times also depend on where a run places its arrays."""


def compare(old: Sequence[Row], new: Sequence[Row]) -> list[tuple[Row, float, str]]:
    """Compare each row with the older row of the same work.

    Returns
    -------
    list of (Row, float, str)
        The new row; its time divided by that of the old row; and "faster", "slower", or "same" if the difference is
        less than three standard deviations of the two medians, or less than 3 %.
    """
    before = {row.key: row for row in old}
    verdicts = []
    for row in new:
        if row.key not in before:
            continue
        ratio = row.ns / before[row.key].ns
        noise = max(LEAST, NOISE * math.hypot(_error(row), _error(before[row.key])))
        verdict = "same" if abs(math.log(ratio)) <= math.log1p(noise) else "slower" if ratio > 1 else "faster"
        verdicts.append((row, ratio, verdict))
    return verdicts


def _error(row: Row) -> float:
    """Return the relative standard error of a median, estimated from its quartiles under a normal distribution."""
    return 1.253 * row.spread / 0.674 / math.sqrt(row.rounds)
