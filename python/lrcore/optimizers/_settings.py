"""The settings of an optimizer and of its groups, as immutable values that replace one another.

The core holds the settings together with the numbers that its steps use, so that the two always agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from lrcore._checks import flag, nonnegative
from lrcore.optimizers._arguments import Value
from lrcore.schedules import Constant, Schedule


def shown_rate(schedule: Schedule) -> Schedule | float:
    """Return what a repr shows of a rate: the number if it is constant, else the schedule."""
    return schedule.lr if type(schedule) is Constant else schedule


class GroupSettings(NamedTuple):
    """The settings that a group has of its own. Missing numbers, and None, stand for the optimizer's values."""

    hyper: Mapping[str, Value] = {}
    maximize: bool | None = None
    schedule: Schedule | None = None
    lr_scale: float = 1.0
    frozen: bool = False


class Settings(NamedTuple):
    """The numeric arguments of an optimizer, and the settings of its groups, the rest first."""

    hyper: dict[str, Any]
    groups: tuple[GroupSettings, ...] = (GroupSettings(),)

    def numbers(self) -> list[dict[str, Any]]:
        """Return the numeric arguments that act in each group."""
        return [self.hyper | dict(group.hyper) for group in self.groups]

    def schedules(self) -> list[Schedule]:
        """Return the groups' own schedules."""
        return [each.schedule for each in self.groups if each.schedule is not None]

    def with_group(self, group: int, **changes: Any) -> Settings:
        """Return these settings with some of a group's settings replaced."""
        groups = [*self.groups]
        groups[group] = groups[group]._replace(**changes)
        return self._replace(groups=tuple(groups))


CHECKS = {"lr_scale": nonnegative, "frozen": flag, "maximize": flag}
"""The checks of a group's settings that are neither hyperparameters nor rates."""
