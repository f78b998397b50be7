"""Conversion of a state dictionary of `torch.optim` to one of lrcore."""

from __future__ import annotations

import itertools
import math
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lrcore._checks import integer, naming, require_entries, sequence
from lrcore._lrcore_core import rules, to_float
from lrcore.optimizers import _arguments, _group_state
from lrcore.optimizers._places import Places
from lrcore.optimizers._ranges import Ranges, part_of, size_of
from lrcore.optimizers._settings import Settings
from lrcore.optimizers._torch_state import (
    COUNTS,
    FIXED,
    LATER,
    Kind,
    common_step_count,
    group_indices,
    groups_in,
    momentum_product,
    options_in_group,
    options_of_group,
    own_entry,
    peer_of,
    require_dense,
    require_not_differentiable,
    require_product,
    states_in_order,
    whole,
)
from lrcore.pack._node import Place
from lrcore.schedules import Constant


def concatenated(name: str, tensors: Sequence[Any]) -> Any:
    """Return a state's tensors, each flattened in C order, as one array on the CPU."""
    parts = [require_dense(name, each) for each in tensors]
    return np.concatenate(
        [np.asarray(each.detach().cpu() if hasattr(each, "detach") else each).reshape(-1) for each in parts]
    )


class _Loaded(NamedTuple):
    """A checked parameter group of a dictionary, with the entries of its parameters."""

    number: int
    """Its index in `opt.groups`."""
    name: str
    """Its name in messages, or an empty text if it is the only group."""
    hyper: dict[str, Any]
    options: dict[str, Any]
    schedule: Constant
    ranges: Ranges
    """The elements of its parameters in the buffer."""
    states: dict[str, dict[str, Any]]
    """The entries of each parameter in the order of the buffer, by the name of the parameter in messages."""


def converted(
    kind: Kind,
    dictionary: Mapping[str, Any],
    step_count: int | None,
    join: Callable[[str, Sequence[Any]], Any] = concatenated,
) -> dict[str, Any]:
    """Convert a state dictionary of `torch.optim` to one for `Optimizer.load_state_dict`, which checks the entries.

    `join` takes the name of a state and its tensors, and returns one flat array.
    """
    peer_of(kind)
    entries = require_entries("state_dict", dictionary, ("state", "param_groups"))
    given = groups_in(
        entries["param_groups"], len(kind.shown()), "make the optimizer with groups= for the same parameters"
    )
    groups = _loaded(kind, given, entries["state"])
    if kind.name == "SGD":
        own = own_entry(dictionary, given[0], [*groups[0].states.values()]) if len(given) == 1 else None
        step_count, counts = _sgd_counts(step_count, groups, own)
    else:
        if step_count is not None:
            raise ValueError(f"step_count: PyTorch's {kind.name} counts its steps; leave it out")
        counts = [_counts(each) for each in groups]
        step_count = max(itertools.chain.from_iterable(counts), default=0)
    if kind.name == "NAdam":
        for group, of_group in zip(groups, counts, strict=True):
            _check_products(group, of_group)
    options, settings = _options(kind, groups), _settings(kind, groups)
    rule = kind.choose_rule(settings.numbers(), options)
    found = {
        "rule": rule,
        "options": options,
        "hyper": settings.hyper,
        "step_count": step_count,
        "state": _flat_states(kind, rules()[rule].states, groups, counts, join),
    }
    if groups[0].number == 0:
        found["schedule"] = groups[0].schedule.to_dict()
    fewer = [
        each
        for group, of_group in zip(groups, counts, strict=True)
        for each in _counted(kind.places, group, of_group)
        if each[2] != step_count
    ]
    if stored := _group_state.stored(kind.ranges, settings, sorted(fewer)):
        found["groups"] = stored
    if kind.places is not None:
        found["names"] = kind.places.stored()
    return found


