"""The settings of an optimizer and of its groups, as immutable values that replace one another.

The core holds the settings together with the numbers that its steps use, so that the two always agree.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lrcore._checks import flag, integer, nonnegative
from lrcore.optimizers import _arguments
from lrcore.optimizers._changing import Part, mapped, parts_of, restored, stored, value_at
from lrcore.schedules import Constant, Schedule
from lrcore.schedules._state import Restored, chosen

if TYPE_CHECKING:
    from lrcore._lrcore_core import Stepper, _Rate, _Settings


class Change(NamedTuple):
    """A change to an optimizer, for `commit`: the new values, or None for those that stay."""

    optimizer: Stepper
    states: Sequence[Any] | None = None
    step_count: int | None = None
    counts: Sequence[tuple[int, int, int]] = ()
    """The ranges of the elements that have taken another number of steps than the optimizer, with that number."""
    settings: _Settings | None = None
    rate: _Rate | None = None
    params: Any = None
    skipped_steps: int | None = None


def shown_rate(schedule: Schedule) -> Schedule | float:
    """Return what a repr shows of a rate: the number if it is constant, else the schedule."""
    return schedule.lr if type(schedule) is Constant else schedule


class GroupSettings(NamedTuple):
    """The settings that a group has of its own. Missing numbers, and None, stand for the optimizer's values."""

    hyper: Mapping[str, Any] = {}
    maximize: bool | None = None
    schedule: Schedule | None = None
    lr_scale: float = 1.0
    frozen: bool = False


class WholeSettings(NamedTuple):
    """The settings of the whole optimizer that are not numbers of its rule."""

    max_norm: float | Schedule | None = None
    skip_nonfinite: bool | int = False
    ema: float | Schedule | None = None

    def for_core(self) -> tuple[float | None, int, float | None]:
        """Return these settings in the form of the core, with NaN in place of a schedule."""
        max_norm = math.nan if isinstance(self.max_norm, Schedule) else self.max_norm
        ema = math.nan if isinstance(self.ema, Schedule) else self.ema
        patience = _arguments.MOST_SKIPS if self.skip_nonfinite is True else int(self.skip_nonfinite)
        return max_norm, patience, ema

    def numbers(self) -> tuple[Any, Any]:
        """Return the values that can be schedules."""
        return self.max_norm, self.ema

    def mapped(self, change: Callable[[Any], Any]) -> WholeSettings:
        """Return these settings with `change` applied to the values that can be schedules."""
        return self._replace(max_norm=change(self.max_norm), ema=change(self.ema))


class Settings(NamedTuple):
    """The settings of an optimizer: its numeric arguments, which may be schedules, its groups, the rest first, and others."""

    hyper: dict[str, Any]
    groups: tuple[GroupSettings, ...] = (GroupSettings(),)
    whole: WholeSettings = WholeSettings()

    def numbers(self) -> list[dict[str, Any]]:
        """Return the numeric arguments that act in each group."""
        return [self.hyper | dict(group.hyper) for group in self.groups]

    def at(self, t: int) -> Settings:
        """Return these settings with the numbers of the step after `t` steps in place of schedules."""
        return self._replace(
            hyper={name: value_at(name, value, t) for name, value in self.hyper.items()},
            groups=tuple(
                group._replace(
                    hyper={
                        name: value_at(name, value, t, prefix_of(i)) for name, value in group.hyper.items()
                    }
                )
                for i, group in enumerate(self.groups)
            ),
        )

    def schedules(self) -> list[Schedule]:
        """Return the schedules of the optimizer's numbers, then each group's own rate and those of its numbers.

        The schedules of the largest norm and of the decay of the average are the last ones.
        """
        return self._parts(Schedule)

    def restored(self) -> list[Restored]:
        """Return the `Restored` in place of schedules, in the same order."""
        return self._parts(Restored)

    def _parts(self, kind: type[Any]) -> list[Any]:
        values = [*self.hyper.values()]
        for group in self.groups:
            values += (group.schedule, *group.hyper.values())
        values += self.whole.numbers()
        parts = itertools.chain.from_iterable(each if isinstance(each, tuple) else (each,) for each in values)
        return [each for each in parts if isinstance(each, kind)]

    def changing(self) -> Iterator[tuple[Part, list[int]]]:
        """Yield each number that changes from step to step, with the indices of the groups that take it."""
        for i, hyper in enumerate([self.hyper, *(group.hyper for group in self.groups)], -1):
            for name, value in hyper.items():
                # A short way for most numbers: an assignment is retried if another one intrudes.
                if type(value) is float:
                    continue
                without = [j for j, group in enumerate(self.groups) if name not in group.hyper]
                for part in parts_of(name, value, prefix_of(i)):
                    if isinstance(part.value, Schedule):
                        yield part, without if i < 0 else [i]

    def with_group(self, group: int, **changes: Any) -> Settings:
        """Return these settings with some of a group's settings replaced."""
        groups = [*self.groups]
        groups[group] = groups[group]._replace(**changes)
        return self._replace(groups=tuple(groups))


