"""Results as a table, as a JSON file, and against an older one."""

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
"""The names that results of earlier versions have for the loops."""

HEADER = (
    f"{'rule':32} {'variant':16} {'backend':9} {'threads':>7} {'elements':>11} {'ns':>13} {'GB/s':>7} "
    f"{'of bound':>8} {'spread':>6}"
)


def line(row: Row, rows: Sequence[Row]) -> str:
    """Return a row of the table; its bound is one of `rows`."""
    share = share_of_bound(rows, row) if row.variant not in LOOPS else None
    return (
        f"{row.rule:32} {row.variant:16} {row.backend or '-':9} {row.threads or '-':>7} {row.size:>11,} "
        f"{row.ns:>13,.0f} {row.gb_per_s:>7.1f} {'-' if share is None else f'{share:.2f}':>8} {row.spread:>6.0%}"
    )


def machine() -> dict[str, Any]:
    """Say where the measurements were taken, and with what."""
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
    """Return what a file of the system says; nothing if there is no such file."""
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _caches() -> list[str]:
    """Return the caches of the first core, the nearest first."""
    root = "/sys/devices/system/cpu/cpu0/cache/index"
    found = (tuple(_text(f"{root}{i}/{name}") for name in ("level", "type", "size")) for i in range(8))
    return [f"L{level} {kind} {size}" for level, kind, size in found if level]


def save(path: Path, rows: Sequence[Row], extra: Mapping[str, Any]) -> None:
    """Write a JSON file of the rows, the machine, and what else there is to say."""
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
        When it cannot be read.
    ValueError
        When it is no result of this benchmark.
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
        raise ValueError(f"{path} is no result of this benchmark: {error}") from None


NOISE = 3.0
"""Standard deviations that a change exceeds where it is called one."""
LEAST = 0.03
"""The smallest change that is called one: the arrays of another run lie elsewhere."""


def compare(old: Sequence[Row], new: Sequence[Row]) -> list[tuple[Row, float, str]]:
    """Hold each row against the older one of the same work.

    Returns
    -------
    list of (Row, float, str)
        The new row; its time over the old one; and "faster", "slower", or "same" where the difference is less than three
        standard deviations of the two medians, or 3 %.
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
    """Return the standard error of a median, relative to it, from its quartiles as those of normal numbers."""
    return 1.253 * row.spread / 0.674 / math.sqrt(row.rounds)
