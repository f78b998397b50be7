"""The nodes of a pack, which cover parts of its flat buffer, and the layout of the arrays in the buffer."""

from __future__ import annotations

import copy
import importlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from lrcore import _lrcore_core as core
from lrcore._arrays.memory import aligned_zeros
from lrcore._names import explain_attributes, explain_keywords, unknown_key
from lrcore.pack._tree import (
    array_from,
    join,
    tree_leaves,
    tree_map,
    tree_zip,
)

CACHE_LINE = 64
"""Size of a cache line in bytes."""


class Place(NamedTuple):
    """The place of an array in a flat buffer."""

    begin: int
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.begin + math.prod(self.shape)


class _Buffer(NamedTuple):
    """A flat buffer, the ties between paths, the slice of the buffer for each array, and the view for each path."""

    flat: Any
    xp: ModuleType
    pad: bool
    ties: Mapping[str, str]
    spans: Mapping[str, slice]
    views: Mapping[str, Any]


def _entries(node: Any) -> dict[str, str]:
    """Return the code that accesses each entry of a node."""
    return {name: f'pack["{name}"]' for name in vars(node).get("_parts", ()) if isinstance(name, str)}


@explain_attributes("parameters", "named_parameters", "clone", "data", entries=_entries)
class Node:
    """The base class of packs and their lists: a flat buffer, and the views and nodes over it.

    A subclass is registered for nodes whose parts are in a container of type `over`, which is dict or list.
    """

    _kinds: ClassVar[dict[type, type[Node]]] = {}

    def __init_subclass__(cls, over: type | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if over is not None:
            cls._kinds[over] = cls

    def _adopt(self, flat: Any, shapes: Any, xp: ModuleType, pad: bool, ties: Mapping[str, str]) -> Self:
        """Make views of a flat array of `xp`. `ties` maps each later path of a tied array to its first path."""
        places = places_in(shapes, pad, ties)
        spans = {path: slice(place.begin, place.end) for path, place in places.items()}
        views = {path: flat[spans[path]].reshape(place.shape) for path, place in places.items()}
        views |= {path: views[first] for path, first in ties.items()}
        return self._lie_over(_Buffer(flat, xp, pad, ties, spans, views), shapes, "")

    def _lie_over(self, buffer: _Buffer, shapes: Any, path: str) -> Self:
        """Initialize this node as the one at `path` in the buffer."""
        self._shapes, self._path, self._xp, self._pad = shapes, path, buffer.xp, buffer.pad
        self._known_layout: tuple[tuple[str, Place], ...] | None = None
        self._parts: Any = {} if isinstance(shapes, dict) else [None] * len(shapes)
        for name, part in shapes.items() if isinstance(shapes, dict) else enumerate(shapes):
            where = join(path, name)
            if isinstance(part, tuple):
                self._parts[name] = buffer.views[where]
            else:
                node = self._kinds[type(part)]
                self._parts[name] = node.__new__(node)._lie_over(buffer, part, where)
        inside = dict.fromkeys(join(path, name) for name in tree_leaves(shapes))
        self._views = [buffer.views[name] for name in inside]
        # The path of the first array in this node whose memory is outside it, and the first path of that array.
        outside = ((name, first) for name in inside if (first := buffer.ties.get(name, name)) not in inside)
        self._outside = next(outside, None)
        # The slice of the buffer that holds the arrays of this node; the whole buffer if the memory of one is outside.
        self._flat = buffer.flat
        if path and self._outside is None:
            own = [buffer.spans[name] for name in inside if name in buffer.spans] or [slice(0, 0)]
            self._flat = buffer.flat[own[0].start : own[-1].stop]
        return self

    @property
    def flat(self) -> Any:
        """The buffer: a 1-D float32 array that contains the arrays one after another, with any padding between them.

        ``pack.flat *= x`` and ``pack.flat = values`` write in place. A part with an array whose first name is outside
        the part has no `flat`: reading it raises ValueError.
        """
        if self._outside is not None:
            name, first = self._outside
            raise ValueError(
                f"{join(self._path, 'flat')}: expected contiguous arrays, got {name}, which is tied to {first}, "
                f"outside {self._path}; use the whole pack"
            )
        return self._flat

    @flat.setter
    def flat(self, values: Any) -> None:
        self._write(self.flat, values, join(self._path, "flat"))

    @property
    def _ties(self) -> dict[str, str]:
        """The later paths of each array with several paths in this node, mapped to its first path.

        All paths are relative to this node.
        """
        firsts: dict[int, str] = {}
        same = {path: firsts.setdefault(id(view), path) for path, view in self.named_arrays().items()}
        return {path: first for path, first in same.items() if first != path}

    def like(self) -> Self:
        """Return a new node of zeros with the same names, shapes and ties, for example for the gradients.

        An array that is tied to one outside this part has separate memory in the new node.
        """
        return self._over(zeros_for(self._shapes, self._xp, self._pad, self._ties))

    def _over(self, flat: Any) -> Self:
        """Return a new node with the same names, shapes and ties over another flat array of the same library."""
        return type(self).__new__(type(self))._adopt(flat, self._shapes, self._xp, self._pad, self._ties)

    def _places(self) -> dict[str, Place]:
        """Return the place of each array in `flat` by name, in order. Tied names have the same place."""
        ties = self._ties
        firsts = places_in(self._shapes, self._pad, ties)
        return {path: firsts[ties.get(path, path)] for path in tree_leaves(self._shapes)}

    def _layout(self) -> tuple[tuple[str, Place], ...]:
        """Return the names and places of the arrays, computed once."""
        if self._known_layout is None:
            self._known_layout = tuple(self._places().items())
        return self._known_layout

    def _require_same_layout(self, other: Node, name: str) -> None:
        """Raise ValueError unless another node has the same names, shapes, ties and padding, in the same order.

        The message refers to the other node as `name`.
        """
        if other._shapes is self._shapes:  # as in packs made by `like`
            return
        ours, theirs = self._layout(), other._layout()
        if theirs is ours:
            return
        if theirs == ours:
            other._known_layout = ours  # each step compares the same two packs again
            return
        hint = "make it with params.like()"
        pairs = itertools.zip_longest(ours, theirs, fillvalue=(None, None))
        for (path, place), (other_path, other_place) in pairs:
            if path != other_path or place is None or other_place is None:
                expected, got = path or "no more arrays", other_path or "no more arrays"
                raise ValueError(f"{name}: expected {expected} as in params, got {got}; {hint}")
            if place.shape != other_place.shape:
                raise ValueError(
                    f"{name}: {path}: expected shape {place.shape} as in params, got {other_place.shape}"
                )
            if place.begin != other_place.begin:
                raise ValueError(
                    f"{name}: {path}: expected offset {place.begin} in the buffer as in params, got "
                    f"{other_place.begin}; the packs differ in their ties or padding; {hint}"
                )

    def tree(self) -> Any:
        """Return the views in plain dictionaries and lists, for example for ``jax.grad``."""
        views = iter(self._views)
        return tree_map(lambda *_: next(views), self._shapes)

    def named_arrays(self) -> dict[str, Any]:
        """Return the views in order, under names such as ``layers.0.w``."""
        return dict(zip(tree_leaves(self._shapes), self._views, strict=True))

    def norms(self) -> dict[str, float]:
        """Return the Euclidean norm of each array by name, as `lrcore.norm` computes it, in one pass over the buffer."""
        views = {id(view): view for view in self._views}
        norms = dict(zip(views, core.norms([*views.values()]), strict=True))
        return {name: norms[id(view)] for name, view in self.named_arrays().items()}

    def assign(self, tree: Any) -> None:
        """Write values into all arrays, in place.

        Parameters
        ----------
        tree : nested dictionaries and lists
            A tree with the same structure, in which tuples count as lists. Its leaves are arrays of the same
            shapes, or objects that can be converted to such arrays. Values are converted as in
            ``view[...] = values``, and NumPy values are moved to the device of `xp`. Values for several names
            of one array must be bitwise identical, or NaN in the same places. The gradient of a tied array is
            the sum of the gradients under its names.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, a list has the wrong length, a shape differs, the values for
            several names of one array differ, or a value cannot be converted to an array. The message names
            the path, and nothing is written.
        """
        firsts: dict[int, tuple[str, Any, Any]] = {}  # by the id of the view
        for path, view, values in tree_zip(self.tree(), tree, self._path):
            checked = self._checked(path, view, values)
            first, _, former = firsts.setdefault(id(view), (path, view, checked))
            if former is not checked and not self._same_bits(former, checked):
                raise ValueError(
                    f"{path}: expected the values of {first}, which is the same array, got different ones; pass the "
                    "same values for both or, for gradients, their sum"
                )
        for _, view, values in firsts.values():
            if values is not view:
                view[...] = values

    def _same_bits(self, one: Any, other: Any) -> bool:
        """Return whether two float32 arrays of the same shape have the same bits, or NaN, in each place."""
        a, b = (each if self._xp is np else self._xp.asnumpy(each) for each in (one, other))
        return bool(((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))).all())

    def _checked(self, path: str, view: Any, values: Any) -> Any:
        """Return values as an array to copy to `view`. The array stays the same if other views are written first."""
        if values is view:
            return view
        array = array_from(lambda values: self._xp.asarray(values, dtype=self._xp.float32), values, path)
        if tuple(array.shape) != tuple(view.shape):
            raise ValueError(f"{path}: expected shape {tuple(view.shape)}, got {tuple(array.shape)}")
        return array.copy() if self._xp.may_share_memory(array, self._flat) else array

    def _on_host(self) -> Self:
        """Return this node, or a copy of it in host memory if it is on a device."""
        if self._xp is np:
            return self
        alone = self._alone()
        host = self._xp.asnumpy(alone._flat)
        return type(self).__new__(type(self))._adopt(host, self._shapes, np, self._pad, alone._ties)

    def _alone(self) -> Self:
        """Return this node, or a copy of it if the memory of an array is outside it."""
        if self._outside is None:
            return self
        copied = self.like()
        copied.assign(self.tree())
        return copied

    def __getitem__(self, key: Any) -> Any:
        try:
            return self._parts[key]
        except KeyError:
            advice = f'write named_arrays()["{key}"]' if key in self.named_arrays() else ""
            raise unknown_key(key, self._parts, advice) from None

    def __setitem__(self, key: Any, values: Any) -> None:
        part = self[key]
        if isinstance(part, Node):
            part.assign(values)
        else:
            self._write(part, values, join(self._path, key))

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name != "flat":
            raise AttributeError(f'{name}: cannot set an attribute of a pack; write pack["{name}"] = ...')
        super().__setattr__(name, value)

    def _write(self, view: Any, values: Any, path: str) -> None:
        """Write a number, or values of the same shape, into one array, as ``view[...] = values`` does."""
        if values is not view:
            array = array_from(lambda values: self._numbers(view, values), values, path)
            shape = tuple(getattr(array, "shape", ()))  # a number has no shape
            if shape != view.shape and shape:
                raise ValueError(f"{path}: expected shape {view.shape}, got {shape}")
            view[...] = array

    def _numbers(self, view: Any, values: Any) -> Any:
        """Return values in a form that can be assigned to a view. NumPy converts them to float32 in the assignment."""
        if isinstance(values, (int, float, type(view))):
            return values
        return np.asarray(values) if self._xp is np else self._xp.asarray(values, dtype=self._xp.float32)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def __copy__(self) -> Self:
        copied = type(self).__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if self._outside is not None:
            alone = memo[id(self)] = self._alone()
            return alone
        if self._xp is np and id(self._flat) not in memo:
            aligned = memo[id(self._flat)] = aligned_zeros(self._flat.size)
            aligned[...] = self._flat
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def __getstate__(self) -> dict[str, Any]:
        alone = self._alone()
        state = {"xp": self._xp.__name__, "shapes": self._shapes, "pad": self._pad, "flat": alone._flat}
        return state | ({"ties": ties} if (ties := alone._ties) else {})

    def __setstate__(self, state: dict[str, Any]) -> None:
        xp = importlib.import_module(state["xp"])
        self._adopt(state["flat"], state["shapes"], xp, state["pad"], state.get("ties", {}))

    def __repr__(self) -> str:
        pad = ", pad=True" if self._pad else ""
        ties = f", ties={ties!r}" if (ties := self._ties) else ""
        return f"{type(self).__name__}({self._shapes!r}, xp={self._xp.__name__}{pad}{ties})"


