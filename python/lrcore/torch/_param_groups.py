"""PyTorch's parameter groups of a `lrcore.torch.FusedOptimizer`, synchronized with its optimizers in both directions."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

from lrcore import schedules
from lrcore._checks import flag, naming, or_zero
from lrcore._extras import optional_dependency
from lrcore._lrcore_core import commit, have_same_entries, to_float
from lrcore.optimizers import Optimizer, _arguments, _torch_state
from lrcore.optimizers._changing import Part, mapped, schedules_in
from lrcore.optimizers._settings import Change, GroupSettings, Settings, WholeSettings
from lrcore.schedules import Constant, Schedule
from lrcore.torch._parameters import label

with optional_dependency("torch"):
    import torch


class Source(NamedTuple):
    """The numbers of a group, or the schedules that return them."""

    rate: Schedule
    hyper: dict[str, Any]
    maximize: bool

    def schedules(self) -> list[Schedule]:
        """Return the schedules, the rate's first."""
        return [self.rate, *(each for value in self.hyper.values() for each in schedules_in(value))]

    def moving(self) -> list[str]:
        """Return the names of the numbers that come from schedules."""
        rate = [] if type(self.rate) is Constant else ["lr"]
        return rate + [name for name, value in self.hyper.items() if schedules_in(value)]


def settings_of(sources: Sequence[Source], maximize: bool, whole: WholeSettings) -> Settings:
    """Return the settings of an optimizer whose groups have these numbers; its rate is that of the first group.

    The optimizer's own group is padding. `maximize` is the optimizer's option.
    """
    first = sources[0]
    groups = [
        GroupSettings(
            {name: value for name, value in each.hyper.items() if not is_same(value, first.hyper[name])},
            None if each.maximize == maximize else each.maximize,
            None if is_same(each.rate, first.rate) else each.rate,
        )
        for each in sources
    ]
    return Settings(first.hyper, (GroupSettings(frozen=True), *groups), whole)


def sources_of(settings: Settings, schedule: Schedule, maximize: bool) -> list[Source]:
    """Return the numbers of the groups of an optimizer with these settings and this rate."""
    numbers = settings.numbers()[1:]
    return [
        Source(own.schedule or schedule, hyper, maximize if own.maximize is None else own.maximize)
        for own, hyper in zip(settings.groups[1:], numbers, strict=True)
    ]


def is_same(value: Any, other: Any) -> bool:
    """Return whether two values of a number are the same object, or equal numbers."""
    if isinstance(value, tuple):
        return all(map(is_same, value, other))
    if type(value) is Constant and type(other) is Constant:
        return value == other
    return value is other or (
        not isinstance(value, Schedule) and not isinstance(other, Schedule) and value == other
    )


