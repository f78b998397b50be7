"""The entry `params` of a parameter group: slices of the flat buffer, or names and predicates for a pack's arrays."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from lrcore._checks import flag, is_list, naming, safe_repr
from lrcore._names import nearest
from lrcore.optimizers._places import Places
from lrcore.optimizers._ranges import (
    SELECTORS,
    Ranges,
    first_overlap,
    is_pair,
    merged,
    range_of,
    require_disjoint,
)


class Selection(NamedTuple):
    """The elements of a group, in the order of the entry."""

    names: list[str]
    """The arrays that names and predicates select, by first name, each once."""
    ranges: list[tuple[int, int]]
    """The ranges of slices and pairs."""


def _selected(group: Any, size: int, places: Places | None) -> Selection:
    """Return the elements that the entry `params` of a group selects from a buffer of `size` elements.

    `places` has the places of the arrays if the parameters are a pack.
    """
    if not isinstance(group, Mapping):
        raise TypeError(f"expected a dictionary, got {type(group).__name__}")
    if "params" not in group:
        raise TypeError(f"params: missing; expected {SELECTORS}, or a list of these")
    params = group["params"]
    names: dict[str, None] = {}
    ranges: list[tuple[int, int]] = []
    for each in params if is_list(params) and not is_pair(params) else [params]:
        if isinstance(each, str) or callable(each):
            if places is None:
                raise TypeError(
                    f"params: expected a slice or a pair (begin, end), got {safe_repr(each)}; names and predicates "
                    "select arrays of a Pack: pass the Pack instead of its .flat"
                )
            matching = _named(each, places) if isinstance(each, str) else _accepted(each, places)
            names |= dict.fromkeys(matching)
        else:
            ranges.append(range_of(each, size))
            if places is not None and not places.names_in(ranges[-1:]):
                begin, end = ranges[-1]
                raise ValueError(f"params: expected elements of arrays, got {begin}:{end}, which is padding")
    if not names and not ranges:
        raise ValueError("params: expected at least one entry, got an empty list")
    return Selection([*names], ranges)


def _named(pattern: str, places: Places) -> Iterable[str]:
    """Return the first name of each array of which a name equals the pattern or, if there is none, matches it."""
    if pattern in places.first:
        return [places.first[pattern]]
    found = [first for name, first in places.first.items() if fnmatchcase(name, pattern)]
    if not found:
        names = [*places.first]
        meant = _meant_by(pattern, names)
        hint = f"; did you mean {meant!r}?" if meant else ""
        raise ValueError(f"params: {pattern!r} matches none of the names {_shortened(names)}{hint}")
    return found


def _meant_by(pattern: str, names: Sequence[str]) -> str | None:
    """Return the name or pattern that a pattern without a match probably stands for, or None."""
    for likely in (f"{pattern}.*", f"*.{pattern}"):
        if any(fnmatchcase(name, likely) for name in names):
            return likely
    return nearest(pattern, _patterns(names) if "*" in pattern else names)


def _patterns(names: Iterable[str]) -> list[str]:
    """Return the patterns for all arrays inside each part of a pack, and for all arrays of the same last name."""
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        found |= dict.fromkeys(".".join([*parts[:i], "*"]) for i in range(1, len(parts)))
        found[f"*.{parts[-1]}"] = None
    return [*found]


def _accepted(predicate: Callable[[str, tuple[int, ...]], object], places: Places) -> Iterable[str]:
    """Return the first name of each array for which the predicate is True under at least one name."""
    found = []
    for name, place in places.by_name.items():
        try:
            answer = predicate(name, place.shape)
        except Exception as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"params: the predicate raised {type(error).__name__} for {name}: {error}") from error
        if flag(f"params: the predicate for {name}", answer):
            found.append(places.first[name])
    if not found:
        raise ValueError(f"params: the predicate is True for none of the names {_shortened([*places.first])}")
    return found


def _shortened(names: list[str]) -> str:
    shortened = reprlib.Repr()
    shortened.maxlist, shortened.maxstring = 20, 80
    return shortened.repr(names)


def all_selected(groups: Any, size: int, places: Places | None) -> list[Selection]:
    """Return the elements of each dictionary in the argument `groups`.

    Raises TypeError if it is not a list of dictionaries, and ValueError if two groups name the same array.
    """
    if not is_list(groups):
        raise TypeError(f"groups: expected a list of dictionaries, got {type(groups).__name__}")
    found: list[Selection] = []
    owners: dict[str, int] = {}
    for i, group in enumerate(groups):
        with naming(f"groups[{i}]"):
            found.append(_selected(group, size, places))
            for name in found[-1].names:
                if owners.setdefault(name, i) != i:
                    raise ValueError(_in_two(name, owners[name]))
    return found


def ranges_by_group(selections: Sequence[Selection], places: Places | None) -> list[Ranges]:
    """Return the ranges of each group, with the padding after its arrays; raise ValueError if any two overlap."""
    found = []
    for names, ranges in selections:
        if places is None:
            found.append(ranges)
        else:
            of_arrays = [(places.by_name[name].begin, places.by_name[name].end) for name in names]
            found.append([*places.padded([*ranges, *of_arrays])])
    if places is not None and (overlap := first_overlap(found)):
        (_, _, i), (begin, _, j) = overlap
        if i != j:
            (name,) = places.names_in([(begin, begin + 1)])
            raise ValueError(f"groups[{max(i, j)}]: {_in_two(name, min(i, j))}")
    require_disjoint(found)
    return [merged(each) for each in found]


def _in_two(name: str, other: int) -> str:
    """Return the message for an array that is also in another group."""
    return f"params: {name} is also in groups[{other}]"