@explain_keywords
def layout(shapes: Sequence[tuple[int, ...]], pad: bool) -> tuple[list[int], int]:
    """Return the layout of arrays of these shapes, one after another in a flat buffer.

    Parameters
    ----------
    shapes : sequence of tuples of int
        The shapes of the arrays, in order.
    pad : bool
        Whether each array begins at a multiple of 64 bytes from the beginning of the buffer, after padding if needed.

    Returns
    -------
    list of int, int
        The offset of each array in elements, and the total number of elements. No padding follows the last array.
    """
    step = CACHE_LINE // 4 if pad else 1
    starts, end = [], 0
    for shape in shapes:
        starts.append(-(-end // step) * step)
        end = starts[-1] + math.prod(shape)
    return starts, end


def own_shapes(shapes: Any, ties: Mapping[str, str]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each distinct array in a tree of shapes with ties, by its first path."""
    return {path: shape for path, shape in tree_leaves(shapes).items() if path not in ties}


def places_in(shapes: Any, pad: bool, ties: Mapping[str, str]) -> dict[str, Place]:
    """Return the place of each distinct array in a tree of shapes with ties, by its first path."""
    own = own_shapes(shapes, ties)
    starts, _ = layout([*own.values()], pad)
    return {path: Place(start, own[path]) for path, start in zip(own, starts, strict=True)}


def zeros_for(shapes: Any, xp: ModuleType, pad: bool, ties: Mapping[str, str]) -> Any:
    """Return a buffer of zeros for the distinct arrays in a tree of shapes with ties."""
    _, size = layout([*own_shapes(shapes, ties).values()], pad)
    return aligned_zeros(size) if xp is np else xp.zeros(size, dtype=xp.float32)


def library(xp: Any) -> ModuleType:
    """Check that the arrays of a library can be written in place and tested for shared memory."""
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
