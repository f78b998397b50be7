"""Against the rates that other packages gave when ``golden/schedules.json`` was made; needs none of them.

Equal means: the difference at each t, or after each metric, is within the row's tolerance.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lrcore import schedules
from lrcore.schedules import Schedule
from schedules import peers as schedule_peers
from schedules import plateau_peers

FILE = Path(__file__).resolve().parents[1] / "golden" / "schedules.json"
GOLDEN: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
REMEDY = "run tests/golden/make_schedules.py"


def test_file_holds_the_table() -> None:
    """No call of a peer is missing, left over, or stored for other steps than the table states."""
    stored = {
        (peer, code): len(rates) for peer, rows in GOLDEN["schedules"].items() for code, rates in rows.items()
    }
    assert len({(row.peer, row.theirs) for row in schedule_peers.ROWS}) == len(schedule_peers.ROWS)
    assert stored == {(row.peer, row.theirs): len(row.steps) for row in schedule_peers.ROWS}, REMEDY


def test_file_holds_the_plateaus() -> None:
    """No row of the other table is missing or left over, and the metrics are those that live peers are told."""
    stored = {(peer, name) for peer, rows in GOLDEN["plateaus"].items() for name in rows}
    assert len({(row.peer, str(row)) for row in plateau_peers.ROWS}) == len(plateau_peers.ROWS)
    assert stored == {(row.peer, str(row)) for row in plateau_peers.ROWS}, REMEDY
    assert {name: tuple(values) for name, values in GOLDEN["metrics"].items()} == plateau_peers.METRICS, (
        REMEDY
    )


def test_every_schedule_has_a_row() -> None:
    """Each schedule here stands in a call of ours, but those that no peer has."""
    nowhere = {"CyclicStages", "NaturalExponential", "PeriodicPulse", "PolynomialProduct", "Rex"}
    calls = " ".join([row.ours for row in schedule_peers.ROWS] + [row.ours for row in plateau_peers.ROWS])
    public = {name: getattr(schedules, name) for name in schedules.__all__}
    names = {name for name, each in public.items() if isinstance(each, type) and issubclass(each, Schedule)}
    assert {name for name in names - {"Schedule"} if f"{name}(" not in calls} == nowhere


@pytest.mark.parametrize("row", schedule_peers.ROWS, ids=lambda row: f"{row.peer}-{row.theirs}")
def test_schedule_matches_stored_peer(row: schedule_peers.Row) -> None:
    """Our call gives the peer's stored rates."""
    schedule_peers.check(
        schedule_peers.run_lrcore(row.ours, row.steps),
        GOLDEN["schedules"][row.peer][row.theirs],
        row.tolerance,
        f"{row.ours} against {row.peer}'s stored {row.theirs}",
    )


@pytest.mark.parametrize("row", plateau_peers.ROWS, ids=lambda row: f"{row.peer}-{row}")
def test_plateau_matches_stored_peer(row: plateau_peers.Row) -> None:
    """Our call gives the peer's stored rates after each metric."""
    schedule_peers.check(
        plateau_peers.run_lrcore(row.ours, plateau_peers.METRICS[row.metrics]),
        GOLDEN["plateaus"][row.peer][str(row)],
        row.tolerance,
        f"{row.ours} against {row.peer}'s stored {row}",
    )
