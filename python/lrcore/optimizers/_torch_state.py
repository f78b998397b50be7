"""The state dictionaries of `torch.optim`, to and from those of the optimizers here.

States, hyperparameters and options bear PyTorch's names, so what differs is one table. Beside the states PyTorch has for
each parameter a ``step``, but not in SGD, and in NAdam the product of the momenta, which here follows from the step.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lrcore._checks import flag, integer, require_entries, shape_of
from lrcore._extras import optional_dependency
from lrcore._lrcore_core import nadam_momentum_product, require_memory, rules, to_float
from lrcore.optimizers import _arguments
from lrcore.schedules import Constant


class Kind(NamedTuple):
    """What the conversions know of an optimizer: nothing of this changes."""

    name: str
    """Of its public class."""
    size: int
    hyper: tuple[str, ...]
    """The names of its numbers."""
    options: Mapping[str, Any]
    default_options: Mapping[str, Any]
    """Of its public class."""
    choose_rule: Callable[[Mapping[str, Any]], str]
    """From numbers and options to the name of the rule."""


class _Peer(NamedTuple):
    """What the class of the same name has in `torch.optim`."""

    options: tuple[str, ...]
    """Its options. One that it lacks has the value here that is the default."""
    others: dict[str, Any]
    """What else is in its parameter group, by default; none of it changes what a step is."""


_ANY = {"foreach": None, "differentiable": False}
_FUSED, _CAPTURABLE = {"fused": None}, {"capturable": False}
DECOUPLED = "decoupled_weight_decay"
_LATER = (DECOUPLED, "maximize")
"""Options that earlier versions of PyTorch lack."""

_PEERS = {
    "SGD": _Peer(("nesterov", "maximize"), _ANY | _FUSED),
    "Adagrad": _Peer(("maximize",), _ANY | _FUSED | {"initial_accumulator_value": 0.0}),
    "RMSprop": _Peer(("centered", "maximize"), _ANY | _CAPTURABLE),
    "Adadelta": _Peer(("maximize",), _ANY | _CAPTURABLE),
    "Adam": _Peer(("amsgrad", *_LATER), _ANY | _CAPTURABLE | _FUSED),
    "AdamW": _Peer(("amsgrad", "maximize"), _ANY | _CAPTURABLE | _FUSED | {"decoupled_weight_decay": True}),
    "NAdam": _Peer(_LATER, _ANY | _CAPTURABLE),
    "RAdam": _Peer(_LATER, _ANY | _CAPTURABLE),
    "Adamax": _Peer(("maximize",), _ANY | _CAPTURABLE),
}


OWN = "lrcore"
"""The entry of a parameter group that says, as JSON, what PyTorch's state dictionaries have no place for."""
_OWN_ENTRIES = ("rule", "step_count", "schedule", "schedule_state")
"""What it says; the last two where there are any."""

FIXED = frozenset(_arguments.OPTIONS) | {DECOUPLED}
"""The names of structural options in constructors and in groups, which have `decoupled_weight_decay` alone for `decay`."""

FLAGS = frozenset(flag for peer in _PEERS.values() for flag in peer.others)
"""What may be in a parameter group of PyTorch's and says nothing here."""


