"""The file of a pack: its arrays in safetensors format, under names such as layers.0.w.

lrcore's metadata is described in `lrcore._files.format`. Its entry `structure` is the tree of dictionaries
and lists, with the shapes of the arrays as strings at the leaves, such as "[3, 4]". An array with several
paths is stored once, under its first path; the optional entry `ties` maps each of its other paths to the
first. A file without this metadata is from another program.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from lrcore._checks import require_entries
from lrcore._files import safetensors
from lrcore._files.format import OWN, TEXT, entries_of, require_known
from lrcore._files.safetensors import naming_file
from lrcore.pack._tree import require_names, tree_leaves, tree_map

_LONGEST = 99_000_000
"""Maximum total length of the paths of all parts, in characters; as many as fit into a header."""


def write(path: str, shapes: Any, arrays: Mapping[str, NDArray[Any]], ties: Mapping[str, str]) -> None:
    """Write NumPy arrays with a tree of shapes. `ties` maps each later path of a tied array to its first path."""
    with naming_file(path):
        for name in arrays:
            _require_place(name)
        _require_short(shapes)
    structure = tree_map(lambda _, shape: str([*shape]), shapes)
    stored = {name: array for name, array in arrays.items() if name not in ties}
    entries = {"structure": structure} | ({"ties": ties} if ties else {})
    safetensors.write(path, "Pack", entries, stored)


def read(path: str, shapes: Any = None, ties: Mapping[str, str] | None = None) -> Any:
    """Return the arrays of a file as a tree.

    If a tree of shapes is given, the arrays must have its names and shapes, and the arrays of a file from another
    program are returned in that tree. Such a file needs only one of the names that `ties` maps to the same array.
    In all other cases, the tree is returned as it was stored; `Pack` and `Pack.assign` check it. An array with
    several names is the same object under each name.
    """
    with safetensors.reading(path) as opened:
        metadata, stored = opened.metadata, dict.fromkeys(opened.tensors)
        own = any(name == TEXT or name.startswith(f"{TEXT}.") for name in metadata)
        if own:
            structure, tied = _structure(metadata, stored)
        else:
            structure, tied = stored if shapes is None else shapes, _dropped(ties or {}, stored)
        names = stored | dict.fromkeys(tied)
        expected = names if shapes is None else tree_leaves(shapes)
        require_names(expected, names)
        arrays: dict[str, Any] = safetensors.read_arrays(opened, expected)
        arrays |= {name: arrays[kept] for name, kept in tied.items()}
        if not own:
            return tree_map(lambda name, _: arrays[name], structure)
        require_names(tree_leaves(structure), names)
        return tree_map(lambda name, shape: _array(name, arrays[name], shape), structure)


def _dropped(ties: Mapping[str, str], stored: Mapping[str, Any]) -> dict[str, str]:
    """Map each name that a file lacks to the name under which the file stores the array, if it has the array."""
    kept = {ties.get(name, name): name for name in stored}
    every = {first: first for first in ties.values()} | dict(ties)
    return {name: kept[first] for name, first in every.items() if name not in stored and first in kept}


def _structure(
    metadata: Mapping[str, str], stored: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tree and the ties in the metadata. The leaves of the tree are not checked."""
    if TEXT not in metadata:
        raise ValueError(f"damaged: the metadata has no {TEXT!r}")
    entries = entries_of(metadata[TEXT])
    if entries.get("class") != "Pack":
        raise ValueError(
            f"class: expected 'Pack', got {entries.get('class')!r}; use lrcore.load to read an optimizer"
        )
    require_known(entries, ("structure", "ties"))
    structure = require_entries(TEXT, entries, (*OWN, "structure"), "ties")["structure"]
    if not isinstance(structure, dict):
        raise TypeError(f"structure: expected a dictionary, got {type(structure).__name__}")
    _require_short(structure)
    ties = entries.get("ties", {})
    _require_ties(ties, tree_leaves(structure), stored)
    return structure, ties


def _require_ties(ties: Any, shapes: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError unless each tie maps an unstored name to a stored name of the same shape."""
    if not isinstance(ties, dict):
        raise TypeError(f"ties: expected a dictionary, got {type(ties).__name__}")
    for name, kept in ties.items():
        if name not in shapes or name in stored:
            raise ValueError(f"ties: {name}: expected a name that is in the structure and not stored")
        if not isinstance(kept, str) or kept not in stored:
            raise ValueError(f"ties: {name}: expected the name of a stored array, got {kept!r}")
        if shapes[name] != shapes.get(kept):
            raise ValueError(
                f"ties: {name}: expected the shape of {kept}, {shapes.get(kept)!r}, got {shapes[name]!r}"
            )


def _require_short(structure: Any) -> None:
    """Raise ValueError if the full paths of all parts of a tree are too long in total.

    In a deep tree, they could otherwise fill the memory.
    """
    total, open_ones = 0, [(structure, 0)]
    while open_ones:
        tree, length = open_ones.pop()
        if isinstance(tree, (dict, list)):
            named = tree.items() if isinstance(tree, dict) else enumerate(tree)
            parts = [(part, length + 1 + len(str(name))) for name, part in named]
            total += sum(each for _, each in parts)
            open_ones += parts
    if total > _LONGEST:
        raise ValueError(
            f"structure: expected paths of at most {_LONGEST} characters in total, got {total}; shorten the names"
        )


def _array(name: str, array: NDArray[Any], shape: Any) -> NDArray[Any]:
    """Return an array after checking that it has the shape in the metadata."""
    if shape != str([*array.shape]):
        raise ValueError(f"structure: {name}: expected {str([*array.shape])!r}, got {shape!r}")
    return array


def _require_place(name: str) -> None:
    """Raise ValueError if the format does not allow a name."""
    if name == "__metadata__":
        raise ValueError(f"{name}: the safetensors format reserves this name; rename the array")
    if not name.isprintable() and any("\ud800" <= each <= "\udfff" for each in name):
        raise ValueError(f"{name!r}: expected a name that UTF-8 can encode; rename the array")
