"""Conversion between the state dictionaries of `torch.optim` and lrcore.

States, hyperparameters and options have PyTorch's names, so a single table holds the differences. In addition to the
states, PyTorch stores a ``step`` for each parameter, except in SGD. For NAdam, it also stores the product of the
momenta, which lrcore computes from the step number.
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
    """The properties of an optimizer that the conversions need. They never change."""

    name: str
    """The name of its public class."""
    size: int
    hyper: tuple[str, ...]
    """The names of its hyperparameters."""
    options: Mapping[str, Any]
    default_options: Mapping[str, Any]
    """The default options of its public class."""
    choose_rule: Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str]
    """Returns the name of the rule for the hyperparameters of each group, and the options."""


class _Peer(NamedTuple):
    """The properties of the class of the same name in `torch.optim`."""

    options: tuple[str, ...]
    """Its options. All other options must have their default values in lrcore."""
    others: dict[str, Any]
    """The other entries of its parameter group, with the values that they have in exported dictionaries."""


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
"""The entry of a parameter group that holds, as JSON text, everything that PyTorch's state dictionaries lack."""
_OWN_ENTRIES = ("rule", "step_count", "schedule", "schedule_state")
"""The entries of that text; the last two are optional."""

FIXED = frozenset(_arguments.OPTIONS) | {DECOUPLED}
"""The names of structural options in constructors and groups; groups have `decoupled_weight_decay`, never `decay`."""

FLAGS = frozenset(flag for peer in _PEERS.values() for flag in peer.others)
"""The names of all entries in `_Peer.others`."""


