"""Compute rates in float64 from the equation in a schedule's docstring, with ``scripts/equations.py``."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import math
import sys
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "equations.py"
needs_script = pytest.mark.skipif(not SCRIPT.is_file(), reason="scripts/equations.py is missing")


def load() -> Any:
    """Return the module that parses equations."""
    if "equations" not in sys.modules:
        spec = importlib.util.spec_from_file_location("equations", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["equations"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["equations"]


def says_all(options: dict[str, Any]) -> bool:
    """Return whether the equation covers these arguments. Two options are described only in words."""
    return not options.get("three_phase") and not options.get("cycle")


def rates(schedule: Any, times: Iterable[int]) -> list[float]:
    """Return the rates that the equation gives for the arguments of a schedule."""
    cls, equations = type(schedule), load()
    read = equations.lines(equations.block(inspect.getdoc(cls)))
    arguments = {name: getattr(schedule, name) for name in inspect.signature(cls).parameters}
    chosen = {value for value in arguments.values() if isinstance(value, str)}
    chosen.add("staircase" if arguments.get("staircase") else "smooth")
    found = []
    for t in times:
        known = arguments | {"t": float(t)} | _more_of(schedule, t)
        found.append(equations.compute(read, known, chosen.__contains__)["s"](float(t)))
    return found


def _more_of(schedule: Any, t: int) -> dict[str, Any]:
    """Return values that docstrings define in words: the cycle, stage, pulse or part at t, and functions."""
    name = type(schedule).__name__
    if name == "PiecewiseConstant":
        return {"values_i": schedule.values[bisect_right(schedule.boundaries, t)]}
    if name == "Cyclic":
        return {"down": schedule.up if schedule.down is None else schedule.down}
    if name == "CosineRestarts":
        i, start, length = 0, 0, schedule.steps
        if schedule.cycle_mult == 1:
            i = t // length
            start = i * length
        while t >= start + length:
            i, start, length = i + 1, start + length, length * schedule.cycle_mult
        return {"i": i, "t_i": start}
    if name == "CyclicStages":
        t %= sum(length for _, length in schedule.stages)
        ends = np.cumsum([length for _, length in schedule.stages])
        return {"lr_i": schedule.stages[int(np.searchsorted(ends, t, side="right"))][0]}
    if name == "PeriodicPulse":
        first = [(lr, period) for lr, period in schedule.pulses if t % period == 0]
        return {"lr_i": first[0][0], "T_i": first[0][1]} if first else {"lr_i": math.nan, "T_i": math.inf}
    if name == "Recursive":
        return {"s": lambda t: schedule(int(t)), "fn": lambda t, lr: schedule.fn(int(t), lr)}
    if name == "Function":
        return {"fn": lambda t: schedule.fn(int(t))}
    if name == "Plateau":
        return {"lr": lambda t: schedule.lr(int(t)), "k": schedule.reductions}
    if name == "Sequence":
        *pairs, last = schedule.parts
        starts = [*itertools.accumulate((length for _, length in pairs), initial=0)]
        i = bisect_right(starts, t) - 1
        part = [*(each for each, _ in pairs), last][i]
        return {"s_i": lambda t: part(int(t)), "t_i": starts[i]}
    return {}