def _loaded(kind: Kind, given: Sequence[Mapping[str, Any]], states: Any) -> list[_Loaded]:
    """Check the groups, and the form of the entries of their parameters."""
    keys = [key for each in given for key in each["params"]]
    of_parameters = zip(keys, states_in_order(states, keys), strict=True)
    defaults = options_in_group(kind.default_options)
    arrays = _arrays_by_group(kind)
    there = [each for each in peer_of(kind).options if each not in LATER]
    groups = []
    for i, (number, group) in enumerate(zip(kind.shown(), given, strict=True)):
        name = f"param_groups[{i}]" if len(given) > 1 else ""
        found = {each: group[each] for each in group if each in _arguments.NUMBERS or each in FIXED}
        # PyTorch's optimizers keep unknown entries of loaded groups, so a group may have options that PyTorch lacks.
        optional = (*LATER, *(defaults.keys() - {*there}))
        require_entries(name or "param_groups", found, (*kind.settings.hyper, *there), *optional)
        of_group = [*itertools.islice(of_parameters, len(group["params"]))]
        ranges = kind.ranges[number]
        with naming(name):
            require_not_differentiable(group)
            if name and not group["params"]:
                raise ValueError("params: expected the indices of parameters, got none")
            if kind.places is not None:
                ranges = tuple((place.begin, place.end) for place in arrays[number].values())
                of_group = _in_order(number, arrays[number], kind.places.first, group, of_group)
            groups.append(
                _Loaded(
                    number,
                    name,
                    _arguments.numbers(found),
                    options_of_group(defaults | found),
                    Constant(to_float("lr", group.get("lr"))),
                    ranges,
                    {f"state[{key!r}]": each for key, each in of_group},
                )
            )
    return groups


def _arrays_by_group(kind: Kind) -> list[dict[str, Place]]:
    """Return the places of the arrays of each group by first name; empty if the parameters are not a pack."""
    arrays = [] if kind.places is None else [*kind.places.distinct.items()]
    found: list[dict[str, Place]] = [{} for _ in kind.ranges]
    for (name, place), number in zip(arrays, group_indices(kind, arrays), strict=True):
        found[number][name] = place
    return found


def _in_order(
    number: int,
    arrays: Mapping[str, Place],
    first: Mapping[str, str],
    group: Mapping[str, Any],
    states: Sequence[tuple[Any, dict[str, Any]]],
) -> list[tuple[Any, dict[str, Any]]]:
    """Return the keys and entries of a group's parameters in the order of the arrays of `opt.groups[number]`.

    The parameters match by name if the group has names, and otherwise by position. `first` has the first name of each
    array by each of its names.
    """
    like = f"like opt.groups[{number}]"
    if group.get("param_names") is None:
        if len(states) != len(arrays):
            raise ValueError(f"params: expected {len(arrays)} parameters {like}, got {len(states)}")
        by_name = dict(zip(arrays, states, strict=True))
    else:
        names = sequence("param_names", group["param_names"])
        firsts = [first.get(name, "") if isinstance(name, str) else "" for name in names]
        if len(names) != len(states) or sorted(firsts) != sorted(arrays):
            raise ValueError(
                f"param_names: expected {reprlib.repr([*arrays])} {like}, got {reprlib.repr([*names])}"
            )
        by_name = dict(zip(firsts, states, strict=True))
    for name, place in arrays.items():
        for state, value in by_name[name][1].items():
            if state not in COUNTS and hasattr(value, "shape") and tuple(value.shape) != place.shape:
                raise ValueError(f"{name}: {state}: expected shape {place.shape}, got {tuple(value.shape)}")
    return [by_name[name] for name in arrays]


def _options(kind: Kind, groups: Sequence[_Loaded]) -> dict[str, Any]:
    """Return the options that all groups have, with the optimizer's `maximize` if each group has its own."""
    first = groups[0]
    for each in groups[1:]:
        for name, value in each.options.items():
            if name != "maximize" and value != first.options[name]:
                raise ValueError(
                    f"{each.name}: {name}: expected {first.options[name]!r} as in {first.name}, got {value!r}; "
                    "make an optimizer for each value"
                )
    return first.options | ({} if kind.maximizes_as_one() else {"maximize": kind.options["maximize"]})


def _settings(kind: Kind, groups: Sequence[_Loaded]) -> Settings:
    """Return the optimizer's settings with the numbers, rates and `maximize` of the groups.

    The numbers and the rate of the rest become the optimizer's.
    """
    settings = kind.settings
    for each in groups:
        maximize = each.options["maximize"]
        changes = {"lr_scale": 1.0, "maximize": None if maximize == kind.options["maximize"] else maximize}
        if each.number == 0:
            settings = settings.with_group(0, hyper={}, schedule=None, **changes)._replace(hyper=each.hyper)
        else:
            settings = settings.with_group(each.number, hyper=each.hyper, schedule=each.schedule, **changes)
    return settings


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


