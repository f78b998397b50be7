"""The nodes of a pack: what lies over a part of its flat buffer, and where each array begins in it."""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np

from lrcore._memory import aligned_zeros
from lrcore._nest import array_from, join, leaves, mapped, pairs, require_numbers, require_plain

_CACHE_LINE = 64
"""In bytes."""


class Node:
    """What a pack and the lists in it share: a flat buffer, and the views and nodes that lie over it.

    A class that names a type with `over` is that of the nodes whose parts are in one, dict or list.
    """

    _kinds: ClassVar[dict[type, type[Node]]] = {}

    def __init_subclass__(cls, over: type | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if over is not None:
            cls._kinds[over] = cls

    def _adopt(self, flat: Any, shapes: Any, xp: ModuleType, pad: bool, path: str = "") -> Self:
        """Lay the views over a flat buffer of `xp`. The path is that of this node, for messages."""
        self._flat, self._shapes, self._xp, self._pad, self._path = flat, shapes, xp, pad, path
        starts, _ = layout([*leaves(shapes).values()], pad)
        self._parts: Any = {} if isinstance(shapes, dict) else [None] * len(shapes)
        index = 0
        for name, part in shapes.items() if isinstance(shapes, dict) else enumerate(shapes):
            inner = [*leaves(part).values()]
            begin = starts[index] if inner else 0
            piece = flat[begin : begin + layout(inner, pad)[1]]
            index += len(inner)
            if isinstance(part, tuple):
                self._parts[name] = piece.reshape(part)
            else:
                node = self._kinds[type(part)]
                self._parts[name] = node.__new__(node)._adopt(piece, part, xp, pad, join(path, name))
        return self

    @property
    def flat(self) -> Any:
        """The whole buffer: a 1-D float32 array, the arrays one after another, with the padding between.

        ``pack.flat *= x`` and ``pack.flat = values`` write in place.
        """
        return self._flat

    @flat.setter
    def flat(self, values: Any) -> None:
        self._write(self._flat, values, join(self._path, "flat"))

    def tree(self) -> Any:
        """Give the views in plain dictionaries and lists, as for ``jax.grad``."""
        return mapped(lambda _, part: part.tree() if isinstance(part, Node) else part, self._parts)

    def named_arrays(self) -> dict[str, Any]:
        """Give the views in order, under names such as ``layers.0.w``."""
        return leaves(self.tree())

    def assign(self, tree: Any) -> None:
        """Write values into all arrays, in place.

        Parameters
        ----------
        tree : nest of dictionaries and lists
            Built as this is, tuples being lists; at its leaves arrays, or what becomes one, of the same shapes. Values
            are converted as by ``view[...] = values``, those of NumPy moved to the device of `xp`.

        Raises
        ------
        TypeError, ValueError
            When a name is missing or unknown, a list is of another length, a shape differs, or something does not
            become an array. The message names the path, and nothing has been written then.
        """
        checked = [
            (view, self._checked(path, view, values))
            for path, view, values in pairs(self.tree(), tree, self._path)
        ]
        for view, values in checked:
            if values is not view:
                view[...] = values

    def _checked(self, path: str, view: Any, values: Any) -> Any:
        """Give values as an array that goes into a view as it is, and that no other write changes before."""
        if values is view:
            return view
        array = array_from(lambda values: self._xp.asarray(values, dtype=self._xp.float32), values, path)
        if tuple(array.shape) != tuple(view.shape):
            raise ValueError(f"{path}: expected shape {tuple(view.shape)}, got {tuple(array.shape)}")
        return array.copy() if self._xp.may_share_memory(array, self._flat) else array

    def _on_host(self) -> Self:
        """Give the same over memory of the host: a copy where this is of a device."""
        if self._xp is np:
            return self
        return (
            type(self).__new__(type(self))._adopt(self._xp.asnumpy(self._flat), self._shapes, np, self._pad)
        )

    def __getitem__(self, key: Any) -> Any:
        return self._parts[key]

    def __setitem__(self, key: Any, values: Any) -> None:
        part = self._parts[key]
        if isinstance(part, Node):
            part.assign(values)
        else:
            self._write(part, values, join(self._path, key))

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name != "flat":
            raise AttributeError(f'{name}: a pack has no attributes of its own; write pack["{name}"] = ...')
        super().__setattr__(name, value)

    def _write(self, view: Any, values: Any, path: str) -> None:
        """Write into one array as it does itself, its library's rules for shapes and errors included."""
        if values is not view:
            require_plain(values, path)
            require_numbers(values, path)
            stays = self._xp is np or isinstance(values, (int, float, type(view)))
            view[...] = values if stays else self._xp.asarray(values, dtype=self._xp.float32)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if self._xp is np and id(self._flat) not in memo:
            aligned = memo[id(self._flat)] = aligned_zeros(self._flat.size)
            aligned[...] = self._flat
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {"xp": self._xp.__name__, "shapes": self._shapes, "pad": self._pad, "flat": self._flat}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._adopt(state["flat"], state["shapes"], importlib.import_module(state["xp"]), state["pad"])

    def __repr__(self) -> str:
        pad = ", pad=True" if self._pad else ""
        return f"{type(self).__name__}({self._shapes!r}, xp={self._xp.__name__}{pad})"


def layout(shapes: Sequence[tuple[int, ...]], pad: bool) -> tuple[list[int], int]:
    """Lay arrays of these shapes one after another in a flat buffer.

    Parameters
    ----------
    shapes : sequence of tuples of int
        Their shapes, in order.
    pad : bool
        Whether each begins at a multiple of 64 bytes from the beginning; what lies between belongs to no array.

    Returns
    -------
    list of int, int
        Where each array begins, in elements, and how many elements there are in all. Nothing follows the last one.
    """
    step = _CACHE_LINE // 4 if pad else 1
    starts, end = [], 0
    for shape in shapes:
        starts.append(-(-end // step) * step)
        end = starts[-1] + math.prod(shape)
    return starts, end


def zeros_for(shapes: Any, xp: ModuleType, pad: bool) -> Any:
    """Give a buffer for arrays of a nest of shapes."""
    _, size = layout([*leaves(shapes).values()], pad)
    return aligned_zeros(size) if xp is np else xp.zeros(size, dtype=xp.float32)


def library(xp: Any) -> ModuleType:
    """Check an array library: its arrays are written in place and can be compared by their memory."""
    if xp is not np:
        try:
            probe = xp.zeros(1, dtype=xp.float32)
            probe[...] = 0
            xp.may_share_memory(probe, xp.asarray(probe, dtype=xp.float32))
        except (AttributeError, TypeError, NotImplementedError) as error:
            name = getattr(xp, "__name__", type(xp).__name__)
            raise TypeError(
                f"xp: expected numpy, or a module with its interface such as cupy, got {name}: {error}"
            ) from None
    return xp  # type: ignore[no-any-return]
