"""State dictionaries of a `lrcore.torch.FusedOptimizer`, in PyTorch's form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lrcore._checks import integer, naming, require_entries, sequence
from lrcore._lrcore_core import to_float
from lrcore.optimizers import Optimizer, _arguments, _changing, _torch_state
from lrcore.optimizers._changing import mapped, schedules_in
from lrcore.optimizers._settings import (
    AVERAGE,
    WholeSettings,
    require_alike_averages,
    restored_whole,
    stored_whole,
)
from lrcore.schedules import Constant
from lrcore.schedules._state import Restored, chosen, numbers_of, states_of
from lrcore.torch._buffer import Buffer
from lrcore.torch._param_groups import Source, is_same
from lrcore.torch._parameters import label
from lrcore.torch._state import fitting, require_states

FIXED_VALUES = {"capturable", "initial_accumulator_value"}
"""Entries of PyTorch's groups that are fixed in the constructor, besides the structural options."""
FOLLOWS = "param_groups[0]"
"""The stored schedule of a group whose rate comes from the schedule of the first group."""


def texts(
    optimizer: Optimizer, step_count: int, sources: Sequence[Source], counts: Sequence[Sequence[int]]
) -> list[str]:
    """Return, for each group, the JSON text of the entries that PyTorch's form lacks.

    `counts` has the step counts of the parameters in each group, as far as PyTorch's form has them.
    """
    whole = optimizer._settings.whole
    every = [schedule for source in sources for schedule in source.schedules()]
    numbers = numbers_of([*every, *(each for value in whole.numbers() for each in schedules_in(value))])
    found = []
    for i, source in enumerate(sources):
        entries: dict[str, Any] = {"rule": optimizer.rule, "step_count": step_count}
        if i and is_same(source.rate, sources[0].rate) and type(source.rate) is not Constant:
            entries["schedule"] = FOLLOWS
        else:
            stored = _changing.stored_schedule(source.rate, numbers)
            if stored["schedule"] is not None:
                entries["schedule"] = stored["schedule"]
            if stored["schedule_state"]:
                entries["schedule_state"] = stored["schedule_state"]
        changing = {
            name: _changing.stored(value, numbers)
            for name, value in source.hyper.items()
            if schedules_in(value)
        }
        if changing:
            entries["hyper"] = changing
        if i == 0:
            entries |= stored_whole(whole, numbers) | {"skipped_steps": optimizer.skipped_steps}
        if (least := min(counts[i], default=0)) > step_count:
            entries[_torch_state.LEAST] = least
        found.append(json.dumps(entries, allow_nan=False))
    return found


class Loaded(NamedTuple):
    """A checked parameter group of a dictionary."""

    hyper: dict[str, Any]
    options: dict[str, Any]
    lr: float
    own: Mapping[str, Any] | None
    """The entries that lrcore wrote; None if they are missing or outdated."""
    states: list[dict[str, Any]]
    """The entries of each parameter, in the order of the group of the optimizer."""
    carried: dict[str, Any]
    """The entries that the optimizer does not use."""


def read(
    dictionary: Mapping[str, Any],
    groups: Sequence[Mapping[str, Any]],
    names: Sequence[Sequence[str]],
    optimizer: Optimizer,
    shown: Mapping[str, Any],
) -> list[Loaded]:
    """Check the groups of a dictionary for an optimizer with these groups, of which each has the entries `shown`.

    `names` has the names of the parameters of each group in messages.
    """
    given = _torch_state.groups_in(
        dictionary.get("param_groups"), len(groups), "make the optimizer with groups of the same parameters"
    )
    keys = []
    for i, (group, own) in enumerate(zip(given, groups, strict=True)):
        with naming(label(i)):
            if len(group["params"]) != len(own["params"]):
                raise ValueError(
                    f"params: expected {len(own['params'])} parameters, got {len(group['params'])}"
                )
            keys += group["params"]
    of_keys = iter(_torch_state.states_in_order(dictionary.get("state"), keys))
    every = [[next(of_keys) for _ in group["params"]] for group in given]
    for of_group, states in zip(names, every, strict=True):
        for name, entries in zip(of_group, states, strict=True):
            with naming(name):
                to_float("step", entries.get("step", 0.0))
    return [
        _loaded(i, dictionary, group, own, states, optimizer, shown)
        for i, (group, own, states) in enumerate(zip(given, groups, every, strict=True))
    ]