def settled(rate: Restored, settings: Settings) -> tuple[Schedule, Settings, list[tuple[Any, str, Any]]]:
    """Return the optimizer's schedule, the settings, and the attributes of plateaus to assign.

    Each `Restored` in the settings is replaced by a schedule.
    """
    every = [rate, *settings.restored()]
    schedules, to_set = chosen(every)
    found = dict(zip(map(id, every), schedules, strict=True))

    def settle(value: Any) -> Any:
        return mapped(value, lambda each: found.get(id(each), each))

    def settled_numbers(hyper: Mapping[str, Any]) -> dict[str, Any]:
        return {name: settle(value) for name, value in hyper.items()}

    groups = tuple(
        group._replace(hyper=settled_numbers(group.hyper), schedule=settle(group.schedule))
        for group in settings.groups
    )
    whole = settings.whole.mapped(settle)
    return schedules[0], Settings(settled_numbers(settings.hyper), groups, whole), to_set


AVERAGE = "ema"
"""The name of the average among the states."""


def checked_decay(own: WholeSettings, ema: Any) -> Any:
    """Check a new decay of the average of an optimizer with these settings; return it, or None if there is no average."""
    if (own.ema is None) != (ema is None):
        raise ValueError(
            "ema: an average of the parameters can be neither added nor removed; make a new optimizer, and load the state"
        )
    return _arguments.number_or_none("ema", ema)


WHOLE = WholeSettings._fields
"""The entries of a state dictionary that `stored_whole` returns."""


def stored_whole(whole: WholeSettings, numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return the settings as entries of a state dictionary, which JSON can hold. `numbers` is that of `stored`.

    `ema` is left out if there is no average.
    """
    # JSON has no infinity.
    max_norm = "inf" if whole.max_norm == math.inf else stored(whole.max_norm, numbers)
    entries = {"max_norm": max_norm, "skip_nonfinite": whole.skip_nonfinite}
    return entries if whole.ema is None else entries | {"ema": stored(whole.ema, numbers)}


def restored_whole(entries: Mapping[str, Any], own: WholeSettings, numbered: dict[int, Any]) -> WholeSettings:
    """Check the entries of `stored_whole`; return the settings with a `Restored` in place of a schedule.

    Entries that are missing, as earlier versions wrote none, are the optimizer's `own` settings.
    """
    max_norm, skip_nonfinite, ema = (entries.get(name, getattr(own, name)) for name in WHOLE)
    if max_norm == "inf":
        max_norm = math.inf
    elif "max_norm" in entries and max_norm is not None:
        max_norm = restored({"max_norm": max_norm}, {"max_norm": own.max_norm}, numbered)["max_norm"]
    if "ema" in entries:
        ema = restored({"ema": ema}, {"ema": own.ema}, numbered)["ema"]
    return WholeSettings(max_norm, _arguments.skipping(skip_nonfinite), ema)


def require_alike_averages(has_average: bool, stored: Any, own: Any) -> None:
    """Raise ValueError unless both the state to be loaded and the optimizer have an average, or neither has.

    `stored` and `own` are the decays of the two averages, or None.
    """
    if has_average and own is None:
        decay = stored if isinstance(stored, float) else 0.999
        raise ValueError(
            "ema: expected a state without an average of the parameters, got one with it; make the optimizer with "
            f"ema={decay}"
        )
    if own is not None and not has_average:
        raise ValueError(
            "ema: expected a state with an average of the parameters, got one without it; make the optimizer without ema"
        )


def restored_skips(entries: Mapping[str, Any]) -> int:
    """Check the number of skipped steps in a state dictionary; earlier versions wrote none."""
    skipped = integer("skipped_steps", entries.get("skipped_steps", 0), 0)
    if skipped >= 2**53:
        raise ValueError(f"skipped_steps: expected at most 2**53 - 1, got {skipped}")
    return skipped


def prefix_of(group: int) -> str:
    """Return what precedes the names of a group's arguments in messages; nothing for the optimizer's, at index -1."""
    return "" if group < 0 else f"opt.groups[{group}]."


CHECKS = {"lr_scale": nonnegative, "frozen": flag, "maximize": flag}
"""The checks of a group's settings that are neither hyperparameters nor rates."""
