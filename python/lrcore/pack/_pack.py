"""The pack, and its lists."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Self

import numpy as np

from lrcore._checks import FilePath, file_path, flag, is_array
from lrcore._files.safetensors import naming_file
from lrcore._names import explain_keywords
from lrcore.pack import _file as _pack_file
from lrcore.pack._node import Node, library, zeros_for
from lrcore.pack._tree import require_plain, shapes_of, ties_among


class Pack(Node, Mapping[str, Any], over=dict):
    """Named arrays in one flat float32 buffer, also in dictionaries and lists within one another.

    ``pack["w1"]`` is a view of `flat`: writing either changes both. ``pack["w1"] -= x`` and ``pack["w1"] = values``
    write in place; `values` are a number, or have the same shape. ``pack["head"]``, of a dictionary, is a pack over its
    part of the same buffer, and ``pack["layers"]``, of a list, a sequence of views and packs; ``pack["layers"][0].flat``
    can be stepped by itself, and ``pack["layers"] = values`` writes in place as `assign` does. A pickle or deep copy of a pack beside an optimizer on
    ``pack.flat`` goes on sharing that memory; one on the flat of a part becomes an optimizer of its own.

    Arrays that stand under several names (tied weights) stay so in packs made by `like`, in copies, pickles and files.
    A part with an array whose first name is outside of the part has no `flat`, and a copy of such a part has memory of
    its own for that array.

    Parameters
    ----------
    entries : mapping of str to entries
        An entry is a shape (an integer, or a tuple or list of them), whose array begins as zeros; a float32 array, whose
        values are copied in; or a mapping or a list of entries. An empty list holds no arrays, ``()`` is the shape of a
        scalar. Names are not empty, and no two arrays have the same path, as "a.b" and {"a": {"b": ...}} would. An array
        under several paths, as one object or as equal views of its memory, is one array in the buffer too: it lies where
        its first path does, and the others are names of the same view. Arrays that overlap otherwise are refused; so are
        arrays with a mask, and tensors of torch without memory or that override dispatch.
    xp : module
        The array library of the buffer: numpy, or one with its interface such as cupy. torch and jax.numpy are refused.
    pad : bool
        Whether each array begins at a multiple of 64 bytes of the buffer, which in NumPy begins at one itself; a pickle
        of it lies where unpickling puts it. What lies between is zeros, which a step passes over like parameters without
        a gradient. With an eps of 0 they may become NaN, which touches no array.

    Raises
    ------
    TypeError
        When an array is not float32 in the machine's byte order or has a mask, an entry is none of these, or `xp` is no such
        module.
    ValueError
        When an extent is negative, a name is refused, or two arrays overlap.

    Examples
    --------
    >>> pack = Pack({"w": (2, 3), "b": (3,)})
    >>> grads = pack.like()
    >>> opt = lrcore.SGD(pack.flat, lr=1.0, grads=grads.flat)
    >>> grads["b"] -= 1
    >>> opt.step()
    >>> pack.flat
    array([0., 0., 0., 0., 0., 0., 1., 1., 1.], dtype=float32)

    >>> pack = Pack({"embed": 2, "layers": [{"w": (1, 2), "b": 1}, {"w": (1, 2), "b": 1}]})
    >>> pack["layers"][1].assign({"w": [[1, 2]], "b": [3]})
    >>> pack.flat
    array([0., 0., 0., 0., 0., 1., 2., 3.], dtype=float32)
    >>> list(pack.named_arrays())
    ['embed', 'layers.0.w', 'layers.0.b', 'layers.1.w', 'layers.1.b']

    >>> w = numpy.ones((3, 2), numpy.float32)
    >>> pack = Pack({"embed": w, "head": w})
    >>> pack["head"] = 2
    >>> pack.flat
    array([2., 2., 2., 2., 2., 2.], dtype=float32)
    """

    @explain_keywords
    def __init__(self, entries: Mapping[str, Any], xp: ModuleType = np, *, pad: bool = False) -> None:
        if not isinstance(entries, Mapping):
            raise TypeError(f"entries: expected a dictionary, got {type(entries).__name__}")
        xp, pad = library(xp), flag("pad", pad)
        found: dict[str, Any] = {}
        shapes = shapes_of(entries, "", found)
        arrays = {path: entry for path, entry in found.items() if is_array(entry)}
        for path, array in arrays.items():
            require_plain(array, path)
        ties = ties_among(arrays)
        self._adopt(zeros_for(shapes, xp, pad, ties), shapes, xp, pad, ties)
        views = self.named_arrays()
        for path, array in arrays.items():
            if path not in ties:
                views[path][...] = self._checked(path, views[path], array)

    def __contains__(self, key: object) -> bool:
        return key in self._parts

    @classmethod
    @explain_keywords
    def from_file(cls, path: FilePath, xp: ModuleType = np, *, pad: bool = False) -> Self:
        """Make a pack of the arrays in a file that `save` wrote, nested as they were.

        Of a safetensors file by others, whose tensors must be F32, the names are taken as they are, dots and all. Arrays
        that were tied when they were saved are tied again.

        Parameters
        ----------
        path : str, bytes or path
            The file.
        xp, pad
            As in the constructor: neither is in the file.

        Raises
        ------
        OSError
            When the file cannot be read.
        ValueError
            When it is damaged or of a later version, or holds something else.
        """
        path, xp, pad = file_path(path), library(xp), flag("pad", pad)
        entries = _pack_file.read(path)
        with naming_file(path):
            return cls(entries, xp, pad=pad)

    @explain_keywords
    def save(self, path: FilePath) -> None:
        """Write the arrays to a safetensors file, under their names as in `named_arrays`, for `load` and `from_file`.

        It takes the place of one of that name as the file of ``opt.save`` does. Nothing may write the arrays meanwhile. An
        array under several names is stored once, under the first of them.

        Raises
        ------
        OSError, TypeError, ValueError
            When the file cannot be written, or has no place for a name. What was there is unchanged then.
        """
        _pack_file.write(file_path(path), self._shapes, self._on_host().named_arrays(), self._ties)

    @explain_keywords
    def load(self, path: FilePath) -> None:
        """Write the arrays of a file that `save` wrote into these, in place.

        Names, nesting and shapes must be the same; of a safetensors file by others, the names with their dots. Either the
        file or this pack may have tied arrays which the other has apart; for the names of one array here the file must
        have the same values, as for `assign`. A file by others may lack all but one of these names.

        Raises
        ------
        OSError
            When the file cannot be read.
        ValueError
            When it is damaged or of a later version, or does not fit. Nothing is changed then.
        """
        path = file_path(path)
        entries = _pack_file.read(path, self._shapes, self._ties)
        with naming_file(path):
            self.assign(entries)


class PackList(Node, Sequence[Any], over=list):
    """The arrays, packs and lists of a list in a `Pack`, over one part of its buffer. A slice of it is a plain list."""

    def __setitem__(self, index: int, values: Any) -> None:
        super().__setitem__(operator.index(index), values)
