"""Schedules that are made from others. All but `Sequence` are made by methods of `Schedule`.

They may be made of one another any number of times: nothing here recurses as deep as they are.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from lrcore._arguments import length
from lrcore.schedules._base import Checked, Rate, Schedule, as_schedule, code_of, rate_or_schedule, set_fields
from lrcore.schedules._checks import count, listed, optional, rate
from lrcore.schedules._depth import SLICE, Steps

_TALL = 30
"""Levels that are asked by recursion."""
_END = 2**64
"""Numbers of steps are below it."""


def _height_of(schedule: Schedule) -> int:
    """Return how many levels a schedule has; those of the caller's own classes are not looked into."""
    return schedule._height if isinstance(schedule, Composed) else 0


class Composed(Schedule):
    """A schedule that is made of others. One of them is asked first, and its rate is changed."""

    _highest: Schedule
    """Of the schedules that this one is made of, the first with the most levels."""

    def _consist_of(self, *children: Schedule) -> None:
        """Note the schedules that this one is made of, in the order in which they print."""
        set_fields(self, _children=children)
        if children:
            highest = max(children, key=_height_of)
            set_fields(self, _highest=highest, _height=_height_of(highest) + 1)

    def _asked(self, t: int) -> tuple[Schedule, int]:
        """Give the schedule that is asked, and for which t."""
        return self._children[0], t

    def _changed(self, rate: float, t: int) -> float:  # noqa: ARG002
        """Give the rate that is made of the other's."""
        return rate

    def _value(self, t: int) -> float:
        if self._height > _TALL:
            return self._value_from_below(t)
        schedule, at = self._asked(t)
        return self._changed(schedule._value(at), t)

    def _value_from_below(self, t: int) -> float:
        """Do what `_value` does, with a loop in place of the recursion."""
        path: list[tuple[Any, int]] = [(self, t)]
        schedule, t = self._asked(t)
        while isinstance(schedule, Composed) and schedule._height > _TALL and schedule._is_own:
            path.append((schedule, t))
            schedule, t = schedule._asked(t)
        rate = schedule._value(t)
        for each, at in reversed(path):
            rate = each._changed(rate, at)
        return rate

    def _leaves(self) -> Iterator[Any]:
        """Give the arguments, those in tuples too."""
        waiting = [value for _, value in self._arguments()][::-1]
        while waiting:
            value = waiting.pop()
            if isinstance(value, tuple):
                waiting += reversed(value)
            else:
                yield value

    def __eq__(self, other: object) -> bool:
        return _are_alike(self, other) if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        met: set[int] = set()
        hashes: set[int] = set()
        waiting: list[Any] = [self]
        while waiting:
            composed = waiting.pop()
            if id(composed) not in met:
                met.add(id(composed))
                leaves = [*composed._leaves()]
                waiting += (each for each in leaves if _hashes_by_levels(each))
                hashes.add(hash((type(composed), *map(_plain, leaves))))
        return hash(frozenset(hashes))  # which does not tell one in two places from two that are equal

    def __reduce__(self) -> tuple[Any, ...]:
        """Store lower levels first, from the bottom: copy and pickle recurse down to those that they have met."""
        return _unfilled, (tuple(self._lower_levels())[::-1], type(self)), self.__getstate__()

    def _lower_levels(self) -> Iterator[Schedule]:
        """Give, at every tenth level, every tenth below down to a hundredth; at a hundredth, every hundredth below."""
        if self._height == 0 or self._height % SLICE:
            return
        step = SLICE**2 if self._height % SLICE**2 == 0 else SLICE
        last = 1 if step > SLICE else max(self._height // SLICE**2 * SLICE**2, 1)
        below: Any = self._highest
        while _height_of(below) >= last:
            if below._height % step == 0:
                yield below
            below = below._highest


def _hashes_by_levels(value: Any) -> bool:
    """Tell whether a schedule leaves it to its parts to tell it from others."""
    return isinstance(value, Composed) and value._is_own


def _plain(value: Any) -> Any:
    """Return what stands for an argument in a hash: for what may recurse, or have no hash, its class."""
    is_plain = not isinstance(value, Schedule) or (
        value._is_own and not isinstance(value, Composed) and not value._holds_callable
    )
    return value if is_plain else type(value)


def _unfilled(first: tuple[Schedule, ...], cls: type[Composed]) -> Composed:  # noqa: ARG001
    """Make what a copy or a pickle fills."""
    return object.__new__(cls)


def _are_alike(one: Any, other: Any) -> bool:
    """Compare schedules by their arguments, and by whether what has a state is the same in the same places."""
    waiting, met = _pairs(one, other), {(id(one), id(other))}
    partners: tuple[dict[int, int], dict[int, int]] = ({}, {})
    _partnered(partners, one, other)
    while waiting:
        one, other = waiting.pop()
        if not isinstance(one, Composed) or type(one) is not type(other):
            if one is not other and one != other:
                return False
            continue
        key = (id(one), id(other))
        if key in met:
            continue
        met.add(key)
        if not _partnered(partners, one, other):
            return False
        if type(one).__eq__ is Composed.__eq__:
            waiting += _pairs(one, other)
        elif one is not other and one != other:  # as a class of the caller's own compares
            return False
    return True


def _pairs(one: Composed, other: Composed) -> list[tuple[Any, Any]]:
    """Give what is to be compared."""
    leaves, others = [*one._leaves()], [*other._leaves()]
    return [*zip(leaves, others, strict=True)] if len(leaves) == len(others) else [(leaves, others)]


def _partnered(partners: tuple[dict[int, int], dict[int, int]], one: Composed, other: Composed) -> bool:
    """Tell whether two that have a state stand in the same places."""
    ids = id(one), id(other)
    return not one._has_state or all(
        known.setdefault(each, its) == its for known, each, its in zip(partners, ids, ids[::-1], strict=True)
    )


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Sequence(Composed):
    """Ask one schedule after another, each with a clock of its own from 0.

    ::

        s(t) = s_i(t - t_i)

    Part i is the one that t is in, and ``t_i`` its first step.

    Parameters
    ----------
    parts : sequence of (schedule, int), the last a schedule alone
        The schedules, which may be numbers, and how many steps each but the last is asked.

    References
    ----------
    PyTorch's ``SequentialLR`` and optax's ``join_schedules``, with lengths in place of the steps at which the
    parts begin.

    Examples
    --------
    >>> from lrcore.schedules import Linear
    >>> rates = Sequence([(0.4, 10), (Linear(0.4, 0.0, steps=2), 2), 0.1])
    >>> rates(9), rates(10), rates(11), rates(12)
    (0.4, 0.4, 0.2, 0.1)
    """

    parts: Iterable[Any]

    def __post_init__(self) -> None:
        if not listed("parts", self.parts):
            raise ValueError("parts: expected at least one schedule")
        try:
            *pairs, last = self.parts
            checked: list[Any] = [(schedule, steps) for schedule, steps in pairs]
        except (TypeError, ValueError):
            message = f"parts: expected pairs of a schedule and a length, and a schedule at last, got {self.parts!r}"
            raise TypeError(message) from None
        checked = [(_part(schedule), length("parts", steps)) for schedule, steps in checked]
        last = _part(last)
        ends = itertools.accumulate(steps for _, steps in checked)
        self._join((*checked, last), (*(schedule for schedule, _ in checked), last), [*ends])

    def _join(self, parts: tuple[Any, ...], schedules: tuple[Schedule, ...], ends: list[int]) -> None:
        """Take checked parts: as they are, the schedules alone, and the steps at which all but the last end."""
        set_fields(self, parts=parts, _ends=ends)
        self._consist_of(*schedules)

    def _asked(self, t: int) -> tuple[Schedule, int]:
        ends: list[int] = self._ends  # type: ignore[attr-defined]
        part = bisect_right(ends, t)
        return self._children[part], t - ends[part - 1] if part else t

    def _code(self) -> Steps:
        shown = []
        for part in self.parts:
            schedule, *steps = part if isinstance(part, tuple) else (part,)
            code = yield code_of(schedule)
            shown.append(f"({code}, {steps[0]!r})" if steps else code)
        return f"Sequence([{', '.join(shown)}])"


def _part(value: Rate) -> Schedule:
    """Check a part of a sequence."""
    try:
        return as_schedule(value)
    except TypeError as error:
        raise TypeError(f"parts: {error}") from None


def joined(first: Schedule, at: int, other: Rate) -> Sequence:
    """Give one sequence of a schedule, which may be a sequence, and of another that begins at a step."""
    following = _part(other)
    before: Any = first if type(first) is Sequence else Sequence([first])
    after: Any = following
    if type(after) is not Sequence or not {*map(id, before._children)}.isdisjoint(map(id, after._children)):
        after = Sequence([after])  # one that is joined to itself time and again would grow exponentially
    part = bisect_left(before._ends, at)
    begin = before._ends[part - 1] if part else 0
    sequence = object.__new__(Sequence)
    sequence._join(
        (*before.parts[:part], (before._children[part], at - begin), *after.parts),
        (*before._children[: part + 1], *after._children),
        [*before._ends[:part], at, *(at + end for end in after._ends)],
    )
    return sequence


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class _Around(Composed, Checked):
    """A schedule around another."""

    inner: Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Schedule):  # which a dictionary may say wrong
            raise TypeError(f"inner: expected a schedule, got {type(self.inner).__name__}")
        super().__post_init__()
        self._consist_of(self.inner)

    def _code(self) -> Steps:
        code = yield code_of(self.inner)
        return _operand(self.inner, code) + self._operation()

    def _operation(self) -> str:
        """Give the code that follows the inner schedule's."""
        raise NotImplementedError


