"""The parameter group of a `lrcore.torch.FusedOptimizer`: what is assigned there acts, and what acts is shown there."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from lrcore import schedules
from lrcore._checks import or_zero
from lrcore._extras import optional_dependency
from lrcore._lrcore_core import commit, to_float
from lrcore.optimizers import Optimizer, _arguments, _torch_state
from lrcore.schedules import Constant, Schedule

with optional_dependency("torch"):
    import torch


class Group:
    """The numbers of the optimizers of all devices, and the group of PyTorch that has them."""

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Sequence[Any]) -> None:
        self.optimizers, self.parameters = optimizers, parameters
        self.list: Any = []
        """The list of groups, which the caller may replace."""
        self.shown: dict[str, Any] = {}
        """What was last written into the group; nothing before there is one."""
        self.used = math.nan
        """The last rate that is known."""
        self._stamp = object()
        """Another after each write, by which those who compare notice one of a signal handler in between."""
        self._seen = self._adopted()

    def show(self) -> None:
        """Write into the group what has changed since, unless another number was assigned there."""
        if self.shown:
            with contextlib.suppress(ValueError):  # the step raises it
                self._refresh(self.only())
                self.show_rate()

    def show_all(self) -> None:
        """Write everything into the group."""
        self._write(self.only(), self._seen)

    def _write(self, group: dict[str, Any], seen: Any, *kept: str) -> None:
        """Write the numbers into the group, except those to keep there, and what they were read of.

        An interrupt comes before or after all of it, and what was not written is noticed later.
        """
        numbers = self.numbers()
        shown = {name: value for name, value in numbers.items() if name not in kept}
        commit([], [(self, "_seen", seen), self._stamped()], [(self.shown, numbers), (group, shown)])

    def _stamped(self) -> tuple[Group, str, object]:
        return self, "_stamp", object()

    def after_step(self) -> None:
        """Show the rate that follows, or the one that was used."""
        if self._asked.is_opaque:
            self.used = self._asked.rate
        self.show_rate()

    def set_rate(self, lr: Any) -> None:
        """Replace what gives the rate, and show it."""
        group = self.only()
        self.use(schedules.as_schedule(lr), group)
        if isinstance(lr, torch.Tensor):
            group["lr"] = lr  # to be read again

    def numbers(self) -> dict[str, Any]:
        """Return rate, hyperparameters and options, as a group has them."""
        first = self.optimizers[0]
        return {"lr": self.rate(), **first.hyper, **_torch_state.options_in_group(first._options)}

    def use(
        self, schedule: Schedule | None, group: dict[str, Any], changed: Mapping[str, Any] | None = None
    ) -> None:
        """Take the rates of all devices from a schedule, and change their numbers; show it. All of it or nothing."""
        first = self.optimizers[0]
        if schedule is not None and first._max_steps is not None:
            first.lr = schedule  # which says why this is refused
        numbers = [
            each._checked_hyper(each._hyperparameters | dict(changed)) if changed else None
            for each in self.optimizers
        ]
        pending = self._pending(group)
        kept = {
            name: value for name, value in pending.items() if name != "lr" and name not in (changed or ())
        }
        commit(
            [
                (each, None, None, of_each, None if schedule is None else each._rate_of(schedule), None)
                for each, of_each in zip(self.optimizers, numbers, strict=True)
            ],
            [self._stamped()],
            [(group, {name: self.shown[name] for name in pending if name not in kept})],
        )
        self._write(group, self._adopted(), *kept)

    def load(self, entries: Sequence[Mapping[str, Any]], loaded: Mapping[str, Any]) -> None:
        """Take over a state dictionary for the optimizer of each device, and the group that goes with them."""
        used = to_float("lr", loaded.get("lr", math.nan))
        checked = [
            optimizer._change_to(each) for optimizer, each in zip(self.optimizers, entries, strict=True)
        ]
        (first, attributes), *_ = checked
        others = {"params", _torch_state.OWN, *self.shown, *_torch_state.FLAGS}
        carried = {name: value for name, value in loaded.items() if name not in others}
        group = self.only()
        commit(
            [(*change[:4], first[4], None) for change, _ in checked],  # one schedule for all devices
            [*attributes, (self, "used", used), self._stamped()],
            [(group, carried | self.shown)],  # so that nothing is pending there
        )
        self._write(group, self._adopted())

    def _adopted(self) -> tuple[dict[str, Any], Schedule]:
        """Listen to what is asked for rates; return numbers and schedule, to notice when they are replaced."""
        first = self.optimizers[0]  # it is asked for all devices
        numbers, schedule = first._hyperparameters, first.schedule
        self._asked = _Asked(schedule)
        if self._asked.is_opaque and first._max_steps is None:
            first._set_rate((schedule, self._asked))
        self.is_scheduled = first._max_steps is None and type(schedule) is not Constant
        return numbers, schedule

    def rate(self) -> float:
        """Return the rate to show: of the next step or, where only the caller's code knows that, of the last one."""
        if not self._asked.is_opaque:
            with contextlib.suppress(Exception):  # it is the next step that asks for it, and then raises
                self.used = self.optimizers[0].lr
        return self.used

    def show_rate(self) -> None:
        """Write the rate of a schedule into the group, unless another was assigned there."""
        if not self.is_scheduled:
            return
        rate = self.rate()
        stamp = None
        while stamp is not self._stamp:
            stamp, shown = self._stamp, self.shown["lr"]
            groups = [each for each in self.list if "lr" in each and _equal(each["lr"], shown)]
        commit([], [self._stamped()], [(each, {"lr": rate}) for each in (self.shown, *groups)])

    def _refresh(self, group: dict[str, Any]) -> None:
        """Show what was assigned to the optimizers themselves; ValueError where other numbers were assigned in the group."""
        first = self.optimizers[0]
        numbers, schedule = self._seen
        if first._hyperparameters is numbers and first.schedule is schedule:
            return
        pending, shown = self._pending(group), self.shown
        seen = self._adopted()
        new = self.numbers()
        for name, value in pending.items():
            if new[name] != shown[name] and not _equal(value, new[name]):
                raise ValueError(
                    f"{name}: {value} was assigned in param_groups, and {new[name]} to an optimizer of "
                    "`optimizers` itself; assign one of them again in param_groups"
                )
        self._write(group, seen, *pending)

    def only(self) -> dict[str, Any]:
        """Return the one group; ValueError where others have changed what it is of."""
        groups: Any = self.list
        if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
            raise ValueError("param_groups: expected the one group; make a FusedOptimizer for each group")
        group: dict[str, Any] = groups[0]
        params = group.get("params")
        if (
            not isinstance(params, (list, tuple))
            or len(params) != len(self.parameters)
            or not all(map(operator.is_, params, self.parameters))
        ):
            raise ValueError(
                "param_groups: its parameters were changed; make a FusedOptimizer for each group"
            )
        return group

    def _pending(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return what was assigned in the group since it was last written."""
        stamp = None
        while stamp is not self._stamp:
            stamp = self._stamp
            try:
                pending = {
                    name: group[name]
                    for name, value in self.shown.items()
                    if group[name] is not value and not _equal(group[name], value)
                }
            except KeyError as missing:
                raise ValueError(f"param_groups: expected the entry {missing}, got {[*group]}") from None
        return pending

    def obey(self) -> None:
        """Use what was assigned in the group since it was last written: all of it or, where some is refused, none."""
        group = self.only()
        self._refresh(group)
        changed = self._pending(group)
        if not changed and "decay" not in group:
            return
        for name in (*changed, *(group.keys() & {"decay"})):
            if name in _torch_state.FIXED:
                raise ValueError(f"{name}: fixed at construction; make a new optimizer")
        self._refuse_other_momenta(changed)
        rate = None
        if "lr" in changed:
            if self.is_scheduled:
                raise ValueError(
                    f"lr: {changed['lr']} was assigned in param_groups, as a scheduler of PyTorch does, but the rate comes "
                    f"from {self.optimizers[0].schedule!r}; give a number as lr, or assign opt.lr"
                )
            rate = schedules.as_schedule(or_zero(to_float("lr", changed.pop("lr"))))
        given = {name: group[name] for name in self.shown}
        self.use(rate, group, changed)
        # A tensor or a list stays, to be read again.
        group.update({name: value for name, value in given.items() if _equal(value, self.shown[name])})

    def _refuse_other_momenta(self, changed: Mapping[str, Any]) -> None:
        """ValueError where NAdam's momentum moves: PyTorch multiplies those of all steps, and here they follow from now's."""
        first = self.optimizers[0]
        if first._public_class().__name__ != "NAdam" or not first.step_count:
            return
        for name in ("betas", "momentum_decay"):
            before = first.hyper[name]
            now = changed.get(name, before)
            if name == "betas":
                before, now = before[0], _arguments.NUMBERS[name](name, now)[0]  # type: ignore[index]
            if now != before:
                raise ValueError(
                    f"{name}: the momentum of NAdam cannot change between steps, got {now} after {before}; the product of "
                    "all momenta would be another than PyTorch's. Leave cycle_momentum out of the scheduler"
                )

    def require_alike(self) -> None:
        """ValueError where the optimizer of one device was changed alone."""
        first, *others = self.optimizers
        for i, each in enumerate(others, 1):
            schedule = each.schedule
            if (
                each.step_count != first.step_count
                or each._hyperparameters != first._hyperparameters
                or (
                    schedule is not first.schedule
                    and not (type(schedule) is Constant and schedule == first.schedule)
                )
            ):
                raise ValueError(
                    f"optimizers[{i}]: expected rate, hyperparameters and step count of optimizers[0]; assign opt.lr or "
                    "opt.param_groups[0], which are those of all devices"
                )


class _Asked:
    """What asks a schedule, and keeps the last answer."""

    def __init__(self, schedule: Schedule) -> None:
        self._ask = schedule._value
        self.is_opaque = any(each._holds_callable or not each._is_own for each in schedule._nested())
        """Whether it runs code of the caller's."""
        self.rate = math.nan

    def __call__(self, t: int) -> float:
        rate = self._ask(t)
        self.rate = rate
        return rate


def _equal(found: Any, value: Any) -> bool:
    """Tell whether what is in a group means a value. Tensors and lists, which others may change, are read."""
    if found is value:
        return True
    try:
        if isinstance(found, torch.Tensor):
            found = found.item() if found.numel() == 1 else found.tolist()
        return bool((tuple(found) if isinstance(found, list) else found) == value)
    except (RuntimeError, TypeError, ValueError):  # what cannot be compared is refused where it is used
        return False
