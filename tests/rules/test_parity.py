"""Against PyTorch, optax and Keras themselves, where they are installed.

Each peer runs in a process of its own: JAX's threads and 64-bit mode, PyTorch's default dtype and Keras' backend
stay out of the other tests. Equal means: ``|difference| / (1 + |p|)`` of each element is within the tolerance,
after each checked step.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rules import peers

HERE = Path(__file__).resolve().parents[1] / "golden"
NOISE = peers.Tolerance(
    1e-12,
    "float64 on another machine or in another version: a step may round otherwise, by 2^-53 = 1.1e-16 of its "
    "size, and a centered second moment magnifies that; two float64 implementations were found 2.3e-15 apart",
)

each_row = pytest.mark.parametrize("row", peers.ROWS, ids=lambda row: row.name)


@functools.cache
def run_all(peer: str) -> dict[str, Any]:
    """Run all rows of a peer in another process; the contents of the golden file for it."""
    command = [sys.executable, str(HERE / "make_golden.py"), "--peer", peer, "--output", "-"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr}"
    contents: dict[str, Any] = json.loads(done.stdout)
    return contents


def live(row: peers.Row) -> dict[int, list[float]]:
    """Return the installed peer's parameters by step, or skip the test where it is not installed."""
    for package in peers.PACKAGES[row.peer]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install {' '.join(peers.PACKAGES[row.peer])}")
    return {int(step): values for step, values in run_all(row.peer)["rows"][row.name]["after"].items()}


@each_row
def test_step_matches_live_peer(row: peers.Row) -> None:
    """Our call follows the installed peer."""
    expected = live(row)
    ours = peers.run_lrcore(row, *peers.problem())
    peers.check(ours, expected, row.tolerance, f"lrcore.{row.ours} against {row.peer}'s {row.theirs}")


@each_row
def test_stored_peer_is_live_peer(row: peers.Row) -> None:
    """The installed peer gives what is stored: a failure says that the peer has changed, or the rows."""
    actual = live(row)
    golden = json.loads((HERE / "peers.json").read_text(encoding="utf-8"))
    expected = {int(step): values for step, values in golden["rows"][row.name]["after"].items()}
    known = {package: golden["versions"][package] for package in peers.PACKAGES[row.peer]}
    now = run_all(row.peer)["versions"]
    peers.check(actual, expected, NOISE, f"{row.peer}'s {row.theirs} under {now} against the stored {known}")
