"""The usual choice of the arrays to which weight decay applies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrcore._checks import naming
from lrcore._names import explain_keywords
from lrcore.optimizers._arguments import holds_torch_parameters, settable
from lrcore.optimizers._places import Places, places_of
from lrcore.optimizers._selection import all_selected
from lrcore.schedules import Rate


@explain_keywords
def decay_groups(
    pack: Any, weight_decay: Rate, groups: Sequence[Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Return parameter groups in which weight decay applies only to arrays of two or more dimensions.

    Matrices, convolution kernels and embeddings then decay; biases and the gains and shifts of normalization layers do
    not.

    Parameters
    ----------
    pack : Pack
        The parameters of the optimizer.
    weight_decay : float, schedule or callable
        The weight decay of arrays of two or more dimensions.
    groups : list of dict, optional
        Groups in the form of the argument `groups` of an optimizer, which select arrays by names or predicates. Each is
        split in two. If a group has its own `weight_decay`, the arrays of two or more dimensions get that number.

    Returns
    -------
    list of dict
        The argument `groups` of an optimizer over `pack`. For each given group, and then for the arrays that are in
        none of them, there is a group of the arrays that decay and a group of the others. Groups without arrays are
        left out.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or a group selects ranges of elements.

    Examples
    --------
    >>> pack = lrcore.Pack({"embed": (9, 4), "norm": 4, "head": {"w": (4, 9), "b": 9}})
    >>> for group in lrcore.decay_groups(pack, 0.1, [{"params": "head.*", "lr_scale": 10.0}]):
    ...     print(group)
    {'params': ['head.w'], 'lr_scale': 10.0, 'weight_decay': 0.1}
    {'params': ['head.b'], 'lr_scale': 10.0, 'weight_decay': 0.0}
    {'params': ['embed'], 'weight_decay': 0.1}
    {'params': ['norm'], 'weight_decay': 0.0}
    """
    places = places_of(pack)
    if places is None:
        hint = "; write lrcore.torch.decay_groups(module, ...)" if holds_torch_parameters(pack) else ""
        raise TypeError(f"pack: expected a Pack, got {type(pack).__name__}{hint}")
    return divided(places, weight_decay, groups)


def divided(
    places: Places, weight_decay: Rate, groups: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Any]]:
    """Return the groups of `decay_groups` for named arrays."""
    decay = settable({"weight_decay": weight_decay})["weight_decay"]
    given = [] if groups is None else groups
    selections = all_selected(given, places.size, places)
    for i, (group, selection) in enumerate(zip(given, selections, strict=True)):
        with naming(f"groups[{i}]"):
            if selection.ranges:
                raise TypeError("params: expected names or predicates, got a range of elements")
            settable({name: group[name] for name in ("weight_decay",) if name in group})
    named = {name for selection in selections for name in selection.names}
    rest = [name for name in places.distinct if name not in named]
    found: list[dict[str, Any]] = []
    for group, names in [*zip(given, (each.names for each in selections), strict=True), ({}, rest)]:
        matrices = [name for name in names if len(places.by_name[name].shape) >= 2]
        others = [name for name in names if len(places.by_name[name].shape) < 2]
        for part, number in ((matrices, group.get("weight_decay", decay)), (others, 0.0)):
            if part:
                found.append({**group, "params": part, "weight_decay": number})
    return found