def _operand(schedule: Schedule, code: str) -> str:
    """Give the code of a schedule where a method or an operator follows."""
    return f"({code})" if isinstance(schedule, Product) else code


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Warmup(_Around):
    """A ramp before a schedule: `Schedule.warmup`."""

    steps: int
    start: float | None = None

    _checks: ClassVar = {"steps": count, "start": optional(rate)}

    def _asked(self, t: int) -> tuple[Schedule, int]:
        steps = self.steps
        return self.inner, t - steps if t >= steps else 0

    def _changed(self, rate: float, t: int) -> float:
        steps = self.steps
        if t >= steps:
            return rate
        return (
            rate * ((t + 1) / steps) if self.start is None else self.start + (rate - self.start) * (t / steps)
        )

    def _operation(self) -> str:
        start = "" if self.start is None else f", start={self.start!r}"
        return f".warmup({self.steps!r}{start})"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Product(_Around):
    """A schedule times numbers or other schedules, from left to right: ``schedule * other``."""

    factors: Iterable[Rate]

    def __post_init__(self) -> None:
        super().__post_init__()
        factors = tuple(rate_or_schedule("factor", each) for each in listed("factors", self.factors))
        set_fields(self, factors=factors)
        self._consist_of(self.inner, *(each for each in factors if isinstance(each, Schedule)))

    def _changed(self, rate: float, t: int) -> float:
        for factor in self.factors:
            rate *= factor if type(factor) is float else factor._value(t)  # type: ignore[union-attr]
        if math.isnan(rate):
            raise self._overflow(t)  # infinity times 0
        return rate

    def _code(self) -> Steps:
        code = yield code_of(self.inner)
        codes = [code]
        for factor in self.factors:
            code = yield code_of(factor)
            codes.append(_operand(factor, code) if isinstance(factor, Schedule) else code)
        return " * ".join(codes)


