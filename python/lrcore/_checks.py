"""Checks of arguments, shared by all modules. Most take the argument's name first, for the message.

They raise TypeError for a wrong type and ValueError for a wrong value; `one_of` raises ValueError for both.
"""

from __future__ import annotations

import contextlib
import math
import operator
import os
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeGuard

import numpy as np
from numpy.typing import NDArray

from lrcore._lrcore_core import to_float
from lrcore._names import explain_keywords

Check: TypeAlias = Callable[[str, Any], Any]
"""A function that takes the name of an argument and its value, and returns the value to keep."""

FilePath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]


def safe_repr(value: Any) -> str:
    """Return the repr of a value for a message, or the name of its type if repr fails, as for huge integers."""
    try:
        return repr(value)
    except ValueError:
        return type(value).__name__


# The limits of float32, for comparisons in float64, which do not depend on the caller's rounding or flush-to-zero mode.
OVERFLOW = 2.0**128 - 2.0**103
"""This number and all larger ones round to infinity in float32."""
_SMALLEST = 2.0**-150
"""This number and all smaller ones round to 0 in float32."""


def nonnegative(name: str, value: Any) -> float:
    """Check that a value is a finite number >= 0, and return it as a float."""
    number = to_float(name, value)
    if not 0 <= number < math.inf:
        raise ValueError(f"{name}: expected a finite number >= 0, got {number}")
    return number + 0.0  # turns -0.0 into 0.0, so that equal arguments give equal bits


def nonnegative_float32(name: str, value: Any) -> float:
    """Check that a value is a finite number >= 0 that neither overflows nor underflows to 0 in float32."""
    number = nonnegative(name, value)
    if number >= OVERFLOW or 0 < number <= _SMALLEST:
        raise ValueError(f"{name}: {number} becomes {'inf' if number > 1 else '0.0'} in float32")
    return number


def rate(name: str, value: Any) -> float:
    """Check that a value can be a schedule's rate: a number >= 0 that may underflow in float32, but not overflow."""
    number = nonnegative(name, value)
    return nonnegative_float32(name, number) if number > 1 else number


def or_zero(number: float) -> float:
    """Return the number, or 0 if it rounds to 0 in float32, as the rates of a long decay may."""
    return 0.0 if 0 <= number <= _SMALLEST else number


def positive(name: str, value: Any) -> float:
    """Check that a value is a finite number > 0."""
    number = to_float(name, value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name}: expected a finite number > 0, got {number}")
    return number


def fraction(name: str, value: Any) -> float:
    """Check that a value is a number in [0, 1)."""
    number = to_float(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"{name}: expected a number in [0, 1), got {number}")
    return number + 0.0  # as in `nonnegative`


def integer(name: str, value: Any, least: int = 1, what: str = "an integer") -> int:
    """Check that a value is an integer >= `least`. Messages describe the expected value as `what`.

    A float that is a whole number is accepted, so ``steps=1e4`` means 10,000.
    """
    if isinstance(value, (float, np.floating)):
        if not float(value).is_integer():
            share = "; for a fraction of the training, pass round(fraction * steps)" if 0 < value < 1 else ""
            raise ValueError(f"{name}: expected {what}, got {value}{share}")
        value = int(value)
    number = None
    if not isinstance(value, (bool, np.bool_)):
        with contextlib.suppress(TypeError):
            number = operator.index(value)
    if number is None:
        raise TypeError(f"{name}: expected {what}, got {type(value).__name__}")
    if number < least:
        raise ValueError(f"{name}: expected {what} >= {least}, got {safe_repr(number)}")
    if number >= 2**64:
        raise ValueError(f"{name}: expected {what} < 2**64, got a larger integer")
    return number


def num_steps(name: str, value: Any, least: int = 1) -> int:
    """Check that a value is a number of steps >= `least`."""
    return integer(name, value, least, "a number of steps")


def num_steps_or_zero(name: str, value: Any) -> int:
    """Check that a value is a number of steps, which may be 0."""
    return num_steps(name, value, least=0)


