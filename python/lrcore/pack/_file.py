"""The file of a pack: its arrays in the format safetensors, under their names, such as layers.0.w.

The entry `structure` of the text, which `lrcore._files.format` describes, is the tree of dictionaries and lists with the arrays'
shapes as text at the leaves, such as "[3, 4]". An array under several paths is stored once, under the first: the optional
entry `ties` has each other path with the one of the tensor. A file without a text is one by others.
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
"""Of the paths of all parts together, in characters: those of the arrays alone fill a header then."""


def write(path: str, shapes: Any, arrays: Mapping[str, NDArray[Any]], ties: Mapping[str, str]) -> None:
    """Write arrays of NumPy, whose shapes are this tree. `ties` has each later path of a tied array, with its first."""
    with naming_file(path):
        for name in arrays:
            _require_place(name)
        _require_short(shapes)
    structure = tree_map(lambda _, shape: str([*shape]), shapes)
    stored = {name: array for name, array in arrays.items() if name not in ties}
    entries = {"structure": structure} | ({"ties": ties} if ties else {})
    safetensors.write(path, "Pack", entries, stored)


def read(path: str, shapes: Any = None, ties: Mapping[str, str] | None = None) -> Any:
    """Return the arrays of a file in their tree.

    Where a tree of shapes is given, the arrays must have those names and shapes, and those of a file by others come in
    that tree; of names that `ties` makes one array, such a file may have some alone. The tree of another file is as it
    was found: `Pack` and `Pack.assign` check it. An array that the file has under several names is the same object.
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
    """Return which names a file lacks of arrays that it has under another name, by that name."""
    kept = {ties.get(name, name): name for name in stored}
    every = {first: first for first in ties.values()} | dict(ties)
    return {name: kept[first] for name, first in every.items() if name not in stored and first in kept}


def _structure(
    metadata: Mapping[str, str], stored: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tree of the text, whose leaves are unchecked, and its ties."""
    if TEXT not in metadata:
        raise ValueError(f"damaged: its metadata has no {TEXT!r}")
    entries = entries_of(metadata[TEXT])
    if entries.get("class") != "Pack":
        raise ValueError(
            f"class: expected 'Pack', got {entries.get('class')!r}; lrcore.load reads the state of an optimizer"
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
    """TypeError or ValueError if ties are not names of arrays of a text that a file lacks, each with one that it has."""
    if not isinstance(ties, dict):
        raise TypeError(f"ties: expected a dictionary, got {type(ties).__name__}")
    for name, kept in ties.items():
        if name not in shapes or name in stored:
            raise ValueError(f"ties: {name}: expected an array of the structure that is not stored")
        if not isinstance(kept, str) or kept not in stored:
            raise ValueError(f"ties: {name}: expected the name of a stored array, got {kept!r}")
        if shapes[name] != shapes.get(kept):
            raise ValueError(
                f"ties: {name}: expected the shape of {kept}, {shapes.get(kept)!r}, got {shapes[name]!r}"
            )


def _require_short(structure: Any) -> None:
    """ValueError where the paths of the parts of a tree, each with all names above it, would fill the memory."""
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
            f"structure: expected paths of at most {_LONGEST} characters together, got {total}; shorten the names"
        )


def _array(name: str, array: NDArray[Any], shape: Any) -> NDArray[Any]:
    """Return an array, if it has the shape that the text says."""
    if shape != str([*array.shape]):
        raise ValueError(f"structure: {name}: expected {str([*array.shape])!r}, got {shape!r}")
    return array


def _require_place(name: str) -> None:
    """ValueError where the format has no place for a name."""
    if name == "__metadata__":
        raise ValueError(f"{name}: the format keeps this name for itself; rename the array")
    if not name.isprintable() and any("\ud800" <= each <= "\udfff" for each in name):
        raise ValueError(f"{name!r}: expected a name that UTF-8 holds; rename the array")
