"""Parts of a flat buffer, as ranges of elements."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from lrcore._checks import is_integer, safe_repr

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""The elements of a group: pairs of begin and end, in order, none of which touch."""

SELECTORS = "a slice, a pair (begin, end) or, for a Pack, a name, pattern or predicate"
"""What the entry `params` of a group may be, apart from a list of these."""


def is_pair(value: Any) -> bool:
    """Return whether a value is a tuple of two integers. A list of integers may be meant as indices."""
    return isinstance(value, tuple) and len(value) == 2 and all(map(is_integer, value))


def range_of(given: Any, size: int) -> tuple[int, int]:
    """Return the begin and end of a slice or pair. Negative indices count from the end."""
    if isinstance(given, slice):
        if given.step is not None and not (is_integer(given.step) and given.step == 1):
            raise ValueError(f"params: expected slices with step 1, got {safe_repr(given)}")
        bounds = (0 if given.start is None else given.start, size if given.stop is None else given.stop)
    elif is_pair(given):
        bounds = given
    else:
        raise TypeError(f"params: expected {SELECTORS}, got {reprlib.repr(given)}")
    if not all(map(is_integer, bounds)):
        raise TypeError(f"params: expected a slice of integers, got {safe_repr(given)}")
    begin, end = (int(each) + size if each < 0 else int(each) for each in bounds)
    if not (0 <= begin <= size and 0 <= end <= size):
        raise ValueError(f"params: expected a range inside the {size} elements, got {safe_repr(given)}")
    if begin >= end:
        raise ValueError(f"params: expected a range that is not empty, got {safe_repr(given)}")
    return begin, end


def first_overlap(
    ranges: Iterable[Iterable[tuple[int, int]]],
) -> tuple[tuple[int, int, int], tuple[int, int, int]] | None:
    """Return two ranges that overlap, each with the index of its group, or None. The ranges are listed by group."""
    every = sorted((*each, i) for i, of_group in enumerate(ranges) for each in of_group)
    return next((pair for pair in itertools.pairwise(every) if pair[1][0] < pair[0][1]), None)


def require_disjoint(ranges: Iterable[Iterable[tuple[int, int]]]) -> None:
    """Raise ValueError if two ranges, which are listed by group, overlap."""
    if overlap := first_overlap(ranges):
        (begin, end, i), (other_begin, other_end, j) = overlap
        raise ValueError(
            f"groups[{j}]: params: {other_begin}:{other_end} overlaps {begin}:{end} of groups[{i}]"
        )


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Return the ranges in order, merging those that touch."""
    found: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if found and found[-1][1] == begin:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return tuple(found)


def rest_of(groups: Iterable[Ranges], size: int) -> Ranges:
    """Return the ranges that no group has."""
    named = sorted(itertools.chain.from_iterable(groups))
    bounds = [0, *itertools.chain.from_iterable(named), size]
    between = zip(bounds[::2], bounds[1::2], strict=True)
    return tuple((begin, end) for begin, end in between if begin < end)


def size_of(ranges: Ranges) -> int:
    """Return the number of elements in the ranges."""
    return sum(end - begin for begin, end in ranges)


def part_of(ranges: Ranges, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of the elements `begin` to `end` of a group, which are counted within the group."""
    for first, last in ranges:
        low, high = max(begin, 0), min(end, last - first)
        if low < high:
            yield first + low, first + high
        begin, end = begin - (last - first), end - (last - first)
