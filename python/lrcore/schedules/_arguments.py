"""The check of every schedule argument that means the same wherever it is taken."""

from __future__ import annotations

from lrcore._checks import (
    Check,
    flag,
    integer,
    nonnegative,
    num_steps,
    num_steps_or_zero,
    positive,
    rate,
)

CHECKS: dict[str, Check] = (
    dict.fromkeys(("lr", "end", "peak", "base", "start"), rate)
    | dict.fromkeys(("low", "high", "k", "power", "power2", "scale", "pct_start"), nonnegative)
    | dict.fromkeys(("rate", "factor", "peak_mult", "gamma", "div", "final_div"), positive)
    | dict.fromkeys(("steps", "every", "up", "warmup_steps", "decay", "steps_per_epoch"), num_steps)
    | dict.fromkeys(("cycle_mult", "model_dim"), integer)
    | dict.fromkeys(("stable", "n"), num_steps_or_zero)
    | dict.fromkeys(("staircase", "cycle", "three_phase"), flag)
)
