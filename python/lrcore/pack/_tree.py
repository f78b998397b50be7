"""Trees: nested dictionaries and lists, with any other objects as leaves. The path of a leaf looks like layers.0.w."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from lrcore._checks import is_array, is_integer, is_list, shape_of
from lrcore._lrcore_core import require_memory


def tree_map(function: Callable[[str, Any], Any], tree: Any, path: str = "") -> Any:
    """Return a tree of the same structure with ``function(path, leaf)`` at each leaf."""
    if isinstance(tree, dict):
        return {name: tree_map(function, part, join(path, name)) for name, part in tree.items()}
    if isinstance(tree, list):
        return [tree_map(function, part, join(path, index)) for index, part in enumerate(tree)]
    return function(path, tree)


def tree_leaves(tree: Any) -> dict[str, Any]:
    """Return the leaves by their paths, in order."""
    found: dict[str, Any] = {}
    tree_map(found.__setitem__, tree)
    return found


def join(path: str, name: str | int) -> str:
    """Return the path of a part from the path of its parent and its own name or index."""
    return f"{path}.{name}" if path else str(name)


def shapes_of(entry: Any, path: str, found: dict[str, Any]) -> Any:
    """Return the tree of shapes of an entry, which is a shape, an array, or a mapping or list of entries.

    Each shape or array is stored in `found` under its path.
    """
    if isinstance(entry, Mapping):
        for name in entry:
            _check_name(name, path or "entries")
        return {name: shapes_of(part, join(path, name), found) for name, part in entry.items()}
    if is_list(entry) and not _is_meant_as_shape(entry):
        return [shapes_of(part, join(path, index), found) for index, part in enumerate(entry)]
    if not (is_array(entry) or is_integer(entry) or is_list(entry)):
        raise TypeError(
            f"{path}: expected a float32 array, a shape (an integer, or a tuple of them), or a dictionary or list of "
            f"these, got {reprlib.repr(entry)}"
        )
    if path in found:
        raise ValueError(f"{path}: two arrays have this path; rename one")
    found[path] = entry
    return shape_of(path, entry)


def tree_zip(own: Any, values: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the path, the leaf and the value for each leaf of `own`; `values` must have the same structure."""
    where = path or "tree"
    if isinstance(own, dict):
        if not isinstance(values, Mapping):
            raise TypeError(f"{where}: expected a dictionary of {reprlib.repr([*own])}, got {_kind(values)}")
        require_names(own, values, path)
        for name, part in own.items():
            yield from tree_zip(part, values[name], join(path, name))
    elif isinstance(own, list):
        if not is_list(values):
            raise TypeError(f"{where}: expected a list of {len(own)} entries, got {_kind(values)}")
        if len(values) != len(own):
            raise ValueError(f"{where}: expected {len(own)} entries, got {len(values)}")
        for index, (part, value) in enumerate(zip(own, values, strict=True)):
            yield from tree_zip(part, value, join(path, index))
    else:
        yield path, own, values


def require_names(own: Mapping[str, Any], values: Mapping[str, Any], path: str = "") -> None:
    """Raise ValueError if the names of `values` differ from those of `own`."""
    for name in own:
        if name not in values:
            raise ValueError(f"{join(path, name)}: missing")
    for name in values:
        if name not in own:
            raise ValueError(f"{join(path, name)}: unknown; expected {reprlib.repr([*own])}")


