"""Rows, table, goals and result file that `gpu.py` makes from its samples. This module does not need a GPU."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import re
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ADAM_AT_1E9_US = 6850.0
SCHEDULED_GRAPH_AT_1E5_US = 6.0
SHAPE_TOLERANCE = 1.05


@dataclass(frozen=True)
class Row:
    """The samples of one variant of one rule at one size."""

    rule: str
    variant: str
    size: int
    """Requested number of elements."""
    bytes_per_element: int
    """Bytes that must be read and written per element."""
    elements: int
    """Number of elements that the variant steps; it may exceed `size` by a few."""
    samples: Sequence[float]
    """Seconds per call, on the device."""
    host: Sequence[float]
    """Seconds until a call returned, on the host."""
    calls: int
    """Number of calls per sample."""
    sets: int
    """Number of sets of arrays that the calls rotate through."""
    clock: str = "events"

    @property
    def seconds(self) -> float:
        """The median in seconds."""
        return statistics.median(self.samples)

    @property
    def us(self) -> float:
        """The median in microseconds."""
        return self.seconds * 1e6

    @property
    def host_us(self) -> float:
        """The median time per call on the host, in microseconds."""
        return statistics.median(self.host) * 1e6

    @property
    def gb_per_s(self) -> float:
        """Necessary bytes divided by the median time, in 10^9 bytes per second."""
        return self.bytes_per_element * self.elements / self.seconds / 1e9

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, divided by the median."""
        if len(self.samples) < 2:
            return math.nan
        low, _, high = statistics.quantiles(self.samples, n=4)
        return (high - low) / 2 / self.seconds


def best(rows: Sequence[Row], row: Row, *variants: str) -> float | None:
    """Return the largest GB/s of these variants for the rule and size of `row`, or None if none was measured."""
    rates = [
        each.gb_per_s
        for each in rows
        if (each.rule, each.size) == (row.rule, row.size) and each.variant in variants
    ]
    return max(rates, default=None)


def shares(rows: Sequence[Row], row: Row) -> tuple[float | None, float | None]:
    """Return the throughput of a row relative to that of the copy and to that of the bound."""
    bases = best(rows, row, "copy", "copy graph"), best(rows, row, "stream bound", "stream bound graph")
    of_copy, of_bound = (None if base is None else row.gb_per_s / base for base in bases)
    return of_copy, None if row.variant.startswith("copy") else of_bound


def heading(width: int) -> str:
    """Return the header line of the table; `width` is the width of the rule column."""
    return (
        f"{'rule':{width}} {'variant':22} {'elements':>13} {'us':>11} {'GB/s':>7} {'of copy':>7} "
        f"{'of bound':>8} {'spread':>6} {'host us':>9}"
    )


def line(rows: Sequence[Row], row: Row, width: int) -> str:
    """Return the table line of a row."""
    of_copy, of_bound = (f"{share:.2f}" if share is not None else "-" for share in shares(rows, row))
    return (
        f"{row.rule:{width}} {row.variant:22} {row.elements:>13,} {row.us:>11,.2f} {row.gb_per_s:>7,.0f} "
        f"{of_copy:>7} {of_bound:>8} {row.spread:>6.1%} {row.host_us:>9,.2f}"
    )


def as_dict(rows: Sequence[Row], row: Row) -> dict[str, Any]:
    """Return a row as it is stored: the measured values, and the values derived from them."""
    of_copy, of_bound = shares(rows, row)
    spread = None if math.isnan(row.spread) else row.spread
    stored = {
        name: value for name, value in dataclasses.asdict(row).items() if name not in ("samples", "host")
    }
    derived = {"us": row.us, "gb_per_s": row.gb_per_s, "of_copy": of_copy, "of_bound": of_bound}
    return (
        stored
        | derived
        | {"spread": spread, "host_us": row.host_us, "samples_us": [s * 1e6 for s in row.samples]}
    )


@dataclass(frozen=True)
class Goal:
    """A goal that the rows should meet. `reached` is None if they do not contain the necessary measurements."""

    text: str
    measured: str
    reached: bool | None

    def __str__(self) -> str:
        """Return the goal as a line of text."""
        verdict = {True: "reached", False: "missed", None: "unknown"}[self.reached]
        return f"{verdict:8} {self.text}: {self.measured}"


