"""Every schedule refuses invalid values of each argument. The message begins with the name of the argument.

The arguments are read from the signatures, and the invalid values follow from the annotations. A new schedule
is therefore tested without a change here, unless it takes a new kind of argument.
"""

from __future__ import annotations

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from lrcore import schedules
from lrcore.schedules import Constant, Cosine, Schedule
from schedules.examples import CALLABLES, CLASSES, EXAMPLES, label

VALID: dict[str, dict[str, Any]] = {name: examples[0] for name, examples in EXAMPLES.items()} | {
    "Function": {"fn": abs},
    "Plateau": {"lr": 0.1, "statistic": "mean"},
    "Sequence": {"parts": [(0.1, 3), 0.2]},
}
METHODS: dict[str, dict[str, Any]] = {
    "then": {"other": 0.2, "at": 3},
    "warmup": {"steps": 3},
    "clip": {"low": 0.01, "high": 0.05},
    "shift": {"n": 3},
    "per_epoch": {"steps_per_epoch": 3},
}
"""The methods that compose schedules, with valid arguments."""

NO_NUMBERS: tuple[Any, ...] = ("x", "1", b"1", None, True, False, np.True_, 1j, [], [1, 2], {}, Cosine)
NUMBERS: tuple[Any, ...] = (-1, -1e-300, math.nan, math.inf, -math.inf, np.float32("nan"), np.inf, 10**400)
NO_INTEGERS: tuple[Any, ...] = ("3", None, True, 2.5, math.nan, math.inf, 1j, [3], np.array([3, 3]))
INTEGERS: tuple[Any, ...] = (-1, -(10**400), np.int64(-1), 2**64)
NO_FLAGS: tuple[Any, ...] = (0, 1, 1.0, "yes", "", None, [])
NO_WORDS: tuple[Any, ...] = ("nonsense", "", None, 3, True, 0.5, ["linear"])
NO_SEQUENCES: tuple[Any, ...] = (3, 0.5, None, True, "ab", b"ab")
NO_CALLABLES: tuple[Any, ...] = (3, 0.5, None, "x", [])

RATES = {"lr", "end", "peak", "base", "start", "min_lr", "values", "stages", "pulses"}
"""Numbers that must be representable in float32."""
POSITIVE = {"rate", "factor", "gamma", "peak_mult", "div", "final_div", "pct_start"}
"""Numbers that must not be 0."""
ZERO = {("WarmupStableDecay", "warmup_steps"), "stable", "patience", "cooldown", ("warmup", "steps"), "n"}
"""Numbers of steps that may be 0."""


