"""Print the backend in use and a digest of its results.

Machines with bitwise identical results print the same digest.

    python tests/bits.py [BACKEND DIGEST]

With arguments, exit with an error unless the output equals them.
"""

from __future__ import annotations

import hashlib
import sys

import numpy as np

import lrcore
from support import make


def digest() -> str:
    """Return a digest of every rule's parameters and states after early and late steps under a schedule."""
    rate = lrcore.schedules.Cosine(0.01, steps=3000).warmup(100)
    start, *gradients = np.random.default_rng(0).standard_normal((6, 1003)).astype(np.float32)
    found = hashlib.sha256()
    for rule in lrcore.rules():
        optimizer = make(rule, start.copy(), rate, weight_decay=0.01)
        for first in range(0, 3000, 7):
            optimizer.step_count = first
            optimizer.step(gradients[first % 5])
        for array in (optimizer.params, *optimizer.state.values()):
            found.update(array)
    return found.hexdigest()


def main() -> None:
    """Print the backend and the digest, and compare them with the command-line arguments."""
    found = [str(lrcore.info()["backend"]), digest()]
    print(*found)
    if sys.argv[1:] not in ([], found):
        sys.exit(f"expected {' '.join(sys.argv[1:])}")


if __name__ == "__main__":
    main()