def _loaded(
    i: int, dictionary: Mapping[str, Any], group: Mapping[str, Any], own: Mapping[str, Any],
    states: list[dict[str, Any]], optimizer: Optimizer, shown: Mapping[str, Any],
) -> Loaded:  # fmt: skip
    """Check one group."""
    kind = optimizer._kind()
    with naming(label(i)):
        text = _torch_state.own_entry(dictionary, group, states)
    if text is not None:
        integer("step_count", text["step_count"], 0)
        if text["rule"] != optimizer.rule:
            raise ValueError(f"rule: expected {optimizer.rule}, got {text['rule']}")
    found = {name: value for name, value in group.items() if name in shown or name in _torch_state.FIXED}
    if text is None:  # written by torch.optim
        known = _torch_state.peer_of(kind).options
        defaults = _torch_state.options_in_group(kind.default_options)
        there = [each for each in known if each not in _torch_state.LATER]
        optional = (*_torch_state.LATER, *(defaults.keys() - {*there}))
        found.pop("decay", None)
        require_entries(label(i), found, ("lr", *optimizer._hyperparameters, *there), *optional)
        found = defaults | found
    else:
        # PyTorch's optimizers can lose some entries.
        later = tuple(name for name in shown if name in _torch_state.LATER)
        require_entries(label(i), found, tuple(name for name in shown if name not in later), *later)
        found = dict.fromkeys(later, False) | found
    with naming(label(i)):
        _torch_state.require_not_differentiable(group)
        hyper = _arguments.numbers(found)
        options = _torch_state.require_same_options(found, optimizer._options)
        states = _in_order(group, own, states)
        others = {
            "params",
            _torch_state.OWN,
            *shown,
            *FIXED_VALUES,
            *(["param_names"] if "param_names" in own else []),
        }
        carried = {name: value for name, value in group.items() if name not in others}
        lr = to_float("lr", found["lr"])
        if text is None or not math.isnan(lr):  # the rate of a callable before its first step
            lr = Constant(lr).lr
        return Loaded(hyper, options, lr, text, states, carried)