def options_in_group(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return structural options as a group of PyTorch's has them, where `decay` is `decoupled_weight_decay`."""
    return {
        DECOUPLED if name == "decay" else name: value == "decoupled" if name == "decay" else value
        for name, value in options.items()
    }


def options_of_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """Return the structural options that are in a group of PyTorch's, checked."""
    found = {name: group[name] for name in group if name in _arguments.OPTIONS and name != "decay"}
    if DECOUPLED in group:
        found["decay"] = "decoupled" if flag(DECOUPLED, group[DECOUPLED]) else "l2"
    return _arguments.options(found)


def _peer(name: str) -> _Peer:
    """Return what PyTorch's class of that name has."""
    if name not in _PEERS:
        raise ValueError(f"{name}: torch.optim has no such optimizer; it has {', '.join(_PEERS)}")
    return _PEERS[name]


def flags_of(name: str) -> dict[str, Any]:
    """Return the default values of PyTorch's remaining group entries; empty if PyTorch has no optimizer of that name."""
    return _PEERS[name].others if name in _PEERS else {}


def _momentum_product(step_count: int, hyper: Mapping[str, Any]) -> float:
    """Return NAdam's ``mu(1) ... mu(t)``; 0 once it is too small to count."""
    return nadam_momentum_product(step_count, hyper["betas"][0], hyper["momentum_decay"])


COUNTS = ("step", "mu_product")
"""What PyTorch has beside the states of a parameter."""


def as_float32(step_count: Any) -> float:
    """Return a step count as PyTorch stores it."""
    return float(np.float32(to_float("step", step_count)))


def require_step_count(name: str, entries: Mapping[str, Any], step_count: Any) -> None:
    """ValueError where a parameter has taken another number of steps than the optimizer."""
    if "step" in entries and as_float32(entries["step"]) != as_float32(step_count):
        raise ValueError(f"{name}: step: expected {step_count}, got {float(entries['step'])}")


def own_text(entries: Mapping[str, Any]) -> str:
    """Return what a state dictionary of the optimizers here has and PyTorch's lacks, as every tool that saves groups keeps it."""
    return json.dumps({name: entries[name] for name in _OWN_ENTRIES if name in entries}, allow_nan=False)


def own_entry(
    dictionary: Mapping[str, Any], group: Mapping[str, Any], states: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Return what `own_text` was given; None for a dictionary of PyTorch's.

    PyTorch's optimizers carry the text along when they have loaded it, while their step count goes on.
    """
    entries = dictionary.get(OWN)  # as it was written once, beside the groups
    if entries is None:
        text = group.get(OWN)
        if not isinstance(text, str) or not text:
            return None
        try:
            entries = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"param_groups: {OWN}: {error}") from error
    entries = require_entries(OWN, entries, _OWN_ENTRIES[:2], *_OWN_ENTRIES[2:])
    step_count = as_float32(integer("step_count", entries["step_count"], 0))
    went_on = [as_float32(each["step"]) > step_count for each in states if "step" in each]
    return None if went_on and all(went_on) else entries


def _group_of(kind: Kind, lr: float, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return PyTorch's parameter group, except for the numbers of its parameters."""
    peer, own = _peer(kind.name), options_in_group(kind.options)
    for option, default in options_in_group(kind.default_options).items():
        if option not in peer.options and own[option] != default:
            raise ValueError(f"{option}: torch.optim.{kind.name} has no {option}={own[option]!r}")
    return {"lr": lr, **hyper, **{each: own[each] for each in peer.options}, **peer.others}


def states_of(
    name: str,
    step_count: int,
    hyper: Mapping[str, Any],
    state: Mapping[str, Sequence[Any]],
    count: int,
) -> list[dict[str, Any]]:
    """Return what PyTorch's class of that name has for each of `count` parameters, from each state's tensors in their order."""
    import torch

    numbers = {}
    if name != "SGD":
        numbers["step"] = float(step_count)
    if name == "NAdam":
        numbers["mu_product"] = _momentum_product(step_count, hyper)
    return [
        {
            each: torch.tensor(number, dtype=torch.float32, device="cpu")  # whatever the defaults are
            for each, number in numbers.items()
        }
        | {each: tensors[i] for each, tensors in state.items()}
        for i in range(count)
    ]


def exported(
    kind: Kind,
    shapes: Sequence[Any],
    step_count: int,
    lr: float,
    hyper: Mapping[str, Any],
    state: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the dictionary that `Optimizer.torch_state_dict` describes."""
    extents = [shape_of(f"shapes[{i}]", each) for i, each in enumerate(shapes)]
    ends = [0, *itertools.accumulate(map(math.prod, extents))]
    if ends[-1] != kind.size:
        raise ValueError(f"shapes: expected {kind.size} elements together, got {ends[-1]}")
    with optional_dependency("torch"):
        import torch

    if kind.name != "SGD" and as_float32(step_count) != step_count:
        raise ValueError(
            f"step_count: PyTorch counts in float32, which has {as_float32(step_count):.0f} for {step_count}; use state_dict()"
        )
    group = _group_of(kind, lr, hyper)
    tensors = {
        each: [
            torch.from_numpy(array[start:end].reshape(shape))
            for shape, (start, end) in zip(extents, itertools.pairwise(ends), strict=True)
        ]
        for each, array in state.items()
    }
    if not step_count and hyper.get("dampening"):
        tensors = {}  # PyTorch takes a buffer that is there for one that has begun, and damps the next gradient
    states = states_of(kind.name, step_count, hyper, tensors, len(extents))
    return {
        "state": {i: each for i, each in enumerate(states) if each},
        "param_groups": [group | {"params": [*range(len(extents))]}],
    }


def concatenated(name: str, tensors: Sequence[Any]) -> Any:
    """Return the elements of a state's tensors one after another, each in C order, on the CPU."""
    parts = [require_dense(name, each) for each in tensors]
    return np.concatenate(
        [np.asarray(each.detach().cpu() if hasattr(each, "detach") else each).reshape(-1) for each in parts]
    )


def converted(
    kind: Kind,
    dictionary: Mapping[str, Any],
    step_count: int | None,
    join: Callable[[str, Sequence[Any]], Any] = concatenated,
) -> dict[str, Any]:
    """Return a dictionary of `torch.optim` as one for `Optimizer.load_state_dict`, which checks what is in it.

    `join` makes one flat array of a state's tensors, which come with the state's name.
    """
    name, peer = kind.name, _peer(kind.name)
    entries = require_entries("state_dict", dictionary, ("state", "param_groups"))
    group = only_group(entries["param_groups"])
    defaults = options_in_group(kind.default_options)
    found = {each: group[each] for each in group if each in _arguments.NUMBERS or each in FIXED}
    there = [each for each in peer.options if each not in _LATER]
    # Options that PyTorch lacks are kept in the groups that it loads, and come back from there.
    require_entries("param_groups", found, (*kind.hyper, *there), *_LATER, *(defaults.keys() - {*there}))
    if group.get("differentiable"):
        raise ValueError("differentiable: no step here can be differentiated")

    hyper = _arguments.numbers(found)
    options = options_of_group(defaults | found)
    of_parameters = states_in_order(entries["state"], group["params"])
    if name == "SGD":
        begun = any(of_parameters) and hyper["dampening"] > 0
        step_count = _sgd_step_count(step_count, begun, own_entry(dictionary, group, of_parameters))
    else:
        if step_count is not None:
            raise ValueError(f"step_count: PyTorch's {name} counts its steps; leave it out")
        step_count = common_step_count(of_parameters)
    if name == "NAdam":
        _check_products(of_parameters, _momentum_product(step_count, hyper))
    rule = kind.choose_rule(hyper | options)
    return {
        "rule": rule,
        "options": options,
        "hyper": hyper,
        "step_count": step_count,
        "state": _flat_states(kind, rules()[rule].states, of_parameters, step_count, join),
        "schedule": Constant(to_float("lr", group.get("lr"))).to_dict(),
    }


def only_group(groups: Any) -> Mapping[str, Any]:
    """Return the parameter group, when it is one and names its parameters."""
    if not isinstance(groups, (list, tuple)) or not all(isinstance(each, Mapping) for each in groups):
        raise TypeError("param_groups: expected a list of dictionaries, as PyTorch has")
    if len(groups) != 1:
        raise ValueError(
            f"param_groups: expected one group, got {len(groups)}; an optimizer here has one set of hyperparameters"
        )
    if not isinstance(groups[0].get("params"), (list, tuple)):
        raise TypeError("param_groups: expected a list of the parameters' numbers as params")
    group: Mapping[str, Any] = groups[0]
    return group


def states_in_order(states: Any, numbers: Sequence[Any]) -> list[dict[str, Any]]:
    """Return what PyTorch has for each parameter, in the order of the group."""
    if not isinstance(states, Mapping) or not all(isinstance(each, Mapping) for each in states.values()):
        raise TypeError("state: expected a dictionary of dictionaries, as PyTorch has")
    if more := [number for number in states if number not in numbers]:
        raise ValueError(f"state: expected the parameters {[*numbers]}, got {more} too")
    of_parameters = [states.get(number, {}) for number in numbers]
    return [{name: value for name, value in each.items() if value is not None} for each in of_parameters]


def _sgd_step_count(given: int | None, begun: bool, own: Mapping[str, Any] | None) -> int:
    """Return how many steps SGD has taken, which PyTorch does not count: 0, or 1 where the next gradient is to be damped."""
    if given is None:
        return int(begun) if own is None else own["step_count"]
    step_count = integer("step_count", given, 0)
    if begun and not step_count:
        raise ValueError(
            "step_count: expected at least 1, since the momentum has begun and the next gradient is damped"
        )
    return step_count


def common_step_count(of_parameters: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of steps that all parameters have taken."""
    counts = {to_float("step", each.get("step", 0)) for each in of_parameters} or {0.0}
    count, *others = sorted(counts)
    if others:
        raise ValueError(
            f"step: expected as many steps of every parameter, got from {count:g} to {others[-1]:g}; "
            "make one optimizer for those that belong together"
        )
    if not count.is_integer():
        raise ValueError(f"step: expected a number of steps, got {count}")
    return int(count)


def _check_products(of_parameters: Sequence[Mapping[str, Any]], expected: float) -> None:
    """ValueError where NAdam's product is of other momenta than those of now.

    PyTorch's is rounded to float32 at every step. What acts is the difference from 1.
    """
    for each in of_parameters:
        product = to_float("mu_product", each.get("mu_product", 1.0))
        if each and not abs(product - expected) <= 1e-4:
            raise ValueError(
                f"mu_product: expected {expected:.6g}, got {product:.6g}; betas or momentum_decay must have been the same in "
                "all steps, since here the product follows from their number"
            )


def _flat_states(
    kind: Kind,
    names: Sequence[str],
    of_parameters: Sequence[Mapping[str, Any]],
    step_count: int,
    join: Callable[[str, Sequence[Any]], Any],
) -> dict[str, Any]:
    """Return each state as one array, all parameters one after another; zeros where none has taken a step."""
    if not step_count and not any(of_parameters):
        return {name: np.zeros(kind.size, np.float32) for name in names}
    others = {"SGD": (), "NAdam": ("step", "mu_product")}.get(kind.name, ("step",))
    for i, each in enumerate(of_parameters):
        require_entries(f"state[{i}]", each, (*others, *names))
    return {name: join(name, [each[name] for each in of_parameters]) for name in names}


def require_dense(name: str, value: Any) -> Any:
    """Return a tensor of float32 that is not sparse."""
    dtype = str(getattr(value, "dtype", type(value).__name__)).rpartition(".")[2]
    if dtype != "float32":
        raise TypeError(f"{name}: expected a tensor of float32, got {dtype}")
    if getattr(value, "is_sparse", False):
        raise TypeError(f"{name}: expected a dense tensor, got a sparse one")
    require_memory(name, value)
    return value
