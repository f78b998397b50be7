"""The parameter groups in the state dictionary of an optimizer, in a form that JSON can hold."""

from __future__ import annotations

import itertools
import reprlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from lrcore._checks import flag, integer, is_list, naming, require_entries, safe_repr, sequence
from lrcore.optimizers import _changing
from lrcore.optimizers._places import Places
from lrcore.optimizers._ranges import Ranges, is_pair, merged, range_of, require_disjoint, rest_of
from lrcore.optimizers._settings import CHECKS, GroupSettings, Settings
from lrcore.schedules import Schedule


def stored(
    ranges: Sequence[Ranges],
    settings: Settings,
    counts: Sequence[tuple[int, int, int]],
    numbers: Mapping[int, int] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Return the entry `groups` of a state dictionary, which JSON can hold.

    The list is empty if the only group has no settings and no step counts of its own.

    `counts` has the ranges of elements that have taken fewer steps than the optimizer, in order, with their counts,
    and `numbers` the numbers of plateaus that several schedules share.
    """
    if settings.groups == (GroupSettings(),) and not counts:
        return []
    return [
        {
            "ranges": [[*each] for each in of_group],
            "hyper": {name: _changing.stored(value, numbers) for name, value in own.hyper.items()},
            "maximize": own.maximize,
            "lr_scale": own.lr_scale,
            "frozen": own.frozen,
            "step_counts": of_elements,
        }
        | ({} if own.schedule is None else _changing.stored_schedule(own.schedule, numbers))
        for of_group, own, of_elements in zip(ranges, settings.groups, _by_group(counts, ranges), strict=True)
    ]


def _by_group(counts: Sequence[tuple[int, int, int]], ranges: Sequence[Ranges]) -> list[list[list[int]]]:
    """Return the counts of each group's elements."""
    found: list[list[list[int]]] = [[] for _ in ranges]
    every = sorted((*each, i) for i, of_group in enumerate(ranges) for each in of_group)
    j = 0  # index of the range that has the next element
    for first, last, count in counts:
        begin = first
        while begin < last:
            _, end, i = every[j]
            if end <= begin:
                j += 1
            else:
                found[i].append([begin, min(end, last), count])
                begin = min(end, last)
    return found


_STORED = ("ranges", "hyper", "maximize", "lr_scale", "frozen", "step_counts")


def restored(
    groups: Any,
    ranges: Sequence[Ranges],
    settings: Settings,
    step_count: Any,
    places: Places | None,
    numbered: dict[int, Any],
) -> tuple[tuple[GroupSettings, ...], list[tuple[int, int, int]]]:
    """Check the entry `groups` of a state dictionary for an optimizer with these ranges and settings.

    `places` has the arrays if the parameters are a pack. `numbered` is that of `Restored.read`.

    Returns the settings of the groups, with a `Restored` in place of each schedule, and the counts of the elements that
    have taken fewer steps.
    """
    if groups is None and len(ranges) == 1:
        return (GroupSettings(),), []
    if not is_list(groups) or len(groups) != len(ranges):
        got = len(groups) if is_list(groups) else safe_repr(groups)
        raise ValueError(
            f"groups: expected {len(ranges)} as in this optimizer, got {got}; "
            "make the optimizer with the groups that were stored"
        )
    found: list[GroupSettings] = []
    counts: list[tuple[int, int, int]] = []
    for i, (group, of_group, own) in enumerate(zip(groups, ranges, settings.groups, strict=True)):
        with naming(f"groups[{i}]"):
            entry = require_entries("entries", group, _STORED, "schedule", "schedule_state")
            _require_same(entry["ranges"], of_group, places)
            schedule = _restored_schedule(entry, own.schedule, numbered)
            scale = CHECKS["lr_scale"]("lr_scale", entry["lr_scale"])
            if schedule is not None and scale != 1:
                raise ValueError(f"lr_scale: expected 1 in a group with a schedule, got {scale}")
            stored_hyper = require_entries("hyper", entry["hyper"], (), *settings.hyper)
            hyper = _changing.restored(stored_hyper, own.hyper, numbered)
            maximize = None if entry["maximize"] is None else flag("maximize", entry["maximize"])
            found.append(GroupSettings(hyper, maximize, schedule, scale, flag("frozen", entry["frozen"])))
            counts += _restored_counts(entry["step_counts"], of_group, step_count)
    return tuple(found), sorted(counts)


def _require_same(stored_ranges: Any, ranges: Ranges, places: Places | None) -> None:
    """Raise ValueError if stored ranges differ from those of the group."""
    pairs = tuple(map(_as_pair, stored_ranges)) if is_list(stored_ranges) else ()
    if not all(map(is_pair, pairs)) or pairs != ranges:
        what, expected, got = "ranges", reprlib.repr([*ranges]), reprlib.repr(stored_ranges)
        if places is not None and all(map(is_pair, pairs)):
            names, stored_names = (reprlib.repr([*places.names_in(each)]) for each in (ranges, pairs))
            if names != stored_names:
                what, expected, got = "names", names, stored_names
        raise ValueError(
            f"{what}: expected {expected}, got {got}; make the optimizer with the groups that were stored"
        )


def _restored_schedule(entry: Mapping[str, Any], own: Schedule | None, numbered: dict[int, Any]) -> Any:
    """Return the schedule of a group as a `Restored`, or None if it has none."""
    if "schedule" not in entry:
        if "schedule_state" in entry:
            raise ValueError("schedule_state: expected an entry schedule as well")
        return None
    entries = {name: entry[name] for name in ("schedule", "schedule_state") if name in entry}
    return _changing.restored_schedule(entries, own, numbered, "lr of the group")


def _restored_counts(counts: Any, ranges: Ranges, step_count: Any) -> list[tuple[int, int, int]]:
    """Check the ranges of elements that have taken fewer steps than the optimizer."""
    found = []
    ends = [end for _, end in ranges]
    for each in sequence("step_counts", counts):
        if not is_list(each) or len(each) != 3:
            raise TypeError(f"step_counts: expected lists of begin, end and count, got {safe_repr(each)}")
        begin, end, count = (integer("step_counts", number, 0) for number in each)
        i = bisect_right(ends, begin)
        if i == len(ranges) or not ranges[i][0] <= begin < end <= ends[i]:
            raise ValueError(f"step_counts: expected ranges of the group, got {begin}:{end}")
        if count > integer("step_count", step_count, 0):
            raise ValueError(
                f"step_counts: expected at most the optimizer's step count {step_count}, got {count}"
            )
        found.append((begin, end, count))
    for (_, end, _), (begin, _, _) in itertools.pairwise(sorted(found)):
        if begin < end:
            raise ValueError(f"step_counts: expected each element once, got {begin} twice")
    return found


def _as_pair(stored_range: Any) -> Any:
    """Return a stored range as a pair; JSON has it as a list."""
    return tuple(stored_range) if isinstance(stored_range, list) else stored_range


def ranges_in(groups: Any, size: int) -> tuple[Ranges, ...]:
    """Return the ranges in the entry `groups` of a state dictionary, after checking that they cover all elements."""
    if groups is None:
        return (rest_of((), size),)
    found: list[list[tuple[int, int]]] = []
    for i, group in enumerate(sequence("groups", groups)):
        with naming(f"groups[{i}]"):
            if not isinstance(group, Mapping) or "ranges" not in group:
                raise TypeError("expected a dictionary with the entry ranges")
            found.append([range_of(_as_pair(each), size) for each in sequence("ranges", group["ranges"])])
    require_disjoint(found)
    of_groups = tuple(merged(each) for each in found)
    if not of_groups or of_groups[0] != rest_of(of_groups[1:], size):
        raise ValueError("groups: expected groups that together have all elements")
    return of_groups


def moved(groups: Any, step_count: Any, former: Places, places: Places) -> Any:
    """Return the entry `groups` of a state dictionary for a buffer that has the same arrays in other places.

    Raises TypeError or ValueError if its ranges are not those of parts of the former buffer.
    """
    if not is_list(groups):  # `restored` raises the error
        return groups
    found = []
    for i, (entry, ranges) in enumerate(zip(groups, ranges_in(groups, former.size), strict=True)):
        with naming(f"groups[{i}]"):
            if "step_counts" not in entry:
                raise ValueError("step_counts: missing")
            counts = _restored_counts(entry["step_counts"], ranges, step_count)
        found.append(
            {
                **entry,
                "ranges": merged(former.moved_to(places, ranges)),
                "step_counts": [
                    [*each, count]
                    for begin, end, count in counts
                    for each in former.moved_to(places, [(begin, end)])
                ],
            }
        )
    return found
