"""Sizes, stages and rates for tests of every rule, backend and device, and the steps of the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np

from support import Array, assert_same, make, oracle_step

SIZES = (0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 63, 65, 1000, 4097, 100_003)

STAGES: dict[str, dict[str, Any]] = {
    "no decay": {},
    "coupled": {"weight_decay": 0.1, "decay": "l2"},
    "decoupled, maximize": {"weight_decay": 0.1, "decay": "decoupled", "maximize": True},
    "independent": {"weight_decay": 0.1, "decay": "independent"},
}


def rate(t: int) -> float:
    """Return a rate that changes at every step."""
    return 0.01 * (1.5 if t % 2 == 0 else 0.5) / (1 + 0.1 * t)


class Followed:
    """An optimizer of a rule, and the oracle's parameters and states for the same steps."""

    def __init__(self, rule: str, start: Array, lr: Any = 0.01, **arguments: Any) -> None:
        self.opt = make(rule, start.copy(), lr, **arguments)
        self.p, self.states = start, [np.array(state) for state in self.opt.state.values()]
        self.rate = lr if callable(lr) else lambda _: lr
        self.decay = arguments.get("decay", self.opt.options["decay"])
        self.maximize = arguments.get("maximize", False)

    def follow(self, g: Array, t: int, **stages: Any) -> None:
        """Take step t with the oracle alone."""
        stages |= {"t": t, "lr": self.rate(t - 1), "decay": self.decay, "maximize": self.maximize}
        self.p, self.states = oracle_step(self.opt, self.p, g, self.states, **stages)

    def step(self, g: Array, what: str = "") -> None:
        """Take the next step, and assert that everything has the oracle's bits."""
        self.opt.step(g)
        self.follow(g, self.opt.step_count)
        assert_same(self.opt, self.p, self.states, f"{self.opt.rule}, {what}, step {self.opt.step_count}:")
