"""The states of the stateful schedules inside a schedule: reading, checking, and matching them with stored states."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from lrcore._checks import is_list, sequence
from lrcore.schedules._composed import Composed, are_alike
from lrcore.schedules._dictionary import decode
from lrcore.schedules._formula import Formula

_MOST_PLACES = 10**6
"""Largest number of occurrences of schedules that are visited."""


def stateful(schedule: Formula) -> list[Any]:
    """Return each distinct stateful schedule inside a schedule, in the order of the repr."""
    return [each for each in schedule._nested() if each._has_state]


def states_of(schedule: Formula) -> list[dict[str, Any]]:
    """Return the state of each stateful schedule inside a schedule."""
    return [each.state_dict() for each in stateful(schedule)]


def states_to_set(schedule: Formula, states: Iterable[Any]) -> list[tuple[Any, str, Any]]:
    """Check a state for each stateful schedule; return the object, attribute and value of each assignment.

    The caller must assign them with ``object.__setattr__``, because schedules are frozen.
    """
    found, states = stateful(schedule), sequence("schedule_state", states)
    if len(states) != len(found):
        states = _once(schedule, found, states)
    return [each._to_set(state) for each, state in zip(found, states, strict=True)]


def _once(schedule: Formula, found: list[Any], states: tuple[Any, ...]) -> list[Any]:
    """Return one state per Plateau from a list that an earlier version wrote, which has one state per occurrence."""
    nested = itertools.islice(schedule._nested(in_each_place=True), _MOST_PLACES)
    places = [id(each) for each in nested if each._has_state]
    first = dict(zip(reversed(places), reversed(states), strict=False))
    if len(places) != len(states) or any(
        first[each] != state for each, state in zip(places, states, strict=True)
    ):
        raise ValueError(
            f"schedule_state: expected one state per Plateau, {len(found)} in total, got {len(states)}"
        )
    return [first[id(each)] for each in found]


def kept_or_stored(own: Formula | None, dictionary: Any, states: Any, met: Mapping[int, Any]) -> Any:
    """Return the optimizer's own schedule if it equals the stored one, so that the caller's Plateau stays in use.

    Otherwise, return the stored one. Earlier versions stored a Plateau that occurs in two places as two schedules with
    equal states. `met` has the states that `add_states` found for other schedules of the optimizer: a Plateau that is
    in several of them, but has different stored states, is not kept.
    """
    stored = decode(dictionary)
    pairs = zip(stateful(own), states, strict=False) if own is not None and is_list(states) else ()
    if any(met.get(id(each), state) != state for each, state in pairs):
        return stored
    if own == stored:
        return own
    if "shared" not in dictionary and isinstance(own, Composed) and type(own) is type(stored):
        with contextlib.suppress(TypeError, ValueError):
            states_to_set(own, states)
            if are_alike(own, stored, places=False):
                return own
    return stored


def add_states(schedule: Formula, states: Iterable[Any], met: dict[int, Any]) -> None:
    """Add the checked state of each stateful schedule inside a schedule to `met`, by its id."""
    met |= dict(zip(map(id, stateful(schedule)), states, strict=False))
