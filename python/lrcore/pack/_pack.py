"""Packs and their lists."""

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
    """Named arrays in one flat float32 buffer, optionally in nested dictionaries and lists.

    ``pack["w1"]`` is a view of `flat`: writing to either changes both. ``pack["w1"] -= x`` and
    ``pack["w1"] = values`` write in place; `values` must be a number or have the same shape. If the entry
    "head" is a dictionary, ``pack["head"]`` is a pack over its part of the same buffer. If the entry "layers"
    is a list, ``pack["layers"]`` is a sequence of views and packs; ``pack["layers"] = values`` writes in place
    like `assign`.

    An optimizer takes a pack, or a part such as ``pack["layers"]``, as its parameters and gradients. It steps
    the whole buffer at once, and its states are packs with the same names. Its parameter groups and files refer
    to arrays by their names in `named_arrays`.

    If a pack and an optimizer over it are pickled or deep-copied together, the copies share memory too. The copy
    of an optimizer over a part, however, is independent of the copied pack.

    Arrays with several names (tied weights) stay tied in packs made by `like`, and in copies, pickles and
    files. A part with an array whose first name is outside the part has no `flat`, and a copy of such a part
    has separate memory for that array.

    Parameters
    ----------
    entries : mapping of str to entries
        Each entry is a shape (an integer, or a tuple or list of integers), whose array is initialized to
        zeros; a float32 array, whose values are copied; or a mapping or list of entries. An empty list has
        no arrays, and ``()`` is the shape of a scalar. Names must not be empty, and no two arrays may have
        the same path, as "a.b" and {"a": {"b": ...}} would. If an array occurs at several paths, as the same
        object or as equal views of the same memory, the buffer contains it once, at the position of its first
        path, and the other paths are names of the same view. Arrays that overlap in other ways are rejected, and
        so are masked arrays, and PyTorch tensors that have no memory or override dispatch.
    xp : module
        The array library of the buffer: numpy, or a module with its interface such as cupy. torch and jax.numpy are
        rejected.
    pad : bool
        Whether each array begins at a multiple of 64 bytes from the beginning of the buffer. A NumPy buffer is itself
        aligned to 64 bytes, except after unpickling. The padding between arrays consists of zeros, and a step treats
        it like parameters whose gradient is 0. If the optimizer's `eps` is 0, the padding may become NaN, which
        does not affect the arrays.

    Raises
    ------
    TypeError
        If an array is masked or not float32 in the machine's byte order, an entry has an unsupported type, or `xp` is
        not a suitable module.
    ValueError
        If an extent is negative, a name is invalid, or two arrays overlap.

    Examples
    --------
    >>> pack = Pack({"w": (2, 3), "b": (3,)})
    >>> grads = pack.like()
    >>> opt = lrcore.SGD(pack, lr=1.0, grads=grads)
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
        """Return a pack with the arrays and the nesting of a file that `save` wrote.

        The tensors of a safetensors file from another program must be F32. Their names, including dots, are used
        unchanged. Arrays that were tied when they were saved are tied again.

        Parameters
        ----------
        path : str, bytes or path
            The path of the file.
        xp, pad
            As in the constructor. They are not stored in the file.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is damaged, is from a later version, or does not contain a pack.
        """
        path, xp, pad = file_path(path), library(xp), flag("pad", pad)
        entries = _pack_file.read(path)
        with naming_file(path):
            return cls(entries, xp, pad=pad)

    @explain_keywords
    def save(self, path: FilePath) -> None:
        """Write the arrays to a safetensors file, under their names from `named_arrays`, for `load` and `from_file`.

        An existing file is replaced in the same way as by ``opt.save``. The arrays must not change while they are
        written. An array with several names is stored once, under its first name.

        Raises
        ------
        OSError, TypeError, ValueError
            If the file cannot be written, or the format does not allow a name. An existing file is then unchanged.
        """
        _pack_file.write(file_path(path), self._shapes, self._on_host().named_arrays(), self._ties)

    @explain_keywords
    def load(self, path: FilePath) -> None:
        """Copy the arrays of a file that `save` wrote into the arrays of this pack, in place.

        The file must have the same names, nesting and shapes; a safetensors file from another program must
        have the same dotted names and shapes. Arrays that are tied in either the file or this pack may be
        separate in the other. If they are tied here, the file must have the same values under all their names,
        as in `assign`; a file from another program needs only one of these names.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is damaged, is from a later version, or does not match. The pack is then unchanged.
        """
        path = file_path(path)
        entries = _pack_file.read(path, self._shapes, self._ties)
        with naming_file(path):
            self.assign(entries)


class PackList(Node, Sequence[Any], over=list):
    """A list of arrays, packs and lists in a `Pack`, over one part of its buffer. A slice of it is a plain list."""

    def __setitem__(self, index: int, values: Any) -> None:
        super().__setitem__(operator.index(index), values)