def array_from(make: Callable[[Any], Any], values: Any, path: str) -> Any:
    """Return ``make(values)``, an array or a number.

    If the values are not real numbers, raise a TypeError that names the path.
    """
    wrong = f"{path}: expected an array, or values that can be converted to float32, got {_kind(values)}"
    if values is None or isinstance(values, Mapping):
        raise TypeError(wrong)
    require_plain(values, path)

    def tried(make: Callable[[Any], Any]) -> Any:
        try:
            return make(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{wrong}: {error}") from error

    dtype = (values if is_array(values) else tried(np.asarray)).dtype
    # NumPy would convert strings, times and objects to numbers. Dtypes of other libraries have no kind.
    if getattr(dtype, "kind", "f") in "cOSUTMm":
        raise TypeError(f"{path}: expected real numbers, got {_kind(values)} of {dtype}")
    return tried(make)


def require_plain(values: Any, path: str) -> None:
    """Raise TypeError or ValueError if an array, or an array in a list, has no memory or is not fully defined by it.

    A masked array, for example, is not, because its mask is stored elsewhere. The message names the path.
    """
    if isinstance(values, (list, tuple)):
        for each in values:
            require_plain(each, path)
    else:
        require_memory(path, values)


def ties_among(arrays: Mapping[str, Any]) -> dict[str, str]:
    """Return the paths of arrays that also have an earlier path, mapped to the first path of the same array.

    If two arrays share memory without being the same, raise a ValueError that names both.
    """
    firsts: dict[Any, str] = {}
    same = {path: firsts.setdefault(_identity(array), path) for path, array in arrays.items()}
    ties = {path: first for path, first in same.items() if first != path}
    paths = [path for path in arrays if path not in ties]
    for first, second in sharing([arrays[path] for path in paths]):
        raise ValueError(
            f"{paths[second]}: expected separate memory, got an array that shares memory with {paths[first]}; "
            "pass a copy of one"
        )
    return ties


def sharing(arrays: Sequence[Any]) -> Iterator[tuple[int, int]]:
    """Yield the indices of each pair of arrays that share an element."""
    places = [(i, place) for i, array in enumerate(arrays) if (place := _place(array)) is not None]
    reaching: list[tuple[int, int, NDArray[Any]]] = []  # end address, index and memory of each array
    for i, place in sorted(places, key=lambda each: byte_bounds(each[1])[0]):
        begin, end = byte_bounds(place)
        reaching = [each for each in reaching if each[0] > begin]
        for _, other, former in reaching:
            if np.shares_memory(former, place):
                yield min(i, other), max(i, other)
        reaching.append((end, i, place))


def _place(array: Any) -> NDArray[Any] | None:
    """Return a NumPy array over the memory of a float32 array. The memory must not be read: it may be on a device.

    Return None if the array has no elements or its address is not available.
    """
    if isinstance(array, np.ndarray):
        return array if array.size else None
    if hasattr(array, "data_ptr"):  # PyTorch
        try:
            address, strides = array.data_ptr(), [4 * each for each in array.stride()]
        except RuntimeError:  # for example a sparse tensor; it is rejected when it is copied
            return None
    elif hasattr(array, "data") and hasattr(array.data, "ptr"):  # CuPy
        address, strides = array.data.ptr, array.strides
    else:
        return None
    interface = {
        "version": 3,
        "typestr": np.dtype(np.float32).str,
        "data": (address, True),
        "shape": tuple(array.shape),
        "strides": tuple(strides),
    }
    return np.asarray(SimpleNamespace(__array_interface__=interface)) if address else None


def _identity(array: Any) -> Any:
    """Return a key that is equal for two entries if they are the same array.

    An array without elements is never the same as another, and neither is a NumPy scalar, which is a value.
    """
    if isinstance(array, np.generic) or 0 in array.shape:
        return object()
    place = _place(array)
    if place is None:
        return id(array)
    strides = tuple(step for extent, step in zip(place.shape, place.strides, strict=True) if extent > 1)
    return place.__array_interface__["data"][0], place.shape, strides


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def _check_name(name: Any, where: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"{where}: expected names that are strings, got {name!r}")
    if not name:
        raise ValueError(f"{where}: expected names that are not empty")


def _is_meant_as_shape(entry: Sequence[Any]) -> bool:
    """Return whether a sequence is meant as a shape, valid or not, rather than as a list of entries.

    A shape contains integers, and no array, mapping or list.
    """
    if not entry:
        return isinstance(entry, tuple)
    return any(map(is_integer, entry)) and not any(
        is_array(each) or isinstance(each, Mapping) or is_list(each) for each in entry
    )
