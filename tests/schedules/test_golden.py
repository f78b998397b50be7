"""Against the rates that other packages gave when ``golden/schedules.json`` was made; needs none of them.

Equal means: the difference at each t, or after each metric, is within the row's tolerance.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schedules import peers as schedule_peers
from schedules import plateau_peers
from schedules.examples import CLASSES

FILE = Path(__file__).resolve().parents[1] / "golden" / "schedules.json"
GOLDEN: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
ROWS: list[Any] = [*schedule_peers.ROWS, *plateau_peers.ROWS]
REMEDY = "run tests/golden/make_schedules.py"


def test_file_holds_the_tables() -> None:
    """No call of a peer is missing, left over, or stored for other steps or metrics than live peers are asked for."""
    stored = {
        (table, peer, name): len(rates)
        for table in ("schedules", "plateaus")
        for peer, rows in GOLDEN[table].items()
        for name, rates in rows.items()
    }
    assert stored == {(row.table, row.peer, str(row)): len(row.steps) for row in ROWS}, REMEDY
    assert len(stored) == len(ROWS)
    assert {name: (*values,) for name, values in GOLDEN["metrics"].items()} == plateau_peers.METRICS, REMEDY


def test_every_schedule_has_a_row() -> None:
    """Each schedule here stands in a call of ours, but those that no peer has."""
    nowhere = {"CyclicStages", "NaturalExponential", "PeriodicPulse", "PolynomialProduct", "Rex"}
    calls = " ".join(row.ours for row in ROWS)
    assert {name for name in CLASSES if f"{name}(" not in calls} == nowhere


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.peer}-{row}")
def test_rates_match_the_stored_peer(row: Any) -> None:
    what = f"{row.ours} against {row.peer}'s stored {row}"
    schedule_peers.check(row.rates(), GOLDEN[row.table][row.peer][str(row)], row.tolerance, what)
