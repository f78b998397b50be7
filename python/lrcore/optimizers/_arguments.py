"""The arguments of the optimizers: the ranges of numbers, the structural options, and which of them can be assigned."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, ValuesView
from collections.abc import Set as AbstractSet
from types import GeneratorType
from typing import Any, TypeAlias, get_args, get_type_hints

import numpy as np

from lrcore._checks import (
    OVERFLOW,
    flag,
    fraction,
    integer,
    nonnegative_float32,
    num_steps,
    one_of,
    safe_repr,
)
from lrcore._lrcore_core import to_float
from lrcore._names import is_elsewhere, meant_by, unknown_argument, unknown_key
from lrcore.optimizers._shared import OF_ONE_STEP, Decay, Shared
from lrcore.schedules import Rate, as_schedule

Value: TypeAlias = float | tuple[float, float]
Settable: TypeAlias = Rate | tuple[Rate, Rate]
"""A value that can be assigned to a numeric argument."""

_ALMOST_ONE = 1 - 2.0**-25
"""All numbers from this one up to 1 round to 1 in float32."""


def _decay_rate(name: str, value: Any) -> float:
    number = fraction(name, value)
    if number >= _ALMOST_ONE:
        raise ValueError(f"{name}: {number} becomes 1 in float32, so the average would never change")
    return number


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    try:
        if isinstance(value, (AbstractSet, Mapping)):
            raise TypeError("no order")
        first, second = value
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected two numbers, got {safe_repr(value)}") from None
    return first, second


def _decay_rates(name: str, value: Any) -> tuple[float, float]:
    first, second = _pair(name, value)
    return _decay_rate(f"{name}[0]", first), _decay_rate(f"{name}[1]", second)


def _largest_norm(name: str, value: Any) -> float:
    number = to_float(name, value)
    if not number > 0:
        raise ValueError(f"{name}: expected a number > 0, got {number}")
    return number


#: The check for each numeric argument of a rule. Numbers can be assigned between steps.
NUMBERS: dict[str, Callable[[str, Any], Value]] = {
    "alpha": _decay_rate,
    "betas": _decay_rates,
    "dampening": fraction,
    "eps": nonnegative_float32,
    "lr_decay": nonnegative_float32,
    "momentum": fraction,
    "momentum_decay": nonnegative_float32,
    "rho": _decay_rate,
    "weight_decay": nonnegative_float32,
}

#: The arguments that are pairs of numbers.
PAIRS = frozenset(name for name, check in NUMBERS.items() if check is _decay_rates)

#: The check for each number of an argument, which may be a pair; and for numbers of the whole optimizer.
SINGLE: dict[str, Callable[[str, Any], Any]] = {
    name: _decay_rate if name in PAIRS else check for name, check in NUMBERS.items()
} | {"max_norm": _largest_norm, "ema": fraction}

#: The numbers from 0 to below this are in the range of the argument, if they may round to 0 in float32.
LIMITS: dict[str, float] = {
    name: 1.0 if check is fraction else OVERFLOW if check is nonnegative_float32 else _ALMOST_ONE
    for name, check in NUMBERS.items()
} | {"max_norm": 0.0, "ema": 1.0}

#: The check for each structural option. Options are fixed at construction.
OPTIONS: dict[str, Callable[[str, Any], bool | str]] = {
    "amsgrad": flag,
    "centered": flag,
    "decay": one_of(*get_args(Decay)),
    "eps_inside_sqrt": flag,
    "eps_placement": one_of("corrected", "hat"),
    "lr_in_velocity": flag,
    "maximize": flag,
    "nesterov": flag,
}


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments that are numbers."""
    return {name: NUMBERS[name](name, value) for name, value in values.items() if name in NUMBERS}


def settable(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments that are numbers, or schedules or callables in place of numbers."""
    return {name: settable_number(name, value) for name, value in values.items() if name in NUMBERS}


def settable_number(name: str, value: Any) -> Any:
    """Check a numeric argument, which may be a schedule or a callable, or a pair of these."""
    check = SINGLE[name]
    if name not in PAIRS:
        return _number_or_schedule(name, value, check)
    pair = _pair(name, value)
    return tuple(_number_or_schedule(f"{name}[{i}]", each, check) for i, each in enumerate(pair))


def _number_or_schedule(name: str, value: Any, check: Callable[[str, Any], Any]) -> Any:
    if isinstance(value, type):
        raise TypeError(
            f"{name}: expected a number, a schedule or a callable, got the class {value.__name__} itself"
        )
    return as_schedule(value) if callable(value) else check(name, value)


def number_or_none(name: str, value: Any) -> Any:
    """Check a number of the whole optimizer, such as `max_norm`, which may be a schedule or a callable, or None."""
    return None if value is None else settable_number(name, value)


MOST_SKIPS = 100
"""The number of skipped steps in a row that is an error if `skip_nonfinite` is True."""


def skipping(value: Any) -> bool | int:
    """Check the argument `skip_nonfinite`."""
    name = "skip_nonfinite"
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        raise TypeError(f"{name}: expected True, False or an integer, got {value}")
    steps = integer(name, value, what="True, False or an integer")
    if steps >= 2**53:
        raise ValueError(f"{name}: expected at most 2**53 - 1, got {steps}")
    return steps


def known_numbers(changes: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Check new values of numeric arguments; raise KeyError if one of the names is not in `known`."""
    for name in changes:
        if name not in known:
            raise unknown_key(name, known)
    return settable(changes)


def options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the arguments that are structural options."""
    return {name: OPTIONS[name](name, value) for name, value in values.items() if name in OPTIONS}


def with_decay(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with `decay` instead of `decoupled_weight_decay`; raise ValueError if the two conflict."""
    others = dict(given)
    decoupled = others.pop("decoupled_weight_decay", None)
    if decoupled is None:
        return others
    meant = "decoupled" if flag("decoupled_weight_decay", decoupled) else "l2"
    if others.setdefault("decay", meant) != meant:
        raise ValueError(
            f"decay: got {safe_repr(others['decay'])} and decoupled_weight_decay={decoupled}; pass only one of them"
        )
    return others


def settings(
    owner: str, own: Mapping[str, Any], shared: Mapping[str, Any], defaults: Shared
) -> dict[str, Any]:
    """Return the class's own arguments, then the shared ones, with `decoupled_weight_decay` resolved into `decay`.

    Raises
    ------
    TypeError
        If `shared` has an unknown argument.
    ValueError
        If `decay` and `decoupled_weight_decay` conflict.
    """
    for name in shared:
        if name not in defaults:
            if name in OF_ONE_STEP:
                raise TypeError(
                    f"{name}: {owner} takes no such argument; pass it to each step: opt.step({name}=...)"
                )
            raise unknown_argument(owner, name, ["params", "lr", *own, *defaults])
    own, shared = with_decay(own), with_decay(shared)
    given = {name: shared.get(name, own.get(name, default)) for name, default in defaults.items()}
    given.pop("decoupled_weight_decay")
    return own | given


def full_signature(init: Callable[..., None], defaults: Shared) -> inspect.Signature:
    """Return the signature of a class from its constructor, with ``**shared`` expanded into the shared arguments."""
    _, *parameters = inspect.signature(init).parameters.values()
    if not parameters or parameters[-1].name != "shared":
        return inspect.Signature(parameters)
    types = get_type_hints(Shared)
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
        for name, default in defaults.items()
        if all(name != each.name for each in parameters)
    ]
    return inspect.Signature([*parameters[:-1], *shared])


