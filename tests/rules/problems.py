"""What every rule is stepped with, on every backend and device."""

from __future__ import annotations

from typing import Any

SIZES = (0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 63, 65, 1000, 4097, 100_003)

STAGES: dict[str, dict[str, Any]] = {
    "no decay": {},
    "coupled": {"weight_decay": 0.1, "decoupled_weight_decay": False},
    "decoupled, maximize": {"weight_decay": 0.1, "decoupled_weight_decay": True, "maximize": True},
}


def rate(t: int) -> float:
    """Return a rate that changes at every step."""
    return 0.01 * (1.5 if t % 2 == 0 else 0.5) / (1 + 0.1 * t)
