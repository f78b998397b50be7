"""Gradients with guards around them, to check which elements a step has zeroed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rules.test_rules import aligned
from support import Array, gradients

GUARD = np.float32(1e30)
SPECIAL = np.array([-0.0, np.inf, np.nan, -np.nan, 1e-45, -np.inf], np.float32)


def special(n: int, seed: int) -> Array:
    """Return gradients, one in seven of which is -0, subnormal or not finite."""
    g = gradients(np.random.default_rng([n, seed]), n)
    g[3::7] = np.resize(SPECIAL, g[3::7].size)
    return g


class Guarded:
    """An array between guards that begins `offset` floats after a multiple of 64 bytes, on a device if `xp` is given."""

    def __init__(self, values: Array, offset: int = 0, xp: Any = None) -> None:
        memory = aligned(len(values) + 48, GUARD)
        self.place = slice(16 + offset, 16 + offset + len(values))
        memory[self.place] = values
        self.before = memory.copy()
        self.xp = xp
        self.memory = memory if xp is None else xp.array(memory)
        self.array: Any = self.memory[self.place]

    def assert_zeroed(self, kept: Iterable[tuple[int, int]] = (), what: str = "") -> None:
        """Assert that all bits of the array are 0 except in the ranges `kept`, and that nothing else was written."""
        expected = self.before.copy()
        values = expected[self.place]
        before = values.copy()
        values[:] = 0
        for begin, end in kept:
            values[begin:end] = before[begin:end]
        self._assert_bits(expected, what)

    def assert_kept(self) -> None:
        """Assert that nothing was written."""
        self._assert_bits(self.before, "")

    def _assert_bits(self, expected: Array, what: str) -> None:
        found = self.memory if self.xp is None else self.xp.numpy(self.memory)
        wrong = np.flatnonzero(found.view(np.uint32) != expected.view(np.uint32))
        assert not wrong.size, (
            f"{what} {wrong.size} elements are wrong, the first at {wrong[0] - self.place.start} of "
            f"{self.place.stop - self.place.start}: {found[wrong[0]]!r}, expected {expected[wrong[0]]!r}"
        )
