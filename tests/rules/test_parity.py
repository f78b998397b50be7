"""Live results of PyTorch, optax and Keras, if they are installed, against the stored results.

Each peer runs in its own process, so that JAX's threads and 64-bit mode, PyTorch's default dtype and Keras'
backend do not affect other tests. Parameters count as equal if ``|difference| / (1 + |p|)`` of each element
is within the tolerance after each checked step.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rules import peers

HERE = Path(__file__).resolve().parents[1] / "golden"
NOISE = peers.Tolerance(
    1e-12,
    "float64 on another machine or in another version: a step may round differently, by 2^-53 = 1.1e-16 of its "
    "size, and a centered second moment magnifies this; two float64 implementations differed by 2.3e-15",
)


@pytest.mark.slow
@pytest.mark.parametrize("peer", peers.PACKAGES)
def test_stored_peers_are_live_peers(peer: str) -> None:
    """A failure means that the peer or the rows have changed. test_golden.py covers lrcore itself."""
    for package in peers.PACKAGES[peer]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install {' '.join(peers.PACKAGES[peer])}")
    command = [sys.executable, str(HERE / "make_golden.py"), "--peer", peer, "--output", "-"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr}"
    live = json.loads(done.stdout)
    golden = json.loads((HERE / "peers.json").read_text(encoding="utf-8"))
    known = {package: golden["versions"][package] for package in peers.PACKAGES[peer]}
    for name, row in live["rows"].items():
        actual, expected = (
            {int(step): values for step, values in each["after"].items()}
            for each in (row, golden["rows"][name])
        )
        what = f"{name} under {live['versions']} against the stored result of {known}"
        peers.check(actual, expected, NOISE, what)
