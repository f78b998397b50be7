"""The base of all schedules, and those that its methods make."""

from __future__ import annotations

import dataclasses
import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

from lrcore._checks import (
    Check,
    flag,
    integer,
    nonnegative,
    nonnegative_float32,
    num_steps,
    num_steps_or_zero,
    optional,
    positive,
    rate,
    require_entries,
    sequence,
)
from lrcore._names import explain_attributes, explain_keywords
from lrcore.schedules import _dictionary
from lrcore.schedules._composed import TALL, Composed, Extent, extent_of, height_of
from lrcore.schedules._depth import Steps
from lrcore.schedules._formula import Formula, argument_names, as_rate, code_of, set_fields
from lrcore.schedules._state import states_of, states_to_set

_END = 2**64
"""Numbers of steps are below it."""


@explain_attributes("step", "get_last_lr", "last_epoch", "num_bad_epochs")
class Schedule(Formula):
    """The base of all schedules.

    Examples
    --------
    >>> rates = Constant(0.4).warmup(4)
    >>> rates(0), rates([0, 1, 100])
    (0.1, array([0.1, 0.2, 0.4]))
    >>> Constant(0.4).warmup(4, start=0.2)(0)
    0.2
    >>> rates.then(0.3, at=10)(10), (rates * 0.5)(10), rates.clip(0.2, 0.3)(0)
    (0.3, 0.2, 0.2)
    >>> rates.shift(1)(0), rates.per_epoch(100)(199)
    (0.2, 0.2)
    >>> from lrcore.schedules import from_dict
    >>> Constant(0.4).to_dict(), from_dict(rates.to_dict()) == rates
    ({'schedule': 'Constant', 'lr': 0.4}, True)
    """

    @explain_keywords
    def then(self, other: Rate, at: int) -> Schedule:
        """Return this schedule for t < at, then `other` with a clock of its own from 0."""
        return joined(self, num_steps("at", at), other)

    @explain_keywords
    def warmup(self, steps: int, start: float | None = None) -> Schedule:
        """Return a ramp of `steps` steps up to the first rate of this schedule, then this schedule from its own t = 0.

        Step t of the ramp is ``(t + 1) / steps`` of that rate, so no step is wasted at rate 0, and the ramp's last step
        and this schedule's first have the full rate. With `start`, the ramp is ``start + (rate - start) t / steps``.

        References
        ----------
        Goyal et al. 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", section 2.2.
        """
        return Warmup(self, steps, start)

    def __mul__(self, other: Rate) -> Schedule:
        """Return the product with a number or with another schedule."""
        return multiplied(self, factor_or_schedule(other))

    __rmul__ = __mul__

    @explain_keywords
    def clip(self, low: float, high: float) -> Schedule:
        """Return this schedule, with no rate below `low` or above `high`."""
        return Clip(self, low, high)

    @explain_keywords
    def shift(self, n: int) -> Schedule:
        """Return this schedule as it is n steps later."""
        return Shift(self, n)

    @explain_keywords
    def per_epoch(self, steps_per_epoch: int) -> Schedule:
        """Return a schedule of steps from this one of epochs, which is called with ``t // steps_per_epoch``."""
        return PerEpoch(self, steps_per_epoch)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary that `from_dict` turns back into this schedule.

        A `Plateau` that stands in several places is one again. However deep a schedule is composed, the dictionary is nested a
        few levels only.

        Raises
        ------
        TypeError
            For a schedule that holds a callable, or one of a class that is not from this module.
        ValueError
            For more than a million schedules within one another, each counted in each of its places.
        """
        return _dictionary.encode(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule: empty for a value, and with a list `states` if it is made of others with one."""
        states = states_of(self)
        return {"states": states} if states else {}

    @explain_keywords
    def load_state_dict(self, dictionary: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises
        ------
        TypeError, ValueError
            When an entry is missing, unknown or wrong. Nothing is changed then.
        """
        own = ("states",) if self.state_dict() else ()
        entries = require_entries("state_dict", dictionary, own)
        for each in states_to_set(self, entries.get("states", ())):
            object.__setattr__(*each)


_CHECKS: dict[str, Check] = (
    dict.fromkeys(("lr", "end", "peak", "base", "start"), rate)
    | dict.fromkeys(("low", "high", "k", "power", "power2", "scale", "pct_start"), nonnegative)
    | dict.fromkeys(("rate", "factor", "peak_mult", "gamma", "div", "final_div"), positive)
    | dict.fromkeys(("steps", "every", "up", "warmup_steps", "decay", "steps_per_epoch"), num_steps)
    | dict.fromkeys(("cycle_mult", "model_dim"), integer)
    | dict.fromkeys(("stable", "n"), num_steps_or_zero)
    | dict.fromkeys(("staircase", "cycle", "three_phase"), flag)
)
"""The check of every argument that means the same wherever it is taken."""


class Checked(Schedule):
    """A schedule whose arguments are checked by their names when it is made."""

    _in_text: ClassVar = True
    _checks: ClassVar[Mapping[str, Check]] = {}
    """The checks of arguments that mean something else here, or that nothing else takes."""

    def __post_init__(self) -> None:
        for name in argument_names(type(self)):
            check = self._checks.get(name) or _CHECKS.get(name)
            if check is not None:
                set_fields(self, **{name: check(name, getattr(self, name))})


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Constant(Checked):
    """Hold `lr` at every step.

    ::

        s(t) = lr

    Parameters
    ----------
    lr : float
        The rate, finite and >= 0.

    References
    ----------
    Optax's ``constant_schedule``: the rate of plain stochastic gradient descent.

    Examples
    --------
    >>> Constant(0.1)(0), Constant(0.1)(1_000_000)
    (0.1, 0.1)
    >>> as_schedule(0.1)
    Constant(lr=0.1)
    """

    lr: float
    _checks: ClassVar = {"lr": nonnegative_float32}

    def _value(self, t: int) -> float:  # noqa: ARG002
        return self.lr


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Function(Schedule):
    """Call a function. Any callable is accepted wherever a schedule is, and becomes one of these.

    ::

        s(t) = fn(t)

    It has no dictionary form, and pickles only when `fn` does.

    Parameters
    ----------
    fn : callable
        Takes the number of steps already taken and returns a rate.

    References
    ----------
    Optax's schedules are such callables; PyTorch's ``LambdaLR`` multiplies the optimizer's rate by what one gives.

    Examples
    --------
    >>> rates = Function(lambda t: 0.1 / (1 + t))
    >>> rates(0), rates(1), rates(3)
    (0.1, 0.05, 0.025)
    """

    fn: Callable[[int], float]
    _holds_callable: ClassVar = True

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise TypeError(f"fn: expected a callable, got {type(self.fn).__name__}")

    def _value(self, t: int) -> float:
        return as_rate(self.fn(t), t)

    def __repr__(self) -> str:
        return f"Function({getattr(self.fn, '__qualname__', repr(self.fn))})"


Rate: TypeAlias = float | Schedule | Callable[[int], float]
"""What an optimizer takes as its learning rate."""


def as_schedule(lr: Rate) -> Schedule:
    """Return a schedule for whatever is accepted as a learning rate: a number, a schedule or a callable."""
    if isinstance(lr, Schedule):
        return lr
    if isinstance(lr, type):
        raise TypeError(
            f"lr: expected a number, a schedule or a callable, got the class {lr.__name__} itself"
        )
    if callable(lr):
        return Function(lr)
    try:
        return Constant(lr)
    except TypeError:
        message = f"lr: expected a number, a schedule or a callable, got {type(lr).__name__}"
        raise TypeError(message) from None


def rate_or_schedule(name: str, value: Any) -> float | Schedule:
    """Check a rate or a schedule; a callable becomes a schedule."""
    return as_schedule(value) if callable(value) else rate(name, value)


def factor_or_schedule(value: Any) -> float | Schedule:
    """Check a factor or a schedule; a callable becomes a schedule."""
    return as_schedule(value) if callable(value) else nonnegative("factor", value)


@explain_keywords
def from_dict(dictionary: Mapping[str, Any]) -> Schedule:
    """Make the schedule that `Schedule.to_dict` described.

    Raises
    ------
    TypeError, ValueError
        When it is no dictionary, names no schedule, or has arguments that it does not take or that are out of range.
    """
    schedule: Schedule = _dictionary.decode(dictionary)
    return schedule


# ---- made from other schedules, any number of times; those of one kind become one when they are made


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Sequence(Composed, Schedule):
    """Follow one schedule after another, each with a clock of its own from 0.

    ::

        s(t) = s_i(t - t_i)

    Part i is the one that t is in, and ``t_i`` its first step.

    Parameters
    ----------
    parts : sequence of (schedule, int), the last a schedule alone
        The schedules, which may be numbers, and how many steps each but the last lasts.

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
    _ends: list[int] = dataclasses.field(init=False, repr=False, compare=False)

    _in_text: ClassVar = True

    def __post_init__(self) -> None:
        if not sequence("parts", self.parts):
            raise ValueError("parts: expected at least one schedule")
        try:
            *pairs, last = self.parts
            checked: list[Any] = [(schedule, steps) for schedule, steps in pairs]
        except (TypeError, ValueError):
            message = f"parts: expected pairs of a schedule and a length, and a schedule at last, got {self.parts!r}"
            raise TypeError(message) from None
        checked = [(_part(schedule), num_steps("parts", steps)) for schedule, steps in checked]
        schedules = (*(schedule for schedule, _ in checked), _part(last))
        ends = [*itertools.accumulate(steps for _, steps in checked)]
        set_fields(self, parts=(*checked, schedules[-1]), _ends=ends)
        self._consist_of(*schedules)
        if len(schedules) == 2 and any(type(each) is Sequence for each in schedules):
            vars(self).update(vars(joined(schedules[0], ends[0], schedules[1])))  # as `then` makes it

    def _asked(self, t: int) -> tuple[Schedule, int]:
        part = bisect_right(self._ends, t)
        return self._children[part], t - self._ends[part - 1] if part else t

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


class _Parts(NamedTuple):
    """The parts of a sequence, the schedules alone, and the steps at which all but the last end."""

    parts: tuple[Any, ...]
    schedules: tuple[Schedule, ...]
    ends: list[int]
    extent: Extent

    @classmethod
    def of(cls, schedule: Any, take_apart: bool) -> _Parts:
        """Return the parts of a sequence that may be taken apart, or a schedule as the only part."""
        if take_apart and type(schedule) is Sequence:
            return cls(schedule.parts, schedule._children, schedule._ends, schedule._extent_below())  # type: ignore[arg-type]
        return cls((schedule,), (schedule,), [], extent_of(schedule))


def joined(first: Schedule, at: int, other: Rate) -> Sequence:
    """Return the sequence of two schedules, the second of which begins at step `at`. Either may be a sequence itself."""
    following = _part(other)
    # Parts that are never asked stay, since they may have a state.
    before = _Parts.of(first, not (isinstance(first, Sequence) and first._ends and first._ends[-1] >= at))
    # Sequences that are joined to themselves time and again would grow exponentially.
    grows = len(before.schedules) > 1 and not {*map(id, following._children)}.isdisjoint(
        map(id, before.schedules)
    )
    after = _Parts.of(following, not grows)
    begin = before.ends[-1] if before.ends else 0
    sequence = object.__new__(Sequence)
    set_fields(
        sequence,
        parts=(*before.parts[:-1], (before.parts[-1], at - begin), *after.parts),
        _ends=[*before.ends, at, *(at + end for end in after.ends)],
    )
    sequence._consist_of(*before.schedules, *after.schedules, among=(before.extent, after.extent))
    return sequence


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class _Around(Composed, Checked):
    """A schedule around another."""

    inner: Schedule

    _in_text: ClassVar = False  # texts have the methods

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Schedule):  # which a dictionary may say wrong
            raise TypeError(f"inner: expected a schedule, got {type(self.inner).__name__}")
        super().__post_init__()
        self._consist_of(self.inner)

    def _merge(self, **arguments: Any) -> None:
        """Become one with the inner schedule, which is of the same kind."""
        set_fields(self, inner=self._children[0]._children[0], **arguments)
        self._consist_of(self.inner)

    def _code(self) -> Steps:
        code = yield code_of(self.inner)
        return _operand(self.inner, code) + self._operation()

    def _operation(self) -> str:
        """Return the code that follows that of the inner schedule."""
        raise NotImplementedError


