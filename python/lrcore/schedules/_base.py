"""The base class of all schedules, and the schedules that its methods return."""

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
"""Step numbers are below this."""


@explain_attributes("step", "get_last_lr", "last_epoch", "num_bad_epochs")
class Schedule(Formula):
    """The base class of all schedules.

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
        """Return this schedule for t < at, followed by `other`, whose own t starts at 0."""
        return joined(self, num_steps("at", at), other)

    @explain_keywords
    def warmup(self, steps: int, start: float | None = None) -> Schedule:
        """Return a ramp of `steps` steps up to the first rate of this schedule, followed by this schedule from t = 0.

        At step t of the ramp, the rate is ``(t + 1) / steps`` times that first rate. No step is wasted at rate 0, and
        both the last step of the ramp and the first step of this schedule have the full rate. With `start`, the ramp
        is ``start + (rate - start) t / steps``.

        References
        ----------
        Goyal et al. 2017, "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", section 2.2.
        """
        return Warmup(self, steps, start)

    def __mul__(self, other: Rate) -> Schedule:
        """Return the product of this schedule and a number or another schedule."""
        return multiplied(self, factor_or_schedule(other))

    __rmul__ = __mul__

    @explain_keywords
    def clip(self, low: float, high: float) -> Schedule:
        """Return this schedule with its rates limited to the range from `low` to `high`."""
        return Clip(self, low, high)

    @explain_keywords
    def shift(self, n: int) -> Schedule:
        """Return this schedule advanced by `n` steps: the rate at t is this schedule's rate at ``t + n``."""
        return Shift(self, n)

    @explain_keywords
    def per_epoch(self, steps_per_epoch: int) -> Schedule:
        """Return a per-step schedule that calls this per-epoch schedule with ``t // steps_per_epoch``."""
        return PerEpoch(self, steps_per_epoch)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary that `from_dict` turns back into this schedule.

        A `Plateau` that occurs in several places becomes a single object again. However deeply a schedule is
        composed, the depth of the dictionary is limited, so that it can be stored as JSON.

        Raises
        ------
        TypeError
            If the schedule contains a callable, or a schedule whose class is not part of `lrcore.schedules`.
        ValueError
            If there are more than a million nested schedules, counting each occurrence.
        """
        return _dictionary.encode(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as a dictionary.

        It has a list `states` if the schedule contains a `Plateau`, and is empty otherwise.
        """
        states = states_of(self)
        return {"states": states} if states else {}

    @explain_keywords
    def load_state_dict(self, dictionary: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Raises
        ------
        TypeError, ValueError
            If an entry is missing, unknown or wrong. The schedule is then unchanged.
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
"""The check of each argument whose name means the same in every schedule."""


class Checked(Schedule):
    """A schedule whose constructor checks its arguments by their names."""

    _in_text: ClassVar = True
    _checks: ClassVar[Mapping[str, Check]] = {}
    """The checks of arguments that have another meaning in this class, or that only this class has."""

    def __post_init__(self) -> None:
        for name in argument_names(type(self)):
            check = self._checks.get(name) or _CHECKS.get(name)
            if check is not None:
                set_fields(self, **{name: check(name, getattr(self, name))})


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False)
class Constant(Checked):
    """Use the rate `lr` at every step.

    ::

        s(t) = lr

    Parameters
    ----------
    lr : float
        The rate; finite and >= 0.

    References
    ----------
    Optax's ``constant_schedule``. Plain stochastic gradient descent uses a constant rate.

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
    """Call a function. A callable that is passed where a schedule is expected becomes a `Function`.

    ::

        s(t) = fn(t)

    A `Function` has no dictionary form, and can be pickled only if `fn` can.

    Parameters
    ----------
    fn : callable
        A function that takes the number of steps already taken and returns the rate.

    References
    ----------
    Optax's schedules are callables of this kind. PyTorch's ``LambdaLR`` multiplies the optimizer's rate by the value
    that its callable returns.

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
"""The types that an optimizer accepts as its learning rate."""


def as_schedule(lr: Rate) -> Schedule:
    """Return the schedule for a learning rate, which may be a number, a schedule or a callable."""
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
    """Check a rate or a schedule. A callable is converted to a schedule."""
    return as_schedule(value) if callable(value) else rate(name, value)


def factor_or_schedule(value: Any) -> float | Schedule:
    """Check a factor or a schedule. A callable is converted to a schedule."""
    return as_schedule(value) if callable(value) else nonnegative("factor", value)


@explain_keywords
def from_dict(dictionary: Mapping[str, Any]) -> Schedule:
    """Return the schedule described by a dictionary from `Schedule.to_dict`.

    Raises
    ------
    TypeError, ValueError
        If the argument is not a dictionary, does not name a schedule, or has entries that are unknown or out
        of range.
    """
    schedule: Schedule = _dictionary.decode(dictionary)
    return schedule


