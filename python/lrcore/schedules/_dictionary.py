"""Conversion of schedules to JSON-safe dictionaries and back.

A schedule inside another is usually a dictionary among the arguments of the outer one. Two kinds of schedules are
instead stored in the list `shared` of the outermost dictionary, and ``{"shared": index}`` takes their place. The first
kind occurs in several places. The second kind limits the depth of the dictionary: the numbers of levels are divided
into groups of ten (1 to 10, 11 to 20, and so on), and a schedule is stored in `shared` if its number is in a lower
group than that of the schedule around it.

A stateful schedule that an optimizer uses in several of its schedules has a number under ``id`` in the dictionary of
each of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lrcore._checks import integer, sequence
from lrcore._names import remedy
from lrcore.schedules._depth import SLICE, Steps, unrolled
from lrcore.schedules._formula import Formula

_SHARED = "shared"
_ID = "id"
_MOST = 10**6
"""Maximum number of nested schedules, counting each occurrence. A short `shared` list could represent any number."""

_FORMERLY_WARMUP = ("InverseSqrt", "Noam", "WarmupStableDecay")
"""Classes whose argument `warmup_steps` was formerly stored as `warmup`."""

_LISTS = 2
"""Largest depth of nested lists: a list of parts, which are pairs."""


def encode(schedule: Formula, numbers: Mapping[int, int] = MappingProxyType({})) -> dict[str, Any]:
    """Return a schedule as a dictionary, as described by `Schedule.to_dict`.

    `numbers` has the number of each stateful schedule that is also in other schedules, by its `id`.
    """
    _require_size(schedule)
    for each in schedule._nested():
        if each._holds_callable:
            raise TypeError(f"{each!r} has no dictionary form: a callable cannot be stored")
        if not each._is_own:
            raise TypeError(
                f"{each!r} has no dictionary form: {type(each).__name__} is not from {__package__}"
            )
    writer = _Writer(schedule, numbers)
    dictionary: dict[str, Any] = unrolled(writer.dictionary_of(schedule))
    return dictionary | ({_SHARED: writer.shared} if writer.shared else {})


def _require_size(schedule: Formula) -> None:
    if schedule._size > _MOST:
        raise ValueError(f"schedule: expected at most {_MOST} nested schedules, got more")


class _Writer:
    """Converts a schedule to a dictionary, and collects its shared schedules."""

    def __init__(self, schedule: Formula, numbers: Mapping[int, int]) -> None:
        self.shared: list[dict[str, Any]] = []
        self._numbers = numbers
        self._indices: dict[int, int] = {}
        self._repeated = _repeated(schedule)

    def dictionary_of(self, schedule: Formula) -> Steps:
        dictionary: dict[str, Any] = {"schedule": type(schedule).__name__}
        if id(schedule) in self._numbers:
            dictionary[_ID] = self._numbers[id(schedule)]
        for name, value in schedule._arguments():
            dictionary[name] = yield self._encoded(value, schedule._height)
        return dictionary

    def _encoded(self, value: Any, height: int) -> Steps:
        """Return an argument as JSON-safe data. `height` is the height of its schedule."""
        if isinstance(value, tuple):
            entries = []
            for each in value:
                entries.append((yield self._encoded(each, height)))
            return entries
        if not isinstance(value, Formula):
            return value
        key = id(value)
        if key not in self._indices:
            dictionary = yield self.dictionary_of(value)
            is_inside = not value._height or (value._height - 1) // SLICE == (height - 1) // SLICE
            if is_inside and key not in self._repeated:
                return dictionary
            self._indices[key] = len(self.shared)
            self.shared.append(dictionary)
        return {_SHARED: self._indices[key]}


def _repeated(schedule: Formula) -> set[int]:
    """Return the ids of schedules that occur in several places, except those that have neither children nor a state."""
    met, repeated, waiting = set(), set(), [schedule]
    while waiting:
        each = waiting.pop()
        if id(each) not in met:
            met.add(id(each))
            waiting += each._children
        elif each._children or each._has_state:
            repeated.add(id(each))
    return repeated


def decode(dictionary: Mapping[str, Any], numbered: dict[int, Formula] | None = None) -> Any:
    """Return the schedule described by a dictionary, as documented in `from_dict`.

    `numbered` has the stateful schedules with a number that other dictionaries contained. Those of this dictionary are
    added to it.
    """
    if not isinstance(dictionary, Mapping):
        raise TypeError(f"schedule: expected a dictionary, got {type(dictionary).__name__}")
    reader = _Reader({} if numbered is None else numbered)
    entries = dict(dictionary)
    for each in sequence(_SHARED, entries.pop(_SHARED, ())):
        if not isinstance(each, Mapping):
            raise TypeError(f"{_SHARED}: expected a dictionary, got {type(each).__name__}")
        reader.shared.append(unrolled(reader.schedule_of(each)))
    return unrolled(reader.schedule_of(entries))


def _class_of(name: Any) -> type[Any] | None:
    """Return the schedule class of this name, or None if a dictionary may not name it."""
    cls = Formula._classes.get(name) if isinstance(name, str) and not name.startswith("_") else None
    return None if cls is None or cls._holds_callable or not dataclasses.is_dataclass(cls) else cls


class _Reader:
    """Converts dictionaries to schedules."""

    def __init__(self, numbered: dict[int, Formula]) -> None:
        self._numbered = numbered
        self.shared: list[Formula] = []
        """Schedules that later dictionaries may refer to."""
        self._open: set[int] = set()
        """The ids of the dictionaries being read."""

    def schedule_of(self, dictionary: Mapping[str, Any]) -> Steps:
        if id(dictionary) in self._open:
            raise ValueError("schedule: expected a dictionary that does not contain itself")
        self._open.add(id(dictionary))
        arguments = dict(dictionary)
        name, number = arguments.pop("schedule", None), arguments.pop(_ID, None)
        cls = _class_of(name)
        if cls is None:
            known = {
                each: each for each, made in Formula._classes.items() if made._in_text and _class_of(each)
            }
            hint = remedy(name, known) if isinstance(name, str) else ""
            raise ValueError(f"schedule: expected the name of a schedule, got {name!r}{hint}")
        for each, value in arguments.items():
            arguments[each] = yield self._decoded(value)
        self._open.remove(id(dictionary))
        if name == "Product" and "other" in arguments and "factors" not in arguments:
            # from versions in which a product had one factor
            arguments["factors"] = [arguments.pop("other")]
        if name in _FORMERLY_WARMUP and "warmup" in arguments and "warmup_steps" not in arguments:
            arguments["warmup_steps"] = arguments.pop("warmup")
        try:
            schedule = cls(**arguments)
        except TypeError as error:
            shown = {
                each: value if not isinstance(value, Formula) else type(value)
                for each, value in arguments.items()
            }
            raise ValueError(f"schedule: {name} cannot be made from {shown}: {error}") from error
        _require_size(schedule)
        return schedule if number is None else self._first(schedule, integer(_ID, number, least=0))

    def _first(self, schedule: Formula, number: int) -> Formula:
        """Return the stateful schedule of this number, which is the given one if no other has been read."""
        first = self._numbered.setdefault(number, schedule)
        if not schedule._has_state or first != schedule:
            raise ValueError(
                f"{_ID}: expected equal stateful schedules with the number {number}, got {schedule!r}"
            )
        return first

    def _decoded(self, value: Any, lists: int = 0) -> Steps:
        """Return the argument that a value represents. `lists` is the number of lists around the value."""
        if isinstance(value, Mapping):
            if {*value} != {_SHARED}:
                return (yield self.schedule_of(value))
            index = integer(_SHARED, value[_SHARED], least=0)
            if index >= len(self.shared):
                raise ValueError(f"{_SHARED}: expected an index below {len(self.shared)}, got {index}")
            return self.shared[index]
        if isinstance(value, (list, tuple)):
            if lists == _LISTS:
                raise ValueError(f"schedule: expected lists nested at most {_LISTS} deep, got more")
            entries = []
            for each in value:
                entries.append((yield self._decoded(each, lists + 1)))
            return entries
        return value
