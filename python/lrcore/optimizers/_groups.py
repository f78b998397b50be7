"""Parameter groups: parts of a flat buffer that have settings of their own.

The first group, called the rest, has the elements that no entry of the argument `groups` names.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, overload

from lrcore import schedules
from lrcore._checks import naming, safe_repr
from lrcore._names import explain_attributes, remedy, unknown_argument, unknown_attribute
from lrcore.optimizers import _arguments
from lrcore.optimizers._hyper import Hyper
from lrcore.optimizers._places import Places
from lrcore.optimizers._ranges import Ranges, rest_of, size_of
from lrcore.optimizers._selection import all_selected, ranges_by_group
from lrcore.optimizers._settings import CHECKS, GroupSettings, Settings, prefix_of, shown_rate
from lrcore.optimizers._shared import DEFAULTS

_OTHERS = ("params", "lr", "lr_scale", "frozen", "maximize")
"""The entries of a group other than numeric arguments and structural options."""


def parsed(
    groups: Any, size: int, places: Places | None, hyper: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[tuple[Ranges, ...], tuple[GroupSettings, ...]]:
    """Check the argument `groups`; return the ranges and the settings of all groups, the rest first.

    `places` has the arrays if the parameters are a pack. `hyper` and `options` are those of the optimizer.
    """
    selections = all_selected(groups, size, places)
    settings = [GroupSettings()]
    for i, group in enumerate(groups):
        with naming(f"groups[{i}]"):
            settings.append(_settings_of(i, group, hyper, options))
    of_groups = ranges_by_group(selections, places)
    return (rest_of(of_groups, size), *of_groups), tuple(settings)


def _settings_of(
    i: int, group: Mapping[str, Any], hyper: Mapping[str, Any], options: Mapping[str, Any]
) -> GroupSettings:
    """Check the entries of a group other than its parameters."""
    known = [*_OTHERS, *hyper, *(name for name in options if name != "maximize"), "decoupled_weight_decay"]
    for name in group:
        if name in DEFAULTS and name not in known:
            raise TypeError(f"{name}: an argument of the optimizer; leave it out of its groups")
        if name not in known:
            raise unknown_argument(f"groups[{i}]", str(name), known)
    given = {name: value for name, value in group.items() if name not in _OTHERS}
    for name, value in _arguments.options(_arguments.with_decay(given)).items():
        if value != options[name]:
            raise ValueError(f"{name}: expected {options[name]!r} as in the optimizer, got {value!r}")
    if group.get("lr") is not None and "lr_scale" in group:
        raise ValueError(
            "lr_scale: multiplies the optimizer's rate, but the group has lr; pass only one of them"
        )
    found: dict[str, Any] = {"hyper": _arguments.settable(given)}
    if group.get("lr") is not None:
        found["schedule"] = schedules.as_schedule(group["lr"])
    found |= {name: CHECKS[name](name, group[name]) for name in CHECKS if name in group}
    return GroupSettings(**found)


class _Grouped(Protocol):
    """The attributes of an optimizer that its groups use."""

    _ranges: tuple[Ranges, ...]
    _places: Places | None

    @property
    def _settings(self) -> Settings: ...
    @property
    def options(self) -> Mapping[str, bool | str]: ...
    @property
    def schedule(self) -> schedules.Schedule: ...
    @property
    def step_count(self) -> int: ...
    def _step_count_of(self, group: int) -> int | None: ...
    def _rate_after(self, t: int, schedule: schedules.Schedule) -> float: ...
    def _number_of_next_step(self, name: str, value: Any, prefix: str = "") -> Any: ...
    def _require_groups(self, name: str) -> None: ...
    def _change_settings(self, changed: Callable[[Settings], Settings]) -> None: ...


@explain_attributes(
    "betas",
    "eps",
    "momentum",
    "weight_decay",
    "params",
    "param_names",
    "step",
    entries=lambda group: group._entries(),
)
class Group:
    """A part of an optimizer's parameters, with its own settings. ``opt.groups[i]`` is such a group.

    Assigned values are used by the next step. If a group has no value of its own, the optimizer's current value
    applies. Two of these objects are equal if they stand for the same group of the same optimizer.
    """

    __slots__ = ("_index", "_optimizer")

    _index: int
    _optimizer: _Grouped

    def __init__(self, optimizer: _Grouped, index: int) -> None:
        object.__setattr__(self, "_optimizer", optimizer)
        object.__setattr__(self, "_index", index)

    def __reduce__(self) -> tuple[Any, ...]:
        return Group, (self._optimizer, self._index)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Group):
            return NotImplemented
        return self._optimizer is other._optimizer and self._index == other._index

    def __hash__(self) -> int:
        return hash((id(self._optimizer), self._index))

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _ASSIGNABLE:
            if name in ("names", "ranges", "size", "step_count", "schedule"):
                hint = "; assign lr" if name == "schedule" else ""
                raise AttributeError(f"{self._name()}.{name}: cannot be assigned{hint}")
            raise unknown_attribute(
                self, self._name(), name, {each: each for each in _ASSIGNABLE}, self._entries()
            )
        object.__setattr__(self, name, value)

    def __getitem__(self, name: Any) -> NoReturn:
        """Raise TypeError: PyTorch's groups are dictionaries, but these have attributes."""
        places = {each: f"{self._name()}.{each}" for each in ("names", *_ASSIGNABLE)} | self._entries()
        raise TypeError(f"{self._name()}[{name!r}]: a group has attributes{remedy(str(name), places)}")

    def __setitem__(self, name: Any, value: Any) -> None:
        """Raise the same error."""
        self[name]

    @property
    def ranges(self) -> Ranges:
        """The elements of the group in the flat buffer, as pairs of begin and end. Adjacent ranges are merged."""
        return self._optimizer._ranges[self._index]

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the arrays that have elements in the group, or None if the parameters are not a pack.

        An array with several names is listed once, under the first one.
        """
        places = self._optimizer._places
        return None if places is None else places.names_in(self.ranges)

    @property
    def size(self) -> int:
        """The number of elements, including those of padding."""
        return size_of(self.ranges)

    @property
    def step_count(self) -> int | None:
        """The number of steps that the group has taken, or None if its elements differ in this number.

        Steps of the optimizer do not count while the group is frozen.
        """
        return self._optimizer._step_count_of(self._index)

    @property
    def hyper(self) -> Hyper:
        """The numeric arguments that act in the group, by name. They are used like ``opt.hyper``.

        A number that is assigned here is the group's own from then on: ``opt.hyper[name] = value`` does not change it.
        """
        return Hyper(self)

    @hyper.setter
    def hyper(self, changes: Mapping[str, Any]) -> None:
        self._change_hyper(dict(changes))

    @property
    def lr(self) -> float:
        """The learning rate of the next step in the group.

        Assign a number, a schedule or a callable to give the group a rate of its own, which the optimizer's schedule
        does not change. Assign None to return to the optimizer's rate.
        """
        opt, own = self._optimizer, self._own
        return opt._rate_after(opt.step_count, own.schedule or opt.schedule) * own.lr_scale

    @lr.setter
    def lr(self, lr: schedules.Rate | None) -> None:
        def changed(own: GroupSettings) -> dict[str, Any]:
            schedule = None if lr is None else schedules.as_schedule(lr)
            if schedule is not None and own.lr_scale != 1:
                raise ValueError(f"lr: the group has lr_scale={own.lr_scale}; assign lr_scale = 1 first")
            return {"schedule": schedule}

        self._change("lr", changed)

    @property
    def schedule(self) -> schedules.Schedule | None:
        """The schedule of the group's own rate, or None if it takes the optimizer's rate. Assign to `lr` to replace it."""
        return self._own.schedule

    @property
    def lr_scale(self) -> float:
        """The factor by which the optimizer's rate is multiplied in the group."""
        return self._own.lr_scale

    @lr_scale.setter
    def lr_scale(self, lr_scale: float) -> None:
        def changed(own: GroupSettings) -> dict[str, Any]:
            checked = CHECKS["lr_scale"]("lr_scale", lr_scale)
            if own.schedule is not None and checked != 1:
                raise ValueError(
                    "lr_scale: multiplies the optimizer's rate, but the group has its own; assign lr = None first"
                )
            return {"lr_scale": checked}

        self._change("lr_scale", changed)

    @property
    def frozen(self) -> bool:
        """Whether steps skip the group. Its parameters, gradients and states are then neither read nor written."""
        return self._own.frozen

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        self._change("frozen", lambda _: {"frozen": CHECKS["frozen"]("frozen", frozen)})

    @property
    def maximize(self) -> bool:
        """Whether the objective is maximized instead of minimized."""
        own = self._own.maximize
        return bool(self._optimizer.options["maximize"]) if own is None else own

    @maximize.setter
    def maximize(self, maximize: bool) -> None:
        self._change("maximize", lambda _: {"maximize": CHECKS["maximize"]("maximize", maximize)})

    @property
    def _own(self) -> GroupSettings:
        return self._optimizer._settings.groups[self._index]

    @property
    def _hyperparameters(self) -> Mapping[str, Any]:
        return self._optimizer._settings.numbers()[self._index]

    def _number_of_next_step(self, name: str, value: Any) -> Any:
        prefix = prefix_of(self._index) if name in self._own.hyper else ""
        return self._optimizer._number_of_next_step(name, value, prefix)

    def _change_hyper(self, changes: Mapping[str, Any]) -> None:
        with naming(self._name()):
            checked = _arguments.known_numbers(changes, self._optimizer._settings.hyper)
        self._change("hyper", lambda own: {"hyper": {**own.hyper, **checked}})

    def _change(self, name: str, changed: Callable[[GroupSettings], dict[str, Any]]) -> None:
        """Replace some of the group's own settings; `changed` returns their new values."""

        def of_group(settings: Settings) -> Settings:
            return settings.with_group(self._index, **changed(settings.groups[self._index]))

        self._optimizer._require_groups(f"{self._name()}.{name}")
        with naming(self._name()):
            self._optimizer._change_settings(of_group)

    def _name(self) -> str:
        return f"opt.groups[{self._index}]"

    def _entries(self) -> dict[str, str]:
        """Return, by name, the expressions that read the hyperparameters."""
        return {name: f'{self._name()}.hyper["{name}"]' for name in self._hyperparameters}

    def __repr__(self) -> str:
        own = self._own
        names = self.names
        shown = {
            **({} if names is None else {"names": names}),
            "size": self.size,
            **({} if own.schedule is None else {"lr": shown_rate(own.schedule)}),
            **({} if own.lr_scale == 1 else {"lr_scale": own.lr_scale}),
            **own.hyper,
            **({} if own.maximize is None else {"maximize": own.maximize}),
            **({"frozen": True} if own.frozen else {}),
            "step_count": self.step_count,
        }
        return f"Group({', '.join(f'{name}={_shown(value)}' for name, value in shown.items())})"