# ---- compositions, to any depth; nested compositions of the same kind are merged when they are made


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Sequence(Composed, Schedule):
    """Run one schedule after another. The t of each part starts at 0.

    ::

        s(t) = s_i(t - t_i)

    Part i is the part that contains t, and ``t_i`` is its first step.

    Parameters
    ----------
    parts : sequence of (schedule, int), ending with a schedule alone
        The parts in order. Each part except the last is a pair of a schedule and its number of steps. A number or a
        callable is also accepted as a schedule.

    References
    ----------
    PyTorch's ``SequentialLR`` and optax's ``join_schedules``, which take the step at which each part after the first
    begins instead of the lengths of the parts.

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
            message = (
                "parts: expected pairs of a schedule and a number of steps, ending with a schedule alone, "
                f"got {self.parts!r}"
            )
            raise TypeError(message) from None
        checked = [(_part(schedule), num_steps("parts", steps)) for schedule, steps in checked]
        schedules = (*(schedule for schedule, _ in checked), _part(last))
        ends = [*itertools.accumulate(steps for _, steps in checked)]
        set_fields(self, parts=(*checked, schedules[-1]), _ends=ends)
        self._consist_of(*schedules)
        if len(schedules) == 2 and any(type(each) is Sequence for each in schedules):
            vars(self).update(vars(joined(schedules[0], ends[0], schedules[1])))  # merge as `then` does

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
    """Return the schedule of a part of a sequence."""
    try:
        return as_schedule(value)
    except TypeError as error:
        raise TypeError(f"parts: {error}") from None


class _Parts(NamedTuple):
    """The parts of a sequence, their schedules, and the steps at which all parts except the last end."""

    parts: tuple[Any, ...]
    schedules: tuple[Schedule, ...]
    ends: list[int]
    extent: Extent

    @classmethod
    def of(cls, schedule: Any, take_apart: bool) -> _Parts:
        """Return the parts of a sequence if `take_apart` is true, else the schedule as the only part."""
        if take_apart and type(schedule) is Sequence:
            return cls(schedule.parts, schedule._children, schedule._ends, schedule._extent_below())  # type: ignore[arg-type]
        return cls((schedule,), (schedule,), [], extent_of(schedule))


def joined(first: Schedule, at: int, other: Rate) -> Sequence:
    """Return a sequence of two schedules. The second begins at step `at`; either may itself be a sequence."""
    following = _part(other)
    # Parts that are never reached are kept, because they may have a state.
    before = _Parts.of(first, not (isinstance(first, Sequence) and first._ends and first._ends[-1] >= at))
    # If its parts were merged, a sequence that is repeatedly joined to itself would grow exponentially.
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
    """A schedule that wraps another one."""

    inner: Schedule

    _in_text: ClassVar = False  # in text, it is written as a method call

    def __post_init__(self) -> None:
        if not isinstance(self.inner, Schedule):  # the argument may come from `from_dict`
            raise TypeError(f"inner: expected a schedule, got {type(self.inner).__name__}")
        super().__post_init__()
        self._consist_of(self.inner)

    def _merge(self, **arguments: Any) -> None:
        """Merge with the inner schedule, which is of the same class."""
        set_fields(self, inner=self._children[0]._children[0], **arguments)
        self._consist_of(self.inner)

    def _code(self) -> Steps:
        code = yield code_of(self.inner)
        return _operand(self.inner, code) + self._operation()

    def _operation(self) -> str:
        """Return the code that follows the code of the inner schedule."""
        raise NotImplementedError


def _operand(schedule: Schedule, code: str) -> str:
    """Return the code of a schedule, in parentheses if a method or an operator could not follow it otherwise."""
    return f"({code})" if isinstance(schedule, Product) else code


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Warmup(_Around):
    """A ramp followed by a schedule, as returned by `Schedule.warmup`."""

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
    """A schedule multiplied from left to right by numbers or other schedules: ``schedule * other``."""

    factors: Iterable[Rate]

    def __post_init__(self) -> None:
        super().__post_init__()
        factors = tuple(factor_or_schedule(each) for each in sequence("factors", self.factors))
        if not factors:
            raise ValueError("factors: expected at least one")
        self._multiply(self.inner, factors)

    def _multiply(self, schedule: Schedule, factors: tuple[Any, ...]) -> None:
        """Set the fields for the product of a schedule and checked factors. The schedule may be a product, too."""
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
    """Return the product of a schedule, which may itself be a product, and a checked factor."""
    if isinstance(factor, Schedule) and height_of(factor) > max(TALL, height_of(schedule)):
        # The order does not affect the result, but only the inner schedule is evaluated without recursion.
        schedule, factor = factor, schedule
    product = object.__new__(Product)
    product._multiply(schedule, (factor,))
    return product


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Clip(_Around):
    """A schedule limited to a range, as returned by `Schedule.clip`."""

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
    """A schedule advanced by `n` steps, as returned by `Schedule.shift`."""

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
    """A per-epoch schedule that is called with step numbers, as returned by `Schedule.per_epoch`."""

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