def goals(rows: Sequence[Row]) -> list[Goal]:
    """Return the goals for Adam, and whether the rows meet them."""
    adam = {(row.variant, row.size): row for row in rows if row.rule == "adam"}
    sizes = sorted({size for _, size in adam})

    def at_most(text: str, variant: str, size: int, most_us: float) -> Goal:
        row = adam.get((variant, size))
        if row is None:
            return Goal(text, "not measured", None)
        return Goal(text, f"{row.us:,.2f} us", row.us <= most_us)

    def ratios(text: str, pairs: Sequence[tuple[str, str]], tolerance: float, noise: bool = False) -> Goal:
        found = [
            (ours.us / theirs.us, tolerance + (ours.spread + theirs.spread if noise else 0), ours)
            for size in sizes
            for our_name, their_name in pairs
            if (ours := adam.get((our_name, size))) and (theirs := adam.get((their_name, size)))
        ]
        if not found:
            return Goal(text, "not measured", None)
        ratio, _, worst = max(found, key=lambda each: each[0] - each[1])
        measured = f"worst {ratio:.3f} ({worst.variant} at {worst.size:,}; {len(found)} compared)"
        return Goal(text, measured, all(each <= most for each, most, _ in found))

    shapes = ("lrcore n+1", "lrcore n+3", "lrcore shifted")
    return [
        at_most("Adam at 10^9 within 6.85 ms", "lrcore", 10**9, ADAM_AT_1E9_US),
        ratios(
            "time of Adam relative to torch's fused Adam, at most 1 plus both spreads",
            [("lrcore", "torch fused")],
            1.0,
            noise=True,
        ),
        ratios(
            "time of odd sizes and shifted views relative to aligned arrays, at most 1.05",
            [(shape, "lrcore") for shape in shapes],
            SHAPE_TOLERANCE,
        ),
        at_most(
            "a scheduled step of Adam, replayed from a graph, at 10^5 within 6 us",
            "lrcore graph",
            10**5,
            SCHEDULED_GRAPH_AT_1E5_US,
        ),
    ]


def sets_for(size: int, l2_bytes: int) -> int:
    """Return the number of sets of arrays with which even the smallest variant exceeds four times the L2 cache."""
    touched = 2 * 4 * size
    return 4 * l2_bytes // touched + 1


def calls_for(seconds_a_call: float, seconds_a_sample: float, least: int = 3, most: int = 5000) -> int:
    """Return the number of calls per sample."""
    return max(least, min(most, int(seconds_a_sample / max(seconds_a_call, 1e-9))))


def least_bytes(elements: int, sets: int, states: int) -> int:
    """Return the bytes needed for parameters, gradients, a copy, and the states of one bound and one optimizer."""
    return 4 * elements * sets * (2 + 1 + 2 * states)


def parse_smi(text: str, fields: Sequence[str], uuid: str) -> dict[str, str]:
    """Return the fields of the device with this UUID, or of the only device, from nvidia-smi's CSV."""
    lines = [[cell.strip() for cell in each.split(",")] for each in text.splitlines()]
    found = [dict(zip(fields, cells, strict=True)) for cells in lines if len(cells) == len(fields)]
    ours = [each for each in found if uuid and uuid in each["uuid"]] or found
    return {name: value for name, value in ours[0].items() if "N/A" not in value} if len(ours) == 1 else {}


def out_path(out: Path | None, default: Path, gpu: str, date: str) -> Path:
    """Return the path to write: `out`, or a file named after the GPU and date in the directory `out` or `default`."""
    if out is not None and out.suffix == ".json":
        return out
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return (out or default) / f"{slug}-{date}.json"


def write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(content, indent=1, allow_nan=False, default=str) + "\n")
    unfinished.replace(path)


def smi(uuid: str) -> dict[str, str]:
    """Query nvidia-smi about the device, if it is installed, without changing any setting."""
    clocks = ["clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"]
    fields = ["uuid", "driver_version", *clocks, "power.limit", "temperature.gpu"]
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {name: value for name, value in parse_smi(text, fields, uuid).items() if name != "uuid"}


@functools.cache
def commit() -> str | None:
    """Return the commit of the working tree, followed by a plus if tracked files differ from it."""
    git = ["git", "-c", "safe.directory=*", "-C", str(Path(__file__).parent)]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=20, check=True)
        head = run([*git, "rev-parse", "HEAD"]).stdout.strip()
        return head + "+" * bool(run([*git, "status", "--porcelain", "--untracked-files=no"]).stdout.strip())
    return None