def options_in_group(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return structural options as entries of a PyTorch group, with `decoupled_weight_decay` instead of `decay`."""
    return {
        DECOUPLED if name == "decay" else name: value == "decoupled" if name == "decay" else value
        for name, value in options.items()
    }


def options_of_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """Check the structural options in a PyTorch group, and return them."""
    found = {name: group[name] for name in group if name in _arguments.OPTIONS and name != "decay"}
    if DECOUPLED in group:
        found["decay"] = "decoupled" if flag(DECOUPLED, group[DECOUPLED]) else "l2"
    return _arguments.options(found)


def _peer(name: str) -> _Peer:
    """Return the properties of PyTorch's class of that name; raise ValueError if there is none."""
    if name not in _PEERS:
        raise ValueError(f"{name}: torch.optim has no such optimizer; it has {', '.join(_PEERS)}")
    return _PEERS[name]


def flags_of(name: str) -> dict[str, Any]:
    """Return `_Peer.others` for the optimizer of that name; empty if PyTorch has no such optimizer."""
    return _PEERS[name].others if name in _PEERS else {}


def _momentum_product(step_count: int, hyper: Mapping[str, Any]) -> float:
    """Return NAdam's product ``mu(1) ... mu(t)``, or 0 once it is negligible."""
    return nadam_momentum_product(step_count, hyper["betas"][0], hyper["momentum_decay"])


COUNTS = ("step", "mu_product")
"""PyTorch's entries for a parameter in addition to its states."""


def as_float32(step_count: Any) -> float:
    """Return a step count rounded to float32, as PyTorch stores it."""
    return float(np.float32(to_float("step", step_count)))


def require_step_count(name: str, entries: Mapping[str, Any], step_count: Any) -> None:
    """Raise ValueError if a parameter's step count differs from the optimizer's."""
    if "step" in entries and as_float32(entries["step"]) != as_float32(step_count):
        raise ValueError(f"{name}: step: expected {step_count}, got {float(entries['step'])}")


def own_text(entries: Mapping[str, Any]) -> str:
    """Return the entries that PyTorch's state dictionaries lack, as JSON text.

    Any tool that saves parameter groups preserves this text.
    """
    return json.dumps({name: entries[name] for name in _OWN_ENTRIES if name in entries}, allow_nan=False)


def own_entry(
    dictionary: Mapping[str, Any], group: Mapping[str, Any], states: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Return the entries that `own_text` wrote, or None if there are none or they are outdated.

    A PyTorch optimizer that has loaded these entries keeps them unchanged while its own step count advances, so
    they become outdated.
    """
    entries = dictionary.get(OWN)  # earlier versions wrote it next to the groups
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
    """Return PyTorch's parameter group without the indices of its parameters."""
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
    """Return the state entries of PyTorch's class `name` for each of `count` parameters.

    `state` has the tensors of each state, in the order of the parameters.
    """
    import torch

    numbers = {}
    if name != "SGD":
        numbers["step"] = float(step_count)
    if name == "NAdam":
        numbers["mu_product"] = _momentum_product(step_count, hyper)
    return [
        {
            each: torch.tensor(number, dtype=torch.float32, device="cpu")  # overrides global defaults
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
    """Return the dictionary that `Optimizer.torch_state_dict` documents."""
    extents = [shape_of(f"shapes[{i}]", each) for i, each in enumerate(shapes)]
    ends = [0, *itertools.accumulate(map(math.prod, extents))]
    if ends[-1] != kind.size:
        raise ValueError(f"shapes: expected {kind.size} elements in total, got {ends[-1]}")
    with optional_dependency("torch"):
        import torch

    if kind.name != "SGD" and as_float32(step_count) != step_count:
        raise ValueError(
            f"step_count: PyTorch counts in float32, which rounds {step_count} to {as_float32(step_count):.0f}; "
            "use state_dict()"
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
        tensors = {}  # given a buffer, PyTorch would damp the first gradient
    states = states_of(kind.name, step_count, hyper, tensors, len(extents))
    return {
        "state": {i: each for i, each in enumerate(states) if each},
        "param_groups": [group | {"params": [*range(len(extents))]}],
    }


def concatenated(name: str, tensors: Sequence[Any]) -> Any:
    """Return a state's tensors, each flattened in C order, as one array on the CPU."""
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
    """Convert a state dictionary of `torch.optim` to one for `Optimizer.load_state_dict`, which checks the entries.

    `join` takes the name of a state and its tensors, and returns one flat array.
    """
    name, peer = kind.name, _peer(kind.name)
    entries = require_entries("state_dict", dictionary, ("state", "param_groups"))
    group = only_group(entries["param_groups"])
    defaults = options_in_group(kind.default_options)
    found = {each: group[each] for each in group if each in _arguments.NUMBERS or each in FIXED}
    there = [each for each in peer.options if each not in _LATER]
    # PyTorch's optimizers keep unknown entries of loaded groups, so a group may have options that PyTorch lacks.
    require_entries("param_groups", found, (*kind.hyper, *there), *_LATER, *(defaults.keys() - {*there}))
    if group.get("differentiable"):
        raise ValueError("differentiable: expected False; the steps of lrcore cannot be differentiated")

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
    rule = kind.choose_rule([hyper], options)
    return {
        "rule": rule,
        "options": options,
        "hyper": hyper,
        "step_count": step_count,
        "state": _flat_states(kind, rules()[rule].states, of_parameters, step_count, join),
        "schedule": Constant(to_float("lr", group.get("lr"))).to_dict(),
    }


def only_group(groups: Any) -> Mapping[str, Any]:
    """Return the only parameter group; raise an error if there are several or if it does not list its parameters."""
    if not isinstance(groups, (list, tuple)) or not all(isinstance(each, Mapping) for each in groups):
        raise TypeError("param_groups: expected a list of dictionaries, as in PyTorch")
    if len(groups) != 1:
        raise ValueError(
            f"param_groups: expected one group, got {len(groups)}; an lrcore optimizer has one set of hyperparameters"
        )
    if not isinstance(groups[0].get("params"), (list, tuple)):
        raise TypeError("param_groups: expected the entry params to be a list of parameter indices")
    group: Mapping[str, Any] = groups[0]
    return group


def states_in_order(states: Any, numbers: Sequence[Any]) -> list[dict[str, Any]]:
    """Return PyTorch's entries for each parameter, in the order of the group."""
    if not isinstance(states, Mapping) or not all(isinstance(each, Mapping) for each in states.values()):
        raise TypeError("state: expected a dictionary of dictionaries, as in PyTorch")
    if more := [number for number in states if number not in numbers]:
        raise ValueError(f"state: expected only the parameters {[*numbers]}, but also got {more}")
    of_parameters = [states.get(number, {}) for number in numbers]
    return [{name: value for name, value in each.items() if value is not None} for each in of_parameters]


def _sgd_step_count(given: int | None, begun: bool, own: Mapping[str, Any] | None) -> int:
    """Return the step count of SGD, which PyTorch does not store.

    The default is the count that lrcore stored, if any; otherwise 0, or 1 if the next gradient is damped.
    """
    if given is None:
        return int(begun) if own is None else own["step_count"]
    step_count = integer("step_count", given, 0)
    if begun and not step_count:
        raise ValueError(
            "step_count: expected at least 1, because the momentum has begun and the next gradient is damped"
        )
    return step_count


def common_step_count(of_parameters: Sequence[Mapping[str, Any]]) -> int:
    """Return the step count of all parameters; raise ValueError if their counts differ."""
    counts = {to_float("step", each.get("step", 0)) for each in of_parameters} or {0.0}
    count, *others = sorted(counts)
    if others:
        raise ValueError(
            f"step: expected the same step count for all parameters, got counts from {count:g} to {others[-1]:g}; "
            "use a separate optimizer for each step count"
        )
    if not count.is_integer():
        raise ValueError(f"step: expected a whole number of steps, got {count}")
    return int(count)


def _check_products(of_parameters: Sequence[Mapping[str, Any]], expected: float) -> None:
    """Raise ValueError if NAdam's momentum product does not follow from the current momenta.

    The tolerance is needed because PyTorch rounds the product to float32 at every step. It is absolute, because a step
    only uses the difference between the product and 1.
    """
    for each in of_parameters:
        product = to_float("mu_product", each.get("mu_product", 1.0))
        if each and not abs(product - expected) <= 1e-4:
            raise ValueError(
                f"mu_product: expected {expected:.6g}, got {product:.6g}; betas and momentum_decay must have been the same "
                "in all steps, because lrcore computes the product from the step count"
            )


def _flat_states(
    kind: Kind,
    names: Sequence[str],
    of_parameters: Sequence[Mapping[str, Any]],
    step_count: int,
    join: Callable[[str, Sequence[Any]], Any],
) -> dict[str, Any]:
    """Return each state as one array that concatenates all parameters; zeros if no step has been taken."""
    if not step_count and not any(of_parameters):
        return {name: np.zeros(kind.size, np.float32) for name in names}
    others = {"SGD": (), "NAdam": ("step", "mu_product")}.get(kind.name, ("step",))
    for i, each in enumerate(of_parameters):
        require_entries(f"state[{i}]", each, (*others, *names))
    return {name: join(name, [each[name] for each in of_parameters]) for name in names}


def require_dense(name: str, value: Any) -> Any:
    """Return a tensor after checking that it is a dense float32 tensor with memory."""
    dtype = str(getattr(value, "dtype", type(value).__name__)).rpartition(".")[2]
    if dtype != "float32":
        raise TypeError(f"{name}: expected a float32 tensor, got {dtype}")
    if getattr(value, "is_sparse", False):
        raise TypeError(f"{name}: expected a dense tensor, got a sparse one")
    require_memory(name, value)
    return value
