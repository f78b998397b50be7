"""The arguments of the optimizers: numbers with their ranges, structural options, and the view on the numbers."""

from __future__ import annotations

import inspect
import math
import operator
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, MutableMapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lrcore._lrcore_core import to_float

if TYPE_CHECKING:
    from lrcore.optimizers._base import Optimizer

Value: TypeAlias = float | tuple[float, float]
FilePath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def shown(value: Any) -> str:
    """Give a value as a message has it: Python prints no integer of thousands of digits."""
    try:
        return repr(value)
    except ValueError:
        return type(value).__name__


# What float32 makes of a number, by comparisons of float64: the caller's rounding and flushing change none of them.
_LARGEST = 2.0**128 - 2.0**103
"""This number and all above it round to infinity in float32."""
_SMALLEST = 2.0**-150
"""This number and all below it round to 0 in float32."""
_ALMOST_ONE = 1 - 2.0**-25
"""This number and all up to 1 round to 1 in float32."""


def magnitude(name: str, value: Any) -> float:
    """Check a number that is finite and >= 0, and that float32 neither loses nor overflows."""
    number = to_float(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: expected a finite number >= 0, got {number}")
    if number >= _LARGEST or 0 < number <= _SMALLEST:
        raise ValueError(f"{name}: {number} becomes {'inf' if number > 1 else '0.0'} in float32")
    return number + 0.0  # -0.0 is 0.0: equal arguments give equal bits


def or_zero(number: float) -> float:
    """Return a number, or 0 if float32 loses it, as the rates of a long decay may."""
    return 0.0 if 0 <= number <= _SMALLEST else number


def whole(name: str, value: Any, least: int = 1, what: str = "an integer") -> int:
    """Check an integer that is at least `least`, and that the messages call `what`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}")
    if number < least:
        raise ValueError(f"{name}: expected {what} >= {least}, got {shown(number)}")
    if number >= 2**64:
        raise ValueError(f"{name}: expected {what} < 2**64, got a larger integer")
    return number


def length(name: str, value: Any, least: int = 1) -> int:
    """Check a number of steps."""
    return whole(name, value, least, "a number of steps")


def file_path(value: Any) -> str:
    """Check the path of a file."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"path: expected str, bytes or os.PathLike, got {type(value).__name__}")
    path = os.fsdecode(value)
    try:
        is_possible = len(os.fsencode(path)) > 0 and "\0" not in path
    except UnicodeEncodeError:
        is_possible = False
    if not is_possible:
        raise ValueError(f"path: expected the name of a file, got {path!r}")
    return path


def series(name: str, value: Any) -> NDArray[np.float64]:
    """Check a real number for each step."""
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: expected one dimension, got rows of different lengths") from None
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one dimension, got {array.ndim}")
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
    return array.astype(np.float64)


def _fraction(name: str, value: Any) -> float:
    number = to_float(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name}: expected a number in [0, 1), got {number}")
    return number + 0.0  # as magnitude


def _decay_rate(name: str, value: Any) -> float:
    number = _fraction(name, value)
    if number >= _ALMOST_ONE:
        raise ValueError(f"{name}: {number} becomes 1 in float32, and an average would never move")
    return number


def _decay_rates(name: str, value: Any) -> tuple[float, float]:
    try:
        if isinstance(value, (AbstractSet, Mapping)):
            raise TypeError("no order")
        first, second = value
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected two numbers, got {shown(value)}") from None
    return _decay_rate(f"{name}[0]", first), _decay_rate(f"{name}[1]", second)


def flag(name: str, value: Any) -> bool:
    """Check a truth value."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {shown(value)}")
    return bool(value)


def _eps_placement(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in CHOICES[name]:
        raise ValueError(f"{name}: expected 'corrected' or 'hat', got {shown(value)}")
    return str(value)


#: Every numeric argument and its check. Numbers can be assigned between steps.
NUMBERS: dict[str, Callable[[str, Any], Value]] = {
    "alpha": _decay_rate,
    "betas": _decay_rates,
    "dampening": _fraction,
    "eps": magnitude,
    "lr_decay": magnitude,
    "momentum": _fraction,
    "momentum_decay": magnitude,
    "rho": _decay_rate,
    "weight_decay": magnitude,
}

#: Every structural option and its check. Options are fixed at construction.
OPTIONS: dict[str, Callable[[str, Any], bool | str]] = {
    "amsgrad": flag,
    "centered": flag,
    "decoupled_weight_decay": flag,
    "eps_inside_sqrt": flag,
    "eps_placement": _eps_placement,
    "lr_in_velocity": flag,
    "maximize": flag,
    "nesterov": flag,
}

#: The values of the options that are no flags.
CHOICES: dict[str, tuple[str, ...]] = {"eps_placement": ("corrected", "hat")}


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the numeric ones of the arguments `values`."""
    return {name: NUMBERS[name](name, value) for name, value in values.items() if name in NUMBERS}


def options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the structural ones of the arguments `values`."""
    return {name: OPTIONS[name](name, value) for name, value in values.items() if name in OPTIONS}


def require_entries(
    what: str, mapping: Any, required: Mapping[str, Any] | tuple[str, ...], *optional: str
) -> Mapping[str, Any]:
    """Give a mapping that has the required entries and no others but the optional ones."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{what}: expected a dictionary, got {type(mapping).__name__}")
    if {*mapping} - {*optional} != {*required}:
        raise ValueError(f"{what}: expected the entries {[*required]}, got {[*mapping]}")
    return mapping


