"""The base class of composed schedules: evaluation, comparison and copying at any depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from lrcore.schedules._depth import SLICE
from lrcore.schedules._formula import Formula, set_fields

TALL = 30
"""Largest number of levels that are evaluated by recursion."""


def height_of(schedule: Formula) -> int:
    """Return the number of levels in a schedule. One that is not `Composed` has none."""
    return schedule._height if isinstance(schedule, Composed) else 0


Extent: TypeAlias = tuple[int, Formula]
"""The total size of several schedules, and the one of them with the most levels."""


def extent_of(schedule: Formula) -> Extent:
    return (schedule._size if isinstance(schedule, Composed) else 1), schedule


class Composed(Formula):
    """A schedule made of others. It evaluates one of them first, and then changes the resulting rate."""

    _highest: Formula
    """The first child with the most levels."""

    def _consist_of(self, *children: Formula, among: Iterable[Extent] | None = None) -> None:
        """Store the children in the order of the repr. `among` contains their extents if they are already known."""
        extents = [*(map(extent_of, children) if among is None else among)]
        set_fields(self, _children=children, _size=1 + sum(size for size, _ in extents))
        if children:
            highest = max((each for _, each in extents), key=height_of)
            set_fields(self, _highest=highest, _height=height_of(highest) + 1)

    def _extent_below(self) -> Extent:
        """Return the extent of the children."""
        return self._size - 1, self._highest

    def _asked(self, t: int) -> tuple[Formula, int]:
        """Return the schedule to evaluate, and its t."""
        return self._children[0], t

    def _changed(self, rate: float, t: int) -> float:  # noqa: ARG002
        """Return the rate at t from the rate of the schedule that was evaluated."""
        return rate

    def _value(self, t: int) -> float:
        if self._height > TALL:
            return self._value_from_below(t)
        schedule, at = self._asked(t)
        return self._changed(schedule._value(at), t)

    def _value_from_below(self, t: int) -> float:
        """Return the same as `_value`, with a loop instead of recursion."""
        path: list[tuple[Any, int]] = [(self, t)]
        schedule, t = self._asked(t)
        while isinstance(schedule, Composed) and schedule._height > TALL and schedule._is_own:
            path.append((schedule, t))
            schedule, t = schedule._asked(t)
        rate = schedule._value(t)
        for each, at in reversed(path):
            rate = each._changed(rate, at)
        return rate

    def _leaves(self) -> Iterator[Any]:
        """Yield the arguments, with tuples flattened."""
        waiting = [value for _, value in self._arguments()][::-1]
        while waiting:
            value = waiting.pop()
            if isinstance(value, tuple):
                waiting += reversed(value)
            else:
                yield value

    def __eq__(self, other: object) -> bool:
        return are_alike(self, other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        met: set[int] = set()
        hashes: set[int] = set()
        waiting: list[Any] = [self]
        while waiting:
            composed = waiting.pop()
            if id(composed) not in met:
                met.add(id(composed))
                leaves = [*composed._leaves()]
                waiting += (each for each in leaves if isinstance(each, Composed) and each._is_own)
                hashes.add(hash((type(composed), *map(_plain, leaves))))
        # This is a set because two equal schedules must contribute the same as one schedule in two places.
        return hash(frozenset(hashes))

    def __reduce__(self) -> tuple[Any, ...]:
        """Put lower levels first, from the bottom up, because copy and pickle do not recurse into known objects."""
        return _unfilled, (tuple(self._lower_levels())[::-1], type(self)), self.__getstate__()

    def _lower_levels(self) -> Iterator[Formula]:
        """Yield the lower levels to store first; none unless the height of this schedule is a multiple of 10.

        If the height is a multiple of 100, these are the levels at all lower multiples of 100. Otherwise, they are the
        levels at the lower multiples of 10, down to and including a multiple of 100. Only the child with the most
        levels is followed. If the other children at every level have nearly as many levels, copying recurses through
        all of them.
        """
        if self._height == 0 or self._height % SLICE:
            return
        step = SLICE**2 if self._height % SLICE**2 == 0 else SLICE
        last = 1 if step > SLICE else max(self._height // SLICE**2 * SLICE**2, 1)
        below: Any = self._highest
        while height_of(below) >= last:
            if below._height % step == 0:
                yield below
            below = below._highest


def _plain(value: Any) -> Any:
    """Return an argument to hash, or its class if hashing the argument might recurse or fail."""
    is_plain = not isinstance(value, Formula) or (
        value._is_own and not isinstance(value, Composed) and not value._holds_callable
    )
    return value if is_plain else type(value)


def _unfilled(first: tuple[Formula, ...], cls: type[Composed]) -> Composed:  # noqa: ARG001
    """Return an empty object for copy or pickle to fill."""
    return object.__new__(cls)


def are_alike(one: Any, other: Any, places: bool = True) -> bool:
    """Return whether two compositions of one class have equal arguments.

    If `places` is true, stateful schedules must also be shared in the same way: if several places of one
    composition hold the same object, the same places of the other one must hold a single object, too.
    """
    waiting, met = _pairs(one, other), {(id(one), id(other))}
    partners: tuple[dict[int, int], dict[int, int]] = ({}, {})
    _partnered(partners, one, other)
    while waiting:
        one, other = waiting.pop()
        if isinstance(one, Composed) and type(one) is type(other):
            key = (id(one), id(other))
            if key in met:
                continue
            met.add(key)
            if places and not _partnered(partners, one, other):
                return False
            if type(one).__eq__ is Composed.__eq__:
                waiting += _pairs(one, other)
                continue
        if one is not other and one != other:  # numbers, or objects with their own __eq__
            return False
    return True


def _pairs(one: Composed, other: Composed) -> list[tuple[Any, Any]]:
    """Return the pairs of arguments to compare."""
    leaves, others = [*one._leaves()], [*other._leaves()]
    return [*zip(leaves, others, strict=True)] if len(leaves) == len(others) else [(leaves, others)]


def _partnered(partners: tuple[dict[int, int], dict[int, int]], one: Composed, other: Composed) -> bool:
    """Record two stateful schedules as partners; return False if either already has another partner."""
    ids = id(one), id(other)
    return not one._has_state or all(
        known.setdefault(each, its) == its for known, each, its in zip(partners, ids, ids[::-1], strict=True)
    )
