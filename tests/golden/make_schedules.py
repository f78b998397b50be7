"""Run the installed peers over every row of the schedules' tables and store the rates that they give.

    python tests/golden/make_schedules.py                        # all peers, writes schedules.json beside this file
    python tests/golden/make_schedules.py --peer torch --output -    # one peer, to standard output

The tables are ``peers.ROWS`` and ``plateau_peers.ROWS``. Wants PyTorch, optax, Keras and transformers
(``pip install torch optax keras transformers``); lrcore is not used. The file holds the versions, and by peer and
call the rates as the shortest decimals that give the float64 back, and the metrics that plateaus were told.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from golden.make_golden import run
from schedules import peers as schedule_peers
from schedules import plateau_peers

TARGET = Path(__file__).resolve().with_name("schedules.json")


def collect(names: Iterable[str]) -> dict[str, Any]:
    """Run the rows of the named peers and return the contents of the file."""
    names = tuple(names)
    tables: dict[str, dict[str, dict[str, list[float]]]] = {}
    for module in (schedule_peers, plateau_peers):
        for row in module.ROWS:
            if row.peer in names:
                rates = module.PEERS[row.peer](row.theirs, row.steps)
                tables.setdefault(row.table, {}).setdefault(row.peer, {})[str(row)] = _finite(rates, str(row))
    packages = dict.fromkeys(package for name in names for package in schedule_peers.PACKAGES[name])
    versions = {package: importlib.metadata.version(package) for package in packages}
    return {"versions": versions, "metrics": plateau_peers.METRICS, "plateaus": {}} | tables


def _finite(rates: list[float], what: str) -> list[float]:
    """Return the rates, or raise ValueError."""
    if not all(map(math.isfinite, rates)):
        raise ValueError(f"{what}: not finite")
    return rates


def dump(contents: dict[str, Any]) -> str:
    """Return the contents as JSON, with each call on one line so that a change can be read."""
    lines = [
        f' "versions": {json.dumps(contents["versions"])}',
        f' "metrics": {_dump_rows(contents["metrics"])}',
    ]
    for table in ("schedules", "plateaus"):
        peers = [f'  "{peer}": {_dump_rows(rows)}' for peer, rows in contents[table].items()]
        lines.append(f' "{table}": {{\n' + ",\n".join(peers) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _dump_rows(rows: dict[str, Any]) -> str:
    return (
        "{\n" + ",\n".join(f"   {json.dumps(key)}: {json.dumps(row)}" for key, row in rows.items()) + "\n  }"
    )


if __name__ == "__main__":
    run(TARGET, schedule_peers.PACKAGES, lambda names: dump(collect(names)))
