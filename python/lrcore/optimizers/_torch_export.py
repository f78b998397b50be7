"""Conversion of an optimizer's state to a state dictionary of `torch.optim`."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lrcore._checks import shape_of
from lrcore._extras import optional_dependency
from lrcore.optimizers._places import Places
from lrcore.optimizers._torch_state import (
    Kind,
    as_float32,
    elements_of,
    group_indices,
    options_in_group,
    peer_of,
    states_of,
)
from lrcore.pack._node import Place


class _Parameter(NamedTuple):
    """One of PyTorch's parameters, as a part of the flat buffer."""

    name: str
    """Its name in messages, and in PyTorch's group if the parameters are a pack."""
    shape: tuple[int, ...]
    begin: int
    end: int
    group: int
    step_count: int


def exported(
    kind: Kind,
    shapes: Sequence[Any] | Places,
    step_count: int,
    counts: Sequence[tuple[int, int, int]],
    rates: Sequence[float],
    state: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the dictionary that `Optimizer.torch_state_dict` documents.

    `shapes` is that argument, or the places of the arrays of a pack, which also have names.
    `counts` has the ranges of elements that have taken fewer steps than the optimizer, in order, with their counts, and
    `rates` the rate of each group.
    """
    parameters = _parameters(kind, _spans(kind, shapes), step_count, counts)
    with optional_dependency("torch"):
        import torch

    numbers = kind.settings.numbers()
    states: list[dict[str, Any]] = []
    groups = []
    for i in kind.shown():
        of_group = [each for each in parameters if each.group == i]
        first = len(states)
        for count, run in itertools.groupby(of_group, key=lambda each: each.step_count):
            _require_float32(kind, count)
            alike = [*run]
            tensors = {
                name: [torch.from_numpy(array[each.begin : each.end].reshape(each.shape)) for each in alike]
                for name, array in state.items()
            }
            if not count and numbers[i].get("dampening"):
                tensors = {}  # given a buffer, PyTorch would damp the first gradient
            states += states_of(kind.name, count, numbers[i], tensors, len(alike))
        own = kind.settings.groups[i].maximize
        maximize = kind.options["maximize"] if own is None else own
        group = _group_of(kind, rates[i], numbers[i], maximize)
        groups.append(group | {"params": [*range(first, len(states))]})
        if isinstance(shapes, Places):
            groups[-1]["param_names"] = [each.name for each in of_group]
    return {"state": {i: each for i, each in enumerate(states) if each}, "param_groups": groups}


def _spans(kind: Kind, shapes: Sequence[Any] | Places) -> list[tuple[str, Place]]:
    """Return the name of each of PyTorch's parameters and its place in the buffer, in the order of the buffer."""
    if isinstance(shapes, Places):
        return [*shapes.distinct.items()]
    found = []
    end = 0
    for i, each in enumerate(shapes):
        found.append((f"shapes[{i}]", Place(end, shape_of(f"shapes[{i}]", each))))
        end = found[-1][1].end
    if end != (size := kind.size()):
        raise ValueError(f"shapes: expected {size} elements in total, got {end}")
    return found


def _parameters(
    kind: Kind, spans: Sequence[tuple[str, Place]], step_count: int, counts: Sequence[tuple[int, int, int]]
) -> list[_Parameter]:
    """Return the parameters in these places.

    Raises ValueError if PyTorch cannot have such parameters.
    """
    parameters = []
    size = kind.size()
    for (name, place), group in zip(spans, group_indices(kind, spans), strict=True):
        first, last = elements_of(place, size)
        taken = _counts_in(first, last, step_count, counts)
        if len(taken) > 1:
            raise ValueError(
                f"{name}: PyTorch has one step count for each parameter, but elements {place.begin}:{place.end} have "
                f"taken {min(taken)} to {max(taken)} steps; pass smaller shapes"
            )
        parameters.append(_Parameter(name, place.shape, place.begin, place.end, group, *taken))
    return parameters


def _counts_in(begin: int, end: int, step_count: int, counts: Sequence[tuple[int, int, int]]) -> set[int]:
    """Return the different numbers of steps that the elements of a range have taken."""
    first = bisect.bisect_right(counts, begin, key=lambda each: each[1])
    last = bisect.bisect_left(counts, end, key=lambda each: each[0])
    others = counts[first:last]
    size = sum(min(end, other_end) - max(begin, other_begin) for other_begin, other_end, _ in others)
    found = {count for _, _, count in others}
    return found if size == end - begin else found | {step_count}


def _require_float32(kind: Kind, step_count: int) -> None:
    """Raise ValueError if PyTorch cannot store this step count."""
    if kind.name != "SGD" and as_float32(step_count) != step_count:
        raise ValueError(
            f"step_count: PyTorch counts in float32, which rounds {step_count} to {as_float32(step_count):.0f}; "
            "use state_dict()"
        )


def _group_of(kind: Kind, lr: float, hyper: Mapping[str, Any], maximize: bool) -> dict[str, Any]:
    """Return PyTorch's parameter group without the indices of its parameters."""
    peer, own = peer_of(kind), options_in_group({**kind.options, "maximize": maximize})
    for option, default in options_in_group(kind.default_options).items():
        if option not in peer.options and own[option] != default:
            raise ValueError(f"{option}: torch.optim.{kind.name} has no {option}={own[option]!r}")
    return {"lr": lr, **hyper, **{each: own[each] for each in peer.options}, **peer.others}