def table_length(capturable: Any, max_steps: Any) -> int | None:
    """Check the two arguments that go together; give the number of steps where both are there."""
    if not flag("capturable", capturable):
        if max_steps is not None:
            raise ValueError("max_steps: has no effect without capturable=True; leave it out")
        return None
    if max_steps is None:
        raise ValueError("max_steps: a capturable optimizer needs the number of steps to make constants for")
    steps = length("max_steps", max_steps)
    if steps >= 2**53:
        raise ValueError(f"max_steps: expected at most 2**53 - 1, got {steps}")
    return steps


def refuse_without_momentum(arguments: Mapping[str, Any], *names: str) -> None:
    """ValueError where an argument is set that acts on a momentum that is not there."""
    for name in names:
        if arguments[name] and not arguments["momentum"]:
            raise ValueError(f"{name}: has no effect without momentum; set momentum > 0 or leave {name} out")


#: What other libraries, and haste, call the attributes of an optimizer that can be assigned.
MISSPELLED: dict[str, str] = {
    **dict.fromkeys(
        (
            "learning_rate",
            "learn_rate",
            "rate",
            "rates",
            "lrs",
            "lr_schedule",
            "lr_scheduler",
            "schedule",
            "scheduler",
        ),
        "lr",
    ),
    **dict.fromkeys(("steps", "step_number", "iterations", "t", "count"), "step_count"),
    **dict.fromkeys(("hyperparameters", "hypers", "defaults"), "hyper"),
    "parameters": "params",
    "gradients": "grads",
}


def require_assignable(cls: type[Any], name: str, hyper: Iterable[str], own: Container[str]) -> None:
    """AttributeError if assigning an attribute of an optimizer would have no effect. A subclass may have its own."""
    if name in hyper:
        raise AttributeError(f'{name}: assign opt.hyper["{name}"]')
    if name in own and name in OPTIONS:
        raise AttributeError(f"{name}: fixed at construction; make a new optimizer")
    meant = f"; assign opt.{MISSPELLED[name]}" if name in MISSPELLED else ""
    declared = inspect.getattr_static(cls, name, None)
    if isinstance(declared, property) and declared.fset is None:
        raise AttributeError(f"{name}: cannot be assigned{meant}")
    is_ours = cls.__module__.partition(".")[0] == "lrcore"
    if is_ours and declared is None and name not in own and not name.startswith("_"):
        raise AttributeError(f"{name}: {cls.__name__} has no such attribute{meant}")


def require_bound(name: str, array: Any, bound: Any) -> None:
    """AttributeError if another array than the bound one, which an operator in place gives back, is assigned."""
    if array is not bound:
        raise AttributeError(f"{name}: bound at construction; write into that array, or make a new optimizer")


def flatten(values: Mapping[str, Value]) -> dict[str, float]:
    """Give the numbers under the names of the rules, where `betas` is `beta1` and `beta2`."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            flat |= {f"{name.removesuffix('s')}{i}": number for i, number in enumerate(value, 1)}
        else:
            flat[name] = value
    return flat


class Hyper(MutableMapping[str, Value]):
    """An optimizer's numeric arguments by name: read, or assigned between steps.

    Every assignment is checked as the constructor's arguments are. A change that would need another rule, such as
    momentum to or from 0, is a ValueError. Names cannot be added or removed. `update` changes all or nothing.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def __getitem__(self, name: str) -> Value:
        value: Value = self._optimizer._numbers[name]
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self._optimizer._change_hyper({name: value})

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"{name}: hyperparameters cannot be removed")

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign several at once: all or, when one is refused, none."""
        self._optimizer._change_hyper(dict(*args, **kwargs))

    def __iter__(self) -> Iterator[str]:
        return iter(self._optimizer._numbers)

    def __len__(self) -> int:
        return len(self._optimizer._numbers)

    def __repr__(self) -> str:
        return repr(self._optimizer._numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)  # a copy, or a pickle, is of the numbers