def flag(name: str, value: Any) -> bool:
    """Check that a value is a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {safe_repr(value)}")
    return bool(value)


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Prefix the message of a TypeError or ValueError with `what`.

    The message stays as it is if `what` is empty, or if it already begins with ``opt.groups``.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        if not what or str(error).startswith("opt.groups"):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what}: {error}") from error.__cause__ or error


def one_of(*known: str) -> Check:
    """Return a check that accepts only the given words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(known)}, got {safe_repr(value)}")
        return str(value)

    return check


def optional(check: Check) -> Check:
    """Return a check that also accepts None."""
    return lambda name, value: None if value is None else check(name, value)


def sequence(name: str, value: Any) -> tuple[Any, ...]:
    """Check that a value is an iterable other than text or bytes, and return it as a tuple."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected a sequence, got {type(value).__name__}")
    return tuple(value)


def vector(name: str, value: Any, max_ndim: Literal[1, 2] = 1) -> NDArray[np.float64]:
    """Check that a value is an array of real numbers with 1 to `max_ndim` dimensions; return it in float64."""
    expected = "one dimension" if max_ndim == 1 else "one or two dimensions"
    try:
        array = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: expected {expected}, got rows of different lengths") from None
    if not 1 <= array.ndim <= max_ndim:
        raise ValueError(f"{name}: expected {expected}, got {array.ndim}")
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name}: expected real numbers, got {array.dtype}")
    return array.astype(np.float64)


def is_array(entry: Any) -> bool:
    """Return whether an entry is an array of any library, judging by the attributes that all arrays have.

    NumPy's integers have these attributes as well, but count as integers.
    """
    return hasattr(entry, "dtype") and hasattr(entry, "shape") and not isinstance(entry, (type, np.integer))


def is_list(entry: Any) -> TypeGuard[Sequence[Any]]:
    """Return whether an entry is a sequence other than text or bytes."""
    return isinstance(entry, Sequence) and not isinstance(entry, (str, bytes, bytearray))


def is_integer(entry: Any) -> bool:
    """Return whether an entry is a Python or NumPy integer."""
    return isinstance(entry, (int, np.integer)) and not isinstance(entry, bool)


@explain_keywords
def shape_of(path: str, entry: Any) -> tuple[int, ...]:
    """Return the shape of an entry that is either a float32 array or a shape."""
    if is_array(entry):
        if str(entry.dtype).rpartition(".")[2] != "float32":  # PyTorch's is "torch.float32"
            raise TypeError(f"{path}: expected dtype float32, got {entry.dtype}; make a float32 array first")
        return tuple(int(extent) for extent in entry.shape)
    shape = (entry,) if is_integer(entry) else entry
    if not is_list(shape) or not all(map(is_integer, shape)):
        raise TypeError(f"{path}: expected an array or a shape of integers, got {reprlib.repr(entry)}")
    if any(extent < 0 for extent in shape):
        raise ValueError(f"{path}: expected dimensions >= 0, got {entry}")
    return tuple(int(extent) for extent in shape)


def file_path(value: Any) -> str:
    """Check the path of a file, and return it as a str."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"path: expected str, bytes or os.PathLike, got {type(value).__name__}")
    path = os.fsdecode(value)
    try:
        is_possible = len(os.fsencode(path)) > 0 and "\0" not in path
    except UnicodeEncodeError:
        is_possible = False
    if not is_possible:
        raise ValueError(f"path: expected a valid file name, got {path!r}")
    return path


def require_entries(
    what: str, mapping: Any, required: Mapping[str, Any] | tuple[str, ...], *optional: str
) -> Mapping[str, Any]:
    """Check that a mapping has all required entries, and no others except optional ones."""
    if not isinstance(mapping, Mapping):
        raise TypeError(f"{what}: expected a dictionary, got {type(mapping).__name__}")
    if {*mapping} - {*optional} != {*required}:
        raise ValueError(f"{what}: expected the entries {[*required]}, got {[*mapping]}")
    return mapping
