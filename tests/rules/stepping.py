"""Sizes, stages and rates for tests of every rule, backend and device, and the steps of the oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rules.oracle import averaged
from support import Array, assert_bits, assert_same, make, oracle_step

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


class Averaged:
    """An optimizer with an average whose decay is a function of the step count, the same one without, and the average."""

    def __init__(self, opt: Any, plain: Any, ema: Callable[[int], float]) -> None:
        self.opt, self.plain, self.ema = opt, plain, ema
        self.average = flat(plain.params).copy()
        self.assert_same("at first:")

    def step(self, grads: Any, what: str = "", zero_grads: bool = False, **arguments: Any) -> None:
        """Take a step with both optimizers, and assert that everything has the bits of the definition.

        Elements of frozen groups are not averaged, and a step that `skip_nonfinite` skips averages nothing.
        """
        t = self.plain.step_count
        self.plain.step(grads, **arguments)
        self.opt.step(grads, zero_grads=zero_grads, **arguments)
        if self.plain.step_count > t:
            new = averaged(self.average, flat(self.plain.params), self.ema(t))
            for group in self.plain.groups:
                for begin, end in () if group.frozen else group.ranges:
                    self.average[begin:end] = new[begin:end]
        self.assert_same(f"{what} step {t + 1}:")

    def assert_same(self, what: str = "") -> None:
        opt, plain = self.opt, self.plain
        assert opt.step_count == plain.step_count
        assert [*opt.state] == [*plain.state, "ema"]
        expected = {"params": plain.params, **plain.state}
        for name, values in {"params": opt.params, **opt.state}.items():
            assert_bits(
                flat(values), self.average if name == "ema" else flat(expected[name]), f"{what} {name}"
            )


def flat(values: Any) -> Array:
    """Return the elements of a NumPy array or a pack, without a copy."""
    found: Array = values.reshape(-1) if isinstance(values, np.ndarray) else values.flat
    return found