def _shown(value: Any) -> str:
    """Return the repr of a value, shortened if it is a tuple of many names."""
    return reprlib.repr(value) if isinstance(value, tuple) else repr(value)


_ASSIGNABLE = ("hyper", "lr", "lr_scale", "frozen", "maximize")


@explain_attributes("append", "add_param_group")
class Groups(Sequence[Group]):
    """The groups of an optimizer: the elements that no group names, then the groups in the order of the constructor."""

    __slots__ = ("_optimizer",)

    def __init__(self, optimizer: _Grouped) -> None:
        self._optimizer = optimizer

    def __len__(self) -> int:
        return len(self._optimizer._ranges)

    @overload
    def __getitem__(self, index: int) -> Group: ...
    @overload
    def __getitem__(self, index: slice) -> list[Group]: ...
    def __getitem__(self, index: int | slice) -> Group | list[Group]:
        count = len(self)
        try:
            found = range(count)[index]
        except (IndexError, TypeError) as error:
            raise type(error)(
                f"opt.groups: expected an index from {-count} to {count - 1}, got {safe_repr(index)}"
            ) from None
        return (
            Group(self._optimizer, found)
            if isinstance(found, int)
            else [Group(self._optimizer, i) for i in found]
        )

    def __repr__(self) -> str:
        return f"[{', '.join(map(repr, self))}]"