class ParamGroups:
    """The numbers of all groups, and PyTorch's groups, which show them."""

    def __init__(
        self,
        check_fixed: Callable[[Mapping[str, Any]], None],
        groups: list[dict[str, Any]],
        former: ParamGroups | None,
    ) -> None:
        """Hold PyTorch's groups.

        The numbers that opaque schedules returned last are taken from the `former` groups. `check_fixed` raises TypeError
        or ValueError if an entry of a group that is fixed at construction differs from the optimizer's.
        """
        self._check_fixed = check_fixed
        self.list: Any = groups
        """The list of groups, which the caller may replace."""
        self.optimizers: tuple[Optimizer, ...] = ()
        """The optimizers of all devices; empty before they exist."""
        self._recorders: dict[int, _Recorder] = {} if former is None else dict(former._recorders)
        self._zeros: list[int] = []
        """The groups in which a rate of 0 is assigned over a schedule."""
        self.may_create = False
        """Whether the next step may only create the states; see `require_rates`."""
        self.shown: list[dict[str, Any]] = []
        """The values last written into each group."""
        self.is_scheduled = False
        """Whether a number changes from step to step."""
        self._parameters: list[list[Any]] = []
        self._known: list[dict[str, Any]] | None = None
        """Copies of the groups as they were when all their values were in use, or None."""
        self._moving: list[list[str]] = []
        """The names of the numbers in each group that come from schedules."""
        self.sources: list[Source] = []
        self._seen: tuple[Any, Any] = (None, None)
        """The settings and the schedule of the first optimizer when the sources were derived from them."""

    def begin(self, optimizers: tuple[Optimizer, ...], sources: list[Source]) -> None:
        """Synchronize the groups with new optimizers, which have the settings of these sources."""
        self.optimizers = optimizers
        self._parameters = [[*group["params"]] for group in self.list]
        for each in optimizers:
            # instance attributes hide the methods
            vars(each).update(_source_of=self._source_of, _source_of_number=self._source_of_number)
        first = optimizers[0]
        settings = first._settings
        changes = []
        if first._max_steps is None:  # so that opaque schedules are recorded
            changes = [self._change(each, settings, sources[0].rate) for each in optimizers]
        self._replace(changes, sources, settings, sources[0].rate, [()] * len(sources))

    # ---- where the numbers come from

    def _source_of(self, schedule: Schedule) -> Any:
        """Return the source of a rate for the core, which records the rates of opaque schedules."""
        return self._recorded(schedule, schedule._value)

    def _source_of_number(self, part: Part) -> Any:
        """Return the source of another number in the same way."""
        return self._recorded(part.value, part.source)

    def _recorded(self, schedule: Schedule, source: Callable[[int], Any]) -> Any:
        if not self._is_opaque(schedule):
            return source
        return self._recorders.setdefault(id(schedule), _Recorder(schedule, source))

    def _is_opaque(self, schedule: Schedule) -> bool:
        """Return whether a schedule runs the caller's code, so that it must be called only once per step."""
        if self.optimizers[0]._max_steps is not None:  # a table has all numbers
            return False
        return any(each._holds_callable or not each._is_own for each in schedule._nested())

    def _change(self, optimizer: Optimizer, settings: Settings, schedule: Schedule) -> Any:
        """Return the change for `commit` to these settings and this rate."""
        new_settings, rate = optimizer._new_settings(settings), optimizer._rate_of(schedule)
        return Change(optimizer, settings=new_settings, rate=rate)

    def _replace(
        self, changes: Sequence[Any], sources: list[Source], settings: Settings, schedule: Schedule,
        kept: Sequence[Container[str]], attributes: Sequence[Any] = (), carried: Sequence[Mapping[str, Any]] = (),
    ) -> None:  # fmt: skip
        """Make changes after which the optimizers have these settings and this rate, and show the numbers in the groups.

        The values under the `kept` names of each group stay there, and the `carried` entries are added. All of it is
        one operation, which an interrupt does not split.
        """
        shown = [self._numbers(source) for source in sources]
        updates = [
            (group, {**more, **{name: value for name, value in numbers.items() if name not in names}})
            for group, numbers, names, more in zip(
                self.list, shown, kept, carried or [{}] * len(sources), strict=True
            )
        ]
        moving = [each.moving() for each in sources]
        own = {
            "sources": sources,
            "_moving": moving,
            "shown": shown,
            "is_scheduled": any(moving) and self.optimizers[0]._max_steps is None,
            "_seen": (settings, schedule),
            "_known": None,
        }
        commit(changes, [*attributes, *((self, name, value) for name, value in own.items())], updates)
        ids = {id(each) for each in self.schedules()}
        self._recorders = {key: each for key, each in self._recorders.items() if key in ids}

    def schedules(self) -> list[Schedule]:
        """Return the schedules of all groups, each once."""
        every = [schedule for source in self.sources for schedule in source.schedules()]
        if self.optimizers:
            for value in self.optimizers[0]._settings.whole.numbers():
                every += schedules_in(value)
        return [*{id(each): each for each in every}.values()]

    def hyper_of(self, i: int) -> dict[str, Any]:
        """Return the numbers of a group for the next step."""
        return self._hyper(self.sources[i])

    # ---- what the groups show

    def _rate(self, schedule: Schedule, t: int | None = None) -> float:
        """Return the rate to show: that of the next step or, if only the caller's code can compute it, of the last step.

        `t` is the number of steps so far; None asks the optimizer, which may wait for the device.
        """
        if self._is_opaque(schedule):
            return self._last(schedule)
        first = self.optimizers[0]
        count = first.step_count if t is None else t
        with contextlib.suppress(Exception):  # the next step raises the error
            return first._rate_after(count, schedule)
        return math.nan

    def _last(self, schedule: Schedule) -> float:
        """Return the number that an opaque schedule returned last, or NaN."""
        recorder = self._recorders.get(id(schedule))
        return math.nan if recorder is None else recorder.number

    def _numbers(self, source: Source) -> dict[str, Any]:
        """Return the numbers and options of a group, as its entries."""
        options = {**self.optimizers[0]._options, "maximize": source.maximize}
        return {
            "lr": self._rate(source.rate),
            **self._hyper(source),
            **_torch_state.options_in_group(options),
        }

    def _hyper(self, source: Source) -> dict[str, Any]:
        return {name: self._number(name, value) for name, value in source.hyper.items()}

    def _number(self, name: str, value: Any, t: int | None = None) -> Any:
        """Return a number of the next step, or of the last one as for rates."""
        if not schedules_in(value):
            return value
        known = mapped(
            value, lambda each: self._last(each) if schedules_in(each) and self._is_opaque(each) else each
        )
        if not schedules_in(known):
            return known
        first = self.optimizers[0]
        count = first.step_count if t is None else t
        with contextlib.suppress(Exception):  # the next step raises the error
            return first._number_after(count, name, known)
        return math.nan

    def show(self) -> None:
        """Write changed values into the groups, unless the caller has assigned others there."""
        if not self.optimizers:
            return
        with contextlib.suppress(TypeError, ValueError):  # the next step raises the error
            self._refresh()
            self.show_next()

    def show_next(self, waits: bool = True) -> None:
        """Write the numbers of the next step into the groups, unless others were assigned there.

        If this must not wait for a device, a step that the device may yet skip counts as taken.
        """
        if not self.is_scheduled:
            return
        first, count = self.optimizers[0], None
        while count != (now := first.step_count if waits else first._started_steps):
            count = now  # again if a signal handler has stepped in the meantime
            updates, known = [], []
            for i, (group, shown, source) in enumerate(zip(self.list, self.shown, self.sources, strict=True)):
                numbers = {
                    name: self._rate(source.rate, count)
                    if name == "lr"
                    else self._number(name, source.hyper[name], count)
                    for name in self._moving[i]
                }
                followed = {
                    name: value for name, value in numbers.items() if _equal(group.get(name), shown[name])
                }
                updates += [(shown, numbers), (group, followed)]
                known.append({**self._known[i], **followed} if self._known else {})
            commit([], [(self, "_known", known if self._known else None)], updates)

    def _remember(self) -> None:
        """Record that the current values of the groups are in use, unless some can change in place."""
        every = zip(self.list, self.shown, strict=True)
        if not any(_is_mutable(group[name]) for group, shown in every for name in shown):
            self._known = [
                {**group, "params": own} for group, own in zip(self.list, self._parameters, strict=True)
            ]

    # ---- values assigned in the groups

    def checked(self, given: Any = None) -> list[dict[str, Any]]:
        """Return the groups, or the given ones; raise ValueError if their number or their parameters were changed."""
        groups: Any = self.list if given is None else given
        if not isinstance(groups, list) or not all(isinstance(each, dict) for each in groups):
            raise ValueError("param_groups: expected a list of dictionaries")
        if len(groups) != len(self._parameters):
            raise ValueError(
                f"param_groups: expected {len(self._parameters)} groups, got {len(groups)}; add groups with "
                "add_param_group, and make another FusedOptimizer for fewer"
            )
        for i, (group, own) in enumerate(zip(groups, self._parameters, strict=True)):
            params = group.get("params")
            if (
                not isinstance(params, (list, tuple))
                or len(params) != len(own)
                or not all(map(operator.is_, params, own))
            ):
                raise ValueError(
                    f"{label(i)}: the group's parameters were changed; make another FusedOptimizer for other parameters"
                )
        return groups

    def obey(self) -> None:
        """Apply the values assigned in the groups since they were last written; if one of them is invalid, apply none."""
        first = self.optimizers[0]
        settings, schedule = self._seen
        is_current = first._settings is settings and first.schedule is schedule
        known = self._known if is_current and isinstance(self.list, list) else None
        if known is not None and have_same_entries(self.list, known):
            return
        groups = self.checked()
        self._refresh()
        for i, group in enumerate(groups):
            with naming(label(i)):
                self._check_fixed(group)
        pending = self._all_pending(groups)
        # Only groups of an optimizer with independent decay have the entry `decay`.
        added = [
            {"decay"} & (group.keys() - shown.keys()) for group, shown in zip(groups, self.shown, strict=True)
        ]
        if not any(pending) and not any(added):
            self._note_zeros([])
            self._remember()
            return
        sources = []
        for i, (changed, more) in enumerate(zip(pending, added, strict=True)):
            with naming(label(i)):
                for name in (*changed, *more):
                    if name in _torch_state.FIXED and name != "maximize":
                        raise ValueError(f"{name}: fixed at construction; make a new optimizer")
                self._refuse_first_momentum(changed)
                self._refuse_other_momenta(i, changed)
                sources.append(self._changed(i, changed))
        # Assigned tensors and lists stay in the group, and are read again at each step.
        kept = [{name for name, value in changed.items() if _is_mutable(value)} for changed in pending]
        zeros = [i for i, changed in enumerate(pending) if self._is_zero_over_schedule(i, changed)]
        self._use(sources, [names | ({"lr"} if i in zeros else set()) for i, names in enumerate(kept)])
        self._note_zeros(zeros)

    def _is_zero_over_schedule(self, i: int, changed: Mapping[str, Any]) -> bool:
        """Return whether a rate of 0 was assigned over the schedule of a group; see `require_rates`."""
        given = changed.get("lr")
        return isinstance(given, float) and given == 0 and type(self.sources[i].rate) is not Constant

    def _note_zeros(self, zeros: list[int]) -> None:
        """Record the groups in which a rate of 0 is assigned over a schedule."""
        self._zeros = zeros
        options = self.optimizers[0]._options
        # Otherwise, a step without rates and gradients has no effect that a tool could want to avoid.
        has_effect = self.is_scheduled or options.get("decay") == "independent"
        self.may_create = has_effect and all(
            i in zeros or source.rate == Constant(0.0) for i, source in enumerate(self.sources)
        )

    def require_rates(self) -> None:
        """Raise ValueError if a rate of 0 is assigned over a schedule, for a step that does not only create the states.

        Before it saves or loads, `torch.distributed.checkpoint` creates the states by a step with gradients of 0 and
        rates of 0, and then restores the rates in the groups.
        """
        for i in self._zeros:
            with naming(label(i)):
                self._refuse_number(0.0, self.sources[i].rate)

    def _refuse_number(self, given: Any, rate: Schedule) -> None:
        """Raise ValueError because a number was assigned over a schedule."""
        raise ValueError(
            f"lr: {given} was assigned in param_groups, perhaps by a PyTorch scheduler, but the rate comes from "
            f"{rate!r}; to replace that, assign lrcore.schedules.Constant"
        )

    def _changed(self, i: int, changed: Mapping[str, Any]) -> Source:
        """Return the source of a group after these values were assigned."""
        source = self.sources[i]
        rate, maximize = source.rate, source.maximize
        if "lr" in changed:
            given = changed["lr"]
            if self._is_zero_over_schedule(i, changed):
                given = rate
            elif not callable(given) and type(rate) is not Constant:
                self._refuse_number(given, rate)
            rate = as_rate(given)
        if "maximize" in changed:
            maximize = flag("maximize", changed["maximize"])
        hyper = _arguments.settable({name: value for name, value in changed.items() if name in source.hyper})
        for name, value in hyper.items():
            if schedules_in(source.hyper[name]) and not schedules_in(value):
                raise ValueError(
                    f"{name}: {value} was assigned in param_groups, perhaps by a PyTorch scheduler, but the number comes "
                    f"from {source.hyper[name]!r}; to replace that, assign lrcore.schedules.Constant"
                )
        return Source(rate, source.hyper | hyper, maximize)

    def _use(
        self, sources: list[Source], kept: Sequence[Container[str]], whole: WholeSettings | None = None
    ) -> None:
        """Change all optimizers to new sources, and show their numbers in the groups, except under the `kept` names.

        `whole` replaces the settings of the whole optimizer.
        """
        first = self.optimizers[0]
        first._require_changeable("param_groups")
        whole = first._settings.whole if whole is None else whole
        settings, schedule = settings_of(sources, bool(first._options["maximize"]), whole), sources[0].rate
        changes = [self._change(each, settings, schedule) for each in self.optimizers]
        self._replace(changes, sources, settings, schedule, kept)

    def set_rate(self, lr: Any) -> None:
        """Replace the rate of the first group, and of the groups whose rate has the same source."""
        groups = self.checked()
        self._refresh()
        before, rate = self.sources[0].rate, as_rate(lr)
        follow = [is_same(each.rate, before) for each in self.sources]
        sources = [
            each._replace(rate=rate) if follows else each
            for each, follows in zip(self.sources, follow, strict=True)
        ]
        pending = self._all_pending(groups)
        self._use(
            sources,
            [
                changed.keys() - ({"lr"} if follows else {})
                for changed, follows in zip(pending, follow, strict=True)
            ],
        )
        if isinstance(lr, torch.Tensor):  # read again at each step
            for group, follows in zip(groups, follow, strict=True):
                if follows:
                    group["lr"] = lr

    def set_whole(self, **changes: Any) -> None:
        """Replace settings of the whole optimizer in the optimizers of all devices."""
        groups = self.checked()
        self._refresh()
        whole = self.optimizers[0]._settings.whole._replace(**changes)
        self._use(self.sources, self._all_pending(groups), whole)

    def load(
        self, changes: Sequence[Any], attributes: Sequence[Any], sources: list[Source],
        settings: Settings, carried: Sequence[Mapping[str, Any]],
    ) -> None:  # fmt: skip
        """Make changes that replace everything by loaded values, and show these in the groups."""
        self._replace(changes, sources, settings, sources[0].rate, [()] * len(sources), attributes, carried)

    def _refresh(self) -> None:
        """Show values assigned to the optimizers themselves; raise ValueError if they conflict with the groups' values."""
        first = self.optimizers[0]
        settings, schedule = first._settings, first.schedule
        if self._seen[0] is settings and self._seen[1] is schedule:
            return
        pending = self._all_pending(self.checked())
        sources = sources_of(settings, schedule, bool(first._options["maximize"]))
        for i, (changed, source) in enumerate(zip(pending, sources, strict=True)):
            numbers = self._numbers(source)
            for name, value in changed.items():
                new = numbers[name]
                if new != self.shown[i][name] and not _equal(value, new):
                    raise ValueError(
                        f"{label(i)}: {name}: {value} was assigned in param_groups, and {new} to an optimizer in "
                        "opt.optimizers; assign the intended value in param_groups again"
                    )
        self._replace([], sources, settings, schedule, pending)

    def _all_pending(self, groups: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return the values that were assigned in each group since it was last written."""
        count: int | None = -1
        while count != self.optimizers[0]._started_steps:  # a signal handler may have stepped in the meantime
            count = self.optimizers[0]._started_steps
            pending = [self._pending(i, group) for i, group in enumerate(groups)]
        return pending

    def _pending(self, i: int, group: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values that were assigned in a group since it was last written."""
        try:
            return {
                name: group[name]
                for name, value in self.shown[i].items()
                if group[name] is not value and not _equal(group[name], value)
            }
        except KeyError as missing:
            raise ValueError(f"{label(i)}: expected the entry {missing}, got {[*group]}") from None

    def require_schedulable(self) -> None:
        """Raise ValueError if a scheduler of PyTorch that is being made cannot set the groups' numbers.

        The values that it has assigned so far are removed.
        """
        groups = self.checked()
        pending = self._all_pending(groups)
        try:
            for i, changed in enumerate(pending):
                with naming(label(i)):
                    given = changed.get("lr")
                    rate = given if callable(given) else self.sources[i].rate
                    if type(rate) is not Constant:
                        raise ValueError(
                            f"lr: the rate comes from {rate!r}, so PyTorch's schedulers cannot set it; pass a number as "
                            "lr, or assign lrcore.schedules.Constant"
                        )
                    self._refuse_first_momentum(changed)
        except ValueError:
            for group, shown, changed in zip(groups, self.shown, pending, strict=True):
                group.update({name: shown[name] for name, value in changed.items() if not callable(value)})
            raise

    def _refuse_first_momentum(self, changed: Mapping[str, Any]) -> None:
        """Raise ValueError if a momentum is assigned to an optimizer that was made without momentum."""
        if "momentum" in changed and all(each.hyper["momentum"] == 0.0 for each in self.sources):
            raise ValueError(
                f"momentum: {changed['momentum']} was assigned in param_groups, perhaps by a PyTorch scheduler, but the "
                "optimizer was made with momentum 0; pass momentum= above 0 to FusedOptimizer, or cycle_momentum=False to "
                "the scheduler"
            )

    def _refuse_other_momenta(self, i: int, changed: Mapping[str, Any]) -> None:
        """Raise ValueError if NAdam's momentum changes.

        PyTorch multiplies the momenta of all steps, while lrcore computes that product from the current numbers.
        """
        first = self.optimizers[0]
        if first._public_class().__name__ != "NAdam" or not first.step_count:
            return
        for name in ("betas", "momentum_decay"):
            before = self.sources[i].hyper[name]
            now = changed.get(name, before)
            if name == "betas":
                before, now = before[0], _arguments.settable({name: now})[name][0]
            if now != before:
                raise ValueError(
                    f"{name}: the momentum of NAdam cannot change between steps, got {now} after {before}; the product of "
                    "all momenta would differ from PyTorch's. Pass cycle_momentum=False to the scheduler"
                )

    def require_alike(self) -> None:
        """Raise ValueError if the rates, hyperparameters or step counts of the optimizers differ."""
        first, *others = self.optimizers
        for i, each in enumerate(others, 1):
            if (
                each.step_count != first.step_count
                or each._settings != first._settings
                or not is_same(each.schedule, first.schedule)
            ):
                raise ValueError(
                    f"optimizers[{i}]: expected the rate, hyperparameters and step count of optimizers[0]; to change all "
                    "devices, assign opt.lr or opt.param_groups"
                )


def as_rate(lr: Any) -> Schedule:
    """Return the schedule of a rate; numbers and tensors are read now."""
    return schedules.as_schedule(lr if callable(lr) else or_zero(to_float("lr", lr)))


class _Recorder:
    """A function that calls a schedule and keeps the last number."""

    def __init__(self, schedule: Schedule, source: Callable[[int], Any]) -> None:
        self._source = source
        self.schedule = schedule
        """Kept, so that no other schedule gets its `id`."""
        self.number = math.nan

    def __call__(self, t: int) -> Any:
        number = self._source(t)
        self.number = number
        return number


def _is_mutable(value: Any) -> bool:
    """Return whether a number in a group may change in place."""
    return isinstance(value, (torch.Tensor, list)) or (
        isinstance(value, tuple) and any(map(_is_mutable, value))
    )


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