def table_length(capturable: Any, max_steps: Any) -> int | None:
    """Check `capturable` and `max_steps` together; return the number of steps, or None if not capturable."""
    if not flag("capturable", capturable):
        if max_steps is not None:
            raise ValueError("max_steps: has no effect without capturable=True; leave it out")
        return None
    if max_steps is None:
        raise ValueError(
            "max_steps: expected a number of steps, got None; "
            "a capturable optimizer stores constants for max_steps steps"
        )
    steps = num_steps("max_steps", max_steps)
    if steps >= 2**53:
        raise ValueError(f"max_steps: expected at most 2**53 - 1, got {steps}")
    return steps


def refuse_without_momentum(arguments: Mapping[str, Any], *names: str) -> None:
    """Raise ValueError if any of these arguments, which require momentum, is set without momentum."""
    for name in names:
        if arguments[name] and not arguments["momentum"]:
            raise ValueError(f"{name}: has no effect without momentum; set momentum > 0 or leave {name} out")


_ASSIGNABLE = ("lr", "step_count", "hyper", "max_norm", "skip_nonfinite", "ema", "params", "grads")
"""The attributes of an optimizer that can be assigned."""


def require_assignable(cls: type[Any], name: str, hyper: Iterable[str], own: Container[str]) -> None:
    """Raise AttributeError if assigning this attribute would have no effect. Subclasses may add attributes."""
    if name.startswith("_"):
        return
    if name in hyper:
        raise AttributeError(f'{name}: assign opt.hyper["{name}"]')
    if name in own and name in OPTIONS:
        raise AttributeError(f"{name}: fixed at construction; make a new optimizer")
    declared = None if is_elsewhere(cls, name) else inspect.getattr_static(cls, name, None)
    if isinstance(declared, property) and declared.fset is None:
        raise AttributeError(f"{name}: cannot be assigned{_meant(name)}")
    is_ours = cls.__module__.partition(".")[0] == "lrcore"
    if is_ours and declared is None and name not in own:
        raise AttributeError(f"{name}: {cls.__name__} has no such attribute{_meant(name)}")


def _meant(name: str) -> str:
    """Return the end of a message about an attribute: the attribute to assign instead, if known."""
    meant = meant_by(name, _ASSIGNABLE)
    return f"; assign opt.{meant}" if meant else ""


def require_bound(name: str, array: Any, bound: Any) -> None:
    """Raise AttributeError unless the assigned array is the bound one, as it is in ``opt.params *= 2``."""
    if array is not bound:
        raise AttributeError(f"{name}: bound at construction; write into that array, or make a new optimizer")


def flat_names(name: str) -> tuple[str, ...]:
    """Return the names that the rules use for the numbers of an argument: beta1 and beta2 for `betas`."""
    stem = name.removesuffix("s")
    return (f"{stem}1", f"{stem}2") if name in PAIRS else (name,)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers, or schedules in their place, by the names that the rules use."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, tuple):
            flat.update(zip(flat_names(name), value, strict=True))
        else:
            flat[name] = value
    return flat


def holds_torch_parameters(params: Any) -> bool:
    """Return whether an argument that is not an array is a PyTorch module, or contains parameters of one.

    An iterator is not advanced, because the caller may use it after the error. One that is not a generator counts if
    PyTorch is imported: `filter` is often used to choose parameters. This function does not import PyTorch.
    """
    nn = getattr(sys.modules.get("torch"), "nn", None)
    if nn is None:
        return False
    if isinstance(params, GeneratorType):
        return params.gi_code in (nn.Module.parameters.__code__, nn.Module.named_parameters.__code__)
    if isinstance(params, (list, tuple, AbstractSet, Mapping, ValuesView)):
        first = next(iter(params.values() if isinstance(params, Mapping) else params), None)
        if isinstance(first, tuple) and first:
            first = first[-1]  # of a pair of name and parameter
        return isinstance(first, nn.Parameter) or (isinstance(first, Mapping) and "params" in first)
    return isinstance(params, (nn.Module, Iterator))
