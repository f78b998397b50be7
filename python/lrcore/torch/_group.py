"""The parameter group of a `lrcore.torch.FusedOptimizer`, synchronized with its optimizers in both directions."""

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
    """The hyperparameters of the optimizers of all devices, and the PyTorch group that shows them."""

    def __init__(self, optimizers: Sequence[Optimizer], parameters: Sequence[Any]) -> None:
        self.optimizers, self.parameters = optimizers, parameters
        self.list: Any = []
        """The list of groups, which the caller may replace."""
        self.shown: dict[str, Any] = {}
        """The values last written into the group; empty before the group exists."""
        self.used = math.nan
        """The last known rate."""
        self._stamp = object()
        """A token that every write replaces. Loops compare it to detect a write by a signal handler in the meantime."""
        self._seen = self._adopted()

    def show(self) -> None:
        """Write changed values into the group, unless the caller has assigned others there."""
        if self.shown:
            with contextlib.suppress(ValueError):  # the next step raises the error
                self._refresh(self.only())
                self.show_rate()

    def show_all(self) -> None:
        """Write everything into the group."""
        self._write(self.only(), self._seen)

    def _write(self, group: dict[str, Any], seen: Any, *kept: str) -> None:
        """Write the hyperparameters into the group, except the `kept` ones, and record their source as `seen`.

        The write is atomic: an interrupt takes effect before or after it. If it comes before, `_refresh` writes later.
        """
        numbers = self.numbers()
        shown = {name: value for name, value in numbers.items() if name not in kept}
        commit([], [(self, "_seen", seen), self._stamped()], [(self.shown, numbers), (group, shown)])

    def _stamped(self) -> tuple[Group, str, object]:
        return self, "_stamp", object()

    def after_step(self) -> None:
        """Show the rate of the next step, or the rate just used if the next one is unknown."""
        if self._asked.is_opaque:
            self.used = self._asked.rate
        self.show_rate()

    def set_rate(self, lr: Any) -> None:
        """Replace the source of the rate, and show the new rate."""
        group = self.only()
        self.use(schedules.as_schedule(lr), group)
        if isinstance(lr, torch.Tensor):
            group["lr"] = lr  # read again at each step

    def numbers(self) -> dict[str, Any]:
        """Return the rate, the hyperparameters and the options as entries of a group."""
        first = self.optimizers[0]
        return {"lr": self.rate(), **first.hyper, **_torch_state.options_in_group(first._options)}

    def use(
        self, schedule: Schedule | None, group: dict[str, Any], changed: Mapping[str, Any] | None = None
    ) -> None:
        """Set the schedule and change hyperparameters on all devices, and show both. Invalid values change nothing."""
        first = self.optimizers[0]
        if schedule is not None and first._max_steps is not None:
            first.lr = schedule  # raises the error of a capturable optimizer
        settings = [
            each._new_settings(
                each._settings._replace(hyper=each._hyperparameters | _arguments.numbers(changed))
            )
            if changed
            else None
            for each in self.optimizers
        ]
        pending = self._pending(group)
        kept = {
            name: value for name, value in pending.items() if name != "lr" and name not in (changed or ())
        }
        commit(
            [
                (each, None, None, (), new, None if schedule is None else each._rate_of(schedule), None)
                for each, new in zip(self.optimizers, settings, strict=True)
            ],
            [self._stamped()],
            [(group, {name: self.shown[name] for name in pending if name not in kept})],
        )
        self._write(group, self._adopted(), *kept)

    def load(self, entries: Sequence[Mapping[str, Any]], loaded: Mapping[str, Any]) -> None:
        """Load a state dictionary for the optimizer of each device, and the group that belongs to them."""
        used = to_float("lr", loaded.get("lr", math.nan))
        checked = [
            optimizer._change_to(each) for optimizer, each in zip(self.optimizers, entries, strict=True)
        ]
        (first, attributes), *_ = checked
        others = {"params", _torch_state.OWN, *self.shown, *_torch_state.FLAGS}
        carried = {name: value for name, value in loaded.items() if name not in others}
        group = self.only()
        commit(
            [(*change[:5], first[5], None) for change, _ in checked],  # one schedule for all devices
            [*attributes, (self, "used", used), self._stamped()],
            [(group, carried | self.shown)],  # so that no assignment is pending
        )
        self._write(group, self._adopted())

    def _adopted(self) -> tuple[dict[str, Any], Schedule]:
        """Start recording the rates if the schedule is opaque; return the hyperparameters and the schedule.

        `_refresh` compares them with the current ones to detect replacements.
        """
        first = self.optimizers[0]  # its schedule is called for all devices
        numbers, schedule = first._hyperparameters, first.schedule
        self._asked = _Asked(schedule)
        if self._asked.is_opaque and first._max_steps is None:
            first._set_rate((schedule, self._asked))
        self.is_scheduled = first._max_steps is None and type(schedule) is not Constant
        return numbers, schedule

    def rate(self) -> float:
        """Return the rate to show: that of the next step or, if only the caller's code can compute it, of the last step."""
        if not self._asked.is_opaque:
            with contextlib.suppress(Exception):  # the next step raises the error
                self.used = self.optimizers[0].lr
        return self.used

    def show_rate(self) -> None:
        """Write the rate of a schedule into the group, unless another rate was assigned there."""
        if not self.is_scheduled:
            return
        rate = self.rate()
        stamp = None
        while stamp is not self._stamp:
            stamp, shown = self._stamp, self.shown["lr"]
            groups = [each for each in self.list if "lr" in each and _equal(each["lr"], shown)]
        commit([], [self._stamped()], [(each, {"lr": rate}) for each in (self.shown, *groups)])

    def _refresh(self, group: dict[str, Any]) -> None:
        """Show values assigned to the optimizers themselves; raise ValueError if they conflict with the group's values."""
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
                    f"{name}: {value} was assigned in param_groups, and {new[name]} to an optimizer in opt.optimizers; "
                    "assign the intended value in param_groups again"
                )
        self._write(group, seen, *pending)

    def only(self) -> dict[str, Any]:
        """Return the only group; raise ValueError if the list or the group's parameters were changed."""
        groups: Any = self.list
        if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
            raise ValueError("param_groups: expected a single group; make a FusedOptimizer for each group")
        group: dict[str, Any] = groups[0]
        params = group.get("params")
        if (
            not isinstance(params, (list, tuple))
            or len(params) != len(self.parameters)
            or not all(map(operator.is_, params, self.parameters))
        ):
            raise ValueError(
                "param_groups: the group's parameters were changed; make another FusedOptimizer for other parameters"
            )
        return group

    def _pending(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the values that were assigned in the group since it was last written."""
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
        """Apply the values assigned in the group since it was last written; if one of them is invalid, apply none."""
        group = self.only()
        self._refresh(group)
        changed = self._pending(group)
        added = {"decay"} & group.keys() - self.shown.keys()
        if not changed and not added:
            return
        for name in (*changed, *added):
            if name in _torch_state.FIXED:
                raise ValueError(f"{name}: fixed at construction; make a new optimizer")
        self._refuse_first_momentum(changed)
        self._refuse_other_momenta(changed)
        rate = None
        if "lr" in changed:
            if self.is_scheduled:
                raise ValueError(
                    f"lr: {changed['lr']} was assigned in param_groups, perhaps by a PyTorch scheduler, but the "
                    f"rate comes from {self.optimizers[0].schedule!r}; pass a number as lr, or assign opt.lr"
                )
            rate = schedules.as_schedule(or_zero(to_float("lr", changed.pop("lr"))))
        given = {name: group[name] for name in self.shown}
        self.use(rate, group, changed)
        # Assigned tensors and lists stay in the group, and are read again at each step.
        group.update({name: value for name, value in given.items() if _equal(value, self.shown[name])})

    def require_schedulable(self) -> None:
        """Raise ValueError if a scheduler of PyTorch that is being made cannot set this group's numbers.

        The values that it has assigned so far are removed.
        """
        group = self.only()
        changed = self._pending(group)
        try:
            if self.is_scheduled:
                raise ValueError(
                    f"lr: the rate comes from {self.optimizers[0].schedule!r}, so PyTorch's schedulers cannot set it; pass "
                    "a number as lr, or assign opt.lr"
                )
            self._refuse_first_momentum(changed)
        except ValueError:
            group.update({name: self.shown[name] for name in changed})
            raise

    def _refuse_first_momentum(self, changed: Mapping[str, Any]) -> None:
        """Raise ValueError if a momentum is assigned to an optimizer that was made without momentum."""
        if self.shown.get("momentum") == 0.0 and "momentum" in changed:
            raise ValueError(
                f"momentum: {changed['momentum']} was assigned in param_groups, perhaps by a PyTorch scheduler, but the "
                "optimizer was made with momentum 0; pass momentum= above 0 to FusedOptimizer, or cycle_momentum=False to "
                "the scheduler"
            )

    def _refuse_other_momenta(self, changed: Mapping[str, Any]) -> None:
        """Raise ValueError if NAdam's momentum changes.

        PyTorch multiplies the momenta of all steps, while lrcore computes that product from the current
        hyperparameters.
        """
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
                    "all momenta would differ from PyTorch's. Pass cycle_momentum=False to the scheduler"
                )

    def require_alike(self) -> None:
        """Raise ValueError if the rates, hyperparameters or step counts of the optimizers differ."""
        first, *others = self.optimizers
        for i, each in enumerate(others, 1):
            schedule = each.schedule
            if (
                each.step_count != first.step_count
                or each._hyperparameters != first._hyperparameters
                or each._settings.groups != first._settings.groups
                or (
                    schedule is not first.schedule
                    and not (type(schedule) is Constant and schedule == first.schedule)
                )
            ):
                raise ValueError(
                    f"optimizers[{i}]: expected the rate, hyperparameters and step count of optimizers[0]; to change all "
                    "devices, assign opt.lr or opt.param_groups[0]"
                )


class _Asked:
    """A function that calls a schedule and keeps the last rate."""

    def __init__(self, schedule: Schedule) -> None:
        self._ask = schedule._value
        self.is_opaque = any(each._holds_callable or not each._is_own for each in schedule._nested())
        """Whether the schedule runs the caller's code."""
        self.rate = math.nan

    def __call__(self, t: int) -> float:
        rate = self._ask(t)
        self.rate = rate
        return rate


def _equal(found: Any, value: Any) -> bool:
    """Return whether an entry of a group equals a value; tensors and lists are compared by their current contents."""
    if found is value:
        return True
    try:
        if isinstance(found, torch.Tensor):
            found = found.item() if found.numel() == 1 else found.tolist()
        return bool((tuple(found) if isinstance(found, list) else found) == value)
    except (RuntimeError, TypeError, ValueError):  # incomparable values are rejected when they are used
        return False
