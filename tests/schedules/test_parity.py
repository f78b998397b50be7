"""The stored rates of PyTorch, optax, Keras and transformers are those of the installed packages.

test_golden.py compares our rates with the stored ones. Each peer runs in a process of its own.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

from schedules.peers import PACKAGES, Row
from schedules.test_golden import FILE, GOLDEN, ROWS

pytestmark = pytest.mark.slow  # each peer takes seconds to start
NOISE = 1e-12
"""Tolerance, relative to the row's largest rate. On another machine or with another version, each operation may
have a different relative rounding error of up to 2^-53 = 1.1e-16, and a chain of rates magnifies these errors. The
stored rates and ours differ by at most 4.0e-15."""


@functools.cache
def live(peer: str) -> Any:
    """Return the rates of an installed peer in the form of the golden file, or skip the test."""
    for package in PACKAGES[peer]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install {peer}")
    command = [sys.executable, str(FILE.with_name("make_schedules.py")), "--peer", peer, "--output", "-"]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.peer}-{row}")
def test_stored_peer_is_live_peer(row: Row) -> None:
    """A failure means that the peer or the rows have changed."""
    contents = live(row.peer)
    stored = GOLDEN[row.table][row.peer][str(row)]
    expected = pytest.approx(stored, rel=0, abs=NOISE * max(stored))
    assert contents[row.table][row.peer][str(row)] == expected, (contents["versions"], GOLDEN["versions"])
