"""How the state dictionaries of `torch.optim` differ from those of lrcore, for the conversions in both directions.

States, hyperparameters and options have PyTorch's names, so a single table holds the differences. In addition to the
states, PyTorch stores a ``step`` for each parameter, except in SGD. For NAdam, it also stores the product of the
momenta, which lrcore computes from the step number.
"""

from __future__ import annotations

import bisect
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lrcore._checks import flag, integer, require_entries
from lrcore._lrcore_core import nadam_momentum_product, require_memory, to_float
from lrcore.optimizers import _arguments
from lrcore.optimizers._places import Places
from lrcore.optimizers._ranges import Ranges, size_of
from lrcore.optimizers._settings import WHOLE, Settings
from lrcore.pack._node import Place


class Kind(NamedTuple):
    """The properties of an optimizer that the conversions need."""

    name: str
    """The name of its public class."""
    ranges: tuple[Ranges, ...]
    """The elements of each group, the rest first."""
    settings: Settings
    options: Mapping[str, Any]
    default_options: Mapping[str, Any]
    """The default options of its public class."""
    choose_rule: Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], str]
    """Returns the name of the rule for the hyperparameters of each group, and the options."""
    places: Places | None = None
    """The places of the arrays if the parameters are a pack."""

    def shown(self) -> list[int]:
        """Return the indices of the groups that PyTorch's dictionaries have.

        These are all groups with elements, or the rest if there are none.
        """
        return [i for i, each in enumerate(self.ranges) if each] or [0]

    def size(self) -> int:
        """Return the number of elements of the optimizer."""
        return sum(map(size_of, self.ranges))

    def maximizes_as_one(self) -> bool:
        """Return whether `maximize` is an option of the optimizer, not a setting of its groups."""
        return len(self.ranges) == 1 and self.settings.groups[0].maximize is None


def group_indices(kind: Kind, parameters: Iterable[tuple[str, Place]]) -> Iterator[int]:
    """Yield the index in `opt.groups` for each of PyTorch's parameters, given by its name and its place in the buffer.

    A parameter without elements belongs to the group of the next element, or of the last one. Raises ValueError if a
    parameter is in several groups.
    """
    ranges = sorted((*each, i) for i, of_group in enumerate(kind.ranges) for each in of_group) or [(0, 0, 0)]
    begins = [begin for begin, _, _ in ranges]
    size = kind.size()
    for name, place in parameters:
        first, last = elements_of(place, size)
        found = [
            group
            for _, _, group in ranges[bisect.bisect(begins, first) - 1 : bisect.bisect_left(begins, last)]
        ]
        if len(found) > 1:
            several = ", ".join(f"opt.groups[{group}]" for group in dict.fromkeys(found))
            raise ValueError(
                f"{name}: expected a parameter inside one group, got elements {place.begin}:{place.end} of {several}"
            )
        yield found[0]


def elements_of(place: Place, size: int) -> tuple[int, int]:
    """Return the begin and end of the elements that decide to which group a parameter belongs."""
    first = min(place.begin, max(size - 1, 0))
    return first, max(place.end, first + 1)


class Peer(NamedTuple):
    """The properties of the class of the same name in `torch.optim`."""

    options: tuple[str, ...]
    """Its options. All other options must have their default values in lrcore."""
    others: dict[str, Any]
    """The other entries of its parameter group, with the values that they have in exported dictionaries."""


_ANY = {"foreach": None, "differentiable": False}
_FUSED, _CAPTURABLE = {"fused": None}, {"capturable": False}
DECOUPLED = "decoupled_weight_decay"
LATER = (DECOUPLED, "maximize")
"""Options that earlier versions of PyTorch lack."""

_PEERS = {
    "SGD": Peer(("nesterov", "maximize"), _ANY | _FUSED),
    "Adagrad": Peer(("maximize",), _ANY | _FUSED | {"initial_accumulator_value": 0.0}),
    "RMSprop": Peer(("centered", "maximize"), _ANY | _CAPTURABLE),
    "Adadelta": Peer(("maximize",), _ANY | _CAPTURABLE),
    "Adam": Peer(("amsgrad", *LATER), _ANY | _CAPTURABLE | _FUSED),
    "AdamW": Peer(("amsgrad", "maximize"), _ANY | _CAPTURABLE | _FUSED | {"decoupled_weight_decay": True}),
    "NAdam": Peer(LATER, _ANY | _CAPTURABLE),
    "RAdam": Peer(LATER, _ANY | _CAPTURABLE),
    "Adamax": Peer(("maximize",), _ANY | _CAPTURABLE),
}


