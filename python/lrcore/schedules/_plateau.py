"""The schedule that reduces the rate when a metric stops improving."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeAlias, cast, get_args

from lrcore._checks import integer, nonnegative, one_of, rate, require_entries, sequence
from lrcore._lrcore_core import to_float
from lrcore._names import explain_keywords
from lrcore.schedules._base import Checked, Rate, Schedule, rate_or_schedule
from lrcore.schedules._composed import Composed
from lrcore.schedules._formula import set_fields
from lrcore.schedules._state import stateful

_count = functools.partial(integer, least=0)

Mode: TypeAlias = Literal["min", "max"]
ThresholdMode: TypeAlias = Literal["rel", "abs"]
Statistic: TypeAlias = Literal["best", "mean"]
NanPolicy: TypeAlias = Literal["error", "bad"]


class _Seen(NamedTuple):
    """The state after the observations so far."""

    reductions: int = 0
    best: float | None = None
    bad: int = 0
    """Number of consecutive observations without improvement."""
    cooldown: int = 0
    """Number of upcoming observations that will not be counted."""
    recent: tuple[float, ...] = ()
    """The most recent metrics, for their mean."""


class _State:
    """A state in a history, and a cell for the next state, which is written once."""

    __slots__ = ("following", "seen")

    def __init__(self, seen: _Seen) -> None:
        self.seen = seen
        self.following: dict[str, _State] = {}


class _History:
    """The successive states of a Plateau, as a linked list.

    One atomic operation on the last state appends the next one, so no lock is needed. Earlier states are not kept.
    """

    __slots__ = ("_last",)

    def __init__(self, seen: _Seen) -> None:
        self._last = _State(seen)

    def last(self) -> _State:
        """Return the last state."""
        state = self._last
        while state.following:
            self._last = state = state.following["state"]
        return state

    def append(self, follow: Callable[[_Seen], _Seen]) -> None:
        """Append the state that `follow` returns for the last state."""
        while True:
            last = self.last()
            state = _State(follow(last.seen))
            if last.following.setdefault("state", state) is state:
                return  # otherwise another thread or a signal handler was faster


@explain_keywords
@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Plateau(Composed, Checked):
    """Reduce the rate when a metric has stopped improving.

    ::

        s(t) = max(lr(t) factor^k, min(min_lr, lr(t)))

    k is the number of reductions so far.

    Call `observe` after each evaluation. An observation is an improvement if it is better than the best one so far by
    more than the threshold. The first observation that is not NaN always counts as an improvement, and so does any
    finite observation if the best is infinite. More than `patience` observations in a row without improvement cause a
    reduction.

    `Plateau` is the only schedule with a state. Equality, `repr` and `to_dict` depend only on the arguments;
    the state is in `state_dict`, and also in the optimizer's `state_dict`. `Plateau` is thread-safe: threads
    and signal handlers may call it and its `observe` concurrently. Each observation is counted once, and
    there is no lock to wait for.

    Parameters
    ----------
    lr : float, schedule or callable
        The rate to reduce. ``Plateau(Constant(0.1).warmup(100))`` warms up first.
    factor : float
        Factor by which a reduction multiplies the rate, between 0 and 1.
    patience : int
        Number of consecutive observations without improvement that are tolerated.
    mode : {"min", "max"}
        Whether smaller or larger metrics are better.
    threshold : float
        The margin by which an improvement must be better than the best metric so far.
    threshold_mode : {"rel", "abs"}
        Whether the margin is ``threshold * |best|``, also for negative metrics, or `threshold` itself.
    cooldown : int
        Number of observations after a reduction that are not counted. They may still set a new best.
    min_lr : float
        Lower limit for reductions. If `lr` itself is lower, reductions have no effect.
    statistic : {"best", "mean"}
        Whether an observation is each metric itself or the mean of the last `window` metrics. The mean is not counted
        until there are `window` metrics.
    window : int
        Number of metrics in the mean. Only used if `statistic` is "mean".
    nan : {"error", "bad"}
        Whether a NaN metric raises ValueError, or counts as no improvement and is left out of the mean.

    References
    ----------
    He et al. 2016, "Deep Residual Learning for Image Recognition", section 3.4, divides the rate by 10 at a
    plateau of the error. The arguments are named as in PyTorch's ``ReduceLROnPlateau``.

    Examples
    --------
    >>> plateau = Plateau(0.1, factor=0.5, patience=1)
    >>> for loss in (3.0, 2.0, 2.0, 2.5):
    ...     plateau.observe(loss)
    >>> plateau(0), plateau.reductions
    (0.05, 1)
    """

    lr: Rate
    factor: float = 0.1
    patience: int = 10
    mode: Mode = "min"
    threshold: float = 1e-4
    threshold_mode: ThresholdMode = "rel"
    cooldown: int = 0
    min_lr: float = 0.0
    statistic: Statistic = "best"
    window: int = 1
    nan: NanPolicy = "error"
    _history: _History = dataclasses.field(init=False, repr=False, compare=False)

    _has_state: ClassVar = True
    _checks: ClassVar = {
        "lr": rate_or_schedule,
        "patience": _count,
        "mode": one_of(*get_args(Mode)),
        "threshold": nonnegative,
        "threshold_mode": one_of(*get_args(ThresholdMode)),
        "cooldown": _count,
        "min_lr": rate,
        "statistic": one_of(*get_args(Statistic)),
        "window": integer,
        "nan": one_of(*get_args(NanPolicy)),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        set_fields(self, _history=_History(_Seen()))
        self._consist_of(*(each for each in (self.lr,) if isinstance(each, Schedule)))
        if self.factor >= 1:
            raise ValueError(f"factor: expected a number between 0 and 1, got {self.factor}")
        if self.window != 1 and self.statistic != "mean":
            raise ValueError(f"window: has no effect with statistic {self.statistic!r}; leave it out")

    def _value(self, t: int) -> float:
        return super()._value(t) if self._children else self._changed(cast(float, self.lr), t)

    def _changed(self, rate: float, t: int) -> float:  # noqa: ARG002
        reduced: float = rate * self.factor**self._seen.reductions
        return max(reduced, min(self.min_lr, rate))

    @property
    def _seen(self) -> _Seen:
        return self._history.last().seen

    @property
    def reductions(self) -> int:
        """The number of reductions so far."""
        return self._seen.reductions

    @explain_keywords
    def observe(self, metric: float) -> None:
        """Record the metric of an evaluation, such as a loss.

        Raises
        ------
        TypeError, ValueError
            If `metric` is not a number, or is NaN while `nan` is "error". The state is then unchanged.
        """
        value = to_float("metric", metric)
        if math.isnan(value) and self.nan == "error":
            raise ValueError(
                'metric: expected a number, got nan; use nan="bad" to count it as no improvement'
            )
        self._history.append(lambda seen: self._after(seen, value))

    def _after(self, seen: _Seen, value: float) -> _Seen:
        """Return the state that follows `seen` after a metric."""
        if self.statistic == "mean":
            if not math.isnan(value):
                seen = seen._replace(recent=(*seen.recent, value)[-self.window :])
                value = sum(seen.recent) / self.window
            if len(seen.recent) < self.window:
                return seen
        return self._counted(seen, value)

    def _counted(self, seen: _Seen, value: float) -> _Seen:
        """Return the state after an observation, which is not counted if a cooldown is in progress."""
        bad = seen.bad + 1
        if self._improves(value, seen.best):
            seen, bad = seen._replace(best=value), 0
        if seen.cooldown:
            return seen._replace(cooldown=seen.cooldown - 1, bad=0)
        if bad > self.patience:
            return seen._replace(reductions=seen.reductions + 1, cooldown=self.cooldown, bad=0)
        return seen._replace(bad=bad)

    def _improves(self, value: float, best: float | None) -> bool:
        if best is None:
            return not math.isnan(value)
        if math.isinf(best) and math.isfinite(value):
            return True
        relative = self.threshold_mode == "rel" and math.isfinite(best)  # inf - inf would be NaN
        margin = self.threshold * abs(best) if relative else self.threshold
        return value < best - margin if self.mode == "min" else value > best + margin

    def state_dict(self) -> dict[str, Any]:
        """Return the state as a JSON-safe dictionary, in which infinite metrics are strings."""
        seen = self._seen
        best = None if seen.best is None else _encoded(seen.best)
        return seen._asdict() | {"best": best, "recent": [_encoded(each) for each in seen.recent]}

    @explain_keywords
    def load_state_dict(self, dictionary: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned.

        Raises
        ------
        TypeError, ValueError
            If an entry is missing, unknown or wrong. The state is then unchanged.
        """
        object.__setattr__(*self._to_set(dictionary))

    def _to_set(self, dictionary: Any) -> tuple[Plateau, str, _History]:
        """Check a state; return the object, attribute and value of the assignment that restores it."""
        require_entries("plateau", dictionary, _Seen._fields)
        counts = {name: _count(name, dictionary[name]) for name in ("reductions", "bad", "cooldown")}
        best = dictionary["best"]
        recent = tuple(_decoded("recent", each) for each in sequence("recent", dictionary["recent"]))
        most = self.window if self.statistic == "mean" else 0
        if len(recent) > most:
            raise ValueError(f"recent: expected at most {most} metrics, got {len(recent)}")
        seen = _Seen(best=None if best is None else _decoded("best", best), recent=recent, **counts)
        return self, "_history", _History(seen)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_history": self._seen}

    def __setstate__(self, state: dict[str, Any]) -> None:
        set_fields(self, **state | {"_history": _History(state["_history"])})


