"""One flat buffer with named, shaped views: ordinary model code on one side, one fused step on the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from lrcore._memory import aligned_zeros

__all__ = ["Pack"]


class Pack(Mapping[str, Any]):
    """Named arrays in one flat float32 buffer.

    ``pack["w1"]`` is a view of `flat`: writing either changes both. ``pack["w1"] -= x`` and ``pack["w1"] = values``
    write in place.

    Parameters
    ----------
    entries : mapping of str to shape or array
        The names with their shapes (an integer, or a tuple of them), which begin as zeros, or with float32 arrays, whose
        values are copied in.
    xp : module
        The array library of the buffer: numpy, or one with its interface such as cupy.

    Raises
    ------
    TypeError
        When an array is not float32.
    ValueError
        When an extent is negative.

    Examples
    --------
    >>> pack = Pack({"w": (2, 3), "b": (3,)})
    >>> grads = pack.like()
    >>> opt = lrcore.SGD(pack.flat, lr=1.0, grads=grads.flat)
    >>> grads["b"] -= 1
    >>> opt.step()
    >>> pack.flat
    array([0., 0., 0., 0., 0., 0., 1., 1., 1.], dtype=float32)

    ``dict(pack)`` gives the arrays to save; ``Pack(saved)`` makes a pack of them again.
    """

    def __init__(self, entries: Mapping[str, Any], xp: ModuleType = np) -> None:
        if not isinstance(entries, Mapping):
            raise TypeError(f"entries: expected a dictionary, got {type(entries).__name__}")
        self._xp = xp
        self._shapes = {name: shape_of(name, entry) for name, entry in entries.items()}
        size = sum(math.prod(shape) for shape in self._shapes.values())
        self._adopt(aligned_zeros(size) if xp is np else xp.zeros(size, dtype=xp.float32))
        for name, entry in entries.items():
            if hasattr(entry, "dtype"):
                self._views[name][...] = entry

    def _adopt(self, flat: Any) -> None:
        """Lay the views over a flat buffer."""
        self._flat = flat
        self._views: dict[str, Any] = {}
        start = 0
        for name, shape in self._shapes.items():
            end = start + math.prod(shape)
            self._views[name] = flat[start:end].reshape(shape)
            start = end

    @property
    def flat(self) -> Any:
        """The whole buffer: a 1-D float32 array, the views one after another."""
        return self._flat

    def like(self) -> Pack:
        """Give a new pack of zeros with the same names and shapes, as for the gradients."""
        return Pack(self._shapes, self._xp)

    def __getitem__(self, name: str) -> Any:
        return self._views[name]

    def __setitem__(self, name: str, values: Any) -> None:
        self._views[name][...] = values

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __getstate__(self) -> dict[str, Any]:
        return {"xp": self._xp.__name__, "shapes": self._shapes, "flat": self._flat}

    def __setstate__(self, state: dict[str, Any]) -> None:
        import importlib

        self._xp = importlib.import_module(state["xp"])
        self._shapes = state["shapes"]
        self._adopt(state["flat"])

    def __repr__(self) -> str:
        return f"Pack({self._shapes!r}, xp={self._xp.__name__})"


def shape_of(name: str, entry: Any) -> tuple[int, ...]:
    """Give the shape of an entry, which may be an array or the shape itself."""
    if isinstance(entry, (int, np.integer)):
        entry = (entry,)
    elif hasattr(entry, "dtype"):
        if str(entry.dtype).rpartition(".")[2] != "float32":  # torch says torch.float32
            raise TypeError(f"{name}: expected dtype float32, got {entry.dtype}; make a float32 array first")
        return tuple(entry.shape)
    if not isinstance(entry, Sequence) or not all(
        isinstance(extent, (int, np.integer)) and not isinstance(extent, bool) for extent in entry
    ):
        raise TypeError(f"{name}: expected an array, or a shape of integers, got {entry!r}")
    if any(extent < 0 for extent in entry):
        raise ValueError(f"{name}: expected extents >= 0, got {entry}")
    return tuple(int(extent) for extent in entry)
