"""Numeric arguments that change from step to step: a schedule in place of a number, or in a pair of numbers."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from lrcore._checks import or_zero, require_entries
from lrcore._lrcore_core import to_float
from lrcore.optimizers._arguments import LIMITS, NUMBERS, SINGLE, flat_names, settable_number
from lrcore.schedules import Constant, Function, Schedule
from lrcore.schedules._dictionary import encode
from lrcore.schedules._state import Restored, states_of

if TYPE_CHECKING:
    from lrcore._lrcore_core import _Number


_ANY = Constant(0.0)


class Part(NamedTuple):
    """A numeric argument that is a single number, or one number of a pair."""

    argument: str
    flat: str
    """Its name among the hyperparameters of a rule, such as beta1."""
    label: str
    """Its name in messages, such as betas[0]."""
    value: Any
    """A number, or a schedule."""

    def check(self, value: Any, t: int) -> float:
        """Return the number of the step after `t` steps that a schedule returned, after checking its range."""
        try:
            number = to_float(self.label, value)
            if self.argument in NUMBERS:  # others stay in float64
                number = or_zero(number)
            if not 0 <= number < LIMITS[self.argument]:
                SINGLE[self.argument](self.label, number)  # raises the error
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{error} from the schedule at t = {t}") from None
        return number

    def at(self, t: int) -> Any:
        """Return the number of the step after `t` steps."""
        return self.check(self.source(t), t) if isinstance(self.value, Schedule) else self.value

    @property
    def source(self) -> Callable[[int], Any]:
        """The callable of the step count that returns the number. The result has not been checked."""
        return self.value.fn if type(self.value) is Function else self.value._value

    def for_core(self, source: Callable[[int], Any], places: list[tuple[int, int]]) -> _Number:
        """Return the schedule in the form of the core. `places` has the hyperparameters that take the number."""
        return source, self.check, LIMITS[self.argument], places


def parts_of(name: str, value: Any, prefix: str = "") -> Iterator[Part]:
    """Yield the parts of a numeric argument; `prefix` precedes its name in messages."""
    for i, (flat, each) in enumerate(zip(flat_names(name), _each(value), strict=True)):
        yield Part(
            name, flat, f"{prefix}{name}[{i}]" if isinstance(value, tuple) else f"{prefix}{name}", each
        )


def schedules_in(value: Any) -> list[Schedule]:
    """Return the schedules in the value of a numeric argument."""
    return [each for each in _each(value) if isinstance(each, Schedule)]


def value_at(name: str, value: Any, t: int, prefix: str = "") -> Any:
    """Return the number, or the pair of numbers, of the step after `t` steps."""
    numbers = tuple(each.at(t) for each in parts_of(name, value, prefix))
    return numbers if isinstance(value, tuple) else numbers[0]


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return the value of a numeric argument with `change` applied to each part."""
    return tuple(map(change, value)) if isinstance(value, tuple) else change(value)


def stored(value: Any, numbers: Mapping[int, int]) -> Any:
    """Return the value of a numeric argument in a form that JSON can hold: a schedule becomes a dictionary.

    `numbers` has the numbers of plateaus that several schedules share.
    """
    return mapped(value, lambda each: stored_schedule(each, numbers) if isinstance(each, Schedule) else each)


def stored_schedule(schedule: Schedule, numbers: Mapping[int, int]) -> dict[str, Any]:
    """Return a dictionary with a schedule, which is None if it has no dictionary form, and with its states."""
    entries: dict[str, Any] = {"schedule": None}
    with suppress(TypeError):
        entries["schedule"] = encode(schedule, numbers)
    return entries | {"schedule_state": states_of(schedule)}


def restored_schedule(entries: Any, own: Any, numbered: dict[int, Any], what: str) -> Restored:
    """Return the schedule in a dictionary that `stored_schedule` returned, or the optimizer's own one.

    `what` is what the caller must assign if there is none.
    """
    require_entries(what, entries, ("schedule",), "schedule_state")
    if entries["schedule"] is None and not isinstance(own, Schedule):
        raise ValueError(
            f"{what}: not stored, because it came from a callable; make the optimizer, assign {what}, and call its load or "
            "load_state_dict"
        )
    kept = own if isinstance(own, Schedule) else None
    return Restored.read(kept, entries["schedule"], entries.get("schedule_state", ()), numbered)


def restored(hyper: Mapping[str, Any], own: Mapping[str, Any], numbered: dict[int, Any]) -> dict[str, Any]:
    """Check stored numeric arguments; return them with a `Restored` in place of each schedule.

    `own` has the optimizer's values.
    """
    found: dict[str, Any] = {}
    for name, value in hyper.items():
        given = tuple(value) if isinstance(value, (list, tuple)) else value  # JSON has lists
        if any(map(callable, _each(given))):
            raise TypeError(f"{name}: expected a number or a dictionary, got {reprlib.repr(value)}")
        # A schedule takes the place of each dictionary while the numbers and their form are checked.
        checked = settable_number(
            name, mapped(given, lambda each: _ANY if isinstance(each, Mapping) else each)
        )
        current = own.get(name)
        owns = current if isinstance(current, tuple) else (current,) * len(_each(checked))
        parts = [
            restored_schedule(each, its, numbered, name) if isinstance(each, Mapping) else number
            for each, its, number in zip(_each(given), owns, _each(checked), strict=True)
        ]
        found[name] = tuple(parts) if isinstance(checked, tuple) else parts[0]
    return found


def _each(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