def _encoded(metric: float) -> float | str:
    """Return a metric in a form that strict JSON allows."""
    return str(metric) if math.isinf(metric) else metric


def _decoded(name: str, value: Any) -> float:
    """Decode a metric that `_encoded` has encoded."""
    metric = float(value) if value in ("inf", "-inf") else to_float(name, value)
    if math.isnan(metric):
        raise ValueError(f"{name}: expected a number, got nan")
    return metric


class _Scheduled(Protocol):
    """An optimizer, whose groups may have schedules of their own."""

    def _all_schedules(self) -> list[Schedule]: ...


@explain_keywords
def plateaus(schedule: Schedule | _Scheduled) -> list[Plateau]:
    """Return each distinct `Plateau` in a schedule, or in the schedules of an optimizer and of its groups.

    Use it to call `Plateau.observe` on each of them. A `Plateau` that occurs in several places is listed once, and
    should observe each metric once. It remains a single object in copies, dictionaries and files. A `Plateau` inside a
    callable is not found.

    Parameters
    ----------
    schedule : Schedule or Optimizer
        A schedule, whose plateaus are listed in the order of its repr, or an optimizer: first the plateaus of
        ``opt.schedule``, then those of the groups with a rate of their own, including frozen groups. The wrappers of
        optimizers of accelerate and Lightning, which have an attribute `optimizer`, are accepted.

    Raises
    ------
    TypeError
        If `schedule` is neither.

    Examples
    --------
    >>> schedule = Plateau(0.1).warmup(10) * 0.5
    >>> plateaus(schedule)
    [Plateau(lr=0.1)]
    >>> params = numpy.zeros(5, numpy.float32)
    >>> opt = lrcore.SGD(params, lr=schedule, groups=[{"params": (0, 2), "lr": Plateau(0.2)}])
    >>> plateaus(opt)
    [Plateau(lr=0.1), Plateau(lr=0.2)]
    """
    inner = getattr(schedule, "optimizer", schedule)
    if isinstance(inner, Schedule):
        every = [inner]
    elif hasattr(type(inner), "_all_schedules"):
        every = inner._all_schedules()
    else:
        raise TypeError(f"schedule: expected a schedule or an optimizer, got {type(schedule).__name__}")
    found = {id(each): each for one in every for each in stateful(one)}
    return [each for each in found.values() if isinstance(each, Plateau)]
