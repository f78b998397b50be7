"""The states of the stateful schedules inside a schedule: reading, checking, and matching them with stored states."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Self

from lrcore._checks import sequence
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


def numbers_of(schedules: Iterable[Formula]) -> dict[int, int]:
    """Return a number for each stateful schedule that is in several of the schedules, by its `id`."""
    counts = Counter(id(each) for schedule in schedules for each in stateful(schedule))
    return {each: number for number, each in enumerate(each for each, count in counts.items() if count > 1)}


@dataclasses.dataclass(frozen=True, eq=False)
class Restored:
    """A schedule of an optimizer, and what a state dictionary has in its place."""

    own: Any
    """The current schedule."""
    stored: Any
    """The stored schedule, or None if it had no dictionary form."""
    states: Any
    """The stored states of its stateful schedules."""
    is_same: bool
    """Whether the current schedule can be kept, unless a Plateau in it is also in other schedules."""

    @classmethod
    def read(cls, own: Any, dictionary: Any, states: Any, numbered: dict[int, Formula]) -> Self:
        """Check a stored schedule and its states. `numbered` is that of `decode`, for all schedules of an optimizer."""
        stored: Any = None if dictionary is None else decode(dictionary, numbered)
        is_same = stored is None or _is_same(own, stored, dictionary, states)
        states_to_set(own if is_same else stored, states)
        return cls(own, stored, states, is_same)


def _is_same(own: Any, stored: Any, dictionary: Any, states: Any) -> bool:
    """Return whether a schedule equals the stored one.

    Earlier versions stored a Plateau that occurs in two places as two schedules with equal states.
    """
    if own == stored:
        return True
    if "shared" not in dictionary and isinstance(own, Composed) and type(own) is type(stored):
        with contextlib.suppress(TypeError, ValueError):
            states_to_set(own, states)
            return are_alike(own, stored, places=False)
    return False


def chosen(given: Sequence[Restored]) -> tuple[list[Any], list[tuple[Any, str, Any]]]:
    """Return each of an optimizer's schedules, current or stored, and the attributes of plateaus to assign.

    A current schedule that equals the stored one is kept, so that the caller's Plateau stays in use. A Plateau that
    several schedules share remains one object: all of them are kept, or none. It is also replaced if the stored states
    for it differ.
    """
    own: dict[int, Any] = {}  # stored states by the id of a current Plateau
    partners: dict[int, int] = {}  # the id of a current Plateau by the id of a stored one
    kept = [each.is_same and _fit(each, own, partners) for each in given]
    while (fewer := _without_replaced(given, kept)) != kept:
        kept = fewer
    schedules = [each.own if keep else each.stored for each, keep in zip(given, kept, strict=True)]
    to_set = [
        attribute
        for each, schedule in zip(given, schedules, strict=True)
        for attribute in states_to_set(schedule, each.states)
    ]
    return schedules, to_set


def _without_replaced(given: Sequence[Restored], kept: Sequence[bool]) -> list[bool]:
    """Return which schedules are kept if none is that shares a Plateau with a replaced one."""
    pairs = [*zip(given, kept, strict=True)]
    replaced = {id(one) for each, keep in pairs if not keep for one in stateful(each.stored)}
    return [
        keep and (each.stored is None or replaced.isdisjoint(map(id, stateful(each.stored))))
        for each, keep in pairs
    ]


def _fit(each: Restored, own: dict[int, Any], partners: dict[int, int]) -> bool:
    """Return whether the plateaus of a current schedule can have the stored states, and record these states."""
    ids = [id(one) for one in stateful(each.own)]
    states = dict(zip(ids, each.states, strict=False))
    stored = () if each.stored is None else map(id, stateful(each.stored))
    its = dict(zip(stored, ids, strict=False))
    if any(own.get(one, state) != state for one, state in states.items()):
        return False
    if any(partners.get(one, other) != other for one, other in its.items()):
        return False
    own |= states
    partners |= its
    return True
