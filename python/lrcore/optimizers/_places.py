"""Packs as parameters and gradients: their flat buffers, and the places of their arrays."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lrcore._checks import integer, naming, require_entries, sequence
from lrcore.pack._node import CACHE_LINE, Node, Place

_LISTED = 20
"""The largest number of names that a message lists."""


def flat_of(array: Any) -> Any:
    """Return the flat array of a pack, or any other object unchanged."""
    return array.flat if isinstance(array, Node) else array


def gradients_of(params: Any, grads: Any, name: str = "grads") -> Any:
    """Return the flat array of gradients, which may be a pack if the parameters are one with the same layout.

    Any other object is returned unchanged. `name` is for messages.
    """
    if isinstance(grads, Node):
        if not isinstance(params, Node):
            raise TypeError(
                f"{name}: expected an array like params, got a {type(grads).__name__}; pass its .flat, or the pack as params"
            )
        params._require_same_layout(grads, name)
        try:
            return grads.flat
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return grads


class _Array(NamedTuple):
    """An array with elements, by its first name."""

    name: str
    begin: int
    end: int
    until: int
    """The end of the padding that follows it."""


class Places:
    """The places of named arrays in a flat buffer. A tied array has several names, all with the same place.

    The padding after an array belongs to the group of the array's last element.
    """

    def __init__(self, by_name: Mapping[str, Place]) -> None:
        self.by_name = by_name
        """The places by name, in the order of the pack."""
        firsts: dict[Any, str] = {}
        self.first = {
            # arrays without elements may have the same place without being tied
            name: firsts.setdefault(place if place.begin < place.end else name, name)
            for name, place in by_name.items()
        }
        """The first name of each array by each of its names."""
        self.distinct = {name: by_name[name] for name, first in self.first.items() if name == first}
        """The places by first name."""
        self.size = max((place.end for place in by_name.values()), default=0)
        """The number of elements of the buffer."""
        filled = sorted((p.begin, p.end, name) for name, p in self.distinct.items() if p.begin < p.end)
        ends = [*(begin for begin, _, _ in filled[1:]), self.size][: len(filled)]
        self._arrays = [
            _Array(name, begin, end, until) for (begin, end, name), until in zip(filled, ends, strict=True)
        ]
        self._by_first_name = {each.name: each for each in self._arrays}
        self._begins = [each.begin for each in self._arrays]

    def parts(self, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[_Array, int, int]]:
        """Yield each array in each of the ranges, with the begin and end of their intersection."""
        for begin, end in ranges:
            for i in range(max(bisect_right(self._begins, begin) - 1, 0), len(self._arrays)):
                array = self._arrays[i]
                if array.begin >= end:
                    break
                low, high = max(begin, array.begin), min(end, array.end)
                if low < high:
                    yield array, low, high

    def names_in(self, ranges: Iterable[tuple[int, int]]) -> tuple[str, ...]:
        """Return the first name of each array that has elements in the ranges."""
        return tuple(dict.fromkeys(array.name for array, _, _ in self.parts(ranges)))

    def moved_to(self, other: Places, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield the ranges that have the same elements of arrays in a buffer that has the same arrays elsewhere.

        Each range is in one array, with the padding after it if it ends with the array.
        """
        for array, low, high in self.parts(ranges):
            to = other._by_first_name[other.first[array.name]]
            yield (
                to.begin + low - array.begin,
                to.until if high == array.end else to.begin + high - array.begin,
            )

    def padded(self, ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield the ranges by array, each with the padding after it if it ends with the array."""
        return self.moved_to(self, ranges)

    def units(self) -> list[tuple[int, int]]:
        """Return the elements of each array that has some, in order, without padding."""
        return [(each.begin, each.end) for each in self._arrays]

    def stored(self) -> list[dict[str, Any]]:
        """Return the entry `names` of a state dictionary, which JSON can hold."""
        return [
            {"name": name, "begin": place.begin, "shape": [*place.shape]}
            for name, place in self.by_name.items()
        ]

    def require_same_arrays(self, stored: Places) -> None:
        """Raise ValueError unless a stored buffer has arrays of the same names, shapes and ties, in any order."""
        missing = [name for name in self.by_name if name not in stored.by_name]
        unknown = [name for name in stored.by_name if name not in self.by_name]
        if missing or unknown:
            expected = _listed(missing) if missing else "no further names"
            raise ValueError(f"names: expected {expected}, got {_listed(unknown)}")
        ours, theirs = self._tied(), stored._tied()
        for name, place in self.by_name.items():
            if (shape := stored.by_name[name].shape) != place.shape:
                raise ValueError(f"names: {name}: expected shape {place.shape}, got {shape}")
            if ours[name] != theirs[name]:
                raise ValueError(
                    f"names: {name}: expected the array {_listed(ours[name])}, got {_listed(theirs[name])}; "
                    "the ties must be the same"
                )

    def _tied(self) -> dict[str, list[str]]:
        """Return all names of each array, sorted, by each of them."""
        names: dict[str, list[str]] = {}
        for name in sorted(self.first):
            names.setdefault(self.first[name], []).append(name)
        return {name: names[first] for name, first in self.first.items()}


def _listed(names: list[str]) -> str:
    more = f", ... ({len(names)} in total)" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + more


def places_of(params: Any) -> Places | None:
    """Return the places of the arrays of a pack, or None for other parameters."""
    return Places(params._places()) if isinstance(params, Node) else None


def parsed_places(names: Any) -> Places:
    """Return the places in the entry `names` of a state dictionary, after checking that they can be those of a pack."""
    by_name: dict[str, Place] = {}
    for i, each in enumerate(sequence("names", names)):
        with naming(f"names[{i}]"):
            entry = require_entries("entries", each, ("name", "begin", "shape"))
            name = entry["name"]
            if not isinstance(name, str) or name in by_name:
                raise ValueError(f"name: expected a string that occurs once, got {name!r}")
            shape = tuple(integer("shape", extent, 0) for extent in sequence("shape", entry["shape"]))
            by_name[name] = Place(integer("begin", entry["begin"], 0), shape)
    places = Places(by_name)
    every = sorted((place.begin, place.end, name) for name, place in places.distinct.items())
    for (_, end, _), (begin, _, name) in itertools.pairwise([(0, 0, ""), *every]):
        if not 0 <= begin - end < CACHE_LINE // 4:
            raise ValueError(
                f"names: {name}: expected to begin at {end}, after the array before it, got {begin}"
            )
    return places