def _sgd_counts(
    given: int | None, groups: Sequence[_Loaded], own: Mapping[str, Any] | None
) -> tuple[int, list[list[int]]]:
    """Return the step count of SGD, and the step counts of the parameters in each group.

    If some groups have momentum buffers, the groups with momentum that lack them have taken no step.
    """
    begun = [any(each.states.values()) for each in groups]
    damped = any(has_begun and each.hyper["dampening"] for has_begun, each in zip(begun, groups, strict=True))
    step_count = _sgd_step_count(given, damped, own)
    counts = [
        [0 if any(begun) and each.hyper["momentum"] and not has_begun else step_count] * len(each.states)
        for has_begun, each in zip(begun, groups, strict=True)
    ]
    return step_count, counts


def _counts(group: _Loaded) -> list[int]:
    """Return the step count of each parameter. They may differ only if there are several groups."""
    states = [*group.states.values()]
    if not group.name:
        return [common_step_count(states)] * len(states)
    with naming(group.name):
        return [integer("step", whole(to_float("step", each.get("step", 0))), 0) for each in states]


def _check_products(group: _Loaded, counts: Sequence[int]) -> None:
    """Raise ValueError if NAdam's momentum product does not follow from the current momenta."""
    products = {count: momentum_product(count, group.hyper) for count in {*counts}}
    for each, count in zip(group.states.values(), counts, strict=True):
        if each:
            with naming(group.name):
                require_product(to_float("mu_product", each.get("mu_product", 1.0)), products[count])


def _flat_states(
    kind: Kind,
    names: Sequence[str],
    groups: Sequence[_Loaded],
    counts: Sequence[Sequence[int]],
    join: Callable[[str, Sequence[Any]], Any],
) -> dict[str, Any]:
    """Return each state as one array of all parameters, with zeros in groups that have taken no step."""
    others = {"SGD": (), "NAdam": COUNTS}.get(kind.name, ("step",))
    for group, of_group in zip(groups, counts, strict=True):
        if not any(of_group) and not any(group.states.values()):
            continue
        # PyTorch has no buffers for a group without momentum, although other groups may have them.
        optional = {"momentum_buffer"} & {*names} if group.hyper.get("momentum") == 0 else ()
        required = tuple(each for each in (*others, *names) if each not in optional)
        with naming(group.name):
            for name, entries in group.states.items():
                require_entries(name, entries, required, *optional)
    return {name: _flat_state(kind, name, groups, join) for name in names}


def _flat_state(
    kind: Kind, name: str, groups: Sequence[_Loaded], join: Callable[[str, Sequence[Any]], Any]
) -> Any:
    """Return a state as one array of all parameters."""
    flat = np.zeros(kind.size(), np.float32)
    for group in groups:
        tensors = [each[name] for each in group.states.values() if name in each]
        if not tensors:
            continue
        with naming(group.name):
            values = join(name, tensors)
            if len(kind.ranges) == 1 and kind.places is None:
                return values
            if len(values) != (size := size_of(group.ranges)):
                raise ValueError(
                    f"{name}: expected {size} elements like opt.groups[{group.number}], got {len(values)}"
                )
        before = 0
        for begin, end in group.ranges:
            flat[begin:end] = values[before : before + end - begin]
            before += end - begin
    return flat


def _counted(places: Places | None, group: _Loaded, counts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the ranges of a group's elements with the same step count, and this count.

    Padding after an array has the count of the array.
    """
    for begin, end, count in _counted_elements(group, counts):
        ranges = [(begin, end)]
        yield from ((*each, count) for each in (ranges if places is None else places.padded(ranges)))


def _counted_elements(group: _Loaded, counts: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield the same without padding."""
    if len({*counts}) < 2:
        yield from ((begin, end, count) for begin, end in group.ranges for count in counts[:1])
        return
    # The groups of a rule without states have a single count.
    sizes = [
        math.prod(next(value.shape for name, value in entries.items() if name not in COUNTS))
        for entries in group.states.values()
    ]
    begin = 0
    for count, run in itertools.groupby(zip(counts, sizes, strict=True), key=lambda pair: pair[0]):
        end = begin + sum(size for _, size in run)
        yield from ((*each, count) for each in part_of(group.ranges, begin, end))
        begin = end
