"""Comparison with the results of PyTorch, optax and Keras that are stored in ``golden/peers.json``.

These packages need not be installed. Parameters count as equal if ``|difference| / (1 + |p|)`` of each
element is within the row's tolerance after each checked step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rules import peers

FILE = Path(__file__).resolve().parents[1] / "golden" / "peers.json"
GOLDEN: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
REMEDY = "run tests/golden/make_golden.py"


def test_file_holds_the_table() -> None:
    """The file has exactly the rows of the table, made by the calls of the table."""
    stored = {name: (row["call"], row["lr"]) for name, row in GOLDEN["rows"].items()}
    assert len({row.name for row in peers.ROWS}) == len(peers.ROWS)
    assert stored == {row.name: (str(row.theirs), row.lr) for row in peers.ROWS}, REMEDY
    for row in GOLDEN["rows"].values():
        assert sorted(map(int, row["after"])) == sorted(peers.CHECKED), REMEDY


def test_file_holds_the_problem() -> None:
    """The stored start and gradients equal those that `peers.problem` makes for live peers."""
    start, gradients = peers.problem()
    assert np.array_equal(np.array(GOLDEN["start"], np.float32), start), REMEDY
    assert np.array_equal(np.array(GOLDEN["gradients"], np.float32), gradients), REMEDY


@pytest.mark.parametrize("row", peers.ROWS, ids=lambda row: row.name)
def test_step_matches_stored_peer(row: peers.Row) -> None:
    """The call to lrcore reproduces the peer's stored parameters."""
    start = np.array(GOLDEN["start"], np.float32)
    gradients = np.array(GOLDEN["gradients"], np.float32)
    expected = {int(step): values for step, values in GOLDEN["rows"][row.name]["after"].items()}
    ours = peers.run_lrcore(row, start, gradients)
    peers.check(ours, expected, row.tolerance, f"lrcore.{row.ours} against {row.peer}'s stored {row.theirs}")
