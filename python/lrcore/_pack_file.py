"""The file of a pack: its arrays in the format safetensors, under their names, such as layers.0.w.

The entry `structure` of the text, which `_tensor_file` describes, is the nest of dictionaries and lists with the arrays'
shapes as text at the leaves, such as "[3, 4]". A file without a text is one by others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from lrcore import _tensor_file
from lrcore._arguments import require_entries
from lrcore._nest import leaves, mapped, require_names
from lrcore._tensor_file import OWN, TEXT, blaming

FORMAT = 1
_LONGEST = 99_000_000
"""Of the paths of all parts together, in characters: those of the arrays alone fill a header then."""


def write(path: str | os.PathLike[str], shapes: Any, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays of NumPy, whose shapes are this nest."""
    with blaming(path):
        for name in arrays:
            _require_place(name)
        _require_short(shapes)
    structure = mapped(lambda _, shape: str([*shape]), shapes)
    _tensor_file.write(path, FORMAT, "Pack", {"structure": structure}, arrays)


def read(path: str | os.PathLike[str], shapes: Any = None) -> Any:
    """Give the arrays of a file in their nest.

    Where a nest of shapes is given, the arrays must have those names and shapes, and those of a file by others come in
    that nest. The nest of another file is as it was found: `Pack` and `Pack.assign` check it.
    """
    with _tensor_file.reading(path) as tensors:
        metadata, names = tensors.metadata() or {}, dict.fromkeys(tensors.keys())
        own = any(name == TEXT or name.startswith(f"{TEXT}.") for name in metadata)
        structure = _structure(metadata) if own else names if shapes is None else shapes
        expected = names if shapes is None else leaves(shapes)
        require_names(expected, names)
        arrays = {name: _tensor_file.tensor(tensors, name, expected[name]) for name in names}
        if not own:
            return mapped(lambda name, _: arrays[name], structure)
        _tensor_file.require_checksum(metadata, arrays)
        require_names(leaves(structure), names)
        return mapped(lambda name, shape: _array(name, arrays[name], shape), structure)


def _structure(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Give the nest of the text, whose leaves are unchecked."""
    if TEXT not in metadata:
        raise ValueError(f"damaged: its metadata has no {TEXT!r}")
    entries = _tensor_file.entries_of(metadata[TEXT], FORMAT)
    if entries.get("class") != "Pack":
        raise ValueError(
            f"class: expected 'Pack', got {entries.get('class')!r}; lrcore.load reads the state of an optimizer"
        )
    structure = require_entries(TEXT, entries, (*OWN, "structure"))["structure"]
    if not isinstance(structure, dict):
        raise TypeError(f"structure: expected a dictionary, got {type(structure).__name__}")
    _require_short(structure)
    return structure


def _require_short(structure: Any) -> None:
    """ValueError where the paths of the parts of a nest, each with all names above it, would fill the memory."""
    total, open_ones = 0, [(structure, 0)]
    while open_ones:
        nest, length = open_ones.pop()
        if isinstance(nest, (dict, list)):
            named = nest.items() if isinstance(nest, dict) else enumerate(nest)
            parts = [(part, length + 1 + len(str(name))) for name, part in named]
            total += sum(each for _, each in parts)
            open_ones += parts
    if total > _LONGEST:
        raise ValueError(
            f"structure: expected paths of at most {_LONGEST} characters together, got {total}; shorten the names"
        )


def _array(name: str, array: NDArray[Any], shape: Any) -> NDArray[Any]:
    """Give an array, when it is of the shape that the text says."""
    if shape != str([*array.shape]):
        raise ValueError(f"structure: {name}: expected {str([*array.shape])!r}, got {shape!r}")
    return array


def _require_place(name: str) -> None:
    """ValueError where the format has no place for a name."""
    if name == "__metadata__":
        raise ValueError(f"{name}: the format keeps this name for itself; rename the array")
    if not name.isprintable() and any("\ud800" <= each <= "\udfff" for each in name):
        raise ValueError(f"{name!r}: expected a name that UTF-8 holds; rename the array")