def _in_order(
    group: Mapping[str, Any], own: Mapping[str, Any], states: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the states in the order of the optimizer's group: by name if both have names, otherwise by position."""
    names, given = own.get("param_names"), group.get("param_names")
    if names is None or given is None:
        return states
    given = sequence("param_names", given)
    if len(given) != len(states) or sorted(map(str, given)) != sorted(map(str, names)):
        missing = [name for name in names if name not in given]
        raise ValueError(f"param_names: expected {[*names]}, got {[*given]}; {missing} are missing")
    by_name = dict(zip(given, states, strict=True))
    return [by_name[name] for name in names]


class Steps(NamedTuple):
    """The step counts in a dictionary."""

    of_optimizer: int
    of_parameters: list[list[int]]
    """By group."""


def steps_in(
    loaded: Sequence[Loaded],
    names: Sequence[Sequence[str]],
    kind: _torch_state.Kind,
    given: int | None,
    states: Sequence[str],
) -> Steps:
    """Return the step counts.

    PyTorch's SGD stores none, so `given` can be the caller's number for it, or None. `names` is the argument of `read`.
    """
    own = loaded[0].own
    if kind.name != "SGD":
        if given is not None:
            raise ValueError(f"step_count: PyTorch's {kind.name} counts its steps; leave it out")
        counts = [
            [_count(name, each, own) for name, each in zip(of_group, group.states, strict=True)]
            for of_group, group in zip(names, loaded, strict=True)
        ]
        most = max((count for group in counts for count in group), default=0)
        return Steps(most if own is None else own["step_count"], counts)
    begun = any(each for group in loaded for each in group.states)
    damped = any(group.hyper["dampening"] for group in loaded) and begun
    if given is not None:
        step_count = integer("step_count", given, 0)
        if damped and not step_count:
            raise ValueError(
                "step_count: expected at least 1, because the momentum has begun and the next gradient is damped"
            )
    elif own is not None:
        step_count = own["step_count"]
    else:
        step_count = int(damped)
    # With momentum, a parameter has a buffer from its first step on.
    counts = [
        [
            (max(step_count, 1) if each else 0) if states and group.hyper["momentum"] else step_count
            for each in group.states
        ]
        for group in loaded
    ]
    return Steps(step_count, counts)


def _count(name: str, entries: Mapping[str, Any], own: Mapping[str, Any] | None) -> int:
    """Return the step count of a parameter; the exact one that lrcore stored if PyTorch's float32 is that number."""
    if not entries:
        return 0
    with naming(name):
        if "step" not in entries:
            raise ValueError("step: missing")
        count = _torch_state.whole(to_float("step", entries["step"]))
        if own is not None and count == _torch_state.as_float32(own["step_count"]):
            return int(own["step_count"])
        return integer("step", count, 0)


def check_products(loaded: Sequence[Loaded], names: Sequence[Sequence[str]], steps: Steps) -> None:
    """Raise ValueError if NAdam's momentum products do not follow from the current momenta."""
    for group, of_group, counts in zip(loaded, names, steps.of_parameters, strict=True):
        products = {count: _torch_state.momentum_product(count, group.hyper) for count in {*counts}}
        for entries, name, count in zip(group.states, of_group, counts, strict=True):
            if not entries:
                continue
            with naming(name):
                product = to_float("mu_product", entries.get("mu_product", 1.0))
                _torch_state.require_product(product, products[count])


def states_for(
    buffer: Buffer, loaded: Sequence[Loaded], places: Mapping[int, tuple[int, int]]
) -> dict[str, Any]:
    """Return the flat states of a buffer. `places` has the group and the index there of each parameter by its index."""
    names = tuple(buffer.optimizer.state)
    found = []
    for k, slot in enumerate(buffer.slots):
        i, j = places[slot.number]
        group = loaded[i]
        entries = group.states[j]
        name = slot.name
        if entries:
            begun = {AVERAGE: None} if AVERAGE in names and group.own is None else {}
            require_states(name, begun | entries, names, group.hyper)
        views = buffer.states[k]
        found.append(
            {
                each: fitting(f"{name}: {each}", entries[each], views[each])
                for each in names
                if each in entries
            }
        )
    return buffer.flat_states(found)


def check_averages(loaded: Sequence[Loaded], ema: Any) -> None:
    """Raise ValueError unless both a dictionary and the optimizer, with this decay or None, have averages, or neither.

    In a dictionary of PyTorch's optimizer, averages may be missing.
    """
    own = loaded[0].own
    stored = None if own is None else own.get("ema")
    has_averages = stored is not None or any(AVERAGE in each for group in loaded for each in group.states)
    if ema is None or own is not None:
        require_alike_averages(has_averages, stored, ema)


def sources_in(
    loaded: Sequence[Loaded], sources: Sequence[Source], whole: WholeSettings
) -> tuple[list[Source], WholeSettings, list[tuple[Any, str, Any]]]:
    """Return the numbers of the groups, the settings of the whole optimizer, and the attributes of plateaus to assign.

    Schedules that equal the current ones are kept, and so are those of which a dictionary has only the numbers, and the
    current `whole` settings if it has none.
    """
    numbered: dict[int, Any] = {}
    rates: list[Any] = []
    hypers = []
    for i, (group, source) in enumerate(zip(loaded, sources, strict=True)):
        with naming(label(i)):
            rates.append(_rate(group, source, numbered) or rates[0])
            stored = {} if group.own is None else group.own.get("hyper", {})
            hyper = group.hyper | _changing.restored(
                require_entries("hyper", stored, (), *group.hyper), source.hyper, numbered
            )
            if group.own is None:
                hyper |= {name: value for name, value in source.hyper.items() if schedules_in(value)}
            hypers.append(hyper)
    restored = restored_whole(loaded[0].own or {}, whole, numbered)
    values = [*rates, *(value for hyper in hypers for value in hyper.values()), *restored.numbers()]
    every = {id(each): each for value in values for each in _parts(value) if isinstance(each, Restored)}
    schedules, to_set = chosen([*every.values()])
    final = dict(zip(every, schedules, strict=True))

    def settle(value: Any) -> Any:
        return mapped(value, lambda each: final.get(id(each), each))

    settled = [
        Source(
            settle(rate), {name: settle(value) for name, value in hyper.items()}, group.options["maximize"]
        )
        for rate, hyper, group in zip(rates, hypers, loaded, strict=True)
    ]
    return settled, restored.mapped(settle), to_set


def _parts(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def _rate(group: Loaded, source: Source, numbered: dict[int, Any]) -> Any:
    """Return the rate of a group, as a `Restored` if it is a schedule, or None if it is that of the first group."""
    kept = source.rate if type(source.rate) is not Constant else None
    if group.own is None:
        return Constant(group.lr) if kept is None else Restored.read(kept, None, states_of(kept), numbered)
    if "schedule" not in group.own:  # a callable
        states = group.own.get("schedule_state", states_of(source.rate))
        return Restored.read(source.rate, None, states, numbered)
    stored = group.own["schedule"]
    if stored == FOLLOWS:
        return None
    if isinstance(stored, Mapping) and stored.get("schedule") == "Constant":
        return Constant(group.lr)
    return Restored.read(source.rate, stored, group.own.get("schedule_state", ()), numbered)
