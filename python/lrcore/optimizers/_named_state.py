"""State dictionaries of optimizers over packs: they match the arrays by name, wherever these are in the buffer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lrcore._arrays.memory import aligned_zeros
from lrcore._lrcore_core import copy
from lrcore.optimizers import _group_state
from lrcore.optimizers._places import Places, parsed_places


def rearranged(dictionary: Mapping[str, Any], places: Places | None) -> Mapping[str, Any]:
    """Return a state dictionary with the states and groups in the order of the given arrays.

    `places` has the arrays of the parameters if they are a pack. Raises TypeError or ValueError if the dictionary has
    other arrays, or the names of arrays although the parameters are a plain array, or the reverse.
    """
    stored = dictionary.get("names")
    if places is None:
        if stored is not None:
            raise ValueError(
                "names: the states belong to the arrays of a Pack, but the parameters are a plain array; pass the Pack "
                "instead of its .flat"
            )
        return dictionary
    if stored is None:
        raise ValueError(
            "names: the states belong to a plain array, but the parameters are a Pack; pass the .flat of the Pack"
        )
    former = parsed_places(stored)
    places.require_same_arrays(former)
    changed = {**dictionary, "names": places.stored()}
    if former.by_name != places.by_name and isinstance(dictionary["state"], Mapping):
        states = dictionary["state"].items()
        changed["state"] = {name: _moved(name, state, former, places) for name, state in states}
    if dictionary.get("groups") is not None:
        changed["groups"] = _group_state.moved(
            dictionary["groups"], dictionary.get("step_count"), former, places
        )
    return changed


def _moved(name: Any, state: Any, former: Places, places: Places) -> NDArray[np.float32]:
    """Return a state in the order of other places, in host memory."""
    source, moved = aligned_zeros(former.size), aligned_zeros(places.size)
    copy(state, source, str(name), "names")
    for first, place in places.distinct.items():
        begin = former.by_name[first].begin
        moved[place.begin : place.end] = source[begin : begin + place.end - place.begin]
    return moved