def wrong(owner: str, name: str, hint: Any) -> Iterator[Any]:
    """Yield the values that an argument must refuse, according to its annotation."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    optional = isinstance(hint, types.UnionType) and type(None) in inner
    if optional:
        rest = next(each for each in inner if each is not type(None))
        yield from (each for each in wrong(owner, name, rest) if each is not None)
    elif hint is float:
        yield from NO_NUMBERS
        yield from NUMBERS
        if name.rstrip("[]") in RATES or (owner == "Cyclic" and name in ("low", "high")):
            yield 1e39
        if name in POSITIVE:
            yield from (0, 0.0, -0.0)
    elif hint is int:
        yield from NO_INTEGERS
        yield from INTEGERS
        if not ZERO & {name, (owner, name)}:
            yield from (0, np.uint8(0))
    elif hint is bool:
        yield from NO_FLAGS
    elif origin is typing.Literal:
        yield from NO_WORDS
    elif isinstance(hint, types.UnionType) and float in inner:  # a rate: a number, a schedule or a callable
        yield from (each for each in (*NO_NUMBERS, *NUMBERS) if each is not Cosine)
        yield Cosine
    elif origin is collections.abc.Callable:
        yield from NO_CALLABLES
    elif origin is collections.abc.Iterable:  # the parts of a sequence
        yield from (*NO_SEQUENCES, [], [0.1, 0.2], [(0.1, 2)], [(0.1, 2, 3), 0.2], [(0.1,), 0.2])
        yield from ([(0.1, each), 0.2] for each in (*NO_INTEGERS, *INTEGERS))
    elif origin is collections.abc.Sequence:
        yield from NO_SEQUENCES
        valid = [*VALID[owner][name]]
        for place in range(len(valid)):
            for each in wrong(owner, f"{name}[]", inner[0]):
                yield [*valid[:place], each, *valid[place + 1 :]]
    elif origin is tuple:
        yield from (None, 3, (), (0.1,), (0.1, 2, 3))
        yield from ((each, 3) for each in wrong(owner, f"{name}[]", inner[0]))
        yield from ((0.1, each) for each in wrong(owner, f"{name}[]", inner[1]))
    else:
        raise NotImplementedError(f"{owner}: add the values that {name}: {hint} must refuse")


def places() -> Iterator[tuple[str, str]]:
    """Yield each argument of each schedule, and of each method that composes schedules."""
    for name, cls in CLASSES.items():
        yield from ((name, argument) for argument in inspect.signature(cls).parameters)
    for name in METHODS:
        for argument in inspect.signature(getattr(Schedule, name)).parameters:
            if argument not in ("self", "other"):  # messages about `other` name a part instead
                yield name, argument


def attempt(owner: str, changed: dict[str, Any]) -> Any:
    """Return a schedule that is made with some arguments changed."""
    if owner in METHODS:
        return getattr(Constant(0.1), owner)(**METHODS[owner] | changed)
    return CLASSES[owner](**VALID[owner] | changed)


def hint_of(owner: str, argument: str) -> Any:
    """Return the annotation of an argument."""
    made = getattr(Schedule, owner) if owner in METHODS else CLASSES[owner].__init__
    return typing.get_type_hints(made)[argument]


arguments = pytest.mark.parametrize(("owner", "argument"), list(places()))


@arguments
def test_refusals(owner: str, argument: str) -> None:
    values = list(wrong(owner, argument, hint_of(owner, argument)))
    assert len(values) >= 5
    accepted, unnamed = [], []
    for value in values:
        try:
            attempt(owner, {argument: value})
        except (TypeError, ValueError) as error:
            if not str(error).startswith((f"{argument}: ", f"{argument}[")):
                unnamed.append((value, error))
        else:
            accepted.append(value)
    assert not accepted + unnamed


@pytest.mark.parametrize(
    ("owner", "argument"), [each for each in places() if hint_of(*each) in (int, int | None)]
)
def test_numbers_of_steps(owner: str, argument: str) -> None:
    """``steps=1e4`` means 10,000. A fractional number is refused, and the message has a remedy.

    Numbers of 2**64 or more are refused, because they would overflow.
    """
    for value in (12.0, np.float64(12), np.float32(12)):
        made = attempt(owner, {argument: value})
        assert made == attempt(owner, {argument: 12})
        assert repr(made) == repr(attempt(owner, {argument: 12}))
    with pytest.raises(ValueError, match=rf"^{argument}: expected .*, got 0\.1; .*round"):
        attempt(owner, {argument: 0.1})
    with pytest.raises(ValueError, match=rf"^{argument}: expected (a number of steps|an integer) < 2\*\*64"):
        attempt(owner, {argument: 2**64})
    schedule = attempt(owner, {argument: 2**64 - 1})
    assert all(0 <= schedule(t) < math.inf for t in (0, 1, 5))


@arguments
def test_refusals_of_a_dictionary(owner: str, argument: str) -> None:
    """`from_dict` refuses every JSON value that the constructor refuses, always with ValueError."""
    if owner in {*METHODS, *CALLABLES}:
        return
    stored = attempt(owner, {}).to_dict()
    assert schedules.from_dict(stored) == attempt(owner, {})
    for value in wrong(owner, argument, hint_of(owner, argument)):
        if isinstance(value, (str, int, float, list, type(None))):
            with pytest.raises(ValueError, match=r"^[a-z_0-9]+(\[.*\])?: "):
                schedules.from_dict(stored | {argument: value})


@pytest.mark.parametrize("name", CLASSES, ids=label)
def test_a_refused_schedule_leaves_its_arguments_alone(name: str) -> None:
    """Changing a sequence after it was passed does not change the schedule."""
    given = {key: [*value] if isinstance(value, list) else value for key, value in VALID[name].items()}
    schedule = CLASSES[name](**given)
    before = repr(schedule)
    for value in given.values():
        if isinstance(value, list):
            value.clear()
    assert repr(schedule) == before
