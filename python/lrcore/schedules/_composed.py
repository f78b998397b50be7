"""What schedules that are made of others share: how they are asked, compared and copied at any depth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from lrcore.schedules._depth import SLICE
from lrcore.schedules._formula import Formula, set_fields

TALL = 30
"""Levels that are asked by recursion."""


def height_of(schedule: Formula) -> int:
    """Return how many levels a schedule has; those of the caller's own classes are not looked into."""
    return schedule._height if isinstance(schedule, Composed) else 0


Extent: TypeAlias = tuple[int, Formula]
"""The size of some schedules together, and the one with the most levels."""


def extent_of(schedule: Formula) -> Extent:
    return (schedule._size if isinstance(schedule, Composed) else 1), schedule


class Composed(Formula):
    """A schedule that is made of others. One of them is asked first, and its rate is changed."""

    _highest: Formula
    """Of the schedules that this one is made of, the first with the most levels."""

    def _consist_of(self, *children: Formula, among: Iterable[Extent] | None = None) -> None:
        """Note the schedules that this one is made of, in the order in which they print, or what they are among."""
        extents = [*(map(extent_of, children) if among is None else among)]
        set_fields(self, _children=children, _size=1 + sum(size for size, _ in extents))
        if children:
            highest = max((each for _, each in extents), key=height_of)
            set_fields(self, _highest=highest, _height=height_of(highest) + 1)

    def _extent_below(self) -> Extent:
        """Return the extent of the schedules that this one is made of."""
        return self._size - 1, self._highest

    def _asked(self, t: int) -> tuple[Formula, int]:
        """Return the schedule that is asked, and for which t."""
        return self._children[0], t

    def _changed(self, rate: float, t: int) -> float:  # noqa: ARG002
        """Return the rate, made of that of the schedule that was asked."""
        return rate

    def _value(self, t: int) -> float:
        if self._height > TALL:
            return self._value_from_below(t)
        schedule, at = self._asked(t)
        return self._changed(schedule._value(at), t)

    def _value_from_below(self, t: int) -> float:
        """Do what `_value` does, with a loop in place of the recursion."""
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
        """Yield the arguments, those in tuples one by one."""
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
        return hash(frozenset(hashes))  # which does not tell one in two places from two that are equal

    def __reduce__(self) -> tuple[Any, ...]:
        """Store lower levels first, from the bottom: copy and pickle recurse down to those that they have met."""
        return _unfilled, (tuple(self._lower_levels())[::-1], type(self)), self.__getstate__()

    def _lower_levels(self) -> Iterator[Formula]:
        """Yield every tenth level below a tenth level, down to a hundredth; and below a hundredth every hundredth.

        Those of the highest part alone: where the others are nearly as high at every level, copies recurse as deep.
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
    """Return what stands for an argument in a hash: for what may recurse, or have no hash, its class."""
    is_plain = not isinstance(value, Formula) or (
        value._is_own and not isinstance(value, Composed) and not value._holds_callable
    )
    return value if is_plain else type(value)


def _unfilled(first: tuple[Formula, ...], cls: type[Composed]) -> Composed:  # noqa: ARG001
    """Make what a copy or a pickle fills."""
    return object.__new__(cls)


def are_alike(one: Any, other: Any, places: bool = True) -> bool:
    """Compare compositions of one class by their arguments, and by whether what has a state is the same in the same `places`."""
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
        if one is not other and one != other:  # numbers, or as a class of the caller's own compares
            return False
    return True


def _pairs(one: Composed, other: Composed) -> list[tuple[Any, Any]]:
    """Return the pairs of arguments to compare."""
    leaves, others = [*one._leaves()], [*other._leaves()]
    return [*zip(leaves, others, strict=True)] if len(leaves) == len(others) else [(leaves, others)]


def _partnered(partners: tuple[dict[int, int], dict[int, int]], one: Composed, other: Composed) -> bool:
    """Return whether two schedules that have a state stand in the same places."""
    ids = id(one), id(other)
    return not one._has_state or all(
        known.setdefault(each, its) == its for known, each, its in zip(partners, ids, ids[::-1], strict=True)
    )
