"""The settings of an optimizer and of its groups, as immutable values that replace one another.

The core holds the settings together with the numbers that its steps use, so that the two always agree.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lrcore._checks import flag, nonnegative
from lrcore.optimizers._changing import Part, mapped, parts_of, value_at
from lrcore.schedules import Constant, Schedule
from lrcore.schedules._state import Restored, chosen


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


class Settings(NamedTuple):
    """The numeric arguments of an optimizer, which may be schedules, and the settings of its groups, the rest first."""

    hyper: dict[str, Any]
    groups: tuple[GroupSettings, ...] = (GroupSettings(),)

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
        """Return the schedules of the optimizer's numbers, and then each group's own rate and those of its numbers."""
        return self._parts(Schedule)

    def restored(self) -> list[Restored]:
        """Return the `Restored` in place of schedules, in the same order."""
        return self._parts(Restored)

    def _parts(self, kind: type[Any]) -> list[Any]:
        values = [*self.hyper.values()]
        for group in self.groups:
            values += (group.schedule, *group.hyper.values())
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
    return schedules[0], Settings(settled_numbers(settings.hyper), groups), to_set


def prefix_of(group: int) -> str:
    """Return what precedes the names of a group's arguments in messages; nothing for the optimizer's, at index -1."""
    return "" if group < 0 else f"opt.groups[{group}]."


CHECKS = {"lr_scale": nonnegative, "frozen": flag, "maximize": flag}
"""The checks of a group's settings that are neither hyperparameters nor rates."""
