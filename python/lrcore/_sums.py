"""Sums over arrays, with the same bits on every backend."""

from __future__ import annotations

from typing import Any

from lrcore import _lrcore_core as core
from lrcore._names import explain_keywords


@explain_keywords
def norm(x: Any) -> float:
    """Return the Euclidean norm of an array, the root of the sum of its squares.

    The squares are added in float64, in an order that depends only on the size. The result is therefore bitwise
    identical on every backend, device, number of threads and alignment. It cannot overflow, and is finite if and only
    if all elements are. Its relative error is usually about 1e-16, and at most 2**-45 for up to 2**36 elements.

    Parameters
    ----------
    x : array
        A C-contiguous float32 array of NumPy, CuPy, PyTorch, JAX or another library, on the CPU or a CUDA device, of any
        shape.

    Returns
    -------
    float
        The norm; 0.0 for an array without elements. The function waits for a CUDA device.

    Raises
    ------
    TypeError, ValueError
        If `x` is not such an array.
    RuntimeError
        If a CUDA graph is being captured on the current stream.

    Examples
    --------
    >>> x = numpy.full(4, 1e30, numpy.float32)
    >>> lrcore.norm(x)
    2.0000000300949324e+30
    """
    return core.norm(x)


@explain_keywords
def dot(x: Any, y: Any) -> float:
    """Return the sum of the products of the elements of two arrays.

    The products are exact, and are added in float64 as in `norm`. The result is bitwise identical on every backend,
    device, number of threads and alignment, and is finite if and only if all elements are. Because the products may
    cancel, the error is bounded relative to the sum of their absolute values: it is at most 2**-44 of that sum for up
    to 2**36 elements.

    Parameters
    ----------
    x, y : array
        Arrays as in `norm`, of equal size, on the same device. If neither is flat, their shapes are equal.

    Returns
    -------
    float
        The sum; 0.0 for arrays without elements.

    Raises
    ------
    TypeError, ValueError
        If an argument is not such an array, or the sizes or shapes differ.
    RuntimeError
        If the arrays are on different devices, or a CUDA graph is being captured on the current stream.

    Examples
    --------
    >>> lrcore.dot(numpy.ones(3, numpy.float32), numpy.full(3, 0.5, numpy.float32))
    1.5
    """
    return core.dot(x, y)
