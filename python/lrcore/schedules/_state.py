"""The states of what has one in a schedule: read, checked, and matched with those of a stored schedule."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from typing import Any

from lrcore._checks import sequence
from lrcore.schedules._composed import Composed, are_alike
from lrcore.schedules._dictionary import decode
from lrcore.schedules._formula import Formula

_MOST_PLACES = 10**6
"""Places of schedules in another that are looked at."""


def stateful(schedule: Formula) -> list[Any]:
    """Return each schedule with a state that a schedule is made of, once, in the order in which they print."""
    return [each for each in schedule._nested() if each._has_state]


def states_of(schedule: Formula) -> list[dict[str, Any]]:
    """Return the state of each schedule with one."""
    return [each.state_dict() for each in stateful(schedule)]


def states_to_set(schedule: Formula, states: Iterable[Any]) -> list[tuple[Any, str, Any]]:
    """Check a state for each schedule with one; return the object, attribute and value of each assignment.

    They are to be assigned by ``object.__setattr__``, since schedules are frozen.
    """
    found, states = stateful(schedule), sequence("schedule_state", states)
    if len(states) != len(found):
        states = _once(schedule, found, states)
    return [each._to_set(state) for each, state in zip(found, states, strict=True)]


def _once(schedule: Formula, found: list[Any], states: tuple[Any, ...]) -> list[Any]:
    """Return the state of each Plateau, of those that former versions listed: one for each of its places."""
    nested = itertools.islice(schedule._nested(in_each_place=True), _MOST_PLACES)
    places = [id(each) for each in nested if each._has_state]
    first = dict(zip(reversed(places), reversed(states), strict=False))
    if len(places) != len(states) or any(
        first[each] != state for each, state in zip(places, states, strict=True)
    ):
        raise ValueError(f"schedule_state: expected one for each Plateau, {len(found)}, got {len(states)}")
    return [first[id(each)] for each in found]


def kept_or_stored(own: Formula, dictionary: Any, states: Any) -> Any:
    """Return the optimizer's own schedule if it equals a stored one, so that a Plateau which the caller holds goes on steering.

    Former versions stored one Plateau in two places as two, with equal states.
    """
    stored = decode(dictionary)
    if own == stored:
        return own
    if "shared" not in dictionary and isinstance(own, Composed) and type(own) is type(stored):
        with contextlib.suppress(TypeError, ValueError):
            states_to_set(own, states)
            if are_alike(own, stored, places=False):
                return own
    return stored