OWN = "lrcore"
"""The entry of a parameter group that holds, as JSON text, everything that PyTorch's state dictionaries lack."""
LEAST = "least_step"
"""The name of the smallest step count of a parameter in the group, which is stored if it is larger than `step_count`."""
_OWN_ENTRIES = ("rule", "step_count", "schedule", "schedule_state", "hyper", LEAST, *WHOLE, "skipped_steps")
"""The entries of that text; only the first two are always there."""

FIXED = frozenset(_arguments.OPTIONS) | {DECOUPLED}
"""The names of structural options in constructors and groups."""

FLAGS = frozenset(flag for peer in _PEERS.values() for flag in peer.others)
"""The names of all entries in `Peer.others`."""


def options_in_group(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return structural options as entries of a PyTorch group.

    `decoupled_weight_decay` replaces `decay`, except that independent decay, which PyTorch lacks, has both entries.
    """
    entries: dict[str, Any] = {}
    for name, value in options.items():
        if name == "decay":
            entries[DECOUPLED] = value != "l2"
        if name != "decay" or value == "independent":
            entries[name] = value
    return entries


def options_of_group(group: Mapping[str, Any]) -> dict[str, Any]:
    """Check the structural options in a PyTorch group, and return them."""
    found = {name: group[name] for name in group if name in _arguments.OPTIONS}
    if DECOUPLED in group:
        decoupled = flag(DECOUPLED, group[DECOUPLED])
        if found.setdefault("decay", "decoupled" if decoupled else "l2") == "independent" and not decoupled:
            raise ValueError(f"decay: got 'independent' and {DECOUPLED}=False")
    return _arguments.options(found)


def require_same_options(entries: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the structural options in a PyTorch group after checking that they are an optimizer's, except `maximize`."""
    found = options_of_group(entries)
    for option, value in found.items():
        if option != "maximize" and value != options[option]:
            name = next(each for each in (option, DECOUPLED) if each in entries)
            expected = options_in_group(options)[name]
            raise ValueError(f"{name}: expected {expected!r} as in the optimizer, got {entries[name]!r}")
    return found


def require_not_differentiable(entries: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError if a PyTorch group, or arguments of PyTorch's optimizers, ask for differentiable steps."""
    if flag("differentiable", entries.get("differentiable", False)):
        raise ValueError("differentiable: expected False; the steps of lrcore cannot be differentiated")


def peer_of(kind: Kind) -> Peer:
    """Return the properties of PyTorch's class of the same name; raise ValueError if it cannot take the same steps."""
    if kind.name not in _PEERS:
        raise ValueError(f"{kind.name}: torch.optim has no such optimizer; it has {', '.join(_PEERS)}")
    if kind.options["decay"] == "independent":
        raise ValueError(
            f"decay: torch.optim.{kind.name} has no decay='independent'; use state_dict() and load_state_dict()"
        )
    return _PEERS[kind.name]


def flags_of(name: str) -> dict[str, Any]:
    """Return `Peer.others` for the optimizer of that name; empty if PyTorch has no such optimizer."""
    return _PEERS[name].others if name in _PEERS else {}


def require_product(product: float, expected: float) -> None:
    """Raise ValueError if a stored product of NAdam's momenta does not follow from the current momenta.

    The tolerance is needed because PyTorch rounds the product to float32 at every step. It is absolute, because a step
    only uses the difference between the product and 1.
    """
    if not abs(product - expected) <= 1e-4:
        raise ValueError(
            f"mu_product: expected {expected:.6g}, got {product:.6g}; betas and momentum_decay must have been the "
            "same in all steps, because lrcore computes the product from the step count"
        )


def momentum_product(step_count: int, hyper: Mapping[str, Any]) -> float:
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


def own_entry(
    dictionary: Mapping[str, Any], group: Mapping[str, Any], states: Sequence[Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Return the entries that PyTorch's dictionaries lack, or None if there are none or they are outdated.

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
            raise ValueError(f"{OWN}: {error}") from error
    entries = require_entries(OWN, entries, _OWN_ENTRIES[:2], *_OWN_ENTRIES[2:])
    least = max(integer(name, entries.get(name, 0), 0) for name in ("step_count", LEAST))
    went_on = [as_float32(each["step"]) > as_float32(least) for each in states if "step" in each]
    return None if went_on and all(went_on) else entries


def counts_of(name: str, step_count: int, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state entries of PyTorch's class `name` for a parameter other than its states, as tensors."""
    import torch

    numbers = {}
    if name != "SGD":
        numbers["step"] = float(step_count)
    if name == "NAdam":
        numbers["mu_product"] = momentum_product(step_count, hyper)
    # explicit, because of global defaults
    return {each: torch.tensor(number, dtype=torch.float32, device="cpu") for each, number in numbers.items()}


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
    return [
        counts_of(name, step_count, hyper) | {each: tensors[i] for each, tensors in state.items()}
        for i in range(count)
    ]


def groups_in(groups: Any, expected: int, why: str) -> Sequence[Mapping[str, Any]]:
    """Return the parameter groups after checking their number, and that they list their parameters."""
    if not isinstance(groups, (list, tuple)) or not all(isinstance(each, Mapping) for each in groups):
        raise TypeError("param_groups: expected a list of dictionaries, as in PyTorch")
    if len(groups) != expected:
        number = "one group" if expected == 1 else f"{expected} groups"
        raise ValueError(f"param_groups: expected {number}, got {len(groups)}; {why}")
    for each in groups:
        if not isinstance(each.get("params"), (list, tuple)):
            raise TypeError("param_groups: expected the entry params to be a list of parameter indices")
    return groups


def states_in_order(states: Any, numbers: Sequence[Any]) -> list[dict[str, Any]]:
    """Return PyTorch's entries for each parameter, in the order of the group."""
    if not isinstance(states, Mapping) or not all(isinstance(each, Mapping) for each in states.values()):
        raise TypeError("state: expected a dictionary of dictionaries, as in PyTorch")
    try:
        known = {*numbers}
    except TypeError as error:
        raise TypeError(f"params: expected indices of parameters: {error}") from error
    if len(known) != len(numbers):
        raise ValueError(f"params: expected each parameter once, got {reprlib.repr([*numbers])}")
    if more := [number for number in states if number not in known]:
        expected, got = reprlib.repr([*numbers]), reprlib.repr(more)
        raise ValueError(f"state: expected only the parameters {expected}, but also got {got}")
    of_parameters = [states.get(number, {}) for number in numbers]
    return [{name: value for name, value in each.items() if value is not None} for each in of_parameters]


def common_step_count(of_parameters: Sequence[Mapping[str, Any]]) -> int:
    """Return the step count of all parameters; raise ValueError if their counts differ."""
    counts = {to_float("step", each.get("step", 0)) for each in of_parameters} or {0.0}
    count, *others = sorted(counts)
    if others:
        raise ValueError(
            f"step: expected the same step count for all parameters, got counts from {count:g} to {others[-1]:g}; "
            "use a separate optimizer for each step count"
        )
    return whole(count)


def whole(step_count: float) -> int:
    """Return a step count as an integer; raise ValueError if it is not a whole number."""
    if not step_count.is_integer():
        raise ValueError(f"step: expected a whole number of steps, got {step_count}")
    return int(step_count)


def require_dense(name: str, value: Any) -> Any:
    """Return a tensor after checking that it is a dense float32 tensor with memory."""
    dtype = str(getattr(value, "dtype", type(value).__name__)).rpartition(".")[2]
    if dtype != "float32":
        raise TypeError(f"{name}: expected a float32 tensor, got {dtype}")
    if getattr(value, "is_sparse", False):
        raise TypeError(f"{name}: expected a dense tensor, got a sparse one")
    if getattr(value, "is_meta", False):
        raise TypeError(f"{name}: expected a tensor with memory, got one on the meta device")
    require_memory(name, value)
    return value
