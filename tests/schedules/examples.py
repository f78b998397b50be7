"""Examples of all schedules and of compositions, and the round trips that must restore an equal schedule."""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import json
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any

from lrcore import schedules

made: Any = schedules


def halving(t: int, lr: float) -> float:
    return lr * 0.5 if t % 3 == 2 else lr


def counting(t: int, lr: float) -> float:
    return lr + t


EXAMPLES: dict[str, list[dict[str, Any]]] = {
    "Constant": [{"lr": 0.1}, {"lr": 0}],
    "PiecewiseConstant": [
        {"boundaries": [10, 20, 25], "values": [0.1, 0.3, 0, 0.01]},
        {"boundaries": [1], "values": [1.0, 2.0]},
    ],
    "StepDecay": [
        {"lr": 0.1, "every": 7},
        {"lr": 0.3, "every": 1, "factor": 0.97},
    ],
    "Exponential": [
        {"lr": 0.1, "rate": 0.95},
        {"lr": 0.1, "rate": 0.5, "steps": 12},
        {"lr": 0.1, "rate": 0.5, "steps": 12, "staircase": True},
    ],
    "NaturalExponential": [{"lr": 0.1, "k": 0.05}, {"lr": 3, "k": 0}],
    "InverseTime": [
        {"lr": 0.1, "k": 0.5},
        {"lr": 0.1, "k": 0.3, "steps": 7},
        {"lr": 0.1, "k": 0.3, "steps": 7, "staircase": True},
    ],
    "Linear": [
        {"lr": 0.1, "end": 0.02, "steps": 30},
        {"lr": 0, "end": 0.7, "steps": 49},
    ],
    "Polynomial": [
        {"lr": 0.1, "steps": 30},
        {"lr": 0.1, "steps": 30, "power": 2.5, "end": 0.013},
        {"lr": 0.1, "steps": 7, "power": 0.9, "end": 0.013, "cycle": True},
        {"lr": 0.1, "steps": 30, "power": 0, "end": 0.01},
    ],
    "PolynomialProduct": [
        {"lr": 0.1, "steps": 30, "power": 1, "power2": 2},
        {"lr": 0.1, "steps": 31, "power": 0.5, "power2": 0},
    ],
    "Cosine": [{"lr": 0.1, "steps": 30}, {"lr": 0.1, "steps": 31, "end": 0.017}, {"lr": 0.1, "steps": 1}],
    "CosineRestarts": [
        {"lr": 0.1, "steps": 7},
        {"lr": 0.1, "steps": 4, "cycle_mult": 2, "peak_mult": 0.7, "end": 0.003},
        {"lr": 0.01, "steps": 10, "peak_mult": 0.5, "end": 0.1},
    ],
    "Cyclic": [
        {"low": 0.001, "high": 0.1, "up": 5},
        {"low": 0, "high": 0.1, "up": 3, "down": 8, "mode": "triangular2"},
        {"low": 0.001, "high": 0.1, "up": 4, "down": 1, "mode": "exp_range", "gamma": 0.98},
    ],
    "OneCycle": [
        {"peak": 0.1, "steps": 50},
        {"peak": 0.1, "steps": 37, "pct_start": 0.27, "div": 10, "final_div": 100, "shape": "linear"},
        {"peak": 0.1, "steps": 37, "pct_start": 0.27, "three_phase": True},
    ],
    "WarmupStableDecay": [
        {"peak": 0.1, "warmup_steps": 7, "stable": 10, "decay": 20},
        {"peak": 0.3, "warmup_steps": 0, "stable": 0, "decay": 30, "end": 0.01, "shape": "linear"},
        {"peak": 0.1, "warmup_steps": 49, "stable": 3, "decay": 1, "end": 0.02, "shape": "cosine"},
    ],
    "InverseSqrt": [{"peak": 0.1, "warmup_steps": 10}, {"peak": 1, "warmup_steps": 1}],
    "Noam": [{"model_dim": 512, "warmup_steps": 30}, {"model_dim": 100, "warmup_steps": 1, "scale": 2.5}],
    "CyclicStages": [{"stages": [(0.1, 3), (0, 1), (0.01, 10)]}, {"stages": [(0.5, 1)]}],
    "PeriodicPulse": [
        {"base": 0.01, "pulses": [(0.5, 6), (0.1, 4)]},
        {"base": 0, "pulses": [(0.1, 2), (0.5, 4), (0.3, 3)]},
    ],
    "Rex": [{"lr": 0.1, "steps": 30}, {"lr": 0.1, "steps": 31, "end": 0.01}],
    "Recursive": [{"fn": halving, "lr": 0.1}, {"fn": counting, "lr": 0}],
}