def multiplied(schedule: Schedule, factor: float | Schedule) -> Product:
    """Give the product of a schedule, which may be a product, and of a checked factor."""
    if isinstance(factor, Schedule) and _height_of(factor) > max(_TALL, _height_of(schedule)):
        schedule, factor = factor, schedule  # the same bits; the inner schedule's levels take no stack
    if type(schedule) is not Product:
        return Product(schedule, (factor,))
    product = object.__new__(Product)
    set_fields(product, inner=schedule.inner, factors=(*schedule.factors, factor))
    product._consist_of(*schedule._children, *((factor,) if isinstance(factor, Schedule) else ()))
    return product


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Clip(_Around):
    """A schedule within bounds: `Schedule.clip`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low: expected at most high = {self.high}, got {self.low}")

    def _changed(self, rate: float, t: int) -> float:  # noqa: ARG002
        return min(max(rate, self.low), self.high)

    def clip(self, low: float, high: float) -> Schedule:
        outer = Clip(self.inner, low, high)
        if outer.high == 0 < self.low:
            return super().clip(low, high)  # 0.0, where one alone would leave -0.0 as it is
        return Clip(self.inner, outer._changed(self.low, 0), outer._changed(self.high, 0))

    def _operation(self) -> str:
        return f".clip({self.low!r}, {self.high!r})"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Shift(_Around):
    """A schedule as it is later: `Schedule.shift`."""

    n: int

    def _asked(self, t: int) -> tuple[Schedule, int]:
        return self.inner, t + self.n

    def shift(self, n: int) -> Schedule:
        total = self.n + count("n", n)
        return Shift(self.inner, total) if total < _END else super().shift(n)

    def _operation(self) -> str:
        return f".shift({self.n!r})"


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class PerEpoch(_Around):
    """A schedule of epochs: `Schedule.per_epoch`."""

    steps_per_epoch: int

    def _asked(self, t: int) -> tuple[Schedule, int]:
        return self.inner, t // self.steps_per_epoch

    def per_epoch(self, steps_per_epoch: int) -> Schedule:
        product = self.steps_per_epoch * length("steps_per_epoch", steps_per_epoch)
        return PerEpoch(self.inner, product) if product < _END else super().per_epoch(steps_per_epoch)

    def _operation(self) -> str:
        return f".per_epoch({self.steps_per_epoch!r})"
