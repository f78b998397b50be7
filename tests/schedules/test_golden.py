"""Compare our rates with those of other packages, as stored in ``golden/schedules.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schedules import peers, plateau_peers
from schedules.examples import CLASSES
from schedules.peers import Row

FILE = Path(__file__).resolve().parents[1] / "golden" / "schedules.json"
GOLDEN: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
ROWS = [*peers.ROWS, *plateau_peers.ROWS]


def test_file_holds_the_tables() -> None:
    """No call of a peer is missing, superfluous, or stored for other steps or metrics.

    Every schedule of lrcore has a row, unless no peer has that schedule.
    """
    stored = {
        (table, peer, name): len(rates)
        for table in ("schedules", "plateaus")
        for peer, rows in GOLDEN[table].items()
        for name, rates in rows.items()
    }
    remedy = "run tests/golden/make_schedules.py"
    assert stored == {(row.table, row.peer, str(row)): len(row.steps) for row in ROWS}, remedy
    assert len(stored) == len(ROWS)
    assert {name: (*values,) for name, values in GOLDEN["metrics"].items()} == plateau_peers.METRICS, remedy
    calls = " ".join(row.ours for row in ROWS)
    no_peer_has = {"CyclicStages", "NaturalExponential", "PeriodicPulse", "PolynomialProduct", "Rex"}
    assert {name for name in CLASSES if f"{name}(" not in calls} == no_peer_has


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.peer}-{row}")
def test_rates_match_the_stored_peer(row: Row) -> None:
    assert row.rates() == row.about(GOLDEN[row.table][row.peer][str(row)])