CALLABLES = {"Recursive", "Function"}


def example_of(cls: type[Any]) -> Any:
    """Return the schedule made by the first call of a class in the examples of its docstring."""
    found = re.search(rf"^>>> .*?(\b{cls.__name__}\(.*)", inspect.getdoc(cls) or "", re.MULTILINE)
    assert found, f"{cls.__name__}: its docstring has no example"
    for end in range(len(found[1]), 0, -1):  # the call may be part of an expression
        with contextlib.suppress(SyntaxError):
            tree = ast.parse(found[1][:end], mode="eval").body
            calls = [each for each in ast.walk(tree) if isinstance(each, ast.Call)]
            own = [each for each in calls if isinstance(each.func, ast.Name) and each.func.id == cls.__name__]
            return eval(ast.unparse(own[0]), dict(vars(schedules)))
    raise AssertionError(found[1])


CLASSES: dict[str, Any] = {
    name: each
    for name in schedules.__all__
    if inspect.isclass(each := getattr(schedules, name))
    and issubclass(each, schedules.Schedule)
    and each is not schedules.Schedule
}
for _name in sorted(CLASSES.keys() - {*EXAMPLES, *CALLABLES, "Sequence", "Plateau"}):
    EXAMPLES[_name] = [dict(example_of(CLASSES[_name])._arguments())]
"""A schedule without examples above gets the example in its docstring. Its values are compared with the
equation there."""

CASES = [(name, options) for name, several in EXAMPLES.items() for options in several]

WAYS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda s: s,
    "number": lambda s: s * 0.3,
    "schedule": lambda s: schedules.Linear(0.7, 0.1, 9) * s,
    "square": lambda s: s * s,
    "warmup": lambda s: s.warmup(4),
    "warmup from": lambda s: s.warmup(4, start=0.01),
    "clip": lambda s: s.clip(0.05, 0.1),
    "then": lambda s: s.then(0.25, at=3),
    "before": lambda s: schedules.Constant(0.25).then(s, at=3),
    "sequence": lambda s: schedules.Sequence([(0.25, 2), (s, 3), s]),
    "shift": lambda s: s.shift(2),
    "epochs": lambda s: s.per_epoch(2),
    "plateau": schedules.Plateau,
    "all": lambda s: (s * 0.5).clip(0.001, 0.3).shift(2).per_epoch(3).warmup(5).then(0.125, at=12),
}
"""Ways to make a schedule from another one."""


def build(code: str) -> Any:
    """Evaluate an expression with the names of `lrcore.schedules`, and return its value."""
    return eval(code, dict(vars(schedules)))


def every() -> list[Any]:
    """Return all example schedules and one of each composition, including those without a dictionary form."""
    singles = [getattr(made, name)(**options) for name, options in CASES]
    return singles + [compose(made.Rex(0.2, 8)) for compose in WAYS.values()]


def round_trips(schedule: Any) -> Iterator[Any]:
    """Yield a copy of a schedule from each kind of round trip, and check that it equals the original."""
    again = [copy.copy(schedule), copy.deepcopy(schedule)]
    again += [pickle.loads(pickle.dumps(schedule, each)) for each in range(pickle.HIGHEST_PROTOCOL + 1)]
    if has_dictionary(schedule):
        dictionary = schedule.to_dict()
        again += [schedules.from_dict(json.loads(json.dumps(dictionary, allow_nan=False)))]
        again += [eval(repr(schedule), vars(schedules)), schedules.parse(repr(schedule))]
        assert all(each.to_dict() == dictionary for each in again)
    for each in again:
        assert type(each) is type(schedule)
        assert each == schedule
        assert hash(each) == hash(schedule)
        assert repr(each) == repr(schedule)
        yield each


def has_dictionary(schedule: Any) -> bool:
    """Return whether a schedule contains no callable."""
    try:
        schedule.to_dict()
    except TypeError:
        return False
    return True


def label(each: Any) -> str:
    """Return the name of a case for a test id. It is the same in every process."""
    return re.sub(" at 0x[0-9a-f]+", "", str(each))[:60]