def _operand(schedule: Schedule, code: str) -> str:
    """Return the code of a schedule, in parentheses if a method or an operator cannot follow it otherwise."""
    return f"({code})" if isinstance(schedule, Product) else code


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Warmup(_Around):
    """A ramp before a schedule: `Schedule.warmup`."""

    steps: int
    start: float | None = None

    _checks: ClassVar = {"steps": num_steps_or_zero, "start": optional(rate)}

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


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Product(_Around):
    """A schedule times numbers or other schedules, from left to right: ``schedule * other``."""

    factors: Iterable[Rate]

    def __post_init__(self) -> None:
        super().__post_init__()
        factors = tuple(factor_or_schedule(each) for each in sequence("factors", self.factors))
        if not factors:
            raise ValueError("factors: expected at least one")
        self._multiply(self.inner, factors)

    def _multiply(self, schedule: Schedule, factors: tuple[Any, ...]) -> None:
        """Become the product of a schedule, which may be a product, and of checked factors."""
        added = [each for each in factors if isinstance(each, Schedule)]
        if type(schedule) is Product:
            set_fields(self, inner=schedule.inner, factors=(*schedule.factors, *factors))
            extents = (schedule._extent_below(), *map(extent_of, added))
            self._consist_of(*schedule._children, *added, among=extents)
        else:
            set_fields(self, inner=schedule, factors=factors)
            self._consist_of(schedule, *added)

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
    """Return the product of a schedule, which may be a product itself, and a checked factor."""
    if isinstance(factor, Schedule) and height_of(factor) > max(TALL, height_of(schedule)):
        schedule, factor = factor, schedule  # the same bits; the inner schedule's levels take no stack
    product = object.__new__(Product)
    product._multiply(schedule, (factor,))
    return product


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Clip(_Around):
    """A schedule within bounds: `Schedule.clip`."""

    low: float
    high: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low: expected at most high = {self.high}, got {self.low}")
        if type(self.inner) is Clip:
            low, high = self._changed(self.inner.low, 0), self._changed(self.inner.high, 0)
            self._merge(low=low, high=high)

    def _changed(self, rate: float, t: int) -> float:  # noqa: ARG002
        return min(max(self.low, rate), self.high)

    def _operation(self) -> str:
        return f".clip({self.low!r}, {self.high!r})"


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Shift(_Around):
    """A schedule as it is later: `Schedule.shift`."""

    n: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.inner) is Shift and (total := self.inner.n + self.n) < _END:
            self._merge(n=total)

    def _asked(self, t: int) -> tuple[Schedule, int]:
        return self.inner, t + self.n

    def _operation(self) -> str:
        return f".shift({self.n!r})"


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class PerEpoch(_Around):
    """A schedule of epochs: `Schedule.per_epoch`."""

    steps_per_epoch: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            type(self.inner) is PerEpoch
            and (product := self.inner.steps_per_epoch * self.steps_per_epoch) < _END
        ):
            self._merge(steps_per_epoch=product)

    def _asked(self, t: int) -> tuple[Schedule, int]:
        return self.inner, t // self.steps_per_epoch

    def _operation(self) -> str:
        return f".per_epoch({self.steps_per_epoch!r})"
